// The director host beside IPVS: sysctls, VIP addresses, the dummy device and
// firewall marks.
//
// Used by reconcile*.go, cmd*.go and main.go. The reconcile loop calls it by the
// interface host in reconcile.go: at start, after each reload and with each audit.
// It changes only what differs, through /proc and netlink.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// linuxHost implements host with the kernel of this machine.
type linuxHost struct {
	log       *slog.Logger
	sysctls   procSys
	addresses *addresses
	marks     *portTable
	untracked *portTable
	dummy     *dummyDevice
	arpDevice string                 // the uplink as the last Prepare found it, for announce = "arp"; "": none
	noUplink  failureLog             // the missing default route
	device    atomic.Pointer[string] // the uplink when it was known last; nil: never
	guessed   atomic.Bool            // by the default route
	checking  sync.Mutex             // one goroutine at a time checks the uplink
	checked   atomic.Pointer[error]  // the result of the last check of the uplink; nil: there was none
	recovered bool                   // what an earlier run has left is known
	wrong     map[string]bool        // settings that a warning has named

	// readBack is what the kernel shows for an operator's "name=value". It has its
	// own form for some, so that a list of processors would be written each time.
	readBack map[string]string
}

// newLinuxHost starts from the addresses on devices and the local routes of an earlier
// run. save saves the addresses before they are added.
func newLinuxHost(log *slog.Logger, devices []VIPAddress, routes []netip.Addr, save func([]VIPAddress)) *linuxHost {
	return &linuxHost{
		log:       log,
		sysctls:   procSys{Root: "/proc/sys", log: log},
		addresses: newAddresses(devices, save, log),
		marks:     newMarkTable(log),
		untracked: newUntrackedTable(log),
		dummy:     newDummyDevice(routes, log),
		wrong:     make(map[string]bool),
		readBack:  make(map[string]string),
	}
}

// Prepare implements host.
func (h *linuxHost) Prepare(ctx context.Context, cfg *Config) error {
	uplink, err := h.uplink(ctx, cfg)
	h.arpDevice = uplink
	h.checkUplink()
	if !cfg.ManageSysctls {
		return errors.Join(err, h.warnSysctls(uplink, cfg))
	}
	return errors.Join(err, h.restoreICMP(), h.applySysctls(uplink, cfg))
}

// Announce implements host. Local routes are added before addresses and removed
// after them, so that this host accepts packets to a VIP also while the VIP moves
// to another device.
func (h *linuxHost) Announce(ctx context.Context, cfg *Config, want vipAddresses) (has vipsOnHost, err error) {
	defer func() {
		has = vipsOnHost{Addresses: h.addresses.Owned(), On: h.addresses.On(), Local: h.dummy.Local()}
	}()
	r, err := openRtnl(ctx)
	if err != nil {
		return has, err
	}
	defer r.Close()
	configured := newOwners(cfg).firsts()
	if err := h.recover(r, configured); err != nil {
		return has, err
	}
	made, deviceErr, routeErr := h.dummy.Keep(r, cfg.AnnounceDevice, want.Local)
	if made {
		h.addresses.RenewOn(cfg.AnnounceDevice)
	}
	uplinkErr := h.needUplink(configured, want.Announced)
	if err := h.forgetForeign(r, cfg.AnnounceDevice); err != nil {
		return has, err
	}
	on := h.placed(cfg, want, configured, deviceErr)
	err = errors.Join(deviceErr, routeErr, uplinkErr,
		h.addresses.Apply(r, on, cfg.AnnounceDevice),
		h.dummy.Tidy(r, cfg.AnnounceDevice, want.Local, h.addresses.Owned()))
	if want.Drained {
		err = errors.Join(err, h.notOurs(r, configured))
	}
	return has, err
}

// placed is the device of each wanted address. After deviceErr an address that belongs on
// the dummy device stays where it is.
func (h *linuxHost) placed(cfg *Config, want vipAddresses, configured map[netip.Addr]*VIP, deviceErr error) (on []VIPAddress) {
	for _, a := range want.Announced {
		v := VIPAddress{Device: h.arpDevice, Address: a}
		vip := configured[a]
		stay := vip == nil || vip.Announce.method().onUplink && h.arpDevice == "" // on its present device, if there is one
		if vip != nil && vip.Announce.method().onDummy || vip == nil && slices.Contains(want.Local, a) {
			v.Device, stay = cfg.AnnounceDevice, deviceErr != nil
		}
		if stay {
			owned := h.addresses.Owned()
			i := slices.IndexFunc(owned, func(o VIPAddress) bool { return o.Address == a })
			if i < 0 {
				continue
			}
			v = owned[i]
		}
		on = append(on, v)
	}
	return on
}

