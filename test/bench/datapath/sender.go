// A source of packets of distinct flows, UDP datagrams or TCP SYNs, that costs as little
// as AF_PACKET allows, and the counter that says how many of them have arrived.

package datapath

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"lvs-controller/test/lab"
)

const (
	frameBytes = 60 // the shortest that Ethernet has
	burst      = 64 // frames of one system call
	perClient  = 16 // UDP flows of one client address
	synBytes   = 40 // an IPv4 header and a TCP one; the rest of the frame is padding
	firstPort  = 10_000
)

// firstClient is the address of the first client; the others follow.
var firstClient = netip.MustParseAddr("10.128.0.1")

// target is where frames go.
type target struct {
	mac  net.HardwareAddr
	addr netip.Addr
	port uint16
}

// sender has a raw socket on one device. It sends UDP, or with syn the SYNs of a flood,
// each from its own address.
type sender struct {
	host   *lab.Host
	syn    bool
	fd     int
	frames [burst][frameBytes]byte
	iov    [burst]unix.Iovec
	msgs   [burst]message
}

// message is struct mmsghdr.
type message struct {
	hdr unix.Msghdr
	len uint32
	_   uint32
}

// newSender opens a raw socket on a device of h. It receives nothing.
func newSender(h *lab.Host, device string) (*sender, error) {
	s := &sender{host: h, fd: -1}
	for i := range s.msgs {
		s.iov[i].Base = &s.frames[i][0]
		s.iov[i].SetLen(frameBytes)
		s.msgs[i].hdr.Iov = &s.iov[i]
		s.msgs[i].hdr.SetIovlen(1)
	}
	var err error
	h.Do(func() { err = s.open(device) })
	if err != nil {
		s.close()
		return nil, fmt.Errorf("raw socket on %s of %s: %w", device, h.Name, err)
	}
	return s, nil
}

func (s *sender) open(device string) error {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return err
	}
	return unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: link.Index})
}

func (s *sender) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
}

// prepare makes the part of all frames that does not depend on the flow, and returns
// the sum of the IPv4 header's words, without the source address.
func (s *sender) prepare(to target) (sum uint32) {
	for i := range s.frames {
		f := s.frames[i][:]
		clear(f)
		copy(f, to.mac)
		copy(f[6:], net.HardwareAddr{2, 0, 0, 0, 1, 1})
		binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
		ip := f[14:34]
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(ip[2:], frameBytes-14)
		copy(ip[16:], to.addr.AsSlice())
		if s.syn {
			ip[9] = unix.IPPROTO_TCP
			binary.BigEndian.PutUint16(ip[2:], synBytes)
			tcp := f[34:]
			binary.BigEndian.PutUint16(tcp[2:], to.port)
			tcp[12], tcp[13], tcp[14] = 5<<4, 2, 0xff // no options, SYN, a window
			continue
		}
		udp := f[34:]
		binary.BigEndian.PutUint16(udp[2:], to.port)
		binary.BigEndian.PutUint16(udp[4:], frameBytes-34) // without a checksum
	}
	return wordSum(s.frames[0][14:34])
}

// wordSum adds up the 16-bit words that b consists of.
func wordSum(b []byte) (sum uint32) {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}

// checksum is that of the Internet for what has this sum.
func checksum(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum)
}

// address writes the flow's source into frame i, and the checksum that this makes.
func (s *sender) address(i, flow int, sum uint32) {
	f := s.frames[i][:]
	each := perClient
	if s.syn {
		each = 1
	}
	first := firstClient.As4()
	source := binary.BigEndian.Uint32(first[:]) + uint32(flow/each)
	binary.BigEndian.PutUint32(f[26:], source)
	binary.BigEndian.PutUint16(f[24:], checksum(sum+source>>16+source&0xffff))
	binary.BigEndian.PutUint16(f[34:], uint16(firstPort+flow%each))
	if s.syn {
		binary.BigEndian.PutUint16(f[50:], 0)
		pseudo := wordSum(f[26:34]) + unix.IPPROTO_TCP + synBytes - 20
		binary.BigEndian.PutUint16(f[50:], checksum(pseudo+wordSum(f[34:54])))
	}
}

// send sends n packets of as many flows, from the given one on and around. All of it
// runs on one CPU: with veth devices the kernel forwards a packet in the softirq of the
// thread that sends it.
func (s *sender) send(to target, first, n, flows int) error {
	sum := s.prepare(to)
	var err error
	s.host.Do(func() {
		var cpus unix.CPUSet
		cpus.Set(runtime.NumCPU() - 1)
		if err = unix.SchedSetaffinity(0, &cpus); err != nil {
			return
		}
		for sent := 0; sent < n && err == nil; {
			batch := min(burst, n-sent)
			for i := range batch {
				s.address(i, (first+sent+i)%flows, sum)
			}
			err = s.flush(batch)
			sent += batch
		}
	})
	return err
}

// flush sends the first n frames.
func (s *sender) flush(n int) error {
	for from := 0; from < n; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.msgs[from])), uintptr(n-from), 0, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return fmt.Errorf("sendmmsg: %w", errno)
		}
		if errno == 0 {
			from += int(sent)
		}
	}
	return nil
}

// counter reads what a device has received.
type counter struct {
	file   *os.File
	device string
	buf    [4096]byte
}

func newCounter(h *lab.Host, device string) (*counter, error) {
	c := &counter{device: device}
	var err error
	// The file stays that of the namespace in which it was opened.
	h.Do(func() { c.file, err = os.Open("/proc/thread-self/net/dev") })
	return c, err
}

// read returns how many bytes and packets there were.
func (c *counter) read() (octets, packets int, err error) {
	n, err := c.file.ReadAt(c.buf[:], 0)
	if n == 0 {
		return 0, 0, fmt.Errorf("counters of %s: %w", c.device, err)
	}
	for line := range strings.Lines(string(c.buf[:n])) {
		name, values, _ := strings.Cut(line, ":")
		if fields := strings.Fields(values); strings.TrimSpace(name) == c.device && len(fields) > 2 {
			if octets, err = strconv.Atoi(fields[0]); err != nil {
				return 0, 0, err
			}
			packets, err = strconv.Atoi(fields[1])
			return octets, packets, err
		}
	}
	return 0, 0, fmt.Errorf("no device %s", c.device)
}
