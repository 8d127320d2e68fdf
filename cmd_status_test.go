// What `status` prints, and where it looks for the running controller.

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// shownStatus is a director with something of everything to show.
func shownStatus() status {
	return status{
		Version:  statusVersion,
		Ready:    true,
		Since:    testTime,
		Kept:     []string{"six IPv6"},
		Warnings: []string{`vip edge: ConfigMap ingress-nginx/tcp-services: entry "abc" is skipped: port "abc" is not a number from 1 to 65535`},
		Cluster: []StreamState{
			{Name: "configmap ingress-nginx/tcp-services", Synced: true, Since: testTime, Objects: 1, Lists: 1},
			{Name: "pods ingress-nginx app=nginx", Synced: true, Since: testTime, LastError: "list pods: connection refused", Objects: 2, Lists: 1},
		},
		Services: []serviceStatus{
			{
				Service: service("10.0.0.1:80/tcp").ServiceKey, VIP: "edge", Scheduler: "wlc",
				Traffic: Traffic{Connections: 12345, ConnsPerSec: 12},
				Servers: []serverStatus{
					{Address: addr("10.1.0.1"), Weight: 1, Why: "pod a ready", Connections: Connections{Active: 3, Inactive: 40}, Traffic: Traffic{Connections: 12000, ConnsPerSec: 12}},
					{Address: addr("10.1.0.2"), Weight: 0, Why: "pod b terminating, draining", Since: testTime.Add(59 * time.Minute), DrainUntil: testTime.Add(64 * time.Minute), Connections: Connections{Active: 1}, Traffic: Traffic{Connections: 345}},
					{Address: addr("10.1.0.3"), Port: 8080, Weight: 1},
				},
			},
			{Service: service("[2001:db8::1]:53/udp").ServiceKey, VIP: "six", Scheduler: "rr", Servers: []serverStatus{}},
		},
		Config: configStatus{Path: "/etc/lvs-controller/config.toml", Loaded: testTime},
		VIPs: []vipStatus{
			{
				Name: "edge", Announce: AnnounceARP, Addresses: []addressStatus{{Address: addr("10.0.0.1"), Device: "eth0"}},
				Nodes: []nodeStatus{
					{Address: addr("10.1.0.1"), Node: "node-a", Pods: []string{"web/a"}, Probes: []probeStatus{{Kind: "http", State: "down", Answer: "GET http://10.1.0.1/: 500", At: testTime}}},
				},
			},
			{
				Name: "six", Announce: AnnounceNone,
				Addresses: []addressStatus{{Address: addr("2001:db8::1"), Missing: `with announce = "none" keepalived, or another program, puts it on the director that serves`}},
			},
		},
		Table: connectionTable{Defences: map[string]bool{"drop_entry": true, "drop_packet": false}},
	}
}

var shownText = strings.ReplaceAll(`ready
role: has 1 of 2 VIP addresses: 10.0.0.1 on eth0
VIP: six: 2001:db8::1 is on no device of this host: with announce = "none" keepalived, or another
  program, puts it on the director that serves
KEPT: the last working real servers of six IPv6 stay in service; by the inputs none would be
cluster: pods ingress-nginx app=nginx: list pods: connection refused
config file: /etc/lvs-controller/config.toml, loaded LOADED (60m ago)
warning: vip edge: ConfigMap ingress-nginx/tcp-services: entry "abc" is skipped: port "abc" is not
  a number from 1 to 65535
FLOOD: the kernel defends itself with drop_entry, see docs/tuning.md
  REAL SERVER        WEIGHT  ACTIVE INACTIVE CONNS/S  SINCE  NODE, WHY, PROBES
edge 10.0.0.1 80/tcp  (wlc on eth0, 12 conns/s, 12345 connections)
  10.1.0.1                1       3       40      12   >60m  node-a, pod a ready, http down: GET
                                                             http://10.1.0.1/: 500
  10.1.0.2                0       1        0       0    60s  4m left: pod b terminating, draining
  10.1.0.3 port 8080      1       0        0       0   >60m
six 2001:db8::1 53/udp  (rr, 0 conns/s, 0 connections)
`, "LOADED", testTime.Local().Format(time.DateTime))

