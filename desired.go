// What the kernel's table should be, from the inputs alone.
//
// reconcile.go and the diff sub-command call desired with the newest
// configuration and cluster and what is remembered of the past. Pure: no I/O,
// no clock, no logging; the same inputs give the same table, row for row.

package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// workKey names a set of real servers: those of one VIP in one family.
type workKey struct {
	VIP string
	Is6 bool
}

// working remembers, per VIP and family, the real servers that were in service
// last. It is what a VIP falls back on rather than serve nobody.
type working map[workKey][]RealServer

// wanted is desired's answer.
type wanted struct {
	Table Table
	// Working replaces the memory that was passed in.
	Working working
	// Kept lists the sets that fell back on their memory, in order.
	Kept []workKey
	// Hold has an entry for each VIP address of which too little is known to
	// remove anything: what the kernel has there stays.
	Hold map[netip.Addr]hold
	// Warnings are complaints about the inputs, each a whole sentence, sorted.
	Warnings []string
	// Owners are the configured VIP addresses.
	Owners map[netip.Addr]*VIP
}

// hold says what is known of a VIP address whose inputs are incomplete.
type hold struct {
	// Servers are the real servers for services that only the kernel knows.
	// nil when the pods are unknown too: then those services stay as they are.
	Servers []Row
}

// reservedPorts are ports that ingress-nginx itself uses on each node's
// address: its SSL passthrough proxy, default server, status, stream and
// profiling listeners and health check. An entry for one would reach those,
// not the service.
var reservedPorts = map[uint16]string{
	442:   "SSL passthrough",
	8181:  "default server",
	10245: "profiler",
	10246: "status",
	10247: "stream",
	10254: "health check",
}

// desired computes the table that cfg asks for, given the newest cluster (nil
// when nothing has been heard) and what was in service before.
func desired(cfg *Config, cluster *Cluster, before working) wanted {
	if cluster == nil {
		cluster = &Cluster{}
	}
	w := wanted{
		Working: make(working),
		Hold:    make(map[netip.Addr]hold),
		Owners:  make(map[netip.Addr]*VIP),
	}
	warnings := make(map[string]bool)
	warn := func(format string, args ...any) { warnings[fmt.Sprintf(format, args...)] = true }
	for i := range cfg.VIPs {
		v := &cfg.VIPs[i]
		for _, a := range v.Addresses {
			w.Owners[a] = v
		}
		pods, podsKnown := cluster.Pods[v.Pods]
		podsKnown = podsKnown || v.Pods.Selector == ""
		ports, portsKnown := vipPorts(v, cluster, warn)
		for _, is6 := range []bool{false, true} {
			if !slices.ContainsFunc(v.Addresses, func(a netip.Addr) bool { return a.Is6() == is6 }) {
				continue
			}
			set := workKey{v.Name, is6}
			servers := vipServers(v, pods, is6, warn)
			if !podsKnown {
				servers = withAdopted(servers, before[set])
				if len(servers) == 0 {
					holdAddresses(w.Hold, v, is6, nil)
					continue
				}
			}
			if inService(servers) {
				w.Working[set] = serversInService(servers)
			} else if kept := before[set]; len(kept) > 0 {
				w.Working[set] = kept
				w.Kept = append(w.Kept, set)
				servers = keepWorking(servers, kept)
			} else {
				warn("vip %s: no %s real server is in service", v.Name, familyName(is6))
			}
			if !portsKnown {
				holdAddresses(w.Hold, v, is6, servers)
			}
			for _, a := range v.Addresses {
				if a.Is6() != is6 {
					continue
				}
				for _, p := range ports {
					w.Table = append(w.Table, Service{
						VirtualService: VirtualService{
							ServiceKey: ServiceKey{Address: a, Port: p.Number, Protocol: p.Protocol},
							Scheduler:  v.Scheduler,
							Flags:      schedulerFlags(v.Scheduler),
						},
						VIP:     v.Name,
						Servers: servers,
					})
				}
			}
		}
	}
	slices.SortFunc(w.Table, func(a, b Service) int { return a.Compare(b.ServiceKey) })
	w.Warnings = slices.Sorted(maps.Keys(warnings))
	return w
}

