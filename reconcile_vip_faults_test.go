// The features of a VIP when things go wrong or meet each other: refused
// marks, restarts without memory, ports that only some nodes have.

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// notingHost notes the newest marks and announcements.
type notingHost struct {
	noHost
	marks     map[MarkedPort]uint32
	marked    int
	announced []netip.Addr
	owned     []VIPAddress
	err       error
}

func (h *notingHost) Mark(m map[MarkedPort]uint32, _ []macAddress) error {
	h.marked++
	if h.err == nil {
		h.marks = maps.Clone(m)
	}
	return h.err
}

func (h *notingHost) Marked() (map[MarkedPort]uint32, error) {
	h.marked++
	marks := make(map[MarkedPort]uint32)
	maps.Copy(marks, h.marks)
	return marks, nil
}

func (h *notingHost) Announce(_ context.Context, _ *Config, want vipAddresses) (vipsOnHost, error) {
	h.announced = want.Announced
	h.owned = nil
	for _, a := range want.Announced {
		h.owned = append(h.owned, VIPAddress{Device: "eth0", Address: a})
	}
	return vipsOnHost{Addresses: h.owned}, nil
}

func (b *bench) kernelText() string {
	return b.kernel.table(func(ServiceKey) bool { return true }).text()
}

// A static real server beside pods is not a joiner: its weight must not fall.
func TestVIPStaticServerStartsOnce(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) {
		v.Scheduler, v.Weight, v.SlowStart, v.TCPServices = "wrr", 100, 10*time.Second, ConfigMapName{}
		v.RealServers = []StaticServer{{Address: addr("10.1.0.9"), Weight: 100}}
	}))
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.want("10.0.0.1:80/tcp wrr: 10.1.0.1=100 10.1.0.9=100\n")
	low := 0
	for range 60 {
		b.later(time.Second)
		b.pass()
		if !strings.Contains(b.kernelText(), "10.1.0.9=100") {
			low++
		}
	}
	if low > 0 {
		t.Errorf("in %d of 60 seconds the static real server has less than its weight, in service all along", low)
	}
}

// A clock set back (state kept over a restart) must not prolong a start.
func TestVIPSlowStartClockSetBack(t *testing.T) {
	v := testVIP(func(v *VIP) {
		v.Scheduler, v.Weight, v.SlowStart, v.TCPServices = "wrr", 100, 10*time.Second, ConfigMapName{}
	})
	cfg := &Config{VIPs: []VIP{v}}
	m := newMemory()
	m.Working[workKey{"edge", false}] = []RealServer{rows("10.1.0.1", 100)[0].RealServer, rows("10.1.0.2", 100)[0].RealServer}
	m.Started[startKey{"edge", addr("10.1.0.2")}] = testTime.Add(time.Hour)
	c := testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"))
	w := desiredAnew(cfg, c, m, testTime)
	w = desiredAnew(cfg, c, w.Memory, testTime.Add(11*time.Second))
	if got := w.Shards.table().text(); !strings.Contains(got, "10.1.0.2=100") {
		t.Errorf("11 s after the clock was set back an hour: %s", got)
	}
}

// A port that some nodes lack must not be sent to them by the shared mark.
func TestVIPOneMarkWithPortsOfSomeNodes(t *testing.T) {
	v := testVIP(func(v *VIP) {
		v.Ports, v.TCPServices, v.PortsFromPods, v.OneMark = nil, ConfigMapName{}, true, true
	})
	ports := func(p ...Port) func(*Pod) { return func(pod *Pod) { pod.Ports = p } }
	c := &Cluster{Pods: map[PodQuery][]*Pod{v.PodQuery(): refs(
		with(readyPod("a", "10.1.0.1"), ports(Port{80, TCP})),
		with(readyPod("b", "10.1.0.2"), ports(Port{80, TCP}, Port{8443, TCP})),
	)}}
	w := desiredAnew(&Config{Marks: oneMarkRange, VIPs: []VIP{v}}, c, newMemory(), testTime)
	mark := w.Marks[MarkedPort{addr("10.0.0.1"), Port{8443, TCP}}]
	s := w.Shards.find(MarkKey(7, false))
	if mark == 7 && s != nil && slices.ContainsFunc(s.Servers, func(r Row) bool { return r.Address == addr("10.1.0.1") && r.Weight > 0 }) {
		t.Errorf("8443, which node a has not, is balanced to it:\n%s", describeTable(w))
	}
}

