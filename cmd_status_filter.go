// Which part of the status a person asked for, and which services are one line of it.
//
// Used by cmd*.go. Pure.

package main

import (
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// statusFilter is a part of the status; "" is all.
type statusFilter struct{ vip, server, port string }

// apply leaves in st what f asks for.
func (f *statusFilter) apply(st *status) {
	nodes := f.nodes(st)
	address, _ := netip.ParseAddr(f.vip)
	marked := make(map[string]bool) // VIPs with this address: the key of a mark's service has none
	for _, v := range st.VIPs {
		marked[v.Name] = slices.ContainsFunc(v.Addresses, func(a addressStatus) bool { return a.Address == address })
	}
	shows := func(s *serviceStatus) bool {
		k := s.Service
		return f.vip == "" || f.vip == s.VIP || address.IsValid() &&
			(k.Mark == 0 && k.Address == address || k.Mark != 0 && marked[s.VIP] && k.Address.Is6() == address.Is6())
	}
	if f.vip != "" {
		st.VIPs = slices.DeleteFunc(st.VIPs, func(v vipStatus) bool { return f.vip != v.Name && !marked[v.Name] })
	}
	st.Services = slices.DeleteFunc(st.Services, func(s serviceStatus) bool {
		if !shows(&s) {
			return true
		}
		port := Port{s.Service.Port, s.Service.Protocol}
		return f.port != "" && f.port != port.String() && (f.port != strconv.Itoa(int(port.Number)) || port.Number == 0)
	})
	if f.server == "" {
		return
	}
	for i := range st.VIPs {
		v := &st.VIPs[i]
		v.Nodes = slices.DeleteFunc(v.Nodes, func(n nodeStatus) bool { return !nodes[n.Address] })
	}
	for i := range st.Services {
		s := &st.Services[i]
		s.Servers = slices.DeleteFunc(s.Servers, func(r serverStatus) bool { return !nodes[r.Address] })
	}
	st.Services = slices.DeleteFunc(st.Services, func(s serviceStatus) bool { return len(s.Servers) == 0 })
}

// nodes are the addresses that f.server means.
func (f *statusFilter) nodes(st *status) map[netip.Addr]bool {
	nodes := make(map[netip.Addr]bool)
	if a, err := netip.ParseAddr(f.server); err == nil {
		nodes[a] = true
	}
	for _, v := range st.VIPs {
		for _, n := range v.Nodes {
			if f.server != "" && n.Node == f.server {
				nodes[n.Address] = true
			}
		}
	}
	return nodes
}

// statusGroup are services of a VIP's address that have the same real servers.
type statusGroup struct {
	vip, scheduler string
	keys           []ServiceKey
	traffic        Traffic
	servers        []serverStatus // with the sums of all
}

// groups joins services with the same rows, in the order of the first of each. With apart
// each is alone.
func groups(all []serviceStatus, apart bool) []*statusGroup {
	var order []*statusGroup
	known := make(map[string]*statusGroup)
	for i := range all {
		s := &all[i]
		one := &statusGroup{vip: s.VIP, scheduler: s.Scheduler, servers: s.Servers, keys: []ServiceKey{s.Service}, traffic: s.Traffic}
		if apart {
			order = append(order, one)
			continue
		}
		key := groupKey(s)
		g := known[key]
		if g == nil {
			one.servers = slices.Clone(s.Servers) // which will have sums
			known[key] = one
			order = append(order, one)
			continue
		}
		g.keys = append(g.keys, s.Service)
		g.traffic.add(&s.Traffic)
		for j := range s.Servers {
			sum, r := &g.servers[j], &s.Servers[j]
			sum.Connections.Active += r.Connections.Active
			sum.Connections.Inactive += r.Connections.Inactive
			sum.Connections.Persistent += r.Connections.Persistent
			sum.Traffic.add(&r.Traffic)
			if r.DrainUntil.After(sum.DrainUntil) {
				sum.DrainUntil = r.DrainUntil
			}
		}
	}
	return order
}

// groupKey is the same for services that are one line.
func groupKey(s *serviceStatus) string {
	b := []byte(s.VIP + "\x00" + s.Scheduler + "\x00")
	b = s.Service.Address.AppendTo(b)
	b = strconv.AppendUint(append(b, ' '), uint64(s.Service.Mark), 10)
	for i := range s.Servers {
		r := &s.Servers[i]
		b = r.Address.AppendTo(append(b, '\n'))
		b = strconv.AppendUint(append(b, ' '), uint64(r.Port), 10)
		b = strconv.AppendUint(append(b, ' '), uint64(r.Weight), 10)
		b = append(append(b, ' '), r.Why...)
	}
	return string(b)
}

// age is a time in few characters: "12s", "4m", "3h", "5d".
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 100*time.Second:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < 100*time.Minute:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(min(int(d/(24*time.Hour)), 9999)) + "d"
}
