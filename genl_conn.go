// The connection to the kernel's IPVS: one generic netlink socket, many messages
// for each system call.
//
// Used by reconcile*.go, http.go, cmd*.go and main.go. The reconcile loop
// writes through it, by the interface director in reconcile.go; status and the
// metrics open their own sockets. It sends only what genl_ipvs.go encodes.

package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// batchMessages bounds one sendmsg. More does not make a message cheaper,
	// and the errors of a whole batch must fit into the receive buffer.
	batchMessages = 1024

	// opening is how many messages the first of several batches has, so that the
	// kernel begins early and the next batch is encoded meanwhile.
	opening = 64

	// batchBytes ends a batch early.
	batchBytes = 192 << 10

	// messageMost is more than the largest request has.
	messageMost = 256

	// errorFootprint is what one refusal takes of a receive buffer: struct
	// nlmsgerr with an extended acknowledgement and the overhead of its skb,
	// rounded up.
	errorFootprint = 2 << 10

	// socketBuffer is the size of both buffers, set with the FORCE options: a whole
	// batch fits, and 1024 error messages as the kernel counts them (skb overhead
	// included).
	socketBuffer = 4 << 20

	// receiveBytes is twice what the kernel puts into one dump message
	// (netlink_dump caps at 32 KiB).
	receiveBytes = 64 << 10

	// exchangeTimeout bounds the wait for an answer. The kernel does the work inside
	// sendmsg, however long that takes, so an answer is ready when it returns. This
	// only ends the wait for an answer that was lost.
	exchangeTimeout = 10 * time.Second
)

// errNoIPVS means the kernel has no IPVS, or has not loaded it.
var errNoIPVS = errors.New("the kernel has no IPVS (module ip_vs is not loaded and could not be)")

// ipvsConn is a socket to the IPVS of the network namespace it was dialled in.
// It is not safe for concurrent use.
type ipvsConn struct {
	genl *genetlink.Conn
	raw  syscall.RawConn
	enc  encoder
	// spare takes the next batch while the kernel works on that in enc.
	spare encoder
	seq   uint32

	// One system call each, made once so that a call allocates nothing: write
	// sends what is in enc, read fills recv, tryRead does without waiting.
	write, read, tryRead func(fd uintptr) bool
	recv                 []byte
	received             int   // bytes in recv
	sysErr               error // of the last call

	batch batchLimits

	// Buffers of Table.
	dumped []VirtualService
	found  []Row // of one service
	order  []int // where the rows of the last known service are in its table
}

// dialIPVS opens a socket in the calling thread's network namespace. The error
// is errNoIPVS when there is no such family.
func dialIPVS() (*ipvsConn, error) {
	genl, err := genetlink.Dial(&netlink.Config{Strict: false})
	if err != nil {
		return nil, fmt.Errorf("open a generic netlink socket: %w", err)
	}
	family, err := genl.GetFamily(ipvsFamilyName)
	if err != nil {
		genl.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, errNoIPVS
		}
		return nil, fmt.Errorf("look up the IPVS netlink family: %w", err)
	}
	raw, err := genl.SyscallConn()
	if err != nil {
		genl.Close()
		return nil, fmt.Errorf("reach the netlink socket: %w", err)
	}
	// Neither option exists before Linux 4.3 and 4.12; without them errors are
	// longer and say less.
	_ = genl.SetOption(netlink.CapAcknowledge, true)
	_ = genl.SetOption(netlink.ExtendedAcknowledge, true)
	batch, err := sizeBuffers(raw)
	if err != nil {
		genl.Close()
		return nil, fmt.Errorf("size the netlink socket's buffers: %w", err)
	}
	c := &ipvsConn{
		genl:  genl,
		raw:   raw,
		enc:   encoder{family: family.ID},
		spare: encoder{family: family.ID},
		recv:  make([]byte, receiveBytes),
		batch: batch,
	}
	c.write = func(fd uintptr) bool {
		_, c.sysErr = unix.Write(int(fd), c.enc.buf)
		return c.sysErr != unix.EAGAIN && c.sysErr != unix.EINTR
	}
	c.read = func(fd uintptr) bool {
		for {
			if c.received, c.sysErr = unix.Read(int(fd), c.recv); c.sysErr != unix.EINTR {
				break
			}
		}
		return c.sysErr != unix.EAGAIN
	}
	c.tryRead = func(fd uintptr) bool {
		c.read(fd)
		return true
	}
	return c, nil
}

