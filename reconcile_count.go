// Counts the connections of real servers that drain.
//
// Used by reconcile.go. IPVS can only be asked for all real servers of a
// service, so a node that leaves thousands of services needs thousands of
// questions. Newer inputs come in between: they end the part of a round that a pass
// takes. It decides nothing: computeTarget in desired_drain.go reads the counts.

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

	// countAtOnce is how many services are asked about between two looks at whether
	// there are newer inputs: some milliseconds.
	countAtOnce = 64

	// countMost is how long one pass counts: its own deadlines wait for it.
	countMost = 100 * time.Millisecond
)

// drainCount counts connections, in rounds.
type drainCount struct {
	atOnce int        // services in one pass
	left   []draining // to ask about in this round; of the table that it began with
	took   time.Duration
	found  []idleService
}

// draining is a service with a real server that drains, and its place in the table.
type draining struct {
	*Service
	shard, at int
}

// idleService is a service of which real servers have become idle.
type idleService struct {
	draining
	idle []leaving // as they were when they were counted
}

// in returns the service of all with d's key, and the number of its shard; nil if there
// is none. Mostly it is where it was: a search for each of thousands takes as long as
// the kernel takes to remove their real servers.
func (d *draining) in(all shards) (s *Service, shard int) {
	if d.shard < len(all) && d.at < len(all[d.shard].Services) {
		if s := &all[d.shard].Services[d.at]; s.ServiceKey == d.ServiceKey {
			return s, d.shard
		}
	}
	if s = all.find(d.ServiceKey); s != nil {
		shard = all.index(d.ServiceKey)
	}
	return s, shard
}

// reset gives up the present round.
func (c *drainCount) reset() { *c = drainCount{atOnce: c.atOnce} }

// round asks the kernel for the connections of real servers that drain, as a part
// of a round that ends when newer reports newer inputs, and returns when the next part
// is due. At the end of the round it marks in k those that have none. An error means
// that the conversation broke.
func (c *drainCount) round(k *kernelTable, newer func() bool, clock func() time.Time) (next time.Time, err error) {
	start := clock()
	if len(c.left) == 0 {
		c.begin(k.have)
	}
	now := start
	for more := true; more; more = len(c.left) > 0 && now.Sub(start) < countMost && !newer() {
		n := min(len(c.left), c.atOnce)
		for _, s := range c.left[:n] {
			if err := c.count(k.director, s); err != nil {
				c.reset()
				return time.Time{}, k.broken(err)
			}
		}
		c.left = c.left[n:]
		now = clock()
	}
	c.took += now.Sub(start)
	if len(c.left) > 0 {
		return now, nil
	}
	next = now.Add(max(drainPoll, pollShare*c.took))
	k.have = withIdleServices(k.have, c.found)
	c.reset()
	return next, nil
}

// begin lists the services of have that have a real server that drains.
func (c *drainCount) begin(have shards) {
	c.reset()
	for i := range have {
		p := &have[i]
		if p.Next.IsZero() && p.From != nil {
			continue // nothing drains
		}
		for j := range p.Services {
			if s := &p.Services[j]; s.draining() {
				c.left = append(c.left, draining{s, i, j})
			}
		}
	}
}

// count asks about one service.
func (c *drainCount) count(kernel director, s draining) error {
	var idle []leaving
	if err := kernel.Connections(s.Service, func(k KernelServer) {
		if l := findLeaving(s.Leaving, k.RealServer); l != nil && !l.Idle && k.Weight == 0 && k.Connections.Idle() {
			idle = append(idle, *l)
		}
	}); err != nil || len(idle) == 0 {
		return err
	}
	c.found = append(c.found, idleService{s, idle})
	return nil
}

// withIdleServices is have with what a round has found. A drain that began again
// since, and so has another deadline, stays as it is. What does not change is
// shared with have, which others may still read.
func withIdleServices(have shards, found []idleService) shards {
	if len(found) == 0 {
		return have
	}
	have = slices.Clone(have)
	copied := -1                 // the shard whose services are a copy already
	var was, idle, now []leaving // the last question and its answer: services share them
	for _, f := range found {
		s, i := f.in(have)
		if s == nil {
			continue
		}
		before := s.Leaving
		if !same(was, before) || !slices.Equal(idle, f.idle) {
			was, idle, now = before, f.idle, withIdle(before, f.idle)
		}
		next := now
		if slices.Equal(before, next) {
			continue
		}
		if i != copied {
			have[i], copied = shard{Services: slices.Clone(have[i].Services)}, i
			s, _ = f.in(have)
		}
		s.Leaving = next
	}
	return have
}

// withIdle is all with those marked that are the same drains as in idle.
func withIdle(all, idle []leaving) []leaving {
	all = slices.Clone(all)
	for i := range all {
		l := &all[i]
		l.Idle = l.Idle || !l.Gone && slices.ContainsFunc(idle, func(o leaving) bool {
			return o.Address == l.Address && o.Port == l.Port && o.Deadline.Equal(l.Deadline)
		})
	}
	return all
}
