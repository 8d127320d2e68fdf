// The connection to the kernel's IPVS: one generic netlink socket, many messages
// for each system call.
//
// Used by reconcile*.go, http*.go, cmd*.go and main.go. The reconcile loop writes
// through it, by the interface director in reconcile.go; status and the metrics open
// their own sockets. It sends only what genl_ipvs.go encodes.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/genetlink"
	"golang.org/x/sys/unix"
)

const (
	// batchMessages bounds one sendmsg. More does not make a message cheaper,
	// and the errors of a whole batch must fit into the receive buffer.
	batchMessages = 1024

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

	// hurriedBatch is how long a batch of real servers may take for the next one to be written
	// without a word to the Go scheduler. On one processor all other goroutines wait for so
	// long.
	hurriedBatch = 50 * time.Millisecond

	// longList is the number of operations from which their order matters: with less,
	// the kernel's search takes a few milliseconds in all.
	longList = 1000

	// trashSample is how many real servers show whether their order matters: it does if
	// one takes so many times as long as a service.
	trashSample, trashSlow = 512, 4

	// seenMost bounds the list of services whose order in the kernel is remembered.
	seenMost = 1 << 14

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
	socket kernelSocket
	inet   int // a socket of any kind, for genl_sockopt.go
	enc    encoder
	seq    uint32
	recv   []byte
	reply  kernelReply // the one that exchange passes on
	batch  batchLimits

	// progress is called for each answer of the kernel, from any goroutine; nil: it is not.
	progress func()

	seen []ServiceKey // services in the kernel's order, as Table has read them before they were flushed

	// Buffers of Table.
	ahead   [2][]byte
	dumped  []VirtualService
	found   []Row               // of one service
	order   []int               // where the rows of the last known service are in its table
	loads   map[ServiceKey]Load // of the shards
	counted Connections         // of the rows of the shard that is read
	one     Connections         // of the last row

	countBuffers
}

// dialIPVS opens a socket in the calling thread's network namespace. The error
// is errNoIPVS when there is no such family.
func dialIPVS() (*ipvsConn, error) {
	lookup, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open a generic netlink socket: %w", err)
	}
	defer lookup.Close()
	family, err := lookup.GetFamily(ipvsFamilyName)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNoIPVS
	}
	if err != nil {
		return nil, fmt.Errorf("look up the IPVS netlink family: %w", err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open a generic netlink socket: %w", err)
	}
	// Neither option exists before Linux 4.3 and 4.12; without them errors are
	// longer and say less.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	timeout := unix.NsecToTimeval(exchangeTimeout.Nanoseconds())
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	batch, sizeErr := sizeBuffers(fd)
	if err := errors.Join(err, sizeErr); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up the netlink socket: %w", err)
	}
	inet, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		inet = -1 // no IPv4 here: netlink has the answers
	}
	return &ipvsConn{
		socket: fdSocket(fd),
		inet:   inet,
		enc:    encoder{family: family.ID},
		recv:   make([]byte, receiveBytes),
		batch:  batch,
	}, nil
}

// followIPVS calls changed when the kernel's IPVS has come or gone, until ctx ends. It
// returns nil.
func followIPVS(ctx context.Context, log *slog.Logger, changed func()) error {
	events, err := kernelEventsOf(ctx, unix.NETLINK_GENERIC, 1<<(unix.GENL_ID_CTRL-1), named(ipvsFamilyName))
	if err != nil {
		log.Warn("a module ip_vs that is removed or loaded is noticed only by the next audit", "err", err)
		<-ctx.Done()
		return nil
	}
	for range events {
		changed()
	}
	return nil
}

// batchLimits are how much goes into one system call.
type batchLimits struct {
	messages int // requests
	bytes    int // a batch ends with the message that reaches it
}

// sizeBuffers asks for socketBuffer beyond the sysctl limits, which
// CAP_NET_ADMIN allows, and within them where it does not, and returns what
// batches the buffers that it got can carry.
func sizeBuffers(fd int) (batchLimits, error) {
	var got [2]int
	for i, o := range [...]struct{ force, size int }{
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
	} {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.force, socketBuffer)
		if err != nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.size, socketBuffer)
		}
		if err == nil {
			got[i], err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.size)
		}
		if err != nil {
			return batchLimits{}, err
		}
	}
	return limitsFor(got[0], got[1]), nil
}

