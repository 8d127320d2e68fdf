package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/lab"
)

// hookServer is the operator's server. It keeps what it accepts.
type hookServer struct {
	*httptest.Server
	mu       sync.Mutex
	messages []webhookMessage
	headers  []http.Header
	status   atomic.Int64
	tries    atomic.Int64
}

func newHookServer(t *testing.T) *hookServer {
	s := &hookServer{}
	s.status.Store(204)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.tries.Add(1)
		body, err := io.ReadAll(r.Body)
		var m webhookMessage
		if err == nil {
			err = json.Unmarshal(body, &m)
		}
		if err != nil || r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", r.Method, body, err)
		}
		status := int(s.status.Load())
		if status == 302 {
			w.Header().Set("Location", "/elsewhere")
		}
		if status/100 == 2 {
			s.mu.Lock()
			s.messages, s.headers = append(s.messages, m), append(s.headers, r.Header)
			s.mu.Unlock()
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s
}

// numbers are the events that s has accepted, and how many were lost before.
func (s *hookServer) numbers() (all []uint64, lost uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		lost += m.Lost
		for _, e := range m.Events {
			all = append(all, e.Number)
		}
	}
	return all, lost
}

// hookBench is a webhook that runs.
type hookBench struct {
	*webhook
	log *lockedBuffer
	set func(Events)
}

func startWebhook(t *testing.T, first Events) *hookBench {
	t.Helper()
	wake := make(chan struct{}, 1)
	configs := newLatest[Config](wake)
	b := &hookBench{log: new(lockedBuffer), set: func(e Events) { configs.Set(&Config{Events: e}) }}
	b.set(first)
	b.webhook = newWebhook(slog.New(slog.NewTextHandler(b.log, nil)), configs, wake, new(eventRecord), "director-1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the webhook does not end")
		}
	})
	return b
}

// say adds n events.
func (b *hookBench) say(n int) {
	for range n {
		b.events.add(Event{Time: testTime, Kind: eventReloaded})
	}
}

// taken waits until the webhook has noticed the last set.
func (b *hookBench) taken(t *testing.T) {
	t.Helper()
	until(t, "the webhook to notice", func() bool { return len(b.wake) == 0 })
	time.Sleep(50 * time.Millisecond) // it looks for the newest event then
}

// await waits until s has accepted the event n.
func (s *hookServer) await(t *testing.T, n uint64) {
	t.Helper()
	lab.Within(t, 20*time.Second, func() string {
		all, _ := s.numbers()
		if len(all) == 0 || all[len(all)-1] != n {
			return fmt.Sprintf("event %d has not arrived: %v", n, all)
		}
		return ""
	})
}

