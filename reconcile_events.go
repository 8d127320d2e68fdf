// The events: what happens to the table, the VIPs and the director, one record for each,
// for programs that want to know at once.
//
// Used by http*.go and main.go. The loop and the watch of config.toml add events; readers
// follow. All readers share one ring of a fixed size: one that is too slow misses events
// and learns how many. Adding an event never waits for a reader. It decides nothing.

package main

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// keptEvents is how many events are kept for readers.
const keptEvents = 512

// changeKinds are the kinds of events about the kernel's table, and the values of the
// label "kind".
var changeKinds = [...]string{
	newService: "service_added",
	setService: "service_edited",
	newServer:  "server_added",
	setServer:  "server_edited",
	delServer:  "server_removed",
	delService: "service_removed",
}

// The other kinds of events.
const (
	eventAnnounced   = "vip_announced"   // the controller has put an address on a device
	eventWithdrawn   = "vip_withdrawn"   // it has taken it away
	eventBelow       = "quorum_lost"     // too few real servers are in service
	eventReached     = "quorum_regained" // enough are again
	eventKept        = "working_set_kept"
	eventNotKept     = "working_set_not_kept"
	eventFailOpen    = "all_probes_fail"
	eventNotFailOpen = "not_all_probes_fail"
	eventDrained     = "director_drained" // by the operator
	eventUndrained   = "director_not_drained"
	eventReloaded    = "reloaded"
	eventRefused     = "reload_refused"
	eventLost        = "lost" // made for a reader: it has missed as many as Lost says
)

// Event is one event. Of its fields those are there that its kind has.
type Event struct {
	Number  uint64     `json:"number,omitempty"` // counts from 1 at the start of the process; none for "lost"
	Time    time.Time  `json:"time"`
	Kind    string     `json:"kind"`
	VIP     string     `json:"vip,omitempty"`
	Family  string     `json:"family,omitempty"`  // IPv4 or IPv6, of what is about one alone
	Address netip.Addr `json:"address,omitzero"`  // of the VIP
	Service string     `json:"service,omitempty"` // its ports, or a firewall mark; the first of many
	Server  string     `json:"server,omitempty"`  // the real server
	Old     *uint32    `json:"old_weight,omitempty"`
	New     *uint32    `json:"new_weight,omitempty"`
	Change  string     `json:"change,omitempty"` // from what to what
	Reason  string     `json:"reason,omitempty"`
	Lost    uint64     `json:"lost,omitempty"`
}

// eventRecord has the last events. A nil one keeps none. It is safe from any goroutine.
type eventRecord struct {
	mu    sync.Mutex
	total uint64
	ring  []Event       // number n is at (n-1) % keptEvents; one that was skipped has number 0
	more  chan struct{} // closed when there is an event more; nil: no reader waits
}

// add keeps e as the newest event, in place of the oldest.
func (r *eventRecord) add(e Event) {
	if r == nil {
		return
	}
	for _, text := range []*string{&e.VIP, &e.Service, &e.Server, &e.Change, &e.Reason} {
		*text = shorten(*text, keptText)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	e.Number = r.total
	if len(r.ring) < keptEvents {
		r.ring = append(r.ring, Event{})
	}
	r.ring[(r.total-1)%keptEvents] = e
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// skip counts n events that need no words, because keptEvents more follow.
func (r *eventRecord) skip(n int) {
	if r == nil || n <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total += uint64(n)
	r.ring = make([]Event, keptEvents) // the events before are older than those that follow
}

// newest is the number of the newest event, 0 before the first.
func (r *eventRecord) newest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

// after returns at most most events that follow number n, the oldest first, how many
// between are not kept any more, and the number of the last. Without an event, more is
// closed when there is one. A number that is too great is of another process: then all
// that are kept follow.
func (r *eventRecord) after(n uint64, most int) (events []Event, lost, last uint64, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > r.total {
		n = 0
	}
	if oldest := r.total - min(r.total, uint64(len(r.ring))); n < oldest {
		lost, n = oldest-n, oldest
	}
	for ; n < r.total && len(events) < most; n++ {
		if e := &r.ring[n%keptEvents]; e.Number != 0 {
			events = append(events, *e)
		} else {
			lost++
		}
	}
	if len(events) == 0 {
		if r.more == nil {
			r.more = make(chan struct{})
		}
		more = r.more
	}
	return events, lost, n, more
}

// event is an event about the set k.
func (k workKey) event(now time.Time, kind, why string) Event {
	return Event{Time: now, Kind: kind, VIP: k.VIP, Family: familyName(k.Is6), Reason: why}
}

// event is an event about o.
func (o *FailOpen) event(now time.Time, kind, why string) Event {
	e := workKey{o.VIP, o.Is6}.event(now, kind, why)
	if o.Port != 0 {
		e.Service = Port{o.Port, TCP}.String()
	}
	return e
}

// moved adds an event for each address that is on the host now and was not before, or the
// other way round. The names are those of the VIPs of cfg; why is the reason of the
// second.
func (r *eventRecord) moved(now time.Time, cfg *Config, before, after []netip.Addr, why string) {
	if r == nil {
		return
	}
	add := func(kind, why string, all, other []netip.Addr) {
		for _, a := range all {
			if slices.Contains(other, a) {
				continue
			}
			e := Event{Time: now, Kind: kind, Address: a, Family: familyName(a.Is6()), Reason: why}
			if i := slices.IndexFunc(cfg.VIPs, func(v VIP) bool { return slices.Contains(v.Addresses, a) }); i >= 0 {
				e.VIP = cfg.VIPs[i].Name
			}
			r.add(e)
		}
	}
	add(eventWithdrawn, why, before, after)
	add(eventAnnounced, "", after, before)
}
