package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What probes find beside what pods and the configuration say.
func TestDesiredWithProbes(t *testing.T) {
	notReady := func(p *Pod) { p.Ready = false }
	three := []Pod{readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")}
	tcp := map[string]string{"9000": "ns/svc:1"}
	down := func(server string, port uint16) HealthKey { return HealthKey{"edge", addr(server), port} }
	has := func(port uint16) func(*Pod) { return func(p *Pod) { p.Ports = []Port{{port, TCP}} } }
	tests := []struct {
		name string
		vip  func(*VIP)
		pods []Pod
		down map[HealthKey]string
		want string
		why  string // of the first row of weight 0
	}{
		{
			name: "nothing found",
			pods: three,
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=1\n10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=1\n",
		},
		{
			name: "a real server is down",
			pods: three,
			down: map[HealthKey]string{down("10.1.0.2", 0): "GET http://10.1.0.2:10254/healthz: 500"},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0 10.1.0.3=1\n10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=0 10.1.0.3=1\n",
			why:  "pod b ready, but GET http://10.1.0.2:10254/healthz: 500",
		},
		{
			name: "a port is down on one of them",
			pods: three,
			down: map[HealthKey]string{down("10.1.0.3", 9000): "port 9000/tcp: connection refused"},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=1\n10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=0\n",
			why:  "pod c ready, but port 9000/tcp: connection refused",
		},
		{
			name: "a pod that is not ready has its own reason",
			pods: []Pod{three[0], with(three[1], notReady)},
			down: map[HealthKey]string{down("10.1.0.2", 0): "500"},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=0\n",
			why:  "pod b not ready",
		},
		{
			name: "who is left when the others are not ready stays, whatever was found before",
			pods: []Pod{three[0], with(three[1], notReady)},
			down: map[HealthKey]string{down("10.1.0.1", 0): "500"},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=0\n",
			why:  "pod b not ready",
		},
		{
			name: "static ones are asked too",
			vip:  func(v *VIP) { v.RealServers = []StaticServer{{Address: addr("10.1.0.9"), Weight: 5}} },
			pods: three[:1],
			down: map[HealthKey]string{down("10.1.0.9", 0): "no answer in 1s"},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.9=0\n10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.9=0\n",
			why:  "static, but no answer in 1s",
		},
		{
			name: "UDP follows the real server, not a port's TCP namesake",
			vip:  func(v *VIP) { v.Ports = []Port{{53, TCP}, {53, UDP}}; v.TCPServices = ConfigMapName{} },
			pods: three[:2],
			down: map[HealthKey]string{down("10.1.0.1", 53): "refused"},
			want: "10.0.0.1:53/tcp rr: 10.1.0.1=0 10.1.0.2=1\n10.0.0.1:53/udp rr: 10.1.0.1=1 10.1.0.2=1\n",
			why:  "pod a ready, but refused",
		},
		{
			name: "a port of a group takes the node out of the group",
			vip:  func(v *VIP) { v.Groups = [][]Port{{{80, TCP}, {9000, TCP}}} },
			pods: three[:2],
			down: map[HealthKey]string{down("10.1.0.1", 9000): "refused"},
			want: "mark-7/ipv4 rr: 10.1.0.1=0 10.1.0.2=1\n",
			why:  "pod a ready, but refused",
		},
		{
			name: "a port that is down somewhere leaves the one mark",
			vip:  func(v *VIP) { v.OneMark = true },
			pods: three[:2],
			down: map[HealthKey]string{down("10.1.0.1", 9000): "refused"},
			want: "mark-7/ipv4 rr: 10.1.0.1=1 10.1.0.2=1\n10.0.0.1:9000/tcp rr: 10.1.0.1=0 10.1.0.2=1\n",
			why:  "pod a ready, but refused",
		},
		{
			name: "a node that is out altogether is no reason to leave the one mark",
			vip:  func(v *VIP) { v.OneMark = true },
			pods: three[:2],
			down: map[HealthKey]string{down("10.1.0.1", 0): "silent", down("10.1.0.1", 80): "silent", down("10.1.0.1", 9000): "silent"},
			want: "mark-7/ipv4 rr: 10.1.0.1=0 10.1.0.2=1\n",
			why:  "pod a ready, but silent",
		},
		{
			name: "the only node with a port stays, though static and down",
			vip: func(v *VIP) {
				v.Ports, v.TCPServices, v.PortsFromPods = nil, ConfigMapName{}, true
				v.RealServers = []StaticServer{{Address: addr("10.1.0.1"), Weight: 5}}
			},
			pods: []Pod{with(three[0], has(8443)), with(three[1], has(80))},
			down: map[HealthKey]string{down("10.1.0.1", 0): "500"},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=1\n10.0.0.1:8443/tcp rr: 10.1.0.1=5\n",
			why:  "static, but 500",
		},
		{
			name: "of those with a port the one that is ready stays, not the one that is not",
			vip:  func(v *VIP) { v.Ports, v.TCPServices, v.PortsFromPods = nil, ConfigMapName{}, true },
			pods: []Pod{with(three[0], has(8443)), with(with(three[1], notReady), has(8443)), with(three[2], has(80))},
			down: map[HealthKey]string{down("10.1.0.1", 0): "500"},
			want: "10.0.0.1:80/tcp rr: 10.1.0.3=1\n10.0.0.1:8443/tcp rr: 10.1.0.1=1 10.1.0.2=0\n",
			why:  "pod b not ready",
		},
		{
			name: "without [vip.health] nothing of it counts",
			vip:  func(v *VIP) { v.Probes = nil },
			pods: three[:2],
			down: map[HealthKey]string{down("10.1.0.1", 0): "500"},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=1\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := testVIP(func(v *VIP) { v.Probes = &Probes{Ports: true} })
			if tt.vip != nil {
				tt.vip(&v)
			}
			c := testCluster(tcp, tt.pods...)
			c.Pods[v.PodQuery()] = refs(tt.pods...)
			w := desired(nil, &Config{Marks: oneMarkRange, VIPs: []VIP{v}}, c, &Health{Down: tt.down}, newMemory(), testTime)
			table := w.Shards.table()
			if diff := cmp.Diff(tt.want, table.text()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			why := ""
			for _, s := range table {
				for _, r := range s.Servers {
					if r.Weight == 0 && why == "" {
						why = r.Why
					}
				}
			}
			if why != tt.why {
				t.Errorf("why %q, want %q", why, tt.why)
			}
		})
	}
}

// The prober asks those who would serve but for their probes, at the ports that
// they have.
func TestProbePlanOfATable(t *testing.T) {
	v := testVIP(func(v *VIP) {
		v.Probes = &Probes{Ports: true}
		v.RealServers = []StaticServer{{Address: addr("10.1.0.8"), Weight: 1}, {Address: addr("10.1.0.9")}}
		v.PortsFromPods = true
	})
	silent := testVIP(func(v *VIP) { v.Name, v.Addresses = "silent", []netip.Addr{addr("10.0.0.2")} })
	c := testCluster(map[string]string{"9000": "ns/svc:1"},
		with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Ports = []Port{{8443, TCP}, {53, UDP}} }), readyPod("b", "10.1.0.2"),
		with(readyPod("c", "10.1.0.3"), func(p *Pod) { p.Ready = false }))
	c.Pods[v.PodQuery()] = c.Pods[silent.PodQuery()]
	health := &Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.2"), 0}: "500"}}
	w := desired(nil, &Config{VIPs: []VIP{v, silent}}, c, health, newMemory(), testTime)
	want := &ProbePlan{VIPs: []ProbedVIP{{
		Name: "edge", Probes: v.Probes, Addresses: v.Addresses, DataPort: 80,
		Servers: []ProbedServer{
			{addr("10.1.0.1"), []uint16{80, 8443, 9000}},
			{addr("10.1.0.2"), []uint16{80, 9000}},
			{addr("10.1.0.8"), []uint16{80, 8443, 9000}},
		},
	}}}
	if diff := cmp.Diff(want, w.probePlan(), compareAddrs); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}

	// Without a port of the configuration the data path knocks where all listen.
	v.Ports, v.TCPServices = nil, ConfigMapName{}
	w = desired(nil, &Config{VIPs: []VIP{v}}, c, nil, newMemory(), testTime)
	if got := w.probePlan().VIPs[0].DataPort; got != 0 {
		t.Errorf("the data path knocks at %d, which only one node has", got)
	}
	v.TCPServices = ConfigMapName{"ingress-nginx", "tcp-services"}
	w = desired(nil, &Config{VIPs: []VIP{v}}, c, nil, newMemory(), testTime)
	if got := w.probePlan().VIPs[0].DataPort; got != 9000 {
		t.Errorf("the data path knocks at %d, want 9000, which all nodes have", got)
	}
}

