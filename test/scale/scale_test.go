package main

import (
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// The same seed gives the same text, another one another.
func TestSimulationIsDeterministic(t *testing.T) {
	one := simulate(7, true)
	if two := simulate(7, true); one != two {
		t.Error("two runs with the same seed differ")
	}
	if other := simulate(8, true); one == other {
		t.Error("the seed does not matter")
	}
}

// What each router moves when one of eight directors leaves or joins.
func TestRoutersMoveFlows(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	for _, c := range []struct {
		router      routerKind
		gone        int
		least, most float64
	}{
		{resilient, 3, 0.115, 0.135},
		{threshold, 0, 0.49, 0.51}, // the border of each of the others moves
		{threshold, 4, 0.26, 0.30},
		{modulo, 3, 0.86, 0.89},
	} {
		var rest []int
		for _, m := range all {
			if m != c.gone {
				rest = append(rest, m)
			}
		}
		const flows = 50000
		moved := 0
		for range flows {
			flow := rng.Uint64()
			was, is := all[c.router.pick(flow, all)], rest[c.router.pick(flow, rest)]
			if was == is {
				continue
			}
			moved++
			if c.router == resilient && was != c.gone {
				t.Fatalf("a flow of director %d has moved", was)
			}
		}
		if share := float64(moved) / flows; share < c.least || share > c.most {
			t.Errorf("%s without director %d moves %.3f, want %g to %g", routerNames[c.router], c.gone, share, c.least, c.most)
		}
	}
}

// small is the base with fewer connections.
func small(change func(*scenario)) outcome {
	s := base
	s.connections, s.rounds = 20000, 2
	change(&s)
	return s.run(3)
}

func TestNothingBreaksWithoutChanges(t *testing.T) {
	o := small(func(s *scenario) { s.churn = 0 })
	if o.mh != 0 || o.sync != 0 || o.pair != 0 || o.elsewhere != 0 {
		t.Errorf("no change of the real servers, and yet: %+v", o)
	}
	if want := o.moved * 49 / 50; math.Abs(o.rr-want) > 0.01 {
		t.Errorf("rr breaks %.3f, want %.3f of %.3f that move", o.rr, want, o.moved)
	}
	// The real servers in another order are the only thing that is different.
	if o := small(func(s *scenario) { s.churn, s.join = 0, true }); o.mh == 0 || o.mh > 0.1*o.moved || o.pair != 0 {
		t.Errorf("a director joins: %+v", o)
	}
}

func TestChangesAndDelaysBreakMore(t *testing.T) {
	slow := small(func(s *scenario) { s.churn = 0.5 })
	fast := small(func(s *scenario) { s.churn = 5 })
	if slow.mh == 0 || fast.mh < 3*slow.mh {
		t.Errorf("mh breaks %.4f at 0.5 changes a minute, and %.4f at 5", slow.mh, fast.mh)
	}
	late := small(func(s *scenario) { s.churn, s.delays.laggard = 5, 600 })
	if late.elsewhere < 2*fast.elsewhere || late.mh < 1.2*fast.mh {
		t.Errorf("a late director changes little: %+v, in time %+v", late, fast)
	}
	if prompt := small(func(s *scenario) { s.churn, s.delays = 5, delays{} }); prompt.elsewhere != 0 {
		t.Errorf("without delays %g are opened elsewhere", prompt.elsewhere)
	}
	if two := small(func(s *scenario) { s.churn, s.directors = 5, 2 }); two.mh < 0.02 || two.sync > two.mh/20 || two.sync != two.pair {
		t.Errorf("two directors with [sync]: %+v", two)
	}
	if eight := small(func(s *scenario) { s.churn, s.directors = 5, 8 }); eight.sync < eight.mh/2 || eight.sync >= eight.mh || eight.pair > eight.mh/20 {
		t.Errorf("four pairs: %+v", eight)
	}
}

// A partner does not know what is younger than the kernel's delay.
func TestYoungConnectionsAreNotSynchronised(t *testing.T) {
	o := small(func(s *scenario) { s.churn, s.lifetime, s.directors = 60, 2, 2 })
	if o.pair == 0 || o.pair > o.mh/2 {
		t.Errorf("connections of 2 s: %+v", o)
	}
}

// A director drains, removes and adds as the history says, and when it learns of it.
func TestDirectorFollowsHistory(t *testing.T) {
	h := newHistory(rand.New(rand.NewPCG(5, 5)), 10, 2, -2000)
	d := &director{boot: -1, list: h.first}
	for _, c := range h.changes {
		d.learns = append(d.learns, c.at+1)
	}
	shared := make(tables)
	counts := make(map[changeKind]int)
	for i, c := range h.changes {
		before := len(d.list)
		d.advance(&h, c.at+0.5, shared)
		if d.next > i {
			t.Fatalf("change %d is known too early", i)
		}
		d.advance(&h, d.learns[i], shared)
		counts[c.kind]++
		got := len(d.list) - before
		if want := map[changeKind]int{joins: 1, drains: 0, leaves: -1}[c.kind]; d.next == i+1 && i > 0 && h.changes[i-1].at+1 < c.at && got != want {
			t.Errorf("change %d of kind %d: the list grows by %d, want %d", i, c.kind, got, want)
		}
	}
	for kind := joins; kind <= leaves; kind++ {
		if counts[kind] < 5 {
			t.Errorf("%d changes of kind %d", counts[kind], kind)
		}
	}
	serving := 0
	for _, s := range d.list {
		serving += s.Weight
	}
	if serving < 9 || serving > 11 {
		t.Errorf("%d real servers in service at the end, want 9 to 11", serving)
	}
}

func TestSizing(t *testing.T) {
	p := assumed.plan(100, 1e8)
	// 62.5 million packets a second, 8 million for each director.
	if p.directors != 9 || p.paired != 16 || p.bits != 24 || math.Abs(p.each-1.25e7) > 1 {
		t.Errorf("100 Gbit/s: %+v", p)
	}
	if p.memory < 4e9 || p.memory > 5e9 {
		t.Errorf("100 Gbit/s: %+v", p)
	}
	if p := assumed.plan(1, 1e6); p.directors != 2 || p.paired != 2 || p.bits != 20 {
		t.Errorf("1 Gbit/s: %+v", p)
	}
	// The line is the limit of fast cores.
	fast := assumed
	fast.cost = 0.01
	if p := fast.plan(100, 1e6); p.directors != 9 {
		t.Errorf("a line of 25 Gbit/s, half of it used: %d directors", p.directors)
	}
	for connections, want := range map[float64]int{1: 20, 1 << 20: 20, 1<<20 + 1: 21, 1e8: 27, 1e9: 27} {
		if got := tableBits(connections); got != want {
			t.Errorf("%g connections: %d bits, want %d", connections, got, want)
		}
	}
	for _, bad := range []func(*sizing){func(s *sizing) { s.cost = 0 }, func(s *sizing) { s.use = 1.5 }, func(s *sizing) { s.line = math.NaN() }} {
		s := assumed
		bad(&s)
		if s.check() == nil {
			t.Errorf("%+v is accepted", s)
		}
	}
}

func TestReplace(t *testing.T) {
	doc := "head\n<!-- scale: begin api -->\nold\n<!-- scale: end api -->\ntail\n"
	got, err := replace([]byte(doc), "api", "new\n")
	want := "head\n<!-- scale: begin api -->\n\nnew\n\n<!-- scale: end api -->\ntail\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := replace([]byte(doc), "simulation", ""); err == nil {
		t.Error("a part that is missing is written")
	}
}

// The document has the last table as the program makes it today.
func TestDocumentIsCurrent(t *testing.T) {
	text, err := os.ReadFile("../../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), assumed.render()) {
		t.Error("docs/scale.md has another table of directors: run `make scale`")
	}
}

func TestSyncedStream(t *testing.T) {
	for metrics, want := range map[string]bool{
		"lvs_cluster_synced{stream=\"pods ingress-nginx a=b\"} 1\n":                                   true,
		"lvs_cluster_synced{stream=\"pods ingress-nginx a=b\"} 0\n":                                   false,
		"lvs_cluster_synced{stream=\"configmap a/b\"} 1\nlvs_cluster_synced{stream=\"pods a b\"} 0\n": false,
		"": false,
	} {
		if got := syncedStream(metrics); got != want {
			t.Errorf("%q: %v", metrics, got)
		}
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2, 0.75: 3, 1: 4} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("of none: %g", got)
	}
}
