//go:build bench

// Reading a whole table that is as it should be: the controller's audit,
// ipvsadm, and the floor. Reading leaves no traces, so all ways take turns at
// one table.

package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/bench/guest"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/floor"
	"lvs-controller/test/lab"
)

func TestBenchAudit(t *testing.T) {
	b := newBenchmark(t)
	for _, table := range guest.LongOr(b.Benchmark, []guest.Table{{Services: 100, Servers: 50}, {Services: 1000, Servers: 50}, {Services: 4000, Servers: 50}}, []guest.Table{{Services: 100, Servers: 50}}) {
		b.InFresh(func(h *lab.Host) { b.audit(h, table) })
	}
}

func (b *benchmark) audit(h *lab.Host, table guest.Table) {
	d := newBenchDirector(b, h, benchVIP{"edge", guest.Address, table.Services, table.Nodes()})
	defer d.close()
	d.turn()
	b.Check(h, table)
	f := floor.Dial(b.T, h)
	defer f.Close()
	requests := f.Dumps(b.T, table.Keys())
	var ours, reading, floor, ipvsadm []float64
	b.Quiet()
	for round := range guest.LongOr(b.Benchmark, 7, 5) {
		start := time.Now()
		for _, request := range requests {
			if err := f.Read(request, nil); err != nil {
				b.Fatal(err)
			}
		}
		floor = append(floor, guest.MS(time.Since(start)))

		whole, read := d.audit()
		ours, reading = append(ours, guest.MS(whole)), append(reading, guest.MS(read))

		if round < 3 {
			var said strings.Builder
			cmd := exec.Command("ipvsadm", "-Sn")
			cmd.Stdout = &said
			ipvsadm = append(ipvsadm, guest.MS(b.RunIn(h, cmd)))
			if rows := strings.Count(said.String(), "-a "); rows != table.Rows() {
				b.Fatalf("ipvsadm has %d rows, want %d", rows, table.Rows())
			}
		}
	}
	for way, samples := range map[string][]float64{"ours": ours, "ours, reading alone": reading, "floor": floor, "ipvsadm -Sn, from exec": ipvsadm} {
		b.Record(results.New("audit", way, table.Params(), "ms", samples...))
	}
}
