// The dummy device of announce = "dummy", and local routes for the VIPs.
//
// Used by conflict_watch.go, host*.go and cmd_check_host.go. It changes only a device
// that the controller made (isOurDummy), and only routes in the local table with its
// own protocol number.

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// dummyMAC marks a dummy device as ours, also after a crash: it can be given in
// the request that makes the device, and `ip link` shows it. Locally administered,
// with "lvs" in the middle.
var dummyMAC = macAddress{0x02, 0x6c, 0x76, 0x73, 0x00, 0x01}

// errForeignDevice means that a device of another program has the name.
var errForeignDevice = errors.New("the device is not ours: name another one in announce_device")

// isOurDummy reports whether we have made this device.
func isOurDummy(link *rtnetlink.LinkMessage) bool {
	a := link.Attributes
	return a != nil && a.Info != nil && a.Info.Kind == "dummy" && slices.Equal(a.Address, dummyMAC[:])
}

// OurDummies lists the names of our dummy devices.
func (r *rtnl) OurDummies() (names []string, err error) {
	links, err := r.links()
	if err != nil {
		return nil, err
	}
	for i := range links {
		if isOurDummy(&links[i]) {
			names = append(names, links[i].Attributes.Name)
		}
	}
	return names, nil
}

// dummy looks for a dummy device of ours. The error is unix.ENODEV or
// errForeignDevice where there is none.
func (r *rtnl) dummy(device string) (rtnetlink.LinkMessage, error) {
	ifi, err := deviceByName(device)
	if err != nil {
		return rtnetlink.LinkMessage{}, err
	}
	link, err := r.conn.Link.Get(uint32(ifi.Index))
	if err == nil && !isOurDummy(&link) {
		err = errForeignDevice
	}
	return link, wrap("device "+device, err)
}

// KeepDummy makes a dummy device of ours with that name, unless there is one, and
// brings it up. It reports whether it made one. The kernel loads the module of its
// kind.
func (r *rtnl) KeepDummy(device string) (made bool, err error) {
	link, err := r.dummy(device)
	if errors.Is(err, unix.ENODEV) {
		err = wrap("make dummy device "+device, r.conn.Link.New(&rtnetlink.LinkMessage{
			Attributes: &rtnetlink.LinkAttributes{
				Name:    device,
				Address: dummyMAC[:],
				Info:    &rtnetlink.LinkInfo{Kind: "dummy"},
			},
		}))
		made = err == nil
	}
	if err != nil || link.Flags&unix.IFF_UP != 0 {
		return made, err
	}
	return made, r.BringUp(device)
}

// RemoveDummy removes a dummy device of ours and reports whether there was one.
func (r *rtnl) RemoveDummy(device string) (bool, error) {
	switch _, err := r.dummy(device); {
	case errors.Is(err, unix.ENODEV), errors.Is(err, errForeignDevice):
		return false, nil
	case err != nil:
		return false, err
	}
	return r.RemoveDevice(device)
}

// LocalRoutes are the addresses that have a local route of ours.
func (r *rtnl) LocalRoutes() (map[netip.Addr]bool, error) {
	// A director beside a routing daemon may have a million routes. A kernel before
	// 4.20 does not know the option, and sends all.
	_ = r.dumps.SetOption(netlink.GetStrictCheck, true)
	like := &rtnetlink.RouteMessage{Table: unix.RT_TABLE_LOCAL, Protocol: localProtocol, Type: unix.RTN_LOCAL}
	defer func() { _ = r.dumps.SetOption(netlink.GetStrictCheck, false) }()
	found := make(map[netip.Addr]bool)
	err := r.eachRoute(like, func(m *rtnetlink.RouteMessage) {
		a, ok := netip.AddrFromSlice(m.Attributes.Dst)
		if ok && m.Protocol == localProtocol && m.Type == unix.RTN_LOCAL {
			found[a.Unmap()] = true
		}
	})
	return found, err
}

// ChangeLocalRoute adds or removes a local route and reports whether there was
// anything to do.
func (r *rtnl) ChangeLocalRoute(a netip.Addr, add bool) (bool, error) {
	m := &rtnetlink.RouteMessage{
		Family:    uint8(familyNumber(a.Is6())),
		DstLength: uint8(a.BitLen()),
		Table:     unix.RT_TABLE_LOCAL,
		Protocol:  localProtocol,
		Scope:     unix.RT_SCOPE_HOST,
		Type:      unix.RTN_LOCAL,
		Attributes: rtnetlink.RouteAttributes{
			Dst:      a.AsSlice(),
			OutIface: loopbackIndex,
			Priority: localMetric,
			Table:    unix.RT_TABLE_LOCAL,
		},
	}
	if add {
		return r.change(fmt.Sprintf("add local route %s", a), m, unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, unix.EEXIST)
	}
	return r.change(fmt.Sprintf("remove local route %s", a), m, unix.RTM_DELROUTE, 0, unix.ESRCH)
}

const (
	// localProtocol marks our local routes (rtm_protocol). iproute2's rt_protos
	// gives this number to no program.
	localProtocol = 76

	// localMetric differs from the metric of the kernel's own local route for an
	// address on a device, which is 0.
	localMetric = 9652

	// loopbackIndex is lo's in every network namespace (LOOPBACK_IFINDEX in
	// include/net/flow.h).
	loopbackIndex = 1
)
