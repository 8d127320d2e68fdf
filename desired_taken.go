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
	vips    map[netip.Addr][]string        // the VIPs of each address
	ports   map[MarkedPort]string          // with a real server, and their VIPs
	servers map[string]map[netip.Addr]bool // by VIP
}

func newServing() serving {
	return serving{map[netip.Addr][]string{}, map[MarkedPort]string{}, map[string]map[netip.Addr]bool{}}
}

// add notes a real server of a service, which gets connections. ports are those of a
// service by mark.
func (s *serving) add(vip string, k ServiceKey, server netip.Addr, ports []MarkedPort) {
	if k.Mark == 0 {
		ports = []MarkedPort{k.port()}
	}
	for _, p := range ports {
		s.at(p.Address, vip)
		s.ports[p] = vip
	}
	if s.servers[vip] == nil {
		s.servers[vip] = make(map[netip.Addr]bool)
	}
	s.servers[vip][server] = true
}

// at notes that a is an address of the VIP.
func (s *serving) at(a netip.Addr, vip string) {
	if !slices.Contains(s.vips[a], vip) {
		s.vips[a] = append(s.vips[a], vip)
	}
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
			s.at(a, w.cfg.VIPs[i].Name)
		}
	}
	return s
}

// incomplete are the VIPs that lack inputs, so that nothing of them is removed yet.
// Their pods count where they may still be answered.
func (w *wanted) incomplete(pods bool) map[string]bool {
	all := make(map[string]bool)
	for set := range w.Retained {
		all[set.VIP] = true
	}
	for _, v := range w.vips {
		if pods && v.in.vip.Pods.Selector != "" && !v.in.podsKnown {
			all[v.in.vip.Name] = true
		}
	}
	return all
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
	now, waiting := w.serving(), w.incomplete(pods)
	names := make([]string, 0, len(s.servers))
	for name := range s.servers {
		names = append(names, name)
	}
	sort.Strings(names)
	known := make(map[string]map[string]bool) // by VIP, the names that its addresses have now
	waits := make(map[string]bool)
	for a, vips := range s.vips {
		for _, vip := range vips {
			is := now.vips[a]
			if slices.Contains(is, vip) {
				is = []string{vip} // the others of the address are others still
			}
			for _, name := range is {
				if known[vip] == nil {
					known[vip] = make(map[string]bool)
				}
				known[vip][name] = true
				waits[vip] = waits[vip] || waiting[name]
			}
		}
	}
	ports := make(map[string][]string) // by VIP, those that are gone
	for p, vip := range s.ports {
		if now.ports[p] == "" {
			ports[vip] = append(ports[vip], p.service().String())
		}
	}
	for _, name := range names {
		if waits[name] {
			continue
		}
		if what := s.lost(name, &now, known[name], ports[name]); what != "" {
			all = append(all, taken{name, what})
		}
		delete(s.servers, name)
	}
	return all
}

// lost says what the VIP name, which has the names in known now, loses besides ports.
func (s *serving) lost(name string, now *serving, known map[string]bool, ports []string) string {
	var servers []string
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
