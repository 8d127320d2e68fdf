// The node's end of a tunnel: it unpacks what a director sends with
// forward = "tunnel".
//
// Used by cmd_realserver.go. What IPVS sends (ip_vs_tunnel_xmit and
// ip_vs_tunnel_xmit_v6 in net/netfilter/ipvs/ip_vs_xmit.c), with the same
// address family outside and inside:
//
//	ipip  IP protocol 4, or 41 for IPv6
//	gre   a GRE header without a key, with a checksum if the director is set so
//	gue   UDP, a GUE header of version 0, then as ipip: after its UDP port the
//	      packet goes on to the device for ipip
//
// The sender is the director's own address, and there may be several directors,
// so the device accepts packets from every address. Replies do not pass it. Only
// devices and ports that the command made are removed.

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// tunnelKinds are the kinds of device that unpack the packets of a tunnel, for IPv4 and
// IPv6, as the kernel calls them.
var tunnelKinds = map[string][2]string{
	"ipip": {"ipip", "ip6tnl"},
	"gue":  {"ipip", "ip6tnl"},
	"gre":  {"gre", "ip6gre"},
}

// ownDevices are, by kind, the module's own device, which receives what no other
// device does.
var ownDevices = map[string]string{"ipip": "tunl0", "ip6tnl": "ip6tnl0", "gre": "gre0", "ip6gre": "ip6gre0"}

// ours begins the name of a device that this command makes; the kind follows.
const ours = "lvs-"

// isOurs reports whether device is one that this command makes.
func isOurs(device string) bool {
	kind, found := strings.CutPrefix(device, ours)
	return found && ownDevices[kind] != ""
}

// planTunnel plans each family's end of the tunnel; none without -tunnel.
func (rs *realserver) planTunnel() error {
	for _, is6 := range []bool{false, true} {
		vips := slices.DeleteFunc(slices.Clone(rs.vips), func(a netip.Addr) bool { return a.Is6() != is6 })
		if rs.tunnel == "" || len(vips) == 0 {
			continue
		}
		if err := rs.planDevice(tunnelKinds[rs.tunnel][familyIndex(is6)], vips); err != nil {
			return err
		}
		if rs.tunnel == "gue" {
			if err := rs.planPort(guePort{uint16(rs.port), is6}, vips); err != nil {
				return err
			}
		}
	}
	return nil
}

// receiver finds the device that receives packets of a kind: the one for
// metadata, else the kernel's own if it is up, else there is none, and
// ours must be made. A device of another program is used rather than one of ours
// that would take its packets away: a CNI plug-in may need them.
func (rs *realserver) receiver(kind string) (d tunnelDevice, found bool, err error) {
	devices, err := rs.net.TunnelDevices(kind)
	if err != nil {
		return d, false, err
	}
	at := slices.IndexFunc(devices, func(d tunnelDevice) bool { return d.Metadata })
	if at < 0 {
		at = slices.IndexFunc(devices, func(d tunnelDevice) bool { return d.Name == ownDevices[kind] && d.Up })
	}
	if at < 0 {
		return tunnelDevice{Name: ours + kind, Metadata: true, Checksum: rs.checksum}, false, nil
	}
	d = devices[at]
	switch {
	case !d.Up && !isOurs(d.Name):
		err = fmt.Errorf("device %s would receive the tunnel's packets, but it is down and not ours", d.Name)
	case d.Checksum && !rs.checksum:
		err = fmt.Errorf("device %s receives only packets with a checksum: see -tunnel-checksum", d.Name)
	case !d.Checksum && rs.checksum:
		err = fmt.Errorf("device %s receives only packets without a checksum: see -tunnel-checksum", d.Name)
	}
	return d, true, err
}

// planDevice plans the device that receives packets for vips, which are of one family.
// It comes up when all that it needs is there.
func (rs *realserver) planDevice(kind string, vips []netip.Addr) error {
	d, found, err := rs.receiver(kind)
	if err != nil {
		return err
	}
	rs.wanted = append(rs.wanted, d.Name)
	if !found {
		rs.lack(lackTunnel, d.Name, "%s device %s is missing", kind, d.Name)
		rs.step(func() error {
			return rs.changed(rs.net.MakeTunnelDevice(kind, d), "made %s device %s", kind, d.Name)
		})
	} else if !d.Up {
		rs.lack(lackTunnel, d.Name, "%s device %s is down", kind, d.Name)
	}
	i := slices.IndexFunc(rs.state.Devices, func(s savedDevice) bool { return s.Name == d.Name })
	if i < 0 {
		i = len(rs.state.Devices)
		rs.state.Devices = append(rs.state.Devices, savedDevice{Name: d.Name})
	}
	saved := &rs.state.Devices[i]
	saved.VIPs = including(saved.VIPs, vips...)
	if vips[0].Is4() {
		if err := rs.planIPv4(saved, found, vips); err != nil {
			return err
		}
	}
	if !d.Up {
		rs.step(func() error { return rs.changed(rs.net.BringUp(d.Name), "brought up %s", d.Name) })
	}
	return nil
}

