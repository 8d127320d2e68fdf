// The data path probe: a SYN to the VIP, sent to one node in the way IPVS sends
// client packets in direct routing.
//
// Used by health_probe.go. An ordinary connection cannot test this: on the
// director a VIP leads to its own IPVS, or to the host that has the address. So
// the SYN goes through a packet socket to the node's MAC address, from the
// director's own address and a port that is reserved for this. The answer is
// received with a socket filter, because on a director that has the VIP it
// comes from one of the director's own addresses, which the IP layer drops. The
// hop limit is 1, so no node can forward the SYN. A node without the VIP
// answers "time exceeded" or nothing.
//
// All of it runs in the prober's goroutine (health_probe.go); health_neighbour.go
// knows the way to a node. It sends only these SYNs, the RST that ends each
// exchange, and empty datagrams that make the kernel look up a node. Packets from
// outside are parsed only by parseAnswer.

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// socketRetry is how long to wait after a packet socket could not be opened.
const socketRetry = 30 * time.Second

// dataPath are the sockets and the state of the data path probes.
type dataPath struct {
	prober     *prober
	neighbours *neighbours   // nil until a plan needs it
	sockets    [2]*rawSocket // IPv4, IPv6; nil until a probe needs it
	failures   [2]struct {   // why a socket is missing
		err   error
		until time.Time
	}
	tokens    map[uint32]*target // of SYNs without an answer yet
	resolving []*target          // wait for a MAC address
}

func newDataPath(p *prober) *dataPath {
	return &dataPath{prober: p, tokens: make(map[uint32]*target)}
}

// close closes the sockets. The goroutine of neighbours ends with its context.
func (d *dataPath) close() {
	for _, r := range d.sockets {
		if r != nil {
			r.close()
		}
	}
}

// replan takes the nodes of a new plan.
func (d *dataPath) replan(ctx context.Context, plan *ProbePlan) {
	nodes := &wantedNodes{nodes: make(map[netip.Addr]bool), vips: make(map[netip.Addr]bool)}
	for _, v := range plan.VIPs {
		if v.Probes == nil || !v.Probes.DataPath {
			continue
		}
		addAll(nodes.vips, v.Addresses)
		for _, s := range v.Servers {
			nodes.nodes[s.Address] = true
		}
	}
	if d.neighbours == nil {
		if len(nodes.nodes) == 0 {
			return
		}
		p := d.prober
		d.neighbours = &neighbours{wake: p.poll.wake, hurried: make(chan struct{}, 1), routes: make(map[netip.Addr]route)}
		p.beside.Add(1)
		p.spawn(func() {
			defer p.beside.Done()
			d.neighbours.run(ctx)
		})
	}
	d.neighbours.wanted.Store(nodes)
	d.neighbours.hurry()
}

func (dataPathKind) targets(v *ProbedVIP, s *ProbedServer) (all []question) {
	for _, a := range v.Addresses {
		if v.DataPort != 0 && a.Is6() == s.Address.Is6() {
			all = append(all, question{to: netip.AddrPortFrom(a, v.DataPort), via: a})
		}
	}
	return all
}

func (dataPathKind) begin(p *prober, t *target) {
	d := p.path
	r, err := d.socket(t.server.Is6())
	if err != nil {
		p.finish(t, outcome{result: noResult, why: err.Error()})
		return
	}
	if at := d.neighbours.hop(t.server); !at.fresh && at.problem == "" {
		// A packet through the packet socket does not make the kernel look up the
		// node.
		resolveNeighbour(r.udp, t.server)
	}
	d.send(t, r)
}

func (dataPathKind) overdue(p *prober, t *target) outcome {
	switch {
	case t.attempt.waits != waitsForMAC:
		return t.fails(fmt.Errorf("no answer in %s (is the VIP on its lo?)", t.vip.probes.Timeout), true)
	case !p.path.neighbours.hop(t.server).looked:
		return outcome{result: noResult, why: "the kernel's neighbours are not known in time"}
	case t.server.Is6():
		return t.fails(errors.New("no answer to neighbour discovery"), true)
	}
	return t.fails(errors.New("no answer to ARP"), true)
}

