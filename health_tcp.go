// The probe kinds tcp and ports: connect and close.
//
// Used by health_http.go. The prober calls it through the table of the kinds. The
// kind http begins with the same connection. It sends no data. An error of the
// director itself never counts as a failure of a real server.

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

func (tcpKind) targets(v *ProbedVIP, s *ProbedServer) []question {
	return []question{{to: netip.AddrPortFrom(s.Address, v.Probes.TCP)}}
}

func (tcpKind) begin(p *prober, t *target) { p.connect(t, p.accepted) }

func (tcpKind) overdue(_ *prober, t *target) outcome { return t.timedOut() }

func (tcpKind) reason(t *target, err error) string {
	return fmt.Sprintf("connect to %s: %v", t.to, err)
}

func (portsKind) targets(_ *ProbedVIP, s *ProbedServer) []question {
	all := make([]question, len(s.Ports))
	for i, n := range s.Ports {
		all[i] = question{to: netip.AddrPortFrom(s.Address, n), port: n}
	}
	return all
}

// reason has no address: portReason names the port.
func (portsKind) reason(_ *target, err error) string { return err.Error() }

// accepted ends a probe that only connects.
func (p *prober) accepted(t *target) { p.finish(t, outcome{result: passed}) }

// connect opens a connection without waiting for it, and calls then when it is
// there. It will be closed with a RST: a director that begins ten thousand probes
// a second must not keep as many ports in TIME_WAIT.
func (p *prober) connect(t *target, then func(*target)) {
	t.attempt.then = then
	if err := p.dial(t); err != nil {
		p.refused(t, err)
	}
}

// connected continues a probe whose connection is there, or has failed.
func (p *prober) connected(t *target) {
	errno, err := unix.GetsockoptInt(t.attempt.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		p.refused(t, ownFault{err})
	case errno != 0:
		p.refused(t, unix.Errno(errno))
	default:
		t.attempt.then(t)
	}
}

// dial begins a connection.
func (p *prober) dial(t *target) error {
	fd, err := unix.Socket(familyNumber(t.to.Addr().Is6()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ownFault{err}
	}
	t.attempt.fd = fd
	p.attempts[fd] = t
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return ownFault{err}
	}
	if err := unix.Connect(fd, socketAddress(t.to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	if err := p.poll.add(fd, unix.EPOLLOUT); err != nil {
		return ownFault{err}
	}
	return nil
}

// ownFault is an error of the director itself: it says nothing about the real
// server.
type ownFault struct{ error }

func (f ownFault) Unwrap() error { return f.error }

// ownErrnos are what connect returns when the director has no route, no memory
// or no permission, which its own firewall may have taken.
var ownErrnos = []unix.Errno{
	unix.EACCES, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EAGAIN, unix.EINVAL, unix.EMFILE, unix.ENETDOWN,
	unix.ENETUNREACH, unix.ENFILE, unix.ENOBUFS, unix.ENODEV, unix.ENOMEM, unix.EPERM,
}

// refused ends a probe whose socket failed with err.
func (p *prober) refused(t *target, err error) {
	_, own := errors.AsType[ownFault](err)
	errno, ok := errors.AsType[unix.Errno](err)
	if own || slices.Contains(ownErrnos, errno) {
		p.finish(t, outcome{result: noResult, why: err.Error()})
		return
	}
	if ok { // without the port, which differs each time
		err = errno
	}
	// No answer to ARP, and none to a repeated SYN: there may be no host.
	silent := errno == unix.EHOSTUNREACH || errno == unix.EHOSTDOWN || errno == unix.ETIMEDOUT
	p.finish(t, t.fails(err, silent))
}
