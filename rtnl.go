// VIP addresses on devices, and the receiving end of tunnels, over netlink.
//
// announce.go keeps VIPs on the uplink through rtnl, realserver.go puts them
// on lo, realserver_tunnel.go makes the devices of a tunnel, and prepare.go
// asks for the default route's device. Only host addresses (/32, /128) are ever
// added or removed, one at a time, by name. Devices are made, brought up and
// removed by name, for tunnels and as the dummy device (announce_dummy.go, which
// also changes local routes of its own). Other routes and neighbours are never
// changed.

package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

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

// deviceAddress is an address that a device has, whoever put it there.
type deviceAddress struct {
	Address netip.Addr
	Label   string // IPv4 only
}

// rtnl is a short-lived route netlink connection in the network namespace of
// the thread that opened it.
type rtnl struct{ conn *rtnetlink.Conn }

// rtnlTimeout bounds everything done over one connection. The slowest part, a
// dump of a full routing table, takes about a second.
const rtnlTimeout = 5 * time.Second

// openRtnl connects. The connection is good for rtnlTimeout or until ctx's
// deadline, whichever is sooner.
func openRtnl(ctx context.Context) (*rtnl, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	conn, err := rtnetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	deadline := time.Now().Add(rtnlTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := errors.Join(
		conn.SetOption(netlink.ExtendedAcknowledge, true),
		conn.SetReadDeadline(deadline),
	); err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up route netlink: %w", err)
	}
	return &rtnl{conn: conn}, nil
}

func (r *rtnl) Close() error { return r.conn.Close() }

// DefaultDevice returns the device of the default route in the main table:
// IPv4's with the lowest metric, or IPv6's where there is no IPv4.
func (r *rtnl) DefaultDevice() (string, error) {
	routes, err := r.conn.Route.List()
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		index := defaultRouteDevice(routes, family)
		if index == 0 {
			continue
		}
		device, err := net.InterfaceByIndex(index)
		if err != nil {
			return "", fmt.Errorf("device %d of the default route: %w", index, err)
		}
		return device.Name, nil
	}
	return "", errors.New("there is no default route to tell the uplink by; name the device")
}

// defaultRouteDevice picks the index of family's default device, 0 for none.
// Of several next hops the first counts.
func defaultRouteDevice(routes []rtnetlink.RouteMessage, family uint8) int {
	index, metric := 0, uint32(0)
	for i := range routes {
		m := &routes[i]
		if m.Family != family || m.DstLength != 0 || m.Table != unix.RT_TABLE_MAIN ||
			m.Type != unix.RTN_UNICAST || m.Flags&unix.RTNH_F_DEAD != 0 {
			continue
		}
		out := int(m.Attributes.OutIface)
		if out == 0 && len(m.Attributes.Multipath) > 0 {
			out = int(m.Attributes.Multipath[0].Hop.IfIndex)
		}
		if out != 0 && (index == 0 || m.Attributes.Priority < metric) {
			index, metric = out, m.Attributes.Priority
		}
	}
	return index
}

// deviceByName is net.InterfaceByName with an error that can be recognised.
func deviceByName(name string) (*net.Interface, error) {
	devices, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	for i := range devices {
		if devices[i].Name == name {
			return &devices[i], nil
		}
	}
	return nil, fmt.Errorf("device %s: %w", name, unix.ENODEV)
}

// List implements addressTable.
func (r *rtnl) List(device string) ([]deviceAddress, error) {
	ifi, err := deviceByName(device)
	if err != nil {
		return nil, err
	}
	all, err := r.conn.Address.List()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var found []deviceAddress
	for _, m := range all {
		if int(m.Index) != ifi.Index || m.Attributes == nil {
			continue
		}
		// IFA_LOCAL is the device's own address; IPv6 sends it only on
		// point-to-point devices, where IFA_ADDRESS is the peer's.
		ip := m.Attributes.Local
		if ip == nil {
			ip = m.Attributes.Address
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			found = append(found, deviceAddress{Address: addr.Unmap(), Label: m.Attributes.Label})
		}
	}
	return found, nil
}

// Labelled lists the IPv4 addresses that carry vipLabel, but for those on lo, on tunnels
// and on others' dummy devices, which are a real server's.
func (r *rtnl) Labelled() ([]VIPAddress, error) {
	links, err := r.conn.Link.List()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	names := make(map[uint32]string)
	for i := range links {
		a := links[i].Attributes
		dummy := a != nil && a.Info != nil && a.Info.Kind == "dummy"
		if a != nil && links[i].Flags&unix.IFF_BROADCAST != 0 && (!dummy || isOurDummy(&links[i])) {
			names[links[i].Index] = a.Name
		}
	}
	all, err := r.conn.Address.List()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var found []VIPAddress
	for _, m := range all {
		name, broadcast := names[m.Index]
		if !broadcast || m.Attributes == nil || m.Attributes.Label == "" || m.Attributes.Label != vipLabel(name) {
			continue
		}
		if addr, ok := netip.AddrFromSlice(m.Attributes.Local); ok {
			found = append(found, VIPAddress{Device: name, Address: addr.Unmap()})
		}
	}
	return found, nil
}

