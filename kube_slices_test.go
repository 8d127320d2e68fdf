// Tests of what is kept of Services and their EndpointSlices.

package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// edgeService is the Service of these tests, and edgeEndpoints the query for its endpoints.
var (
	edgeService   = ServiceName{"web", "edge"}
	edgeEndpoints = PodQuery{Ports: true}.ofService(edgeService)
)

// testSlice is an EndpointSlice as a scenario sees it. An endpoint is "NAME ADDRESS" with
// any of "unready", "ends" and "serves" behind it; the name "-" is that of no pod.
type testSlice struct {
	name      string
	family    string // "" = IPv4
	ports     string // JSON; "" = http 80 and https 443
	endpoints []string
}

// json is the slice as an API server writes it.
func (s testSlice) json() string {
	var all []string
	for _, text := range s.endpoints {
		f := strings.Fields(text)
		has := func(word string) bool { return slices.Contains(f[2:], word) }
		conditions := fmt.Sprintf(`{"ready":%v,"serving":%v,"terminating":%v}`, !has("unready") && !has("ends"), !has("unready") || has("serves"), has("ends"))
		ref := ""
		if f[0] != "-" {
			ref = fmt.Sprintf(`,"nodeName":"node-%s","targetRef":{"kind":"Pod","namespace":"web","name":%q,"uid":"uid-%[1]s"}`, f[0], f[0])
		}
		all = append(all, fmt.Sprintf(`{"addresses":[%q],"conditions":%s%s}`, f[1], conditions, ref))
	}
	family, ports := s.family, s.ports
	if family == "" {
		family = "IPv4"
	}
	if ports == "" {
		ports = `[{"name":"https","port":443,"protocol":"TCP"},{"name":"http","port":80}]`
	}
	return fmt.Sprintf(`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":%q,"namespace":"web","resourceVersion":"7",
		"labels":{"kubernetes.io/service-name":"edge","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io"}},
		"addressType":%q,"endpoints":[%s],"ports":%s}`, s.name, family, strings.Join(all, ","), ports)
}

func sliceList(all ...testSlice) string {
	var items []string
	for _, s := range all {
		items = append(items, s.json())
	}
	return fmt.Sprintf(`{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","metadata":{"resourceVersion":"7"},"items":[%s]}`, strings.Join(items, ","))
}

// collectSlices is the collection of a list.
func collectSlices(t testing.TB, list string) *sliceCollection {
	t.Helper()
	c := edgeEndpoints.collect().(*sliceCollection)
	if _, err := decodePage(strings.NewReader(list), c); err != nil {
		t.Fatal(err)
	}
	c.complete()
	return c
}

// event applies one event to c.
func (s testSlice) event(t testing.TB, c *sliceCollection, kind string) {
	t.Helper()
	e, err := newEventDecoder(strings.NewReader(fmt.Sprintf(`{"type":%q,"object":%s}`, kind, s.json())), sliceKind).next()
	if err != nil {
		t.Fatal(err)
	}
	c.apply(e.object, e.kind == eventDeleted)
}

