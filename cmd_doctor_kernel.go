// The checks of doctor that are about the kernel: the connection table, connection
// tracking, rates and settings.
//
// Used by cmd_doctor.go. They only read. docs/doctor.md has the reason of each.

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// checkConnectionTable compares the kernel's table with connection_table_bits.
func checkConnectionTable(h *doctorHost) []finding {
	most := mostTableBits(h.release(), h.memory)
	want := min(h.cfg.ConnectionTableBits, most)
	t := parseConnectionTable([]byte(h.read(tableParameter)), []byte(h.read(tableStatus)))
	option := h.moduleOption()
	switch {
	case t.Bits == 0 && option >= want:
		return allWell("ip_vs is not loaded; /etc/modprobe.d gives it 2^%d buckets", option)
	case t.Bits == 0:
		return []finding{{levelWarn, fmt.Sprintf("ip_vs is not loaded, and nothing in /etc/modprobe.d asks for 2^%d buckets", want), []string{tableCommand(want)}}}
	case t.Bits >= want:
		return allWell("2^%d buckets%s", t.Bits, connectionsText(t))
	}
	f := finding{level: levelWarn, fact: fmt.Sprintf("2^%d buckets%s; connection_table_bits asks for 2^%d", t.Bits, connectionsText(t), want)}
	switch {
	case h.read("/sys/module/ip_vs/initstate") == "":
		f.commands = []string{fmt.Sprintf("# ip_vs is a part of this kernel. On the kernel's command line: ip_vs.conn_tab_bits=%d", want)}
	case option < want:
		f.commands = []string{tableCommand(want)}
	}
	f.commands = append(f.commands, `# then restart this host, or see "On a running director" in docs/tuning.md`)
	return []finding{f}
}

func connectionsText(t connectionTable) string {
	if t.Connections == nil {
		return ""
	}
	return ", " + numberOf(int(*t.Connections), "connection")
}

// moduleOption is the conn_tab_bits that /etc/modprobe.d gives to ip_vs, 0 for none. Of
// several the last counts, as for modprobe.
func (h *doctorHost) moduleOption() (bits uint8) {
	const dir = "/etc/modprobe.d"
	names := h.names(dir, "")
	slices.Sort(names)
	for _, name := range names {
		for line := range strings.Lines(h.read(dir + "/" + name)) {
			f := strings.Fields(line)
			if !strings.HasSuffix(name, ".conf") || len(f) < 3 || f[0] != "options" || f[1] != "ip_vs" {
				continue
			}
			for _, option := range f[2:] {
				if value, is := strings.CutPrefix(option, "conn_tab_bits="); is {
					n, _ := strconv.ParseUint(value, 10, 8)
					bits = uint8(n)
				}
			}
		}
	}
	return bits
}

// checkConntrack says whether nf_conntrack sees the packets of the VIPs.
func checkConntrack(h *doctorHost) []finding {
	names := trackedVIPs(h.cfg, h.tracking)
	switch {
	case !h.tracking(false) && !h.tracking(true):
		return allWell("connections are not tracked on this host")
	case len(names) == 0 && len(h.cfg.VIPs) > 0:
		return allWell("active, but it does not see the packets of a VIP")
	case len(names) == 0:
		return []finding{{levelWarn, "active: a VIP without notrack costs about a quarter more time per packet", nil}}
	}
	return []finding{{levelWarn, fmt.Sprintf("active: about a quarter more time per packet for %s (%s)", numberOf(len(names), "VIP"), strings.Join(names, ", ")), []string{
		"# a firewall's rules for these VIPs have to accept untracked packets first: docs/tuning.md, Connection tracking",
		"# then, in config.toml, in each [[vip]]: notrack = true",
	}}}
}

// estimatorRows is the number of counters, of services and real servers, times the number
// of CPUs, from which a kernel before 6.2 keeps one CPU from receiving packets for some
// 10 ms at each estimation: see docs/tuning.md.
const estimatorRows = 100_000

// checkEstimators looks for an estimation of rates that keeps a CPU busy. Before Linux
// 6.2 one CPU goes through all of them in one softirq, each 2 s (estimation_timer).
func checkEstimators(h *doctorHost) []finding {
	services, servers := h.countTable()
	cpus := max(1, len(h.onlineCPUs()))
	rows := services + servers
	table := fmt.Sprintf("%s, %s", numberOf(services, "service"), numberOf(servers, "real server"))
	run := h.read("/proc/sys/net/ipv4/vs/run_estimation")
	switch {
	case run == "0":
		return allWell("off (run_estimation = 0); %s", table)
	case kernelAtLeast(h.release(), [2]int{6, 2}):
		return allWell("%s, in threads of the kernel", table)
	case rows*cpus < estimatorRows:
		return allWell("%s, in a softirq each 2 s", table)
	}
	f := finding{level: levelWarn, fact: fmt.Sprintf("%s: one CPU adds up %d rows of %s in one softirq each 2 s", table, rows, numberOf(cpus, "CPU"))}
	if run == "" {
		f.commands = []string{"# this kernel has no switch for it; Linux 6.2 and later do it in threads"}
	} else {
		f.commands = []string{"# in config.toml, below [sysctl]: run_estimation = 0 (status and /metrics then have no rates and counters)", "# or use Linux 6.2 or later, which does it in threads"}
	}
	return []finding{f}
}

// countTable counts the lines of /proc/net/ip_vs, which needs no rights to read.
func (h *doctorHost) countTable() (services, servers int) {
	f, err := os.Open(h.root + "/proc/net/ip_vs")
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(io.LimitReader(f, 8*mostHostFile)); lines.Scan(); {
		switch kind, _, _ := strings.Cut(strings.TrimSpace(lines.Text()), " "); kind {
		case "TCP", "UDP", "SCTP", "FWM":
			services++
		case "->":
			servers++
		}
	}
	return services, max(0, servers-1) // without the heading
}

// checkKernelSettings compares the settings of the sysctl table, and those of [sysctl].
func checkKernelSettings(h *doctorHost) []finding {
	host := &linuxHost{sysctls: procSys{Root: h.root + "/proc/sys"}}
	uplink := h.uplink
	if all, _ := h.devices(); all == nil {
		uplink = ""
	}
	want, err := host.wantedSysctls(uplink, h.cfg)
	if err != nil {
		return []finding{{levelWarn, err.Error(), nil}}
	}
	var wrong []finding
	want = append(want, host.chosenSysctls(h.cfg)...)
	for _, s := range host.sysctls.Check(want) {
		// The kernel prints a list of CPUs in its own form.
		if s.Key == vsSysctls+"est_cpulist" && h.sameCPUs(s.Have, s.Want) {
			continue
		}
		switch have, want := strings.ReplaceAll(s.Have, "\t", " "), strings.ReplaceAll(s.Want, "\t", " "); {
		case s.OK:
		case s.Err != nil:
			wrong = append(wrong, finding{levelWarn, s.Err.Error(), nil})
		default:
			wrong = append(wrong, finding{levelWarn, fmt.Sprintf("%s is %q, want %q", s.Key, have, want), []string{fmt.Sprintf("sysctl -w '%s=%s'", s.Key, want)}})
		}
	}
	if wrong == nil {
		return allWell("%s as a director needs them", numberOf(len(want), "setting"))
	}
	return wrong
}

// sameCPUs reports whether two lists of CPUs mean the same CPUs.
func (h *doctorHost) sameCPUs(a, b string) bool {
	set := func(list string) cpuSet {
		if list == "all" {
			return h.onlineCPUs()
		}
		return parseCPUList(list)
	}
	return slices.Equal(set(a), set(b))
}
