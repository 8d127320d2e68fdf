// The page at / and its figures: what they show, how much, and what a browser may do
// with them. test/page has the tests in a browser.

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// kernelOf is a kernel that has the loop's table, with counters that follow from the
// place of a service and of a real server.
func kernelOf(loop *reconciler) kernelObserver {
	return func(owned func(ServiceKey) bool, visit func(*KernelService)) error {
		n := uint64(0)
		for s := range loop.published.Load().Shards.all {
			n++
			if !owned(s.ServiceKey) {
				continue
			}
			k := KernelService{VirtualService: s.VirtualService, Traffic: Traffic{Connections: 1000 * n, ConnsPerSec: 10 * n, InBytesPerS: 1500 * n}}
			for i, row := range s.Servers {
				k.Servers = append(k.Servers, KernelServer{row.RealServer, Connections{Active: uint32(i + 1), Inactive: uint32(10 * (i + 1))}, Traffic{Connections: 100 * n, ConnsPerSec: n}})
			}
			visit(&k)
		}
		return nil
	}
}

// newPageServer serves the page of a director with pods.
func newPageServer(t *testing.T, vips []VIP, pods ...Pod) (*bench, *httpServer) {
	b := newBench(t, vips...)
	b.loop.cluster.Set(testCluster(nil, pods...))
	b.pass()
	s := newBenchServer(b)
	s.observe = kernelOf(b.loop)
	return b, s
}

// figures are those of /page.json.
func (s *httpServer) figures(t *testing.T, query string) (p pageState) {
	t.Helper()
	code, body := s.ask("GET", "/page.json"+query)
	if err := json.Unmarshal([]byte(body), &p); code != 200 || err != nil {
		t.Fatalf("%d %v: %s", code, err, body)
	}
	return p
}

// Services with the same real servers are one block, with the sums of their counters,
// and a real server that drains has its deadline.
func TestPageFigures(t *testing.T) {
	vip := testVIP(func(v *VIP) {
		v.Ports = []Port{{80, TCP}, {443, TCP}, {53, UDP}, {9000, TCP}, {9001, TCP}, {9002, TCP}}
	})
	on := func(p *Pod) { p.Node = "node-" + p.Name }
	b, s := newPageServer(t, []VIP{vip}, with(readyPod("a", "10.1.0.1"), on), with(readyPod("b", "10.1.0.2"), on))
	b.loop.cluster.Set(testCluster(nil, with(readyPod("a", "10.1.0.1"), on)))
	b.pass()
	got := s.figures(t, "")
	if len(got.VIPs) != 1 || len(got.VIPs[0].Blocks) != 2 || got.VIPs[0].Services != 6 || got.Load.Traffic.ConnsPerSec != 210 {
		t.Fatalf("%+v", got)
	}
	udp, tcp := got.VIPs[0].Blocks[0], got.VIPs[0].Blocks[1]
	if udp.Ports[0] != "53/udp" || len(udp.Rows) != 1 { // UDP is not drained
		t.Errorf("%+v", udp)
	}
	if diff := cmp.Diff([]string{"80/tcp", "443/tcp", "9000-9002/tcp"}, tcp.Ports); diff != "" {
		t.Error(diff)
	}
	want := []pageRow{
		{Server: "10.1.0.1", Node: "node-a", Weight: 1, State: rowServes, Why: "pod a ready", Load: Load{Connections{Active: 5, Inactive: 50}, Traffic{Connections: 2000, ConnsPerSec: 20}}},
		{Server: "10.1.0.2", Node: "node-b", Weight: 0, State: rowDrains, Why: "no pod or static entry left, draining", Until: testTime.Add(defaultDrainTimeout), Load: Load{Connections{Active: 10, Inactive: 100}, Traffic{Connections: 2000, ConnsPerSec: 20}}},
	}
	if diff := cmp.Diff(want, tcp.Rows); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if tcp.Services != 5 || tcp.Servers != 2 || tcp.InService != 1 || tcp.Load.Connections.Active != 15 {
		t.Errorf("%+v", tcp)
	}
	// The page without scripts shows the same.
	_, body := s.ask("GET", "/")
	for _, part := range []string{
		`<code>10.1.0.1</code> <small>node-a</small></th>`,
		"80/tcp, 443/tcp, 9000-9002/tcp", "1 of 2 real servers in service", "15 active, 200 new/s",
		`<code>10.1.0.2</code> <small>node-b</small></th><td><span class="dot warn">draining</span></td><td class="n">0</td><td class="n">10</td><td class="n">100</td>`,
		"no pod or static entry left, draining, until ", "leaves 5 services of edge, 10 active",
	} {
		if !strings.Contains(body, part) {
			t.Errorf("the page lacks %q:\n%s", part, body[strings.Index(body, "<main"):])
		}
	}
}

