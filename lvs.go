// The nouns of IPVS: services, real servers, marks, addresses.
//
// Used by cluster*.go, packet_claim.go, rtnl*.go, table*.go, diff*.go, kube*.go,
// config*.go, genl*.go, conflict*.go, health*.go, desired*.go, state*.go, host*.go,
// reconcile*.go, http*.go and cmd*.go. Standard library only, no state, no I/O. It
// uses no other family.

package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Protocol is an IP protocol number that IPVS can balance (RFC 5237 registry;
// kernel: enum IPPROTO_* in include/uapi/linux/in.h).
type Protocol uint8

const (
	TCP  Protocol = 6   // IPPROTO_TCP
	UDP  Protocol = 17  // IPPROTO_UDP
	SCTP Protocol = 132 // IPPROTO_SCTP
)

// String returns the lower-case name used in the configuration, "tcp".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return "proto-" + strconv.Itoa(int(p))
}

// Port is a transport port with its protocol, written "80/tcp".
type Port struct {
	Number   uint16 // 1–65535
	Protocol Protocol
}

func (p Port) String() string { return strconv.Itoa(int(p.Number)) + "/" + p.Protocol.String() }

// Compare orders ports by number, then protocol.
func (p Port) Compare(q Port) int {
	return cmp.Or(cmp.Compare(p.Number, q.Number), cmp.Compare(p.Protocol, q.Protocol))
}

// portRange is ports in a row, of one protocol. The zero value is none.
type portRange struct {
	first Port
	last  uint16
}

// len is how many ports r has.
func (r portRange) len() int {
	if r.first.Number == 0 {
		return 0
	}
	return int(r.last-r.first.Number) + 1
}

// parsePortRange reads "8000-8010/tcp", or one port as ParsePort does.
func parsePortRange(s string) (portRange, error) {
	numbers, _, _ := strings.Cut(s, "/")
	first, last, isRange := strings.Cut(numbers, "-")
	if !isRange {
		p, err := ParsePort(s)
		return portRange{p, p.Number}, err
	}
	begin, err := ParsePort(strings.Replace(s, numbers, first, 1))
	if err != nil {
		return portRange{}, err
	}
	end, err := ParsePortNumber(last)
	if err != nil {
		return portRange{}, err
	}
	if end < begin.Number {
		return portRange{}, fmt.Errorf("it begins with %d, behind its end", begin.Number)
	}
	return portRange{begin, end}, nil
}

// shortPorts names ports in short, such as 80/tcp, 9000-9020/tcp. Three ports in a row
// and more are a range.
func shortPorts(ports []Port) []string {
	ports = slices.Clone(ports)
	sortBy(ports, func(a, b Port) int { return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Compare(b)) })
	var ranges []portRange
	for _, p := range slices.Compact(ports) {
		if n := len(ranges) - 1; n >= 0 && ranges[n].first.Protocol == p.Protocol && p.Number-1 == ranges[n].last {
			ranges[n].last = p.Number
		} else {
			ranges = append(ranges, portRange{p, p.Number})
		}
	}
	sortBy(ranges, func(a, b portRange) int { return a.first.Compare(b.first) })
	var texts []string
	for _, r := range ranges {
		switch r.last - r.first.Number {
		case 0:
			texts = append(texts, r.first.String())
		case 1:
			texts = append(texts, r.first.String(), Port{r.last, r.first.Protocol}.String())
		default:
			texts = append(texts, strconv.Itoa(int(r.first.Number))+"-"+Port{r.last, r.first.Protocol}.String())
		}
	}
	return texts
}

// ParsePort reads "80/tcp". A bare "80" means TCP.
func ParsePort(s string) (Port, error) {
	num, proto, found := strings.Cut(s, "/")
	p := Port{Protocol: TCP}
	var err error
	if found {
		if p.Protocol, err = parseProtocol(proto); err != nil {
			return Port{}, err
		}
	}
	if p.Number, err = ParsePortNumber(num); err != nil {
		return Port{}, err
	}
	return p, nil
}

