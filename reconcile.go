// The reconcile loop: the one goroutine that writes to the kernel's IPVS.
//
// Used by http*.go and main.go. A new input (configuration, cluster, probe results)
// or a deadline (audit, drain, retry) wakes it. Each pass takes the newest inputs,
// computes the table to reach, and sends the difference. It never flushes, never
// touches a service on an address that is not ours, and leaves the kernel as it is
// when it ends.

package main

import (
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// bulkChange is the number of operations from which a pass leaves so much garbage
// that its memory goes back to the system at once. A director makes its whole
// table once, and needs little memory after that.
const bulkChange = 2_500

// afterBulk is how long after such a pass memory goes back once more: what it has brought
// to the prober, the neighbours and the routes leaves garbage too.
const afterBulk = 3 * time.Second

// auditGap is the least time between the last reading of the kernel's table and an
// audit that is asked for.
const auditGap = time.Second

// reconciler is the loop. All but asked and shown belongs to its goroutine.
type reconciler struct {
	*loopNeeds
	asked     atomic.Bool // an audit is asked for
	kernel    kernelTable
	planner   planner
	marks     hostMarks
	exempt    exemptions
	exchanged exchanges
	counting  drainCount
	daemons   daemonKeeper
	announcer announcer
	prepared  *Config      // the configuration that the host was last prepared for
	probed    []*vipAnswer // those that the prober was given last
	said      healthParts  // what probes and the neighbour table said last
	due       deadlines
	refused   refusals // what the host refuses
	warned    warningLog
	failing   failureLog // of the pass
	sets      setFaults  // what has been said of sets
	earlier   serving    // what was in service before the last reload, of VIPs that have not been compared with it
	shown
}

// setFaults are the faults of sets that have been logged, or have an event.
type setFaults struct {
	kept  []workKey  // the last working set stays
	open  []FailOpen // all fail their probes
	below []shortage // the quorum is missed
}

// newReconciler returns a loop that has not run yet.
func newReconciler(needs *loopNeeds) *reconciler {
	r := &reconciler{
		loopNeeds: needs,
		kernel:    kernelTable{stale: true},
		planner:   planner{state: needs.state.state},
		marks:     hostMarks{loopNeeds: needs},
		exempt:    exemptions{loopNeeds: needs},
		exchanged: make(exchanges),
		counting:  drainCount{atOnce: countAtOnce},
		refused:   make(refusals),
		daemons:   daemonKeeper{loopNeeds: needs},
		due:       deadlines{retryWait: newRetry()},
		warned:    make(warningLog),
	}
	r.announcer = announcer{loopNeeds: needs, refused: r.refused, retryWait: newRetry(), began: needs.now()}
	return r
}

// unusable says why the kernel's IPVS cannot be used, after a pass that ended with err;
// nil when it can, and for brokenPatience after a fault that may pass.
func unusable(err error, brokenAt, now time.Time) error {
	if brokenAt.IsZero() {
		return nil
	}
	if errors.Is(err, errNoIPVS) || errors.Is(err, unix.EPERM) || now.Sub(brokenAt) >= brokenPatience {
		return err
	}
	return nil
}

// brokenPatience is how long a director is fit for traffic while every conversation
// with the kernel's IPVS fails, whatever its audit_interval is.
const brokenPatience = 40 * time.Second

// Run works until ctx ends. The kernel's table stays as it is then.
func (r *reconciler) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer func() {
		if r.kernel.director != nil {
			r.kernel.director.Close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			r.announcer.withdraw()
			return nil
		case <-r.wake:
		case <-timer.C:
			if r.report.every() > 0 && r.next().After(r.now()) { // only the watchdog is due
				r.report.beat()
				timer.Reset(r.sleep())
				continue
			}
		}
		r.report.beat()
		if r.config.Get() == nil {
			continue
		}
		r.pass(ctx)
		r.report.beat()
		timer.Reset(max(0, r.sleep()))
	}
}

// AuditNow has the kernel's table read at once, or auditGap after the last time. It is
// safe from any goroutine.
func (r *reconciler) AuditNow() {
	r.asked.Store(true)
	ring(r.wake)
}

// next is the earliest of the loop's own deadlines.
func (r *reconciler) next() time.Time { return r.due.next(r.announcer.retryAt) }

// sleep is how long the loop may wait for an input.
func (r *reconciler) sleep() time.Duration {
	wait := r.next().Sub(r.now())
	if most := r.report.every(); most > 0 {
		wait = min(wait, most)
	}
	return wait
}

// passResult is what a pass has come to so far.
type passResult struct {
	cfg   *Config
	now   time.Time // when the pass began
	audit bool      // it reads the kernel's table
	plan  *plan     // nil: it did not come to a plan
	whole bool      // the kernel accepted all of the plan
	bulk  bool      // it made a bulkChange
	err   error     // what is not in place
}

