package main

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// manyPorts is a tcp-services ConfigMap with n entries.
func manyPorts(n int) map[string]string {
	tcp := make(map[string]string, n)
	for i := range n {
		tcp[fmt.Sprint(20000+i)] = "ns/svc:1"
	}
	return tcp
}

// A node that leaves many services is counted a few services at a time. What
// comes meanwhile does not wait, and the node goes from all of them together.
func TestLoopCountsInSlices(t *testing.T) {
	const services = 3*countAtOnce + 1
	b := newBench(t, testVIP(func(v *VIP) { v.Ports = nil }))
	tcp := manyPorts(services)
	a, gone, late := readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")
	b.loop.cluster.Set(testCluster(tcp, a, gone))
	b.pass()
	b.loop.cluster.Set(testCluster(tcp, a))
	b.pass()
	b.clock = b.clock.Add(drainPoll)
	b.pass()
	if next := b.loop.next(); next.After(b.clock) {
		t.Fatalf("the count does not go on at once but in %s", next.Sub(b.clock))
	}
	b.loop.cluster.Set(testCluster(tcp, a, late))
	b.pass()
	if n := b.rowsOf("10.1.0.3"); n != services {
		t.Errorf("the new node is in %d services while the old one is counted, want %d", n, services)
	}
	if n := b.rowsOf("10.1.0.2"); n != services {
		t.Errorf("the old node is in %d services before all are counted, want %d", n, services)
	}
	// The newcomer has changed every service, but none of the drains.
	b.later(drainPoll / 2)
	if n := b.rowsOf("10.1.0.2"); n != 0 {
		t.Errorf("the old node is still in %d services", n)
	}
}

// While there is no newer input, one pass counts all services.
func TestLoopCountsAtOnce(t *testing.T) {
	const services = 3*countAtOnce + 1
	b := newBench(t, testVIP(func(v *VIP) { v.Ports = nil }))
	tcp := manyPorts(services)
	a, gone := readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")
	b.loop.cluster.Set(testCluster(tcp, a, gone))
	b.pass()
	b.loop.cluster.Set(testCluster(tcp, a))
	b.pass()
	<-b.loop.wake
	b.clock = b.clock.Add(drainPoll)
	b.pass()
	if n := b.rowsOf("10.1.0.2"); n != 0 {
		t.Errorf("the node is still in %d services", n)
	}
}

// rowsOf counts the services that have a real server.
func (b *bench) rowsOf(address string) int {
	n := 0
	for id := range b.kernel.servers {
		if id.Address == addr(address) {
			n++
		}
	}
	return n
}

// Whatever else makes the loop compute a service again and again does not put its
// counting off: here, that its VIP is removed, or slow start.
func TestLoopCountsWhatIsSettledEachTurn(t *testing.T) {
	t.Run("a VIP removed", func(t *testing.T) {
		keep := testVIP()
		many := testVIP(func(v *VIP) { v.Name, v.Addresses, v.Ports = "many", []netip.Addr{addr("10.0.0.2")}, nil })
		for i := range countAtOnce + 1 {
			many.Ports = append(many.Ports, Port{uint16(20000 + i), TCP})
		}
		b := newBench(t, keep, many)
		b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
		b.pass()
		b.configure(keep)
		b.pass()
		b.later(3 * drainPoll)
		if n := len(b.kernel.services); n != 1 {
			t.Errorf("%d services are left, none of which has a connection", n-1)
		}
	})
	t.Run("slow start", func(t *testing.T) {
		b := newBench(t, testVIP(func(v *VIP) { v.Ports, v.SlowStart = nil, 10*time.Minute }))
		tcp := manyPorts(countAtOnce + 1)
		a, old, fresh := readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")
		b.loop.cluster.Set(testCluster(tcp, a, old))
		b.pass()
		b.loop.cluster.Set(testCluster(tcp, a, fresh))
		b.pass()
		b.later(3 * drainPoll)
		if n := b.rowsOf("10.1.0.2"); n > 0 {
			t.Errorf("the idle node is still in %d services", n)
		}
	})
}

// A round that nobody needs any more is forgotten.
func TestLoopForgetsAnAbandonedRound(t *testing.T) {
	b := newBench(t, testVIP(func(v *VIP) { v.Ports = nil }))
	tcp := manyPorts(3 * countAtOnce)
	a, gone := readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")
	b.loop.cluster.Set(testCluster(tcp, a, gone))
	b.pass()
	b.loop.cluster.Set(testCluster(tcp, a))
	b.pass()
	b.clock = b.clock.Add(drainPoll)
	b.pass()
	b.loop.cluster.Set(testCluster(tcp, a, gone))
	b.pass()
	b.later(time.Minute)
	if n := len(b.loop.counting.left) + len(b.loop.counting.found); n > 0 {
		t.Errorf("%d services of an old table are held", n)
	}
}

// A real server that is wanted again while connections are counted, and leaves
// once more, is not taken for idle by what was counted before.
func TestLoopForgetsAnOldCount(t *testing.T) {
	const services = countAtOnce + 1
	b := newBench(t, testVIP(func(v *VIP) { v.Ports = nil }))
	tcp := manyPorts(services)
	a, gone, busy := readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"), readyPod("c", "10.1.0.3")
	b.loop.cluster.Set(testCluster(tcp, a, gone, busy))
	b.pass()
	for id := range b.kernel.servers {
		if id.Address == busy.Addresses[0] {
			b.kernel.conns[id] = Connections{Active: 1} // it keeps the round going
		}
	}
	b.loop.cluster.Set(testCluster(tcp, a))
	b.pass()
	b.clock = b.clock.Add(drainPoll)
	b.pass() // the first slice finds it idle
	b.loop.due.poll = b.clock.Add(time.Millisecond)
	b.loop.cluster.Set(testCluster(tcp, a, gone))
	b.pass()
	for id := range b.kernel.servers {
		b.kernel.conns[id] = Connections{Active: 1} // clients come
	}
	b.loop.cluster.Set(testCluster(tcp, a))
	b.pass()
	b.later(5 * drainPoll)
	for id, r := range b.kernel.servers {
		if id.Address == gone.Addresses[0] && r.Weight != 0 {
			t.Fatalf("%v is not quiesced", id)
		}
	}
	if n := len(b.kernel.servers); n != 3*services {
		t.Errorf("%d rows, want %d: real servers with connections were removed", n, 3*services)
	}
}

// What comes while a batch is under way goes into one next batch, the newest of
// it alone, and nothing waits for a fixed time.
func TestLoopCoalesces(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.now = time.Now
	busy, free := make(chan struct{}), make(chan struct{})
	first := true
	b.kernel.onApply = func(op) {
		if first {
			first = false
			close(busy)
			<-free
		}
	}
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.loop.Run(t.Context())
	}()
	t.Cleanup(func() { <-done })
	<-busy
	for i := range 100 {
		b.loop.cluster.Set(testCluster(nil, readyPod("a", fmt.Sprintf("10.1.1.%d", i+1))))
	}
	close(free)
	lab.Within(t, 10*time.Second, func() string {
		if v := b.loop.published.Load(); v != nil && v.Shards.find(service("10.0.0.1:80/tcp").ServiceKey) != nil {
			for _, r := range v.Shards[0].Services[0].Servers {
				if r.Address == addr("10.1.1.100") {
					return ""
				}
			}
		}
		return "the newest has not been applied"
	})
	if n := b.loop.counters.Reconciles.Load(); n != 2 {
		t.Errorf("%d turns for the first event and the 100 that came during it, want 2", n)
	}
}
