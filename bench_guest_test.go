// Benchmarks on the real kernel, what they share: sizes, fresh namespaces, the
// table that every way makes, and the results.
//
// `make bench` and `make bench-short` run the TestBench… tests in a virtual
// machine and print what they measured (test/bench). LVS_BENCH=long|short says
// which sizes, LVS_BENCH_OUT where the results go. They fail when a table comes
// out wrong, never because of a time.

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/bench/results"
	"lvs-controller/test/lab"
)

// benchmark is a test that measures.
type benchmark struct {
	*testing.T
	long bool
	out  string
}

// newBenchmark skips a test that nobody asked to measure, or that has no kernel
// to measure on.
func newBenchmark(t *testing.T) *benchmark {
	t.Helper()
	b := newHostBenchmark(t)
	requireKernel(t)
	return b
}

// newHostBenchmark is newBenchmark for what needs no kernel.
func newHostBenchmark(t *testing.T) *benchmark {
	t.Helper()
	size := os.Getenv("LVS_BENCH")
	switch {
	case size == "" && os.Getenv("LVS_REQUIRE_ALL") == "1":
		t.Fatal("needs a size, LVS_BENCH=long or short (LVS_REQUIRE_ALL=1)")
	case size == "":
		t.Skip("`make bench` runs it (LVS_BENCH=long or short)")
	case size != "long" && size != "short":
		t.Fatalf("LVS_BENCH=%q is not long or short", size)
	}
	collectAsMain()
	return &benchmark{T: t, long: size == "long", out: os.Getenv("LVS_BENCH_OUT")}
}

// longOr is the first value in the long form, else the second.
func longOr[T any](b *benchmark, long, short T) T {
	if b.long {
		return long
	}
	return short
}

// record hands over one measurement.
func (b *benchmark) record(r results.Result) {
	b.Helper()
	b.Logf("%s %v %s: %.4g %s of %d %s", r.Name, r.Params, r.Way, r.Value, r.Unit, len(r.Samples), r.Note)
	if b.out == "" {
		return
	}
	if err := results.Append(b.out, r); err != nil {
		b.Fatal(err)
	}
}

// inFresh calls f with a host of its own. A namespace is never used again: its
// kernel remembers each real server that it lost for two minutes, and walks
// that list for each one that is added.
func (b *benchmark) inFresh(f func(h *lab.Host)) {
	b.Helper()
	b.quiet()
	l := lab.New(b.Fatalf)
	defer l.Close()
	f(l.Host("director", 2))
}

// quiet waits until the machine has next to nothing to do: the kernel takes a
// namespace apart long after it was deleted.
func (b *benchmark) quiet() {
	runtime.GC()
	for range 40 {
		idle, all := cpuTicks(b.T)
		time.Sleep(150 * time.Millisecond)
		idleNow, allNow := cpuTicks(b.T)
		if 10*(idleNow-idle) >= 9*(allNow-all) {
			return
		}
	}
	b.Log("the machine does not become idle")
}

// cpuTicks reads how long all CPUs were idle, and how long there was.
func cpuTicks(t *testing.T) (idle, all int) {
	text, err := os.ReadFile("/proc/stat")
	must(t, err)
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.Atoi(field)
		must(t, err)
		if all += n; i == 3 || i == 4 { // idle, iowait
			idle += n
		}
	}
	return idle, all
}

// The first port and real server of a benchTable; the others follow.
const benchPort = 20000

var (
	benchAddress = netip.MustParseAddr("10.0.0.100")
	benchNode    = netip.MustParseAddr("10.1.0.1")
)

// benchTable is what every way makes: services on the ports of one address,
// each with the same real servers.
type benchTable struct{ services, servers int }

func (t benchTable) params() results.Params {
	return results.Params{"services": t.services, "servers": t.servers}
}

func (t benchTable) rows() int { return t.services * t.servers }

// keys are the services in order.
func (t benchTable) keys() []netip.AddrPort { return benchServices(benchAddress, t.services) }

// benchServices are n services of one address.
func benchServices(address netip.Addr, n int) []netip.AddrPort {
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = netip.AddrPortFrom(address, uint16(benchPort+i))
	}
	return all
}

