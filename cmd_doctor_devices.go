// The checks of doctor that are about the devices that carry the uplink, and about how
// the kernel takes packets from them.
//
// Used by cmd_doctor.go. They only read. docs/doctor.md has the reason of each.

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// enoughCPUs is how many of n CPUs have to take packets. The kernel gives a card queues
// for half of the cores by default (netif_get_num_default_rss_queues), which is a quarter
// of the CPUs where a core is two.
func enoughCPUs(n int) int { return min(n, max(2, (n+3)/4)) }

// eachCard collects what look finds of each card below the uplink.
func (h *doctorHost) eachCard(look func(card string) finding) (all []finding) {
	_, cards := h.devices()
	for _, card := range cards {
		f := look(card)
		f.fact = card + ": " + f.fact
		all = append(all, f)
	}
	return all
}

// queues are the sets of CPUs in FILE of each queue of a device.
func (h *doctorHost) queues(card, prefix, file string) (sets []cpuSet) {
	dir := netClass + card + "/queues"
	for _, name := range h.names(dir, prefix) {
		sets = append(sets, parseCPUMask(h.read(filepath.Join(dir, name, file))))
	}
	return sets
}

// checkReceiveQueues counts the CPUs that take packets: one for each queue, or those to
// which RPS passes its packets on.
func checkReceiveQueues(h *doctorHost) []finding {
	online := h.onlineCPUs()
	return h.eachCard(func(card string) finding {
		queues := h.queues(card, "rx-", "rps_cpus")
		facts, _ := h.ethtool(card)
		return judgeReceiveQueues(card, queues, online, facts)
	})
}

// judgeReceiveQueues decides; rps has the CPUs of RPS for each queue.
func judgeReceiveQueues(card string, rps []cpuSet, online cpuSet, facts deviceFacts) finding {
	var spread cpuSet
	takers := 0
	for _, cpus := range rps {
		if cpus = cpus.and(online); len(cpus) == 0 {
			takers++
		}
		for _, cpu := range cpus {
			spread = spread.with(cpu)
		}
	}
	takers = min(takers+len(spread), len(online))
	f := finding{fact: numberOf(len(rps), "queue") + ", RPS off"}
	if len(spread) > 0 {
		f.fact = fmt.Sprintf("%s, RPS to %s", numberOf(len(rps), "queue"), numberOf(len(spread), "CPU"))
	}
	f.fact += fmt.Sprintf(": %d of %s take packets", takers, numberOf(len(online), "CPU"))
	if len(rps) == 0 || takers >= enoughCPUs(len(online)) {
		return f
	}
	f.level = levelWarn
	byRPS := fmt.Sprintf("for q in %s%s/queues/rx-*; do echo %s > $q/rps_cpus; done", netClass, card, online.mask())
	most := min(int(min(facts.ChannelsMax, mostCPUs)), len(online))
	if most <= len(rps) {
		f.commands = []string{byRPS}
		return f
	}
	kind := "rx"
	if facts.Combined {
		kind = "combined"
	}
	f.commands = []string{fmt.Sprintf("ethtool -L %s %s %d", card, kind, most), "# where the driver refuses: " + byRPS}
	return f
}

// checkSendQueues looks for XPS that makes all CPUs wait for one queue. Without XPS the
// kernel sends a packet through the queue with the number of that on which it came.
func checkSendQueues(h *doctorHost) []finding {
	online := h.onlineCPUs()
	return h.eachCard(func(card string) finding {
		return judgeSendQueues(card, h.queues(card, "tx-", "xps_cpus"), online)
	})
}

// judgeSendQueues decides; xps has the CPUs of XPS for each queue.
func judgeSendQueues(card string, xps []cpuSet, online cpuSet) finding {
	used := 0
	var bound cpuSet // CPUs with a queue by XPS
	for _, cpus := range xps {
		if cpus = cpus.and(online); len(cpus) > 0 {
			used++
		}
		for _, cpu := range cpus {
			bound = bound.with(cpu)
		}
	}
	f := finding{fact: numberOf(len(xps), "queue") + ", XPS off"}
	if used > 0 {
		f.fact = fmt.Sprintf("%s, XPS uses %d", numberOf(len(xps), "queue"), used)
	}
	if used == 1 && len(xps) > 1 && len(online) > 1 && len(bound) == len(online) {
		f.level = levelWarn
		f.fact += ": all CPUs wait for one queue"
		f.commands = []string{fmt.Sprintf("for q in %s%s/queues/tx-*; do echo 0 > $q/xps_cpus; done", netClass, card)}
	}
	return f
}

// irq is an interrupt of a device that has come at least once.
type irq struct {
	number string
	cpus   cpuSet // that may get it
}

