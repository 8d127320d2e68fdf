// The real servers of a VIP: which nodes, with which weight, and why.
//
// Used by http_vips.go. Pure, a part of desired. One row is one node address, with
// one pod there or several.

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// servers are the real servers of one family: one for each node address that
// has a selected pod, and the static ones. Pods that cannot serve give rows of
// weight 0, which say why.
func (b *build) servers(is6 bool) []Row {
	if rows, ok := b.changedServers(is6); ok {
		return rows
	}
	v := b.in.vip
	rows := make([]Row, 0, len(b.in.pods)+len(v.RealServers))
	for a, set := range b.podSets(is6, nil) {
		rows = append(rows, set.row(v, a))
	}
	for _, s := range v.RealServers {
		if s.Address.Is6() != is6 {
			continue
		}
		// What the configuration says of a node replaces what its pods say.
		r := Row{RealServer: v.realServer(s.Address, s.Weight), Why: "static"}
		if s.Weight == 0 {
			r.Why, r.Reason = "static, weight 0", quiescedWeight
		}
		rows = append(slices.DeleteFunc(rows, func(o Row) bool { return o.Address == s.Address }), r)
	}
	sortBy(rows, compareRows)
	return rows
}

// fewPods is how many pods may have changed for the last answer to be amended.
const fewPods = 16

// changedServers is servers by way of the last answer: only the rows of nodes
// whose pods have changed are computed. ok is false where that cannot be done: the
// pods are too many, or one needs a warning.
func (b *build) changedServers(is6 bool) (rows []Row, ok bool) {
	if b.last == nil || !same(b.in.nodes, b.last.in.nodes) || !slices.Equal(b.in.broadcast, b.last.in.broadcast) || !b.last.in.podsKnown || len(b.last.set(is6).warnings) > 0 {
		return nil, false
	}
	v, last := b.in.vip, b.last.set(is6).fromInputs
	if same(b.in.pods, b.last.in.pods) {
		return last, true
	}
	nodes, changed := []netip.Addr{}, 0
	for now, was := range merged(b.in.pods, b.last.in.pods, comparePodRefs) {
		if now != nil && was != nil && *now == *was {
			continue
		}
		changed++
		for _, p := range []**Pod{now, was} {
			if p == nil {
				continue
			}
			a, serves := b.nodeAddress(v, *p, is6)
			if serves {
				b.podWeight(v, *p) // which may warn
			}
			if serves && !slices.Contains(nodes, a) && !v.isStatic(a) {
				nodes = append(nodes, a)
			}
		}
		if changed > fewPods || len(b.warnings) > 0 {
			b.warnings = nil // servers finds them again
			return nil, false
		}
	}
	return b.amended(last, nodes, is6), true
}

// amended is a copy of last, in which the rows of nodes are those of the pods now.
func (b *build) amended(last []Row, nodes []netip.Addr, is6 bool) []Row {
	sets := b.podSets(is6, nodes)
	rows := append(make([]Row, 0, len(last)+len(nodes)), last...)
	for _, a := range nodes {
		at, there := slices.BinarySearchFunc(rows, a, func(r Row, a netip.Addr) int { return r.Address.Compare(a) })
		switch set, stays := sets[a]; {
		case stays && there:
			rows[at] = set.row(b.in.vip, a)
		case stays:
			rows = slices.Insert(rows, at, set.row(b.in.vip, a))
		case there:
			rows = slices.Delete(rows, at, at+1)
		}
	}
	return rows
}

// podSets are the selected pods of each node, or of those of nodes when that is not
// nil.
func (b *build) podSets(is6 bool, nodes []netip.Addr) map[netip.Addr]podSet {
	sets := make(map[netip.Addr]podSet)
	listed := func(a netip.Addr) bool { return slices.Contains(nodes, a) }
	for _, p := range b.in.pods {
		// Most pods are on none of the nodes: that is found out first.
		if nodes != nil && p.OtherAddress == "" && len(b.in.vip.NodeNetworks) == 0 && !slices.ContainsFunc(p.Addresses, listed) {
			continue
		}
		if a, ok := b.nodeAddress(b.in.vip, p, is6); ok {
			sets[a] = sets[a].with(p, b.podWeight(b.in.vip, p), b.excluded(p))
		}
	}
	return sets
}

