// Tests of the bounds: what an API server may not do to the controller, and what a
// tenant who may annotate a pod or write a ConfigMap may not.

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
	w := newClusterWatch(slog.New(slog.NewTextHandler(f.log, nil)), f.cluster)
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
			answer := contentBuilder{key: streamKey{pods: edgePods}, names: interner{}}
			_, err := decodePage(io.MultiReader(strings.NewReader(tt.begin), &repeat{text: tt.more}), "PodList", answer.add)
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
	pods := func(size, n int) string {
		return podsOf + strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"kind":"Pod","metadata":{"name":"a","namespace":"web","labels":{"x":"%s"}}},`, strings.Repeat("x", size)), n), ",") + "]}"
	}
	keys := []streamKey{{pods: PodQuery{Namespace: "web"}}}
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
			_, err := decodeClusterFile(strings.NewReader(tt.text), keys)
			judge("file", err)
			if strings.Contains(tt.text, "YAML") || strings.HasSuffix(tt.text, "\n") {
				return
			}
			_, err = decodePage(strings.NewReader(tt.text), "PodList", func(*object) error { return nil })
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
	for name, text := range map[string][2]string{
		"white space": {"", " "},
		"an object":   {`{"type":"ADDED","object":{"metadata":{"name":"a","annotations":{"x":"`, "x"},
		"a type":      {`{"type":"`, "x"},
	} {
		_, err := newEventDecoder(io.MultiReader(strings.NewReader(text[0]), &repeat{text: text[1]})).next()
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
	d := newEventDecoder(&repeat{text: event})
	for range 40 {
		if _, err := d.next(); err != nil {
			t.Fatal(err)
		}
	}
}

// allocated is what the heap holds after a collection.
func allocated() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
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
			_, err := decodePage(strings.NewReader(podsOf+text+"]}"), "PodList", func(*object) error { return nil })
			if !errors.Is(err, errMalformed) || len(err.Error()) > 300 {
				t.Errorf("list: error %s", shorten(fmt.Sprint(err), 300))
			}
			event := `{"type":"ADDED","object":` + strings.Replace(text, `"metadata":{`, `"metadata":{"resourceVersion":"8",`, 1) + "}"
			if _, err := newEventDecoder(strings.NewReader(event)).next(); !errors.Is(err, errMalformed) || len(err.Error()) > 300 {
				t.Errorf("event: error %s", shorten(fmt.Sprint(err), 300))
			}
		})
	}
	for _, head := range []string{
		fmt.Sprintf(`{"kind":"PodList","metadata":{"resourceVersion":%q},"items":[]}`, long),
		fmt.Sprintf(`{"kind":"PodList","metadata":{"resourceVersion":"7","continue":%q},"items":[]}`, long),
		fmt.Sprintf(`{"kind":%q,"metadata":{"resourceVersion":"7"},"items":[]}`, long),
	} {
		if _, err := decodePage(strings.NewReader(head), "PodList", nil); !errors.Is(err, errMalformed) || len(err.Error()) > 300 {
			t.Errorf("head: error %s", shorten(fmt.Sprint(err), 300))
		}
	}
}

