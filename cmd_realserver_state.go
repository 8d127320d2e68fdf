// What realserver remembers of a node: its VIPs, and what the settings were before.
//
// Used by cmd*.go. It is a file under /run, which a reboot removes together with the
// kernel's settings. A file that cannot be read stops the command before it changes anything.
// It is written only when it says something new, so that a full /run stops no repair.

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// realserverState is the state file.
type realserverState struct {
	// Addresses are the VIPs of command lines that the node was prepared for, without
	// those undone.
	Addresses []VIPAddress `json:"addresses,omitempty"`
	// Files are the VIPs that each file listed last, by their owner: what -owner says, or
	// else the file's path.
	Files map[string][]VIPAddress `json:"files,omitempty"`
	// Sysctls are the settings of the devices that were changed.
	Sysctls []savedSysctl `json:"sysctls,omitempty"`
	// Devices and Ports are the ends of tunnels.
	Devices []savedDevice `json:"devices,omitempty"`
	Ports   []savedPort   `json:"ports,omitempty"`
}

// realserverFile is where the command keeps it, and formerRealserverFile where earlier
// versions did, in the directory of the director.
const (
	realserverFile       = "/run/lvs-realserver/realserver.json"
	formerRealserverFile = "/run/lvs-controller/realserver.json"
)

// realserverStateMost is the largest state file, in bytes: mostVIPs for each of some owners,
// with tunnels.
const realserverStateMost = 4 << 20

// nodeState is the state together with its file.
type nodeState struct {
	realserverState
	path  string
	saved []byte // what the file says; nil: there is none
}

// ownerMost is the longest -owner, and ownerMarks what it may have beside letters and digits.
const (
	ownerMost  = 253
	ownerMarks = "._/-:"
)

// isOwner reports whether name can be an owner.
func isOwner(name string) bool {
	return name != "" && len(name) <= ownerMost && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune(ownerMarks, r)
	})
}

// prepared are the VIPs that the node was prepared for, each once.
func (s *realserverState) prepared() []VIPAddress {
	all := slices.Clone(s.Addresses)
	for _, listed := range s.Files {
		all = append(all, listed...)
	}
	sortBy(all, VIPAddress.Compare)
	return slices.Compact(all)
}

// needs are the VIPs of command lines and of all owners but one, with who needs each.
func (s *realserverState) needs(except string) map[VIPAddress]string {
	by := make(map[VIPAddress]string)
	for owner, listed := range s.Files {
		for _, v := range listed {
			if owner != except && (by[v] == "" || owner < by[v]) { // the same one each time
				by[v] = shorten(owner, ownerMost)
			}
		}
	}
	for _, v := range s.Addresses {
		by[v] = "a command line (-vip)"
	}
	return by
}

// keep leaves those VIPs that stay.
func (s *realserverState) keep(stays func(VIPAddress) bool) {
	goes := func(v VIPAddress) bool { return !stays(v) }
	s.Addresses = slices.DeleteFunc(s.Addresses, goes)
	for owner, listed := range s.Files {
		s.list(owner, slices.DeleteFunc(listed, goes))
	}
}

// list notes what an owner's file lists.
func (s *realserverState) list(owner string, listed []VIPAddress) {
	if len(listed) == 0 {
		delete(s.Files, owner)
		return
	}
	if s.Files == nil {
		s.Files = make(map[string][]VIPAddress)
	}
	s.Files[owner] = listed
}

// savedSysctl is a setting before its first change and after.
type savedSysctl struct {
	Key    string `json:"key"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// lockPath is the file of the locks. It stays: a lock needs no room on a full /run.
func (s *nodeState) lockPath() string {
	return strings.TrimSuffix(s.path, filepath.Ext(s.path)) + ".lock"
}

// lock lets one run of the command at a time change the node.
func (rs *realserver) lock() (release func(), err error) {
	if err = os.MkdirAll(filepath.Dir(rs.state.path), 0o755); err != nil {
		return nil, wrap("save state", err)
	}
	f, err := lockFile{path: rs.state.lockPath()}.wait()
	if err != nil {
		return nil, wrap("save state", err)
	}
	if rs.state.path == realserverFile {
		moveState(formerRealserverFile, realserverFile)
	}
	return func() { f.Close() }, nil
}

// moveState makes the state file of an earlier version the one at path, unless there is one.
// A file that another user could have written stays. So does one that cannot be moved, as in
// a container: then what it remembers lasts until the next boot.
func moveState(former, path string) {
	if writableByOthers(filepath.Dir(former)) == "" && writableByOthers(former) == "" {
		_ = unix.Renameat2(unix.AT_FDCWD, former, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
}

// errWatched says that another process watches this node for the same owner.
var errWatched = errors.New("another process watches this node for this owner; give each its -owner")

// lockOwner makes this process the only one that watches for its owner, until it ends or
// release is called. Of the same file as lock it takes one byte, whose place is a hash of the
// owner (fcntl_locking(2), open file description locks).
func (rs *realserver) lockOwner() (release func(), err error) {
	if rs.owner == "" {
		return func() {}, nil
	}
	if err = os.MkdirAll(filepath.Dir(rs.state.path), 0o755); err != nil {
		return nil, err
	}
	f, err := openLock(rs.state.lockPath())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(rs.owner))
	place := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(binary.BigEndian.Uint64(sum[:]) >> 2), Len: 1}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &place)
	if err != nil {
		f.Close()
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("%s: %w", shorten(rs.owner, ownerMost), errWatched)
	}
	return func() { f.Close() }, err
}

// load reads the state file; a missing one is empty.
func (rs *realserver) load() error {
	b, err := readRegular(rs.state.path, realserverStateMost)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	rs.state.saved = b
	rs.state.realserverState, err = decodeRealserverState(b)
	return wrap("read state "+rs.state.path, err)
}

// decodeRealserverState reads what save writes. It refuses a setting that the command
// does not change, because undo would write to it.
func decodeRealserverState(b []byte) (s realserverState, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return s, err
	}
	settings := slices.Clone(s.Sysctls)
	for _, d := range s.Devices {
		settings = append(settings, d.Sysctls...)
	}
	for _, o := range settings {
		if o.Key != confKey(path.Base(path.Dir(o.Key)), path.Base(o.Key)) {
			return s, fmt.Errorf("%q is not a setting that this command changes", shorten(o.Key, quotedText))
		}
	}
	for _, listed := range s.Files { // which are removed when they leave the file
		for _, v := range listed {
			if err := notVIP(v.Address); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// save makes the state file say what the state is, or removes it when there is nothing to
// undo. One that says so already is left alone.
func (rs *realserver) save() error {
	s := &rs.state
	if len(s.Addresses)+len(s.Files)+len(s.Sysctls)+len(s.Devices)+len(s.Ports) == 0 {
		s.saved = nil
		return wrap("remove state", removeFile(s.path))
	}
	b, err := json.MarshalIndent(s.realserverState, "", " ")
	if b = append(b, '\n'); err == nil && bytes.Equal(b, s.saved) {
		return nil
	}
	if err == nil && len(b) > realserverStateMost {
		err = tooLarge(s.path, realserverStateMost)
	}
	if err == nil {
		err = writeFileAtomic(s.path, b, 0o600)
	}
	if err == nil {
		s.saved = b
	}
	return wrap("save state", err)
}
