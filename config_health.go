// [vip.health] → Probes.
//
// Used by config_vip.go. readProbes reads the table, checkProbes compares it
// with the rest of the VIP. The keys and their ranges are in the function that
// reads them, the defaults in defaultProbes and readHTTPProbe. No I/O.

package main

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bounds of the two durations. A probe that is started more often than ten
// times a second finds nothing sooner: what lasts is the answer.
const (
	minProbeInterval = 100 * time.Millisecond
	maxProbeInterval = time.Hour
	minProbeTimeout  = 10 * time.Millisecond
	maxProbeTimeout  = time.Minute
)

// defaultProbes is [vip.health] without a probe. The timeout follows from the
// interval.
func defaultProbes() Probes {
	return Probes{Interval: 2 * time.Second, Rise: 2, Fall: 3, ConnectsPerSecond: 500}
}

// defaultProbeTimeout leaves room for the next probe before its turn, so that
// a silent real server is found within fall intervals.
func defaultProbeTimeout(interval time.Duration) time.Duration {
	return min(interval/2, time.Second)
}

// readProbes reads [vip.health].
func readProbes(v value) *Probes {
	p := defaultProbes()
	v.table(
		setting{"http", func(v value) { p.HTTP = readHTTPProbe(v) }},
		setting{"tcp", into(&p.TCP, integer[uint16](1, math.MaxUint16))},
		setting{"ports", into(&p.Ports, boolean)},
		setting{"datapath", into(&p.DataPath, boolean)},
		setting{"interval", into(&p.Interval, duration(minProbeInterval, maxProbeInterval))},
		setting{"timeout", into(&p.Timeout, duration(minProbeTimeout, maxProbeTimeout))},
		setting{"rise", into(&p.Rise, integer[uint8](1, 100))},
		setting{"fall", into(&p.Fall, integer[uint8](1, 100))},
		setting{"connects_per_second", into(&p.ConnectsPerSecond, integer[uint32](1, 10_000))},
	)
	if !v.has("timeout") {
		p.Timeout = defaultProbeTimeout(p.Interval)
	}
	return &p
}

// readHTTPProbe reads [vip.health.http]. The defaults are ingress-nginx's.
func readHTTPProbe(v value) *HTTPProbe {
	h := HTTPProbe{Port: 10254, Path: "/healthz", Status: []StatusRange{{200, 399}}}
	v.table(
		setting{"port", into(&h.Port, integer[uint16](1, math.MaxUint16))},
		setting{"path", into(&h.Path, parsed(`a path such as "/healthz": printable ASCII without spaces and "#", at most 512 characters`, matching(probePaths)))},
		setting{"host", into(&h.Host, parsed(`a host name such as "shop.example", with or without a port, or "" for the real server's address`, matching(probeHosts)))},
		setting{"status", func(v value) { h.Status = readStatus(v) }},
		setting{"tls", into(&h.TLS, boolean)},
	)
	return &h
}

// What goes into a request. A line break would end it early, so the rules are
// narrow.
var (
	probePaths = regexp.MustCompile(`^/[!"$-~]{0,511}$`)
	probeHosts = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9.]{0,252})?(:[0-9]{1,5})?)?$`)
)

// readStatus reads a list of HTTP status codes and ranges of them.
func readStatus(v value) []StatusRange {
	const rule = `a status code from 100 to 599 such as 200, or a range such as "200-399"`
	var ranges []StatusRange
	v.each(`a list of status codes such as [200, "300-399"]`, func(v value) {
		var s StatusRange
		if n, ok := v.raw.(int64); ok { // 200 is short for "200-200"
			into(&s, parsed(rule, parseStatusRange))(value{v.r, v.path, strconv.FormatInt(n, 10)})
		} else {
			into(&s, parsed(rule, parseStatusRange))(v)
		}
		if s != (StatusRange{}) {
			ranges = append(ranges, s)
		}
	})
	if len(ranges) == 0 && !v.wrong() {
		v.mistake("is empty, want at least one status code")
	}
	slices.SortFunc(ranges, StatusRange.Compare)
	return ranges
}

// parseStatusRange reads "200-399" or "200".
func parseStatusRange(s string) (StatusRange, error) {
	first, last, found := strings.Cut(s, "-")
	if !found {
		last = first
	}
	low, err1 := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	switch {
	case err1 != nil || err2 != nil || low < 100 || high > 599:
		return StatusRange{}, errMisfit
	case low > high:
		return StatusRange{}, fmt.Errorf("%d is more than %d", low, high)
	}
	return StatusRange{uint16(low), uint16(high)}, nil
}

// checkProbes checks [vip.health] of the VIP at v against the rest of it.
func checkProbes(v value, vip *VIP) {
	const wantTCP = `want a port such as "80/tcp", tcp_services or ports_from = "pods"`
	table, p := v.child("health"), vip.Probes
	if p == nil || table.wrong() {
		return
	}
	ports, path := table.child("ports"), table.child("datapath")
	if !p.any() {
		table.mistake("has no probe, want at least one of http, tcp, ports = true, datapath = true")
	}
	if p.Timeout > p.Interval {
		table.child("timeout").mistake("is longer than the interval, %s, want at most that", shortDuration(p.Interval))
	}
	if p.Ports && !vip.mayHaveTCP(v) {
		ports.mistake("connects to the VIP's TCP ports, and there are none; " + wantTCP)
	}
	if p.DataPath && !vip.mayHaveTCP(v) {
		path.mistake("asks at one of the VIP's TCP ports, and there are none; " + wantTCP)
	}
	if p.DataPath && vip.Forward != DirectRoute && !v.child("forward").wrong() {
		path.mistake(`is for forward = "dr" alone, want that or no datapath`)
	}
}

// mayHaveTCP reports whether the VIP at v has a TCP port or can get one.
func (v *VIP) mayHaveTCP(at value) bool {
	isTCP := func(p Port) bool { return p.Protocol == TCP }
	return slices.ContainsFunc(v.Ports, isTCP) || v.PortsFromPods || !at.blank("tcp_services") || at.child("ports").wrong()
}
