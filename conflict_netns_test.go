package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"golang.org/x/sys/unix"
)

// startConflictWatch runs a watch for both VIPs inside a namespace, until the
// test ends.
func (ns netns) startConflictWatch(t *testing.T) (*conflictWatch, *lockedBuffer) {
	t.Helper()
	log := new(lockedBuffer)
	changed := make(chan struct{}, 1)
	configs := newLatest[Config](changed)
	configs.Set(&Config{VIPs: []VIP{{Name: "edge", Addresses: []netip.Addr{addr("10.0.0.100"), addr("2001:db8::100")}}}})
	w := newConflictWatch(slog.New(slog.NewTextHandler(log, nil)), configs, changed,
		func() map[netip.Addr]bool { return map[netip.Addr]bool{addr("10.0.0.12"): true} })
	w.record.silence = 3 * conflictLookAgain
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go ns.do(t, func() { done <- w.Run(ctx) })
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run = %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end with its context")
		}
	})
	return w, log
}

// take puts both VIPs on eth0 and announces them, as keepalived does; give
// removes them.
func (ns netns) take(t *testing.T) {
	t.Helper()
	ns.run(t, "ip", "address", "add", "10.0.0.100/32", "dev", "eth0")
	ns.run(t, "ip", "address", "add", "2001:db8::100/128", "dev", "eth0", "nodad")
	ns.do(t, func() {
		for _, a := range []string{"10.0.0.100", "2001:db8::100"} {
			if err := announceVIP("eth0", addr(a)); err != nil {
				t.Error(err)
			}
		}
	})
}

func (ns netns) give(t *testing.T) {
	t.Helper()
	ns.run(t, "ip", "address", "del", "10.0.0.100/32", "dev", "eth0")
	ns.run(t, "ip", "address", "del", "2001:db8::100/128", "dev", "eth0")
}

// Two hosts on a real link: a hand-over says nothing; both with the VIP, each
// notices the other and names what it is; the one that gives way says so.
func TestConflictOnTheWire(t *testing.T) {
	a, b := newNetns(t), newNetns(t)
	vethPair(t, a, "eth0", b, "eth0")
	a.run(t, "ip", "address", "add", "10.0.0.11/24", "dev", "eth0")
	b.run(t, "ip", "address", "add", "10.0.0.12/24", "dev", "eth0")
	macs := make(map[netns]string)
	for _, ns := range []netns{a, b} {
		ns.do(t, func() {
			if ifi, err := deviceByName("eth0"); err == nil {
				macs[ns] = ifi.HardwareAddr.String()
			}
		})
	}
	watchA, logA := a.startConflictWatch(t)
	watchB, logB := b.startConflictWatch(t)
	silent := func(what string) {
		t.Helper()
		for _, log := range []*lockedBuffer{logA, logB} {
			if log.String() != "" {
				t.Fatalf("%s:\n%s", what, log)
			}
		}
	}

	a.take(t)
	for range 2 { // there and back, each with both directors having it for a moment
		b.take(t)
		a.give(t)
		a.take(t)
		b.give(t)
	}
	time.Sleep(2 * conflictGrace) // the look at what is left
	silent("a hand-over is no conflict")

	b.take(t)
	claims := func(address, mac string) string {
		return fmt.Sprintf(`msg="another host claims the VIP" vip=edge address=%s device=eth0 mac=%s`, address, mac)
	}
	logged := func(log *lockedBuffer, want string) {
		t.Helper()
		lab.Within(t, 30*time.Second, func() string {
			if n := strings.Count(log.String(), want); n != 1 {
				return fmt.Sprintf("%d lines with %s, want 1, in:\n%s", n, want, log)
			}
			return ""
		})
	}
	// The address of a neighbour is known where this host has talked to it.
	logged(logA, claims("10.0.0.100", macs[b])+` host=10.0.0.12 why="a real server that answers ARP`)
	logged(logB, claims("10.0.0.100", macs[a]))
	logged(logA, claims("2001:db8::100", macs[b]))
	logged(logB, claims("2001:db8::100", macs[a]))
	for _, w := range []*conflictWatch{watchA, watchB} {
		p := w.record.seen()
		if len(p.Active) != 2 || p.Begun[addr("10.0.0.100")] != 1 || p.Begun[addr("2001:db8::100")] != 1 {
			t.Errorf("snapshot: %+v", p)
		}
	}

	b.give(t)
	const over = `msg="the other host does not claim the VIP any more" vip=edge address=`
	for _, address := range []string{"10.0.0.100", "2001:db8::100"} {
		logged(logB, over+address)
	}
	lab.Within(t, 10*time.Second, func() string {
		if p := watchB.record.seen(); len(p.Active) > 0 {
			return fmt.Sprintf("still active: %+v", p.Active)
		}
		return ""
	})
	if strings.Count(logB.String(), `why="this director does not have the VIP any more"`) != 2 {
		t.Errorf("log:\n%s", logB)
	}
	for _, address := range []string{"10.0.0.100", "2001:db8::100"} {
		lab.Within(t, time.Minute, func() string {
			if strings.Contains(logA.String(), over+address) {
				return ""
			}
			return "the end is not logged:\n" + logA.String()
		})
	}
	if p := watchA.record.seen(); len(p.Active) > 0 {
		t.Errorf("still active: %+v", p.Active)
	}
}

// Without CAP_NET_RAW it says so once, and goes on; with it again it watches.
func TestConflictWatchNeedsPacketSocket(t *testing.T) {
	ns := newNetns(t)
	ns.addDevice(t, "eth0")
	ns.run(t, "ip", "address", "add", "10.0.0.100/32", "dev", "eth0")
	ns.run(t, "ip", "link", "set", "eth0", "up")
	log := new(lockedBuffer)
	configs := newLatest[Config]()
	configs.Set(&Config{VIPs: []VIP{{Name: "edge", Addresses: []netip.Addr{addr("10.0.0.100")}}}})
	w := newConflictWatch(slog.New(slog.NewTextHandler(log, nil)), configs, nil, nil)
	ctx, stop := context.WithCancel(context.Background())
	ns.do(t, func() {
		// Of this thread alone, which ends with the function.
		allowPacketSockets := func(allow bool) {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var sets [2]unix.CapUserData
			if err := unix.Capget(&header, &sets[0]); err != nil {
				t.Error(err)
			}
			sets[0].Effective &^= 1 << unix.CAP_NET_RAW
			if allow {
				sets[0].Effective |= 1 << unix.CAP_NET_RAW
			}
			if err := unix.Capset(&header, &sets[0]); err != nil {
				t.Error(err)
			}
		}
		allowPacketSockets(false)
		w.update(ctx, time.Now())
		w.update(ctx, time.Now())
		allowPacketSockets(true)
		w.update(ctx, time.Now())
		w.update(ctx, time.Now())
	})
	stop()
	w.close()
	w.readers.Wait()
	got := log.String()
	if strings.Count(got, "\n") != 2 || !strings.Contains(got, `level=WARN msg="cannot watch for other hosts that claim a VIP`) ||
		!strings.Contains(got, "(it needs CAP_NET_RAW)") || !strings.Contains(got, `level=INFO msg="watching for other hosts that claim a VIP again`) {
		t.Errorf("log:\n%s", got)
	}
}
