// Tests of list and watch: what is asked of a server, and what comes of each of
// its answers.

package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	edgePods = PodQuery{Namespace: "web", Selector: "app=edge"}
	tcpMap   = ConfigMapName{Namespace: "web", Name: "tcp"}
)

// followTest is what an API server says to a stream of pods, and what comes of
// it.
type followTest struct {
	name      string
	pace      func(*pace)
	guard     uint8 // of the query
	script    []reply
	requests  []string // before the one that exhausts the script, and that one
	published [][]testPod
	waits     []time.Duration
	log       []string // a part of each line
}

// What a stream asks for, up to what follows, and how long it waits first after
// a failure.
const (
	listPods  = "list web/pods labelSelector=app=edge"
	watchPods = "watch web/pods labelSelector=app=edge resourceVersion="
	firstWait = 250 * time.Millisecond
)

func TestFollowPods(t *testing.T) {
	const list, watch, first = listPods, watchPods, firstWait
	a, b, c := testPod{name: "a", version: 1}, testPod{name: "b", version: 2}, testPod{name: "c", version: 3}
	aDown := testPod{name: "a", version: 12, notReady: true}
	aNoise := testPod{name: "a", version: 12, noise: "another image"}
	bLeaving := testPod{name: "b", version: 13, leaving: true}
	wait := func(d ...time.Duration) []time.Duration { return d }

	followPods(t, []followTest{
		{
			name: "pages are one answer, events follow, a close is resumed from the newest version",
			script: []reply{
				says(podList("10", "p2", c, a)), says(podList("11", "", b)),
				says(tells(eventModified, aDown) + tells(eventModified, bLeaving) + tells(eventDeleted, bLeaving) + bookmark("30")),
				says(tells(eventAdded, testPod{name: "d", version: 31})),
			},
			requests:  []string{list, list + " continue=p2", watch + "10", watch + "30", watch + "31"},
			published: [][]testPod{{a, b, c}, {aDown, b, c}, {aDown, bLeaving, c}, {aDown, c}, {aDown, c, {name: "d"}}},
			log:       []string{"the stream follows the cluster"},
		},
		{
			name:      "an event that changes nothing kept is silent",
			script:    []reply{says(podList("10", "", a)), says(tells(eventModified, aNoise)), says(tells(eventDeleted, b))},
			requests:  []string{list, watch + "10", watch + "12", watch + "2"},
			published: [][]testPod{{a}},
		},
		{
			name:      "410 by HTTP: list again; the same answer is not published again",
			script:    []reply{says(podList("10", "", a)), refuses(410, "too old"), says(podList("20", "", a)), says(""), refuses(410, "too old"), says(podList("30", "", b))},
			requests:  []string{list, watch + "10", list, watch + "20", watch + "20", list, watch + "30"},
			published: [][]testPod{{a}, {b}},
			waits:     wait(first, first), // the second 410 came after a healthy watch
		},
		{
			name:      "410 by event: list again, without a word",
			script:    []reply{says(podList("10", "", a)), says(tells(eventAdded, b) + tellsError(410)), says(podList("20", "", c))},
			requests:  []string{list, watch + "10", list, watch + "20"},
			published: [][]testPod{{a}, {a, b}, {c}},
			waits:     wait(first),
			log:       []string{"the stream follows the cluster"},
		},
		{
			name:      "another error by event: list again, and say so",
			script:    []reply{says(podList("10", "", a)), says(tellsError(500)), says(podList("20", "", b))},
			requests:  []string{list, watch + "10", list, watch + "20"},
			published: [][]testPod{{a}, {b}},
			waits:     wait(first),
		},
		{
			name:      "the connection breaks in the middle of a page: nothing of it counts",
			script:    []reply{says(podList("10", "p2", a)), breaks(podList("10", "", b, c)[:900]), says(podList("11", "", b))},
			requests:  []string{list, list + " continue=p2", list, watch + "11"},
			published: [][]testPod{{b}},
			waits:     wait(first),
			log:       []string{"level=WARN msg=\"cannot follow the cluster; the last known state stays in force\"", "the stream follows the cluster again"},
		},
		{
			name:      "the token of the second page expired: start again",
			script:    []reply{says(podList("10", "p2", a)), refuses(410, "the provided continue parameter is too old"), says(podList("11", "p2", b)), says(podList("11", "", c))},
			requests:  []string{list, list + " continue=p2", list, list + " continue=p2", watch + "11"},
			published: [][]testPod{{b, c}},
			waits:     wait(first),
		},
		{
			name:      "the second page is the second page, for ever",
			script:    []reply{says(podList("10", "p2", a)), says(podList("10", "p2", b)), says(podList("11", "", b))},
			requests:  []string{list, list + " continue=p2", list, watch + "11"},
			published: [][]testPod{{b}},
			waits:     wait(first),
		},
		{
			name:      "garbage for a list",
			script:    []reply{says("<html>"), says("{}"), says(`{"kind":"Status","code":200}`), says(podList("11", "", b))},
			requests:  []string{list, list, list, list, watch + "11"},
			published: [][]testPod{{b}},
			waits:     wait(first, 2*first, 4*first),
			log:       []string{"level=ERROR", "the stream follows the cluster again"},
		},
		{
			name:      "garbage for an event: what came before it counts, then list again",
			script:    []reply{says(podList("10", "", a)), says(tells(eventAdded, b) + `{"type":"ADDED","object":{}}` + tells(eventDeleted, a)), says(podList("20", "", b))},
			requests:  []string{list, watch + "10", list, watch + "20"},
			published: [][]testPod{{a}, {a, b}, {b}},
			waits:     wait(first),
		},
		{
			name:      "the connection breaks in the middle of an event: the event never was",
			script:    []reply{says(podList("10", "", a)), breaks(bookmark("15") + tells(eventDeleted, a)[:200]), says(bookmark("16"))},
			requests:  []string{list, watch + "10", watch + "15", watch + "16"},
			published: [][]testPod{{a}},
		},
		{
			name:      "a watch that ends at once is a failure, but needs no list",
			pace:      func(p *pace) { p.healthy = time.Hour },
			script:    []reply{says(podList("10", "", a)), says(bookmark("11")), says("")},
			requests:  []string{list, watch + "10", watch + "11", watch + "11"},
			published: [][]testPod{{a}},
			waits:     wait(first, 2*first),
			log:       []string{"the stream follows the cluster", "it ended after", "the stream follows the cluster again"},
		},
		{
			name:      "403 to list",
			script:    []reply{refuses(403, "pods is forbidden: User \"x\" cannot list"), refuses(403, "pods is forbidden: User \"x\" cannot list"), says(podList("11", "", b))},
			requests:  []string{list, list, list, watch + "11"},
			published: [][]testPod{{b}},
			waits:     wait(first, 2*first),
			log:       []string{`level=ERROR`, "the stream follows the cluster again"},
		},
		{
			name:      "a server that has just come up says 403 once",
			script:    []reply{refuses(403, "no"), says(podList("11", "", b))},
			requests:  []string{list, list, watch + "11"},
			published: [][]testPod{{b}},
			waits:     wait(first),
			log:       []string{"the stream follows the cluster"},
		},
		{
			name:      "403 to watch: what is known stays, no more lists",
			script:    []reply{says(podList("11", "", b)), refuses(403, "no"), refuses(403, "no"), says(tells(eventAdded, c))},
			requests:  []string{list, watch + "11", watch + "11", watch + "11", watch + "3"},
			published: [][]testPod{{b}, {b, c}},
			waits:     wait(first, 2*first),
			log:       []string{`may not \"watch\" \"pods\" in namespace \"web\": grant it in the Role of install/rbac.yaml (server: no)`, "the stream follows the cluster again"},
		},
		{
			name:      "429 says when to come again",
			script:    []reply{refuses(429, "busy", "Retry-After", "7"), refuses(429, "busy", "Retry-After", "86400"), says(podList("11", "", b))},
			requests:  []string{list, list, list, watch + "11"},
			published: [][]testPod{{b}},
			waits:     wait(7*time.Second+first, 2*time.Minute+2*first),
		},
		{
			name:      "503 keeps the place in the watch, 500 does not",
			script:    []reply{says(podList("10", "", a)), refuses(503, "starting"), refuses(500, "etcdserver"), says(podList("11", "", b))},
			requests:  []string{list, watch + "10", watch + "10", list, watch + "11"},
			published: [][]testPod{{a}, {b}},
			waits:     wait(first, 2*first),
		},
		{
			name:      "restored from a backup: its word counts",
			script:    []reply{says(podList("100", "", a, b)), refuses(410, "too old"), says(podList("50", "", a))},
			requests:  []string{list, watch + "100", list, watch + "50"},
			published: [][]testPod{{a, b}, {a}},
			waits:     wait(first),
			log:       []string{"the resource version went backwards", "the stream follows the cluster"},
		},
		{
			name:      "a watch without a sign of life is not trusted",
			pace:      func(p *pace) { p.silence = time.Second },
			script:    []reply{says(podList("100", "", a, b)), goesOn(""), says(podList("50", "", a)), lasts(bookmark("51"), 60*time.Millisecond)},
			requests:  []string{list, watch + "100", list, watch + "50", watch + "51"},
			published: [][]testPod{{a, b}, {a}},
			waits:     wait(first),
			log:       []string{"the stream follows the cluster", "the resource version went backwards"},
		},
		{
			name:      "no answer to a list, then none to a watch",
			pace:      func(p *pace) { p.answer = 500 * time.Millisecond },
			script:    []reply{hang, goesOn(podList("10", "", a)[:100]), says(podList("10", "", a)), hang, goesOn(tells(eventAdded, b))},
			requests:  []string{list, list, list, watch + "10", watch + "10"},
			published: [][]testPod{{a}, {a, b}},
			waits:     wait(first, 2*first, 4*first),
		},
		{
			name:      "a server that does not end a watch",
			pace:      func(p *pace) { p.watchFor, p.overdue = 0, 500*time.Millisecond },
			script:    []reply{says(podList("10", "", a)), goesOn(bookmark("11")), goesOn(bookmark("12")), says(bookmark("13"))},
			requests:  []string{list, watch + "10", watch + "11", watch + "12", watch + "13"},
			published: [][]testPod{{a}},
		},
	})
}

