// What the prober publishes: its Health, its log lines, its counters.
//
// Used by health_probe.go and http*.go. The prober's goroutine calls everything
// here except Stats. A change is logged once, and an unchanged state is not
// logged. It decides nothing.

package main

import (
	"cmp"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
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

// KindStats are the counters of one kind of probe.
type KindStats struct {
	Results [failed + 1]uint64 // since the start, by result
	Targets [down + 1]int      // the present ones, by condition
}

// Stats returns the counters. It is safe for concurrent use.
func (p *prober) Stats() ProbeStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// ProbeAnswer is the state of one target, with what the last probe has found.
type ProbeAnswer struct {
	HealthKey
	Kind   string
	State  condition
	Result result
	Why    string // it failed, or there is no result
	At     time.Time
}

const (
	// mostAnswers is how many targets one question is answered for.
	mostAnswers = 20_000
	// answerWait is how long a question waits for the prober.
	answerWait = time.Second
)

// Answers returns the state of the targets that have been probed, in order. Of single
// ports only those that are not up are there. There are none while the prober does not
// run, or is busy for longer than answerWait. It is safe for concurrent use.
func (p *prober) Answers() []ProbeAnswer {
	answers := make(chan []ProbeAnswer, 1)
	p.mu.Lock()
	if !p.runs {
		p.mu.Unlock()
		return nil
	}
	p.posted = append(p.posted, func() { answers <- p.schedule.answers() })
	p.poll.wake()
	p.mu.Unlock()
	select {
	case all := <-answers:
		return all
	case <-time.After(answerWait):
		return nil
	}
}

// answers is Answers for the prober's goroutine.
func (s *schedule) answers() (all []ProbeAnswer) {
	for key, t := range s.targets {
		if len(all) == mostAnswers {
			break
		}
		if t.began.IsZero() || key.port != 0 && t.state == up {
			continue
		}
		all = append(all, ProbeAnswer{HealthKey{key.name, key.server, key.port}, key.kind.String(), t.state, t.last, t.said, t.began})
	}
	sortBy(all, func(a, b ProbeAnswer) int {
		return cmp.Or(a.HealthKey.Compare(b.HealthKey), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Why, b.Why))
	})
	return all
}

// String is the condition as it is shown.
func (c condition) String() string { return [...]string{"unknown", "up", "down"}[c] }

// publish counts the targets, and publishes and logs what has changed since the
// last time, unless that was less than publishGap ago.
func (p *prober) publish(now time.Time) {
	changed := false
	if p.changed && !now.Before(p.published.Add(publishGap)) {
		p.changed, p.published = false, now
		all := p.schedule.judge()
		p.logged.changes(all, p.schedule)
		h := newHealth(all, p.schedule.recalled)
		changed = !h.equal(p.health)
		p.health = h
	}
	p.mu.Lock()
	for i, n := range p.schedule.counts {
		p.stats.Kinds[i].Targets = n
	}
	p.stats.Running, p.stats.FailOpen = p.schedule.running, len(p.health.Open)
	p.mu.Unlock() // before the readers of the Health wake
	if changed {
		p.out.Set(p.health)
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
	var began, ended portChanges
	for _, k := range sortedBy(maps.Keys(failing), HealthKey.Compare) {
		if _, before := l.failing[k]; before {
			continue
		}
		if k.Port == 0 {
			l.log.Warn("probe: real server down", "vip", k.VIP, "server", k.Address, "why", failing[k])
		} else {
			began.add(k, strings.TrimPrefix(failing[k], portReason(k.Port, "")))
		}
	}
	for _, k := range sortedBy(maps.Keys(l.failing), HealthKey.Compare) {
		_, still := failing[k]
		switch {
		case still || !asked[HealthKey{k.VIP, k.Address, 0}]: // or not asked any more
		case k.Port == 0:
			l.log.Info("probe: real server not down any more", "vip", k.VIP, "server", k.Address)
		case s.targets[portTarget(k)] != nil:
			ended.add(k, "")
		}
	}
	for _, n := range began {
		l.log.Warn("probe: ports down", "vip", n.vip, "server", n.server, "ports", strings.Join(n.ports, ","), "why", n.why)
	}
	for _, n := range ended {
		l.log.Info("probe: ports not down any more", "vip", n.vip, "server", n.server, "ports", strings.Join(n.ports, ","))
	}
	l.failOpen(open)
	l.failing, l.open = failing, open
}

// failOpen logs where all fail at once, and where that has ended.
func (l *probeLog) failOpen(open []FailOpen) {
	for _, o := range slices.Concat(open, l.open) {
		log := l.log.With("vip", o.VIP, "family", familyName(o.Is6))
		before, now := slices.ContainsFunc(l.open, o.same), slices.ContainsFunc(open, o.same)
		switch {
		case before && now:
		case now && o.Port == 0:
			log.Error("probe: all real servers fail at once, so all stay in service", "why", o.Why)
		case now:
			log.Warn("probe: no real server serves this port, so all stay in service", "port", Port{o.Port, TCP}, "why", o.Why)
		case o.Port == 0:
			log.Info("probe: not all real servers fail any more")
		default:
			log.Info("probe: a real server serves this port again, or the port is gone", "port", Port{o.Port, TCP})
		}
	}
}

// portChanges are ports by the change that they have in common.
type portChanges []portChange

type portChange struct {
	vip    string
	server netip.Addr
	why    string
	ports  []string // such as "80/tcp"
}

func (all *portChanges) add(k HealthKey, why string) {
	i := slices.IndexFunc(*all, func(n portChange) bool { return n.vip == k.VIP && n.server == k.Address && n.why == why })
	if i < 0 {
		i = len(*all)
		*all = append(*all, portChange{vip: k.VIP, server: k.Address, why: why})
	}
	n := &(*all)[i]
	n.ports = append(n.ports, Port{k.Port, TCP}.String())
}

// probedServer is a real server of a VIP that is probed in some way.
type probedServer struct {
	VIP     string
	Address netip.Addr
	Kind    probeKind
}

func (s probedServer) compare(o probedServer) int {
	return cmp.Or(HealthKey{s.VIP, s.Address, 0}.Compare(HealthKey{o.VIP, o.Address, 0}), cmp.Compare(s.Kind, o.Kind))
}

// serverProbes is what the last finished probes of it came to: over all its ports, for
// a kind that probes each.
type serverProbes struct {
	Result result // failed if one is, else noResult if one is
	Took   time.Duration
}

// Probed returns what the last probes of each real server came to. It is safe for
// concurrent use.
func (p *prober) Probed() map[probedServer]serverProbes {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.schedule.probed()
}

// probed joins the targets of each real server and kind. The longest probe counts. A
// target without a finished probe does not.
func (s *schedule) probed() map[probedServer]serverProbes {
	all := make(map[probedServer]serverProbes)
	for k, t := range s.targets {
		if !t.finished {
			continue
		}
		key := probedServer{k.name, k.server, k.kind}
		is, there := all[key]
		is.Took = max(is.Took, t.took)
		if !there || t.last == failed || t.last == noResult && is.Result == passed {
			is.Result = t.last
		}
		all[key] = is
	}
	return all
}
