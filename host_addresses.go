// Keeps VIPs on their devices: on the uplink with announce = "arp", on the dummy
// device with "dummy". It also sends the gratuitous ARP, and renews the addresses of a new
// dummy device.
//
// Used by cmd*.go and main.go. host.go sets the wanted addresses; main.go runs
// the timer for the announcements and the watch for addresses that another
// program removes. It removes only addresses that this controller added, in
// this run or an earlier one, and never touches an address that another program
// put on the device.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// addressTable is what the kernel's address list can do; rtnl is the real one.
type addressTable interface {
	// List returns a device's addresses. A missing device is unix.ENODEV.
	List(device string) ([]deviceAddress, error)
	// Add and Remove report whether they changed anything.
	Add(VIPAddress) (bool, error)
	Remove(VIPAddress) (bool, error)
	Close() error
}

// When an address is announced after it was added: at once and, because one
// frame may be lost while a switch port is still learning, 1, 2 and 4 s later;
// then every minute, which repairs a neighbour that received another host's claim.
var (
	announceGaps  = [...]time.Duration{time.Second, time.Second, 2 * time.Second}
	announceEvery = time.Minute
	announceRetry = 2 * time.Second // after a frame that could not be sent: link down, device gone
)

// renewGaps are the pauses before the renewals of the addresses on a new dummy device,
// which come 1, 3, 7 … 127 s after it was made. FRR before 10.3 may not know the addresses:
// one thread of zebra reads about addresses, another one about devices. While the second is
// busy, as after a boot, zebra drops the address of a device that it does not know yet
// (zebra_if_dplane_result in zebra/interface.c).
var renewGaps = [...]time.Duration{1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, 64 * time.Second}

// lostPause is the time without a check after an address was missing.
const lostPause = time.Second

// announcement is the schedule of one address.
type announcement struct {
	sent    int       // frames sent since the address was added
	due     time.Time // of the next one
	failing bool      // the last attempt failed and was logged
	silent  bool      // no frame is sent: the address is on the dummy device
}

// renewal is the schedule of a new dummy device.
type renewal struct {
	device string
	sent   int       // how often its addresses were renewed
	due    time.Time // of the next time; zero: never again
}

// addresses keeps the wanted VIPs on their devices and announces them. Its methods
// are safe for concurrent use.
type addresses struct {
	log      *slog.Logger
	announce func(VIPAddress) error   // on the uplink
	renew    func([]VIPAddress) error // on the dummy device
	wake     chan struct{}            // capacity 1: the schedule has changed

	save func([]VIPAddress) // saves what is on devices and what will be put there now
	lost atomic.Bool        // another program has removed an address since the last Apply

	mu        sync.Mutex
	owned     map[VIPAddress]bool // put there by this controller, now or in an earlier run
	announced map[VIPAddress]*announcement
	renewal   renewal
}

// newAddresses starts from the addresses that an earlier run had put on
// devices (its Owned, from the state file). Apply and Run do the rest.
func newAddresses(owned []VIPAddress, save func([]VIPAddress), log *slog.Logger) *addresses {
	return &addresses{
		save:      save,
		log:       log,
		announce:  func(v VIPAddress) error { return announceVIP(v.Device, v.Address) },
		renew:     renewAddresses,
		wake:      make(chan struct{}, 1),
		owned:     addAll(make(map[VIPAddress]bool), owned),
		announced: make(map[VIPAddress]*announcement),
	}
}

// Owned lists the addresses for the state file, sorted. The first Apply that does not
// want them removes them, in this run or a later one.
func (a *addresses) Owned() []VIPAddress {
	a.mu.Lock()
	defer a.mu.Unlock()
	return sortedBy(maps.Keys(a.owned), VIPAddress.Compare)
}

// Adopt treats v as an address that an earlier run has put on its device.
func (a *addresses) Adopt(v VIPAddress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.adopt(v)
}

func (a *addresses) adopt(v VIPAddress) {
	if !a.owned[v] {
		a.owned[v] = true
		a.log.Info("VIP address of an earlier run found", "device", v.Device, "address", v.Address)
	}
}

// Forget gives up the addresses on a device that belongs to another program now.
func (a *addresses) Forget(device string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.owned, func(v VIPAddress, _ bool) bool { return v.Device == device })
	maps.DeleteFunc(a.announced, func(v VIPAddress, _ *announcement) bool { return v.Device == device })
}

// RenewOn has the addresses renewed that are on the dummy device, or come to it soon. The
// device is new, or is from an earlier run, which may have ended too early to renew them.
func (a *addresses) RenewOn(device string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renewal = renewal{device: device, due: time.Now().Add(renewGaps[0])}
	ring(a.wake)
}

// On lists the VIPs that are on a device and wanted there, or could not be
// removed, sorted.
func (a *addresses) On() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	on := make(map[netip.Addr]bool)
	for v := range a.announced {
		on[v.Address] = true
	}
	for v := range a.owned {
		on[v.Address] = true
	}
	return sortedBy(maps.Keys(on), netip.Addr.Compare)
}

