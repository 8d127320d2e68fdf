package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// subscribe follows the events of the socket at path. It returns them one by one.
func subscribe(t *testing.T, path, query string) (next func() Event, leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", "http://controller/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%d %s", resp.StatusCode, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	return func() (e Event) {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("the stream has ended: ", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		return e
	}, cancel
}

// A client gets what happens from its request on, or after a number; one that is too slow
// learns how many it has missed. The number of clients is bounded.
func TestEventStream(t *testing.T) {
	b := newBench(t, testVIP())
	path, _ := startSocket(t, newBenchServer(b))
	events := b.loop.events
	say := func(n int) {
		for range n {
			events.add(Event{Time: testTime, Kind: eventReloaded, Reason: strings.Repeat("x", keptText)})
		}
	}
	say(3)
	next, _ := subscribe(t, path, "")
	after, _ := subscribe(t, path, "?after=2")
	if e := after(); e.Number != 3 {
		t.Errorf("after the second comes %+v", e)
	}
	for range 2 {
		say(1)
		if e, f := next(), after(); e.Number != events.newest() || f.Number != e.Number || e.Kind != eventReloaded {
			t.Errorf("after %d events come %+v and %+v", events.newest(), e, f)
		}
	}
	// More than the buffers of a socket: the client does not read meanwhile.
	for range 20 {
		say(keptEvents)
		time.Sleep(5 * time.Millisecond)
	}
	lost, seen, last := uint64(0), uint64(0), uint64(5)
	for last < events.newest() {
		e := next()
		if e.Kind == eventLost {
			lost, last = lost+e.Lost, last+e.Lost
			continue
		}
		if e.Number != last+1 {
			t.Fatalf("number %d follows %d", e.Number, last)
		}
		seen, last = seen+1, e.Number
	}
	if lost == 0 || lost+seen != 20*keptEvents {
		t.Errorf("%d lost and %d seen of %d", lost, seen, 20*keptEvents)
	}

	if code, body, _ := overSocket(path, "GET", "/events?after=x"); code != 400 || !strings.Contains(body, `after="x"`) {
		t.Errorf("a number that is none: %d %s", code, body)
	}
	var leave func()
	for range maxStreams - 2 {
		_, leave = subscribe(t, path, "")
	}
	if code, body, _ := overSocket(path, "GET", "/events"); code != 503 {
		t.Errorf("one too many: %d %s", code, body)
	}
	leave()
	for range 1000 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		code := streamCode(ctx, path)
		cancel()
		if code == 200 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the place of one who has left stays taken")
}

// streamCode is the status of a request for /events that ends with ctx.
func streamCode(ctx context.Context, path string) int {
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://controller/events", nil)
	resp, err := (&http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}).RoundTrip(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// A client that takes nothing is left after a time, and one that waits for events is not.
func TestEventStreamPatience(t *testing.T) {
	events := new(eventRecord)
	left := make(chan struct{}, 10)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	const patience = 200 * time.Millisecond
	s := &http.Server{ReadTimeout: patience, WriteTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sendEvents(w, r, events, 0, patience)
		left <- struct{}{}
	})}
	t.Cleanup(func() { s.Close() })
	go s.Serve(l)
	follow := func() net.Conn {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write([]byte("GET /events HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	waits, head := follow(), make([]byte, 12)
	if _, err := io.ReadFull(waits, head); err != nil || string(head) != "HTTP/1.1 200" {
		t.Fatalf("%q, %v", head, err)
	}
	select {
	case <-left:
		t.Fatal("a client is left that waits for events")
	case <-time.After(4 * patience):
	}
	follow() // takes nothing
	rest := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, waits); rest <- err }()
	for deadline := time.Now().Add(20 * time.Second); ; {
		for range keptEvents {
			events.add(Event{Time: testTime, Kind: eventReloaded, Reason: strings.Repeat("x", keptText)})
		}
		select {
		case <-left:
			select {
			case err := <-rest:
				t.Errorf("the client that reads is left: %v", err)
			default:
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("a client that takes nothing is kept")
		}
	}
}

// Events that were skipped are a separate line, also where none follows yet.
func TestEventStreamSkips(t *testing.T) {
	b := newBench(t, testVIP())
	path, _ := startSocket(t, newBenchServer(b))
	events := b.loop.events
	at := events.newest()
	events.skip(7)
	next, _ := subscribe(t, path, fmt.Sprintf("?after=%d", at))
	if e := next(); e.Kind != eventLost || e.Lost != 7 || e.Number != 0 || e.Time.IsZero() {
		t.Errorf("%+v", e)
	}
	events.add(Event{Kind: eventReloaded})
	if e := next(); e.Kind != eventReloaded || e.Number != at+8 {
		t.Errorf("%+v", e)
	}
}

// The socket ends while clients follow, and the TCP listener has no events.
func TestEventStreamEnds(t *testing.T) {
	s := newBenchServer(newBench(t, testVIP()))
	path, stop := startSocket(t, s)
	subscribe(t, path, "")
	ended := make(chan struct{})
	go func() { stop(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the socket waits for a client")
	}
	for _, e := range s.endpoints() {
		if strings.HasSuffix(e.pattern, "/events") && e.on != onSocket {
			t.Error(fmt.Sprint("others than the owner get the events: ", e.on))
		}
	}
}
