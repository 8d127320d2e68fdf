package main

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseVIPMistakes(t *testing.T) {
	const (
		wantUnicast  = `want a unicast IPv4 or IPv6 address such as "10.135.22.77"`
		wantPort     = `want a port from 1 to 65535 such as "80/tcp", "53/udp", "5000/sctp" or 80, or a range such as "8000-8010/tcp"`
		wantName     = `want a name: at most 63 lower-case letters, digits and "-", not starting with "-"`
		wantMap      = `want a ConfigMap's "NAME" or "NAMESPACE/NAME", or "" for none`
		wantSelector = `want a label selector such as "app.kubernetes.io/name=ingress-nginx,tier in (edge)"`
	)
	_, emptyRequirement := canonicalSelector("app=nginx,,") // in the words of the package that parses selectors
	if emptyRequirement == nil {
		t.Fatal("a selector with an empty requirement is accepted")
	}
	checkMistakes(t, []struct{ text, want string }{
		{vipLine(`listen = ":80"`), `5: vip[0].listen: unknown key in this table, want it above the first [table] of the file`},
		{vipLine(`adresses = []`), `5: vip[0].adresses: unknown key, did you mean "addresses"?`},
		{vipLine(`port = 80`), `5: vip[0].port: unknown key, did you mean "ports"?`},
		{"[[vip]]\nname = 'a'\nadresses = ['10.0.0.1']\nports = [80]", `3: vip[0].adresses: unknown key, did you mean "addresses"?`},
		{"[[vip]]\nnmae = 'a'\naddresses = ['10.0.0.1']\nports = [80]", `2: vip[0].nmae: unknown key, did you mean "name"?`},
		{"[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']\nport = [80]", `4: vip[0].port: unknown key, did you mean "ports"?`},
		{vipLine("[vip.backup]"), `5: vip[0].backup: unknown key, want one of name, addresses, ingress, scheduler, flags, ports, ports_from, gateways, gateway_selector, gateway_class, listener_sets, exclude_ports, port_names, follow_nodes, host_ports, node_networks, reserved_ports, groups, one_mark, notrack, persistence, announce, weight, weight_annotation, upper_threshold, lower_threshold, removal_brake, slow_start, forward, tunnel, namespace, namespaces, selector, service, tcp_services, udp_services, real_servers, sorry_server, neighbour_check, health, drain`},
		{"[[vip]]\naddresses = ['10.0.0.1']\nports = [80]", `1: vip[0].name: missing, want a name for logs and metrics, such as name = "edge"`},
		{"[[vip]]\naddresses = ['10.0.0.1']\nports = [80]\nname = 'Edge'", `4: vip[0].name: is "Edge", ` + wantName},
		{"[[vip]]\naddresses = ['10.0.0.1']\nports = [80]\nname = ''", `4: vip[0].name: is "", ` + wantName},
		{vipLine("[[vip]]\nname='a'\naddresses=['10.0.0.2']\nports=[80]"), `6: vip[1].name: "a" is also the name of the VIP in line 2, want each name once`},
		{"[[vip]]\nname = 'a'\nports = [80]", `1: vip[0].addresses: missing, want a list of at least one address, such as ["10.135.22.77"]`},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = []", `4: vip[0].addresses: missing, want a list of at least one address, such as ["10.135.22.77"]`},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = '10.0.0.1'", `4: vip[0].addresses: is "10.0.0.1", want a list of addresses such as ["10.135.22.77", "2001:db8::77"]`},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = [\n'10.0.0.1',\n'10.0.0.256']", `6: vip[0].addresses[1]: is "10.0.0.256", ` + wantUnicast},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = ['10.0.0.1/32']", `4: vip[0].addresses[0]: is "10.0.0.1/32", ` + wantUnicast},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = [10.1]", `4: vip[0].addresses[0]: is the number 10.1, ` + wantUnicast},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = ['::']", `4: vip[0].addresses[0]: is "::" (the unspecified address), ` + wantUnicast},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = ['::ffff:127.0.0.1']", `4: vip[0].addresses[0]: is "::ffff:127.0.0.1" (a loopback address), ` + wantUnicast},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = ['224.0.0.18']", `4: vip[0].addresses[0]: is "224.0.0.18" (a multicast address), ` + wantUnicast},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = ['fe80::1']", `4: vip[0].addresses[0]: is "fe80::1" (a link-local address), ` + wantUnicast},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = ['2001:db8::1%eth0']", `4: vip[0].addresses[0]: is "2001:db8::1%eth0", ` + wantUnicast},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = ['255.255.255.255']", `4: vip[0].addresses[0]: is "255.255.255.255" (the broadcast address), ` + wantUnicast},
		{"[[vip]]\nname = 'a'\nports = [80]\naddresses = ['10.0.0.1',\n'::ffff:10.0.0.1']", `5: vip[0].addresses[1]: 10.0.0.1 is already an address of this VIP, want each address once`},
		{vipLine(`scheduler = "wrrr"`), `5: vip[0].scheduler: is "wrrr", want one of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos`},
		{vipLine(`announce = "bgp"`), `5: vip[0].announce: is "bgp", want one of none, arp, dummy`},
		{vipLine(`weight = 0`), `5: vip[0].weight: is the integer 0, want an integer from 1 to 65535`},
		{vipLine(`weight = 65536`), `5: vip[0].weight: is the integer 65536, want an integer from 1 to 65535`},
		{vipLine(`weight = 1.5`), `5: vip[0].weight: is the number 1.5, want an integer from 1 to 65535`},
		{vipLine(`namespace = "kube_system"`), `5: vip[0].namespace: is "kube_system", want a namespace: at most 63 lower-case letters, digits and "-", neither starting nor ending with "-"`},
		{vipLine(`selector = "app=nginx,,"`), `5: vip[0].selector: is "app=nginx,," (` + emptyRequirement.Error() + `), ` + wantSelector},
		{vipLine(`selector = 1`), `5: vip[0].selector: is the integer 1, ` + wantSelector},
		{vipLine(`selector = ""`), `5: vip[0].selector: empty, want a label selector, or real_servers that need no pods`},
		{vipLine(`tcp_services = "a/b/c"`), `5: vip[0].tcp_services: is "a/b/c", ` + wantMap},
		{vipLine(`udp_services = ["udp"]`), `5: vip[0].udp_services: is a list, ` + wantMap},
		{vipLine("[vip.drain]\ntimeout = '25h'"), `6: vip[0].drain.timeout: is "25h", want a duration in quotes with its unit such as "10s", from 0s to 24h`},
		{vipLine("[vip.drain]\ntimeout = 1979-05-27"), `6: vip[0].drain.timeout: is a date or time, want a duration in quotes with its unit such as "10s", from 0s to 24h`},
		{vipLine(`drain.time = "1s"`), `5: vip[0].drain.time: unknown key, want one of timeout`},

		// Ports.
		{"[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']", `1: vip[0].ports: missing, want ports such as ["80/tcp", "443/tcp"], tcp_services, udp_services, service or ports_from = "pods"`},
		{"[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']\nports = []", `4: vip[0].ports: missing, want ports such as ["80/tcp", "443/tcp"], tcp_services, udp_services, service or ports_from = "pods"`},
		{"[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']\nports = '80'", `4: vip[0].ports: is "80", want a list of ports such as ["80/tcp", "53/udp"]`},
		{"[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']\nports = [99999]", `4: vip[0].ports[0]: is "99999" (port 99999 is outside 1 to 65535), ` + wantPort},
		{"[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']\nports = [0]", `4: vip[0].ports[0]: is "0" (port 0 is outside 1 to 65535), ` + wantPort},
		{"[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']\nports = ['80/tpc']", `4: vip[0].ports[0]: is "80/tpc" (protocol "tpc" is not tcp, udp or sctp), ` + wantPort},
		{"[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']\nports = [true]", `4: vip[0].ports[0]: is true, ` + wantPort},
		{"[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']\nports = [\n80,\n'80/udp',\n'80/tcp']", `7: vip[0].ports[2]: 80/tcp is the same port as vip[0].ports[0] (line 5), want each port once`},

		// Static real servers.
		{vipLine(`real_servers = ["10.0.0.2"]`), `5: vip[0].real_servers[0]: is "10.0.0.2", want a table`},
		{vipLine(`real_servers = { address = "10.0.0.2" }`), `5: vip[0].real_servers: is a table, want a list such as [{ address = "10.135.22.20", weight = 1 }]`},
		{vipLine(`real_servers = [{ weight = 1 }]`), `5: vip[0].real_servers[0].address: missing, want the real server's address`},
		{vipLine(`real_servers = [{ address = "node-a" }]`), `5: vip[0].real_servers[0].address: is "node-a", ` + wantUnicast},
		{vipLine("real_servers = [{\naddress = '10.0.0.2', weight = -1 }]"), `6: vip[0].real_servers[0].weight: is the integer -1, want an integer from 0 to 65535`},
		{vipLine(`real_servers = [{ address = "10.0.0.2", port = 80 }]`), `5: vip[0].real_servers[0].port: unknown key, want one of address, weight`},
		{vipLine("real_servers = [{ address = '10.0.0.2' },\n{ address = '10.0.0.2' }]"), `6: vip[0].real_servers[1].address: 10.0.0.2 is the same address as vip[0].real_servers[0].address (line 5), want each real server once`},
		{vipLine(`real_servers = [{ address = "2001:db8::2" }]`), `5: vip[0].real_servers[0].address: 2001:db8::2 is IPv6, want the family of one of the VIP's addresses`},
		{vipLine("real_servers = [{ address = '10.0.0.2' }]\n[[vip]]\nname='b'\naddresses=['10.0.0.2']\nports=[80]"), `5: vip[0].real_servers[0].address: 10.0.0.2 is an address of VIP "b" (line 8), want the real server's own address`},
		{vipLine("sorry_server = '10.0.0.2'\n[[vip]]\nname='b'\naddresses=['10.0.0.2']\nports=[80]"), `5: vip[0].sorry_server: 10.0.0.2 is an address of VIP "b" (line 8), want the sorry server's own address`},
	})
}

