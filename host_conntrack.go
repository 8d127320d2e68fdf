// Whether the kernel's connection tracking (nf_conntrack) sees the packets that come to
// this host.
//
// Used by cmd*.go and main.go. It only reads.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_hook.h.
const (
	subsystemHook    = 12                 // NFNL_SUBSYS_HOOK
	hookMessage      = subsystemHook << 8 // NFNL_MSG_HOOK_GET = 0
	hookNumber       = 1                  // NFNLA_HOOK_HOOKNUM, be32
	hookFunctionName = 4                  // NFNLA_HOOK_FUNCTION_NAME
)

const (
	// hookTimeout bounds the question for the kernel's hooks.
	hookTimeout = 2 * time.Second

	// trackedCount is how many connections are tracked in this network namespace.
	// Without the module nf_conntrack it does not exist.
	trackedCount = "/proc/sys/net/netfilter/nf_conntrack_count"
)

// trackingActive reports whether connection tracking sees the packets of an address
// family that come to this host. It asks which functions the kernel calls for them.
// Where the kernel cannot say (before Linux 5.14, or without
// CONFIG_NETFILTER_NETLINK_HOOK), or not to this process, connections that are tracked
// are the sign: a host that tracks them has some.
func trackingActive(is6 bool) bool {
	names, err := receivingHooks(is6)
	if err != nil {
		return tracked(readHead(trackedCount))
	}
	return tracksByHooks(names)
}

// tracked reports whether count, the kernel's text, is more than none.
func tracked(count []byte) bool {
	text := bytes.TrimSpace(count)
	return len(text) > 0 && string(text) != "0"
}

// tracksByHooks reports whether one of these functions is ipv4_conntrack_in or
// ipv6_conntrack_in. A compiler may add to a name.
func tracksByHooks(names []string) bool {
	for _, name := range names {
		if strings.Contains(name, "_conntrack_in") {
			return true
		}
	}
	return false
}

// receivingHooks are the names of the functions that the kernel calls for each packet of
// a family at the hook prerouting.
func receivingHooks(is6 bool) ([]string, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(hookTimeout)); err != nil {
		return nil, err
	}
	family := byte(unix.NFPROTO_IPV4)
	if is6 {
		family = unix.NFPROTO_IPV6
	}
	number, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: hookNumber, Data: binary.BigEndian.AppendUint32(nil, unix.NF_INET_PRE_ROUTING)}})
	if err != nil {
		return nil, err
	}
	answer, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: hookMessage, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, number...),
	})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range answer {
		name, err := parseHook(m.Data)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// parseHook reads the name of a hook's function; "" where the kernel has no names.
func parseHook(b []byte) (string, error) {
	if len(b) < 4 {
		return "", errors.New("a hook without a header")
	}
	attributes, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return "", err
	}
	name := ""
	for attributes.Next() {
		if attributes.Type() == hookFunctionName {
			name = attributes.String()
		}
	}
	return name, attributes.Err()
}

// trackedVIPs are the names of the VIPs whose packets connection tracking sees; active is trackingActive.
func trackedVIPs(cfg *Config, active func(is6 bool) bool) []string {
	var names []string
	sees := [2]bool{active(false), active(true)}
	for i := range cfg.VIPs {
		v := &cfg.VIPs[i]
		if !v.NoTrack && slices.ContainsFunc(v.Addresses, func(a netip.Addr) bool { return sees[familyIndex(a.Is6())] }) {
			names = append(names, v.Name)
		}
	}
	return names
}

// logTracking says which VIPs connection tracking costs time.
func logTracking(log *slog.Logger, cfg *Config) {
	if names := trackedVIPs(cfg, trackingActive); len(names) > 0 {
		log.Info("connection tracking sees each packet to some VIPs, which costs time; notrack = true exempts a VIP", "vips", len(names), "first", names[0])
	}
}