// batchLimits are how much goes into one system call.
type batchLimits struct {
	messages int // requests
	bytes    int // a batch ends with the message that reaches it
}

// sizeBuffers asks for socketBuffer beyond the sysctl limits, which
// CAP_NET_ADMIN allows, and within them where it does not, and returns what
// batches the buffers that it got can carry.
func sizeBuffers(raw syscall.RawConn) (batchLimits, error) {
	var (
		got [2]int
		err error
	)
	cerr := raw.Control(func(fd uintptr) {
		for i, o := range [...]struct{ force, ask, read int }{
			{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, unix.SO_SNDBUF},
			{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, unix.SO_RCVBUF},
		} {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o.force, socketBuffer) != nil {
				if e := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o.ask, socketBuffer); e != nil {
					err = errors.Join(err, e)
				}
			}
			var e error
			got[i], e = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, o.read)
			err = errors.Join(err, e)
		}
	})
	return limitsFor(got[0], got[1]), errors.Join(cerr, err)
}

// limitsFor returns the batches that fit into a send and a receive buffer of so
// many bytes, as the kernel counts them (twice what was asked for).
func limitsFor(send, receive int) batchLimits {
	return batchLimits{
		messages: max(1, min(batchMessages, receive/errorFootprint)),
		bytes:    max(1, min(batchBytes, send/2-messageMost)),
	}
}

// Close closes the socket.
func (c *ipvsConn) Close() error { return c.genl.Close() }

// request empties the encoder for one request and returns the sequence number
// for it, which no open exchange uses.
func (c *ipvsConn) request() uint32 {
	c.enc.buf = c.enc.buf[:0]
	c.seq++
	return c.seq
}

// send writes the encoder's buffer with one system call. An unconnected
// netlink socket's write goes to the kernel.
func (c *ipvsConn) send() error {
	err := c.raw.Write(c.write)
	if err == nil {
		err = c.sysErr
	}
	if err != nil {
		return fmt.Errorf("send to the kernel: %w", err)
	}
	return nil
}

// receive returns what one system call brings, valid until the next.
func (c *ipvsConn) receive() ([]byte, error) {
	err := c.raw.Read(c.tryRead)
	if err == nil && c.sysErr == unix.EAGAIN {
		// This is rare: the kernel answers inside the write. A deadline for every read
		// would cost more than the read.
		err = c.genl.SetReadDeadline(time.Now().Add(exchangeTimeout))
		if err == nil {
			err = errors.Join(c.raw.Read(c.read), c.genl.SetReadDeadline(time.Time{}))
		}
	}
	if err == nil {
		err = c.sysErr
	}
	if err != nil {
		return nil, fmt.Errorf("receive from the kernel: %w", err)
	}
	return c.recv[:c.received], nil
}

// replies walks the answers to the requests that an exchange has sent:
//
//	for a.next() { … a.kernelReply … }
//	return a.err
type replies struct {
	kernelReply
	conn        *ipvsConn
	first, last uint32 // sequence numbers of the requests
	rest        []byte
	done        bool
	err         error // the exchange failed
}

// exchange sends the encoder's buffer, which has the requests with the sequence
// numbers first to last. All replies must be walked before the next exchange.
func (c *ipvsConn) exchange(first, last uint32) replies {
	return replies{conn: c, first: first, last: last, err: c.send()}
}

