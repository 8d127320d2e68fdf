// Leaves out of the services of the import what config.toml cannot say.
//
// Used by cmd_import_group.go and cmd_import_text.go. A service or a real server that is
// left out has the reason. What stays is a service that a [[vip]] can have, whatever the
// others are. Pure.

package main

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

// Reasons that several sources have.
const (
	noPort = "it has no port, and means all of them; config.toml has a list of ports"
	byNAT  = "it uses NAT; config.toml has direct routing and tunnels"
	// ownMarks is why a virtual service of a firewall mark is not taken.
	ownMarks = "it is by firewall mark: lvs-controller has its marks for itself; give the VIP its addresses and ports, and groups or one_mark"
)

// importShape is what all real servers of a VIP have in common.
type importShape struct {
	forward      ForwardingMethod
	tunnel       TunnelSettings
	upper, lower uint32
}

func shapeOf(r *RealServer) importShape { return importShape{r.Forward, r.Tunnel, r.Upper, r.Lower} }

// fit judges all services.
func (f *imported) fit() {
	vips := make(map[netip.Addr]bool)
	first := make(map[ServiceKey]*importPlace)
	for _, s := range f.services {
		if s.fitService(); s.refused != "" {
			continue
		}
		if at, twice := first[s.ServiceKey]; twice {
			s.refuse(s.ServiceKey.String() + " is a virtual service of " + at.String() + " already")
			continue
		}
		first[s.ServiceKey] = s.at
		vips[s.Address] = true
	}
	for _, s := range f.services {
		if s.refused == "" {
			s.fitServers(vips)
		}
	}
}

// fitService judges the service without its real servers.
func (s *importService) fitService() {
	key := s.ServiceKey
	switch kind := notUnicast(key.Address); {
	case s.refused != "":
	case key.Mark != 0:
		s.refuse(ownMarks)
	case kind != "":
		s.refuse("its address is " + kind)
	case key.Port == 0:
		s.refuse(noPort)
	case !knownScheduler(s.Scheduler):
		s.refuse("its scheduler " + quote(s.Scheduler) + " is not one of config.toml")
	}
	if s.refused == "" {
		s.fitFlags()
		s.fitPersistence()
	}
}

// fitFlags judges the flags of the scheduler.
func (s *importService) fitFlags() {
	known := FlagPersistent
	for _, f := range serviceFlags {
		if f.scheduler == s.Scheduler || f.scheduler == "" && s.Protocol == UDP {
			known |= f.bit
		}
	}
	if other := s.Flags &^ known; other != 0 {
		odd := s.VirtualService
		odd.Flags = other
		s.refuse("its flags have " + flagWords(&odd) + ", which config.toml does not have for scheduler " + s.Scheduler + " and protocol " + s.Protocol.String())
	}
}

// fitPersistence judges the persistence.
func (s *importService) fitPersistence() {
	const longest = uint32(24 * time.Hour / time.Second)
	has := s.Flags&FlagPersistent != 0
	switch {
	case has != (s.Persistence > 0), !has && (s.Engine != "" || s.Netmask != 0):
		s.refuse("its persistence has no timeout, or settings without persistence")
	case s.Persistence > longest:
		s.refuse("its persistence is longer than 24 hours, and config.toml has that at most")
	case s.Netmask == oddNetmask && s.Address.Is4():
		s.refuse("its netmask is no prefix of an address")
	case !engines.MatchString(s.Engine):
		s.refuse("its persistence engine " + quote(s.Engine) + " is not sip")
	case s.Engine != "" && s.Protocol != UDP:
		s.refuse("its persistence engine is sip, which is for UDP alone")
	}
	if int(s.Netmask) == s.Address.BitLen() {
		s.Netmask = 0 // the whole address
	}
}

// fitServers judges the real servers. They all get one shape: that of most of them.
func (s *importService) fitServers(vips map[netip.Addr]bool) {
	seen := make(map[netip.Addr]bool)
	shapes := make(map[importShape]int)
	for i := range s.servers {
		r := &s.servers[i]
		if r.fit(s, vips); r.refused == "" && seen[r.Address] {
			r.refused = "this is a second entry of the address"
		}
		if r.refused == "" {
			seen[r.Address] = true
			shapes[shapeOf(&r.RealServer)]++
		}
	}
	var common importShape
	for i := range s.servers { // the first of those that are equally frequent
		if r := &s.servers[i]; r.refused == "" && shapes[shapeOf(&r.RealServer)] > shapes[common] {
			common = shapeOf(&r.RealServer)
		}
	}
	why, taken := map[string]bool{}, make(map[netip.Addr]bool)
	left := 0
	for i := range s.servers {
		r := &s.servers[i]
		if r.refused == "" && shapeOf(&r.RealServer) != common {
			r.refused = "its forwarding method, tunnel or thresholds differ from those of the others, and a VIP has the same for all"
		}
		if r.refused == "" {
			left++
			taken[r.Address] = true
		}
		why[r.refused] = true
	}
	switch {
	case len(s.servers) == 0:
		s.refuse("it has no real server; config.toml needs one in real_servers, or a selector")
	case left == 0 && len(why) == 1:
		s.refuse(s.servers[0].refused)
	case left == 0:
		s.refuse("no real server is left: " + s.servers[0].refused)
	}
	s.checks = slices.DeleteFunc(slices.Clone(s.checks), func(c importCheck) bool { return !taken[c.server] })
	s.fitSorry(common, vips)
	s.fitQuorum()
}

// fitSorry judges the sorry server, which has the shape of the real servers.
func (s *importService) fitSorry(common importShape, vips map[netip.Addr]bool) {
	for i := range s.sorry {
		r := &s.sorry[i]
		r.fit(s, vips)
		same := func(o importServer) bool { return o.refused == "" && o.Address == r.Address }
		switch {
		case r.refused != "":
		case r.Forward != common.forward || r.Tunnel != common.tunnel:
			r.refused = "its forwarding method differs from that of the real servers, and a VIP has one"
		case slices.ContainsFunc(s.servers, same):
			r.refused = "it is a real server too"
		}
	}
}

// fit judges a real server or sorry server of s.
func (r *importServer) fit(s *importService, vips map[netip.Addr]bool) {
	kind := notUnicast(r.Address)
	switch {
	case r.refused != "":
	case r.Forward == Masq:
		r.refused = byNAT
	case r.Forward != DirectRoute && r.Forward != Tunnel:
		r.refused = "its forwarding method is " + r.Forward.String() + "; config.toml has direct routing and tunnels"
	case kind != "":
		r.refused = "its address is " + kind
	case r.Address.Is6() != s.Address.Is6():
		r.refused = "its address is " + familyName(r.Address.Is6()) + ", and that of the virtual service " + familyName(s.Address.Is6())
	case vips[r.Address]:
		r.refused = "its address is that of a virtual service; config.toml needs the real server's own"
	case r.Weight > math.MaxUint16:
		r.refused = "its weight is more than 65535"
	case r.Lower != 0 && r.Lower >= r.Upper:
		r.refused = "its lower threshold is not less than the upper one"
	case r.Forward == Tunnel && (r.Tunnel.Type == TunnelGUE) != (r.Tunnel.Port != 0):
		r.refused = "its tunnel is gue without a port, or another type with one"
	}
}
