// The directors of the simulation: each has its own list of real servers, in its own
// order, and learns of a change at its own time. Used by the simulation alone.

package main

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"

	"lvs-controller/test/scale/maglev"
)

// drain is how long a real server that leaves keeps weight 0 before it is removed, in
// seconds: the default of [vip.drain] timeout.
const drain = 300

// change is one thing that all directors learn.
type change struct {
	at   float64 // seconds
	kind changeKind
	addr netip.AddrPort
}

type changeKind int

const (
	joins changeKind = iota
	drains
	leaves
)

// apply makes the change in a list.
func (c change) apply(list []maglev.Server) []maglev.Server {
	i := slices.IndexFunc(list, func(s maglev.Server) bool { return s.Addr == c.addr })
	switch c.kind {
	case joins:
		return append(slices.Clone(list), maglev.Server{Addr: c.addr, Weight: 1, LastWeight: 1})
	case drains:
		list = slices.Clone(list)
		list[i].Weight = 0
		return list
	}
	return slices.Delete(slices.Clone(list), i, i+1)
}

// history is what happens to the real servers: a list at first, and changes.
type history struct {
	first   []maglev.Server
	changes []change
}

// newHistory has nodes join and begin to leave alternately, `churn` changes a minute in
// all, from time begin to 0. n real servers are in service on average.
func newHistory(rng *rand.Rand, n int, churn, begin float64) history {
	var h history
	free := rng.Perm(60000)
	address := func() netip.AddrPort {
		i := free[len(free)-1]
		free = free[:len(free)-1]
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(1 + i/62500), byte(i / 250), byte(1 + i%250)}), 443)
	}
	var serving []netip.AddrPort
	for range n {
		a := address()
		serving = append(serving, a)
		h.first = append(h.first, maglev.Server{Addr: a, Weight: 1, LastWeight: 1})
	}
	if churn == 0 {
		return h
	}
	join := rng.IntN(2) == 0
	for t := begin + rng.ExpFloat64()*60/churn; t < 0; t += rng.ExpFloat64() * 60 / churn {
		if join {
			a := address()
			serving = append(serving, a)
			h.changes = append(h.changes, change{t, joins, a})
		} else {
			i := rng.IntN(len(serving))
			h.changes = append(h.changes, change{t, drains, serving[i]}, change{t + drain, leaves, serving[i]})
			serving = slices.Delete(serving, i, i+1)
		}
		join = !join
	}
	slices.SortStableFunc(h.changes, func(a, b change) int { return cmp.Compare(a.at, b.at) })
	h.changes = slices.DeleteFunc(h.changes, func(c change) bool { return c.at >= 0 })
	return h
}

// director follows the history at its own pace.
type director struct {
	learns []float64 // when it learns of each change
	boot   int       // changes before it was started; -1 = it was there before the first
	order  int       // directors of the same order share tables
	next   int       // the first change that it has not learnt
	list   []maglev.Server
	table  *maglev.Table
}

// tables are shared by directors that have the same list in the same order.
type tables map[[2]int]*maglev.Table

// advance brings the director to the time t.
func (d *director) advance(h *history, t float64, shared tables) {
	for d.next < len(h.changes) && d.learns[d.next] <= t {
		d.list = h.changes[d.next].apply(d.list)
		d.next++
		d.table = nil
		if d.next == d.boot {
			d.list = sorted(d.list)
		}
	}
	if d.table == nil {
		key := [2]int{d.order, d.next}
		if d.table = shared[key]; d.table == nil {
			d.table = maglev.New(d.list)
			shared[key] = d.table
		}
	}
}

// sorted is the list of a director that has just started: in the order of the addresses.
func sorted(list []maglev.Server) []maglev.Server {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b maglev.Server) int { return a.Addr.Compare(b.Addr) })
	return list
}
