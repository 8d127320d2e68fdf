package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Most of the pods gone all at once: another answer decides.
func TestGuard(t *testing.T) {
	const list, watch, first = listPods, watchPods, firstWait
	a, b, c := testPod{name: "a", version: 1}, testPod{name: "b", version: 2}, testPod{name: "c", version: 3}
	d, e := testPod{name: "d", version: 4}, testPod{name: "e", version: 5}
	bLeaving := testPod{name: "b", version: 13, leaving: true}
	wait := func(d ...time.Duration) []time.Duration { return d }
	confirm := defaultPace.confirm
	followPods(t, []followTest{
		{
			name:      "most pods missing from a list: only the second list is believed",
			guard:     50,
			script:    []reply{says(podList("10", "", a, b, c)), refuses(410, "too old"), says(podList("20", "", a)), says(podList("21", "", a))},
			requests:  []string{list, watch + "10", list, list, watch + "21"},
			published: [][]testPod{{a, b, c}, {a}},
			waits:     wait(first, confirm),
			log:       []string{"missing from the answer; a second answer must confirm that before it is removed\" stream=\"pods web app=edge\" gone=2 of=3 confirm=\"a new list\"", "a second answer confirms it", "the stream follows the cluster"},
		},
		{
			name:      "most pods missing from one list alone",
			guard:     50,
			script:    []reply{says(podList("10", "", a, b, c)), refuses(410, "too old"), says(podList("20", "")), says(podList("21", "", a, b, c))},
			requests:  []string{list, watch + "10", list, list, watch + "21"},
			published: [][]testPod{{a, b, c}},
			waits:     wait(first, confirm),
			log:       []string{"gone=3 of=3", "not missing any more", "the stream follows the cluster"},
		},
		{
			name:      "no second list to be had: what is known stays",
			guard:     50,
			script:    []reply{says(podList("10", "", a, b, c)), refuses(410, "too old"), says(podList("20", "")), refuses(403, "no"), says(podList("21", "", a, b))},
			requests:  []string{list, watch + "10", list, list, list, watch + "21"},
			published: [][]testPod{{a, b, c}, {a, b}},
			waits:     wait(first, confirm, 2*first),
		},
		{
			name:  "events add up, and a list decides",
			guard: 50,
			script: []reply{says(podList("10", "", a, b, c)),
				says(tells(eventDeleted, a) + tells(eventDeleted, b) + tells(eventDeleted, c)), says(podList("20", "", c))},
			requests:  []string{list, watch + "10", list, watch + "20"},
			published: [][]testPod{{a, b, c}, {b, c}, {c}},
			waits:     wait(confirm + first),
			log:       []string{"the stream follows the cluster", "gone=2 of=3", "a second answer confirms it"},
		},
		{
			name:  "pods that were seen to leave do not count",
			guard: 50,
			script: []reply{says(podList("10", "", a, bLeaving, c)),
				says(tells(eventModified, testPod{name: "a", version: 14, leaving: true}) + tells(eventDeleted, a) + tells(eventDeleted, c))},
			requests:  []string{list, watch + "10", watch + "3"},
			published: [][]testPod{{a, bLeaving, c}, {{name: "a", leaving: true}, bLeaving, c}, {bLeaving, c}, {bLeaving}},
			log:       []string{"the stream follows the cluster"},
		},
		{
			name:      "half is not more than half, and one pod is not many",
			guard:     50,
			script:    []reply{says(podList("10", "", a, b)), says(tells(eventDeleted, b))},
			requests:  []string{list, watch + "10", watch + "2"},
			published: [][]testPod{{a, b}, {a}},
		},
		{
			name:      "the second answer lacks even more: a third decides",
			guard:     50,
			script:    []reply{says(podList("10", "", a, b, c, d, e)), refuses(410, "too old"), says(podList("20", "", a, b)), says(podList("21", "")), says(podList("22", "")), refuses(403, "which other pods there are")},
			requests:  []string{list, watch + "10", list, list, list, "list web/pods", watch + "22"},
			published: [][]testPod{{a, b, c, d, e}, nil},
			waits:     wait(first, confirm, confirm),
		},
		{
			name:      "the second answer lacks the last one, too",
			guard:     50,
			script:    []reply{says(podList("10", "", a, b, c)), refuses(410, "too old"), says(podList("20", "", a)), says(podList("21", "")), says(podList("22", "", a))},
			requests:  []string{list, watch + "10", list, list, list, watch + "22"},
			published: [][]testPod{{a, b, c}, {a}},
			waits:     wait(first, confirm, confirm),
		},
		{
			name:      "no guard: the first answer is used",
			script:    []reply{says(podList("10", "", a, b, c)), refuses(410, "too old"), says(podList("20", "", a))},
			requests:  []string{list, watch + "10", list, watch + "20"},
			published: [][]testPod{{a, b, c}, {a}},
			waits:     wait(first),
		},
	})
}

