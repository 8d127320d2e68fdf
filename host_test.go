package main

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/lab"
)

// What /readyz says of the uplink, at each moment, whether the configuration
// names it or the default route did before it went.
func TestUplink(t *testing.T) {
	for _, configured := range []bool{true, false} {
		ns := newNetns(t)
		h := newLinuxHost(slog.New(slog.DiscardHandler), nil, nil, nil)
		says := func(when, want string) {
			t.Helper()
			cfg := &Config{}
			if configured {
				cfg.Interface = "up0"
			}
			// The kernel takes a moment to notice a carrier.
			lab.Within(t, 10*time.Second, func() string {
				got := "nothing"
				ns.do(t, func() {
					if _, err := h.uplink(t.Context(), cfg); err != nil {
						t.Error(err)
					}
					if err := h.uplinkState(); err != nil {
						got = err.Error()
					}
				})
				if got != want {
					return fmt.Sprintf("configured %t, %s: %q, want %q", configured, when, got, want)
				}
				return ""
			})
		}
		if configured {
			says("before there is a device", "the uplink up0 is gone")
		} else {
			says("before there is a route", "nothing")
		}
		ns.addDevice(t, "up0")
		ns.run(t, "ip", "address", "add", "192.0.2.202/24", "dev", "up0")
		ns.run(t, "ip", "link", "set", "up0", "up")
		ns.run(t, "ip", "route", "add", "default", "via", "192.0.2.254")
		says("up", "nothing")
		ns.run(t, "ip", "link", "set", "up0-end", "down")
		says("without a carrier", "the uplink up0 has no carrier")
		ns.run(t, "ip", "link", "set", "up0-end", "up")
		says("with a carrier again", "nothing")
		ns.run(t, "ip", "link", "set", "up0", "down")
		says("down", "the uplink up0 is down")
		ns.run(t, "ip", "link", "set", "up0", "up")
		says("up again", "nothing")
		ns.run(t, "ip", "link", "delete", "up0")
		says("deleted", "the uplink up0 is gone")
	}
}

// The pair's settings come with [sync]. An operator who sets one of them sets all.
func TestSyncSysctls(t *testing.T) {
	sys, _ := fakeProcSys(t, map[string]string{"kernel/osrelease": "6.1.0"})
	h := &linuxHost{sysctls: sys}
	wanted := func(cfg *Config) map[string]string {
		all, err := h.wantedSysctls("", cfg)
		if err != nil {
			t.Fatal(err)
		}
		some := make(map[string]string)
		for _, s := range all {
			if name, ok := strings.CutPrefix(s.Key, vsSysctls+"sync_"); ok {
				some[name] = s.Want
			}
		}
		return some
	}
	pair := map[string]string{"refresh_period": "10", "retries": "1", "threshold": "0\t0"}
	for _, tt := range []struct {
		cfg  Config
		want map[string]string
	}{
		{Config{}, map[string]string{}},
		{Config{Sync: pairSync()}, pair},
		{Config{Sync: pairSync(), Sysctls: map[string]string{"sync_qlen_max": "9"}}, pair},
		{Config{Sync: pairSync(), Sysctls: map[string]string{"sync_refresh_period": "0"}}, map[string]string{}},
	} {
		if diff := cmp.Diff(tt.want, wanted(&tt.cfg)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.cfg, diff)
		}
	}
}
