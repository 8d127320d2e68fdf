package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// routedHost is a host with a dummy device. It notes what it is told, as it changes.
type routedHost struct {
	noHost
	told   []string
	calls  int
	uplink error
	fail   error
	lost   bool
	has    vipsOnHost
}

func (h *routedHost) LostAddress() bool { return h.lost }

func (h *routedHost) Uplink() error { return h.uplink }

func (h *routedHost) Announce(_ context.Context, _ *Config, want vipAddresses) (vipsOnHost, error) {
	h.calls++
	if h.fail != nil {
		return h.has, h.fail
	}
	h.lost = false
	if now := fmt.Sprint(want.Announced, want.Local); len(h.told) == 0 || h.told[len(h.told)-1] != now {
		h.told = append(h.told, now)
	}
	h.has = vipsOnHost{On: want.Announced, Local: want.Local}
	for _, a := range want.Announced {
		h.has.Addresses = append(h.has.Addresses, VIPAddress{Device: "lvs0", Address: a})
	}
	return h.has, nil
}

// last is what it was told last.
func (h *routedHost) last() string {
	if len(h.told) == 0 {
		return "nothing"
	}
	return h.told[len(h.told)-1]
}

// routedBench is a loop whose VIP is announced to routers.
func routedBench(t *testing.T) (*bench, *routedHost, func(weight uint32)) {
	vip := func(weight uint32) VIP {
		return testVIP(func(v *VIP) {
			v.Announce, v.Pods, v.TCPServices = AnnounceDummy, PodQuery{}, ConfigMapName{}
			v.RealServers = []StaticServer{{Address: netip.MustParseAddr("10.1.0.1"), Weight: weight}}
		})
	}
	b := newBench(t, vip(1))
	b.loop.cacheDir = t.TempDir()
	host := &routedHost{}
	b.loop.host = host
	configure := func(weight uint32) {
		b.loop.config.Set(&Config{VIPs: []VIP{vip(weight)}, AuditInterval: 10 * time.Second, AnnounceDevice: "lvs0", Marks: oneMarkRange})
	}
	configure(1)
	return b, host, configure
}

const (
	routedShown     = "[10.0.0.1] [10.0.0.1]"
	routedWithdrawn = "[] [10.0.0.1]"
)

