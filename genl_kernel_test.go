//go:build ipvs

// The codec on the real kernel: what it writes is what ipvsadm and our decoder find, a
// dump of a known table costs no memory, and each table can be edited into any other.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
)

// ipvsadm still sends what the golden file says, on the kernel at hand: a few
// cases of different kinds, because a case takes most of a second.
func TestKernelGoldenFresh(t *testing.T) {
	names := []string{"service-new-prefix6", "server-new-gue-remcsum6", "server-del-mark", "timeouts-all", "daemon-new-group6"}
	script := filepath.Join(t.TempDir(), "capture")
	if err := os.WriteFile(script, []byte(captureScript), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{script, "guest"}, names...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("capture: %v: %s", err, stderr.String())
	}
	want := slices.DeleteFunc(parseGolden(goldenFile), func(c goldenCase) bool { return !slices.Contains(names, c.Name) })
	if diff := cmp.Diff(want, parseGolden(string(out))); diff != "" || len(want) != len(names) {
		t.Errorf("testdata/golden/ipvsadm.txt is stale: run test/golden/capture (-file +now):\n%s", diff)
	}
}

// A table that is as known costs no memory to read, and a batch none to send,
// however many rows there are.
func TestKernelLeavesNoGarbage(t *testing.T) {
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	director := l.Host("director", 2)
	var (
		conn *ipvsConn
		err  error
	)
	director.Do(func() { conn, err = dialIPVS() })
	lab.Must(t, err)
	defer conn.Close()

	const services, servers = 40, 50
	var want [2]Table // the same with other weights
	for weight := range want {
		for i := range services {
			var pairs []any
			for j := range servers {
				pairs = append(pairs, fmt.Sprintf("10.0.0.%d", 100+j), weight+1)
			}
			want[weight] = append(want[weight], service(fmt.Sprintf("10.0.0.1:%d/tcp", 8000+i), pairs...))
		}
	}
	failed, err := conn.Apply(diffTables(want[0], nil))
	lab.Must(t, err)
	if len(failed) > 0 {
		t.Fatal(failed[0])
	}
	all := func(ServiceKey) bool { return true }
	known, err := conn.Table(all, nil, nil)
	lab.Must(t, err)
	if got := known.table().text(); got != want[0].text() {
		t.Fatalf("the kernel has:\n%s", got)
	}
	var answers atomic.Int64
	conn.progress = func() { answers.Add(1) }
	same, err := conn.Table(all, known, nil)
	lab.Must(t, err)
	conn.progress = nil
	if n := answers.Load(); n < int64(len(known.table())) {
		t.Errorf("progress is reported %d times while %d services are read", n, len(known.table()))
	}
	if len(same) != len(known) || &same[0].Services[0] != &known[0].Services[0] {
		t.Error("a table that is as known is not shared with it")
	}

	// A reading that gives way leaves a connection that works.
	for left := range services {
		if _, err := conn.Table(all, known, func() bool { left--; return left < 0 }); !errors.Is(err, errGaveWay) {
			t.Errorf("a reading does not give way: %v", err)
		}
		again, err := conn.Table(all, known, func() bool { return false })
		lab.Must(t, err)
		if len(again) != len(known) || &again[0].Services[0] != &known[0].Services[0] {
			t.Error("after that the table is another one")
		}
	}

	// Where more real servers are in the kernel than the question has room for, each is
	// counted all the same.
	part, counted := want[0][0], 0
	part.Servers = part.Servers[:1]
	lab.Must(t, conn.Connections(&part, func(KernelServer) { counted++ }))
	if counted != servers {
		t.Errorf("%d real servers are counted, want %d", counted, servers)
	}

	// A few for the whole, none for each of 2000 rows or 40 services.
	const few = 20
	if n := testing.AllocsPerRun(5, func() {
		if _, err := conn.Table(all, known, nil); err != nil {
			t.Error(err)
		}
	}); n > few {
		t.Errorf("reading %d rows allocates %v times", services*servers, n)
	}
	batches := [][]op{diffTables(want[1], want[0]), diffTables(want[0], want[1])}
	i := 0
	if n := testing.AllocsPerRun(6, func() {
		if _, err := conn.Apply(batches[i%2]); err != nil {
			t.Error(err)
		}
		i++
	}); n > few {
		t.Errorf("sending %d changes allocates %v times", services*servers, n)
	}
	if conn.enc.last != nil {
		t.Error("the connection keeps the operations of the last list")
	}

	// What has changed comes back new, and nothing else does.
	edited := want[0][7]
	edited.Servers = edited.Servers[:10]
	now, err := conn.Table(all, nil, nil)
	lab.Must(t, err)
	_, err = conn.Apply(diffTables(Table{edited}, Table{*now.find(edited.ServiceKey)}))
	lab.Must(t, err)
	after, err := conn.Table(all, now, nil)
	lab.Must(t, err)
	for s := range after.all {
		old, n := now.find(s.ServiceKey), servers
		if s.ServiceKey == edited.ServiceKey {
			n = 10
		} else if &s.Servers[0] != &old.Servers[0] {
			t.Errorf("%s has not changed and is new memory", s.ServiceKey)
		}
		if len(s.Servers) != n {
			t.Errorf("%s has %d real servers, want %d", s.ServiceKey, len(s.Servers), n)
		}
	}
}

