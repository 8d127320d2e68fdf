// What the sub-command doctor reads of a host, and the sets of CPUs in it.
//
// Used by cmd*.go. The files are below one root, so that a test can show another
// host. It only reads. What cannot be read is empty, and each check says what that means.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// mostHostFile is the largest part of a file that is read. /proc/interrupts of 256
	// CPUs has 3 MB.
	mostHostFile = 8 << 20

	// mostDevices bounds the devices below the uplink, mostCPUs the numbers of CPUs.
	mostDevices, mostCPUs = 32, 8192
)

// onlyFlags is a doctorHost's file where flags alone are the configuration.
const onlyFlags = "command line"

// call is a command line of this program with the same configuration.
func (h *doctorHost) call(command string) string {
	line := "lvs-controller " + command
	switch {
	case h.file != onlyFlags:
		return line + " -config " + shellWord(h.file)
	case command == "status": // it needs no configuration
		return line
	}
	var addresses []string
	for _, v := range h.cfg.VIPs {
		for _, a := range v.Addresses {
			addresses = append(addresses, a.String())
		}
	}
	return line + " -vip " + strings.Join(addresses, ",")
}

// read returns the content of a file without the white space around it.
func (h *doctorHost) read(path string) string {
	text, _ := readRegular(h.root+path, mostHostFile)
	return strings.TrimSpace(string(text))
}

// number is a file's content; other if it is not a number.
func (h *doctorHost) number(path string, other uint64) uint64 {
	if n, err := strconv.ParseUint(h.read(path), 10, 64); err == nil {
		return n
	}
	return other
}

// names lists a directory in the order of the numbers at the ends of the names.
func (h *doctorHost) names(dir, prefix string) (names []string) {
	entries, _ := os.ReadDir(h.root + dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	stableBy(names, func(a, b string) int { return len(a) - len(b) })
	return names
}

func (h *doctorHost) release() string { return h.read("/proc/sys/kernel/osrelease") }

// onlineCPUs are the CPUs that run.
func (h *doctorHost) onlineCPUs() cpuSet {
	return parseCPUList(h.read("/sys/devices/system/cpu/online"))
}

const netClass = "/sys/class/net/"

// devices are the uplink and the devices that carry it, from the top down: below a VLAN
// or a bond are the cards. cards has those that have none below them.
func (h *doctorHost) devices() (all, cards []string) {
	if h.uplink == "" || len(h.names(netClass+h.uplink, "")) == 0 {
		return nil, nil
	}
	all = []string{h.uplink}
	for i := 0; i < len(all); i++ {
		card := true
		for _, link := range h.names(netClass+all[i], "lower_") {
			name := strings.TrimPrefix(link, "lower_")
			if len(h.names(netClass+name, "")) == 0 { // in another network namespace
				continue
			}
			if card = false; !slices.Contains(all, name) && len(all) < mostDevices {
				all = append(all, name)
			}
		}
		if card {
			cards = append(cards, all[i])
		}
	}
	return all, cards
}

// cpuSet is a set of CPUs, in ascending order.
type cpuSet []int

// parseCPUList reads "0-3,8". What is no list is an empty set.
func parseCPUList(list string) (set cpuSet) {
	for _, part := range strings.Split(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || first < 0 || last >= mostCPUs {
			return nil
		}
		for cpu := first; cpu <= last; cpu++ {
			set = set.with(cpu)
		}
	}
	return set
}

// parseCPUMask reads "00000001,80000000", which is 31 and 32.
func parseCPUMask(mask string) (set cpuSet) {
	words := strings.Split(mask, ",")
	for i, word := range words {
		n, err := strconv.ParseUint(word, 16, 32)
		if err != nil || len(words) > mostCPUs/32 {
			return nil
		}
		for ; n != 0; n &= n - 1 {
			set = set.with(32*(len(words)-1-i) + bits.TrailingZeros64(n))
		}
	}
	return set
}

func (s cpuSet) with(cpu int) cpuSet {
	i, has := slices.BinarySearch(s, cpu)
	if has {
		return s
	}
	return slices.Insert(s, i, cpu)
}

// and returns the CPUs that are in both sets.
func (s cpuSet) and(o cpuSet) (both cpuSet) {
	for _, cpu := range s {
		if _, has := slices.BinarySearch(o, cpu); has {
			both = append(both, cpu)
		}
	}
	return both
}

// mask is the form that the kernel reads.
func (s cpuSet) mask() string {
	words := make([]uint32, 1)
	for _, cpu := range s {
		for len(words) <= cpu/32 {
			words = append(words, 0)
		}
		words[cpu/32] |= 1 << (cpu % 32)
	}
	last := len(words) - 1
	text := fmt.Sprintf("%x", words[last])
	for _, w := range slices.Backward(words[:last]) {
		text += fmt.Sprintf(",%08x", w)
	}
	return text
}

// hardware is the name of the hardware behind a device, such as "0000:03:00.0" or
// "virtio2"; "" where there is none.
func (h *doctorHost) hardware(device string) string {
	target, err := os.Readlink(h.root + netClass + device + "/device")
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// isAbsent reports whether a file is not there.
func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
