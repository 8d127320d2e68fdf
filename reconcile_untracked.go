// Which packets connection tracking does not see: those of the services that the kernel
// has for VIPs with notrack = true.
//
// Used by reconcile*.go. A host that cannot exempt them is a warning and no more:
// connection tracking costs time, and the VIP is served all the same.

package main

import "slices"

// wantedUntracked is what the VIPs of cfg with notrack = true exempt, given the services
// and marks that the kernel has. A service that drains is exempt until it is removed.
func wantedUntracked(owners owners, have shards, marked map[MarkedPort]uint32, cfg *Config) untracked {
	var u untracked
	some := false
	for i := range cfg.VIPs {
		v := &cfg.VIPs[i]
		if !v.NoTrack {
			continue
		}
		some = true
		if v.Forward == Tunnel {
			for _, a := range v.Addresses {
				if t := (tunnelledVIP{a, v.Tunnel.effective(v.Forward)}); len(u.Tunnels) < maxTunnelled && !slices.Contains(u.Tunnels, t) {
					u.Tunnels = append(u.Tunnels, t)
				}
			}
		}
	}
	if !some {
		return u
	}
	u.Replies = len(cfg.PeerMACs) > 0
	exempt := func(v *VIP) bool { return v != nil && v.NoTrack }
	for i := range have {
		services := have[i].Services
		for j := range services {
			k := &services[j].ServiceKey
			if k.Mark != 0 || !exempt(owners.of(*k)) {
				if j == 0 && !owners.shared(k.Address) {
					break // so are the others
				}
				continue
			}
			u.Ports = append(u.Ports, k.port())
		}
	}
	n := len(u.Ports) // in order
	for p := range marked {
		if exempt(owners.of(p.service())) {
			u.Ports = append(u.Ports, p)
		}
	}
	if len(u.Ports) > n {
		sortBy(u.Ports, func(a, b MarkedPort) int { return markElement{MarkedPort: a}.Compare(markElement{MarkedPort: b}) })
	}
	return u
}

// exemptions keep what connection tracking does not see as wanted.
type exemptions struct {
	*loopNeeds
	asked   bool      // the host was asked for last
	last    untracked // while asked
	failing failureLog
}

// apply asks the host for want, when that has changed or it is time to look at it. What
// the host refuses is asked for again with the next audit.
func (e *exemptions) apply(want untracked, audit bool) {
	if e.asked && want.equal(e.last) && !e.host.LostUntracked() && !(audit && (len(want.Ports) > 0 || e.failing.text != "")) {
		return
	}
	err := e.host.Untrack(want)
	e.asked, e.last = true, want
	begins, ends := e.failing.note(err)
	switch {
	case begins:
		e.log.Warn("notrack could not be carried out: the VIPs are served, and connection tracking goes on", "err", err)
	case ends:
		e.log.Info("notrack is carried out again")
	}
}