func (dataPathKind) reason(t *target, err error) string {
	return fmt.Sprintf("%s through the node: %v", t.to, err)
}

// resume continues the probes whose node may have been found meanwhile.
func (d *dataPath) resume() {
	waiting := d.resolving
	d.resolving = nil
	for _, t := range waiting {
		if t.attempt != nil && t.attempt.waits == waitsForMAC { // else its time was over
			d.send(t, d.sockets[familyIndex(t.server.Is6())])
		}
	}
}

// send sends the SYN, or waits for the node's MAC address.
func (d *dataPath) send(t *target, r *rawSocket) {
	at := d.neighbours.hop(t.server)
	switch {
	case at.problem != "":
		d.prober.finish(t, outcome{result: noResult, why: at.problem})
		return
	case at.mac == nil:
		t.attempt.waits = waitsForMAC
		d.resolving = append(d.resolving, t)
		d.neighbours.hurry()
		return
	}
	token := rand.Uint32()
	for d.tokens[token] != nil {
		token++
	}
	syn := segment{From: netip.AddrPortFrom(at.source, r.port), To: t.to, Seq: token, Flags: tcpSYN}
	if err := r.send(syn, at.device, at.mac); err != nil {
		d.prober.finish(t, outcome{result: noResult, why: err.Error()})
		return
	}
	t.attempt.waits, t.attempt.token = waitsForSYN, token
	d.tokens[token] = t
}

// ready reads the packets that have arrived at a packet socket.
func (d *dataPath) ready(fd int) {
	i := slices.IndexFunc(d.sockets[:], func(r *rawSocket) bool { return r != nil && r.fd == fd })
	if i < 0 {
		return
	}
	r := d.sockets[i]
	var b [1500]byte
	for range maxBegin { // then the other sockets are read too
		n, from, err := unix.Recvfrom(fd, b[:], unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype != unix.PACKET_OUTGOING {
			d.answer(r, b[:n], link)
		}
	}
}

// answer takes one packet that may be an answer.
func (d *dataPath) answer(r *rawSocket, b []byte, link *unix.SockaddrLinklayer) {
	a, ok := parseAnswer(b, r.is6)
	if !ok {
		return
	}
	s := a.segment
	if a.expired { // s is our own SYN
		if t := d.tokens[s.Seq]; t != nil && s.To == t.to && s.From.Port() == r.port {
			d.prober.finish(t, t.fails(errors.New("the node does not have the VIP on its lo: it would pass the packet on"), false))
		}
		return
	}
	if s.To.Port() != r.port {
		return
	}
	if s.Flags&tcpACK != 0 && s.Flags&tcpRST == 0 {
		// Ends the connection on the node, also an old one whose RST was lost. The
		// kernel's own RST, if it sends one, goes to the host that has the VIP.
		rst := segment{From: s.To, To: s.From, Seq: s.Ack, Flags: tcpRST}
		_ = r.send(rst, link.Ifindex, link.Addr[:link.Halen]) // if it is lost, the next probe's RST does it
	}
	t := d.tokens[s.Ack-1]
	switch {
	case t == nil || s.From != t.to || s.Flags&tcpACK == 0:
	case s.Flags&tcpRST != 0:
		d.prober.finish(t, t.fails(errors.New("connection refused"), false))
	case s.Flags&tcpSYN != 0:
		d.prober.finish(t, outcome{result: passed})
	}
}

// rawSocket sends and receives the packets of one family.
type rawSocket struct {
	is6      bool
	protocol uint16 // of the family, in network byte order
	fd       int    // the packet socket
	reserved int    // a TCP socket with port, so that no other socket gets it
	port     uint16 // the source port of all probes
	udp      int    // makes the kernel look up nodes
}

// socket returns the packet socket of a family, and opens it the first time.
func (d *dataPath) socket(is6 bool) (*rawSocket, error) {
	i := familyIndex(is6)
	now, failure := d.prober.now(), &d.failures[i]
	if d.sockets[i] != nil || now.Before(failure.until) {
		return d.sockets[i], failure.err
	}
	r, err := openRawSocket(is6)
	if err == nil {
		if err = d.prober.poll.add(r.fd, unix.EPOLLIN); err != nil {
			r.close()
		}
	}
	if failure.err = err; err != nil {
		failure.until = now.Add(socketRetry)
		return nil, err
	}
	d.sockets[i] = r
	return r, nil
}

// openRawSocket opens the sockets of one family.
func openRawSocket(is6 bool) (_ *rawSocket, err error) {
	r := &rawSocket{is6: is6, protocol: networkOrder(unix.ETH_P_IP), fd: -1, reserved: -1, udp: -1}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	const flags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	family, anywhere := familyNumber(is6), unix.Sockaddr(&unix.SockaddrInet4{})
	if is6 {
		anywhere, r.protocol = &unix.SockaddrInet6{}, networkOrder(unix.ETH_P_IPV6)
	}
	if r.udp, err = unix.Socket(family, unix.SOCK_DGRAM|flags, 0); err != nil {
		return nil, fmt.Errorf("UDP socket: %w", err)
	}
	// The kernel gives a bound port to no connection of this host.
	if r.reserved, err = unix.Socket(family, unix.SOCK_STREAM|flags, 0); err != nil {
		return nil, fmt.Errorf("TCP socket: %w", err)
	}
	if err = unix.Bind(r.reserved, anywhere); err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	bound, err := unix.Getsockname(r.reserved)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		r.port = uint16(a.Port)
	case *unix.SockaddrInet6:
		r.port = uint16(a.Port)
	}
	// Protocol 0: nothing arrives before the filter is attached.
	if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|flags, 0); err != nil {
		hint := ""
		if errors.Is(err, unix.EPERM) {
			hint = " (datapath needs CAP_NET_RAW)"
		}
		return nil, fmt.Errorf("packet socket: %w%s", err, hint)
	}
	filter := answerFilter(is6, r.port)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err = unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return nil, fmt.Errorf("filter of the packet socket: %w", err)
	}
	if err = unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: r.protocol}); err != nil {
		return nil, fmt.Errorf("bind the packet socket: %w", err)
	}
	return r, nil
}

