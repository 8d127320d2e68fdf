// install/realserver.sh in real network namespaces.

package director

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
)

// realserver.sh in a real namespace, with iproute2 and with nothing but
// BusyBox. What it leaves is what the binary would have left.
func TestRealserverScript(t *testing.T) {
	of(t, "host")
	requireRoot(t)
	eachShell(t, func(t *testing.T, shell []string) {
		ns := namespace(t)
		addDevice(ns, "eth0.100")
		ns.Run("ip", "link", "set", "eth0.100", "up")
		ns.Run("ip", "address", "add", "10.0.0.9/24", "dev", "eth0.100")
		ns.Run("ip", "route", "add", "default", "via", "10.0.0.1")
		before := addressLines(ns.Run("ip", "address"))

		dir, script := t.TempDir(), installed("realserver.sh")
		path := os.Getenv("PATH")
		if len(shell) == 2 {
			path = filepath.Join(dir, "bin")
			busyboxOnly(t, shell[0], path)
		}
		run := func(want int, wantOut string, args ...string) {
			t.Helper()
			line := append([]string{"env", "PATH=" + path, "STATE=" + filepath.Join(dir, "run", "state")}, shell...)
			cmd := ns.Command(append(append(line, script), args...)...)
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != want {
				t.Errorf("%q: exit %d, want %d: %v", args, code, want, err)
			}
			if diff := cmp.Diff(wantOut, string(out)); diff != "" {
				t.Errorf("%q (-want +got):\n%s", args, diff)
			}
		}
		const conf = "/proc/sys/net/ipv4/conf/eth0.100/"
		vips := "10.0.0.77,2001:DB8::77" // a spelling that the kernel does not use
		run(2, "usage: "+script+" start|stop|status VIP[,VIP...] [UPLINK]\n", "start")
		run(1, "realserver: 10.0.0.x is not an address\n", "start", "10.0.0.x")
		run(1, "realserver: there is no device gone0\n", "start", "10.0.0.77", "gone0")
		run(1, conf+"arp_ignore is 0, want 1\n"+conf+"arp_announce is 0, want 2\n"+
			"10.0.0.77 is missing on lo\n2001:db8::77 is missing on lo\n", "status", vips)
		run(0, "nothing to undo\n", "stop", vips)
		run(0, conf+"arp_ignore: 0 -> 1\n"+conf+"arp_announce: 0 -> 2\n"+
			"added 10.0.0.77 on lo\nadded 2001:db8::77 on lo\n", "start", vips)
		run(0, "already in place\n", "start", vips, "eth0.100")
		run(0, "already in place\n", "status", vips)
		shown := ns.Run("ip", "address", "show", "dev", "lo")
		for _, want := range []string{"inet 10.0.0.77/32 scope host ", " lo:lvs\n", "inet6 2001:db8::77/128 scope global ", " deprecated"} {
			if !strings.Contains(shown, want) {
				t.Errorf("no %q in\n%s", want, shown)
			}
		}
		run(0, "added 10.0.0.78 on lo\n", "start", "10.0.0.78")
		run(0, "removed 10.0.0.77 on lo\n", "stop", "10.0.0.77")
		run(0, "removed 10.0.0.78 on lo\n"+conf+"arp_ignore: 1 -> 0\n"+conf+"arp_announce: 2 -> 0\n", "stop", "10.0.0.78")
		run(0, "removed 2001:db8::77 on lo\n", "stop", "2001:db8::77")
		if after := addressLines(ns.Run("ip", "address")); after != before {
			t.Errorf("addresses after stop:\n%s\nbefore:\n%s", after, before)
		}
		if _, err := os.Stat(filepath.Join(dir, "run", "state")); err == nil {
			t.Error("the state file outlived the last VIP")
		}

		// Clients may ask on a second device too, but not on those of containers.
		addDevice(ns, "eth1")
		ns.Run("ip", "link", "add", "cni0", "type", "bridge")
		ns.Run("ip", "link", "add", "br0", "type", "bridge")
		ns.Run("ip", "address", "add", "10.0.1.9/24", "dev", "eth1")
		ns.Run("ip", "address", "add", "10.244.0.1/24", "dev", "cni0")
		for _, device := range []string{"eth1", "cni0", "br0"} {
			ns.Run("ip", "link", "set", device, "up")
		}
		run(1, conf+"arp_ignore is 0, want 1\n"+conf+"arp_announce is 0, want 2\n"+
			"10.0.0.77 is missing on lo\n", "status", "10.0.0.77", "eth0.100")
		eth1, br0 := strings.Replace(conf, "eth0.100", "eth1", 1), strings.Replace(conf, "eth0.100", "br0", 1)
		run(0, conf+"arp_ignore: 0 -> 1\n"+conf+"arp_announce: 0 -> 2\n"+
			eth1+"arp_ignore: 0 -> 1\n"+eth1+"arp_announce: 0 -> 2\n"+
			br0+"arp_ignore: 0 -> 1\n"+br0+"arp_announce: 0 -> 2\n"+"added 10.0.0.77 on lo\n", "start", "10.0.0.77")
		ns.Run("sysctl", "-qw", "net.ipv4.conf.eth1.arp_ignore=0")
		run(1, eth1+"arp_ignore is 0, want 1\n", "status", "10.0.0.77")
		run(0, eth1+"arp_ignore: 0 -> 1\n", "start", "10.0.0.77")
		ns.Run("ip", "link", "del", "br0")
		run(0, "removed 10.0.0.77 on lo\n"+conf+"arp_ignore: 1 -> 0\n"+conf+"arp_announce: 2 -> 0\n"+
			eth1+"arp_ignore: 1 -> 0\n"+eth1+"arp_announce: 2 -> 0\n", "stop", "10.0.0.77")
	})
}

