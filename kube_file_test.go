// Tests of the cluster file: its forms, its changes, and what is refused.

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
)

// fileKeys are the queries that the files of these tests are read for.
var fileKeys = []streamKey{
	{edgePods},
	{PodQuery{Namespace: "default", Selector: "app in (edge),!canary"}},
	{tcpMap},
	{ConfigMapName{"web", "udp"}},
}

// kubectlYAML is what `kubectl get pods,configmaps -A -o yaml` writes.
const kubectlYAML = `apiVersion: v1
items:
- apiVersion: v1
  kind: Pod
  metadata:
    labels:
      app: edge
    name: a
    namespace: web
    resourceVersion: "1"
    uid: uid-a
  spec:
    hostNetwork: true
    nodeName: node-a
  status:
    conditions:
    - lastTransitionTime: "2026-11-22T10:00:00Z"
      status: "True"
      type: Ready
    hostIP: 10.0.0.1
    phase: Running
    podIP: 10.0.0.1
- apiVersion: v1
  kind: Service
  metadata:
    name: a
    namespace: web
  spec: []
  status: none
- apiVersion: v1
  kind: Pod
  metadata:
    labels:
      app: other
    name: b
    namespace: web
- apiVersion: v1
  data:
    "9000": web/svc:80
  kind: ConfigMap
  metadata:
    name: tcp
    namespace: web
kind: List
metadata:
  resourceVersion: ""
`

const kubectlJSON = `{
    "apiVersion": "v1",
    "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"app": "edge"}, "name": "a", "namespace": "web", "uid": "uid-a"},
         "spec": {"hostNetwork": true, "nodeName": "node-a"},
         "status": {"conditions": [{"status": "True", "type": "Ready"}], "hostIP": "10.0.0.1", "phase": "Running", "podIP": "10.0.0.1"}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"app": "other"}, "name": "b", "namespace": "web"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "web"}, "spec": [], "status": "none"},
        {"apiVersion": "v1", "data": {"9000": "web/svc:80"}, "kind": "ConfigMap", "metadata": {"name": "tcp", "namespace": "web"}}
    ],
    "kind": "List",
    "metadata": {"resourceVersion": ""}
}
`

