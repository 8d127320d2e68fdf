package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// compareAddrs lets cmp compare addresses and networks.
var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestParseConfig(t *testing.T) {
	const text = `
kubeconfig     = "kubeconfig"
interface      = "bond0.100"
listen         = "[2001:db8::1]:9652"
audit_interval = "1m30s"
manage_sysctls = false
state_dir      = "/tmp/state/"
cache_dir      = "/tmp/cache"
director.connection_table_bits = 22
[timeouts]
tcp     = "15m"
tcp_fin = "2m"
udp     = "596h"

[[vip]]
name         = "edge"
addresses    = ["10.135.22.77", "::ffff:10.135.22.78", "2001:db8::77"]
scheduler    = "mh"
ports        = ["443/tcp", 80, "53/udp", "53/tcp", "5000/sctp"]
announce     = "arp"
weight       = 65535
namespace    = "edge"
selector     = "app=haproxy"
tcp_services = "tcp"
udp_services = "other/udp"
real_servers = [
	{ address = "10.135.22.20" },
	{ address = "2001:db8::20", weight = 0 },
]
drain.timeout = "0s"

[[vip]]
name      = "db"
addresses = ["10.135.22.79"]
ports     = [5432]
[[vip.real_servers]]
address = "10.135.22.20" # may serve several VIPs
`
	want := &Config{
		Path:           "/etc/lvs/config.toml",
		Kubeconfig:     "/etc/lvs/kubeconfig",
		Interface:      "bond0.100",
		AnnounceDevice: "lvs0",
		WithdrawHold:   3 * time.Second,
		Listen:         "[2001:db8::1]:9652",
		AuditInterval:  90 * time.Second,
		StateDir:       "/tmp/state",
		CacheDir:       "/tmp/cache",
		Timeouts:       Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 596 * time.Hour},

		ConnectionTableBits: 22,
		Marks:               MarkRange{First: 0x1000, Count: 0x1000},
		Events:              defaultEvents(),
		VIPs: []VIP{{
			Name:        "edge",
			Addresses:   []netip.Addr{netip.MustParseAddr("10.135.22.77"), netip.MustParseAddr("10.135.22.78"), netip.MustParseAddr("2001:db8::77")},
			Scheduler:   "mh",
			Flags:       FlagSched1,
			Ports:       []Port{{53, TCP}, {53, UDP}, {80, TCP}, {443, TCP}, {5000, SCTP}},
			Announce:    AnnounceARP,
			Weight:      65535,
			Pods:        PodQuery{Namespace: "edge", Selector: "app=haproxy"},
			TCPServices: ConfigMapName{"edge", "tcp"},
			UDPServices: ConfigMapName{"other", "udp"},
			RealServers: []StaticServer{{netip.MustParseAddr("10.135.22.20"), 65535}, {netip.MustParseAddr("2001:db8::20"), 0}},

			RemovalBrake:     50,
			NeighbourCheck:   true,
			WeightAnnotation: "lvs-controller/weight",
			ReservedPorts:    []uint16{80, 442, 443, 8181, 10245, 10246, 10247, 10254},
			Forward:          DirectRoute,
		}, {
			Name:        "db",
			Addresses:   []netip.Addr{netip.MustParseAddr("10.135.22.79")},
			Scheduler:   "rr",
			Ports:       []Port{{5432, TCP}},
			Announce:    AnnounceNone,
			Weight:      1,
			Pods:        PodQuery{Namespace: "ingress-nginx"},
			RealServers: []StaticServer{{netip.MustParseAddr("10.135.22.20"), 1}},
			Drain:       Drain{5 * time.Minute},

			RemovalBrake:     50,
			NeighbourCheck:   true,
			WeightAnnotation: "lvs-controller/weight",
			ReservedPorts:    []uint16{80, 442, 443, 8181, 10245, 10246, 10247, 10254},
			Forward:          DirectRoute,
		}},
		Warnings: []ConfigError{{"/etc/lvs/config.toml", 32, "vip[1].selector", `missing beside real_servers (line 36), so that no pod is a real server; want selector = "" to say so, or a label selector`}},
	}
	got, err := ParseConfig("/etc/lvs/config.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestParseConfigDefaults(t *testing.T) {
	got, err := ParseConfig("c.toml", []byte(`vip = [{ name = "a", addresses = ["10.0.0.1"], ports = [80] }]`))
	if err != nil {
		t.Fatal(err)
	}
	if canonical, err := canonicalSelector(defaultSelector); canonical != defaultSelector || err != nil {
		t.Errorf("the default selector in canonical form is %q, %v", canonical, err)
	}
	want := &Config{
		Path:           "c.toml",
		AnnounceDevice: "lvs0",
		WithdrawHold:   3 * time.Second,
		Listen:         "127.0.0.1:9652",
		AuditInterval:  10 * time.Second,
		ManageSysctls:  true,
		StateDir:       "/run/lvs-controller",
		CacheDir:       "/var/lib/lvs-controller",
		Marks:          MarkRange{First: 0x1000, Count: 0x1000},
		Events:         defaultEvents(),

		ConnectionTableBits: 20,
		VIPs: []VIP{{
			Name:      "a",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
			Scheduler: "rr",
			Ports:     []Port{{80, TCP}},
			Announce:  AnnounceNone,
			Weight:    1,
			Pods:      PodQuery{Namespace: "ingress-nginx", Selector: "app.kubernetes.io/component=controller,app.kubernetes.io/name=ingress-nginx"},
			Drain:     Drain{5 * time.Minute},

			RemovalBrake:     50,
			NeighbourCheck:   true,
			WeightAnnotation: "lvs-controller/weight",
			ReservedPorts:    []uint16{80, 442, 443, 8181, 10245, 10246, 10247, 10254},
			Forward:          DirectRoute,
		}},
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

// A VIP that only names a ConfigMap, and the values that mean "none" or "off".
func TestParseConfigEmptyValues(t *testing.T) {
	got, err := ParseConfig("dir/c.toml", []byte(`
kubeconfig = ""
cluster_file = "cluster.json"
interface = ""
listen = ""
[[vip]]
name = "a"
addresses = ["10.0.0.1"]
ports = []
tcp_services = "tcp-services"
udp_services = ""
[[vip]]
name = "b"
addresses = ["10.0.0.2"]
ports = [80]
selector = ""
real_servers = [{ address = "10.0.0.3" }]
`))
	if err != nil {
		t.Fatal(err)
	}
	if got.ClusterFile != filepath.Join("dir", "cluster.json") || got.Kubeconfig != "" || got.Interface != "" || got.Listen != "" {
		t.Errorf("top level: %+v", got)
	}
	if a := got.VIPs[0]; a.TCPServices != (ConfigMapName{"ingress-nginx", "tcp-services"}) || a.UDPServices != (ConfigMapName{}) || len(a.Ports) > 0 {
		t.Errorf("VIP a: %+v", a)
	}
	if b := got.VIPs[1]; b.Pods.Selector != "" || b.TCPServices != (ConfigMapName{}) || b.UDPServices != (ConfigMapName{}) {
		t.Errorf("VIP b uses the cluster: %+v", b)
	}
}

// topLine and vipLine make a file with one line that is wrong: line 1, or line 5, the
// last of a VIP that would be valid without it.
func topLine(line string) string { return line + "\n[[vip]]\n" + goodVIP }
func vipLine(line string) string { return "[[vip]]\n" + goodVIP + line + "\n" }

const goodVIP = "name = \"a\"\naddresses = [\"10.0.0.1\"]\nports = [80]\n"

func TestParseConfigMistakes(t *testing.T) {
	const (
		wantDevice    = `want a device name such as "eth0", at most 15 characters without "/", ":" and spaces, or "" for the device of the default route`
		wantListen    = `want "ADDRESS:PORT" such as "127.0.0.1:9652", ":9652" for all addresses, or "" for off`
		wantAudit     = `want a duration in quotes with its unit such as "10s", from 1s to 1h`
		wantTimeout   = `want whole seconds as a duration in quotes with its unit such as "10s", from 1s to 596h`
		wantTOML      = `; want TOML: one KEY = VALUE a line, strings in quotes, each key once`
		wantThreshold = `want "THRESHOLD PERIOD" such as "3 50", the first below the second, or any first with a second of 0`
	)
	checkMistakes(t, []struct{ text, want string }{
		// Syntax.
		{"listen = eth0\n", `1: syntax: expected value but found "eth" instead` + wantTOML},
		{"a = 1\na = 2\n", `2: syntax: Key 'a' has already been defined` + wantTOML},
		{"\n[[vip]\nname = 'a'\n", `2: syntax: expected end of table array name delimiter ']', but got '\n' instead` + wantTOML},
		{"listen =", `1: syntax: unexpected EOF; expected value` + wantTOML},
		{"a = '\xff'", `1: syntax: invalid UTF-8 byte: 0xff` + wantTOML},

		// Top level.
		{"", `1: vip: missing, want at least one [[vip]]`},
		{"vip = []", `1: vip: missing, want at least one [[vip]]`},
		{"\n[vip]\nname = 'a'\n", `2: vip: is a table, want [[vip]] in double brackets, one for each VIP`},
		{"vip = [1]", `1: vip[0]: is the integer 1, want a table`},
		{topLine(`audit_intervall = "1s"`), `1: audit_intervall: unknown key, did you mean "audit_interval"?`},
		{topLine(`color = "red"`), `1: color: unknown key, want one of kubeconfig, allow_exec_credentials, cluster_file, interface, listen_names, listen, metrics, announce_device, withdraw_hold, audit_interval, manage_sysctls, state_dir, cache_dir, timeouts, director, marks, peer_macs, events, sync, sysctl, vip`},
		{topLine(`"a\nb" = 1`), `1: "a\nb": unknown key, want one of kubeconfig, allow_exec_credentials, cluster_file, interface, listen_names, listen, metrics, announce_device, withdraw_hold, audit_interval, manage_sysctls, state_dir, cache_dir, timeouts, director, marks, peer_macs, events, sync, sysctl, vip`},
		{topLine(`kubeconfig = false`), `1: kubeconfig: is false, want a path, or ""`},
		{"kubeconfig = 'k'\n" + topLine(`cluster_file = "c"`), `2: cluster_file: excludes kubeconfig (line 1), want one of the two`},
		{topLine(`interface = "eth0/1"`), `1: interface: is "eth0/1", ` + wantDevice},
		{topLine(`interface = "a-name-too-long0"`), `1: interface: is "a-name-too-long0", ` + wantDevice},
		{topLine(`interface = 0`), `1: interface: is the integer 0, ` + wantDevice},
		{topLine(`listen = "9652"`), `1: listen: is "9652", ` + wantListen},
		{topLine(`listen = "127.0.0.1:99999"`), `1: listen: is "127.0.0.1:99999" (port 99999 is outside 1 to 65535), ` + wantListen},
		{topLine(`listen = "127.0.0.300:80"`), `1: listen: is "127.0.0.300:80" ("127.0.0.300" is not an IP address), ` + wantListen},
		{topLine(`listen = "127.0.0.1:http"`), `1: listen: is "127.0.0.1:http" (port "http" is not a number from 1 to 65535), ` + wantListen},
		{topLine(`audit_interval = 10`), `1: audit_interval: is the integer 10, ` + wantAudit},
		{topLine(`audit_interval = "10"`), `1: audit_interval: is "10", ` + wantAudit},
		{topLine(`audit_interval = "2h"`), `1: audit_interval: is "2h", ` + wantAudit},
		{topLine(`audit_interval = "500ms"`), `1: audit_interval: is "500ms", ` + wantAudit},
		{topLine(`manage_sysctls = "no"`), `1: manage_sysctls: is "no", want true or false, without quotes`},
		{topLine(`state_dir = "run"`), `1: state_dir: is "run", want an absolute path such as "/run/lvs-controller"`},
		{topLine(`cache_dir = ""`), `1: cache_dir: is "", want an absolute path such as "/var/lib/lvs-controller"`},
		{topLine("[timeouts]\ntcp = 900"), `2: timeouts.tcp: is the integer 900, ` + wantTimeout},
		{topLine("[timeouts]\ntcp_fin = '1500ms'"), `2: timeouts.tcp_fin: is "1500ms", ` + wantTimeout},
		{topLine("[timeouts]\nudp = '597h'"), `2: timeouts.udp: is "597h", ` + wantTimeout},
		{topLine("[timeouts]\ntcpfin = '1s'"), `2: timeouts.tcpfin: unknown key, did you mean "tcp_fin"?`},
		{topLine("timeouts = '15m'"), `1: timeouts: is "15m", want a table`},

		// Marks and sysctls.
		{topLine("[marks]\nfirst = 0"), `2: marks.first: is the integer 0, want an integer from 1 to 4294967295`},
		{topLine("[marks]\ncount = 0x1_0000_0000"), `2: marks.count: is the integer 4294967296, want an integer from 1 to 4294967295`},
		{topLine("[marks]\nfirst = 0xffffffff\ncount = 2"), `3: marks.count: the last mark, first + count - 1, is 4294967296, want at most 4294967295`},
		{topLine("[marks]\nfirst = 0xfffff001"), `2: marks.first: the last mark, first + count - 1, is 4294967296, want at most 4294967295`},
		{topLine("[marks]\nlast = 1"), `2: marks.last: unknown key, want one of first, count`},
		{"[marks]\ncount = 1\n[[vip]]\n" + goodVIP + "one_mark = true\n[[vip]]\nname = 'b'\naddresses = ['10.0.0.2']\nports = [1, 2]\ngroups = [[1, 2]]", `2: marks.count: is 1, want at least 2: one for each of groups and each one_mark`},
		{topLine("[sysctl]\nconn_reuse = 1"), `2: sysctl.conn_reuse: unknown key, want one of am_droprate, amemthresh, backup_only, cache_bypass, conn_lfactor, conn_max, conn_reuse_mode, conntrack, drop_entry, drop_packet, est_cpulist, est_nice, expire_nodest_conn, expire_quiescent_template, ignore_tunneled, nat_icmp_send, pmtu_disc, run_estimation, schedule_icmp, secure_tcp, sloppy_sctp, sloppy_tcp, snat_reroute, svc_lfactor, sync_persist_mode, sync_ports, sync_qlen_max, sync_refresh_period, sync_retries, sync_sock_size, sync_threshold, sync_version`},
		{topLine("[sysctl]\nslopy_tcp = 1"), `2: sysctl.slopy_tcp: unknown key, did you mean "sloppy_tcp"?`},
		{topLine("[sysctl]\nsloppy_tcp = true"), `2: sysctl.sloppy_tcp: is true, want an integer from 0 to 1`},
		{topLine("[sysctl]\nsloppy_tcp = '1'"), `2: sysctl.sloppy_tcp: is "1", want an integer from 0 to 1`},
		{topLine("[sysctl]\ndrop_entry = 4"), `2: sysctl.drop_entry: is the integer 4, want an integer from 0 to 3`},
		{topLine("[sysctl]\nest_nice = 20"), `2: sysctl.est_nice: is the integer 20, want an integer from -20 to 19`},
		{topLine("[sysctl]\nconn_lfactor = -9"), `2: sysctl.conn_lfactor: is the integer -9, want an integer from -8 to 8`},
		{topLine("[sysctl]\nconn_max = 0"), `2: sysctl.conn_max: is the integer 0, want an integer from 1 to 1073741824`},
		{topLine("[sysctl]\nest_cpulist = '0-'"), `2: sysctl.est_cpulist: is "0-", want CPU numbers such as "0-3,8", "all", or "" for none`},
		{topLine("[sysctl]\nsync_ports = 3"), `2: sysctl.sync_ports: is the integer 3, want one of 1, 2, 4, 8, 16, 32, 64`},
		{topLine("[sysctl]\nsync_ports = 128"), `2: sysctl.sync_ports: is the integer 128, want one of 1, 2, 4, 8, 16, 32, 64`},
		{topLine("[sysctl]\nsync_threshold = '50 50'"), `2: sysctl.sync_threshold: is "50 50", ` + wantThreshold},
		{topLine("[sysctl]\nsync_threshold = '3'"), `2: sysctl.sync_threshold: is "3", ` + wantThreshold},
		{topLine("[sysctl]\nsync_threshold = 3"), `2: sysctl.sync_threshold: is the integer 3, ` + wantThreshold},
		{"manage_sysctls = false\n" + topLine("[sysctl]\nsloppy_tcp = 0"), `2: sysctl: excludes manage_sysctls = false (line 1), want one of the two`},
	})
}

// checkMistakes parses each text and compares the mistakes with want.
func checkMistakes(t *testing.T, tests []struct{ text, want string }) {
	t.Helper()
	for _, test := range tests {
		_, err := ParseConfig("c.toml", []byte(test.text))
		if err == nil {
			t.Errorf("%q is accepted, want c.toml:%s", test.text, test.want)
			continue
		}
		if diff := cmp.Diff("c.toml:"+test.want, err.Error()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.text, diff)
		}
	}
}

// All mistakes come at once, in line order, each on one line.
func TestParseConfigAllMistakes(t *testing.T) {
	text := `# one mistake in almost every line
kubeconfig = 1
interface = "eth0 "
liste = ":80"

[timeouts]
tcp = 900
manage_sysctls = true

[[vip]]
addresses = ["10.0.0.1", "10.0.0", "224.0.0.1"]
ports = [
	"80/tcp",
	0,
	"80",
]
[vip.drain]
timeout = "1d"

[[vip]]
name = "b"
scheduler = "random"
addresses = [
	"10.0.0.1",
]
real_servers = [
	{ address = "10.0.0.1" },
	{ address = "10.0.0.9", weight = 99999 },
]
`
	want := `dir/c.toml:2: kubeconfig: is the integer 1, want a path, or ""
dir/c.toml:3: interface: is "eth0 ", want a device name such as "eth0", at most 15 characters without "/", ":" and spaces, or "" for the device of the default route
dir/c.toml:4: liste: unknown key, did you mean "listen"?
dir/c.toml:7: timeouts.tcp: is the integer 900, want whole seconds as a duration in quotes with its unit such as "10s", from 1s to 596h
dir/c.toml:8: timeouts.manage_sysctls: unknown key in this table, want it above the first [table] of the file
dir/c.toml:10: vip[0].name: missing, want a name for logs and metrics, such as name = "edge"
dir/c.toml:11: vip[0].addresses[1]: is "10.0.0", want a unicast IPv4 or IPv6 address such as "10.135.22.77"
dir/c.toml:11: vip[0].addresses[2]: is "224.0.0.1" (a multicast address), want a unicast IPv4 or IPv6 address such as "10.135.22.77"
dir/c.toml:14: vip[0].ports[1]: is "0" (port 0 is outside 1 to 65535), want a port from 1 to 65535 such as "80/tcp", "53/udp", "5000/sctp" or 80, or a range such as "8000-8010/tcp"
dir/c.toml:15: vip[0].ports[2]: 80/tcp is the same port as vip[0].ports[0] (line 13), want each port once
dir/c.toml:18: vip[0].drain.timeout: is "1d", want a duration in quotes with its unit such as "10s", from 0s to 24h
dir/c.toml:20: vip[1].ports: missing, want ports such as ["80/tcp", "443/tcp"], tcp_services, udp_services, service or ports_from = "pods"
dir/c.toml:22: vip[1].scheduler: is "random", want one of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos
dir/c.toml:27: vip[1].real_servers[0].address: 10.0.0.1 is an address of VIP "" (line 11), want the real server's own address
dir/c.toml:28: vip[1].real_servers[1].weight: is the integer 99999, want an integer from 0 to 65535`
	cfg, err := ParseConfig("dir/c.toml", []byte(text))
	if cfg != nil || err == nil {
		t.Fatalf("ParseConfig = %v, %v; want no config and mistakes", cfg, err)
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
	mistakes, ok := errors.AsType[ConfigErrors](fmt.Errorf("reload: %w", err))
	if !ok || len(mistakes.First) != 15 || mistakes.More != 0 {
		t.Fatalf("as ConfigErrors: %d mistakes and %d more, %v", len(mistakes.First), mistakes.More, ok)
	}
	if first := mistakes.First[0]; first.Line != 2 || first.Key != "kubeconfig" {
		t.Errorf("the first mistake is %+v; want that of line 2", first)
	}
}

// exampleFile is the documentation of all keys.
const exampleFile = "config.toml.example"

// Whatever is in the file, the answer is a config or mistakes, each on one
// line and in the text.
func FuzzParseConfig(f *testing.F) {
	f.Add("[[vip]]\n" + goodVIP)
	f.Add(topLine("[timeouts]\ntcp = '1s'"))
	f.Add(vipLine("real_servers = [{ address = '10.0.0.2', weight = 1 }]\ntcp_services = 'a/b'\nselector = ''\n[vip.drain]\ntimeout = '1s'"))
	f.Add(topLine("[marks]\nfirst = 0xffffffff\ncount = 1\n[sysctl]\nsync_threshold = '3 50'\nest_nice = -1"))
	f.Add(vipLine("scheduler = 'mh'\nflags = ['mh-port', 'ops']\nports_from = 'pods'\nexclude_ports = [1]\nslow_start = '1m'\nweight = 10\nupper_threshold = 2\nlower_threshold = 1"))
	f.Add(vipLine("groups = [[80, '443/tcp'], [1, 2]]\none_mark = true\nnotrack = true\ntcp_services = 't'\nsorry_server = ['10.0.0.9']\nweight_annotation = 'a/b'\n[vip.persistence]\ntimeout = '1s'\nnetmask = 24\nengine = 'sip'"))
	f.Add(vipLine("forward = 'tunnel'\nsorry_server = '::1'\ntunnel.type = 'gre'\ntunnel.checksum = 'remote'\ntunnel.port = 1"))
	f.Add(vipLine("[vip.health]\ntcp = 1\nports = true\ndatapath = true\ninterval = '1s'\ntimeout = '1s'\nhttp = { path = '/a', host = 'b:1', status = [200, '300-302'], tls = true }"))
	f.Add("listen = ':80'\nvip = [{}, 1]\n'a\\b'.c = 1979-05-27\n[[x.y]]\n")
	f.Add("\xfe\xff")
	f.Add(strings.Repeat("a.", 20_000) + "a = 1")
	f.Add("a = " + strings.Repeat("[{b=", 10_000))
	f.Add("[" + strings.Repeat("k", 20_000) + "]\n" + strings.Repeat("a.b.c.d.e.f.g = {}\n", 1000))
	f.Fuzz(func(t *testing.T, text string) {
		check := bounded(t, len(text))
		c, err := ParseConfig("c.toml", []byte(text))
		check()
		if err == nil {
			if len(c.VIPs) == 0 {
				t.Fatal("a config without VIPs")
			}
			for _, v := range c.VIPs {
				checkVIP(t, &v)
			}
			return
		}
		mistakes, ok := errors.AsType[ConfigErrors](err)
		if !ok || len(mistakes.First) == 0 {
			t.Fatalf("not ConfigErrors: %v", err)
		}
		checkMistakeBounds(t, mistakes)
		for _, m := range mistakes.First {
			if strings.ContainsAny(m.Error(), "\n\r") {
				t.Errorf("not on one line: %q", m.Error())
			}
			if n := strings.Count(text, "\n") + 1; m.Line < 1 || m.Line > n {
				t.Errorf("line %d of %d: %v", m.Line, n, m)
			}
		}
		// The library passes over the mark at the beginning of UTF-16.
		if raw := map[string]any{}; mistakes.First[0].Key == "syntax" && !isUTF16(text) {
			if _, err := toml.Decode(text, &raw); err == nil {
				t.Errorf("TOML is called a syntax mistake: %v", err)
			}
		}
	})
}
