// Services of the import → VIPs.
//
// Used by cmd_import_probes.go and cmd_import_text.go. A VIP has ports with the same
// scheduler, flags, persistence and real servers; addresses with the same ports of that
// kind are together in one. Pure.

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// importVIP is a [[vip]] of the result: services with all the same settings.
type importVIP struct {
	name      string
	addresses []netip.Addr
	services  []*importService // of all addresses, in the order of the source
	ports     []Port
	flags     ServiceFlags // of all its services together
	engine    string
}

// first is the service that the settings are taken from.
func (v *importVIP) first() *importService { return v.services[0] }

// vips makes VIPs of the services that are not refused, in the order of the source.
// Services of one address with different real servers or settings are several VIPs, which
// share it.
func (f *imported) vips() []*importVIP {
	var addresses []netip.Addr
	byAddress := make(map[netip.Addr][]*importService)
	for _, s := range f.services {
		if s.refused != "" {
			continue
		}
		if byAddress[s.Address] == nil {
			addresses = append(addresses, s.Address)
		}
		byAddress[s.Address] = append(byAddress[s.Address], s)
	}
	var all []*importVIP
	byKind := make(map[string]*importVIP)
	for _, a := range addresses {
		for _, set := range serviceSets(byAddress[a]) {
			set.addresses = []netip.Addr{a}
			kind := set.kind()
			if v := byKind[kind]; v != nil {
				v.addresses, v.services = append(v.addresses, a), append(v.services, set.services...)
				continue
			}
			byKind[kind] = set
			all = append(all, set)
		}
	}
	names := make(map[string]bool)
	for _, v := range all {
		v.name = freeName(v, names)
	}
	return all
}

// serviceSets splits the services of one address into sets, each of which is one [[vip]]:
// the largest first, of equal ones the first in the source.
func serviceSets(services []*importService) []*importVIP {
	var kinds []string
	byKind := make(map[string][]*importService)
	for _, s := range services {
		kind := s.kind()
		if byKind[kind] == nil {
			kinds = append(kinds, kind)
		}
		byKind[kind] = append(byKind[kind], s)
	}
	var sets []*importVIP
	for _, kind := range kinds {
		sets = append(sets, splitUDP(byKind[kind])...)
	}
	stableBy(sets, func(a, b *importVIP) int { return len(b.services) - len(a.services) })
	for _, set := range sets {
		for _, s := range set.services {
			set.ports = append(set.ports, Port{s.ServiceKey.Port, s.Protocol})
		}
		sortBy(set.ports, Port.Compare)
	}
	return sets
}

// splitUDP makes sets of services that differ at most in what is for UDP alone. The
// others are in the set with the most UDP services.
func splitUDP(services []*importService) []*importVIP {
	var sets []*importVIP
	var rest []*importService
	for _, s := range services {
		if s.Protocol != UDP {
			rest = append(rest, s)
			continue
		}
		i := slices.IndexFunc(sets, func(v *importVIP) bool { return v.flags == s.Flags && v.engine == s.Engine })
		if i < 0 {
			i = len(sets)
			sets = append(sets, &importVIP{flags: s.Flags, engine: s.Engine})
		}
		sets[i].services = append(sets[i].services, s)
	}
	if len(sets) == 0 {
		return []*importVIP{{services: rest, flags: rest[0].Flags}}
	}
	stableBy(sets, func(a, b *importVIP) int { return len(b.services) - len(a.services) })
	sets[0].services = append(sets[0].services, rest...)
	stableBy(sets[0].services, func(a, b *importService) int { return a.at.order - b.at.order })
	return sets
}

// kind names what the services of one [[vip]] have in common, for one address. A real
// server with weight 0 may be missing in some. Each virtual_server counts its quorum alone.
func (s *importService) kind() string {
	var b strings.Builder
	if s.quorum.Least > 0 {
		fmt.Fprint(&b, "quorum ", s.quorum.at.order, " ")
	}
	fmt.Fprint(&b, s.Scheduler, s.Flags&^FlagOnePacket, s.Persistence, s.Netmask)
	for i, r := range s.fitting() {
		if i == 0 {
			fmt.Fprint(&b, shapeOf(&r)) // all have the same
		}
		if r.Weight > 0 {
			fmt.Fprint(&b, " ", r.Address, r.Weight)
		}
	}
	return b.String()
}

// fitting are the real servers of s that are taken.
func (s *importService) fitting() []RealServer {
	var all []RealServer
	for i := range s.servers {
		if s.servers[i].refused == "" {
			all = append(all, s.servers[i].RealServer)
		}
	}
	sortBy(all, RealServer.Compare)
	return all
}

// removesAtOnce reports whether a controller takes real servers of s with weight 0 out of the
// kernel's table without a drain: by UDP, and with a scheduler that refuses their clients.
func (s *importService) removesAtOnce() bool {
	return s.Protocol == UDP || findScheduler(s.Scheduler).atOnce
}

// servers are the real servers of v. Those with weight 0 need not be in all services: the
// controller adds none to the kernel's table.
func (v *importVIP) servers() []RealServer {
	var all []RealServer
	for _, s := range v.services {
		all = append(all, s.fitting()...)
	}
	sortBy(all, RealServer.Compare)
	return slices.CompactFunc(all, RealServer.SameServer)
}

// kind names what the addresses of one [[vip]] have in common.
func (v *importVIP) kind() string {
	s := v.first()
	var b strings.Builder
	fmt.Fprintf(&b, "%q %v %s %v %d %q %v", s.name, s.Address.Is6(), s.kind(), v.ports, v.flags, v.engine, v.servers())
	for _, s := range v.services {
		for i := range s.sorry {
			fmt.Fprint(&b, " ", s.sorry[i].Address, s.sorry[i].refused)
		}
		for i := range s.checks {
			c := &s.checks[i]
			fmt.Fprintf(&b, " %d %d %v %q %q %q %v", c.kind, c.port, c.http, c.dns.Name, c.dns.Type, fmt.Sprint(c.udp), c.timing)
		}
	}
	return b.String()
}

// freeName makes a name for v that no other VIP has.
func freeName(v *importVIP, names map[string]bool) string {
	base := "vip-" + v.addresses[0].String()
	if name := v.first().name; name != "" {
		base = name
	}
	base = strings.TrimLeft(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, base), "-")
	if base == "" {
		base = "vip"
	}
	base = base[:min(len(base), 50)]
	name := base
	for n := 2; names[name]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	names[name] = true
	return name
}
