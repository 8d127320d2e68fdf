// What each check of `doctor` finds on a host that is fit and on one that is not. The
// hosts are trees of files, and what their devices say.

package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fitHost is a director with which nothing is wrong: eight CPUs, and a VLAN over a bond
// of two cards with four queues each.
func fitHost() (*doctorHost, map[string]string, map[string]deviceFacts) {
	h := &doctorHost{cfg: fitConfig(), file: "config.toml", uplink: "bond0.100", memory: 16 << 30, tracking: func(bool) bool { return false }}
	files := map[string]string{
		"/sys/class/net/bond0.100/lower_bond0":       "-> ../bond0",
		"/sys/class/net/bond0/lower_eth0":            "-> ../eth0",
		"/sys/class/net/bond0/lower_eth1":            "-> ../eth1",
		"/sys/devices/system/cpu/online":             "0-7",
		"/sys/module/ip_vs/parameters/conn_tab_bits": "20",
		"/sys/module/ip_vs/initstate":                "live",
		"/proc/sys/kernel/osrelease":                 "6.1.0-25-amd64",
		"/proc/sys/net/core/netdev_max_backlog":      "1000",
		"/proc/sys/net/core/netdev_budget":           "300",
		"/proc/sys/net/core/netdev_budget_usecs":     "8000",
		"/proc/net/softnet_stat":                     "0f000000 00000000 00000010 00000000\n0f000000 00000001 00000000 00000000",
		"/proc/net/ip_vs": "IP Virtual Server version 1.2.1 (size=1048576)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n" +
			"TCP  0A000001:0050 rr\n  -> 0A00000B:0050      Route   1      0          0\n  -> 0A00000C:0050      Route   1      0          0\n",
		"/proc/1/comm": "init",
	}
	for i, card := range []string{"eth0", "eth1"} {
		files["/sys/class/net/"+card+"/device"] = fmt.Sprintf("-> ../../../0000:03:00.%d", i)
		files["/sys/class/net/"+card+"/statistics/rx_packets"] = "1000000"
		files["/sys/class/net/"+card+"/statistics/rx_missed_errors"] = "7"
		for q := range 4 {
			files[fmt.Sprintf("/sys/class/net/%s/queues/rx-%d/rps_cpus", card, q)] = "00"
			files[fmt.Sprintf("/sys/class/net/%s/queues/tx-%d/xps_cpus", card, q)] = fmt.Sprintf("%x", 3<<(2*q))
		}
	}
	cpus := "  0  0  0  9  0  0  0  0"
	files["/proc/interrupts"] = "      CPU0 CPU1 CPU2 CPU3 CPU4 CPU5 CPU6 CPU7\n" +
		" 24:" + cpus + " PCI-MSI 1-edge eth0-TxRx-0\n 25:" + cpus + " PCI-MSI 2-edge eth0-TxRx-1\n" +
		" 26:" + strings.ReplaceAll(cpus, "9", "0") + " PCI-MSI 3-edge eth0-never\n 27:" + cpus + " PCI-MSI 4-edge eth01-other\n" +
		" 30:" + cpus + " PCI-MSIX-0000:03:00.1 0-edge mlx5_comp0\n 31:" + cpus + " PCI-MSIX-0000:03:00.1 1-edge mlx5_comp1\nNMI:" + cpus + " Non-maskable interrupts eth0\n"
	for i, number := range []string{"24", "25", "30", "31"} {
		files["/proc/irq/"+number+"/smp_affinity_list"] = "0-7"
		files["/proc/irq/"+number+"/effective_affinity_list"] = fmt.Sprint(i)
	}
	for key, value := range map[string]string{
		"vs/conn_reuse_mode": "3", "vs/expire_nodest_conn": "1", "vs/expire_quiescent_template": "1", "vs/run_estimation": "1",
		"conf/all/send_redirects": "0", "conf/bond0.100/send_redirects": "0",
	} {
		files["/proc/sys/net/ipv4/"+key] = value
	}
	fitRoles(h, files)
	facts := make(map[string]deviceFacts)
	for _, device := range []string{"bond0.100", "bond0", "eth0", "eth1"} {
		facts[device] = deviceFacts{On: map[string]bool{featureGRO: true}, RX: 512, RXMax: 4096, ChannelsMax: 4, Combined: true}
	}
	return h, files, facts
}

