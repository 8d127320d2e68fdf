// Decides when each target is probed.
//
// Used by health*.go. The prober has one schedule: it starts the probes that
// due returns and reports the result of each to finish. A target is in one
// place at a time: in the timers, in a queue, or in a running probe, where its
// timer is the deadline. No I/O, no clock and no goroutine: the time is a
// parameter, so a test of hours with thousands of targets takes a moment.

package main

import (
	"container/heap"
	"container/list"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// maxRunning bounds file descriptors and memory. Probes whose target was
	// silent last time, and so is likely to take its whole timeout again, share
	// half of it: a segment full of dead nodes does not delay other probes.
	maxRunning = 1024
	maxSilent  = maxRunning / 2
	// maxBegin bounds one pass, so that answers are read in between.
	maxBegin = 256
	// paceSlack is how much of an unused budget may be used later: a pass of the
	// prober comes a little late.
	paceSlack = 100 * time.Millisecond
	// probeJitter is how much an interval may be shorter or longer.
	probeJitter = 0.1
)

// targetKey identifies a target over changes of the plan.
type targetKey struct {
	name   string // of the VIP
	server netip.Addr
	kind   probeKind
	via    netip.Addr // the VIP's address, where a kind asks for each of them
	port   uint16     // of a kind for single ports
	part   uint8      // which of several questions of the kind
}

// target is one thing that is probed repeatedly.
type target struct {
	targetKey
	verdict
	to  netip.AddrPort // what is connected to
	vip *vipSchedule
	set *probedSet

	at        time.Time // when it is due or, while running, overdue
	index     int       // in the timers; -1 = it is not there
	queue     *list.List
	place     *list.Element // in queue
	began     time.Time     // the last probe
	took      time.Duration // the last finished one
	finished  bool          // there is one
	running   bool
	wasSilent bool   // nothing came back last time
	last      result // of the last probe
	said      string // why it failed, or was none
	round     uint64
	attempt   *attempt // the running probe, for the prober
}

// probedSet are the targets of a VIP in one family, which are judged together.
type probedSet struct {
	targets []*target                // in the order of the plan
	ports   map[netip.Addr][]*target // of single ports, by real server
	dirty   bool                     // findings are older than a verdict
	findings
}

// vipSchedule is what the targets of a VIP share.
type vipSchedule struct {
	name   string
	probes *Probes
	pace   pacer
	urgent *list.List   // targets of single ports that are due, in doubt
	due    *list.List   // and the others
	taken  uint         // from either
	sets   [2]probedSet // IPv4, IPv6
}

// pacer keeps a rate. The zero value has begun nothing.
type pacer struct {
	every time.Duration
	next  time.Time
}

// take reports whether one more may begin now.
func (p *pacer) take(now time.Time) bool {
	if now.Before(p.next) {
		return false
	}
	if late := now.Add(-paceSlack); p.next.Before(late) {
		p.next = late
	}
	p.next = p.next.Add(p.every)
	return true
}

// schedule is every target of a plan. Use newSchedule.
type schedule struct {
	random  func() float64 // [0,1)
	targets map[targetKey]*target
	vips    []*vipSchedule // in the order of the plan
	timers  timers
	// ready and silent may begin as soon as there is room: those that answered
	// last time and those that did not.
	ready, silent          *list.List
	running, runningSilent int
	counts                 [len(probeKinds)][down + 1]int // targets by condition
	round                  uint64
	// recalled are those that an earlier run found down and that not every kind
	// of probe which may have found it can probe yet.
	recalled map[HealthKey]string
}

// newSchedule returns an empty schedule. recalled is what an earlier run found
// down.
func newSchedule(random func() float64, recalled map[HealthKey]string) *schedule {
	return &schedule{
		random: random, targets: make(map[targetKey]*target), ready: list.New(), silent: list.New(),
		recalled: maps.Clone(recalled),
	}
}

// replan makes the targets those of plan. A target that stays keeps its verdict.
// It returns the targets that left during a probe.
func (s *schedule) replan(plan *ProbePlan, now time.Time) (dropped []*target) {
	s.round++
	before := make(map[string]*vipSchedule, len(s.vips))
	for _, v := range s.vips {
		before[v.name] = v
	}
	s.vips = s.vips[:0]
	for i := range plan.VIPs {
		p := &plan.VIPs[i]
		if p.Probes == nil {
			continue
		}
		v := before[p.Name]
		if v == nil {
			v = &vipSchedule{name: p.Name, urgent: list.New(), due: list.New()}
		}
		v.probes = p.Probes
		for i, old := range v.sets {
			v.sets[i] = probedSet{ports: make(map[netip.Addr][]*target), dirty: true, findings: old.findings}
		}
		v.pace.every = time.Second / time.Duration(p.Probes.ConnectsPerSecond)
		s.vips = append(s.vips, v)
		for j := range p.Servers {
			server := &p.Servers[j]
			for _, kind := range p.Probes.kinds() {
				for _, q := range kind.methodOf().targets(p, server) {
					s.add(targetKey{p.Name, server.Address, kind, q.via, q.port, q.part}, q.to, v, now)
				}
			}
		}
		s.recall(v)
	}
	maps.DeleteFunc(s.recalled, func(k HealthKey, _ string) bool {
		i := slices.IndexFunc(plan.VIPs, func(p ProbedVIP) bool { return p.Name == k.VIP && p.Probes != nil })
		return i < 0 || s.found(&plan.VIPs[i], k)
	})
	for key, t := range s.targets {
		if t.round != s.round {
			if t.running {
				dropped = append(dropped, t)
			}
			s.remove(t)
			s.counts[t.kind][t.state]--
			delete(s.targets, key)
		}
	}
	return dropped
}

