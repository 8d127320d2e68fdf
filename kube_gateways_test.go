// Tests of Gateways and ListenerSets as kinds that streams follow.

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// noGateways and noListenerSets are what a cluster has of those that are not asked for.
var (
	noGateways     = map[GatewayQuery][]*Gateway{}
	noListenerSets = map[ListenerSetQuery][]*Gateway{}
)

var webGateway = GatewayQuery{Namespace: "edge", Name: "web"}

// testGateway is a Gateway, or with a parent a ListenerSet, in short.
type testGateway struct {
	name       string // of namespace edge; default "web"
	version    int
	generation int64 // default 1
	seen       int64 // generation that the status of the whole is about; default generation
	class      string
	parent     string
	refused    string // the reason why the whole is not accepted
	leaving    bool
	listeners  []string // "NAME:PROTOCOL:PORT:STATUS", with a status as statusOf has it
}

// statusOf are the conditions in short, each with "@N" behind it when it is about
// generation N: "ok", "no" (not accepted), "off" (accepted and not programmed), "half" (it
// says Accepted alone), and "" for a listener without a status.
var statusOf = map[string][]string{"ok": {"Accepted=True", "Programmed=True"}, "no": {"Accepted=False", "Programmed=False"},
	"off": {"Accepted=True", "Programmed=Unknown"}, "half": {"Accepted=True"}}

