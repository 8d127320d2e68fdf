// The simulation: how many open connections break when a director leaves or joins.
//
// A connection breaks when a packet of it reaches a director that has no entry for it and
// would choose another real server. Until then it is with the director that opened it, so
// the simulation opens connections at times before zero, each at its director's table of
// that time, and lets one director leave or join at time zero. Connections whose real
// server was removed meanwhile are left out: no director can help them.

package main

import (
	"cmp"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"

	"lvs-controller/test/scale/maglev"
)

// scenario is one question to the simulation.
type scenario struct {
	directors   int // with the one that leaves or joins
	servers     int
	churn       float64 // changes of the real servers in a minute
	lifetime    float64 // mean, seconds
	router      routerKind
	join        bool // the director joins, after a reboot; otherwise it leaves
	delays      delays
	ownOrder    bool // each director was started at another time
	connections int
	rounds      int
}

// base is what a table leaves unchanged.
var base = scenario{directors: 8, servers: 50, churn: 1, lifetime: 60, router: resilient, delays: measured, connections: 100000, rounds: 5}

// delays are how late a director learns of a change, in seconds.
type delays struct {
	// Each change reaches each director after another delay, evenly between these.
	least, most float64
	// The first director of all is so much later still.
	laggard float64
}

// syncDelay is the time that the kernel collects connections before it sends them
// (IPVS_SYNC_FLUSH_TIME), in seconds.
const syncDelay = 2

// outcome is what became of the open connections, as shares of all of them.
type outcome struct {
	moved float64 // to another director
	// Broken, by what the directors do.
	rr, mh, sync, pair float64
	// elsewhere is the share of connections that were opened at a director whose
	// choice was not that of most.
	elsewhere float64
}

// connection is one open connection.
type connection struct {
	opened float64
	flow   uint64
	client maglev.Client
	server netip.AddrPort
	at     int // the director
}

// world is one round of a scenario.
type world struct {
	scenario
	rng     *rand.Rand
	history history
	fleet   []*director
	shared  tables
	before  []int // directors that the router knows, and afterwards
	after   []int
}

// run returns the mean outcome of the scenario's rounds.
func (s scenario) run(seed uint64) outcome {
	var sum outcome
	for round := range s.rounds {
		one := s.newWorld(rand.New(rand.NewPCG(seed, uint64(round)))).run()
		for _, v := range []struct {
			to *float64
			v  float64
		}{{&sum.moved, one.moved}, {&sum.rr, one.rr}, {&sum.mh, one.mh}, {&sum.sync, one.sync}, {&sum.pair, one.pair}, {&sum.elsewhere, one.elsewhere}} {
			*v.to += v.v / float64(s.rounds)
		}
	}
	return sum
}

func (s scenario) newWorld(rng *rand.Rand) *world {
	w := &world{scenario: s, rng: rng, shared: make(tables)}
	// Connections that are older than eight lifetimes are rare, and drains that began
	// earlier are over.
	w.history = newHistory(rng, s.servers, s.churn, -8*s.lifetime-drain)
	subject := rng.IntN(s.directors)
	for i := range s.directors {
		d := &director{boot: -1, list: w.history.first}
		if s.ownOrder {
			d.order = i + 1
			d.boot = rng.IntN(len(w.history.changes) + 1)
		}
		if s.join && i == subject {
			d.order, d.boot = s.directors+1, len(w.history.changes)
		}
		if d.boot == 0 {
			d.list = sorted(d.list)
		}
		late := math.Inf(-1)
		for _, c := range w.history.changes {
			delay := s.delays.least + rng.Float64()*(s.delays.most-s.delays.least)
			if i == 0 {
				delay += s.delays.laggard
			}
			if s.join && i == subject {
				delay = 0 // it reads all of them at its start
			}
			late = max(late, c.at+delay) // a watch keeps the order
			d.learns = append(d.learns, late)
		}
		w.fleet = append(w.fleet, d)
		if i != subject || !s.join {
			w.before = append(w.before, i)
		}
		if i != subject || s.join {
			w.after = append(w.after, i)
		}
	}
	return w
}

// open makes the connections that are open at time zero, the oldest first.
func (w *world) open() []connection {
	all := make([]connection, w.connections)
	for i := range all {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(11 + w.rng.IntN(100)), byte(w.rng.Uint32()), byte(w.rng.Uint32()), byte(w.rng.Uint32())}), uint16(1024+w.rng.IntN(64000)))
		c := &all[i]
		// A lifetime without memory: so is the age of what is open.
		c.opened = -math.Min(w.rng.ExpFloat64()*w.lifetime, 8*w.lifetime)
		c.client = maglev.NewClient(from)
		c.flow = mix(uint64(w.rng.Uint32())<<32 | uint64(w.rng.Uint32()))
	}
	slices.SortFunc(all, func(a, b connection) int { return cmp.Compare(a.opened, b.opened) })
	return all
}

// run opens the connections, lets the director leave or join, and counts.
func (w *world) run() outcome {
	var o outcome
	all := w.open()
	reference := &director{learns: make([]float64, len(w.history.changes)), boot: -1, list: w.history.first}
	for i, c := range w.history.changes {
		reference.learns[i] = c.at + w.delays.most
	}
	for i := range all {
		c := &all[i]
		c.at = w.before[w.router.pick(c.flow, w.before)]
		d := w.fleet[c.at]
		d.advance(&w.history, c.opened, w.shared)
		c.server = d.list[d.table.Pick(c.client)].Addr
		reference.advance(&w.history, c.opened, w.shared)
		if reference.list[reference.table.Pick(c.client)].Addr != c.server {
			o.elsewhere++
		}
	}
	for _, d := range w.fleet {
		d.advance(&w.history, 0, w.shared)
	}
	open := 0
	for i := range all {
		if w.count(&all[i], &o) {
			open++
		}
	}
	for _, v := range []*float64{&o.moved, &o.rr, &o.mh, &o.sync, &o.pair} {
		*v /= float64(open)
	}
	o.elsewhere /= float64(w.connections)
	return o
}

// count adds what becomes of one connection at time zero, and reports whether it was
// open until then.
func (w *world) count(c *connection, o *outcome) bool {
	old := w.fleet[c.at]
	has := func(s maglev.Server) bool { return s.Addr == c.server }
	if !slices.ContainsFunc(old.list, has) {
		return false
	}
	to := w.after[w.router.pick(c.flow, w.after)]
	broken := func(d *director) float64 {
		if i := d.table.Pick(c.client); i >= 0 && d.list[i].Addr == c.server {
			return 0
		}
		return 1
	}
	// Pairs under keepalived: only the partner takes over, and nothing returns.
	partner := c.at ^ 1
	if partner >= len(w.fleet) {
		partner = c.at - 1
	}
	synced := -c.opened > syncDelay*w.rng.Float64()
	if !slices.Contains(w.after, c.at) && !synced {
		o.pair += broken(w.fleet[partner])
	}
	if to == c.at {
		return true
	}
	o.moved++
	d := w.fleet[to]
	serving := 0
	for _, s := range d.list {
		if s.Weight > 0 {
			serving++
		}
	}
	if !slices.ContainsFunc(d.list, func(s maglev.Server) bool { return has(s) && s.Weight > 0 }) || w.rng.IntN(serving) > 0 {
		o.rr++
	}
	b := broken(d)
	o.mh += b
	if to != partner || !synced {
		o.sync += b
	}
	return true
}
