// What /metrics gives: the text format, held to its rules by a parser of our
// own, the agreement with docs/metrics.md, and the numbers themselves.

package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// metricFamily is a metric family as a strict reader of the text format sees it.
type metricFamily struct {
	name, typ, help string
	samples         []metricSample
}

// metricSample is one line with a value.
type metricSample struct {
	name   string
	labels [][2]string // in the order of the line
	value  float64
}

// id is a sample's name and labels, as written but sorted.
func (s metricSample) id() string {
	labels := slices.Clone(s.labels)
	slices.SortFunc(labels, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return fmt.Sprint(s.name, labels)
}

// parseExposition reads text and fails for everything that the format or its
// customs forbid: a family twice, a head without its HELP and TYPE in this
// order, a sample away from its head, the same sample twice. Samples without
// any head, as the process's own metrics have none, make families without type.
func parseExposition(text string) (map[string]metricFamily, error) {
	families := make(map[string]metricFamily)
	seen := make(map[string]bool)
	var open string // the family whose samples come now
	if text != "" && !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("the last line has no end")
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		fail := func(why string) (map[string]metricFamily, error) {
			return nil, fmt.Errorf("line %d: %s: %s", i+1, why, lines[i])
		}
		if rest, found := strings.CutPrefix(lines[i], "# HELP "); found {
			name, help, _ := strings.Cut(rest, " ")
			if _, twice := families[name]; twice {
				return fail("family twice")
			}
			if help == "" {
				return fail("no help text")
			}
			i++
			if i == len(lines) {
				return nil, fmt.Errorf("the text ends after the HELP of %s", name)
			}
			typ, found := strings.CutPrefix(lines[i], "# TYPE "+name+" ")
			if !found || !slices.Contains([]string{"counter", "gauge", "histogram", "summary"}, typ) {
				return fail("want the TYPE of " + name)
			}
			families[name] = metricFamily{name: name, typ: typ, help: help}
			open = name
			continue
		}
		if strings.HasPrefix(lines[i], "#") {
			return fail("neither HELP nor sample")
		}
		s, err := parseSample(lines[i])
		if err != nil {
			return fail(err.Error())
		}
		name := s.name
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, found := strings.CutSuffix(s.name, suffix); found && (families[base].typ == "histogram" || families[base].typ == "summary") {
				name = base
			}
		}
		f, known := families[name]
		if known && f.typ != "" && open != name {
			return fail("sample away from its head")
		}
		if seen[s.id()] {
			return fail("sample twice")
		}
		seen[s.id()] = true
		f.name = name
		f.samples = append(f.samples, s)
		families[name] = f
		open = name
	}
	return families, nil
}

var metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*`)

// parseSample reads `name{label="value",…} 1`.
func parseSample(line string) (metricSample, error) {
	s := metricSample{name: metricName.FindString(line)}
	if s.name == "" {
		return s, fmt.Errorf("no metric name")
	}
	rest := line[len(s.name):]
	if after, found := strings.CutPrefix(rest, "{"); found {
		for rest = after; ; rest = strings.TrimPrefix(rest, " ") {
			label := metricName.FindString(rest)
			after, found := strings.CutPrefix(rest[len(label):], `="`)
			if label == "" || !found {
				return s, fmt.Errorf("no label")
			}
			value, after, err := parseLabelValue(after)
			if err != nil {
				return s, err
			}
			s.labels = append(s.labels, [2]string{label, value})
			if rest, found = strings.CutPrefix(after, ","); found {
				continue
			}
			if rest, found = strings.CutPrefix(after, "}"); !found {
				return s, fmt.Errorf("labels do not end")
			}
			break
		}
	}
	number, found := strings.CutPrefix(rest, " ")
	value, err := strconv.ParseFloat(number, 64)
	if !found || err != nil {
		return s, fmt.Errorf("no value after one blank")
	}
	s.value = value
	return s, nil
}

// parseLabelValue reads up to the closing quote and returns what follows it.
func parseLabelValue(text string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '"':
			return b.String(), text[i+1:], nil
		case '\\':
			i++
			escapes := map[byte]byte{'\\': '\\', '"': '"', 'n': '\n'}
			if i == len(text) || escapes[text[i]] == 0 {
				return "", "", fmt.Errorf("unknown escape")
			}
			b.WriteByte(escapes[text[i]])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", fmt.Errorf("label value does not end")
}