// `status` shows what the running controller says, as text and as JSON.
func TestStatusOfARunningController(t *testing.T) {
	controller := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/status.json" {
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(shownStatus()); err != nil {
			t.Error(err)
		}
	}))
	defer controller.Close()
	file := writeConfig(t, fmt.Sprintf("listen = %q\n", strings.TrimPrefix(controller.URL, "http://"))+staticVIP)

	code, stdout, stderr := cli(t, "status", "-config", file)
	if code != 0 || stderr != "" {
		t.Errorf("status: exit %d, stderr %q", code, stderr)
	}
	// The ages depend on the present time.
	ages := regexp.MustCompile(`\(\d+[smhd] ago\)| +>?\d+[smhd]\b( left:)?`)
	if diff := cmp.Diff(ages.ReplaceAllString(shownText, " AGE"), ages.ReplaceAllString(stdout, " AGE")); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}

	code, stdout, stderr = cli(t, "status", "-o", "json", "-config", file)
	if code != 0 || stderr != "" {
		t.Errorf("status -o json: exit %d, stderr %q", code, stderr)
	}
	var got status
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shownStatus(), got, compareAddrs); diff != "" {
		t.Errorf("status -o json (-want +got):\n%s", diff)
	}
	for _, key := range []string{
		"ready", "since", "kept", "warnings",
		"cluster[].name", "cluster[].synced", "cluster[].since", "cluster[].lastError", "cluster[].objects", "cluster[].events", "cluster[].lists",
		"services[].service", "services[].vip", "services[].scheduler", "services[].traffic.connections",
		"services[].servers[].address", "services[].servers[].port", "services[].servers[].weight", "services[].servers[].why",
		"services[].servers[].connections", "services[].servers[].traffic.conns_per_sec",
	} {
		if !strings.Contains(strings.Join(jsonPaths(t, stdout), "\n")+"\n", key+"\n") {
			t.Errorf("status -o json has no %s", key)
		}
	}
}

// A filter changes no sum, finds the ports of a firewall mark, and says when it finds
// nothing.
func TestStatusFilterSays(t *testing.T) {
	st := shownStatus()
	st.Table.Bits, st.Table.Buckets = 4, 16
	st.Services = append(st.Services,
		serviceStatus{Service: MarkKey(5, false), VIP: "one-mark", Ports: []string{"443/tcp", "9000-9020/tcp", "53/udp"}, Servers: []serverStatus{{Address: addr("10.1.0.1"), Weight: 1, Connections: Connections{Active: 16}}}},
		serviceStatus{Service: MarkKey(6, false), VIP: "no-ports-known", Servers: []serverStatus{{Address: addr("10.1.0.5")}}})
	controller := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(st) }))
	defer controller.Close()
	file := writeConfig(t, fmt.Sprintf("listen = %q\n", strings.TrimPrefix(controller.URL, "http://"))+staticVIP)
	for _, test := range []struct {
		args, shown, hidden, says string
		code                      int
	}{
		{"-vip six", "16 buckets, 60 connections, 3.75 for each bucket", "mark-5", "", 0},
		{"-port 9010", "one-mark mark-5/ipv4", "10.0.0.1 80/tcp", "", 0},
		{"-port 443/tcp", "one-mark mark-5/ipv4", "10.0.0.1 80/tcp", "", 0},
		{"-port 80", "no-ports-known mark-6/ipv4", "mark-5", "", 0},
		{"-vip one-mark -port 9021", "", "", "no service on port 9021; there are 443/tcp, 9000-9020/tcp, 53/udp\n", 1},
		{"-vip one-mark -port 9010/udp", "", "", "no service on port 9010/udp; there are 443/tcp, 9000-9020/tcp, 53/udp\n", 1},
		{"-vip typo", "", "", "no VIP typo; there are edge, no-ports-known, one-mark, six\n", 1},
		{"-o json -vip typo", "", "", "no VIP typo; there are edge, no-ports-known, one-mark, six\n", 1},
		{"-vip edge -server 10.1.0.9", "", "", "no service with the real server 10.1.0.9; there are 10.1.0.1, 10.1.0.2, 10.1.0.3\n", 1},
		{"-vip six -port 80", "", "", "no service on port 80; there is 53/udp\n", 1},
		{"-port abc", "", "", `lvs-controller status: -port: port "abc" is not a number from 1 to 65535` + "\n", 2},
		{"-port 80/icmp", "", "", `lvs-controller status: -port: protocol "icmp" is not tcp, udp or sctp` + "\n", 2},
		{"-vpi edge", "", "", "lvs-controller status: unknown flag -vpi, did you mean -vip?\n", 2},
	} {
		code, stdout, stderr := cli(t, append(strings.Fields("status -config "+file), strings.Fields(test.args)...)...)
		if code != test.code || stderr != test.says || !strings.Contains(stdout, test.shown) || code != 0 && stdout != "" || test.hidden != "" && strings.Contains(stdout, test.hidden) {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", test.args, code, stderr, stdout)
		}
	}
	long := notThere("VIP", strings.Repeat("\x1b", 1000), slices.Repeat([]string{strings.Repeat("x", 1000)}, 1000))
	if len(long) > 2000 || strings.Contains(long, "\x1b") || !strings.HasSuffix(long, " and 990 more") {
		t.Errorf("a line of %d characters: %s", len(long), long)
	}
}

