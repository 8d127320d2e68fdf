// What the reconcile loop keeps right beside the table: sysctls, connection
// timeouts, sync daemons (syncdaemon.go), the VIPs' addresses.
//
// Part of the loop and called by it alone. The table never waits for any of
// it: what the host refuses is logged once and tried again with every audit.

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// prepare sees to the host's sysctls, the kernel's connection timeouts and its
// sync daemons. What is refused is logged once and tried again with every
// audit; the table does not depend on it.
func (r *reconciler) prepare(ctx context.Context, cfg *Config) error {
	err := r.host.Prepare(ctx, cfg)
	r.prepared = cfg
	timeoutErr := r.setTimeouts(cfg.Timeouts)
	if r.director == nil {
		return timeoutErr
	}
	if err := r.keepDaemons(cfg.Sync); err != nil {
		return err
	}
	r.complainHost("sysctls", errors.Join(err, timeoutErr))
	return nil
}

// vipAddresses is what the host is to have for VIPs beside their services. Both
// are sorted.
type vipAddresses struct {
	Announced []netip.Addr // on a device, for others to see
	Local     []netip.Addr // taken in on a local route, also when they are on no device: those of announce = "dummy"
}

// announce has the host announce the addresses that are fit for it.
//
// With "arp" those are the addresses that have somebody to serve them, which must
// not be claimed any earlier, and those that were announced before: nobody else
// would have them. With "dummy" another director has routes of its own, so an
// address is there only while it is served and the director as a whole is fit for
// traffic; its packets are taken in as long as there are services for them.
//
// The address of a VIP that is configured no more stays until its last real server
// has drained, or its packets would no longer reach IPVS.
func (r *reconciler) announce(ctx context.Context, cfg *Config, audit bool) {
	now := r.now()
	if r.compared.IsZero() && now.Sub(r.began) <= patience(cfg) {
		return // what an earlier run announced may be all right
	}
	unfit := r.unfit(cfg, now)
	serving, used := make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	for i := range r.have {
		services := r.have[i].Services
		first := &services[0]
		addresses := []netip.Addr{first.Address}
		if v := r.owners.of(first.ServiceKey); v != nil && first.Mark != 0 {
			addresses = v.Addresses
		}
		inService := slices.ContainsFunc(services, Service.InService)
		for _, a := range addresses {
			if a.Is6() == first.Address.Is6() {
				used[a] = true
				serving[a] = serving[a] || inService
			}
		}
	}
	ours, onDummy := make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	for _, a := range r.state.Addresses {
		ours[a.Address] = true
		onDummy[a.Address] = a.Device == cfg.AnnounceDevice
	}
	for _, a := range r.announced.Local {
		onDummy[a] = true
	}
	// Which addresses a mark stood for is forgotten with its VIP: while such a
	// service drains, all of ours stay.
	for i := range r.have {
		if s := &r.have[i].Services[0]; s.Mark != 0 && r.owners.of(s.ServiceKey) == nil {
			maps.Copy(used, ours)
		}
	}
	var want vipAddresses
	routed := false // unfit matters to anybody
	for a, v := range r.owners.addresses {
		switch {
		case v.Announce == AnnounceDummy:
			routed = true
			if used[a] {
				want.Local = append(want.Local, a)
			}
			if serving[a] && unfit == nil {
				want.Announced = append(want.Announced, a)
			}
		case v.Announce == AnnounceARP && r.drained.IsZero() && (serving[a] || ours[a] || slices.Contains(r.announced.Announced, a)):
			want.Announced = append(want.Announced, a)
		}
	}
	for a := range used {
		if r.owners.addresses[a] != nil {
			continue
		}
		if onDummy[a] {
			want.Local = append(want.Local, a)
		}
		if ours[a] && r.drained.IsZero() && (unfit == nil || !onDummy[a]) {
			want.Announced = append(want.Announced, a)
		}
	}
	slices.SortFunc(want.Announced, netip.Addr.Compare)
	slices.SortFunc(want.Local, netip.Addr.Compare)
	r.tellUnfit(unfit, routed)
	same := slices.Equal(want.Announced, r.announced.Announced) && slices.Equal(want.Local, r.announced.Local)
	nothing := len(want.Announced)+len(want.Local)+len(r.announced.Announced)+len(r.announced.Local)+len(ours) == 0
	if r.announcedFor == cfg && same && (!audit || nothing) {
		r.confirmDrain(nil)
		return
	}
	owned, err := r.host.Announce(ctx, cfg, want)
	r.state.Addresses, r.announced, r.announcedFor = owned, want, cfg
	r.complainHost("addresses", errors.Join(err, r.dir.save(r.state)))
	r.confirmDrain(err)
}

