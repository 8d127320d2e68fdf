// What a load balancer, a monitor and `status` get from the HTTP listener.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// ask sends one request to s and returns the status code and the body.
func (s *httpServer) ask(method, path string) (int, string) {
	w := httptest.NewRecorder()
	s.handler(onTCP).ServeHTTP(w, httptest.NewRequest(method, "http://localhost"+path, nil))
	return w.Code, w.Body.String()
}

func TestReadyz(t *testing.T) {
	b := newBench(t, testVIP())
	server := newBenchServer(b)
	second := testVIP(func(v *VIP) { v.Name, v.Addresses[0] = "second", addr("10.0.0.2") })
	for _, step := range []struct {
		name   string
		change func()
		code   int
		says   string
	}{
		{"before the first turn", func() {}, 503, "the kernel's table has not been read yet\n"},
		{"nothing heard of the cluster, nothing in the kernel", func() { b.pass() }, 503, "no real server is in service\n"},
		{"a pod is ready", func() {
			b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
			b.pass()
		}, 200, "ok\n"},
		{"no pod is ready: the last working set serves", func() {
			b.loop.cluster.Set(testCluster(nil))
			b.pass()
		}, 200, "ok\n"},
		{"the kernel refuses a VIP's only real server", func() {
			b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
			b.kernel.noRoute[addr("10.1.0.1")] = true
			b.configure(testVIP(), second)
			b.pass()
		}, 200, "ok\n"},
		{"and takes it later", func() {
			delete(b.kernel.noRoute, addr("10.1.0.1"))
			b.later(retryMost)
		}, 200, "ok\n"},
		{"the kernel cannot be asked for a moment", func() {
			b.kernel.broken = fmt.Errorf("receive from the kernel: %w", unix.ENOBUFS)
			b.later(20 * time.Second)
		}, 200, "ok\n"},
		{"the kernel cannot be asked for long", func() {
			b.later(25 * time.Second)
		}, 503, "the kernel's table has not been read for 45s: receive from the kernel: no buffer space available\n"},
		{"and can again", func() {
			b.kernel.broken = nil
			b.later(retryMost)
		}, 200, "ok\n"},
		{"the uplink goes down", func() {
			server.uplink = func() error { return errors.New("the uplink eth0 is down") }
		}, 503, "the uplink eth0 is down\n"},
		{"and comes back", func() {
			server.uplink = func() error { return nil }
		}, 200, "ok\n"},
	} {
		step.change()
		code, body := server.ask("GET", "/readyz")
		if code != step.code || body != step.says {
			t.Errorf("%s: %d %q, want %d %q", step.name, code, body, step.code, step.says)
		}
	}
}

// A fault of the kernel that does not pass by itself is told at once, and one that
// lasts after brokenPatience, whatever the audit interval is.
func TestReadyzWithoutTheKernel(t *testing.T) {
	lasting := fmt.Errorf("list virtual services: %w", unix.EIO)
	for _, test := range []struct {
		fault error
		after time.Duration
		code  int
	}{
		{errNoIPVS, 0, 503},
		{fmt.Errorf("list virtual services: %w", unix.EPERM), 0, 503},
		{lasting, brokenPatience - retryMost, 200},
		{lasting, brokenPatience + retryMost, 503},
	} {
		b := newBench(t, testVIP())
		server := newBenchServer(b)
		b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
		b.loop.config.Set(&Config{VIPs: []VIP{testVIP()}, AuditInterval: time.Hour})
		b.pass()
		dial := b.loop.dial
		b.loop.dial = func() (director, error) { return nil, test.fault }
		b.kernel.broken = test.fault
		b.clock = b.clock.Add(auditGap)
		b.loop.AuditNow()
		b.pass()
		b.later(test.after + retryFirst)
		code, body := server.ask("GET", "/readyz")
		if code != test.code || code == 503 && body != test.fault.Error()+"\n" {
			t.Errorf("%v, %v after it began: %d %q", test.fault, test.after, code, body)
		}
		b.loop.dial, b.kernel.broken = dial, nil
		b.loop.AuditNow()
		b.pass()
		if code, body := server.ask("GET", "/readyz"); code != 200 {
			t.Errorf("after %v: %d %q", test.fault, code, body)
		}
	}
}

// A director that adopts a table after a crash is ready before the cluster has
// answered: the kernel serves.
func TestReadyzAfterACrash(t *testing.T) {
	b := newBench(t, testVIP())
	b.put(service("10.0.0.1:80/tcp", "10.1.0.1", 1))
	b.pass()
	if code, body := newBenchServer(b).ask("GET", "/readyz"); code != 200 {
		t.Errorf("%d %q", code, body)
	}
}

