// The probe kind dns: one question over UDP, and the response code of its answer.
//
// The prober calls it through the table of the kinds. No other file uses this one. It
// builds the question and reads the header and the question of an answer (RFC 1035
// section 4.1); the records are not looked at.

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
)

func (dnsKind) targets(v *ProbedVIP, s *ProbedServer) []question {
	return []question{{to: netip.AddrPortFrom(s.Address, v.Probes.DNS.Port)}}
}

func (dnsKind) begin(p *prober, t *target) {
	q := t.vip.probes.DNS.message(uint16(rand.Uint32()))
	p.exchangeDatagrams(t, q, func(answer []byte) (outcome, bool) {
		code, ok := dnsAnswer(answer, q)
		switch {
		case !ok:
			return outcome{}, false // an answer to something else: ours may follow
		case code != 0:
			return t.fails(code, false), true
		}
		return outcome{result: passed}, true
	})
}

func (dnsKind) overdue(_ *prober, t *target) outcome { return t.timedOut() }

func (dnsKind) reason(t *target, err error) string {
	d := t.vip.probes.DNS
	return fmt.Sprintf("DNS question to %s for %s %s: %v", t.to, d.Name, d.Type, portUnreachable(err))
}

const (
	dnsHeader    = 12     // bytes
	dnsResponse  = 0x8000 // QR
	dnsOpcode    = 0x7800
	dnsRecursion = 0x0100 // RD
	dnsCodes     = 0x000f // RCODE
	dnsInternet  = 1      // class IN
)

// message is the question with that identifier. It wants recursion, as the clients of a
// resolver do; a server with the zone passes that over.
func (d *DNSProbe) message(id uint16) []byte {
	b := make([]byte, 0, 64)
	for _, field := range []uint16{id, dnsRecursion, 1, 0, 0, 0} { // one question, no records
		b = binary.BigEndian.AppendUint16(b, field)
	}
	if name := strings.TrimSuffix(d.Name, "."); name != "" {
		for label := range strings.SplitSeq(name, ".") {
			b = append(append(b, byte(len(label))), label...) // 63 at most
		}
	}
	b = binary.BigEndian.AppendUint16(append(b, 0), dnsTypeCode(d.Type))
	return binary.BigEndian.AppendUint16(b, dnsInternet)
}

// dnsCode is the response code of an answer, 0 to 15 (RFC 1035 section 4.1.1).
type dnsCode uint8

// Error is the name of the code.
func (c dnsCode) Error() string {
	names := [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("response code %d", uint8(c))
}

// dnsAnswer reads the response code of b. ok means that b answers q: it has its
// identifier and repeats its question, whose name may have other capitals. A refusal may
// be without the question.
func dnsAnswer(b, q []byte) (code dnsCode, ok bool) {
	if len(b) < dnsHeader {
		return 0, false
	}
	flags := binary.BigEndian.Uint16(b[2:])
	code = dnsCode(flags & dnsCodes)
	if !bytes.Equal(b[:2], q[:2]) || flags&dnsResponse == 0 || flags&dnsOpcode != 0 {
		return 0, false
	}
	switch binary.BigEndian.Uint16(b[4:]) {
	case 0:
		return code, code != 0
	case 1:
		asked, rest := q[dnsHeader:], b[dnsHeader:]
		return code, len(rest) >= len(asked) && bytes.Equal(lowerASCII(rest[:len(asked)]), lowerASCII(asked))
	}
	return 0, false
}

// lowerASCII is a copy of b with its capital letters as small ones.
func lowerASCII(b []byte) []byte {
	low := bytes.Clone(b)
	for i, c := range low {
		if 'A' <= c && c <= 'Z' {
			low[i] = c + 'a' - 'A'
		}
	}
	return low
}