func (g testGateway) json() string {
	generation := max(g.generation, 1)
	conditions := func(status string) (all []any) {
		status, about, found := strings.Cut(status, "@")
		var n int64
		fmt.Sscan(about, &n)
		for _, c := range statusOf[status] {
			kind, value, _ := strings.Cut(c, "=")
			is := map[string]any{"type": kind, "status": value, "reason": "Because", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}
			if found {
				is["observedGeneration"] = n
			}
			all = append(all, is)
		}
		return all
	}
	kind, name := "Gateway", g.name
	if name == "" {
		name = "web"
	}
	meta := map[string]any{"name": name, "namespace": "edge", "uid": "uid-" + name, "resourceVersion": fmt.Sprint(max(g.version, 1)), "generation": generation}
	if g.leaving {
		meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
	}
	spec := map[string]any{"gatewayClassName": g.class}
	if g.parent != "" {
		kind = "ListenerSet"
		spec = map[string]any{"parentRef": map[string]any{"name": g.parent}}
	}
	about := g.seen
	if about == 0 {
		about = generation
	}
	// The Gateway itself has no address yet.
	whole := append(conditions("half@"+fmt.Sprint(about)), map[string]any{"type": "Programmed", "status": "False", "reason": "AddressNotAssigned", "observedGeneration": about})
	if g.refused != "" {
		whole[0] = map[string]any{"type": "Accepted", "status": "False", "reason": g.refused, "observedGeneration": about}
	}
	var listeners, states []any
	for _, l := range g.listeners {
		f := strings.Split(l, ":")
		var port int
		fmt.Sscan(f[2], &port)
		listeners = append(listeners, map[string]any{"name": f[0], "protocol": f[1], "port": port, "allowedRoutes": map[string]any{}})
		if f[3] != "" {
			states = append(states, map[string]any{"name": f[0], "attachedRoutes": 1, "supportedKinds": []any{}, "conditions": conditions(f[3])})
		}
	}
	spec["listeners"] = listeners
	b, err := json.Marshal(map[string]any{"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": meta, "spec": spec,
		"status": map[string]any{"conditions": whole, "listeners": states}})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func gatewayEvent(kind string, g testGateway) string {
	return `{"type":"` + kind + `","object":` + g.json() + "}\n"
}

// gatewaysList is a list of Gateways or of ListenerSets.
func gatewaysList(kind string, version int, all ...testGateway) string {
	var items []string
	for _, g := range all {
		items = append(items, g.json())
	}
	return fmt.Sprintf(`{"kind":%q,"apiVersion":"gateway.networking.k8s.io/v1","metadata":{"resourceVersion":"%d"},"items":[%s]}`, kind, version, strings.Join(items, ","))
}

// openOf are the open ports of gateways and why the others are closed, in short.
func openOf(gateways []*Gateway) string {
	var all []string
	for _, g := range gateways {
		for i := range g.Listeners {
			l := &g.Listeners[i]
			switch {
			case l.opens():
				all = append(all, l.Port.String())
			case l.Other != "":
				all = append(all, l.Name+" has protocol "+l.Other)
			default:
				all = append(all, l.Name+" "+l.Closed)
			}
		}
	}
	return strings.Join(all, ", ")
}

// Each status of a listener, alone and after what was known before.
func TestGatewayConditions(t *testing.T) {
	gw := func(generation int64, listeners ...string) testGateway {
		return testGateway{generation: generation, seen: 1, listeners: listeners}
	}
	seen := func(g testGateway, generation int64) testGateway { g.seen = generation; return g }
	another := func(g testGateway) string { return strings.ReplaceAll(g.json(), "uid-web", "uid-other") }
	ok := gw(1, "a:HTTP:80:ok@1")
	for _, test := range []struct {
		name   string
		before *testGateway
		object string
		want   string
	}{
		{"all protocols", nil, gw(1, "a:HTTP:80:ok@1", "b:HTTPS:443:ok@1", "c:TLS:8443:ok@1", "d:TCP:1:ok@1", "e:UDP:53:ok@1", "f:example.org/QUIC:444:ok@1").json(),
			"80/tcp, 443/tcp, 8443/tcp, 1/tcp, 53/udp, f has protocol example.org/QUIC"},
		{"a status without generations", nil, gw(3, "a:HTTP:80:ok", "b:HTTP:81:no").json(), "80/tcp, b is not accepted (Because)"},
		{"not accepted, not programmed", nil, gw(1, "a:HTTP:80:no@1", "b:HTTP:81:off@1").json(), "a is not accepted (Because), b is not programmed (Because)"},
		{"the Gateway says what the listener does not", nil, gw(1, "a:HTTP:80:half@1").json(), "a is not programmed (AddressNotAssigned)"},
		{"no status", nil, gw(1, "a:HTTP:80:").json(), "a has no status yet"},
		{"no conditions at all", nil, `{"metadata":{"name":"web","namespace":"edge"},"spec":{"listeners":[{"name":"a","port":80,"protocol":"HTTP"}]},"status":{"listeners":[{"name":"a"}]}}`, "a is not accepted"},
		{"no spec", nil, `{"metadata":{"name":"web","namespace":"edge"}}`, ""},
		{"no port, no protocol", nil, gw(1, "a:HTTP:0:ok@1", "b:HTTP:65536:ok@1", "c::80:ok@1", "d:HTTP:-1:ok@1").json(),
			"a has no port from 1 to 65535, b has no port from 1 to 65535, c has no protocol, d has no port from 1 to 65535"},
		{"being deleted", nil, testGateway{leaving: true, listeners: []string{"a:HTTP:80:ok@1"}}.json(), "a is being deleted"},

		{"not accepted as a whole", &ok, testGateway{refused: "NotAllowed", listeners: []string{"a:HTTP:80:ok@1"}}.json(), "a is of a Gateway or ListenerSet that is not accepted (NotAllowed)"},
		{"not accepted, in a status of before", &ok, testGateway{refused: "NotAllowed", generation: 2, seen: 1, listeners: []string{"a:HTTP:80:ok@2"}}.json(), "80/tcp"},
		{"other listeners are not valid", &ok, testGateway{refused: "ListenersNotValid", listeners: []string{"a:HTTP:80:ok@1", "b:HTTP:81:no@1"}}.json(), "80/tcp, b is not accepted (Because)"},

		{"an old status, and nothing known: a restart closes no port", nil, gw(2, "a:HTTP:80:ok@1", "b:HTTP:81:no@1").json(), "80/tcp, b is not accepted (Because)"},
		{"an edit that leaves the port", &ok, gw(2, "a:HTTP:80:ok@1").json(), "80/tcp"},
		{"another port: the old one serves still", &ok, gw(2, "a:HTTP:8080:ok@1").json(), "80/tcp"},
		{"another port, and seen", &ok, seen(gw(2, "a:HTTP:8080:ok@2"), 2).json(), "8080/tcp"},
		{"another port, seen, not programmed yet", &ok, seen(gw(2, "a:HTTP:8080:off@2"), 2).json(), "a is not programmed (Because)"},
		{"an old status says no", &ok, gw(2, "a:HTTP:80:no@1").json(), "80/tcp"},
		{"a new listener", &ok, gw(2, "a:HTTP:80:ok@1", "b:HTTP:81:").json(), "80/tcp, b has no status yet"},
		{"a new listener with an old status", &ok, gw(2, "a:HTTP:80:ok@1", "b:HTTP:81:ok@1").json(), "80/tcp, b " + staleText},
		{"another name for the port", &ok, gw(2, "b:HTTPS:80:").json(), "80/tcp"},
		{"another name for the port, and seen", &ok, seen(gw(2, "b:HTTPS:80:"), 2).json(), "b has no status yet"},
		{"another name and protocol", &ok, gw(2, "b:UDP:80:").json(), "b has no status yet"},
		{"a listener is removed", &ok, gw(2, "b:HTTP:81:").json(), "b has no status yet"},
		{"the status is gone", &ok, gw(1, "a:HTTP:80:").json(), "a has no status yet"},
		{"another Gateway of the same name", &ok, another(gw(2, "a:HTTP:8080:ok@1")), "8080/tcp"},
		{"deleted and old", &ok, testGateway{generation: 2, seen: 1, leaving: true, listeners: []string{"a:HTTP:80:ok@1"}}.json(), "a is being deleted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			// By an event, and by a list.
			byEvent := webGateway.collect().(*gatewayCollection)
			before := newCluster()
			if test.before != nil {
				_, err := decodePage(strings.NewReader(gatewaysList("GatewayList", 1, *test.before)), byEvent)
				if err != nil {
					t.Fatal(err)
				}
				byEvent.complete()
				byEvent.store(before)
			}
			var o gatewayObject
			if err := json.Unmarshal([]byte(test.object), &o); err != nil {
				t.Fatal(err)
			}
			byEvent.apply(&o, false)
			byList := webGateway.collect().(*gatewayCollection)
			if err := byList.add(&o); err != nil {
				t.Fatal(err)
			}
			byList.complete()
			byList.recall(before)
			for _, c := range []*gatewayCollection{byEvent, byList} {
				if got := openOf(c.kept); got != test.want {
					t.Errorf("%s, want %s", got, test.want)
				}
			}
		})
	}
}

