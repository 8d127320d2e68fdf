// The state of the director's uplink: can packets reach this host at all?
//
// Used by main.go. The HTTP listener asks for each readiness request, so its
// answer is current. The reconcile loop asks before it announces VIPs, and
// FollowUplink wakes it when the kernel reports a change. Nothing is changed
// here.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Uplink implements host: what was seen when the kernel told of a change last, or
// with the last audit. The loop wants to know with each turn, so it asks nobody.
func (p *preparation) Uplink() error {
	if seen := p.seen.Load(); seen != nil {
		return *seen
	}
	return nil
}

// lookAtUplink brings Uplink up to date and reports whether the uplink has begun or
// ceased to carry traffic.
func (p *preparation) lookAtUplink() (changed bool) {
	p.looking.Lock()
	defer p.looking.Unlock()
	before, now := p.Uplink(), p.uplinkState()
	p.seen.Store(&now)
	return (before == nil) != (now == nil)
}

// uplinkState says why the uplink carries no traffic; nil when it does, and where no
// uplink has been known yet. The device is that of the last Prepare: with a link
// that is down the default route is gone too, and with it the device's name. Of
// several default routes another one may be left. Safe for concurrent use.
func (p *preparation) uplinkState() error {
	name := p.device.Load()
	if name == nil {
		return nil
	}
	err := deviceState(*name)
	if err == nil || !p.guessed.Load() {
		return err
	}
	r, openErr := openRtnl(context.Background())
	if openErr != nil {
		return err
	}
	defer r.Close()
	if other, otherErr := r.DefaultDevice(); otherErr == nil && other != *name && deviceState(other) == nil {
		p.device.Store(&other)
		return nil
	}
	return err
}

// deviceState says why an uplink carries no traffic.
func deviceState(name string) error {
	device, err := deviceByName(name)
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the uplink %s is gone", name)
	case err != nil:
		return fmt.Errorf("the uplink: %w", err)
	case device.Flags&net.FlagUp == 0:
		return fmt.Errorf("the uplink %s is down", name)
	case device.Flags&net.FlagRunning == 0:
		return fmt.Errorf("the uplink %s has no carrier", name)
	}
	return nil
}

// FollowUplink rings wake whenever the uplink begins or ceases to carry traffic,
// until ctx ends; that is its only way to return, with nil.
func (p *preparation) FollowUplink(ctx context.Context, wake chan<- struct{}) error {
	err := followKernel(ctx, unix.RTMGRP_LINK, func() {
		if p.lookAtUplink() {
			ring(wake)
		}
	})
	if err != nil {
		p.log.Warn("a change of the uplink is noticed with the next audit", "err", err)
		<-ctx.Done()
	}
	return nil
}
