// [vip.health] → Probes, and the table of the probe kinds.
//
// Used by health*.go, desired_quorum.go, reconcile*.go, http*.go and cmd*.go. A key and its
// range are in the function that reads it, the defaults in defaultProbes and readHTTPProbe;
// config_health_udp.go has the tables of dns and udp. No I/O.
//
// To add a probe kind, touch:
//   - here: its field in Probes, its constant, its type and its entry in
//     probeKinds;
//   - health_NAME.go, new: the methods of its type, see probeMethod in
//     health_kinds.go;
//   - config.toml.example, docs/probes.md and docs/metrics.md.
//
// The metrics, the log, the schedule and the recall of results follow from the table.
// TestProbeKinds fails when an entry is incomplete.

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Probes says how the real servers of a VIP are probed. At least one kind is set.
type Probes struct {
	HTTP     []HTTPProbe // all of them must pass; nil = none
	TCP      uint16      // a port on which each real server must accept connections; 0 = none
	Ports    bool        // connect to each TCP port of the VIP; a port that fails is out of service alone
	DataPath bool        // connect to each VIP address through the real server
	DNS      *DNSProbe   // nil = none
	UDP      *UDPProbe   // nil = none
	Quorum   Quorum

	Interval time.Duration // from the start of a probe to the next of the same kind; 100ms–1h
	Timeout  time.Duration // longest wait for an answer; 10ms–Interval
	Rise     uint8         // good answers in a row that bring a real server back; 1–100
	Fall     uint8         // bad ones in a row that take it out; 1–100
	// ConnectsPerSecond is how many connections Ports may begin for the whole VIP;
	// with more targets than that their interval grows. 1–10000.
	ConnectsPerSecond uint32
}

// Quorum is how many real servers of a VIP in service are enough, for each family.
type Quorum struct {
	Least      uint16 // fewer are too few; 0 = any number is enough
	Hysteresis uint16 // how many more than Least it takes until they are enough again
	Sorry      bool   // the sorry server serves meanwhile; else the VIP is withdrawn
}

// HTTPProbe is a GET request to each real server's own address.
type HTTPProbe struct {
	Port   uint16
	Path   string
	Host   string // Host header and, with TLS, the server name; "" = the address
	Status []StatusRange
	TLS    bool // https; the certificate is not verified
	Body   HTTPBody
}

// HTTPBody is what the body of an answer must be, beside its status. The zero value
// reads no body.
type HTTPBody struct {
	SHA256 string         // the 32 bytes of the body's sum; "" = any
	Match  *regexp.Regexp // what is somewhere in the body; nil = anything
}

// wanted reports whether the body has to be read.
func (b *HTTPBody) wanted() bool { return b.SHA256 != "" || b.Match != nil }

// Equal reports whether b and c want the same of a body.
func (b HTTPBody) Equal(c HTTPBody) bool {
	return b.SHA256 == c.SHA256 && (b.Match == nil) == (c.Match == nil) && (b.Match == nil || b.Match.String() == c.Match.String())
}

// probeKind is a way to probe a real server.
type probeKind uint8

const (
	probeHTTP     probeKind = iota // GET from the real server's own address
	probeTCP                       // connect to one port of it
	probePort                      // connect to one of the VIP's ports on it
	probeDataPath                  // connect to the VIP through it
	probeDNS                       // a question to the real server's own address
	probeUDP                       // a datagram to the real server's own address
)

// The types of the probe kinds. Their methods are in health_NAME.go.
type (
	httpKind     struct{}
	tcpKind      struct{}
	portsKind    struct{ tcpKind }
	dataPathKind struct{}
	dnsKind      struct{}
	udpKind      struct{}
)

