// Finds VIPs that no host has. Every client then times out, while the table, /readyz and
// each real server look whole.
//
// Used by http*.go and main.go. It looks at the VIPs that another program should bring to a
// host: some seconds after the start, after a change of the configuration, and when one of
// those VIPs comes to this host or leaves it. It asks the segment with packets that change
// no neighbour's cache, and changes nothing.

package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

const (
	// absentSettle is how long the watch waits before it looks: keepalived needs some
	// seconds after its start, and when a VIP moves no host has it for a moment.
	absentSettle = 10 * time.Second

	// absentPatience is how long an answer of another host may take, and absentAsks how
	// often the watch asks in that time.
	absentPatience = time.Second
	absentAsks     = 2

	// maxAbsent is how many VIPs it asks for, and shows.
	maxAbsent = 64
)

// absentWatch is the task. Use newAbsentWatch.
type absentWatch struct {
	log     *slog.Logger
	configs *latest[Config]
	changed <-chan struct{} // rings after configs has changed
	settle  time.Duration   // absentSettle; less in tests
	warned  failureLog
	found   atomic.Pointer[string]
}

// hostMissing says what it means that no host has a VIP.
const hostMissing = `no host has the VIP, so no client reaches it: start keepalived or a routing daemon, or let the controller add the address, with announce = "arp" or -announce arp`

// Warning says which VIPs no host has, "" when each has one or a nil watch does not look. It
// is safe from any goroutine.
func (w *absentWatch) Warning() string {
	if w == nil {
		return ""
	}
	if text := w.found.Load(); text != nil && *text != "" {
		return hostMissing + ": " + *text
	}
	return ""
}

func newAbsentWatch(log *slog.Logger, configs *latest[Config], changed <-chan struct{}) *absentWatch {
	return &absentWatch{log: log, configs: configs, changed: changed, settle: absentSettle}
}

// Run watches until ctx ends, and then returns nil. It sleeps between two changes.
func (w *absentWatch) Run(ctx context.Context) error {
	// Without the kernel's events it looks after a change of the configuration alone. The
	// addresses of other devices, as those of pods, come and go all the time.
	moved, _ := kernelEventsOf(ctx, unix.NETLINK_ROUTE, unix.RTMGRP_IPV4_IFADDR|unix.RTMGRP_IPV6_IFADDR, w.matters)
	for {
		if sleepContext(ctx, w.settle); ctx.Err() != nil {
			return nil
		}
		select {
		case <-w.changed: // the look is at the newest configuration
		default:
		}
		if cfg := w.configs.Get(); cfg != nil {
			w.look(ctx, cfg)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		case <-moved:
		}
	}
}

// matters reports whether an event is about one of the VIPs.
func (w *absentWatch) matters(m netlink.Message) bool {
	cfg := w.configs.Get()
	return cfg != nil && slices.Contains(leftToOthers(cfg), eventAddress(m.Data))
}

// look finds out which VIPs no host has. What cannot be found out is no reason to warn.
func (w *absentWatch) look(ctx context.Context, cfg *Config) {
	others := leftToOthers(cfg)
	if len(others) == 0 {
		w.say("")
		return
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return
	}
	defer r.Close()
	missing := slices.DeleteFunc(others, func(a netip.Addr) bool { return r.deliversHere(a) })
	var answered map[netip.Addr]bool
	if len(missing) > 0 {
		device := cfg.Interface
		if device == "" {
			if device, err = r.DefaultDevice(); err != nil {
				return
			}
		}
		if answered, err = hostsWith(ctx, device, missing[:min(len(missing), maxAbsent)]); err != nil || ctx.Err() != nil {
			return
		}
	}
	w.say(absentText(cfg, missing, answered))
}

// say logs text when it begins, changes or ends; "" says nothing.
func (w *absentWatch) say(text string) {
	w.found.Store(&text)
	switch begins, ends := w.warned.noteText(text); {
	case ends:
		w.log.Info("a host has each VIP again")
	case begins:
		w.log.Warn(hostMissing, "vips", text)
	}
}

// leftToOthers are the addresses that another program than this one brings to a host.
func leftToOthers(cfg *Config) (all []netip.Addr) {
	for i := range cfg.VIPs {
		if v := &cfg.VIPs[i]; !v.Announce.method().byController() {
			all = including(all, v.Addresses...)
		}
	}
	return all
}

// absentText names the VIPs of missing that no other host has, "" for none. Those that
// were not asked for are not named.
func absentText(cfg *Config, missing []netip.Addr, answered map[netip.Addr]bool) string {
	names := make(map[netip.Addr]string)
	for i := range cfg.VIPs {
		for _, a := range cfg.VIPs[i].Addresses {
			if names[a] == "" {
				names[a] = cfg.VIPs[i].Name
			}
		}
	}
	var texts []string
	for _, a := range missing[:min(len(missing), maxAbsent)] {
		if !answered[a] {
			texts = append(texts, fmt.Sprintf("%s: %s", names[a], a))
		}
	}
	return strings.Join(texts, ", ")
}

// hostsWith asks the segment of a device which addresses other hosts have.
func hostsWith(ctx context.Context, device string, addrs []netip.Addr) (map[netip.Addr]bool, error) {
	d, err := deviceByName(device)
	if err != nil {
		return nil, err
	}
	if len(d.HardwareAddr) != len(macAddress{}) || d.Flags&net.FlagBroadcast == 0 || d.Flags&net.FlagRunning == 0 {
		return nil, fmt.Errorf("device %s: no segment to ask", device)
	}
	have := make(map[netip.Addr]bool)
	for _, is6 := range []bool{false, true} {
		family := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is6() != is6 })
		if len(family) == 0 {
			continue
		}
		sortBy(family, netip.Addr.Compare)
		l, err := openListener(listenerKey{d.Index, is6}, family)
		if err != nil {
			return nil, err
		}
		for range absentAsks {
			if err = l.ask(macAddress(d.HardwareAddr), have); err != nil {
				break
			}
		}
		if err = cmp.Or(err, l.conn.Close()); err != nil {
			return nil, err
		}
	}
	return have, nil
}

// ask sends one question for each of l's addresses that is not in have yet, and collects
// the answers.
func (l *claimListener) ask(mac macAddress, have map[netip.Addr]bool) error {
	for _, a := range l.addrs {
		if have[a] {
			continue
		}
		frame := whoHas(mac, a)
		if _, err := l.conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
			return fmt.Errorf("ask for %s: %w", a, err)
		}
	}
	if err := l.conn.SetReadDeadline(time.Now().Add(absentPatience / absentAsks)); err != nil {
		return err
	}
	var b [1500]byte
	for slices.ContainsFunc(l.addrs, func(a netip.Addr) bool { return !have[a] }) {
		n, _, err := l.conn.ReadFrom(b[:])
		if os.IsTimeout(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if c, ok := parseClaim(b[:n]); ok && !c.Asks && c.MAC != mac {
			have[c.Address] = true
		}
	}
	return nil
}
