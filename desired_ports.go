// The ports of a VIP: from the configuration, the ingress controller's ConfigMaps
// and the pods. Also which ports share a firewall mark.
//
// Used by desired*.go. Pure, a part of desired. An invalid entry is left out
// with a warning and has no effect on the others.

package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// vipPort is a port of a VIP and, when only some nodes have it, those nodes.
type vipPort struct {
	Port
	nodes map[netip.Addr]bool // nil: all
}

// only returns those of v's rows that have the port. If none of them is in
// service, while others are, they are kept in service: the others would refuse.
// Those come first that only probes took out of service; unprobed has the rows
// before the results of probes.
func (p vipPort) only(v *VIP, rows, unprobed []Row, withheld func(netip.Addr) bool) []Row {
	if p.nodes == nil {
		return rows
	}
	some := slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return !p.nodes[r.Address] })
	if len(some) == len(rows) {
		return rows
	}
	if inService(some) {
		return some
	}
	kept := false
	for i := range some {
		if at := slices.IndexFunc(unprobed, sameAs(some[i].RealServer)); at >= 0 && unprobed[at].Weight > 0 {
			some[i].Weight = unprobed[at].Weight
			some[i].Why += ", kept, no other real server has the port"
			kept = true
		}
	}
	for i := range some {
		if kept || v.isStatic(some[i].Address) || withheld(some[i].Address) {
			continue // it has weight 0 on purpose
		}
		some[i].Weight = v.Weight
		some[i].Why += ", kept, no other real server has the port"
	}
	return some
}

// everywhere reports whether all rows that are in service have the port.
func (p vipPort) everywhere(rows []Row) bool {
	return p.nodes == nil || !slices.ContainsFunc(rows, func(r Row) bool { return r.Weight > 0 && !p.nodes[r.Address] })
}

// findPorts returns all ports of the VIP, sorted and each once. known is false
// while a ConfigMap, a Gateway or the Service is not known: then there may be more.
func (b *build) findPorts() (ports []vipPort, known bool) {
	v := b.in.vip
	whole := addAll(make(map[Port]bool), v.Ports)
	known = true
	for i, source := range []struct {
		key      string
		name     ConfigMapName
		protocol Protocol
	}{{"tcp_services", v.TCPServices, TCP}, {"udp_services", v.UDPServices, UDP}} {
		if source.name == (ConfigMapName{}) {
			continue
		}
		cm := b.in.maps[i]
		if !b.in.known[i] {
			known = false
			continue
		}
		if !cm.Exists {
			b.warn(warnConfigMap, source.name.String(), "ConfigMap %s does not exist: it opens no ports; want no %s if the cluster has none", source.name, source.key)
		}
		b.configMapPorts(source.name, cm, source.protocol, whole)
	}
	known = b.gatewayPorts(whole) && known
	nodes := b.portNodes()
	for p := range whole {
		ports = append(ports, vipPort{Port: p, nodes: nodes(p)})
	}
	ports = append(ports, b.podPorts(v, b.in.pods, whole)...)
	ofService, all := b.servicePorts(whole)
	ports, known = append(ports, ofService...), known && all
	sortBy(ports, func(a, b vipPort) int { return a.Compare(b.Port) })
	return ports, known
}

// configMapPorts adds the ports of one ConfigMap.
func (b *build) configMapPorts(name ConfigMapName, cm ConfigMap, protocol Protocol, ports map[Port]bool) {
	about := name.String() + " " + protocol.String()
	begin := fmt.Sprintf("ConfigMap %s: ", name) // of the first text alone
	for _, key := range slices.Sorted(maps.Keys(cm.Data)) {
		n, err := configMapPort(key, cm.Data[key], b.in.vip.ReservedPorts)
		if err != nil {
			b.warn(warnEntry, about, "%sentry %q is skipped: %v", begin, shorten(key, quotedText), err)
			begin = ""
			continue
		}
		if protocol == TCP && decodesProxy(cm.Data[key]) {
			b.warn(warnProxy, about, "ConfigMap %s: entry %q expects the PROXY protocol from clients, and IPVS adds no PROXY header", name, key)
		}
		ports[Port{n, protocol}] = true
	}
	if cm.More > 0 {
		b.warnings.find(b.in.vip.Name, warnEntry, about).count += cm.More
	}
}

// speaking are the pods whose ports count: beside a ready pod those of one that starts
// or ends on the same node do not.
func (b *build) speaking(pods []*Pod) (all []*Pod) {
	serves := make(map[netip.Addr]bool)
	for _, p := range pods {
		if p.serves() {
			addrs, _ := b.addresses(p)
			addAll(serves, addrs)
		}
	}
	for _, p := range pods {
		if addrs, _ := b.addresses(p); p.serves() || !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return serves[a] }) {
			all = append(all, p)
		}
	}
	return all
}

