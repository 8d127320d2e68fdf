// How many directors, and which settings: the last table of docs/scale.md. Pure
// arithmetic on the sizes that TestKernelScaleSizes measures, and on figures that an
// operator has to measure on his own hardware.

package main

import (
	"fmt"
	"math"

	"lvs-controller/test/markdown"
	"lvs-controller/test/scale/sizes"
)

// sizing is what must be known of the traffic and of a director.
type sizing struct {
	packet   float64 // bytes of a packet from a client
	cost     float64 // µs of one core for a packet
	cores    float64
	use      float64 // the share of cores and line that may be busy
	line     float64 // Gbit/s
	lifetime float64 // mean, seconds, of a connection
}

// assumed is an example, and measured nowhere.
var assumed = sizing{packet: 200, cost: 1, cores: 16, use: 0.5, line: 25, lifetime: 60}

// plan is an answer.
type plan struct {
	packets   float64 // a second, all directors together
	directors int     // behind a router, with one that may be away
	paired    int     // in pairs: the partner takes over all of a director's load
	each      float64 // connections of a director while one, or its partner, is away
	bits      int     // connection_table_bits
	memory    float64 // bytes of a director
	sync      float64 // bytes a second that a pair sends
}

// plan answers for a rate of packets from clients, in Gbit/s, and a number of open
// connections.
func (s sizing) plan(gigabits, connections float64) plan {
	var p plan
	p.packets = gigabits * 1e9 / 8 / s.packet
	busy := math.Max(p.packets*s.cost/1e6/(s.cores*s.use), gigabits/(s.line*s.use))
	needed := math.Max(1, math.Ceil(busy-1e-9))
	p.directors, p.paired = int(needed)+1, int(needed)*2
	p.each = connections / needed
	p.bits = tableBits(p.each)
	p.memory = p.each*sizes.Connection + sizes.Bucket*math.Exp2(float64(p.bits))
	p.sync = p.each * (sizes.SyncBusy + sizes.SyncShort/s.lifetime) * sizes.SyncEntry
	return p
}

// tableBits is the smallest connection_table_bits with no more than one connection for
// each bucket, from the default on.
func tableBits(connections float64) int {
	const least, most = 20, 27
	return max(least, min(most, int(math.Ceil(math.Log2(connections)))))
}

// render is the table, with what it assumes.
func (s sizing) render() string {
	t := markdown.Table{Head: []string{"packets from clients, open connections", "packets/s", "directors behind a router", "or in pairs", "connections on each", "`connection_table_bits`", "memory on each", "sync traffic of a pair"}}
	for _, gigabits := range []float64{1, 10, 100} {
		for _, c := range []struct {
			n    float64
			name string
		}{{1e6, "10^6"}, {1e7, "10^7"}, {1e8, "10^8"}} {
			p := s.plan(gigabits, c.n)
			t.Add(fmt.Sprintf("%g Gbit/s, %s", gigabits, c.name), markdown.Grouped(fmt.Sprintf("%.0f", p.packets)), fmt.Sprint(p.directors), fmt.Sprint(p.paired), markdown.Grouped(fmt.Sprintf("%.0f", p.each)),
				fmt.Sprint(p.bits), size(p.memory), rate(p.sync))
		}
	}
	per := markdown.Table{Head: []string{"open connections", "10^6", "10^7", "10^8"}}
	line := func(name string, of func(n float64) string) { per.Add(name, of(1e6), of(1e7), of(1e8)) }
	line("connections", func(n float64) string { return size(n * sizes.Connection) })
	line("… with persistence, one template each", func(n float64) string { return size(2 * n * sizes.Connection) })
	line("buckets of the table", func(n float64) string {
		return fmt.Sprintf("%s (%d bits)", size(sizes.Bucket*math.Exp2(float64(tableBits(n)))), tableBits(n))
	})
	line("sync traffic, all busy", func(n float64) string { return rate(n * sizes.SyncBusy * sizes.SyncEntry) })
	line("… messages a second", func(n float64) string { return markdown.Grouped(fmt.Sprintf("%.0f", n*sizes.SyncBusy)) })
	return fmt.Sprintf("### Memory and sync traffic\n\n"+
		"%.1f bytes a connection, %d a bucket, %.2f a sync message with its share of the headers. A\n"+
		"busy connection causes %.2f messages a second, a short one %d in all: %s for each\n10,000 of them a second.\n\n%s\n"+
		"### How many directors\n\n"+
		"**An example, not a measurement**: packets from clients of %g bytes, %g µs of one core for\n"+
		"each, %g cores and a line of %g Gbit/s, of both at most %g %% busy while one director is\n"+
		"away, connections of %g s. Connections and memory are those of that time. In a pair each\n"+
		"director has the connections of both at all times.\n\n%s",
		sizes.Connection, sizes.Bucket, sizes.SyncEntry, sizes.SyncBusy, sizes.SyncShort, rate(10000*sizes.SyncShort*sizes.SyncEntry), per.String(),
		s.packet, s.cost, s.cores, s.line, 100*s.use, s.lifetime, t.String())
}
