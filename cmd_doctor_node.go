// The checks of doctor that are about a node: has it the VIPs without claiming them, and
// does it unpack what comes through a tunnel?
//
// Used by cmd*.go. They ask what the sub-command realserver asks before it changes
// anything, and change nothing.

package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// findNode finds the VIPs of a node: those of the configuration or else of the state file
// of realserver, or else the host addresses on lo.
func findNode(h *doctorHost) doctorNode {
	n := doctorNode{port: gueDefaultPort, vips: h.vipAddresses(), open: func() (nodeNetwork, error) { return openRtnl(context.Background()) }}
	if _, err := os.Stat(h.root + realserverFile); err == nil {
		n.prepared = true
	}
	var state realserverState
	if text, err := readRegular(h.root+realserverFile, realserverStateMost); err == nil {
		state, _ = decodeRealserverState(text) // one that cannot be read has nothing
	}
	n.findTunnel(h.cfg, &state)
	if len(n.vips) > 0 {
		return n
	}
	for _, v := range state.prepared() {
		n.vips = including(n.vips, v.Address)
	}
	if lo := h.net.device(func(d *hostDevice) bool { return d.loopback }); lo != nil && len(n.vips) == 0 {
		for _, a := range lo.addresses {
			if int(a.Bits) == a.Address.BitLen() && a.Address.IsGlobalUnicast() {
				n.vips = including(n.vips, a.Address)
			}
		}
	}
	return n
}

// findTunnel finds the tunnel that leads here: that of the configuration, or else what
// the sub-command realserver has made.
func (n *doctorNode) findTunnel(cfg *Config, state *realserverState) {
	for _, d := range state.Devices {
		for tunnel, kinds := range tunnelKinds {
			if tunnel != "gue" && (d.Name == ours+kinds[0] || d.Name == ours+kinds[1] || d.Name == ownDevices[kinds[0]] || d.Name == ownDevices[kinds[1]]) {
				n.tunnel = tunnel
			}
		}
	}
	for _, p := range state.Ports {
		n.tunnel, n.port = "gue", p.Port
	}
	for i := range cfg.VIPs {
		if v := &cfg.VIPs[i]; v.Forward == Tunnel {
			n.tunnel = map[TunnelType]string{TunnelIPIP: "ipip", TunnelGUE: "gue", TunnelGRE: "gre"}[v.Tunnel.Type]
			if n.checksum = v.Tunnel.Type == TunnelGRE && v.Tunnel.Flags&TunnelChecksum != 0; v.Tunnel.Port != 0 {
				n.port = v.Tunnel.Port
			}
		}
	}
}

// applyingRoles are the roles of a host for which none is named. Without a configuration
// file a host with VIPs on lo is a node and no director.
func (h *doctorHost) applyingRoles() (roles doctorRole) {
	onLo := func(a netip.Addr) bool {
		return slices.ContainsFunc(h.net.with(a), func(d *hostDevice) bool { return d.loopback })
	}
	unconfigured := isAbsent(h.configErr) && h.copied == ""
	if h.node.prepared || unconfigured && slices.ContainsFunc(h.node.vips, onLo) {
		roles = roleNode
	}
	if roles == 0 || !unconfigured {
		roles |= roleDirector
	}
	if query := h.cfg.ClusterQuery(); (h.configErr == nil || h.copied != "") && len(allKeys(&query)) > 0 {
		roles |= roleCluster
	}
	return roles
}

// prepares is the command that prepares this node.
func (n *doctorNode) prepares(vips []netip.Addr) string {
	var all []string
	for _, a := range vips {
		all = append(all, a.String())
	}
	command := "lvs-controller realserver -vip " + strings.Join(all, ",")
	if n.tunnel != "" {
		command += " -tunnel " + n.tunnel
	}
	if n.tunnel == "gue" && n.port != gueDefaultPort {
		command += fmt.Sprintf(" -tunnel-port %d", n.port)
	}
	if n.checksum {
		command += " -tunnel-checksum"
	}
	return command
}

