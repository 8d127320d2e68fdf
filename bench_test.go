// Micro-benchmarks of the way from an event to the system call: codec, desired table,
// target and diff. `go test -bench . -run '^$'`.

package main

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"testing"
	"time"
)

// benchConfig is one VIP with so many ports over so many ready pods, and the
// cluster they come from with the first pod up and down.
func benchConfig(ports, pods int) (cfg *Config, up, down *Cluster) {
	tcp := make(map[string]string, ports)
	for i := range ports {
		tcp[fmt.Sprint(20000+i)] = "ns/svc:1"
	}
	var all []Pod
	for i := range pods {
		all = append(all, readyPod(fmt.Sprintf("pod-%05d", i), fmt.Sprintf("10.%d.%d.%d", 1+i/62500, i/250%250, i%250+1)))
	}
	cfg = &Config{VIPs: []VIP{testVIP(func(v *VIP) { v.Ports = nil })}}
	up = testCluster(tcp, all...)
	return cfg, up, withFirstPod(up, func(p *Pod) { p.Ready = false })
}

// withFirstPod is the next snapshot of a watch in which one pod has changed.
func withFirstPod(c *Cluster, edit func(*Pod)) *Cluster {
	next := &Cluster{Pods: make(map[PodQuery][]*Pod), ConfigMaps: c.ConfigMaps}
	for q, pods := range c.Pods {
		first := *pods[0]
		edit(&first)
		next.Pods[q] = append([]*Pod{&first}, pods[1:]...)
	}
	return next
}

// pipeline is the way from an event to the operations, with its memory.
type pipeline struct {
	cfg  *Config
	want *wanted
	have shards
}

// pass returns the operations that a cluster asks for, and assumes that they succeed.
func (p *pipeline) pass(c *Cluster) phases {
	before := newMemory()
	if p.want != nil {
		before = p.want.Memory
	}
	want := desired(p.want, p.cfg, c, nil, before, testTime)
	s := computeTarget(&want, p.have, testTime)
	ops := diff(s.Shards, p.have)
	p.want, p.have = &want, s.Shards
	return ops
}

func ops(p phases) int { return p.len() }

// From inputs to operations, for a table that is right: what a pass costs when a pod becomes ready, or not ready, on one node of all services.
func BenchmarkPodEvent(b *testing.B) {
	for _, size := range []struct{ ports, pods int }{{20, 50}, {1000, 50}, {4000, 50}, {50, 5000}} {
		b.Run(fmt.Sprintf("%dx%d", size.ports, size.pods), func(b *testing.B) {
			cfg, up, down := benchConfig(size.ports, size.pods)
			p := pipeline{cfg: cfg}
			p.pass(up)
			clusters := []*Cluster{up, down}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if n := ops(p.pass(clusters[(i+1)%2])); n != size.ports {
					b.Fatalf("%d operations, want %d", n, size.ports)
				}
			}
		})
	}
}

// An event that touches one service, beside a VIP with so many rows.
func BenchmarkPodEventBeside(b *testing.B) {
	for _, ports := range []int{20, 4000} {
		b.Run(fmt.Sprintf("%dx50", ports), func(b *testing.B) {
			cfg, up, _ := benchConfig(ports, 50)
			small := testVIP(func(v *VIP) {
				v.Name, v.Addresses, v.Pods.Selector, v.TCPServices = "small", []netip.Addr{addr("10.0.0.2")}, "app=small", ConfigMapName{}
			})
			cfg.VIPs = append(cfg.VIPs, small)
			pods := refs(readyPod("a", "10.9.0.1"), readyPod("b", "10.9.0.2"))
			up.Pods[small.PodQuery()] = pods
			down := &Cluster{Pods: maps.Clone(up.Pods), ConfigMaps: up.ConfigMaps}
			gone := *pods[0]
			gone.Ready = false
			down.Pods[small.PodQuery()] = []*Pod{&gone, pods[1]}
			p := pipeline{cfg: cfg}
			p.pass(up)
			clusters := []*Cluster{up, down}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if n := ops(p.pass(clusters[(i+1)%2])); n != 1 {
					b.Fatalf("%d operations, want 1", n)
				}
			}
		})
	}
}

// A whole table from nothing: 51,000 operations.
func BenchmarkFromNothing(b *testing.B) {
	cfg, up, _ := benchConfig(1000, 50)
	b.ReportAllocs()
	for b.Loop() {
		p := pipeline{cfg: cfg}
		if n := ops(p.pass(up)); n != 51000 {
			b.Fatalf("%d operations", n)
		}
	}
}

func benchOp() *op {
	s := service("10.0.0.1:80/tcp", "10.1.0.1", 1)
	return &op{&s, &edit{Kind: newServer, Server: &s.Servers[0].RealServer}}
}

func BenchmarkEncode(b *testing.B) {
	e := encoder{family: 0x1c}
	o := benchOp()
	b.ReportAllocs()
	for b.Loop() {
		e.buf = e.buf[:0]
		e.op(o, 0, 1)
	}
}

// As in a long list: most messages are like the one before.
func BenchmarkEncodeList(b *testing.B) {
	e := encoder{family: 0x1c}
	o := benchOp()
	b.ReportAllocs()
	for b.Loop() {
		if len(e.buf) > batchBytes {
			e.buf = e.buf[:0]
		}
		e.op(o, 0, 1)
	}
}

func BenchmarkDecode(b *testing.B) {
	o := benchOp()
	e := encoder{}
	e.server(o.Service.ServiceKey, *o.Server, true)
	var s KernelServer
	b.ReportAllocs()
	for b.Loop() {
		if err := decodeServer(e.buf, &o.Service.ServiceKey, &s.RealServer, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// A kernel that accepts everything at once: what is measured is the loop's work.
type readyKernel struct{ fakeKernel }

func (*readyKernel) Table(_ func(ServiceKey) bool, known shards, _ func() bool) (shards, error) {
	return known, nil
}

func (*readyKernel) Apply([]op) ([]*opError, error) { return nil, nil }

func (*readyKernel) Connections(*Service, func(KernelServer)) error { return nil }

// A whole pass of the loop without the kernel, with state file and log, when a pod
// becomes ready, or not ready, on one node of all services.
func BenchmarkPass(b *testing.B) {
	for _, size := range []struct{ ports, pods int }{{1, 50}, {1000, 50}, {50, 5000}} {
		b.Run(fmt.Sprintf("%dx%d", size.ports, size.pods), func(b *testing.B) {
			cfg, up, down := benchConfig(size.ports, size.pods)
			cfg.AuditInterval = time.Hour
			log := slog.New(slog.NewTextHandler(io.Discard, nil))
			loop := newReconciler(loopOn(new(readyKernel), b.TempDir(), log, time.Now))
			loop.config.Set(cfg)
			clusters := []*Cluster{up, down}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				loop.cluster.Set(clusters[i%2])
				loop.pass(b.Context())
			}
		})
	}
}

// The log lines of 51,000 operations.
func BenchmarkLog(b *testing.B) {
	cfg, up, _ := benchConfig(1000, 50)
	p := pipeline{cfg: cfg}
	ops := p.pass(up)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	b.ReportAllocs()
	for b.Loop() {
		logChanges(log, &ops, new(changeRecord), new(eventRecord), testTime)
	}
}
