// What a pass prepares before the table: sysctls, connection timeouts, sync
// daemons.
//
// Used by reconcile.go. It calls prepare at start, after each reload and with each
// audit. What is refused is logged once and tried again with the next audit; the
// table does not wait for it.

package main

import (
	"context"
	"errors"
	"time"
)

// prepare sets the host's sysctls, the kernel's connection timeouts and its sync
// daemons as cfg has them. An error means that the conversation broke.
func (r *reconciler) prepare(ctx context.Context, cfg *Config) error {
	err := r.host.Prepare(ctx, cfg)
	r.prepared = cfg
	timeoutErr := r.setTimeouts(cfg.Timeouts)
	if r.kernel.director == nil {
		return timeoutErr
	}
	if err := r.daemons.keep(r.kernel.director, cfg.Sync); err != nil {
		return r.kernel.broken(err)
	}
	r.refused.log(r.loopNeeds, "sysctls", errors.Join(err, timeoutErr))
	return nil
}

// setTimeouts changes those connection timeouts that the configuration sets
// and the kernel has otherwise.
func (r *reconciler) setTimeouts(want Timeouts) error {
	if want == (Timeouts{}) {
		return nil
	}
	have, err := r.kernel.director.Timeouts()
	if err != nil {
		return r.kernel.broken(err)
	}
	settings, change := timeoutChanges(want, have)
	if change == (Timeouts{}) {
		return nil
	}
	if err := r.kernel.director.SetTimeouts(change); err != nil {
		return err // refused; a broken conversation shows in the next exchange
	}
	for _, t := range settings {
		r.log.Info("connection timeout set", "timeout", t.name, "from", t.was, "to", t.want, "why", "configuration")
	}
	return nil
}

// timeoutChange is a connection timeout that the kernel has otherwise.
type timeoutChange struct {
	name      string
	was, want time.Duration
}

// timeoutChanges are the timeouts of want that have has otherwise; change is what to
// tell the kernel, which keeps what is 0.
func timeoutChanges(want, have Timeouts) (list []timeoutChange, change Timeouts) {
	for _, t := range []struct {
		timeoutChange
		change *time.Duration
	}{
		{timeoutChange{"tcp", have.TCP, want.TCP}, &change.TCP},
		{timeoutChange{"tcp_fin", have.TCPFin, want.TCPFin}, &change.TCPFin},
		{timeoutChange{"udp", have.UDP, want.UDP}, &change.UDP},
	} {
		if t.want != 0 && t.want != t.was {
			*t.change = t.want
			list = append(list, t.timeoutChange)
		}
	}
	return list, change
}
