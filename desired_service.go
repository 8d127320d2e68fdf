// A Service as the source of a VIP: which of its ports the VIP has, and which of its
// endpoints cannot be real servers.
//
// Used by desired_ports.go and desired_servers.go. Pure, a part of desired. In direct
// routing a packet keeps its port, so that a port of a Service counts where its endpoints
// have the same number.

package main

import (
	"net/netip"
	"slices"
	"strconv"
)

// servicePorts are the ports of the VIP's Service, if it has one, that the configuration
// does not name already. Each is for the nodes whose endpoints have it. known is false
// while that may not be all.
func (b *build) servicePorts(named map[Port]bool) (ports []vipPort, known bool) {
	v, name := b.in.vip, b.in.vip.Pods.service()
	if name == (ServiceName{}) {
		return nil, true
	}
	if !b.in.answered || !b.in.podsKnown {
		return nil, false
	}
	switch s := b.in.service; {
	case !s.Exists:
		b.warn(warnService, "", "Service %s does not exist: it opens no ports", name)
	case s.External:
		b.warn(warnService, "", "Service %s is of type ExternalName: it has no endpoints, and opens no ports", name)
		return nil, true
	case len(s.Ports) == 0:
		b.warn(warnService, "", "Service %s has no ports", name)
	}
	speaking := slices.DeleteFunc(b.speaking(b.in.pods), func(p *Pod) bool { return !p.onNode() })
	serving := slices.ContainsFunc(speaking, (*Pod).serves)
	known = true
	for i, p := range b.in.service.Ports {
		if i > 0 && p.Port == b.in.service.Ports[i-1].Port || named[p.Port] || slices.Contains(v.ExcludePorts, p.Port) {
			continue
		}
		nodes, has := b.endpointsWith(p, speaking)
		switch {
		case has:
			ports = append(ports, vipPort{Port: p.Port, nodes: nodes})
		case !serving && !p.keepsNumber():
			// The endpoints that come say what it leads to.
			known = false
		}
	}
	return ports, known
}

// keepsNumber reports whether p, without a look at the endpoints, leads to the same number
// at the pods.
func (p *ServicePort) keepsNumber() bool {
	return p.Target == "" || p.Target == strconv.Itoa(int(p.Port.Number))
}

// endpointsWith are the nodes of the endpoints at which p has the same number, nil for all.
// has is false when there are none, which a warning says.
func (b *build) endpointsWith(p ServicePort, endpoints []*Pod) (nodes map[netip.Addr]bool, has bool) {
	v, name := b.in.vip, b.in.vip.Pods.service()
	other := Port{} // to which p leads instead
	counts := func(byName bool) (n int, found bool) {
		for _, e := range endpoints {
			there := false
			for i, at := range e.Ports {
				if at.Protocol != p.Port.Protocol || byName && e.PortNames[i] != p.Name {
					continue
				}
				if there = there || at == p.Port; byName && at != p.Port {
					other = at
				}
				found = true
			}
			if there {
				n++
			}
		}
		return n, found
	}
	n, found := counts(true)
	byName := found
	if !found {
		// Its name has just been changed, and the EndpointSlices have the earlier one.
		n, _ = counts(false)
	}
	switch {
	case len(endpoints) == 0 && p.keepsNumber(), n > 0 && n == len(endpoints):
		return nil, true
	case n == 0 && other != (Port{}):
		b.warn(warnServicePort, "", "port %s of Service %s is left out: it leads to port %d at the pods, and a packet keeps its port; want targetPort: %d", p.Port, name, other.Number, p.Port.Number)
		return nil, false
	case n == 0 && len(endpoints) == 0 && !isName(p.Target):
		b.warn(warnServicePort, "", "port %s of Service %s is left out: it leads to port %s at the pods, and a packet keeps its port; want targetPort: %d", p.Port, name, p.Target, p.Port.Number)
		return nil, false
	case n == 0:
		if len(endpoints) > 0 {
			b.warn(warnServicePort, "", "port %s of Service %s is left out: none of its endpoints has it", p.Port, name)
		}
		return nil, false
	}
	nodes = make(map[netip.Addr]bool)
	for _, e := range endpoints {
		for i, at := range e.Ports {
			if at == p.Port && (!byName || e.PortNames[i] == p.Name) {
				addrs, _ := b.addresses(e)
				addAll(nodes, addrs)
			}
		}
	}
	for _, s := range v.RealServers {
		nodes[s.Address] = true // static real servers have every port
	}
	return addAll(nodes, v.Sorry), true
}

// isName reports whether a target is the name of a container's port.
func isName(target string) bool {
	_, err := strconv.Atoi(target)
	return err != nil
}

// offNode reports whether p is an endpoint whose address is known to be none of its node:
// then it is not on hostNetwork, which an EndpointSlice does not say. Only VIPs that
// follow nodes know their addresses.
func (b *build) offNode(p *Pod) bool {
	if b.in.vip.Pods.Service == "" || len(b.in.nodes) == 0 || len(p.Addresses) == 0 {
		return false
	}
	if p.Node != "" {
		// A node of which the cluster has not said anything yet is not judged.
		n := b.node(p)
		return n.Name != "" && !slices.ContainsFunc(p.Addresses, func(a netip.Addr) bool { return slices.Contains(n.Addresses, a) })
	}
	if b.ofNodes == nil {
		b.ofNodes = make(map[netip.Addr]bool)
		for _, n := range b.in.nodes {
			addAll(b.ofNodes, n.Addresses)
		}
	}
	return !slices.ContainsFunc(p.Addresses, func(a netip.Addr) bool { return b.ofNodes[a] })
}

// warnOffNode says why p, an endpoint, is left out.
func (b *build) warnOffNode(p *Pod) {
	where := "of a node"
	if p.Node != "" {
		where = "of its node " + p.Node
	}
	b.warn(warnHostNetwork, "", "pod %s/%s is left out: it is not on hostNetwork, because %s is no address %s; the VIP is on the node, not in the pod", p.Namespace, p.Name, p.Addresses[0], where)
}
