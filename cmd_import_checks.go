// The checkers of keepalived.conf, and the keywords that have no counterpart.
//
// Used by cmd_import_keepalived.go. cmd_import_requests.go reads what a checker asks, and
// cmd_import_probes.go makes probes of the checkers. Pure.

package main

import (
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keepalivedTiming are the defaults of keepalived.
var keepalivedTiming = checkTiming{interval: time.Minute, timeout: 5 * time.Second, retry: defaultRetry}

// defaultRetry says that the checker's own default applies.
const defaultRetry = math.MaxUint64

// complete is t with the default of a checker that the probe replaces.
func (t checkTiming) complete(kind probeKind) checkTiming {
	if t.retry == defaultRetry {
		t.retry = 1
		if kind == probeDNS {
			t.retry = 3
		}
	}
	return t
}

// read takes a keyword about time, and reports whether c is one. b gets what is wrong.
func (t *checkTiming) read(b *importService, c *confStatement) bool {
	var to *time.Duration
	switch c.word(0) {
	case "delay_loop":
		to = &t.interval
	case "connect_timeout":
		to = &t.timeout
	case "retry", "nb_get_retry":
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

// probeOfChecker is the kind of probe that replaces a checker.
func probeOfChecker(word string) (kind probeKind, known bool) {
	switch word {
	case "TCP_CHECK":
		return probeTCP, true
	case "HTTP_GET", "SSL_GET":
		return probeHTTP, true
	case "DNS_CHECK":
		return probeDNS, true
	case "UDP_CHECK":
		return probeUDP, true
	}
	return 0, false
}

// read takes a checker, and reports whether s is one.
func (r *checkReader) read(s *confStatement) bool {
	word := s.word(0)
	if why, other := otherCheckers.of(word); other {
		r.remarks.remark(s, why)
		return true
	}
	kind, known := probeOfChecker(word)
	if !known {
		return false
	}
	check := importCheck{at: s.at, server: r.server.Address, word: word, kind: kind, port: r.server.Port, timing: r.timing}
	check.dns.Name, check.dns.Type = ".", "SOA"
	check.udp.Send = keepalivedDatagram
	host, wrong := r.host, ""
	for _, c := range s.block {
		switch key := c.word(0); {
		case check.timing.read(r.remarks, c):
		case r.connect(c, &check, &wrong):
		case kind == probeHTTP && key == "virtualhost":
			host = c.word(1)
		case kind == probeHTTP && key == "url": // read when its host is known
		case kind == probeDNS && r.question(c, &check.dns, &wrong):
		case kind == probeUDP && r.datagram(c, &check.udp, &wrong):
		default:
			r.option(c)
		}
	}
	check.timing = check.timing.complete(kind)
	if kind == probeHTTP && wrong == "" {
		check.http, wrong = r.urls(s, &check, host)
	}
	if wrong != "" {
		r.remarks.remark(s, wrong)
		return true
	}
	r.found = append(r.found, check)
	return true
}

// connect reads where a checker connects to, and reports whether c says that.
func (r *checkReader) connect(c *confStatement, check *importCheck, wrong *string) bool {
	switch c.word(0) {
	case "connect_port":
		port, err := ParsePortNumber(c.word(1))
		if check.port = port; err != nil {
			*wrong = err.Error()
		}
	case "connect_ip":
		if a, err := netip.ParseAddr(c.word(1)); err != nil || a.Unmap() != r.server.Address {
			*wrong = "it connects to " + quote(c.word(1)) + ", and a probe to the real server's own address"
		}
	default:
		return false
	}
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
	{"sni_name", "with TLS the server name is that of virtualhost"},
	{"fast_recovery", ""},
	{"enable_sni", ""},
	{"alpha", readyAtOnce},
	{"warmup", spreadOut},
	{"log_all_failures", loggedOnce},
	{"delay_before_retry", afterFailure},
	{"tls_compliant", "a probe ends the connection as TLS says"},
}

// defaultSettings are values with which such a keyword changes nothing.
var defaultSettings = confReasons{{"warmup", "0"}}

// changesNothing reports whether a keyword without a counterpart has its default.
func changesNothing(c *confStatement) bool {
	word, value := c.word(0), c.word(1)
	usual, _ := defaultSettings.of(word)
	return value != "" && value == usual ||
		(word == "smtp_alert" || word == "alpha" || word == "log_all_failures") && slices.Contains([]string{"off", "false", "no"}, value)
}

// option takes a keyword of a checker that no probe has.
func (r *checkReader) option(c *confStatement) {
	why, known := checkOptions.of(c.word(0))
	if !known {
		why = unknownWordHere
	}
	if why != "" && !changesNothing(c) && !(c.word(0) == "http_protocol" && c.word(1) == "1.1") {
		r.remarks.remark(c, why)
	}
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
	startsNothing   = "lvs-controller starts no program; webhook in [events] and its control socket say it"
)

// remark notes that keyword c is not taken. why says more than its name.
func (s *importService) remark(c *confStatement, why string) {
	s.remarks = append(s.remarks, remark{at: c.at, text: shorten(c.word(0), quotedText) + ": " + why})
}