// Add implements addressTable. An address that is there already, of the same
// prefix length or (IPv6) of any, counts as unchanged.
func (r *rtnl) Add(a VIPAddress) (bool, error) {
	return r.change(a, unix.RTM_NEWADDR, netlink.Create|netlink.Excl, unix.EEXIST)
}

// Remove implements addressTable. Only the host address goes: where another
// hand has put the same address with a longer network, that one stays.
func (r *rtnl) Remove(a VIPAddress) (bool, error) {
	return r.change(a, unix.RTM_DELADDR, 0, unix.EADDRNOTAVAIL)
}

// change sends one address message. unchanged is the errno that says that
// there was nothing to do.
func (r *rtnl) change(a VIPAddress, messageType uint16, flags netlink.HeaderFlags, unchanged unix.Errno) (bool, error) {
	ifi, err := deviceByName(a.Device)
	if err != nil {
		return false, err
	}
	m := newAddressMessage(a, ifi)
	if messageType == unix.RTM_DELADDR {
		m.Attributes.Label = "" // the kernel would insist on it
	}
	_, err = r.conn.Execute(m, messageType, netlink.Request|netlink.Acknowledge|flags)
	if errors.Is(err, unchanged) {
		return false, nil
	}
	if err != nil {
		verb := "add"
		if messageType == unix.RTM_DELADDR {
			verb = "remove"
		}
		return false, fmt.Errorf("%s address %s: %w", verb, a, err)
	}
	return true, nil
}

// addressMessage adds to rtnetlink's message the attribute it cannot send:
// the lifetimes (struct ifa_cacheinfo).
type addressMessage struct{ rtnetlink.AddressMessage }

// newAddressMessage describes a as a host address that no connection of this
// host picks as its source: only answers to the VIP's clients come from it.
//
// IPv4: on lo the scope is host. `ip addr add VIP/32 dev lo` would say global,
// but a global address on lo becomes a source, of ARP requests too, as soon as
// the outgoing device has none (inet_select_addr), and dynamic routing and CNI
// plug-ins take it for one of the node's own. On the uplink the scope is
// global, like any address that is announced, and the prefix of 32 bits
// matches no gateway, so the device's own address remains the source.
//
// IPv6: preferred lifetime 0 makes the address deprecated, which source
// selection avoids (RFC 6724 section 5, rule 3). No duplicate address
// detection: real servers hold the same address, and waiting a second before
// it may be used would only delay a take-over.
func newAddressMessage(a VIPAddress, ifi *net.Interface) *addressMessage {
	m := &addressMessage{rtnetlink.AddressMessage{
		Family:       unix.AF_INET,
		PrefixLength: uint8(a.Address.BitLen()),
		Scope:        unix.RT_SCOPE_UNIVERSE,
		Index:        uint32(ifi.Index),
		Attributes: &rtnetlink.AddressAttributes{
			Address: a.Address.AsSlice(),
			Local:   a.Address.AsSlice(),
			Flags:   unix.IFA_F_NOPREFIXROUTE, // the local route is all a host address needs
		},
	}}
	if a.Address.Is6() {
		m.Family = unix.AF_INET6
		m.Attributes.Flags |= unix.IFA_F_NODAD
		return m
	}
	m.Attributes.Label = vipLabel(a.Device)
	if ifi.Flags&net.FlagBroadcast == 0 { // lo and tunnels: nobody there is told of it
		m.Scope = unix.RT_SCOPE_HOST
	}
	return m
}

// MarshalBinary implements encoding.BinaryMarshaler for rtnetlink.
func (m *addressMessage) MarshalBinary() ([]byte, error) {
	b, err := m.AddressMessage.MarshalBinary()
	if err != nil || m.Family != unix.AF_INET6 {
		return b, err
	}
	const forever = 1<<32 - 1 // INFINITY_LIFE_TIME
	attributes := netlink.NewAttributeEncoder()
	attributes.Do(unix.IFA_CACHEINFO, func() ([]byte, error) {
		lifetimes := binary.NativeEndian.AppendUint32(nil, 0)            // ifa_prefered, seconds
		lifetimes = binary.NativeEndian.AppendUint32(lifetimes, forever) // ifa_valid, seconds
		return binary.NativeEndian.AppendUint64(lifetimes, 0), nil       // cstamp, tstamp: the kernel's
	})
	extra, err := attributes.Encode()
	return append(b, extra...), err
}