// The loop pushes a plan when it changes, quiesces who is down with the reason
// in the log, and takes them back.
func TestLoopFollowsProbes(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.Probes = &Probes{Ports: true} }))
	b.loop.health, b.loop.probes = newLatest[Health](b.loop.wake), newLatest[ProbePlan]()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	plan := b.loop.probes.Get()
	if plan == nil || len(plan.VIPs) != 1 || len(plan.VIPs[0].Servers) != 2 {
		t.Fatalf("plan %+v", plan)
	}
	b.loop.health.Set(&Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.2"), 0}: "no answer in 1s"}})
	if log := b.pass(); !strings.Contains(log, `why="pod b ready, but no answer in 1s, draining"`) {
		t.Error(log)
	}
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n")
	if diff := cmp.Diff([]string{"edge 10.1.0.2: no answer in 1s"}, b.loop.published.Load().Health.lines()); diff != "" {
		t.Errorf("who is down (-want +got):\n%s", diff)
	}
	families, _ := scrape(t, func(w *bytes.Buffer) { newBenchServer(b).writeMetrics(w) })
	wantValues(t, map[string]float64{
		`real_server_quiesced{vip="edge",server="10.1.0.2",node="",reason="probe"}`: 1,
	}, values(families))
	if b.loop.probes.Get() != plan {
		t.Error("the plan is pushed again although it is the same")
	}
	b.loop.health.Set(&Health{})
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n")
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	if plan := b.loop.probes.Get(); len(plan.VIPs[0].Servers) != 1 {
		t.Errorf("plan %+v", plan)
	}
	// All at once: what the prober says then is for status and metrics.
	b.loop.health.Set(&Health{Open: []FailOpen{{VIP: "edge", Why: "10.1.0.1: refused"}}})
	b.pass()
	if v := b.loop.published.Load(); len(v.Health.Open) != 1 || v.Health.Open[0].String() != "edge IPv4: all real servers fail and stay in service: 10.1.0.1: refused" {
		t.Errorf("state: %+v", v.Health)
	}
}

