// The director host beside IPVS: sysctls, VIP addresses, the dummy device and
// firewall marks.
//
// Used by reconcile*.go, cmd_cleanup.go and main.go. The reconcile loop calls
// it by the interface host in reconcile.go: at start, after each reload and
// with each audit. It changes only what differs, through /proc and netlink.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// preparation is the real host.
type preparation struct {
	log       *slog.Logger
	sysctls   procSys
	addresses *addresses
	marks     *markTable
	dummy     *dummyDevice
	arpDevice string                 // the uplink as the last Prepare found it, for announce = "arp"; "": none
	noUplink  bool                   // the missing default route has been logged
	device    atomic.Pointer[string] // the uplink when it was known last; nil: never
	guessed   atomic.Bool            // by the default route
	looking   sync.Mutex             // held while the uplink is looked at
	seen      atomic.Pointer[error]  // what was seen of the uplink last; nil: nothing yet
	looked    bool                   // what an earlier run has left is known
	told      map[string]bool        // settings that have been complained of

	// readBack is what the kernel shows for an operator's "name=value", in its
	// own form, so that a list of processors is not written again and again.
	readBack map[string]string
}

func newPreparation(log *slog.Logger, devices []VIPAddress, routes []netip.Addr, save func([]VIPAddress) error) *preparation {
	return &preparation{log: log, sysctls: procSys{Root: "/proc/sys", log: log}, addresses: newAddresses(devices, save, log), dummy: newDummyDevice(routes, log), marks: newMarkTable(log), readBack: make(map[string]string), told: make(map[string]bool)}
}

// Prepare implements host.
func (p *preparation) Prepare(ctx context.Context, cfg *Config) error {
	uplink, err := p.uplink(ctx, cfg)
	p.arpDevice = uplink
	p.lookAtUplink()
	if !cfg.ManageSysctls {
		return errors.Join(err, p.tellSysctls(uplink, cfg))
	}
	return errors.Join(err, p.unhush(), p.applySysctls(uplink, cfg))
}

// Announce implements host. Local routes come before addresses and go after
// them, so that a VIP which moves to another device is this host's throughout.
func (p *preparation) Announce(ctx context.Context, cfg *Config, want vipAddresses) (vipHolding, error) {
	configured := newOwners(cfg).addresses
	if err := p.findOwn(ctx, configured); err != nil {
		return p.holding(), err
	}
	deviceErr, routeErr := p.dummy.Keep(ctx, cfg.AnnounceDevice, want.Local)
	uplink, uplinkErr := p.announceUplink(configured, want.Announced)
	if err := forgetForeign(ctx, p.addresses, p.dummy, cfg.AnnounceDevice); err != nil {
		return p.holding(), err
	}
	var on []VIPAddress
	for _, a := range want.Announced {
		v := VIPAddress{Device: uplink, Address: a}
		vip := configured[a]
		stay := vip == nil || vip.Announce == AnnounceARP && uplink == "" // where it is, if anywhere
		if vip != nil && vip.Announce == AnnounceDummy || vip == nil && slices.Contains(want.Local, a) {
			v.Device, stay = cfg.AnnounceDevice, deviceErr != nil
		}
		if stay {
			i := slices.IndexFunc(p.addresses.Owned(), func(o VIPAddress) bool { return o.Address == a })
			if i < 0 {
				continue
			}
			v = p.addresses.Owned()[i]
		}
		on = append(on, v)
	}
	err := errors.Join(deviceErr, routeErr, uplinkErr,
		p.addresses.Apply(ctx, on, cfg.AnnounceDevice),
		p.dummy.Tidy(ctx, cfg.AnnounceDevice, want.Local, p.addresses.Owned()))
	if want.Drained {
		err = errors.Join(err, p.strangers(ctx, configured))
	}
	return p.holding(), err
}

// findOwn finds, once, what an earlier run has put on devices, whether it could save
// that or not.
func (p *preparation) findOwn(ctx context.Context, configured map[netip.Addr]*VIP) error {
	if p.looked {
		return nil
	}
	found, err := p.dummy.Look(ctx)
	if err != nil {
		return err
	}
	for _, v := range found {
		if vip := configured[v.Address]; vip != nil && vip.Announce == AnnounceDummy {
			p.addresses.Adopt(v)
		}
	}
	if err := adoptLabelled(ctx, p.addresses); err != nil {
		return err
	}
	p.looked = true
	return nil
}

