package main

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The results of one target, a letter each, and what they amount to after
// each: u unknown, U up, D down, and * where that is news.
func TestVerdict(t *testing.T) {
	outcomes := map[rune]outcome{
		'+': {result: passed},
		'-': {result: failed, why: "refused"},
		's': {result: failed, why: "no answer", silent: true},
		'5': {result: failed, why: "500"},
		'0': {result: noResult, why: "no route"},
	}
	for _, test := range []struct {
		name, results string
		rise, fall    uint8
		want          string
		why           string // at the end
	}{
		{"the first good answer", "+++", 2, 3, "U* U U", ""},
		{"a bad start", "---", 2, 3, "u u D*", "refused"},
		{"the reason is the last one", "s-5", 2, 3, "u u D*", "500"},
		{"up, then down", "+---", 2, 3, "U* U U D*", "refused"},
		{"two bad ones are forgotten", "+--+--+", 2, 3, "U* U U U U U U", ""},
		{"at the first", "+-+", 1, 1, "U* D* U*", ""},
		{"down, then up", "---++", 2, 3, "u u D* D U*", ""},
		{"rise is in a row", "---+-++", 2, 3, "u u D* D D D U*", ""},
		{"another reason, once it lasts", "---5-555", 2, 3, "u u D* D D D D D*", "500"},
		{"reasons that alternate are no news", "---5s5s5s", 2, 3, "u u D* D D D D D D", "refused"},
		{"a good answer between the new reasons", "---55+5-", 2, 3, "u u D* D D D D D", "refused"},
		{"the director cannot probe", "000000", 2, 3, "u u u u u u", ""},
		{"what is known lasts for a while", "+00+00-00", 2, 3, "U* U U U U U U U U", ""},
		{"and is not known any more", "+000", 2, 3, "U* U U u*", ""},
		{"nor that it is down", "---000---", 2, 3, "u u D* D D u* u u D*", "refused"},
		{"no result neither helps nor harms", "+-0-0-", 2, 3, "U* U U U U D*", "refused"},
	} {
		var v verdict
		var got []string
		for _, r := range test.results {
			news := v.observe(outcomes[r], test.rise, test.fall)
			word := string("uUD"[v.state])
			if news {
				word += "*"
			}
			got = append(got, word)
		}
		if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", test.name, test.results, diff)
		}
		if v.why != test.why {
			t.Errorf("%s: why = %q, want %q", test.name, v.why, test.why)
		}
	}
}

// see makes the verdict on a target: "" is up, "?" unknown, "~" up but in doubt,
// "!…" down and silent, "^…" down and about to recover, anything else down for
// that reason.
func see(server string, port uint16, what string) *target {
	o := &target{targetKey: targetKey{server: netip.MustParseAddr(server), port: port}}
	switch {
	case what == "":
		o.state = up
	case what == "?":
	case what == "~":
		o.verdict = verdict{state: up, streak: 1}
	case what[0] == '^':
		o.verdict = verdict{state: down, why: what[1:], streak: 1}
	case what[0] == '!':
		o.verdict = verdict{state: down, why: what[1:], silent: true}
	default:
		o.verdict = verdict{state: down, why: what}
	}
	return o
}