// A ConfigMap that is there no more, or has lost most of its ports, is in doubt; one
// port of several is not.
func TestGuardOfConfigMaps(t *testing.T) {
	object := func(version string, ports ...string) string {
		data := map[string]string{"not a port": "x"}
		for _, p := range ports {
			data[strings.TrimSuffix(p, "!")] = "web/a:80"
			if strings.HasSuffix(p, "!") {
				data[strings.TrimSuffix(p, "!")] = "a:80" // it opens no port
			}
		}
		text, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"tcp","namespace":"web","resourceVersion":%q},"data":%s}`, version, text)
	}
	lists := func(version string, items ...string) reply {
		return says(fmt.Sprintf(`{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":%q},"items":[%s]}`, version, strings.Join(items, ",")))
	}
	event := func(kind, object string) reply { return says(`{"type":"` + kind + `","object":` + object + `}`) }
	three, two := object("10", "1", "2", "3"), object("11", "1", "2")
	for _, tt := range []struct {
		name   string
		guard  uint8
		script []reply
		want   []int // ports in each snapshot; -1 = there is no ConfigMap
		log    string
	}{
		{"deleted by mistake", 50, []reply{lists("10", three), event(eventDeleted, three), lists("20", three)}, []int{3}, "not missing any more"},
		{"deleted", 100, []reply{lists("10", three), event(eventDeleted, three), lists("20"), lists("21")}, []int{3, -1}, "a second answer confirms it"},
		{"one port, deleted", 50, []reply{lists("10", object("9", "1")), event(eventDeleted, three), lists("20", object("9", "1"))}, []int{1}, "not missing any more"},
		{"missing from a list", 50, []reply{lists("10", three), refuses(410, "too old"), lists("20"), lists("21", three)}, []int{3}, "gone=3 of=3"},
		{"emptied by mistake", 50, []reply{lists("10", three), event(eventModified, object("11")), lists("20", three)}, []int{3}, "gone=3 of=3"},
		{"most ports", 50, []reply{lists("10", three), event(eventModified, object("11", "1")), lists("20", object("11", "1"))}, []int{3, 1}, "gone=2 of=3"},
		{"most ports, one after the other", 50, []reply{lists("10", three), event(eventModified, two), event(eventModified, object("12", "1")), lists("20", two)}, []int{3, 2}, "gone=2 of=3"},
		{"one port", 50, []reply{lists("10", three), event(eventModified, two)}, []int{3, 2}, ""},
		{"the only port", 50, []reply{lists("10", object("9", "1")), event(eventModified, object("11"))}, []int{1, 0}, ""},
		{"entries that opened no port", 50, []reply{lists("10", object("9", "1", "2!", "3!", "4!")), event(eventModified, object("11", "1"))}, []int{4, 1}, ""},
		{"values that open no port any more", 50, []reply{lists("10", three), event(eventModified, object("11", "1!", "2!", "3")), lists("20", three)}, []int{3}, "gone=2 of=3"},
		{"no guard", 0, []reply{lists("10", three), event(eventDeleted, three)}, []int{3, -1}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			api := newFakeAPI(t, tt.script...)
			w := newWatchTest(t)
			w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", api.kubeconfig("secret")), ConfigMaps: []ConfigMapName{tcpMap}, Guards: map[any]uint8{tcpMap: tt.guard}})
			w.run(t)
			<-api.exhausted
			w.stop()
			var got []int
			for _, c := range w.published {
				n := -1
				if cm := c.ConfigMaps[tcpMap]; cm.Exists {
					n = len(cm.Data) - 1
				}
				got = append(got, n)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
			if !strings.Contains(w.log(), tt.log) || tt.log == "" && strings.Contains(w.log(), "missing") {
				t.Errorf("log, want %q:\n%s", tt.log, w.log())
			}
		})
	}
}

// guardedFile is a watch of a cluster file, with the guards of all its streams on.
type guardedFile struct{ *watchTest }