// followPods plays each script to a watch.
func followPods(t *testing.T, tests []followTest) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newFakeAPI(t, tt.script...)
			w := newWatchTest(t)
			if tt.pace != nil {
				tt.pace(&w.pace)
			}
			w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", api.kubeconfig("secret")), Pods: []PodQuery{edgePods}, Guards: map[any]uint8{edgePods: tt.guard}})
			w.run(t)
			// The last reply of some scripts does not end by itself.
			until(t, "all requests", func() bool { return len(api.seen()) >= len(tt.requests) })
			until(t, "all snapshots", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.published) >= len(tt.published) })
			until(t, "the last watch to be open", w.current)
			w.stop()

			if diff := cmp.Diff(tt.requests, api.seen()); diff != "" {
				t.Errorf("requests: %s", diff)
			}
			var want []Cluster
			for _, pods := range tt.published {
				var kept []*Pod
				for _, p := range pods {
					kept = append(kept, p.kept())
				}
				want = append(want, Cluster{Pods: map[PodQuery][]*Pod{edgePods: kept}, ConfigMaps: map[ConfigMapName]ConfigMap{}, Nodes: noNodes, Services: noServices, Gateways: noGateways, ListenerSets: noListenerSets})
			}
			if diff := cmp.Diff(want, w.published, exactly); diff != "" {
				t.Errorf("snapshots: %s", diff)
			}
			if diff := cmp.Diff(tt.waits, w.waits); diff != "" {
				t.Errorf("waits: %s", diff)
			}
			lines := strings.Split(strings.TrimSpace(w.log()), "\n")
			for i, part := range tt.log {
				if i >= len(lines) || !strings.Contains(lines[i], part) {
					t.Errorf("line %d of the log is not %q:\n%s", i+1, part, w.log())
				}
			}
			if tt.log != nil && len(lines) > len(tt.log) {
				t.Errorf("more is logged than %d lines:\n%s", len(tt.log), w.log())
			}
		})
	}
}

