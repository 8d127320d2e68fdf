// The kernel's table, and the traffic that it sends to nodes, after each thing that
// can happen to a director.

package director

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/lab"
)

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
	step("most entries withdrawn, which a second write confirms; a UDP port opened", func() {
		r.objects.tcp = nil
		r.objects.udp = map[string]string{"53": "kube-system/dns:53"}
		r.writeCluster()
		r.logged(1, "gone=2 of=2 confirm=")
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
	r.logged(7, "repaired, another program changed it: ")

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
	r.director.Run(controller(), "-config", filepath.Join(r.dir, "config.toml"), "-cleanup")
	r.table(foreign)
}

// A change of scheduler, weight or timeouts is an edit: the kernel's counters
// go on.
func TestKernelEditsInPlace(t *testing.T) {
	r := newRig(t)
	client := r.lab.Host("client", 3)
	node := r.lab.Host("node", 11)
	node.Serve(80)
	node.Run(controller(), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(r.dir, "rs.json"))
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
	lab.Within(t, 5*time.Second, func() string {
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
	lab.Within(r.T, 10*time.Second, func() string {
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
		n.Run(controller(), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-uplink", "eth0", "-state", filepath.Join(r.dir, name))
		n.ServeUDP(netip.MustParseAddr("10.0.0.100"), 53)
		nodes = append(nodes, n)
		r.objects.pods = append(r.objects.pods, pod{name: name, node: name, ips: []string{n.IPv4.String(), n.IPv6.String()}})
	}
	r.objects.tcp = map[string]string{"9000": "default/db:5432"}
	r.objects.udp = map[string]string{"53": "kube-system/dns:53"}
	r.writeCluster()
	r.edgeConfig("announce = \"arp\"\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\n")
	r.start()
	lab.Within(t, 15*time.Second, func() string {
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
	if diff := cmp.Diff(half, client.AskUDP(20, netip.MustParseAddr("10.0.0.100"), 53)); diff != "" {
		t.Errorf("UDP (-want +got):\n%s", diff)
	}

	// A client in the middle of a download keeps its node through the drain.
	stream := client.OpenStream(netip.MustParseAddrPort("10.0.0.100:80"))
	defer stream.Close()
	lab.Within(t, 5*time.Second, func() string {
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
	lab.Within(t, 10*time.Second, func() string {
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

// What kubectl prints when the API is away, or refuses one type, takes nothing away
// until a later write of the file says the same.
func TestKernelClusterFileInDoubt(t *testing.T) {
	r := newRig(t)
	r.objects.pods = []pod{{name: "a", node: "n1", ips: []string{"10.0.0.11"}}, {name: "b", node: "n2", ips: []string{"10.0.0.12"}}}
	r.objects.tcp = map[string]string{"9000": "default/db:5432"}
	r.writeCluster()
	whole := r.read("cluster.json")
	var list struct{ Items []json.RawMessage }
	lab.Must(t, json.Unmarshal([]byte(whole), &list))
	pods, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": list.Items[:2]})
	lab.Must(t, err)
	r.edgeConfig("[vip.drain]\ntimeout = \"1s\"\n")
	r.start()
	var table []string
	for _, port := range []string{"80", "9000"} {
		table = append(table, "-A -t 10.0.0.100:"+port+" -s rr", "-a -t 10.0.0.100:"+port+" -r 10.0.0.11:"+port+" -g -w 1", "-a -t 10.0.0.100:"+port+" -r 10.0.0.12:"+port+" -g -w 1")
	}
	r.table(table...)
	// reads writes the file and waits until the controller says one of those.
	reads := func(text string, says ...string) {
		t.Helper()
		before := len(r.process.Log())
		r.write("cluster.json", text)
		lab.Within(t, 10*time.Second, func() string {
			log := r.process.LogSince(before)
			if slices.ContainsFunc(says, func(s string) bool { return strings.Contains(log, s) }) {
				return ""
			}
			return fmt.Sprintf("nothing of %q is said:\n%s", says, log)
		})
	}
	for _, wrong := range []string{
		`{"apiVersion":"v1","items":[],"kind":"List","metadata":{"resourceVersion":""}}` + "\n",
		string(pods),
		`{"apiVersion":"meta.k8s.io/v1","kind":"Table","rows":[]}` + whole,
	} {
		r.write("cluster.json", wrong)
		time.Sleep(5 * time.Second) // more than a server's second answer takes, and two audits
		r.table(table...)
		reads(whole, "what served is not missing any more", "the cluster file is valid again")
	}
	r.logged(1, `kind \"Table\"`)
	reads(string(pods), "a second answer must confirm")
	r.table(table...)
	r.write("cluster.json", string(pods))
	r.table(table[:3]...)
}

// Whatever happens to the controller, a live node goes on answering.
func TestKernelLosesNothing(t *testing.T) {
	r := newRig(t)
	client := r.lab.Host("client", 3)
	for i, name := range []string{"node1", "node2"} {
		n := r.lab.Host(name, 11+i)
		n.Serve(80)
		n.Run(controller(), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(r.dir, name))
		r.objects.pods = append(r.objects.pods, pod{name: name, node: name, ips: []string{n.IPv4.String()}})
	}
	r.writeCluster()
	r.edgeConfig("announce = \"arp\"\n")
	r.start()
	want := []string{"-A -t 10.0.0.100:80 -s rr", "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1", "-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 1"}
	r.table(want...)
	// The table comes before the VIP's address. A controller that is killed between the two
	// has not served a client yet.
	lab.Within(t, 10*time.Second, func() string {
		if !client.Knock(netip.MustParseAddrPort("10.0.0.100:80"), time.Second) {
			return "the VIP does not answer\n" + r.process.Log()
		}
		return ""
	})
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
		load.Reach(50)
		report := load.Stop()
		t.Logf("%s: %s", event.name, report)
		if report.Failed() > 0 || report.Requests < 50 {
			t.Errorf("%s: %s\n%+v", event.name, report, report.Faults)
		}
	}
	if got := len(slices.Collect(maps.Keys(client.Curl(20, "http://10.0.0.100/")))); got != 2 {
		t.Errorf("%d nodes answer, want 2", got)
	}
}
