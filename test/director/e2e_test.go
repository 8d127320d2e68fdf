// End-to-end tests: a real kube-apiserver drives the binary on a real kernel.

package director

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/cluster"
	"lvs-controller/test/floor"
	"lvs-controller/test/lab"
)

// e2e is a rig whose cluster is a real one.
type e2e struct {
	*rig
	*plane
	namespace string
	client    *lab.Host
	nodes     []*lab.Host
	service   string // source of ports and real servers; "" = pods and ConfigMaps are
	ports     string // lines that give the VIP its ports; "" = 80 and the ConfigMaps
}

var ingressLabels = map[string]string{"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"}

func newE2E(t *testing.T, namespace string, nodes int) *e2e {
	return newE2EBy(t, namespace, "", nodes)
}

// newE2EBy is newE2E whose VIP has a Service, and an account with the rights for that alone,
// if service is not empty.
func newE2EBy(t *testing.T, namespace, service string, nodes int) *e2e {
	p := newPlane(t)
	dir := t.TempDir() // first, as in newRig
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	e := &e2e{rig: &rig{T: t, lab: l, director: l.Host("director", 2), dir: dir}, plane: p, namespace: namespace, service: service}
	e.client = l.Host("client", 3)
	for i := range nodes {
		n := l.Host(fmt.Sprintf("node%d", i+1), 11+i)
		n.Serve(80, 9000)
		n.Run(controller(), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(e.dir, n.Name))
		e.nodes = append(e.nodes, n)
	}
	manifest := "rbac.yaml"
	if service != "" {
		manifest = "rbac-service.yaml"
	}
	e.write("kubeconfig", string(p.accountBy(t, namespace, manifest)))
	p.relay(t, e.director)
	e.configure("")
	return e
}

// configure writes config.toml with one VIP over the namespace, whose address the
// controller announces.
func (e *e2e) configure(more string) {
	e.Helper()
	e.write("config.toml", e.clusterHead()+e.edgeOver("arp", more))
}

// clusterHead is configHead with the real cluster.
func (e *e2e) clusterHead() string {
	return strings.Replace(e.configHead(), "cluster_file = \"cluster.json\"", "kubeconfig = \"kubeconfig\"", 1)
}

// configMapPorts are the usual lines that give a VIP its ports.
const configMapPorts = `ports = ["80/tcp"]
tcp_services = "tcp-services"
udp_services = "udp-services"`

// edgeOver is the VIP over the namespace; more goes into its table.
func (e *e2e) edgeOver(announce, more string) string {
	if e.service != "" {
		return fmt.Sprintf(`
[[vip]]
name = "edge"
addresses = ["10.0.0.100"]
announce = %q
service = "%s/%s"
%s`, announce, e.namespace, e.service, more)
	}
	return fmt.Sprintf(`
[[vip]]
name = "edge"
addresses = ["10.0.0.100"]
announce = %q
namespace = %q
%s
%s`, announce, e.namespace, cmp.Or(e.ports, configMapPorts), more)
}

func (e *e2e) createPod(i int, ready bool) {
	e.Helper()
	n := e.nodes[i]
	lab.Must(e.T, e.admin.CreatePod(e.Context(), e.namespace, "ingress-"+n.Name, n.Name, ingressLabels, true, []string{n.IPv4.String()}))
	e.setReady(i, ready)
}

func (e *e2e) setReady(i int, ready bool) {
	e.Helper()
	n := e.nodes[i]
	lab.Must(e.T, e.admin.SetPodStatus(e.Context(), e.namespace, "ingress-"+n.Name, ready, n.IPv4.String()))
}

// web is the table of the VIP's port 80 with these rows, each "N" for node N
// in service or "N=0" for one that is quiesced.
func web(rows ...string) []string {
	return port("80", rows...)
}

func port(number string, rows ...string) []string {
	table := []string{"-A -t 10.0.0.100:" + number + " -s rr"}
	for _, r := range rows {
		n, weight, found := strings.Cut(r, "=")
		if !found {
			weight = "1"
		}
		node, _ := strconv.Atoi(n)
		table = append(table, fmt.Sprintf("-a -t 10.0.0.100:%s -r 10.0.0.%d:%[1]s -g -w %[3]s", number, 10+node, weight))
	}
	return table
}