// schedulerFlags are the flags that a scheduler needs to be safe. sh gives a
// quiesced real server its share of the clients all the same and refuses them
// (ip_vs_sh_get), unless it may fall back on another.
func schedulerFlags(scheduler string) ServiceFlags {
	if scheduler == "sh" {
		return FlagSched1 // sh-fallback
	}
	return 0
}

func familyName(is6 bool) string {
	if is6 {
		return "IPv6"
	}
	return "IPv4"
}

// holdAddresses notes that v's addresses of one family must not lose services.
func holdAddresses(held map[netip.Addr]hold, v *VIP, is6 bool, servers []Row) {
	for _, a := range v.Addresses {
		if a.Is6() == is6 {
			held[a] = hold{Servers: servers}
		}
	}
}

// inService reports whether any row would get a new connection.
func inService(rows []Row) bool {
	return slices.ContainsFunc(rows, func(r Row) bool { return r.Weight > 0 })
}

func serversInService(rows []Row) []RealServer {
	var in []RealServer
	for _, r := range rows {
		if r.Weight > 0 {
			in = append(in, r.RealServer)
		}
	}
	return in
}

// withAdopted adds to rows, which are static ones, what was in service before,
// for a VIP whose pods are not known yet.
func withAdopted(rows []Row, before []RealServer) []Row {
	return addMissing(rows, before, "in service before, the cluster has not answered yet")
}

// keepWorking puts what was in service last back into service, beside the
// rows, none of which is.
func keepWorking(rows []Row, before []RealServer) []Row {
	kept := slices.DeleteFunc(slices.Clone(rows), func(r Row) bool {
		return slices.ContainsFunc(before, r.SameServer)
	})
	return addMissing(kept, before, "kept: nothing else is in service")
}

// addMissing adds those of servers that rows do not name, in table order.
func addMissing(rows []Row, servers []RealServer, why string) []Row {
	for _, s := range servers {
		if !slices.ContainsFunc(rows, func(r Row) bool { return r.SameServer(s) }) {
			rows = append(rows, Row{RealServer: s, Why: why})
		}
	}
	slices.SortFunc(rows, func(a, b Row) int { return a.Compare(b.RealServer) })
	return rows
}

// vipServers are the real servers of one family: one for each node address
// that has a selected pod, and the static ones. Pods that cannot serve give
// rows of weight 0, which say why.
func vipServers(v *VIP, pods []Pod, is6 bool, warn func(string, ...any)) []Row {
	byAddress := make(map[netip.Addr]podSet)
	for _, p := range pods {
		if !p.HostNetwork {
			if !p.Terminating {
				warn("vip %s: pod %s/%s is left out: it is not on hostNetwork, and direct routing needs the VIP on the pod's own node", v.Name, p.Namespace, p.Name)
			}
			continue
		}
		at := slices.IndexFunc(p.Addresses, func(a netip.Addr) bool { return a.Is6() == is6 })
		if at < 0 {
			if p.Ready && !p.Terminating {
				warn("vip %s: pod %s/%s has no %s address: it cannot serve the VIP's %[4]s addresses", v.Name, p.Namespace, p.Name, familyName(is6))
			}
			continue
		}
		a := p.Addresses[at]
		if slices.Contains(v.Addresses, a) {
			warn("vip %s: pod %s/%s is left out: its node reports the VIP %s as its own address", v.Name, p.Namespace, p.Name, a)
			continue
		}
		byAddress[a] = byAddress[a].with(p)
	}
	rows := make([]Row, 0, len(byAddress)+len(v.RealServers))
	for a, set := range byAddress {
		r := Row{RealServer: RealServer{Address: a, Forward: DirectRoute}, Why: set.why()}
		if set.ready > 0 {
			r.Weight = v.Weight
		}
		rows = append(rows, r)
	}
	for _, s := range v.RealServers {
		if s.Address.Is6() != is6 {
			continue
		}
		// The operator's word on a node stands above the pods'.
		rows = slices.DeleteFunc(rows, func(r Row) bool { return r.Address == s.Address })
		why := "static"
		if s.Weight == 0 {
			why = "static, weight 0"
		}
		rows = append(rows, Row{RealServer: RealServer{Address: s.Address, Forward: DirectRoute, Weight: s.Weight}, Why: why})
	}
	slices.SortFunc(rows, func(a, b Row) int { return a.Compare(b.RealServer) })
	return rows
}

