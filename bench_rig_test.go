//go:build bench || plane

// The controller inside a benchmark: its loop on the real kernel, without a process
// around it. The only file of the benchmarks that uses the internals of the loop.
//
// Used by bench_table_test.go and bench_e2e_test.go.

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lvs-controller/test/bench/guest"
	"lvs-controller/test/lab"
)

// benchmark is a test that measures.
type benchmark struct{ *guest.Benchmark }

// newBenchmark makes a benchmark with the garbage collection of main.
func newBenchmark(t *testing.T) *benchmark {
	t.Helper()
	debug.SetGCPercent(40)
	return &benchmark{guest.New(t)}
}

// timedKernel is the loop's director, and measures its calls.
type timedKernel struct {
	director
	applied time.Time     // when Apply returned last
	read    time.Duration // how long Table took last
	changed func(weight uint32, called, returned time.Time)
}

func (k *timedKernel) Table(owned func(ServiceKey) bool, known shards, newer func() bool) (shards, error) {
	start := time.Now()
	defer func() { k.read = time.Since(start) }()
	return k.director.Table(owned, known, newer)
}

func (k *timedKernel) Apply(ops []op) ([]*opError, error) {
	called := time.Now()
	failed, err := k.director.Apply(ops)
	k.applied = time.Now()
	if k.changed != nil && len(ops) > 0 {
		if last := ops[len(ops)-1]; last.Kind == newServer || last.Kind == setServer {
			k.changed(last.Server.Weight, called, k.applied)
		}
	}
	return failed, err
}

// benchVIP is a VIP whose services come from a ConfigMap and whose real servers
// are ready pods.
type benchVIP struct {
	name     string
	address  netip.Addr
	services int
	nodes    []netip.Addr
}

func (v benchVIP) vip() VIP {
	return VIP{
		Name:        v.name,
		Addresses:   []netip.Addr{v.address},
		Scheduler:   "rr",
		Weight:      1,
		Forward:     DirectRoute,
		Pods:        PodQuery{Namespace: "ingress-nginx", Selector: "app=" + v.name},
		TCPServices: ConfigMapName{"ingress-nginx", v.name},
		Drain:       Drain{Timeout: defaultDrainTimeout},
	}
}

// benchDirector is a controller in a network namespace.
type benchDirector struct {
	*benchmark
	loop    *reconciler
	kernel  *timedKernel
	ahead   time.Duration // how far its clock is ahead of time
	cluster *Cluster
}

// newBenchDirector makes a loop on the kernel of h that has made no pass yet.
func newBenchDirector(b *benchmark, h *lab.Host, vips ...benchVIP) *benchDirector {
	b.Helper()
	var (
		conn *ipvsConn
		err  error
	)
	h.Do(func() { conn, err = dialIPVS() })
	lab.Must(b.T, err)
	return newDirectorOn(b, conn, vips...)
}

// newModelDirector makes a loop on a model of the kernel.
func newModelDirector(b *benchmark, vips ...benchVIP) *benchDirector {
	return newDirectorOn(b, newFakeKernel(), vips...)
}

func newDirectorOn(b *benchmark, kernel director, vips ...benchVIP) *benchDirector {
	d := &benchDirector{benchmark: b, kernel: &timedKernel{director: kernel}}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	d.loop = newReconciler(loopOn(d.kernel, b.TempDir(), log, func() time.Time { return time.Now().Add(d.ahead) }))
	cfg := &Config{AuditInterval: time.Hour}
	d.cluster = &Cluster{Pods: make(map[PodQuery][]*Pod), ConfigMaps: make(map[ConfigMapName]ConfigMap)}
	for _, v := range vips {
		vip := v.vip()
		cfg.VIPs = append(cfg.VIPs, vip)
		ports := make(map[string]string, v.services)
		for i := range v.services {
			ports[fmt.Sprint(guest.Port+i)] = "default/backend:80"
		}
		d.cluster.ConfigMaps[vip.TCPServices] = ConfigMap{Exists: true, Data: ports}
		for _, a := range v.nodes {
			d.cluster.Pods[vip.PodQuery()] = append(d.cluster.Pods[vip.PodQuery()], benchPod(a, true))
		}
	}
	d.loop.config.Set(cfg)
	d.loop.cluster.Set(d.cluster)
	return d
}

