// The scenarios of reconcile_seams_test.go: what has the loop call the kernel and the
// host.

package main

import (
	"context"
	"net/netip"
	"time"
)

// seamScenario is some change of what the loop works with.
type seamScenario struct {
	name   string
	begin  func(r *seamRun) // without a fault
	change func(r *seamRun) // from here on calls are counted
	table  string           // at the end, of what is ours
}

// runs has the loop come to rest with these VIPs and this cluster.
func (r *seamRun) runs(c *Cluster, vips ...VIP) {
	r.configure(vips...)
	r.loop.cluster.Set(c)
	r.loop.pass(context.Background())
	r.later(5 * time.Second)
}

const seamTable = "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n"

// seamPods are two nodes, with these ports in the ConfigMap.
func seamPods(ports ...string) *Cluster {
	return testCluster(entries(ports...), readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"))
}

var seamScenarios = []seamScenario{
	{
		name:   "an empty table",
		begin:  func(*seamRun) {},
		change: func(r *seamRun) { r.configure(testVIP()); r.loop.cluster.Set(seamPods("9000")) },
		table:  seamTable + "10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=1\n",
	},
	{
		name: "a stale table",
		begin: func(r *seamRun) {
			web := service("10.0.0.1:80/tcp", "10.1.0.1", 1, "10.1.0.7", 1)
			web.Scheduler = "wlc"
			r.put(web, service("10.0.0.1:81/tcp", "10.1.0.1", 1))
			r.serving = web.ServiceKey
		},
		change: func(r *seamRun) {
			r.configure(testVIP(func(v *VIP) { v.Drain.Timeout = time.Second }))
			r.loop.cluster.Set(seamPods())
		},
		table: seamTable,
	},
	{
		name: "other ports",
		begin: func(r *seamRun) {
			r.runs(seamPods("9000", "9001"), testVIP(func(v *VIP) { v.Drain.Timeout = time.Second }))
			r.serving = service("10.0.0.1:80/tcp").ServiceKey
		},
		change: func(r *seamRun) { r.loop.cluster.Set(seamPods("9001", "9002")) },
		table:  seamTable + "10.0.0.1:9001/tcp rr: 10.1.0.1=1 10.1.0.2=1\n10.0.0.1:9002/tcp rr: 10.1.0.1=1 10.1.0.2=1\n",
	},
	{
		name: "a pod leaves and drains",
		begin: func(r *seamRun) {
			r.runs(seamPods(), testVIP(func(v *VIP) { v.Drain.Timeout = 3 * time.Second }))
			r.serving = service("10.0.0.1:80/tcp").ServiceKey
			r.kernel.conns[rowOf(r.serving, rows("10.1.0.2", 0)[0].RealServer)] = Connections{Active: 1}
		},
		change: func(r *seamRun) { r.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"))) },
		table:  "10.0.0.1:80/tcp rr: 10.1.0.1=1\n",
	},
	{
		name: "a reload",
		begin: func(r *seamRun) {
			gone := testVIP(func(v *VIP) { v.Name, v.Addresses = "gone", []netip.Addr{addr("10.0.0.2")} })
			r.runs(seamPods(), testVIP(), gone)
			r.serving = service("10.0.0.1:80/tcp").ServiceKey
		},
		change: func(r *seamRun) {
			web := testVIP(func(v *VIP) {
				v.Scheduler, v.Persistence, v.NoTrack, v.Announce = "wlc", Persistence{Timeout: 5 * time.Minute}, true, AnnounceARP
			})
			fresh := testVIP(func(v *VIP) { v.Name, v.Addresses = "fresh", []netip.Addr{addr("10.0.0.3")} })
			r.sync = pairSync()
			r.configure(web, fresh)
			cfg := *r.loop.config.Get()
			cfg.Timeouts = Timeouts{TCP: time.Hour}
			r.loop.config.Set(&cfg)
		},
		table: "10.0.0.1:80/tcp wlc: 10.1.0.1=1 10.1.0.2=1\n10.0.0.3:80/tcp rr: 10.1.0.1=1 10.1.0.2=1\n",
	},
	{
		name: "a shared address",
		begin: func(r *seamRun) {
			cfg := twoOfOne()
			r.runs(clusterOfTwo(entries("9000"), entries("9001")), cfg.VIPs...)
			r.serving = service("10.0.0.1:80/tcp").ServiceKey
		},
		change: func(r *seamRun) { r.loop.cluster.Set(clusterOfTwo(entries("9001"), entries("9002"))) },
		table:  "10.0.0.1:80/tcp rr: 10.1.0.1=1\n10.0.0.1:443/tcp wlc: 10.1.0.2=1\n10.0.0.1:9001/tcp rr: 10.1.0.1=1\n10.0.0.1:9002/tcp wlc: 10.1.0.2=1\n",
	},
	{
		name: "marks",
		begin: func(r *seamRun) {
			r.runs(seamPods("9000"), testVIP(func(v *VIP) { v.Drain.Timeout = time.Second }))
		},
		change: func(r *seamRun) {
			r.configure(testVIP(func(v *VIP) { v.OneMark, v.Drain.Timeout = true, time.Second }))
			r.loop.cluster.Set(seamPods("9000", "9001"))
		},
		table: "mark-4431/ipv4 rr: 10.1.0.1=1 10.1.0.2=1\n",
	},
	{
		name: "back from marks",
		begin: func(r *seamRun) {
			r.runs(seamPods("9000"), testVIP(func(v *VIP) { v.OneMark, v.Drain.Timeout = true, time.Second }))
		},
		change: func(r *seamRun) { r.configure(testVIP(func(v *VIP) { v.Drain.Timeout = time.Second })) },
		table:  seamTable + "10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=1\n",
	},
	{
		name: "a restart",
		begin: func(r *seamRun) {
			r.runs(seamPods("9000"), testVIP())
			r.serving = service("10.0.0.1:80/tcp").ServiceKey
		},
		change: func(r *seamRun) { r.restart(); r.loop.cluster.Set(seamPods("9000", "9001")) },
		table:  seamTable + "10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=1\n10.0.0.1:9001/tcp rr: 10.1.0.1=1 10.1.0.2=1\n",
	},
}
