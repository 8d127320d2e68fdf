// Drills: what clients notice while nodes, pods, the API server and the
// director itself come, go and die. A real kube-apiserver drives the binary on a
// real kernel, Debian's nginx is the ingress of each node, and the test plays the
// kubelet. drill_rollout_test.go, drill_outage_test.go, drill_director_test.go,
// drill_life_test.go, drill_pair_test.go and drill_reasons_test.go are the drills.
//
// `make drill` runs them at full length, `make drill-short` with small numbers:
// -size says which. Beside that they need what the end-to-end tests need.

package director

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/floor"

	"golang.org/x/sync/errgroup"

	"lvs-controller/test/lab"
)

// drillSize is how much of everything a drill has.
type drillSize struct {
	nodes    int           // of a roll-out, and the most that scaling reaches
	requests int           // at least, in each drill
	away     time.Duration // the API server
	kills    int           // of the controller
	lives    int           // ended by each of the other ways
	reloads  int           // of its configuration
}

var drillSizes = map[string]drillSize{
	"short": {nodes: 4, requests: 500, away: 12 * time.Second, kills: 6, lives: 1, reloads: 8},
	"long":  {nodes: 10, requests: 10000, away: 5 * time.Minute, kills: 50, lives: 5, reloads: 100},
}

const (
	// shutdownGrace is ingress-nginx's --shutdown-grace-period: how long it goes
	// on accepting after its /healthz has begun to fail. docs/operations.md tells
	// operators to set it.
	shutdownGrace = 3 * time.Second

	// uploadTail is how long an upload goes on after nginx was told to quit.
	uploadTail = 2 * time.Second

	// quitLimit is how long an nginx without open connections may take to end.
	quitLimit = 30 * time.Second

	// slowLines are the lines of a slow download that come in a second.
	slowLines = 4

	// drillWorkers put load on the VIP, drillPause apart each.
	drillWorkers = 4
	drillPause   = 15 * time.Millisecond
)

// drillPorts are the VIP's ports: 80 from config.toml, 9000 from the ConfigMap
// tcp-services.
var drillPorts = []uint16{80, 9000}

// How an operator would have the VIP probed: what all drills have, and what those
// have that are about dead nodes.
const (
	calmProbes  = "[vip.health]\nports = true\ndatapath = true\n[vip.health.http]\n"
	eagerProbes = "[vip.health]\ninterval = \"500ms\"\nfall = 3\nports = true\ndatapath = true\n[vip.health.http]\n"

	// Connections that have ended are forgotten after ten seconds and not after
	// two minutes: a drill sees its real servers go.
	shortFin = "[timeouts]\ntcp_fin = \"10s\"\n"
)

// drill is a director before nodes with an nginx each.
type drill struct {
	*e2e
	size  drillSize
	nodes []*ingressNode
	vip   netip.AddrPort // its port 80

	mu       sync.Mutex
	kernel   *floor.Socket   // guarded by mu
	quiesced []time.Duration // from a pod's DELETE to weight 0 in the kernel
	uploads  int             // completed
}

func newDrill(t *testing.T, namespace string) *drill {
	t.Helper()
	return newDrillBy(t, namespace, "")
}

// newDrillBy is newDrill whose VIP has a Service as its source, if service is not empty.
func newDrillBy(t *testing.T, namespace, service string) *drill {
	t.Helper()
	of(t, "drill")
	e := newE2EBy(t, namespace, service, 0)
	size, known := drillSizes[*args.Size]
	if !known {
		t.Fatalf("-size %q is not short or long", *args.Size)
	}
	d := &drill{e2e: e, size: size, vip: netip.MustParseAddrPort(edgeVIP + ":80")}
	if service == "" {
		lab.Must(t, d.admin.SetConfigMap(t.Context(), namespace, "tcp-services", map[string]string{"9000": "default/db:5432"}))
	} else {
		lab.Must(t, d.admin.SetService(t.Context(), namespace, service, servicePorts("web 80", "db 9000")))
	}
	d.configure(calmProbes + shortFin)
	d.dial()
	return d
}

// dial opens what weights asks the director's kernel with.
func (d *drill) dial() {
	d.Helper()
	d.kernel = floor.Dial(d.T, d.director)
	d.Cleanup(d.kernel.Close)
}

