// Faults at every request to the API server, and at every event of a watch.

package main

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// apiLife is what one stream sees of the server: the objects at the beginning, and what
// changes while it is watched. An event has the resource version of its place, from
// apiFirst on.
type apiLife struct {
	kind   string
	pages  [][]string // of the first list, as JSON
	events []string   // whole events
	states []string   // what is to be known, at the beginning and after each event
}

const apiFirst = 10

// apiLives are those of the pods and of the ConfigMap.
func apiLives() map[string]*apiLife {
	object := func(name string, n int) string { return testPod{name: name, version: n}.json() }
	event := func(kind, object string) string { return fmt.Sprintf(`{"type":%q,"object":%s}`+"\n", kind, object) }
	entries := func(n int, data string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":%q,"uid":"u","resourceVersion":"%d"},"data":{%s}}`, tcpMap.Name, tcpMap.Namespace, n, data)
	}
	return map[string]*apiLife{
		"pods": {
			kind:  "Pod",
			pages: [][]string{{object("a", 1), object("b", 2)}, {object("c", 3), object("d", 4)}},
			events: []string{
				event("ADDED", object("e", 11)), bookmark("12"), event("DELETED", object("b", 13)),
				event("ADDED", object("f", 14)), event("DELETED", object("a", 15)),
			},
			states: []string{"a b c d", "a b c d e", "a b c d e", "a c d e", "a c d e f", "c d e f"},
		},
		"configmaps": {
			kind:   "ConfigMap",
			pages:  [][]string{{entries(3, `"9000":"a/b:1"`)}},
			events: []string{event("MODIFIED", entries(11, `"9000":"a/b:1","9001":"a/b:1"`)), event("MODIFIED", entries(12, `"9001":"a/b:1"`))},
			states: []string{"9000", "9000 9001", "9001"},
		},
	}
}

// apiFault is what goes wrong with one answer. Of bytes, some go out.
type apiFault struct {
	name   string
	status int    // an error of the server; in a watch that is open, an event says it
	body   string // in place of the answer, with status 200
	whole  bool   // the cut answer ends as a whole one does
	part   int    // of what is to be sent, in percent; -1: not even a header
	header bool   // a part of the header goes out, and no more
	reset  bool   // the connection is reset, and not closed
	refuse bool   // new connections are refused for a moment, too
	tls    bool   // the end is one of TLS: a close_notify
}

// apiFaults are all of them.
func apiFaults() []apiFault {
	all := []apiFault{
		{name: "a page of a proxy", body: "<html><body>Welcome</body></html>"},
		{name: "an empty body", body: " "},
		{name: "another JSON", body: `["a"]`},
		{name: "connection refused", part: -1, reset: true, refuse: true},
		{name: "reset before the header", part: -1, reset: true},
		{name: "closed before the header", part: -1},
		{name: "TLS closed before the header", part: -1, tls: true},
		{name: "reset in the header", header: true, reset: true},
		{name: "closed in the header", header: true},
		{name: "TLS closed in the header", header: true, tls: true},
		{name: "reset in the middle", part: 50, reset: true},
		{name: "closed in the middle", part: 50},
		{name: "TLS closed in the middle", part: 50, tls: true},
		{name: "it ends in the middle", part: 50, whole: true},
		{name: "reset at the end", part: 100, reset: true},
	}
	for _, code := range []int{400, 401, 403, 404, 408, 409, 410, 429, 500, 502, 503, 504} {
		all = append(all, apiFault{name: fmt.Sprint(code), status: code})
	}
	return all
}

// apiPlan says which answers a fault strikes.
type apiPlan struct {
	label  string // of the answers
	nth    int    // the first of them
	times  int    // how many in a row
	fault  *apiFault
	met    map[string]int
	struck int
}

// faultyAPI is an API server whose answers fail by a plan.
type faultyAPI struct {
	*httptest.Server
	gate  *gate
	lives map[string]*apiLife

	mu   sync.Mutex
	plan apiPlan
	now  map[string]int // how many events have happened
	idle map[string]int // watches that have nothing more to say
}

// gate is a listener that can be closed for a moment.
type gate struct {
	addr    net.Addr
	mu      sync.Mutex
	now     net.Listener
	ended   bool
	changed *sync.Cond
}

func (g *gate) Addr() net.Addr { return g.addr }

func (g *gate) Accept() (net.Conn, error) {
	for {
		g.mu.Lock()
		for g.now == nil && !g.ended {
			g.changed.Wait()
		}
		l := g.now
		g.mu.Unlock()
		if l == nil {
			return nil, net.ErrClosed
		}
		if c, err := l.Accept(); err == nil {
			return c, nil
		}
	}
}

func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	if g.now != nil {
		g.now.Close()
		g.now = nil
	}
	g.changed.Broadcast()
	return nil
}

