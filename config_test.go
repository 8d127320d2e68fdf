// The allocation of marks, the owners of addresses and marks, and the mistakes of
// [vip.health].

package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Marks that directors of any version must agree on.
func TestAllocateMarksIsStable(t *testing.T) {
	got := allocateMarks(MarkRange{First: 0x1000, Count: 0x1000}, []GroupName{
		{"edge", "80/tcp,443/tcp"}, {"edge", "all"}, {"mail", "all"}, {"", ""}, {"a", "bc"}, {"ab", "c"},
	})
	want := map[GroupName]uint32{
		{"edge", "80/tcp,443/tcp"}: 4681,
		{"edge", "all"}:            4431,
		{"mail", "all"}:            5137,
		{"", ""}:                   6111,
		{"a", "bc"}:                5411,
		{"ab", "c"}:                6247,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
}

func TestAllocateMarksProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, groups := drawGroups(t, 0)
		marks := allocateMarks(r, groups)
		if len(marks) != len(groups) {
			t.Fatalf("%d marks for %d groups", len(marks), len(groups))
		}
		used := make(map[uint32]GroupName)
		homes := make(map[uint32]int)
		for g, mark := range marks {
			if mark < r.First || mark-r.First >= r.Count {
				t.Fatalf("mark %d of %v is outside %+v", mark, g, r)
			}
			if other, ok := used[mark]; ok {
				t.Fatalf("%v and %v have the same mark %d", g, other, mark)
			}
			used[mark] = g
			homes[g.home(r)]++
		}
		for g, mark := range marks {
			if home := g.home(r); homes[home] == 1 && mark != home {
				t.Fatalf("%v has mark %d, but no other group has its home %d", g, mark, home)
			}
		}
		shuffled := rapid.Permutation(append(slices.Clone(groups), groups...)).Draw(t, "order")
		if again := allocateMarks(r, shuffled); !maps.Equal(again, marks) {
			t.Fatalf("another order, other marks: %v, %v", marks, again)
		}
	})
}

// A group that comes changes the marks only of those it collides with: the
// ones that want its home, and one that was put there because its own home was
// taken.
func TestAllocateMarksWhenAGroupComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, groups := drawGroups(t, 1)
		before := allocateMarks(r, groups)
		newcomer := GroupName{"new", "group"}
		after := allocateMarks(r, append(groups, newcomer))
		taken := slices.Collect(maps.Values(before))
		for _, g := range groups {
			home := g.home(r)
			if before[g] == home && home != newcomer.home(r) && after[g] != home {
				t.Fatalf("%v was at home and lost it to a group with another home", g)
			}
			if !slices.Contains(taken, after[newcomer]) && after[newcomer] == newcomer.home(r) && before[g] != after[g] {
				t.Fatalf("the newcomer's mark was free, but %v went from %d to %d", g, before[g], after[g])
			}
		}
	})
}

