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

// wireRetry is how long a packet socket that could not be opened is left alone.
const wireRetry = 30 * time.Second

// dataPath is the prober's means for probes of the data path.
type dataPath struct {
	prober     *prober
	neighbours *neighbours // nil until a plan needs it
	wires      [2]*wire    // IPv4, IPv6; nil until a probe needs it
	broken     [2]brokenWire
	tokens     map[uint32]*target // of SYNs without an answer yet
	resolving  []*target          // wait for a MAC address
}

// brokenWire is why there is none.
type brokenWire struct {
	err   error
	until time.Time
}

func newDataPath(p *prober) *dataPath {
	return &dataPath{prober: p, tokens: make(map[uint32]*target)}
}

// close ends all but what was spawned.
func (d *dataPath) close() {
	for _, w := range d.wires {
		if w != nil {
			w.close()
		}
	}
}

// replan follows the nodes of a new plan.
func (d *dataPath) replan(ctx context.Context, plan *ProbePlan) {
	where := &whereabouts{vips: make(map[netip.Addr]bool)}
	for _, v := range plan.VIPs {
		if v.Probes == nil || !v.Probes.DataPath {
			continue
		}
		for _, a := range v.Addresses {
			where.vips[a] = true
		}
		for _, s := range v.Servers {
			where.nodes = append(where.nodes, s.Address)
		}
	}
	slices.SortFunc(where.nodes, netip.Addr.Compare)
	where.nodes = slices.Compact(where.nodes)
	if d.neighbours == nil {
		if len(where.nodes) == 0 {
			return
		}
		p := d.prober
		d.neighbours = newNeighbours(p.poll.wake)
		p.beside.Add(1)
		p.spawn(func() {
			defer p.beside.Done()
			d.neighbours.run(ctx)
		})
	}
	d.neighbours.want(where)
}

// begin starts one probe.
func (d *dataPath) begin(t *target) {
	w, err := d.wire(t.server.Is6())
	if err != nil {
		d.prober.finish(t, outcome{result: noResult, why: err.Error()})
		return
	}
	at := d.neighbours.hop(t.server)
	if !at.fresh && at.problem == "" {
		// What is sent through the packet socket does not make the kernel look
		// for the node, or look again.
		w.poke(t.server)
	}
	if at.problem == "" && at.mac == nil {
		t.flight.step = stepResolve
		d.resolving = append(d.resolving, t)
		d.neighbours.hurry()
		return
	}
	d.send(t, w, at)
}

// resume goes on with the probes whose node has been found meanwhile.
func (d *dataPath) resume() {
	if len(d.resolving) == 0 {
		return
	}
	waiting := d.resolving
	d.resolving = nil
	for _, t := range waiting {
		if t.flight == nil || t.flight.step != stepResolve {
			continue // its time was over
		}
		if at := d.neighbours.hop(t.server); at.problem != "" || at.mac != nil {
			d.send(t, d.wires[indexOf(t.server)], at)
			continue
		}
		d.resolving = append(d.resolving, t)
		d.neighbours.hurry()
	}
}

// unresolved is the outcome of a probe that has waited for a MAC address all
// its time.
func (d *dataPath) unresolved(t *target) outcome {
	if !d.neighbours.hop(t.server).looked {
		return outcome{result: noResult, why: "the kernel's neighbours are not known in time"}
	}
	if t.server.Is6() {
		return pathFails(t, true, "no answer to neighbour discovery")
	}
	return pathFails(t, true, "no answer to ARP")
}

// send sends the SYN.
func (d *dataPath) send(t *target, w *wire, at hop) {
	if at.problem != "" {
		d.prober.finish(t, outcome{result: noResult, why: at.problem})
		return
	}
	token := rand.Uint32()
	for d.tokens[token] != nil {
		token++
	}
	syn := segment{From: netip.AddrPortFrom(at.source, w.port), To: t.to, Seq: token, Flags: tcpSYN}
	if err := w.send(syn, at.device, at.mac); err != nil {
		d.prober.finish(t, outcome{result: noResult, why: err.Error()})
		return
	}
	t.flight.step, t.flight.token = stepAnswer, token
	d.tokens[token] = t
}

