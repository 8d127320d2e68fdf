package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
	if lost == 0 || lost+uint64(len(all)) != 950 || b.lost.Load() != lost || b.failing.Load() {
		t.Errorf("%d lost and %d arrived of 950; counted %d, failing %t", lost, len(all), b.lost.Load(), b.failing.Load())
	}
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
	time.Sleep(50 * time.Millisecond)
	b.set(Events{Webhook: "http://user:hidden@127.0.0.1:1/", Timeout: time.Second})
	time.Sleep(300 * time.Millisecond)
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
	time.Sleep(50 * time.Millisecond)
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
