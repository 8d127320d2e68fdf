// Decodes IPVS generic netlink messages.
//
// Used by reconcile*.go, http*.go, cmd*.go and main.go. The files genl_conn.go and
// genl_dump.go pass the kernel's bytes to these functions; the other files use
// the decoded types. Every length is checked before the read. No function keeps
// a reference to its buffer, and none panics, whatever the bytes are (see the
// fuzz targets).

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// nlaTypeMask strips NLA_F_NESTED and NLA_F_NET_BYTEORDER (NLA_TYPE_MASK in
// include/uapi/linux/netlink.h).
const nlaTypeMask = 0x3fff

var errTruncated = errors.New("truncated netlink message")

// attrs walks the attributes of one nesting level without allocating:
//
//	for a.next() { switch a.typ { case …: x = a.u32() } }
//	return a.err
type attrs struct {
	rest []byte
	typ  uint16 // type of the current attribute, without its flag bits
	data []byte // its payload
	err  error  // the first malformed attribute; next returns false from then on
}

func (a *attrs) next() bool {
	if a.err != nil || len(a.rest) == 0 {
		return false
	}
	n := 0
	if len(a.rest) >= 4 {
		n = int(binary.NativeEndian.Uint16(a.rest))
	}
	if n < 4 || n > len(a.rest) {
		a.err = errTruncated
		return false
	}
	a.typ = binary.NativeEndian.Uint16(a.rest[2:]) & nlaTypeMask
	a.data = a.rest[4:n]
	a.rest = a.rest[min((n+3)&^3, len(a.rest)):]
	return true
}

// sized returns the payload when it has at least n bytes, else records an
// error and returns zeros, so that callers stay linear.
func (a *attrs) sized(n int) []byte {
	if len(a.data) < n {
		a.err = fmt.Errorf("attribute %d has %d bytes, want %d: %w", a.typ, len(a.data), n, errTruncated)
		return zeros[:n]
	}
	return a.data
}

var zeros = make([]byte, 16)

func (a *attrs) u8() uint8    { return a.sized(1)[0] }
func (a *attrs) u16() uint16  { return binary.NativeEndian.Uint16(a.sized(2)) }
func (a *attrs) u32() uint32  { return binary.NativeEndian.Uint32(a.sized(4)) }
func (a *attrs) u64() uint64  { return binary.NativeEndian.Uint64(a.sized(8)) }
func (a *attrs) port() uint16 { return binary.BigEndian.Uint16(a.sized(2)) }

// str returns a NUL-terminated string: of a scheduler the name that schedulers
// has.
func (a *attrs) str() string {
	b, _, _ := bytes.Cut(a.data, zeros[:1])
	if s := schedulersByName[string(b)]; s != nil { // no allocation: map look-up by converted bytes
		return s.name
	}
	return string(b)
}

// name is str for what the kernel keeps in 16 bytes: IP_VS_SCHEDNAME_MAXLEN,
// IP_VS_PENAME_MAXLEN, IP_VS_IFNAME_MAXLEN.
func (a *attrs) name() string {
	s := a.str()
	if len(s) > 15 {
		a.err = fmt.Errorf("attribute %d: a name of %d characters", a.typ, len(s))
		return ""
	}
	return s
}

// inetAddr reads a union nf_inet_addr of the given family; b is nil where there is
// none.
func inetAddr(b []byte, family uint16) (netip.Addr, error) {
	switch {
	case b == nil:
	case family == unix.AF_INET:
		return netip.AddrFrom4([4]byte(b)), nil
	case family == unix.AF_INET6:
		return netip.AddrFrom16([16]byte(b)), nil
	}
	return netip.Addr{}, fmt.Errorf("no address of a known family (%d): %w", family, errTruncated)
}

// Traffic is what the kernel counted for a service or a real server
// (IPVS_*_ATTR_STATS64). Direct routing sees only the clients' half.
type Traffic struct {
	Connections  uint64 `json:"connections"`     // scheduled since the row was made
	InPackets    uint64 `json:"in_packets"`      //
	InBytes      uint64 `json:"in_bytes"`        //
	ConnsPerSec  uint64 `json:"conns_per_sec"`   // rates are the kernel's own
	InPktsPerSec uint64 `json:"in_pkts_per_sec"` // two-second moving averages
	InBytesPerS  uint64 `json:"in_bytes_per_sec"`
}

// add adds o to t.
func (t *Traffic) add(o *Traffic) {
	t.Connections += o.Connections
	t.InPackets += o.InPackets
	t.InBytes += o.InBytes
	t.ConnsPerSec += o.ConnsPerSec
	t.InPktsPerSec += o.InPktsPerSec
	t.InBytesPerS += o.InBytesPerS
}

