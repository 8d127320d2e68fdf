// The record of changes, the series of loads, and the times of real servers.

package main

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Each change of the kernel's table is recorded once, as the log has it.
func TestChangesAreRecorded(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.Ports = []Port{{80, TCP}, {443, TCP}} }))
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	log := b.pass()
	got := b.loop.changes.last()
	want := []Change{
		{3, testTime, "real server added", "edge", addr("10.0.0.1"), "80/tcp,443/tcp", "10.1.0.2", "weight 1", "pod b"},
		{2, testTime, "real server added", "edge", addr("10.0.0.1"), "80/tcp,443/tcp", "10.1.0.1", "weight 1", "pod a"},
		{1, testTime, "virtual service added", "edge", addr("10.0.0.1"), "80/tcp,443/tcp", "", "scheduler rr", "new virtual service"},
	}
	for i := range got {
		if !strings.HasPrefix(got[i].Why, want[min(i, len(want)-1)].Why) {
			t.Errorf("the cause of %q is %q", got[i].What, got[i].Why)
		}
		got[i].Why = want[min(i, len(want)-1)].Why
	}
	if !slices.Equal(got, want) {
		t.Errorf("recorded:\n%v\nwant:\n%v", got, want)
	}
	if !strings.Contains(log, got[0].What) {
		t.Errorf("the log lacks %q:\n%s", got[0].What, log)
	}
	b.pass()
	if n := len(b.loop.changes.last()); n != 3 {
		t.Errorf("a pass without changes: %d are recorded", n)
	}
}

// The record has a fixed number of entries, the newest first, of a fixed length.
func TestChangesAreBounded(t *testing.T) {
	var r changeRecord
	long := strings.Repeat("ü", 10_000)
	for n := range 3*keptChanges + 7 {
		r.add(&Change{What: fmt.Sprint(n), VIP: long, Ports: long, Server: long, Change: long, Why: long})
	}
	got := r.last()
	if len(got) != keptChanges || got[0].What != fmt.Sprint(3*keptChanges+6) || got[0].Number != 3*keptChanges+7 || got[keptChanges-1].Number != 2*keptChanges+8 {
		t.Errorf("%d changes, from %d to %d", len(got), got[0].Number, got[len(got)-1].Number)
	}
	for _, text := range []string{got[0].VIP, got[0].Ports, got[0].Server, got[0].Change, got[0].Why} {
		if n := len([]rune(text)); n != keptText+1 {
			t.Errorf("a text has %d characters", n)
		}
	}
	// Of one pass that changes more, the last are kept.
	cfg, up, _ := benchConfig(1, 200)
	p := pipeline{cfg: cfg}
	ops := p.pass(up)
	r = changeRecord{}
	logChanges(slog.New(slog.NewTextHandler(io.Discard, nil)), &ops, &r, nil, testTime)
	if got := r.last(); len(got) != keptChanges || got[0].Number != keptChanges {
		t.Errorf("of one pass: %d changes, the newest has number %d", len(got), got[0].Number)
	}
	(*changeRecord)(nil).add(&Change{})
}

// A series has the sums of a VIP, with rates between two audits, and of all together.
func TestLoadSeries(t *testing.T) {
	edge, dns := testVIP(), testVIP(func(v *VIP) { v.Name = "dns" })
	cfg := &Config{VIPs: []VIP{edge, dns}, AuditInterval: 10 * time.Second}
	a, b, mark := service("10.0.0.1:80/tcp").shard(), service("10.0.0.2:80/tcp").shard(), MarkKey(7, false)
	owner := func(k ServiceKey) string {
		return map[ServiceKey]string{a: "edge", mark: "edge", b: "dns"}[k]
	}
	load := func(active uint32, conns, perSec uint64) Load {
		return Load{Connections{Active: active, Inactive: 1}, Traffic{Connections: conns, InPackets: 10 * conns, InBytes: 100 * conns, ConnsPerSec: perSec}}
	}
	var h loadHistory
	at := func(seconds int, loads map[ServiceKey]Load) {
		h.sample(testTime.Add(time.Duration(seconds)*time.Second), cfg, loads, owner)
	}
	at(0, map[ServiceKey]Load{a: load(1, 100, 5), mark: load(2, 50, 6), b: load(4, 7, 8)})
	at(1, map[ServiceKey]Load{a: load(9, 900, 9)}) // an audit that was asked for
	at(10, map[ServiceKey]Load{a: load(3, 160, 5), mark: load(2, 80, 6), b: load(4, 3, 8)})
	times, got := h.last()
	point := func(active, inactive uint32, rate, packets, bytes float32) loadPoint {
		return loadPoint{active, inactive, rate, packets, bytes}
	}
	want := map[string][]loadPoint{
		"edge": {point(3, 2, 11, 0, 0), point(5, 2, 9, 90, 900)},
		"dns":  {point(4, 1, 8, 0, 0), point(4, 1, 8, 0, 0)}, // its services were made again
		"":     {point(7, 3, 19, 0, 0), point(9, 3, 8.6, 86, 860)},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(loadPoint{})); diff != "" || len(times) != 2 || !times[1].Equal(testTime.Add(10*time.Second)) {
		t.Errorf("times %v, -want +got:\n%s", times, diff)
	}
	// Another configuration: what goes on keeps its points, what is new begins now.
	cfg = &Config{VIPs: []VIP{edge, testVIP(func(v *VIP) { v.Name = "new" })}, AuditInterval: 10 * time.Second}
	at(20, map[ServiceKey]Load{a: load(3, 160, 0), b: load(4, 3, 8)})
	if _, got = h.last(); len(got["edge"]) != 3 || len(got["new"]) != 1 || len(got) != 3 {
		t.Errorf("after a reload: %v", got)
	}
}

