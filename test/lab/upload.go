// Uploads that last: what a client sends slowly, for as long as the test wants,
// over one connection, and what it is told in the end. A drain must not cut one.

package lab

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	// uploadPause lies between two pieces of a body, uploadPiece bytes each.
	uploadPause = 100 * time.Millisecond
	uploadPiece = 500
)

// Upload is a POST whose body has not ended yet.
type Upload struct {
	// Node is who answered a GET on the same connection, before the POST.
	Node string

	conn   net.Conn
	answer *bufio.Reader
	finish chan struct{}
	ended  chan struct{} // closed when nothing more is sent
	sent   int
	err    error     // why sending ended, if not by Finish
	cut    time.Time // and when
}

// OpenUpload asks addr who answers and begins to send a body to path on the
// same connection.
func (h *Host) OpenUpload(addr netip.AddrPort, path string) (*Upload, error) {
	u := &Upload{finish: make(chan struct{}), ended: make(chan struct{})}
	var err error
	h.Do(func() { u.conn, err = net.DialTimeout("tcp", addr.String(), RequestLimit) })
	if err != nil {
		return nil, err
	}
	u.answer = bufio.NewReader(u.conn)
	if u.Node, err = u.exchange("GET / HTTP/1.1\r\nHost: edge\r\n\r\n"); err == nil {
		_, err = fmt.Fprintf(u.conn, "POST %s HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n", path)
	}
	if err != nil {
		u.conn.Close()
		return nil, err
	}
	go u.send()
	return u, nil
}

// send is the body, piece by piece.
func (u *Upload) send() {
	defer close(u.ended)
	piece := fmt.Sprintf("%x\r\n%s\r\n", uploadPiece, strings.Repeat("x", uploadPiece))
	for {
		if _, err := io.WriteString(u.conn, piece); err != nil {
			u.err, u.cut = err, time.Now()
			return
		}
		u.sent += uploadPiece
		select {
		case <-u.finish:
			return
		case <-time.After(uploadPause):
		}
	}
}

// exchange writes text and returns the body of the answer.
func (u *Upload) exchange(text string) (string, error) {
	if err := u.conn.SetDeadline(soon()); err != nil {
		return "", err
	}
	if _, err := io.WriteString(u.conn, text); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(u.answer, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: %s", errWrongAnswer, resp.Status)
	}
	return strings.TrimSpace(string(body)), u.conn.SetDeadline(time.Time{})
}

// Cut waits up to limit for somebody to cut the connection, and tells when that
// was; zero when none did.
func (u *Upload) Cut(limit time.Duration) (time.Time, error) {
	select {
	case <-u.ended:
		return u.cut, u.err
	case <-time.After(limit):
		return time.Time{}, nil
	}
}

// Finish ends the body, and the connection. It fails unless the answer says,
// as Serve does, that the whole body has arrived at Node.
func (u *Upload) Finish() error {
	defer u.conn.Close()
	close(u.finish)
	<-u.ended
	if u.err != nil {
		return fmt.Errorf("upload to %s, after %d bytes: %w", u.Node, u.sent, u.err)
	}
	answer, err := u.exchange("0\r\n\r\n")
	if err != nil {
		return fmt.Errorf("upload to %s, after %d bytes: %w", u.Node, u.sent, err)
	}
	if want := fmt.Sprintf("%s-%d", u.Node, u.sent); answer != want {
		return fmt.Errorf("upload to %s: %w %q, want %q", u.Node, errWrongAnswer, answer, want)
	}
	return nil
}

// Close gives the upload up.
func (u *Upload) Close() {
	u.conn.Close()
	<-u.ended
}
