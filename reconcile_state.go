// What others may see of the reconcile loop: counters, and a snapshot of the state
// after its last pass.
//
// Used by http*.go and main.go. reconcile.go publishes it, and it does not
// change after that. No I/O.

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// counters count since the process started.
type counters struct {
	Reconciles atomic.Uint64
	Failures   atomic.Uint64 // reconciles that could not be finished
	Audits     atomic.Uint64
	Drifts     atomic.Uint64 // audits that found the table changed by another program
	Changes    [delService + 1]atomic.Uint64
	Refused    atomic.Uint64 // operations that the kernel refused
}

// loopState is what others may see of the loop: a snapshot of its state after its last
// pass. It does not change.
type loopState struct {
	At        time.Time
	Config    *Config
	Compared  time.Time             // when the kernel's table was last read; zero: not yet
	Shards    shards                // what the kernel has, with the reasons
	TableHash uint64                // of the wanted table
	Marked    map[MarkedPort]uint32 // what the host marks; never changed
	Kept      []workKey
	Health    *Health // what probes have found; nil: nothing
	Warnings  []string
	Sync      map[SyncRole]bool // whether the sync daemon runs as configured; nil without [sync]
	Announced []netip.Addr      // VIP addresses that the host has through us
	Drained   time.Time         // the operator has drained this director since; zero: no
	Err       error             // what is not in place; nil when all is
	BrokenAt  time.Time         // since when no conversation with the kernel's IPVS succeeds; zero: one is open
}

// shown is what the loop publishes. It is safe from any goroutine.
type shown struct {
	published atomic.Pointer[loopState]
	passed    atomic.Pointer[time.Time] // end of the last pass, whatever came of it
	timing    timing
	counters  counters
	changes   changeRecord
	loads     loadHistory
	times     rowTimes
	nodes     drainingNodes
}

// show publishes the state after the pass o, which ended now. A pass that came to no
// plan changes only what it knows, and nothing if that is the same as before.
func (r *reconciler) show(o *passResult, now time.Time) {
	r.passed.Store(&now)
	next := loopState{}
	if last := r.published.Load(); last != nil {
		if a := &r.announcer; o.plan == nil && fmt.Sprint(last.Err) == fmt.Sprint(o.err) && last.Drained.Equal(a.drained) && slices.Equal(last.Announced, a.on) {
			return
		}
		next = *last
	}
	next.At, next.Config, next.Drained, next.Announced, next.Err = now, o.cfg, r.announcer.drained, r.announcer.on, o.err
	next.BrokenAt = r.kernel.brokenAt
	if w := o.plan; w != nil && r.kernel.director != nil {
		if !next.Compared.IsZero() { // what an earlier run has left has no time
			r.times.update(next.Shards, r.kernel.have, now)
		}
		r.nodes.update(r.kernel.have, r.cluster.Get())
		next.Compared, next.Shards, next.Sync = r.kernel.compared, r.kernel.have, r.daemons.running
		next.Marked = r.marks.marked
		next.TableHash = r.planner.hash.of(w.want)
		next.Kept, next.Health, next.Warnings = w.want.Kept, w.want.health, warningTexts(w.want.Warnings)
		if r.exempt.failing.text != "" {
			next.Warnings = append(next.Warnings, "notrack: "+r.exempt.failing.text)
		}
	}
	r.published.Store(&next)
}

// InService counts virtual services with and without a real server in service.
func (v *loopState) InService() (with, without int) {
	for s := range v.Shards.all {
		if s.InService() {
			with++
		} else {
			without++
		}
	}
	return with, without
}

// RealServers are the addresses of all real servers.
func (v *loopState) RealServers() map[netip.Addr]bool {
	all := make(map[netip.Addr]bool)
	if v == nil {
		return all
	}
	for s := range v.Shards.all {
		for _, row := range s.Servers {
			all[row.Address] = true
		}
	}
	return all
}

// ServesWithOthers returns a real server among own of a virtual service that has others
// too, "" when there is none.
func (v *loopState) ServesWithOthers(own map[netip.Addr]bool) string {
	if v == nil {
		return ""
	}
	for s := range v.Shards.all {
		for _, row := range s.Servers {
			if len(s.Servers) > 1 && row.Forward == DirectRoute && own[row.Address] {
				return row.Address.String()
			}
		}
	}
	return ""
}

// ready says why a director in this state should get no traffic; nil when it
// should. One VIP without its scheduler or one node without a route is no
// reason: the other director has the same, and the rest is served.
func (v *loopState) ready(now time.Time) error {
	if v == nil {
		return errors.New("the kernel's table has not been read yet")
	}
	if !v.Drained.IsZero() {
		return drainedError(v.Drained)
	}
	why := ""
	if v.Err != nil {
		why = ": " + v.Err.Error()
	}
	if v.Compared.IsZero() {
		return errors.New("the kernel's table has not been read yet" + why)
	}
	if err := unusable(v.Err, v.BrokenAt, now); err != nil {
		return err
	}
	if err := unread(v.Config, now.Sub(v.Compared)); err != nil {
		return fmt.Errorf("%w%s", err, why)
	}
	if with, _ := v.InService(); with == 0 {
		return errors.New("no real server is in service")
	}
	return nil
}

// patience is how long a director is fit for traffic without having read the
// kernel's table.
func patience(cfg *Config) time.Duration { return 3*cfg.AuditInterval + 10*time.Second }

// unread says that the kernel's table has not been read for longer than that.
func unread(cfg *Config, age time.Duration) error {
	if age <= patience(cfg) {
		return nil
	}
	return fmt.Errorf("the kernel's table has not been read for %s", age.Round(time.Second))
}

// drainedError is the reason for which a director is not ready after an operator's
// drain.
func drainedError(since time.Time) error {
	return fmt.Errorf("drained by the operator since %s", since.Format(time.RFC3339))
}
