// Whether this director can be reached at all: the state of its uplink.
//
// http.go asks with every question about readiness, so what it hears is true at
// that moment and nothing wakes an idle controller. Nothing here changes
// anything.

package main

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Uplink says why the uplink carries no traffic; nil when it does, and where no
// uplink has been known yet. The device is that of the last Prepare: with a link
// that is down the default route is gone too, and with it the device's name.
// Safe for concurrent use.
func (p *preparation) Uplink() error {
	name := p.device.Load()
	if name == nil {
		return nil
	}
	device, err := deviceByName(*name)
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the uplink %s is gone", *name)
	case err != nil:
		return fmt.Errorf("the uplink: %w", err)
	case device.Flags&net.FlagUp == 0:
		return fmt.Errorf("the uplink %s is down", *name)
	case device.Flags&net.FlagRunning == 0:
		return fmt.Errorf("the uplink %s has no carrier", *name)
	}
	return nil
}