// refuse closes the gate for d.
func (g *gate) refuse(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now == nil {
		return
	}
	g.now.Close()
	g.now = nil
	time.AfterFunc(d, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.ended {
			return
		}
		l, err := net.Listen("tcp", g.addr.String())
		if err != nil {
			panic(err)
		}
		g.now = l
		g.changed.Broadcast()
	})
}

func newFaultyAPI(plan apiPlan) *faultyAPI {
	api := &faultyAPI{lives: apiLives(), plan: plan, now: map[string]int{}, idle: map[string]int{}}
	api.plan.met = map[string]int{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	api.gate = &gate{addr: l.Addr(), now: l}
	api.gate.changed = sync.NewCond(&api.gate.mu)
	api.Server = httptest.NewUnstartedServer(api)
	api.Server.Listener.Close()
	api.Server.Listener = api.gate
	api.StartTLS()
	return api
}

// meet returns the fault that strikes an answer, nil for none.
func (api *faultyAPI) meet(label string) *apiFault {
	api.mu.Lock()
	defer api.mu.Unlock()
	api.plan.met[label]++
	if api.plan.fault == nil || label != api.plan.label || api.plan.met[label] < api.plan.nth || api.plan.struck == api.plan.times {
		return nil
	}
	api.plan.struck++
	return api.plan.fault
}

func (api *faultyAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := "pods"
	if strings.HasSuffix(r.URL.Path, "configmaps") {
		resource = "configmaps"
	}
	q := r.URL.Query()
	if q.Get("watch") != "" {
		api.watch(w, r, resource)
		return
	}
	life := api.lives[resource]
	page := 0
	fmt.Sscanf(q.Get("continue"), "%d", &page)
	api.mu.Lock()
	now := api.now[resource]
	api.mu.Unlock()
	items, token := life.pages[page], ""
	if now > 0 {
		items = life.objects(now) // on one page
	} else if page+1 < len(life.pages) {
		token = fmt.Sprint(page + 1)
	}
	body := fmt.Sprintf(`{"kind":"%sList","apiVersion":"v1","metadata":{"resourceVersion":"%d","continue":%q},"items":[%s]}`,
		life.kind, apiFirst+now, token, strings.Join(items, ","))
	f := api.meet(fmt.Sprintf("%s list %d", resource, page))
	switch {
	case f == nil:
		says(body)(w, r)
	case f.status != 0:
		refuses(f.status, "a fault")(w, r)
	case f.body != "":
		says(f.body)(w, r)
	default:
		api.cut(w, f, body)
	}
}

// objects are those after n events.
func (l *apiLife) objects(n int) (items []string) {
	var names []string
	all := map[string]string{}
	add := func(object string) {
		var m struct{ Metadata struct{ Name string } }
		must(json.Unmarshal([]byte(object), &m))
		if all[m.Metadata.Name] == "" {
			names = append(names, m.Metadata.Name)
		}
		all[m.Metadata.Name] = object
	}
	for _, page := range l.pages {
		for _, object := range page {
			add(object)
		}
	}
	for _, text := range l.events[:n] {
		var e struct {
			Type   string
			Object json.RawMessage
		}
		must(json.Unmarshal([]byte(text), &e))
		switch e.Type {
		case "ADDED", "MODIFIED":
			add(string(e.Object))
		case "DELETED":
			var m struct{ Metadata struct{ Name string } }
			must(json.Unmarshal(e.Object, &m))
			names = slices.DeleteFunc(names, func(name string) bool { return name == m.Metadata.Name })
		}
	}
	for _, name := range names {
		items = append(items, all[name])
	}
	return items
}

// watch sends the events after the version that is asked for. The first watch that has
// sent the last one ends, as when its time is over.
func (api *faultyAPI) watch(w http.ResponseWriter, r *http.Request, resource string) {
	life := api.lives[resource]
	version := 0
	fmt.Sscanf(r.URL.Query().Get("resourceVersion"), "%d", &version)
	f := api.meet(resource + " watch")
	switch {
	case f == nil:
	case f.status != 0:
		refuses(f.status, "a fault")(w, r)
		return
	case f.body != "":
		says(f.body)(w, r)
		return
	default:
		api.cut(w, f, life.events[0])
		return
	}
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	from := version - apiFirst
	for i := from; i < len(life.events); i++ {
		api.mu.Lock()
		api.now[resource] = max(api.now[resource], i+1)
		api.mu.Unlock()
		switch f := api.meet(fmt.Sprintf("%s event %d", resource, i)); {
		case f == nil:
			io.WriteString(w, life.events[i])
			w.(http.Flusher).Flush()
		case f.status != 0:
			io.WriteString(w, tellsError(f.status))
			return
		case f.body != "":
			io.WriteString(w, f.body)
			return
		default:
			api.end(w, f, life.events[i])
			return
		}
	}
	if from < len(life.events) {
		return
	}
	api.mu.Lock()
	api.idle[resource]++
	api.mu.Unlock()
	<-r.Context().Done()
	api.mu.Lock()
	api.idle[resource]--
	api.mu.Unlock()
}

// cut answers with a part of body.
func (api *faultyAPI) cut(w http.ResponseWriter, f *apiFault, body string) {
	if f.part > 0 && !f.whole {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)+1)) // it is not there to the end
	}
	api.end(w, f, body)
}

