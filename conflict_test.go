package main

import (
	"bytes"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/bpf"
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

type claimFrame struct {
	name   string
	frame  []byte
	is6    bool
	want   *claim // nil: none
	passes bool   // the filter for 10.0.0.100 and 2001:db8::100
}

// claimFrames are frames as they may arrive.
func claimFrames() []claimFrame {
	v4, v6 := addr("10.0.0.100"), addr("2001:db8::100")
	edit := func(b []byte, change func([]byte) []byte) []byte { return change(append([]byte(nil), b...)) }
	set := func(i int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[i] = v; return b }
	}
	is4, is6 := &claim{Address: v4, MAC: otherMAC}, &claim{Address: v6, MAC: otherMAC}
	reply := gratuitousARP(otherMAC, v4, arpReply)
	asks := arpFrame(arpRequest, otherMAC, v4, [6]byte{}, addr("10.0.0.1"))
	na := unsolicitedNA(otherMAC, v6)
	bare := edit(na, func(b []byte) []byte { b[frameBody+5] -= 8; return b[:len(b)-8] })
	return []claimFrame{
		{"gratuitous request", gratuitousARP(otherMAC, v4, arpRequest), false, is4, true},
		{"gratuitous reply", reply, false, is4, true},
		{"padded", append(append([]byte(nil), reply...), make([]byte, 18)...), false, is4, true},
		{"request for another", asks, false, &claim{Address: v4, MAC: otherMAC, Asks: true}, true},
		{"probe", arpProbe(otherMAC, v4), false, nil, false},
		{"another address", gratuitousARP(otherMAC, addr("10.0.0.101"), arpReply), false, &claim{Address: addr("10.0.0.101"), MAC: otherMAC}, false},
		{"no MAC address", gratuitousARP([6]byte{}, v4, arpReply), false, nil, true},
		{"RARP", edit(reply, set(arpOperation+1, 4)), false, nil, true},
		{"another hardware", edit(reply, set(frameBody+1, 6)), false, nil, false},
		{"another protocol", edit(reply, set(frameBody+2, 9)), false, nil, false},
		{"odd lengths", edit(reply, set(frameBody+4, 8)), false, nil, true},
		{"cut short", reply[:arpEnd-1], false, nil, true},
		{"cut in the sender", reply[:arpSender+3], false, nil, false},
		{"not ARP", edit(reply, set(13, 0)), false, nil, true},
		{"nothing", nil, false, nil, false},

		{"advertisement", na, true, is6, true},
		{"without the option", bare, true, is6, true},
		{"the option and not the frame counts", edit(na, set(6, 0x0a)), true, is6, true},
		{"with padding", append(append([]byte(nil), bare...), make([]byte, 8)...), true, is6, true},
		{"solicitation", dadSolicitation(otherMAC, v6), true, nil, false},
		{"another target", unsolicitedNA(otherMAC, addr("2001:db8::101")), true, &claim{Address: addr("2001:db8::101"), MAC: otherMAC}, false},
		{"another network", unsolicitedNA(otherMAC, addr("2001:db9::100")), true, &claim{Address: addr("2001:db9::100"), MAC: otherMAC}, false},
		{"from behind a router", edit(na, set(ip6HopLimit, 254)), true, nil, true},
		{"another code", edit(na, set(ndType+1, 1)), true, nil, true},
		{"UDP", edit(na, set(ip6NextHeader, unix.IPPROTO_UDP)), true, nil, false},
		{"not version 6", edit(na, set(frameBody, 0x40)), true, nil, true},
		{"an option without length", edit(na, set(ndOptions+1, 0)), true, nil, true},
		{"an option that is too long", edit(na, set(ndOptions+1, 2)), true, nil, true},
		{"more promised than there is", edit(na, set(frameBody+5, 40)), true, nil, true},
		{"less promised than a target takes", edit(na, set(frameBody+5, 16)), true, nil, true},
		{"half an option", edit(na, set(frameBody+5, 28)), true, nil, true},
		{"cut in the target", na[:ndOptions-1], true, nil, false},
	}
}

func TestParseClaim(t *testing.T) {
	for _, test := range claimFrames() {
		got, ok := parseClaim(test.frame)
		if ok != (test.want != nil) || ok && got != *test.want {
			t.Errorf("%s: %+v, %t; want %+v", test.name, got, ok, test.want)
		}
	}
}

