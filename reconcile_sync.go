// Connection synchronisation: the kernel's sync daemons, which send the connections
// of this director to the other one of the pair.
//
// Used by cmd_cleanup.go. The reconcile loop calls keepDaemons at start, after
// each reload and with each audit. A director runs both roles: the master
// sends, the backup receives, on whichever director the VIP is. A running
// daemon cannot be changed (start_sync_thread in
// net/netfilter/ipvs/ip_vs_sync.c answers EEXIST), so one that differs is
// stopped and started again. The table does not depend on it.

package main

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// beside is d, which runs, in a form that compares with want. Its device is that
// of asked, what was asked for before, if known. When want leaves maxlen to the
// kernel any length counts as its choice, but not the one of asked.
func (d SyncDaemon) beside(want SyncDaemon, asked *SyncDaemon) SyncDaemon {
	if want.MaxLen == 0 && (asked == nil || asked.MaxLen != d.MaxLen) {
		d.MaxLen = 0
	}
	d.Device = want.Device
	if asked != nil && asked.Device != 0 && asked.Interface == d.Interface && d.Interface == want.Interface {
		d.Device = asked.Device
	}
	return d
}

// syncDaemons is the kernel's half of connection synchronisation, part of
// director.
type syncDaemons interface {
	Daemons() ([]SyncDaemon, error)
	StartDaemon(SyncDaemon) error
	StopDaemon(SyncRole) error
}

// syncMemory is what the loop knows of one role, beside what the state file
// remembers.
type syncMemory struct {
	running bool // it ran as configured when last looked at
	refusal failureLog
}

// keepDaemons brings the sync daemons to what the configuration asks for: both
// roles, or with want nil none of those that are ours. What the kernel refuses
// is logged once and tried again with the next audit; an error means that the
// conversation broke.
func (r *reconciler) keepDaemons(want *SyncDaemon) error {
	if want == nil && len(r.state.Daemons) == 0 {
		return nil
	}
	have, err := r.director.Daemons()
	if err != nil {
		return r.broken(err)
	}
	if r.sync == nil {
		r.sync = make(map[SyncRole]syncMemory)
	}
	for _, role := range syncRoles {
		memory := r.sync[role]
		if want == nil {
			err = r.retireDaemon(role, daemon(have, role))
		} else {
			d := *want
			d.Role, d.Device = role, r.host.DeviceIndex(want.Interface)
			err = r.keepDaemon(d, daemon(have, role), memory.running)
		}
		memory.running = want != nil && err == nil
		if begins, _ := memory.refusal.note(err); begins {
			r.log.Error("the sync daemon is not as it should be", "role", role, "err", err)
		}
		r.sync[role] = memory
	}
	return nil
}

// keepDaemon has the daemon want run, in place of have. before means that it
// did when last looked at. While there is no such device, what runs stays.
func (r *reconciler) keepDaemon(want SyncDaemon, have *SyncDaemon, before bool) error {
	if want.Device == 0 {
		return fmt.Errorf("there is no device %s; this is tried again", want.Interface)
	}
	asked := daemon(r.state.Daemons, want.Role)
	why := "configuration"
	if asked != nil {
		known := *asked
		known.Device = want.Device
		switch {
		case known != want:
		case asked.Device != want.Device:
			why = "its device was made anew"
		case before:
			why = "repaired, another hand changed it"
		}
	}
	if have != nil && have.beside(want, asked) == want {
		r.rememberDaemon(want)
		return nil
	}
	message, change := "sync daemon started", []any{"syncid", want.ID, "group", want.Group}
	if have != nil {
		if err := r.director.StopDaemon(want.Role); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop it to change it: %w", err)
		}
		message, change = "sync daemon restarted", []any{"change", have.beside(want, asked).differences(want)}
	}
	// Before the kernel: what runs must not be forgotten. The turn's own save
	// reports what goes wrong.
	r.rememberDaemon(want)
	_ = r.dir.save(r.state)
	if err := r.director.StartDaemon(want); err != nil {
		return startError(want, err)
	}
	r.log.Info(message, append([]any{"role", want.Role, "interface", want.Interface}, append(change, "why", why)...)...)
	return nil
}

// retireDaemon stops the daemon of a role if it is the one that is ours, and
// forgets it.
func (r *reconciler) retireDaemon(role SyncRole, have *SyncDaemon) error {
	ours := daemon(r.state.Daemons, role)
	if ours == nil {
		return nil
	}
	if have != nil && have.beside(*ours, nil) == *ours {
		if err := r.director.StopDaemon(role); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop it: %w", err)
		}
		r.log.Info("sync daemon stopped", "role", role, "interface", ours.Interface, "why", "no [sync] in the configuration")
	}
	r.state.Daemons = slices.DeleteFunc(slices.Clone(r.state.Daemons), func(d SyncDaemon) bool { return d.Role == role })
	return nil
}

// rememberDaemon makes d ours, in place of another of its role.
func (r *reconciler) rememberDaemon(d SyncDaemon) {
	others := slices.DeleteFunc(slices.Clone(r.state.Daemons), func(o SyncDaemon) bool { return o.Role == d.Role })
	r.state.Daemons = append(others, d)
	slices.SortFunc(r.state.Daemons, func(a, b SyncDaemon) int { return int(a.Role) - int(b.Role) })
}

// startError says what an errno means where the kernel's word for it misleads.
func startError(d SyncDaemon, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EEXIST):
		hint = " (another hand has started one meanwhile)"
	case errors.Is(err, unix.EINVAL):
		hint = " (the kernel does not synchronise while a service of one address family has a real server of the other)"
	}
	return fmt.Errorf("start it on %s: %w%s", d.Interface, err, hint)
}

// stopDaemons stops the daemons of ours that still run, for the clean-up.
func stopDaemons(k syncDaemons, ours []SyncDaemon) error {
	if len(ours) == 0 {
		return nil
	}
	have, err := k.Daemons()
	if err != nil {
		return err
	}
	for _, d := range ours {
		if running := daemon(have, d.Role); running != nil && running.beside(d, nil) == d {
			err = errors.Join(err, k.StopDaemon(d.Role))
		}
	}
	return err
}

// syncing says for the view which roles run as configured.
func (r *reconciler) syncing() map[SyncRole]bool {
	if r.prepared == nil || r.prepared.Sync == nil {
		return nil
	}
	running := make(map[SyncRole]bool)
	for role, m := range r.sync {
		running[role] = m.running
	}
	return running
}
