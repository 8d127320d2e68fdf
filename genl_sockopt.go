// Asks the kernel for the connections of one service's real servers by IPVS's older
// interface, a socket option.
//
// The reconcile loop counts with it, by the interface director in reconcile.go. The
// answer to one system call has all that a drain needs; a netlink dump of the same rows
// takes some twenty times as long. The option knows IPv4 only: what it cannot tell is
// asked by netlink. It changes nothing.

package main

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// getDests is IP_VS_SO_GET_DESTS in include/uapi/linux/ip_vs.h: IP_VS_BASE_CTL + 4.
const getDests = 64 + 1024 + 64 + 4

// Places in struct ip_vs_get_dests, and from destEntries on in each struct
// ip_vs_dest_entry, on 64-bit machines.
const (
	getDestsProtocol = 0
	getDestsAddr     = 4
	getDestsPort     = 8
	getDestsMark     = 12
	getDestsNumber   = 16 // of entries that there is room for
	destEntries      = 24

	destEntryAddr       = 0
	destEntryPort       = 4
	destEntryWeight     = 12
	destEntryActive     = 24
	destEntryInactive   = 28
	destEntryPersistent = 32
	destEntryBytes      = 96 // with struct ip_vs_stats_user
)

// spareEntries is how many real servers of other programs there is room for. Where they
// are more, netlink is asked.
const spareEntries = 8

// Connections implements director.
func (c *ipvsConn) Connections(s *Service, visit func(KernelServer)) error {
	if c.countIPv4(s) {
		for rest := c.entries; len(rest) > 0; rest = rest[destEntryBytes:] {
			visit(destEntry(rest, s.Port))
		}
		return nil
	}
	return c.Servers(s.ServiceKey, visit)
}

// countIPv4 reads the entries of the real servers of s into c.entries, and reports whether
// all that leave are there: the option passes over real servers of the other family.
func (c *ipvsConn) countIPv4(s *Service) bool {
	if s.Address.Is6() {
		return false
	}
	room := len(s.Servers) + spareEntries
	size := destEntries + room*destEntryBytes
	if cap(c.question) < size {
		c.question = make([]byte, size)
	}
	b := c.question[:size]
	clear(b)
	putGetDests(b, s.ServiceKey, room)
	if getsockopt(c.inet, getDests, b) != nil {
		return false
	}
	c.entries = writtenEntries(b[destEntries:])
	if len(c.entries) == len(b)-destEntries {
		return false // there may be more
	}
	missing := 0
	for _, l := range s.Leaving {
		if !l.Gone {
			missing++
		}
	}
	for rest := c.entries; len(rest) > 0; rest = rest[destEntryBytes:] {
		if l := findLeaving(s.Leaving, destEntry(rest, s.Port).RealServer); l != nil && !l.Gone {
			missing--
		}
	}
	return missing == 0
}

// putGetDests writes the question about k into b.
func putGetDests(b []byte, k ServiceKey, room int) {
	if k.Mark != 0 {
		binary.NativeEndian.PutUint32(b[getDestsMark:], k.Mark)
	} else {
		address := k.Address.As4()
		binary.NativeEndian.PutUint16(b[getDestsProtocol:], uint16(k.Protocol))
		copy(b[getDestsAddr:], address[:])
		binary.BigEndian.PutUint16(b[getDestsPort:], k.Port)
	}
	binary.NativeEndian.PutUint32(b[getDestsNumber:], uint32(room))
}

// writtenEntries are those of b that the kernel has written: the others have no address.
func writtenEntries(b []byte) []byte {
	n := 0
	for n+destEntryBytes <= len(b) && binary.NativeEndian.Uint32(b[n+destEntryAddr:]) != 0 {
		n += destEntryBytes
	}
	return b[:n]
}

// destEntry is the first of b, of a service with this port: address, weight and
// connections of a real server.
func destEntry(b []byte, servicePort uint16) (s KernelServer) {
	s.Address = netip.AddrFrom4([4]byte(b[destEntryAddr:]))
	if port := binary.BigEndian.Uint16(b[destEntryPort:]); port != servicePort {
		s.Port = port
	}
	s.Weight = binary.NativeEndian.Uint32(b[destEntryWeight:])
	s.Connections = Connections{
		Active:     binary.NativeEndian.Uint32(b[destEntryActive:]),
		Inactive:   binary.NativeEndian.Uint32(b[destEntryInactive:]),
		Persistent: binary.NativeEndian.Uint32(b[destEntryPersistent:]),
	}
	return s
}

// getsockopt has the kernel answer the question in b, in place.
func getsockopt(fd, option int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
