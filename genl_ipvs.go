// Encodes IPVS generic netlink messages, and names the kernel's constants.
//
// Used by genl*.go. genl_conn.go sends what is encoded here, genl_decode.go
// reads the answers. An encoder appends to one buffer that is used again, and
// allocates nothing once the buffer has grown. It never builds IPVS_CMD_FLUSH:
// other programs have services in the kernel's table too.
//
// Names, numbers and types are those of include/uapi/linux/ip_vs.h and
// the policies in net/netfilter/ipvs/ip_vs_ctl.c. Integers are in host order
// unless marked be16 or be32.

package main

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ipvsFamilyName = "IPVS" // IPVS_GENL_NAME
	ipvsVersion    = 1      // IPVS_GENL_VERSION
)

// Commands: enum of IPVS_CMD_*.
const (
	cmdNewService = 1  // IPVS_CMD_NEW_SERVICE
	cmdSetService = 2  // IPVS_CMD_SET_SERVICE
	cmdDelService = 3  // IPVS_CMD_DEL_SERVICE
	cmdGetService = 4  // IPVS_CMD_GET_SERVICE
	cmdNewDest    = 5  // IPVS_CMD_NEW_DEST
	cmdSetDest    = 6  // IPVS_CMD_SET_DEST
	cmdDelDest    = 7  // IPVS_CMD_DEL_DEST
	cmdGetDest    = 8  // IPVS_CMD_GET_DEST
	cmdNewDaemon  = 9  // IPVS_CMD_NEW_DAEMON
	cmdDelDaemon  = 10 // IPVS_CMD_DEL_DAEMON
	cmdGetDaemon  = 11 // IPVS_CMD_GET_DAEMON
	cmdSetConfig  = 12 // IPVS_CMD_SET_CONFIG
	cmdGetConfig  = 13 // IPVS_CMD_GET_CONFIG
	cmdGetInfo    = 15 // IPVS_CMD_GET_INFO
)

// Top-level attributes: enum of IPVS_CMD_ATTR_*.
const (
	cmdAttrService       = 1 // IPVS_CMD_ATTR_SERVICE, nested
	cmdAttrDest          = 2 // IPVS_CMD_ATTR_DEST, nested
	cmdAttrDaemon        = 3 // IPVS_CMD_ATTR_DAEMON, nested
	cmdAttrTimeoutTCP    = 4 // IPVS_CMD_ATTR_TIMEOUT_TCP, u32 seconds
	cmdAttrTimeoutTCPFin = 5 // IPVS_CMD_ATTR_TIMEOUT_TCP_FIN, u32 seconds
	cmdAttrTimeoutUDP    = 6 // IPVS_CMD_ATTR_TIMEOUT_UDP, u32 seconds
)

// Service attributes, inside cmdAttrService: enum of IPVS_SVC_ATTR_*.
const (
	svcAttrAF        = 1  // IPVS_SVC_ATTR_AF, u16
	svcAttrProtocol  = 2  // IPVS_SVC_ATTR_PROTOCOL, u16
	svcAttrAddr      = 3  // IPVS_SVC_ATTR_ADDR, union nf_inet_addr, 16 bytes
	svcAttrPort      = 4  // IPVS_SVC_ATTR_PORT, be16
	svcAttrFWMark    = 5  // IPVS_SVC_ATTR_FWMARK, u32
	svcAttrSchedName = 6  // IPVS_SVC_ATTR_SCHED_NAME, NUL-terminated, at most 15 characters
	svcAttrFlags     = 7  // IPVS_SVC_ATTR_FLAGS, struct ip_vs_flags: u32 value, u32 mask
	svcAttrTimeout   = 8  // IPVS_SVC_ATTR_TIMEOUT, u32 seconds
	svcAttrNetmask   = 9  // IPVS_SVC_ATTR_NETMASK, be32 mask for IPv4, u32 prefix length for IPv6
	svcAttrPEName    = 11 // IPVS_SVC_ATTR_PE_NAME, NUL-terminated, at most 15 characters
	svcAttrStats64   = 12 // IPVS_SVC_ATTR_STATS64, nested
)

