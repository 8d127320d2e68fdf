// As much of HTTP as a probe needs: one request, and the status of its answer.
//
// Used by health_probe.go. The prober writes what httpRequest returns and reads
// until parseStatus has a result; exchangeTLS does both over TLS. Only the
// status lines of an answer are read, never a body, and only the status code is
// kept.

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// maxAnswer is how much of an answer is read in search of its status:
// informational answers with their headers may come before.
const maxAnswer = 8 << 10

// httpRequest is the request of probe h to the real server at to. Host and
// path have been validated: they hold no line break.
func httpRequest(h *HTTPProbe, to netip.AddrPort) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: lvs-controller/%s\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		h.Path, cmp.Or(h.Host, to.String()), version)
}

// url is what h asks for, for a person.
func (h *HTTPProbe) url(to netip.AddrPort) string {
	if h.TLS {
		return "https://" + to.String() + h.Path
	}
	return "http://" + to.String() + h.Path
}

// judge is the outcome of an answer with that status.
func (h *HTTPProbe) judge(status uint16, to netip.AddrPort) outcome {
	if h.accepts(status) {
		return outcome{result: passed}
	}
	return outcome{result: failed, why: fmt.Sprintf("GET %s: %d", h.url(to), status)}
}

// errNotHTTP says that an answer does not begin as HTTP/1 does.
var errNotHTTP = errors.New("the answer is not HTTP")

// parseStatus reads the status code of the answer that b begins (RFC 9112
// section 4). 0 means that more has to be read; of maxAnswer bytes it is not
// said. Informational answers before it are passed over; 101 is final, as
// nobody has asked for it.
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

// exchangeTLS asks over a connection that has just been made, and closes it.
// It ends at the deadline or with ctx, whichever is sooner.
//
// The certificate is not verified: nodes are asked by their own addresses,
// which certificates do not name, and whether clients trust it is for others
// to watch.
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
