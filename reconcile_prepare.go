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
	var change Timeouts
	for _, t := range []struct {
		want, have time.Duration
		change     *time.Duration
	}{
		{want.TCP, have.TCP, &change.TCP},
		{want.TCPFin, have.TCPFin, &change.TCPFin},
		{want.UDP, have.UDP, &change.UDP},
	} {
		if t.want != 0 && t.want != t.have {
			*t.change = t.want
		}
	}
	if change == (Timeouts{}) {
		return nil
	}
	if err := r.kernel.director.SetTimeouts(change); err != nil {
		return err // refused; a broken conversation shows in the next exchange
	}
	for _, t := range []struct {
		name    string
		to, was time.Duration
	}{{"tcp", change.TCP, have.TCP}, {"tcp_fin", change.TCPFin, have.TCPFin}, {"udp", change.UDP, have.UDP}} {
		if t.to != 0 {
			r.log.Info("connection timeout set", "timeout", t.name, "from", t.was, "to", t.to, "why", "configuration")
		}
	}
	return nil
}