// Destination attributes, inside cmdAttrDest: enum of IPVS_DEST_ATTR_*.
const (
	destAttrAddr         = 1  // IPVS_DEST_ATTR_ADDR, union nf_inet_addr, 16 bytes
	destAttrPort         = 2  // IPVS_DEST_ATTR_PORT, be16
	destAttrFwdMethod    = 3  // IPVS_DEST_ATTR_FWD_METHOD, u32
	destAttrWeight       = 4  // IPVS_DEST_ATTR_WEIGHT, u32
	destAttrUThresh      = 5  // IPVS_DEST_ATTR_U_THRESH, u32 connections
	destAttrLThresh      = 6  // IPVS_DEST_ATTR_L_THRESH, u32 connections
	destAttrActiveConns  = 7  // IPVS_DEST_ATTR_ACTIVE_CONNS, u32
	destAttrInactConns   = 8  // IPVS_DEST_ATTR_INACT_CONNS, u32
	destAttrPersistConns = 9  // IPVS_DEST_ATTR_PERSIST_CONNS, u32
	destAttrAddrFamily   = 11 // IPVS_DEST_ATTR_ADDR_FAMILY, u16; absent before Linux 3.18
	destAttrStats64      = 12 // IPVS_DEST_ATTR_STATS64, nested
	destAttrTunType      = 13 // IPVS_DEST_ATTR_TUN_TYPE, u8; absent before Linux 5.3, as the next two
	destAttrTunPort      = 14 // IPVS_DEST_ATTR_TUN_PORT, be16
	destAttrTunFlags     = 15 // IPVS_DEST_ATTR_TUN_FLAGS, u16
)

// Sync daemon attributes, inside cmdAttrDaemon: enum of IPVS_DAEMON_ATTR_*.
const (
	daemonAttrState  = 1 // IPVS_DAEMON_ATTR_STATE, u32 role
	daemonAttrIFN    = 2 // IPVS_DAEMON_ATTR_MCAST_IFN, NUL-terminated, at most 15 characters
	daemonAttrSyncID = 3 // IPVS_DAEMON_ATTR_SYNC_ID, u32
	daemonAttrMaxLen = 4 // IPVS_DAEMON_ATTR_SYNC_MAXLEN, u16; absent before Linux 4.3, as all that follow
	daemonAttrGroup  = 5 // IPVS_DAEMON_ATTR_MCAST_GROUP, be32
	daemonAttrGroup6 = 6 // IPVS_DAEMON_ATTR_MCAST_GROUP6, struct in6_addr
	daemonAttrPort   = 7 // IPVS_DAEMON_ATTR_MCAST_PORT, u16 in host order
	daemonAttrTTL    = 8 // IPVS_DAEMON_ATTR_MCAST_TTL, u8
)

// Statistics, inside svcAttrStats64 and destAttrStats64: enum of
// IPVS_STATS_ATTR_*, all u64.
const (
	statsAttrConns    = 1 // IPVS_STATS_ATTR_CONNS
	statsAttrInPkts   = 2 // IPVS_STATS_ATTR_INPKTS
	statsAttrInBytes  = 4 // IPVS_STATS_ATTR_INBYTES
	statsAttrCPS      = 6 // IPVS_STATS_ATTR_CPS, per second
	statsAttrInPPS    = 7 // IPVS_STATS_ATTR_INPPS, per second
	statsAttrInBytesS = 9 // IPVS_STATS_ATTR_INBPS, per second
)

// IPVS_CMD_GET_INFO's answer: enum of IPVS_INFO_ATTR_*.
const (
	infoAttrVersion     = 1 // IPVS_INFO_ATTR_VERSION, u32 0x00MMmmpp
	infoAttrConnTabSize = 2 // IPVS_INFO_ATTR_CONN_TAB_SIZE, u32 buckets
)

// encoder appends whole netlink messages to buf. Its methods are called in the
// order of the message; begin and end pairs patch lengths in place.
type encoder struct {
	buf    []byte
	family uint16 // the number the kernel gave the IPVS family
	start  int    // offset of the message being built, or of the last one
	last   *op    // what the last message does, if it is a copy or may be copied

	// The buffer begins with messages that differ in what is at the places below alone,
	// so many bytes of them. A new batch has often the same form, and finds them.
	alike int
	form  messageForm
	mixed bool // the messages since the buffer was emptied are not all of that form
}

