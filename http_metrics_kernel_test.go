// The kernel's counters on /metrics: how far they go, that they only grow, and what
// a large table costs.

package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// largeCounters are those of so many services of 50 real servers each.
func largeCounters(detail metricsDetail, services int) *kernelCounters {
	k := newKernelCounters(&Config{Metrics: detail, VIPs: []VIP{{Name: "edge"}}})
	for i := range services {
		one := service(fmt.Sprintf("10.0.0.%d:%d/tcp", 1+i/60_000, 1+i%60_000))
		s := &KernelService{VirtualService: one.VirtualService, Traffic: Traffic{Connections: uint64(i), InPackets: 1 << 40, InBytes: 1 << 50}}
		for j := range 50 {
			s.Servers = append(s.Servers, KernelServer{RealServer: RealServer{Address: netip.AddrFrom4([4]byte{10, 1, 0, byte(j + 1)}), Weight: 1}})
		}
		k.add(s, &one)
	}
	return k
}

// Each word of metrics adds to the one before.
func TestMetricsDetail(t *testing.T) {
	samples := func(detail metricsDetail) map[string]int {
		families, _ := scrape(t, func(w *bytes.Buffer) {
			k := largeCounters(detail, 3)
			var all totals
			all.follow(k, testTime)
			e := &exposition{w: w}
			k.write(e, &all)
			e.flush()
		})
		n := make(map[string]int)
		for name, f := range families {
			n[name] = len(f.samples)
		}
		return n
	}
	want := map[string]int{
		"lvs_vip_connections_total": 1, "lvs_vip_in_packets_total": 1, "lvs_vip_in_bytes_total": 1, "lvs_vip_connections": 3,
		"lvs_real_server_weight": 50, "lvs_real_server_connections": 150,
	}
	if diff := cmp.Diff(want, samples(metricsSums)); diff != "" {
		t.Errorf("sums: samples (-want +got):\n%s", diff)
	}
	maps.Copy(want, map[string]int{"lvs_service_connections_total": 3, "lvs_service_in_packets_total": 3, "lvs_service_in_bytes_total": 3})
	if diff := cmp.Diff(want, samples(metricsServices)); diff != "" {
		t.Errorf("services: samples (-want +got):\n%s", diff)
	}
	maps.Copy(want, map[string]int{
		"lvs_service_server_connections_total": 150, "lvs_service_server_in_packets_total": 150, "lvs_service_server_in_bytes_total": 150,
		"lvs_service_server_connections": 450, "lvs_service_server_weight": 150, "lvs_metrics_rows_left_out": 1,
	})
	if diff := cmp.Diff(want, samples(metricsServers)); diff != "" {
		t.Errorf("servers: samples (-want +got):\n%s", diff)
	}
}

// A reload changes how far they go.
func TestMetricsDetailFollowsTheConfiguration(t *testing.T) {
	b := newBench(t, testVIP())
	b.loop.cluster.Set(testCluster(nil, readyPod("a", "10.1.0.1")))
	server := newBenchServer(b)
	for _, detail := range []metricsDetail{metricsServers, metricsSums} {
		cfg := *b.loop.config.Get()
		cfg.Metrics = detail
		b.loop.config.Set(&cfg)
		b.pass()
		var page bytes.Buffer
		server.writeMetrics(&page)
		if got := bytes.Contains(page.Bytes(), []byte("# TYPE lvs_service_server_weight gauge\n")); got != (detail == metricsServers) {
			t.Errorf("with %s real servers of services: %t", metricsDetails[detail], got)
		}
	}
}

// A VIP's counters never become less: not when a service goes, when it comes back, nor
// when the kernel counts from 0 again.
func TestMetricsTotals(t *testing.T) {
	web, mail := service("10.0.0.1:80/tcp"), service("10.0.0.1:25/tcp")
	cfg := &Config{VIPs: []VIP{{Name: "edge"}}}
	var all totals
	for i, step := range []struct {
		web, mail int // connections so far; -1: there is no such service
		want      uint64
	}{
		{100, 1000, 0}, // from before the first scrape
		{110, 1005, 15},
		{120, -1, 25}, // 1005 less in the kernel
		{120, -1, 25},
		{121, 7, 33}, // it is back and has 7
		{3, 8, 37},   // made again
		{-1, -1, 37},
	} {
		k := newKernelCounters(cfg)
		for _, s := range []struct {
			of    *Service
			conns int
		}{{&web, step.web}, {&mail, step.mail}} {
			if s.conns >= 0 {
				k.add(&KernelService{VirtualService: s.of.VirtualService, Traffic: Traffic{Connections: uint64(s.conns)}}, s.of)
			}
		}
		all.follow(k, testTime.Add(time.Duration(i)*time.Second))
		if got := all.vips["edge"].Connections; got != step.want {
			t.Errorf("step %d: %d connections, want %d", i, got, step.want)
		}
	}
}

