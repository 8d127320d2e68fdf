// How a real server leaves: quiesced first, removed when nothing holds on to
// it any more or its deadline has passed.
//
// reconcile.go calls settle between desired and diff. Pure: what the kernel has
// and counts, the time and the deadlines so far come in; the table to reach and
// the new deadlines go out.

package main

import (
	"net/netip"
	"time"
)

// rowID is a real server of a virtual service.
type rowID struct {
	Service ServiceKey
	Address netip.Addr
	Port    uint16
}

func rowOf(k ServiceKey, r RealServer) rowID { return rowID{k, r.Address, r.Port} }

// drain is the state of a row that is on its way out.
type drain struct {
	Deadline time.Time // removed then at the latest
	Idle     bool      // quiesced, and counted without connections since
}

// Why something leaves that the inputs no longer mention.
const (
	noPod     = "no pod or static entry left"
	noService = "port no longer wanted"
)

// settled is settle's answer.
type settled struct {
	Table  Table
	Drains map[rowID]drain
	// Reasons are why rows and services leave the table, for the log.
	Removed   map[rowID]string
	Withdrawn map[ServiceKey]string
	// Next is the earliest deadline, zero when there is none.
	Next time.Time
}

// settle turns what is wanted into what the kernel's table should be right
// now. have is the kernel's table as far as it is ours.
func settle(w wanted, have Table, drains map[rowID]drain, now time.Time) settled {
	s := settled{
		Drains:    make(map[rowID]drain),
		Removed:   make(map[rowID]string),
		Withdrawn: make(map[ServiceKey]string),
	}
	for want, has := range merged(w.Table, have, func(a, b Service) int { return a.Compare(b.ServiceKey) }) {
		switch {
		case want != nil && has == nil:
			service := *want
			service.Servers = withoutQuiesced(want.Servers)
			s.Table = append(s.Table, service)
		case want != nil:
			service := *want
			service.Servers = s.servers(want.Servers, *has, noPod, w.policy(has.ServiceKey), drains, now)
			s.Table = append(s.Table, service)
		default:
			h, held := w.heldFor(has.ServiceKey)
			switch {
			case held && h.Servers == nil:
				s.keep(*has, drains)
			case held:
				service := *has
				service.VIP = w.Owners.of(has.ServiceKey).Name
				service.Servers = s.servers(h.Servers, *has, noPod, w.policy(has.ServiceKey), drains, now)
				s.Table = append(s.Table, service)
			default:
				s.withdraw(*has, w.policy(has.ServiceKey), drains, now)
			}
		}
	}
	return s
}

// policy is how real servers leave a service; that of a VIP which is configured
// no more is the default.
func (w *wanted) policy(k ServiceKey) Drain {
	if v := w.Owners.latest(k); v != nil {
		return v.Drain
	}
	return Drain{Timeout: defaultDrainTimeout}
}

// heldFor is what is known of the set that k belongs to, if that is too little.
func (w *wanted) heldFor(k ServiceKey) (hold, bool) {
	v := w.Owners.of(k)
	if v == nil {
		return hold{}, false
	}
	h, held := w.Hold[workKey{v.Name, k.Address.Is6()}]
	return h, held
}

// keep leaves a service exactly as the kernel has it.
func (s *settled) keep(has Service, drains map[rowID]drain) {
	s.Table = append(s.Table, has)
	for _, r := range has.Servers {
		if d, draining := drains[rowOf(has.ServiceKey, r.RealServer)]; draining {
			s.Drains[rowOf(has.ServiceKey, r.RealServer)] = d
		}
	}
}

// withdraw takes a whole service away, once its real servers have drained.
func (s *settled) withdraw(has Service, policy Drain, drains map[rowID]drain, now time.Time) {
	service := has
	service.Servers = s.servers(nil, has, noService, policy, drains, now)
	if len(service.Servers) == 0 {
		s.Withdrawn[has.ServiceKey] = noService
		return
	}
	s.Table = append(s.Table, service)
}

// withoutQuiesced drops rows of weight 0: a real server that would get no
// connection is not added in the first place.
func withoutQuiesced(rows []Row) []Row {
	for i := range rows {
		if rows[i].Weight == 0 {
			in := make([]Row, 0, len(rows)-1)
			for _, r := range rows {
				if r.Weight > 0 {
					in = append(in, r)
				}
			}
			return in
		}
	}
	return rows
}

// servers merges the wanted rows of one service with those the kernel has; why
// is the reason for a row that is not wanted at all. It returns want itself when
// nothing is on its way out.
func (s *settled) servers(want []Row, has Service, why string, policy Drain, drains map[rowID]drain, now time.Time) []Row {
	leaving := len(want) != len(has.Servers)
	for i := range want {
		if leaving = leaving || want[i].Weight == 0 || !want[i].SameServer(has.Servers[i].RealServer); leaving {
			break
		}
	}
	if !leaving {
		return want
	}
	rows := make([]Row, 0, max(len(want), len(has.Servers)))
	for n, o := range merged(want, has.Servers, func(a, b Row) int { return a.Compare(b.RealServer) }) {
		switch {
		case n != nil && n.Weight > 0:
			rows = append(rows, *n)
		case o != nil:
			reason := why
			if n != nil {
				reason = n.Why
			}
			if row, stays := s.leave(has.ServiceKey, has.Scheduler, *o, reason, policy, drains, now); stays {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// leave decides on one real server that must get no new connections: whether
// it stays at weight 0 for now.
func (s *settled) leave(k ServiceKey, scheduler string, has Row, why string, policy Drain, drains map[rowID]drain, now time.Time) (Row, bool) {
	id := rowOf(k, has.RealServer)
	// A quiesced UDP real server keeps its flows for as long as clients send,
	// so quiescing would not move them: it goes at once. So it does with dh,
	// which sends a VIP's clients to one real server and, while that one is
	// quiesced, refuses them all (ip_vs_dh_schedule).
	if k.Protocol == UDP || scheduler == "dh" {
		s.Removed[id] = why
		return Row{}, false
	}
	d, draining := drains[id]
	// The time to drain begins when the kernel has quiesced the real server, not
	// when somebody wished it. A deadline further away than the policy allows
	// was set under an older configuration or another clock.
	if latest := now.Add(policy.Timeout); !draining || has.Weight > 0 || d.Deadline.After(latest) {
		d.Deadline = latest
	}
	s.Drains[id] = d // noted until the kernel has carried the removal out
	switch {
	case !now.Before(d.Deadline):
		s.Removed[id] = why + ", drain deadline"
		return Row{}, false
	case d.Idle && has.Weight == 0:
		s.Removed[id] = why + ", no connections left"
		return Row{}, false
	}
	d.Idle = false
	s.Drains[id] = d
	if s.Next.IsZero() || d.Deadline.Before(s.Next) {
		s.Next = d.Deadline
	}
	has.Weight = 0
	has.Why = why + ", draining"
	return has, true
}
