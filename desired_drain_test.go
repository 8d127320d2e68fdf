package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// rows makes real servers from "address weight" pairs.
func rows(pairs ...any) []Row {
	var r []Row
	for i := 0; i < len(pairs); i += 2 {
		r = append(r, Row{RealServer: RealServer{Address: addr(pairs[i].(string)), Forward: DirectRoute, Weight: uint32(pairs[i+1].(int))}})
	}
	return r
}

func service(key string, servers ...any) Service {
	var k ServiceKey
	if err := k.UnmarshalText([]byte(key)); err != nil {
		panic(err)
	}
	return Service{VirtualService: VirtualService{ServiceKey: k, Scheduler: "rr"}, VIP: "edge", Servers: rows(servers...)}
}

// leavingOf is what drains say of the real servers of s.
func leavingOf(s *Service, drains map[rowID]drain) []leaving {
	var all []leaving
	for _, r := range s.Servers {
		if d, ok := drains[rowOf(s.ServiceKey, r.RealServer)]; ok {
			all = append(all, leaving{Address: r.Address, Port: r.Port, drain: d})
		}
	}
	return all
}

func TestSettle(t *testing.T) {
	const web, dns = "10.0.0.1:80/tcp", "10.0.0.1:53/udp"
	vip := testVIP()
	owned := wanted{Owners: newOwners(&Config{VIPs: []VIP{vip}})}
	id := func(key, server string) rowID { return rowOf(service(key).ServiceKey, rows(server, 0)[0].RealServer) }
	due := testTime.Add(vip.Drain.Timeout)
	tests := []struct {
		name     string
		want     Table
		have     Table
		drains   map[rowID]drain
		table    string
		draining map[rowID]drain
		removed  map[rowID]string
	}{
		{
			name:  "a real server of weight 0 is not added",
			want:  Table{service(web, "10.1.0.1", 1, "10.1.0.2", 0)},
			table: web + " rr: 10.1.0.1=1\n",
		},
		{
			name:     "one that is no longer wanted is quiesced first",
			want:     Table{service(web, "10.1.0.1", 1)},
			have:     Table{service(web, "10.1.0.1", 1, "10.1.0.2", 1)},
			table:    web + " rr: 10.1.0.1=1 10.1.0.2=0\n",
			draining: map[rowID]drain{id(web, "10.1.0.2"): {Deadline: due}},
		},
		{
			name:     "it stays while it has connections",
			want:     Table{service(web, "10.1.0.1", 1)},
			have:     Table{service(web, "10.1.0.1", 1, "10.1.0.2", 0)},
			drains:   map[rowID]drain{id(web, "10.1.0.2"): {Deadline: testTime.Add(time.Second)}},
			table:    web + " rr: 10.1.0.1=1 10.1.0.2=0\n",
			draining: map[rowID]drain{id(web, "10.1.0.2"): {Deadline: testTime.Add(time.Second)}},
		},
		{
			name:     "it goes when it has none",
			want:     Table{service(web, "10.1.0.1", 1)},
			have:     Table{service(web, "10.1.0.1", 1, "10.1.0.2", 0)},
			drains:   map[rowID]drain{id(web, "10.1.0.2"): {Deadline: due, Idle: true}},
			table:    web + " rr: 10.1.0.1=1\n",
			draining: map[rowID]drain{id(web, "10.1.0.2"): {Deadline: due, Idle: true}},
			removed:  map[rowID]string{id(web, "10.1.0.2"): "no pod or static entry left, no connections left"},
		},
		{
			name:     "idle counts only once the kernel has quiesced it",
			want:     Table{service(web, "10.1.0.1", 1)},
			have:     Table{service(web, "10.1.0.1", 1, "10.1.0.2", 1)},
			drains:   map[rowID]drain{id(web, "10.1.0.2"): {Deadline: due, Idle: true}},
			table:    web + " rr: 10.1.0.1=1 10.1.0.2=0\n",
			draining: map[rowID]drain{id(web, "10.1.0.2"): {Deadline: due}},
		},
		{
			name:     "it goes at its deadline",
			want:     Table{service(web, "10.1.0.1", 1)},
			have:     Table{service(web, "10.1.0.1", 1, "10.1.0.2", 0)},
			drains:   map[rowID]drain{id(web, "10.1.0.2"): {Deadline: testTime}},
			table:    web + " rr: 10.1.0.1=1\n",
			draining: map[rowID]drain{id(web, "10.1.0.2"): {Deadline: testTime}},
			removed:  map[rowID]string{id(web, "10.1.0.2"): "no pod or static entry left, drain deadline"},
		},
		{
			name:     "a deadline from a longer policy is cut",
			want:     Table{service(web, "10.1.0.1", 1)},
			have:     Table{service(web, "10.1.0.1", 1, "10.1.0.2", 0)},
			drains:   map[rowID]drain{id(web, "10.1.0.2"): {Deadline: due.Add(time.Hour)}},
			table:    web + " rr: 10.1.0.1=1 10.1.0.2=0\n",
			draining: map[rowID]drain{id(web, "10.1.0.2"): {Deadline: due}},
		},
		{
			name:   "one that is wanted again returns",
			want:   Table{service(web, "10.1.0.1", 1, "10.1.0.2", 1)},
			have:   Table{service(web, "10.1.0.1", 1, "10.1.0.2", 0)},
			drains: map[rowID]drain{id(web, "10.1.0.2"): {Deadline: testTime}},
			table:  web + " rr: 10.1.0.1=1 10.1.0.2=1\n",
		},
		{
			name:    "UDP goes at once",
			want:    Table{service(dns, "10.1.0.1", 1, "10.1.0.2", 0)},
			have:    Table{service(dns, "10.1.0.1", 1, "10.1.0.2", 1)},
			table:   dns + " rr: 10.1.0.1=1\n",
			removed: map[rowID]string{id(dns, "10.1.0.2"): ""},
		},
		{
			name:     "a port that is withdrawn drains too",
			have:     Table{service(web, "10.1.0.1", 1)},
			table:    web + " rr: 10.1.0.1=0\n",
			draining: map[rowID]drain{id(web, "10.1.0.1"): {Deadline: due}},
		},
		{
			name:     "and goes with its last real server",
			have:     Table{service(web, "10.1.0.1", 0)},
			drains:   map[rowID]drain{id(web, "10.1.0.1"): {Deadline: due, Idle: true}},
			draining: map[rowID]drain{id(web, "10.1.0.1"): {Deadline: due, Idle: true}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := owned
			w.Shards = split(tt.want)
			for i := range tt.have {
				tt.have[i].Leaving = leavingOf(&tt.have[i], tt.drains)
			}
			s := computeTarget(&w, split(tt.have), testTime)
			if diff := cmp.Diff(tt.table, s.Shards.table().text()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			if tt.draining == nil {
				tt.draining = map[rowID]drain{}
			}
			if tt.removed == nil {
				tt.removed = map[rowID]string{}
			}
			draining := map[rowID]drain{}
			note := func(k ServiceKey, all []leaving) {
				for _, l := range all {
					if !l.Deadline.IsZero() {
						draining[rowID{k, l.Address, l.Port}] = l.drain
					}
				}
			}
			for s := range s.Shards.all {
				note(s.ServiceKey, s.Leaving)
			}
			for k, all := range s.Withdrawn {
				note(k, all)
			}
			if diff := cmp.Diff(tt.draining, draining, compareAddrs); diff != "" {
				t.Errorf("drains (-want +got):\n%s", diff)
			}
			removed := map[rowID]string{}
			ops := diff(s.Shards, split(tt.have))
			for o := range ops.all {
				if o.Kind == delServer {
					removed[rowOf(o.Service.ServiceKey, *o.Server)] = o.Why
				}
			}
			if diff := cmp.Diff(tt.removed, removed, compareAddrs); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
		})
	}
}

// A node that is excluded drains, if the VIP follows nodes, and one that comes back
// serves again. When all are excluded, the last working set stays.
func TestLoopFollowsNodes(t *testing.T) {
	vip := testVIP(func(v *VIP) { v.FollowNodes, v.TCPServices = true, ConfigMapName{} })
	at := func(p Pod, node string) Pod { p.Node = node; return p }
	cluster := func(excluded ...string) *Cluster {
		c := testCluster(nil, at(readyPod("a", "10.1.0.1"), "n1"), at(readyPod("b", "10.1.0.2"), "n2"), at(readyPod("c", "10.1.0.3"), "unknown"))
		nodes := []*Node{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}
		for _, n := range nodes {
			if slices.Contains(excluded, n.Name) {
				n.Excluded = "its node is cordoned off"
			}
		}
		c.Nodes = map[NodeQuery][]*Node{{}: nodes}
		return c
	}
	b := newBench(t, vip)
	for _, step := range []struct {
		excluded []string
		want     string
	}{
		{nil, "10.1.0.1=1 10.1.0.2=1 10.1.0.3=1"},
		{[]string{"n1", "n3"}, "10.1.0.1=0 10.1.0.2=1 10.1.0.3=1"},
		{nil, "10.1.0.1=1 10.1.0.2=1 10.1.0.3=1"},
		{[]string{"n2"}, "10.1.0.1=1 10.1.0.2=0 10.1.0.3=1"},
	} {
		b.loop.cluster.Set(cluster(step.excluded...))
		log := b.pass()
		b.want("10.0.0.1:80/tcp rr: " + step.want + "\n")
		if len(step.excluded) > 0 && !strings.Contains(log, "ready, its node is cordoned off") {
			t.Errorf("%v: no reason in:\n%s", step.excluded, log)
		}
	}
	all := cluster("n1", "n2")
	all.Pods[vip.Pods] = all.Pods[vip.Pods][:2]
	b.loop.cluster.Set(all)
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=0 10.1.0.3=1\n") // what served last
	const none = "follow_nodes has no effect: the cluster has pods and no nodes"
	for _, nodes := range []map[NodeQuery][]*Node{{{}: nil}, {}, {{}: {}}} {
		c := cluster()
		c.Nodes = nodes
		b.loop.cluster.Set(c)
		if log, want := b.pass(), len(nodes) > 0; strings.Contains(log, none) != want {
			t.Errorf("nodes %v: a warning: %v, want %v:\n%s", nodes, !want, want, log)
		}
	}
	unfollowed := newBench(t, testVIP(func(v *VIP) { v.TCPServices = ConfigMapName{} }))
	unfollowed.loop.cluster.Set(cluster("n1"))
	unfollowed.pass()
	unfollowed.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=1\n")
}

// The annotation of a pod names which address of its node serves. Addresses that only
// the Node has count if the VIP follows nodes.
func TestLoopTakesAnnotatedAddresses(t *testing.T) {
	elsewhere := func(p Pod, address string) Pod { p.Node, p.OtherAddress = "n1", address; return p }
	cluster := func(address string) *Cluster {
		c := testCluster(nil, elsewhere(readyPod("a", "10.1.0.1"), address), readyPod("b", "10.1.0.2"))
		c.Nodes = map[NodeQuery][]*Node{{}: {{Name: "n1", Addresses: addrs("10.1.0.1", "10.3.0.1", "fd00::1")}, {Name: "n2", Addresses: addrs("10.3.0.2")}}}
		return c
	}
	for _, follows := range []bool{true, false} {
		b := newBench(t, testVIP(func(v *VIP) { v.FollowNodes, v.TCPServices = follows, ConfigMapName{} }))
		for _, step := range []struct{ address, serves, warning string }{
			{"", "10.1.0.1=1 10.1.0.2=1", ""},
			{"10.3.0.1", "10.1.0.1=0 10.1.0.2=1 10.3.0.1=1", ""},
			{"10.3.0.2", "10.1.0.1=1 10.1.0.2=1 10.3.0.1=0", `pod ingress-nginx/a: annotation lvs-controller/address = \"10.3.0.2\" is no address of its node`},
			{"fd00::1, 10.3.0.1, 10.1.0.2", "10.1.0.1=0 10.1.0.2=1 10.3.0.1=1", `lvs-controller/address = \"10.1.0.2\" is no address of its node`},
		} {
			if !follows {
				step.serves = "10.1.0.1=1 10.1.0.2=1"
			}
			b.loop.cluster.Set(cluster(step.address))
			log := b.pass()
			b.want("10.0.0.1:80/tcp rr: " + step.serves + "\n")
			if warned := strings.Contains(log, "is no address of its node"); follows && !strings.Contains(log, step.warning) || warned != (step.warning != "" || !follows && step.address != "") {
				t.Errorf("follow_nodes = %t, %q: log:\n%s", follows, step.address, log)
			}
		}
	}
}

// node_networks chooses among the addresses of a node; the annotation goes before it. Until
// the nodes are known, what served goes on.
func TestLoopNodeNetworks(t *testing.T) {
	both := with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Node, p.Addresses = "n1", addrs("10.1.0.1", "10.9.0.1", "fd00::1") })
	one := with(readyPod("b", "10.1.0.2"), func(p *Pod) { p.Node = "n2" })
	named := with(both, func(p *Pod) { p.Named = 1 })
	nodes := map[NodeQuery][]*Node{{}: {{Name: "n1", Addresses: addrs("10.1.0.1", "10.9.0.1")}, {Name: "n2", Addresses: addrs("10.1.0.2", "10.3.0.2", "10.9.0.2")}}}
	const left = "pod ingress-nginx/b is left out: its node has no IPv4 address in node_networks"
	for _, tt := range []struct {
		name    string
		follows bool
		pods    []Pod
		serves  string
		warns   bool
	}{
		{"hostIPs alone", false, []Pod{both, one}, "10.9.0.1=1", true},
		{"and InternalIPs", true, []Pod{both, one}, "10.9.0.1=1 10.9.0.2=1", false},
		{"the annotation names a hostIP", true, []Pod{named, one}, "10.1.0.1=1 10.9.0.2=1", false},
		{"the annotation names an InternalIP", true, []Pod{both, with(one, func(p *Pod) { p.OtherAddress = "10.3.0.2" })}, "10.3.0.2=1 10.9.0.1=1", false},
	} {
		b := newBench(t, testVIP(func(v *VIP) {
			v.FollowNodes, v.TCPServices = tt.follows, ConfigMapName{}
			v.Addresses = addrs("10.0.0.1", "fd00::100")
			v.NodeNetworks = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}
		}))
		c := testCluster(nil, tt.pods...)
		c.Nodes = nodes
		b.loop.cluster.Set(c)
		log := b.pass()
		t.Log(tt.name)
		b.want("10.0.0.1:80/tcp rr: " + tt.serves + "\n[fd00::100]:80/tcp rr: fd00::1=1\n") // the other family has no network, and its first address
		if strings.Contains(log, left) != tt.warns {
			t.Errorf("a warning: %t, want %t:\n%s", !tt.warns, tt.warns, log)
		}
		b.restart()
		b.loop.cluster.Set(testCluster(nil, tt.pods...))
		b.pass()
		if tt.follows { // without their answer nothing is taken away
			b.want("10.0.0.1:80/tcp rr: " + tt.serves + "\n[fd00::100]:80/tcp rr: fd00::1=1\n") // the other family has no network, and its first address
		}
	}
}

