package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// addr is netip.MustParseAddr with a name that fits into a table.
func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(texts ...string) (all []netip.Addr) {
	for _, s := range texts {
		all = append(all, addr(s))
	}
	return all
}

// testVIP is a VIP over ingress pods; edit changes it.
func testVIP(edit ...func(*VIP)) VIP {
	v := VIP{
		Name:        "edge",
		Addresses:   []netip.Addr{addr("10.0.0.1")},
		Scheduler:   "rr",
		Ports:       []Port{{80, TCP}},
		Weight:      1,
		Forward:     DirectRoute,
		Pods:        PodQuery{Namespace: "ingress-nginx", Selector: "app=nginx"},
		TCPServices: ConfigMapName{"ingress-nginx", "tcp-services"},
		Drain:       Drain{Timeout: defaultDrainTimeout},

		ReservedPorts: defaultVIP().ReservedPorts,
	}
	for _, e := range edit {
		e(&v)
	}
	return v
}

// byPort is a ready pod with host ports, not on hostNetwork.
func byPort(name, node string, ports ...uint16) Pod {
	p := readyPod(name, node)
	p.HostNetwork, p.ByPort = false, len(ports) > 0
	for _, n := range ports {
		p.Ports = append(p.Ports, Port{n, TCP})
	}
	return p
}

// asksPorts is c as the answer to a query for host ports.
func asksPorts(c *Cluster) *Cluster {
	v := testVIP(func(v *VIP) { v.HostPorts = true })
	c.Pods = map[PodQuery][]*Pod{v.PodQuery(): c.Pods[v.Pods]}
	return c
}

func bound(p *Pod) { p.Bound = []Port{{9000, TCP}} }

func readyPod(name string, addresses ...string) Pod {
	p := Pod{UID: name, Namespace: "ingress-nginx", Name: name, HostNetwork: true, Ready: true}
	for _, a := range addresses {
		p.Addresses = append(p.Addresses, addr(a))
	}
	return p
}

func with(p Pod, edit func(*Pod)) Pod { edit(&p); return p }

// refs are pods as a Cluster has them.
func refs(pods ...Pod) []*Pod {
	all := make([]*Pod, len(pods))
	for i := range pods {
		all[i] = &pods[i]
	}
	return all
}

// testCluster answers testVIP's queries.
func testCluster(tcp map[string]string, pods ...Pod) *Cluster {
	return &Cluster{
		Pods:       map[PodQuery][]*Pod{{Namespace: "ingress-nginx", Selector: "app=nginx"}: refs(pods...)},
		ConfigMaps: map[ConfigMapName]ConfigMap{{"ingress-nginx", "tcp-services"}: {Exists: true, Data: tcp}},
		Nodes:      noNodes,
		Services:   noServices,
		Gateways:   noGateways, ListenerSets: noListenerSets,
	}
}

