// End-to-end tests of a Service as the source of ports and real servers. The test plays
// the EndpointSlice controller.

package director

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/cluster"
	"lvs-controller/test/lab"
)

// serviceName is the Service that install/rbac-service.yaml names.
const serviceName = "ingress-nginx-controller"

// servicePorts are ports of a Service, "NAME PORT" or "NAME PORT TARGET".
func servicePorts(texts ...string) []cluster.Object {
	var ports []cluster.Object
	for _, text := range texts {
		f := strings.Fields(text)
		number, _ := strconv.Atoi(f[1])
		port := cluster.Object{"name": f[0], "port": number, "protocol": "TCP"}
		if len(f) > 2 {
			port["targetPort"] = f[2]
			if n, err := strconv.Atoi(f[2]); err == nil {
				port["targetPort"] = n
			}
		}
		ports = append(ports, port)
	}
	return ports
}

// endpoint is an endpoint of an EndpointSlice, whose pod is on its node's network.
func endpoint(pod, node, address, state string) cluster.Object {
	return cluster.Object{
		"addresses": []string{address}, "nodeName": node,
		"conditions": cluster.Object{"ready": state == "ready", "serving": state != "unready", "terminating": state == "terminating"},
		"targetRef":  cluster.Object{"kind": "Pod", "name": pod, "uid": "uid-" + pod},
	}
}

// endpoints are those of some nodes, "N" or "N STATE".
func (e *e2e) endpoints(texts ...string) []cluster.Object {
	list := []cluster.Object{}
	for _, text := range texts {
		number, state, found := strings.Cut(text, " ")
		if !found {
			state = "ready"
		}
		i, _ := strconv.Atoi(number)
		n := e.nodes[i-1]
		list = append(list, endpoint("ingress-"+n.Name, n.Name, n.IPv4.String(), state))
	}
	return list
}

// slice writes one EndpointSlice of the VIP's Service.
func (e *e2e) slice(name string, ports []cluster.Object, endpoints ...string) {
	e.Helper()
	lab.Must(e.T, e.admin.SetEndpointSlice(e.Context(), e.namespace, e.service, name, ports, e.endpoints(endpoints...)))
}