// nodes are the real servers in order.
func (t benchTable) nodes() []netip.Addr { return addressesFrom(benchNode, t.servers) }

// addressesFrom are n addresses from first on.
func addressesFrom(first netip.Addr, n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		all[i], first = first, first.Next()
	}
	return all
}

// ipvsadm is the table as `ipvsadm -R` reads it.
func (t benchTable) ipvsadm() string {
	var s strings.Builder
	for _, k := range t.keys() {
		fmt.Fprintf(&s, "-A -t %s -s rr\n", k)
		for _, n := range t.nodes() {
			fmt.Fprintf(&s, "-a -t %s -r %s:%d -g -w 1\n", k, n, k.Port())
		}
	}
	return s.String()
}

// keepalived is the table as a configuration of keepalived.
func (t benchTable) keepalived() string {
	var s strings.Builder
	for _, k := range t.keys() {
		fmt.Fprintf(&s, "virtual_server %s %d {\n\tlvs_sched rr\n\tlvs_method DR\n\tprotocol TCP\n", k.Addr(), k.Port())
		for _, n := range t.nodes() {
			fmt.Fprintf(&s, "\treal_server %s %d {\n\t\tweight 1\n\t}\n", n, k.Port())
		}
		s.WriteString("}\n")
	}
	return s.String()
}

// config is the table as a configuration of the controller, which keeps its
// files in dir, with more at its head.
func (t benchTable) config(dir, more string) string {
	var ports, servers []string
	for _, k := range t.keys() {
		ports = append(ports, fmt.Sprintf(`"%d/tcp"`, k.Port()))
	}
	for _, n := range t.nodes() {
		servers = append(servers, fmt.Sprintf(`{ address = "%s" }`, n))
	}
	return fmt.Sprintf("interface = \"eth0\"\nlisten = \"\"\nstate_dir = \"%[1]s/state\"\ncache_dir = \"%[1]s/cache\"\n%[2]s\n[[vip]]\nname = \"edge\"\naddresses = [\"%[3]s\"]\nports = [%[4]s]\nreal_servers = [\n%[5]s,\n]\n",
		dir, more, benchAddress, strings.Join(ports, ", "), strings.Join(servers, ",\n"))
}

// messages make the table, services first.
func (t benchTable) messages() []floorMessage {
	var all []floorMessage
	for _, k := range t.keys() {
		all = append(all, floorMessage{cmd: cmdNewService, service: k})
	}
	for _, k := range t.keys() {
		for _, n := range t.nodes() {
			all = append(all, floorMessage{cmd: cmdNewDest, service: k, server: n, weight: 1})
		}
	}
	return all
}

// check fails the test unless the table in h is exactly this large.
func (b *benchmark) check(h *lab.Host, t benchTable) {
	b.Helper()
	f := dialFloor(b.T, h)
	defer f.close()
	rows, quiesced := f.count(b.T, t.keys())
	if services := f.services(b.T); services != t.services || rows != t.rows() || quiesced != 0 {
		b.Fatalf("%d services with %d real servers, %d of them quiesced; want %d with %d", services, rows, quiesced, t.services, t.rows())
	}
}

// startIn starts a program inside h, with ready set up. Its process id is the
// program's own, unlike that of `ip netns exec`.
func (b *benchmark) startIn(h *lab.Host, cmd *exec.Cmd) {
	b.Helper()
	var err error
	h.Do(func() { err = cmd.Start() })
	if err != nil {
		b.Fatalf("start %s: %v", cmd.Path, err)
	}
}

// runIn is startIn and the wait for the end, which must be a good one. It
// returns how long all that took.
func (b *benchmark) runIn(h *lab.Host, cmd *exec.Cmd) time.Duration {
	b.Helper()
	var said strings.Builder
	cmd.Stderr = &said
	start := time.Now()
	b.startIn(h, cmd)
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%s: %v: %s", cmd.Path, err, said.String())
	}
	return time.Since(start)
}

// ms are milliseconds, as results are given.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
