package main

import (
	"strings"
	"testing"
)

// Without a device in the configuration and on the command line the default
// route names it; without that the command refuses.
func TestKeepalivedFindsTheDevice(t *testing.T) {
	ns := newNetns(t)
	ask := func() (code int, stdout, stderr string) {
		ns.do(t, func() {
			code, stdout, stderr = cli(t, "keepalived", "-config", writeConfig(t, staticVIP), "-peer", "192.0.2.201")
		})
		return code, stdout, stderr
	}
	if code, stdout, stderr := ask(); code != 1 || stdout != "" || !strings.Contains(stderr, "no interface is known: set interface in the configuration, or give -interface") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	ns.addDevice(t, "up0")
	ns.run(t, "ip", "address", "add", "192.0.2.202/24", "dev", "up0")
	ns.run(t, "ip", "link", "set", "up0", "up")
	ns.run(t, "ip", "route", "add", "default", "via", "192.0.2.254")
	if code, stdout, stderr := ask(); code != 0 || !strings.Contains(stdout, "\n    interface up0\n") {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, stderr, stdout)
	}
}