// adoptLabelled takes the addresses with our label for those of an earlier run.
func adoptLabelled(ctx context.Context, a *addresses) error {
	r, err := openRtnl(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	labelled, err := r.Labelled()
	for _, v := range labelled {
		a.Adopt(v)
	}
	return err
}

// forgetForeign leaves alone what we had put on a dummy device of ours, where a
// device of another hand has its name now.
func forgetForeign(ctx context.Context, a *addresses, d *dummyDevice, device string) error {
	foreign, err := d.Foreign(ctx, device, a.Owned())
	for _, name := range foreign {
		a.Forget(name)
	}
	return err
}

// holding is what the host has of ours for VIPs.
func (p *preparation) holding() vipHolding {
	return vipHolding{Addresses: p.addresses.Owned(), On: p.addresses.On(), Local: p.dummy.Local()}
}

// announceUplink is the device for addresses with announce = "arp", where there are
// any to announce. It is the one of the last Prepare: a default route that is gone for
// a moment, when an address is to be put back, moves no VIP to another device.
func (p *preparation) announceUplink(configured map[netip.Addr]*VIP, announced []netip.Addr) (string, error) {
	for _, a := range announced {
		if v := configured[a]; v != nil && v.Announce == AnnounceARP {
			if p.arpDevice == "" {
				return "", fmt.Errorf("vip %s: announce = \"arp\" needs an uplink: there is no default route, set interface", v.Name)
			}
			break
		}
	}
	return p.arpDevice, nil
}

// strangers says which addresses of VIPs with announce = "arp" are on the uplink
// though this director is drained: they are not ours to remove.
func (p *preparation) strangers(ctx context.Context, configured map[netip.Addr]*VIP) error {
	uplink := p.device.Load()
	if uplink == nil || !slices.ContainsFunc(slices.Collect(maps.Values(configured)), func(v *VIP) bool { return v.Announce == AnnounceARP }) {
		return nil
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	have, err := r.List(*uplink)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range have {
		v := configured[d.Address]
		if v != nil && v.Announce == AnnounceARP && !slices.Contains(p.addresses.Owned(), VIPAddress{*uplink, d.Address}) {
			errs = append(errs, fmt.Errorf("vip %s: %s on %s was not put there by this controller: take it away by hand", v.Name, d.Address, *uplink))
		}
	}
	return errors.Join(errs...)
}

// LostAddress implements host.
func (p *preparation) LostAddress() bool { return p.addresses.Lost() }

// Mark implements host.
func (p *preparation) Mark(marks map[MarkedPort]uint32) error { return p.marks.Apply(marks) }

// DeviceIndex implements host.
func (p *preparation) DeviceIndex(name string) int {
	device, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return device.Index
}

// Marked implements host.
func (p *preparation) Marked() (map[MarkedPort]uint32, error) { return p.marks.Read() }

// uplink is the configured device, else that of the default route, else "".
func (p *preparation) uplink(ctx context.Context, cfg *Config) (string, error) {
	p.guessed.Store(cfg.Interface == "")
	if cfg.Interface != "" {
		p.device.Store(&cfg.Interface)
		return cfg.Interface, nil
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return "", err
	}
	defer r.Close()
	name, err := r.DefaultDevice()
	if err != nil && !p.noUplink {
		p.log.Warn("no uplink: its sysctls are left alone; set interface", "err", err)
	}
	p.noUplink = err != nil
	if err == nil {
		p.device.Store(&name)
	}
	return name, nil
}

// applySysctls sets the director's sysctls, the operator's own choices above
// ours.
func (p *preparation) applySysctls(uplink string, cfg *Config) error {
	own := cfg.Sysctls
	want, err := p.wantedSysctls(uplink, cfg)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		s := Sysctl{Key: vsSysctls + name, Want: own[name], Why: "the configuration asks for it"}
		if r, ok := p.readBack[name+"="+own[name]]; ok {
			s.Also = []string{r}
		}
		if name == "drop_entry" || name == "drop_packet" || name == "secure_tcp" {
			s.Also = append(s.Also, automatic[s.Want]...)
		}
		want = append(want, s)
	}
	if err := p.sysctls.Apply(want); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if have, readErr := p.sysctls.read(vsSysctls + name); readErr == nil {
			p.readBack[name+"="+own[name]] = have
		}
	}
	return nil
}

