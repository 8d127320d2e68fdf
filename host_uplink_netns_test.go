package main

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// What /readyz says of the uplink, at each moment, whether the configuration
// names it or the default route did before it went.
func TestUplink(t *testing.T) {
	for _, configured := range []bool{true, false} {
		ns := newNetns(t)
		p := newPreparation(slog.New(slog.DiscardHandler), nil, nil, nil)
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
					if _, err := p.uplink(t.Context(), cfg); err != nil {
						t.Error(err)
					}
					if err := p.uplinkState(); err != nil {
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
