// The checks of doctor that are about VIPs and real servers: which host has a VIP, how
// packets get to the real servers, and whether those take them.
//
// Used by cmd_doctor.go. They judge what cmd_doctor_ask.go has asked. docs/doctor.md has
// the reason of each.

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// otherHosts are those that answer for a VIP on the uplink's segment.
func (h *doctorHost) otherHosts() (map[netip.Addr][]claimingHost, error) {
	return h.ask.claims(h.uplink, h.vipAddresses())
}

// checkVIPs looks which host has each VIP address.
func checkVIPs(h *doctorHost) []finding {
	if len(h.cfg.VIPs) == 0 {
		return []finding{{levelWarn, "there is no VIP in the configuration", []string{"# in config.toml: [[vip]] with name, addresses and ports"}}}
	}
	if h.net.err != nil {
		return []finding{{levelWarn, "not known: " + h.net.err.Error(), []string{"ip address"}}}
	}
	others, asked := h.otherHosts()
	var found []finding
	for i := range h.cfg.VIPs {
		v := &h.cfg.VIPs[i]
		for _, a := range v.Addresses {
			found = append(found, h.judgeVIP(v, a, others[a], asked))
		}
	}
	stableBy(found, func(a, b finding) int { return int(b.level - a.level) }) // the worst of many are shown
	return found
}

// judgeVIP decides; others are the hosts that answer for a, and asked says why they may
// be unknown.
func (h *doctorHost) judgeVIP(v *VIP, a netip.Addr, others []claimingHost, asked error) finding {
	name := fmt.Sprintf("%s of %s", a, v.Name)
	if devices := h.net.with(a); len(devices) > 0 {
		return finding{fact: name + " is on " + devices[0].name}
	}
	if len(others) > 0 {
		return finding{fact: fmt.Sprintf("%s is at %s", name, &others[0])}
	}
	fact := name + " is on no device of this host, and no other host answers for it"
	if asked != nil {
		fact = fmt.Sprintf("%s is on no device of this host; other hosts cannot be asked: %v", name, asked)
	}
	if v.Announce.method().shared {
		return finding{levelWarn, fact, []string{"# the controller adds it to " + h.cfg.AnnounceDevice + " while it is ready:", "systemctl start lvs-controller", h.call("status")}}
	}
	f := finding{level: levelFail, fact: fact}
	if asked != nil {
		f.level = levelWarn
	}
	switch st, err := h.ask.status(h.at); {
	case v.Announce.method().byController() && err == nil && !st.Drained.IsZero():
		f.commands = []string{"# an operator has drained this director:", h.call("drain -undo")}
	case v.Announce.method().byController():
		f.commands = []string{"# the controller adds it while a real server is in service:", "systemctl start lvs-controller", h.call("status")}
	case h.keepalivedConf().has(a) && !h.runs("keepalived"):
		f.commands = []string{"systemctl start keepalived"}
	case h.keepalivedConf().has(a):
		f.commands = []string{"# keepalived runs and has it in its file:", "journalctl -u keepalived", h.call("ready")}
	default:
		f.commands = []string{
			`# announce = "none": another program has to add it. For keepalived, with the other director's address:`,
			h.call("keepalived") + " -peer ADDR > " + keepalivedFile,
			`# or the controller does, in config.toml, in this [[vip]]: announce = "arp"`,
		}
	}
	return f
}

// checkConflicts looks for addresses that two hosts have.
func checkConflicts(h *doctorHost) []finding {
	others, err := h.otherHosts()
	if err != nil {
		return []finding{{fact: "other hosts are not asked: " + err.Error()}}
	}
	var found []finding
	for i := range h.cfg.VIPs {
		v := &h.cfg.VIPs[i]
		for _, a := range v.Addresses {
			found = append(found, h.judgeClaims(v, a, others[a])...)
		}
	}
	if found == nil {
		return allWell("no VIP is at two hosts")
	}
	return found
}

