// Other hosts that claim a VIP: what counts as a claim, and the watch on a real segment,
// which needs root.

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var (
	ownMAC   = macAddress{0x02, 0, 0, 0, 0, 0x01}
	otherMAC = macAddress{0x02, 0, 0, 0, 0, 0x02}
)

// The questions, byte for byte, as RFC 5227, 4861 and 4862 have them.
func TestConflictQuestions(t *testing.T) {
	mac := [6]byte{0x02, 0x00, 0x5e, 0x10, 0x20, 0x30}
	for _, test := range []struct {
		name string
		got  []byte
		want string
	}{
		{"ARP probe", arpProbe(mac, addr("10.135.22.77")),
			"ffffffffffff 02005e102030 0806" +
				"0001 0800 06 04 0001" +
				"02005e102030 00000000" +
				"000000000000 0a87164d"},
		// The words of pseudo-header and body add up to 0x31bcc; folded that is
		// 0x1bcf, inverted 0xe430.
		{"duplicate address detection", dadSolicitation(mac, addr("2001:db8::12:344d")),
			"3333ff12344d 02005e102030 86dd" +
				"60000000 0018 3a ff" +
				"00000000000000000000000000000000" +
				"ff0200000000000000000001ff12344d" +
				"87 00 e430 00000000" +
				"20010db800000000000000000012344d"},
	} {
		if diff := cmp.Diff(strings.ReplaceAll(test.want, " ", ""), hex.EncodeToString(test.got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// Which claims are a conflict, and what is said of it.
func TestConflicts(t *testing.T) {
	const (
		begins = `level=ERROR msg="another host claims the VIP" vip=edge address=`
		ends   = `level=INFO msg="the other host does not claim the VIP any more" vip=edge address=`
	)
	v4, v6 := addr("10.0.0.100"), addr("2001:db8::100")
	both := map[place]localVIP{{2, v4}: {vip: "edge", device: "eth0"}, {2, v6}: {vip: "edge", device: "eth0"}}
	type step struct {
		at     time.Duration
		change bool // the VIPs become vips
		vips   map[place]localVIP
		device int
		claim  claim
		log    []string // how its lines begin
	}
	claims := func(at time.Duration, a netip.Addr, mac macAddress, log ...string) step {
		return step{at: at, device: 2, claim: claim{Address: a, MAC: mac}, log: log}
	}
	const other4, other6 = "10.0.0.100 device=eth0 mac=02:00:00:00:00:02", "2001:db8::100 device=eth0 mac=02:00:00:00:00:02"
	for _, test := range []struct {
		name   string
		steps  []step
		active int
		begun  uint64
	}{
		{"one claim", []step{claims(0, v4, otherMAC)}, 0, 0},
		{"a hand-over: claims within the grace", []step{claims(0, v4, otherMAC), claims(time.Second, v4, otherMAC), claims(1900*time.Millisecond, v4, otherMAC)}, 0, 0},
		{"it stays", []step{
			claims(0, v4, otherMAC),
			claims(2*time.Second, v4, otherMAC, begins+other4+` why="two directors have the VIP, or the address is used twice"`),
			claims(5*time.Second, v4, otherMAC),
		}, 1, 1},
		{"over IPv6", []step{claims(0, v6, otherMAC), claims(2*time.Second, v6, otherMAC, begins+other6)}, 1, 1},
		{"our own MAC address", []step{claims(0, v4, ownMAC), claims(9*time.Second, v4, ownMAC)}, 0, 0},
		{"an address that is not here", []step{claims(0, addr("10.0.0.7"), otherMAC), claims(9*time.Second, addr("10.0.0.7"), otherMAC)}, 0, 0},
		{"another device", []step{
			{device: 3, claim: claim{Address: v4, MAC: otherMAC}},
			{at: 9 * time.Second, device: 3, claim: claim{Address: v4, MAC: otherMAC}},
		}, 0, 0},
		{"each host and address is one", []step{
			claims(0, v4, otherMAC), claims(0, v6, otherMAC), claims(0, v4, macAddress{2, 0, 0, 0, 0, 3}),
			claims(3*time.Second, v4, otherMAC, begins+other4),
			claims(3*time.Second, v6, otherMAC, begins+other6),
			claims(3*time.Second, v4, macAddress{2, 0, 0, 0, 0, 3}, begins),
		}, 3, 3},
		{"silent, and again", []step{
			claims(0, v4, otherMAC),
			claims(2*time.Second, v4, otherMAC, begins+other4),
			{at: 31 * time.Second},
			{at: 32 * time.Second, log: []string{ends + other4 + ` after=30s why="the host is silent"`}},
			claims(33*time.Second, v4, otherMAC),
			claims(36*time.Second, v4, otherMAC, begins+other4),
		}, 1, 2},
		{"two claims far apart", []step{claims(0, v4, otherMAC), {at: 30 * time.Second}, claims(31*time.Second, v4, otherMAC)}, 0, 0},
		{"this director gives way", []step{
			claims(0, v4, otherMAC),
			claims(2*time.Second, v4, otherMAC, begins+other4),
			{at: 5 * time.Second, change: true, log: []string{ends + other4 + ` after=3s why="this director does not have the VIP any more"`}},
			claims(6*time.Second, v4, otherMAC),
			claims(9*time.Second, v4, otherMAC),
		}, 0, 1},
		{"a claim from before it was lost", []step{
			claims(0, v4, otherMAC),
			{at: time.Second, change: true},
			{at: 2 * time.Second, change: true, vips: both},
			claims(3*time.Second, v4, otherMAC),
		}, 0, 0},
		{"a node that answers", []step{
			claims(0, v4, macAddress{2, 0, 0, 0, 0, 11}),
			claims(3*time.Second, v4, macAddress{2, 0, 0, 0, 0, 11}, begins+`10.0.0.100 device=eth0 mac=02:00:00:00:00:0b host=10.0.0.11 why="a real server that answers ARP for the VIP: its arp_ignore is not set`),
		}, 1, 1},
		{"a node that asks", []step{
			{device: 2, claim: claim{Address: v4, MAC: macAddress{2, 0, 0, 0, 0, 11}, Asks: true}},
			{at: 3 * time.Second, device: 2, claim: claim{Address: v4, MAC: macAddress{2, 0, 0, 0, 0, 11}, Asks: true},
				log: []string{begins + `10.0.0.100 device=eth0 mac=02:00:00:00:00:0b host=10.0.0.11 why="a real server that sends ARP requests from the VIP: its arp_announce is not set`}},
		}, 1, 1},
		{"a node that advertises", []step{
			claims(0, v6, macAddress{2, 0, 0, 0, 0, 11}),
			claims(3*time.Second, v6, macAddress{2, 0, 0, 0, 0, 11}, begins+`2001:db8::100 device=eth0 mac=02:00:00:00:00:0b host=10.0.0.11 why="a real server that has the VIP on its uplink`),
		}, 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := new(bytes.Buffer)
			b := newConflicts(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})))
			b.servers = func() map[netip.Addr]bool { return map[netip.Addr]bool{addr("10.0.0.11"): true} }
			b.hosts = func(device int, mac macAddress) []netip.Addr {
				if device == 2 && mac[5] == 11 {
					return []netip.Addr{addr("fe80::1"), addr("10.0.0.11")}
				}
				return nil
			}
			start := time.Unix(1e9, 0)
			own := map[macAddress]bool{ownMAC: true}
			b.setVIPs(both, own, start)
			for i, s := range test.steps {
				now := start.Add(s.at)
				log.Reset()
				b.expire(now)
				if s.change {
					b.setVIPs(s.vips, own, now)
				}
				if s.claim != (claim{}) {
					b.receive(s.device, s.claim, now)
				}
				var lines []string
				if log.Len() > 0 {
					lines = strings.Split(strings.TrimSpace(log.String()), "\n")
				}
				if len(lines) != len(s.log) {
					t.Fatalf("step %d: log %q, want %q", i, lines, s.log)
				}
				for j := range lines {
					if !strings.HasPrefix(lines[j], s.log[j]) {
						t.Errorf("step %d: log %q, want %q", i, lines[j], s.log[j])
					}
				}
			}
			p := b.seen()
			if got := p.Begun[v4] + p.Begun[v6]; len(p.Active) != test.active || got != test.begun {
				t.Errorf("%d active, %d begun; want %d and %d", len(p.Active), got, test.active, test.begun)
			}
		})
	}
}

