package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// describeTable writes all that a table and its marks say, for tests of what a VIP
// can be told.
func describeTable(w wanted) string {
	var b strings.Builder
	for _, s := range w.Shards.table() {
		fmt.Fprintf(&b, "%s %s", s.ServiceKey, s.Scheduler)
		if s.Flags != 0 {
			fmt.Fprintf(&b, " flags=%#x", uint32(s.Flags))
		}
		if s.Persistence != 0 {
			fmt.Fprintf(&b, " persistent=%d/%d", s.Persistence, s.Netmask)
		}
		if s.Engine != "" {
			fmt.Fprintf(&b, " engine=%s", s.Engine)
		}
		b.WriteString(":")
		for _, r := range s.Servers {
			fmt.Fprintf(&b, " %s=%d", r.Name(), r.Weight)
			if r.Forward != DirectRoute {
				fmt.Fprintf(&b, "/%s %v", r.Forward, r.Tunnel)
			}
			if r.Upper != 0 {
				fmt.Fprintf(&b, "(%d-%d)", r.Lower, r.Upper)
			}
		}
		b.WriteString("\n")
	}
	for _, p := range slices.SortedFunc(maps.Keys(w.Marks), func(a, b MarkedPort) int {
		if c := a.Address.Compare(b.Address); c != 0 {
			return c
		}
		return a.Port.Compare(b.Port)
	}) {
		fmt.Fprintf(&b, "mark %s %s = %d\n", p.Address, p.Port, w.Marks[p])
	}
	return b.String()
}

// oneMarkRange leaves the allocation no choice for a single group.
var oneMarkRange = MarkRange{First: 7, Count: 1}

