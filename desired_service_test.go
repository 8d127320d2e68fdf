// Tests of a Service as the source of ports and real servers.

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// serviceVIP is a VIP over the Service web/edge.
func serviceVIP(edit ...func(*VIP)) VIP {
	v := testVIP(func(v *VIP) {
		v.Ports, v.TCPServices = nil, ConfigMapName{}
		v.Pods = PodQuery{}.ofService(edgeService)
	})
	for _, e := range edit {
		e(&v)
	}
	return v
}

// endpointPod is a pod as an EndpointSlice has it: "ADDRESS" and its ports, "NAME=PORT".
func endpointPod(name, text string) Pod {
	p := Pod{UID: name, Namespace: "web", Name: name, Node: "node-" + name, HostNetwork: true, Ready: true}
	for i, word := range strings.Fields(text) {
		if i == 0 {
			p.Addresses = addrs(word)
			continue
		}
		port, number, _ := strings.Cut(word, "=")
		n, err := ParsePortNumber(number)
		if err != nil {
			panic(err)
		}
		p.Ports, p.PortNames = append(p.Ports, Port{n, TCP}), append(p.PortNames, port)
	}
	return p
}

// serviceOf is a Service with ports "NAME=PORT" or "NAME=PORT:TARGET".
func serviceOf(text string) ClusterService {
	s := ClusterService{Exists: true}
	for word := range strings.FieldsSeq(text) {
		name, port, _ := strings.Cut(word, "=")
		port, target, _ := strings.Cut(port, ":")
		n, err := ParsePortNumber(port)
		if err != nil {
			panic(err)
		}
		s.Ports = append(s.Ports, ServicePort{Port{n, TCP}, name, target})
	}
	return s
}

// serviceCluster answers what v asks.
func serviceCluster(v VIP, s ClusterService, pods ...Pod) *Cluster {
	c := newCluster()
	c.Pods[v.PodQuery()] = refs(pods...)
	c.Services[edgeService] = s
	return c
}

