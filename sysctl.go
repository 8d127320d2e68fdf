// Kernel settings: which ones a director and a real server need, and why.
//
// Used by host*.go, cmd*.go and main.go. A setting is written only if it differs,
// and only the settings of sysctlTable, and those that an operator names, are ever
// written. Not in the table, on purpose:
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
// Sources: Documentation/networking/ip-sysctl.rst and ipvs-sysctl.rst.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
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
	// Why is one sentence for the log.
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

// sysctlUse is what a setting is needed for.
type sysctlUse int

const (
	// useDirector: each director.
	useDirector sysctlUse = iota

	// useFlood: a director, against floods of new connections. In mode 1 the kernel
	// drops half-open connections (drop_entry) and new ones (drop_packet) while less
	// memory is free than amemthresh says (update_defense_level in ip_vs_ctl.c). It
	// writes 2 into a mode that is active. MEMORY is what freeThreshold says.
	useFlood

	// useSync: the master daemon of a pair, so that the other director has every
	// connection that clients would miss. These settings belong together: with a
	// period of 0 in sync_threshold and no sync_refresh_period the kernel sends
	// only changes of state (ip_vs_sync_conn_needed in ip_vs_sync.c).
	useSync

	// useRouted: active directors behind one router, so that each takes over the
	// connections of one that failed, and receives their ICMP errors.
	useRouted

	// useExchange: a director, while the kernel exchanges a scheduler. An ICMP
	// error would end connections that are served a moment later. The value is the
	// time between two errors to one peer, in milliseconds: an hour is longer than
	// the kernel remembers a peer. Fragmentation-needed messages are
	// not limited, so path MTU discovery continues.
	useExchange

	// useNode: a node, to have an IPv4 VIP on lo without claiming it on the
	// network. DEVICE is each one on which clients may ask. The kernel takes the greater of
	// "all" and the device's own value; "all" is left alone because some CNI
	// plug-ins need ARP answered on their own devices. IPv6 needs nothing:
	// neighbour discovery answers only for addresses of the receiving device.
	useNode

	// useTunnel: the device on which a node receives a tunnel's packets. The
	// kernel takes the greater of "all" and the device's own value, and 2 is the
	// greatest: "all", on which other devices depend, is left alone.
	useTunnel
)

// sysctlTable has each setting once. docs/sysctls.md has the same rows.
var sysctlTable = []struct {
	use           sysctlUse
	key           string // with UPLINK or DEVICE in the place of a device's name
	since, before [2]int // the kernels with this value; zero: all
	want          string
	also          []string // serve as well
	why           string
}{
	// The kernel tests bit 2 alone (is_new_conn_expected).
	{use: useDirector, key: "net/ipv4/vs/conn_reuse_mode", since: [2]int{5, 9}, want: "3", also: []string{"2"},
		why: "a director in direct routing sees no FIN from the server, so only bit 2 lets a client's reused port reach another real server"},
	{use: useDirector, key: "net/ipv4/vs/conn_reuse_mode", before: [2]int{5, 9}, want: "0",
		why: "before kernel 5.9 rescheduling a reused port drops its first SYN where conntrack is on, which costs a second"},
	{use: useDirector, key: "net/ipv4/vs/expire_nodest_conn", want: "1",
		why: "connections to a removed real server end at once; otherwise they are dropped silently until they time out"},
	{use: useDirector, key: "net/ipv4/vs/expire_quiescent_template", want: "1",
		why: "persistence must not send new connections to a real server of weight 0"},
	// The kernel takes "all" OR the device's own value, so both must be 0; with
	// "all" at 0 every other device keeps its own.
	{use: useDirector, key: "net/ipv4/conf/all/send_redirects", want: "0", why: noRedirects},
	{use: useDirector, key: "net/ipv4/conf/UPLINK/send_redirects", want: "0", why: noRedirects},

	{use: useFlood, key: "net/ipv4/vs/amemthresh", want: "MEMORY",
		why: "the kernel's default, 4 MiB, is less than it keeps free for itself, so its defences against floods never begin"},
	{use: useFlood, key: "net/ipv4/vs/drop_entry", want: "1", also: []string{"2", "3"},
		why: "while memory is short in a flood, half-open connections must end before the kernel ends processes"},
	{use: useFlood, key: "net/ipv4/vs/drop_packet", want: "1", also: []string{"2", "3"},
		why: "while memory is short in a flood, new connections must not take what is left"},

	{use: useSync, key: "net/ipv4/vs/sync_refresh_period", want: "10",
		why: "a slow connection must be sent again before it times out at the other director, and a busy one need not be sent every 50 packets"},
	{use: useSync, key: "net/ipv4/vs/sync_retries", want: "1",
		why: "sync messages are not acknowledged: after a lost one, the next packet after an eighth of the refresh period sends the connection again"},
	{use: useSync, key: "net/ipv4/vs/sync_threshold", want: "0\t0",
		why: "a connection is sent once it is established; a client that waits for the server to speak first never sends the third packet of the kernel's default"},

	{use: useRouted, key: "net/ipv4/vs/sloppy_tcp", want: "1",
		why: "a connection that routes move here in the middle has sent this director no SYN, and mh finds its real server without one"},
	{use: useRouted, key: "net/ipv4/vs/schedule_icmp", want: "1",
		why: "a router's message that an answer is too large for a link may reach another director than the connection, and mh finds its real server all the same"},

	{use: useExchange, key: "net/ipv4/icmp_ratelimit", want: icmpSuppressed, why: noRefusal},
	{use: useExchange, key: "net/ipv6/icmp/ratelimit", want: icmpSuppressed, why: noRefusal},

	// 2 is stricter than 1: the asker must be in the same subnet.
	{use: useNode, key: "net/ipv4/conf/DEVICE/arp_ignore", want: "1", also: []string{"2"},
		why: "the node must not answer ARP for a VIP on lo, or it takes the VIP from the director"},
	{use: useNode, key: "net/ipv4/conf/DEVICE/arp_announce", want: "2",
		why: "the node must not use a VIP on lo as the sender of its ARP requests, or its neighbours learn the VIP at its MAC"},

	{use: useTunnel, key: "net/ipv4/conf/DEVICE/rp_filter", want: "2",
		why: "clients are never routed through the tunnel, so a strict reverse-path filter drops all that comes out of it"},
}

