// The packets by which another host shows that it has a VIP, and those that ask
// for it.
//
// Used by conflict*.go and cmd_doctor_ask.go. conflict_watch.go sends what arpProbe and
// dadSolicitation build, and passes what conflictFilter accepts to parseClaim. Pure.
// Packets from outside may be anything: parseClaim checks every length before it reads.

package main

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Messages of neighbour discovery (RFC 4861 section 4).
const (
	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
)

// claim is what a packet says: this address is at that MAC address.
type claim struct {
	Address netip.Addr
	MAC     macAddress
	// Asks: an ARP request for another address, which names Address as its
	// sender.
	Asks bool
}

// arpProbe builds the probe of RFC 5227 section 2.1.1. Its sender address is
// 0.0.0.0, so that no neighbour learns anything from it.
func arpProbe(mac [6]byte, addr netip.Addr) []byte {
	return arpFrame(arpRequest, mac, netip.IPv4Unspecified(), [6]byte{}, addr)
}

// dadSolicitation builds the neighbour solicitation of RFC 4862 section 5.4.2,
// from the unspecified address to the solicited-node multicast address (RFC
// 4291 section 2.7.1). A host that has addr answers to all nodes.
func dadSolicitation(mac [6]byte, addr netip.Addr) []byte {
	target := addr.As16()
	solicited := [16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: target[13], 14: target[14], 15: target[15]}
	body := append([]byte{neighbourSolicitation, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
	return discoveryFrame(mac, netip.IPv6Unspecified(), netip.AddrFrom16(solicited), body)
}

// Offsets in an Ethernet frame.
const (
	frameBody     = 14             // of what the frame carries
	arpOperation  = frameBody + 6  // be16
	arpSenderMAC  = frameBody + 8  // 6 bytes
	arpSender     = frameBody + 14 // be32
	arpTarget     = frameBody + 24 // be32
	arpEnd        = frameBody + 28
	ip6NextHeader = frameBody + 6
	ip6HopLimit   = frameBody + 7
	ndType        = frameBody + 40
	ndTarget      = ndType + 8 // 16 bytes
	ndOptions     = ndTarget + 16
)

// arpKind is how an ARP packet about IPv4 on Ethernet begins: hardware and
// protocol type, be32.
const arpKind = 1<<16 | unix.ETH_P_IP

// parseClaim reads an Ethernet frame. The MAC address is the one that the packet
// names, not the sender of the frame: neighbours learn the former, and a switch
// that answers for this host names the MAC address of this host.
func parseClaim(b []byte) (claim, bool) {
	if len(b) < frameBody {
		return claim{}, false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_ARP:
		return parseARP(b)
	case unix.ETH_P_IPV6:
		return parseAdvertisement(b)
	}
	return claim{}, false
}

// parseARP takes the sender of any ARP packet; a probe has none.
func parseARP(b []byte) (claim, bool) {
	if len(b) < arpEnd || binary.BigEndian.Uint32(b[frameBody:]) != arpKind || b[frameBody+4] != 6 || b[frameBody+5] != 4 {
		return claim{}, false
	}
	c := claim{
		Address: netip.AddrFrom4([4]byte(b[arpSender:])),
		MAC:     macAddress(b[arpSenderMAC:]),
	}
	target := netip.AddrFrom4([4]byte(b[arpTarget:]))
	switch binary.BigEndian.Uint16(b[arpOperation:]) {
	case arpRequest:
		c.Asks = target != c.Address // else it is gratuitous
	case arpReply:
	default:
		return claim{}, false
	}
	return c, !c.Address.IsUnspecified() && c.MAC != macAddress{}
}

// parseAdvertisement reads a neighbour advertisement, by the rules of RFC 4861
// section 7.1.2 except for the checksum: the kernel checks it, and between virtual
// devices it may be missing. Without the option that names a MAC
// address, the frame's sender counts.
func parseAdvertisement(b []byte) (claim, bool) {
	if len(b) < ndOptions || b[frameBody]>>4 != 6 || b[ip6NextHeader] != unix.IPPROTO_ICMPV6 || b[ip6HopLimit] != 255 ||
		b[ndType] != neighbourAdvertisement || b[ndType+1] != 0 {
		return claim{}, false
	}
	end := ndType + int(binary.BigEndian.Uint16(b[frameBody+4:])) // by the payload length
	if end < ndOptions || end > len(b) {
		return claim{}, false
	}
	c := claim{Address: netip.AddrFrom16([16]byte(b[ndTarget:])), MAC: macAddress(b[6:])}
	for options := b[ndOptions:end]; len(options) > 0; {
		const linkLayerAddress = 2 // section 4.6.1
		if len(options) < 8 {
			return claim{}, false
		}
		size := int(options[1]) * 8
		if size == 0 || size > len(options) {
			return claim{}, false
		}
		if options[0] == linkLayerAddress {
			c.MAC = macAddress(options[2:])
		}
		options = options[size:]
	}
	return c, !c.Address.IsMulticast() && !c.Address.Is4In6() && c.MAC != macAddress{}
}

// maxFiltered is how many addresses a filter compares. Beyond that it passes
// all claims: the kernel bounds a filter's size (net.core.optmem_max).
const maxFiltered = 128

// conflictFilter passes claims to addrs, which are of one family. Its socket
// receives only ARP or only IPv6. It runs for every IPv6 packet that the host
// receives, so it drops most of them in two steps.
func conflictFilter(is6 bool, addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	drop, pass := bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: 1500}
	// need drops packets without value at offset.
	need := func(offset uint32, size int, value uint32) []bpf.Instruction {
		return []bpf.Instruction{
			bpf.LoadAbsolute{Off: offset, Size: size},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: 1},
			drop,
		}
	}
	program := need(frameBody, 4, arpKind)
	if is6 {
		program = append(need(ip6NextHeader, 1, unix.IPPROTO_ICMPV6), need(ndType, 1, neighbourAdvertisement)...)
	}
	if len(addrs) > maxFiltered {
		return bpf.Assemble(append(program, pass))
	}
	if !is6 {
		program = append(program, bpf.LoadAbsolute{Off: arpSender, Size: 4})
	}
	for _, a := range addrs {
		b := a.AsSlice()
		if !is6 {
			program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(b), SkipFalse: 1}, pass)
			continue
		}
		for word := 12; word >= 0; word -= 4 { // the last differ most
			program = append(program,
				bpf.LoadAbsolute{Off: ndTarget + uint32(word), Size: 4},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(b[word:]), SkipFalse: uint8(word/2 + 1)})
		}
		program = append(program, pass)
	}
	return bpf.Assemble(append(program, drop))
}
