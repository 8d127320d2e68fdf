// The dummy device of announce = "dummy": a routing daemon tells the routers of
// the addresses on it.
//
// prepare.go keeps it, main.go removes it with -cleanup. A device of that name
// that another hand has made is never brought up, given anything, or removed.
//
// A VIP that leaves the device is no longer told of, but packets go on coming until
// the last router has heard, and all of them are of connections that this
// director's kernel knows. So each VIP has a route of ours to lo in the kernel's
// local table as well, which no routing daemon reads: with it the kernel takes them
// in and IPVS forwards them, whether the address is there or not. Not to the dummy
// device: with its last IPv4 address a device loses all its IPv4 routes
// (fib_disable_ip in net/ipv4/fib_frontend.c).

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// localProtocol marks our local routes (rtm_protocol). Nobody else has this
	// number in iproute2's rt_protos.
	localProtocol = 76

	// localMetric keeps them apart from the kernel's own for an address on a
	// device, whose metric is 0.
	localMetric = 9652
)

// dummyMAC marks a dummy device as ours, also after a crash: it can be given in
// the request that makes the device, and `ip link` shows it. Locally administered,
// with "lvs" in the middle.
var dummyMAC = macAddress{0x02, 0x6c, 0x76, 0x73, 0x00, 0x01}

// errForeignDevice means that the name is taken by a device that is not ours.
var errForeignDevice = errors.New("the device is not ours: name another one in announce_device")

// dummyDevice keeps the device and its local routes. It belongs to one goroutine.
type dummyDevice struct {
	log    *slog.Logger
	name   string              // of the only device of ours that there may be; "": there is none
	looked bool                // name is true, and routes has all that an earlier run has left
	routes map[netip.Addr]bool // local routes that are there or may be
}

// Keep sees to the device, that it is up, and to a local route for each of want.
// It removes nothing; with nothing wanted it does nothing.
func (d *dummyDevice) Keep(ctx context.Context, device string, want []netip.Addr) error {
	if len(want) == 0 {
		return nil
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	made, err := r.KeepDummy(device)
	if err != nil {
		return err
	}
	if made {
		d.log.Info("dummy device made", "device", device)
	}
	if d.name != device {
		d.name, d.looked = device, false // there may be another one
	}
	if d.routes == nil {
		d.routes = make(map[netip.Addr]bool)
	}
	var errs []error
	for _, a := range want {
		changed, err := r.ChangeLocalRoute(a, true)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.routes[a] = true
		if changed {
			d.log.Info("local route added: packets to the VIP are taken in", "address", a)
		}
	}
	return errors.Join(errs...)
}

// Tidy removes what Keep once made and want does not need: local routes, and each
// device of ours but device, which goes too when nothing is wanted.
func (d *dummyDevice) Tidy(ctx context.Context, device string, want []netip.Addr) error {
	if len(want) == 0 {
		device = ""
	}
	if d.looked && d.name == device && len(d.routes) == len(want) {
		return nil
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	if !d.looked || d.name != device {
		if err := d.removeBut(r, device); err != nil {
			return err
		}
		if d.routes, err = r.LocalRoutes(); err != nil {
			return err
		}
		d.name, d.looked = device, true
	}
	var errs []error
	for _, a := range slices.SortedFunc(maps.Keys(d.routes), netip.Addr.Compare) {
		if slices.Contains(want, a) {
			continue
		}
		changed, err := r.ChangeLocalRoute(a, false)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		delete(d.routes, a)
		if changed {
			d.log.Info("local route removed", "address", a)
		}
	}
	return errors.Join(errs...)
}

// removeBut removes all devices of ours but one.
func (d *dummyDevice) removeBut(r *rtnl, device string) error {
	links, err := r.conn.Link.List()
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for i := range links {
		if !isOurDummy(&links[i]) || links[i].Attributes.Name == device {
			continue
		}
		name := links[i].Attributes.Name
		removed, err := r.RemoveDevice(name)
		if err != nil {
			return err
		}
		if removed {
			d.log.Info("dummy device removed", "device", name)
		}
	}
	return nil
}

// isOurDummy reports whether we have made this device.
func isOurDummy(link *rtnetlink.LinkMessage) bool {
	a := link.Attributes
	return a != nil && a.Info != nil && a.Info.Kind == "dummy" && slices.Equal(a.Address, dummyMAC[:])
}

// KeepDummy sees to it that there is a dummy device of ours by that name, and
// that it is up, and reports whether it made one.
func (r *rtnl) KeepDummy(device string) (made bool, err error) {
	ifi, err := deviceByName(device)
	if errors.Is(err, unix.ENODEV) {
		return true, r.makeDummy(device)
	}
	if err != nil {
		return false, err
	}
	link, err := r.conn.Link.Get(uint32(ifi.Index))
	if err != nil {
		return false, fmt.Errorf("device %s: %w", device, err)
	}
	if !isOurDummy(&link) {
		return false, fmt.Errorf("device %s: %w", device, errForeignDevice)
	}
	if link.Flags&unix.IFF_UP != 0 {
		return false, nil
	}
	return false, r.BringUp(device)
}

// makeDummy makes the device and brings it up. The kernel loads the module of its
// kind.
func (r *rtnl) makeDummy(device string) error {
	if err := r.conn.Link.New(&rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
		Name:    device,
		Address: dummyMAC[:],
		Info:    &rtnetlink.LinkInfo{Kind: "dummy"},
	}}); err != nil {
		return fmt.Errorf("make dummy device %s: %w", device, err)
	}
	return r.BringUp(device)
}