// Keys of a VIP that only IPVS knows: flags, persistence, groups and so on.
func TestParseServiceMistakes(t *testing.T) {
	const (
		wantUnicast    = `want a unicast IPv4 or IPv6 address such as "10.135.22.77"`
		wantAnnotation = `want an annotation's "NAME" or "PREFIX/NAME" such as "lvs-controller/weight", or "" for none`
		wantUDP        = `want a port such as "53/udp", udp_services or ports_from = "pods"`
		wantSlow       = `want whole seconds as a duration in quotes with its unit such as "10s", from 0s to 1h`
		wantPersist    = `want whole seconds as a duration in quotes with its unit such as "10s", from 1s to 24h`
	)
	checkMistakes(t, []struct{ text, want string }{
		// Flags.
		{vipLine(`flags = "ops"`), `5: vip[0].flags: is "ops", want a list of flags such as ["sh-port"]`},
		{vipLine(`flags = ["port"]`), `5: vip[0].flags[0]: is "port", want one of sh-port, sh-fallback, mh-port, mh-fallback, ops`},
		{vipLine(`flags = ["sh-port"]`), `5: vip[0].flags[0]: sh-port is a flag of scheduler sh alone, and the scheduler is rr; want the one or the other changed`},
		{vipLine("flags = ['sh-port',\n'mh-fallback']\nscheduler = 'sh'"), `6: vip[0].flags[1]: mh-fallback is a flag of scheduler mh alone, and the scheduler is sh; want the one or the other changed`},
		{vipLine("scheduler = 'mh'\nflags = ['mh-port',\n'mh-port']"), `7: vip[0].flags[1]: mh-port is the same flag as vip[0].flags[0] (line 6), want each flag once`},
		{vipLine("scheduler = 's'\nflags = ['sh-port']"), `5: vip[0].scheduler: is "s", want one of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos`},
		{vipLine(`flags = ["ops"]`), `5: vip[0].flags: ops is for UDP alone, ` + wantUDP},

		// Persistence.
		{vipLine(`persistence = "5m"`), `5: vip[0].persistence: is "5m", want a table`},
		{vipLine(`persistence.timeout = "0s"`), `5: vip[0].persistence.timeout: is "0s", ` + wantPersist},
		{vipLine(`persistence.timeout = "1500ms"`), `5: vip[0].persistence.timeout: is "1500ms", ` + wantPersist},
		{vipLine(`persistence.timeout = "25h"`), `5: vip[0].persistence.timeout: is "25h", ` + wantPersist},
		{vipLine(`persistence.netmask = 0`), `5: vip[0].persistence.netmask: is the integer 0, want an integer from 1 to 32`},
		{vipLine(`persistence.netmask = "255.255.255.0"`), `5: vip[0].persistence.netmask: is "255.255.255.0", want an integer from 1 to 32`},
		{vipLine(`persistence.prefix = 129`), `5: vip[0].persistence.prefix: is the integer 129, want an integer from 1 to 128`},
		{vipLine(`persistence.engine = "ftp"`), `5: vip[0].persistence.engine: is "ftp", want "sip", or "" for none`},
		{vipLine(`persistence.engine = "sip"`), `5: vip[0].persistence.engine: is "sip", which is for UDP alone, ` + wantUDP},

		// Groups.
		{vipLine(`groups = [80, 443]`), `5: vip[0].groups[0]: is the integer 80, want a list of ports such as ["80/tcp", "53/udp"]` + "\nc.toml:" +
			`5: vip[0].groups[1]: is the integer 443, want a list of ports such as ["80/tcp", "53/udp"]`},
		{vipLine(`groups = "all"`), `5: vip[0].groups: is "all", want a list of lists of ports such as [["80/tcp", "443/tcp"]]`},
		{vipLine(`groups = [[80]]`), `5: vip[0].groups[0]: has fewer than two ports, want at least two such as ["80/tcp", "443/tcp"]`},
		{vipLine(`groups = [[]]`), `5: vip[0].groups[0]: has fewer than two ports, want at least two such as ["80/tcp", "443/tcp"]`},
		{vipLine(`groups = [[80, 0]]`), `5: vip[0].groups[0][1]: is "0" (port 0 is outside 1 to 65535), want a port from 1 to 65535 such as "80/tcp", "53/udp", "5000/sctp" or 80, or a range such as "8000-8010/tcp"`},
		{vipLine("tcp_services = 't'\ngroups = [[1, 2],\n[3, 2]]"), `7: vip[0].groups[1][1]: 2/tcp is the same port as vip[0].groups[0][1] (line 6), want each port once`},
		{vipLine("groups = [[80,\n443]]"), `6: vip[0].groups[0][1]: 443/tcp is no port of this VIP, want it in ports too`},
		{vipLine("tcp_services = 't'\nudp_services = ''\ngroups = [[443, '443/udp']]"), `7: vip[0].groups[0][1]: 443/udp is no port of this VIP, want it in ports too`},
		{vipLine("udp_services = 'u'\ntcp_services = ''\ngroups = [[80, '80/sctp', '80/udp']]"), `7: vip[0].groups[0][1]: 80/sctp is no port of this VIP, want it in ports too`},
		{vipLine("scheduler = 'sh'\nflags = ['sh-port']\ntcp_services = 't'\ngroups = [[80, 443]]"), `6: vip[0].flags: sh-port excludes groups (line 8), whose ports it sends to different real servers; want one of the two`},
		{vipLine("scheduler = 'mh'\nflags = ['mh-fallback', 'mh-port']\ntcp_services = 't'\ngroups = [[80, 443]]\n[vip.persistence]"), `6: vip[0].flags: mh-port excludes groups (line 8), whose ports it sends to different real servers; want one of the two`},
		{vipLine(`notrack = "on"`), `5: vip[0].notrack: is "on", want true or false, without quotes`},
		{vipLine(`one_mark = 1`), `5: vip[0].one_mark: is the integer 1, want true or false, without quotes`},

		// Weights.
		{vipLine(`weight_annotation = "a b"`), `5: vip[0].weight_annotation: is "a b", ` + wantAnnotation},
		{vipLine(`weight_annotation = "/weight"`), `5: vip[0].weight_annotation: is "/weight", ` + wantAnnotation},
		{vipLine(`weight_annotation = "a/b/c"`), `5: vip[0].weight_annotation: is "a/b/c", ` + wantAnnotation},
		{vipLine(`weight_annotation = "-a/b"`), `5: vip[0].weight_annotation: is "-a/b", ` + wantAnnotation},
		{vipLine(`weight_annotation = "a/b-"`), `5: vip[0].weight_annotation: is "a/b-", ` + wantAnnotation},
		{vipLine(`upper_threshold = -1`), `5: vip[0].upper_threshold: is the integer -1, want an integer from 0 to 4294967295`},
		{vipLine(`lower_threshold = 5`), `5: vip[0].lower_threshold: is 5 without an upper_threshold, want that too`},
		{vipLine("upper_threshold = 5\nlower_threshold = 5"), `6: vip[0].lower_threshold: is 5, want less than upper_threshold, 5 (line 5)`},
		{vipLine("upper_threshold = 'x'\nlower_threshold = 5"), `5: vip[0].upper_threshold: is "x", want an integer from 0 to 4294967295`},
		{vipLine("scheduler = 'wrr'\nweight = 10\nslow_start = '61m'"), `7: vip[0].slow_start: is "61m", ` + wantSlow},
		{vipLine("scheduler = 'wrr'\nweight = 10\nslow_start = '5ns'"), `7: vip[0].slow_start: is "5ns", ` + wantSlow},
		{vipLine("weight = 10\nslow_start = '1m'"), `6: vip[0].slow_start: scheduler rr does not share by weight, want one of wrr, wlc, lblc, lblcr, sh, sed, nq, mh, twos`},
		{vipLine("weight = 10\nscheduler = 'fo'\nslow_start = '1m'"), `7: vip[0].slow_start: scheduler fo does not share by weight, want one of wrr, wlc, lblc, lblcr, sh, sed, nq, mh, twos`},
		{vipLine("scheduler = 'wrr'\nweight = 9\nslow_start = '1m'"), `7: vip[0].slow_start: a weight of 9 cannot rise in 10 steps, want weight = 10 or more`},
		{vipLine("scheduler = 'wrr'\nweight = 0\nslow_start = '1m'"), `6: vip[0].weight: is the integer 0, want an integer from 1 to 65535`},

		// Forwarding.
		{vipLine(`forward = "masq"`), `5: vip[0].forward: is "masq", want one of dr, tunnel`},
		{vipLine("[vip.tunnel]"), `5: vip[0].tunnel: is for forward = "tunnel" alone, want that or no [vip.tunnel]`},
		{vipLine("forward = 'dr'\n[vip.tunnel]\ntype = 'gue'"), `6: vip[0].tunnel: is for forward = "tunnel" alone, want that or no [vip.tunnel]`},
		{vipLine("forward = 'tunnel'\ntunnel.type = 'vxlan'\ntunnel.port = 1"), `6: vip[0].tunnel.type: is "vxlan", want one of ipip, gue, gre`},
		{vipLine("forward = 'tunnel'\ntunnel.type = 'gue'\ntunnel.port = 0"), `7: vip[0].tunnel.port: is the integer 0, want an integer from 1 to 65535`},
		{vipLine("forward = 'tunnel'\ntunnel.port = 6080"), `6: vip[0].tunnel.port: is for type = "gue" alone, want that or no port`},
		{vipLine("forward = 'tunnel'\ntunnel.type = 'gre'\ntunnel.port = 6080"), `7: vip[0].tunnel.port: is for type = "gue" alone, want that or no port`},
		{vipLine("forward = 'tunnel'\ntunnel.checksum = 'none'"), `6: vip[0].tunnel.checksum: is for type = "gue" or "gre", want one of them or no checksum`},
		{vipLine("forward = 'tunnel'\ntunnel.type = 'gre'\ntunnel.checksum = 'remote'"), `7: vip[0].tunnel.checksum: is "remote", which is for type = "gue" alone; want one of none, on`},
		{vipLine("forward = 'tunnel'\ntunnel.type = 'gue'\ntunnel.checksum = true"), `7: vip[0].tunnel.checksum: is true, want one of none, on, remote`},
		{vipLine("forward = 'tunnel'\nreal_servers = [{ address = '2001:db8::2' }]"), `6: vip[0].real_servers[0].address: 2001:db8::2 is IPv6, want the family of one of the VIP's addresses`},

		// Sorry servers.
		{vipLine(`sorry_server = 1`), `5: vip[0].sorry_server: is the integer 1, ` + wantUnicast + `, or a list with one of each family`},
		{vipLine(`sorry_server = "sorry.example"`), `5: vip[0].sorry_server: is "sorry.example", ` + wantUnicast},
		{vipLine(`sorry_server = ["10.0.0.9:80"]`), `5: vip[0].sorry_server[0]: is "10.0.0.9:80", ` + wantUnicast},
		{vipLine(`sorry_server = ["10.0.0.9", "10.0.0.10"]`), `5: vip[0].sorry_server[1]: 10.0.0.10 is a second IPv4 address, want one of each family at most`},
		{vipLine(`sorry_server = "2001:db8::9"`), `5: vip[0].sorry_server: 2001:db8::9 is IPv6, want the family of one of the VIP's addresses`},
		{vipLine(`sorry_server = "::ffff:10.0.0.1"`), `5: vip[0].sorry_server: 10.0.0.1 is an address of VIP "a" (line 3), want the sorry server's own address`},
		{vipLine("sorry_server = '10.0.0.9'\nreal_servers = [{ address = '10.0.0.9' }]"), `5: vip[0].sorry_server: 10.0.0.9 is one of real_servers (line 6), want a server that is not`},
	})
}

