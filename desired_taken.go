// What a new configuration takes out of service, for a warning.
//
// Used by reconcile*.go and cmd_check.go. The loop says it after a reload, and the
// sub-command check before it. Pure, as all of desired.

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// namedTaken is how many real servers or ports of a VIP a warning names, and how many
// VIPs there are warnings of.
const namedTaken = 10

// serving is what a director has in service.
type serving struct {
	vips    map[netip.Addr]string          // the VIP of each address
	ports   map[MarkedPort]bool            // with a real server
	servers map[string]map[netip.Addr]bool // by VIP
}

func newServing() serving {
	return serving{map[netip.Addr]string{}, map[MarkedPort]bool{}, map[string]map[netip.Addr]bool{}}
}

// add notes a real server of a service, which gets connections. ports are those of a
// service by mark.
func (s *serving) add(vip string, k ServiceKey, server netip.Addr, ports []MarkedPort) {
	if k.Mark == 0 {
		s.vips[k.Address] = vip
		s.ports[MarkedPort{k.Address, Port{k.Port, k.Protocol}}] = true
	}
	for _, p := range ports {
		s.vips[p.Address] = vip
		s.ports[p] = true
	}
	if s.servers[vip] == nil {
		s.servers[vip] = make(map[netip.Addr]bool)
	}
	s.servers[vip][server] = true
}

// serving is what w has in service.
func (w *wanted) serving() serving {
	s, marked := newServing(), make(map[uint32][]MarkedPort)
	for p, mark := range w.Marks {
		marked[mark] = append(marked[mark], p)
	}
	for service := range w.Shards.all {
		for _, r := range service.Servers {
			if r.Weight > 0 {
				s.add(service.VIP, service.ServiceKey, r.Address, marked[service.Mark])
			}
		}
	}
	for i := range w.cfg.VIPs {
		for _, a := range w.cfg.VIPs[i].Addresses {
			s.vips[a] = w.cfg.VIPs[i].Name
		}
	}
	return s
}

// incomplete reports whether the VIP lacks inputs, so that nothing of it is removed yet.
// Its pods count where they may still be answered.
func (w *wanted) incomplete(vip string, pods bool) bool {
	for _, is6 := range []bool{false, true} {
		if _, retained := w.Retained[workKey{vip, is6}]; retained {
			return true
		}
	}
	return pods && slices.ContainsFunc(w.vips, func(v *vipAnswer) bool {
		return v.in.vip.Name == vip && v.in.vip.Pods.Selector != "" && !v.in.podsKnown
	})
}

// taken is what a VIP loses.
type taken struct{ VIP, What string }

// takenAway says which VIPs of s lose a port, or more than half of their real servers,
// once w is in force, in order. It forgets those of s for which w is complete. Without
// pods, real servers of which nothing is known count as those of before.
func (s *serving) takenAway(w *wanted, pods bool) (all []taken) {
	if len(s.servers) == 0 {
		return nil
	}
	now := w.serving()
	names := make([]string, 0, len(s.servers))
	for name := range s.servers {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		known := make(map[string]bool) // the names that the VIP's addresses have now
		waits := false
		for a, vip := range s.vips {
			if is, has := now.vips[a]; vip == name && has {
				known[is] = true
				waits = waits || w.incomplete(is, pods)
			}
		}
		if waits {
			continue
		}
		if what := s.lost(name, &now, known); what != "" {
			all = append(all, taken{name, what})
		}
		delete(s.servers, name)
	}
	return all
}

// lost says what the VIP name, which has the names in known now, loses.
func (s *serving) lost(name string, now *serving, known map[string]bool) string {
	var ports, servers []string
	for p := range s.ports {
		if s.vips[p.Address] == name && !now.ports[p] {
			ports = append(ports, ServiceKey{Address: p.Address, Port: p.Port.Number, Protocol: p.Port.Protocol}.String())
		}
	}
	for a := range s.servers[name] {
		stays := false
		for is := range known {
			stays = stays || now.servers[is][a]
		}
		if !stays {
			servers = append(servers, a.String())
		}
	}
	var all []string
	if len(known) == 0 {
		all = append(all, "the VIP")
	}
	if len(ports) > 0 {
		all = append(all, "ports "+firstOf(ports))
	}
	if before := len(s.servers[name]); 2*len(servers) > before {
		all = append(all, fmt.Sprintf("%d of %d real servers: %s", len(servers), before, firstOf(servers)))
	}
	return strings.Join(all, "; ")
}

// firstOf names the first of names, in order.
func firstOf(names []string) string {
	sort.Strings(names)
	if more := len(names) - namedTaken; more > 0 {
		names = append(slices.Clone(names[:namedTaken]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}
