// Tests against a real IPVS. They run the real binary inside network
// namespaces and ask ipvsadm and curl what came of it.
//
// `make test` runs them, in a virtual machine where the host's kernel has no
// IPVS. LVS_KERNEL=1 says that the kernel must have one; LVS_BINARY names the
// controller's binary.

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/lab"
)

// requireKernel skips a test where there is no real IPVS to run it on.
func requireKernel(t *testing.T) {
	t.Helper()
	if os.Getenv("LVS_KERNEL") == "1" {
		return
	}
	if os.Getenv("LVS_REQUIRE_ALL") == "1" {
		t.Fatal("needs a kernel with IPVS (LVS_REQUIRE_ALL=1)")
	}
	t.Skip("needs a kernel with IPVS: `make test` brings one (LVS_KERNEL=1)")
}

// rig is a director under test: its host, its files and its process.
type rig struct {
	*testing.T
	lab      *lab.Lab
	director *lab.Host
	dir      string
	process  *lab.Process
	objects  objects
}

// objects is the cluster file's content: what the cluster has.
type objects struct {
	pods []pod
	tcp  map[string]string
	udp  map[string]string
}

// pod is an ingress pod in short.
type pod struct {
	name, node  string
	ips         []string
	notReady    bool
	terminating bool
	podNetwork  bool
	component   string // default "controller"
}

func newRig(t *testing.T) *rig {
	requireKernel(t)
	dir := t.TempDir() // first, so that it is removed when nothing writes to it any more
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	return &rig{T: t, lab: l, director: l.Host("director", 2), dir: dir}
}

// writeCluster replaces the cluster file in one step.
func (r *rig) writeCluster() {
	r.Helper()
	var items []any
	for _, p := range r.objects.pods {
		component := "controller"
		if p.component != "" {
			component = p.component
		}
		meta := map[string]any{
			"name": p.name, "namespace": "ingress-nginx", "uid": "uid-" + p.name,
			"labels": map[string]string{"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": component},
		}
		if p.terminating {
			meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
		}
		ready := "True"
		if p.notReady {
			ready = "False"
		}
		var ips []any
		for _, ip := range p.ips {
			ips = append(ips, map[string]string{"ip": ip})
		}
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": meta,
			"spec": map[string]any{"nodeName": p.node, "hostNetwork": !p.podNetwork},
			"status": map[string]any{
				"phase": "Running", "hostIPs": ips, "podIPs": ips,
				"conditions": []any{map[string]string{"type": "Ready", "status": ready}},
			},
		})
	}
	for name, data := range map[string]map[string]string{"tcp-services": r.objects.tcp, "udp-services": r.objects.udp} {
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "data": data,
			"metadata": map[string]any{"name": name, "namespace": "ingress-nginx"},
		})
	}
	b, err := json.MarshalIndent(map[string]any{"apiVersion": "v1", "kind": "List", "items": items}, "", " ")
	if err != nil {
		r.Fatal(err)
	}
	r.write("cluster.json", string(b))
}

// write replaces a file of the director through a rename.
func (r *rig) write(name, text string) {
	r.Helper()
	if err := writeFileAtomic(filepath.Join(r.dir, name), []byte(text), 0o644); err != nil {
		r.Fatal(err)
	}
}

// read returns what write has written.
func (r *rig) read(name string) string {
	r.Helper()
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		r.Fatal(err)
	}
	return string(text)
}

// configHead is the top of every test's configuration.
func (r *rig) configHead() string {
	return fmt.Sprintf("cluster_file = \"cluster.json\"\ninterface = \"eth0\"\nlisten = \"127.0.0.1:9652\"\naudit_interval = \"2s\"\nstate_dir = %q\ncache_dir = %q\n",
		filepath.Join(r.dir, "state"), filepath.Join(r.dir, "cache"))
}

// edgeConfig is one VIP over the ingress pods; more goes into its table.
func (r *rig) edgeConfig(more string) {
	r.Helper()
	if !strings.Contains(more, "scheduler") {
		more = "scheduler = \"rr\"\n" + more
	}
	if !strings.Contains(more, "addresses") {
		more = "addresses = [\"10.0.0.100\"]\n" + more
	}
	r.write("config.toml", r.configHead()+"[[vip]]\nname = \"edge\"\nports = [\"80/tcp\"]\ntcp_services = \"tcp-services\"\nudp_services = \"udp-services\"\n"+more)
}

