// What must survive the process but not the kernel's table: which VIPs are ours,
// which real servers drain until when, which served last, and which were down by
// their probes.
//
// Used by snapshot.go, reconcile*.go, cmd*.go and main*.go. The
// reconcile loop loads it at start and saves it before it changes the kernel.
// The file is in the state directory under /run, which a reboot empties
// together with the kernel's table. A file that cannot be read is refused with
// a log line and replaced; it never stops the controller. state_lock.go has the
// locks against a second controller.

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// stateVersion is raised when the file's meaning changes.
const stateVersion = 1

// state is the memory of one director.
type state struct {
	Owned   map[netip.Addr]bool // addresses whose services are ours to remove
	Marks   map[uint32]string   // firewall marks whose services are ours to remove, and their VIPs
	Memory  memory
	Leaving shards // the table; its services have the real servers that drain
	// Drains are drains of services that are not in Leaving: those of the file,
	// until the table has been read, and those of services that are removed as a
	// whole.
	Drains map[rowID]drain
	Down   map[HealthKey]string // Health.Down; must not be changed
	// Unresolved is Health.Unresolved; must not be changed.
	Unresolved map[string][]netip.Addr
	Addresses  []VIPAddress // addresses the controller put on devices itself
	Local      []netip.Addr // addresses with a local route of the controller's: those of the dummy device
	Daemons    []SyncDaemon // sync daemons that are ours, as they were asked for; one for each role at most
}

// The file's form.
type (
	stateFile struct {
		Version    int                     `json:"version"`
		Owned      []netip.Addr            `json:"vips"`
		Marks      []markEntry             `json:"marks,omitempty"`
		Ports      []portEntry             `json:"ports,omitempty"` // of addresses that several VIPs share
		Started    []startEntry            `json:"slow_starts,omitempty"`
		Below      []belowEntry            `json:"below_quorum,omitempty"`
		Addresses  []VIPAddress            `json:"addresses,omitempty"`
		Local      []netip.Addr            `json:"local_routes,omitempty"`
		Daemons    []SyncDaemon            `json:"sync_daemons,omitempty"`
		Down       []downEntry             `json:"down,omitempty"`
		Unresolved map[string][]netip.Addr `json:"unresolved,omitempty"`
		Working    []workingEntry          `json:"working,omitempty"` // written by appendSet
		Drains     []drainEntry            `json:"drains,omitempty"`  // written by appendDrain
	}
	markEntry struct {
		Mark uint32 `json:"mark"`
		VIP  string `json:"vip"`
	}
	portEntry struct {
		Service ServiceKey `json:"service"`
		VIP     string     `json:"vip"`
	}
	workingEntry struct {
		VIP     string       `json:"vip"`
		IPv6    bool         `json:"ipv6,omitempty"`
		Servers []RealServer `json:"servers"`
	}
	belowEntry struct {
		VIP  string `json:"vip"`
		IPv6 bool   `json:"ipv6,omitempty"`
	}
	startEntry struct {
		VIP     string     `json:"vip"`
		Address netip.Addr `json:"server"`
		Since   time.Time  `json:"since"`
	}
	downEntry struct {
		VIP     string     `json:"vip"`
		Address netip.Addr `json:"server"`
		Port    uint16     `json:"port,omitempty"`
		Why     string     `json:"why"`
	}
	drainEntry struct {
		Service  ServiceKey `json:"service"`
		Address  netip.Addr `json:"server"`
		Port     uint16     `json:"port,omitempty"`
		Deadline time.Time  `json:"deadline"`
	}
)

