//go:build ipvs

// `diff` on a real kernel: its lines for ipvsadm make the wanted table, a listing of
// ipvsadm is read as the kernel has it, and after a pass nothing is left to change.

package main

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
)

// everything owns each service.
func everything(ServiceKey) bool { return true }

// restoreLines has ipvsadm -R carry out lines. Whatever it says is a failure.
func restoreLines(t *testing.T, director *lab.Host, lines string) {
	t.Helper()
	restore := director.Command("ipvsadm", "-R")
	restore.Stdin = strings.NewReader(lines)
	if out, err := restore.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("ipvsadm -R: %v: %s\n%s", err, out, lines)
	}
}

// Each random table is made into the next by ipvsadm alone.
func TestKernelDiffLines(t *testing.T) {
	const pairs = 40
	random := seeded(t, pairs)
	director, conn := directorConn(t)
	kinds := make(map[opKind]int)
	var have Table
	for i := range pairs {
		want := randomTable(random, have)
		c := changeSet{ops: diff(split(want), split(have))}
		for o := range c.ops.all {
			kinds[o.Kind]++
		}
		var lines, remarks strings.Builder
		lab.Must(t, writeLines(&lines, &remarks, &c))
		if c.count() > 0 {
			restoreLines(t, director, lines.String())
		}
		read, err := conn.Table(everything, nil, nil)
		lab.Must(t, err)
		have = read.table()
		if diff := cmp.Diff(want, have, sameRows); diff != "" {
			t.Fatalf("table %d after (-want +got):\n%s\n%s", i, lines.String(), diff)
		}
		saved, err := readListing(strings.NewReader(director.Run("ipvsadm", "-Sn")))
		lab.Must(t, err)
		if diff := cmp.Diff(withoutThresholds(have), saved.Table, sameRows); diff != "" {
			t.Fatalf("table %d by ipvsadm -Sn (-kernel +listing):\n%s", i, diff)
		}
	}
	for kind := newService; kind <= delService; kind++ {
		if kinds[kind] < pairs/4 {
			t.Errorf("only %d operations of kind %d: the tables are not random enough", kinds[kind], kind)
		}
	}
}

// withoutThresholds is t as ipvsadm lists it.
func withoutThresholds(t Table) Table {
	t = slices.Clone(t)
	for i := range t {
		t[i].Servers = slices.Clone(t[i].Servers)
		for j := range t[i].Servers {
			t[i].Servers[j].Upper, t[i].Servers[j].Lower = 0, 0
		}
	}
	return t
}

// Marks that ipvsadm prints as negative numbers are read, and ipvsadm reads ours. It
// refuses a comment: so `diff -o ipvsadm` has none in its output.
func TestKernelListingMarks(t *testing.T) {
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	director := l.Host("director", 2)
	want := Table{{VirtualService: VirtualService{ServiceKey: MarkKey(1<<32-1, false), Scheduler: "rr"}, Servers: rows("10.0.0.11", 1)}}
	restoreLines(t, director, string(want.appendListing(nil)))
	listed := director.Run("ipvsadm", "-Sn")
	saved, err := readListing(strings.NewReader(listed))
	lab.Must(t, err)
	if diff := cmp.Diff(want, saved.Table, sameRows); diff != "" {
		t.Errorf("%s(-want +got):\n%s", listed, diff)
	}
	restore := director.Command("ipvsadm", "-R")
	restore.Stdin = strings.NewReader("# a comment\n")
	if out, err := restore.CombinedOutput(); err == nil {
		t.Errorf("ipvsadm -R reads a comment: %s", out)
	}
}

