package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// running is a prober at work.
type running struct {
	*prober
	wake chan struct{} // of its Health
	stop func()
	text *lockedBuffer
}

// lockedBuffer takes a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// startProber runs a prober for the rest of the test, everything of it through
// spawn.
func startProber(t *testing.T, plan *ProbePlan, spawn func(func())) *running {
	t.Helper()
	r := &running{wake: make(chan struct{}, 1), text: new(lockedBuffer)}
	plans, out := newLatest[ProbePlan](make(chan struct{}, 1)), newLatest[Health](r.wake)
	r.prober = newProber(slog.New(slog.NewTextHandler(r.text, nil)), plans, out)
	if spawn == nil {
		spawn = func(f func()) { go f() }
	}
	r.spawn = spawn
	plans.Set(plan)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	spawn(func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.text)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// await waits until the published Health is as ok wants it.
func (r *running) await(t *testing.T, what string, ok func(*Health) bool) *Health {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		h := r.out.Get()
		if ok(h) {
			return h
		}
		select {
		case <-r.wake:
		case <-limit:
			t.Fatalf("%s: not in 20s; Health %+v, counters %+v\n%s", what, h, r.Stats(), r.text)
		}
	}
}

// targets is how many there are.
func (k *KindStats) targets() int { return k.Targets[unknown] + k.Targets[up] + k.Targets[down] }

// decided waits until no target is unknown any more.
func (r *running) decided(t *testing.T) {
	t.Helper()
	for range 2000 {
		targets, unknowns := 0, 0
		for _, k := range r.Stats().Kinds {
			targets += k.targets()
			unknowns += k.Targets[unknown]
		}
		if targets > 0 && unknowns == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not decided in 20s: %+v\n%s", r.Stats(), r.text)
}

// listenLoopback opens a port on 127.0.0.N for each n, all of the same number.
func listenLoopback(t *testing.T, hosts ...byte) (port uint16, listeners []net.Listener) {
	t.Helper()
	for range 50 {
		port = 0
		for _, n := range hosts {
			l, err := net.Listen("tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, n}), port).String())
			if err != nil {
				break
			}
			t.Cleanup(func() { l.Close() })
			listeners = append(listeners, l)
			port = netip.MustParseAddrPort(l.Addr().String()).Port()
		}
		if len(listeners) == len(hosts) {
			return port, listeners
		}
		listeners = nil
	}
	t.Fatal("no port is free on all hosts")
	return 0, nil
}

// serveStatus answers HTTP requests with a status.
func serveStatus(t *testing.T, l net.Listener, status int, secure bool) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" || r.Host != "shop.example" {
			status = 418
		}
		w.WriteHeader(status)
		io.WriteString(w, strings.Repeat("x", 100_000)) // the prober does not read it
	}))
	s.Listener.Close()
	s.Listener = l
	s.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// say answers every connection with text, and closes it or not.
func say(l net.Listener, text string, stay bool) {
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.WriteString(conn, text)
				if stay {
					io.Copy(io.Discard, conn)
					return
				}
				conn.Read(make([]byte, 4096)) // the whole request: else it would be answered by a RST
			}()
		}
	}()
}

func loopback(n byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, n}) }

// loopbackPlan asks 127.0.0.N for each n.
func loopbackPlan(probes Probes, ports []uint16, hosts ...byte) *ProbePlan {
	v := ProbedVIP{Name: "edge", Probes: &probes}
	for _, n := range hosts {
		v.Servers = append(v.Servers, ProbedServer{loopback(n), ports})
	}
	return &ProbePlan{VIPs: []ProbedVIP{v}}
}

func brisk(change func(*Probes)) Probes {
	p := Probes{Interval: 200 * time.Millisecond, Timeout: 100 * time.Millisecond, Rise: 2, Fall: 3, ConnectsPerSecond: 1000}
	change(&p)
	return p
}

