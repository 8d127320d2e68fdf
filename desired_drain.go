// How a real server leaves: it is quiesced first, and removed when it has no
// connections left or its deadline has passed.
//
// Used by reconcile*.go. settle runs between desired and diff. Pure: the
// kernel's table, the counts, the drains and the time go in; the table to reach
// and its drains come out. It does not write to its inputs.

package main

import (
	"time"
)

// settled is settle's answer.
type settled struct {
	Parts parts
	// Withdrawn are services that go as a whole now, and who has drained from
	// them: should they not go after all, the deadlines are still known.
	Withdrawn map[ServiceKey][]leaving
	// Next is the earliest deadline, zero when there is none.
	Next time.Time
}

// settle turns what is wanted into what the kernel's table should be right
// now. have is the kernel's table as far as it is ours, with who is leaving.
func settle(w *wanted, have parts, now time.Time) settled {
	s := settling{wanted: w, now: now}
	var done settled
	for want, has := range merged(w.Parts, have, comparePart) {
		var p part
		switch {
		case want != nil && has != nil && w.settledAlready(want, has, now):
			p = *has
		case want != nil && has != nil:
			p = s.part(want.Services, has.Services)
		case want != nil:
			p = s.part(want.Services, nil)
		default:
			p = s.part(nil, has.Services)
		}
		if len(p.Services) > 0 {
			done.Parts = append(done.Parts, p)
			done.Next = earlier(done.Next, p.Next)
		}
	}
	done.Withdrawn = s.withdrawn
	return done
}

// settledAlready reports whether has was made from want, and nothing has become
// due since.
func (w *wanted) settledAlready(want, has *part, now time.Time) bool {
	if !same(want.Services, has.From) || !has.Next.IsZero() && !now.Before(has.Next) {
		return false
	}
	_, held := w.heldFor(has.Services[0].ServiceKey)
	return !held
}

// settling is settle at work.
type settling struct {
	*wanted
	now time.Time
	// Services that have the same real servers lose them the same way, and go on
	// sharing them: the last few answers are at hand for the next service.
	answers   [4]exitAnswer
	withdrawn map[ServiceKey][]leaving
	newest    int
	timeout   time.Duration // to drain, of the part's VIP
}

// part settles the services of one part; either side may be empty.
func (s *settling) part(want, have Table) part {
	// The wanted table itself will often do. It is copied when the first
	// service differs.
	p := part{Services: want, From: want}
	if len(want) > 0 {
		s.timeout = s.policy(want[0].ServiceKey).Timeout
	} else {
		s.timeout = s.policy(have[0].ServiceKey).Timeout
	}
	copied := false
	differ := func(i int) {
		if !copied {
			p.Services = append(make(Table, 0, len(want)+1), want[:i]...)
			copied = true
		}
	}
	i := 0 // of want
	for w, has := range merged(want, have, func(a, b Service) int { return a.Compare(b.ServiceKey) }) {
		var service Service
		switch {
		case w != nil && has == nil:
			service = *w
			s.leave(&service, w.Servers, &Service{}, noPod, &p.Next)
		case w != nil:
			service = *w
			s.leave(&service, w.Servers, has, noPod, &p.Next)
			if w.Scheduler == "dh" && has.Scheduler != "dh" {
				p.From = nil // once it has dh, nobody drains
			}
		default:
			differ(i)
			if h, held := s.heldFor(has.ServiceKey); held && h.Servers == nil {
				service = *has // exactly as the kernel has it
			} else if held {
				service = *has
				service.VIP = s.Owners.of(has.ServiceKey).Name
				s.leave(&service, h.Servers, has, noPod, &p.Next)
			} else {
				service = *has
				s.leave(&service, nil, has, noService, &p.Next)
				if len(service.Servers) == 0 { // they have drained, the whole service goes
					if s.withdrawn == nil {
						s.withdrawn = make(map[ServiceKey][]leaving)
					}
					s.withdrawn[has.ServiceKey] = service.Leaving
					continue
				}
			}
		}
		if w != nil {
			if !same(service.Servers, w.Servers) || len(service.Leaving) > 0 {
				differ(i)
			}
			i++
		}
		if copied {
			p.Services = append(p.Services, service)
		}
	}
	return p
}

