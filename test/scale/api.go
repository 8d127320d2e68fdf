// The load that many controllers put on one API server, and how far apart in time they
// learn of a change. `make scale-api` runs it.
//
// The API server, etcd and the controllers are real. Each controller is in a separate
// network namespace and reaches the API server through a relay, which counts bytes and
// notes when they come. The machine needs no IPVS: a controller without it follows the
// cluster all the same.

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"lvs-controller/test/cluster"
	"lvs-controller/test/lab"
)

const (
	apiNamespace = "ingress-nginx"
	apiSettle    = 3 * time.Second // after the start of controllers
	apiPatience  = 60 * time.Second
	ticks        = 100 // USER_HZ
)

var apiLabels = map[string]string{"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"}

// apiRun is one number of controllers, and what it cost.
type apiRun struct {
	controllers int
	cpu         float64   // of the API server, ms an event, its client's PATCH included
	idle        float64   // of the API server, ms a second without events
	bytes       float64   // to one controller, an event
	first       float64   // bytes to one controller until it knew all pods
	after       []float64 // ms from the PATCH's answer to the last controller's event
	spread      []float64 // ms from the first controller's event to the last one's
}

// apiOptions are what the command line says.
type apiOptions struct {
	bin, binary  string
	pods, events int
	counts       []int
	every, idle  time.Duration
}

// watcher is one controller with its relay.
type watcher struct {
	host *lab.Host
	name string
	ln   net.Listener
	got  atomic.Int64 // bytes from the API server
	last atomic.Int64 // when the newest of them came, in ns
}

// relay accepts a controller's connections and joins them with the API server.
func (w *watcher) relay(to string) {
	for {
		inside, err := w.ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer inside.Close()
			outside, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer outside.Close()
			go func() {
				copyTo(outside, inside, func(int) {})
				outside.Close()
			}()
			copyTo(inside, outside, func(n int) {
				w.last.Store(time.Now().UnixNano())
				w.got.Add(int64(n))
			})
		}()
	}
}

// copyTo passes bytes on, after note has heard of them.
func copyTo(to, from net.Conn, note func(int)) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			note(n)
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// plane is the control plane and its directors.
type plane struct {
	o       apiOptions
	cluster *cluster.Cluster
	lab     *lab.Lab
	dir     string
	token   string
	all     []*watcher
}

// measureAPI runs all of it.
func measureAPI(ctx context.Context, o apiOptions) (runs []apiRun, err error) {
	dir, err := os.MkdirTemp("", "lvs-scale-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return nil, err
	}
	p := &plane{o: o, dir: dir}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("network namespaces: %v", r)
		}
	}()
	p.lab = lab.New(func(format string, args ...any) { panic(fmt.Sprintf(format, args...)) })
	defer p.lab.Close()
	if p.cluster, err = cluster.Start(ctx, cluster.Options{BinDir: o.bin, DataDir: filepath.Join(dir, "cluster")}); err != nil {
		return nil, err
	}
	defer p.cluster.Stop()
	if err := p.fill(ctx); err != nil {
		return nil, fmt.Errorf("fill the cluster: %w", err)
	}
	for _, n := range o.counts {
		run, err := p.run(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("%d controllers: %w", n, err)
		}
		runs = append(runs, run)
		fmt.Printf("scale: %d controllers: %.2f ms of CPU and %.0f bytes an event, spread %.1f ms\n", n, run.cpu, run.bytes, quantile(run.spread, 0.5))
	}
	return runs, nil
}

// fill makes the pods and the account of the controllers.
func (p *plane) fill(ctx context.Context) error {
	admin := p.cluster.Admin()
	if err := admin.CreateNamespace(ctx, apiNamespace); err != nil {
		return err
	}
	manifest, err := os.ReadFile("install/rbac.yaml")
	if err != nil {
		return err
	}
	if err := admin.Apply(ctx, apiNamespace, string(manifest)); err != nil {
		return err
	}
	if p.token, err = admin.ServiceAccountToken(ctx, apiNamespace, "lvs-controller", time.Hour); err != nil {
		return err
	}
	for i := range p.o.pods {
		if err := admin.CreatePod(ctx, apiNamespace, podName(i), fmt.Sprintf("node-%d", i), apiLabels, true, []string{podIP(i)}); err != nil {
			return err
		}
	}
	return nil
}

func podName(i int) string { return fmt.Sprintf("ingress-%d", i) }
func podIP(i int) string   { return fmt.Sprintf("10.200.%d.%d", i/250, i%250+1) }

