// From an event to the row in the kernel: the controller beside kube-proxy and
// keepalived, each with the source that it has in production.

package director

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"lvs-controller/test/bench/guest"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/cluster"
	"lvs-controller/test/floor"
	"lvs-controller/test/lab"
)

// peerServers is how many real servers each service has at the start.
const peerServers = 10

// manyServices is from where on kube-proxy gets help (fillSets), and is not asked for what
// would take too long.
const manyServices = 10_000

// peerPatience is longer than any peer needs.
const peerPatience = 8 * time.Minute

// everyService is the index of all services.
const everyService = -1

// joins says how often each kind of event is measured.
type joins struct {
	all    int // a node joins all services
	single int // one service gets a real server, and nothing else happens
	second int // the same, 100 ms after another service got one
}

func (j joins) services() int { return j.single + 2*j.second }

// peer is a program that keeps a table.
type peer interface {
	name() string
	// services are in the order in which the program makes them, if it has one.
	services() []netip.AddrPort
	// start runs it inside h.
	start(h *lab.Host) *running
	// single is the index in services of one that can get a real server alone; n may be
	// above the last index.
	single(n int) int
	// join prepares that a server joins services[i], or all for everyService. What it
	// returns makes it happen.
	join(i int, server netip.Addr) func()
}

func TestBenchPeers(t *testing.T) {
	of(t, "bench-peers")
	p := newPlane(t)
	lab.Must(t, p.admin.CreateNamespace(t.Context(), peerNamespace))
	p.createNode(t)
	made := 0
	for _, services := range guest.LongOr(guest.New(t), []int{10, 1000, manyServices}, []int{10}) {
		t.Run(strconv.Itoa(services), func(t *testing.T) {
			// kube-proxy has the services of all namespaces, so each size adds to the last one.
			// A request of the control endpoint has its limit.
			for made < services {
				last := min(made+1000, services)
				lab.Must(t, p.control.CreateServices(t.Context(), cluster.Services{Namespace: peerNamespace, First: made, Last: last, Endpoints: texts(peerNodes())}))
				made = last
			}
			for _, way := range peerWays {
				t.Run(way.name, func(t *testing.T) {
					b := &peerBench{Benchmark: guest.New(t), plane: p, count: services}
					if j := way.joins(b); j.single > 0 {
						b.InFresh(func(h *lab.Host) { b.measure(h, way.make(b, h, j), j) })
					}
				})
			}
		})
	}
}

// peerBench measures one program at one size.
type peerBench struct {
	*guest.Benchmark
	*plane
	count  int // services
	socket *floor.Socket
	joined map[int][]netip.Addr // the real servers that joined, by index of the service
	next   netip.Addr
	// answered is how many milliseconds the last event took after its request was answered, or
	// its signal was sent.
	answered float64
}

func (b *peerBench) record(name string, p peer, unit string, samples ...float64) {
	b.Helper()
	b.Record(results.New("peer "+name, p.name(), results.Params{"services": b.count}, unit, samples...))
}

func (b *peerBench) measure(h *lab.Host, p peer, j joins) {
	b.socket = floor.Dial(b.T, h)
	defer b.socket.Close()
	b.joined = make(map[int][]netip.Addr)
	b.next = joiner
	start := time.Now()
	r := p.start(h)
	defer r.kill()
	whole := b.await(r, p.services(), 5*time.Millisecond, func(w map[netip.Addr]uint32) bool { return len(w) == peerServers })
	b.record("start", p, "ms", guest.MS(whole.Sub(start)))
	b.idle()
	b.record("ready", p, "ms", guest.MS(time.Since(start)))

	var all, single, answered, second []float64
	for range j.all {
		all = append(all, b.quietEvent(r, p, everyService))
	}
	// Another service each time, evenly over the table.
	n, step := 0, max(1, b.count/max(1, j.services()))
	next := func() int {
		n += step
		return p.single(n - step)
	}
	for range j.single {
		single = append(single, b.quietEvent(r, p, next()))
		answered = append(answered, b.answered)
	}
	for range j.second {
		b.quietly()
		first := next()
		server := b.server(first)
		go p.join(first, server)()
		time.Sleep(100 * time.Millisecond)
		second = append(second, b.event(r, p, next()))
		b.await(r, p.services()[first:][:1], time.Millisecond, has(server))
	}
	for name, samples := range map[string][]float64{"all": all, "single": single, "answered": answered, "second": second} {
		if len(samples) > 0 {
			b.record(name, p, "ms", samples...)
		}
	}
	b.idle()
	b.record("memory", p, "MiB", r.memory())
	b.check(p)
}

