// Micro-benchmarks of what stands between an event and the system call: codec,
// desired, settle and diff. `go test -bench . -run '^$'`.

package main

import (
	"fmt"
	"testing"
)

// benchConfig is one VIP with so many ports over so many ready pods, and the
// cluster they come from. Pod 0 is ready or not.
func benchConfig(ports, pods int, firstReady bool) (*Config, *Cluster) {
	tcp := make(map[string]string, ports)
	for i := range ports {
		tcp[fmt.Sprint(20000+i)] = "ns/svc:1"
	}
	var all []Pod
	for i := range pods {
		all = append(all, with(readyPod(fmt.Sprintf("pod-%05d", i), fmt.Sprintf("10.%d.%d.%d", 1+i/62500, i/250%250, i%250+1)), func(p *Pod) {
			p.Ready = i > 0 || firstReady
		}))
	}
	cfg := &Config{VIPs: []VIP{testVIP(func(v *VIP) { v.Ports = nil })}}
	return cfg, testCluster(tcp, all...)
}

// From inputs to operations, for a table that is already in place: what a turn
// costs when one pod has changed.
func BenchmarkPodEvent(b *testing.B) {
	for _, size := range []struct{ ports, pods int }{{20, 50}, {1000, 50}, {4000, 50}} {
		b.Run(fmt.Sprintf("%dx%d", size.ports, size.pods), func(b *testing.B) {
			cfg, up := benchConfig(size.ports, size.pods, true)
			_, down := benchConfig(size.ports, size.pods, false)
			clusters := []*Cluster{up, down}
			memory := newMemory()
			have := settle(desired(cfg, up, memory, testTime), nil, nil, testTime)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w := desired(cfg, clusters[(i+1)%2], memory, testTime)
				s := settle(w, have.Table, have.Drains, testTime)
				if n := len(diff(s.Table, have.Table)); n != size.ports {
					b.Fatalf("%d operations, want %d", n, size.ports)
				}
				have = s
			}
		})
	}
}

// A whole table from nothing.
func BenchmarkFromNothing(b *testing.B) {
	cfg, cluster := benchConfig(1000, 50, true)
	b.ReportAllocs()
	for b.Loop() {
		s := settle(desired(cfg, cluster, newMemory(), testTime), nil, nil, testTime)
		if n := len(diff(s.Table, nil)); n != 51000 {
			b.Fatalf("%d operations", n)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	e := encoder{family: 0x1c}
	o := op{Kind: newServer, Service: service("10.0.0.1:80/tcp").VirtualService, Server: rows("10.1.0.1", 1)[0].RealServer}
	b.ReportAllocs()
	for b.Loop() {
		e.buf = e.buf[:0]
		e.op(o, 0, 1)
	}
}

func BenchmarkDecode(b *testing.B) {
	o := op{Kind: newServer, Service: service("10.0.0.1:80/tcp").VirtualService, Server: rows("10.1.0.1", 1)[0].RealServer}
	e := encoder{}
	e.server(o.Service.ServiceKey, o.Server, true)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeServer(e.buf, o.Service.ServiceKey); err != nil {
			b.Fatal(err)
		}
	}
}
