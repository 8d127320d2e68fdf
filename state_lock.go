// The locks against a second controller: one file in the state directory, one name in
// the network namespace.
//
// Used by http_socket.go, cmd*.go and main.go. A controller takes both before anything else. A
// lock of another user does not prevent a start, and a lock that a controller may have is never
// taken from it. Nothing here follows a link or writes to a file of another user.

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errLockMoved says that the path names another file than a moment ago.
var errLockMoved = errors.New("another process has replaced the lock file meanwhile")

// lockFile is the state directory's lock.
type lockFile struct {
	path string
	log  *slog.Logger
}

// lock takes the directory for this process, until it ends. The error names
// the process that has it. The file is nil where a full or read-only directory
// has no room for one: the director starts all the same.
func (d *stateDir) lock(log *slog.Logger) (*os.File, error) {
	l := lockFile{filepath.Join(d.path, "lock"), log}
	f, err := l.take()
	switch {
	case err == nil:
		if info, err := f.Stat(); err == nil && private(info) {
			l.writePID(f)
		}
		return f, nil
	case noRoom(err):
		log.Warn("the lock file cannot be written: a second controller with this state directory would not be stopped", "file", l.path, "err", err)
		return nil, nil
	}
	return nil, err
}

// noRoom reports whether err says that there can be no file: the file system is full,
// read-only or broken, or the directory cannot be made or written to.
func noRoom(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO, unix.ENOTDIR, unix.ELOOP, unix.ENOENT, unix.EACCES, unix.EPERM}, func(is error) bool {
		return errors.Is(err, is)
	})
}

// take takes the lock, and replaces a file that is not a controller's. The guard lets
// one controller at a time do so; where there is no room for it, only a lock that is
// there already can be taken.
func (l lockFile) take() (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) { // a link to nothing is in the way
			err = fmt.Errorf("%w: %w", unix.ENOTDIR, err)
		}
		return nil, fmt.Errorf("state directory: %w", err)
	}
	release, err := l.guard()
	if err != nil && !noRoom(err) {
		return nil, fmt.Errorf("lock %s: %w", l.path, err)
	}
	defer release()
	f, old, foreign, err := l.open()
	if err != nil || foreign == "" && private(old) {
		return f, err
	}
	fresh, err := l.replace(f, old)
	if foreign == "" && err != nil && !errors.Is(err, errLockMoved) {
		_ = f.Chmod(0o600) // the lock counts, also without
		return f, nil
	}
	if f != nil {
		f.Close()
	}
	if err != nil {
		why := cmp.Or(foreign, "an earlier version made it")
		return nil, fmt.Errorf("lock %s: %s, and it cannot be replaced: %w", l.path, why, err)
	}
	if foreign != "" {
		l.log.Warn("the lock file of the state directory was not a controller's and has been replaced", "file", l.path, "why", foreign)
	}
	return fresh, nil
}

// open opens or makes the lock file, and locks it. foreign says why it is not a
// controller's, and then f may be nil. The error names the controller that has it.
func (l lockFile) open() (f *os.File, info os.FileInfo, foreign string, err error) {
	info, err = os.Lstat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, "", fmt.Errorf("state directory: %w", err)
	case info.IsDir():
		return nil, nil, "", fmt.Errorf("lock %s: it is a directory; remove it", l.path)
	case oddLock(info) != "":
		return nil, info, oddLock(info), nil
	}
	if f, err = openLock(l.path); err != nil {
		return nil, nil, "", fmt.Errorf("state directory: %w", err)
	}
	info, err = f.Stat()
	if err == nil && oddLock(info) != "" {
		err = errLockMoved
	}
	if err == nil {
		err = flock(f)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := holderOf(info)
		if holder.foreign {
			return f, info, fmt.Sprintf("process %d of user %d has locked it", holder.pid, holder.uid), nil
		}
		defer f.Close()
		return nil, nil, "", holder.refuses(f, filepath.Dir(l.path))
	}
	if err == nil && !l.names(info) {
		err = errLockMoved
	}
	if err != nil {
		f.Close()
		return nil, nil, "", fmt.Errorf("lock %s: %w", l.path, err)
	}
	return f, info, "", nil
}

// openLock opens or makes the file at path. It does not follow a link and does not
// wait for the other end of a FIFO.
func openLock(path string) (*os.File, error) {
	const flags = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|flags, 0o600)
	if errors.Is(err, unix.EROFS) {
		if again, err := os.OpenFile(path, os.O_RDONLY|flags, 0); err == nil {
			return again, nil
		}
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EISDIR) {
		err = errLockMoved // it was none of these a moment ago
	}
	return f, err
}

