package lab

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// sctpSocket makes a one-to-one style SCTP socket and has use bind or connect
// it. The kernel loads the protocol.
func sctpSocket(at netip.AddrPort, use func(fd int, at unix.Sockaddr) error) (*os.File, error) {
	family := unix.AF_INET
	var to unix.Sockaddr
	if at.Addr().Is6() {
		family = unix.AF_INET6
		to = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	} else {
		to = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := use(fd, to); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "sctp"), nil
}

// ServeSCTP answers each SCTP association to addr:port with the host's name,
// until the lab closes.
func (h *Host) ServeSCTP(addr netip.Addr, port uint16) {
	var (
		file *os.File
		err  error
	)
	h.Do(func() {
		file, err = sctpSocket(netip.AddrPortFrom(addr, port), func(fd int, at unix.Sockaddr) error {
			return errors.Join(unix.Bind(fd, at), unix.Listen(fd, 16))
		})
	})
	if err != nil {
		h.lab.fail("%s: SCTP: %v", h.Name, err)
	}
	defer file.Close()
	listener, err := net.FileListener(file) // to Go any stream is TCP
	if err != nil {
		h.lab.fail("%s: SCTP: %v", h.Name, err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, h.Name)
			conn.Close()
		}
	}()
	h.lab.later(func() { listener.Close() })
}

// AskSCTP opens n SCTP associations to addr:port, one after the other, and
// counts the answers by what they say.
func (h *Host) AskSCTP(n int, addr netip.Addr, port uint16) map[string]int {
	answers := make(map[string]int)
	h.Do(func() {
		for range n {
			answer, err := askSCTP(netip.AddrPortFrom(addr, port))
			if err != nil {
				answer = "failed"
			}
			answers[answer]++
		}
	})
	return answers
}

func askSCTP(to netip.AddrPort) (string, error) {
	file, err := sctpSocket(to, func(fd int, at unix.Sockaddr) error {
		limit := unix.NsecToTimeval(RequestLimit.Nanoseconds())
		return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit), unix.Connect(fd, at))
	})
	if err != nil {
		return "", err
	}
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(soon())
	answer, err := io.ReadAll(conn)
	return string(answer), err
}
