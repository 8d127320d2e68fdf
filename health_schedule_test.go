package main

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// playground plays a schedule on its own clock. respond says how a probe
// ends and after how long; later than the timeout means never.
type playground struct {
	*schedule
	now     time.Time
	respond func(*target) (outcome, time.Duration)
	begun   []begun
	most    int // running at a time
	ends    ends
}

type begun struct {
	targetKey
	at time.Duration // since the start
}

type end struct {
	target *target
	at     time.Time
	outcome
}

// ends is a heap of running probes by their ends.
type ends []end

func (h ends) Len() int           { return len(h) }
func (h ends) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h ends) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ends) Push(x any)        { *h = append(*h, x.(end)) }
func (h *ends) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newPlayground(plan *ProbePlan, respond func(*target) (outcome, time.Duration)) *playground {
	p := &playground{schedule: newSchedule(rand.New(rand.NewPCG(1, 2)).Float64, nil), now: epoch, respond: respond}
	p.replan(plan, p.now)
	return p
}

// play lets time pass up to a moment.
func (p *playground) play(until time.Duration) {
	for {
		begin, overdue := p.due(p.now)
		for _, t := range overdue {
			p.finish(t, outcome{result: failed, why: "no answer", silent: true}, p.now)
		}
		for _, t := range begin {
			p.begun = append(p.begun, begun{t.targetKey, p.now.Sub(epoch)})
			if o, after := p.respond(t); after < t.vip.probes.Timeout {
				heap.Push(&p.ends, end{t, p.now.Add(after), o})
			}
		}
		p.most = max(p.most, p.running)
		next := p.next(p.now)
		for len(p.ends) > 0 && !p.ends[0].target.running {
			heap.Pop(&p.ends)
		}
		if len(p.ends) > 0 && (next.IsZero() || !next.Before(p.ends[0].at)) {
			next = p.ends[0].at
		}
		if next.IsZero() || next.Sub(epoch) > until {
			p.now = epoch.Add(until)
			return
		}
		p.now = next
		for len(p.ends) > 0 && !p.ends[0].at.After(p.now) {
			e := heap.Pop(&p.ends).(end)
			p.finish(e.target, e.outcome, p.now)
		}
	}
}

// gaps lists, for each target, the times between its probes from a moment on.
func (p *playground) gaps(from time.Duration) map[targetKey][]time.Duration {
	last := make(map[targetKey]time.Duration)
	gaps := make(map[targetKey][]time.Duration)
	for _, b := range p.begun {
		if before, ok := last[b.targetKey]; ok && before >= from {
			gaps[b.targetKey] = append(gaps[b.targetKey], b.at-before)
		}
		last[b.targetKey] = b.at
	}
	return gaps
}

// fleet is a plan of many servers with ports from 1 on.
func fleet(probes Probes, servers, ports int) *ProbePlan {
	v := ProbedVIP{Name: "edge", Probes: &probes, Addresses: []netip.Addr{netip.MustParseAddr("10.255.0.1")}, DataPort: 80}
	var all []uint16
	for n := range ports {
		all = append(all, uint16(n+1))
	}
	a := netip.MustParseAddr("10.0.0.1")
	for range servers {
		v.Servers = append(v.Servers, ProbedServer{a, all})
		a = a.Next()
	}
	return &ProbePlan{VIPs: []ProbedVIP{v}}
}

func quick(t *target) (outcome, time.Duration) { return outcome{result: passed}, time.Millisecond }

func sure(change func(*Probes)) Probes {
	p := Probes{Interval: time.Second, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 3, ConnectsPerSecond: 10_000}
	change(&p)
	return p
}

