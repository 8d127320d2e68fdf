// The ports of a VIP that listeners of Gateways give it.
//
// Used by desired.go and desired_ports.go. Pure, a part of desired. What a Gateway says
// decides about its ports alone.

package main

import "slices"

// gatewayInputs are what is known of the Gateways of a VIP and of all ListenerSets.
type gatewayInputs struct {
	lists [][]*Gateway // for each of VIP.Gateways, then the ListenerSets; nil without Gateways
	known []bool       // whether each list is, or does not count
}

func gatewayInputsOf(v *VIP, cluster *Cluster) (in gatewayInputs) {
	n := len(v.Gateways)
	if n == 0 {
		return in
	}
	in.lists, in.known = make([][]*Gateway, n+1), make([]bool, n+1)
	for i, q := range v.Gateways {
		in.lists[i], in.known[i] = cluster.Gateways[q]
	}
	in.known[n] = true
	if v.ListenerSets {
		in.lists[n], in.known[n] = cluster.ListenerSets[ListenerSetQuery{}]
	}
	return in
}

// same reports whether both are the same lists. It compares no content.
func (in *gatewayInputs) same(o *gatewayInputs) bool {
	return slices.Equal(in.known, o.known) && slices.EqualFunc(in.lists, o.lists, same)
}

// gatewayPorts adds the ports that listeners open. It reports false while a list is not
// known: then there may be more.
func (b *build) gatewayPorts(ports map[Port]bool) (known bool) {
	v, in := b.in.vip, &b.in.gateways
	if len(in.lists) == 0 {
		return true
	}
	opened := make(map[Port]bool)
	parents := make(map[string]bool)
	var closed []func() // say why a listener opens no port
	open := func(kind string, g *Gateway) {
		for i := range g.Listeners {
			l := &g.Listeners[i]
			switch {
			case l.Other != "":
				b.warn(warnProtocol, "", "%s %s: listener %q has protocol %q, which is none of HTTP, HTTPS, TLS, TCP and UDP: it opens no port", kind, g, l.Name, l.Other)
			case l.opens():
				opened[l.Port] = true
			default:
				closed = append(closed, func() {
					if !opened[l.Port] && !slices.Contains(v.ExcludePorts, l.Port) {
						b.warn(warnListener, "", "%s %s: listener %q (%s) %s: it opens no port", kind, g, l.Name, l.Port, l.Closed)
					}
				})
			}
		}
		if g.More > 0 {
			b.warn(warnListener, "", "%s %s has %d listeners more than the Gateway API allows: they open no ports", kind, g, g.More)
		}
	}
	known = !slices.Contains(in.known, false)
	for i, q := range v.Gateways {
		if in.known[i] && len(in.lists[i]) == 0 {
			b.warnNoGateway(q)
		}
		for _, g := range in.lists[i] {
			open("Gateway", g)
			parents[g.String()] = !g.Leaving
		}
	}
	for _, set := range in.lists[len(v.Gateways)] {
		if parents[set.Parent] {
			open("ListenerSet", set)
		}
	}
	for _, say := range closed {
		say()
	}
	for p := range opened {
		if !slices.Contains(v.ExcludePorts, p) {
			ports[p] = true
		}
	}
	return known
}

// warnNoGateway says that q selects no Gateway.
func (b *build) warnNoGateway(q GatewayQuery) {
	if q.Name != "" {
		b.warn(warnGateway, "", "Gateway %s does not exist: it opens no ports", q)
	} else {
		b.warn(warnGateway, "", "no Gateway has the labels or class %q: no ports are opened", q.Selector+q.Class)
	}
}
