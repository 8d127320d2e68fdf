// The checkers of keepalived.conf → [vip.health].
//
// Used by cmd_import_text.go. keepalived has checkers for each real server, config.toml
// has probes for each VIP: the first one of a kind is taken, and another one is a comment.
// Pure.

package main

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// importProbes is [vip.health] of a VIP.
type importProbes struct {
	ports   bool
	tcp     uint16
	http    *HTTPProbe
	timing  checkTiming
	remarks []remark
}

// any reports whether there is a probe.
func (p *importProbes) any() bool { return p.ports || p.tcp != 0 || p.http != nil }

// say notes something about the probes: what is lost, or with note what is different.
func (p *importProbes) say(at *importPlace, note bool, text string) {
	r := remark{at, text, note}
	if !slices.Contains(p.remarks, r) && len(p.remarks) < 2*mostVIPRemarks {
		p.remarks = append(p.remarks, r)
	}
}

// probesOf makes the probes of a VIP of the checkers of its services.
func probesOf(v *importVIP) (p importProbes) {
	unchecked := false
	for _, s := range v.services {
		if s.Address != v.addresses[0] { // the others have the same checkers
			continue
		}
		checked := make(map[netip.Addr]bool)
		ports := false
		for i := range s.checks {
			c := &s.checks[i]
			checked[c.server] = true
			ports = p.add(s, c) || ports
		}
		unchecked = unchecked || !ports && s.Protocol == TCP
		for i := range s.servers {
			r := &s.servers[i]
			if len(s.checks) > 0 && r.refused == "" && !checked[r.Address] {
				p.say(r.at, true, r.label()+": it has none of the checkers that are taken, and the VIP's probes ask it too")
			}
		}
	}
	at := v.first().at
	p.bound(at)
	if p.ports && unchecked {
		p.say(at, true, "ports = true probes all TCP ports of the VIP, also those without a TCP_CHECK")
	}
	if (p.tcp != 0 || p.http != nil) && len(v.ports) > 1 {
		p.say(at, true, "tcp and http are about a real server as a whole: one that fails is out of service on all ports")
	}
	return p
}

// add takes checker c of s, and reports whether it is one of the VIP's own port.
func (p *importProbes) add(s *importService, c *importCheck) (ports bool) {
	if !p.any() {
		p.timing = c.timing
	}
	if c.timing != p.timing {
		p.say(c.at, false, c.word+": its times differ from those of the VIP's first checker, and a VIP has one interval, timeout and fall")
	}
	port := cmp.Or(c.port, s.ServiceKey.Port)
	switch probe := c.probe; {
	case c.http:
		if probe.Port = port; p.http == nil {
			p.http = &probe
		} else if h := p.http; h.Port != port || h.Path != probe.Path || h.Host != probe.Host || h.TLS != probe.TLS || !slices.Equal(h.Status, probe.Status) {
			p.say(c.at, false, c.word+": a VIP has one http probe")
		}
	case port == s.ServiceKey.Port && s.Protocol == TCP:
		p.ports = true
		return true
	case p.tcp == 0 || p.tcp == port:
		p.tcp = port
	default:
		p.say(c.at, false, c.word+": a VIP has one port for tcp")
	}
	return false
}

// bound moves the times into the bounds of [vip.health].
func (p *importProbes) bound(at *importPlace) {
	if !p.any() {
		return
	}
	t := &p.timing
	was := *t
	t.interval = min(max(t.interval, minProbeInterval), maxProbeInterval)
	t.timeout = min(max(t.timeout, minProbeTimeout), maxProbeTimeout, t.interval)
	t.retry = min(t.retry, 99)
	if was != *t {
		p.say(at, false, "delay_loop, connect_timeout or retry is outside of what [vip.health] has: connect_timeout is at most a minute and at most delay_loop")
	}
}

// write writes [vip.health].
func (p *importProbes) write(w *importWriter) {
	if !p.any() {
		return
	}
	w.line("[vip.health]")
	if p.ports {
		w.line("ports = true")
	}
	w.number("tcp", uint32(p.tcp))
	w.text("interval", shortDuration(p.timing.interval))
	w.text("timeout", shortDuration(p.timing.timeout))
	w.number("rise", 1)
	w.number("fall", uint32(p.timing.retry+1))
	h := p.http
	if h == nil {
		return
	}
	var status []string
	for _, s := range h.Status {
		text := strconv.Itoa(int(s.First))
		if s.Last != s.First {
			text = strconv.Quote(text + "-" + strconv.Itoa(int(s.Last)))
		}
		status = append(status, text)
	}
	w.line("[vip.health.http]")
	w.number("port", uint32(h.Port))
	w.text("path", h.Path)
	w.text("host", h.Host)
	w.line("status = [" + strings.Join(status, ", ") + "]")
	if h.TLS {
		w.line("tls = true")
	}
}
