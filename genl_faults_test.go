// The kernel's end of a netlink socket, with faults.

package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// fakeSocket is a socket to the IPVS of a fakeKernel. It decodes real requests and
// answers with real messages, which lie in the queue until they are read.
type fakeSocket struct {
	kernel *fakeKernel
	faults *faultPlan
	queue  [][]byte // what one read brings each
	asked  string   // the command of the last request
	late   *seamFault
}

// fakeFamily is the number of the IPVS family.
const fakeFamily = 0x1c

// newFakeConn is an ipvsConn to k.
func newFakeConn(k *fakeKernel, faults *faultPlan) *ipvsConn {
	return &ipvsConn{
		socket: &fakeSocket{kernel: k, faults: faults},
		inet:   -1,
		enc:    encoder{family: fakeFamily},
		recv:   make([]byte, receiveBytes),
		batch:  limitsFor(2*socketBuffer, 2*socketBuffer),
	}
}

func (s *fakeSocket) close() error { return nil }

func (s *fakeSocket) writeNow(b []byte) error { return s.write(b) }

// requestNames are for the reports of the tests.
var requestNames = map[uint8]string{
	cmdNewService: "new service", cmdSetService: "set service", cmdDelService: "delete service", cmdGetService: "list services",
	cmdNewDest: "new server", cmdSetDest: "set server", cmdDelDest: "delete server", cmdGetDest: "list servers",
	cmdNewDaemon: "new daemon", cmdDelDaemon: "delete daemon", cmdGetDaemon: "list daemons",
	cmdSetConfig: "set timeouts", cmdGetConfig: "get timeouts", cmdGetInfo: "get info",
}

// write takes requests. The kernel carries them out within the system call.
func (s *fakeSocket) write(b []byte) error {
	s.asked = requestNames[b[unix.NLMSG_HDRLEN]]
	if f := s.faults.meet(seamWrite, s.asked); f != nil {
		return f.errno
	}
	for len(b) > 0 {
		n := int(binary.NativeEndian.Uint32(b))
		s.serve(b[:n])
		b = b[n:]
	}
	return nil
}

// read gives the next answer. A socket that has none waits, and gives up.
func (s *fakeSocket) read(b []byte) (int, error) {
	if len(s.queue) == 0 {
		return 0, unix.EAGAIN
	}
	f := s.late
	if s.late = nil; f == nil {
		f = s.faults.meet(seamRead, s.asked)
	}
	return s.take(b, f)
}

// readNow does not wait. An answer that comes too late is not there yet, and does not come
// when it is waited for.
func (s *fakeSocket) readNow(b []byte) (int, error) {
	if len(s.queue) == 0 {
		return 0, unix.EAGAIN
	}
	f := s.faults.meet(seamRead, s.asked)
	if f != nil && f.errno == unix.EAGAIN {
		s.late = f
		return 0, unix.EAGAIN
	}
	return s.take(b, f)
}

// take gives what is next in the queue, as f has it.
func (s *fakeSocket) take(b []byte, f *seamFault) (int, error) {
	next := s.queue[0]
	if f != nil && f.errno == unix.EINTR && !f.struck(next) {
		return 0, unix.EINTR // and the answer stays
	}
	s.queue = s.queue[1:]
	if f != nil && f.errno != 0 && f.errno != unix.EINTR {
		return 0, f.errno // and the answer is lost
	}
	if f != nil && f.mangle != nil {
		next = f.mangle(slices.Clone(next))
	}
	return copy(b, next), nil
}

// serve carries out one request.
func (s *fakeSocket) serve(request []byte) {
	var (
		flags = binary.NativeEndian.Uint16(request[6:])
		seq   = binary.NativeEndian.Uint32(request[8:])
		cmd   = request[unix.NLMSG_HDRLEN]
		body  = request[unix.NLMSG_HDRLEN+unix.GENL_HDRLEN:]
		dump  = flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP
	)
	var refused unix.Errno
	f := s.faults.meet(seamMessage, requestNames[cmd])
	if f != nil {
		refused = f.errno
	}
	if f != nil && !f.late {
		s.control(unix.NLMSG_ERROR, seq, refused)
		return
	}
	if dump {
		s.dump(cmd, body, seq, refused)
		return
	}
	if err := s.do(cmd, body, seq); err != nil {
		s.control(unix.NLMSG_ERROR, seq, err.(unix.Errno))
	} else if refused != 0 || flags&unix.NLM_F_ACK != 0 {
		s.control(unix.NLMSG_ERROR, seq, refused)
	}
}

