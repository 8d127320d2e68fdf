// Carries out a list of operations: first what adds capacity, then marks, then
// what removes it.
//
// Used by reconcile.go. What removes capacity waits for what adds it. What the
// kernel refuses is reported and removes no real server from service.

package main

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// apply carries out the plan of a pass, brings what is known of the kernel's table
// up to what came of it, and logs what was done. What takes capacity away waits for
// what adds it: a service whose new real servers were refused keeps the old ones.
func (r *reconciler) apply(o *passResult) []error {
	p, k := o.plan, &r.kernel
	todo := p.ops
	var (
		failed []*opError
		undone []op
		due    time.Time
	)
	todo[setService], undone, due = r.exchanged.some(todo[setService], r.now())
	r.due.plan = earlier(r.due.plan, due)
	carryOut := func(phases [][]op) error {
		for _, ops := range phases {
			refused, err := r.applyPhase(ops)
			if err != nil {
				// What the kernel has is unknown now. Who is leaving since when is
				// remembered for when it is read.
				k.have = p.Shards
				return k.broken(err)
			}
			failed = append(failed, refused...)
		}
		return nil
	}
	if err := carryOut(todo[:firstBreak]); err != nil {
		return []error{err}
	}
	// Marks come in between: new connections move to the services that have
	// just been made before the old ones are quiesced.
	w := waiting{owners: r.planner.owners, want: p.want.Shards, starved: starvedServices(failed, p.Shards)}
	w.unmade = unmadeSets(failed, w.starved, k.have)
	markErr := r.marks.apply(p.want, w.unmade, r.planner.owners, o.audit)
	w.unmarked = markErr != nil
	if len(failed) > 0 || w.unmarked {
		todo = todo.without(func(o *op) bool {
			waits := w.waits(o)
			if waits {
				undone = append(undone, *o)
			}
			return waits
		})
	}
	if err := carryOut(todo[firstBreak:]); err != nil {
		return []error{err}
	}
	for _, f := range failed {
		undone = append(undone, f.Op)
		k.stale = k.stale || f.surprising()
	}
	k.have = accepted(p.targetTable, k.have, undone)
	r.exempt.apply(wantedUntracked(r.planner.owners, k.have, r.marks.marked, o.cfg), o.audit)
	r.done(p.ops, undone, p.drift)
	o.bulk = p.ops.len() >= bulkChange
	r.counters.Refused.Add(uint64(len(failed)))
	return append(flatten(markErr), groupErrors(failed)...)
}

// done counts and logs those of ops that were carried out. Some repair what is in drift.
func (r *reconciler) done(ops phases, undone []op, drift drift) {
	if len(undone) > 0 {
		not := addAll(make(map[op]bool), undone)
		ops = ops.without(func(o *op) bool { return not[*o] })
	}
	now := r.now()
	var count [len(r.counters.Changes)]uint64 // a phase has several kinds
	for o := range ops.all {
		count[o.Kind]++
	}
	for kind, n := range count {
		r.counters.Changes[kind].Add(n)
	}
	for i := range ops[setService] {
		if o := &ops[setService][i]; o.exchanges() {
			r.exchanged[o.Service.ServiceKey] = now
		}
	}
	logRepairs(r.log, &ops, drift)
	logChanges(r.log, &ops, &r.changes, r.events, now)
}

// waiting is what was refused so far, and what must not be taken away therefore.
type waiting struct {
	owners   owners
	want     shards
	starved  map[ServiceKey]bool // services without a real server that the kernel accepted
	unmade   map[workKey]bool    // sets with a new service that does not serve
	unmarked bool                // the host refused firewall marks
}

// waits reports whether o takes away what has no replacement yet.
func (w *waiting) waits(o *op) bool {
	if o.phase() < firstBreak {
		return false
	}
	k := o.Service.ServiceKey
	replaced := w.want.find(k) == nil // another service may be about to take over its ports
	return w.starved[k] || replaced && (w.unmade[setOf(o)] || w.unmarked && w.marksMatter(o))
}

// marksMatter reports whether marks decide which service gets o's packets.
func (w *waiting) marksMatter(o *op) bool {
	return o.Service.Mark != 0 || slices.ContainsFunc(w.owners.addresses[o.Service.Address], func(v *VIP) bool { return len(vipGroups(v)) > 0 })
}

// accepted is the table of s without the operations that were not carried out,
// given the table before.
func accepted(s targetTable, before shards, undone []op) shards {
	if len(undone) == 0 {
		return s.Shards
	}
	byService := make(map[ServiceKey][]op)
	touched := make(map[ServiceKey]bool) // shards
	for _, o := range undone {
		byService[o.Service.ServiceKey] = append(byService[o.Service.ServiceKey], o)
		touched[o.Service.shard()] = true
	}
	var ps shards
	for now, was := range merged(s.Shards, before, compareShards) {
		if !touched[cmp.Or(now, was).Services[0].shard()] {
			if now != nil {
				ps = append(ps, *now)
			}
			continue
		}
		services := acceptedServices(now.services(), was.services(), byService, s.Withdrawn)
		if len(services) > 0 {
			ps = append(ps, shard{Services: services})
		}
	}
	return ps
}

