// [vip.health.dns] and [vip.health.udp] → DNSProbe and UDPProbe.
//
// Used by health*.go and cmd*.go. A key and its range are in the function that reads it, and so
// are the defaults. No I/O.

package main

import (
	"encoding/hex"
	"math"
	"regexp"
	"strings"
)

// DNSProbe is a question over UDP to each real server's own address.
type DNSProbe struct {
	Port uint16
	Name string // with or without the dot at its end; "." = the root
	Type string // one of dnsTypes
}

// dnsTypes are the types of records that can be asked for (RFC 1035 section 3.2.2, RFC
// 2782, RFC 3596).
var dnsTypes = []struct {
	name string
	code uint16
}{{"A", 1}, {"AAAA", 28}, {"CNAME", 5}, {"MX", 15}, {"NS", 2}, {"PTR", 12}, {"SOA", 6}, {"SRV", 33}, {"TXT", 16}}

// dnsTypeCode is the number of a type, 0 for one that cannot be asked for.
func dnsTypeCode(name string) uint16 {
	for _, t := range dnsTypes {
		if t.name == name {
			return t.code
		}
	}
	return 0
}

// dnsNames are host names and those with "_", at most 63 characters in a label.
var dnsNames = regexp.MustCompile(`^(\.|([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?)$`)

// maxDNSName is the length of the longest name without its last dot: 255 bytes in a
// message, with a byte before each label and one at the end.
const maxDNSName = 253

// readDNSProbe reads [vip.health.dns]. The defaults are those of keepalived: each
// resolver can answer about the root.
func readDNSProbe(v value) *DNSProbe {
	d := DNSProbe{Port: 53, Name: ".", Type: "SOA"}
	var types []string
	for _, t := range dnsTypes {
		types = append(types, t.name)
	}
	v.table(
		setting{"port", integer(&d.Port, 1, math.MaxUint16)},
		setting{"name", parsed(&d.Name, `a DNS name such as "kubernetes.default.svc.cluster.local", or "." for the root`, func(s string) (string, error) {
			if !dnsNames.MatchString(s) || len(s) > maxDNSName {
				return "", errMisfit
			}
			return s, nil
		})},
		setting{"type", oneOf(&d.Type, types...)},
	)
	return &d
}

// UDPProbe is a datagram to each real server's own address.
type UDPProbe struct {
	Port   uint16
	Send   string // any bytes, at most maxDatagram
	Answer string // what an answer begins with; "" = any answer is right
	// AnswerRequired: no answer is a failure. Without it, only a wrong answer and an ICMP
	// error are.
	AnswerRequired bool
}

// maxDatagram is how many bytes a probe sends at most, and how many of an answer it
// compares: what fits each network without fragments.
const maxDatagram = 1200

// readUDPProbe reads [vip.health.udp].
func readUDPProbe(v value) *UDPProbe {
	u := UDPProbe{AnswerRequired: true}
	isTable := v.table(
		setting{"port", integer(&u.Port, 1, math.MaxUint16)},
		setting{"send", datagram(&u.Send)},
		setting{"answer", datagram(&u.Answer)},
		setting{"answer_required", boolean(&u.AnswerRequired)},
	)
	if isTable && !v.has("port") {
		v.child("port").mistake("missing, want the UDP port to ask, such as port = 514")
	}
	return &u
}

// datagram reads a text, or bytes as hexadecimal digits behind "hex:".
func datagram(dst *string) func(value) {
	const want = `at most 1200 bytes: a text, or "hex:" and two hexadecimal digits for each, such as "hex:0a00ff"`
	return parsed(dst, want, func(s string) (string, error) {
		if digits, isHex := strings.CutPrefix(s, "hex:"); isHex {
			b, err := hex.DecodeString(digits)
			if err != nil {
				return "", errMisfit
			}
			s = string(b)
		}
		if len(s) > maxDatagram {
			return "", errMisfit
		}
		return s, nil
	})
}