// A scrape that was overtaken by a newer one changes nothing.
func TestMetricsOvertaken(t *testing.T) {
	cfg := &Config{VIPs: []VIP{{Name: "edge"}}}
	web := service("10.0.0.1:80/tcp")
	web.VIP = "edge"
	var all totals
	for second, connections := range []uint64{100, 150, 120} {
		k := newKernelCounters(cfg)
		k.add(&KernelService{VirtualService: web.VirtualService, Traffic: Traffic{Connections: connections}}, &web)
		all.follow(k, testTime.Add(time.Duration(second%2)*time.Second))
	}
	if got := all.vips["edge"].Connections; got != 50 {
		t.Errorf("%d connections, want 50", got)
	}
}

// The largest page is written in pieces, and leaves out what is too much.
func TestMetricsOfALargeTable(t *testing.T) {
	skipShort(t)
	k := largeCounters(metricsServers, 2_000) // 100,000 real servers
	var all totals
	all.follow(k, testTime)
	written := new(countingWriter)
	e := &exposition{w: written}
	k.write(e, &all)
	e.flush()
	if written.largest > 2*pieceSize || cap(e.text) > 4*pieceSize {
		t.Errorf("one write has %d bytes, and the text takes %d", written.largest, cap(e.text))
	}
	families, err := parseExposition(written.all.String())
	if err != nil {
		t.Fatal(err)
	}
	const listed = maxServerRows / 50 * 50
	if n := len(families["lvs_service_server_weight"].samples); n != listed {
		t.Errorf("%d real servers of services, want %d", n, listed)
	}
	if n := families["lvs_metrics_rows_left_out"].samples[0].value; n != 100_000-listed {
		t.Errorf("%v are left out, want %d", n, 100_000-listed)
	}
}

