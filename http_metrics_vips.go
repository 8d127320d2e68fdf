// Metrics of the VIPs and their real servers, as the loop has them.
//
// Used by http_metrics.go. Each real server of a VIP counts once over the VIP's
// services: a VIP of 1000 ports and 50 nodes gives 50 series, and not 50,000. It changes
// nothing.

package main

import (
	"net/netip"
	"slices"
	"time"
)

// writeSync writes whether the sync daemons run.
func writeSync(e *exposition, v *loopState) {
	if v.Sync == nil {
		return
	}
	up := e.family("sync_daemon_up", gauge, "1 when the sync daemon runs as configured.")
	for _, role := range syncRoles {
		up(flag01(v.Sync[role]), "role", role.String())
	}
}

// writeConflicts writes which other hosts claim a VIP that this director has.
func writeConflicts(e *exposition, cfg *Config, p *conflictSnapshot) {
	now := e.family("vip_conflict", gauge, "1 while another host claims a VIP that this director has.")
	for _, c := range p.Active {
		now(1, "vip", c.VIP, "address", c.Address.String(), "device", c.Device, "mac", c.MAC.String())
	}
	begun := e.family("vip_conflicts_total", counter, "Other hosts that began to claim a VIP while this director had it.")
	for i := range cfg.VIPs {
		for _, a := range cfg.VIPs[i].Addresses {
			begun(float64(p.Begun[a]), "vip", cfg.VIPs[i].Name, "address", a.String())
		}
	}
}

// serverState is a real server of a VIP over all the VIP's services.
type serverState struct {
	inService bool          // in one of them
	quiesced  bool          // in one of them
	reason    quiesceReason // in the first of those
	since     time.Time     // the newest change of weight or reason; zero: none since the start
	deadline  time.Time     // the latest, of those that it drains from; zero: it does not
}

// serverStates are the states of all real servers in v.
func (v *loopState) serverStates(times *rowTimes) map[startKey]serverState {
	all := make(map[startKey]serverState)
	for i := range v.Shards {
		var last *Service
		for j := range v.Shards[i].Services {
			svc := &v.Shards[i].Services[j]
			if last != nil && same(svc.Servers, last.Servers) && same(svc.Leaving, last.Leaving) {
				continue // it adds nothing
			}
			last = svc
			svc.states(all, times)
		}
	}
	return all
}

// states adds the states of s's real servers to all.
func (s *Service) states(all map[startKey]serverState, times *rowTimes) {
	for i := range s.Servers {
		row := &s.Servers[i]
		at := startKey{s.VIP, row.Address}
		is := all[at]
		if row.Weight > 0 {
			is.inService = true
		} else if !is.quiesced {
			is.quiesced, is.reason = true, row.Reason
		}
		if since := times.of(s.ServiceKey, row); since.After(is.since) {
			is.since = since
		}
		all[at] = is
	}
	for i := range s.Leaving {
		l := &s.Leaving[i]
		at := startKey{s.VIP, l.Address}
		if is, there := all[at]; there && !l.Gone && l.Deadline.After(is.deadline) {
			is.deadline = l.Deadline
			all[at] = is
		}
	}
}

// writeVIPs writes what the loop's snapshot says of each VIP.
func (s *httpServer) writeVIPs(e *exposition, v *loopState) {
	e.family("drained", gauge, "1 while the operator has drained this director.")(flag01(!v.Drained.IsZero()))
	announced := e.family("vip_announced", gauge, "1 while the controller has the VIP's address on the uplink or the dummy device.")
	for i := range v.Config.VIPs {
		vip := &v.Config.VIPs[i]
		for _, a := range vip.Addresses {
			if vip.Announce.method().byController() {
				announced(flag01(slices.Contains(v.Announced, a)), "vip", vip.Name, "address", a.String())
			}
		}
	}
	if v.TableHash != 0 {
		e.family("table_hash", gauge, "A number for the wanted table, the same on both directors of a pair.")(float64(v.TableHash))
	}
	e.family("warnings", gauge, "Warnings about the present inputs.")(float64(len(v.Warnings)))
	s.writeServers(e, v)
	kept := e.family("vip_kept", gauge, "1 while the last working real servers of a VIP stay in service because by the inputs none would be.")
	for i := range v.Config.VIPs {
		vip := &v.Config.VIPs[i]
		for _, is6 := range []bool{false, true} {
			if slices.ContainsFunc(vip.Addresses, func(a netip.Addr) bool { return a.Is6() == is6 }) {
				kept(flag01(slices.Contains(v.Kept, workKey{vip.Name, is6})), "vip", vip.Name, "family", familyName(is6))
			}
		}
	}
}

// writeServers writes the states of the real servers.
func (s *httpServer) writeServers(e *exposition, v *loopState) {
	states := v.serverStates(&s.loop.times)
	working, all := make(map[string]int), make(map[string]int)
	for at, is := range states {
		all[at.VIP]++
		if is.inService {
			working[at.VIP]++
		}
	}
	servers := e.family("vip_real_servers", gauge, "Real servers of a VIP over its services, each address once.")
	for i := range v.Config.VIPs {
		name := v.Config.VIPs[i].Name
		servers(float64(working[name]), "vip", name, "state", "in_service")
		servers(float64(all[name]-working[name]), "vip", name, "state", "draining")
	}
	order := sortedKeys(states, compareStartKeys)
	nodes := s.loop.cluster.Get().nodeNames()
	quiesced := e.family("real_server_quiesced", gauge, "1 for a real server that is quiesced in some service of the VIP, with the reason in the first of them.")
	for _, at := range order {
		if is := states[at]; is.quiesced {
			quiesced(1, "vip", at.VIP, "server", at.Address.String(), "node", nodes[at.Address], "reason", is.reason.String())
		}
	}
	since := e.family("real_server_state_timestamp_seconds", gauge, "Since when a real server has its weight for its present reason; the newest, over the VIP's services. The start of the controller, if that has not changed.")
	for _, at := range order {
		is, state := states[at], "in_service"
		if is.since.IsZero() {
			is.since = s.started
		}
		if !is.inService {
			state = "draining"
		}
		since(unixSeconds(is.since), "vip", at.VIP, "server", at.Address.String(), "node", nodes[at.Address], "state", state)
	}
	deadline := e.family("real_server_drain_deadline_timestamp_seconds", gauge, "When a real server that drains is removed at the latest.")
	for _, at := range order {
		if is := states[at]; !is.deadline.IsZero() {
			deadline(unixSeconds(is.deadline), "vip", at.VIP, "server", at.Address.String(), "node", nodes[at.Address])
		}
	}
}
