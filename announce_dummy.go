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

	// loopbackIndex is lo's in every network namespace (LOOPBACK_IFINDEX in
	// include/net/flow.h).
	loopbackIndex = 1
)

// dummyMAC marks a dummy device as ours, also after a crash: it can be given in
// the request that makes the device, and `ip link` shows it. Locally administered,
// with "lvs" in the middle.
var dummyMAC = macAddress{0x02, 0x6c, 0x76, 0x73, 0x00, 0x01}

// errForeignDevice means that the name is taken by a device that is not ours.
var errForeignDevice = errors.New("the device is not ours: name another one in announce_device")

// dummyDevice keeps the device and the local routes. It belongs to one goroutine.
type dummyDevice struct {
	log     *slog.Logger
	devices map[string]bool     // of ours that there may be: one, but while VIPs move to another
	routes  map[netip.Addr]bool // local routes that there may be
}

// newDummyDevice starts from the local routes of an earlier run, from the state file.
func newDummyDevice(routes []netip.Addr, log *slog.Logger) *dummyDevice {
	d := &dummyDevice{log: log, devices: make(map[string]bool), routes: make(map[netip.Addr]bool)}
	for _, a := range routes {
		d.routes[a] = true
	}
	return d
}

// Look finds what an earlier run has left. It returns the addresses on devices of
// ours, which nobody else has put there.
func (d *dummyDevice) Look(ctx context.Context) ([]VIPAddress, error) {
	r, err := openRtnl(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	links, err := r.conn.Link.List()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var found []VIPAddress
	devices := make(map[string]bool)
	for i := range links {
		if !isOurDummy(&links[i]) {
			continue
		}
		name := links[i].Attributes.Name
		devices[name] = true
		have, err := r.List(name)
		if err != nil {
			return nil, err
		}
		for _, a := range have {
			found = append(found, VIPAddress{name, a.Address})
		}
	}
	routes, err := r.LocalRoutes()
	if err != nil {
		return nil, err
	}
	maps.Copy(routes, d.routes)
	d.devices, d.routes = devices, routes
	return found, nil
}

// Keep sees to the device, that it is up, and to a local route for each of want.
// It removes nothing; with nothing wanted it does nothing. Without the device
// there can be no address on it; a route that is refused is one address's matter.
func (d *dummyDevice) Keep(ctx context.Context, device string, want []netip.Addr) (deviceErr, routeErr error) {
	if len(want) == 0 {
		return nil, nil
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return err, nil
	}
	defer r.Close()
	made, err := r.KeepDummy(device)
	if err != nil {
		return err, nil
	}
	if made {
		d.log.Info("dummy device made", "device", device)
	}
	d.devices[device] = true
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
	return nil, errors.Join(errs...)
}

// Foreign lists the names out of device and the earlier ones that another hand's device
// has now, where any of owned is on it.
func (d *dummyDevice) Foreign(ctx context.Context, device string, owned []VIPAddress) ([]string, error) {
	names := make(map[string]bool)
	for _, v := range owned {
		if v.Device == device || d.devices[v.Device] {
			names[v.Device] = true
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var foreign []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		switch _, err := r.dummy(name); {
		case errors.Is(err, errForeignDevice):
			foreign = append(foreign, name)
			delete(d.devices, name)
		case err != nil && !errors.Is(err, unix.ENODEV):
			return nil, err
		}
	}
	return foreign, nil
}

// Tidy removes what is needed no more: local routes that nobody wants, and
// devices of ours without a wanted route or an address that is still there.
func (d *dummyDevice) Tidy(ctx context.Context, device string, want []netip.Addr, there []VIPAddress) error {
	keep := make(map[string]bool)
	if len(want) > 0 {
		keep[device] = true
	}
	for _, v := range there {
		keep[v.Device] = true
	}
	unwanted := func(a netip.Addr) bool {
		return !slices.Contains(want, a) && !slices.ContainsFunc(there, func(v VIPAddress) bool { return v.Address == a && d.devices[v.Device] })
	}
	var devices []string
	for _, name := range slices.Sorted(maps.Keys(d.devices)) {
		if !keep[name] {
			devices = append(devices, name)
		}
	}
	routes := slices.DeleteFunc(slices.SortedFunc(maps.Keys(d.routes), netip.Addr.Compare), func(a netip.Addr) bool { return !unwanted(a) })
	if len(devices)+len(routes) == 0 {
		return nil
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	var errs []error
	for _, name := range devices {
		removed, err := r.RemoveDummy(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		delete(d.devices, name)
		if removed {
			d.log.Info("dummy device removed", "device", name)
		}
	}
	for _, a := range routes {
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

// Local lists the addresses with a local route, sorted.
func (d *dummyDevice) Local() []netip.Addr {
	return slices.SortedFunc(maps.Keys(d.routes), netip.Addr.Compare)
}

// isOurDummy reports whether we have made this device.
func isOurDummy(link *rtnetlink.LinkMessage) bool {
	a := link.Attributes
	return a != nil && a.Info != nil && a.Info.Kind == "dummy" && slices.Equal(a.Address, dummyMAC[:])
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
	if err != nil {
		return link, fmt.Errorf("device %s: %w", device, err)
	}
	return link, nil
}

// KeepDummy sees to it that there is a dummy device of ours by that name, and
// that it is up, and reports whether it made one.
func (r *rtnl) KeepDummy(device string) (made bool, err error) {
	link, err := r.dummy(device)
	switch {
	case errors.Is(err, unix.ENODEV):
		return true, r.makeDummy(device)
	case err != nil || link.Flags&unix.IFF_UP != 0:
		return false, err
	}
	return false, r.BringUp(device)
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
	m := &rtnetlink.RouteMessage{
		Family:    unix.AF_INET,
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
	if a.Is6() {
		m.Family = unix.AF_INET6
	}
	_, err := r.conn.Execute(m, messageType, netlink.Request|netlink.Acknowledge|flags)
	if errors.Is(err, unchanged) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s local route %s: %w", verb, a, err)
	}
	return true, nil
}