// Apply makes want the set of VIPs on devices: it adds what is missing, even
// when another program has removed it since the last call, and removes what it
// once added and is no longer wanted. An address that was there before is
// announced like the others but stays when it is no longer wanted. Those on the
// device dummy are not announced with frames. Unchanged state is silent. The error
// joins all failures; each address is tried.
func (a *addresses) Apply(table addressTable, want []VIPAddress, dummy string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost.Store(false)
	found := listings{table: table}
	a.saveAhead(&found, want)
	var errs []error
	var lost []VIPAddress // by another program: this run had them on their devices
	announced := make(map[VIPAddress]*announcement)
	for _, v := range want {
		added, err := a.ensure(&found, v)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		announced[v] = a.announced[v]
		if added && announced[v] != nil {
			lost = append(lost, v)
		}
		if announced[v] == nil || added { // meanwhile neighbours may have learned another host
			announced[v] = &announcement{silent: v.Device == dummy}
		}
	}
	a.announced = announced
	ring(a.wake)
	if len(lost) > 0 {
		a.log.Warn("another program has removed VIP addresses; they are added again", "addresses", addressNames(lost))
	}

	// Removing comes second: a VIP that moves to another device of this host
	// stays local all the time.
	for _, v := range sortedBy(maps.Keys(a.owned), VIPAddress.Compare) {
		if slices.Contains(want, v) {
			continue
		}
		changed, err := table.Remove(v)
		if err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, err)
			continue
		}
		delete(a.owned, v)
		if changed {
			a.log.Info("VIP address removed", "device", v.Device, "address", v.Address)
		}
	}
	return errors.Join(errs...)
}

const addressesNamed = 8

// addressNames names the first of some addresses, and counts the others.
func addressNames(all []VIPAddress) string {
	text := ""
	for i, v := range all[:min(len(all), addressesNamed)] {
		if i > 0 {
			text += ", "
		}
		text += v.String()
	}
	if more := len(all) - addressesNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// listings are the addresses of devices, one dump of the kernel's list for each
// device, at its first use.
type listings struct {
	table addressTable
	known map[string][]deviceAddress
}

// of looks for v on its device; nil: it is not there.
func (l *listings) of(v VIPAddress) (*deviceAddress, error) {
	have, listed := l.known[v.Device]
	if !listed {
		var err error
		if have, err = l.table.List(v.Device); err != nil {
			return nil, err
		}
		if l.known == nil {
			l.known = make(map[string][]deviceAddress)
		}
		l.known[v.Device] = have
	}
	return addressIn(have, v.Address), nil
}

// saveAhead saves the addresses that Apply will add, before it does: a controller that
// is killed in between finds them again after its next start.
func (a *addresses) saveAhead(found *listings, want []VIPAddress) {
	all := maps.Clone(a.owned)
	for _, v := range want {
		if there, err := found.of(v); err == nil && there == nil {
			all[v] = true
		}
	}
	if len(all) > len(a.owned) {
		a.save(sortedBy(maps.Keys(all), VIPAddress.Compare))
	}
}

// ensure puts v on its device, or finds out whether we did so earlier.
func (a *addresses) ensure(found *listings, v VIPAddress) (added bool, err error) {
	there, err := found.of(v)
	if err != nil {
		return false, err
	}
	switch {
	case there == nil:
		if added, err = found.table.Add(v); added {
			a.owned[v] = true
			a.log.Info("VIP address added", "device", v.Device, "address", v.Address)
		}
	case a.owned[v] || a.announced[v] != nil:
	case there.Label != "" && there.Label == vipLabel(v.Device):
		a.adopt(v) // an earlier run put it there, and was killed before it could save that
	default:
		a.log.Info("VIP address was on its device already: it is announced, and not removed when no longer wanted",
			"device", v.Device, "address", v.Address)
	}
	return added, err
}

// Lost reports whether another program has removed an address from its device, or has
// set the dummy device down, since the last Apply. The next Apply repairs it. Only
// Follow finds out.
func (a *addresses) Lost() bool { return a.lost.Load() }

// Follow rings wake when an address is lost, until ctx ends. It returns nil. Of a program that removes it again and again, it notices
// one removal in lostPause.
func (a *addresses) Follow(ctx context.Context, wake chan<- struct{}) error {
	moved, err := kernelEvents(ctx, unix.RTMGRP_IPV4_IFADDR|unix.RTMGRP_IPV6_IFADDR|unix.RTMGRP_LINK)
	if err != nil {
		a.log.Warn("a VIP address that another program removes is noticed only by the next audit", "err", err)
		<-ctx.Done()
		return nil
	}
	for range moved {
		if a.missing(ctx) {
			a.lost.Store(true)
			ring(wake)
			sleepContext(ctx, lostPause)
		}
	}
	return nil
}

// missing reports whether an announced address is not on its device, or the dummy
// device is down. Where that cannot be read, the next audit finds out.
func (a *addresses) missing(ctx context.Context) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.announced) == 0 {
		return false
	}
	table, err := openRtnl(ctx)
	if err != nil {
		return false
	}
	defer table.Close()
	found := listings{table: table}
	dummy := ""
	for v, s := range a.announced {
		if s.silent && v.Device != dummy {
			dummy = v.Device
			if ifi, err := deviceByName(dummy); err == nil && ifi.Flags&net.FlagUp == 0 {
				return true
			}
		}
		there, err := found.of(v)
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return false
		}
		if there == nil {
			return true
		}
	}
	return false
}

