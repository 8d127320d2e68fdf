package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// noHost is a host that needs nothing.
type noHost struct {
	err     error
	devices map[string]int // numbers of devices; one that is not here has 1
}

func (h noHost) Prepare(context.Context, *Config) error { return h.err }

func (h noHost) Announce(context.Context, *Config, vipAddresses) (vipsOnHost, error) {
	return vipsOnHost{}, nil
}

func (h noHost) LostAddress() bool { return false }
func (h noHost) LostMarks() bool   { return false }
func (h noHost) Uplink() error     { return nil }

func (h noHost) Untrack(untracked) error { return nil }
func (h noHost) LostUntracked() bool     { return false }

func (h noHost) Mark(map[MarkedPort]uint32, []macAddress) error { return nil }

func (h noHost) DeviceIndex(name string) int {
	if n, listed := h.devices[name]; listed {
		return n
	}
	return 1
}

func (h noHost) Marked() (map[MarkedPort]uint32, error) { return map[MarkedPort]uint32{}, nil }

func (h noHost) SuppressICMP(*Config) func() { return func() {} }

// bench is a loop on a fake kernel, with a clock that stands still.
type bench struct {
	t      *testing.T
	kernel *fakeKernel
	loop   *reconciler
	log    *bytes.Buffer
	clock  time.Time
	dir    string
	sync   *SyncDaemon
	// countAtOnce replaces the loop's when it is not 0.
	countAtOnce int
	// awake takes what rings the loop before each pass, as Run does.
	awake bool
}

func newBench(t *testing.T, vips ...VIP) *bench {
	b := &bench{t: t, kernel: newFakeKernel(), clock: testTime, dir: t.TempDir(), log: new(bytes.Buffer)}
	b.restart()
	b.configure(vips...)
	return b
}

// restart is kill -9 and a new process: all memory but the state file is lost.
func (b *bench) restart() {
	old := b.loop
	log := slog.New(slog.NewTextHandler(b.log, nil))
	b.loop = newReconciler(loopOn(b.kernel, b.dir, log, func() time.Time { return b.clock }))
	if b.countAtOnce > 0 {
		b.loop.counting.atOnce = b.countAtOnce
	}
	if old != nil {
		b.loop.config.Set(old.config.Get())
	}
}

func (b *bench) configure(vips ...VIP) {
	b.loop.config.Set(&Config{VIPs: vips, AuditInterval: 10 * time.Second, Sync: b.sync, Marks: MarkRange{First: 0x1000, Count: 0x1000}})
}

// pass runs the loop once and returns what it logged.
func (b *bench) pass() string {
	b.log.Reset()
	b.wakes()
	b.loop.pass(context.Background())
	return b.log.String()
}

func (b *bench) wakes() {
	if b.awake {
		select {
		case <-b.loop.wake:
		default:
		}
	}
}

// later moves the clock to the loop's next deadline or by d, turning at each
// deadline on the way.
func (b *bench) later(d time.Duration) {
	end := b.clock.Add(d)
	for {
		next := b.loop.next()
		if next.After(end) {
			break
		}
		if next.After(b.clock) {
			b.clock = next
		}
		b.wakes()
		b.loop.pass(context.Background())
	}
	b.clock = end
}

func (b *bench) want(table string) {
	b.t.Helper()
	got := b.kernel.table(func(ServiceKey) bool { return true }).text()
	if diff := cmp.Diff(table, got); diff != "" {
		b.t.Fatalf("kernel's table (-want +got):\n%s\nlog:\n%s", diff, b.log)
	}
}

// put places rows in the kernel as another program does.
func (b *bench) put(services ...Service) {
	for _, s := range services {
		b.kernel.services[s.ServiceKey] = s.VirtualService
		for _, r := range s.Servers {
			b.kernel.servers[rowOf(s.ServiceKey, r.RealServer)] = r.RealServer
		}
	}
}

