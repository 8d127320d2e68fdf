package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The node of a real server that drains is named also when its pod is gone, until the
// drain ends.
func TestDrainingNodes(t *testing.T) {
	table := func(leaves ...string) shards {
		s := service("10.0.0.1:80/tcp", "10.1.0.1", 1, "10.1.0.2", 0, "10.1.0.3", 0)
		for _, a := range leaves {
			s.Leaving = append(s.Leaving, leaving{Address: addr(a), drain: drain{Deadline: testTime.Add(time.Minute)}})
		}
		s.Leaving = append(s.Leaving, leaving{Address: addr("10.1.0.9"), Gone: true}) // removed now
		return split(Table{s})
	}
	on := func(name, node, address string) Pod {
		p := readyPod(name, address)
		p.Node = node
		return p
	}
	cluster := func(pods ...Pod) *Cluster { return testCluster(nil, pods...) }
	a, b, c := on("a", "n1", "10.1.0.1"), on("b", "n2", "10.1.0.2"), on("c", "n3", "10.1.0.3")
	var d drainingNodes
	for i, step := range []struct {
		table shards
		now   *Cluster
		want  map[netip.Addr]string
	}{
		{table(), nil, nil},
		{table(), cluster(a, b, c), nil},
		{table("10.1.0.2"), cluster(a, c), map[netip.Addr]string{addr("10.1.0.2"): "n2"}},
		{table("10.1.0.2", "10.1.0.3"), cluster(a, c), map[netip.Addr]string{addr("10.1.0.2"): "n2", addr("10.1.0.3"): "n3"}},
		{table("10.1.0.2", "10.1.0.3"), cluster(a), map[netip.Addr]string{addr("10.1.0.2"): "n2", addr("10.1.0.3"): "n3"}},
		{table("10.1.0.3", "10.1.0.5"), cluster(a), map[netip.Addr]string{addr("10.1.0.3"): "n3", addr("10.1.0.5"): ""}},
		{table(), cluster(a), nil},
	} {
		d.update(step.table, step.now)
		if diff := cmp.Diff(step.want, d.names, compareAddrs); diff != "" {
			t.Errorf("step %d: names (-want +got):\n%s", i, diff)
		}
	}
	// What status and page say of it.
	vip := testVIP()
	a.Zone = "eu-1a"
	got := nodesOf(&vip, cluster(a), nil, map[netip.Addr]bool{addr("10.1.0.3"): true, addr("10.1.0.1"): true, addr("10.1.0.5"): true}, func(a netip.Addr) string {
		return map[string]string{"10.1.0.3": "n3", "10.1.0.1": "of an earlier pod"}[a.String()]
	})
	want := []nodeStatus{{Address: addr("10.1.0.1"), Node: "n1", Zone: "eu-1a", Pods: []string{"ingress-nginx/a"}}, {Address: addr("10.1.0.3"), Node: "n3"}}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}
