// Tests of what is kept of an object, and of bytes that make no sense.

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// exactly compares whole values, addresses included.
var exactly = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}),
}

// noNodes and noServices are what a cluster has of objects that are not asked for.
var (
	noNodes    = map[NodeQuery][]*Node{}
	noServices = map[ServiceName]ClusterService{}
)

// testPod is a pod as a scenario sees it.
type testPod struct {
	name     string
	version  int
	notReady bool
	leaving  bool
	noise    string // a field that is not kept
}

// json is the pod as an API server writes it.
func (p testPod) json() string {
	leaving := ""
	if p.leaving {
		leaving = `"deletionTimestamp":"2026-11-22T10:00:00Z",`
	}
	return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"web","uid":"uid-%s",%s"labels":{"app":"edge"},
		"managedFields":[{"manager":"kubelet","fieldsV1":{"f:status":{"f:conditions":{}}}}],"resourceVersion":"%d"},
		"spec":{"nodeName":"node-%s","hostNetwork":true,"containers":[{"name":"c","image":%q}]},
		"status":{"phase":"Running","hostIP":"10.0.0.1","hostIPs":[{"ip":"10.0.0.1"}],"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}],
		"conditions":[{"type":"Initialized","status":"True"},{"type":"Ready","status":%q}]}}`,
		p.name, p.name, leaving, p.version, p.name, p.noise, map[bool]string{true: "False", false: "True"}[p.notReady])
}

// kept is what is to be known of it.
func (p testPod) kept() *Pod {
	return &Pod{
		UID: "uid-" + p.name, Namespace: "web", Name: p.name, Node: "node-" + p.name, HostNetwork: true,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ready: !p.notReady, Terminating: p.leaving,
	}
}

func podList(version, next string, pods ...testPod) string {
	items := make([]string, len(pods))
	for i, p := range pods {
		items[i] = p.json()
	}
	return fmt.Sprintf(`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":%q,"continue":%q},"items":[%s]}`,
		version, next, strings.Join(items, ","))
}

