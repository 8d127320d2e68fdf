// How a real server leaves: it is quiesced first, and removed when it has no
// connections left or its deadline has passed.
//
// Used by reconcile*.go. computeTarget runs between desired and diff. Pure: the
// kernel's table, the counts, the drains and the time go in; the table to reach and its
// drains come out. It does not write to its inputs.

package main

import (
	"cmp"
	"slices"
	"time"
)

// targetTable is the table that the kernel must have after this pass.
type targetTable struct {
	Shards shards
	// Withdrawn are services that are removed as a whole now, and the real servers
	// that have drained from them: if the kernel refuses the removal, the
	// deadlines are still known.
	Withdrawn map[ServiceKey][]leaving
	// Next is the earliest deadline, zero when there is none.
	Next time.Time
}

// computeTarget merges the desired table with the real servers that still drain.
// have is the kernel's table as far as it is ours, with the real servers that
// leave.
func computeTarget(w *wanted, have shards, now time.Time) targetTable {
	s := merger{wanted: w, now: now, withdrawn: make(map[ServiceKey][]leaving)}
	done := targetTable{Withdrawn: s.withdrawn}
	for want, has := range merged(w.Shards, have, compareShards) {
		var p shard
		if want != nil && has != nil && w.upToDate(want, has, now) {
			p = *has
		} else {
			first := cmp.Or(want, has).Services[0].ServiceKey
			s.timeout, s.shared = w.drainTimeout(first), w.Owners.shared(first.Address)
			p = s.shard(want.services(), has.services())
		}
		if len(p.Services) > 0 {
			done.Shards = append(done.Shards, p)
			done.Next = earlier(done.Next, p.Next)
		}
	}
	return done
}

// upToDate reports whether has was computed from want, and no deadline has passed
// since.
func (w *wanted) upToDate(want, has *shard, now time.Time) bool {
	if !same(want.Services, has.From) || !has.Next.IsZero() && !now.Before(has.Next) {
		return false
	}
	return !w.anyIncomplete(has.Services[0].ServiceKey)
}

// merger is the state of computeTarget.
type merger struct {
	*wanted
	now time.Time
	// Services that have the same real servers lose them the same way, and still
	// share them afterwards: the last few answers are kept for the next service.
	answers   [4]exitAnswer
	withdrawn map[ServiceKey][]leaving
	newest    int
	timeout   time.Duration // to drain, of the service's VIP
	shared    bool          // the shard's address has several VIPs
}

// shard merges the services of one shard; either side may be empty.
func (s *merger) shard(want, have Table) shard {
	// Often the target is the wanted table, and shares it. It is copied when the
	// first service differs.
	p := shard{Services: want, From: want}
	copied := false
	differ := func(i int) {
		if !copied {
			p.Services = append(make(Table, 0, len(want)+1), want[:i]...)
			copied = true
		}
	}
	i := 0           // of want
	var none Service // what the kernel has of one that is new
	add := func(service *Service, exits *exitAnswer) {
		p.Services = append(p.Services, *service)
		added := &p.Services[len(p.Services)-1]
		added.Servers, added.Leaving = exits.rows, exits.leaving
	}
	for w, has := range mergedBy(want, have, compareKeys) {
		if s.shared {
			s.timeout = s.drainTimeout(cmp.Or(w, has).ServiceKey)
		}
		if w != nil {
			if has == nil {
				has = &none
			}
			exits := s.leave(w.Servers, has, noPod, &p.Next)
			if w.Scheduler != has.Scheduler && findScheduler(w.Scheduler).atOnce {
				p.From = nil // once it has this scheduler, no real server drains
			}
			if !same(exits.rows, w.Servers) || len(exits.leaving) > 0 {
				differ(i)
			}
			if copied {
				add(w, exits)
			}
			i++
			continue
		}
		differ(i)
		h, incomplete := s.retainedFor(has.ServiceKey)
		switch {
		case !incomplete:
			exits := s.leave(nil, has, noService, &p.Next)
			if len(exits.rows) == 0 { // they have drained, the whole service goes
				s.withdrawn[has.ServiceKey] = exits.leaving
			} else {
				add(has, exits)
			}
		case h.Servers != nil:
			add(has, s.leave(h.Servers, has, noPod, &p.Next))
			p.Services[len(p.Services)-1].VIP = s.Owners.of(has.ServiceKey).Name
		default: // it stays exactly as the kernel has it
			p.Services = append(p.Services, *has)
		}
	}
	return p
}

// drainTimeout is how long real servers of k may drain: the default for a VIP that is
// configured no more.
func (w *wanted) drainTimeout(k ServiceKey) time.Duration {
	if v := w.Owners.latest(k); v != nil {
		return v.Drain.Timeout
	}
	return defaultDrainTimeout
}

// retainedFor is what stays of the set that k belongs to, if its inputs are
// incomplete. A port of a shared address that may be of any VIP stays as it is while
// the inputs of one are incomplete.
func (w *wanted) retainedFor(k ServiceKey) (r retained, incomplete bool) {
	if len(w.Retained) == 0 {
		return r, false
	}
	if w.Owners.shared(k.Address) && w.Owners.ports[k] == nil {
		return r, w.anyIncomplete(k)
	}
	if v := w.Owners.of(k); v != nil {
		r, incomplete = w.Retained[workKey{v.Name, k.Address.Is6()}]
	}
	return r, incomplete
}

