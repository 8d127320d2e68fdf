// Tests of the bounds: what an API server or a cluster file may not do to the
// controller.

package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
)

// watched is what came of following a fake API server for a while.
type watched struct {
	cluster *latest[Cluster]
	log     *lockedBuffer
	states  []StreamState
}

// follow runs a watch of edgePods and tcpMap at server until done says so, which
// is asked after each request that respond has answered and every 10 ms.
func follow(t *testing.T, respond reply, done func(*latest[Cluster], string) bool, edit ...func(*clusterWatch)) watched {
	t.Helper()
	api := newFakeAPI(t)
	api.respond = respond
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, api.kubeconfig("the-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := watched{cluster: newLatest[Cluster](), log: new(lockedBuffer)}
	w := newClusterWatch(slog.New(slog.NewTextHandler(f.log, nil)), f.cluster, Cluster{})
	w.pace.firstRetry, w.pace.retryAway, w.pace.retryOther = time.Millisecond, time.Millisecond, time.Millisecond
	for _, e := range edit {
		e(w)
	}
	queries := newLatest[ClusterQuery](make(chan struct{}, 1))
	queries.Set(&ClusterQuery{Kubeconfig: path, Pods: []PodQuery{edgePods}, ConfigMaps: []ConfigMapName{tcpMap}})
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = w.Run(ctx, queries) }()
	for !done(f.cluster, f.log.String()) {
		if ctx.Err() != nil {
			t.Fatalf("it did not come to this in time; log:\n%s", shorten(f.log.String(), 2000))
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.states = w.States()
	stop()
	<-ended
	return f
}

// No redirect is followed, to wherever and with whatever code: the token goes
// nowhere but to the API server.
func TestNoRedirectIsFollowed(t *testing.T) {
	var visits atomic.Int32
	visited := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visits.Add(1)
		says(podList("7", "", testPod{name: "evil", version: 7}))(w, r)
	})
	plain, secure := httptest.NewServer(visited), httptest.NewTLSServer(visited)
	defer plain.Close()
	defer secure.Close()
	for _, to := range []struct{ name, location, says string }{
		{"out of TLS", plain.URL + "/api/v1/namespaces/web/pods", plain.URL + "/api/v1/namespaces/web/pods"},
		{"to another host", secure.URL + "/x?token=secret", secure.URL + "/x;"},
		{"to itself", "/elsewhere", "/elsewhere"},
		{"with a password", "http://user:secret@" + strings.TrimPrefix(plain.URL, "http://") + "/", plain.URL + "/;"},
		{"without saying where", "", "a redirect to nowhere"},
		{"to no URL", "https://user:secret@[::1?token=secret", `a redirect to \"[::1\";`},
		{"to no host", "mailto:user:secret@example.org", `a redirect to \"example.org\";`},
	} {
		for _, code := range []int{300, 301, 302, 303, 304, 305, 307, 308, 399} {
			t.Run(fmt.Sprintf("%s, %d", to.name, code), func(t *testing.T) {
				respond := func(w http.ResponseWriter, r *http.Request) {
					switch q := r.URL.Query(); {
					case r.URL.Path == "/elsewhere":
						t.Error("the redirect was followed")
					case q.Get("watch") == "" && strings.HasSuffix(r.URL.Path, "configmaps"):
						says(`{"kind":"ConfigMapList","metadata":{"resourceVersion":"5"},"items":[]}`)(w, r)
					default: // a list of pods and a watch of ConfigMaps
						if to.location != "" {
							w.Header().Set("Location", to.location)
						}
						w.WriteHeader(code)
					}
				}
				f := follow(t, respond, func(_ *latest[Cluster], log string) bool {
					return strings.Contains(log, "list pods") && strings.Contains(log, "watch configmap")
				})
				log := f.log.String()
				if !strings.Contains(log, fmt.Sprintf("answers %d, a redirect to ", code)) || !strings.Contains(log, to.says) {
					t.Errorf("the log does not say where it pointed:\n%s", log)
				}
				if strings.Contains(log, "secret") || strings.Contains(log, "the-token") {
					t.Errorf("the log has a secret:\n%s", log)
				}
				if pods := f.cluster.Get(); pods != nil && pods.Pods[edgePods] != nil {
					t.Errorf("believed: %+v", pods.Pods)
				}
			})
		}
	}
	if n := visits.Load(); n > 0 {
		t.Errorf("%d requests went where a redirect pointed", n)
	}
}