// quietEvent measures one event, in a quiet moment.
func (b *peerBench) quietEvent(r *running, p peer, i int) float64 {
	b.Helper()
	b.quietly()
	return b.event(r, p, i)
}

// event measures one event, from before its request: until the row is there, or, for i < 0,
// all are.
func (b *peerBench) event(r *running, p peer, i int) float64 {
	b.Helper()
	services := p.services()[:b.count]
	if i != everyService {
		services = p.services()[i:][:1]
	}
	server := b.server(i)
	do := p.join(i, server)
	start := time.Now()
	done := make(chan time.Time, 1)
	go func() {
		defer func() { done <- time.Now() }() // also when do ends the test
		do()
	}()
	const every = time.Millisecond // the kernel is asked no more often
	there := b.await(r, services, every, has(server))
	b.answered = guest.MS(max(there.Sub(<-done), every))
	return guest.MS(there.Sub(start))
}

// server is a new real server for services[i], or all.
func (b *peerBench) server(i int) netip.Addr {
	server := b.next
	b.next = server.Next()
	b.joined[i] = append(b.joined[i], server)
	return server
}

// servers are the real servers that services[i] has. One above the count is not among all.
func (b *peerBench) servers(i int) []netip.Addr {
	servers := peerNodes()
	if i < b.count {
		servers = append(servers, b.joined[everyService]...)
	}
	if i != everyService {
		servers = append(servers, b.joined[i]...)
	}
	return servers
}

func has(server netip.Addr) func(map[netip.Addr]uint32) bool {
	return func(w map[netip.Addr]uint32) bool { return w[server] > 0 }
}

// quietly waits for a moment at which nothing happens, and that nothing periodic falls
// together with.
func (b *peerBench) quietly() {
	b.idle()
	time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
}

// idle waits until the programs have had nothing to do for more than half a second.
func (b *peerBench) idle() {
	b.Helper()
	deadline := time.Now().Add(peerPatience)
	for quiet := 0; quiet < 4; quiet++ {
		if !b.Idle(150 * time.Millisecond) {
			quiet = -1
		}
		if time.Now().After(deadline) {
			b.Fatal("the machine does not become idle")
		}
	}
}

// await asks the kernel for each of the services until it is full, the last one first. It
// returns when it has seen the last one become so.
func (b *peerBench) await(r *running, services []netip.AddrPort, every time.Duration, full func(map[netip.Addr]uint32) bool) time.Time {
	b.Helper()
	deadline := time.Now().Add(peerPatience)
	var at time.Time
	for i, s := range slices.Backward(services) {
		for waited := i == len(services)-1; ; waited = true {
			w, err := b.socket.Weights(s)
			lab.Must(b.T, err)
			if full(w) {
				if waited {
					at = time.Now()
				}
				break
			}
			if time.Now().After(deadline) {
				b.Fatalf("service %s has %v after %s\n%s", s, w, peerPatience, r.log())
			}
			time.Sleep(every)
		}
	}
	return at
}

// check ends the test unless each service has its real servers, in service, and no others.
func (b *peerBench) check(p peer) {
	b.Helper()
	for i, s := range p.services() {
		w, err := b.socket.Weights(s)
		lab.Must(b.T, err)
		want := b.servers(i)
		if len(w) != len(want) || slices.ContainsFunc(want, func(a netip.Addr) bool { return w[a] == 0 }) {
			b.Fatalf("%s: service %s has %v, want %v", p.name(), s, w, want)
		}
	}
}
