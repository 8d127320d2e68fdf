// The rig of the tests: a director, which is a host with the controller's files and
// process, before a cluster that is a file.

package director

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"
)

// rig is a director under test: its host, its files and its process.
type rig struct {
	*testing.T
	lab      *lab.Lab
	director *lab.Host
	dir      string
	process  *lab.Process
	objects  objects
}

// objects is the cluster file's content: what the cluster has.
type objects struct {
	pods []pod
	tcp  map[string]string
	udp  map[string]string
}

// pod is an ingress pod in short.
type pod struct {
	name, node  string
	ips         []string
	notReady    bool
	terminating bool
	podNetwork  bool
	hostPort    int    // leads to its port 8080; 0 = there is none
	component   string // default "controller"
	address     string // annotation lvs-controller/address
}

func newRig(t *testing.T) *rig { return newRigOf(t, "kernel") }

// newRigOf is newRig for a test of another group.
func newRigOf(t *testing.T, group string) *rig {
	of(t, group)
	lab.LastWords(t)
	dir := t.TempDir() // first, so that it is removed when nothing writes to it any more
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	return &rig{T: t, lab: l, director: l.Host("director", 2), dir: dir}
}

// writeCluster replaces the cluster file in one step.
func (r *rig) writeCluster() {
	r.Helper()
	var items []any
	for _, p := range r.objects.pods {
		component := "controller"
		if p.component != "" {
			component = p.component
		}
		meta := map[string]any{
			"name": p.name, "namespace": "ingress-nginx", "uid": "uid-" + p.name,
			"labels": map[string]string{"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": component},
		}
		if p.address != "" {
			meta["annotations"] = map[string]string{"lvs-controller/address": p.address}
		}
		if p.terminating {
			meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
		}
		ready := "True"
		if p.notReady {
			ready = "False"
		}
		var ips []any
		for _, ip := range p.ips {
			ips = append(ips, map[string]string{"ip": ip})
		}
		var ports []any
		if p.hostPort != 0 {
			ports = []any{map[string]any{"containerPort": 8080, "hostPort": p.hostPort}}
		}
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": meta,
			"spec": map[string]any{"nodeName": p.node, "hostNetwork": !p.podNetwork, "containers": []any{map[string]any{"ports": ports}}},
			"status": map[string]any{
				"phase": "Running", "hostIPs": ips, "podIPs": ips,
				"conditions": []any{map[string]string{"type": "Ready", "status": ready}},
			},
		})
	}
	for name, data := range map[string]map[string]string{"tcp-services": r.objects.tcp, "udp-services": r.objects.udp} {
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "data": data,
			"metadata": map[string]any{"name": name, "namespace": "ingress-nginx"},
		})
	}
	b, err := json.MarshalIndent(map[string]any{"apiVersion": "v1", "kind": "List", "items": items}, "", " ")
	if err != nil {
		r.Fatal(err)
	}
	r.write("cluster.json", string(b))
}

// write replaces a file of the director through a rename.
func (r *rig) write(name, text string) {
	r.Helper()
	path := filepath.Join(r.dir, name)
	lab.Must(r.T, os.WriteFile(path+".new", []byte(text), 0o644))
	lab.Must(r.T, os.Rename(path+".new", path))
}

// read returns what write has written.
func (r *rig) read(name string) string {
	r.Helper()
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		r.Fatal(err)
	}
	return string(text)
}

// configHead is the top of every test's configuration.
func (r *rig) configHead() string {
	return fmt.Sprintf("cluster_file = \"cluster.json\"\ninterface = \"eth0\"\nlisten = \"127.0.0.1:9652\"\naudit_interval = \"2s\"\nstate_dir = %q\ncache_dir = %q\n",
		filepath.Join(r.dir, "state"), filepath.Join(r.dir, "cache"))
}

// edgeConfig is one VIP over the ingress pods; more goes into its table.
func (r *rig) edgeConfig(more string) {
	r.Helper()
	if !strings.Contains(more, "scheduler") {
		more = "scheduler = \"rr\"\n" + more
	}
	if !strings.Contains(more, "addresses") {
		more = "addresses = [\"10.0.0.100\"]\n" + more
	}
	r.write("config.toml", r.configHead()+"[[vip]]\nname = \"edge\"\nports = [\"80/tcp\"]\ntcp_services = \"tcp-services\"\nudp_services = \"udp-services\"\n"+more)
}

// asUser is what begins the command line of a controller whose directories are in dir:
// it makes it run as -user, to whom the directories then belong.
func asUser(t *testing.T, dir string) []string {
	t.Helper()
	user := int(*args.User)
	if user == 0 {
		return nil
	}
	lab.Must(t, os.Chmod(filepath.Dir(dir), 0o755)) // of t.TempDir, for this user alone at first
	for _, name := range []string{"state", "cache"} {
		path := filepath.Join(dir, name)
		lab.Must(t, os.MkdirAll(path, 0o755))
		lab.Must(t, filepath.WalkDir(path, func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				err = os.Lchown(path, user, user)
			}
			return err
		}))
	}
	const two = "-all,+net_admin,+net_raw"
	return []string{"setpriv", fmt.Sprint("--reuid=", user), fmt.Sprint("--regid=", user), "--clear-groups", "--inh-caps=" + two, "--ambient-caps=" + two, "--bounding-set=" + two}
}

// start runs the controller.
func (r *rig) start() {
	r.Helper()
	line := append(asUser(r.T, r.dir), controller(), "-config", filepath.Join(r.dir, "config.toml"))
	r.process = r.director.Start(line...)
}

// subcommand runs a sub-command of the controller, with the director's
// configuration.
func (r *rig) subcommand(args ...string) {
	r.Helper()
	r.director.Run(slices.Concat([]string{controller()}, args, []string{"-config", filepath.Join(r.dir, "config.toml")})...)
}

// ready waits for the answer of `lvs-controller ready`, want being a part of it.
func (r *rig) ready(want string) {
	r.Helper()
	lab.Within(r.T, 10*time.Second, func() string {
		out, err := r.director.Command(controller(), "ready", "-listen", "127.0.0.1:9652").CombinedOutput()
		if ok := err == nil; !strings.Contains(string(out), want) || ok != strings.HasPrefix(want, "ready") {
			return fmt.Sprintf("ready says %q, %v; want %q", out, err, want)
		}
		return ""
	})
}

// table waits for exactly these lines of `ipvsadm -Sn`.
func (r *rig) table(lines ...string) {
	r.Helper()
	want := lab.SortTable(strings.Join(lines, "\n"))
	lab.Within(r.T, 15*time.Second, func() string {
		got := r.director.Table()
		if got == want {
			return ""
		}
		return fmt.Sprintf("ipvsadm -Sn (-want +got):\n%s\nlog:\n%s", cmp.Diff(want, got), r.process.Log())
	})
}

// logged waits until the log has exactly n lines that contain text.
func (r *rig) logged(n int, text string) {
	r.Helper()
	lab.Within(r.T, 10*time.Second, func() string {
		if got := r.process.CountLog(text); got != n {
			return fmt.Sprintf("%d lines of the log contain %q, want %d:\n%s", got, text, n, r.process.Log())
		}
		return ""
	})
}
