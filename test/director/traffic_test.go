// Which node answers a client: what sticks, protocols, shares, slow start, IPv6.

package director

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/lab"
)

// trafficRig is a director before two nodes, with clients.
type trafficRig struct {
	*rig
	client *lab.Host
	nodes  []*lab.Host
	pods   []trafficPod
}

// trafficPod is an ingress pod on one of the nodes.
type trafficPod struct {
	node     *lab.Host
	notReady bool
	weight   string // annotation lvs-controller/weight
	ports    []int
}

const edgeVIP = "10.0.0.100"

// newTrafficRig makes two nodes that hold the VIP, with a pod on each. The
// controller is not started.
func newTrafficRig(t *testing.T) *trafficRig {
	of(t, "kernel")
	t.Parallel() // most of the time goes into waiting for the kernel's timers
	r := &trafficRig{rig: newRig(t)}
	r.client = r.lab.Host("client", 3)
	for i, name := range []string{"node1", "node2"} {
		n := r.addNode(name, 11+i)
		r.nodes = append(r.nodes, n)
		r.pods = append(r.pods, trafficPod{node: n})
	}
	return r
}

// addNode makes a host that holds the VIP.
func (r *trafficRig) addNode(name string, n int) *lab.Host {
	h := r.lab.Host(name, n)
	h.Run(controller(), "realserver", "-vip", edgeVIP, "-uplink", "eth0", "-state", filepath.Join(r.dir, name))
	return h
}

// cluster writes the cluster file. edgeConfig's ConfigMaps are not there, so
// edge is the configuration to use with it.
func (r *trafficRig) cluster() {
	r.Helper()
	items := make([]any, 0, len(r.pods))
	for _, p := range r.pods {
		ready := "True"
		if p.notReady {
			ready = "False"
		}
		meta := map[string]any{
			"name": p.node.Name, "namespace": "ingress-nginx", "uid": p.node.Name,
			"labels": map[string]string{"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"},
		}
		if p.weight != "" {
			meta["annotations"] = map[string]string{"lvs-controller/weight": p.weight}
		}
		var ports []any
		for _, n := range p.ports {
			ports = append(ports, map[string]any{"containerPort": n, "hostPort": n, "protocol": "TCP"})
		}
		ips := []any{map[string]string{"ip": p.node.IPv4.String()}}
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": meta,
			"spec": map[string]any{"nodeName": p.node.Name, "hostNetwork": true, "containers": []any{map[string]any{"name": "c", "ports": ports}}},
			"status": map[string]any{
				"phase": "Running", "hostIPs": ips, "podIPs": ips,
				"conditions": []any{map[string]string{"type": "Ready", "status": ready}},
			},
		})
	}
	b, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		r.Fatal(err)
	}
	r.write("cluster.json", string(b))
}

// edge writes a configuration of one VIP, announced by the controller, in which
// connections that have ended are forgotten after a second, and what is no
// longer wanted is gone as fast.
func (r *trafficRig) edge(vip string) {
	r.Helper()
	r.write("config.toml", r.configHead()+"[timeouts]\ntcp_fin = \"1s\"\n[[vip]]\nname = \"edge\"\naddresses = [\""+edgeVIP+"\"]\nannounce = \"arp\"\n"+vip+"[vip.drain]\ntimeout = \"1s\"\n")
}

// shows waits until `ipvsadm -Sn` has a line for each text, and as many lines.
func (r *trafficRig) shows(lines ...string) {
	r.Helper()
	lab.Within(r.T, 15*time.Second, func() string {
		table := r.director.Table()
		got := strings.Split(strings.TrimSpace(table), "\n")
		missing := slices.ContainsFunc(lines, func(line string) bool {
			return !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, line) })
		})
		if missing || len(got) != len(lines) {
			return fmt.Sprintf("ipvsadm -Sn shows\n%swant lines with %q\nlog:\n%s", table, lines, r.process.Log())
		}
		return ""
	})
}

// answers curls url n times and compares who answered.
func (r *trafficRig) answers(what string, want map[string]int, got map[string]int) {
	r.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		r.Errorf("%s: who answered (-want +got):\n%s%s\n%s", what, diff, r.director.Table(), r.process.Log())
	}
}

// one returns the only node that answered.
func (r *trafficRig) one(what string, got map[string]int) string {
	r.Helper()
	names := slices.Collect(maps.Keys(got))
	if len(names) != 1 || names[0] == "failed" {
		r.Fatalf("%s: answers %v, want all from one node", what, got)
	}
	return names[0]
}