func TestParseProbeMistakes(t *testing.T) {
	const (
		wantCode     = `want a status code from 100 to 599 such as 200, or a range such as "200-399"`
		wantTCP      = `want a port such as "80/tcp", tcp_services or ports_from = "pods"`
		wantInterval = `want a duration in quotes with its unit such as "10s", from 100ms to 1h`
		wantTimeout  = `want a duration in quotes with its unit such as "10s", from 10ms to 1m`
		wantPath     = `want a path such as "/healthz": printable ASCII without spaces and "#", at most 512 characters`
		wantHost     = `want a host name such as "shop.example", with or without a port, or "" for the real server's address`
	)
	udpOnly := "[[vip]]\nname = 'a'\naddresses = ['10.0.0.1']\nports = ['53/udp']\n"
	checkMistakes(t, []struct{ text, want string }{
		{vipLine("[vip.health]"), `5: vip[0].health: has no probe, want at least one of http, tcp, ports = true, datapath = true, dns, udp`},
		{vipLine("[vip.health]\nports = false"), `5: vip[0].health: has no probe, want at least one of http, tcp, ports = true, datapath = true, dns, udp`},
		{vipLine("health = true"), `5: vip[0].health: is true, want a table`},
		{vipLine("[vip.health]\nhttps = {}"), `6: vip[0].health.https: unknown key, did you mean "http"?`},
		{vipLine("[vip.health]\nhttp = true"), `6: vip[0].health.http: is true, want a table`},
		{vipLine("[vip.health]\ntcp = 0"), `6: vip[0].health.tcp: is the integer 0, want an integer from 1 to 65535`},
		{vipLine("[vip.health]\ntcp = 80\ninterval = '99ms'"), `7: vip[0].health.interval: is "99ms", ` + wantInterval},
		{vipLine("[vip.health]\ntcp = 80\ninterval = 2"), `7: vip[0].health.interval: is the integer 2, ` + wantInterval},
		{vipLine("[vip.health]\ntcp = 80\ntimeout = '9ms'"), `7: vip[0].health.timeout: is "9ms", ` + wantTimeout},
		{vipLine("[vip.health]\ntcp = 80\ntimeout = '3s'"), `7: vip[0].health.timeout: is longer than the interval, 2s, want at most that`},
		{vipLine("[vip.health]\ntcp = 80\nrise = 0"), `7: vip[0].health.rise: is the integer 0, want an integer from 1 to 100`},
		{vipLine("[vip.health]\ntcp = 80\nfall = 101"), `7: vip[0].health.fall: is the integer 101, want an integer from 1 to 100`},
		{vipLine("[vip.health]\nports = true\nconnects_per_second = 0"), `7: vip[0].health.connects_per_second: is the integer 0, want an integer from 1 to 10000`},
		{vipLine("[vip.health]\nports = 1"), `6: vip[0].health.ports: is the integer 1, want true or false, without quotes`},
		{udpOnly + "health.ports = true", `5: vip[0].health.ports: connects to the VIP's TCP ports, and there are none; ` + wantTCP},
		{udpOnly + "health.datapath = true", `5: vip[0].health.datapath: asks at one of the VIP's TCP ports, and there are none; ` + wantTCP},
		{vipLine("forward = 'tunnel'\nhealth.datapath = true"), `6: vip[0].health.datapath: is for forward = "dr" alone, want that or no datapath`},

		{vipLine("health.http.port = 65536"), `5: vip[0].health.http.port: is the integer 65536, want an integer from 1 to 65535`},
		{vipLine("health.http.path = 'healthz'"), `5: vip[0].health.http.path: is "healthz", ` + wantPath},
		{vipLine("health.http.path = '/a b'"), `5: vip[0].health.http.path: is "/a b", ` + wantPath},
		{vipLine(`health.http.path = "/\r\nX: y"`), `5: vip[0].health.http.path: is "/\r\nX: y", ` + wantPath},
		{vipLine("health.http.host = 'a/b'"), `5: vip[0].health.http.host: is "a/b", ` + wantHost},
		{vipLine(`health.http.host = "a\n"`), `5: vip[0].health.http.host: is "a\n", ` + wantHost},
		{vipLine("health.http.status = 200"), `5: vip[0].health.http.status: is the integer 200, want a list of status codes such as [200, "300-399"]`},
		{vipLine("health.http.status = []"), `5: vip[0].health.http.status: is empty, want at least one status code`},
		{vipLine("health.http.status = [200,\n99]"), `6: vip[0].health.http.status[1]: is "99", ` + wantCode},
		{vipLine("health.http.status = [600]"), `5: vip[0].health.http.status[0]: is "600", ` + wantCode},
		{vipLine("health.http.status = ['2xx']"), `5: vip[0].health.http.status[0]: is "2xx", ` + wantCode},
		{vipLine("health.http.status = ['399-200']"), `5: vip[0].health.http.status[0]: is "399-200" (399 is more than 200), ` + wantCode},
		{vipLine("health.http.status = [true]"), `5: vip[0].health.http.status[0]: is true, ` + wantCode},
		{vipLine("health.quorum = -1"), `5: vip[0].health.quorum: is the integer -1, want an integer from 0 to 10000`},
		{vipLine("health = { tcp = 1, hysteresis = 1, below_quorum = 'withdraw' }"), `5: vip[0].health.hysteresis: is for a quorum above 0 alone, want that or no hysteresis
c.toml:5: vip[0].health.below_quorum: is for a quorum above 0 alone, want that or no below_quorum`},
		{vipLine("health = { tcp = 1, quorum = 1, below_quorum = 'sorry' }"), `5: vip[0].health.below_quorum: is "sorry", want a sorry_server of the family of each address`},
		{vipLine("real_servers = [{ address = '10.1.0.1' }]\nselector = ''\nhealth = { tcp = 1, quorum = 1, hysteresis = 1 }"), `7: vip[0].health.quorum: and hysteresis are 2 together, and the VIP has no pods and 1 real_servers; want at most that`},
		{vipLine("health.http = []"), `5: vip[0].health.http: has 0 elements, want 1 to 16`},
		{vipLine("health.http = [{}, 80]"), `5: vip[0].health.http[1]: is the integer 80, want a table`},
		{vipLine("health.http = [{}, { body_sha256 = 'abc' }]"), `5: vip[0].health.http[1].body_sha256: is "abc", want the SHA-256 sum of the body, 64 hexadecimal digits`},
		{vipLine("health.http.body_match = '(a'"), "5: vip[0].health.http.body_match: is \"(a\" (error parsing regexp: missing closing ): `(a`), want a regular expression of Go (RE2), at most 512 characters"},
		{vipLine("health.http.body_match = ''"), `5: vip[0].health.http.body_match: is "", want a regular expression of Go (RE2), at most 512 characters`},
		{vipLine("health.dns.name = 'a..b'"), `5: vip[0].health.dns.name: is "a..b", want a DNS name such as "kubernetes.default.svc.cluster.local", or "." for the root`},
		{vipLine("health.dns.name = '" + strings.Repeat("abc.", 64) + "'"), `5: vip[0].health.dns.name: is "` + strings.Repeat("abc.", 20) + `"…, want a DNS name such as "kubernetes.default.svc.cluster.local", or "." for the root`},
		{vipLine("health.dns.type = 'a'"), `5: vip[0].health.dns.type: is "a", want one of A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT`},
		{vipLine("health.udp = {}"), `5: vip[0].health.udp.port: missing, want the UDP port to ask, such as port = 514`},
		{vipLine("health.udp = { port = 1, send = 'hex:abc' }"), `5: vip[0].health.udp.send: is "hex:abc", want at most 1200 bytes: a text, or "hex:" and two hexadecimal digits for each, such as "hex:0a00ff"`},
		{vipLine("health.udp = { port = 1, answer = 'hex:" + strings.Repeat("00", 1201) + "' }"), `5: vip[0].health.udp.answer: is "hex:` + strings.Repeat("0", 76) + `"…, want at most 1200 bytes: a text, or "hex:" and two hexadecimal digits for each, such as "hex:0a00ff"`},
		{vipLine("health.http.tls = 'on'"), `5: vip[0].health.http.tls: is "on", want true or false, without quotes`},
	})
}