const (
	// icmpSuppressed is about an hour, in milliseconds. By the unusual number the
	// controller knows its own value, which a kill -9 in the middle of an exchange
	// left behind, from an operator's.
	icmpSuppressed = "3599971"

	// icmpDefault is the kernel's default for the same keys.
	icmpDefault = "1000"

	noRedirects = "a director that forwards must not tell clients with an old ARP entry to send the VIP's packets to its peer"
	noRefusal   = "while a service has no scheduler, the kernel must not refuse its new connections with an ICMP error"
)

// vsSysctls is where IPVS has its settings, below /proc/sys. A kernel may lack
// any of them.
const vsSysctls = "net/ipv4/vs/"

// sysctlsFor are the settings for one use. device is the name of an existing
// device, the uplink or a tunnel's; release is the kernel's (KernelRelease).
func sysctlsFor(use sysctlUse, device, release string) []Sysctl {
	var wanted []Sysctl
	for _, row := range sysctlTable {
		if row.use != use || !kernelAtLeast(release, row.since) || row.before != [2]int{} && kernelAtLeast(release, row.before) {
			continue
		}
		wanted = append(wanted, Sysctl{
			Key:      strings.NewReplacer("UPLINK", device, "DEVICE", device).Replace(row.key),
			Want:     row.want,
			Also:     row.also,
			Why:      row.why,
			Optional: strings.HasPrefix(row.key, vsSysctls),
		})
	}
	return wanted
}

// freeThreshold is the number of pages, half-way between two watermarks of the kernel.
// Below the higher one, low, it begins to reclaim page cache: without a flood a host whose page
// cache is full has as much free, or a little less for a moment. Below the lower one,
// min, processes have to wait for memory, and are killed if there is none to reclaim
// (__setup_per_zone_wmarks in mm/page_alloc.c). /proc/zoneinfo has both, but there they
// change from moment to moment.
func (p procSys) freeThreshold(memory uint64) (string, error) {
	var numbers [2]uint64
	for i, key := range []string{"vm/min_free_kbytes", "vm/watermark_scale_factor"} {
		text, err := p.read(key)
		if err != nil {
			return "", err
		}
		if numbers[i], err = strconv.ParseUint(text, 10, 32); err != nil {
			return "", fmt.Errorf("kernel setting %s: %w", key, err)
		}
	}
	page := uint64(os.Getpagesize())
	least := numbers[0] * 1024 / page
	gap := max(least/4, memory/page*numbers[1]/10000)
	return strconv.FormatUint(min(least+gap/2, math.MaxInt32), 10), nil
}

// confKey is the key of a per-device IPv4 setting.
func confKey(device, name string) string { return "net/ipv4/conf/" + device + "/" + name }

// kernelAtLeast reports whether release ("6.1.0-25-amd64") is the version least
// or newer; each is newer than no version. A release that does not begin with two
// numbers counts as old.
func kernelAtLeast(release string, least [2]int) bool {
	var have [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &have[0], &have[1]); err != nil {
		have = [2]int{}
	}
	return slices.Compare(have[:], least[:]) >= 0
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
	var states []SysctlState
	for _, s := range want {
		have, err := p.read(s.Key)
		ok := err == nil && (have == s.Want || slices.Contains(s.Also, have))
		if s.Optional && errors.Is(err, fs.ErrNotExist) {
			ok, err = true, nil
		}
		states = append(states, SysctlState{Sysctl: s, Have: have, OK: ok, Err: err})
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
		err := s.Err
		if err == nil {
			err = p.write(s.Key, s.Want)
		}
		if err != nil {
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
	return strings.TrimSpace(string(b)), wrap("read kernel setting "+key, err)
}

// write never creates a file: a key the kernel lacks is an error.
func (p procSys) write(key, value string) error {
	f, err := os.OpenFile(p.path(key), os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = f.WriteString(value + "\n")
		err = errors.Join(err, f.Close())
	}
	return wrap(fmt.Sprintf("set kernel setting %s to %s", key, value), err)
}