// With the rights of install/rbac-service.yaml alone, the kernel's table follows a Service
// and its EndpointSlices at every step.
func TestE2EService(t *testing.T) {
	of(t, "e2e")
	e := newE2EBy(t, "service", serviceName, 3)
	ctx := t.Context()
	e.configure("[timeouts]\ntcp_fin = \"1s\"\n")
	e.start()
	e.table()
	e.logged(1, "Service service/"+serviceName+" does not exist")
	at := servicePorts("http 80", "tls 8443")
	ports := func(more ...string) {
		t.Helper()
		lab.Must(t, e.admin.SetService(ctx, e.namespace, serviceName, servicePorts(append([]string{"http 80 http"}, more...)...)))
	}
	t.Log("created: the Service, then its endpoints")
	ports("tls 443 8443")
	e.logged(1, "has no endpoints")
	e.slice("one", at, "1")
	e.table(web("1")...)
	e.logged(1, "port 443/tcp of Service service/"+serviceName+" is left out: it leads to port 8443 at the pods")
	e.slice("one", at, "1", "2 unready") // it has had no connections to keep
	time.Sleep(time.Second)
	e.table(web("1")...)
	e.slice("one", at, "1", "2")
	e.table(web("1", "2")...)
	if got := e.client.Curl(10, "http://10.0.0.100/"); got["node1"] != 5 || got["node2"] != 5 {
		t.Errorf("answers: %v", got)
	}

	t.Log("an endpoint that serves and terminates keeps its connections")
	stream := e.client.OpenStream(netip.MustParseAddrPort("10.0.0.100:80"))
	from := ""
	lab.Within(t, 5*time.Second, func() string {
		if from, _, _ = stream.State(); from == "" {
			return "no answer on a stream"
		}
		return ""
	})
	leaving, staying, quiesced := "1", "2", []string{"1=0", "2"}
	if from == "node2" {
		leaving, staying, quiesced = "2", "1", []string{"1", "2=0"}
	}
	e.slice("one", at, staying, leaving+" terminating")
	e.table(web(quiesced...)...)
	e.slice("one", at, staying)
	time.Sleep(2 * time.Second)
	e.table(web(quiesced...)...)
	stream.Close()
	e.table(web(staying)...)

	t.Log("a slice is split, under load")
	e.slice("one", at, "1", "2", "3")
	e.table(web("1", "2", "3")...)
	load := e.client.StartLoad(netip.MustParseAddrPort("10.0.0.100:80"), 2, 5*time.Millisecond)
	e.slice("two", at, "2", "3")
	e.slice("one", at, "1")
	e.slice("three", at, "1")
	lab.Must(t, e.admin.DeleteEndpointSlice(ctx, e.namespace, "one"))
	time.Sleep(2 * time.Second)
	e.table(web("1", "2", "3")...)
	load.Reach(100)
	if report := load.Stop(); report.Failed() > 0 || report.Requests < 100 {
		t.Errorf("while slices change: %s", report)
	}

	t.Log("ports come and go, also at some endpoints alone")
	ports("tls 443 8443", "db 9000 9000")
	e.slice("two", append(servicePorts("db 9000"), at...), "2", "3")
	e.table(append(web("1", "2", "3"), port("9000", "2", "3")...)...)
	e.slice("three", append(servicePorts("db 9000"), at...), "1")
	e.table(append(web("1", "2", "3"), port("9000", "1", "2", "3")...)...)
	ports("database 9000 9000") // the slices still have the name of before
	e.table(append(web("1", "2", "3"), port("9000", "1", "2", "3")...)...)
	ports()
	e.table(web("1", "2", "3")...)

	t.Log("the Service is deleted, and created again")
	lab.Must(t, e.admin.DeleteService(ctx, e.namespace, serviceName))
	e.table()
	e.logged(2, "Service service/"+serviceName+" does not exist")
	ports()
	e.table(web("1", "2", "3")...)

	t.Log("all endpoints vanish at once: the last ones stay")
	for _, name := range []string{"two", "three"} {
		lab.Must(t, e.admin.DeleteEndpointSlice(ctx, e.namespace, name))
	}
	e.logged(2, "has no endpoints")
	e.table(web("1", "2", "3")...)
	e.slice("four", at, "3")
	e.table(web("3")...)

	t.Log("these rights are the least")
	e.logged(0, "forbidden")
	for _, right := range []string{"services", "endpointslices"} {
		e.refusedWithout(right)
	}
}

// refusedWithout takes one of the rights away, and looks whether the log says so.
func (e *e2e) refusedWithout(resource string) {
	e.Helper()
	ctx := e.Context()
	path := "/apis/rbac.authorization.k8s.io/v1/namespaces/" + e.namespace + "/roles/lvs-controller-service"
	var role struct {
		Rules []struct {
			APIGroups     []string `json:"apiGroups"`
			Resources     []string `json:"resources"`
			ResourceNames []string `json:"resourceNames,omitempty"`
			Verbs         []string `json:"verbs"`
		} `json:"rules"`
	}
	lab.Must(e.T, e.admin.Get(ctx, path, &role))
	whole := role.Rules
	for i := range whole {
		if whole[i].Resources[0] == resource {
			role.Rules = append(append(role.Rules[:0:0], whole[:i]...), whole[i+1:]...)
		}
	}
	lab.Must(e.T, e.admin.Patch(ctx, path, map[string]any{"rules": role.Rules}, nil))
	e.process.Kill()
	e.start()
	lab.Within(e.T, 30*time.Second, func() string {
		if !strings.Contains(e.process.Log(), resource+" is forbidden") || !strings.Contains(e.process.Log(), "install/rbac-service.yaml") {
			return "the missing right is not in the log:\n" + e.process.Log()
		}
		return ""
	})
	e.table(web("3")...) // by the last good snapshot
	out, _ := e.director.Try(controller(), "doctor", "-role", "cluster", "-config", e.dir+"/config.toml")
	if !strings.Contains(out, resource) || !strings.Contains(out, "may not list and watch") {
		e.Errorf("doctor does not say that %s may not be read:\n%s", resource, out)
	}
	lab.Must(e.T, e.admin.Patch(ctx, path, map[string]any{"rules": whole}, nil))
}