// dump answers with a list, one message for each system call. A refusal comes behind the
// first message, as of a dump that the kernel cannot go on with.
func (s *fakeSocket) dump(cmd uint8, body []byte, seq uint32, refused unix.Errno) {
	e, before := encoder{family: fakeFamily}, len(s.queue)
	message := func(content func()) {
		e.buf = nil
		e.begin(cmd, unix.NLM_F_MULTI, seq)
		content()
		e.end()
		s.queue = append(s.queue, e.buf)
	}
	switch cmd {
	case cmdGetService:
		for _, v := range s.kernel.table(func(ServiceKey) bool { return true }) {
			message(func() { e.service(v.VirtualService) })
		}
	case cmdGetDest:
		var v VirtualService
		must(decodeService(body, &v, nil))
		for _, t := range s.kernel.table(func(k ServiceKey) bool { return k == v.ServiceKey }) {
			for _, row := range t.Servers {
				message(func() {
					at := len(e.buf)
					e.server(t.ServiceKey, row.RealServer, true)
					c := s.kernel.conns[rowOf(t.ServiceKey, row.RealServer)]
					e.u32(destAttrActiveConns, c.Active)
					e.u32(destAttrInactConns, c.Inactive)
					e.u32(destAttrPersistConns, c.Persistent)
					e.unnest(at)
				})
			}
		}
	case cmdGetDaemon:
		all, _ := s.kernel.Daemons()
		for _, d := range all {
			e.buf = nil
			e.daemon(cmd, d, seq)
			s.queue = append(s.queue, e.buf)
		}
	}
	if refused != 0 {
		s.queue = s.queue[:min(len(s.queue), before+1)]
	}
	s.control(unix.NLMSG_DONE, seq, refused)
}

// control answers with an acknowledgement, a refusal, or the end of a list.
func (s *fakeSocket) control(typ uint16, seq uint32, errno unix.Errno) {
	b := make([]byte, unix.NLMSG_HDRLEN+4)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint32(b[8:], seq)
	binary.NativeEndian.PutUint32(b[unix.NLMSG_HDRLEN:], uint32(-int32(errno)))
	if typ == unix.NLMSG_ERROR {
		b = append(b, make([]byte, unix.NLMSG_HDRLEN)...) // the request's header again
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_CAPPED)
	}
	s.queue = append(s.queue, b)
}

// do carries out what is no list.
func (s *fakeSocket) do(cmd uint8, body []byte, seq uint32) error {
	switch cmd {
	case cmdGetConfig:
		e := encoder{family: fakeFamily}
		e.timeouts(s.kernel.timeouts, seq)
		s.queue = append(s.queue, e.buf)
		return nil
	case cmdSetConfig:
		t, err := decodeTimeouts(body)
		must(err)
		have := &s.kernel.timeouts
		*have = Timeouts{cmp.Or(t.TCP, have.TCP), cmp.Or(t.TCPFin, have.TCPFin), cmp.Or(t.UDP, have.UDP)}
		return nil
	case cmdNewDaemon, cmdDelDaemon:
		d, err := decodeDaemon(body)
		must(err)
		if cmd == cmdDelDaemon {
			return s.kernel.StopDaemon(d.Role)
		}
		return s.kernel.StartDaemon(d)
	}
	i := slices.Index(opCommands[:], cmd)
	if i < 0 {
		panic(fmt.Sprintf("the kernel has no command %d", cmd))
	}
	kind := opKind(i)
	o := op{Service: new(Service), edit: &edit{Kind: kind}}
	must(decodeService(body, &o.Service.VirtualService, nil))
	if kind != newService && kind != setService && kind != delService {
		o.Server = new(RealServer)
		must(decodeServer(body, &o.Service.ServiceKey, o.Server, nil, nil))
	}
	failed, err := s.kernel.Apply([]op{o})
	must(err)
	if len(failed) > 0 {
		return failed[0].Err
	}
	return nil
}

// must is for what cannot fail in a test.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
