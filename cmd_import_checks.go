// The checkers of keepalived.conf, and the keywords that have no counterpart.
//
// Used by cmd_import_keepalived.go. cmd_import_probes.go makes probes of the checkers.
// Pure.

package main

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

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

// confReasons are keywords, and why they are not taken.
type confReasons [][2]string

func (r confReasons) of(word string) (why string, known bool) {
	for _, pair := range r {
		if pair[0] == word {
			return pair[1], true
		}
	}
	return "", false
}

// Reasons that several keywords have.
const (
	unknownWordHere = "this keyword is not known"
	readyAtOnce     = "a real server without a result yet serves"
	spreadOut       = "probes are spread over the interval without it"
	loggedOnce      = "the log has a line when a real server goes down"
	startsNothing   = "lvs-controller starts no program; its metrics, log and /status.json say it"
)

// remark notes that keyword c is not taken. why says more than its name.
func (s *importService) remark(c *confStatement, why string) {
	s.remarks = append(s.remarks, remark{at: c.at, text: shorten(c.word(0), quotedText) + ": " + why})
}
