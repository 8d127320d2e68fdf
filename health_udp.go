// The probe kind udp: a datagram to one port, and what comes back.
//
// Used by health_dns.go. The prober calls it through the table of the kinds; the kind
// dns exchanges its datagrams the same way. The socket is connected, so the kernel
// passes on only what comes from the real server's port, and the ICMP errors about what
// was sent. All of it runs in the prober's goroutine.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

func (udpKind) targets(v *ProbedVIP, s *ProbedServer) []question {
	return []question{{to: netip.AddrPortFrom(s.Address, v.Probes.UDP.Port)}}
}

func (udpKind) begin(p *prober, t *target) {
	u := t.vip.probes.UDP
	p.exchangeDatagrams(t, []byte(u.Send), func(answer []byte) (outcome, bool) {
		if err := u.judge(answer); err != nil {
			return t.fails(err, false), true
		}
		return outcome{result: passed}, true
	})
}

// judge says what is wrong with an answer; nil when it begins as wanted.
func (u *UDPProbe) judge(answer []byte) error {
	if bytes.HasPrefix(answer, []byte(u.Answer)) {
		return nil
	}
	return fmt.Errorf("the answer begins with %s, not with %s", shownBytes(answer, len(u.Answer)), shownBytes([]byte(u.Answer), len(u.Answer)))
}

// overdue passes a real server that was silent where no answer is required: it has the
// port, or something between drops the datagram.
func (udpKind) overdue(_ *prober, t *target) outcome {
	if t.vip.probes.UDP.AnswerRequired {
		return t.timedOut()
	}
	return outcome{result: passed, silent: true}
}

func (udpKind) reason(t *target, err error) string {
	return fmt.Sprintf("datagram to %s: %v", t.to, portUnreachable(err))
}

// errUnreachable is what ECONNREFUSED means for a datagram (icmp_err_convert).
var errUnreachable = errors.New("ICMP port unreachable")

// portUnreachable is err in the words of UDP.
func portUnreachable(err error) error {
	if errors.Is(err, unix.ECONNREFUSED) {
		return errUnreachable
	}
	return err
}

// shownBytes is the beginning of b, n bytes at most, for a message.
func shownBytes(b []byte, n int) string {
	const most = 32
	return fmt.Sprintf("%q", b[:min(len(b), n, most)])
}

// maxStray is how many answers are read each time that the socket has some: then other
// probes have their time.
const maxStray = 16

// exchangeDatagrams sends one datagram and passes what comes back to judge, until judge
// reports that it is the answer.
func (p *prober) exchangeDatagrams(t *target, send []byte, judge func(answer []byte) (outcome, bool)) {
	t.attempt.waits = waitsForAnswer
	t.attempt.then = func(t *target) { p.receive(t, judge) }
	if err := p.sendDatagram(t, send); err != nil {
		p.refused(t, err)
	}
}

// sendDatagram sends b from a new socket.
func (p *prober) sendDatagram(t *target, b []byte) error {
	fd, err := unix.Socket(familyNumber(t.to.Addr().Is6()), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ownFault{err}
	}
	t.attempt.fd = fd
	p.attempts[fd] = t
	if err := unix.Connect(fd, socketAddress(t.to)); err != nil {
		return err
	}
	if err := p.poll.add(fd, unix.EPOLLIN); err != nil {
		return ownFault{err}
	}
	return unix.Send(fd, b, 0) // also without a byte: write(2) would send nothing
}

// receive reads what has come back. An ICMP error has been taken by connected, or comes
// with the reading.
func (p *prober) receive(t *target, judge func(answer []byte) (outcome, bool)) {
	var b [maxDatagram]byte
	for range maxStray {
		n, _, err := unix.Recvfrom(t.attempt.fd, b[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			return
		case err != nil:
			p.refused(t, err)
			return
		}
		if o, final := judge(b[:n]); final {
			p.finish(t, o)
			return
		}
	}
}