// end sends a part of more, and ends the connection as f has it.
func (api *faultyAPI) end(w http.ResponseWriter, f *apiFault, more string) {
	if f.part > 0 {
		io.WriteString(w, more[:len(more)*f.part/100])
		if f.whole {
			return
		}
		w.(http.Flusher).Flush()
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if f.header {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Ty")
	}
	if f.refuse {
		api.gate.refuse(10 * time.Millisecond)
	}
	raw := conn.(*tls.Conn).NetConn()
	switch {
	case f.reset:
		raw.(*net.TCPConn).SetLinger(0)
		raw.Close()
	case f.tls:
		conn.Close()
	default:
		raw.Close()
	}
}

// text is what c knows of the two streams.
func apiText(c *Cluster) map[string]string {
	all := map[string]string{}
	if c == nil {
		return all
	}
	if pods, known := c.Pods[edgePods]; known {
		var names []string
		for _, p := range pods {
			names = append(names, p.Name)
		}
		all["pods"] = strings.Join(names, " ")
	}
	if m, known := c.ConfigMaps[tcpMap]; known {
		var ports []string
		for p := range m.Data {
			ports = append(ports, p)
		}
		slices.Sort(ports)
		all["configmaps"] = strings.Join(ports, " ")
	}
	return all
}

// run follows the server until all is known and the watches are idle. It returns what was
// answered, by label.
func (api *faultyAPI) run(t *testing.T) map[string]int {
	ca := kubeconfigFor(api.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}), "t")
	w := newWatchTest(t)
	w.queries.Set(&ClusterQuery{Kubeconfig: w.write(t, "kubeconfig", ca), Pods: []PodQuery{edgePods}, ConfigMaps: []ConfigMapName{tcpMap}})
	w.run(t)
	defer func() {
		w.stop()
		api.CloseClientConnections()
		api.Close()
	}()
	until(t, "the end", func() bool {
		api.mu.Lock()
		idle := api.idle["pods"] == 1 && api.idle["configmaps"] == 1
		api.mu.Unlock()
		text := apiText(w.out.Get())
		for resource, life := range api.lives {
			if text[resource] != life.states[len(life.states)-1] {
				return false
			}
		}
		return idle && w.current()
	})
	w.mu.Lock()
	for _, c := range w.published {
		for resource, text := range apiText(&c) {
			if !slices.Contains(api.lives[resource].states, text) {
				t.Errorf("published %s %q, which the server never had", resource, text)
			}
		}
	}
	w.mu.Unlock()
	api.checkLog(t, w.log())
	api.mu.Lock()
	defer api.mu.Unlock()
	return api.plan.met
}

// checkLog wants each fault said once, and its end.
func (api *faultyAPI) checkLog(t *testing.T, log string) {
	const fails, again = "cannot follow the cluster", "the stream follows the cluster again"
	said := map[string]bool{}
	for line := range strings.Lines(log) {
		line = passingText.ReplaceAllLiteralString(line, "")
		if strings.Contains(line, "level=INFO") && !strings.Contains(line, again) {
			continue
		}
		if said[line] {
			t.Errorf("said twice: %s", line)
		}
		said[line] = true
	}
	begins, ends := strings.Count(log, fails), strings.Count(log, again)
	if begins > 2 || (begins == 0) != (ends == 0) || ends > begins {
		t.Errorf("%d times said that it fails, and %d times that it follows again:\n%s", begins, ends, log)
	}
}

// TestAPIFaults has each fault strike each answer, once and six times. -short takes each
// eleventh.
func TestAPIFaults(t *testing.T) {
	labels := newFaultyAPI(apiPlan{}).run(t)
	stride, n, runs, answers := 1, 0, 0, 0
	if testing.Short() {
		stride = 11
	}
	faults := apiFaults()
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		answers += labels[label]
		for nth := 1; nth <= labels[label]; nth++ {
			for i := range faults {
				for _, times := range []int{1, 6} {
					if n++; n%stride != 0 {
						continue
					}
					runs++
					t.Run(fmt.Sprintf("%s %d, %s, %d", label, nth, faults[i].name, times), func(t *testing.T) {
						api := newFaultyAPI(apiPlan{label: label, nth: nth, times: times, fault: &faults[i]})
						api.run(t)
						if api.plan.struck == 0 {
							t.Error("the answer was not asked for")
						}
					})
				}
			}
		}
	}
	t.Logf("%d answers, %d faults, %d runs", answers, len(faults), runs)
}
