// What the checks of `doctor` find on a host that is not fit as a director, as a node or
// as a client of the cluster. What is asked of others has answers from here.

package main

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var doctorNow = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// fitRoles gives the fit host what is asked of others: it is a director with keepalived, a
// node for another director's VIP, and its API server answers.
func fitRoles(h *doctorHost, files map[string]string) {
	address := netip.MustParseAddr
	h.roles, h.peer = roleDirector|roleNode|roleCluster|rolePair, "10.0.0.3"
	maps.Copy(files, map[string]string{
		"/proc/self/status":                              "Name:\tlvs-controller\nCapEff:\t000001ffffffffff",
		"/lib/modules/6.1.0-25-amd64/modules.dep":        "kernel/net/netfilter/ipvs/ip_vs.ko: kernel/lib/libcrc32c.ko\nkernel/net/netfilter/ipvs/ip_vs_rr.ko: kernel/net/netfilter/ipvs/ip_vs.ko",
		"/proc/sys/net/ipv4/conf/bond0.100/rp_filter":    "1",
		"/proc/sys/net/ipv4/conf/all/rp_filter":          "0",
		"/proc/sys/net/ipv4/conf/all/arp_ignore":         "0",
		"/proc/sys/net/ipv4/conf/all/arp_announce":       "0",
		"/proc/sys/net/ipv4/conf/bond0.100/arp_ignore":   "1",
		"/proc/sys/net/ipv4/conf/bond0.100/arp_announce": "2",
		"/sys/class/net/bond0.100/flags":                 "0x1003",
		"/sys/class/net/bond0.100/carrier":               "1",
		"/run/lvs-controller/state.json":                 "{}",
		"/var/lib/lvs-controller/cluster.json":           "{}",
		"/usr/local/sbin/lvs-controller":                 "",
		"/usr/lib/sysctl.d/50-default.conf":              "# text\nnet.ipv4.conf.*.send_redirects = 0\n-net.ipv4.conf.all.rp_filter = 2",
		"/proc/812/comm":                                 "keepalived",
		"/etc/keepalived/keepalived.conf": `# keepalived.conf of a director. Printed by
#   lvs-controller keepalived -config config.toml -peer 10.0.0.3
vrrp_script lvs_controller {
    script "/usr/local/sbin/lvs-controller ready -listen 127.0.0.1:9652"
}
vrrp_instance lvs {
    interface bond0.100
    unicast_peer {
        10.0.0.3
    }
    virtual_ipaddress {
        10.0.0.1/32 dev bond0.100 # web
    }
}`,
	})
	h.net = doctorNetwork{
		devices: []hostDevice{
			{index: 1, name: "lo", mtu: 65536, loopback: true, alone: true, addresses: []deviceAddress{{Address: address("127.0.0.1"), Bits: 8}, {Address: address("10.0.0.7"), Bits: 32}}},
			{index: 2, name: "eth0", mtu: 1500}, {index: 3, name: "eth1", mtu: 1500}, {index: 4, name: "bond0", mtu: 1500, arp: true},
			{index: 5, name: "bond0.100", mtu: 1500, arp: true, addresses: []deviceAddress{{Address: address("10.0.0.2"), Bits: 24}, {Address: address("10.0.0.1"), Bits: 32}}},
		},
		defaultDevice: "bond0.100", arpDevices: []string{"bond0.100"},
		hops: map[netip.Addr]hop{
			address("10.0.0.11"): {device: 5, source: address("10.0.0.2")},
			address("10.0.0.12"): {device: 5, source: address("10.0.0.2")},
		},
	}
	h.node = doctorNode{vips: []netip.Addr{address("10.0.0.7")}, port: gueDefaultPort}
	h.ask = doctorQuestions{
		claims: func(string, []netip.Addr) (map[netip.Addr][]claimingHost, error) { return nil, nil },
		nodes: func(plan *ProbePlan) (map[nodeQuestion]nodeAnswer, error) {
			found := make(map[nodeQuestion]nodeAnswer)
			for _, s := range plan.VIPs[0].Servers {
				found[nodeQuestion{plan.VIPs[0].Addresses[0], s.Address}] = nodeAnswer{passed: true, known: true}
			}
			return found, nil
		},
		status: func(controllerAt) (status, error) { return status{Ready: true, TableHash: 77}, nil },
		clock:  func() (time.Duration, bool, error) { return 3 * time.Millisecond, true, nil },
		space:  func(string) (fileSpace, error) { return fileSpace{bytes: 200 << 20, files: 1000}, nil },
		users:  func() []int { return nil },
		now:    func() time.Time { return doctorNow },
	}
	fitCluster(h, func(*apiAnswers) {})
}

