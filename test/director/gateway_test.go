// End-to-end tests of Gateways as a source of ports.

package director

import (
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// From a cluster without the Gateway API to one without the Gateway, with the rights of
// install/rbac.yaml and install/rbac-gateways.yaml alone.
func TestE2EGateways(t *testing.T) {
	of(t, "e2e")
	e := newE2E(t, "gateways", 1)
	ctx := t.Context()
	e.gatewayRights("web")
	e.ports = "ports = [\"80/tcp\"]\n" + gatewayPorts("gateways/web")
	e.configure("[timeouts]\ntcp_fin = \"1s\"\n")
	e.createPod(0, true)
	e.start()
	table := func(ports ...string) {
		t.Helper()
		want := web("1")
		for _, p := range ports {
			number, protocol, _ := strings.Cut(p, "/")
			rows := port(number, "1")
			for i := range rows {
				rows[i] = strings.Replace(rows[i], "-t", map[string]string{"tcp": "-t", "udp": "-u"}[protocol], 1)
			}
			want = append(want, rows...)
		}
		e.table(want...)
	}
	// stays is table, and again after the time in which a change would have come.
	stays := func(ports ...string) {
		t.Helper()
		table(ports...)
		time.Sleep(2 * time.Second)
		table(ports...)
	}

	t.Log("without the API: logged once, and the other ports serve")
	e.logged(1, "the API server has no gateways of gateway.networking.k8s.io/v1: install the CRDs of the Gateway API")
	e.logged(1, "the API server has no listenersets of gateway.networking.k8s.io/v1")
	stays()
	e.ready("ready")

	t.Log("the CRDs are installed: no restart is needed")
	e.installGatewayAPI()
	installed := time.Now()
	lab.Within(t, time.Minute, func() string {
		if !strings.Contains(e.process.Log(), "Gateway gateways/web does not exist") || !strings.Contains(e.process.Log(), `follows the cluster" stream=listenersets`) {
			return e.process.Log()
		}
		return ""
	})
	t.Logf("followed %s after that", time.Since(installed).Round(time.Second))
	stays()

	t.Log("created, then programmed")
	e.setGateway("web", nil, "http:HTTP:9000")
	stays()
	e.program("web")
	stays()
	e.program("web", "http")
	table("9000/tcp")
	if got := e.client.Curl(2, "http://10.0.0.100:9000/"); got["node1"] != 2 {
		t.Errorf("answers at the Gateway's port: %v", got)
	}

	t.Log("listeners are added, and programmed one after the other")
	e.setGateway("web", nil, "http:HTTP:9000", "dns:UDP:53", "tls:HTTPS:443", "quic:example.org/QUIC:444")
	stays("9000/tcp")
	e.program("web", "http", "dns")
	table("9000/tcp", "53/udp")
	e.program("web", "http", "dns", "tls", "quic")
	table("9000/tcp", "53/udp", "443/tcp")
	e.logged(1, "has protocol \\\"example.org/QUIC\\\"")

	t.Log("a port changes: the old one serves until the Gateway's controller has seen it")
	e.setGateway("web", nil, "http:HTTP:9001", "dns:UDP:53", "tls:HTTPS:443")
	stays("9000/tcp", "53/udp", "443/tcp")
	e.program("web", "http", "dns", "tls")
	table("9001/tcp", "53/udp", "443/tcp")

	t.Log("a ListenerSet of another namespace")
	lab.Must(t, e.admin.CreateNamespace(ctx, "tenant"))
	e.setGateway("tenant/more", map[string]any{"name": "web", "namespace": "gateways"}, "db:TCP:5432")
	stays("9001/tcp", "53/udp", "443/tcp")
	e.program("tenant/more", "db")
	table("9001/tcp", "53/udp", "443/tcp", "5432/tcp")
	e.setGateway("tenant/more", map[string]any{"name": "other", "namespace": "gateways"}, "db:TCP:5432")
	e.program("tenant/more", "db")
	table("9001/tcp", "53/udp", "443/tcp")
	e.setGateway("tenant/more", map[string]any{"name": "web", "namespace": "gateways"}, "db:TCP:5432")
	e.program("tenant/more", "db")
	table("9001/tcp", "53/udp", "443/tcp", "5432/tcp")

	t.Log("the API server goes and comes, and so does the controller")
	e.cut.Store(true) // an API server that is not ready yet refuses rights, which is an error
	lab.Must(t, e.control.StopAPI(ctx))
	e.process.Kill()
	e.start()
	stays("9001/tcp", "53/udp", "443/tcp", "5432/tcp")
	lab.Must(t, e.control.StartAPI(ctx))
	e.cut.Store(false)
	lab.Within(t, time.Minute, func() string {
		if !strings.Contains(e.process.Log(), `follows the cluster again" stream="gateways gateways/web"`) {
			return e.process.Log()
		}
		return ""
	})
	stays("9001/tcp", "53/udp", "443/tcp", "5432/tcp")

	t.Log("unprogrammed, removed, deleted")
	e.program("web", "http", "tls")
	table("9001/tcp", "443/tcp", "5432/tcp")
	e.setGateway("web", nil, "http:HTTP:9001")
	table("9001/tcp", "5432/tcp")
	lab.Must(t, e.admin.Delete(ctx, e.gatewayPath("tenant/more"), nil))
	table("9001/tcp")
	e.program("web", "http")
	lab.Must(t, e.admin.Delete(ctx, e.gatewayPath("web"), nil))
	table()
	e.logged(1, "Gateway gateways/web does not exist")

	t.Log("created again")
	e.setGateway("web", nil, "http:HTTP:9000")
	e.program("web", "http")
	table("9000/tcp")
	for line := range strings.SplitSeq(e.process.Log(), "\n") {
		if strings.Contains(line, "level=ERROR") {
			t.Error(line)
		}
	}
}
