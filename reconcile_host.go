// What the reconcile loop keeps right beside the table: sysctls, connection
// timeouts, sync daemons (syncdaemon.go), the VIPs' addresses.
//
// Part of the loop and called by it alone. The table never waits for any of
// it: what the host refuses is logged once and tried again with every audit.

package main

import (
	"context"
	"errors"
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

// announce has the host announce the addresses that are fit for it: those that
// have somebody to serve them, which must not be claimed any earlier, and those
// that were announced before. The address of a VIP that is configured no more
// stays until its last real server has drained, or its packets would no longer
// reach IPVS.
func (r *reconciler) announce(ctx context.Context, cfg *Config, audit bool) {
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
	ours := make(map[netip.Addr]bool)
	for _, a := range r.state.Addresses {
		ours[a.Address] = true
	}
	// Which addresses a mark stood for is forgotten with its VIP: while such a
	// service drains, all of ours stay.
	for i := range r.have {
		if s := &r.have[i].Services[0]; s.Mark != 0 && r.owners.of(s.ServiceKey) == nil {
			maps.Copy(used, ours)
		}
	}
	var want []netip.Addr
	for a, v := range r.owners.addresses {
		if v.Announce == AnnounceARP && (serving[a] || ours[a] || slices.Contains(r.announced, a)) {
			want = append(want, a)
		}
	}
	for a := range ours {
		if r.owners.addresses[a] == nil && used[a] {
			want = append(want, a)
		}
	}
	slices.SortFunc(want, netip.Addr.Compare)
	if !audit && slices.Equal(want, r.announced) || len(want)+len(r.announced)+len(ours) == 0 {
		return
	}
	owned, err := r.host.Announce(ctx, cfg, want)
	r.state.Addresses, r.announced = owned, want
	r.complainHost("addresses", errors.Join(err, r.dir.save(r.state)))
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