// policy is how real servers leave a service; that of a VIP which is configured
// no more is the default.
func (w *wanted) policy(k ServiceKey) Drain {
	if v := w.Owners.latest(k); v != nil {
		return v.Drain
	}
	return Drain{Timeout: defaultDrainTimeout}
}

// heldFor is what is known of the set that k belongs to, if that is too little.
func (w *wanted) heldFor(k ServiceKey) (hold, bool) {
	if len(w.Hold) == 0 {
		return hold{}, false
	}
	v := w.Owners.of(k)
	if v == nil {
		return hold{}, false
	}
	h, held := w.Hold[workKey{v.Name, k.Address.Is6()}]
	return h, held
}

// exit is all that decides how the real servers of a service leave it, the time
// apart. Slices stand for themselves, not for their content.
type exit struct {
	want    []Row
	have    []Row
	leaving []leaving
	why     string        // for a row that is not wanted at all
	timeout time.Duration // to drain
	// atOnce: nothing is gained by quiescing first.
	atOnce bool
}

func (e *exit) same(o *exit) bool {
	return same(e.want, o.want) && same(e.have, o.have) && same(e.leaving, o.leaving) &&
		e.why == o.why && e.timeout == o.timeout && e.atOnce == o.atOnce
}

// exitAnswer is what exit.settle makes of it.
type exitAnswer struct {
	exit    exit
	rows    []Row
	leaving []leaving
	next    time.Time // the earliest deadline
}

// leave gives service, which the kernel has as has, the wanted real servers and
// those that are leaving.
func (s *settling) leave(service *Service, want []Row, has *Service, why string, next *time.Time) {
	q := exit{
		want: want, have: has.Servers, leaving: has.Leaving, why: why, timeout: s.timeout,
		// A quiesced UDP real server keeps its flows for as long as clients send,
		// so quiescing would not move them: it goes at once. So it does with dh,
		// which sends a VIP's clients to one real server and, while that one is
		// quiesced, refuses them all (ip_vs_dh_schedule).
		atOnce: has.Protocol == UDP || has.Scheduler == "dh",
	}
	a := s.answer(&q)
	service.Servers, service.Leaving = a.rows, a.leaving
	if !a.next.IsZero() {
		*next = earlier(*next, a.next)
	}
}

// answer answers q, from what is at hand if it can.
func (s *settling) answer(q *exit) *exitAnswer {
	for i := range s.answers { // the newest first: mostly it is the same again
		if a := &s.answers[(s.newest+i)%len(s.answers)]; a.exit.same(q) {
			return a
		}
	}
	s.newest = (s.newest + len(s.answers) - 1) % len(s.answers)
	a := &s.answers[s.newest]
	*a = q.settle(s.now)
	return a
}

// settle merges the wanted rows with those the kernel has. A wanted real server
// of weight 0 that the kernel has not is left out: it would get no connection.
// The rows are the wanted ones themselves when nothing is on its way out.
func (e *exit) settle(now time.Time) exitAnswer {
	leaves := len(e.want) != len(e.have)
	for i := range e.want {
		if leaves = leaves || e.want[i].Weight == 0 || !e.want[i].SameServer(e.have[i].RealServer); leaves {
			break
		}
	}
	if !leaves {
		return exitAnswer{exit: *e, rows: e.want}
	}
	a := exitAnswer{exit: *e, rows: make([]Row, 0, max(len(e.want), len(e.have)))}
	for n, o := range merged(e.want, e.have, func(a, b Row) int { return a.Compare(b.RealServer) }) {
		switch {
		case n != nil && n.Weight > 0:
			a.rows = append(a.rows, *n)
		case o != nil:
			why := e.why
			if n != nil {
				why = n.Why
			}
			l := e.leave(o.RealServer, why, now)
			a.leaving = append(a.leaving, l)
			if !l.Gone {
				row := *o
				row.Weight = 0
				row.Why = why + ", draining"
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

// leave decides on one real server that must get no new connections.
func (e *exit) leave(has RealServer, why string, now time.Time) leaving {
	l := leaving{Address: has.Address, Port: has.Port, Why: why}
	if e.atOnce {
		l.Gone = true
		return l
	}
	before := findLeaving(e.leaving, has)
	if before != nil {
		l.drain = before.drain
	}
	// The time to drain begins when the kernel has quiesced the real server, not
	// when somebody wished it. A deadline further away than the policy allows
	// was set under an older configuration or another clock.
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
