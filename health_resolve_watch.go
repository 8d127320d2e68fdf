// Follows the kernel's neighbour table, for health_resolve.go to judge.
//
// Used by main.go. While no neighbour fails it sleeps: only an event of the kernel
// wakes it. It asks only about neighbours of real servers, and changes no entry that
// an operator made. What it finds, it publishes and logs.

package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	resolveLook = 500 * time.Millisecond // between two looks while a neighbour fails
	resolveGap  = 100 * time.Millisecond // the least time between two
	resolvePoll = 5 * time.Second        // between two looks where the kernel reports no events
	resolveAsk  = time.Second            // between two questions
)

// resolveWatch is the task. Use newResolveWatch.
type resolveWatch struct {
	log      *slog.Logger
	sets     *latest[[]resolveSet]
	out      *latest[Health] // its Unresolved
	resolver *resolver
	busy     atomic.Bool // a neighbour fails: each event counts
	events   failedEvents
	asked    time.Time
	failing  failureLog // of look
}

// newResolveWatch makes the watch. down is what an earlier run took out of service.
func newResolveWatch(log *slog.Logger, sets *latest[[]resolveSet], out *latest[Health], down map[string][]netip.Addr) *resolveWatch {
	if len(down) > 0 {
		out.Set(&Health{Unresolved: down})
	}
	return &resolveWatch{log: log, sets: sets, out: out, resolver: newResolver(down, time.Now())}
}

// Run watches until ctx ends, and then returns nil.
func (w *resolveWatch) Run(ctx context.Context) error {
	var poll <-chan time.Time
	events, err := kernelEventsOf(ctx, unix.NETLINK_ROUTE, unix.RTMGRP_NEIGH, w.matters)
	if err != nil {
		w.log.Warn("cannot follow the neighbours of this host: a dead real server is noticed some seconds late", "err", err)
		poll = time.Tick(resolvePoll)
	}
	for {
		var again <-chan time.Time
		busy := len(w.resolver.failing) > 0
		if w.busy.Store(busy); busy {
			again = time.After(resolveLook)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		case <-poll:
		case <-again:
		}
		if sets := w.sets.Get(); sets != nil {
			w.look(ctx, *sets, time.Now())
		}
		sleepContext(ctx, resolveGap)
	}
}

// matters reports whether an event of the kernel needs a look at the table. Other
// neighbours of this host than real servers may fail as they like.
func (w *resolveWatch) matters(m netlink.Message) bool {
	a, device, failed := failedNeighbour(m.Data)
	if failed = failed && w.judges(a); failed {
		w.events.add(a, device)
	}
	return failed || w.busy.Load()
}

// judges reports whether a is a real server.
func (w *resolveWatch) judges(a netip.Addr) bool {
	sets := w.sets.Get()
	return sets != nil && slices.ContainsFunc(*sets, func(s resolveSet) bool { return s.has(a) })
}

// failedNeighbour is the neighbour that an event reports as failed, and its device.
func failedNeighbour(event []byte) (a netip.Addr, device uint32, failed bool) {
	const index, state, attributes = 4, 8, 12 // places in struct ndmsg
	if len(event) < attributes || binary.NativeEndian.Uint16(event[state:])&unix.NUD_FAILED == 0 {
		return a, 0, false
	}
	d, err := netlink.NewAttributeDecoder(event[attributes:])
	if err != nil {
		return a, 0, false
	}
	for d.Next() {
		if d.Type() == unix.NDA_DST {
			a, failed = netip.AddrFromSlice(d.Bytes())
		}
	}
	return a.Unmap(), binary.NativeEndian.Uint32(event[index:]), failed
}

// failedEvents are the neighbours that events have reported as failed since the last
// look. Where packets go to a dead node all the time, the kernel asks again at once, and
// its table hardly ever shows the failure.
type failedEvents struct {
	mu  sync.Mutex
	all map[netip.Addr]uint32 // and the device
}