// What answers no ARP gets no new connections, with the reason, also where the VIP has no
// probes. A restart remembers it, and the key turns it off.
func TestLoopFollowsNeighbours(t *testing.T) {
	resolves := func(v *VIP) { v.NeighbourCheck = true }
	b := newBench(t, testVIP(resolves))
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")))
	b.pass()
	if sets := *b.loop.resolving.Get(); len(sets) != 1 || sets[0].VIP != "edge" || len(sets[0].Rows) != 3 {
		t.Fatalf("sets to look at: %+v", sets)
	}
	dead := &Health{Unresolved: map[string][]netip.Addr{"edge": {addr("10.1.0.2")}}}
	b.loop.unresolved.Set(dead)
	if log := b.pass(); !strings.Contains(log, `why="pod b ready, but no answer to ARP, draining"`) {
		t.Error(log)
	}
	const without = "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0 10.1.0.3=1\n"
	b.want(without)
	if diff := cmp.Diff([]string{"edge 10.1.0.2: no answer to ARP"}, b.loop.published.Load().Health.lines()); diff != "" {
		t.Errorf("who is down (-want +got):\n%s", diff)
	}
	if sets := *b.loop.resolving.Get(); sets[0].Rows[1].Weight == 0 {
		t.Error("what is out of service is not looked at any more")
	}

	cluster := b.loop.cluster.Get()
	b.restart()
	b.loop.cluster.Set(cluster)
	b.loop.unresolved.Set(&Health{Unresolved: b.loop.state.Unresolved})
	b.pass()
	b.want(without)

	b.configure(testVIP())
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=1\n")
	if sets := *b.loop.resolving.Get(); len(sets) != 0 {
		t.Errorf("with neighbour_check = false it looks at %+v", sets)
	}
	b.configure(testVIP(resolves, func(v *VIP) { v.Forward = Tunnel }))
	b.pass()
	if sets := *b.loop.resolving.Get(); len(sets) != 0 {
		t.Errorf("with a tunnel it looks at %+v", sets)
	}
}

// A real server behind a router serves on, with a warning, for as long as it is there.
func TestDesiredWarnsOfRouters(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("d", "10.8.0.9")))
	if log := b.pass(); strings.Contains(log, "router") {
		t.Errorf("without a look at the routes:\n%s", log)
	}
	routes := newRouteWatch(b.loop.log, b.loop.routing, b.loop.routes)
	asked := 0
	look := func() {
		routes.take(*b.loop.routing.Get(), func(a netip.Addr) bool { asked++; return a == addr("10.8.0.9") })
	}
	look()
	if log := b.pass(); strings.Count(log, "real server 10.8.0.9 (pod d ready) is behind a router") != 1 || strings.Contains(log, "10.1.0.1 (") {
		t.Errorf("no warning:\n%s", log)
	}
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.8.0.9=1\n")
	look()
	if log := b.pass(); log != "" || asked != 2 {
		t.Errorf("%d addresses were looked up, and logged again:\n%s", asked, log)
	}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("d", "10.1.0.2")))
	b.pass()
	routing := b.loop.routing.Get()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("d", "10.8.0.9")))
	log := b.pass()
	routes.take(*routing, func(netip.Addr) bool { return false }) // a look at what was before
	log += b.pass()
	look()
	if log += b.pass(); strings.Count(log, "is behind a router") != 1 {
		t.Errorf("an address that comes back has not one warning:\n%s", log)
	}
	routes.routed = nil // the routes have changed
	routes.take(*b.loop.routing.Get(), func(netip.Addr) bool { return false })
	b.pass()
	if w := b.loop.published.Load().Warnings; len(w) != 0 {
		t.Errorf("warnings %v", w)
	}
}
