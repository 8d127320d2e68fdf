// The kernel's sync daemons as values: roles, settings, and how two differ.
//
// Used by config*.go, genl*.go, state*.go, reconcile*.go, http_metrics_vips.go and
// cmd_check_host.go. Standard library only, no state, no I/O.

package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// SyncRole is what a sync daemon does.
type SyncRole uint32

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

const (
	SyncMaster SyncRole = 1 // IP_VS_STATE_MASTER: sends
	SyncBackup SyncRole = 2 // IP_VS_STATE_BACKUP: receives
)

// syncRoles are the roles of every director, in the order of a dump.
var syncRoles = [...]SyncRole{SyncMaster, SyncBackup}

// SyncDaemon is one sync daemon. What is zero, but for ID, is left to the
// kernel when the daemon is started.
type SyncDaemon struct {
	Role      SyncRole   `json:"role"`
	Interface string     `json:"interface"`
	ID        uint8      `json:"syncid"` // a backup accepts only messages with this id; one with 0 accepts all
	Group     netip.Addr `json:"group"`
	Port      uint16     `json:"port"`
	TTL       uint8      `json:"ttl"`
	MaxLen    uint16     `json:"maxlen"` // bytes of one message; 0 = the kernel uses the MTU

	// Device is the kernel's number of Interface when the daemon was started. A
	// daemon stays with that device. When the device is removed and made again
	// under the same name, the daemon neither sends nor receives, and the kernel
	// shows no difference.
	Device int `json:"device,omitempty"`
}

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

// The kernel's own choices (include/uapi/linux/ip_vs.h, start_sync_thread).
const (
	defaultSyncPort = 8848 // IP_VS_SYNC_PORT
	defaultSyncTTL  = 1
)

var defaultSyncGroup = netip.AddrFrom4([4]byte{224, 0, 0, 81}) // IP_VS_SYNC_GROUP

func maxLenName(n uint16) string {
	if n == 0 {
		return "by MTU"
	}
	return strconv.Itoa(int(n))
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
