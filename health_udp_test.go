package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"lvs-controller/test/lab"
)

// listenUDP opens one UDP port on 127.0.0.N for each n.
func listenUDP(t *testing.T, hosts ...byte) (port uint16, all []net.PacketConn) {
	t.Helper()
	for _, n := range hosts {
		c, err := net.ListenPacket("udp", netip.AddrPortFrom(loopback(n), port).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		port = netip.MustParseAddrPort(c.LocalAddr().String()).Port()
		all = append(all, c)
	}
	return port, all
}

// replyUDP answers each datagram that c gets with those that of returns.
func replyUDP(c net.PacketConn, of func(q []byte) [][]byte) {
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			for _, a := range of(bytes.Clone(b[:n])) {
				c.WriteTo(a, from)
			}
		}
	}()
}

// reasons are why real servers of h are down, by address.
func reasons(h *Health) map[string]string {
	got := make(map[string]string)
	for k, why := range h.Down {
		got[k.Address.String()] = why
	}
	return got
}

// awaitReasons waits until these servers are down for these reasons, and no others. A busy
// machine may find another reason first, and the right one with the next probe.
func (r *running) awaitReasons(t *testing.T, want map[string]string) {
	t.Helper()
	lab.Within(t, 20*time.Second, func() string {
		if h := r.out.Get(); h != nil {
			return cmp.Diff(want, reasons(h))
		}
		return "nothing is known"
	})
}

// What a UDP server can do gives its own reason. Where no answer is required, silence
// is none.
func TestProbeUDP(t *testing.T) {
	port, conns := listenUDP(t, 1, 2, 3, 4)
	echo := func(q []byte) [][]byte { return [][]byte{append([]byte("got:"), q...)} }
	replyUDP(conns[0], echo)
	conns[1].Close()
	replyUDP(conns[2], func([]byte) [][]byte { return nil })
	replyUDP(conns[3], func([]byte) [][]byte { return [][]byte{[]byte("go away\x00")} })
	for required, want := range map[bool]map[string]string{
		true: {
			"127.0.0.2": fmt.Sprintf("datagram to 127.0.0.2:%d: ICMP port unreachable", port),
			"127.0.0.3": fmt.Sprintf("datagram to 127.0.0.3:%d: no answer in 100ms", port),
			"127.0.0.4": fmt.Sprintf(`datagram to 127.0.0.4:%d: the answer begins with "go awa", not with "got:\x00a"`, port),
		},
		false: {
			"127.0.0.2": fmt.Sprintf("datagram to 127.0.0.2:%d: ICMP port unreachable", port),
			"127.0.0.4": fmt.Sprintf(`datagram to 127.0.0.4:%d: the answer begins with "go awa", not with "got:\x00a"`, port),
		},
	} {
		probes := brisk(func(p *Probes) {
			p.UDP = &UDPProbe{Port: port, Send: "\x00a", Answer: "got:\x00a", AnswerRequired: required}
		})
		r := startProber(t, loopbackPlan(probes, nil, 1, 2, 3, 4), nil)
		r.decided(t)
		r.awaitReasons(t, want)
		r.stop()
	}
}

// An empty datagram is sent, and any answer is right.
func TestProbeUDPEmpty(t *testing.T) {
	port, conns := listenUDP(t, 1)
	sizes := make(chan int, 100)
	replyUDP(conns[0], func(q []byte) [][]byte {
		select {
		case sizes <- len(q):
		default:
		}
		return [][]byte{nil}
	})
	r := startProber(t, loopbackPlan(brisk(func(p *Probes) { p.UDP = &UDPProbe{Port: port, AnswerRequired: true} }), nil, 1), nil)
	r.decided(t)
	if k := r.Stats().Kinds[probeUDP]; k.Targets[up] != 1 {
		t.Errorf("%+v", k)
	}
	if n := <-sizes; n != 0 {
		t.Errorf("%d bytes were sent", n)
	}
	r.stop()
}

// answerDNS is the answer of a server that says code, made by another implementation.
func answerDNS(q []byte, code dnsmessage.RCode, change func(*dnsmessage.Message)) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(q); err != nil {
		return nil
	}
	m.Response, m.RCode, m.RecursionAvailable = true, code, true
	if code == 0 {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, Type: dnsmessage.TypeA, TTL: 5},
			Body:   &dnsmessage.AResource{A: [4]byte{10, 96, 0, 1}},
		}}
	}
	if change != nil {
		change(&m)
	}
	b, _ := m.Pack()
	return b
}

