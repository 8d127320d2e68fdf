// The conversation with the kernel's IPVS: one generic-netlink socket, many
// messages per system call.
//
// reconcile.go writes through it from its one goroutine; status and metrics
// read through sockets of their own. It sends what genl_ipvs.go encodes and
// nothing else.

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
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

	// batchBytes ends a batch early. The largest message is under 200 bytes.
	batchBytes = 192 << 10

	// socketBuffer is asked for both directions with the FORCE options: it
	// holds a whole batch, and 1024 error messages as the kernel accounts them
	// (skb overhead included).
	socketBuffer = 4 << 20

	// receiveBytes is twice what the kernel puts into one dump message
	// (netlink_dump caps at 32 KiB).
	receiveBytes = 64 << 10

	// exchangeTimeout bounds the wait for an answer. The kernel works inside our
	// sendmsg, which may take its time, so an answer is ready when that returns;
	// this only ends a wait for one that was lost.
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
	recv []byte
	seq  uint32
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
	if err := sizeBuffers(raw); err != nil {
		genl.Close()
		return nil, fmt.Errorf("size the netlink socket's buffers: %w", err)
	}
	return &ipvsConn{
		genl: genl,
		raw:  raw,
		enc:  encoder{family: family.ID},
		recv: make([]byte, receiveBytes),
	}, nil
}

// sizeBuffers asks for socketBuffer beyond the sysctl limits, which
// CAP_NET_ADMIN allows, and within them where it does not.
func sizeBuffers(raw syscall.RawConn) error {
	var err error
	cerr := raw.Control(func(fd uintptr) {
		for _, o := range [][2]int{
			{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
			{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
		} {
			if e := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[0], socketBuffer); e == nil {
				continue
			}
			if e := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[1], socketBuffer); e != nil {
				err = e
			}
		}
	})
	return errors.Join(cerr, err)
}

// Close closes the socket.
func (c *ipvsConn) Close() error { return c.genl.Close() }

// nextSeq returns a sequence number that no open exchange uses.
func (c *ipvsConn) nextSeq() uint32 {
	c.seq++
	return c.seq
}

// send writes the encoder's buffer with one system call. An unconnected
// netlink socket's write goes to the kernel.
func (c *ipvsConn) send() error {
	var serr error
	err := c.raw.Write(func(fd uintptr) bool {
		_, serr = unix.Write(int(fd), c.enc.buf)
		return serr != unix.EAGAIN && serr != unix.EINTR
	})
	if err := errors.Join(err, serr); err != nil {
		return fmt.Errorf("send to the kernel: %w", err)
	}
	return nil
}