// /healthz is about the loop alone; what is wrong with the table is /readyz's.
func TestHealthz(t *testing.T) {
	ago := func(d time.Duration) *time.Time { at := time.Now().Add(-d); return &at }
	for _, test := range []struct {
		name    string
		started time.Time
		turned  *time.Time
		code    int
		says    string
	}{
		{"just started", *ago(0), nil, 200, "ok"},
		{"started long ago and never turned", *ago(time.Hour), nil, 503, "the reconcile loop has made no pass for 1h0m0s"},
		{"turned just now", *ago(time.Hour), ago(time.Second), 200, "ok"},
		{"between two audits", *ago(time.Hour), ago(50 * time.Second), 200, "ok"},
		{"stuck", *ago(time.Hour), ago(2 * time.Minute), 503, "the reconcile loop has made no pass for 2m0s"},
	} {
		b := newBench(t, testVIP()) // its audit_interval is 10 s
		server := newBenchServer(b)
		server.started = test.started
		b.loop.passed.Store(test.turned)
		if code, body := server.ask("GET", "/healthz"); code != test.code || body != test.says+"\n" {
			t.Errorf("%s: %d %q, want %d %q", test.name, code, body, test.code, test.says)
		}
	}
}

func TestHTTPPaths(t *testing.T) {
	server := newBenchServer(newBench(t, testVIP()))
	for _, test := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/healthz", 200},
		{"HEAD", "/healthz", 200},
		{"GET", "/metrics", 200},
		{"GET", "/status.json", 200},
		{"POST", "/readyz", 405},
		{"DELETE", "/status.json", 405},
		{"GET", "/nowhere", 404},
		{"GET", "/metrics/", 404},
	} {
		if code, _ := server.ask(test.method, test.path); code != test.code {
			t.Errorf("%s %s: %d, want %d", test.method, test.path, code, test.code)
		}
	}
}

// The listener as a client on the network meets it, content types included.
func TestHTTPOverTheNetwork(t *testing.T) {
	server := httptest.NewServer(newBenchServer(newBench(t, testVIP())).handler(onTCP))
	defer server.Close()
	for path, want := range map[string]string{
		"/healthz":     "text/plain; charset=utf-8",
		"/metrics":     "text/plain; version=0.0.4; charset=utf-8",
		"/status.json": "application/json",
	} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if resp.Body.Close(); err != nil || resp.Header.Get("Content-Type") != want {
			t.Errorf("%s: %v, Content-Type %q, want %q", path, err, resp.Header.Get("Content-Type"), want)
		}
	}
}

// jsonPaths lists the keys of a JSON value as "services[].servers[].weight".
func jsonPaths(t *testing.T, text string) []string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	var paths []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, below := range v {
				at := strings.TrimPrefix(path+"."+key, ".")
				paths = append(paths, at)
				walk(at, below)
			}
		case []any:
			for _, below := range v {
				walk(path+"[]", below)
			}
		}
	}
	walk("", value)
	slices.Sort(paths)
	return slices.Compact(paths)
}