// A DNS server is healthy when it answers NOERROR to the question that was asked.
func TestProbeDNS(t *testing.T) {
	port, conns := listenUDP(t, 1, 2, 3, 4, 5, 6)
	foreign := func(q []byte) []byte {
		return answerDNS(q, 0, func(m *dnsmessage.Message) { m.ID++ })
	}
	replyUDP(conns[0], func(q []byte) [][]byte { return [][]byte{answerDNS(q, dnsmessage.RCodeSuccess, nil)} })
	replyUDP(conns[1], func(q []byte) [][]byte { return [][]byte{answerDNS(q, dnsmessage.RCodeServerFailure, nil)} })
	replyUDP(conns[2], func(q []byte) [][]byte { return [][]byte{foreign(q)} })
	conns[3].Close()
	replyUDP(conns[4], func(q []byte) [][]byte { // others' answers first
		return [][]byte{foreign(q), []byte("no DNS"), answerDNS(q, 0, nil)}
	})
	replyUDP(conns[5], func(q []byte) [][]byte {
		return [][]byte{answerDNS(q, dnsmessage.RCodeRefused, func(m *dnsmessage.Message) { m.Questions = nil })}
	})
	probes := brisk(func(p *Probes) { p.DNS = &DNSProbe{Port: port, Name: "Kubernetes.default.svc", Type: "A"} })
	r := startProber(t, loopbackPlan(probes, nil, 1, 2, 3, 4, 5, 6), nil)
	r.decided(t)
	why := func(n byte, what string) string {
		return fmt.Sprintf("DNS question to 127.0.0.%d:%d for Kubernetes.default.svc A: %s", n, port, what)
	}
	want := map[string]string{
		"127.0.0.2": why(2, "SERVFAIL"),
		"127.0.0.3": why(3, "no answer in 100ms"),
		"127.0.0.4": why(4, "ICMP port unreachable"),
		"127.0.0.6": why(6, "REFUSED"),
	}
	r.awaitReasons(t, want)
	r.stop()
}

// The question is byte for byte as RFC 1035 has it, and another implementation reads it.
func TestDNSMessage(t *testing.T) {
	d := DNSProbe{Name: "a.bc.", Type: "AAAA"}
	want := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 2, 'b', 'c', 0, 0, 28, 0, 1}
	if diff := cmp.Diff(want, d.message(0x1234)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, name := range []string{".", "example", "_dns._udp.example.org", strings.Repeat(strings.Repeat("x", 62)+".", 4)} {
		for _, kind := range dnsTypes {
			var m dnsmessage.Message
			if err := m.Unpack((&DNSProbe{Name: name, Type: kind.name}).message(7)); err != nil {
				t.Errorf("%s %s: %v", name, kind.name, err)
				continue
			}
			q := m.Questions[0]
			if full := strings.TrimSuffix(name, ".") + "."; q.Name.String() != full || q.Type.String() != "Type"+kind.name || q.Class != dnsmessage.ClassINET || m.ID != 7 || !m.RecursionDesired || m.Response {
				t.Errorf("%s %s: %+v", name, kind.name, m)
			}
		}
	}
}

