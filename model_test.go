package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestModel drives the loop with random sequences of events over a fake kernel, and
// checks after each of them what must always be true:
//
//   - services on other addresses are never touched;
//   - a service that the loop serves is never without a real server in service
//     once its VIP has had one, unless the kernel refuses them all;
//   - nothing is quiesced for longer than the drain timeout;
//   - a second pass with the same inputs changes nothing;
//   - one pass after the last disturbance, the real servers in service are those that
//     the inputs ask for; a minute later the whole table is.
//
// `make model` runs 20,000 sequences.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t, rt)
		rt.Repeat(map[string]func(*rapid.T){
			"":          m.check,
			"cluster":   m.changeCluster,
			"config":    m.changeConfig,
			"crash":     m.crash,
			"drift":     m.drift,
			"routes":    m.changeRoutes,
			"probes":    m.changeProbes,
			"refusals":  m.changeRefusals,
			"break":     m.breakConnection,
			"clients":   m.changeConnections,
			"time":      m.passTime,
			"blackout":  m.crashWithoutCluster,
			"pass only": func(*rapid.T) { m.turn() },
		})
		m.calm(rt)
	})
}

type model struct {
	*bench
	foreign  string
	cluster  *Cluster
	quiesced map[rowID]time.Time // since when, as the kernel shows it
	served   map[string]bool     // VIPs that have had a real server in service
}

const modelNodes = 4

func newModel(t *testing.T, rt *rapid.T) *model {
	m := &model{bench: newBench(t, testVIP()), quiesced: make(map[rowID]time.Time), served: make(map[string]bool)}
	// A count of connections takes several passes, as in a large table.
	m.awake = rapid.Bool().Draw(rt, "the loop takes what rings it")
	m.countAtOnce = rapid.SampledFrom([]int{0, 1}).Draw(rt, "services counted at once")
	m.restartProbed()
	foreign := service("10.9.9.9:80/tcp", "10.1.0.1", 7, "10.1.0.9", 0)
	m.put(foreign)
	m.foreign = m.foreignRows()
	m.changeCluster(rt)
	return m
}

func (m *model) foreignRows() string {
	return m.kernel.table(func(k ServiceKey) bool { return k.Address == addr("10.9.9.9") }).text()
}

func (m *model) ours() Table {
	return m.kernel.table(func(k ServiceKey) bool { return k.Address != addr("10.9.9.9") })
}

func (m *model) turn() {
	m.bench.pass()
	m.noteQuiesced()
}

// restartProbed is restart with the results of the earlier probes.
func (m *model) restartProbed() {
	m.restart()
	m.loop.health, m.loop.probes = newLatest[Health](m.loop.wake), newLatest[ProbePlan]()
	m.loop.health.Set(&Health{Down: m.loop.state.Down})
}

// wanted is what the inputs ask for, computed from nothing.
func (m *model) wanted() wanted {
	return desired(nil, m.loop.config.Get(), m.cluster, m.loop.health.Get(), m.loop.state.Memory, m.clock)
}

// changeProbes gives random results of probes, also ones that take out all real servers:
// the loop must not depend on the prober's rule against that.
func (m *model) changeProbes(rt *rapid.T) {
	h := &Health{Down: make(map[HealthKey]string)}
	for _, vip := range []string{"edge", "vip0", "vip1"} {
		for node := range modelNodes {
			a := addr(fmt.Sprintf("10.1.0.%d", node+1))
			switch rapid.IntRange(0, 5).Draw(rt, "probe") {
			case 0:
				h.Down[HealthKey{vip, a, 0}] = "no answer"
			case 1:
				h.Down[HealthKey{vip, a, 9000}] = "port 9000/tcp: refused"
			}
		}
	}
	m.loop.health.Set(h)
	m.turn()
}

// changeRefusals makes the kernel refuse some operations at random, or none.
func (m *model) changeRefusals(rt *rapid.T) {
	m.kernel.refuse = nil
	if rapid.Bool().Draw(rt, "refuses") {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		m.kernel.refuse = func(op) error {
			if random.IntN(4) == 0 {
				return unix.ENOMEM
			}
			return nil
		}
	}
	m.turn()
}

