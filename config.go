// The validated configuration.
//
// Used by conflict*.go, health.go, desired*.go, host*.go, snapshot.go, reconcile*.go,
// http*.go, cmd*.go and main*.go. config_toml.go reads config.toml into these types;
// cmd.go fills them from flags as well. A Config does not change: a reload makes a new
// one. No I/O.

package main

import (
	"net/netip"
	"path"
	"slices"
	"time"
)

// Config is a whole valid configuration. Every default has been filled in.
type Config struct {
	Path            string        // the file it was read from; "" when made of flags alone
	Kubeconfig      string        // kubeconfig path; "" = the pod's own service account
	ClusterFile     string        // replaces the API server when set
	ExecCredentials bool          // the kubeconfig may name a program that gets credentials
	Interface       string        // uplink; "" = the device of the default route
	AnnounceDevice  string        // dummy device for announce = "dummy"
	WithdrawHold    time.Duration // from withdrawing the addresses there to the end of the process, 0–1m; 0: they stay
	Listen          string        // host:port of the HTTP listener; "" = off
	ListenNames     []string      // more names that the listener answers to
	Metrics         metricsDetail // how far the kernel's counters on /metrics go
	AuditInterval   time.Duration // full compare with the kernel's table; 1s–1h
	ManageSysctls   bool          // whether sysctl.go may write to /proc/sys
	StateDir        string        // lives as long as the kernel's table (/run)
	CacheDir        string        // survives a reboot (/var/lib)
	Timeouts        Timeouts
	// ConnectionTableBits is the size wanted of the kernel's connection table: 2^8 to
	// 2^27 buckets of 8 bytes.
	ConnectionTableBits uint8
	Marks               MarkRange
	// PeerMACs are other directors that are real servers too; sorted. What comes from
	// them is not balanced again.
	PeerMACs []macAddress
	Events   Events
	Sync     *SyncDaemon // both of the pair's daemons, without Role; nil = no [sync]
	// Sysctls are the operator's settings below net/ipv4/vs, name to value as the
	// kernel prints it. They replace the controller's. nil when there are none.
	Sysctls map[string]string
	VIPs    []VIP // in file order; names are unique; several may have the same address, see config_shared.go
	// Warnings are about keys that are valid and may mean something else than
	// the operator expects, in file order.
	Warnings []ConfigError
}

// Announcement is who makes a VIP's addresses reachable, and how.
type Announcement string

const (
	AnnounceNone  Announcement = "none"  // keepalived or a router does
	AnnounceARP   Announcement = "arp"   // the controller, on the uplink
	AnnounceDummy Announcement = "dummy" // the controller, on the dummy device: a routing daemon redistributes it
)

// announceMethod is what the program knows of a value of announce.
type announceMethod struct {
	name Announcement
	// onUplink and onDummy: the controller adds the addresses to this device. At
	// most one of them is true; neither means that another program has them.
	onUplink, onDummy bool
	// shared: several directors may have the addresses at the same time.
	shared bool
	// needsFit: a director that is not fit to serve withdraws the addresses, and
	// adds them again when it is fit and a real server is in service. Without it
	// an address stays from the first real server to the last connection, unless
	// an operator drains the director. On the dummy device it also leaves at the
	// end of the process, and while the director is not fit once its VIP has been
	// removed from the configuration.
	needsFit bool
}

// announceMethods are the values of announce. A new one is a line here, and what
// docs/architecture.md names for it.
var announceMethods = []announceMethod{
	{name: AnnounceNone},
	{name: AnnounceARP, onUplink: true},
	{name: AnnounceDummy, onDummy: true, shared: true, needsFit: true},
}

// method is how a is carried out. One that is not known is not announced.
func (a Announcement) method() announceMethod {
	for _, m := range announceMethods {
		if m.name == a {
			return m
		}
	}
	return announceMethod{name: a}
}

// byController reports whether the controller adds and removes the addresses.
func (m announceMethod) byController() bool { return m.onUplink || m.onDummy }