func TestFollowConfigMap(t *testing.T) {
	const list, watch = "list web/configmaps fieldSelector=metadata.name=tcp", "watch web/configmaps fieldSelector=metadata.name=tcp resourceVersion="
	object := func(name, version, value string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"web","resourceVersion":%q},"data":{"9000":%q}}`, name, version, value)
	}
	lists := func(version string, items ...string) reply {
		return says(fmt.Sprintf(`{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":%q},"items":[%s]}`, version, strings.Join(items, ",")))
	}
	api := newFakeAPI(t,
		refuses(403, `configmaps "tcp" is forbidden`),
		refuses(403, `configmaps "tcp" is forbidden`),
		lists("10", object("udp", "3", "not asked for")),
		says(`{"type":"ADDED","object":`+object("tcp", "11", "web/a:80")+`}{"type":"ADDED","object":`+object("udp", "12", "not asked for")+`}`),
		says(`{"type":"MODIFIED","object":`+object("tcp", "13", "web/b:80")+`}`),
		says(`{"type":"DELETED","object":`+object("tcp", "14", "web/b:80")+`}`),
		refuses(410, "too old"),
		lists("20", object("tcp", "19", "web/c:80")),
	)
	w := newWatchTest(t)
	w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", api.kubeconfig("secret")), ConfigMaps: []ConfigMapName{tcpMap}})
	w.run(t)
	<-api.exhausted
	w.stop()

	wantRequests := []string{list, list, list, watch + "10", watch + "12", watch + "13", watch + "14", list, watch + "20"}
	if diff := cmp.Diff(wantRequests, api.seen()); diff != "" {
		t.Errorf("requests: %s", diff)
	}
	var want []Cluster
	for _, c := range []ConfigMap{
		{},
		{Exists: true, Data: map[string]string{"9000": "web/a:80"}},
		{Exists: true, Data: map[string]string{"9000": "web/b:80"}},
		{},
		{Exists: true, Data: map[string]string{"9000": "web/c:80"}},
	} {
		want = append(want, Cluster{Pods: map[PodQuery][]*Pod{}, ConfigMaps: map[ConfigMapName]ConfigMap{tcpMap: c}, Nodes: noNodes, Services: noServices, Gateways: noGateways, ListenerSets: noListenerSets})
	}
	if diff := cmp.Diff(want, w.published, exactly); diff != "" {
		t.Errorf("snapshots: %s", diff)
	}
	if want := `may not \"list\" \"configmaps\" \"tcp\" in namespace \"web\": grant it`; !strings.Contains(w.log(), want) {
		t.Errorf("the log does not name the permission:\n%s", w.log())
	}
	got := w.States()
	for i := range got {
		if got[i].Heard.IsZero() {
			t.Errorf("stream %s was never heard", got[i].Name)
		}
		got[i].Since, got[i].Changed, got[i].Heard = time.Time{}, time.Time{}, time.Time{}
	}
	if diff := cmp.Diff([]StreamState{{Name: "configmap web/tcp", Synced: true, Objects: 1, Events: 4, Lists: 2}}, got); diff != "" {
		t.Errorf("states: %s", diff)
	}
}