// A terminating pod's ports are not those of the ready pod on the same node.
func TestVIPPortsOfATerminatingPod(t *testing.T) {
	v := testVIP(func(v *VIP) { v.Ports, v.TCPServices, v.PortsFromPods = nil, ConfigMapName{}, true })
	ports := func(p ...Port) func(*Pod) { return func(pod *Pod) { pod.Ports = p } }
	old := with(readyPod("old", "10.1.0.1"), ports(Port{8080, TCP}))
	old.Terminating = true
	c := &Cluster{Pods: map[PodQuery][]*Pod{v.PodQuery(): refs(
		old,
		with(readyPod("new", "10.1.0.1"), ports(Port{9090, TCP})),
		with(readyPod("b", "10.1.0.2"), ports(Port{8080, TCP})),
	)}}
	w := desiredAnew(&Config{VIPs: []VIP{v}}, c, newMemory(), testTime)
	if got := w.Shards.table().text(); strings.Contains(got, "8080/tcp rr: 10.1.0.1=1") {
		t.Errorf("8080 of a node whose ready pod has it no more is in service:\n%s", got)
	}
}

// No pod at all: what was in service stays, also where the ports come from pods.
func TestVIPNoPodsLeftPortsFromPods(t *testing.T) {
	for _, sorry := range []bool{false, true} {
		v := testVIP(func(v *VIP) {
			v.Ports, v.TCPServices, v.PortsFromPods = nil, ConfigMapName{}, true
			if sorry {
				v.Sorry = []netip.Addr{addr("10.1.0.99")}
			}
		})
		b := newBench(t, v)
		b.loop.cluster.Set(&Cluster{Pods: map[PodQuery][]*Pod{v.PodQuery(): refs(with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Ports = []Port{{80, TCP}} }))}})
		b.pass()
		b.loop.cluster.Set(&Cluster{Pods: map[PodQuery][]*Pod{v.PodQuery(): {}}})
		b.pass()
		b.later(3 * time.Second)
		if !b.kernel.table(func(ServiceKey) bool { return true }).anyInService() {
			t.Errorf("sorry=%t: nobody is in service: %q", sorry, b.kernelText())
		}
	}
}

func (t Table) anyInService() bool { return slices.ContainsFunc(t, Service.InService) }

// The operator's weight 0 holds also for a port that only some nodes have.
func TestVIPStaticWeightZeroAndPortsOfSomeNodes(t *testing.T) {
	v := testVIP(func(v *VIP) {
		v.TCPServices, v.PortsFromPods = ConfigMapName{}, true
		v.RealServers = []StaticServer{{Address: addr("10.1.0.9"), Weight: 0}}
	})
	c := &Cluster{Pods: map[PodQuery][]*Pod{v.PodQuery(): refs(
		readyPod("a", "10.1.0.1"),
		with(readyPod("b", "10.1.0.2"), func(p *Pod) { p.Ports, p.Ready = []Port{{8443, TCP}}, false }),
	)}}
	w := desiredAnew(&Config{VIPs: []VIP{v}}, c, newMemory(), testTime)
	if got := w.Shards.table().text(); strings.Contains(got, "10.1.0.9=1") {
		t.Errorf("a real server taken out by hand is in service:\n%s", got)
	}
}

// A restart while a ConfigMap is not heard of keeps its ports marked.
func TestVIPMarksHeldOverARestart(t *testing.T) {
	b := newBench(t)
	host := &notingHost{}
	cfg := &Config{VIPs: []VIP{testVIP(func(v *VIP) { v.OneMark = true })}, AuditInterval: 10 * time.Second, Marks: oneMarkRange}
	b.loop.host = host
	b.loop.config.Set(cfg)
	b.loop.cluster.Set(testCluster(map[string]string{"9000": "ns/svc:1"}, readyPod("a", "10.1.0.1")))
	b.pass()
	if len(host.marks) != 2 {
		t.Fatal(host.marks)
	}
	b.restart() // and the API server is away
	b.loop.host = host
	b.pass()
	if len(host.marks) != 2 {
		t.Errorf("after a restart without an API server the marks are %v, want also that of 9000/tcp", host.marks)
	}
}

