// Watches for other hosts that claim a VIP: split brain between directors, a node
// that answers ARP, an address that is used twice.
//
// Used by main.go. It listens for ARP and neighbour advertisements on the
// devices that have a VIP, while they have it. From time to time it asks who
// has the VIP, with packets that change no neighbour's cache. conflict.go
// decides. It changes no table and no address, and no other task waits for it.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// How often the watch asks who has a VIP, give or take a fifth: two directors
// that started together do not stay in step.
const (
	conflictLook      = 10 * time.Second
	conflictLookAgain = 3 * time.Second // while somebody claims one

	// conflictSettle is how long a change of addresses is left alone, as
	// several come together.
	conflictSettle = 50 * time.Millisecond
)

// conflictWatch is the task. Use newConflictWatch.
type conflictWatch struct {
	log     *slog.Logger
	configs *latest[Config]
	changed <-chan struct{} // rings after configs has changed
	book    *conflicts

	ears    map[earKey]*ear
	claims  chan heardClaim
	next    time.Time  // of the next look
	failing failureLog // why VIPs are not watched
	readers sync.WaitGroup
}

// earKey is what one socket is for.
type earKey struct {
	device int // index
	is6    bool
}

// ear is a packet socket with a filter for the VIPs of one family on one device.
type ear struct {
	conn  *packet.Conn
	addrs []netip.Addr // sorted
}

// heardClaim is a claim that has arrived.
type heardClaim struct {
	device int
	claim
}

// newConflictWatch makes the watch. servers are the real servers' addresses.
func newConflictWatch(log *slog.Logger, configs *latest[Config], changed <-chan struct{}, servers func() map[netip.Addr]bool) *conflictWatch {
	w := &conflictWatch{log: log, configs: configs, changed: changed, book: newConflicts(log), ears: make(map[earKey]*ear), claims: make(chan heardClaim)}
	w.book.servers, w.book.hosts = servers, neighboursWith
	return w
}