// From the first pod to the last, with the rights of install/rbac.yaml alone.
func TestE2ELife(t *testing.T) {
	of(t, "e2e")
	e := newE2E(t, "life", 3)
	ctx := t.Context()
	e.start()
	e.table(web()...)
	e.createPod(0, false)
	e.createPod(1, true)
	e.table(web("2")...)
	e.setReady(0, true)
	e.table(web("1", "2")...)
	if got := e.client.Curl(10, "http://10.0.0.100/"); got["node1"] != 5 || got["node2"] != 5 {
		t.Errorf("answers: %v", got)
	}

	t.Log("ConfigMap made, edited, deleted")
	lab.Must(t, e.admin.SetConfigMap(ctx, e.namespace, "tcp-services", map[string]string{"9000": "default/db:5432", "99999": "default/db:1"}))
	e.table(append(web("1", "2"), port("9000", "1", "2")...)...)
	e.logged(1, `entry \"99999\" is skipped`)
	lab.Must(t, e.admin.SetConfigMap(ctx, e.namespace, "tcp-services", map[string]string{"9001": "default/db:5432"}))
	e.table(append(web("1", "2"), port("9001", "1", "2")...)...)
	lab.Must(t, e.admin.DeleteConfigMap(ctx, e.namespace, "tcp-services"))
	e.table(web("1", "2")...)

	t.Log("a pod is deleted: it terminates, is quiesced, and goes")
	stream := e.client.OpenStream(netip.MustParseAddrPort("10.0.0.100:80"))
	lab.Within(t, 5*time.Second, func() string {
		if _, n, err := stream.State(); n < 1 {
			return fmt.Sprint("no answer on the stream: ", err)
		}
		return ""
	})
	from, _, _ := stream.State()
	leaving, staying := 0, 1
	if from == "node2" {
		leaving, staying = 1, 0
	}
	lab.Must(t, e.admin.DeletePod(ctx, e.namespace, "ingress-"+from, nil))
	quiesced := []string{"1", "2"}
	quiesced[leaving] += "=0"
	e.table(web(quiesced...)...)
	lab.Must(t, e.admin.DeletePod(ctx, e.namespace, "ingress-"+from, new(int64)))
	time.Sleep(2 * time.Second)
	e.table(web(quiesced...)...) // the stream is still open
	stream.Close()

	t.Log("rights withdrawn: told once, nothing changes; given back: followed again")
	role := "/apis/rbac.authorization.k8s.io/v1/namespaces/" + e.namespace + "/rolebindings/lvs-controller"
	lab.Must(t, e.admin.Delete(ctx, role, nil))
	lab.Must(t, e.control.StopAPI(ctx)) // an open watch is not cut by RBAC
	lab.Must(t, e.control.StartAPI(ctx))
	lab.Within(t, 30*time.Second, func() string {
		if !strings.Contains(e.process.Log(), "forbidden") {
			return "the missing right is not told:\n" + e.process.Log()
		}
		return ""
	})
	if got := e.client.Curl(4, "http://10.0.0.100/"); got[e.nodes[staying].Name] != 4 {
		t.Errorf("answers without rights: %v", got)
	}
	manifest, err := os.ReadFile(installed("rbac.yaml"))
	lab.Must(t, err)
	lab.Must(t, e.admin.Apply(ctx, e.namespace, strings.ReplaceAll(string(manifest), "namespace: ingress-nginx", "namespace: "+e.namespace)))
	e.createPod(2, true)
	lab.Within(t, 30*time.Second, func() string {
		if got := e.director.Table(); !strings.Contains(got, "-r 10.0.0.13:80 -g -w 1") {
			return got + e.process.Log()
		}
		return ""
	})
	for _, line := range strings.Split(e.process.Log(), "\n") {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			t.Log(line)
		}
	}
}

