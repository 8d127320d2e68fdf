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
	i := 0 // of want
	for w, has := range merged(want, have, compareServices) {
		var service Service
		if s.shared {
			s.timeout = s.drainTimeout(cmp.Or(w, has).ServiceKey)
		}
		if w != nil {
			if has == nil {
				has = &Service{}
			}
			service = *w
			s.leave(&service, w.Servers, has, noPod, &p.Next)
			if w.Scheduler != has.Scheduler && findScheduler(w.Scheduler).atOnce {
				p.From = nil // once it has this scheduler, no real server drains
			}
			if !same(service.Servers, w.Servers) || len(service.Leaving) > 0 {
				differ(i)
			}
			i++
		} else {
			differ(i)
			service = *has
			if h, incomplete := s.retainedFor(has.ServiceKey); !incomplete {
				s.leave(&service, nil, has, noService, &p.Next)
				if len(service.Servers) == 0 { // they have drained, the whole service goes
					s.withdrawn[has.ServiceKey] = service.Leaving
					continue
				}
			} else if h.Servers != nil { // else it stays exactly as the kernel has it
				service.VIP = s.Owners.of(has.ServiceKey).Name
				s.leave(&service, h.Servers, has, noPod, &p.Next)
			}
		}
		if copied {
			p.Services = append(p.Services, service)
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

func (e *exit) same(o *exit) bool {
	return same(e.want, o.want) && same(e.have, o.have) && same(e.leaving, o.leaving) &&
		e.why == o.why && e.timeout == o.timeout && e.protocol == o.protocol && e.scheduler == o.scheduler
}

// exitAnswer is the result of exit.merge.
type exitAnswer struct {
	exit    exit
	rows    []Row
	leaving []leaving
	next    time.Time // the earliest deadline
}

// leave gives service, which the kernel has as has, the wanted real servers and
// those that leave.
func (s *merger) leave(service *Service, want []Row, has *Service, why string, next *time.Time) {
	a := s.answer(&exit{want, has.Servers, has.Leaving, why, s.timeout, has.Protocol, has.Scheduler})
	service.Servers, service.Leaving = a.rows, a.leaving
	*next = earlier(*next, a.next)
}

// answer answers q, with one of the last answers if q is the same.
func (s *merger) answer(q *exit) *exitAnswer {
	for i := range s.answers { // the newest first: most often it is the one
		if a := &s.answers[(s.newest+i)%len(s.answers)]; a.exit.same(q) {
			return a
		}
	}
	s.newest = (s.newest + len(s.answers) - 1) % len(s.answers)
	a := &s.answers[s.newest]
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