// fitConfig is the configuration of the fit host.
func fitConfig() *Config {
	cfg := defaultConfig()
	cfg.Kubeconfig = "/etc/lvs-controller/kubeconfig"
	web := defaultVIP()
	web.Name, web.Addresses, web.Ports = "web", []netip.Addr{netip.MustParseAddr("10.0.0.1")}, []Port{{80, TCP}}
	web.Pods.Selector = defaultSelector
	cfg.VIPs = []VIP{web}
	return cfg
}

// layOut makes the host's files. "-> TARGET" is a symbolic link.
func (h *doctorHost) layOut(t *testing.T, files map[string]string) {
	t.Helper()
	h.root = t.TempDir()
	for path, text := range files {
		path = filepath.Join(h.root, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if target, link := strings.CutPrefix(text, "-> "); link {
			err = errors.Join(err, os.Symlink(target, path))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(text+"\n"), 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// doctorCase is a host of which one thing is not as on the fit one.
type doctorCase struct {
	check, name string
	change      func(h *doctorHost, files map[string]string, facts map[string]deviceFacts)
	want        string // the findings of this check
}

// doctorCases are about the kernel and the devices.
var doctorCases = []doctorCase{
	{"configuration", "no file", func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) {
		h.configErr = fmt.Errorf("read the configuration: %w", os.ErrNotExist)
	}, `WARN  configuration     the defaults are used, there is no file config.toml
      lvs-controller doctor -config FILE
`},
	{"configuration", "a mistake", func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) {
		h.configErr = errors.New("config.toml:1: listen: is 3\nconfig.toml:2: more")
	}, `WARN  configuration     the defaults are used, config.toml:1: listen: is 3
      lvs-controller check -config config.toml
`},
	{"configuration", "a mistake beside a copy", func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) {
		h.configErr, h.copied = errors.New("config.toml:1: listen: is 3\nconfig.toml:2: more"), "/c/config.last-good.toml"
	}, `WARN  configuration     config.toml:1: listen: is 3; the last good configuration is examined, /c/config.last-good.toml
      lvs-controller check -config config.toml
`},
	{"uplink", "no default route", func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) {
		h.uplink, h.uplinkErr = "", errors.New("there is no default route")
	}, `WARN  uplink            not known, so no device is examined: there is no default route
      # in config.toml: interface = "eth0"
`},
	{"uplink", "no such device", func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) { h.uplink = "eth9" },
		`FAIL  uplink            there is no device eth9
      ip link
      # then in config.toml: interface = "NAME"
`},
	{"uplink", "no /sys", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		maps.DeleteFunc(files, func(path, _ string) bool { return strings.HasPrefix(path, netClass) })
	}, `WARN  uplink            /sys/class/net cannot be read, so no device is examined
      mount -t sysfs sysfs /sys
`},
	{"connection table", "the kernel's default", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/sys/module/ip_vs/parameters/conn_tab_bits"] = "12"
	}, `WARN  connection table  2^12 buckets; connection_table_bits asks for 2^20
      echo 'options ip_vs conn_tab_bits=20' > /etc/modprobe.d/lvs-controller.conf
      # then restart this host, or see "On a running director" in docs/tuning.md
`},
	{"connection table", "the file is there, but came too late", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/sys/module/ip_vs/parameters/conn_tab_bits"] = "12"
		files["/etc/modprobe.d/a.conf"] = "options ip_vs conn_tab_bits=8\n"
		files["/etc/modprobe.d/lvs-controller.conf"] = "# text\noptions ip_vs conn_tab_bits=20\noptions other conn_tab_bits=3"
		files["/etc/modprobe.d/z.conf.old"] = "options ip_vs conn_tab_bits=9\n"
		files["/proc/net/ip_vs_status"] = "Conns:\t9401\nConn buckets:\t4096 (12 bits, lfactor -5)"
	}, `WARN  connection table  2^12 buckets, 9401 connections; connection_table_bits asks for 2^20
      # then restart this host, or see "On a running director" in docs/tuning.md
`},
	{"connection table", "no module", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/sys/module/ip_vs/parameters/conn_tab_bits"] = "12"
		delete(files, "/sys/module/ip_vs/initstate")
	}, `WARN  connection table  2^12 buckets; connection_table_bits asks for 2^20
      # ip_vs is a part of this kernel. On the kernel's command line: ip_vs.conn_tab_bits=20
      # then restart this host, or see "On a running director" in docs/tuning.md
`},
	{"connection table", "not loaded", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		delete(files, "/sys/module/ip_vs/parameters/conn_tab_bits")
	}, `WARN  connection table  ip_vs is not loaded, and nothing in /etc/modprobe.d asks for 2^20 buckets
      echo 'options ip_vs conn_tab_bits=20' > /etc/modprobe.d/lvs-controller.conf
`},
	{"connection table", "not loaded yet", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		delete(files, "/sys/module/ip_vs/parameters/conn_tab_bits")
		files["/etc/modprobe.d/lvs-controller.conf"] = "options ip_vs conn_tab_bits=21\n"
	}, "OK    connection table  ip_vs is not loaded; /etc/modprobe.d gives it 2^21 buckets\n"},
	{"connection table", "more than the kernel takes", func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) {
		h.cfg.ConnectionTableBits = 24
	}, "OK    connection table  2^20 buckets\n"},

	{"conntrack", "active, no VIP", func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) {
		h.cfg.VIPs = nil
		h.tracking = func(bool) bool { return true }
	}, "WARN  conntrack         active: a VIP without notrack costs about a quarter more time per packet\n" +
		"      # in config.toml, in each [[vip]]: notrack = true (docs/tuning.md, Connection tracking)\n"},
	{"conntrack", "active for IPv4", func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) {
		h.tracking = func(is6 bool) bool { return !is6 }
		h.cfg.VIPs = []VIP{
			{Name: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
			{Name: "exempt", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, NoTrack: true},
			{Name: "six", Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1")}},
		}
	}, `WARN  conntrack         active: about a quarter more time per packet for 1 VIP (web)
      # a firewall's rules for these VIPs have to accept untracked packets first: docs/tuning.md, Connection tracking
      # then, in config.toml, in each [[vip]]: notrack = true
`},
	{"conntrack", "active, and each VIP is exempt", func(h *doctorHost, _ map[string]string, _ map[string]deviceFacts) {
		h.tracking = func(bool) bool { return true }
		h.cfg.VIPs = []VIP{{Name: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, NoTrack: true}}
	}, "OK    conntrack         active, but it does not see the packets of a VIP\n"},

	{"receive queues", "one queue of one, and one of eight", func(_ *doctorHost, files map[string]string, facts map[string]deviceFacts) {
		maps.DeleteFunc(files, func(path, _ string) bool {
			return strings.Contains(path, "/queues/rx-") && !strings.Contains(path, "/rx-0/")
		})
		facts["eth0"] = deviceFacts{ChannelsMax: 1, Combined: true}
		facts["eth1"] = deviceFacts{ChannelsMax: 16, Combined: true}
	}, `WARN  receive queues    eth0: 1 queue, RPS off: 1 of 8 CPUs take packets
      for q in /sys/class/net/eth0/queues/rx-*; do echo ff > $q/rps_cpus; done
WARN  receive queues    eth1: 1 queue, RPS off: 1 of 8 CPUs take packets
      ethtool -L eth1 combined 8
      # where the driver refuses: for q in /sys/class/net/eth1/queues/rx-*; do echo ff > $q/rps_cpus; done
`},
	{"receive queues", "RPS, to two CPUs and to one", func(_ *doctorHost, files map[string]string, facts map[string]deviceFacts) {
		maps.DeleteFunc(files, func(path, _ string) bool { return strings.Contains(path, "/queues/rx-") })
		files["/sys/class/net/eth0/queues/rx-0/rps_cpus"] = "00000000,000000c0"
		files["/sys/class/net/eth1/queues/rx-0/rps_cpus"] = "00000001,00000001" // CPU 32 is not there
		facts["eth1"] = deviceFacts{ChannelsMax: 2}
	}, `OK    receive queues    eth0: 1 queue, RPS to 2 CPUs: 2 of 8 CPUs take packets
WARN  receive queues    eth1: 1 queue, RPS to 1 CPU: 1 of 8 CPUs take packets
      ethtool -L eth1 rx 2
      # where the driver refuses: for q in /sys/class/net/eth1/queues/rx-*; do echo ff > $q/rps_cpus; done
`},
	{"receive queues", "one CPU needs one queue", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/sys/devices/system/cpu/online"] = "0"
	}, `OK    receive queues    eth0: 4 queues, RPS off: 1 of 1 CPU take packets
OK    receive queues    eth1: 4 queues, RPS off: 1 of 1 CPU take packets
`},
	{"send queues", "all CPUs share one", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		for q := range 4 {
			files[fmt.Sprintf("/sys/class/net/eth0/queues/tx-%d/xps_cpus", q)] = "0"
			files[fmt.Sprintf("/sys/class/net/eth1/queues/tx-%d/xps_cpus", q)] = "0"
		}
		files["/sys/class/net/eth1/queues/tx-2/xps_cpus"] = "ff"
	}, `OK    send queues       eth0: 4 queues, XPS off
WARN  send queues       eth1: 4 queues, XPS uses 1: all CPUs wait for one queue
      for q in /sys/class/net/eth1/queues/tx-*; do echo 0 > $q/xps_cpus; done
`},
	{"interrupts", "all to one CPU", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		for _, number := range []string{"24", "25", "30", "31"} {
			files["/proc/irq/"+number+"/effective_affinity_list"] = "3"
		}
	}, `WARN  interrupts        eth0: all 2 interrupts go to CPU 3 of 8
      systemctl start irqbalance    # or, without that package:
      echo 0 > /proc/irq/24/smp_affinity_list
      echo 1 > /proc/irq/25/smp_affinity_list
WARN  interrupts        eth1: all 2 interrupts go to CPU 3 of 8
      echo 0 > /proc/irq/30/smp_affinity_list
      echo 1 > /proc/irq/31/smp_affinity_list
`},
	{"interrupts", "irqbalance runs, and the kernel has no effective affinity", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		for _, number := range []string{"24", "25"} {
			delete(files, "/proc/irq/"+number+"/effective_affinity_list")
			files["/proc/irq/"+number+"/smp_affinity_list"] = "0"
		}
		delete(files, "/sys/class/net/eth1/device")
		files["/proc/812/comm"] = "irqbalance"
	}, `WARN  interrupts        eth0: all 2 interrupts go to CPU 0 of 8
      echo 0 > /proc/irq/24/smp_affinity_list
      echo 1 > /proc/irq/25/smp_affinity_list
OK    interrupts        eth1: /proc/interrupts names none
`},
	{"LRO", "on below the VLAN", func(_ *doctorHost, _ map[string]string, facts map[string]deviceFacts) {
		facts["eth1"] = deviceFacts{On: map[string]bool{featureLRO: true}}
		delete(facts, "bond0")
	}, `OK    LRO               bond0.100: off
WARN  LRO               bond0: not known: no such device
      ethtool -k bond0 | grep receive-offload
OK    LRO               eth0: off
FAIL  LRO               eth1: on, so packets are merged that cannot be sent on
      ethtool -K eth1 lro off
`},
	{"GRO", "off", func(_ *doctorHost, _ map[string]string, facts map[string]deviceFacts) {
		facts["eth0"] = deviceFacts{On: map[string]bool{}}
		facts["eth1"] = deviceFacts{}
	}, `WARN  GRO               eth0: off: each packet of an upload passes IPVS alone
      ethtool -K eth0 gro on
WARN  GRO               eth1: not known: the driver does not say
      ethtool -k eth1 | grep receive-offload
`},
	{"rings", "losses with small rings and with the largest", func(_ *doctorHost, files map[string]string, facts map[string]deviceFacts) {
		files["/sys/class/net/eth0/statistics/rx_missed_errors"] = "11"
		files["/sys/class/net/eth1/statistics/rx_fifo_errors"] = "4"
		facts["eth1"] = deviceFacts{RX: 4096, RXMax: 4096}
	}, `WARN  rings             eth0: 512 of 4096 buffers to receive, 11 of 1000000 packets lost
      ethtool -G eth0 rx 4096    # interrupts the link for a moment
WARN  rings             eth1: 4096 of 4096 buffers to receive, 11 of 1000000 packets lost
      # no larger ring: let more CPUs take packets, see receive queues and interrupts
`},
	{"backlog", "overflows", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/softnet_stat"] = "000f4240 00000005 00000000\n000f4240 00000010 00000000"
	}, `WARN  backlog           21 of 2000000 packets dropped since the boot, netdev_max_backlog is 1000
      sysctl -w net.core.netdev_max_backlog=4000
`},
	{"backlog", "a few packets of a young host", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/softnet_stat"] = "00003d78 0000000a 00000000"
	}, "OK    backlog           10 of 15736 packets dropped since the boot\n"},
	{"backlog", "overflows on a young host", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/softnet_stat"] = "00003d78 0000000b 00000000"
		delete(files, "/proc/sys/net/core/netdev_max_backlog") // another network namespace
	}, `WARN  backlog           11 of 15736 packets dropped since the boot, netdev_max_backlog is 1000
      nsenter -t 1 -n sysctl -w net.core.netdev_max_backlog=4000
`},
	{"budget", "used up", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/softnet_stat"] = "000f4240 00000000 0000014e\nbroken"
		maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasPrefix(name, "/proc/sys/net/core/netdev_") }) // another network namespace
	}, `WARN  budget            used up 334 times for 1000000 packets, netdev_budget is 300 in 8000 µs
      nsenter -t 1 -n sysctl -w net.core.netdev_budget=600 net.core.netdev_budget_usecs=16000
`},
	{"budget", "used up while the host started", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/softnet_stat"] = "00000271 00000000 00000063"
	}, "OK    budget            used up 99 times for 625 packets\n"},
	{"estimators", "very many", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/ip_vs"] += strings.Repeat("FWM  00000001 rr\n  -> 0A00000C:0050      Route   1      0          0\n", 6249)
	}, `WARN  estimators        6250 services, 6251 real servers: one CPU adds up 12501 rows of 8 CPUs in one softirq each 2 s
      # in config.toml, below [sysctl]: run_estimation = 0 (status and /metrics then have no rates and counters)
      # or use Linux 6.2 or later, which does it in threads
`},
	{"estimators", "very many, before the switch", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/ip_vs"] += strings.Repeat("UDP  [20010db8000000000000000000000100]:0050 rr\n", 12500)
		delete(files, "/proc/sys/net/ipv4/vs/run_estimation")
	}, `WARN  estimators        12501 services, 2 real servers: one CPU adds up 12503 rows of 8 CPUs in one softirq each 2 s
      # this kernel has no switch for it; Linux 6.2 and later do it in threads
`},
	{"estimators", "very many, in threads", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/ip_vs"] += strings.Repeat("TCP  0A000001:0050 rr\n", 12500)
		files["/proc/sys/kernel/osrelease"] = "6.12.0"
	}, "OK    estimators        12501 services, 2 real servers, in threads of the kernel\n"},
	{"estimators", "very many, off", func(_ *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/net/ip_vs"] += strings.Repeat("TCP  0A000001:0050 rr\n", 12500)
		files["/proc/sys/net/ipv4/vs/run_estimation"] = "0"
	}, "OK    estimators        off (run_estimation = 0); 12501 services, 2 real servers\n"},
	{"kernel settings", "set otherwise", func(h *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		files["/proc/sys/net/ipv4/vs/conn_reuse_mode"] = "1"
		files["/proc/sys/net/ipv4/conf/bond0.100/send_redirects"] = "1"
		files["/proc/sys/net/ipv4/vs/drop_entry"] = "2"
		files["/proc/sys/net/ipv4/vs/sync_threshold"] = "3\t50"
		files["/proc/sys/net/ipv4/vs/est_cpulist"] = "0-7"
		files["/proc/sys/net/ipv4/vs/est_nice"] = "0"
		h.cfg.Sysctls = map[string]string{"drop_entry": "1", "sync_threshold": "10\t0", "est_cpulist": "all", "est_nice": "-5"}
	}, `WARN  kernel settings   net/ipv4/vs/conn_reuse_mode is "1", want "3"
      sysctl -w 'net/ipv4/vs/conn_reuse_mode=3'
WARN  kernel settings   net/ipv4/conf/bond0.100/send_redirects is "1", want "0"
      sysctl -w 'net/ipv4/conf/bond0.100/send_redirects=0'
WARN  kernel settings   net/ipv4/vs/est_nice is "0", want "-5"
      sysctl -w 'net/ipv4/vs/est_nice=-5'
WARN  kernel settings   net/ipv4/vs/sync_threshold is "3 50", want "10 0"
      sysctl -w 'net/ipv4/vs/sync_threshold=10 0'
`},
}