// traffic reads the current attribute, nested statistics, into t unless that is
// nil.
func (a *attrs) traffic(t *Traffic) {
	if t == nil {
		return
	}
	fields := [...]*uint64{
		statsAttrConns:    &t.Connections,
		statsAttrInPkts:   &t.InPackets,
		statsAttrInBytes:  &t.InBytes,
		statsAttrCPS:      &t.ConnsPerSec,
		statsAttrInPPS:    &t.InPktsPerSec,
		statsAttrInBytesS: &t.InBytesPerS,
	}
	stats := attrs{rest: a.data}
	for stats.next() {
		if i := int(stats.typ); i < len(fields) && fields[i] != nil {
			*fields[i] = stats.u64()
		}
	}
	if stats.err != nil {
		a.err = stats.err
	}
}

// nested walks the attributes inside the one of type want, at the top level of a
// message body.
func nested(body []byte, want uint16) attrs {
	a := attrs{rest: body}
	for a.next() {
		if a.typ == want {
			return attrs{rest: a.data}
		}
	}
	if a.err == nil {
		a.err = fmt.Errorf("attribute %d is missing: %w", want, errTruncated)
	}
	return a
}

// decodeService reads one message of an IPVS_CMD_GET_SERVICE dump into v, and
// its counters into t unless that is nil.
func decodeService(body []byte, v *VirtualService, t *Traffic) error {
	*v = VirtualService{}
	var (
		family uint16
		addr   []byte
		mask   [4]byte
	)
	a := nested(body, cmdAttrService)
	for a.next() {
		switch a.typ {
		case svcAttrAF:
			family = a.u16()
		case svcAttrProtocol:
			v.Protocol = Protocol(a.u16())
		case svcAttrAddr:
			addr = a.sized(16)
		case svcAttrPort:
			v.Port = a.port()
		case svcAttrFWMark:
			v.Mark = a.u32()
		case svcAttrSchedName:
			v.Scheduler = a.name()
		case svcAttrPEName:
			v.Engine = a.name()
		case svcAttrFlags:
			v.Flags = ServiceFlags(binary.NativeEndian.Uint32(a.sized(8))) & settableFlags
		case svcAttrTimeout:
			v.Persistence = a.u32()
		case svcAttrNetmask:
			mask = [4]byte(a.sized(4))
		case svcAttrStats64:
			a.traffic(t)
		}
	}
	if a.err != nil {
		return a.err
	}
	if v.Mark != 0 {
		v.ServiceKey = MarkKey(v.Mark, family == unix.AF_INET6)
		addr = zeros
	}
	v.Netmask = prefixBits(mask, family)
	address, err := inetAddr(addr, family)
	if v.Mark == 0 {
		v.Address = address
	}
	return err
}

// prefixBits is ipv4Prefix, and the same for an IPv6 prefix length.
func prefixBits(mask [4]byte, family uint16) uint8 {
	if family == unix.AF_INET6 {
		switch n := binary.NativeEndian.Uint32(mask[:]); {
		case n == 0 || n == 128:
			return 0
		case n < 128:
			return uint8(n)
		}
		return oddNetmask
	}
	return ipv4Prefix(mask)
}

// KernelServer is a real server as a dump shows it.
type KernelServer struct {
	RealServer
	Connections Connections
	Traffic     Traffic
}

// decodeServer reads one message of an IPVS_CMD_GET_DEST dump for service k
// into r, and its counters into c and t unless they are nil: reading them is
// most of the work.
func decodeServer(body []byte, k *ServiceKey, r *RealServer, c *Connections, t *Traffic) error {
	*r = RealServer{}
	var (
		a      = nested(body, cmdAttrDest)
		addr   []byte
		family = uint16(familyNumber(k.Address.Is6())) // kernels before 3.18 do not say
	)
	for a.next() {
		switch a.typ {
		case destAttrAddr:
			addr = a.sized(16)
		case destAttrPort:
			if r.Port = a.port(); r.Port == k.Port {
				r.Port = 0
			}
		case destAttrFwdMethod:
			r.Forward = ForwardingMethod(a.u32() & 7) // IP_VS_CONN_F_FWD_MASK
		case destAttrWeight:
			r.Weight = a.u32()
		case destAttrUThresh:
			r.Upper = a.u32()
		case destAttrLThresh:
			r.Lower = a.u32()
		case destAttrAddrFamily:
			family = a.u16()
		case destAttrTunType:
			r.Tunnel.Type = TunnelType(a.u8())
		case destAttrTunPort:
			r.Tunnel.Port = a.port()
		case destAttrTunFlags:
			r.Tunnel.Flags = TunnelFlags(a.u16())
		case destAttrActiveConns, destAttrInactConns, destAttrPersistConns, destAttrStats64:
			a.counters(c, t)
		}
	}
	if a.err != nil {
		return a.err
	}
	r.Tunnel = r.Tunnel.effective(r.Forward)
	var err error
	r.Address, err = inetAddr(addr, family)
	return err
}

// counters reads the current attribute of a real server, one of its counters.
func (a *attrs) counters(c *Connections, t *Traffic) {
	if a.typ == destAttrStats64 {
		a.traffic(t)
	}
	if c == nil {
		return
	}
	switch a.typ {
	case destAttrActiveConns:
		c.Active = a.u32()
	case destAttrInactConns:
		c.Inactive = a.u32()
	case destAttrPersistConns:
		c.Persistent = a.u32()
	}
}

