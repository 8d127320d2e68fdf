// Tests of the streams' lives: what a changed query starts, stops and keeps.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"
)

// watchTest is a clusterWatch that runs, and all it does.
type watchTest struct {
	*clusterWatch
	queries *latest[ClusterQuery]
	dir     string
	stop    func() // ends Run and waits for it

	mu        sync.Mutex
	published []Cluster
	waits     []time.Duration
	logged    bytes.Buffer
}

// newWatchTest returns a watch that never waits and whose random numbers are
// all 1. It does not run yet.
func newWatchTest(t *testing.T) *watchTest {
	w := &watchTest{dir: t.TempDir(), queries: newLatest[ClusterQuery](make(chan struct{}, 1))}
	log := slog.New(slog.NewTextHandler(lockedWriter{&w.mu, &w.logged}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	w.clusterWatch = newClusterWatch(log, newLatest[Cluster](make(chan struct{}, 1)), Cluster{})
	w.set = func(c *Cluster) {
		w.mu.Lock()
		w.published = append(w.published, *c)
		w.mu.Unlock()
		w.out.Set(c)
	}
	w.random = func() float64 { return 1 }
	w.pace.healthy = 1 // any watch that was opened
	w.sleep = func(ctx context.Context, d time.Duration) {
		w.mu.Lock()
		w.waits = append(w.waits, d)
		w.mu.Unlock()
		sleepContext(ctx, time.Millisecond) // let others run, even in a loop of failures
	}
	return w
}

// run starts the watch.
func (w *watchTest) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, w.queries) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(w.stop)
}

// current reports whether all streams are.
func (w *watchTest) current() bool {
	w.clusterWatch.mu.Lock()
	defer w.clusterWatch.mu.Unlock()
	for _, s := range w.streams {
		s.mu.Lock()
		current := s.current
		s.mu.Unlock()
		if !current {
			return false
		}
	}
	return true
}

// write puts a file in place in one step and returns where.
func (w *watchTest) write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// log returns what was logged, without times.
func (w *watchTest) log() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAllString(w.logged.String(), "")
}

// until waits for ok.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	io.Writer
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Writer.Write(b)
}

func TestCanonicalSelector(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		" b = c,a==b ":             "a=b,b=c",
		"tier in (web,api), !beta": "!beta,tier in (api,web)",
		"x!=y":                     "x!=y",
	} {
		if got, err := canonicalSelector(in); err != nil || got != want {
			t.Errorf("canonicalSelector(%q) = %q, %v; want %q", in, got, err, want)
		}
		if again, err := canonicalSelector(want); err != nil || again != want {
			t.Errorf("canonicalSelector(%q) = %q, %v", want, again, err)
		}
	}
	for _, in := range []string{"a=b=c", "a in b", ",", "-a=b"} {
		if got, err := canonicalSelector(in); err == nil {
			t.Errorf("canonicalSelector(%q) = %q, want an error", in, got)
		}
	}
}

