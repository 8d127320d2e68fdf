// The probe kind http: one request over HTTP or HTTPS, and the status of its answer.
//
// Used by health_probe.go. The prober starts and collects TLS exchanges, and calls
// the rest through the table of the kinds. Without TLS everything runs in the
// prober's goroutine; a TLS exchange has one for itself. It reads only the status
// lines of an answer, never a body, and keeps only the status code.

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxAnswer is how much of an answer is read in search of its status:
	// informational answers with their headers may come before.
	maxAnswer = 8 << 10
	// maxTLS bounds the goroutines for TLS exchanges. As in the schedule, those
	// whose server was silent last time share half of it.
	maxTLS = 64
)

func (httpKind) targets(v *ProbedVIP, s *ProbedServer) []question {
	return []question{{to: netip.AddrPortFrom(s.Address, v.Probes.HTTP.Port)}}
}

func (httpKind) begin(p *prober, t *target) {
	p.connect(t, func(p *prober, t *target) {
		a, h := t.attempt, t.vip.probes.HTTP
		if h.TLS {
			a.waits = waitsToBeginTLS
			p.tls.waiting = append(p.tls.waiting, t)
			p.poll.remove(a.fd)
			return
		}
		a.rest, a.ready = httpRequest(h, t.to), (*prober).sendRequest
		p.sendRequest(t)
	})
}

func (httpKind) overdue(_ *prober, t *target) outcome {
	if t.attempt.waits == waitsToBeginTLS {
		return outcome{result: noResult, why: "too many TLS exchanges at a time"}
	}
	return t.timedOut()
}

func (httpKind) reason(t *target, err error) string {
	return t.vip.probes.HTTP.failure(t.to, err)
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

// accepts reports whether a server that answers with code is well.
func (h *HTTPProbe) accepts(code uint16) bool {
	return slices.ContainsFunc(h.Status, func(r StatusRange) bool { return r.First <= code && code <= r.Last })
}

// judge is the outcome of an answer with that status.
func (h *HTTPProbe) judge(status uint16, to netip.AddrPort) outcome {
	if h.accepts(status) {
		return outcome{result: passed}
	}
	return outcome{result: failed, why: h.failure(to, status)}
}

// errNotHTTP says that an answer does not begin as HTTP/1 does.
var errNotHTTP = errors.New("the answer is not HTTP")

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
		status, ok := statusOf(bytes.TrimSuffix(line, []byte("\r")))
		if !ok {
			return 0, errNotHTTP
		}
		if status >= 200 || status == 101 {
			return status, nil
		}
		for len(bytes.TrimSuffix(line, []byte("\r"))) > 0 { // its header fields, up to an empty line
			if line, rest, whole = bytes.Cut(rest, []byte("\n")); !whole {
				return 0, more
			}
		}
		b = rest
	}
}

// statusOf reads "HTTP/1.1 200 OK", of which the reason may be missing.
func statusOf(line []byte) (status uint16, ok bool) {
	const prefix = len("HTTP/1.1 ")
	if len(line) < prefix+3 || line[prefix-1] != ' ' || len(line) > prefix+3 && line[prefix+3] != ' ' {
		return 0, false
	}
	for _, digit := range line[prefix : prefix+3] {
		if digit < '0' || digit > '9' {
			return 0, false
		}
		status = 10*status + uint16(digit-'0')
	}
	return status, status >= 100
}

// sendRequest writes what is left of the request.
func (p *prober) sendRequest(t *target) {
	a := t.attempt
	n, err := unix.Write(a.fd, a.rest)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return
	case err != nil:
		p.refused(t, err)
		return
	}
	if a.rest = a.rest[n:]; len(a.rest) > 0 {
		return
	}
	a.ready = (*prober).readAnswer
	if err := p.poll.change(a.fd, unix.EPOLLIN); err != nil {
		p.refused(t, ownFault{err})
	}
}

// readAnswer reads some of the answer.
func (p *prober) readAnswer(t *target) {
	a := t.attempt
	var chunk [2048]byte
	n, err := unix.Read(a.fd, chunk[:min(len(chunk), maxAnswer-len(a.answer))])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return
	case err != nil:
		p.refused(t, err)
		return
	case n == 0:
		p.finish(t, t.fails(errClosed, false))
		return
	}
	a.answer = append(a.answer, chunk[:n]...)
	status, err := parseStatus(a.answer)
	switch {
	case err != nil:
		p.finish(t, t.fails(err, false))
	case status != 0:
		p.finish(t, t.vip.probes.HTTP.judge(status, t.to))
	}
}