// A row has its node, and the last answers of its probes where the reason lacks them.
func TestPageProbes(t *testing.T) {
	nodes := []nodeStatus{
		{Address: addr("10.1.0.1"), Node: "node-a", Probes: []probeStatus{{Kind: "tcp", State: "up", Answer: probePassed}, {Kind: "http", State: "up", Answer: "GET /: 500"}}},
		{Address: addr("10.1.0.2"), Node: "node-b", Probes: []probeStatus{
			{Kind: "tcp", State: "down", Answer: "refused"}, {Kind: "port", Port: 80, State: "down", Answer: "no answer"}, {Kind: "port", Port: 81, State: "down", Answer: "refused"},
		}},
	}
	p := pageVIP{Blocks: []*pageBlock{{Rows: []pageRow{{}, {Why: "pod b ready, but refused"}, {}}, servers: []netip.Addr{addr("10.1.0.1"), addr("10.1.0.2"), addr("10.1.0.3")}}}}
	p.explain(nodes)
	var got []string
	for _, r := range p.Blocks[0].Rows {
		got = append(got, r.Node+": "+r.Probes)
	}
	want := []string{"node-a: tcp up, http up: GET /: 500", "node-b: tcp down, 2 ports not up, port 80: no answer", ": "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var page bytes.Buffer
	htmlWriter{&page}.rows(p.Blocks[0].Rows)
	if !strings.Contains(page.String(), `<td class="why">pod b ready, but refused; tcp down, 2 ports not up, port 80: no answer</td>`) {
		t.Errorf("the page lacks the probes: %s", &page)
	}
}

// The lists of the status are bounded on the page, and what is left off is counted.
func TestPageCutsLists(t *testing.T) {
	b, s := newPageServer(t, []VIP{testVIP()}, readyPod("a", "10.1.0.1"))
	v := *b.loop.published.Load()
	v.Health = &Health{Down: make(map[HealthKey]string)}
	for i := range pageLines + 30 {
		v.Health.Down[HealthKey{"edge", addr("10.1.0.9"), uint16(i + 1)}] = "refused"
		v.Health.Open = append(v.Health.Open, FailOpen{VIP: "edge"})
		v.Kept = append(v.Kept, workKey{VIP: "edge"})
	}
	v.Announced = []netip.Addr{addr("10.0.0.1")}
	v.Warnings = slices.Repeat([]string{"warning"}, 3*pageLines)
	b.loop.published.Store(&v)
	got := s.figures(t, "")
	if st := &got.Status; len(st.Down) != pageLines || len(st.Warnings) != pageLines || len(st.FailOpen) != pageLines || len(st.Kept) != pageLines || st.Announced != nil {
		t.Errorf("%d down, %d warnings, %d fail-open, %d kept", len(st.Down), len(st.Warnings), len(st.FailOpen), len(st.Kept))
	}
	if want := (pageLeftOff{FailOpen: 30, Kept: 30, Down: 30, Warnings: 2 * pageLines}); got.LeftOff != want {
		t.Errorf("left off: %+v, want %+v", got.LeftOff, want)
	}
	_, body := s.ask("GET", "/")
	for _, part := range []string{"Probes <small>1,030 failing targets</small>", "<li>and 930 more</li>", "<li>and 4,960 more: "} {
		if !strings.Contains(body, part) {
			t.Errorf("the page lacks %q", part)
		}
	}
	if st := b.loop.published.Load(); len(st.Warnings) != 3*pageLines {
		t.Error("the page cuts what the loop has published")
	}
}

// Other weights, reasons, schedulers and addresses are other blocks; so is a firewall mark.
func TestPageBlocks(t *testing.T) {
	row := func(weight uint32, why string) []Row {
		return []Row{{RealServer{Address: addr("10.1.0.1"), Weight: weight}, quiescedOther, why}}
	}
	var table Table
	add := func(k ServiceKey, scheduler string, rows []Row) {
		table = append(table, Service{VirtualService: VirtualService{ServiceKey: k, Scheduler: scheduler}, VIP: "edge", Servers: rows})
	}
	for i, text := range []string{"10.0.0.1:1/tcp", "10.0.0.1:2/tcp"} {
		add(service(text).ServiceKey, "rr", row(1, "x"))
		add(service(fmt.Sprintf("10.0.0.1:%d/tcp", 10+i)).ServiceKey, "rr", row(2, "x"))
	}
	add(service("10.0.0.1:20/tcp").ServiceKey, "rr", row(1, "y"))
	add(service("10.0.0.1:21/tcp").ServiceKey, "mh", row(1, "x"))
	add(service("10.0.0.2:1/tcp").ServiceKey, "rr", row(1, "x"))
	add(MarkKey(7, false), "rr", row(1, "x"))
	add(MarkKey(7, true), "rr", row(1, "x"))
	slices.SortFunc(table, compareServices)
	v := &loopState{Shards: split(table), Config: &Config{VIPs: []VIP{testVIP()}}}
	p := newPageTable(v)
	for i := range table {
		p.add(&KernelService{VirtualService: table[i].VirtualService, Servers: []KernelServer{{RealServer: table[i].Servers[0].RealServer}}})
	}
	p.finish()
	var got []string
	for _, b := range p.vips[0].Blocks {
		got = append(got, fmt.Sprintf("%s %s %d", strings.Join(b.Ports, ","), b.Scheduler, b.Services))
	}
	slices.Sort(got)
	want := []string{"1/tcp rr 1", "1/tcp,2/tcp rr 2", "10/tcp,11/tcp rr 2", "20/tcp rr 1", "21/tcp mh 1", "mark-7/ipv4 rr 1", "mark-7/ipv6 rr 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestPageShortPorts(t *testing.T) {
	for want, ports := range map[string][]Port{
		"80/tcp":                                 {{80, TCP}},
		"53/tcp 53/udp":                          {{53, UDP}, {53, TCP}},
		"1/tcp 2/tcp 4/tcp":                      {{4, TCP}, {2, TCP}, {1, TCP}},
		"1-3/tcp 2/udp 3/udp":                    {{1, TCP}, {2, TCP}, {2, UDP}, {3, TCP}, {3, UDP}},
		"80/tcp 65533-65535/tcp":                 {{65535, TCP}, {65534, TCP}, {65533, TCP}, {80, TCP}},
		"80/tcp 443/tcp 9000-9020/tcp 9010/sctp": append([]Port{{443, TCP}, {80, TCP}, {9010, SCTP}}, portsFrom(9000, 21)...),
	} {
		if got := strings.Join(shortPorts(ports), " "); got != want {
			t.Errorf("%v: %q, want %q", ports, got, want)
		}
	}
}

func portsFrom(first uint16, n int) (all []Port) {
	for i := range n {
		all = append(all, Port{first + uint16(i), TCP})
	}
	return all
}

// All that comes from outside is text, in the page and in its figures.
func TestPageEscapes(t *testing.T) {
	const evil = `<script>alert(1)</script><img src=x onerror="alert('2')">&amp;`
	vip := testVIP(func(v *VIP) { v.Name = evil })
	b, s := newPageServer(t, []VIP{vip}, readyPod(evil, "10.1.0.1"))
	v := *b.loop.published.Load()
	v.Warnings = []string{evil, strings.Repeat(evil, 10)}
	v.Health = &Health{Down: map[HealthKey]string{{evil, addr("10.1.0.9"), 0}: evil}, Open: []FailOpen{{VIP: evil, Why: evil}}}
	v.Kept = []workKey{{VIP: evil}}
	b.loop.published.Store(&v)
	s.observe = kernelOf(b.loop)
	_, body := s.ask("GET", "/")
	_, visible, _ := strings.Cut(body, "</style>")
	visible, _, _ = strings.Cut(visible, "<script>"+pageScript)
	if n := strings.Count(visible, "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&#34;alert(&#39;2&#39;)&#34;&gt;&amp;amp;"); n < 10 {
		t.Errorf("%d texts from outside are on the page, want more than 10", n)
	}
	for _, bad := range []string{"<script>alert", "<img", "onerror=\""} {
		if strings.Contains(visible, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if strings.Contains(pageScript, "</") || strings.Contains(pageStyle, "</") || strings.Contains(pageScript, "innerHTML") {
		t.Error("the script or the style can end early, or writes HTML")
	}
	if code, body := s.ask("GET", "/page.json"); code != 200 || strings.Contains(body, "<") {
		t.Errorf("%d: the figures have a raw <", code)
	}
}

// A browser runs the page's own script and style, and asks this listener alone.
func TestPageHeaders(t *testing.T) {
	_, s := newPageServer(t, []VIP{testVIP()}, readyPod("a", "10.1.0.1"))
	w := httptest.NewRecorder()
	s.handler(onTCP).ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/", nil))
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	policy := regexp.MustCompile(`'sha256-[A-Za-z0-9+/]{43}='`).ReplaceAllString(w.Header().Get("Content-Security-Policy"), "HASH")
	want := "default-src 'none'; script-src HASH; style-src HASH; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
	if policy != want {
		t.Errorf("policy %q, want %q", policy, want)
	}
	if body := w.Body.String(); strings.Contains(body, " style=") || regexp.MustCompile(`(?:src|href|action)="?(?:http|//)`).MatchString(body) {
		t.Error("the page has a style in an attribute, or names another host")
	}
	r := httptest.NewRequest("GET", "http://evil.example/", nil)
	for _, path := range []string{"/", "/page.json"} {
		r.URL.Path = path
		w = httptest.NewRecorder()
		s.handler(onTCP).ServeHTTP(w, r)
		if w.Code != http.StatusMisdirectedRequest {
			t.Errorf("%s for another name: %d", path, w.Code)
		}
	}
	for path, code := range map[string]int{"/other": 404, "/page.json?known=x": 400, "/page.json?known=-1": 400} {
		if got, _ := s.ask("GET", path); got != code {
			t.Errorf("%s: %d, want %d", path, got, code)
		}
	}
}

// Who knows the newest change gets no changes, and no series.
func TestPageSendsWhatIsNew(t *testing.T) {
	_, s := newPageServer(t, []VIP{testVIP()}, readyPod("a", "10.1.0.1"))
	first := s.figures(t, "")
	if first.Series == nil || len(first.Series.Times) != 1 || len(first.Series.VIPs["edge"]) != 1 || len(first.Changes) != 2 || first.Number != 2 {
		t.Errorf("first: %+v", first)
	}
	if next := s.figures(t, "?known=2"); next.Series != nil || next.Changes != nil {
		t.Errorf("then: %+v", next)
	}
	if next := s.figures(t, "?known=1"); next.Series != nil || len(next.Changes) != 2 {
		t.Errorf("after a change: %+v", next)
	}
}

// The page and its figures are bounded in size, and the sums count all.
func TestPageIsBounded(t *testing.T) {
	cfg := &Config{}
	for i := range 3 * pageVIPs {
		cfg.VIPs = append(cfg.VIPs, testVIP(func(v *VIP) { v.Name = fmt.Sprint("vip", i); v.Addresses = []netip.Addr{addr("10.0.0.1")} }))
	}
	cfg.VIPs[0].Name = "edge"
	const services, servers = 3_000, 300
	one := Service{VIP: "edge"}
	for i := range servers {
		one.Servers = append(one.Servers, Row{RealServer{Address: addr(fmt.Sprintf("10.1.%d.%d", i/200, i%200+1)), Weight: 1}, quiescedOther, strings.Repeat("x", 10_000)})
	}
	var table Table
	for port := range services {
		one.VirtualService = service(fmt.Sprintf("10.0.0.1:%d/tcp", port+1)).VirtualService
		table = append(table, one)
	}
	// Of VIPs that the page has no room for, real servers that drain, some with two ports.
	for i, name := range []string{"vip2500", "vip2501"} {
		gone := Service{VirtualService: service(fmt.Sprintf("10.0.0.2:%d/tcp", i+1)).VirtualService, VIP: name}
		for n := range 2 * pageLines {
			r := RealServer{Address: addr(fmt.Sprintf("10.2.%d.%d", n/200, n%200+1))}
			if i == 1 {
				r.Address, r.Port = addr(fmt.Sprintf("10.2.%d.%d", n/2/200, n/2%200+1)), uint16(8080*(n%2))
			}
			gone.Servers = append(gone.Servers, Row{r, quiescedOther, "drains"})
			gone.Leaving = append(gone.Leaving, leaving{Address: r.Address, Port: r.Port, drain: drain{Deadline: testTime.Add(time.Duration(2*n+i+1) * time.Second)}})
		}
		table = append(table, gone)
	}
	slices.SortFunc(table, compareServices)
	v := &loopState{Shards: split(table), Config: cfg}
	p := newPageTable(v)
	for i := range table {
		k := KernelService{VirtualService: table[i].VirtualService}
		if table[i].VIP != "edge" {
			for _, r := range table[i].Servers {
				k.Servers = append(k.Servers, KernelServer{RealServer: r.RealServer})
			}
			p.add(&k)
			continue
		}
		for _, r := range one.Servers {
			r.Weight = uint32(i + 1) // no two services are alike
			k.Servers = append(k.Servers, KernelServer{RealServer: r.RealServer, Connections: Connections{Active: 1}})
		}
		p.add(&k)
	}
	p.finish()
	if p.rows != pageRows || len(p.vips) != pageVIPs || p.more != 2*pageVIPs || len(p.vips[0].Blocks) != pageBlocks || p.vips[0].LeftOut != services-pageBlocks {
		t.Errorf("%d rows, %d VIPs and %d more, %d blocks, %d services left out", p.rows, len(p.vips), p.more, len(p.vips[0].Blocks), p.vips[0].LeftOut)
	}
	if got := p.vips[0].Load.Connections.Active; got != services*servers || p.total.Connections.Active != got || p.vips[0].Services != services {
		t.Errorf("%d active connections, want %d", got, services*servers)
	}
	if n := p.total; n.Services != services+2 || n.Servers != servers+2*pageLines || n.Serving != servers || n.Drains != 4*pageLines || len(p.soon) != pageLines || p.soon[0].Services != 1 || p.soon[0].Until != testTime.Add(time.Second) {
		t.Errorf("%d services, %d real servers, %d of them in service, %d drains", n.Services, n.Servers, n.Serving, n.Drains)
	}
	var page bytes.Buffer
	state := &pageState{VIPs: p.vips, MoreVIPs: p.more, Load: p.total, Drains: p.soon}
	writePage(&page, state)
	for _, part := range []string{"<b>3,002</b>", "<dt>Real servers</dt><dd><b>2,300</b> <small>300 in service</small>", "Drains <small>4,000</small>"} {
		if !strings.Contains(page.String(), part) {
			t.Errorf("the page lacks %q", part)
		}
	}
	figures, err := json.Marshal(state)
	if err != nil || page.Len() > 6<<20 || len(figures) > 6<<20 {
		t.Errorf("the page has %d bytes, its figures %d, %v", page.Len(), len(figures), err)
	}
}

// One reading serves all who ask within a second, and a slow one for longer.
func TestPageReadingIsShared(t *testing.T) {
	b, s := newPageServer(t, []VIP{testVIP()}, readyPod("a", "10.1.0.1"))
	kernel, reads, slow := kernelOf(b.loop), 0, time.Duration(0)
	s.observe = func(owned func(ServiceKey) bool, visit func(*KernelService)) error {
		reads++
		time.Sleep(slow)
		return kernel(owned, visit)
	}
	devicesAt := func() time.Time {
		s.devices.mu.Lock()
		defer s.devices.mu.Unlock()
		return s.devices.at
	}
	if _, body := s.ask("GET", "/page.json"); !strings.Contains(body, `"drains":[]`) {
		t.Errorf("the script needs a list of drains: %s", body)
	}
	s.ask("GET", "/")
	devices := devicesAt()
	s.ask("GET", "/page.json")
	s.ask("GET", "/page.json?known=x")
	if reads != 1 {
		t.Errorf("some requests: %d readings", reads)
	}
	s.ask("GET", "/status.json")
	s.ask("GET", "/status.json")
	if reads != 2 || devices.IsZero() || devicesAt() != devices {
		t.Errorf("with the status: %d readings, the devices at %s and %s", reads, devices, devicesAt())
	}
	reads = 1
	over := func() { // a second later
		s.page.mu.Lock()
		defer s.page.mu.Unlock()
		s.page.until = time.Now()
	}
	kept := func() bool {
		s.page.mu.Lock()
		defer s.page.mu.Unlock()
		return s.page.value != nil || !s.page.at.IsZero()
	}
	over()
	slow = 150 * time.Millisecond
	start := time.Now()
	got := s.figures(t, "")
	took := time.Since(start)
	s.page.mu.Lock()
	apart := s.page.until.Sub(s.page.at)
	s.page.mu.Unlock()
	if reads != 2 || got.Next <= 0 || apart < pageShare*slow || apart > pageShare*took {
		t.Errorf("%d readings, the next %s after one that took at most %s", reads, apart, took)
	}
	s.page.forget()
	if !kept() {
		t.Error("a reading that is used is forgotten")
	}
	over()
	s.page.forget()
	if kept() {
		t.Error("a reading that is not used any more is kept")
	}
}

// Without the kernel, and before the first pass, the page says what is wrong.
func TestPageWithoutTheKernel(t *testing.T) {
	_, s := newPageServer(t, []VIP{testVIP()}, readyPod("a", "10.1.0.1"))
	s.observe = func(func(ServiceKey) bool, func(*KernelService)) error {
		return errors.New("list virtual services: <broken>")
	}
	code, body := s.ask("GET", "/")
	if code != 200 || !strings.Contains(body, "<b>Kernel</b> <span>list virtual services: &lt;broken&gt;</span>") {
		t.Errorf("%d %s", code, body)
	}
	s = newBenchServer(newBench(t, testVIP()))
	if code, body = s.ask("GET", "/"); code != 200 || !strings.Contains(body, "the kernel&#39;s table has not been read yet") || !strings.Contains(body, "No VIP is known yet.") {
		t.Errorf("before the first pass: %d %s", code, body)
	}
	if _, body = s.ask("GET", "/page.json"); !strings.Contains(body, `"vips":[]`) {
		t.Errorf("before the first pass: %s", body)
	}
}

func TestPageNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("grouped(%d): %q, want %q", n, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1234567: "1.2 MB", 999_999: "1.0 MB", 123_456: "123 kB"} {
		if got := byteRate(n); got != want {
			t.Errorf("byteRate(%d): %q, want %q", n, got, want)
		}
	}
}