// TestRotatedToken: a 401 is the sign to look at the kubeconfig again, and so is
// any other reconnection.
func TestRotatedToken(t *testing.T) {
	a, b := testPod{name: "a", version: 1}, testPod{name: "b", version: 2}
	w := newWatchTest(t)
	var path string
	var api *fakeAPI
	api = newFakeAPI(t,
		says(podList("10", "", a)),
		says(bookmark("11")),
		refuses(401, "Unauthorized"),
		func(rw http.ResponseWriter, r *http.Request) {
			w.write(t, "kubeconfig", api.kubeconfig("new"))
			refuses(401, "Unauthorized")(rw, r)
		},
		says(podList("12", "", b)),
	)
	path = w.write(t, "kubeconfig", api.kubeconfig("old"))
	w.queries.Set(&ClusterQuery{Kubeconfig: path, Pods: []PodQuery{edgePods}})
	w.run(t)
	<-api.exhausted
	w.stop()

	if diff := cmp.Diff([]string{"old", "old", "old", "old", "new", "new"}, api.tokens); diff != "" {
		t.Errorf("tokens: %s", diff)
	}
	const list, watch = "list web/pods labelSelector=app=edge", "watch web/pods labelSelector=app=edge resourceVersion="
	if diff := cmp.Diff([]string{list, watch + "10", watch + "11", watch + "11", list, watch + "12"}, api.seen()); diff != "" {
		t.Errorf("requests: %s", diff)
	}
	if len(w.published) != 2 {
		t.Errorf("%d snapshots, want 2: %v", len(w.published), w.published)
	}
	if want := "does not accept the credentials of " + path; !strings.Contains(w.log(), want) {
		t.Errorf("the log does not say %q:\n%s", want, w.log())
	}
}