// Each way in which an HTTP server can fail gives its own reason, in the clear
// and over TLS.
func TestProbeHTTP(t *testing.T) {
	for _, secure := range []bool{false, true} {
		port, listeners := listenLoopback(t, 1, 2, 3, 4, 5, 6, 7)
		serveStatus(t, listeners[0], 200, secure)
		serveStatus(t, listeners[1], 500, secure)
		listeners[2].Close()
		say(listeners[3], "SSH-2.0-OpenSSH_9.2\r\n", true)
		say(listeners[4], "", true)
		say(listeners[5], "", false)
		serveStatus(t, listeners[6], 204, !secure)

		probes := brisk(func(p *Probes) {
			p.HTTP = []HTTPProbe{{Port: port, Path: "/healthz", Host: "shop.example", Status: []StatusRange{{200, 204}}, TLS: secure}}
			p.Interval, p.Timeout = time.Second, time.Second // handshakes take their time on a busy machine
		})
		r := startProber(t, loopbackPlan(probes, nil, 1, 2, 3, 4, 5, 6, 7), nil)
		scheme := map[bool]string{false: "http", true: "https"}[secure]
		url := func(n byte) string { return fmt.Sprintf("GET %s://127.0.0.%d:%d/healthz: ", scheme, n, port) }
		want := map[string]string{
			"127.0.0.2": url(2) + "500",
			"127.0.0.3": url(3) + "connection refused",
			"127.0.0.4": url(4) + "the answer is not HTTP",
			"127.0.0.5": url(5) + "no answer in 1s",
			"127.0.0.6": url(6) + "closed without an answer",
			"127.0.0.7": url(7) + "400", // by Go's server, to a request in the clear
		}
		if secure {
			want["127.0.0.4"] = url(4) + "tls: first record does not look like a TLS handshake"
			want["127.0.0.7"] = url(7) + "tls: first record does not look like a TLS handshake"
		}
		r.awaitReasons(t, want)
		r.stop()
		if n := strings.Count(r.text.String(), "real server down"); n != 6 {
			t.Errorf("%d lines about servers that went down, want 6:\n%s", n, r.text)
		}
	}
}

// IPv6 is asked like IPv4.
func TestProbeIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal("no IPv6 on the loopback: ", err)
	}
	t.Cleanup(func() { l.Close() })
	serveStatus(t, l, 200, false)
	at := netip.MustParseAddrPort(l.Addr().String())
	probes := brisk(func(p *Probes) {
		p.TCP, p.Ports = at.Port(), true
		p.HTTP = []HTTPProbe{{Port: at.Port(), Path: "/healthz", Host: "shop.example", Status: []StatusRange{{200, 200}}}}
	})
	v := ProbedVIP{Name: "edge", Probes: &probes, Servers: []ProbedServer{{at.Addr(), []uint16{at.Port()}}}}
	r := startProber(t, &ProbePlan{VIPs: []ProbedVIP{v}}, nil)
	r.decided(t)
	stats := r.Stats()
	for _, k := range stats.Kinds[:probeDataPath] { // over TCP
		if k.targets() != 1 || k.Targets[down] != 0 || k.Results[passed] == 0 {
			t.Errorf("%+v", k)
		}
	}
	r.stop()
}

// A server goes down and comes back; each change is logged once.
func TestProbeComesBack(t *testing.T) {
	port, listeners := listenLoopback(t, 1, 2)
	say(listeners[0], "", true)
	address := listeners[1].Addr().String()
	listeners[1].Close()
	r := startProber(t, loopbackPlan(brisk(func(p *Probes) { p.TCP = port }), nil, 1, 2), nil)
	h := r.await(t, "one is down", func(h *Health) bool { return h != nil && len(h.Down) == 1 })
	if why, down := h.Server("edge", loopback(2)); !down || why != fmt.Sprintf("connect to 127.0.0.2:%d: connection refused", port) {
		t.Errorf("Server = %q, %t", why, down)
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal("another program has taken the port: ", err)
	}
	say(again, "", true)
	r.await(t, "it is back", func(h *Health) bool { return len(h.Down) == 0 })
	r.stop()
	var logged []string
	for line := range strings.Lines(r.text.String()) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), " level=")
		logged = append(logged, line)
	}
	want := []string{
		fmt.Sprintf(`WARN msg="probe: real server down" vip=edge server=127.0.0.2 why="connect to 127.0.0.2:%d: connection refused"`, port),
		`INFO msg="probe: real server not down any more" vip=edge server=127.0.0.2`,
	}
	if diff := cmp.Diff(want, logged); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// Ports: one that is missing on one server is down there alone, one that is