// pass reconciles once: the table, then the addresses, then what others see.
func (r *reconciler) pass(ctx context.Context) {
	r.counters.Reconciles.Add(1)
	o := passResult{cfg: r.config.Get(), now: r.now()}
	poll, recheck := r.due.begin(o.now)
	if recheck {
		ring(r.recheck)
	}
	r.announcer.lookForDrain()
	if r.asked.Swap(false) {
		r.due.audit = earlier(r.due.audit, r.kernel.compared.Add(auditGap))
	}
	o.err = r.reconcile(ctx, &o, poll)
	r.report.beat()
	if r.kernel.director != nil {
		r.kernel.brokenAt = time.Time{}
	} else if r.kernel.brokenAt.IsZero() {
		r.kernel.brokenAt = o.now
	}
	r.announcer.pass(ctx, &o, &r.planner, &r.kernel)
	if o.whole {
		r.planner.forgetEmpty(r.kernel.have)
	}
	r.state.save()
	r.conclude(&o)
	if o.bulk {
		o = passResult{} // nothing needs its plan any more
		go debug.FreeOSMemory()
		time.AfterFunc(afterBulk, debug.FreeOSMemory)
	}
}

// conclude publishes and logs what the pass has come to.
func (r *reconciler) conclude(o *passResult) {
	now := r.now()
	r.timing.passes.observe(now.Sub(o.now))
	r.show(o, now)
	published := r.published.Load()
	unfit := published.ready(now)
	if unfit == nil {
		unfit = r.host.Uplink()
	}
	r.report.passed(o.cfg, published.Shards, unfit)
	r.due.end(now, o.err != nil, o.cfg.AuditInterval)
	// The order is that of the operations, which is another one at the next attempt.
	var lines []string
	for _, err := range flatten(o.err) {
		lines = append(lines, err.Error())
	}
	slices.Sort(lines)
	said := strings.Split(r.failing.text, "\n")
	begins, ends := r.failing.noteText(strings.Join(lines, "\n"))
	switch {
	case begins:
		for _, line := range lines {
			if !slices.Contains(said, line) {
				r.log.Error("the IPVS table could not be updated completely", "err", line)
			}
		}
	case ends:
		r.log.Info("the IPVS table is complete again")
	}
	if o.err != nil {
		r.counters.Failures.Add(1)
	}
}

// reconcile brings the kernel to what the newest inputs ask for. poll means that
// connections of draining real servers are due to be counted.
func (r *reconciler) reconcile(ctx context.Context, o *passResult, poll bool) error {
	k := &r.kernel
	if r.planner.own(o.cfg) {
		k.stale = true
	}
	k.have = r.planner.renamed(k.have)
	if k.director == nil {
		d, err := r.dial()
		if err != nil {
			return err
		}
		k.director, k.stale = d, true
	}
	o.audit = k.stale || !o.now.Before(r.due.audit)
	if o.audit || r.prepared != o.cfg {
		if err := r.prepare(ctx, o.cfg); err != nil {
			return err
		}
	}
	drift := make(drift)
	newer := func() bool { return len(r.wake) > 0 || ctx.Err() != nil }
	if o.audit {
		if err := r.audit(o, drift, newer); err != nil {
			return err
		}
	}
	if poll {
		next, err := r.counting.round(k, newer, r.now)
		if err != nil {
			return err
		}
		r.due.poll = next
	}
	before := r.planner.want
	event := earlier(r.cluster.Waited(), r.health.Waited())
	p := r.planner.plan(planInputs{r.cluster.Get(), r.said.join(r.health.Get(), r.unresolved.Get(), r.routes.Get()), k.have, r.marks.marked, drift, o.now})
	o.plan = &p
	r.logWanted(p.want)
	r.logTaken(before, p.want)
	// Before the kernel: an address, or the end of a drain, must not be forgotten
	// between the two.
	if len(p.ops[firstBreak]) > 0 {
		r.state.save()
	} else {
		r.state.saveOwned()
	}
	errs := r.apply(o)
	if len(errs) == 0 && p.ops.len() > 0 && !event.IsZero() {
		r.timing.events.observe(r.now().Sub(event))
	}
	r.planProbes(p.want) // behind the kernel: it wakes other tasks
	if k.director != nil {
		o.whole = len(errs) == 0
		r.planned(&p, o.now)
	}
	return errors.Join(errs...)
}

// planned sets the deadlines of a plan that was carried out at the time now.
func (r *reconciler) planned(p *plan, now time.Time) {
	if p.Next.IsZero() {
		r.due.poll = time.Time{}
		r.counting.reset()
	} else if r.due.poll.IsZero() {
		r.due.poll = now.Add(drainPoll)
	}
	r.due.plan = earlier(r.due.plan, earlier(p.want.Next, p.Next))
}

// healthParts are the two parts of a Health, and the whole.
type healthParts struct{ probes, neighbours, routes, whole *Health }

