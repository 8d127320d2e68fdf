// What the loop remembers of the past for people: the last changes of the kernel's
// table with their cause, and the load of each VIP at the last audits.
//
// Used by http*.go. The loop writes it in passes that run anyway; the listener reads
// copies. Both parts have a fixed size, whatever the table's is. It decides nothing.

package main

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// keptChanges is how many changes are kept, and keptText how long a text of one is
	// at most, in characters.
	keptChanges = 50
	keptText    = 300

	// seriesPoints is how many points the series of a VIP has, and seriesVIPs how many
	// VIPs have one: the first of the configuration. A point has 20 bytes.
	seriesPoints = 60
	seriesVIPs   = 1000
)

// Change is one change of the kernel's table, as the log has it.
type Change struct {
	Number  uint64     `json:"number"` // counts from 1, the first change of the process
	Time    time.Time  `json:"time"`
	What    string     `json:"what"` // such as "real server added"
	VIP     string     `json:"vip,omitempty"`
	Address netip.Addr `json:"address,omitzero"` // of the VIP; none for a firewall mark
	Ports   string     `json:"ports"`
	Server  string     `json:"server,omitempty"` // none for a change of a service
	Change  string     `json:"change,omitempty"` // from what to what
	Why     string     `json:"why,omitempty"`
}

// changeRecord has the last changes. A nil one keeps none. It is safe from any
// goroutine.
type changeRecord struct {
	mu    sync.Mutex
	total uint64
	ring  []Change // Number n is at (n-1) % keptChanges
}

// add keeps c as the newest change, in place of the oldest.
func (r *changeRecord) add(c *Change) {
	if r == nil {
		return
	}
	for _, text := range []*string{&c.VIP, &c.Ports, &c.Server, &c.Change, &c.Why} {
		*text = shorten(*text, keptText)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	c.Number = r.total
	if len(r.ring) < keptChanges {
		r.ring = append(r.ring, *c)
	} else {
		r.ring[(c.Number-1)%keptChanges] = *c
	}
}

// last returns the kept changes, the newest first.
func (r *changeRecord) last() []Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Change, 0, len(r.ring))
	for n := r.total; n > r.total-uint64(len(r.ring)); n-- {
		all = append(all, r.ring[(n-1)%keptChanges])
	}
	return all
}

// loadPoint is the load of a VIP at one audit. The rates are averages since the audit
// before.
type loadPoint struct {
	Active, Inactive                   uint32
	ConnsPerSec, PktsPerSec, BytesPerS float32
}

// loadSeries are the last points of one VIP.
type loadSeries struct {
	sum    Load        // at the newest point
	before Traffic     // at the point before it
	first  uint64      // the number of the first time that it has a point of
	points []loadPoint // that of time n is at n % seriesPoints
}

// loadHistory has the series of the VIPs, and that of all together under "". It is safe
// from any goroutine.
type loadHistory struct {
	mu    sync.Mutex
	cfg   *Config     // whose VIPs have series
	total uint64      // times since the start
	times []time.Time // the last seriesPoints; number n is at n % seriesPoints
	vips  map[string]*loadSeries
}

// sample adds a point to the series of each VIP of cfg. now is the time of an audit,
// and loads the load of each shard. An audit that comes much sooner after the last one
// than the next is due adds no point.
func (h *loadHistory) sample(now time.Time, cfg *Config, loads map[ServiceKey]Load, owner func(ServiceKey) string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var since time.Duration // the last sample
	if h.total > 0 {
		since = now.Sub(h.times[(h.total-1)%seriesPoints])
		if since >= 0 && since < cfg.AuditInterval/2 {
			return
		}
	}
	h.follow(cfg)
	for k, l := range loads {
		h.vips[""].sum.add(&l)
		if name := owner(k); name != "" && h.vips[name] != nil {
			h.vips[name].sum.add(&l)
		}
	}
	for _, s := range h.vips {
		s.add(h.total, since)
	}
	if len(h.times) < seriesPoints {
		h.times = append(h.times, now)
	} else {
		h.times[h.total%seriesPoints] = now
	}
	h.total++
}

// follow makes a series for each VIP of cfg that may have one, forgets those of other
// VIPs, and sets the sums to zero.
func (h *loadHistory) follow(cfg *Config) {
	if h.cfg != cfg {
		before := h.vips
		h.cfg, h.vips = cfg, make(map[string]*loadSeries)
		named := func(name string) {
			if h.vips[name] = before[name]; h.vips[name] == nil {
				h.vips[name] = &loadSeries{first: h.total, points: make([]loadPoint, seriesPoints)}
			}
		}
		named("")
		for i := range cfg.VIPs[:min(len(cfg.VIPs), seriesVIPs)] {
			named(cfg.VIPs[i].Name)
		}
	}
	for _, s := range h.vips {
		s.before, s.sum = s.sum.Traffic, Load{}
	}
}

// add adds the point of time number n, since after the one before. Counters that have
// become less belong to services that were made again: then, and for the first point,
// the kernel's own rates are taken.
func (s *loadSeries) add(n uint64, since time.Duration) {
	t, b := &s.sum.Traffic, &s.before
	p := loadPoint{s.sum.Connections.Active, s.sum.Connections.Inactive, float32(t.ConnsPerSec), float32(t.InPktsPerSec), float32(t.InBytesPerS)}
	if n > s.first && since > 0 && t.Connections >= b.Connections && t.InPackets >= b.InPackets && t.InBytes >= b.InBytes {
		rate := func(now, before uint64) float32 { return float32(float64(now-before) / since.Seconds()) }
		p.ConnsPerSec, p.PktsPerSec, p.BytesPerS = rate(t.Connections, b.Connections), rate(t.InPackets, b.InPackets), rate(t.InBytes, b.InBytes)
	}
	s.points[n%seriesPoints] = p
}

// last returns the times of the kept samples and the points of each VIP, the oldest
// first. A VIP that is newer than the first time has fewer points: its last is that of
// the last time.
func (h *loadHistory) last() (times []time.Time, vips map[string][]loadPoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	oldest := h.total - uint64(len(h.times))
	for n := oldest; n < h.total; n++ {
		times = append(times, h.times[n%seriesPoints])
	}
	vips = make(map[string][]loadPoint, len(h.vips))
	for name, s := range h.vips {
		points := make([]loadPoint, 0, len(h.times))
		for n := max(oldest, s.first); n < h.total; n++ {
			points = append(points, s.points[n%seriesPoints])
		}
		vips[name] = points
	}
	return times, vips
}