// anyIncomplete reports whether the inputs of a set that has services in the shard of k
// are incomplete.
func (w *wanted) anyIncomplete(k ServiceKey) bool {
	if len(w.Retained) == 0 {
		return false
	}
	incomplete := func(v *VIP) bool { _, is := w.Retained[workKey{v.Name, k.Address.Is6()}]; return is }
	if k.Mark != 0 {
		v := w.Owners.of(k)
		return v != nil && incomplete(v)
	}
	return slices.ContainsFunc(w.Owners.addresses[k.Address], incomplete)
}

// exit is all that decides how the real servers of a service leave it, the time
// apart. Slices are compared by identity, not by content.
type exit struct {
	want      []Row
	have      []Row
	leaving   []leaving
	why       string        // for a row that is not wanted at all
	timeout   time.Duration // to drain
	protocol  Protocol
	scheduler string // that the kernel has
}

// is reports whether e is about these. It copies none of them: it is asked for each service.
func (e *exit) is(want []Row, has *Service, why string, timeout time.Duration) bool {
	return same(want, e.want) && same(has.Servers, e.have) && same(has.Leaving, e.leaving) &&
		why == e.why && timeout == e.timeout && has.Protocol == e.protocol && has.Scheduler == e.scheduler
}

// exitAnswer is the result of exit.merge.
type exitAnswer struct {
	exit    exit
	rows    []Row
	leaving []leaving
	next    time.Time // the earliest deadline
}

// leave answers which of the wanted real servers, and of those that leave, a service gets
// that the kernel has as has.
func (s *merger) leave(want []Row, has *Service, why string, next *time.Time) *exitAnswer {
	a := s.answer(want, has, why)
	*next = earlier(*next, a.next)
	return a
}

// answer is the answer, one of the last ones if the question is the same.
func (s *merger) answer(want []Row, has *Service, why string) *exitAnswer {
	for i := range s.answers { // the newest first: most often it is the one
		if a := &s.answers[(s.newest+i)%len(s.answers)]; a.exit.is(want, has, why, s.timeout) {
			return a
		}
	}
	s.newest = (s.newest + len(s.answers) - 1) % len(s.answers)
	a := &s.answers[s.newest]
	q := exit{want, has.Servers, has.Leaving, why, s.timeout, has.Protocol, has.Scheduler}
	*a = q.merge(s.now)
	return a
}

// merge merges the wanted rows with those the kernel has. A wanted real server
// of weight 0 that the kernel does not have is left out: it would get no
// connection. The wanted rows are shared when no real server leaves.
func (e *exit) merge(now time.Time) exitAnswer {
	stays := func(w, h Row) bool { return w.Weight > 0 && w.SameServer(h.RealServer) }
	if slices.EqualFunc(e.want, e.have, stays) {
		return exitAnswer{exit: *e, rows: e.want}
	}
	a := exitAnswer{exit: *e, rows: make([]Row, 0, max(len(e.want), len(e.have)))}
	// A quiesced UDP real server keeps its flows for as long as clients send, so
	// quiescing would not move them: it goes at once.
	atOnce := e.protocol == UDP || findScheduler(e.scheduler).atOnce
	for n, o := range merged(e.want, e.have, compareRows) {
		switch {
		case n != nil && n.Weight > 0:
			a.rows = append(a.rows, *n)
		case o != nil:
			why, reason := e.why, quiescedGone
			if e.why == noService {
				reason = quiescedPortGone
			}
			if n != nil {
				why, reason = n.Why, n.Reason
			}
			l := leaving{Address: o.Address, Port: o.Port, Why: why, Gone: true}
			if !atOnce {
				l = e.leave(o.RealServer, why, now)
			}
			a.leaving = append(a.leaving, l)
			if !l.Gone {
				row := *o
				row.Weight = 0
				row.Why, row.Reason = why+", draining", reason
				a.rows = append(a.rows, row)
				a.next = earlier(a.next, l.Deadline)
			}
		}
	}
	if len(a.leaving) == 0 && len(a.rows) == len(e.want) {
		a.rows = e.want
	}
	return a
}

// leave decides on one real server that must get no new connections and may drain.
func (e *exit) leave(has RealServer, why string, now time.Time) leaving {
	l := leaving{Address: has.Address, Port: has.Port, Why: why}
	before := findLeaving(e.leaving, has)
	if before != nil {
		l.drain = before.drain
	}
	// The time to drain begins when the kernel has quiesced the real server, not
	// when that was wanted. A deadline that is later than the policy allows was set
	// under an older configuration or another clock.
	if latest := now.Add(e.timeout); before == nil || l.Deadline.IsZero() || has.Weight > 0 || l.Deadline.After(latest) {
		l.Deadline = latest
	}
	switch {
	case !now.Before(l.Deadline):
		l.Gone, l.Why = true, why+", drain deadline"
	case l.Idle && has.Weight == 0:
		l.Gone, l.Why = true, why+", no connections left"
	default:
		l.Idle = false
	}
	return l
}