// Without a usable configuration and without a state file, no service is known to be the
// controller's: an empty table would be false.
func TestStatusOfUnknownServices(t *testing.T) {
	dir := t.TempDir()
	for socket, where := range map[string]string{dir + "/" + controlSocket: dir, dir + "/other.sock": "/run/lvs-controller"} {
		_, err := kernelStatus(nil, controllerAt{socket: socket})
		if want := "no usable configuration, and no state in " + where + "; "; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", socket, err, want)
		}
	}
}

// An answer that is not a controller's is said to be none.
func TestStatusOfSomethingElse(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		t.Error("a redirect is followed")
		fmt.Fprint(w, `{"ready":true}`)
	}))
	defer elsewhere.Close()
	redirect := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"another server", http.NotFound, "status 404 Not Found"},
		{"a controller whose kernel is away", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }, "status 503 Service Unavailable: no"},
		{"what a terminal obeys", refuseWith("\n a\x1b[2J \r\nb"), `status 503 Service Unavailable: a\x1b[2J`},
		{"a text without end", refuseWith(strings.Repeat("x", 1<<20)), "status 503 Service Unavailable: " + strings.Repeat("x", reportedText) + "…"},
		{"a redirect", redirect, "a redirect to \"" + elsewhere.URL},
		{"not JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "invalid character"},
	} {
		other := httptest.NewServer(test.answer)
		_, err := fetchStatus(t.Context(), controllerAt{listen: strings.TrimPrefix(other.URL, "http://")})
		other.Close()
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.HasPrefix(test.want, "status 503") && err.Error() != test.want {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	other := httptest.NewServer(http.HandlerFunc(redirect))
	defer other.Close()
	if code, _, stderr := cli(t, "ready", "-listen", strings.TrimPrefix(other.URL, "http://")); code == exitOK || !strings.Contains(stderr, "a redirect to") {
		t.Errorf("ready: exit %d, stderr %q", code, stderr)
	}
	if _, err := fetchStatus(t.Context(), controllerAt{}); err == nil || err.Error() != "listen is off" {
		t.Errorf("listen off: %v", err)
	}
}

// refuseWith answers each request with 503 and this text.
func refuseWith(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, http.StatusServiceUnavailable) }
}

// A controller that answers with an error is not said to be away, and its reason is shown.
func TestStatusOfAnError(t *testing.T) {
	busy := httptest.NewServer(refuseWith("too many requests at a time"))
	defer busy.Close()
	dir := t.TempDir()
	file := writeConfig(t, fmt.Sprintf("listen = %q\nstate_dir = %q\n%s", strings.TrimPrefix(busy.URL, "http://"), dir, staticVIP))
	_, stdout, stderr := cli(t, "status", "-config", file) // the exit code is the kernel's
	const want = "the controller answers with an error (status 503 Service Unavailable: too many requests at a time, and dial unix "
	if !strings.HasPrefix(stderr, want) || stdout != "" && !strings.HasPrefix(stdout, "NOT READY: the controller answers with an error\n") {
		t.Errorf("status: stdout %q, stderr %q; want %q", stdout, stderr, want)
	}
}

