// The reconcile loop: the one goroutine that writes to the kernel's IPVS.
//
// Used by http*.go, cmd_status.go and main.go. A new input (configuration,
// cluster, probe results) or a deadline (audit, drain, retry) wakes it. Each
// pass takes the newest inputs, computes the table to reach, and sends the
// difference. It never flushes, never touches a service on an address that is
// not ours, and leaves the kernel as it is when it ends.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// recheckEvery is how often a file is looked at again that may have changed
	// unseen: with the first turn after so long. Audits see to it that there is
	// one.
	recheckEvery = 30 * time.Second

	// bulkChange is from how many operations on a turn leaves so much garbage that
	// its memory goes back to the system at once: a director makes its whole
	// table once, and is small for ever after.
	bulkChange = 2_500

	// Retries after the kernel refused something: doubling, for ever.
	retryFirst = 250 * time.Millisecond
	retryMost  = 10 * time.Second
)

// director is the kernel's IPVS as the loop needs it. *ipvsConn is the real
// one.
type director interface {
	// Table reads the services that owned accepts. A part that is as known has it
	// comes back as that very part.
	Table(owned func(ServiceKey) bool, known parts) (parts, error)
	Servers(k ServiceKey, visit func(KernelServer)) error
	// Apply returns the operations that the kernel refused; the error means
	// that the conversation broke and nobody knows what was done.
	Apply(ops []op) ([]*opError, error)
	Timeouts() (Timeouts, error)
	SetTimeouts(Timeouts) error
	syncDaemons
	Close() error
}

// host is what the loop keeps right beside the IPVS table.
type host interface {
	// Prepare sets the host's sysctls for cfg. It changes only what differs and
	// logs each change.
	Prepare(ctx context.Context, cfg *Config) error
	// Announce makes want the VIP addresses that this host has through us, and
	// returns what it has come to, also with an error.
	Announce(ctx context.Context, cfg *Config, want vipAddresses) (vipHolding, error)
	// LostAddress reports whether another hand has taken a VIP's address away since
	// the last Announce.
	LostAddress() bool
	// Uplink says why the uplink carries no traffic; nil when it does.
	Uplink() error
	// Mark makes marks the packets that get a firewall mark from us.
	Mark(marks map[MarkedPort]uint32) error
	// Marked is what the host marks now, never nil without an error.
	Marked() (map[MarkedPort]uint32, error)
	// SuppressICMP keeps the host from sending ICMP errors until restore is called.
	SuppressICMP(cfg *Config) (restore func())
	// DeviceIndex is the kernel's number of a device, 0 when there is none.
	DeviceIndex(name string) int
}

// reconciler is the state of the loop. All fields but view and counters belong
// to its goroutine.
type reconciler struct {
	log      *slog.Logger
	wake     chan struct{}
	config   *latest[Config]
	cluster  *latest[Cluster]
	health   *latest[Health]    // what probes have found; nil: nobody probes
	probes   *latest[ProbePlan] // whom to probe; nil likewise
	dial     func() (director, error)
	host     host
	dir      *stateDir
	now      func() time.Time
	cacheDir string          // where an operator's drain is ordered; "": nowhere
	recheck  chan<- struct{} // rung now and then while the loop is awake anyway; nil: nobody listens

	director        director
	state           *state
	owners          owners                // of the configuration in force
	owned           *Config               // that configuration
	want            *wanted               // the last answer of desired
	probed          []*vipAnswer          // those that the prober was told of last
	have            parts                 // the kernel's table as far as it is ours, and who is leaving; while stale, what it was taken for last
	stale           bool                  // have must be read from the kernel
	compared        time.Time             // when have was last read from the kernel
	marked          map[MarkedPort]uint32 // what the host marks; nil until it was asked
	remark          bool                  // the host refused marks, and must be told again
	announced       vipAddresses          // what the host was last told to announce
	announcedFor    *Config               // the configuration at that time
	withdrawn       failureLog            // from routers
	drained         time.Time             // the operator has drained this director since; zero: no
	confirmed       *time.Time            // the order that was confirmed last, zero for none; nil: nothing yet
	on              []netip.Addr          // what is announced, as the host said last
	announceAt      time.Time             // zero: nothing to retry with the host's addresses
	announceBackoff backoff
	began           time.Time // when the loop began
	prepared        *Config   // the configuration that the host was last prepared for

	rang    time.Time // when recheck was rung last
	auditAt time.Time
	pollAt  time.Time // when connections are counted; zero: nothing drains
	retryAt time.Time // zero: nothing to retry
	dueAt   time.Time // when the plan changes by itself; zero: it does not
	backoff backoff
	bulk    bool // the turn has made a bulkChange

	counting    counting                 // of connections, under way
	countAtOnce int                      // services in one turn
	exchanged   map[ServiceKey]time.Time // when services got another scheduler, a moment ago

	warned     warningLog             // warnings already logged
	failing    failureLog             // of the pass
	unprepared map[string]*failureLog // what the host refuses, by kind
	kept       map[workKey]bool
	sync       map[SyncRole]syncMemory

	view     atomic.Pointer[view]
	turned   atomic.Pointer[time.Time] // end of the last turn, whatever came of it
	counters counters
}