// The series have a fixed size, however many VIPs there are and however long it takes.
func TestLoadSeriesAreBounded(t *testing.T) {
	cfg := &Config{AuditInterval: time.Second}
	for i := range 4 * seriesVIPs {
		cfg.VIPs = append(cfg.VIPs, testVIP(func(v *VIP) { v.Name = fmt.Sprint(i) }))
	}
	var h loadHistory
	for i := range 3*seriesPoints + 5 {
		h.sample(testTime.Add(time.Duration(i)*time.Second), cfg, nil, nil)
	}
	times, got := h.last()
	if len(times) != seriesPoints || len(got) != seriesVIPs+1 || len(got["0"]) != seriesPoints {
		t.Errorf("%d times, %d VIPs, %d points", len(times), len(got), len(got["0"]))
	}
	if !slices.IsSortedFunc(times, time.Time.Compare) || !times[0].Equal(testTime.Add((2*seriesPoints+5)*time.Second)) {
		t.Errorf("from %v to %v", times[0], times[len(times)-1])
	}
}

// The loop samples in its audits, and in no other pass.
func TestLoopSamplesInAudits(t *testing.T) {
	b := newBench(t, testVIP())
	b.kernel.loads = map[ServiceKey]Load{service("10.0.0.1:80/tcp").shard(): {Connections: Connections{Active: 3}}}
	for range 3 {
		b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
		b.pass()
	}
	b.later(10 * time.Second)
	_, got := b.loop.loads.last()
	if n := b.kernel.dumps; n != 2 || len(got["edge"]) != n || got["edge"][0].Active != 3 {
		t.Errorf("%d audits, points %v", n, got["edge"])
	}
}

// A time begins when a weight or its reason changes, stays while it does not, also in
// other services of the address, and ends with the real server.
func TestRowTimes(t *testing.T) {
	rows := func(weight uint32, why string) []Row {
		return []Row{{RealServer{Address: addr("10.1.0.1"), Weight: weight}, quiescedOther, why}, {RealServer{Address: addr("10.1.0.2"), Weight: 1}, quiescedOther, "static"}}
	}
	table := func(web, dns []Row) shards {
		a, b := service("10.0.0.1:53/udp"), service("10.0.0.1:80/tcp")
		a.Servers, b.Servers = dns, web
		return shards{{Services: Table{a, b}}}
	}
	times, before := new(rowTimes), table(rows(1, "a"), rows(1, "a"))
	at := func(key string, row Row) string {
		since := times.of(service(key).ServiceKey, &row)
		if since.IsZero() {
			return "-"
		}
		return fmt.Sprint(since.Sub(testTime))
	}
	for i, step := range []struct {
		web, dns []Row
		want     string // of the first real server in both services
	}{
		{rows(1, "a"), rows(1, "a"), "- -"},
		{rows(0, "b"), rows(1, "a"), "1m0s -"},
		{rows(0, "b"), rows(0, "b"), "1m0s 1m0s"},
		{rows(1, "a"), rows(0, "b"), "3m0s 1m0s"},
		{rows(1, "a"), rows(1, "a"), "3m0s 3m0s"},
		{rows(0, "b"), rows(1, "a"), "5m0s 3m0s"},
	} {
		next := table(step.web, step.dns)
		times.update(before, next, testTime.Add(time.Duration(i)*time.Minute))
		before = next
		got := at("10.0.0.1:80/tcp", step.web[0]) + " " + at("10.0.0.1:53/udp", step.dns[0])
		if got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
		if other := at("10.0.0.1:80/tcp", step.web[1]); other != "-" {
			t.Errorf("step %d: a real server that did not change: %s", i, other)
		}
	}
	times.update(before, nil, testTime)
	if len(times.shards) > 0 {
		t.Errorf("left: %v", times.shards)
	}
}
