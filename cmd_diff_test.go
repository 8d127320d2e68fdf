// What `diff` prints, and how it waits for the cluster.

package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// diff waits for an API server that is starting, and not for what no waiting mends.
func TestDiffWaitsForWhatPasses(t *testing.T) {
	pods := podList("7", "", testPod{name: "a"}) // where there is none, the labels of others are asked for too
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	server := func(replies ...reply) string { return string(newFakeAPI(t, replies...).kubeconfig("t")) }
	for _, test := range []struct {
		name        string
		kubeconfig  string
		clusterFile string
		want        string // in the error; "" = an answer
	}{
		{"a server that is starting", server(refuses(503, "starting"), refuses(500, "starting"), says(pods)), "", ""},
		{"no cluster file", "", filepath.Join(dir, "absent"), "no such file"},
		{"a FIFO", "", fifo, "FIFO"},
		{"a file that is no list", "", file("prose", []byte("pods: none\n")), "no kind"},
		{"UTF-16", "", file("utf16", []byte("{\x00\"\x00k\x00i\x00")), "UTF-16"},
		{"no context", `{"apiVersion":"v1","kind":"Config"}`, "", "kubeconfig"},
		{"no rights", server(refuses(403, "no"), refuses(403, "no")), "", "grant it"},
		{"wrong credentials", server(refuses(401, "no"), refuses(401, "no")), "", "credentials"},
		{"another server", server(refuses(404, "no"), refuses(404, "no")), "", "404"},
		{"another authority", string(kubeconfigFor(newFakeAPI(t).URL, nil, "t")), "", "certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := ClusterQuery{Pods: []PodQuery{{Namespace: "web", Selector: "app=edge"}}, ClusterFile: test.clusterFile}
			if test.kubeconfig != "" {
				q.Kubeconfig = file("kubeconfig", []byte(test.kubeconfig))
			}
			begun := time.Now()
			_, err := askCluster(t.Context(), q)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if took := time.Since(begun); test.want != "" && took > faultTimeout {
				t.Errorf("took %s", took)
			}
		})
	}
	for _, err := range []error{&fault{err: io.ErrUnexpectedEOF}, &fault{err: unix.ECONNREFUSED}, &fault{err: errNoAnswer}} {
		if lasting(err) {
			t.Errorf("%v does not pass", err)
		}
	}
}

// staticVIPDiff is what `diff` prints for staticVIP on an empty table.
const staticVIPDiff = `    WHAT        FROM → TO     WHY

vip edge  192.0.2.1  80/tcp
  + service     scheduler rr  new virtual service
  + 192.0.2.11  weight 1      static

2 changes
`

// offlineDiff runs `diff` on a captured cluster and a saved table. The machine needs no
// IPVS for it.
func offlineDiff(t *testing.T, config, cluster, table string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"config.toml": config, "captured.json": cluster, "saved.txt": table} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cli(t, append([]string{"diff", "-config", filepath.Join(dir, "config.toml"),
		"-cluster-file", filepath.Join(dir, "captured.json"), "-table", filepath.Join(dir, "saved.txt")}, args...)...)
}