// portNodes returns which nodes have a port that the configuration or a ConfigMap
// names: nil for all. A pod that is not on hostNetwork has its host ports alone. While
// no such pod serves, the real servers are those of before, with all ports.
func (b *build) portNodes() func(Port) map[netip.Addr]bool {
	v := b.in.vip
	if !slices.ContainsFunc(b.in.pods, func(p *Pod) bool { return p.ByPort && p.serves() }) {
		return func(Port) map[netip.Addr]bool { return nil }
	}
	whole, some := addAll(make(map[netip.Addr]bool), v.Sorry), make(map[Port][]netip.Addr)
	for _, s := range v.RealServers {
		whole[s.Address] = true
	}
	for _, pod := range b.speaking(b.in.pods) {
		addrs, _ := b.addresses(pod)
		if pod.HostNetwork {
			addAll(whole, addrs)
		}
		for _, p := range pod.Ports {
			some[p] = append(some[p], addrs...)
		}
	}
	return func(p Port) map[netip.Addr]bool {
		nodes := addAll(maps.Clone(whole), some[p])
		if len(nodes) == len(v.Sorry) {
			b.warn(warnHostPort, "", "no pod is on hostNetwork or has host port %s: it has no real server", p)
		}
		return nodes
	}
}

// podPorts are the ports that pods declare and the configuration does not
// name already. Each is for the nodes whose pods declare it: in the middle of
// a roll-out only some do.
func (b *build) podPorts(v *VIP, pods []*Pod, named map[Port]bool) []vipPort {
	if !v.PortsFromPods {
		return nil
	}
	nodes := make(map[Port]map[netip.Addr]bool)
	leftOut, inside, matched := make(map[namedPort]bool), make(map[namedPort]bool), false
	for _, pod := range b.speaking(pods) {
		addrs, _ := b.addresses(pod)
		for i, p := range pod.Ports {
			matched = matched || pod.PortNames == nil || v.takesPort(pod.PortNames[i])
			if named[p] || slices.Contains(v.ExcludePorts, p) || !pod.onNode() {
				continue
			}
			// Of an earlier version's snapshot the names are not known: what served goes on.
			if pod.PortNames != nil {
				name := pod.PortNames[i]
				if !v.takesPort(name) {
					leftOut[namedPort{p, name}] = true
					continue
				}
				if v.PortNames == nil && insideName(name) {
					inside[namedPort{p, name}] = true
				}
			}
			if nodes[p] == nil {
				nodes[p] = make(map[netip.Addr]bool)
			}
			addAll(nodes[p], addrs)
		}
	}
	b.warnNames(leftOut, inside, nodes, matched)
	var ports []vipPort
	for p, n := range nodes {
		for _, s := range v.RealServers {
			n[s.Address] = true // static real servers have every port
		}
		ports = append(ports, vipPort{Port: p, nodes: addAll(n, v.Sorry)})
	}
	return ports
}

// warnNames warns of ports that are left out because of their names, and of those that are
// hardly meant for clients. nodes has the ports that are open; matched: port_names has the
// name of some port.
func (b *build) warnNames(leftOut, inside map[namedPort]bool, nodes map[Port]map[netip.Addr]bool, matched bool) {
	for _, p := range sortedBy(maps.Keys(leftOut), namedPort.Compare) {
		if nodes[p.Port] != nil {
			continue // another pod has it under a name that counts
		}
		b.warn(noteLeftOut, "", "port %s of the pods is left out: port_names does not have its name", p)
	}
	if len(leftOut) > 0 && !matched {
		b.warn(warnPortNames, "", "no port of the pods has a name of port_names: the VIP has none of their ports")
	}
	for _, p := range sortedBy(maps.Keys(inside), namedPort.Compare) {
		b.warn(warnInsidePort, "", "port %s of the pods is open on the VIP, and its name is that of a port for administrators: want port_names, or the port in exclude_ports", p)
	}
}

// namedPort is a port of a pod.
type namedPort struct {
	Port
	name string // "" = it has none
}

func (p namedPort) String() string {
	if p.name == "" {
		return p.Port.String() + " (without a name)"
	}
	return fmt.Sprintf("%s (%s)", p.Port, printable(p.name))
}

// Compare orders by port, then name.
func (p namedPort) Compare(q namedPort) int {
	return cmp.Or(p.Port.Compare(q.Port), cmp.Compare(p.name, q.name))
}

// insideNames are words in names of ports for administrators, health checks, metrics and
// webhooks, as charts of ingress controllers have them: docs/operations.md lists them.
var insideNames = map[string]bool{
	"admin": true, "api": true, "dashboard": true, "debug": true, "health": true, "healthz": true, "insight": true, "liveness": true,
	"cmetrics": true, "metrics": true, "monitoring": true, "pprof": true, "probe": true, "prometheus": true, "readiness": true, "shutdown": true,
	"cstatus": true, "stat": true, "stats": true, "status": true, "traefik": true, "webhook": true,
}

// insideName reports whether a port with this name is hardly meant for clients.
func insideName(name string) bool {
	for word := range strings.SplitSeq(name, "-") {
		if insideNames[word] {
			return true
		}
	}
	return false
}

// configMapPort checks one entry of a tcp-services or udp-services ConfigMap, and
// returns its port. A reserved port would reach the ingress controller itself, by either
// protocol.
func configMapPort(key, value string, reserved []uint16) (uint16, error) {
	n, err := entryPort(key, value)
	if err == nil && slices.Contains(reserved, n) {
		err = fmt.Errorf("port %d is the ingress controller's own (%s)", n, cmp.Or(ingressPorts[n], "reserved_ports has it"))
	}
	return n, err
}

// decodesProxy reports whether an entry asks the ingress controller to read a
// PROXY header from clients: the first field after the port.
func decodesProxy(value string) bool {
	fields := strings.Split(value, ":")
	return len(fields) > 2 && strings.EqualFold(fields[2], "PROXY")
}
