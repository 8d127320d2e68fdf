// Package floor is the floor under every way to program or to read IPVS: the kernel's
// own time for the same messages. They are encoded before the clock runs, written with
// as few system calls as fit, and the answers are not decoded.
//
// Benchmarks measure it beside the controller and its peers, and tests read tables
// with it where ipvsadm is too slow. It has no code and no constant of the controller's.
package floor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"lvs-controller/test/lab"
)

// Commands, attributes and values of include/uapi/linux/ip_vs.h.
const (
	NewService = 1 // IPVS_CMD_NEW_SERVICE
	NewDest    = 5 // IPVS_CMD_NEW_DEST
	SetDest    = 6 // IPVS_CMD_SET_DEST
	DelDest    = 7 // IPVS_CMD_DEL_DEST
	getService = 4 // IPVS_CMD_GET_SERVICE
	getDest    = 8 // IPVS_CMD_GET_DEST

	cmdAttrService = 1 // IPVS_CMD_ATTR_SERVICE
	cmdAttrDest    = 2 // IPVS_CMD_ATTR_DEST

	svcAttrAF        = 1 // IPVS_SVC_ATTR_AF
	svcAttrProtocol  = 2 // IPVS_SVC_ATTR_PROTOCOL
	svcAttrAddr      = 3 // IPVS_SVC_ATTR_ADDR
	svcAttrPort      = 4 // IPVS_SVC_ATTR_PORT
	svcAttrSchedName = 6 // IPVS_SVC_ATTR_SCHED_NAME
	svcAttrFlags     = 7 // IPVS_SVC_ATTR_FLAGS
	svcAttrTimeout   = 8 // IPVS_SVC_ATTR_TIMEOUT
	svcAttrNetmask   = 9 // IPVS_SVC_ATTR_NETMASK

	destAttrAddr       = 1  // IPVS_DEST_ATTR_ADDR
	destAttrPort       = 2  // IPVS_DEST_ATTR_PORT
	destAttrFwdMethod  = 3  // IPVS_DEST_ATTR_FWD_METHOD
	destAttrWeight     = 4  // IPVS_DEST_ATTR_WEIGHT
	destAttrUThresh    = 5  // IPVS_DEST_ATTR_U_THRESH
	destAttrLThresh    = 6  // IPVS_DEST_ATTR_L_THRESH
	destAttrAddrFamily = 11 // IPVS_DEST_ATTR_ADDR_FAMILY

	directRoute = 3 // IP_VS_CONN_F_DROUTE
)

const (
	batchMessages = 1024     // messages of one sendmsg
	bufferBytes   = 16 << 20 // of the socket: a batch must fit, and its answers
	headerBytes   = 20       // struct nlmsghdr and struct genlmsghdr
)

// Message is a command about a service and, if it needs one, about a real
// server in direct routing.
type Message struct {
	Cmd     uint8
	Service netip.AddrPort
	Server  netip.Addr
	Weight  uint32
	flags   uint16
}

// Batch are messages for one sendmsg, the last of which is acknowledged
// under the sequence number last.
type Batch struct {
	bytes []byte
	last  uint32
}

// Socket is a netlink socket without anything on top.
type Socket struct {
	fd     int
	family uint16
	buf    []byte
}

// Dial opens a socket inside h.
func Dial(t *testing.T, h *lab.Host) *Socket {
	t.Helper()
	f := &Socket{buf: make([]byte, 64<<10)}
	var err error
	h.Do(func() { err = f.open() })
	lab.Must(t, err)
	return f
}

// open connects f to the IPVS of the calling thread's namespace.
func (f *Socket) open() error {
	genl, err := genetlink.Dial(nil)
	if err != nil {
		return err
	}
	defer genl.Close()
	family, err := genl.GetFamily("IPVS")
	if err != nil {
		return err
	}
	f.family = family.ID
	if f.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC); err != nil {
		return err
	}
	for _, option := range []int{unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE} {
		if err := unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, option, bufferBytes); err != nil {
			return err
		}
	}
	// Nothing here waits this long, unless an answer was lost.
	return unix.SetsockoptTimeval(f.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30})
}

func (f *Socket) Close() { unix.Close(f.fd) }

