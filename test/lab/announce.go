// What a host sends when it has taken an address, as keepalived does: gratuitous ARP,
// or an unsolicited neighbour advertisement.

package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Announce says to the whole segment that addr is at h's eth0.
func (h *Host) Announce(addr netip.Addr) {
	var err error
	h.Do(func() {
		if addr.Is4() {
			err = announceARP(addr)
		} else {
			err = announceNeighbour(addr)
		}
	})
	if err != nil {
		h.lab.fail("%s: announce %s: %v", h.Name, addr, err)
	}
}

// announceARP broadcasts a request and a reply in which sender and target are addr
// (RFC 5227 section 2.3).
func announceARP(addr netip.Addr) error {
	device, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	conn, err := packet.Listen(device, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for operation, target := range map[uint16]net.HardwareAddr{1: make(net.HardwareAddr, 6), 2: device.HardwareAddr} {
		frame := append(append([]byte(nil), all...), device.HardwareAddr...)
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_ARP)
		frame = append(frame, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4, the lengths of their addresses
		frame = binary.BigEndian.AppendUint16(frame, operation)
		frame = append(append(frame, device.HardwareAddr...), addr.AsSlice()...)
		frame = append(append(frame, target...), addr.AsSlice()...)
		if _, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: all}); err != nil {
			return err
		}
	}
	return nil
}

// announceNeighbour sends all nodes the advertisement of RFC 4861 section 7.2.6, with
// the override flag. The kernel fills in its checksum.
func announceNeighbour(addr netip.Addr) error {
	device, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("ip6:ipv6-icmp", addr.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	message := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, addr.AsSlice()...)
	message = append(append(message, 2, 1), device.HardwareAddr...)
	p := ipv6.NewPacketConn(conn)
	if err := p.SetMulticastHopLimit(255); err != nil {
		return err
	}
	if err := p.SetMulticastInterface(device); err != nil {
		return err
	}
	if _, err := p.WriteTo(message, nil, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: device.Name}); err != nil {
		return fmt.Errorf("neighbour advertisement: %w", err)
	}
	return nil
}
