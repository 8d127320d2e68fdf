// Tests of the test cluster itself: that what other tests rely on is so. They
// need the binaries test/kube/build makes, in the directory LVS_KUBE_BIN names;
// without that they are skipped, except those of manifests.

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// holderDir makes the test binary a process that starts a cluster in the
// directory it names, says so, and waits to be killed.
const holderDir = "LVS_TEST_CLUSTER_HOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holderDir); dir != "" {
		if _, err := Start(context.Background(), Options{BinDir: os.Getenv("LVS_KUBE_BIN"), DataDir: dir}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		select {}
	}
	os.Exit(m.Run())
}

// binDir returns where the binaries are, or skips the test.
func binDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("LVS_KUBE_BIN")
	if dir == "" {
		if os.Getenv("LVS_REQUIRE_ALL") == "1" {
			t.Fatal("LVS_KUBE_BIN is not set (LVS_REQUIRE_ALL=1)")
		}
		t.Skip("LVS_KUBE_BIN is not set: run test/kube/build and set it to the absolute path of .cache/kube/bin")
	}
	return dir
}

// start starts a cluster that ends with the test, and checks that it really does.
func start(t *testing.T, opts Options) *Cluster {
	t.Helper()
	opts.BinDir, opts.DataDir = binDir(t), t.TempDir()
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		if left := processesOf(t, opts.DataDir); len(left) > 0 {
			t.Errorf("processes left behind: %v", left)
		}
	})
	return c
}

