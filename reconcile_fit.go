// Which VIP addresses this host should have now: a pure decision.
//
// Used by reconcile_announce.go. The announcer calls fitAddresses in each pass. No
// I/O, no clock, no log.

package main

import (
	"maps"
	"net/netip"
	"slices"
)

// addressFacts is what decides which VIP addresses the host should have.
type addressFacts struct {
	owners    owners
	have      shards              // the kernel's table, as far as it is ours
	known     bool                // that table has been read since the process began
	devices   []VIPAddress        // addresses that the controller has put on devices, now or earlier
	local     []netip.Addr        // addresses with a local route of the controller's: those of the dummy device
	announced []netip.Addr        // what was wanted last
	drained   bool                // the operator has drained this director
	fit       bool                // the director as a whole should get traffic
	withdrawn map[netip.Addr]bool // addresses of VIPs below their quorum
}

// fitAddresses decides which addresses should be announced. routed means that fit
// makes a difference to one of them.
//
// With "arp" those are the addresses that a real server serves, which must not be
// claimed any earlier, and those that were announced before: no other host would
// have them. With "dummy" the other director has routes too, so an address is
// there only while it is served and the director as a whole is fit for traffic;
// its packets are accepted as long as there are services for them.
//
// The addresses of a VIP below its quorum are not announced with either.
//
// The address of a VIP that is configured no more stays until its last real server
// has drained, or its packets would no longer reach IPVS.
func fitAddresses(f *addressFacts) (want vipAddresses, routed bool) {
	want.Drained = f.drained
	ours := f.ours()
	serving, used := f.served()
	if f.keepAll() {
		maps.Copy(used, ours)
	}
	for a := range f.owners.addresses {
		m := f.owners.at(a).Announce.method()
		routed = routed || m.needsFit
		if m.onDummy && used[a] {
			want.Local = append(want.Local, a)
		}
		announced := serving[a] && f.fit
		if !m.needsFit {
			announced = !f.drained && (serving[a] || ours[a] || slices.Contains(f.announced, a))
		}
		if announced && m.byController() && !f.withdrawn[a] {
			want.Announced = append(want.Announced, a)
		}
	}
	for a := range ours {
		if f.owners.addresses[a] == nil && used[a] {
			routed = f.keep(a, &want) || routed
		}
	}
	sortBy(want.Announced, netip.Addr.Compare)
	sortBy(want.Local, netip.Addr.Compare)
	return want, routed
}

// keep adds a, which no VIP has any more, to want. It reports whether the fitness of the
// director makes a difference to it.
func (f *addressFacts) keep(a netip.Addr, want *vipAddresses) (routed bool) {
	routed = slices.Contains(f.local, a)
	if routed {
		want.Local = append(want.Local, a)
	}
	if !f.drained && (f.fit || !routed) {
		want.Announced = append(want.Announced, a)
	}
	return routed
}

// ours are the addresses that the controller has put somewhere.
func (f *addressFacts) ours() map[netip.Addr]bool {
	ours := addAll(make(map[netip.Addr]bool), f.local)
	for _, a := range f.devices {
		ours[a.Address] = true
	}
	return ours
}

// served are the addresses that have a service, and those of them that have one
// with a real server in service.
func (f *addressFacts) served() (serving, used map[netip.Addr]bool) {
	serving, used = make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	for i := range f.have {
		services := f.have[i].Services
		first := &services[0]
		addresses := []netip.Addr{first.Address}
		if v := f.owners.of(first.ServiceKey); v != nil && first.Mark != 0 {
			addresses = v.Addresses
		}
		inService := slices.ContainsFunc(services, Service.InService)
		for _, a := range addresses {
			if a.Is6() == first.Address.Is6() {
				used[a] = true
				serving[a] = serving[a] || inService
			}
		}
	}
	return serving, used
}

// keepAll reports whether all of our addresses stay: what the kernel forwards is
// not known yet, or a service drains whose mark belongs to no VIP any more, so that
// its addresses are not known.
func (f *addressFacts) keepAll() bool {
	return !f.known || slices.ContainsFunc(f.have, func(p shard) bool {
		k := p.Services[0].ServiceKey
		return k.Mark != 0 && f.owners.of(k) == nil
	})
}
