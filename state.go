// What must outlive the process but not the kernel's table: which VIPs are
// ours, who drains until when, who was in service last.
//
// reconcile.go saves it before it changes the kernel and loads it at start.
// It lies in the state directory under /run, which a reboot empties together
// with the kernel's table. A file that cannot be read is refused, said so, and
// replaced; it never stops the controller.

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// stateVersion is raised when the file's meaning changes.
const stateVersion = 1

// state is the memory of one director.
type state struct {
	Owned     map[netip.Addr]bool // addresses whose services are ours to remove
	Marks     map[uint32]string   // firewall marks whose services are ours to remove, and their VIPs
	Memory    memory
	Drains    map[rowID]drain
	Addresses []VIPAddress // addresses the controller put on devices itself
	Daemons   []SyncDaemon // sync daemons that are ours, as they were asked for; one for each role at most
}

// The file's form.
type (
	stateFile struct {
		Version   int            `json:"version"`
		Owned     []netip.Addr   `json:"vips"`
		Marks     []markEntry    `json:"marks,omitempty"`
		Working   []workingEntry `json:"working,omitempty"`
		Started   []startEntry   `json:"slow_starts,omitempty"`
		Drains    []drainEntry   `json:"drains,omitempty"`
		Addresses []VIPAddress   `json:"addresses,omitempty"`
		Daemons   []SyncDaemon   `json:"sync_daemons,omitempty"`
	}
	markEntry struct {
		Mark uint32 `json:"mark"`
		VIP  string `json:"vip"`
	}
	workingEntry struct {
		VIP     string       `json:"vip"`
		IPv6    bool         `json:"ipv6,omitempty"`
		Servers []RealServer `json:"servers"`
	}
	startEntry struct {
		VIP     string     `json:"vip"`
		Address netip.Addr `json:"server"`
		Since   time.Time  `json:"since"`
	}
	drainEntry struct {
		Service  ServiceKey `json:"service"`
		Address  netip.Addr `json:"server"`
		Port     uint16     `json:"port,omitempty"`
		Deadline time.Time  `json:"deadline"`
	}
)

// encode gives the file's bytes, the same for the same state.
func (s *state) encode() ([]byte, error) {
	f := stateFile{
		Version:   stateVersion,
		Owned:     slices.SortedFunc(maps.Keys(s.Owned), netip.Addr.Compare),
		Addresses: s.Addresses,
		Daemons:   s.Daemons,
	}
	for _, m := range slices.Sorted(maps.Keys(s.Marks)) {
		f.Marks = append(f.Marks, markEntry{m, s.Marks[m]})
	}
	for _, set := range slices.SortedFunc(maps.Keys(s.Memory.Working), compareWorkKeys) {
		f.Working = append(f.Working, workingEntry{set.VIP, set.Is6, s.Memory.Working[set]})
	}
	for key, since := range s.Memory.Started {
		f.Started = append(f.Started, startEntry{key.VIP, key.Address, since.Round(0).UTC()})
	}
	slices.SortFunc(f.Started, func(a, b startEntry) int {
		return cmp.Or(cmp.Compare(a.VIP, b.VIP), a.Address.Compare(b.Address))
	})
	for id, d := range s.Drains {
		f.Drains = append(f.Drains, drainEntry{id.Service, id.Address, id.Port, d.Deadline.Round(0).UTC()})
	}
	slices.SortFunc(f.Drains, func(a, b drainEntry) int {
		return cmp.Or(a.Service.Compare(b.Service), a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	b, err := json.MarshalIndent(f, "", " ")
	return append(b, '\n'), err
}

// decodeState is the inverse of encode. It checks what a file could get wrong
// and the rest of the program relies on.
func decodeState(b []byte) (*state, error) {
	var f stateFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if f.Version != stateVersion {
		return nil, fmt.Errorf("version %d, want %d", f.Version, stateVersion)
	}
	s := newState()
	for _, a := range f.Owned {
		if !a.IsValid() {
			return nil, errors.New("vips: empty address")
		}
		s.Owned[a] = true
	}
	for _, e := range f.Working {
		for _, r := range e.Servers {
			if !r.Address.IsValid() || r.Address.Is6() != e.IPv6 || r.Weight == 0 {
				return nil, fmt.Errorf("working: vip %s: bad real server %s", e.VIP, r.Address)
			}
			set := workKey{e.VIP, e.IPv6}
			s.Memory.Working[set] = append(s.Memory.Working[set], r)
		}
	}
	for _, m := range f.Marks {
		if m.Mark == 0 {
			return nil, errors.New("marks: 0 is no mark")
		}
		s.Marks[m.Mark] = m.VIP
	}
	for _, e := range f.Started {
		if !e.Address.IsValid() {
			return nil, fmt.Errorf("slow_starts: vip %s: empty address", e.VIP)
		}
		s.Memory.Started[startKey{e.VIP, e.Address}] = e.Since
	}
	for _, e := range f.Drains {
		if !e.Address.IsValid() {
			return nil, fmt.Errorf("drains: %s: empty address", e.Service)
		}
		s.Drains[rowID{e.Service, e.Address, e.Port}] = drain{Deadline: e.Deadline}
	}
	s.Addresses = f.Addresses
	for _, d := range f.Daemons {
		if d.Role != SyncMaster && d.Role != SyncBackup || daemon(s.Daemons, d.Role) != nil {
			return nil, fmt.Errorf("sync_daemons: role %s is none, or there twice", d.Role)
		}
		s.Daemons = append(s.Daemons, d)
	}
	return s, nil
}

func newState() *state {
	return &state{
		Owned:  make(map[netip.Addr]bool),
		Marks:  make(map[uint32]string),
		Memory: newMemory(),
		Drains: make(map[rowID]drain),
	}
}

// stateDir is the directory that the state lives in.
type stateDir struct {
	path string
	last []byte // what the file holds, so that an unchanged state is not written
}

func (d *stateDir) file() string { return filepath.Join(d.path, "state.json") }

// load reads the state. A file that is absent gives an empty state; one that
// cannot be used gives an empty state and the reason.
func (d *stateDir) load() (*state, error) {
	b, err := os.ReadFile(d.file())
	if errors.Is(err, fs.ErrNotExist) {
		return newState(), nil
	}
	if err == nil {
		var s *state
		if s, err = decodeState(b); err == nil {
			d.last = b
			return s, nil
		}
	}
	return newState(), fmt.Errorf("state file %s is not used: %w", d.file(), err)
}

// save writes the state when it has changed: whole or not at all, through a
// rename. It is not synced to disk: /run is memory.
func (d *stateDir) save(s *state) error {
	b, err := s.encode()
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if bytes.Equal(b, d.last) {
		return nil
	}
	if err := writeFileAtomic(d.file(), b, 0o600); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	d.last = b
	return nil
}

// writeFileAtomic replaces the content of path, as replaceFile does.
func writeFileAtomic(path string, b []byte, mode os.FileMode) error {
	return replaceFile(path, mode, false, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// replaceFile replaces path by way of a temporary file beside it, so that a
// reader sees the old or the new content and never part of one. With sync, the
// new content survives a power cut.
func replaceFile(path string, mode os.FileMode, sync bool, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Chmod(mode))
	if sync && err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// lock takes the directory for this process, until it ends. The error names
// the process that has it.
func (d *stateDir) lock() (*os.File, error) {
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	path := filepath.Join(d.path, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(path)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another lvs-controller (pid %s) runs with state directory %s", bytes.TrimSpace(pid), d.path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

func writePID(f *os.File) error {
	_, err := fmt.Fprintln(f, os.Getpid())
	return err
}
