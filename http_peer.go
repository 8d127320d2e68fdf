// The process at the other end of the control socket, and what it may do.
//
// Used by http*.go. The kernel has said who the peer is when it connected. What changes
// the state of a controller is for root and the controller's own user alone.

package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"
)

// clientKey is the key of a request's connection in its context.
type clientKey struct{}

// peerConn is a connection from a known process.
type peerConn struct {
	*net.UnixConn
	peer peerAddr
}

// RemoteAddr implements net.Conn.
func (c peerConn) RemoteAddr() net.Addr { return c.peer }

// peerAddr is the process at the other end.
type peerAddr struct{ *unix.Ucred }

// Network implements net.Addr.
func (peerAddr) Network() string { return "unix" }

func (a peerAddr) String() string {
	if a.Ucred == nil {
		return "unknown"
	}
	return fmt.Sprintf("user %d, process %d", a.Uid, a.Pid)
}

// mayChange reports whether that process may change the state of a controller of user
// euid.
func (a peerAddr) mayChange(euid int) bool {
	return a.Ucred != nil && (a.Uid == 0 || int64(a.Uid) == int64(euid))
}

// byOwner lets requests through to next that root or the controller's user sends over
// the control socket.
func byOwner(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(clientKey{}).(net.Conn)
		if conn != nil {
			if peer, ok := conn.RemoteAddr().(peerAddr); ok && peer.mayChange(os.Geteuid()) {
				next(w, r)
				return
			}
		}
		http.Error(w, "only root and the controller's own user may change its state, over the control socket", http.StatusForbidden)
	}
}