// TestNewCredentialsMoveAllStreams: one stream finds the new kubeconfig, the
// other's healthy watch ends for it; a broken kubeconfig ends nothing.
func TestNewCredentialsMoveAllStreams(t *testing.T) {
	w := newWatchTest(t)
	var mu sync.Mutex
	resume := make(chan struct{})
	api := newFakeAPI(t)
	api.respond = func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now := resume
		mu.Unlock()
		switch q := r.URL.Query(); {
		case strings.HasSuffix(r.URL.Path, "/configmaps") && q.Has("watch"):
			goesOn(bookmark("6"))(rw, r)
		case strings.HasSuffix(r.URL.Path, "/configmaps"):
			says(`{"kind":"ConfigMapList","metadata":{"resourceVersion":"5"},"items":[]}`)(rw, r)
		case q.Has("watch"):
			says("")(rw, r)
			rw.(http.Flusher).Flush()
			select {
			case <-now:
			case <-r.Context().Done():
			}
		default:
			says(podList("5", ""))(rw, r)
		}
	}
	count := func(what, token string) (n int) {
		api.mu.Lock()
		defer api.mu.Unlock()
		for i, request := range api.requests {
			if strings.HasPrefix(request, what) && api.tokens[i] == token {
				n++
			}
		}
		return n
	}
	reconnect := func() {
		mu.Lock()
		defer mu.Unlock()
		close(resume)
		resume = make(chan struct{})
	}
	path := w.write(t, "kubeconfig", api.kubeconfig("old"))
	w.queries.Set(&ClusterQuery{Kubeconfig: path, Pods: []PodQuery{edgePods}, ConfigMaps: []ConfigMapName{tcpMap}})
	w.run(t)
	until(t, "both watches", func() bool {
		return count("watch web/pods", "old") == 1 && count("watch web/configmaps", "old") == 1
	})

	w.write(t, "kubeconfig", []byte("nonsense: ["))
	reconnect()
	until(t, "the pods' watch with the credentials there were", func() bool { return count("watch web/pods", "old") == 2 })
	w.write(t, "kubeconfig", api.kubeconfig("new"))
	reconnect()
	until(t, "both watches with the new credentials", func() bool {
		return count("watch web/pods", "new") == 1 && count("watch web/configmaps", "new") == 1
	})
	w.stop()
	if n := count("watch web/configmaps", "old"); n != 1 {
		t.Errorf("the ConfigMap's watch was opened %d times before", n)
	}
	if got := strings.Count(w.log(), "the kubeconfig cannot be used; the last good one stays in force"); got != 1 {
		t.Errorf("the broken kubeconfig is mentioned %d times:\n%s", got, w.log())
	}
	if len(w.waits) != 0 {
		t.Errorf("waits of %v for what is no failure", w.waits)
	}
}

// TestNewCredentialsWakeAllStreams: those that wait after a refusal try the new
// ones at once.
func TestNewCredentialsWakeAllStreams(t *testing.T) {
	api := newFakeAPI(t)
	api.respond = func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer bad" {
			refuses(401, "Unauthorized")(rw, r)
			return
		}
		namedPods("")(rw, r)
	}
	w := newWatchTest(t)
	asleep, wake := make(chan struct{}), make(chan struct{})
	w.sleep = func(ctx context.Context, _ time.Duration) {
		asleep <- struct{}{}
		select {
		case <-wake:
		case <-ctx.Done():
		}
	}
	path := w.write(t, "kubeconfig", api.kubeconfig("bad"))
	w.queries.Set(&ClusterQuery{Kubeconfig: path, Pods: []PodQuery{edgePods}, ConfigMaps: []ConfigMapName{tcpMap}})
	w.run(t)
	<-asleep
	<-asleep
	w.write(t, "kubeconfig", api.kubeconfig("good"))
	wake <- struct{}{}
	w.untilKnown(t, "app=edge: edge", "web/tcp: false")
}

// TestKubeconfigAppearsLater: none, then a useless one, then a good one.
func TestKubeconfigAppearsLater(t *testing.T) {
	api := newFakeAPI(t, says(podList("10", "", testPod{name: "a"})))
	w := newWatchTest(t)
	path := filepath.Join(w.dir, "kubeconfig")
	w.queries.Set(&ClusterQuery{Kubeconfig: path, Pods: []PodQuery{edgePods}})
	w.run(t)
	lastError := func(part string) func() bool {
		return func() bool {
			states := w.States()
			return len(states) == 1 && strings.Contains(states[0].LastError, part) && strings.Contains(states[0].LastError, path) && !states[0].Synced
		}
	}
	until(t, "a missing file", lastError("no such file"))
	w.write(t, "kubeconfig", nil)
	until(t, "an empty file", lastError("it names no cluster"))
	w.write(t, "kubeconfig", []byte("kind: Config\nclusters: 7\n"))
	until(t, "garbage", lastError("cannot unmarshal"))
	w.write(t, "kubeconfig", kubeconfigFor("", nil, "t"))
	until(t, "no server", lastError("has no server"))
	w.write(t, "kubeconfig", kubeconfigFor("https://127.0.0.1:1", []byte("no certificate"), "t"))
	until(t, "no certificate", lastError("certificate"))
	w.write(t, "kubeconfig", api.kubeconfig("good"))
	<-api.exhausted
	w.stop()
	if len(w.published) != 1 {
		t.Errorf("%d snapshots, want 1", len(w.published))
	}
	if n := strings.Count(w.log(), "level=ERROR"); n != 1 {
		t.Errorf("the failure is logged %d times, want once a minute:\n%s", n, w.log())
	}
}