func guardFile(t *testing.T, confirm time.Duration) guardedFile {
	w := newWatchTest(t)
	w.pace.fileQuiet, w.pace.fileConfirm, w.pace.guardWindow = 20*time.Millisecond, confirm, 0
	return guardedFile{w}
}

// write replaces the file: pods and ConfigMaps with so many ports.
func (w guardedFile) write(t *testing.T, pods string, ports ...int) string {
	var text []byte
	for _, name := range pods {
		text = append(text, podList("1", "", testPod{name: string(name)})...)
	}
	for i, n := range ports {
		data := map[string]string{}
		for port := range n {
			data[strconv.Itoa(9000+port)] = "web/svc:80"
		}
		json, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		text = fmt.Appendf(text, `{"kind":"ConfigMap","metadata":{"name":%q,"namespace":"web"},"data":%s}`, []string{"tcp", "udp"}[i], json)
	}
	if text == nil {
		text = []byte(`{"apiVersion":"v1","items":[],"kind":"List","metadata":{"resourceVersion":""}}`)
	}
	return w.watchTest.write(t, "cluster.json", text)
}

// follow asks for pods and for both ConfigMaps.
func (w guardedFile) follow(t *testing.T) {
	udp := ConfigMapName{"web", "udp"}
	w.queries.Set(&ClusterQuery{
		ClusterFile: w.dir + "/cluster.json", Pods: []PodQuery{edgePods}, ConfigMaps: []ConfigMapName{tcpMap, udp},
		Guards: map[any]uint8{edgePods: 50, tcpMap: 50, udp: 50},
	})
	w.run(t)
}

// until waits until the pods and the ports of both ConfigMaps are known; -1 is a
// ConfigMap that does not exist.
func (w guardedFile) until(t *testing.T, pods string, tcp, udp int) {
	t.Helper()
	is := ""
	until(t, fmt.Sprintf("%q %d %d", pods, tcp, udp), func() bool {
		c := w.out.Get()
		if c == nil {
			return false
		}
		names, n := "", [2]int{-1, -1}
		for _, p := range c.Pods[edgePods] {
			names += p.Name
		}
		for i, name := range []string{"tcp", "udp"} {
			if cm := c.ConfigMaps[ConfigMapName{"web", name}]; cm.Exists {
				n[i] = len(cm.Data)
			}
		}
		is = fmt.Sprintf("%q %d %d", names, n[0], n[1])
		return is == fmt.Sprintf("%q %d %d", pods, tcp, udp)
	})
}

// doubted waits until so many streams have been in doubt since the start.
func (w guardedFile) doubted(t *testing.T, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d doubts", n), func() bool {
		return strings.Count(w.log(), "a second answer must confirm") == n
	})
	time.Sleep(3 * w.pace.fileQuiet)
}

// A file in doubt is confirmed by a later write alone, and what is not missing is
// used at once.
func TestGuardInAFile(t *testing.T) {
	w := guardFile(t, time.Hour)
	w.write(t, "abc", 3, 1)
	w.follow(t)
	w.until(t, "abc", 3, 1)

	t.Log("most pods missing, a port more")
	w.write(t, "a", 3, 2)
	w.until(t, "abc", 3, 2)
	w.doubted(t, 1)
	if s := w.States(); !strings.Contains(s[2].LastError, "2 of 3 that served are missing") || s[0].LastError != "" {
		t.Errorf("states: %+v", s)
	}
	if !strings.Contains(w.log(), "confirm=\"a later write of the file, or 20") {
		t.Errorf("the time is not named:\n%s", w.log())
	}
	w.write(t, "a", 3, 2)
	w.until(t, "a", 3, 2)

	t.Log("nothing at all: also what alone would be little")
	w.write(t, "")
	w.doubted(t, 4)
	w.until(t, "a", 3, 2)
	t.Log("a broken file, and the same file moved back, confirm nothing")
	path := w.dir + "/cluster.json"
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	until(t, "a missing file", func() bool { return strings.Contains(w.States()[0].LastError, "no such file") })
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	w.doubted(t, 7)
	w.until(t, "a", 3, 2)
	t.Log("whole again")
	w.write(t, "a", 3, 2)
	w.until(t, "a", 3, 2)
	until(t, "the end of the doubt", func() bool { return strings.Count(w.log(), "not missing any more") == 3 })

	t.Log("a part: one ConfigMap is missing, another has one port less")
	w.write(t, "a", 2)
	w.doubted(t, 9)
	w.until(t, "a", 3, 2)
	w.write(t, "a", 2)
	w.until(t, "a", 2, -1)

	t.Log("the second write lacks more: it needs a third")
	w.write(t, "abcdef", 6, 2)
	w.until(t, "abcdef", 6, 2)
	w.write(t, "abcdef", 2, 2)
	w.doubted(t, 10)
	w.write(t, "abcdef", 0, 2)
	w.doubted(t, 11)
	w.until(t, "abcdef", 6, 2)
	w.write(t, "abcdef", 0, 2)
	w.until(t, "abcdef", 0, 2)

	t.Log("one pod is not many, but a file without any is in doubt")
	w.write(t, "a", 0, 2)
	w.doubted(t, 12)
	w.write(t, "a")
	w.doubted(t, 14)
	w.write(t, "a")
	w.until(t, "a", -1, -1)
	w.write(t, "", 1)
	w.doubted(t, 15)
	w.until(t, "a", 1, -1)
	w.write(t, "abcdef", 0, 2)
	w.until(t, "abcdef", 0, 2)

	t.Log("the end of the process is no confirmation")
	w.write(t, "a", 0, 2)
	w.doubted(t, 16)
	began := time.Now()
	w.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it takes %s to end", took)
	}
	w.until(t, "abcdef", 0, 2)
}