// tellSysctls says which sysctls are not as a director needs them, where the
// configuration keeps the controller from changing them. Each once.
func (p *preparation) tellSysctls(uplink string, cfg *Config) error {
	want, err := p.wantedSysctls(uplink, cfg)
	if err != nil {
		return err
	}
	for _, s := range p.sysctls.Check(want) {
		if !s.OK && s.Err == nil && !p.told[s.Key] {
			p.log.Warn("a kernel setting is not as a director needs it", "key", s.Key, "is", s.Have, "want", s.Want, "why", s.Why)
			p.told[s.Key] = true
		}
	}
	return nil
}

// vsSysctls is where IPVS has its settings, below /proc/sys.
const vsSysctls = "net/ipv4/vs/"

// wantedSysctls are the director's sysctls but for those that the operator has
// an opinion on; without an uplink only those that belong to no device. Those
// of the sync daemon work together: an opinion on one is one on all.
func (p *preparation) wantedSysctls(uplink string, cfg *Config) ([]Sysctl, error) {
	release, err := p.sysctls.KernelRelease()
	if err != nil {
		return nil, err
	}
	var want []Sysctl
	for _, s := range directorSysctls(uplink, release) {
		name, vs := strings.CutPrefix(s.Key, vsSysctls)
		if _, chosen := cfg.Sysctls[name]; vs && !chosen || !vs && uplink != "" {
			want = append(want, s)
		}
	}
	chosen := func(s Sysctl) bool { return cfg.Sysctls[strings.TrimPrefix(s.Key, vsSysctls)] != "" }
	if sync := syncSysctls(); cfg.Sync != nil && !slices.ContainsFunc(sync, chosen) {
		want = append(want, sync...)
	}
	if slices.ContainsFunc(cfg.VIPs, func(v VIP) bool { return v.anyDirector() }) {
		want = append(want, slices.DeleteFunc(routedSysctls(), chosen)...)
	}
	return want, nil
}

// automatic are the two modes of a defence between which the kernel changes by
// itself (update_defense_level).
var automatic = map[string][]string{"1": {"2"}, "2": {"1"}}

// The kernel's pace of ICMP errors to one peer, milliseconds between two
// (Documentation/networking/ip-sysctl, icmp_ratelimit). Fragmentation-needed
// messages are not paced, so path MTU discovery goes on.
var icmpPace = []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"}

const (
	// hushedPace stops them: an hour is longer than the kernel remembers a
	// peer. The odd number tells a value of ours, left behind by a kill -9 in
	// mid-edit, from an operator's.
	hushedPace = "3599971"

	// kernelPace is the kernel's default.
	kernelPace = "1000"
)

// Hush implements host. It does nothing where the configuration keeps the
// controller away from sysctls.
func (p *preparation) Hush(cfg *Config) (restore func()) {
	if !cfg.ManageSysctls {
		return func() {}
	}
	before := make(map[string]string)
	for _, key := range icmpPace {
		if was, err := p.sysctls.read(key); err == nil && p.sysctls.write(key, hushedPace) == nil {
			before[key] = was
		}
	}
	return func() {
		for key, was := range before {
			if err := p.sysctls.write(key, was); err != nil {
				p.log.Error("the pace of ICMP errors could not be restored", "key", key, "value", was, "err", err)
			}
		}
	}
}

// unhush repairs what a kill -9 in the middle of Hush left behind.
func (p *preparation) unhush() error {
	var errs []error
	for _, key := range icmpPace {
		if have, err := p.sysctls.read(key); err == nil && have == hushedPace {
			p.log.Warn("an earlier run ended in mid-edit; the kernel's default pace of ICMP errors is set", "key", key, "value", kernelPace)
			errs = append(errs, p.sysctls.write(key, kernelPace))
		}
	}
	return errors.Join(errs...)
}

// vipAddresses is what the host is to have for VIPs beside their services. Both
// lists are sorted.
type vipAddresses struct {
	Announced []netip.Addr // on a device, for others to see
	Local     []netip.Addr // taken in on a local route, also when they are on no device: those of announce = "dummy"
	Drained   bool         // by the operator: an address that stays all the same is an error
}

func (v vipAddresses) equal(o vipAddresses) bool {
	return v.Drained == o.Drained && slices.Equal(v.Announced, o.Announced) && slices.Equal(v.Local, o.Local)
}

// vipHolding is what the host has for VIPs through us.
type vipHolding struct {
	Addresses []VIPAddress // put on devices by us, now or earlier
	On        []netip.Addr // on a device, for others to see; sorted
	Local     []netip.Addr // with a local route of ours; sorted
}
