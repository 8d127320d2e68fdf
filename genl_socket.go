// The system calls of a netlink socket to the kernel.
//
// Used by genl_ahead.go and genl_conn.go. It knows no message: genl_ipvs.go encodes
// and genl_decode.go decodes. Tests put a socket in its place whose calls fail.

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelSocket is a netlink socket. Each error is the errno of the system call.
type kernelSocket interface {
	// write sends b, some requests. An unconnected netlink socket's goes to the kernel.
	write(b []byte) error
	// read waits for an answer and returns how much of b has it; EAGAIN after the time
	// that the socket may wait.
	read(b []byte) (n int, err error)
	// writeNow and readNow are the same without a word to the Go scheduler, which
	// otherwise gives this thread's processor to another thread in the middle of each
	// system call, and wakes a thread for it. readNow does not wait: where the kernel
	// has no answer yet, the error is EAGAIN.
	writeNow(b []byte) error
	readNow(b []byte) (n int, err error)
	close() error
}

// fdSocket is the kernelSocket with that descriptor.
type fdSocket int

func (s fdSocket) write(b []byte) error {
	_, err := unix.Write(int(s), b)
	return err
}

func (s fdSocket) read(b []byte) (int, error) { return unix.Read(int(s), b) }

func (s fdSocket) writeNow(b []byte) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(s), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))); errno != 0 {
		return errno
	}
	return nil
}

func (s fdSocket) readNow(b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func (s fdSocket) close() error { return unix.Close(int(s)) }
