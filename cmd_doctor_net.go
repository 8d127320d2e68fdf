// The checks of doctor that are about the ways of packets: sizes, the reverse-path
// filter, and devices that answer ARP for each other.
//
// Used by cmd_doctor.go. They judge what cmd_doctor_ask.go and cmd_doctor_host.go have
// read. docs/doctor.md has the reason of each.

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// tunnelOverhead is what a tunnel adds to a packet: the outer IP header, and what follows it
// (ip_vs_tunnel_xmit in net/netfilter/ipvs/ip_vs_xmit.c).
func tunnelOverhead(t TunnelSettings, is6 bool) int {
	bytes := 20
	if is6 {
		bytes = 40
	}
	switch {
	case t.Type == TunnelGUE:
		if bytes += 8 + 4; t.Flags&TunnelRemoteChecksum != 0 { // UDP and GUE
			bytes += 8 // private flags, and the offsets of the checksum
		}
	case t.Type == TunnelGRE && t.Flags&TunnelChecksum != 0:
		bytes += 8
	case t.Type == TunnelGRE:
		bytes += 4
	}
	return bytes
}

// checkMTU compares the largest packets that come in by the uplink with those that can
// leave to the real servers.
func checkMTU(h *doctorHost) []finding {
	uplink := h.net.device(func(d *hostDevice) bool { return d.name == h.uplink })
	if uplink == nil {
		return allWell("no uplink is known")
	}
	type way struct {
		device string
		fits   int
		vip    string
	}
	var narrow []way
	servers := make(map[way][]netip.Addr)
	commands := make(map[way][]string)
	for _, s := range h.table.servers {
		at, looked := h.net.hops[s.address]
		out := h.net.device(func(d *hostDevice) bool { return d.index == at.device })
		if !looked || out == nil || s.forward == Local || out.loopback {
			continue
		}
		w := way{out.name, out.mtu, s.vip.Name}
		mend := []string{fmt.Sprintf("ip link set %s mtu %d    # and on the switch and the nodes behind it", out.name, uplink.mtu)}
		if at.mtu != 0 && at.mtu < w.fits {
			w.fits = at.mtu
			mend = []string{"ip route get " + s.address.String(), "ip route flush cache    # if the kernel learned it from a message that is out of date"}
		}
		if s.forward == Tunnel {
			extra := tunnelOverhead(s.vip.Tunnel, s.address.Is6())
			w.fits -= extra
			mend = []string{fmt.Sprintf("ip link set %s mtu %d    # and on the switch and the nodes behind it", out.name, uplink.mtu+extra),
				fmt.Sprintf("# or on each node, so that clients send smaller segments: ip route change default via GATEWAY dev DEVICE advmss %d", w.fits-40)}
		}
		if w.fits >= uplink.mtu {
			continue
		}
		if servers[w] == nil {
			narrow = append(narrow, w)
			commands[w] = mend
		}
		servers[w] = append(servers[w], s.address)
	}
	var found []finding
	for _, w := range narrow {
		found = append(found, finding{levelWarn, fmt.Sprintf("clients of %s can send %d bytes by %s, and %d fit by %s to %s (%s): larger ones are lost where ICMP is blocked",
			w.vip, uplink.mtu, uplink.name, w.fits, w.device, servers[w][0], numberOf(len(servers[w]), "real server")), commands[w]})
	}
	if found == nil {
		return allWell("%d bytes on %s, and no less to the real servers", uplink.mtu, uplink.name)
	}
	return found
}

// ipv4Setting is the greater of a device's value and that of all devices, which is what
// the kernel uses for rp_filter, arp_ignore and arp_announce.
func (h *doctorHost) ipv4Setting(device, name string) uint64 {
	of := func(device string) uint64 { return h.number("/proc/sys/"+confKey(device, name), 0) }
	return max(of("all"), of(device))
}

// checkReversePath looks for a strict reverse-path filter that drops the packets of
// clients: their answers would leave by another device than that by which they come.
func checkReversePath(h *doctorHost) []finding {
	if h.uplink == "" {
		return allWell("no uplink is known")
	}
	setting := h.ipv4Setting(h.uplink, "rp_filter")
	switch {
	case setting != 1:
		return allWell("the filter of %s is not strict (rp_filter %d)", h.uplink, setting)
	case h.net.defaultDevice == h.uplink:
		return allWell("the filter of %s is strict, and its default route leaves there", h.uplink)
	}
	way, level := "there is no default route", levelWarn
	if h.net.defaultDevice != "" {
		way, level = "the default route leaves by "+h.net.defaultDevice, levelFail
	}
	return []finding{{level, fmt.Sprintf("the filter of %s is strict (rp_filter 1), and %s: packets of clients beyond the segment are dropped", h.uplink, way),
		[]string{fmt.Sprintf("sysctl -w '%s=2'", confKey(h.uplink, "rp_filter"))}}}
}

// checkARPFlux looks for devices in one subnet that answer ARP for each other's
// addresses: clients learn now one MAC address and now the other.
func checkARPFlux(h *doctorHost) []finding {
	if h.net.err != nil {
		return []finding{{levelWarn, "not known: " + h.net.err.Error(), []string{"ip address"}}}
	}
	subnets := make(map[netip.Prefix][]string)
	var order []netip.Prefix
	for _, d := range h.net.devices {
		for _, a := range d.addresses {
			subnet := netip.PrefixFrom(a.Address, int(a.Bits)).Masked()
			if !d.arp || !a.Address.Is4() || a.Bits >= 32 || slices.Contains(subnets[subnet], d.name) {
				continue
			}
			if subnets[subnet] == nil {
				order = append(order, subnet)
			}
			subnets[subnet] = append(subnets[subnet], d.name)
		}
	}
	var found []finding
	for _, subnet := range order {
		devices := subnets[subnet]
		if len(devices) < 2 {
			continue
		}
		open := slices.DeleteFunc(slices.Clone(devices), func(d string) bool {
			return h.ipv4Setting(d, "arp_ignore") > 0 || h.ipv4Setting(d, "arp_filter") > 0
		})
		if len(open) == 0 {
			continue
		}
		f := finding{level: levelWarn, fact: fmt.Sprintf("%s are all in %s, and %s answers ARP for the addresses of the others too", strings.Join(devices, ", "), subnet, strings.Join(open, ", "))}
		for _, d := range open {
			f.commands = append(f.commands, fmt.Sprintf("sysctl -w '%s=1' '%s=2'", confKey(d, "arp_ignore"), confKey(d, "arp_announce")))
		}
		found = append(found, f)
	}
	if found == nil {
		return allWell("no two devices answer ARP for the same addresses")
	}
	return found
}