func TestNoServiceAccount(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err := (&apiServer{}).connect(slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "no kubeconfig is configured") {
		t.Errorf("error %v", err)
	}
}

// TestServerComesBack: what an operator sees of an outage, in full.
func TestServerComesBack(t *testing.T) {
	api := newFakeAPI(t)
	api.respond = func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("watch") {
			goesOn(bookmark("6"))(rw, r)
			return
		}
		says(podList("5", "", testPod{name: "a"}))(rw, r)
	}
	proxy := newTCPProxy(t, api.Listener.Addr().String())
	w := newWatchTest(t)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", kubeconfigFor("https://"+proxy.address, ca, "t")), Pods: []PodQuery{edgePods}})
	w.run(t)
	current := func(want bool) func() bool {
		return func() bool {
			s := w.States()
			return len(s) == 1 && s[0].Synced && (s[0].LastError == "") == want && s[0].Objects == 1
		}
	}
	until(t, "the watch", func() bool { return current(true)() && w.current() })
	proxy.stop()
	until(t, "the outage to be noticed", current(false))
	until(t, "many attempts", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.waits) > 20 })
	proxy.start(t)
	until(t, "the return", current(true))
	w.stop()
	var longest time.Duration
	for _, d := range w.waits {
		longest = max(longest, d)
	}
	if longest != w.pace.retryAway {
		t.Errorf("the longest wait is %v, want %v", longest, w.pace.retryAway)
	}
	lines := strings.Split(strings.TrimSpace(w.log()), "\n")
	if len(lines) != 3 || !strings.Contains(lines[1], "cannot follow") || !strings.Contains(lines[2], "follows the cluster again") || !strings.Contains(lines[2], "away=") {
		t.Errorf("the log is not: follows, cannot follow, follows again:\n%s", w.log())
	}
	if len(w.published) != 1 {
		t.Errorf("%d snapshots, want 1", len(w.published))
	}
	if lists := strings.Count(strings.Join(api.seen(), "\n"), "list"); lists != 1 {
		t.Errorf("%d lists, want 1: the watch goes on from where it was", lists)
	}
}

// TestVanishedPeer: a server that is gone without closing the connection.
func TestVanishedPeer(t *testing.T) {
	t.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "1")
	t.Setenv("HTTP2_PING_TIMEOUT_SECONDS", "1")
	api := newFakeAPI(t)
	api.respond = func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("watch") {
			goesOn(tells(eventAdded, testPod{name: "b", version: 6}))(rw, r)
			return
		}
		says(podList("5", "", testPod{name: "a"}))(rw, r)
	}
	proxy := newTCPProxy(t, api.Listener.Addr().String())
	w := newWatchTest(t)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", kubeconfigFor("https://"+proxy.address, ca, "t")), Pods: []PodQuery{edgePods}})
	w.run(t)
	until(t, "the event", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.published) == 2 })
	proxy.swallow()
	until(t, "a new connection, once the old one is known to be dead", func() bool { return len(api.seen()) > 2 })
	w.stop()
	if diff := cmp.Diff("watch web/pods labelSelector=app=edge resourceVersion=6", api.seen()[2]); diff != "" {
		t.Error(diff)
	}
}

func TestOlder(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{{"9", "10", true}, {"10", "9", false}, {"9", "9", false}, {"", "9", false}, {"9", "", false}, {"a", "b", false}} {
		if got := older(tt.a, tt.b); got != tt.want {
			t.Errorf("older(%q, %q) = %v", tt.a, tt.b, got)
		}
	}
}

// TestFaultUnwraps: causes stay visible.
func TestFaultUnwraps(t *testing.T) {
	c := &connection{credentials: "k"}
	if err := error(c.refusal("list", streamKey{edgePods}, 400, "bad selector")); !strings.Contains(err.Error(), "400: bad selector") {
		t.Error(err)
	}
	_, err := (&apiServer{kubeconfig: "/nowhere/at/all"}).connect(slog.New(slog.DiscardHandler))
	if !errors.Is(&fault{err: err}, os.ErrNotExist) {
		t.Error(err)
	}
}