func TestVIPFeatures(t *testing.T) {
	two := testCluster(map[string]string{"9000": "ns/svc:1"}, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"))
	tests := []struct {
		name    string
		vip     func(*VIP)
		cluster *Cluster
		before  memory
		want    string
	}{
		{
			"persistence with a netmask, and an engine for UDP alone",
			func(v *VIP) {
				v.Ports = append(v.Ports, Port{5060, UDP})
				v.Persistence = Persistence{Timeout: time.Minute, Prefix4: 24, Prefix6: 128, Engine: "sip"}
			},
			testCluster(nil, readyPod("a", "10.1.0.1")), newMemory(),
			"10.0.0.1:80/tcp rr flags=0x1 persistent=60/24: 10.1.0.1=1\n10.0.0.1:5060/udp rr flags=0x1 persistent=60/24 engine=sip: 10.1.0.1=1\n",
		},
		{
			"one-packet scheduling for UDP alone",
			func(v *VIP) { v.Ports = append(v.Ports, Port{53, UDP}); v.Flags = FlagOnePacket },
			testCluster(nil, readyPod("a", "10.1.0.1")), newMemory(),
			"10.0.0.1:53/udp rr flags=0x4: 10.1.0.1=1\n10.0.0.1:80/tcp rr: 10.1.0.1=1\n",
		},
		{
			"a group is one mark service, other ports stay by themselves",
			func(v *VIP) {
				v.Ports = []Port{{80, TCP}, {443, TCP}}
				v.Groups = [][]Port{{{80, TCP}, {443, TCP}, {8443, TCP}}}
				v.Persistence = Persistence{Timeout: time.Minute, Prefix4: 32, Prefix6: 128}
			},
			two, newMemory(),
			"mark-7/ipv4 rr flags=0x1 persistent=60/0: 10.1.0.1=1 10.1.0.2=1\n" +
				"10.0.0.1:9000/tcp rr flags=0x1 persistent=60/0: 10.1.0.1=1 10.1.0.2=1\n" +
				"mark 10.0.0.1 80/tcp = 7\nmark 10.0.0.1 443/tcp = 7\n",
		},
		{
			"one mark for all, in both families",
			func(v *VIP) { v.OneMark = true; v.Addresses = append(v.Addresses, addr("2001:db8::1")) },
			testCluster(map[string]string{"9000": "ns/svc:1"}, readyPod("a", "10.1.0.1", "2001:db8:1::1")), newMemory(),
			"mark-7/ipv4 rr: 10.1.0.1=1\nmark-7/ipv6 rr: 2001:db8:1::1=1\n" +
				"mark 10.0.0.1 80/tcp = 7\nmark 10.0.0.1 9000/tcp = 7\nmark 2001:db8::1 80/tcp = 7\nmark 2001:db8::1 9000/tcp = 7\n",
		},
		{
			"tunnels and thresholds",
			func(v *VIP) {
				v.Forward, v.Tunnel = Tunnel, TunnelSettings{Type: TunnelGUE, Port: 6080, Flags: TunnelChecksum}
				v.Upper, v.Lower = 100, 50
			},
			testCluster(nil, readyPod("a", "10.1.0.1")), newMemory(),
			"10.0.0.1:80/tcp rr: 10.1.0.1=1/tunnel gue port 6080 checksum(50-100)\n",
		},
		{
			"the weight of a pod's annotation, the greatest of a node's",
			func(v *VIP) { v.Weight = 3 },
			testCluster(nil, with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Weight = "50" }), with(readyPod("a2", "10.1.0.1"), func(p *Pod) { p.Weight = "60" }),
				with(readyPod("b", "10.1.0.2"), func(p *Pod) { p.Weight = "heavy" }), readyPod("c", "10.1.0.3")), newMemory(),
			"10.0.0.1:80/tcp rr: 10.1.0.1=60 10.1.0.2=3 10.1.0.3=3\n",
		},
		{
			"the sorry server, while nothing else is in service",
			func(v *VIP) { v.Sorry = []netip.Addr{addr("10.1.0.99")} },
			testCluster(nil, with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Ready = false })),
			memory{Working: map[workKey][]RealServer{{"edge", false}: {{Address: addr("10.1.0.1"), Forward: DirectRoute, Weight: 1}}}},
			"10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.99=1\n",
		},
		{
			"and not otherwise",
			func(v *VIP) { v.Sorry = []netip.Addr{addr("10.1.0.99")} },
			two, newMemory(),
			"10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=1\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := &Config{Marks: oneMarkRange, VIPs: []VIP{testVIP(tt.vip)}}
			if diff := cmp.Diff(tt.want, describeTable(desiredAnew(cfg, tt.cluster, tt.before, testTime))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Ports that pods declare are served by the nodes that declare them.
func TestPortsFromPods(t *testing.T) {
	v := testVIP(func(v *VIP) {
		v.Ports, v.TCPServices = nil, ConfigMapName{}
		v.PortsFromPods, v.ExcludePorts = true, []Port{{9100, TCP}}
	})
	ports := func(p ...Port) func(*Pod) { return func(pod *Pod) { pod.Ports = p } }
	a := with(readyPod("a", "10.1.0.1"), ports(Port{80, TCP}, Port{9100, TCP}))
	b := with(readyPod("b", "10.1.0.2"), ports(Port{80, TCP}, Port{8443, TCP}, Port{53, UDP}))
	query := v.PodQuery()
	c := &Cluster{Pods: map[PodQuery][]*Pod{query: refs(a, b)}}
	want := "10.0.0.1:53/udp rr: 10.1.0.2=1\n10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n10.0.0.1:8443/tcp rr: 10.1.0.2=1\n"
	got := desiredAnew(&Config{VIPs: []VIP{v}}, c, newMemory(), testTime)
	if diff := cmp.Diff(want, got.Shards.table().text()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	// The only node with a port is not ready: better it than a node without.
	b.Ready = false
	c = &Cluster{Pods: map[PodQuery][]*Pod{query: refs(a, b)}}
	want = "10.0.0.1:53/udp rr: 10.1.0.2=1\n10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n10.0.0.1:8443/tcp rr: 10.1.0.2=1\n"
	got = desiredAnew(&Config{VIPs: []VIP{v}}, c, newMemory(), testTime)
	if diff := cmp.Diff(want, got.Shards.table().text()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	// Until the pods are known there may be more ports than are known.
	if w := desiredAnew(&Config{VIPs: []VIP{v}}, nil, newMemory(), testTime); len(w.Retained) != 1 {
		t.Errorf("retained = %v", w.Retained)
	}
}

// Of the pods' ports those count whose names port_names has. The log has the others once,
// and without port_names a warning names those of administrators.
func TestPortNames(t *testing.T) {
	named := func(ports ...string) func(*Pod) {
		return func(p *Pod) {
			for _, text := range ports {
				port, name, _ := strings.Cut(text, " ")
				number, err := ParsePort(port)
				if err != nil {
					t.Fatal(err)
				}
				p.Ports, p.PortNames = append(p.Ports, number), append(p.PortNames, name)
			}
		}
	}
	chart := named("80 web", "443 websecure", "443/udp quic", "7000", "8080 traefik", "9100 metrics")
	const metricsOpen = "vip edge: port 8080/tcp (traefik) of the pods is open on the VIP, and its name is that of a port for administrators: want port_names, or the port in exclude_ports; " +
		"port 9100/tcp (metrics) of the pods is open on the VIP, and its name is that of a port for administrators: want port_names, or the port in exclude_ports"
	for _, tt := range []struct {
		name      string
		names     []string
		excluded  []Port
		pods      []Pod
		ports     string
		warns     []string
		leavesOut string
	}{
		{"all", nil, nil, []Pod{with(readyPod("a", "10.1.0.1"), chart)}, "80/tcp 443/tcp 443/udp 7000/tcp 8080/tcp 9100/tcp", []string{metricsOpen}, ""},
		{"all, on purpose", []string{"*"}, nil, []Pod{with(readyPod("a", "10.1.0.1"), chart)}, "80/tcp 443/tcp 443/udp 7000/tcp 8080/tcp 9100/tcp", nil, ""},
		{"all, and some excluded", nil, []Port{{8080, TCP}, {9100, TCP}}, []Pod{with(readyPod("a", "10.1.0.1"), chart)}, "80/tcp 443/tcp 443/udp 7000/tcp", nil, ""},
		{"by name", []string{"web*", "quic"}, nil, []Pod{with(readyPod("a", "10.1.0.1"), chart)}, "80/tcp 443/tcp 443/udp", nil,
			"vip edge: port 7000/tcp (without a name) of the pods is left out: port_names does not have its name; port 8080/tcp (traefik) of the pods is left out: port_names does not have its name; port 9100/tcp (metrics) of the pods is left out: port_names does not have its name"},
		{"names that no port has", []string{"http", "https*"}, nil, []Pod{with(readyPod("a", "10.1.0.1"), named("80 web"))}, "",
			[]string{"vip edge: no port of the pods has a name of port_names: the VIP has none of their ports"},
			"vip edge: port 80/tcp (web) of the pods is left out: port_names does not have its name"},
		{"the only port with the name is excluded", []string{"web"}, []Port{{80, TCP}}, []Pod{with(readyPod("a", "10.1.0.1"), named("80 web", "81 other"))}, "", nil,
			"vip edge: port 81/tcp (other) of the pods is left out: port_names does not have its name"},
		{"of a snapshot without names", []string{"web"}, nil, []Pod{with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Ports = []Port{{80, TCP}, {9100, TCP}} })}, "80/tcp 9100/tcp", nil, ""},
		{"another pod has it under a name that counts", []string{"web"}, nil,
			[]Pod{with(readyPod("a", "10.1.0.1"), named("80 web")), with(readyPod("b", "10.1.0.2"), named("80 http"))}, "80/tcp", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := testVIP(func(v *VIP) {
				v.Ports, v.TCPServices, v.PortsFromPods, v.PortNames, v.ExcludePorts = nil, ConfigMapName{}, true, tt.names, tt.excluded
			})
			got := desiredAnew(&Config{VIPs: []VIP{v}}, &Cluster{Pods: map[PodQuery][]*Pod{v.PodQuery(): refs(tt.pods...)}}, newMemory(), testTime)
			var ports []string
			for _, s := range got.Shards.table() {
				ports = append(ports, Port{s.Port, s.Protocol}.String())
			}
			if diff := cmp.Diff(tt.ports, strings.Join(ports, " ")); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warns, warningTexts(got.Warnings)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.leavesOut, strings.Join(warningTexts(got.Notes), "\n")); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
	v := testVIP(func(v *VIP) {
		v.Ports, v.TCPServices, v.PortsFromPods, v.PortNames = nil, ConfigMapName{}, true, []string{"web"}
	})
	b := newBench(t, v)
	has := func(pods ...Pod) *Cluster { return &Cluster{Pods: map[PodQuery][]*Pod{v.PodQuery(): refs(pods...)}} }
	b.loop.cluster.Set(has(with(readyPod("a", "10.1.0.1"), chart)))
	const note = `level=INFO msg="vip edge: port 443/tcp (websecure) of the pods is left out`
	if log := b.pass(); strings.Count(log, note) != 1 {
		t.Errorf("want once %q:\n%s", note, log)
	}
	b.loop.cluster.Set(has(with(readyPod("a", "10.1.0.1"), chart), with(readyPod("b", "10.1.0.2"), chart)))
	if log := b.pass(); strings.Contains(log, "left out") {
		t.Errorf("said again:\n%s", log)
	}
}

// A real server that joins a serving set rises to its weight in ten steps; the
// first real servers of all, and those of before a restart, start at once.
func TestLoopSlowStart(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.Scheduler, v.Weight, v.SlowStart = "wrr", 100, 10*time.Second }))
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=100 10.1.0.2=100\n")
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")))
	if log := b.pass(); !strings.Contains(log, "slow start 10%") {
		t.Errorf("the log does not say why:\n%s", log)
	}
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=100 10.1.0.2=100 10.1.0.3=10\n")
	b.later(3500 * time.Millisecond)
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=100 10.1.0.2=100 10.1.0.3=40\n")
	b.restart()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")))
	b.pass()
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=100 10.1.0.2=100 10.1.0.3=40\n")
	b.later(6 * time.Second)
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=100 10.1.0.2=100 10.1.0.3=100\n")
	if n := b.loop.next(); n.Before(b.clock.Add(time.Second)) {
		t.Errorf("the loop still wakes for slow start at %s", n)
	}
}