// Run watches until ctx ends; that is its only way to return, with nil. While
// no VIP is here it sleeps until the kernel tells of a new address.
func (w *conflictWatch) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer w.readers.Wait()
	defer w.close()
	defer cancel()
	moved := make(chan struct{}, 1)
	var poll <-chan time.Time
	events, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	if err != nil {
		w.log.Warn("new VIP addresses are noticed late by the watch for other hosts", "err", err)
		poll = time.Tick(conflictLook)
	} else {
		defer events.Close()
		w.readers.Go(func() { followEvents(ctx, events, moved) })
	}
	w.follow(ctx, time.Now())
	for {
		var look <-chan time.Time
		if len(w.book.held) > 0 {
			look = time.After(time.Until(w.next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
			w.follow(ctx, time.Now())
		case <-moved:
			sleepContext(ctx, conflictSettle)
			w.follow(ctx, time.Now())
		case c := <-w.claims:
			if w.book.hear(c.device, c.claim, time.Now()) {
				w.soon(time.Now().Add(conflictGrace))
				wakeNeighbours(c.Address.Is6(), w.book.servers())
			}
		case <-poll:
			w.follow(ctx, time.Now())
		case <-look:
			w.look(time.Now())
			w.follow(ctx, time.Now())
		}
	}
}

// soon has a look at at, if none comes earlier.
func (w *conflictWatch) soon(at time.Time) {
	if at.Before(w.next) {
		w.next = at
	}
}

// follow finds out which VIPs are here and listens for claims to them.
func (w *conflictWatch) follow(ctx context.Context, now time.Time) {
	vips := make(map[netip.Addr]string)
	for _, v := range w.configs.Get().VIPs {
		for _, a := range v.Addresses {
			vips[a] = v.Name
		}
	}
	held, own, err := holdings(ctx, vips)
	if err == nil {
		if len(w.book.held) == 0 {
			w.next = now.Add(conflictLook)
		}
		if w.book.hold(held, own, now) {
			w.soon(now.Add(conflictGrace))
		}
		err = w.listen(ctx)
	}
	if ctx.Err() == nil { // else the end is all that is wrong
		w.complain(err)
	}
}

// holdings are the VIPs on the devices of this host that are an Ethernet, and
// the MAC addresses of all its devices.
func holdings(ctx context.Context, vips map[netip.Addr]string) (map[place]holding, map[macAddress]bool, error) {
	devices, err := net.Interfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("list devices: %w", err)
	}
	own := make(map[macAddress]bool)
	ethernets := make(map[int]net.Interface)
	for _, d := range devices {
		if len(d.HardwareAddr) != len(macAddress{}) || d.Flags&net.FlagLoopback != 0 {
			continue
		}
		own[macAddress(d.HardwareAddr)] = true
		if d.Flags&net.FlagBroadcast != 0 && macAddress(d.HardwareAddr) != dummyMAC { // which has no segment
			ethernets[d.Index] = d
		}
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	addresses, err := r.conn.Address.List()
	if err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	held := make(map[place]holding)
	for _, m := range addresses {
		device, ethernet := ethernets[int(m.Index)]
		if !ethernet || m.Attributes == nil {
			continue
		}
		ip := m.Attributes.Local
		if ip == nil { // IPv6
			ip = m.Attributes.Address
		}
		a, ok := netip.AddrFromSlice(ip)
		if vip, ours := vips[a.Unmap()]; ok && ours {
			held[place{device.Index, a.Unmap()}] = holding{vip, device.Name, macAddress(device.HardwareAddr)}
		}
	}
	return held, own, nil
}

// listen has a socket for each family and device with a VIP, and no other.
func (w *conflictWatch) listen(ctx context.Context) error {
	want := make(map[earKey][]netip.Addr)
	for p := range w.book.held {
		k := earKey{p.device, p.address.Is6()}
		want[k] = append(want[k], p.address)
	}
	for k, e := range w.ears {
		slices.SortFunc(want[k], netip.Addr.Compare)
		if !slices.Equal(e.addrs, want[k]) {
			e.conn.Close()
			delete(w.ears, k)
		}
	}
	var errs []error
	for k, addrs := range want {
		if w.ears[k] != nil {
			continue
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		e, err := openEar(k, addrs)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		w.ears[k] = e
		w.readers.Go(func() { e.read(ctx, k.device, w.claims) })
	}
	return errors.Join(errs...)
}

// openEar opens a socket for addrs, which are of one family and sorted.
func openEar(k earKey, addrs []netip.Addr) (*ear, error) {
	device, err := net.InterfaceByIndex(k.device)
	if err != nil {
		return nil, fmt.Errorf("device %d: %w", k.device, err)
	}
	filter, err := conflictFilter(k.is6, addrs)
	if err != nil {
		return nil, fmt.Errorf("filter for claims on %s: %w", device.Name, err)
	}
	protocol := unix.ETH_P_ARP
	if k.is6 {
		protocol = unix.ETH_P_IPV6
	}
	conn, err := packet.Listen(device, packet.Raw, protocol, &packet.Config{Filter: filter})
	if err != nil {
		hint := ""
		if errors.Is(err, unix.EPERM) {
			hint = " (it needs CAP_NET_RAW)"
		}
		return nil, fmt.Errorf("packet socket on %s: %w%s", device.Name, err, hint)
	}
	return &ear{conn, addrs}, nil
}

// read passes on what arrives, until the socket is closed.
func (e *ear) read(ctx context.Context, device int, claims chan<- heardClaim) {
	var b [1500]byte
	for ctx.Err() == nil {
		n, _, err := e.conn.ReadFrom(b[:])
		if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EBADF) {
			return
		}
		if err != nil { // ENETDOWN: the socket hears again when the device is up again
			sleepContext(ctx, time.Second)
			continue
		}
		c, ok := parseClaim(b[:n])
		if !ok {
			continue
		}
		select {
		case claims <- heardClaim{device, c}:
		case <-ctx.Done():
			return
		}
	}
}

// look asks who has the VIPs. What cannot be sent, while the link is down, is
// nobody's news: the answers are what counts.
func (w *conflictWatch) look(now time.Time) {
	w.book.expire(now)
	for p, h := range w.book.held {
		e := w.ears[earKey{p.device, p.address.Is6()}]
		if e == nil {
			continue
		}
		ask := arpProbe
		if p.address.Is6() {
			ask = dadSolicitation
		}
		frame := ask(h.mac, p.address)
		_, _ = e.conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	}
	every := conflictLook
	if len(w.book.suspects) > 0 {
		every = conflictLookAgain
	}
	w.next = now.Add(every*4/5 + rand.N(every*2/5))
}

// close ends all sockets.
func (w *conflictWatch) close() {
	for _, e := range w.ears {
		e.conn.Close()
	}
}

// complain logs why the watch cannot watch, once, and when it can again.
func (w *conflictWatch) complain(err error) {
	switch begins, ends := w.failing.note(err); {
	case ends:
		w.log.Info("VIPs are watched again for other hosts that claim them")
	case begins:
		w.log.Warn("VIPs are not watched for other hosts that claim them; all else goes on", "err", err)
	}
}

// neighboursWith lists the neighbours that have a MAC address, as far as the
// kernel knows.
func neighboursWith(device int, mac macAddress) []netip.Addr {
	r, err := openRtnl(context.Background())
	if err != nil {
		return nil
	}
	defer r.Close()
	known, err := r.neighbours()
	if err != nil {
		return nil
	}
	var found []netip.Addr
	for k, n := range known {
		if k.device == device && len(n.mac) == len(mac) && macAddress(n.mac) == mac {
			found = append(found, k.address)
		}
	}
	return found
}

// maxWoken bounds what one claim makes this director send.
const maxWoken = 256

// wakeNeighbours has the kernel look for the real servers of a family, so that
// it can tell them by their MAC addresses.
func wakeNeighbours(is6 bool, servers map[netip.Addr]bool) {
	fd, err := unix.Socket(familyNumber(is6), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	woken := 0
	for _, a := range slices.SortedFunc(maps.Keys(servers), netip.Addr.Compare) {
		if a.Is6() == is6 && woken < maxWoken {
			poke(fd, a)
			woken++
		}
	}
}
