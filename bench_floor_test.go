// The floor under every way to program or to read IPVS: the kernel's own time
// for the same messages. They are encoded before the clock runs, written with as
// few system calls as fit, and the answers are not decoded.
//
// bench_*_test.go measure it beside the controller and its peers, and count
// tables with it. It shares the kernel's numbers with genl_ipvs.go and no code.

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"lvs-controller/test/lab"
)

const (
	floorBatch  = 1024     // messages of one sendmsg
	floorBuffer = 16 << 20 // of the socket: a batch must fit, and its answers
	floorHeader = 20       // struct nlmsghdr and struct genlmsghdr
)

// floorMessage is a command about a service and, if it needs one, about a real
// server in direct routing.
type floorMessage struct {
	cmd     uint8
	flags   uint16
	service netip.AddrPort
	server  netip.Addr
	weight  uint32
}

// floorBytes are messages for one sendmsg, the last of which is acknowledged
// under the sequence number last.
type floorBytes struct {
	bytes []byte
	last  uint32
}

// floorSocket is a netlink socket without anything on top.
type floorSocket struct {
	fd     int
	family uint16
	buf    []byte
}

// dialFloor opens a socket inside h.
func dialFloor(t *testing.T, h *lab.Host) *floorSocket {
	t.Helper()
	f := &floorSocket{buf: make([]byte, 64<<10)}
	var err error
	h.Do(func() { err = f.open() })
	must(t, err)
	return f
}

// open connects f to the IPVS of the calling thread's namespace.
func (f *floorSocket) open() error {
	genl, err := genetlink.Dial(nil)
	if err != nil {
		return err
	}
	defer genl.Close()
	family, err := genl.GetFamily(ipvsFamilyName)
	if err != nil {
		return err
	}
	f.family = family.ID
	if f.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC); err != nil {
		return err
	}
	for _, option := range []int{unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE} {
		if err := unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, option, floorBuffer); err != nil {
			return err
		}
	}
	// Nothing here waits this long, unless an answer was lost.
	return unix.SetsockoptTimeval(f.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30})
}

func (f *floorSocket) close() { unix.Close(f.fd) }

// encode lays messages out in batches, numbered from 1 on in each.
func (f *floorSocket) encode(t *testing.T, all []floorMessage) []floorBytes {
	t.Helper()
	var batches []floorBytes
	for len(all) > 0 {
		n := min(len(all), floorBatch)
		batch := floorBytes{last: uint32(n)}
		for i, m := range all[:n] {
			if i == n-1 {
				m.flags |= unix.NLM_F_ACK
			}
			batch.bytes = append(batch.bytes, f.message(t, m, uint32(i+1))...)
		}
		batches = append(batches, batch)
		all = all[n:]
	}
	return batches
}

// message is one message, encoded.
func (f *floorSocket) message(t *testing.T, m floorMessage, seq uint32) []byte {
	t.Helper()
	at := netlink.NewAttributeEncoder()
	if m.service.IsValid() {
		at.Nested(cmdAttrService, func(at *netlink.AttributeEncoder) error {
			at.Uint16(svcAttrAF, unix.AF_INET)
			at.Uint16(svcAttrProtocol, unix.IPPROTO_TCP)
			at.Bytes(svcAttrAddr, floorAddress(m.service.Addr()))
			at.Bytes(svcAttrPort, binary.BigEndian.AppendUint16(nil, m.service.Port()))
			if m.cmd == cmdNewService {
				at.String(svcAttrSchedName, "rr")
				at.Bytes(svcAttrFlags, make([]byte, 8))
				at.Uint32(svcAttrTimeout, 0)
				at.Bytes(svcAttrNetmask, []byte{255, 255, 255, 255})
			}
			return nil
		})
	}
	if m.server.IsValid() {
		at.Nested(cmdAttrDest, func(at *netlink.AttributeEncoder) error {
			at.Uint16(destAttrAddrFamily, unix.AF_INET)
			at.Bytes(destAttrAddr, floorAddress(m.server))
			at.Bytes(destAttrPort, binary.BigEndian.AppendUint16(nil, m.service.Port()))
			if m.cmd != cmdDelDest {
				at.Uint32(destAttrFwdMethod, uint32(DirectRoute))
				at.Uint32(destAttrWeight, m.weight)
				at.Uint32(destAttrUThresh, 0)
				at.Uint32(destAttrLThresh, 0)
			}
			return nil
		})
	}
	body, err := at.Encode()
	must(t, err)
	b := binary.NativeEndian.AppendUint32(nil, uint32(floorHeader+len(body)))
	b = binary.NativeEndian.AppendUint16(b, f.family)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|m.flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0, m.cmd, ipvsVersion, 0, 0)
	return append(b, body...)
}

