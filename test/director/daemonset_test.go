// The node end in a cluster: install/realserver-daemonset.yaml on a real API server, and its
// pod's command on nodes.

package director

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
)

// With /proc/sys read-only and CAP_NET_ADMIN alone the DaemonSet's pod does all
// that the command does.
func TestDaemonSetPod(t *testing.T) {
	of(t, "host")
	requireRoot(t)
	if builtWithCgo(t) {
		t.Skip("built with cgo: the pod has no C library")
	}
	t.Parallel()
	_, _, set, data := daemonSetManifest(t)
	owner := fmt.Sprintf("daemonset/%s/%s", set.Metadata.Namespace, set.Metadata.Name)
	for _, command := range [][]string{set.Spec.Template.Spec.Containers[0].Command, set.Spec.Template.Spec.Containers[0].ReadinessProbe.Exec.Command} {
		if at := slices.Index(command, "-owner"); at < 0 || at+1 == len(command) || command[at+1] != owner {
			t.Errorf("%q has not the owner %s", command, owner)
		}
	}
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	p := newNodePod(t, l.Host("node", 11), set, data)
	p.life(l, func(vips string) { p.mountData(map[string]string{"vips": vips}) })
}

// life is from the first pod on the node to what undoes it. set changes the ConfigMap, and
// brings it to the node.
func (p *nodePod) life(l *lab.Lab, set func(vips string)) {
	p.Helper()
	t, client, stranger := p.T, l.Host("client", 3), l.Host("stranger", 4)
	p.node.Serve(80)
	vip := netip.MustParseAddrPort("10.135.22.77:80")
	for _, h := range []*lab.Host{client, stranger} {
		h.Batch("route add 10.135.22.0/24 dev eth0")
	}
	// In the place of a director, which sends to this address of the node.
	mac := strings.TrimSpace(p.node.Run("cat", "/sys/class/net/eth0/address"))
	client.Batch("neigh replace 10.135.22.77 lladdr " + mac + " dev eth0")
	shows := func(when string, words ...string) {
		t.Helper()
		nodeShows(t, p.node, when, p.log, words...)
	}
	if err := p.ready(); err == nil {
		t.Error("the pod is ready on a node that is not prepared")
	}
	p.start()
	shows("the first pod", " 10.135.22.77/32 ", "eth0/arp_ignore:1\n", "eth0/arp_announce:2\n")
	lab.Within(t, 5*time.Second, func() string {
		if err := p.ready(); err != nil {
			return fmt.Sprint("the pod is not ready: ", err)
		}
		return ""
	})
	p.limited()
	if got := client.Curl(2, "http://10.135.22.77/"); got["node"] != 2 {
		t.Errorf("answers through the VIP: %v", got)
	}
	if out, err := stranger.Try("curl", "-s", "-m", "2", "http://10.135.22.77/"); err == nil {
		t.Errorf("the node answers for the VIP on the network: %s", out)
	}
	p.node.Batch("link add eth1 type veth peer name eth1-end", "link set eth1-end up", "address add 10.0.1.11/24 dev eth1", "link set eth1 up")
	shows("a device later", "eth1/arp_ignore:1\n", "eth1/arp_announce:2\n")

	t.Log("a roll-out cuts nothing")
	load := client.StartLoad(vip, 2, 5*time.Millisecond)
	for range 3 {
		p.stop()
		time.Sleep(200 * time.Millisecond)
		shows("between two pods", " 10.135.22.77/32 ", "eth0/arp_ignore:1\n", "eth1/arp_ignore:1\n")
		p.start()
		lab.Within(t, 5*time.Second, func() string {
			if !strings.Contains(p.log(), "watching this node") {
				return "the pod does not run: " + p.log()
			}
			return ""
		})
	}
	load.Reach(50)
	if report := load.Stop(); report.Failed() > 0 || report.Requests < 50 {
		t.Errorf("during the roll-out: %s", report)
	} else {
		t.Log(report)
	}

	t.Log("the ConfigMap is followed, also what it said while no pod ran")
	set("10.135.22.77 # the edge\n10.135.22.78\n")
	shows("one more", " 10.135.22.77/32 ", " 10.135.22.78/32 ")
	set("10.135.22.78\n")
	shows("one less", " 10.135.22.78/32 ", "! 10.135.22.77/32", "eth0/arp_ignore:1\n")
	set("10.135.22\n")
	lab.Within(t, 10*time.Second, func() string {
		if !strings.Contains(p.log(), "the last VIPs stay in force") {
			return "a mistake is not said: " + p.log()
		}
		return ""
	})
	shows("a mistake", " 10.135.22.78/32 ", "eth0/arp_ignore:1\n")
	if n := strings.Count(p.log(), "level=ERROR"); n != 1 || !strings.Contains(p.log(), `level=ERROR msg="the file with the VIPs is refused; the last VIPs stay in force"`) || !strings.Contains(p.log(), " listed=1\n") {
		t.Errorf("%d errors, want the refused file alone:\n%s", n, p.log())
	}
	p.stop()
	set("10.135.22.79\n")
	p.start()
	shows("a change without a pod", " 10.135.22.79/32 ", "! 10.135.22.78/32", "eth0/arp_ignore:1\n")
	set("none\n")
	shows("none", "! 10.135.22", "eth0/arp_ignore:0\n", "eth0/arp_announce:0\n", "eth1/arp_ignore:0\n", "eth1/arp_announce:0\n")
	if err := p.ready(); err != nil {
		t.Errorf("the pod of a node without VIPs is not ready: %v", err)
	}

	t.Log("without the DaemonSet the node stays prepared, until the command undoes it")
	set("10.135.22.79\n")
	shows("again", " 10.135.22.79/32 ", "eth0/arp_ignore:1\n")
	p.stop()
	shows("without a pod", " 10.135.22.79/32 ", "eth0/arp_ignore:1\n")
	p.node.Run(controller(), "realserver", "-remove", "-owner", "daemonset/lvs-controller/realserver", "-state", filepath.Join(p.dir, "run", "realserver.json"))
	shows("undone", "! 10.135.22", "eth0/arp_ignore:0\n", "eth0/arp_announce:0\n", "eth1/arp_ignore:0\n")
	for line := range strings.Lines(p.log()) {
		if strings.Contains(line, "level=ERROR") {
			t.Errorf("the last pod says: %s", line)
		}
	}
}

