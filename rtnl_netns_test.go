package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// withRtnl calls f inside ns with a connection there.
func withRtnl(t *testing.T, ns netns, f func(*rtnl)) {
	t.Helper()
	ns.do(t, func() {
		conn, err := openRtnl(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		f(conn)
	})
}

func TestRtnlAddresses(t *testing.T) {
	ns := newNetns(t)
	ns.addDevice(t, "eth0.100")
	ns.run(t, "ip", "link", "set", "eth0.100", "up")
	ns.run(t, "ip", "address", "add", "10.0.0.9/24", "dev", "eth0.100")

	for _, tt := range []struct {
		vip  VIPAddress
		want []string // in `ip address show`
	}{
		{vipOn("lo", "10.0.0.1"), []string{"inet 10.0.0.1/32 scope host noprefixroute lo:lvs"}},
		{vipOn("lo", "2001:db8::1"), []string{"inet6 2001:db8::1/128 scope global nodad deprecated noprefixroute", "preferred_lft 0sec"}},
		{vipOn("eth0.100", "10.0.0.2"), []string{"inet 10.0.0.2/32 scope global noprefixroute eth0.100:lvs"}},
		{vipOn("eth0.100", "2001:db8::2"), []string{"inet6 2001:db8::2/128 scope global nodad deprecated noprefixroute"}},
	} {
		withRtnl(t, ns, func(r *rtnl) {
			has := func() bool {
				have, err := r.List(tt.vip.Device)
				if err != nil {
					t.Error(err)
				}
				return slices.ContainsFunc(have, func(d deviceAddress) bool { return d.Address == tt.vip.Address })
			}
			if has() {
				t.Errorf("%s is there before Add", tt.vip)
			}
			for _, want := range []bool{true, false} {
				if changed, err := r.Add(tt.vip); changed != want || err != nil {
					t.Errorf("Add(%s) = %v, %v, want %v", tt.vip, changed, err, want)
				}
			}
			if !has() {
				t.Errorf("%s is missing after Add", tt.vip)
			}
		})
		shown := ns.run(t, "ip", "address", "show", "dev", tt.vip.Device)
		for _, want := range tt.want {
			if !strings.Contains(shown, want) {
				t.Errorf("%s: no %q in\n%s", tt.vip, want, shown)
			}
		}
		withRtnl(t, ns, func(r *rtnl) {
			for _, want := range []bool{true, false} {
				if changed, err := r.Remove(tt.vip); changed != want || err != nil {
					t.Errorf("Remove(%s) = %v, %v, want %v", tt.vip, changed, err, want)
				}
			}
		})
		if shown := ns.run(t, "ip", "address", "show", "dev", tt.vip.Device); strings.Contains(shown, tt.vip.Address.String()+"/") {
			t.Errorf("%s is still there:\n%s", tt.vip, shown)
		}
	}

	// A host address that somebody added by hand, with another label and
	// scope, goes; it is on its device alone.
	ns.run(t, "ip", "address", "add", "10.0.0.3/32", "dev", "lo")
	withRtnl(t, ns, func(r *rtnl) {
		if have, err := r.List("eth0.100"); err != nil || slices.Contains(have, deviceAddress{Address: vipOn("lo", "10.0.0.3").Address, Label: "lo"}) {
			t.Errorf("lo's address is listed on eth0.100: %v, %v", have, err)
		}
		for _, want := range []bool{true, false} {
			if changed, err := r.Remove(vipOn("lo", "10.0.0.3")); changed != want || err != nil {
				t.Errorf("Remove of a hand-made address = %v, %v, want %v", changed, err, want)
			}
		}
	})

	// An address with its network is somebody else's: Remove leaves it.
	withRtnl(t, ns, func(r *rtnl) {
		if changed, err := r.Remove(vipOn("eth0.100", "10.0.0.9")); changed || err != nil {
			t.Errorf("Remove of 10.0.0.9/24 = %v, %v, want unchanged", changed, err)
		}
		for name, err := range map[string]error{
			"List":   errOf(r.List("gone0")),
			"Add":    errOf(r.Add(vipOn("gone0", "10.0.0.1"))),
			"Remove": errOf(r.Remove(vipOn("gone0", "10.0.0.1"))),
		} {
			if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "gone0") {
				t.Errorf("%s on a missing device: %v", name, err)
			}
		}
	})
}

func errOf[T any](_ T, err error) error { return err }

// A VIP on the uplink never becomes the source of the director's own traffic.
func TestRtnlSourceAddress(t *testing.T) {
	ns := newNetns(t)
	ns.addDevice(t, "eth0")
	ns.run(t, "ip", "link", "set", "eth0", "up")
	withRtnl(t, ns, func(r *rtnl) {
		for _, v := range []VIPAddress{vipOn("eth0", "10.0.0.77"), vipOn("eth0", "2001:db8::77"), vipOn("lo", "10.0.0.78"), vipOn("lo", "2001:db8::78")} {
			if _, err := r.Add(v); err != nil {
				t.Error(err)
			}
		}
	})
	// The device's own addresses come later, as with a slow DHCP server.
	ns.run(t, "ip", "address", "add", "10.0.0.9/24", "dev", "eth0")
	ns.run(t, "ip", "address", "add", "2001:db8::9/64", "dev", "eth0", "nodad")
	ns.run(t, "ip", "route", "add", "default", "via", "10.0.0.254", "dev", "eth0")
	ns.run(t, "ip", "route", "add", "default", "via", "2001:db8::fe", "dev", "eth0")
	for to, want := range map[string]string{
		"10.0.0.5":     "src 10.0.0.9",
		"192.0.2.1":    "src 10.0.0.9",
		"2001:db8::5":  "src 2001:db8::9",
		"2001:db9::77": "src 2001:db8::9",
	} {
		if got := ns.run(t, "ip", "route", "get", to); !strings.Contains(got, want+" ") {
			t.Errorf("route to %s: no %q in %s", to, want, got)
		}
	}
}

func TestRtnlDefaultDevice(t *testing.T) {
	ns := newNetns(t)
	for i, name := range []string{"eth0", "eth1"} {
		ns.addDevice(t, name)
		ns.run(t, "ip", "link", "set", name, "up")
		ns.run(t, "ip", "address", "add", "10.0."+string(rune('0'+i))+".9/24", "dev", name)
		ns.run(t, "ip", "address", "add", "2001:db8:"+string(rune('0'+i))+"::9/64", "dev", name, "nodad")
	}
	check := func(want string) {
		t.Helper()
		withRtnl(t, ns, func(r *rtnl) {
			got, err := r.DefaultDevice()
			if got != want || (err != nil) != (want == "") {
				t.Errorf("DefaultDevice = %q, %v, want %q", got, err, want)
			}
		})
	}
	check("")
	ns.run(t, "ip", "route", "add", "default", "via", "10.0.0.1", "table", "100")
	check("")
	ns.run(t, "ip", "route", "add", "default", "via", "2001:db8:1::1")
	check("eth1")
	ns.run(t, "ip", "route", "add", "default", "via", "10.0.0.1", "metric", "50")
	check("eth0")
	ns.run(t, "ip", "route", "add", "default", "via", "10.0.1.1", "metric", "20")
	check("eth1")
	ns.run(t, "ip", "route", "flush", "exact", "default")
	ns.run(t, "ip", "route", "add", "default", "nexthop", "via", "10.0.1.1", "nexthop", "via", "10.0.0.1")
	check("eth1")
}