// limitsFor returns the batches that fit into a send and a receive buffer of so
// many bytes, as the kernel counts them (twice what was asked for).
func limitsFor(send, receive int) batchLimits {
	return batchLimits{
		messages: max(1, min(batchMessages, receive/errorFootprint)),
		bytes:    max(1, min(batchBytes, send/2-messageMost)),
	}
}

// Close closes the sockets. It is called once.
func (c *ipvsConn) Close() error {
	if c.inet >= 0 {
		unix.Close(c.inet)
	}
	return c.socket.close()
}

// request empties the encoder for one request and returns the sequence number
// for it, which no open exchange uses.
func (c *ipvsConn) request() uint32 {
	c.enc.buf = c.enc.buf[:0]
	c.seq++
	return c.seq
}

// receive reads what one system call brings, n bytes of it, into b.
func (c *ipvsConn) receive(b []byte) (n int, err error) {
	for {
		n, err := c.socket.read(b)
		switch err {
		case unix.EINTR: // the runtime's signals
			continue
		case unix.EAGAIN:
			err = os.ErrDeadlineExceeded
		}
		return c.received(n, err)
	}
}

// received is what comes of a system call that brought n bytes, or err.
func (c *ipvsConn) received(n int, err error) (int, error) {
	if err != nil {
		return 0, fmt.Errorf("receive from the kernel: %w", err)
	}
	if c.progress != nil {
		c.progress()
	}
	return n, nil
}

// exchange sends the encoder's buffer by write, which is one of the socket's. It has the
// requests with the sequence numbers first to last. Their answers go to take, until last has
// been acknowledged or its dump is done; what take gets is valid until it returns. Answers
// to older, abandoned exchanges are passed over. An error means that the exchange failed.
func (c *ipvsConn) exchange(write func([]byte) error, first, last uint32, take func(*kernelReply)) error {
	if err := write(c.enc.buf); err != nil {
		return fmt.Errorf("send to the kernel: %w", err)
	}
	r := &c.reply
	for {
		n, err := c.receive(c.recv)
		if err != nil {
			return err
		}
		for rest := c.recv[:n]; len(rest) > 0; {
			if rest, err = r.next(rest); err != nil {
				return fmt.Errorf("read the kernel's answer: %w", err)
			}
			if r.seq-first > last-first {
				continue
			}
			take(r)
			if r.seq == last && r.control() {
				return nil
			}
		}
	}
}

// ask sends the request in the encoder and passes the bodies of its answer to each,
// unless that is nil. The first error, the kernel's or each's own, is returned once
// the answer has been read to its end, so that the socket stays usable. No kernel marks
// lists of IPVS as interrupted today. One that does gets errInterrupted, and the next
// audit asks again.
func (c *ipvsConn) ask(each func(body []byte) error) error {
	var first error
	err := c.exchange(c.socket.write, c.seq, c.seq, func(r *kernelReply) {
		switch {
		case first != nil:
		case r.errno != 0:
			first = kernelError(r)
		case r.interrupted:
			first = errInterrupted
		case !r.control() && each != nil:
			first = each(r.body)
		}
	})
	return errors.Join(err, first)
}

