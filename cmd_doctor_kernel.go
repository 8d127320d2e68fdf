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
	"time"
)

// Capabilities that what doctor asks needs (include/uapi/linux/capability.h).
const capNetRaw = 13

// checkRights says what this process cannot ask.
func checkRights(h *doctorHost) []finding {
	for line := range strings.Lines(h.read("/proc/self/status")) {
		mask, found := strings.CutPrefix(line, "CapEff:")
		if !found {
			continue
		}
		if set, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64); err == nil && set>>capNetRaw&1 == 1 {
			return allWell("all questions can be asked")
		}
	}
	return []finding{{levelWarn, "without CAP_NET_RAW: other hosts are not asked for the VIPs, nor nodes over the data path", []string{"sudo " + h.call("doctor")}}}
}

// checkClock looks whether a program keeps the clock right.
func checkClock(h *doctorHost) []finding {
	off, synchronised, err := h.ask.clock()
	switch {
	case err != nil:
		return []finding{{levelWarn, "not known: " + err.Error(), []string{"timedatectl"}}}
	case synchronised:
		return allWell("synchronised, at most %s off", off.Round(time.Millisecond))
	}
	return []finding{{levelWarn, "not synchronised: the kernel knows of no program that keeps it right", []string{"timedatectl set-ntp true    # or chrony: systemctl enable --now chrony"}}}
}

// checkKernel looks for the modules that the configuration needs.
func checkKernel(h *doctorHost) []finding {
	release, has, err := kernelModules(h.root)
	if err != nil {
		return []finding{{levelWarn, "not known: " + report(err), []string{"uname -r"}}}
	}
	var found []finding
	blocked := h.blockedModules()
	closed := h.read("/proc/sys/kernel/modules_disabled") == "1"
	var judged []string
	for _, n := range neededModules(h.cfg) {
		if n.key == "vip" {
			n.key = "each VIP"
		}
		if slices.Contains(judged, n.module) {
			continue
		}
		judged = append(judged, n.module)
		if len(h.names("/sys/module/"+n.module, "")) > 0 {
			continue // loaded, or built in with parameters
		}
		switch file := blocked[n.module]; {
		case has != nil && !has[n.module]:
			found = append(found, finding{levelFail, fmt.Sprintf("the kernel %s has no module %s, which %s needs", release, n.module, n.key), []string{
				"apt install linux-modules-extra-$(uname -r)    # Ubuntu; on Debian: apt install linux-image-amd64, then restart this host"}})
		case file != "":
			found = append(found, finding{levelFail, fmt.Sprintf("%s keeps the module %s from being loaded, which %s needs", file, n.module, n.key), []string{
				fmt.Sprintf("sed -i 's/^ *install  *%s /# &/' %s", n.module, file), "modprobe " + n.module}})
		case closed && has != nil:
			found = append(found, finding{levelFail, fmt.Sprintf("kernel.modules_disabled is 1, and %s is not loaded, which %s needs", n.module, n.key), []string{
				"echo " + n.module + " >> /etc/modules-load.d/lvs-controller.conf    # then restart this host"}})
		}
	}
	switch {
	case found != nil:
		return found
	case has == nil:
		return allWell("Linux %s; the list of its modules cannot be read", release)
	}
	return allWell("Linux %s has %s", release, strings.Join(judged, ", "))
}

// blockedModules are the modules for which a file of modprobe has another program run,
// which is how hardening guides keep a module out. The kernel's requests do not use the
// keyword blacklist.
func (h *doctorHost) blockedModules() map[string]string {
	blocked := make(map[string]string)
	for _, dir := range []string{"/usr/lib/modprobe.d", "/lib/modprobe.d", "/run/modprobe.d", "/etc/modprobe.d"} {
		for _, name := range h.names(dir, "") {
			for line := range strings.Lines(h.read(dir + "/" + name)) {
				f := strings.Fields(line)
				if strings.HasSuffix(name, ".conf") && len(f) > 2 && f[0] == "install" && (strings.HasSuffix(f[2], "/false") || strings.HasSuffix(f[2], "/true")) {
					blocked[strings.ReplaceAll(f[1], "-", "_")] = dir + "/" + name
				}
			}
		}
	}
	return blocked
}

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
		return []finding{{levelWarn, "active: a VIP without notrack costs about a quarter more time per packet", []string{"# in config.toml, in each [[vip]]: notrack = true (docs/tuning.md, Connection tracking)"}}}
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

// wantedSettings are the settings of the sysctl table for this configuration, and those
// of [sysctl].
func (h *doctorHost) wantedSettings() (want []Sysctl, sysctls procSys, err error) {
	host := &linuxHost{sysctls: procSys{Root: h.root + "/proc/sys"}}
	uplink := h.uplink
	if all, _ := h.devices(); all == nil {
		uplink = ""
	}
	want, err = host.wantedSysctls(uplink, h.cfg)
	return append(want, host.chosenSysctls(h.cfg)...), host.sysctls, err
}

// readsRelease shows what the kernel's release is, or why it cannot be read.
const readsRelease = "cat /proc/sys/kernel/osrelease"

// checkKernelSettings compares the settings of the sysctl table, and those of [sysctl].
func checkKernelSettings(h *doctorHost) []finding {
	want, sysctls, err := h.wantedSettings()
	if err != nil {
		return []finding{{levelWarn, err.Error(), []string{readsRelease}}}
	}
	var wrong []finding
	for _, s := range sysctls.Check(want) {
		// The kernel prints a list of CPUs in its own form.
		if s.Key == vsSysctls+"est_cpulist" && h.sameCPUs(s.Have, s.Want) {
			continue
		}
		switch have, want := strings.ReplaceAll(s.Have, "\t", " "), strings.ReplaceAll(s.Want, "\t", " "); {
		case s.OK:
		case s.Err != nil:
			wrong = append(wrong, finding{levelWarn, s.Err.Error(), []string{"ls -l '/proc/sys/" + s.Key + "'"}})
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