// start runs the controller.
func (r *rig) start() {
	r.Helper()
	r.process = r.director.Start(controllerBinary(r.T), "-config", filepath.Join(r.dir, "config.toml"))
}

// subcommand runs a sub-command of the controller, with the director's
// configuration.
func (r *rig) subcommand(args ...string) {
	r.Helper()
	r.director.Run(slices.Concat([]string{controllerBinary(r.T)}, args, []string{"-config", filepath.Join(r.dir, "config.toml")})...)
}

// ready waits for the answer of `lvs-controller ready`, want being a part of it.
func (r *rig) ready(want string) {
	r.Helper()
	within(r.T, 10*time.Second, func() string {
		out, err := r.director.Command(controllerBinary(r.T), "ready", "-listen", "127.0.0.1:9652").CombinedOutput()
		if ok := err == nil; !strings.Contains(string(out), want) || ok != strings.HasPrefix(want, "ready") {
			return fmt.Sprintf("ready says %q, %v; want %q", out, err, want)
		}
		return ""
	})
}

// controllerBinary is the controller's binary under test.
func controllerBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("LVS_BINARY")
	if path == "" {
		t.Fatal("LVS_BINARY does not name the controller's binary")
	}
	return path
}

// within waits until check is content, and fails with its last complaint.
func within(t *testing.T, limit time.Duration, check func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		complaint := check()
		if complaint == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %s", limit, complaint)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// table waits for exactly these lines of `ipvsadm -Sn`.
func (r *rig) table(lines ...string) {
	r.Helper()
	want := lab.SortTable(strings.Join(lines, "\n"))
	within(r.T, 15*time.Second, func() string {
		got := r.director.Table()
		if got == want {
			return ""
		}
		return fmt.Sprintf("ipvsadm -Sn (-want +got):\n%s\nlog:\n%s", cmp.Diff(want, got), r.process.Log())
	})
}

// logged waits until the log has exactly n lines that contain text.
func (r *rig) logged(n int, text string) {
	r.Helper()
	within(r.T, 10*time.Second, func() string {
		if got := r.process.CountLog(text); got != n {
			return fmt.Sprintf("%d lines of the log contain %q, want %d:\n%s", got, text, n, r.process.Log())
		}
		return ""
	})
}

// The exact table after each thing that can happen. A service that belongs to
// somebody else is there from the start and must never change.
func TestKernelTable(t *testing.T) {
	r := newRig(t)
	const (
		foreign = "-A -t 10.0.0.200:80 -s wlc\n-a -t 10.0.0.200:80 -r 10.0.0.12:8080 -m -w 5"
		web     = "-A -t 10.0.0.100:80 -s rr"
		row1    = "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1"
		row2    = "-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 1"
		row3    = "-a -t 10.0.0.100:80 -r 10.0.0.13:80 -g -w 1"
	)
	r.director.Run("ipvsadm", "-A", "-t", "10.0.0.200:80", "-s", "wlc")
	r.director.Run("ipvsadm", "-a", "-t", "10.0.0.200:80", "-r", "10.0.0.12:8080", "-m", "-w", "5")
	r.objects.pods = []pod{{name: "a", node: "n1", ips: []string{"10.0.0.11"}}}
	r.writeCluster()
	r.edgeConfig("")
	r.start()
	step := func(name string, change func(), table ...string) {
		r.Helper()
		if change != nil {
			change()
			r.writeCluster()
		}
		t.Logf("step: %s", name)
		r.Helper()
		r.table(append(table, foreign)...)
	}

	step("start", nil, web, row1)
	step("scale out", func() {
		r.objects.pods = append(r.objects.pods, pod{name: "b", node: "n2", ips: []string{"10.0.0.12"}}, pod{name: "c", node: "n3", ips: []string{"10.0.0.13"}})
	}, web, row1, row2, row3)
	step("scale in", func() { r.objects.pods = r.objects.pods[:2] }, web, row1, row2)
	step("pod not ready", func() { r.objects.pods[1].notReady = true }, web, row1)
	step("pod ready again", func() { r.objects.pods[1].notReady = false }, web, row1, row2)

	log := len(r.process.Log())
	step("a second pod on a node changes nothing", func() {
		r.objects.pods = append(r.objects.pods, pod{name: "b2", node: "n2", ips: []string{"10.0.0.12"}})
	}, web, row1, row2)
	step("one of two pods on a node deleted", func() { r.objects.pods = slices.Delete(r.objects.pods, 1, 2) }, web, row1, row2)
	time.Sleep(time.Second)
	if changes := r.process.LogSince(log); strings.Contains(changes, "real server") {
		t.Errorf("the node left for a moment:\n%s", changes)
	}

	step("a pod that is not on hostNetwork", func() {
		r.objects.pods = append(r.objects.pods, pod{name: "d", node: "n3", ips: []string{"10.0.0.13"}, podNetwork: true})
	}, web, row1, row2)
	r.logged(1, "pod ingress-nginx/d is left out: it is not on hostNetwork")
	step("a pod of another component", func() {
		r.objects.pods = append(r.objects.pods[:2], pod{name: "e", node: "n3", ips: []string{"10.0.0.13"}, component: "default-backend"})
	}, web, row1, row2)

	step("ConfigMap entries, one good and many bad", func() {
		r.objects.tcp = map[string]string{
			"9000": "default/db:5432", "abc": "default/x:1", "0": "default/x:1", "70000": "default/x:1",
			"99999": "default/x:1", "10254": "default/x:1", "9001": "default/x",
		}
	}, web, row1, row2,
		"-A -t 10.0.0.100:9000 -s rr", "-a -t 10.0.0.100:9000 -r 10.0.0.11:9000 -g -w 1", "-a -t 10.0.0.100:9000 -r 10.0.0.12:9000 -g -w 1")
	for _, key := range []string{"abc", "0", "70000", "99999", "10254", "9001"} {
		r.logged(1, fmt.Sprintf(`entry \"%s\" is skipped`, key))
	}
	step("a port withdrawn, a UDP port opened", func() {
		r.objects.tcp = nil
		r.objects.udp = map[string]string{"53": "kube-system/dns:53"}
	}, web, row1, row2,
		"-A -u 10.0.0.100:53 -s rr", "-a -u 10.0.0.100:53 -r 10.0.0.11:53 -g -w 1", "-a -u 10.0.0.100:53 -r 10.0.0.12:53 -g -w 1")
	step("UDP port withdrawn", func() { r.objects.udp = nil }, web, row1, row2)

	step("nothing in service: the last working set stays", func() {
		r.objects.pods[0].notReady, r.objects.pods[1].notReady = true, true
	}, web, row1, row2)
	r.logged(1, "the last working set stays")
	step("and is relieved", func() { r.objects.pods[0].notReady, r.objects.pods[1].notReady = false, false }, web, row1, row2)

	r.edgeConfig("addresses = [\"10.0.0.100\", \"2001:db8::100\"]\n")
	step("an IPv6 VIP", func() {
		r.objects.pods[0].ips = []string{"10.0.0.11", "2001:db8::11"}
		r.objects.pods[1].ips = []string{"10.0.0.12", "2001:db8::12"}
	}, web, row1, row2, "-A -t [2001:db8::100]:80 -s rr",
		"-a -t [2001:db8::100]:80 -r [2001:db8::11]:80 -g -w 1", "-a -t [2001:db8::100]:80 -r [2001:db8::12]:80 -g -w 1")
	r.edgeConfig("")
	step("and without it", nil, web, row1, row2)

	r.director.Run("ipvsadm", "-D", "-t", "10.0.0.100:80")
	step("a service deleted by hand", nil, web, row1, row2)
	r.director.Run("ipvsadm", "-a", "-t", "10.0.0.100:80", "-r", "10.0.0.77", "-g", "-w", "3")
	step("a real server added by hand", nil, web, row1, row2)
	r.director.Run("ipvsadm", "-C")
	r.director.Run("ipvsadm", "-A", "-t", "10.0.0.200:80", "-s", "wlc")
	r.director.Run("ipvsadm", "-a", "-t", "10.0.0.200:80", "-r", "10.0.0.12:8080", "-m", "-w", "5")
	step("ipvsadm -C by hand", nil, web, row1, row2)
	r.logged(7, "repaired, another hand changed it: ")

	r.Log("step: a VIP removed while the process was down")
	if err := r.process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if got := r.director.Table(); !strings.Contains(got, row1) {
		t.Errorf("stopping changed the table:\n%s", got)
	}
	second := "[[vip]]\nname = \"other\"\naddresses = [\"10.0.0.101\"]\nports = [80]\nreal_servers = [{address = \"10.0.0.11\"}]\n"
	r.write("config.toml", r.configHead()+second)
	r.start()
	r.table("-A -t 10.0.0.101:80 -s rr", "-a -t 10.0.0.101:80 -r 10.0.0.11:80 -g -w 1", foreign)

	r.Log("step: -cleanup")
	r.process.Kill()
	r.director.Run(controllerBinary(t), "-config", filepath.Join(r.dir, "config.toml"), "-cleanup")
	r.table(foreign)
}

// A change of scheduler, weight or timeouts is an edit: the kernel's counters
// go on.
func TestKernelEditsInPlace(t *testing.T) {
	r := newRig(t)
	client := r.lab.Host("client", 3)
	node := r.lab.Host("node", 11)
	node.Serve(80)
	node.Run(controllerBinary(t), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(r.dir, "rs.json"))
	r.objects.pods = []pod{{name: "a", node: "node", ips: []string{"10.0.0.11"}}}
	r.writeCluster()
	r.edgeConfig("announce = \"arp\"\n")
	r.start()
	r.table("-A -t 10.0.0.100:80 -s rr", "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1")
	if got := client.Curl(10, "http://10.0.0.100/"); got["node"] != 10 {
		t.Fatalf("answers: %v", got)
	}
	r.counted(10)
	r.edgeConfig("announce = \"arp\"\nscheduler = \"wlc\"\nweight = 9\n")
	r.table("-A -t 10.0.0.100:80 -s wlc", "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 9")
	if got := client.Curl(5, "http://10.0.0.100/"); got["node"] != 5 {
		t.Fatalf("answers: %v", got)
	}
	r.counted(15) // a service made anew would have counted 5
	r.logged(1, "virtual service edited")

	head := r.configHead() + "[timeouts]\ntcp = \"120s\"\ntcp_fin = \"50s\"\nudp = \"49s\"\n"
	r.write("config.toml", head+"[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nports = [80]\nscheduler = \"wlc\"\nweight = 9\nannounce = \"arp\"\n")
	within(t, 5*time.Second, func() string {
		if got := r.director.Run("ipvsadm", "-l", "--timeout"); !strings.Contains(got, "120 50 49") {
			return got + r.process.Log()
		}
		return ""
	})
}

// counted waits until the kernel, which sums its counters every two seconds,
// has counted n connections of the web service.
func (r *rig) counted(n int) {
	r.Helper()
	within(r.T, 10*time.Second, func() string {
		if got := r.connections(); got != n {
			return fmt.Sprintf("the service has counted %d connections, want %d", got, n)
		}
		return ""
	})
}

// connections is the web service's connection counter, by `ipvsadm --stats`.
func (r *rig) connections() int {
	for _, line := range strings.Split(r.director.Run("ipvsadm", "-Ln", "--stats", "--exact"), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "TCP" {
			var n int
			fmt.Sscan(f[2], &n)
			return n
		}
	}
	return -1
}

// Traffic really flows: both families, TCP and UDP, spread over the nodes, and
// a drain lets an open connection end by itself.
func TestKernelTraffic(t *testing.T) {
	r := newRig(t)
	client := r.lab.Host("client", 3)
	var nodes []*lab.Host
	for i, name := range []string{"node1", "node2"} {
		n := r.lab.Host(name, 11+i)
		n.Serve(80, 9000)
		n.Run(controllerBinary(t), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-uplink", "eth0", "-state", filepath.Join(r.dir, name))
		n.ServeUDP(addr("10.0.0.100"), 53)
		nodes = append(nodes, n)
		r.objects.pods = append(r.objects.pods, pod{name: name, node: name, ips: []string{n.IPv4.String(), n.IPv6.String()}})
	}
	r.objects.tcp = map[string]string{"9000": "default/db:5432"}
	r.objects.udp = map[string]string{"53": "kube-system/dns:53"}
	r.writeCluster()
	r.edgeConfig("announce = \"arp\"\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\n")
	r.start()
	within(t, 15*time.Second, func() string {
		if got := strings.Count(r.director.Table(), "\n-a "); got != 12 {
			return fmt.Sprintf("%d real-server rows, want 12\n%s", got, r.process.Log())
		}
		return ""
	})
	half := map[string]int{"node1": 10, "node2": 10}
	for _, url := range []string{"http://10.0.0.100/", "http://10.0.0.100:9000/", "http://[2001:db8::100]/"} {
		if diff := cmp.Diff(half, client.Curl(20, url)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", url, diff)
		}
	}
	if diff := cmp.Diff(half, client.AskUDP(20, addr("10.0.0.100"), 53)); diff != "" {
		t.Errorf("UDP (-want +got):\n%s", diff)
	}

	// A client in the middle of a download keeps its node through the drain.
	stream := client.OpenStream(netip.MustParseAddrPort("10.0.0.100:80"))
	defer stream.Close()
	within(t, 5*time.Second, func() string {
		if _, n, err := stream.State(); n < 2 {
			return fmt.Sprint("no answer on the stream: ", err)
		}
		return ""
	})
	from, before, _ := stream.State()
	at := slices.IndexFunc(nodes, func(n *lab.Host) bool { return n.Name == from })
	r.objects.pods[at].terminating = true
	r.writeCluster()
	quiesced := fmt.Sprintf("-a -t 10.0.0.100:80 -r %s:80 -g -w 0", nodes[at].IPv4)
	within(t, 10*time.Second, func() string {
		if !strings.Contains(r.director.Table(), quiesced) {
			return r.director.Table()
		}
		return ""
	})
	if got := client.Curl(10, "http://10.0.0.100/"); got[nodes[1-at].Name] != 10 {
		t.Errorf("new connections during the drain: %v", got)
	}
	time.Sleep(3 * time.Second)
	if _, n, err := stream.State(); err != nil || n < before+5 {
		t.Errorf("the open connection was cut: %d lines after %d, %v", n, before, err)
	}
	if !strings.Contains(r.director.Table(), quiesced) {
		t.Errorf("removed although a connection is open:\n%s", r.director.Table())
	}
}

// Whatever happens to the controller, a live node goes on answering.
func TestKernelLosesNothing(t *testing.T) {
	r := newRig(t)
	client := r.lab.Host("client", 3)
	for i, name := range []string{"node1", "node2"} {
		n := r.lab.Host(name, 11+i)
		n.Serve(80)
		n.Run(controllerBinary(t), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(r.dir, name))
		r.objects.pods = append(r.objects.pods, pod{name: name, node: name, ips: []string{n.IPv4.String()}})
	}
	r.writeCluster()
	r.edgeConfig("announce = \"arp\"\n")
	r.start()
	want := []string{"-A -t 10.0.0.100:80 -s rr", "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1", "-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 1"}
	r.table(want...)
	for _, event := range []struct {
		name string
		do   func()
	}{
		{"kill -9 and restart", func() { r.process.Kill(); time.Sleep(time.Second); r.start(); r.table(want...) }},
		{"SIGTERM and restart", func() {
			if err := r.process.Signal(syscall.SIGTERM); err != nil {
				t.Errorf("SIGTERM: %v", err)
			}
			time.Sleep(time.Second)
			r.start()
			r.table(want...)
		}},
		{"a broken configuration", func() {
			r.write("config.toml", "[[vip]\nname = edge")
			r.logged(1, "config.toml:1: ")
			if err := r.process.Hangup(); err != nil {
				t.Error(err)
			}
			r.table(want...)
			r.edgeConfig("announce = \"arp\"\n")
		}},
		{"schedulers changed again and again", func() {
			for _, s := range []string{"wlc", "sh", "mh", "lc", "rr"} {
				r.edgeConfig("announce = \"arp\"\nscheduler = \"" + s + "\"\n")
				want[0] = "-A -t 10.0.0.100:80 -s " + s
				if s == "sh" || s == "mh" {
					want[0] += " -b " + s + "-fallback"
				}
				r.table(want...)
			}
		}},
		{"a node leaves and returns", func() {
			r.objects.pods[0].terminating = true
			r.writeCluster()
			r.table(want[0], strings.Replace(want[1], "-w 1", "-w 0", 1), want[2])
			r.objects.pods[0].terminating = false
			r.writeCluster()
			r.table(want...)
		}},
	} {
		load := client.StartLoad(netip.MustParseAddrPort("10.0.0.100:80"), 4, 5*time.Millisecond)
		event.do()
		time.Sleep(time.Second)
		report := load.Stop()
		t.Logf("%s: %s", event.name, report)
		if report.Failed() > 0 || report.Requests < 50 {
			t.Errorf("%s: %s", event.name, report)
		}
	}
	if got := len(slices.Collect(maps.Keys(client.Curl(20, "http://10.0.0.100/")))); got != 2 {
		t.Errorf("%d nodes answer, want 2", got)
	}
}
