package main

import (
	"bytes"
	"encoding/binary"
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
	for _, test := range answerPackets() {
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
		asked.attempt = &attempt{fd: -1, waits: waitsForSYN, token: token}
		p.path.tokens[token] = asked

		p.path.answer(&rawSocket{fd: -1, port: 40000}, test.packet, &unix.SockaddrLinklayer{})
		switch {
		case test.want == "-":
			if !asked.running || p.path.tokens[token] != asked {
				t.Errorf("%s: counts", test.name)
			}
		case asked.running || len(p.path.tokens) > 0:
			t.Errorf("%s: does not count", test.name)
		case asked.why != test.want || (asked.state == up) != (test.want == ""):
			t.Errorf("%s: %q, want %q", test.name, asked.why, test.want)
		}
	}
}

func TestNetworkOrder(t *testing.T) {
	if got := binary.NativeEndian.AppendUint16(nil, networkOrder(0x1234)); !bytes.Equal(got, []byte{0x12, 0x34}) {
		t.Errorf("% x in memory", got)
	}
}