// forget drops what belongs to a flight.
func (d *dataPath) forget(f *flight) {
	if f.step == stepAnswer {
		delete(d.tokens, f.token)
	}
}

// ready reads what has arrived at a wire.
func (d *dataPath) ready(fd int) {
	i := slices.IndexFunc(d.wires[:], func(w *wire) bool { return w != nil && w.fd == fd })
	if i < 0 {
		return
	}
	w := d.wires[i]
	var b [1500]byte
	for range maxBegin { // the others have their turn too
		n, from, err := unix.Recvfrom(fd, b[:], unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype != unix.PACKET_OUTGOING {
			d.answer(w, b[:n], link)
		}
	}
}

// answer takes one packet that may be an answer.
func (d *dataPath) answer(w *wire, b []byte, link *unix.SockaddrLinklayer) {
	a, ok := parseAnswer(b, w.is6)
	if !ok {
		return
	}
	s := a.segment
	if a.expired { // s is our own SYN
		if t := d.tokens[s.Seq]; t != nil && s.To == t.to && s.From.Port() == w.port {
			d.prober.finish(t, pathFails(t, false, "the node does not have the VIP on its lo: it would pass the packet on"))
		}
		return
	}
	if s.To.Port() != w.port {
		return
	}
	if s.Flags&tcpACK != 0 && s.Flags&tcpRST == 0 {
		// Ends the connection on the node, be it an old one whose RST was lost.
		// The kernel's own RST, if it sends any, goes where the VIP is.
		rst := segment{From: s.To, To: s.From, Seq: s.Ack, Flags: tcpRST}
		_ = w.send(rst, link.Ifindex, link.Addr[:link.Halen]) // lost: then the next probe's does it
	}
	t := d.tokens[s.Ack-1]
	switch {
	case t == nil || s.From != t.to || s.Flags&tcpACK == 0:
	case s.Flags&tcpRST != 0:
		d.prober.finish(t, pathFails(t, false, "connection refused"))
	case s.Flags&tcpSYN != 0:
		d.prober.finish(t, outcome{result: passed})
	}
}

// pathFails is the outcome of a probe of the data path that failed.
func pathFails(t *target, silent bool, why string) outcome {
	return outcome{failed, fmt.Sprintf("%s through the node: %s", t.to, why), silent}
}

// indexOf is where what belongs to a's family is kept.
func indexOf(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// wire is what it takes to send and catch the packets of one family.
type wire struct {
	is6      bool
	fd       int    // the packet socket
	reserved int    // keeps port from everybody else
	port     uint16 // the source port of all probes
	poker    int    // sends datagrams
}

// wire returns the wire of a family, and opens it the first time.
func (d *dataPath) wire(is6 bool) (*wire, error) {
	i := 0
	if is6 {
		i = 1
	}
	if d.wires[i] != nil {
		return d.wires[i], nil
	}
	now := d.prober.now()
	if b := d.broken[i]; b.err != nil && now.Before(b.until) {
		return nil, b.err
	}
	w, err := openWire(is6)
	if err == nil {
		if err = d.prober.poll.add(w.fd, unix.EPOLLIN); err == nil {
			d.wires[i] = w
			return w, nil
		}
		w.close()
	}
	d.broken[i] = brokenWire{err, now.Add(wireRetry)}
	return nil, err
}

// openWire opens the sockets of one family.
func openWire(is6 bool) (_ *wire, err error) {
	w := &wire{is6: is6, fd: -1, reserved: -1, poker: -1}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	const flags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	family, anywhere, protocol := familyNumber(is6), unix.Sockaddr(&unix.SockaddrInet4{}), uint16(unix.ETH_P_IP)
	if is6 {
		anywhere, protocol = &unix.SockaddrInet6{}, unix.ETH_P_IPV6
	}
	if w.poker, err = unix.Socket(family, unix.SOCK_DGRAM|flags, 0); err != nil {
		return nil, fmt.Errorf("UDP socket: %w", err)
	}
	// A port that is bound is not given to any connection of this host.
	if w.reserved, err = unix.Socket(family, unix.SOCK_STREAM|flags, 0); err != nil {
		return nil, fmt.Errorf("TCP socket: %w", err)
	}
	if err = unix.Bind(w.reserved, anywhere); err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	bound, err := unix.Getsockname(w.reserved)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		w.port = uint16(a.Port)
	case *unix.SockaddrInet6:
		w.port = uint16(a.Port)
	}
	// Of protocol 0, so that nothing arrives before the filter is in place.
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|flags, 0); err != nil {
		hint := ""
		if errors.Is(err, unix.EPERM) {
			hint = " (datapath needs CAP_NET_RAW)"
		}
		return nil, fmt.Errorf("packet socket: %w%s", err, hint)
	}
	filter := answerFilter(is6, w.port)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err = unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return nil, fmt.Errorf("filter of the packet socket: %w", err)
	}
	if err = unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol)}); err != nil {
		return nil, fmt.Errorf("bind the packet socket: %w", err)
	}
	return w, nil
}

