// Which VIP a service belongs to, also at an address that several VIPs share, and which
// firewall mark a group of ports has.
//
// Used by desired*.go, host*.go, reconcile*.go and cmd*.go. Pure: the configuration
// goes in, the answers come out.

package main

import (
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
)

// owners are the VIPs for which addresses and marks are configured.
type owners struct {
	addresses map[netip.Addr][]*VIP // in file order
	marks     map[uint32]*VIP
	former    map[uint32]*VIP // marks that a VIP had and has no more
	// ports are the VIPs that have, or had last, the ports of addresses that several
	// VIPs share.
	ports map[ServiceKey]*VIP
}

// of returns the VIP that k belongs to, nil when none is configured for it. A port of a
// shared address that no VIP has or had belongs to the first.
func (o owners) of(k ServiceKey) *VIP {
	if k.Mark != 0 {
		return o.marks[k.Mark]
	}
	all := o.addresses[k.Address]
	if len(all) == 0 {
		return nil
	}
	if len(all) > 1 {
		if v := o.ports[k]; v != nil {
			return v
		}
		for _, v := range all {
			if v.configures(k) {
				return v
			}
		}
	}
	return all[0]
}

// configures reports whether the port of k is in v's ports.
func (v *VIP) configures(k ServiceKey) bool {
	_, has := slices.BinarySearchFunc(v.Ports, k.port().Port, Port.Compare)
	return has
}

// at returns the first VIP of an address, for what all that share it agree in; nil when
// none is configured.
func (o owners) at(a netip.Addr) *VIP {
	if all := o.addresses[a]; len(all) > 0 {
		return all[0]
	}
	return nil
}

// firsts are the first VIPs of all addresses.
func (o owners) firsts() map[netip.Addr]*VIP {
	all := make(map[netip.Addr]*VIP, len(o.addresses))
	for a := range o.addresses {
		all[a] = o.at(a)
	}
	return all
}

// withPorts is o with the owners of ports by their names. One that does not have the
// address any more is left out.
func (o owners) withPorts(names map[ServiceKey]string) owners {
	o.ports = make(map[ServiceKey]*VIP, len(names))
	for k, name := range names {
		if i := slices.IndexFunc(o.addresses[k.Address], func(v *VIP) bool { return v.Name == name }); i >= 0 {
			o.ports[k] = o.addresses[k.Address][i]
		}
	}
	return o
}

// latest is of. It also finds the VIP that had a mark earlier.
func (o owners) latest(k ServiceKey) *VIP {
	if v := o.of(k); v != nil || k.Mark == 0 {
		return v
	}
	return o.former[k.Mark]
}

// newOwners lists the addresses and marks of cfg.
func newOwners(cfg *Config) owners {
	o := owners{addresses: make(map[netip.Addr][]*VIP), marks: make(map[uint32]*VIP), former: make(map[uint32]*VIP)}
	for i := range cfg.VIPs {
		for _, a := range cfg.VIPs[i].Addresses {
			o.addresses[a] = append(o.addresses[a], &cfg.VIPs[i])
		}
	}
	for group, mark := range configMarks(cfg) {
		i := slices.IndexFunc(cfg.VIPs, func(v VIP) bool { return v.Name == group.VIP })
		o.marks[mark] = &cfg.VIPs[i]
	}
	return o
}

// vipGroup is a set of ports that share a mark.
type vipGroup struct {
	name  GroupName
	ports []Port // nil: all that are in no other group
}

// vipGroups are the groups of v, those with named ports first.
func vipGroups(v *VIP) []vipGroup {
	var groups []vipGroup
	for _, ports := range v.Groups {
		names := make([]string, len(ports))
		for i, p := range ports {
			names[i] = p.String()
		}
		groups = append(groups, vipGroup{GroupName{v.Name, strings.Join(names, ",")}, ports})
	}
	if v.OneMark {
		groups = append(groups, vipGroup{GroupName{v.Name, "all"}, nil})
	}
	return groups
}

// configMarks gives every group of the configuration its mark, the same on
// each director that has the same groups.
func configMarks(cfg *Config) map[GroupName]uint32 {
	var names []GroupName
	for i := range cfg.VIPs {
		for _, g := range vipGroups(&cfg.VIPs[i]) {
			names = append(names, g.name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return allocateMarks(cfg.Marks, names)
}

// allocateMarks gives each group a separate mark out of r. The result depends on
// the set of groups alone, not on their order. A group that is alone at its home
// mark has it, whatever else is configured. Of several the first in Compare order
// has it, and the others take the next marks that are the home of no group. r is
// at least as large as the number of groups.
func allocateMarks(r MarkRange, groups []GroupName) map[GroupName]uint32 {
	groups = slices.Compact(sortedBy(slices.Values(groups), GroupName.Compare))
	marks := make(map[GroupName]uint32, len(groups))
	taken := make(map[uint32]bool, len(groups))
	for _, g := range groups {
		if home := g.home(r); !taken[home] {
			marks[g], taken[home] = home, true
		}
	}
	for _, g := range groups {
		if _, ok := marks[g]; ok {
			continue
		}
		mark := g.home(r)
		for taken[mark] {
			mark = r.First + uint32((uint64(mark-r.First)+1)%uint64(r.Count))
		}
		marks[g], taken[mark] = mark, true
	}
	return marks
}

// home is the mark that g has when no other group wants it: the 64-bit FNV-1a
// hash of the VIP's name, a zero byte and the group's name, modulo the size of
// the range. Two directors, maybe of different versions, must compute the same
// mark so that their connection tables agree. So this never changes.
func (g GroupName) home(r MarkRange) uint32 {
	h := fnv.New64a()
	h.Write([]byte(g.VIP + "\x00" + g.Group))
	return r.First + uint32(h.Sum64()%uint64(r.Count))
}
