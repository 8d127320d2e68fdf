package main

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"
)

// The message is what `ip link` would send, if it knew these settings: struct ifinfomsg, and
// the setting in three nested attributes.
func TestSettingMessage(t *testing.T) {
	m := settingMessage{rtnetlink.LinkMessage{Index: 7}, ipv4Settings["arp_ignore"], 1}
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"00000000" + "07000000" + "00000000" + "00000000", // family, type; index; flags; change
		"14001a80",              // 20 bytes of IFLA_AF_SPEC, nested
		"10000280",              // 16 bytes of AF_INET, nested
		"0c000180",              // 12 bytes of IFLA_INET_CONF, nested
		"08001300" + "01000000", // IPV4_DEVCONF_ARP_IGNORE: 1
	}, "")
	if diff := cmp.Diff(want, hex.EncodeToString(b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The kernel takes each setting that the table has, for the device and for no other.
func TestSettingsOverNetlink(t *testing.T) {
	ns := newNetns(t)
	ns.addDevice(t, "eth0.100")
	proc := procSys{Root: "/proc/sys"}
	ns.do(t, func() {
		r, err := openRtnl(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		for name := range ipv4Settings {
			for _, value := range []string{"2", "0", "1"} {
				if err := r.SetIPv4Setting("eth0.100", name, value); err != nil {
					t.Error(err)
				}
				if got, err := proc.read(confKey("eth0.100", name)); got != value || err != nil {
					t.Errorf("%s is %q, want %s (%v)", name, got, value, err)
				}
			}
			if got, err := proc.read(confKey("eth0.100-end", name)); got == "1" && name != "rp_filter" || err != nil {
				t.Errorf("%s of another device is %q (%v)", name, got, err)
			}
		}
		if err := r.SetIPv4Setting("gone0", "arp_ignore", "1"); !errors.Is(err, unix.ENODEV) {
			t.Errorf("a device that is not there: %v", err)
		}
		if err := r.SetIPv4Setting("eth0.100", "forwarding", "1"); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("a setting without a number: %v", err)
		}
		if err := r.SetIPv4Setting("eth0.100", "arp_ignore", "one"); err == nil {
			t.Error("a value that is no number is taken")
		}
	})
}
