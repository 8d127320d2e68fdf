// The factors, one at a time.

package datapath

import (
	"encoding/json"
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
	flows := guest.LongOr(b, []int{1_000, 100_000, 600_000, 2_000_000}, []int{5_000})
	for _, bits := range []int{20, 12} {
		withTable(t, bits)
		m := newMeter(b)
		for _, n := range flows {
			if bits == 12 && n > 600_000 {
				break // minutes for the flows to begin
			}
			w := base(b)
			w.factor, w.bits, w.flows = "flows", bits, n
			w.apart = bits == 20 && n <= 600_000
			m.measure(w)
		}
		m.close()
	}
	withTable(t, 20)
}

// A tunnel wraps each packet into another one.
func TestBenchPathForwarding(t *testing.T) {
	b := guest.New(t)
	m := newMeter(b)
	defer m.close()
	methods := []struct {
		name, vip, want string
		more            int
	}{
		{"dr", "", " -g ", 0},
		{"ipip", "forward = \"tunnel\"", "--tun-type ipip", 20},
		{"gue", "forward = \"tunnel\"\n[vip.tunnel]\ntype = \"gue\"", "--tun-type gue", 20 + 8 + 4},
		{"gre", "forward = \"tunnel\"\n[vip.tunnel]\ntype = \"gre\"", "--tun-type gre", 20 + 4},
	}
	for _, f := range guest.LongOr(b, methods, methods[1:]) {
		w := base(b)
		w.factor, w.name, w.vip, w.want, w.more = "forwarding", f.name, f.vip, f.want, f.more
		m.measure(w)
	}
}

// A scheduler looks for a real server once for each new flow.
func TestBenchPathSchedulers(t *testing.T) {
	b := guest.New(t)
	m := newMeter(b)
	defer m.close()
	for _, scheduler := range guest.LongOr(b, []string{"rr", "wlc", "sh", "mh"}, []string{"wlc", "mh"}) {
		for _, servers := range guest.LongOr(b, []int{10, 100, 1_000}, []int{100}) {
			w := base(b)
			w.factor, w.name, w.servers = "scheduler", scheduler, servers
			w.vip = fmt.Sprintf("scheduler = %q", scheduler)
			m.measure(w)
		}
	}
}

// Persistence and marks have their own steps for each new flow, and marks an nftables
// rule for each packet. With [sync] each flow is sent to the other director, every ten
// seconds at the most.
func TestBenchPathFeatures(t *testing.T) {
	b := guest.New(t)
	m := newMeter(b)
	defer m.close()
	many := base(b).flows
	features := []struct {
		name, vip string
		sync      bool
		flows     int
	}{
		{"none", "", false, many},
		{"none", "", false, 1_000},
		{"[sync]", "", true, 1_000},
		{"persistence", "[vip.persistence]", false, many},
		{"groups, with persistence", fmt.Sprintf("groups = [[\"%d/udp\", \"%d/udp\"]]", port, port+1), false, many},
		{"one_mark", "one_mark = true", false, many},
		{"[sync]", "", true, many},
	}
	for _, f := range guest.LongOr(b, features, features[4:]) {
		w := base(b)
		w.factor, w.name, w.vip, w.flows = "feature", f.name, f.vip, f.flows
		if f.sync {
			w.head = "[sync]\ninterface = \"cable\"\n"
			w.prepare = func(r *rig) {
				r.director.Batch("link add cable type dummy", "link set cable up", "address add 10.9.0.1/24 dev cable")
			}
			w.check = synced
		}
		m.measure(w)
	}
}

// synced fails when nothing was sent to the other director.
func synced(r *rig, _ int) {
	r.Helper()
	lab.Within(r.T, 5*time.Second, func() string {
		var links []struct {
			Stats struct{ TX struct{ Packets int } } `json:"stats64"`
		}
		lab.Must(r.T, json.Unmarshal([]byte(r.director.Run("ip", "-s", "-j", "link", "show", "cable")), &links))
		if len(links) != 1 || links[0].Stats.TX.Packets < 10 {
			return fmt.Sprintf("the sync daemon has sent too little: %+v", links)
		}
		return ""
	})
}

// A firewall that looks at the state of connections makes the kernel track them: in
// direct routing it makes an entry for each packet and discards it.
func TestBenchPathTracking(t *testing.T) {
	b := guest.New(t)
	m := newMeter(b)
	defer m.close()
	for _, w := range trackings(b) {
		w.apart = true
		m.measure(w)
	}
}

// trackings are the base without connection tracking, with it, and with the VIP exempted.
func trackings(b *guest.Benchmark) (ways []way) {
	kinds := []struct{ name, rules, vip, state string }{
		{"untracked", "", "", ""},
		{"tracked", firewall, "", "new"},
		{"notrack", firewall, "notrack = true\n", "untracked"},
	}
	for _, f := range guest.LongOr(b, kinds, kinds[1:]) {
		w := base(b)
		w.factor, w.name, w.vip = "connection tracking", f.name, f.vip
		if f.rules != "" {
			w.prepare = func(r *rig) { r.nft(f.rules) }
			w.check = func(r *rig, packets int) {
				if n := r.counted(f.state); n != packets {
					r.Fatalf("%s: the firewall has seen %d packets in state %s, want %d", f.name, n, f.state, packets)
				}
			}
		}
		ways = append(ways, w)
	}
	return ways
}

// firewall is one that looks at states, and counts them.
const firewall = `
table inet firewall {
	counter new {}
	counter untracked {}
	chain input {
		type filter hook input priority filter
		ct state established,related accept
		ct state new counter name "new"
		ct state untracked counter name "untracked"
	}
}
`

// options is where the guest's kernel has the size of the connection table from.
const options = "/etc/modprobe.d/lvs-controller.conf"

// withTable loads the module ip_vs with a connection table of 2^bits buckets.
func withTable(t *testing.T, bits int) {
	t.Helper()
	if _, err := os.Stat(options); err != nil {
		t.Fatalf("not a separate virtual machine (LVS_VM=always): %v", err)
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