// markingHost notes what it is told to mark, and what the kernel had then.
type markingHost struct {
	noHost
	kernel *fakeKernel
	calls  []string
	peers  []macAddress
	err    error
}

func (h *markingHost) Mark(marks map[MarkedPort]uint32, peers []macAddress) error {
	h.peers = peers
	h.calls = append(h.calls, fmt.Sprintf("%d marks; %s", len(marks), strings.ReplaceAll(h.kernel.table(func(ServiceKey) bool { return true }).text(), "\n", "; ")))
	return h.err
}

// When ports move into a group the mark service is there before the marks, and
// the old services drain after them; and the other way round.
func TestLoopMovesPortsIntoAGroupAndBack(t *testing.T) {
	single := testVIP(func(v *VIP) { v.TCPServices = ConfigMapName{} })
	grouped := testVIP(func(v *VIP) { v.TCPServices, v.OneMark = ConfigMapName{}, true })
	b := newBench(t, single)
	host := &markingHost{kernel: b.kernel}
	configure := func(v VIP) {
		b.loop.host = host
		b.loop.config.Set(&Config{VIPs: []VIP{v}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	}
	configure(single)
	c := testCluster(nil, readyPod("a", "10.1.0.1"))
	b.loop.cluster.Set(c)
	b.pass()
	configure(grouped)
	b.pass()
	b.want("mark-7/ipv4 rr: 10.1.0.1=1\n10.0.0.1:80/tcp rr: 10.1.0.1=0\n")
	b.later(2 * time.Second)
	b.want("mark-7/ipv4 rr: 10.1.0.1=1\n")
	b.restart() // the marks are remembered as ours
	configure(single)
	b.loop.cluster.Set(c)
	b.pass()
	b.want("mark-7/ipv4 rr: 10.1.0.1=0\n10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	b.later(2 * time.Second)
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	if len(b.loop.state.Marks) != 0 {
		t.Errorf("marks still owned: %v", b.loop.state.Marks)
	}
	host.calls = slices.Compact(host.calls)
	want := []string{
		"1 marks; mark-7/ipv4 rr: 10.1.0.1=1; 10.0.0.1:80/tcp rr: 10.1.0.1=1; ",
		"0 marks; mark-7/ipv4 rr: 10.1.0.1=1; 10.0.0.1:80/tcp rr: 10.1.0.1=1; ",
	}
	if diff := cmp.Diff(want, host.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// While the marks cannot be set, nothing is taken away.
func TestLoopMarksRefused(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.TCPServices = ConfigMapName{} }))
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.loop.host = &markingHost{kernel: b.kernel, err: fmt.Errorf("nftables table inet lvs-controller: no such file")}
	b.loop.config.Set(&Config{VIPs: []VIP{testVIP(func(v *VIP) { v.TCPServices, v.OneMark = ConfigMapName{}, true })}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	if log := b.pass(); !strings.Contains(log, "nftables table inet lvs-controller") {
		t.Errorf("log:\n%s", log)
	}
	b.want("mark-7/ipv4 rr: 10.1.0.1=1\n10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
}

// A reload that takes traffic away is carried out, and said.
func TestLoopSaysWhatAReloadTakesAway(t *testing.T) {
	pods := func() []Pod {
		var all []Pod
		for i := range 4 {
			all = append(all, readyPod(fmt.Sprint("p", i), fmt.Sprintf("10.1.0.%d", i+1)))
		}
		return all
	}
	static := func(n int) func(*VIP) {
		return func(v *VIP) {
			v.Pods.Selector = ""
			for i := range n {
				v.RealServers = append(v.RealServers, StaticServer{addr(fmt.Sprintf("10.1.0.%d", i+1)), 1})
			}
		}
	}
	for _, tt := range []struct {
		name  string
		after []VIP
		want  []string // in the lines
	}{
		{"nothing", []VIP{testVIP(func(v *VIP) { v.Weight = 3 })}, nil},
		{"another name", []VIP{testVIP(func(v *VIP) { v.Name = "web" })}, nil},
		{"a port more", []VIP{testVIP(func(v *VIP) { v.Ports = append(v.Ports, Port{443, TCP}) })}, nil},
		{"half of the real servers", []VIP{testVIP(static(2))}, nil},
		{"more than half", []VIP{testVIP(static(1))}, []string{`vip=edge gone="3 of 4 real servers: 10.1.0.2, 10.1.0.3, 10.1.0.4"`}},
		{"a port", []VIP{testVIP(func(v *VIP) { v.Ports = []Port{{443, TCP}} })}, []string{`vip=edge gone="ports 10.0.0.1:80/tcp"`}},
		{"the ConfigMap", []VIP{testVIP(func(v *VIP) { v.TCPServices = ConfigMapName{} })}, []string{`vip=edge gone="ports 10.0.0.1:9000/tcp"`}},
		{"an address", []VIP{testVIP(func(v *VIP) { v.Addresses = []netip.Addr{addr("10.0.0.2")} })},
			[]string{`vip=edge gone="the VIP; ports 10.0.0.1:80/tcp, 10.0.0.1:9000/tcp; 4 of 4 real servers: 10.1.0.1,`}},
		{"the VIP", []VIP{testVIP(func(v *VIP) { v.Name, v.Addresses = "other", []netip.Addr{addr("10.0.0.3")} })}, []string{`vip=edge gone="the VIP; ports`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, testVIP())
			b.loop.cluster.Set(testCluster(map[string]string{"9000": "d/a:1"}, pods()...))
			b.pass()
			b.configure(tt.after...)
			log := b.pass()
			if n := strings.Count(log, "takes traffic away"); n != len(tt.want) {
				t.Errorf("%d lines, want %d:\n%s", n, len(tt.want), log)
			}
			for _, want := range tt.want {
				if !strings.Contains(log, want) {
					t.Errorf("no %s in:\n%s", want, log)
				}
			}
			if log := b.pass(); strings.Contains(log, "takes traffic away") {
				t.Errorf("said again:\n%s", log)
			}
		})
	}
}

// What a new selector takes away is known when the cluster has answered.
func TestLoopSaysWhatASelectorTakesAway(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")))
	b.pass()
	other := testVIP(func(v *VIP) { v.Pods.Selector = "app=other" })
	b.configure(other)
	if log := b.pass(); strings.Contains(log, "takes traffic away") {
		t.Errorf("said before it is known:\n%s", log)
	}
	c := testCluster(nil)
	c.Pods[other.PodQuery()] = refs(readyPod("d", "10.1.0.3"))
	b.loop.cluster.Set(c)
	if log := b.pass(); !strings.Contains(log, `gone="2 of 3 real servers: 10.1.0.1, 10.1.0.2"`) {
		t.Errorf("not said:\n%s", log)
	}
}

// A change of peer_macs alone reaches the host at once.
func TestLoopMarksNoPeers(t *testing.T) {
	vip := testVIP(func(v *VIP) { v.TCPServices, v.OneMark = ConfigMapName{}, true })
	b := newBench(t, vip)
	host := &markingHost{kernel: b.kernel}
	b.loop.host = host
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	for _, peers := range [][]macAddress{nil, {{2, 0, 0, 0, 0, 1}}, {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}, nil} {
		b.loop.config.Set(&Config{VIPs: []VIP{vip}, PeerMACs: peers, AuditInterval: time.Hour, Marks: oneMarkRange})
		b.pass()
		if !slices.Equal(host.peers, peers) {
			t.Errorf("the host marks nothing from %v, want %v", host.peers, peers)
		}
	}
}

// exemptingHost notes what connection tracking is not to see.
type exemptingHost struct {
	notingHost
	asked []string
	lost  bool
	err   error
}

func (h *exemptingHost) LostUntracked() bool { return h.lost }

func (h *exemptingHost) Untrack(u untracked) error {
	text := fmt.Sprintf("replies=%t tunnels=%v", u.Replies, u.Tunnels)
	for _, p := range u.Ports {
		text += fmt.Sprintf(" %s:%s", p.Address, p.Port)
	}
	h.asked, h.lost = append(h.asked, text), false
	return h.err
}

// Exempt are the ports of the services that the kernel has, and of marks, until a service
// has drained.
func TestLoopNoTrack(t *testing.T) {
	plain := testVIP(func(v *VIP) {
		v.Name, v.Addresses, v.TCPServices = "plain", []netip.Addr{addr("10.0.0.9")}, ConfigMapName{}
	})
	edge := func(change func(*VIP)) VIP {
		return testVIP(func(v *VIP) {
			v.TCPServices, v.NoTrack = ConfigMapName{}, true
			v.Ports = []Port{{53, UDP}, {80, TCP}}
			change(v)
		})
	}
	b := newBench(t, plain)
	host := &exemptingHost{}
	b.loop.host = host
	configure := func(peers []macAddress, vips ...VIP) {
		b.loop.config.Set(&Config{VIPs: vips, AuditInterval: 10 * time.Second, Marks: oneMarkRange, PeerMACs: peers})
	}
	c := testCluster(nil, readyPod("a", "10.1.0.1"))
	b.loop.cluster.Set(c)
	took := func(step string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, host.asked); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step, diff)
		}
		host.asked = nil
	}
	b.pass()
	took("without notrack: the table of an earlier run goes", "replies=false tunnels=[]")
	b.later(11 * time.Second)
	took("an audit without notrack")

	configure(nil, plain, edge(func(*VIP) {}))
	b.pass()
	took("notrack", "replies=false tunnels=[] 10.0.0.1:53/udp 10.0.0.1:80/tcp")
	b.pass()
	took("nothing new")
	host.lost = true
	b.pass()
	took("lost", "replies=false tunnels=[] 10.0.0.1:53/udp 10.0.0.1:80/tcp")
	b.later(11 * time.Second)
	took("an audit", "replies=false tunnels=[] 10.0.0.1:53/udp 10.0.0.1:80/tcp")

	b.kernel.conns[rowOf(service("10.0.0.1:80/tcp").ServiceKey, rows("10.1.0.1", 1)[0].RealServer)] = Connections{Active: 1}
	configure(nil, plain, edge(func(v *VIP) { v.Ports = []Port{{443, TCP}} }))
	b.pass()
	took("port 80 drains, 53 is gone at once", "replies=false tunnels=[] 10.0.0.1:80/tcp 10.0.0.1:443/tcp")
	b.kernel.conns = map[rowID]Connections{}
	b.later(5 * time.Second)
	took("it has drained", "replies=false tunnels=[] 10.0.0.1:443/tcp")

	configure([]macAddress{{2}}, plain, edge(func(v *VIP) { v.OneMark = true }))
	b.pass()
	b.later(5 * time.Second)
	took("one mark, and peers", "replies=true tunnels=[] 10.0.0.1:53/udp 10.0.0.1:80/tcp 10.0.0.1:443/tcp", "replies=true tunnels=[] 10.0.0.1:53/udp 10.0.0.1:80/tcp")

	tunnel := func(v *VIP) { v.Forward, v.Tunnel = Tunnel, TunnelSettings{Type: TunnelGRE} }
	configure(nil, plain, edge(tunnel), edge(func(v *VIP) {
		tunnel(v)
		v.Name, v.Addresses = "second", []netip.Addr{addr("10.0.0.2")}
	}))
	b.pass()
	b.later(5 * time.Second)
	if got := host.asked[len(host.asked)-1]; got != "replies=false tunnels=[{10.0.0.1 gre} {10.0.0.2 gre}] 10.0.0.1:53/udp 10.0.0.1:80/tcp 10.0.0.2:53/udp 10.0.0.2:80/tcp" {
		t.Errorf("tunnels: %s", got)
	}
	host.asked = nil
	configure(nil, plain)
	b.pass()
	took("without notrack again", "replies=false tunnels=[]")
}

// A host that cannot exempt is a warning, once, and no more.
func TestLoopNoTrackRefused(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.NoTrack, v.TCPServices = true, ConfigMapName{} }))
	host := &exemptingHost{err: fmt.Errorf("modprobe nft_ct")}
	b.loop.host = host
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	log := b.pass()
	if n := strings.Count(log, `level=WARN msg="notrack could not be carried out: the VIPs are served, and connection tracking goes on" err="modprobe nft_ct"`); n != 1 {
		t.Errorf("%d warnings in:\n%s", n, log)
	}
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	state := b.loop.published.Load()
	if state.Err != nil || !slices.Contains(state.Warnings, "notrack: modprobe nft_ct") {
		t.Errorf("error %v, warnings %q", state.Err, state.Warnings)
	}
	calls := len(host.asked)
	if log := b.pass(); log != "" || len(host.asked) != calls {
		t.Errorf("asked %d times instead of %d without an audit, log:\n%s", len(host.asked), calls, log)
	}
	b.later(11 * time.Second)
	if len(host.asked) == calls {
		t.Error("not asked again by an audit")
	}
	b.loop.config.Set(&Config{VIPs: []VIP{testVIP()}, AuditInterval: 10 * time.Second})
	b.pass()
	calls = len(host.asked)
	b.later(11 * time.Second)
	if len(host.asked) == calls {
		t.Error("not asked again by an audit after notrack was removed")
	}
	host.err = nil
	b.later(11 * time.Second)
	if !strings.Contains(b.log.String(), `msg="notrack is carried out again"`) || len(b.loop.published.Load().Warnings) != 0 {
		t.Errorf("warnings %q, log:\n%s", b.loop.published.Load().Warnings, b.log)
	}
}