// receive returns what one system call brings, valid until the next.
func (c *ipvsConn) receive() ([]byte, error) {
	if err := c.genl.SetReadDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return nil, err
	}
	var (
		n    int
		rerr error
	)
	err := c.raw.Read(func(fd uintptr) bool {
		n, rerr = unix.Read(int(fd), c.recv)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	if err := errors.Join(err, rerr); err != nil {
		return nil, fmt.Errorf("receive from the kernel: %w", err)
	}
	return c.recv[:n], nil
}

// exchange sends the encoder's buffer and passes every message that answers
// one of the sequence numbers first to last to each, until last has been
// acknowledged or its dump is done. Answers to older, abandoned exchanges are
// passed over.
func (c *ipvsConn) exchange(first, last uint32, each func(kernelReply)) error {
	if err := c.send(); err != nil {
		return err
	}
	for {
		b, err := c.receive()
		if err != nil {
			return err
		}
		for len(b) > 0 {
			var r kernelReply
			if r, b, err = nextReply(b); err != nil {
				return fmt.Errorf("read the kernel's answer: %w", err)
			}
			if r.seq-first > last-first {
				continue
			}
			each(r)
			if r.seq == last && (r.typ == unix.NLMSG_ERROR || r.typ == unix.NLMSG_DONE) {
				return nil
			}
		}
	}
}

// ask sends the one request in the encoder, which carries sequence number seq,
// and passes the bodies of its answer to each. The first error, the kernel's
// or each's own, is returned once the answer has been read to its end, so that
// the socket stays usable.
func (c *ipvsConn) ask(seq uint32, each func(body []byte) error) error {
	var first error
	err := c.exchange(seq, seq, func(r kernelReply) {
		switch {
		case first != nil:
		case r.errno != 0:
			first = kernelError(r)
		case r.typ != unix.NLMSG_ERROR && r.typ != unix.NLMSG_DONE:
			first = each(r.body)
		}
	})
	return errors.Join(err, first)
}

// kernelError keeps the errno (errors.Is works) and the kernel's own words.
func kernelError(r kernelReply) error {
	if r.extack == "" {
		return r.errno
	}
	return fmt.Errorf("%w: %s", r.errno, r.extack)
}

// services dumps all virtual services.
func (c *ipvsConn) services(visit func(VirtualService, Traffic)) error {
	seq := c.nextSeq()
	c.enc.buf = c.enc.buf[:0]
	c.enc.dumpServices(seq)
	err := c.ask(seq, func(body []byte) error {
		v, t, err := decodeService(body)
		if err == nil {
			visit(v, t)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list virtual services: %w", err)
	}
	return nil
}

// Servers dumps the real servers of service k. A service that does not exist
// has none.
func (c *ipvsConn) Servers(k ServiceKey, visit func(KernelServer)) error {
	seq := c.nextSeq()
	c.enc.buf = c.enc.buf[:0]
	c.enc.dumpServers(k, seq)
	err := c.ask(seq, func(body []byte) error {
		s, err := decodeServer(body, k)
		if err == nil {
			visit(s)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list real servers of %s: %w", k, err)
	}
	return nil
}

// Table dumps the services that owned accepts, with their real servers. Others' services are not looked into.
func (c *ipvsConn) Table(owned func(ServiceKey) bool) (Table, error) {
	var t Table
	if err := c.services(func(v VirtualService, _ Traffic) {
		if owned(v.ServiceKey) {
			t = append(t, Service{VirtualService: v})
		}
	}); err != nil {
		return nil, err
	}
	slices.SortFunc(t, func(a, b Service) int { return a.Compare(b.ServiceKey) })
	// A table that changes during the dump can show a row twice.
	t = slices.CompactFunc(t, func(a, b Service) bool { return a.ServiceKey == b.ServiceKey })
	var rows []Row
	for i := range t {
		rows = rows[:0]
		if err := c.Servers(t[i].ServiceKey, func(s KernelServer) {
			rows = append(rows, Row{RealServer: s.RealServer})
		}); err != nil {
			return nil, err
		}
		slices.SortFunc(rows, func(a, b Row) int { return a.Compare(b.RealServer) })
		rows = slices.CompactFunc(rows, func(a, b Row) bool { return a.SameServer(b.RealServer) })
		t[i].Servers = slices.Clone(rows)
	}
	return t, nil
}

// KernelService is a virtual service as a dump shows it.
type KernelService struct {
	VirtualService
	Traffic Traffic
	Servers []KernelServer
}

// Observe dumps services with their counters, for status and metrics.
func (c *ipvsConn) Observe(owned func(ServiceKey) bool) ([]KernelService, error) {
	var all []KernelService
	if err := c.services(func(v VirtualService, t Traffic) {
		if owned(v.ServiceKey) {
			all = append(all, KernelService{VirtualService: v, Traffic: t})
		}
	}); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b KernelService) int { return a.Compare(b.ServiceKey) })
	for i := range all {
		s := &all[i]
		if err := c.Servers(s.ServiceKey, func(r KernelServer) { s.Servers = append(s.Servers, r) }); err != nil {
			return nil, err
		}
		slices.SortFunc(s.Servers, func(a, b KernelServer) int { return a.Compare(b.RealServer) })
	}
	return all, nil
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

// hint says what an errno means for this operation where the kernel's word for
// it misleads.
func (e *opError) hint() string {
	switch {
	case e.Op.Kind <= setService && errors.Is(e.Err, unix.ENOENT):
		if e.Op.Service.Engine != "" {
			return fmt.Sprintf("the kernel lacks scheduler %q (module ip_vs_%[1]s) or persistence engine %[2]q (module ip_vs_pe_%[2]s)", e.Op.Service.Scheduler, e.Op.Service.Engine)
		}
		return fmt.Sprintf("the kernel has no scheduler %q: module ip_vs_%[1]s is missing", e.Op.Service.Scheduler)
	case e.Op.Kind == newServer && errors.Is(e.Err, unix.EINVAL):
		return fmt.Sprintf("the kernel has no unicast route to %s at the moment; this is tried again", e.Op.Server.Address)
	case errors.Is(e.Err, unix.EPERM):
		return "CAP_NET_ADMIN is needed"
	}
	return ""
}

// surprising reports whether the refusal means that the table is not what we
// took it for.
func (e *opError) surprising() bool {
	return errors.Is(e.Err, unix.EEXIST) || errors.Is(e.Err, unix.ESRCH) || e.Op.Kind >= newServer && errors.Is(e.Err, unix.ENOENT)
}

// Apply carries out ops in order, up to batchMessages in one system call, and
// returns those that the kernel refused; the others have been done. An error
// means that the conversation broke: what was done is unknown then.
func (c *ipvsConn) Apply(ops []op) ([]*opError, error) {
	var failed []*opError
	for len(ops) > 0 {
		c.enc.buf = c.enc.buf[:0]
		first := c.seq + 1
		n := min(len(ops), batchMessages)
		for i := range n {
			var flags uint16
			if i == n-1 || len(c.enc.buf) > batchBytes {
				flags = unix.NLM_F_ACK // of the last only; refusals are always answered
				n = i + 1
			}
			c.enc.op(ops[i], flags, c.nextSeq())
			if flags != 0 {
				break
			}
		}
		err := c.exchange(first, c.seq, func(r kernelReply) {
			if r.errno != 0 {
				failed = append(failed, &opError{Op: ops[r.seq-first], Err: kernelError(r)})
			}
		})
		if err != nil {
			return failed, fmt.Errorf("change the table: %w", err)
		}
		ops = ops[n:]
	}
	return failed, nil
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
	seq := c.nextSeq()
	c.enc.buf = c.enc.buf[:0]
	c.enc.timeouts(t, seq)
	if err := c.ask(seq, func([]byte) error { return nil }); err != nil {
		return fmt.Errorf("set the connection timeouts: %w", err)
	}
	return nil
}

// Daemons reads the sync daemons of the network namespace, none, one or two.
func (c *ipvsConn) Daemons() ([]SyncDaemon, error) {
	var all []SyncDaemon
	seq := c.nextSeq()
	c.enc.buf = c.enc.buf[:0]
	c.enc.dumpDaemons(seq)
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
	seq := c.nextSeq()
	c.enc.buf = c.enc.buf[:0]
	c.enc.newDaemon(d, seq)
	return c.ask(seq, func([]byte) error { return nil })
}

// StopDaemon stops the sync daemon of a role. The error is the kernel's errno,
// ESRCH when there is none.
func (c *ipvsConn) StopDaemon(role SyncRole) error {
	seq := c.nextSeq()
	c.enc.buf = c.enc.buf[:0]
	c.enc.delDaemon(role, seq)
	return c.ask(seq, func([]byte) error { return nil })
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
	seq := c.nextSeq()
	c.enc.buf = c.enc.buf[:0]
	c.enc.begin(cmd, unix.NLM_F_ACK, seq)
	c.enc.end()
	return c.ask(seq, read)
}
