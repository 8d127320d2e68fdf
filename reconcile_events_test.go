package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Each reader gets each event once and in order, or learns how many it has missed.
func TestEventRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := new(eventRecord)
		var at, got, lost, total uint64
		read := func(most int) {
			events, missed, last, more := r.after(at, most)
			if (more != nil) != (len(events) == 0) || len(events) > most || last < at {
				t.Fatalf("%d of %d events, last %d after %d, more %t", len(events), most, last, at, more != nil)
			}
			for i, e := range events {
				if e.Number != last-uint64(len(events)-1-i) || e.Reason != fmt.Sprint(e.Number) {
					t.Fatalf("event %d says %s, last %d", e.Number, e.Reason, last)
				}
			}
			got, lost, at = got+uint64(len(events)), lost+missed, last
			if got+lost != at {
				t.Fatalf("%d read and %d lost of %d", got, lost, at)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 300).Draw(t, "events") {
					total++
					r.add(Event{Reason: fmt.Sprint(total)})
				}
			},
			"skip": func(t *rapid.T) { // a pass with more changes than are kept
				n := rapid.IntRange(1, 2000).Draw(t, "skipped")
				r.skip(n)
				total += uint64(n)
				for range keptEvents {
					total++
					r.add(Event{Reason: fmt.Sprint(total)})
				}
			},
			"read": func(t *rapid.T) { read(rapid.IntRange(1, 200).Draw(t, "most")) },
			"":     func(t *rapid.T) {},
		})
		for at < total {
			read(100)
		}
		if r.newest() != total || len(r.ring) > keptEvents {
			t.Fatalf("newest %d of %d, %d kept", r.newest(), total, len(r.ring))
		}
	})
}

// A reader that waits wakes up; none waits for a record that is nil.
func TestEventRecordWakes(t *testing.T) {
	r := new(eventRecord)
	_, _, _, more := r.after(0, 1)
	select {
	case <-more:
		t.Fatal("there is an event before the first")
	default:
	}
	r.add(Event{VIP: strings.Repeat("x", 10_000)})
	<-more
	events, _, _, _ := r.after(99, 1) // a number of another process
	if len(events) != 1 || len(events[0].VIP) > keptText+3 {
		t.Errorf("%+v", events)
	}
	var none *eventRecord
	none.add(Event{})
	none.skip(1)
	none.moved(testTime, nil, nil, nil, "")
}

// said is what the events after number at say, one line each.
func said(t *testing.T, r *eventRecord, at uint64) (lines []string) {
	t.Helper()
	events, lost, _, _ := r.after(at, keptEvents)
	if lost > 0 {
		t.Errorf("%d events are lost", lost)
	}
	for i := range events {
		if events[i].Number != at+uint64(i)+1 || events[i].Time.IsZero() {
			t.Errorf("%+v", events[i])
		}
		events[i].Number, events[i].Time = 0, time.Time{}
		b, err := json.Marshal(&events[i])
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Replace(string(b), `"time":"0001-01-01T00:00:00Z",`, "", 1))
	}
	return lines
}

