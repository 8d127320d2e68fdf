// What the status says of each VIP: on which device of this host its addresses are, and
// which nodes and pods its real servers are.
//
// Used by http*.go and cmd*.go. It changes nothing.

package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	shownPods   = 4        // pods of a node that the status names
	probePassed = "passed" // a probe's answer
)

// vipStatus is a VIP of the configuration.
type vipStatus struct {
	Name      string          `json:"name"`
	Announce  Announcement    `json:"announce"`
	Addresses []addressStatus `json:"addresses"`
	// Nodes are the real servers that have pods, or had them and drain, or are probed.
	Nodes []nodeStatus `json:"real_servers,omitempty"`
}

// addressStatus is an address of a VIP.
type addressStatus struct {
	Address netip.Addr `json:"address"`
	Device  string     `json:"device,omitempty"`  // of this host; "": on none
	Missing string     `json:"missing,omitempty"` // on no device: who puts it there, and when
}

// nodeStatus is the node of a real server.
type nodeStatus struct {
	Address  netip.Addr    `json:"address"`
	Node     string        `json:"node,omitempty"`
	Zone     string        `json:"zone,omitempty"`
	Pods     []string      `json:"pods,omitempty"` // NAMESPACE/NAME, the first of them
	MorePods int           `json:"more_pods,omitempty"`
	Probes   []probeStatus `json:"probes,omitempty"`
}

// probeStatus is one probe of a real server. Of probes of single ports those that are up
// are left out.
type probeStatus struct {
	Kind   string    `json:"kind"`
	Port   uint16    `json:"port,omitempty"`
	State  string    `json:"state"`  // up, down or unknown
	Answer string    `json:"answer"` // of the last probe: passed, or why not
	At     time.Time `json:"at"`     // when that began
}

// newVIPStatus is a VIP and where it is. err says why devices are not known.
func newVIPStatus(cfg *Config, vip *VIP, devices map[netip.Addr]string, err error, drained bool) vipStatus {
	one := vipStatus{Name: vip.Name, Announce: vip.Announce}
	for _, a := range vip.Addresses {
		at := addressStatus{Address: a, Device: devices[a]}
		switch {
		case err != nil:
			at.Missing = "not known: " + report(err)
		case at.Device == "":
			at.Missing = whoAnnounces(cfg, vip, drained)
		}
		one.Addresses = append(one.Addresses, at)
	}
	return one
}

// whoAnnounces says who puts the addresses of vip on a device, when they are on none.
func whoAnnounces(cfg *Config, vip *VIP, drained bool) string {
	m := vip.Announce.method()
	switch {
	case m.byController() && drained:
		return "the controller does not announce it while this director is drained"
	case m.onUplink:
		return fmt.Sprintf("the controller puts it on %s when a real server is in service", cmp.Or(cfg.Interface, "the uplink"))
	case m.onDummy:
		return fmt.Sprintf("the controller puts it on %s when a real server is in service and the director is ready; then a routing daemon announces it", cfg.AnnounceDevice)
	}
	return fmt.Sprintf("with announce = %q keepalived, or another program, puts it on the director that serves", vip.Announce)
}

// vipDevices are the devices of this host by their addresses. Of an address that several
// have it is the first.
func vipDevices() (map[netip.Addr]string, error) {
	all, err := netDevices()
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(all))
	for i := range all {
		names[all[i].Index] = all[i].Name
	}
	conn, err := openRtnl(context.Background())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	devices := make(map[netip.Addr]string)
	err = conn.eachAddress(func(index uint32, a deviceAddress) {
		if devices[a.Address] == "" {
			devices[a.Address] = names[int(index)]
		}
	})
	return devices, err
}

// nodesOf are the nodes of vip's real servers. answers are those about all VIPs, in order.
// name has the nodes of the real servers that drain.
func nodesOf(vip *VIP, cluster *Cluster, answers []ProbeAnswer, draining map[netip.Addr]bool, name func(netip.Addr) string) []nodeStatus {
	nodes := make(map[netip.Addr]*nodeStatus)
	at := func(a netip.Addr) *nodeStatus {
		if nodes[a] == nil {
			nodes[a] = &nodeStatus{Address: a}
		}
		return nodes[a]
	}
	if cluster != nil {
		podsAt(vip, cluster, func(a netip.Addr, p *Pod) {
			n := at(a)
			n.Node, n.Zone = p.Node, p.Zone
			if len(n.Pods) < shownPods {
				n.Pods = append(n.Pods, p.Namespace+"/"+p.Name)
			} else {
				n.MorePods++
			}
		})
	}
	for a := range draining {
		if n := name(a); n != "" && nodes[a] == nil {
			at(a).Node = n // its pod is gone
		}
	}
	first, _ := slices.BinarySearchFunc(answers, vip.Name, func(a ProbeAnswer, name string) int { return strings.Compare(a.VIP, name) })
	for i := first; i < len(answers) && answers[i].VIP == vip.Name; i++ {
		a := &answers[i]
		said := probePassed
		if a.Result != passed {
			said = cmp.Or(a.Why, "no result")
		}
		n := at(a.Address)
		n.Probes = append(n.Probes, probeStatus{a.Kind, a.Port, a.State.String(), said, a.At})
	}
	var all []nodeStatus
	for _, a := range sortedBy(maps.Keys(nodes), netip.Addr.Compare) {
		all = append(all, *nodes[a])
	}
	return all
}

// unsaid is p's last answer, "" if it passed or why has it already.
func (p *probeStatus) unsaid(why string) string {
	if p.Answer == probePassed || strings.Contains(why, p.Answer) {
		return ""
	}
	return p.Answer
}

// probed are the states of n's probes, with the last answers that did not pass, but for
// those that why has. Of single ports it counts those that are not up, with one answer.
func (n *nodeStatus) probed(why string) (all []string) {
	ports, first := 0, ""
	for i := range n.Probes {
		p := &n.Probes[i]
		said := p.unsaid(why)
		switch {
		case p.Port != 0:
			ports++
			if first == "" && said != "" {
				first = fmt.Sprintf(", port %d: %s", p.Port, said)
			}
		case said != "":
			all = append(all, p.Kind+" "+p.State+": "+said)
		default:
			all = append(all, p.Kind+" "+p.State)
		}
	}
	if ports > 0 {
		all = append(all, fmt.Sprintf("%d ports not up%s", ports, first))
	}
	return all
}