// messageForm is what decides the bytes of a message about a real server, but for those
// at the places below.
type messageForm struct {
	kind              opKind
	protocol          Protocol
	service6, server6 bool
	forward           ForwardingMethod
	weight            uint32
	upper, lower      uint32
	tunnel            TunnelSettings
}

func formOf(o *op) messageForm {
	k, r := &o.Service.ServiceKey, o.Server
	return messageForm{o.Kind, k.Protocol, k.Address.Is6(), r.Address.Is6(), r.Forward, r.Weight, r.Upper, r.Lower, r.Tunnel}
}

// begin opens a message: struct nlmsghdr (16 bytes) and struct genlmsghdr (4).
// NLM_F_REQUEST is added to flags.
func (e *encoder) begin(cmd uint8, flags uint16, seq uint32) {
	e.start, e.last = len(e.buf), nil
	e.mixed, e.alike = true, min(e.alike, e.start)
	e.buf = append(e.buf, 0, 0, 0, 0) // nlmsg_len, patched by end
	e.buf = binary.NativeEndian.AppendUint16(e.buf, e.family)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, unix.NLM_F_REQUEST|flags)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, seq)
	e.buf = append(e.buf, 0, 0, 0, 0) // nlmsg_pid: the kernel knows the socket
	e.buf = append(e.buf, cmd, ipvsVersion, 0, 0)
}

// end closes the message opened by begin. Every attribute is padded to four
// bytes, so the message is too.
func (e *encoder) end() {
	binary.NativeEndian.PutUint32(e.buf[e.start:], uint32(len(e.buf)-e.start))
}

// acknowledged makes the kernel acknowledge the last message.
func (e *encoder) acknowledged() {
	flags := e.buf[e.start+placeFlags:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
}

// nest opens a nested attribute and returns its offset for unnest.
func (e *encoder) nest(typ uint16) int {
	at := len(e.buf)
	e.attr(typ|unix.NLA_F_NESTED, 0)
	return at
}

func (e *encoder) unnest(at int) {
	binary.NativeEndian.PutUint16(e.buf[at:], uint16(len(e.buf)-at))
}

// attr appends a struct nlattr for a payload of n bytes.
func (e *encoder) attr(typ uint16, n int) {
	e.buf = binary.NativeEndian.AppendUint16(e.buf, uint16(4+n))
	e.buf = binary.NativeEndian.AppendUint16(e.buf, typ)
}

func (e *encoder) u8(typ uint16, v uint8) {
	e.attr(typ, 1)
	e.buf = append(e.buf, v, 0, 0, 0)
}

func (e *encoder) u16(typ, v uint16) {
	e.attr(typ, 2)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, v)
	e.buf = append(e.buf, 0, 0)
}

func (e *encoder) u32(typ uint16, v uint32) {
	e.attr(typ, 4)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, v)
}

// port appends a be16: the ports of services and real servers are the only
// big-endian numbers of the protocol.
func (e *encoder) port(typ, v uint16) {
	e.attr(typ, 2)
	e.buf = binary.BigEndian.AppendUint16(e.buf, v)
	e.buf = append(e.buf, 0, 0)
}

// addr appends a union nf_inet_addr: 16 bytes, of which IPv4 uses the first 4.
func (e *encoder) addr(typ uint16, a netip.Addr) {
	e.attr(typ, 16)
	if a.Is4() {
		b := a.As4()
		e.buf = append(e.buf, b[:]...)
		e.buf = append(e.buf, make([]byte, 12)...)
		return
	}
	b := a.As16()
	e.buf = append(e.buf, b[:]...)
}

// str appends a NUL-terminated string, padded to four bytes.
func (e *encoder) str(typ uint16, s string) {
	e.attr(typ, len(s)+1)
	e.buf = append(e.buf, s...)
	e.buf = append(e.buf, "\x00\x00\x00\x00"[:4-len(s)%4]...)
}

// key appends the attributes that identify a service.
func (e *encoder) key(k ServiceKey) {
	e.u16(svcAttrAF, uint16(familyNumber(k.Address.Is6())))
	if k.Mark != 0 {
		e.u32(svcAttrFWMark, k.Mark)
		return
	}
	e.u16(svcAttrProtocol, uint16(k.Protocol))
	e.addr(svcAttrAddr, k.Address)
	e.port(svcAttrPort, k.Port)
}

