// config.toml → Config.
//
// main.go calls LoadConfig at start and for `check`; config_watch.go calls
// ParseConfig at every reload. Both answer with a whole valid Config or with
// every mistake in the file at once. The keys of each table, with their
// ranges, stand in the function that reads that table; their defaults in
// defaultConfig and defaultVIP. What is read nowhere is unknown and a mistake.
//
// This file alone imports the TOML library. It reads the one file it is given
// and may do no other I/O: whether a kubeconfig or a device exists is found
// out by who uses it.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// maxConfigSize is the largest file that is read at all: a thousand VIPs take
// a quarter of it.
const maxConfigSize = 1 << 20

// maxTimeout is the longest IPVS timeout that every kernel accepts:
// INT_MAX jiffies at 1000 Hz (ip_vs_set_timeout), rounded down to hours.
const maxTimeout = 596 * time.Hour

// defaultSelector finds the pods of ingress-nginx as its manifests and its
// Helm chart label them, without the default backend. It is in canonical
// order.
const defaultSelector = "app.kubernetes.io/component=controller,app.kubernetes.io/name=ingress-nginx"

// schedulers are the kernel's IPVS schedulers, kernel 6.1.
var schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"}

// knownScheduler reports whether the kernel has a scheduler of that name.
func knownScheduler(name string) bool { return slices.Contains(schedulers, name) }

// parsePodSelector accepts a label selector, and "" for no pods.
func parsePodSelector(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	canonical, err := canonicalSelector(s)
	if err == nil && canonical == "" { // blanks: neither plainly "" nor a selector
		err = errMisfit
	}
	return canonical, err
}

// ConfigError is one mistake in a configuration file.
type ConfigError struct {
	File string
	Line int    // counted from 1
	Key  string // "vip[0].drain.timeout", or "syntax"
	Msg  string // what is wrong, what is allowed; one line
}

// Error returns "FILE:LINE: key: what is wrong, what is allowed".
func (e ConfigError) Error() string {
	return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Key, e.Msg)
}

// ConfigErrors are all mistakes in a configuration file, in line order.
type ConfigErrors []ConfigError

