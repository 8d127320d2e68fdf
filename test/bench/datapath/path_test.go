// The factors, one at a time.

package datapath

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/bench/guest"
	"lvs-controller/test/lab"
)

// base is the way from which one factor at a time differs.
func base(b *guest.Benchmark) way {
	return way{name: "dr", flows: guest.LongOr(b, 100_000, 5_000), bits: 20, servers: 10}
}

// The kernel looks a packet's connection up in a table of a fixed size.
func TestBenchPathFlows(t *testing.T) {
	b := guest.New(t)
	flows := guest.LongOr(b, []int{1_000, 100_000, 600_000, 2_000_000}, []int{1_000, 5_000})
	for _, bits := range []int{20, 12} {
		withTable(t, bits)
		m := newMeter(b)
		if bits == 20 {
			m.sender()
		}
		for _, n := range flows {
			if bits == 12 && n > 600_000 {
				break // minutes for the flows to begin
			}
			w := base(b)
			w.factor, w.bits, w.flows = "flows", bits, n
			m.measure(w)
		}
		m.close()
	}
	withTable(t, 20)
}

// options is where the guest's kernel has the size of the connection table from.
const options = "/etc/modprobe.d/lvs-controller.conf"

// withTable loads the module ip_vs with a connection table of 2^bits buckets.
func withTable(t *testing.T, bits int) {
	t.Helper()
	if _, err := os.Stat(options); err != nil {
		t.Fatalf("not a virtual machine of its own (LVS_VM=always): %v", err)
	}
	lab.Must(t, os.WriteFile(options, fmt.Appendf(nil, "options ip_vs conn_tab_bits=%d\n", bits), 0o644))
	// The module is in use until the kernel has taken the namespaces apart.
	lab.Within(t, 2*time.Minute, func() string {
		modules, err := os.ReadFile("/proc/modules")
		lab.Must(t, err)
		line := []string{"-r"}
		for module := range strings.Lines(string(modules)) {
			if name, _, _ := strings.Cut(module, " "); strings.HasPrefix(name, "ip_vs_") {
				line = append(line, name)
			}
		}
		if out, err := exec.Command("modprobe", append(line, "ip_vs")...).CombinedOutput(); err != nil {
			return fmt.Sprintf("modprobe %q: %v: %s", line, err, out)
		}
		return ""
	})
	lab.Must(t, exec.Command("modprobe", "ip_vs").Run())
	have, err := os.ReadFile("/sys/module/ip_vs/parameters/conn_tab_bits")
	lab.Must(t, err)
	if got := strings.TrimSpace(string(have)); got != fmt.Sprint(bits) {
		t.Fatalf("conn_tab_bits is %s, want %d", got, bits)
	}
}
