// The allocation of marks, the owners of addresses and marks, and the mistakes of
// [vip.health].

package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

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
		{vipLine("[vip.health]"), `5: vip[0].health: has no probe, want at least one of http, tcp, ports = true, datapath = true`},
		{vipLine("[vip.health]\nports = false"), `5: vip[0].health: has no probe, want at least one of http, tcp, ports = true, datapath = true`},
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
		{"[vip.health.http]", with(func(p *Probes) { p.HTTP = &ingress })},
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
			p.HTTP = &HTTPProbe{Port: 443, Path: "/ok?full=1", Host: "shop.example:8443", Status: []StatusRange{{200, 200}, {204, 204}, {300, 302}}, TLS: true}
		})},
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