// What sticks to a node, and for how long.
func TestKernelTrafficSticks(t *testing.T) {
	r := newTrafficRig(t)
	for _, n := range r.nodes {
		n.Serve(80, 443, 9000)
		n.Run("ip", "route", "add", "10.0.5.0/24", "via", r.client.IPv4.String())
	}
	r.director.Run("ip", "route", "add", "10.0.5.0/24", "via", r.client.IPv4.String())
	r.client.Run("ip", "address", "add", "10.0.0.4/24", "dev", "eth0")
	r.client.Run("ip", "address", "add", "10.0.5.3/32", "dev", "lo")
	r.cluster()
	url := "http://" + edgeVIP
	// from curls twice from one of the client's addresses.
	from := func(address, url string) string {
		t.Helper()
		out, _ := r.client.Try("curl", "-s", "--max-time", "5", "-H", "Connection: close", "--interface", address, url+"/?[1-2]")
		all := strings.Fields(out)
		if len(all) != 2 || all[0] != all[1] {
			t.Fatalf("%s of client %s is answered by %q, want the same node twice", url, address, all)
		}
		return all[0]
	}

	// The template of persistence ends 3 s after the last new connection, and
	// not before that connection, which ends after 1 s (ip_vs_conn_expire).
	r.edge("ports = [80]\n[vip.persistence]\ntimeout = \"3s\"\n")
	r.start()
	r.shows("-A -t 10.0.0.100:80 -s rr -p 3", "-r 10.0.0.11:80", "-r 10.0.0.12:80")
	first := r.one("persistence", r.client.Curl(6, url))
	if second := from("10.0.0.4", url); second == first {
		t.Errorf("rr gives the second client %s, as the first", second)
	}
	lab.Within(t, 15*time.Second, func() string {
		if table := r.director.Run("ipvsadm", "-Lnc"); strings.Contains(table, "10.0.0.3:0 ") || strings.Contains(table, "10.0.0.4:0 ") {
			return "persistence has not expired:\n" + table
		}
		return ""
	})
	// Two clients had a node each, so rr is where it began; one more client in
	// between, and the first is due for the other node.
	from("10.0.5.3", url)
	if again := r.one("after persistence", r.client.Curl(2, url)); again == first {
		t.Errorf("the client is still with %s after its persistence expired", again)
	}

	r.edge("ports = [80]\n[vip.persistence]\ntimeout = \"10m\"\nnetmask = 24\n")
	r.shows("-A -t 10.0.0.100:80 -s rr -p 600 -M 255.255.255.0", "-r 10.0.0.11:80", "-r 10.0.0.12:80")
	neighbour, stranger := from("10.0.0.4", url), from("10.0.5.3", url)
	if mine := from("10.0.0.3", url); mine != neighbour || mine == stranger {
		t.Errorf("netmask: 10.0.0.3 is with %s, 10.0.0.4 with %s, 10.0.5.3 with %s; want the first two together", mine, neighbour, stranger)
	}

	r.edge("ports = [80, 443, 9000]\none_mark = true\n")
	r.shows("-A -f ", "-r 10.0.0.11:0", "-r 10.0.0.12:0")
	for _, port := range []string{"80", "443", "9000"} {
		r.answers("one mark, port "+port, map[string]int{"node1": 4, "node2": 4}, r.client.Curl(8, url+":"+port))
	}
	r.edge("ports = [80]\n")
	r.shows("-A -t 10.0.0.100:80 -s rr", "-r 10.0.0.11:80", "-r 10.0.0.12:80")
	r.answers("without a mark again", map[string]int{"node1": 4, "node2": 4}, r.client.Curl(8, url))

	r.edge("ports = [80, 443, 9000]\ngroups = [[\"80/tcp\", \"443/tcp\"]]\n[vip.persistence]\ntimeout = \"5m\"\n")
	r.shows("-A -f ", "-r 10.0.0.11:0", "-r 10.0.0.12:0", "-A -t 10.0.0.100:9000", "-r 10.0.0.11:9000", "-r 10.0.0.12:9000")
	used := make(map[string]bool)
	for _, address := range []string{"10.0.0.3", "10.0.0.4"} {
		http, https := from(address, url), from(address, url+":443")
		if used[http] = true; http != https {
			t.Errorf("group: client %s is with %s on 80 and with %s on 443", address, http, https)
		}
	}
	if len(used) != 2 {
		t.Errorf("group: two clients share one node of two: %v", used)
	}
}

