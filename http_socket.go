// The control socket: the same answers as the TCP listener's, for root and the
// controller's own user, also while listen is off.
//
// Used by cmd*.go and main.go. The socket is a file in the state directory that only
// its owner may open. What changes something asks the kernel for the peer's user
// too, because an operator may have opened the file to a group. It takes the place
// of a socket that no process answers on, and of nothing else.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// controlSocket is the name of the socket in the state directory.
const controlSocket = "control.sock"

// socketPath is the control socket of a controller with that state directory.
func socketPath(stateDir string) string { return filepath.Join(stateDir, controlSocket) }

// RunSocket answers requests on the control socket until ctx ends, and then removes it.
func (s *httpServer) RunSocket(ctx context.Context) error {
	var failing failureLog
	for ctx.Err() == nil {
		ln, err := listenControl(s.socket)
		if begins, _ := failing.note(err); begins {
			s.log.Error("cannot open the control socket: status and ready ask the address in listen", "err", err)
		}
		if err != nil {
			sleepContext(ctx, listenRetry)
			continue
		}
		s.serveSocket(ctx, ln)
	}
	return nil
}

// serveSocket answers requests on ln until ctx or the listener ends.
func (s *httpServer) serveSocket(ctx context.Context, ln *socketListener) {
	defer ln.remove()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := s.answerOn(netutil.LimitListener(ln, maxConnections), s.handler(onSocket), cancel)
	<-serving.Done()
	if err := ended(); !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("the control socket ended and is opened again", "err", err)
	}
}

// socketListener accepts connections whose RemoteAddr is the peer's user and process.
type socketListener struct {
	*net.UnixListener
	path string
	info os.FileInfo // of the socket at path
}

// listenControl makes the socket at path. It is made beside it and moved, so that a
// client finds a socket that answers, or none.
func listenControl(path string) (*socketListener, error) {
	if err := makeDirectory(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := vacant(path); err != nil {
		return nil, err
	}
	beside := path + ".new"
	if err := removeSocket(beside); err != nil { // of a controller that was killed
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		// Before it has a name, so that the mode is right from the first moment.
		controlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(controlErr, err)
	}}
	ln, err := config.Listen(context.Background(), "unix", beside)
	if err != nil {
		return nil, err
	}
	l := &socketListener{UnixListener: ln.(*net.UnixListener), path: path}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(beside, 0o600); err == nil { // a umask may have taken more away
		err = os.Rename(beside, path)
	}
	if err == nil {
		l.info, err = os.Lstat(path)
	}
	if err != nil {
		l.Close()
		_ = os.Remove(beside)
		return nil, err
	}
	return l, nil
}

// vacant is an error when a process answers on the socket at path, or when path is
// something else than a socket.
func vacant(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket but %s; remove it", path, fileType(info.Mode()))
	}
	owner, err := peerOf(path)
	switch {
	case err == nil:
		return fmt.Errorf("process %d of user %d answers on %s", owner.Pid, owner.Uid, path)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("%s may be in use: %w", path, err)
}

// removeSocket removes the socket at path, if there is one. Another file stays.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		err = fmt.Errorf("%s is not a socket but %s; remove it", path, fileType(info.Mode()))
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// remove closes the listener and removes its file, unless another one has its place.
func (l *socketListener) remove() {
	l.Close()
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.info) {
		_ = os.Remove(l.path) // the next controller replaces one that stays
	}
}

// Accept implements net.Listener. A peer that cannot be asked for is no owner.
func (l *socketListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	peer, err := peerCredentials(conn)
	if err != nil {
		peer = nil
	}
	return peerConn{conn, peerAddr{peer}}, nil
}
