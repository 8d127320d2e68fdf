// Computes the table that the kernel should have.
//
// Used by reconcile*.go and cmd*.go. The reconcile loop calls it with the newest
// configuration, cluster and probe results and the memory of earlier passes. Pure:
// no I/O, no clock, no log; the same inputs give the same table. desired_ports.go
// and desired_servers.go compute the two halves of a VIP.

package main

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// wanted is desired's answer.
type wanted struct {
	// Shards are the desired table, real servers of weight 0 included. From and Next
	// of a shard are not used.
	Shards shards
	// Marks are the packets that get a firewall mark, for port groups. Equal
	// answers in a row share the map.
	Marks map[MarkedPort]uint32
	// Memory replaces what was passed in.
	Memory memory
	// Kept lists the sets that fell back on their memory, in order.
	Kept []workKey
	// Below lists the sets that are below their quorum, in order.
	Below []shortage
	// Retained has an entry for each set whose inputs are incomplete: nothing of
	// it is removed.
	Retained map[workKey]retained
	// Warnings are about the inputs, sorted. Notes are as the operator wants it.
	Warnings, Notes []Warning
	// Owners tell which VIP a service of the kernel belongs to.
	Owners owners
	// Next is when the answer will change by itself (slow start); zero when it
	// will not.
	Next time.Time

	cfg    *Config
	health *Health
	marks  map[GroupName]uint32
	vips   []*vipAnswer // for each of cfg.VIPs
}

// retained is what stays of a set whose inputs are incomplete.
type retained struct {
	// Servers are the real servers for services that only the kernel has. nil when
	// the pods are unknown too: then those services stay as they are.
	Servers []Row
}

// desired computes the table that cfg asks for at the time now, given the
// newest cluster (nil when nothing is known of it), what probes have found (nil
// for nothing) and the memory of earlier passes. last is an earlier answer, nil
// for none. The result does not depend on last; shards whose inputs have not
// changed are shared with it.
func desired(last *wanted, cfg *Config, cluster *Cluster, health *Health, before memory, now time.Time) wanted {
	if cluster == nil {
		cluster = &Cluster{}
	}
	w := wanted{cfg: cfg, health: health, vips: make([]*vipAnswer, len(cfg.VIPs))}
	if last != nil && last.cfg == cfg {
		w.marks, w.Owners = last.marks, last.Owners
	} else {
		last = nil
		w.marks, w.Owners = configMarks(cfg), newOwners(cfg)
	}
	changed := last == nil
	for i := range cfg.VIPs {
		var lastInputs *vipInputs
		if last != nil {
			lastInputs = &last.vips[i].in
		}
		in := vipInputsOf(&cfg.VIPs[i], cluster, before, lastInputs)
		if last != nil && last.health == health {
			in.outages, in.routed, in.broadcast, in.open = last.vips[i].in.outages, last.vips[i].in.routed, last.vips[i].in.broadcast, last.vips[i].in.open
		} else {
			is := health.orEmpty()
			in.outages, in.routed, in.broadcast, in.open = health.outages(in.vip), is.Routed[in.vip.Name], is.Broadcast, is.opens(in.vip)
		}
		if last != nil && last.vips[i].validFor(in, now) {
			w.vips[i] = last.vips[i]
			continue
		}
		b := build{vipAnswer: &vipAnswer{in: in}, marks: w.marks, owners: w.Owners, before: before, now: now}
		if last != nil {
			b.last = last.vips[i]
		}
		b.vip()
		w.vips[i], changed = b.vipAnswer, true
	}
	if !changed {
		w = *last
		w.health = health
		return w
	}
	w.gather(before)
	return w
}

