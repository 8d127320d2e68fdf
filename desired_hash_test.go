package main

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// hashOf is the number of the table that cfg asks for.
func hashOf(vips []VIP, c *Cluster, h *Health, before memory) uint64 {
	w := desired(nil, &Config{Marks: MarkRange{First: 4096, Count: 100}, VIPs: vips}, c, h, before, testTime)
	return tableHash(&w)
}

// Two directors that should do the same have the same number, whatever one of them
// finds out by itself; all else changes it.
func TestTableHash(t *testing.T) {
	tcp := map[string]string{"9000": "ns/svc:1"}
	pods := func() []Pod {
		return []Pod{readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")}
	}
	probing := func(edit ...func(*VIP)) VIP {
		v := testVIP(func(v *VIP) { v.Probes = &Probes{Ports: true} })
		v.SlowStart = 10 * time.Second
		for _, e := range edit {
			e(&v)
		}
		return v
	}
	other := testVIP(func(v *VIP) {
		v.Name, v.Addresses, v.Pods.Selector, v.TCPServices = "other", []netip.Addr{addr("10.0.0.9")}, "", ConfigMapName{}
		v.RealServers = []StaticServer{{Address: addr("10.2.0.1"), Weight: 3}}
	})
	cluster := func(all ...Pod) *Cluster { return testCluster(tcp, all...) }
	base := hashOf([]VIP{probing(), other}, cluster(pods()...), nil, newMemory())
	if base == 0 || base >= 1<<tableHashBits {
		t.Fatalf("hash %d", base)
	}
	served := newMemory()
	served.Working[workKey{VIP: "edge"}] = []RealServer{{Address: addr("10.1.0.1"), Weight: 1, Forward: DirectRoute}}
	last := pods()
	slices.Reverse(last)
	for name, same := range map[string]uint64{
		"VIPs in another order": hashOf([]VIP{other, probing()}, cluster(pods()...), nil, newMemory()),
		"pods in another order": hashOf([]VIP{probing(), other}, cluster(last...), nil, newMemory()),
		"another name":          hashOf([]VIP{probing(), withVIP(other, func(v *VIP) { v.Name = "x" })}, cluster(pods()...), nil, newMemory()),
		"a probe that fails": hashOf([]VIP{probing(), other}, cluster(pods()...),
			&Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.2"), 0}: "500", {"edge", addr("10.1.0.3"), 9000}: "refused"}}, newMemory()),
		"a slow start": hashOf([]VIP{probing(func(v *VIP) { v.Weight = 100 }), other}, cluster(pods()...), nil, served) -
			hashOf([]VIP{probing(func(v *VIP) { v.Weight = 100 }), other}, cluster(pods()...), nil, newMemory()) + base,
		"a pod that ends, and is no real server": hashOf([]VIP{probing(), other},
			cluster(append(pods(), with(readyPod("d", "10.1.0.4"), func(p *Pod) { p.Terminating = true }))...), nil, newMemory()),
		"one more pod on a node": hashOf([]VIP{probing(), other}, cluster(append(pods(), readyPod("d", "10.1.0.3"))...), nil, newMemory()),
	} {
		if same != base {
			t.Errorf("%s changes the hash", name)
		}
	}
	seen := map[uint64]string{base: "the same table"}
	edit := func(e func(*VIP)) uint64 {
		return hashOf([]VIP{probing(e), other}, cluster(pods()...), nil, newMemory())
	}
	for name, hash := range map[string]uint64{
		"a pod more":      hashOf([]VIP{probing(), other}, cluster(append(pods(), readyPod("d", "10.1.0.4"))...), nil, newMemory()),
		"a pod less":      hashOf([]VIP{probing(), other}, cluster(pods()[:2]...), nil, newMemory()),
		"a weight":        hashOf([]VIP{probing(), other}, cluster(append(pods()[:2], with(pods()[2], func(p *Pod) { p.Weight = "7" }))...), nil, newMemory()),
		"a static weight": hashOf([]VIP{probing(), withVIP(other, func(v *VIP) { v.RealServers[0].Weight = 4 })}, cluster(pods()...), nil, newMemory()),
		"a VIP less":      hashOf([]VIP{probing()}, cluster(pods()...), nil, newMemory()),
		"a port less":     hashOf([]VIP{probing(), other}, testCluster(nil, pods()...), nil, newMemory()),
		"an address":      edit(func(v *VIP) { v.Addresses = addrs("10.0.0.2") }),
		"a protocol":      edit(func(v *VIP) { v.Ports = []Port{{80, UDP}} }),
		"the scheduler":   edit(func(v *VIP) { v.Scheduler = "wrr" }),
		"flags":           edit(func(v *VIP) { v.Flags = FlagSched1 }),
		"persistence":     edit(func(v *VIP) { v.Persistence.Timeout = time.Minute }),
		"forwarding":      edit(func(v *VIP) { v.Forward = Tunnel }),
		"one mark":        edit(func(v *VIP) { v.OneMark = true }),
		"one mark, two ports": hashOf([]VIP{probing(func(v *VIP) { v.OneMark = true }), other},
			testCluster(nil, pods()...), nil, newMemory()),
		"nothing at all": hashOf(nil, nil, nil, newMemory()),
	} {
		if was, twice := seen[hash]; twice {
			t.Errorf("%s has the hash of %s", name, was)
		}
		seen[hash] = name
	}
}

// withVIP is a copy of v that edit has changed, and does not share its real servers.
func withVIP(v VIP, edit func(*VIP)) VIP {
	v.RealServers = slices.Clone(v.RealServers)
	edit(&v)
	return v
}

// The number that is carried on from answer to answer is the one of the last answer
// alone.
func TestTableHashIsCarriedOn(t *testing.T) {
	cfg, up, down := benchConfig(20, 5)
	small := testVIP(func(v *VIP) { v.Name, v.Addresses, v.TCPServices = "small", addrs("10.0.0.2"), ConfigMapName{} })
	cfg.VIPs = append(cfg.VIPs, small)
	var h tableHasher
	p := pipeline{cfg: cfg}
	var seen []uint64
	for range 3 {
		for _, c := range []*Cluster{up, up, down} {
			p.pass(c)
			got := h.of(p.want)
			if want := tableHash(p.want); got != want {
				t.Fatalf("%d, want %d", got, want)
			}
			seen = append(seen, got)
		}
	}
	if want := slices.Repeat([]uint64{seen[0], seen[0], seen[2]}, 3); !slices.Equal(seen, want) || seen[0] == seen[2] {
		t.Errorf("%d, want %d", seen, want)
	}
}

func BenchmarkTableHash(b *testing.B) {
	cfg, up, _ := benchConfig(1000, 50)
	p := pipeline{cfg: cfg}
	p.pass(up)
	b.ReportAllocs()
	for b.Loop() {
		tableHash(p.want)
	}
}

// The slow case: no two services share their real servers.
func BenchmarkTableHashOfDistinctRows(b *testing.B) {
	cfg, up, _ := benchConfig(1000, 50)
	p := pipeline{cfg: cfg}
	p.pass(up)
	set := p.want.vips[0].set(false)
	for _, services := range set.shards {
		for i := range services {
			services[i].Servers = slices.Clone(services[i].Servers)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		tableHash(p.want)
	}
}