// ingressNode is a node with an nginx that serves the VIP's ports, and the pod
// that stands for it.
type ingressNode struct {
	*lab.Host
	drill *drill
	dir   string
	nginx *lab.Process
	pod   string // its newest
	pods  int    // it has had
}

// nginxConf serves the node's name on the VIP's ports and passes uploads on to a
// backend, as an ingress does: the whole body first. /slow is a download of some
// lines a second, which lasts for an hour. /healthz is the ingress controller's
// own.
const nginxConf = `
user root;
pid %[1]s/nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_shutdown_timeout 240s;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	client_max_body_size 0;
	server {
		listen 80;
		listen 9000;
		location / { return 200 "%[2]s\n"; }
		location /upload { proxy_pass http://127.0.0.1:8079; }
		location = /slow {
			limit_rate_after 512;
			limit_rate %[3]d;
			alias %[1]s/slow;
		}
	}
	server {
		listen 10254;
		location = /healthz {
			if (-f %[1]s/unhealthy) { return 500; }
			return 200 "ok";
		}
	}
}
`

// addNodes makes n nodes that hold the VIP, without a pod yet.
func (d *drill) addNodes(n int) {
	d.Helper()
	for range n {
		i := len(d.nodes)
		h := d.lab.Host(fmt.Sprintf("node%d", i+1), 11+i)
		node := &ingressNode{Host: h, drill: d, dir: filepath.Join(d.dir, h.Name)}
		lab.Must(d.T, os.Mkdir(node.dir, 0o755))
		d.write(h.Name+"/nginx.conf", fmt.Sprintf(nginxConf, node.dir, h.Name, slowLines*len(h.Name+"\n")))
		d.write(h.Name+"/slow", strings.Repeat(h.Name+"\n", slowLines*60*60))
		h.Serve(8079)
		h.Run(controller(), "realserver", "-vip", edgeVIP, "-uplink", "eth0", "-state", filepath.Join(node.dir, "realserver.json"))
		d.nodes = append(d.nodes, node)
	}
}

// healthFlag is the file that makes the node's /healthz fail.
func (n *ingressNode) healthFlag() string { return filepath.Join(n.dir, "unhealthy") }

