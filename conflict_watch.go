// Watches for other hosts that claim a VIP: split brain between directors, a node
// that answers ARP, an address that is used twice.
//
// Used by cmd_doctor_ask.go and main.go. It listens for ARP and neighbour
// advertisements on the devices that have a VIP, while they have it. From time to
// time it asks for each VIP which host has it, with packets that change no
// neighbour's cache. conflict.go decides. It changes no table and no address, and no
// other task waits for it.

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

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// How often the watch asks which host has a VIP, plus or minus a fifth: two
// directors that start together do not ask at the same times.
const (
	conflictLook      = 10 * time.Second
	conflictLookAgain = 3 * time.Second // while another host claims one

	// conflictQuiet is how long the watch waits after a change of addresses,
	// because several come together.
	conflictQuiet = 50 * time.Millisecond
)

// conflictWatch is the task. Use newConflictWatch.
type conflictWatch struct {
	log     *slog.Logger
	configs *latest[Config]
	changed <-chan struct{} // rings after configs has changed
	record  *conflicts
	serves  func(map[netip.Addr]bool) string // which of these addresses is a real server beside others; "": none

	listeners map[listenerKey]*claimListener
	claims    chan receivedClaim
	next      time.Time           // when to ask next
	failing   failureLog          // of update
	addresses map[netip.Addr]bool // of this host
	looping   failureLog          // that two directors may balance a packet again
	readers   sync.WaitGroup
}

// listenerKey says what one socket receives.
type listenerKey struct {
	device int // index
	is6    bool
}

// claimListener is a packet socket with a filter for the VIPs of one family on
// one device.
type claimListener struct {
	conn  *packet.Conn
	addrs []netip.Addr // sorted
}

// receivedClaim is a claim that has arrived.
type receivedClaim struct {
	device int
	claim
}

// newConflictWatch makes the watch. servers are the real servers' addresses.
func newConflictWatch(log *slog.Logger, configs *latest[Config], changed <-chan struct{}, servers func() map[netip.Addr]bool, serves func(map[netip.Addr]bool) string) *conflictWatch {
	w := &conflictWatch{serves: serves, log: log, configs: configs, changed: changed, record: newConflicts(log), listeners: make(map[listenerKey]*claimListener), claims: make(chan receivedClaim)}
	w.record.servers, w.record.hosts = servers, neighboursWith
	return w
}