// SCTP and UDP answer, and one-packet scheduling spreads what is one flow.
func TestKernelTrafficProtocols(t *testing.T) {
	r := newTrafficRig(t)
	vip := netip.MustParseAddr(edgeVIP)
	for _, n := range r.nodes {
		n.ServeSCTP(vip, 9000)
		n.ServeUDP(vip, 53)
	}
	r.cluster()
	half := map[string]int{"node1": 5, "node2": 5}
	r.edge("ports = [\"9000/sctp\", \"53/udp\"]\n")
	r.start()
	r.shows("-A -u 10.0.0.100:53 -s rr", "-r 10.0.0.11:53", "-r 10.0.0.12:53",
		"-A --sctp-service 10.0.0.100:9000 -s rr", "-r 10.0.0.11:9000", "-r 10.0.0.12:9000")
	r.answers("SCTP", half, r.client.AskSCTP(10, vip, 9000))
	r.answers("UDP", half, r.client.AskUDP(10, vip, 53))
	r.one("one flow of UDP", r.client.AskUDPFlow(10, vip, 53))

	r.edge("ports = [\"9000/sctp\", \"53/udp\"]\nflags = [\"ops\"]\n")
	r.shows("-A -u 10.0.0.100:53 -s rr -o", "-r 10.0.0.11:53", "-r 10.0.0.12:53",
		"-A --sctp-service 10.0.0.100:9000 -s rr", "-r 10.0.0.11:9000", "-r 10.0.0.12:9000")
	r.answers("one flow of UDP, packet by packet", half, r.client.AskUDPFlow(10, vip, 53))
}

// Who gets new connections, and how many: weights, thresholds, the sorry
// server, and the ports that pods declare.
func TestKernelTrafficShares(t *testing.T) {
	r := newTrafficRig(t)
	url := "http://" + edgeVIP + "/"
	for _, n := range r.nodes {
		n.Serve(80, 8080)
	}
	sorry := r.addNode("sorry", 13)
	sorry.Serve(80)

	r.pods[0].weight = "30"
	r.cluster()
	r.edge("ports = [80]\nscheduler = \"wrr\"\nweight = 10\n")
	r.start()
	r.shows("-A -t 10.0.0.100:80 -s wrr", "-r 10.0.0.11:80 -g -w 30", "-r 10.0.0.12:80 -g -w 10")
	r.answers("weight 30 against 10", map[string]int{"node1": 15, "node2": 5}, r.client.Curl(20, url))
	r.pods[0].weight = ""
	r.cluster()
	r.shows("-A -t 10.0.0.100:80 -s wrr", "-r 10.0.0.11:80 -g -w 10", "-r 10.0.0.12:80 -g -w 10")
	r.answers("annotation gone", map[string]int{"node1": 10, "node2": 10}, r.client.Curl(20, url))

	r.edge("ports = [80]\nsorry_server = \"" + sorry.IPv4.String() + "\"\n")
	r.shows("-A -t 10.0.0.100:80 -s rr", "-r 10.0.0.11:80 -g -w 1", "-r 10.0.0.12:80 -g -w 1")
	for _, down := range []bool{true, false} {
		r.pods[0].notReady, r.pods[1].notReady = down, down
		r.cluster()
		want := map[string]int{"node1": 4, "node2": 4}
		if down {
			want = map[string]int{"sorry": 8}
		}
		lab.Within(t, 10*time.Second, func() string { return cmp.Diff(want, r.client.Curl(8, url)) })
	}

	t.Log("an upper threshold")
	r.edge("ports = [80]\nupper_threshold = 2\n")
	r.logged(2, "upper threshold 0 → 2") // ipvsadm -Sn does not tell thresholds
	lab.Within(t, 10*time.Second, func() string {
		if out := r.director.Run("ipvsadm", "-Lnc"); strings.Contains(out, "TCP") {
			return "connections of before are not forgotten:\n" + out
		}
		return ""
	})
	var held []net.Conn
	release := func() {
		for _, c := range held {
			c.Close()
		}
	}
	defer release()
	connect := func() (c net.Conn, err error) {
		r.client.Do(func() { c, err = net.DialTimeout("tcp", edgeVIP+":80", 3*time.Second) })
		return c, err
	}
	for range 4 {
		c, err := connect()
		if err != nil {
			t.Fatalf("connection %d of 4 below the thresholds: %v", len(held)+1, err)
		}
		held = append(held, c)
	}
	if c, err := connect(); err == nil {
		held = append(held, c)
		t.Error("a fifth connection is accepted, with two nodes of two each")
	}
	release()
	lab.Within(t, 10*time.Second, func() string {
		c, err := connect()
		if err == nil {
			err = c.Close()
		}
		if err != nil {
			return "no new connection although the others are gone: " + err.Error()
		}
		return ""
	})

	t.Log("ports from pods")
	r.pods[0].ports, r.pods[1].ports = []int{80, 8080}, []int{80, 8080}
	r.cluster()
	r.edge("ports_from = \"pods\"\n")
	eighty := []string{"-A -t 10.0.0.100:80 -s rr", "-r 10.0.0.11:80", "-r 10.0.0.12:80"}
	r.shows(append(eighty, "-A -t 10.0.0.100:8080 -s rr", "-r 10.0.0.11:8080", "-r 10.0.0.12:8080")...)
	r.answers("a port that pods declare", map[string]int{"node1": 5, "node2": 5}, r.client.Curl(10, "http://"+edgeVIP+":8080/"))
	r.pods[0].ports = []int{80}
	r.cluster()
	lab.Within(t, 10*time.Second, func() string {
		return cmp.Diff(map[string]int{"node2": 4}, r.client.Curl(4, "http://"+edgeVIP+":8080/"))
	})
}