// join is what the parts say together: the same as before while they are.
func (h *healthParts) join(probes, neighbours, routes *Health) *Health {
	if neighbours == nil && routes == nil {
		return probes
	}
	if h.probes != probes || h.neighbours != neighbours || h.routes != routes {
		p := probes.orEmpty()
		ways := routes.orEmpty()
		whole := &Health{Down: p.Down, Open: p.Open, Unresolved: neighbours.orEmpty().Unresolved, Routed: ways.Routed, Broadcast: ways.Broadcast}
		*h = healthParts{probes, neighbours, routes, whole}
	}
	return h.whole
}

// planProbes gives the prober what w wants probed, when that has changed.
func (r *reconciler) planProbes(w *wanted) {
	if same(r.probed, w.vips) {
		return
	}
	r.probed = w.vips
	r.resolving.Set(w.resolveSets())
	r.routing.Set(w.directSets())
	if plan := w.probePlan(); !plan.Equal(r.probes.Get()) {
		r.probes.Set(plan)
	}
}

// audit reads the kernel's table and notes what another program changed. A large table
// takes long, and an input that comes meanwhile does not wait for it: then the audit stays
// due, and the next pass begins it again. One that is late by a whole interval is made to
// its end.
func (r *reconciler) audit(o *passResult, drift drift, newer func() bool) error {
	k := &r.kernel
	if k.stale || o.now.Sub(r.due.audit) >= o.cfg.AuditInterval {
		newer = nil
	}
	table, err := k.director.Table(r.planner.owns, k.have, newer)
	if errors.Is(err, errGaveWay) {
		o.audit = false
		return nil
	}
	r.counters.Audits.Add(1)
	if err != nil {
		return k.broken(err)
	}
	k.compared = o.now
	r.due.audit = o.now.Add(o.cfg.AuditInterval)
	if !k.stale {
		changes := diff(k.have, table)
		for o := range changes.all {
			drift[o.row()] = true
		}
		if len(drift) > 0 {
			r.counters.Drifts.Add(1)
		}
	}
	r.planner.adopt(table, k.have)
	k.have, k.stale = table, false
	r.loads.sample(r.now(), r.planner.cfg, k.director.Loads(), r.planner.vipName)
	return nil
}

// logWanted logs warnings and fall-backs that are new, and ends of fall-backs.
func (r *reconciler) logWanted(w *wanted) {
	r.warned.log(r.log, w.Warnings, w.Notes, r.now())
	for _, set := range w.Kept {
		if !slices.Contains(r.sets.kept, set) {
			r.log.Error("no real server would be in service: the last working set stays", "vip", set.VIP, "family", familyName(set.Is6), "servers", names(w.Memory.Working[set]))
			r.events.add(set.event(r.now(), eventKept, "no other real server would be in service"))
		}
	}
	for _, set := range r.sets.kept {
		if !slices.Contains(w.Kept, set) {
			r.log.Info("real servers are in service again", "vip", set.VIP, "family", familyName(set.Is6))
			r.events.add(set.event(r.now(), eventNotKept, ""))
		}
	}
	r.sets.kept = w.Kept
	r.logQuorum(w.Below)
	open := w.health.orEmpty().Open // the prober logs it
	for _, o := range open {
		if !slices.ContainsFunc(r.sets.open, o.same) {
			r.events.add(o.event(r.now(), eventFailOpen, o.Why))
		}
	}
	for _, o := range r.sets.open {
		if !slices.ContainsFunc(open, o.same) {
			r.events.add(o.event(r.now(), eventNotFailOpen, ""))
		}
	}
	r.sets.open = open
}

// logQuorum logs which sets have fallen below their quorum, and which have no more.
func (r *reconciler) logQuorum(now []shortage) {
	other := func(all []shortage, s shortage) bool {
		return !slices.ContainsFunc(all, func(o shortage) bool { return o.workKey == s.workKey })
	}
	for _, s := range now {
		if other(r.sets.below, s) {
			r.log.Error("fewer real servers in service than the quorum", "vip", s.VIP, "family", familyName(s.Is6), "in_service", s.Serving, "quorum", s.Quorum.Least, "below_quorum", s.Quorum.action())
			r.events.add(s.event(r.now(), eventBelow, s.String()))
		}
	}
	for _, s := range r.sets.below {
		if other(now, s) {
			r.log.Info("enough real servers are in service for the quorum again", "vip", s.VIP, "family", familyName(s.Is6))
			r.events.add(s.event(r.now(), eventReached, ""))
		}
	}
	r.sets.below = now
}

// logTaken logs what a new configuration takes out of service: it is the operator's
// word, and applied. A VIP whose new inputs are not complete is compared later.
func (r *reconciler) logTaken(before, now *wanted) {
	if before != nil && before.cfg != now.cfg {
		r.earlier = before.serving()
	}
	all := r.earlier.takenAway(now, true)
	for _, t := range all[:min(len(all), namedTaken)] {
		r.log.Warn("the new configuration takes traffic away", "vip", t.VIP, "gone", t.What)
	}
	if more := len(all) - namedTaken; more > 0 {
		r.log.Warn("the new configuration takes traffic away from more VIPs", "vips", more)
	}
}
