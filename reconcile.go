// The reconcile loop: the one goroutine that writes to the kernel's IPVS.
//
// main.go starts it. It is woken by a new input (configuration, cluster), by a
// deadline of its own (audit, drain, retry), and by nothing else; each time it
// takes the newest of everything, computes the table to reach, and sends the
// difference. It never flushes, never touches a service on an address that is
// not ours, and leaves the kernel as it is when it ends.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// drainPoll is how often the connections of draining real servers are
	// counted. It is also the shortest drain: a packet that chose the real
	// server just before it was quiesced has long been counted by then.
	drainPoll = time.Second

	// Retries after the kernel refused something: doubling, for ever.
	retryFirst = 250 * time.Millisecond
	retryMost  = 10 * time.Second
)

// director is the kernel's IPVS as the loop needs it. *ipvsConn is the real
// one.
type director interface {
	Table(owned func(netip.Addr) bool) (Table, error)
	Servers(k ServiceKey, visit func(KernelServer)) error
	Apply(ops []op) []*opError
	Timeouts() (Timeouts, error)
	SetTimeouts(Timeouts) error
	Close() error
}

// host is what the loop keeps right beside the IPVS table: sysctls and the
// VIPs' addresses.
type host interface {
	// Prepare makes the host fit cfg. It changes only what differs and logs
	// each change. It returns the addresses that the controller itself put on
	// devices.
	Prepare(ctx context.Context, cfg *Config) ([]VIPAddress, error)
	// Hush keeps the host from sending ICMP errors until restore is called.
	Hush(cfg *Config) (restore func())
}

// reconciler is the state of the loop. All fields but view and counters belong
// to its goroutine.
type reconciler struct {
	log     *slog.Logger
	wake    chan struct{}
	config  *latest[Config]
	cluster *latest[Cluster]
	dial    func() (director, error)
	host    host
	dir     *stateDir
	now     func() time.Time

	director director
	state    *state
	have     Table   // the kernel's table as far as it is ours; meaningless while stale
	stale    bool    // have must be read from the kernel
	prepared *Config // the configuration that the host was last prepared for

	unprepared string // what the host refused last, so that a repeat is silent

	auditAt time.Time
	pollAt  time.Time // zero: nothing drains
	retryAt time.Time // zero: nothing to retry
	backoff time.Duration

	warned  map[string]bool // complaints already logged
	failing string          // the last failure logged, so that a repeat is silent
	kept    map[workKey]bool

	view     atomic.Pointer[view]
	turned   atomic.Pointer[time.Time] // end of the last turn, whatever came of it
	counters counters
}

