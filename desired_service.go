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
	var speaking []*Pod
	serving := false
	for _, p := range b.speaking(b.in.pods) {
		if p.onNode() {
			speaking, serving = append(speaking, p), serving || p.serves()
		}
	}
	known = true
	for i, p := range b.in.service.Ports {
		if i > 0 && p.Port == b.in.service.Ports[i-1].Port || named[p.Port] || slices.Contains(v.ExcludePorts, p.Port) {
			continue
		}
		nodes, has := b.endpointsWith(p, speaking)
		if has {
			ports = append(ports, vipPort{Port: p.Port, nodes: nodes})
		} else if !serving && !p.keepsNumber() {
			known = false // the endpoints that come say what it leads to
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
// has is false when there are none, which a warning says. A name that no port of the Service
// has is an earlier one, which the EndpointSlices still have for a moment: then the number
// alone counts.
func (b *build) endpointsWith(p ServicePort, endpoints []*Pod) (nodes map[netip.Addr]bool, has bool) {
	other, elsewhere := p.Target, len(endpoints) == 0 // where p leads instead
	earlier := func(name string) bool {
		return !slices.ContainsFunc(b.in.service.Ports, func(of ServicePort) bool { return of.Name == name })
	}
	var with []*Pod
	for _, e := range endpoints {
		there, not := false, false
		for i, at := range e.Ports {
			switch named := e.PortNames[i] == p.Name; {
			case at == p.Port && (named || earlier(e.PortNames[i])):
				there = true
			case named && at.Protocol == p.Port.Protocol:
				not, other = true, strconv.Itoa(int(at.Number))
			}
		}
		if elsewhere = elsewhere || not; there && !not {
			with = append(with, e)
		}
	}
	_, err := strconv.Atoi(other)
	switch {
	case len(with) == len(endpoints) && (len(with) > 0 || p.keepsNumber()):
		return nil, true
	case len(with) > 0:
		nodes = addAll(make(map[netip.Addr]bool), b.in.vip.Sorry)
		for _, e := range with {
			addrs, _ := b.addresses(e)
			addAll(nodes, addrs)
		}
		for _, s := range b.in.vip.RealServers {
			nodes[s.Address] = true // static real servers have every port
		}
		return nodes, true
	case err == nil && elsewhere:
		b.warn(warnServicePort, "", "port %s of Service %s is left out: it leads to port %s at the pods, and a packet keeps its port; want targetPort: %d", p.Port, b.in.vip.Pods.service(), other, p.Port.Number)
	case len(endpoints) > 0:
		b.warn(warnServicePort, "", "port %s of Service %s is left out: none of its endpoints has it", p.Port, b.in.vip.Pods.service())
	}
	return nil, false
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
