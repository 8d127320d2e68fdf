//go:build bench

// The kernel's table: programming it into an empty kernel, reading one that is right,
// and one node that joins and leaves. The controller beside the floor and its peers.

package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/bench/guest"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/floor"
	"lvs-controller/test/lab"
)

// programming is a way to make a table, which returns how long that took in h.
type programming struct {
	name string
	runs int
	do   func(h *lab.Host) time.Duration
}

func TestBenchProgram(t *testing.T) {
	b := newBenchmark(t)
	for _, table := range guest.LongOr(b.Benchmark, []guest.Table{{Services: 100, Servers: 50}, {Services: 1000, Servers: 50}}, []guest.Table{{Services: 100, Servers: 50}}) {
		b.program(table)
	}
}

// program measures every way to make the table, round by round, so that what
// disturbs the machine for a while disturbs them all.
func (b *benchmark) program(table guest.Table) {
	var (
		batches []floor.Batch
		acked   []float64
	)
	ways := []programming{
		{"floor", guest.LongOr(b.Benchmark, 15, 3), func(h *lab.Host) time.Duration {
			f := floor.Dial(b.T, h)
			defer f.Close()
			if batches == nil {
				batches = f.Encode(b.T, table.Messages())
			}
			b.Quiet()
			start := time.Now()
			err := f.Send(batches)
			took := time.Since(start)
			lab.Must(b.T, err)
			return took
		}},
		{"ours", guest.LongOr(b.Benchmark, 15, 3), func(h *lab.Host) time.Duration {
			d := newBenchDirector(b, h, benchVIP{"edge", guest.Address, table.Services, table.Nodes()})
			defer d.close()
			b.Quiet()
			whole, kernel := d.pass()
			acked = append(acked, guest.MS(kernel))
			return whole
		}},
		{"ours, from exec", guest.LongOr(b.Benchmark, 5, 2), func(h *lab.Host) time.Duration { return b.ProgramBinary(h, table) }},
		{"moby/ipvs", guest.LongOr(b.Benchmark, 3, 1), func(h *lab.Host) time.Duration { return b.programMoby(h, table) }},
		{"keepalived, from exec", guest.LongOr(b.Benchmark, 3, 1), func(h *lab.Host) time.Duration { return b.programKeepalived(h, table) }},
		{"ipvsadm -R, from exec", guest.LongOr(b.Benchmark, 3, 1), func(h *lab.Host) time.Duration {
			cmd := exec.Command("ipvsadm", "-R")
			cmd.Stdin = b.File("rules", table.IPVSAdm())
			return b.RunIn(h, cmd)
		}},
	}
	took := make([][]float64, len(ways))
	for round := range ways[0].runs {
		for i, w := range ways {
			if round >= w.runs {
				continue
			}
			b.InFresh(func(h *lab.Host) {
				took[i] = append(took[i], guest.MS(w.do(h)))
				b.Check(h, table)
			})
		}
	}
	b.Record(results.New("program", "ours, kernel told", table.Params(), "ms", acked...))
	for i, w := range ways {
		b.Record(results.New("program", w.name, table.Params(), "ms", took[i]...))
	}
}

// programKeepalived runs keepalived's checker alone, whose real servers have no
// checks and so are put in service at its start.
func (b *benchmark) programKeepalived(h *lab.Host, table guest.Table) time.Duration {
	dir := b.TempDir()
	config := b.File("keepalived.conf", table.Keepalived())
	return b.UntilWhole(h, table, exec.Command("keepalived", "--check", "--dont-fork", "--log-console",
		"--use-file", config.Name(), "--pid", filepath.Join(dir, "pid"), "--checkers_pid", filepath.Join(dir, "checkers")))
}

// programMoby runs test/peers/moby, which times itself.
func (b *benchmark) programMoby(h *lab.Host, table guest.Table) time.Duration {
	cmd := exec.Command(*args.Moby, "-vip", guest.Address.String(), "-port", strconv.Itoa(guest.Port), "-services", strconv.Itoa(table.Services),
		"-first", guest.Node.String(), "-servers", strconv.Itoa(table.Servers))
	var out strings.Builder
	cmd.Stdout = &out
	b.RunIn(h, cmd)
	seconds, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64)
	if err != nil {
		b.Fatal(fmt.Errorf("moby's answer: %w", err))
	}
	return time.Duration(seconds * float64(time.Second))
}