// Events arrive in order and in batches, with a token. While the server fails they are
// tried again, which the log says once; what is not kept any more is counted.
func TestWebhook(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := newHookServer(t)
	b := startWebhook(t, Events{Webhook: server.URL + "/hook?key=hidden", Timeout: 2 * time.Second, TokenFile: token})
	b.say(250)
	server.await(t, 250)
	all, lost := server.numbers()
	for i, n := range all {
		if n != uint64(i)+1 {
			t.Fatalf("event %d is the number %d", n, i+1)
		}
	}
	server.mu.Lock()
	if m, h := server.messages[0], server.headers[0]; lost > 0 || len(server.messages) < 3 || len(m.Events) > webhookBatch || m.Host != "director-1" || m.Version != 1 || h.Get("Authorization") != "Bearer s3cret" || h.Get("User-Agent") != "lvs-controller/"+version {
		t.Errorf("%d messages, %d lost, the first with %d events from %s %s", len(server.messages), lost, len(m.Events), m.Host, h)
	}
	server.mu.Unlock()

	server.status.Store(302) // a redirect is no success, and is not followed
	before := server.tries.Load()
	b.say(700) // more than are kept
	lab.Within(t, 20*time.Second, func() string {
		if server.tries.Load() < before+2 || !b.failing.Load() {
			return "not tried a second time"
		}
		return ""
	})
	server.status.Store(200)
	server.await(t, 950)
	all, lost = server.numbers()
	if lost == 0 || lost+uint64(len(all)) != 950 {
		t.Errorf("%d lost and %d arrived of 950", lost, len(all))
	}
	lab.Within(t, 5*time.Second, func() string { // the server has them before it has answered
		if b.lost.Load() != lost || b.failing.Load() {
			return fmt.Sprintf("%d lost; counted %d, failing %t", lost, b.lost.Load(), b.failing.Load())
		}
		return ""
	})
	lab.Within(t, 5*time.Second, func() string {
		if !strings.Contains(b.log.String(), "again\" lost=") {
			return "the end is not logged: " + b.log.String()
		}
		return ""
	})
	var lines []string
	for line := range strings.Lines(b.log.String()) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), " level=")
		line, _, _ = strings.Cut(line, " lost=")
		lines = append(lines, line)
	}
	want := []string{
		`WARN msg="events cannot be sent to the webhook; this is tried again" err="POST: the answer is 302"`,
		`INFO msg="events are sent to the webhook again"`,
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// A reload turns the webhook on, changes it and turns it off. What happened without one
// is not sent.
func TestWebhookReload(t *testing.T) {
	b := startWebhook(t, Events{})
	b.say(3)
	server := newHookServer(t)
	b.taken(t)
	b.set(Events{Webhook: "http://user:hidden@127.0.0.1:1/", Timeout: time.Second})
	b.taken(t)
	b.say(1)
	lab.Within(t, 20*time.Second, func() string {
		if !b.failing.Load() {
			return "a port without a listener does not fail"
		}
		return ""
	})
	b.set(Events{Webhook: server.URL, Timeout: time.Second})
	server.await(t, 4)
	if all, lost := server.numbers(); len(all) != 1 || lost > 0 {
		t.Errorf("%v arrived, %d lost", all, lost)
	}
	b.set(Events{})
	b.taken(t)
	b.say(1)
	time.Sleep(500 * time.Millisecond)
	if all, _ := server.numbers(); len(all) != 1 {
		t.Errorf("turned off, and %v arrived", all)
	}
	if text := b.log.String(); strings.Contains(text, "hidden") || !strings.Contains(text, "connection refused") {
		t.Errorf("log:\n%s", text)
	}
}

// A server that accepts and never answers costs the timeout, and what is wrong with the
// token is said.
func TestWebhookFailures(t *testing.T) {
	port, listeners := listenLoopback(t, 1)
	say(listeners[0], "", true)
	b := startWebhook(t, Events{})
	m := &webhookMessage{Events: []Event{{Kind: eventReloaded}}}
	url := fmt.Sprintf("http://127.0.0.1:%d/key", port)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		to   Events
		want string
	}{
		{Events{Webhook: url, Timeout: 100 * time.Millisecond}, "POST: no answer in 100ms"},
		{Events{Webhook: url, Timeout: time.Second, TokenFile: empty}, "token_file: " + empty + " has no token: one line of printable ASCII without spaces"},
		{Events{Webhook: url, Timeout: time.Second, TokenFile: empty + "x"}, "token_file: open " + empty + "x: no such file or directory"},
	} {
		if err := b.post(t.Context(), &test.to, m); err == nil || err.Error() != test.want {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
}

// replyRaw is a server that answers each connection with of, and then closes it.
func replyRaw(t *testing.T, of func(net.Conn)) (at string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.Read(make([]byte, 64<<10))
				of(conn)
			}()
		}
	}()
	return "http://user:hidden@" + l.Addr().String() + "/hidden?key=hidden"
}

