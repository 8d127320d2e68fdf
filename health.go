// What probes say about real servers, and what follows from it.
//
// The prober (health_probe.go) judges with these rules and publishes a Health;
// desired reads it, reconcile.go tells the prober by a ProbePlan whom to ask.
// Pure: values and rules, no I/O, no clock, no logging. Nothing here may take a
// real server out of service that has not been heard of, nor all of a VIP's.

package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// ProbePlan says whom to ask, and what. It must not be changed once it has
// been handed over.
type ProbePlan struct{ VIPs []ProbedVIP }

// ProbedVIP are the real servers of one VIP that are asked.
type ProbedVIP struct {
	Name      string
	Probes    *Probes
	Addresses []netip.Addr // of the VIP, for DataPath
	// DataPort is the TCP port at which DataPath knocks; 0 = none, and DataPath
	// rests.
	DataPort uint16
	Servers  []ProbedServer
}

// ProbedServer is one real server.
type ProbedServer struct {
	Address netip.Addr
	Ports   []uint16 // its TCP ports, for Probes.Ports; several servers may share the slice
}

// newProbedVIP gathers what v's probes need to know: its ports and the real
// servers that are in service but for their health. has tells which real server
// has which port; nil means that each has all.
func newProbedVIP(v *VIP, ports []Port, servers []netip.Addr, has func(Port, netip.Addr) bool) ProbedVIP {
	p := ProbedVIP{Name: v.Name, Probes: v.Probes, Addresses: v.Addresses}
	var all []uint16
	for _, port := range ports {
		if port.Protocol != TCP {
			continue
		}
		all = append(all, port.Number)
		// Ports of the configuration are on every node, whatever a ConfigMap says.
		if p.DataPort == 0 && slices.Contains(v.Ports, port) {
			p.DataPort = port.Number
		}
	}
	if p.DataPort == 0 && len(all) > 0 {
		p.DataPort = all[0]
	}
	for _, a := range servers {
		s := ProbedServer{Address: a, Ports: all}
		if has != nil {
			s.Ports = slices.DeleteFunc(slices.Clone(all), func(n uint16) bool { return !has(Port{n, TCP}, a) })
		}
		p.Servers = append(p.Servers, s)
	}
	return p
}

// Equal reports whether p and q ask the same of the same.
func (p *ProbePlan) Equal(q *ProbePlan) bool {
	if p == nil || q == nil {
		return p == q
	}
	return slices.EqualFunc(p.VIPs, q.VIPs, func(a, b ProbedVIP) bool {
		return a.Name == b.Name && a.Probes == b.Probes && a.DataPort == b.DataPort && slices.Equal(a.Addresses, b.Addresses) &&
			slices.EqualFunc(a.Servers, b.Servers, func(s, t ProbedServer) bool {
				return s.Address == t.Address && slices.Equal(s.Ports, t.Ports)
			})
	})
}

// HealthKey names what can be out of service: a real server of a VIP, or one
// TCP port of it.
type HealthKey struct {
	VIP     string
	Address netip.Addr // of the real server
	Port    uint16     // 0 = the whole real server
}

// Compare orders by VIP, real server, port.
func (k HealthKey) Compare(l HealthKey) int {
	return cmp.Or(cmp.Compare(k.VIP, l.VIP), k.Address.Compare(l.Address), cmp.Compare(k.Port, l.Port))
}

// Health is what the probes have found out. It is immutable; a nil Health
// knows of nothing.
type Health struct {
	// Down holds what should get no new connections, and why. Whatever is not
	// in it is well or has not been heard of, and both serve.
	Down map[HealthKey]string
	// Open lists where nobody is down because everybody would be, in order.
	Open []FailOpen
}

// FailOpen is a set of real servers that all fail at once: those of a VIP's
// family, or those that have one of its ports. The probes, or whatever lies
// behind that port, are at fault and not every single node.
type FailOpen struct {
	VIP  string
	Is6  bool
	Port uint16 // 0 = the real servers as a whole
	Why  string // what the first of them suffers
}

