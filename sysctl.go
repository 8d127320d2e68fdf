// Kernel settings: which ones a director and a real server need, and why.
//
// Used by host.go and cmd*.go. host.go applies the director's settings at start
// and with each audit, because the module ip_vs may be loaded late;
// cmd_realserver.go applies a node's. A setting is written only if it differs,
// and only the settings of these tables are ever written. Not in the tables, on
// purpose:
//
//   - ip_forward and ipv6 forwarding: direct routing takes a packet from
//     LOCAL_IN and sends it through LOCAL_OUT (ip_vs_dr_xmit in
//     net/netfilter/ipvs/ip_vs_xmit.c); the forwarding path is never entered.
//   - vs/conntrack: its default (off) is right for direct routing. Where it is
//     on, kube-proxy or a firewall on the same host needs it.
//   - vs/backup_only: it stops all balancing while the sync daemon runs in the
//     backup role (sysctl_backup_only in include/net/ip_vs.h). A pair in which
//     both directors run both roles would balance nothing. It is for an
//     operator whose backup director is also a real server.
//
// routedSysctls are only for active directors behind routers.
//
// Sources: Documentation/networking/ip-sysctl.rst and ipvs-sysctl.rst.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Sysctl is one wanted kernel setting.
type Sysctl struct {
	// Key is the path below /proc/sys, "net/ipv4/conf/eth0.100/arp_ignore".
	// sysctl(8) takes this form too, and only this form leaves the dots of a
	// device name alone.
	Key  string
	Want string
	// Also lists values that serve as well as Want and are left as they are.
	Also []string
	// Why is one sentence for logs and for doctor.
	Why string
	// Optional means that the kernel may lack the key: the ip_vs module is not
	// loaded yet, or the kernel is older than the setting.
	Optional bool
}

// SysctlState is what the kernel has for one Sysctl.
type SysctlState struct {
	Sysctl
	Have string // "" when the key is absent or unreadable
	OK   bool   // nothing to do: the value serves, or the key is optional and absent
	Err  error  // why Have is unknown; nil for an optional, absent key
}

// directorSysctls is what a director needs. uplink is the name of an existing
// device; release is the kernel's (procSys.KernelRelease), because the right
// conn_reuse_mode depends on it.
func directorSysctls(uplink, release string) []Sysctl {
	const redirects = "a director that forwards must not tell clients with an old ARP entry to send the VIP's packets to its peer"
	reuse := Sysctl{
		Key:      "net/ipv4/vs/conn_reuse_mode",
		Want:     "3",
		Also:     []string{"2"}, // the kernel tests bit 2 alone (is_new_conn_expected)
		Why:      "a director in direct routing sees no FIN from the server, so only bit 2 lets a client's reused port reach another real server",
		Optional: true,
	}
	if !kernelAtLeast(release, 5, 9) {
		reuse.Want, reuse.Also = "0", nil
		reuse.Why = "before kernel 5.9 rescheduling a reused port drops its first SYN where conntrack is on, which costs a second"
	}
	return []Sysctl{
		reuse,
		{
			Key:      "net/ipv4/vs/expire_nodest_conn",
			Want:     "1",
			Why:      "connections to a removed real server end at once instead of being dropped silently until they time out",
			Optional: true,
		},
		{
			Key:      "net/ipv4/vs/expire_quiescent_template",
			Want:     "1",
			Why:      "persistence must not go on sending new connections to a real server of weight 0",
			Optional: true,
		},
		// The kernel takes "all" OR the device's own value, so both must be 0;
		// with "all" at 0 every other device keeps its own.
		{Key: "net/ipv4/conf/all/send_redirects", Want: "0", Why: redirects},
		{Key: confKey(uplink, "send_redirects"), Want: "0", Why: redirects},
	}
}

// syncSysctls is what the master daemon of a pair needs, so that the other
// director has every connection that would be missed. They belong together:
// with a period of 0 in sync_threshold and no sync_refresh_period only changes
// of state would be told (ip_vs_sync_conn_needed in ip_vs_sync.c).
func syncSysctls() []Sysctl {
	return []Sysctl{
		{
			Key:      "net/ipv4/vs/sync_refresh_period",
			Want:     "10",
			Why:      "a slow connection must be told again before it times out at the other director, and a busy one need not be told every 50 packets",
			Optional: true,
		},
		{
			Key:      "net/ipv4/vs/sync_retries",
			Want:     "1",
			Why:      "sync messages are not acknowledged: one that is lost is made up for by the next packet after an eighth of the refresh period",
			Optional: true,
		},
		{
			Key:      "net/ipv4/vs/sync_threshold",
			Want:     "0\t0",
			Why:      "a connection is told once it is established; a client that waits for the server to speak first never sends the third packet of the kernel's default",
			Optional: true,
		},
	}
}