// A compressed answer is bounded by what it is after decompression.
func TestCompressedAnswerIsBounded(t *testing.T) {
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

// Whoever may annotate a pod does not decide what is kept: 3,000 events, each with
// another annotation of 100 KB, leave the heap within 5 MB of before.
func TestAnnotationsAreBounded(t *testing.T) {
	const events, size = 3_000, 100_000
	query := PodQuery{Namespace: "web", Selector: "app=edge", Annotation: "lvs-controller/weight"}
	key := streamKey{pods: query}
	pad := strings.Repeat("w", size)
	one := func(i int) string {
		return fmt.Sprintf(`{"type":"MODIFIED","object":{"metadata":{"name":"a","namespace":"web","uid":"a","resourceVersion":"%d","annotations":{"lvs-controller/weight":"%d%s","other":"%d%s"}},"spec":{"nodeName":"n","hostNetwork":true},"status":{"hostIP":"10.1.0.1","conditions":[{"type":"Ready","status":"True"}]}}}`+"\n", i+10, i, pad, i, pad)
	}
	in, out := io.Pipe()
	go func() {
		for i := range events {
			io.WriteString(out, one(i))
		}
		out.Close()
	}()
	cfg := &Config{VIPs: []VIP{testVIP()}}
	cfg.VIPs[0].Pods, cfg.VIPs[0].WeightAnnotation = PodQuery{Namespace: "web", Selector: "app=edge"}, query.Annotation
	var text strings.Builder
	log, logged := slog.New(slog.NewTextHandler(&text, nil)), make(warningLog)
	d, names, now := newEventDecoder(in), interner{}, testTime
	c := content{}
	var w wanted
	before := allocated()
	for i := 0; ; i++ {
		e, err := d.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		c = c.with(key, e, names)
		now = now.Add(10 * time.Millisecond)
		w = desired(&w, cfg, &Cluster{Pods: map[PodQuery][]*Pod{cfg.VIPs[0].PodQuery(): c.pods}}, nil, newMemory(), now)
		logged.log(log, w.Warnings, now)
	}
	if more := int64(allocated()) - int64(before); more > 5_000_000 {
		t.Errorf("%d bytes more are kept", more)
	}
	if n := strings.Count(text.String(), "is not a weight"); n == 0 || n > 5 {
		t.Errorf("%d lines about 30 seconds of bad annotations, want 1 to 5", n)
	}
	if text.Len() > 8<<10 {
		t.Errorf("%d bytes of log", text.Len())
	}
	runtime.KeepAlive(c)
	runtime.KeepAlive(names)
}

// What is kept of a pod shares no memory with what is not.
func TestKeptIsSmall(t *testing.T) {
	const pods = 100
	blank := strings.Repeat(" ", 100_000)
	tests := map[string]func(i int) string{
		"white space before a weight": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d","annotations":{"weight":"%s%d"}}}`, i, blank, i)
		},
		"white space after no weight": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d","annotations":{"weight":"x%d%s"}}}`, i, i, blank)
		},
		"nothing but white space": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d","annotations":{"weight":"%s"}}}`, i, blank)
		},
		"one port very often": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d"},"spec":{"hostNetwork":true,"containers":[{"ports":[%s{"containerPort":80}]}]}}`, i, strings.Repeat(`{"containerPort":80},`, 10_000))
		},
		"zones": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d"},"status":{"hostIP":"fe80::1%%%d%s","podIP":"fe80::2%%%d%s"}}`, i, i, strings.Repeat("z", 50_000), i, strings.Repeat("y", 50_000))
		},
		"names of nodes": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d","labels":{"x":"%s"}},"spec":{"nodeName":"n%d"}}`, i, blank, i)
		},
	}
	for name, pod := range tests {
		t.Run(name, func(t *testing.T) {
			b := contentBuilder{key: streamKey{pods: PodQuery{Annotation: "weight", Ports: true}}, names: interner{}}
			before := allocated()
			for i := range pods {
				text := podsOf + pod(i) + "]}"
				if _, err := decodePage(strings.NewReader(text), "PodList", b.add); err != nil {
					t.Fatal(err)
				}
			}
			if more := int64(allocated()) - int64(before); more > 500_000 {
				t.Errorf("%d bytes are kept of %d pods", more, pods)
			}
			runtime.KeepAlive(b)
		})
	}
	// A zone names a device of the node: it is no address to send to.
	o := new(object)
	o.Status.HostIPs = []ip{{"fe80::1%eth0"}, {"::ffff:10.1.0.9%eth0"}, {"10.1.0.1"}}
	if got := o.addresses(); len(got) != 1 || got[0] != addr("10.1.0.1") {
		t.Errorf("addresses %v", got)
	}
	// A ConfigMap that was large leaves no large map behind.
	before := allocated()
	var maps []ConfigMap
	for range 10 {
		data := map[string]string{"9000": "ns/svc:80"}
		for i := range 50_000 {
			data[fmt.Sprint("key-", i)] = ""
		}
		maps = append(maps, keptConfigMap(data))
	}
	if more := int64(allocated()) - int64(before); more > 1_000_000 {
		t.Errorf("%d bytes are kept of %d ConfigMaps", more, len(maps))
	}
	runtime.KeepAlive(maps)
}

