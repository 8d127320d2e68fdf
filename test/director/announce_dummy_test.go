// VIPs on a dummy device (announce = "dummy"): what a routing daemon sees of them over a
// controller's life, and when they go.

package director

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// What a routing daemon sees of announce = "dummy" over a controller's life: the
// addresses on the device. Packets to them are taken in all the while.
func TestKernelDummy(t *testing.T) {
	r := newRig(t)
	const config = "announce = \"dummy\"\nscheduler = \"mh\"\nflags = [\"mh-port\", \"mh-fallback\"]\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\n"
	client := r.lab.Host("client", 3)
	client.Run("ip", "route", "add", "10.0.0.100", "via", "10.0.0.2")
	client.Run("ip", "-6", "route", "add", "2001:db8::100", "via", "2001:db8::2")
	node := r.lab.Host("node", 11)
	node.Serve(80)
	node.Run(controller(), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
	served := func(when string) {
		t.Helper()
		for _, url := range []string{"http://10.0.0.100/", "http://[2001:db8::100]/"} {
			if got := client.Curl(3, url); got["node"] != 3 {
				t.Errorf("%s: %s: %v\n%s", when, url, got, r.director.Run("ipvsadm", "-Lnc"))
			}
		}
	}
	ready := pod{name: "a", node: "n1", ips: []string{"10.0.0.11", "2001:db8::11"}}
	shown := func() string {
		return r.director.Run("sh", "-c", "ip link show dev lvs0 2>&1; ip address show dev lvs0 2>&1 || true")
	}
	// announced waits until the device has both addresses, or neither.
	announced := func(want bool) {
		t.Helper()
		lab.Within(t, 20*time.Second, func() string {
			got := shown()
			if strings.Contains(got, "10.0.0.100/32") == want && strings.Contains(got, "2001:db8::100/128") == want {
				return ""
			}
			return got + r.process.Log()
		})
	}
	t.Log("step: a device of that name of another program is left alone")
	r.director.Run("ip", "link", "add", "lvs0", "type", "dummy")
	before := shown()
	r.objects.pods = []pod{ready}
	r.writeCluster()
	r.edgeConfig(config)
	// No audit helps: what is noticed is noticed by itself.
	r.write("config.toml", strings.Replace(r.read("config.toml"), `audit_interval = "2s"`, `audit_interval = "1h"`, 1))
	r.start()
	r.logged(1, "the device is not ours")
	if after := shown(); after != before {
		t.Errorf("another program's device was changed:\n%s\nbefore:\n%s", after, before)
	}
	r.director.Run("ip", "link", "delete", "lvs0")
	announced(true)
	if got := shown(); !strings.Contains(got, dummyMAC) || !strings.Contains(got, "UP") {
		t.Errorf("the device does not say whose it is, or is down:\n%s", got)
	}
	if got := strings.Fields(r.director.Run("sysctl", "-n", "net.ipv4.vs.sloppy_tcp", "net.ipv4.vs.schedule_icmp")); !slices.Equal(got, []string{"1", "1"}) {
		t.Errorf("sloppy_tcp and schedule_icmp are %s, want 1 and 1", got)
	}
	served("announced")

	t.Log("step: drained by the operator, over a restart")
	r.subcommand("drain")
	if got := shown(); strings.Contains(got, "10.0.0.100") || strings.Contains(got, "2001:db8::100") {
		t.Errorf("drained, and yet announced:\n%s", got)
	}
	r.ready("NOT READY: drained by the operator since 20")
	served("drained")
	r.process.Kill()
	r.start()
	r.ready("NOT READY: drained by the operator since 20")
	announced(false)
	served("drained and restarted")
	r.subcommand("drain", "-undo")
	announced(true)
	r.ready("ready")

	t.Log("step: killed, it leaves the addresses, and the next one takes them as its own")
	r.process.Kill()
	announced(true)
	served("killed")
	r.start()
	r.logged(1, "connected to the kernel's IPVS")
	r.ready("ready")
	announced(true)
	r.logged(0, "VIP address removed")
	table := r.director.Table()

	t.Log("step: told to end, it withdraws first, and the kernel goes on forwarding")
	if err := r.process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	r.logged(1, "VIPs are withdrawn from routing")
	announced(false)
	if got := r.director.Table(); got != table {
		t.Errorf("the table after SIGTERM:\n%s\nbefore:\n%s", got, table)
	}
	r.logged(1, "the kernel goes on forwarding")
	served("ended")
	r.start()
	announced(true)

	t.Log("step: the uplink goes and comes back")
	r.director.CutPort(true)
	announced(false)
	r.logged(1, `withdrawn from routing" why="the uplink eth0 has no carrier"`)
	r.logged(1, `its uplink carries no traffic" why="the uplink eth0 has no carrier"`)
	r.director.CutPort(false)
	announced(true)
	r.logged(1, "the uplink carries traffic again")

	t.Log("step: without its memory it still knows what is its own")
	r.process.Kill()
	if err := os.Remove(filepath.Join(r.dir, "state", "state.json")); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.ready("ready")
	r.subcommand("drain")
	announced(false)
	r.subcommand("drain", "-undo")
	announced(true)

	t.Log("step: a device of another program moves nothing, another one at once")
	edge := r.read("config.toml")
	r.director.Run("ip", "link", "add", "edge1", "type", "dummy")
	r.write("config.toml", "announce_device = \"edge1\"\n"+edge)
	r.logged(1, "the device is not ours")
	if got := r.director.Run("ip", "address", "show", "dev", "lvs0"); !strings.Contains(got, "10.0.0.100/32") || !strings.Contains(got, "2001:db8::100/128") {
		t.Errorf("a name that is taken has moved the VIPs:\n%s", got)
	}
	r.write("config.toml", "announce_device = \"lvs-announce-0\"\nwithdraw_hold = \"0s\"\n"+edge)
	lab.Within(t, 5*time.Second, func() string {
		got := r.director.Run("ip", "address", "show")
		if strings.Contains(got, "10.0.0.100/32") && strings.Contains(got, "2001:db8::100/128") && strings.Contains(got, "lvs-announce-0") && !strings.Contains(got, "lvs0") {
			return ""
		}
		return got + r.process.Log()
	})
	served("on another device")
	if err := r.process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if got := r.director.Run("ip", "address", "show", "dev", "lvs-announce-0"); !strings.Contains(got, "10.0.0.100/32") {
		t.Errorf("withdrawn without a hold:\n%s", got)
	}

	t.Log("step: what is refused of one address does not keep another from its place")
	r.director.Run("ip", "link", "delete", "lvs-announce-0")
	r.director.Run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.lo.disable_ipv6=1")
	r.write("config.toml", edge)
	r.start()
	lab.Within(t, 10*time.Second, func() string {
		if got := shown(); !strings.Contains(got, "10.0.0.100/32") {
			return got + r.process.Log()
		}
		return ""
	})
	r.process.Kill()

	t.Log("step: clean-up leaves nothing")
	r.subcommand("-cleanup")
	if got := r.director.Run("sh", "-c", "ip address show; ip route show table local; ip -6 route show table local"); strings.Contains(got, "10.0.0.100") || strings.Contains(got, "2001:db8::100") || strings.Contains(got, "lvs") {
		t.Errorf("clean-up left:\n%s", got)
	}
}

// dummyMAC is the MAC address by which the controller knows its own dummy device.
const dummyMAC = "02:6c:76:73:00:01"

// An address is not announced before somebody serves it.
func TestKernelDummyWaitsForServers(t *testing.T) {
	r := newRig(t)
	r.edgeConfig("announce = \"dummy\"\n")
	r.start()
	r.logged(1, "connected to the kernel's IPVS")
	addresses := func() string { return r.director.Run("ip", "address", "show") }
	time.Sleep(time.Second)
	if got := addresses(); strings.Contains(got, "10.0.0.100") {
		t.Errorf("announced without a real server in service:\n%s", got)
	}
	r.objects.pods = []pod{{name: "a", node: "n1", ips: []string{"10.0.0.11"}}}
	r.writeCluster()
	lab.Within(t, 10*time.Second, func() string {
		if got := addresses(); !strings.Contains(got, "10.0.0.100/32") {
			return got + r.process.Log()
		}
		return ""
	})
}