// add keeps or makes one target. A new one is first due at a random moment of
// its interval: a start must not probe all at once.
func (s *schedule) add(key targetKey, to netip.AddrPort, v *vipSchedule, now time.Time) {
	t := s.targets[key]
	switch {
	case t == nil:
		t = &target{targetKey: key, index: -1}
		t.at = now.Add(time.Duration(s.random() * float64(v.probes.Interval)))
		s.targets[key] = t
		s.counts[t.kind][unknown]++
		heap.Push(&s.timers, t)
	case t.round == s.round:
		return // the plan names it twice
	case t.index >= 0 && !t.running && t.at.After(now.Add(v.probes.Interval)):
		t.at = now.Add(v.probes.Interval) // the interval has become shorter
		heap.Fix(&s.timers, t.index)
	}
	t.round, t.to, t.vip = s.round, to, v
	set := &v.sets[familyIndex(key.server.Is6())]
	t.set = set
	set.targets = append(set.targets, t)
	if key.port != 0 {
		set.ports[key.server] = append(set.ports[key.server], t)
	}
}

// recall gives v's targets the verdicts of an earlier run: a restart must not
// send clients to a node that is down until that is found out again.
func (s *schedule) recall(v *vipSchedule) {
	for i := range v.sets {
		set := &v.sets[i]
		for _, t := range set.targets {
			if !t.began.IsZero() {
				continue // it has been probed since
			}
			node := HealthKey{v.name, t.server, 0}
			whole, out := s.recalled[node]
			key := HealthKey{v.name, t.server, t.port}
			why, found := s.recalled[key]
			if !found && out && !v.probes.probesWhole() {
				// It was out because no port answered. A port without an entry was
				// silent on all, or is new.
				why, found = portReason(t.port, "no answer before the restart"), true
			}
			if !found {
				continue
			}
			if set.Down == nil {
				set.Down = make(map[HealthKey]string)
			}
			if set.Down[key] = why; out {
				set.Down[node] = whole
			}
			s.counts[t.kind][t.state]--
			t.verdict = verdict{state: down, why: strings.TrimPrefix(why, portReason(t.port, "")), silent: out}
			s.counts[t.kind][t.state]++
		}
	}
}

// found reports whether k, which an earlier run found down, need not be recalled
// any more: p's targets find out about it, or it is gone.
func (s *schedule) found(p *ProbedVIP, k HealthKey) bool {
	i := slices.IndexFunc(p.Servers, func(s ProbedServer) bool { return s.Address == k.Address })
	switch {
	case i < 0:
		return !p.ServersUnknown
	case k.Port != 0:
		return !p.PortsUnknown || s.targets[portTarget(k)] != nil
	}
	return !p.PortsUnknown || p.canProbe(&p.Servers[i])
}

// canProbe reports whether each kind that may find server down as a whole has a
// target. Probes of single ports are such a kind where there is no other.
func (p *ProbedVIP) canProbe(server *ProbedServer) bool {
	whole := p.Probes.probesWhole()
	return !slices.ContainsFunc(p.Probes.kinds(), func(k probeKind) bool {
		return probeKinds[k].perPort != whole && len(k.methodOf().targets(p, server)) == 0
	})
}

// remove takes t out of the timers, its queue and the running probes.
func (s *schedule) remove(t *target) {
	if t.index >= 0 {
		heap.Remove(&s.timers, t.index)
	}
	if t.queue != nil {
		t.queue.Remove(t.place)
		t.queue, t.place = nil, nil
	}
	if t.running {
		t.running = false
		s.running--
		if t.wasSilent {
			s.runningSilent--
		}
	}
}

// enqueue moves t to the end of a queue.
func (s *schedule) enqueue(t *target, queue *list.List) {
	s.remove(t)
	t.queue, t.place = queue, queue.PushBack(t)
}

