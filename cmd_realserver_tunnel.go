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
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// tunnelNetwork is what the tunnel's end asks of netlink.
type tunnelNetwork interface {
	TunnelDevices(kind string) ([]tunnelDevice, error)
	MakeTunnelDevice(kind string, d tunnelDevice) error
	BringUp(device string) error
	RemoveDevice(device string) (bool, error)
	GUEPorts() ([]guePort, error)
	OpenGUE(guePort) error
	CloseGUE(guePort) (bool, error)
}

// tunnelOption is the flags -tunnel, -tunnel-port and -tunnel-checksum.
type tunnelOption struct {
	name     string // ipip, gue or gre; "" = no tunnel
	port     uint   // of gue
	checksum bool   // of gre
}

// validate refuses what makes no sense.
func (o tunnelOption) validate() error {
	switch {
	case !slices.Contains([]string{"", "ipip", "gue", "gre"}, o.name):
		return fmt.Errorf("-tunnel %s: want ipip, gue or gre", o.name)
	case o.port < 1 || o.port > 65535:
		return fmt.Errorf("-tunnel-port %d is outside 1 to 65535", o.port)
	case o.checksum && o.name != "gre":
		return errors.New("-tunnel-checksum is for -tunnel gre; the others need no setting")
	}
	return nil
}

// tunnelKind is a kind of device for one family of packets.
type tunnelKind struct {
	kind     string // as the kernel calls it
	fallback string // the module's own device, which receives what no other device does
}

// ours is the device that this command makes.
func (k tunnelKind) ours() string { return "lvs-" + k.kind }

// isOurs reports whether device is one that this command makes.
func isOurs(device string) bool {
	return slices.ContainsFunc(tunnelKinds[:], func(k tunnelKind) bool { return k.ours() == device })
}

var tunnelKinds = [...]tunnelKind{
	{"ipip", "tunl0"},
	{"ip6tnl", "ip6tnl0"},
	{"gre", "gre0"},
	{"ip6gre", "ip6gre0"},
}

// kind is the kind of device that unpacks the tunnel's packets.
func (o tunnelOption) kind(is6 bool) tunnelKind {
	i := familyIndex(is6)
	if o.name == "gre" {
		i += 2
	}
	return tunnelKinds[i]
}

// tunnelEnd is one family's end of the tunnel, and what it lacks.
type tunnelEnd struct {
	tunnelKind
	is6     bool
	device  string // receives the packets
	missing bool   // the device has to be made
	down    bool   // it has to be brought up
	lack           // of the device
	port    uint16 // of GUE, to be opened; 0 = none
}

// receiver finds the device that receives packets of a kind: the one for
// metadata, else the kernel's own if it is up, else there is none, and
// ours must be made. A device of another program is used rather than one of ours
// that would take its packets away: a CNI plug-in may need them.
func (rs *realserver) receiver(end *tunnelEnd) error {
	devices, err := rs.net.TunnelDevices(end.kind)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(devices, func(d tunnelDevice) bool { return d.Metadata })
	if at < 0 {
		at = slices.IndexFunc(devices, func(d tunnelDevice) bool { return d.Name == end.fallback && d.Up })
	}
	if at < 0 {
		end.device, end.missing, end.down = end.ours(), true, true
		return nil
	}
	d := devices[at]
	end.device, end.down = d.Name, !d.Up
	switch {
	case end.down && !isOurs(d.Name):
		return fmt.Errorf("device %s would receive the tunnel's packets, but it is down and not ours", d.Name)
	case isGRE(end.kind) && d.Checksum && !rs.tunnel.checksum:
		return fmt.Errorf("device %s receives only packets with a checksum: see -tunnel-checksum", d.Name)
	case isGRE(end.kind) && !d.Checksum && rs.tunnel.checksum:
		return fmt.Errorf("device %s receives only packets without a checksum: see -tunnel-checksum", d.Name)
	}
	return nil
}

// tunnelEnds finds what each family's end lacks; none without -tunnel.
func (rs *realserver) tunnelEnds() ([]tunnelEnd, error) {
	var ends []tunnelEnd
	for _, is6 := range []bool{false, true} {
		if rs.tunnel.name == "" || !slices.ContainsFunc(rs.vips, func(a netip.Addr) bool { return a.Is6() == is6 }) {
			continue
		}
		end := tunnelEnd{tunnelKind: rs.tunnel.kind(is6), is6: is6}
		if err := rs.receiver(&end); err != nil {
			return nil, err
		}
		if !is6 {
			if err := rs.lacksIPv4(&end); err != nil {
				return nil, err
			}
		}
		if rs.tunnel.name == "gue" {
			open, err := rs.net.GUEPorts()
			if err != nil {
				return nil, err
			}
			if p := uint16(rs.tunnel.port); !slices.Contains(open, guePort{p, is6}) {
				end.port = p
			}
		}
		ends = append(ends, end)
	}
	return ends, nil
}