// podSet is what the selected pods of one node amount to.
type podSet struct {
	ready, terminating, notReady int
	name                         string // of the pod that speaks for the node
	best                         int    // that pod's rank
}

func (s podSet) with(p Pod) podSet {
	rank := 1
	switch {
	case p.Terminating:
		s.terminating++
	case p.Ready:
		s.ready++
		rank = 3
	default:
		s.notReady++
		rank = 2
	}
	if rank > s.best {
		s.best, s.name = rank, p.Name
	}
	return s
}

func (s podSet) why() string {
	switch {
	case s.ready > 1:
		return fmt.Sprintf("pod %s and %d more ready", s.name, s.ready-1)
	case s.ready == 1:
		return "pod " + s.name + " ready"
	case s.notReady > 0:
		return "pod " + s.name + " not ready"
	}
	return "pod " + s.name + " terminating"
}

// vipPorts are a VIP's ports from the configuration and its ConfigMaps, sorted
// and without repeats. known is false while a ConfigMap has not been heard of:
// then there may be more.
func vipPorts(v *VIP, cluster *Cluster, warn func(string, ...any)) (ports []Port, known bool) {
	ports = slices.Clone(v.Ports)
	known = true
	for _, source := range []struct {
		name     ConfigMapName
		protocol Protocol
	}{{v.TCPServices, TCP}, {v.UDPServices, UDP}} {
		if source.name == (ConfigMapName{}) {
			continue
		}
		cm, heard := cluster.ConfigMaps[source.name]
		if !heard {
			known = false
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(cm.Data)) {
			n, err := configMapPort(key, cm.Data[key], source.protocol)
			if err != nil {
				warn("vip %s: ConfigMap %s: entry %q is skipped: %v", v.Name, source.name, key, err)
				continue
			}
			if source.protocol == TCP && decodesProxy(cm.Data[key]) {
				warn("vip %s: ConfigMap %s: entry %q expects the PROXY protocol from clients, and IPVS adds no PROXY header", v.Name, source.name, key)
			}
			ports = append(ports, Port{n, source.protocol})
		}
	}
	slices.SortFunc(ports, Port.Compare)
	return slices.Compact(ports), known
}

// configMapPort checks one entry of a tcp-services or udp-services ConfigMap,
// "PORT": "NAMESPACE/SERVICE:PORT[:…]", and returns its port. Where the traffic
// goes behind the ingress controller is the ingress controller's business, so
// of the value only the form is checked.
func configMapPort(key, value string, protocol Protocol) (uint16, error) {
	n, err := ParsePortNumber(key)
	if err != nil {
		return 0, err
	}
	if use, reserved := reservedPorts[n]; reserved {
		return 0, fmt.Errorf("port %d is the ingress controller's own (%s)", n, use)
	}
	if protocol == TCP && (n == 80 || n == 443) {
		return 0, fmt.Errorf("port %d is the ingress controller's own (HTTP and HTTPS belong to the configuration's ports)", n)
	}
	service, port, _ := strings.Cut(value, ":")
	namespace, name, slash := strings.Cut(service, "/")
	port, _, _ = strings.Cut(port, ":")
	if !slash || namespace == "" || name == "" || strings.Contains(name, "/") || strings.TrimSpace(port) == "" {
		return 0, fmt.Errorf("value %q is not NAMESPACE/SERVICE:PORT", value)
	}
	return n, nil
}

// decodesProxy reports whether an entry asks the ingress controller to read a
// PROXY header from clients: the first field after the port.
func decodesProxy(value string) bool {
	fields := strings.Split(value, ":")
	return len(fields) > 2 && strings.EqualFold(fields[2], "PROXY")
}

// compareWorkKeys orders sets by VIP, then family.
func compareWorkKeys(a, b workKey) int {
	if c := cmp.Compare(a.VIP, b.VIP); c != 0 || a.Is6 == b.Is6 {
		return c
	}
	if b.Is6 {
		return -1
	}
	return 1
}