// FuzzSelector looks for the text of a selector that is refused without a reason, or
// whose one spelling selects other pods than the text does.
func FuzzSelector(f *testing.F) {
	for _, text := range []string{"app=web", " b = c,a==b ", "tier in (web,api), !beta", "x!=y", "x notin (a),x", "n>1,n<9", "a in (,b)", "a=", ",", "a in (" + strings.Repeat("b,", 2000) + "c)", strings.Repeat("!", 5000), "\f" + strings.Repeat("\xd3", maxSelector-1)} {
		f.Add(text, "app", "web")
	}
	f.Fuzz(func(t *testing.T, text, label, value string) {
		defer bounded(t, len(text))()
		canonical, err := parsePodSelector(text)
		if err != nil {
			if err == errMisfit {
				return
			}
			if msg := err.Error(); len(msg) > 1000 || strings.ContainsAny(msg, "\n\r") {
				t.Errorf("an error of %d bytes, or of several lines: %.200q", len(msg), msg)
			}
			return
		}
		if text == "" {
			return // selects no pod
		}
		is, errIs := labels.Parse(text)
		becomes, errBecomes := labels.Parse(canonical)
		if errIs != nil || errBecomes != nil {
			t.Fatalf("%q becomes %q: %v, %v", text, canonical, errIs, errBecomes)
		}
		if again, err := parsePodSelector(canonical); again != canonical && len(canonical) <= maxSelector {
			t.Errorf("%q becomes %q, then %q, %v", text, canonical, again, err)
		}
		sets := []labels.Set{{}, {label: value}}
		requirements, _ := is.Requirements()
		for _, r := range requirements {
			sets = append(sets, labels.Set{r.Key(): value})
			for v := range r.Values() {
				sets = append(sets, labels.Set{r.Key(): v}, labels.Set{r.Key(): v, label: value})
				break
			}
		}
		for _, set := range sets {
			if is.Matches(set) != becomes.Matches(set) {
				t.Errorf("%q matches %v: %v, but as %q: %v", text, set, is.Matches(set), canonical, becomes.Matches(set))
			}
		}
		// What a message names of it is bounded, and each key is one of the selector's.
		keys := selectorKeys(canonical)
		var sample labelSample
		sample.add(keys, labels.Set{label: value})
		if said := sample.text(keys, "n"); len(keys) > namedLabels || len(said) > 4096 || strings.ContainsAny(said, "\n\r") {
			t.Errorf("%d keys, %d bytes: %.200q", len(keys), len(said), said)
		}
		for _, key := range keys {
			if !slices.ContainsFunc(requirements, func(r labels.Requirement) bool { return r.Key() == key }) {
				t.Errorf("key %q is none of %q", key, text)
			}
		}
	})
}

// namedPods answers each pod query with one pod named after its selector, and
// each ConfigMap query with none; watches are silent but alive.
func namedPods(prefix string) reply {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch _, name, _ := strings.Cut(q.Get("labelSelector"), "="); {
		case q.Has("watch"):
			goesOn(bookmark("6"))(w, r)
		case name == "":
			says(`{"kind":"ConfigMapList","metadata":{"resourceVersion":"5"},"items":[]}`)(w, r)
		default:
			says(podList("5", "", testPod{name: prefix + name}))(w, r)
		}
	}
}

// known says what a snapshot holds, in short.
func known(c *Cluster) []string {
	var all []string
	if c == nil {
		return all
	}
	for q, pods := range c.Pods {
		for _, p := range pods {
			all = append(all, q.Selector+": "+p.Name)
		}
	}
	for name, m := range c.ConfigMaps {
		all = append(all, fmt.Sprintf("%s: %v", name, m.Exists))
	}
	slices.Sort(all)
	return all
}

func (w *watchTest) untilKnown(t *testing.T, want ...string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("known: %q", known(w.out.Get()))
		}
	}()
	until(t, strings.Join(want, ", "), func() bool { return slices.Equal(known(w.out.Get()), want) })
}