// summary is what is kept of pods, a line each.
func summary(pods []*Pod) string {
	var lines []string
	for _, p := range pods {
		line := fmt.Sprintf("%s/%s %s %v", p.Namespace, p.Name, p.Node, p.Addresses)
		for i, port := range p.Ports {
			line += fmt.Sprintf(" %s=%s", p.PortNames[i], port)
		}
		if p.Zone != "" {
			line += " in " + p.Zone
		}
		if p.Terminating {
			line += " terminating"
		}
		if !p.Ready {
			line += " not ready"
		}
		if !p.HostNetwork {
			line += " FQDN"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestEndpointsKeepWhatMatters(t *testing.T) {
	const ports = " http=80/tcp https=443/tcp"
	one := func(endpoint string) string {
		return strings.Replace(sliceList(testSlice{name: "s"}), `"endpoints":[]`, `"endpoints":[`+endpoint+`]`, 1)
	}
	for _, tt := range []struct{ name, list, want string }{
		{"none", sliceList(), ""},
		{"two pods in two slices", sliceList(testSlice{name: "s", endpoints: []string{"b 10.1.0.2"}}, testSlice{name: "t", endpoints: []string{"a 10.1.0.1"}}),
			"web/a node-a [10.1.0.1]" + ports + "\nweb/b node-b [10.1.0.2]" + ports},
		{"a pod with both families is one", sliceList(testSlice{name: "s", family: "IPv6", endpoints: []string{"a fd00::1"}}, testSlice{name: "t", endpoints: []string{"a 10.1.0.1"}}),
			"web/a node-a [10.1.0.1 fd00::1]" + ports},
		{"one family is not ready", sliceList(testSlice{name: "s", family: "IPv6", endpoints: []string{"a fd00::1 unready"}}, testSlice{name: "t", endpoints: []string{"a 10.1.0.1"}}),
			"web/a node-a [10.1.0.1 fd00::1]" + ports + " not ready"},
		{"one family terminates", sliceList(testSlice{name: "s", family: "IPv6", endpoints: []string{"a fd00::1"}}, testSlice{name: "t", endpoints: []string{"a 10.1.0.1 ends"}}),
			"web/a node-a [10.1.0.1 fd00::1]" + ports + " terminating not ready"},
		{"in two slices while it moves", sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1"}}, testSlice{name: "t", endpoints: []string{"a 10.1.0.1"}}),
			"web/a node-a [10.1.0.1]" + ports},
		{"twice in one slice", sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1", "a 10.1.0.1 unready"}}),
			"web/a node-a [10.1.0.1]" + ports + " not ready"},
		{"serving and terminating", sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1 ends serves"}}), "web/a node-a [10.1.0.1]" + ports + " terminating not ready"},
		{"without a pod: one for each address", sliceList(testSlice{name: "s", endpoints: []string{"- 10.1.0.2", "- 10.1.0.1 unready"}}),
			"web/10.1.0.1  [10.1.0.1]" + ports + " not ready\nweb/10.1.0.2  [10.1.0.2]" + ports},
		{"no conditions count as ready", one(`{"addresses":["10.1.0.1"]}`), "web/10.1.0.1  [10.1.0.1]" + ports},
		{"null conditions too", one(`{"addresses":["10.1.0.1"],"conditions":{"ready":null,"serving":null,"terminating":null},"nodeName":null,"targetRef":null}`), "web/10.1.0.1  [10.1.0.1]" + ports},
		{"of several addresses the first", one(`{"addresses":["10.1.0.1","10.1.0.9"]}`), "web/10.1.0.1  [10.1.0.1]" + ports},
		{"what is no pod", one(`{"addresses":["10.1.0.1"],"targetRef":{"kind":"Node","name":"n","uid":"u"}}`), "web/10.1.0.1  [10.1.0.1]" + ports},
		{"a pod without a UID", one(`{"addresses":["10.1.0.1"],"targetRef":{"kind":"Pod","name":"n"}}`), "web/10.1.0.1  [10.1.0.1]" + ports},
		{"names that no API server gives out", one(fmt.Sprintf(`{"addresses":["10.1.0.1"],"nodeName":"a\nb","targetRef":{"kind":"Pod","name":%q,"uid":"u"}}`, strings.Repeat("x", 300))), "web/10.1.0.1  [10.1.0.1]" + ports},
		{"its zone", one(`{"addresses":["10.1.0.1"],"nodeName":"n","zone":"eu-1a"}`), "web/10.1.0.1 n [10.1.0.1]" + ports + " in eu-1a"},
		{"a zone that no API server gives out", one(`{"addresses":["10.1.0.1"],"zone":"eu\n1a"}`), "web/10.1.0.1  [10.1.0.1]" + ports},
		{"mapped addresses are unmapped", one(`{"addresses":["::ffff:10.1.0.1"]}`), "web/10.1.0.1  [10.1.0.1]" + ports},
		{"what is no address", one(`{"addresses":["10.1.0"]},{"addresses":["fe80::1%eth0"]},{"addresses":["0.0.0.0"]},{"addresses":[]},{}`), ""},
		{"names in place of addresses", sliceList(testSlice{name: "s", family: "FQDN", endpoints: []string{"- edge.example.org", "a other.example.org"}}),
			"web/a node-a []" + ports + " FQDN\nweb/edge.example.org  []" + ports + " FQDN"},
		{"protocols, and what is no port", sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1"}, ports: `[{"name":"q","protocol":"UDP","port":443},{"name":"s","protocol":"SCTP","port":9},{"port":null},{"port":0},{"port":65536},{"protocol":"X","port":1},{"name":"b","port":80},{"name":"a","port":80},{"name":"a","port":80}]`}),
			"web/a node-a [10.1.0.1] s=9/sctp a=80/tcp b=80/tcp q=443/udp"},
		{"no ports at all", sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1"}, ports: "null"}), "web/a node-a [10.1.0.1]"},
		{"slices of another Service, from a proxy that ignores selectors", strings.Replace(sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1"}}), `service-name":"edge"`, `service-name":"other"`, 1), ""},
		{"and of another namespace", strings.Replace(sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1"}}), `"namespace":"web","resourceVersion"`, `"namespace":"db","resourceVersion"`, 1), ""},
		{"a pod and the one of that name before it", strings.Replace(sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1"}}, testSlice{name: "t", endpoints: []string{"a 10.1.0.9 ends"}}), "uid-a", "uid-old", 1),
			"web/a node-a [10.1.0.1]" + ports},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, summary(collectSlices(t, tt.list).kept)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestServiceKeepsWhatMatters(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		want       ClusterService
	}{
		{"ports", `"type":"ClusterIP","ports":[{"name":"https","port":443,"targetPort":"tls","protocol":"TCP"},{"name":"http","port":80,"targetPort":80},{"port":53,"protocol":"UDP"},{"port":8080,"targetPort":80,"protocol":"SCTP"}]`,
			ClusterService{Exists: true, Ports: []ServicePort{{Port{53, UDP}, "", ""}, {Port{80, TCP}, "http", "80"}, {Port{443, TCP}, "https", "tls"}, {Port{8080, SCTP}, "", "80"}}}},
		{"a target of 0 is absent", `"ports":[{"port":80,"targetPort":0}]`, ClusterService{Exists: true, Ports: []ServicePort{{Port: Port{80, TCP}}}}},
		{"no target", `"ports":[{"port":80,"targetPort":null}]`, ClusterService{Exists: true, Ports: []ServicePort{{Port: Port{80, TCP}}}}},
		{"what is no port", `"ports":[{"port":0},{"port":65536},{"port":-1},{"port":80,"protocol":"ICMP"}]`, ClusterService{Exists: true}},
		{"a name elsewhere", `"type":"ExternalName","externalName":"db.example.org"`, ClusterService{Exists: true, External: true}},
		{"long names", fmt.Sprintf(`"ports":[{"port":80,"name":%q,"targetPort":%[1]q}]`, strings.Repeat("x", 100_000)),
			ClusterService{Exists: true, Ports: []ServicePort{{Port{80, TCP}, shorten(strings.Repeat("x", 100), maxServicePortName), shorten(strings.Repeat("x", 100), maxServicePortName)}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := edgeService.collect()
			item := `{"metadata":{"name":"edge","namespace":"web"},"spec":{` + tt.spec + `}}`
			other := strings.Replace(item, `"edge"`, `"other"`, 1) // of a server that ignores field selectors
			if _, err := decodePage(strings.NewReader(`{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[`+item+`,`+other+`]}`), c); err != nil {
				t.Fatal(err)
			}
			c.complete()
			if diff := cmp.Diff(tt.want, c.(*serviceCollection).kept); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, bad := range []string{`{"ports":[{"port":"80"}]}`, `{"ports":[{"port":80,"targetPort":[]}]}`, `{"ports":[{"port":80,"targetPort":1.5}]}`, `{"ports":{}}`} {
		list := `{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"edge","namespace":"web"},"spec":` + bad + `}]}`
		if _, err := decodePage(strings.NewReader(list), edgeService.collect()); !malformed(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A Service that loses ports, or is gone, lacks them.
func TestServiceMissing(t *testing.T) {
	before := newCluster()
	before.Services[edgeService] = ClusterService{Exists: true, Ports: []ServicePort{{Port{80, TCP}, "http", ""}, {Port{443, TCP}, "https", ""}}}
	for _, tt := range []struct {
		name string
		now  ClusterService
		want loss
	}{
		{"the same", before.Services[edgeService], loss{0, 2, false}},
		{"another name and target", ClusterService{Exists: true, Ports: []ServicePort{{Port{80, TCP}, "web", "80"}, {Port{443, TCP}, "", ""}}}, loss{0, 2, false}},
		{"another protocol", ClusterService{Exists: true, Ports: []ServicePort{{Port{80, UDP}, "http", ""}}}, loss{2, 2, false}},
		{"gone", ClusterService{}, loss{2, 2, true}},
	} {
		c := &serviceCollection{edgeService, tt.now}
		if got := c.missing(before); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// What follows from events does not depend on their order, and is what a list of the same
// slices has. Pods that have not changed stay the same pointers.
func TestSliceEventsAreTheList(t *testing.T) {
	seeds := int64(300)
	if testing.Short() {
		seeds = 30
	}
	for seed := range seeds {
		random := rand.New(rand.NewSource(seed))
		slice := func(i int) testSlice {
			s := testSlice{name: fmt.Sprint("s", i), family: []string{"IPv4", "IPv6"}[i%2], ports: []string{"", `[{"port":80}]`, "null"}[random.Intn(8)/6]}
			for range random.Intn(6) {
				n := random.Intn(8)
				address := fmt.Sprintf("10.1.0.%d", 1+n)
				if i%2 == 1 {
					address = fmt.Sprintf("fd00::%d", 1+n)
				}
				name := string(rune('a' + n))
				if n == 7 {
					name = "-"
				}
				s.endpoints = append(s.endpoints, name+" "+address+[]string{"", "", " unready", " ends", " ends serves"}[random.Intn(5)])
			}
			return s
		}
		now := make(map[int]testSlice)
		c := collectSlices(t, sliceList())
		for range 40 {
			i := random.Intn(5)
			was := c.kept
			if _, there := now[i]; there && random.Intn(4) == 0 {
				now[i].event(t, c, eventDeleted)
				delete(now, i)
			} else {
				now[i] = slice(i)
				now[i].event(t, c, eventModified)
			}
			for before, after := range merged(was, c.kept, comparePodRefs) {
				if before != nil && after != nil && *before != *after && samePod(*before, *after) {
					t.Fatalf("seed %d: pod %s is another pointer, and nothing of it differs", seed, (*before).Name)
				}
			}
			var all []testSlice
			for i := range 5 {
				if s, there := now[i]; there {
					all = append(all, s)
				}
			}
			random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			list := collectSlices(t, sliceList(all...))
			if diff := cmp.Diff(list.kept, c.kept, exactly, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("seed %d (-list +events):\n%s", seed, diff)
			}
			if c.len() != list.len() {
				t.Fatalf("seed %d: %d endpoints, the list has %d", seed, c.len(), list.len())
			}
		}
	}
}

// manySlices are n endpoints in slices of a hundred, as the EndpointSlice controller
// makes them.
func manySlices(n int) []testSlice {
	all := make([]testSlice, (n+99)/100)
	for i := range n {
		s := &all[i/100]
		s.name = fmt.Sprintf("edge-%03d", i/100)
		s.endpoints = append(s.endpoints, fmt.Sprintf("pod-%04d 10.1.%d.%d", i, i/250, 1+i%250))
	}
	return all
}

// An event on one slice of thousands of endpoints takes a short time, and copies none but
// the pods that have changed.
func TestSliceEventIsQuick(t *testing.T) {
	all := manySlices(5000)
	c := collectSlices(t, sliceList(all...))
	before := c.kept
	all[20].endpoints[30] += " unready"
	took := time.Hour // the quickest: a busy machine adds to each
	for i := range 20 {
		if i > 0 {
			all[20].endpoints[30] += []string{" ends", " serves"}[i%2]
		}
		began := time.Now()
		all[20].event(t, c, eventModified)
		took = min(took, time.Since(began))
	}
	if took > 50*time.Millisecond {
		t.Errorf("an event takes %s", took)
	}
	changed := 0
	for was, is := range merged(before, c.kept, comparePodRefs) {
		if was == nil || is == nil || *was != *is {
			changed++
		}
	}
	pieces := make(map[*Pod]bool)
	for _, pods := range c.slices {
		for _, p := range pods {
			pieces[p] = true
		}
	}
	for _, p := range c.kept {
		if !pieces[p] {
			t.Errorf("pod %s is in memory twice", p.Name)
		}
	}
	if changed != 1 || len(c.kept) != 5000 {
		t.Errorf("of %d pods %d are not the same pointer, want 1", len(c.kept), changed)
	}
}

// Thousands of endpoints take no more memory than as many pods, also after events on all of
// their slices.
func TestSliceMemory(t *testing.T) {
	const n = 5000
	// What earlier tests leave may go meanwhile, and makes a figure too small: the most counts.
	live := func(collect func() collection) (most int64) {
		for range 3 {
			before := allocated()
			c := collect()
			most = max(most, int64(allocated())-int64(before))
			runtime.KeepAlive(c)
		}
		return most
	}
	pods := make([]testPod, n)
	for i := range pods {
		pods[i] = testPod{name: fmt.Sprintf("pod-%04d", i), version: 1}
	}
	podsJSON, all := podList("7", "", pods...), manySlices(n)
	slicesJSON := sliceList(all...)
	ofPods := live(func() collection {
		c := edgePods.collect()
		if _, err := decodePage(strings.NewReader(podsJSON), c); err != nil {
			t.Fatal(err)
		}
		c.complete()
		return c
	})
	ofEndpoints := live(func() collection {
		c := collectSlices(t, slicesJSON)
		for _, ends := range []string{" unready", ""} {
			for _, s := range all {
				changed := slices.Clone(s.endpoints)
				changed[7] += ends
				testSlice{name: s.name, endpoints: changed}.event(t, c, eventModified)
			}
		}
		return c
	})
	t.Logf("%d pods take %d KiB, as many endpoints %d KiB", n, ofPods>>10, ofEndpoints>>10)
	if ofEndpoints > ofPods+ofPods/10 {
		t.Errorf("%d pods take %d KiB, as many endpoints %d KiB", n, ofPods>>10, ofEndpoints>>10)
	}
}

// A slice is bounded as the API bounds it, and all slices together as all lists are.
func TestSliceBounds(t *testing.T) {
	many := testSlice{name: "s", endpoints: slices.Repeat([]string{"a 10.1.0.1"}, maxSliceEndpoints)}
	if c := collectSlices(t, sliceList(many)); len(c.kept) != 1 {
		t.Errorf("%d pods", len(c.kept))
	}
	many.endpoints = append(many.endpoints, "b 10.1.0.2")
	c := edgeEndpoints.collect()
	if _, err := decodePage(strings.NewReader(sliceList(many)), c); !malformed(err) || !strings.Contains(err.Error(), "more than 1000 endpoints") {
		t.Error(err)
	}
	message := `{"type":"ADDED","object":` + many.json() + `}`
	if _, err := newEventDecoder(strings.NewReader(message), sliceKind).next(); !malformed(err) {
		t.Error(err)
	}
	l := edgeEndpoints.collect().(*sliceCollection)
	l.pieces = maxObjects
	if _, err := decodePage(strings.NewReader(sliceList(testSlice{name: "s", endpoints: []string{"a 10.1.0.1"}})), l); err != errTooMany && !strings.Contains(fmt.Sprint(err), errTooMany.Error()) {
		t.Error(err)
	}
	// Empty slices take no room.
	l = collectSlices(t, sliceList())
	for i := range 1000 {
		testSlice{name: fmt.Sprint("s", i)}.event(t, l, eventAdded)
	}
	if len(l.slices) != 0 {
		t.Errorf("%d empty slices are kept", len(l.slices))
	}
}

// The streams of a Service, and what a snapshot and a cluster file have of it.
func TestServiceSources(t *testing.T) {
	q := ClusterQuery{Pods: []PodQuery{edgeEndpoints, edgePods}, Services: []ServiceName{edgeService}}
	var names []string
	for _, key := range allKeys(&q) {
		names = append(names, key.String())
	}
	want := []string{"pods " + edgePods.scope().String(), "endpointslices web kubernetes.io/service-name=edge", "service web/edge"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("streams (-want +got):\n%s", diff)
	}
	if g := sliceKind.group(); g != "discovery.k8s.io" || serviceKind.group() != "" {
		t.Errorf("groups %q and %q", g, serviceKind.group())
	}

	const service = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"edge","namespace":"web"},"spec":{"ports":[{"name":"http","port":80,"targetPort":"http"}],"type":"ClusterIP"},"status":{"loadBalancer":{}}}`
	knative := `{"apiVersion":"serving.knative.dev/v1","kind":"Service","metadata":{"name":"edge","namespace":"web"},"spec":7}`
	items := []string{testSlice{name: "s", endpoints: []string{"a 10.1.0.1", "b 10.1.0.2 ends"}}.json(), service, knative, testPod{name: "p", version: 1}.json()}
	items[3] = strings.Replace(items[3], "{", `{"apiVersion":"v1","kind":"Pod",`, 1)
	file := `{"kind":"List","apiVersion":"v1","items":[` + strings.Join(items, ",") + `]}`
	answers, passed, err := decodeClusterFile(strings.NewReader(file), allKeys(&q))
	if err != nil || passed != "Service (1)" {
		t.Fatalf("passed over %q, %v", passed, err)
	}
	c := newCluster()
	for _, a := range answers {
		a.store(c)
	}
	const ports = " http=80/tcp https=443/tcp"
	if diff := cmp.Diff("web/a node-a [10.1.0.1]"+ports+"\nweb/b node-b [10.1.0.2]"+ports+" terminating not ready", summary(c.Pods[edgeEndpoints])); diff != "" {
		t.Errorf("endpoints of the file (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(ClusterService{Exists: true, Ports: []ServicePort{{Port{80, TCP}, "http", "http"}}}, c.Services[edgeService]); diff != "" {
		t.Errorf("the Service of the file (-want +got):\n%s", diff)
	}
	if len(c.Pods[edgePods]) != 1 {
		t.Errorf("%d pods of the file", len(c.Pods[edgePods]))
	}
	if _, passed, err := decodeClusterFile(strings.NewReader(strings.Replace(file, `"spec":{"ports":[{`, `"spec":{"ports":7,"x":[{`, 1)), []streamKey{{edgePods}}); err != nil || passed != "EndpointSlice (1), Service (2)" {
		t.Errorf("where no VIP names a Service: passed over %q, %v", passed, err)
	}

	var text bytes.Buffer
	if err := writeSnapshot(&text, c, "here", testTime); err != nil {
		t.Fatal(err)
	}
	again, _, err := readSnapshot(bytes.NewReader(text.Bytes()))
	if err != nil {
		t.Fatalf("%v\n%s", err, text.Bytes())
	}
	if diff := cmp.Diff(c, again, exactly); diff != "" {
		t.Errorf("snapshot (-written +read):\n%s", diff)
	}
	// A list of pods with the same labels confirms nothing about a Service.
	served := newCluster()
	if (PodQuery{Namespace: "web", Selector: edgeEndpoints.Selector}).copyServed(served, c) {
		t.Error("endpoints are taken for pods")
	}
}

// A Service or a slice that is the last document of a YAML file, and cut short, is refused.
func TestServiceFilesCutShort(t *testing.T) {
	for kind, doc := range map[string]string{
		"Service":       "apiVersion: v1\nkind: Service\nmetadata:\n  name: edge\n  namespace: web\nspec:\n  type: ClusterIP\n",
		"EndpointSlice": "addressType: IPv4\napiVersion: discovery.k8s.io/v1\nendpoints: []\nkind: EndpointSlice\nmetadata:\n  labels:\n    kubernetes.io/service-name: edge\n  name: edge-1\n  namespace: web\nports: []\n",
	} {
		keys := []streamKey{{edgeEndpoints}, {edgeService}}
		if _, _, err := decodeClusterFile(strings.NewReader(doc), keys); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		cut := doc[:strings.LastIndex(strings.TrimSpace(doc), "\n")+1]
		if got, _, err := decodeClusterFile(strings.NewReader(cut), keys); err == nil || !strings.Contains(err.Error(), "cut short") {
			t.Errorf("%s cut short is taken as %+v, %v", kind, got, err)
		}
	}
}

// FuzzSliceEvents looks for events of EndpointSlices after which what is kept is not what
// the slices say.
func FuzzSliceEvents(f *testing.F) {
	event := func(kind string, s testSlice) string { return fmt.Sprintf(`{"type":%q,"object":%s}`, kind, s.json()) }
	a := testSlice{name: "s", endpoints: []string{"a 10.1.0.1", "- 10.1.0.2 ends serves"}}
	b := testSlice{name: "t", family: "IPv6", endpoints: []string{"a fd00::1 unready"}}
	f.Add([]byte(event(eventAdded, a) + event(eventModified, b) + event(eventDeleted, a)))
	f.Add([]byte(event(eventAdded, testSlice{name: "s", family: "FQDN", endpoints: []string{"- a.example.org"}, ports: `[{"port":null},{"name":"x","port":9,"protocol":"UDP"}]`})))
	f.Add([]byte(event(eventAdded, a) + strings.Replace(event(eventAdded, b), "uid-a", "uid-b", 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		defer bounded(t, len(data))()
		c := edgeEndpoints.collect().(*sliceCollection)
		c.complete()
		d := newEventDecoder(bytes.NewReader(data), sliceKind)
		for {
			e, err := d.next()
			if err != nil {
				return
			}
			if e.kind == eventError || e.kind == eventBookmark {
				continue
			}
			c.apply(e.object, e.kind == eventDeleted)
			checkContent(t, c.kept)
			whole := &sliceCollection{query: c.query, slices: c.slices, pieces: c.pieces}
			whole.complete()
			if !slices.EqualFunc(whole.kept, c.kept, samePod) {
				t.Errorf("kept\n%s\nthe slices say\n%s", summary(c.kept), summary(whole.kept))
			}
		}
	})
}

// Each field of a pod makes it another one.
func TestSamePod(t *testing.T) {
	for i := range reflect.TypeFor[Pod]().NumField() {
		var a, b Pod
		switch f := reflect.ValueOf(&b).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int:
			f.SetInt(1)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		default:
			t.Fatalf("no value for %s", reflect.TypeFor[Pod]().Field(i).Name)
		}
		if samePod(&a, &b) || !samePod(&a, &Pod{}) {
			t.Errorf("%s does not count", reflect.TypeFor[Pod]().Field(i).Name)
		}
	}
}
