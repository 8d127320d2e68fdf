// The planner: from what is known of everything, what a pass is to do.
//
// Used by cmd_diff.go. The loop and the sub-command diff share it, so that diff
// shows what a controller would do. It reads no clock, does no I/O and logs
// nothing; what it remembers is in the state, which the loop saves.

package main

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// planner decides what a pass does. It belongs to one goroutine.
type planner struct {
	state  *state
	cfg    *Config // the configuration of owners
	owners owners
	want   *wanted // the last answer of desired
	hash   tableHasher
}

// plan is what a pass is going to do.
type plan struct {
	targetTable
	want  *wanted
	ops   phases
	drift drift // what ops repair
}

// planInputs are what a plan depends on, beside the planner's memory.
type planInputs struct {
	cluster *Cluster
	health  *Health
	have    shards                // the kernel's table, as far as it is ours, and who is leaving
	marked  map[MarkedPort]uint32 // what the host marks; nil: not known yet
	drift   drift
	now     time.Time
}

// own makes the addresses and marks of cfg ours. unread means that the kernel may
// have services on them that have not been read.
func (p *planner) own(cfg *Config) (unread bool) {
	if p.cfg == cfg {
		return false
	}
	p.cfg, p.owners = cfg, newOwners(cfg).withPorts(p.state.Memory.Ports)
	for a := range p.owners.addresses {
		if !p.state.Owned[a] {
			p.state.Owned[a], unread = true, true
		}
	}
	for m, v := range p.owners.marks {
		if _, known := p.state.Marks[m]; !known {
			unread = true
		}
		p.state.Marks[m] = v.Name
	}
	for m, name := range p.state.Marks {
		i := slices.IndexFunc(cfg.VIPs, func(v VIP) bool { return v.Name == name })
		if i >= 0 && p.owners.marks[m] == nil {
			p.owners.former[m] = &cfg.VIPs[i]
		}
	}
	return unread
}

// owns reports whether service k is ours.
func (p *planner) owns(k ServiceKey) bool {
	if k.Mark != 0 {
		_, ours := p.state.Marks[k.Mark]
		return ours
	}
	return p.state.Owned[k.Address]
}

// vipName is the name of the VIP that service k is configured for, "" for one
// that is configured no more.
func (p *planner) vipName(k ServiceKey) string {
	if v := p.owners.latest(k); v != nil {
		return v.Name
	}
	return ""
}

// renamed is have with the names that the VIPs of its services have now. What does
// not change is shared with have, which others may still read.
func (p *planner) renamed(have shards) shards {
	copied := false
	for i := range have {
		services := have[i].Services
		other := func(s Service) bool { return s.VIP != p.vipName(s.ServiceKey) }
		if shared := p.owners.shared(services[0].Address); !shared && !other(services[0]) || shared && !slices.ContainsFunc(services, other) {
			continue
		}
		if !copied {
			have, copied = slices.Clone(have), true
		}
		services = slices.Clone(services)
		for j := range services {
			services[j].VIP = p.vipName(services[j].ServiceKey)
		}
		have[i] = shard{Services: services}
	}
	return have
}

// adopt gives table, which was read from the kernel, what the kernel does not
// know: the VIPs of the services and who is leaving them. before is what the
// table was taken for until now.
func (p *planner) adopt(table, before shards) {
	for now, was := range merged(table, before, compareShards) {
		if now != nil && (was == nil || !same(now.Services, was.Services)) {
			p.adoptShard(now, was)
		}
	}
	clear(p.state.Drains)
}

// adoptShard is adopt for one shard. Who is leaving is known from the shard before or
// from the state file.
func (p *planner) adoptShard(now, was *shard) {
	now.From, now.Next = nil, time.Time{}
	for i := range now.Services {
		s := &now.Services[i]
		s.VIP = p.vipName(s.ServiceKey)
		if was != nil {
			if old := was.Services.at(s.ServiceKey); old != nil {
				s.Leaving = old.Leaving
			}
		}
		if len(p.state.Drains) == 0 {
			continue
		}
		for _, row := range s.Servers {
			if d, draining := p.state.Drains[rowOf(s.ServiceKey, row.RealServer)]; draining && findLeaving(s.Leaving, row.RealServer) == nil {
				s.Leaving = append(slices.Clip(s.Leaving), leaving{Address: row.Address, Port: row.Port, drain: d})
			}
		}
	}
}