// A ListenerSet that is moved to another Gateway opens nothing there before that Gateway's
// controller has seen it.
func TestListenerSetParents(t *testing.T) {
	parent := func(text string) string {
		var o gatewayObject
		if err := json.Unmarshal([]byte(`{"metadata":{"name":"s","namespace":"tenant"},"spec":{"parentRef":`+text+`}}`), &o); err != nil {
			t.Fatal(err)
		}
		return o.listenerSet().Parent
	}
	for text, want := range map[string]string{
		`{"name":"web"}`: "tenant/web", `{"name":"web","namespace":"edge"}`: "edge/web", `{"name":"web","namespace":""}`: "tenant/web",
		`{"name":"web","group":"gateway.networking.k8s.io","kind":"Gateway"}`: "tenant/web",
		`{"name":"web","kind":"Service"}`:                                     "", `{"name":"web","group":""}`: "", `{}`: "",
	} {
		if got := parent(text); got != want {
			t.Errorf("parentRef %s: %q, want %q", text, got, want)
		}
	}

	first := testGateway{name: "s", parent: "web", listeners: []string{"a:HTTP:80:ok@1"}}
	moved := testGateway{name: "s", parent: "vault", generation: 2, seen: 1, listeners: []string{"a:HTTP:80:ok@1", "b:HTTP:81:ok@1"}}
	refused := testGateway{name: "s", parent: "vault", generation: 2, listeners: []string{"a:HTTP:80:no@2", "b:HTTP:81:no@2"}}
	taken := testGateway{name: "s", parent: "vault", generation: 2, listeners: []string{"a:HTTP:80:ok@2", "b:HTTP:81:ok@2"}}
	nothing := testGateway{name: "s", parent: ""}
	c := ListenerSetQuery{}.collect().(*gatewayCollection)
	for i, step := range []struct {
		set          testGateway
		parent, want string
	}{
		{first, "edge/web", "80/tcp"}, {moved, "edge/web", "80/tcp, b " + staleText}, {refused, "edge/vault", "a is not accepted (Because), b is not accepted (Because)"},
		{moved, "edge/vault", "a is not accepted (Because), b is not accepted (Because)"}, {taken, "edge/vault", "80/tcp, 81/tcp"}, {nothing, "", ""}, {moved, "edge/vault", "a " + staleText + ", b " + staleText},
	} {
		var o gatewayObject
		if err := json.Unmarshal([]byte(step.set.json()), &o); err != nil {
			t.Fatal(err)
		}
		c.apply(&o, false)
		got := ""
		if len(c.kept) > 0 {
			got = c.kept[0].Parent
		}
		if text := openOf(c.kept); got != step.parent || text != step.want {
			t.Errorf("step %d: of %q: %s, want of %q: %s", i, got, text, step.parent, step.want)
		}
	}
}