// tlsExchanges are the TLS exchanges of the prober, each in its own goroutine.
type tlsExchanges struct {
	ended   chan tlsEnd // has room for each of them
	running int
	waiting []*target // connected, until an exchange may begin
}

// tlsEnd is how a TLS exchange has ended.
type tlsEnd struct {
	target  *target
	attempt *attempt // not the target's any more if the probe was dropped meanwhile
	outcome
}

// startTLS begins as many TLS exchanges as may run at a time.
func (p *prober) startTLS(ctx context.Context) {
	waiting := p.tls.waiting
	p.tls.waiting = nil
	for _, t := range waiting {
		switch {
		case t.attempt == nil || t.attempt.waits != waitsToBeginTLS: // its time was over
		case p.tls.running >= maxTLS || t.wasSilent && p.tls.running >= maxTLS/2:
			p.tls.waiting = append(p.tls.waiting, t)
		default:
			p.beginTLS(ctx, t)
		}
	}
}

// beginTLS begins one TLS exchange. The time that it had to wait does not count
// against the real server.
func (p *prober) beginTLS(ctx context.Context, t *target) {
	a, h, to, timeout := t.attempt, t.vip.probes.HTTP, t.to, t.vip.probes.Timeout
	deadline := p.now().Add(timeout)
	p.schedule.prolong(t, deadline.Add(publishGap)) // the exchange itself reports what was wrong
	file := os.NewFile(uintptr(a.fd), to.String())
	delete(p.attempts, a.fd)
	conn, err := net.FileConn(file)
	file.Close()
	a.fd, a.waits = -1, waitsForTLS
	if err != nil {
		p.refused(t, ownFault{err})
		return
	}
	p.tls.running++
	p.beside.Go(func() {
		end := tlsEnd{target: t, attempt: a}
		if status, err := exchangeTLS(ctx, conn, h, to, deadline); err != nil {
			end.outcome = tlsFailure(h, to, timeout, err)
		} else {
			end.outcome = h.judge(status, to)
		}
		p.tls.ended <- end
		p.poll.wake()
	})
}

// tlsFailure is the outcome of a TLS exchange that ended with err.
func tlsFailure(h *HTTPProbe, to netip.AddrPort, timeout time.Duration, err error) outcome {
	silent := errors.Is(err, os.ErrDeadlineExceeded)
	var errno unix.Errno
	switch {
	case silent:
		err = fmt.Errorf("no answer in %s", timeout)
	case errors.Is(err, io.EOF):
		err = errClosed
	case errors.As(err, &errno): // without the port, which differs each time
		err = errno
	}
	return outcome{failed, h.failure(to, err), silent}
}

// collectTLS takes the results of TLS exchanges.
func (p *prober) collectTLS() {
	for {
		select {
		case end := <-p.tls.ended:
			p.tls.running--
			if end.target.attempt == end.attempt {
				p.finish(end.target, end.outcome)
			}
		default:
			return
		}
	}
}

// abandon forgets all exchanges, which have ended.
func (x *tlsExchanges) abandon() {
	x.waiting, x.running = nil, 0
	for len(x.ended) > 0 {
		<-x.ended
	}
}

// exchangeTLS sends the request over a new connection, reads the status and closes
// it. It ends at the deadline or with ctx, whichever is sooner.
//
// The certificate is not verified: a node is asked at its own address, which
// certificates do not name. Whether clients trust it is not for this probe to say.
func exchangeTLS(ctx context.Context, conn net.Conn, h *HTTPProbe, to netip.AddrPort, deadline time.Time) (uint16, error) {
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return 0, err
	}
	ended := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer ended()
	name, _, err := net.SplitHostPort(h.Host)
	if err != nil {
		name = h.Host
	}
	secure := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if _, err := secure.Write(httpRequest(h, to)); err != nil {
		return 0, err
	}
	answer := make([]byte, 0, maxAnswer)
	for {
		n, err := secure.Read(answer[len(answer):cap(answer)])
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
