package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Ports of pods, and the networks of their nodes.
func TestParsePortMistakes(t *testing.T) {
	const wantPort = `want a port from 1 to 65535 such as "80/tcp", "53/udp", "5000/sctp" or 80, or a range such as "8000-8010/tcp"`
	checkMistakes(t, []struct{ text, want string }{
		{vipLine(`ports_from = "pod"`), `5: vip[0].ports_from: is "pod", want one of config, pods, gateways`},
		{vipLine("ports_from = 'pods'\nselector = ''\nreal_servers = [{ address = '10.0.0.9' }]"), `5: vip[0].ports_from: is "pods", and there are none; want a selector`},
		{vipLine(`exclude_ports = [9100]`), `5: vip[0].exclude_ports: is for ports_from = "pods", "gateways" or service alone, want one of them or no exclude_ports`},
		{vipLine("ports_from = 'pods'\nexclude_ports = ['9000-9002/tcp', 9001]"), `6: vip[0].exclude_ports[1]: 9001/tcp is the same port as vip[0].exclude_ports[0] (line 6), want each port once`},
		{vipLine("ports_from = 'pods'\nexclude_ports = [9001, '9000-9002', 7]"), `6: vip[0].exclude_ports[1]: 9001/tcp is the same port as vip[0].exclude_ports[0] (line 6), want each port once`},
		{vipLine("ports_from = 'pods'\nexclude_ports = ['9002-9000/udp']"), `6: vip[0].exclude_ports[0]: is "9002-9000/udp" (it begins with 9002, behind its end), ` + wantPort},
		{vipLine("ports_from = 'pods'\nexclude_ports = ['9000-/udp']"), `6: vip[0].exclude_ports[0]: is "9000-/udp" (port "" is not a number from 1 to 65535), ` + wantPort},
		{vipLine("ports_from = 'pods'\nexclude_ports = ['1-65535/tcp', '1-65535/udp']"), `6: vip[0].exclude_ports[1]: the file has more than 100000 ports, want fewer`},
		{vipLine("node_networks = ['10.9.0.0/24',\n'10.9.0.1/24']"), `6: vip[0].node_networks[1]: is "10.9.0.1/24" (its network is 10.9.0.0/24), want a network such as "10.9.0.0/24" or "2001:db8:9::/64"`},
		{vipLine("namespaces = ['b', 'a', 'b']"), `5: vip[0].namespaces[2]: b is the same namespace as vip[0].namespaces[0] (line 5), want each namespace once`},
		{vipLine("namespaces = ['Web']"), `5: vip[0].namespaces[0]: is "Web", want a namespace: ` + dnsLabelRule + `, or "*" for all`},
		{vipLine("namespaces = ['']"), `5: vip[0].namespaces[0]: is "", want a namespace: ` + dnsLabelRule + `, or "*" for all`},
		{vipLine("namespaces = []"), `5: vip[0].namespaces: empty, want namespaces such as ["web", "shop"], or ["*"] for all`},
		{vipLine("namespaces = ['*', 'a']"), `5: vip[0].namespaces: has "*", which is all namespaces, want no other beside it`},
		{vipLine("namespaces = ['a']\nselector = ''\nreal_servers = [{ address = '10.0.0.9' }]"), `5: vip[0].namespaces: is for pods, and there are none; want a selector`},
		{vipLine("namespaces = 'a'"), `5: vip[0].namespaces: is "a", want a list of namespaces such as ["web", "shop"], or ["*"] for all`},
		{vipLine("node_networks = ['10.9.0.0']"), `5: vip[0].node_networks[0]: is "10.9.0.0", want a network such as "10.9.0.0/24" or "2001:db8:9::/64"`},
		{vipLine("node_networks = ['10.9.0.0/24', '10.9.0.0/24']"), `5: vip[0].node_networks[1]: 10.9.0.0/24 is the same network as vip[0].node_networks[0] (line 5), want each network once`},
		{vipLine("node_networks = ['10.9.0.0/24']\nselector = ''\nreal_servers = [{ address = '10.0.0.9' }]"), `5: vip[0].node_networks: is for the nodes of pods, and there are none; want a selector`},
		{vipLine(`port_names = ["https"]`), `5: vip[0].port_names: is for ports_from = "pods" alone, want that or no port_names`},
		{vipLine("ports_from = 'pods'\nport_names = []"), `6: vip[0].port_names: is empty, want at least one name such as "https", or "*" for all`},
		{vipLine("ports_from = 'pods'\nport_names = ['web*', 'Web']"), `6: vip[0].port_names[1]: is "Web", want a port's name such as "https" or "web*": at most 15 lower-case letters, digits, "-" and "*"`},
		{vipLine("ports_from = 'pods'\nport_names = ['web*',\n'web*']"), `7: vip[0].port_names[1]: web* is the same name as vip[0].port_names[0] (line 6), want each name once`},
		{vipLine(`reserved_ports = ["80/tcp"]`), `5: vip[0].reserved_ports[0]: is "80/tcp", want an integer from 1 to 65535`},
		{vipLine(`reserved_ports = [0]`), `5: vip[0].reserved_ports[0]: is the integer 0, want an integer from 1 to 65535`},
		{vipLine(`reserved_ports = 80`), `5: vip[0].reserved_ports: is the integer 80, want a list of port numbers such as [80, 443, 8181], or [] for none`},
		{vipLine(`reserved_ports = [81, 81]`), `5: vip[0].reserved_ports[1]: 81 is the same port as vip[0].reserved_ports[0] (line 5), want each port once`},
		{vipLine("ports_from = 'pods'\nexclude_ports = [1,\n'1/tcp']"), `7: vip[0].exclude_ports[1]: 1/tcp is the same port as vip[0].exclude_ports[0] (line 6), want each port once`},
	})
}