// Everything that IPVS can do, in one file.
func TestParseServices(t *testing.T) {
	const text = `
[marks]
first = 0x20000
count = 3

[sysctl]
conn_reuse_mode = 0
est_nice        = -5
est_cpulist     = "0-3,8"
sync_ports      = 64
sync_threshold  = "  10 0"

[[vip]]
name              = "web"
addresses         = ["10.0.0.1", "2001:db8::1"]
scheduler         = "mh"
flags             = ["mh-fallback"]
ports             = ["443/tcp", "443/udp", "80/tcp", "22/tcp", "21/tcp"]
groups            = [["443/udp", "80/tcp", "443/tcp"], [22, 21]]
one_mark          = true
notrack           = true
weight            = 100
weight_annotation = "example.org/Weight_1.0"
upper_threshold   = 4294967295
lower_threshold   = 4294967294
slow_start        = "90s"
removal_brake     = 80
neighbour_check   = false
forward           = "tunnel"
sorry_server      = ["2001:db8::9", "10.0.0.9"]
tunnel            = { type = "gue", checksum = "remote" }

[[vip]]
name          = "sip"
addresses     = ["10.0.0.2"]
ports_from    = "pods"
exclude_ports = ["9100/tcp", "8080-8082/tcp", "53-53/udp"]
port_names    = ["sip*", "https"]
node_networks = ["10.9.0.0/24", "2001:db8:9::/64"]
selector      = "app=sip"
sorry_server  = "10.0.0.9"
weight_annotation = ""
reserved_ports = [8080, 442]
follow_nodes = true
host_ports = true
[vip.persistence]
timeout = "90m"
netmask = 24
prefix  = 64
engine  = "sip"

[[vip]]
name         = "dns"
addresses    = ["10.0.0.3"]
scheduler    = "sh"
flags        = ["ops", "sh-port"]
udp_services = "dns"
forward      = "tunnel"
tunnel.type  = "gre"
tunnel.checksum = "on"
`
	addr := netip.MustParseAddr
	want := defaultConfig()
	want.Path = "c.toml"
	want.Marks = MarkRange{First: 0x20000, Count: 3}
	want.Sysctls = map[string]string{"conn_reuse_mode": "0", "est_nice": "-5", "est_cpulist": "0-3,8", "sync_ports": "64", "sync_threshold": "10\t0"}
	pods := PodQuery{Namespace: "ingress-nginx", Selector: defaultSelector}
	want.VIPs = []VIP{{
		Name:             "web",
		Addresses:        []netip.Addr{addr("10.0.0.1"), addr("2001:db8::1")},
		Scheduler:        "mh",
		Flags:            FlagSched1,
		Ports:            []Port{{21, TCP}, {22, TCP}, {80, TCP}, {443, TCP}, {443, UDP}},
		Groups:           [][]Port{{{21, TCP}, {22, TCP}}, {{80, TCP}, {443, TCP}, {443, UDP}}},
		OneMark:          true,
		NoTrack:          true,
		Announce:         AnnounceNone,
		Weight:           100,
		WeightAnnotation: "example.org/Weight_1.0",
		Upper:            4294967295,
		Lower:            4294967294,
		SlowStart:        90 * time.Second,
		Pods:             pods,
		Forward:          Tunnel,
		Tunnel:           TunnelSettings{Type: TunnelGUE, Port: 6080, Flags: TunnelRemoteChecksum},
		Sorry:            []netip.Addr{addr("2001:db8::9"), addr("10.0.0.9")},
		ReservedPorts:    defaultVIP().ReservedPorts,
		Drain:            Drain{5 * time.Minute},
		RemovalBrake:     80,
	}, {
		Name:           "sip",
		Addresses:      []netip.Addr{addr("10.0.0.2")},
		Scheduler:      "rr",
		PortsFromPods:  true,
		ExcludePorts:   []Port{{53, UDP}, {8080, TCP}, {8081, TCP}, {8082, TCP}, {9100, TCP}},
		PortNames:      []string{"sip*", "https"},
		NodeNetworks:   []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("2001:db8:9::/64")},
		ReservedPorts:  []uint16{442, 8080},
		HostPorts:      true,
		FollowNodes:    true,
		Persistence:    Persistence{Timeout: 90 * time.Minute, Prefix4: 24, Prefix6: 64, Engine: "sip"},
		Announce:       AnnounceNone,
		Weight:         1,
		Pods:           PodQuery{Namespace: "ingress-nginx", Selector: "app=sip"},
		Forward:        DirectRoute,
		Sorry:          []netip.Addr{addr("10.0.0.9")},
		Drain:          Drain{5 * time.Minute},
		RemovalBrake:   50,
		NeighbourCheck: true,
	}, {
		Name:             "dns",
		Addresses:        []netip.Addr{addr("10.0.0.3")},
		Scheduler:        "sh",
		Flags:            FlagOnePacket | FlagSched2,
		Announce:         AnnounceNone,
		Weight:           1,
		WeightAnnotation: "lvs-controller/weight",
		Pods:             pods,
		UDPServices:      ConfigMapName{"ingress-nginx", "dns"},
		Forward:          Tunnel,
		Tunnel:           TunnelSettings{Type: TunnelGRE, Flags: TunnelChecksum},
		ReservedPorts:    defaultVIP().ReservedPorts,
		Drain:            Drain{5 * time.Minute},
		RemovalBrake:     50,
		NeighbourCheck:   true,
	}}
	got, err := ParseConfig("c.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

// parseVIP parses a file with one VIP that has lines in addition to goodVIP.
func parseVIP(t *testing.T, lines string) *VIP {
	t.Helper()
	c, err := ParseConfig("c.toml", []byte(vipLine(lines)))
	if err != nil {
		t.Fatal(err)
	}
	return &c.VIPs[0]
}

// What keeps a client on its real server follows from several keys.
func TestStickingDefaults(t *testing.T) {
	const groups = "\ntcp_services = 't'\ngroups = [[80, 443]]"
	alone := Persistence{Timeout: 5 * time.Minute, Prefix4: 32, Prefix6: 128}
	for _, test := range []struct {
		lines       string
		flags       ServiceFlags
		persistence Persistence
	}{
		{"", 0, Persistence{}},
		{"scheduler = 'sh'", FlagSched1, Persistence{}},
		{"scheduler = 'sh'\nflags = []", 0, Persistence{}},
		{"scheduler = 'sh'\nflags = ['sh-port']", FlagSched2, Persistence{}},
		{"scheduler = 'sh'\nflags = ['sh-fallback', 'sh-port']", FlagSched1 | FlagSched2, Persistence{}},
		{"scheduler = 'mh'", FlagSched1, Persistence{}},
		{"scheduler = 'mh'\nflags = ['mh-port']", FlagSched2, Persistence{}},
		{"scheduler = 'mh'\nflags = ['mh-port', 'mh-fallback']", FlagSched1 | FlagSched2, Persistence{}},
		{"ports_from = 'pods'\nflags = ['ops']", FlagOnePacket, Persistence{}},
		{"persistence = {}", 0, alone},
		{"persistence.netmask = 8", 0, Persistence{5 * time.Minute, 8, 128, ""}},
		{"persistence.timeout = '1s'", 0, Persistence{time.Second, 32, 128, ""}},
		{"one_mark = true", 0, Persistence{}},
		{groups, 0, alone},
		{"scheduler = 'wlc'\npersistence.timeout = '1h'" + groups, 0, Persistence{time.Hour, 32, 128, ""}},
		{"scheduler = 'sh'" + groups, FlagSched1, Persistence{}},
		{"scheduler = 'mh'" + groups, FlagSched1, Persistence{}},
		{"scheduler = 'dh'" + groups, 0, Persistence{}},
		{"scheduler = 'mh'\nflags = ['ops']\nudp_services = 'u'" + groups, FlagOnePacket, Persistence{}},
		{"scheduler = 'mh'\npersistence = {}" + groups, FlagSched1, alone},
	} {
		v := parseVIP(t, test.lines)
		if v.Flags != test.flags || v.Persistence != test.persistence {
			t.Errorf("%q: flags %#x, %+v; want %#x, %+v", test.lines, v.Flags, v.Persistence, test.flags, test.persistence)
		}
	}
}

// -schedname on top of a file must not leave what the new scheduler refuses.
func TestSetScheduler(t *testing.T) {
	const groups = "\ntcp_services = 't'\ngroups = [[80, 443]]"
	for _, test := range []struct {
		lines, scheduler string
		want             string // lines that mean the same
	}{
		{"", "sh", "scheduler = 'sh'"},
		{"scheduler = 'sh'", "rr", ""},
		{"scheduler = 'sh'\nflags = ['sh-port']", "sh", "scheduler = 'sh'\nflags = ['sh-port']"},
		{"scheduler = 'sh'\nflags = ['sh-port']", "mh", "scheduler = 'mh'"},
		{"udp_services = 'u'\nflags = ['ops']", "sh", "udp_services = 'u'\nscheduler = 'sh'\nflags = ['sh-fallback', 'ops']"},
		{"scheduler = 'sh'" + groups, "wlc", "scheduler = 'wlc'" + groups},
		{"scheduler = 'wrr'\nweight = 10\nslow_start = '1m'", "wlc", "scheduler = 'wlc'\nweight = 10\nslow_start = '1m'"},
		{"scheduler = 'wrr'\nweight = 10\nslow_start = '1m'", "lc", "scheduler = 'lc'\nweight = 10"},
	} {
		v := parseVIP(t, test.lines)
		v.SetScheduler(test.scheduler)
		if diff := cmp.Diff(parseVIP(t, test.want), v, compareAddrs); diff != "" {
			t.Errorf("%q with %s (-want +got):\n%s", test.lines, test.scheduler, diff)
		}
	}
}

// checkVIP fails the test unless v is what its users may rely on.
func checkVIP(t *testing.T, v *VIP) {
	t.Helper()
	if p := v.Persistence; p.Timeout%time.Second != 0 || p.Timeout > 0 && (p.Prefix4 == 0 || p.Prefix6 == 0) || p.Timeout == 0 && p != (Persistence{}) {
		t.Errorf("persistence %+v", p)
	}
	if v.Persistence.Timeout > 0 && v.Flags&FlagOnePacket != 0 {
		t.Error("persistence and one-packet scheduling")
	}
	seen := map[Port]bool{}
	for _, group := range v.Groups {
		if len(group) < 2 || !slices.IsSortedFunc(group, Port.Compare) || v.Persistence.Timeout == 0 && !v.sticksByItself() {
			t.Errorf("group %v with %+v", group, v.Persistence)
		}
		for _, p := range group {
			if seen[p] {
				t.Errorf("%s in two groups", p)
			}
			seen[p] = true
		}
	}
	if v.Lower > 0 && v.Lower >= v.Upper {
		t.Errorf("thresholds %d and %d", v.Lower, v.Upper)
	}
	if v.SlowStart%time.Second != 0 || v.SlowStart > 0 && v.Weight < slowSteps {
		t.Errorf("slow start %s with weight %d", v.SlowStart, v.Weight)
	}
	if v.Forward != Tunnel && (v.Forward != DirectRoute || v.Tunnel != TunnelSettings{}) || (v.Tunnel.Type == TunnelGUE) != (v.Tunnel.Port > 0) {
		t.Errorf("forward %s, %+v", v.Forward, v.Tunnel)
	}
	if v.PortsFromPods && v.Pods.Selector == "" || !v.PortsFromPods && len(v.ExcludePorts) > 0 {
		t.Errorf("ports from pods %v of %+v without %v", v.PortsFromPods, v.Pods, v.ExcludePorts)
	}
	if len(v.Sorry) > 2 || len(v.Sorry) == 2 && v.Sorry[0].Is4() == v.Sorry[1].Is4() {
		t.Errorf("sorry servers %v", v.Sorry)
	}
	if p := v.Probes; p != nil {
		if len(p.kinds()) == 0 || p.Timeout <= 0 || p.Timeout > p.Interval || p.Rise == 0 || p.Fall == 0 || p.ConnectsPerSecond == 0 {
			t.Errorf("probes %+v", p)
		}
		for _, h := range p.HTTP {
			if h.Port == 0 || len(h.Status) == 0 || strings.ContainsAny(h.Path+h.Host, " \r\n") || !strings.HasPrefix(h.Path, "/") || len(h.Body.SHA256)%32 > 0 {
				t.Errorf("HTTP probe %+v", h)
			}
		}
		if d := p.DNS; d != nil && (d.Port == 0 || len(d.message(1)) > dnsHeader+255+4) {
			t.Errorf("DNS probe %+v", d)
		}
		if u := p.UDP; u != nil && (u.Port == 0 || len(u.Send) > maxDatagram || len(u.Answer) > maxDatagram) {
			t.Errorf("UDP probe %+v", u)
		}
	}
}

// A file of nothing but mistakes takes no time with the square of its size.
func TestParseManyMistakes(t *testing.T) {
	skipShort(t)
	text := strings.Repeat("[[vip]]\ntunnel={}\nports=[]\n", maxConfigSize/28/4)
	start := time.Now()
	if _, err := ParseConfig("c.toml", []byte(text)); err == nil {
		t.Error("accepted")
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %s", d)
	}
}

// The values that mean "none".
func TestServiceEmptyValues(t *testing.T) {
	got := parseVIP(t, "groups = []\nexclude_ports = []\nsorry_server = []\nslow_start = '0s'\nupper_threshold = 0\nlower_threshold = 0\nforward = 'dr'\nports_from = 'config'")
	if diff := cmp.Diff(parseVIP(t, "sorry_server = ''"), got, compareAddrs); diff != "" {
		t.Errorf("empty values (-absent +got):\n%s", diff)
	}
	c, err := ParseConfig("c.toml", []byte(topLine("manage_sysctls = false\n[sysctl]")))
	if err != nil || c.Sysctls != nil {
		t.Errorf("empty [sysctl]: %v, %v", c, err)
	}
}

// A key that names something of the cluster asks for pods: real_servers beside
// it add to them. Only a VIP of real_servers alone has none, with a warning.
func TestDefaultSelectorBesideRealServers(t *testing.T) {
	const static = "real_servers = [{ address = '10.0.0.9', weight = 0 }]\n"
	const warning = `c.toml:1: vip[0].selector: missing beside real_servers (line 5), so that no pod is a real server; want selector = "" to say so, or a label selector`
	tests := []struct {
		name, lines, selector, warning string
	}{
		{"no real servers", "", defaultSelector, ""},
		{"an empty list of them", "real_servers = []\n", defaultSelector, ""},
		{"alone", static, "", warning},
		{"with what says nothing", static + "tcp_services = ''\nudp_services = ''\nports_from = 'config'\n", "", warning},
		{"namespace", static + "namespace = 'edge'\n", defaultSelector, ""},
		{"the default namespace, written", static + "namespace = 'ingress-nginx'\n", defaultSelector, ""},
		{"tcp_services", static + "tcp_services = 'tcp'\n", defaultSelector, ""},
		{"udp_services", static + "udp_services = 'udp'\n", defaultSelector, ""},
		{"ports_from", static + "ports_from = 'pods'\n", defaultSelector, ""},
		{"host_ports", static + "host_ports = true\n", defaultSelector, ""},
		{"no pods, written", static + "selector = ''\nnamespace = 'edge'\ntcp_services = 'tcp'\n", "", ""},
		{"a selector", static + "selector = 'app=web'\n", "app=web", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := ParseConfig("c.toml", []byte("[[vip]]\nname = 'edge'\naddresses = ['10.0.0.1']\nports = [80]\n"+tt.lines))
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.VIPs[0].Pods.Selector; got != tt.selector {
				t.Errorf("selector %q, want %q", got, tt.selector)
			}
			if got := (ConfigErrors{First: cfg.Warnings}).Text(9); got != tt.warning {
				t.Errorf("warnings %q, want %q", got, tt.warning)
			}
		})
	}
}