// vipLabel is the IPv4 label by which an address of ours is recognised in
// `ip addr` and after a crash: "eth0:lvs". "" when the device's name leaves no
// room for it (IFNAMSIZ).
func vipLabel(device string) string {
	label := device + ":lvs"
	if len(label) >= unix.IFNAMSIZ {
		return ""
	}
	return label
}

// tunnelDevice is a device that receives a tunnel's packets.
type tunnelDevice struct {
	Name string
	Up   bool
	// Metadata devices take the packets of every sender that no other device
	// is for. A network namespace has at most one of each kind.
	Metadata bool
	// Checksum devices take packets with a checksum alone, the others those
	// without alone. GRE only.
	Checksum bool
}

// Attributes of a tunnel device (include/uapi/linux/if_tunnel.h). The kinds
// ipip and ip6tnl number theirs alike, gre and ip6gre too.
const (
	iptunCollectMetadata = 19     // IFLA_IPTUN_COLLECT_METADATA, flag
	greInFlags           = 2      // IFLA_GRE_IFLAGS, be16
	greCollectMetadata   = 18     // IFLA_GRE_COLLECT_METADATA, flag
	greChecksum          = 0x8000 // GRE_CSUM
)

func isGRE(kind string) bool { return kind == "gre" || kind == "ip6gre" }

// TunnelDevices lists the devices of one kind.
func (r *rtnl) TunnelDevices(kind string) ([]tunnelDevice, error) {
	links, err := r.conn.Link.ListByKind(kind)
	if err != nil {
		return nil, fmt.Errorf("list %s devices: %w", kind, err)
	}
	var found []tunnelDevice
	for i := range links {
		a := links[i].Attributes
		// A kernel that has not loaded the kind yet lists every device.
		if a == nil || a.Info == nil || a.Info.Kind != kind {
			continue
		}
		d := tunnelDevice{Name: a.Name, Up: links[i].Flags&unix.IFF_UP != 0}
		if data, ok := a.Info.Data.(*rtnetlink.LinkData); ok {
			if err := d.decode(kind, data.Data); err != nil {
				return nil, fmt.Errorf("device %s: %w", d.Name, err)
			}
		}
		found = append(found, d)
	}
	return found, nil
}

// decode reads the attributes of a device's kind.
func (d *tunnelDevice) decode(kind string, data []byte) error {
	attributes, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	attributes.ByteOrder = binary.BigEndian
	for attributes.Next() {
		switch {
		case isGRE(kind) && attributes.Type() == greInFlags:
			d.Checksum = attributes.Uint16()&greChecksum != 0
		case isGRE(kind) && attributes.Type() == greCollectMetadata,
			!isGRE(kind) && attributes.Type() == iptunCollectMetadata:
			d.Metadata = true
		}
	}
	return attributes.Err()
}

// encode writes what decode reads.
func (d tunnelDevice) encode(kind string) ([]byte, error) {
	attributes := netlink.NewAttributeEncoder()
	attributes.ByteOrder = binary.BigEndian
	if isGRE(kind) {
		if d.Checksum {
			attributes.Uint16(greInFlags, greChecksum)
		}
		attributes.Flag(greCollectMetadata, d.Metadata)
	} else {
		attributes.Flag(iptunCollectMetadata, d.Metadata)
	}
	return attributes.Encode()
}

// MakeTunnelDevice makes d, which is down. The kernel loads the module of its
// kind.
func (r *rtnl) MakeTunnelDevice(kind string, d tunnelDevice) error {
	data, err := d.encode(kind)
	if err == nil {
		err = r.conn.Link.New(&rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
			Name: d.Name,
			Info: &rtnetlink.LinkInfo{Kind: kind, Data: &rtnetlink.LinkData{Name: kind, Data: data}},
		}})
	}
	if err != nil {
		return fmt.Errorf("make %s device %s: %w", kind, d.Name, err)
	}
	return nil
}

// BringUp sets a device up.
func (r *rtnl) BringUp(device string) error {
	ifi, err := deviceByName(device)
	if err == nil {
		err = r.conn.Link.Set(&rtnetlink.LinkMessage{Index: uint32(ifi.Index), Flags: unix.IFF_UP, Change: unix.IFF_UP})
	}
	if err != nil {
		return fmt.Errorf("bring up %s: %w", device, err)
	}
	return nil
}

// RemoveDevice removes a device and reports whether there was one.
func (r *rtnl) RemoveDevice(device string) (bool, error) {
	ifi, err := deviceByName(device)
	if err == nil {
		err = r.conn.Link.Delete(uint32(ifi.Index))
	}
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove device %s: %w", device, err)
	}
	return true, nil
}

