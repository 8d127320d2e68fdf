// VIP addresses on devices, over route netlink.
//
// announce.go keeps VIPs on the uplink through rtnl, realserver.go puts them
// on lo, and prepare.go asks for the default route's device. Only host
// addresses (/32, /128) are ever added or removed, one at a time, by name.
// Links, routes and neighbours are never changed, and no device is brought up.

package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
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
	if ifi.Flags&net.FlagLoopback != 0 {
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
