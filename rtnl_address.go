// VIP addresses on devices.
//
// Used by conflict*.go, health*.go, host*.go, http_vips.go and cmd*.go. The files of
// cmd and host call it by the interface addressTable. It adds, renews and removes only host
// addresses (/32, /128), one at a time, by device name.

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// deviceAddress is an address that a device has. Any program may have put it there.
type deviceAddress struct {
	Address netip.Addr
	Label   string // IPv4 only
	Bits    uint8  // of its network's prefix
}

// List implements addressTable.
func (r *rtnl) List(device string) ([]deviceAddress, error) {
	ifi, err := deviceByName(device)
	if err != nil {
		return nil, err
	}
	var found []deviceAddress
	err = r.eachAddress(func(index uint32, a deviceAddress) {
		if int(index) == ifi.Index {
			found = append(found, a)
		}
	})
	return found, err
}

// addressIn finds a among a device's addresses; nil: it is not there.
func addressIn(have []deviceAddress, a netip.Addr) *deviceAddress {
	if i := slices.IndexFunc(have, func(d deviceAddress) bool { return d.Address == a }); i >= 0 {
		return &have[i]
	}
	return nil
}

// eachAddress calls do with each address of each device, by the device's index.
func (r *rtnl) eachAddress(do func(index uint32, a deviceAddress)) error {
	all, err := r.addresses()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Attributes == nil {
			continue
		}
		// IFA_LOCAL is the device's own address; IPv6 sends it only on
		// point-to-point devices, where IFA_ADDRESS is the peer's.
		ip := m.Attributes.Local
		if ip == nil {
			ip = m.Attributes.Address
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			do(m.Index, deviceAddress{Address: addr.Unmap(), Label: m.Attributes.Label, Bits: m.PrefixLength})
		}
	}
	return nil
}

// eventAddress is the address that an event of the kernel says has come to a device or has
// left it; the zero Addr if it says none.
func eventAddress(event []byte) (a netip.Addr) {
	const attributes = 8 // their place behind struct ifaddrmsg
	if len(event) < attributes {
		return a
	}
	d, err := netlink.NewAttributeDecoder(event[attributes:])
	if err != nil {
		return a
	}
	for d.Next() {
		if t := d.Type(); t == unix.IFA_LOCAL || t == unix.IFA_ADDRESS && !a.IsValid() { // as eachAddress
			a, _ = netip.AddrFromSlice(d.Bytes())
		}
	}
	return a.Unmap()
}

// broadcasts lists, sorted, the broadcast addresses of the networks that this host is in.
// To some kernels the first address of a network is one, too.
func (r *rtnl) broadcasts() ([]netip.Addr, error) {
	var found []netip.Addr
	err := r.eachAddress(func(_ uint32, a deviceAddress) {
		if !a.Address.Is4() || a.Bits >= 31 {
			return
		}
		bytes := a.Address.As4()
		own, mask := binary.BigEndian.Uint32(bytes[:]), ^uint32(0)>>a.Bits
		for _, n := range []uint32{own &^ mask, own | mask} {
			binary.BigEndian.PutUint32(bytes[:], n)
			if each := netip.AddrFrom4(bytes); !slices.Contains(found, each) {
				found = append(found, each)
			}
		}
	})
	found = slices.DeleteFunc(found, func(a netip.Addr) bool { return !r.route(a, nil).broadcast })
	sortBy(found, netip.Addr.Compare)
	return found, err
}

// Labelled lists the IPv4 addresses that have vipLabel. It leaves out those on lo, on
// tunnels and on dummy devices of other programs, which are a real server's.
func (r *rtnl) Labelled() ([]VIPAddress, error) {
	links, err := r.links()
	if err != nil {
		return nil, err
	}
	names := make(map[uint32]string)
	for i := range links {
		a := links[i].Attributes
		dummy := a != nil && a.Info != nil && a.Info.Kind == "dummy"
		if a != nil && links[i].Flags&unix.IFF_BROADCAST != 0 && (!dummy || isOurDummy(&links[i])) {
			names[links[i].Index] = a.Name
		}
	}
	var found []VIPAddress
	err = r.eachAddress(func(index uint32, a deviceAddress) {
		if name, broadcast := names[index]; broadcast && a.Label != "" && a.Label == vipLabel(name) {
			found = append(found, VIPAddress{Device: name, Address: a.Address})
		}
	})
	return found, err
}

// Add implements addressTable. An address that is there already, of the same
// prefix length or (IPv6) of any, counts as unchanged.
func (r *rtnl) Add(a VIPAddress) (bool, error) {
	ifi, err := r.device(a.Device)
	if err != nil {
		return false, err
	}
	return r.change(fmt.Sprintf("add address %s", a), newAddressMessage(a, ifi), unix.RTM_NEWADDR, netlink.Create|netlink.Excl, unix.EEXIST)
}

// Renew has the kernel send the event of a new address for one that we have added. The
// address stays as it is (inet_rtm_newaddr in net/ipv4/devinet.c, inet6_addr_modify in
// net/ipv6/addrconf.c). One that is gone is added again.
func (r *rtnl) Renew(a VIPAddress) error {
	ifi, err := r.device(a.Device)
	if err != nil {
		return err
	}
	_, err = r.conn.Execute(newAddressMessage(a, ifi), unix.RTM_NEWADDR, netlink.Request|netlink.Acknowledge|netlink.Replace)
	return wrap(fmt.Sprintf("renew address %s", a), err)
}

// Remove implements addressTable. It removes only the host address: the same address
// with a shorter prefix, which another program has put on the device, stays.
func (r *rtnl) Remove(a VIPAddress) (bool, error) {
	ifi, err := r.device(a.Device)
	if err != nil {
		return false, err
	}
	m := newAddressMessage(a, ifi)
	m.Attributes.Label = "" // with it the kernel removes only an address that has this label
	return r.change(fmt.Sprintf("remove address %s", a), m, unix.RTM_DELADDR, 0, unix.EADDRNOTAVAIL)
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
	const unlimited = 1<<32 - 1 // INFINITY_LIFE_TIME
	attributes := netlink.NewAttributeEncoder()
	lifetimes := binary.NativeEndian.AppendUint32(nil, 0)              // ifa_prefered, seconds
	lifetimes = binary.NativeEndian.AppendUint32(lifetimes, unlimited) // ifa_valid, seconds
	lifetimes = binary.NativeEndian.AppendUint64(lifetimes, 0)         // cstamp, tstamp: the kernel's
	attributes.Bytes(unix.IFA_CACHEINFO, lifetimes)
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
// detection: real servers have the same address, and waiting a second before
// it may be used would only delay a failover.
func newAddressMessage(a VIPAddress, ifi *net.Interface) *addressMessage {
	m := &addressMessage{rtnetlink.AddressMessage{
		Family:       uint8(familyNumber(a.Address.Is6())),
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
		m.Attributes.Flags |= unix.IFA_F_NODAD
		return m
	}
	m.Attributes.Label = vipLabel(a.Device)
	if ifi.Flags&net.FlagBroadcast == 0 { // lo and tunnels: it is announced to no host there
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