// judgeClaims decides about the hosts that answer for a beside this one or another
// director.
func (h *doctorHost) judgeClaims(v *VIP, a netip.Addr, others []claimingHost) (found []finding) {
	var device *hostDevice
	for _, d := range h.net.with(a) {
		if !d.alone { // else routers lead clients here, and what the segment says is no conflict
			device = d
		}
	}
	var first *claimingHost // that is no real server
	for i := range others {
		c := &others[i]
		server := slices.IndexFunc(c.hosts, func(host netip.Addr) bool {
			return slices.ContainsFunc(h.table.servers, func(s doctorServer) bool { return s.address == host })
		})
		cause := likelyCause(server >= 0, c.asks, a.Is6())
		switch {
		case server >= 0:
			node := c.hosts[server]
			found = append(found, finding{levelFail, fmt.Sprintf("%s of %s: %s answers for it: %s", a, v.Name, c, cause), []string{
				fmt.Sprintf("# on the node %s:", node), "lvs-controller realserver -vip " + a.String()}})
			continue
		case v.Announce.method().shared:
		case device != nil:
			found = append(found, finding{levelFail, fmt.Sprintf("%s of %s is on %s here and at %s: %s", a, v.Name, device.name, c, cause), h.oneHolder(a, c)})
		case first != nil:
			found = append(found, finding{levelFail, fmt.Sprintf("%s of %s is at %s and at %s: %s", a, v.Name, first, c, cause), h.oneHolder(a, c)})
		}
		first = c
	}
	return found
}

// oneHolder takes an address away from one of two hosts.
func (h *doctorHost) oneHolder(a netip.Addr, c *claimingHost) []string {
	return []string{"# on the host that should not have it, which may be " + c.String() + ":",
		fmt.Sprintf("ip address del %s dev %s    # keepalived adds it again: is its advertisement blocked (IP protocol 112)?", netip.PrefixFrom(a, a.BitLen()), h.uplink)}
}

// checkRealServers looks at the way to each real server.
func checkRealServers(h *doctorHost) []finding {
	servers := h.table.addresses()
	switch {
	case len(servers) == 0:
		return []finding{{levelWarn, "none is known: the kernel's table, the configuration and what is saved of the cluster have none", []string{h.call("status")}}}
	case h.net.err != nil:
		return []finding{{levelWarn, "not known: " + h.net.err.Error(), []string{"ip route"}}}
	}
	var found []finding
	judged := make(map[netip.Addr]bool)
	for _, s := range h.table.servers {
		at, looked := h.net.hops[s.address]
		if !looked || judged[s.address] || s.forward == Local {
			continue
		}
		name := fmt.Sprintf("%s of %s", s.address, s.vip.Name)
		where := []string{"ip route get " + s.address.String()}
		switch {
		case at.router && s.forward == DirectRoute:
			found = append(found, finding{levelFail, name + " is behind a router: direct routing gives its packets to the router, which has no use for them", append(where,
				"# give the node an address in the segment of the director, or in config.toml, in this [[vip]]:", `# forward = "tunnel", with lvs-controller realserver -tunnel ipip on the node`)})
		case at.broadcast:
			found = append(found, finding{levelFail, name + " is a broadcast address of this host's network", append(where, "# compare the prefix lengths of this host and of the node: ip address")})
		case !at.router && at.device == 0:
			found = append(found, finding{levelFail, name + ": " + at.problem, where})
		default:
			continue
		}
		judged[s.address] = true
	}
	if found != nil {
		return found
	}
	more := ""
	if h.net.moreHops > 0 {
		more = fmt.Sprintf(" (and %d not looked up)", h.net.moreHops)
	}
	return allWell("%s, each can be reached as its VIP forwards%s", numberOf(len(h.net.hops), "real server"), more)
}