// trickle writes text again and again, a piece each millisecond, until the client leaves.
func trickle(conn net.Conn, text string) {
	for {
		if _, err := io.WriteString(conn, text); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Whatever a server answers, a POST ends in time, and its error is one short line without
// the URL.
func TestWebhookHostileServers(t *testing.T) {
	for name, test := range map[string]struct {
		of   func(net.Conn)
		want string // a part of the error; "" = none
	}{
		"closes":             {func(net.Conn) {}, "EOF"},
		"header without end": {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n"); trickle(c, "a") }, "POST: no answer in 300ms"},
		"long header":        {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nA: "+strings.Repeat("b", 1<<20)+"\r\n\r\n") }, "POST: "},
		"no HTTP":            {func(c net.Conn) { io.WriteString(c, strings.Repeat("SSH\x1b[31m", 3000)+"\r\n") }, "POST: "},
		"continues":          {func(c net.Conn) { trickle(c, "HTTP/1.1 103 Early Hints\r\n\r\n") }, "POST: "},
		"body without end":   {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 204 OK\r\n\r\n"); trickle(c, "a") }, ""},
		"body that trickles": {func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
			trickle(c, "a")
		}, ""},
		"500": {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 500 hidden\r\nContent-Length: 0\r\n\r\n") }, "POST: the answer is 500"},
		"101": {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 101 Go\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n") }, "POST: the answer is 101"},
		"300": {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 300 Choices\r\nContent-Length: 0\r\n\r\n") }, "POST: the answer is 300"},
		"199": {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 199 Odd\r\n\r\n") }, "POST: "},
		"redirect to nowhere": {func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n")
		}, "POST: "},
		"redirect without a to": {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 308 Found\r\nContent-Length: 0\r\n\r\n") }, "POST: the answer is 308"},
	} {
		b := startWebhook(t, Events{})
		to := Events{Webhook: replyRaw(t, test.of), Timeout: 300 * time.Millisecond}
		begun := time.Now()
		err := b.post(t.Context(), &to, &webhookMessage{Events: []Event{{Kind: eventReloaded}}})
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
		text := fmt.Sprint(err)
		if (err == nil) != (test.want == "") || !strings.Contains(text, test.want) || len(text) > 1100 || strings.ContainsAny(text, "\n\r\x1b") || strings.Contains(text, "hidden") {
			t.Errorf("%s: %q, want %q", name, text, test.want)
		}
	}
}

// A reload during a POST ends it when it changes the webhook, and leaves it otherwise.
func TestWebhookReloadDuringPost(t *testing.T) {
	asked, release := make(chan struct{}, 10), make(chan struct{})
	url := replyRaw(t, func(c net.Conn) {
		asked <- struct{}{}
		<-release
		io.WriteString(c, "HTTP/1.1 204 OK\r\n\r\n")
	})
	t.Cleanup(func() { close(release) })
	slow := Events{Webhook: url, Timeout: time.Minute}
	b := startWebhook(t, slow)
	b.say(1)
	<-asked
	b.set(slow) // another key has changed
	select {
	case <-asked:
		t.Fatal("the POST was given up though the webhook is the same")
	case <-time.After(300 * time.Millisecond):
	}
	server := newHookServer(t)
	b.set(Events{Webhook: server.URL, Timeout: time.Second})
	server.await(t, 1)
	if n := b.failed.Load(); n > 0 || strings.Contains(b.log.String(), "level=WARN") {
		t.Errorf("%d POSTs have failed:\n%s", n, b.log.String())
	}
	// Without a webhook, what was on its way is not sent later.
	b.set(slow)
	b.say(1)
	<-asked
	b.set(Events{})
	b.taken(t)
	lab.Within(t, 5*time.Second, func() string {
		b.set(Events{Webhook: server.URL, Timeout: time.Second})
		b.say(1)
		all, _ := server.numbers()
		if n := all[len(all)-1]; n > 2 {
			return ""
		}
		return "nothing arrives again"
	})
	if all, _ := server.numbers(); slices.Contains(all, 2) {
		t.Errorf("%v have arrived", all)
	}
}

// The token is read for each POST: one that is absent is a failure until it is there, and
// one that is rotated is used.
func TestWebhookToken(t *testing.T) {
	server := newHookServer(t)
	token := filepath.Join(t.TempDir(), "token")
	b := startWebhook(t, Events{Webhook: server.URL, Timeout: time.Second, TokenFile: token})
	b.say(1)
	lab.Within(t, 10*time.Second, func() string {
		if !b.failing.Load() {
			return "a POST without its token does not fail"
		}
		return ""
	})
	for n, text := range []string{"first", "second"} {
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			b.say(1)
		}
		server.await(t, uint64(n)+1)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	var got []string
	for _, h := range server.headers {
		got = append(got, h.Get("Authorization"))
	}
	if diff := cmp.Diff([]string{"Bearer first", "Bearer second"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if text := b.log.String(); strings.Contains(text, "first") || strings.Contains(text, "second") || !strings.Contains(text, "token_file: open "+token+": no such file or directory") {
		t.Errorf("log:\n%s", text)
	}
	if all, lost := server.messages, b.lost.Load(); lost > 0 || len(all) != 2 {
		t.Errorf("%d messages, %d lost", len(all), lost)
	}
}

// Bounds of what a token may be.
func TestReadToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for text, want := range map[string]string{
		"a": "a", " !~ \n": "!~", strings.Repeat("x", maxToken): strings.Repeat("x", maxToken),
		"": "", "a b": "", "a\x00": "", "a\x7f": "", "é": "", "a\nb": "", strings.Repeat("x", maxToken+1): "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readToken(path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.20q: %.20q, %v", text, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "xxx") {
			t.Errorf("the token is in the error: %v", err)
		}
	}
	if _, err := readToken(filepath.Dir(path)); err == nil {
		t.Error("a directory is a token")
	}
}