const fitText = `OK    configuration     config.toml is valid
OK    rights            all questions can be asked
OK    controller        it is ready
OK    kernel            Linux 6.1.0-25-amd64 has ip_vs, ip_vs_rr
OK    uplink            bond0.100, over bond0, eth0, eth1
OK    MTU               1500 bytes on bond0.100, and no less to the real servers
OK    VIP               10.0.0.1 of web is on bond0.100
OK    VIP conflict      no VIP is at two hosts
OK    real servers      2 real servers, each can be reached as its VIP forwards
OK    nodes             2 real servers: each has the VIPs and serves them
OK    keepalived        /etc/keepalived/keepalived.conf has 1 VIP address, as the configuration
OK    IPVS owners       1 service, all of VIPs of the configuration
OK    reverse path      the filter of bond0.100 is strict, and its default route leaves there
OK    ARP flux          no two devices answer ARP for the same addresses
OK    connection table  2^20 buckets
OK    conntrack         connections are not tracked on this host
OK    receive queues    eth0: 4 queues, RPS off: 4 of 8 CPUs take packets
OK    receive queues    eth1: 4 queues, RPS off: 4 of 8 CPUs take packets
OK    send queues       eth0: 4 queues, XPS uses 4
OK    send queues       eth1: 4 queues, XPS uses 4
OK    interrupts        eth0: 2 interrupts to 2 of 8 CPUs
OK    interrupts        eth1: 2 interrupts to 2 of 8 CPUs
OK    LRO               bond0.100: off
OK    LRO               bond0: off
OK    LRO               eth0: off
OK    LRO               eth1: off
OK    GRO               eth0: on
OK    GRO               eth1: on
OK    rings             eth0: 512 of 4096 buffers to receive, 7 of 1000000 packets lost
OK    rings             eth1: 512 of 4096 buffers to receive, 7 of 1000000 packets lost
OK    backlog           1 of 503316480 packets dropped since the boot
OK    budget            used up 16 times for 503316480 packets
OK    estimators        1 service, 2 real servers, in a softirq each 2 s
OK    kernel settings   5 settings as a director needs them
OK    settings files    no file of sysctl sets one of 5 settings otherwise
OK    directories       state_dir /run/lvs-controller: 200 MiB are free
OK    directories       cache_dir /var/lib/lvs-controller: 200 MiB are free
OK    clock             synchronised, at most 3ms off
OK    node VIP          1 VIP address on lo
OK    ARP settings      bond0.100 does not claim the VIPs
OK    tunnel end        no tunnel leads to this node
OK    credentials       kubeconfig, its certificate is valid for 90 days
OK    API server        10.0.0.5:6443 answers, v1.36.3
OK    API clock         less than 5s from the API server's
OK    permissions       2 rights, all granted
OK    objects           2 pods selected, each can be a real server; all ConfigMaps and Services are there
OK    peer              10.0.0.3:9652 is ready
OK    peer table        both want the same (number 77)
48 OK, 0 WARN, 0 FAIL
`

// onHost makes a change that needs the host alone.
func onHost(change func(h *doctorHost)) func(*doctorHost, map[string]string, map[string]deviceFacts) {
	return func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) { change(h) }
}

// inFiles makes a change of files alone.
func inFiles(change func(files map[string]string)) func(*doctorHost, map[string]string, map[string]deviceFacts) {
	return func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) { change(files) }
}

// withoutVIP takes the VIP away from this host.
func withoutVIP(h *doctorHost) { h.net.devices[4].addresses = h.net.devices[4].addresses[:1] }

// claimedBy has a host answer for the VIP.
func claimedBy(h *doctorHost, all ...claimingHost) {
	h.ask.claims = func(_ string, vips []netip.Addr) (map[netip.Addr][]claimingHost, error) {
		return map[netip.Addr][]claimingHost{vips[0]: all}, nil
	}
}

var (
	otherDirector = claimingHost{mac: macAddress{2, 0, 0, 0, 0, 3}, hosts: []netip.Addr{netip.MustParseAddr("10.0.0.3")}}
	loudNode      = claimingHost{mac: macAddress{2, 0, 0, 0, 0, 11}, hosts: []netip.Addr{netip.MustParseAddr("10.0.0.11")}}
)