// checkNodes asks each node over the data path whether it takes packets to the VIP.
func checkNodes(h *doctorHost) []finding {
	plan, tunnelled := h.nodePlan()
	if len(plan.VIPs) == 0 {
		why := "no real server with a TCP port is known"
		if tunnelled {
			why = "they are asked only in direct routing; on a node: lvs-controller doctor -role node"
		}
		return allWell("%s", why)
	}
	found, err := h.ask.nodes(plan)
	if err != nil {
		return []finding{{fact: "not asked: " + err.Error()}}
	}
	var all []finding
	whole, silent, first := make(map[netip.Addr]bool), 0, ""
	for i := range plan.VIPs {
		v := &plan.VIPs[i]
		for _, s := range v.Servers {
			for _, a := range v.Addresses {
				if a.Is6() != s.Address.Is6() || h.net.hops[s.Address].problem != "" { // the check above says that
					continue
				}
				answer := found[nodeQuestion{a, s.Address}]
				if !answer.known {
					silent, first = silent+1, cmp.Or(first, fmt.Sprintf("%s at the node %s: %s", a, s.Address, cmp.Or(answer.why, "not asked in time")))
					continue
				}
				whole[s.Address] = true
				if f := judgeNode(v.Name, a, s.Address, v.DataPort, answer.why); f.level != levelOK {
					all = append(all, f)
				}
			}
		}
	}
	if silent > 0 {
		all = append(all, finding{levelWarn, fmt.Sprintf("%s without an answer, %s", numberOf(silent, "question"), first), []string{h.call("doctor -role director")}})
	}
	if all == nil {
		return allWell("%s: each has the VIPs and serves them", numberOf(len(whole), "real server"))
	}
	return all
}

// judgeNode decides; why is what the probe says.
func judgeNode(vip string, a, node netip.Addr, port uint16, why string) finding {
	if _, short, found := strings.Cut(why, " through the node: "); found {
		why = short
	}
	f := finding{fact: fmt.Sprintf("%s of %s at the node %s: %s", a, vip, node, why)}
	switch {
	case why == "":
	case strings.Contains(why, "refused"): // by a node that has the VIP
		f.level = levelWarn
		f.commands = []string{"# on the node " + node.String() + ": does a pod listen there, on all addresses?", fmt.Sprintf("ss -ltn 'sport = :%d'", port)}
	case strings.Contains(why, "no answer to"):
		f.level = levelFail
		f.commands = []string{"ping -c 3 " + node.String(), "# is the node up, and in the same segment (VLAN)?"}
	default:
		f.level = levelFail
		f.commands = []string{"# on the node " + node.String() + ":", "lvs-controller realserver -vip " + a.String()}
	}
	return f
}

// nodePlan asks each real server in direct routing for each VIP address, at one TCP port.
func (h *doctorHost) nodePlan() (plan *ProbePlan, tunnelled bool) {
	plan, n := new(ProbePlan), 0
	for i := range h.cfg.VIPs {
		v := &h.cfg.VIPs[i]
		var servers []netip.Addr
		for _, s := range h.table.servers {
			if s.vip == v && s.forward == DirectRoute && n < mostAsked {
				servers = append(servers, s.address)
				n += len(v.Addresses)
			}
			tunnelled = tunnelled || s.forward == Tunnel
		}
		ports := slices.Clone(v.Ports)
		for _, key := range h.table.services {
			if h.table.owners.of(key) == v && key.Protocol == TCP {
				ports = append(ports, Port{key.Port, TCP})
			}
		}
		if p := newProbedVIP(v, ports, servers, nil); p.DataPort != 0 && len(servers) > 0 {
			plan.VIPs = append(plan.VIPs, p)
		}
	}
	return plan, tunnelled
}

// checkController asks the controller whether it is ready.
func checkController(h *doctorHost) []finding {
	st, err := h.ask.status(h.at)
	switch {
	case err != nil && hasAnswered(err):
		return []finding{{levelWarn, fmt.Sprintf("%s: %v; the kernel's table stays as it is", unanswered(err), err), []string{"journalctl -u lvs-controller -n 20"}}}
	case err != nil:
		return []finding{{levelWarn, fmt.Sprintf("does not answer: %v; the kernel's table stays as it is", err), []string{"systemctl start lvs-controller", "journalctl -u lvs-controller -n 20"}}}
	case !st.Drained.IsZero():
		return []finding{{levelWarn, "an operator has drained this director on " + st.Drained.Format(time.DateTime), []string{h.call("drain -undo")}}}
	case !st.Ready:
		return []finding{{levelWarn, "it is not ready: " + st.Reason, []string{h.call("status")}}}
	case len(st.Warnings) > 0:
		return []finding{{levelWarn, fmt.Sprintf("it is ready, with %s: %s", numberOf(len(st.Warnings), "warning"), st.Warnings[0]), []string{h.call("status")}}}
	}
	return allWell("it is ready")
}