// add notes one. Of a great number, those that do not fit come again soon.
func (e *failedEvents) add(a netip.Addr, device uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = make(map[netip.Addr]uint32)
	}
	if len(e.all) < 16*maxResolving {
		e.all[a] = device
	}
}

// mark makes those failed in a table that was read later, unless they have answered
// since. It forgets them.
func (e *failedEvents) mark(entries map[netip.Addr]neighbourEntry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for a, device := range e.all {
		if entry, there := entries[a]; there && !entry.valid() {
			entry.state |= unix.NUD_FAILED
			entry.device = cmp.Or(entry.device, device)
			entries[a] = entry
		}
	}
	e.all = nil
}

// look reads the neighbour table, judges it, and asks.
func (w *resolveWatch) look(ctx context.Context, sets []resolveSet, now time.Time) {
	conn, err := openRtnl(ctx)
	if err == nil {
		defer conn.Close()
		err = w.lookBy(conn, sets, now)
	}
	if ctx.Err() != nil { // it is the error
		return
	}
	switch begins, ends := w.failing.note(err); {
	case ends:
		w.log.Info("the neighbours of this host can be read again")
	case begins:
		w.log.Warn("cannot read the neighbours of this host: dead real servers are not noticed", "err", err)
	}
}

func (w *resolveWatch) lookBy(conn *rtnl, sets []resolveSet, now time.Time) error {
	sets, err := presentSets(conn, sets)
	if err != nil {
		return err
	}
	entries, err := conn.neighbourEntries(now)
	if err != nil {
		return err
	}
	w.events.mark(entries)
	direct := func(a netip.Addr, device uint32) bool {
		at := conn.route(a, nil)
		return at.problem == "" && at.device == int(device)
	}
	before := w.resolver.down
	ask := w.resolver.judge(sets, entries, direct, now)
	if now.Sub(w.asked) >= resolveAsk {
		w.asked = now
		for _, a := range ask {
			e := entries[a]
			if f := w.resolver.failing[a]; f != nil {
				e.device = f.device
			}
			if e.device == 0 { // an earlier run knew it
				e.device = uint32(conn.route(a, nil).device)
			}
			conn.askNeighbour(a, e)
		}
	}
	if down := w.resolver.down; !maps.EqualFunc(before, down, slices.Equal) {
		w.report(before, down)
		w.out.Set(&Health{Unresolved: down})
	}
	return nil
}

// presentSets returns those of sets whose VIP has an address on a device of this host other
// than lo, which is where a node has it.
func presentSets(conn *rtnl, sets []resolveSet) (present []resolveSet, err error) {
	const loopback = 1 // its index in every network namespace
	here := make(map[netip.Addr]bool)
	err = conn.eachAddress(func(index uint32, a deviceAddress) {
		if index != loopback {
			here[a.Address] = true
		}
	})
	for _, s := range sets {
		if slices.ContainsFunc(s.Addresses, func(a netip.Addr) bool { return here[a] }) {
			present = append(present, s)
		}
	}
	return present, err
}

// report logs which real servers got out of service and in again, once for all VIPs.
func (w *resolveWatch) report(before, now map[string][]netip.Addr) {
	was, is := vipsOf(before), vipsOf(now)
	for _, a := range sortedBy(maps.Keys(is), netip.Addr.Compare) {
		if was[a] == nil {
			w.log.Warn("neighbour: real server down", "server", a, "vip", is[a][0], "vips", len(is[a]), "why", unresolvedReason(a))
		}
	}
	for _, a := range sortedBy(maps.Keys(was), netip.Addr.Compare) {
		if is[a] == nil {
			w.log.Info("neighbour: real server not down any more", "server", a, "vip", was[a][0], "vips", len(was[a]))
		}
	}
}

// vipsOf lists the VIPs of each address, in order.
func vipsOf(down map[string][]netip.Addr) map[netip.Addr][]string {
	vips := make(map[netip.Addr][]string)
	for _, vip := range slices.Sorted(maps.Keys(down)) {
		for _, a := range down[vip] {
			vips[a] = append(vips[a], vip)
		}
	}
	return vips
}
