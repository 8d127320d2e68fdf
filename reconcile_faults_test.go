// The loop when things go wrong: refusals, crashes, broken conversations.

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A conversation that breaks while something drains is retried at the pace of
// failures and not at once, again and again.
func TestLoopDoesNotSpinOnFailure(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.2", 0)[0].RealServer)] = Connections{Active: 1}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.broken = fmt.Errorf("receive: %w", unix.ENOBUFS)
	b.clock = b.clock.Add(11 * time.Second) // audit due, poll due
	n := 0
	for range 50 {
		b.pass()
		n++
		if b.loop.next().After(b.clock) {
			break
		}
	}
	if n > 1 {
		t.Errorf("%d turns without any wait (%d failures, next %s after now)", n, b.loop.due.retryWait.failures, b.loop.next().Sub(b.clock))
	}
}

// What the host refuses is logged once, and when that is over. The end of the program in
// the middle of a pass is neither.
func TestLoopHostRefuses(t *testing.T) {
	b := newBench(t, testVIP())
	b.pass()
	readOnly := fmt.Errorf("net/ipv4/vs/drop_entry: %w", unix.EROFS)
	ended := fmt.Errorf("read: %w", context.Canceled)
	const refuses, accepts = "the host refuses a setting", "the host accepts again"
	for i, tt := range []struct {
		err              error
		refused, resumed int
	}{
		{ended, 0, 0},
		{readOnly, 1, 0},
		{readOnly, 0, 0},
		{errors.Join(readOnly, ended), 0, 0},
		{ended, 0, 0},
		{nil, 0, 1},
	} {
		b.loop.host = noHost{err: tt.err}
		b.clock = b.clock.Add(11 * time.Second) // an audit is due
		log := b.pass()
		if refused, resumed := strings.Count(log, refuses), strings.Count(log, accepts); refused != tt.refused || resumed != tt.resumed {
			t.Errorf("pass %d, %v: %d times refused, %d times accepted again; want %d and %d\n%s", i, tt.err, refused, resumed, tt.refused, tt.resumed, log)
		}
	}
}

