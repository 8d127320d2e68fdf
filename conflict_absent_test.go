package main

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"golang.org/x/sys/unix"
)

func TestAbsentText(t *testing.T) {
	vip := func(name string, how Announcement, addrs ...string) VIP {
		v := VIP{Name: name, Announce: how}
		for _, a := range addrs {
			v.Addresses = append(v.Addresses, addr(a))
		}
		return v
	}
	cfg := &Config{VIPs: []VIP{
		vip("edge", AnnounceNone, "10.0.0.100", "2001:db8::100"), vip("own", AnnounceARP, "10.0.0.101"),
		vip("routed", AnnounceDummy, "10.0.0.102"), vip("db", AnnounceNone, "10.0.0.103"),
	}}
	missing := leftToOthers(cfg)
	for want, answered := range map[string][]string{
		"edge: 10.0.0.100, edge: 2001:db8::100, db: 10.0.0.103": nil,
		"db: 10.0.0.103": {"10.0.0.100", "2001:db8::100"},
		"":               {"10.0.0.100", "2001:db8::100", "10.0.0.103"},
	} {
		have := make(map[netip.Addr]bool)
		for _, a := range answered {
			have[addr(a)] = true
		}
		if got := absentText(cfg, missing, have); got != want {
			t.Errorf("%q answered: %q, want %q", answered, got, want)
		}
	}
	for i := range 3 * maxAbsent {
		cfg.VIPs = append(cfg.VIPs, VIP{Name: "many", Announce: AnnounceNone, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})}})
	}
	if got := absentText(cfg, leftToOthers(cfg), nil); strings.Count(got, ": ") != maxAbsent {
		t.Errorf("want %d VIPs at the most: %s", maxAbsent, got)
	}
}

// On a segment: the warning comes once when no host has the VIP, and its end once when
// another host or this one has it.
func TestAbsentOnASegment(t *testing.T) {
	t.Parallel()
	requireRoot(t)
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	director, other := l.Host("director", 2), l.Host("other", 4)
	log := new(lockedBuffer)
	w := newAbsentWatch(slog.New(slog.NewTextHandler(log, nil)), nil, nil)
	cfg := &Config{Interface: "eth0", VIPs: []VIP{{Name: "edge", Announce: AnnounceNone, Addresses: []netip.Addr{addr("10.0.0.100"), addr("2001:db8::100")}}}}
	seen := 0
	look := func(what, want string) {
		t.Helper()
		director.Do(func() { w.look(t.Context(), cfg) })
		lines := strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")
		if log.String() == "" {
			lines = nil
		}
		switch fresh := lines[min(seen, len(lines)):]; {
		case want == "" && len(fresh) > 0, want != "" && (len(fresh) != 1 || !strings.Contains(fresh[0], want)):
			t.Errorf("%s: %q, want %q", what, fresh, want)
		}
		seen = len(lines)
	}
	look("no host has it", `level=WARN msg="no host has the VIP`)
	look("no host has it, again", "")
	server := newBenchServer(newBench(t, testVIP()))
	server.absent = w
	warned := func() bool {
		st := server.head(&loopState{Config: cfg, Warnings: []string{"another"}})
		return len(st.Warnings) == 2 && strings.HasPrefix(st.Warnings[0], "no host has the VIP, ") && strings.HasSuffix(st.Warnings[0], "announce arp: edge: 10.0.0.100, edge: 2001:db8::100")
	}
	if !warned() {
		t.Errorf("status does not say so: %q", w.Warning())
	}
	other.Run("ip", "address", "add", "10.0.0.100/32", "dev", "eth0")
	look("another host has one of two", `vips="edge: 2001:db8::100"`)
	other.Run("ip", "address", "add", "2001:db8::100/128", "dev", "eth0", "nodad")
	look("another host has both", `level=INFO msg="a host has each VIP again"`)
	other.Run("ip", "address", "flush", "dev", "eth0")
	look("no host has it any more", `level=WARN`)
	director.Run("ip", "address", "add", "10.0.0.100/32", "dev", "lo")
	director.Run("ip", "address", "add", "2001:db8::100/128", "dev", "lo")
	look("this host has both", `level=INFO`)
	director.Run("ip", "address", "del", "10.0.0.100/32", "dev", "lo")
	director.Run("ip", "route", "add", "local", "10.0.0.100", "dev", "lo")
	look("a local route has it", "")
	director.Run("ip", "route", "del", "local", "10.0.0.100", "dev", "lo")
	look("it is taken away", `vips="edge: 10.0.0.100"`)
	cfg.VIPs[0].Announce = AnnounceARP
	look("the controller brings it", `level=INFO`)
}