// Run sends the announcements that Apply schedules, and renews addresses as RenewOn asks,
// until ctx ends. It returns nil. When nothing is to come it sleeps.
func (a *addresses) Run(ctx context.Context) error {
	for {
		var fire <-chan time.Time
		if next := a.sendDue(time.Now()); !next.IsZero() {
			fire = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-fire:
		}
	}
}

// sendDue announces and renews what is due at now and returns the time of the next one,
// zero for none. The lock is taken while it sends (about 100 µs for an address),
// so that no address is announced after Apply has removed it.
func (a *addresses) sendDue(now time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.renewDue(now)
	for _, v := range sortedBy(maps.Keys(a.announced), VIPAddress.Compare) {
		s := a.announced[v]
		if s.silent {
			continue
		}
		if !s.due.After(now) {
			a.send(v, s, now)
		}
		if next.IsZero() || s.due.Before(next) {
			next = s.due
		}
	}
	return next
}

// send announces v once and schedules the next time. Of failures one after the
// other, the first is logged, and their end.
func (a *addresses) send(v VIPAddress, s *announcement, now time.Time) {
	if err := a.announce(v); err != nil {
		if !s.failing {
			a.log.Warn("VIP address could not be announced; the controller tries again", "device", v.Device, "address", v.Address, "err", err)
		}
		*s = announcement{due: now.Add(announceRetry), failing: true}
		return
	}
	if s.failing {
		a.log.Info("VIP address is announced again", "device", v.Device, "address", v.Address)
	}
	gap := announceEvery
	if s.sent < len(announceGaps) {
		gap = announceGaps[s.sent]
	}
	*s = announcement{sent: s.sent + 1, due: now.Add(gap)}
}

// renewDue renews the addresses of a new dummy device if that is due at now, and returns
// the next time, zero for never. It leaves out those that another program has put there.
func (a *addresses) renewDue(now time.Time) time.Time {
	r := &a.renewal
	if r.due.IsZero() || r.due.After(now) {
		return r.due
	}
	ours := sortedBy(maps.Keys(a.announced), VIPAddress.Compare)
	ours = slices.DeleteFunc(ours, func(v VIPAddress) bool { return v.Device != r.device || !a.owned[v] })
	if err := a.renew(ours); err != nil {
		a.log.Warn("VIP addresses could not be renewed; a routing daemon may not know them", "device", r.device, "err", err)
	}
	if r.sent++; r.sent == len(renewGaps) {
		*r = renewal{}
	} else {
		r.due = now.Add(renewGaps[r.sent])
	}
	return r.due
}

// renewAddresses has the kernel report addresses on one dummy device again, as new ones,
// to each program that follows the addresses of this host. It leaves out those that are
// gone, and all where the device is gone or another program's: Apply repairs that.
func renewAddresses(ours []VIPAddress) error {
	if len(ours) == 0 {
		return nil
	}
	r, err := openRtnl(context.Background())
	if err != nil {
		return err
	}
	defer r.Close()
	device := ours[0].Device
	_, err = r.dummy(device)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, errForeignDevice) {
		return nil
	}
	have, listErr := r.List(device)
	if err := cmp.Or(err, listErr); err != nil {
		return err
	}
	var errs []error
	for _, v := range ours {
		if there := addressIn(have, v.Address); there != nil && int(there.Bits) == v.Address.BitLen() {
			errs = append(errs, r.Renew(v))
		}
	}
	return errors.Join(errs...)
}

// announceVIP announces to the network segment of device that addr has the device's
// MAC address: with gratuitous ARP, as a request and as a reply, because some hosts
// and switches learn from only one of them, or with an unsolicited neighbour
// advertisement.
func announceVIP(device string, addr netip.Addr) (err error) {
	defer func() { err = wrap(fmt.Sprintf("announce %s on %s", addr, device), err) }()
	ifi, err := deviceByName(device)
	if err != nil {
		return err
	}
	if len(ifi.HardwareAddr) != 6 {
		return errors.New("the device has no Ethernet address")
	}
	mac := [6]byte(ifi.HardwareAddr)
	var protocol int
	var frames [][]byte
	if addr.Is4() {
		protocol = unix.ETH_P_ARP
		frames = [][]byte{gratuitousARP(mac, addr, arpRequest), gratuitousARP(mac, addr, arpReply)}
	} else {
		protocol = unix.ETH_P_IPV6
		frames = [][]byte{unsolicitedNA(mac, addr)}
	}
	conn, err := packet.Listen(ifi, packet.Raw, protocol, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, frame := range frames {
		if _, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
			return err
		}
	}
	return nil
}