// missing everywhere nowhere.
func TestProbePorts(t *testing.T) {
	first, listeners := listenLoopback(t, 1, 2)
	second, more := listenLoopback(t, 1, 2)
	third, rest := listenLoopback(t, 1, 2)
	for _, l := range slices.Concat(listeners, more) {
		say(l, "", true)
	}
	more[1].Close()
	for _, l := range rest {
		l.Close()
	}
	ports := []uint16{first, second, third}
	r := startProber(t, loopbackPlan(brisk(func(p *Probes) { p.Ports = true }), ports, 1, 2), nil)
	h := r.await(t, "a port is down, another nowhere", func(h *Health) bool { return h != nil && len(h.Down) == 1 && len(h.Open) == 1 })
	if why, down := h.Port("edge", loopback(2), second); !down || why != fmt.Sprintf("port %d/tcp: connection refused", second) {
		t.Errorf("Port = %q, %t", why, down)
	}
	if o := h.Open[0]; o.Port != third || o.VIP != "edge" || o.Is6 {
		t.Errorf("open: %+v", o)
	}
	r.decided(t)
	if k := r.Stats().Kinds[probePort]; k.targets() != 6 || k.Targets[down] != 3 || k.Targets[unknown] != 0 || k.Results[noResult] != 0 {
		t.Errorf("counters: %+v", k)
	}
	r.stop()
	for _, want := range []string{
		`msg="probe: ports down" vip=edge server=127.0.0.2 ports=`,
		fmt.Sprintf(`msg="probe: no real server serves this port, so all stay in service" vip=edge family=IPv4 port=%d/tcp why="127.0.0.1: port %d/tcp: connection refused"`, third, third),
	} {
		if strings.Count(r.text.String(), want) == 0 {
			t.Errorf("no line %s in:\n%s", want, r.text)
		}
	}
}

// All at once: it is logged, and none is down. A new plan ends it.
func TestProbeFailsOpen(t *testing.T) {
	port, listeners := listenLoopback(t, 1, 2)
	for _, l := range listeners {
		l.Close()
	}
	probes := brisk(func(p *Probes) { p.TCP = port })
	r := startProber(t, loopbackPlan(probes, nil, 1, 2), nil)
	h := r.await(t, "fail open", func(h *Health) bool { return h.FailsOpen("edge", false) })
	if len(h.Down) != 0 {
		t.Errorf("down: %v", h.Down)
	}
	if s := r.Stats(); s.FailOpen != 1 || s.Kinds[probeTCP].Targets[down] != 2 {
		t.Errorf("counters: %+v", s)
	}
	r.plans.Set(&ProbePlan{})
	r.await(t, "a plan without real servers", func(h *Health) bool { return !h.FailsOpen("edge", false) })
	r.stop()
	if !strings.Contains(r.text.String(), `level=ERROR msg="probe: all real servers fail at once, so all stay in service" vip=edge family=IPv4 why="127.0.0.1: connect to`) {
		t.Errorf("log:\n%s", r.text)
	}
}