func TestQueryChanges(t *testing.T) {
	one, two := newFakeAPI(t), newFakeAPI(t)
	one.respond = namedPods("one-")
	answers := make(chan struct{}) // closed when the second server begins to answer
	two.respond = func(w http.ResponseWriter, r *http.Request) {
		<-answers
		namedPods("two-")(w, r)
	}
	a, b, c := PodQuery{Namespace: "web", Selector: "app=a"}, PodQuery{Namespace: "web", Selector: "app=b"}, PodQuery{Namespace: "web", Selector: "app=c"}
	w := newWatchTest(t)
	kubeconfig := w.write(t, "one", one.kubeconfig("t"))
	ask := func(pods []PodQuery, maps ...ConfigMapName) {
		w.queries.Set(&ClusterQuery{Kubeconfig: kubeconfig, Pods: pods, ConfigMaps: maps})
	}
	w.run(t)
	if got := w.States(); len(got) != 0 {
		t.Errorf("before the first query: %v", got)
	}

	ask([]PodQuery{a, b}, tcpMap)
	w.untilKnown(t, "app=a: one-a", "app=b: one-b", "web/tcp: false")
	until(t, "all watches", w.current)
	ask([]PodQuery{c, b})
	w.untilKnown(t, "app=b: one-b", "app=c: one-c")
	until(t, "all watches", w.current)
	for request, want := range map[string]int{"app=a": 2, "app=b": 2, "app=c": 2, "configmaps": 2} {
		n := 0
		for _, seen := range one.seen() {
			if strings.Contains(seen, request) {
				n++
			}
		}
		if n != want {
			t.Errorf("%d requests for %s, want a list and a watch", n, request)
		}
	}
	var names []string
	for _, s := range w.States() {
		names = append(names, s.Name)
	}
	if diff := cmp.Diff([]string{"pods web app=b", "pods web app=c"}, names); diff != "" {
		t.Errorf("states: %s", diff)
	}

	// Another cluster: what is known stays until it has answered.
	kubeconfig = w.write(t, "two", two.kubeconfig("t"))
	ask([]PodQuery{b, c})
	until(t, "the other cluster to be asked", func() bool { return len(two.seen()) == 2 })
	w.untilKnown(t, "app=b: one-b", "app=c: one-c")
	close(answers)
	w.untilKnown(t, "app=b: two-b", "app=c: two-c")

	// A file in its place: the same.
	w.queries.Set(&ClusterQuery{ClusterFile: w.dir + "/cluster.json", Pods: []PodQuery{b}})
	w.untilKnown(t, "app=b: two-b")
	w.write(t, "cluster.json", []byte(`{"kind":"List","items":[{"kind":"Pod","metadata":{"name":"from-file","namespace":"web","labels":{"app":"b"}}}]}`))
	w.untilKnown(t, "app=b: from-file")

	// And back again.
	ask([]PodQuery{b})
	w.untilKnown(t, "app=b: two-b")
	w.stop()
}

// TestSeed: the last good snapshot of an earlier run is what is known until
// answers come, but only what is still asked for.
func TestSeed(t *testing.T) {
	api := newFakeAPI(t)
	api.respond = namedPods("new-")
	w := newWatchTest(t)
	a, b := PodQuery{Namespace: "web", Selector: "app=a"}, PodQuery{Namespace: "web", Selector: "app=b"}
	w.out.Set(&Cluster{
		Pods:       map[PodQuery][]*Pod{a: {{Name: "old-a"}}, b: {{Name: "old-b"}}},
		ConfigMaps: map[ConfigMapName]ConfigMap{tcpMap: {}},
	})
	path := w.dir + "/kubeconfig"
	w.queries.Set(&ClusterQuery{Kubeconfig: path, Pods: []PodQuery{a}, ConfigMaps: []ConfigMapName{tcpMap}})
	w.run(t)
	w.untilKnown(t, "app=a: old-a", "web/tcp: false")
	w.write(t, "kubeconfig", api.kubeconfig("t"))
	w.untilKnown(t, "app=a: new-a", "web/tcp: false")
}

// TestDroppedStreamIsMute: an answer on its way to a stream that was dropped in
// the meantime must not bring its key back.
func TestDroppedStreamIsMute(t *testing.T) {
	w := newClusterWatch(slog.New(slog.DiscardHandler), newLatest[Cluster](make(chan struct{}, 1)), Cluster{})
	key := streamKey{edgePods}
	s := &stream{key: key, owner: w}
	answer := edgePods.collect().(*podCollection)
	answer.kept = []*Pod{{Name: "a"}}
	w.publish(s, answer, true)
	w.streams[key] = &stream{key: key, owner: w}
	w.publish(s, answer, true)
	if got := w.out.Get(); got != nil {
		t.Errorf("published %v", got)
	}
}