// routedSysctls is what active directors behind one router need, so that each
// takes over the connections of one that went, and what routers have to say of
// another's.
func routedSysctls() []Sysctl {
	return []Sysctl{
		{
			Key:      "net/ipv4/vs/sloppy_tcp",
			Want:     "1",
			Why:      "a connection that routes move here in the middle has shown this director no SYN, and mh finds its real server without one",
			Optional: true,
		},
		{
			Key:      "net/ipv4/vs/schedule_icmp",
			Want:     "1",
			Why:      "a router's word that an answer is too large for a link may come to another director than the connection, and mh finds its real server all the same",
			Optional: true,
		},
	}
}

// realServerSysctls is what a node needs to hold an IPv4 VIP on lo without
// claiming it on the network. uplink is the name of an existing device: the
// one that answers ARP for the node. The kernel takes the greater of "all" and
// the device's own value; "all" is left alone because some CNI plug-ins need
// ARP answered on their own devices. IPv6 needs nothing: neighbour discovery
// answers only for addresses of the receiving device.
func realServerSysctls(uplink string) []Sysctl {
	return []Sysctl{
		{
			Key:  confKey(uplink, "arp_ignore"),
			Want: "1",
			Also: []string{"2"}, // stricter still: the asker must be in the same subnet
			Why:  "the node must not answer ARP for a VIP on lo, or it takes the VIP from the director",
		},
		{
			Key:  confKey(uplink, "arp_announce"),
			Want: "2",
			Why:  "the node must not use a VIP on lo as the sender of its ARP requests, or its neighbours learn the VIP at its MAC",
		},
	}
}

// tunnelSysctls is what the device needs at which a node takes a tunnel's
// packets apart. all is the value of net/ipv4/conf/all/rp_filter. The kernel
// takes the greater of the two, and 2 is the greatest: with it all, on which
// other devices depend, is left alone.
func tunnelSysctls(device, all string) []Sysctl {
	s := Sysctl{
		Key:  confKey(device, "rp_filter"),
		Want: "2",
		Why:  "clients are never routed through the tunnel, so a strict reverse-path filter drops all that comes out of it",
	}
	if all == "0" {
		s.Also = []string{"0"} // no filter at all
	}
	return []Sysctl{s}
}

// confKey is the key of a per-device IPv4 setting.
func confKey(device, name string) string { return "net/ipv4/conf/" + device + "/" + name }

// kernelAtLeast reports whether release ("6.1.0-25-amd64") is major.minor or
// newer. A release that does not begin with two numbers counts as old.
func kernelAtLeast(release string, major, minor int) bool {
	first, rest, _ := strings.Cut(release, ".")
	second := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		second = rest[:i]
	}
	haveMajor, err := strconv.Atoi(first)
	if err != nil {
		return false
	}
	haveMinor, err := strconv.Atoi(second)
	if err != nil {
		return false
	}
	return haveMajor > major || haveMajor == major && haveMinor >= minor
}

// procSys reads and writes kernel settings below Root. The files below net are
// those of the calling thread's network namespace.
type procSys struct {
	Root string // "/proc/sys"
	log  *slog.Logger
}

// KernelRelease is the release of the running kernel, as uname -r prints it.
func (p procSys) KernelRelease() (string, error) { return p.read("kernel/osrelease") }

// Check compares the kernel with want and changes nothing. The answer has one
// state for each setting, in the same order.
func (p procSys) Check(want []Sysctl) []SysctlState {
	states := make([]SysctlState, len(want))
	for i, s := range want {
		have, err := p.read(s.Key)
		states[i] = SysctlState{Sysctl: s, Have: have, Err: err}
		switch {
		case err == nil:
			states[i].OK = have == s.Want || slices.Contains(s.Also, have)
		case s.Optional && errors.Is(err, fs.ErrNotExist):
			states[i].OK, states[i].Err = true, nil
		}
	}
	return states
}

// Apply writes each setting of want that differs and logs each change. A
// setting that fails does not keep the others from being applied; the error
// joins all failures.
func (p procSys) Apply(want []Sysctl) error {
	var errs []error
	for _, s := range p.Check(want) {
		if s.OK {
			continue
		}
		if s.Err != nil {
			errs = append(errs, s.Err)
			continue
		}
		if err := p.write(s.Key, s.Want); err != nil {
			errs = append(errs, err)
			continue
		}
		p.log.Info("kernel setting changed", "key", s.Key, "from", s.Have, "to", s.Want, "why", s.Why)
	}
	return errors.Join(errs...)
}

func (p procSys) path(key string) string { return filepath.Join(p.Root, filepath.FromSlash(key)) }

func (p procSys) read(key string) (string, error) {
	b, err := os.ReadFile(p.path(key))
	if err != nil {
		return "", fmt.Errorf("read kernel setting %s: %w", key, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// write never creates a file: a key the kernel lacks is an error.
func (p procSys) write(key, value string) error {
	f, err := os.OpenFile(p.path(key), os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = f.WriteString(value + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("set kernel setting %s to %s: %w", key, value, err)
	}
	return nil
}