// patience is how long a director may go without a look at the kernel's table and
// still be fit for traffic.
func patience(cfg *Config) time.Duration { return 3*cfg.AuditInterval + 10*time.Second }

// unfit says why this director as a whole should get no traffic from routers that
// know another one; nil when it should.
func (r *reconciler) unfit(cfg *Config, now time.Time) error {
	if !r.drained.IsZero() {
		return drainedError(r.drained)
	}
	since := r.compared
	if since.IsZero() {
		since = r.began
	}
	if age := now.Sub(since); age > patience(cfg) {
		return fmt.Errorf("the kernel's table has not been read for %s", age.Round(time.Second))
	}
	return r.host.Uplink()
}

// drainedError is what everybody is told of an operator's drain.
func drainedError(since time.Time) error {
	return fmt.Errorf("drained by the operator since %s", since.Format(time.RFC3339))
}

// tellUnfit logs why VIPs are withdrawn from routing, once, and when that is over.
func (r *reconciler) tellUnfit(unfit error, routed bool) {
	if unfit == nil || !routed {
		if r.withdrawn {
			r.log.Info("VIPs with a real server in service are announced to routers again")
		}
		r.withdrawn = false
		return
	}
	if !r.withdrawn {
		r.log.Warn("all VIPs are withdrawn from routing", "why", unfit)
	}
	r.withdrawn = true
}

// lookForDrain finds out whether the operator has drained this director.
func (r *reconciler) lookForDrain() {
	if r.cacheDir == "" {
		return
	}
	since, err := drainedSince(r.cacheDir)
	r.complainHost("the operator's drain", err)
	if err != nil {
		return
	}
	if since.IsZero() != r.drained.IsZero() {
		if since.IsZero() {
			r.log.Info("the operator's drain is over")
		} else {
			r.log.Warn("drained by the operator: not ready until `lvs-controller drain -undo`", "since", since)
		}
	}
	r.drained = since
}

// confirmDrain tells the operator's command what has come of it, once the host has
// done its part.
func (r *reconciler) confirmDrain(err error) {
	if drained := !r.drained.IsZero(); r.cacheDir != "" && err == nil && (r.confirmed == nil || *r.confirmed != drained) {
		if err = setDrained(r.dir.path, drained); err == nil {
			r.confirmed = &drained
		}
		r.complainHost("the confirmation of a drain", err)
	}
}

// withdraw is for a controller that is told to end: it takes the addresses off the
// dummy device and gives routers the time to follow, while the kernel goes on
// forwarding what still comes. Without a hold the addresses stay.
func (r *reconciler) withdraw() {
	cfg := r.owned
	if cfg == nil || cfg.WithdrawHold == 0 {
		return
	}
	want := r.announced
	want.Announced = slices.DeleteFunc(slices.Clone(want.Announced), func(a netip.Addr) bool { return slices.Contains(want.Local, a) })
	if len(want.Announced) == len(r.announced.Announced) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), rtnlTimeout)
	defer cancel()
	owned, err := r.host.Announce(ctx, cfg, want)
	r.state.Addresses = owned
	r.complainHost("addresses", errors.Join(err, r.dir.save(r.state)))
	r.log.Info("VIPs are withdrawn from routing; the process ends after the hold", "hold", cfg.WithdrawHold)
	time.Sleep(cfg.WithdrawHold)
}

// complainHost logs what the host refuses of one kind of thing, once, and when
// it is right again.
func (r *reconciler) complainHost(what string, err error) {
	before := r.unprepared[what]
	msg := ""
	if err != nil {
		msg = err.Error()
	}
	r.unprepared[what] = msg
	switch {
	case msg == before:
	case err == nil:
		r.log.Info("the host is as it should be again", "what", what)
	default:
		for _, part := range flatten(err) {
			r.log.Error("the host is not as it should be", "what", what, "err", part)
		}
	}
}

// setTimeouts changes those connection timeouts that the configuration sets
// and the kernel has otherwise.
func (r *reconciler) setTimeouts(want Timeouts) error {
	if want == (Timeouts{}) {
		return nil
	}
	have, err := r.director.Timeouts()
	if err != nil {
		return r.broken(err)
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
	if err := r.director.SetTimeouts(change); err != nil {
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
