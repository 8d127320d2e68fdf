// The checkers of keepalived.conf → [vip.health].
//
// Used by cmd_import.go. keepalived has checkers for each real server, config.toml has probes
// for each VIP: the first one of a kind is taken, and another one is a comment. Pure.

package main

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// importCheck is a checker that a probe can replace.
type importCheck struct {
	at     *importPlace
	server netip.Addr
	word   string // as keepalived names it
	http   bool
	port   uint16 // 0 = the virtual service's
	probe  HTTPProbe
	timing checkTiming
}

// checkTiming is when keepalived checks. The settings of a virtual server are the
// defaults of its real servers, and theirs those of the checkers.
type checkTiming struct {
	interval time.Duration // delay_loop
	timeout  time.Duration // connect_timeout
	retry    uint64        // failures before the one that counts
}

// keepalivedTiming are the defaults of keepalived.
var keepalivedTiming = checkTiming{interval: time.Minute, timeout: 5 * time.Second, retry: 1}

// read takes a keyword about time, and reports whether c is one. b gets what is wrong.
func (t *checkTiming) read(b *importService, c *confStatement) bool {
	var to *time.Duration
	switch c.word(0) {
	case "delay_loop":
		to = &t.interval
	case "connect_timeout":
		to = &t.timeout
	case "retry":
		n, err := strconv.ParseUint(c.word(1), 10, 32)
		if err != nil {
			b.remark(c, quote(c.word(1))+" is no number")
			return true
		}
		t.retry = n
		return true
	default:
		return false
	}
	text := c.word(1)
	d, err := time.ParseDuration(text + "s")
	if err != nil || strings.Trim(text, "0123456789.") != "" {
		b.remark(c, quote(text)+" is no number of seconds")
		return true
	}
	*to = d
	return true
}

// afterFailure is why delay_before_retry is not taken.
const afterFailure = "after a failure the next probe comes in half of interval"

// otherCheckers are those that no probe replaces, and why.
var otherCheckers = confReasons{
	{"SMTP_CHECK", "no probe speaks SMTP; ports = true in [vip.health] connects to the port"},
	{"MISC_CHECK", "lvs-controller starts no program; http in [vip.health] can ask a small server on the node"},
	{"DNS_CHECK", "no probe asks a name server; tcp = 53 in [vip.health] connects to it"},
	{"UDP_CHECK", "no probe is by UDP; tcp or http in [vip.health] can ask another port of the node"},
	{"PING_CHECK", "no probe sends ICMP; with forward = \"dr\" neighbour_check finds a node that does not answer"},
	{"BFD_CHECK", "no probe uses BFD; a short interval in [vip.health] finds a dead node within a second"},
	{"FILE_CHECK", "no file is watched; a pod's annotation or real_servers has the weight"},
}

// checkReader reads the checkers of a real server.
type checkReader struct {
	server  RealServer // with the port that it has in the file
	timing  checkTiming
	host    string
	remarks *importService
	found   []importCheck
}

// read takes a checker, and reports whether s is one.
func (r *checkReader) read(s *confStatement) bool {
	word := s.word(0)
	if why, other := otherCheckers.of(word); other {
		r.remarks.remark(s, why)
		return true
	}
	if word != "TCP_CHECK" && word != "HTTP_GET" && word != "SSL_GET" {
		return false
	}
	check := importCheck{at: s.at, server: r.server.Address, word: word, http: word != "TCP_CHECK", port: r.server.Port, timing: r.timing}
	check.probe.TLS = word == "SSL_GET"
	host, wrong, urls := r.host, "", 0
	for _, c := range s.block {
		switch key := c.word(0); {
		case check.timing.read(r.remarks, c):
		case key == "connect_port":
			port, err := ParsePortNumber(c.word(1))
			if check.port = port; err != nil {
				wrong = err.Error()
			}
		case key == "connect_ip":
			if a, err := netip.ParseAddr(c.word(1)); err != nil || a.Unmap() != r.server.Address {
				wrong = "it connects to " + quote(c.word(1)) + ", and a probe to the real server's own address"
			}
		case key == "virtualhost":
			host = c.word(1)
		case key == "url":
			if urls++; urls > 1 {
				r.remarks.remark(c, "a VIP has one http probe, with one path")
			}
		default:
			r.option(c)
		}
	}
	if check.http && wrong == "" {
		wrong = r.url(s, &check, host)
	}
	if wrong != "" {
		r.remarks.remark(s, wrong)
		return true
	}
	r.found = append(r.found, check)
	return true
}

// checkOptions are the keywords of a checker that have no counterpart, and why. Those
// with "" have no effect on a probe.
var checkOptions = confReasons{
	{"bindto", "a probe uses the address that the route to the real server has"},
	{"bind_if", "a probe uses the route to the real server"},
	{"bind_port", "a probe uses any port"},
	{"fwmark", "a probe sets no mark"},
	{"http_protocol", "a probe uses HTTP/1.1"},
	{"fast_recovery", ""},
	{"enable_sni", ""},
	{"alpha", readyAtOnce},
	{"warmup", spreadOut},
	{"log_all_failures", loggedOnce},
	{"delay_before_retry", afterFailure},
	{"digest", "only the status of the answer counts"},
	{"regex", "only the status of the answer counts"},
	{"regex_no_match", "only the status of the answer counts"},
	{"regex_options", ""},
	{"regex_stack", ""},
	{"regex_min_offset", ""},
	{"regex_max_offset", ""},
	{"tls_compliant", "a probe ends the connection as TLS says"},
}

// option takes a keyword of a checker that no probe has.
func (r *checkReader) option(c *confStatement) {
	why, known := checkOptions.of(c.word(0))
	if !known {
		why = unknownWordHere
	}
	if why != "" {
		r.remarks.remark(c, why)
	}
}

// url reads the first url of s. It says why the checker is not taken.
func (r *checkReader) url(s *confStatement, check *importCheck, host string) string {
	check.probe.Status = []StatusRange{{200, 299}}
	i := slices.IndexFunc(s.block, func(c *confStatement) bool { return c.word(0) == "url" })
	if i < 0 {
		return "it has no url"
	}
	check.probe.Path = "/"
	for _, c := range s.block[i].block {
		switch c.word(0) {
		case "path":
			check.probe.Path = c.word(1)
		case "virtualhost":
			host = c.word(1)
		case "status_code":
			check.probe.Status = nil
			for _, word := range c.words[1:] {
				status, err := parseStatusRange(word)
				if err != nil {
					return "its status_code " + quote(word) + " is not from 100 to 599"
				}
				check.probe.Status = append(check.probe.Status, status)
			}
			if len(check.probe.Status) == 0 {
				return "its status_code is empty"
			}
		default:
			r.option(c)
		}
	}
	check.probe.Host = host
	switch {
	case !probePaths.MatchString(check.probe.Path):
		return "its path " + quote(check.probe.Path) + " is not one that a probe can ask for"
	case !probeHosts.MatchString(host):
		return "its virtualhost " + quote(host) + " is no host name"
	}
	return ""
}

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