// busyboxOnly fills dir with the commands the script needs, all of BusyBox.
func busyboxOnly(t *testing.T, busybox, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"awk", "cat", "grep", "ip", "mkdir", "mv", "rm", "tr"} {
		if err := os.Symlink(busybox, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// realserver.sh with a tunnel, beside what a CNI plug-in has: its device goes
// on receiving and is left as it was.
func TestKernelRealserverScriptTunnel(t *testing.T) {
	of(t, "kernel")
	t.Parallel()
	ns := namespace(t)
	addDevice(ns, "eth0")
	ns.Run("ip", "link", "set", "eth0", "up")
	ns.Run("ip", "address", "add", "10.0.0.9/24", "dev", "eth0")
	ns.Run("ip", "route", "add", "default", "via", "10.0.0.1")
	ns.Run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1")

	dir := t.TempDir()
	run := func(want int, wantOut string, args ...string) {
		t.Helper()
		cmd := ns.Command(append([]string{"env", "TUNNEL=ipip", "STATE=" + filepath.Join(dir, "state"), "sh", installed("realserver.sh")}, args...)...)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("%q: exit %d, want %d: %v", args, code, want, err)
		}
		if diff := cmp.Diff(wantOut, string(out)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", args, diff)
		}
	}
	const (
		conf    = "/proc/sys/net/ipv4/conf/"
		arpOn   = conf + "eth0/arp_ignore: 0 -> 1\n" + conf + "eth0/arp_announce: 0 -> 2\n"
		arpOff  = conf + "eth0/arp_ignore: 1 -> 0\n" + conf + "eth0/arp_announce: 2 -> 0\n"
		already = "already in place\n"
	)
	run(0, arpOn+"added 10.0.0.77 on lo\nmade lvs-ipip\n"+conf+"lvs-ipip/rp_filter: 1 -> 2\nadded 10.0.0.77 on lvs-ipip\nbrought up lvs-ipip\n"+
		"added 2001:db8::77 on lo\nmade lvs-ip6tnl\nbrought up lvs-ip6tnl\n", "start", "10.0.0.77,2001:db8::77")
	run(0, already, "start", "10.0.0.77,2001:db8::77")
	run(0, already, "status", "10.0.0.77,2001:db8::77")
	run(0, "added 10.0.0.78 on lo\nadded 10.0.0.78 on lvs-ipip\n", "start", "10.0.0.78")
	run(0, "removed 10.0.0.77 on lo\nremoved 10.0.0.77 on lvs-ipip\nremoved 2001:db8::77 on lo\nremoved lvs-ip6tnl\n", "stop", "10.0.0.77,2001:db8::77")
	run(1, "10.0.0.77 is missing on lo\n10.0.0.77 is missing on lvs-ipip\n", "status", "10.0.0.77")
	run(0, "removed 10.0.0.78 on lo\nremoved 10.0.0.78 on lvs-ipip\nremoved lvs-ipip\n"+arpOff, "stop", "10.0.0.78")

	ns.Run("ip", "link", "set", "tunl0", "up")
	ns.Run("ip", "address", "add", "192.168.7.1/32", "dev", "tunl0")
	run(0, arpOn+"added 10.0.0.77 on lo\n"+conf+"tunl0/rp_filter: 1 -> 2\n", "start", "10.0.0.77")
	run(0, "removed 10.0.0.77 on lo\n"+arpOff+conf+"tunl0/rp_filter: 2 -> 1\n", "stop", "10.0.0.77")
	if shown := ns.Run("ip", "-brief", "address", "show"); !strings.Contains(shown, "192.168.7.1/32") || strings.Contains(shown, "10.0.0.77") || strings.Contains(shown, "lvs-") {
		t.Errorf("left by stop:\n%s", shown)
	}
}

// namespace is a machine without a cable.
func namespace(t *testing.T) *lab.Host {
	t.Helper()
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	return l.Namespace("node")
}

// addDevice makes an Ethernet device with its carrier on; its other end is in
// the same namespace. It is left down.
func addDevice(h *lab.Host, name string) {
	h.Run("ip", "link", "add", name, "type", "veth", "peer", "name", name+"-end")
	h.Run("ip", "link", "set", name+"-end", "up")
}

// addressLines is the part of `ip address` that does not change with time.
// The link-local address does: it begins as tentative.
func addressLines(shown string) string {
	var lines []string
	for line := range strings.Lines(shown) {
		if strings.Contains(line, "inet") && !strings.Contains(line, "scope link") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}
