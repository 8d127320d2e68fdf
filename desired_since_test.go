package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestDesiredSince drives desired with random histories and checks that an
// answer made from the last one is the answer that would be made from nothing,
// and likewise for computeTarget, which skips shards that have not changed.
func TestDesiredSince(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := &history{cfg: randomConfig(rt), cluster: &Cluster{}, memory: newMemory(), now: testTime}
		rt.Repeat(map[string]func(*rapid.T){
			"":        h.check,
			"pod":     h.changePod,
			"pods":    h.changePods,
			"map":     h.changeMap,
			"config":  func(rt *rapid.T) { h.cfg = randomConfig(rt) },
			"forget":  func(*rapid.T) { h.cluster, h.memory = &Cluster{}, newMemory() },
			"restart": func(*rapid.T) { h.last = nil },
			"time": func(rt *rapid.T) {
				h.now = h.now.Add(time.Duration(rapid.IntRange(1, 20).Draw(rt, "seconds")) * time.Second)
			},
			"idle":   h.becomeIdle,
			"probes": h.changeHealth,
			"again":  func(*rapid.T) {},
		})
	})
}

// history is the inputs of a loop that changes nothing but its own memory.
type history struct {
	cfg     *Config
	cluster *Cluster
	health  *Health
	memory  memory
	now     time.Time
	last    *wanted
	have    shards
}

func (h *history) check(rt *rapid.T) {
	got := desired(h.last, h.cfg, h.cluster, h.health, h.memory, h.now)
	want := desired(nil, h.cfg, h.cluster, h.health, h.memory, h.now)
	if diff := cmp.Diff(describeWanted(want), describeWanted(got)); diff != "" {
		rt.Fatalf("from the last answer (-from nothing +from the last):\n%s", diff)
	}
	forgetful := slices.Clone(h.have)
	for i := range forgetful {
		forgetful[i].From = nil
	}
	since, anew := computeTarget(&got, h.have, h.now), computeTarget(&want, forgetful, h.now)
	if diff := cmp.Diff(describeShards(anew.Shards), describeShards(since.Shards)); diff != "" {
		rt.Fatalf("target (-anew +since):\n%s", diff)
	}
	if !anew.Next.Equal(since.Next) {
		rt.Fatalf("next deadline %s, want %s", since.Next, anew.Next)
	}
	ops := diff(since.Shards, h.have)
	if diff := cmp.Diff(describeOps(diffTables(anew.Shards.table(), h.have.table())), describeOps(slices.Concat(ops[:]...))); diff != "" {
		rt.Fatalf("operations (-of tables +of shards):\n%s", diff)
	}
	h.last, h.memory, h.have = &got, got.Memory, since.Shards
}

// becomeIdle is what counting connections does to some that drain.
func (h *history) becomeIdle(rt *rapid.T) {
	h.have = slices.Clone(h.have)
	for i := range h.have {
		services := slices.Clone(h.have[i].Services)
		for j := range services {
			if services[j].draining() && rapid.Bool().Draw(rt, "idle") {
				services[j].Leaving = slices.Clone(services[j].Leaving)
				for n := range services[j].Leaving {
					services[j].Leaving[n].Idle = true
				}
				h.have[i] = shard{Services: services}
			}
		}
	}
}

// changeHealth lets probes find something else.
func (h *history) changeHealth(rt *rapid.T) {
	next := &Health{Down: make(map[HealthKey]string)}
	for i := range h.cfg.VIPs {
		if rapid.IntRange(0, 4).Draw(rt, "open") == 0 {
			next.Open = append(next.Open, FailOpen{VIP: h.cfg.VIPs[i].Name})
		}
		for node := range 7 {
			a := addr(fmt.Sprintf("10.1.0.%d", node))
			switch rapid.IntRange(0, 6).Draw(rt, "probe") {
			case 0:
				next.Down[HealthKey{h.cfg.VIPs[i].Name, a, 0}] = "refused"
			case 1:
				next.Down[HealthKey{h.cfg.VIPs[i].Name, a, 9000}] = "port 9000/tcp: refused"
			}
		}
	}
	h.health = next
}

// edit replaces the cluster by one that shares with it what is not edited.
func (h *history) edit(edit func(*Cluster)) {
	next := &Cluster{Pods: make(map[PodQuery][]*Pod), ConfigMaps: make(map[ConfigMapName]ConfigMap)}
	maps.Copy(next.Pods, h.cluster.Pods)
	maps.Copy(next.ConfigMaps, h.cluster.ConfigMaps)
	edit(next)
	h.cluster = next
}

func (h *history) anyVIP(rt *rapid.T) *VIP {
	return &h.cfg.VIPs[rapid.IntRange(0, len(h.cfg.VIPs)-1).Draw(rt, "vip")]
}

func randomPod(rt *rapid.T, name string) *Pod {
	p := readyPod(name, fmt.Sprintf("10.1.0.%d", rapid.IntRange(1, 6).Draw(rt, "node")))
	if rapid.Bool().Draw(rt, "dual") {
		p.Addresses = append(p.Addresses, addr(fmt.Sprintf("2001:db8::%d", rapid.IntRange(1, 3).Draw(rt, "node6"))))
	}
	switch rapid.SampledFrom([]string{"ready", "ready", "ready", "not ready", "terminating", "pod network"}).Draw(rt, "state") {
	case "not ready":
		p.Ready = false
	case "terminating":
		p.Terminating = true
	case "pod network":
		p.HostNetwork = false
	}
	p.Weight = rapid.SampledFrom([]string{"", "", "", "5", "heavy"}).Draw(rt, "weight")
	if rapid.Bool().Draw(rt, "port") {
		p.Ports = []Port{{8080, TCP}}
	}
	return &p
}