// Reading leaves no traces, so all ways read the same table, one after the other.
func TestBenchAudit(t *testing.T) {
	b := newBenchmark(t)
	for _, table := range guest.LongOr(b.Benchmark, []guest.Table{{Services: 100, Servers: 50}, {Services: 1000, Servers: 50}, {Services: 4000, Servers: 50}}, []guest.Table{{Services: 100, Servers: 50}}) {
		b.InFresh(func(h *lab.Host) { b.audit(h, table) })
	}
}

func (b *benchmark) audit(h *lab.Host, table guest.Table) {
	d := newBenchDirector(b, h, benchVIP{"edge", guest.Address, table.Services, table.Nodes()})
	defer d.close()
	d.pass()
	b.Check(h, table)
	f := floor.Dial(b.T, h)
	defer f.Close()
	requests := f.Dumps(b.T, table.Keys())
	var ours, reading, floor, ipvsadm []float64
	b.Quiet()
	for round := range guest.LongOr(b.Benchmark, 7, 5) {
		runtime.GC() // as before a pass
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
			var out strings.Builder
			cmd := exec.Command("ipvsadm", "-Sn")
			cmd.Stdout = &out
			ipvsadm = append(ipvsadm, guest.MS(b.RunIn(h, cmd)))
			if rows := strings.Count(out.String(), "-a "); rows != table.Rows() {
				b.Fatalf("ipvsadm has %d rows, want %d", rows, table.Rows())
			}
		}
	}
	for way, samples := range map[string][]float64{"ours": ours, "ours, reading alone": reading, "floor": floor, "ipvsadm -Sn, from exec": ipvsadm} {
		b.Record(results.New("audit", way, table.Params(), "ms", samples...))
	}
}

const (
	edgeServers = 10 // of each service that the node joins, in every table
	restServers = 50 // of each service that only fills the table
)

// The VIP that only fills the table, its first real server, and the first node that
// joins.
var (
	restAddress = netip.MustParseAddr("10.0.0.101")
	restNode    = netip.MustParseAddr("10.2.0.1")
	joiningNode = netip.MustParseAddr("10.3.0.1")
)

// crowd is a table with two VIPs: one that nodes join and leave, and one that does not
// change.
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

// vips leaves out a VIP without services, which would cause a warning.
func (c crowd) vips() []benchVIP {
	if c.rest.services == 0 {
		return []benchVIP{c.edge}
	}
	return []benchVIP{c.edge, c.rest}
}

// moves are the samples of one way: how long each joining, quiescing and
// removal took.
type moves struct{ join, quiesce, remove []float64 }

// How the work depends on the number of services that a node is in, and on the size of
// the table around them.
func TestBenchJoin(t *testing.T) {
	b := newBenchmark(t)
	for _, n := range guest.LongOr(b.Benchmark, []struct{ services, times int }{{1, 9}, {10, 5}, {100, 5}, {1000, 13}}, []struct{ services, times int }{{1, 3}, {100, 2}}) {
		for _, rows := range guest.LongOr(b.Benchmark, []int{1_000, 10_000, 50_000, 200_000}, []int{1_000, 10_000}) {
			if n.services*edgeServers <= rows {
				b.join(newCrowd(n.services, rows), n.times)
			}
		}
	}
}

// join lets so many nodes join and leave where the controller's table is older than that of
// the floor, and as many where it is younger: the kernel finds the services of the youngest
// table first, in one hash table for all namespaces. A sample is the mean of two rounds, one of
// each.
func (b *benchmark) join(c crowd, times int) {
	var older, younger joining
	b.inCrowd(c, func(mine *lab.Host, d *benchDirector) {
		b.inCrowd(c, func(other *lab.Host, _ *benchDirector) { older.nodes(b, c, times, d, mine, other) })
	})
	b.inCrowd(c, func(other *lab.Host, _ *benchDirector) {
		b.inCrowd(c, func(mine *lab.Host, d *benchDirector) { younger.nodes(b, c, times, d, mine, other) })
	})
	record := func(name, way string, one, two []float64) {
		means := make([]float64, times)
		for i := range means {
			means[i] = (one[i] + two[i]) / 2
		}
		b.Record(results.New(name, way, c.params, "ms", means...))
	}
	for way, of := range map[string]func(j *joining) *moves{
		"ours":              func(j *joining) *moves { return &j.ours },
		"ours, kernel told": func(j *joining) *moves { return &j.acked },
		"floor":             func(j *joining) *moves { return &j.least },
	} {
		one, two := of(&older), of(&younger)
		record("join", way, one.join, two.join)
		record("quiesce", way, one.quiesce, two.quiesce)
		record("remove", way, one.remove, two.remove)
	}
	record("remove", "floor, asked first", older.asked, younger.asked)
}