// A proxy of the environment sees no request that is not in TLS.
func TestProxyOfTheEnvironment(t *testing.T) {
	a := &apiServer{}
	for _, tt := range []struct {
		server, config string
		proxied        bool
	}{
		{"http://203.0.113.9:6443", "", false},
		{"http://203.0.113.9:6443", `"proxy-url":"http://203.0.113.1:3128",`, true},
	} {
		a.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
		text := strings.Replace(string(kubeconfigFor(tt.server, nil, "t")), `"cluster":{`, `"cluster":{`+tt.config, 1)
		if err := os.WriteFile(a.kubeconfig, []byte(strings.Replace(text, `,"certificate-authority-data":""`, "", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("HTTP_PROXY", "http://203.0.113.2:3128")
		t.Setenv("http_proxy", "http://203.0.113.2:3128")
		c, err := a.read()
		if err != nil {
			t.Fatal(err)
		}
		if got := proxyOf(t, c); (got == "http://203.0.113.1:3128") != tt.proxied || got != "" && !tt.proxied {
			t.Errorf("%s %s: proxy %q", tt.server, tt.config, got)
		}
	}
}

// proxyOf is the proxy that a request of c goes through, "" for none.
func proxyOf(t *testing.T, c *connection) string {
	t.Helper()
	type wrapper interface{ WrappedRoundTripper() http.RoundTripper }
	rt := c.transport
	for {
		w, ok := rt.(wrapper)
		if !ok {
			break
		}
		rt = w.WrappedRoundTripper()
	}
	transport, ok := rt.(*http.Transport)
	if !ok {
		t.Fatalf("transport %T", rt)
	}
	req, err := http.NewRequest(http.MethodGet, c.base.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := transport.Proxy(req)
	if err != nil {
		t.Fatal(err)
	}
	if u == nil {
		return ""
	}
	return u.String()
}

// repeat is an endless reader of text.
type repeat struct {
	text string
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		c := copy(p[n:], r.text[r.at:])
		n, r.at = n+c, (r.at+c)%len(r.text)
	}
	return n, nil
}

// podsOf begins a list.
const podsOf = `{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[`

// An answer is refused with its reason before it takes memory.
func TestAnswersAreBounded(t *testing.T) {
	skipShort(t)
	tests := []struct {
		name, begin, more, want string
	}{
		{"white space before the answer", "", " ", "larger than 16 MiB"},
		{"white space inside it", `{"kind":`, "\n", "larger than 16 MiB"},
		{"white space between objects", podsOf, "\t", "larger than 16 MiB"},
		{"an object", podsOf + `{"metadata":{"name":"`, "x", "larger than 16 MiB"},
		{"a field that is not wanted", `{"x":"`, "x", "larger than 16 MiB"},
		{"the name of a field", `{"`, "x", "larger than 16 MiB"},
		{"a number", `{"x":`, "1", "larger than 16 MiB"},
		{"depth", `{"x":`, "[", "exceeded max depth"},
		{"objects", podsOf + `{"metadata":{"name":"a","namespace":"web"}}`, `,{"metadata":{"name":"a","namespace":"web"}}`, "more than 500000 objects"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := allocated()
			answer := edgePods.collect()
			_, err := decodePage(io.MultiReader(strings.NewReader(tt.begin), &repeat{text: tt.more}), answer)
			if err == nil || !malformed(err) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", shorten(fmt.Sprint(err), 300), tt.want)
			}
			if len(err.Error()) > 500 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if more := int64(allocated()) - int64(before); more > 256<<20 {
				t.Errorf("%d MiB are kept", more>>20)
			}
			runtime.KeepAlive(answer)
		})
	}
}

// The bounds are exact however much a reader gives at a time: a file fills any buffer.
func TestBoundsOfFastReader(t *testing.T) {
	skipShort(t)
	pods := func(size, n int) string {
		return podsOf + strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"kind":"Pod","metadata":{"name":"a","namespace":"web","labels":{"x":"%s"}}},`, strings.Repeat("x", size)), n), ",") + "]}"
	}
	keys := []streamKey{{PodQuery{Namespace: "web"}}}
	for _, tt := range []struct {
		name, text string
		refused    bool
	}{
		{"one of 17 MB", pods(17<<20, 1), true},
		{"a small one and one of 17 MB", strings.Replace(pods(17<<20, 1), "[", `[{"kind":"Pod","metadata":{"name":"b"}},`, 1), true},
		{"two of 15 MB", pods(15<<20, 2), false},
		{"17 MB of white space", strings.Repeat(" ", 17<<20) + pods(1, 1), true},
		{"17 MB of white space before YAML", strings.Repeat("\n", 17<<20) + "kind: PodList\nitems: []\n", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			judge := func(how string, err error) {
				if tt.refused && (!malformed(err) || !strings.Contains(err.Error(), "larger than 16 MiB")) || !tt.refused && err != nil {
					t.Errorf("%s: error %s", how, shorten(fmt.Sprint(err), 300))
				}
			}
			_, _, err := decodeClusterFile(strings.NewReader(tt.text), keys)
			judge("file", err)
			if strings.Contains(tt.text, "YAML") || strings.HasSuffix(tt.text, "\n") {
				return
			}
			_, err = decodePage(strings.NewReader(tt.text), PodQuery{}.collect())
			judge("page", err)
		})
	}
	dec := newBoundedDecoder(strings.NewReader(strings.Repeat(" ", 900)+`{"a":1}`), 905)
	if _, err := dec.Token(); err != nil {
		t.Error(err)
	}
	if err := skip(dec); !malformed(err) {
		t.Errorf("906 bytes of 905: error %v", err)
	}
}

// The same bounds hold for the events of a watch, which itself does not end.
func TestEventsAreBounded(t *testing.T) {
	skipShort(t)
	for name, text := range map[string][2]string{
		"white space": {"", " "},
		"an object":   {`{"type":"ADDED","object":{"metadata":{"name":"a","annotations":{"x":"`, "x"},
		"a type":      {`{"type":"`, "x"},
	} {
		_, err := newEventDecoder(io.MultiReader(strings.NewReader(text[0]), &repeat{text: text[1]}), podKind).next()
		if err == nil || !malformed(err) || !strings.Contains(err.Error(), "larger than 16 MiB") {
			t.Errorf("%s: error %v", name, shorten(fmt.Sprint(err), 300))
		}
	}
	// The whole of an answer counts, too, where it has an end.
	dec := newBoundedDecoder(io.MultiReader(strings.NewReader(`{"a":0`), &repeat{text: `,"a":0`}), 1<<20)
	if err := walkObject(dec, func(string) error { return skip(dec) }); !malformed(err) || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Errorf("an answer without an end: error %v", err)
	}
	// Many small events are no large one.
	event := tells(eventModified, testPod{name: "a", version: 12, noise: strings.Repeat("x", 1<<20)})
	d := newEventDecoder(&repeat{text: event}, podKind)
	for range 40 {
		if _, err := d.next(); err != nil {
			t.Fatal(err)
		}
	}
}

// allocated is what the heap holds after a collection.
func allocated() uint64 {
	var m runtime.MemStats
	// What earlier tests leave takes some collections to go: pools, and goroutines that end.
	for last := uint64(0); ; last = m.HeapAlloc {
		runtime.GC()
		runtime.ReadMemStats(&m)
		if m.HeapAlloc >= last && last > 0 || last-m.HeapAlloc < 16<<10 {
			return m.HeapAlloc
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Names that no API server gives out are refused, shortly.
func TestNamesAreBounded(t *testing.T) {
	long := strings.Repeat("n", 1<<20)
	tests := map[string]string{
		"a long name":       fmt.Sprintf(`{"metadata":{"name":%q}}`, long),
		"a long namespace":  fmt.Sprintf(`{"metadata":{"name":"a","namespace":%q}}`, long),
		"a long uid":        fmt.Sprintf(`{"metadata":{"name":"a","uid":%q}}`, long),
		"a long node":       fmt.Sprintf(`{"metadata":{"name":"a"},"spec":{"nodeName":%q}}`, long),
		"a long version":    fmt.Sprintf(`{"metadata":{"name":"a","resourceVersion":%q}}`, long),
		"a terminal escape": `{"metadata":{"name":"a\u001b[2J"}}`,
		"a new line":        `{"metadata":{"name":"a\nb"}}`,
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := decodePage(strings.NewReader(podsOf+text+"]}"), PodQuery{}.collect())
			if !errors.Is(err, errMalformed) || len(err.Error()) > 300 {
				t.Errorf("list: error %s", shorten(fmt.Sprint(err), 300))
			}
			event := `{"type":"ADDED","object":` + strings.Replace(text, `"metadata":{`, `"metadata":{"resourceVersion":"8",`, 1) + "}"
			if _, err := newEventDecoder(strings.NewReader(event), podKind).next(); !errors.Is(err, errMalformed) || len(err.Error()) > 300 {
				t.Errorf("event: error %s", shorten(fmt.Sprint(err), 300))
			}
		})
	}
	for _, head := range []string{
		fmt.Sprintf(`{"kind":"PodList","metadata":{"resourceVersion":%q},"items":[]}`, long),
		fmt.Sprintf(`{"kind":"PodList","metadata":{"resourceVersion":"7","continue":%q},"items":[]}`, long),
		fmt.Sprintf(`{"kind":%q,"metadata":{"resourceVersion":"7"},"items":[]}`, long),
	} {
		if _, err := decodePage(strings.NewReader(head), PodQuery{}.collect()); !errors.Is(err, errMalformed) || len(err.Error()) > 300 {
			t.Errorf("head: error %s", shorten(fmt.Sprint(err), 300))
		}
	}
}

// A compressed answer is bounded by what it is after decompression.
func TestCompressedAnswerIsBounded(t *testing.T) {
	skipShort(t)
	var packed strings.Builder
	z := gzip.NewWriter(&packed)
	io.WriteString(z, podsOf)
	_, _ = io.CopyN(z, &repeat{text: strings.Repeat(" ", 64<<10)}, 20<<20)
	z.Close()
	if packed.Len() > 1<<20 {
		t.Fatalf("no bomb: %d bytes", packed.Len())
	}
	respond := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			t.Error("no compression is asked for")
		}
		w.Header().Set("Content-Encoding", "gzip")
		says(packed.String())(w, r)
	}
	before := allocated()
	f := follow(t, respond, func(_ *latest[Cluster], log string) bool {
		return strings.Count(log, "larger than 16 MiB") == 2 // for each stream
	})
	if more := int64(allocated()) - int64(before); more > 64<<20 {
		t.Errorf("%d MiB are kept", more>>20)
	}
	if f.cluster.Get() != nil {
		t.Error("the answer is believed")
	}
	for _, s := range f.states {
		if s.Synced || s.LastError == "" {
			t.Errorf("stream %+v", s)
		}
	}
}

// A list that always has another page is given up.
func TestEndlessListIsGivenUp(t *testing.T) {
	var pages atomic.Int64
	respond := func(w http.ResponseWriter, r *http.Request) {
		kind := "PodList"
		if strings.HasSuffix(r.URL.Path, "configmaps") {
			kind = "ConfigMapList"
		}
		says(fmt.Sprintf(`{"kind":%q,"metadata":{"resourceVersion":"7","continue":"%d"},"items":[]}`, kind, pages.Add(1)))(w, r)
	}
	f := follow(t, respond, func(_ *latest[Cluster], log string) bool { return strings.Contains(log, "does not end within 50ms") },
		func(w *clusterWatch) { w.pace.list = 50 * time.Millisecond })
	if f.cluster.Get() != nil {
		t.Error("the answer is believed")
	}
}

// A report of the server, however long, is short in the log and in the status.
func TestReportsAreBounded(t *testing.T) {
	long := strings.Repeat("m", 60_000)
	for name, respond := range map[string]reply{
		"a Status":       refuses(403, long),
		"a redirect":     refuses(302, "", "Location", "https://192.0.2.1/"+long),
		"no URL":         refuses(302, "", "Location", "http://[::1"+long),
		"a wrong number": says(`{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":` + strings.Repeat("1", 60_000) + `}}]}`),
	} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, respond, func(_ *latest[Cluster], log string) bool { return strings.Contains(log, "cannot follow") })
			for line := range strings.Lines(f.log.String()) {
				if len(line) > 2_000 {
					t.Errorf("a line of %d bytes: %s", len(line), line[:200])
				}
			}
			for _, s := range f.states {
				if len(s.LastError) > 1_100 {
					t.Errorf("the status has an error of %d bytes", len(s.LastError))
				}
			}
		})
	}
}

