// Which real servers are dead because they answer no ARP and no neighbour discovery.
//
// Used by desired_health.go, reconcile_needs.go and main.go. In direct
// routing the kernel looks up each real server before it sends it a packet, so the
// state of its neighbour entry is known without a probe. Pure: no I/O, no clock, no
// log. It never takes more than half of a VIP's real servers out of service.

package main

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	resolveFall  = 3 * time.Second  // how long a neighbour fails before its real server gets out of service
	resolveRise  = 2 * time.Second  // how long it is reachable before the real server gets in service again
	resolveTrust = 10 * time.Second // how old the newest answer of another neighbour may be meanwhile

	maxWitnesses = 8   // the others of a VIP that are asked
	maxResolving = 256 // neighbours that begin to fail at a time, and questions at a time
)

// resolveSet are the real servers of one family of a VIP that are in service without
// the results of probes.
type resolveSet struct {
	VIP       string
	Addresses []netip.Addr // of the VIP, in this family
	Rows      []Row        // in table order; those of weight 0 do not count
}

// has reports whether a is one of the real servers.
func (s *resolveSet) has(a netip.Addr) bool {
	_, there := slices.BinarySearchFunc(s.Rows, a, func(r Row, a netip.Addr) int { return r.Address.Compare(a) })
	return there
}

// resolver judges neighbours.
type resolver struct {
	failing map[netip.Addr]*failingNeighbour
	down    map[string][]netip.Addr // VIP → what is out of service, sorted; Health.Unresolved
}

// failingNeighbour is a neighbour that has failed and not recovered.
type failingNeighbour struct {
	since   time.Time
	answers time.Time // since when it is reachable; zero: it is not
	device  uint32
	out     bool // it is in down
	wanted  bool // it is in a set
}

// newResolver begins with what an earlier run took out of service.
func newResolver(down map[string][]netip.Addr, now time.Time) *resolver {
	r := &resolver{failing: make(map[netip.Addr]*failingNeighbour), down: down}
	for _, all := range down {
		sortBy(all, netip.Addr.Compare) // a file may have them otherwise
		for _, a := range all {
			r.failing[a] = &failingNeighbour{since: now, out: true}
		}
	}
	return r
}

// judge takes the sets of VIPs that this director has and the neighbour table, and
// returns the neighbours to ask. direct reports whether packets to a neighbour that
// failed go to it, and not to a router.
//
//   - A real server is out of service when its neighbour has failed for resolveFall,
//     and another one of the VIP has answered since then. The kernel's attempts to
//     resolve it in between count as failed.
//   - It is in service again when it was reachable for resolveRise.
//   - At most half of a VIP's real servers in a family are out of service, those that
//     failed first, and none while no neighbour of it resolves.
func (r *resolver) judge(sets []resolveSet, entries map[netip.Addr]neighbourEntry, direct func(netip.Addr, uint32) bool, now time.Time) (ask []netip.Addr) {
	r.observe(entries, now)
	witnesses := make(map[netip.Addr]bool)
	down := make(map[string][]netip.Addr)
	begun := 0
	for i := range sets {
		s := &sets[i]
		for _, row := range s.Rows {
			a := row.Address
			if e := entries[a]; e.state&unix.NUD_FAILED != 0 && r.failing[a] == nil && s.counts(row) && begun < maxResolving {
				begun++
				if direct(a, e.device) {
					r.failing[a] = &failingNeighbour{since: now, device: e.device}
				}
			}
		}
		if len(r.failing) == 0 {
			continue
		}
		if out := r.out(s, entries, witnesses, now); len(out) > 0 {
			down[s.VIP] = append(down[s.VIP], out...)
		}
	}
	for a, f := range r.failing {
		f.out = false
		if !f.wanted {
			delete(r.failing, a)
		} else if f.wanted = false; len(ask) < maxResolving && f.answers.IsZero() {
			ask = append(ask, a) // in the map's order, so that none always comes last
		}
	}
	for _, all := range down {
		sortBy(all, netip.Addr.Compare)
		for _, a := range all {
			r.failing[a].out = true
		}
	}
	r.down = down
	for a := range witnesses {
		ask = append(ask, a)
	}
	return ask[:min(len(ask), 2*maxResolving)]
}

// observe updates the neighbours that fail.
func (r *resolver) observe(entries map[netip.Addr]neighbourEntry, now time.Time) {
	for a, f := range r.failing {
		e := entries[a]
		f.device = cmp.Or(e.device, f.device)
		switch {
		case e.reachable() || e.valid() && !f.answers.IsZero(): // it was, and no packet went to it since
			if f.answers.IsZero() {
				f.answers = now
			}
			if !f.out || now.Sub(f.answers) >= resolveRise {
				delete(r.failing, a)
			}
		case !f.out && (e.valid() || e.state == 0): // it sent something, or no packet goes to it
			delete(r.failing, a)
		default:
			f.answers = time.Time{}
		}
	}
}

// counts reports whether row is one of the set's real servers.
func (s *resolveSet) counts(row Row) bool { return row.Weight > 0 && row.Forward == DirectRoute }

// out decides which real servers of a set are out of service. To witnesses it adds
// those whose answer it needs.
func (r *resolver) out(s *resolveSet, entries map[netip.Addr]neighbourEntry, witnesses map[netip.Addr]bool, now time.Time) []netip.Addr {
	type suspect struct {
		netip.Addr
		*failingNeighbour
		before bool // it is out already
	}
	var suspects []suspect
	var others []netip.Addr
	var newest time.Time // answer of one that does not fail
	count, resolves := 0, false
	for _, row := range s.Rows {
		if !s.counts(row) {
			continue
		}
		count++
		a := row.Address
		if f := r.failing[a]; f != nil {
			f.wanted = true
			_, before := slices.BinarySearchFunc(r.down[s.VIP], a, netip.Addr.Compare)
			suspects = append(suspects, suspect{a, f, before})
			continue
		}
		e := entries[a]
		if e.fixed() {
			e.confirmed = now
		}
		if e.valid() {
			resolves = true
			if e.confirmed.After(newest) {
				newest = e.confirmed
			}
			if len(others) < maxWitnesses && !e.fixed() {
				others = append(others, a)
			}
		}
	}
	if len(suspects) == 0 || !resolves {
		return nil
	}
	sortBy(suspects, func(a, b suspect) int {
		if a.before != b.before {
			return map[bool]int{true: -1, false: 1}[a.before]
		}
		return cmp.Or(a.since.Compare(b.since), a.Compare(b.Addr))
	})
	var out []netip.Addr
	unsure := now.Sub(newest) > resolveTrust
	for _, n := range suspects[:min(len(suspects), count/2)] {
		confirmed := newest.After(n.since)
		if n.before || confirmed && now.Sub(n.since) >= resolveFall {
			out = append(out, n.Addr)
		}
		unsure = unsure || !n.before && !confirmed
	}
	if unsure {
		addAll(witnesses, others)
	}
	return out
}