// guePort is a UDP port at which the kernel takes GUE packets apart.
type guePort struct {
	Port uint16 `json:"port"`
	Is6  bool   `json:"is6,omitempty"`
}

func (p guePort) String() string {
	return fmt.Sprintf("UDP port %d for GUE over %s", p.Port, familyName(p.Is6))
}

// The kernel's interface to such ports (include/uapi/linux/fou.h).
const (
	fouFamilyName = "fou" // FOU_GENL_NAME, and the name of the module

	fouCommandAdd    = 1 // FOU_CMD_ADD
	fouCommandDelete = 2 // FOU_CMD_DEL
	fouCommandGet    = 3 // FOU_CMD_GET

	fouAttrPort = 1 // FOU_ATTR_PORT, be16
	fouAttrAF   = 2 // FOU_ATTR_AF, u8
	fouAttrType = 4 // FOU_ATTR_TYPE, u8

	fouTypeGUE = 2 // FOU_ENCAP_GUE
)

// GUEPorts lists the open ports; none while the kernel has not loaded GUE.
func (r *rtnl) GUEPorts() ([]guePort, error) {
	messages, err := r.fou(fouCommandGet, netlink.Dump, nil)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list GUE ports: %w", err)
	}
	var ports []guePort
	for _, m := range messages {
		attributes, err := netlink.NewAttributeDecoder(m.Data)
		if err != nil {
			return nil, fmt.Errorf("list GUE ports: %w", err)
		}
		attributes.ByteOrder = binary.BigEndian
		var (
			p    guePort
			kind uint8
		)
		for attributes.Next() {
			switch attributes.Type() {
			case fouAttrPort:
				p.Port = attributes.Uint16()
			case fouAttrAF:
				p.Is6 = attributes.Uint8() == unix.AF_INET6
			case fouAttrType:
				kind = attributes.Uint8()
			}
		}
		if err := attributes.Err(); err != nil {
			return nil, fmt.Errorf("list GUE ports: %w", err)
		}
		if kind == fouTypeGUE {
			ports = append(ports, p)
		}
	}
	return ports, nil
}

// OpenGUE opens p.
func (r *rtnl) OpenGUE(p guePort) error {
	attributes := p.encode()
	attributes.Uint8(fouAttrType, fouTypeGUE)
	_, err := r.fou(fouCommandAdd, netlink.Acknowledge, attributes)
	if errors.Is(err, unix.ENOENT) {
		loadModule(fouFamilyName)
		_, err = r.fou(fouCommandAdd, netlink.Acknowledge, attributes)
	}
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("open %s: the kernel has no GUE (module fou is not loaded and could not be)", p)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", p, err)
	}
	return nil
}

// CloseGUE closes p and reports whether it was open.
func (r *rtnl) CloseGUE(p guePort) (bool, error) {
	ports, err := r.GUEPorts()
	if err != nil || !slices.Contains(ports, p) {
		return false, err
	}
	if _, err := r.fou(fouCommandDelete, netlink.Acknowledge, p.encode()); err != nil {
		return false, fmt.Errorf("close %s: %w", p, err)
	}
	return true, nil
}

// encode begins a message about p.
func (p guePort) encode() *netlink.AttributeEncoder {
	attributes := netlink.NewAttributeEncoder()
	attributes.ByteOrder = binary.BigEndian
	attributes.Uint16(fouAttrPort, p.Port)
	family := uint8(unix.AF_INET)
	if p.Is6 {
		family = unix.AF_INET6
	}
	attributes.Uint8(fouAttrAF, family)
	return attributes
}

// fou is one exchange with the kernel's GUE, on a socket of its own. The error
// is ENOENT where there is none.
func (r *rtnl) fou(command uint8, flags netlink.HeaderFlags, attributes *netlink.AttributeEncoder) ([]genetlink.Message, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(rtnlTimeout)); err != nil {
		return nil, err
	}
	family, err := conn.GetFamily(fouFamilyName)
	if err != nil {
		return nil, err
	}
	message := genetlink.Message{Header: genetlink.Header{Command: command, Version: family.Version}}
	if attributes != nil {
		if message.Data, err = attributes.Encode(); err != nil {
			return nil, err
		}
	}
	return conn.Execute(message, family.ID, netlink.Request|flags)
}

// loadModule asks for a device of the module's name, which makes the kernel
// load a module that no netlink request loads (dev_load in
// net/core/dev_ioctl.c; it needs CAP_SYS_MODULE).
func loadModule(name string) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if request, err := unix.NewIfreq(name); err == nil {
		_ = unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request) // fails: there is no such device
	}
}
