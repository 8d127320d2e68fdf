//go:build ipvs

// The renewal of the addresses on the dummy device, on a real kernel.

package main

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"lvs-controller/test/lab"
)

// Each run renews the addresses on the dummy device, and nothing else there.
func TestKernelDummyRenewed(t *testing.T) {
	l := lab.New(t.Fatalf)
	defer l.Close()
	director := l.Host("director", 2)
	vip := netip.MustParseAddr("10.9.0.100")
	cfg := &Config{AnnounceDevice: "lvs0", VIPs: []VIP{{Name: "edge", Addresses: []netip.Addr{vip}, Announce: AnnounceDummy}}}
	for _, run := range []string{"that makes lvs0", "that finds lvs0"} {
		h := newLinuxHost(slog.New(slog.DiscardHandler), nil, nil, func([]VIPAddress) {})
		for range 2 {
			h.addresses.renewal = renewal{}
			director.Do(func() {
				if _, err := h.Announce(t.Context(), cfg, vipAddresses{Announced: []netip.Addr{vip}, Local: []netip.Addr{vip}}); err != nil {
					t.Error(err)
				}
			})
			want := ""
			if run != "" {
				want = "lvs0"
			}
			if got := h.addresses.renewal.device; got != want {
				t.Errorf("a run %s renews on %q, want %q", run, got, want)
			}
			run = "" // once in each run
		}
	}

	ours := []VIPAddress{{"lvs0", vip}, {"lvs0", netip.MustParseAddr("10.9.0.101")}}
	renew := func(when, want string) {
		t.Helper()
		director.Do(func() {
			if err := renewAddresses(ours); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		})
		shown := director.Run("ip", "-o", "-4", "address")
		for _, v := range ours {
			if has := strings.Contains(shown, v.Address.String()+"/32"); has != strings.Contains(want, v.Address.String()) {
				t.Errorf("%s, want %q:\n%s", when, want, shown)
			}
		}
	}
	renew("one is there", "10.9.0.100")
	director.Do(func() { renewed(t, ours[0], func() error { return renewAddresses(ours) }) })
	director.Run("ip", "address", "flush", "dev", "lvs0")
	renew("another program has removed it", "")
	director.Run("ip", "link", "delete", "lvs0")
	renew("the device is gone", "")
	director.Run("ip", "link", "add", "lvs0", "type", "veth", "peer", "name", "peer0")
	director.Run("ip", "address", "add", "10.9.0.100/24", "dev", "lvs0")
	renew("the device is another program's", "")
}
