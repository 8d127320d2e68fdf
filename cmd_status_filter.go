// Which part of the status a person asked for, and which services are one line of it.
//
// Used by cmd*.go. Pure.

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// statusFilter is a part of the status; "" is all.
type statusFilter struct{ vip, server, port string }

// shownNames is how many names a message has that says what there is.
const shownNames = 10

// parsePort reads f.port. Without a protocol it means all: bare is true.
func (f *statusFilter) parsePort() (p Port, bare bool, err error) {
	p, err = ParsePort(f.port)
	return p, !strings.Contains(f.port, "/"), err
}

// apply leaves in st what f asks for. missing says why that is nothing, on one line; it is
// "" when there is something.
func (f *statusFilter) apply(st *status) (missing string) {
	if *f == (statusFilter{}) {
		return ""
	}
	n := st.connections()
	st.Table.Listed = &n
	for _, step := range []func(*status) string{f.applyVIP, f.applyPort, f.applyServer} {
		if missing = step(st); missing != "" {
			return missing
		}
	}
	return ""
}

// connections are those of all real servers of st.
func (st *status) connections() (n uint64) {
	for i := range st.Services {
		for _, r := range st.Services[i].Servers {
			n += uint64(r.Connections.Active) + uint64(r.Connections.Inactive) + uint64(r.Connections.Persistent)
		}
	}
	return n
}

func (f *statusFilter) applyVIP(st *status) string {
	if f.vip == "" {
		return ""
	}
	address, _ := netip.ParseAddr(f.vip)
	var names []string
	marked := make(map[string]bool) // VIPs with this address: the key of a mark's service has none
	for _, v := range st.VIPs {
		names = append(names, v.Name)
		marked[v.Name] = slices.ContainsFunc(v.Addresses, func(a addressStatus) bool { return a.Address == address })
	}
	for i := range st.Services {
		if name := st.Services[i].VIP; name != "" {
			names = append(names, name)
		}
	}
	st.VIPs = slices.DeleteFunc(st.VIPs, func(v vipStatus) bool { return f.vip != v.Name && !marked[v.Name] })
	st.Services = slices.DeleteFunc(st.Services, func(s serviceStatus) bool {
		k := s.Service
		return f.vip != s.VIP && (!address.IsValid() || (k.Mark != 0 || k.Address != address) && (k.Mark == 0 || !marked[s.VIP] || k.Address.Is6() != address.Is6()))
	})
	if len(st.VIPs)+len(st.Services) > 0 {
		return ""
	}
	slices.Sort(names)
	return notThere("VIP", f.vip, slices.Compact(names))
}

// applyPort leaves the services with the port. The key of a mark's service has none: the
// status says which packets get the mark. A mark of which it does not stays.
func (f *statusFilter) applyPort(st *status) string {
	want, bare, err := f.parsePort()
	if f.port == "" || err != nil {
		return ""
	}
	is := func(p Port) bool { return p.Number == want.Number && (bare || p.Protocol == want.Protocol) }
	var keys []ServiceKey
	var ports []string
	st.Services = slices.DeleteFunc(st.Services, func(s serviceStatus) bool {
		if s.Service.Mark == 0 {
			keys = append(keys, s.Service)
			return !is(Port{s.Service.Port, s.Service.Protocol})
		}
		ports = append(ports, s.Ports...)
		return s.Ports != nil && !slices.ContainsFunc(s.Ports, func(text string) bool {
			all, err := parsePortRange(text)
			return err == nil && is(Port{want.Number, all.first.Protocol}) && all.first.Number <= want.Number && want.Number <= all.last
		})
	})
	if len(st.Services) > 0 {
		return ""
	}
	return notThere("service on port", f.port, append(portRanges(keys), ports...))
}

func (f *statusFilter) applyServer(st *status) string {
	if f.server == "" {
		return ""
	}
	nodes := f.nodes(st)
	there := make(map[netip.Addr]bool)
	for i := range st.VIPs {
		v := &st.VIPs[i]
		v.Nodes = slices.DeleteFunc(v.Nodes, func(n nodeStatus) bool { return !nodes[n.Address] })
	}
	for i := range st.Services {
		s := &st.Services[i]
		for _, r := range s.Servers {
			there[r.Address] = true
		}
		s.Servers = slices.DeleteFunc(s.Servers, func(r serverStatus) bool { return !nodes[r.Address] })
	}
	st.Services = slices.DeleteFunc(st.Services, func(s serviceStatus) bool { return len(s.Servers) == 0 })
	if len(st.Services) > 0 {
		return ""
	}
	var names []string
	for _, a := range sortedBy(maps.Keys(there), netip.Addr.Compare) {
		names = append(names, a.String())
	}
	return notThere("service with the real server", f.server, names)
}

// notThere is the line about a name that is none of names.
func notThere(what, name string, names []string) string {
	text := fmt.Sprintf("no %s %s; ", what, shorten(name, quotedText))
	switch n := len(names); {
	case n == 0:
		return printable(text + "there is none at all")
	case n == 1:
		text += "there is "
	default:
		text += "there are "
	}
	for i, one := range names[:min(len(names), shownNames)] {
		if i > 0 {
			text += ", "
		}
		text += shorten(one, quotedText)
	}
	if more := len(names) - shownNames; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return printable(text)
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
	marked         []string // ports of the packets that get the mark, if it is one
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
		one := &statusGroup{vip: s.VIP, scheduler: s.Scheduler, servers: s.Servers, keys: []ServiceKey{s.Service}, marked: s.Ports, traffic: s.Traffic}
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