// checkNodeVIPs looks for the VIPs on lo.
func checkNodeVIPs(h *doctorHost) []finding {
	switch {
	case len(h.node.vips) == 0:
		return []finding{{levelWarn, "no VIP is known on this node", []string{"lvs-controller doctor -role node -vip ADDR"}}}
	case h.net.err != nil:
		return []finding{{levelWarn, "not known: " + h.net.err.Error(), []string{"ip address"}}}
	}
	var found []finding
	for _, a := range h.node.vips {
		devices := h.net.with(a)
		quiet := slices.ContainsFunc(devices, func(d *hostDevice) bool { return d.loopback || d.alone })
		for _, d := range devices {
			if !d.loopback && !d.alone {
				found = append(found, finding{levelFail, fmt.Sprintf("%s is on %s, where this node answers for it beside the director", a, d.name), []string{
					h.node.prepares([]netip.Addr{a}), fmt.Sprintf("ip address del %s dev %s", netip.PrefixFrom(a, int(addressIn(d.addresses, a).Bits)), d.name)}})
				quiet = true
			}
		}
		if !quiet {
			found = append(found, finding{levelFail, fmt.Sprintf("%s is not on lo, so this node drops the packets to it", a), []string{h.node.prepares([]netip.Addr{a})}})
		}
	}
	if found == nil {
		return allWell("%s on lo", numberOf(len(h.node.vips), "VIP address"))
	}
	return found
}

// checkARPSettings looks at the settings without which a node answers ARP for a VIP on lo.
func checkARPSettings(h *doctorHost) []finding {
	vips := slices.DeleteFunc(slices.Clone(h.node.vips), netip.Addr.Is6)
	if len(vips) == 0 {
		return allWell("IPv6 needs none")
	}
	proc := procSys{Root: h.root + "/proc/sys"}
	release, err := proc.KernelRelease()
	if err != nil {
		return []finding{{levelWarn, err.Error(), []string{readsRelease}}}
	}
	if len(h.net.arpDevices) == 0 {
		return []finding{{levelWarn, "no device may lead to clients", []string{"ip address", "ip route"}}}
	}
	var found []finding
	for _, device := range h.net.arpDevices {
		for _, s := range proc.Check(sysctlsFor(useNode, device, release)) {
			switch all, _ := proc.read(confKey("all", s.Key[strings.LastIndexByte(s.Key, '/')+1:])); {
			case s.OK || all == s.Want || slices.Contains(s.Also, all):
			case s.Err != nil:
				found = append(found, finding{levelWarn, s.Err.Error(), []string{"ls -l '/proc/sys/" + s.Key + "'"}})
			default:
				found = append(found, finding{levelFail, fmt.Sprintf("%s is %s, want %s: %s", s.Key, s.Have, s.Want, s.Why), []string{h.node.prepares(vips)}})
			}
		}
	}
	if found == nil {
		return allWell("%s does not claim the VIPs", strings.Join(h.net.arpDevices, ", "))
	}
	return found
}

// checkTunnelEnd looks for the devices, settings and ports that unpack a tunnel.
func checkTunnelEnd(h *doctorHost) []finding {
	n := &h.node
	if n.tunnel == "" {
		return allWell("no tunnel leads to this node")
	}
	if len(n.vips) == 0 {
		return allWell("no VIP is known")
	}
	network, err := n.open()
	if err != nil {
		return []finding{{levelWarn, "not known: " + err.Error(), []string{"ip link"}}}
	}
	defer network.Close()
	rs := realserver{vips: n.vips, device: "lo", tunnel: n.tunnel, port: uint(n.port), checksum: n.checksum, proc: procSys{Root: h.root + "/proc/sys"}, net: network, stdout: io.Discard}
	if err := rs.planTunnel(); err != nil {
		return []finding{{levelFail, err.Error(), []string{n.prepares(n.vips)}}}
	}
	var found []finding
	for _, l := range rs.lacks {
		found = append(found, finding{levelFail, l.text, []string{n.prepares(n.vips)}})
	}
	if found == nil {
		return allWell("this node unpacks %s", n.tunnel)
	}
	return found
}
