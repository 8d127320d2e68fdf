// What the kernel's table should be, from the inputs alone.
//
// reconcile.go and the diff sub-command call desired with the newest
// configuration and cluster and what is remembered of the past. Pure: no I/O,
// no clock, no logging; the same inputs give the same table, row for row.
// servers.go and ports.go hold the two halves of a VIP.

package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// workKey names a set of real servers: those of one VIP in one family.
type workKey struct {
	VIP string
	Is6 bool
}

// compareWorkKeys orders sets by VIP, then family.
func compareWorkKeys(a, b workKey) int {
	if c := cmp.Compare(a.VIP, b.VIP); c != 0 || a.Is6 == b.Is6 {
		return c
	}
	if b.Is6 {
		return -1
	}
	return 1
}

// startKey names a real server of a VIP.
type startKey struct {
	VIP     string
	Address netip.Addr
}

// memory is what desired needs to know of the past.
type memory struct {
	// Working are the real servers that were in service last because of their
	// pods, with their whole weights: what a VIP falls back on rather than serve
	// nobody. Static ones are the operator's word and not remembered.
	Working map[workKey][]RealServer
	// Started is when real servers that are still in slow start joined.
	Started map[startKey]time.Time
}

func newMemory() memory {
	return memory{Working: make(map[workKey][]RealServer), Started: make(map[startKey]time.Time)}
}

// wanted is desired's answer.
type wanted struct {
	Table Table
	// Marks are the packets that get a firewall mark, for port groups.
	Marks map[MarkedPort]uint32
	// Memory replaces what was passed in.
	Memory memory
	// Kept lists the sets that fell back on their memory, in order.
	Kept []workKey
	// Hold has an entry for each set of which too little is known to remove
	// anything: what the kernel has there stays.
	Hold map[workKey]hold
	// Warnings are complaints about the inputs, each a whole sentence, sorted.
	Warnings []string
	// Owners tell which VIP a service of the kernel belongs to.
	Owners owners
	// Next is when the answer will change by itself (slow start); zero when it
	// will not.
	Next time.Time
}

// owners maps addresses and marks to the VIPs they are configured for.
type owners struct {
	addresses map[netip.Addr]*VIP
	marks     map[uint32]*VIP
	former    map[uint32]*VIP // marks that a VIP had and has no more
}

// of returns the VIP that k belongs to, nil when it is configured no more.
func (o owners) of(k ServiceKey) *VIP {
	if k.Mark != 0 {
		return o.marks[k.Mark]
	}
	return o.addresses[k.Address]
}

// latest is of, and for a mark that its VIP has no more that VIP all the same.
func (o owners) latest(k ServiceKey) *VIP {
	if v := o.of(k); v != nil || k.Mark == 0 {
		return v
	}
	return o.former[k.Mark]
}

// hold says what is known of a set whose inputs are incomplete.
type hold struct {
	// Servers are the real servers for services that only the kernel knows.
	// nil when the pods are unknown too: then those services stay as they are.
	Servers []Row
}

// build is desired at work on one answer.
type build struct {
	wanted
	cluster  *Cluster
	before   memory
	now      time.Time
	marks    map[GroupName]uint32
	warnings map[string]bool
}

func (b *build) warn(format string, args ...any) { b.warnings[fmt.Sprintf(format, args...)] = true }

// desired computes the table that cfg asks for at the time now, given the
// newest cluster (nil when nothing has been heard) and what came before.
func desired(cfg *Config, cluster *Cluster, before memory, now time.Time) wanted {
	if cluster == nil {
		cluster = &Cluster{}
	}
	b := &build{
		wanted: wanted{
			Marks:  make(map[MarkedPort]uint32),
			Memory: newMemory(),
			Hold:   make(map[workKey]hold),
			Owners: newOwners(cfg),
		},
		cluster:  cluster,
		before:   before,
		now:      now,
		marks:    configMarks(cfg),
		warnings: make(map[string]bool),
	}
	for i := range cfg.VIPs {
		b.vip(&cfg.VIPs[i])
	}
	slices.SortFunc(b.Table, func(a, b Service) int { return a.Compare(b.ServiceKey) })
	b.Warnings = slices.Sorted(maps.Keys(b.warnings))
	return b.wanted
}

// newOwners lists what cfg makes ours.
func newOwners(cfg *Config) owners {
	o := owners{addresses: make(map[netip.Addr]*VIP), marks: make(map[uint32]*VIP), former: make(map[uint32]*VIP)}
	for i := range cfg.VIPs {
		for _, a := range cfg.VIPs[i].Addresses {
			o.addresses[a] = &cfg.VIPs[i]
		}
	}
	for group, mark := range configMarks(cfg) {
		i := slices.IndexFunc(cfg.VIPs, func(v VIP) bool { return v.Name == group.VIP })
		o.marks[mark] = &cfg.VIPs[i]
	}
	return o
}