// The filter lets through claims to its addresses, wherever they stand in the
// list, and all claims when there are too many addresses to compare.
func TestConflictFilter(t *testing.T) {
	lists := map[bool][]netip.Addr{
		false: {addr("10.0.0.7"), addr("10.0.0.100"), addr("10.0.0.200")},
		true:  {addr("2001:db8::7"), addr("2001:db8::100"), addr("2001:db8:1::100")},
	}
	many := map[bool][]netip.Addr{false: make([]netip.Addr, maxFiltered+1), true: make([]netip.Addr, maxFiltered+1)}
	for _, test := range claimFrames() {
		for _, list := range []map[bool][]netip.Addr{lists, many} {
			raw, err := conflictFilter(test.is6, list[test.is6])
			if err != nil {
				t.Fatal(err)
			}
			var program []bpf.Instruction
			for _, r := range raw {
				program = append(program, r.Disassemble())
			}
			vm, err := bpf.NewVM(program)
			if err != nil {
				t.Fatal(err)
			}
			n, err := vm.Run(test.frame)
			if err != nil {
				t.Fatal(err)
			}
			if len(list[test.is6]) <= maxFiltered && n > 0 != test.passes {
				t.Errorf("%s: passes %t, want %t", test.name, n > 0, test.passes)
			}
			if len(list[test.is6]) > maxFiltered && test.want != nil && n == 0 {
				t.Errorf("%s: does not pass the filter for many addresses", test.name)
			}
		}
	}
}

// Whatever is on the wire: no byte is looked at that is not there, and a claim
// is one that could be sent again.
func FuzzParseClaim(f *testing.F) {
	for _, c := range claimFrames() {
		f.Add(c.frame)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := parseClaim(b[:len(b):len(b)])
		if !ok {
			return
		}
		frame := unsolicitedNA(c.MAC, c.Address)
		if c.Address.Is4() {
			frame = gratuitousARP(c.MAC, c.Address, arpReply)
		}
		back, ok := parseClaim(frame)
		if c.Asks = false; !ok || back != c {
			t.Errorf("sent again it is %+v, was %+v", back, c)
		}
	})
}