func TestPodKeepsWhatMatters(t *testing.T) {
	tests := []struct {
		name   string
		status string
		spec   string
		meta   string
		want   Pod
	}{
		{
			name:   "dual stack: node addresses first, each once",
			spec:   `"hostNetwork":true,"nodeName":"n1"`,
			status: `"phase":"Running","hostIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],"hostIP":"10.9.9.9","podIPs":[{"ip":"fd00::1"},{"ip":"10.0.0.2"}],"podIP":"10.9.9.8"`,
			want: Pod{Node: "n1", HostNetwork: true, Addresses: []netip.Addr{
				netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.2"),
			}},
		},
		{
			name:   "old servers have the singular fields alone; mapped addresses are unmapped",
			status: `"hostIP":"::ffff:10.0.0.1","podIP":"10.0.0.1"`,
			want:   Pod{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		},
		{
			name:   "the annotation names the second address of its node",
			meta:   `,"annotations":{"lvs-controller/address":" 10.0.0.2 "}`,
			status: `"hostIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"},{"ip":"10.0.0.2"}]`,
			want:   Pod{Addresses: addrs("10.0.0.2", "10.0.0.1", "fd00::1"), Named: 1},
		},
		{
			name:   "one of each family, in another spelling",
			meta:   `,"annotations":{"lvs-controller/address":"FD00:0::2,::ffff:10.0.0.2"}`,
			status: `"hostIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"},{"ip":"10.0.0.2"},{"ip":"fd00::2"}]`,
			want:   Pod{Addresses: addrs("fd00::2", "10.0.0.2", "10.0.0.1", "fd00::1"), Named: 2},
		},
		{
			name:   "the pod's own address and those of other nodes do not count",
			meta:   `,"annotations":{"lvs-controller/address":"10.0.0.1,10.244.0.9, 10.0.0.7,x"}`,
			status: `"hostIPs":[{"ip":"10.0.0.1"}],"podIPs":[{"ip":"10.244.0.9"}]`,
			want:   Pod{Addresses: addrs("10.0.0.1", "10.244.0.9"), OtherAddress: "10.244.0.9, 10.0.0.7, x", Named: 1},
		},
		{
			name:   "an annotation without end",
			meta:   `,"annotations":{"lvs-controller/address":"` + strings.Repeat("9", 100_000) + `"}`,
			status: `"hostIP":"10.0.0.1"`,
			want:   Pod{Addresses: addrs("10.0.0.1"), OtherAddress: shorten(strings.Repeat("9", 100_000), quotedText)},
		},
		{
			name:   "no address at all",
			status: `"hostIP":"","podIPs":[{"ip":"10.0.0"},{"ip":"0.0.0.0"},{}],"conditions":[{"type":"Ready","status":"Unknown"}]`,
		},
		{name: "ready", status: `"conditions":[{"type":"Ready","status":"True"}]`, want: Pod{Ready: true}},
		{name: "succeeded", status: `"phase":"Succeeded"`, want: Pod{Terminating: true}},
		{name: "failed", status: `"phase":"Failed"`, want: Pod{Terminating: true}},
		{name: "being deleted", meta: `,"deletionTimestamp":"2026-11-22T10:00:00Z"`, want: Pod{Terminating: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := fmt.Sprintf(`{"items":[{"metadata":{"name":"p","namespace":"web","uid":"u"%s},"spec":{%s},"status":{%s}}],
				"metadata":{"resourceVersion":"1"},"kind":"PodList"}`, tt.meta, tt.spec, tt.status)
			b := PodQuery{Namespace: "web"}.collect().(*podCollection)
			if _, err := decodePage(strings.NewReader(body), b); err != nil {
				t.Fatal(err)
			}
			tt.want.Namespace, tt.want.Name, tt.want.UID = "web", "p", "u"
			b.complete()
			if diff := cmp.Diff([]*Pod{&tt.want}, b.kept, exactly); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCollectList(t *testing.T) {
	names := func(q PodQuery, pods ...*podObject) []*Pod {
		c := q.collect().(*podCollection)
		for _, p := range pods {
			c.add(p)
		}
		c.complete()
		return c.kept
	}
	at := func(ns, name, uid string) *podObject {
		o := new(podObject)
		o.Metadata.Namespace, o.Metadata.Name, o.Metadata.UID = ns, name, uid
		return o
	}
	got := names(PodQuery{Namespace: ""}, at("b", "x", "1"), at("a", "y", "2"), at("b", "x", "3"), at("a", "x", "4"))
	want := []*Pod{{Namespace: "a", Name: "x", UID: "4"}, {Namespace: "a", Name: "y", UID: "2"}, {Namespace: "b", Name: "x", UID: "3"}}
	if diff := cmp.Diff(want, got, exactly); diff != "" {
		t.Errorf("all namespaces, one pod twice: %s", diff)
	}
	got = names(PodQuery{Namespace: "a"}, at("b", "x", "1"), at("a", "y", "2"))
	if diff := cmp.Diff([]*Pod{{Namespace: "a", Name: "y", UID: "2"}}, got, exactly); diff != "" {
		t.Errorf("one namespace: %s", diff)
	}
	exists := func(objects ...*configMapObject) bool {
		c := ConfigMapName{"a", "tcp"}.collect()
		for _, o := range objects {
			c.add(o)
		}
		c.complete()
		cluster := newCluster()
		c.store(cluster)
		return cluster.ConfigMaps[ConfigMapName{"a", "tcp"}].Exists
	}
	named := func(ns, name string) *configMapObject {
		o := new(configMapObject)
		o.Metadata.Namespace, o.Metadata.Name = ns, name
		return o
	}
	if exists(named("a", "udp"), named("b", "tcp")) {
		t.Error("another ConfigMap was taken for the one asked for")
	}
	if !exists(named("a", "tcp")) {
		t.Error("the ConfigMap was not found")
	}
}

func TestCollectEvent(t *testing.T) {
	before := []*Pod{testPod{name: "a"}.kept(), testPod{name: "c"}.kept()}
	tests := []struct {
		name string
		kind string
		pod  testPod
		want []testPod
	}{
		{"between", eventAdded, testPod{name: "b"}, []testPod{{name: "a"}, {name: "b"}, {name: "c"}}},
		{"after", eventAdded, testPod{name: "d"}, []testPod{{name: "a"}, {name: "c"}, {name: "d"}}},
		{"in place", eventModified, testPod{name: "a", notReady: true}, []testPod{{name: "a", notReady: true}, {name: "c"}}},
		{"unknown until now", eventModified, testPod{name: "b"}, []testPod{{name: "a"}, {name: "b"}, {name: "c"}}},
		{"added twice", eventAdded, testPod{name: "c"}, []testPod{{name: "a"}, {name: "c"}}},
		{"gone", eventDeleted, testPod{name: "c", leaving: true}, []testPod{{name: "a"}}},
		{"gone already", eventDeleted, testPod{name: "b"}, []testPod{{name: "a"}, {name: "c"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			was := append([]*Pod(nil), before...)
			message := fmt.Sprintf(`{"type":%q,"object":%s}`, tt.kind, testPod{name: tt.pod.name, version: 9, notReady: tt.pod.notReady, leaving: tt.pod.leaving}.json())
			e, err := newEventDecoder(strings.NewReader(message), podKind).next()
			if err != nil {
				t.Fatal(err)
			}
			var want []*Pod
			for _, p := range tt.want {
				want = append(want, p.kept())
			}
			c := PodQuery{Namespace: "web"}.collect().(*podCollection)
			c.kept = before
			c.apply(e.object, e.kind == eventDeleted)
			got := c.kept
			if diff := cmp.Diff(want, got, exactly); diff != "" {
				t.Error(diff)
			}
			if same := cmp.Equal(want, before, exactly); same != (&got[0] == &before[0]) {
				t.Errorf("unchanged: %v, but copied: %v", same, same)
			}
			if diff := cmp.Diff(was, before, exactly); diff != "" {
				t.Errorf("the published content was written to: %s", diff)
			}
		})
	}
}

func TestDecodePageRefuses(t *testing.T) {
	good := podList("7", "", testPod{name: "a"}, testPod{name: "b"})
	tests := []struct {
		name, body string
		cut        bool // else malformed
	}{
		{"an empty body", "", true},
		{"an empty object", "{}", false},
		{"another kind", strings.Replace(good, "PodList", "ConfigMapList", 1), false},
		{"a Status", `{"kind":"Status","metadata":{},"status":"Failure","items":[]}`, false},
		{"no items", `{"kind":"PodList","metadata":{"resourceVersion":"7"}}`, false},
		{"no resource version", `{"kind":"PodList","metadata":{},"items":[]}`, false},
		{"an item without a name", `{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{}]}`, false},
		{"items that are no array", `{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":{}}`, false},
		{"a field of another type", strings.Replace(good, `"hostNetwork":true`, `"hostNetwork":"yes"`, 1), false},
		{"a page of HTML", "<html>", false},
		{"something after it", good + good, false},
		{"another version", strings.Replace(good, `"apiVersion":"v1"`, `"apiVersion":"v2"`, 1), false},
		{"an item of another kind", `{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{"kind":"ConfigMap","metadata":{"name":"a"}}]}`, false},
		{"an item of another version", `{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{"apiVersion":"v2","metadata":{"name":"a"}}]}`, false},
		{"an item that is nothing", `{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[null]}`, false},
		{"a page of several without the next one's name", `{"kind":"PodList","metadata":{"resourceVersion":"7","remainingItemCount":1},"items":[]}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decodePage(strings.NewReader(tt.body), PodQuery{}.collect())
			if err == nil || malformed(err) == tt.cut || errors.Is(err, io.EOF) {
				t.Errorf("error %v; malformed: %v", err, malformed(err))
			}
		})
	}
	for i := range good {
		if _, err := decodePage(strings.NewReader(good[:i]), PodQuery{}.collect()); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("a list cut short after %d bytes: error %v", i, err)
		}
	}
	broken := errors.New("connection reset")
	if _, err := decodePage(io.MultiReader(strings.NewReader(good), iotest.ErrReader(broken)), PodQuery{}.collect()); !errors.Is(err, broken) || malformed(err) {
		t.Errorf("a connection that breaks at the end of a list: %v", err)
	}
	if _, err := decodePage(strings.NewReader(`{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":null}`), PodQuery{}.collect()); err != nil {
		t.Errorf("an empty list may be null: %v", err)
	}
}

func TestEventDecoderRefuses(t *testing.T) {
	for name, message := range map[string]string{
		"no type":                        `{"object":{"metadata":{"name":"a","resourceVersion":"1"}}}`,
		"a type unknown":                 `{"type":"MOVED","object":{"metadata":{"name":"a","resourceVersion":"1"}}}`,
		"no object":                      `{"type":"ADDED"}`,
		"no name":                        `{"type":"ADDED","object":{"metadata":{"resourceVersion":"1"}}}`,
		"no resource version":            `{"type":"DELETED","object":{"metadata":{"name":"a"}}}`,
		"another kind":                   `{"type":"DELETED","object":{"kind":"Status","metadata":{"name":"a","resourceVersion":"1"}}}`,
		"another version":                `{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v2","metadata":{"name":"a","resourceVersion":"1"}}}`,
		"a bookmark of another kind":     `{"type":"BOOKMARK","object":{"kind":"ConfigMap","metadata":{"resourceVersion":"1"}}}`,
		"a bookmark of nothing":          `{"type":"BOOKMARK","object":{}}`,
		"an object of another type":      `{"type":"ADDED","object":[]}`,
		"something that is not an event": `[]`,
		"garbage":                        `!`,
	} {
		t.Run(name, func(t *testing.T) {
			d := newEventDecoder(strings.NewReader(`{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"1"}}}`+message), podKind)
			if _, err := d.next(); err != nil {
				t.Fatal(err)
			}
			if e, err := d.next(); err == nil || !malformed(err) {
				t.Errorf("event %+v, error %v", e, err)
			}
		})
	}
}

// FuzzDecodePage looks for bytes that are taken for a list without being one.
func FuzzDecodePage(f *testing.F) {
	f.Add([]byte(podList("7", "next", testPod{name: "a"}, testPod{name: "b", leaving: true})))
	f.Add([]byte(`{"items":null,"metadata":{"resourceVersion":"1"},"kind":"PodList"}`))
	f.Add([]byte(`{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"p"},"status":{"podIP":"fe80::1%eth0"}}]}`))
	f.Add([]byte(`{"items":[[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		defer bounded(t, len(data))()
		b := PodQuery{}.collect().(*podCollection)
		head, err := decodePage(strings.NewReader(string(data)), b)
		if err != nil {
			return
		}
		if head.Kind != "PodList" || head.Metadata.ResourceVersion == "" {
			t.Errorf("took %+v", head)
		}
		b.complete()
		checkContent(t, b.kept)
	})
}

// FuzzEvents looks for bytes that a watch must not choke on, and checks that
// what follows from them is in order.
func FuzzEvents(f *testing.F) {
	added := `{"type":"ADDED","object":` + testPod{name: "b", version: 8}.json() + `}`
	f.Add([]byte(added + "\n" + strings.Replace(added, "ADDED", "DELETED", 1)))
	f.Add([]byte(added + strings.ReplaceAll(added, `"b"`, `"a"`)))
	f.Add([]byte(`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}{"type":"ERROR","object":{"code":410,"status":"Failure","message":"too old"}}`))
	f.Add([]byte(`{"type":"ADDED","object":{"metadata":{"name":"tcp","resourceVersion":"1"},"data":{"9000":"web/svc:80"}}}`))
	f.Add([]byte(`{"type":"ADDED","object":{"metadata":{"name":"edge","namespace":"web","resourceVersion":"1"},"spec":{"ports":[{"port":80,"targetPort":"x"}]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		defer bounded(t, len(data))()
		for _, into := range []collection{PodQuery{}.collect(), ConfigMapName{"", "tcp"}.collect(), edgeEndpoints.collect(), edgeService.collect()} {
			d := newEventDecoder(strings.NewReader(string(data)), into.kind())
			version := ""
			for {
				e, err := d.next()
				if err != nil {
					break
				}
				if e.kind == eventError {
					continue
				}
				v := e.object.meta().Metadata.ResourceVersion
				if older(v, v) || older(v, version) && older(version, v) {
					t.Errorf("versions %q and %q are older than each other", version, v)
				}
				version = v
				if e.kind == eventBookmark {
					continue
				}
				into.apply(e.object, e.kind == eventDeleted)
				checkKept(t, into)
			}
		}
	})
}

// checkContent checks what readers of a snapshot rely on.
func checkContent(t *testing.T, pods []*Pod) {
	t.Helper()
	for i, p := range pods {
		if p.Name == "" {
			t.Errorf("a pod without a name: %+v", p)
		}
		if i > 0 && comparePods(pods[i-1], p) >= 0 {
			t.Errorf("out of order: %s/%s, %s/%s", pods[i-1].Namespace, pods[i-1].Name, p.Namespace, p.Name)
		}
		for _, a := range p.Addresses {
			if !plainAddress(a) {
				t.Errorf("pod %s has address %v", p.Name, a)
			}
		}
	}
}

// checkKept is checkContent for what is kept of any kind.
func checkKept(t *testing.T, c collection) {
	t.Helper()
	switch c := c.(type) {
	case *podCollection:
		checkContent(t, c.kept)
	case *sliceCollection:
		checkContent(t, c.kept)
	}
}
