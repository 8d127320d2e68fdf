package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// vipsFile is a file with VIPs that a test changes.
type vipsFile struct {
	*testing.T
	path string
}

func (f vipsFile) says(text string) {
	f.Helper()
	if err := os.WriteFile(f.path, []byte(text), 0o644); err != nil {
		f.Fatal(err)
	}
}

func newVIPsFile(t *testing.T, text string) vipsFile {
	f := vipsFile{t, filepath.Join(t.TempDir(), "vips")}
	f.says(text)
	return f
}

// -remove undoes what the file has listed and what it lists, whatever has become of it, and
// -check names what the file has given up.
func TestRealserverRemoveOwned(t *testing.T) {
	for name, tt := range map[string]struct {
		become func(vipsFile)
		want   []string // changes of -remove
		warns  string
		check  string // what -check says before
	}{
		"the same": {func(vipsFile) {}, []string{"remove 10.0.0.1 on lo", "remove 10.0.0.2 on lo"}, "", "already in place\n"},
		"changed": {func(f vipsFile) { f.says("10.0.0.2\n10.0.0.3") }, []string{"remove 10.0.0.2 on lo", "remove 10.0.0.1 on lo"}, "",
			"10.0.0.3 on lo is missing\n10.0.0.1 on lo should be gone: it has left FILE\n"},
		"none":  {func(f vipsFile) { f.says("none") }, []string{"remove 10.0.0.1 on lo", "remove 10.0.0.2 on lo"}, "", "10.0.0.1 on lo should be gone: it has left FILE\n10.0.0.2 on lo should be gone: it has left FILE\n"},
		"wrong": {func(f vipsFile) { f.says("10.0.0") }, []string{"remove 10.0.0.1 on lo", "remove 10.0.0.2 on lo"}, "FILE:1: ", ""},
		"gone":  {func(f vipsFile) { os.Remove(f.path) }, []string{"remove 10.0.0.1 on lo", "remove 10.0.0.2 on lo"}, "FILE", ""},
	} {
		t.Run(name, func(t *testing.T) {
			node, file := newFakeNode(t), newVIPsFile(t, "10.0.0.1\n10.0.0.2")
			node.changes(t, "-vips-file", file.path)
			tt.become(file)
			short := func(s string) string { return strings.ReplaceAll(s, file.path, "FILE") }
			if code, out, _ := node.run("-vips-file", file.path, "-check"); short(out) != tt.check || (code == exitOK) != (out == "already in place\n") {
				t.Errorf("-check: exit %d\n%s", code, out)
			}
			code, _, errs := node.run("-vips-file", file.path, "-remove")
			if code != exitOK || !strings.Contains(short(errs), tt.warns) || (tt.warns == "") != (errs == "") {
				t.Errorf("-remove: exit %d\n%s", code, errs)
			}
			if diff := cmp.Diff(tt.want, node.takeCalls()); diff != "" {
				t.Errorf("-remove (-want +got):\n%s", diff)
			}
			if _, err := os.Stat(node.state); !errors.Is(err, os.ErrNotExist) || node.arp(t) != "0 1" {
				t.Errorf("after -remove: state %v, ARP settings %q", err, node.arp(t))
			}
		})
	}
}

// Two owners may have the same file name. A VIP that one gives up stays for the other, and
// -remove of an owner needs no file.
func TestRealserverOwners(t *testing.T) {
	node, file := newFakeNode(t), newVIPsFile(t, "10.0.0.1\n10.0.0.2")
	node.changes(t, "-vips-file", file.path)
	const second = "daemonset/edge/realserver"
	if diff := cmp.Diff([]string(nil), node.changes(t, "-vips-file", file.path, "-owner", second)); diff != "" {
		t.Errorf("the same file for another owner (-want +got):\n%s", diff)
	}
	file.says("10.0.0.2")
	code, out, _ := node.run("-vips-file", file.path, "-owner", second)
	if want := "10.0.0.1 on lo stays: " + file.path + " needs it\nalready in place\n"; code != exitOK || out != want {
		t.Errorf("exit %d\n%s\nwant\n%s", code, out, want)
	}
	if code, out, _ := node.run("-vips-file", file.path, "-owner", second); code != exitOK || out != "already in place\n" {
		t.Errorf("it is said again: exit %d\n%s", code, out)
	}
	code, out, _ = node.run("-remove", "-owner", file.path)
	if want := "removed 10.0.0.1 on lo\n10.0.0.2 on lo stays: " + second + " needs it\n"; code != exitOK || out != want {
		t.Errorf("the first owner: exit %d\n%s", code, out)
	}
	if code, out, _ = node.run("-remove", "-owner", "unknown"); code != exitOK || out != "nothing to undo\n" {
		t.Errorf("an owner without VIPs: exit %d\n%s", code, out)
	}
	node.takeCalls()
	if diff := cmp.Diff([]string{"remove 10.0.0.2 on lo"}, node.changes(t, "-remove", "-owner", second)); diff != "" {
		t.Errorf("the last owner (-want +got):\n%s", diff)
	}
	for want, args := range map[string][]string{
		"-owner is for":        {"-vip", "10.0.0.1", "-owner", "x"},
		`-owner "a b": want`:   {"-vips-file", file.path, "-owner", "a b"},
		`want 1 to 253 letter`: {"-vips-file", file.path, "-owner", strings.Repeat("x", 254)},
	} {
		if code, _, errs := node.run(args...); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%q: exit %d\n%s", args, code, errs)
		}
	}
}

