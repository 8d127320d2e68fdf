package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// pairSync is a [sync] as config_toml.go reads it.
func pairSync(edits ...func(*SyncDaemon)) *SyncDaemon {
	d := &SyncDaemon{Interface: "eth1", ID: 1, Group: defaultSyncGroup, Port: defaultSyncPort, TTL: defaultSyncTTL}
	for _, edit := range edits {
		edit(d)
	}
	return d
}

// setSync puts another [sync] into force.
func (b *bench) setSync(d *SyncDaemon) {
	b.sync = d
	b.configure(b.loop.config.Get().VIPs...)
}

// wantDaemons compares the running daemons with what was asked for.
func (b *bench) wantDaemons(master, backup *SyncDaemon) {
	b.t.Helper()
	want := make(map[SyncRole]SyncDaemon)
	for role, d := range map[SyncRole]*SyncDaemon{SyncMaster: master, SyncBackup: backup} {
		if d == nil {
			continue
		}
		w := *d
		w.Role = role
		if w.MaxLen == 0 {
			w.MaxLen = 1472
		}
		want[role] = w
	}
	if diff := cmp.Diff(want, b.kernel.daemons, compareAddrs); diff != "" {
		b.t.Fatalf("sync daemons (-want +got):\n%s\nlog:\n%s", diff, b.log)
	}
}