// next goes to the next answer, until last has been acknowledged or its dump is
// done. Answers to older, abandoned exchanges are passed over.
func (a *replies) next() bool {
	for a.err == nil && !a.done {
		if len(a.rest) == 0 {
			a.rest, a.err = a.conn.receive()
			continue
		}
		if a.rest, a.err = a.kernelReply.next(a.rest); a.err != nil {
			a.err = fmt.Errorf("read the kernel's answer: %w", a.err)
			return false
		}
		if a.seq-a.first > a.last-a.first {
			continue
		}
		a.done = a.seq == a.last && (a.typ == unix.NLMSG_ERROR || a.typ == unix.NLMSG_DONE)
		return true
	}
	return false
}

// answer reports whether the current reply is a message of the family, and not
// an acknowledgement, a refusal or the end of a dump.
func (a *replies) answer() bool {
	return a.errno == 0 && a.typ != unix.NLMSG_ERROR && a.typ != unix.NLMSG_DONE
}

// ask sends the one request in the encoder, which carries sequence number seq,
// and passes the bodies of its answer to each, unless that is nil. The first error, the kernel's
// or each's own, is returned once the answer has been read to its end, so that
// the socket stays usable.
func (c *ipvsConn) ask(seq uint32, each func(body []byte) error) error {
	var first error
	a := c.exchange(seq, seq)
	for a.next() {
		switch {
		case first != nil:
		case a.errno != 0:
			first = kernelError(a.kernelReply)
		case a.answer() && each != nil:
			first = each(a.body)
		}
	}
	return errors.Join(a.err, first)
}

// kernelError keeps the errno (errors.Is works) and the kernel's own text.
func kernelError(r kernelReply) error {
	if r.extack == "" {
		return r.errno
	}
	return fmt.Errorf("%w: %s", r.errno, r.extack)
}

// opError is an operation that the kernel refused.
type opError struct {
	Op  op
	Err error // wraps the errno
}

func (e *opError) Error() string {
	msg := fmt.Sprintf("%s: %v", e.Op.Subject(), e.Err)
	if hint := e.hint(); hint != "" {
		msg += " (" + hint + ")"
	}
	return msg
}

func (e *opError) Unwrap() error { return e.Err }

// hint says what an errno means for this operation where its usual text misleads.
func (e *opError) hint() string {
	switch {
	case e.Op.Kind <= setService && errors.Is(e.Err, unix.ENOENT):
		if e.Op.Service.Engine != "" {
			return fmt.Sprintf("the kernel lacks scheduler %q (module ip_vs_%[1]s) or persistence engine %[2]q (module ip_vs_pe_%[2]s)", e.Op.Service.Scheduler, e.Op.Service.Engine)
		}
		return missingScheduler(e.Op.Service.Scheduler)
	case e.Op.Kind == newServer && errors.Is(e.Err, unix.EINVAL):
		return fmt.Sprintf("the kernel has no unicast route to %s at the moment; this is tried again", e.Op.Server.Address)
	case errors.Is(e.Err, unix.EPERM):
		return "CAP_NET_ADMIN is needed"
	}
	return ""
}

// surprising reports whether the refusal means that the kernel's table is not as
// it was known.
func (e *opError) surprising() bool {
	return errors.Is(e.Err, unix.EEXIST) || errors.Is(e.Err, unix.ESRCH) || e.Op.Kind >= newServer && errors.Is(e.Err, unix.ENOENT)
}

