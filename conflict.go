// Records which other hosts claim our VIPs, and decides when that is a conflict.
//
// Used by http*.go and cmd_doctor_vip.go. conflict_watch.go reports each claim with its
// time; http*.go read the result. It logs, and does no other I/O. It sends no packet and
// removes no address.

package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Times of the watch.
const (
	// conflictGrace is how far apart two claims of a host have to be, at the
	// least, to make a conflict: when keepalived moves a VIP, both directors
	// have it for a moment.
	conflictGrace = 2 * time.Second

	// conflictSilence is how long a host has to be silent for the conflict, or
	// the suspicion, to be over.
	conflictSilence = 30 * time.Second

	// maxClaimants bounds the memory for one address, whatever is sent.
	maxClaimants = 16
)

// Conflict is another host that claims a VIP which this director has.
type Conflict struct {
	VIP     string     `json:"vip"`
	Address netip.Addr `json:"address"`
	Device  string     `json:"device"` // of this director
	MAC     macAddress `json:"mac"`
	Host    netip.Addr `json:"host,omitzero"` // the other host's own address, if the kernel knows one
	Why     string     `json:"why"`           // the likely cause
	Since   time.Time  `json:"since"`
}

// String is a conflict for people.
func (c Conflict) String() string {
	host := c.MAC.String()
	if c.Host.IsValid() {
		host += " (" + c.Host.String() + ")"
	}
	return fmt.Sprintf("vip %s: %s claims %s on %s since %s: %s", c.VIP, host, c.Address, c.Device, c.Since.Format(time.DateTime), c.Why)
}

// conflictSnapshot is the state of the record for other tasks. It is immutable.
type conflictSnapshot struct {
	Active []Conflict            // sorted
	Begun  map[netip.Addr]uint64 // conflicts since the process started
}

// place is an address on a device.
type place struct {
	device  int // index
	address netip.Addr
}

// localVIP is a VIP that this director has.
type localVIP struct {
	vip    string
	device string
	mac    macAddress // of the device
}

// claimant is a host that claims the address of a place.
type claimant struct {
	place
	mac macAddress
}

// suspect is what is known of a claimant.
type suspect struct {
	first, last time.Time
	asks        bool      // it sent nothing but requests for other addresses
	conflict    *Conflict // nil while it may be a hand-over
}

// conflicts records which other hosts claim our VIPs.
type conflicts struct {
	log *slog.Logger
	// hosts are the neighbours with a MAC address on a device.
	hosts func(device int, mac macAddress) []netip.Addr
	// servers are the real servers' addresses.
	servers func() map[netip.Addr]bool

	silence time.Duration // conflictSilence; less in tests

	vips     map[place]localVIP
	own      map[macAddress]bool // of all devices of this host
	suspects map[claimant]*suspect
	begun    map[netip.Addr]uint64
	snapshot atomic.Pointer[conflictSnapshot]
}

func newConflicts(log *slog.Logger) *conflicts {
	return &conflicts{log: log, silence: conflictSilence, suspects: make(map[claimant]*suspect), begun: make(map[netip.Addr]uint64)}
}

// seen is the newest snapshot. That of a nil record is empty.
func (r *conflicts) seen() *conflictSnapshot {
	if r != nil {
		if p := r.snapshot.Load(); p != nil {
			return p
		}
	}
	return new(conflictSnapshot)
}

// setVIPs replaces the VIPs that this director has, and its own MAC addresses. It
// reports whether a VIP is new.
func (r *conflicts) setVIPs(vips map[place]localVIP, own map[macAddress]bool, now time.Time) (more bool) {
	for p := range vips {
		_, had := r.vips[p]
		more = more || !had
	}
	r.vips, r.own = vips, own
	r.end("this director does not have the VIP any more", now, func(at claimant, _ *suspect) bool {
		_, has := vips[at.place]
		return !has || own[at.mac]
	})
	return more
}

