package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// routedHost notes what it is told of VIPs of a dummy device.
type routedHost struct {
	noHost
	told   []string // as they change
	uplink error
	fail   error
}

func (h *routedHost) Uplink() error { return h.uplink }

func (h *routedHost) Announce(_ context.Context, _ *Config, want vipAddresses) ([]VIPAddress, error) {
	if h.fail != nil {
		return nil, h.fail
	}
	if now := fmt.Sprint(want); len(h.told) == 0 || h.told[len(h.told)-1] != now {
		h.told = append(h.told, now)
	}
	var owned []VIPAddress
	for _, a := range want.Announced {
		owned = append(owned, VIPAddress{Device: "lvs0", Address: a})
	}
	return owned, nil
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
	routedShown     = "{[10.0.0.1] [10.0.0.1]}"
	routedWithdrawn = "{[] [10.0.0.1]}"
)

// Routers are told of a VIP while this director is fit for it, and no longer: they
// know another one. Its packets are taken in all the time.
func TestLoopRoutesWhatIsServed(t *testing.T) {
	b, host, configure := routedBench(t)
	b.turn()
	configure(0)
	b.turn()
	configure(1)
	b.turn()
	host.uplink = errors.New("the uplink eth0 has no carrier")
	b.turn()
	host.uplink = nil
	b.turn()
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
		routedShown, routedWithdrawn, // nobody serves
		routedShown, routedWithdrawn, // the uplink is down
		routedShown, routedWithdrawn, // the kernel has been silent for too long
		routedShown, "{[] []}", // no such VIP
	}
	if diff := cmp.Diff(want, host.told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

// An operator's drain withdraws every address, holds over a restart, and is
// confirmed once it has been carried out and not before.
func TestLoopDrained(t *testing.T) {
	b, host, _ := routedBench(t)
	confirmed := func() bool {
		t.Helper()
		since, err := drainedSince(b.loop.dir.path)
		if err != nil {
			t.Error(err)
		}
		return !since.IsZero()
	}
	b.turn()
	if err := b.loop.view.Load().ready(b.loop.now()); err != nil {
		t.Errorf("ready says %v", err)
	}
	if err := setDrained(b.loop.cacheDir, true); err != nil {
		t.Fatal(err)
	}
	ordered := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(b.loop.cacheDir, drainedFile), ordered, ordered); err != nil {
		t.Fatal(err)
	}
	host.fail = errors.New("no")
	b.turn()
	if confirmed() {
		t.Error("a drain is confirmed that could not be carried out")
	}
	host.fail = nil
	b.later(10 * time.Second)
	if !confirmed() {
		t.Error("the drain is not confirmed")
	}
	if err := b.loop.view.Load().ready(b.loop.now()); err == nil || err.Error() != "drained by the operator since "+ordered.Local().Format(time.RFC3339) {
		t.Errorf("ready says %v", err)
	}

	cache := b.loop.cacheDir
	b.restart()
	b.loop.host, b.loop.cacheDir = host, cache
	b.turn()
	if last := host.told[len(host.told)-1]; last != routedWithdrawn {
		t.Errorf("announced after a restart: %v", host.told)
	}
	if err := setDrained(b.loop.cacheDir, false); err != nil {
		t.Fatal(err)
	}
	b.turn()
	if last := host.told[len(host.told)-1]; last != routedShown || confirmed() {
		t.Errorf("after the drain: %v, confirmed %t", host.told, confirmed())
	}
}