// The reasons that a real server has weight 0, from desired to the label.
func TestQuiesceReasons(t *testing.T) {
	edit := func(p Pod, f func(*Pod)) Pod { f(&p); return p }
	vip := testVIP(func(v *VIP) {
		v.Probes, v.NeighbourCheck = &Probes{Ports: true}, true
		v.RealServers = []StaticServer{{Address: addr("10.1.0.9")}}
	})
	pods := func(all ...Pod) []Pod { return append([]Pod{readyPod("in", "10.1.0.1")}, all...) }
	var now []Pod
	for i := range 5 {
		now = append(now, readyPod(fmt.Sprint("p", i), fmt.Sprintf("10.1.0.%d", i+2)))
	}
	b := newBench(t, vip)
	start := testCluster(map[string]string{"9000": "a/b:1"}, pods(now...)...)
	b.loop.cluster.Set(start)
	b.pass()
	b.want("10.0.0.1:80/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=1 10.1.0.4=1 10.1.0.5=1 10.1.0.6=1\n" +
		"10.0.0.1:9000/tcp rr: 10.1.0.1=1 10.1.0.2=1 10.1.0.3=1 10.1.0.4=1 10.1.0.5=1 10.1.0.6=1\n")
	after := pods(
		edit(now[0], func(p *Pod) { p.Ready = false }),
		edit(now[1], func(p *Pod) { p.Terminating = true }),
		now[2], now[3]) // the last one is gone
	b.loop.cluster.Set(testCluster(map[string]string{}, after...))
	b.loop.health.Set(&Health{Down: map[HealthKey]string{{"edge", addr("10.1.0.4"), 0}: "500"}})
	b.loop.unresolved.Set(&Health{Unresolved: map[string][]netip.Addr{"edge": {addr("10.1.0.5")}}})
	b.pass()
	got := make(map[string]string)
	for at, is := range b.loop.published.Load().serverStates(&b.loop.times) {
		if is.quiesced {
			got[at.Address.String()] = is.reason.String()
		}
	}
	want := map[string]string{
		"10.1.0.1": "port_gone", // port 9000
		"10.1.0.2": "not_ready", "10.1.0.3": "terminating", "10.1.0.4": "probe", "10.1.0.5": "neighbour", "10.1.0.6": "gone",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	// The rest are decided before there is a drain.
	for _, test := range []struct {
		want string
		row  Row
	}{
		{"node_excluded", podSet{ready: 1, best: podReady, excluded: "its node is cordoned off"}.row(&vip, addr("10.1.0.2"))},
		{"weight", podSet{ready: 1, best: podReady}.row(&vip, addr("10.1.0.2"))},
	} {
		if got := test.row.Reason.String(); got != test.want || test.row.Weight != 0 {
			t.Errorf("%s: reason %s, want %s", test.row.Why, got, test.want)
		}
	}
	w := desired(nil, &Config{VIPs: []VIP{vip}}, start, nil, newMemory(), testTime)
	rows := w.Shards[0].Services[0].Servers
	if i := slices.IndexFunc(rows, func(r Row) bool { return r.Address == addr("10.1.0.9") }); i < 0 || rows[i].Reason != quiescedWeight {
		t.Errorf("a static real server of weight 0: %+v", rows)
	}
}

// Buckets of a histogram are sums, and the last one is the count.
func TestHistogram(t *testing.T) {
	var h histogram
	for _, d := range []time.Duration{-time.Second, 500 * time.Microsecond, 501 * time.Microsecond, 40 * time.Millisecond, time.Minute} {
		h.observe(d)
	}
	families, _ := scrape(t, func(w *bytes.Buffer) {
		e := &exposition{w: w}
		e.histogram("x_seconds", "X.", &h)
		e.flush()
	})
	got := values(families)
	wantValues(t, map[string]float64{
		`x_seconds_bucket{le="0.0005"}`: 2, `x_seconds_bucket{le="0.001"}`: 3, `x_seconds_bucket{le="0.025"}`: 3, `x_seconds_bucket{le="0.05"}`: 4,
		`x_seconds_bucket{le="10"}`: 4, `x_seconds_bucket{le="+Inf"}`: 5, `x_seconds_count`: 5, `x_seconds_sum`: 60.041001,
	}, got)
}

// The last probes of a real server: of several ports the failure counts, and the longest.
func TestProbedServers(t *testing.T) {
	p := newBenchServer(newBench(t, testVIP())).prober
	add := func(kind probeKind, port uint16, r result, took time.Duration) {
		k := targetKey{name: "edge", server: addr("10.1.0.1"), kind: kind, port: port}
		p.schedule.targets[k] = &target{targetKey: k, finished: true, last: r, took: took}
	}
	add(probeHTTP, 0, noResult, time.Millisecond)
	add(probePort, 80, passed, 7*time.Millisecond)
	add(probePort, 81, failed, 2*time.Millisecond)
	add(probePort, 82, noResult, time.Millisecond)
	add(probePort, 83, passed, time.Millisecond)
	k := targetKey{name: "edge", server: addr("10.1.0.2"), kind: probeHTTP}
	p.schedule.targets[k] = &target{targetKey: k} // not probed yet
	want := map[probedServer]serverProbes{
		{"edge", addr("10.1.0.1"), probeHTTP}: {noResult, time.Millisecond},
		{"edge", addr("10.1.0.1"), probePort}: {failed, 7 * time.Millisecond},
	}
	for range 20 { // in any order
		if diff := cmp.Diff(want, p.Probed(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

// discarding counts the bytes that are written to it.
type discarding int

func (d *discarding) Write(b []byte) (int, error) { *d += discarding(len(b)); return len(b), nil }

func BenchmarkMetrics(b *testing.B) {
	for _, detail := range []metricsDetail{metricsSums, metricsServices, metricsServers} {
		b.Run(metricsDetails[detail]+"/1000x50", func(b *testing.B) {
			k := largeCounters(detail, 1000)
			var all totals
			var bytes discarding
			b.ReportAllocs()
			for b.Loop() {
				all.follow(k, time.Now())
				bytes = 0
				e := &exposition{w: &bytes}
				k.write(e, &all)
				e.flush()
			}
			b.ReportMetric(float64(bytes), "page-B")
			runtime.KeepAlive(k)
		})
	}
}
