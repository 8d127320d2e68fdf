// Tests of the key service.

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseServiceKeyMistakes(t *testing.T) {
	const want = `want a Service's "NAME" or "NAMESPACE/NAME", or "" for none`
	checkMistakes(t, []struct{ text, want string }{
		{vipLine(`service = "a/b/c"`), `5: vip[0].service: is "a/b/c", ` + want},
		{vipLine(`service = "edge.web"`), `5: vip[0].service: is "edge.web", ` + want},
		{vipLine(`service = ["edge"]`), `5: vip[0].service: is a list, ` + want},
		{vipLine("service = 'edge'\nselector = 'app=edge'"), `6: vip[0].selector: is for pods, and service (line 5) names the real servers; want one of the two`},
		{vipLine("service = 'edge'\nselector = ''"), `6: vip[0].selector: is for pods, and service (line 5) names the real servers; want one of the two`},
		{vipLine("service = 'edge'\nports_from = 'pods'"), `6: vip[0].ports_from: is "pods", and the ports are those of service (line 5); want one of the two`},
		{vipLine("service = 'edge'\nhost_ports = true"), `6: vip[0].host_ports: is true, and service (line 5) does not say which pods have a hostPort; want one of the two`},
		{vipLine("service = 'edge'\nweight_annotation = 'edge/weight'"), `6: vip[0].weight_annotation: is for pods, whose annotations service (line 5) does not have; want one of the two`},
		{vipLine("service = 'edge'\nport_names = ['http']"), `6: vip[0].port_names: is for ports_from = "pods" alone, want that or no port_names`},
		{"peer_macs = ['02:00:00:00:00:01']\n" + vipLine("service = 'edge'\none_mark = true"),
			`6: vip[0].service: is "ingress-nginx/edge", want none; peer_macs needs it: packets from a peer would be balanced again on a port without the VIP's mark`},
	})
}

func TestParseService(t *testing.T) {
	parse := func(lines string) VIP {
		t.Helper()
		cfg, err := ParseConfig("c.toml", []byte("[[vip]]\nname = 'edge'\naddresses = ['10.0.0.1']\n"+lines))
		if err != nil {
			t.Fatal(err)
		}
		if len(cfg.Warnings) > 0 {
			t.Errorf("%s: warnings %v", lines, cfg.Warnings)
		}
		return cfg.VIPs[0]
	}
	edge := PodQuery{Namespace: "web", Selector: "kubernetes.io/service-name=edge", Service: "edge"}
	for _, lines := range []string{
		"service = 'web/edge'", "service = 'edge'\nnamespace = 'web'", "service = 'web/edge'\nnamespace = 'other'\nports_from = 'config'",
		"service = 'web/edge'\nexclude_ports = ['9100/tcp']\nports = [53]\nfollow_nodes = true\nport_names = ['*']\nweight_annotation = ''\nnode_networks = ['10.0.0.0/8']",
		"service = 'web/edge'\nreal_servers = [{ address = '10.0.0.2' }]", "service = 'web/edge'\ngroups = [['80/tcp', '443/tcp']]\nflags = ['ops']",
	} {
		if diff := cmp.Diff(edge, parse(lines).Pods); diff != "" {
			t.Errorf("%s (-want +got):\n%s", lines, diff)
		}
	}
	// Names without a namespace are in the VIP's, not in the Service's.
	v := parse("service = 'web/edge'\nnamespace = 'other'\ntcp_services = 'tcp'")
	if v.TCPServices != (ConfigMapName{"other", "tcp"}) {
		t.Errorf("ConfigMap %s", v.TCPServices)
	}
	if v := parse("service = ''\nports = [80]"); v.Pods.Service != "" || v.Pods.Selector != defaultSelector {
		t.Errorf("no Service: %+v", v.Pods)
	}
	q := parse("service = 'web/edge'").Pods
	if v := parse("service = 'web/edge'"); v.PodQuery().Annotation != "" || !v.PodQuery().Ports || q.service() != (ServiceName{"web", "edge"}) {
		t.Errorf("asks %+v", v.PodQuery())
	}
}