// decodeTimeouts reads the answer to IPVS_CMD_GET_CONFIG.
func decodeTimeouts(body []byte) (Timeouts, error) {
	var t Timeouts
	a := attrs{rest: body}
	for a.next() {
		switch a.typ {
		case cmdAttrTimeoutTCP:
			t.TCP = time.Duration(a.u32()) * time.Second
		case cmdAttrTimeoutTCPFin:
			t.TCPFin = time.Duration(a.u32()) * time.Second
		case cmdAttrTimeoutUDP:
			t.UDP = time.Duration(a.u32()) * time.Second
		}
	}
	return t, a.err
}

// decodeDaemon reads one message of an IPVS_CMD_GET_DAEMON dump.
func decodeDaemon(body []byte) (SyncDaemon, error) {
	var d SyncDaemon
	a := nested(body, cmdAttrDaemon)
	for a.next() {
		switch a.typ {
		case daemonAttrState:
			d.Role = SyncRole(a.u32())
		case daemonAttrIFN:
			d.Interface = a.name()
		case daemonAttrSyncID:
			d.ID = uint8(a.u32()) // a byte in the messages between directors
		case daemonAttrMaxLen:
			d.MaxLen = a.u16()
		case daemonAttrGroup:
			d.Group = netip.AddrFrom4([4]byte(a.sized(4)))
		case daemonAttrGroup6:
			d.Group = netip.AddrFrom16([16]byte(a.sized(16)))
		case daemonAttrPort:
			d.Port = a.u16()
		case daemonAttrTTL:
			d.TTL = a.u8()
		}
	}
	return d, a.err
}

// KernelInfo is the answer to IPVS_CMD_GET_INFO.
type KernelInfo struct {
	Version     string // of IPVS, "1.2.1"
	ConnTabSize uint32 // buckets of the connection table
}

func decodeInfo(body []byte) (KernelInfo, error) {
	var i KernelInfo
	a := attrs{rest: body}
	for a.next() {
		switch a.typ {
		case infoAttrVersion:
			v := a.u32()
			i.Version = fmt.Sprintf("%d.%d.%d", v>>16&0xff, v>>8&0xff, v&0xff)
		case infoAttrConnTabSize:
			i.ConnTabSize = a.u32()
		}
	}
	return i, a.err
}

// kernelReply is one netlink message of an answer.
type kernelReply struct {
	seq  uint32
	typ  uint16 // NLMSG_ERROR, NLMSG_DONE or the family's number
	body []byte // after struct genlmsghdr

	interrupted bool // the list has changed since the message before
	// For NLMSG_ERROR and NLMSG_DONE:
	errno  unix.Errno // 0 = acknowledged
	extack string     // NLMSGERR_ATTR_MSG, "" when the kernel said nothing more
}

// control reports whether r is an acknowledgement, a refusal or the end of a dump, and
// not a message of the family.
func (r *kernelReply) control() bool {
	return r.typ == unix.NLMSG_ERROR || r.typ == unix.NLMSG_DONE
}

// next reads the first message of b, which is what one recvmsg returned, and
// returns the rest.
func (r *kernelReply) next(b []byte) (rest []byte, err error) {
	n := 0
	if len(b) >= unix.NLMSG_HDRLEN {
		n = int(binary.NativeEndian.Uint32(b))
	}
	if n < unix.NLMSG_HDRLEN || n > len(b) {
		return nil, errTruncated
	}
	flags := binary.NativeEndian.Uint16(b[6:])
	*r = kernelReply{
		typ: binary.NativeEndian.Uint16(b[4:]),
		seq: binary.NativeEndian.Uint32(b[8:]),

		interrupted: flags&unix.NLM_F_DUMP_INTR != 0,
	}
	body := b[unix.NLMSG_HDRLEN:n]
	rest = b[min((n+3)&^3, len(b)):]
	switch {
	case len(body) < 4 && r.typ == unix.NLMSG_DONE:
		return rest, nil
	case len(body) < 4: // struct genlmsghdr, or the errno
		return nil, errTruncated
	case !r.control():
		r.body = body[unix.GENL_HDRLEN:]
		return rest, nil
	}
	r.errno = unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	if flags&unix.NLM_F_ACK_TLVS == 0 {
		return rest, nil
	}
	tlvs := body[4:]
	if r.typ == unix.NLMSG_ERROR {
		// struct nlmsgerr repeats the request's header and, unless
		// NETLINK_CAP_ACK capped it, the request's body.
		skip := unix.NLMSG_HDRLEN
		if len(tlvs) >= skip && flags&unix.NLM_F_CAPPED == 0 {
			skip = (int(binary.NativeEndian.Uint32(tlvs)) + 3) &^ 3
		}
		if skip < unix.NLMSG_HDRLEN || skip > len(tlvs) {
			return nil, errTruncated
		}
		tlvs = tlvs[skip:]
	}
	a := attrs{rest: tlvs}
	for a.next() {
		if a.typ == unix.NLMSGERR_ATTR_MSG {
			r.extack = a.str()
		}
	}
	return rest, a.err
}