// restore loads what an earlier process remembered. It comes before Run.
func (r *reconciler) restore() {
	r.stale = true
	r.began = r.now()
	r.warned = make(warningLog)
	r.kept = make(map[workKey]bool)
	r.exchanged = make(map[ServiceKey]time.Time)
	r.unprepared = make(map[string]*failureLog)
	r.backoff = backoff{first: retryFirst, most: retryMost}
	r.announceBackoff = r.backoff
	r.countAtOnce = countAtOnce
	var err error
	if r.state, err = r.dir.load(); err != nil {
		r.log.Error("start without remembered state", "err", err)
	}
}

// Run works until ctx ends. The kernel's table stays as it is then.
func (r *reconciler) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer func() {
		if r.director != nil {
			r.director.Close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			r.withdraw()
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		if r.config.Get() == nil {
			continue
		}
		r.turn(ctx)
		timer.Reset(max(0, r.next().Sub(r.now())))
	}
}

// next is the earliest of the loop's own deadlines.
func (r *reconciler) next() time.Time {
	at := r.auditAt
	for _, t := range []time.Time{r.pollAt, r.retryAt, r.dueAt, r.announceAt} {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	return at
}

// turn reconciles once and keeps account of the outcome.
func (r *reconciler) turn(ctx context.Context) {
	r.counters.Reconciles.Add(1)
	if start := r.now(); start.Sub(r.rang) >= recheckEvery {
		r.rang = start
		ring(r.recheck)
	}
	cfg := r.config.Get()
	r.lookForDrain()
	err := r.reconcile(ctx, cfg)
	if err != nil {
		r.announce(ctx, cfg, false) // which reconcile may not have come to
	}
	now := r.now()
	r.turned.Store(&now)
	if r.bulk {
		r.bulk = false
		go debug.FreeOSMemory()
	}
	if v := r.view.Load(); v == nil || fmt.Sprint(v.Err) != fmt.Sprint(err) || !v.Drained.Equal(r.drained) || !slices.Equal(v.Announced, r.on) {
		next := view{}
		if v != nil {
			next = *v
		}
		next.At, next.Config, next.Drained, next.Announced, next.Err = now, cfg, r.drained, r.on, err
		r.view.Store(&next)
	}
	if err == nil {
		if _, ends := r.failing.note(nil); ends {
			r.log.Info("the kernel's table is in place again")
		}
		r.retryAt = time.Time{}
		r.backoff.reset()
		return
	}
	r.counters.Failures.Add(1)
	if begins, _ := r.failing.note(err); begins {
		for _, line := range flatten(err) {
			r.log.Error("the kernel's table is not in place", "err", line)
		}
	}
	r.retryAt = now.Add(r.backoff.next())
	if !r.auditAt.After(now) {
		r.auditAt = now.Add(cfg.AuditInterval)
	}
}

// ownConfigured makes the configured addresses and marks ours. What the kernel
// has on a new one has not been read yet.
func (r *reconciler) ownConfigured(cfg *Config) {
	if r.owned == cfg {
		return
	}
	r.owned = cfg
	r.owners = newOwners(cfg)
	for a := range r.owners.addresses {
		if !r.state.Owned[a] {
			r.state.Owned[a], r.stale = true, true
		}
	}
	for m, v := range r.owners.marks {
		if _, known := r.state.Marks[m]; !known {
			r.stale = true
		}
		r.state.Marks[m] = v.Name
	}
	for m, name := range r.state.Marks {
		i := slices.IndexFunc(cfg.VIPs, func(v VIP) bool { return v.Name == name })
		if i >= 0 && r.owners.marks[m] == nil {
			r.owners.former[m] = &cfg.VIPs[i]
		}
	}
	r.nameVIPs()
}

// nameVIPs gives the services that the kernel has the names that their VIPs
// have now. Others may look at the old ones.
func (r *reconciler) nameVIPs() {
	copied := false
	for i := range r.have {
		first := &r.have[i].Services[0]
		name := r.vipName(first.ServiceKey)
		if first.VIP == name {
			continue
		}
		if !copied {
			r.have, copied = slices.Clone(r.have), true
		}
		services := slices.Clone(r.have[i].Services)
		for j := range services {
			services[j].VIP = name
		}
		r.have[i] = part{Services: services}
	}
}

// owns reports whether service k is ours.
func (r *reconciler) owns(k ServiceKey) bool {
	if k.Mark != 0 {
		_, ours := r.state.Marks[k.Mark]
		return ours
	}
	return r.state.Owned[k.Address]
}

// reconcile brings the kernel to what the newest inputs ask for.
func (r *reconciler) reconcile(ctx context.Context, cfg *Config) error {
	now := r.now()
	// A deadline that has passed is done with, whatever comes of this turn: a
	// failure is retried by retryAt alone.
	poll := !r.pollAt.IsZero() && !now.Before(r.pollAt)
	if poll {
		r.pollAt = time.Time{}
	}
	r.dueAt = time.Time{}
	r.ownConfigured(cfg)
	if r.director == nil {
		d, err := r.dial()
		if err != nil {
			return err
		}
		r.director, r.stale = d, true
	}
	var drift drift
	audit := r.stale || !now.Before(r.auditAt)
	if audit || r.prepared != cfg {
		if err := r.prepare(ctx, cfg); err != nil {
			return err
		}
	}
	if audit {
		if err := r.audit(&drift); err != nil {
			return err
		}
		r.compared = now
		r.auditAt = now.Add(cfg.AuditInterval)
	}
	if poll {
		if err := r.countDraining(); err != nil {
			return err
		}
	}

	p := r.plan(cfg, now, drift)
	r.planProbes(p.want)
	r.complain(p.want)
	r.state.Memory, r.state.Leaving = p.want.Memory, p.Parts
	r.state.rememberWithdrawn(p.Withdrawn)
	r.state.Down = p.want.health.down()
	// Before the kernel: an address must not be forgotten between the two. A
	// full /run costs the memory of a crash, not the data plane.
	saveErr := r.dir.save(r.state)

	errs := r.apply(p, audit)
	if r.director == nil {
		return errors.Join(append(errs, saveErr)...)
	}
	r.announce(ctx, cfg, audit)
	if p.Next.IsZero() {
		r.pollAt, r.counting = time.Time{}, counting{}
	} else if r.pollAt.IsZero() {
		r.pollAt = now.Add(drainPoll)
	}
	for _, at := range []time.Time{p.want.Next, p.Next} {
		if !at.IsZero() && (r.dueAt.IsZero() || at.Before(r.dueAt)) {
			r.dueAt = at
		}
	}
	if len(errs) == 0 {
		r.forgetEmpty()
	}
	err := errors.Join(append(errs, saveErr)...)
	r.view.Store(&view{At: now, Config: cfg, Compared: r.compared, Parts: r.have, Kept: p.want.Kept, Health: p.want.health, Warnings: warningTexts(p.want.Warnings), Sync: r.syncing(), Announced: r.on, Drained: r.drained, Err: err})
	return err
}

// plan is what a turn is going to do.
type plan struct {
	settled
	want *wanted
	ops  phases
}

// plan decides, from what is known of the kernel, without changing anything
// but the loop's own memory.
func (r *reconciler) plan(cfg *Config, now time.Time, drift drift) plan {
	r.seed(cfg)
	var health *Health
	if r.health != nil {
		health = r.health.Get()
	}
	want := desired(r.want, cfg, r.cluster.Get(), health, r.state.Memory, now)
	want.Owners = r.owners // which know former marks too
	r.want = &want
	p := plan{want: &want, settled: settle(&want, r.have, now)}
	p.ops = diff(p.Parts, r.have)
	if drift.services != nil {
		for o := range p.ops.all {
			if drift.touches(o) {
				o.Why = "repaired, another hand changed it: " + o.Why
			}
		}
	}
	return p
}

// planProbes tells the prober whom w wants asked, when that has changed.
func (r *reconciler) planProbes(w *wanted) {
	if r.probes == nil || same(r.probed, w.vips) {
		return
	}
	r.probed = w.vips
	if plan := w.probePlan(); !plan.Equal(r.probes.Get()) {
		r.probes.Set(plan)
	}
}

// broken drops the socket after its conversation failed, so that the next turn
// starts with a fresh one.
func (r *reconciler) broken(err error) error {
	r.director.Close()
	r.director, r.stale = nil, true
	return err
}

// drift is what another hand changed.
type drift struct {
	services map[ServiceKey]bool
	rows     map[rowID]bool
}

// note adds what o would have changed.
func (d *drift) note(o *op) {
	if d.services == nil {
		d.services, d.rows = make(map[ServiceKey]bool), make(map[rowID]bool)
	}
	switch o.Kind {
	case newService, setService, delService:
		d.services[o.Service.ServiceKey] = true
	default:
		d.rows[rowOf(o.Service.ServiceKey, *o.Server)] = true
	}
}

// touches reports whether o repairs something of d.
func (d *drift) touches(o *op) bool {
	return d.services[o.Service.ServiceKey] || o.Server != nil && d.rows[rowOf(o.Service.ServiceKey, *o.Server)]
}

// audit reads the kernel's table and notes what another hand changed.
func (r *reconciler) audit(drift *drift) error {
	r.counters.Audits.Add(1)
	table, err := r.director.Table(r.owns, r.have)
	if err != nil {
		return r.broken(err)
	}
	if !r.stale {
		changes := diff(r.have, table)
		for o := range changes.all {
			drift.note(o)
		}
		if changes.len() > 0 {
			r.counters.Drifts.Add(1)
		}
	}
	for now, was := range merged(table, r.have, comparePart) {
		if now != nil && (was == nil || !same(now.Services, was.Services)) {
			r.remember(now, was)
		}
	}
	r.have, r.stale = table, false
	clear(r.state.Drains)
	return nil
}

// remember gives the services of a part that was read from the kernel what the
// kernel does not know: their VIPs and, from the table before or the state
// file, who is leaving.
func (r *reconciler) remember(now, was *part) {
	now.From, now.Next = nil, time.Time{}
	for i := range now.Services {
		s := &now.Services[i]
		s.VIP = r.vipName(s.ServiceKey)
		if was != nil {
			if old := was.Services.at(s.ServiceKey); old != nil {
				s.Leaving = old.Leaving
			}
		}
		if len(r.state.Drains) == 0 {
			continue
		}
		for _, row := range s.Servers {
			if d, draining := r.state.Drains[rowOf(s.ServiceKey, row.RealServer)]; draining && findLeaving(s.Leaving, row.RealServer) == nil {
				s.Leaving = append(slices.Clip(s.Leaving), leaving{Address: row.Address, Port: row.Port, drain: d})
			}
		}
	}
}

// vipName is the name of the VIP that service k is configured for, "" for one
// that is configured no more.
func (r *reconciler) vipName(k ServiceKey) string {
	if v := r.owners.latest(k); v != nil {
		return v.Name
	}
	return ""
}

// seed remembers as working what the kernel has in service for sets of pods of
// which nothing is remembered: the table of a controller that kept no state, of
// another tool whose services are adopted, or of a VIP that has a new name.
func (r *reconciler) seed(cfg *Config) {
	found := make(map[workKey][]RealServer)
	for i := range cfg.VIPs {
		v := &cfg.VIPs[i]
		for _, is6 := range []bool{false, true} {
			set := workKey{v.Name, is6}
			inFamily := slices.ContainsFunc(v.Addresses, func(a netip.Addr) bool { return a.Is6() == is6 })
			if _, remembered := r.state.Memory.Working[set]; !remembered && inFamily && v.Pods.Selector != "" {
				found[set] = nil
			}
		}
	}
	if len(found) == 0 {
		return
	}
	for s := range r.have.all {
		set := workKey{r.vipName(s.ServiceKey), s.Address.Is6()}
		servers, wanted := found[set]
		if !wanted || s.Mark != 0 && !r.marksNow(s.Mark, set.VIP) {
			continue
		}
		v := r.owners.latest(s.ServiceKey)
		for _, row := range s.Servers {
			if row.Weight > 0 && !v.isStatic(row.Address) && row.Port == 0 && row.Address.Is6() == set.Is6 && !slices.ContainsFunc(servers, row.SameServer) {
				servers = append(servers, row.RealServer)
			}
		}
		found[set] = servers
	}
	for set, servers := range found {
		if len(servers) > 0 {
			slices.SortFunc(servers, RealServer.Compare)
			r.state.Memory.Working[set] = servers
		}
	}
}

// marksNow reports whether the host gives mark to packets of the VIP now: a
// mark that was another's until this configuration says nothing about it.
func (r *reconciler) marksNow(mark uint32, vip string) bool {
	for p, m := range r.marked {
		if v := r.owners.addresses[p.Address]; m == mark && v != nil && v.Name == vip {
			return true
		}
	}
	return r.marked == nil // not asked yet: after a start
}

// complain logs warnings and fall-backs that are new, and ends of fall-backs.
func (r *reconciler) complain(w *wanted) {
	r.warned.log(r.log, w.Warnings, r.now())
	kept := make(map[workKey]bool)
	for _, set := range w.Kept {
		if kept[set] = true; !r.kept[set] {
			r.log.Error("no real server would be in service: the last working set stays", "vip", set.VIP, "family", familyName(set.Is6), "servers", names(w.Memory.Working[set]))
		}
	}
	for set := range r.kept {
		if !kept[set] {
			r.log.Info("real servers are in service again", "vip", set.VIP, "family", familyName(set.Is6))
		}
	}
	r.kept = kept
}

// forgetEmpty gives up the ownership of addresses and marks that are configured
// no more and have no service of ours left.
func (r *reconciler) forgetEmpty() {
	addresses, marks := make(map[netip.Addr]bool), make(map[uint32]bool)
	for i := range r.have {
		k := r.have[i].Services[0].ServiceKey
		addresses[k.Address], marks[k.Mark] = true, true
	}
	for a := range r.state.Owned {
		if r.owners.addresses[a] == nil && !addresses[a] {
			delete(r.state.Owned, a)
		}
	}
	for m := range r.state.Marks {
		if r.owners.marks[m] == nil && !marks[m] {
			delete(r.state.Marks, m)
		}
	}
}