// A file in doubt that does not change confirms itself, and only then.
func TestGuardInAFileThatStays(t *testing.T) {
	w := guardFile(t, 500*time.Millisecond)
	w.pace.filePoll = time.Hour
	w.write(t, "abc", 3, 1)
	w.follow(t)
	w.until(t, "abc", 3, 1)
	began := time.Now()
	w.write(t, "")
	w.doubted(t, 3)
	w.until(t, "", -1, -1)
	if took := time.Since(began); took < w.pace.fileConfirm {
		t.Errorf("confirmed after %s", took)
	}
}

// What an earlier run knew of ConfigMaps is not missed for one answer either.
func TestGuardInAFileAfterARestart(t *testing.T) {
	w := guardFile(t, time.Hour)
	w.earlier = Cluster{ConfigMaps: map[ConfigMapName]ConfigMap{tcpMap: {Exists: true, Data: map[string]string{"9000": "web/svc:80"}}}}
	w.write(t, "a")
	w.follow(t)
	w.doubted(t, 1)
	if got := known(w.out.Get()); !slices.Equal(got, []string{"app=edge: a", "web/udp: false"}) {
		t.Errorf("known: %q", got)
	}
	w.write(t, "a")
	w.until(t, "a", -1, -1)
}

// An edit of what else is asked of the pods does not disable the guard; an edit of
// the guard itself asks nothing again.
func TestGuardOutlivesAnEdit(t *testing.T) {
	a, b, c := testPod{name: "a", version: 1}, testPod{name: "b", version: 2}, testPod{name: "c", version: 3}
	api := newFakeAPI(t, says(podList("10", "", a, b, c)), goesOn(bookmark("11")), says(podList("20", "", a)), says(podList("21", "", a, b)), goesOn(bookmark("22")))
	w := newWatchTest(t)
	kubeconfig := w.write(t, "kubeconfig", api.kubeconfig("secret"))
	ask := func(q PodQuery, guard uint8) {
		w.queries.Set(&ClusterQuery{Kubeconfig: kubeconfig, Pods: []PodQuery{q}, Guards: map[any]uint8{q: guard}})
	}
	ask(edgePods, 0)
	w.run(t)
	w.untilKnown(t, "app=edge: a", "app=edge: b", "app=edge: c")
	until(t, "the watch", func() bool { return len(api.seen()) == 2 && w.current() })
	ask(edgePods, 50)
	annotated := edgePods
	annotated.Annotation = "weight"
	ask(annotated, 50)
	w.untilKnown(t, "app=edge: a", "app=edge: b")
	if diff := cmp.Diff([]string{listPods, watchPods + "10", listPods, listPods}, api.seen()[:4]); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// After a restart nothing is published, and the guard knows all the same which pods
// served before it.
func TestGuardOutlivesARestart(t *testing.T) {
	a, b, c := testPod{name: "a", version: 1}, testPod{name: "b", version: 2}, testPod{name: "c", version: 3}
	api := newFakeAPI(t, says(podList("10", "", a)), says(podList("11", "", a, b, c)), goesOn(bookmark("12")))
	w := newWatchTest(t)
	w.earlier = Cluster{Pods: map[PodQuery][]*Pod{edgePods: {a.kept(), b.kept(), c.kept()}}}
	w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", api.kubeconfig("secret")), Pods: []PodQuery{edgePods}, Guards: map[any]uint8{edgePods: 50}})
	w.run(t)
	w.untilKnown(t, "app=edge: a", "app=edge: b", "app=edge: c")
	w.stop()
	want := []Cluster{{Pods: map[PodQuery][]*Pod{edgePods: {a.kept(), b.kept(), c.kept()}}, ConfigMaps: map[ConfigMapName]ConfigMap{}, Nodes: noNodes, Services: noServices, Gateways: noGateways, ListenerSets: noListenerSets}}
	if diff := cmp.Diff(want, w.published, exactly); diff != "" {
		t.Errorf("snapshots: %s", diff)
	}
}

// What an earlier run knew is of use until the pods are known: an edit before the
// first answer does not lose it.
func TestGuardOutlivesAnEditAfterARestart(t *testing.T) {
	a, b, c := testPod{name: "a", version: 1}, testPod{name: "b", version: 2}, testPod{name: "c", version: 3}
	api := newFakeAPI(t, refuses(403, "no"), says(podList("10", "", a)), says(podList("11", "", a, b, c)), goesOn(bookmark("12")))
	w := newWatchTest(t)
	w.earlier = Cluster{Pods: map[PodQuery][]*Pod{edgePods: {a.kept(), b.kept(), c.kept()}}}
	w.sleep = func(ctx context.Context, _ time.Duration) {
		if len(api.seen()) == 1 { // refused: the edit comes now
			<-ctx.Done()
		}
	}
	kubeconfig := w.write(t, "kubeconfig", api.kubeconfig("secret"))
	ask := func(q PodQuery) {
		w.queries.Set(&ClusterQuery{Kubeconfig: kubeconfig, Pods: []PodQuery{q}, Guards: map[any]uint8{q: 50}})
	}
	ask(edgePods)
	w.run(t)
	until(t, "the refusal", func() bool { return len(api.seen()) == 1 })
	annotated := edgePods
	annotated.Annotation = "weight"
	ask(annotated)
	w.untilKnown(t, "app=edge: a", "app=edge: b", "app=edge: c")
	w.stop()
	if len(w.published) != 1 {
		t.Errorf("%d snapshots, want only the whole one", len(w.published))
	}
	if w.earlier.Pods != nil {
		t.Error("what an earlier run knew is kept without end")
	}
}

// FuzzListThenEvents follows a list and events, and compares what is known with a
// simple model of what must be: the objects of the cluster, or what was known before
// while too much of that is missing. Each byte is an event.
func FuzzListThenEvents(f *testing.F) {
	f.Add([]byte{50, 255, 4 << 3, 4<<3 + 1, 4<<3 + 2, 4<<3 + 3, 4<<3 + 4, 4<<3 + 5})
	f.Add([]byte{50, 15, 6<<3 + 1, 4 << 3, 6<<3 + 7, 3 << 3, 2<<3 + 1, 7 << 3, 1, 5 << 3, 9})
	f.Add([]byte{0, 7, 7 << 3, 0, 6 << 3, 6<<3 + 2, 6<<3 + 3, 6<<3 + 4, 6<<3 + 5, 6<<3 + 6})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) < 2 || len(script) > 256 {
			return
		}
		defer bounded(t, 256*len(script))()
		newEventsModel(t, script[0]%101, script[1]).follow(script[2:])
	})
}

