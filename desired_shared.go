// Addresses that several VIPs share: which VIP has each port.
//
// Used by reconcile*.go. A port belongs to one VIP at a time. Two VIPs may want it when
// it comes from the cluster; the configuration alone never has it twice. Pure, a part of
// desired.

package main

import (
	"maps"
	"net/netip"
	"slices"
)

// shared reports whether several VIPs have a.
func (o owners) shared(a netip.Addr) bool { return len(o.addresses[a]) > 1 }

// anyShared reports whether several VIPs have the same address.
func (o owners) anyShared() bool {
	for a := range o.addresses {
		if o.shared(a) {
			return true
		}
	}
	return false
}

// decidePorts gives each port of a shared address to one of the VIPs that want it: to the
// one that has had it, else to the one that has it in the configuration, else to the
// first in the file. A VIP whose inputs are incomplete keeps what it has had. The others
// are warned of. What no VIP wants stays with the one that has had it: it drains as that
// one says.
func (w *wanted) decidePorts(before memory, warnings *faultList) {
	if !w.Owners.anyShared() {
		return
	}
	claims := make(map[ServiceKey][]*VIP) // in file order
	incomplete := make(map[workKey]bool)
	for _, v := range w.vips {
		claim := func(k ServiceKey) {
			if k.Mark == 0 && w.Owners.shared(k.Address) {
				claims[k] = append(claims[k], v.in.vip)
			}
		}
		for _, is6 := range []bool{false, true} {
			set := v.set(is6)
			incomplete[workKey{v.in.vip.Name, is6}] = set.incomplete
			for _, services := range set.shards {
				for i := range services {
					claim(services[i].ServiceKey)
				}
			}
			for p := range set.marks {
				claim(p.service())
			}
		}
	}
	had := w.Owners.withPorts(before.Ports).ports
	ports := make(map[ServiceKey]*VIP, len(claims))
	for k, v := range had {
		if len(claims[k]) == 0 || slices.Contains(claims[k], v) || incomplete[workKey{v.Name, k.Address.Is6()}] {
			ports[k] = v
		}
	}
	for _, k := range sortedBy(maps.Keys(claims), ServiceKey.Compare) {
		why := "has it already"
		if ports[k] == nil {
			configured := slices.IndexFunc(claims[k], func(v *VIP) bool { return v.configures(k) })
			if why = "has it in the configuration"; configured < 0 {
				configured, why = 0, "is before it in the file"
			}
			ports[k] = claims[k][configured]
		}
		for _, v := range claims[k] {
			if v != ports[k] {
				f := warnings.find(v.Name, warnPortTaken, "")
				f.add("port %s belongs to VIP %s, which %s", k, ports[k].Name, why)
			}
		}
	}
	w.Owners.ports = ports
	for k, v := range ports {
		w.Memory.Ports[k] = v.Name
	}
}

// own returns those of v's services, all of one address or mark, that v has the ports of.
func (w *wanted) own(v *VIP, services Table) Table {
	first := services[0].ServiceKey
	others := func(s Service) bool { return w.Owners.of(s.ServiceKey) != v }
	if first.Mark != 0 || !w.Owners.shared(first.Address) || !slices.ContainsFunc(services, others) {
		return services
	}
	return slices.DeleteFunc(slices.Clone(services), others)
}

// addMarks adds those of v's marks that v has the ports of.
func (w *wanted) addMarks(v *VIP, marks map[MarkedPort]uint32) {
	for p, mark := range marks {
		if w.Owners.of(p.service()) == v {
			w.Marks[p] = mark
		}
	}
}

// joinShards makes one shard of those with the same address. ps is in order.
func joinShards(ps shards) shards {
	joined := ps[:0]
	for _, p := range ps {
		last := len(joined) - 1
		if last < 0 || compareShards(joined[last], p) != 0 {
			joined = append(joined, p)
			continue
		}
		services := slices.Concat(joined[last].Services, p.Services)
		sortBy(services, compareServices)
		joined[last].Services = services
	}
	return joined
}