// probeKinds describes each kind of probe.
var probeKinds = [...]struct {
	key   string                   // in [vip.health]
	usage string                   // how a message names a line with the key: TOML, except for those with a table and tcp
	label string                   // in the metrics and the log
	read  func(v value, p *Probes) // reads the key
	set   func(p *Probes) bool     // reports whether the VIP has this kind of probe
	// perPort: a probe is about one port of a real server, not about all of it.
	perPort bool
	// What the VIP must have for it.
	needsTCP    string // "" or what the probe does with a TCP port
	needsDirect bool   // direct routing

	method any // a probeMethod
}{
	probeHTTP: {
		key: "http", usage: "http", label: "http", method: httpKind{},
		read: func(v value, p *Probes) { p.HTTP = readHTTPProbes(v) },
		set:  func(p *Probes) bool { return len(p.HTTP) > 0 },
	},
	probeTCP: {
		key: "tcp", usage: "tcp", label: "tcp", method: tcpKind{},
		read: func(v value, p *Probes) { integer(&p.TCP, 1, math.MaxUint16)(v) },
		set:  func(p *Probes) bool { return p.TCP != 0 },
	},
	probePort: {
		key: "ports", usage: "ports = true", label: "port", method: portsKind{},
		read:    func(v value, p *Probes) { boolean(&p.Ports)(v) },
		set:     func(p *Probes) bool { return p.Ports },
		perPort: true, needsTCP: "connects to the VIP's TCP ports",
	},
	probeDataPath: {
		key: "datapath", usage: "datapath = true", label: "datapath", method: dataPathKind{},
		read:     func(v value, p *Probes) { boolean(&p.DataPath)(v) },
		set:      func(p *Probes) bool { return p.DataPath },
		needsTCP: "asks at one of the VIP's TCP ports", needsDirect: true,
	},
	probeDNS: {
		key: "dns", usage: "dns", label: "dns", method: dnsKind{},
		read: func(v value, p *Probes) { p.DNS = readDNSProbe(v) },
		set:  func(p *Probes) bool { return p.DNS != nil },
	},
	probeUDP: {
		key: "udp", usage: "udp", label: "udp", method: udpKind{},
		read: func(v value, p *Probes) { p.UDP = readUDPProbe(v) },
		set:  func(p *Probes) bool { return p.UDP != nil },
	},
}

func (k probeKind) String() string { return probeKinds[k].label }

// kinds lists the kinds of probe that p has.
func (p *Probes) kinds() (all []probeKind) {
	for k := range probeKinds {
		if probeKinds[k].set(p) {
			all = append(all, probeKind(k))
		}
	}
	return all
}

// probesWhole reports whether p has a probe of the real server as a whole.
func (p *Probes) probesWhole() bool {
	return slices.ContainsFunc(p.kinds(), func(k probeKind) bool { return !probeKinds[k].perPort })
}

// The bounds of the two durations. More than ten probes a second find nothing
// sooner: most of the time goes into the answer.
const (
	minProbeInterval = 100 * time.Millisecond
	maxProbeInterval = time.Hour
	minProbeTimeout  = 10 * time.Millisecond
	maxProbeTimeout  = time.Minute
)

// defaultProbes is [vip.health] without a probe. The timeout follows from the
// interval.
func defaultProbes() Probes {
	return Probes{Interval: 2 * time.Second, Rise: 2, Fall: 3, ConnectsPerSecond: 500}
}

// defaultProbeTimeout ends a probe before the next one begins, so that a silent
// real server is found within fall intervals.
func defaultProbeTimeout(interval time.Duration) time.Duration {
	return min(interval/2, time.Second)
}

// readProbes reads [vip.health]. Of a VIP with a preset, an empty table means no probes.
func readProbes(v value, preset bool) *Probes {
	if table, isTable := v.raw.(map[string]any); isTable && len(table) == 0 && preset {
		return nil
	}
	p := defaultProbes()
	settings := []setting{
		{"interval", duration(&p.Interval, minProbeInterval, maxProbeInterval)},
		{"timeout", duration(&p.Timeout, minProbeTimeout, maxProbeTimeout)},
		{"rise", integer(&p.Rise, 1, 100)},
		{"fall", integer(&p.Fall, 1, 100)},
		{"connects_per_second", integer(&p.ConnectsPerSecond, 1, 10_000)},
		{"quorum", integer(&p.Quorum.Least, 0, 10_000)},
		{"hysteresis", integer(&p.Quorum.Hysteresis, 0, 10_000)},
		{"below_quorum", meaningOf(&p.Quorum.Sorry, []string{"withdraw", "sorry"}, false, true)},
	}
	for _, k := range probeKinds {
		settings = append(settings, setting{k.key, func(v value) { k.read(v, &p) }})
	}
	v.table(settings...)
	if !v.has("timeout") {
		p.Timeout = defaultProbeTimeout(p.Interval)
	}
	return &p
}

// maxURLs is how many requests each real server is asked.
const maxURLs = 16

// readHTTPProbes reads [vip.health.http], or each of several [[vip.health.http]].
func readHTTPProbes(v value) (all []HTTPProbe) {
	list, several := v.list()
	switch {
	case !several:
		return []HTTPProbe{readHTTPProbe(v)}
	case len(list) == 0 || len(list) > maxURLs:
		v.mistake("has %d elements, want 1 to %d", len(list), maxURLs)
		return nil
	}
	v.each("a table", func(v value) { all = append(all, readHTTPProbe(v)) })
	return all
}

