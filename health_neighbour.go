// The way to each node: device, MAC address and source address, from the kernel's
// routes and neighbours.
//
// Used by health_datapath.go. The data path probe calls hop for each node. One
// goroutine keeps the answers current, because the kernel may need time. It
// only reads: it changes no route and no neighbour.

package main

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	neighboursEvery = time.Second           // between two reads of the neighbours
	neighboursGap   = 50 * time.Millisecond // the least time between two reads
	routesEvery     = 10 * time.Second      // between two look-ups of the route to a node
)

// wantedNodes says to which nodes a way is needed.
type wantedNodes struct {
	nodes map[netip.Addr]bool
	vips  map[netip.Addr]bool // no probe may come from them: the node would send its answers to itself
}

// neighbours keeps the hops to nodes current. Use newNeighbours.
type neighbours struct {
	wake    func()                      // called after each look-up
	wanted  atomic.Pointer[wantedNodes] // hurry after a change
	found   atomic.Pointer[map[netip.Addr]hop]
	hurried chan struct{}

	routes map[netip.Addr]route
}

// hurry makes run ask the kernel soon.
func (n *neighbours) hurry() { ring(n.hurried) }

// hop is how to reach a node; empty while that is not known.
func (n *neighbours) hop(node netip.Addr) hop {
	if found := n.found.Load(); found != nil {
		return (*found)[node]
	}
	return hop{}
}

// run keeps the hops current until ctx ends.
func (n *neighbours) run(ctx context.Context) {
	for {
		var again <-chan time.Time
		if w := n.wanted.Load(); w != nil && len(w.nodes) > 0 {
			found := n.look(ctx, w, time.Now())
			n.found.Store(&found)
			n.wake()
			again = time.After(neighboursEvery)
		}
		sleepContext(ctx, neighboursGap)
		select {
		case <-ctx.Done():
			return
		case <-n.hurried:
		case <-again:
		}
	}
}

// look asks the kernel.
func (n *neighbours) look(ctx context.Context, w *wantedNodes, now time.Time) map[netip.Addr]hop {
	found := make(map[netip.Addr]hop, len(w.nodes))
	known, err := n.read(ctx, w, now)
	for node := range w.nodes {
		at := n.routes[node].hop
		at.looked = true
		switch neighbour, ok := known[neighbourKey{at.device, node}]; {
		case err != nil:
			at.problem = err.Error()
		case at.problem != "" || !ok:
		case len(neighbour.mac) == 0 || len(neighbour.mac) > 8: // sll_addr
			at.problem = "the device that leads to the real server is not an Ethernet"
		default:
			at.mac, at.fresh = neighbour.mac, neighbour.fresh
		}
		found[node] = at
	}
	return found
}

// read looks up routes that are missing or old, and lists the neighbours whose
// MAC address the kernel knows.
func (n *neighbours) read(ctx context.Context, w *wantedNodes, now time.Time) (map[neighbourKey]neighbour, error) {
	conn, err := openRtnl(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	routes := make(map[netip.Addr]route, len(w.nodes))
	for node := range w.nodes {
		r, ok := n.routes[node]
		if !ok || !now.Before(r.until) {
			r = route{hop: conn.route(node, w.vips), until: now.Add(routesEvery)}
			if r.problem != "" {
				r.until = now.Add(neighboursEvery)
			}
		}
		routes[node] = r
	}
	n.routes = routes
	return conn.neighbours()
}