// joining are the samples of nodes that join and leave.
type joining struct {
	ours, acked, least moves
	asked              []float64 // removals by the floor that asks for connections first
}

// nodes lets so many nodes join and leave, one after the other, in the table of the
// controller and in that of the floor, which take turns to be the first. All join before
// the first leaves, because the kernel keeps a removed real server for two minutes, which
// slows those that join.
func (j *joining) nodes(b *benchmark, c crowd, times int, d *benchDirector, mine, other *lab.Host) {
	pass := func(whole, kernel *[]float64) {
		w, k := d.pass()
		*whole, *kernel = append(*whole, guest.MS(w)), append(*kernel, guest.MS(k))
	}
	f := floor.Dial(b.T, other)
	defer f.Close()
	a := floor.DialAsker(b.T, other, edgeServers+times)
	defer a.Close()
	ask := func() float64 {
		services := guest.Services(guest.Address, c.edge.services)
		start := time.Now()
		for _, k := range services {
			lab.Must(b.T, a.Ask(k))
		}
		return guest.MS(time.Since(start))
	}
	// encode makes the messages about a node, and collects the garbage, as before a pass.
	encode := func(cmd uint8, node netip.Addr, weight uint32) []floor.Batch {
		var all []floor.Message
		for _, k := range guest.Services(guest.Address, c.edge.services) {
			all = append(all, floor.Message{Cmd: cmd, Service: k, Server: node, Weight: weight})
		}
		batches := f.Encode(b.T, all)
		runtime.GC()
		return batches
	}
	send := func(batches []floor.Batch, took *[]float64) float64 {
		start := time.Now()
		err := f.Send(batches)
		ms := guest.MS(time.Since(start))
		*took = append(*took, ms)
		lab.Must(b.T, err)
		return ms
	}
	// What comes second finds the kernel's code and its free memory at hand.
	inTurn := func(i int, first, second func()) {
		if i%2 == 1 {
			first, second = second, first
		}
		first()
		second()
	}
	check := func(i, joined, quiesced int) {
		b.Helper()
		inTurn(i, func() { b.checkEdge(mine, c, joined, quiesced) }, func() { b.checkEdge(other, c, joined, quiesced) })
	}
	nodes := guest.AddressesFrom(joiningNode, times)
	for i, node := range nodes {
		inTurn(i, func() {
			d.set(c.edge, node, true)
			pass(&j.ours.join, &j.acked.join)
		}, func() { send(encode(floor.NewDest, node, 1), &j.least.join) })
		check(i, i+1, 0)
	}
	for i, node := range nodes {
		inTurn(i, func() {
			d.set(c.edge, node, false)
			pass(&j.ours.quiesce, &j.acked.quiesce)
		}, func() { send(encode(floor.SetDest, node, 0), &j.least.quiesce) })
		check(i, times-i, 1)
		inTurn(i, func() {
			d.drained()
			pass(&j.ours.remove, &j.acked.remove)
		}, func() {
			removal := encode(floor.DelDest, node, 0)
			question := ask()
			j.asked = append(j.asked, question+send(removal, &j.least.remove))
		})
		check(i, times-i-1, 0)
	}
}

// inCrowd calls f in a fresh namespace that has the table, with the director
// that made it.
func (b *benchmark) inCrowd(c crowd, f func(*lab.Host, *benchDirector)) {
	b.Helper()
	b.InFresh(func(h *lab.Host) {
		d := newBenchDirector(b, h, c.vips()...)
		defer d.close()
		d.pass()
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