// Exactly one key chooses the Gateways, and the pods that serve their ports are named.
func TestParseGatewayMistakes(t *testing.T) {
	const from = "ports_from = 'gateways'\n"
	named := func(lines string) string { return vipLine(from + "selector = 'app=gw'\n" + lines) }
	checkMistakes(t, []struct{ text, want string }{
		{named(""), `5: vip[0].ports_from: is "gateways", want one of gateways, gateway_selector, gateway_class`},
		{named("gateways = []\ngateway_class = ''\ngateway_selector = ''"), `5: vip[0].ports_from: is "gateways", want one of gateways, gateway_selector, gateway_class`},
		{named("gateway_class = 'envoy'\ngateways = ['edge/web']"), `7: vip[0].gateway_class: is there beside vip[0].gateways (line 8), want one of the two`},
		{named("gateway_class = 'envoy'\ngateway_selector = 'a=b'"), `7: vip[0].gateway_class: is there beside vip[0].gateway_selector (line 8), want one of the two`},
		{vipLine("gateways = ['edge/web']"), `5: vip[0].gateways: is for ports_from = "gateways" alone, want that or no gateways`},
		{vipLine("ports_from = 'pods'\ngateway_class = 'envoy'"), `6: vip[0].gateway_class: is for ports_from = "gateways" alone, want that or no gateway_class`},
		{vipLine("gateway_selector = 'a=b'"), `5: vip[0].gateway_selector: is for ports_from = "gateways" alone, want that or no gateway_selector`},
		{named("gateways = ['web']"), `7: vip[0].gateways[0]: is "web", want a Gateway's "NAMESPACE/NAME"`},
		{named("gateways = ['edge/web', 'a/b/c']"), `7: vip[0].gateways[1]: is "a/b/c", want a Gateway's "NAMESPACE/NAME"`},
		{named("gateways = ['edge/web',\n'edge/web']"), `8: vip[0].gateways[1]: edge/web is the same Gateway as vip[0].gateways[0] (line 7), want each Gateway once`},
		{named("gateways = 'edge/web'"), `7: vip[0].gateways: is "edge/web", want a list of Gateways such as ["envoy-gateway-system/edge"]`},
		{named("gateways = [" + strings.Repeat("'a/b',", 65) + "]"), `7: vip[0].gateways: has 65 elements, want at most 64`},
		{named("gateway_class = 'Envoy'"), `7: vip[0].gateway_class: is "Envoy", want the name of a GatewayClass such as "envoy", or "" for none`},
		{named("gateway_selector = ' '"), `7: vip[0].gateway_selector: is " ", want a label selector of Gateways such as "lvs=edge", or "" for none`},
		{named("gateway_class = 'envoy'\nlistener_sets = 1"), `8: vip[0].listener_sets: is the integer 1, want true or false, without quotes`},
		{named("gateway_class = 'envoy'\nport_names = ['web']"), `8: vip[0].port_names: is for ports_from = "pods" alone, want that or no port_names`},
		{vipLine(from + "gateway_class = 'envoy'"), `1: vip[0].selector: missing, want the label selector of the Gateways' pods, such as "gateway.envoyproxy.io/owning-gateway-name=edge"`},
		{vipLine(from + "gateway_class = 'envoy'\nnamespace = 'x'"), `1: vip[0].selector: missing, want the label selector of the Gateways' pods, such as "gateway.envoyproxy.io/owning-gateway-name=edge"`},
	})
}