// Targets are spread over the interval, and each is asked once in it, give or
// take a tenth.
func TestScheduleSpreads(t *testing.T) {
	p := newPlayground(fleet(sure(func(p *Probes) { p.TCP, p.DataPath = 80, true }), 500, 0), quick)
	p.play(60 * time.Second)
	for key, gaps := range p.gaps(0) {
		if len(gaps) < 53 || slices.Min(gaps) < 899*time.Millisecond || slices.Max(gaps) > 1101*time.Millisecond ||
			slices.Max(gaps)-slices.Min(gaps) < 100*time.Millisecond {
			t.Fatalf("%+v: %d probes, %s to %s apart", key, len(gaps)+1, slices.Min(gaps), slices.Max(gaps))
		}
	}
	perTenth := make(map[time.Duration]int)
	for _, b := range p.begun {
		perTenth[b.at/(100*time.Millisecond)]++
	}
	for tenth := range time.Duration(600) {
		if n := perTenth[tenth]; n < 50 || n > 160 { // 100 on average
			t.Errorf("%d probes in the tenth of a second after %s", n, tenth*100*time.Millisecond)
		}
	}
	if p.most > 20 {
		t.Errorf("%d running probes, want about 1000 targets x 1ms a second", p.most)
	}
}

// The budget of ports holds in any second, whatever happens, and all targets
// get their share.
func TestScheduleKeepsBudget(t *testing.T) {
	const servers, ports, budget = 20, 100, 400
	probes := sure(func(p *Probes) { p.Ports, p.TCP, p.ConnectsPerSecond = true, 80, budget })
	p := newPlayground(fleet(probes, servers, ports), func(t *target) (outcome, time.Duration) {
		if t.kind == probePort && t.port%10 == 0 { // down on all, and not silent
			return outcome{result: failed, why: "refused"}, time.Millisecond
		}
		return outcome{result: passed}, time.Millisecond
	})
	p.play(60 * time.Second)
	var times []time.Duration
	for _, b := range p.begun {
		if b.kind == probePort {
			times = append(times, b.at)
		}
	}
	for i := range times {
		if j := i + budget + int(budget*paceSlack/time.Second) + 1; j < len(times) && times[j]-times[i] < time.Second {
			t.Fatalf("%d probes of ports in %s", j-i+1, times[j]-times[i])
		}
	}
	if want := 58 * budget; len(times) < want {
		t.Errorf("%d probes of ports in a minute, want %d", len(times), want)
	}
	counts := make(map[targetKey]int)
	for _, b := range p.begun {
		counts[b.targetKey]++
	}
	for key := range p.targets {
		low, high := 9, 13 // 2000 targets at 400 a second: a round takes 5s
		switch {
		case key.kind == probeTCP:
			low, high = 54, 66 // not in the budget
		case key.port%10 == 0:
			high += 2 // was in doubt for a while
		}
		if n := counts[key]; n < low || n > high {
			t.Errorf("%+v: %d probes in a minute", key, n)
		}
	}
}

// When doubtful targets alone would eat the budget up, the others still get a
// part of it.
func TestScheduleDoubtIsNotAll(t *testing.T) {
	probes := sure(func(p *Probes) { p.Ports, p.ConnectsPerSecond, p.Fall = true, 100, 100 })
	p := newPlayground(fleet(probes, 2, 200), func(t *target) (outcome, time.Duration) {
		if t.server.As4()[3] == 1 {
			return outcome{result: failed, why: "refused"}, time.Millisecond // always in doubt, with this fall
		}
		return outcome{result: passed}, time.Millisecond
	})
	p.play(60 * time.Second)
	counts := make(map[targetKey]int)
	for _, b := range p.begun {
		counts[b.targetKey]++
	}
	for key := range p.targets {
		if n := counts[key]; n < 5 {
			t.Fatalf("%+v: %d probes in a minute", key, n)
		}
	}
}

