// Whole lists from the kernel: devices, addresses, routes, neighbours and what other
// netlink families list.
//
// Used by genl*.go, conflict_watch.go, http_vips.go and cmd_doctor_ask.go. A list
// that the kernel marks as interrupted is read again, and never returned. It only
// reads.

package main

import (
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a list is read that changes meanwhile.
const dumpTries = 8

// errInterrupted means that a list changed at each attempt to read it, so that each
// answer may lack entries that were there all the time.
var errInterrupted = errors.New("it changes faster than it can be read")

// dumpConn is a netlink socket as dump needs it.
type dumpConn interface {
	Send(netlink.Message) (netlink.Message, error)
	// receive returns what the kernel sends at a time.
	receive() ([]byte, error)
	SetOption(netlink.ConnOption, bool) error
	Close() error
}

// dump sends a request for a list and returns the data of its messages. The kernel
// sends a long list in several parts, and marks a part, maybe only the last message,
// when the list has changed since the part before.
func dump(conn dumpConn, request netlink.Message) ([][]byte, error) {
	request.Header.Flags |= netlink.Request | netlink.Dump
	for range dumpTries {
		sent, err := conn.Send(request)
		if err != nil {
			return nil, err
		}
		all, whole, err := readDump(conn, sent.Header.Sequence)
		if err != nil || whole {
			return all, err
		}
	}
	return nil, errInterrupted
}

// readDump reads the answer to one request to its end, and reports whether the list
// did not change meanwhile.
func readDump(conn dumpConn, sequence uint32) (all [][]byte, whole bool, err error) {
	whole = true
	for {
		part, err := conn.receive()
		if err != nil {
			return nil, false, err
		}
		messages, err := syscall.ParseNetlinkMessage(part)
		if err != nil {
			return nil, false, fmt.Errorf("read the kernel's answer: %w", err)
		}
		for _, m := range messages {
			if m.Header.Seq != sequence { // of an abandoned list
				continue
			}
			whole = whole && m.Header.Flags&unix.NLM_F_DUMP_INTR == 0
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if len(m.Data) >= 4 {
					if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
						return nil, false, unix.Errno(errno)
					}
				}
				return all, whole, nil
			default:
				all = append(all, m.Data)
			}
		}
	}
}

// dumpSocket is a socket of the library, which hides the message that ends a list.
type dumpSocket struct{ *netlink.Conn }

// openDumps opens a socket for lists, which can be used until deadline.
func openDumps(family int, deadline time.Time) (dumpSocket, error) {
	conn, err := netlink.Dial(family, nil)
	if err != nil {
		return dumpSocket{}, err
	}
	if err := conn.SetReadDeadline(deadline); err != nil {
		conn.Close()
		return dumpSocket{}, err
	}
	return dumpSocket{conn}, nil
}

// receive implements dumpConn.
func (s dumpSocket) receive() (part []byte, err error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		var n int
		if n, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT); err == nil {
			part = make([]byte, n)
			n, _, err = unix.Recvfrom(int(fd), part, unix.MSG_DONTWAIT)
			part = part[:max(n, 0)]
		}
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if waitErr != nil {
		err = waitErr
	}
	return part, wrap("receive from the kernel", err)
}

// each passes the data of each entry of a route netlink list to take.
func (r *rtnl) each(what string, request encoding.BinaryMarshaler, messageType uint16, take func([]byte) error) error {
	data, err := request.MarshalBinary()
	if err != nil {
		return wrap("list "+what, err)
	}
	all, err := dump(r.dumps, netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(messageType)}, Data: data})
	for i := 0; i < len(all) && err == nil; i++ {
		err = take(all[i])
	}
	return wrap("list "+what, err)
}

// links lists the devices.
func (r *rtnl) links() (all []rtnetlink.LinkMessage, err error) {
	return r.linksLike("devices", &rtnetlink.LinkMessage{})
}

// linksLike lists the devices that the kernel finds to be like request.
func (r *rtnl) linksLike(what string, request *rtnetlink.LinkMessage) (all []rtnetlink.LinkMessage, err error) {
	err = r.each(what, request, unix.RTM_GETLINK, func(data []byte) error {
		all = append(all, rtnetlink.LinkMessage{})
		return all[len(all)-1].UnmarshalBinary(data)
	})
	return all, err
}

// addresses lists the addresses of all devices.
func (r *rtnl) addresses() (all []rtnetlink.AddressMessage, err error) {
	err = r.each("addresses", &rtnetlink.AddressMessage{}, unix.RTM_GETADDR, func(data []byte) error {
		all = append(all, rtnetlink.AddressMessage{})
		return all[len(all)-1].UnmarshalBinary(data)
	})
	return all, err
}

// eachRoute passes each route that the kernel finds to be like request to take. What
// take gets is valid until it returns.
func (r *rtnl) eachRoute(request *rtnetlink.RouteMessage, take func(*rtnetlink.RouteMessage)) error {
	return r.each("routes", request, unix.RTM_GETROUTE, func(data []byte) error {
		var m rtnetlink.RouteMessage
		err := m.UnmarshalBinary(data)
		if err == nil {
			take(&m)
		}
		return err
	})
}

// eachNeighbour passes each neighbour to take. What take gets is valid until it returns.
func (r *rtnl) eachNeighbour(take func(*rtnetlink.NeighMessage)) error {
	return r.each("neighbours", &rtnetlink.NeighMessage{}, unix.RTM_GETNEIGH, func(data []byte) error {
		var m rtnetlink.NeighMessage
		err := m.UnmarshalBinary(data)
		if err == nil {
			take(&m)
		}
		return err
	})
}

// netDevices lists the devices as net.Interfaces does, which takes an interrupted list for whole.
func netDevices() ([]net.Interface, error) {
	s, err := openDumps(unix.NETLINK_ROUTE, time.Now().Add(rtnlTimeout))
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	defer s.Close()
	links, err := (&rtnl{dumps: s}).links()
	all := make([]net.Interface, 0, len(links))
	for i := range links {
		all = append(all, netInterface(&links[i]))
	}
	return all, err
}

// netInterface is m as package net has it.
func netInterface(m *rtnetlink.LinkMessage) net.Interface {
	ifi := net.Interface{Index: int(m.Index)}
	for _, f := range [...]struct {
		kernel uint32
		net    net.Flags
	}{
		{unix.IFF_UP, net.FlagUp},
		{unix.IFF_RUNNING, net.FlagRunning},
		{unix.IFF_BROADCAST, net.FlagBroadcast},
		{unix.IFF_LOOPBACK, net.FlagLoopback},
		{unix.IFF_POINTOPOINT, net.FlagPointToPoint},
		{unix.IFF_MULTICAST, net.FlagMulticast},
	} {
		if m.Flags&f.kernel != 0 {
			ifi.Flags |= f.net
		}
	}
	if a := m.Attributes; a != nil {
		ifi.Name, ifi.MTU = a.Name, int(a.MTU)
		if m.Flags&unix.IFF_LOOPBACK == 0 && len(a.Address) == len(macAddress{}) && macAddress(a.Address) != (macAddress{}) {
			ifi.HardwareAddr = a.Address
		}
	}
	return ifi
}
