// The announcer: it keeps the VIP addresses on this host what they should be, and
// carries out an operator's drain of this director.
//
// Used by reconcile*.go. Its pass comes after the table in each pass of the loop.
// What the host refuses is logged once and tried again; the table does not wait
// for it.

package main

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"
)

// announcer belongs to the goroutine of the loop.
type announcer struct {
	*loopNeeds
	refused   refusals
	want      vipAddresses // what the host was last asked for
	cfg       *Config      // the configuration at that time; nil: not asked yet
	on        []netip.Addr // what is announced, as the host reported last
	withdrawn failureLog   // that nothing is announced to routers
	why       string       // this director as a whole should get no traffic; "": it should
	drained   time.Time    // the operator has drained this director since; zero: no
	confirmed *time.Time   // the order that was confirmed last, zero for none; nil: nothing yet
	retryAt   time.Time    // zero: nothing to retry
	retryWait backoff
	began     time.Time // when the process began
}

// pass has the host announce the addresses that are fit for it: when that has
// changed, when another program has taken one away, with each audit, and again
// after a failure.
func (a *announcer) pass(ctx context.Context, o *passResult, p *planner, k *kernelTable) {
	known := !k.compared.IsZero()
	if !known && a.drained.IsZero() && o.now.Sub(a.began) <= patience(o.cfg) {
		return // what an earlier run announced may be right
	}
	unfit := a.unfit(o, k.compared, k.brokenAt)
	want, routed := fitAddresses(&addressFacts{
		owners: p.owners, have: k.have, known: known, devices: a.state.Addresses, local: a.state.Local,
		announced: a.want.Announced, drained: !a.drained.IsZero(), fit: unfit == nil,
		withdrawn: p.want.withdrawn(),
	})
	a.logUnfit(unfit, routed)
	if a.why = ""; unfit != nil {
		a.why = unfit.Error()
	}
	if a.cfg == o.cfg && want.equal(a.want) {
		lost := a.host.LostAddress()
		empty := len(want.Announced)+len(want.Local)+len(a.state.Addresses)+len(a.state.Local) == 0
		audit := o.audit && k.director != nil
		switch {
		case a.retryAt.IsZero() && (!audit && !lost || empty):
			a.confirmDrain()
			return
		case o.now.Before(a.retryAt) && !lost:
			return // a failure's retry is still to come
		}
	}
	a.want, a.cfg = want, o.cfg
	if err := a.announce(ctx, o.cfg, want); err != nil {
		a.retryAt = o.now.Add(a.retryWait.next())
		return
	}
	a.retryAt = time.Time{}
	a.retryWait.reset()
	a.confirmDrain()
}

// announce makes want what the host has, and saves what it has come to.
func (a *announcer) announce(ctx context.Context, cfg *Config, want vipAddresses) error {
	holding, err := a.host.Announce(ctx, cfg, want)
	a.events.moved(a.now(), cfg, a.on, holding.On, a.why)
	a.state.Addresses, a.state.Local, a.on = holding.Addresses, holding.Local, holding.On
	a.refused.log(a.loopNeeds, "addresses", err)
	a.state.saveOwned()
	return err
}

// unfit says why this director as a whole should get no traffic from routers that
// know another one; nil when it should.
func (a *announcer) unfit(o *passResult, compared, brokenAt time.Time) error {
	if !a.drained.IsZero() {
		return drainedError(a.drained)
	}
	if compared.IsZero() {
		compared = a.began
	}
	if err := cmp.Or(unusable(o.err, brokenAt, o.now), unread(o.cfg, o.now.Sub(compared))); err != nil {
		return err
	}
	return a.host.Uplink()
}

// logUnfit logs why VIPs are withdrawn from routing, once, and when that is over.
func (a *announcer) logUnfit(unfit error, routed bool) {
	state := ""
	if unfit != nil && routed {
		state = "withdrawn" // whatever the reason becomes
	}
	switch begins, ends := a.withdrawn.noteText(state); {
	case ends:
		a.log.Info("VIPs with a real server in service are announced to routers again")
	case begins:
		a.log.Warn("all VIPs are withdrawn from routing", "why", unfit)
	}
}

// lookForDrain finds out whether the operator has drained this director.
func (a *announcer) lookForDrain() {
	if a.cacheDir == "" {
		return
	}
	since, err := drainedSince(a.cacheDir)
	a.refused.log(a.loopNeeds, "the operator's drain", err)
	if err != nil {
		return
	}
	if since.IsZero() != a.drained.IsZero() {
		if since.IsZero() {
			a.log.Info("the operator's drain is over")
			a.events.add(Event{Time: a.now(), Kind: eventUndrained})
		} else {
			a.log.Warn("drained by the operator: not ready until `lvs-controller drain -undo`", "since", since)
			a.events.add(Event{Time: a.now(), Kind: eventDrained})
		}
	}
	a.drained = since
}

// confirmDrain writes for the operator's command what the host has come to.
func (a *announcer) confirmDrain() {
	if a.cacheDir == "" || a.confirmed != nil && a.confirmed.Equal(a.drained) {
		return
	}
	over := a.confirmed == nil && a.drained.IsZero() && wasDrained(a.state.dir.path)
	err := confirm(a.state.dir.path, a.drained)
	if a.refused.log(a.loopNeeds, "the confirmation of a drain", err); err == nil {
		since := a.drained
		a.confirmed = &since
		if over {
			a.log.Info("an earlier run was drained by the operator, and that order is gone: this director takes traffic", "cache_dir", a.cacheDir)
		}
	}
}

// withdraw is for the end of the process: it takes the addresses off the dummy
// device and gives routers the time to follow, while the kernel goes on forwarding
// what still comes. With withdraw_hold = "0s" the addresses stay.
func (a *announcer) withdraw() {
	cfg := a.config.Get()
	if cfg == nil || cfg.WithdrawHold == 0 {
		return
	}
	want := vipAddresses{Local: a.state.Local}
	routed := false
	for _, v := range a.state.Addresses {
		if slices.Contains(want.Local, v.Address) {
			routed = true
		} else {
			want.Announced = append(want.Announced, v.Address)
		}
	}
	if !routed {
		return
	}
	sortBy(want.Announced, netip.Addr.Compare)
	a.why = "the process ends"
	if err := a.announce(context.Background(), cfg, want); err == nil {
		a.log.Info("VIPs are withdrawn from routing; the process ends after withdraw_hold", "hold", cfg.WithdrawHold)
	}
	time.Sleep(cfg.WithdrawHold)
}