// changePod changes, adds or removes one pod.
func (h *history) changePod(rt *rapid.T) {
	q := h.anyVIP(rt).PodQuery()
	h.edit(func(c *Cluster) {
		name := fmt.Sprint("p", rapid.IntRange(0, 9).Draw(rt, "pod"))
		pods := slices.DeleteFunc(slices.Clone(c.Pods[q]), func(p *Pod) bool { return p.Name == name })
		if rapid.IntRange(0, 3).Draw(rt, "gone") > 0 {
			pods = append(pods, randomPod(rt, name))
			slices.SortFunc(pods, comparePods)
		}
		c.Pods[q] = pods
	})
}

// changePods replaces all.
func (h *history) changePods(rt *rapid.T) {
	q := h.anyVIP(rt).PodQuery()
	h.edit(func(c *Cluster) {
		c.Pods[q] = []*Pod{}
		for i := range rapid.IntRange(0, 30).Draw(rt, "pods") {
			c.Pods[q] = append(c.Pods[q], randomPod(rt, fmt.Sprintf("p%02d", i)))
		}
	})
}

func (h *history) changeMap(rt *rapid.T) {
	v := h.anyVIP(rt)
	h.edit(func(c *Cluster) {
		data := make(map[string]string)
		for _, port := range []string{"9000", "9001", "abc"} {
			if rapid.Bool().Draw(rt, port) {
				data[port] = "ns/svc:80"
			}
		}
		c.ConfigMaps[v.TCPServices] = ConfigMap{Exists: true, Data: data}
	})
}

func randomConfig(rt *rapid.T) *Config {
	cfg := &Config{Marks: oneMarkRange}
	for i := range rapid.IntRange(1, 3).Draw(rt, "vips") {
		cfg.VIPs = append(cfg.VIPs, testVIP(func(v *VIP) {
			v.Name = fmt.Sprint("vip", i)
			v.Addresses = []netip.Addr{addr(fmt.Sprintf("10.0.0.%d", i+1))}
			if rapid.Bool().Draw(rt, "second address") {
				v.Addresses = append(v.Addresses, addr(fmt.Sprintf("10.0.1.%d", i+1)), addr(fmt.Sprintf("2001:db8:1::%d", i+1)))
			}
			if rapid.Bool().Draw(rt, "other pods") {
				v.Pods.Selector = "app=other"
			}
			v.Scheduler = rapid.SampledFrom([]string{"rr", "dh"}).Draw(rt, "scheduler")
			v.Drain.Timeout = time.Duration(rapid.SampledFrom([]int{0, 3, 300}).Draw(rt, "drain")) * time.Second
			v.Ports = append(v.Ports, Port{53, UDP})
			v.WeightAnnotation = "weight"
			if rapid.IntRange(0, 3).Draw(rt, "static") == 0 {
				v.RealServers = []StaticServer{{Address: addr("10.1.0.2"), Weight: 7}, {Address: addr("10.1.0.9")}}
			}
			if rapid.IntRange(0, 3).Draw(rt, "slow") == 0 {
				v.SlowStart = 10 * time.Second
			}
			if rapid.IntRange(0, 3).Draw(rt, "sorry") == 0 {
				v.Sorry = []netip.Addr{addr("10.1.0.99")}
			}
			if rapid.Bool().Draw(rt, "probes") {
				v.Probes = &Probes{Ports: true}
				v.Probes.Quorum.Least = uint16(rapid.IntRange(0, 3).Draw(rt, "quorum"))
				v.Probes.Quorum.Hysteresis = uint16(rapid.IntRange(0, 1).Draw(rt, "hysteresis"))
				v.Probes.Quorum.Sorry = len(v.Sorry) > 0
			}
			v.PortsFromPods = rapid.IntRange(0, 3).Draw(rt, "ports from pods") == 0
			v.OneMark = i == 0 && rapid.IntRange(0, 3).Draw(rt, "one mark") == 0
		}))
	}
	return cfg
}

func describeShards(ps shards) []string {
	var all []string
	for s := range ps.all {
		line := fmt.Sprintf("%s %s %s %v:", s.VIP, s.ServiceKey, s.Scheduler, s.Flags)
		for _, r := range s.Servers {
			line += fmt.Sprintf(" %s=%d (%s)", r.Name(), r.Weight, r.Why)
		}
		for _, l := range s.Leaving {
			if !l.Gone { // of those that are gone only the deadline may be of use still
				line += fmt.Sprintf(" %s leaves %s idle=%t", l.Address, l.Deadline.Sub(testTime), l.Idle)
			}
		}
		all = append(all, line)
	}
	return all
}

func describeOps(ops []op) []string {
	var all []string
	for _, o := range ops {
		all = append(all, o.String())
	}
	return all
}

func describePlan(p *ProbePlan) []string {
	var all []string
	for _, v := range p.VIPs {
		all = append(all, fmt.Sprint(v.Name, v.Addresses, v.DataPort, v.Servers))
	}
	return all
}

func describeWanted(w wanted) []string {
	all := describeShards(w.Shards)
	return append(all,
		fmt.Sprint("marks ", w.Marks), fmt.Sprint("working ", w.Memory.Working), fmt.Sprint("started ", w.Memory.Started),
		fmt.Sprint("kept ", w.Kept), fmt.Sprint("below ", w.Below, w.Memory.Below, w.Memory.Short), fmt.Sprintf("probes %+v", describePlan(w.probePlan())), fmt.Sprint("retained ", w.Retained), fmt.Sprintf("warnings %q", w.Warnings), fmt.Sprint("next ", w.Next.Sub(testTime)))
}
