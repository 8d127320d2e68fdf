// A server that speaks the API's protocol from a script, one reply a request,
// and a proxy that breaks connections. The tests of the watch run against them.

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// reply answers one request.
type reply func(w http.ResponseWriter, r *http.Request)

// fakeAPI is an API server with HTTP/2 and TLS that replies from a script, or
// with respond when that is set.
type fakeAPI struct {
	*httptest.Server
	t         *testing.T
	respond   reply
	exhausted chan struct{} // closed by the first request after the script

	mu       sync.Mutex
	script   []reply
	requests []string
	tokens   []string // of each request
}

func newFakeAPI(t *testing.T, script ...reply) *fakeAPI {
	api := &fakeAPI{t: t, script: script, exhausted: make(chan struct{})}
	api.Server = httptest.NewUnstartedServer(api)
	api.EnableHTTP2 = true
	api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	api.StartTLS()
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	return api
}

// ServeHTTP notes the request and gives the next reply.
func (api *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	what := "list"
	if q.Get("watch") != "" {
		what = "watch"
		if q.Get("allowWatchBookmarks") != "true" || q.Get("timeoutSeconds") == "" {
			api.t.Errorf("watch without bookmarks or an end: %s", r.URL)
		}
	} else if q.Get("limit") != "500" || q.Has("resourceVersion") {
		api.t.Errorf("list that is not paged, or not of the newest state: %s", r.URL)
	}
	if got := r.Header.Get("Accept"); got != "application/json" {
		api.t.Errorf("Accept: %q", got)
	}
	if got, want := r.UserAgent(), "lvs-controller/"+version; got != want {
		api.t.Errorf("User-Agent: %q, want %q", got, want)
	}
	what += " " + strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/")
	for _, name := range []string{"labelSelector", "fieldSelector", "continue", "resourceVersion"} {
		if q.Has(name) {
			what += " " + name + "=" + q.Get(name)
		}
	}

	api.mu.Lock()
	api.requests = append(api.requests, what)
	api.tokens = append(api.tokens, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	next := api.respond
	last := false
	if next == nil {
		if last = len(api.script) == 0; last {
			next = goesOn("")
		} else {
			next, api.script = api.script[0], api.script[1:]
		}
	}
	first := last && !closed(api.exhausted)
	if first {
		close(api.exhausted)
	}
	api.mu.Unlock()
	next(w, r)
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// seen returns the requests so far.
func (api *fakeAPI) seen() []string {
	api.mu.Lock()
	defer api.mu.Unlock()
	return append([]string(nil), api.requests...)
}

// kubeconfig is one for the server, with a token.
func (api *fakeAPI) kubeconfig(token string) []byte {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	return kubeconfigFor(api.URL, ca, token)
}

// kubeconfigFor is a kubeconfig in JSON, which is YAML.
func kubeconfigFor(server string, ca []byte, token string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Config","current-context":"c",
		"clusters":[{"name":"k","cluster":{"server":%q,"certificate-authority-data":%q}}],
		"users":[{"name":"u","user":{"token":%q}}],
		"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}]}`, server, base64.StdEncoding.EncodeToString(ca), token)
}

// says replies 200 with body.
func says(body string) reply {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, body)
	}
}

// breaks replies 200 with body and cuts the connection.
func breaks(body string) reply {
	return func(w http.ResponseWriter, r *http.Request) {
		says(body)(w, r)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// refuses replies with a Status.
func refuses(code int, message string, headers ...string) reply {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":%q,"code":%d}`, message, code)
	}
}

// goesOn replies 200 with body and then says nothing more.
func goesOn(body string) reply {
	return func(w http.ResponseWriter, r *http.Request) {
		says(body)(w, r)
		w.(http.Flusher).Flush()
		hang(w, r)
	}
}

// lasts replies 200 with body and ends after a while.
func lasts(body string, d time.Duration) reply {
	return func(w http.ResponseWriter, r *http.Request) {
		says(body)(w, r)
		w.(http.Flusher).Flush()
		sleepContext(r.Context(), d)
	}
}

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// tells is a watch event of a pod.
func tells(kind string, p testPod) string {
	return fmt.Sprintf(`{"type":%q,"object":%s}`+"\n", kind, p.json())
}

func bookmark(version string) string {
	return fmt.Sprintf(`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":%q}}}`+"\n", version)
}

func tellsError(code int) string {
	return fmt.Sprintf(`{"type":"ERROR","object":{"kind":"Status","status":"Failure","message":"too old resource version","code":%d}}`+"\n", code)
}

// tcpProxy stands between a client and a server and can fail in ways a server
// of net/http cannot.
type tcpProxy struct {
	address, target string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	dead     map[net.Conn]bool // connections whose bytes get lost
}

func newTCPProxy(t *testing.T, target string) *tcpProxy {
	p := &tcpProxy{address: "127.0.0.1:0", target: target, dead: map[net.Conn]bool{}}
	p.start(t)
	t.Cleanup(p.stop)
	return p
}

// start accepts connections, at the same address as before.
func (p *tcpProxy) start(t *testing.T) {
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.listener, p.address = l, l.Addr().String()
	p.mu.Unlock()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", p.target)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			go p.copy(server, client)
			go p.copy(client, server)
		}
	}()
}

func (p *tcpProxy) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		dead := p.dead[from]
		p.mu.Unlock()
		if !dead {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			if !dead {
				to.Close()
			}
			return
		}
	}
}

// stop closes everything: connections are refused.
func (p *tcpProxy) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener.Close()
	for _, c := range p.conns {
		c.Close()
	}
}

// swallow loses all bytes of the connections there are.
func (p *tcpProxy) swallow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		p.dead[c] = true
	}
}

// roundTrip is a transport that answers without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Whatever a server refuses with, the reason is short, and waits are bounded.
func FuzzRefusal(f *testing.F) {
	f.Add(410, "", "", []byte(`{"kind":"Status","code":410,"message":"too old"}`))
	f.Add(429, "1", "", []byte(`<html>`))
	f.Add(302, "", "https://user:secret@other/?token=secret#secret", []byte(nil))
	f.Add(307, "-1", "//user:secret@\x7f/", []byte(nil))
	f.Add(500, "4294967295", "", []byte(`{"message":"\u001b[2J`))
	f.Fuzz(func(t *testing.T, code int, after, location string, body []byte) {
		if code == http.StatusOK || code < 100 || code > 999 {
			return
		}
		defer bounded(t, len(after)+len(location)+len(body))()
		c := &connection{base: &url.URL{Scheme: "https", Host: "api:6443"}, credentials: "kubeconfig", transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: code, Header: http.Header{"Retry-After": {after}, "Location": {location}},
				Body: io.NopCloser(bytes.NewReader(body)), Request: r,
			}, nil
		})}
		_, err := c.get(t.Context(), "list", allKeys(&ClusterQuery{Pods: []PodQuery{{Namespace: "web", Selector: "a=b"}}})[0], url.Values{})
		problem, ok := errors.AsType[*fault](err)
		if !ok {
			t.Fatalf("%v is not a fault", err)
		}
		if problem.retryAfter < 0 {
			t.Errorf("a wait of %s", problem.retryAfter)
		}
		// Four bytes a character, and the words around it.
		if n := len(err.Error()); n > 4*4*quotedText+600 {
			t.Errorf("a reason of %d bytes: %v", n, err)
		}
	})
}