// limited looks at what the kernel says of the running process: the capabilities, and that
// /proc/sys, the image and the ConfigMap are read-only.
func (p *nodePod) limited() {
	p.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.process.PID(), name))
		lab.Must(p.T, err)
		return string(text)
	}
	status := read("status")
	for name, want := range map[string]string{"CapEff": nodeCaps, "CapPrm": nodeCaps, "CapBnd": nodeCaps, "CapInh": noCaps, "CapAmb": noCaps, "NoNewPrivs": "1", "Uid": "0\t0\t0\t0"} {
		if !strings.Contains(status, "\n"+name+":\t"+want+"\n") {
			p.Errorf("%s is not %s:\n%s", name, want, status)
		}
	}
	mounts := read("mountinfo")
	for _, path := range []string{"/", "/proc/sys", "/sys", "/etc/lvs-controller/realserver"} {
		if !strings.Contains(mounts, " "+path+" ro,") && !strings.Contains(mounts, " "+path+" ro ") {
			p.Errorf("%s is not read-only:\n%s", path, mounts)
		}
	}
}

// The manifest as it is shipped, on the real API server: it takes each field, and lets such a
// pod into the namespace. The ConfigMap that is there is what the pods on the nodes have.
func TestE2EDaemonSet(t *testing.T) {
	of(t, "e2e")
	c := newPlane(t)
	ctx := t.Context()
	manifest, vips, _, _ := daemonSetManifest(t)
	lab.Must(t, c.admin.Apply(ctx, "default", manifest))
	lab.Must(t, c.admin.Apply(ctx, "default", vips))
	const (
		namespace = "/api/v1/namespaces/lvs-controller"
		path      = "/apis/apps/v1/namespaces/lvs-controller/daemonsets/realserver"
	)
	t.Cleanup(func() {
		for _, object := range []string{path, namespace + "/configmaps/realserver"} {
			_ = c.admin.Delete(context.WithoutCancel(ctx), object, nil)
		}
	})
	var set daemonSet
	lab.Must(t, c.admin.Get(ctx, path, &set))
	configMap := func() map[string]string {
		t.Helper()
		var object struct{ Data map[string]string }
		lab.Must(t, c.admin.Get(ctx, namespace+"/configmaps/"+set.Spec.Template.Spec.Volumes[0].ConfigMap.Name, &object))
		return object.Data
	}

	t.Log("a node with the label is one of the DaemonSet's")
	node := map[string]any{"metadata": map[string]any{"name": "node-a", "labels": map[string]string{"kubernetes.io/os": "linux"}}}
	lab.Must(t, c.admin.Create(ctx, "/api/v1/nodes", node, nil))
	t.Cleanup(func() { _ = c.admin.Delete(context.WithoutCancel(ctx), "/api/v1/nodes/node-a", nil) })
	labels := map[string]any{"metadata": map[string]any{"labels": map[string]string{"lvs-controller/node": "true"}}}
	var labelled struct {
		Metadata struct{ Labels map[string]string }
	}
	lab.Must(t, c.admin.Patch(ctx, "/api/v1/nodes/node-a", labels, &labelled))
	if diff := cmp.Diff(set.Spec.Template.Spec.NodeSelector, labelled.Metadata.Labels); diff != "" {
		t.Errorf("the DaemonSet's nodes and the node (-want +got):\n%s", diff)
	}

	t.Log("the pod, as the controller of DaemonSets makes it")
	var whole struct {
		Spec struct {
			Template struct {
				Metadata map[string]any
				Spec     map[string]any
			}
		}
	}
	lab.Must(t, c.admin.Get(ctx, path, &whole))
	template := whole.Spec.Template
	template.Metadata["name"] = "realserver-node"
	template.Spec["nodeName"] = "node"
	lab.Must(t, c.admin.Create(ctx, namespace+"/pods", map[string]any{"metadata": template.Metadata, "spec": template.Spec}, nil))
	lab.Must(t, c.admin.DeletePod(ctx, "lvs-controller", "realserver-node", new(int64)))

	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	p := newNodePod(t, l.Host("node", 11), set, configMap())
	p.life(l, func(vips string) {
		t.Helper()
		lab.Must(t, c.admin.SetConfigMap(ctx, "lvs-controller", "realserver", map[string]string{"vips": vips}))
		p.mountData(configMap())
	})
}