// gather puts the answers for all VIPs together.
func (w *wanted) gather(before memory) {
	w.Marks = make(map[MarkedPort]uint32)
	w.Memory = newMemory()
	w.Retained = make(map[workKey]retained)
	var warnings faultList
	w.decidePorts(before, &warnings)
	for _, v := range w.vips {
		for _, is6 := range []bool{false, true} {
			set := v.set(is6)
			for i := range set.shards {
				if services := w.own(v.in.vip, set.shards[i]); len(services) > 0 {
					w.Shards = append(w.Shards, shard{Services: services})
				}
			}
			w.addMarks(v.in.vip, set.marks)
			key := workKey{v.in.vip.Name, is6}
			if set.working != nil {
				w.Memory.Working[key] = set.working
			}
			maps.Copy(w.Memory.Started, set.started)
			if set.kept {
				w.Kept = append(w.Kept, key)
			}
			if set.below != nil {
				w.Below = append(w.Below, *set.below)
				w.Memory.Below[key] = true
			}
			if !set.short.IsZero() {
				w.Memory.Short[key] = set.short
			}
			if set.incomplete {
				w.Retained[key] = set.retained
			}
			w.Next = earlier(w.Next, set.next)
			warnings.merge(set.warnings)
		}
		warnings.merge(v.portWarnings)
	}
	sortBy(w.Shards, compareShards)
	w.Shards = joinShards(w.Shards)
	w.Warnings, w.Notes = warnings.warnings()
}

// vipInputs is all that the answer for one VIP depends on, the time and the slow
// starts apart. Slices and maps are compared by identity, not by content.
type vipInputs struct {
	vip       *VIP
	pods      []*Pod   // of all its queries
	parts     [][]*Pod // those of each, where there are several
	podsKnown bool
	nodes     []*Node        // of the cluster, if the VIP follows them
	noAnswer  bool           // it follows them, and the cluster has not answered yet
	noNodes   bool           // it follows them, and the cluster is known to have none
	instead   string         // Cluster.Instead
	maps      [2]ConfigMap   // tcp-services and udp-services
	known     [2]bool        // whether each is
	service   ClusterService // whose endpoints the pods are
	answered  bool           // whether service is known
	gateways  gatewayInputs
	working   [2][]RealServer
	below     [2]bool      // memory.Below
	short     [2]time.Time // memory.Short
	open      [2]bool      // all real servers fail their probes
	outages   []outage
	routed    []netip.Addr // Health.Routed of the VIP
	broadcast []netip.Addr // Health.Broadcast
}

// takePods takes the pods of the VIP's queries from cluster. A list that is joined out of the
// same parts as that of last, which may be nil, is the same list.
func (in *vipInputs) takePods(cluster *Cluster, last *vipInputs) {
	if in.vip.Namespaces == nil {
		q := in.vip.PodQuery()
		in.pods, in.podsKnown = cluster.Pods[q]
		in.instead = cluster.Instead[q]
		return
	}
	in.podsKnown = true
	for _, q := range in.vip.PodQueries() {
		pods, known := cluster.Pods[q]
		in.podsKnown = in.podsKnown && known
		in.instead = cmp.Or(in.instead, cluster.Instead[q])
		in.parts = append(in.parts, pods)
	}
	if last != nil && slices.EqualFunc(in.parts, last.parts, same[*Pod]) {
		in.pods = last.pods
		return
	}
	in.pods = slices.Concat(in.parts...)
}

// vipInputsOf are the inputs of v. last are those of the answer before, nil without one.
func vipInputsOf(v *VIP, cluster *Cluster, before memory, last *vipInputs) vipInputs {
	in := vipInputs{vip: v}
	in.takePods(cluster, last)
	if v.FollowNodes {
		var known bool
		in.nodes, known = cluster.Nodes[NodeQuery{}]
		in.noNodes, in.noAnswer = known && len(in.nodes) == 0, !known
	}
	for i, name := range []ConfigMapName{v.TCPServices, v.UDPServices} {
		in.maps[i], in.known[i] = cluster.ConfigMaps[name]
	}
	in.service, in.answered = cluster.Services[v.Pods.service()]
	in.gateways = gatewayInputsOf(v, cluster)
	for _, is6 := range []bool{false, true} {
		in.working[familyIndex(is6)] = before.Working[workKey{v.Name, is6}]
		if key := (workKey{v.Name, is6}); v.quorum() != nil {
			in.below[familyIndex(is6)], in.short[familyIndex(is6)] = before.Below[key], before.Short[key]
		}
	}
	return in
}

