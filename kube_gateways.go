// Gateways as a kind that a stream follows: what is asked and what is kept.
//
// Used by kube*.go. A stream asks for one Gateway, for those that a selector matches or
// for those of a class. Which listeners open a port, by the conditions of their status, is
// decided here, for ListenerSets too. Pure: no I/O, no log, no k8s.io packages.

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// gatewayGroup is the group of the Gateway API.
const gatewayGroup = "gateway.networking.k8s.io"

// gatewayKind describes the streams of Gateways.
var gatewayKind = &streamKind{
	stream: "gateways", item: "gateway",
	api: "apis/" + gatewayGroup + "/v1", resource: "gateways", object: "Gateway", fields: []string{"spec", "status"},
	rights: "install/rbac-gateways.yaml",
	new:    func() object { return new(gatewayObject) },
	keys:   func(q *ClusterQuery) []streamKey { return streamKeys(q.Gateways) },
	save: func(c *Cluster, line func(query, item any)) {
		for query, gateways := range c.Gateways {
			saveGateways(line, query, gateways)
		}
	},
	load: func(c *Cluster, query *json.Decoder) (func(*json.Decoder) error, error) {
		var q GatewayQuery
		err := query.Decode(&q)
		c.Gateways[q] = []*Gateway{}
		return loadGateway(func(g *Gateway) { c.Gateways[q] = append(c.Gateways[q], g) }), err
	},
}

// saveGateways is streamKind.save for one query.
func saveGateways(line func(query, item any), query any, gateways []*Gateway) {
	line(query, nil)
	for _, g := range gateways {
		line(nil, g)
	}
}

// loadGateway reads the lines after the query's.
func loadGateway(add func(*Gateway)) func(*json.Decoder) error {
	return func(item *json.Decoder) error {
		g := new(Gateway)
		err := item.Decode(g)
		add(g)
		return err
	}
}

func (q GatewayQuery) kind() *streamKind { return gatewayKind }
func (q GatewayQuery) collect() collection {
	return &gatewayCollection{
		query: streamKey{q},
		in:    func(c *Cluster) (gateways []*Gateway, known bool) { gateways, known = c.Gateways[q]; return },
		put:   func(c *Cluster, gateways []*Gateway) { c.Gateways[q] = gateways },
	}
}
func (q GatewayQuery) scope() scope {
	return scope{namespace: q.Namespace, name: q.Name, selector: q.Selector, class: q.Class}
}

func (q GatewayQuery) install() (what string, optional bool) {
	return "install the CRDs of the Gateway API, version 1.0 or later", false
}

func (q GatewayQuery) copyKnown(to, from *Cluster) bool {
	gateways, known := from.Gateways[q]
	if known {
		to.Gateways[q] = gateways
	}
	return known
}

func (q GatewayQuery) copyServed(to, from *Cluster) bool { return q.copyKnown(to, from) }

// gatewayCollection is a collection of Gateways or of ListenerSets.
type gatewayCollection struct {
	query streamKey
	kept  []*Gateway // when complete: in order, each once
	// in is where a Cluster has them, and put stores them there.
	in  func(c *Cluster) (gateways []*Gateway, known bool)
	put func(c *Cluster, gateways []*Gateway)
}

func (l *gatewayCollection) kind() *streamKind { return l.query.kind() }
func (l *gatewayCollection) len() int          { return len(l.kept) }
func (l *gatewayCollection) store(c *Cluster)  { l.put(c, l.kept) }

func (l *gatewayCollection) storedIn(c *Cluster) bool {
	gateways, known := l.in(c)
	return known && slices.EqualFunc(gateways, l.kept, sameGateway)
}

// taken is what is kept of o, and whether l asks for it. The source has applied the
// selector.
func (l *gatewayCollection) taken(o object) (g *Gateway, asked bool) {
	of, scope := o.(*gatewayObject), l.query.scope()
	if l.kind() == listenerSetKind {
		g = of.listenerSet()
		return g, g.Parent != ""
	}
	return of.gateway(), scope.covers(of.meta()) && (scope.class == "" || scope.class == of.Spec.Class)
}

func (l *gatewayCollection) add(o object) error {
	g, asked := l.taken(o)
	switch {
	case !asked:
		return nil
	case len(l.kept) == maxObjects:
		return errTooMany
	}
	l.kept = append(l.kept, g)
	return nil
}

func (l *gatewayCollection) complete() {
	slices.Reverse(l.kept)
	stableBy(l.kept, compareGateways)
	l.kept = slices.Clip(slices.CompactFunc(l.kept, func(a, b *Gateway) bool { return compareGateways(a, b) == 0 }))
}

// apply implements collection. A Gateway that has left the class is gone.
func (l *gatewayCollection) apply(o object, deleted bool) {
	now, asked := l.taken(o)
	next := make([]*Gateway, 0, len(l.kept)+1) // the Gateways are shared with what has been stored
	var was *Gateway
	for _, g := range l.kept {
		if compareGateways(g, now) == 0 {
			was = g
		} else {
			next = append(next, g)
		}
	}
	if asked && !deleted {
		now.recall(was)
		next = append(next, now)
		sortBy(next, compareGateways)
	}
	l.kept = next
}

// recall is Gateway.recall for a new list.
func (l *gatewayCollection) recall(before *Cluster) {
	gateways, _ := l.in(before)
	for was, is := range merged(gateways, l.kept, func(a, b *Gateway) int { return compareGateways(a, b) }) {
		switch {
		case is != nil && was != nil:
			(*is).recall(*was)
		case is != nil:
			(*is).recall(nil)
		}
	}
}

