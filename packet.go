// Builds ARP and neighbour discovery frames, and computes checksums.
//
// Used by host_addresses.go. Pure.

package main

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ARP operations (RFC 826), be16.
const (
	arpRequest = 1 // ares_op$REQUEST
	arpReply   = 2 // ares_op$REPLY
)

// gratuitousARP builds a broadcast Ethernet frame in which sender and target
// protocol address are both addr. As a request it is the ARP Announcement of
// RFC 5227 section 2.3, whose target hardware address is zero; a reply has the
// sender's there.
func gratuitousARP(mac [6]byte, addr netip.Addr, operation uint16) []byte {
	target := mac
	if operation == arpRequest {
		target = [6]byte{}
	}
	return arpFrame(operation, mac, addr, target, addr)
}

// arpFrame builds a broadcast Ethernet frame with an ARP packet (RFC 826).
func arpFrame(operation uint16, senderMAC [6]byte, sender netip.Addr, targetMAC [6]byte, target netip.Addr) []byte {
	from, to := sender.As4(), target.As4()
	b := ethernetHeader([6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, senderMAC, unix.ETH_P_ARP)
	b = binary.BigEndian.AppendUint16(b, 1)              // hardware type: Ethernet
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)  // protocol type
	b = append(b, byte(len(senderMAC)), byte(len(from))) // address lengths
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(append(b, senderMAC[:]...), from[:]...)
	return append(append(b, targetMAC[:]...), to[:]...)
}

// unsolicitedNA builds the neighbour advertisement of RFC 4861 section 7.2.6:
// to all nodes, with the override flag and the target's link-layer address.
func unsolicitedNA(mac [6]byte, addr netip.Addr) []byte {
	target := addr.As16()
	body := []byte{136, 0, 0, 0, 0x20, 0, 0, 0} // type, code, checksum, flags: override (section 4.4)
	body = append(body, target[:]...)
	body = append(body, 2, 1) // option: target link-layer address, 8 bytes
	body = append(body, mac[:]...)
	return discoveryFrame(mac, addr, netip.IPv6LinkLocalAllNodes(), body) // ff02::1
}

// discoveryFrame builds an Ethernet frame with a message of neighbour discovery
// (RFC 4861) to a multicast address. It fills in body's checksum.
func discoveryFrame(mac [6]byte, source, destination netip.Addr, body []byte) []byte {
	from, to := source.As16(), destination.As16()

	// The checksum also covers a pseudo-header (RFC 8200 section 8.1).
	pseudo := append(from[:], to[:]...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(body[2:], internetChecksum(append(pseudo, body...)))

	// A multicast address maps to 33:33 and its last four bytes (RFC 2464
	// section 7).
	b := ethernetHeader([6]byte{0x33, 0x33, to[12], to[13], to[14], to[15]}, mac, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0)                            // version 6, traffic class, flow label
	b = binary.BigEndian.AppendUint16(b, uint16(len(body))) // payload length
	b = append(b, unix.IPPROTO_ICMPV6, 255)                 // next header, hop limit: 255 proves that no router sent it
	b = append(append(b, from[:]...), to[:]...)
	return append(b, body...)
}

// ethernetHeader starts a frame. Short frames are padded by the driver.
func ethernetHeader(to, from [6]byte, etherType uint16) []byte {
	return binary.BigEndian.AppendUint16(append(to[:], from[:]...), etherType)
}

// internetChecksum is RFC 1071's, over an even number of bytes.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