// Whoever may write a ConfigMap does not decide how much is kept and printed.
func TestConfigMapIsBounded(t *testing.T) {
	good := map[string]string{"9000": "ns/svc:80", "9001": "ns/svc:81"}
	tests := []struct {
		name     string
		bad      int
		key      func(i int) string
		value    string
		warnings []string // parts of the one warning; none: there is none
	}{
		{"nothing bad", 0, nil, "", nil},
		{"10,000 keys", 10_000, func(i int) string { return fmt.Sprintf("key-%05d", i) }, "ns/svc:80",
			[]string{`ConfigMap ingress-nginx/tcp-services: entry "key-00000" is skipped: `, `; entry "key-00019" is skipped: port "key-00019" is not a number from 1 to 65535; and 9980 more`}},
		{"long keys", 30, func(i int) string { return strings.Repeat("9", 50_000) + fmt.Sprint(i) }, "ns/svc:80", []string{`entry "999`, `…" is skipped: port "999`, "; and 29 more"}},
		{"a long value", 1, func(int) string { return "9002" }, strings.Repeat("v", 1<<20), []string{`entry "9002" is skipped: value "vvv`, `vvv…" is not NAMESPACE/SERVICE:PORT`}},
		{"numbers that are no ports", 20_000, func(i int) string { return fmt.Sprint(65_536 + i) }, "ns/svc:80", []string{"; and 19980 more"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := map[string]string{}
			for k, v := range good {
				data[k] = v
			}
			for i := range tt.bad {
				data[tt.key(i)] = tt.value
			}
			cm := keptConfigMap(data)
			cluster := testCluster(nil, readyPod("a", "10.1.0.1"))
			cluster.ConfigMaps[ConfigMapName{"ingress-nginx", "tcp-services"}] = cm
			kept := 0
			for k, v := range cm.Data {
				kept += len(k) + len(v)
			}
			if len(cm.Data) > len(good)+20 || kept > 10_000 {
				t.Errorf("%d entries of %d bytes are kept", len(cm.Data), kept)
			}
			w := desiredAnew(&Config{VIPs: []VIP{testVIP()}}, cluster, newMemory(), testTime)
			if got := w.Parts.table().text(); strings.Count(got, "10.0.0.1:900") != 2 {
				t.Errorf("the good entries are disturbed:\n%s", got)
			}
			if len(tt.warnings) == 0 {
				if len(w.Warnings) > 0 {
					t.Errorf("warnings %q", w.Warnings)
				}
				return
			}
			if len(w.Warnings) != 1 || len(w.Warnings[0].Text) > 6_000 {
				t.Fatalf("%d warnings, the first of %d bytes", len(w.Warnings), len(w.Warnings[0].Text))
			}
			for _, part := range tt.warnings {
				if !strings.Contains(w.Warnings[0].Text, part) {
					t.Errorf("the warning lacks %q:\n%s", part, w.Warnings[0].Text)
				}
			}
		})
	}
}

// Pods of a kind of fault are one warning, in both families together.
func TestPodWarningsAreBounded(t *testing.T) {
	v := testVIP()
	v.Addresses = append(v.Addresses, addr("2001:db8::1"))
	var pods []Pod
	for i := range 1_000 {
		pods = append(pods, with(readyPod(fmt.Sprintf("p%04d", i), "10.1.0.1"), func(p *Pod) { p.HostNetwork = false }))
	}
	pods = append(pods, readyPod("z", "10.1.0.1", "2001:db8:1::1"))
	w := desiredAnew(&Config{VIPs: []VIP{v}}, testCluster(nil, pods...), newMemory(), testTime)
	if len(w.Warnings) != 1 || !strings.HasPrefix(w.Warnings[0].Text, "vip edge: pod ingress-nginx/p0000 is left out: it is not on hostNetwork") ||
		!strings.HasSuffix(w.Warnings[0].Text, "; and 980 more") || len(w.Warnings[0].Text) > 4_000 {
		t.Errorf("warnings %q", w.Warnings)
	}
}

// A warning is logged when it begins and when its words change, and again after it
// was over; one that flaps has a few lines a minute.
func TestWarningLog(t *testing.T) {
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	lines := func() int { n := strings.Count(text.String(), "\n"); text.Reset(); return n }
	l, now := make(warningLog), testTime
	say := func(texts ...string) int {
		var ws []Warning
		for _, s := range texts {
			ws = append(ws, Warning{"edge/entry/", s})
		}
		l.log(log, ws, now)
		return lines()
	}
	for i, step := range []struct {
		after time.Duration
		says  []string
		want  int
	}{
		{0, []string{"a"}, 1}, {time.Second, []string{"a"}, 0}, {time.Hour, []string{"a"}, 0},
		{time.Second, []string{"b"}, 1}, {time.Second, nil, 0}, {time.Second, []string{"b"}, 1},
		{time.Second, []string{"c"}, 1}, {time.Second, []string{"d"}, 1}, {time.Second, []string{"e"}, 1},
		{time.Second, []string{"f"}, 0}, {time.Second, []string{"g"}, 0}, {time.Minute, []string{"g"}, 1}, {time.Second, []string{"g"}, 0},
		{time.Minute, nil, 0}, {0, []string{"g"}, 1},
	} {
		now = now.Add(step.after)
		if got := say(step.says...); got != step.want {
			t.Errorf("step %d: %d lines, want %d", i, got, step.want)
		}
	}
	now = now.Add(time.Minute)
	if say(); len(l) > 0 {
		t.Errorf("remembered: %v", l)
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
			f := follow(t, respond, func(_ *latest[Cluster], log string) bool { return strings.Contains(log, "is not followed") })
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