// What a stream asks for, and what it makes of the answers.
func TestFollowGateways(t *testing.T) {
	const prefix = "/apis/gateway.networking.k8s.io/v1/"
	a, b := testGateway{class: "c", listeners: []string{"a:HTTP:80:ok@1"}}, testGateway{name: "b", class: "d", listeners: []string{"b:UDP:53:ok@1"}}
	bToo, aNot := b, a
	bToo.class, aNot.class = "c", "d"
	bToo.version, aNot.version = 11, 12
	later := a
	later.version, later.generation, later.listeners = 13, 2, []string{"a:HTTP:80:ok@2", "x:TCP:9000:ok@2"}
	for _, test := range []struct {
		query GatewayQuery
		name  string // of the stream
		list  string
		want  []string
	}{
		{webGateway, "gateways edge/web", "list " + prefix + "namespaces/edge/gateways fieldSelector=metadata.name=web", []string{"80/tcp", "80/tcp, 9000/tcp", ""}},
		{GatewayQuery{Selector: "a=b"}, "gateways a=b", "list " + prefix + "gateways labelSelector=a=b", []string{"53/udp, 80/tcp", "53/udp, 80/tcp, 9000/tcp", "53/udp"}},
		{GatewayQuery{Class: "c"}, "gateways class=c", "list " + prefix + "gateways", []string{"80/tcp", "53/udp, 80/tcp", "53/udp", "53/udp, 80/tcp, 9000/tcp", "53/udp"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			api := newFakeAPI(t, says(gatewaysList("GatewayList", 10, a, b)),
				says(gatewayEvent(eventModified, bToo)+gatewayEvent(eventModified, aNot)+gatewayEvent(eventModified, later)+gatewayEvent(eventDeleted, later)))
			w := newWatchTest(t)
			w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", api.kubeconfig("secret")), Gateways: []GatewayQuery{test.query}})
			w.run(t)
			<-api.exhausted
			if got := w.States(); len(got) != 1 || got[0].Name != test.name {
				t.Errorf("streams %+v, want %s", got, test.name)
			}
			w.stop()
			if got := api.seen()[0]; got != test.list {
				t.Errorf("request %q, want %q", got, test.list)
			}
			var got []string
			for _, c := range w.published {
				got = append(got, openOf(c.Gateways[test.query]))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("snapshots (-want +got):\n%s", diff)
			}
		})
	}
}