// readHTTPProbe reads one request. The defaults are ingress-nginx's.
func readHTTPProbe(v value) HTTPProbe {
	h := HTTPProbe{Port: 10254, Path: "/healthz", Status: []StatusRange{{200, 399}}}
	v.table(
		setting{"port", integer(&h.Port, 1, math.MaxUint16)},
		setting{"path", parsed(&h.Path, `a path such as "/healthz": printable ASCII without spaces and "#", at most 512 characters`, matching(probePaths))},
		setting{"host", parsed(&h.Host, `a host name such as "shop.example", with or without a port, or "" for the real server's address`, matching(probeHosts))},
		setting{"status", func(v value) { h.Status = readStatus(v) }},
		setting{"tls", boolean(&h.TLS)},
		setting{"body_sha256", parsed(&h.Body.SHA256, "the SHA-256 sum of the body, 64 hexadecimal digits", func(s string) (string, error) {
			sum, err := hex.DecodeString(s)
			if err != nil || len(sum) != sha256.Size {
				return "", errMisfit
			}
			return string(sum), nil
		})},
		setting{"body_match", parsed(&h.Body.Match, "a regular expression of Go (RE2), at most 512 characters", func(s string) (*regexp.Regexp, error) {
			if s == "" || len(s) > maxPattern {
				return nil, errMisfit
			}
			return regexp.Compile(s)
		})},
	)
	return h
}

// maxPattern bounds a regular expression, in bytes: the longer it is, the longer takes a
// body.
const maxPattern = 512

// readStatus reads a list of HTTP status codes and ranges of them.
func readStatus(v value) []StatusRange {
	const rule = `a status code from 100 to 599 such as 200, or a range such as "200-399"`
	var ranges []StatusRange
	v.each(`a list of status codes such as [200, "300-399"]`, func(v value) {
		var s StatusRange
		parsed(&s, rule, parseStatusRange)(v.asText()) // 200 is short for "200-200"
		if s != (StatusRange{}) {
			ranges = append(ranges, s)
		}
	})
	if len(ranges) == 0 && !v.wrong() {
		v.mistake("is empty, want at least one status code")
	}
	sortBy(ranges, StatusRange.Compare)
	return ranges
}

// checkProbes checks [vip.health] of the VIP at v against the rest of it.
func checkProbes(v value, vip *VIP) {
	const wantTCP = `want a port such as "80/tcp", tcp_services or ports_from = "pods"`
	table, p := v.child("health"), vip.Probes
	if p == nil || table.wrong() {
		return
	}
	kinds := p.kinds()
	if len(kinds) == 0 {
		var usages []string
		for _, k := range probeKinds {
			usages = append(usages, k.usage)
		}
		table.mistake("has no probe, want at least one of %s", strings.Join(usages, ", "))
	}
	for _, kind := range kinds {
		k := &probeKinds[kind]
		key := table.child(k.key)
		if k.needsTCP != "" && !vip.mayHaveAny(TCP, v) {
			key.mistake("%s, and there are none; "+wantTCP, k.needsTCP)
		}
		if k.needsDirect && vip.Forward != DirectRoute && !v.child("forward").wrong() {
			key.mistake(`is for forward = "dr" alone, want that or no %s`, k.key)
		}
	}
	checkQuorum(v, vip)
	if p.Timeout > p.Interval {
		table.child("timeout").mistake("is longer than the interval, %s, want at most that", shortDuration(p.Interval))
	}
}

// checkQuorum checks the keys about the quorum of the VIP at v.
func checkQuorum(v value, vip *VIP) {
	table, q := v.child("health"), &vip.Probes.Quorum
	quorum := table.child("quorum")
	if q.Least == 0 && !quorum.wrong() {
		for _, key := range []string{"hysteresis", "below_quorum"} {
			if table.has(key) {
				table.child(key).mistake("is for a quorum above 0 alone, want that or no %s", key)
			}
		}
	}
	if most := len(vip.RealServers); q.Least > 0 && vip.Pods.Selector == "" && int(q.Least)+int(q.Hysteresis) > most && !v.child("real_servers").wrong() {
		quorum.mistake("and hysteresis are %d together, and the VIP has no pods and %d real_servers; want at most that", int(q.Least)+int(q.Hysteresis), most)
	}
	for is4 := range familiesOf(vip) {
		if _, ok := vip.sorry(!is4); q.Least > 0 && q.Sorry && !ok && !v.child("sorry_server").wrong() {
			table.child("below_quorum").mistake(`is "sorry", want a sorry_server of the family of each address`)
			return
		}
	}
}