// A silent target costs its own timeout and no other one's: however many there
// are, those that answer are asked in time.
func TestScheduleSilenceDelaysNobody(t *testing.T) {
	probes := sure(func(p *Probes) { p.TCP, p.Timeout = 80, p.Interval })
	isSilent := func(a netip.Addr) bool { return a.As4()[3]%8 != 0 }
	p := newPlayground(fleet(probes, 8000, 0), func(t *target) (outcome, time.Duration) {
		if isSilent(t.server) {
			return outcome{}, time.Hour
		}
		return outcome{result: passed}, time.Millisecond
	})
	p.play(30 * time.Second)
	if p.most > maxRunning {
		t.Errorf("%d running probes, want %d at the most", p.most, maxRunning)
	}
	// At the start no target is known, and the first thousand silent
	// ones are in the way.
	checked := 0
	for key, gaps := range p.gaps(10 * time.Second) {
		if isSilent(key.server) {
			continue
		}
		checked++
		if slices.Max(gaps) > 1150*time.Millisecond {
			t.Errorf("%+v waited for %s", key, slices.Max(gaps))
		}
	}
	if checked != 1000 {
		t.Errorf("%d good targets checked", checked)
	}
}

// A node that falls silent is found dead within fall probes, also when it has
// many ports and the budget is small.
func TestScheduleFindsTheDead(t *testing.T) {
	dead := netip.MustParseAddr("10.0.0.7")
	for _, test := range []struct {
		name           string
		change         func(*Probes)
		servers, ports int
		within         time.Duration
	}{
		{"node", func(p *Probes) { p.TCP = 80; p.Interval, p.Timeout = 500*time.Millisecond, 250*time.Millisecond }, 100, 0, 1400 * time.Millisecond},
		{"node, long timeout", func(p *Probes) { p.TCP = 80; p.Timeout = time.Second }, 100, 0, 4200 * time.Millisecond},
		{"few ports", func(p *Probes) { p.Ports = true; p.Interval, p.Timeout = 500*time.Millisecond, 250*time.Millisecond }, 10, 2, 1400 * time.Millisecond},
		// A round takes 10 s, but some port of the node comes every 0.1 s.
		{"many ports", func(p *Probes) { p.Ports = true; p.ConnectsPerSecond = 500 }, 50, 100, 4 * time.Second},
	} {
		alive := true
		p := newPlayground(fleet(sure(test.change), test.servers, test.ports), func(t *target) (outcome, time.Duration) {
			if t.server == dead && !alive {
				return outcome{}, time.Hour
			}
			return outcome{result: passed}, time.Millisecond
		})
		p.play(20 * time.Second)
		alive = false
		for after := 50 * time.Millisecond; ; after += 50 * time.Millisecond {
			p.play(20*time.Second + after)
			h := newHealth(p.judge(), nil)
			if _, down := h.Server("edge", dead); down {
				break
			}
			if after > test.within {
				t.Errorf("%s: not down %s after it died", test.name, after)
				break
			}
		}
		if h := newHealth(p.judge(), nil); len(h.Open) > 0 {
			t.Errorf("%s: %+v", test.name, h.Open)
		}
	}
}

// When all fail at once, there is no moment in which some are down and the rest
// has to bear it all.
func TestScheduleAllAtOnce(t *testing.T) {
	for _, test := range []struct {
		name    string
		servers int
		change  func(*Probes)
		after   time.Duration // of the answer; an hour is never
	}{
		{"two, refused", 2, func(p *Probes) { p.TCP = 80 }, time.Millisecond},
		{"two, silent", 2, func(p *Probes) { p.TCP = 80 }, time.Hour},
		{"fifty, refused", 50, func(p *Probes) { p.TCP = 80 }, time.Millisecond},
		{"fifty, silent", 50, func(p *Probes) { p.TCP = 80 }, time.Hour},
		{"ports", 20, func(p *Probes) { p.Ports = true }, time.Millisecond},
		{"ports, silent", 20, func(p *Probes) { p.Ports = true }, time.Hour},
	} {
		fine := true
		p := newPlayground(fleet(sure(test.change), test.servers, 3), func(t *target) (outcome, time.Duration) {
			if fine {
				return outcome{result: passed}, time.Millisecond
			}
			return outcome{result: failed, why: "refused"}, test.after
		})
		p.play(10 * time.Second)
		fine = false
		open := false
		for at := 10 * time.Second; at < 20*time.Second; at += 10 * time.Millisecond {
			p.play(at)
			h := newHealth(p.judge(), nil)
			if len(h.Down) > 0 {
				t.Fatalf("%s: down %s after the fault: %v", test.name, at-10*time.Second, h.Down)
			}
			open = len(h.Open) > 0
		}
		if !open {
			t.Errorf("%s: not found out", test.name)
		}
		fine = true
		for at := 20 * time.Second; at < 30*time.Second; at += 10 * time.Millisecond {
			p.play(at)
			h := newHealth(p.judge(), nil)
			if len(h.Down) > 1 { // the one that happens to be asked last
				t.Fatalf("%s: down %s after the end of the fault: %v", test.name, at-20*time.Second, h.Down)
			}
			open = len(h.Open) > 0
		}
		if open {
			t.Errorf("%s: does not end", test.name)
		}
	}
}