// A new list with an old status keeps the ports that a list before, or a run before, knew.
func TestGatewayListRecalls(t *testing.T) {
	known, edited := testGateway{listeners: []string{"a:HTTP:80:ok@1"}}, testGateway{generation: 2, seen: 1, listeners: []string{"a:HTTP:8080:ok@1"}}
	lists := func(g testGateway) reply { return says(gatewaysList("GatewayList", 10, g)) }
	for _, test := range []struct {
		name    string
		earlier Cluster
		script  []reply
	}{
		{"a list", Cluster{}, []reply{lists(known), refuses(410, "too old"), lists(edited)}},
		{"a run", Cluster{Gateways: map[GatewayQuery][]*Gateway{webGateway: {{UID: "uid-web", Namespace: "edge", Name: "web", Listeners: []Listener{listener("a", Port{80, TCP})}}}}}, []reply{lists(edited)}},
	} {
		api := newFakeAPI(t, test.script...)
		w := newWatchTest(t)
		w.earlier = test.earlier
		w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", api.kubeconfig("secret")), Gateways: []GatewayQuery{webGateway}})
		w.run(t)
		<-api.exhausted
		w.stop()
		for i, c := range w.published {
			if got := openOf(c.Gateways[webGateway]); got != "80/tcp" {
				t.Errorf("%s: snapshot %d has %s, want 80/tcp", test.name, i, got)
			}
		}
	}
}

// Most ports, or the Gateway itself, gone at once need a second answer.
func TestGuardOfGateways(t *testing.T) {
	three := testGateway{listeners: []string{"a:HTTP:80:ok@1", "b:HTTP:81:ok@1", "c:HTTP:82:ok@1"}}
	one := testGateway{version: 11, listeners: []string{"a:HTTP:80:ok@1", "b:HTTP:81:no@1", "c:HTTP:82:no@1"}}
	two := testGateway{version: 12, listeners: []string{"a:HTTP:80:ok@1", "b:HTTP:81:ok@1", "c:HTTP:82:no@1"}}
	leaving := testGateway{version: 13, leaving: true, listeners: three.listeners}
	lists := func(version int, all ...testGateway) reply { return says(gatewaysList("GatewayList", version, all...)) }
	event := func(kind string, g testGateway) reply { return says(gatewayEvent(kind, g)) }
	for _, test := range []struct {
		name   string
		guard  uint8
		script []reply
		want   []string
		log    string
	}{
		{"deleted", 50, []reply{lists(10, three), event(eventDeleted, three), lists(20)}, []string{"80/tcp, 81/tcp, 82/tcp", ""}, "a second answer confirms it"},
		{"deleted by mistake", 50, []reply{lists(10, three), event(eventDeleted, three), lists(20, three)}, []string{"80/tcp, 81/tcp, 82/tcp"}, "not missing any more"},
		{"most ports, by mistake", 50, []reply{lists(10, three), event(eventModified, one), lists(20, three)}, []string{"80/tcp, 81/tcp, 82/tcp"}, "gone=2 of=3"},
		{"most ports", 50, []reply{lists(10, three), event(eventModified, one), lists(20, one)},
			[]string{"80/tcp, 81/tcp, 82/tcp", "80/tcp, b is not accepted (Because), c is not accepted (Because)"}, "a second answer confirms it"},
		{"one port", 50, []reply{lists(10, three), event(eventModified, two)}, []string{"80/tcp, 81/tcp, 82/tcp", "80/tcp, 81/tcp, c is not accepted (Because)"}, ""},
		{"seen to leave", 50, []reply{lists(10, three), event(eventModified, leaving), event(eventDeleted, leaving)},
			[]string{"80/tcp, 81/tcp, 82/tcp", "a is being deleted, b is being deleted, c is being deleted", ""}, ""},
		{"no guard", 0, []reply{lists(10, three), event(eventDeleted, three)}, []string{"80/tcp, 81/tcp, 82/tcp", ""}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			api := newFakeAPI(t, test.script...)
			w := newWatchTest(t)
			w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", api.kubeconfig("secret")), Gateways: []GatewayQuery{webGateway}, Guards: map[any]uint8{webGateway: test.guard}})
			w.run(t)
			<-api.exhausted
			w.stop()
			var got []string
			for _, c := range w.published {
				got = append(got, openOf(c.Gateways[webGateway]))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("snapshots (-want +got):\n%s", diff)
			}
			if !strings.Contains(w.log(), test.log) || test.log == "" && strings.Contains(w.log(), "missing") {
				t.Errorf("log, want %q:\n%s", test.log, w.log())
			}
		})
	}
}