func TestParseProbes(t *testing.T) {
	usual := defaultProbes()
	usual.Timeout = time.Second
	with := func(change func(*Probes)) *Probes {
		p := usual
		change(&p)
		return &p
	}
	ingress := HTTPProbe{Port: 10254, Path: "/healthz", Status: []StatusRange{{200, 399}}}
	for _, test := range []struct {
		lines string
		want  *Probes
	}{
		{"", nil},
		{"[vip.health.http]", with(func(p *Probes) { p.HTTP = []HTTPProbe{ingress} })},
		{"[vip.health]\ntcp = 22", with(func(p *Probes) { p.TCP = 22 })},
		{"[vip.health]\ndatapath = true\ninterval = '500ms'\nrise = 1\nfall = 5", with(func(p *Probes) {
			p.DataPath, p.Interval, p.Timeout, p.Rise, p.Fall = true, 500*time.Millisecond, 250*time.Millisecond, 1, 5
		})},
		{"[vip.health]\nports = true\nconnects_per_second = 7\ninterval = '10s'", with(func(p *Probes) {
			p.Ports, p.ConnectsPerSecond, p.Interval = true, 7, 10*time.Second
		})},
		{"[vip.health]\ntcp = 1\ninterval = '1m'\ntimeout = '1m'", with(func(p *Probes) {
			p.TCP, p.Interval, p.Timeout = 1, time.Minute, time.Minute
		})},
		{"health.http = { port = 443, path = '/ok?full=1', host = 'shop.example:8443', status = ['300-302', 204, 200], tls = true }", with(func(p *Probes) {
			p.HTTP = []HTTPProbe{{Port: 443, Path: "/ok?full=1", Host: "shop.example:8443", Status: []StatusRange{{200, 200}, {204, 204}, {300, 302}}, TLS: true}}
		})},
		{"health.http = [{ path = '/a' }, { path = '/b', body_match = 'x+', body_sha256 = '" + strings.Repeat("6A", 32) + "' }]", with(func(p *Probes) {
			first, second := ingress, ingress
			first.Path, second.Path = "/a", "/b"
			second.Body = HTTPBody{SHA256: strings.Repeat("j", 32), Match: regexp.MustCompile("x+")}
			p.HTTP = []HTTPProbe{first, second}
		})},
		{"sorry_server = '10.9.9.9'\nhealth = { tcp = 1, quorum = 3, hysteresis = 2, below_quorum = 'sorry' }", with(func(p *Probes) {
			p.TCP, p.Quorum = 1, Quorum{Least: 3, Hysteresis: 2, Sorry: true}
		})},
		{"health.dns = {}", with(func(p *Probes) { p.DNS = &DNSProbe{Port: 53, Name: ".", Type: "SOA"} })},
		{"health.dns = { port = 1053, name = '_x.svc.local', type = 'SRV' }", with(func(p *Probes) {
			p.DNS = &DNSProbe{Port: 1053, Name: "_x.svc.local", Type: "SRV"}
		})},
		{"health.udp = { port = 514, send = 'ping', answer = 'hex:00FF', answer_required = false }", with(func(p *Probes) {
			p.UDP = &UDPProbe{Port: 514, Send: "ping", Answer: "\x00\xff"}
		})},
		{"health.udp = { port = 514 }", with(func(p *Probes) { p.UDP = &UDPProbe{Port: 514, AnswerRequired: true} })},
	} {
		if diff := cmp.Diff(test.want, parseVIP(t, test.lines).Probes); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.lines, diff)
		}
	}
}