// logLines wants exactly these messages, each with what else its line must
// have, and no other line about a sync daemon.
func logLines(t *testing.T, log string, want ...string) {
	t.Helper()
	var got []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, "sync daemon") {
			_, line, _ = strings.Cut(strings.TrimSpace(line), "level=")
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestSyncDaemons(t *testing.T) {
	b := newBench(t, testVIP())
	b.pass()
	b.wantDaemons(nil, nil)

	one := pairSync()
	b.setSync(one)
	logLines(t, b.pass(),
		`INFO msg="sync daemon started" role=master interface=eth1 syncid=1 group=224.0.0.81 why=configuration`,
		`INFO msg="sync daemon started" role=backup interface=eth1 syncid=1 group=224.0.0.81 why=configuration`)
	b.wantDaemons(one, one)
	b.log.Reset()
	b.later(time.Minute)
	logLines(t, b.log.String())

	b.restart() // adopted: the kernel's own maxlen is right
	logLines(t, b.pass())

	two := pairSync(func(d *SyncDaemon) { d.ID = 2 })
	b.setSync(two)
	logLines(t, b.pass(),
		`INFO msg="sync daemon restarted" role=master interface=eth1 change="syncid 1 → 2" why=configuration`,
		`INFO msg="sync daemon restarted" role=backup interface=eth1 change="syncid 1 → 2" why=configuration`)
	b.wantDaemons(two, two)

	delete(b.kernel.daemons, SyncMaster) // ipvsadm --stop-daemon master
	drifted := *two
	drifted.Role, drifted.ID = SyncBackup, 9
	b.kernel.daemons[SyncBackup] = drifted
	b.log.Reset()
	b.later(10 * time.Second)
	logLines(t, b.log.String(),
		`WARN msg="another program has changed the sync daemon; it is repaired" role=master interface=eth1`,
		`INFO msg="sync daemon started" role=master interface=eth1 syncid=2 group=224.0.0.81 why="repaired, another program changed it"`,
		`WARN msg="another program has changed the sync daemon; it is repaired" role=backup interface=eth1`,
		`INFO msg="sync daemon restarted" role=backup interface=eth1 change="syncid 9 → 2" why="repaired, another program changed it"`)
	b.wantDaemons(two, two)

	long := pairSync(func(d *SyncDaemon) { d.ID, d.MaxLen = 2, 9000 })
	b.setSync(long)
	b.pass()
	b.wantDaemons(long, long)
	b.setSync(two) // not 9000 any more: the kernel's choice again
	logLines(t, b.pass(),
		`INFO msg="sync daemon restarted" role=master interface=eth1 change="maxlen 9000 → by MTU" why=configuration`,
		`INFO msg="sync daemon restarted" role=backup interface=eth1 change="maxlen 9000 → by MTU" why=configuration`)
	b.wantDaemons(two, two)

	b.restart()
	b.setSync(nil)
	logLines(t, b.pass(),
		`INFO msg="sync daemon stopped" role=master interface=eth1 why="no [sync] in the configuration"`,
		`INFO msg="sync daemon stopped" role=backup interface=eth1 why="no [sync] in the configuration"`)
	b.wantDaemons(nil, nil)
	if len(b.loop.state.Daemons) > 0 {
		t.Errorf("still remembered: %v", b.loop.state.Daemons)
	}
}

// Without [sync] another hand's daemons are its own, also where ours ran
// before.
func TestSyncDaemonsOfAnotherHand(t *testing.T) {
	b := newBench(t, testVIP())
	theirs := pairSync(func(d *SyncDaemon) { d.ID = 5 })
	put := func() {
		for _, role := range syncRoles {
			d := *theirs
			d.Role, d.MaxLen = role, 1472
			b.kernel.daemons[role] = d
		}
	}
	put()
	logLines(t, b.pass())
	b.wantDaemons(theirs, theirs)

	b.setSync(pairSync())
	b.pass()
	b.wantDaemons(pairSync(), pairSync())
	put()
	b.setSync(nil)
	logLines(t, b.pass())
	b.wantDaemons(theirs, theirs)
	if len(b.loop.state.Daemons) > 0 {
		t.Errorf("still remembered: %v", b.loop.state.Daemons)
	}
}

// A refusal is said once, leaves the table alone and is tried again with each
// audit; the next one is news again.
func TestSyncDaemonRefused(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.kernel.noDaemon = unix.EINVAL
	b.setSync(pairSync())
	refused := func(role string) string {
		return `ERROR msg="the sync daemon does not run as configured" role=` + role + ` err="start it on eth1: invalid argument (the kernel does not synchronise while a service of one address family has a real server of the other)"`
	}
	logLines(t, b.pass(), refused("master"), refused("backup"))
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	if v := b.loop.published.Load(); v.Err != nil || v.Sync[SyncMaster] || v.Sync[SyncBackup] || v.ready(b.clock) != nil {
		t.Errorf("state: %+v", v)
	}
	b.log.Reset()
	b.later(time.Minute)
	logLines(t, b.log.String())

	b.kernel.noDaemon = nil
	b.log.Reset()
	b.later(10 * time.Second)
	b.wantDaemons(pairSync(), pairSync())
	if v := b.loop.published.Load(); !v.Sync[SyncMaster] || !v.Sync[SyncBackup] {
		t.Errorf("state: %+v", v)
	}

	clear(b.kernel.daemons)
	b.kernel.noDaemon = unix.EINVAL
	b.log.Reset()
	b.later(10 * time.Second)
	logLines(t, b.log.String(), refused("master"), refused("backup"))
}

// A daemon stays at a device that has been removed: one that was made again
// under the same name gets a new daemon, and one that is missing no stop.
func TestSyncDaemonDevice(t *testing.T) {
	b := newBench(t, testVIP())
	number := func(n int) { b.loop.host = noHost{devices: map[string]int{"eth1": n}} }
	b.setSync(pairSync())
	b.pass()

	number(0)
	b.log.Reset()
	b.later(time.Minute)
	logLines(t, b.log.String(),
		`ERROR msg="the sync daemon does not run as configured" role=master err="there is no device eth1; this is tried again"`,
		`ERROR msg="the sync daemon does not run as configured" role=backup err="there is no device eth1; this is tried again"`)
	b.wantDaemons(pairSync(), pairSync())

	b.restart()
	number(7)
	logLines(t, b.pass(),
		`INFO msg="sync daemon restarted" role=master interface=eth1 change="device 1 → 7" why="its device was made again"`,
		`INFO msg="sync daemon restarted" role=backup interface=eth1 change="device 1 → 7" why="its device was made again"`)
	b.log.Reset()
	b.later(time.Minute)
	logLines(t, b.log.String())

	b.restart()
	number(9)
	b.setSync(nil)
	b.pass()
	b.wantDaemons(nil, nil)
}

// -cleanup stops those that are ours and nobody else's.
func TestStopDaemons(t *testing.T) {
	k := newFakeKernel()
	ours := []SyncDaemon{*pairSync(func(d *SyncDaemon) { d.Role = SyncMaster }), *pairSync(func(d *SyncDaemon) { d.Role = SyncBackup })}
	theirs := ours[1]
	theirs.ID = 9
	for _, d := range []SyncDaemon{ours[0], theirs} {
		if err := k.StartDaemon(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := stopDaemons(k, ours); err != nil {
		t.Fatal(err)
	}
	if _, runs := k.daemons[SyncMaster]; runs || k.daemons[SyncBackup].ID != 9 {
		t.Errorf("left: %v", k.daemons)
	}
}

func TestParseSync(t *testing.T) {
	parse := func(text string) *SyncDaemon {
		t.Helper()
		cfg, err := ParseConfig("c.toml", []byte(text+"\n[[vip]]\n"+goodVIP))
		if err != nil {
			t.Fatal(err)
		}
		return cfg.Sync
	}
	if got := parse(""); got != nil {
		t.Errorf("no [sync]: %+v", got)
	}
	if got := parse("[sync]\ninterface = 'eth1'"); *got != *pairSync() {
		t.Errorf("defaults: %+v", got)
	}
	want := SyncDaemon{Interface: "eth1.100", ID: 255, Group: addr("ff02::81"), Port: 65535, TTL: 255, MaxLen: 65487}
	if got := parse("[sync]\ninterface = 'eth1.100'\nsyncid = 255\ngroup = 'ff02::81'\nport = 65535\nttl = 255\nmaxlen = 65487"); *got != want {
		t.Errorf("all: %+v, want %+v", got, want)
	}
	const device = `want a device name such as "eth1", at most 15 characters without "/", ":" and spaces`
	const group = `want a multicast IPv4 or IPv6 address such as "224.0.0.81"`
	checkMistakes(t, []struct{ text, want string }{
		{topLine("[sync]"), `1: sync.interface: missing, want the device that leads to the other director`},
		{topLine("sync = true"), `1: sync: is true, want a table`},
		{topLine("[sync]\ninterface = ''"), `2: sync.interface: is "", ` + device},
		{topLine("[sync]\ninterface = 'eth1'\nsyncid = 256"), `3: sync.syncid: is the integer 256, want an integer from 0 to 255`},
		{topLine("[sync]\ninterface = 'eth1'\nsyncid = '1'"), `3: sync.syncid: is "1", want an integer from 0 to 255`},
		{topLine("[sync]\ninterface = 'eth1'\ngroup = '10.0.0.1'"), `3: sync.group: is "10.0.0.1", ` + group},
		{topLine("[sync]\ninterface = 'eth1'\ngroup = 'ff02::81%eth1'"), `3: sync.group: is "ff02::81%eth1", ` + group},
		{topLine("[sync]\ninterface = 'eth1'\nport = 0"), `3: sync.port: is the integer 0, want an integer from 1 to 65535`},
		{topLine("[sync]\ninterface = 'eth1'\nttl = 0"), `3: sync.ttl: is the integer 0, want an integer from 1 to 255`},
		{topLine("[sync]\ninterface = 'eth1'\nmaxlen = 1023"), `3: sync.maxlen: is the integer 1023, want 0 or an integer from 1024 to 65487`},
		{topLine("[sync]\ninterface = 'eth1'\nmaxlen = 65488"), `3: sync.maxlen: is the integer 65488, want 0 or an integer from 1024 to 65487`},
		{topLine("[sync]\ninterface = 'eth1'\nsynid = 1"), `3: sync.synid: unknown key, did you mean "syncid"?`},
	})
}