func TestParseGateways(t *testing.T) {
	const gateways = "ports_from = 'gateways'\nselector = 'app=gw'\n"
	const static = "ports_from = 'gateways'\ngateway_class = 'c'\nreal_servers = [{ address = '10.0.0.9' }]\n"
	for _, test := range []struct {
		lines    string
		want     []GatewayQuery
		sets     bool
		selector string
	}{
		{gateways + "gateways = ['edge/web', 'x/y.z']", []GatewayQuery{{Namespace: "edge", Name: "web"}, {Namespace: "x", Name: "y.z"}}, true, "app=gw"},
		{gateways + "gateway_selector = 'b=c,a=b'\ngateway_class = ''\nlistener_sets = false", []GatewayQuery{{Selector: "a=b,b=c"}}, false, "app=gw"},
		{gateways + "gateway_class = 'envoy'\nexclude_ports = [8080]\nflags = ['ops']\ngroups = [[80, '53/udp']]", []GatewayQuery{{Class: "envoy"}}, true, "app=gw"},
		{static, []GatewayQuery{{Class: "c"}}, true, ""},
		{static + "selector = ''", []GatewayQuery{{Class: "c"}}, true, ""},
		{"gateways = []\ngateway_selector = ''\ngateway_class = ''\nlistener_sets = true", nil, false, defaultSelector},
	} {
		v := parseVIP(t, test.lines)
		if diff := cmp.Diff(test.want, v.Gateways); diff != "" || v.ListenerSets != test.sets || v.Pods.Selector != test.selector || v.PortsFromPods {
			t.Errorf("%q: ListenerSets %t, selector %q (-want +got):\n%s", test.lines, v.ListenerSets, v.Pods.Selector, diff)
		}
	}

	// VIPs that ask for the same share it, and the strictest guard.
	c := defaultConfig()
	a := VIP{Gateways: []GatewayQuery{{Class: "a"}, {Class: "b"}}, ListenerSets: true, RemovalBrake: 50}
	b := VIP{Gateways: []GatewayQuery{{Class: "b"}}, ListenerSets: true, RemovalBrake: 20}
	c.VIPs = []VIP{a, b}
	want := ClusterQuery{Gateways: []GatewayQuery{{Class: "a"}, {Class: "b"}}, ListenerSets: []ListenerSetQuery{{}},
		Guards: map[any]uint8{GatewayQuery{Class: "a"}: 50, GatewayQuery{Class: "b"}: 20, ListenerSetQuery{}: 20}}
	if diff := cmp.Diff(want, c.ClusterQuery()); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
	b.ListenerSets = false
	c.VIPs = []VIP{b}
	if q := c.ClusterQuery(); len(q.ListenerSets) > 0 {
		t.Errorf("asks for %v", q.ListenerSets)
	}
}

// The order of groups and of their ports means nothing: both directors give
// them the same marks.
func TestGroupsAreSorted(t *testing.T) {
	a := parseVIP(t, "tcp_services = 't'\ngroups = [[80, 443], [1, 70]]")
	b := parseVIP(t, "tcp_services = 't'\ngroups = [['70/tcp', 1], ['443/tcp', '80/tcp']]")
	if diff := cmp.Diff(a, b, compareAddrs); diff != "" {
		t.Errorf("sorted (-one +other):\n%s", diff)
	}
}