// A large table that another program has flushed is made again in about the time that
// it took to make it first, although the kernel keeps all of its real servers on a list
// that each addition searches. -size long has the table of 60,000 rows.
func TestKernelFlushedTable(t *testing.T) {
	vips, servers := 400, 30
	if *args.Size == "long" {
		vips = 2000
	}
	var want Table
	var pairs []any
	for i := range servers {
		pairs = append(pairs, fmt.Sprintf("10.0.0.%d", 100+i), 1)
	}
	shared := rows(pairs...)
	for i := range vips {
		s := service(fmt.Sprintf("10.1.%d.%d:80/tcp", i/250, i%250))
		s.Servers = shared
		want = append(want, s)
	}
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	director := l.Host("director", 2)
	var (
		conn *ipvsConn
		err  error
	)
	director.Do(func() { conn, err = dialIPVS() })
	lab.Must(t, err)
	defer conn.Close()
	ops := diff(split(want), nil)
	program := func() time.Duration {
		t.Helper()
		start := time.Now()
		for _, phase := range ops {
			failed, err := conn.Apply(phase)
			lab.Must(t, err)
			if len(failed) > 0 {
				t.Fatal(failed[0])
			}
		}
		return time.Since(start)
	}
	first := program()
	read := func() {
		_, err := conn.Table(func(ServiceKey) bool { return true }, nil, nil) // as each audit does
		lab.Must(t, err)
	}
	read()
	// Each flush makes the list longer, so the least of them is no kinder; and a machine that
	// stands still in one of them is no fault.
	again := time.Hour
	for range 3 {
		director.Run("ipvsadm", "-C")
		read()
		again = min(again, program())
	}
	t.Logf("%d real servers: %v at first, %v after a flush at best", vips*servers, first, again)
	if again > 2*first {
		t.Errorf("after a flush, %d real servers took %v, and %v at first", vips*servers, again, first)
	}
	got, err := conn.Table(func(ServiceKey) bool { return true }, nil, nil)
	lab.Must(t, err)
	if n := len(got.table()); n != vips {
		t.Errorf("%d services, want %d", n, vips)
	}
}

// seeded is the source of so many pairs of random tables. LVS_SEED repeats a run.
func seeded(t *testing.T, pairs int) *rand.Rand {
	t.Helper()
	seed := uint64(os.Getpid())<<32 ^ rand.Uint64()
	if s := os.Getenv("LVS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LVS_SEED=%d, %d pairs", seed, pairs)
	return rand.New(rand.NewPCG(seed, 0))
}

// directorConn is a fresh director, and a connection to its kernel's table.
func directorConn(t *testing.T) (director *lab.Host, conn *ipvsConn) {
	t.Helper()
	expediteRCU(t)
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	director = l.Host("director", 2)
	var err error
	director.Do(func() { conn, err = dialIPVS() })
	lab.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return director, conn
}

