// What a pass would change beside the table: connection timeouts, sync daemons, firewall
// marks, exemptions from connection tracking, and the rest of the host.
//
// Used by cmd_diff.go. It asks the kernel with the functions of the loop, for a
// controller that starts now, and writes nothing.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// pendingKernel is what the kernel is asked beside the table of IPVS.
type pendingKernel interface {
	Timeouts() (Timeouts, error)
	Daemons() ([]SyncDaemon, error)
}

// pendingBeside lists what a pass with plan p would change beside the table. What could
// not be found out is in err; the rest is complete.
func pendingBeside(ctx context.Context, cfg *Config, st *state, p *plan, kernel pendingKernel) (changes []pendingChange, err error) {
	h := newLinuxHost(slog.New(slog.DiscardHandler), st.Addresses, st.Local, func([]VIPAddress) {})
	var errs []error
	take := func(more []pendingChange, err error) {
		changes = append(changes, more...)
		errs = append(errs, err)
	}
	take(h.pendingSysctls(ctx, cfg))
	take(pendingTimeouts(cfg.Timeouts, kernel))
	take(pendingDaemons(cfg.Sync, st.Daemons, h.DeviceIndex, kernel))
	take(pendingMarks(h, cfg, p))
	want, err := pendingAnnouncement(h, cfg, st, p)
	if errs = append(errs, err); err == nil {
		take(h.pendingAddresses(ctx, cfg, want))
	}
	return changes, errors.Join(errs...)
}

// pendingTimeouts are the connection timeouts that the kernel has otherwise. ipvsadm sets
// all three in one line, in which 0 changes nothing.
func pendingTimeouts(want Timeouts, kernel pendingKernel) (changes []pendingChange, err error) {
	have, err := kernel.Timeouts()
	if err != nil {
		return nil, err
	}
	settings, change := timeoutChanges(want, have)
	for i, t := range settings {
		c := pendingChange{Kind: kindTimeout, Name: t.name, Action: actEdit, From: t.was.String(), To: t.want.String(), Why: "configuration"}
		if i == 0 {
			c.line = fmt.Sprintf("--set %d %d %d", change.TCP/time.Second, change.TCPFin/time.Second, change.UDP/time.Second)
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// pendingDaemons are the sync daemons that daemonKeeper.keep would start and stop. ours
// are those that a controller has started.
func pendingDaemons(want *SyncDaemon, ours []SyncDaemon, index func(device string) int, kernel pendingKernel) (changes []pendingChange, err error) {
	if want == nil && len(ours) == 0 {
		return nil, nil
	}
	all, err := kernel.Daemons()
	if err != nil {
		return nil, err
	}
	for _, role := range syncRoles {
		have, asked := daemon(all, role), daemon(ours, role)
		c := pendingChange{Kind: kindSync, Name: role.String(), Why: "configuration"}
		stop := "--stop-daemon " + role.String()
		if want == nil {
			if asked != nil && have != nil && have.beside(*asked, nil) == *asked {
				c.Action, c.From, c.Why, c.line = actRemove, have.text(), "no [sync] in the configuration", stop
				changes = append(changes, c)
			}
			continue
		}
		d := *want
		d.Role, d.Device = role, index(want.Interface)
		switch {
		case d.Device == 0:
			return changes, fmt.Errorf("sync daemon %s: there is no device %s", role, want.Interface)
		case have == nil:
			c.Action, c.To, c.line = actAdd, d.text(), d.line()
		case have.beside(d, asked) != d:
			c.Action, c.From, c.To, c.line = actEdit, have.text(), d.text(), stop+"\n"+d.line()
		default:
			continue
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// text says how d runs.
func (d SyncDaemon) text() string {
	return fmt.Sprintf("%s syncid %d, %s port %d ttl %d, maxlen %s", d.Interface, d.ID, d.Group, d.Port, d.TTL, maxLenName(d.MaxLen))
}

// line starts d with ipvsadm.
func (d SyncDaemon) line() string {
	s := fmt.Sprintf("--start-daemon %s --mcast-interface %s --syncid %d", d.Role, d.Interface, d.ID)
	if d.MaxLen != 0 {
		s += fmt.Sprintf(" --sync-maxlen %d", d.MaxLen)
	}
	return s + fmt.Sprintf(" --mcast-group %s --mcast-port %d --mcast-ttl %d", d.Group, d.Port, d.TTL)
}

// pendingMarks are the changes of the two nftables tables.
func pendingMarks(h *linuxHost, cfg *Config, p *plan) (changes []pendingChange, err error) {
	h.marks.form = markForm(cfg.PeerMACs)
	marks, marksErr := h.marks.Pending(p.want.Marks)
	exempt := wantedUntracked(p.want.Owners, p.Shards, p.want.Marks, cfg)
	exemptions, exemptErr := h.untracked.pendingUntracked(exempt)
	for _, t := range []struct{ kind, table, change string }{
		{kindMarks, markTableName, marks},
		{kindNoTrack, untrackedTableName, exemptions},
	} {
		if t.change != "" {
			changes = append(changes, pendingChange{Kind: t.kind, Name: t.table, Action: actEdit, To: t.change, Why: "configuration"})
		}
	}
	return changes, errors.Join(marksErr, exemptErr)
}

// pendingAnnouncement is which addresses the host should have after the pass.
func pendingAnnouncement(h *linuxHost, cfg *Config, st *state, p *plan) (want vipAddresses, err error) {
	drained, err := drainedSince(cfg.CacheDir)
	if err != nil {
		return want, err
	}
	want, _ = fitAddresses(&addressFacts{
		owners: p.want.Owners, have: p.Shards, known: true, devices: st.Addresses, local: st.Local,
		drained: !drained.IsZero(), fit: drained.IsZero() && h.Uplink() == nil,
		withdrawn: p.want.withdrawn(),
	})
	return want, nil
}
