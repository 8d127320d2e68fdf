package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// manyVIPs are n addresses, of both families, each on a line.
func manyVIPs(n int) string {
	var text strings.Builder
	for i := range n {
		if i%2 == 0 {
			fmt.Fprintf(&text, "10.9.%d.%d\n", i/250, i%250+1)
		} else {
			fmt.Fprintf(&text, "2001:db8:1111:2222:3333:4444:5555:%x\n", 0xf000+i)
		}
	}
	return text.String()
}

// What is beyond the bound is refused with its place.
func TestVIPsBound(t *testing.T) {
	if vips, err := parseVIPsFile("vips", manyVIPs(mostVIPs)+"10.9.0.1 # again\n"); err != nil || len(vips) != mostVIPs {
		t.Errorf("%d VIPs: %v", len(vips), err)
	}
	_, err := parseVIPsFile("vips", manyVIPs(mostVIPs+1))
	if want := fmt.Sprintf("vips:%d: more than %d addresses", mostVIPs+1, mostVIPs); fmt.Sprint(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
	list := func(n int) string { return strings.ReplaceAll(strings.TrimSpace(manyVIPs(n)), "\n", ",") }
	if vips, err := parseVIPs(list(mostVIPs)); err != nil || len(vips) != mostVIPs {
		t.Errorf("%d VIPs: %v", len(vips), err)
	}
	if _, err := parseVIPs(list(mostVIPs + 1)); fmt.Sprint(err) != "more than 1024 addresses" {
		t.Error(err)
	}
}

// The state file of a node with the most VIPs, of the longest addresses, a file and a
// command line, with both ends of a tunnel, can be read again.
func TestRealserverStateBound(t *testing.T) {
	node := newFakeNode(t)
	var first vipsFile
	for owner := range 4 {
		var text strings.Builder
		for i := range mostVIPs {
			fmt.Fprintf(&text, "2001:db8:1111:2222:3333:4444:%x:%x\n", 0x1000+owner, 0xf000+i)
		}
		file := newVIPsFile(t, text.String())
		args := []string{"-vips-file", file.path, "-tunnel", "gue"}
		if owner == 0 {
			first = file
		}
		if owner == 3 {
			args = []string{"-vip", strings.ReplaceAll(strings.TrimSpace(text.String()), "\n", ","), "-tunnel", "gue"}
		}
		if code, _, errs := node.run(args...); code != exitOK {
			t.Fatal(errs)
		}
	}
	info, err := os.Stat(node.state)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes of %d", info.Size(), realserverStateMost)
	lists := node.lists
	first.says("10.0.0.1")
	if code, _, errs := node.run("-vips-file", first.path, "-tunnel", "gue", "-check"); code != exitFailure {
		t.Fatal(errs)
	}
	if listed := node.lists - lists; listed > 5 {
		t.Errorf("a pass has listed a device's addresses %d times", listed)
	}
}

// At the bound, on a real kernel with many devices: all VIPs come, one leaves, and the rest
// leave with the file.
func TestRealserverBoundOnTheWire(t *testing.T) {
	node := newNetns(t)
	node.addDevice(t, "eth0")
	node.run(t, "ip", "address", "add", "10.0.0.11/24", "dev", "eth0")
	node.run(t, "ip", "link", "set", "eth0", "up")
	node.run(t, "ip", "route", "add", "default", "via", "10.0.0.5")
	var devices strings.Builder
	for i := range 50 {
		fmt.Fprintf(&devices, "link add d%d type veth peer name e%d\n", i, i)
	}
	batch := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(batch, []byte(devices.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	node.run(t, "ip", "-batch", batch)
	all := manyVIPs(mostVIPs)
	file := newVIPsFile(t, all)
	state := filepath.Join(t.TempDir(), "state.json")
	realserver := func(args ...string) {
		t.Helper()
		node.do(t, func() {
			var out, errs bytes.Buffer
			line := append([]string{"realserver", "-vips-file", file.path, "-state", state}, args...)
			if code := run(t.Context(), line, &out, &errs); code != exitOK {
				t.Fatalf("%q: exit %d\n%s", args, code, &errs)
			}
		})
	}
	have := func() (n int) {
		t.Helper()
		return strings.Count(node.run(t, "ip", "-o", "address", "show", "dev", "lo"), "\n")
	}
	before := have()
	realserver()
	realserver("-check")
	if n := have() - before; n != mostVIPs {
		t.Errorf("%d VIPs on lo, want %d", n, mostVIPs)
	}
	_, rest, _ := strings.Cut(all, "\n")
	file.says(rest)
	realserver()
	if n := have() - before; n != mostVIPs-1 {
		t.Errorf("%d VIPs on lo after one has left, want %d", n, mostVIPs-1)
	}
	if a := netip.MustParseAddr("10.9.0.1"); strings.Contains(node.run(t, "ip", "-o", "address", "show", "dev", "lo"), " "+a.String()+"/") {
		t.Errorf("%s is still there", a)
	}
	realserver("-remove")
	if n := have() - before; n != 0 {
		t.Errorf("%d VIPs on lo after -remove", n)
	}
}
