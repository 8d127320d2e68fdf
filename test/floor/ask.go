package floor

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"lvs-controller/test/lab"
)

// Of include/uapi/linux/ip_vs.h, on 64-bit machines.
const (
	soGetDests = 64 + 1024 + 64 + 4 // IP_VS_SO_GET_DESTS
	askHeader  = 24                 // struct ip_vs_get_dests
	askEntry   = 96                 // struct ip_vs_dest_entry
)

// Asker asks for the connections of real servers in the cheapest way that the kernel has:
// one system call for a service, without a dump over netlink. The answers are not read.
type Asker struct {
	fd  int
	buf []byte
}

// DialAsker opens an Asker inside h, for services of at most so many real servers.
func DialAsker(t *testing.T, h *lab.Host, servers int) *Asker {
	t.Helper()
	a := &Asker{buf: make([]byte, askHeader+servers*askEntry)}
	var err error
	h.Do(func() { a.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) })
	lab.Must(t, err)
	return a
}

func (a *Asker) Close() { unix.Close(a.fd) }

// Ask has the kernel count the connections of the real servers of a TCP service.
func (a *Asker) Ask(service netip.AddrPort) error {
	address := service.Addr().As4()
	binary.NativeEndian.PutUint16(a.buf, unix.IPPROTO_TCP)
	copy(a.buf[4:], address[:])
	binary.BigEndian.PutUint16(a.buf[8:], service.Port())
	binary.NativeEndian.PutUint32(a.buf[16:], uint32((len(a.buf)-askHeader)/askEntry))
	size := uint32(len(a.buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(a.fd), unix.SOL_IP, soGetDests,
		uintptr(unsafe.Pointer(&a.buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
