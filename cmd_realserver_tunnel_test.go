package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fakeTunnels are the tunnel devices and GUE ports of a fakeNode.
type fakeTunnels struct {
	table     *fakeTable
	proc      procSys
	kinds     map[string][]tunnelDevice
	ports     []guePort
	makeError error
}

func (f *fakeTunnels) TunnelDevices(kind string) ([]tunnelDevice, error) { return f.kinds[kind], nil }

func (f *fakeTunnels) MakeTunnelDevice(kind string, d tunnelDevice) error {
	if f.makeError != nil {
		return f.makeError
	}
	f.table.calls = append(f.table.calls, fmt.Sprintf("make %s %s checksum %t", kind, d.Name, d.Checksum))
	f.kinds[kind] = append(f.kinds[kind], d)
	f.table.devices[d.Name] = nil
	dir := filepath.Join(f.proc.Root, "net/ipv4/conf", d.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "rp_filter"), []byte("0\n"), 0o644)
}

func (f *fakeTunnels) BringUp(device string) error {
	f.table.calls = append(f.table.calls, "up "+device)
	for _, devices := range f.kinds {
		for i := range devices {
			devices[i].Up = devices[i].Up || devices[i].Name == device
		}
	}
	return nil
}

// SetIPv4Setting is for a /proc/sys that is read-only: another file has the values then.
func (f *fakeTunnels) SetIPv4Setting(device, name, value string) error {
	f.table.calls = append(f.table.calls, fmt.Sprintf("set %s %s %s", device, name, value))
	return f.makeError
}

func (f *fakeTunnels) RemoveDevice(device string) (bool, error) {
	if _, ok := f.table.devices[device]; !ok {
		return false, nil
	}
	f.table.calls = append(f.table.calls, "remove device "+device)
	delete(f.table.devices, device)
	for kind := range f.kinds {
		f.kinds[kind] = slices.DeleteFunc(f.kinds[kind], func(d tunnelDevice) bool { return d.Name == device })
	}
	return true, os.RemoveAll(filepath.Join(f.proc.Root, "net/ipv4/conf", device))
}

func (f *fakeTunnels) GUEPorts() ([]guePort, error) { return f.ports, nil }

func (f *fakeTunnels) OpenGUE(p guePort) error {
	f.table.calls = append(f.table.calls, "open "+p.String())
	f.ports = append(f.ports, p)
	return nil
}

func (f *fakeTunnels) CloseGUE(p guePort) (bool, error) {
	i := slices.Index(f.ports, p)
	if i < 0 {
		return false, nil
	}
	f.table.calls = append(f.table.calls, "close "+p.String())
	f.ports = slices.Delete(f.ports, i, i+1)
	return true, nil
}

// changes runs the command and returns what it did to the node.
func (n fakeNode) changes(t *testing.T, args ...string) []string {
	t.Helper()
	code, out, errs := n.run(args...)
	if code != 0 {
		t.Errorf("%q: exit %d\n%s%s", args, code, out, errs)
	}
	return n.takeCalls()
}

// foreign gives the node a device that is not ours.
func (n fakeNode) foreign(t *testing.T, kind string, d tunnelDevice, filter string, addresses ...deviceAddress) {
	t.Helper()
	if err := n.MakeTunnelDevice(kind, d); err != nil {
		t.Fatal(err)
	}
	n.takeCalls()
	n.devices[d.Name] = addresses
	if err := n.proc.write(confKey(d.Name, "rp_filter"), filter); err != nil {
		t.Fatal(err)
	}
}

