// The validated configuration.
//
// config.toml is read by config_toml.go into these types; main.go's
// command-line flags fill them too. A Config is immutable: a reload makes a
// new one. Nothing here does I/O.

package main

import (
	"net/netip"
	"slices"
	"time"
)

// Config is a whole valid configuration. Every default has been filled in.
type Config struct {
	Path          string        // the file it was read from; "" when made of flags alone
	Kubeconfig    string        // kubeconfig path; "" = the pod's own service account
	ClusterFile   string        // replaces the API server when set
	Interface     string        // uplink; "" = the device of the default route
	Listen        string        // host:port of the HTTP listener; "" = off
	AuditInterval time.Duration // full compare with the kernel's table; 1s–1h
	ManageSysctls bool          // whether sysctl.go may write to /proc/sys
	StateDir      string        // lives as long as the kernel's table (/run)
	CacheDir      string        // survives a reboot (/var/lib)
	Timeouts      Timeouts
	VIPs          []VIP // in file order; names and (address, protocol, port) are unique
}

// Timeouts are the kernel's connection timeouts (IPVS_CMD_SET_CONFIG). 0
// leaves the kernel's value alone.
type Timeouts struct {
	TCP    time.Duration // IPVS_CMD_ATTR_TIMEOUT_TCP, whole seconds
	TCPFin time.Duration // IPVS_CMD_ATTR_TIMEOUT_TCP_FIN, whole seconds
	UDP    time.Duration // IPVS_CMD_ATTR_TIMEOUT_UDP, whole seconds
}

// Announcement is who puts a VIP's address on the network.
type Announcement string

const (
	AnnounceNone Announcement = "none" // keepalived or a router owns the address
	AnnounceARP  Announcement = "arp"  // the controller puts it on the uplink
)

// VIP is one [[vip]]: a group of addresses that share ports and real servers.
type VIP struct {
	Name        string
	Addresses   []netip.Addr // unmapped, of either family, at least one
	Scheduler   string       // kernel scheduler name
	Ports       []Port       // from the configuration; sorted
	Announce    Announcement
	Weight      uint32        // weight of a pod-backed real server, 1–65535
	Pods        PodQuery      // Selector "" = no pods: static real servers only
	TCPServices ConfigMapName // zero = none
	UDPServices ConfigMapName // zero = none
	RealServers []StaticServer
	Drain       Drain
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

// UsesCluster reports whether v takes anything from a cluster.
func (v *VIP) UsesCluster() bool {
	return v.Pods.Selector != "" || v.TCPServices != (ConfigMapName{}) || v.UDPServices != (ConfigMapName{})
}

// ClusterQuery gathers what all VIPs want to know of the cluster.
func (c *Config) ClusterQuery() ClusterQuery {
	q := ClusterQuery{Kubeconfig: c.Kubeconfig, ClusterFile: c.ClusterFile}
	for i := range c.VIPs {
		v := &c.VIPs[i]
		if v.Pods.Selector != "" && !slices.Contains(q.Pods, v.Pods) {
			q.Pods = append(q.Pods, v.Pods)
		}
		for _, name := range []ConfigMapName{v.TCPServices, v.UDPServices} {
			if name != (ConfigMapName{}) && !slices.Contains(q.ConfigMaps, name) {
				q.ConfigMaps = append(q.ConfigMaps, name)
			}
		}
	}
	return q
}