func (r *rawSocket) close() {
	for _, fd := range []int{r.fd, r.reserved, r.udp} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// send sends s through a device to a MAC address.
func (r *rawSocket) send(s segment, device int, mac []byte) error {
	to := unix.SockaddrLinklayer{Protocol: r.protocol, Ifindex: device, Halen: uint8(len(mac))}
	copy(to.Addr[:], mac)
	return wrap("packet socket: send", unix.Sendto(r.fd, s.packet(), unix.MSG_DONTWAIT, &to))
}

// networkOrder is v with its bytes in network byte order.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// answerFilter passes what may answer a probe from port: TCP to it, and ICMP
// errors about hop limits with a packet from it. It runs for every packet that
// the host receives, so it drops most of them in two steps. Offsets are from the
// network header; register X has its length.
func answerFilter(is6 bool, port uint16) []unix.SockFilter {
	protocol, icmp, expired, length := uint32(9), uint32(unix.IPPROTO_ICMP), uint32(icmpTimeExceeded), uint32(20)
	fragment, skipHeader := bpf.Instruction(bpf.LoadAbsolute{Off: 6, Size: 2}), bpf.Instruction(bpf.LoadMemShift{Off: 0})
	if is6 { // a fragment has an extension header, which is another protocol
		protocol, icmp, expired, length = 6, unix.IPPROTO_ICMPV6, icmp6TimeExceeded, 40
		fragment, skipHeader = bpf.LoadConstant{Dst: bpf.RegA}, bpf.LoadConstant{Dst: bpf.RegX, Val: length}
	}
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: protocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmp, SkipTrue: 5, SkipFalse: 11},
		fragment, // flags and fragment offset
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 9},
		skipHeader,
		bpf.LoadIndirect{Off: 2, Size: 2}, // destination port
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: 5, SkipFalse: 6},
		skipHeader,
		bpf.LoadIndirect{Off: 0, Size: 1}, // ICMP type
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: expired, SkipTrue: 3},
		bpf.LoadIndirect{Off: 8 + length, Size: 2}, // source port of the packet that it reports, which is ours, without options
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 1},
		bpf.RetConstant{Val: 1500},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic("answerFilter: " + err.Error()) // only the port varies
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter
}