// A reload that adds one static real server, or takes one node out by hand,
// leaves the other real servers in service.
func TestReloadWithRealServerKeepsPods(t *testing.T) {
	const before = "[[vip]]\nname = 'edge'\naddresses = ['10.0.0.1']\nports = ['80/tcp']\nnamespace = 'ingress-nginx'\ntcp_services = 'tcp-services'\n"
	tests := []struct {
		name, added, want string
	}{
		{"a static real server", "real_servers = [{ address = '10.1.0.20' }]\n", "10.1.0.1=1 10.1.0.2=1 10.1.0.20=1"},
		{"weight 0 for one node", "real_servers = [{ address = '10.1.0.2', weight = 0 }]\n", "10.1.0.1=1 10.1.0.2=0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := wanted{Memory: newMemory()}
			for _, text := range []string{before, before + tt.added} {
				cfg, err := ParseConfig("c.toml", []byte(text))
				if err != nil {
					t.Fatal(err)
				}
				cluster := &Cluster{
					Pods:       map[PodQuery][]*Pod{},
					ConfigMaps: map[ConfigMapName]ConfigMap{{"ingress-nginx", "tcp-services"}: {Exists: true, Data: map[string]string{"9000": "ns/svc:1"}}},
				}
				for _, q := range cfg.ClusterQuery().Pods {
					cluster.Pods[q] = refs(readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"))
				}
				w = desired(nil, cfg, cluster, nil, w.Memory, testTime)
			}
			want := "10.0.0.1:80/tcp rr: " + tt.want + "\n10.0.0.1:9000/tcp rr: " + tt.want + "\n"
			if got := w.Shards.table().text(); got != want {
				t.Errorf("table:\n%swant:\n%s", got, want)
			}
		})
	}
}