// directorCases are about what a director needs beside its kernel and its cards.
var directorCases = []doctorCase{
	{"rights", "without CAP_NET_RAW", inFiles(func(files map[string]string) { files["/proc/self/status"] = "CapEff:\t0000000000001000" }), `WARN  rights            without CAP_NET_RAW: other hosts are not asked for the VIPs, nor nodes over the data path
      sudo lvs-controller doctor -config config.toml
`},
	{"controller", "it does not answer", onHost(func(h *doctorHost) {
		h.ask.status = func(controllerAt) (status, error) { return status{}, errors.New("connection refused") }
	}), `WARN  controller        does not answer: connection refused; the kernel's table stays as it is
      systemctl start lvs-controller
      journalctl -u lvs-controller -n 20
`},
	{"controller", "it answers with an error", onHost(func(h *doctorHost) {
		h.ask.status = func(controllerAt) (status, error) {
			return status{}, &refusal{"503 Service Unavailable", ": too many requests at a time"}
		}
	}), `WARN  controller        answers with an error: status 503 Service Unavailable: too many requests at a time; the kernel's table stays as it is
      journalctl -u lvs-controller -n 20
`},
	{"controller", "drained", onHost(func(h *doctorHost) {
		h.ask.status = func(controllerAt) (status, error) { return status{Drained: doctorNow, Reason: "drained"}, nil }
	}), `WARN  controller        an operator has drained this director on 2026-11-01 12:00:00
      lvs-controller drain -undo -config config.toml
`},
	{"controller", "not ready", onHost(func(h *doctorHost) {
		h.ask.status = func(controllerAt) (status, error) { return status{Reason: "no real server is in service"}, nil }
	}), `WARN  controller        it is not ready: no real server is in service
      lvs-controller status -config config.toml
`},
	{"controller", "with warnings", onHost(func(h *doctorHost) {
		h.ask.status = func(controllerAt) (status, error) { return status{Ready: true, Warnings: []string{"one", "two"}}, nil }
	}), `WARN  controller        it is ready, with 2 warnings: one
      lvs-controller status -config config.toml
`},

	{"kernel", "a scheduler that the kernel does not have", onHost(func(h *doctorHost) { h.cfg.VIPs[0].Scheduler = "mh" }), `FAIL  kernel            the kernel 6.1.0-25-amd64 has no module ip_vs_mh, which vip[0].scheduler needs
      apt install linux-modules-extra-$(uname -r)    # Ubuntu; on Debian: apt install linux-image-amd64, then restart this host
`},
	{"kernel", "a module that modprobe must not load", inFiles(func(files map[string]string) {
		delete(files, "/sys/module/ip_vs/initstate")
		delete(files, "/sys/module/ip_vs/parameters/conn_tab_bits")
		files["/etc/modprobe.d/hardening.conf"] = "blacklist ip_vs_rr\ninstall ip_vs /bin/false\n"
	}), `FAIL  kernel            /etc/modprobe.d/hardening.conf keeps the module ip_vs from being loaded, which each VIP needs
      sed -i 's/^ *install  *ip_vs /# &/' /etc/modprobe.d/hardening.conf
      modprobe ip_vs
`},
	{"kernel", "no module can be loaded", inFiles(func(files map[string]string) { files["/proc/sys/kernel/modules_disabled"] = "1" }), `FAIL  kernel            kernel.modules_disabled is 1, and ip_vs_rr is not loaded, which vip[0].scheduler needs
      echo ip_vs_rr >> /etc/modules-load.d/lvs-controller.conf    # then restart this host
`},
	{"kernel", "no list of modules, as in a container", inFiles(func(files map[string]string) { delete(files, "/lib/modules/6.1.0-25-amd64/modules.dep") }), `OK    kernel            Linux 6.1.0-25-amd64; the list of its modules cannot be read
`},
	{"uplink", "down", inFiles(func(files map[string]string) { files["/sys/class/net/bond0.100/flags"] = "0x1002" }), `FAIL  uplink            bond0.100 is down
      ip link set bond0.100 up
`},
	{"uplink", "no carrier", inFiles(func(files map[string]string) { files["/sys/class/net/bond0.100/carrier"] = "0" }), `FAIL  uplink            bond0.100 has no carrier
      ethtool bond0.100
      # then look at the cable and the port of the switch
`},

	{"MTU", "jumbo frames that do not fit to the nodes", onHost(func(h *doctorHost) {
		h.net.devices[4].mtu = 9000
		for a, at := range h.net.hops {
			at.device = 2
			h.net.hops[a] = at
		}
	}), `WARN  MTU               clients of web can send 9000 bytes by bond0.100, and 1500 fit by eth0 to 10.0.0.11 (2 real servers): larger ones are lost where ICMP is blocked
      ip link set eth0 mtu 9000    # and on the switch and the nodes behind it
`},
	{"MTU", "a route that the kernel has learned", onHost(func(h *doctorHost) {
		at := h.net.hops[netip.MustParseAddr("10.0.0.12")]
		at.mtu = 1400
		h.net.hops[netip.MustParseAddr("10.0.0.12")] = at
	}), `WARN  MTU               clients of web can send 1500 bytes by bond0.100, and 1400 fit by bond0.100 to 10.0.0.12 (1 real server): larger ones are lost where ICMP is blocked
      ip route get 10.0.0.12
      ip route flush cache    # if the kernel learned it from a message that is out of date
`},
	{"MTU", "a tunnel", func(h *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/ip_vs"] = strings.ReplaceAll(files["/proc/net/ip_vs"], "Route ", "Tunnel")
		h.cfg.VIPs[0].Forward, h.cfg.VIPs[0].Tunnel = Tunnel, TunnelSettings{Type: TunnelGUE, Port: 6080}
	}, `WARN  MTU               clients of web can send 1500 bytes by bond0.100, and 1468 fit by bond0.100 to 10.0.0.11 (2 real servers): larger ones are lost where ICMP is blocked
      ip link set bond0.100 mtu 1532    # and on the switch and the nodes behind it
      # or on each node, so that clients send smaller segments: ip route change default via GATEWAY dev DEVICE advmss 1428
`},

	{"VIP", "none in the configuration", onHost(func(h *doctorHost) { h.cfg.VIPs = nil }), `WARN  VIP               there is no VIP in the configuration
      # in config.toml: [[vip]] with name, addresses and ports
`},
	{"VIP", "at the other director", onHost(func(h *doctorHost) { withoutVIP(h); claimedBy(h, otherDirector) }), `OK    VIP               10.0.0.1 of web is at 02:00:00:00:00:03 (10.0.0.3)
`},
	{"VIP", "nowhere, and keepalived does not run", func(h *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		withoutVIP(h)
		delete(files, "/proc/812/comm")
	}, `FAIL  VIP               10.0.0.1 of web is on no device of this host, and no other host answers for it
      systemctl start keepalived
`},
	{"VIP", "nowhere, and keepalived runs", onHost(withoutVIP), `FAIL  VIP               10.0.0.1 of web is on no device of this host, and no other host answers for it
      # keepalived runs and has it in its file:
      journalctl -u keepalived
      lvs-controller ready -config config.toml
`},
	{"VIP", "nowhere, and no keepalived", func(h *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		withoutVIP(h)
		delete(files, "/etc/keepalived/keepalived.conf")
	}, `FAIL  VIP               10.0.0.1 of web is on no device of this host, and no other host answers for it
      # announce = "none": another program has to add it. For keepalived, with the other director's address:
      lvs-controller keepalived -config config.toml -peer ADDR > /etc/keepalived/keepalived.conf
      # or the controller does, in config.toml, in this [[vip]]: announce = "arp"
`},
	{"VIP", "nowhere, and the controller has to add it", onHost(func(h *doctorHost) { withoutVIP(h); h.cfg.VIPs[0].Announce = AnnounceARP }), `FAIL  VIP               10.0.0.1 of web is on no device of this host, and no other host answers for it
      # the controller adds it while a real server is in service:
      systemctl start lvs-controller
      lvs-controller status -config config.toml
`},
	{"VIP", "nowhere, and the director is drained", onHost(func(h *doctorHost) {
		withoutVIP(h)
		h.cfg.VIPs[0].Announce = AnnounceARP
		h.ask.status = func(controllerAt) (status, error) { return status{Drained: doctorNow}, nil }
	}), `FAIL  VIP               10.0.0.1 of web is on no device of this host, and no other host answers for it
      # an operator has drained this director:
      lvs-controller drain -undo -config config.toml
`},
	{"VIP", "on no dummy device", onHost(func(h *doctorHost) { withoutVIP(h); h.cfg.VIPs[0].Announce = AnnounceDummy }), `WARN  VIP               10.0.0.1 of web is on no device of this host, and no other host answers for it
      # the controller adds it to lvs0 while it is ready:
      systemctl start lvs-controller
      lvs-controller status -config config.toml
`},
	{"VIP", "others cannot be asked", onHost(func(h *doctorHost) {
		withoutVIP(h)
		h.ask.claims = func(string, []netip.Addr) (map[netip.Addr][]claimingHost, error) {
			return nil, errors.New("it needs CAP_NET_RAW")
		}
	}), `WARN  VIP               10.0.0.1 of web is on no device of this host; other hosts cannot be asked: it needs CAP_NET_RAW
      # keepalived runs and has it in its file:
      journalctl -u keepalived
      lvs-controller ready -config config.toml
`},
	{"VIP", "the kernel does not answer", onHost(func(h *doctorHost) { h.net = doctorNetwork{err: errors.New("no netlink")} }), `WARN  VIP               not known: no netlink
      ip address
`},

	{"VIP conflict", "two directors have it", onHost(func(h *doctorHost) { claimedBy(h, otherDirector) }), `FAIL  VIP conflict      10.0.0.1 of web is on bond0.100 here and at 02:00:00:00:00:03 (10.0.0.3): two directors have the VIP, or the address is used twice
      # on the host that should not have it, which may be 02:00:00:00:00:03 (10.0.0.3):
      ip address del 10.0.0.1/32 dev bond0.100    # keepalived adds it again: is its advertisement blocked (IP protocol 112)?
`},
	{"VIP conflict", "a node answers", onHost(func(h *doctorHost) { claimedBy(h, loudNode) }), "FAIL  VIP conflict      10.0.0.1 of web: 02:00:00:00:00:0b (10.0.0.11) answers for it: a real server that answers ARP for the VIP: its arp_ignore is not set, or the VIP is not on its lo alone, see `lvs-controller realserver`\n      # on the node 10.0.0.11:\n      lvs-controller realserver -vip 10.0.0.1\n"},
	{"VIP conflict", "a node answers beside the other director", onHost(func(h *doctorHost) { withoutVIP(h); claimedBy(h, loudNode, otherDirector) }), "FAIL  VIP conflict      10.0.0.1 of web: 02:00:00:00:00:0b (10.0.0.11) answers for it: a real server that answers ARP for the VIP: its arp_ignore is not set, or the VIP is not on its lo alone, see `lvs-controller realserver`\n      # on the node 10.0.0.11:\n      lvs-controller realserver -vip 10.0.0.1\n"},
	{"VIP conflict", "two others have it", onHost(func(h *doctorHost) {
		withoutVIP(h)
		claimedBy(h, otherDirector, claimingHost{mac: macAddress{2, 0, 0, 0, 0, 9}})
	}), `FAIL  VIP conflict      10.0.0.1 of web is at 02:00:00:00:00:03 (10.0.0.3) and at 02:00:00:00:00:09: two directors have the VIP, or the address is used twice
      # on the host that should not have it, which may be 02:00:00:00:00:09:
      ip address del 10.0.0.1/32 dev bond0.100    # keepalived adds it again: is its advertisement blocked (IP protocol 112)?
`},
	{"VIP conflict", "several directors may have it", onHost(func(h *doctorHost) { h.cfg.VIPs[0].Announce = AnnounceDummy; claimedBy(h, otherDirector) }), `OK    VIP conflict      no VIP is at two hosts
`},

	{"real servers", "none", inFiles(func(files map[string]string) { delete(files, "/proc/net/ip_vs") }), `WARN  real servers      none is known: the kernel's table, the configuration and what is saved of the cluster have none
      lvs-controller status -config config.toml
`},
	{"real servers", "behind a router, and a broadcast address", onHost(func(h *doctorHost) {
		h.net.hops[netip.MustParseAddr("10.0.0.11")] = hop{device: 5, router: true, problem: "behind a router"}
		h.net.hops[netip.MustParseAddr("10.0.0.12")] = hop{device: 5, broadcast: true, problem: "no route"}
	}), `FAIL  real servers      10.0.0.11 of web is behind a router: direct routing gives its packets to the router, which has no use for them
      ip route get 10.0.0.11
      # give the node an address in the segment of the director, or in config.toml, in this [[vip]]:
      # forward = "tunnel", with lvs-controller realserver -tunnel ipip on the node
FAIL  real servers      10.0.0.12 of web is a broadcast address of this host's network
      ip route get 10.0.0.12
      # compare the prefix lengths of this host and of the node: ip address
`},
	{"real servers", "no route", onHost(func(h *doctorHost) {
		h.net.hops[netip.MustParseAddr("10.0.0.12")] = hop{problem: "route to the real server: network is unreachable"}
	}), `FAIL  real servers      10.0.0.12 of web: route to the real server: network is unreachable
      ip route get 10.0.0.12
`},
	{"real servers", "a tunnel goes through a router", func(h *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/ip_vs"] = strings.ReplaceAll(files["/proc/net/ip_vs"], "Route ", "Tunnel")
		h.net.hops[netip.MustParseAddr("10.0.0.11")] = hop{device: 5, router: true, problem: "behind a router"}
	}, `OK    real servers      2 real servers, each can be reached as its VIP forwards
`},

	{"nodes", "three ways to be unprepared", func(h *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/ip_vs"] += "  -> 0A00000D:0050      Route   1      0          0\n  -> 0A00000E:0050      Route   1      0          0\n"
		h.ask.nodes = func(plan *ProbePlan) (map[nodeQuestion]nodeAnswer, error) {
			found := make(map[nodeQuestion]nodeAnswer)
			for i, why := range []string{"10.0.0.1:80 through the node: the node does not have the VIP on its lo", "10.0.0.1:80 through the node: connection refused", "10.0.0.1:80 through the node: no answer to ARP"} {
				found[nodeQuestion{plan.VIPs[0].Addresses[0], plan.VIPs[0].Servers[i].Address}] = nodeAnswer{known: true, why: why}
			}
			found[nodeQuestion{plan.VIPs[0].Addresses[0], plan.VIPs[0].Servers[3].Address}] = nodeAnswer{why: "the VIP is the only address"}
			return found, nil
		}
	}, `FAIL  nodes             10.0.0.1 of web at the node 10.0.0.11: the node does not have the VIP on its lo
      # on the node 10.0.0.11:
      lvs-controller realserver -vip 10.0.0.1
WARN  nodes             10.0.0.1 of web at the node 10.0.0.12: connection refused
      # on the node 10.0.0.12: does a pod listen there, on all addresses?
      ss -ltn 'sport = :80'
FAIL  nodes             10.0.0.1 of web at the node 10.0.0.13: no answer to ARP
      ping -c 3 10.0.0.13
      # is the node up, and in the same segment (VLAN)?
WARN  nodes             1 question without an answer, 10.0.0.1 at the node 10.0.0.14: the VIP is the only address
      lvs-controller doctor -role director -config config.toml
`},
	{"nodes", "no right to ask", onHost(func(h *doctorHost) {
		h.ask.nodes = func(*ProbePlan) (map[nodeQuestion]nodeAnswer, error) {
			return nil, errors.New("packet socket: operation not permitted")
		}
	}), `OK    nodes             not asked: packet socket: operation not permitted
`},

	{"keepalived", "another address, device and listener", inFiles(func(files map[string]string) {
		text := files["/etc/keepalived/keepalived.conf"]
		files["/etc/keepalived/keepalived.conf"] = strings.NewReplacer("10.0.0.1/32", "10.0.0.9/32", "interface bond0.100", "interface eth0", ":9652", ":9653").Replace(text)
		delete(files, "/usr/local/sbin/lvs-controller")
	}), `FAIL  keepalived        /etc/keepalived/keepalived.conf lacks 10.0.0.1 of web, which has announce = "none"
FAIL  keepalived        /etc/keepalived/keepalived.conf has the interface eth0, the configuration bond0.100
FAIL  keepalived        the script of /etc/keepalived/keepalived.conf is /usr/local/sbin/lvs-controller, which is no program
FAIL  keepalived        the script of /etc/keepalived/keepalived.conf asks 127.0.0.1:9653, and the controller listens at "127.0.0.1:9652"
      lvs-controller keepalived -config config.toml -peer 10.0.0.3 > /etc/keepalived/keepalived.conf
      systemctl reload keepalived
`},
	{"keepalived", "all addresses, and a script that asks one of them", onHost(func(h *doctorHost) { h.cfg.Listen = ":9652" }), `OK    keepalived        /etc/keepalived/keepalived.conf has 1 VIP address, as the configuration
`},
	{"keepalived", "written by hand", inFiles(func(files map[string]string) {
		text := files["/etc/keepalived/keepalived.conf"]
		files["/etc/keepalived/keepalived.conf"] = strings.NewReplacer("# ", "; ", "10.0.0.1/32", "10.0.0.9/32", "#  ", "").Replace(text)
	}), `FAIL  keepalived        /etc/keepalived/keepalived.conf lacks 10.0.0.1 of web, which has announce = "none"
      lvs-controller keepalived -config config.toml -peer 10.0.0.3 > /etc/keepalived/keepalived.conf
      systemctl reload keepalived
`},
	{"keepalived", "a VIP that the controller announces", onHost(func(h *doctorHost) { h.cfg.VIPs[0].Announce = AnnounceARP }), `FAIL  keepalived        /etc/keepalived/keepalived.conf has 10.0.0.1 of web, which the controller announces (announce = "arp")
      lvs-controller keepalived -config config.toml -peer 10.0.0.3 > /etc/keepalived/keepalived.conf
      systemctl reload keepalived
`},
	{"keepalived", "it runs with a file elsewhere", inFiles(func(files map[string]string) { delete(files, "/etc/keepalived/keepalived.conf") }), `WARN  keepalived        keepalived runs without /etc/keepalived/keepalived.conf, so its file cannot be compared
      lvs-controller keepalived -config config.toml -peer ADDR > /etc/keepalived/keepalived.conf
`},

	{"IPVS owners", "kube-proxy, ldirectord, keepalived, and services of no VIP", inFiles(func(files map[string]string) {
		files["/sys/class/net/kube-ipvs0/mtu"] = "1500"
		files["/proc/813/comm"] = "ldirectord"
		files["/etc/keepalived/keepalived.conf"] += "\nvirtual_server 10.0.0.1 80 {\n}\nvirtual_server fwmark 3\n{\n}\n"
		files["/proc/net/ip_vs"] += "UDP  0A600001:0035 rr\n  -> 0A00000B:0035      Masq    1      0          0\nFWM  00000007 rr\nTCP  [2001:0db8:0000:0000:0000:0000:0000:0001]:0050 rr\n"
	}), `WARN  IPVS owners       kube-proxy manages IPVS here (device kube-ipvs0): it removes services of its addresses that it does not know
      # run the director on a host that is no node, or give kube-proxy another mode:
      kubectl -n kube-system edit configmap kube-proxy    # mode: nftables
WARN  IPVS owners       ldirectord runs, which writes to IPVS too
      systemctl disable --now ldirectord
WARN  IPVS owners       /etc/keepalived/keepalived.conf has 2 virtual_servers: keepalived writes to IPVS too
      # remove these blocks from /etc/keepalived/keepalived.conf, then: systemctl reload keepalived
WARN  IPVS owners       3 services of no VIP of the configuration, the first is 10.96.0.1:53/udp
      ipvsadm -Ln    # which program has made them? If none needs them:
      ipvsadm -D -u 10.96.0.1:53
      ipvsadm -D -f 7
      ipvsadm -D -t [2001:db8::1]:80
`},

	{"reverse path", "another default route", onHost(func(h *doctorHost) { h.net.defaultDevice = "eth9" }), `FAIL  reverse path      the filter of bond0.100 is strict (rp_filter 1), and the default route leaves by eth9: packets of clients beyond the segment are dropped
      sysctl -w 'net/ipv4/conf/bond0.100/rp_filter=2'
`},
	{"reverse path", "no default route", onHost(func(h *doctorHost) { h.net.defaultDevice = "" }), `WARN  reverse path      the filter of bond0.100 is strict (rp_filter 1), and there is no default route: packets of clients beyond the segment are dropped
      sysctl -w 'net/ipv4/conf/bond0.100/rp_filter=2'
`},
	{"ARP flux", "two devices in a subnet", func(h *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		h.net.devices[3].addresses = []deviceAddress{{Address: netip.MustParseAddr("10.0.0.22"), Bits: 24}}
		files["/proc/sys/net/ipv4/conf/bond0/arp_ignore"] = "0"
	}, `WARN  ARP flux          bond0, bond0.100 are all in 10.0.0.0/24, and bond0 answers ARP for the addresses of the others too
      sysctl -w 'net/ipv4/conf/bond0/arp_ignore=1' 'net/ipv4/conf/bond0/arp_announce=2'
`},
	{"settings files", "three files, one of them masked, and the last word", inFiles(func(files map[string]string) {
		files["/etc/sysctl.d/10-a.conf"] = "net.ipv4.conf.all.send_redirects = 1\n"
		files["/usr/lib/sysctl.d/10-a.conf"] = "net.ipv4.vs.conn_reuse_mode = 1\n"
		files["/etc/sysctl.d/20-b.conf"] = "; text\nnet/ipv4/conf/bond0.100/send_redirects=1\nnet.ipv4.vs.conn_reuse_mode = 2\nnet.ipv4.conf.*.send_redirects = 0"
		files["/etc/sysctl.conf"] = "\nnet.ipv4.vs.expire_nodest_conn=0\n"
	}), `WARN  settings files    /etc/sysctl.conf:2 sets net/ipv4/vs/expire_nodest_conn to "0" at each boot, want "1"
      sed -i '2s/^/# /' /etc/sysctl.conf
WARN  settings files    /etc/sysctl.d/10-a.conf:1 sets net/ipv4/conf/all/send_redirects to "1" at each boot, want "0"
      echo 'net/ipv4/conf/all/send_redirects = 0' >> /etc/sysctl.d/zz-lvs-controller.conf
WARN  settings files    /etc/sysctl.d/20-b.conf:2 sets net/ipv4/conf/bond0.100/send_redirects to "1" at each boot, want "0"
      echo 'net/ipv4/conf/bond0.100/send_redirects = 0' >> /etc/sysctl.d/zz-lvs-controller.conf
`},
	{"directories", "a file, and a full disk", func(h *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		delete(files, "/run/lvs-controller/state.json")
		files["/run/lvs-controller"] = ""
		h.ask.space = func(string) (fileSpace, error) { return fileSpace{bytes: 3 << 10, files: 7}, nil }
	}, `FAIL  directories       state_dir /run/lvs-controller: /run/lvs-controller is no directory
      mv /run/lvs-controller /run/lvs-controller.old
FAIL  directories       cache_dir /var/lib/lvs-controller: the file system is full (3 KiB and 7 files are free)
      df -h /var/lib/lvs-controller
      df -i /var/lib/lvs-controller
      du -x -h -d 2 $(findmnt -n -o TARGET -T /var/lib/lvs-controller) | sort -h | tail
`},
	{"directories", "little space, and read-only", onHost(func(h *doctorHost) {
		h.ask.space = func(dir string) (fileSpace, error) {
			return fileSpace{bytes: 9 << 20, files: 7, readOnly: strings.Contains(dir, "/var")}, nil
		}
	}), `WARN  directories       state_dir /run/lvs-controller: 9 MiB are free
      df -h /run/lvs-controller
      df -i /run/lvs-controller
      du -x -h -d 2 $(findmnt -n -o TARGET -T /run/lvs-controller) | sort -h | tail
FAIL  directories       cache_dir /var/lib/lvs-controller: its file system is read-only
      mount -o remount,rw $(findmnt -n -o TARGET -T /var/lib/lvs-controller)
`},
	{"directories", "not there yet", inFiles(func(files map[string]string) { delete(files, "/var/lib/lvs-controller/cluster.json") }), `OK    directories       state_dir /run/lvs-controller: 200 MiB are free
OK    directories       cache_dir /var/lib/lvs-controller: 200 MiB are free
`},
	{"clock", "not synchronised", onHost(func(h *doctorHost) {
		h.ask.clock = func() (time.Duration, bool, error) { return 0, false, nil }
	}), `WARN  clock             not synchronised: the kernel knows of no program that keeps it right
      timedatectl set-ntp true    # or chrony: systemctl enable --now chrony
`},
}

