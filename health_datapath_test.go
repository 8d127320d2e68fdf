package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func testSegment(from, to string, seq, ack uint32, flags uint8) segment {
	return segment{netip.MustParseAddrPort(from), netip.MustParseAddrPort(to), seq, ack, flags}
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

// timeExceeded wraps a packet into the ICMP error of a router.
func timeExceeded(packet []byte, is6 bool) []byte {
	message := append([]byte{icmpTimeExceeded, 0, 0, 0, 0, 0, 0, 0}, packet...)
	if is6 {
		message[0] = icmp6TimeExceeded
		ip := append([]byte{0x60, 0, 0, 0, byte(len(message) >> 8), byte(len(message)), unix.IPPROTO_ICMPV6, 64}, make([]byte, 32)...)
		return append(ip, message...)
	}
	ip := append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_ICMP}, make([]byte, 10)...)
	return append(ip, message...)
}

// wirePackets are packets as they may arrive, and what they mean to a prober
// with port 40000.
func wirePackets() []struct {
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
	for _, test := range wirePackets() {
		got, ok := parseAnswer(test.packet, test.is6)
		if ok != (test.want != nil) || ok && got != *test.want {
			t.Errorf("%s: %+v, %t; want %+v", test.name, got, ok, test.want)
		}
	}
}

// The filter lets through what may be an answer, and little else.
func TestAnswerFilter(t *testing.T) {
	vms := make(map[bool]*bpf.VM)
	for _, is6 := range []bool{false, true} {
		var program []bpf.Instruction
		for _, f := range answerFilter(is6, 40000) {
			program = append(program, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		vms[is6] = vm
	}
	for _, test := range wirePackets() {
		n, err := vms[test.is6].Run(test.packet)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 != test.passes {
			t.Errorf("%s: passes %t, want %t", test.name, n > 0, test.passes)
		}
	}
}

// An answer counts when it answers a SYN of ours, in every part.
func TestDataPathAnswers(t *testing.T) {
	const token = 0x01020304
	from := func(change func(*segment)) []byte {
		s := testSegment("10.0.0.100:80", "10.0.0.9:40000", 7, token+1, tcpSYN|tcpACK)
		change(&s)
		return s.packet()
	}
	expired := func(change func(*segment)) []byte {
		s := testSegment("10.0.0.9:40000", "10.0.0.100:80", token, 0, tcpSYN)
		change(&s)
		return timeExceeded(s.packet(), false)
	}
	for _, test := range []struct {
		name   string
		packet []byte
		want   string // "" = passed, "-" = is nothing
	}{
		{"SYN and ACK", from(func(s *segment) {}), ""},
		{"RST", from(func(s *segment) { s.Flags = tcpRST | tcpACK }), "10.0.0.100:80 through the node: connection refused"},
		{"RST without ACK", from(func(s *segment) { s.Flags = tcpRST }), "-"},
		{"ACK alone", from(func(s *segment) { s.Flags = tcpACK }), "-"},
		{"another address", from(func(s *segment) { s.From = netip.MustParseAddrPort("10.0.0.101:80") }), "-"},
		{"another port", from(func(s *segment) { s.From = netip.MustParseAddrPort("10.0.0.100:81") }), "-"},
		{"to another port", from(func(s *segment) { s.To = netip.MustParseAddrPort("10.0.0.9:40001") }), "-"},
		{"another number", from(func(s *segment) { s.Ack++ }), "-"},
		{"time exceeded", expired(func(s *segment) {}), "10.0.0.100:80 through the node: the node does not have the VIP on its lo: it would pass the packet on"},
		{"time exceeded to another", expired(func(s *segment) { s.To = netip.MustParseAddrPort("10.0.0.101:80") }), "-"},
		{"time exceeded from another", expired(func(s *segment) { s.From = netip.MustParseAddrPort("10.0.0.9:40001") }), "-"},
		{"time exceeded for another", expired(func(s *segment) { s.Seq++ }), "-"},
	} {
		p := newProber(slog.New(slog.DiscardHandler), newLatest[ProbePlan](), newLatest[Health]())
		p.path = newDataPath(p)
		probes := Probes{DataPath: true, Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1, ConnectsPerSecond: 1}
		p.schedule.replan(&ProbePlan{VIPs: []ProbedVIP{{
			Name: "edge", Probes: &probes, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.100")}, DataPort: 80,
			Servers: []ProbedServer{{Address: netip.MustParseAddr("10.0.0.11")}},
		}}}, p.now().Add(-time.Hour))
		begin, _ := p.schedule.due(p.now())
		asked := begin[0]
		asked.flight = &flight{fd: -1, step: stepAnswer, token: token}
		p.path.tokens[token] = asked

		p.path.answer(&wire{fd: -1, port: 40000}, test.packet, &unix.SockaddrLinklayer{})
		switch {
		case test.want == "-":
			if !asked.inFlight || p.path.tokens[token] != asked {
				t.Errorf("%s: counts", test.name)
			}
		case asked.inFlight || len(p.path.tokens) > 0:
			t.Errorf("%s: does not count", test.name)
		case asked.why != test.want || (asked.state == up) != (test.want == ""):
			t.Errorf("%s: %q, want %q", test.name, asked.why, test.want)
		}
	}
}

// Whatever is on the wire: no byte is looked at that is not there, and what the
// prober sends is understood.
func FuzzParseAnswer(f *testing.F) {
	for _, p := range wirePackets() {
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

func TestNetworkOrder(t *testing.T) {
	if got := binary.NativeEndian.AppendUint16(nil, networkOrder(0x1234)); !bytes.Equal(got, []byte{0x12, 0x34}) {
		t.Errorf("% x in memory", got)
	}
}
