package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// realserver.sh in a real namespace, with iproute2 and with nothing but
// BusyBox. What it leaves is what the binary would have left.
func TestRealserverScript(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		ns := newNetns(t)
		ns.addDevice(t, "eth0.100")
		ns.run(t, "ip", "link", "set", "eth0.100", "up")
		ns.run(t, "ip", "address", "add", "10.0.0.9/24", "dev", "eth0.100")
		ns.run(t, "ip", "route", "add", "default", "via", "10.0.0.1")
		before := addressLines(ns.run(t, "ip", "address"))

		dir := t.TempDir()
		path := os.Getenv("PATH")
		if len(shell) == 2 {
			path = filepath.Join(dir, "bin")
			busyboxOnly(t, shell[0], path)
		}
		run := func(want int, wantOut string, args ...string) {
			t.Helper()
			line := append([]string{"netns", "exec", string(ns), "env", "PATH=" + path, "STATE=" + filepath.Join(dir, "run", "state")}, shell...)
			cmd := exec.Command("ip", append(append(line, "install/realserver.sh"), args...)...)
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
		run(2, "usage: install/realserver.sh start|stop|status VIP[,VIP...] [UPLINK]\n", "start")
		run(1, "realserver: 10.0.0.x is not an address\n", "start", "10.0.0.x")
		run(1, "realserver: there is no device gone0\n", "start", "10.0.0.77", "gone0")
		run(1, conf+"arp_ignore is 0, want 1\n"+conf+"arp_announce is 0, want 2\n"+
			"10.0.0.77 is missing on lo\n2001:db8::77 is missing on lo\n", "status", vips)
		run(0, "nothing to undo\n", "stop", vips)
		run(0, conf+"arp_ignore: 0 -> 1\n"+conf+"arp_announce: 0 -> 2\n"+
			"added 10.0.0.77 on lo\nadded 2001:db8::77 on lo\n", "start", vips)
		run(0, "already in place\n", "start", vips, "eth0.100")
		run(0, "already in place\n", "status", vips)
		shown := ns.run(t, "ip", "address", "show", "dev", "lo")
		for _, want := range []string{"inet 10.0.0.77/32 scope host lo:lvs", "inet6 2001:db8::77/128 scope global deprecated"} {
			if !strings.Contains(shown, want) {
				t.Errorf("no %q in\n%s", want, shown)
			}
		}
		run(0, "added 10.0.0.78 on lo\n", "start", "10.0.0.78")
		run(0, "removed 10.0.0.77 on lo\n", "stop", "10.0.0.77")
		run(0, "removed 10.0.0.78 on lo\n"+conf+"arp_ignore: 1 -> 0\n"+conf+"arp_announce: 2 -> 0\n", "stop", "10.0.0.78")
		run(0, "removed 2001:db8::77 on lo\n", "stop", "2001:db8::77")
		if after := addressLines(ns.run(t, "ip", "address")); after != before {
			t.Errorf("addresses after stop:\n%s\nbefore:\n%s", after, before)
		}
		if _, err := os.Stat(filepath.Join(dir, "run", "state")); err == nil {
			t.Error("the state file outlived the last VIP")
		}
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
