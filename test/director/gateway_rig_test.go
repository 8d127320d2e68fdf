// Gateways of the tests: the Gateway API's CRDs, and a test that is the Gateways'
// controller, which writes their status.

package director

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/cluster"
	"lvs-controller/test/lab"
)

const gatewayAPI = "/apis/gateway.networking.k8s.io/v1"

// gatewayPorts are the lines of a VIP whose ports come from one Gateway.
func gatewayPorts(gateway string) string {
	return fmt.Sprintf("ports_from = \"gateways\"\ngateways = [%q]\nselector = \"app.kubernetes.io/name=ingress-nginx\"", gateway)
}

// installGatewayAPI installs the CRDs, for as long as the test lasts.
func (e *e2e) installGatewayAPI() {
	e.Helper()
	for _, kind := range []string{"gateways", "listenersets"} {
		crd, err := os.ReadFile(filepath.Join(*args.CRDs, kind+".yaml"))
		lab.Must(e.T, err)
		lab.Must(e.T, e.admin.Apply(e.Context(), e.namespace, string(crd)))
		e.Cleanup(func() {
			ctx := context.Background()
			if err := e.admin.Delete(ctx, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+kind+".gateway.networking.k8s.io", nil); err != nil {
				e.Error(err)
			}
			lab.Within(e.T, 30*time.Second, func() string {
				if err := e.admin.Get(ctx, gatewayAPI+"/"+kind, nil); !cluster.IsStatus(err, http.StatusNotFound) {
					return fmt.Sprintf("the API of %s is still there: %v", kind, err)
				}
				return ""
			})
		})
		lab.Within(e.T, 30*time.Second, func() string {
			if err := e.admin.Get(e.Context(), gatewayAPI+"/"+kind, nil); err != nil {
				return err.Error()
			}
			return ""
		})
	}
}

// gatewayRights applies install/rbac-gateways.yaml for a Gateway of the namespace.
func (e *e2e) gatewayRights(name string) {
	e.Helper()
	manifest, err := os.ReadFile(installed("rbac-gateways.yaml"))
	lab.Must(e.T, err)
	lab.Must(e.T, e.admin.Apply(e.Context(), e.namespace, strings.NewReplacer("namespace: edge", "namespace: "+e.namespace, "[edge]", "["+name+"]",
		"namespace: ingress-nginx", "namespace: "+e.namespace).Replace(string(manifest))))
}

// gatewayPath is the path of a Gateway, or with a "/" in its name that of the ListenerSet
// "NAMESPACE/NAME".
func (e *e2e) gatewayPath(name string) string {
	if namespace, set, found := strings.Cut(name, "/"); found {
		return gatewayAPI + "/namespaces/" + namespace + "/listenersets/" + set
	}
	return gatewayAPI + "/namespaces/" + e.namespace + "/gateways/" + name
}

// setGateway creates a Gateway, or with a parent a ListenerSet, or gives it other
// listeners: "NAME:PROTOCOL:PORT".
func (e *e2e) setGateway(name string, parent map[string]any, listeners ...string) {
	e.Helper()
	spec := map[string]any{"gatewayClassName": "test"}
	if parent != nil {
		spec = map[string]any{"parentRef": parent}
	}
	var all []any
	for _, l := range listeners {
		f := strings.Split(l, ":")
		port, err := strconv.Atoi(f[2])
		lab.Must(e.T, err)
		is := map[string]any{"name": f[0], "protocol": f[1], "port": port}
		if f[1] == "HTTPS" {
			is["tls"] = map[string]any{"mode": "Terminate", "certificateRefs": []any{map[string]any{"name": "certificate"}}}
		}
		all = append(all, is)
	}
	spec["listeners"] = all
	path := e.gatewayPath(name)
	err := e.admin.Patch(e.Context(), path, map[string]any{"spec": spec}, nil)
	if cluster.IsStatus(err, http.StatusNotFound) {
		kind := "Gateway"
		if parent != nil {
			kind = "ListenerSet"
		}
		err = e.admin.Create(e.Context(), filepath.Dir(path), map[string]any{"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
			"metadata": map[string]any{"name": filepath.Base(path)}, "spec": spec}, nil)
	}
	lab.Must(e.T, err)
}

// program writes the status of a Gateway as its controller does that has seen the newest
// spec: these listeners are programmed, and the others are not. The Gateway has no address.
func (e *e2e) program(name string, programmed ...string) {
	e.Helper()
	var is struct {
		Metadata struct{ Generation int64 }
		Spec     struct{ Listeners []struct{ Name string } }
	}
	path := e.gatewayPath(name)
	lab.Must(e.T, e.admin.Get(e.Context(), path, &is))
	condition := func(kind string, status bool) map[string]any {
		text := map[bool]string{true: "True", false: "False"}[status]
		return map[string]any{"type": kind, "status": text, "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": is.Metadata.Generation}
	}
	var listeners []any
	for _, l := range is.Spec.Listeners {
		listeners = append(listeners, map[string]any{"name": l.Name, "attachedRoutes": 1, "supportedKinds": []any{},
			"conditions": []any{condition("Accepted", true), condition("Programmed", slices.Contains(programmed, l.Name))}})
	}
	lab.Must(e.T, e.admin.Patch(e.Context(), path+"/status", map[string]any{"status": map[string]any{
		"conditions": []any{condition("Accepted", true), condition("Programmed", false)}, "listeners": listeners}}, nil))
}