func TestHTTPProbeAccepts(t *testing.T) {
	h := HTTPProbe{Status: []StatusRange{{200, 204}, {301, 301}}}
	for code, want := range map[uint16]bool{199: false, 200: true, 204: true, 205: false, 301: true, 302: false, 500: false} {
		if h.accepts(code) != want {
			t.Errorf("%d is accepted: %t, want %t", code, !want, want)
		}
	}
}

// What several VIPs ask for has the smallest of their guards that is not off.
func TestClusterQueryGuards(t *testing.T) {
	vip := func(address, more string) string {
		return "[[vip]]\nname = 'n" + address + "'\naddresses = ['10.0.0." + address + "']\nports = [80]\n" + more + "\n"
	}
	cfg, err := ParseConfig("c.toml", []byte("kubeconfig = 'k'\n"+
		vip("1", "tcp_services = 'tcp'\nselector = 'app=a'\nremoval_brake = 0")+
		vip("2", "tcp_services = 'tcp'\nudp_services = 'udp'\nselector = 'app=b'\nremoval_brake = 70")+
		vip("3", "tcp_services = 'tcp'\nselector = 'app=b'\nremoval_brake = 60")))
	if err != nil {
		t.Fatal(err)
	}
	want := map[any]uint8{cfg.VIPs[1].PodQuery(): 60, cfg.VIPs[1].TCPServices: 60, cfg.VIPs[1].UDPServices: 70}
	if diff := cmp.Diff(want, cfg.ClusterQuery().Guards); diff != "" {
		t.Errorf("guards (-want +got):\n%s", diff)
	}
}