// What `kubectl get pods -o json` and `ipvsadm -Sn` have captured.
const (
	reviewedConfig = `
kubeconfig = "/nowhere" # is not read
[[vip]]
name = "edge"
addresses = ["10.0.0.1", "2001:db8::1"]
ports = ["80/tcp", "443/tcp", "9000/tcp", "9001/tcp", "53/udp"]
scheduler = "wlc"
namespace = "web"
selector = "app=edge"
[[vip]]
name = "mail"
addresses = ["10.0.0.2"]
ports = ["25/tcp", "465/tcp"]
scheduler = "sh"
one_mark = true
selector = ""
upper_threshold = 100
real_servers = [{ address = "10.1.0.9", weight = 3 }]
[vip.persistence]
timeout = "5m"
`
	reviewedCluster = `{"kind":"List","apiVersion":"v1","items":[
{"kind":"Pod","metadata":{"name":"a","namespace":"web","labels":{"app":"edge"}},"spec":{"hostNetwork":true,"nodeName":"n1"},
 "status":{"phase":"Running","hostIP":"10.1.0.1","podIPs":[{"ip":"10.1.0.1"},{"ip":"2001:db8::11"}],"hostIPs":[{"ip":"10.1.0.1"},{"ip":"2001:db8::11"}],"conditions":[{"type":"Ready","status":"True"}]}},
{"kind":"Pod","metadata":{"name":"b","namespace":"web","labels":{"app":"edge"}},"spec":{"hostNetwork":true,"nodeName":"n2"},
 "status":{"phase":"Running","hostIP":"10.1.0.2","podIPs":[{"ip":"10.1.0.2"}],"hostIPs":[{"ip":"10.1.0.2"}],"conditions":[{"type":"Ready","status":"False"}]}}]}`

	reviewedTable = `-A -t 10.0.0.1:80 -s rr
-a -t 10.0.0.1:80 -r 10.1.0.1:80 -g -w 1
-a -t 10.0.0.1:80 -r 10.1.0.2:80 -g -w 1
-A -t 10.0.0.1:443 -s rr
-a -t 10.0.0.1:443 -r 10.1.0.1:443 -g -w 1
-a -t 10.0.0.1:443 -r 10.1.0.2:443 -g -w 1
-A -t 10.0.0.1:8080 -s rr
-a -t 10.0.0.1:8080 -r 10.1.0.1:8080 -g -w 1
-A -u 10.0.0.1:69 -s rr
-a -u 10.0.0.1:69 -r 10.1.0.1:69 -g -w 1
-A -t 10.9.0.1:8080 -s rr
-A -f 5137 -s sh -p 300 -b sh-fallback
-a -f 5137 -r 10.1.0.9:0 -g -w 1
`
	reviewedLeftOut = `not compared: kernel settings, timeouts, sync daemons, addresses, marks and connection tracking of the host: a listing does not have them
not compared: upper_threshold and lower_threshold: ipvsadm -Sn does not list them
not compared: 1 virtual service of the listing, on an address or mark that the configuration does not have
`
)