// due returns the targets to begin now, and the running ones whose time is over.
// The caller has to finish each of the latter.
func (s *schedule) due(now time.Time) (begin, overdue []*target) {
	for len(s.timers) > 0 && !s.timers[0].at.After(now) {
		switch t := heap.Pop(&s.timers).(*target); {
		case t.running:
			overdue = append(overdue, t)
		case t.port == 0:
			s.admit(t)
		case t.inDoubt():
			s.enqueue(t, t.vip.urgent)
		default:
			s.enqueue(t, t.vip.due)
		}
	}
	for _, v := range s.vips {
		for v.urgent.Len()+v.due.Len() > 0 && v.pace.take(now) {
			s.admit(v.first())
		}
	}
	for len(begin) < maxBegin {
		t := s.first()
		if t == nil {
			break
		}
		s.remove(t)
		t.running, t.began, t.at = true, now, now.Add(t.vip.probes.Timeout)
		heap.Push(&s.timers, t)
		s.running++
		if t.wasSilent {
			s.runningSilent++
		}
		begin = append(begin, t)
	}
	return begin, overdue
}

// first picks the next target of a VIP's budget. Targets in doubt go first, but
// not alone: there may be more of them than the budget allows.
func (v *vipSchedule) first() *target {
	v.taken++
	front := v.urgent.Front()
	if front == nil || v.due.Len() > 0 && v.taken%4 == 0 {
		front = v.due.Front()
	}
	return front.Value.(*target)
}

// admit lets t begin as soon as there is room.
func (s *schedule) admit(t *target) {
	if t.wasSilent {
		s.enqueue(t, s.silent)
	} else {
		s.enqueue(t, s.ready)
	}
}

// first is the next target there is room for, nil when there is none.
func (s *schedule) first() *target {
	front := s.ready.Front()
	if front == nil && s.runningSilent < maxSilent {
		front = s.silent.Front()
	}
	if front == nil || s.running >= maxRunning {
		return nil
	}
	return front.Value.(*target)
}

// next is when due has something to return; zero = not before a probe ends or the
// plan changes.
func (s *schedule) next(now time.Time) time.Time {
	if s.first() != nil {
		return now
	}
	var next time.Time
	if len(s.timers) > 0 {
		next = s.timers[0].at
	}
	for _, v := range s.vips {
		if v.urgent.Len()+v.due.Len() > 0 && (next.IsZero() || v.pace.next.Before(next)) {
			next = v.pace.next
		}
	}
	return next
}

// prolong moves the deadline of a running probe.
func (s *schedule) prolong(t *target, deadline time.Time) {
	t.at = deadline
	heap.Fix(&s.timers, t.index)
}

// finish takes the outcome of a probe, and plans the next one. It reports whether
// the findings may change.
func (s *schedule) finish(t *target, o outcome, now time.Time) (changed bool) {
	s.remove(t)
	t.wasSilent, t.last, t.said = o.silent, o.result, o.why
	t.took, t.finished = now.Sub(t.began), true
	p := t.vip.probes
	before := t.state
	changed = t.observe(o, p.Rise, p.Fall)
	s.counts[t.kind][before]--
	s.counts[t.kind][t.state]++
	if t.port != 0 && before == unknown && t.state == up {
		changed = false // it serves as before, and at a start there are thousands
	}
	// Deferred findings depend on the doubts, which change each time.
	if changed = changed || t.set.Deferred > 0; changed {
		t.set.dirty = true
	}
	gap := p.Interval
	if t.inDoubt() && t.state != down {
		gap /= 2
	}
	t.at = t.began.Add(time.Duration(float64(gap) * (1 - probeJitter + 2*probeJitter*s.random())))
	if t.at.Before(now) {
		t.at = now
	}
	heap.Push(&s.timers, t)
	if t.port != 0 && o.silent && t.streak == 1 && t.state != down {
		s.hurry(t)
	}
	return changed
}

// hurry probes the other ports of a real server at once, after one of them has
// become silent: with many ports it would take long until a dead node has been
// found dead at each.
func (s *schedule) hurry(t *target) {
	for _, o := range t.set.ports[t.server] {
		if o.running || o.inDoubt() || o.state == down || !o.began.Before(t.began) || o.queue != nil && o.queue != o.vip.due {
			continue // its result is known or comes soon: it runs, has run since, or is urgent already
		}
		s.enqueue(o, o.vip.urgent)
	}
}

// judge updates the findings of every set and returns them.
func (s *schedule) judge() (all []findings) {
	for _, v := range s.vips {
		for i := range v.sets {
			set := &v.sets[i]
			if set.dirty {
				set.findings, set.dirty = judge(v.name, i == familyIndex(true), set.targets, set.Down), false
			}
			all = append(all, set.findings)
		}
	}
	return all
}

// timers is a heap of targets by their time.
type timers []*target

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *timers) Push(x any) {
	t := x.(*target)
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *timers) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	t.index = -1
	*h = old[:len(old)-1]
	return t
}

// portTarget is the target of a port. probePort is the only kind for single ports.
func portTarget(k HealthKey) targetKey {
	return targetKey{name: k.VIP, server: k.Address, kind: probePort, port: k.Port}
}
