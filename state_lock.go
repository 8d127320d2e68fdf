// The locks against a second controller: one file in the state directory, one name in
// the network namespace.
//
// Used by main.go. It takes both before anything else. A lock of another user does
// not prevent a start, and a lock that a controller may have is never taken from
// it. Nothing here follows a link or writes to a file of another user.

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errLockMoved says that another process has replaced the lock file meanwhile.
var errLockMoved = errors.New("other processes replace the lock file again and again")

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
	f, err := (*os.File)(nil), os.MkdirAll(d.path, 0o755)
	if err != nil {
		err = fmt.Errorf("state directory: %w", err)
	} else {
		f, err = l.take()
	}
	switch {
	case err == nil:
		l.writePID(f)
		return f, nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EROFS):
		log.Warn("the lock file cannot be written: a second controller with this state directory would not be stopped", "file", l.path, "err", err)
		return nil, nil
	}
	return nil, err
}

// take tries until it has the lock or knows that another controller has it.
func (l lockFile) take() (f *os.File, err error) {
	for range 100 { // each time another process has replaced it first
		if f, err = l.try(); !errors.Is(err, errLockMoved) {
			return f, err
		}
	}
	return nil, fmt.Errorf("lock %s: %w", l.path, err)
}

// try takes the lock once. Of several processes that try at once one succeeds: the
// lock counts only on the file that the path names, and replace gives back what a
// controller has locked meanwhile.
func (l lockFile) try() (*os.File, error) {
	there, err := os.Lstat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("state directory: %w", err)
	default:
		if odd := oddLock(there); odd != "" {
			return l.replaceWith(nil, there, odd)
		}
	}
	f, err := openLock(l.path)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	info, err := f.Stat()
	if err == nil && oddLock(info) != "" {
		err = errLockMoved
	}
	if err == nil {
		err = flock(f)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		holder := holderOf(f)
		if !holder.foreign {
			return nil, holder.refuses(f, filepath.Dir(l.path))
		}
		return l.replaceWith(f, info, fmt.Sprintf("process %d of user %d has locked it", holder.pid, holder.uid))
	}
	if err == nil && !l.names(info) {
		err = errLockMoved
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", l.path, err)
	}
	if info.Mode().Perm()&0o077 == 0 && onlyName(info) {
		return f, nil
	}
	// An earlier version let every user open the file. A process that has it open can
	// lock it later, whatever its mode is then. A file with a second name is replaced
	// too: it may be another program's, and is not written to.
	fresh, err := l.replace(f, info)
	if errors.Is(err, errLockMoved) {
		f.Close()
		return nil, err
	}
	if err != nil {
		return f, ignoreReadOnly(f.Chmod(0o600))
	}
	f.Close()
	return fresh, nil
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