func TestKernelRoundTrip(t *testing.T) {
	const pairs = 500
	random := seeded(t, pairs)
	director, conn := directorConn(t)

	all := func(ServiceKey) bool { return true }
	kinds := make(map[opKind]int)
	var have Table
	for i := range pairs + 1 {
		want := randomTable(random, have)
		ops := diffTables(want, have)
		for _, o := range ops {
			kinds[o.Kind]++
		}
		failed, err := conn.Apply(ops)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range failed {
			t.Fatalf("table %d: %v\nwant:\n%s", i, f, ipvsadmTable(want))
		}
		read, err := conn.Table(all, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		have = read.table()
		for i := range have {
			equalCounts(t, conn, &have[i])
		}
		if diff := cmp.Diff(want, have, compareAddrs, cmp.Comparer(func(a, b Service) bool {
			return a.VirtualService == b.VirtualService && slices.EqualFunc(a.Servers, b.Servers, func(x, y Row) bool { return x.RealServer == y.RealServer })
		})); diff != "" {
			t.Fatalf("table %d by our decoder (-want +got):\n%s", i, diff)
		}
		if diff := cmp.Diff(lab.SortTable(ipvsadmTable(want)), director.Table()); diff != "" {
			t.Fatalf("table %d by ipvsadm (-want +got):\n%s", i, diff)
		}
	}
	t.Logf("operations: %d services added, %d edited, %d removed; %d real servers added, %d edited, %d removed",
		kinds[newService], kinds[setService], kinds[delService], kinds[newServer], kinds[setServer], kinds[delServer])
	for kind := newService; kind <= delService; kind++ {
		if kinds[kind] < pairs/4 {
			t.Errorf("only %d operations of kind %d: the tables are not random enough", kinds[kind], kind)
		}
	}
}

// expediteRCU shortens the kernel's grace periods, of which every edit of a
// scheduler waits for one, until the test ends.
func expediteRCU(t *testing.T) {
	const path = "/sys/kernel/rcu_expedited"
	before, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte("1"), 0)
	}
	if err != nil {
		t.Logf("grace periods stay slow: %v", err)
		return
	}
	t.Cleanup(func() { os.WriteFile(path, before, 0) })
}

// ipvsadmTable writes t as `ipvsadm -Sn` does. That leaves out thresholds,
// which our decoder alone checks here.
func ipvsadmTable(t Table) string {
	var b strings.Builder
	for _, s := range t {
		name := ipvsadmName(s.ServiceKey)
		fmt.Fprintf(&b, "-A %s -s %s", name, s.Scheduler)
		if s.Flags&FlagPersistent != 0 {
			fmt.Fprintf(&b, " -p %d", s.Persistence)
			switch {
			case s.Netmask == 0:
			case s.Address.Is4():
				m := ipv4Mask(s.Netmask)
				fmt.Fprintf(&b, " -M %d.%d.%d.%d", m>>24, m>>16&255, m>>8&255, m&255)
			default:
				fmt.Fprintf(&b, " -M %d", s.Netmask)
			}
		}
		if s.Engine != "" {
			fmt.Fprintf(&b, " --pe %s", s.Engine)
		}
		if s.Flags&FlagOnePacket != 0 {
			b.WriteString(" -o")
		}
		if f := ipvsadmFlags(s.VirtualService); f != "" {
			fmt.Fprintf(&b, " -b %s", f)
		}
		b.WriteString("\n")
		for _, r := range s.Servers {
			fmt.Fprintf(&b, "-a %s -r %s", name, netip.AddrPortFrom(r.Address, s.Port))
			b.WriteString(map[ForwardingMethod]string{DirectRoute: " -g", Tunnel: " -i", Masq: " -m"}[r.Forward])
			fmt.Fprintf(&b, " -w %d", r.Weight)
			b.WriteString(ipvsadmTunnel(r.RealServer))
			b.WriteString("\n")
		}
	}
	return b.String()
}

func ipvsadmName(k ServiceKey) string {
	if k.Mark != 0 {
		if k.Address.Is6() {
			return fmt.Sprintf("-f %d -6", k.Mark)
		}
		return fmt.Sprintf("-f %d", k.Mark)
	}
	option := map[Protocol]string{TCP: "-t", UDP: "-u", SCTP: "--sctp-service"}[k.Protocol]
	return option + " " + netip.AddrPortFrom(k.Address, k.Port).String()
}