// Nor may a moment in which nftables refuses lose them.
func TestVIPMarksHeldOverAFailure(t *testing.T) {
	b := newBench(t)
	host := &notingHost{}
	b.loop.host = host
	v := testVIP(func(v *VIP) { v.OneMark = true })
	b.loop.config.Set(&Config{VIPs: []VIP{v}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	whole := testCluster(map[string]string{"9000": "ns/svc:1"}, readyPod("a", "10.1.0.1"))
	b.loop.cluster.Set(whole)
	b.pass()
	b.loop.cluster.Set(&Cluster{Pods: whole.Pods}) // another ConfigMap, say, not heard of yet
	host.err = errors.New("nftables table inet lvs-controller: busy")
	b.clock = b.clock.Add(11 * time.Second)
	b.pass()
	host.err = nil
	b.clock = b.clock.Add(time.Second)
	b.pass()
	if len(host.marks) != 2 {
		t.Errorf("after a failure the marks are %v, want also that of 9000/tcp", host.marks)
	}
}

// A kernel without nf_tables disturbs only the VIP that needs marks.
func TestVIPMarkFailureDisturbsOthers(t *testing.T) {
	b := newBench(t)
	plain := testVIP(func(v *VIP) { v.TCPServices = ConfigMapName{} })
	marked := testVIP(func(v *VIP) {
		v.Name, v.Addresses, v.TCPServices, v.OneMark = "marked", []netip.Addr{addr("10.0.0.2")}, ConfigMapName{}, true
	})
	b.loop.host = &notingHost{err: errNoNFTables}
	b.loop.config.Set(&Config{VIPs: []VIP{plain, marked}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1"), with(readyPod("b", "10.1.0.2"), func(p *Pod) { p.Ready = false })))
	b.pass()
	b.later(30 * time.Second)
	if got := b.kernelText(); strings.Contains(got, "10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1") {
		t.Errorf("a pod that is not ready stays in service of the other VIP:\n%s", got)
	}
}

// A mark service that the kernel refuses costs its ports nothing.
func TestVIPRefusedMarkServiceKeepsTheOld(t *testing.T) {
	b := newBench(t)
	host := &notingHost{}
	b.loop.host = host
	set := func(edit func(*VIP)) {
		v := testVIP(func(v *VIP) { v.TCPServices = ConfigMapName{} })
		edit(&v)
		b.loop.config.Set(&Config{VIPs: []VIP{v}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	}
	set(func(*VIP) {})
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.kernel.noSched["mh"] = true
	set(func(v *VIP) { v.Scheduler, v.OneMark = "mh", true })
	b.pass()
	b.later(5 * time.Second)
	if got := b.kernelText(); !strings.Contains(got, "10.0.0.1:80/tcp rr: 10.1.0.1=1") {
		t.Errorf("module ip_vs_mh is missing, and port 80 is served no more: %q, marks %v", got, host.marks)
	}
	// The same with a real server without a route at that moment.
	b.kernel.noSched["mh"] = false
	b.kernel.refuse = func(o op) error {
		if o.Kind == newServer && o.Service.Mark != 0 {
			return unix.EINVAL
		}
		return nil
	}
}

// The address of a removed VIP with groups stays until its mark service has
// drained.
func TestVIPAnnounceUntilTheMarkServiceHasDrained(t *testing.T) {
	b := newBench(t)
	host := &notingHost{}
	b.loop.host = host
	v := testVIP(func(v *VIP) { v.TCPServices, v.OneMark, v.Announce = ConfigMapName{}, true, AnnounceARP })
	other := testVIP(func(v *VIP) {
		v.Name, v.Addresses, v.TCPServices = "other", []netip.Addr{addr("10.0.0.2")}, ConfigMapName{}
	})
	b.loop.config.Set(&Config{VIPs: []VIP{v, other}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	if len(host.announced) != 1 {
		t.Fatal(host.announced)
	}
	b.kernel.conns[rowID{MarkKey(7, false), addr("10.1.0.1"), 0}] = Connections{Active: 3}
	b.loop.config.Set(&Config{VIPs: []VIP{other}, AuditInterval: 10 * time.Second, Marks: oneMarkRange})
	b.pass()
	if len(host.announced) != 1 {
		t.Errorf("announced %v while three connections drain:\n%s", host.announced, b.kernelText())
	}
}

// Without its state the controller still finds a mark table of an earlier run,
// whose marks would send the VIP's packets to services nobody looks after.
func TestVIPMarkTableOfAnEarlierRun(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.TCPServices = ConfigMapName{} }))
	host := &notingHost{marks: map[MarkedPort]uint32{{addr("10.0.0.1"), Port{80, TCP}}: 7}}
	b.loop.host = host
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	b.pass()
	b.later(30 * time.Second)
	if host.marked == 0 {
		t.Error("nobody has looked for marks of an earlier run")
	}
}

// What is kept has the configuration's forwarding and thresholds.
func TestVIPKeptServersFollowTheConfiguration(t *testing.T) {
	before := memory{Working: map[workKey][]RealServer{{"edge", false}: {{Address: addr("10.1.0.1"), Forward: DirectRoute, Weight: 1, Upper: 5}}}}
	v := testVIP(func(v *VIP) { v.TCPServices, v.Forward = ConfigMapName{}, Tunnel })
	w := desiredAnew(&Config{VIPs: []VIP{v}}, testCluster(nil), before, testTime)
	if r := w.Shards.table()[0].Servers[0]; r.Forward != Tunnel || r.Upper != 0 {
		t.Errorf("kept as %+v, want a tunnel without a threshold", r.RealServer)
	}
}

// The log and `diff` say what an edit changes.
func TestVIPEditsAreDescribed(t *testing.T) {
	a, b := rows("10.1.0.1", 1)[0].RealServer, rows("10.1.0.1", 1)[0].RealServer
	a.Forward, b.Forward = Tunnel, Tunnel
	b.Tunnel.Type = TunnelGRE
	if s := serverChange(a, b); s == "" {
		t.Error("a change of the tunnel is not described")
	}
	x, y := service("10.0.0.1:53/udp").VirtualService, service("10.0.0.1:53/udp").VirtualService
	y.Engine = "sip"
	if s := serviceChange(x, y); s == "" {
		t.Error("a change of the persistence engine is not described")
	}
}

// A VIP that is added to others takes none of their marks while they serve.
func TestVIPAddedGroupDoesNotServeAnothersClients(t *testing.T) {
	// Find names whose homes collide, the new one first in order.
	r := MarkRange{First: 100, Count: 2}
	old := testVIP(func(v *VIP) { v.Name, v.TCPServices, v.OneMark = "z", ConfigMapName{}, true; v.Pods.Selector = "app=z" })
	var added VIP
	for i := range 100 {
		name := fmt.Sprintf("a%d", i)
		if (GroupName{name, "all"}).home(r) == (GroupName{"z", "all"}).home(r) {
			added = testVIP(func(v *VIP) {
				v.Name, v.TCPServices, v.OneMark, v.Addresses = name, ConfigMapName{}, true, []netip.Addr{addr("10.0.0.2")}
			})
			break
		}
	}
	b := newBench(t)
	host := &notingHost{}
	b.loop.host = host
	b.loop.config.Set(&Config{VIPs: []VIP{old}, AuditInterval: 10 * time.Second, Marks: r})
	c := &Cluster{Pods: map[PodQuery][]*Pod{old.PodQuery(): refs(readyPod("z", "10.1.0.1"))}}
	b.loop.cluster.Set(c)
	b.pass()
	mark := host.marks[MarkedPort{addr("10.0.0.1"), Port{80, TCP}}]
	b.kernel.onApply = func(o op) {
		if o.Kind == newServer && o.Service.Mark == mark && host.marks[MarkedPort{addr("10.0.0.1"), Port{80, TCP}}] == mark {
			t.Errorf("%s comes into %s while the other VIP's packets still have that mark", o.Server.Name(), o.Service.ServiceKey)
		}
	}
	c = &Cluster{Pods: map[PodQuery][]*Pod{old.PodQuery(): refs(readyPod("z", "10.1.0.1")), added.PodQuery(): refs(readyPod("a", "10.1.0.7"))}}
	b.loop.config.Set(&Config{VIPs: []VIP{old, added}, AuditInterval: 10 * time.Second, Marks: r})
	b.pass() // the new query has no answer yet
	if got := b.loop.state.Memory.Working[workKey{added.Name, false}]; len(got) > 0 {
		t.Errorf("the new VIP is taken to have been served by %v, real servers of another", names(got))
	}
	b.loop.cluster.Set(c)
	b.pass()
}

// Two refusals are said once each, although the first attempt has them in another order
// than those after it.
func TestVIPRefusalsAreSaidOnce(t *testing.T) {
	b := newBench(t, twoOfOne().VIPs...)
	b.loop.cluster.Set(clusterOfTwo(entries("9000"), entries("9001")))
	b.pass()
	b.kernel.refuse = func(o op) error {
		if o.Kind == newServer {
			return unix.ENOMEM
		}
		return nil
	}
	b.loop.cluster.Set(clusterOfTwo(entries("9001"), entries("9002")))
	b.pass()
	b.later(time.Minute)
	if n := strings.Count(b.log.String(), "could not be updated completely"); n != 2 {
		t.Errorf("said %d times, want 2:\n%s", n, b.log)
	}
}
