// The probe kind http: requests over HTTP or HTTPS, and the status of their answers.
//
// Used by health_probe.go. The prober starts exchanges over TLS, and
// calls the rest through the table of the kinds. The connection begins in the prober's
// goroutine; an exchange has one for itself. Each request is a target for itself. This
// file reads only the status lines of an answer, and keeps only the status code;
// health_body.go reads the body where something is wanted of it.

package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
)

const (
	// maxTLS bounds the exchanges over TLS. As in the schedule, those
	// whose server was silent last time share half of it.
	maxTLS = 64
)

func (httpKind) targets(v *ProbedVIP, s *ProbedServer) []question {
	all := make([]question, len(v.Probes.HTTP))
	for i := range all {
		all[i] = question{to: netip.AddrPortFrom(s.Address, v.Probes.HTTP[i].Port), part: uint8(i)}
	}
	return all
}

// http is the request of t, which is of the kind http.
func (t *target) http() *HTTPProbe { return &t.vip.probes.HTTP[t.part] }

func (httpKind) begin(p *prober, t *target) {
	p.connect(t, func(t *target) {
		p.poll.remove(t.attempt.fd)
		if t.http().TLS {
			t.attempt.waits = waitsToBeginTLS
			p.waitingTLS = append(p.waitingTLS, t)
		} else {
			p.exchange(t)
		}
	})
}

func (httpKind) overdue(_ *prober, t *target) outcome {
	if t.attempt.waits == waitsToBeginTLS {
		return outcome{result: noResult, why: "too many TLS exchanges at a time"}
	}
	return t.timedOut()
}

func (httpKind) reason(t *target, err error) string {
	return t.http().failure(t.to, err)
}

// httpRequest is the request of probe h to the real server at to. Host and
// path have been validated: they contain no line break.
func httpRequest(h *HTTPProbe, to netip.AddrPort) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: lvs-controller/%s\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		h.Path, cmp.Or(h.Host, to.String()), version)
}

// failure describes a failed probe.
func (h *HTTPProbe) failure(to netip.AddrPort, what any) string {
	scheme := "http"
	if h.TLS {
		scheme = "https"
	}
	return fmt.Sprintf("GET %s://%s%s: %v", scheme, to, h.Path, what)
}

// judge is the outcome of an answer with that status.
func (h *HTTPProbe) judge(status uint16, to netip.AddrPort) outcome {
	if h.accepts(status) {
		return outcome{result: passed}
	}
	return outcome{result: failed, why: h.failure(to, status)}
}

// statusLine is "HTTP/1.1 200 OK", of which the reason may be missing.
var statusLine = regexp.MustCompile(`^HTTP/1\.. ([1-9][0-9]{2})( .*)?\r?$`)

// parseStatus reads the status code of the answer that b begins (RFC 9112
// section 4). 0 means that more has to be read, which never follows maxAnswer
// bytes. Informational answers before it are skipped; 101 is final, because the
// request did not ask for it.
func parseStatus(b []byte) (uint16, error) {
	var more error
	if len(b) >= maxAnswer {
		more = errNotHTTP
	}
	for {
		const protocol = "HTTP/1."
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if n := min(len(line), len(protocol)); string(line[:n]) != protocol[:n] {
			return 0, errNotHTTP
		}
		if !whole {
			return 0, more
		}
		match := statusLine.FindSubmatch(line)
		if match == nil {
			return 0, errNotHTTP
		}
		if status, _ := strconv.Atoi(string(match[1])); status >= 200 || status == 101 {
			return uint16(status), nil
		}
		for len(bytes.TrimSuffix(line, []byte("\r"))) > 0 { // its header fields, up to an empty line
			if line, rest, whole = bytes.Cut(rest, []byte("\n")); !whole {
				return 0, more
			}
		}
		b = rest
	}
}

// startTLS begins as many exchanges over TLS as may run at a time. The time that
// one had to wait does not count against the real server.
func (p *prober) startTLS() {
	waiting := p.waitingTLS
	p.waitingTLS = nil
	for _, t := range waiting {
		switch {
		case t.attempt == nil || t.attempt.waits != waitsToBeginTLS: // its time was over
		case p.runningTLS >= maxTLS || t.wasSilent && p.runningTLS >= maxTLS/2:
			p.waitingTLS = append(p.waitingTLS, t)
		default:
			p.schedule.prolong(t, p.now().Add(t.vip.probes.Timeout))
			p.exchange(t)
		}
	}
}

// exchange sends the request and reads the answer, in a goroutine. It ends when
// the probe is dropped, which closes the connection.
func (p *prober) exchange(t *target) {
	a, h, to := t.attempt, t.http(), t.to
	file := os.NewFile(uintptr(a.fd), to.String())
	delete(p.attempts, a.fd)
	conn, err := net.FileConn(file)
	file.Close()
	a.fd, a.waits = -1, waitsForAnswer
	if err != nil {
		p.refused(t, ownFault{err})
		return
	}
	a.conn = conn
	if h.TLS {
		p.runningTLS++
	}
	p.beside.Go(func() {
		status, err := askStatus(conn, h, to)
		p.post(func() {
			if h.TLS {
				p.runningTLS--
			}
			switch {
			case t.attempt != a: // it was dropped
			case errors.Is(err, io.EOF):
				p.finish(t, t.fails(errClosed, false))
			case err != nil:
				p.refused(t, err)
			default:
				p.finish(t, h.judge(status, to))
			}
		})
	})
}

// askStatus sends the request over a new connection and reads the status, and the body
// where h wants something of it.
//
// The certificate is not verified: a node is asked at its own address, which
// certificates do not name. Whether clients trust it is not for this probe to say.
func askStatus(conn net.Conn, h *HTTPProbe, to netip.AddrPort) (uint16, error) {
	if h.TLS {
		name, _, err := net.SplitHostPort(h.Host)
		if err != nil {
			name = h.Host
		}
		conn = tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	}
	if _, err := conn.Write(httpRequest(h, to)); err != nil {
		return 0, err
	}
	if h.Body.wanted() {
		return askBody(conn, h)
	}
	answer := make([]byte, 0, 512) // most need no more, and many exchanges run at a time
	for {
		answer = slices.Grow(answer, 1)
		n, err := conn.Read(answer[len(answer):cap(answer)])
		answer = answer[:len(answer)+n]
		if status, wrong := parseStatus(answer); status != 0 || wrong != nil {
			return status, wrong
		}
		if err != nil {
			return 0, err
		}
	}
}

// errClosed says that the other side has closed the connection too early.
var errClosed = errors.New("closed without an answer")