// maxTunnelled is for how many addresses of VIPs notrack exempts the outer packets of
// tunnels: each packet in a tunnel is compared with all.
const maxTunnelled = 32

// metricsDetail is how far the kernel's counters on /metrics go.
type metricsDetail uint8

const (
	metricsSums     metricsDetail = iota // those of VIPs
	metricsServices                      // and of each service
	metricsServers                       // and of each real server of each service
)

// metricsDetails are their words in the configuration.
var metricsDetails = [...]string{metricsSums: "sums", metricsServices: "services", metricsServers: "servers"}

// VIP is one [[vip]]: a group of addresses that share ports and real servers.
type VIP struct {
	Name        string
	Addresses   []netip.Addr // unmapped, of either family, at least one
	Scheduler   string       // kernel scheduler name
	Ports       []Port       // from the configuration; sorted
	Announce    Announcement
	Weight      uint32        // weight of a pod-backed real server, 1–65535
	Pods        PodQuery      // Selector "" = no pods: static real servers only; Service: its endpoints, and its ports
	TCPServices ConfigMapName // zero = none
	UDPServices ConfigMapName // zero = none
	RealServers []StaticServer
	Drain       Drain
	// RemovalBrake is the mass-removal guard: a share of the pods that serve, in
	// percent. When more than that disappear at once, the API server is asked a
	// second time. 0 = never.
	RemovalBrake uint8
	Probes       *Probes // nil = no [vip.health]: no probes
	// NeighbourCheck takes out of service what answers no ARP; see resolves.
	NeighbourCheck bool

	// Flags are those of the scheduler (serviceFlags) and, for UDP services alone,
	// one-packet scheduling.
	Flags       ServiceFlags
	Persistence Persistence
	// Groups are sets of ports that share one firewall-mark service, so that a
	// client's connections to any of them reach one real server. Each port is
	// in Ports or may come from a ConfigMap; sorted; no port is in two groups.
	Groups [][]Port
	// OneMark puts all ports of the VIP that are in no group into one
	// firewall-mark service: a node that joins is one kernel operation.
	OneMark bool
	// NoTrack exempts the packets to the VIP's services from connection tracking.
	NoTrack bool
	// PortsFromPods takes the hostPorts that the selected pods declare, but
	// not those of ExcludePorts (sorted).
	PortsFromPods bool
	ExcludePorts  []Port
	// Gateways are those whose listeners give the VIP ports, but not those of
	// ExcludePorts; nil = none. ListenerSets says that their ListenerSets count too.
	Gateways     []GatewayQuery
	ListenerSets bool
	// PortNames are patterns: of the pods' ports those count whose names match one. "*"
	// in a pattern is any text. nil = all ports.
	PortNames []string
	// FollowNodes gives no new connections to pods of nodes that are cordoned off or
	// excluded from load balancers.
	FollowNodes bool
	// Namespaces are those of the pods, in order; nil = that of Pods alone, and "" in it is
	// all.
	Namespaces []string
	// NodeNetworks choose among the addresses of a pod's node: one outside of all those of
	// its family does not serve. Without a network of its family the first address serves.
	NodeNetworks []netip.Prefix
	// HostPorts takes pods with a hostPort that are not on hostNetwork too: each for the
	// ports that it has.
	HostPorts bool
	// ReservedPorts are refused in TCPServices and UDPServices, for both protocols;
	// sorted.
	ReservedPorts []uint16
	// WeightAnnotation names a pod annotation with the weight of the pod's real
	// server, 1–65535; "" = none.
	WeightAnnotation string
	Upper            uint32 // connections at which a real server gets no new ones; 0 = no limit
	Lower            uint32 // connections below which it gets some again; 0 = three quarters of Upper
	// SlowStart is how long a real server that joins takes from a small weight
	// to its whole one; 0 = at once.
	SlowStart time.Duration
	Forward   ForwardingMethod // DirectRoute or Tunnel
	Tunnel    TunnelSettings   // for Forward == Tunnel
	// Sorry are the sorry servers, in service while no other real server is; at most
	// one of each family.
	Sorry []netip.Addr
}

