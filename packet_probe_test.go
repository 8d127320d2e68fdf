package main

import (
	"encoding/hex"
	"testing"

	"golang.org/x/sys/unix"
)

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