func TestJudge(t *testing.T) {
	const a, b, c = "10.0.0.1", "10.0.0.2", "10.0.0.3"
	for _, test := range []struct {
		name string
		all  []*target
		down string // "ADDRESS[:PORT] why", one a line, sorted
		open string // "PORT why", one a line
	}{
		{"no real server", nil, "", ""},
		{"no answer yet", []*target{see(a, 0, "?"), see(b, 0, "?"), see(a, 80, "?")}, "", ""},
		{"one of two", []*target{see(a, 0, "500"), see(b, 0, "")}, "10.0.0.1 500", ""},
		{"the other is unknown", []*target{see(a, 0, "500"), see(b, 0, "?")}, "", ""},
		{"all at once", []*target{see(a, 0, "500"), see(b, 0, "!silence")}, "", "0 10.0.0.1: 500"},
		{"the only one", []*target{see(a, 0, "500")}, "", "0 10.0.0.1: 500"},
		{"the first reason counts", []*target{see(a, 0, ""), see(a, 0, "no VIP"), see(a, 0, "other"), see(b, 0, "")}, "10.0.0.1 no VIP", ""},
		{"one kind each", []*target{see(a, 0, "500"), see(a, 0, ""), see(b, 0, ""), see(b, 0, "no VIP")}, "", "0 10.0.0.1: 500"},

		{"a port of one", []*target{see(a, 80, ""), see(a, 443, "refused"), see(b, 80, ""), see(b, 443, "")}, "10.0.0.1:443 port 443/tcp: refused", ""},
		{"a port of all", []*target{see(a, 80, ""), see(a, 9, "refused"), see(b, 80, ""), see(b, 9, "refused")}, "", "9 10.0.0.1: port 9/tcp: refused"},
		{"a port of all but one unknown", []*target{see(a, 80, ""), see(a, 9, "refused"), see(b, 80, ""), see(b, 9, "?")}, "", ""},
		{"a port that only one has", []*target{see(a, 80, ""), see(a, 9, "refused"), see(b, 80, "")}, "", "9 10.0.0.1: port 9/tcp: refused"},
		{"the only other with the port is down", []*target{see(a, 0, "500"), see(a, 9, ""), see(b, 0, ""), see(b, 9, "refused"), see(b, 80, "")},
			"10.0.0.1 500", "9 10.0.0.2: port 9/tcp: refused"},
		{"a port of one of three, another being down", []*target{see(a, 0, "!gone"), see(a, 9, "!gone"), see(b, 0, ""), see(b, 9, "refused"), see(c, 0, ""), see(c, 9, "")},
			"10.0.0.1 gone\n10.0.0.1:9 port 9/tcp: gone\n10.0.0.2:9 port 9/tcp: refused", ""},
		{"all at once, with a port of one", []*target{see(a, 0, "500"), see(a, 9, "refused"), see(b, 0, "500"), see(b, 9, "")},
			"10.0.0.1:9 port 9/tcp: refused", "0 10.0.0.1: 500"},

		{"no port answers", []*target{see(a, 80, "!silence"), see(a, 443, "!silence"), see(b, 80, ""), see(b, 443, "")},
			"10.0.0.1 none of 2 ports answers; port 80/tcp: silence\n10.0.0.1:443 port 443/tcp: silence\n10.0.0.1:80 port 80/tcp: silence", ""},
		{"the only port does not answer", []*target{see(a, 80, "!silence"), see(b, 80, "")},
			"10.0.0.1 port 80/tcp: silence\n10.0.0.1:80 port 80/tcp: silence", ""},
		{"one port refuses", []*target{see(a, 80, "!silence"), see(a, 443, "refused"), see(b, 80, ""), see(b, 443, "")},
			"10.0.0.1:443 port 443/tcp: refused\n10.0.0.1:80 port 80/tcp: silence", ""},
		{"no port answers, another probe passes", []*target{see(a, 0, ""), see(a, 80, "!silence"), see(b, 0, ""), see(b, 80, "")},
			"10.0.0.1:80 port 80/tcp: silence", ""},
		{"no port answers, on all", []*target{see(a, 80, "!silence"), see(b, 80, "!silence")}, "", "0 10.0.0.1: port 80/tcp: silence\n80 10.0.0.1: port 80/tcp: silence"},
	} {
		h := newHealth([]findings{judge("edge", false, test.all, nil)}, nil)
		var got, open []string
		for k, why := range h.Down {
			where := k.Address.String()
			if k.Port != 0 {
				where = netip.AddrPortFrom(k.Address, k.Port).String()
			}
			got = append(got, where+" "+why)
			if k.VIP != "edge" {
				t.Errorf("%s: VIP %q", test.name, k.VIP)
			}
		}
		for _, o := range h.Open {
			number, _, _ := strings.Cut(Port{o.Port, TCP}.String(), "/")
			open = append(open, number+" "+o.Why)
			if o.VIP != "edge" || o.Is6 {
				t.Errorf("%s: %+v", test.name, o)
			}
		}
		lines := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' }) }
		sorted := cmpopts.SortSlices(func(a, b string) bool { return a < b })
		if diff := cmp.Diff(lines(test.down), got, sorted, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: down (-want +got):\n%s", test.name, diff)
		}
		if diff := cmp.Diff(lines(test.open), open, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: open (-want +got):\n%s", test.name, diff)
		}
	}
}