// The first configuration rings too: the look after the start is for it, and another look
// waits for the next change.
func TestAbsentLooksOnceAfterAStart(t *testing.T) {
	requireRoot(t)
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	host := l.Host("director", 2)
	host.Run("ip", "address", "add", "10.0.0.100/32", "dev", "lo")
	log, configs, changed := new(lockedBuffer), newLatest[Config](), make(chan struct{}, 1)
	w := newAbsentWatch(slog.New(slog.NewTextHandler(log, nil)), configs, changed)
	w.settle = 100 * time.Millisecond
	with := func(a string) *Config {
		return &Config{Interface: "eth0", VIPs: []VIP{{Name: "edge", Announce: AnnounceNone, Addresses: []netip.Addr{addr(a)}}}}
	}
	configs.Set(with("10.0.0.100"))
	ring(changed)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go host.Do(func() { done <- w.Run(ctx) })
	until(t, "the first look to take the ring", func() bool { return len(changed) == 0 })
	time.Sleep(w.settle / 2)
	configs.Set(with("10.0.0.101")) // nothing rings: a look would warn
	time.Sleep(2*w.settle + absentPatience)
	if log.String() != "" {
		t.Errorf("it looks again: %s", log.String())
	}
	ring(changed)
	until(t, "the look after a change", func() bool { return strings.Contains(log.String(), "10.0.0.101") })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The addresses of pods and of other devices come and go: the watch looks again for its
// VIPs alone.
func TestAbsentWakesForItsVIPs(t *testing.T) {
	requireRoot(t)
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	host := l.Host("director", 2)
	configs := newLatest[Config]()
	w := newAbsentWatch(nil, configs, nil)
	var events <-chan struct{}
	var err error
	host.Do(func() {
		events, err = kernelEventsOf(t.Context(), unix.NETLINK_ROUTE, unix.RTMGRP_IPV4_IFADDR|unix.RTMGRP_IPV6_IFADDR, w.matters)
	})
	if err != nil {
		t.Fatal(err)
	}
	configs.Set(&Config{VIPs: []VIP{{Name: "edge", Announce: AnnounceNone, Addresses: []netip.Addr{addr("10.0.0.100"), addr("2001:db8::100")}}, {Name: "own", Announce: AnnounceARP, Addresses: []netip.Addr{addr("10.0.0.101")}}}})
	host.Run("ip", "link", "add", "veth7", "type", "veth", "peer", "name", "veth8")
	for _, step := range []struct {
		change string
		wakes  bool
	}{
		{"add 10.9.0.1/24 dev veth7", false},
		{"add 2001:db8:9::1/64 dev veth7 nodad", false},
		{"add 10.0.0.101/32 dev eth0", false},
		{"add 10.0.0.100/32 dev lo", true},
		{"add 10.9.0.2/32 peer 10.0.0.100 dev veth7", false}, // the peer's address
		{"add 2001:db8::100/128 dev lo nodad", true},
		{"del 10.9.0.1/24 dev veth7", false},
		{"del 10.0.0.100/32 dev lo", true},
	} {
		host.Run(append([]string{"ip", "address"}, strings.Fields(step.change)...)...)
		woken := false
		select {
		case <-events:
			woken = true
		case <-time.After(map[bool]time.Duration{false: 200 * time.Millisecond, true: 5 * time.Second}[step.wakes]):
		}
		if woken != step.wakes {
			t.Errorf("address %s: woken %t, want %t", step.change, woken, step.wakes)
		}
	}
}
