// The body of an answer over HTTP: whether it has the sum or the text that is wanted.
//
// Used by health_http.go. An exchange calls it in its goroutine, for a probe that wants
// something of the body. The body is read once, in pieces: nothing of it is kept, and
// nothing of it gets into a message. What is read has a bound.

package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
)

const (
	// maxAnswer is how much of an answer is read in search of its status, in bytes:
	// informational answers with their headers may come before.
	maxAnswer = 8 << 10
	// maxBody is the size of the longest body that is read, in bytes.
	maxBody = 256 << 10
)

var (
	errBodySum   = errors.New("the SHA-256 sum of the body is another one")
	errBodyMatch = errors.New("the body does not match body_match")
	errBodyLong  = fmt.Errorf("the body is longer than %d bytes", maxBody)
)

// errNotHTTP says that an answer does not begin as HTTP/1 does.
var errNotHTTP = errors.New("the answer is not HTTP")

// accepts reports whether a server that answers with code is well.
func (h *HTTPProbe) accepts(code uint16) bool {
	return slices.ContainsFunc(h.Status, func(r StatusRange) bool { return r.First <= code && code <= r.Last })
}

// askBody reads the answer to a request that has been sent over conn. It returns its
// status; or, where h accepts the status, an error when the body is not the wanted one.
func askBody(conn net.Conn, h *HTTPProbe) (uint16, error) {
	// Header fields first. A body may come in chunks, whose sizes take room too.
	limited := &io.LimitedReader{R: conn, N: maxAnswer}
	r := bufio.NewReader(limited)
	for {
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			return 0, answerError(err, limited.N <= 0)
		}
		if status := answer.StatusCode; status >= 200 || status == http.StatusSwitchingProtocols {
			limited.N += 2 * maxBody
			if !h.accepts(uint16(status)) {
				return uint16(status), nil
			}
			return uint16(status), h.Body.check(answer.Body)
		}
	}
}

// answerError is err, with which the reading of an answer failed, without the text of
// the other side. long means that the room for its beginning is used up.
func answerError(err error, long bool) error {
	_, ofConnection := errors.AsType[net.Error](err)
	switch {
	case ofConnection:
		return err
	case !long && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		return io.EOF
	}
	return errNotHTTP
}

// check reads a body and says what is wrong with it; nil when it is as wanted.
func (b *HTTPBody) check(body io.Reader) error {
	limited := &io.LimitedReader{R: body, N: maxBody + 1}
	failing := &failingReader{r: limited}
	sum := sha256.New()
	r := bufio.NewReader(io.TeeReader(failing, sum))
	found := b.Match == nil || b.Match.MatchReader(r)
	if found && b.SHA256 == "" {
		return nil
	}
	_, _ = io.Copy(io.Discard, r) // failing has the error, also one that ended the search
	switch {
	case failing.err != nil:
		return answerError(failing.err, false)
	case limited.N <= 0:
		return errBodyLong
	case !found:
		return errBodyMatch
	case string(sum.Sum(nil)) != b.SHA256 && b.SHA256 != "":
		return errBodySum
	}
	return nil
}

// failingReader remembers the error of a reader: a search takes any for the end.
type failingReader struct {
	r   io.Reader
	err error // not io.EOF
}

// Read implements io.Reader.
func (f *failingReader) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && err != io.EOF && f.err == nil {
		f.err = err
	}
	return n, err
}
