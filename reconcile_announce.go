// What the reconcile loop keeps right beside the table: sysctls, connection
// timeouts, the VIPs' addresses, and withdrawing them.
//
// Used by main.go. The table does not wait for any of it: what the host refuses
// is logged once and tried again with each audit.

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

// announce has the host announce the addresses that are fit for it, when that has
// changed, when another hand has taken one away, with each audit, and again and
// again after a failure.
func (r *reconciler) announce(ctx context.Context, cfg *Config, audit bool) {
	now := r.now()
	if r.compared.IsZero() && r.drained.IsZero() && now.Sub(r.began) <= patience(cfg) {
		return // what an earlier run announced may be all right
	}
	want := r.fitAddresses(cfg, now)
	same := r.announcedFor == cfg && want.equal(r.announced)
	switch empty := len(want.Announced)+len(want.Local)+len(r.state.Addresses)+len(r.state.Local) == 0; {
	case same && r.announceAt.IsZero() && (!audit && !r.host.LostAddress() || empty):
		r.confirmDrain()
		return
	case same && !r.announceAt.IsZero() && now.Before(r.announceAt) && !r.host.LostAddress():
		return // a failure's retry is still to come
	}
	holding, err := r.host.Announce(ctx, cfg, want)
	r.state.Addresses, r.state.Local = holding.Addresses, holding.Local
	r.on, r.announced, r.announcedFor = holding.On, want, cfg
	r.complainHost("addresses", errors.Join(err, r.dir.save(r.state)))
	if err != nil {
		r.announceAt = now.Add(r.announceBackoff.next())
		return
	}
	r.announceAt = time.Time{}
	r.announceBackoff.reset()
	r.confirmDrain()
}

// rememberAddresses saves what the host is about to have, in the middle of its
// Announce, whose answer is what counts afterwards.
func (r *reconciler) rememberAddresses(all []VIPAddress) error {
	r.state.Addresses = all
	return r.dir.save(r.state)
}

// fitAddresses decides which addresses are fit to be announced.
//
// With "arp" those are the addresses that have somebody to serve them, which must
// not be claimed any earlier, and those that were announced before: nobody else
// would have them. With "dummy" another director has routes of its own, so an
// address is there only while it is served and the director as a whole is fit for
// traffic; its packets are taken in as long as there are services for them.
//
// The address of a VIP that is configured no more stays until its last real server
// has drained, or its packets would no longer reach IPVS.
func (r *reconciler) fitAddresses(cfg *Config, now time.Time) vipAddresses {
	want := vipAddresses{Drained: !r.drained.IsZero()}
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
	// Those that have a local route, now or since an earlier run, are the dummy
	// device's.
	ours, onDummy := make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	for _, a := range r.state.Addresses {
		ours[a.Address] = true
	}
	for _, a := range r.state.Local {
		ours[a], onDummy[a] = true, true
	}
	// Nobody knows yet what the kernel forwards; or which addresses a mark stood for,
	// which is forgotten with its VIP. While such a service drains, all of ours stay.
	all := r.compared.IsZero()
	for i := range r.have {
		s := &r.have[i].Services[0]
		all = all || s.Mark != 0 && r.owners.of(s.ServiceKey) == nil
	}
	if all {
		maps.Copy(used, ours)
	}
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
		case v.Announce == AnnounceARP && !want.Drained && (serving[a] || ours[a] || slices.Contains(r.announced.Announced, a)):
			want.Announced = append(want.Announced, a)
		}
	}
	for a := range ours {
		if r.owners.addresses[a] != nil || !used[a] {
			continue
		}
		if onDummy[a] {
			routed = true
			want.Local = append(want.Local, a)
		}
		if !want.Drained && (unfit == nil || !onDummy[a]) {
			want.Announced = append(want.Announced, a)
		}
	}
	slices.SortFunc(want.Announced, netip.Addr.Compare)
	slices.SortFunc(want.Local, netip.Addr.Compare)
	r.tellUnfit(unfit, routed)
	return want
}

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

// tellUnfit logs why VIPs are withdrawn from routing, once, and when that is over.
func (r *reconciler) tellUnfit(unfit error, routed bool) {
	state := ""
	if unfit != nil && routed {
		state = "withdrawn" // whatever the reason becomes
	}
	switch begins, ends := r.withdrawn.noteText(state); {
	case ends:
		r.log.Info("VIPs with a real server in service are announced to routers again")
	case begins:
		r.log.Warn("all VIPs are withdrawn from routing", "why", unfit)
	}
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

// confirmDrain tells the operator's command what the host has been brought to.
func (r *reconciler) confirmDrain() {
	if r.cacheDir == "" || r.confirmed != nil && r.confirmed.Equal(r.drained) {
		return
	}
	over := r.confirmed == nil && r.drained.IsZero() && wasDrained(r.dir.path)
	err := confirm(r.dir.path, r.drained)
	if r.complainHost("the confirmation of a drain", err); err == nil {
		since := r.drained
		r.confirmed = &since
		if over {
			r.log.Info("an earlier run was drained by the operator, and there is no such order any more: this director takes traffic", "cache_dir", r.cacheDir)
		}
	}
}

// withdraw is for a controller that is told to end: it takes the addresses off the
// dummy device and gives routers the time to follow, while the kernel goes on
// forwarding what still comes. Without a hold the addresses stay.
func (r *reconciler) withdraw() {
	cfg := r.config.Get()
	if cfg == nil || cfg.WithdrawHold == 0 {
		return
	}
	want := vipAddresses{Local: r.state.Local}
	routed := false
	for _, v := range r.state.Addresses {
		if slices.Contains(want.Local, v.Address) {
			routed = true
		} else {
			want.Announced = append(want.Announced, v.Address)
		}
	}
	if !routed {
		return
	}
	slices.SortFunc(want.Announced, netip.Addr.Compare)
	holding, err := r.host.Announce(context.Background(), cfg, want)
	r.state.Addresses, r.state.Local = holding.Addresses, holding.Local
	r.complainHost("addresses", errors.Join(err, r.dir.save(r.state)))
	if err == nil {
		r.log.Info("VIPs are withdrawn from routing; the process ends after the hold", "hold", cfg.WithdrawHold)
	}
	time.Sleep(cfg.WithdrawHold)
}

// complainHost logs what the host refuses of one kind of thing, once, and when
// it is right again.
func (r *reconciler) complainHost(what string, err error) {
	if r.unprepared[what] == nil {
		r.unprepared[what] = new(failureLog)
	}
	switch begins, ends := r.unprepared[what].note(err); {
	case ends:
		r.log.Info("the host is as it should be again", "what", what)
	case begins:
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