// samePorts reports whether the ports that the configuration, the ConfigMaps and the
// Service and the Gateways name are those of o.
func (in *vipInputs) samePorts(o *vipInputs) bool {
	return in.vip == o.vip && in.known == o.known && in.answered == o.answered &&
		in.maps[0].same(o.maps[0]) && in.maps[1].same(o.maps[1]) && in.service.same(o.service) && in.gateways.same(&o.gateways)
}

// vipAnswer is the answer for one VIP. Nothing of it is written to once it is
// whole.
type vipAnswer struct {
	in           vipInputs
	ports        []vipPort
	portsKnown   bool
	portWarnings faultList
	sets         [2]setAnswer
}

// set is the answer for one family.
func (v *vipAnswer) set(is6 bool) *setAnswer { return &v.sets[familyIndex(is6)] }

// setAnswer is the answer for the real servers of a VIP in one family.
type setAnswer struct {
	fromInputs []Row   // as pods and configuration have it
	unprobed   []Row   // before the results of probes and the neighbour table; nil: the VIP has neither
	whole      []Row   // that serve, before all that this director finds out by itself: probes, neighbours, slow starts
	shards     []Table // one for each address, and one for each mark
	marks      map[MarkedPort]uint32
	working    []RealServer
	started    map[startKey]time.Time
	kept       bool
	below      *shortage // nil: it is not below its quorum
	short      time.Time // since when it will be, if that lasts; zero: it will not
	incomplete bool
	retained   retained // when incomplete
	next       time.Time
	warnings   faultList // about real servers
}

// validFor reports whether the answer is right for inputs in at the time now, too.
func (v *vipAnswer) validFor(in vipInputs, now time.Time) bool {
	if !v.in.samePorts(&in) || v.in.podsKnown != in.podsKnown || v.in.instead != in.instead || !same(v.in.pods, in.pods) || !same(v.in.nodes, in.nodes) || v.in.noNodes != in.noNodes || v.in.noAnswer != in.noAnswer || !slices.Equal(v.in.outages, in.outages) || !slices.Equal(v.in.routed, in.routed) || !slices.Equal(v.in.broadcast, in.broadcast) || v.in.open != in.open {
		return false
	}
	for f := range v.sets {
		// The memory of this answer is an input of the next one.
		if next := v.sets[f].next; !next.IsZero() && !now.Before(next) || !same(in.working[f], v.sets[f].working) && !same(in.working[f], v.in.working[f]) {
			return false
		}
		if !v.sameQuorum(&in, f) {
			return false
		}
	}
	return true
}

// sameQuorum reports whether the memory of the quorum of family f in in is that of this
// answer, or the one that this answer had.
func (v *vipAnswer) sameQuorum(in *vipInputs, f int) bool {
	set := &v.sets[f]
	return (in.below[f] == (set.below != nil) || in.below[f] == v.in.below[f]) && (in.short[f].Equal(set.short) || in.short[f].Equal(v.in.short[f]))
}

// build computes the answer for one VIP.
type build struct {
	*vipAnswer
	last     *vipAnswer          // under the same configuration; nil when there is none
	wishes   map[netip.Addr]bool // the answers of withheld; nil: not looked for yet
	ofNodes  map[netip.Addr]bool // the addresses of all nodes; nil: not gathered yet
	unprobed []Row               // the real servers of the present set, before the results of probes and the neighbour table; nil: neither
	before   memory
	now      time.Time
	marks    map[GroupName]uint32
	owners   owners    // whose addresses are no real servers
	warnings faultList // since they were last taken
}

// warn notes one fault of the present VIP.
func (b *build) warn(kind warningKind, about, format string, args ...any) {
	b.warnings.find(b.in.vip.Name, kind, about).add(format, args...)
}

// takeWarnings returns the warnings so far and forgets them.
func (b *build) takeWarnings() faultList {
	w := b.warnings
	b.warnings = nil
	return w
}