// nodeAddress is the address at which p serves v, if it can.
func (b *build) nodeAddress(v *VIP, p *Pod, is6 bool) (netip.Addr, bool) {
	if len(p.Bound) > 0 && v.HostPorts && !p.Terminating {
		b.warn(warnHostIP, "", "pod %s/%s: its host port %s has a hostIP: the VIP does not lead there", p.Namespace, p.Name, p.Bound[0])
	}
	if b.offNode(p) {
		if !p.Terminating {
			b.warnOffNode(p)
		}
		return netip.Addr{}, false
	}
	if !p.onNode() {
		switch {
		case p.Terminating:
		case v.Pods.Service != "":
			b.warn(warnHostNetwork, "", "endpoint %s of Service %s is left out: its EndpointSlice is of the address type FQDN; want IPv4 or IPv6", p.Name, v.Pods.service())
		case v.HostPorts:
			b.warn(warnHostNetwork, "", "pod %s/%s is left out: it is not on hostNetwork, and it has no hostPort that the VIP can lead to", p.Namespace, p.Name)
		default:
			b.warn(warnHostNetwork, "", "pod %s/%s is left out: it is not on hostNetwork, and the VIP is on the pod's node, not in the pod; host_ports = true takes pods that have a hostPort", p.Namespace, p.Name)
		}
		return netip.Addr{}, false
	}
	addrs, unknown := b.addresses(p)
	at := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is6() == is6 })
	if at < 0 {
		switch {
		case !p.Ready || p.Terminating:
		case v.choosesNodeAddress(is6):
			b.warn(warnFamily, familyName(is6), "pod %s/%s is left out: its node has no %s address in node_networks", p.Namespace, p.Name, familyName(is6))
		default:
			b.warn(warnFamily, familyName(is6), "pod %s/%s has no %s address: it cannot serve the VIP's %[3]s addresses", p.Namespace, p.Name, familyName(is6))
		}
		return netip.Addr{}, false
	}
	a := addrs[at]
	if unknown != "" && !p.Terminating {
		b.warn(warnOtherAddress, "", "pod %s/%s: annotation %s = %q is no address of its node, as status.hostIPs or (with follow_nodes = true) the Node have them; %s is used", p.Namespace, p.Name, addressAnnotation, unknown, a)
	}
	if b.owners.addresses[a] != nil {
		b.warn(warnOwnAddress, "", "pod %s/%s is left out: its node reports the VIP %s as its own address", p.Namespace, p.Name, a)
		return netip.Addr{}, false
	}
	kind := notUnicast(a.Unmap())
	if _, found := slices.BinarySearchFunc(b.in.broadcast, a, netip.Addr.Compare); found {
		kind = "a broadcast address of a network that the director is in"
	}
	if kind != "" {
		b.warn(warnAddress, kind, "pod %s/%s is left out: its node reports %s, which is %s", p.Namespace, p.Name, a, kind)
		return netip.Addr{}, false
	}
	return a, true
}

// asked is the weight that p's annotation asks for, or asked for when it was last a
// weight.
func (p *Pod) asked() (n uint32, ok bool) {
	if n, ok = weight(p.Weight); ok || p.Weight == "" {
		return n, ok
	}
	return weight(p.LastWeight)
}

// podWeight is the weight that p's annotation asks for, else the VIP's.
func (b *build) podWeight(v *VIP, p *Pod) uint32 {
	n, ok := p.asked()
	if !ok {
		n = v.Weight
	}
	if _, ok := weight(p.Weight); ok || p.Weight == "" {
		return n
	}
	b.warn(warnWeight, "", "pod %s/%s: annotation %s = %q is not a weight from 0 to 65535; %d is used", p.Namespace, p.Name, v.WeightAnnotation, shorten(p.Weight, quotedText), n)
	return n
}

