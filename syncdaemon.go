// Connection synchronisation: the kernel's sync daemons, which tell the other
// director of the pair what this one balances.
//
// The reconcile loop calls keepDaemons at start, after each reload and with
// every audit. A director runs both roles at once: the master tells, the backup
// listens, and which director has the VIP at the moment makes no difference. A
// daemon cannot be known (start_sync_thread in net/netfilter/ipvs/ip_vs_sync.c
// answers EEXIST), so one that differs is stopped and started. The table never
// depends on any of this.

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// SyncRole is what a sync daemon does.
type SyncRole uint32

const (
	SyncMaster SyncRole = 1 // IP_VS_STATE_MASTER: sends
	SyncBackup SyncRole = 2 // IP_VS_STATE_BACKUP: receives
)

// syncRoles are the roles of every director, in the order of a dump.
var syncRoles = [...]SyncRole{SyncMaster, SyncBackup}

func (r SyncRole) String() string {
	switch r {
	case SyncMaster:
		return "master"
	case SyncBackup:
		return "backup"
	}
	return fmt.Sprintf("role-%d", uint32(r))
}

// MarshalText implements encoding.TextMarshaler.
func (r SyncRole) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *SyncRole) UnmarshalText(text []byte) error {
	for _, role := range syncRoles {
		if role.String() == string(text) {
			*r = role
			return nil
		}
	}
	return fmt.Errorf("%q is neither master nor backup", text)
}

// SyncDaemon is one sync daemon. What is zero, but for ID, is left to the
// kernel when the daemon is started.
type SyncDaemon struct {
	Role      SyncRole   `json:"role"`
	Interface string     `json:"interface"`
	ID        uint8      `json:"syncid"` // a backup takes messages of this id alone; one with 0 takes all
	Group     netip.Addr `json:"group"`
	Port      uint16     `json:"port"`
	TTL       uint8      `json:"ttl"`
	MaxLen    uint16     `json:"maxlen"` // bytes of one message; 0 = the kernel goes by the MTU

	// Device is the kernel's number of Interface when the daemon was started. A
	// daemon stays at its device: when that is removed and made again under the
	// same name, it is deaf and mute, and the kernel shows no difference.
	Device int `json:"device,omitempty"`
}

// The kernel's own choices (include/uapi/linux/ip_vs.h, start_sync_thread).
const (
	defaultSyncPort = 8848 // IP_VS_SYNC_PORT
	defaultSyncTTL  = 1
)

var defaultSyncGroup = netip.AddrFrom4([4]byte{224, 0, 0, 81}) // IP_VS_SYNC_GROUP

// differences lists what the daemon to has otherwise, as "syncid 1 → 2".
func (d SyncDaemon) differences(to SyncDaemon) string {
	var all []string
	for _, a := range []struct {
		name     string
		was, now any
	}{
		{"interface", d.Interface, to.Interface},
		{"syncid", d.ID, to.ID},
		{"group", d.Group, to.Group},
		{"port", d.Port, to.Port},
		{"ttl", d.TTL, to.TTL},
		{"maxlen", maxLenName(d.MaxLen), maxLenName(to.MaxLen)},
		{"device", d.Device, to.Device},
	} {
		if a.was != a.now {
			all = append(all, fmt.Sprintf("%s %v → %v", a.name, a.was, a.now))
		}
	}
	return strings.Join(all, ", ")
}

func maxLenName(n uint16) string {
	if n == 0 {
		return "by MTU"
	}
	return strconv.Itoa(int(n))
}

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

// daemon returns the daemon of a role, nil for none.
func daemon(all []SyncDaemon, role SyncRole) *SyncDaemon {
	for i := range all {
		if all[i].Role == role {
			return &all[i]
		}
	}
	return nil
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