// The state files of versions without -owner have the paths of the files in its place.
func TestRealserverFormerState(t *testing.T) {
	node, file := newFakeNode(t), newVIPsFile(t, "10.0.0.2")
	old := `{"files":{"` + file.path + `":[{"device":"lo","address":"10.0.0.1"},{"device":"lo","address":"10.0.0.2"}]},"sysctls":[{"key":"net/ipv4/conf/eth0/arp_ignore","before":"0","after":"1"}]}`
	if err := errors.Join(os.MkdirAll(filepath.Dir(node.state), 0o755), os.WriteFile(node.state, []byte(old), 0o600)); err != nil {
		t.Fatal(err)
	}
	node.devices["lo"] = []deviceAddress{{Address: netip.MustParseAddr("10.0.0.1")}, {Address: netip.MustParseAddr("10.0.0.2")}}
	if diff := cmp.Diff([]string{"remove 10.0.0.1 on lo"}, node.changes(t, "-vips-file", file.path)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The state file of an earlier version is moved, and replaces none.
func TestMoveState(t *testing.T) {
	dir := t.TempDir()
	former, path := filepath.Join(dir, "former"), filepath.Join(dir, "state")
	say := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	moveState(former, path) // there is none
	for _, step := range []struct {
		mode os.FileMode // of former
		want string      // what the state says after it
	}{{0o622, ""}, {0o600, "former"}, {0o600, "mine"}} {
		say(former, "former")
		if err := os.Chmod(former, step.mode); err != nil {
			t.Fatal(err)
		}
		moveState(former, path)
		if text, _ := os.ReadFile(path); string(text) != step.want {
			t.Errorf("mode %#o: the state is %q, want %q", step.mode, text, step.want)
		}
		if step.want == "former" {
			say(path, "mine")
		}
	}
}

// A second watch for the same owner ends at once. One for another owner does not, and the end
// of the first frees it.
func TestRealserverLockOwner(t *testing.T) {
	state := filepath.Join(t.TempDir(), "run", "realserver.json")
	of := func(owner string) *realserver { return &realserver{owner: owner, state: nodeState{path: state}} }
	release, err := of("a").lockOwner()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := of("a").lockOwner(); !errors.Is(err, errWatched) {
		t.Fatalf("the same owner: %v", err)
	}
	other, err := of("b").lockOwner()
	if err != nil {
		t.Errorf("another owner: %v", err)
	}
	defer other()
	pass, err := of("b").lock() // which is another lock of the same file
	if err != nil {
		t.Fatal(err)
	}
	pass()
	node, file := newFakeNode(t), newVIPsFile(t, "10.0.0.1")
	node.state = state
	code, out, errs := node.run("-watch", "-vips-file", file.path, "-owner", "a")
	if code != exitFailure || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "a: another process watches this node for this owner") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	release()
	again, err := of("a").lockOwner()
	if err != nil {
		t.Errorf("after the end of the first: %v", err)
	}
	again()
}

// Where /run has no room, what has been saved is repaired all the same: a pass that changes
// nothing in the state makes no file.
func TestWatchWithoutRoom(t *testing.T) {
	n := watchNode(t, newFakeNode(t))
	n.says("10.0.0.1")
	if _, err := n.w.pass(); err != nil {
		t.Fatal(err)
	}
	n.takeCalls()
	inode := func(path string) uint64 {
		t.Helper()
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			t.Fatal(err)
		}
		return stat.Ino
	}
	dir := filepath.Dir(n.state)
	before := [...]uint64{inode(n.state), inode(dir)}
	var then unix.Stat_t
	if err := unix.Stat(dir, &then); err != nil {
		t.Fatal(err)
	}
	n.devices["lo"] = nil
	n.setARP("eth0", "0")
	n.pass("a repair", nil, []string{"add 10.0.0.1 on lo"}, nodeDrift+eth0Ignore+" is 0, want 1", nodeDrift+"10.0.0.1 on lo is missing", nodeChange+eth0Ignore+": 0 -> 1", nodeChange+"added 10.0.0.1 on lo")
	var now unix.Stat_t
	if err := unix.Stat(dir, &now); err != nil {
		t.Fatal(err)
	}
	if after := [...]uint64{inode(n.state), inode(dir)}; after != before || now.Mtim != then.Mtim {
		t.Errorf("the pass has written to the state's directory: %v, then %v; %v, then %v", before, after, then.Mtim, now.Mtim)
	}
	requireRoot(t) // to mount a file system without room
	full := t.TempDir()
	if err := unix.Mount("full", full, "tmpfs", 0, "nr_inodes=4,size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(full, 0) })
	n = watchNode(t, newFakeNode(t))
	n.w.node.state.path = filepath.Join(full, "realserver.json")
	n.says("10.0.0.1")
	if _, err := n.w.pass(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if os.WriteFile(filepath.Join(full, "filler"+string(rune('0'+i))), nil, 0o600) != nil {
			break
		}
	}
	n.devices["lo"] = nil
	n.takeCalls()
	n.pass("a repair on a full /run", nil, []string{"add 10.0.0.1 on lo"}, nodeDrift+"10.0.0.1 on lo is missing", nodeChange+"added 10.0.0.1 on lo")
	n.says("10.0.0.2")
	n.log.Reset()
	if _, err := n.w.pass(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a change of the state on a full /run: %v", err)
	}
}