// checkInterrupts looks whether all interrupts of a card go to one CPU.
func checkInterrupts(h *doctorHost) []finding {
	online, table := h.onlineCPUs(), h.read("/proc/interrupts")
	balanced := false
	return h.eachCard(func(card string) finding {
		var irqs []irq
		for _, number := range interruptsOf(table, card, h.hardware(card)) {
			dir := "/proc/irq/" + number + "/"
			list := h.read(dir + "effective_affinity_list")
			if list == "" {
				list = h.read(dir + "smp_affinity_list")
			}
			irqs = append(irqs, irq{number, parseCPUList(list).and(online)})
		}
		f := judgeInterrupts(irqs, online)
		if f.level != levelOK && !balanced {
			balanced = true
			if !h.runs("irqbalance") {
				f.commands = append([]string{"systemctl start irqbalance    # or, without that package:"}, f.commands...)
			}
		}
		return f
	})
}

// interruptsOf picks from /proc/interrupts those with a count that name the card or the
// hardware behind it.
func interruptsOf(table, card, hardware string) (numbers []string) {
	heading, table, _ := strings.Cut(table, "\n")
	cpus := len(strings.Fields(heading))
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < cpus+2 {
			continue
		}
		number := strings.TrimSuffix(f[0], ":")
		if _, err := strconv.ParseUint(number, 10, 32); err != nil {
			continue
		}
		came := slices.ContainsFunc(f[1:cpus+1], func(n string) bool { return n != "0" })
		name := strings.Join(f[cpus+1:], " ")
		if came && (namesWord(name, card) || hardware != "" && namesWord(name, hardware)) {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// namesWord reports whether text has word with no letter or digit beside it.
func namesWord(text, word string) bool {
	letter := func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return false
		}
		begin, end := from+i, from+i+len(word)
		if (begin == 0 || !letter(text[begin-1])) && (end == len(text) || !letter(text[end])) {
			return true
		}
		from = end
	}
}

// judgeInterrupts decides.
func judgeInterrupts(irqs []irq, online cpuSet) finding {
	var cpus cpuSet
	for _, i := range irqs {
		for _, cpu := range i.cpus {
			cpus = cpus.with(cpu)
		}
	}
	if len(irqs) == 0 {
		return finding{fact: "/proc/interrupts names none"}
	}
	f := finding{fact: fmt.Sprintf("%s to %d of %s", numberOf(len(irqs), "interrupt"), len(cpus), numberOf(len(online), "CPU"))}
	if len(irqs) == 1 || len(cpus) != 1 || len(online) == 1 {
		return f
	}
	f = finding{level: levelWarn, fact: fmt.Sprintf("all %d interrupts go to CPU %d of %d", len(irqs), cpus[0], len(online))}
	for n, i := range irqs {
		f.commands = append(f.commands, fmt.Sprintf("echo %d > /proc/irq/%s/smp_affinity_list", online[n%len(online)], i.number))
	}
	return f
}

// runs reports whether a program of this name runs.
func (h *doctorHost) runs(name string) bool {
	return slices.ContainsFunc(h.names("/proc", ""), func(pid string) bool {
		return pid[0] >= '1' && pid[0] <= '9' && h.read("/proc/"+pid+"/comm") == name
	})
}

const (
	featureLRO = "rx-lro"
	featureGRO = "rx-gro"
)

// checkLRO looks for LRO on the uplink and all devices below it.
func checkLRO(h *doctorHost) []finding {
	all, _ := h.devices()
	var found []finding
	for _, device := range all {
		facts, err := h.ethtool(device)
		switch {
		case err != nil || facts.On == nil:
			found = append(found, unknownFeature(device, err))
		case facts.On[featureLRO]:
			found = append(found, finding{levelFail, device + ": on, so packets are merged that cannot be sent on", []string{"ethtool -K " + device + " lro off"}})
		default:
			found = append(found, finding{fact: device + ": off"})
		}
	}
	return found
}

func unknownFeature(device string, err error) finding {
	if err == nil {
		err = errors.New("the driver does not say")
	}
	return finding{levelWarn, fmt.Sprintf("%s: not known: %v", device, err), []string{"ethtool -k " + device + " | grep receive-offload"}}
}

// checkGRO looks for cards that do not merge packets.
func checkGRO(h *doctorHost) []finding {
	return h.eachCard(func(card string) finding {
		facts, err := h.ethtool(card)
		switch {
		case err != nil || facts.On == nil:
			f := unknownFeature(card, err)
			f.fact = strings.TrimPrefix(f.fact, card+": ")
			return f
		case facts.On[featureGRO]:
			return finding{fact: "on"}
		}
		return finding{levelWarn, "off: each packet of an upload passes IPVS alone", []string{"ethtool -K " + card + " gro on"}}
	})
}

