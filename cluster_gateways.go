// What the controller needs to know about the Gateways of a cluster (Gateway API,
// gateway.networking.k8s.io/v1).
//
// Used by kube*.go, config*.go and desired*.go. Like all of a Cluster, a Gateway does not
// change after it is published. Standard library only; no I/O.

package main

import (
	"cmp"
	"slices"
)

// GatewayQuery selects Gateways: one by its namespace and name; or of all namespaces
// those that a label selector matches, or those of a class. One of the three is there.
type GatewayQuery struct {
	Namespace string `json:",omitempty"`
	Name      string `json:",omitempty"`
	Selector  string `json:",omitempty"` // canonical label selector
	Class     string `json:",omitempty"` // spec.gatewayClassName
}

func (q GatewayQuery) String() string { return q.Namespace + "/" + q.Name }

// ListenerSetQuery selects all ListenerSets.
type ListenerSetQuery struct{}

// Gateway is a Gateway, or a ListenerSet, which adds its listeners to those of a Gateway.
type Gateway struct {
	UID       string
	Namespace string
	Name      string
	// Parent is the Gateway of a ListenerSet, "NAMESPACE/NAME"; "" when this is a Gateway.
	Parent string `json:",omitempty"`
	// Leaving means that a deletion timestamp is set.
	Leaving bool `json:",omitempty"`
	// Listeners are the first of spec.listeners, as many as the API allows. More counts
	// the rest.
	Listeners []Listener
	More      int `json:",omitempty"`
}

// String names g.
func (g *Gateway) String() string { return g.Namespace + "/" + g.Name }

// Listener is a listener of a Gateway.
type Listener struct {
	Name string // at most 80 characters
	Port Port   // its protocol has no meaning while Other is set
	// Other is a protocol that is none of HTTP, HTTPS, TLS, TCP and UDP. At most 80
	// characters.
	Other string `json:",omitempty"`
	// Closed says why the listener opens no port: a predicate; "" when it opens one.
	Closed string `json:",omitempty"`
	// Stale means that its status is about an earlier generation of the object.
	Stale bool `json:",omitempty"`
}

// opens reports whether the data plane accepts connections at the listener's port.
func (l *Listener) opens() bool { return l.Closed == "" && l.Other == "" }

// staleText is Closed of a listener of which only an earlier generation has a status.
const staleText = "has no status of its present generation yet"

// recall makes of the listeners whose status is about an earlier generation what they
// were. Such a status closes no port, and opens none: the spec that it is about may have
// had another one. was is what was known of an object of the same name before g, nil for
// nothing; g has not been published yet.
func (g *Gateway) recall(was *Gateway) {
	known := was != nil && was.UID == g.UID
	for i := range g.Listeners {
		l := &g.Listeners[i]
		switch {
		case !l.Stale:
			continue
		case !known:
			// The parent is a part of the spec, so that the status of a ListenerSet may be
			// about listeners of another Gateway.
			if g.Parent != "" {
				l.Closed = cmp.Or(l.Closed, staleText)
			}
			continue
		}
		g.Parent = was.Parent
		if at := slices.IndexFunc(was.Listeners, func(w Listener) bool { return w.Name == l.Name }); at >= 0 {
			*l = was.Listeners[at]
			l.Stale = true
		} else if slices.ContainsFunc(was.Listeners, func(w Listener) bool { return w.opens() && w.Port == l.Port }) {
			l.Closed = "" // it has another name now
		} else {
			l.Closed = cmp.Or(l.Closed, staleText)
		}
	}
}

// compareGateways gives the snapshot its order.
func compareGateways(a, b *Gateway) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// sameGateway reports whether nothing that is kept of a Gateway differs.
func sameGateway(a, b *Gateway) bool {
	return a == b || a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name && a.Parent == b.Parent &&
		a.Leaving == b.Leaving && a.More == b.More && slices.Equal(a.Listeners, b.Listeners)
}
