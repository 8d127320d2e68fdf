// What another hand does to a VIP's address, and what the controller does then. The
// audit is an hour away in all of it, so that it helps nobody.

package director

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// patientDirector is a director with one static real server and no audit for an hour.
// has waits until a device has both addresses of the VIP, or neither.
func patientDirector(t *testing.T, announce string) (r *rig, has func(device string, want bool)) {
	r = newRig(t)
	r.write("config.toml", strings.Replace(r.configHead(), `audit_interval = "2s"`, `audit_interval = "1h"`, 1)+
		"[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\nports = [80]\nannounce = \""+announce+
		"\"\nreal_servers = [{address = \"10.0.0.11\"}, {address = \"2001:db8::11\"}]\n")
	return r, func(device string, want bool) {
		t.Helper()
		lab.Within(t, 20*time.Second, func() string {
			got, err := r.director.Try("ip", "address", "show", "dev", device)
			if (err == nil || !want) && strings.Contains(got, "10.0.0.100/32") == want && strings.Contains(got, "2001:db8::100/128") == want {
				return ""
			}
			return device + ":\n" + got + r.process.Log()
		})
	}
}

// What is taken away is put back at once, and the neighbours are told again.
func TestKernelAddressTakenAway(t *testing.T) {
	r, has := patientDirector(t, "arp")
	node := r.lab.Host("node", 11)
	node.Serve(80)
	node.Run(controller(), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
	client := r.lab.Host("client", 3)
	served := func(when string) {
		t.Helper()
		for _, url := range []string{"http://10.0.0.100/", "http://[2001:db8::100]/"} {
			lab.Within(t, 10*time.Second, func() string {
				if got := client.Curl(1, url); got["node"] != 1 {
					return when + ": " + url + " is not served"
				}
				return ""
			})
		}
	}
	r.start()
	has("eth0", true)
	served("at first")

	t.Log("step: both are deleted, and the neighbours know another host by the address")
	time.Sleep(5 * time.Second) // the announcements after the start are over
	client.Run("ip", "neighbour", "replace", "10.0.0.100", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
	r.director.Run("ip", "address", "delete", "10.0.0.100/32", "dev", "eth0")
	r.director.Run("ip", "address", "delete", "2001:db8::100/128", "dev", "eth0")
	has("eth0", true)
	lab.Within(t, 10*time.Second, func() string {
		if got := client.Run("ip", "neighbour", "show", "10.0.0.100"); strings.Contains(got, "02:00:00:00:00:99") {
			return "the client has not been told: " + got
		}
		return ""
	})
	served("deleted")

	t.Log("step: the device is set down, which takes its IPv6 addresses")
	r.director.CutLink(true)
	r.ready("NOT READY: the uplink eth0 is down")
	r.director.CutLink(false)
	r.director.Run("ip", "address", "replace", r.director.IPv6.String()+"/64", "dev", "eth0", "nodad")
	has("eth0", true)
	served("down and up")
	if n := r.process.CountLog("VIP address removed"); n > 0 {
		t.Errorf("%d addresses were removed:\n%s", n, r.process.Log())
	}
}

// Where the configuration names no interface, a default route that is gone for a moment
// takes the VIPs nowhere else.
func TestKernelDefaultRouteGone(t *testing.T) {
	r, has := patientDirector(t, "arp")
	r.write("config.toml", strings.Replace(r.read("config.toml"), "interface = \"eth0\"\n", "", 1))
	r.director.Run("ip", "link", "add", "other", "type", "dummy")
	r.director.Run("ip", "link", "set", "other", "up")
	r.director.Run("ip", "address", "add", "10.77.0.1/24", "dev", "other")
	r.director.Run("ip", "route", "add", "default", "via", "10.77.0.2", "dev", "other", "metric", "500")
	r.start()
	has("eth0", true)
	r.director.Run("ip", "route", "delete", "default", "dev", "eth0")
	r.director.Run("ip", "address", "delete", "10.0.0.100/32", "dev", "eth0")
	r.director.Run("ip", "address", "delete", "2001:db8::100/128", "dev", "eth0")
	has("eth0", true)
	has("other", false)
}

// Without what it remembered it takes away what carries its label, from the start
// that does not want it any more and in a clean-up.
func TestKernelAddressForgotten(t *testing.T) {
	r, has := patientDirector(t, "arp")
	forget := func() {
		t.Helper()
		r.process.Kill()
		if err := os.Remove(filepath.Join(r.dir, "state", "state.json")); err != nil {
			t.Fatal(err)
		}
	}
	four := func() bool {
		return strings.Contains(r.director.Run("ip", "address", "show", "dev", "eth0"), "10.0.0.100/32")
	}
	r.start()
	has("eth0", true)
	forget()
	r.write("config.toml", strings.Replace(r.read("config.toml"), `"arp"`, `"none"`, 1))
	r.start()
	lab.Within(t, 20*time.Second, func() string {
		if four() {
			return "the address is still there\n" + r.process.Log()
		}
		return ""
	})

	r.write("config.toml", strings.Replace(r.read("config.toml"), `"none"`, `"arp"`, 1))
	has("eth0", true)
	forget()
	r.subcommand("-cleanup")
	if four() {
		t.Error("clean-up without memory leaves the address")
	}
}

// A dummy device that is taken away is made again. Where another hand makes one by
// that name, with the same addresses, those are not ours to remove.
func TestKernelDummyTakenAway(t *testing.T) {
	r, has := patientDirector(t, "dummy")
	r.start()
	has("lvs0", true)
	r.director.Run("ip", "link", "delete", "lvs0")
	has("lvs0", true)
	r.ready("ready")

	t.Log("step: a second controller, with a state directory of its own, is kept away")
	state := func() string {
		return r.director.Run("ip", "-4", "address", "show") + r.director.Run("ip", "route", "show", "table", "local") + r.director.Table()
	}
	before := state()
	other := filepath.Join(r.dir, "cache", "other")
	r.write("other.toml", "state_dir = \""+other+"\"\ncache_dir = \""+other+"\"\nlisten = \"\"\n[[vip]]\nname = \"other\"\naddresses = [\"10.0.0.200\"]\nports = [80]\nreal_servers = [{address = \"10.0.0.11\"}]\n")
	for _, more := range [][]string{nil, {"-cleanup"}} {
		out, err := r.director.Try(append(append(asUser(r.T, r.dir), controller(), "-config", filepath.Join(r.dir, "other.toml")), more...)...)
		if err == nil || !strings.Contains(err.Error(), "runs in this network namespace") {
			t.Errorf("a second controller, %q: %v\n%s", more, err, out)
		}
	}
	if after := state(); after != before {
		t.Errorf("a second controller has changed\n%s to\n%s", before, after)
	}

	t.Log("step: another hand's device by that name")
	r.process.Send(syscall.SIGSTOP) // it must not be quicker
	r.director.Run("ip", "link", "delete", "lvs0")
	r.director.Run("ip", "link", "add", "lvs0", "type", "dummy")
	r.director.Run("ip", "link", "set", "lvs0", "up")
	for _, a := range []string{"10.0.0.100/32", "2001:db8::100/128"} {
		r.director.Run("ip", "address", "add", a, "dev", "lvs0")
	}
	r.process.Send(syscall.SIGCONT)
	theirs := r.director.Run("ip", "address", "show", "dev", "lvs0")
	r.write("config.toml", strings.Replace(r.read("config.toml"), `"dummy"`, `"arp"`, 1))
	has("eth0", true)
	r.process.Kill()
	r.subcommand("-cleanup")
	has("eth0", false)
	if got := r.director.Run("ip", "address", "show", "dev", "lvs0"); got != theirs {
		t.Errorf("another hand's device has\n%s, and had\n%s", got, theirs)
	}
}

// Who asks is answered while the process waits for routers.
func TestKernelReadyWhileWithdrawing(t *testing.T) {
	r, has := patientDirector(t, "dummy")
	r.write("config.toml", "withdraw_hold = \"15s\"\n"+r.read("config.toml"))
	r.start()
	has("lvs0", true)
	r.process.Send(syscall.SIGTERM)
	r.logged(1, "VIPs are withdrawn from routing")
	r.ready("ready")
	if r.process.Ended() {
		t.Errorf("it has ended at once:\n%s", r.process.Log())
	}
	lab.Within(t, 40*time.Second, func() string {
		if !r.process.Ended() {
			return "it does not end\n" + r.process.Log()
		}
		return ""
	})
}

// What the kernel reports is repaired at once, without an audit: an nftables ruleset
// that is flushed, a table, chain or map of ours that is deleted, a dummy device that is
// set down. SIGHUP repairs what it does not report.
func TestKernelRepairedAtOnce(t *testing.T) {
	r, has := patientDirector(t, "dummy")
	r.write("config.toml", strings.Replace(r.read("config.toml"), "ports = [80]\n", "ports = [80]\none_mark = true\n", 1))
	r.start()
	has("lvs0", true)
	marks := func() string { return r.director.Run("nft", "list", "table", "inet", "lvs-controller") }
	r.logged(1, "firewall marks changed")
	ruleset, table := marks(), r.director.Table()

	repaired := func(what string, whole func() bool) {
		t.Helper()
		start := time.Now()
		for !whole() {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("%s is not repaired:\n%s", what, r.process.Log())
			}
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(start)
		t.Logf("%s: whole again after %v", what, took)
		if took > time.Second {
			t.Errorf("%s: whole again only after %v", what, took)
		}
		time.Sleep(1500 * time.Millisecond) // one repair a second
	}
	for _, change := range [][]string{
		{"flush", "ruleset"},
		{"delete", "table", "inet", "lvs-controller"},
		{"flush", "chain", "inet", "lvs-controller", "input"},
		{"flush", "map", "inet", "lvs-controller", "marks4"},
		{"add", "chain", "inet", "lvs-controller", "other"},
	} {
		r.director.Run(append([]string{"nft"}, change...)...)
		repaired("nft "+strings.Join(change, " "), func() bool {
			out, err := r.director.Try("nft", "list", "table", "inet", "lvs-controller")
			return err == nil && out == ruleset
		})
	}
	r.director.Run("ip", "link", "set", "lvs0", "down")
	repaired("ip link set lvs0 down", func() bool {
		out := r.director.Run("ip", "address", "show", "dev", "lvs0")
		return strings.Contains(out, ",UP") && strings.Contains(out, "10.0.0.100/32") && strings.Contains(out, "2001:db8::100/128")
	})

	r.director.Run("ipvsadm", "-C")
	r.process.Send(syscall.SIGHUP)
	repaired("ipvsadm -C and SIGHUP", func() bool { return r.director.Table() == table })

	t.Log("step: another program's table is of no interest, and a storm of signals of little")
	audits := func() string {
		return r.director.Run("sh", "-c", "curl -s http://127.0.0.1:9652/metrics | grep -E '^lvs_(reconciles|audits)_total'")
	}
	r.director.Run("nft", "add", "table", "inet", "other")
	before := audits()
	for range 20 {
		r.director.Run("nft", "add", "chain", "inet", "other", "a")
		r.director.Run("nft", "delete", "chain", "inet", "other", "a")
	}
	if after := audits(); after != before {
		t.Errorf("changes of another table woke the loop: from %s to %s", before, after)
	}
}
