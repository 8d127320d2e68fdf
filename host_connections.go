// The kernel's connection table: how large it may get, how full it is, and whether the
// kernel defends it against a flood.
//
// Used by http*.go, cmd*.go and main.go. Its size is the module's parameter
// conn_tab_bits, which only the module's start sets: the controller loads no module,
// and only says what is to be done. It reads /proc and /sys, and changes nothing.

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/bits"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// connectionTable is what the kernel says of its connection table. 0 is not known.
type connectionTable struct {
	Bits    uint8  `json:"bits"`    // it has 2^Bits buckets, or grows to as many
	Buckets uint64 `json:"buckets"` // now
	// Connections are those in it, of this network namespace, templates of persistence
	// among them; nil = the kernel does not say (before Linux 7).
	Connections *uint64 `json:"connections,omitempty"`
	// Listed are those of all real servers in the status; nil = none is filtered out of it.
	Listed *uint64 `json:"-"`
	// Defences are drop_entry, drop_packet and secure_tcp: true while the kernel drops
	// connections or packets, or has stricter states, because of a flood.
	Defences map[string]bool `json:"flood_defences,omitempty"`
}

// floodDefences are the kernel's settings against floods. Each has a mode from 0 to 3. The
// kernel writes into them: mode 1 becomes 2 when memory is short, and 2 becomes 1 when
// it is not (update_defense_level in net/netfilter/ipvs/ip_vs_ctl.c). 3 is always on.
var floodDefences = []string{"drop_entry", "drop_packet", "secure_tcp"}

const (
	tableParameter = "/sys/module/ip_vs/parameters/conn_tab_bits" // a number
	tableStatus    = "/proc/net/ip_vs_status"                     // since Linux 7
)

// readConnectionTable reads what there is. Without the module ip_vs there is nothing.
func readConnectionTable() connectionTable {
	t := parseConnectionTable(readHead(tableParameter), readHead(tableStatus))
	t.Defences = parseDefences(func(name string) []byte { return readHead("/proc/sys/" + vsSysctls + name) })
	return t
}

// parseDefences says which defences are active. One that cannot be read is left out.
func parseDefences(read func(name string) []byte) map[string]bool {
	active := make(map[string]bool)
	for _, name := range floodDefences {
		if mode, err := strconv.ParseUint(string(bytes.TrimSpace(read(name))), 10, 8); err == nil {
			active[name] = mode >= 2
		}
	}
	return active
}

// readHead returns the beginning of a file of the kernel, which is longer than any
// that is read here; nothing of one that cannot be read.
func readHead(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	head, _ := io.ReadAll(io.LimitReader(f, 4096))
	return head
}

// parseConnectionTable makes sense of the two files. Lines of status are
// "Conns:<tab>9401" and "Conn buckets:<tab>524288 (19 bits, lfactor -5)"
// (ip_vs_status_show in net/netfilter/ipvs/ip_vs_ctl.c).
func parseConnectionTable(parameter, status []byte) (t connectionTable) {
	if n, err := strconv.ParseUint(string(bytes.TrimSpace(parameter)), 10, 8); err == nil && n < 32 {
		t.Bits, t.Buckets = uint8(n), 1<<n
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		text, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		n, err := strconv.ParseUint(text, 10, 64)
		switch {
		case err != nil:
		case name == "Conns":
			t.Connections = &n
		case name == "Conn buckets":
			t.Buckets = n
		}
	}
	return t
}

// mostTableBits is the largest conn_tab_bits that a kernel takes on a host with so many
// bytes of memory. A larger one counts as 12 before Linux 6.5. Since then it counts as the
// largest, which leaves half of the memory for connections of 512 bytes, four to a bucket
// (ip_vs_conn_init).
func mostTableBits(release string, memory uint64) uint8 {
	if !kernelAtLeast(release, [2]int{6, 5}) {
		return 20
	}
	return uint8(min(27, max(8, bits.Len64(max(memory, 1)-1)-12)))
}

// hostMemory is the memory of this host in bytes; none known is as if it were large.
func hostMemory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return math.MaxUint64
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// warn logs that t is smaller than want, and how to change that. What the kernel does not
// take on this host is said if it is more than the default.
func (t connectionTable) warn(log *slog.Logger, want uint8, release string, memory uint64) {
	most := mostTableBits(release, memory)
	if want > most && want > defaultTableBits {
		log.Warn("this kernel takes no conn_tab_bits as large as connection_table_bits", "want", want, "largest", most, "kernel", release)
	}
	if want = min(want, most); t.Bits == 0 || t.Bits >= want {
		return
	}
	log.Warn("the kernel's connection table is smaller than connection_table_bits: with many connections each packet takes more time",
		"buckets", uint64(1)<<t.Bits, "want", uint64(1)<<want,
		"commands", tableCommand(want)+", then restart this host, or see docs/tuning.md")
}

// tableCommand has the kernel make a table of 2^bits buckets when it loads ip_vs.
func tableCommand(bits uint8) string {
	return fmt.Sprintf("echo 'options ip_vs conn_tab_bits=%d' > /etc/modprobe.d/lvs-controller.conf", bits)
}
