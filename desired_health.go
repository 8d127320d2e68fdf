// What probe results change in the desired table, and which targets the table
// wants to have probed.
//
// Used by reconcile.go. Pure, as all of desired. Probes are the third signal
// about a real server, after its pods and the configuration; the neighbour table is
// the fourth. Both quiesce a
// real server and give the reason. They never add one, and never quiesce the last
// one of a VIP.

package main

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// outage is a real server of a VIP, or one TCP port of it, that should get no new
// connections because of its probes or its neighbour entry.
type outage struct {
	Address netip.Addr
	Port    uint16 // 0 = the whole real server
	Reason  quiesceReason
	Why     string
}

// outages are the outages of one VIP, in order.
func (h *Health) outages(v *VIP) []outage {
	if h == nil {
		return nil
	}
	var all []outage
	if v.Probes != nil {
		for k, why := range h.Down {
			if k.VIP == v.Name {
				all = append(all, outage{k.Address, k.Port, quiescedProbe, why})
			}
		}
	}
	if v.resolves() {
		for _, a := range h.Unresolved[v.Name] {
			all = append(all, outage{Address: a, Reason: quiescedNeighbour, Why: unresolvedReason(a)})
		}
	}
	sortBy(all, func(a, b outage) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), strings.Compare(a.Why, b.Why))
	})
	return all
}

// opens reports, by family, whether all real servers of v fail their probes.
func (h *Health) opens(v *VIP) (open [2]bool) {
	for _, o := range h.Open {
		if o.VIP == v.Name && o.Port == 0 && v.Probes != nil {
			open[familyIndex(o.Is6)] = true
		}
	}
	return open
}

// probed records which real servers would be in service without the results of probes
// and without their neighbour entries, and quiesces those of rows that are down. It quiesces none where none would be left:
// the prober will say the same as soon as it knows these real servers.
func (b *build) probed(set *setAnswer, rows []Row) []Row {
	if b.in.vip.Probes == nil && !b.in.vip.resolves() {
		return rows
	}
	set.unprobed, b.unprobed = rows, rows
	return b.without(0, rows)
}

// without quiesces those of rows that are down, or whose port n is. It returns
// rows unchanged where that is no real server, or all that are in service.
func (b *build) without(n uint16, rows []Row) []Row {
	var fewer []Row
	for _, o := range b.in.outages {
		if o.Port != n {
			continue
		}
		i, found := slices.BinarySearchFunc(rows, o.Address, func(r Row, a netip.Addr) int { return r.Address.Compare(a) })
		if !found || rows[i].Weight == 0 {
			continue
		}
		if fewer == nil {
			fewer = slices.Clone(rows)
		}
		fewer[i].Weight, fewer[i].Reason = 0, o.Reason
		fewer[i].Why += ", but " + o.Why
	}
	if fewer == nil || !inService(fewer) {
		return rows
	}
	return fewer
}

// portRows are the rows for one port: without the nodes that do not have it, and
// with those quiesced on which it is down.
func (b *build) portRows(p vipPort, rows []Row) []Row {
	rows = p.only(b.in.vip, rows, b.unprobed, b.withheld)
	if p.Protocol != TCP {
		return rows
	}
	return b.without(p.Number, rows)
}

// answersEverywhere reports whether p is up on all of rows that are in service.
func (b *build) answersEverywhere(p Port, rows []Row) bool {
	return p.Protocol != TCP || !slices.ContainsFunc(b.in.outages, func(o outage) bool {
		return o.Port == p.Number && slices.ContainsFunc(rows, func(r Row) bool { return r.Weight > 0 && r.Address == o.Address })
	})
}

// resolveSets are the real servers whose neighbour entries w needs.
func (w *wanted) resolveSets() *[]resolveSet {
	var all []resolveSet
	for _, v := range w.vips {
		for f := range v.sets {
			if v.in.vip.resolves() && len(v.sets[f].unprobed) > 1 { // one alone always stays
				all = append(all, resolveSet{v.in.vip.Name, v.in.vip.Addresses, v.sets[f].unprobed})
			}
		}
	}
	return &all
}

// directSets are the real servers that direct routing has to reach.
func (w *wanted) directSets() *[]resolveSet {
	var all []resolveSet
	for _, v := range w.vips {
		for f := range v.sets {
			if v.in.vip.Forward == DirectRoute && len(v.sets[f].fromInputs) > 0 {
				all = append(all, resolveSet{VIP: v.in.vip.Name, Rows: v.sets[f].fromInputs})
			}
		}
	}
	return &all
}

// probePlan is the probes that w needs.
func (w *wanted) probePlan() *ProbePlan {
	plan := new(ProbePlan)
	for _, v := range w.vips {
		if v.in.vip.Probes == nil {
			continue
		}
		var servers []netip.Addr
		for f := range v.sets {
			for _, row := range v.sets[f].unprobed {
				if row.Weight > 0 {
					servers = append(servers, row.Address)
				}
			}
		}
		ports := make([]Port, len(v.ports))
		partial := make(map[Port]map[netip.Addr]bool) // ports that only some nodes have
		for i, p := range v.ports {
			ports[i] = p.Port
			if p.nodes != nil {
				partial[p.Port] = p.nodes
			}
		}
		var has func(Port, netip.Addr) bool
		if len(partial) > 0 {
			has = func(p Port, a netip.Addr) bool { return partial[p] == nil || partial[p][a] }
		}
		p := newProbedVIP(v.in.vip, ports, servers, has)
		p.ServersUnknown = v.in.vip.Pods.Selector != "" && !v.in.podsKnown
		p.PortsUnknown = v.sets[0].incomplete || v.sets[1].incomplete
		plan.VIPs = append(plan.VIPs, p)
	}
	return plan
}