// grow starts controllers until there are n, one after the other.
func (p *plane) grow(ctx context.Context, n int) error {
	for len(p.all) < n {
		i := len(p.all)
		w := &watcher{host: p.lab.Namespace(fmt.Sprintf("director%d", i)), name: fmt.Sprint(i)}
		var err error
		w.host.Do(func() { w.ln, err = net.Listen("tcp", "127.0.0.1:6443") })
		if err != nil {
			return err
		}
		go w.relay(strings.TrimPrefix(p.cluster.URL(""), "https://"))
		p.all = append(p.all, w)
		dir := filepath.Join(p.dir, w.name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		config := fmt.Sprintf("kubeconfig = \"kubeconfig\"\ninterface = \"lo\"\nlisten = \"127.0.0.1:9652\"\nmanage_sysctls = false\nstate_dir = %q\ncache_dir = %q\n"+
			"[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nports = [80, 443]\ntcp_services = \"\"\nudp_services = \"\"\n", filepath.Join(dir, "state"), filepath.Join(dir, "cache"))
		for name, text := range map[string][]byte{
			"config.toml": []byte(config),
			"kubeconfig":  cluster.Kubeconfig("https://127.0.0.1:6443", p.cluster.CAPEM(), p.token),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				return err
			}
		}
		process := w.host.Start(p.o.binary, "-config", filepath.Join(dir, "config.toml"))
		if err := w.synced(ctx, process); err != nil {
			return err
		}
	}
	return nil
}

// synced waits until the controller has all pods.
func (w *watcher) synced(ctx context.Context, process *lab.Process) error {
	for end := time.Now().Add(apiPatience); time.Now().Before(end); {
		out, _ := w.host.Try("curl", "-s", "http://127.0.0.1:9652/metrics")
		if syncedStream(out) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("it has not read the pods:\n%s", process.Log())
}

// syncedStream reports whether a metric says that the stream of pods is complete.
func syncedStream(metrics string) bool {
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "lvs_cluster_synced{stream=\"pods ") && strings.HasSuffix(strings.TrimSpace(line), " 1") {
			return true
		}
	}
	return false
}

// run measures with n controllers.
func (p *plane) run(ctx context.Context, n int) (apiRun, error) {
	run := apiRun{controllers: n}
	before := len(p.all)
	if err := p.grow(ctx, n); err != nil {
		return run, err
	}
	time.Sleep(apiSettle)
	for _, w := range p.all[before:] {
		run.first += float64(w.got.Load()) / float64(n-before)
	}
	idle, err := p.cpu()
	if err != nil {
		return run, err
	}
	time.Sleep(p.o.idle)
	start, err := p.cpu()
	if err != nil {
		return run, err
	}
	run.idle = (start - idle) / p.o.idle.Seconds()
	bytes := p.bytes()
	for i := range p.o.events {
		next := time.Now().Add(p.o.every)
		if err := p.event(ctx, i, &run); err != nil {
			return run, err
		}
		time.Sleep(time.Until(next))
	}
	end, err := p.cpu()
	if err != nil {
		return run, err
	}
	run.cpu = (end - start - run.idle*p.o.every.Seconds()*float64(p.o.events)) / float64(p.o.events)
	if n > 0 {
		run.bytes = float64(p.bytes()-bytes) / float64(p.o.events*n)
	}
	return run, nil
}

// event changes a pod, and waits until each controller's bytes have come.
func (p *plane) event(ctx context.Context, i int, run *apiRun) error {
	was := make([]int64, len(p.all))
	for n, w := range p.all {
		was[n] = w.got.Load()
	}
	pod := i % p.o.pods
	ready := i/p.o.pods%2 == 1
	if err := p.cluster.Admin().SetPodStatus(ctx, apiNamespace, podName(pod), ready, podIP(pod)); err != nil {
		return err
	}
	if len(p.all) == 0 {
		return nil
	}
	answered := time.Now()
	for n, w := range p.all {
		for w.got.Load() == was[n] {
			if time.Since(answered) > apiPatience {
				return fmt.Errorf("no event for controller %d", n)
			}
			time.Sleep(time.Millisecond / 2)
		}
	}
	var times []int64
	for _, w := range p.all {
		times = append(times, w.last.Load())
	}
	first, last := slices.Min(times), slices.Max(times)
	run.after = append(run.after, float64(last-answered.UnixNano())/1e6)
	run.spread = append(run.spread, float64(last-first)/1e6)
	return nil
}

// bytes is what all controllers have got.
func (p *plane) bytes() (n int64) {
	for _, w := range p.all {
		n += w.got.Load()
	}
	return n
}

// cpu is the time that the API server's threads have run, in ms.
func (p *plane) cpu() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cluster.APIPID()))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var sum float64
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum * 1000 / ticks, nil
}