// text writes a table in short, one service a line.
func (t Table) text() string {
	var b strings.Builder
	for _, s := range t {
		fmt.Fprintf(&b, "%s %s:", s.ServiceKey, s.Scheduler)
		for _, r := range s.Servers {
			fmt.Fprintf(&b, " %s=%d", r.Name(), r.Weight)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestDesired(t *testing.T) {
	notReady := func(p *Pod) { p.Ready = false }
	terminating := func(p *Pod) { p.Terminating = true }
	pods := func(p *Pod) { p.HostNetwork = false }
	tests := []struct {
		name     string
		vip      VIP
		cluster  *Cluster
		before   map[workKey][]RealServer
		want     string   // the table
		warnings []string // pieces of them, in order
		kept     int
	}{
		{
			name:    "ready pods on two nodes",
			vip:     testVIP(),
			cluster: testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")),
			want:    "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n",
		},
		{
			name:    "two pods on one node are one real server",
			vip:     testVIP(),
			cluster: testCluster(nil, readyPod("a", "10.1.0.1"), with(readyPod("b", "10.1.0.1"), terminating), readyPod("c", "10.1.0.2")),
			want:    "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n",
		},
		{
			name: "not ready and terminating pods are quiesced",
			vip:  testVIP(),
			cluster: testCluster(nil, readyPod("a", "10.1.0.1"), with(readyPod("b", "10.1.0.2"), notReady),
				with(readyPod("c", "10.1.0.3"), terminating)),
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0 10.1.0.3=0\n",
		},
		{
			name:     "a pod that is not on hostNetwork",
			vip:      testVIP(),
			cluster:  testCluster(nil, readyPod("a", "10.1.0.1"), with(readyPod("b", "10.2.0.9"), pods)),
			want:     "10.0.0.1:80/tcp rr: 10.1.0.1=1\n",
			warnings: []string{"pod ingress-nginx/b is left out: it is not on hostNetwork"},
		},
		{
			name: "ConfigMap ports, good and bad",
			vip:  testVIP(),
			cluster: testCluster(map[string]string{
				"9000": "ns/svc:port", "9001": "ns/svc:80:PROXY:PROXY", "abc": "ns/svc:1", "0": "ns/svc:1", "70000": "ns/svc:1",
				"99999": "ns/svc:1", "10254": "ns/svc:1", "9002": "ns/svc", "9003": "svc:80", "443": "ns/svc:1", "+81": "ns/svc:1",
				"80": "ns/svc:80",
			}, readyPod("a", "10.1.0.1")),
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1\n10.0.0.1:9000/tcp rr: 10.1.0.1=1\n10.0.0.1:9001/tcp rr: 10.1.0.1=1\n",
			warnings: []string{
				`vip edge: ConfigMap ingress-nginx/tcp-services: entry "+81" is skipped: port "+81" is not a number from 1 to 65535; ` +
					`entry "0" is skipped: port 0 is outside 1 to 65535; entry "10254" is skipped: port 10254 is the ingress controller's own (health check); ` +
					`entry "443" is skipped: port 443 is the ingress controller's own (HTTP and HTTPS belong to the configuration's ports); ` +
					`entry "70000" is skipped: port 70000 is outside 1 to 65535; ` +
					`entry "80" is skipped: port 80 is the ingress controller's own (HTTP and HTTPS belong to the configuration's ports); ` +
					`entry "9002" is skipped: value "ns/svc" is not NAMESPACE/SERVICE:PORT; entry "9003" is skipped: value "svc:80" is not NAMESPACE/SERVICE:PORT; ` +
					`entry "99999" is skipped: port 99999 is outside 1 to 65535; entry "abc" is skipped: port "abc" is not a number from 1 to 65535`,
				`vip edge: ConfigMap ingress-nginx/tcp-services: entry "9001" expects the PROXY protocol`,
			},
		},
		{
			name: "ports that the ingress controller has for itself, by UDP too",
			vip: testVIP(func(v *VIP) {
				v.TCPServices, v.UDPServices = ConfigMapName{}, v.TCPServices
			}),
			cluster: testCluster(map[string]string{"53": "d/dns:53", "80": "d/x:80", "443": "d/quic:443", "8181": "d/app:8181"}, readyPod("a", "10.1.0.1")),
			want:    "10.0.0.1:53/udp rr: 10.1.0.1=1\n10.0.0.1:80/tcp rr: 10.1.0.1=1\n",
			warnings: []string{`vip edge: ConfigMap ingress-nginx/tcp-services: entry "443" is skipped: port 443 is the ingress controller's own (HTTP and HTTPS belong to the configuration's ports); ` +
				`entry "80" is skipped: port 80 is the ingress controller's own (HTTP and HTTPS belong to the configuration's ports); ` +
				`entry "8181" is skipped: port 8181 is the ingress controller's own (default server)`},
		},
		{
			name: "another ingress controller's own ports",
			vip: testVIP(func(v *VIP) {
				v.Ports, v.ReservedPorts = nil, []uint16{1024}
			}),
			cluster:  testCluster(map[string]string{"443": "d/tls:443", "1024": "d/app:1024", "8181": "d/app:8181"}, readyPod("a", "10.1.0.1")),
			want:     "10.0.0.1:443/tcp rr: 10.1.0.1=1\n10.0.0.1:8181/tcp rr: 10.1.0.1=1\n",
			warnings: []string{`entry "1024" is skipped: port 1024 is the ingress controller's own (reserved_ports has it)`},
		},
		{
			name:    "host ports: a node serves those that its pods have",
			vip:     testVIP(func(v *VIP) { v.HostPorts = true }),
			cluster: asksPorts(testCluster(map[string]string{"9000": "d/a:1", "9001": "d/b:1"}, readyPod("whole", "10.1.0.1"), byPort("a", "10.1.0.2", 80), byPort("b", "10.1.0.2", 9000), byPort("c", "10.1.0.3", 9000))),
			want:    "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=1\n10.0.0.1:9001/tcp rr: 10.1.0.1=1\n",
		},
		{
			name:    "host ports: one that no pod has, and one that has a hostIP",
			vip:     testVIP(func(v *VIP) { v.HostPorts = true }),
			cluster: asksPorts(testCluster(map[string]string{"9000": "d/a:1"}, byPort("a", "10.1.0.2", 80), with(byPort("b", "10.1.0.3"), bound), with(byPort("c", "10.1.0.4", 80), bound))),
			want:    "10.0.0.1:80/tcp rr: 10.1.0.2=1 10.1.0.4=1\n10.0.0.1:9000/tcp rr:\n",
			warnings: []string{
				"no pod is on hostNetwork or has host port 9000/tcp: it has no real server",
				"pod ingress-nginx/b is left out: it is not on hostNetwork, and it has no hostPort that the VIP can lead to",
				"pod ingress-nginx/b: its host port 9000/tcp has a hostIP: the VIP does not lead there; pod ingress-nginx/c: its",
			},
		},
		{
			name:    "host ports: the last working set has all ports",
			vip:     testVIP(func(v *VIP) { v.HostPorts = true }),
			cluster: asksPorts(testCluster(map[string]string{"9000": "d/a:1"}, with(byPort("a", "10.1.0.2", 80), notReady))),
			before:  map[workKey][]RealServer{{"edge", false}: {{Address: addr("10.1.0.2"), Forward: DirectRoute, Weight: 1}}},
			want:    "10.0.0.1:80/tcp rr: 10.1.0.2=1\n10.0.0.1:9000/tcp rr: 10.1.0.2=1\n",
			kept:    1,
		},
		{
			name: "a ConfigMap that does not exist",
			vip:  testVIP(),
			cluster: &Cluster{
				Pods:       testCluster(nil, readyPod("a", "10.1.0.1")).Pods,
				ConfigMaps: map[ConfigMapName]ConfigMap{{"ingress-nginx", "tcp-services"}: {}},
			},
			want:     "10.0.0.1:80/tcp rr: 10.1.0.1=1\n",
			warnings: []string{"ConfigMap ingress-nginx/tcp-services does not exist: it opens no ports; want no tcp_services if the cluster has none"},
		},
		{
			name: "both families, each with its own real servers",
			vip: testVIP(func(v *VIP) {
				v.Addresses = append(v.Addresses, addr("2001:db8::1"))
			}),
			cluster:  testCluster(nil, readyPod("a", "10.1.0.1", "2001:db8:1::1"), readyPod("b", "10.1.0.2")),
			want:     "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n[2001:db8::1]:80/tcp rr: 2001:db8:1::1=1\n",
			warnings: []string{"pod ingress-nginx/b has no IPv6 address"},
		},
		{
			name: "static real servers beside pods, and above them",
			vip: testVIP(func(v *VIP) {
				v.RealServers = []StaticServer{{addr("10.1.0.9"), 5}, {addr("10.1.0.1"), 0}}
			}),
			cluster: testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")),
			want:    "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=1 10.1.0.9=5\n",
		},
		{
			name:    "nothing in service: the last working set stays",
			vip:     testVIP(),
			cluster: testCluster(nil, with(readyPod("a", "10.1.0.1"), notReady), with(readyPod("b", "10.1.0.2"), notReady)),
			before:  map[workKey][]RealServer{{"edge", false}: {{Address: addr("10.1.0.2"), Forward: DirectRoute, Weight: 3}}},
			want:    "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=3\n",
			kept:    1,
		},
		{
			name: "nothing in service: what asks for weight 0 is not put back",
			vip:  testVIP(),
			cluster: testCluster(nil,
				with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Weight = "0" }),
				with(readyPod("b", "10.1.0.2"), notReady),
				with(readyPod("c", "10.1.0.3"), func(p *Pod) { p.Weight, p.Ready = "0", false })),
			before: map[workKey][]RealServer{{"edge", false}: {
				{Address: addr("10.1.0.1"), Forward: DirectRoute, Weight: 3},
				{Address: addr("10.1.0.2"), Forward: DirectRoute, Weight: 3},
				{Address: addr("10.1.0.3"), Forward: DirectRoute, Weight: 3},
			}},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=3 10.1.0.3=0\n",
			kept: 1,
		},
		{
			name:    "all ask for weight 0: the last working set stays",
			vip:     testVIP(),
			cluster: testCluster(nil, with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Weight = "0" })),
			before:  map[workKey][]RealServer{{"edge", false}: {{Address: addr("10.1.0.1"), Forward: DirectRoute, Weight: 3}}},
			want:    "10.0.0.1:80/tcp rr: 10.1.0.1=3\n",
			kept:    1,
		},
		{
			name:     "no pod at all: the last working set stays",
			vip:      testVIP(),
			cluster:  testCluster(nil),
			before:   map[workKey][]RealServer{{"edge", false}: {{Address: addr("10.1.0.2"), Forward: DirectRoute, Weight: 1}}},
			want:     "10.0.0.1:80/tcp rr: 10.1.0.2=1\n",
			kept:     1,
			warnings: []string{`vip edge: selector "app=nginx" matches no pod`},
		},
		{
			name:     "nothing in service and nothing remembered",
			vip:      testVIP(),
			cluster:  testCluster(nil),
			want:     "10.0.0.1:80/tcp rr:\n",
			warnings: []string{"no IPv4 real server is in service", `selector "app=nginx" matches no pod`},
		},
		{
			name:     "a pod that is not ready is matched",
			vip:      testVIP(),
			cluster:  testCluster(nil, with(readyPod("a", "10.1.0.1"), notReady)),
			want:     "10.0.0.1:80/tcp rr: 10.1.0.1=0\n",
			warnings: []string{"no IPv4 real server is in service"},
		},
		{
			name: "a selector that matches nothing, and what there is instead",
			vip:  testVIP(),
			cluster: func() *Cluster {
				c := testCluster(nil)
				v := testVIP()
				c.setInstead(v.PodQuery(), "; the pods of namespace ingress-nginx have instead (2 looked at): app = traefik (2)")
				return c
			}(),
			want:     "10.0.0.1:80/tcp rr:\n",
			warnings: []string{"no IPv4 real server is in service", `selector "app=nginx" matches no pod; the pods of namespace ingress-nginx have instead (2 looked at): app = traefik (2)`},
		},
		{
			name:    "cluster not known: nothing is concluded",
			vip:     testVIP(),
			cluster: nil,
			want:    "",
		},
		{
			name:    "cluster not known, real servers remembered",
			vip:     testVIP(),
			cluster: nil,
			before:  map[workKey][]RealServer{{"edge", false}: {{Address: addr("10.1.0.2"), Forward: DirectRoute, Weight: 1}}},
			want:    "10.0.0.1:80/tcp rr: 10.1.0.2=1\n",
		},
		{
			name:     "a scheduler that refuses the clients of who drains",
			vip:      testVIP(func(v *VIP) { v.Scheduler, v.Flags = "mh", FlagSched2 }),
			cluster:  testCluster(nil, readyPod("a", "10.1.0.1")),
			want:     "10.0.0.1:80/tcp mh: 10.1.0.1=1\n",
			warnings: []string{"without mh-fallback among its flags, scheduler mh refuses the new clients of a real server that drains"},
		},
		{
			name:     "a node that reports the VIP as its own address",
			vip:      testVIP(),
			cluster:  testCluster(nil, readyPod("a", "10.0.0.1"), readyPod("b", "10.1.0.2")),
			want:     "10.0.0.1:80/tcp rr: 10.1.0.2=1\n",
			warnings: []string{"its node reports the VIP 10.0.0.1 as its own address"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := desiredAnew(&Config{VIPs: []VIP{tt.vip}}, tt.cluster, memory{Working: tt.before}, testTime)
			if diff := cmp.Diff(tt.want, got.Shards.table().text()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			if len(got.Warnings) != len(tt.warnings) {
				t.Fatalf("warnings:\n%s\nwant %d", strings.Join(warningTexts(got.Warnings), "\n"), len(tt.warnings))
			}
			for i, w := range tt.warnings {
				if !strings.Contains(got.Warnings[i].Text, w) {
					t.Errorf("warning %q does not say %q", got.Warnings[i].Text, w)
				}
			}
			if len(got.Kept) != tt.kept {
				t.Errorf("kept = %v, want %d", got.Kept, tt.kept)
			}
		})
	}
}

