// The checkers of keepalived.conf → [vip.health].
//
// Used by cmd_import_text.go. keepalived has checkers for each real server, config.toml
// has probes for each VIP: the first one of a kind is taken, and another one is a comment.
// Of http all requests of the first real server of each service are taken.
// Pure.

package main

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// importProbes is [vip.health] of a VIP. Of its embedded Probes, timing has the times.
type importProbes struct {
	Probes
	timing  checkTiming
	remarks []remark
}

// any reports whether there is a probe.
func (p *importProbes) any() bool { return len(p.kinds()) > 0 }

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
		requests, kinds := make(map[netip.Addr]int), make(map[netip.Addr][]probeKind)
		ports := false
		var all []probeKind
		for i := range s.checks {
			c := &s.checks[i]
			kinds[c.server] = append(kinds[c.server], c.kind)
			all = append(all, c.kind)
			ports = p.add(s, c, requests) || ports
		}
		unchecked = unchecked || !ports && s.Protocol == TCP
		for i := range s.servers {
			r := &s.servers[i]
			lacks := func(kind probeKind) bool { return !slices.Contains(kinds[r.Address], kind) }
			at := slices.IndexFunc(all, lacks)
			switch {
			case len(all) == 0 || r.refused != "":
			case kinds[r.Address] == nil:
				p.say(r.at, true, r.label()+": it has none of the checkers that are taken, and the VIP's probes ask it too")
			case at >= 0:
				p.say(r.at, true, r.label()+": it has no checker of the kind "+all[at].String()+", and the VIP's probes ask it too")
			case requests[r.Address] < requests[s.asked()]:
				p.say(r.at, true, r.label()+": it has fewer urls than the first real server, and the VIP's probes ask it for all of them")
			}
		}
	}
	at := v.first().at
	p.bound(at)
	if p.Ports && unchecked {
		p.say(at, true, "ports = true probes all TCP ports of the VIP, also those without a TCP_CHECK")
	}
	if p.probesWhole() && len(v.ports) > 1 {
		p.say(at, true, "tcp, http, dns and udp are about a real server as a whole: one that fails is out of service on all ports")
	}
	p.count(&v.first().quorum)
	return p
}

// count takes the quorum q, if there are probes.
func (p *importProbes) count(q *importQuorum) {
	switch {
	case q.Least == 0:
	case p.any():
		p.Quorum = q.Quorum
	default:
		p.say(q.at, false, "quorum: without a checker that is taken, no real server is found to be down")
	}
}

// asked is the real server of s whose urls the VIP's probes ask for.
func (s *importService) asked() netip.Addr {
	for i := range s.checks {
		if s.checks[i].kind == probeHTTP {
			return s.checks[i].server
		}
	}
	return netip.Addr{}
}

// add takes checker c of s, and reports whether it is one of the VIP's own port. requests
// counts the urls of each real server.
func (p *importProbes) add(s *importService, c *importCheck, requests map[netip.Addr]int) (ports bool) {
	if !p.any() {
		p.timing = c.timing
	}
	if c.timing != p.timing {
		p.say(c.at, false, c.word+": its times differ from those of the VIP's first checker, and a VIP has one interval, timeout and fall")
	}
	port := cmp.Or(c.port, s.ServiceKey.Port)
	switch c.kind {
	case probeHTTP:
		for _, h := range c.http {
			h.Port = port
			p.request(s, c, h)
		}
		requests[c.server] += len(c.http)
	case probeDNS:
		d := c.dns
		if d.Port = port; p.DNS == nil {
			p.DNS = &d
		} else if *p.DNS != d {
			p.say(c.at, false, c.word+": a VIP has one dns probe")
		}
	case probeUDP:
		u := c.udp
		if u.Port = port; p.UDP == nil {
			p.UDP = &u
		} else if *p.UDP != u {
			p.say(c.at, false, c.word+": a VIP has one udp probe")
		}
	default:
		// With a quorum, one that does not listen has to count as down.
		switch own := port == s.ServiceKey.Port && s.Protocol == TCP; {
		case own && s.quorum.Least == 0:
			p.Ports = true
			return true
		case p.TCP == 0 || p.TCP == port:
			p.TCP = port
			return own
		}
		p.say(c.at, false, c.word+": a VIP has one port for tcp")
	}
	return false
}

// request takes one url of checker c.
func (p *importProbes) request(s *importService, c *importCheck, h HTTPProbe) {
	switch {
	case slices.ContainsFunc(p.HTTP, h.same):
	case c.server != s.asked():
		p.say(c.at, false, c.word+": its url "+quote(h.Path)+" is none of the first real server, and a VIP asks all of them the same")
	case len(p.HTTP) == maxURLs:
		p.say(c.at, false, c.word+": its url "+quote(h.Path)+" is one too many, a VIP has "+strconv.Itoa(maxURLs))
	default:
		p.HTTP = append(p.HTTP, h)
	}
}

// same reports whether h and o are the same request.
func (h HTTPProbe) same(o HTTPProbe) bool {
	return h.Port == o.Port && h.Path == o.Path && h.Host == o.Host && h.TLS == o.TLS && slices.Equal(h.Status, o.Status) && h.Body.Equal(o.Body)
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
	if p.Ports {
		w.line("ports = true")
	}
	w.number("tcp", uint32(p.TCP))
	w.text("interval", shortDuration(p.timing.interval))
	w.text("timeout", shortDuration(p.timing.timeout))
	w.number("rise", 1)
	w.number("fall", uint32(p.timing.retry+1))
	if p.Quorum.Least > 0 {
		w.number("quorum", uint32(p.Quorum.Least))
		w.number("hysteresis", uint32(p.Quorum.Hysteresis))
		w.text("below_quorum", p.Quorum.action())
	}
	header := "[vip.health.http]"
	if len(p.HTTP) > 1 {
		header = "[[vip.health.http]]"
	}
	for i := range p.HTTP {
		w.line(header)
		p.HTTP[i].write(w)
	}
	if d := p.DNS; d != nil {
		w.line("[vip.health.dns]")
		w.number("port", uint32(d.Port))
		w.text("name", d.Name)
		w.text("type", d.Type)
	}
	if u := p.UDP; u != nil {
		w.line("[vip.health.udp]")
		w.number("port", uint32(u.Port))
		w.text("send", datagramText(u.Send))
		w.text("answer", datagramText(u.Answer))
		if !u.AnswerRequired {
			w.line("answer_required = false")
		}
	}
}

// write writes the keys of h.
func (h *HTTPProbe) write(w *importWriter) {
	var status []string
	for _, s := range h.Status {
		text := strconv.Itoa(int(s.First))
		if s.Last != s.First {
			text = strconv.Quote(text + "-" + strconv.Itoa(int(s.Last)))
		}
		status = append(status, text)
	}
	w.number("port", uint32(h.Port))
	w.text("path", h.Path)
	w.text("host", h.Host)
	w.line("status = [" + strings.Join(status, ", ") + "]")
	if h.TLS {
		w.line("tls = true")
	}
	if h.Body.Match != nil {
		w.text("body_match", h.Body.Match.String())
	}
	w.keys += 8 + len(status)
}