// An input that comes during an audit does not wait for its end. The audit stays due, and is
// made when there is no input, or when it is late by a whole interval.
func TestLoopAuditGivesWay(t *testing.T) {
	const interval = 10 * time.Second
	b := newBench(t, testVIP())
	b.kernel.givesWay = true
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n") // the first audit is made, whatever comes
	clear(b.kernel.services)
	clear(b.kernel.servers)
	b.put(Service{VirtualService: VirtualService{ServiceKey: ServiceKey{Address: addr("10.0.0.1"), Port: 80, Protocol: TCP}, Scheduler: "rr"}})
	b.clock = b.clock.Add(interval)
	for range 10 {
		b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
		b.pass()
		b.want("10.0.0.1:80/tcp rr: 10.1.0.2=1\n") // of the change alone
		if next := b.loop.next(); next.After(b.clock) {
			t.Fatalf("the next pass is in %s, want at once", next.Sub(b.clock))
		}
		b.clock = b.clock.Add(interval / 20)
	}
	if n := b.kernel.dumps; n != 1 {
		t.Errorf("%d tables read, want the first alone", n)
	}
	awake := *b
	awake.awake = true // nothing new
	awake.pass()
	awake.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n")

	clear(b.kernel.servers)
	b.clock = b.clock.Add(2 * interval)
	ring(b.loop.wake)
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n")
	if n := b.loop.counters.Audits.Load(); n != 3 {
		t.Errorf("%d audits counted, want 3", n)
	}

	// A table that is not known is read before anything else.
	b.kernel.breakAt = func(op) bool { return true }
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.breakAt = nil
	clear(b.kernel.servers)
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

// An audit that is asked for comes at once, and not more than once in auditGap.
func TestLoopAuditNow(t *testing.T) {
	const table = "10.0.0.1:80/tcp rr: 10.1.0.1=1\n"
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.loop.config.Set(&Config{VIPs: []VIP{testVIP()}, AuditInterval: time.Hour})
	b.pass()
	b.clock = b.clock.Add(time.Minute)
	clear(b.kernel.services)
	clear(b.kernel.servers)
	b.pass()
	b.want("")
	b.loop.AuditNow()
	b.pass()
	b.want(table)

	before := b.kernel.dumps
	for range 1000 {
		b.clock = b.clock.Add(10 * time.Millisecond)
		b.loop.AuditNow()
		b.pass()
	}
	if n := b.kernel.dumps - before; n < 9 || n > 10 {
		t.Errorf("%d audits in 10 s", n)
	}
	clear(b.kernel.services)
	clear(b.kernel.servers)
	b.loop.AuditNow()
	b.pass()
	b.later(auditGap)
	b.want(table)
}

// marksHost is a host whose marks another program takes away.
type marksHost struct {
	noHost
	lost  bool
	calls int
}

func (h *marksHost) LostMarks() bool { return h.lost }

func (h *marksHost) Mark(map[MarkedPort]uint32, []macAddress) error {
	h.calls++
	h.lost = false
	return nil
}

// Marks that another program has taken away are put back without an audit.
func TestLoopLostMarks(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.OneMark = true }))
	host := &marksHost{}
	b.loop.host = host
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.pass()
	before := host.calls
	host.lost = true
	b.pass()
	b.pass()
	if before == 0 || host.calls != before+1 {
		t.Errorf("the host marked %d times at first, and %d times after marks were lost, want once", before, host.calls-before)
	}
}

