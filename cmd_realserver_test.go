package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// fakeNode is a node with a default route and a /proc/sys of files.
type fakeNode struct {
	*fakeTable
	*fakeTunnels
	proc  procSys
	state string // path of the state file

	others *[]string // devices beside eth0 that may lead to clients
}

func (n fakeNode) ARPDevices() ([]string, error) { return append([]string{"eth0"}, *n.others...), nil }

func newFakeNode(t *testing.T) fakeNode {
	proc, _ := fakeProcSys(t, map[string]string{
		"net/ipv4/conf/eth0/arp_ignore":       "0",
		"net/ipv4/conf/eth0/arp_announce":     "1",
		"net/ipv4/conf/eth0.100/arp_ignore":   "2",
		"net/ipv4/conf/eth0.100/arp_announce": "2",
		"net/ipv4/conf/all/rp_filter":         "1",
		"kernel/osrelease":                    "6.1.0",
	})
	table := &fakeTable{devices: map[string][]deviceAddress{"lo": nil, "dummy0": nil, "eth0": nil}}
	return fakeNode{
		fakeTable:   table,
		fakeTunnels: &fakeTunnels{table: table, proc: proc, kinds: make(map[string][]tunnelDevice)},
		proc:        proc,
		state:       filepath.Join(t.TempDir(), "run", "realserver.json"),
		others:      new([]string),
	}
}

// task is a call of the command on this node.
func (n fakeNode) task() task {
	return &realserverTask{open: func() (nodeNetwork, error) { return n, nil }}
}

// run is one run of the command: its exit code and both outputs.
func (n fakeNode) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = realserverCommand.call(context.Background(), n.task(), append(args, "-proc", n.proc.Root, "-state", n.state), &out, &errs)
	return code, out.String(), errs.String()
}

func (n fakeNode) arp(t *testing.T) string {
	t.Helper()
	var values []string
	for _, name := range []string{"arp_ignore", "arp_announce"} {
		v, err := n.proc.read("net/ipv4/conf/eth0/" + name)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	return strings.Join(values, " ")
}

func TestRealserverUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string // in stderr
	}{
		{nil, 2, "no address given"},
		{[]string{"-vip", "10.0.0"}, 2, "10.0.0"},
		{[]string{"-vip", "10.0.0.1,"}, 2, "unable to parse"},
		{[]string{"-vip", "127.0.0.1"}, 2, "not a global unicast address"},
		{[]string{"-vip", "fe80::1%eth0"}, 2, "not a global unicast address"},
		{[]string{"-vip", "224.0.0.18"}, 2, "not a global unicast address"},
		{[]string{"-vip", "10.0.0.1", "extra"}, 2, `unexpected argument "extra"`},
		{[]string{"-vip", "10.0.0.1", "-remove", "-check"}, 2, "exclude each other"},
		{[]string{"-vip", "10.0.0.1", "-dev", "eth0", "-uplink", "eth0"}, 2, "must not be the uplink"},
		{[]string{"-nonsense"}, 2, "-nonsense"},
		{[]string{"-h"}, 0, ""},
		// The default route's device is only known later: no usage error.
		{[]string{"-vip", "10.0.0.1", "-dev", "eth0"}, 1, "eth0 has the default route"},
		{[]string{"-vip", "10.0.0.1", "-uplink", "gone0"}, 1, "gone0/arp_ignore"},
		{[]string{"-vip", "10.0.0.1", "-dev", "gone0"}, 1, "device gone0: no such device"},
	} {
		node := newFakeNode(t)
		var out, errs bytes.Buffer
		code := realserverCommand.call(t.Context(), node.task(), append([]string{"-proc", node.proc.Root, "-state", node.state}, tt.args...), &out, &errs)
		if code != tt.code || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%q: exit %d, want %d with %q:\n%s", tt.args, code, tt.code, tt.want, &errs)
		}
		if code == exitUsage && (strings.Count(errs.String(), "\n") != 1 || out.Len() > 0) {
			t.Errorf("%q: want one line, and nothing on stdout:\n%s%s", tt.args, &errs, &out)
		}
		if calls := node.takeCalls(); calls != nil || node.arp(t) != "0 1" {
			t.Errorf("%q changed the node: %v, ARP %s", tt.args, calls, node.arp(t))
		}
	}
}

