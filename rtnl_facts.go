// What the devices of this host are: names, sizes, addresses.
//
// Used by cmd*.go. It only reads, and needs no rights.

package main

import (
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

// hostDevice is a network device.
type hostDevice struct {
	index    int
	name     string
	mtu      int
	loopback bool
	alone    bool // no other host is on its segment: lo, dummy, tunnels
	// arp: it is up and asks by ARP, and no bridge or bond takes its packets.
	arp       bool
	addresses []deviceAddress
}

// devices lists all devices with their addresses.
func (r *rtnl) devices() ([]hostDevice, error) {
	links, err := r.links()
	if err != nil {
		return nil, err
	}
	var all []hostDevice
	for i := range links {
		m := &links[i]
		device := netInterface(m)
		d := hostDevice{index: device.Index, name: device.Name, mtu: device.MTU, loopback: device.Flags&net.FlagLoopback != 0}
		kind, taken := "", false
		if a := m.Attributes; a != nil {
			taken = a.Master != nil
			if a.Info != nil {
				kind = a.Info.Kind
			}
		}
		d.alone = d.loopback || kind == "dummy" || m.Flags&(unix.IFF_NOARP|unix.IFF_POINTOPOINT) != 0
		d.arp = m.Flags&unix.IFF_UP != 0 && !d.alone && !taken
		all = append(all, d)
	}
	err = r.eachAddress(func(index uint32, a deviceAddress) {
		if i := slices.IndexFunc(all, func(d hostDevice) bool { return d.index == int(index) }); i >= 0 {
			all[i].addresses = append(all[i].addresses, a)
		}
	})
	return all, err
}