// resolves reports whether the kernel looks up each real server of v itself, and the
// operator wants its answers to count.
func (v *VIP) resolves() bool { return v.NeighbourCheck && v.Forward == DirectRoute }

// sorry is v's sorry server of a family, if it has one.
func (v *VIP) sorry(is6 bool) (RealServer, bool) {
	i := slices.IndexFunc(v.Sorry, func(a netip.Addr) bool { return a.Is6() == is6 })
	if i < 0 {
		return RealServer{}, false
	}
	return RealServer{Address: v.Sorry[i], Weight: v.Weight, Forward: v.Forward, Tunnel: v.Tunnel}, true
}

// ingressPorts are the ports that ingress-nginx keeps for itself on each node's
// address, for both protocols: the default of reserved_ports.
var ingressPorts = map[uint16]string{
	80:    "HTTP and HTTPS belong to the configuration's ports",
	442:   "SSL passthrough",
	443:   "HTTP and HTTPS belong to the configuration's ports",
	8181:  "default server",
	10245: "profiler",
	10246: "status",
	10247: "stream",
	10254: "health check",
}

// Persistence keeps a client on its real server.
type Persistence struct {
	Timeout time.Duration // whole seconds; 0 = no persistence
	Prefix4 uint8         // clients of one IPv4 prefix get one real server, 1–32; 32 = each its own
	Prefix6 uint8         // the same for IPv6, 1–128
	Engine  string        // persistence engine for UDP services, "sip"; "" = none
}

// StaticServer is a real server written in the configuration.
type StaticServer struct {
	Address netip.Addr
	Weight  uint32 // 0 = quiesced by the operator
}

// Drain is how a real server leaves a VIP.
type Drain struct {
	Timeout time.Duration // longest time a quiesced real server keeps its connections; 0 = remove at once
}

// defaultDrainTimeout is [vip.drain] timeout's default, and what applies to the
// services of a VIP that is configured no more.
const defaultDrainTimeout = 5 * time.Minute

// defaultTableBits is the default of connection_table_bits.
const defaultTableBits = 20

// anyDirector reports whether a director that has never seen a connection of v
// can take it over: its address is routed to several directors, and each finds
// the same real server by the client's address and port.
func (v *VIP) anyDirector() bool {
	s := findScheduler(v.Scheduler)
	return v.Announce.method().shared && s.consistent && v.Flags&s.spreads != 0
}

// PodQuery is what v asks of the cluster's pods.
func (v *VIP) PodQuery() PodQuery {
	q := v.Pods
	q.Annotation, q.Ports, q.HostPorts = v.WeightAnnotation, v.PortsFromPods || v.HostPorts, v.HostPorts
	if q.Service != "" {
		q.Annotation, q.Ports = "", true // an EndpointSlice has no annotations of pods, and always ports
	}
	return q
}

// PodQueries are what v asks of the pods of each of its namespaces: at least one query.
func (v *VIP) PodQueries() []PodQuery {
	q := v.PodQuery()
	if v.Namespaces == nil {
		return []PodQuery{q}
	}
	queries := make([]PodQuery, len(v.Namespaces))
	for i, namespace := range v.Namespaces {
		queries[i] = q
		queries[i].Namespace = namespace
	}
	return queries
}

// refusesWhileDraining reports whether v's scheduler has no real server for the
// new clients of one that drains.
func (v *VIP) refusesWhileDraining() bool {
	fallback := findScheduler(v.Scheduler).fallback
	return fallback != 0 && v.Flags&fallback == 0
}