// With follow_nodes a node that is cordoned off, or excluded from load balancers, gets no
// new connections until it is back. Without the right to read nodes all of them serve.
func TestE2EFollowNodes(t *testing.T) {
	of(t, "e2e")
	e := newE2E(t, "nodes", 2)
	ctx := t.Context()
	for i, n := range e.nodes {
		lab.Must(t, e.admin.Create(ctx, "/api/v1/nodes", map[string]any{"metadata": map[string]any{"name": n.Name}}, nil))
		t.Cleanup(func() { _ = e.admin.Delete(context.WithoutCancel(ctx), "/api/v1/nodes/"+n.Name, nil) })
		e.createPod(i, true)
	}
	e.configure("follow_nodes = true\n[timeouts]\ntcp_fin = \"1s\"\n")
	e.start()
	e.table(web("1", "2")...)
	e.logged(1, "forbidden")
	time.Sleep(5 * time.Second) // it asks again meanwhile
	e.ready("ready")
	if got := e.client.Curl(4, "http://10.0.0.100/"); got["node1"] != 2 || got["node2"] != 2 {
		t.Errorf("answers without the right to read nodes: %v", got)
	}

	t.Log("the right is given, with the lines of install/rbac.yaml")
	manifest, err := os.ReadFile(installed("rbac.yaml"))
	lab.Must(t, err)
	_, lines, _ := strings.Cut(string(manifest), "\n# ---\n")
	lines = strings.ReplaceAll(strings.ReplaceAll("\n"+lines, "\n# ", "\n"), "namespace: ingress-nginx", "namespace: "+e.namespace)
	lab.Must(t, e.admin.Apply(ctx, e.namespace, lines))
	lab.Within(t, 40*time.Second, func() string { // refused for half a minute at the most
		if !strings.Contains(e.process.Log(), "the stream follows the cluster again\" stream=nodes objects=2") {
			return e.process.Log()
		}
		return ""
	})
	e.logged(1, "forbidden")
	edit := func(node int, what map[string]any) {
		t.Helper()
		lab.Must(t, e.admin.Patch(ctx, "/api/v1/nodes/"+e.nodes[node].Name, what, nil))
	}
	labelled := func(value any) map[string]any {
		return map[string]any{"metadata": map[string]any{"labels": map[string]any{"node.kubernetes.io/exclude-from-external-load-balancers": value}}}
	}
	var held *lab.Stream // from node1
	for range e.nodes {
		stream := e.client.OpenStream(netip.MustParseAddrPort("10.0.0.100:80"))
		defer stream.Close()
		from := ""
		lab.Within(t, 5*time.Second, func() string {
			if from, _, _ = stream.State(); from == "" {
				return "no answer on a stream"
			}
			return ""
		})
		if from == "node1" {
			held = stream
		}
	}
	if held == nil {
		t.Fatal("of two streams none is from node1")
	}
	edit(0, map[string]any{"spec": map[string]any{"unschedulable": true}})
	e.table(web("1=0", "2")...)
	e.logged(1, "its node is cordoned off")
	if got := e.client.Curl(4, "http://10.0.0.100/"); got["node2"] != 4 {
		t.Errorf("answers while node1 is cordoned off: %v", got)
	}
	_, before, _ := held.State()
	time.Sleep(2 * time.Second)
	e.table(web("1=0", "2")...) // the stream is still open
	if _, n, err := held.State(); err != nil || n <= before {
		t.Errorf("the open connection to the cordoned node was cut: %d lines after %d, %v", n, before, err)
	}
	held.Close()
	e.table(web("2")...)
	edit(0, map[string]any{"spec": map[string]any{"unschedulable": nil}})
	e.table(web("1", "2")...)
	edit(1, labelled(""))
	e.table(web("1", "2=0")...)
	edit(1, labelled(nil))
	e.table(web("1", "2")...)
}

// The API server goes away for half a minute, under load, and with it go the
// controller and back again.
func TestE2EAPIServerAway(t *testing.T) {
	of(t, "e2e")
	e := newE2E(t, "away", 2)
	ctx := t.Context()
	e.createPod(0, true)
	e.createPod(1, true)
	e.start()
	e.table(web("1", "2")...)
	e.logged(1, "VIP address added") // it follows the table

	load := e.client.StartLoad(netip.MustParseAddrPort("10.0.0.100:80"), 4, 10*time.Millisecond)
	lab.Must(t, e.control.StopAPI(ctx))
	away := time.Now()
	time.Sleep(10 * time.Second)
	e.process.Kill() // and the controller dies meanwhile
	e.start()
	time.Sleep(20 * time.Second)
	e.table(web("1", "2")...)
	if out, err := e.director.Try("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9652/readyz"); out != "200" {
		t.Errorf("/readyz without the API server: %s, %v", out, err)
	}
	lab.Must(t, e.control.StartAPI(ctx))
	t.Logf("the API server was away for %s", time.Since(away).Round(time.Second))
	e.setReady(0, false)
	changed := time.Now()
	e.table(web("1=0", "2")...) // its connections of a moment ago are still remembered
	t.Logf("a change was followed %s after the API server was back", time.Since(changed).Round(100*time.Millisecond))
	report := load.Stop()
	t.Log(report)
	if report.Failed() > 0 || report.Requests < 500 {
		t.Errorf("under load: %s", report)
	}
}

// The prototype's command line, without any file.
func TestE2EPrototypeCommandLine(t *testing.T) {
	of(t, "e2e")
	e := newE2E(t, "proto", 1)
	e.createPod(0, true)
	lab.Must(t, e.admin.SetConfigMap(t.Context(), "proto", "tcp-services", map[string]string{"9000": "default/db:5432"}))
	e.process = e.director.Start(controller(), "--debug", "--kubeconfig", filepath.Join(e.dir, "kubeconfig"),
		"-vip", "10.0.0.100", "--schedname", "wlc", "-nginxserver", "proto", "-timeout", "120-50-51")
	table := append(append(web("1"), port("443", "1")...), port("9000", "1")...)
	for i := range table {
		table[i] = strings.Replace(table[i], "-s rr", "-s wlc", 1)
	}
	e.table(table...)
	if got := e.director.Run("ipvsadm", "-l", "--timeout"); !strings.Contains(got, "120 50 51") {
		t.Error(got)
	}
	lab.Must(t, e.process.Signal(os.Interrupt))
	e.director.Run(controller(), "-vip", "10.0.0.100", "-cleanup")
}