// What only another list can show, as after 410 or a doubtful answer, is a warning, however
// often in a row: it ends by itself.
func TestDoubtIsNoError(t *testing.T) {
	first := gatewaysList("GatewayList", 10, testGateway{listeners: []string{"a:HTTP:80:ok@1"}})
	script := []reply{says(first)}
	for range tolerated + 2 {
		script = append(script, refuses(410, "too old"), says(first), refuses(410, "too old"))
	}
	api := newFakeAPI(t, script...)
	w := newWatchTest(t)
	w.pace.repeatLog = 0 // any time is long after the last line
	w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", api.kubeconfig("secret")), Gateways: []GatewayQuery{webGateway}})
	w.run(t)
	<-api.exhausted
	w.stop()
	if log := w.log(); strings.Contains(log, "level=ERROR") || !strings.Contains(log, `level=WARN msg="cannot follow the cluster`) {
		t.Errorf("want warnings alone:\n%s", log)
	}
}

// An API server without the Gateway API changes nothing and is asked again; the log has it
// once. Without ListenerSets there are none.
func TestGatewayAPIAbsent(t *testing.T) {
	absent := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404 page not found", http.StatusNotFound) }
	gateways, sets := gatewaysList("GatewayList", 10, testGateway{listeners: []string{"a:HTTP:80:ok@1"}}),
		gatewaysList("ListenerSetList", 10, testGateway{name: "s", parent: "web", listeners: []string{"a:HTTP:81:ok@1"}})
	none := reply(absent)
	for _, test := range []struct {
		name   string
		query  ClusterQuery
		before *Cluster
		script []reply
		want   []string // snapshots
		waits  []time.Duration
		lines  map[string]int // in the log
		failed bool           // at the end
	}{
		{
			name: "Gateways, installed later", query: ClusterQuery{Gateways: []GatewayQuery{webGateway}},
			script: []reply{none, none, none, none, none, none, none, none, none, says(gateways)}, want: []string{"80/tcp"},
			waits: []time.Duration{firstWait, 2 * firstWait, 4 * firstWait, 8 * firstWait, 16 * firstWait, 32 * firstWait, 64 * firstWait, 30 * time.Second, 30 * time.Second},
			lines: map[string]int{`level=ERROR msg="cannot follow the cluster; the last known state stays in force" stream="gateways edge/web" err="the API server has no gateways of gateway.networking.k8s.io/v1: install the CRDs of the Gateway API, version 1.0 or later (server: Not Found)"`: 1,
				"level=ERROR": 1, "level=WARN": 0, "follows the cluster again": 1},
		},
		{
			name: "Gateways, after they served", query: ClusterQuery{Gateways: []GatewayQuery{webGateway}},
			script: []reply{says(gateways), says(""), none, none, none, says(gateways), says(""), none, none}, want: []string{"80/tcp"}, failed: true,
			lines: map[string]int{"level=ERROR": 2, "level=WARN": 0, "follows the cluster again": 1},
		},
		{
			name: "ListenerSets", query: ClusterQuery{ListenerSets: []ListenerSetQuery{{}}},
			script: []reply{none, none, none, none, says(sets)}, want: []string{"", "81/tcp"},
			lines: map[string]int{`level=INFO msg="the cluster does not have an optional API, and none of its objects" stream=listenersets why="the API server has no listenersets of gateway.networking.k8s.io/v1: install the CRDs of the Gateway API, version 1.5 or later (server: Not Found)"`: 1,
				"level=INFO": 2, "level=ERROR": 0, "level=WARN": 0, "follows the cluster": 1},
		},
		{
			name: "ListenerSets, after they served", query: ClusterQuery{ListenerSets: []ListenerSetQuery{{}}},
			script: []reply{says(sets), says(""), none, none, none}, want: []string{"81/tcp"}, failed: true, lines: map[string]int{"level=ERROR": 1, "optional": 0},
		},
		{
			name: "ListenerSets, which a run before has seen", query: ClusterQuery{ListenerSets: []ListenerSetQuery{{}}},
			before: &Cluster{ListenerSets: map[ListenerSetQuery][]*Gateway{{}: {{Name: "s", Listeners: []Listener{listener("a", Port{81, TCP})}}}}},
			script: []reply{none, none}, failed: true, lines: map[string]int{"level=ERROR": 1, "optional": 0},
		},
		{
			name: "a 404 for pods is another matter", query: ClusterQuery{Pods: []PodQuery{edgePods}},
			script: []reply{none, none}, failed: true, lines: map[string]int{"the API server answers 404": 1, "install": 0},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			api := newFakeAPI(t, test.script...)
			w := newWatchTest(t)
			if test.before != nil {
				w.earlier = *test.before
			}
			if len(test.query.Pods) == 0 {
				w.pace.repeatLog = 0 // any time is long after the last line
			}
			test.query.Kubeconfig = w.write(t, "kubeconfig", api.kubeconfig("secret"))
			w.queries.Set(&test.query)
			w.run(t)
			<-api.exhausted
			until(t, "the state", func() bool { return (w.States()[0].LastError != "") == test.failed && w.current() != test.failed })
			w.stop()
			var got []string
			for _, c := range w.published {
				got = append(got, openOf(slices.Concat(c.Gateways[webGateway], c.ListenerSets[ListenerSetQuery{}])))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("snapshots (-want +got):\n%s", diff)
			}
			if len(test.waits) > 0 {
				if diff := cmp.Diff(test.waits, w.waits[:min(len(test.waits), len(w.waits))]); diff != "" {
					t.Errorf("waits (-want +got):\n%s", diff)
				}
			}
			for text, n := range test.lines {
				if strings.Count(w.log(), text) != n {
					t.Errorf("%d lines have %q, want %d:\n%s", strings.Count(w.log(), text), text, n, w.log())
				}
			}
		})
	}
}

