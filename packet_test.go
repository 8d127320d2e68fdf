// The frames of announcements, claims and probes, built and parsed.

package main

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func TestAnnouncementFrames(t *testing.T) {
	mac := [6]byte{0x02, 0x00, 0x5e, 0x10, 0x20, 0x30}
	v4 := netip.MustParseAddr("10.135.22.77")
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"request", gratuitousARP(mac, v4, arpRequest),
			"ffffffffffff 02005e102030 0806" +
				"0001 0800 06 04 0001" +
				"02005e102030 0a87164d" +
				"000000000000 0a87164d"},
		{"reply", gratuitousARP(mac, v4, arpReply),
			"ffffffffffff 02005e102030 0806" +
				"0001 0800 06 04 0002" +
				"02005e102030 0a87164d" +
				"02005e102030 0a87164d"},
		// The words of pseudo-header and body add up to 0x285aa; folded that
		// is 0x85ac, inverted 0x7a53.
		{"neighbour advertisement", unsolicitedNA(mac, netip.MustParseAddr("2001:db8::4d")),
			"333300000001 02005e102030 86dd" +
				"60000000 0020 3a ff" +
				"20010db800000000000000000000004d" +
				"ff020000000000000000000000000001" +
				"88 00 7a53 20000000" +
				"20010db800000000000000000000004d" +
				"02 01 02005e102030"},
	} {
		want := strings.ReplaceAll(tt.want, " ", "")
		if diff := cmp.Diff(want, hex.EncodeToString(tt.got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
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

// The filter lets through claims to its addresses, at any place of the
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

// For any packet: no byte is read that is not there, and a claim
// is one that could be sent again.
func FuzzParseClaim(f *testing.F) {
	for _, c := range claimFrames() {
		f.Add(c.frame)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
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

// The packets, byte for byte, as RFC 791, 8200 and 9293 have them.
func TestProbePackets(t *testing.T) {
	for _, test := range []struct {
		name string
		segment
		want string
	}{
		{"SYN", testSegment("10.0.0.9:40000", "10.0.0.100:80", 0x01020304, 0, tcpSYN),
			"4500002c00004000" + "01066560" + "0a000009" + "0a000064" + // hop limit 1, TCP, checksum, addresses
				"9c400050" + "01020304" + "00000000" + "6002faf0" + "e8320000" + "020405b4"}, // segment size 1460
		{"RST", testSegment("10.0.0.9:40000", "10.0.0.100:80", 0xfffffffe, 0, tcpRST),
			"4500002800004000" + "01066564" + "0a000009" + "0a000064" +
				"9c400050" + "fffffffe" + "00000000" + "50040000" + "fee40000"},
		{"SYN over IPv6", testSegment("[2001:db8::9]:40000", "[2001:db8::100]:443", 0x01020304, 0, tcpSYN),
			"6000000000180601" + "20010db8000000000000000000000009" + "20010db8000000000000000000000100" +
				"9c4001bb" + "01020304" + "00000000" + "6002faf0" + "9ecd0000" + "020405a0"}, // 1440
	} {
		if got := hex.EncodeToString(test.packet()); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.name, got, test.want)
		}
	}
}

// answerPackets are packets as they may arrive, and what they mean to a prober
// with port 40000.
func answerPackets() []struct {
	name   string
	packet []byte
	is6    bool
	want   *answer // nil: none
	passes bool    // the filter
} {
	type packet = struct {
		name   string
		packet []byte
		is6    bool
		want   *answer
		passes bool
	}
	synAck := testSegment("10.0.0.100:80", "10.0.0.9:40000", 7, 0x01020305, tcpSYN|tcpACK)
	synAck6 := testSegment("[2001:db8::100]:443", "[2001:db8::9]:40000", 7, 0x01020305, tcpSYN|tcpACK)
	other := testSegment("10.0.0.100:80", "10.0.0.9:40001", 7, 8, tcpACK)
	sent := testSegment("10.0.0.9:40000", "10.0.0.100:80", 0x01020304, 0, tcpSYN)
	sent6 := testSegment("[2001:db8::9]:40000", "[2001:db8::100]:443", 0x01020304, 0, tcpSYN)
	stripped := func(s segment) segment { s.Flags = 0; return s }
	edit := func(b []byte, change func([]byte) []byte) []byte { return change(append([]byte(nil), b...)) }
	set := func(i int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[i] = v; return b }
	}
	options := func(b []byte) []byte { // an IPv4 header of 24 bytes
		b[0] = 0x46
		return append(b[:20:20], append([]byte{1, 1, 1, 1}, b[20:]...)...)
	}
	return []packet{
		{"SYN and ACK", synAck.packet(), false, &answer{segment: synAck}, true},
		{"SYN and ACK over IPv6", synAck6.packet(), true, &answer{segment: synAck6}, true},
		{"with IP options", edit(synAck.packet(), options), false, &answer{segment: synAck}, true},
		{"to another port", other.packet(), false, &answer{segment: other}, false},
		{"a later fragment", edit(synAck.packet(), set(7, 1)), false, nil, false},
		{"UDP", edit(synAck.packet(), set(9, unix.IPPROTO_UDP)), false, nil, false},
		{"UDP over IPv6", edit(synAck6.packet(), set(6, unix.IPPROTO_UDP)), true, nil, false},
		{"the other version", edit(synAck.packet(), set(0, 0x65)), false, nil, true},
		{"the other version over IPv6", edit(synAck6.packet(), set(0, 0x40)), true, nil, true},
		{"a header that is too short", edit(synAck.packet(), set(0, 0x44)), false, nil, false},
		{"a header that is too long", edit(synAck.packet(), set(0, 0x4f)), false, nil, false},
		{"cut in the IP header", synAck.packet()[:19], false, nil, false},
		{"cut in the IPv6 header", synAck6.packet()[:39], true, nil, false},
		{"cut in the TCP header", synAck.packet()[:39], false, nil, true},
		{"nothing", nil, false, nil, false},
		{"time exceeded", timeExceeded(sent.packet(), false), false, &answer{segment: stripped(sent), expired: true}, true},
		{"time exceeded over IPv6", timeExceeded(sent6.packet(), true), true, &answer{segment: stripped(sent6), expired: true}, true},
		{"time exceeded, the least of it", timeExceeded(sent.packet()[:28], false), false, &answer{segment: stripped(sent), expired: true}, true},
		{"time exceeded, less than that", timeExceeded(sent.packet()[:27], false), false, nil, true},
		{"time exceeded for another's packet", timeExceeded(other.packet(), false), false, &answer{segment: testSegment("10.0.0.100:80", "10.0.0.9:40001", 7, 0, 0), expired: true}, false},
		{"time exceeded in reassembly", edit(timeExceeded(sent.packet(), false), set(21, 1)), false, nil, true},
		{"time exceeded for UDP", edit(timeExceeded(sent.packet(), false), set(28+9, unix.IPPROTO_UDP)), false, nil, true},
		{"unreachable", edit(timeExceeded(sent.packet(), false), set(20, 3)), false, nil, false},
		{"unreachable over IPv6", edit(timeExceeded(sent6.packet(), true), set(40, 1)), true, nil, false},
		{"ICMP cut short", timeExceeded(nil, false)[:27], false, nil, false},
	}
}

func TestParseAnswer(t *testing.T) {
	for _, test := range answerPackets() {
		got, ok := parseAnswer(test.packet, test.is6)
		if ok != (test.want != nil) || ok && got != *test.want {
			t.Errorf("%s: %+v, %t; want %+v", test.name, got, ok, test.want)
		}
	}
}

// For any packet: no byte is read that is not there, and what the
// prober sends is understood.
func FuzzParseAnswer(f *testing.F) {
	for _, p := range answerPackets() {
		f.Add(p.packet, p.is6)
	}
	f.Fuzz(func(t *testing.T, b []byte, is6 bool) {
		defer bounded(t, len(b))()
		a, ok := parseAnswer(b[:len(b):len(b)], is6)
		if !ok {
			return
		}
		if a.From.Addr().Is6() != is6 || a.To.Addr().Is6() != is6 || a.expired && (a.Ack != 0 || a.Flags != 0) {
			t.Fatalf("%+v", a)
		}
		back, ok := parseAnswer(a.segment.packet(), is6)
		if a.expired = false; !ok || back != a {
			t.Errorf("sent again it is %+v, was %+v", back, a)
		}
	})
}
