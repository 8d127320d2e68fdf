// VIP addresses on devices.
//
// Used by host*.go and cmd*.go. The files of cmd and host call it by the
// interface addressTable. It adds and removes only host addresses (/32, /128),
// one at a time, by device name.

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// deviceAddress is an address that a device has, whoever put it there.
type deviceAddress struct {
	Address netip.Addr
	Label   string // IPv4 only
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
