// Which real servers are behind a router, and which addresses are for broadcasts:
// direct routing gives the packets of the first to the router, which has no use for the
// VIP's, and the kernel refuses the second.
//
// Used by main.go. It looks each address up once, and again when the kernel's routes
// change. It publishes what it finds for a warning, and takes no real server out of
// service.

package main

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	routeGap  = 2 * time.Second      // the least time between two looks
	routeRest = 2 * time.Millisecond // and for each address that the last one looked up: a hundred times what that costs
	routeLook = time.Minute          // all addresses are looked up again after so long
)

// routeWatch is the task. Use newRouteWatch.
type routeWatch struct {
	log    *slog.Logger
	sets   *latest[[]resolveSet]
	out    *latest[Health]     // its Routed and Broadcast
	routed map[netip.Addr]bool // nil = all is to be looked up again
	found  *Health             // published last

	broadcast []netip.Addr
	failing   failureLog
}

func newRouteWatch(log *slog.Logger, sets *latest[[]resolveSet], out *latest[Health]) *routeWatch {
	return &routeWatch{log: log, sets: sets, out: out, found: &Health{}}
}

// Run watches until ctx ends, and then returns nil.
func (w *routeWatch) Run(ctx context.Context) error {
	all := func(netlink.Message) bool { return true }
	events, err := kernelEventsOf(ctx, unix.NETLINK_ROUTE, unix.RTMGRP_IPV4_ROUTE|unix.RTMGRP_IPV6_ROUTE|unix.RTMGRP_IPV4_IFADDR|unix.RTMGRP_IPV6_IFADDR, all)
	if err != nil {
		w.log.Warn("cannot follow the routes of this host: a real server behind a router is noticed late", "err", err)
	}
	again := time.Tick(routeLook)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.sets.Changed():
		case <-events:
			w.routed = nil
		case <-again:
			w.routed = nil
		}
		looked := 0
		if sets := w.sets.Get(); sets != nil {
			looked = w.look(ctx, *sets)
		}
		sleepContext(ctx, max(routeGap, time.Duration(looked)*routeRest))
	}
}

// look finds the way to each real server that is new, or to all, and returns how many
// it has looked up.
func (w *routeWatch) look(ctx context.Context, sets []resolveSet) (looked int) {
	conn, err := openRtnl(ctx)
	if ctx.Err() != nil { // it is the error
		return 0
	}
	if err == nil {
		defer conn.Close()
		if w.routed == nil {
			w.broadcast, err = conn.broadcasts()
		}
	}
	if begins, _ := w.failing.note(err); begins {
		w.log.Warn("cannot look up the routes of this host: a real server behind a router is not noticed", "err", err)
	}
	if err != nil {
		return 0
	}
	w.take(sets, func(a netip.Addr) bool {
		looked++
		return conn.route(a, nil).router
	})
	return looked
}

// take looks up by lookUp what is not known, and publishes a change. What is behind a
// router and in no set any more is forgotten when all is looked up again: an address that
// comes back within seconds has its warning at once, and once.
func (w *routeWatch) take(sets []resolveSet, lookUp func(netip.Addr) bool) {
	known, found := make(map[netip.Addr]bool), make(map[string][]netip.Addr)
	for i := range sets {
		for _, a := range w.found.Routed[sets[i].VIP] {
			if w.routed[a] {
				known[a] = true
				found[sets[i].VIP] = append(found[sets[i].VIP], a)
			}
		}
	}
	for i := range sets {
		for _, row := range sets[i].Rows {
			a := row.Address
			behind, is := known[a]
			if !is {
				if behind, is = w.routed[a]; !is {
					behind = lookUp(a)
				}
				known[a] = behind
			}
			if behind {
				found[sets[i].VIP] = append(found[sets[i].VIP], a)
			}
		}
	}
	w.routed = known
	for vip, all := range found {
		sortBy(all, netip.Addr.Compare)
		found[vip] = slices.Compact(all)
	}
	if !maps.EqualFunc(found, w.found.Routed, slices.Equal) || !slices.Equal(w.broadcast, w.found.Broadcast) {
		w.found = &Health{Routed: found, Broadcast: w.broadcast}
		w.out.Set(w.found)
	}
}