// service appends a whole virtual service. The kernel refuses NEW and SET
// without scheduler, flags, timeout and netmask (ip_vs_genl_parse_service).
func (e *encoder) service(v VirtualService) {
	at := e.nest(cmdAttrService)
	e.key(v.ServiceKey)
	e.str(svcAttrSchedName, v.Scheduler)
	if v.Engine != "" {
		e.str(svcAttrPEName, v.Engine)
	}
	e.attr(svcAttrFlags, 8)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, uint32(v.Flags))
	e.buf = binary.NativeEndian.AppendUint32(e.buf, uint32(settableFlags))
	e.u32(svcAttrTimeout, v.Persistence)
	e.attr(svcAttrNetmask, 4)
	if v.Address.Is4() {
		e.buf = binary.BigEndian.AppendUint32(e.buf, ipv4Mask(v.Netmask))
	} else {
		e.buf = binary.NativeEndian.AppendUint32(e.buf, uint32(cmp.Or(v.Netmask, 128)))
	}
	e.unnest(at)
}

// server appends a real server of service k. With whole false only its
// identity is sent, which is all IPVS_CMD_DEL_DEST reads.
func (e *encoder) server(k ServiceKey, r RealServer, whole bool) {
	at := e.nest(cmdAttrDest)
	e.u16(destAttrAddrFamily, uint16(familyNumber(r.Address.Is6())))
	e.addr(destAttrAddr, r.Address)
	e.port(destAttrPort, cmp.Or(r.Port, k.Port))
	if whole {
		e.u32(destAttrFwdMethod, uint32(r.Forward))
		e.u32(destAttrWeight, r.Weight)
		if r.Forward == Tunnel {
			e.u8(destAttrTunType, uint8(r.Tunnel.Type))
			e.port(destAttrTunPort, r.Tunnel.Port)
			e.u16(destAttrTunFlags, uint16(r.Tunnel.Flags))
		}
		e.u32(destAttrUThresh, r.Upper)
		e.u32(destAttrLThresh, r.Lower)
	}
	e.unnest(at)
}

// opCommands are the commands for the kinds of operations.
var opCommands = [...]uint8{
	newService: cmdNewService,
	setService: cmdSetService,
	newServer:  cmdNewDest,
	setServer:  cmdSetDest,
	delServer:  cmdDelDest,
	delService: cmdDelService,
}

// Places in a message about a real server of a service without a mark: what is before
// each of them has a fixed size.
const (
	placeFlags       = 6 // of the netlink message
	placeSeq         = 8
	placeServiceAddr = 44
	placeServicePort = 64
	placeServerAddr  = 84
	placeServerPort  = 104
)

// copies reports whether the message for o differs from the last one only in what is at
// those places. Most of a long list does, and to copy takes a fifth of the time.
func (e *encoder) copies(o *op) bool {
	l := e.last
	if l == nil || e.start >= len(e.buf) || o.Kind != l.Kind || o.Kind < newServer || o.Kind > delServer {
		return false
	}
	if s, was := &o.Service.ServiceKey, &l.Service.ServiceKey; s.Mark != 0 ||
		s != was && (was.Mark != 0 || s.Protocol != was.Protocol || s.Address.Is6() != was.Address.Is6()) {
		return false
	}
	r, before := o.Server, l.Server
	return r == before || r.Address.Is6() == before.Address.Is6() && r.Forward == before.Forward && r.Weight == before.Weight &&
		r.Upper == before.Upper && r.Lower == before.Lower && r.Tunnel == before.Tunnel
}