// What is sent from outside does not fill the memory.
func TestConflictsAreBounded(t *testing.T) {
	b := newConflicts(slog.New(slog.DiscardHandler))
	b.hosts = func(int, macAddress) []netip.Addr { return nil }
	b.servers = func() map[netip.Addr]bool { return nil }
	now := time.Unix(1e9, 0)
	at := place{2, addr("10.0.0.100")}
	b.setVIPs(map[place]localVIP{at: {vip: "edge", device: "eth0"}}, nil, now)
	for range 2 {
		for i := range 1000 {
			b.receive(2, claim{Address: at.address, MAC: macAddress{2, 0, 0, 0, byte(i >> 8), byte(i)}}, now)
		}
		now = now.Add(3 * time.Second)
	}
	if got := len(b.seen().Active); got != maxClaimants {
		t.Errorf("%d conflicts are remembered, want %d", got, maxClaimants)
	}
}

// The example of several pairs is valid as printed, and the two share nothing
// that two pairs must not share.
func TestSeveralPairsExample(t *testing.T) {
	page, err := os.ReadFile("docs/high-availability.md")
	if err != nil {
		t.Fatal(err)
	}
	var pairs []*Config
	for _, m := range regexp.MustCompile("(?s)```toml\n(# [^\n]*of pair .*?)```").FindAllStringSubmatch(string(page), -1) {
		cfg, err := ParseConfig("config.toml", []byte(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, cfg)
	}
	if len(pairs) != 2 {
		t.Fatalf("%d files, want 2", len(pairs))
	}
	a, b := pairs[0], pairs[1]
	if a.Sync.ID == b.Sync.ID || a.Sync.Group == b.Sync.Group || a.Sync.ID == 0 || b.Sync.ID == 0 {
		t.Errorf("sync daemons %+v and %+v", a.Sync, b.Sync)
	}
	for _, v := range a.VIPs[0].Addresses {
		if slices.Contains(b.VIPs[0].Addresses, v) {
			t.Errorf("both have %s", v)
		}
	}
}

// startConflictWatch runs a watch for both VIPs inside a namespace, until the
// test ends.
func (ns netns) startConflictWatch(t *testing.T) (*conflictWatch, *lockedBuffer) {
	t.Helper()
	log := new(lockedBuffer)
	changed := make(chan struct{}, 1)
	configs := newLatest[Config](changed)
	configs.Set(&Config{VIPs: []VIP{{Name: "edge", Addresses: []netip.Addr{addr("10.0.0.100"), addr("2001:db8::100")}}}})
	w := newConflictWatch(slog.New(slog.NewTextHandler(log, nil)), configs, changed,
		func() map[netip.Addr]bool { return map[netip.Addr]bool{addr("10.0.0.12"): true} },
		func(map[netip.Addr]bool) string { return "" })
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
	t.Parallel()
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
		lab.Within(t, 10*time.Second, func() string { // the snapshot follows the log
			p := w.record.seen()
			if len(p.Active) != 2 || p.Begun[addr("10.0.0.100")] != 1 || p.Begun[addr("2001:db8::100")] != 1 {
				return fmt.Sprintf("snapshot: %+v", p)
			}
			return ""
		})
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
	lab.Within(t, 10*time.Second, func() string {
		if p := watchA.record.seen(); len(p.Active) > 0 {
			return fmt.Sprintf("still active: %+v", p.Active)
		}
		return ""
	})
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
	w := newConflictWatch(slog.New(slog.NewTextHandler(log, nil)), configs, nil, nil, nil)
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

// A director that is a real server of its VIP says so, once, when a second director is
// likely and what comes from it would be balanced again.
func TestConflictWatchWarnsOfLoops(t *testing.T) {
	shards := func(servers ...string) shards {
		s := Service{VirtualService: VirtualService{ServiceKey: ServiceKey{Address: addr("10.0.0.100"), Protocol: TCP, Port: 80}}}
		for _, a := range servers {
			s.Servers = append(s.Servers, Row{RealServer: RealServer{Address: addr(a), Forward: DirectRoute}})
		}
		return []shard{{Services: Table{s}}}
	}
	for name, tt := range map[string]struct {
		cfg     Config
		servers []string
		warns   bool
	}{
		"keepalived":           {Config{VIPs: []VIP{{Announce: AnnounceNone}}}, []string{"10.0.0.2", "10.0.0.3"}, true},
		"sync daemons":         {Config{VIPs: []VIP{{Announce: AnnounceARP}}, Sync: new(SyncDaemon)}, []string{"10.0.0.2", "10.0.0.3"}, true},
		"likely alone":         {Config{VIPs: []VIP{{Announce: AnnounceARP}}}, []string{"10.0.0.2", "10.0.0.3"}, false},
		"peer_macs":            {Config{VIPs: []VIP{{Announce: AnnounceNone}}, PeerMACs: []macAddress{{2}}}, []string{"10.0.0.2", "10.0.0.3"}, false},
		"it serves alone":      {Config{VIPs: []VIP{{Announce: AnnounceNone}}}, []string{"10.0.0.2"}, false},
		"it is no real server": {Config{VIPs: []VIP{{Announce: AnnounceNone}}}, []string{"10.0.0.4", "10.0.0.3"}, false},
	} {
		log := new(lockedBuffer)
		configs := newLatest[Config]()
		configs.Set(&tt.cfg)
		state := &loopState{Shards: shards(tt.servers...)}
		w := newConflictWatch(slog.New(slog.NewTextHandler(log, nil)), configs, nil, nil, state.ServesWithOthers)
		w.addresses = map[netip.Addr]bool{addr("10.0.0.2"): true}
		w.warnLoop()
		w.warnLoop()
		if n := strings.Count(log.String(), "packets may loop between them; set peer_macs\" server=10.0.0.2\n"); n != map[bool]int{true: 1}[tt.warns] {
			t.Errorf("%s: %d warnings\n%s", name, n, log)
		}
	}
}
