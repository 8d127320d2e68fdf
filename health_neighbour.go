// Where the nodes are: device, MAC address and the address to ask them from,
// out of the kernel's routes and neighbours.
//
// The probe of the data path (health_datapath.go) asks hop for each node. One
// goroutine keeps the answers current, as the kernel may take its time; it only
// reads, and never changes a route or a neighbour.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	neighboursEvery = time.Second           // so often the neighbours are read
	neighboursGap   = 50 * time.Millisecond // and no more often, even in a hurry
	routesEvery     = 10 * time.Second      // so often the route to a node is looked up
)

// hop is how to reach one node.
type hop struct {
	looked  bool             // the kernel has been asked
	device  int              // index
	source  netip.Addr       // the director's own address on the way there
	mac     net.HardwareAddr // nil while the kernel does not know it
	fresh   bool             // the kernel is sure of mac
	problem string           // why the node cannot be asked at all; not its fault
}

// whereabouts says which nodes are of interest.
type whereabouts struct {
	nodes []netip.Addr
	vips  map[netip.Addr]bool // no probe may come from them: answers would go to the node itself
}

// neighbours keeps the hops to nodes current. Use newNeighbours.
type neighbours struct {
	wake    func() // called after the hops have been looked up
	wanted  atomic.Pointer[whereabouts]
	found   atomic.Pointer[map[netip.Addr]hop]
	hurried chan struct{}

	routes map[netip.Addr]route
}

// route is a hop without its neighbour.
type route struct {
	hop
	until time.Time
}

func newNeighbours(wake func()) *neighbours {
	return &neighbours{wake: wake, hurried: make(chan struct{}, 1), routes: make(map[netip.Addr]route)}
}

// want exchanges the nodes of interest.
func (n *neighbours) want(w *whereabouts) {
	n.wanted.Store(w)
	n.hurry()
}

// hurry has the kernel asked soon.
func (n *neighbours) hurry() {
	ring(n.hurried)
}

// hop is how to reach a node, as far as is known.
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
func (n *neighbours) look(ctx context.Context, w *whereabouts, now time.Time) map[netip.Addr]hop {
	found := make(map[netip.Addr]hop, len(w.nodes))
	known, err := n.read(ctx, w, now)
	for _, node := range w.nodes {
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

// neighbourKey is a neighbour's place in the kernel's table.
type neighbourKey struct {
	device  int
	address netip.Addr
}

type neighbour struct {
	mac   net.HardwareAddr
	fresh bool
}

// read looks up routes that are missing or old, and lists the neighbours whose
// MAC address the kernel knows.
func (n *neighbours) read(ctx context.Context, w *whereabouts, now time.Time) (map[neighbourKey]neighbour, error) {
	conn, err := openRtnl(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	routes := make(map[netip.Addr]route, len(w.nodes))
	for _, node := range w.nodes {
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

// neighbours lists the neighbours whose MAC address the kernel knows.
func (r *rtnl) neighbours() (map[neighbourKey]neighbour, error) {
	all, err := r.conn.Neigh.List()
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	const (
		sure = unix.NUD_REACHABLE | unix.NUD_PERMANENT | unix.NUD_NOARP
		last = unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE // as it was, it is being looked for again or will be
	)
	known := make(map[neighbourKey]neighbour, len(all))
	for i := range all {
		m := &all[i]
		if m.Attributes == nil || m.State&(sure|last) == 0 {
			continue
		}
		if a, ok := netip.AddrFromSlice(m.Attributes.Address); ok {
			known[neighbourKey{int(m.Index), a.Unmap()}] = neighbour{m.Attributes.LLAddress, m.State&sure != 0}
		}
	}
	return known, nil
}

// route asks the kernel how it would reach a node.
func (r *rtnl) route(node netip.Addr, vips map[netip.Addr]bool) hop {
	request := &rtnetlink.RouteMessage{
		Family:     unix.AF_INET,
		DstLength:  uint8(node.BitLen()),
		Attributes: rtnetlink.RouteAttributes{Dst: node.AsSlice()},
	}
	if node.Is6() {
		request.Family = unix.AF_INET6
	}
	answers, err := r.conn.Execute(request, unix.RTM_GETROUTE, netlink.Request)
	if err == nil && len(answers) == 0 {
		err = errors.New("the kernel says nothing")
	}
	if err != nil {
		return hop{problem: fmt.Sprintf("route to the real server: %v", cmp.Or(errnoOf(err), err))}
	}
	m, ok := answers[0].(*rtnetlink.RouteMessage)
	if !ok {
		return hop{problem: fmt.Sprintf("route to the real server: the kernel answers with a %T", answers[0])}
	}
	source, _ := netip.AddrFromSlice(m.Attributes.Src)
	at := hop{device: int(m.Attributes.OutIface), source: source.Unmap()}
	switch {
	case m.Type == unix.RTN_LOCAL:
		at.problem = "the real server is the director itself"
	case m.Type != unix.RTN_UNICAST:
		at.problem = "there is no route to the real server"
	case m.Attributes.Gateway != nil:
		at.problem = "the real server is behind a router: direct routing does not reach it"
	case !source.IsValid():
		at.problem = "the director has no address on the way to the real server"
	case vips[at.source]:
		at.problem = "the director has no address on the way to the real server but the VIP"
	}
	return at
}

// errnoOf is the kernel's error number in err, nil if there is none.
func errnoOf(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return nil
}