// acceptedServices is accepted for one shard.
func acceptedServices(target, before Table, undone map[ServiceKey][]op, withdrawn map[ServiceKey][]leaving) Table {
	var t Table
	for now, was := range mergedBy(target, before, compareKeys) {
		ops, touched := undone[cmp.Or(now, was).ServiceKey]
		kind := func(k opKind) bool { return slices.ContainsFunc(ops, func(o op) bool { return o.Kind == k }) }
		switch {
		case !touched && now != nil:
			t = append(t, *now)
		case kind(delService):
			s := *was
			if all, known := withdrawn[s.ServiceKey]; known {
				s.Leaving = all
			}
			t = append(t, s)
		case now == nil || kind(newService):
		default:
			s := *now
			s.Servers = acceptedRows(s.Servers, was, ops)
			if kind(setService) {
				s.VirtualService = was.VirtualService
			}
			t = append(t, s)
		}
	}
	return t
}

// acceptedRows is accepted for the real servers of one service.
func acceptedRows(target []Row, was *Service, ops []op) []Row {
	rows := slices.Clone(target)
	for _, o := range ops {
		if o.Kind == setService {
			continue
		}
		rows = slices.DeleteFunc(rows, sameAs(*o.Server))
		if o.Kind == newServer {
			continue
		}
		if i := slices.IndexFunc(was.Servers, sameAs(*o.Server)); i >= 0 {
			rows = append(rows, was.Servers[i])
		}
	}
	sortBy(rows, compareRows)
	return rows
}

// applyPhase carries out the operations of one phase. While the kernel exchanges
// the scheduler of a service it has none for one RCU grace period, some tens of
// milliseconds, and answers new connections with ICMP port unreachable, which a
// client reads as "refused" (ip_vs_edit_service, ip_vs_leave). Without the ICMP
// error the client sends its SYN again and is served.
func (r *reconciler) applyPhase(ops []op) ([]*opError, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	if slices.ContainsFunc(ops, op.exchanges) {
		defer r.host.SuppressICMP(r.config.Get())()
	}
	return r.kernel.director.Apply(ops)
}

// setOf is the set that o's service belongs to.
func setOf(o *op) workKey { return workKey{o.Service.VIP, o.Service.Address.Is6()} }

// unmadeSets are the sets with a new service that the kernel refused, or of which
// it refused every real server: what served their ports before stays.
func unmadeSets(failed []*opError, starved map[ServiceKey]bool, have shards) map[workKey]bool {
	sets := make(map[workKey]bool)
	for _, f := range failed {
		if f.Op.Kind == newService || starved[f.Op.Service.ServiceKey] && have.find(f.Op.Service.ServiceKey) == nil {
			sets[setOf(&f.Op)] = true
		}
	}
	return sets
}

// hostMarks are the firewall marks that the host gives to packets.
type hostMarks struct {
	*loopNeeds
	marked map[MarkedPort]uint32 // what the host marks; nil until it was asked
	peers  []macAddress          // from whom it marks nothing
	again  bool                  // the host refused marks, and is asked again
}

// apply brings the firewall marks up to date, when they have changed or it is time
// to look at them. Those of sets that were not made, and of VIPs of whose ports too
// little is known, stay.
func (m *hostMarks) apply(w *wanted, unmade map[workKey]bool, owners owners, audit bool) error {
	if m.marked == nil {
		// What an earlier run has left; without a memory of it, too.
		have, err := m.host.Marked()
		if err != nil {
			return err
		}
		m.marked = have
	}
	set := func(p MarkedPort) workKey {
		if v := owners.of(p.service()); v != nil {
			return workKey{v.Name, p.Address.Is6()}
		}
		return workKey{}
	}
	marks := maps.Clone(w.Marks)
	maps.DeleteFunc(marks, func(p MarkedPort, _ uint32) bool { return unmade[set(p)] })
	for p, mark := range m.marked {
		if _, held := w.Retained[set(p)]; unmade[set(p)] || held && marks[p] == 0 {
			marks[p] = mark
		}
	}
	ours := len(marks)+len(m.marked)+len(m.state.Marks) > 0
	peers := w.cfg.PeerMACs
	if !ours || !audit && !m.again && !m.host.LostMarks() && maps.Equal(marks, m.marked) && slices.Equal(peers, m.peers) {
		return nil
	}
	if err := m.host.Mark(marks, peers); err != nil {
		m.again = true
		return err
	}
	m.marked, m.peers, m.again = marks, peers, false
	return nil
}

// starvedServices are services to which the kernel refused a real server and
// which have no other in service in target.
func starvedServices(failed []*opError, target shards) map[ServiceKey]bool {
	refused := make(map[rowID]bool)
	for _, f := range failed {
		if f.Op.Kind == newServer || f.Op.Kind == setServer {
			refused[f.Op.row()] = true
		}
	}
	starved := make(map[ServiceKey]bool)
	for id := range refused {
		if _, known := starved[id.Service]; known {
			continue
		}
		s := target.find(id.Service)
		starved[id.Service] = s == nil || !slices.ContainsFunc(s.Servers, func(row Row) bool {
			return row.Weight > 0 && !refused[rowOf(id.Service, row.RealServer)]
		})
	}
	return starved
}