// eventsModel is a cluster of at most eight pods, and a stream that follows it.
type eventsModel struct {
	*testing.T
	f     *serverFollower
	now   time.Time
	pods  map[string]testPod
	known map[string]testPod // as published last
	share int
}

func newEventsModel(t *testing.T, share, pods uint8) *eventsModel {
	m := &eventsModel{T: t, now: time.Unix(1e9, 0), share: int(share)}
	w := newClusterWatch(slog.New(slog.DiscardHandler), newLatest[Cluster](make(chan struct{}, 1)), Cluster{})
	w.now = func() time.Time { return m.now }
	key := streamKey{edgePods}
	s := &stream{key: key, owner: w}
	s.guard.published = newCluster()
	s.guard.share.Store(uint32(share))
	w.streams[key], w.wanted = s, map[streamKey]bool{key: true}
	m.f = &serverFollower{stream: s}
	m.jump(pods)
	return m
}

// jump replaces the cluster, and follows the list that shows it.
func (m *eventsModel) jump(pods uint8) {
	m.pods = map[string]testPod{}
	for i := range 8 {
		if pods>>i&1 == 1 {
			name := string(rune('a' + i))
			m.pods[name] = testPod{name: name}
		}
	}
	m.now = m.now.Add(m.f.owner.pace.guardWindow + 1) // nothing adds up
	gone, served := m.missing()
	if held := m.list(); !held && m.share > 0 && gone > 1 && 100*gone > m.share*served {
		m.Errorf("%d of %d pods vanish, and nothing is in doubt", gone, served)
	} else if held && m.list() {
		m.Error("a second answer that is the same does not confirm the first")
	}
}

