// What probe results mean for real servers.
//
// Used by desired*.go, state.go, reconcile*.go, http*.go, cmd*.go and main.go. The
// prober (health_probe.go) applies these rules and publishes a Health. The desired
// table is computed with it; the reconcile loop sends back a ProbePlan with the
// targets. Pure: no I/O, no clock, no log. A real server without a result stays in
// service. The rules never take all real servers of a VIP out of service.

package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// ProbePlan says which real servers to probe, and how. It must not be changed
// after the prober got it.
type ProbePlan struct{ VIPs []ProbedVIP }

// ProbedVIP are the real servers of one VIP that are probed.
type ProbedVIP struct {
	Name      string
	Probes    *Probes
	Addresses []netip.Addr // of the VIP, for DataPath
	// DataPort is the TCP port to which DataPath connects, one that all Servers
	// have; 0 = there is none, and DataPath does nothing.
	DataPort uint16
	Servers  []ProbedServer
	// Too little is known of the cluster to name all Servers, or all their Ports.
	ServersUnknown, PortsUnknown bool
}

// ProbedServer is one real server.
type ProbedServer struct {
	Address netip.Addr
	Ports   []uint16 // its TCP ports, for Probes.Ports; several servers may share the slice
}

// newProbedVIP collects what v's probes need: its ports and the real
// servers that are in service unless a probe says otherwise. has reports which
// real server has which port; nil means that each has all.
func newProbedVIP(v *VIP, ports []Port, servers []netip.Addr, has func(Port, netip.Addr) bool) ProbedVIP {
	p := ProbedVIP{Name: v.Name, Probes: v.Probes, Addresses: v.Addresses}
	var all []uint16
	configured := false
	for _, port := range ports {
		if port.Protocol != TCP {
			continue
		}
		all = append(all, port.Number)
		// A node must not be out for a port that it need not have. Ports of the
		// configuration are on every node, whatever a ConfigMap says.
		everywhere := has == nil || !slices.ContainsFunc(servers, func(a netip.Addr) bool { return !has(port, a) })
		if ours := slices.Contains(v.Ports, port); everywhere && (p.DataPort == 0 || ours && !configured) {
			p.DataPort, configured = port.Number, ours
		}
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

// Equal reports whether p and q have the same probes.
func (p *ProbePlan) Equal(q *ProbePlan) bool {
	if p == nil || q == nil {
		return p == q
	}
	return slices.EqualFunc(p.VIPs, q.VIPs, func(a, b ProbedVIP) bool {
		return a.Name == b.Name && a.Probes == b.Probes && a.DataPort == b.DataPort && a.ServersUnknown == b.ServersUnknown && a.PortsUnknown == b.PortsUnknown && slices.Equal(a.Addresses, b.Addresses) &&
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

// Health is what probes and the neighbour table say. It is immutable; a nil Health is
// empty.
type Health struct {
	// Down is what should get no new connections, and why. A real server that is
	// not in it works or has no result yet, and serves.
	Down map[HealthKey]string
	// Unresolved are, by VIP and sorted, the real servers that should get no new
	// connections because they do not answer ARP or neighbour discovery
	// (health_resolve.go).
	Unresolved map[string][]netip.Addr
	// Routed are, by VIP and sorted, the real servers that are behind a router
	// (health_route.go): they serve on, with a warning.
	Routed map[string][]netip.Addr
	// Broadcast are, sorted, the broadcast addresses of the networks that this host is
	// in (health_route.go): the kernel refuses them as real servers.
	Broadcast []netip.Addr
	// Open lists where no real server is down because all would be, in order.
	Open []FailOpen
}

// FailOpen is a set of real servers that all fail at once: those of a VIP's
// family, or those that have one of its ports. The likely cause is the probe, or
// what all of them have in common, and not each node.
type FailOpen struct {
	VIP  string
	Is6  bool
	Port uint16 // 0 = the real servers as a whole
	Why  string // why the first of them fails
}

// String is "edge IPv4: all real servers fail and stay in service: …".
func (o FailOpen) String() string {
	what := "all real servers fail"
	if o.Port != 0 {
		what = "port " + Port{o.Port, TCP}.String() + " fails on all real servers"
	}
	return fmt.Sprintf("%s %s: %s and stay in service: %s", o.VIP, familyName(o.Is6), what, o.Why)
}

// compare orders by VIP, family, port.
func (o FailOpen) compare(p FailOpen) int {
	return cmp.Or(compareWorkKeys(workKey{o.VIP, o.Is6}, workKey{p.VIP, p.Is6}), cmp.Compare(o.Port, p.Port))
}

// same reports whether o and p are the same set, for any reason.
func (o FailOpen) same(p FailOpen) bool { return o.compare(p) == 0 }

// orEmpty is h, or an empty Health for nil.
func (h *Health) orEmpty() *Health {
	if h == nil {
		return new(Health)
	}
	return h
}

// lines says what is down and why, "edge 10.0.0.5: no answer in 1s" each, in
// order.
func (h *Health) lines() (all []string) {
	for _, k := range sortedBy(maps.Keys(h.orEmpty().Down), HealthKey.Compare) {
		all = append(all, fmt.Sprintf("%s %s: %s", k.VIP, k.Address, h.Down[k]))
	}
	for _, vip := range slices.Sorted(maps.Keys(h.orEmpty().Unresolved)) {
		for _, a := range h.Unresolved[vip] {
			all = append(all, fmt.Sprintf("%s %s: %s", vip, a, unresolvedReason(a)))
		}
	}
	return all
}

// equal reports whether g says the same as h. The reason of a fail-open may
// differ: nothing depends on it.
func (h *Health) equal(g *Health) bool {
	return maps.Equal(h.Down, g.Down) && slices.EqualFunc(h.Open, g.Open, FailOpen.same)
}

// unresolvedReason says why a real server of Unresolved gets no new connections.
func unresolvedReason(a netip.Addr) string {
	if a.Is6() {
		return "no answer to neighbour discovery"
	}
	return "no answer to ARP"
}

// result is the result of one probe.
type result uint8

const (
	noResult result = iota // the director itself could not probe
	passed
	failed
)

// outcome is a result with its reason.
type outcome struct {
	result result
	why    string // of failed and noResult
	silent bool   // nothing came back: there may be no host
}

// condition is the state of a target.
type condition uint8

const (
	unknown condition = iota
	up
	down
)

// verdict is what follows from the results of one target.
type verdict struct {
	state  condition
	streak uint8  // results in a row that contradict state
	why    string // of down
	silent bool   // of down: nothing came back

	// The reason of a target that is down may change. other has been the outcome
	// others times in a row.
	other  outcome
	others uint8
	// missed counts probes in a row without a result.
	missed uint8
}

// observe adds one result and reports whether state or reason have changed.
// Unknown becomes up at the first good answer, because neither takes anything
// out of service.
func (v *verdict) observe(o outcome, rise, fall uint8) bool {
	before := *v
	if o.result == noResult {
		// A state without a result for so long is not known any more.
		if v.missed++; v.missed >= fall {
			*v = verdict{missed: fall}
		}
		return v.state != before.state
	}
	v.missed = 0
	switch {
	case o.result == passed && v.state == down:
		v.others = 0
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
// been the reason for fall results: two that alternate are not a change each time.
func (v *verdict) reconsider(o outcome, fall uint8) {
	switch {
	case o.why == v.why:
		v.others = 0
		return
	case o == v.other:
		v.others++
	default:
		v.other, v.others = o, 1
	}
	if v.others >= fall {
		*v = verdict{state: down, why: o.why, silent: o.silent}
	}
}

// inDoubt reports whether the last results contradict the verdict: then the next
// ones are urgent.
func (v *verdict) inDoubt() bool { return v.streak > 0 }
