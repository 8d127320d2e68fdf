// What a running controller may still do: its capabilities, where it writes, and which
// reloads work with that.

package director

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// staticEdge is a VIP that needs no cluster.
const staticEdge = "[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nports = [80]\nannounce = \"arp\"\nreal_servers = [{ address = \"10.0.0.11\" }]\n"

// threadRights are the capabilities and no_new_privs of each thread of a process, each
// answer once.
func threadRights(t *testing.T, pid int) []string {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	found := map[string]bool{}
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		var fields []string
		for _, m := range rightsFields.FindAllStringSubmatch(string(text), -1) {
			fields = append(fields, m[1]+" "+m[2])
		}
		found[strings.Join(fields, ", ")] = true
	}
	if len(tasks) < 2 {
		t.Errorf("process %d has %d threads", pid, len(tasks))
	}
	return slices.Sorted(maps.Keys(found))
}

var rightsFields = regexp.MustCompile(`(?m)^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs):\t0*([0-9a-f]+)$`)

// droppedRights are what a controller has beyond no right at all, with these capabilities.
func droppedRights(kept string) []string {
	return []string{fmt.Sprintf("CapPrm %[1]s, CapEff %[1]s, CapBnd %[1]s, CapAmb 0, NoNewPrivs 1", kept)}
}

// builtWithCgo reports whether the controller is a binary for the race detector: Go cannot
// change the rights of each thread of it.
func builtWithCgo(t *testing.T) bool {
	t.Helper()
	info, err := buildinfo.ReadFile(controller())
	lab.Must(t, err)
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"})
}

// What the configuration needs at the start beyond the two capabilities stays, and is
// named; with -keep-privileges all stays. The bounding set of a user stays too, and gives
// nothing.
func TestRightsAtStart(t *testing.T) {
	of(t, "host")
	requireRoot(t)
	if builtWithCgo(t) {
		t.Skip("built with cgo")
	}
	for _, tt := range []struct {
		name, top string
		flag      string
		user      bool   // with the two capabilities, and a bounding set that it cannot change
		owner     int    // of cache_dir
		kept      string // capabilities; "" = all
		says      string
	}{
		{"as usual", "", "", false, 0, "3000", ""},
		{"without CAP_SETPCAP", "", "", true, 1000, "3000", ""},
		{"a kubeconfig of another user", "kubeconfig = \"hidden\"\n", "", false, 0, "3004", `kept=CAP_DAC_READ_SEARCH err="kubeconfig: kubeconfig: open DIR/hidden: permission denied"`},
		{"a low port", "listen = \"127.0.0.1:80\"\n", "", false, 0, "3400", `kept=CAP_NET_BIND_SERVICE err="listen: listen tcp 127.0.0.1:80: bind: permission denied"`},
		{"a directory of another user", "", "", false, 1000, "3002", `kept=CAP_DAC_OVERRIDE err="cache_dir: write to DIR/cache: permission denied"`},
		{"a view of the cluster that another user has left", "", "", false, 0, "3004", `kept=CAP_DAC_READ_SEARCH err="cache_dir: open DIR/cache/cluster.json: permission denied"`},
		{"all are kept", "kubeconfig = \"hidden\"\n", "-keep-privileges", false, 1000, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l := lab.New(t.Fatalf)
			t.Cleanup(l.Close)
			hidden, cache := filepath.Join(dir, "hidden"), filepath.Join(dir, "cache")
			lab.Must(t, errors.Join(os.WriteFile(hidden, nil, 0o600), os.Chown(hidden, 1000, 1000), os.Mkdir(cache, 0o700), os.Chown(cache, tt.owner, tt.owner)))
			if strings.Contains(tt.says, "cluster.json") {
				lab.Must(t, os.Rename(hidden, filepath.Join(cache, "cluster.json")))
			}
			top, vip := tt.top, staticEdge
			if !strings.Contains(top, "listen") {
				top += "listen = \"\"\n"
			}
			if strings.Contains(top, "kubeconfig") {
				vip = strings.Replace(vip, "real_servers", "# real_servers", 1)
			}
			config := filepath.Join(dir, "config.toml")
			lab.Must(t, os.WriteFile(config, fmt.Appendf(nil, "manage_sysctls = false\nstate_dir = %q\ncache_dir = %q\n%s%s", filepath.Join(dir, "state"), cache, top, vip), 0o600))
			args := []string{controller(), "-config", config}
			if tt.user {
				lab.Must(t, errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chown(dir, 1000, 1000), os.Chown(config, 1000, 1000)))
				args = append([]string{"setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all,+net_admin,+net_raw", "--ambient-caps=-all,+net_admin,+net_raw"}, args...)
			}
			if tt.flag != "" {
				args = append(args, tt.flag)
			}
			p := l.Host("director", 2).Start(args...)
			lab.Within(t, 10*time.Second, func() string {
				if _, err := os.Stat(filepath.Join(dir, "state", "control.sock")); err != nil {
					return err.Error() + "\n" + p.Log()
				}
				return ""
			})
			got, want := threadRights(t, p.PID()), droppedRights(tt.kept)
			if tt.user {
				bound := regexp.MustCompile("CapBnd [0-9a-f]+").FindString(threadRights(t, os.Getpid())[0])
				want[0] = strings.Replace(want[0], "CapBnd "+tt.kept, bound, 1)
			}
			if tt.kept == "" {
				if want = threadRights(t, os.Getpid()); len(want) != 1 {
					t.Fatalf("this test has several kinds of threads: %q", want)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("rights %q, want %q", got, want)
			}
			const kept = `level=WARN msg="the process keeps a right of root, because the configuration needs it"`
			says := kept + " " + strings.ReplaceAll(tt.says, "DIR", dir) + "\n"
			if tt.says != "" && !strings.Contains(p.Log(), says) || tt.says == "" && strings.Contains(p.Log(), kept) {
				t.Errorf("want %q:\n%s", tt.says, p.Log())
			}
		})
	}
}