func TestDecodeClusterFile(t *testing.T) {
	a := testPod{name: "a"}.kept()
	tcp := ConfigMap{Exists: true, Data: map[string]string{"9000": "web/svc:80"}}
	type answers struct {
		pods      [2][]*Pod
		configMap [2]ConfigMap
	}
	usual := answers{pods: [2][]*Pod{{a}}, configMap: [2]ConfigMap{tcp}}
	tests := []struct {
		name, file string
		want       answers
	}{
		{"kubectl's JSON", kubectlJSON, usual},
		{"kubectl's YAML", kubectlYAML, usual},
		{"kubectl's YAML, from Windows", strings.ReplaceAll(kubectlYAML, "\n", "\r\n"), usual},
		{"kubectl's JSON, with a byte order mark", "\ufeff" + kubectlJSON, usual},
		{"kubectl's YAML, with a byte order mark", "\ufeff" + kubectlYAML, usual},
		{"an empty List is an answer", `{"apiVersion":"v1","items":[],"kind":"List"}`, answers{}},
		{"the API's own list, in its order", podList("7", "", testPod{name: "a"}, testPod{name: "c", leaving: true}),
			answers{pods: [2][]*Pod{{a, testPod{name: "c", leaving: true}.kept()}}}},
		{"a typed list whose kind comes last", `{"items":[{"metadata":{"name":"tcp","namespace":"web"},"data":{"9000":"web/svc:80"}}],"kind":"ConfigMapList"}`,
			answers{configMap: [2]ConfigMap{tcp}}},
		{"several documents", "# a comment\n---\n" + kubectlYAML + "---\n# nothing\n---\nkind: ConfigMap\nmetadata: {name: udp, namespace: web}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: 7\n",
			answers{pods: [2][]*Pod{{a}}, configMap: [2]ConfigMap{tcp, {Exists: true}}}},
		{"several JSON documents", kubectlJSON + `{"kind":"ConfigMap","metadata":{"name":"udp","namespace":"web"},"data":{"53":"a/b:53"}}`,
			answers{pods: [2][]*Pod{{a}}, configMap: [2]ConfigMap{tcp, {Exists: true, Data: map[string]string{"53": "a/b:53"}}}}},
		{"Lists in Lists", `{"apiVersion":"v1","kind":"List","items":[` + kubectlJSON + `,{"items":[],"kind":"List"}]}`, usual},
		{"typed lists in a List, of which the first has nameless items", `{"kind":"List","items":[{"items":[{"metadata":{"name":"tcp","namespace":"web"},"data":{"9000":"web/svc:80"}}],
			"kind":"ConfigMapList","apiVersion":"v1"},` + podList("7", "", testPod{name: "a"}) + `]}`, usual},
		{"lists of other kinds", kubectlJSON + `{"kind":"ServiceList","apiVersion":"v1","items":[{"metadata":{"name":"a"}}]}
			{"items":[{"metadata":{"name":"a"}}],"metadata":{"remainingItemCount":0,"continue":""},"apiVersion":"apps/v1","kind":"DeploymentList"}
			{"kind":"BlackList","apiVersion":"example.org/v1","metadata":{"name":"an object"},"spec":{}}`, usual},
		{"no namespace is the default one; sets and absence select", `kind: List
items:
- {kind: Pod, metadata: {name: x, labels: {app: edge}}}
- {kind: Pod, metadata: {name: canary, labels: {app: edge, canary: "1"}}}
- {kind: Pod, metadata: {name: z}}
`, answers{pods: [2][]*Pod{nil, {{Namespace: "default", Name: "x"}}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all, passed, err := decodeClusterFile(strings.NewReader(tt.file), fileKeys)
			if err != nil {
				t.Fatal(err)
			}
			c := newCluster()
			for _, answer := range all {
				answer.store(c)
			}
			got := answers{
				[2][]*Pod{c.Pods[edgePods], c.Pods[PodQuery{Namespace: "default", Selector: "app in (edge),!canary"}]},
				[2]ConfigMap{c.ConfigMaps[tcpMap], c.ConfigMaps[ConfigMapName{"web", "udp"}]},
			}
			if diff := cmp.Diff(tt.want, got, exactly, cmp.AllowUnexported(answers{})); diff != "" {
				t.Error(diff)
			}
			if want := passedOver[tt.name]; passed != want {
				t.Errorf("passed over: %q, want %q", passed, want)
			}
		})
	}
}

// passedOver are the objects that the files of TestDecodeClusterFile have beside Pods
// and ConfigMaps.
var passedOver = map[string]string{
	"kubectl's JSON": "Service (1)", "kubectl's YAML": "Service (1)",
	"kubectl's JSON, with a byte order mark": "Service (1)", "kubectl's YAML, with a byte order mark": "Service (1)", "kubectl's YAML, from Windows": "Service (1)",
	"several documents": "Deployment (1), Service (1)", "several JSON documents": "Service (1)", "Lists in Lists": "Service (1)",
	"lists of other kinds": "BlackList (1), Deployment (1), Service (2)",
}

// However many kinds a file has, few are named.
func TestPassedOverIsShort(t *testing.T) {
	var file strings.Builder
	file.WriteString(`{"kind":"List","items":[]}`)
	for i := range 100 {
		fmt.Fprintf(&file, `{"apiVersion":"example.org/v1","kind":"K%03d\u001b%s","metadata":{"name":"a"}}`, i, strings.Repeat("x", 1000))
	}
	_, passed, err := decodeClusterFile(strings.NewReader(file.String()), fileKeys)
	if err != nil || len(passed) > 3000 || strings.ContainsRune(passed, 27) || !strings.HasSuffix(passed, ", and 80 more objects") {
		t.Errorf("%v; %d bytes: %q", err, len(passed), passed)
	}
}

// yamlPod is a Pod as `kubectl get pod NAME -o yaml` writes it.
func yamlPod(name string) string {
	return strings.ReplaceAll(`apiVersion: v1
kind: Pod
metadata:
  labels:
    app: edge
  name: NAME
  namespace: web
  uid: uid-NAME
spec:
  hostNetwork: true
  nodeName: node-NAME
status:
  conditions:
  - status: "True"
    type: Ready
  hostIP: 10.0.0.1
  hostIPs:
  - ip: 10.0.0.1
  phase: Running
`, "NAME", name)
}

// All documents of a YAML file are read, whatever separates them, or the file is
// refused.
func TestDecodeClusterFileDocuments(t *testing.T) {
	for _, between := range []string{"---\n", "--- # b\n", "---\r\n", "...\n", "...\n---\n", "... # end\n", "...\t\r\n", "...\n\n...\n# b\n---\n"} {
		got, _, err := decodeClusterFile(strings.NewReader(yamlPod("a")+between+yamlPod("b")+"...\n"), fileKeys)
		if err != nil {
			t.Errorf("%q: %v", between, err)
		} else if pods := got[0].(*podCollection).kept; len(pods) != 2 || !pods[0].serves() || !pods[1].serves() {
			t.Errorf("%q: pods %+v", between, pods)
		}
	}
	for _, between := range []string{"\r---\r", "\r...\n", "\u0085---\n", "\u2028---\u2028", "\u2029...\u2029", "--- |\n", "... x\n"} {
		if got, _, err := decodeClusterFile(strings.NewReader(yamlPod("a")+between+yamlPod("b")), fileKeys); err == nil {
			t.Errorf("%q: taken as %+v", between, got[0].(*podCollection).kept)
		}
	}
	node := "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: node-a\nspec:\n  unschedulable: true\nstatus:\n  addresses:\n  - address: 10.0.0.1\n    type: InternalIP\n"
	for _, file := range []string{yamlPod("a"), yamlPod("a") + "---\n" + yamlPod("b"), yamlPod("a") + node} {
		last := strings.LastIndex(file, "---\n") // before it the cut file is a whole one
		whole := strings.LastIndex(file, "  phase")
		if strings.Contains(file, node) {
			whole = strings.LastIndex(file, "  - address")
		}
		for i := max(last, 0) + len("---\n#"); i < whole; i++ {
			if got, _, err := decodeClusterFile(strings.NewReader(file[:i]), fileKeys); err == nil {
				t.Fatalf("cut short after %q: taken as %+v", file[:i], got)
			}
		}
	}
}

func TestDecodeClusterFileRefuses(t *testing.T) {
	for name, file := range map[string]string{
		"nothing":                   "",
		"white space":               " \n\t\n",
		"comments":                  "# nothing\n",
		"prose":                     "pods: none\n",
		"a kubeconfig":              "apiVersion: v1\nkind: Config\nclusters: []\n",
		"a scalar":                  "true\n",
		"a sequence":                "- kind: Pod\n",
		"a List without items":      "kind: List\n",
		"a List of nameless things": `{"kind":"List","items":[{"metadata":{"name":"a"}}]}`,
		"a List in a List's place":  `{"kind":"List","items":7}`,
		"a Pod without a name":      `{"kind":"List","items":[{"kind":"Pod","metadata":{}}]}`,
		"a Pod of another shape":    `{"kind":"List","items":[{"kind":"Pod","metadata":{"name":"a"},"spec":7}]}`,
		"numbers for data":          "kind: ConfigMap\nmetadata: {name: tcp}\ndata: {a: 1}\n",
		"a key twice":               "kind: List\nitems: []\nitems: []\n",
		"a last line without end":   "kind: List\nitems:\n- {kind: Pod, metadata: {name: a}, status: {hostIP: 10.0.0.1}}",
		"JSON and something else":   `{"kind":"List","items":[]} ]`,
		"a page of a PodList":       podList("7", "next", testPod{name: "a"}),
		"a List of which more is":   `{"kind":"List","items":[],"metadata":{"remainingItemCount":3}}`,
		"a page in a List":          `{"kind":"List","items":[` + podList("7", "next") + `]}`,
		"a Pod with items":          `{"kind":"Pod","metadata":{"name":"a"},"items":[]}`,
		"a PodList without items":   `{"kind":"PodList","apiVersion":"v1","metadata":{"name":"a"}}`,
		"lists without an end":      strings.Repeat(`{"kind":"List","items":[`, 10) + strings.Repeat(`]}`, 10),
		"items that are no objects": `{"kind":"List","items":[7]}`,
		"items that are nothing":    `{"kind":"PodList","items":[null]}`,
		"items twice":               `{"kind":"PodList","items":[],"items":[]}`,
		"an error of kubectl":       kubectlYAML + "error: the server is away\n",
		"items of two spellings":    `{"kind":"List","Items":[{"kind":"Pod","metadata":{"name":"a"}}],"items":[]}`,
		"a PodList with a message":  `{"kind":"PodList","apiVersion":"v1","items":[],"message":"forbidden"}`,
		"a kind twice":              `{"kind":"PodList","kind":"ServiceList","items":[]}`,
	} {
		if got, _, err := decodeClusterFile(strings.NewReader(file), fileKeys); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
	// An object that is no whole one of a kind that Kubernetes has: alone, in a List,
	// and in a List of its kind.
	for _, head := range []string{
		`"kind":"Table","apiVersion":"meta.k8s.io/v1"`, `"kind":"Status","apiVersion":"v1"`, `"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1"`,
		`"kind":"pod","apiVersion":"v1"`, `"kind":"Pods","apiVersion":"v1"`, `"kind":"configmap","apiVersion":"v1"`, `"kind":"Foo","apiVersion":"v1"`,
		`"kind":"Pod","apiVersion":"v2"`, `"kind":"Pod","apiVersion":"apps/v1"`, `"kind":"ConfigMap","apiVersion":"v1beta1"`,
		`"kind":"Deployment"`, `"kind":"Service","apiVersion":"apps/v1"`, `"kind":"Deployment","apiVersion":"/v1"`, `"kind":"Deployment","apiVersion":"apps/"`, `"kind":"","apiVersion":"v1"`,
	} {
		whole := `{` + head + `,"metadata":{"name":"a"}}`
		kind, rest, _ := strings.Cut(strings.TrimPrefix(head, `"kind":"`), `"`)
		for _, object := range []string{whole, `{"kind":"List","items":[` + whole + `]}`, `{"kind":"` + kind + `List"` + rest + `,"items":[{"metadata":{"name":"a"}}]}`} {
			for _, file := range []string{object, kubectlJSON + object} {
				if got, _, err := decodeClusterFile(strings.NewReader(file), fileKeys); err == nil {
					t.Errorf("%s: taken as %+v", object, got)
				} else if kind != "" && !strings.Contains(err.Error(), kind) {
					t.Errorf("%s: the error does not name it: %v", object, err)
				}
			}
		}
	}
	// Of a kind that a stream follows no other version is understood.
	slices := []streamKey{{PodQuery{Namespace: "web", Service: "edge"}}}
	for _, version := range []string{"v1", "v1beta1"} {
		file := `{"kind":"List","items":[{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/` + version + `","metadata":{"name":"a","namespace":"web"},"addressType":"IPv4","endpoints":null}]}`
		if _, _, err := decodeClusterFile(strings.NewReader(file), slices); (err == nil) != (version == "v1") {
			t.Errorf("EndpointSlices %s: %v", version, err)
		}
	}
	for _, nameless := range []string{`{"kind":"Service","apiVersion":"v1","metadata":{}}`, `{"kind":"Deployment","apiVersion":"apps/v1"}`} {
		if got, _, err := decodeClusterFile(strings.NewReader(kubectlJSON+nameless), fileKeys); err == nil {
			t.Errorf("%s: taken as %+v", nameless, got)
		}
	}
	for i := range strings.TrimSpace(kubectlJSON) {
		if _, _, err := decodeClusterFile(strings.NewReader(kubectlJSON[:i]), fileKeys); err == nil {
			t.Fatalf("JSON cut short after %d bytes is taken", i)
		}
	}
	complete := strings.Index(kubectlYAML, "kind: List\n") + len("kind: List\n")
	for i := range complete {
		if _, _, err := decodeClusterFile(strings.NewReader(kubectlYAML[:i]), fileKeys); err == nil {
			t.Fatalf("YAML cut short after %d bytes is taken", i)
		}
	}
}

// PowerShell writes what kubectl prints as UTF-16, with a byte order mark.
func TestDecodeClusterFileUTF16(t *testing.T) {
	for _, text := range []string{kubectlJSON, kubectlYAML, "# \u00e4\u4e2d\u6587\n" + kubectlYAML} {
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			var b []byte
			for _, unit := range utf16.Encode([]rune("\ufeff" + text)) {
				b = order.AppendUint16(b, unit)
			}
			for _, b := range [][]byte{b, b[2:]} {
				if _, _, err := decodeClusterFile(bytes.NewReader(b), fileKeys); err == nil || err.Error() != "it is UTF-16, want UTF-8 text" {
					t.Errorf("%.20q: %v", b, err)
				}
			}
		}
	}
}

// TestFollowFile: every way a file changes.
func TestFollowFile(t *testing.T) {
	w := newWatchTest(t)
	w.pace.filePoll = time.Hour // notifications alone
	file := func(pod string) []byte {
		return fmt.Appendf(nil, `{"kind":"List","items":[{"kind":"Pod","metadata":{"name":%q,"namespace":"web","labels":{"app":"edge"}}}]}`, pod)
	}
	knows := func(pod string) {
		t.Helper()
		w.untilKnown(t, "app=edge: "+pod, "web/tcp: false")
	}
	path := w.write(t, "cluster.json", file("first"))
	w.queries.Set(&ClusterQuery{ClusterFile: path, Pods: []PodQuery{edgePods}, ConfigMaps: []ConfigMapName{tcpMap}})
	w.run(t)
	knows("first")
	until(t, "both streams", w.current)

	w.write(t, "cluster.json", file("renamed over"))
	knows("renamed over")
	if err := os.WriteFile(path, file("written in place"), 0o600); err != nil {
		t.Fatal(err)
	}
	knows("written in place")

	lists := w.States()[0].Lists
	w.write(t, "unrelated", []byte("x"))
	time.Sleep(3 * w.pace.fileQuiet)
	if again := w.States()[0].Lists; again != lists {
		t.Errorf("read %d times more because of another file", again-lists)
	}

	// A writer that takes its time.
	slow, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range file("written slowly") {
		if _, err := slow.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Microsecond)
	}
	slow.Close()
	knows("written slowly")

	// The way of a Kubernetes volume: path -> ..data/cluster.json, ..data -> v1.
	for i, dir := range []string{"v1", "v2"} {
		if err := os.Mkdir(filepath.Join(w.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		w.write(t, dir+"/cluster.json", file("symlink to "+dir))
		link := filepath.Join(w.dir, "link")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link, filepath.Join(w.dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := os.Symlink("..data/cluster.json", link); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(link, path); err != nil {
				t.Fatal(err)
			}
		}
		knows("symlink to " + dir)
	}

	// What cannot be used changes nothing, and is said once.
	failing := func(part string) {
		t.Helper()
		until(t, part, func() bool { s := w.States(); return strings.Contains(s[0].LastError, part) && s[0].Synced })
		knows("symlink to v2")
	}
	w.write(t, "cluster.json", []byte("kind: {\n"))
	failing("did not find expected")
	before := w.States()[0]
	w.write(t, "cluster.json", []byte("kind: {\n")) // again the same
	time.Sleep(3 * w.pace.fileQuiet)
	if diff := cmp.Diff(before, w.States()[0]); diff != "" {
		t.Errorf("the same content again: %s", diff)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	failing("no such file")
	w.write(t, "cluster.json", file("back"))
	knows("back")
	until(t, "both streams", w.current)
	w.stop()

	if n := strings.Count(w.log(), "level=ERROR"); n != 2 || strings.Count(w.log(), "valid again") != 1 {
		t.Errorf("%d errors are logged, want 2 and the end of them:\n%s", n, w.log())
	}
}

// TestFileDirectoryAppears: without a directory there is nothing to be notified
// of, but the poll finds the file.
func TestFileDirectoryAppears(t *testing.T) {
	w := newWatchTest(t)
	w.pace.fileQuiet, w.pace.filePoll = time.Millisecond, 5*time.Millisecond
	path := filepath.Join(w.dir, "later", "cluster.yaml")
	w.queries.Set(&ClusterQuery{ClusterFile: path, Pods: []PodQuery{edgePods}})
	w.run(t)
	until(t, "a failure", func() bool { s := w.States(); return len(s) == 1 && strings.Contains(s[0].LastError, path) })
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	w.write(t, "later/cluster.yaml", []byte(kubectlYAML))
	w.untilKnown(t, "app=edge: a")
	w.queries.Set(&ClusterQuery{ClusterFile: path, Pods: []PodQuery{edgePods}, ConfigMaps: []ConfigMapName{tcpMap}})
	w.untilKnown(t, "app=edge: a", "web/tcp: true")
}

// FuzzClusterFile looks for bytes that crash the decoder or come out in
// disorder, and for answers that depend on how the bytes are cut into reads.
func FuzzClusterFile(f *testing.F) {
	f.Add([]byte(kubectlJSON))
	f.Add([]byte(kubectlYAML))
	f.Add([]byte(`{"kind":"List","items":[` + podList("7", "", testPod{name: "a"}) + `,{"items":[{"metadata":{"name":"a"}}],"apiVersion":"apps/v1","kind":"DeploymentList"}]}`))
	f.Add([]byte(podList("7", "", testPod{name: "a"})))
	f.Add([]byte("kind: ConfigMap\nmetadata: {name: tcp, namespace: web}\n---\nkind: Pod\nmetadata: &a {name: a, namespace: web, labels: {app: edge}}\n"))
	f.Add([]byte(`{"items":[{"metadata":{"name":"a","namespace":"web","labels":{"app":"edge"}}}],"kind":"PodList"}{"kind":"List","items":null}`))
	f.Add([]byte(`{"kind":"Pod","metadata":null,"items":[{"kind":"Pod","metadata":{"name":"b","namespace":"web","labels":{"app":"edge"}}}]}`))
	f.Add([]byte(sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1"}}) + `{"kind":"Service","apiVersion":"v1","metadata":{"name":"edge","namespace":"web"},"spec":{"ports":[{"port":80}]}}`))
	keys := append(slices.Clone(fileKeys), streamKey{edgeEndpoints}, streamKey{edgeService})
	f.Fuzz(func(t *testing.T, data []byte) {
		defer bounded(t, len(data))()
		answers, _, err := decodeClusterFile(strings.NewReader(string(data)), keys)
		if err != nil {
			return
		}
		if len(answers) != len(keys) {
			t.Fatalf("%d answers to %d questions", len(answers), len(keys))
		}
		for _, c := range answers {
			checkKept(t, c)
		}
	})
}

// Where a selector matches no pod, it is said what labels the namespace's pods have.
func TestWhatPodsHaveInstead(t *testing.T) {
	pod := func(namespace, name, labels string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"namespace":%q,"resourceVersion":"1","labels":{%s}}}`, name, namespace, labels)
	}
	many := func(n int, labels string) (pods []string) {
		for i := range n {
			pods = append(pods, pod("web", fmt.Sprint("p", i), fmt.Sprintf(labels, i)))
		}
		return pods
	}
	for _, tt := range []struct {
		name, namespace, selector string
		pods                      []string
		want                      string
	}{
		{"no pod at all", "web", "app=edge", nil, "; namespace web has none"},
		{"pods of other namespaces", "web", "app=edge", []string{pod("db", "a", `"app":"db"`)}, "; namespace web has none"},
		{"another value", "web", "app=edge", []string{pod("web", "a", `"app":"api"`), pod("web", "b", `"app":"shop"`), pod("web", "c", `"app":"shop"`)},
			"; the pods of namespace web have instead (3 looked at): app = shop (2), = api (1)"},
		{"no such label", "web", "app=edge,tier in (a,b)", []string{pod("web", "a", `"app":"edge"`)},
			"; the pods of namespace web have instead (1 looked at): app = edge (1); tier on none"},
		{"none of its labels", "web", "role=edge", []string{pod("web", "a", `"app":"shop","x":"1"`), pod("web", "b", `"app.kubernetes.io/name":"edge"`)},
			"; the pods of namespace web have instead (2 looked at): role on none; app.kubernetes.io/name = edge (1); app = shop (1)"},
		{"all namespaces", "", "app=edge", []string{pod("db", "a", `"app":"db"`)}, "; the pods of the cluster have instead (1 looked at): app = db (1)"},
		{"a match", "web", "app=edge", []string{pod("web", "a", `"app":"edge"`), pod("web", "b", `"app":"x"`)}, ""},
		{"many values", "web", "app=edge", many(5, `"app":"v%d"`), "; the pods of namespace web have instead (5 looked at): app = v0 (1), = v1 (1), = v2 (1), and 2 other values"},
		{"many pods", "web", "app=edge", many(600, `"app":"v","x":"%d"`), "; the pods of namespace web have instead (500 looked at): app = v (500)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			query := PodQuery{Namespace: tt.namespace, Selector: tt.selector}
			file := `{"kind":"List","apiVersion":"v1","items":[` + strings.Join(tt.pods, ",") + `]}`
			answers, _, err := decodeClusterFile(strings.NewReader(file), []streamKey{{query}})
			if err != nil {
				t.Fatal(err)
			}
			c := newCluster()
			answers[0].store(c)
			if c.Instead[query] != tt.want {
				t.Errorf("%q, want %q", c.Instead[query], tt.want)
			}
			if !answers[0].storedIn(c) {
				t.Error("the answer is new again")
			}
		})
	}
}

// An API server is asked for other pods only when the selector matches none.
func TestServerSaysWhatPodsHaveInstead(t *testing.T) {
	asked := 0
	respond := func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case !strings.HasSuffix(r.URL.Path, "/pods"):
			refuses(http.StatusForbidden, "no")(w, r)
		case q.Has("watch"):
			<-r.Context().Done()
		case q.Has("labelSelector"):
			says(podList("7", ""))(w, r)
		default:
			asked++
			says(podList("7", "", testPod{name: "a", version: 1}, testPod{name: "b", version: 2}))(w, r)
		}
	}
	follow(t, respond, func(c *latest[Cluster], _ string) bool {
		return c.Get() != nil && c.Get().Instead[edgePods] == "; the pods of namespace web have instead (2 looked at): app = edge (2)"
	})
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// While the selector matches no pod, what is said of the others follows them; so it does
// when the last pod it matched goes.
func TestServerSaysWhatPodsHaveNow(t *testing.T) {
	a := testPod{name: "a", version: 8}
	for name, pods := range map[string]string{
		"others come": podList("7", ""),
		"all go":      podList("7", "", testPod{name: "a", version: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			var late atomic.Bool // the watch has begun
			respond := func(w http.ResponseWriter, r *http.Request) {
				switch q := r.URL.Query(); {
				case !strings.HasSuffix(r.URL.Path, "/pods"):
					refuses(http.StatusForbidden, "no")(w, r)
				case q.Has("watch") && name == "all go":
					late.Store(true)
					goesOn(tells(eventDeleted, a))(w, r)
				case q.Has("watch"):
					late.Store(true)
					goesOn(bookmark("9"))(w, r)
				case q.Has("labelSelector"):
					says(pods)(w, r)
				case late.Load():
					says(podList("9", "", testPod{name: "b", version: 9}))(w, r)
				default:
					says(podList("7", ""))(w, r)
				}
			}
			follow(t, respond, func(c *latest[Cluster], _ string) bool {
				return c.Get() != nil && c.Get().Instead[edgePods] == "; the pods of namespace web have instead (1 looked at): app = edge (1)"
			}, func(w *clusterWatch) { w.pace.sample = 0 })
		})
	}
}