// vip computes the answer for the VIP in each family it has.
func (b *build) vip() {
	v, pods := b.in.vip, b.in.pods
	known := b.in.podsKnown || v.Pods.Selector == ""
	if len(v.NodeNetworks) > 0 && b.in.noAnswer {
		known = false // an address of a Node may be the one that serves
	}
	b.answerPorts()
	// When no pod is ready, pods that are gone may have had ports that no pod
	// declares now: these services stay in the kernel, as the real servers do.
	portsKnown := b.portsKnown && (!v.PortsFromPods || known && slices.ContainsFunc(pods, (*Pod).serves))
	for _, is6 := range []bool{false, true} {
		set := b.set(is6)
		key := workKey{v.Name, is6}
		b.unprobed = nil
		if !slices.ContainsFunc(v.Addresses, func(a netip.Addr) bool { return a.Is6() == is6 }) {
			continue
		}
		set.fromInputs = b.servers(is6)
		b.warnRouted(set.fromInputs)
		if b.in.podsKnown && len(pods) == 0 && v.Pods.Selector != "" {
			b.warnNone()
		}
		if b.in.noNodes && len(pods) > 0 {
			b.warn(warnNodes, "", "follow_nodes has no effect: the cluster has pods and no nodes; a cluster_file has to have the nodes too")
		}
		servers := set.fromInputs
		if !known {
			servers = addMissing(slices.Clone(servers), b.workedBefore(key), "in service before, the cluster has not answered yet")
			if len(servers) == 0 {
				set.incomplete = true
				b.count(set, key, nil, true)
				set.warnings = b.takeWarnings()
				continue
			}
		}
		servers = b.inService(set, key, servers)
		if !portsKnown {
			set.incomplete, set.retained = true, retained{Servers: servers}
		}
		b.services(set, is6, servers)
		set.warnings = b.takeWarnings()
	}
}

// warnNone warns that there are no pods to be real servers.
func (b *build) warnNone() {
	switch v := b.in.vip; {
	case v.Pods.Service == "":
		b.warn(warnSelector, "", "selector %q matches no pod%s", v.Pods.Selector, b.in.instead)
	case b.in.service.Exists && !b.in.service.External: // else another warning says why
		b.warn(warnSelector, "", "Service %s has no endpoints", v.Pods.service())
	}
}

// answerPorts finds the ports, or takes those of the last answer.
func (b *build) answerPorts() {
	if b.last != nil && b.last.in.samePorts(&b.in) && !b.in.vip.PodQuery().Ports {
		b.ports, b.portsKnown, b.portWarnings = b.last.ports, b.last.portsKnown, b.last.portWarnings
		return
	}
	if v := b.in.vip; v.refusesWhileDraining() {
		s := findScheduler(v.Scheduler)
		b.warn(warnScheduler, "", "without %s among its flags, scheduler %s refuses the new clients of a real server that drains", s.word(s.fallback), s.name)
	}
	b.ports, b.portsKnown = b.findPorts()
	b.portWarnings = b.takeWarnings()
}

// inService finds the real servers that serve the set: those that can, else the
// sorry server, else those of the last working set. Results of probes are not
// part of the memory: they are applied again.
func (b *build) inService(set *setAnswer, key workKey, servers []Row) []Row {
	v, before := b.in.vip, b.before.Working[key]
	set.working = before
	if fromPods := v.podServers(servers, before); len(fromPods) > 0 {
		set.working = fromPods
	}
	set.whole = servers
	if inService(servers) {
		rows := b.slowStart(set, key, b.probed(set, servers))
		b.count(set, key, rows, b.failsOpen(key, servers))
		return b.belowQuorum(set, key, rows)
	}
	if sorry, ok := v.sorry(key.Is6); ok {
		b.count(set, key, nil, false)
		servers = slices.DeleteFunc(slices.Clone(servers), sameAs(sorry))
		set.whole = addMissing(servers, []RealServer{sorry}, "sorry server, nothing else is in service")
		return set.whole
	}
	if len(before) > 0 {
		set.kept = true
		b.count(set, key, nil, true)
		set.whole = b.keepWorking(servers, b.workedBefore(key))
		return b.probed(set, set.whole)
	}
	b.count(set, key, nil, false)
	b.warn(warnNothingServes, familyName(key.Is6), "no %s real server is in service", familyName(key.Is6))
	return servers
}