// kernelError keeps the errno (errors.Is works) and the kernel's own text.
func kernelError(r *kernelReply) error {
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
// An error means that the exchange failed: what was done is unknown then. A long list
// with new services may have another order, see likeTrash.
func (c *ipvsConn) Apply(ops []op) (failed []*opError, err error) {
	send := func(lists ...[]op) bool {
		var refused []*opError
		refused, err = c.send(queueOf(lists))
		failed = append(failed, refused...)
		return err == nil
	}
	if len(ops) < longList || ops[0].Kind != newService {
		send(ops)
		return failed, err
	}
	services, runs := byService(ops)
	began := time.Now()
	if !send(services) {
		return failed, err
	}
	slow := trashSlow * time.Since(began) / time.Duration(len(services))
	if len(c.seen) == 0 {
		// Most likely the kernel has removed no real server. Then the given order is as
		// good as any, and the first ones show it.
		first, n := 0, 0
		for ; first < len(runs) && n < trashSample; first++ {
			n += len(runs[first])
		}
		began = time.Now()
		if !send(runs[:first]...) {
			return failed, err
		}
		services, runs = services[first:], runs[first:]
		if time.Since(began) <= slow*time.Duration(n) {
			send(runs...)
			return failed, err
		}
	}
	if runs, err = c.likeTrash(services, runs); err == nil {
		send(runs...)
	}
	return failed, err
}

// byService takes apart ops, of which the first adds a service: the services, and for
// each one what comes after it.
func byService(ops []op) (services []op, runs [][]op) {
	for rest := ops; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Kind != newService {
			n++
		}
		services, runs, rest = append(services, rest[0]), append(runs, rest[1:n]), rest[n:]
	}
	return services, runs
}

// opQueue are operations in order, in several lists: a copy of all would be the largest
// part of the memory of a pass.
type opQueue struct {
	lists [][]op
	left  int // how many
}

func queueOf(lists [][]op) opQueue {
	q := opQueue{lists: lists}
	for _, ops := range lists {
		q.left += len(ops)
	}
	return q
}

// next takes operations out of q, which has some: at most n, and of one list.
func (q *opQueue) next(n int) []op {
	for len(q.lists[0]) == 0 {
		q.lists = q.lists[1:]
	}
	ops := q.lists[0]
	n = min(n, len(ops))
	q.lists[0] = ops[n:]
	q.left -= n
	return ops[:n]
}

// likeTrash returns runs, the real servers of each of services, in the order in which
// the kernel adds them fastest. A removed real server stays in a list of the kernel
// for up to two minutes, and each addition searches that list for it, from the one
// that was removed last (ip_vs_trash_get_dest in ip_vs_ctl.c). A flush removes
// services in the order of a dump, so in the reverse order each search ends at its
// beginning. In any other order the time after a flush grows with the square of the
// number of rows. The order is that of the last dump before the flush: since Linux 7 a
// flushed table comes back in another one. Without such a dump it is today's.
func (c *ipvsConn) likeTrash(services []op, runs [][]op) ([][]op, error) {
	at := make(map[ServiceKey]int, len(services))
	for i := range services {
		at[services[i].Service.ServiceKey] = i
	}
	ours := func(k ServiceKey) bool { _, is := at[k]; return is }
	ordered := make([][]op, 0, len(runs))
	next := func(k ServiceKey) {
		if i, is := at[k]; is {
			ordered, runs[i] = append(ordered, runs[i]), nil
			delete(at, k)
		}
	}
	for _, k := range c.seen {
		next(k)
	}
	err := c.services(ours, func(s *KernelService) { next(s.ServiceKey) })
	slices.Reverse(ordered)
	// What the dump did not show has been refused, and its real servers are too.
	return append(ordered, runs...), err
}

// remember notes the order of the services that a dump shows, unless most of those before
// are missing: then another program has flushed the table.
func (c *ipvsConn) remember(services []VirtualService) {
	if 2*len(services) < len(c.seen) || len(services) > seenMost {
		return
	}
	c.seen = c.seen[:0]
	for i := range services {
		c.seen = append(c.seen, services[i].ServiceKey)
	}
}