// Directors that are real servers need a mark on each port.
func TestPeerMACs(t *testing.T) {
	const head = "peer_macs = [\"52:54:00:00:00:02\", \"52-54-00-00-00-01\"]\n"
	vip := func(lines string) string {
		return "[[vip]]\nname = \"a\"\naddresses = [\"10.0.0.1\"]\n" + lines
	}
	cfg, err := ParseConfig("c.toml", []byte(head+vip("ports = [80]\none_mark = true\n")))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]macAddress{{0x52, 0x54, 0, 0, 0, 1}, {0x52, 0x54, 0, 0, 0, 2}}, cfg.PeerMACs); diff != "" {
		t.Errorf("peer_macs (-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{
		head + vip("ports = [80]\n"):                                                               "c.toml:2: vip[0].one_mark: is false, want true; peer_macs needs it",
		head + vip("ports_from = \"pods\"\none_mark = true\n"):                                     "vip[0].ports_from: is \"pods\", want \"config\"; peer_macs needs it",
		head + vip("ports = [80]\nhost_ports = true\none_mark = true\n"):                           "vip[0].host_ports: is true, want false; peer_macs needs it",
		head + vip("ports = [80]\none_mark = true\nforward = \"tunnel\"\n"):                        "vip[0].forward: is \"tunnel\", want \"dr\"; peer_macs",
		head + vip("ports = [80]\none_mark = true\n[vip.health]\nports = true\n"):                  "vip[0].health.ports: is true, want false; peer_macs needs it",
		"peer_macs = [\"52:54\"]\n" + vip("ports = [80]\none_mark = true\n"):                       "peer_macs[0]: is \"52:54\", want the MAC address of another director",
		"peer_macs = [\"01:00:5e:00:00:01\"]\n" + vip("ports = [80]\none_mark = true\n"):           "peer_macs[0]: is \"01:00:5e:00:00:01\", want",
		"peer_macs = [\"00:00:00:00:00:00\"]\n" + vip("ports = [80]\none_mark = true\n"):           "peer_macs[0]: is \"00:00:00:00:00:00\", want",
		"peer_macs = [7]\n" + vip("ports = [80]\none_mark = true\n"):                               "peer_macs[0]: is the integer 7, want",
		head[:len(head)-2] + ", \"52:54:00:00:00:01\"]\n" + vip("ports = [80]\none_mark = true\n"): "peer_macs[2]: 52:54:00:00:00:01 is the same MAC address as peer_macs[1]",
	} {
		if _, err := ParseConfig("c.toml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %s", text, err, want)
		}
	}
}