func (w *wire) close() {
	for _, fd := range []int{w.fd, w.reserved, w.poker} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// send sends s through a device to a MAC address.
func (w *wire) send(s segment, device int, mac []byte) error {
	protocol := uint16(unix.ETH_P_IP)
	if w.is6 {
		protocol = unix.ETH_P_IPV6
	}
	to := unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: device, Halen: uint8(len(mac))}
	copy(to.Addr[:], mac)
	if err := unix.Sendto(w.fd, s.packet(), unix.MSG_DONTWAIT, &to); err != nil {
		return fmt.Errorf("packet socket: send: %w", err)
	}
	return nil
}

// poke has the kernel look for a node, by an empty datagram to the discard
// port. The answer, if any, is an ICMP error that nobody reads.
func (w *wire) poke(node netip.Addr) { poke(w.poker, node) }

// networkOrder is v as it stands in memory in network byte order.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// answerFilter passes what may answer a probe from port: TCP to it, and ICMP
// errors about hop limits with a packet from it. It runs for every packet that
// the host receives, so it decides most in two steps. Offsets are from the
// network header.
func answerFilter(is6 bool, port uint16) []unix.SockFilter {
	const all = 1500
	instructions := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 5, SkipFalse: 11},
		bpf.LoadAbsolute{Off: 6, Size: 2}, // flags and fragment offset
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 9},
		bpf.LoadMemShift{Off: 0},          // length of the header
		bpf.LoadIndirect{Off: 2, Size: 2}, // destination port
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: 5, SkipFalse: 6},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 0, Size: 1}, // ICMP type
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: icmpTimeExceeded, SkipTrue: 3},
		bpf.LoadIndirect{Off: 8 + 20, Size: 2}, // source port of the packet it is about, ours, without options
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 1},
		bpf.RetConstant{Val: all},
		bpf.RetConstant{Val: 0},
	}
	if is6 {
		instructions = []bpf.Instruction{
			bpf.LoadAbsolute{Off: 6, Size: 1}, // next header
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 2, SkipFalse: 7},
			bpf.LoadAbsolute{Off: 40 + 2, Size: 2}, // destination port
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: 4, SkipFalse: 5},
			bpf.LoadAbsolute{Off: 40, Size: 1}, // ICMPv6 type
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: icmp6TimeExceeded, SkipTrue: 3},
			bpf.LoadAbsolute{Off: 40 + 8 + 40, Size: 2}, // source port of the packet it is about
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 1},
			bpf.RetConstant{Val: all},
			bpf.RetConstant{Val: 0},
		}
	}
	raw, err := bpf.Assemble(instructions)
	if err != nil {
		panic("answerFilter: " + err.Error()) // the program is a constant but for the port
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter
}