// The three forms, as testdata/golden has them. docs/diff.md shows the table.
func TestDiffOffline(t *testing.T) {
	for _, form := range []string{"table", "json", "ipvsadm"} {
		want, err := os.ReadFile("testdata/golden/diff-" + form + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := offlineDiff(t, reviewedConfig, reviewedCluster, reviewedTable, "-o", form)
		if code != exitChanges || stderr != reviewedLeftOut {
			t.Errorf("-o %s: exit %d, stderr %s", form, code, cmp.Diff(reviewedLeftOut, stderr))
		}
		if diff := cmp.Diff(string(want), stdout); diff != "" {
			t.Errorf("-o %s (-want +got):\n%s", form, diff)
		}
		if form == "table" && !strings.Contains(readText(t, "docs/diff.md"), stdout) {
			t.Errorf("docs/diff.md does not show this table:\n%s", stdout)
		}
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A table that is as wanted is silent, and a listing without thresholds does not differ
// in them.
func TestDiffOfNothing(t *testing.T) {
	const saved = "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 192.0.2.11:80 -g -w 1\n"
	config := staticVIP + "upper_threshold = 100\nlower_threshold = 50\n"
	code, stdout, stderr := offlineDiff(t, config, `{"kind":"List","apiVersion":"v1","items":[]}`, saved)
	if code != exitOK || stdout != "" || !strings.Contains(stderr, "not compared: upper_threshold") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	var none bytes.Buffer
	if err := encodeChanges(&none, nil, &changeSet{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"changes", "host", "not_compared", "services", "version", "warnings"}, jsonPaths(t, none.String())); diff != "" {
		t.Errorf("fields of nothing (-want +got):\n%s", diff)
	}
	// One that has some, which an editor wrote, does.
	code, stdout, _ = offlineDiff(t, config, `{"kind":"List","apiVersion":"v1","items":[]}`, strings.Replace(saved, "-w 1", "-w 1 -x 90 -y 50", 1), "-o", "ipvsadm")
	if want := "-e -t 192.0.2.1:80 -r 192.0.2.11:80 -g -w 1 -x 100 -y 50\n"; code != exitChanges || stdout != want {
		t.Errorf("exit %d, stdout %q, want %q", code, stdout, want)
	}
}

// What cannot be compared is one line, and no half of an answer.
func TestDiffMistakes(t *testing.T) {
	file := writeConfig(t, staticVIP)
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-o", "xml"}, exitUsage, `-o "xml" is not table, json or ipvsadm`},
		{[]string{"-cluster-file", file, "-kubeconfig", file}, exitUsage, "give either -cluster-file or -kubeconfig"},
		{[]string{"-table", "/nowhere/saved.txt"}, exitFailure, "read the saved table: "},
		{[]string{"-table", t.TempDir()}, exitFailure, "is not a regular file but a directory"},
		{[]string{"-table", file}, exitFailure, file + `: line 1: it begins with "[[vip]]", want -A or -a, as ipvsadm -Sn prints it`},
	} {
		code, stdout, stderr := cli(t, append([]string{"diff", "-config", file}, test.args...)...)
		if code != test.code || stdout != "" || !strings.Contains(stderr, test.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", test.args, code, stdout, stderr)
		}
	}
}

// everyChange is a change of each kind.
func everyChange() *changeSet {
	was, now := service("10.0.0.1:80/tcp", "10.1.0.1", 1, "10.1.0.2", 1), service("10.0.0.1:80/tcp", "10.1.0.1", 0, "2001:db8:1234:5678:9abc:def0:1234:5678", 7)
	now.Scheduler, now.Flags, now.Persistence, now.Netmask, now.Engine = "mh", FlagPersistent|FlagSched2, 600, 24, "sip"
	r := &now.Servers[1].RealServer
	r.Port, r.Forward, r.Upper, r.Lower, r.Tunnel = 65535, Tunnel, 200, 100, TunnelSettings{Type: TunnelGUE, Port: 6080, Flags: TunnelRemoteChecksum}
	now.Servers[0].Why, now.Servers[1].Why = "pod web-7c5ddbdf54-2x9kp terminating, draining", "static"
	old, kept, edited := service("10.0.0.9:80/tcp", "10.1.0.9", 1), service("10.0.0.2:80/tcp", "10.1.0.9", 1), service("10.0.0.2:80/tcp", "10.1.0.9", 3)
	old.ServiceKey, old.VIP, kept.ServiceKey, edited.ServiceKey = MarkKey(7, true), "", MarkKey(8, false), MarkKey(8, false)
	old.Servers[0].Port, kept.Servers[0].Port, edited.Servers[0].Port = 0, 0, 0
	edited.Servers[0].Why = "static"
	marked := func(address string, port uint16) MarkedPort { return MarkedPort{addr(address), Port{port, TCP}} }
	return &changeSet{
		ops:       diff(split(Table{edited, now}), split(Table{kept, was, old})),
		marked:    map[MarkedPort]uint32{marked("10.0.0.2", 25): 8, marked("10.0.0.2", 465): 8},
		markedNow: map[MarkedPort]uint32{marked("10.0.0.2", 25): 8, marked("2001:db8::9", 81): 7, marked("2001:db8::9", 80): 7, marked("2001:db8::9", 79): 7},
		beside: []pendingChange{
			{Kind: kindSysctl, Name: "net/ipv4/vs/expire_quiescent_template", Action: actEdit, From: "0", To: "1", Why: "persistence must not send new connections to a real server of weight 0"},
			{Kind: kindTimeout, Name: "tcp", Action: actEdit, From: "15m0s", To: "17m0s", Why: "configuration", line: "--set 1020 0 300"},
			{Kind: kindTimeout, Name: "udp", Action: actEdit, From: "6m0s", To: "5m0s", Why: "configuration"},
			{Kind: kindAddress, Name: "10.0.0.1", Action: actAdd, To: "eth0", Why: `announce = "arp"`},
			{Kind: kindAddress, Name: "10.0.0.9", Action: actRemove, From: "eth0", Why: notWanted},
			{Kind: kindMarks, Name: markTableName, Action: actEdit, To: deleteTable, Why: "configuration"},
		},
		warnings:    []string{"a warning"},
		notCompared: []string{"something"},
	}
}

const everyChangeText = `    WHAT                                      FROM → TO                 WHY

configured no more  mark-7/ipv6  79-81/tcp
  - service                                   scheduler rr, with 1      port no longer wanted
                                              real server

vip edge  mark-8/ipv4  25/tcp, 465/tcp
  ~ 10.1.0.9                                  weight 1 → 3              static

vip edge  10.0.0.1  80/tcp
  ~ service                                   scheduler rr → mh, flags  configuration
                                              none →
                                              persistent,mh-port,
                                              persistence 0s → 600s,
                                              clients by address →
                                              /24, persistence engine
                                              "" → "sip"
  ~ 10.1.0.1                                  weight 1 → 0              pod web-7c5ddbdf54-2x9kp
                                                                        terminating, draining
  - 10.1.0.2                                  weight 1
  + 2001:db8:1234:5678:9abc:def0:1234:5678    weight 7, tunnel gue      static
    port 65535                                port 6080 remote
                                              checksum, upper
                                              threshold 200, lower
                                              threshold 100

host
  ~ sysctl net/ipv4/vs/expire_quiescent_template  0 → 1             persistence must not send new
                                                                    connections to a real server of
                                                                    weight 0
  ~ timeout tcp                                   15m0s → 17m0s     configuration
  ~ timeout udp                                   6m0s → 5m0s       configuration
  + address 10.0.0.1                              eth0              announce = "arp"
  - address 10.0.0.9                              eth0              no longer wanted
  ~ firewall marks lvs-controller                 delete the table  configuration

12 changes
`

// The table and the lines for everything that may change.
func TestDiffForms(t *testing.T) {
	var table, lines, remarks bytes.Buffer
	if err := printChanges(&table, &remarks, everyChange()); err != nil || remarks.Len() > 0 {
		t.Fatal(err, remarks.String())
	}
	if diff := cmp.Diff(everyChangeText, table.String()); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, table.String())
	}
	if err := writeLines(&lines, &remarks, everyChange()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`--set 1020 0 300
-E -t 10.0.0.1:80 -s mh -p 600 -M 255.255.255.0 --pe sip -b mh-port
-a -t 10.0.0.1:80 -r [2001:db8:1234:5678:9abc:def0:1234:5678]:65535 -i -w 7 -x 200 -y 100 --tun-type gue --tun-port 6080 --tun-remcsum
-e -f 8 -r 10.1.0.9:0 -g -w 3
-e -t 10.0.0.1:80 -r 10.1.0.1:80 -g -w 0
-d -t 10.0.0.1:80 -r 10.1.0.2:80
-D -f 7 -6
`, lines.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(`# sysctl net/ipv4/vs/expire_quiescent_template: 0 → 1 (persistence must not send new connections to a real server of weight 0)
# address 10.0.0.1: eth0 (announce = "arp")
# address 10.0.0.9: eth0 (no longer wanted)
# firewall marks lvs-controller: delete the table (configuration)
`, remarks.String()); diff != "" {
		t.Errorf("remarks (-want +got):\n%s", diff)
	}
}

// docs/diff.md and the JSON form agree, both ways. from has the fields of to.
func TestDiffFields(t *testing.T) {
	var out bytes.Buffer
	if err := encodeChanges(&out, nil, everyChange()); err != nil {
		t.Fatal(err)
	}
	given, documented := make(map[string]bool), make(map[string]bool)
	for _, path := range jsonPaths(t, out.String()) {
		given[strings.ReplaceAll(path, ".from.", ".to.")] = true
	}
	docs := readText(t, "docs/diff.md")
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\|").FindAllStringSubmatch(docs, -1) {
		documented[m[1]] = true
	}
	if diff := cmp.Diff(documented, given); diff != "" {
		t.Errorf("fields (-docs/diff.md +given):\n%s", diff)
	}
	if want := fmt.Sprintf("`version` is %d", changesVersion); !strings.Contains(docs, want) {
		t.Errorf("docs/diff.md does not say that %s", want)
	}
}