func ignoreReadOnly(err error) error {
	if errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

func flock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// oddLock says why a file cannot be the lock of a controller of this user; "" = it
// can.
func oddLock(info os.FileInfo) string {
	if !info.Mode().IsRegular() {
		return "it is no regular file but " + info.Mode().Type().String()
	}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok && !trusted(int(sys.Uid)) {
		return fmt.Sprintf("it belongs to user %d", sys.Uid)
	}
	return ""
}

// onlyName reports whether a file has no second hard link.
func onlyName(info os.FileInfo) bool {
	sys, ok := info.Sys().(*syscall.Stat_t)
	return !ok || sys.Nlink == 1
}

// trusted reports whether a controller of user uid may be one of ours.
func trusted(uid int) bool { return uid == 0 || uid == os.Geteuid() || uid == os.Getuid() }

// names reports whether the path is that of the file that info describes.
func (l lockFile) names(info os.FileInfo) bool {
	now, err := os.Lstat(l.path)
	return err == nil && os.SameFile(now, info)
}

// replaceWith is replace, and says why.
func (l lockFile) replaceWith(f *os.File, old os.FileInfo, why string) (*os.File, error) {
	if old.IsDir() {
		return nil, fmt.Errorf("lock %s: it is a directory; remove it", l.path)
	}
	fresh, err := l.replace(f, old)
	if err != nil && !errors.Is(err, errLockMoved) {
		return nil, fmt.Errorf("lock %s: %s, and it cannot be replaced: %w", l.path, why, err)
	}
	if err == nil {
		l.log.Warn("the lock file of the state directory was not a controller's and has been replaced", "file", l.path, "why", why)
	}
	return fresh, err
}

// replace puts a new file, locked, in the place of old, which f has open where that
// could be the lock of a controller. Both change places in one step, so that there
// is a lock file at each moment; then f is checked again, because another
// controller may have locked it meanwhile.
func (l lockFile) replace(f *os.File, old os.FileInfo) (fresh *os.File, err error) {
	done, err := l.guard()
	if err != nil {
		return nil, err
	}
	defer done()
	if !l.names(old) {
		return nil, errLockMoved
	}
	beside := l.path + ".new"
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fresh, err = os.OpenFile(beside, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	// The one beside the path is removed last: fresh, or what fresh has replaced.
	defer os.Remove(beside)
	defer func() {
		if err != nil {
			fresh.Close()
			fresh = nil
		}
	}()
	if err := flock(fresh); err != nil {
		return fresh, err
	}
	if err := exchange(beside, l.path); err != nil {
		return fresh, err
	}
	taken, err := os.Lstat(beside)
	if err == nil && (!os.SameFile(taken, old) || f != nil && flock(f) != nil && !holderOf(f).foreign) {
		err = errLockMoved
	}
	if err != nil {
		return fresh, errors.Join(err, exchange(beside, l.path))
	}
	return fresh, nil
}

func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// guard lets one process at a time replace the lock file. No other user can open
// its file, which exists only during that time.
func (l lockFile) guard() (done func(), err error) {
	path := l.path + ".guard"
	for range 500 {
		f, err := openLock(path)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err == nil {
			if odd := oddLock(info); odd != "" {
				err = fmt.Errorf("%s: %s; remove it", path, odd)
			} else {
				err = flock(f)
			}
		}
		if err == nil && (lockFile{path: path}).names(info) {
			return func() { os.Remove(path); f.Close() }, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("%s: another process has locked it", path)
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

// holderOf finds the process that has locked f. A controller locks the whole file and
// hands its lock to no other process, so one process of another user that has the lock
// is enough to know that no controller has it.
func holderOf(f *os.File) lockHolder {
	info, err := f.Stat()
	if err != nil {
		return lockHolder{}
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return lockHolder{}
	}
	holder := holderAmong(openLocks(info, sys.Ino))
	if holder.pid == 0 {
		// Where this process may not see the open files of other users' processes, the
		// kernel's list names the process that locked the file, which may not be the
		// one that has it open still.
		device := fmt.Sprintf("%02x:%02x", unix.Major(sys.Dev), unix.Minor(sys.Dev))
		holder = holderAmong(listedLocks(device, sys.Ino))
	}
	return holder
}

// holderAmong is the process of another user among pids; if there is none, any of them.
func holderAmong(pids []int) (holder lockHolder) {
	for _, pid := range pids {
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
	b, err := readStart(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(b) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				return strconv.Atoi(fields[0])
			}
		}
	}
	return 0, fmt.Errorf("process %d: no user", pid)
}

// readStart reads what a file of /proc says, 64 KiB at most.
func readStart(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return string(b), err
}

// openLocks lists the processes that have the file of info open and locked
// (proc_pid_fdinfo(5)), of those that this process may see.
func openLocks(info os.FileInfo, inode uint64) (pids []int) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		fds, _ := os.ReadDir(filepath.Join(dir, "fdinfo"))
		for _, fd := range fds {
			text, err := readStart(filepath.Join(dir, "fdinfo", fd.Name()))
			if err != nil || !locks(text, inode) {
				continue
			}
			if open, err := os.Stat(filepath.Join(dir, "fd", fd.Name())); err == nil && os.SameFile(open, info) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// locks reports whether an fdinfo file shows a lock of flock(2) on inode.
func locks(fdinfo string, inode uint64) bool {
	for line := range strings.Lines(fdinfo) {
		if lock, ok := strings.CutPrefix(line, "lock:"); ok {
			if _, at, ok := parseLock(lock); ok && strings.HasSuffix(at, fmt.Sprintf(":%d", inode)) {
				return true
			}
		}
	}
	return false
}

// listedLocks lists the processes that have locked the file, from /proc/locks.
// Processes of other PID namespaces are missing there, and some file systems have
// another device number there.
func listedLocks(device string, inode uint64) (pids []int) {
	f, err := os.Open("/proc/locks")
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if pid, at, ok := parseLock(lines.Text()); ok && at == fmt.Sprintf("%s:%d", device, inode) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parseLock reads "1: FLOCK  ADVISORY  WRITE 708 00:13:17 0 EOF" (proc_locks(5)). A
// process that waits for the lock has an arrow behind the number.
func parseLock(line string) (pid int, at string, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[1] != "FLOCK" {
		return 0, "", false
	}
	pid, err := strconv.Atoi(fields[4])
	return pid, fields[5], err == nil
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
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		owner, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return owner, errors.Join(controlErr, err)
}
