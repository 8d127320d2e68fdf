// The state of the director's uplink: can packets reach this host at all?
//
// Used by reconcile_pending.go and main.go. The HTTP listener asks for each
// readiness request, so its answer is current. The reconcile loop asks before it
// announces VIPs, and FollowUplink wakes it when the kernel reports a change.
// Nothing is changed here.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Uplink implements host: the result of the last check, at a change that the kernel
// reported or at an audit. The loop asks in each pass, so it does not ask the kernel.
func (h *linuxHost) Uplink() error {
	if checked := h.checked.Load(); checked != nil {
		return *checked
	}
	return nil
}

// checkUplink brings Uplink up to date and reports whether the uplink has begun or
// ceased to carry traffic.
func (h *linuxHost) checkUplink() (changed bool) {
	h.checking.Lock()
	defer h.checking.Unlock()
	before, now := h.Uplink(), h.uplinkState()
	h.checked.Store(&now)
	switch {
	case before == nil && now != nil:
		h.log.Warn("this director is not ready: its uplink carries no traffic", "why", now)
	case before != nil && now == nil:
		h.log.Info("the uplink carries traffic again")
	default:
		return false
	}
	return true
}

// uplinkState says why the uplink carries no traffic; nil when it does, and where no
// uplink has been known yet. The device is that of the last Prepare: with a link
// that is down the default route is gone too, and with it the device's name. Another
// default route may be left. Safe for concurrent use.
func (h *linuxHost) uplinkState() error {
	name := h.device.Load()
	if name == nil {
		return nil
	}
	err := deviceState(*name)
	if err == nil || !h.guessed.Load() {
		return err
	}
	r, openErr := openRtnl(context.Background())
	if openErr != nil {
		return err
	}
	defer r.Close()
	if other, otherErr := r.DefaultDevice(); otherErr == nil && other != *name && deviceState(other) == nil {
		h.device.Store(&other)
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
// until ctx ends. It returns nil.
func (h *linuxHost) FollowUplink(ctx context.Context, wake chan<- struct{}) error {
	changed, err := kernelEvents(ctx, unix.RTMGRP_LINK)
	if err != nil {
		h.log.Warn("changes of the uplink are noticed only by the next audit", "err", err)
		<-ctx.Done()
		return nil
	}
	for range changed {
		if h.checkUplink() {
			ring(wake)
		}
	}
	return nil
}
