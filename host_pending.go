// What a pass would change on the host beside the tables of IPVS and nftables: kernel
// settings, VIP addresses, the dummy device and local routes.
//
// Used by reconcile_pending.go and cmd*.go. It compares as Prepare and Announce of
// host.go do, and writes nothing.

package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pendingChange is one thing that a pass would change beside the table of IPVS.
type pendingChange struct {
	Kind   string `json:"kind"`           // one of the constants
	Name   string `json:"name"`           // of the thing
	Action string `json:"action"`         // add, edit or remove
	From   string `json:"from,omitempty"` // what it has, for edit
	To     string `json:"to,omitempty"`   // what it gets, for add and edit
	Why    string `json:"why"`

	line string // for ipvsadm; "" = it has none
}

// Kinds and actions of changes.
const (
	kindTimeout = "timeout"
	kindSync    = "sync daemon"
	kindSysctl  = "sysctl"
	kindDevice  = "device"
	kindRoute   = "local route"
	kindAddress = "address"
	kindMarks   = "firewall marks"
	kindNoTrack = "connection tracking"

	actAdd    = "add"
	actEdit   = "edit"
	actRemove = "remove"
)

const notWanted = "no longer wanted"

// pendingSysctls are the kernel settings that Prepare would write. The others that
// cannot be read are in err. It finds the uplink, which pendingAddresses needs.
func (h *linuxHost) pendingSysctls(ctx context.Context, cfg *Config) (changes []pendingChange, err error) {
	uplink, err := h.uplink(ctx, cfg)
	h.arpDevice = uplink
	h.checkUplink()
	if err != nil || !cfg.ManageSysctls {
		return nil, err
	}
	want, err := h.wantedSysctls(uplink, cfg)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, s := range h.sysctls.Check(append(want, h.chosenSysctls(cfg)...)) {
		switch {
		case s.Err != nil:
			errs = append(errs, s.Err)
		case !s.OK && !sameSetting(s.Have, s.Want):
			changes = append(changes, pendingChange{Kind: kindSysctl, Name: s.Key, Action: actEdit, From: s.Have, To: s.Want, Why: s.Why})
		}
	}
	return changes, errors.Join(errs...)
}

// sameSetting reports whether two texts of a setting mean the same to the kernel, which
// has its own form for numbers in a row and for lists of processors.
func sameSetting(a, b string) bool {
	if slices.Equal(strings.Fields(a), strings.Fields(b)) {
		return true
	}
	x, okX := processors(a)
	y, okY := processors(b)
	return okX && okY && x == y
}

// maxProcessors is more than a kernel can be built for (NR_CPUS).
const maxProcessors = 8192

// processors is the set that a list such as "0-3,8" means.
func processors(list string) (set [maxProcessors / 64]uint64, ok bool) {
	if !strings.ContainsAny(list, ",-") {
		return set, false // a number is no list
	}
	for part := range strings.SplitSeq(list, ",") {
		low, high, ranged := strings.Cut(part, "-")
		if !ranged {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		last, lastErr := strconv.ParseUint(high, 10, 16)
		if err != nil || lastErr != nil || last >= maxProcessors {
			return set, false
		}
		for n := first; n <= last; n++ {
			set[n/64] |= 1 << (n % 64)
		}
	}
	return set, true
}

// pendingAddresses are the devices, local routes and addresses that Announce would add
// and remove.
func (h *linuxHost) pendingAddresses(ctx context.Context, cfg *Config, want vipAddresses) ([]pendingChange, error) {
	r, err := openRtnl(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	configured := newOwners(cfg).firsts()
	if err := h.recover(r, configured); err != nil {
		return nil, err
	}
	changes, deviceErr := h.pendingDummy(r, cfg.AnnounceDevice, want.Local)
	if err := h.forgetForeign(r, cfg.AnnounceDevice); err != nil {
		return nil, err
	}
	errs := []error{deviceErr, h.needUplink(configured, want.Announced)}
	on := h.placed(cfg, want, configured, deviceErr)
	found := listings{table: r}
	for _, v := range on {
		there, err := found.of(v)
		switch {
		case errors.Is(err, unix.ENODEV) && v.Device == cfg.AnnounceDevice:
			err = nil // it is made first
			fallthrough
		case err == nil && there == nil:
			changes = append(changes, pendingChange{Kind: kindAddress, Name: v.Address.String(), Action: actAdd, To: v.Device, Why: whyAnnounced(configured[v.Address])})
		}
		errs = append(errs, err)
	}
	for _, v := range h.addresses.Owned() {
		if slices.Contains(on, v) {
			continue
		}
		there, err := found.of(v)
		if err == nil && there != nil {
			changes = append(changes, pendingChange{Kind: kindAddress, Name: v.Address.String(), Action: actRemove, From: v.Device, Why: notWanted})
		}
		if !errors.Is(err, unix.ENODEV) {
			errs = append(errs, err)
		}
	}
	return append(changes, h.untidy(cfg.AnnounceDevice, want.Local, on)...), errors.Join(errs...)
}

// whyAnnounced is the setting that puts an address of v on a device.
func whyAnnounced(v *VIP) string {
	if v == nil {
		return "its real servers drain"
	}
	return "announce = " + strconv.Quote(string(v.Announce))
}

// pendingDummy is what dummyDevice.Keep would do.
func (h *linuxHost) pendingDummy(r *rtnl, device string, want []netip.Addr) (changes []pendingChange, deviceErr error) {
	if len(want) == 0 {
		return nil, nil
	}
	const why = `announce = "dummy"`
	link, err := r.dummy(device)
	switch {
	case errors.Is(err, unix.ENODEV):
		changes = append(changes, pendingChange{Kind: kindDevice, Name: device, Action: actAdd, To: "dummy, up", Why: why})
	case err != nil:
		return nil, err
	case link.Flags&unix.IFF_UP == 0:
		changes = append(changes, pendingChange{Kind: kindDevice, Name: device, Action: actEdit, From: "down", To: "up", Why: why})
	}
	have, err := r.LocalRoutes()
	if err != nil {
		return changes, err
	}
	for _, a := range want {
		if !have[a] {
			changes = append(changes, pendingChange{Kind: kindRoute, Name: a.String(), Action: actAdd, To: "lo", Why: "the kernel must accept packets to the VIP"})
		}
	}
	return changes, nil
}

// untidy is what dummyDevice.Tidy would remove once there are addresses on.
func (h *linuxHost) untidy(device string, want []netip.Addr, on []VIPAddress) (changes []pendingChange) {
	onDevice := func(name string) bool {
		return slices.ContainsFunc(on, func(v VIPAddress) bool { return v.Device == name })
	}
	for _, a := range h.dummy.Local() {
		served := slices.ContainsFunc(on, func(v VIPAddress) bool { return v.Address == a && h.dummy.devices[v.Device] })
		if !served && !slices.Contains(want, a) {
			changes = append(changes, pendingChange{Kind: kindRoute, Name: a.String(), Action: actRemove, From: "lo", Why: notWanted})
		}
	}
	for name := range h.dummy.devices {
		if !onDevice(name) && (name != device || len(want) == 0) {
			changes = append(changes, pendingChange{Kind: kindDevice, Name: name, Action: actRemove, From: "dummy", Why: "no address is left on it"})
		}
	}
	return changes
}
