// Connection synchronisation: the kernel's sync daemons, which send the connections
// of this director to the other one of the pair.
//
// Used by cmd_cleanup.go. The reconcile loop calls keep at start, after
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

// daemonKeeper keeps the sync daemons as the configuration has them.
type daemonKeeper struct {
	*loopNeeds
	running map[SyncRole]bool // those that ran as configured when last looked at; nil without [sync]
	failing [len(syncRoles)]failureLog
}

// keep brings the sync daemons of the kernel to what the configuration asks for:
// both roles, or with want nil none of those that are ours. What the kernel
// refuses is logged once and tried again with the next audit; an error means that
// the conversation broke.
func (k *daemonKeeper) keep(kernel syncDaemons, want *SyncDaemon) error {
	if want == nil && len(k.state.Daemons) == 0 {
		k.running = nil
		return nil
	}
	have, err := kernel.Daemons()
	if err != nil {
		return err
	}
	var running map[SyncRole]bool // the map of before may have been published
	if want != nil {
		running = make(map[SyncRole]bool)
	}
	for i, role := range syncRoles {
		if want == nil {
			err = k.retire(kernel, role, daemon(have, role))
		} else {
			d := *want
			d.Role, d.Device = role, k.host.DeviceIndex(want.Interface)
			err = k.run(kernel, d, daemon(have, role), k.running[role])
			running[role] = err == nil
		}
		if begins, _ := k.failing[i].note(err); begins {
			k.log.Error("the sync daemon does not run as configured", "role", role, "err", err)
		}
	}
	k.running = running
	return nil
}

// run has the daemon want run, in place of have. before means that it
// did when last looked at. While there is no such device, what runs stays.
func (k *daemonKeeper) run(kernel syncDaemons, want SyncDaemon, have *SyncDaemon, before bool) error {
	if want.Device == 0 {
		return fmt.Errorf("there is no device %s; this is tried again", want.Interface)
	}
	asked := daemon(k.state.Daemons, want.Role)
	why := "configuration"
	if asked != nil {
		known := *asked
		known.Device = want.Device
		switch {
		case known != want:
		case asked.Device != want.Device:
			why = "its device was made again"
		case before:
			why = whyRepaired
		}
	}
	if have != nil && have.beside(want, asked) == want {
		k.remember(want)
		return nil
	}
	message, change := "sync daemon started", []any{"syncid", want.ID, "group", want.Group}
	if have != nil {
		if err := kernel.StopDaemon(want.Role); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop it to change it: %w", err)
		}
		message, change = "sync daemon restarted", []any{"change", have.beside(want, asked).differences(want)}
	}
	// Before the kernel: what runs must not be forgotten.
	k.remember(want)
	k.state.save()
	if err := kernel.StartDaemon(want); err != nil {
		return startError(want, err)
	}
	if why == whyRepaired {
		k.log.Warn("another program has changed the sync daemon; it is repaired", "role", want.Role, "interface", want.Interface)
	}
	k.log.Info(message, append([]any{"role", want.Role, "interface", want.Interface}, append(change, "why", why)...)...)
	return nil
}

// retire stops the daemon of a role if it is the one that is ours, and
// forgets it.
func (k *daemonKeeper) retire(kernel syncDaemons, role SyncRole, have *SyncDaemon) error {
	ours := daemon(k.state.Daemons, role)
	if ours == nil {
		return nil
	}
	if have != nil && have.beside(*ours, nil) == *ours {
		if err := kernel.StopDaemon(role); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop it: %w", err)
		}
		k.log.Info("sync daemon stopped", "role", role, "interface", ours.Interface, "why", "no [sync] in the configuration")
	}
	k.forget(role)
	return nil
}

// forget gives up the daemon of a role.
func (k *daemonKeeper) forget(role SyncRole) {
	k.state.Daemons = slices.DeleteFunc(k.state.Daemons, func(d SyncDaemon) bool { return d.Role == role })
}

// remember makes d ours, in place of another of its role.
func (k *daemonKeeper) remember(d SyncDaemon) {
	k.forget(d.Role)
	k.state.Daemons = append(k.state.Daemons, d)
}

// startError says what an errno means where the kernel's word for it misleads.
func startError(d SyncDaemon, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EEXIST):
		hint = " (another program has started one meanwhile)"
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
