// What the process may still do after its start: the capabilities that it gives up, and
// where it may write.
//
// Used by main_rights.go. A director reads from the network and from files that others
// write. A program that makes it do something else finds few rights. Nothing here comes
// back: each function changes the whole process until it ends, and what it starts too.
// It does not know what a director needs; main_rights.go decides that.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	landlocksys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// capabilities is a set of capabilities: 1<<unix.CAP_NET_ADMIN and so on.
type capabilities uint64

// capabilityNames are those that the log names.
var capabilityNames = []struct {
	set  capabilities
	name string
}{
	{1 << unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
	{1 << unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"},
	{1 << unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"},
}

func (c capabilities) String() string {
	var names []string
	for _, n := range capabilityNames {
		if c&n.set != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ", ")
}

// capabilityData is what capget(2) and capset(2) exchange: two halves of 32 bits.
type capabilityData [2]unix.CapUserData

func (d *capabilityData) permitted() capabilities {
	return capabilities(d[0].Permitted) | capabilities(d[1].Permitted)<<32
}

// capabilityHeader names the calling thread, and the two halves.
func capabilityHeader() *unix.CapUserHeader {
	return &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
}

// permittedCapabilities is what the process may do now.
func permittedCapabilities() (capabilities, error) {
	var d capabilityData
	if err := unix.Capget(capabilityHeader(), &d[0]); err != nil {
		return 0, fmt.Errorf("capget: %w", err)
	}
	return d.permitted(), nil
}

// withCapabilities calls f, which must not use another goroutine, with none of the
// capabilities but keep. After it all are there again.
func withCapabilities(keep capabilities, f func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all capabilityData
	if err := unix.Capget(capabilityHeader(), &all[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	few := all
	few[0].Effective &= uint32(keep)
	few[1].Effective &= uint32(keep >> 32)
	if err := unix.Capset(capabilityHeader(), &few[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	f()
	if err := unix.Capset(capabilityHeader(), &all[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// dropCapabilities leaves the process, and the programs that it starts, no capability but
// those of keep that it has. A process without CAP_SETPCAP keeps its bounding set, which
// gives it nothing once no_new_privs is set.
func dropCapabilities(keep capabilities) error {
	for c := uintptr(0); c < 64; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil {
			break // the kernel has no more
		}
		if has == 0 || keep&(1<<c) != 0 {
			continue
		}
		if err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); err != nil {
			if !errors.Is(err, unix.EPERM) {
				return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
			}
			break
		}
	}
	// Linux before 4.3 has no ambient set.
	if err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("clear the ambient set: %w", err)
	}
	has, err := permittedCapabilities()
	if err != nil || has&^keep == 0 {
		return err // a filter of a service manager may forbid capset altogether
	}
	left := has & keep
	half := func(c uint32) unix.CapUserData { return unix.CapUserData{Effective: c, Permitted: c} }
	d := capabilityData{half(uint32(left)), half(uint32(left >> 32))}
	header := capabilityHeader()
	if err := onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(&d)), 0); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// forbidNewPrivileges makes exec(2) give no rights that this process does not have.
func forbidNewPrivileges() error {
	if err := onAllThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

// onAllThreads makes a system call on each thread of the process, and ends the process if
// the answers differ. Capabilities, no_new_privs and Landlock's rules belong to a thread,
// and one that begins later has those of the one that starts it: Go starts none meanwhile,
// and none from a thread that is locked, as that of withCapabilities. With cgo, as in the
// race detector's builds, Go does not know all threads: the error is ENOTSUP.
//
//go:uintptrescapes
func onAllThreads(trap, a, b, c uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(trap, a, b, c, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// writing are the rights that restrictWriting takes away outside of its directories. A
// right that is not in the list, such as reading, stays as it is everywhere. Linux before
// 6.2 knows no right to truncate, and forbids nothing there.
const writing landlock.AccessFSSet = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
	unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
	unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
	unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM

// restrictWriting lets the process write below the directories of paths alone
// (landlock(7)). One that does not exist is left out. Files that are open stay as they are.
// It fails where the kernel is older than 5.13, or was built or booted without Landlock.
func restrictWriting(paths []string) error {
	if _, err := landlocksys.LandlockGetABIVersion(); err != nil {
		return fmt.Errorf("the kernel has no Landlock: %w", err)
	}
	for _, path := range paths {
		if err := keepInode(path); err != nil {
			return err
		}
	}
	// At best: a kernel that does not know one of the rights restricts the others.
	rules := landlock.Config{HandledAccessFS: writing}.BestEffort()
	return rules.RestrictPaths(landlock.PathAccess(writing, paths...).IgnoreIfMissing())
}

// keepInode opens the directory at path until the process ends. A rule belongs to an
// inode, and /proc makes another one for the same directory as soon as nothing uses the
// first; the rule itself does not count as use.
func keepInode(path string) error {
	_, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return nil
}
