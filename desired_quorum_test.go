package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// quorumVIP has four real servers, and a sorry server.
func quorumVIP(q Quorum) VIP {
	return testVIP(func(v *VIP) {
		v.TCPServices, v.Sorry = ConfigMapName{}, []netip.Addr{addr("10.1.0.99")}
		v.Probes = &Probes{TCP: 80, Quorum: q}
	})
}

// A quorum is missed and reached by the number in service, with hysteresis, and a fault
// of all at once changes nothing.
func TestQuorumHistory(t *testing.T) {
	four := []Pod{readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3"), readyPod("d", "10.1.0.4")}
	unready := func(pods []Pod) (all []Pod) {
		for _, p := range pods {
			all = append(all, with(p, func(p *Pod) { p.Ready = false }))
		}
		return all
	}
	down := func(nodes ...int) map[HealthKey]string {
		all := make(map[HealthKey]string)
		for _, n := range nodes {
			all[HealthKey{"edge", addr(fmt.Sprintf("10.1.0.%d", n)), 0}] = "500"
		}
		return all
	}
	open := []FailOpen{{VIP: "edge", Why: "500"}}
	const (
		usual = "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=1 10.1.0.4=1\n"
		sorry = "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=0 10.1.0.3=0 10.1.0.4=0 10.1.0.99=1\n"
	)
	for _, test := range []struct {
		name   string
		quorum Quorum
		steps  []struct {
			what   string
			health *Health
			pods   []Pod // nil: all four
			none   bool  // the cluster has not answered
			below  int   // real servers in service, while it is below; -1: it is not
			want   string
		}
	}{
		{"withdraw", Quorum{Least: 3, Hysteresis: 1}, []struct {
			what   string
			health *Health
			pods   []Pod
			none   bool
			below  int
			want   string
		}{
			{"all serve", nil, nil, false, -1, usual},
			{"as many as the quorum", &Health{Down: down(1)}, nil, false, -1, strings.Replace(usual, "10.1.0.1=1", "10.1.0.1=0", 1)},
			{"fewer", &Health{Down: down(1, 2)}, nil, false, 2, "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=0 10.1.0.3=1 10.1.0.4=1\n"},
			{"the quorum, less than its hysteresis", &Health{Down: down(1)}, nil, false, 3, strings.Replace(usual, "10.1.0.1=1", "10.1.0.1=0", 1)},
			{"all fail at once while it is missed", &Health{Open: open}, nil, false, 4, usual},
			{"the same, as the table finds out first", &Health{Down: down(1, 2, 3, 4)}, nil, false, 4, usual},
			{"all serve again", &Health{}, nil, false, -1, usual},
			{"all fail at once", &Health{Open: open}, nil, false, -1, usual},
			{"all serve once more", nil, nil, false, -1, usual},
			{"one port of two is down", &Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.1"), 80}: "x", {"edge", addr("10.1.0.2"), 80}: "x"}}, nil, false, -1, "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=0 10.1.0.3=1 10.1.0.4=1\n"},
			{"pods that are not ready", nil, append(unready(four[:2]), four[2:]...), false, 2, "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=0 10.1.0.3=1 10.1.0.4=1\n"},
			{"no answer from the cluster", nil, nil, true, 2, "10.0.0.1:80/tcp rr: 10.1.0.3=1 10.1.0.4=1\n"},
		}},
		{"sorry", Quorum{Least: 3, Sorry: true}, []struct {
			what   string
			health *Health
			pods   []Pod
			none   bool
			below  int
			want   string
		}{
			{"all serve", nil, nil, false, -1, usual},
			{"fewer", &Health{Down: down(1, 2)}, nil, false, 2, sorry},
			{"all fail at once while it is missed", &Health{Open: open}, nil, false, 4, sorry},
			{"enough again", &Health{Down: down(1)}, nil, false, -1, strings.Replace(usual, "10.1.0.1=1", "10.1.0.1=0", 1)},
			{"no pod is ready", nil, unready(four), false, 0, sorry},
			{"two are ready", nil, append(unready(four[:2]), four[2:]...), false, 2, sorry},
			{"all are", nil, nil, false, -1, usual},
		}},
	} {
		v := quorumVIP(test.quorum)
		if !test.quorum.Sorry {
			v.Sorry = nil
		}
		cfg := &Config{VIPs: []VIP{v}, Marks: oneMarkRange}
		memory := newMemory()
		var last *wanted
		for _, step := range test.steps {
			pods := step.pods
			if pods == nil {
				pods = four
			}
			c := testCluster(nil, pods...)
			if step.none {
				c = nil
			}
			w := desired(last, cfg, c, step.health, memory, testTime)
			memory, last = w.Memory, &w
			if got := w.Shards.table().text(); got != step.want {
				t.Errorf("%s: %s: got\n%swant\n%s", test.name, step.what, got, step.want)
			}
			var want []shortage
			if step.below >= 0 {
				want = []shortage{{workKey{"edge", false}, step.below, test.quorum}}
			}
			if !slices.Equal(want, w.Below) {
				t.Errorf("%s: %s: below %v, want %v", test.name, step.what, w.Below, want)
			}
			withdrawn := len(w.withdrawn()) > 0
			if withdrawn != (step.below >= 0 && !test.quorum.Sorry) {
				t.Errorf("%s: %s: withdrawn %v", test.name, step.what, w.withdrawn())
			}
		}
	}
}

// Real servers that fail at once are not found down at once: a shortage that probes have
// found counts after as long as they take to find a real server down.
func TestQuorumWaitsForTheOthers(t *testing.T) {
	four := []Pod{readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3"), readyPod("d", "10.1.0.4")}
	down := func(nodes ...int) *Health {
		h := &Health{Down: make(map[HealthKey]string)}
		for _, n := range nodes {
			h.Down[HealthKey{"edge", addr(fmt.Sprintf("10.1.0.%d", n)), 0}] = "500"
		}
		return h
	}
	open := &Health{Open: []FailOpen{{VIP: "edge", Why: "500"}}}
	v := quorumVIP(Quorum{Least: 3})
	v.Sorry = nil
	v.Probes.Interval, v.Probes.Timeout, v.Probes.Fall = 2*time.Second, time.Second, 3 // 7s
	cfg := &Config{VIPs: []VIP{v}, Marks: oneMarkRange}
	type step struct {
		at     time.Duration
		what   string
		health *Health
		pods   []Pod // nil: all four
		below  bool
		next   time.Duration // 0: it does not change by itself
	}
	for name, steps := range map[string][]step{
		"all fail, one after the other": {
			{0, "all serve", nil, nil, false, 0},
			{1 * time.Second, "two are down", down(1, 2), nil, false, 8 * time.Second},
			{2 * time.Second, "three are", down(1, 2, 3), nil, false, 8 * time.Second},
			{3 * time.Second, "all fail", open, nil, false, 0},
			{9 * time.Second, "all fail still", open, nil, false, 0},
			{10 * time.Second, "two do, and the time begins again", down(1, 2), nil, false, 17 * time.Second},
			{17 * time.Second, "two still do", down(1, 2), nil, true, 0},
			{18 * time.Second, "all fail after that", open, nil, true, 0},
			{19 * time.Second, "three serve", down(1), nil, false, 0},
		},
		"a moment": {
			{1 * time.Second, "two are down", down(1, 2), nil, false, 8 * time.Second},
			{2 * time.Second, "one is", down(1), nil, false, 0},
			{9 * time.Second, "two are down", down(1, 2), nil, false, 16 * time.Second},
			{16*time.Second - 1, "two are down still", down(1, 2), nil, false, 16 * time.Second},
			{16 * time.Second, "they are for long", down(1, 2), nil, true, 0},
			{17 * time.Second, "they still are", down(1, 2), nil, true, 0},
		},
		"pods that are gone": {
			{1 * time.Second, "two are left", nil, four[:2], true, 0},
			{2 * time.Second, "three are", nil, four[:3], false, 0},
			{3 * time.Second, "one of three is down", down(1), four[:3], false, 10 * time.Second},
			{4 * time.Second, "and another is gone", down(1), four[:2], true, 0},
		},
	} {
		memory := newMemory()
		var last *wanted
		for _, s := range steps {
			pods := s.pods
			if pods == nil {
				pods = four
			}
			now, c := testTime.Add(s.at), testCluster(nil, pods...)
			w := desired(last, cfg, c, s.health, memory, now)
			anew := desired(nil, cfg, c, s.health, memory, now)
			if diff := cmp.Diff(describeWanted(anew), describeWanted(w)); diff != "" {
				t.Errorf("%s: %s: (-anew +after the last)\n%s", name, s.what, diff)
			}
			memory, last = w.Memory, &w
			next := time.Duration(0)
			if !w.Next.IsZero() {
				next = w.Next.Sub(testTime)
			}
			if got := len(w.Below) > 0; got != s.below || next != s.next {
				t.Errorf("%s: %s: below %t, want %t; the next change after %s, want %s", name, s.what, got, s.below, next, s.next)
			}
		}
	}
}

// All real servers are probed below the quorum too, and the reason says what happened.
func TestQuorumSorryRows(t *testing.T) {
	v := quorumVIP(Quorum{Least: 2, Sorry: true})
	w := desired(nil, &Config{VIPs: []VIP{v}, Marks: oneMarkRange}, testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")),
		&Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.2"), 0}: "500"}}, newMemory(), testTime)
	var got []string
	for _, r := range w.Shards.table()[0].Servers {
		got = append(got, fmt.Sprintf("%s=%d %s: %s", r.Address, r.Weight, r.Reason, r.Why))
	}
	want := []string{
		"10.1.0.1=0 quorum: pod a ready, but 1 in service are fewer than the quorum",
		"10.1.0.2=0 probe: pod b ready, but 500",
		"10.1.0.99=1 other: sorry server, fewer real servers in service than the quorum",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if n := len(w.probePlan().VIPs[0].Servers); n != 2 {
		t.Errorf("%d real servers are probed, want 2", n)
	}
	if got := w.Below[0].String(); got != "edge IPv4: 1 real server in service, quorum 2: the sorry server serves" {
		t.Error(got)
	}
}

// Below its quorum a VIP is withdrawn from its device, and with it the readiness of a
// director whose VIPs keepalived moves. It stays so over a restart, and a reload without
// a quorum ends it.
func TestLoopWithdrawsBelowQuorum(t *testing.T) {
	for _, announce := range []Announcement{AnnounceNone, AnnounceARP, AnnounceDummy} {
		vip := func(least uint16) VIP {
			return testVIP(func(v *VIP) {
				v.Announce, v.TCPServices = announce, ConfigMapName{}
				v.Probes = &Probes{TCP: 80, Quorum: Quorum{Least: least, Hysteresis: 1}}
			})
		}
		b := newBench(t, vip(2))
		host := &routedHost{}
		b.loop.host, b.loop.cacheDir = host, t.TempDir()
		cluster := testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3"))
		hear := func(nodes ...int) string {
			h := &Health{Down: make(map[HealthKey]string)}
			for _, n := range nodes {
				h.Down[HealthKey{"edge", addr(fmt.Sprintf("10.1.0.%d", n)), 0}] = "500"
			}
			b.loop.health = newLatest[Health](b.loop.wake)
			b.loop.health.Set(h)
			b.loop.cluster.Set(cluster)
			return b.pass()
		}
		expect := func(when string, serves bool) {
			t.Helper()
			on, ready := len(host.has.On) > 0, b.loop.published.Load().ready(b.loop.now()) == nil
			if announce == AnnounceNone && (ready != serves || on) || announce != AnnounceNone && (on != serves || !ready) {
				t.Errorf("%s, %s: announced %t, ready %t", announce, when, on, ready)
			}
		}
		hear()
		expect("all serve", true)
		if log := hear(1, 2); !strings.Contains(log, `level=ERROR msg="fewer real servers in service than the quorum" vip=edge family=IPv4 in_service=1 quorum=2 below_quorum=withdraw`) {
			t.Errorf("log:\n%s", log)
		}
		expect("one serves", false)
		b.again(host)
		hear(1)
		expect("two serve, after a restart", false)
		if log := hear(); !strings.Contains(log, `msg="enough real servers are in service for the quorum again" vip=edge family=IPv4`) {
			t.Errorf("log:\n%s", log)
		}
		expect("three serve", true)
		hear(1, 2)
		expect("one serves again", false)
		b.loop.config.Set(&Config{VIPs: []VIP{vip(0)}, AuditInterval: b.loop.config.Get().AuditInterval, AnnounceDevice: "lvs0", Marks: oneMarkRange})
		b.pass()
		expect("without a quorum", true)
	}
}

// The bounds of a quorum: it is missed below Least, and until Least and Hysteresis.
func TestQuorumMissed(t *testing.T) {
	for _, q := range []Quorum{{Least: 1}, {Least: 3}, {Least: 3, Hysteresis: 1}, {Least: 3, Hysteresis: 4}, {Least: 10_000, Hysteresis: 10_000}} {
		least, enough := int(q.Least), int(q.Least)+int(q.Hysteresis)
		for n, want := range map[int][2]bool{ // before above, before below
			0: {true, true}, least - 1: {true, true}, least: {false, q.Hysteresis > 0}, enough - 1: {enough-1 < least, true}, enough: {false, false}, enough + 1: {false, false},
		} {
			if got := [2]bool{q.missed(n, false), q.missed(n, true)}; got != want {
				t.Errorf("%+v, %d in service: %v, want %v", q, n, got, want)
			}
		}
	}
}

// The families of a VIP are above or below the quorum each for itself, with what they were
// before, and the sorry server has the weight of the VIP.
func TestQuorumFamilies(t *testing.T) {
	for _, sorry := range []bool{false, true} {
		v := quorumVIP(Quorum{Least: 2, Hysteresis: 1, Sorry: sorry})
		v.Addresses, v.Weight = []netip.Addr{addr("10.0.0.1"), addr("2001:db8::1")}, 7
		if v.Sorry = nil; sorry {
			v.Sorry = []netip.Addr{addr("10.1.0.99"), addr("2001:db8:1::99")}
		}
		cfg := &Config{VIPs: []VIP{v}, Marks: oneMarkRange}
		var pods []Pod
		for n := 1; n <= 3; n++ {
			pods = append(pods, readyPod(fmt.Sprint("p", n), fmt.Sprintf("10.1.0.%d", n), fmt.Sprintf("2001:db8:1::%d", n)))
		}
		memory := newMemory()
		var last *wanted
		for _, step := range []struct {
			what   string
			down   []string
			open   []FailOpen
			below  []string  // family and real servers in service
			weight [2]uint32 // of the sorry server of each family
		}{
			{"all serve", nil, nil, nil, [2]uint32{}},
			{"two of IPv6 are down", []string{"2001:db8:1::1", "2001:db8:1::2"}, nil, []string{"IPv6 1"}, [2]uint32{0, 7}},
			{"one of each is down", []string{"10.1.0.1", "2001:db8:1::1"}, nil, []string{"IPv6 2"}, [2]uint32{0, 7}},
			{"one of IPv4 is down", []string{"10.1.0.1"}, nil, nil, [2]uint32{}},
			{"two of IPv4 and one of IPv6 are down", []string{"10.1.0.1", "10.1.0.2", "2001:db8:1::1"}, nil, []string{"IPv4 1"}, [2]uint32{7, 0}},
			{"two of each are down", []string{"10.1.0.1", "10.1.0.2", "2001:db8:1::1", "2001:db8:1::2"}, nil, []string{"IPv4 1", "IPv6 1"}, [2]uint32{7, 7}},
			{"one of IPv6 is down", []string{"2001:db8:1::1"}, nil, []string{"IPv6 2"}, [2]uint32{0, 7}},
			{"all of IPv6 fail at once", nil, []FailOpen{{VIP: "edge", Is6: true, Why: "500"}}, []string{"IPv6 3"}, [2]uint32{0, 7}},
			{"all of IPv4 fail at once, and IPv6 serves", nil, []FailOpen{{VIP: "edge", Why: "500"}}, nil, [2]uint32{}},
		} {
			h := &Health{Down: make(map[HealthKey]string), Open: step.open}
			for _, a := range step.down {
				h.Down[HealthKey{"edge", addr(a), 0}] = "500"
			}
			w := desired(last, cfg, testCluster(nil, pods...), h, memory, testTime)
			memory, last = w.Memory, &w
			var below []string
			withdrawn := make(map[netip.Addr]bool)
			for _, s := range w.Below {
				below = append(below, fmt.Sprint(familyName(s.Is6), " ", s.Serving))
				if !sorry {
					withdrawn[v.Addresses[familyIndex(s.Is6)]] = true
				}
			}
			if diff := cmp.Diff(step.below, below); diff != "" {
				t.Errorf("sorry %t: %s: below (-want +got):\n%s", sorry, step.what, diff)
			}
			if diff := cmp.Diff(withdrawn, w.withdrawn()); diff != "" {
				t.Errorf("sorry %t: %s: withdrawn (-want +got):\n%s", sorry, step.what, diff)
			}
			if !sorry {
				continue
			}
			var weights [2]uint32
			for _, s := range w.Shards.table() {
				serving := uint32(0)
				for _, r := range s.Servers {
					if slices.Contains(v.Sorry, r.Address) {
						weights[familyIndex(s.Address.Is6())] = r.Weight
					} else {
						serving += r.Weight
					}
				}
				if at := familyIndex(s.Address.Is6()); (serving > 0) == (weights[at] > 0) {
					t.Errorf("%s: real servers serve beside the sorry server, or nothing does:\n%s", step.what, w.Shards.table().text())
				}
			}
			if weights != step.weight {
				t.Errorf("%s: sorry servers have %v, want %v", step.what, weights, step.weight)
			}
		}
	}
}

// A real server of weight 0 does not count, and a sorry server that is a row for another
// reason is none that serves.
func TestQuorumCounts(t *testing.T) {
	v := quorumVIP(Quorum{Least: 2, Sorry: true})
	v.Pods.Selector = ""
	v.RealServers = []StaticServer{{Address: addr("10.1.0.1"), Weight: 9}, {Address: addr("10.1.0.2"), Weight: 0}, {Address: addr("10.1.0.3"), Weight: 1}}
	cfg := &Config{VIPs: []VIP{v}, Marks: oneMarkRange}
	w := desired(nil, cfg, testCluster(nil), &Health{}, newMemory(), testTime)
	if len(w.Below) > 0 {
		t.Errorf("two serve: %v", w.Below)
	}
	w = desired(&w, cfg, testCluster(nil), &Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.3"), 0}: "500"}}, w.Memory, testTime)
	if len(w.Below) != 1 || w.Below[0].Serving != 1 {
		t.Errorf("one with weight 9 serves: %v", w.Below)
	}
}

// Real servers that lack one port each are no fault of all at once.
func TestQuorumWithPortsDown(t *testing.T) {
	v := quorumVIP(Quorum{Least: 2})
	v.Sorry, v.Ports = nil, []Port{{80, TCP}, {443, TCP}}
	cfg := &Config{VIPs: []VIP{v}, Marks: oneMarkRange}
	down := map[HealthKey]string{{"edge", addr("10.1.0.1"), 0}: "500", {"edge", addr("10.1.0.2"), 0}: "500", {"edge", addr("10.1.0.3"), 443}: "refused"}
	w := desired(nil, cfg, testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")), &Health{Down: down}, newMemory(), testTime)
	if len(w.Below) != 1 || w.Below[0].Serving != 1 {
		t.Errorf("below: %v\n%s", w.Below, w.Shards.table().text())
	}
}

// A sorry server that has a pod serves as the sorry server, with the weight of the VIP.
func TestQuorumSorryWithAPod(t *testing.T) {
	v := quorumVIP(Quorum{Least: 3, Sorry: true})
	v.Sorry = []netip.Addr{addr("10.1.0.2")}
	w := desired(nil, &Config{VIPs: []VIP{v}, Marks: oneMarkRange}, testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")), &Health{}, newMemory(), testTime)
	if got, want := w.Shards.table().text(), "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=1\n"; got != want {
		t.Errorf("got %swant %s", got, want)
	}
}

// An address that several VIPs share is withdrawn when one of them is below its quorum;
// what that one does not have stays.
func TestQuorumOfASharedAddress(t *testing.T) {
	web := testVIP(func(v *VIP) {
		v.Name, v.Announce, v.TCPServices = "web", AnnounceARP, ConfigMapName{}
		v.Addresses = []netip.Addr{addr("10.0.0.1"), addr("10.0.0.2")}
	})
	mail := testVIP(func(v *VIP) {
		v.Name, v.Announce, v.TCPServices, v.Ports = "mail", AnnounceARP, ConfigMapName{}, []Port{{25, TCP}}
		v.Addresses = []netip.Addr{addr("10.0.0.1"), addr("10.0.0.3")}
		v.Probes = &Probes{TCP: 25, Quorum: Quorum{Least: 2}}
	})
	for _, order := range [][]VIP{{web, mail}, {mail, web}} {
		b := newBench(t, order...)
		host := &routedHost{}
		b.loop.host, b.loop.cacheDir = host, t.TempDir()
		b.loop.health = newLatest[Health](b.loop.wake)
		b.loop.health.Set(&Health{})
		b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
		expect := func(when string, want ...string) {
			t.Helper()
			b.pass()
			var got []string
			for _, a := range host.has.On {
				got = append(got, a.String())
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s first, %s: announced (-want +got):\n%s", order[0].Name, when, diff)
			}
		}
		expect("both serve", "10.0.0.1", "10.0.0.2", "10.0.0.3")
		b.loop.health.Set(&Health{Down: map[HealthKey]string{{"mail", addr("10.1.0.1"), 0}: "500"}})
		expect("mail is below its quorum", "10.0.0.2")
		b.loop.health.Set(&Health{})
		expect("mail is not any more", "10.0.0.1", "10.0.0.2", "10.0.0.3")
	}
}