// recover finds, once, what an earlier run has put on devices, whether it could save
// that or not.
func (h *linuxHost) recover(r *rtnl, configured map[netip.Addr]*VIP) error {
	if h.recovered {
		return nil
	}
	found, dummyErr := h.dummy.Recover(r)
	for device := range h.dummy.devices {
		h.addresses.RenewOn(device)
	}
	for _, v := range found {
		if vip := configured[v.Address]; vip != nil && vip.Announce.method().onDummy {
			h.addresses.Adopt(v)
		}
	}
	labelled, err := r.Labelled()
	for _, v := range labelled {
		h.addresses.Adopt(v)
	}
	err = errors.Join(dummyErr, err)
	h.recovered = err == nil
	return err
}

// Clear removes what the controller has put on the host: addresses, the dummy device,
// local routes, firewall marks and exemptions from connection tracking. After an error it removes the rest. Kernel settings
// stay.
func (h *linuxHost) Clear(ctx context.Context, device string) error {
	r, err := openRtnl(ctx)
	if err == nil {
		defer r.Close()
		err = errors.Join(h.recover(r, nil), h.forgetForeign(r, device),
			h.addresses.Apply(r, nil, ""), h.dummy.Tidy(r, "", nil, nil))
	}
	return errors.Join(err, h.marks.Remove(), h.untracked.Remove())
}

// needUplink is an error where an address with announce = "arp" is announced and no
// uplink is known. The device is the one of the last Prepare: when the default route is
// gone for a moment, an address that is put back does not move to another device.
func (h *linuxHost) needUplink(configured map[netip.Addr]*VIP, announced []netip.Addr) error {
	for _, a := range announced {
		if v := configured[a]; v != nil && v.Announce.method().onUplink && h.arpDevice == "" {
			return fmt.Errorf("vip %s: announce = \"arp\" needs an uplink: there is no default route, set interface", v.Name)
		}
	}
	return nil
}

// notOurs is an error for each address of a VIP with announce = "arp" that is on the
// uplink though this director is drained: another program put it there, so it is not
// removed.
func (h *linuxHost) notOurs(r *rtnl, configured map[netip.Addr]*VIP) error {
	uplink := h.device.Load()
	if uplink == nil {
		return nil
	}
	var errs []error
	found, owned := listings{table: r}, h.addresses.Owned()
	for _, a := range sortedBy(maps.Keys(configured), netip.Addr.Compare) {
		v := VIPAddress{*uplink, a}
		if !configured[a].Announce.method().onUplink || slices.Contains(owned, v) {
			continue
		}
		there, err := found.of(v)
		if err != nil {
			return err
		}
		if there != nil {
			errs = append(errs, fmt.Errorf("vip %s: %s is on %s, but this controller did not put it there: remove it by hand", configured[a].Name, a, *uplink))
		}
	}
	return errors.Join(errs...)
}

// LostAddress implements host.
func (h *linuxHost) LostAddress() bool { return h.addresses.Lost() }

// LostMarks implements host.
func (h *linuxHost) LostMarks() bool { return h.marks.Lost() }

// Mark implements host.
func (h *linuxHost) Mark(marks map[MarkedPort]uint32, peers []macAddress) error {
	h.marks.form = markForm(peers)
	return h.marks.Apply(marks)
}

// Untrack implements host.
func (h *linuxHost) Untrack(want untracked) error { return h.untracked.untrack(want) }

// LostUntracked implements host.
func (h *linuxHost) LostUntracked() bool { return h.untracked.Lost() }

// DeviceIndex implements host.
func (h *linuxHost) DeviceIndex(name string) int {
	device, err := deviceByName(name)
	if err != nil {
		return 0
	}
	return device.Index
}

// Marked implements host.
func (h *linuxHost) Marked() (map[MarkedPort]uint32, error) { return h.marks.Read() }

// uplink is the configured device, else that of the default route, else "".
func (h *linuxHost) uplink(ctx context.Context, cfg *Config) (string, error) {
	h.guessed.Store(cfg.Interface == "")
	if cfg.Interface != "" {
		h.device.Store(&cfg.Interface)
		return cfg.Interface, nil
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return "", err
	}
	defer r.Close()
	name, err := r.DefaultDevice()
	if begins, _ := h.noUplink.note(err); begins {
		h.log.Warn("the uplink is not known: its kernel settings are not changed; set interface", "err", err)
	}
	if err == nil {
		h.device.Store(&name)
	}
	return name, nil
}

// applySysctls sets the director's sysctls. The operator's own choices have priority.
func (h *linuxHost) applySysctls(uplink string, cfg *Config) error {
	want, err := h.wantedSysctls(uplink, cfg)
	if err != nil {
		return err
	}
	if err := h.sysctls.Apply(append(want, h.chosenSysctls(cfg)...)); err != nil {
		return err
	}
	for name, value := range cfg.Sysctls {
		if have, readErr := h.sysctls.read(vsSysctls + name); readErr == nil {
			h.readBack[name+"="+value] = have
		}
	}
	return nil
}

// chosenSysctls are the operator's own choices.
func (h *linuxHost) chosenSysctls(cfg *Config) (chosen []Sysctl) {
	for _, name := range slices.Sorted(maps.Keys(cfg.Sysctls)) {
		s := Sysctl{Key: vsSysctls + name, Want: cfg.Sysctls[name], Why: "the configuration asks for it"}
		if r, ok := h.readBack[name+"="+s.Want]; ok {
			s.Also = []string{r}
		}
		if slices.Contains(floodDefences, name) {
			s.Also = append(s.Also, automatic[s.Want]...)
		}
		chosen = append(chosen, s)
	}
	return chosen
}

