package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Each kind of probe is complete: in the table, in the prober, in the example
// of the configuration and in the documents.
func TestProbeKinds(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	example, page, metrics := read("config.toml.example"), read("docs/probes.md"), read("docs/metrics.md")
	_, example, _ = strings.Cut(example, "# [vip.health]")
	example, _, _ = strings.Cut(example, "[vip.drain]")
	var keys, labels []string
	for i, k := range probeKinds {
		kind := probeKind(i)
		if k.key == "" || k.usage == "" || k.label == "" || k.read == nil || k.set == nil || k.method == nil {
			t.Fatalf("kind %d: an entry is missing: %+v", i, k)
		}
		if _, ok := k.method.(probeMethod); !ok {
			t.Fatalf("%s: %T has not all methods of probeMethod", k.key, k.method)
		}
		if slices.Contains(keys, k.key) || slices.Contains(labels, k.label) {
			t.Errorf("%s: its key or its label %q is that of another kind", k.key, k.label)
		}
		keys, labels = append(keys, k.key), append(labels, k.label)
		if kind.String() != k.label {
			t.Errorf("%s: the metrics and the log do not say %q", k.key, k.label)
		}
		if !regexp.MustCompile(`(?m)^# (` + k.key + ` = |\[vip\.health\.` + k.key + `\]$)`).MatchString(example) {
			t.Errorf("%s: no line for it in config.toml.example", k.key)
		}
		if !strings.Contains(page, "| `"+k.key+"` |") {
			t.Errorf("%s: no row for it in docs/probes.md", k.key)
		}
		if !strings.Contains(metrics, "`"+k.label+"`") {
			t.Errorf("%s: docs/metrics.md does not name its label %q", k.key, k.label)
		}

		// What one key of the file gives is one kind, and has a target.
		usage := k.usage
		if !strings.Contains(usage, "=") { // a table, or a port
			usage += map[string]string{"tcp": " = 80", "http": " = {}", "dns": " = {}", "udp": " = { port = 514 }"}[k.key]
		}
		v := parseVIP(t, "[vip.health]\n"+usage)
		if got := v.Probes.kinds(); !slices.Equal(got, []probeKind{kind}) {
			t.Errorf("%s: the file gives the kinds %v", usage, got)
		}
		server := netip.MustParseAddr("10.0.0.5")
		plan := &ProbePlan{VIPs: []ProbedVIP{newProbedVIP(v, []Port{{80, TCP}}, []netip.Addr{server}, nil)}}
		s := newSchedule(func() float64 { return 0 }, nil)
		s.replan(plan, time.Unix(1e9, 0))
		if len(s.targets) == 0 {
			t.Errorf("%s: no target for %s", k.key, server)
		}
		for key, target := range s.targets {
			if key.kind != kind || key.server != server || (key.port != 0) != k.perPort || !target.to.IsValid() {
				t.Errorf("%s: target %+v to %s", k.key, key, target.to)
			}
			if why := target.fails(errClosed, false).why; !strings.Contains(why, errClosed.Error()) {
				t.Errorf("%s: a failure is described as %q", k.key, why)
			}
		}
	}
}

