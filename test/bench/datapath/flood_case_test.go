// One case of a flood: how it is run, what came of it, and its row of the table.

package datapath

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// flood is one case.
type flood struct {
	id, name string
	syns     int
	bits     int     // the connection table has 2^bits buckets; 0: 20
	settings string  // lines of [sysctl]; the controller's own hold for the others
	scale    int     // vm.watermark_scale_factor; 0: the kernel's
	free     int     // MiB of memory that are free before the flood; 0: all
	active   bool    // amemthresh is what is free before all, so the defences are active all the time
	want     float64 // percent of the requests have to be answered; 0: nothing has to hold
}

// outcome is what a flood did.
type outcome struct {
	took        time.Duration
	syns        int
	arrived     int // packets at the real server
	kills       int // of the OOM killer
	connections int // at the most
	size        int // bytes of a connection
	taken       int // memory, in MiB
	free        int // the least free memory, in MiB
	state       string
	lasts       int // seconds, of a half-open connection without more packets
	defences    int // that were active at the end of the flood
	ended       bool
	calm        [2]lab.Report // before and after
	honest      lab.Report    // meanwhile
}

// run sends the SYNs while honest clients ask, and has those ask before and after too.
func (f flood) run(t *testing.T, peace time.Duration) (o outcome) {
	t.Helper()
	if f.bits == 0 {
		f.bits = 20
	}
	withTable(t, f.bits)
	if f.scale != 0 {
		set(t, "vm/watermark_scale_factor", strconv.Itoa(f.scale))
	}
	if f.active {
		f.settings += fmt.Sprintf("amemthresh = %d\n", memory(t, "MemFree")<<10/os.Getpagesize())
	}
	r := newFloodRig(t)
	defer r.close()
	r.start("[sysctl]\n" + f.settings)
	o.calm[0] = r.calm(peace)
	release := ballast(t, f.free)
	defer release()

	available, kills := memory(t, "MemAvailable"), killed(t)
	_, packets, err := r.arrived.read()
	lab.Must(t, err)
	w := r.watch()
	o.honest = r.load(func(clients *lab.Load) {
		start := time.Now()
		// The same SYNs again where the clients have had no processor meanwhile.
		for o.syns < f.syns || o.syns < 3*f.syns && clients.Report().Requests < enough {
			n := min(50_000, f.syns)
			if left := f.syns - o.syns; left > 0 {
				n = min(n, left)
			}
			lab.Must(t, r.sender.send(target{directorMAC, vip, floodPort}, o.syns, n, f.syns))
			o.syns += n
		}
		o.took = time.Since(start)
	})
	w.end(t)
	_, now, err := r.arrived.read()
	lab.Must(t, err)
	o.arrived, o.kills = now-packets, killed(t)-kills
	o.connections, o.taken, o.free = w.connections, (available-w.available)>>10, w.free>>10
	o.size = slabSize(t)
	o.state, o.lasts = r.entry()
	if m, err := r.metrics("lvs_flood_defence"); err == nil {
		o.defences = int(m[0])
	}
	release()
	o.calm[1] = r.calm(peace)
	o.ended = r.process.Ended()
	return o
}

// set writes a setting of this machine, and puts it back with the test's end.
func set(t *testing.T, key, value string) {
	t.Helper()
	path := filepath.Join("/proc/sys", key)
	before, err := os.ReadFile(path)
	lab.Must(t, err)
	lab.Must(t, os.WriteFile(path, []byte(value), 0o644))
	t.Cleanup(func() { lab.Must(t, os.WriteFile(path, before, 0o644)) })
}

// answered are the requests that were answered, in percent.
func answered(r lab.Report) float64 {
	return 100 * (1 - float64(r.Failed())/float64(max(1, r.Requests)))
}

const floodHead = "| Memory free before | Settings | µs a SYN | SYNs that reached the real server | Connections at most | Memory taken | Killed for memory | A half-open connection lasts | Clients answered | Slowest |\n" +
	"|---|---|---|---|---|---|---|---|---|---|\n"

// row is the case's line of the table.
func (o outcome) row(f flood) string {
	free := "all"
	if f.free != 0 {
		free = fmt.Sprintf("%d MiB", f.free)
	}
	kills := "none"
	if o.kills > 0 {
		kills = strconv.Itoa(o.kills)
	}
	return fmt.Sprintf("| %s | %s | %.0f | %d %% | %d | %d MiB | %s | %d s (%s) | %.1f %% of %d | %.1f s |\n", free, f.name, perPacket(o.took, o.syns),
		min(100, 100*o.arrived/o.syns), o.connections, o.taken, kills, o.lasts, o.state, answered(o.honest), o.honest.Requests, o.honest.Slowest.Seconds())
}

func (o outcome) String() string {
	return fmt.Sprintf("%.1f s, %d packets arrived, a connection is %d bytes, free memory at least %d MiB, %d defences active\nbefore: %s\nmeanwhile: %s\nafter: %s",
		o.took.Seconds(), o.arrived, o.size, o.free, o.defences, o.calm[0], o.honest, o.calm[1])
}

// judge fails the test unless the director and its clients got through the flood.
func (o outcome) judge(t *testing.T, f flood) {
	t.Helper()
	if o.kills > 0 || o.ended {
		t.Errorf("the kernel killed %d processes for their memory; the controller has ended: %v", o.kills, o.ended)
	}
	all, failed := 0, 0
	for _, r := range []lab.Report{o.calm[0], o.honest, o.calm[1]} {
		if r.Requests < enough {
			t.Errorf("only %d requests", r.Requests)
		}
		all, failed = all+r.Requests, failed+r.Failed()
	}
	if float64(all-failed) < f.want/100*float64(all) {
		t.Errorf("%d of %d requests failed; want %g %% answered", failed, all, f.want)
	}
	if o.connections < 1000 {
		t.Errorf("the controller has seen only %d connections", o.connections)
	}
	if f.active && o.defences != 2 || f.free == 0 && !f.active && o.defences != 0 {
		t.Errorf("%d of the kernel's defences were active", o.defences)
	}
}
