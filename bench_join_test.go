// One node joins and leaves: how the work depends on the number of services it
// is in, and on the size of the table around them.

package main

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"lvs-controller/test/bench/results"
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
	c.edge = benchVIP{"edge", benchAddress, services, addressesFrom(benchNode, edgeServers)}
	c.rest = benchVIP{"rest", restAddress, (rows - services*edgeServers) / restServers, addressesFrom(restNode, restServers)}
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
	for _, n := range longOr(b, []struct{ services, times int }{{1, 15}, {10, 9}, {100, 7}, {1000, 5}}, []struct{ services, times int }{{1, 5}, {100, 3}}) {
		for _, rows := range longOr(b, []int{1_000, 10_000, 50_000, 200_000}, []int{1_000, 10_000}) {
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
	var ours, told, floor moves
	b.inCrowd(c, func(mine *lab.Host, d *benchDirector) {
		turn := func(whole, kernel *[]float64) {
			w, k := d.turn()
			*whole, *kernel = append(*whole, ms(w)), append(*kernel, ms(k))
		}
		b.inCrowd(c, func(other *lab.Host, _ *benchDirector) {
			f := dialFloor(b.T, other)
			defer f.close()
			send := func(cmd uint8, node netip.Addr, weight uint32, took *[]float64) {
				var all []floorMessage
				for _, k := range benchServices(benchAddress, c.edge.services) {
					all = append(all, floorMessage{cmd: cmd, service: k, server: node, weight: weight})
				}
				batches := f.encode(b.T, all)
				start := time.Now()
				err := f.send(batches)
				*took = append(*took, ms(time.Since(start)))
				must(b.T, err)
			}
			check := func(joined, quiesced int) {
				b.Helper()
				b.checkEdge(mine, c, joined, quiesced)
				b.checkEdge(other, c, joined, quiesced)
			}
			nodes := addressesFrom(joiningNode, times)
			for i, node := range nodes {
				d.set(c.edge, node, true)
				turn(&ours.join, &told.join)
				send(cmdNewDest, node, 1, &floor.join)
				check(i+1, 0)
			}
			for i, node := range nodes {
				d.set(c.edge, node, false)
				turn(&ours.quiesce, &told.quiesce)
				send(cmdSetDest, node, 0, &floor.quiesce)
				check(times-i, 1)
				d.drained()
				turn(&ours.remove, &told.remove)
				send(cmdDelDest, node, 0, &floor.remove)
				check(times-i-1, 0)
			}
		})
	})
	for way, m := range map[string]moves{"ours": ours, "ours, kernel told": told, "floor": floor} {
		b.record(results.New("join", way, c.params, "ms", m.join...))
		b.record(results.New("quiesce", way, c.params, "ms", m.quiesce...))
		b.record(results.New("remove", way, c.params, "ms", m.remove...))
	}
}

// inCrowd calls f in a fresh namespace that has the table, with the director
// that made it.
func (b *benchmark) inCrowd(c crowd, f func(*lab.Host, *benchDirector)) {
	b.Helper()
	b.inFresh(func(h *lab.Host) {
		d := newBenchDirector(b, h, c.vips()...)
		defer d.close()
		d.turn()
		floor := dialFloor(b.T, h)
		defer floor.close()
		if services := floor.services(b.T); services != c.edge.services+c.rest.services {
			b.Fatalf("%d services, want %d and %d", services, c.edge.services, c.rest.services)
		}
		if rows, _ := floor.count(b.T, benchServices(restAddress, c.rest.services)); rows != c.rest.services*restServers {
			b.Fatalf("%d rows around, want %d", rows, c.rest.services*restServers)
		}
		b.quiet()
		f(h, d)
	})
}

// checkEdge fails the test unless so many nodes have joined each service, and
// so many of them are quiesced.
func (b *benchmark) checkEdge(h *lab.Host, c crowd, joined, quiesced int) {
	b.Helper()
	f := dialFloor(b.T, h)
	defer f.close()
	rows, zero := f.count(b.T, benchServices(benchAddress, c.edge.services))
	want := fmt.Sprintf("%d rows, %d quiesced", c.edge.services*(edgeServers+joined), c.edge.services*quiesced)
	if got := fmt.Sprintf("%d rows, %d quiesced", rows, zero); got != want {
		b.Fatalf("%s; want %s", got, want)
	}
}