// rightsSteps are configurations that together have each key of config.toml.example, but
// for those that rightsRefused has. DIR is the director's folder.
var rightsSteps = []string{
	// The program as a whole.
	`kubeconfig = "DIR/kubeconfig"
interface = "eth0"
listen = "127.0.0.1:9653"
listen_names = ["director.example.org"]
metrics = "servers"
announce_device = "lvs1"
withdraw_hold = "0s"
audit_interval = "1s"
manage_sysctls = false
peer_macs = ["02:00:00:00:00:01"]
[director]
connection_table_bits = 12
[marks]
first = 0x2000
count = 16
[[vip]]
name = "edge"
addresses = ["10.0.0.100"]
ports = [80]
one_mark = true
announce = "arp"
scheduler = "sh"
flags = ["sh-fallback"]
real_servers = [{ address = "10.0.0.11", weight = 1 }]
`,
	// The kernel's settings, sync daemons and events.
	`cluster_file = "cluster.json"
interface = "eth0"
listen = "127.0.0.1:9652"
manage_sysctls = true
audit_interval = "1s"
[timeouts]
tcp = "16m"
tcp_fin = "3m"
udp = "6m"
[sync]
interface = "eth0"
syncid = 7
group = "224.0.0.82"
port = 8849
ttl = 2
maxlen = 1400
[events]
webhook = "http://127.0.0.1:1/"
timeout = "1s"
token_file = "token"
SYSCTL
` + staticEdge,
	// VIPs over static real servers: each way to bring a packet there, each probe.
	`cluster_file = "cluster.json"
interface = "eth0"
listen = "127.0.0.1:9652"
audit_interval = "1s"
[[vip]]
name = "edge"
addresses = ["10.0.0.100", "2001:db8::100"]
ports = ["80/tcp", "443/tcp"]
groups = [["80/tcp", "443/tcp"]]
notrack = true
announce = "arp"
scheduler = "rr"
weight = 2
upper_threshold = 100
lower_threshold = 50
removal_brake = 10
neighbour_check = true
slow_start = "0s"
real_servers = [{ address = "10.0.0.11", weight = 3 }]
sorry_server = "10.0.0.12"
[vip.persistence]
timeout = "1m"
netmask = 24
prefix = 64
[vip.drain]
timeout = "1s"
[[vip]]
name = "routed"
addresses = ["10.9.0.100"]
ports = [80]
announce = "dummy"
forward = "tunnel"
real_servers = [{ address = "10.0.0.11" }]
[vip.tunnel]
type = "gue"
port = 6080
checksum = "none"
[[vip]]
name = "probed"
addresses = ["10.0.0.101"]
ports = [80]
announce = "arp"
sorry_server = "10.0.0.12"
real_servers = [{ address = "10.0.0.11" }]
[vip.health]
tcp = 80
ports = true
datapath = true
interval = "1s"
timeout = "900ms"
rise = 1
fall = 2
connects_per_second = 100
quorum = 1
hysteresis = 0
below_quorum = "sorry"
[[vip.health.http]]
port = 80
path = "/"
host = "example.org"
status = [200]
body_match = "node"
[[vip.health.http]]
port = 443
tls = true
body_sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
[vip.health.dns]
port = 53
name = "example.org"
type = "A"
[vip.health.udp]
port = 514
send = "ping"
answer = "pong"
answer_required = false
[[vip]]
name = "calls"
addresses = ["10.0.0.102"]
ports = ["5060/udp"]
announce = "none"
real_servers = [{ address = "10.0.0.11" }]
[vip.persistence]
engine = "sip"
`,
	// VIPs over a cluster.
	`cluster_file = "cluster.json"
interface = "eth0"
listen = "127.0.0.1:9652"
audit_interval = "1s"
[[vip]]
name = "edge"
addresses = ["10.0.0.100"]
ports = [80]
ports_from = "pods"
exclude_ports = ["9000/tcp"]
port_names = ["*"]
follow_nodes = true
host_ports = true
node_networks = ["10.0.0.0/24"]
reserved_ports = []
weight_annotation = "lvs-controller/weight"
namespace = "ingress-nginx"
selector = "app.kubernetes.io/name=ingress-nginx"
[[vip]]
name = "several"
addresses = ["10.0.0.106"]
ports = [80]
namespaces = ["web", "shop"]
selector = "app=gateway"
[[vip]]
name = "preset"
ingress = "ingress-nginx"
addresses = ["10.0.0.101"]
tcp_services = "tcp-services"
udp_services = "udp-services"
[[vip]]
name = "service"
addresses = ["10.0.0.102"]
service = "ingress-nginx/web"
[[vip]]
name = "named"
addresses = ["10.0.0.103"]
selector = "app=gateway"
namespace = "gw"
ports_from = "gateways"
gateways = ["gw/web"]
listener_sets = false
[[vip]]
name = "selected"
addresses = ["10.0.0.104"]
selector = "app=gateway"
namespace = "gw"
ports_from = "gateways"
gateway_selector = "app=edge"
[[vip]]
name = "classed"
addresses = ["10.0.0.105"]
selector = "app=gateway"
namespace = "gw"
ports_from = "gateways"
gateway_class = "edge"
`,
}

