// Asks the kernel for the connections of one service's real servers by IPVS's older
// interface, a socket option.
//
// Used by genl_conn.go. The reconcile loop counts with it, by the interface director in
// reconcile.go. The answer to one system call has all that a drain needs; a netlink dump of
// the same rows takes some twenty times as long. The option knows IPv4 only: what it cannot
// tell is asked by netlink. It changes nothing.

package main

import (
	"encoding/binary"
	"net/netip"
	"slices"
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

// countBuffers are those of Connections, used again for each service.
type countBuffers struct {
	question []byte
	leaving  []uint32 // addresses as the kernel has them in memory
	draining []KernelServer
}

// Connections implements director.
func (c *ipvsConn) Connections(s *Service, visit func(KernelServer)) error {
	if !c.countIPv4(s) {
		return c.Servers(s.ServiceKey, visit)
	}
	for i := range c.draining {
		visit(c.draining[i])
	}
	return nil
}

// countIPv4 reads the real servers of s that leave into c.draining, and reports whether
// all are there: the option passes over real servers of the other family.
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
	clear(b[:destEntries])
	forget(b[destEntries:])
	putGetDests(b, s.ServiceKey, room)
	if getsockopt(c.inet, getDests, b) != nil {
		return false
	}
	entries := writtenEntries(b[destEntries:])
	if len(entries) == len(b)-destEntries {
		return false // there may be more
	}
	missing := 0
	c.leaving = c.leaving[:0]
	for i := range s.Leaving {
		l := &s.Leaving[i]
		if !l.Gone {
			missing++
		}
		if l.Address.Is4() {
			address := l.Address.As4()
			c.leaving = append(c.leaving, binary.NativeEndian.Uint32(address[:]))
		}
	}
	c.draining = c.draining[:0]
	for rest := entries; len(rest) > 0; rest = rest[destEntryBytes:] {
		// Mostly one of many leaves.
		if !slices.Contains(c.leaving, binary.NativeEndian.Uint32(rest[destEntryAddr:])) {
			continue
		}
		l := findLeaving(s.Leaving, destOf(rest, s.Port))
		if l == nil {
			continue
		}
		if !l.Gone {
			missing--
		}
		c.draining = append(c.draining, destEntry(rest, s.Port))
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

// forget takes the addresses out of the entries of b: those that have one afterwards are
// the kernel's, which writes the whole of an entry.
func forget(b []byte) {
	for ; len(b) >= destEntryBytes; b = b[destEntryBytes:] {
		binary.NativeEndian.PutUint32(b[destEntryAddr:], 0)
	}
}

// writtenEntries are those of b that the kernel has written: the others have no address.
func writtenEntries(b []byte) []byte {
	n := 0
	for n+destEntryBytes <= len(b) && binary.NativeEndian.Uint32(b[n+destEntryAddr:]) != 0 {
		n += destEntryBytes
	}
	return b[:n]
}

// destOf is the real server of the first of b, of a service with this port: address and
// port.
func destOf(b []byte, servicePort uint16) (r RealServer) {
	r.Address = netip.AddrFrom4([4]byte(b[destEntryAddr:]))
	if port := binary.BigEndian.Uint16(b[destEntryPort:]); port != servicePort {
		r.Port = port
	}
	return r
}

// destEntry is destOf with weight and connections.
func destEntry(b []byte, servicePort uint16) (s KernelServer) {
	s.RealServer = destOf(b, servicePort)
	s.Weight = binary.NativeEndian.Uint32(b[destEntryWeight:])
	s.Connections = Connections{
		Active:     binary.NativeEndian.Uint32(b[destEntryActive:]),
		Inactive:   binary.NativeEndian.Uint32(b[destEntryInactive:]),
		Persistent: binary.NativeEndian.Uint32(b[destEntryPersistent:]),
	}
	return s
}

// getsockopt has the kernel answer the question in b, in place. It takes microseconds, so
// that the Go scheduler need not know of it, which costs as long.
func getsockopt(fd, option int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
