// The three ways to prepare a node do the same: install/realserver.sh, the binary, and the
// binary with -watch, each on a node of its own with the same devices.

package director

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
)

// way is a node, and the way in which it is prepared.
type way struct {
	*lab.Host
	name string
	// prepare gives the node these VIPs beside those that it has, and has the devices
	// of this moment guarded. remove undoes some.
	prepare, remove func(vips string)
	// check is the exit code of what only looks at the node.
	check   func(vips string) int
	busybox bool // the test is about the script with BusyBox
	// patience is how long the effect of prepare and remove may take.
	patience time.Duration
}

// wayVIPs are the VIPs of a file, with more and without those that go.
func wayVIPs(have []string, more, gone string) []string {
	all := slices.Clone(have)
	for vip := range strings.SplitSeq(strings.ToLower(more), ",") {
		if vip != "" && !slices.Contains(all, vip) {
			all = append(all, vip)
		}
	}
	return slices.DeleteFunc(all, func(vip string) bool { return slices.Contains(strings.Split(gone, ","), vip) })
}

// ways are three nodes without a cable. The tunnel, if it is not empty, is a type that
// the script knows.
func ways(t *testing.T, tunnel string, shell []string) []*way {
	t.Helper()
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	dir := t.TempDir()
	code := func(h *lab.Host, args ...string) int {
		t.Helper()
		cmd := h.Command(args...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatalf("%q: %v", args, err)
		}
		t.Logf("%s: %q: exit %d\n%s", h.Name, args[len(args)-2:], cmd.ProcessState.ExitCode(), out)
		return cmd.ProcessState.ExitCode()
	}
	must := func(h *lab.Host, args ...string) {
		t.Helper()
		if got := code(h, args...); got != 0 {
			t.Fatalf("%s: %q: exit %d", h.Name, args, got)
		}
	}

	script := &way{Host: l.Namespace("script"), name: "the script"}
	path := os.Getenv("PATH")
	if len(shell) == 2 {
		path = filepath.Join(dir, "bin")
		busyboxOnly(t, shell[0], path)
	}
	call := append([]string{"env", "PATH=" + path, "TUNNEL=" + tunnel, "STATE=" + filepath.Join(dir, "script.state")}, append(shell, installed("realserver.sh"))...)
	script.prepare = func(vips string) { t.Helper(); must(script.Host, append(slices.Clone(call), "start", vips)...) }
	script.remove = func(vips string) { t.Helper(); must(script.Host, append(slices.Clone(call), "stop", vips)...) }
	script.check = func(vips string) int { return code(script.Host, append(slices.Clone(call), "status", vips)...) }

	binary := &way{Host: l.Namespace("binary"), name: "the binary"}
	line := []string{controller(), "realserver", "-tunnel", tunnel, "-state", filepath.Join(dir, "binary.json"), "-vip"}
	binary.prepare = func(vips string) { t.Helper(); must(binary.Host, append(slices.Clone(line), vips)...) }
	binary.remove = func(vips string) { t.Helper(); must(binary.Host, append(slices.Clone(line), vips, "-remove")...) }
	binary.check = func(vips string) int { return code(binary.Host, append(slices.Clone(line), vips, "-check")...) }
	all := []*way{binary, script, watcher(t, l, dir, tunnel, code)}
	for _, n := range all {
		n.busybox = len(shell) == 2
	}
	return all
}

// watcher is the binary that watches its node, with a file of VIPs.
func watcher(t *testing.T, l *lab.Lab, dir, tunnel string, code func(*lab.Host, ...string) int) *way {
	w := &way{Host: l.Namespace("watch"), name: "the binary that watches", patience: 10 * time.Second}
	file, state := filepath.Join(dir, "vips"), filepath.Join(dir, "watch.json")
	var vips []string
	var process *lab.Process
	say := func() {
		text := strings.Join(vips, "\n") + "\n"
		if len(vips) == 0 {
			text = "none\n"
		}
		lab.Must(t, os.WriteFile(file+".new", []byte(text), 0o644))
		lab.Must(t, os.Rename(file+".new", file))
		if process == nil {
			process = w.Start(controller(), "realserver", "-watch", "-vips-file", file, "-tunnel", tunnel, "-state", state)
		}
	}
	w.prepare = func(more string) {
		if all := wayVIPs(vips, more, ""); len(all) > len(vips) { // it guards new devices by itself
			vips = all
			say()
		}
	}
	w.remove = func(gone string) { vips = wayVIPs(vips, "", gone); say() }
	w.check = func(vips string) int {
		return code(w.Host, controller(), "realserver", "-tunnel", tunnel, "-state", state, "-check", "-vip", vips)
	}
	t.Cleanup(func() {
		if process == nil {
			return
		}
		if err := process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("%s: %v\n%s", w.name, err, process.Log())
		}
		if t.Failed() {
			t.Log(process.Log())
		}
	})
	return w
}