// rightsRefused are the keys whose change needs a right that is gone.
var rightsRefused = map[string]string{
	"state_dir":              "state_dir: the running controller may not write to DIR/other; ",
	"cache_dir":              "cache_dir: the running controller may not write to DIR/other; ",
	"allow_exec_credentials": "allow_exec_credentials: a program that the running controller starts may write to its directories alone; ",
}

var tomlTable, tomlKey = regexp.MustCompile(`^\[+([a-z_.]+)\]+$`), regexp.MustCompile(`^([a-z_0-9]+) = `)

// tomlKeys are the keys of a configuration, "vip.health.rise", with one of their values.
func tomlKeys(text string) map[string]string {
	keys, table := map[string]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if m := tomlTable.FindStringSubmatch(line); m != nil {
			table = m[1] + "."
		} else if m := tomlKey.FindStringSubmatch(line); m != nil {
			keys[table+m[1]] = line
		}
	}
	return keys
}

// exampleKeys are the keys of config.toml.example.
func exampleKeys(t *testing.T) map[string]string {
	t.Helper()
	example, err := os.ReadFile(installed("../config.toml.example"))
	lab.Must(t, err)
	return tomlKeys(regexp.MustCompile(`(?m)^# ?(\[+[a-z_.]+\]+$|[a-z][a-z_0-9]+ = (?:["\[{0-9-]|true$|false$))`).ReplaceAllString(string(example), "$1"))
}

