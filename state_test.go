package main

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestStateRoundTrip(t *testing.T) {
	s := newState()
	s.Owned[addr("10.0.0.1")] = true
	s.Owned[addr("2001:db8::1")] = true
	s.Marks[4096] = "edge"
	s.Memory.Started[startKey{"edge", addr("10.1.0.1")}] = testTime
	s.Memory.Working[workKey{"edge", false}] = []RealServer{{Address: addr("10.1.0.1"), Weight: 2, Forward: DirectRoute}}
	s.Memory.Below[workKey{"edge", true}] = true
	s.Drains[rowID{ServiceKey{Address: addr("2001:db8::1"), Protocol: UDP, Port: 53}, addr("2001:db8::9"), 5353}] = drain{Deadline: testTime}
	s.Daemons = []SyncDaemon{
		{Role: SyncMaster, Interface: "eth1", ID: 7, Group: addr("224.0.0.81"), Port: 8848, TTL: 1},
		{Role: SyncBackup, Interface: "eth1", ID: 7, Group: addr("ff02::81"), Port: 9000, TTL: 2, MaxLen: 1400, Device: 3},
	}
	s.Down = map[HealthKey]string{{"edge", addr("10.1.0.2"), 0}: "no answer in 1s", {"edge", addr("2001:db8::2"), 9000}: "port 9000/tcp: refused"}
	s.Unresolved = map[string][]netip.Addr{"edge": {addr("10.1.0.3"), addr("2001:db8::3")}}
	b, err := s.encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeState(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got, compareAddrs); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}

// What is read from a state file is written again as the same.
func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"version":1,"vips":["10.0.0.1"],"marks":[{"mark":4096,"vip":"a"}],"slow_starts":[{"vip":"a","server":"10.1.0.1","since":"2026-01-02T03:04:05+01:00"}],` +
		`"below_quorum":[{"vip":"a","ipv6":true},{"vip":"b"}],"addresses":[{"device":"eth0","address":"10.0.0.1"}],"local_routes":["10.0.0.1"],"down":[{"vip":"a","server":"10.1.0.1","port":80,"why":"<refused>"}],` +
		`"working":[{"vip":"a","servers":[{"address":"10.1.0.1","forward":2,"weight":1,"port":8,"upper":2,"lower":1,"tunnel":{"type":1,"port":6080,"flags":1}}]}],` +
		`"sync_daemons":[{"role":"master","interface":"eth1","syncid":7,"group":"ff02::81","port":8848,"ttl":1,"maxlen":1400,"device":3}]}`))
	f.Add([]byte(`{"version":1,"vips":["10.0.0.1"],"drains":[{"service":"10.0.0.1:80/tcp","server":"10.1.0.1","deadline":"2026-01-02T03:04:05Z"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		s, err := decodeState(b)
		if err != nil {
			return
		}
		text, err := s.encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeState(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if diff := cmp.Diff(s, again, compareAddrs, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s (-first +again):\n%s", text, diff)
		}
	})
}

func TestLockIsExclusive(t *testing.T) {
	dir := stateDir{path: t.TempDir()}
	first, err := dir.lock(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.lock(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another lvs-controller (pid ") {
		t.Errorf("second lock: %v", err)
	}
	first.Close()
	again, err := dir.lock(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// A state directory that cannot be made costs the memory, and does not prevent a start.
func TestLockWhereThereIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dangling, loop := filepath.Join(t.TempDir(), "dangling"), filepath.Join(t.TempDir(), "loop")
	for link, to := range map[string]string{dangling: "/proc/none", loop: loop} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{file, filepath.Join(file, "below"), "/proc/none/state", dangling, loop} {
		var log bytes.Buffer
		d := &stateDir{path: dir}
		f, err := d.lock(slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil || f != nil || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "the lock file cannot be written") {
			t.Errorf("%s: file %v, error %v, log:\n%s", dir, f, err, log.String())
		}
		openState(d, slog.New(slog.NewTextHandler(&log, nil))).save()
	}
}

// A state directory that is removed while the director runs is made again.
func TestStateDirectoryIsMadeAgain(t *testing.T) {
	d := &stateDir{path: filepath.Join(t.TempDir(), "state")}
	s := newState()
	for i, remove := range []func(string) error{os.RemoveAll, os.Remove} {
		s.Marks[uint32(i)+1] = "edge"
		if err := d.save(s); err != nil {
			t.Fatal(err)
		}
		if got, err := (&stateDir{path: d.path}).load(); err != nil || len(got.Marks) != i+1 {
			t.Errorf("state %v, error %v", got, err)
		}
		if err := remove(d.path); i == 0 && err != nil {
			t.Fatal(err)
		}
	}
}