func TestDoctorRoles(t *testing.T) {
	for text, want := range map[string]doctorRole{"": 0, "node": roleNode, "cluster,director": roleCluster | roleDirector} {
		if roles, err := parseRoles(text); roles != want || err != nil {
			t.Errorf("-role %q: %v, %v", text, roles, err)
		}
	}
	for _, text := range []string{"pair", "node,", "all"} {
		if _, err := parseRoles(text); err == nil {
			t.Errorf("-role %q is taken", text)
		}
	}
}

// keepalived's script is compared by what it reaches, and not by how that is written.
func TestDoctorAnswersAt(t *testing.T) {
	h, files, _ := fitHost()
	h.layOut(t, files)
	for _, test := range []struct {
		listen, at string
		want       bool
	}{
		{":9652", "127.0.0.1:9652", true},
		{":9652", ":9652", true},
		{":9652", "localhost:9652", true},
		{":9652", "[::1]:9652", true},
		{":9652", "10.0.0.2:9652", true},  // of this host
		{":9652", "10.0.0.3:9652", false}, // of the other director
		{":9652", "127.0.0.1:9653", false},
		{":9652", "director:9652", false},
		{":9652", "127.0.0.1", false},
		{"0.0.0.0:9652", "127.0.0.1:9652", true},
		{"[::]:9652", "127.0.0.1:9652", true},
		{"127.0.0.1:9652", "127.0.0.1:9652", true},
		{"127.0.0.1:9652", "localhost:9652", true},
		{"127.0.0.1:9652", ":9652", true},
		{"127.0.0.1:9652", "[::1]:9652", false},
		{"localhost:9652", "127.0.0.1:9652", true},
		{"localhost:9652", "localhost:9652", true},
		{"[::1]:9652", "[0:0::1]:9652", true},
		{"10.0.0.2:9652", "127.0.0.1:9652", false},
		{"10.0.0.2:9652", ":9652", false},
		{"10.0.0.2:9652", "10.0.0.2:9652", true},
		{"", ":9652", false},
	} {
		if h.cfg.Listen = test.listen; h.answersAt(test.at) != test.want {
			t.Errorf("listen %q, asked at %q: %t, want %t", test.listen, test.at, !test.want, test.want)
		}
	}
}

// What belongs to the controller's user is right, whoever that is.
func TestDoctorDirectoryOfTheController(t *testing.T) {
	requireRoot(t)
	h, files, _ := fitHost()
	h.layOut(t, files)
	if err := os.Chown(filepath.Join(h.root, h.cfg.StateDir), 990, 990); err != nil {
		t.Fatal(err)
	}
	const mended = "chown root:root /run/lvs-controller && chmod go-w /run/lvs-controller"
	for _, test := range []struct {
		what  string
		users []int
		want  finding
	}{
		{"no controller", nil, finding{levelWarn, "state_dir /run/lvs-controller: /run/lvs-controller belongs to user 990, who may change it, and so the controller's state", []string{mended}}},
		{"another user's", []int{991}, finding{levelWarn, "state_dir /run/lvs-controller: /run/lvs-controller belongs to user 990, who may change it, and so the controller's state", []string{mended}}},
		{"that user's", []int{990}, finding{levelOK, "state_dir /run/lvs-controller: 200 MiB are free", nil}},
	} {
		h.ask.users = func() []int { return test.users }
		if diff := cmp.Diff(test.want, checkDirectories(h)[0], cmp.AllowUnexported(finding{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.what, diff)
		}
	}
}