// The documents name every scheduler and every flag, in the order of the tables
// of lvs_scheduler.go, and no others. They have every value of announce.
func TestKindsAreDocumented(t *testing.T) {
	example, err := os.ReadFile("config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	features, err := os.ReadFile("docs/features.md")
	if err != nil {
		t.Fatal(err)
	}
	// words are those between two phrases, without marks.
	words := func(text []byte, from, to string) string {
		_, rest, _ := strings.Cut(strings.ReplaceAll(string(text), "\n#", ""), from)
		rest, _, _ = strings.Cut(rest, to)
		return strings.Join(strings.Fields(strings.NewReplacer("`", "", ",", "", "\"", "").Replace(rest)), " ")
	}
	all := strings.Join(schedulerNames(func(scheduler) bool { return true }), " ")
	byWeight := strings.Join(schedulerNames(func(s scheduler) bool { return s.byWeight }), " ")
	var flags []string
	for _, f := range serviceFlags {
		if f.scheduler != "" {
			flags = append(flags, f.word)
		}
		if !knownScheduler(f.scheduler) && f.scheduler != "" {
			t.Errorf("flag %s is for scheduler %q, which is none", f.word, f.scheduler)
		}
		if !strings.Contains(string(example), `"`+f.word+`"`) {
			t.Errorf("config.toml.example does not name the flag %s", f.word)
		}
	}
	for _, s := range schedulers {
		for _, bit := range []ServiceFlags{s.fallback, s.spreads} {
			if (s.word(bit) == "") != (bit == 0) {
				t.Errorf("scheduler %s: bit %#x has the word %q", s.name, bit, s.word(bit))
			}
		}
	}
	for _, m := range announceMethods {
		if m.onUplink && m.onDummy {
			t.Errorf("announce = %q is on two devices", m.name)
		}
		if !strings.Contains(words(example, "How the addresses come to the network.", "# announce ="), string(m.name)+" = ") {
			t.Errorf("config.toml.example does not describe announce = %q", m.name)
		}
	}
	for _, test := range []struct{ where, got, want string }{
		{"config.toml.example, scheduler", words(example, "picks a real server: one of", ". Default"), all},
		{"config.toml.example, slow_start", words(example, "shares by weight: one of", ". Range"), byWeight},
		{"docs/features.md, schedulers", words(features, "| Schedulers |", ", with"), all},
		{"docs/features.md, flags", words(features, "mh twos, with", "|"), strings.Join(flags, " ")},
	} {
		if test.got != test.want {
			t.Errorf("%s: %q, want %q", test.where, test.got, test.want)
		}
	}
}