func TestDialable(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:9652":     "127.0.0.1:9652",
		"10.0.0.5:9652":      "10.0.0.5:9652",
		"localhost:9652":     "localhost:9652",
		":9652":              "localhost:9652",
		"0.0.0.0:9652":       "127.0.0.1:9652",
		"[::]:9652":          "[::1]:9652",
		"[2001:db8::1]:9652": "[2001:db8::1]:9652",
	} {
		if got := dialable(listen); got != want {
			t.Errorf("dialable(%q) = %q, want %q", listen, got, want)
		}
	}
}

// Ready is an exit code for keepalived and a line for people. With -listen no
// configuration is read.
func TestReady(t *testing.T) {
	answer := http.StatusOK
	controller := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			answer = http.StatusNotFound
		}
		w.WriteHeader(answer)
		fmt.Fprintln(w, map[bool]string{true: "ok", false: "no real server is in service"}[answer == http.StatusOK])
	}))
	defer controller.Close()
	listen := strings.TrimPrefix(controller.URL, "http://")
	good := writeConfig(t, fmt.Sprintf("listen = %q\n%s", listen, staticVIP))
	ask := func(wantCode int, wantOut, wantErr string, args ...string) {
		t.Helper()
		code, stdout, stderr := cli(t, append([]string{"ready"}, args...)...)
		if code != wantCode || stdout != wantOut || !strings.HasPrefix(stderr, wantErr) || wantErr == "" && stderr != "" {
			t.Errorf("ready %q: exit %d, stdout %q, stderr %q; want %d, %q, %q", args, code, stdout, stderr, wantCode, wantOut, wantErr)
		}
	}
	ask(0, "ready\n", "", "-config", good)
	ask(0, "ready\n", "", "-listen", listen, "-config", "/nowhere")
	if code, stdout, stderr := cli(t, "status", "-socket", "/nowhere/x.sock", "-config", good); !strings.Contains(stderr, "(dial unix /nowhere/x.sock: ") {
		t.Errorf("status of another socket: exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	answer = http.StatusServiceUnavailable
	ask(1, "", "NOT READY: no real server is in service\n", "-config", good)
	controller.Close()
	ask(1, "", "NOT READY: the controller does not answer: ", "-listen", listen)
	ask(1, "", "NOT READY: the controller does not answer: listen is off, and dial unix /run/lvs-controller/control.sock: ", "-config", writeConfig(t, "listen = \"\"\n"+staticVIP))
	ask(1, "", "NOT READY: the controller does not answer: dial unix /nowhere/x.sock: ", "-socket", "/nowhere/x.sock")
	ask(1, "", "NOT READY: the controller does not answer: dial unix /nowhere/x.sock: ", "-socket", "/nowhere/x.sock", "-config", good)
	ask(1, "", "read the configuration: ", "-config", "/nowhere/config.toml")
	ask(2, "", "lvs-controller ready: unknown flag -lisen, did you mean -listen?\n", "-lisen", listen)
}

// drainOf runs `drain` with a configuration of its own directories, more beside, as if
// a controller had carried the order out before.
func drainOf(t *testing.T, more string, args ...string) (dir, file string, code int, stdout, stderr string) {
	t.Helper()
	dir = t.TempDir()
	if err := setDrained(dir, true); err != nil {
		t.Fatal(err)
	}
	since, err := drainedSince(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(args) > 0 && args[0] == "-undo" {
		since = time.Time{}
	}
	if err := confirm(dir, since); err != nil {
		t.Fatal(err)
	}
	file = writeConfig(t, fmt.Sprintf("state_dir = %q\ncache_dir = %q\n%s", dir, dir, more))
	code, stdout, stderr = cli(t, append([]string{"drain", "-wait", "10s", "-config", file}, args...)...)
	return dir, file, code, stdout, stderr
}

// An operator is not told that the VIPs are gone while keepalived still has them.
func TestDrainSaysWhoMovesTheVIPs(t *testing.T) {
	const (
		words = "drained: this director is not ready, and announces no VIP"
		away  = `; those with announce = "arp" are on no host until another director takes them, or drain -undo`
		later = `; keepalived hands over those with announce = "none" within seconds, if the other director is ready`
	)
	arp := "[[vip]]\nname = \"arp\"\naddresses = [\"192.0.2.1\"]\nannounce = \"arp\"\nports = [80]\n"
	dummy := strings.ReplaceAll(arp, "arp", "dummy")
	none := "[[vip]]\nname = \"none\"\naddresses = [\"192.0.2.2\"]\nports = [80]\n"
	for more, want := range map[string]string{arp: words + away, none: words + later, dummy: words, arp + none: words + away + later} {
		if _, _, code, stdout, stderr := drainOf(t, more); code != exitOK || stdout != want+"\n" || stderr != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", more, code, stdout, stderr)
		}
	}
}

// The controller goes on with the last good file, so a mistake in it keeps no director
// in office; unless the order's own directory is not known.
func TestDrainWithAMistakeInTheFile(t *testing.T) {
	for _, more := range []string{manyMistakes, "interface = 7\nvip = 7\n", ""} {
		for _, args := range [][]string{nil, {"-undo"}} {
			dir, file, code, stdout, stderr := drainOf(t, more, args...)
			want := fmt.Sprintf("%s cannot be used, see `lvs-controller check`; the order is written nevertheless, in %s\n", file, dir)
			if code != exitOK || stderr != want || !strings.Contains(stdout, "drained") {
				t.Errorf("%q %s: exit %d, stdout %q, stderr %q", args, more, code, stdout, stderr)
			}
			if since, err := drainedSince(dir); err != nil || since.IsZero() != (args != nil) {
				t.Errorf("%q: drained since %s, %v", args, since, err)
			}
		}
	}
	for what, more := range map[string]string{"no TOML": "[[vip]\n", "a key twice": "state_dir = \"/run\"\n"} {
		for how, args := range map[string][]string{"touch": nil, "rm": {"-undo"}} {
			dir, file, code, stdout, stderr := drainOf(t, more, args...)
			want := fmt.Sprintf("the order to drain is not written; with the default cache_dir `%s /var/lib/lvs-controller/drained` does the same\n", how)
			if code != exitFailure || stdout != "" || !strings.HasPrefix(stderr, file+":3: syntax: ") || !strings.HasSuffix(stderr, "\n"+want) {
				t.Errorf("%s, %q: exit %d, stdout %q, stderr %q", what, args, code, stdout, stderr)
			}
			if since, err := drainedSince(dir); err != nil || since.IsZero() {
				t.Errorf("%s, %q: the order has changed: %s, %v", what, args, since, err)
			}
		}
	}
	file := writeConfig(t, "cache_dir = \"cache\"\ncolor = 7\n"+staticVIP)
	code, stdout, stderr := cli(t, "drain", "-config", file)
	if want := file + ":1: cache_dir: is \"cache\", want an absolute path such as \"/var/lib/lvs-controller\"\nthe order to drain is not written; with the default cache_dir `touch /var/lib/lvs-controller/drained` does the same\n"; code != exitFailure || stdout != "" || stderr != want {
		t.Errorf("a directory that is wrong itself: exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	for _, mistake := range []string{"cach_dir = \"/srv\"\n", "[timeouts]\ncache_dir = \"/srv\"\n"} {
		code, stdout, stderr := cli(t, "drain", "-config", writeConfig(t, mistake+staticVIP))
		if code != exitFailure || stdout != "" || strings.Count(stderr, "cache_dir") != 2 || !strings.Contains(stderr, "the order to drain is not written") {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", mistake, code, stdout, stderr)
		}
	}
	cfg, err := LoadDirectories(writeConfig(t, "color = 7\nstate_dir = \"/run/x/\"\n"))
	if err != nil || cfg.StateDir != "/run/x" || cfg.CacheDir != defaultConfig().CacheDir {
		t.Errorf("only one of the directories: %+v, %v", cfg, err)
	}
}