// breakConnection breaks the next exchange with the kernel in the middle, and changes
// the table as another program would, so that there is an exchange.
func (m *model) breakConnection(rt *rapid.T) {
	left := rapid.IntRange(0, 3).Draw(rt, "operations before the break")
	m.kernel.breakAt = func(op) bool { left--; return left < 0 }
	m.drift(rt)
	m.kernel.breakAt = nil
}

// disturbed reports whether the kernel refuses at random, or the last exchange with it
// broke: then its table is incomplete.
func (m *model) disturbed() bool {
	return m.kernel.refuse != nil || m.loop.kernel.director == nil || m.loop.published.Load().Err != nil && len(m.kernel.noRoute) == 0
}

// noteQuiesced notes for the model how long rows have been at weight 0. A row that the
// loop wants back, though the kernel may refuse that, does not drain: its time begins
// again when it is no longer wanted.
func (m *model) noteQuiesced() {
	back := make(map[rowID]bool)
	for s := range m.loop.state.Leaving.all {
		for _, r := range s.Servers {
			back[rowOf(s.ServiceKey, r.RealServer)] = r.Weight > 0
		}
	}
	now := make(map[rowID]time.Time)
	for _, s := range m.ours() {
		for _, r := range s.Servers {
			if id := rowOf(s.ServiceKey, r.RealServer); r.Weight == 0 {
				now[id] = m.clock
				if since, ok := m.quiesced[id]; ok && !back[id] {
					now[id] = since
				}
			}
		}
	}
	m.quiesced = now
}

func (m *model) changeCluster(rt *rapid.T) {
	var pods []Pod
	for i := range rapid.IntRange(0, 5).Draw(rt, "pods") {
		node := rapid.IntRange(1, modelNodes).Draw(rt, "node")
		state := rapid.SampledFrom([]string{"ready", "ready", "ready", "not ready", "terminating", "pod network"}).Draw(rt, "state")
		pods = append(pods, with(readyPod(fmt.Sprint("p", i), fmt.Sprintf("10.1.0.%d", node)), func(p *Pod) {
			p.Ready = state != "not ready"
			p.Terminating = state == "terminating"
			p.HostNetwork = state != "pod network"
		}))
	}
	tcp := make(map[string]string)
	for _, port := range []string{"9000", "9001", "abc"} {
		if rapid.Bool().Draw(rt, port) {
			tcp[port] = "ns/svc:80"
		}
	}
	m.cluster = testCluster(tcp, pods...)
	m.loop.cluster.Set(m.cluster)
	m.turn()
}

func (m *model) changeConfig(rt *rapid.T) {
	var vips []VIP
	for i, a := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.1"} {
		if i > 0 && !rapid.Bool().Draw(rt, fmt.Sprint(i, a)) {
			continue
		}
		vips = append(vips, testVIP(func(v *VIP) {
			v.Name = fmt.Sprint("vip", i)
			v.Addresses = []netip.Addr{addr(a)}
			v.Scheduler = rapid.SampledFrom([]string{"rr", "wlc"}).Draw(rt, "scheduler")
			if rapid.Bool().Draw(rt, "probed") {
				v.Probes = &Probes{Ports: true}
			}
			v.Weight = uint32(rapid.IntRange(1, 3).Draw(rt, "weight"))
			v.Drain.Timeout = time.Duration(rapid.SampledFrom([]int{0, 3, 300}).Draw(rt, "drain")) * time.Second
			if rapid.IntRange(0, 3).Draw(rt, "static") == 0 {
				v.RealServers = []StaticServer{{Address: addr("10.1.0.4"), Weight: uint32(rapid.IntRange(0, 2).Draw(rt, "its weight"))}}
			}
			if rapid.IntRange(0, 3).Draw(rt, "sorry") == 0 {
				v.Sorry = []netip.Addr{addr("10.1.0.5")}
			}
			v.OneMark = rapid.IntRange(0, 5).Draw(rt, "one mark") == 0
			if rapid.Bool().Draw(rt, "udp") {
				v.Ports = append(v.Ports, Port{53, UDP})
			}
			if i == 2 { // it shares an address, and its ConfigMap has the same ports
				v.Ports = []Port{{443, TCP}}
			}
		}))
	}
	if rapid.Bool().Draw(rt, "the last one first") {
		vips[0], vips[len(vips)-1] = vips[len(vips)-1], vips[0]
	}
	for name := range m.served {
		if !slices.ContainsFunc(vips, func(v VIP) bool { return v.Name == name }) {
			delete(m.served, name) // withdrawn on purpose
		}
	}
	m.configure(vips...)
	clear(m.quiesced) // a new policy counts from its first pass
	m.turn()
}