// services adds one service for each port and address of a family, and one for
// each group of ports that share a mark.
func (b *build) services(set *setAnswer, is6 bool, servers []Row) {
	v := b.in.vip
	if b.last != nil && len(b.ports) > 0 && same(b.ports, b.last.ports) && len(vipGroups(v)) == 0 && len(b.last.set(is6).shards) > 0 {
		// The same services as before, with other real servers.
		for _, services := range b.last.set(is6).shards {
			services = slices.Clone(services)
			some := slices.ContainsFunc(b.in.outages, func(o outage) bool { return o.Port != 0 }) // a port is down by itself
			for i := range services {
				services[i].Servers = servers
				if some && services[i].Protocol == TCP {
					services[i].Servers = b.without(services[i].Port, servers)
				}
			}
			set.shards = append(set.shards, services)
		}
		return
	}
	grouped := b.groups(set, is6, servers)
	for _, a := range v.Addresses {
		if a.Is6() != is6 {
			continue
		}
		services := make(Table, 0, len(b.ports))
		for _, p := range b.ports {
			if !grouped[p.Port] {
				key := ServiceKey{Address: a, Port: p.Number, Protocol: p.Protocol}
				services = append(services, Service{VirtualService: virtualService(v, key), VIP: v.Name, Servers: b.portRows(p, servers)})
			}
		}
		if len(services) > 0 {
			set.shards = append(set.shards, services)
		}
	}
}

// groups adds the firewall-mark services of the VIP's family and returns the
// ports whose packets they get.
func (b *build) groups(set *setAnswer, is6 bool, servers []Row) map[Port]bool {
	v := b.in.vip
	grouped := make(map[Port]bool)
	for _, g := range vipGroups(v) {
		mark := b.marks[g.name]
		found, members := false, servers
		for _, p := range b.ports {
			if grouped[p.Port] || g.ports != nil && !slices.Contains(g.ports, p.Port) {
				continue
			}
			// During a roll-out only some nodes have the port. With one_mark the port
			// has its own service until all have it. The ports of a group must have one
			// real server for a client: the nodes that have all of them.
			if g.ports == nil && !(p.everywhere(servers) && b.answersEverywhere(p.Port, servers)) {
				continue
			}
			members = b.portRows(p, members)
			grouped[p.Port], found = true, true
			for _, a := range v.Addresses {
				if a.Is6() == is6 {
					if set.marks == nil {
						set.marks = make(map[MarkedPort]uint32)
					}
					set.marks[MarkedPort{Address: a, Port: p.Port}] = mark
				}
			}
		}
		if found {
			set.shards = append(set.shards, Table{{VirtualService: virtualService(v, MarkKey(mark, is6)), VIP: v.Name, Servers: members}})
		}
	}
	return grouped
}

// virtualService is how v's service with key k is configured.
func virtualService(v *VIP, k ServiceKey) VirtualService {
	s := VirtualService{ServiceKey: k, Scheduler: v.Scheduler, Flags: v.Flags}
	datagrams := k.Protocol == UDP || k.Mark != 0
	if !datagrams {
		s.Flags &^= FlagOnePacket
	}
	if v.Persistence.Timeout > 0 {
		s.Flags |= FlagPersistent
		s.Persistence = uint32(v.Persistence.Timeout / time.Second)
		if whole := uint8(k.Address.BitLen()); k.Address.Is6() && v.Persistence.Prefix6 < whole {
			s.Netmask = v.Persistence.Prefix6
		} else if k.Address.Is4() && v.Persistence.Prefix4 < whole {
			s.Netmask = v.Persistence.Prefix4
		}
		if k.Protocol == UDP {
			s.Engine = v.Persistence.Engine
		}
	}
	return s
}