// What is not down yet waits until it is clear whether the others fail too.
func TestJudgeDefers(t *testing.T) {
	const a, b, c = "10.0.0.1", "10.0.0.2", "10.0.0.3"
	at := func(server string, port uint16) HealthKey {
		return HealthKey{"edge", netip.MustParseAddr(server), port}
	}
	for _, test := range []struct {
		name     string
		all      []*target
		before   []HealthKey
		down     []HealthKey
		deferred int
	}{
		{"the other is well", []*target{see(a, 0, "500"), see(b, 0, "")}, nil, []HealthKey{at(a, 0)}, 0},
		{"the other is in doubt", []*target{see(a, 0, "500"), see(b, 0, "~")}, nil, nil, 1},
		{"the other is in doubt about the VIP", []*target{see(a, 0, "500"), see(b, 0, ""), see(b, 0, "~")}, nil, nil, 1},
		{"it was down before", []*target{see(a, 0, "500"), see(b, 0, "~")}, []HealthKey{at(a, 0)}, []HealthKey{at(a, 0)}, 0},
		{"one of two others", []*target{see(a, 0, "500"), see(b, 0, "~"), see(c, 0, "")}, nil, []HealthKey{at(a, 0)}, 0},
		{"two of two others", []*target{see(a, 0, "500"), see(b, 0, "~"), see(c, 0, "~")}, nil, nil, 1},
		{"one was down before, the last is in doubt", []*target{see(a, 0, "500"), see(b, 0, "500"), see(c, 0, "~")}, []HealthKey{at(b, 0)}, []HealthKey{at(b, 0)}, 1},
		{"all", []*target{see(a, 0, "500"), see(b, 0, "500")}, []HealthKey{at(a, 0)}, nil, 0},
		{"one joins while all fail", []*target{see(a, 0, "500"), see(b, 0, "500"), see(c, 0, "?")}, nil, nil, 2},
		{"one joins beside one that is well", []*target{see(a, 0, "500"), see(b, 0, ""), see(c, 0, "?")}, nil, []HealthKey{at(a, 0)}, 0},
		{"the last known one becomes unknown", []*target{see(a, 0, "500"), see(b, 0, "?")}, []HealthKey{at(a, 0)}, []HealthKey{at(a, 0)}, 0},
		{"a port, one joins while all fail", []*target{see(a, 9, "refused"), see(b, 9, "refused"), see(c, 9, "?"), see(a, 80, ""), see(b, 80, ""), see(c, 80, "")}, nil, nil, 2},
		{"the first is back, the others are about to be", []*target{see(a, 0, ""), see(b, 0, "^500"), see(c, 0, "^500")}, nil, nil, 2},
		{"the first is back, another is about to be", []*target{see(a, 0, ""), see(b, 0, "500"), see(c, 0, "^500")}, nil, []HealthKey{at(b, 0), at(c, 0)}, 0},
		{"the first is back, the others were down before", []*target{see(a, 0, ""), see(b, 0, "^500"), see(c, 0, "^500")}, []HealthKey{at(b, 0), at(c, 0)}, []HealthKey{at(b, 0), at(c, 0)}, 0},
		{"a port, the other is in doubt", []*target{see(a, 9, "refused"), see(b, 9, "~"), see(a, 80, ""), see(b, 80, "")}, nil, nil, 1},
		{"a port, the other is in doubt about another", []*target{see(a, 9, "refused"), see(b, 9, ""), see(a, 80, ""), see(b, 80, "~")}, nil, []HealthKey{at(a, 9)}, 0},
		{"all silent, the other partly", []*target{see(a, 9, "!"), see(a, 80, "!"), see(b, 9, "!"), see(b, 80, "~")}, nil, nil, 2},
	} {
		before := make(map[HealthKey]string)
		for _, k := range test.before {
			before[k] = "500"
		}
		f := judge("edge", false, test.all, before)
		got := slices.SortedFunc(maps.Keys(f.Down), HealthKey.Compare)
		slices.SortFunc(test.down, HealthKey.Compare)
		if diff := cmp.Diff(test.down, got, compareAddrs, cmpopts.EquateEmpty()); diff != "" || f.Deferred != test.deferred {
			t.Errorf("%s: %d deferred, want %d; down (-want +got):\n%s", test.name, f.Deferred, test.deferred, diff)
		}
	}
}