func TestDesiredService(t *testing.T) {
	unready := func(p *Pod) { p.Ready = false }
	before := map[workKey][]RealServer{{"edge", false}: {{Address: addr("10.1.0.9"), Forward: DirectRoute, Weight: 1}}}
	nodes := []*Node{{Name: "node-a", Addresses: addrs("10.1.0.1", "fd00::1")}, {Name: "node-b", Addresses: addrs("10.1.0.2")}}
	a, b := endpointPod("a", "10.1.0.1 http=80 https=443"), endpointPod("b", "10.1.0.2 http=80 https=443")
	for _, tt := range []struct {
		name     string
		vip      VIP
		service  ClusterService
		pods     []Pod
		cluster  func(*Cluster) // edits what follows from these
		before   map[workKey][]RealServer
		want     string
		warnings []string // pieces of them, in order
		retains  bool     // services that only the kernel has stay
	}{
		{name: "its ports lead to the same numbers", service: serviceOf("http=80 https=443:https"), pods: []Pod{a, b},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n10.0.0.1:443/tcp rr: 10.1.0.1=1 10.1.0.2=1\n"},
		{name: "a port that leads to another number", service: serviceOf("http=80 https=443:8443"), pods: []Pod{endpointPod("a", "10.1.0.1 http=80 https=8443")},
			want:     "10.0.0.1:80/tcp rr: 10.1.0.1=1\n",
			warnings: []string{"port 443/tcp of Service web/edge is left out: it leads to port 8443 at the pods, and a packet keeps its port; want targetPort: 443"}},
		{name: "two ports that lead to one number", service: serviceOf("a=80:80 b=8080:80"), pods: []Pod{endpointPod("a", "10.1.0.1 a=80 b=80")},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1\n", warnings: []string{"port 8080/tcp of Service web/edge is left out: it leads to port 80"}},
		{name: "a port that only some endpoints have", service: serviceOf("http=80 https=443:https"), pods: []Pod{a, endpointPod("b", "10.1.0.2 http=80 https=8443")},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n10.0.0.1:443/tcp rr: 10.1.0.1=1\n"},
		{name: "and static real servers have every port", vip: serviceVIP(func(v *VIP) { v.RealServers = []StaticServer{{addr("10.1.0.7"), 1}} }),
			service: serviceOf("http=80 https=443:https"), pods: []Pod{a, endpointPod("b", "10.1.0.2 http=80")},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.7=1\n10.0.0.1:443/tcp rr: 10.1.0.1=1 10.1.0.7=1\n"},
		{name: "a port that no endpoint has", service: serviceOf("http=80 db=5432:db"), pods: []Pod{a},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1\n", warnings: []string{"port 5432/tcp of Service web/edge is left out: none of its endpoints has it"}},
		{name: "a port with a new name, which the slices do not have yet", service: serviceOf("web=80 https=443"), pods: []Pod{a},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1\n10.0.0.1:443/tcp rr: 10.1.0.1=1\n"},
		{name: "while only some slices have the new name", service: serviceOf("web=80"), pods: []Pod{a, endpointPod("b", "10.1.0.2 web=80")},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n"},
		{name: "the number that another port of the Service leads to", service: serviceOf("http=80:web admin=9999:80"), pods: []Pod{endpointPod("a", "10.1.0.1 admin=80")},
			warnings: []string{"port 80/tcp of Service web/edge is left out: none of its endpoints has it; port 9999/tcp of Service web/edge is left out: it leads to port 80"}},
		{name: "ports beside those of the Service", vip: serviceVIP(func(v *VIP) { v.Ports, v.ExcludePorts = []Port{{53, UDP}, {80, TCP}}, []Port{{443, TCP}} }),
			service: serviceOf("http=80:8080 https=443"), pods: []Pod{a},
			want: "10.0.0.1:53/udp rr: 10.1.0.1=1\n10.0.0.1:80/tcp rr: 10.1.0.1=1\n"},
		{name: "not ready and terminating endpoints are quiesced", service: serviceOf("http=80"), pods: []Pod{a, with(b, unready), with(endpointPod("c", "10.1.0.3 http=80"), func(p *Pod) { p.Terminating = true })},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0 10.1.0.3=0\n"},
		{name: "no endpoint is ready: the last working set stays", service: serviceOf("http=80"), pods: []Pod{with(a, unready)}, before: before,
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.9=1\n"},
		{name: "no endpoints", service: serviceOf("a=80 b=81:81 c=82:8082 d=83:name"), before: before,
			want:     "10.0.0.1:80/tcp rr: 10.1.0.9=1\n10.0.0.1:81/tcp rr: 10.1.0.9=1\n",
			warnings: []string{"Service web/edge has no endpoints", "port 82/tcp of Service web/edge is left out: it leads to port 8082"}, retains: true},
		{name: "no Service", service: ClusterService{}, warnings: []string{"Service web/edge does not exist: it opens no ports", "no IPv4 real server is in service"}},
		{name: "a Service without ports", service: serviceOf(""), pods: []Pod{a}, warnings: []string{"Service web/edge has no ports"}},
		{name: "a Service that is a name elsewhere", service: ClusterService{Exists: true, External: true},
			warnings: []string{"Service web/edge is of type ExternalName: it has no endpoints, and opens no ports", "no IPv4 real server is in service"}},
		{name: "names in place of addresses", service: serviceOf("http=80"),
			pods: []Pod{a, {Namespace: "web", Name: "edge.example.org", Ready: true, Ports: []Port{{80, TCP}}, PortNames: []string{"http"}}},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1\n", warnings: []string{"edge.example.org of Service web/edge is left out: its EndpointSlice is of the address type FQDN"}},
		{name: "the Service is not known yet", pods: []Pod{a}, cluster: func(c *Cluster) { c.Services = nil }, retains: true},
		{name: "its endpoints are not known yet", service: serviceOf("http=80"), cluster: func(c *Cluster) { c.Pods = nil }, before: before, retains: true},
		{name: "an address that is no node's", vip: serviceVIP(func(v *VIP) { v.FollowNodes = true }), service: serviceOf("http=80"),
			pods:     []Pod{a, endpointPod("b", "10.244.0.7 http=80"), endpointPod("c", "10.244.0.8 http=80"), with(endpointPod("d", "10.1.0.2 http=80"), func(p *Pod) { p.Node = "" }), with(endpointPod("e", "10.244.0.9 http=80"), func(p *Pod) { p.Node = "" })},
			cluster:  func(c *Cluster) { c.Nodes[NodeQuery{}] = nodes },
			want:     "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.244.0.8=1\n",
			warnings: []string{"pod web/b is left out: it is not on hostNetwork, because 10.244.0.7 is no address of its node node-b; the VIP is on the node, not in the pod; pod web/e is left out: it is not on hostNetwork, because 10.244.0.9 is no address of a node"}},
		{name: "nodes that are not known are not judged", vip: serviceVIP(func(v *VIP) { v.FollowNodes = true }), service: serviceOf("http=80"),
			pods: []Pod{endpointPod("b", "10.244.0.7 http=80")}, want: "10.0.0.1:80/tcp rr: 10.244.0.7=1\n"},
		{name: "a node that is cordoned off", vip: serviceVIP(func(v *VIP) { v.FollowNodes = true }), service: serviceOf("http=80"), pods: []Pod{a, b},
			cluster: func(c *Cluster) {
				c.Nodes[NodeQuery{}] = []*Node{nodes[0], {Name: "node-b", Addresses: addrs("10.1.0.2"), Excluded: "its node is cordoned off"}}
			},
			want: "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := tt.vip
			if v.Name == "" {
				v = serviceVIP()
			}
			c := serviceCluster(v, tt.service, tt.pods...)
			if tt.cluster != nil {
				tt.cluster(c)
			}
			memory := newMemory()
			if tt.before != nil {
				memory.Working = tt.before
			}
			cfg := &Config{VIPs: []VIP{v}}
			got := desiredAnew(cfg, c, memory, testTime)
			if diff := cmp.Diff(tt.want, got.Shards.table().text()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			if len(got.Warnings) != len(tt.warnings) {
				t.Errorf("warnings: %q", warningTexts(got.Warnings))
			}
			for i, w := range warningTexts(got.Warnings) {
				if i < len(tt.warnings) && !strings.Contains(w, tt.warnings[i]) {
					t.Errorf("warning %q, want in it %q", w, tt.warnings[i])
				}
			}
			if _, retains := got.Retained[workKey{"edge", false}]; retains != tt.retains {
				t.Errorf("services that only the kernel has stay: %v, want %v", retains, tt.retains)
			}
			var shown []netip.Addr
			podsAt(&v, c, func(a netip.Addr, p *Pod) { shown = append(shown, a) })
			if slices.Contains(shown, addr("10.244.0.9")) || len(tt.pods) > 0 && len(shown) == 0 && c.Pods != nil {
				t.Errorf("status shows the pods at %v", shown)
			}
		})
	}
}

// The same inputs give the same table, whatever came before: with each change of the
// Service and of its endpoints.
func TestDesiredServiceChanges(t *testing.T) {
	v := serviceVIP(func(v *VIP) { v.FollowNodes = true })
	cfg := &Config{VIPs: []VIP{v}}
	var states []*Cluster
	for _, s := range []ClusterService{{}, serviceOf("http=80"), serviceOf("http=80 https=443"), serviceOf("https=443:8443")} {
		for n := range 4 {
			var pods []Pod
			for i := range n {
				p := endpointPod(string(rune('a'+i)), fmt.Sprintf("10.1.0.%d http=80 https=%d", 1+i, []int{443, 8443}[i%2]))
				p.Ready = (n+i)%3 > 0
				pods = append(pods, p)
			}
			c := serviceCluster(v, s, pods...)
			if n > 1 {
				c.Nodes[NodeQuery{}] = []*Node{{Name: "node-a", Addresses: addrs("10.1.0.1")}, {Name: "node-b", Addresses: addrs("10.1.0.9")}}
			}
			states = append(states, c)
		}
	}
	for i, from := range states {
		for j, to := range states {
			last := desired(nil, cfg, from, nil, newMemory(), testTime)
			got, want := desired(&last, cfg, to, nil, newMemory(), testTime), desiredAnew(cfg, to, newMemory(), testTime)
			if diff := cmp.Diff(want.Shards.table().text(), got.Shards.table().text()); diff != "" {
				t.Errorf("from %d to %d (-anew +got):\n%s", i, j, diff)
			}
			if diff := cmp.Diff(warningTexts(want.Warnings), warningTexts(got.Warnings)); diff != "" {
				t.Errorf("from %d to %d: warnings (-anew +got):\n%s", i, j, diff)
			}
		}
	}
}

// What a query asks, and what guards it.
func TestServiceQuery(t *testing.T) {
	one, other := serviceVIP(func(v *VIP) { v.RemovalBrake = 60 }), serviceVIP(func(v *VIP) { v.Name, v.Addresses, v.RemovalBrake = "other", addrs("10.0.0.2"), 40 })
	q := (&Config{VIPs: []VIP{one, other}}).ClusterQuery()
	endpoints := PodQuery{Ports: true}.ofService(edgeService)
	want := ClusterQuery{
		Pods: []PodQuery{endpoints}, Services: []ServiceName{edgeService},
		Guards: map[any]uint8{endpoints: 40, edgeService: 40},
	}
	if diff := cmp.Diff(want, q); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What doctor proposes for each warning about a Service.
func TestServiceRemedies(t *testing.T) {
	cfg := &Config{VIPs: []VIP{serviceVIP()}}
	want := []string{"kubectl get services -n web edge -o yaml", "kubectl get endpointslices -n web -l kubernetes.io/service-name=edge -o wide"}
	for kind, level := range map[warningKind]level{warnService: levelFail, warnSelector: levelFail, warnNothingServes: levelFail, warnServicePort: levelWarn, warnHostNetwork: levelWarn} {
		if got, is := objectRemedy(cfg, "edge/"+string(kind)+"/", kind); !slices.Equal(got, want) || is != level {
			t.Errorf("%s: %d %q", kind, is, got)
		}
	}
}