func ipvsadmFlags(s VirtualService) string {
	var f []string
	for bit, name := range map[ServiceFlags]string{FlagSched1: "fallback", FlagSched2: "port"} {
		if s.Flags&bit != 0 {
			f = append(f, s.Scheduler+"-"+name)
		}
	}
	slices.Sort(f)
	return strings.Join(f, ",")
}

func ipvsadmTunnel(r RealServer) string {
	if r.Forward != Tunnel {
		return ""
	}
	if r.Tunnel.Type == TunnelIPIP {
		return " --tun-type ipip"
	}
	checksum := map[TunnelFlags]string{TunnelNoChecksum: " --tun-nocsum", TunnelChecksum: " --tun-csum", TunnelRemoteChecksum: " --tun-remcsum"}[r.Tunnel.Flags]
	if r.Tunnel.Type == TunnelGUE {
		return fmt.Sprintf(" --tun-type gue --tun-port %d%s", r.Tunnel.Port, checksum)
	}
	return " --tun-type gre" + checksum
}

// equalCounts fails the test if the real servers of s differ between the two ways of
// asking for their connections.
func equalCounts(t *testing.T, conn *ipvsConn, s *Service) {
	t.Helper()
	asked := *s
	for _, row := range s.Servers {
		asked.Leaving = append(asked.Leaving, leavingRow(row))
	}
	if got := conn.countIPv4(&asked); got != s.Address.Is4() && s.Mark == 0 {
		t.Errorf("%s: the socket option has all: %v", s.ServiceKey, got)
	}
	if len(s.Servers) > 0 {
		more := asked
		more.Leaving = append(slices.Clone(asked.Leaving), leaving{Address: addr("192.0.2.1")})
		if conn.countIPv4(&more) {
			t.Errorf("%s: the socket option has all, also one that the kernel has not", s.ServiceKey)
		}
	}
	var byOption, byDump []KernelServer
	lab.Must(t, conn.Connections(&asked, func(k KernelServer) { byOption = append(byOption, counts(k)) }))
	lab.Must(t, conn.Servers(s.ServiceKey, func(k KernelServer) { byDump = append(byDump, counts(k)) }))
	if diff := cmp.Diff(byDump, byOption, compareAddrs); diff != "" {
		t.Errorf("%s: real servers by the dump (-) and by the socket option (+):\n%s", s.ServiceKey, diff)
	}
}

// leavingRow is the real server of row, as it leaves.
func leavingRow(row Row) leaving { return leaving{Address: row.Address, Port: row.Port} }

// counts is what a drain needs of k.
func counts(k KernelServer) KernelServer {
	return KernelServer{RealServer: RealServer{Address: k.Address, Port: k.Port, Weight: k.Weight}, Connections: k.Connections}
}

// runsOn reports whether the kernel is so new.
func runsOn(t *testing.T, version ...int) bool {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	lab.Must(t, err)
	return kernelAtLeast(string(release), [2]int(version))
}

// Each answer of the kernel is a beat for the watchdog: a pass may be longer than the
// time between two.
func TestKernelAnswersBeat(t *testing.T) {
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	m := newServiceManager(t)
	t.Setenv("NOTIFY_SOCKET", m.path)
	t.Setenv("WATCHDOG_USEC", "1000")
	t.Setenv("WATCHDOG_PID", "")
	notify, err := openNotifier()
	lab.Must(t, err)
	cfg := defaultConfig()
	cfg.CacheDir, cfg.StateDir = t.TempDir(), t.TempDir()
	log := openLog(io.Discard, logText, slog.LevelError)
	defer log.queue.close(logPatience)
	p := newProgram(log, notify, cfg, openState(&stateDir{path: cfg.StateDir}, log.Logger))
	p.configs.Set(cfg)
	var d director
	l.Host("director", 2).Do(func() { d, err = p.loop.dial() })
	lab.Must(t, err)
	defer d.Close()
	for range 3 {
		m.past = nil
		time.Sleep(10 * time.Millisecond)
		_, err := d.Table(func(ServiceKey) bool { return true }, nil, nil)
		lab.Must(t, err)
		if m.next(200 * time.Millisecond); !slices.Contains(m.past, "WATCHDOG=1") {
			t.Fatalf("the kernel's table was read without a beat; the service manager got %q", m.past)
		}
	}
}
