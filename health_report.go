// What the prober publishes: its Health, its log lines, its counters.
//
// Used by health_probe.go and http*.go. The prober's goroutine calls everything
// here except Stats. A change is logged once, and an unchanged state is not
// logged. It decides nothing.

package main

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// repeatFault is when the same fault of the director itself is logged again.
const repeatFault = time.Hour

// ProbeStats are the prober's counters.
type ProbeStats struct {
	Kinds    [len(probeKinds)]KindStats
	Running  int // probes that wait for an answer
	FailOpen int // sets that fail as a whole and stay in service
}

// KindStats are the counters of one kind of probe. The results are counted
// since the start, the targets are the present ones.
type KindStats struct {
	Kind                     string // "http", "tcp", "port", "datapath"
	Passed, Failed, NoResult uint64
	Targets, Down, Unknown   int
}

// newProbeStats are counters that have counted nothing.
func newProbeStats() ProbeStats {
	var s ProbeStats
	for i := range s.Kinds {
		s.Kinds[i].Kind = probeKind(i).String()
	}
	return s
}

// Stats returns the counters. It is safe for concurrent use.
func (p *prober) Stats() ProbeStats {
	p.counters.mu.Lock()
	defer p.counters.mu.Unlock()
	return p.counters.stats
}

// probeCounters are ProbeStats that another goroutine may read meanwhile.
type probeCounters struct {
	mu    sync.Mutex
	stats ProbeStats
}

// count adds one result.
func (c *probeCounters) count(k probeKind, r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.stats.Kinds[k]
	switch r {
	case passed:
		s.Passed++
	case failed:
		s.Failed++
	case noResult:
		s.NoResult++
	}
}

// update counts the targets and the running probes.
func (c *probeCounters) update(s *schedule, h *Health) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, n := range s.counts {
		k := &c.stats.Kinds[i]
		k.Targets, k.Down, k.Unknown = n[unknown]+n[up]+n[down], n[down], n[unknown]
	}
	c.stats.Running, c.stats.FailOpen = s.running, len(h.Open)
}

// publish publishes and logs what has changed since the last time, unless
// nothing has or that was less than publishGap ago.
func (p *prober) publish(now time.Time) {
	if !p.changed || now.Before(p.published.Add(publishGap)) {
		return
	}
	p.changed, p.published = false, now
	all := p.schedule.judge()
	p.logged.changes(all, p.schedule)
	h := newHealth(all, p.schedule.recalled)
	changed := !h.equal(p.health)
	p.health = h
	p.counters.update(p.schedule, h) // before the readers of the Health wake
	if changed {
		p.out.Set(h)
	}
}

// probeLog logs what the probes find, and remembers what it has logged.
type probeLog struct {
	log     *slog.Logger
	failing map[HealthKey]string
	open    []FailOpen
	faults  map[string]time.Time // of the director itself
}

// fault logs what keeps the director from probing: once, because it is the same
// for every target and in every round.
func (l *probeLog) fault(t *target, why string, now time.Time) {
	key := t.kind.String() + " " + why
	if last, logged := l.faults[key]; logged && now.Sub(last) < repeatFault {
		return
	}
	if len(l.faults) > 100 {
		clear(l.faults)
	}
	l.faults[key] = now
	l.log.Warn("probe: the director cannot probe, which does not count against the real server", "vip", t.vip.name, "server", t.server, "probe", t.kind, "err", why)
}

// changes logs what began to fail or ended to, and where that takes no real
// server out of service because all fail.
func (l *probeLog) changes(all []findings, s *schedule) {
	failing := make(map[HealthKey]string)
	var open []FailOpen
	asked := make(map[HealthKey]bool)
	for _, f := range all {
		maps.Copy(failing, f.Failing)
		open = append(open, f.Open...)
		for _, a := range f.Servers {
			asked[HealthKey{f.VIP, a, 0}] = true
		}
	}
	began, ended := make(portChanges), make(portChanges)
	for _, k := range slices.SortedFunc(maps.Keys(failing), HealthKey.Compare) {
		if _, before := l.failing[k]; before {
			continue
		}
		if k.Port == 0 {
			l.log.Warn("probe: real server down", "vip", k.VIP, "server", k.Address, "why", failing[k])
		} else {
			began.add(k, s.why(k))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(l.failing), HealthKey.Compare) {
		_, still := failing[k]
		switch {
		case still || !asked[HealthKey{k.VIP, k.Address, 0}]: // or not asked any more
		case k.Port == 0:
			l.log.Info("probe: real server not down any more", "vip", k.VIP, "server", k.Address)
		case s.targets[portTarget(k)] != nil:
			ended.add(k, "")
		}
	}
	for _, n := range began.sorted() {
		l.log.Warn("probe: ports down", "vip", n.vip, "server", n.server, "ports", joinPorts(began[n]), "why", n.why)
	}
	for _, n := range ended.sorted() {
		l.log.Info("probe: ports not down any more", "vip", n.vip, "server", n.server, "ports", joinPorts(ended[n]))
	}
	l.failOpen(open)
	l.failing, l.open = failing, open
}

// failOpen logs where all fail at once, and where that has ended.
func (l *probeLog) failOpen(open []FailOpen) {
	for _, o := range open {
		log := l.log.With("vip", o.VIP, "family", familyName(o.Is6))
		switch {
		case slices.ContainsFunc(l.open, o.same):
		case o.Port == 0:
			log.Error("probe: all real servers fail at once, so all stay in service", "why", o.Why)
		default:
			log.Warn("probe: no real server serves this port, so all stay in service", "port", Port{o.Port, TCP}, "why", o.Why)
		}
	}
	for _, o := range l.open {
		log := l.log.With("vip", o.VIP, "family", familyName(o.Is6))
		switch {
		case slices.ContainsFunc(open, o.same):
		case o.Port == 0:
			log.Info("probe: not all real servers fail any more")
		default:
			log.Info("probe: a real server serves this port again, or the port is gone", "port", Port{o.Port, TCP})
		}
	}
}

// portChanges are ports by the change that they have in common.
type portChanges map[portChange][]uint16

type portChange struct {
	vip    string
	server netip.Addr
	why    string
}

func (n portChanges) add(k HealthKey, why string) {
	change := portChange{k.VIP, k.Address, why}
	n[change] = append(n[change], k.Port)
}

// sorted lists the changes by VIP, real server and first port.
func (n portChanges) sorted() []portChange {
	return slices.SortedFunc(maps.Keys(n), func(a, b portChange) int {
		return HealthKey{a.vip, a.server, n[a][0]}.Compare(HealthKey{b.vip, b.server, n[b][0]})
	})
}