// LocalRoutes are the addresses that have a local route of ours.
func (r *rtnl) LocalRoutes() (map[netip.Addr]bool, error) {
	// A director beside a routing daemon may have a million routes. A kernel before
	// 4.20 does not know the option, and sends all.
	_ = r.conn.SetOption(netlink.GetStrictCheck, true)
	like := &rtnetlink.RouteMessage{Table: unix.RT_TABLE_LOCAL, Protocol: localProtocol, Type: unix.RTN_LOCAL}
	routes, err := r.conn.Execute(like, unix.RTM_GETROUTE, netlink.Request|netlink.Dump)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	found := make(map[netip.Addr]bool)
	for _, route := range routes {
		m, known := route.(*rtnetlink.RouteMessage)
		if !known {
			continue
		}
		a, ok := netip.AddrFromSlice(m.Attributes.Dst)
		if ok && m.Protocol == localProtocol && m.Type == unix.RTN_LOCAL {
			found[a.Unmap()] = true
		}
	}
	return found, nil
}

// ChangeLocalRoute adds or removes a local route and reports whether there was
// anything to do.
func (r *rtnl) ChangeLocalRoute(a netip.Addr, add bool) (bool, error) {
	verb, messageType, flags, unchanged := "remove", uint16(unix.RTM_DELROUTE), netlink.HeaderFlags(0), unix.ESRCH
	if add {
		verb, messageType, flags, unchanged = "add", unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, unix.EEXIST
	}
	lo, err := deviceByName("lo")
	if err != nil {
		return false, err
	}
	m := &rtnetlink.RouteMessage{
		Family:    unix.AF_INET,
		DstLength: uint8(a.BitLen()),
		Table:     unix.RT_TABLE_LOCAL,
		Protocol:  localProtocol,
		Scope:     unix.RT_SCOPE_HOST,
		Type:      unix.RTN_LOCAL,
		Attributes: rtnetlink.RouteAttributes{
			Dst:      a.AsSlice(),
			OutIface: uint32(lo.Index),
			Priority: localMetric,
			Table:    unix.RT_TABLE_LOCAL,
		},
	}
	if a.Is6() {
		m.Family = unix.AF_INET6
	}
	_, err = r.conn.Execute(m, messageType, netlink.Request|netlink.Acknowledge|flags)
	if errors.Is(err, unchanged) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s local route %s: %w", verb, a, err)
	}
	return true, nil
}