// A real server that was down before a restart is down after it until it has
// risen, and no other one is. What no plan names any more is forgotten, once all
// real servers are known.
func TestScheduleRecall(t *testing.T) {
	addr := netip.MustParseAddr
	first, second, gone := addr("10.0.0.1"), addr("10.0.0.2"), addr("10.0.0.9")
	recalled := map[HealthKey]string{
		{"edge", first, 0}:  "connect to 10.0.0.1:80: no answer in 500ms",
		{"edge", second, 2}: "port 2/tcp: refused",
		{"edge", gone, 0}:   "no answer",
		{"old", first, 0}:   "no answer",
	}
	p := &playground{schedule: newSchedule(func() float64 { return 0.5 }, recalled), now: epoch, respond: quick}
	down := func() map[HealthKey]string { return newHealth(p.judge(), p.recalled).Down }
	if diff := cmp.Diff(recalled, down(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("before the first plan (-want +got):\n%s", diff)
	}
	plan := func(servers int, held bool) {
		all := fleet(sure(func(p *Probes) { p.TCP, p.Ports = 80, true }), servers, 2)
		all.VIPs[0].ServersUnknown, all.VIPs[0].PortsUnknown = held, held
		p.replan(all, p.now)
	}
	expect := func(when string, want ...HealthKey) {
		t.Helper()
		wanted := make(map[HealthKey]string)
		for _, k := range want {
			wanted[k] = recalled[k]
		}
		if diff := cmp.Diff(wanted, down(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	of := func(a netip.Addr, port uint16) HealthKey { return HealthKey{"edge", a, port} }

	plan(3, true) // static ones, before the cluster has answered
	expect("while little is known", of(first, 0), of(second, 2), of(gone, 0))
	plan(4, false)
	expect("once all are known", of(first, 0), of(second, 2))
	for _, target := range p.targets {
		ill := target.server == first && target.port == 0 || target.server == second && target.port == 2
		if want := beginning(ill); target.state != want {
			t.Errorf("%+v begins %d", target.targetKey, target.state)
		}
	}
	p.play(time.Second) // one good answer each; two make them rise
	expect("after one answer", of(first, 0), of(second, 2))
	p.play(3 * time.Second)
	expect("after three")
	if n := len(p.recalled); n > 0 {
		t.Errorf("%d are never forgotten", n)
	}
	begun := slices.ContainsFunc(p.begun, func(b begun) bool { return b.server == gone })
	if begun {
		t.Error("a real server that is in no plan is probed")
	}
}

// A node that is silent at all its ports, with no other probe, is out as a whole
// through a restart.
func TestScheduleRecallOfPorts(t *testing.T) {
	dead := netip.MustParseAddr("10.0.0.1")
	respond := func(t *target) (outcome, time.Duration) {
		switch {
		case t.server == dead:
			return outcome{}, time.Hour
		case t.port == 3:
			return outcome{result: failed, why: "refused"}, time.Millisecond // no real server serves it
		}
		return outcome{result: passed}, time.Millisecond
	}
	plan := fleet(sure(func(p *Probes) { p.Ports = true }), 3, 3)
	p := newPlayground(plan, respond)
	p.play(20 * time.Second)
	before := newHealth(p.judge(), nil).Down
	if _, out := before[HealthKey{"edge", dead, 0}]; !out {
		t.Fatalf("the dead node is not out as a whole: %v", before)
	}
	q := &playground{schedule: newSchedule(func() float64 { return 0.5 }, before), now: epoch, respond: respond}
	q.replan(plan, q.now)
	for at := time.Duration(0); at < 20*time.Second; at += 100 * time.Millisecond {
		q.play(at)
		if _, out := newHealth(q.judge(), q.recalled).Down[HealthKey{"edge", dead, 0}]; !out {
			t.Fatalf("%s after the restart the dead node is not out as a whole", at)
		}
	}
}

// A node without the VIP on its lo is out until it can be asked for that again,
// however well it answers else.
func TestScheduleRecallOfDataPath(t *testing.T) {
	bad := netip.MustParseAddr("10.0.0.1")
	key := HealthKey{"edge", bad, 0}
	mended := false
	respond := func(t *target) (outcome, time.Duration) {
		if t.server == bad && t.kind == probeDataPath && !mended {
			return outcome{}, time.Hour
		}
		return outcome{result: passed}, time.Millisecond
	}
	p := &playground{schedule: newSchedule(func() float64 { return 0.5 }, map[HealthKey]string{key: "not on its lo"}), now: epoch, respond: respond}
	plan := func(known bool) {
		all := fleet(sure(func(p *Probes) { p.TCP, p.DataPath = 80, true }), 3, 0)
		if !known {
			all.VIPs[0].PortsUnknown, all.VIPs[0].DataPort = true, 0
		}
		p.replan(all, p.now)
	}
	out := func() bool { _, out := newHealth(p.judge(), p.recalled).Down[key]; return out }
	for at := time.Duration(0); at < 40*time.Second; at += 100 * time.Millisecond {
		switch at {
		case 0:
			plan(false)
		case 10 * time.Second:
			plan(false) // something else has changed: the results stay
			if tcp := p.targets[targetKey{name: "edge", server: bad, kind: probeTCP}]; tcp.state != up {
				t.Errorf("the node's own port is %d after ten seconds of good answers", tcp.state)
			}
		case 20 * time.Second:
			plan(true)
		case 30 * time.Second:
			mended = true
		}
		p.play(at)
		if !mended && !out() {
			t.Fatalf("%s after the restart the node is in service", at)
		}
	}
	if out() || len(p.recalled) > 0 {
		t.Errorf("mended, the node is out; recalled %v", p.recalled)
	}
}

// beginning is the condition of a target that begins ill, or that of a new one.
func beginning(ill bool) condition {
	if ill {
		return down
	}
	return unknown
}

// A restart sends no client to a node that was down, though its pod is ready.
func TestRestartRecallsProbes(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.Probes = &Probes{TCP: 80} }))
	cluster := testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"))
	b.loop.health = newLatest[Health](b.loop.wake)
	b.loop.cluster.Set(cluster)
	b.pass()
	b.loop.health.Set(&Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.2"), 0}: "no answer in 1s"}})
	b.pass()
	quiesced := func(when string) {
		t.Helper()
		for _, s := range b.kernel.table(func(ServiceKey) bool { return true }) {
			for _, r := range s.Servers {
				if (r.Weight == 0) != (r.Address == addr("10.1.0.2")) {
					t.Errorf("%s: %s: %s has weight %d", when, s.ServiceKey, r.Address, r.Weight)
				}
			}
		}
	}
	quiesced("before")
	b.restart()
	b.loop.health = newLatest[Health](b.loop.wake)
	b.loop.health.Set(&Health{Down: b.loop.state.Down})
	b.pass()
	quiesced("before the cluster has answered")
	b.loop.cluster.Set(cluster)
	b.pass()
	quiesced("after")
}

// Who is back from an outage starts slowly, as who joins does, and so after a
// restart in between.
func TestSlowStartAfterOutage(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) {
		v.Scheduler, v.Weight, v.SlowStart, v.Ports = "wrr", 10, 10*time.Second, []Port{{80, TCP}}
		v.Probes = &Probes{TCP: 80}
	}))
	cluster := testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"))
	hear := func(h *Health) {
		b.loop.health = newLatest[Health](b.loop.wake)
		b.loop.health.Set(h)
		b.pass()
	}
	down := &Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.2"), 0}: "no answer in 1s"}}
	b.kernel.conns[rowID{ServiceKey{Address: addr("10.0.0.1"), Port: 80, Protocol: TCP}, addr("10.1.0.2"), 0}] = Connections{Active: 1}
	b.loop.cluster.Set(cluster)
	hear(&Health{})
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=10 10.1.0.2=10\n")
	hear(down)
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=10 10.1.0.2=0\n")
	b.restart()
	b.loop.cluster.Set(cluster)
	hear(down)
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=10 10.1.0.2=0\n")
	b.later(time.Minute)
	hear(&Health{})
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=10 10.1.0.2=1\n")
	b.later(5 * time.Second)
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=10 10.1.0.2=6\n")
	b.later(10 * time.Second)
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=10 10.1.0.2=10\n")
}