// benchPod is the pod on the node with address a. Names rise with addresses.
func benchPod(a netip.Addr, ready bool) *Pod {
	name := fmt.Sprintf("pod-%x", a.As4())
	return &Pod{UID: name, Namespace: "ingress-nginx", Name: name, HostNetwork: true, Ready: ready, Addresses: []netip.Addr{a}}
}

// set makes the pod on node a of the VIP ready or not, as the cluster watch
// does: a new snapshot, which shares with the old one all that has not changed.
func (d *benchDirector) set(v benchVIP, a netip.Addr, ready bool) {
	vip := v.vip()
	q := vip.PodQuery()
	pod := benchPod(a, ready)
	pods := slices.DeleteFunc(slices.Clone(d.cluster.Pods[q]), func(p *Pod) bool { return p.Name == pod.Name })
	at, _ := slices.BinarySearchFunc(pods, pod, func(a, b *Pod) int { return strings.Compare(a.Name, b.Name) })
	d.cluster = &Cluster{Pods: maps.Clone(d.cluster.Pods), ConfigMaps: maps.Clone(d.cluster.ConfigMaps)}
	d.cluster.Pods[q] = slices.Insert(pods, at, pod)
	d.loop.cluster.Set(d.cluster)
}

// pass runs the loop until it has changed the table. It returns how long that took, and
// how long until the kernel had acknowledged. One pass is enough except for removals:
// they wait for a count of connections, which takes several passes in a large table.
func (d *benchDirector) pass() (whole, acked time.Duration) {
	d.Helper()
	runtime.GC() // what checked the table has left garbage
	start := time.Now()
	for range 10_000 {
		select {
		case <-d.loop.wake: // as Run does
		default:
		}
		d.loop.pass(d.Context())
		if d.loop.failing.text != "" {
			d.Fatal(d.loop.failing.text)
		}
		if d.kernel.applied.After(start) {
			return time.Since(start), d.kernel.applied.Sub(start)
		}
	}
	d.Fatal("the loop has sent nothing to the kernel")
	return 0, 0
}

// drained moves the clock to the next count of connections.
func (d *benchDirector) drained() { d.ahead += drainPoll + time.Millisecond }

// audit lets the loop compare the kernel's table, which is right. It returns how long
// that took, and the reading alone.
func (d *benchDirector) audit() (whole, reading time.Duration) {
	d.Helper()
	d.ahead += time.Hour + time.Second
	applied := d.kernel.applied
	runtime.GC()
	start := time.Now()
	d.loop.pass(d.Context())
	whole = time.Since(start)
	if d.loop.failing.text != "" || d.kernel.applied != applied || d.loop.counters.Drifts.Load() != 0 {
		d.Fatal("the audit changed something: ", d.loop.failing.text)
	}
	return whole, d.kernel.read
}

func (d *benchDirector) close() { d.kernel.Close() }

// follow runs the cluster watch and the loop until ctx ends; stopped waits for that.
// published is called before the loop gets a new snapshot, changed after the kernel has
// acknowledged the weight of a real server.
func (d *benchDirector) follow(ctx context.Context, kubeconfig, namespace string, published func(time.Time), changed func(weight uint32, called, returned time.Time)) (stopped func()) {
	cfg := *d.loop.config.Get()
	cfg.Kubeconfig = kubeconfig
	cfg.VIPs = slices.Clone(cfg.VIPs)
	for i := range cfg.VIPs {
		cfg.VIPs[i].Pods.Namespace, cfg.VIPs[i].TCPServices.Namespace = namespace, namespace
	}
	d.loop.config.Set(&cfg)
	d.loop.cluster = newLatest[Cluster](d.loop.wake) // nothing is known yet
	d.kernel.changed = changed
	watch := newClusterWatch(d.loop.log, d.loop.cluster, Cluster{})
	watch.set = func(c *Cluster) {
		published(time.Now())
		d.loop.cluster.Set(c)
	}
	queries := newLatest[ClusterQuery](make(chan struct{}, 1))
	q := cfg.ClusterQuery()
	queries.Set(&q)
	var running sync.WaitGroup
	running.Go(func() { watch.Run(ctx, queries) })
	running.Go(func() { d.loop.Run(ctx) })
	return running.Wait
}