// TestRepeatedFailures: one line a topic and minute, and the end of what was
// announced.
func TestRepeatedFailures(t *testing.T) {
	w := newWatchTest(t)
	clock := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	w.now = func() time.Time { return clock }
	s := &stream{key: streamKey{edgePods}, owner: w.clusterWatch, logged: map[faultTopic]time.Time{}, state: StreamState{Name: "S", Since: clock}}
	away := func(text string) *fault { return &fault{err: fmt.Errorf("%s", text)} }
	denied := &fault{topic: faultTopic{faultDenied, "list", 403}, err: fmt.Errorf("no")}
	for _, step := range []struct {
		after time.Duration
		f     *fault // nil: all is well
	}{
		{0, nil}, {0, nil},
		{time.Hour, away("port 1")}, {10 * time.Second, away("port 2")}, {20 * time.Second, denied}, {20 * time.Second, denied},
		{10 * time.Second, away("port 3")}, {30 * time.Second, nil},
		{time.Second, away("port 4")}, {time.Second, nil}, // too soon to mention
		{time.Hour, denied}, {time.Second, nil},
	} {
		clock = clock.Add(step.after)
		if step.f == nil {
			s.follows()
			continue
		}
		s.fails(step.f)
		s.reports(step.f)
	}
	want := `level=INFO msg="the stream follows the cluster" stream=S objects=0
level=WARN msg="cannot follow the cluster; the last known state stays in force" stream=S err="port 1"
level=ERROR msg="cannot follow the cluster; the last known state stays in force" stream=S err=no
level=WARN msg="cannot follow the cluster; the last known state stays in force" stream=S err="port 3"
level=INFO msg="the stream follows the cluster again" stream=S objects=0 away=1m30s
level=ERROR msg="cannot follow the cluster; the last known state stays in force" stream=S err=no
level=INFO msg="the stream follows the cluster again" stream=S objects=0 away=1s
`
	if diff := cmp.Diff(want, w.log()); diff != "" {
		t.Error(diff)
	}
}