// A reader of /status.json finds a list of services even when there is none.
func TestStatusJSONBeforeTheFirstTurn(t *testing.T) {
	code, body := newBenchServer(newBench(t, testVIP())).ask("GET", "/status.json")
	if code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	var got status
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got.Ready || got.Reason != "the kernel's table has not been read yet" || got.Since.IsZero() {
		t.Errorf("ready %t, reason %q, since %s", got.Ready, got.Reason, got.Since)
	}
	want := []string{
		"ready", "reason", "services", "since", "version",
		"vips", "vips[].addresses", "vips[].addresses[].address", "vips[].addresses[].missing", "vips[].announce", "vips[].name",
	}
	if diff := cmp.Diff(want, jsonPaths(t, body)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if !strings.Contains(body, `"services":[]`) {
		t.Errorf("services is no list: %s", body)
	}
}

// A reload moves the listener, and takes it away.
func TestListenFollowsTheConfiguration(t *testing.T) {
	// Of a port that is given up another test may make its own, but not at an address
	// of the loopback network that no other program uses.
	free := func(ip string) string {
		ln, err := net.Listen("tcp", ip+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	first, second := free("127.9.65.1"), free("127.9.65.2")
	reloaded := make(chan struct{}, 1)
	server := newBenchServer(newBench(t, testVIP()))
	server.configs, server.reloaded = newLatest[Config](reloaded), reloaded
	server.configs.Set(&Config{Listen: first})
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Run(t.Context())
	}()
	t.Cleanup(func() { <-done })
	listens := func(address string, want bool) {
		t.Helper()
		lab.Within(t, 10*time.Second, func() string {
			c, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				c.Close()
			}
			if (err == nil) != want {
				return fmt.Sprintf("listens at %s: %t, want %t", address, err == nil, want)
			}
			return ""
		})
	}
	listens(first, true)
	server.configs.Set(&Config{Listen: second})
	listens(second, true)
	listens(first, false)
	server.configs.Set(&Config{})
	listens(second, false)
	server.configs.Set(&Config{Listen: first})
	listens(first, true)
}

// The status answers to names of this host alone; metrics and the checks to any.
func TestListenerNames(t *testing.T) {
	b := newBench(t, testVIP())
	s := newBenchServer(b)
	cfg := *b.loop.config.Get()
	cfg.ListenNames = []string{"director1.example.org"}
	b.loop.config.Set(&cfg)
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	handler := s.handler(onTCP)
	ask := func(path, host string) int {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = host
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	for host, want := range map[string]int{
		"":                           http.StatusOK,
		"127.0.0.1:9652":             http.StatusOK,
		"10.0.0.1":                   http.StatusOK,
		"[::1]:9652":                 http.StatusOK,
		"[fe80::1]":                  http.StatusOK,
		"localhost:9652":             http.StatusOK,
		"LOCALHOST.":                 http.StatusOK,
		own + ":9652":                http.StatusOK,
		"director1.example.org:9652": http.StatusOK,
		"Director1.Example.Org":      http.StatusOK,
		"evil.example.org":           http.StatusMisdirectedRequest,
		"evil.example.org:9652":      http.StatusMisdirectedRequest,
		"localhost.evil.example.org": http.StatusMisdirectedRequest,
		"127.0.0.1.evil.org":         http.StatusMisdirectedRequest,
		"example.org":                http.StatusMisdirectedRequest,
	} {
		if got := ask("/status.json", host); got != want {
			t.Errorf("/status.json for %q: %d, want %d", host, got, want)
		}
		for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
			if got := ask(path, host); got == http.StatusMisdirectedRequest {
				t.Errorf("%s for %q: %d", path, host, got)
			}
		}
	}
}

// No more than maxAnswers long answers are made at a time. The next one waits, and is
// refused when that takes too long.
func TestListenerLimits(t *testing.T) {
	busy, most, release := 0, 0, make(chan struct{})
	var mu sync.Mutex
	handler := limited(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		busy++
		most = max(most, busy)
		mu.Unlock()
		<-release
		mu.Lock()
		busy--
		mu.Unlock()
	})
	codes := make(chan int, 20)
	for range 20 {
		go func() {
			w := httptest.NewRecorder()
			handler(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			codes <- w.Code
		}()
	}
	refused := 0
	for range 20 - maxAnswers {
		if <-codes == http.StatusServiceUnavailable {
			refused++
		}
	}
	close(release)
	for range maxAnswers {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("an answer that began: %d", code)
		}
	}
	if most != maxAnswers || refused != 20-maxAnswers {
		t.Errorf("%d at a time, %d refused; want %d and %d", most, refused, maxAnswers, 20-maxAnswers)
	}
}

// listening has server answer at a free port of address, and returns where, until the test
// ends.
func listening(t *testing.T, server *httpServer, address string) string {
	t.Helper()
	server.configs.Set(&Config{Listen: address + ":0"})
	ln, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.serve(ctx, netutil.LimitListener(ln, maxConnections), server.configs.Get().Listen)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return ln.Addr().String()
}