func TestKeyLines(t *testing.T) {
	tests := []struct {
		name string
		text string
		want keyLines // checked through line, so that fallbacks are tested too
	}{
		{"top level", "a = 1\n\n# b = 2\nb = 3 # c = 4\n", keyLines{"a": 1, "b": 4, "c": 1}},
		{"table", "x = 1\n[timeouts]\n\ntcp = '1s'\n", keyLines{"timeouts": 2, "timeouts.tcp": 4, "timeouts.udp": 2}},
		{"array of tables", "\n[[vip]]\nname = 'a'\n[[vip]] # second\nname = 'b'\n",
			keyLines{"vip": 2, "vip[0]": 2, "vip[0].name": 3, "vip[1]": 4, "vip[1].name": 5, "vip[1].weight": 4, "vip[2]": 2}},
		{"sub-table of the newest element", "[[vip]]\n[vip.drain]\ntimeout = '1s'\n[[vip]]\n[vip.drain]\n\ntimeout = '2s'\n",
			keyLines{"vip[0].drain": 2, "vip[0].drain.timeout": 3, "vip[1].drain": 5, "vip[1].drain.timeout": 7}},
		{"array of tables in one", "[[vip]]\n[[vip.server]]\na = 1\n[[vip.server]]\na = 2\n[[vip]]\n[[vip.server]]\na = 3\n",
			keyLines{"vip[0].server[0].a": 3, "vip[0].server[1].a": 5, "vip[1].server[0].a": 8}},
		{"header with blanks", " [ a . b ]\nc = 1\n[[ d ]]\ne = 1\n", keyLines{"a": 1, "a.b": 1, "a.b.c": 2, "d[0].e": 4}},
		{"dotted keys", "[[vip]]\ndrain.timeout = '1s'\na . b.\"c\" = 1\n",
			keyLines{"vip[0].drain": 2, "vip[0].drain.timeout": 2, "vip[0].a.b.c": 3}},
		{"quoted keys", "\"a.b\" = 1\n'c d' = 2\n\"e\\\"f\" = 3\n\"\\u0067\\x68\\e\" = 4\n\"\" = 5\n[\"x.y\".z]\nk = 6\n",
			keyLines{`"a.b"`: 1, `"c d"`: 2, `"e\"f"`: 3, `"gh\x1b"`: 4, `""`: 5, `"x.y".z.k`: 7, `"x.y".z.other`: 6, `"x.y".other`: 6}},
		{"header after an implied table", "[a.b]\nc = 1\n[a]\nd = 1\n", keyLines{"a": 3, "a.b": 1, "a.d": 4, "a.e": 3}},
		{"list over several lines", "ports = [\n  1, # [one]\n\n  2, 'a]',\n]\nz = 1\n",
			keyLines{"ports": 1, "ports[0]": 2, "ports[1]": 4, "ports[2]": 4, "ports[3]": 1, "z": 6}},
		{"nested lists", "a = [[1,\n2],\n[3]]\nb = 1", keyLines{"a[0]": 1, "a[0][1]": 2, "a[1][0]": 3, "b": 4}},
		{"inline tables in a list", "[[vip]]\nreal_servers = [\n  { address = '1' },\n  { address = '2', weight = 3 },\n  {\n    weight = 4,\n  },\n]\nz = 1\n",
			keyLines{"vip[0].real_servers[1].address": 4, "vip[0].real_servers[1].weight": 4, "vip[0].real_servers[2].address": 5, "vip[0].real_servers[2].weight": 6, "vip[0].z": 9}},
		{"basic string", "a = \"x\\\"\\\\\" # \"\nb = \"[t]\"\nc = 1\n", keyLines{"a": 1, "b": 2, "c": 3}},
		{"literal string", "a = 'x\\' # '\nb = 1\n", keyLines{"a": 1, "b": 2}},
		{"multi-line string", "a = \"\"\"\nb = 1\n\\\"\"\"\n[t]\n\"\"\"\"\"\nc = 1\n", keyLines{"a": 1, "b": 1, "t": 1, "c": 6}},
		{"multi-line literal", "a = '''\nb = 1\n''''\nc = 1\n", keyLines{"a": 1, "b": 1, "c": 4}},
		{"values with dots and colons", "a = 1979-05-27 07:32:00Z\nb = -1.5e3\nc = true\n", keyLines{"a": 1, "b": 2, "c": 3}},
		{"byte order mark and CRLF", "\ufeffa = 1\r\nb = [1,\r\n2]\r\nc = 1\r\n", keyLines{"a": 1, "b[1]": 3, "c": 4}},
		{"not TOML", "[\n= 1\na b = 2\n[t\nc = [1 2\nd = {x 1}\n]]\ne = 'x\nf = 1\n", keyLines{"t": 4, "t.e": 8, "t.f": 9}},
		{"empty", "", keyLines{"a": 1, "vip[3].drain": 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			lines, excess := scanKeyLines(test.text)
			if excess != nil {
				t.Fatalf("refused: %+v", excess)
			}
			got := keyLines{}
			for path := range test.want {
				got[path] = lines.line(path)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

// A file of nothing but brackets must not take memory or time with the square
// of its size: the walk ends where it is too deep.
func TestKeyLinesDeep(t *testing.T) {
	const depth = 100_000
	for _, text := range []string{
		"b = 1\na = " + strings.Repeat("[", depth) + strings.Repeat("]", depth),
		"b = 1\n" + strings.Repeat("k.", depth) + "k = 1\n",
	} {
		lines, excess := scanKeyLines(text)
		if excess == nil || excess.Line != 2 {
			t.Errorf("%.10q…: excess %+v, want one in line 2", text, excess)
		}
		if got := lines.line("b"); got != 1 {
			t.Errorf("line of b = %d, want 1", got)
		}
		if len(lines) > 1+maxKeyLevels {
			t.Errorf("%d paths noted, want at most %d", len(lines), 1+maxKeyLevels)
		}
	}
}

func FuzzKeyLines(f *testing.F) {
	for _, seed := range []string{
		"a = 1\n[b]\nc = 'x'\n[[d]]\ne.f = [1,\n{ g = \"\"\"\n\"\"\" },\n]\n[d.h]\ni = 2\n",
		"\"a.b\".'c' = { d = 1, e = [{ f = 1979-05-27 07:32:00 }] } # x\n",
		"[[a]]\n[a.b]\n[[a.b.c]]\n[[a]]\nb.c = 1\n",
		"\ufeffa = '''\r\n'''''\r\nb = \"\\\"\"\r\n",
		"a = \"\\\n[[[{,=.'",
		"\"\\u0061\\x62\\e\" = {\n# c\nx = 1,\n}\n",
		"\xff\xfea = 1\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		defer bounded(t, len(text))()
		if isUTF16(text) {
			return // the reader refuses it before
		}
		lines, excess := scanKeyLines(text)
		byNumber := strings.Split(text, "\n")
		for path, n := range lines {
			if n < 1 || n > len(byNumber) {
				t.Fatalf("%s is on line %d of %d", path, n, len(byNumber))
			}
		}
		if excess != nil {
			if excess.Line < 1 || excess.Line > len(byNumber) {
				t.Fatalf("refused on line %d of %d", excess.Line, len(byNumber))
			}
			return
		}
		raw := map[string]any{}
		if _, err := toml.Decode(text, &raw); err != nil {
			return
		}
		checkKeyLines(t, lines, byNumber, "", raw)
	})
}

// checkKeyLines verifies that every key below v has its own line and that
// the key can be read there.
func checkKeyLines(t *testing.T, lines keyLines, byNumber []string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, child := range v {
			p := joinPath(path, key)
			n, ok := lines[p]
			if !ok {
				t.Fatalf("%s has no line", p)
			}
			if text := byNumber[n-1]; !strings.Contains(text, key) && !strings.Contains(text, `\`) {
				t.Fatalf("%s is said to be on line %d: %q", p, n, text)
			}
			checkKeyLines(t, lines, byNumber, p, child)
		}
	case []map[string]any:
		for i, child := range v {
			checkKeyLines(t, lines, byNumber, indexPath(path, i), child)
		}
	case []any:
		for i, child := range v {
			checkKeyLines(t, lines, byNumber, indexPath(path, i), child)
		}
	}
}

// What IPVS keeps in connection tracking and what notrack keeps out of it contradict, and
// the rules for tunnels are bounded.
func TestNoTrackWarnings(t *testing.T) {
	vip := func(name, address, keys string) string {
		return "[[vip]]\nname = '" + name + "'\naddresses = ['" + address + "']\nports = [80]\n" + keys
	}
	text := "[sysctl]\nconntrack = 1\n" + vip("a", "10.0.0.1", "") + vip("b", "10.0.0.2", "notrack = true\n")
	tunnels := func(n int) (text string) {
		for i := range n {
			text += vip(fmt.Sprint("v", i), fmt.Sprint("10.0.1.", i), "forward = 'tunnel'\nnotrack = true\n")
		}
		return text
	}
	for text, want := range map[string]string{
		text: "c.toml:11: vip[1].notrack: is true beside sysctl.conntrack = 1 (line 2), with which IPVS keeps its connections in connection tracking; want one of the two",
		strings.Replace(text, "= 1\n", "= 0\n", 1): "",
		strings.Replace(text, "notrack", "# ", 1):  "",
		tunnels(32): "",
		tunnels(34): `c.toml:198: vip[32].notrack: is true for more than 32 addresses with forward = "tunnel"; the outer packets of the others stay tracked`,
		strings.ReplaceAll(tunnels(34), "notr", "#"): "",
	} {
		cfg, err := ParseConfig("c.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(ConfigErrors{First: cfg.Warnings}.Text(9)); got != want {
			t.Errorf("warnings:\n%s\nwant\n%s", got, want)
		}
	}
}