// Routers are told of a VIP while this director is fit for it, and no longer: they
// know another one. Its packets are taken in all the time.
func TestLoopRoutesWhatIsServed(t *testing.T) {
	b, host, configure := routedBench(t)
	b.pass()
	configure(0)
	b.pass()
	configure(1)
	b.pass()
	host.uplink = errors.New("the uplink eth0 has no carrier")
	b.pass()
	host.uplink = nil
	b.pass()
	b.kernel.broken = errors.New("the kernel does not answer")
	b.later(30 * time.Second)
	if last := host.told[len(host.told)-1]; last != routedShown {
		t.Errorf("withdrawn after half a minute without the kernel: %v", host.told)
	}
	b.later(20 * time.Second) // a try every ten seconds
	b.kernel.broken = nil
	b.later(10 * time.Second)
	b.loop.config.Set(&Config{AuditInterval: 10 * time.Second, AnnounceDevice: "lvs0"})
	b.later(20 * time.Second)
	want := []string{
		routedShown, routedWithdrawn, // no real server serves
		routedShown, routedWithdrawn, // the uplink is down
		routedShown, routedWithdrawn, // the kernel has been silent for too long
		routedShown, "[] []", // no such VIP
	}
	if diff := cmp.Diff(want, host.told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

// What another program has taken away is put back without an audit.
func TestLoopLostAddress(t *testing.T) {
	b, host, _ := routedBench(t)
	b.pass()
	before := host.calls
	b.pass()
	if host.calls != before {
		t.Error("the host is told again, though nothing has changed")
	}
	host.lost = true
	b.pass()
	b.pass()
	if host.calls != before+1 {
		t.Errorf("the host is told %d times of an address that was lost, want once", host.calls-before)
	}
}

// A kernel that has lost its IPVS serves nothing: routers are told at once.
func TestLoopWithdrawsWithoutIPVS(t *testing.T) {
	b, host, _ := routedBench(t)
	b.pass()
	dial := b.loop.dial
	b.kernel.broken = fmt.Errorf("list virtual services: %w", unix.ENOENT)
	b.loop.dial = func() (director, error) { return nil, errNoIPVS }
	b.clock = b.clock.Add(auditGap)
	b.loop.AuditNow()
	b.pass()
	b.pass()
	if got := host.last(); got != routedWithdrawn {
		t.Errorf("without IPVS, routers are told %s", got)
	}
	b.kernel.broken, b.loop.dial = nil, dial
	b.pass()
	if got := host.last(); got != routedShown {
		t.Errorf("with IPVS again, routers are told %s", got)
	}
}

// again is a new process on the same host.
func (b *bench) again(host *routedHost) {
	cache := b.loop.cacheDir
	b.restart()
	b.loop.host, b.loop.cacheDir = host, cache
	host.told = nil
}

// order drains the director, or undoes it.
func (b *bench) order(drained bool) {
	b.t.Helper()
	if err := setDrained(b.loop.cacheDir, drained); err != nil {
		b.t.Fatal(err)
	}
}

// confirmed reports whether the operator is told that the order, or that there is
// none, has been carried out.
func (b *bench) confirmed() bool {
	b.t.Helper()
	since, err := drainedSince(b.loop.cacheDir)
	if err != nil {
		b.t.Fatal(err)
	}
	text, _ := os.ReadFile(filepath.Join(b.loop.state.dir.path, confirmationFile))
	return string(text) == confirmation(since)
}

// An operator's drain withdraws every address and holds over a restart. It is
// confirmed when it has been carried out and not before.
func TestLoopDrained(t *testing.T) {
	b, host, _ := routedBench(t)
	b.pass()
	if !b.confirmed() {
		t.Error("that there is no drain is not confirmed")
	}
	b.order(true)
	ordered := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(b.loop.cacheDir, drainedFile), ordered, ordered); err != nil {
		t.Fatal(err)
	}
	// The host refuses, and so does the kernel: the loop comes to it twice in a turn.
	host.fail = errors.New("no")
	b.kernel.noRoute[netip.MustParseAddr("10.1.0.2")] = true
	b.loop.config.Set(&Config{VIPs: []VIP{testVIP(func(v *VIP) {
		v.Announce, v.Pods, v.TCPServices = AnnounceDummy, PodQuery{}, ConfigMapName{}
		v.RealServers = []StaticServer{{Address: netip.MustParseAddr("10.1.0.1"), Weight: 1}, {Address: netip.MustParseAddr("10.1.0.2"), Weight: 1}}
	})}, AuditInterval: time.Hour, AnnounceDevice: "lvs0", Marks: oneMarkRange})
	b.pass()
	b.pass()
	if b.confirmed() || host.last() != routedShown {
		t.Errorf("refused by the host, and confirmed: %t; told: %v", b.confirmed(), host.told)
	}
	host.fail = nil
	b.later(time.Second)
	if !b.confirmed() || host.last() != routedWithdrawn {
		t.Errorf("not tried again within a second; confirmed: %t; told: %v", b.confirmed(), host.told)
	}
	if err := b.loop.published.Load().ready(b.loop.now()); err == nil || err.Error() != "drained by the operator since "+ordered.Local().Format(time.RFC3339) {
		t.Errorf("ready says %v", err)
	}
	b.again(host)
	b.pass()
	if host.last() != routedWithdrawn {
		t.Errorf("announced after a restart: %v", host.told)
	}
	const gone = "that order is gone"
	if strings.Contains(b.log.String(), gone) {
		t.Errorf("the order stands, and yet:\n%s", b.log)
	}
	b.order(false)
	b.again(host) // as where cache_dir is another one now
	b.pass()
	if got := strings.Count(b.log.String(), gone); got != 1 {
		t.Errorf("said %d times that the order is gone, want once:\n%s", got, b.log)
	}
	b.again(host)
	b.pass()
	if got := strings.Count(b.log.String(), gone); got > 1 {
		t.Errorf("said again that the order is gone:\n%s", b.log)
	}
	if host.last() != routedShown || !b.confirmed() {
		t.Errorf("undone: %v, confirmed: %t", host.told, b.confirmed())
	}
	b.order(true)
	b.order(false)
	b.order(true)
	b.pass()
	if !b.confirmed() {
		t.Error("another order is not confirmed")
	}
}

// A controller that cannot read the kernel's table since it was started leaves alone
// what an earlier run announced, for a while; an order and a signal it obeys at once.
// What the kernel forwards it goes on taking in.
func TestLoopAnnouncesBeforeTheTable(t *testing.T) {
	silent := func(t *testing.T) (*bench, *routedHost) {
		b, host, configure := routedBench(t)
		b.pass()
		b.again(host)
		b.kernel.broken = errors.New("the kernel does not answer")
		configure(1)
		b.pass()
		if len(host.told) > 0 {
			t.Fatalf("told at once: %v", host.told)
		}
		return b, host
	}
	t.Run("for long", func(t *testing.T) {
		b, host := silent(t)
		b.later(30 * time.Second)
		if len(host.told) > 0 {
			t.Errorf("told after half a minute: %v", host.told)
		}
		b.later(20 * time.Second)
		if host.last() != routedWithdrawn || len(b.loop.published.Load().Announced) > 0 {
			t.Errorf("told %v, shows %v", host.told, b.loop.published.Load().Announced)
		}
	})
	t.Run("drained", func(t *testing.T) {
		b, host := silent(t)
		b.order(true)
		b.pass()
		if host.last() != routedWithdrawn || !b.confirmed() {
			t.Errorf("told %v, confirmed: %t", host.told, b.confirmed())
		}
	})
	t.Run("ended", func(t *testing.T) {
		b, host := silent(t)
		cfg := *b.loop.config.Get()
		cfg.WithdrawHold = time.Millisecond
		b.loop.config.Set(&cfg)
		b.loop.announcer.withdraw()
		if host.last() != routedWithdrawn {
			t.Errorf("told %v", host.told)
		}
	})
}

// A VIP that is configured no more is announced until it has drained, whatever comes
// between.
func TestLoopRoutesFormerVIP(t *testing.T) {
	for _, oneMark := range []bool{false, true} {
		t.Run(fmt.Sprintf("one_mark=%t", oneMark), func(t *testing.T) {
			b, host, _ := routedBench(t)
			vip := b.loop.config.Get().VIPs[0]
			vip.OneMark = oneMark
			b.loop.config.Set(&Config{VIPs: []VIP{vip}, AuditInterval: 10 * time.Second, AnnounceDevice: "lvs0", Marks: oneMarkRange, WithdrawHold: time.Millisecond})
			b.pass()
			for i := range b.loop.kernel.have {
				k := b.loop.kernel.have[i].Services[0].ServiceKey
				b.kernel.conns[rowOf(k, rows("10.1.0.1", 0)[0].RealServer)] = Connections{Active: 1}
			}
			b.loop.announcer.withdraw()
			b.again(host)
			b.loop.config.Set(&Config{AuditInterval: 10 * time.Second, AnnounceDevice: "lvs0", Marks: oneMarkRange})
			b.pass()
			host.uplink = errors.New("the uplink eth0 is down")
			b.pass()
			host.uplink = nil
			b.pass()
			clear(b.kernel.conns)
			b.later(30 * time.Second)
			if diff := cmp.Diff([]string{routedShown, routedWithdrawn, routedShown, "[] []"}, host.told); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		})
	}
}
