// Reads the real servers of many services from the kernel while those read before are
// decoded.
//
// Used by genl_dump.go. The kernel makes the rows inside the system calls, so one thread
// waits for the kernel and another one decodes. It only reads, and decodes no row.

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// aheadBytes is the size of one of the two buffers. What is decoded at a time is between
// a half and all of it.
const aheadBytes = 2 * receiveBytes

// serverAnswers are the kernel's answers about the real servers of a list of services, in
// the order of the list. Nothing else may use the connection until close has returned.
type serverAnswers struct {
	seq     uint32 // of the request for the next service
	full    chan readBytes
	free    chan []byte
	stopped atomic.Bool

	now, rest []byte // the buffer that is decoded, and what is left of it
	reply     kernelReply
}

// readBytes are some answers, or why there are no more.
type readBytes struct {
	buf []byte
	err error
}

// readServers begins to read the real servers of services.
func (c *ipvsConn) readServers(services []VirtualService) *serverAnswers {
	a := &serverAnswers{seq: c.seq + 1, full: make(chan readBytes, 1), free: make(chan []byte, len(c.ahead))}
	c.seq += uint32(len(services))
	for i := range c.ahead {
		if c.ahead[i] == nil {
			c.ahead[i] = make([]byte, 0, aheadBytes)
		}
		a.free <- c.ahead[i]
	}
	go c.fill(a, services, a.seq)
	return a
}

// fill reads the answers about services, of which the first has the number seq.
func (c *ipvsConn) fill(a *serverAnswers, services []VirtualService, seq uint32) {
	defer close(a.full)
	b := (<-a.free)[:0]
	for i := range services {
		if a.stopped.Load() {
			break
		}
		c.enc.buf = c.enc.buf[:0]
		c.enc.dumpServers(services[i].ServiceKey, seq+uint32(i))
		err := c.socket.writeNow(c.enc.buf)
		for ends := false; err == nil && !ends; {
			if cap(b)-len(b) < receiveBytes {
				a.full <- readBytes{buf: b}
				b = (<-a.free)[:0]
			}
			var n int
			if n, err = c.receiveNow(b[len(b):cap(b)]); err != nil {
				break
			}
			// Here, where the end of a read is known: the next one begins at a whole word.
			if ends, err = endsAnswer(b[len(b):len(b)+n], seq+uint32(i)); err != nil {
				err = fmt.Errorf("read the kernel's answer: %w", err)
				break
			}
			b = b[:len(b)+(n+3)&^3]
		}
		if err != nil {
			a.full <- readBytes{b, err}
			return
		}
	}
	a.full <- readBytes{buf: b}
}

// receiveNow is receive without a word to the Go scheduler, where the kernel has an
// answer: the decoder is ready to run all the time. Any errno but that of waiting counts:
// with ENOBUFS a part of the answer is lost, and the rest looks like the whole.
func (c *ipvsConn) receiveNow(b []byte) (int, error) {
	n, err := c.socket.readNow(b)
	if err == unix.EAGAIN || err == unix.EINTR {
		return c.receive(b)
	}
	return c.received(n, err)
}

// endsAnswer reports whether b, which is what one system call returned, has the end of
// the answer seq. The error is errTruncated for bytes that are no whole messages.
func endsAnswer(b []byte, seq uint32) (ends bool, err error) {
	for len(b) > 0 {
		if len(b) < unix.NLMSG_HDRLEN {
			return ends, errTruncated
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			return ends, errTruncated
		}
		typ := binary.NativeEndian.Uint16(b[4:])
		if (typ == unix.NLMSG_DONE || typ == unix.NLMSG_ERROR) && binary.NativeEndian.Uint32(b[8:]) == seq {
			ends = true
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return ends, nil
}

// each passes the bodies of the answer about the next service to take. The first error,
// the kernel's or take's own, is returned. After one, only close may follow.
func (a *serverAnswers) each(take func(body []byte) error) error {
	seq, r := a.seq, &a.reply
	a.seq++
	for {
		for len(a.rest) > 0 {
			var err error
			if a.rest, err = r.next(a.rest); err != nil {
				return fmt.Errorf("read the kernel's answer: %w", err)
			}
			switch {
			case r.seq != seq: // the answer to an abandoned request
			case r.errno != 0:
				return kernelError(r)
			case r.interrupted:
				return errInterrupted
			case r.control():
				return nil
			default:
				if err := take(r.body); err != nil {
					return err
				}
			}
		}
		if err := a.more(); err != nil {
			return err
		}
	}
}

// more takes the next buffer.
func (a *serverAnswers) more() error {
	a.release()
	next, ok := <-a.full
	if !ok {
		return errors.New("the kernel's answer ends too early")
	}
	a.now, a.rest = next.buf, next.buf
	return next.err
}

// release gives the buffer that is decoded back.
func (a *serverAnswers) release() {
	if a.now != nil {
		a.free <- a.now
		a.now, a.rest = nil, nil
	}
}

// close ends the reading, between two services.
func (a *serverAnswers) close() {
	a.stopped.Store(true)
	a.release()
	for next := range a.full {
		a.free <- next.buf
	}
}