func flock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// oddLock says why a file cannot be the lock of a controller of this user; "" = it
// can.
func oddLock(info os.FileInfo) string {
	if !info.Mode().IsRegular() {
		return "it is no regular file but " + info.Mode().Type().String()
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; !trusted(int(uid)) {
		return fmt.Sprintf("it belongs to user %d", uid)
	}
	return ""
}

// private reports whether a lock file is this user's alone. An earlier version let
// every user open it: a process that has it open can lock it later, whatever its mode
// is then. A file with a second name may be another program's, and is not written to.
func private(info os.FileInfo) bool {
	return info.Mode().Perm()&0o077 == 0 && info.Sys().(*syscall.Stat_t).Nlink == 1
}

// trusted reports whether a controller of user uid may be one of ours.
func trusted(uid int) bool { return uid == 0 || uid == os.Geteuid() || uid == os.Getuid() }

// names reports whether the path is that of the file that info describes.
func (l lockFile) names(info os.FileInfo) bool {
	now, err := os.Lstat(l.path)
	return err == nil && os.SameFile(now, info)
}

// replace puts a new file, locked, in the place of old, which f has open where that
// could be the lock of a controller. Both change places in one step, so that there
// is a lock file at each moment; then f is checked again, because a controller of an
// earlier version, which knows no guard, may have locked it meanwhile.
func (l lockFile) replace(f *os.File, old os.FileInfo) (fresh *os.File, err error) {
	beside := l.path + ".new"
	_ = os.Remove(beside) // of a controller that was killed; else the next step fails
	fresh, err = os.OpenFile(beside, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	// The one beside the path is removed last: fresh, or what fresh has replaced.
	defer os.Remove(beside)
	if err = flock(fresh); err == nil {
		err = exchange(beside, l.path)
	}
	if err == nil && (!(lockFile{path: beside}).names(old) || f != nil && flock(f) != nil && !holderOf(old).foreign) {
		err = errors.Join(errLockMoved, exchange(beside, l.path))
	}
	if err != nil {
		fresh.Close()
		return nil, err
	}
	return fresh, nil
}

func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// guard lets one process at a time take the lock. No other user can open its file,
// which exists only during that time. release is never nil.
func (l lockFile) guard() (release func(), err error) {
	g := lockFile{path: l.path + ".guard"}
	f, err := g.wait()
	if err != nil {
		return func() {}, err
	}
	return func() { os.Remove(g.path); f.Close() }, nil
}

// wait opens or makes the file, and waits for its lock, at most five seconds. The file is
// this user's alone.
func (l lockFile) wait() (*os.File, error) {
	for range 500 {
		f, err := openLock(l.path)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err == nil {
			err = flock(f)
		}
		switch {
		case err == nil && oddLock(info) != "":
			err = fmt.Errorf("%s: %s; remove it", l.path, oddLock(info))
		case err == nil && l.names(info):
			return f, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("%s: another process has locked it", l.path)
}

// writePID writes the process id for people and for error messages. Only the lock
// decides, so a full disk costs nothing but the number.
func (l lockFile) writePID(f *os.File) {
	pid := fmt.Appendln(nil, os.Getpid())
	_, err := f.WriteAt(pid, 0)
	if err = errors.Join(err, f.Truncate(int64(len(pid)))); err != nil {
		l.log.Warn("the process id cannot be written to the lock file", "file", l.path, "err", err)
	}
}

// maxPID is the greatest process id that a kernel gives (PID_MAX_LIMIT).
const maxPID = 1 << 22

// lockHolder is the process that has locked a file.
type lockHolder struct {
	pid, uid int  // pid 0 = unknown: a process in another PID namespace, or that this user may not see
	foreign  bool // it is known to be a process of another user
}

// refuses is the error for a controller that finds the lock f taken.
func (h lockHolder) refuses(f *os.File, dir string) error {
	pid := "unknown"
	if h.pid != 0 {
		pid = strconv.Itoa(h.pid)
	} else {
		b := make([]byte, 16)
		n, _ := f.ReadAt(b, 0)
		if n, err := strconv.Atoi(string(bytes.TrimSpace(b[:n]))); err == nil && n > 0 && n <= maxPID {
			pid = strconv.Itoa(n)
		}
	}
	return fmt.Errorf("another lvs-controller (pid %s) runs with state directory %s", pid, dir)
}

// holderOf finds the process that has locked the file of info. A controller locks the
// whole file and hands its lock to no other process, so one process of another user
// that has the lock is enough to know that no controller has it.
func holderOf(info os.FileInfo) (holder lockHolder) {
	for _, pid := range append(openLocks(info), listedLocks(info)...) {
		uid, err := realUser(pid)
		if err != nil {
			continue
		}
		if holder = (lockHolder{pid, uid, !trusted(uid)}); holder.foreign {
			break
		}
	}
	return holder
}

// realUser is the user who has started process pid: a program with the set-user-ID
// bit does not change it.
func realUser(pid int) (int, error) {
	_, rest, _ := strings.Cut(readStart(fmt.Sprintf("/proc/%d/status", pid)), "\nUid:\t")
	uid, _, _ := strings.Cut(rest, "\t")
	return strconv.Atoi(uid)
}

// readStart reads what a file of /proc says, 64 KiB at most.
func readStart(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, 64<<10)) // of a process that ends, what there is
	return string(b)
}

// openLocks lists the processes that have the file of info open and locked
// (proc_pid_fdinfo(5)), of those that this process may see.
func openLocks(info os.FileInfo) (pids []int) {
	inode := fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		fds, _ := os.ReadDir(filepath.Join(dir, "fdinfo"))
		for _, fd := range fds {
			lock := readStart(filepath.Join(dir, "fdinfo", fd.Name()))
			if !strings.Contains(lock, "FLOCK") || !strings.Contains(lock, inode) {
				continue
			}
			if open, err := os.Stat(filepath.Join(dir, "fd", fd.Name())); err == nil && os.SameFile(open, info) {
				pid, _ := strconv.Atoi(filepath.Base(dir))
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// listedLocks lists the processes that have locked the file of info, from /proc/locks:
// this process may not see which files other users' processes have open. One that has
// locked the file may have passed it on. Processes of other PID namespaces are missing
// there, and some file systems have another device number there.
func listedLocks(info os.FileInfo) (pids []int) {
	f, err := os.Open("/proc/locks")
	if err != nil {
		return nil
	}
	defer f.Close()
	sys := info.Sys().(*syscall.Stat_t)
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(sys.Dev), unix.Minor(sys.Dev), sys.Ino)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// "1: FLOCK  ADVISORY  WRITE 708 00:13:17 0 EOF" (proc_locks(5)). A process that
		// waits for the lock has an arrow behind the number.
		if fields := strings.Fields(lines.Text()); len(fields) > 5 && fields[1] == "FLOCK" && fields[5] == file {
			pid, _ := strconv.Atoi(fields[4])
			pids = append(pids, pid)
		}
	}
	return pids
}

// namespaceLock is an abstract socket (unix(7)): each network namespace has its own
// such names, and they end with the process.
const namespaceLock = "@lvs-controller"

// lockNamespace takes the network namespace for this process, until release is called
// or it ends: a second controller with another state directory would treat the first
// one's dummy device and routes as left by its own earlier run. The error names the
// process that has the name. Every user may take an abstract socket name: a process of
// another user, or one that does not accept connections, is no controller and is
// ignored.
func lockNamespace(log *slog.Logger) (release func(), err error) {
	for range 2 { // the process that has it may be about to end
		var listener net.Listener
		listener, err = net.Listen("unix", namespaceLock)
		if err == nil {
			go refuse(listener)
			return func() { listener.Close() }, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("lock the network namespace: %w", err)
		}
		var owner *unix.Ucred
		if owner, err = peerOf(namespaceLock); err == nil && int(owner.Uid) == os.Geteuid() {
			return nil, fmt.Errorf("another lvs-controller (pid %d) runs in this network namespace", owner.Pid)
		}
		if err == nil {
			err = fmt.Errorf("process %d of user %d has it", owner.Pid, owner.Uid)
		}
	}
	log.Warn("another program has the socket name of a controller: a second controller in this network namespace would not be stopped", "name", namespaceLock, "err", err)
	return func() {}, nil
}

// refuse closes each connection at once, so that the queue has room for the next
// process that asks which process listens.
func refuse(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

// peerOf is the process that listens on a Unix socket.
func peerOf(name string) (owner *unix.Ucred, err error) {
	conn, err := net.Dial("unix", name)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return peerCredentials(conn.(*net.UnixConn))
}

// peerCredentials is the process at the other end of conn, as it was when it connected or
// began to listen.
func peerCredentials(conn *net.UnixConn) (peer *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return peer, errors.Join(controlErr, err)
}
