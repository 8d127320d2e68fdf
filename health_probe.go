// The prober: asks real servers whether they serve, with or without an API server,
// and publishes the results.
//
// Used by http.go and main.go. It runs beside the reconcile loop. A ProbePlan
// comes in and a Health goes out, as newest values.
// One goroutine drives all connections with epoll, so a probe costs one file
// descriptor while it runs, and no goroutine. Only HTTP needs a goroutine for an
// exchange. The rules are in health.go, the times in health_schedule.go, the
// kinds of probe in health_http.go, health_tcp.go and health_datapath.go.
//
// The prober changes nothing in the kernel, and no error ends it. A fault of the
// director itself does not count against a real server.

package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// publishGap is the least time between two Healths, so that a node with a
	// thousand ports that dies causes one change, or a few.
	publishGap = 20 * time.Millisecond
	// proberRetry is how long the prober waits when it cannot run at all.
	proberRetry = 5 * time.Second
)

// prober keeps one Health current. Use newProber.
type prober struct {
	log   *slog.Logger
	plans *latest[ProbePlan]
	out   *latest[Health]

	// Seams for tests.
	now   func() time.Time
	spawn func(func()) // runs something beside the prober

	plan     *ProbePlan
	schedule *schedule
	poll     *poller
	path     *dataPath
	attempts map[int]*target // by file descriptor
	beside   sync.WaitGroup  // the goroutines of the prober

	runningTLS int
	waitingTLS []*target // connected, until an exchange may begin

	// mu guards the two after it, and what Probed reads of the schedule.
	mu sync.Mutex
	postbox
	stats ProbeStats

	changed   bool // a verdict or the plan has changed since the last publish
	published time.Time
	health    *Health
	logged    probeLog
}

// postbox is what other goroutines leave for the prober's. The prober's mu guards it.
type postbox struct {
	posted []func()
	runs   bool // the prober's goroutine runs, so that it will take them
}

// newProber returns a prober that follows plans, whose wake channel it alone
// reads, and publishes to out. If out has a Health already (that of an earlier
// run), a real server that is down in it has to rise again.
func newProber(log *slog.Logger, plans *latest[ProbePlan], out *latest[Health]) *prober {
	return &prober{
		log:      log,
		plans:    plans,
		out:      out,
		now:      time.Now,
		spawn:    func(f func()) { go f() },
		health:   &Health{Down: out.Get().orEmpty().Down},
		schedule: newSchedule(rand.Float64, out.Get().orEmpty().Down),
		logged:   probeLog{log: log, faults: make(map[string]time.Time)},
	}
}

// Run probes until ctx ends, and then returns nil.
func (p *prober) Run(ctx context.Context) error {
	for {
		err := p.run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		p.log.Error("probe: no probe can run; the last results stay in force, and this is tried again", "err", err)
		sleepContext(ctx, proberRetry)
	}
}

// run is Run until the poller fails.
func (p *prober) run(ctx context.Context) (err error) {
	if p.poll, err = newPoller(); err != nil {
		return err
	}
	p.setRuns(true)
	ctx, stop := context.WithCancel(ctx)
	p.plan, p.attempts = nil, make(map[int]*target)
	p.path = newDataPath(p)
	p.beside.Go(func() { p.relay(ctx) })
	defer func() {
		stop()
		p.setRuns(false)
		p.abandon()
		p.beside.Wait() // they use the poller
		p.runPosted()
		p.path.close()
		p.poll.close()
	}()
	for ctx.Err() == nil {
		now := p.now()
		if plan := p.plans.Get(); plan != nil && plan != p.plan {
			p.replan(ctx, plan, now)
		}
		begin, overdue := p.schedule.due(now)
		for _, t := range overdue {
			p.finish(t, t.kind.methodOf().overdue(p, t))
		}
		for _, t := range begin {
			t.attempt = &attempt{fd: -1}
			t.kind.methodOf().begin(p, t)
		}
		p.path.resume()
		p.startTLS()
		p.publish(now)
		if err := p.poll.wait(p.idle(), p.ready); err != nil {
			return err
		}
		p.runPosted()
	}
	return nil
}

// setRuns notes whether the prober's goroutine takes what is posted.
func (p *prober) setRuns(now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs = now
}

// relay wakes the poller for a new plan and for the end of ctx.
func (p *prober) relay(ctx context.Context) {
	for {
		select {
		case <-p.plans.Changed():
			p.poll.wake()
		case <-ctx.Done():
			p.poll.wake()
			return
		}
	}
}

// replan follows a new plan.
func (p *prober) replan(ctx context.Context, plan *ProbePlan, now time.Time) {
	p.mu.Lock()
	dropped := p.schedule.replan(plan, now)
	p.mu.Unlock()
	for _, t := range dropped {
		p.drop(t)
	}
	p.plan, p.changed = plan, true
	p.path.replan(ctx, plan)
}

// abandon ends all running probes without a result.
func (p *prober) abandon() {
	for _, t := range p.schedule.targets {
		if t.running {
			p.finish(t, outcome{result: noResult})
		}
	}
}

// post has the prober's goroutine run f. It is safe for concurrent use.
func (p *prober) post(f func()) {
	p.mu.Lock()
	p.posted = append(p.posted, f)
	p.mu.Unlock()
	p.poll.wake()
}

// runPosted runs what was posted.
func (p *prober) runPosted() {
	p.mu.Lock()
	posted := p.posted
	p.posted = nil
	p.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

// idle is how long there is nothing to do; negative until a probe ends or the
// plan changes.
func (p *prober) idle() time.Duration {
	now := p.now()
	next := p.schedule.next(now)
	if due := p.published.Add(publishGap); p.changed && (next.IsZero() || due.Before(next)) {
		next = due
	}
	if next.IsZero() {
		return -1
	}
	return max(0, next.Sub(now))
}

// ready continues the probe that waited for fd.
func (p *prober) ready(fd int) {
	if t := p.attempts[fd]; t != nil {
		p.connected(t)
	} else {
		p.path.ready(fd)
	}
}

// drop forgets a running probe.
func (p *prober) drop(t *target) {
	a := t.attempt
	if a == nil {
		return
	}
	t.attempt = nil
	if a.fd >= 0 {
		delete(p.attempts, a.fd)
		unix.Close(a.fd)
	}
	if a.conn != nil {
		a.conn.Close()
	}
	if a.waits == waitsForSYN {
		delete(p.path.tokens, a.token)
	}
}

// finish ends a probe.
func (p *prober) finish(t *target, o outcome) {
	p.drop(t)
	p.mu.Lock()
	if p.schedule.finish(t, o, p.now()) {
		p.changed = true
	}
	p.stats.Kinds[t.kind].Results[o.result]++
	p.mu.Unlock()
	if o.result == noResult && o.why != "" {
		p.logged.fault(t, o.why, p.now())
	}
}
