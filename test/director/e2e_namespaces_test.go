// End-to-end test of pods in several namespaces.

package director

import (
	"os"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// With the rights of install/rbac-pods.yaml the pods of a list of namespaces serve, and with
// those for all namespaces the pods of all. Without them nothing that serves goes.
func TestE2ENamespaces(t *testing.T) {
	of(t, "e2e")
	e := newE2E(t, "spaces", 3)
	ctx := t.Context()
	for i, namespace := range []string{"spaces", "spaces-b", "spaces-c"} {
		if i > 0 {
			lab.Must(t, e.admin.Create(ctx, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": namespace}}, nil))
		}
		n := e.nodes[i]
		lab.Must(t, e.admin.CreatePod(ctx, namespace, "ingress-"+n.Name, n.Name, map[string]string{"lvs": "spaces"}, true, []string{n.IPv4.String()}))
		lab.Must(t, e.admin.SetPodStatus(ctx, namespace, "ingress-"+n.Name, true, n.IPv4.String()))
	}
	manifest, err := os.ReadFile(installed("rbac-pods.yaml"))
	lab.Must(t, err)
	role, rest, _ := strings.Cut(string(manifest), "\n---\n")
	all, binding, _ := strings.Cut(rest, "\n# ---\n")
	account := func(text string) string {
		return strings.ReplaceAll(text, "namespace: ingress-nginx", "namespace: "+e.namespace)
	}
	binding = strings.ReplaceAll("\n"+binding, "\n# ", "\n")

	const selected = "selector = \"lvs=spaces\"\n" // and not the many pods of another test
	// A right that is missing is asked for every half a minute at the most.
	granted := func(lines ...string) {
		t.Helper()
		want := lab.SortTable(strings.Join(lines, "\n"))
		lab.Within(t, 40*time.Second, func() string {
			if e.director.Table() != want {
				return e.process.Log()
			}
			return ""
		})
	}

	e.configure(selected)
	e.start()
	e.table(web("1")...)
	e.configure(selected + "namespaces = [\"spaces\", \"spaces-b\"]\n")
	e.logged(1, "pods is forbidden")
	e.table(web("1")...)
	lab.Must(t, e.admin.Apply(ctx, e.namespace, role))
	lab.Must(t, e.admin.Apply(ctx, "spaces-b", account(strings.Replace(binding, "namespace: web", "namespace: spaces-b", 1))))
	t.Log("the rights for the second namespace")
	granted(web("1", "2")...)

	e.configure(selected + "namespaces = [\"*\"]\n")
	e.table(web("1", "2")...)
	lab.Must(t, e.admin.Apply(ctx, e.namespace, account(all)))
	t.Log("the rights for all namespaces")
	granted(web("1", "2", "3")...)
	lab.Must(t, e.admin.SetPodStatus(ctx, "spaces-b", "ingress-"+e.nodes[1].Name, false, e.nodes[1].IPv4.String()))
	e.table(web("1", "3")...)
}
