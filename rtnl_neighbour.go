// Routes and neighbours: the way to a node.
//
// Used by conflict*.go, health*.go and cmd*.go. It reads the kernel's tables.
// resolveNeighbour sends an empty datagram, which makes the kernel look up a
// neighbour; askNeighbour asks for the same. It changes nothing else.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// hop is how to reach one node.
type hop struct {
	looked    bool             // the kernel has been asked
	device    int              // index
	source    netip.Addr       // the director's own address on the way there
	mac       net.HardwareAddr // nil while the kernel does not know it
	fresh     bool             // the kernel has confirmed mac lately, or does not need to
	router    bool             // the node is behind a router
	broadcast bool             // it is no node
	mtu       int              // of the route, where the kernel has one; 0: that of the device
	problem   string           // why no probe can be sent to the node; no failure of the node
}

// route is a hop without its neighbour.
type route struct {
	hop
	until time.Time
}

// neighbourKey is a neighbour's place in the kernel's table.
type neighbourKey struct {
	device  int
	address netip.Addr
}

type neighbour struct {
	mac   net.HardwareAddr
	fresh bool
}

// neighbours lists the neighbours whose MAC address the kernel knows.
func (r *rtnl) neighbours() (map[neighbourKey]neighbour, error) {
	const (
		sure = unix.NUD_REACHABLE | unix.NUD_PERMANENT | unix.NUD_NOARP
		last = unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE // the last one; the kernel asks again now or later
	)
	known := make(map[neighbourKey]neighbour)
	err := r.eachNeighbour(func(m *rtnetlink.NeighMessage) {
		if m.Attributes == nil || m.State&(sure|last) == 0 {
			return
		}
		if a, ok := netip.AddrFromSlice(m.Attributes.Address); ok {
			known[neighbourKey{int(m.Index), a.Unmap()}] = neighbour{m.Attributes.LLAddress, m.State&sure != 0}
		}
	})
	return known, err
}

// neighbourEntry is what the kernel's neighbour table has for an address; zero for
// nothing.
type neighbourEntry struct {
	device    uint32
	state     uint16    // unix.NUD_…
	confirmed time.Time // the last answer
}

// fixed reports whether the kernel does not ask about the neighbour.
func (e neighbourEntry) fixed() bool { return e.state&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0 }

// reachable reports whether the neighbour has answered lately.
func (e neighbourEntry) reachable() bool { return e.fixed() || e.state&unix.NUD_REACHABLE != 0 }

// valid reports whether the kernel sends packets to the neighbour.
func (e neighbourEntry) valid() bool {
	return e.reachable() || e.state&(unix.NUD_STALE|unix.NUD_DELAY|unix.NUD_PROBE) != 0
}

// neighbourEntries lists the neighbours by address. Of the entries of several devices
// the one that resolves counts: a host that has moved leaves a failed one behind.
func (r *rtnl) neighbourEntries(now time.Time) (map[netip.Addr]neighbourEntry, error) {
	entries := make(map[netip.Addr]neighbourEntry)
	err := r.eachNeighbour(func(m *rtnetlink.NeighMessage) {
		if m.Attributes == nil || m.State == unix.NUD_NONE {
			return
		}
		ip, ok := netip.AddrFromSlice(m.Attributes.Address)
		if !ok {
			return
		}
		e := neighbourEntry{device: m.Index, state: m.State}
		if c := m.Attributes.CacheInfo; c != nil {
			e.confirmed = now.Add(-time.Duration(c.Confirmed) * clockTick)
		}
		if old := entries[ip.Unmap()]; !old.valid() && (e.valid() || old.state&unix.NUD_INCOMPLETE == 0) {
			entries[ip.Unmap()] = e
		}
	})
	return entries, err
}

// clockTick is the unit of times in the neighbour table (USER_HZ).
const clockTick = time.Second / 100

// neighbourQuestion is rtnetlink's message without attributes that are not set,
// which the kernel refuses.
type neighbourQuestion struct {
	rtnetlink.NeighMessage
	address netip.Addr
}