// What the loop does is one event each, with its cause.
func TestLoopEvents(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) {
		v.Announce, v.TCPServices = AnnounceDummy, ConfigMapName{}
		v.Probes = &Probes{TCP: 80, Quorum: Quorum{Least: 2}}
	}))
	host := &routedHost{}
	b.loop.host, b.loop.cacheDir = host, t.TempDir()
	events, at := b.loop.events, uint64(0)
	expect := func(when string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, said(t, events, at)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
		at = events.newest()
	}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	expect("at the start",
		`{"kind":"service_added","vip":"edge","address":"10.0.0.1","service":"80/tcp","change":"scheduler rr","reason":"new virtual service"}`,
		`{"kind":"server_added","vip":"edge","address":"10.0.0.1","service":"80/tcp","server":"10.1.0.1","new_weight":1,"change":"weight 1","reason":"pod a ready"}`,
		`{"kind":"server_added","vip":"edge","address":"10.0.0.1","service":"80/tcp","server":"10.1.0.2","new_weight":1,"change":"weight 1","reason":"pod b ready"}`,
		`{"kind":"vip_announced","vip":"edge","family":"IPv4","address":"10.0.0.1"}`)
	b.pass()
	expect("unchanged")
	b.loop.health = newLatest[Health](b.loop.wake)
	b.loop.health.Set(&Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.2"), 0}: "500"}})
	b.pass()
	expect("a real server down",
		`{"kind":"quorum_lost","vip":"edge","family":"IPv4","reason":"edge IPv4: 1 real server in service, quorum 2: the addresses are withdrawn"}`,
		`{"kind":"server_edited","vip":"edge","address":"10.0.0.1","service":"80/tcp","server":"10.1.0.2","old_weight":1,"new_weight":0,"change":"weight 1 → 0","reason":"pod b ready, but 500, draining"}`,
		`{"kind":"vip_withdrawn","vip":"edge","family":"IPv4","address":"10.0.0.1"}`)
	b.loop.health.Set(&Health{})
	b.pass()
	expect("it is back",
		`{"kind":"quorum_regained","vip":"edge","family":"IPv4"}`,
		`{"kind":"server_edited","vip":"edge","address":"10.0.0.1","service":"80/tcp","server":"10.1.0.2","old_weight":0,"new_weight":1,"change":"weight 0 → 1","reason":"pod b ready"}`,
		`{"kind":"vip_announced","vip":"edge","family":"IPv4","address":"10.0.0.1"}`)
	b.loop.health.Set(&Health{Open: []FailOpen{{VIP: "edge", Why: "10.1.0.1: 500"}, {VIP: "edge", Port: 80, Why: "refused"}}})
	b.pass()
	b.loop.health.Set(&Health{})
	b.pass()
	expect("all probes fail",
		`{"kind":"all_probes_fail","vip":"edge","family":"IPv4","reason":"10.1.0.1: 500"}`,
		`{"kind":"all_probes_fail","vip":"edge","family":"IPv4","service":"80/tcp","reason":"refused"}`,
		`{"kind":"not_all_probes_fail","vip":"edge","family":"IPv4"}`,
		`{"kind":"not_all_probes_fail","vip":"edge","family":"IPv4","service":"80/tcp"}`)
	b.order(true)
	b.pass()
	b.order(false)
	b.pass()
	lines := said(t, events, at)
	for i := range lines {
		before, _, cut := strings.Cut(lines[i], "drained by the operator since ")
		if cut {
			lines[i] = before + `…"}`
		}
	}
	want := []string{
		`{"kind":"director_drained"}`,
		`{"kind":"vip_withdrawn","vip":"edge","family":"IPv4","address":"10.0.0.1","reason":"…"}`,
		`{"kind":"director_not_drained"}`,
		`{"kind":"vip_announced","vip":"edge","family":"IPv4","address":"10.0.0.1"}`,
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("a drain (-want +got):\n%s", diff)
	}
	at = events.newest()
	b.loop.cluster.Set(testCluster(nil, with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Ready = false }), with(readyPod("b", "10.1.0.2"), func(p *Pod) { p.Ready = false })))
	b.pass()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	expect("no pod is ready, for a moment",
		`{"kind":"working_set_kept","vip":"edge","family":"IPv4","reason":"no other real server would be in service"}`,
		`{"kind":"working_set_not_kept","vip":"edge","family":"IPv4"}`)
}

// A pass of more changes than are kept has the last of them, and the rest counts.
func TestEventsOfALargePass(t *testing.T) {
	var have shards
	for i := range 1000 {
		a := addr(fmt.Sprintf("10.2.%d.%d", i/250, i%250+1))
		have = append(have, shard{Services: Table{{VirtualService: VirtualService{ServiceKey: ServiceKey{Address: a, Port: 80, Protocol: TCP}, Scheduler: "rr"}, VIP: "edge"}}})
	}
	ops := diff(have, nil)
	r := new(eventRecord)
	logChanges(slog.New(slog.NewTextHandler(io.Discard, nil)), &ops, nil, r, testTime)
	events, lost, last, _ := r.after(0, 10_000)
	if len(events) != keptEvents || lost != 1000-keptEvents || last != 1000 || events[len(events)-1].Address != addr("10.2.3.250") {
		t.Errorf("%d events, %d lost, last %d: %+v", len(events), lost, last, events[len(events)-1])
	}
}
