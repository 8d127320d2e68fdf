// What the prober publishes: its Health, its log lines, its counters.
//
// Used by http*.go. The prober's goroutine calls everything here except Stats.
// A change is logged once, and an unchanged state is not logged.

package main

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// ProbeStats are the prober's counters.
type ProbeStats struct {
	Kinds    [probeKinds]KindStats
	InFlight int // probes that wait for an answer
	FailOpen int // sets that fail as a whole and stay in service
}

// KindStats are the counters of one kind of probe. The results are counted
// since the start, the targets are those of the moment.
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
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// count adds one result to the counters.
func (p *prober) count(k probeKind, r result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.stats.Kinds[k]
	switch r {
	case passed:
		s.Passed++
	case failed:
		s.Failed++
	case noResult:
		s.NoResult++
	}
}

// countTargets brings the counters of the moment up to date.
func (p *prober) countTargets() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, n := range p.schedule.counts {
		s := &p.stats.Kinds[i]
		s.Targets, s.Down, s.Unknown = n[unknown]+n[up]+n[down], n[down], n[unknown]
	}
	p.stats.InFlight, p.stats.FailOpen = p.schedule.inFlight, len(p.health.Open)
}

// publish tells what has changed since it last did, if anything has and it was
// not just now.
func (p *prober) publish(now time.Time) {
	if !p.news || now.Before(p.published.Add(publishGap)) {
		return
	}
	p.news, p.published = false, now
	all := p.schedule.judge()
	p.logChanges(all)
	h := newHealth(all, p.schedule.recalled)
	changed := !h.equal(p.health)
	p.health = h
	p.countTargets() // first, for those whom the Health wakes
	if changed {
		p.out.Set(h)
	}
}

// logChanges logs what began to fail or ended to, and where that will not take
// anybody out of service.
func (p *prober) logChanges(all []findings) {
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
	began, ended := make(portNews), make(portNews)
	for _, k := range slices.SortedFunc(maps.Keys(failing), HealthKey.Compare) {
		if _, before := p.failing[k]; before {
			continue
		}
		if k.Port == 0 {
			p.log.Warn("probe: real server down", "vip", k.VIP, "server", k.Address, "why", failing[k])
		} else {
			began.add(k, p.schedule.why(k))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(p.failing), HealthKey.Compare) {
		_, still := failing[k]
		switch {
		case still || !asked[HealthKey{k.VIP, k.Address, 0}]: // or not asked any more
		case k.Port == 0:
			p.log.Info("probe: real server not down any more", "vip", k.VIP, "server", k.Address)
		case p.schedule.targets[portTarget(k)] != nil:
			ended.add(k, "")
		}
	}
	for _, n := range began.sorted() {
		p.log.Warn("probe: ports down", "vip", n.vip, "server", n.server, "ports", joinPorts(began[n]), "why", n.why)
	}
	for _, n := range ended.sorted() {
		p.log.Info("probe: ports not down any more", "vip", n.vip, "server", n.server, "ports", joinPorts(ended[n]))
	}
	p.logOpen(open)
	p.failing, p.open = failing, open
}

// logOpen logs where all fail at once, and where that has ended.
func (p *prober) logOpen(open []FailOpen) {
	for _, o := range open {
		switch {
		case slices.ContainsFunc(p.open, o.same):
		case o.Port == 0:
			p.log.Error("probe: all real servers fail at once: the probes are at fault, all stay in service",
				"vip", o.VIP, "family", familyName(o.Is6), "why", o.Why)
		default:
			p.log.Warn("probe: no real server serves this port: that is no fault of theirs, all stay in service",
				"vip", o.VIP, "family", familyName(o.Is6), "port", Port{o.Port, TCP}, "why", o.Why)
		}
	}
	for _, o := range p.open {
		switch {
		case slices.ContainsFunc(open, o.same):
		case o.Port == 0:
			p.log.Info("probe: not all real servers fail any more", "vip", o.VIP, "family", familyName(o.Is6))
		default:
			p.log.Info("probe: this port is served again, or gone", "vip", o.VIP, "family", familyName(o.Is6), "port", Port{o.Port, TCP})
		}
	}
}

// portNews are ports of which the same can be said.
type portNews map[portFate][]uint16

type portFate struct {
	vip    string
	server netip.Addr
	why    string
}

func (n portNews) add(k HealthKey, why string) {
	fate := portFate{k.VIP, k.Address, why}
	n[fate] = append(n[fate], k.Port)
}

// sorted lists the fates by VIP, real server and first port.
func (n portNews) sorted() []portFate {
	return slices.SortedFunc(maps.Keys(n), func(a, b portFate) int {
		return HealthKey{a.vip, a.server, n[a][0]}.Compare(HealthKey{b.vip, b.server, n[b][0]})
	})
}