// takesAddress reports whether a node may serve v at address a.
func (v *VIP) takesAddress(a netip.Addr) bool {
	return !v.choosesNodeAddress(a.Is6()) || slices.ContainsFunc(v.NodeNetworks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// choosesNodeAddress reports whether v has a network for addresses of the family.
func (v *VIP) choosesNodeAddress(is6 bool) bool {
	return slices.ContainsFunc(v.NodeNetworks, func(n netip.Prefix) bool { return n.Addr().Is6() == is6 })
}

// takesPort reports whether v takes a pod's port with this name.
func (v *VIP) takesPort(name string) bool {
	return v.PortNames == nil || slices.ContainsFunc(v.PortNames, func(pattern string) bool {
		matches, _ := path.Match(pattern, name) // a pattern that was read without a mistake
		return matches
	})
}

// realServer is a real server of v as the kernel sees it.
func (v *VIP) realServer(a netip.Addr, weight uint32) RealServer {
	return RealServer{Address: a, Weight: weight, Forward: v.Forward, Tunnel: v.Tunnel, Upper: v.Upper, Lower: v.Lower}
}

// isStatic reports whether a is a static real server of v.
func (v *VIP) isStatic(a netip.Addr) bool {
	return slices.ContainsFunc(v.RealServers, func(s StaticServer) bool { return s.Address == a })
}

// ClusterSource names the source of the cluster, so that a snapshot of another
// cluster is recognised.
func (c *Config) ClusterSource() string {
	switch {
	case c.ClusterFile != "":
		return "file " + c.ClusterFile
	case c.Kubeconfig != "":
		return "kubeconfig " + c.Kubeconfig
	}
	return "service account"
}

// ClusterQuery is what all VIPs together ask of the cluster.
func (c *Config) ClusterQuery() ClusterQuery {
	q := ClusterQuery{Kubeconfig: c.Kubeconfig, ClusterFile: c.ClusterFile, Programs: c.ExecCredentials, Guards: make(map[any]uint8)}
	for i := range c.VIPs {
		v := &c.VIPs[i]
		// VIPs that share what they ask for share the strictest mass-removal guard.
		guard := func(key any) {
			if b := q.Guards[key]; v.RemovalBrake > 0 && (b == 0 || v.RemovalBrake < b) {
				q.Guards[key] = v.RemovalBrake
			}
		}
		for _, pods := range v.PodQueries() {
			if pods.Selector == "" {
				break
			}
			guard(pods)
			if !slices.Contains(q.Pods, pods) {
				q.Pods = append(q.Pods, pods)
			}
		}
		if name := v.Pods.service(); name != (ServiceName{}) {
			guard(name)
			if !slices.Contains(q.Services, name) {
				q.Services = append(q.Services, name)
			}
		}
		if v.FollowNodes && v.Pods.Selector != "" {
			guard(NodeQuery{})
			q.Nodes = []NodeQuery{{}}
		}
		for _, gateway := range v.Gateways {
			guard(gateway)
			if !slices.Contains(q.Gateways, gateway) {
				q.Gateways = append(q.Gateways, gateway)
			}
		}
		if v.ListenerSets {
			guard(ListenerSetQuery{})
			q.ListenerSets = []ListenerSetQuery{{}}
		}
		for _, name := range []ConfigMapName{v.TCPServices, v.UDPServices} {
			if name != (ConfigMapName{}) {
				guard(name)
				if !slices.Contains(q.ConfigMaps, name) {
					q.ConfigMaps = append(q.ConfigMaps, name)
				}
			}
		}
	}
	return q
}

// markCount is how many firewall marks c needs.
func (c *Config) markCount() uint64 {
	n := uint64(0)
	for i := range c.VIPs {
		n += uint64(len(c.VIPs[i].Groups))
		if c.VIPs[i].OneMark {
			n++
		}
	}
	return n
}

// slowSteps is the number of steps in which a real server's weight rises. The
// first is at once: a weight of 0 would be a quiesced real server.
const slowSteps = 10

// familiesOf returns the families of vip's addresses: true is IPv4, false IPv6.
func familiesOf(vip *VIP) map[bool]bool {
	families := map[bool]bool{}
	for _, a := range vip.Addresses {
		families[a.Is4()] = true
	}
	return families
}

// Events says where events are sent to.
type Events struct {
	Webhook   string        // URL that gets them by POST; "" = none
	Timeout   time.Duration // of each POST; 100ms–1m
	TokenFile string        // whose content is sent as a bearer token; "" = none
}

// defaultEvents is [events] without a key.
func defaultEvents() Events { return Events{Timeout: 5 * time.Second} }