// Apply carries out ops in order, as many in one system call as the limits
// allow, and returns those that the kernel refused; the others have been done.
// An error means that the exchange failed: what was done is unknown then. While
// the kernel works on one batch the next is encoded.
func (c *ipvsConn) Apply(ops []op) ([]*opError, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	var failed []*opError
	first := c.batch
	if len(ops) > 2*opening {
		first.messages = min(opening, first.messages)
	}
	n := first.encode(&c.enc, ops, c.seq+1)
	for {
		first, last := c.seq+1, c.seq+uint32(n)
		c.seq = last
		now, later := ops[:n], ops[n:]
		var encoded chan int
		if len(later) > 0 {
			encoded = make(chan int, 1)
			go func() { encoded <- c.batch.encode(&c.spare, later, last+1) }()
		}
		a := c.exchange(first, last)
		for a.next() {
			if a.errno != 0 {
				failed = append(failed, &opError{Op: now[a.seq-first], Err: kernelError(a.kernelReply)})
			}
		}
		if len(later) > 0 {
			n = <-encoded
		}
		if a.err != nil {
			return failed, fmt.Errorf("change the table: %w", a.err)
		}
		if len(later) == 0 {
			return failed, nil
		}
		ops = later
		c.enc, c.spare = c.spare, c.enc
	}
}

// encode replaces the content of e by the first of ops, as many as one system
// call takes, numbered from seq on, and returns how many that are. Only the last
// is acknowledged; refusals are always answered.
func (l batchLimits) encode(e *encoder, ops []op, seq uint32) int {
	e.buf = e.buf[:0]
	ops = ops[:min(len(ops), l.messages)]
	for i := range ops {
		if i == len(ops)-1 || len(e.buf) > l.bytes {
			e.op(&ops[i], unix.NLM_F_ACK, seq+uint32(i))
			return i + 1
		}
		e.op(&ops[i], 0, seq+uint32(i))
	}
	return 0
}

// Timeouts reads the connection timeouts of the network namespace.
func (c *ipvsConn) Timeouts() (Timeouts, error) {
	var t Timeouts
	err := c.get(cmdGetConfig, func(body []byte) (err error) {
		t, err = decodeTimeouts(body)
		return err
	})
	if err != nil {
		return t, fmt.Errorf("read the connection timeouts: %w", err)
	}
	return t, nil
}

// SetTimeouts changes those connection timeouts that are not zero.
func (c *ipvsConn) SetTimeouts(t Timeouts) error {
	seq := c.request()
	c.enc.timeouts(t, seq)
	if err := c.ask(seq, nil); err != nil {
		return fmt.Errorf("set the connection timeouts: %w", err)
	}
	return nil
}

// Daemons reads the sync daemons of the network namespace, none, one or two.
func (c *ipvsConn) Daemons() ([]SyncDaemon, error) {
	var all []SyncDaemon
	seq := c.request()
	c.enc.command(cmdGetDaemon, unix.NLM_F_DUMP, seq)
	err := c.ask(seq, func(body []byte) error {
		d, err := decodeDaemon(body)
		all = append(all, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the sync daemons: %w", err)
	}
	return all, nil
}

// StartDaemon starts a sync daemon. The error is the kernel's errno.
func (c *ipvsConn) StartDaemon(d SyncDaemon) error {
	seq := c.request()
	c.enc.newDaemon(d, seq)
	return c.ask(seq, nil)
}

// StopDaemon stops the sync daemon of a role. The error is the kernel's errno,
// ESRCH when there is none.
func (c *ipvsConn) StopDaemon(role SyncRole) error {
	seq := c.request()
	c.enc.delDaemon(role, seq)
	return c.ask(seq, nil)
}

// Info reads the kernel's IPVS version and connection-table size.
func (c *ipvsConn) Info() (KernelInfo, error) {
	var i KernelInfo
	err := c.get(cmdGetInfo, func(body []byte) (err error) {
		i, err = decodeInfo(body)
		return err
	})
	if err != nil {
		return i, fmt.Errorf("read IPVS information: %w", err)
	}
	return i, nil
}

// get sends a request that is nothing but a command and reads its one answer.
func (c *ipvsConn) get(cmd uint8, read func(body []byte) error) error {
	seq := c.request()
	c.enc.command(cmd, unix.NLM_F_ACK, seq)
	return c.ask(seq, read)
}