// The pods of several namespaces serve together. While one of these is not known, what served
// goes on.
func TestLoopNamespaces(t *testing.T) {
	v := testVIP(func(v *VIP) { v.TCPServices, v.Namespaces = ConfigMapName{}, []string{"a", "b"} })
	queries := v.PodQueries()
	cluster := func(pods ...[]*Pod) *Cluster {
		c := newCluster()
		for i, list := range pods {
			if list != nil {
				c.Pods[queries[i]] = list
			}
		}
		return c
	}
	first, second := refs(readyPod("a", "10.1.0.1")), refs(readyPod("b", "10.1.0.2"))
	b := newBench(t, v)
	const both = "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n"
	pass := func(want string, pods ...[]*Pod) {
		t.Helper()
		b.loop.cluster.Set(cluster(pods...))
		b.pass()
		b.want(want)
	}
	pass("10.0.0.1:80/tcp rr: 10.1.0.1=1\n", first, nil) // the first answers are not all there yet
	pass(both, first, second)
	answer := b.loop.planner.want.vips[0]
	pass(both, first, second)
	if b.loop.planner.want.vips[0] != answer {
		t.Error("the same pods have another answer")
	}
	b.restart()
	pass(both, first, nil)
	pass(both, nil, second)
	pass(both, first, second)
	pass("10.0.0.1:80/tcp rr: 10.1.0.1=0 10.1.0.2=1\n", []*Pod{}, second)
	if diff := cmp.Diff(queries, (&Config{VIPs: []VIP{v, v}}).ClusterQuery().Pods); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// A port that a pod declares, or that leads to it from its node, is for the address that
// the annotation names. Pods that are not ready declare nothing beside a ready one of the
// same address.
func TestLoopTakesAnnotatedAddressesByPort(t *testing.T) {
	notReady := func(p *Pod) { p.Ready = false }
	on := func(p Pod, node, other string, port uint16) Pod {
		p.Node, p.OtherAddress, p.Ports = node, other, []Port{{port, TCP}}
		return p
	}
	for _, tt := range []struct {
		name string
		vip  func(*VIP)
		pod  func(*Pod)
		want string
	}{
		{"ports_from", func(v *VIP) { v.Ports, v.PortsFromPods = nil, true }, func(*Pod) {},
			"10.0.0.1:8080/tcp rr: 10.3.0.1=1\n10.0.0.1:9000/tcp rr: 10.1.0.2=1\n"},
		{"host_ports", func(v *VIP) { v.Ports, v.HostPorts = []Port{{8080, TCP}, {9000, TCP}}, true }, func(p *Pod) { p.HostNetwork, p.ByPort = false, true },
			"10.0.0.1:8080/tcp rr: 10.1.0.2=1 10.3.0.1=1\n10.0.0.1:9000/tcp rr: 10.1.0.2=1\n"},
	} {
		v := testVIP(func(v *VIP) { v.FollowNodes, v.TCPServices = true, ConfigMapName{} }, tt.vip)
		b := newBench(t, v)
		c := testCluster(nil)
		c.Pods[v.PodQuery()] = refs(with(on(readyPod("a", "10.1.0.1"), "n1", "10.3.0.1", 8080), tt.pod), on(readyPod("b", "10.1.0.2"), "n2", "", 9000),
			with(on(readyPod("c", "10.3.0.1"), "n1", "", 7000), notReady), with(on(readyPod("d", "10.3.0.2"), "n2", "10.1.0.2", 7001), notReady))
		c.Nodes = map[NodeQuery][]*Node{{}: {{Name: "n1", Addresses: addrs("10.1.0.1", "10.3.0.1")}, {Name: "n2", Addresses: addrs("10.1.0.2", "10.3.0.2")}}}
		b.loop.cluster.Set(c)
		b.pass()
		t.Log(tt.name)
		b.want(tt.want)
	}
}

// A pod of a node that reports the broadcast address of a network is left out.
func TestLoopLeavesBroadcastOut(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.TCPServices = ConfigMapName{} }))
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.255")))
	b.loop.routes.Set(&Health{Broadcast: addrs("10.1.0.255", "192.0.2.255")})
	if log := b.pass(); strings.Count(log, "pod ingress-nginx/b is left out: its node reports 10.1.0.255, which is a broadcast address") != 1 {
		t.Errorf("no warning:\n%s", log)
	}
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1\n")
	if log := b.pass(); log != "" {
		t.Errorf("logged again:\n%s", log)
	}
}

