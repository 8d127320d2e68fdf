package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// presetVIP is a [[vip]] with ingress = name and what it needs.
func presetVIP(name string, lines ...string) string {
	text := fmt.Sprintf("[[vip]]\nname = \"edge\"\naddresses = [\"192.0.2.77\"]\ningress = %q\n", name)
	if findPreset(name).portsFrom == "gateways" {
		text += "gateways = [\"web/edge\"]\n"
	}
	return text + strings.Join(lines, "\n") + "\n"
}

func presetMeans(t *testing.T, text string) VIP {
	t.Helper()
	c, err := ParseConfig("c.toml", []byte(text))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return c.VIPs[0]
}

// Each preset, over a pod as its chart renders it, opens the ports that clients are meant to
// reach and no other, and probes the port of the controller's health check.
func TestPresets(t *testing.T) {
	missing := presetNames()
	for _, test := range []struct {
		name  string
		lines string // beside name, addresses and ingress
		ports string
		probe string
	}{
		{"ingress-nginx", "", "80/tcp 443/tcp", "10254/healthz"},
		{"traefik", "", "80/tcp 443/tcp 443/udp", "8080/ping"},
		{"haproxy", "", "80/tcp 443/tcp 443/udp", "1042/healthz"},
		{"contour", "", "80/tcp 443/tcp", "8002/ready"},
		{"nginx", "", "80/tcp 443/tcp", "8081/nginx-ready"},
		{"haproxy-ingress", "", "80/tcp 443/tcp 9000/tcp", "10253/healthz"},
		{"kong", "", "80/tcp 443/tcp 9000/tcp", "8100/status/ready"},
		{"envoy-gateway", `gateways = ["web/edge"]`, "80/tcp 443/tcp", "19003/ready"},
		{"istio", `gateways = ["web/edge"]`, "80/tcp 443/tcp", "15021/healthz/ready"},
		{"cilium", `gateways = ["web/edge"]`, "80/tcp 443/tcp", "ports"},
		{"nginx-gateway-fabric", `gateways = ["web/edge"]`, "80/tcp 443/tcp", "ports"},
		{"nginx-gateway-fabric", "ports = [443]\nnamespace = \"web\"", "443/tcp", "ports"},
		{"cilium", "ports = [8080]", "8080/tcp", "ports"},
		{"ingress-nginx", "ports = [\"443/tcp\"]", "443/tcp", "10254/healthz"},
		{"traefik", "port_names = [\"web\"]", "80/tcp", "8080/ping"},
		{"traefik", "exclude_ports = [\"443/udp\"]", "80/tcp 443/tcp", "8080/ping"},
		{"traefik", "ports_from = \"config\"\nports = [8443]", "8443/tcp", "8080/ping"},
		{"traefik", "ports = [\"53/udp\"]", "53/udp 80/tcp 443/tcp 443/udp", "8080/ping"},
		{"kong", "[vip.health]\ntcp = 443", "80/tcp 443/tcp 9000/tcp", "tcp"},
		{"kong", "[vip.health]", "80/tcp 443/tcp 9000/tcp", ""},
		{"kong", "[vip.health]\ninterval = \"5s\"", "80/tcp 443/tcp 9000/tcp", "8100/status/ready"},
		{"cilium", "ports = [8080]\n[vip.health]\nrise = 1", "8080/tcp", "ports"},
		{"kong", "[vip.health]\nhttp.path = \"/ready\"", "80/tcp 443/tcp 9000/tcp", "8100/ready"},
		{"kong", "[vip.health]\nhttp = {}", "80/tcp 443/tcp 9000/tcp", "8100/status/ready"},
		{"kong", "[vip.health]\nhttp = [{ port = 9 }]", "80/tcp 443/tcp 9000/tcp", "9/status/ready"},
		{"kong", "[vip.health]\n[[vip.health.http]]\nstatus = [204]", "80/tcp 443/tcp 9000/tcp", "8100/status/ready"},
		{"cilium", "ports = [8080]\n[vip.health]\nhttp = {}", "8080/tcp", "10254/healthz"},
	} {
		missing = slices.DeleteFunc(missing, func(name string) bool { return name == test.name })
		t.Run(test.name+" "+test.lines, func(t *testing.T) {
			file, err := filepath.Abs("testdata/presets/" + test.name + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprintf("cluster_file = %q\n[[vip]]\nname = \"edge\"\naddresses = [\"192.0.2.77\"]\ningress = %q\n%s\n", file, test.name, test.lines)
			c, err := ParseConfig("c.toml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			w := desired(nil, c, savedCluster(c), nil, newMemory(), testTime)
			var ports []string
			for _, s := range w.Shards.table() {
				ports = append(ports, Port{s.Port, s.Protocol}.String())
				if len(s.Servers) != 1 || s.Servers[0].Address.String() != "10.0.0.1" {
					t.Errorf("%s has the real servers %v", s.ServiceKey, s.Servers)
				}
			}
			if got := strings.Join(ports, " "); got != test.ports {
				t.Errorf("ports %q, want %q", got, test.ports)
			}
			probe := ""
			switch p := c.VIPs[0].Probes; {
			case p == nil:
			case len(p.HTTP) == 1:
				probe = fmt.Sprintf("%d%s", p.HTTP[0].Port, p.HTTP[0].Path)
			case p.Ports:
				probe = "ports"
			case p.TCP != 0:
				probe = "tcp"
			}
			written := strings.Contains(test.lines, "[vip.health]") && !strings.Contains(test.lines, "interval") && !strings.Contains(test.lines, "rise")
			if p := c.VIPs[0].Probes; (p != nil && p.DataPath) == written {
				t.Errorf("probes %+v: the nodes are asked for the VIP unless [vip.health] has a probe or is empty", p)
			}
			if probe != test.probe {
				t.Errorf("probe %q, want %q", probe, test.probe)
			}
			if texts := warningTexts(w.Warnings); slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(s, "is left out") }) {
				t.Errorf("warnings: %q", texts)
			}
		})
	}
	if len(missing) > 0 {
		t.Errorf("no case for %q", missing)
	}
}