// The prober names what it has found last; ports that are up are left out.
func TestProbeAnswers(t *testing.T) {
	s := newSchedule(func() float64 { return 0 }, nil)
	probes := &Probes{Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1, ConnectsPerSecond: 1000, HTTP: []HTTPProbe{{Port: 8080, Path: "/"}}, Ports: true}
	s.replan(&ProbePlan{VIPs: []ProbedVIP{{Name: "edge", Probes: probes, Servers: []ProbedServer{{addr("10.1.0.1"), []uint16{80, 443}}}}}}, testTime)
	if early := s.answers(); len(early) > 0 {
		t.Errorf("before the first probe: %v", early)
	}
	begin, _ := s.due(testTime.Add(time.Second))
	for _, target := range begin {
		o := outcome{result: passed}
		if target.port == 443 {
			o = outcome{result: failed, why: "connection refused"}
		}
		s.finish(target, o, testTime.Add(2*time.Second))
	}
	var got []string
	for _, a := range s.answers() {
		got = append(got, fmt.Sprintf("%s %s %d %s %s %t %q", a.VIP, a.Address, a.Port, a.Kind, a.State, a.Result == passed, a.Why))
	}
	want := []string{`edge 10.1.0.1 0 http up true ""`, `edge 10.1.0.1 443 port down false "connection refused"`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	wake := make(chan struct{}, 1)
	p := newProber(slog.New(slog.DiscardHandler), newLatest[ProbePlan](wake), newLatest[Health]())
	if all := p.Answers(); all != nil {
		t.Errorf("a prober that does not run: %v", all)
	}
}