// With follow_nodes an endpoint that is at no node's address is left out, and the log says
// why.
func TestE2EServiceNotOnHostNetwork(t *testing.T) {
	of(t, "e2e")
	e := newE2EBy(t, "service-nodes", serviceName, 2)
	ctx := t.Context()
	e.write("kubeconfig", string(cluster.Kubeconfig(fmt.Sprintf("https://127.0.0.1:%d", e.info.Port), e.info.CA, e.info.AdminToken)))
	for _, n := range e.nodes {
		lab.Must(t, e.admin.Create(ctx, "/api/v1/nodes", map[string]any{"metadata": map[string]any{"name": n.Name}}, nil))
		t.Cleanup(func() { _ = e.admin.Delete(context.WithoutCancel(ctx), "/api/v1/nodes/"+n.Name, nil) })
		lab.Must(t, e.admin.Patch(ctx, "/api/v1/nodes/"+n.Name+"/status", map[string]any{"status": map[string]any{
			"addresses": []map[string]any{{"type": "InternalIP", "address": n.IPv4.String()}}}}, nil))
	}
	lab.Must(t, e.admin.SetService(ctx, e.namespace, serviceName, servicePorts("http 80")))
	list := append(e.endpoints("1"), endpoint("inside", "node2", "10.0.0.77", "ready"))
	lab.Must(t, e.admin.SetEndpointSlice(ctx, e.namespace, serviceName, "one", servicePorts("http 80"), list))
	e.configure("follow_nodes = true\n")
	e.start()
	e.table(web("1")...)
	e.logged(1, "pod service-nodes/inside is left out: it is not on hostNetwork, because 10.0.0.77 is no address of its node node2")
}

// manyEndpoints makes a Service with n ready endpoints, in slices of a hundred as the
// EndpointSlice controller makes them.
func (e *e2e) manyEndpoints(n int) {
	e.Helper()
	lab.Must(e.T, e.admin.SetService(e.Context(), e.namespace, e.service, servicePorts("http 80")))
	var list []cluster.Object
	for i := range n {
		list = append(list, endpoint(fmt.Sprintf("ingress-%d", i), fmt.Sprintf("node-%d", i), fmt.Sprintf("10.200.%d.%d", i/250, i%250+1), "ready"))
		if len(list) == 100 || i == n-1 {
			lab.Must(e.T, e.admin.SetEndpointSlice(e.Context(), e.namespace, e.service, fmt.Sprintf("slice-%d", i/100), servicePorts("http 80"), list))
			list = nil
		}
	}
}

// syncEndpoints makes the EndpointSlice of the Service what the pods are, where a Service is
// the source.
func (d *drill) syncEndpoints(ctx context.Context) error {
	if d.service == "" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	pods, err := d.admin.ListPods(ctx, d.namespace, "")
	if err != nil {
		return err
	}
	list := []cluster.Object{}
	for i := range pods.Items {
		p := &pods.Items[i]
		state := "unready"
		switch {
		case p.Status.PodIP == "":
			continue
		case p.Metadata.DeletionTimestamp != nil:
			state = "terminating"
		case p.Ready():
			state = "ready"
		}
		list = append(list, endpoint(p.Metadata.Name, p.Spec.NodeName, p.Status.PodIP, state))
	}
	return d.admin.SetEndpointSlice(ctx, d.namespace, d.service, "slice", servicePorts("web 80", "db 9000"), list)
}