// A node that joins gets few clients at first and its whole share at the end,
// and no request fails meanwhile.
func TestKernelTrafficSlowStart(t *testing.T) {
	r := newTrafficRig(t)
	for _, n := range r.nodes {
		n.Serve(80)
	}
	r.pods[1].notReady = true
	r.cluster()
	r.edge("ports = [80]\nscheduler = \"wrr\"\nweight = 100\nslow_start = \"30s\"\n")
	r.start()
	r.shows("-A -t 10.0.0.100:80 -s wrr", "-r 10.0.0.11:80 -g -w 100")
	load := r.client.StartLoad(netip.AddrPortFrom(netip.MustParseAddr(edgeVIP), 80), 2, 5*time.Millisecond)
	defer func() {
		if load != nil {
			load.Stop()
		}
	}()
	r.pods[1].notReady = false
	r.cluster()
	lab.Within(t, 10*time.Second, func() string {
		if load.Report().Answers["node2"] == 0 {
			return "the new node answers nothing"
		}
		return ""
	})
	// Windows of three steps of 3 s each: weights 10–30, 40–60, 70–90, then 100.
	var shares []float64
	last := load.Report()
	for range 4 {
		time.Sleep(9 * time.Second)
		now := load.Report()
		both := now.Answers["node1"] + now.Answers["node2"] - last.Answers["node1"] - last.Answers["node2"]
		if both < 50 {
			t.Fatalf("%d answers in nine seconds are too few to tell shares: %s", both, now)
		}
		shares = append(shares, float64(now.Answers["node2"]-last.Answers["node2"])/float64(both))
		last = now
	}
	report := load.Stop()
	load = nil
	t.Logf("shares %.2f; %s", shares, report)
	if report.Failed() > 0 {
		t.Error(report)
	}
	if !slices.IsSorted(shares) || shares[0] > 0.25 || shares[3] < 0.45 || shares[3] > 0.55 {
		t.Errorf("shares of the new node %.2f, want them to grow from about 0.2 to 0.5", shares)
	}
}

// IPv6 in direct routing, TCP and SCTP.
func TestKernelTrafficIPv6(t *testing.T) {
	of(t, "kernel")
	t.Parallel()
	r := newRig(t)
	client := r.lab.Host("client", 3)
	vip := netip.MustParseAddr("2001:db8::100")
	var servers []string
	for i, name := range []string{"node1", "node2"} {
		n := r.lab.Host(name, 11+i)
		n.Serve(80)
		n.Run(controller(), "realserver", "-vip", vip.String(), "-state", filepath.Join(r.dir, name))
		n.ServeSCTP(vip, 9000)
		servers = append(servers, fmt.Sprintf("{address = %q}", n.IPv6))
	}
	r.write("config.toml", r.configHead()+fmt.Sprintf("[[vip]]\nname = \"six\"\naddresses = [%q]\nannounce = \"arp\"\nports = [\"80/tcp\", \"9000/sctp\"]\nreal_servers = [%s]\n",
		vip, strings.Join(servers, ", ")))
	r.start()
	half := map[string]int{"node1": 5, "node2": 5}
	lab.Within(t, 15*time.Second, func() string {
		return cmp.Diff(half, client.Curl(10, "http://["+vip.String()+"]/"))
	})
	if diff := cmp.Diff(half, client.AskSCTP(10, vip, 9000)); diff != "" {
		t.Errorf("SCTP (-want +got):\n%s", diff)
	}
}