func TestBackoff(t *testing.T) {
	p := defaultPace
	b := streamBackoff{pace: &p, random: func() float64 { return 1 }}
	away := &fault{topic: faultTopic{kind: faultAway}}
	denied := &fault{topic: faultTopic{kind: faultDenied}}
	var got []time.Duration
	for range 6 {
		got = append(got, b.next(away))
	}
	for range 6 {
		got = append(got, b.next(denied))
	}
	b.reset()
	got = append(got, b.next(away))
	for range 100 {
		b.next(away)
	}
	got = append(got, b.next(away))
	ms := time.Millisecond
	want := []time.Duration{
		250 * ms, 500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 4000 * ms,
		1000 * ms, 2000 * ms, 4000 * ms, 8000 * ms, 15000 * ms, 15000 * ms,
		250 * ms, 4000 * ms,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	b.random = func() float64 { return 0 }
	if got := b.next(away); got != 0 {
		t.Errorf("full jitter reaches from 0, not from %v", got)
	}
}

// Ports of pods: what their containers and sidecars declare, and not what their other
// init containers do.
func TestPodPorts(t *testing.T) {
	for _, tt := range []struct{ spec, want, bound string }{
		{`"hostNetwork":true,"containers":[{"ports":[{"containerPort":80},{"containerPort":53,"protocol":"UDP"},{"containerPort":80}]}]`, "[53/udp 80/tcp]", "[]"},
		{`"hostNetwork":true,"containers":[{"ports":[{"containerPort":80,"hostPort":80}]}],"initContainers":[
			{"restartPolicy":"Always","ports":[{"containerPort":7443,"hostPort":7443}]},
			{"ports":[{"containerPort":1}]},{"restartPolicy":"OnFailure","ports":[{"containerPort":2}]},{"restartPolicy":"always","ports":[{"containerPort":3}]}]`, "[80/tcp 7443/tcp]", "[]"},
		{`"containers":[{"ports":[{"containerPort":8080,"hostPort":80},{"containerPort":443}]}]`, "[80/tcp]", "[]"},
		{`"containers":[{"ports":[{"hostPort":80,"hostIP":"0.0.0.0"},{"hostPort":81,"hostIP":"::"},{"hostPort":82,"hostIP":"10.0.0.5"},{"hostPort":83,"hostIP":"127.0.0.1"},{"hostPort":84,"hostIP":"x"}]}]`, "[80/tcp 81/tcp]", "[82/tcp 83/tcp 84/tcp]"},
		{`"hostNetwork":true,"containers":[{"ports":[{"containerPort":82,"hostPort":82,"hostIP":"10.0.0.5"}]}]`, "[82/tcp]", "[]"},
		{`"hostNetwork":true,"containers":[{"ports":[{"containerPort":-1},{"containerPort":70000},{"containerPort":9,"protocol":"QUIC"},{"containerPort":5,"protocol":"SCTP"}]}]`, "[5/sctp]", "[]"},
	} {
		var o podObject
		if err := json.Unmarshal([]byte(`{"spec":{`+tt.spec+`}}`), &o); err != nil {
			t.Fatal(err)
		}
		if ports, _, bound := o.ports(interner{}); fmt.Sprint(ports, bound) != tt.want+" "+tt.bound {
			t.Errorf("%s: %s and %s, want %s and %s", tt.spec, ports, bound, tt.want, tt.bound)
		}
	}
}

// Each port has its name, also in the snapshot. One of an earlier version has none.
func TestPodPortNames(t *testing.T) {
	var o podObject
	if err := json.Unmarshal([]byte(`{"spec":{"hostNetwork":true,"containers":[
		{"ports":[{"name":"websecure","containerPort":443},{"containerPort":53,"protocol":"UDP"},{"name":"web","containerPort":80}]},
		{"ports":[{"name":"again","containerPort":80},{"name":"a-name-that-is-longer-than-any","containerPort":7000}]}]}}`), &o); err != nil {
		t.Fatal(err)
	}
	query := PodQuery{Namespace: "web", Ports: true}
	p := o.pod(query, interner{})
	if got, want := fmt.Sprint(p.Ports, p.PortNames), fmt.Sprint("[53/udp 80/tcp 443/tcp 7000/tcp] ", []string{"", "again", "websecure", shorten("a-name-that-is-longer-than-any", maxPortName)}); got != want {
		t.Errorf("ports %s, want %s", got, want)
	}
	renamed := *p
	renamed.PortNames = []string{"", "web", "websecure", ""}
	if samePod(p, &renamed) {
		t.Error("another name of a port is no change")
	}
	var file bytes.Buffer
	c := newCluster()
	c.Pods[query] = []*Pod{p}
	if err := writeSnapshot(&file, c, "a", testTime); err != nil {
		t.Fatal(err)
	}
	read, _, err := readSnapshot(&file)
	if err != nil || len(read.Pods[query]) != 1 || !samePod(p, read.Pods[query][0]) {
		t.Errorf("the snapshot has %v, %v", read, err)
	}
}

// A pod keeps the last weight that its annotation had: over events, lists and a restart.
func TestLastWeightIsKept(t *testing.T) {
	query := PodQuery{Namespace: "web", Annotation: "w"}
	pod := func(uid string, weight ...string) *podObject {
		o := new(podObject)
		o.Metadata.Name, o.Metadata.Namespace, o.Metadata.UID = "p", "web", uid
		if len(weight) > 0 {
			o.Metadata.Annotations = map[string]string{"w": weight[0]}
		}
		return o
	}
	known := newCluster()
	l := query.collect().(*podCollection)
	list := func(o *podObject) {
		t.Helper()
		l = query.collect().(*podCollection)
		if err := l.add(o); err != nil {
			t.Fatal(err)
		}
		l.complete()
		l.recall(known)
	}
	event := func(o *podObject) { l.apply(o, false) }
	for _, step := range []struct {
		name       string
		take       func(*podObject)
		o          *podObject
		text, last string
	}{
		{"first, unusable", list, pod("u", "x"), "x", ""},
		{"a weight", event, pod("u", " 5 "), "5", ""},
		{"unusable by an event", event, pod("u", "5 apples"), "5 apples", "5"},
		{"unusable again", event, pod("u", "-1"), "-1", "5"},
		{"unusable by a list", list, pod("u", ""), " ", "5"},
		{"0 by a list", list, pod("u", "0"), "0", ""},
		{"unusable after 0", list, pod("u", "1e3"), "1e3", "0"},
		{"the annotation is removed", event, pod("u"), "", ""},
		{"unusable after that", event, pod("u", "x"), "x", ""},
		{"a weight again", event, pod("u", "9"), "9", ""},
		{"another pod of that name", list, pod("v", "x"), "x", ""},
	} {
		step.take(step.o)
		if p := l.kept[0]; p.Weight != step.text || p.LastWeight != step.last {
			t.Errorf("%s: weight %q, last weight %q; want %q and %q", step.name, p.Weight, p.LastWeight, step.text, step.last)
		}
		l.store(known)
		l.kept = slices.Clone(l.kept)
	}
}

// Every entry of the table is complete, and every field of ClusterQuery and Cluster
// has an entry: a kind that lacks one would be asked for and never followed, saved or
// forgotten.
func TestStreamKindsAreComplete(t *testing.T) {
	taken := map[string]string{}
	for _, k := range streamKinds {
		entry := reflect.ValueOf(k).Elem()
		for i := range entry.NumField() {
			if entry.Field(i).IsZero() {
				t.Errorf("%s has no %s", k.object, entry.Type().Field(i).Name)
			}
		}
		// The names of a snapshot file's values, of objects, and of paths are unique.
		for _, name := range []string{"in a snapshot: " + k.stream, "in a snapshot: " + k.item, "object: " + k.object, "path: " + k.api + "/" + k.resource} {
			if other := taken[name]; other != "" {
				t.Errorf("%s and %s have one name, %s", other, k.object, name)
			}
			taken[name] = k.object
		}
		if kindNamed(k.object) != k {
			t.Errorf("%s is not found by its name", k.object)
		}
	}

	var q ClusterQuery
	fields := 0
	for query, i := reflect.ValueOf(&q).Elem(), 0; i < query.NumField(); i++ {
		if f := query.Field(i); f.Kind() == reflect.Slice {
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			fields++
		}
	}
	q.Pods = append(q.Pods, PodQuery{}.ofService(ServiceName{"web", "edge"})) // of another kind than pods
	keys := map[streamKey]bool{}
	for _, key := range allKeys(&q) {
		keys[key] = true
		c := newCluster()
		key.collect().store(c)
		copied := newCluster()
		if !key.copyKnown(copied, c) || !key.copyKnown(newCluster(), copied) || copied.answers() != 1 {
			t.Errorf("%s is stored; then %d answers are known", key, copied.answers())
		}
		k := key.kind()
		k.save(c, func(query, item any) {
			if query != nil && item != nil && k.stream > k.item {
				t.Errorf("%s: the line of a snapshot would begin with %q", k.object, k.item)
			}
		})
	}
	if len(keys) != fields+1 || len(streamKinds) != fields+1 {
		t.Errorf("ClusterQuery has %d lists of keys, one of them for two kinds; %d keys are followed, and there are %d kinds", fields, len(keys), len(streamKinds))
	}
	for c, i := reflect.ValueOf(newCluster()).Elem(), 0; i < c.NumField(); i++ {
		if c.Field(i).IsNil() && c.Type().Field(i).Name != "Instead" { // which is for messages
			t.Errorf("newCluster makes no %s", c.Type().Field(i).Name)
		}
	}
	if n := reflect.TypeFor[Cluster]().NumField() - 1; n != fields {
		t.Errorf("Cluster has %d maps of objects, ClusterQuery %d lists of keys", n, fields)
	}
}