// Two VIPs of both families, two tunnels over one device, and back.
func TestRealserverTunnelLife(t *testing.T) {
	node := newFakeNode(t)
	step := func(name string, want []string, args ...string) {
		t.Helper()
		if diff := cmp.Diff(want, node.changes(t, args...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	both := []string{"-vip", "10.0.0.1,2001:db8::1", "-tunnel", "gue"}
	code, out, _ := node.run(append(both, "-check")...)
	if want := "ipip device lvs-ipip is missing\n10.0.0.1 on lvs-ipip is missing\n" +
		"UDP port 6080 for GUE over IPv4 is closed\nip6tnl device lvs-ip6tnl is missing\n" +
		"UDP port 6080 for GUE over IPv6 is closed\n"; code != 1 || !strings.HasSuffix(out, want) {
		t.Errorf("check before: exit %d\n%s", code, out)
	}
	step("prepare", []string{
		"add 10.0.0.1 on lo", "add 2001:db8::1 on lo",
		"make ipip lvs-ipip checksum false", "add 10.0.0.1 on lvs-ipip", "up lvs-ipip", "open UDP port 6080 for GUE over IPv4",
		"make ip6tnl lvs-ip6tnl checksum false", "up lvs-ip6tnl", "open UDP port 6080 for GUE over IPv6",
	}, both...)
	if got, err := node.proc.read("net/ipv4/conf/lvs-ipip/rp_filter"); got != "2" {
		t.Errorf("rp_filter of the tunnel is %q, want 2: %v", got, err)
	}
	if got, _ := node.proc.read("net/ipv4/conf/all/rp_filter"); got != "1" {
		t.Errorf("rp_filter of all devices is %q, want 1 as before", got)
	}
	step("prepare again", nil, both...)
	step("check", nil, append(both, "-check")...)
	step("another VIP, another tunnel, the same device", []string{"add 10.0.0.2 on lo", "add 10.0.0.2 on lvs-ipip"},
		"-vip", "10.0.0.2", "-tunnel", "ipip")
	step("a VIP without a tunnel", []string{"add 10.0.0.3 on lo"}, "-vip", "10.0.0.3")
	step("undo the first", []string{
		"remove 10.0.0.1 on lo", "remove 2001:db8::1 on lo",
		"close UDP port 6080 for GUE over IPv4", "close UDP port 6080 for GUE over IPv6",
		"remove 10.0.0.1 on lvs-ipip", "remove device lvs-ip6tnl",
	}, "-vip", "10.0.0.1,2001:db8::1", "-remove")
	step("undo the second", []string{"remove 10.0.0.2 on lo", "remove 10.0.0.2 on lvs-ipip", "remove device lvs-ipip"}, "-vip", "10.0.0.2", "-remove")
	if got := node.arp(t); got != "1 2" {
		t.Errorf("ARP settings %q while a VIP is left, want %q", got, "1 2")
	}
	step("undo the last", []string{"remove 10.0.0.3 on lo"}, "-vip", "10.0.0.3", "-remove")
	if _, err := os.Stat(node.state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file outlived the last VIP: %v", err)
	}
	step("gre with a checksum", []string{"add 10.0.0.1 on lo", "make gre lvs-gre checksum true", "add 10.0.0.1 on lvs-gre", "up lvs-gre"},
		"-vip", "10.0.0.1", "-tunnel", "gre", "-tunnel-checksum")
	code, _, errs := node.run("-vip", "10.0.0.1", "-tunnel", "gre")
	if code != 1 || !strings.Contains(errs, "device lvs-gre receives only packets with a checksum: see -tunnel-checksum") {
		t.Errorf("gre without a checksum on the same device: exit %d\n%s", code, errs)
	}
}

// A device of another program still receives, and is left as it was.
func TestRealserverTunnelForeignDevice(t *testing.T) {
	calico := deviceAddress{Address: vipOn("tunl0", "192.168.7.1").Address}
	for _, tt := range []struct {
		name       string
		device     tunnelDevice
		filter     string
		all        string // rp_filter of all devices
		addresses  []deviceAddress
		want, undo []string // besides the VIP on lo
		during     string   // rp_filter
	}{
		{name: "the kernel's own, in use", device: tunnelDevice{Name: "tunl0", Up: true}, all: "1", filter: "1",
			addresses: []deviceAddress{calico}, during: "2"},
		{name: "no filter, no address", device: tunnelDevice{Name: "cilium_ipip4", Up: true, Metadata: true}, all: "0", filter: "0", during: "0",
			want: []string{"add 10.0.0.1 on cilium_ipip4"}, undo: []string{"remove 10.0.0.1 on cilium_ipip4"}},
		{name: "the kernel's own, not in use", device: tunnelDevice{Name: "tunl0"}, all: "1", filter: "1", during: "1",
			want: []string{"make ipip lvs-ipip checksum false", "add 10.0.0.1 on lvs-ipip", "up lvs-ipip"},
			undo: []string{"remove 10.0.0.1 on lvs-ipip", "remove device lvs-ipip"}},
	} {
		node := newFakeNode(t)
		node.foreign(t, "ipip", tt.device, tt.filter, tt.addresses...)
		if err := node.proc.write("net/ipv4/conf/all/rp_filter", tt.all); err != nil {
			t.Fatal(err)
		}
		filter := func(when, want string) {
			t.Helper()
			if got, err := node.proc.read(confKey(tt.device.Name, "rp_filter")); got != want || err != nil {
				t.Errorf("%s: rp_filter %s is %q, want %s (%v)", tt.name, when, got, want, err)
			}
		}
		args := []string{"-vip", "10.0.0.1", "-tunnel", "ipip"}
		if diff := cmp.Diff(append([]string{"add 10.0.0.1 on lo"}, tt.want...), node.changes(t, args...)); diff != "" {
			t.Errorf("%s: prepare (-want +got):\n%s", tt.name, diff)
		}
		filter("during", tt.during)
		if calls := node.changes(t, append(args, "-check")...); calls != nil {
			t.Errorf("%s: -check did %v", tt.name, calls)
		}
		if diff := cmp.Diff(append([]string{"remove 10.0.0.1 on lo"}, tt.undo...), node.changes(t, append(args, "-remove")...)); diff != "" {
			t.Errorf("%s: undo (-want +got):\n%s", tt.name, diff)
		}
		filter("after", tt.filter)
	}

	node := newFakeNode(t)
	node.foreign(t, "ipip", tunnelDevice{Name: "other", Metadata: true}, "0")
	if code, _, errs := node.run("-vip", "10.0.0.1", "-tunnel", "ipip"); code != 1 || !strings.Contains(errs, "device other would receive the tunnel's packets, but it is down and not ours") {
		t.Errorf("a foreign device that is down: exit %d\n%s", code, errs)
	}
	if calls := node.takeCalls(); calls != nil {
		t.Errorf("the node was changed all the same: %v", calls)
	}
}

// A GUE port that another program has opened stays open.
func TestRealserverTunnelForeignPort(t *testing.T) {
	node := newFakeNode(t)
	node.ports = []guePort{{Port: 5555}, {Port: 6080, Is6: true}}
	node.changes(t, "-vip", "10.0.0.1", "-tunnel", "gue", "-tunnel-port", "5555")
	node.changes(t, "-vip", "10.0.0.1", "-remove")
	if want := []guePort{{Port: 5555}, {Port: 6080, Is6: true}}; !slices.Equal(node.ports, want) {
		t.Errorf("open ports after undo: %v, want %v", node.ports, want)
	}
}

// A run that is cut short in the middle of the tunnel can still be undone.
func TestRealserverTunnelFailure(t *testing.T) {
	node := newFakeNode(t)
	node.makeError = unix.EOPNOTSUPP
	if code, _, errs := node.run("-vip", "10.0.0.1", "-tunnel", "ipip"); code != 1 || !strings.Contains(errs, "not supported") {
		t.Errorf("exit %d\n%s", code, errs)
	}
	node.makeError = nil
	node.changes(t, "-vip", "10.0.0.1", "-remove")
	if _, err := os.Stat(node.state); !errors.Is(err, os.ErrNotExist) || node.arp(t) != "0 1" {
		t.Errorf("after undo: state %v, ARP settings %q", err, node.arp(t))
	}
}

func TestRealserverTunnelUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"-tunnel vxlan: want ipip, gue or gre": {"-tunnel", "vxlan"},
		"-tunnel-port 0 is outside":            {"-tunnel", "gue", "-tunnel-port", "0"},
		"-tunnel-port 65536 is outside":        {"-tunnel", "gue", "-tunnel-port", "65536"},
		"-tunnel-checksum is for -tunnel gre":  {"-tunnel", "gue", "-tunnel-checksum"},
	} {
		node := newFakeNode(t)
		if code, _, errs := node.run(append([]string{"-vip", "10.0.0.1"}, args...)...); code != 2 || !strings.Contains(errs, want) {
			t.Errorf("%q: exit %d, want 2 with %q\n%s", args, code, want, errs)
		}
		if calls := node.takeCalls(); calls != nil {
			t.Errorf("%q changed the node: %v", args, calls)
		}
	}
}