// processesOf returns the living processes whose command line names dir.
func processesOf(t *testing.T, dir string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range files {
		// A process may end meanwhile; that of a zombie is empty.
		cmdline, err := os.ReadFile(file)
		if err == nil && bytes.Contains(cmdline, []byte("="+dir+"/")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// next returns the first event of the wanted type, or fails.
func next(t *testing.T, events <-chan WatchEvent, want string) WatchEvent {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e, ok := <-events:
			switch {
			case !ok:
				t.Fatalf("watch closed before %s", want)
			case e.Err != nil:
				t.Fatal(e.Err)
			case e.Type == want:
				return e
			}
		case <-timeout:
			t.Fatalf("no %s event", want)
		}
	}
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPodsAcrossRestarts(t *testing.T) {
	c := start(t, Options{})
	ctx, admin := t.Context(), c.Admin()
	must(t, admin.CreateNamespace(ctx, "pods"))
	labels := map[string]string{"app": "ingress"}
	for i, hostNetwork := range []bool{true, true, false} {
		n := strconv.Itoa(i)
		must(t, admin.CreatePod(ctx, "pods", "p"+n, "node"+n, labels, hostNetwork, []string{"192.0.2.1" + n, "2001:db8::1" + n}))
	}
	must(t, admin.CreatePod(ctx, "pods", "other", "node0", nil, true, nil))

	list, err := admin.ListPods(ctx, "pods", "app=ingress")
	must(t, err)
	if len(list.Items) != 3 {
		t.Fatalf("%d pods, want 3", len(list.Items))
	}
	p := list.Items[0]
	if !p.Ready() || p.Spec.NodeName != "node0" || p.Status.HostIP != "192.0.2.10" || p.Status.PodIP != p.Status.HostIP || len(p.Status.HostIPs) != 2 {
		t.Errorf("pod on the host's network: %+v", p)
	}
	if p := list.Items[2]; !p.Ready() || p.Status.HostIP != "192.0.2.12" || p.Status.PodIP != "" {
		t.Errorf("pod with its own network: %+v", p)
	}

	events, err := admin.WatchPods(ctx, "pods", "app=ingress", list.Metadata.ResourceVersion)
	must(t, err)
	must(t, admin.SetPodStatus(ctx, "pods", "p1", false))
	if e := next(t, events, "MODIFIED"); e.Pod.Metadata.Name != "p1" || e.Pod.Ready() || e.Pod.Status.HostIP != "192.0.2.11" {
		t.Errorf("event after a status without addresses: %+v", e.Pod)
	}
	must(t, admin.DeletePod(ctx, "pods", "p1", nil))
	if e := next(t, events, "MODIFIED"); e.Pod.Metadata.DeletionTimestamp == nil {
		t.Errorf("deleted pod is not Terminating: %+v", e.Pod)
	}
	must(t, admin.DeletePod(ctx, "pods", "p1", new(int64(0))))
	next(t, events, "DELETED")

	// A graceful stop, with that watch open.
	before := time.Now()
	must(t, c.StopAPI())
	if took := time.Since(before); took > 15*time.Second {
		t.Errorf("stop with an open watch took %v", took)
	}
	for range events { // until closed
	}
	if _, err := admin.GetPod(ctx, "pods", "p0"); err == nil {
		t.Error("a stopped API server answers")
	}
	url := c.URL("")
	must(t, c.StartAPI(ctx))
	must(t, c.StartAPI(ctx)) // already running
	if c.URL("") != url {
		t.Errorf("URL %s after a restart, %s before", c.URL(""), url)
	}
	if list, err = admin.ListPods(ctx, "pods", ""); err != nil || len(list.Items) != 3 {
		t.Fatalf("after a restart: %d pods, want 3, and %v", len(list.Items), err)
	}

	// The history from before the restart is gone.
	events, err = admin.WatchPods(ctx, "pods", "", p.Metadata.ResourceVersion)
	must(t, err)
	if e := next(t, events, "ERROR"); e.Status.Code != http.StatusGone {
		t.Errorf("watch from an old version: %v, want 410", e.Status)
	}

	must(t, c.KillAPI())
	must(t, c.StartAPI(ctx))
	must(t, admin.SetPodStatus(ctx, "pods", "p0", true, "192.0.2.99"))
	pod, err := admin.GetPod(ctx, "pods", "p0")
	must(t, err)
	if len(pod.Status.HostIPs) != 1 || pod.Status.PodIP != "192.0.2.99" {
		t.Errorf("pod after another address: %+v", pod.Status)
	}
}

// limitedRBAC lets a service account read two ConfigMaps and a namespace's pods.
const limitedRBAC = `# As it is shipped: several documents, comments.
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: director # its name
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  labels:
    name: misleading
  name: "director"
rules:
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["list", "watch"]
- apiGroups: [""]
  resources: ["configmaps"]
  resourceNames: ["tcp", "udp"]
  verbs: ["list", "watch"]
---
{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "director"},
 "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "director"},
 "subjects": [{"kind": "ServiceAccount", "name": "director", "namespace": "ingress"}]}
`

func TestLimitedServiceAccount(t *testing.T) {
	c := start(t, Options{})
	ctx, admin := t.Context(), c.Admin()
	for _, ns := range []string{"ingress", "elsewhere"} {
		must(t, admin.CreateNamespace(ctx, ns))
		for _, name := range []string{"tcp", "udp", "secret"} {
			must(t, admin.SetConfigMap(ctx, ns, name, map[string]string{"a": "1", "b": "2"}))
		}
	}
	must(t, admin.SetConfigMap(ctx, "ingress", "tcp", map[string]string{"c": "3"})) // replaces
	must(t, admin.DeleteConfigMap(ctx, "ingress", "udp"))
	for range 2 { // the second time changes nothing
		must(t, admin.Apply(ctx, "ingress", limitedRBAC))
	}
	token, err := admin.ServiceAccountToken(ctx, "ingress", "director", time.Hour)
	must(t, err)
	director := admin.WithToken(token)

	allowed := func(path string) func(context.Context) error {
		return func(ctx context.Context) error { return director.Get(ctx, path, nil) }
	}
	watch := func(ns string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := director.WatchPods(ctx, ns, "", "")
			return err
		}
	}
	const field = "?fieldSelector=metadata.name%3D"
	for _, tt := range []struct {
		name string
		do   func(context.Context) error
		want int // HTTP status
	}{
		{"own ConfigMap", allowed(item("configmaps", "ingress", "tcp")), http.StatusOK},
		{"own ConfigMap, missing", allowed(item("configmaps", "ingress", "udp")), http.StatusNotFound},
		{"own ConfigMap as a list", allowed(collection("configmaps", "ingress") + field + "tcp"), http.StatusOK},
		{"pods", allowed(collection("pods", "ingress")), http.StatusOK},
		{"pods, watched", watch("ingress"), http.StatusOK},
		{"another ConfigMap", allowed(item("configmaps", "ingress", "secret")), http.StatusForbidden},
		{"another ConfigMap as a list", allowed(collection("configmaps", "ingress") + field + "secret"), http.StatusForbidden},
		{"all ConfigMaps", allowed(collection("configmaps", "ingress")), http.StatusForbidden},
		{"ConfigMap elsewhere", allowed(item("configmaps", "elsewhere", "tcp")), http.StatusForbidden},
		{"pods elsewhere", allowed(collection("pods", "elsewhere")), http.StatusForbidden},
		{"pods elsewhere, watched", watch("elsewhere"), http.StatusForbidden},
		{"pods everywhere", allowed("/api/v1/pods"), http.StatusForbidden},
		{"a write", func(ctx context.Context) error {
			return director.SetConfigMap(ctx, "ingress", "tcp", nil)
		}, http.StatusForbidden},
	} {
		err := tt.do(ctx)
		if tt.want == http.StatusOK && err != nil || tt.want != http.StatusOK && !IsStatus(err, tt.want) {
			t.Errorf("%s: %v, want %d", tt.name, err, tt.want)
		}
	}
	if err := admin.WithToken("wrong").Get(ctx, "/api/v1/pods", nil); !IsStatus(err, http.StatusUnauthorized) {
		t.Errorf("wrong token: %v, want 401", err)
	}
	var configMap struct{ Data map[string]string }
	must(t, director.Get(ctx, item("configmaps", "ingress", "tcp"), &configMap))
	if len(configMap.Data) != 1 || configMap.Data["c"] != "3" {
		t.Errorf("data %v, want only the last", configMap.Data)
	}
}

func TestControl(t *testing.T) {
	c := start(t, Options{ExtraSANs: []string{"127.0.0.2", "director.test"}, APIFlags: []string{"--bind-address=0.0.0.0"}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url, err := c.ServeControl(ctx)
	must(t, err)
	control := NewControl(url)
	info, err := control.Info(ctx)
	must(t, err)
	if info.URL("director.test") != c.URL("director.test") {
		t.Errorf("URL %s by remote, %s here", info.URL("director.test"), c.URL("director.test"))
	}
	// An extra address both listens and is in the certificate.
	client, err := NewClient(info.URL("127.0.0.2"), info.CA, info.AdminToken)
	must(t, err)
	up := func() bool { return client.Get(ctx, "/readyz", nil) == nil }
	if err := client.Get(ctx, "/readyz", nil); err != nil {
		t.Errorf("before anything: %v", err)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
		up   bool
	}{
		{"kill", control.KillAPI, false},
		{"start", control.StartAPI, true},
		{"stop", control.StopAPI, false},
		{"start again", control.StartAPI, true},
	} {
		must(t, step.do(ctx))
		if up() != step.up {
			t.Errorf("after %s: up is %v, want %v", step.name, !step.up, step.up)
		}
	}
	cancel()
	for range 100 {
		if _, err = control.Info(context.Background()); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the control endpoint outlives its context")
}

// TestEndingThreads ends many threads, which must not take the cluster along.
func TestEndingThreads(t *testing.T) {
	c := start(t, Options{})
	var wg sync.WaitGroup
	barrier := make(chan struct{})
	for range 100 {
		wg.Go(func() {
			runtime.LockOSThread() // and never unlock: the thread ends
			<-barrier
		})
	}
	close(barrier)
	wg.Wait()
	time.Sleep(200 * time.Millisecond)
	must(t, c.Admin().Get(t.Context(), "/readyz", nil))
}

// TestEndsWithItsTest kills a process that holds a cluster.
func TestEndsWithItsTest(t *testing.T) {
	binDir(t)
	dir := t.TempDir()
	self, err := os.Executable()
	must(t, err)
	holder := exec.Command(self)
	holder.Env = append(os.Environ(), holderDir+"="+dir)
	out, err := holder.StdoutPipe()
	must(t, err)
	must(t, holder.Start())
	line := make([]byte, len("ready"))
	if n, err := out.Read(line); string(line[:n]) != "ready" {
		t.Errorf("holder says %q, %v", line[:n], err)
	}
	if n := len(processesOf(t, dir)); n != 2 {
		t.Errorf("%d processes, want 2", n)
	}
	must(t, holder.Process.Kill())
	if err := holder.Wait(); err == nil {
		t.Error("the holder ended well")
	}
	for range 500 {
		if len(processesOf(t, dir)) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("processes left behind: %v", processesOf(t, dir))
}

func TestStartFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := Start(t.Context(), Options{BinDir: t.TempDir(), DataDir: dir}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without binaries: %v", err)
	}
	opts := Options{BinDir: binDir(t), DataDir: dir, APIFlags: []string{"--no-such-flag"}}
	if _, err := Start(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Errorf("with a wrong flag: %v", err)
	}
	if left := processesOf(t, dir); len(left) > 0 {
		t.Errorf("processes left behind: %v", left)
	}
}

func TestSplitManifest(t *testing.T) {
	docs := splitManifest("# only a comment\n---\na: 1\n---\n\n---\nb: 2\n")
	if want := []string{"a: 1\n", "b: 2\n"}; !slices.Equal(docs, want) {
		t.Errorf("documents %q, want %q", docs, want)
	}
	if _, err := parseHead("kind: Role\n"); err == nil {
		t.Error("a manifest without a name is accepted")
	}
}