// One that had to wait because the other was in doubt goes down when the other
// works, although no condition changes then.
func TestScheduleDeferred(t *testing.T) {
	deferred := 0
	for _, bad := range []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")} {
		asked := make(map[netip.Addr]int)
		p := newPlayground(fleet(sure(func(p *Probes) { p.TCP = 80 }), 2, 0), func(t *target) (outcome, time.Duration) {
			asked[t.server]++
			if n := asked[t.server]; n > 1 && (t.server == bad || n <= 3) {
				return outcome{result: failed, why: "refused"}, time.Millisecond
			}
			return outcome{result: passed}, time.Millisecond
		})
		for at := time.Duration(0); at < 10*time.Second; at += 10 * time.Millisecond {
			p.play(at)
			for _, f := range p.judge() {
				deferred += f.Deferred
			}
		}
		if _, down := newHealth(p.judge(), nil).Server("edge", bad); !down {
			t.Errorf("%s is not down", bad)
		}
	}
	if deferred == 0 {
		t.Error("no real server ever had to wait")
	}
}

// A new plan keeps what is known of targets that stay, forgets those that go,
// and brings forward what a shorter interval makes due.
func TestScheduleReplan(t *testing.T) {
	probes := sure(func(p *Probes) { p.TCP, p.Ports, p.Interval = 80, true, time.Hour })
	bad := netip.MustParseAddr("10.0.0.2")
	refuse := func(t *target) (outcome, time.Duration) {
		if t.server == bad {
			return outcome{result: failed, why: "refused"}, time.Millisecond
		}
		return outcome{result: passed}, time.Millisecond
	}
	p := newPlayground(fleet(probes, 3, 2), refuse)
	p.play(5 * time.Hour)
	if _, down := newHealth(p.judge(), nil).Server("edge", bad); !down {
		t.Fatal("the bad one is not down")
	}

	faster := probes
	faster.Interval = time.Second
	plan := fleet(faster, 4, 3)
	plan.VIPs[0].Servers = plan.VIPs[0].Servers[1:] // the first goes, a fourth comes
	if dropped := p.replan(plan, p.now); len(dropped) > 0 {
		t.Errorf("%d dropped, none was running", len(dropped))
	}
	h := newHealth(p.judge(), nil)
	if why, down := h.Server("edge", bad); !down || why != "refused" {
		t.Errorf("the bad one is forgotten: %+v", h)
	}
	if len(p.targets) != 3*4 {
		t.Errorf("%d targets", len(p.targets))
	}
	p.begun = nil
	p.play(5*time.Hour + 1500*time.Millisecond)
	seen := make(map[targetKey]bool)
	for _, b := range p.begun {
		seen[b.targetKey] = true
	}
	if len(seen) != 12 {
		t.Errorf("%d of 12 targets were asked in the new interval", len(seen))
	}

	// A running one is returned, and all places are free again.
	p.respond = func(t *target) (outcome, time.Duration) { return outcome{}, time.Hour }
	for at := 5*time.Hour + 1500*time.Millisecond; p.running == 0; at += 10 * time.Millisecond {
		p.play(at)
	}
	running := p.running
	if dropped := p.replan(&ProbePlan{}, p.now); len(dropped) != running {
		t.Errorf("%d dropped, %d were running", len(dropped), running)
	}
	if p.running != 0 || p.runningSilent != 0 || len(p.targets) != 0 || len(p.timers) != 0 || p.ready.Len()+p.silent.Len() != 0 || !p.next(p.now).IsZero() {
		t.Errorf("something is left: %+v", p.schedule)
	}
}

