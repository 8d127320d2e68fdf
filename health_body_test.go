package main

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// serveBodies answers each path of a few with its own body, and others with 404.
func serveBodies(t *testing.T, l net.Listener) {
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/well":
			fmt.Fprint(w, "state: well\n")
		case "/chunks":
			for range 3 {
				fmt.Fprint(w, "part ")
				w.(http.Flusher).Flush()
			}
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
			fmt.Fprint(w, "after the hints")
		case "/long":
			fmt.Fprint(w, strings.Repeat("x", maxBody), "end")
		case "/full":
			fmt.Fprint(w, strings.Repeat("x", maxBody))
		case "/cut":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "short")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})}
	t.Cleanup(func() { s.Close() })
	go s.Serve(l)
}

// The body of an answer is what it has to be, or the reason says what is wrong.
func TestAskBody(t *testing.T) {
	sum := func(s string) string { b := sha256.Sum256([]byte(s)); return string(b[:]) }
	match := regexp.MustCompile
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveBodies(t, l)
	for _, test := range []struct {
		path string
		body HTTPBody
		want string
	}{
		{"/well", HTTPBody{Match: match(`(?m)^state: well$`)}, "200"},
		{"/well", HTTPBody{Match: match(`ill`)}, "200, the body does not match body_match"},
		{"/well", HTTPBody{SHA256: sum("state: well\n")}, "200"},
		{"/well", HTTPBody{SHA256: sum("state: ill\n")}, "200, the SHA-256 sum of the body is another one"},
		{"/well", HTTPBody{SHA256: sum("state: well\n"), Match: match(`st`)}, "200"},
		{"/well", HTTPBody{SHA256: sum("state: well\n"), Match: match(`ts`)}, "200, the body does not match body_match"},
		{"/chunks", HTTPBody{SHA256: sum("part part part ")}, "200"},
		{"/early", HTTPBody{Match: match(`hints$`)}, "200"},
		{"/long", HTTPBody{Match: match(`xxx`)}, "200"},
		{"/long", HTTPBody{Match: match(`end$`)}, "200, the body is longer than 262144 bytes"},
		{"/long", HTTPBody{SHA256: sum(strings.Repeat("x", maxBody) + "end")}, "200, the body is longer than 262144 bytes"},
		{"/full", HTTPBody{SHA256: sum(strings.Repeat("x", maxBody))}, "200"},
		{"/full", HTTPBody{Match: match(`x$`)}, "200"},
		{"/cut", HTTPBody{Match: match(`short`)}, "200"},
		{"/cut", HTTPBody{Match: match(`long`)}, "200, EOF"},
		{"/none", HTTPBody{Match: match(`x`)}, "404"},
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		h := HTTPProbe{Path: test.path, Status: []StatusRange{{200, 200}}, Body: test.body}
		status, err := askStatus(conn, &h, netip.AddrPortFrom(loopback(1), 80))
		got := fmt.Sprint(status)
		if err != nil {
			got += ", " + err.Error()
		}
		if got != test.want {
			t.Errorf("%s %+v: %s, want %s", test.path, test.body, got, test.want)
		}
		conn.Close()
	}
}

// What is no HTTP, or has no end, is a failure without its text.
func TestAskBodyOfNoHTTP(t *testing.T) {
	h := HTTPProbe{Path: "/", Status: []StatusRange{{200, 200}}, Body: HTTPBody{Match: regexp.MustCompile("x")}}
	for answer, want := range map[string]string{
		"SSH-2.0-OpenSSH_9.2\r\n\r\n":                        errNotHTTP.Error(),
		"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 9000): errNotHTTP.Error(),
		"HTTP/1.1 200 OK\r\n\x00: b\r\n\r\n":                 errNotHTTP.Error(),
		"":                                                   "EOF",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n": errNotHTTP.Error(),
	} {
		client, server := net.Pipe()
		go func() {
			server.Read(make([]byte, 4096))
			server.Write([]byte(answer))
			server.Close()
		}()
		if _, err := askStatus(client, &h, netip.AddrPortFrom(loopback(1), 80)); err == nil || err.Error() != want {
			t.Errorf("%.30q: %v, want %s", answer, err, want)
		}
		client.Close()
	}
}

// Of several requests all must pass, and the reason names the one that does not.
func TestProbeSeveralURLs(t *testing.T) {
	port, listeners := listenLoopback(t, 1, 2)
	serveBodies(t, listeners[0])
	ill := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "state: ill") })}
	t.Cleanup(func() { ill.Close() })
	go ill.Serve(listeners[1])
	probes := brisk(func(p *Probes) {
		p.Timeout = p.Interval
		ok := []StatusRange{{200, 200}}
		p.HTTP = []HTTPProbe{
			{Port: port, Path: "/healthz", Host: "shop.example", Status: []StatusRange{{200, 404}}},
			{Port: port, Path: "/well", Host: "shop.example", Status: ok, Body: HTTPBody{Match: regexp.MustCompile("well")}},
		}
	})
	r := startProber(t, loopbackPlan(probes, nil, 1, 2), nil)
	r.decided(t)
	h := r.await(t, "one is down", func(h *Health) bool { return h != nil && len(h.Down) == 1 })
	want := map[string]string{"127.0.0.2": fmt.Sprintf("GET http://127.0.0.2:%d/well: the body does not match body_match", port)}
	if diff := cmp.Diff(want, reasons(h)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if k := r.Stats().Kinds[probeHTTP]; k.targets() != 4 {
		t.Errorf("%+v", k)
	}
	r.stop()
}

// Whatever comes back over a connection, the answer is read in bounded time and memory,
// and an error has none of its text.
func FuzzAskBody(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell", "well", false)
	f.Add("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwe\r\n2\r\nll\r\n0\r\n\r\n", "ll$", true)
	f.Add("HTTP/1.1 101 Go\r\n\r\n"+strings.Repeat("x", maxAnswer), "(x+x+)+y", true)
	known := map[string]bool{errBodySum.Error(): true, errBodyMatch.Error(): true, errBodyLong.Error(): true, errNotHTTP.Error(): true, "EOF": true}
	f.Fuzz(func(t *testing.T, answer, pattern string, sum bool) {
		re, err := regexp.Compile(pattern)
		if err != nil || len(pattern) > 20 {
			return // the pattern is the operator's
		}
		h := HTTPProbe{Path: "/", Status: []StatusRange{{100, 299}}, Body: HTTPBody{Match: re}}
		if sum {
			b := sha256.Sum256([]byte("well"))
			h.Body.SHA256 = string(b[:])
		}
		client, server := net.Pipe()
		defer client.Close()
		go func() {
			server.Write([]byte(answer))
			server.Close()
		}()
		defer bounded(t, len(answer))()
		status, err := askBody(client, &h)
		if err == nil && (status < 100 || status > 999) || err != nil && !known[err.Error()] {
			t.Fatalf("%q: %d, %v", answer, status, err)
		}
	})
}