// The parser is worth nothing if it lets mistakes through.
func TestParseExpositionRefuses(t *testing.T) {
	const head = "# HELP a A.\n# TYPE a gauge\n"
	for _, text := range []string{
		head + "a 1", // no line end
		head + head,
		"# HELP a A.\na 1\n",
		"# TYPE a gauge\na 1\n",
		"# HELP a A.\n# TYPE b gauge\n",
		"# HELP a A.\n# TYPE a number\n",
		"# HELP a \n# TYPE a gauge\n",
		head + "a 1\na 1\n",
		head + "a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 1\n",
		head + "# HELP b B.\n# TYPE b gauge\na 1\n",
		head + "a one\n",
		head + "a  1\n",
		head + "a{x=1} 1\n",
		head + "a{x=\"1} 1\n",
		head + "a{x=\"\\t\"} 1\n",
		head + "a{x=\"1\" 1\n",
		head + "a{} 1\n",
		head + "1\n",
		head + "\n",
	} {
		if _, err := parseExposition(text); err == nil {
			t.Errorf("accepted:\n%s", text)
		}
	}
}

// scrape is what /metrics gives, as lvs_ families and the names of all others.
func scrape(t *testing.T, write func(*bytes.Buffer)) (own map[string]metricFamily, others []string) {
	t.Helper()
	var text bytes.Buffer
	write(&text)
	families, err := parseExposition(text.String())
	if err != nil {
		t.Fatalf("%v\nin:\n%s", err, &text)
	}
	own = make(map[string]metricFamily)
	for name, f := range families {
		if strings.HasPrefix(name, "lvs_") {
			own[name] = f
		} else {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	return own, others
}

// metricsBench is a loop after one turn with a real server in service, one that
// drains and a warning, and the server that shows it.
func metricsBench(t *testing.T) (*bench, *httpServer) {
	six := testVIP(func(v *VIP) {
		v.Name, v.Addresses, v.TCPServices = "six", []netip.Addr{addr("2001:db8::1")}, ConfigMapName{}
		v.Announce, v.Probes = AnnounceARP, &Probes{TCP: 80, Quorum: Quorum{Least: 1}}
	})
	b := newBench(t, testVIP(), six)
	b.setSync(pairSync())
	cfg := *b.loop.config.Get()
	cfg.Metrics = metricsServers
	b.loop.config.Set(&cfg)
	b.loop.cluster.Set(testCluster(map[string]string{"abc": "x/y:1"}, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2")))
	b.pass()
	b.loop.cluster.Set(testCluster(map[string]string{"abc": "x/y:1"}, with(readyPod("a", "10.1.0.1"), func(p *Pod) { p.Node = "node-a" })))
	b.pass()
	s := newBenchServer(b)
	s.started = testTime.Add(-time.Hour)
	s.good.Store(&goodFile{time.Now(), digest{1, 2, 3, 4, 5, 6, 7}})
	probe := targetKey{name: "edge", server: addr("10.1.0.1"), kind: probeHTTP}
	s.prober.schedule.targets[probe] = &target{targetKey: probe, finished: true, last: passed, took: 3 * time.Millisecond}
	s.conflicts = newConflicts(s.log)
	s.conflicts.snapshot.Store(&conflictSnapshot{Active: []Conflict{
		{VIP: "edge", Address: addr("10.0.0.1"), Device: "eth0", MAC: macAddress{2, 0, 0, 0, 0, 9}},
	}})
	key := streamKey{ConfigMapName{"ingress-nginx", "tcp-services"}}
	s.watch.streams[key] = &stream{key: key, owner: s.watch, state: StreamState{Name: key.String(), Synced: true, Lists: 2, Events: 5, LastError: "away", Heard: time.Now().Add(-time.Minute)}}
	return b, s
}

// newBenchServer is an HTTP server over a bench's loop.
func newBenchServer(b *bench) *httpServer {
	log := slog.New(slog.DiscardHandler)
	return &httpServer{
		log: log, loop: b.loop, watch: newClusterWatch(log, b.loop.cluster, Cluster{}), configs: b.loop.config, started: time.Now(),
		webhook: newWebhook(log, b.loop.config, nil, b.loop.events, "director"),
		prober:  newProber(log, newLatest[ProbePlan](make(chan struct{}, 1)), newLatest[Health]()), uplink: func() error { return nil },
		readings: readings{observe: observeKernel},
		output:   openLog(io.Discard, logText, slog.LevelInfo), table: func() connectionTable { return connectionTable{} },
	}
}

// served is s after edit.
func served(s KernelServer, edit func(*KernelServer)) KernelServer { edit(&s); return s }

// writeTwoServices writes the counters of two services of one VIP.
func writeTwoServices(w *bytes.Buffer) {
	web, dns := service("10.0.0.1:80/tcp"), service("10.0.0.1:53/udp")
	server := func(address string, weight uint32, c Connections) KernelServer {
		return KernelServer{RealServer: RealServer{Address: addr(address), Weight: weight}, Connections: c}
	}
	cfg := &Config{Metrics: metricsServers, VIPs: []VIP{{Name: "edge"}}}
	k := newKernelCounters(cfg)
	k.add(&KernelService{
		VirtualService: web.VirtualService,
		Traffic:        Traffic{Connections: 7, InPackets: 70, InBytes: 700},
		Servers: []KernelServer{
			served(server("10.1.0.1", 1, Connections{Active: 3, Inactive: 4, Persistent: 1}), func(s *KernelServer) { s.Traffic = Traffic{Connections: 6, InPackets: 60, InBytes: 600} }),
			server("10.1.0.2", 0, Connections{Inactive: 2}),
		},
	}, &web)
	k.add(&KernelService{
		VirtualService: dns.VirtualService,
		Servers:        []KernelServer{server("10.1.0.1", 5, Connections{Active: 10})},
	}, &dns)
	var t totals
	before := newKernelCounters(cfg)
	before.add(&KernelService{VirtualService: web.VirtualService, Traffic: Traffic{Connections: 5, InPackets: 50, InBytes: 500}}, &web)
	t.follow(before, testTime)
	t.follow(k, testTime.Add(2*time.Second))
	e := &exposition{w: w}
	defer e.flush()
	k.write(e, &t)
	k.writeTable(e, connectionTable{Bits: 12, Buckets: 4096, Defences: map[string]bool{"drop_entry": true, "drop_packet": false}})
}

// docs/metrics.md and the code agree, both ways: name, type and labels.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(lvs_[a-z0-9_]+)` \\| (\\w+) \\|(.*?)\\| .+ \\|$")
	documented := make(map[string]string)
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		if _, twice := documented[m[1]]; twice {
			t.Errorf("docs/metrics.md lists %s twice", m[1])
		}
		documented[m[1]] = m[2] + " " + strings.Join(regexp.MustCompile("`(\\w+)`").FindAllString(m[3], -1), " ")
	}

	_, server := metricsBench(t)
	families, others := scrape(t, func(w *bytes.Buffer) { server.writeMetrics(w) })
	// The kernel's counters again, of a kernel that has some.
	kernel, _ := scrape(t, writeTwoServices)
	for name := range kernel {
		if _, known := families[name]; !known {
			t.Errorf("%s is not on /metrics", name)
		}
	}
	maps.Copy(families, kernel)
	node, _ := scrape(t, writeNode)
	maps.Copy(families, node)
	given := make(map[string]string)
	for name, f := range families {
		if len(f.samples) == 0 {
			t.Errorf("%s has no sample here: its labels cannot be compared", name)
			continue
		}
		var labels []string
		for _, l := range f.samples[0].labels {
			if f.typ == "histogram" && l[0] == "le" {
				continue
			}
			labels = append(labels, "`"+l[0]+"`")
		}
		given[name] = f.typ + " " + strings.Join(labels, " ")
	}
	if diff := cmp.Diff(documented, given); diff != "" {
		t.Errorf("metrics (-docs/metrics.md +given):\n%s", diff)
	}

	for _, name := range others {
		if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("%s begins with neither lvs_, go_ nor process_", name)
		}
	}
	present, gone, _ := strings.Cut(string(page), "\n## What has changed\n")
	_, alerts, _ := strings.Cut(gone, "\n## ")
	for _, m := range regexp.MustCompile("`((?:go|process)_[a-z0-9_]+)`").FindAllStringSubmatch(present+alerts, -1) {
		if !slices.Contains(others, m[1]) && !strings.HasSuffix(m[1], "_") {
			t.Errorf("docs/metrics.md names %s, which is not given", m[1])
		}
	}
}

// The customs of the naming: a counter ends in _total and a gauge does not, all
// samples of a family have the same labels, and a help text is a sentence.
func TestMetricsNaming(t *testing.T) {
	_, server := metricsBench(t)
	families, _ := scrape(t, func(w *bytes.Buffer) { server.writeMetrics(w) })
	kernel, _ := scrape(t, writeTwoServices)
	maps.Copy(families, kernel)
	node, _ := scrape(t, writeNode)
	maps.Copy(families, node)
	for name, f := range families {
		if strings.HasSuffix(name, "_total") != (f.typ == "counter") {
			t.Errorf("%s is a %s", name, f.typ)
		}
		if !strings.HasSuffix(f.help, ".") {
			t.Errorf("the help of %s is no sentence: %q", name, f.help)
		}
		for _, s := range f.samples {
			if f.typ == "histogram" && s.name != name+"_bucket" {
				continue
			}
			names := func(s metricSample) (all []string) {
				for _, l := range s.labels {
					all = append(all, l[0])
				}
				return all
			}
			if diff := cmp.Diff(names(f.samples[0]), names(s)); diff != "" {
				t.Errorf("%s: labels differ from sample to sample:\n%s", name, diff)
			}
		}
	}
}

// values are the samples of families by what a query would write.
func values(families map[string]metricFamily) map[string]float64 {
	all := make(map[string]float64)
	for _, f := range families {
		for _, s := range f.samples {
			var labels []string
			for _, l := range s.labels {
				labels = append(labels, fmt.Sprintf("%s=%q", l[0], l[1]))
			}
			name := strings.TrimPrefix(s.name, "lvs_")
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			all[name] = s.value
		}
	}
	return all
}

// wantValues compares those samples that want names.
func wantValues(t *testing.T, want, got map[string]float64) {
	t.Helper()
	some := make(map[string]float64)
	for name := range want {
		if v, given := got[name]; given {
			some[name] = v
		}
	}
	if diff := cmp.Diff(want, some); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func TestMetricsOfALoop(t *testing.T) {
	b, server := metricsBench(t)
	server.reloads.Add(3)
	server.rejected.Add(2)
	server.bad.Store(true)
	got := func() map[string]float64 {
		families, _ := scrape(t, func(w *bytes.Buffer) { server.writeMetrics(w) })
		return values(families)
	}
	const stream = `{stream="configmap ingress-nginx/tcp-services"}`
	wantValues(t, map[string]float64{
		`info{version="dev"}`: 1,
		fmt.Sprintf(`build_info{version="dev",revision=%q,goversion=%q}`, thisBuild().Revision, runtime.Version()): 1,
		`config_hash`: 0x010203040506, // the first six bytes
		`probe_success{vip="edge",server="10.1.0.1",kind="http"}`:                                            1,
		`probe_duration_seconds{vip="edge",server="10.1.0.1",kind="http"}`:                                   .003,
		`real_server_quiesced{vip="edge",server="10.1.0.2",node="",reason="gone"}`:                           1,
		`real_server_drain_deadline_timestamp_seconds{vip="edge",server="10.1.0.2",node=""}`:                 float64(testTime.Add(defaultDrainTimeout).Unix()),
		`real_server_state_timestamp_seconds{vip="edge",server="10.1.0.1",node="node-a",state="in_service"}`: float64(testTime.Add(-time.Hour).Unix()),
		`real_server_state_timestamp_seconds{vip="edge",server="10.1.0.2",node="",state="draining"}`:         float64(testTime.Unix()),
		`reconcile_duration_seconds_count`:                                                                   2, `reconcile_duration_seconds_bucket{le="0.0005"}`: 2, // the clock does not move
		`event_duration_seconds_count`: 2,
		`ready`:                        1,
		`config_ok`:                    0, `config_reloads_total`: 3, `config_rejected_total`: 2,
		`reconciles_total`: 2, `reconcile_failures_total`: 0, `audits_total`: 1, `drifts_total`: 0,
		`changes_total{kind="service_added"}`: 2, `changes_total{kind="server_added"}`: 2,
		`changes_total{kind="server_edited"}`: 1, `changes_total{kind="server_removed"}`: 0,
		`cluster_synced` + stream: 1, `cluster_failing` + stream: 1,
		`cluster_events_total` + stream: 5, `cluster_lists_total` + stream: 2,
		`warnings`: 3, // a ConfigMap's entry, a VIP without real servers, a pod without its family
		`vip_real_servers{vip="edge",state="in_service"}`: 1,
		`vip_real_servers{vip="edge",state="draining"}`:   1,
		`vip_real_servers{vip="six",state="in_service"}`:  0,
		`vip_kept{vip="edge",family="IPv4"}`:              0,
		`sync_daemon_up{role="master"}`:                   1,
		`sync_daemon_up{role="backup"}`:                   1,
		`vip_kept{vip="six",family="IPv6"}`:               0,
		`vip_below_quorum{vip="six",family="IPv6"}`:       1,
	}, got())

	b.loop.cluster.Set(testCluster(nil))
	b.pass()
	wantValues(t, map[string]float64{`vip_kept{vip="edge",family="IPv4"}`: 1, `ready`: 1, `warnings`: 3}, got()) // two selectors match no pod

	clear(b.kernel.services) // ipvsadm -C, and the new rows are refused
	clear(b.kernel.servers)
	b.kernel.noRoute[addr("10.1.0.1")] = true
	b.later(10 * time.Second)
	if now := got(); now["ready"] != 0 || now["drifts_total"] != 1 || now["changes_refused_total"] == 0 || now["reconcile_failures_total"] == 0 {
		t.Errorf("after a table was lost and refused: ready %v, drifts %v, refused %v, failures %v",
			now["ready"], now["drifts_total"], now["changes_refused_total"], now["reconcile_failures_total"])
	}
}

// Before its first turn a controller can be scraped all the same.
func TestMetricsBeforeTheFirstTurn(t *testing.T) {
	server := newBenchServer(newBench(t, testVIP()))
	families, _ := scrape(t, func(w *bytes.Buffer) { server.writeMetrics(w) })
	wantValues(t, map[string]float64{`ready`: 0, `config_ok`: 1, `reconciles_total`: 0}, values(families))
}

func TestMetricsOfTheKernel(t *testing.T) {
	families, _ := scrape(t, writeTwoServices)
	want := map[string]float64{
		"connections": 20, "connection_table_buckets": 4096, "connection_table_load": 20. / 4096,
		`flood_defence{setting="drop_entry"}`: 1, `flood_defence{setting="drop_packet"}`: 0,

		`service_connections_total{vip="edge",service="10.0.0.1:80/tcp"}`:          7,
		`service_in_packets_total{vip="edge",service="10.0.0.1:80/tcp"}`:           70,
		`service_in_bytes_total{vip="edge",service="10.0.0.1:80/tcp"}`:             700,
		`service_connections_total{vip="edge",service="10.0.0.1:53/udp"}`:          0,
		`service_in_packets_total{vip="edge",service="10.0.0.1:53/udp"}`:           0,
		`service_in_bytes_total{vip="edge",service="10.0.0.1:53/udp"}`:             0,
		`real_server_weight{vip="edge",server="10.1.0.1"}`:                         5,
		`real_server_weight{vip="edge",server="10.1.0.2"}`:                         0,
		`real_server_connections{vip="edge",server="10.1.0.1",state="active"}`:     13,
		`real_server_connections{vip="edge",server="10.1.0.1",state="inactive"}`:   4,
		`real_server_connections{vip="edge",server="10.1.0.1",state="persistent"}`: 1,
		`real_server_connections{vip="edge",server="10.1.0.2",state="active"}`:     0,
		`real_server_connections{vip="edge",server="10.1.0.2",state="inactive"}`:   2,
		`real_server_connections{vip="edge",server="10.1.0.2",state="persistent"}`: 0,

		// Of the last two scrapes: the first one saw 5, 50 and 500.
		`vip_connections_total{vip="edge"}`: 2, `vip_in_packets_total{vip="edge"}`: 20, `vip_in_bytes_total{vip="edge"}`: 200,
		`vip_connections{vip="edge",state="active"}`: 13, `vip_connections{vip="edge",state="inactive"}`: 6, `vip_connections{vip="edge",state="persistent"}`: 1,
		"metrics_rows_left_out": 0,
	}
	row := func(service, server string, weight, active, inactive, persistent, conns, packets, bytes float64) {
		labels := fmt.Sprintf(`{vip="edge",service=%q,server=%q`, service, server)
		want["service_server_weight"+labels+"}"] = weight
		want["service_server_connections"+labels+`,state="active"}`] = active
		want["service_server_connections"+labels+`,state="inactive"}`] = inactive
		want["service_server_connections"+labels+`,state="persistent"}`] = persistent
		want["service_server_connections_total"+labels+"}"] = conns
		want["service_server_in_packets_total"+labels+"}"] = packets
		want["service_server_in_bytes_total"+labels+"}"] = bytes
	}
	row("10.0.0.1:80/tcp", "10.1.0.1", 1, 3, 4, 1, 6, 60, 600)
	row("10.0.0.1:80/tcp", "10.1.0.2", 0, 0, 2, 0, 0, 0, 0)
	row("10.0.0.1:53/udp", "10.1.0.1", 5, 10, 0, 0, 0, 0, 0)
	if diff := cmp.Diff(want, values(families)); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func TestLabelEscaping(t *testing.T) {
	const nasty = "a\"b\\c\nd\\n{},= é"
	families, _ := scrape(t, func(w *bytes.Buffer) {
		e := &exposition{w: w}
		e.family("x", gauge, "X.")(1.5, "one", nasty, "two", "")
		e.flush()
	})
	want := []metricSample{{name: "lvs_x", labels: [][2]string{{"one", nasty}, {"two", ""}}, value: 1.5}}
	if diff := cmp.Diff(want, families["lvs_x"].samples, cmp.AllowUnexported(metricSample{})); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}