// withheld reports whether a weight of 0 at a is a wish: a pod serves there, or one that
// cannot asks for no connections. The pods of a node that is excluded serve if there is
// nothing else.
func (b *build) withheld(a netip.Addr) bool {
	if b.wishes == nil {
		b.wishes = make(map[netip.Addr]bool)
		for _, p := range b.in.pods {
			if n, ok := p.asked(); p.serves() && b.excluded(p) == "" || ok && n == 0 && !p.Terminating {
				addrs, _ := b.addresses(p)
				addAll(b.wishes, addrs)
			}
		}
	}
	return b.wishes[a]
}

// excluded says why p's node is to get no new connections; "" when it may.
func (b *build) excluded(p *Pod) string {
	return b.node(p).Excluded
}

// node is what is known of p's node.
func (b *build) node(p *Pod) Node {
	at, found := slices.BinarySearchFunc(b.in.nodes, p.Node, func(n *Node, name string) int { return strings.Compare(n.Name, name) })
	if !found {
		return Node{}
	}
	return *b.in.nodes[at]
}

// addresses are those of p's node and of p. The first of each family is the one at which
// p serves, if it is the node's. unknown is what the annotation names beside those. With
// node_networks they are those in the networks, behind what the annotation names.
func (b *build) addresses(p *Pod) (addrs []netip.Addr, unknown string) {
	choose := len(b.in.vip.NodeNetworks) > 0
	if p.OtherAddress == "" && !choose {
		return p.Addresses, ""
	}
	ofNode := b.node(p).Addresses
	if p.OtherAddress != "" {
		addrs = slices.Clone(ofNode)
		named := 0
		named, unknown = preferAddresses(addrs, p.OtherAddress)
		addrs = addrs[:named]
	}
	if !choose {
		return append(addrs, p.Addresses...), unknown
	}
	addrs = append(addrs, p.Addresses[:p.Named]...)
	for _, all := range [][]netip.Addr{p.Addresses, ofNode} {
		for _, a := range all {
			if b.in.vip.takesAddress(a) && !slices.Contains(addrs, a) {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs, unknown
}

// podSet counts the selected pods of one node.
type podSet struct {
	ready  int
	name   string // of the pod that is named in messages
	best   podRank
	weight uint32 // greatest of the ready pods'
	// excluded is why a ready pod's node gets no new connections, "" when it does.
	excluded string
}

// podRank is the state of a pod. The greatest of a node decides what messages say.
type podRank uint8

const (
	podTerminating podRank = iota + 1
	podNotReady
	podReady
)

func (s podSet) with(p *Pod, weight uint32, excluded string) podSet {
	rank := podNotReady
	switch {
	case p.Terminating:
		rank = podTerminating
	case p.Ready:
		rank = podReady
		s.ready++
		if s.excluded = excluded; excluded == "" {
			s.weight = max(s.weight, weight)
		}
	}
	if rank > s.best {
		s.best, s.name = rank, p.Name
	}
	return s
}

// row is the real server of v for the pods at address a.
func (s podSet) row(v *VIP, a netip.Addr) Row {
	why, reason := "pod "+s.name, quiescedOther
	switch {
	case s.ready > 1:
		why += fmt.Sprintf(" and %d more ready", s.ready-1)
	case s.ready == 1:
		why += " ready"
	case s.best == podNotReady:
		why, reason = why+" not ready", quiescedNotReady
	default:
		why, reason = why+" terminating", quiescedTerminating
	}
	if s.ready > 0 && s.excluded != "" {
		why, reason = why+", "+s.excluded, quiescedNode
	} else if s.ready > 0 && s.weight == 0 {
		why, reason = why+", weight 0 by its annotation", quiescedWeight
	}
	return Row{RealServer: v.realServer(a, s.weight), Reason: reason, Why: why}
}

// podServers are the real servers of rows that are in service because of pods:
// before itself, if they are the same.
func (v *VIP) podServers(rows []Row, before []RealServer) []RealServer {
	in := make([]RealServer, 0, len(rows))
	for i := range rows {
		if r := &rows[i]; r.Weight > 0 && !v.isStatic(r.Address) {
			in = append(in, r.RealServer)
		}
	}
	if slices.Equal(in, before) {
		return before
	}
	return in
}

// workedBefore are the real servers that were in service last, as the VIP is
// configured now: of the past only their addresses and weights are used.
func (b *build) workedBefore(set workKey) []RealServer {
	servers := slices.Clone(b.before.Working[set])
	for i, s := range servers {
		servers[i] = b.in.vip.realServer(s.Address, s.Weight)
	}
	return servers
}

// keepWorking puts the real servers that were in service last back into service,
// beside the rows, none of which is. Nodes to which the operator, or the annotation of
// a pod, has given weight 0 since are among them only if there were no others.
func (b *build) keepWorking(rows []Row, before []RealServer) []Row {
	onPurpose := func(s RealServer) bool { return b.in.vip.isStatic(s.Address) || b.withheld(s.Address) }
	if others := slices.DeleteFunc(slices.Clone(before), onPurpose); len(others) > 0 {
		before = others
	}
	others := slices.DeleteFunc(slices.Clone(rows), func(r Row) bool {
		return slices.ContainsFunc(before, r.SameServer)
	})
	return addMissing(others, before, "kept, nothing else is in service")
}

// addMissing adds those of servers that rows do not name, in table order.
func addMissing(rows []Row, servers []RealServer, why string) []Row {
	for _, s := range servers {
		if !slices.ContainsFunc(rows, sameAs(s)) {
			rows = append(rows, Row{RealServer: s, Why: why})
		}
	}
	sortBy(rows, compareRows)
	return rows
}

// slowStart lowers the weights of real servers that joined a set which was
// already in service, or are back from an outage, and notes when the weights rise
// next. An outage is remembered as a start at the zero time.
func (b *build) slowStart(set *setAnswer, of workKey, rows []Row) []Row {
	v, before := b.in.vip, b.before.Working[of]
	if v.SlowStart == 0 {
		return rows
	}
	for i := range b.unprobed {
		if a := rows[i].Address; rows[i].Weight == 0 && b.unprobed[i].Weight > 0 && !v.isStatic(a) {
			set.starts(startKey{v.Name, a}, time.Time{})
		}
	}
	if len(before) == 0 {
		return rows
	}
	step := v.SlowStart / slowSteps
	rows = slices.Clone(rows)
	for i := range rows {
		r := &rows[i]
		if r.Weight == 0 || v.isStatic(r.Address) {
			continue // a static one has its configured weight at once
		}
		key := startKey{v.Name, r.Address}
		started, starting := b.before.Started[key]
		if !starting {
			if slices.ContainsFunc(before, r.SameServer) {
				continue // in service before this, at its whole weight
			}
			started = b.now
		}
		if started.IsZero() || started.After(b.now) {
			started = b.now // a clock that was set back must not make the start longer
		}
		reached := b.now.Sub(started)/step + 1
		if reached >= slowSteps {
			continue
		}
		set.starts(key, started)
		r.Weight = max(1, r.Weight*uint32(reached)/slowSteps)
		r.Why += fmt.Sprintf(", slow start %d%%", reached*100/slowSteps)
		set.next = earlier(set.next, started.Add(reached*step))
	}
	return rows
}

// starts notes when a slow start began.
func (set *setAnswer) starts(key startKey, at time.Time) {
	if set.started == nil {
		set.started = make(map[startKey]time.Time)
	}
	set.started[key] = at
}

// warnRouted warns of real servers that direct routing does not reach.
func (b *build) warnRouted(rows []Row) {
	for i := range rows {
		r := &rows[i]
		if _, behind := slices.BinarySearchFunc(b.in.routed, r.Address, netip.Addr.Compare); behind && r.Weight > 0 && r.Forward == DirectRoute {
			b.warn(warnRouter, "", "real server %s (%s) is behind a router: with forward = \"dr\" the router gets its packets, and not the node", r.Address, r.Why)
		}
	}
}

// podsAt passes the pods of c that v selects to visit, each with the addresses at which it
// serves, ready or not.
func podsAt(v *VIP, c *Cluster, visit func(netip.Addr, *Pod)) {
	b := build{vipAnswer: &vipAnswer{in: vipInputsOf(v, c, memory{}, nil)}}
	for _, p := range b.in.pods {
		if !p.onNode() || b.offNode(p) {
			continue
		}
		addrs, _ := b.addresses(p)
		for _, is6 := range []bool{false, true} {
			if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is6() == is6 }); i >= 0 {
				visit(addrs[i], p)
			}
		}
	}
}