func (m *model) crash(*rapid.T) {
	m.restartProbed()
	m.loop.cluster.Set(m.cluster)
	m.turn()
}

// crashWithoutCluster is a start while the API server is away.
func (m *model) crashWithoutCluster(rt *rapid.T) {
	before, calm := m.inService(), !m.disturbed()
	m.restartProbed()
	m.turn()
	if after := m.inService(); len(m.kernel.noRoute) == 0 && calm && !m.disturbed() && after < before {
		rt.Fatalf("a restart without the API server took real servers out of service: %d to %d\n%s", before, after, m.ours().text())
	}
	m.loop.cluster.Set(m.cluster)
	m.turn()
}

func (m *model) inService() int {
	n := 0
	for _, s := range m.ours() {
		for _, r := range s.Servers {
			if r.Weight > 0 {
				n++
			}
		}
	}
	return n
}

// drift changes the controller's services as another program would.
func (m *model) drift(rt *rapid.T) {
	for _, s := range m.ours() {
		if rapid.IntRange(0, 3).Draw(rt, "drop "+s.ServiceKey.String()) == 0 {
			delete(m.kernel.services, s.ServiceKey)
			for _, r := range s.Servers {
				delete(m.kernel.servers, rowOf(s.ServiceKey, r.RealServer))
			}
			continue
		}
		for _, r := range s.Servers {
			id := rowOf(s.ServiceKey, r.RealServer)
			switch rapid.IntRange(0, 5).Draw(rt, "row") {
			case 0:
				delete(m.kernel.servers, id)
			case 1:
				r.Weight = 9
				m.kernel.servers[id] = r.RealServer
			}
		}
	}
	m.put(service("10.0.0.1:7777/tcp", "10.1.0.3", 1))
	m.noteQuiesced() // rows that this put in service begin their drain again
	m.advance(11 * time.Second)
}

func (m *model) changeRoutes(rt *rapid.T) {
	clear(m.kernel.noRoute)
	for node := range modelNodes {
		if rapid.IntRange(0, 4).Draw(rt, "route") == 0 {
			m.kernel.noRoute[addr(fmt.Sprintf("10.1.0.%d", node+1))] = true
		}
	}
	m.turn()
}

func (m *model) changeConnections(rt *rapid.T) {
	clear(m.kernel.conns)
	for _, s := range m.kernel.table(func(ServiceKey) bool { return true }) {
		for _, r := range s.Servers {
			if rapid.Bool().Draw(rt, "connections") {
				m.kernel.conns[rowOf(s.ServiceKey, r.RealServer)] = Connections{Inactive: 1}
			}
		}
	}
	m.turn()
}

func (m *model) passTime(rt *rapid.T) {
	m.advance(time.Duration(rapid.IntRange(1, 400).Draw(rt, "seconds")) * time.Second)
}

// advance is later with noteQuiesced at each step.
func (m *model) advance(d time.Duration) {
	end := m.clock.Add(d)
	for {
		next := m.loop.next()
		if next.After(end) {
			break
		}
		if next.After(m.clock) {
			m.clock = next
		}
		m.turn()
	}
	m.clock = end
}

