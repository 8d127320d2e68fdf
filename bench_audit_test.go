// Reading a whole table that is as it should be: the controller's audit,
// ipvsadm, and the floor. Reading leaves no traces, so all ways take turns at
// one table.

package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/bench/results"
	"lvs-controller/test/lab"
)

func TestBenchAudit(t *testing.T) {
	b := newBenchmark(t)
	for _, table := range longOr(b, []benchTable{{100, 50}, {1000, 50}, {4000, 50}}, []benchTable{{100, 50}}) {
		b.inFresh(func(h *lab.Host) { b.audit(h, table) })
	}
}

func (b *benchmark) audit(h *lab.Host, table benchTable) {
	d := newBenchDirector(b, h, benchVIP{"edge", benchAddress, table.services, table.nodes()})
	defer d.close()
	d.turn()
	b.check(h, table)
	f := dialFloor(b.T, h)
	defer f.close()
	requests := f.dumps(b.T, table.keys())
	var ours, reading, floor, ipvsadm []float64
	b.quiet()
	for round := range longOr(b, 7, 5) {
		start := time.Now()
		for _, request := range requests {
			if err := f.read(request, nil); err != nil {
				b.Fatal(err)
			}
		}
		floor = append(floor, ms(time.Since(start)))

		whole, read := d.audit()
		ours, reading = append(ours, ms(whole)), append(reading, ms(read))

		if round < 3 {
			var said strings.Builder
			cmd := exec.Command("ipvsadm", "-Sn")
			cmd.Stdout = &said
			ipvsadm = append(ipvsadm, ms(b.runIn(h, cmd)))
			if rows := strings.Count(said.String(), "-a "); rows != table.rows() {
				b.Fatalf("ipvsadm has %d rows, want %d", rows, table.rows())
			}
		}
	}
	for way, samples := range map[string][]float64{"ours": ours, "ours, reading alone": reading, "floor": floor, "ipvsadm -Sn, from exec": ipvsadm} {
		b.record(results.New("audit", way, table.params(), "ms", samples...))
	}
}