// fewLost is how many packets a young host may lose. The kernel also counts packets for a
// device that goes down as dropped (enqueue_to_backlog), and the first bursts of a boot.
const fewLost = 10

// lossMatters reports whether so many of all packets are lost that clients notice:
// more than 1 in 100,000, and more than a few.
func lossMatters(lost, all uint64) bool { return lost > max(fewLost, all/100_000) }

// checkRings looks for cards that have lost packets because no buffer was free.
func checkRings(h *doctorHost) []finding {
	return h.eachCard(func(card string) finding {
		facts, _ := h.ethtool(card)
		counter := func(name string) uint64 { return h.number(netClass+card+"/statistics/"+name, 0) }
		return judgeRings(card, facts, counter("rx_missed_errors")+counter("rx_fifo_errors"), counter("rx_packets"))
	})
}

// judgeRings decides, by what a card has lost for want of buffers since it is there.
func judgeRings(card string, facts deviceFacts, lost, packets uint64) finding {
	ring := "the driver names no ring size"
	if facts.RX > 0 {
		ring = fmt.Sprintf("%d of %s to receive", facts.RX, numberOf(int(facts.RXMax), "buffer"))
	}
	f := finding{fact: fmt.Sprintf("%s, %d of %s lost", ring, lost, numberOf(int(packets), "packet"))}
	if lossMatters(lost, packets) {
		f.level = levelWarn
		if facts.RX < facts.RXMax {
			f.commands = []string{fmt.Sprintf("ethtool -G %s rx %d    # interrupts the link for a moment", card, facts.RXMax)}
		} else {
			f.commands = []string{"# no larger ring: let more CPUs take packets, see receive queues and interrupts"}
		}
	}
	return f
}

// softnet is what /proc/net/softnet_stat says of all CPUs since the boot.
type softnet struct{ processed, dropped, squeezed uint64 }

// readSoftnet adds up the lines, one for each CPU, of hexadecimal columns: packets,
// packets dropped, and times at which the budget was used up (softnet_seq_show).
func (h *doctorHost) readSoftnet() (s softnet) {
	for line := range strings.Lines(h.read("/proc/net/softnet_stat")) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		for i, sum := range []*uint64{&s.processed, &s.dropped, &s.squeezed} {
			n, _ := strconv.ParseUint(f[i], 16, 64)
			*sum += n
		}
	}
	return s
}

// netCore is where the kernel has the settings of receiving. They exist only in the first
// network namespace.
const netCore = "/proc/sys/net/core/"

// setNetCore is the command that sets settings of netCore. In another network namespace it
// enters the one of the first process.
func (h *doctorHost) setNetCore(settings string) []string {
	command := "sysctl -w " + settings
	if h.read(netCore+"netdev_max_backlog") == "" {
		command = "nsenter -t 1 -n " + command
	}
	return []string{command}
}

// checkBacklog looks for packets that were dropped because a CPU's backlog was full.
func checkBacklog(h *doctorHost) []finding {
	s, most := h.readSoftnet(), h.number(netCore+"netdev_max_backlog", 1000)
	fact := fmt.Sprintf("%d of %s dropped since the boot", s.dropped, numberOf(int(s.processed), "packet"))
	if !lossMatters(s.dropped, s.processed) {
		return allWell("%s", fact)
	}
	return []finding{{levelWarn, fact + fmt.Sprintf(", netdev_max_backlog is %d", most),
		h.setNetCore(fmt.Sprintf("net.core.netdev_max_backlog=%d", 4*most))}}
}

// fewSqueezed is how often a budget may be used up while a host starts.
const fewSqueezed = 100

// checkBudget looks for CPUs that often stop receiving with packets left. Each such time
// took at most netdev_budget packets.
func checkBudget(h *doctorHost) []finding {
	s, budget, usecs := h.readSoftnet(), h.number(netCore+"netdev_budget", 300), h.number(netCore+"netdev_budget_usecs", 8000)
	fact := fmt.Sprintf("used up %s for %s", numberOf(int(s.squeezed), "time"), numberOf(int(s.processed), "packet"))
	if s.squeezed < fewSqueezed || s.squeezed*budget <= s.processed/10 {
		return allWell("%s", fact)
	}
	return []finding{{levelWarn, fact + fmt.Sprintf(", netdev_budget is %d in %d µs", budget, usecs),
		h.setNetCore(fmt.Sprintf("net.core.netdev_budget=%d net.core.netdev_budget_usecs=%d", 2*budget, 2*usecs))}}
}