// A pod of each preset says where its facts come from.
func TestPresetsHaveSources(t *testing.T) {
	for _, p := range presets {
		text := readText(t, "testdata/presets/"+p.name+".yaml")
		head, _, _ := strings.Cut(text, "apiVersion:")
		if !strings.Contains(head, "repository") || !regexp.MustCompile(`\d+\.\d+|commit [0-9a-f]{12}`).MatchString(head) {
			t.Errorf("%s: no source, or no version:\n%s", p.name, head)
		}
		if _, err := parsePodSelector(p.selector); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}

// What a [[vip]] has itself replaces the value of its preset.
func TestPresetOverridden(t *testing.T) {
	others := map[string]string{
		"namespace": `"other"`, "selector": `"a=b"`, "ports": `["81/tcp"]`, "port_names": `["other"]`,
		"host_ports": "false", "reserved_ports": "[7]", "health": "{ tcp = 7 }", "drain": `{ timeout = "7s" }`, "ports_from": `"config"`,
	}
	for _, p := range presets {
		seen := 0
		for _, k := range p.keys(map[string]any{}, p.portsFrom == "config") {
			other, known := others[k.key]
			if !known {
				t.Fatalf("%s: no other value of %s", p.name, k.key)
			}
			text := presetVIP(p.name, k.key+" = "+other)
			if k.key == "ports_from" {
				if p.portsFrom == "gateways" {
					text = strings.Replace(text, "gateways = [\"web/edge\"]\n", "namespace = \"web\"\n", 1)
				}
				text += "ports = [81]\n"
			}
			got, err := explainVIPs("c.toml", []byte(text))
			if err != nil {
				t.Errorf("%s, %s: %v", p.name, k.key, err)
				continue
			}
			line := k.key + " = " + other + "\n"
			if strings.HasPrefix(other, "{") {
				line = "[vip." + k.key + "]\n" + strings.Trim(other, "{ }") + "\n"
			}
			if !strings.Contains(got, line) {
				t.Errorf("%s: no line %q in:\n%s", p.name, line, got)
			}
			if plain, _ := explainVIPs("c.toml", []byte(presetVIP(p.name))); plain == got || !strings.Contains(plain, "from ingress") {
				t.Errorf("%s: %s changes nothing:\n%s", p.name, k.key, got)
			}
			seen++
		}
		if seen < 3 {
			t.Errorf("%s: only %d keys", p.name, seen)
		}
	}
}

// What the data path cannot ask is not asked: a tunnel, and a VIP without TCP ports.
func TestPresetDataPath(t *testing.T) {
	for lines, want := range map[string]bool{
		"":                         true,
		`forward = "dr"`:           true,
		`forward = "tunnel"`:       false,
		`ports = ["53/udp"]`:       false,
		`ports = ["53/udp", 80]`:   true,
		`ports = ["53/udp", "80"]`: true,
		"ports = ['53/udp']\ntcp_services = 'tcp'": true,
	} {
		v := presetMeans(t, presetVIP("ingress-nginx", lines))
		if v.Probes == nil || v.Probes.DataPath != want || len(v.Probes.HTTP) != 1 {
			t.Errorf("%q: probes %+v, want datapath %t", lines, v.Probes, want)
		}
	}
}

// With service the preset has no pods and no ports: those of the Service are used. Its probe
// and its drain stay.
func TestPresetOfService(t *testing.T) {
	for _, p := range presets {
		text := "[[vip]]\nname = \"edge\"\naddresses = [\"192.0.2.77\"]\ningress = \"" + p.name + "\"\nservice = \"web/edge\"\n"
		c, err := ParseConfig("c.toml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", p.name, err)
			continue
		}
		v := &c.VIPs[0]
		if want := (PodQuery{}).ofService(ServiceName{"web", "edge"}); v.Pods != want || v.PortsFromPods || v.HostPorts || len(v.Gateways) > 0 || len(v.Ports) > 0 {
			t.Errorf("%s: %+v, want the Service alone", p.name, v)
		}
		plain, err := ParseConfig("c.toml", []byte(presetVIP(p.name)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(plain.VIPs[0].Probes, v.Probes, compareAddrs); diff != "" || v.Drain != plain.VIPs[0].Drain {
			t.Errorf("%s: probes and drain (-without service +with):\n%s%v, %v", p.name, diff, plain.VIPs[0].Drain, v.Drain)
		}
	}
}

// Without ingress nothing changes, and `check -explain` prints VIPs that mean the same.
func TestExplain(t *testing.T) {
	texts := []string{
		"[[vip]]\n" + goodVIP,
		presetVIP("traefik", `ports_from = "config"`, "ports = [80]"),
		presetVIP("kong", "[vip.health]"),
		presetVIP("haproxy", "real_servers = [{ address = \"192.0.2.9\", weight = 3 }]", "[vip.persistence]"),
		presetVIP("contour", `selector = ""`, "real_servers = [{ address = '192.0.2.9' }]", `ports_from = "config"`, "ports = ['80-82/tcp', 443]", "groups = [[80, 443]]"),
		presetVIP("istio") + presetVIP2,
	}
	for _, p := range presets {
		texts = append(texts, presetVIP(p.name))
	}
	_, example := readExample(t)
	for _, text := range append(texts, example) {
		c, err := ParseConfig("c.toml", []byte(text))
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		explained, err := explainVIPs("c.toml", []byte(text))
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		again, err := ParseConfig("c.toml", []byte(explained))
		if err != nil {
			t.Errorf("%v in:\n%s", err, explained)
			continue
		}
		if diff := cmp.Diff(c.VIPs, again.VIPs, compareAddrs); diff != "" {
			t.Errorf("(-file +explained):\n%s\n%s", diff, explained)
		}
	}
}

const presetVIP2 = "[[vip]]\nname = \"other\"\naddresses = [\"192.0.2.78\"]\ningress = \"cilium\"\ngateway_class = \"cilium\"\n"

func TestCheckExplain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(presetVIP("envoy-gateway", `announce = "arp"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := cli(t, "check", "-explain", "-config", path)
	want := `[[vip]]
name = "edge"
addresses = ["192.0.2.77"]
# ingress = "envoy-gateway"
announce = "arp"
gateways = ["web/edge"]
namespace = "envoy-gateway-system" # from ingress = "envoy-gateway"
ports_from = "gateways" # from ingress = "envoy-gateway"
selector = "app.kubernetes.io/component=proxy,app.kubernetes.io/managed-by=envoy-gateway,app.kubernetes.io/name=envoy,gateway.envoyproxy.io/owning-gateway-name in (edge),gateway.envoyproxy.io/owning-gateway-namespace in (web)" # from ingress = "envoy-gateway"

[vip.drain] # from ingress = "envoy-gateway"
timeout = "6m"

[vip.health] # from ingress = "envoy-gateway"
datapath = true

[vip.health.http]
path = "/ready"
port = 19003

# ` + path + ": valid, 1 VIP\n"
	if diff := cmp.Diff(want, stdout); code != exitOK || diff != "" {
		t.Errorf("exit %d (-want +got):\n%s", code, diff)
	}
	if want := path + ":4: vip[0].ingress: Envoy Gateway listens on the port + 10000 for ports below 1024, want useListenerPortAsContainerPort: true"; !strings.Contains(stderr, want) {
		t.Errorf("%q lacks %q", stderr, want)
	}
	// The ports of a Service are those that its pods listen on.
	if err := os.WriteFile(path, []byte(strings.Replace(presetVIP("envoy-gateway", `service = "web/edge"`), "gateways = [\"web/edge\"]\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := cli(t, "check", "-config", path); code != exitOK || stderr != "" {
		t.Errorf("with a Service: exit %d, %q", code, stderr)
	}
	if code, _, stderr := cli(t, "check", "-explain", "-vip", "192.0.2.7"); code != exitUsage || !strings.Contains(stderr, "want -config") {
		t.Errorf("without a file: exit %d, %q", code, stderr)
	}
}

func TestPresetMistakes(t *testing.T) {
	for _, test := range []struct{ lines, want string }{
		{`ingress = "trafik"`, `3: vip[0].ingress: is "trafik", did you mean "traefik"?`},
		{`ingress = "apache"`, `3: vip[0].ingress: is "apache", want one of ingress-nginx, traefik, haproxy, contour, nginx, haproxy-ingress, kong, envoy-gateway, istio, cilium, nginx-gateway-fabric`},
		{`ingress = 5`, `3: vip[0].ingress: is the integer 5, want one of ingress-nginx, `},
		{`ingress = []`, `3: vip[0].ingress: is a list, want one of ingress-nginx, `},
		{`ingress = "istio"`, `3: vip[0].ingress: is "istio", whose ports are those of Gateways; want one of gateways, gateway_selector, gateway_class, or ports`},
		{"gateways = []\ningress = \"cilium\"", `4: vip[0].ingress: is "cilium", whose ports are those of Gateways; want one of`},
		{"ingress = \"envoy-gateway\"\ngateways = [\"edge\"]", `4: vip[0].gateways[0]: is "edge", want a Gateway's "NAMESPACE/NAME"`},
		{"ingress = \"istio\"\ngateways = [\"edge\"]", `4: vip[0].gateways[0]: is "edge", want a Gateway's "NAMESPACE/NAME"`},
		{"ingress = \"istio\"\ngateway_class = \"istio\"", `vip[0].namespace: missing, want it or namespaces, those of the Gateways: the pods of ingress = "istio" are there`},
		{"ingress = \"traefik\"\none_mark = true\nforward = \"tunnel\"\nhealth.datapath = true", `6: vip[0].health.datapath: is for forward = "dr" alone, want that or no datapath`},
		{"ingress = \"traefik\"\nselector = \"\"", `vip[0].selector: empty, want a label selector`},
		{"ingress = \"traefik\"\nreal_servers = [{ address = '10.0.0.9' }]\nselector = \"\"", `3: vip[0].ports_from: is "pods", and there are none; want a selector; the value comes from ingress = "traefik"`},
		{"ingress = \"kong\"\ngateways = [\"a/b\"]", `4: vip[0].gateways: is for ports_from = "gateways" alone, want that or no gateways`},
		{"ingress = \"cilium\"\nports = ['53/udp']", `3: vip[0].health.ports: connects to the VIP's TCP ports, and there are none; want a port such as "80/tcp", tcp_services or ports_from = "pods"; the value comes from ingress = "cilium"`},
		{"ports_from = \"gateways\"\ningress = \"istio\"", `3: vip[0].ports_from: is "gateways", want one of gateways, gateway_selector, gateway_class`},
		{"ingress = \"\"\nports = [80]", ""},
	} {
		text := "[[vip]]\naddresses = [\"192.0.2.77\"]\n" + test.lines + "\nname = \"edge\"\n"
		_, err := ParseConfig("c.toml", []byte(text))
		mistakes, _ := errors.AsType[ConfigErrors](err)
		switch {
		case test.want == "":
			if err != nil {
				t.Errorf("%s: %v", test.lines, err)
			}
		case len(mistakes.First) != 1 || !strings.Contains(mistakes.First[0].Error(), test.want):
			t.Errorf("%s:\n%v\nwant %s", test.lines, err, test.want)
		}
	}
	// The rules about pairs of keys see the values of the preset, at the line of ingress.
	text := "peer_macs = [\"02:00:00:00:00:01\"]\n" + presetVIP("traefik", "one_mark = true")
	_, err := ParseConfig("c.toml", []byte(text))
	if want := `c.toml:5: vip[0].ports_from: is "pods", want "config"; `; err == nil || !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), `; the value comes from ingress = "traefik"`) {
		t.Errorf("%v, want %s", err, want)
	}
}

// Where each Gateway has pods of its own, they do not listen on the ports of another one.
func TestPresetOfSeveralGateways(t *testing.T) {
	for lines, want := range map[string]int{
		"ingress = \"envoy-gateway\"\ngateways = [\"web/a\", \"shop/b\"]":                                       2, // and the note about ports
		"ingress = \"istio\"\ngateways = [\"web/a\", \"web/b\"]":                                                1,
		"ingress = \"istio\"\ngateways = [\"web/a\"]":                                                           0,
		"ingress = \"istio\"\ngateways = [\"web/a\", \"web/b\"]\nservice = \"web/edge\"":                        0,
		"ingress = \"cilium\"\ngateways = [\"web/a\", \"web/b\"]":                                               0,
		"ports_from = \"gateways\"\ngateways = [\"web/a\", \"web/b\"]\nselector = \"a=b\"\nnamespace = \"web\"": 0,
	} {
		c, err := ParseConfig("c.toml", []byte("[[vip]]\naddresses = [\"192.0.2.77\"]\nname = \"edge\"\n"+lines+"\n"))
		if err != nil {
			t.Fatalf("%s: %v", lines, err)
		}
		told := slices.ContainsFunc(c.Warnings, func(w ConfigError) bool {
			return w.Key == "vip[0].gateways" && strings.HasPrefix(w.Msg, "has 2 Gateways, and the pods of each get the ports of all; ")
		})
		if len(c.Warnings) != want || told != (want > 0) {
			t.Errorf("%s: %v", lines, c.Warnings)
		}
	}
}

// Of several Gateways, and of names that no label can have, the right pods are selected.
func TestPresetSelectsGateways(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, test := range []struct{ name, lines, namespace, selector string }{
		{"istio", `gateways = ["web/b", "web/a"]`, "web", "gateway.networking.k8s.io/gateway-class-name=istio,gateway.networking.k8s.io/gateway-name in (a,b)"},
		{"istio", `gateways = ["web/` + long + `"]`, "web", "gateway.networking.k8s.io/gateway-class-name=istio"},
		{"istio", "ports = [443]", "istio-ingress", "istio=ingress"},
		{"istio", "gateway_class = \"istio\"\nnamespace = \"web\"", "web", "gateway.networking.k8s.io/gateway-class-name=istio"},
		{"envoy-gateway", `gateway_class = "envoy"`, "envoy-gateway-system", "app.kubernetes.io/component=proxy,app.kubernetes.io/managed-by=envoy-gateway,app.kubernetes.io/name=envoy"},
		{"envoy-gateway", `gateways = ["web/edge", "web2/b"]`, "envoy-gateway-system", "app.kubernetes.io/component=proxy,app.kubernetes.io/managed-by=envoy-gateway,app.kubernetes.io/name=envoy,gateway.envoyproxy.io/owning-gateway-name in (b,edge),gateway.envoyproxy.io/owning-gateway-namespace in (web,web2)"},
		{"cilium", `gateways = ["a/x", "b/y"]`, "kube-system", "k8s-app=cilium-envoy"},
	} {
		v := presetMeans(t, fmt.Sprintf("[[vip]]\nname = \"edge\"\naddresses = [\"192.0.2.77\"]\ningress = %q\n%s\n", test.name, test.lines))
		if v.Pods.Namespace != test.namespace || v.Pods.Selector != test.selector {
			t.Errorf("%s, %s: pods %+v", test.name, test.lines, v.Pods)
		}
	}
}

// Gateways in several namespaces have their pods in these.
func TestPresetOfNamespaces(t *testing.T) {
	for lines, want := range map[string][]string{
		`gateways = ["b/x", "a/y", "b/z"]`:                           {"a", "b"},
		"gateways = [\"b/x\", \"a/y\"]\nnamespaces = [\"c\", \"b\"]": {"b", "c"},
		"gateways = [\"b/x\", \"a/y\"]\nnamespace = \"c\"":           {"c"},
		"gateway_class = \"istio\"\nnamespaces = [\"*\"]":            {""},
		`gateways = ["b/x", "b/z"]`:                                  {"b"},
	} {
		v := presetMeans(t, "[[vip]]\nname = \"edge\"\naddresses = [\"192.0.2.77\"]\ningress = \"istio\"\n"+lines+"\n")
		var got []string
		for _, q := range v.PodQueries() {
			got = append(got, q.Namespace)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: namespaces (-want +got):\n%s", lines, diff)
		}
	}
}

// docs/ingresses.md has a section for each preset, in the order of the table, with a small
// file that is valid and that needs nothing beside what it shows.
func TestIngressesPage(t *testing.T) {
	page := readText(t, "docs/ingresses.md")
	var sections []string
	for section := range strings.SplitSeq(page, "\n## ") {
		heading, text, _ := strings.Cut(section, "\n")
		blocks := tomlBlock.FindAllStringSubmatch(text, -1)
		name := regexp.MustCompile(`\(` + "`" + `ingress = "([a-z-]+)"` + "`" + `\)$`).FindStringSubmatch(heading)
		if name == nil {
			continue
		}
		sections = append(sections, name[1])
		if len(blocks) == 0 {
			t.Errorf("%s: no file", heading)
			continue
		}
		file := blocks[0][1]
		c, err := ParseConfig("config.toml", []byte(file))
		if err != nil || strings.Count(file, "\n") > 10 || !strings.Contains(file, fmt.Sprintf("ingress = %q\n", name[1])) {
			t.Errorf("%s: %v in %d lines:\n%s", heading, err, strings.Count(file, "\n"), file)
			continue
		}
		if c.VIPs[0].Pods.Selector == "" {
			t.Errorf("%s: no pods", heading)
		}
		for _, want := range []string{"**Values.**", "**A roll-out.**"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %s", heading, want)
			}
		}
	}
	example := strings.Join(strings.Fields(strings.ReplaceAll(readText(t, exampleFile), "\n# ", " ")), " ")
	if want := "One of " + strings.Join(presetNames(), ", ") + "; "; !strings.Contains(example, want) {
		t.Errorf("%s lacks %q", exampleFile, want)
	}
	if diff := cmp.Diff(presetNames(), sections); diff != "" {
		t.Errorf("sections (-presets +docs/ingresses.md):\n%s", diff)
	}
}

// What explainVIPs prints of a valid file is a valid file with the same VIPs.
func FuzzExplain(f *testing.F) {
	for _, p := range presets {
		f.Add(presetVIP(p.name))
	}
	f.Add(presetVIP("kong", "health = {}", "drain = {}", "persistence = {}") + presetVIP2)
	f.Add("vip = [{ name = 'a', addresses = ['10.0.0.1'], ingress = 'nginx', health.http.path = '/\\\"$' }]")
	f.Add(vipLine("[[vip.real_servers]]\naddress = '10.0.0.9'\n[[vip.real_servers]]\naddress = '10.0.0.8'\nweight = 0x10\n[vip.health]\nhttp.status = [200, '300-302']"))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConfig("c.toml", []byte(text))
		if err != nil {
			return
		}
		explained, err := explainVIPs("c.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig("c.toml", []byte(explained))
		if err != nil {
			t.Fatalf("%v in:\n%s", err, explained)
		}
		if diff := cmp.Diff(c.VIPs, again.VIPs, compareAddrs); diff != "" {
			t.Errorf("(-file +explained):\n%s\n%s", diff, explained)
		}
	})
}