// Codes of error events that are none of HTTP are one topic of the log.
func TestErrorEventsAreBounded(t *testing.T) {
	var n atomic.Int64
	respond := func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case q.Get("watch") != "":
			says(tellsError(int(1_000+n.Add(1))))(w, r)
		case strings.HasSuffix(r.URL.Path, "configmaps"):
			says(`{"kind":"ConfigMapList","metadata":{"resourceVersion":"5"},"items":[]}`)(w, r)
		default:
			says(podList("7", ""))(w, r)
		}
	}
	f := follow(t, respond, func(*latest[Cluster], string) bool { return n.Load() > 30 })
	if lines := strings.Count(f.log.String(), "cannot follow"); lines == 0 || lines > 2 {
		t.Errorf("%d lines about two streams:\n%s", lines, shorten(f.log.String(), 2000))
	}
}

// What a server says does not command the terminal of whoever reads the status.
func TestReportsArePlain(t *testing.T) {
	respond := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
		io.WriteString(w, `{"message":"a\u001b[2J\u202e\nb"}`)
	}
	f := follow(t, respond, func(_ *latest[Cluster], log string) bool { return strings.Contains(log, "answers 500") })
	for _, s := range f.states {
		if s.LastError != "" && (!strings.HasSuffix(s.LastError, `a\x1b[2J\u202e\nb`) || strings.ContainsFunc(s.LastError, unicode.IsControl)) {
			t.Errorf("the status has %q", s.LastError)
		}
	}
}

// A file that is too large, or has no end, is not read to the end.
func TestLargeClusterFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.json")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal("no sparse file can be made in the directory for temporary files: ", err)
	}
	is, err := readClusterFile(path, nil)
	if err == nil || !strings.Contains(err.Error(), "larger than 512 MiB") || is.stamp != fileStamp(os.Stat(path)) {
		t.Errorf("error %v, stamp %q", err, is.stamp)
	}
	began := time.Now()
	if _, err := readClusterFile("/dev/zero", nil); err == nil || time.Since(began) > time.Minute {
		t.Errorf("an endless file: error %v after %s", err, time.Since(began))
	}
}