// missing counts the pods that are known to serve, and those of them that are gone.
func (m *eventsModel) missing() (gone, served int) {
	for name, p := range m.known {
		if p.notReady || p.leaving {
			continue
		}
		served++
		if _, found := m.pods[name]; !found {
			gone++
		}
	}
	return gone, served
}

// list takes a list of the cluster. held is set when it is in doubt.
func (m *eventsModel) list() (held bool) {
	answer := edgePods.collect()
	var pods []testPod
	for _, p := range m.pods {
		pods = append(pods, p)
	}
	if _, err := decodePage(strings.NewReader(podList("1", "", pods...)), answer); err != nil {
		m.Fatal(err)
	}
	answer.complete()
	m.f.content = answer
	held = m.f.checkRemoval(answer, false, "") != nil
	if !held {
		m.f.owner.publish(m.f.stream, answer, true)
	}
	m.check(held)
	return held
}

// check compares what is published with what must be.
func (m *eventsModel) check(held bool) {
	if gone, _ := m.missing(); held && (gone == 0 || m.share == 0) {
		m.Errorf("in doubt, but %d pods are missing, and the share is %d", gone, m.share)
	}
	if !held {
		m.known = maps.Clone(m.pods)
	}
	got := m.f.owner.out.Get().Pods[edgePods]
	checkContent(m.T, got)
	if len(got) != len(m.known) {
		m.Fatalf("%d pods are known, want %d", len(got), len(m.known))
	}
	for _, p := range got {
		if want, found := m.known[p.Name]; !found || !samePod(p, want.kept()) {
			m.Errorf("pod %+v, want %+v", p, want)
		}
	}
}

// nonsense is what no event may be.
var nonsense = []string{
	`{"type":"MOVED","object":{"metadata":{"name":"a","namespace":"web","resourceVersion":"1"}}}`,
	`{"type":"DELETED","object":{"kind":"ConfigMap","metadata":{"name":"a","namespace":"web","resourceVersion":"1"}}}`,
	`{"type":"DELETED","object":{"kind":"Pod","apiVersion":"v2","metadata":{"name":"a","namespace":"web","resourceVersion":"1"}}}`,
	`{"type":"DELETED","object":{"metadata":{"namespace":"web","resourceVersion":"1"}}}`,
	`{"type":"DELETED","object":{"metadata":{"name":"a","namespace":"web"}}}`,
	`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`,
	`null`, `{"type":"DELETED"`,
}

// follow takes one event for each byte. One that makes no sense ends the watch: a list
// follows.
func (m *eventsModel) follow(script []byte) {
	for i, b := range script {
		p := testPod{name: string(rune('a' + b&7)), version: i + 2}
		message := ""
		switch b >> 3 & 7 {
		case 0, 1:
			m.pods[p.name], message = p, tells(eventAdded, p)
		case 2:
			p.notReady = true
			m.pods[p.name], message = p, tells(eventModified, p)
		case 3:
			p.leaving = true
			m.pods[p.name], message = p, tells(eventModified, p)
		case 4:
			delete(m.pods, p.name)
			message = tells(eventDeleted, p)
		case 5:
			m.now = m.now.Add(time.Duration(b&7) * time.Second)
			message = bookmark("7")
		case 6:
			message = nonsense[b&7]
		case 7:
			m.jump(b*37 + byte(i))
			continue
		}
		e, err := newEventDecoder(strings.NewReader(message), podKind).next()
		if (err != nil) != (b>>3&7 == 6) {
			m.Fatalf("%s: %v", message, err)
		}
		if err == nil {
			if err = m.f.take(e); err == nil {
				m.check(false)
				continue
			}
			m.check(true)
		}
		if first, second := m.list(), m.list(); first && second {
			m.Error("a second list that is the same does not confirm the first")
		}
	}
}