// floorAddress is a union nf_inet_addr.
func floorAddress(a netip.Addr) []byte {
	b := a.As4()
	return append(b[:], make([]byte, 12)...)
}

// send writes batches and waits for the acknowledgement of each one's last
// message.
func (f *floorSocket) send(batches []floorBytes) error {
	for _, b := range batches {
		if _, err := unix.Write(f.fd, b.bytes); err != nil {
			return err
		}
		for done := false; !done; {
			if _, err := unix.Read(f.fd, f.buf); err != nil {
				return err
			}
			seq := binary.NativeEndian.Uint32(f.buf[8:])
			if errno := binary.NativeEndian.Uint32(f.buf[unix.NLMSG_HDRLEN:]); errno != 0 {
				return fmt.Errorf("message %d of %d: %w", seq, b.last, unix.Errno(-int32(errno)))
			}
			done = seq == b.last
		}
	}
	return nil
}

// dumps are the requests that read a whole table: its services, and the real
// servers of each.
func (f *floorSocket) dumps(t *testing.T, services []netip.AddrPort) [][]byte {
	requests := [][]byte{f.message(t, floorMessage{cmd: cmdGetService, flags: unix.NLM_F_DUMP}, 1)}
	for _, s := range services {
		requests = append(requests, f.message(t, floorMessage{cmd: cmdGetDest, flags: unix.NLM_F_DUMP, service: s}, 1))
	}
	return requests
}

// read sends one dump request and reads its answer to the end. It passes what
// each system call brings to each, which may be nil.
func (f *floorSocket) read(request []byte, each func([]byte)) error {
	if _, err := unix.Write(f.fd, request); err != nil {
		return err
	}
	for {
		n, err := unix.Read(f.fd, f.buf)
		if err != nil {
			return err
		}
		if each != nil {
			each(f.buf[:n])
		}
		// The end mark is a message of 20 bytes, behind all others.
		if n >= floorHeader && binary.NativeEndian.Uint16(f.buf[n-floorHeader+4:]) == unix.NLMSG_DONE &&
			binary.NativeEndian.Uint32(f.buf[n-floorHeader:]) == floorHeader {
			return nil
		}
	}
}

// rows passes each row of a dump's answer to each, as the bytes of its
// attributes.
func (f *floorSocket) rows(t *testing.T, request []byte, each func([]byte)) {
	t.Helper()
	must(t, f.read(request, func(b []byte) {
		for len(b) >= floorHeader {
			n := int(binary.NativeEndian.Uint32(b))
			if binary.NativeEndian.Uint16(b[4:]) == f.family {
				each(b[floorHeader:n])
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}))
}

// services counts the services.
func (f *floorSocket) services(t *testing.T) int {
	n := 0
	f.rows(t, f.dumps(t, nil)[0], func([]byte) { n++ })
	return n
}

// count counts the real servers of services, and those of weight 0.
func (f *floorSocket) count(t *testing.T, services []netip.AddrPort) (rows, quiesced int) {
	t.Helper()
	for _, request := range f.dumps(t, services)[1:] {
		f.rows(t, request, func(b []byte) {
			rows++
			if floorWeight(t, b) == 0 {
				quiesced++
			}
		})
	}
	return rows, quiesced
}

// floorWeight is that of the real server in the attributes b.
func floorWeight(t *testing.T, b []byte) (w uint32) {
	message, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		t.Fatal(err)
	}
	for message.Next() {
		message.Nested(func(dest *netlink.AttributeDecoder) error {
			for dest.Next() {
				if dest.Type() == destAttrWeight {
					w = dest.Uint32()
				}
			}
			return nil
		})
	}
	if err := message.Err(); err != nil {
		t.Fatal(err)
	}
	return w
}