// What a Gateway's writer may not make large: what is kept of it.
func TestGatewayIsBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	g := testGateway{}
	for i := range 1000 {
		g.listeners = append(g.listeners, fmt.Sprintf("%s:%s:%d:no@1", long[:1000+i], long[:2000], 1+i))
	}
	c := webGateway.collect().(*gatewayCollection)
	if _, err := decodePage(strings.NewReader(gatewaysList("GatewayList", 1, g)), c); err != nil {
		t.Fatal(err)
	}
	c.complete()
	kept := c.kept[0]
	if text, err := json.Marshal(kept); err != nil || len(kept.Listeners) != maxListeners || kept.More != 1000-maxListeners || len(text) > maxListeners*(4*quotedText+300) {
		t.Errorf("%d listeners and %d more, %d bytes, %v", len(kept.Listeners), kept.More, len(text), err)
	}
	reason := strings.Replace(testGateway{listeners: []string{"a:HTTP:80:no@1"}}.json(), `"Because"`, `"`+long+`\u001b\n"`, -1)
	var o gatewayObject
	if err := json.Unmarshal([]byte(reason), &o); err != nil {
		t.Fatal(err)
	}
	if why := o.gateway().Listeners[0].Closed; len(why) > quotedText+40 || strings.ContainsAny(why, "\n\x1b") {
		t.Errorf("%d bytes: %q", len(why), why)
	}
}