// plan decides what the pass does, and remembers it.
func (p *planner) plan(in planInputs) plan {
	p.seed(in)
	want := desired(p.want, p.cfg, in.cluster, in.health, p.state.Memory, in.now)
	p.owners.ports = want.Owners.ports
	want.Owners = p.owners // which know former marks too
	p.want = &want
	next := plan{want: &want, targetTable: computeTarget(&want, in.have, in.now)}
	next.ops, next.drift = diff(next.Shards, in.have), in.drift
	if len(in.drift) > 0 {
		for o := range next.ops.all {
			if in.drift.touches(o) {
				o.because(whyRepaired + ": " + o.Why)
			}
		}
	}
	maps.DeleteFunc(want.Memory.Ports, func(k ServiceKey, _ string) bool { // drained
		_, marked := want.Marks[k.port()]
		return !marked && next.Shards.find(k) == nil && in.have.find(k) == nil
	})
	p.state.Memory, p.state.Leaving = want.Memory, next.Shards
	p.state.rememberWithdrawn(next.Withdrawn)
	p.state.Down, p.state.Unresolved = want.health.orEmpty().Down, want.health.orEmpty().Unresolved
	return next
}

// seed remembers as working what the kernel has in service for sets of pods of
// which nothing is remembered: the table of a controller that kept no state, of
// another tool whose services are adopted, or of a VIP that has a new name.
func (p *planner) seed(in planInputs) {
	found := make(map[workKey][]RealServer)
	for i := range in.have {
		services := in.have[i].Services
		for j := range services {
			k := services[j].ServiceKey
			v := p.owners.latest(k)
			if v == nil || v.Pods.Selector == "" || k.Mark != 0 && !p.marksNow(in.marked, k.Mark, v.Name) || p.state.Memory.knows(workKey{v.Name, k.Address.Is6()}) {
				if !p.owners.shared(k.Address) {
					break // the others are of the same VIP
				}
				continue
			}
			set := workKey{v.Name, k.Address.Is6()}
			for _, row := range services[j].Servers {
				if row.Weight > 0 && !v.isStatic(row.Address) && row.Port == 0 && row.Address.Is6() == set.Is6 && !slices.ContainsFunc(found[set], row.SameServer) {
					found[set] = append(found[set], row.RealServer)
				}
			}
		}
	}
	for set, servers := range found {
		sortBy(servers, RealServer.Compare)
		p.state.Memory.Working[set] = servers
	}
}

// marksNow reports whether the host gives mark to packets of the VIP now: a mark
// that was another VIP's until this configuration tells nothing about it.
func (p *planner) marksNow(marked map[MarkedPort]uint32, mark uint32, vip string) bool {
	for at, m := range marked {
		if v := p.owners.of(at.service()); m == mark && v != nil && v.Name == vip {
			return true
		}
	}
	return marked == nil // not asked yet: after a start
}

// forgetEmpty gives up the ownership of addresses and marks that are configured
// no more and have no service of ours left in have.
func (p *planner) forgetEmpty(have shards) {
	addresses, marks := make(map[netip.Addr]bool), make(map[uint32]bool)
	for i := range have {
		k := have[i].Services[0].ServiceKey
		addresses[k.Address], marks[k.Mark] = true, true
	}
	maps.DeleteFunc(p.state.Owned, func(a netip.Addr, _ bool) bool { return p.owners.addresses[a] == nil && !addresses[a] })
	maps.DeleteFunc(p.state.Marks, func(m uint32, _ string) bool { return p.owners.marks[m] == nil && !marks[m] })
}

// whyRepaired begins the reason of a change that undoes another program's.
const whyRepaired = "repaired, another program changed it"

// drift is what another program changed in our part of the kernel's table: rows, and
// services under their keys alone.
type drift map[rowID]bool

// touches reports whether o repairs something of d.
func (d drift) touches(o *op) bool { return d[rowID{Service: o.Service.ServiceKey}] || d[o.row()] }
