package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Ports of pods, and the networks of their nodes.
func TestParsePortMistakes(t *testing.T) {
	const wantPort = `want a port from 1 to 65535 such as "80/tcp", "53/udp", "5000/sctp" or 80, or a range such as "8000-8010/tcp"`
	checkMistakes(t, []struct{ text, want string }{
		{vipLine(`ports_from = "pod"`), `5: vip[0].ports_from: is "pod", want one of config, pods`},
		{vipLine("ports_from = 'pods'\nselector = ''\nreal_servers = [{ address = '10.0.0.9' }]"), `5: vip[0].ports_from: is "pods", and there are none; want a selector`},
		{vipLine(`exclude_ports = [9100]`), `5: vip[0].exclude_ports: is for ports_from = "pods" or service alone, want one of them or no exclude_ports`},
		{vipLine("ports_from = 'pods'\nexclude_ports = ['9000-9002/tcp', 9001]"), `6: vip[0].exclude_ports[1]: 9001/tcp is the same port as vip[0].exclude_ports[0] (line 6), want each port once`},
		{vipLine("ports_from = 'pods'\nexclude_ports = [9001, '9000-9002', 7]"), `6: vip[0].exclude_ports[1]: 9001/tcp is the same port as vip[0].exclude_ports[0] (line 6), want each port once`},
		{vipLine("ports_from = 'pods'\nexclude_ports = ['9002-9000/udp']"), `6: vip[0].exclude_ports[0]: is "9002-9000/udp" (it begins with 9002, behind its end), ` + wantPort},
		{vipLine("ports_from = 'pods'\nexclude_ports = ['9000-/udp']"), `6: vip[0].exclude_ports[0]: is "9000-/udp" (port "" is not a number from 1 to 65535), ` + wantPort},
		{vipLine("ports_from = 'pods'\nexclude_ports = ['1-65535/tcp', '1-65535/udp']"), `6: vip[0].exclude_ports[1]: the file has more than 100000 ports, want fewer`},
		{vipLine("node_networks = ['10.9.0.0/24',\n'10.9.0.1/24']"), `6: vip[0].node_networks[1]: is "10.9.0.1/24" (its network is 10.9.0.0/24), want a network such as "10.9.0.0/24" or "2001:db8:9::/64"`},
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

// The order of groups and of their ports means nothing: both directors give
// them the same marks.
func TestGroupsAreSorted(t *testing.T) {
	a := parseVIP(t, "tcp_services = 't'\ngroups = [[80, 443], [1, 70]]")
	b := parseVIP(t, "tcp_services = 't'\ngroups = [['70/tcp', 1], ['443/tcp', '80/tcp']]")
	if diff := cmp.Diff(a, b, compareAddrs); diff != "" {
		t.Errorf("sorted (-one +other):\n%s", diff)
	}
}
