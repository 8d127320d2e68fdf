package main

import (
	"context"
	"slices"
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
			log:       []string{"missing at once; a second answer must confirm that before they are removed\" stream=\"pods web app=edge\" gone=2 of=3", "a second answer confirms it", "the stream follows the cluster"},
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

// Of a file the second reading decides, and what is not doubted is taken at
// once.
func TestGuardInAFile(t *testing.T) {
	w := newWatchTest(t)
	w.pace.fileQuiet = 20 * time.Millisecond
	paused, goOn := make(chan struct{}, 1), make(chan struct{})
	w.sleep = func(ctx context.Context, d time.Duration) {
		if d != w.pace.confirm {
			t.Errorf("sleeps %s", d)
		}
		paused <- struct{}{}
		select {
		case <-goOn:
		case <-ctx.Done():
		}
	}
	file := func(tcp string, pods ...testPod) []byte {
		return []byte(podList("1", "", pods...) + tcp)
	}
	const tcp = `{"kind":"ConfigMap","metadata":{"name":"tcp","namespace":"web"}}`
	a, b, c := testPod{name: "a"}, testPod{name: "b"}, testPod{name: "c"}
	path := w.write(t, "cluster.json", file("", a, b, c))
	w.queries.Set(&ClusterQuery{ClusterFile: path, Pods: []PodQuery{edgePods}, ConfigMaps: []ConfigMapName{tcpMap}, Guards: map[PodQuery]uint8{edgePods: 50}})
	w.run(t)
	w.untilKnown(t, "app=edge: a", "app=edge: b", "app=edge: c", "web/tcp: false")

	w.write(t, "cluster.json", file(tcp, a))
	<-paused
	w.untilKnown(t, "app=edge: a", "app=edge: b", "app=edge: c", "web/tcp: true")
	goOn <- struct{}{}
	w.untilKnown(t, "app=edge: a", "web/tcp: true")

	// The end of the process is no confirmation.
	w.write(t, "cluster.json", file("", a, b, c))
	w.untilKnown(t, "app=edge: a", "app=edge: b", "app=edge: c", "web/tcp: false")
	w.write(t, "cluster.json", file(""))
	<-paused
	w.stop()
	if got := known(w.out.Get()); !slices.Equal(got, []string{"app=edge: a", "app=edge: b", "app=edge: c", "web/tcp: false"}) {
		t.Errorf("known after the end: %q", got)
	}
}

// An edit of what else is asked of the pods does not disable the guard; an edit of
// the guard itself asks nothing again.
func TestGuardOutlivesAnEdit(t *testing.T) {
	a, b, c := testPod{name: "a", version: 1}, testPod{name: "b", version: 2}, testPod{name: "c", version: 3}
	api := newFakeAPI(t, says(podList("10", "", a, b, c)), goesOn(bookmark("11")), says(podList("20", "", a)), says(podList("21", "", a, b)), goesOn(bookmark("22")))
	w := newWatchTest(t)
	kubeconfig := w.write(t, "kubeconfig", api.kubeconfig("secret"))
	ask := func(q PodQuery, guard uint8) {
		w.queries.Set(&ClusterQuery{Kubeconfig: kubeconfig, Pods: []PodQuery{q}, Guards: map[PodQuery]uint8{q: guard}})
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
	w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", api.kubeconfig("secret")), Pods: []PodQuery{edgePods}, Guards: map[PodQuery]uint8{edgePods: 50}})
	w.run(t)
	w.untilKnown(t, "app=edge: a", "app=edge: b", "app=edge: c")
	w.stop()
	want := []Cluster{{Pods: map[PodQuery][]*Pod{edgePods: {a.kept(), b.kept(), c.kept()}}, ConfigMaps: map[ConfigMapName]ConfigMap{}}}
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
		w.queries.Set(&ClusterQuery{Kubeconfig: kubeconfig, Pods: []PodQuery{q}, Guards: map[PodQuery]uint8{q: 50}})
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
