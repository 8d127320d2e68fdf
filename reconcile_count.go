// Counts the connections of real servers that drain.
//
// Used by reconcile.go. IPVS can only be asked for all real servers of a
// service, so a node that leaves thousands of services needs thousands of
// questions. Each pass asks a few, and newer inputs come in between. It decides
// nothing: settle in desired_drain.go reads the counts.

package main

import (
	"slices"
	"time"
)

const (
	// drainPoll is how often the connections of draining real servers are
	// counted. It is also the shortest drain: a packet that chose the real
	// server just before it was quiesced has long been counted by then.
	drainPoll = time.Second

	// pollShare bounds what counting costs in a large table: the next round is
	// so many times as far away as the last one took.
	pollShare = 20

	// countAtOnce is how many services are asked about in one turn: a few
	// milliseconds.
	countAtOnce = 64
)

// counting is a round of counting under way.
type counting struct {
	left  []*Service // to ask about; of the table that the round began with
	took  time.Duration
	found []idleService
}

// idleService is a service of which real servers have become idle.
type idleService struct {
	key  ServiceKey
	idle []leaving // as they stood when they were counted
}

// countDraining asks the kernel for the connections of real servers that drain,
// as part of a round. At its end it marks those that have none.
func (r *reconciler) countDraining() error {
	start := r.now()
	c := &r.counting
	if len(c.left) == 0 {
		*c = counting{}
		for i := range r.have {
			if p := &r.have[i]; p.Next.IsZero() && p.From != nil {
				continue // nothing drains
			}
			for j := range r.have[i].Services {
				if s := &r.have[i].Services[j]; s.draining() {
					c.left = append(c.left, s)
				}
			}
		}
	}
	n := min(len(c.left), r.countAtOnce)
	for _, s := range c.left[:n] {
		if err := r.countService(s); err != nil {
			*c = counting{}
			return r.broken(err)
		}
	}
	c.left = c.left[n:]
	c.took += r.now().Sub(start)
	if len(c.left) > 0 {
		r.pollAt = r.now()
		return nil
	}
	r.pollAt = r.now().Add(max(drainPoll, pollShare*c.took))
	r.markIdle(c.found)
	*c = counting{}
	return nil
}

// countService asks about one service.
func (r *reconciler) countService(s *Service) error {
	var idle []leaving
	if err := r.director.Servers(s.ServiceKey, func(k KernelServer) {
		if l := findLeaving(s.Leaving, k.RealServer); l != nil && !l.Idle && k.Weight == 0 && k.Connections.Idle() {
			idle = append(idle, *l)
		}
	}); err != nil || len(idle) == 0 {
		return err
	}
	r.counting.found = append(r.counting.found, idleService{s.ServiceKey, idle})
	return nil
}

// markIdle notes in the table what a round has found. Of a drain that has begun
// anew since, and so has another deadline, it says nothing.
func (r *reconciler) markIdle(found []idleService) {
	if len(found) == 0 {
		return
	}
	r.have = slices.Clone(r.have) // others look at the old one
	copied := -1                  // the part whose services are a copy already
	var was, now []leaving        // the last answer: services share both
	for _, f := range found {
		i := r.have.index(f.key)
		if i < 0 {
			continue
		}
		at := r.have[i].Services.index(f.key)
		if at < 0 {
			continue
		}
		before := r.have[i].Services[at].Leaving
		next, changed := withIdle(before, f.idle)
		if !changed {
			continue
		}
		if same(was, before) && slices.Equal(now, next) {
			next = now
		}
		was, now = before, next
		if i != copied {
			r.have[i], copied = part{Services: slices.Clone(r.have[i].Services)}, i
		}
		r.have[i].Services[at].Leaving = next
	}
}

// withIdle marks those of all that are the same drains as in idle.
func withIdle(all, idle []leaving) (marked []leaving, changed bool) {
	marked = slices.Clone(all)
	for i := range marked {
		l := &marked[i]
		if !l.Gone && !l.Idle && slices.ContainsFunc(idle, func(o leaving) bool {
			return o.Address == l.Address && o.Port == l.Port && o.Deadline.Equal(l.Deadline)
		}) {
			l.Idle, changed = true, true
		}
	}
	return marked, changed
}