// Services that share their real servers lose them each in its way: by its protocol, and by the
// scheduler that the kernel has.
func TestSettleSharedServers(t *testing.T) {
	want, have := rows("10.1.0.1", 1), rows("10.1.0.1", 1, "10.1.0.2", 1)
	var asked, has Table
	for _, s := range []struct{ key, scheduler string }{
		{"10.0.0.1:53/tcp", "rr"}, {"10.0.0.1:53/udp", "rr"}, {"10.0.0.1:80/tcp", "rr"}, {"10.0.0.1:81/tcp", "dh"},
	} {
		w := service(s.key)
		w.Scheduler, w.Servers = s.scheduler, want
		h := w
		h.Servers = have
		asked, has = append(asked, w), append(has, h)
	}
	w := wanted{Owners: newOwners(&Config{VIPs: []VIP{testVIP()}}), Shards: split(asked)}
	got := make(map[string]int)
	for _, s := range computeTarget(&w, split(has), testTime).Shards[0].Services {
		got[s.ServiceKey.String()] = len(s.Servers)
	}
	// Two: the one that leaves drains. One: it is gone at once.
	if diff := cmp.Diff(map[string]int{"10.0.0.1:53/tcp": 2, "10.0.0.1:53/udp": 1, "10.0.0.1:80/tcp": 2, "10.0.0.1:81/tcp": 1}, got); diff != "" {
		t.Error(diff)
	}
}