// examineTree runs all checks on a tree.
func examineTree(t *testing.T, change func(*doctorHost, map[string]string, map[string]deviceFacts)) (code int, text string) {
	t.Helper()
	h, files, facts := fitHost()
	if change != nil {
		change(h, files, facts)
	}
	h.layOut(t, files)
	h.ethtool = func(device string) (deviceFacts, error) {
		if f, has := facts[device]; has {
			return f, nil
		}
		return deviceFacts{}, errors.New("no such device")
	}
	h.findServers(nil)
	var out strings.Builder
	code = printFindings(&out, h.examine(doctorPatience)).code()
	return code, out.String()
}

// findingsOf is what text has of one check.
func findingsOf(check, text string) string {
	var lines []string
	ours := false
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, " ") {
			ours = len(line) > 6 && strings.HasPrefix(line[6:], fmt.Sprintf("%-16s  ", check))
		}
		if ours {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// A director with which nothing is wrong has no WARN; each check finds what is wrong, and
// says how to mend it. The exit code says whether one has failed.
func TestDoctor(t *testing.T) {
	code, text := examineTree(t, nil)
	if diff := cmp.Diff(fitText, text); diff != "" || code != exitOK {
		t.Errorf("a fit host (-want +got), exit code %d:\n%s", code, diff)
	}
	finds := make(map[string]bool)
	for _, tt := range slices.Concat(doctorCases, directorCases, nodeCases, clusterCases) {
		t.Run(tt.check+"/"+tt.name, func(t *testing.T) {
			code, text := examineTree(t, tt.change)
			if diff := cmp.Diff(tt.want, findingsOf(tt.check, text)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			want := exitOK
			if strings.Contains("\n"+text, "\nFAIL ") {
				want = exitFailure
			}
			if code != want {
				t.Errorf("exit code %d, want %d:\n%s", code, want, text)
			}
		})
		finds[tt.check] = finds[tt.check] || strings.Contains("\n"+tt.want, "\nWARN") || strings.Contains("\n"+tt.want, "\nFAIL")
	}
	for _, c := range doctorChecks {
		if !finds[c.name] {
			t.Errorf("no case makes the check %q find something", c.name)
		}
	}
}

// A command can be run as it is printed.
func TestDoctorCalls(t *testing.T) {
	flags := &doctorHost{cfg: &Config{VIPs: []VIP{{Addresses: []netip.Addr{addr("10.0.0.1"), addr("2001:db8::1")}}}}, file: onlyFlags}
	for want, got := range map[string]string{
		"lvs-controller ready -config /etc/lvs-controller/config.toml": (&doctorHost{file: "/etc/lvs-controller/config.toml"}).call("ready"),
		"lvs-controller check -config 'my file'":                       (&doctorHost{file: "my file"}).call("check"),
		"lvs-controller drain -undo -vip 10.0.0.1,2001:db8::1":         flags.call("drain -undo"),
		"lvs-controller status":                                        flags.call("status"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// On a host of which nothing can be read, each check still ends, and nothing has failed
// but what cannot be seen.
func TestDoctorOnNothing(t *testing.T) {
	unknown := errors.New("unknown")
	h := &doctorHost{cfg: defaultConfig(), root: t.TempDir(), uplinkErr: errors.New("none"), tracking: func(bool) bool { return false }, ethtool: func(string) (deviceFacts, error) { return deviceFacts{}, errNoEthtool },
		roles: roleDirector | roleNode | roleCluster, net: doctorNetwork{err: unknown}, ask: doctorQuestions{
			claims: func(string, []netip.Addr) (map[netip.Addr][]claimingHost, error) { return nil, unknown },
			nodes:  func(*ProbePlan) (map[nodeQuestion]nodeAnswer, error) { return nil, unknown },
			status: func(controllerAt) (status, error) { return status{}, unknown },
			clock:  func() (time.Duration, bool, error) { return 0, false, unknown },
			space:  func(string) (fileSpace, error) { return fileSpace{}, unknown },
			users:  func() []int { return nil },
			api:    func() *apiAnswers { return &apiAnswers{} },
			now:    time.Now,
		}}
	h.findServers(nil)
	var out strings.Builder
	if code := printFindings(&out, h.examine(doctorPatience)).code(); code != exitOK || !strings.Contains(out.String(), "0 FAIL") {
		t.Errorf("exit code %d:\n%s", code, &out)
	}
}

// The output is bounded, whatever a host has.
func TestDoctorIsBounded(t *testing.T) {
	_, text := examineTree(t, func(h *doctorHost, files map[string]string, facts map[string]deviceFacts) {
		for i := range 1000 {
			name := fmt.Sprintf("card%d", i)
			files["/sys/class/net/bond0/lower_"+name] = "-> ../" + name
			files["/sys/class/net/"+name+"/mtu"] = "1500"
		}
		h.configErr = errors.New(strings.Repeat("x\x1b", 1000))
	})
	if lines := strings.Count(text, "\n"); lines > 200 || len(text) > 20_000 || strings.Contains(text, "\x1b") {
		t.Errorf("%d lines, %d bytes:\n%s", lines, len(text), text)
	}
}

// docs/doctor.md has a section for each check, in the same order, with a reason and a
// remedy.
func TestDoctorDocs(t *testing.T) {
	page, err := os.ReadFile("docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	var sections, names []string
	for line := range strings.Lines(string(page)) {
		if heading, is := strings.CutPrefix(line, "### "); is {
			sections = append(sections, strings.ToLower(strings.TrimSpace(heading)))
		}
	}
	for _, c := range doctorChecks {
		names = append(names, strings.ToLower(c.name))
	}
	for _, section := range strings.Split(string(page), "\n### ")[1:] {
		reason, remedy, found := strings.Cut(section, "\nRemedy: ")
		if name, reason, _ := strings.Cut(reason, "\n"); !found || len(strings.Fields(reason)) < 15 || len(strings.Fields(remedy)) < 2 {
			t.Errorf("docs/doctor.md: %s has no reason, or no remedy", name)
		}
	}
	if diff := cmp.Diff(names, sections); diff != "" {
		t.Errorf("docs/doctor.md (-checks +sections):\n%s", diff)
	}
}

// CPUs in both forms of the kernel.
func TestCPUSets(t *testing.T) {
	for text, want := range map[string]cpuSet{"0": {0}, "0-2,8": {0, 1, 2, 8}, "3,1": {1, 3}, "": nil, "x": nil, "0-99999": nil, "5-": nil} {
		if got := parseCPUList(text); !slices.Equal(got, want) {
			t.Errorf("list %q: %v, want %v", text, got, want)
		}
	}
	for text, want := range map[string]cpuSet{"0": nil, "f": {0, 1, 2, 3}, "00000001,80000000": {31, 32}, "": nil, "x": nil, "100000000": nil} {
		got := parseCPUMask(text)
		if !slices.Equal(got, want) {
			t.Errorf("mask %q: %v, want %v", text, got, want)
		}
		if again := parseCPUMask(got.mask()); !slices.Equal(again, got) {
			t.Errorf("mask %q of %v means %v", got.mask(), got, again)
		}
	}
}

// A named pipe in the place of a file does not make doctor wait for who writes to it.
func TestDoctorWaitsForNoPipe(t *testing.T) {
	h := &doctorHost{root: t.TempDir()}
	if err := unix.Mkfifo(h.root+"/option.conf", 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan string, 1)
	go func() { done <- h.read("/option.conf") }()
	select {
	case text := <-done:
		if text != "" {
			t.Errorf("a pipe has the content %q", text)
		}
	case <-time.After(5 * time.Second):
		t.Error("the reading does not end")
	}
}