// compare orders by VIP, family, port.
func (o FailOpen) compare(p FailOpen) int {
	family := 0
	switch {
	case o.Is6 && !p.Is6:
		family = 1
	case p.Is6 && !o.Is6:
		family = -1
	}
	return cmp.Or(cmp.Compare(o.VIP, p.VIP), family, cmp.Compare(o.Port, p.Port))
}

// same reports whether o and p are the same set, whatever it suffers.
func (o FailOpen) same(p FailOpen) bool { return o.compare(p) == 0 }

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

// equal reports whether g says the same as h. A reason of a fail-open may
// differ: nobody acts on it.
func (h *Health) equal(g *Health) bool {
	return maps.Equal(h.Down, g.Down) && slices.EqualFunc(h.Open, g.Open, FailOpen.same)
}

// probeKind is a way of asking.
type probeKind uint8

const (
	probeHTTP     probeKind = iota // GET from the real server's own address
	probeTCP                       // connect to one port of it
	probePort                      // connect to one of the VIP's ports on it
	probeDataPath                  // connect to the VIP through it
	probeKinds
)

func (k probeKind) String() string {
	return [probeKinds]string{"http", "tcp", "port", "datapath"}[k]
}

// result is what one probe came to.
type result uint8

const (
	noResult result = iota // the director itself could not ask
	passed
	failed
)

// outcome is the result of one probe.
type outcome struct {
	result result
	why    string // of failed and noResult
	silent bool   // failed because nothing came back: nobody may be there
}

// condition is what is believed of a target.
type condition uint8

const (
	unknown condition = iota
	up
	down
)

// verdict is what the results of one target amount to.
type verdict struct {
	state  condition
	streak uint8  // results in a row that speak against state
	why    string // of down
	silent bool   // of down: nothing came back

	// A target that is down may come to suffer from something else. rival has
	// been seen rivals times in a row.
	rival  outcome
	rivals uint8
	// missed counts results in a row that said nothing.
	missed uint8
}

// observe takes one more result into account and reports whether state or
// reason have changed. Unknown becomes up at the first good answer, since
// neither takes anything out of service.
func (v *verdict) observe(o outcome, rise, fall uint8) bool {
	before := *v
	if o.result == noResult {
		// What has not been confirmed for so long is not known any more.
		if v.missed++; v.missed >= fall {
			*v = verdict{missed: fall}
		}
		return v.state != before.state
	}
	v.missed = 0
	switch {
	case o.result == passed && v.state == down:
		v.rivals = 0
		if v.streak++; v.streak >= rise {
			*v = verdict{state: up}
		}
	case o.result == passed:
		*v = verdict{state: up}
	case v.state == down:
		v.streak = 0
		v.reconsider(o, fall)
	default:
		if v.streak++; v.streak >= fall {
			*v = verdict{state: down, why: o.why, silent: o.silent}
		}
	}
	return v.state != before.state || v.why != before.why
}

// reconsider changes the reason of a target that is down, once the new one has
// lasted: two that alternate must not be news each time.
func (v *verdict) reconsider(o outcome, fall uint8) {
	switch {
	case o.why == v.why:
		v.rivals = 0
		return
	case o == v.rival:
		v.rivals++
	default:
		v.rival, v.rivals = o, 1
	}
	if v.rivals >= fall {
		*v = verdict{state: down, why: o.why, silent: o.silent}
	}
}

// inDoubt reports whether the last results speak against the verdict: then the
// next ones are urgent.
func (v *verdict) inDoubt() bool { return v.streak > 0 }

// observed is the verdict on one target of a VIP's family.
type observed struct {
	server netip.Addr
	port   uint16 // of probePort; 0 = the probe is about the real server as a whole
	verdict
}

// findings is what judge says of one VIP's family.
type findings struct {
	VIP     string
	Servers []netip.Addr         // asked, in the order of the plan
	Down    map[HealthKey]string // what fails
	Open    []FailOpen           // what stays in service nevertheless
}

// serverFindings is what all probes of one real server say.
type serverFindings struct {
	why            string // it is down; "" = it is not
	well           bool   // a probe of the real server as a whole says so
	ports          map[uint16]string
	listed, silent int // ports asked, and those of them that are down because nothing came back
}