func TestHealthIsAsked(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	h := newHealth([]findings{
		judge("edge", false, []*target{see("10.0.0.1", 0, "500"), see("10.0.0.2", 0, ""), see("10.0.0.2", 9, "refused"), see("10.0.0.1", 9, "")}, nil),
		judge("edge", true, []*target{see("2001:db8::1", 0, "500")}, nil),
	}, nil)
	if why, down := h.Server("edge", a); !down || why != "500" {
		t.Errorf("Server = %q, %t", why, down)
	}
	for _, test := range []struct {
		vip  string
		a    netip.Addr
		port uint16
	}{{"edge", a, 80}, {"db", a, 0}, {"edge", b, 0}} {
		if why, down := h.Port(test.vip, test.a, test.port); down || why != "" {
			t.Errorf("%+v is down: %q", test, why)
		}
	}
	if h.FailsOpen("edge", false) || !h.FailsOpen("edge", true) || h.FailsOpen("db", true) {
		t.Errorf("open: %+v", h.Open)
	}
	var none *Health
	if _, down := none.Server("edge", a); down || none.FailsOpen("edge", false) {
		t.Error("a nil Health knows something")
	}
	if !(&Health{}).equal(newHealth(nil, nil)) || h.equal(&Health{}) || !h.equal(h) {
		t.Error("equal is wrong")
	}
}

