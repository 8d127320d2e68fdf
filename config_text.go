// Reads texts that are values of config.toml, names values in a message, and finds the
// key that is probably meant by a misspelt one.
//
// Used by health_body.go, desired_servers.go and cmd*.go. It does not know the program's
// keys, nor the file or the line that a text is from. Pure; no I/O.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// describe names a TOML value in a message, on one line.
func describe(raw any) string {
	switch raw := raw.(type) {
	case string:
		if short, cut := strings.CutSuffix(shorten(raw, quotedText), "…"); cut && len(short) < len(raw) {
			return fmt.Sprintf("%q…", short)
		}
		return fmt.Sprintf("%q", raw)
	case int64:
		return fmt.Sprintf("the integer %d", raw)
	case float64:
		return fmt.Sprintf("the number %v", raw)
	case bool:
		return fmt.Sprintf("%t", raw)
	case time.Time:
		return "a date or time"
	case []any:
		return "a list"
	case []map[string]any:
		return "a list of tables"
	case map[string]any:
		return "a table"
	}
	return fmt.Sprintf("a %T", raw)
}

// nearest returns the allowed key that key is probably a misspelling of, or "".
func nearest(key string, allowed []string) string {
	near, least := "", 2+len(key)/4
	for _, other := range allowed {
		if max(len(key)-len(other), len(other)-len(key)) >= least {
			continue // their distance is at least that, and long keys take long to compare
		}
		if d := distance(key, other); d < least {
			near, least = other, d
		}
	}
	return near
}

// distance counts the single letters to add, drop or replace, and the neighbours to swap,
// to make b of a (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			replace := last[j]
			if a[i] != b[j] {
				replace++
			}
			row[j+1] = min(replace, row[j]+1, last[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// Names, and what they may be in words.
const (
	vipNameRule  = `at most 63 lower-case letters, digits and "-", not starting with "-"`
	dnsLabelRule = `at most 63 lower-case letters, digits and "-", neither starting nor ending with "-"`
)

var (
	vipNames    = regexp.MustCompile(`^[a-z0-9][-a-z0-9]{0,62}$`)
	dnsLabels   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)   // RFC 1123 label: namespaces
	objectNames = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`) // RFC 1123 subdomain: ConfigMaps
	classNames  = regexp.MustCompile(`^(` + objectNames.String() + `)?$`)      // "" too
	devices     = regexp.MustCompile(`^[^/:\s\x00]{1,15}$`)                    // dev_valid_name, net/core/dev.c
	cpuLists    = regexp.MustCompile(`^(all|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?$`)

	engines = regexp.MustCompile(`^(sip)?$`)

	// The two parts of an annotation's key, "prefix/name" (IsQualifiedName in
	// k8s.io/apimachinery/pkg/util/validation).
	keyPrefixes = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	keyNames    = regexp.MustCompile(`^[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$`)
)

// errMisfit is the error of a parse function for a value that is not what is
// wanted, when there is nothing more to say about it.
var errMisfit = errors.New("misfit")

// matching makes a parse function of a regular expression.
func matching(re *regexp.Regexp) func(string) (string, error) {
	return func(s string) (string, error) {
		if !re.MatchString(s) {
			return "", errMisfit
		}
		return s, nil
	}
}

// parseNetwork accepts the network of a prefix, without bits of an address in it.
func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, errMisfit
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("its network is %s", p.Masked())
	}
	return p, nil
}

// parseDevice accepts what the kernel accepts as a network device's name, and
// "".
func parseDevice(s string) (string, error) {
	if s == "." || s == ".." || s != "" && !devices.MatchString(s) {
		return "", errMisfit
	}
	return s, nil
}

// parseNamedDevice is parseDevice without "".
func parseNamedDevice(s string) (string, error) {
	if s == "" {
		return "", errMisfit
	}
	return parseDevice(s)
}

// parseListen accepts ADDRESS:PORT with an IP address, localhost or nothing
// before the colon, and "". With a name that needs DNS a director could not start
// while DNS is away.
func parseListen(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", errMisfit
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && host != "localhost" {
		return "", fmt.Errorf("%q is not an IP address", host)
	}
	if _, err := ParsePortNumber(port); err != nil {
		return "", err
	}
	return s, nil
}

// parseAnnotation accepts the key of a Kubernetes annotation, and "".
func parseAnnotation(s string) (string, error) {
	prefix, name, found := strings.Cut(s, "/")
	if !found {
		prefix, name = "x", s
	}
	if s != "" && (len(prefix) > 253 || !keyPrefixes.MatchString(prefix) || !keyNames.MatchString(name)) {
		return "", errMisfit
	}
	return s, nil
}

// parseAbsolute accepts an absolute path and cleans it.
func parseAbsolute(s string) (string, error) {
	if !filepath.IsAbs(s) {
		return "", errMisfit
	}
	return filepath.Clean(s), nil
}

// unicast says what parseUnicast accepts.
const unicast = `a unicast IPv4 or IPv6 address such as "10.135.22.77"`

// parseUnicast accepts an address that packets on a network can go to, and
// unmaps it.
func parseUnicast(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, errMisfit
	}
	addr = addr.Unmap()
	if kind := notUnicast(addr); kind != "" {
		return netip.Addr{}, errors.New(kind)
	}
	return addr, nil
}

// notUnicast says what kind of address addr, an unmapped one, is when packets on a
// network cannot go to it; "" when they can.
func notUnicast(addr netip.Addr) string {
	switch {
	case addr.IsUnspecified():
		return "the unspecified address"
	case addr.IsLoopback():
		return "a loopback address"
	case addr.IsMulticast():
		return "a multicast address"
	case addr.IsLinkLocalUnicast():
		return "a link-local address"
	case addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	}
	return ""
}

// parseMulticast accepts an address of a multicast group, and unmaps it.
func parseMulticast(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" || !addr.Unmap().IsMulticast() {
		return netip.Addr{}, errMisfit
	}
	return addr.Unmap(), nil
}

// StatusRange are the HTTP status codes from First to Last.
type StatusRange struct{ First, Last uint16 }

// Compare orders by first, then last code.
func (r StatusRange) Compare(s StatusRange) int {
	return cmp.Or(cmp.Compare(r.First, s.First), cmp.Compare(r.Last, s.Last))
}

// parseStatusRange reads "200-399" or "200".
func parseStatusRange(s string) (StatusRange, error) {
	first, last, found := strings.Cut(s, "-")
	if !found {
		last = first
	}
	low, err1 := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	switch {
	case err1 != nil || err2 != nil || low < 100 || high > 599:
		return StatusRange{}, errMisfit
	case low > high:
		return StatusRange{}, fmt.Errorf("%d is more than %d", low, high)
	}
	return StatusRange{uint16(low), uint16(high)}, nil
}

// What goes into a request. A line break would end it early, so the rules are
// narrow.
var (
	probePaths = regexp.MustCompile(`^/[!"$-~]{0,511}$`)
	probeHosts = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9.]{0,252})?(:[0-9]{1,5})?)?$`)
)
