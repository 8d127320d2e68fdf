// The packets of the data path probe: TCP without data, over IP.
//
// Used by health_datapath.go. It sends what packet builds and passes what it
// receives to parseAnswer. Pure. Packets from outside may be anything:
// parseAnswer checks every length before it reads, and its caller compares the
// result with a packet that it sent.

package main

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// TCP flags (RFC 9293 section 3.1).
const (
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// The ICMP message of a router at which a packet's hop limit ended. Code 0 is
// "in transit".
const (
	icmpTimeExceeded  = 11 // RFC 792
	icmp6TimeExceeded = 3  // RFC 4443
)

// probeHops is the hop limit: the next router drops the packet.
const probeHops = 1

// segment is a TCP segment without data.
type segment struct {
	From, To netip.AddrPort
	Seq, Ack uint32
	Flags    uint8
}

// packet builds s as an IP packet. A SYN names the segment size that fits any
// Ethernet, because some firewalls drop those that name none.
func (s segment) packet() []byte {
	is6 := s.From.Addr().Is6()
	tcp := binary.BigEndian.AppendUint16(nil, s.From.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, s.To.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, s.Seq)
	tcp = binary.BigEndian.AppendUint32(tcp, s.Ack)
	tcp = append(tcp, 5<<4, s.Flags, 0, 0, 0, 0, 0, 0) // header length in words, flags, window, checksum, urgent pointer
	if s.Flags&tcpSYN != 0 {
		size := uint16(1500 - 20 - 20)
		if is6 {
			size = 1500 - 40 - 20
		}
		tcp[12] = 6 << 4
		binary.BigEndian.PutUint16(tcp[14:], 64240)                  // window
		tcp = binary.BigEndian.AppendUint16(append(tcp, 2, 4), size) // option: maximum segment size
	}
	from, to := s.From.Addr().AsSlice(), s.To.Addr().AsSlice()

	// The checksum also covers a pseudo-header (RFC 9293 section 3.1, RFC 8200
	// section 8.1); both forms add up to the same.
	pseudo := append(append([]byte(nil), from...), to...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(tcp)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, unix.IPPROTO_TCP)
	binary.BigEndian.PutUint16(tcp[16:], internetChecksum(append(pseudo, tcp...)))

	var ip []byte
	if is6 {
		ip = []byte{0x60, 0, 0, 0} // version 6, traffic class, flow label
		ip = binary.BigEndian.AppendUint16(ip, uint16(len(tcp)))
		ip = append(ip, unix.IPPROTO_TCP, probeHops)
		ip = append(append(ip, from...), to...)
	} else {
		ip = []byte{0x45, 0} // version 4, header of 5 words; type of service
		ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(tcp)))
		ip = append(ip, 0, 0, 0x40, 0, probeHops, unix.IPPROTO_TCP, 0, 0) // identification, don't fragment, checksum
		ip = append(append(ip, from...), to...)
		binary.BigEndian.PutUint16(ip[10:], internetChecksum(ip))
	}
	return append(ip, tcp...)
}

// answer is a packet that may answer a probe.
type answer struct {
	segment
	// expired: segment is a probe, without Ack and Flags, that a router dropped
	// on its way.
	expired bool
}

// parseAnswer reads an IP packet. It ignores checksums: the kernel checks them,
// and between virtual devices they may be missing.
func parseAnswer(b []byte, is6 bool) (answer, bool) {
	protocol, from, to, b, ok := parseIP(b, is6)
	if !ok {
		return answer{}, false
	}
	switch {
	case protocol == unix.IPPROTO_TCP && len(b) >= 20:
		a := answer{segment: parseTCP(b, from, to)}
		a.Ack, a.Flags = binary.BigEndian.Uint32(b[8:]), b[13]
		return a, true
	case len(b) < 8 || b[1] != 0: // code
		return answer{}, false
	case protocol == unix.IPPROTO_ICMP && !is6 && b[0] == icmpTimeExceeded,
		protocol == unix.IPPROTO_ICMPV6 && is6 && b[0] == icmp6TimeExceeded:
		protocol, from, to, b, ok = parseIP(b[8:], is6)
		if !ok || protocol != unix.IPPROTO_TCP || len(b) < 8 { // a router sends back at least 8 bytes of it
			return answer{}, false
		}
		return answer{segment: parseTCP(b, from, to), expired: true}, true
	}
	return answer{}, false
}

// parseTCP reads the first 8 bytes of a TCP header.
func parseTCP(b []byte, from, to netip.Addr) segment {
	return segment{
		From: netip.AddrPortFrom(from, binary.BigEndian.Uint16(b)),
		To:   netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:])),
		Seq:  binary.BigEndian.Uint32(b[4:]),
	}
}

// parseIP reads an IP header and returns what follows it. It rejects fragments
// except the first, and IPv6 packets with extension headers.
func parseIP(b []byte, is6 bool) (protocol uint8, from, to netip.Addr, rest []byte, ok bool) {
	if is6 {
		if len(b) < 40 || b[0]>>4 != 6 {
			return 0, from, to, nil, false
		}
		return b[6], netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[40:], true
	}
	if len(b) < 20 || b[0]>>4 != 4 {
		return 0, from, to, nil, false
	}
	header := int(b[0]&0xf) * 4
	if header < 20 || header > len(b) || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return 0, from, to, nil, false
	}
	return b[9], netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[header:], true
}