// encode gives the file's bytes, the same for the same state, in place of into's
// content. The long lists, real servers in service and those that leave, are
// written entry by entry: encoding/json would take most of the time of a pass.
func (s *state) encode(into []byte) ([]byte, error) {
	f := stateFile{
		Version:    stateVersion,
		Owned:      sortedBy(maps.Keys(s.Owned), netip.Addr.Compare),
		Addresses:  s.Addresses,
		Local:      s.Local,
		Daemons:    s.Daemons,
		Unresolved: s.Unresolved,
	}
	for _, m := range slices.Sorted(maps.Keys(s.Marks)) {
		f.Marks = append(f.Marks, markEntry{m, s.Marks[m]})
	}
	for _, k := range sortedBy(maps.Keys(s.Memory.Ports), ServiceKey.Compare) {
		f.Ports = append(f.Ports, portEntry{k, s.Memory.Ports[k]})
	}
	for key, since := range s.Memory.Started {
		f.Started = append(f.Started, startEntry{key.VIP, key.Address, since.Round(0).UTC()})
	}
	sortBy(f.Started, func(a, b startEntry) int {
		return cmp.Or(cmp.Compare(a.VIP, b.VIP), a.Address.Compare(b.Address))
	})
	for _, k := range sortedBy(maps.Keys(s.Memory.Below), compareWorkKeys) {
		f.Below = append(f.Below, belowEntry{k.VIP, k.Is6})
	}
	for _, k := range sortedBy(maps.Keys(s.Down), HealthKey.Compare) {
		f.Down = append(f.Down, downEntry{k.VIP, k.Address, k.Port, s.Down[k]})
	}
	head, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	b := append(into[:0], head[:len(head)-1]...)
	b = append(b, ",\n\"working\":["...)
	sets := sortedBy(maps.Keys(s.Memory.Working), compareWorkKeys)
	for i, set := range sets {
		b = appendSet(appendComma(b, i > 0), set, s.Memory.Working[set])
	}
	b = append(b, "],\n\"drains\":["...)
	start := len(b)
	for service := range s.Leaving.all {
		for _, l := range service.Leaving {
			if !l.Deadline.IsZero() { // not removed without a drain
				b = appendDrain(appendComma(b, len(b) > start), rowID{service.ServiceKey, l.Address, l.Port}, l.Deadline)
			}
		}
	}
	for _, id := range sortedBy(maps.Keys(s.Drains), rowID.compare) {
		b = appendDrain(appendComma(b, len(b) > start), id, s.Drains[id].Deadline)
	}
	return append(b, "]}\n"...), nil
}

// appendComma begins an entry on a new line.
func appendComma(b []byte, another bool) []byte {
	if another {
		b = append(b, ',')
	}
	return append(b, '\n')
}

// appendSet appends one workingEntry in a form that encoding/json reads.
func appendSet(b []byte, set workKey, servers []RealServer) []byte {
	name, _ := json.Marshal(set.VIP) // a string always has a text
	b = append(append(b, `{"vip":`...), name...)
	if set.Is6 {
		b = append(b, `,"ipv6":true`...)
	}
	b = append(b, `,"servers":[`...)
	for i := range servers {
		b = appendServer(appendComma(b, i > 0), &servers[i])
	}
	return append(b, "]}"...)
}

// appendServer appends r in a form that encoding/json reads.
func appendServer(b []byte, r *RealServer) []byte {
	b = r.Address.AppendTo(append(b, `{"address":"`...))
	b = strconv.AppendUint(append(b, `","forward":`...), uint64(r.Forward), 10)
	b = appendNumber(b, `,"weight":`, r.Weight)
	b = appendNumber(b, `,"port":`, uint32(r.Port))
	b = appendNumber(b, `,"upper":`, r.Upper)
	b = appendNumber(b, `,"lower":`, r.Lower)
	if r.Tunnel != (TunnelSettings{}) {
		b = fmt.Appendf(b, `,"tunnel":{"type":%d,"port":%d,"flags":%d}`, r.Tunnel.Type, r.Tunnel.Port, r.Tunnel.Flags)
	}
	return append(b, '}')
}

// appendNumber appends key and n, nothing for 0.
func appendNumber(b []byte, key string, n uint32) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendUint(append(b, key...), uint64(n), 10)
}

// appendDrain appends one drainEntry in a form that encoding/json reads.
func appendDrain(b []byte, id rowID, deadline time.Time) []byte {
	b = id.Service.appendTo(append(b, `{"service":"`...))
	b = id.Address.AppendTo(append(b, `","server":"`...))
	b = appendNumber(append(b, '"'), `,"port":`, uint32(id.Port))
	b = deadline.Round(0).UTC().AppendFormat(append(b, `,"deadline":"`...), time.RFC3339Nano)
	return append(b, `"}`...)
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
	var err error
	if s.Memory, err = f.memory(); err != nil {
		return nil, err
	}
	if s.Drains, err = f.drains(); err != nil {
		return nil, err
	}
	for _, a := range f.Owned {
		if !plainAddress(a) {
			return nil, fmt.Errorf("vips: bad address %q", a)
		}
		s.Owned[a] = true
	}
	for _, m := range f.Marks {
		if m.Mark == 0 {
			return nil, errors.New("marks: 0 is no mark")
		}
		s.Marks[m.Mark] = m.VIP
	}
	if s.Down, err = f.down(); err != nil {
		return nil, err
	}
	for vip, servers := range f.Unresolved {
		if !all(servers, plainAddress) {
			return nil, fmt.Errorf("unresolved: vip %s: bad address", vip)
		}
	}
	for _, a := range f.Addresses {
		if !plainAddress(a.Address) {
			return nil, fmt.Errorf("addresses: bad address %q on %s", a.Address, a.Device)
		}
	}
	if !all(f.Local, plainAddress) {
		return nil, errors.New("local_routes: bad address")
	}
	s.Addresses, s.Local, s.Unresolved = f.Addresses, f.Local, f.Unresolved
	for _, d := range f.Daemons {
		if d.Role != SyncMaster && d.Role != SyncBackup || daemon(s.Daemons, d.Role) != nil {
			return nil, fmt.Errorf("sync_daemons: role %s is none, or there twice", d.Role)
		}
		s.Daemons = append(s.Daemons, d)
	}
	return s, nil
}