// warnSysctls names, each once, the sysctls that have a wrong value where the
// configuration does not let the controller change them.
func (h *linuxHost) warnSysctls(uplink string, cfg *Config) error {
	want, err := h.wantedSysctls(uplink, cfg)
	if err != nil {
		return err
	}
	for _, s := range h.sysctls.Check(want) {
		if !s.OK && s.Err == nil && !h.wrong[s.Key] {
			h.log.Warn("a kernel setting does not have the value that a director needs", "key", s.Key, "is", s.Have, "want", s.Want, "why", s.Why)
			h.wrong[s.Key] = true
		}
	}
	return nil
}

// wantedSysctls are the director's sysctls without those that the operator sets;
// without an uplink only those of IPVS. Those of the sync daemon work together: where
// the operator sets one, the controller sets none.
func (h *linuxHost) wantedSysctls(uplink string, cfg *Config) ([]Sysctl, error) {
	release, err := h.sysctls.KernelRelease()
	if err != nil {
		return nil, err
	}
	var want []Sysctl
	for _, s := range sysctlsFor(useDirector, uplink, release) {
		if uplink != "" || strings.HasPrefix(s.Key, vsSysctls) {
			want = append(want, s)
		}
	}
	if slices.ContainsFunc(cfg.VIPs, func(v VIP) bool { return v.anyDirector() }) {
		want = append(want, sysctlsFor(useRouted, uplink, release)...)
	}
	defences, err := h.floodSysctls(release)
	if err != nil {
		return nil, err
	}
	want = append(want, defences...)
	chosen := func(s Sysctl) bool { return cfg.Sysctls[strings.TrimPrefix(s.Key, vsSysctls)] != "" }
	want = slices.DeleteFunc(want, chosen)
	if sync := sysctlsFor(useSync, uplink, release); cfg.Sync != nil && !slices.ContainsFunc(sync, chosen) {
		want = append(want, sync...)
	}
	return want, nil
}

// floodSysctls are the defences against floods; none where the kernel does not say when
// it reclaims memory.
func (h *linuxHost) floodSysctls(release string) ([]Sysctl, error) {
	threshold, err := h.sysctls.freeThreshold(hostMemory())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	want := sysctlsFor(useFlood, "", release)
	for i := range want {
		want[i].Want = strings.ReplaceAll(want[i].Want, "MEMORY", threshold)
	}
	return want, err
}

// automatic are the two modes of a defence between which the kernel changes by
// itself (update_defense_level).
var automatic = map[string][]string{"1": {"2"}, "2": {"1"}}

// icmpLimits are the limits on the kernel's ICMP errors.
var icmpLimits = sysctlsFor(useExchange, "", "")

// SuppressICMP implements host. It does nothing where the configuration does not let
// the controller change sysctls.
func (h *linuxHost) SuppressICMP(cfg *Config) (restore func()) {
	if !cfg.ManageSysctls {
		return func() {}
	}
	before := make(map[string]string)
	for _, s := range icmpLimits {
		if was, err := h.sysctls.read(s.Key); err == nil && h.sysctls.write(s.Key, s.Want) == nil {
			before[s.Key] = was
		}
	}
	return func() {
		for key, was := range before {
			if err := h.sysctls.write(key, was); err != nil {
				h.log.Error("the rate limit of ICMP errors could not be restored", "key", key, "value", was, "err", err)
			}
		}
	}
}

// restoreICMP repairs what a kill -9 after SuppressICMP left behind.
func (h *linuxHost) restoreICMP() error {
	var errs []error
	for _, s := range icmpLimits {
		if have, err := h.sysctls.read(s.Key); err == nil && have == s.Want {
			h.log.Warn("an earlier run ended while it suppressed ICMP errors: the rate limit is set to the kernel's default", "key", s.Key, "value", icmpDefault)
			errs = append(errs, h.sysctls.write(s.Key, icmpDefault))
		}
	}
	return errors.Join(errs...)
}

// vipAddresses is what the host must have for VIPs beside their services. Both
// lists are sorted.
type vipAddresses struct {
	Announced []netip.Addr // on a device
	Local     []netip.Addr // with a local route, also when they are on no device: those of announce = "dummy"
	Drained   bool         // by the operator: an address that is still on the uplink is an error
}

func (v vipAddresses) equal(o vipAddresses) bool {
	return v.Drained == o.Drained && slices.Equal(v.Announced, o.Announced) && slices.Equal(v.Local, o.Local)
}

// vipsOnHost is what the controller has put on the host for VIPs.
type vipsOnHost struct {
	Addresses []VIPAddress // put on devices by us, now or earlier
	On        []netip.Addr // announced from a device; sorted
	Local     []netip.Addr // with a local route of ours; sorted
}