// receive takes a claim that has arrived at a device. It reports whether this is
// the first of its claimant.
func (r *conflicts) receive(device int, c claim, now time.Time) (first bool) {
	at := claimant{place{device, c.Address}, c.MAC}
	vip, has := r.vips[at.place]
	if !has || r.own[c.MAC] {
		return false
	}
	s := r.suspects[at]
	if s == nil {
		others := 0
		for other := range r.suspects {
			if other.place == at.place {
				others++
			}
		}
		if others >= maxClaimants {
			return false
		}
		r.suspects[at] = &suspect{first: now, last: now, asks: c.Asks}
		return true
	}
	s.last, s.asks = now, s.asks && c.Asks
	if s.conflict == nil && now.Sub(s.first) >= conflictGrace {
		r.begin(at, s, vip, now)
	}
	return false
}

// begin records that a suspect is a conflict.
func (r *conflicts) begin(at claimant, s *suspect, local localVIP, now time.Time) {
	c := &Conflict{VIP: local.vip, Address: at.address, Device: local.device, MAC: at.mac, Since: now}
	hosts := r.hosts(at.device, at.mac)
	sortBy(hosts, netip.Addr.Compare)
	servers := r.servers()
	server := slices.IndexFunc(hosts, func(a netip.Addr) bool { return servers[a] })
	if len(hosts) > 0 {
		c.Host = hosts[max(server, 0)]
	}
	c.Why = likelyCause(server >= 0, s.asks, at.address.Is6())
	s.conflict = c
	r.begun[at.address]++
	r.log.Error("another host claims the VIP", append(c.attrs(), "why", c.Why)...)
	r.publish()
}

// likelyCause says why two hosts have the address.
func likelyCause(server, asks, is6 bool) string {
	switch {
	case !server:
		return "two directors have the VIP, or the address is used twice"
	case is6:
		return "a real server that has the VIP on its uplink: move it to lo, see `lvs-controller realserver`"
	case asks:
		return "a real server that sends ARP requests from the VIP: its arp_announce is not set, see `lvs-controller realserver`"
	}
	return "a real server that answers ARP for the VIP: its arp_ignore is not set, or the VIP is not on its lo alone, see `lvs-controller realserver`"
}

// attrs are the attributes of a conflict in the log.
func (c Conflict) attrs() []any {
	all := []any{"vip", c.VIP, "address", c.Address, "device", c.Device, "mac", c.MAC.String()}
	if c.Host.IsValid() {
		all = append(all, "host", c.Host)
	}
	return all
}

// expire drops the hosts that have been silent for too long.
func (r *conflicts) expire(now time.Time) {
	r.end("the host is silent", now, func(_ claimant, s *suspect) bool { return now.Sub(s.last) >= r.silence })
}

// end drops the suspects for which over reports true.
func (r *conflicts) end(why string, now time.Time, over func(claimant, *suspect) bool) {
	var ended []Conflict
	for at, s := range r.suspects {
		if !over(at, s) {
			continue
		}
		delete(r.suspects, at)
		if s.conflict != nil {
			ended = append(ended, *s.conflict)
		}
	}
	if len(ended) == 0 {
		return
	}
	sortBy(ended, compareConflicts)
	for _, c := range ended {
		r.log.Info("the other host does not claim the VIP any more", append(c.attrs(), "after", now.Sub(c.Since).Round(time.Second), "why", why)...)
	}
	r.publish()
}

func compareConflicts(a, b Conflict) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Device, b.Device), slices.Compare(a.MAC[:], b.MAC[:]))
}

// publish makes a new snapshot.
func (r *conflicts) publish() {
	p := &conflictSnapshot{Begun: maps.Clone(r.begun)}
	for _, s := range r.suspects {
		if s.conflict != nil {
			p.Active = append(p.Active, *s.conflict)
		}
	}
	sortBy(p.Active, compareConflicts)
	r.snapshot.Store(p)
}