func TestDNSAnswer(t *testing.T) {
	q := (&DNSProbe{Name: "a.bc", Type: "A"}).message(0x0102)
	answer := func(change func(b []byte) []byte) []byte {
		b := bytes.Clone(q)
		b[2] |= 0x80
		return change(b)
	}
	for _, test := range []struct {
		name string
		b    []byte
		code dnsCode
		ok   bool
	}{
		{"right", answer(func(b []byte) []byte { return b }), 0, true},
		{"with records", answer(func(b []byte) []byte { return append(b, 1, 2, 3) }), 0, true},
		{"capitals", answer(func(b []byte) []byte { b[13] = 'A'; return b }), 0, true},
		{"NXDOMAIN", answer(func(b []byte) []byte { b[3] |= 3; return b }), 3, true},
		{"code 15", answer(func(b []byte) []byte { b[3] |= 15; return b }), 15, true},
		{"the question itself", q, 0, false},
		{"another identifier", answer(func(b []byte) []byte { b[1]++; return b }), 0, false},
		{"another operation", answer(func(b []byte) []byte { b[2] |= 0x28; return b }), 0, false},
		{"another name", answer(func(b []byte) []byte { b[13] = 'b'; return b }), 0, false},
		{"another type", answer(func(b []byte) []byte { b[len(b)-3] = 28; return b }), 0, false},
		{"no question", answer(func(b []byte) []byte { b[5] = 0; return b[:dnsHeader] }), 0, false},
		{"no question, refused", answer(func(b []byte) []byte { b[5] = 0; b[3] |= 5; return b[:dnsHeader] }), 5, true},
		{"two questions", answer(func(b []byte) []byte { b[5] = 2; return b }), 0, false},
		{"cut off", answer(func(b []byte) []byte { return b[:len(b)-1] }), 0, false},
		{"short", q[:11], 0, false},
	} {
		code, ok := dnsAnswer(test.b, q)
		if ok != test.ok || ok && code != test.code {
			t.Errorf("%s: %s, %t", test.name, code, ok)
		}
	}
	if got := dnsCode(9).Error() + " " + dnsCode(3).Error(); got != "response code 9 NXDOMAIN" {
		t.Error(got)
	}
}

// Whatever comes back is the answer to the question, or it is not; what is taken for one
// has its header and its question.
func FuzzDNSAnswer(f *testing.F) {
	q := (&DNSProbe{Name: "kubernetes.default.svc", Type: "A"}).message(77)
	f.Add(q)
	f.Add(answerDNS(q, 0, nil))
	f.Add(answerDNS(q, 5, func(m *dnsmessage.Message) { m.Questions = nil }))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		code, ok := dnsAnswer(b, q)
		if ok && (len(b) < dnsHeader || !bytes.Equal(b[:2], q[:2]) || b[2]&0x80 == 0 || code > 15 || code == 0 && !bytes.EqualFold(b[dnsHeader:len(q)], q[dnsHeader:])) {
			t.Fatalf("%x is taken for an answer, %s", b, code)
		}
		var m dnsmessage.Message
		if err := m.Unpack(b); err == nil && len(m.Questions) == 1 && m.ID == 77 && m.Response && m.OpCode == 0 && m.Questions[0].Type == dnsmessage.TypeA && m.Questions[0].Class == dnsmessage.ClassINET &&
			m.Questions[0].Name.String() == "kubernetes.default.svc." && bytes.HasPrefix(b[dnsHeader:], q[dnsHeader:]) && (!ok || code != dnsCode(m.RCode)&15) {
			t.Fatalf("%x is an answer, and is not taken for one: %s, %t", b, code, ok)
		}
	})
}

// Whatever an UDP service answers, it has the wanted beginning or a reason of bounded,
// printable text.
func FuzzUDPAnswer(f *testing.F) {
	f.Add("", "pong", "pong\x00")
	f.Add("x", "pong", "po")
	f.Add("", "", "\x1b[2J\n")
	f.Fuzz(func(t *testing.T, send, want, answer string) {
		u := &UDPProbe{Port: 9, Send: send, Answer: want}
		err := u.judge([]byte(answer))
		if (err == nil) != strings.HasPrefix(answer, want) {
			t.Fatalf("%q for %q: %v", answer, want, err)
		}
		if err != nil && (len(err.Error()) > 400 || strings.ContainsFunc(err.Error(), func(r rune) bool { return !strconv.IsPrint(r) })) {
			t.Fatalf("%q for %q: %q", answer, want, err)
		}
	})
}

// A datagram from the director cannot be sent: that counts against no real server.
func TestProbeUDPOwnFault(t *testing.T) {
	r := startProber(t, &ProbePlan{VIPs: []ProbedVIP{{
		Name: "edge", Servers: []ProbedServer{{Address: netip.MustParseAddr("255.255.255.255")}}, // EACCES
		Probes: func() *Probes {
			p := brisk(func(p *Probes) { p.UDP = &UDPProbe{Port: 9, AnswerRequired: true} })
			return &p
		}(),
	}}}, nil)
	for range 1000 {
		if r.Stats().Kinds[probeUDP].Results[noResult] >= 3 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if k := r.Stats().Kinds[probeUDP]; k.Results[noResult] < 3 || k.Results[failed] > 0 {
		t.Errorf("%+v", k)
	}
	r.stop()
}
