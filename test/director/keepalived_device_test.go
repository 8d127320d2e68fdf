// How `keepalived` finds the device and the addresses of the host that it runs on.

package director

import (
	"strings"
	"testing"
)

// Without a device in the configuration and on the command line the default
// route names it; without that the command refuses.
func TestKeepalivedFindsTheDevice(t *testing.T) {
	of(t, "host")
	requireRoot(t)
	ns := namespace(t)
	ask := func() (code int, stdout, stderr string) {
		return answer(t, ns.Command(controller(), "keepalived", "-config", writeConfig(t, staticVIP), "-peer", "192.0.2.201"))
	}
	if code, stdout, stderr := ask(); code != 1 || stdout != "" || !strings.Contains(stderr, "no interface is known: set interface in the configuration, or give -interface") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	addDevice(ns, "up0")
	ns.Run("ip", "address", "add", "192.0.2.202/24", "dev", "up0")
	ns.Run("ip", "link", "set", "up0", "up")
	ns.Run("ip", "route", "add", "default", "via", "192.0.2.254")
	if code, stdout, stderr := ask(); code != 0 || !strings.Contains(stdout, "\n    interface up0\n") {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, stderr, stdout)
	}
}

// A director whose -peer is its own address would receive nothing, and be master beside
// the other one.
func TestKeepalivedRefusesItself(t *testing.T) {
	of(t, "host")
	requireRoot(t)
	ns := namespace(t)
	addDevice(ns, "up0")
	ns.Run("ip", "address", "add", "192.0.2.202/24", "dev", "up0")
	ns.Run("ip", "address", "add", "2001:db8::202/64", "dev", "up0", "nodad")
	config := writeConfig(t, manyVIPs)
	for _, test := range []struct{ peer, source, says string }{
		{"192.0.2.202", "", "-peer 192.0.2.202: this host has it, want the other director's address"},
		{"192.0.2.202", "192.0.2.201", "-peer 192.0.2.202: this host has it, want the other director's address"},
		{"2001:db8::202", "", "-peer 2001:db8::202: this host has it, want the other director's address"},
		{"192.0.2.201", "192.0.2.202", ""},
		{"2001:db8::201", "", ""},
	} {
		args := []string{controller(), "keepalived", "-config", config, "-peer", test.peer}
		if test.source != "" {
			args = append(args, "-source", test.source)
		}
		code, stdout, stderr := answer(t, ns.Command(args...))
		switch {
		case test.says == "" && (code != 0 || stderr != ""):
			t.Errorf("%q: exit %d, stderr %q", args, code, stderr)
		case test.says != "" && (code != 1 || stdout != "" || stderr != "lvs-controller keepalived: "+test.says+"\n"):
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}
