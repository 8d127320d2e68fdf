//go:build bench

// One node joins and leaves: how the work depends on the number of services it
// is in, and on the size of the table around them.

package main

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"lvs-controller/test/bench/guest"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/floor"
	"lvs-controller/test/lab"
)

const (
	edgeServers = 10 // of each service that the node joins, in every table
	restServers = 50 // of each service that fills the table up
)

// The VIP that fills tables up, its first real server, and the first node that
// joins.
var (
	restAddress = netip.MustParseAddr("10.0.0.101")
	restNode    = netip.MustParseAddr("10.2.0.1")
	joiningNode = netip.MustParseAddr("10.3.0.1")
)

// crowd is a table with two VIPs: one that nodes join and leave, one that stays
// as it is.
type crowd struct {
	edge, rest benchVIP
	params     results.Params
}

func newCrowd(services, rows int) crowd {
	c := crowd{params: results.Params{"services": services, "rows": rows}}
	c.edge = benchVIP{"edge", guest.Address, services, guest.AddressesFrom(guest.Node, edgeServers)}
	c.rest = benchVIP{"rest", restAddress, (rows - services*edgeServers) / restServers, guest.AddressesFrom(restNode, restServers)}
	return c
}

// vips leaves out one without services, which would be warned of.
func (c crowd) vips() []benchVIP {
	if c.rest.services == 0 {
		return []benchVIP{c.edge}
	}
	return []benchVIP{c.edge, c.rest}
}

// moves are the samples of one way: how long each joining, quiescing and
// removal took.
type moves struct{ join, quiesce, remove []float64 }

func TestBenchJoin(t *testing.T) {
	b := newBenchmark(t)
	for _, n := range guest.LongOr(b.Benchmark, []struct{ services, times int }{{1, 15}, {10, 9}, {100, 9}, {1000, 9}}, []struct{ services, times int }{{1, 5}, {100, 3}}) {
		for _, rows := range guest.LongOr(b.Benchmark, []int{1_000, 10_000, 50_000, 200_000}, []int{1_000, 10_000}) {
			if n.services*edgeServers <= rows {
				b.join(newCrowd(n.services, rows), n.times)
			}
		}
	}
}

// join has so many nodes join and leave, one after the other, in turns: the
// controller and the floor, each in a table of its own. All join before the first
// leaves, because the kernel remembers for two minutes who left, at a cost to
// those that join.
func (b *benchmark) join(c crowd, times int) {
	var ours, told, least moves
	b.inCrowd(c, func(mine *lab.Host, d *benchDirector) {
		turn := func(whole, kernel *[]float64) {
			w, k := d.turn()
			*whole, *kernel = append(*whole, guest.MS(w)), append(*kernel, guest.MS(k))
		}
		b.inCrowd(c, func(other *lab.Host, _ *benchDirector) {
			f := floor.Dial(b.T, other)
			defer f.Close()
			send := func(cmd uint8, node netip.Addr, weight uint32, took *[]float64) {
				var all []floor.Message
				for _, k := range guest.Services(guest.Address, c.edge.services) {
					all = append(all, floor.Message{Cmd: cmd, Service: k, Server: node, Weight: weight})
				}
				batches := f.Encode(b.T, all)
				start := time.Now()
				err := f.Send(batches)
				*took = append(*took, guest.MS(time.Since(start)))
				lab.Must(b.T, err)
			}
			check := func(joined, quiesced int) {
				b.Helper()
				b.checkEdge(mine, c, joined, quiesced)
				b.checkEdge(other, c, joined, quiesced)
			}
			nodes := guest.AddressesFrom(joiningNode, times)
			for i, node := range nodes {
				d.set(c.edge, node, true)
				turn(&ours.join, &told.join)
				send(floor.NewDest, node, 1, &least.join)
				check(i+1, 0)
			}
			for i, node := range nodes {
				d.set(c.edge, node, false)
				turn(&ours.quiesce, &told.quiesce)
				send(floor.SetDest, node, 0, &least.quiesce)
				check(times-i, 1)
				d.drained()
				turn(&ours.remove, &told.remove)
				send(floor.DelDest, node, 0, &least.remove)
				check(times-i-1, 0)
			}
		})
	})
	for way, m := range map[string]moves{"ours": ours, "ours, kernel told": told, "floor": least} {
		b.Record(results.New("join", way, c.params, "ms", m.join...))
		b.Record(results.New("quiesce", way, c.params, "ms", m.quiesce...))
		b.Record(results.New("remove", way, c.params, "ms", m.remove...))
	}
}

// inCrowd calls f in a fresh namespace that has the table, with the director
// that made it.
func (b *benchmark) inCrowd(c crowd, f func(*lab.Host, *benchDirector)) {
	b.Helper()
	b.InFresh(func(h *lab.Host) {
		d := newBenchDirector(b, h, c.vips()...)
		defer d.close()
		d.turn()
		kernel := floor.Dial(b.T, h)
		defer kernel.Close()
		if services := kernel.Services(b.T); services != c.edge.services+c.rest.services {
			b.Fatalf("%d services, want %d and %d", services, c.edge.services, c.rest.services)
		}
		if rows, _ := kernel.Count(b.T, guest.Services(restAddress, c.rest.services)); rows != c.rest.services*restServers {
			b.Fatalf("%d rows around, want %d", rows, c.rest.services*restServers)
		}
		b.Quiet()
		f(h, d)
	})
}

// checkEdge fails the test unless so many nodes have joined each service, and
// so many of them are quiesced.
func (b *benchmark) checkEdge(h *lab.Host, c crowd, joined, quiesced int) {
	b.Helper()
	f := floor.Dial(b.T, h)
	defer f.Close()
	rows, zero := f.Count(b.T, guest.Services(guest.Address, c.edge.services))
	want := fmt.Sprintf("%d rows, %d quiesced", c.edge.services*(edgeServers+joined), c.edge.services*quiesced)
	if got := fmt.Sprintf("%d rows, %d quiesced", rows, zero); got != want {
		b.Fatalf("%s; want %s", got, want)
	}
}