// missing counts the ports that were open before, and those of them that no listener opens
// any more. A Gateway that is being deleted was seen to leave: its ports are not missing.
func (l *gatewayCollection) missing(before *Cluster) (lost loss) {
	was, _ := l.in(before)
	open := openPorts(l.kept)
	for _, g := range l.kept {
		for i := 0; g.Leaving && i < len(g.Listeners); i++ {
			open[g.Listeners[i].Port] = true
		}
	}
	for p := range openPorts(was) {
		if lost.served++; !open[p] {
			lost.gone++
		}
	}
	lost.whole = lost.served > 0 && len(l.kept) == 0
	return lost
}

// openPorts are the ports that listeners of gateways open.
func openPorts(gateways []*Gateway) map[Port]bool {
	open := make(map[Port]bool)
	for _, g := range gateways {
		for i := range g.Listeners {
			if l := &g.Listeners[i]; l.opens() {
				open[l.Port] = true
			}
		}
	}
	return open
}

// gatewayObject is a Gateway or a ListenerSet as the API writes it.
type gatewayObject struct {
	objectMeta
	Spec struct {
		Class     string `json:"gatewayClassName"` // of a Gateway
		ParentRef struct {
			Group     *string `json:"group"` // of the Gateway API when absent
			Kind      *string `json:"kind"`  // Gateway when absent
			Namespace *string `json:"namespace"`
			Name      string  `json:"name"`
		} `json:"parentRef"` // of a ListenerSet
		Listeners []struct {
			Name     string `json:"name"`
			Port     int    `json:"port"`
			Protocol string `json:"protocol"`
		} `json:"listeners"`
	} `json:"spec"`
	Status struct {
		Conditions []statusCondition `json:"conditions"`
		Listeners  []struct {
			Name       string            `json:"name"`
			Conditions []statusCondition `json:"conditions"`
		} `json:"listeners"`
	} `json:"status"`
}

// statusCondition is a part of a status (metav1.Condition). Its ObservedGeneration is 0 where
// an implementation does not set it.
type statusCondition struct {
	Type               string `json:"type"`
	Status             string `json:"status"` // "True", "False", "Unknown"
	Reason             string `json:"reason"`
	ObservedGeneration int64  `json:"observedGeneration"`
}

// whole implements object. The API server adds conditions to each new Gateway. They come
// after the spec.
func (o *gatewayObject) whole() error {
	if len(o.Status.Conditions) == 0 {
		return fmt.Errorf("%w: no status.conditions; the file may be cut short", errMalformed)
	}
	return nil
}

// maxListeners is how many listeners a Gateway and a ListenerSet may have each (MaxItems
// in their CRDs).
const maxListeners = 64

// gateway is what is kept of o.
func (o *gatewayObject) gateway() *Gateway {
	m := &o.Metadata
	g := &Gateway{UID: m.UID, Namespace: m.Namespace, Name: m.Name, Leaving: m.DeletionTimestamp != nil}
	kept := min(len(o.Spec.Listeners), maxListeners)
	g.More = len(o.Spec.Listeners) - kept
	for _, of := range o.Spec.Listeners[:kept] {
		l := Listener{Name: shorten(of.Name, quotedText)}
		switch of.Protocol {
		case "HTTP", "HTTPS", "TLS", "TCP":
			l.Port.Protocol = TCP
		case "UDP":
			l.Port.Protocol = UDP
		default:
			l.Other = shorten(of.Protocol, quotedText)
		}
		if of.Port >= 1 && of.Port <= 65535 {
			l.Port.Number = uint16(of.Port)
			l.Closed, l.Stale = o.closed(of.Name)
		} else {
			l.Closed = "has no port from 1 to 65535"
		}
		if l.Other == "" && of.Protocol == "" {
			l.Closed = "has no protocol"
		}
		if g.Leaving {
			l.Closed, l.Stale = "is being deleted", false
		}
		g.Listeners = append(g.Listeners, l)
	}
	return g
}

// closed says why the listener of this name opens no port, and whether its status is
// about an earlier generation. Its own conditions count: Programmed of a whole Gateway is
// False while it has no address, which the director's VIP is in place of. Those of the
// Gateway are for what an implementation does not say of each listener. A Gateway or
// ListenerSet that is not accepted has no open listener, whatever they say of themselves.
func (o *gatewayObject) closed(name string) (why string, stale bool) {
	own, found := []statusCondition(nil), false
	for i := range o.Status.Listeners {
		if l := &o.Status.Listeners[i]; l.Name == name {
			own, found = l.Conditions, true
		}
	}
	whole := findCondition(o.Status.Conditions, "Accepted")
	for _, c := range []struct {
		kind, not string
		whole     bool
	}{
		{"Accepted", "is not accepted", false},
		{"Programmed", "is not programmed", false},
		{"Accepted", "is of a Gateway or ListenerSet that is not accepted", true},
	} {
		is := findCondition(own, c.kind)
		switch {
		case c.whole && (whole == nil || whole.Reason == "ListenersNotValid"): // other listeners
			continue
		case c.whole:
			is = whole
		case is == nil:
			is = findCondition(o.Status.Conditions, c.kind)
		}
		if is == nil {
			why = cmp.Or(why, c.not)
			continue
		}
		stale = stale || is.ObservedGeneration > 0 && is.ObservedGeneration < o.Metadata.Generation
		if is.Status != "True" {
			text := c.not
			if is.Reason != "" {
				text += " (" + printable(shorten(is.Reason, quotedText)) + ")"
			}
			why = cmp.Or(why, text)
		}
	}
	if !found {
		why = "has no status yet"
	}
	return why, stale
}

// findCondition returns the condition of a type; nil when there is none.
func findCondition(conditions []statusCondition, kind string) *statusCondition {
	i := slices.IndexFunc(conditions, func(c statusCondition) bool { return c.Type == kind })
	if i < 0 {
		return nil
	}
	return &conditions[i]
}