// copyLast appends the last message, and changes what is of o.
func (e *encoder) copyLast(o *op, flags uint16, seq uint32) {
	message := e.buf[e.start:]
	e.start = len(e.buf)
	sameService := o.Service == e.last.Service
	if end := e.start + len(message); end <= e.alike {
		e.buf, sameService = e.buf[:end], false // it is there already, about another service
	} else if e.buf = append(e.buf, message...); !e.mixed {
		e.alike = end
	}
	b := e.buf[e.start:]
	binary.NativeEndian.PutUint16(b[placeFlags:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(b[placeSeq:], seq)
	if !sameService {
		putAddr(b[placeServiceAddr:], o.Service.Address)
		binary.BigEndian.PutUint16(b[placeServicePort:], o.Service.Port)
	}
	putAddr(b[placeServerAddr:], o.Server.Address)
	binary.BigEndian.PutUint16(b[placeServerPort:], cmp.Or(o.Server.Port, o.Service.Port))
}

// putAddr writes a into a union nf_inet_addr that had an address of the same family.
func putAddr(b []byte, a netip.Addr) {
	if a.Is4() {
		four := a.As4()
		copy(b, four[:])
	} else {
		sixteen := a.As16()
		copy(b, sixteen[:])
	}
}

// op appends the message for one operation.
func (e *encoder) op(o *op, flags uint16, seq uint32) {
	if e.copies(o) {
		e.copyLast(o, flags, seq)
		e.last = o
		return
	}
	alike := e.alike
	e.begin(opCommands[o.Kind], flags, seq)
	if e.start == 0 && o.Server != nil && o.Service.Mark == 0 {
		if form := formOf(o); form == e.form {
			e.alike = alike
		} else {
			e.form = form
		}
		e.mixed = false
	}
	switch o.Kind {
	case newService, setService:
		e.service(o.Service.VirtualService)
	case delService:
		e.serviceKey(o.Service.ServiceKey)
	case newServer, setServer, delServer:
		e.serviceKey(o.Service.ServiceKey)
		e.server(o.Service.ServiceKey, *o.Server, o.Kind != delServer)
	}
	e.end()
	e.last = o
}

// serviceKey appends a nested service that has only its identity.
func (e *encoder) serviceKey(k ServiceKey) {
	at := e.nest(cmdAttrService)
	e.key(k)
	e.unnest(at)
}

// command appends a request that is nothing but a command.
func (e *encoder) command(cmd uint8, flags uint16, seq uint32) {
	e.begin(cmd, flags, seq)
	e.end()
}

// dumpServers appends a request for the real servers of service k.
func (e *encoder) dumpServers(k ServiceKey, seq uint32) {
	e.begin(cmdGetDest, unix.NLM_F_DUMP, seq)
	e.serviceKey(k)
	e.end()
}

// timeouts appends IPVS_CMD_SET_CONFIG. The kernel reads a missing timeout as
// "leave it" (ip_vs_genl_set_config), so zeros are not sent.
func (e *encoder) timeouts(t Timeouts, seq uint32) {
	e.begin(cmdSetConfig, unix.NLM_F_ACK, seq)
	for attr, d := range [...]time.Duration{
		cmdAttrTimeoutTCP: t.TCP, cmdAttrTimeoutTCPFin: t.TCPFin, cmdAttrTimeoutUDP: t.UDP,
	} {
		if d >= time.Second {
			e.u32(uint16(attr), uint32(d.Seconds()))
		}
	}
	e.end()
}

// daemon appends IPVS_CMD_NEW_DAEMON or IPVS_CMD_DEL_DAEMON. To start one, the kernel
// fills in what is absent; to stop one, it reads only the role.
func (e *encoder) daemon(cmd uint8, d SyncDaemon, seq uint32) {
	e.begin(cmd, unix.NLM_F_ACK, seq)
	at := e.nest(cmdAttrDaemon)
	e.u32(daemonAttrState, uint32(d.Role))
	e.str(daemonAttrIFN, d.Interface)
	e.u32(daemonAttrSyncID, uint32(d.ID))
	if d.MaxLen != 0 {
		e.u16(daemonAttrMaxLen, d.MaxLen)
	}
	if d.Port != 0 {
		e.u16(daemonAttrPort, d.Port)
	}
	if d.TTL != 0 {
		e.u8(daemonAttrTTL, d.TTL)
	}
	switch {
	case d.Group.Is4():
		e.attr(daemonAttrGroup, 4)
		b := d.Group.As4()
		e.buf = append(e.buf, b[:]...)
	case d.Group.Is6():
		e.addr(daemonAttrGroup6, d.Group)
	}
	e.unnest(at)
	e.end()
}