// A row says why it has the weight it has.
func TestDesiredReasons(t *testing.T) {
	c := testCluster(nil,
		readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.1"),
		with(readyPod("c", "10.1.0.2"), func(p *Pod) { p.Ready = false }),
		with(readyPod("d", "10.1.0.3"), func(p *Pod) { p.Terminating = true }))
	v := testVIP(func(v *VIP) { v.RealServers = []StaticServer{{addr("10.1.0.9"), 1}} })
	var got []string
	for _, r := range desiredAnew(&Config{VIPs: []VIP{v}}, c, newMemory(), testTime).Shards.table()[0].Servers {
		got = append(got, r.Name()+": "+r.Why)
	}
	want := []string{
		"10.1.0.1: pod a and 1 more ready",
		"10.1.0.2: pod c not ready",
		"10.1.0.3: pod d terminating",
		"10.1.0.9: static",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

// Until its ConfigMap is known, a VIP keeps the ports that the kernel
// has, with the real servers that are known.
func TestUnheardConfigMapKeepsPorts(t *testing.T) {
	c := testCluster(nil, readyPod("a", "10.1.0.1"))
	c.ConfigMaps = nil
	w := desiredAnew(&Config{VIPs: []VIP{testVIP()}}, c, newMemory(), testTime)
	have := Table{{
		VirtualService: VirtualService{ServiceKey: ServiceKey{Address: addr("10.0.0.1"), Protocol: TCP, Port: 9000}, Scheduler: "wlc"},
		Servers:        []Row{{RealServer: RealServer{Address: addr("10.1.0.7"), Forward: DirectRoute, Weight: 1}}},
	}}
	s := computeTarget(&w, split(have), testTime)
	want := "10.0.0.1:80/tcp rr: 10.1.0.1=1\n10.0.0.1:9000/tcp wlc: 10.1.0.1=1 10.1.0.7=0\n"
	if diff := cmp.Diff(want, s.Shards.table().text()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// A weight that a pod asks for: 0 is a weight, and what is none changes nothing.
func TestDesiredWeightAnnotation(t *testing.T) {
	vip := testVIP(func(v *VIP) { v.Weight, v.WeightAnnotation = 7, "w" })
	for _, tt := range []struct {
		text, last string
		want       uint32
		warns      bool
	}{
		{"", "", 7, false},
		{"", "5", 7, false}, // the annotation was removed
		{"0", "", 0, false},
		{"000", "5", 0, false},
		{"3", "", 3, false},
		{"65535", "", 65535, false},
		{"65536", "", 7, true},
		{"65536", "5", 5, true},
		{"-1", "0", 0, true},
		{"1.5", "5", 5, true},
		{"none", "5", 5, true},
		{" ", "5", 5, true},
		{"+3", "", 7, true},
	} {
		a := readyPod("a", "10.1.0.1")
		a.Weight, a.LastWeight = tt.text, tt.last
		c := &Cluster{Pods: map[PodQuery][]*Pod{vip.PodQuery(): refs(a, readyPod("b", "10.1.0.2"))}, ConfigMaps: testCluster(nil).ConfigMaps}
		w := desired(nil, &Config{VIPs: []VIP{vip}}, c, nil, newMemory(), testTime)
		row := w.Shards[0].Services[0].Servers[0]
		if row.Weight != tt.want || (len(w.Warnings) > 0) != tt.warns {
			t.Errorf("%q after %q: weight %d (%s), warnings %v; want weight %d, warned %v", tt.text, tt.last, row.Weight, row.Why, w.Warnings, tt.want, tt.warns)
		}
		if tt.want == 0 && !strings.HasSuffix(row.Why, "weight 0 by its annotation") {
			t.Errorf("%q: why %q", tt.text, row.Why)
		}
	}
}

// FuzzDesiredPorts looks for a pod and a ConfigMap entry, as they come from the cluster,
// that open a port or name a real server against the rules.
func FuzzDesiredPorts(f *testing.F) {
	const hostPort = `{"metadata":{"name":"a","namespace":"n"},"spec":{"containers":[{"ports":[{"containerPort":1,"hostPort":9000},{"hostPort":80,"hostIP":"10.1.0.1"}]}]},"status":{"hostIP":"10.1.0.1","podIP":"10.244.0.2","conditions":[{"type":"Ready","status":"True"}]}}`
	f.Add(hostPort, "9000", "ns/svc:80", uint8(0x0f))
	f.Add(hostPort, "80", "ns/svc:80:PROXY", uint8(0x05))
	f.Add(strings.Replace(hostPort, `"spec":{`, `"spec":{"hostNetwork":true,"initContainers":[{"restartPolicy":"Always","ports":[{"containerPort":7443,"protocol":"UDP"}]}],`, 1), "443", "ns/svc:quic", uint8(0x0b))
	f.Add(testPod{name: "a"}.json(), "65536", "x", uint8(0xff))
	f.Add(strings.Replace(hostPort, `"name":"a"`, `"name":"a","annotations":{"w":"0"}`, 1), "0443", "a/b:1", uint8(0x1c))
	f.Fuzz(func(t *testing.T, pod, key, value string, flags uint8) {
		defer bounded(t, len(pod)+len(key)+len(value))()
		bit := func(n int) bool { return flags>>n&1 == 1 }
		v := testVIP(func(v *VIP) {
			v.PortsFromPods, v.HostPorts, v.WeightAnnotation = bit(0), bit(1), "w"
			v.UDPServices = ConfigMapName{"ingress-nginx", "udp-services"}
			if bit(2) {
				v.ReservedPorts = []uint16{9001}
			}
			v.Pods = PodQuery{}
		})
		v.Pods.Selector = "app=nginx"
		l := v.PodQuery().collect().(*podCollection)
		if _, err := decodePage(strings.NewReader(podsOf+pod+"]}"), l); err != nil {
			return
		}
		l.complete()
		entry := keptConfigMap(map[string]string{key: value})
		c := &Cluster{Pods: map[PodQuery][]*Pod{v.PodQuery(): l.kept}, ConfigMaps: map[ConfigMapName]ConfigMap{v.TCPServices: {Exists: true}, v.UDPServices: {Exists: true}}}
		name, protocol := v.TCPServices, TCP
		if bit(3) {
			name, protocol = v.UDPServices, UDP
		}
		c.ConfigMaps[name] = entry
		cfg := &Config{VIPs: []VIP{v}}
		w := desired(nil, cfg, c, nil, newMemory(), testTime)
		checkDesiredPorts(t, &v, l.kept, w.Shards.table(), key, protocol)
		for _, text := range warningTexts(w.Warnings) {
			if len(text) > 16<<10 || strings.ContainsAny(text, "\n\r") {
				t.Errorf("a warning of %d bytes, or of several lines: %.200q", len(text), text)
			}
		}
		// A change and the way back give the same table.
		empty := &Cluster{Pods: map[PodQuery][]*Pod{v.PodQuery(): {}}, ConfigMaps: c.ConfigMaps}
		between := desired(&w, cfg, empty, nil, newMemory(), testTime)
		if again := desired(&between, cfg, c, nil, newMemory(), testTime); again.Shards.table().text() != w.Shards.table().text() {
			t.Errorf("%s after a change and back, before\n%s", again.Shards.table().text(), w.Shards.table().text())
		}
	})
}

// checkDesiredPorts checks the services of v, whose ConfigMap for a protocol has key.
func checkDesiredPorts(t *testing.T, v *VIP, pods []*Pod, table Table, key string, protocol Protocol) {
	t.Helper()
	for _, s := range table {
		p := Port{s.Port, s.Protocol}
		listed := slices.Contains(v.Ports, p)
		declared := v.PortsFromPods && slices.ContainsFunc(pods, func(pod *Pod) bool { return slices.Contains(pod.Ports, p) })
		number, err := strconv.ParseUint(key, 10, 16)
		entry := err == nil && uint16(number) == p.Number && p.Protocol == protocol && !slices.Contains(v.ReservedPorts, p.Number)
		if s.Address != v.Addresses[0] || p.Number == 0 || !listed && !declared && !entry {
			t.Errorf("service %s, which nothing asks for", s.ServiceKey)
		}
		for _, r := range s.Servers {
			if r.Weight > 65535 || slices.Contains(v.Addresses, r.Address) {
				t.Errorf("real server %s = %d", r.Address, r.Weight)
			}
			may := func(pod *Pod) bool {
				return slices.Contains(pod.Addresses, r.Address) && pod.Ready && !pod.Terminating &&
					(pod.HostNetwork || v.HostPorts && slices.Contains(pod.Ports, p))
			}
			if r.Weight > 0 && !slices.ContainsFunc(pods, may) {
				t.Errorf("real server %s has weight %d at %s; no pod serves that there", r.Address, r.Weight, p)
			}
		}
	}
}

// What a reload takes away is found in a short time, however many VIPs there are: the
// loop waits for it. The bound is many times what was measured.
func TestTakenAwayOfManyVIPs(t *testing.T) {
	const vips = 5_000
	before := newServing()
	for i := range vips {
		name, a := fmt.Sprint("v", i), netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		for port := range uint16(3) {
			before.add(name, ServiceKey{Address: a, Port: port + 1, Protocol: TCP}, a.Next(), nil)
		}
	}
	start := cpuSpent(t)
	all := before.takenAway(&wanted{cfg: &Config{}}, true)
	if took := cpuSpent(t) - start; took > time.Second {
		t.Errorf("took %s", took)
	}
	if len(all) != vips || all[0] != (taken{"v0", "the VIP; ports 10.1.0.0:1/tcp, 10.1.0.0:2/tcp, 10.1.0.0:3/tcp; 1 of 1 real servers: 10.1.0.1"}) {
		t.Errorf("%d, the first %+v", len(all), all[0])
	}
}

// An address that a node reports is held to the rules of one in config.toml: each kind
// that is refused there leaves the pod out, with one warning for the kind.
func TestDesiredRefusesNodeAddresses(t *testing.T) {
	other := testVIP(func(v *VIP) {
		v.Name, v.Addresses, v.Pods.Selector = "other", []netip.Addr{addr("10.0.0.2"), addr("2001:db8::2")}, ""
	})
	vip := testVIP(func(v *VIP) { v.Addresses = append(v.Addresses, addr("2001:db8::1")) })
	for address, want := range map[string]string{
		"127.0.0.1":        "127.0.0.1, which is a loopback address",
		"::1":              "::1, which is a loopback address",
		"224.0.0.18":       "224.0.0.18, which is a multicast address",
		"ff02::12":         "ff02::12, which is a multicast address",
		"169.254.7.7":      "169.254.7.7, which is a link-local address",
		"fe80::7":          "fe80::7, which is a link-local address",
		"255.255.255.255":  "255.255.255.255, which is the broadcast address",
		"0.0.0.0":          "0.0.0.0, which is the unspecified address",
		"10.0.0.1":         "the VIP 10.0.0.1 as its own address",
		"10.0.0.2":         "the VIP 10.0.0.2 as its own address",
		"2001:db8::2":      "the VIP 2001:db8::2 as its own address",
		"10.1.0.7":         "",
		"240.0.0.1":        "",
		"fd00::7":          "",
		"2001:db8:ffff::7": "",
	} {
		bad, again := readyPod("bad", address), readyPod("bad2", address)
		w := desired(nil, &Config{VIPs: []VIP{vip, other}}, testCluster(nil, bad, again, readyPod("good", "10.1.0.9", "2001:db8::9")), nil, newMemory(), testTime)
		served, said := false, 0
		for _, s := range w.Shards.table() {
			served = served || slices.ContainsFunc(s.Servers, func(r Row) bool { return r.Address == addr(address) })
		}
		for _, text := range warningTexts(w.Warnings) {
			if strings.Contains(text, "its node reports") {
				if said++; want == "" || !strings.Contains(text, want) {
					t.Errorf("%s: warning %q, want one with %q", address, text, want)
				}
			}
		}
		if served != (want == "") || said == 1 != (want != "") {
			t.Errorf("%s: a real server: %t, %d warnings; want %q", address, served, said, want)
		}
	}
}