// Which claims are a conflict, and what is said of it.
func TestConflicts(t *testing.T) {
	const (
		begins = `level=ERROR msg="another host claims the VIP" vip=edge address=`
		ends   = `level=INFO msg="the other host does not claim the VIP any more" vip=edge address=`
	)
	v4, v6 := addr("10.0.0.100"), addr("2001:db8::100")
	both := map[place]holding{{2, v4}: {vip: "edge", device: "eth0"}, {2, v6}: {vip: "edge", device: "eth0"}}
	type step struct {
		at     time.Duration
		hold   bool // exchange what is held for held
		held   map[place]holding
		device int
		claim  claim
		log    []string // how its lines begin
	}
	hears := func(at time.Duration, a netip.Addr, mac macAddress, log ...string) step {
		return step{at: at, device: 2, claim: claim{Address: a, MAC: mac}, log: log}
	}
	const other4, other6 = "10.0.0.100 device=eth0 mac=02:00:00:00:00:02", "2001:db8::100 device=eth0 mac=02:00:00:00:00:02"
	for _, test := range []struct {
		name   string
		steps  []step
		active int
		begun  uint64
	}{
		{"one claim", []step{hears(0, v4, otherMAC)}, 0, 0},
		{"a hand-over: claims within the grace", []step{hears(0, v4, otherMAC), hears(time.Second, v4, otherMAC), hears(1900*time.Millisecond, v4, otherMAC)}, 0, 0},
		{"it stays", []step{
			hears(0, v4, otherMAC),
			hears(2*time.Second, v4, otherMAC, begins+other4+` why="two directors have the VIP, or the address is used twice"`),
			hears(5*time.Second, v4, otherMAC),
		}, 1, 1},
		{"over IPv6", []step{hears(0, v6, otherMAC), hears(2*time.Second, v6, otherMAC, begins+other6)}, 1, 1},
		{"our own MAC address", []step{hears(0, v4, ownMAC), hears(9*time.Second, v4, ownMAC)}, 0, 0},
		{"an address that is not here", []step{hears(0, addr("10.0.0.7"), otherMAC), hears(9*time.Second, addr("10.0.0.7"), otherMAC)}, 0, 0},
		{"another device", []step{
			{device: 3, claim: claim{Address: v4, MAC: otherMAC}},
			{at: 9 * time.Second, device: 3, claim: claim{Address: v4, MAC: otherMAC}},
		}, 0, 0},
		{"each host and address is one", []step{
			hears(0, v4, otherMAC), hears(0, v6, otherMAC), hears(0, v4, macAddress{2, 0, 0, 0, 0, 3}),
			hears(3*time.Second, v4, otherMAC, begins+other4),
			hears(3*time.Second, v6, otherMAC, begins+other6),
			hears(3*time.Second, v4, macAddress{2, 0, 0, 0, 0, 3}, begins),
		}, 3, 3},
		{"silent, and again", []step{
			hears(0, v4, otherMAC),
			hears(2*time.Second, v4, otherMAC, begins+other4),
			{at: 31 * time.Second},
			{at: 32 * time.Second, log: []string{ends + other4 + ` after=30s why="not heard any more"`}},
			hears(33*time.Second, v4, otherMAC),
			hears(36*time.Second, v4, otherMAC, begins+other4),
		}, 1, 2},
		{"two claims far apart", []step{hears(0, v4, otherMAC), {at: 30 * time.Second}, hears(31*time.Second, v4, otherMAC)}, 0, 0},
		{"this director gives way", []step{
			hears(0, v4, otherMAC),
			hears(2*time.Second, v4, otherMAC, begins+other4),
			{at: 5 * time.Second, hold: true, log: []string{ends + other4 + ` after=3s why="this director does not have the VIP any more"`}},
			hears(6*time.Second, v4, otherMAC),
			hears(9*time.Second, v4, otherMAC),
		}, 0, 1},
		{"a claim from before it was lost", []step{
			hears(0, v4, otherMAC),
			{at: time.Second, hold: true},
			{at: 2 * time.Second, hold: true, held: both},
			hears(3*time.Second, v4, otherMAC),
		}, 0, 0},
		{"a node that answers", []step{
			hears(0, v4, macAddress{2, 0, 0, 0, 0, 11}),
			hears(3*time.Second, v4, macAddress{2, 0, 0, 0, 0, 11}, begins+`10.0.0.100 device=eth0 mac=02:00:00:00:00:0b host=10.0.0.11 why="a real server that answers ARP for the VIP: its arp_ignore is not set`),
		}, 1, 1},
		{"a node that asks", []step{
			{device: 2, claim: claim{Address: v4, MAC: macAddress{2, 0, 0, 0, 0, 11}, Asks: true}},
			{at: 3 * time.Second, device: 2, claim: claim{Address: v4, MAC: macAddress{2, 0, 0, 0, 0, 11}, Asks: true},
				log: []string{begins + `10.0.0.100 device=eth0 mac=02:00:00:00:00:0b host=10.0.0.11 why="a real server that sends ARP requests from the VIP: its arp_announce is not set`}},
		}, 1, 1},
		{"a node that advertises", []step{
			hears(0, v6, macAddress{2, 0, 0, 0, 0, 11}),
			hears(3*time.Second, v6, macAddress{2, 0, 0, 0, 0, 11}, begins+`2001:db8::100 device=eth0 mac=02:00:00:00:00:0b host=10.0.0.11 why="a real server that has the VIP on its uplink`),
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
			b.hold(both, own, start)
			for i, s := range test.steps {
				now := start.Add(s.at)
				log.Reset()
				b.expire(now)
				if s.hold {
					b.hold(s.held, own, now)
				}
				if s.claim != (claim{}) {
					b.hear(s.device, s.claim, now)
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
	b.hold(map[place]holding{at: {vip: "edge", device: "eth0"}}, nil, now)
	for range 2 {
		for i := range 1000 {
			b.hear(2, claim{Address: at.address, MAC: macAddress{2, 0, 0, 0, byte(i >> 8), byte(i)}}, now)
		}
		now = now.Add(3 * time.Second)
	}
	if got := len(b.seen().Active); got != maxClaimants {
		t.Errorf("%d conflicts are remembered, want %d", got, maxClaimants)
	}
}

// The example of several pairs is valid as it stands, and the two share nothing
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