// Thousands of targets: running probes, goroutines and file descriptors
// stay few, and the budget holds.
func TestProbeManyTargets(t *testing.T) {
	const servers, ports, budget = 200, 100, 1500
	before := runtime.NumGoroutine()
	files := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	filesBefore := files()
	probes := brisk(func(p *Probes) {
		p.Ports, p.ConnectsPerSecond, p.Interval, p.Timeout = true, budget, time.Second, time.Second
	})
	v := ProbedVIP{Name: "edge", Probes: &probes}
	var all []uint16
	for n := range ports {
		all = append(all, uint16(1+n))
	}
	for n := range servers {
		v.Servers = append(v.Servers, ProbedServer{netip.AddrFrom4([4]byte{127, 1, 0, byte(1 + n)}), all})
	}
	start := time.Now()
	r := startProber(t, &ProbePlan{VIPs: []ProbedVIP{v}}, nil)
	mostRoutines, mostFiles := 0, 0
	for time.Since(start) < 3*time.Second {
		time.Sleep(20 * time.Millisecond)
		mostRoutines, mostFiles = max(mostRoutines, runtime.NumGoroutine()), max(mostFiles, files())
	}
	k := r.Stats().Kinds[probePort]
	took := time.Since(start)
	asked := float64(k.Results[passed] + k.Results[failed] + k.Results[noResult])
	t.Logf("%d targets: %.0f probes in %s, %d goroutines and %d files more than before", k.targets(), asked, took, mostRoutines-before, mostFiles-filesBefore)
	if k.targets() != servers*ports {
		t.Errorf("%d targets", k.targets())
	}
	if most := budget * (took + paceSlack).Seconds(); asked > most+1 || asked < most/3 {
		t.Errorf("%.0f probes in %s, want about and at most %.0f", asked, took, most)
	}
	if mostRoutines > before+10 || mostFiles > filesBefore+200 {
		t.Errorf("%d goroutines and %d files, before: %d and %d", mostRoutines, mostFiles, before, filesBefore)
	}
	r.stop()
	if after := files(); after > filesBefore+5 {
		t.Errorf("%d files are left open", after-filesBefore)
	}
}

// TLS servers that accept and never answer hold up neither the others nor the
// goroutines.
func TestProbeManyTLS(t *testing.T) {
	const stuck = 150
	hosts := []byte{200}
	for n := range stuck {
		hosts = append(hosts, byte(1+n))
	}
	port, listeners := listenLoopback(t, hosts...)
	serveStatus(t, listeners[0], 200, true)
	for _, l := range listeners[1:] {
		say(l, "", true)
	}
	before := runtime.NumGoroutine()
	probes := brisk(func(p *Probes) {
		p.HTTP = []HTTPProbe{{Port: port, Path: "/healthz", Host: "shop.example", Status: []StatusRange{{200, 200}}, TLS: true}}
		p.Interval, p.Timeout = 500*time.Millisecond, 300*time.Millisecond
	})
	r := startProber(t, loopbackPlan(probes, nil, hosts...), nil)
	most := 0
	r.await(t, "the stuck ones are down", func(h *Health) bool {
		most = max(most, runtime.NumGoroutine())
		return h != nil && len(h.Down) == stuck
	})
	if _, down := r.out.Get().Server("edge", loopback(200)); down {
		t.Error("the good one is down")
	}
	// Each connection has a goroutine at the server's end, which is the test's.
	if most > before+2*stuck+maxTLS+20 {
		t.Errorf("%d goroutines, %d before", most, before)
	}
	r.stop()
}

