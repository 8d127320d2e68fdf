// The dummy device of announce = "dummy". A routing daemon announces the addresses
// on it to the routers.
//
// Used by host.go. A device of that name that another program made is never brought
// up, changed or removed.
//
// When a VIP leaves the device, packets still come until the last router has removed
// its route, and they belong to connections that this director's kernel has. So each
// VIP also has a route of ours to lo in the kernel's local table, which no routing
// daemon reads: with it the kernel accepts the packets and IPVS forwards them. The route
// does not lead to the dummy device, because a device loses all its IPv4 routes
// with its last IPv4 address (fib_disable_ip in net/ipv4/fib_frontend.c).

package main

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// dummyDevice keeps the device and the local routes. It belongs to one goroutine.
type dummyDevice struct {
	log     *slog.Logger
	devices map[string]bool     // ours that may exist: one, or two while VIPs move to another
	routes  map[netip.Addr]bool // local routes that may exist
}

// newDummyDevice starts from the local routes of an earlier run, from the state file.
func newDummyDevice(routes []netip.Addr, log *slog.Logger) *dummyDevice {
	return &dummyDevice{log: log, devices: make(map[string]bool), routes: addAll(make(map[netip.Addr]bool), routes)}
}

// Recover finds what an earlier run has left. It returns the addresses on devices of
// ours: all of them are the controller's.
func (d *dummyDevice) Recover(r *rtnl) (found []VIPAddress, err error) {
	names, err := r.OurDummies()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		d.devices[name] = true
		have, err := r.List(name)
		if err != nil {
			return nil, err
		}
		for _, a := range have {
			found = append(found, VIPAddress{name, a.Address})
		}
	}
	routes, err := r.LocalRoutes()
	maps.Copy(d.routes, routes)
	return found, err
}

// Keep makes the device, brings it up, and adds a local route for each of want. It
// removes nothing; with nothing wanted it does nothing. After a deviceErr no address
// can be put on the device; after a routeErr those with a route can.
func (d *dummyDevice) Keep(r *rtnl, device string, want []netip.Addr) (made bool, deviceErr, routeErr error) {
	if len(want) == 0 {
		return false, nil, nil
	}
	made, err := r.KeepDummy(device)
	if err != nil {
		return made, err, nil
	}
	if made {
		d.log.Info("dummy device made", "device", device)
	}
	d.devices[device] = true
	var errs []error
	for _, a := range want {
		changed, err := r.ChangeLocalRoute(a, true)
		errs = append(errs, err)
		if err == nil {
			d.routes[a] = true
		}
		if changed {
			d.log.Info("local route added: the kernel accepts packets to the VIP", "address", a)
		}
	}
	return made, nil, errors.Join(errs...)
}

// forgetForeign gives up the addresses that we had put on a dummy device of ours,
// where a device of another program has its name now.
func (h *linuxHost) forgetForeign(r *rtnl, device string) error {
	var checked string // the addresses are sorted by device
	for _, v := range h.addresses.Owned() {
		if v.Device == checked || v.Device != device && !h.dummy.devices[v.Device] {
			continue
		}
		checked = v.Device
		switch _, err := r.dummy(checked); {
		case errors.Is(err, errForeignDevice):
			delete(h.dummy.devices, checked)
			h.addresses.Forget(checked)
		case err != nil && !errors.Is(err, unix.ENODEV):
			return err
		}
	}
	return nil
}

// Tidy removes what is not needed any more: local routes that are neither in want nor
// of an address that is there, and devices of ours without an address. device stays
// while want is not empty.
func (d *dummyDevice) Tidy(r *rtnl, device string, want []netip.Addr, there []VIPAddress) error {
	keep := make(map[string]bool)
	if len(want) > 0 {
		keep[device] = true
	}
	routed := addAll(make(map[netip.Addr]bool), want)
	for _, v := range there {
		keep[v.Device] = true
		routed[v.Address] = routed[v.Address] || d.devices[v.Device]
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(d.devices)) {
		if keep[name] {
			continue
		}
		removed, err := r.RemoveDummy(name)
		errs = append(errs, err)
		if err == nil {
			delete(d.devices, name)
		}
		if removed {
			d.log.Info("dummy device removed", "device", name)
		}
	}
	for _, a := range d.Local() {
		if routed[a] {
			continue
		}
		changed, err := r.ChangeLocalRoute(a, false)
		errs = append(errs, err)
		if err == nil {
			delete(d.routes, a)
		}
		if changed {
			d.log.Info("local route removed", "address", a)
		}
	}
	return errors.Join(errs...)
}

// Local lists the addresses with a local route, sorted.
func (d *dummyDevice) Local() []netip.Addr {
	return sortedBy(maps.Keys(d.routes), netip.Addr.Compare)
}