// planIPv4 plans what IPv4 needs of a device. A loose reverse-path filter
// drops everything on a device without an IPv4 address (__fib_validate_source
// in net/ipv4/fib_frontend.c), so a device without one gets the VIPs too.
func (rs *realserver) planIPv4(d *savedDevice, found bool, vips []netip.Addr) error {
	var have []deviceAddress
	if found {
		settings, err := rs.tunnelSettings(d.Name)
		if err != nil {
			return err
		}
		rs.planSettings(lackTunnel, d.Name, settings, &d.Sysctls)
		if have, err = rs.net.List(d.Name); err != nil {
			return err
		}
	} else {
		device := d.Name
		// A device that is made has its settings only then.
		rs.step(func() error { return rs.set(rs.tunnelSettings(device)) })
	}
	if !slices.ContainsFunc(have, func(h deviceAddress) bool {
		return h.Address.Is4() && !slices.Contains(d.VIPs, h.Address)
	}) {
		rs.planAddresses(d.Name, have, vips)
	}
	return nil
}

// tunnelSettings lists the settings of a tunnel's device that differ.
func (rs *realserver) tunnelSettings(device string) ([]SysctlState, error) {
	all, err := rs.proc.read(confKey("all", "rp_filter"))
	if err != nil {
		return nil, err
	}
	settings, err := rs.differing(useTunnel, device)
	if all == "0" { // then the device's own 0 means no filter
		settings = slices.DeleteFunc(settings, func(s SysctlState) bool { return s.Have == "0" })
	}
	return settings, err
}

// planPort plans to open a port, and notes the VIPs that need it.
func (rs *realserver) planPort(p guePort, vips []netip.Addr) error {
	open, err := rs.net.GUEPorts()
	if err != nil {
		return err
	}
	ports := &rs.state.Ports
	i := slices.IndexFunc(*ports, func(s savedPort) bool { return s.guePort == p })
	rs.wanted = append(rs.wanted, p.String())
	if !slices.Contains(open, p) {
		rs.lack(lackTunnel, p.String(), "%s is closed", p)
		rs.step(func() error { return rs.changed(rs.net.OpenGUE(p), "opened %s", p) })
		if i < 0 {
			i = len(*ports)
			*ports = append(*ports, savedPort{guePort: p})
		}
	}
	// Another program opened a port that is open and not in the file.
	if i >= 0 {
		(*ports)[i].VIPs = including((*ports)[i].VIPs, vips...)
	}
	return nil
}

// savedDevice is a tunnel's device that VIPs need.
type savedDevice struct {
	Name string `json:"name"`
	// Sysctls are the settings that were changed, unless the device is ours.
	Sysctls []savedSysctl `json:"sysctls,omitempty"`
	VIPs    []netip.Addr  `json:"vips"`
}

// savedPort is a port that was opened, with the VIPs that need it.
type savedPort struct {
	guePort
	VIPs []netip.Addr `json:"vips"`
}

// undoTunnels removes what no VIP needs any more, of a command line or of a file.
func (rs *realserver) undoTunnels() error {
	state, needed := &rs.state, make(map[netip.Addr]bool)
	for _, v := range state.prepared() {
		needed[v.Address] = true
	}
	unneeded := func(a netip.Addr) bool { return !needed[a] }
	var (
		ports   []savedPort
		devices []savedDevice
	)
	for _, p := range state.Ports {
		if p.VIPs = slices.DeleteFunc(p.VIPs, unneeded); len(p.VIPs) > 0 {
			ports = append(ports, p)
			continue
		}
		closed, err := rs.net.CloseGUE(p.guePort)
		if closed {
			err = rs.changed(err, "closed %s", p.guePort)
		}
		if err != nil {
			return err
		}
	}
	for _, d := range state.Devices {
		for _, a := range d.VIPs {
			if !unneeded(a) {
				continue
			}
			if err := rs.take(VIPAddress{Device: d.Name, Address: a}); err != nil {
				return err
			}
		}
		if d.VIPs = slices.DeleteFunc(d.VIPs, unneeded); len(d.VIPs) > 0 {
			devices = append(devices, d)
		} else if err := rs.undoDevice(d); err != nil {
			return err
		}
	}
	state.Ports, state.Devices = ports, devices
	return nil
}

// undoDevice removes our device, or restores the settings of another program's.
func (rs *realserver) undoDevice(d savedDevice) error {
	if !isOurs(d.Name) {
		return rs.restore(d.Sysctls)
	}
	removed, err := rs.net.RemoveDevice(d.Name)
	if removed {
		return rs.changed(err, "removed device %s", d.Name)
	}
	return err
}