// memory is what the file says of the real servers that served last.
func (f *stateFile) memory() (memory, error) {
	m := newMemory()
	for _, e := range f.Working {
		for _, r := range e.Servers {
			if !plainAddress(r.Address) || r.Address.Is6() != e.IPv6 || r.Weight == 0 {
				return m, fmt.Errorf("working: vip %s: bad real server %q", e.VIP, r.Address)
			}
			set := workKey{e.VIP, e.IPv6}
			m.Working[set] = append(m.Working[set], r)
		}
	}
	for _, e := range f.Ports {
		if !plainAddress(e.Service.Address) || e.Service.Mark != 0 {
			return m, fmt.Errorf("ports: vip %s: bad service %s", e.VIP, e.Service)
		}
		m.Ports[e.Service] = e.VIP
	}
	for _, e := range f.Started {
		if !plainAddress(e.Address) || !savable(e.Since) {
			return m, fmt.Errorf("slow_starts: vip %s: bad address %q or time", e.VIP, e.Address)
		}
		m.Started[startKey{e.VIP, e.Address}] = e.Since.UTC()
	}
	for _, e := range f.Below {
		m.Below[workKey{e.VIP, e.IPv6}] = true
	}
	return m, nil
}

// drains are the real servers that drained when the file was written.
func (f *stateFile) drains() (map[rowID]drain, error) {
	drains := make(map[rowID]drain)
	for _, e := range f.Drains {
		if e.Service == (ServiceKey{}) {
			return nil, fmt.Errorf("drains: %q: no service", e.Address)
		}
		if !plainAddress(e.Address) || !savable(e.Deadline) {
			return nil, fmt.Errorf("drains: %s: bad address %q or time", e.Service, e.Address)
		}
		drains[rowID{e.Service, e.Address, e.Port}] = drain{Deadline: e.Deadline.UTC()}
	}
	return drains, nil
}

// down are the real servers that health checks had taken out; nil when there are none.
func (f *stateFile) down() (map[HealthKey]string, error) {
	if len(f.Down) == 0 {
		return nil, nil
	}
	down := make(map[HealthKey]string)
	for _, e := range f.Down {
		if !plainAddress(e.Address) {
			return nil, fmt.Errorf("down: vip %s: bad address %q", e.VIP, e.Address)
		}
		down[HealthKey{e.VIP, e.Address, e.Port}] = e.Why
	}
	return down, nil
}

// savable reports whether JSON has a form for the year of t, also in UTC.
func savable(t time.Time) bool {
	y := t.UTC().Year()
	return y >= 0 && y <= 9999
}

// all reports whether ok is true for each of list.
func all[T any](list []T, ok func(T) bool) bool {
	return !slices.ContainsFunc(list, func(v T) bool { return !ok(v) })
}

// rememberWithdrawn replaces Drains by the drains of services that are removed as
// a whole.
func (s *state) rememberWithdrawn(withdrawn map[ServiceKey][]leaving) {
	clear(s.Drains)
	for k, all := range withdrawn {
		for _, l := range all {
			if !l.Deadline.IsZero() {
				s.Drains[rowID{k, l.Address, l.Port}] = l.drain
			}
		}
	}
}

func newState() *state {
	return &state{
		Owned:  make(map[netip.Addr]bool),
		Marks:  make(map[uint32]string),
		Memory: newMemory(),
		Drains: make(map[rowID]drain),
	}
}

// maxState is the size of the largest state file that is read, in bytes: 200,000 real
// servers that drain are 30 MB.
const maxState = 256 << 20

// stateDir is the directory of the state file.
type stateDir struct {
	path  string
	last  []byte // the content of the file, so that an unchanged state is not written
	spare []byte // for the next content: each pass encodes it
}

func (d *stateDir) file() string { return filepath.Join(d.path, "state.json") }

// load reads the state. A file that is absent gives an empty state; one that
// cannot be used gives an empty state and the reason.
func (d *stateDir) load() (*state, error) {
	b, err := readRegular(d.file(), maxState)
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
	b, err := s.encode(d.spare)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	d.spare = b
	if bytes.Equal(b, d.last) {
		return nil
	}
	err = writeFileAtomic(d.file(), b, 0o600)
	if errors.Is(err, fs.ErrNotExist) && makeDirectory(d.path) == nil { // another program has removed it
		err = writeFileAtomic(d.file(), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	d.last, d.spare = b, d.last
	return nil
}
