// Waits for many sockets at once, with epoll.
//
// Used by health*.go. The prober has one poller: level-triggered, used by one
// goroutine, without memory for each socket. Other goroutines may call wake,
// and nothing else.

package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// poller is an epoll instance that another goroutine can wake.
type poller struct {
	epoll, event int
	events       [128]unix.EpollEvent
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	p := &poller{epoll: epoll, event: event}
	if err := p.add(event, unix.EPOLLIN); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) close() {
	unix.Close(p.event)
	unix.Close(p.epoll)
}

// add makes wait report events of fd until it is removed or closed.
func (p *poller) add(fd int, events uint32) error {
	return wrap("epoll", unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

// remove ends the events of fd, which is open.
func (p *poller) remove(fd int) { _ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, fd, nil) }

// wake ends the current or the next wait. It is safe for concurrent use.
func (p *poller) wake() {
	_, _ = unix.Write(p.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails when it is full: then wait ends anyway
}

// wait waits for events and calls ready for each. It waits at most longest, or
// without limit if longest is negative.
func (p *poller) wait(longest time.Duration, ready func(fd int)) error {
	const most = time.Minute
	timeout := -1
	if longest >= 0 { // in whole milliseconds, and never early: that would be a busy loop
		timeout = int((min(longest, most) + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.EpollWait(p.epoll, p.events[:], timeout)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	for _, e := range p.events[:n] {
		if int(e.Fd) == p.event {
			var counter [8]byte
			_, _ = unix.Read(p.event, counter[:]) // fails when it is empty already
			continue
		}
		ready(int(e.Fd))
	}
	return nil
}