// Error returns one line for each mistake.
func (e ConfigErrors) Error() string {
	lines := make([]string, len(e))
	for i, mistake := range e {
		lines[i] = mistake.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.As each single mistake.
func (e ConfigErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, mistake := range e {
		errs[i] = mistake
	}
	return errs
}

// defaultConfig is a configuration without any VIP, all else at its default.
func defaultConfig() *Config {
	return &Config{
		Listen:        "127.0.0.1:9652",
		AuditInterval: 10 * time.Second,
		ManageSysctls: true,
		StateDir:      "/run/lvs-controller",
		CacheDir:      "/var/lib/lvs-controller",
	}
}

// defaultVIP is a VIP without name, addresses and ports, all else at its
// default. The default selector is left to the caller: a VIP with static real
// servers has none.
func defaultVIP() VIP {
	return VIP{
		Scheduler: "rr",
		Announce:  AnnounceNone,
		Weight:    1,
		Pods:      PodQuery{Namespace: "ingress-nginx"},
		Drain:     Drain{Timeout: 5 * time.Minute},
	}
}

// LoadConfig reads and validates the file at path. Mistakes in the file are a
// ConfigErrors; any other error means that it could not be read.
func LoadConfig(path string) (*Config, error) {
	text, err := readConfigFile(path)
	if err != nil {
		return nil, err
	}
	return ParseConfig(path, text)
}

// readConfigFile returns the content of the file at path, if its size is sane.
func readConfigFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if len(text) > maxConfigSize {
		return nil, fmt.Errorf("read the configuration: %s is larger than %d bytes", path, maxConfigSize)
	}
	return text, nil
}

// ParseConfig validates text, the content of the file at path. Its errors are
// all ConfigErrors.
func ParseConfig(path string, text []byte) (*Config, error) {
	r := configReader{
		file:      path,
		names:     map[string]string{},
		addresses: map[netip.Addr]owner{},
	}
	return r.parse(string(text))
}

// configReader reads one file, collecting mistakes as it goes.
type configReader struct {
	file     string
	lines    keyLines
	mistakes ConfigErrors
	topLevel []string // keys of the top level
	known    []string // paths of all keys that were looked for; tests compare them with the documentation

	// What has to be unique over all VIPs, or compared with all of them.
	names     map[string]string    // VIP name → path of its key
	addresses map[netip.Addr]owner // VIP address → who has it
	servers   []placedAddr         // every static real server
}

// owner is the VIP that has an address.
type owner struct {
	name string // of the VIP
	path string // of the address
}

// placedAddr is an address and the path of the key that holds it.
type placedAddr struct {
	netip.Addr
	path string
}

// parse decodes and validates text.
func (r *configReader) parse(text string) (*Config, error) {
	text = strings.TrimPrefix(text, "\ufeff") // byte order mark: the decoder's offsets are without it
	raw := map[string]any{}
	if _, err := toml.Decode(text, &raw); err != nil {
		return nil, ConfigErrors{r.syntaxError(text, err)}
	}
	r.lines = scanKeyLines(text)
	c := r.config(value{r: r, raw: raw})
	if len(r.mistakes) > 0 {
		slices.SortStableFunc(r.mistakes, func(a, b ConfigError) int { return cmp.Compare(a.Line, b.Line) })
		return nil, r.mistakes
	}
	return c, nil
}

// syntaxError makes one line of the decoder's error about text. The decoder's
// own line is where it gave up, which after an unfinished header is the next
// one: the line on which the offending piece begins is what to look at.
func (r *configReader) syntaxError(text string, err error) ConfigError {
	e := ConfigError{File: r.file, Line: 1, Key: "syntax", Msg: err.Error()}
	if parse, ok := errors.AsType[toml.ParseError](err); ok {
		start := min(max(parse.Position.Start, 0), len(text))
		e.Line, e.Msg = 1+strings.Count(text[:start], "\n"), parse.Message
	}
	e.Msg = strings.TrimRight(strings.Join(strings.Fields(e.Msg), " "), ".") + "; want TOML: one KEY = VALUE a line, strings in quotes, each key once"
	return e
}

// config reads the top level.
func (r *configReader) config(v value) *Config {
	c := defaultConfig()
	c.Path = r.file
	v.table(
		setting{"kubeconfig", into(&c.Kubeconfig, r.relativePath)},
		setting{"cluster_file", into(&c.ClusterFile, r.relativePath)},
		setting{"interface", into(&c.Interface, parsed(`a device name such as "eth0", at most 15 characters without "/", ":" and spaces, or "" for the device of the default route`, parseDevice))},
		setting{"listen", into(&c.Listen, parsed(`"ADDRESS:PORT" such as "127.0.0.1:9652", ":9652" for all addresses, or "" for off`, parseListen))},
		setting{"audit_interval", into(&c.AuditInterval, duration(time.Second, time.Hour))},
		setting{"manage_sysctls", into(&c.ManageSysctls, boolean)},
		setting{"state_dir", into(&c.StateDir, parsed(`an absolute path such as "/run/lvs-controller"`, parseAbsolute))},
		setting{"cache_dir", into(&c.CacheDir, parsed(`an absolute path such as "/var/lib/lvs-controller"`, parseAbsolute))},
		setting{"timeouts", func(v value) { readTimeouts(v, &c.Timeouts) }},
		setting{"vip", func(v value) { c.VIPs = r.vips(v) }},
	)
	if c.Kubeconfig != "" && c.ClusterFile != "" {
		v.child("cluster_file").mistake("excludes kubeconfig (line %d), want one of the two", v.child("kubeconfig").line())
	}
	if v.blank("vip") {
		v.child("vip").mistake("missing, want at least one [[vip]]")
	}
	return c
}

// readTimeouts reads [timeouts].
func readTimeouts(v value, t *Timeouts) {
	v.table(
		setting{"tcp", into(&t.TCP, wholeSeconds(time.Second, maxTimeout))},
		setting{"tcp_fin", into(&t.TCPFin, wholeSeconds(time.Second, maxTimeout))},
		setting{"udp", into(&t.UDP, wholeSeconds(time.Second, maxTimeout))},
	)
}

// vips reads every [[vip]], then compares what only all of them together show.
func (r *configReader) vips(v value) []VIP {
	var vips []VIP
	v.each("[[vip]] in double brackets, one for each VIP", func(v value) { vips = append(vips, r.vip(v)) })
	for _, server := range r.servers {
		if vip, ok := r.addresses[server.Addr]; ok {
			r.mistake(server.path, "%s is an address of VIP %q (line %d), want the real server's own address", server.Addr, vip.name, r.lines.line(vip.path))
		}
	}
	return vips
}

// vip reads one [[vip]].
func (r *configReader) vip(v value) VIP {
	vip := defaultVIP()
	isTable := v.table(
		setting{"name", func(v value) { r.vipName(v, &vip) }},
		setting{"addresses", func(v value) { r.vipAddresses(v, &vip) }},
		setting{"scheduler", into(&vip.Scheduler, oneOf(schedulers...))},
		setting{"ports", func(v value) { readPorts(v, &vip) }},
		setting{"announce", into(&vip.Announce, oneOf(AnnounceNone, AnnounceARP))},
		setting{"weight", into(&vip.Weight, integer(1, math.MaxUint16))},
		setting{"namespace", into(&vip.Pods.Namespace, parsed("a namespace: "+dnsLabelRule, matching(dnsLabels)))},
		setting{"selector", into(&vip.Pods.Selector, parsed(`a label selector such as "app.kubernetes.io/name=ingress-nginx,tier in (edge)"`, parsePodSelector))},
		// These take their default namespace from the one above.
		setting{"tcp_services", into(&vip.TCPServices, configMapName(&vip))},
		setting{"udp_services", into(&vip.UDPServices, configMapName(&vip))},
		// These compare with the addresses and the weight above.
		setting{"real_servers", func(v value) { r.realServers(v, &vip) }},
		setting{"drain", func(v value) { readDrain(v, &vip.Drain) }},
	)
	if !isTable {
		return vip
	}
	if !v.has("name") {
		v.child("name").mistake(`missing, want a name for logs and metrics, such as name = "edge"`)
	}
	if v.blank("addresses") {
		v.child("addresses").mistake(`missing, want a list of at least one address, such as ["10.135.22.77"]`)
	}
	if v.blank("ports") && v.blank("tcp_services") && v.blank("udp_services") {
		v.child("ports").mistake(`missing, want ports such as ["80/tcp", "443/tcp"], tcp_services or udp_services`)
	}
	if v.blank("real_servers") {
		if !v.has("selector") {
			vip.Pods.Selector = defaultSelector
		} else if v.blank("selector") {
			v.child("selector").mistake("empty, want a label selector, or real_servers that need no pods")
		}
	}
	return vip
}

// vipName reads the name of a VIP and checks that no other has it.
func (r *configReader) vipName(v value, vip *VIP) {
	into(&vip.Name, parsed("a name: "+vipNameRule, matching(vipNames)))(v)
	if other, taken := r.names[vip.Name]; taken && vip.Name != "" {
		v.mistake("%q is also the name of the VIP in line %d, want each name once", vip.Name, r.lines.line(other))
		return
	}
	r.names[vip.Name] = v.path
}

// vipAddresses reads the addresses of a VIP and checks that no VIP, this one
// included, has one of them already.
func (r *configReader) vipAddresses(v value, vip *VIP) {
	v.each(`a list of addresses such as ["10.135.22.77", "2001:db8::77"]`, func(v value) {
		var addr netip.Addr
		into(&addr, parsed(unicast, parseUnicast))(v)
		if !addr.IsValid() {
			return
		}
		if other, taken := r.addresses[addr]; taken {
			v.mistake("%s is already an address of VIP %q (line %d), want each address once", addr, other.name, r.lines.line(other.path))
			return
		}
		r.addresses[addr] = owner{vip.Name, v.path}
		vip.Addresses = append(vip.Addresses, addr)
	})
}

// readPorts reads the ports of a VIP and sorts them.
func readPorts(v value, vip *VIP) {
	const rule = `a port from 1 to 65535 such as "80/tcp", "53/udp", "5000/sctp" or 80`
	seen := map[Port]string{}
	v.each(`a list of ports such as ["80/tcp", "53/udp"]`, func(v value) {
		var port Port
		if n, ok := v.raw.(int64); ok { // 80 is short for "80/tcp"
			into(&port, parsed(rule, ParsePort))(value{v.r, v.path, strconv.FormatInt(n, 10)})
		} else {
			into(&port, parsed(rule, ParsePort))(v)
		}
		if port == (Port{}) {
			return
		}
		if other, ok := seen[port]; ok {
			v.mistake("%s is the same port as %s (line %d), want each port once", port, other, v.r.lines.line(other))
			return
		}
		seen[port] = v.path
		vip.Ports = append(vip.Ports, port)
	})
	slices.SortFunc(vip.Ports, Port.Compare)
}

// realServers reads the static real servers of a VIP.
func (r *configReader) realServers(v value, vip *VIP) {
	seen := map[netip.Addr]string{}
	v.each(`a list such as [{ address = "10.135.22.20", weight = 1 }]`, func(v value) {
		server := StaticServer{Weight: vip.Weight}
		isTable := v.table(
			setting{"address", into(&server.Address, parsed(unicast, parseUnicast))},
			setting{"weight", into(&server.Weight, integer(0, math.MaxUint16))},
		)
		address := v.child("address")
		if isTable && !v.has("address") {
			address.mistake("missing, want the real server's address")
		}
		if !server.Address.IsValid() {
			return
		}
		if other, ok := seen[server.Address]; ok {
			address.mistake("%s is the same address as %s (line %d), want each real server once", server.Address, other, r.lines.line(other))
			return
		}
		sameFamily := func(a netip.Addr) bool { return a.Is4() == server.Address.Is4() }
		if len(vip.Addresses) > 0 && !slices.ContainsFunc(vip.Addresses, sameFamily) {
			address.mistake("%s is %s, want the family of one of the VIP's addresses", server.Address, family(server.Address))
			return
		}
		seen[server.Address] = address.path
		r.servers = append(r.servers, placedAddr{server.Address, address.path})
		vip.RealServers = append(vip.RealServers, server)
	})
}

// readDrain reads [vip.drain].
func readDrain(v value, d *Drain) {
	v.table(
		setting{"timeout", into(&d.Timeout, duration(0, 24*time.Hour))},
	)
}

// relativePath reads a path that is relative to the configuration file's own
// directory, as the same file must mean the same thing from every working
// directory.
func (r *configReader) relativePath(v value) (string, error) {
	return parsed(`a path, or ""`, func(s string) (string, error) {
		if s == "" || filepath.IsAbs(s) {
			return s, nil
		}
		return filepath.Join(filepath.Dir(r.file), s), nil
	})(v)
}

// configMapName reads "name" in the VIP's namespace, "ns/name", or "" for
// none.
func configMapName(vip *VIP) func(value) (ConfigMapName, error) {
	return parsed(`a ConfigMap's "NAME" or "NAMESPACE/NAME", or "" for none`, func(s string) (ConfigMapName, error) {
		if s == "" {
			return ConfigMapName{}, nil
		}
		namespace, name, found := strings.Cut(s, "/")
		if !found {
			namespace, name = vip.Pods.Namespace, s
		}
		if !dnsLabels.MatchString(namespace) || !objectNames.MatchString(name) {
			return ConfigMapName{}, errMisfit
		}
		return ConfigMapName{Namespace: namespace, Name: name}, nil
	})
}