func TestNewProbedVIP(t *testing.T) {
	addr := netip.MustParseAddr
	v := parseVIP(t, "tcp_services = 't'\n[vip.health]\nports = true\ndatapath = true")
	servers := []netip.Addr{addr("10.0.0.5"), addr("10.0.0.6")}
	ports := []Port{{53, UDP}, {70, TCP}, {80, TCP}, {9000, TCP}}
	has := func(p Port, a netip.Addr) bool { return p.Number != 9000 || a == servers[1] }
	all := []uint16{70, 80, 9000}
	for _, test := range []struct {
		name  string
		ports []Port
		has   func(Port, netip.Addr) bool
		want  ProbedVIP
	}{
		{"the same ports on all", ports, nil, ProbedVIP{DataPort: 80, Servers: []ProbedServer{{servers[0], all}, {servers[1], all}}}},
		{"a port on some", ports, has, ProbedVIP{DataPort: 80, Servers: []ProbedServer{{servers[0], all[:2]}, {servers[1], all}}}},
		{"none of the configuration", ports[:2], nil, ProbedVIP{DataPort: 70, Servers: []ProbedServer{{servers[0], all[:1]}, {servers[1], all[:1]}}}},
		{"no TCP", ports[:1], nil, ProbedVIP{Servers: []ProbedServer{{Address: servers[0]}, {Address: servers[1]}}}},
	} {
		test.want.Name, test.want.Probes, test.want.Addresses = "a", v.Probes, v.Addresses
		if diff := cmp.Diff(test.want, newProbedVIP(v, test.ports, servers, test.has), compareAddrs, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestProbePlanEqual(t *testing.T) {
	v := parseVIP(t, "[vip.health]\nports = true")
	plan := func(change func(*ProbedVIP)) *ProbePlan {
		p := newProbedVIP(v, []Port{{80, TCP}}, []netip.Addr{netip.MustParseAddr("10.0.0.5")}, nil)
		change(&p)
		return &ProbePlan{VIPs: []ProbedVIP{p}}
	}
	base := plan(func(*ProbedVIP) {})
	if !base.Equal(plan(func(*ProbedVIP) {})) || !(*ProbePlan)(nil).Equal(nil) || base.Equal(nil) {
		t.Error("equal plans are not")
	}
	for name, change := range map[string]func(*ProbedVIP){
		"name":      func(p *ProbedVIP) { p.Name = "b" },
		"probes":    func(p *ProbedVIP) { p.Probes = new(Probes) },
		"addresses": func(p *ProbedVIP) { p.Addresses = nil },
		"data port": func(p *ProbedVIP) { p.DataPort = 1 },
		"server":    func(p *ProbedVIP) { p.Servers[0].Address = netip.MustParseAddr("10.0.0.6") },
		"port":      func(p *ProbedVIP) { p.Servers[0].Ports = []uint16{81} },
		"servers":   func(p *ProbedVIP) { p.Servers = nil },
	} {
		if base.Equal(plan(change)) {
			t.Errorf("another %s is no change", name)
		}
	}
}

// The judgement on a VIP with many ports, of which one real server has lost all.
func BenchmarkJudge(b *testing.B) {
	var all []*target
	a := netip.MustParseAddr("10.0.0.1")
	for n := range 200 {
		what := ""
		if n == 0 {
			what = "!silence"
		}
		for port := range uint16(100) {
			all = append(all, see(a.String(), 1+port, what))
		}
		a = a.Next()
	}
	b.ReportAllocs()
	for b.Loop() {
		newHealth([]findings{judge("edge", false, all, nil)}, nil)
	}
}

// resolveRig is a resolver with a clock and a neighbour table.
type resolveRig struct {
	*resolver
	sets    []resolveSet
	entries map[netip.Addr]neighbourEntry
	now     time.Time
	router  map[netip.Addr]bool // behind one
	asked   []netip.Addr
}

func newResolveRig(sets ...[]string) *resolveRig {
	r := &resolveRig{resolver: newResolver(nil, testTime), entries: make(map[netip.Addr]neighbourEntry), now: testTime, router: make(map[netip.Addr]bool)}
	for i, servers := range sets {
		s := resolveSet{VIP: string(rune('a' + i))}
		for _, a := range servers {
			s.Rows = append(s.Rows, Row{RealServer: RealServer{Address: addr(a), Weight: 1, Forward: DirectRoute}})
			r.put(unix.NUD_REACHABLE, a)
		}
		r.sets = append(r.sets, s)
	}
	return r
}

// put gives neighbours a state.
func (r *resolveRig) put(state uint16, addresses ...string) {
	for _, a := range addresses {
		e := neighbourEntry{device: 2, state: state, confirmed: r.entries[addr(a)].confirmed}
		if e.reachable() {
			e.confirmed = r.now
		}
		r.entries[addr(a)] = e
		if state == unix.NUD_NONE {
			delete(r.entries, addr(a))
		}
	}
}

// after lets time pass, in which witnesses answer if they can, and says what is down.
func (r *resolveRig) after(d time.Duration) string {
	for end := r.now.Add(d); ; r.now = r.now.Add(500 * time.Millisecond) {
		for _, a := range r.asked {
			if e := r.entries[a]; e.valid() {
				r.put(unix.NUD_REACHABLE, a.String())
			}
		}
		r.asked = r.judge(r.sets, r.entries, func(a netip.Addr, _ uint32) bool { return !r.router[a] }, r.now)
		if !r.now.Before(end) {
			return strings.ReplaceAll(strings.TrimPrefix(fmt.Sprint(r.resolver.down), "map"), "10.0.0.", "")
		}
	}
}

// A neighbour that the kernel reports as failed, and asks again before its table is read,
// has failed.
func TestFailedNeighbourEvents(t *testing.T) {
	event := func(state uint16, a string) []byte {
		b := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, 0, 0, 0}, 7)
		b = append(binary.NativeEndian.AppendUint16(b, state), 0, 0)
		attributes := netlink.NewAttributeEncoder()
		attributes.Bytes(unix.NDA_LLADDR, []byte{2, 0, 0, 0, 0, 1})
		attributes.Bytes(unix.NDA_DST, addr(a).AsSlice())
		more, err := attributes.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return append(b, more...)
	}
	r := newResolveRig([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::1"})
	sets := newLatest[[]resolveSet]()
	w := newResolveWatch(slog.New(slog.DiscardHandler), sets, newLatest[Health](), nil)
	if w.matters(netlink.Message{Data: event(unix.NUD_FAILED, "10.0.0.1")}) {
		t.Error("a neighbour matters before there are real servers")
	}
	sets.Set(&r.sets)
	for _, e := range []struct {
		state   uint16
		address string
		matters bool
	}{
		{unix.NUD_FAILED, "10.0.0.1", true}, {unix.NUD_FAILED, "10.0.0.2", true}, {unix.NUD_FAILED, "10.0.0.3", true},
		{unix.NUD_REACHABLE, "10.0.0.4", false}, {unix.NUD_FAILED, "fd00::1", true}, {unix.NUD_FAILED, "10.0.0.9", false},
	} {
		if got := w.matters(netlink.Message{Data: event(e.state, e.address)}); got != e.matters {
			t.Errorf("%+v matters: %t", e, got)
		}
	}
	whole := event(unix.NUD_FAILED, "10.0.0.9")
	for n := range whole {
		w.matters(netlink.Message{Data: whole[:n]})
	}
	r.put(unix.NUD_INCOMPLETE, "10.0.0.1", "fd00::1")
	r.put(unix.NUD_NONE, "10.0.0.3")
	w.events.mark(r.entries)
	if got := r.after(4 * time.Second); got != "[a:[1 fd00::1]]" {
		t.Errorf("down: %s", got)
	}
	if w.events.all != nil {
		t.Errorf("kept: %v", w.events.all)
	}
}

func TestResolver(t *testing.T) {
	four := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}
	for name, steps := range map[string]func(r *resolveRig, down func(after time.Duration, want string)){
		"fails, and comes back": func(r *resolveRig, down func(time.Duration, string)) {
			down(time.Minute, "[]")
			r.put(unix.NUD_FAILED, "10.0.0.2")
			down(2500*time.Millisecond, "[]")
			r.put(unix.NUD_INCOMPLETE, "10.0.0.2") // the kernel asks again for the next packet
			down(time.Second, "[a:[2]]")
			if !slices.Contains(r.asked, addr("10.0.0.2")) {
				t.Error("what is out is not asked")
			}
			r.put(unix.NUD_NONE, "10.0.0.2") // the kernel forgets it
			down(time.Hour, "[a:[2]]")
			r.put(unix.NUD_REACHABLE, "10.0.0.2")
			down(1500*time.Millisecond, "[a:[2]]")
			r.put(unix.NUD_FAILED, "10.0.0.2")
			down(500*time.Millisecond, "[a:[2]]")
			r.put(unix.NUD_REACHABLE, "10.0.0.2")
			down(time.Second, "[a:[2]]")
			r.put(unix.NUD_STALE, "10.0.0.2") // no packet goes to it
			down(500*time.Millisecond, "[a:[2]]")
			down(500*time.Millisecond, "[]")
		},
		"sends without an answer": func(r *resolveRig, down func(time.Duration, string)) {
			r.put(unix.NUD_FAILED, "10.0.0.2")
			down(4*time.Second, "[a:[2]]")
			r.put(unix.NUD_STALE, "10.0.0.2")
			r.asked = nil // the question is lost
			down(0, "[a:[2]]")
			down(1500*time.Millisecond, "[a:[2]]")
			down(500*time.Millisecond, "[]")
		},
		"fails for a moment": func(r *resolveRig, down func(time.Duration, string)) {
			for _, state := range []uint16{unix.NUD_REACHABLE, unix.NUD_STALE, unix.NUD_NONE} {
				r.put(unix.NUD_FAILED, "10.0.0.2")
				down(2*time.Second, "[]")
				r.put(state, "10.0.0.2")
				r.asked = nil
				down(0, "[]")
			}
			r.put(unix.NUD_FAILED, "10.0.0.2")
			down(2*time.Second, "[]")
		},
		"no entry, an old one, one without packets": func(r *resolveRig, down func(time.Duration, string)) {
			r.put(unix.NUD_NONE, "10.0.0.1")
			r.put(unix.NUD_STALE, "10.0.0.2")
			r.put(unix.NUD_INCOMPLETE, "10.0.0.3")
			down(time.Hour, "[]")
			if r.asked != nil {
				t.Errorf("healthy neighbours are asked: %v", r.asked)
			}
		},
		"at most half, those that failed first": func(r *resolveRig, down func(time.Duration, string)) {
			r.put(unix.NUD_FAILED, "10.0.0.4")
			down(time.Second, "[]")
			r.put(unix.NUD_FAILED, "10.0.0.2", "10.0.0.3")
			down(time.Minute, "[a:[2 4]]")
			r.put(unix.NUD_REACHABLE, "10.0.0.4")
			down(2*time.Second, "[a:[2 3]]")
		},
		"all at once": func(r *resolveRig, down func(time.Duration, string)) {
			r.put(unix.NUD_FAILED, four...)
			down(time.Minute, "[]")
		},
		"all, one after the other": func(r *resolveRig, down func(time.Duration, string)) {
			r.put(unix.NUD_FAILED, "10.0.0.1")
			down(4*time.Second, "[a:[1]]")
			r.put(unix.NUD_FAILED, four...)
			down(0, "[]")
		},
		"none of the others has answered since": func(r *resolveRig, down func(time.Duration, string)) {
			down(time.Second, "[]")
			r.put(unix.NUD_FAILED, "10.0.0.1")
			r.put(unix.NUD_PROBE, four[1:]...)
			if r.after(0); len(r.asked) != 4 {
				t.Errorf("asked: %v, want all", r.asked)
			}
			r.asked = nil // and they do not answer
			r.now = r.now.Add(4 * time.Second)
			down(0, "[]")
			r.put(unix.NUD_REACHABLE, "10.0.0.3")
			down(0, "[a:[1]]")
		},
		"behind a router": func(r *resolveRig, down func(time.Duration, string)) {
			r.router[addr("10.0.0.1")] = true
			r.put(unix.NUD_FAILED, "10.0.0.1")
			down(time.Minute, "[]")
		},
		"the VIP has left": func(r *resolveRig, down func(time.Duration, string)) {
			r.put(unix.NUD_FAILED, "10.0.0.1")
			down(4*time.Second, "[a:[1]]")
			r.sets = nil
			down(0, "[]")
			if len(r.failing) > 0 {
				t.Errorf("still followed: %v", r.failing)
			}
		},
		"an earlier run took it out": func(r *resolveRig, down func(time.Duration, string)) {
			r.resolver = newResolver(map[string][]netip.Addr{"a": {addr("10.0.0.1")}, "gone": {addr("10.0.0.9")}}, r.now)
			r.put(unix.NUD_NONE, "10.0.0.1")
			down(time.Minute, "[a:[1]]")
			r.put(unix.NUD_REACHABLE, "10.0.0.1")
			down(2*time.Second, "[]")
		},
		"weight 0, or a tunnel": func(r *resolveRig, down func(time.Duration, string)) {
			r.sets[0].Rows[1].Weight = 0
			r.sets[0].Rows[2].Forward = Tunnel
			r.put(unix.NUD_FAILED, "10.0.0.2", "10.0.0.3")
			down(time.Minute, "[]")
			r.put(unix.NUD_FAILED, "10.0.0.4")
			down(time.Minute, "[a:[4]]") // half of the two that count
		},
		"VIPs decide alone": func(r *resolveRig, down func(time.Duration, string)) {
			r.sets = append(r.sets, resolveSet{VIP: "b", Rows: r.sets[0].Rows[:2]}, resolveSet{VIP: "c", Rows: r.sets[0].Rows[:1]})
			r.put(unix.NUD_FAILED, "10.0.0.1")
			down(4*time.Second, "[a:[1] b:[1]]")
			r.put(unix.NUD_FAILED, "10.0.0.2")
			down(4*time.Second, "[a:[1 2]]")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newResolveRig(four)
			steps(r, func(after time.Duration, want string) {
				t.Helper()
				if got := r.after(after); got != want {
					t.Errorf("at %s: down %s, want %s", r.now.Sub(testTime), got, want)
				}
			})
		})
	}
}

// Server reports whether real server a of a VIP is down altogether, and why.
func (h *Health) Server(vip string, a netip.Addr) (why string, down bool) {
	return h.Port(vip, a, 0)
}

// Port reports whether TCP port n of real server a is down by itself, and why.
func (h *Health) Port(vip string, a netip.Addr, n uint16) (why string, down bool) {
	if h == nil {
		return "", false
	}
	why, down = h.Down[HealthKey{vip, a, n}]
	return why, down
}

// FailsOpen reports whether all real servers of a VIP's family fail at once,
// and are in service all the same.
func (h *Health) FailsOpen(vip string, is6 bool) bool {
	return h != nil && slices.ContainsFunc(h.Open, FailOpen{VIP: vip, Is6: is6}.same)
}