// state is all that a way may change of the node: addresses, devices, routes, and the
// settings of every device, without what the kernel does by itself. Addresses of the link differ between two nodes.
func (n *way) state() string {
	var lines []string
	for line := range strings.Lines(n.Run("ip", "-o", "address", "show")) {
		if !strings.Contains(line, "scope link") {
			_, line, _ = strings.Cut(line, ": ")
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
	}
	slices.Sort(lines)
	devices := n.Run("sh", "-c", `ip -o link show | awk '{ sub(/[@:].*/, "", $2); print $2, ($3 ~ /[<,]UP[,>]/ ? "up" : "down") }' | sort`)
	routes := n.Run("sh", "-c", `{ ip -4 route show table all; ip -6 route show table all; } | grep -v -e fe80: -e ^multicast | sed 's/ linkdown//' | sort`)
	// A node that removes a device takes its settings away while they are read: they are read again.
	settings := n.Run("sh", "-c", `cd /proc/sys/net/ipv4/conf || exit
for try in 1 2 3 4 5; do all=$(grep . */arp_ignore */arp_announce */arp_filter */rp_filter) && { echo "$all"; exit; }; done
exit 1`)
	all := strings.Join(lines, "\n") + "\n" + devices + routes + settings
	if n.busybox { // it does not know the flags that keep a needless route away
		all = strings.NewReplacer(" nodad", "", " noprefixroute", "", " tentative", "", "2001:db8::77 dev lo proto kernel metric 256 pref medium\n", "").Replace(all)
	}
	return all
}

// wayStep is what happens to each node, in this order. A list of VIPs has commas.
type wayStep struct {
	name            string
	commands        string // of another program, on the node
	prepare, remove string
	check           string
	code            int // of check
	has, lacks      []string
	same            string // the step whose state is here again
}

// compareWays makes the steps, and compares each node after each of them with the first one.
func compareWays(t *testing.T, nodes []*way, steps []wayStep) {
	t.Helper()
	states := make(map[string]string)
	for _, s := range steps {
		for _, n := range nodes {
			if s.commands != "" {
				n.Run("sh", "-ec", s.commands)
			}
			if s.prepare != "" {
				n.prepare(s.prepare)
			}
			if s.remove != "" {
				n.remove(s.remove)
			}
			if n == nodes[0] {
				states[s.name] = n.state()
			}
			lab.Within(t, n.patience, func() string {
				if wrong := s.wrong(states, n.state()); wrong != "" {
					return fmt.Sprintf("%s: %s\n%s", s.name, n.name, wrong)
				}
				return ""
			})
			if s.check == "" {
				continue
			}
			if got := n.check(s.check); got != s.code {
				t.Errorf("%s: %s: a look at %s ends with %d, want %d", s.name, n.name, s.check, got, s.code)
			}
		}
	}
}

// wrong says how a node's state differs from what the step wants, and from the first node's.
func (s *wayStep) wrong(states map[string]string, state string) string {
	var text string
	if diff := cmp.Diff(states[s.name], state); diff != "" {
		text += "is not as the first node (-first +this):\n" + diff
	}
	for _, want := range s.has {
		if !strings.Contains(state, want) {
			text += "no " + want + "\n"
		}
	}
	for _, not := range s.lacks {
		if strings.Contains(state, not) {
			text += "still " + not + "\n"
		}
	}
	if diff := cmp.Diff(states[s.same], state); s.same != "" && diff != "" {
		text += "is not as in the step " + s.same + " (-then +now):\n" + diff
	}
	return text
}

// wayDevices are those of a node: the uplink, and one of each kind that a way has to tell
// from the others. eth1 is up later.
const wayDevices = `cable() { ip link add $1 type veth peer name $1-end; ip link set $1-end up; }
cable eth0; cable eth1; cable pod1; cable port1
ip link add cni0 type bridge
ip link add br0 type bridge
ip link add link eth0 name mv0 type macvlan mode bridge
ip link set port1 master br0
for d in eth0 pod1 port1 cni0 br0 mv0; do ip link set $d up; done
ip address add 10.0.0.9/24 dev eth0
ip address add 10.0.1.9/24 dev eth1
ip address add 10.244.0.1/24 dev cni0
ip route add default via 10.0.0.1
# Stricter than what a node needs.
sysctl -qw net.ipv4.conf.br0.arp_ignore=2
`

// wayLife is from the first VIP to the last.
var wayLife = []wayStep{
	{name: "a VIP of each family", prepare: "10.0.0.77,2001:DB8::77", check: "10.0.0.77,2001:db8::77",
		has: []string{"lo inet 10.0.0.77/32 scope host", "lo:lvs", "lo inet6 2001:db8::77/128 scope global",
			"eth0/arp_ignore:1\n", "eth0/arp_announce:2\n", "mv0/arp_ignore:1\n", "br0/arp_ignore:2\n", "br0/arp_announce:2\n"},
		lacks: []string{"cni0/arp_ignore:1", "pod1/arp_ignore:1", "port1/arp_ignore:1", "eth1/arp_ignore:1", "all/arp_ignore:1", "default/arp_ignore:1"}},
	{name: "a device is up later, and one is made later", commands: "ip link set eth1 up; ip link add br1 type bridge; ip link set br1 up", prepare: "10.0.0.77,2001:db8::77",
		has: []string{"eth1/arp_ignore:1\n", "eth1/arp_announce:2\n", "br1/arp_ignore:1\n"}, check: "10.0.0.77,2001:db8::77"},
	{name: "one more", prepare: "10.0.0.78", has: []string{"10.0.0.77/32", "10.0.0.78/32"}, check: "10.0.0.77,10.0.0.78"},
	{name: "a device goes", commands: "ip link del br1"},
	{name: "one goes", remove: "10.0.0.77", has: []string{"10.0.0.78/32", "eth1/arp_ignore:1\n"}, lacks: []string{"10.0.0.77/32"}, check: "10.0.0.77", code: 1},
	{name: "the last of IPv4 goes", remove: "10.0.0.78", has: []string{"2001:db8::77/128", "br0/arp_ignore:2\n"}, lacks: []string{"/arp_ignore:1", "/arp_announce:2", "10.0.0.78/32"}},
	{name: "the last goes", remove: "2001:db8::77", lacks: []string{"2001:db8::77"}},
	{name: "again", prepare: "10.0.0.77", has: []string{"10.0.0.77/32", "eth1/arp_ignore:1\n"}},
	{name: "and back", remove: "10.0.0.77", same: "the last goes"},
}

// wayDrift is what other programs do meanwhile: where nothing watches, it lasts until the
// next call.
var wayDrift = []wayStep{
	{name: "two VIPs", prepare: "10.0.0.77,10.0.0.78"},
	{name: "a setting, a VIP and a device", commands: "sysctl -qw net.ipv4.conf.eth1.arp_ignore=0; ip address del 10.0.0.77/32 dev lo; ip link add br1 type bridge; ip link set br1 up",
		has: []string{"eth1/arp_ignore:0\n", "br1/arp_ignore:0\n"}, lacks: []string{"10.0.0.77/32"}, check: "10.0.0.77,10.0.0.78", code: 1},
	{name: "repaired", prepare: "10.0.0.77,10.0.0.78", has: []string{"eth1/arp_ignore:1\n", "br1/arp_ignore:1\n", "10.0.0.77/32"}, check: "10.0.0.77,10.0.0.78"},
	{name: "undone after another program", commands: "sysctl -qw net.ipv4.conf.eth1.arp_announce=1; ip address del 10.0.0.77/32 dev lo; ip link del br1", remove: "10.0.0.78",
		has: []string{"eth1/arp_announce:1\n", "eth0/arp_announce:0\n"}, lacks: []string{"/arp_ignore:1", "10.0.0.78/32"}},
	{name: "an address of another program is the VIP", commands: "sysctl -qw net.ipv4.conf.eth1.arp_announce=0; ip address add 10.0.0.79/24 dev lo", prepare: "10.0.0.79",
		has: []string{"10.0.0.79/24", "eth0/arp_ignore:1\n"}, lacks: []string{"10.0.0.79/32"}, check: "10.0.0.79"},
	{name: "it stays", remove: "10.0.0.79", has: []string{"10.0.0.79/24"}, lacks: []string{"/arp_ignore:1"}},
	{name: "back", commands: "ip address del 10.0.0.79/24 dev lo", same: "before"},
}

// The script, the binary and the binary that watches leave the same addresses and settings.
func TestRealserverWays(t *testing.T) {
	of(t, "host")
	requireRoot(t)
	eachShell(t, func(t *testing.T, shell []string) {
		devices := wayDevices
		if len(shell) == 2 { // BusyBox does not know the types of devices
			devices = strings.Replace(devices, "link eth0 name mv0 type macvlan mode bridge", "mv0 type bridge", 1)
		}
		compareWays(t, ways(t, "", shell), append([]wayStep{{name: "before", commands: devices}}, wayLife...))
		compareWays(t, ways(t, "", shell)[:2], append([]wayStep{{name: "before", commands: devices + "ip link set eth1 up"}}, wayDrift...))
	})
}

// wayTunnels are the kinds of devices that a container's kernel may lack, and the ends of
// tunnels, also where a device of another program is the end.
var wayTunnels = []wayStep{
	{name: "before", commands: wayDevices + `cable eth2
ip link add vrf0 type vrf table 10
ip link add bond0 type bond
ip link add link eth0 name eth0.5 type vlan id 5
ip link add dummy9 type dummy
ip link set eth2 master vrf0
for d in eth2 vrf0 bond0 eth0.5 dummy9; do ip link set $d up; done
ip address add 10.0.2.9/24 dev eth2
sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.tunl0.rp_filter=1
`},
	{name: "a VIP of each family", prepare: "10.0.0.77,2001:db8::77", check: "10.0.0.77,2001:db8::77",
		has:   []string{"eth2/arp_ignore:1\n", "bond0/arp_ignore:1\n", "eth0.5/arp_ignore:1\n", "lvs-ipip inet 10.0.0.77/32", "lvs-ipip/rp_filter:2\n", "lvs-ip6tnl"},
		lacks: []string{"dummy9/arp_ignore:1"}},
	{name: "one more", prepare: "10.0.0.78", has: []string{"lvs-ipip inet 10.0.0.78/32"}},
	{name: "one goes", remove: "10.0.0.77", has: []string{"lvs-ipip inet 10.0.0.78/32"}, lacks: []string{"10.0.0.77/32"}},
	{name: "the last go", remove: "10.0.0.78,2001:db8::77", same: "before"},
	{name: "tunl0 is in use without an address", commands: "ip link set tunl0 up"},
	{name: "two VIPs through it", prepare: "10.0.0.77,10.0.0.78", has: []string{"tunl0 inet 10.0.0.77/32", "tunl0 inet 10.0.0.78/32", "tunl0/rp_filter:2\n"}, lacks: []string{"lvs-ipip"}, check: "10.0.0.77,10.0.0.78"},
	{name: "one of them goes", remove: "10.0.0.77", has: []string{"tunl0 inet 10.0.0.78/32", "tunl0/rp_filter:2\n"}, check: "10.0.0.78"},
	{name: "the other goes", remove: "10.0.0.78", same: "tunl0 is in use without an address"},
}

// The same with tunnels, and with kinds of devices that not every kernel has.
func TestKernelRealserverWays(t *testing.T) {
	of(t, "kernel")
	t.Parallel()
	for _, module := range []string{"ipip", "ip6_tunnel", "ip_gre", "ip6_gre", "vrf", "bonding", "8021q", "dummy"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			t.Fatalf("modprobe %s: %v\n%s", module, err, out)
		}
	}
	compareWays(t, ways(t, "ipip", []string{"sh"}), wayTunnels)
}