func TestRealserverLife(t *testing.T) {
	node := newFakeNode(t)
	step := func(name string, args []string, wantCode int, wantOut string, wantCalls []string, wantARP string) {
		t.Helper()
		code, out, errs := node.run(args...)
		if code != wantCode {
			t.Errorf("%s: exit %d, want %d\n%s", name, code, wantCode, errs)
		}
		if diff := cmp.Diff(wantOut, out); diff != "" {
			t.Errorf("%s: output (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(wantCalls, node.takeCalls()); diff != "" {
			t.Errorf("%s: addresses (-want +got):\n%s", name, diff)
		}
		if got := node.arp(t); got != wantARP {
			t.Errorf("%s: ARP settings %q, want %q", name, got, wantARP)
		}
	}
	why := sysctlsFor(useNode, "eth0", "")
	const last = "this lasts until the next boot: run the same command at every boot\n"
	both := []string{"-vip", "10.0.0.1, 2001:db8::1,10.0.0.1"}

	step("check before", append(both, "-check"), 1,
		"net/ipv4/conf/eth0/arp_ignore is 0, want 1: "+why[0].Why+"\n"+
			"net/ipv4/conf/eth0/arp_announce is 1, want 2: "+why[1].Why+"\n"+
			"10.0.0.1 on lo is missing\n2001:db8::1 on lo is missing\n", nil, "0 1")
	step("undo before", append(both, "-remove"), 0, "nothing to undo\n", nil, "0 1")
	step("prepare", both, 0,
		"net/ipv4/conf/eth0/arp_ignore: 0 -> 1: "+why[0].Why+"\n"+
			"net/ipv4/conf/eth0/arp_announce: 1 -> 2: "+why[1].Why+"\n"+
			"added 10.0.0.1 on lo\nadded 2001:db8::1 on lo\n"+last,
		[]string{"add 10.0.0.1 on lo", "add 2001:db8::1 on lo"}, "1 2")
	step("prepare again", both, 0, "already in place\n", nil, "1 2")
	step("check after", append(both, "-check"), 0, "already in place\n", nil, "1 2")
	step("another VIP", []string{"-vip", "10.0.0.2"}, 0, "added 10.0.0.2 on lo\n"+last, []string{"add 10.0.0.2 on lo"}, "1 2")
	step("undo the first", append(both, "-remove"), 0, "removed 10.0.0.1 on lo\nremoved 2001:db8::1 on lo\n",
		[]string{"remove 10.0.0.1 on lo", "remove 2001:db8::1 on lo"}, "1 2")
	step("undo the last", []string{"-vip", "10.0.0.2", "-remove"}, 0,
		"removed 10.0.0.2 on lo\n"+
			"net/ipv4/conf/eth0/arp_ignore: 1 -> 0: as it was before\n"+
			"net/ipv4/conf/eth0/arp_announce: 2 -> 1: as it was before\n",
		[]string{"remove 10.0.0.2 on lo"}, "0 1")
	if _, err := os.Stat(node.state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file outlived the last VIP: %v", err)
	}
	step("IPv6 alone", []string{"-vip", "2001:db8::1"}, 0, "added 2001:db8::1 on lo\n"+last,
		[]string{"add 2001:db8::1 on lo"}, "0 1")
	step("IPv4 beside it", []string{"-vip", "10.0.0.3"}, 0,
		"net/ipv4/conf/eth0/arp_ignore: 0 -> 1: "+why[0].Why+"\n"+
			"net/ipv4/conf/eth0/arp_announce: 1 -> 2: "+why[1].Why+"\n"+
			"added 10.0.0.3 on lo\n"+last, []string{"add 10.0.0.3 on lo"}, "1 2")
	step("the same on another device", []string{"-vip", "10.0.0.3", "-dev", "dummy0"}, 0,
		"added 10.0.0.3 on dummy0\n"+last, []string{"add 10.0.0.3 on dummy0"}, "1 2")
	step("undo on lo", []string{"-vip", "10.0.0.3", "-remove"}, 0,
		"removed 10.0.0.3 on lo\n", []string{"remove 10.0.0.3 on lo"}, "1 2")
	step("undo the last IPv4", []string{"-vip", "10.0.0.3", "-dev", "dummy0", "-remove"}, 0,
		"removed 10.0.0.3 on dummy0\n"+
			"net/ipv4/conf/eth0/arp_ignore: 1 -> 0: as it was before\n"+
			"net/ipv4/conf/eth0/arp_announce: 2 -> 1: as it was before\n",
		[]string{"remove 10.0.0.3 on dummy0"}, "0 1")
	step("stricter settings stay", []string{"-vip", "10.0.0.1", "-uplink", "eth0.100"}, 0,
		"added 10.0.0.1 on lo\n"+last, []string{"add 10.0.0.1 on lo"}, "0 1")
}

// Each device that may lead to clients is guarded, also one that is added later, and
// -remove puts back the settings of all. -uplink names the only one.
func TestRealserverGuardsEachDevice(t *testing.T) {
	node := newFakeNode(t)
	node.devices["eth0.100"] = nil
	args := []string{"-vip", "10.0.0.1"}
	node.changes(t, args...)
	*node.others = []string{"eth0.100"}
	if err := node.proc.write("net/ipv4/conf/eth0.100/arp_ignore", "0"); err != nil {
		t.Fatal(err)
	}
	want := "net/ipv4/conf/eth0.100/arp_ignore is 0, want 1: " + sysctlsFor(useNode, "eth0.100", "")[0].Why + "\n"
	if code, out, _ := node.run(append(args, "-check")...); code != 1 || out != want {
		t.Errorf("-check: exit %d\n%s\nwant exit 1\n%s", code, out, want)
	}
	if code, out, _ := node.run(append(args, "-check", "-uplink", "eth0")...); code != 0 {
		t.Errorf("-check -uplink eth0: exit %d\n%s", code, out)
	}
	if code, out, errs := node.run(append(args, "-check", "-dev", "eth0.100")...); code != 1 || strings.Contains(out, "arp_ignore") {
		t.Errorf("-check -dev eth0.100: exit %d\n%s%s", code, out, errs)
	}
	for _, step := range []struct{ arg, want string }{{"-uplink=", "1"}, {"-remove", "0"}} {
		node.changes(t, append(args, step.arg)...)
		if got, err := node.proc.read("net/ipv4/conf/eth0.100/arp_ignore"); got != step.want || err != nil {
			t.Errorf("%s: arp_ignore of eth0.100 is %q, want %s (%v)", step.arg, got, step.want, err)
		}
	}
	if got := node.arp(t); got != "0 1" {
		t.Errorf("ARP settings of eth0 after -remove: %q", got)
	}
}

// A setting that another program changed meanwhile is not restored.
func TestRealserverUndoLeavesForeignChange(t *testing.T) {
	node := newFakeNode(t)
	if code, _, errs := node.run("-vip", "10.0.0.1"); code != 0 {
		t.Fatal(errs)
	}
	if err := node.proc.write("net/ipv4/conf/eth0/arp_ignore", "8"); err != nil {
		t.Fatal(err)
	}
	code, out, errs := node.run("-vip", "10.0.0.1", "-remove")
	if code != 0 || !strings.Contains(out, "net/ipv4/conf/eth0/arp_ignore left at 8") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if got := node.arp(t); got != "8 1" {
		t.Errorf("ARP settings %q, want %q", got, "8 1")
	}
}

// Preparing again after a foreign change does not forget the first value.
func TestRealserverKeepsFirstValue(t *testing.T) {
	node := newFakeNode(t)
	for range 2 {
		if code, _, errs := node.run("-vip", "10.0.0.1"); code != 0 {
			t.Fatal(errs)
		}
		if err := node.proc.write("net/ipv4/conf/eth0/arp_ignore", "3"); err != nil {
			t.Fatal(err)
		}
	}
	node.run("-vip", "10.0.0.1") // 3 -> 1
	_, out, _ := node.run("-vip", "10.0.0.1", "-remove")
	if n := strings.Count(out, "arp_ignore"); n != 1 {
		t.Errorf("undo speaks of arp_ignore %d times, want once:\n%s", n, out)
	}
	if got := node.arp(t); got != "0 1" {
		t.Errorf("ARP settings after undo %q, want %q", got, "0 1")
	}
}

// A run that is cut short after the settings can still be undone.
func TestRealserverFailureKeepsState(t *testing.T) {
	node := newFakeNode(t)
	node.fail = map[VIPAddress]error{vipOn("lo", "10.0.0.1"): unix.EPERM}
	code, _, errs := node.run("-vip", "10.0.0.1")
	if code != 1 || !strings.Contains(errs, "hint: run it as root") {
		t.Errorf("exit %d\n%s", code, errs)
	}
	if got := node.arp(t); got != "1 2" {
		t.Fatalf("ARP settings %q, want %q", got, "1 2")
	}
	node.fail = nil
	if code, _, errs := node.run("-vip", "10.0.0.1", "-remove"); code != 0 {
		t.Errorf("undo: exit %d\n%s", code, errs)
	}
	if got := node.arp(t); got != "0 1" {
		t.Errorf("ARP settings after undo %q, want %q", got, "0 1")
	}
}

func TestRealserverBrokenState(t *testing.T) {
	node := newFakeNode(t)
	if err := os.MkdirAll(filepath.Dir(node.state), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(node.state, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, errs := node.run("-vip", "10.0.0.1")
	if code != 1 || !strings.Contains(errs, node.state) {
		t.Errorf("exit %d, want 1 and the file's name\n%s", code, errs)
	}
	if calls := node.takeCalls(); calls != nil || node.arp(t) != "0 1" {
		t.Errorf("the node was changed without a state to undo it: %v", calls)
	}
}

// A prepared node accepts what is sent to the VIP, answers from the VIP, and
// does not answer ARP or neighbour discovery for it.
func TestRealserverOnTheWire(t *testing.T) {
	node, client := newNetns(t), newNetns(t)
	vethPair(t, node, "eth0.100", client, "eth0")
	node.run(t, "ip", "address", "add", "10.0.0.11/24", "dev", "eth0.100")
	node.run(t, "ip", "address", "add", "2001:db8::11/64", "dev", "eth0.100", "nodad")
	node.run(t, "ip", "route", "add", "default", "via", "10.0.0.1")
	client.run(t, "ip", "address", "add", "10.0.0.5/24", "dev", "eth0")
	client.run(t, "ip", "address", "add", "2001:db8::5/64", "dev", "eth0", "nodad")
	before := addressLines(node.run(t, "ip", "address"))

	state := filepath.Join(t.TempDir(), "realserver.json")
	realserver := func(want int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		node.do(t, func() {
			args := append([]string{"-vip", "10.0.0.77,2001:db8::77", "-state", state}, args...)
			if code := run(t.Context(), append([]string{"realserver"}, args...), &out, &errs); code != want {
				t.Errorf("%q: exit %d, want %d\n%s%s", args, code, want, &out, &errs)
			}
		})
		return out.String()
	}
	realserver(1, "-check")
	if out := realserver(0); strings.Count(out, "\n") != 5 {
		t.Errorf("four changes and a hint, want 5 lines:\n%s", out)
	}
	if out := realserver(0); out != "already in place\n" {
		t.Errorf("second run: %q", out)
	}
	realserver(0, "-check")

	// The node answers for its own address, and not for the VIP.
	if !answersFor(t, client, "10.0.0.11") {
		t.Error("the node does not answer for its own address")
	}
	for _, addr := range []string{"10.0.0.77", "2001:db8::77"} {
		if answersFor(t, client, addr) {
			t.Errorf("the node answers for %s", addr)
		}
	}
	// The director's part, by hand: frames for the VIP to the node's MAC.
	port := node.listen(t)
	mac := strings.TrimSpace(node.run(t, "cat", "/sys/class/net/eth0.100/address"))
	for _, addr := range []string{"10.0.0.77", "2001:db8::77"} {
		client.run(t, "ip", "neighbor", "replace", addr, "lladdr", mac, "dev", "eth0", "nud", "permanent")
		if err := client.connect(t, addr, port); err != nil {
			t.Errorf("the node does not serve the VIP: %v", err)
		}
		client.run(t, "ip", "neighbor", "delete", addr, "dev", "eth0")
	}

	realserver(0, "-remove")
	if after := addressLines(node.run(t, "ip", "address")); after != before {
		t.Errorf("addresses after -remove:\n%s\nbefore:\n%s", after, before)
	}
	for _, name := range []string{"arp_ignore", "arp_announce"} {
		if got := node.run(t, "cat", "/proc/sys/net/ipv4/conf/eth0.100/"+name); got != "0\n" {
			t.Errorf("%s after -remove is %q, want 0", name, got)
		}
	}
}

// A node with two devices on the clients' segment answers for the VIP on neither.
func TestRealserverSecondDevice(t *testing.T) {
	node, client := newNetns(t), newNetns(t)
	client.run(t, "ip", "link", "add", "eth0", "type", "bridge")
	client.run(t, "ip", "address", "add", "10.0.0.5/24", "dev", "eth0")
	client.run(t, "ip", "link", "set", "eth0", "up")
	for i, name := range []string{"eth0", "eth1"} {
		vethPair(t, node, name, client, "port"+name)
		client.run(t, "ip", "link", "set", "port"+name, "master", "eth0")
		node.run(t, "ip", "address", "add", []string{"10.0.0.11/24", "10.0.0.12/24"}[i], "dev", name)
	}
	node.run(t, "ip", "route", "add", "default", "via", "10.0.0.5", "dev", "eth0")
	args := []string{"-vip", "10.0.0.77", "-state", filepath.Join(t.TempDir(), "realserver.json")}
	node.do(t, func() {
		var out bytes.Buffer
		if code := run(t.Context(), append([]string{"realserver"}, args...), &out, &out); code != 0 {
			t.Errorf("exit %d\n%s", code, &out)
		}
	})
	if answersFor(t, client, "10.0.0.77") {
		t.Error("the node answers for the VIP")
	}
	node.run(t, "sysctl", "-qw", "net.ipv4.conf.eth1.arp_ignore=0")
	client.run(t, "ip", "neighbor", "flush", "dev", "eth0")
	if !answersFor(t, client, "10.0.0.77") {
		t.Fatal("without the guard the node does not answer: the test proves nothing")
	}
	node.do(t, func() {
		var out bytes.Buffer
		if code := run(t.Context(), append([]string{"realserver"}, append(args, "-check")...), &out, &out); code != 1 || !strings.Contains(out.String(), "conf/eth1/arp_ignore is 0, want 1") {
			t.Errorf("-check: exit %d\n%s", code, &out)
		}
	})
}

// answersFor reports whether a host on the client's link claims addr.
func answersFor(t *testing.T, client netns, addr string) bool {
	t.Helper()
	client.do(t, func() { // a datagram makes the kernel ask who has addr
		conn, err := net.Dial("udp", net.JoinHostPort(addr, "9"))
		if err != nil {
			t.Error(err)
			return
		}
		conn.Write([]byte("who has?"))
		conn.Close()
	})
	time.Sleep(500 * time.Millisecond) // an answer on a veth takes microseconds
	return strings.Contains(client.run(t, "ip", "neighbor", "show", addr), "lladdr")
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

// Whatever the state file has, undo does not panic and does not leave the settings of
// the kernel, and a second one has nothing to undo.
func FuzzRealserverState(f *testing.F) {
	f.Add([]byte(`{"addresses":[{"device":"lo","address":"10.0.0.1"},{"device":"eth0","address":"fe80::1%\"x"}],"sysctls":[{"key":"net/ipv4/conf/eth0/arp_ignore","before":"1","after":"0"}],` +
		`"devices":[{"name":"lvs-ipip","vips":["10.0.0.1"]},{"name":"tunl0","sysctls":[{"key":"net/ipv4/conf/all/rp_filter","before":"2","after":"1"}],"vips":[]}],"ports":[{"port":6080,"is6":true,"vips":["fd00::1"]}]}`))
	f.Add([]byte(`{"sysctls":[{"key":"net/ipv4/conf/../../../../outside","before":"1","after":""}]}`))
	f.Add([]byte(`{"sysctls":[{"key":"kernel/osrelease","before":"","after":"6.1.0"}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := bounded(t, len(b))
		s, err := decodeRealserverState(b)
		check()
		if err != nil {
			return
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeRealserverState(text); err != nil || !cmp.Equal(s, again, compareAddrs, cmpopts.EquateEmpty(), cmp.AllowUnexported(savedPort{})) {
			t.Fatalf("%s became %+v (%v)", text, again, err)
		}
		node := newFakeNode(t)
		outside := filepath.Join(filepath.Dir(node.proc.Root), "outside")
		if err := errors.Join(os.MkdirAll(filepath.Dir(node.state), 0o755), os.WriteFile(node.state, b, 0o600), os.WriteFile(outside, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		code, _, _ := node.run("-vip", "10.0.0.1", "-remove")
		if text, err := os.ReadFile(outside); err != nil || len(text) > 0 {
			t.Fatalf("a file outside is changed: %q, %v", text, err)
		}
		if release, _ := node.proc.KernelRelease(); release != "6.1.0" {
			t.Fatalf("the kernel's release is now %q", release)
		}
		if code != exitOK {
			return
		}
		if code, out, errs := node.run("-vip", "10.0.0.1", "-remove"); code != exitOK || out != "nothing to undo\n" {
			t.Errorf("again: %d\n%s%s", code, out, errs)
		}
	})
}