// send sends ops. Each batch is encoded when the one before is done: to encode it on
// another processor meanwhile was no faster, for it takes a thirtieth of the kernel's time.
// The scheduler takes the processor of a goroutine that is in a system call for long and
// wakes threads for it; of 50,000 real servers that took a tenth of the kernel's time. So
// it hears of none but the first batch, of those with services, for which the kernel may have
// to wait, and of those after a slow one.
func (c *ipvsConn) send(ops opQueue) ([]*opError, error) {
	defer func() { c.enc.last = nil }() // or the connection would keep the whole list
	var failed []*opError
	hurry := false
	for ops.left > 0 {
		now := c.batch.encode(&c.enc, &ops, c.seq+1)
		first, last := c.seq+1, c.seq+uint32(now.n)
		c.seq = last
		write := c.socket.write
		if hurry && now.serversAlone() {
			write = c.socket.writeNow
		}
		began := time.Now()
		err := c.exchange(write, first, last, func(r *kernelReply) {
			if r.errno != 0 {
				failed = append(failed, &opError{Op: *now.at(int(r.seq - first)), Err: kernelError(r)})
			}
		})
		if err != nil {
			return failed, fmt.Errorf("change the table: %w", err)
		}
		hurry = time.Since(began) < hurriedBatch
	}
	return failed, nil
}

// opBatch are the operations of one system call.
type opBatch struct {
	parts [][]op
	n     int // how many in all
}

// at is the operation with index i.
func (b *opBatch) at(i int) *op {
	for _, part := range b.parts {
		if i < len(part) {
			return &part[i]
		}
		i -= len(part)
	}
	panic("an answer without an operation")
}

// serversAlone reports whether no operation of b is on a service.
func (b *opBatch) serversAlone() bool {
	return !slices.ContainsFunc(b.parts, func(part []op) bool {
		return slices.ContainsFunc(part, func(o op) bool { return o.Server == nil })
	})
}

// encode replaces the content of e by the first of ops, as many as one system
// call takes, numbered from seq on, and returns them. Only the last is acknowledged;
// refusals are always answered.
func (l batchLimits) encode(e *encoder, ops *opQueue, seq uint32) (b opBatch) {
	e.buf = e.buf[:0]
	for ops.left > 0 && b.n < l.messages && len(e.buf) <= l.bytes {
		// No message is larger than messageMost, so that these fit.
		part := ops.next(min(l.messages-b.n, 1+(l.bytes-len(e.buf))/messageMost))
		for i := range part {
			e.op(&part[i], 0, seq)
			seq++
		}
		b.parts, b.n = append(b.parts, part), b.n+len(part)
	}
	if b.n > 0 {
		e.acknowledged()
	}
	return b
}

// Timeouts reads the connection timeouts of the network namespace.
func (c *ipvsConn) Timeouts() (t Timeouts, err error) {
	c.enc.command(cmdGetConfig, unix.NLM_F_ACK, c.request())
	err = c.ask(func(body []byte) (err error) {
		t, err = decodeTimeouts(body)
		return err
	})
	return t, wrap("read the connection timeouts", err)
}

// SetTimeouts changes those connection timeouts that are not zero.
func (c *ipvsConn) SetTimeouts(t Timeouts) error {
	c.enc.timeouts(t, c.request())
	return wrap("set the connection timeouts", c.ask(nil))
}

// Daemons reads the sync daemons of the network namespace, none, one or two.
func (c *ipvsConn) Daemons() (all []SyncDaemon, err error) {
	c.enc.command(cmdGetDaemon, unix.NLM_F_DUMP, c.request())
	err = c.ask(func(body []byte) error {
		d, err := decodeDaemon(body)
		all = append(all, d)
		return err
	})
	return all, wrap("list the sync daemons", err)
}

// StartDaemon starts a sync daemon. The error is the kernel's errno.
func (c *ipvsConn) StartDaemon(d SyncDaemon) error {
	c.enc.daemon(cmdNewDaemon, d, c.request())
	return c.ask(nil)
}

// StopDaemon stops the sync daemon of a role. The error is the kernel's errno,
// ESRCH when there is none.
func (c *ipvsConn) StopDaemon(role SyncRole) error {
	c.enc.daemon(cmdDelDaemon, SyncDaemon{Role: role}, c.request())
	return c.ask(nil)
}

// Info reads the kernel's IPVS version and connection-table size.
func (c *ipvsConn) Info() (i KernelInfo, err error) {
	c.enc.command(cmdGetInfo, unix.NLM_F_ACK, c.request())
	err = c.ask(func(body []byte) (err error) {
		i, err = decodeInfo(body)
		return err
	})
	return i, wrap("read IPVS information", err)
}