// What is pending is what a pass does: after it, nothing is left.
func TestKernelPending(t *testing.T) {
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	director := l.Host("director", 2)
	cfg, err := ParseConfig("test", []byte(`
interface = "eth0"
state_dir = "`+t.TempDir()+`"
cache_dir = "`+t.TempDir()+`"
[timeouts]
tcp = "17m"
udp = "6m"
[sync]
interface = "eth0"
syncid = 7
[[vip]]
name = "edge"
addresses = ["10.0.0.100", "2001:db8::100"]
ports = ["80/tcp"]
selector = ""
announce = "dummy"
one_mark = true
notrack = true
real_servers = [{ address = "10.0.0.11" }, { address = "2001:db8::11" }]
[[vip]]
name = "other"
addresses = ["10.0.0.101"]
ports = ["80/tcp"]
selector = ""
announce = "arp"
real_servers = [{ address = "10.0.0.11" }]
`))
	lab.Must(t, err)
	var conn *ipvsConn
	director.Do(func() { conn, err = dialIPVS() })
	lab.Must(t, err)
	defer conn.Close()

	st := newState()
	plans := planner{state: st}
	plans.own(cfg)
	p := plans.plan(planInputs{cluster: &Cluster{}, health: &Health{}, now: time.Now()})
	pending := func() (kinds []string, lines string) {
		t.Helper()
		c := changeSet{}
		director.Do(func() { c.beside, err = pendingBeside(t.Context(), cfg, st, &p, conn) })
		lab.Must(t, err)
		for _, p := range c.beside {
			kinds = append(kinds, p.Action+" "+p.Kind+" "+p.Name)
		}
		var out, remarks strings.Builder
		lab.Must(t, writeLines(&out, &remarks, &c))
		return slices.Compact(kinds), out.String()
	}
	before, lines := pending()
	for _, want := range []string{
		"edit timeout tcp", "edit timeout udp", "add sync daemon master", "add sync daemon backup",
		"edit firewall marks lvs-controller", "edit connection tracking lvs-controller-notrack",
		"edit sysctl net/ipv4/vs/expire_nodest_conn", "add device lvs0", "add local route 10.0.0.100", "add local route 2001:db8::100",
		"add address 10.0.0.100", "add address 2001:db8::100", "add address 10.0.0.101",
	} {
		if !slices.Contains(before, want) {
			t.Errorf("%q is not pending", want)
		}
	}
	// ipvsadm carries out its lines, and the loop's hands the rest.
	restoreLines(t, director, lines)
	if now := director.Run("ipvsadm", "-L", "--timeout"); !strings.Contains(now, "1020 120 360") {
		t.Errorf("timeouts: %s", now)
	}
	h := newLinuxHost(slog.New(slog.DiscardHandler), nil, nil, func([]VIPAddress) {})
	pass := func(p *plan, want vipAddresses) {
		t.Helper()
		director.Do(func() {
			err = h.Prepare(t.Context(), cfg)
			lab.Must(t, err)
			lab.Must(t, h.Mark(p.want.Marks, cfg.PeerMACs))
			lab.Must(t, h.Untrack(wantedUntracked(p.want.Owners, p.Shards, p.want.Marks, cfg)))
			var has vipsOnHost
			has, err = h.Announce(t.Context(), cfg, want)
			lab.Must(t, err)
			st.Addresses, st.Local = has.Addresses, has.Local
		})
	}
	want, err := pendingAnnouncement(h, cfg, st, &p)
	lab.Must(t, err)
	pass(&p, want)
	for _, role := range syncRoles {
		d := *cfg.Sync
		d.Role = role
		st.Daemons = append(st.Daemons, d)
	}
	if after, _ := pending(); len(after) > 0 {
		t.Errorf("after a pass there is left: %q", after)
	}

	t.Log("step: another program changes things")
	director.Batch("link set lvs0 down", "addr del 10.0.0.101/32 dev eth0") // the kernel removes the IPv6 address
	director.Run("ipvsadm", "--stop-daemon", "backup")
	if diff := cmp.Diff([]string{"add sync daemon backup", "edit device lvs0", "add address 10.0.0.101", "add address 2001:db8::100"}, first(pending())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	pass(&p, want)

	t.Log("step: the VIPs are removed from the configuration")
	cfg.VIPs, cfg.Sync, cfg.Timeouts = nil, nil, Timeouts{}
	*st = state{Owned: map[netip.Addr]bool{}, Marks: map[uint32]string{}, Memory: newMemory(), Drains: map[rowID]drain{}, Addresses: st.Addresses, Local: st.Local, Daemons: st.Daemons}
	gone := planner{state: st}
	gone.own(cfg)
	p = gone.plan(planInputs{cluster: &Cluster{}, health: &Health{}, now: time.Now()})
	removed, lines := pending()
	for _, want := range []string{
		"remove address 10.0.0.100", "remove address 2001:db8::100", "remove local route 10.0.0.100", "remove device lvs0",
		"remove sync daemon master", "edit firewall marks lvs-controller", "edit connection tracking lvs-controller-notrack",
	} {
		if !slices.Contains(removed, want) {
			t.Errorf("%q is not pending in %q", want, removed)
		}
	}
	if lines != "--stop-daemon master\n" {
		t.Errorf("lines: %q", lines)
	}
	restoreLines(t, director, lines)
	pass(&p, vipAddresses{})
	st.Daemons = nil
	if after, _ := pending(); len(after) > 0 {
		t.Errorf("at the end there is left: %q", after)
	}
}

func first(kinds []string, _ string) []string { return kinds }