// A probe whose target leaves the plan ends with it, however far it is, and
// its result is ignored.
func TestProbeDropped(t *testing.T) {
	for _, secure := range []bool{false, true} {
		port, listeners := listenLoopback(t, 1)
		var accepted atomic.Int32
		go func() {
			for {
				conn, err := listeners[0].Accept()
				if err != nil {
					return
				}
				accepted.Add(1)
				defer conn.Close()
			}
		}()
		probes := brisk(func(p *Probes) {
			p.HTTP = []HTTPProbe{{Port: port, Path: "/", TLS: secure}}
			p.Interval, p.Timeout = 300*time.Millisecond, 300*time.Millisecond
		})
		r := startProber(t, loopbackPlan(probes, nil, 1), nil)
		for range 1000 {
			if accepted.Load() > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		r.plans.Set(&ProbePlan{})
		until(t, "the new plan", func() bool { k := r.Stats().Kinds[probeHTTP]; return k.targets() == 0 })
		time.Sleep(50 * time.Millisecond) // what waits to be accepted
		before := accepted.Load()
		time.Sleep(800 * time.Millisecond)
		if after := accepted.Load(); before == 0 || after != before {
			t.Errorf("TLS %t: %d connections, then %d", secure, before, after)
		}
		r.stop()
	}
}

// A prober without a target is silent.
func TestProberWithoutPlan(t *testing.T) {
	r := startProber(t, &ProbePlan{}, nil)
	time.Sleep(50 * time.Millisecond)
	if h := r.out.Get(); h != nil {
		t.Errorf("Health %+v without a target", h)
	}
	r.stop()
	if r.text.String() != "" {
		t.Errorf("log:\n%s", r.text)
	}
}

func TestHTTPRequest(t *testing.T) {
	for _, test := range []struct {
		probe    HTTPProbe
		to, want string
	}{
		{HTTPProbe{Path: "/healthz"}, "10.0.0.5:10254", "GET /healthz HTTP/1.1\r\nHost: 10.0.0.5:10254\r\n"},
		{HTTPProbe{Path: "/"}, "[2001:db8::5]:80", "GET / HTTP/1.1\r\nHost: [2001:db8::5]:80\r\n"},
		{HTTPProbe{Path: "/a?b=c", Host: "shop.example"}, "10.0.0.5:80", "GET /a?b=c HTTP/1.1\r\nHost: shop.example\r\n"},
	} {
		want := test.want + "User-Agent: lvs-controller/" + version + "\r\nAccept: */*\r\nConnection: close\r\n\r\n"
		if got := string(httpRequest(&test.probe, netip.MustParseAddrPort(test.to))); got != want {
			t.Errorf("request %q, want %q", got, want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	for _, test := range []struct {
		answer string
		want   uint16
		wrong  bool
	}{
		{"", 0, false},
		{"HT", 0, false},
		{"HTTP/1.1 200 O", 0, false},
		{"HTTP/1.1 200 OK\r\n", 200, false},
		{"HTTP/1.0 503 Service Unavailable\r\nX: y\r\n\r\nbody", 503, false},
		{"HTTP/1.1 404\r\n", 404, false},
		{"HTTP/1.1 404 \n", 404, false},
		{"HTTP/1.1 101 Switching Protocols\r\n", 101, false},
		{"HTTP/1.1 100 Continue\r\n", 0, false},
		{"HTTP/1.1 100 Continue\r\n\r\n", 0, false},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", 200, false},
		{"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\nHTTP/1.1 500 No\r\n", 500, false},
		{"HTTP/1.1 103 Early Hints\r\nLink: </a>", 0, false},
		{"HTTP/1.1 100 Continue\r\n\r\nnonsense", 0, true},
		{"HTTP/2 200\r\n", 0, true},
		{"HTTP/1.1 99 Low\r\n", 0, true},
		{"HTTP/1.1 099 Low\r\n", 0, true},
		{"HTTP/1.1 2000 High\r\n", 0, true},
		{"HTTP/1.1 2x0 OK\r\n", 0, true},
		{"HTTP/1.1  200 OK\r\n", 0, true},
		{"HTTP/1.1\r\n", 0, true},
		{"SSH-2.0-OpenSSH_9.2\r\n", 0, true},
		{"\r\nHTTP/1.1 200 OK\r\n", 0, true},
		{"HTTP/1.1 200 " + strings.Repeat("x", maxAnswer), 0, true},
		{"HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", maxAnswer), 0, true},
	} {
		got, err := parseStatus([]byte(test.answer))
		if got != test.want || (err != nil) != test.wrong {
			t.Errorf("%.40q: %d, %v; want %d, error %t", test.answer, got, err, test.want, test.wrong)
		}
	}
}

// Whatever a node answers, and in whatever pieces, the answer is a status, a
// wish for more or an error.
func FuzzParseStatus(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 503\n"))
	f.Add([]byte("HTTP/1.1 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		final, finalErr := uint16(0), error(nil)
		for n := 0; n <= min(len(b), maxAnswer); n++ {
			status, err := parseStatus(b[:n])
			if status != 0 && (status < 100 || status > 999 || err != nil) {
				t.Fatalf("%q: status %d, %v", b[:n], status, err)
			}
			if n == maxAnswer && status == 0 && err == nil {
				t.Fatal("more is wanted than will be read")
			}
			if final != 0 && status != final || finalErr != nil && err == nil {
				t.Fatalf("%q: %d, %v after %d, %v", b[:n], status, err, final, finalErr)
			}
			final, finalErr = status, err
		}
	})
}