// No line is too wide, and the same ports are one entry, whatever the table.
func TestDiffWidth(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	var have Table
	for range 300 {
		want := randomTable(random, have)
		for i := range want {
			for j := range want[i].Servers {
				want[i].Servers[j].Why = strings.Repeat("x", random.IntN(60)) + " " + strings.Repeat("é", random.IntN(60))
			}
		}
		var out bytes.Buffer
		if err := printChanges(&out, nil, &changeSet{ops: diff(split(want), split(have)), beside: everyChange().beside}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > diffWidth {
				t.Fatalf("%d columns: %s", n, line)
			}
		}
		have = want
	}
}

// A script that waits for "no changes" is not misled by what could not be read.
func TestDiffExitCode(t *testing.T) {
	one := []pendingChange{{}}
	for want, all := range map[int][]changeSet{
		exitOK:      {{}, {notCompared: []string{"thresholds"}}},
		exitFailure: {{unread: true, notCompared: []string{"the marks: EPERM"}}},
		exitChanges: {{beside: one}, {beside: one, unread: true}},
	} {
		for _, c := range all {
			if got := c.exitCode(); got != want {
				t.Errorf("%+v: exit code %d, want %d", c, got, want)
			}
		}
	}
}

func TestPortRanges(t *testing.T) {
	var keys []ServiceKey
	for _, k := range []string{"10.0.0.1:1/tcp", "10.0.0.1:2/tcp", "10.0.0.1:2/udp", "10.0.0.1:3/tcp", "10.0.0.1:3/udp", "10.0.0.1:5/tcp", "10.0.0.1:65535/tcp"} {
		keys = append(keys, service(k).ServiceKey)
	}
	if got := strings.Join(portRanges(append(keys, MarkKey(7, true))), " "); got != "1-3/tcp 2/udp 3/udp 5/tcp 65535/tcp mark-7/ipv6" {
		t.Error(got)
	}
}