// MarshalBinary implements encoding.BinaryMarshaler for rtnetlink.
func (m *neighbourQuestion) MarshalBinary() ([]byte, error) {
	b, err := m.NeighMessage.MarshalBinary()
	if err != nil {
		return nil, err
	}
	attributes := netlink.NewAttributeEncoder()
	attributes.Bytes(unix.NDA_DST, m.address.AsSlice())
	extra, err := attributes.Encode()
	return append(b, extra...), err
}

// askNeighbour makes the kernel ask a neighbour whether it is there: by unicast one
// whose MAC address it has, else by ARP or neighbour discovery. A refusal, such as of a
// device that is down, is no answer either, and is not reported.
func (r *rtnl) askNeighbour(a netip.Addr, e neighbourEntry) {
	m := &neighbourQuestion{address: a}
	m.Family, m.Index = uint16(familyNumber(a.Is6())), e.device
	if e.valid() {
		m.State = unix.NUD_PROBE
	} else {
		m.Flags = unix.NTF_USE
	}
	_, _ = r.conn.Execute(m, unix.RTM_NEWNEIGH, netlink.Request|netlink.Acknowledge|netlink.Create|netlink.Replace)
}

// lookUp asks the kernel where it would send a packet for to.
func (r *rtnl) lookUp(to netip.Addr) (*rtnetlink.RouteMessage, error) {
	request := &rtnetlink.RouteMessage{
		Family:     uint8(familyNumber(to.Is6())),
		DstLength:  uint8(to.BitLen()),
		Attributes: rtnetlink.RouteAttributes{Dst: to.AsSlice()},
	}
	answers, err := r.conn.Execute(request, unix.RTM_GETROUTE, netlink.Request)
	if err != nil {
		return nil, err
	}
	if len(answers) == 0 {
		return nil, errors.New("the kernel gives no answer")
	}
	m, ok := answers[0].(*rtnetlink.RouteMessage)
	if !ok {
		return nil, fmt.Errorf("the kernel answers with a %T", answers[0])
	}
	return m, nil
}

// deliversHere reports whether packets for a end at this host: the address is on a
// device, or a local route has it.
func (r *rtnl) deliversHere(a netip.Addr) bool {
	m, err := r.lookUp(a)
	return err == nil && m.Type == unix.RTN_LOCAL
}

// route asks the kernel how it would reach a node.
func (r *rtnl) route(node netip.Addr, vips map[netip.Addr]bool) hop {
	m, err := r.lookUp(node)
	if err != nil {
		return hop{problem: fmt.Sprintf("route to the real server: %v", cmp.Or(errnoOf(err), err))}
	}
	source, _ := netip.AddrFromSlice(m.Attributes.Src)
	at := hop{device: int(m.Attributes.OutIface), source: source.Unmap()}
	if m.Attributes.Metrics != nil {
		at.mtu = int(m.Attributes.Metrics.MTU)
	}
	switch {
	case m.Type == unix.RTN_LOCAL:
		at.problem = "the real server is the director itself"
	case m.Type != unix.RTN_UNICAST:
		at.broadcast = m.Type == unix.RTN_BROADCAST
		at.problem = "there is no route to the real server"
	case m.Attributes.Gateway != nil:
		at.problem, at.router = "the real server is behind a router: direct routing does not reach it", true
	case !source.IsValid():
		at.problem = "the director has no address on the way to the real server"
	case vips[at.source]:
		at.problem = "the director has no address on the way to the real server but the VIP"
	}
	return at
}

// resolveNeighbour makes the kernel look up a node, by an empty datagram to the
// discard port. fd is a UDP socket of the node's family. The answer, if any, is
// an ICMP error, which the program does not read.
func resolveNeighbour(fd int, node netip.Addr) {
	const discard = 9 // RFC 863
	_ = unix.Sendto(fd, nil, unix.MSG_DONTWAIT, socketAddress(netip.AddrPortFrom(node, discard)))
}

// socketAddress is a as system calls take it.
func socketAddress(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