// Run watches until ctx ends, and then returns nil. While this director has no
// VIP it sleeps until the kernel reports a new address.
func (w *conflictWatch) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer w.readers.Wait()
	defer w.close()
	defer cancel()
	var poll <-chan time.Time
	moved, err := kernelEvents(ctx, unix.RTMGRP_IPV4_IFADDR|unix.RTMGRP_IPV6_IFADDR)
	if err != nil {
		w.log.Warn("cannot follow the addresses of this host: other hosts that claim a new VIP are noticed some seconds late", "err", err)
		poll = time.Tick(conflictLook)
	}
	w.update(ctx, time.Now())
	for {
		var look <-chan time.Time
		if len(w.record.vips) > 0 {
			look = time.After(time.Until(w.next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		case <-poll:
		case <-moved:
			sleepContext(ctx, conflictQuiet)
		case <-look:
			w.look(time.Now())
		case c := <-w.claims:
			if w.record.receive(c.device, c.claim, time.Now()) {
				w.lookBy(time.Now().Add(conflictGrace))
				resolveServers(c.Address.Is6(), w.record.servers())
			}
			continue
		}
		w.update(ctx, time.Now())
	}
}

// lookBy makes the watch ask at at, if it does not ask earlier.
func (w *conflictWatch) lookBy(at time.Time) {
	if at.Before(w.next) {
		w.next = at
	}
}

// update finds out which VIPs this director has, and listens for claims to them.
func (w *conflictWatch) update(ctx context.Context, now time.Time) {
	vips := make(map[netip.Addr]string)
	for _, v := range w.configs.Get().VIPs {
		for _, a := range v.Addresses {
			if vips[a] == "" { // the first of those that share it
				vips[a] = v.Name
			}
		}
	}
	local, own, addresses, err := localVIPs(vips)
	if err == nil {
		w.addresses = addresses
		if len(w.record.vips) == 0 {
			w.next = now.Add(conflictLook)
		}
		if w.record.setVIPs(local, own, now) {
			w.lookBy(now.Add(conflictGrace))
		}
		err = w.listen(ctx)
	}
	if ctx.Err() != nil { // it is the error
		return
	}
	switch begins, ends := w.failing.note(err); {
	case ends:
		w.log.Info("watching for other hosts that claim a VIP again")
	case begins:
		w.log.Warn("cannot watch for other hosts that claim a VIP; everything else works", "err", err)
	}
}

// localVIPs are the VIPs on the Ethernet devices of this host, and the MAC and IP
// addresses of all these devices.
func localVIPs(vips map[netip.Addr]string) (map[place]localVIP, map[macAddress]bool, map[netip.Addr]bool, error) {
	devices, err := netDevices()
	if err != nil {
		return nil, nil, nil, err
	}
	conn, err := openRtnl(context.Background())
	if err != nil {
		return nil, nil, nil, err
	}
	defer conn.Close()
	addresses := make(map[int][]netip.Addr) // by device
	err = conn.eachAddress(func(index uint32, a deviceAddress) {
		addresses[int(index)] = append(addresses[int(index)], a.Address)
	})
	if err != nil {
		return nil, nil, nil, err
	}
	own := make(map[macAddress]bool)
	local := make(map[place]localVIP)
	hosts := make(map[netip.Addr]bool)
	for _, d := range devices {
		if len(d.HardwareAddr) != len(macAddress{}) || d.Flags&net.FlagLoopback != 0 {
			continue
		}
		mac := macAddress(d.HardwareAddr)
		own[mac] = true
		if d.Flags&net.FlagBroadcast == 0 || mac == dummyMAC { // which has no segment
			continue
		}
		for _, a := range addresses[d.Index] {
			hosts[a] = true
			if vip, ours := vips[a]; ours {
				local[place{d.Index, a}] = localVIP{vip, d.Name, mac}
			}
		}
	}
	return local, own, hosts, nil
}

// listen opens a socket for each family and device with a VIP, and closes all
// others.
func (w *conflictWatch) listen(ctx context.Context) error {
	want := make(map[listenerKey][]netip.Addr)
	for p := range w.record.vips {
		k := listenerKey{p.device, p.address.Is6()}
		want[k] = append(want[k], p.address)
	}
	for _, addrs := range want {
		sortBy(addrs, netip.Addr.Compare)
	}
	for k, l := range w.listeners {
		if !slices.Equal(l.addrs, want[k]) {
			l.conn.Close()
			delete(w.listeners, k)
		}
	}
	var errs []error
	for k, addrs := range want {
		if w.listeners[k] != nil {
			continue
		}
		l, err := openListener(k, addrs)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		w.listeners[k] = l
		w.readers.Go(func() { l.read(ctx, k.device, w.claims) })
	}
	return errors.Join(errs...)
}

// openListener opens a socket for addrs, which are of one family and sorted.
func openListener(k listenerKey, addrs []netip.Addr) (*claimListener, error) {
	device, err := deviceByIndex(k.device)
	if err != nil {
		return nil, err
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
	return &claimListener{conn, addrs}, nil
}

// read passes on the claims that arrive, until the socket is closed.
func (l *claimListener) read(ctx context.Context, device int, claims chan<- receivedClaim) {
	var b [1500]byte
	for ctx.Err() == nil {
		n, _, err := l.conn.ReadFrom(b[:])
		if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EBADF) {
			return
		}
		if err != nil { // ENETDOWN: the socket receives again when the device is up again
			sleepContext(ctx, time.Second)
			continue
		}
		c, ok := parseClaim(b[:n])
		if !ok {
			continue
		}
		select {
		case claims <- receivedClaim{device, c}:
		case <-ctx.Done():
			return
		}
	}
}

// warnLoop warns when this director is a real server of a VIP that it has, and a second
// director may be one too: each would balance again what the other one hands to it.
func (w *conflictWatch) warnLoop() {
	cfg, text := w.configs.Get(), ""
	paired := func(v VIP) bool { return cfg.Sync != nil || v.Announce == AnnounceNone }
	if len(cfg.PeerMACs) == 0 && slices.ContainsFunc(cfg.VIPs, paired) {
		text = w.serves(w.addresses)
	}
	if begins, _ := w.looping.noteText(text); begins {
		w.log.Warn("this director is a real server of its VIP: if a second director is one too, packets may loop between them; set peer_macs", "server", text)
	}
}

// look asks which hosts have the VIPs. An error of sending, such as while the
// link is down, is not reported: only the answers matter.
func (w *conflictWatch) look(now time.Time) {
	w.record.expire(now)
	w.warnLoop()
	for p, v := range w.record.vips {
		l := w.listeners[listenerKey{p.device, p.address.Is6()}]
		if l == nil {
			continue
		}
		frame := whoHas(v.mac, p.address)
		_, _ = l.conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	}
	every := conflictLook
	if len(w.record.suspects) > 0 {
		every = conflictLookAgain
	}
	w.next = now.Add(every*4/5 + rand.N(every*2/5))
}

// whoHas is the frame that asks which host has an address.
func whoHas(mac macAddress, a netip.Addr) []byte {
	if a.Is6() {
		return dadSolicitation(mac, a)
	}
	return arpProbe(mac, a)
}

// close ends all sockets.
func (w *conflictWatch) close() {
	for _, l := range w.listeners {
		l.conn.Close()
	}
}

// neighboursWith lists the neighbours that the kernel knows with a MAC address.
func neighboursWith(device int, mac macAddress) []netip.Addr {
	r, err := openRtnl(context.Background())
	if err != nil {
		return nil
	}
	defer r.Close()
	known, _ := r.neighbours()
	var found []netip.Addr
	for k, n := range known {
		if k.device == device && len(n.mac) == len(mac) && macAddress(n.mac) == mac {
			found = append(found, k.address)
		}
	}
	return found
}

// maxResolved bounds how many packets this director sends after one claim.
const maxResolved = 256

// resolveServers makes the kernel look up the real servers of a family, so that
// their MAC addresses are known.
func resolveServers(is6 bool, servers map[netip.Addr]bool) {
	fd, err := unix.Socket(familyNumber(is6), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	all := sortedBy(maps.Keys(servers), netip.Addr.Compare)
	all = slices.DeleteFunc(all, func(a netip.Addr) bool { return a.Is6() != is6 })
	for _, a := range all[:min(len(all), maxResolved)] {
		resolveNeighbour(fd, a)
	}
}