// From a pod's status PATCH to the kernel's table, beside the bare watch.
func TestE2ELatency(t *testing.T) {
	of(t, "e2e")
	const samples = 200
	e := newE2E(t, "latency", 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	e.createPod(0, true)
	e.createPod(1, true)
	e.start()
	e.table(web("1", "2")...)
	list, err := e.admin.ListPods(ctx, e.namespace, "")
	lab.Must(t, err)
	events, err := e.admin.WatchPods(ctx, e.namespace, "", list.Metadata.ResourceVersion)
	lab.Must(t, err)

	kernel := floor.Dial(t, e.director)
	defer kernel.Close()
	service := netip.MustParseAddrPort("10.0.0.100:80")
	weight := func() uint32 {
		weights, err := kernel.Weights(service)
		lab.Must(t, err)
		return weights[e.nodes[1].IPv4]
	}

	var table, watch []time.Duration
	for i := range samples {
		ready := i%2 == 1
		start := time.Now()
		e.setReady(1, ready)
		want := uint32(0)
		if ready {
			want = 1
		}
		for weight() != want {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("sample %d: the kernel has not followed\n%s", i, e.process.Log())
			}
			time.Sleep(500 * time.Microsecond)
		}
		table = append(table, time.Since(start))
		for ev := range events {
			lab.Must(t, ev.Err)
			if ev.Pod.Ready() == ready {
				watch = append(watch, ev.Received.Sub(start))
				break
			}
		}
	}
	t.Logf("PATCH → kernel's table: median %s, p99 %s, of %d", percentile(table, 50), percentile(table, 99), len(table))
	t.Logf("PATCH → bare watch:     median %s, p99 %s, of %d", percentile(watch, 50), percentile(watch, 99), len(watch))
}

// percentile of durations, rounded for reading.
func percentile(d []time.Duration, p int) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)*p/100, len(s)-1)].Round(100 * time.Microsecond)
}

// A director that follows thousands of pods stays small, and one that follows as many
// endpoints of a Service needs no more.
func TestE2EMemory(t *testing.T) {
	of(t, "e2e")
	want := *args.Pods
	measure := func(t *testing.T, namespace, service string) (rss int) {
		e := newE2EBy(t, namespace, service, 0)
		e.write("kubeconfig", string(cluster.Kubeconfig(fmt.Sprintf("https://127.0.0.1:%d", e.info.Port), e.info.CA, e.info.AdminToken)))
		if service == "" {
			e.namespace = "big"
		} else {
			e.manyEndpoints(want)
		}
		e.configure("")
		// The first start makes the table, and the other two find it: the lesser of these counts.
		const most = 30 << 10 // kB
		for i := range 3 {
			e.start()
			lab.Within(t, 90*time.Second, func() string {
				got := strings.Count(e.director.Table(), "-a ")
				if got != want || !strings.Contains(e.process.Log(), fmt.Sprint("objects=", want)) {
					return fmt.Sprintf("%d rows, want %d\n%s", got, want, e.process.Log())
				}
				return ""
			})
			// The garbage of a list goes 10 s after it, or a little later on a busy machine.
			time.Sleep(14 * time.Second)
			now, peak := processMemory(t, e.process.PID())
			t.Logf("%d real servers: RSS %d kB, peak %d kB", want, now, peak)
			if i == 1 || i == 2 && now < rss {
				rss = now
			}
			e.process.Kill()
		}
		if rss > most {
			t.Errorf("RSS is %d kB, at most %d are allowed", rss, most)
		}
		return rss
	}
	var pods, endpoints int
	t.Run("with", func(t *testing.T) { // both side by side
		t.Run("pods", func(t *testing.T) { t.Parallel(); pods = measure(t, "memory", "") })
		t.Run("endpoints", func(t *testing.T) { t.Parallel(); endpoints = measure(t, "memory-service", serviceName) })
	})
	if endpoints > pods+pods/10 {
		t.Errorf("RSS is %d kB with endpoints of a Service and %d kB with pods", endpoints, pods)
	}
}

// processMemory returns the resident memory of a process and the most that it was, in KiB.
func processMemory(t *testing.T, pid int) (rss, peak int) {
	found := processStatus(t, pid)
	return found["VmRSS"], found["VmHWM"]
}

// processStatus returns what /proc/PID/status gives in kB.
func processStatus(t *testing.T, pid int) map[string]int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	lab.Must(t, err)
	found := make(map[string]int)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "kB" {
			found[strings.TrimSuffix(f[0], ":")], err = strconv.Atoi(f[1])
			lab.Must(t, err)
		}
	}
	return found
}