// join gives the node a fresh pod, which is ready when its nginx answers.
func (n *ingressNode) join(ctx context.Context) error {
	d := n.drill
	n.pods++
	n.pod = fmt.Sprintf("ingress-%s-%d", n.Name, n.pods)
	if err := d.admin.CreatePod(ctx, d.namespace, n.pod, n.Name, ingressLabels, true, nil); err != nil {
		return err
	}
	if err := os.RemoveAll(n.healthFlag()); err != nil {
		return err
	}
	nginx := n.Start("nginx", "-e", "stderr", "-c", filepath.Join(n.dir, "nginx.conf"), "-p", n.dir, "-g", "daemon off;")
	n.nginx = nginx
	d.Cleanup(func() {
		// Its workers outlive a master that is killed.
		if !nginx.Ended() {
			_ = nginx.Signal(syscall.SIGTERM)
		}
	})
	deadline := time.Now().Add(quitLimit)
	for {
		answer, err := n.Ask(netip.AddrPortFrom(n.IPv4, 80))
		if err == nil && answer == n.Name {
			if err := d.admin.SetPodStatus(ctx, d.namespace, n.pod, true, n.IPv4.String()); err != nil {
				return err
			}
			return d.syncEndpoints(ctx)
		}
		if time.Now().After(deadline) || nginx.Ended() {
			return fmt.Errorf("%s: nginx says %q, %w\n%s", n.Name, answer, err, nginx.Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// leave is the end of the node's pod as ingress-nginx has it. The API server
// calls it Terminating; the kubelet's SIGTERM comes with that: /healthz fails,
// the grace period passes, nginx quits, which refuses new connections and ends
// when the last open one does; the pod is gone. upload is open on the node until
// some time after nginx was told to quit.
func (n *ingressNode) leave(ctx context.Context, upload *lab.Upload) error {
	d := n.drill
	deleted := time.Now()
	if err := d.admin.DeletePod(ctx, d.namespace, n.pod, nil); err != nil {
		return err
	}
	if err := d.syncEndpoints(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(n.healthFlag(), nil, 0o644); err != nil {
		return err
	}
	// The kubelet does not wait for the director; this only takes the time.
	quiesced := false
	for time.Since(deleted) < shutdownGrace {
		if !quiesced && n.weight(80) == 0 && n.weight(9000) == 0 {
			quiesced = true
			d.mu.Lock()
			d.quiesced = append(d.quiesced, time.Since(deleted))
			d.mu.Unlock()
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := n.nginx.Send(syscall.SIGQUIT); err != nil {
		return err
	}
	time.Sleep(uploadTail)
	if n.nginx.Ended() {
		return fmt.Errorf("%s: nginx has ended although a connection is open:\n%s", n.Name, n.nginx.Log())
	}
	if err := d.finish(upload); err != nil {
		return err
	}
	for told := time.Now(); !n.nginx.Ended(); time.Sleep(20 * time.Millisecond) {
		if time.Since(told) > quitLimit {
			return fmt.Errorf("%s: nginx has not quit\n%s", n.Name, n.nginx.Log())
		}
	}
	if err := d.admin.DeletePod(ctx, d.namespace, n.pod, new(int64)); err != nil {
		return err
	}
	return d.syncEndpoints(ctx)
}

// each does the same for several nodes at once.
func (d *drill) each(nodes []*ingressNode, do func(n *ingressNode) error) {
	d.Helper()
	var group errgroup.Group
	for _, n := range nodes {
		group.Go(func() error { return do(n) })
	}
	lab.Must(d.T, group.Wait())
}

// joinAll gives several nodes their pods.
func (d *drill) joinAll(nodes []*ingressNode) {
	d.Helper()
	d.each(nodes, func(n *ingressNode) error { return n.join(d.Context()) })
}

// begin makes n nodes, starts the controller, and returns when all serve.
func (d *drill) begin(n int) {
	d.Helper()
	d.addNodes(n)
	d.joinAll(d.nodes)
	d.start()
	d.serving(d.nodes...)
	d.logged(1, "VIP address added") // it follows the table
}

// killAPI ends the API server for a drill.
func (d *drill) killAPI() {
	d.Helper()
	d.plane.killAPI(d.T)
}

// killAPI ends the API server for as long as the drill wants, and for no longer
// than the test lasts.
func (p *plane) killAPI(t *testing.T) {
	t.Helper()
	lab.Must(t, p.control.KillAPI(t.Context()))
	t.Cleanup(func() {
		if err := p.control.StartAPI(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// weights are the real servers of one of the VIP's ports in the kernel.
func (d *drill) weights(port uint16) map[netip.Addr]uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	// A service that is not there yet has none.
	found, _ := d.kernel.Weights(netip.AddrPortFrom(d.vip.Addr(), port))
	return found
}

// weight is the node's own; a node that is not there has none either.
func (n *ingressNode) weight(port uint16) uint32 { return n.drill.weights(port)[n.IPv4] }

// serving waits until these nodes, and no others, are in service on all ports.
func (d *drill) serving(nodes ...*ingressNode) {
	d.Helper()
	var want []string
	for _, n := range nodes {
		want = append(want, n.IPv4.String())
	}
	slices.Sort(want)
	lab.Within(d.T, 30*time.Second, func() string {
		for _, port := range drillPorts {
			var got []string
			for a, weight := range d.weights(port) {
				if weight > 0 {
					got = append(got, a.String())
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				return fmt.Sprintf("in service on port %d are %v, want %v\n%s", port, got, want, d.process.Log())
			}
		}
		return ""
	})
}

// uploadTo opens an upload that the VIP sends to node n.
func (d *drill) uploadTo(n *ingressNode) *lab.Upload {
	d.Helper()
	for range 500 {
		u, err := d.client.OpenUpload(d.vip, "/upload")
		lab.Must(d.T, err)
		if u.Node == n.Name {
			return u
		}
		u.Close()
	}
	d.Fatalf("500 connections in a row, and none to %s", n.Name)
	return nil
}

// finish ends an upload, which must have arrived whole.
func (d *drill) finish(u *lab.Upload) error {
	if err := u.Finish(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.uploads++
	return nil
}

// traffic is load on each of the VIP's ports.
type traffic struct {
	*drill
	loads []*lab.Load
	ended sync.Once
}

// load puts load on the VIP, each worker pausing between two requests.
func (d *drill) load(pause time.Duration) *traffic {
	tr := &traffic{drill: d}
	for i, port := range drillPorts {
		workers := 1
		if i == 0 {
			workers = drillWorkers - len(drillPorts) + 1
		}
		tr.loads = append(tr.loads, d.client.StartLoad(netip.AddrPortFrom(d.vip.Addr(), port), workers, pause))
	}
	d.Cleanup(func() { tr.stop() }) // also when the drill fails
	return tr
}

// stop ends the load.
func (tr *traffic) stop() lab.Report {
	tr.ended.Do(func() {
		for _, l := range tr.loads {
			l.Stop()
		}
	})
	return tr.report()
}

// report puts the reports on all ports together. An answer that is not a node's
// name is a failure.
func (tr *traffic) report() lab.Report {
	sum := lab.Report{Answers: make(map[string]int), Failures: make(map[string]int)}
	for _, l := range tr.loads {
		r := l.Report()
		sum.Requests += r.Requests
		sum.Slowest = max(sum.Slowest, r.Slowest)
		sum.Faults = append(sum.Faults, r.Faults...)
		for kind, n := range r.Failures {
			sum.Failures[kind] += n
		}
		for answer, n := range r.Answers {
			if !slices.ContainsFunc(tr.nodes, func(n *ingressNode) bool { return n.Name == answer }) {
				sum.Failures["wrong"] += n
				continue
			}
			sum.Answers[answer] += n
		}
	}
	return sum
}

// await waits until so many requests have been made.
func (tr *traffic) await(requests int) {
	tr.Helper()
	lab.Within(tr.T, 10*time.Minute, func() string {
		if got := tr.report().Requests; got < requests {
			return fmt.Sprintf("%d requests, want %d", got, requests)
		}
		return ""
	})
}

// end stops the load and says in one line what came of the drill. A request
// that failed fails the drill.
func (tr *traffic) end(drill string, more ...string) {
	tr.Helper()
	report := tr.stop()
	tr.tell(drill, report, more...)
	if report.Failed() > 0 {
		tr.Errorf("%s: %s\n%s", drill, describeFaults(report), tr.process.Log())
	}
}

// tell is the one line of a drill's figures.
func (d *drill) tell(drill string, r lab.Report, more ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	failed := fmt.Sprintf("%d failed", r.Failed())
	for _, kind := range slices.Sorted(maps.Keys(r.Failures)) {
		failed += fmt.Sprintf(", %d %s", r.Failures[kind], kind)
	}
	line := []string{fmt.Sprintf("%d requests, %s, slowest %s", r.Requests, failed, r.Slowest.Round(time.Millisecond))}
	if n := len(d.quiesced); n > 0 {
		line = append(line, fmt.Sprintf("%d drains, weight 0 after DELETE: median %s, slowest %s",
			n, percentile(d.quiesced, 50), percentile(d.quiesced, 100)))
	}
	line = append(line, fmt.Sprintf("%d uploads completed", d.uploads))
	d.Logf("DRILL %s: %s", drill, strings.Join(append(line, more...), "; "))
}

// without is a report without the failures that are excused, and how many they
// are. They stay among its requests.
func without(r lab.Report, excused func(lab.Fault) bool) (lab.Report, int) {
	kept := r.Faults[:0:0]
	failures := maps.Clone(r.Failures)
	for _, f := range r.Faults {
		if !excused(f) {
			kept = append(kept, f)
		} else if failures[f.Kind]--; failures[f.Kind] == 0 {
			delete(failures, f.Kind)
		}
	}
	n := len(r.Faults) - len(kept)
	r.Faults, r.Failures = kept, failures
	return r, n
}

// describeFaults lists the first failures with their times.
func describeFaults(r lab.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d requests failed:", r.Failed(), r.Requests)
	for i, f := range r.Faults {
		if i == 20 {
			b.WriteString("\n  …")
			break
		}
		fmt.Fprintf(&b, "\n  %s %s after %s", f.Began.Format("15:04:05.000"), f.Kind, f.Took.Round(time.Millisecond))
	}
	return b.String()
}
