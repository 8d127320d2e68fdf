package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// whys are the reasons that the status gives the rows of the table that the loop has.
func whys(server *httpServer) []string {
	v := server.loop.published.Load()
	var all []KernelService
	for i := range v.Shards {
		for _, s := range v.Shards[i].Services {
			k := KernelService{VirtualService: s.VirtualService}
			for _, row := range s.Servers {
				k.Servers = append(k.Servers, KernelServer{RealServer: row.RealServer})
			}
			all = append(all, k)
		}
	}
	var texts []string
	for one := range server.services(all, v) {
		s := one.(serviceStatus)
		for _, r := range s.Servers {
			texts = append(texts, s.Service.String()+" "+r.Address.String()+": "+r.Why)
		}
	}
	return texts
}

// Each real server that stays has the reason, also before the cluster has answered and
// where the last working ones stay.
func TestStatusSaysWhyKept(t *testing.T) {
	b := newBench(t, testVIP())
	server := newBenchServer(b)
	check := func(step string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, whys(server)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step, diff)
		}
	}
	b.put(service("10.0.0.1:80/tcp", "10.1.0.1", 1, "10.1.0.2", 0))
	b.pass()
	check("found at the start",
		"10.0.0.1:80/tcp 10.1.0.1: in service before, the cluster has not answered yet",
		"10.0.0.1:80/tcp 10.1.0.2: no pod or static entry left, draining")

	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	check("served", "10.0.0.1:80/tcp 10.1.0.1: pod a ready", "10.0.0.1:80/tcp 10.1.0.2: pod b ready")

	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	check("drains", "10.0.0.1:80/tcp 10.1.0.1: pod a ready", "10.0.0.1:80/tcp 10.1.0.2: no pod or static entry left, draining")

	b.loop.cluster.Set(testCluster(nil))
	b.pass()
	check("nothing else is in service", "10.0.0.1:80/tcp 10.1.0.1: kept, nothing else is in service", "10.0.0.1:80/tcp 10.1.0.2: no pod or static entry left, draining")

	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.loop.health.Set(&Health{Open: []FailOpen{{VIP: "edge", Why: "10.1.0.1: refused"}}})
	b.pass()
	check("all fail their probes", "10.0.0.1:80/tcp 10.1.0.1: pod a ready, kept, all real servers fail their probes", "10.0.0.1:80/tcp 10.1.0.2: no pod or static entry left, draining")
}

// A real server of the last known state says so, unless the configuration has it. So does one
// that stays with a port that fails on all.
func TestKeptReasons(t *testing.T) {
	vip := testVIP(func(v *VIP) { v.RealServers = []StaticServer{{Address: addr("10.1.0.9"), Weight: 1}} })
	other := testVIP(func(v *VIP) { v.Name, v.Pods.Selector = "other", "app=other" })
	keys := allKeys(&ClusterQuery{Pods: vip.PodQueries()})
	v := &loopState{Config: &Config{VIPs: []VIP{vip, other}}, Health: &Health{Open: []FailOpen{{VIP: "other", Port: 443}, {VIP: "other", Is6: true}}}}
	web, tls, udp := service("10.0.0.1:80/tcp").ServiceKey, service("10.0.0.1:443/tcp").ServiceKey, service("10.0.0.1:443/udp").ServiceKey
	row := func(address string, weight uint32, why string) *Row {
		return &Row{RealServer: RealServer{Address: addr(address), Weight: weight}, Why: why}
	}
	const failing = "3 of 4 that served are missing; to be confirmed by the next list"
	for _, test := range []struct {
		stream StreamState
		vip    string
		key    ServiceKey
		row    *Row
		want   string
	}{
		{StreamState{Synced: true}, "edge", web, row("10.1.0.1", 1, "pod a ready"), "pod a ready"},
		{StreamState{}, "edge", web, row("10.1.0.1", 1, "pod a ready"), "pod a ready, as the cluster said last"},
		{StreamState{Synced: true, LastError: failing}, "edge", web, row("10.1.0.1", 1, "pod a ready"), "pod a ready, as the cluster said last"},
		{StreamState{Synced: true, LastError: failing}, "edge", web, row("10.1.0.1", 0, "pod a terminating, draining"), "pod a terminating, draining"},
		{StreamState{Synced: true, LastError: failing}, "edge", web, row("10.1.0.9", 1, "static"), "static"},
		{StreamState{Synced: true, LastError: failing}, "other", web, row("10.1.0.1", 1, "pod c ready"), "pod c ready"},
		{StreamState{Synced: true}, "other", tls, row("10.1.0.1", 1, "pod c ready"), "pod c ready, kept, this port fails on all real servers"},
		{StreamState{Synced: true}, "other", udp, row("10.1.0.1", 1, "pod c ready"), "pod c ready"},
		{StreamState{Synced: true}, "other", MarkKey(7, true), row("2001:db8::1", 1, "pod c ready"), "pod c ready, kept, all real servers fail their probes"},
		{StreamState{}, "other", web, row("10.1.0.1", 0, ""), "kept as it was found, the inputs of the VIP are not known yet"},
		{StreamState{Synced: true}, "", web, row("10.1.0.1", 1, ""), ""},
	} {
		test.stream.Name = keys[0].String()
		if got := newKeptReasons(v, []StreamState{test.stream}).of(test.vip, test.key, test.row); got != test.want {
			t.Errorf("%+v, %s %s %s:\n%q, want\n%q", test.stream, test.vip, test.key, test.row.Name(), got, test.want)
		}
	}
}