// lacksIPv4 finds what IPv4 needs of the device. A loose reverse-path filter
// drops everything on a device without an IPv4 address (__fib_validate_source
// in net/ipv4/fib_frontend.c), so a device without one gets the VIPs too.
func (rs *realserver) lacksIPv4(end *tunnelEnd) error {
	var have []deviceAddress
	if !end.missing {
		var err error
		if end.settings, err = rs.tunnelSettings(end.device); err != nil {
			return err
		}
		if have, err = rs.net.List(end.device); err != nil {
			return err
		}
	}
	var prepared []netip.Addr
	if i := rs.state.device(end.device); i >= 0 {
		prepared = rs.state.Devices[i].VIPs
	}
	if slices.ContainsFunc(have, func(d deviceAddress) bool {
		return d.Address.Is4() && !slices.Contains(prepared, d.Address) && !slices.Contains(rs.vips, d.Address)
	}) {
		return nil
	}
	for _, a := range rs.vips {
		if a.Is4() && addressIn(have, a) == nil {
			end.addresses = append(end.addresses, VIPAddress{Device: end.device, Address: a})
		}
	}
	return nil
}

// tunnelSettings lists the settings of a tunnel's device that differ.
func (rs *realserver) tunnelSettings(device string) ([]SysctlState, error) {
	all, err := rs.proc.read(confKey("all", "rp_filter"))
	if err != nil {
		return nil, err
	}
	release, err := rs.proc.KernelRelease()
	if err != nil {
		return nil, err
	}
	wanted := sysctlsFor(useTunnel, device, release)
	if all == "0" { // then the device's own 0 means no filter
		wanted[0].Also = []string{"0"}
	}
	return rs.differing(wanted)
}

// lines describe what is missing, a line each.
func (e tunnelEnd) lines() []string {
	var lines []string
	switch {
	case e.missing:
		lines = append(lines, fmt.Sprintf("%s device %s is missing", e.kind, e.device))
	case e.down:
		lines = append(lines, fmt.Sprintf("%s device %s is down", e.kind, e.device))
	}
	lines = append(lines, e.lack.lines()...)
	if e.port != 0 {
		lines = append(lines, fmt.Sprintf("%s is closed", guePort{e.port, e.is6}))
	}
	return lines
}

// make prepares one family's end. The device comes up when all that it needs
// is there.
func (e tunnelEnd) make(rs *realserver) error {
	if e.missing {
		err := rs.net.MakeTunnelDevice(e.kind, tunnelDevice{Name: e.device, Metadata: true, Checksum: rs.tunnel.checksum})
		if err != nil {
			return err
		}
		rs.changed("made %s device %s", e.kind, e.device)
		if !e.is6 {
			if e.settings, err = rs.tunnelSettings(e.device); err != nil {
				return err
			}
		}
	}
	if err := rs.supply(e.lack); err != nil {
		return err
	}
	if e.down {
		if err := rs.net.BringUp(e.device); err != nil {
			return err
		}
		rs.changed("brought up %s", e.device)
	}
	if e.port != 0 {
		p := guePort{e.port, e.is6}
		if err := rs.net.OpenGUE(p); err != nil {
			return err
		}
		rs.changed("opened %s", p)
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

// device returns the place of a device, -1 for none.
func (s *realserverState) device(name string) int {
	return slices.IndexFunc(s.Devices, func(d savedDevice) bool { return d.Name == name })
}

// rememberTunnel adds to the state what e will change, and the VIPs that need it.
func (rs *realserver) rememberTunnel(e tunnelEnd) {
	state := &rs.state
	i := state.device(e.device)
	if i < 0 {
		i = len(state.Devices)
		state.Devices = append(state.Devices, savedDevice{Name: e.device})
	}
	d := &state.Devices[i]
	d.Sysctls = saveFirst(d.Sysctls, e.settings)
	d.VIPs = rs.withVIPs(d.VIPs, e.is6)

	p := guePort{uint16(rs.tunnel.port), e.is6}
	i = slices.IndexFunc(state.Ports, func(s savedPort) bool { return s.guePort == p })
	if i < 0 && e.port != 0 {
		i = len(state.Ports)
		state.Ports = append(state.Ports, savedPort{guePort: p})
	}
	// Another program opened a port that is open and not in the file.
	if i >= 0 && rs.tunnel.name == "gue" {
		state.Ports[i].VIPs = rs.withVIPs(state.Ports[i].VIPs, e.is6)
	}
}

// withVIPs adds the wanted VIPs of one family.
func (rs *realserver) withVIPs(vips []netip.Addr, is6 bool) []netip.Addr {
	for _, a := range rs.vips {
		if a.Is6() == is6 && !slices.Contains(vips, a) {
			vips = append(vips, a)
		}
	}
	return vips
}

// undoTunnels removes what no VIP of state.Addresses needs any more.
func (rs *realserver) undoTunnels() error {
	state := &rs.state
	needed := func(a netip.Addr) bool {
		return slices.ContainsFunc(state.Addresses, func(v VIPAddress) bool { return v.Address == a })
	}
	var (
		ports   []savedPort
		devices []savedDevice
	)
	for _, p := range state.Ports {
		if p.VIPs = slices.DeleteFunc(p.VIPs, func(a netip.Addr) bool { return !needed(a) }); len(p.VIPs) > 0 {
			ports = append(ports, p)
			continue
		}
		closed, err := rs.net.CloseGUE(p.guePort)
		if err != nil {
			return err
		}
		if closed {
			rs.changed("closed %s", p.guePort)
		}
	}
	for _, d := range state.Devices {
		var rest []netip.Addr
		for _, a := range d.VIPs {
			if needed(a) {
				rest = append(rest, a)
			} else if err := rs.take(VIPAddress{Device: d.Name, Address: a}); err != nil {
				return err
			}
		}
		if d.VIPs = rest; len(rest) > 0 {
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
		rs.changed("removed device %s", d.Name)
	}
	return err
}
