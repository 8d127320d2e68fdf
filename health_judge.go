// Which real servers are down, by the verdicts on all targets of a VIP.
//
// Used by health_report.go. It takes the targets of one VIP and family and changes
// none of them. Pure: no I/O, no clock, no log. It never takes all real servers of
// a VIP out of service.

package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// findings is what judge decides about one VIP's family.
type findings struct {
	VIP     string
	Servers []netip.Addr         // probed, in the order of the plan
	Failing map[HealthKey]string // what is down by itself, and why
	Down    map[HealthKey]string // what of that gets out of service
	Open    []FailOpen           // what does not because all fail
	// Deferred is how many do not yet because others are in doubt.
	Deferred int
}

// serverFindings is the results of all probes of one real server.
type serverFindings struct {
	why      string // it is down; "" = it is not
	asked    bool   // there is a probe of the real server as a whole
	well     bool   // and one succeeds
	doubt    bool   // and the last answers to one contradict its verdict
	rising   bool   // the last answers of a port that is down were good
	known    bool   // a probe of it, or of one of its ports, succeeds
	ports    map[uint16]string
	listed   int // ports that are probed
	silent   int // those of them that are down because nothing came back
	doubtful int // those of them that are not and may become so
}

// judge decides which real servers are down in one family of a VIP, by the verdicts
// on its targets. all is in the order of the plan, before is the previous Down.
//
//   - A real server is down when one of the probes about it as a whole says so.
//   - It is also down when no such probe succeeds and each of its ports is
//     silent: a port that refuses shows at least that the host is there.
//   - A port that is down is down on its real server alone.
//   - When all real servers are down at once, none is.
//   - When a port is down on each real server that is left and has it, it is
//     down on none.
//   - What was not down before has to wait until another one is known to be up:
//     one that joins while all fail is no reason to send all clients there.
//   - What was not down before has to wait while most of the others are in doubt,
//     until it is clear whether all fail. When all have failed and some recover,
//     it has to wait while most of the rest are about to.
func judge(vip string, is6 bool, all []*target, before map[HealthKey]string) findings {
	f := findings{VIP: vip, Failing: make(map[HealthKey]string), Down: make(map[HealthKey]string)}
	servers := make(map[netip.Addr]*serverFindings)
	for _, o := range all {
		s := servers[o.server]
		if s == nil {
			s = &serverFindings{ports: make(map[uint16]string)}
			servers[o.server] = s
			f.Servers = append(f.Servers, o.server)
		}
		s.add(o)
	}
	whole := group{FailOpen: FailOpen{VIP: vip, Is6: is6}}
	for _, a := range f.Servers {
		s := servers[a]
		s.conclude()
		whole.add(a, s.why, s.doubt, s.known)
	}
	whole.judge(&f, before)
	ports := make(map[uint16]*group)
	for _, o := range all {
		if o.port == 0 {
			continue
		}
		g := ports[o.port]
		if g == nil {
			g = &group{FailOpen: FailOpen{VIP: vip, Is6: is6, Port: o.port}}
			ports[o.port] = g
		}
		why := ""
		if o.state == down {
			why = portReason(o.port, o.why)
		}
		if _, out := f.Down[HealthKey{vip, o.server, 0}]; out {
			g.whole = append(g.whole, member{server: o.server, why: why})
			continue
		}
		g.add(o.server, why, o.inDoubt(), o.state == up)
	}
	for _, n := range slices.Sorted(maps.Keys(ports)) {
		ports[n].judge(&f, before)
	}
	return f
}

// portReason is the reason of a port with its name.
func portReason(n uint16, why string) string { return fmt.Sprintf("port %d/tcp: %s", n, why) }

// add adds one verdict.
func (s *serverFindings) add(o *target) {
	s.known = s.known || o.state == up
	switch {
	case o.port == 0:
		s.asked = true
		s.doubt = s.doubt || o.inDoubt()
		s.well = s.well || o.state == up
		if o.state == down {
			s.why = cmp.Or(s.why, o.why)
		}
		return
	case o.state == down:
		s.ports[o.port] = o.why
		if o.silent {
			s.silent++
		}
		s.rising = s.rising || o.inDoubt()
	case o.inDoubt():
		s.doubtful++
	}
	s.listed++
}

// conclude decides about the real server as a whole.
func (s *serverFindings) conclude() {
	s.doubt = s.doubt || !s.asked && s.rising
	if s.listed > 0 && !s.asked && s.silent+s.doubtful == s.listed {
		s.doubt = s.doubtful > 0
	}
	if s.why != "" || s.well || s.listed == 0 || s.silent < s.listed {
		return
	}
	first := slices.Min(slices.Collect(maps.Keys(s.ports)))
	s.why = portReason(first, s.ports[first])
	if s.listed > 1 {
		s.why = fmt.Sprintf("none of %d ports answers; %s", s.listed, s.why)
	}
}

// group are the real servers of one VIP and family, or those that have one
// port. They are judged together.
type group struct {
	FailOpen
	down   []member
	whole  []member // have the port, but are down as a whole
	serve  int      // not down: up or unknown
	known  int      // those of them that are up
	doubts int      // those of them that are in doubt
}

type member struct {
	server netip.Addr
	why    string // "" = it is not down
	rising bool   // it is down, but the last answers were good
}

// add adds one real server.
func (g *group) add(a netip.Addr, why string, doubt, known bool) {
	if why != "" {
		g.down = append(g.down, member{a, why, doubt})
		return
	}
	g.serve++
	if known {
		g.known++
	}
	if doubt {
		g.doubts++
	}
}

// judge adds to f what of the group is down.
func (g *group) judge(f *findings, before map[HealthKey]string) {
	open := g.serve == 0 && len(g.down) > 0
	added, rising := 0, 0
	for _, m := range g.down {
		if _, known := before[HealthKey{g.VIP, m.server, g.Port}]; !known {
			added++
			if m.rising {
				rising++
			}
		}
	}
	wait := 2*g.doubts > g.serve || 2*rising > added || g.known == 0
	for _, m := range slices.Concat(g.down, g.whole) {
		if m.why == "" {
			continue
		}
		key := HealthKey{g.VIP, m.server, g.Port}
		f.Failing[key] = m.why
		switch _, known := before[key]; {
		case open:
		case wait && !known:
			f.Deferred++
		default:
			f.Down[key] = m.why
		}
	}
	if open {
		g.Why = fmt.Sprintf("%s: %s", g.down[0].server, g.down[0].why)
		f.Open = append(f.Open, g.FailOpen)
	}
}

// newHealth is the Health of all findings, and of recalled, which an earlier run
// found.
func newHealth(all []findings, recalled map[HealthKey]string) *Health {
	h := &Health{Down: make(map[HealthKey]string)}
	maps.Copy(h.Down, recalled)
	for _, f := range all {
		h.Open = append(h.Open, f.Open...)
		maps.Copy(h.Down, f.Down)
	}
	sortBy(h.Open, FailOpen.compare)
	return h
}