// restore loads what an earlier process remembered. It comes before Run.
func (r *reconciler) restore() {
	r.stale = true
	r.warned = make(map[string]bool)
	r.kept = make(map[workKey]bool)
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
	for _, t := range []time.Time{r.pollAt, r.retryAt} {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	return at
}

// turn reconciles once and keeps account of the outcome.
func (r *reconciler) turn(ctx context.Context) {
	r.counters.Reconciles.Add(1)
	cfg := r.config.Get()
	err := r.reconcile(ctx, cfg)
	at := r.now()
	r.turned.Store(&at)
	if v := r.view.Load(); v != nil && (v.Err != nil) != (err != nil) || v == nil {
		next := view{At: r.now(), Config: cfg, Err: err}
		if v != nil {
			next.Table, next.Kept, next.Warnings = v.Table, v.Kept, v.Warnings
		}
		r.view.Store(&next)
	}
	if err == nil {
		if r.failing != "" {
			r.log.Info("the kernel's table is in place again")
		}
		r.failing, r.retryAt, r.backoff = "", time.Time{}, 0
		return
	}
	r.counters.Failures.Add(1)
	if msg := err.Error(); msg != r.failing {
		r.failing = msg
		for _, line := range flatten(err) {
			r.log.Error("the kernel's table is not in place", "err", line)
		}
	}
	r.backoff = min(max(2*r.backoff, retryFirst), retryMost)
	r.retryAt = r.now().Add(r.backoff)
	r.auditAt = r.now().Add(cfg.AuditInterval)
	r.stale = true
}

// flatten gives the parts of a joined error, none for nil.
func flatten(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// ownConfigured makes the configured addresses ours. What the kernel has on a
// new one has not been read yet.
func (r *reconciler) ownConfigured(cfg *Config) {
	for i := range cfg.VIPs {
		for _, a := range cfg.VIPs[i].Addresses {
			if !r.state.Owned[a] {
				r.state.Owned[a] = true
				r.stale = true
			}
		}
	}
}

// owns reports whether services on a are ours.
func (r *reconciler) owns(a netip.Addr) bool { return r.state.Owned[a] }

// reconcile brings the kernel to what the newest inputs ask for.
func (r *reconciler) reconcile(ctx context.Context, cfg *Config) error {
	now := r.now()
	cluster := r.cluster.Get()
	if r.director == nil {
		d, err := r.dial()
		if err != nil {
			return err
		}
		r.director, r.stale = d, true
	}
	r.ownConfigured(cfg)
	drifted := make(map[any]bool)
	audit := r.stale || !now.Before(r.auditAt)
	if audit || r.prepared != cfg {
		if err := r.prepare(ctx, cfg); err != nil {
			return err
		}
	}
	if audit {
		if err := r.audit(drifted); err != nil {
			return err
		}
		r.auditAt = now.Add(cfg.AuditInterval)
	}
	if !r.pollAt.IsZero() && !now.Before(r.pollAt) {
		if err := r.countDraining(); err != nil {
			return err
		}
	}

	want := desired(cfg, cluster, r.state.Working)
	r.complain(want)
	s := settle(want, r.have, r.state.Drains, now)
	r.state.Working = want.Working
	r.state.Drains = s.Drains
	saveErr := r.dir.save(r.state) // before the kernel: an address must not be forgotten between the two
	if saveErr != nil && len(r.dir.last) == 0 {
		return saveErr
	}

	ops := diff(s.Table, r.have)
	for i := range ops {
		ops[i].Why = reason(ops[i], s, drifted)
	}
	failed := r.apply(ops, s.Table)
	r.have = s.Table
	r.pollAt = time.Time{}
	if len(s.Drains) > 0 {
		r.pollAt = now.Add(drainPoll)
		if !s.Next.IsZero() && s.Next.Before(r.pollAt) {
			r.pollAt = s.Next
		}
	}
	if len(failed) == 0 {
		r.forgetEmpty()
	}
	err := errors.Join(append(failed, saveErr)...)
	r.view.Store(&view{At: now, Config: cfg, Table: s.Table, Kept: want.Kept, Warnings: want.Warnings, Err: err})
	return err
}

// prepare sees to the host: sysctls, addresses, connection timeouts. What the
// host refuses is logged once and tried again with every audit; the table does
// not depend on it.
func (r *reconciler) prepare(ctx context.Context, cfg *Config) error {
	addresses, err := r.host.Prepare(ctx, cfg)
	r.state.Addresses = addresses
	r.prepared = cfg
	if msg := fmt.Sprint(err); msg != r.unprepared {
		r.unprepared = msg
		for _, part := range flatten(err) {
			r.log.Error("the host is not as it should be", "err", part)
		}
	}
	return r.setTimeouts(cfg.Timeouts)
}

// setTimeouts changes those connection timeouts that the configuration sets
// and the kernel has otherwise.
func (r *reconciler) setTimeouts(want Timeouts) error {
	if want == (Timeouts{}) {
		return nil
	}
	have, err := r.director.Timeouts()
	if err != nil {
		return r.broken(err)
	}
	var change Timeouts
	for _, t := range []struct {
		want, have time.Duration
		change     *time.Duration
	}{
		{want.TCP, have.TCP, &change.TCP},
		{want.TCPFin, have.TCPFin, &change.TCPFin},
		{want.UDP, have.UDP, &change.UDP},
	} {
		if t.want != 0 && t.want != t.have {
			*t.change = t.want
		}
	}
	if change == (Timeouts{}) {
		return nil
	}
	if err := r.director.SetTimeouts(change); err != nil {
		return r.broken(err)
	}
	r.log.Info("connection timeouts set", "tcp", want.TCP, "tcp_fin", want.TCPFin, "udp", want.UDP, "were", have)
	return nil
}

// broken drops the socket after its conversation failed, so that the next turn
// starts with a fresh one.
func (r *reconciler) broken(err error) error {
	r.director.Close()
	r.director, r.stale = nil, true
	return err
}

// audit reads the kernel's table and notes in drifted what another hand
// changed.
func (r *reconciler) audit(drifted map[any]bool) error {
	r.counters.Audits.Add(1)
	table, err := r.director.Table(r.owns)
	if err != nil {
		return r.broken(err)
	}
	if !r.stale {
		for _, o := range diff(r.have, table) {
			drifted[o.object()] = true
		}
		if len(drifted) > 0 {
			r.counters.Drifts.Add(1)
		}
	}
	// Where nothing changed the old rows stay, with the reasons that the kernel
	// does not know.
	for now, was := range merged(table, r.have, func(a, b Service) int { return a.Compare(b.ServiceKey) }) {
		if now == nil {
			continue
		}
		now.VIP = r.vipName(now.Address)
		if was != nil && sameRows(now.Servers, was.Servers) {
			now.Servers = was.Servers
		}
	}
	r.have, r.stale = table, false
	r.seed(table)
	return nil
}

// vipName is the name of the VIP that address a is configured for, "" for one
// that is configured no more.
func (r *reconciler) vipName(a netip.Addr) string {
	for _, v := range r.config.Get().VIPs {
		if slices.Contains(v.Addresses, a) {
			return v.Name
		}
	}
	return ""
}

// sameRows reports whether the kernel would see no difference.
func sameRows(a, b []Row) bool {
	return slices.EqualFunc(a, b, func(x, y Row) bool { return x.RealServer == y.RealServer })
}

// seed remembers as working what the kernel has in service on VIPs of which
// nothing is remembered: the table of a controller that kept no state, or of
// another tool whose services are adopted.
func (r *reconciler) seed(table Table) {
	found := make(working)
	for _, s := range table {
		set := workKey{s.VIP, s.Address.Is6()}
		if _, remembered := r.state.Working[set]; remembered || s.VIP == "" {
			continue
		}
		for _, row := range s.Servers {
			known := slices.ContainsFunc(found[set], row.SameServer)
			if row.Weight > 0 && row.Port == 0 && !known {
				found[set] = append(found[set], row.RealServer)
			}
		}
	}
	for set, servers := range found {
		slices.SortFunc(servers, RealServer.Compare)
		r.state.Working[set] = servers
	}
}

// countDraining asks the kernel for the connections of real servers that
// drain, and marks those that have none.
func (r *reconciler) countDraining() error {
	services := make(map[ServiceKey]bool)
	for id := range r.state.Drains {
		services[id.Service] = true
	}
	for _, k := range slices.SortedFunc(maps.Keys(services), ServiceKey.Compare) {
		if err := r.director.Servers(k, func(s KernelServer) {
			id := rowOf(k, s.RealServer)
			if d, draining := r.state.Drains[id]; draining && s.Weight == 0 && s.Connections.Idle() {
				d.Idle = true
				r.state.Drains[id] = d
			}
		}); err != nil {
			return r.broken(err)
		}
	}
	return nil
}

// complain logs warnings and fall-backs that are new, and ends of fall-backs.
func (r *reconciler) complain(w wanted) {
	now := make(map[string]bool)
	for _, warning := range w.Warnings {
		if now[warning] = true; !r.warned[warning] {
			r.log.Warn(warning)
		}
	}
	r.warned = now
	kept := make(map[workKey]bool)
	for _, set := range w.Kept {
		if kept[set] = true; !r.kept[set] {
			r.log.Error("no real server would be in service: the last working set stays", "vip", set.VIP, "family", familyName(set.Is6), "servers", names(w.Working[set]))
		}
	}
	for set := range r.kept {
		if !kept[set] {
			r.log.Info("real servers are in service again", "vip", set.VIP, "family", familyName(set.Is6))
		}
	}
	r.kept = kept
}

func names(servers []RealServer) []string {
	all := make([]string, len(servers))
	for i, s := range servers {
		all[i] = s.Name()
	}
	return all
}

// object identifies what an operation is about.
func (o op) object() any {
	switch o.Kind {
	case newService, setService, delService:
		return o.Service.ServiceKey
	}
	return rowOf(o.Service.ServiceKey, o.Server)
}

// reason completes the cause of an operation for the log.
func reason(o op, s settled, drifted map[any]bool) string {
	why := o.Why
	switch o.Kind {
	case delServer:
		why = s.Removed[rowOf(o.Service.ServiceKey, o.Server)]
	case delService:
		why = s.Withdrawn[o.Service.ServiceKey]
	}
	if drifted[o.object()] || drifted[o.Service.ServiceKey] {
		return "repaired, another hand changed it: " + why
	}
	return why
}

// apply carries out ops and logs what was done. What takes capacity away waits
// for what adds it: a service whose new real servers were refused keeps the old
// ones.
func (r *reconciler) apply(ops []op, target Table) []error {
	if len(ops) == 0 {
		return nil
	}
	first := slices.IndexFunc(ops, op.breaks)
	if first < 0 {
		first = len(ops)
	}
	failed := r.applyHushed(ops[:first])
	breaks := ops[first:]
	var withheld []op
	if starved := starvedServices(failed, target); len(starved) > 0 {
		breaks = slices.DeleteFunc(slices.Clone(breaks), func(o op) bool {
			if starved[o.Service.ServiceKey] {
				withheld = append(withheld, o)
			}
			return starved[o.Service.ServiceKey]
		})
	}
	if len(breaks) > 0 {
		failed = append(failed, r.director.Apply(breaks)...)
	}
	undone := make(map[op]bool)
	for _, o := range withheld {
		undone[o] = true
	}
	var errs []error
	refusedServices := make(map[ServiceKey]bool)
	for _, f := range failed {
		undone[f.Op] = true
		if f.Op.Kind == newService {
			refusedServices[f.Op.Service.ServiceKey] = true
		}
	}
	for _, f := range failed {
		// Real servers of a service that was refused fail for its sake only.
		if f.Op.Kind == newServer && refusedServices[f.Op.Service.ServiceKey] {
			continue
		}
		errs = append(errs, f)
	}
	r.counters.Refused.Add(uint64(len(errs)))
	done := ops
	if len(undone) > 0 {
		done = slices.DeleteFunc(slices.Clone(ops), func(o op) bool { return undone[o] })
	}
	for _, o := range done {
		r.counters.Changes[o.Kind].Add(1)
	}
	logChanges(r.log, done)
	return errs
}

// applyHushed carries out ops that add or edit. While the kernel exchanges the
// scheduler of a service it has none for one RCU grace period, some tens of
// milliseconds, and answers new connections with ICMP port unreachable, which
// a client reads as "refused" (ip_vs_edit_service, ip_vs_leave). Without the
// ICMP error the client sends its SYN again and is served.
func (r *reconciler) applyHushed(ops []op) []*opError {
	if slices.ContainsFunc(ops, func(o op) bool { return o.Kind == setService && o.WasService.Scheduler != o.Service.Scheduler }) {
		defer r.host.Hush(r.config.Get())()
	}
	return r.director.Apply(ops)
}

// starvedServices are services to which the kernel refused a real server and
// which have no other in service in target.
func starvedServices(failed []*opError, target Table) map[ServiceKey]bool {
	refused := make(map[rowID]bool)
	services := make(map[ServiceKey]bool)
	for _, f := range failed {
		if f.Op.Kind == newServer || f.Op.Kind == setServer {
			refused[rowOf(f.Op.Service.ServiceKey, f.Op.Server)] = true
			services[f.Op.Service.ServiceKey] = true
		}
	}
	for k := range services {
		s, _ := target.Find(k)
		if slices.ContainsFunc(s.Servers, func(row Row) bool {
			return row.Weight > 0 && !refused[rowOf(k, row.RealServer)]
		}) {
			delete(services, k)
		}
	}
	return services
}

// forgetEmpty gives up the ownership of addresses that are configured no more
// and have no service of ours left.
func (r *reconciler) forgetEmpty() {
	for a := range r.state.Owned {
		configured := r.vipName(a) != ""
		used := slices.ContainsFunc(r.have, func(s Service) bool { return s.Address == a })
		if !configured && !used {
			delete(r.state.Owned, a)
		}
	}
}

// logChanges writes one line per change. The same change to several services
// of a VIP (a node that joins 1000 ports) is one line that names them.
func logChanges(log *slog.Logger, ops []op) {
	type line struct {
		kind           opKind
		vip            string
		address        netip.Addr // of the VIP
		server         string
		change, reason string
	}
	var order []line
	services := make(map[line][]string)
	for _, o := range ops {
		l := line{kind: o.Kind, vip: o.VIP, address: o.Service.Address, reason: o.Why}
		switch o.Kind {
		case newService:
			l.change = "scheduler " + o.Service.Scheduler
		case setService:
			l.change = serviceChange(o.WasService, o.Service)
		case newServer:
			l.server, l.change = o.Server.Name(), fmt.Sprintf("weight %d", o.Server.Weight)
		case setServer:
			l.server, l.change = o.Server.Name(), serverChange(o.WasServer, o.Server)
		case delServer:
			l.server = o.Server.Name()
		}
		if services[l] == nil {
			order = append(order, l)
		}
		services[l] = append(services[l], Port{o.Service.Port, o.Service.Protocol}.String())
	}
	for _, l := range order {
		attrs := []any{"vip", l.vip, "address", l.address, "ports", portList(services[l])}
		if l.server != "" {
			attrs = append(attrs, "server", l.server)
		}
		if l.change != "" {
			attrs = append(attrs, "change", l.change)
		}
		log.Info(changeMessage[l.kind], append(attrs, "why", l.reason)...)
	}
}

var changeMessage = [...]string{
	newService: "virtual service added",
	setService: "virtual service edited",
	newServer:  "real server added",
	setServer:  "real server edited",
	delServer:  "real server removed",
	delService: "virtual service removed",
}

// portList names at most eight ports; a log line is for reading.
func portList(ports []string) string {
	const most = 8
	text := ""
	for i, p := range ports {
		if i == most && len(ports) > most+1 {
			return fmt.Sprintf("%s and %d more", text, len(ports)-most)
		}
		if i > 0 {
			text += ","
		}
		text += p
	}
	return text
}