// Events that come faster than drains are counted do not put the count off.
func TestLoopCountsDrainsUnderEvents(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	for range 100 {
		b.clock = b.clock.Add(900 * time.Millisecond)
		b.pass() // a wake-up by some event
	}
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

// A real server that has to go on serving because its successor is refused has
// its whole time to drain afterwards.
func TestLoopDrainBeginsWithTheQuiescing(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.1", 0)[0].RealServer)] = Connections{Active: 1000}
	b.kernel.noRoute[addr("10.1.0.2")] = true
	b.loop.cluster.Set(testCluster(nil, readyPod("b", "10.1.0.2")))
	b.pass()
	b.later(6 * time.Minute)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	delete(b.kernel.noRoute, addr("10.1.0.2"))
	b.later(15 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=1\n")
}

// Neither does a crash between the saving of a deadline and the quiescing cost a
// real server its time, even if the process is long away.
func TestLoopDrainBeginsWithTheQuiescingAfterACrash(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.2", 0)[0].RealServer)] = Connections{Active: 1000}
	b.loop.state.Drains[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.2", 0)[0].RealServer)] = drain{Deadline: b.clock.Add(5 * time.Minute)}
	b.loop.state.save()
	b.restart()
	b.clock = b.clock.Add(6 * time.Minute)
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n")
}

// A VIP with a new name falls back on what it serves with.
func TestLoopRenamedVIPIsNotEmptied(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.loop.cluster.Set(testCluster(nil))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	b.configure(testVIP(func(v *VIP) { v.Name = "web" }))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

// An adopted row of the other family, which tunnels allow, spoils no state file.
func TestLoopAdoptsMixedFamilies(t *testing.T) {
	b := newBench(t, testVIP())
	s := service("10.0.0.1:80/tcp", "10.1.0.1", 1)
	s.Servers = append(s.Servers, Row{RealServer: RealServer{Address: addr("2001:db8::9"), Forward: Tunnel, Weight: 1}})
	b.put(s)
	b.pass()
	b.log.Reset()
	b.restart()
	if b.log.Len() > 0 {
		t.Error(b.log)
	}
}

// One VIP's missing scheduler is no reason to take the director out of service.
func TestLoopReadyWithoutAScheduler(t *testing.T) {
	second := testVIP(func(v *VIP) { v.Name, v.Addresses, v.Scheduler = "second", []netip.Addr{addr("10.0.0.2")}, "mh" })
	b := newBench(t, testVIP(), second)
	b.kernel.noSched["mh"] = true
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	if err := b.loop.published.Load().ready(b.clock); err != nil {
		t.Error(err)
	}
}

// Nor is one new node that cannot be reached.
func TestLoopReadyWithoutANode(t *testing.T) {
	b := newBench(t, testVIP())
	b.kernel.noRoute[addr("10.1.0.2")] = true
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	if err := b.loop.published.Load().ready(b.clock); err != nil {
		t.Error(err)
	}
}

// A node without a route is one line, however many ports it has.
func TestLoopRefusalsAreGrouped(t *testing.T) {
	b := newBench(t, testVIP())
	b.kernel.noRoute[addr("10.1.0.2")] = true
	tcp := map[string]string{}
	for i := range 1000 {
		tcp[fmt.Sprint(20000+i)] = "ns/svc:1"
	}
	b.loop.cluster.Set(testCluster(tcp, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	log := b.pass()
	if n := strings.Count(log, "\n"); n > 5 || !strings.Contains(log, "and the same for 1000 more ports") {
		t.Errorf("%d log lines:\n%.2000s", n, log)
	}
}

// A static real server that the operator removed does not return because the
// cluster does not answer.
func TestLoopStaticServerStaysRemoved(t *testing.T) {
	vip := testVIP(func(v *VIP) { v.RealServers = []StaticServer{{addr("10.1.0.8"), 1}, {addr("10.1.0.9"), 1}} })
	b := newBench(t, vip)
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.restart()
	b.configure(testVIP(func(v *VIP) { v.RealServers = []StaticServer{{addr("10.1.0.8"), 1}} }))
	b.pass()
	b.later(10 * time.Minute)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.8=1\n")
}

// A refused operation beside a drain does not have the whole table read at the
// pace of the drain.
func TestLoopRefusalBesideADrainReadsLittle(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.2", 0)[0].RealServer)] = Connections{Active: 1}
	b.kernel.noRoute[addr("10.1.0.3")] = true
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("c", "10.1.0.3")))
	b.pass()
	d := b.kernel.dumps
	b.later(time.Minute)
	if n := b.kernel.dumps - d; n > 8 {
		t.Errorf("the table was read %d times in a minute, the audits are 6", n)
	}
}

// Another hand's additions are not remembered as working, and what was
// remembered is not overwritten by them.
func TestLoopForeignRowsAreNotRemembered(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.put(service("10.0.0.1:80/tcp", "10.1.0.9", 9))
	b.later(time.Minute)
	b.loop.cluster.Set(testCluster(nil))
	b.pass()
	b.later(10 * time.Minute)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

// What has to survive a crash is on disk before the kernel is touched.
func TestLoopSavesBeforeItActs(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	checked := 0
	b.kernel.onApply = func(o op) {
		s, err := (&stateDir{path: b.dir}).load()
		if err != nil || !s.Owned[o.Service.Address] {
			t.Errorf("%s before the address is known to be ours (%v)", o, err)
		}
		if o.Kind == setServer && o.Server.Weight == 0 && s.Drains[rowOf(o.Service.ServiceKey, *o.Server)].Deadline.IsZero() {
			t.Errorf("%s before its deadline is saved", o)
		}
		checked++
	}
	b.pass()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	if checked != 4 {
		t.Errorf("%d operations, want 4", checked)
	}
}

// A state that cannot be saved is logged once. The table is in place all the same.
func TestLoopGoesOnWithoutMemory(t *testing.T) {
	b := newBench(t, testVIP())
	file := filepath.Join(b.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.dir = filepath.Join(file, "gone") // which cannot be made
	b.restart()
	var log strings.Builder
	for i := range 5 {
		b.loop.cluster.Set(testCluster(nil, readyPod("a", fmt.Sprintf("10.1.0.%d", i+1))))
		log.WriteString(b.pass())
		if v := b.loop.published.Load(); v.Err != nil {
			t.Fatalf("the table is said to be incomplete: %v", v.Err)
		}
	}
	for text, want := range map[string]int{"the state cannot be saved": 1, "level=ERROR": 1, "could not be updated": 0} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q was logged %d times, want %d:\n%s", text, n, want, log.String())
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.9")))
	if got := b.pass(); !strings.Contains(got, "the state is saved again") {
		t.Errorf("logged %s", got)
	}
}

// A VIP that was removed keeps being ours until the kernel has let it go.
func TestLoopOwnsUntilRemoved(t *testing.T) {
	second := testVIP(func(v *VIP) { v.Name, v.Addresses = "second", []netip.Addr{addr("10.0.0.2")} })
	b := newBench(t, testVIP(), second)
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.refuse = func(o op) error {
		if o.Kind == delService {
			return unix.EBUSY
		}
		return nil
	}
	b.configure(testVIP())
	b.later(time.Minute)
	b.restart()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.kernel.refuse = nil
	b.pass()
	b.later(5 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

// The real servers of a removed VIP drain for the default time.
func TestLoopRemovedVIPDrains(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.1", 0)[0].RealServer)] = Connections{Persistent: 1}
	b.configure()
	b.pass()
	b.later(defaultDrainTimeout - time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=0\n")
	b.later(3 * time.Second)
	b.want("")
}

// icmpHost notes when ICMP errors are suppressed.
type icmpHost struct {
	noHost
	log []string
}

func (h *icmpHost) SuppressICMP(*Config) func() {
	h.log = append(h.log, "suppress")
	return func() { h.log = append(h.log, "restore") }
}

// ICMP errors are held back around the exchange of a scheduler and only then;
// many exchanges are spread over turns.
func TestLoopSuppressesICMPInSchedulerExchanges(t *testing.T) {
	b := newBench(t, testVIP())
	host := &icmpHost{}
	b.loop.host = host
	tcp := map[string]string{}
	for i := range 2*exchangesAtOnce + 1 {
		tcp[fmt.Sprint(20000+i)] = "ns/svc:1"
	}
	b.loop.cluster.Set(testCluster(tcp, readyPod("a", "10.1.0.1")))
	b.pass()
	b.configure(testVIP(func(v *VIP) { v.Weight = 5 }))
	b.pass()
	if len(host.log) > 0 {
		t.Errorf("without an exchange: %v", host.log)
	}
	b.kernel.onApply = func(o op) {
		if o.exchanges() && host.log[len(host.log)-1] != "suppress" {
			t.Errorf("%s without suppressed ICMP errors", o)
		}
	}
	b.configure(testVIP(func(v *VIP) { v.Weight, v.Scheduler = 5, "wlc" }))
	for range 3 {
		n := len(b.kernel.applied)
		b.pass()
		if n := len(b.kernel.applied) - n; n == 0 || n > exchangesAtOnce {
			t.Errorf("%d exchanges in one turn", n)
		}
	}
	if got := strings.Join(host.log, " "); got != "suppress restore suppress restore suppress restore" {
		t.Error(got)
	}
	for _, s := range b.kernel.services {
		if s.Scheduler != "wlc" {
			t.Errorf("%s still has scheduler %s", s.ServiceKey, s.Scheduler)
		}
	}
}

// Two exchanges of one service keep a pause between them, and what is configured
// meanwhile and not any more is left out. A refused one is no exchange: it is
// told again and again.
func TestLoopPacesSchedulerExchanges(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	scheduler := func(s string) {
		b.configure(testVIP(func(v *VIP) { v.Scheduler = s }))
		b.pass()
	}
	want := func(s string) {
		t.Helper()
		if got := b.kernelText(); !strings.Contains(got, " "+s+":") {
			t.Errorf("at %s: %q, want scheduler %s", b.clock.Format("05"), got, s)
		}
	}
	scheduler("wlc")
	want("wlc")
	b.clock = b.clock.Add(exchangePause / 2)
	scheduler("lc")
	scheduler("sed")
	want("wlc")
	if got, due := b.loop.next().Sub(b.clock), exchangePause/2; got != due {
		t.Errorf("the next turn comes in %s, want %s", got, due)
	}
	b.later(exchangePause / 2)
	want("sed")
	b.clock = b.clock.Add(exchangePause)
	scheduler("rr")
	want("rr")

	b.clock = b.clock.Add(exchangePause)
	b.kernel.noSched["mh"] = true
	scheduler("mh")
	before := b.loop.counters.Refused.Load()
	b.later(retryFirst)
	if b.loop.counters.Refused.Load() == before {
		t.Error("a refused exchange is not tried again at once")
	}
}

// announcingHost notes what it is told to announce.
type announcingHost struct {
	noHost
	told []string
}

func (h *announcingHost) Announce(_ context.Context, _ *Config, want vipAddresses) (vipsOnHost, error) {
	h.told = append(h.told, fmt.Sprint(want.Announced))
	var owned []VIPAddress
	for _, a := range want.Announced {
		owned = append(owned, VIPAddress{Device: "eth0", Address: a})
	}
	return vipsOnHost{Addresses: owned}, nil
}

// An address is claimed once somebody serves it, and given up when the last
// connection through it has ended.
func TestLoopAnnouncesWhatIsServed(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.Announce = AnnounceARP }))
	host := &announcingHost{}
	b.loop.host = host
	b.pass()
	if slices.ContainsFunc(host.told, func(s string) bool { return s != "[]" }) {
		t.Errorf("announced with nobody to serve: %v", host.told)
	}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.1", 0)[0].RealServer)] = Connections{Active: 1}
	b.configure()
	b.pass()
	b.later(time.Minute)
	if last := host.told[len(host.told)-1]; last != "[10.0.0.1]" {
		t.Errorf("given up during the drain: %v", host.told)
	}
	clear(b.kernel.conns)
	b.later(10 * time.Second)
	if last := host.told[len(host.told)-1]; last != "[]" {
		t.Errorf("not given up: %v", host.told)
	}
}

// The real servers of a group that a VIP has no more drain as that VIP's do.
func TestLoopFormerMarkDrainsAsItsVIP(t *testing.T) {
	vip := testVIP(func(v *VIP) { v.TCPServices, v.OneMark, v.Drain.Timeout = ConfigMapName{}, true, 3*time.Second })
	b := newBench(t, vip)
	b.loop.config.Set(&Config{VIPs: []VIP{vip}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.conns[rowOf(MarkKey(7, false), rows("10.1.0.1", 0)[0].RealServer)] = Connections{Active: 1}
	vip.OneMark = false
	b.loop.config.Set(&Config{VIPs: []VIP{vip}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	if log := b.pass(); !strings.Contains(log, "vip=edge service=mark-7/ipv4") {
		t.Errorf("log:\n%s", log)
	}
	b.later(5 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

// The deadline of a service that goes as a whole is known for as long as the
// kernel has it, whatever keeps it.
func TestLoopWithdrawnServiceKeepsItsDeadline(t *testing.T) {
	const port = "10.0.0.1:9000/tcp"
	for _, test := range []struct {
		name string
		last func(t *testing.T, b *bench) // at the deadline
	}{
		{"refused, then killed", func(t *testing.T, b *bench) {
			b.kernel.refuse = func(o op) error {
				if o.Kind == delService {
					return unix.ENOMEM
				}
				return nil
			}
			b.later(6 * time.Minute)
			b.kernel.refuse = nil
			b.restart()
		}},
		{"killed before the removal", func(t *testing.T, b *bench) {
			b.kernel.onApply = func(o op) {
				if o.Kind == delService {
					panic("killed")
				}
			}
			func() {
				defer func() {
					if recover() == nil {
						t.Error("the removal was not tried")
					}
				}()
				b.later(6 * time.Minute)
			}()
			b.kernel.onApply = nil
			b.restart()
		}},
		{"the conversation broke", func(t *testing.T, b *bench) {
			b.kernel.breakAt = func(o op) bool { return o.Kind == delService }
			b.later(5*time.Minute + 10*time.Millisecond)
			b.kernel.breakAt = nil
			b.later(time.Second)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, testVIP())
			a := readyPod("a", "10.1.0.1")
			b.loop.cluster.Set(testCluster(map[string]string{"9000": "ns/svc:1"}, a))
			b.pass()
			b.kernel.conns[rowOf(service(port).ServiceKey, rows("10.1.0.1", 0)[0].RealServer)] = Connections{Active: 1}
			b.loop.cluster.Set(testCluster(nil, a))
			b.pass()
			test.last(t, b)
			b.loop.cluster.Set(testCluster(nil, a))
			b.pass()
			b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
		})
	}
}

// What served a VIP under its old name goes on when the kernel refuses what
// should serve it under the new one.
func TestLoopRenamedVIPIsNotEmptiedByARefusal(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.TCPServices = ConfigMapName{} }))
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.refuse = func(o op) error {
		if o.Kind == newService {
			return unix.ENOMEM
		}
		return nil
	}
	web := testVIP(func(v *VIP) { v.Name, v.TCPServices, v.OneMark = "web", ConfigMapName{}, true })
	b.loop.config.Set(&Config{VIPs: []VIP{web}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	b.pass()
	b.later(30 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

// A kernel that lacks dh leaves the service with the scheduler it has, and its
// real servers drain as that one's do.
func TestLoopDrainsWhereDhIsMissing(t *testing.T) {
	b := newBench(t, testVIP())
	a, gone := readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")
	b.loop.cluster.Set(testCluster(nil, a, gone))
	b.pass()
	b.kernel.noSched["dh"] = true
	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.2", 0)[0].RealServer)] = Connections{Active: 1000}
	b.configure(testVIP(func(v *VIP) { v.Scheduler = "dh" }))
	b.pass()
	b.loop.cluster.Set(testCluster(nil, a))
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n")
}