// What is known of Gateways survives a restart.
func TestGatewaysInSnapshot(t *testing.T) {
	answers, _, err := decodeClusterFile(strings.NewReader(envoyGateway+"---\n"+tenantSet), gatewayKeysOfFile)
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster()
	for _, a := range answers {
		a.store(c)
	}
	var file strings.Builder
	if err := writeSnapshot(&file, c, "x", time.Unix(1700000000, 0)); err != nil {
		t.Fatal(err)
	}
	got, _, err := readSnapshot(strings.NewReader(file.String()))
	if err != nil {
		t.Fatal(err)
	}
	c.Gateways[GatewayQuery{Class: "istio"}] = []*Gateway{} // and not nil
	if diff := cmp.Diff(c, got); diff != "" {
		t.Errorf("cluster (-want +got):\n%s", diff)
	}
}

// FuzzGateways looks for bytes that crash the decoder, or that open a port against the
// rules, and for lists out of order.
func FuzzGateways(f *testing.F) {
	for _, g := range []testGateway{{listeners: []string{"a:HTTP:80:ok@1", "b:UDP:53:off@1", "c:QUIC:1:"}}, {leaving: true, generation: 7, seen: 3, listeners: []string{"a:TLS:443:ok@3"}}} {
		f.Add(gatewaysList("GatewayList", 1, g), gatewayEvent(eventModified, g), uint8(0))
		f.Add(gatewaysList("GatewayList", 1), gatewayEvent(eventAdded, g)+gatewayEvent(eventDeleted, g), uint8(1))
		g.name, g.parent = "s", "web"
		f.Add(gatewaysList("ListenerSetList", 1, g), gatewayEvent(eventAdded, g), uint8(2))
	}
	queries := []streamQuery{webGateway, GatewayQuery{Class: "c"}, ListenerSetQuery{}}
	f.Fuzz(func(t *testing.T, list, events string, which uint8) {
		defer bounded(t, len(list)+len(events))()
		c := queries[int(which)%len(queries)].collect()
		check := func() {
			known := newCluster()
			c.store(known)
			var all []*Gateway
			for _, l := range known.Gateways {
				all = append(all, l...)
			}
			all = append(all, known.ListenerSets[ListenerSetQuery{}]...)
			for i, g := range all {
				if g.Name == "" || len(g.Listeners) > maxListeners || i > 0 && compareGateways(all[i-1], g) >= 0 {
					t.Errorf("%d: %+v", i, g)
				}
				for _, l := range g.Listeners {
					if l.opens() && (l.Port.Number == 0 || l.Port.Protocol != TCP && l.Port.Protocol != UDP || g.Leaving) || len(l.Closed) > 1000 || len(l.Name) > 4*quotedText+3 {
						t.Errorf("%+v of %+v", l, g)
					}
				}
			}
		}
		if _, err := decodePage(strings.NewReader(list), c); err != nil {
			return
		}
		c.complete()
		check()
		d := newEventDecoder(strings.NewReader(events), c.kind())
		for e, err := d.next(); err == nil; e, err = d.next() {
			if e.kind != eventError && e.kind != eventBookmark {
				c.apply(e.object, e.kind == eventDeleted)
				check()
			}
		}
	})
}