// Each thread of a controller that root has started has two capabilities and gets no
// other. With them it takes each key of config.toml, but for those that would need
// another place to write; and it repairs the kernel's table and settings as before.
func TestKernelRights(t *testing.T) {
	r := newRig(t)
	node := r.lab.Host("node", 11)
	node.Serve(80)
	r.writeCluster()
	r.write("kubeconfig", "")
	r.write("token", "secret\n")
	example := exampleKeys(t)
	step := func(text string) string { return rightsStep(text, r.dir, example) }
	first := step(r.rightsBase())
	r.write("config.toml", first)
	r.start()
	const row = "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1"
	r.table("-A -t 10.0.0.100:80 -s rr", row)
	r.ready("ready")
	if got, want := threadRights(t, r.process.PID()), droppedRights("3000"); !slices.Equal(got, want) {
		t.Errorf("rights %q, want %q", got, want)
	}

	t.Log("step: each key by a reload")
	reload := func(what, text, want string) {
		t.Helper()
		before := len(r.process.Log())
		r.write("config.toml", text)
		lab.Within(t, 20*time.Second, func() string {
			if log := r.process.LogSince(before); !strings.Contains(log, want) {
				return fmt.Sprintf("%s: the log does not say %q:\n%s", what, want, log)
			}
			return ""
		})
	}
	for i, text := range append(slices.Clone(rightsSteps), r.rightsBase()) {
		reload(fmt.Sprint("step ", i), step(text), `msg="the configuration is reloaded"`)
		time.Sleep(time.Second) // at the least a pass, and an audit of most
	}
	for key, says := range rightsRefused {
		says = strings.ReplaceAll(says, "DIR", r.dir)
		text := regexp.MustCompile(`(?m)^`+key+` = .*\n`).ReplaceAllString(first, "")
		value := fmt.Sprintf("%q", filepath.Join(r.dir, "other"))
		if key == "allow_exec_credentials" {
			value = "true"
		}
		reload(key, key+" = "+value+"\n"+text, says+"it gave up the rights of its start: restart it for this change")
		reload("after "+key, first, "the configuration file is valid again")
	}
	if _, err := os.Stat(filepath.Join(r.dir, "other")); err == nil {
		t.Error("a refused reload has made its directory")
	}

	t.Log("step: what is repaired, also after /proc has made its inodes anew")
	lab.Must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
	r.director.Run("sysctl", "-qw", "net.ipv4.vs.expire_nodest_conn=0")
	r.director.Run("ipvsadm", "-C")
	r.table("-A -t 10.0.0.100:80 -s rr", row)
	lab.Within(t, 15*time.Second, func() string {
		if got := strings.TrimSpace(r.director.Run("sysctl", "-n", "net.ipv4.vs.expire_nodest_conn")); got != "1" {
			return "expire_nodest_conn is " + got + "\n" + r.process.Log()
		}
		return ""
	})
	for _, line := range strings.Split(r.process.Log(), "\n") {
		if forbidden.MatchString(line) {
			t.Errorf("the controller says %s", line)
		}
	}

	t.Log("step: a directory that takes the place of state_dir is another one")
	state := filepath.Join(r.dir, "state")
	lab.Must(t, errors.Join(os.Rename(state, state+".old"), os.Mkdir(state, 0o755)))
	r.write("config.toml", strings.Replace(first, "10.0.0.100", "10.0.0.111", 1))
	lab.Within(t, 15*time.Second, func() string {
		if log := r.process.Log(); !strings.Contains(log, state) || !strings.Contains(log, "permission denied") {
			return "the controller writes to a directory that its start did not have:\n" + log
		}
		return ""
	})
	r.table("-A -t 10.0.0.111:80 -s rr", strings.Replace(row, "100", "111", 1))
	if err := r.process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	lab.Must(t, errors.Join(os.Remove(state), os.Rename(state+".old", state)))
	if out, err := exec.Command("cat", filepath.Join(state, "state.json")).CombinedOutput(); err != nil || !strings.Contains(string(out), "10.0.0.100") {
		t.Errorf("state.json: %s, %v", out, err)
	}
}

// The parser takes each step, and each key of the example is in one.
func TestRightsSteps(t *testing.T) {
	of(t, "host")
	t.Parallel()
	example, seen := exampleKeys(t), map[string]bool{}
	for i, text := range rightsSteps {
		file := filepath.Join(t.TempDir(), "config.toml")
		text = rightsStep(text, "/tmp/director", example)
		lab.Must(t, os.WriteFile(file, []byte(text), 0o600))
		if out, err := exec.Command(controller(), "check", "-config", file).CombinedOutput(); err != nil {
			t.Errorf("step %d: %v\n%s", i, err, out)
		}
		for key := range tomlKeys(text) {
			seen[key] = true
		}
	}
	for key := range example {
		if !seen[key] && rightsRefused[key] == "" {
			t.Errorf("no step has the key %s", key)
		}
	}
	if len(example) < 120 {
		t.Errorf("config.toml.example has %d keys", len(example))
	}
}

// rightsStep is one of rightsSteps for the director with its files in dir.
func rightsStep(text, dir string, example map[string]string) string {
	settings := "[sysctl]\n"
	for key, line := range example {
		if strings.HasPrefix(key, "sysctl.") {
			settings += line + "\n"
		}
	}
	return fmt.Sprintf("state_dir = %q\ncache_dir = %q\n", filepath.Join(dir, "state"), filepath.Join(dir, "cache")) +
		strings.NewReplacer("DIR", dir, "SYSCTL\n", settings).Replace(text)
}

// rightsBase is what TestKernelRights begins and ends with, without its directories.
func (r *rig) rightsBase() string {
	return "cluster_file = \"cluster.json\"\ninterface = \"eth0\"\nlisten = \"127.0.0.1:9652\"\naudit_interval = \"1s\"\n" + staticEdge
}