// vip adds the services of one VIP in each family it has.
func (b *build) vip(v *VIP) {
	pods, known := b.cluster.Pods[v.PodQuery()]
	known = known || v.Pods.Selector == ""
	ports, portsKnown := b.ports(v, pods)
	// When no pod is ready, pods that are gone may have had ports that nobody
	// declares now: what the kernel has stays, as its real servers do.
	portsKnown = portsKnown && (!v.PortsFromPods || known && slices.ContainsFunc(pods, (*Pod).serves))
	for _, is6 := range []bool{false, true} {
		if !slices.ContainsFunc(v.Addresses, func(a netip.Addr) bool { return a.Is6() == is6 }) {
			continue
		}
		set := workKey{v.Name, is6}
		servers := b.servers(v, pods, is6)
		if !known {
			servers = addMissing(servers, b.workedBefore(v, set), "in service before, the cluster has not answered yet")
			if len(servers) == 0 {
				b.Hold[set] = hold{}
				continue
			}
		}
		servers = b.inService(v, set, servers)
		if !portsKnown {
			b.Hold[set] = hold{Servers: servers}
		}
		b.services(v, is6, ports, servers)
	}
}

// inService sees to it that somebody serves the set: the real servers that
// can, else the sorry server, else those that could last.
func (b *build) inService(v *VIP, set workKey, servers []Row) []Row {
	before := b.workedBefore(v, set)
	if fromPods := v.podServers(servers); len(fromPods) > 0 {
		b.Memory.Working[set] = fromPods
	} else if len(before) > 0 {
		b.Memory.Working[set] = before
	}
	if inService(servers) {
		return b.slowStart(v, set, servers)
	}
	if i := slices.IndexFunc(v.Sorry, func(a netip.Addr) bool { return a.Is6() == set.Is6 }); i >= 0 {
		sorry := RealServer{Address: v.Sorry[i], Weight: v.Weight, Forward: v.Forward, Tunnel: v.Tunnel}
		servers = slices.DeleteFunc(slices.Clone(servers), sameAs(sorry))
		return addMissing(servers, []RealServer{sorry}, "sorry server, nothing else is in service")
	}
	if len(before) > 0 {
		b.Kept = append(b.Kept, set)
		return keepWorking(servers, before)
	}
	b.warn("vip %s: no %s real server is in service", v.Name, familyName(set.Is6))
	return servers
}

// services adds one service for each port and address of a family, and one for
// each group of ports that share a mark.
func (b *build) services(v *VIP, is6 bool, ports []vipPort, servers []Row) {
	grouped := b.groups(v, is6, ports, servers)
	for _, a := range v.Addresses {
		if a.Is6() != is6 {
			continue
		}
		for _, p := range ports {
			if grouped[p.Port] {
				continue
			}
			key := ServiceKey{Address: a, Port: p.Number, Protocol: p.Protocol}
			b.Table = append(b.Table, Service{VirtualService: virtualService(v, key), VIP: v.Name, Servers: p.only(v, servers)})
		}
	}
}

// groups adds the firewall-mark services of a VIP's family and returns the
// ports that they stand for.
func (b *build) groups(v *VIP, is6 bool, ports []vipPort, servers []Row) map[Port]bool {
	grouped := make(map[Port]bool)
	for _, g := range vipGroups(v) {
		mark := b.marks[g.name]
		found, members := false, servers
		for _, p := range ports {
			if grouped[p.Port] || g.ports != nil && !slices.Contains(g.ports, p.Port) {
				continue
			}
			// In the midst of a roll-out only some nodes have the port. Ports that
			// need not stick together do without the mark until then; those that
			// must are for the nodes that have all of them.
			if g.ports == nil && !p.everywhere(servers) {
				continue
			}
			members = p.only(v, members)
			grouped[p.Port], found = true, true
			for _, a := range v.Addresses {
				if a.Is6() == is6 {
					b.Marks[MarkedPort{Address: a, Port: p.Port}] = mark
				}
			}
		}
		if found {
			b.Table = append(b.Table, Service{VirtualService: virtualService(v, MarkKey(mark, is6)), VIP: v.Name, Servers: members})
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

func familyName(is6 bool) string {
	if is6 {
		return "IPv6"
	}
	return "IPv4"
}