// Encode lays messages out in batches, numbered from 1 on in each.
func (f *Socket) Encode(t *testing.T, all []Message) []Batch {
	t.Helper()
	var batches []Batch
	for len(all) > 0 {
		n := min(len(all), batchMessages)
		batch := Batch{last: uint32(n)}
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

// message is encode, which must succeed.
func (f *Socket) message(t *testing.T, m Message, seq uint32) []byte {
	t.Helper()
	b, err := f.encode(m, seq)
	lab.Must(t, err)
	return b
}

// encode makes one message.
func (f *Socket) encode(m Message, seq uint32) ([]byte, error) {
	at := netlink.NewAttributeEncoder()
	if m.Service.IsValid() {
		at.Nested(cmdAttrService, func(at *netlink.AttributeEncoder) error {
			at.Uint16(svcAttrAF, unix.AF_INET)
			at.Uint16(svcAttrProtocol, unix.IPPROTO_TCP)
			at.Bytes(svcAttrAddr, address(m.Service.Addr()))
			at.Bytes(svcAttrPort, binary.BigEndian.AppendUint16(nil, m.Service.Port()))
			if m.Cmd == NewService {
				at.String(svcAttrSchedName, "rr")
				at.Bytes(svcAttrFlags, make([]byte, 8))
				at.Uint32(svcAttrTimeout, 0)
				at.Bytes(svcAttrNetmask, []byte{255, 255, 255, 255})
			}
			return nil
		})
	}
	if m.Server.IsValid() {
		at.Nested(cmdAttrDest, func(at *netlink.AttributeEncoder) error {
			at.Uint16(destAttrAddrFamily, unix.AF_INET)
			at.Bytes(destAttrAddr, address(m.Server))
			at.Bytes(destAttrPort, binary.BigEndian.AppendUint16(nil, m.Service.Port()))
			if m.Cmd != DelDest {
				at.Uint32(destAttrFwdMethod, directRoute)
				at.Uint32(destAttrWeight, m.Weight)
				at.Uint32(destAttrUThresh, 0)
				at.Uint32(destAttrLThresh, 0)
			}
			return nil
		})
	}
	body, err := at.Encode()
	if err != nil {
		return nil, err
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(headerBytes+len(body)))
	b = binary.NativeEndian.AppendUint16(b, f.family)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|m.flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0, m.Cmd, 1, 0, 0)
	return append(b, body...), nil
}

// address is a union nf_inet_addr.
func address(a netip.Addr) []byte {
	b := a.As4()
	return append(b[:], make([]byte, 12)...)
}

// Send writes batches and waits for the acknowledgement of each one's last
// message.
func (f *Socket) Send(batches []Batch) error {
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

// Dumps are the requests that read a whole table: its services, and the real
// servers of each.
func (f *Socket) Dumps(t *testing.T, services []netip.AddrPort) [][]byte {
	requests := [][]byte{f.message(t, Message{Cmd: getService, flags: unix.NLM_F_DUMP}, 1)}
	for _, s := range services {
		requests = append(requests, f.message(t, Message{Cmd: getDest, flags: unix.NLM_F_DUMP, Service: s}, 1))
	}
	return requests
}

// Read sends one dump request and reads its answer to the end. It passes what
// each system call brings to each, which may be nil.
func (f *Socket) Read(request []byte, each func([]byte)) error {
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
		if n >= headerBytes && binary.NativeEndian.Uint16(f.buf[n-headerBytes+4:]) == unix.NLMSG_DONE &&
			binary.NativeEndian.Uint32(f.buf[n-headerBytes:]) == headerBytes {
			return nil
		}
	}
}

// Rows passes each row of a dump's answer to each, as the bytes of its
// attributes.
func (f *Socket) Rows(t *testing.T, request []byte, each func([]byte)) {
	t.Helper()
	lab.Must(t, f.rows(request, each))
}

// rows is Rows, which may fail.
func (f *Socket) rows(request []byte, each func([]byte)) error {
	return f.Read(request, func(b []byte) {
		for len(b) >= headerBytes {
			n := int(binary.NativeEndian.Uint32(b))
			if binary.NativeEndian.Uint16(b[4:]) == f.family {
				each(b[headerBytes:n])
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	})
}

// Services counts the services.
func (f *Socket) Services(t *testing.T) int {
	n := 0
	f.Rows(t, f.Dumps(t, nil)[0], func([]byte) { n++ })
	return n
}

// Count counts the real servers of services, and those of weight 0.
func (f *Socket) Count(t *testing.T, services []netip.AddrPort) (rows, quiesced int) {
	t.Helper()
	for _, request := range f.Dumps(t, services)[1:] {
		f.Rows(t, request, func(b []byte) {
			rows++
			if _, weight, err := row(b); err != nil {
				t.Fatal(err)
			} else if weight == 0 {
				quiesced++
			}
		})
	}
	return rows, quiesced
}

// Weights are the real servers of an IPv4 service, none if there is no such service.
func (f *Socket) Weights(service netip.AddrPort) (map[netip.Addr]uint32, error) {
	weights := make(map[netip.Addr]uint32)
	request, err := f.encode(Message{Cmd: getDest, flags: unix.NLM_F_DUMP, Service: service}, 1)
	if err != nil {
		return nil, err
	}
	var broken error
	err = f.rows(request, func(b []byte) {
		server, weight, err := row(b)
		if err != nil {
			broken = err
			return
		}
		weights[server] = weight
	})
	return weights, errors.Join(err, broken)
}

// row is the real server in the attributes b. The address is an IPv4 one.
func row(b []byte) (server netip.Addr, weight uint32, err error) {
	message, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return server, weight, err
	}
	for message.Next() {
		message.Nested(func(dest *netlink.AttributeDecoder) error {
			for dest.Next() {
				switch dest.Type() {
				case destAttrAddr:
					if union := dest.Bytes(); len(union) >= 4 {
						server = netip.AddrFrom4([4]byte(union))
					}
				case destAttrWeight:
					weight = dest.Uint32()
				}
			}
			return nil
		})
	}
	return server, weight, message.Err()
}
