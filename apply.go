// Carrying out a list of operations: makes, then marks, then breaks.
//
// Part of the reconcile loop and called by it alone. What takes capacity away
// waits for what adds it; what the kernel refuses is reported and costs nobody
// a real server.

package main

import (
	"maps"
	"slices"
)

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
func (r *reconciler) apply(ops []op, target Table, marks map[MarkedPort]uint32, audit bool) []error {
	first := slices.IndexFunc(ops, op.breaks)
	if first < 0 {
		first = len(ops)
	}
	failed := r.applyHushed(ops[:first])
	breaks := ops[first:]
	var withheld []op
	// Marks come in between: new connections move to the services that have
	// just been made before the old ones are quiesced.
	markErr := r.mark(marks, audit)
	if markErr != nil {
		withheld, breaks = breaks, nil
	}
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
	errs := flatten(markErr)
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

// heldMarks are the wanted marks and, for VIPs of whose ports too little is
// known, those that are there.
func (r *reconciler) heldMarks(w wanted) map[MarkedPort]uint32 {
	marks := w.Marks
	for p, mark := range r.marked {
		if v := r.owners.addresses[p.Address]; v != nil {
			if _, held := w.Hold[workKey{v.Name, p.Address.Is6()}]; held && marks[p] == 0 {
				marks[p] = mark
			}
		}
	}
	return marks
}

// mark brings the firewall marks up to date, when they have changed or it is
// time to look after them.
func (r *reconciler) mark(marks map[MarkedPort]uint32, audit bool) error {
	ours := len(marks) > 0 || len(r.state.Marks) > 0
	if !ours || !audit && maps.Equal(marks, r.marked) {
		return nil
	}
	if err := r.host.Mark(marks); err != nil {
		r.marked = nil
		return err
	}
	r.marked = marks
	return nil
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