// Clients that send no whole request keep no other out, and have no more than
// maxConnections at a time.
func TestListenerKeepsNoneOut(t *testing.T) {
	server := newBenchServer(newBench(t, testVIP()))
	at := listening(t, server, "127.9.65.3")
	asked := "GET /readyz HTTP/1.1\r\nHost: x\r\n"
	for i := range 4 * maxConnections {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		// Nothing, a part of a request, or a whole one and nothing after it.
		fmt.Fprint(c, []string{"", asked, asked + "\r\n"}[i%3])
	}
	client := &http.Client{Timeout: 4 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}} // before they time out
	for range 20 {
		resp, err := client.Get("http://" + at + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
}

// Clients that ask for more long answers than are made do not keep /readyz waiting:
// keepalived would take the VIP away.
func TestListenerReadyWhileOthersWait(t *testing.T) {
	server := newBenchServer(newBench(t, testVIP()))
	release := make(chan struct{})
	server.table = func() connectionTable { <-release; return connectionTable{} }
	at := listening(t, server, "127.9.65.4")
	t.Cleanup(func() { close(release) })
	for range maxConnections {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprint(c, "GET /status.json HTTP/1.1\r\nHost: 127.9.65.4\r\n\r\n")
		time.Sleep(5 * time.Millisecond) // it becomes a request before the next connection
	}
	client := &http.Client{Timeout: readyTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 5 {
		resp, err := client.Get("http://" + at + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
}

// slowReader takes no byte of an answer until release is closed.
type slowReader struct {
	httptest.ResponseRecorder
	began   chan<- struct{}
	release <-chan struct{}
}

func (r *slowReader) Write(p []byte) (int, error) {
	r.began <- struct{}{}
	<-r.release
	return len(p), nil
}

// The control socket answers while slow readers at the address in listen have all answers.
func TestSocketHasItsOwnLimits(t *testing.T) {
	if statusTimeout <= answerPatience {
		t.Errorf("status gives up after %s, before the controller does, after %s", statusTimeout, answerPatience)
	}
	server := newBenchServer(newBench(t, testVIP()))
	tcp, socket := server.handler(onTCP), server.handler(onSocket)
	for _, path := range []string{"/status.json", "/metrics"} {
		ask := func() *http.Request { return httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil) }
		began, release := make(chan struct{}, 1000), make(chan struct{})
		var all sync.WaitGroup
		for range maxAnswers {
			all.Go(func() { tcp.ServeHTTP(&slowReader{*httptest.NewRecorder(), began, release}, ask()) })
			<-began
		}
		got := httptest.NewRecorder()
		before := time.Now()
		socket.ServeHTTP(got, ask())
		if took := time.Since(before); got.Code != http.StatusOK || took >= answerPatience {
			t.Errorf("%s: %d after %s: %s", path, got.Code, took, shorten(got.Body.String(), quotedText))
		}
		close(release)
		all.Wait()
	}
}

// A reading is shared while it is used and fits. One that failed is shared too, and keeps
// no value.
func TestSharedReading(t *testing.T) {
	var s shared[string]
	reads, lasts, fault, usable := 0, time.Hour, error(nil), true
	ask := func(wantReads int, want string, wantErr error) {
		t.Helper()
		got, at, until, err := s.of(func(string) bool { return usable },
			func() (string, error) { reads++; return fmt.Sprint("reading ", reads), fault },
			func(time.Duration) time.Duration { return lasts })
		if reads != wantReads || got != want || err != wantErr || until.Sub(at) != lasts {
			t.Errorf("%d readings, %q, %v, used for %s; want %d, %q, %v, %s", reads, got, err, until.Sub(at), wantReads, want, wantErr, lasts)
		}
	}
	ask(1, "reading 1", nil)
	ask(1, "reading 1", nil)
	usable, fault = false, errors.New("broken")
	ask(2, "", fault)
	usable = true
	ask(2, "", fault)
	s.until, fault = time.Now(), nil
	ask(3, "reading 3", nil)
	s.forget()
	ask(3, "reading 3", nil)
	s.until = time.Now()
	if s.forget(); s.value != "" || !s.at.IsZero() {
		t.Errorf("%q of %s is kept", s.value, s.at)
	}
}

// The status is written one service at a time, and what is read again is the same.
func TestStatusIsStreamed(t *testing.T) {
	var services []KernelService
	var table Table
	ports := 2_000
	if testing.Short() {
		ports = 200
	}
	for port := range ports {
		one := service(fmt.Sprintf("10.0.0.1:%d/tcp", port+1))
		var servers []KernelServer
		for i := range 50 {
			servers = append(servers, KernelServer{RealServer: RealServer{Address: addr(fmt.Sprintf("10.1.0.%d", i+1)), Weight: 1}})
		}
		services = append(services, KernelService{VirtualService: one.VirtualService, Servers: servers})
		table = append(table, one)
	}
	slices.SortFunc(table, compareServices)
	v := &loopState{Shards: shards{{Services: table}}}
	st := status{Ready: true, Warnings: []string{"\"]}"}, VIPs: []vipStatus{}, Services: []serviceStatus{}}
	none := func(func(any) bool) {}
	all := newBenchServer(newBench(t, testVIP())).services(services, v)
	for _, indented := range []bool{false, true} {
		counted := new(countingWriter)
		if err := writeStatus(counted, &st, none, all, indented); err != nil {
			t.Fatal(err)
		}
		if counted.largest > 64<<10 {
			t.Errorf("one write has %d bytes", counted.largest)
		}
		var again status
		if err := json.Unmarshal(counted.all.Bytes(), &again); err != nil {
			t.Fatal(err)
		}
		if len(again.Services) != ports || len(again.Services[7].Servers) != 50 || !again.Ready || again.Warnings[0] != "\"]}" {
			t.Errorf("%d services, ready %v, warnings %q", len(again.Services), again.Ready, again.Warnings)
		}
		var read status
		if err := read.read(&counted.all); err != nil || !reflect.DeepEqual(again, read) {
			t.Errorf("read one by one: %v, %d services", err, len(read.Services))
		}
		var empty bytes.Buffer
		if err := writeStatus(&empty, &st, none, none, indented); err != nil || json.Unmarshal(empty.Bytes(), &again) != nil {
			t.Errorf("without services: %v, %s", err, empty.String())
		}
	}
}

type countingWriter struct {
	all     bytes.Buffer
	largest int
}

func (w *countingWriter) Write(b []byte) (int, error) {
	w.largest = max(w.largest, len(b))
	return w.all.Write(b)
}
