package main

import (
	"errors"
	"strings"
	"testing"
)

// A package has the controller below /usr, and keepalived finds it there.
func TestInstalledBinary(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/sbin/lvs-controller":       "/usr/sbin/lvs-controller",
		"/usr/local/sbin/lvs-controller": "/usr/local/sbin/lvs-controller",
		"/usr/bin/lvs-controller":        "/usr/bin/lvs-controller",
		"/root/lvs-controller":           defaultBinary,
		"":                               defaultBinary,
	} {
		if got := installedBinary(path, nil); got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
	if got := installedBinary("/usr/sbin/lvs-controller", errors.New("no /proc")); got != defaultBinary {
		t.Errorf("unknown: %s", got)
	}
}

// A flag with a wrong value is a mistake in the usage, of each command.
func TestWrongFlagValues(t *testing.T) {
	file := writeConfig(t, staticVIP)
	for _, args := range [][]string{
		{"keepalived", "-config", file},
		{"keepalived", "-config", file, "-peer", "x"},
		{"keepalived", "-config", file, "-peer", "192.0.2.9", "-source", "y"},
		{"keepalived", "-config", file, "-peer", "192.0.2.9", "-interface", "eth0", "-router-id", "999"},
		{"keepalived", "-config", file, "-peer", "192.0.2.9", "-interface", "eth0", "-priority", "1"},
		{"keepalived", "-config", file, "-peer", "192.0.2.9", "-interface", "eth0", "-interval", "1h"},
		{"keepalived", "-config", file, "-peer", "192.0.2.9", "-interface", "eth0", "-state", "FOO"},
		{"keepalived", "-config", file, "-peer", "192.0.2.9", "-interface", "eth0", "-state", "MASTER", "-nopreempt"},
		{"keepalived", "-config", file, "-peer", "192.0.2.9", "-interface", "eth0", "-binary", "a b"},
		{"drain", "-config", file, "-wait", "-5s"},
		{"doctor", "-config", file, "-peer", "bogus:::"},
		{"doctor", "-config", file, "-peer", "10.0.0.1:99999999"},
		{"doctor", "-config", file, "-peer", ":9652"},
	} {
		code, stdout, stderr := cli(t, args...)
		if code != exitUsage || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "-") {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
	for _, peer := range []string{"10.0.0.1", "10.0.0.1:1", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:65535", "director-b", "director-b.example:9652"} {
		if !isListener(peer) {
			t.Errorf("-peer %s is refused", peer)
		}
	}
}