// parseProtocol reads what Protocol.String writes.
func parseProtocol(s string) (Protocol, error) {
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		if p.String() == s {
			return p, nil
		}
	}
	return 0, fmt.Errorf("protocol %q is not tcp, udp or sctp", shorten(s, quotedText))
}

// ParsePortNumber reads a decimal port, 1–65535, of five digits at most, without
// sign or spaces.
func ParsePortNumber(s string) (uint16, error) {
	if s == "" || strings.TrimLeft(s, "0123456789") != "" {
		return 0, fmt.Errorf("port %q is not a number from 1 to 65535", shorten(s, quotedText))
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || len(s) > len("65535") {
		return 0, fmt.Errorf("port %s is outside 1 to 65535", shorten(s, quotedText))
	}
	return uint16(n), nil
}

// ForwardingMethod is how IPVS hands a packet to a real server
// (IP_VS_CONN_F_* in include/uapi/linux/ip_vs.h, masked by IP_VS_CONN_F_FWD_MASK).
type ForwardingMethod uint32

const (
	Masq        ForwardingMethod = 0 // IP_VS_CONN_F_MASQ
	Local       ForwardingMethod = 1 // IP_VS_CONN_F_LOCALNODE
	Tunnel      ForwardingMethod = 2 // IP_VS_CONN_F_TUNNEL
	DirectRoute ForwardingMethod = 3 // IP_VS_CONN_F_DROUTE
	Bypass      ForwardingMethod = 4 // IP_VS_CONN_F_BYPASS
)

func (f ForwardingMethod) String() string {
	names := [...]string{Masq: "masq", Local: "local", Tunnel: "tunnel", DirectRoute: "dr", Bypass: "bypass"}
	if int(f) < len(names) {
		return names[f]
	}
	return "fwd-" + strconv.Itoa(int(f))
}

// plainAddress reports whether a is written as every address of a table is: not
// IPv4 in IPv6 form, and without a zone, which the kernel's table does not have.
func plainAddress(a netip.Addr) bool { return a.IsValid() && !a.Is4In6() && a.Zone() == "" }

// ServiceKey identifies a virtual service in the kernel's table: an address,
// protocol and port, or a firewall mark. The address is always unmapped (never
// ::ffff:a.b.c.d).
type ServiceKey struct {
	Address  netip.Addr
	Protocol Protocol
	Port     uint16
	// Mark, when not 0, is the whole identity but for the family, which the
	// unspecified Address carries (MarkKey makes such keys).
	Mark uint32
}

// MarkKey is the key of a firewall-mark service of one family.
func MarkKey(mark uint32, is6 bool) ServiceKey {
	a := netip.IPv4Unspecified()
	if is6 {
		a = netip.IPv6Unspecified()
	}
	return ServiceKey{Address: a, Mark: mark}
}

// String is "10.0.0.1:80/tcp", or "mark-4096/ipv6".
func (k ServiceKey) String() string { return string(k.appendTo(nil)) }

// appendTo appends what String gives.
func (k ServiceKey) appendTo(b []byte) []byte {
	if k.Mark != 0 {
		b = strconv.AppendUint(append(b, "mark-"...), uint64(k.Mark), 10)
		if k.Address.Is6() {
			return append(b, "/ipv6"...)
		}
		return append(b, "/ipv4"...)
	}
	b = netip.AddrPortFrom(k.Address, k.Port).AppendTo(b)
	b = append(b, '/')
	return append(b, k.Protocol.String()...)
}

// MarshalText writes k as String does.
func (k ServiceKey) MarshalText() ([]byte, error) { return k.appendTo(nil), nil }

// UnmarshalText reads what String writes, "10.0.0.1:80/tcp".
func (k *ServiceKey) UnmarshalText(text []byte) error {
	at, proto, _ := strings.Cut(string(text), "/")
	if number, marked := strings.CutPrefix(at, "mark-"); marked {
		mark, err := strconv.ParseUint(number, 10, 32)
		if err != nil || mark == 0 || proto != "ipv4" && proto != "ipv6" {
			return fmt.Errorf("virtual service %q is not mark-NUMBER/ipv4 or mark-NUMBER/ipv6", text)
		}
		*k = MarkKey(uint32(mark), proto == "ipv6")
		return nil
	}
	ap, err := netip.ParseAddrPort(at)
	if err == nil && !plainAddress(ap.Addr()) {
		err = errors.New("an IPv4 address in IPv6 form, or one with a zone")
	}
	if err != nil {
		return fmt.Errorf("virtual service %q: %w", text, err)
	}
	p, err := parseProtocol(proto)
	if err != nil {
		return fmt.Errorf("virtual service %q: %w", text, err)
	}
	*k = ServiceKey{Address: ap.Addr(), Protocol: p, Port: ap.Port()}
	return nil
}

// Compare gives the table its order: address (that of marks is unspecified),
// port, protocol, mark.
func (k ServiceKey) Compare(l ServiceKey) int { return k.compare(&l) }

// compare is Compare without copies.
func (k *ServiceKey) compare(l *ServiceKey) int {
	switch {
	case k.Address != l.Address:
		return k.Address.Compare(l.Address)
	case k.Port != l.Port:
		return cmp.Compare(k.Port, l.Port)
	case k.Protocol != l.Protocol:
		return cmp.Compare(k.Protocol, l.Protocol)
	}
	return cmp.Compare(k.Mark, l.Mark)
}

// VirtualService is the kernel's description of one service, without its real
// servers. It is comparable: two equal values need no kernel change.
type VirtualService struct {
	ServiceKey
	Scheduler   string       // kernel scheduler name, "rr"
	Flags       ServiceFlags // only the settable bits; kernel-owned bits are masked off on decode
	Persistence uint32       // persistence timeout in seconds; 0 = none
	Netmask     uint8        // persistence granularity as a prefix length, 1–32 or 1–128; 0 = whole address
	Engine      string       // persistence engine, "sip"; "" = none
}

// ServiceFlags are the IP_VS_SVC_F_* bits of a virtual service.
type ServiceFlags uint32

const (
	FlagPersistent ServiceFlags = 0x01 // IP_VS_SVC_F_PERSISTENT
	FlagHashed     ServiceFlags = 0x02 // IP_VS_SVC_F_HASHED, set by the kernel alone
	FlagOnePacket  ServiceFlags = 0x04 // IP_VS_SVC_F_ONEPACKET
	FlagSched1     ServiceFlags = 0x08 // IP_VS_SVC_F_SCHED1; each scheduler has its meanings for these three
	FlagSched2     ServiceFlags = 0x10 // IP_VS_SVC_F_SCHED2
	FlagSched3     ServiceFlags = 0x20 // IP_VS_SVC_F_SCHED3

	// settableFlags are the bits a user decides; all others are the kernel's.
	settableFlags = FlagPersistent | FlagOnePacket | FlagSched1 | FlagSched2 | FlagSched3
)

// TunnelType is how a packet travels to a real server behind a tunnel
// (IP_VS_CONN_F_TUNNEL_TYPE_* in include/uapi/linux/ip_vs.h).
type TunnelType uint8

const (
	TunnelIPIP TunnelType = 0 // IP_VS_CONN_F_TUNNEL_TYPE_IPIP
	TunnelGUE  TunnelType = 1 // IP_VS_CONN_F_TUNNEL_TYPE_GUE, Linux 5.3
	TunnelGRE  TunnelType = 2 // IP_VS_CONN_F_TUNNEL_TYPE_GRE, Linux 5.3
)

// TunnelFlags say how a GUE or GRE tunnel protects its packets
// (IP_VS_TUNNEL_ENCAP_FLAG_*).
type TunnelFlags uint16

const (
	TunnelNoChecksum     TunnelFlags = 0 // IP_VS_TUNNEL_ENCAP_FLAG_NOCSUM
	TunnelChecksum       TunnelFlags = 1 // IP_VS_TUNNEL_ENCAP_FLAG_CSUM
	TunnelRemoteChecksum TunnelFlags = 2 // IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM, GUE only
)

// TunnelSettings is a tunnel's form. It is comparable.
type TunnelSettings struct {
	Type  TunnelType  `json:"type"`
	Port  uint16      `json:"port,omitempty"` // UDP port of GUE; 0 for the others
	Flags TunnelFlags `json:"flags,omitempty"`
}

// String is "gue port 6080 checksum" or the like.
func (t TunnelSettings) String() string {
	s := map[TunnelType]string{TunnelIPIP: "ipip", TunnelGUE: "gue", TunnelGRE: "gre"}[t.Type]
	if t.Port != 0 {
		s += fmt.Sprintf(" port %d", t.Port)
	}
	switch t.Flags {
	case TunnelChecksum:
		s += " checksum"
	case TunnelRemoteChecksum:
		s += " remote checksum"
	}
	return s
}

// effective is t without what has no effect with its type or with forward: the
// kernel keeps and shows whatever a program sets (ip_vs_rs_hash and ip_vs_xmit.c
// read the port with GUE alone, and no flags with IPIP).
func (t TunnelSettings) effective(forward ForwardingMethod) TunnelSettings {
	switch {
	case forward != Tunnel, t.Type == TunnelIPIP:
		t = TunnelSettings{}
	case t.Type == TunnelGRE:
		t.Port = 0
		t.Flags &^= TunnelRemoteChecksum
	}
	return t
}

// RealServer is one destination of a virtual service.
type RealServer struct {
	Address netip.Addr `json:"address"`
	// Port is 0 when the real server listens on the virtual service's own
	// port, which is the only possibility in direct routing. A row with another
	// port was added by another program or an operator.
	Port    uint16           `json:"port,omitempty"`
	Forward ForwardingMethod `json:"forward"`
	Weight  uint32           `json:"weight"`          // 0 = quiesced: existing connections continue, no new ones
	Upper   uint32           `json:"upper,omitempty"` // IPVS_DEST_ATTR_U_THRESH: connections; 0 = no limit
	Lower   uint32           `json:"lower,omitempty"` // IPVS_DEST_ATTR_L_THRESH: connections; 0 = three quarters of Upper
	Tunnel  TunnelSettings   `json:"tunnel,omitzero"`
}

// SameServer reports whether r and o are the same destination, whatever their
// settings.
func (r RealServer) SameServer(o RealServer) bool {
	return r.Address == o.Address && r.Port == o.Port
}

// Compare orders real servers by address, then port: the order of the table, and
// of the operations that are sent to the kernel.
func (r RealServer) Compare(o RealServer) int {
	if r.Address != o.Address {
		return r.Address.Compare(o.Address)
	}
	return cmp.Compare(r.Port, o.Port)
}

// Name is how people write a real server: its address, and its port where that
// is not the virtual service's.
func (r RealServer) Name() string {
	if r.Port == 0 {
		return r.Address.String()
	}
	return fmt.Sprintf("%s port %d", r.Address, r.Port)
}

// Connections are the kernel's counts for one real server.
type Connections struct {
	Active     uint32 `json:"active"`     // IPVS_DEST_ATTR_ACTIVE_CONNS
	Inactive   uint32 `json:"inactive"`   // IPVS_DEST_ATTR_INACT_CONNS
	Persistent uint32 `json:"persistent"` // IPVS_DEST_ATTR_PERSIST_CONNS
}

// Idle reports whether the real server has no connections left.
func (c Connections) Idle() bool { return c.Active == 0 && c.Inactive == 0 && c.Persistent == 0 }

// add adds o to c.
func (c *Connections) add(o Connections) {
	c.Active += o.Active
	c.Inactive += o.Inactive
	c.Persistent += o.Persistent
}

// Timeouts are the kernel's connection timeouts (IPVS_CMD_SET_CONFIG). 0
// leaves the kernel's value alone.
type Timeouts struct {
	TCP    time.Duration // IPVS_CMD_ATTR_TIMEOUT_TCP, whole seconds
	TCPFin time.Duration // IPVS_CMD_ATTR_TIMEOUT_TCP_FIN, whole seconds
	UDP    time.Duration // IPVS_CMD_ATTR_TIMEOUT_UDP, whole seconds
}

// workKey names a set of real servers: those of one VIP in one family.
type workKey struct {
	VIP string
	Is6 bool
}

// compareWorkKeys orders sets by VIP, then family.
func compareWorkKeys(a, b workKey) int {
	return cmp.Or(cmp.Compare(a.VIP, b.VIP), cmp.Compare(familyIndex(a.Is6), familyIndex(b.Is6)))
}

// startKey names a real server of a VIP.
type startKey struct {
	VIP     string
	Address netip.Addr
}

// MarkRange is where the firewall marks of port groups are taken from.
type MarkRange struct {
	First uint32 // 1–0xffffffff
	Count uint32 // at least the number of groups; First+Count-1 fits 32 bits
}

// MarkedPort is one port of a VIP address whose packets get a firewall mark.
type MarkedPort struct {
	Address netip.Addr // unmapped, without a zone
	Port    Port
}

// port is the port of k, a service without a mark.
func (k ServiceKey) port() MarkedPort { return MarkedPort{k.Address, Port{k.Port, k.Protocol}} }

// service is the key that a service of the port has without a mark.
func (p MarkedPort) service() ServiceKey {
	return ServiceKey{Address: p.Address, Port: p.Port.Number, Protocol: p.Port.Protocol}
}

// GroupName identifies a group of ports in the configuration.
type GroupName struct{ VIP, Group string }

// Compare orders groups by VIP, then name.
func (g GroupName) Compare(h GroupName) int {
	return cmp.Or(cmp.Compare(g.VIP, h.VIP), cmp.Compare(g.Group, h.Group))
}

// VIPAddress is one VIP on one device. It is stored in state files.
type VIPAddress struct {
	Device  string     `json:"device"`
	Address netip.Addr `json:"address"`
}

func (a VIPAddress) String() string { return a.Address.String() + " on " + a.Device }

// Compare orders by device, then address.
func (a VIPAddress) Compare(b VIPAddress) int {
	return cmp.Or(cmp.Compare(a.Device, b.Device), a.Address.Compare(b.Address))
}

// macAddress is an Ethernet address, comparable.
type macAddress [6]byte

func (m macAddress) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText implements encoding.TextMarshaler.
func (m macAddress) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *macAddress) UnmarshalText(text []byte) error {
	mac, err := net.ParseMAC(string(text))
	if err == nil && len(mac) != len(m) {
		err = &net.AddrError{Err: "not an Ethernet address", Addr: string(text)}
	}
	if err == nil {
		copy(m[:], mac)
	}
	return err
}