func TestLoopLifeOfARealServer(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	log := b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n")
	if n := strings.Count(log, "\n"); n != 3 {
		t.Errorf("%d log lines for one service and two real servers:\n%s", n, log)
	}
	if log := b.pass(); log != "" {
		t.Errorf("an unchanged table is not silent:\n%s", log)
	}

	leaving := rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.2", 0)[0].RealServer)
	b.kernel.conns[leaving] = Connections{Active: 2}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), with(readyPod("b", "10.1.0.2"), func(p *Pod) { p.Terminating = true })))
	if log := b.pass(); !strings.Contains(log, `why="pod b terminating, draining"`) {
		t.Errorf("the log does not say why:\n%s", log)
	}
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n")
	b.later(time.Minute)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n")
	delete(b.kernel.conns, leaving)
	b.later(2 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

func TestLoopDrainDeadlineSurvivesACrash(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.2", 0)[0].RealServer)] = Connections{Inactive: 1}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.later(4 * time.Minute)
	b.restart()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.later(50 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n")
	b.later(10 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

func TestLoopNeverEmptyByAccident(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	b.loop.cluster.Set(testCluster(nil))
	if log := b.pass(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "the last working set stays") {
		t.Errorf("not loud:\n%s", log)
	}
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n")
	b.restart()
	b.loop.cluster.Set(testCluster(nil))
	b.pass()
	b.later(time.Hour)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n")
	// The operator takes one of them out, before and after a restart the same.
	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.2", 0)[0].RealServer)] = Connections{Active: 1}
	b.configure(testVIP(func(v *VIP) { v.RealServers = []StaticServer{{Address: addr("10.1.0.2")}} }))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n")
	b.restart()
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n")
	b.loop.cluster.Set(testCluster(nil))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n")
	clear(b.kernel.conns)
	b.configure(testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("c", "10.1.0.3")))
	if log := b.pass(); !strings.Contains(log, "in service again") {
		t.Errorf("the end is not logged:\n%s", log)
	}
	b.later(2 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.3=1\n")
}

// Start adopts: rows that are right are not touched, counters go on.
func TestLoopAdoptsAtStart(t *testing.T) {
	b := newBench(t, testVIP())
	b.put(service("10.0.0.1:80/tcp", "10.1.0.1", 1, "10.1.0.9", 1))
	b.pass() // nothing known of the cluster yet
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.9=1\n")
	if len(b.kernel.applied) != 0 {
		t.Errorf("operations before the cluster has answered: %v", b.kernel.applied)
	}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.9=0\n")
	b.later(2 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	for _, o := range b.kernel.applied {
		if o.Server.Address != addr("10.1.0.9") {
			t.Errorf("touched what was right: %s", o)
		}
	}
}

// With an empty cluster answer right after the start of a controller without
// memory, what the kernel had in service stays.
func TestLoopAdoptedSetIsTheLastWorkingOne(t *testing.T) {
	b := newBench(t, testVIP())
	b.put(service("10.0.0.1:80/tcp", "10.1.0.1", 4))
	b.loop.cluster.Set(testCluster(nil))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=4\n")
}

func TestLoopOwnership(t *testing.T) {
	foreign := service("10.9.9.9:80/tcp", "10.1.0.1", 7)
	second := testVIP(func(v *VIP) { v.Name, v.Addresses = "second", []netip.Addr{addr("10.0.0.2")} })
	b := newBench(t, testVIP(), second)
	b.put(foreign)
	c := testCluster(nil, readyPod("a", "10.1.0.1"))
	b.loop.cluster.Set(c)
	b.pass()
	both := "10.0.0.1:80/tcp rr: 10.1.0.1=1\n10.0.0.2:80/tcp rr: 10.1.0.1=1\n10.9.9.9:80/tcp rr: 10.1.0.1=7\n"
	b.want(both)

	// A VIP that was removed while the process was down is still cleaned up.
	b.restart()
	b.configure(testVIP())
	b.loop.cluster.Set(c)
	b.pass()
	b.later(2 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n10.9.9.9:80/tcp rr: 10.1.0.1=7\n")

	// Then no VIP has its address any more: another program may use it.
	b.put(service("10.0.0.2:80/tcp", "10.1.0.5", 2))
	b.later(time.Minute)
	b.restart()
	b.loop.cluster.Set(c)
	b.pass()
	b.later(time.Minute)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n10.0.0.2:80/tcp rr: 10.1.0.5=2\n10.9.9.9:80/tcp rr: 10.1.0.1=7\n")
}

func TestLoopEditsInPlace(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.configure(testVIP(func(v *VIP) { v.Scheduler, v.Weight = "wlc", 3 }))
	log := b.pass()
	b.want("10.0.0.1:80/tcp wlc: 10.1.0.1=3\n")
	if n := b.kernel.created[service("10.0.0.1:80/tcp").ServiceKey]; n != 1 {
		t.Errorf("the service was made %d times: an edit must keep it", n)
	}
	if !strings.Contains(log, `change="scheduler rr → wlc"`) || !strings.Contains(log, `change="weight 1 → 3"`) {
		t.Errorf("the log does not say what changed:\n%s", log)
	}
}

func TestLoopRepairsDrift(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	clear(b.kernel.services) // ipvsadm -C
	clear(b.kernel.servers)
	b.later(11 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	if !strings.Contains(b.log.String(), "repaired, another program changed it") {
		t.Errorf("the log does not say so:\n%s", b.log)
	}
	if n := b.loop.counters.Drifts.Load(); n != 1 {
		t.Errorf("drifts = %d, want 1", n)
	}
	repairs := func() (lines []string) {
		return regexp.MustCompile(`level=WARN msg="another program .*`).FindAllString(b.log.String(), -1)
	}
	const warning = `level=WARN msg="another program has changed the IPVS table; it is repaired" `
	if diff := cmp.Diff([]string{warning + `removed=2 edited=0 added=0 first=10.0.0.1:80/tcp`}, repairs()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}

	// Of many changes, one line; a row that is wanted now is no repair.
	b.log.Reset()
	foreign := service("10.0.0.1:80/tcp", "10.1.0.1", 7, "10.1.0.2", 1, "10.1.0.3", 1)
	b.put(foreign)
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.later(11 * time.Second)
	if diff := cmp.Diff([]string{warning + `removed=0 edited=2 added=0 first="10.0.0.1:80/tcp 10.1.0.1"`}, repairs()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}

	// What is found at a start, or was changed while no controller ran, is adopted.
	b.log.Reset()
	b.put(foreign)
	b.restart()
	b.pass()
	b.later(11 * time.Second)
	if lines := repairs(); len(lines) > 0 {
		t.Errorf("a start warns: %q", lines)
	}
}

// A director that starts before its network is up gets EINVAL for every real
// server, tries again, and says so once.
func TestLoopRetriesWithoutRoute(t *testing.T) {
	b := newBench(t, testVIP())
	b.kernel.noRoute[addr("10.1.0.1")] = true
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	log := b.pass()
	if !strings.Contains(log, "vip edge 10.0.0.1:80/tcp: add real server 10.1.0.1: invalid argument (the kernel has no unicast route to 10.1.0.1") {
		t.Errorf("the log does not explain:\n%s", log)
	}
	if err := b.loop.published.Load().ready(b.clock); err == nil {
		t.Error("ready without a real server")
	}
	b.log.Reset()
	b.later(time.Minute)
	if b.log.Len() > 0 {
		t.Errorf("the same failure again and again:\n%s", b.log)
	}
	delete(b.kernel.noRoute, addr("10.1.0.1"))
	b.later(retryMost)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	if err := b.loop.published.Load().ready(b.clock); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

// A new real server that the kernel refuses does not cost the old one.
func TestLoopKeepsTheOldWhenTheNewIsRefused(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.noRoute[addr("10.1.0.2")] = true
	b.loop.cluster.Set(testCluster(nil, readyPod("b", "10.1.0.2")))
	b.pass()
	b.later(time.Minute)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	delete(b.kernel.noRoute, addr("10.1.0.2"))
	b.later(time.Minute)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.2=1\n")
}

// A scheduler that the kernel lacks is one clear error; other VIPs are served.
func TestLoopMissingScheduler(t *testing.T) {
	second := testVIP(func(v *VIP) { v.Name, v.Addresses, v.Scheduler = "second", []netip.Addr{addr("10.0.0.2")}, "mh" })
	b := newBench(t, testVIP(), second)
	b.kernel.noSched["mh"] = true
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	log := b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	if strings.Count(log, "level=ERROR") != 1 || !strings.Contains(log, "module ip_vs_mh is missing") {
		t.Errorf("log:\n%s", log)
	}
}

func TestLoopTimeouts(t *testing.T) {
	b := newBench(t)
	b.kernel.timeouts = Timeouts{TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second}
	b.loop.config.Set(&Config{VIPs: []VIP{testVIP()}, AuditInterval: 10 * time.Second, Timeouts: Timeouts{TCP: 60 * time.Second}})
	b.pass()
	if want := (Timeouts{TCP: 60 * time.Second}); b.kernel.timeouts != want {
		t.Errorf("sent %v, want only what differs: %v", b.kernel.timeouts, want)
	}
}

// A state file that is torn is refused, said so, and does not stop the start.
func TestLoopTornStateFile(t *testing.T) {
	b := newBench(t, testVIP())
	if err := writeFileAtomic(b.loop.state.dir.file(), []byte(`{"version":1,"vips":["10.0.`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.log.Reset()
	b.restart()
	if !strings.Contains(b.log.String(), "start without remembered state") {
		t.Errorf("log:\n%s", b.log)
	}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

func TestLoopBrokenConversation(t *testing.T) {
	b := newBench(t, testVIP())
	b.kernel.broken = fmt.Errorf("receive from the kernel: %w", unix.ENOBUFS)
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	if log := b.pass(); !strings.Contains(log, "no buffer space available") {
		t.Errorf("log:\n%s", log)
	}
	b.kernel.broken = nil
	b.later(time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

// Errors that were joined are a line each, at any depth; one that says something
// about several is one.
func TestFlatten(t *testing.T) {
	a, b, c := errors.New("a"), errors.New("b"), errors.New("c")
	about := fmt.Errorf("%w (%w)", a, b)
	got := flatten(errors.Join(errors.Join(a, about), nil, c))
	if want := []error{a, about, c}; !slices.Equal(got, want) {
		t.Errorf("flatten gives %v, want %v", got, want)
	}
	if got := flatten(nil); got != nil {
		t.Errorf("flatten of nothing gives %v", got)
	}
}