// judge decides who is down in one family of a VIP. all is in the order of the
// plan.
//
//   - A real server is down when one of the probes about it as a whole says so.
//   - It is also down when there is no such probe to say otherwise and each of
//     its ports is silent: a port that refuses shows at least that somebody is
//     there.
//   - A port that is down is down on its real server alone.
//   - When all real servers are down at once, none is.
//   - When a port is down on each real server that is left and has it, it is
//     down on none.
func judge(vip string, is6 bool, all []observed) findings {
	f := findings{VIP: vip, Down: make(map[HealthKey]string)}
	servers := make(map[netip.Addr]*serverFindings)
	for i := range all {
		o := &all[i]
		s := servers[o.server]
		if s == nil {
			s = &serverFindings{ports: make(map[uint16]string)}
			servers[o.server] = s
			f.Servers = append(f.Servers, o.server)
		}
		s.add(o)
	}
	downs, first := 0, ""
	for _, a := range f.Servers {
		s := servers[a]
		if s.why == "" && !s.well && s.listed > 0 && s.silent == s.listed {
			s.why = s.silence()
		}
		if s.why != "" {
			f.Down[HealthKey{vip, a, 0}] = s.why
			downs++
			first = cmp.Or(first, fmt.Sprintf("%s: %s", a, s.why))
		}
		for n, why := range s.ports {
			f.Down[HealthKey{vip, a, n}] = fmt.Sprintf("port %d/tcp: %s", n, why)
		}
	}
	open := downs > 0 && downs == len(f.Servers)
	if open {
		f.Open = append(f.Open, FailOpen{VIP: vip, Is6: is6, Why: first})
	}
	f.Open = append(f.Open, openPorts(vip, is6, all, func(a netip.Addr) bool { return open || servers[a].why == "" })...)
	return f
}

// add takes one verdict into account.
func (s *serverFindings) add(o *observed) {
	switch {
	case o.port != 0:
		s.listed++
		if o.state == down {
			s.ports[o.port] = o.why
			if o.silent {
				s.silent++
			}
		}
	case o.state == down:
		s.why = cmp.Or(s.why, o.why)
	case o.state == up:
		s.well = true
	}
}

// silence is the reason of a real server of which no port answers.
func (s *serverFindings) silence() string {
	first := slices.Min(slices.Collect(maps.Keys(s.ports)))
	if s.listed == 1 {
		return fmt.Sprintf("port %d/tcp: %s", first, s.ports[first])
	}
	return fmt.Sprintf("none of %d ports answers; port %d/tcp: %s", s.listed, first, s.ports[first])
}

// openPorts lists the ports that are down on every real server in service that
// has them, in order.
func openPorts(vip string, is6 bool, all []observed, serves func(netip.Addr) bool) []FailOpen {
	has, fails := make(map[uint16]int), make(map[uint16]int)
	why := make(map[uint16]string)
	for i := range all {
		o := &all[i]
		if o.port == 0 || !serves(o.server) {
			continue
		}
		has[o.port]++
		if o.state == down {
			fails[o.port]++
			why[o.port] = cmp.Or(why[o.port], fmt.Sprintf("%s: port %d/tcp: %s", o.server, o.port, o.why))
		}
	}
	var open []FailOpen
	for _, n := range slices.Sorted(maps.Keys(fails)) {
		if fails[n] == has[n] {
			open = append(open, FailOpen{vip, is6, n, why[n]})
		}
	}
	return open
}

// newHealth is the Health of all findings together.
func newHealth(all []findings) *Health {
	h := &Health{Down: make(map[HealthKey]string)}
	for _, f := range all {
		h.Open = append(h.Open, f.Open...)
		open := make(map[uint16]bool, len(f.Open))
		for _, o := range f.Open {
			open[o.Port] = true
		}
		for k, why := range f.Down {
			if !open[k.Port] {
				h.Down[k] = why
			}
		}
	}
	slices.SortFunc(h.Open, FailOpen.compare)
	return h
}

// joinPorts writes port numbers as "80/tcp,443/tcp".
func joinPorts(ports []uint16) string {
	words := make([]string, len(ports))
	for i, n := range ports {
		words[i] = Port{n, TCP}.String()
	}
	return strings.Join(words, ",")
}