// addAll puts keys into the set m and returns it.
func addAll[K comparable](m map[K]bool, keys []K) map[K]bool {
	for _, k := range keys {
		m[k] = true
	}
	return m
}

// familyIndex is a family's place in arrays of two.
func familyIndex(is6 bool) int {
	if is6 {
		return 1
	}
	return 0
}

// familyNumber is a family as the kernel has it.
func familyNumber(is6 bool) int {
	return [...]int{syscall.AF_INET, syscall.AF_INET6}[familyIndex(is6)]
}

func familyName(is6 bool) string { return [...]string{"IPv4", "IPv6"}[familyIndex(is6)] }

// oddNetmask is a netmask that no prefix length describes. Another program set
// it; no configuration can ask for it.
const oddNetmask = 255

// ipv4Mask is the mask of a prefix length (0 = whole address).
func ipv4Mask(bits uint8) uint32 { return ^uint32(0) << (32 - cmp.Or(bits, 32)) }

// ipv4Prefix is the inverse of ipv4Mask: the whole address becomes 0, so that equal
// services compare equal.
func ipv4Prefix(mask [4]byte) uint8 {
	m := binary.BigEndian.Uint32(mask[:])
	switch n := bits.LeadingZeros32(^m); {
	case n == 32:
		return 0
	case n == 0 || m<<n != 0:
		return oddNetmask
	default:
		return uint8(n)
	}
}