// At random: no target is ever in two places, and what is counted is right.
func TestScheduleInvariants(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	probes := sure(func(p *Probes) { p.TCP, p.Ports, p.DataPath, p.ConnectsPerSecond = 80, true, true, 50 })
	p := newPlayground(fleet(probes, 5, 5), func(t *target) (outcome, time.Duration) {
		return []outcome{{result: passed}, {result: failed, why: "500"}, {result: noResult}}[random.IntN(3)], time.Duration(random.IntN(700)) * time.Millisecond
	})
	for i := range 300 {
		p.play(time.Duration(i) * 200 * time.Millisecond)
		if i%10 == 9 {
			p.replan(fleet(probes, 1+random.IntN(9), random.IntN(9)), p.now)
		}
		running, silent, timed, queued := 0, 0, 0, 0
		var counts [len(probeKinds)][down + 1]int
		for _, target := range p.targets {
			counts[target.kind][target.state]++
			places := 0
			if target.index >= 0 {
				timed++
				places++
				if p.timers[target.index] != target {
					t.Fatal("a timer has another index than it has recorded")
				}
			}
			if target.queue != nil {
				queued++
				places++
			}
			if target.running {
				running++
				if target.wasSilent {
					silent++
				}
				if target.index < 0 {
					t.Fatalf("no deadline: %+v", target)
				}
			}
			if places != 1 {
				t.Fatalf("in %d places: %+v", places, target)
			}
		}
		if counts != p.counts {
			t.Fatalf("targets by condition: %v, counted %v", counts, p.counts)
		}
		queues := p.ready.Len() + p.silent.Len()
		for _, v := range p.vips {
			queues += v.urgent.Len() + v.due.Len()
		}
		if running != p.running || silent != p.runningSilent || timed != len(p.timers) || queued != queues {
			t.Fatalf("%d running, %d of them silent, %d timers, %d queued; counted %d, %d, %d, %d",
				running, silent, timed, queued, p.running, p.runningSilent, len(p.timers), queues)
		}
	}
}

func TestPacer(t *testing.T) {
	p := pacer{every: 10 * time.Millisecond}
	at := func(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }
	took := 0
	for ms := range 1000 {
		if p.take(at(ms)) {
			took++
		}
	}
	if took < 100 || took > 111 {
		t.Errorf("%d in a second at one in 10ms", took)
	}
	took = 0
	for p.take(at(60_000)) { // after a minute's rest
		took++
	}
	if took != 11 {
		t.Errorf("%d at once after a rest, want the slack of 100ms and one", took)
	}
}

// What a pass of the schedule costs, with all targets answering.
func BenchmarkSchedule(b *testing.B) {
	for _, size := range []struct{ servers, ports int }{{20, 10}, {200, 100}} {
		b.Run(fmt.Sprintf("targets=%d", size.servers*size.ports), func(b *testing.B) {
			p := newPlayground(fleet(sure(func(p *Probes) { p.Ports = true }), size.servers, size.ports), quick)
			b.ReportAllocs()
			until := time.Duration(0)
			for b.Loop() {
				until += 10 * time.Millisecond
				p.play(until)
			}
			b.ReportMetric(float64(len(p.begun))/float64(cmp.Or(b.N, 1)), "probes/op")
		})
	}
}