// 50,000 real servers that change are printed in little time and memory, in each form.
func TestDiffOfALargeTable(t *testing.T) {
	var want Table
	for i := range 1000 {
		s := service(fmt.Sprintf("10.0.%d.%d:80/tcp", i/250, i%250))
		for j := range 50 {
			s.Servers = append(s.Servers, rows(fmt.Sprintf("10.1.0.%d", j), 1+(i+j)%7)...)
		}
		want = append(want, s)
	}
	c := changeSet{ops: diff(split(want), nil)}
	for form, write := range diffForms {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		begun := time.Now()
		if err := write(io.Discard, io.Discard, &c); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begun)
		runtime.ReadMemStats(&after)
		mib := (after.TotalAlloc - before.TotalAlloc) >> 20
		t.Logf("%s: %d changes, %v, %d MiB", form, c.count(), took, mib)
		if took > 10*time.Second || mib > 100 {
			t.Errorf("%s: %v, %d MiB", form, took, mib)
		}
	}
}

func TestSameSetting(t *testing.T) {
	for _, s := range [][2]string{{"0\t0", "0 0"}, {"0-3,8", "0,1,2,3,8"}, {"1", "1"}} {
		if !sameSetting(s[0], s[1]) {
			t.Errorf("%q is not %q", s[0], s[1])
		}
	}
	for _, s := range [][2]string{{"0", "1"}, {"", "0-1"}, {"0-3", "0-2"}, {"0-9999", "0-9998"}, {"x-y", "x-z"}} {
		if sameSetting(s[0], s[1]) {
			t.Errorf("%q is %q", s[0], s[1])
		}
	}
}

// besideKernel has timeouts and sync daemons.
type besideKernel struct {
	timeouts Timeouts
	daemons  []SyncDaemon
}

func (k *besideKernel) Timeouts() (Timeouts, error)    { return k.timeouts, nil }
func (k *besideKernel) Daemons() ([]SyncDaemon, error) { return k.daemons, nil }

func TestPendingBesideTheTable(t *testing.T) {
	k := besideKernel{timeouts: Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}}
	got, err := pendingTimeouts(Timeouts{TCPFin: time.Minute, UDP: 5 * time.Minute}, &k)
	if err != nil || len(got) != 1 || got[0].Name != "tcp_fin" || got[0].line != "--set 0 60 0" {
		t.Errorf("timeouts: %+v, %v", got, err)
	}
	want := SyncDaemon{Interface: "eth0", ID: 3, Group: defaultSyncGroup, Port: defaultSyncPort, TTL: defaultSyncTTL}
	master, backup := want, want
	master.Role, master.Device, backup.Role, backup.ID = SyncMaster, 2, SyncBackup, 4
	index := func(string) int { return 2 }
	lines := func(want *SyncDaemon, ours []SyncDaemon) (all []string) {
		t.Helper()
		changes, err := pendingDaemons(want, ours, index, &k)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			all = append(all, c.Action+" "+c.line)
		}
		return all
	}
	const options = " --mcast-interface eth0 --syncid 3 --mcast-group 224.0.0.81 --mcast-port 8848 --mcast-ttl 1"
	for _, test := range []struct {
		name    string
		running []SyncDaemon
		want    *SyncDaemon
		ours    []SyncDaemon
		lines   []string
	}{
		{"none runs", nil, &want, nil, []string{"add --start-daemon master" + options, "add --start-daemon backup" + options}},
		{"one differs", []SyncDaemon{master, backup}, &want, nil, []string{"edit --stop-daemon backup\n--start-daemon backup" + options}},
		{"none is wanted", []SyncDaemon{master, backup}, nil, []SyncDaemon{master}, []string{"remove --stop-daemon master"}},
		{"none is ours", []SyncDaemon{master, backup}, nil, nil, nil},
	} {
		k.daemons = test.running
		if diff := cmp.Diff(test.lines, lines(test.want, test.ours)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	index = func(string) int { return 0 }
	if _, err := pendingDaemons(&want, nil, index, &k); err == nil || err.Error() != "sync daemon master: there is no device eth0" {
		t.Errorf("no device: %v", err)
	}
}
