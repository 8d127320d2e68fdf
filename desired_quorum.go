// The quorum: what happens to a VIP of which too few real servers are in service.
//
// Used by reconcile*.go, http*.go and cmd_import_probes.go. Pure, as all of desired. The rule that
// a fault of all at once is no reason to serve less comes first: while all probes fail, or
// the last working set stays, a VIP is above or below its quorum as it was before.

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// shortage is a set below its quorum.
type shortage struct {
	workKey
	Serving int // real servers in service
	Quorum  Quorum
}

// String is "edge IPv4: 1 real server in service, quorum 3: withdrawn".
func (s shortage) String() string {
	servers := "real servers"
	if s.Serving == 1 {
		servers = "real server"
	}
	what := "the addresses are withdrawn"
	if s.Quorum.Sorry {
		what = "the sorry server serves"
	}
	return fmt.Sprintf("%s %s: %d %s in service, quorum %d: %s", s.VIP, familyName(s.Is6), s.Serving, servers, s.Quorum.Least, what)
}

// action is the value of below_quorum.
func (q *Quorum) action() string {
	if q.Sorry {
		return "sorry"
	}
	return "withdraw"
}

// missed reports whether n real servers in service are too few. before is whether they
// were: then more are needed than the quorum.
func (q *Quorum) missed(n int, before bool) bool {
	if before {
		return n < int(q.Least)+int(q.Hysteresis)
	}
	return n < int(q.Least)
}

// quorum is v's quorum; nil where there is none.
func (v *VIP) quorum() *Quorum {
	if v.Probes == nil || v.Probes.Quorum.Least == 0 {
		return nil
	}
	return &v.Probes.Quorum
}

// countServing counts the rows in service.
func countServing(rows []Row) (n int) {
	for i := range rows {
		if rows[i].Weight > 0 {
			n++
		}
	}
	return n
}

// spread is how long a shortage that probes have found lasts before it counts: as long as
// they take to find a real server down. Those that fail at once are not found at once.
func (p *Probes) spread() time.Duration {
	return time.Duration(p.Fall)*p.Interval + p.Timeout
}

// count decides whether set, of which rows are in service, is below its quorum. doubt
// means that rows serve for want of others that do: then that stays as it was.
func (b *build) count(set *setAnswer, of workKey, rows []Row, doubt bool) {
	q := b.in.vip.quorum()
	if q == nil {
		return
	}
	n, before := countServing(rows), b.in.below[familyIndex(of.Is6)]
	switch {
	case doubt && !before || !doubt && !q.missed(n, before):
		return
	case !before && !q.missed(countServing(set.unprobed), false):
		if set.short = b.in.short[familyIndex(of.Is6)]; set.short.IsZero() {
			set.short = b.now
		}
		if until := set.short.Add(b.in.vip.Probes.spread()); b.now.Before(until) {
			set.next = earlier(set.next, until)
			return
		}
		set.short = time.Time{}
	}
	set.below = &shortage{of, n, *q}
}

// failsOpen reports whether rows are in service though all of them fail their probes.
func (b *build) failsOpen(of workKey, rows []Row) bool {
	if b.in.open[familyIndex(of.Is6)] {
		return true
	}
	serves := func(r Row) bool {
		return r.Weight > 0 && !slices.ContainsFunc(b.in.outages, func(o outage) bool { return o.Port == 0 && o.Address == r.Address })
	}
	return len(b.in.outages) > 0 && !slices.ContainsFunc(rows, serves)
}

// belowQuorum puts the sorry server into service alone, where that is what a shortage
// asks for.
func (b *build) belowQuorum(set *setAnswer, of workKey, rows []Row) []Row {
	if set.below == nil || !set.below.Quorum.Sorry {
		return rows
	}
	sorry, ok := b.in.vip.sorry(of.Is6)
	if !ok {
		return rows // the configuration has no such VIP
	}
	rows = slices.DeleteFunc(slices.Clone(rows), sameAs(sorry))
	for i := range rows {
		if r := &rows[i]; r.Weight > 0 {
			r.Weight, r.Reason = 0, quiescedQuorum
			r.Why += fmt.Sprintf(", but %d in service are fewer than the quorum", set.below.Serving)
		}
	}
	return addMissing(rows, []RealServer{sorry}, "sorry server, fewer real servers in service than the quorum")
}

// withdrawn are the addresses that w wants nowhere on this host because of a quorum. A
// nil w wants no such thing.
func (w *wanted) withdrawn() map[netip.Addr]bool {
	all := make(map[netip.Addr]bool)
	if w == nil {
		return all
	}
	for _, s := range w.Below {
		i := slices.IndexFunc(w.cfg.VIPs, func(v VIP) bool { return v.Name == s.VIP })
		if s.Quorum.Sorry || i < 0 {
			continue
		}
		for _, a := range w.cfg.VIPs[i].Addresses {
			if a.Is6() == s.Is6 {
				all[a] = true
			}
		}
	}
	return all
}