func (m *model) check(rt *rapid.T) {
	if got := m.foreignRows(); got != m.foreign {
		rt.Fatalf("rows on other addresses were touched:\n%s", got)
	}
	if m.loop.published.Load().Err == nil {
		n := len(m.kernel.applied)
		m.turn()
		for _, o := range m.kernel.applied[n:] {
			rt.Fatalf("a second pass changes something: %s", o)
		}
	}
	if m.disturbed() {
		return
	}
	w := m.wanted()
	ours := m.ours()
	for _, s := range w.Shards.table() {
		if kernel := ours.at(s.ServiceKey); kernel != nil && kernel.InService() {
			m.served[s.VIP] = m.served[s.VIP] || m.servedByPods(s.VIP, kernel.Servers)
			continue
		}
		// desired is not the only measure: a service that once served must continue to
		// serve, whatever the inputs say.
		if m.served[s.VIP] && len(m.kernel.noRoute) == 0 || s.InService() && !m.allRefused(s) {
			rt.Fatalf("%s is empty although %v could serve\n%s\n%s", s.ServiceKey, s.Servers, ours.text(), m.log)
		}
	}
	for id, since := range m.quiesced {
		limit := defaultDrainTimeout
		if v := m.loop.planner.owners.of(id.Service); v != nil {
			limit = v.Drain.Timeout
		}
		// Retries after a refusal may come this much later.
		if age := m.clock.Sub(since); age > limit+retryMost && m.loop.published.Load().Err == nil {
			rt.Fatalf("%v has been quiesced for %s, the limit is %s\n%s", id, age, limit, ours.text())
		}
	}
}

// servedByPods reports whether a pod's node is in service: static real servers may leave
// by the configuration, and sorry servers when others join.
func (m *model) servedByPods(vip string, rows []Row) bool {
	i := slices.IndexFunc(m.loop.config.Get().VIPs, func(v VIP) bool { return v.Name == vip })
	v := &m.loop.config.Get().VIPs[i]
	return slices.ContainsFunc(rows, func(r Row) bool {
		return r.Weight > 0 && !v.isStatic(r.Address) && !slices.Contains(v.Sorry, r.Address)
	})
}

// allRefused reports whether the kernel has no route to any real server that
// should be in service.
func (m *model) allRefused(s Service) bool {
	for _, r := range s.Servers {
		if r.Weight > 0 && !m.kernel.noRoute[r.Address] {
			return false
		}
	}
	return true
}

// calm ends all disturbances and compares the table with the inputs.
func (m *model) calm(rt *rapid.T) {
	clear(m.kernel.noRoute)
	m.kernel.refuse = nil
	m.turn()
	if got, want := inServiceText(m.ours()), inServiceText(m.wanted().Shards.table()); got != want {
		rt.Fatalf("one pass does not put in service:\n%s\nwant:\n%s\nlog:\n%s", got, want, m.log)
	}
	clear(m.kernel.conns)
	m.advance(time.Minute)
	w := m.wanted()
	wanted := w.Shards.table()
	for i := range wanted {
		wanted[i].Servers = slices.DeleteFunc(slices.Clone(wanted[i].Servers), func(r Row) bool { return r.Weight == 0 })
	}
	if got, want := m.ours().text(), wanted.text(); got != want {
		rt.Fatalf("the table does not converge:\n%s\nwant:\n%s\nlog:\n%s", got, want, strings.TrimSpace(m.log.String()))
	}
}

// inServiceText are the real servers that get new connections, one service a line,
// without the scheduler: its exchanges wait two seconds.
func inServiceText(t Table) string {
	in := slices.Clone(t)
	for i := range in {
		in[i].Scheduler = ""
		in[i].Servers = slices.DeleteFunc(slices.Clone(in[i].Servers), func(r Row) bool { return r.Weight == 0 })
	}
	return slices.DeleteFunc(in, func(s Service) bool { return len(s.Servers) == 0 }).text()
}
