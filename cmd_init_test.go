package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// initAsked runs init as at a terminal where answers are typed.
func initAsked(t *testing.T, answers string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = initCommand.call(t.Context(), &initTask{in: strings.NewReader(answers), asks: true}, args, &out, &errs)
	return code, out.String(), errs.String()
}

// What init writes, check accepts without a warning about the file, and every choice
// arrives.
func TestInit(t *testing.T) {
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "new", "config.toml")
	args := []string{"init", "-vip", "192.0.2.7, 2001:db8::7", "--interface=lo", "-kubeconfig", kubeconfig, "-announce", "arp", "-o", path}
	code, stdout, stderr := cli(t, args...)
	if code != exitOK || stderr != "" || !strings.HasPrefix(stdout, "wrote "+path+"\n") || strings.Contains(stdout, "keepalived") {
		t.Fatalf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if !strings.Contains(stdout, "lvs-controller realserver -vip 192.0.2.7,2001:db8::7\n") {
		t.Errorf("no command for the nodes: %q", stdout)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if n := strings.Count(string(text), "\n"); n > 10 {
		t.Errorf("%d lines, want a small file:\n%s", n, text)
	}
	cfg, err := LoadConfig(path)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	v := cfg.VIPs[0]
	if len(cfg.Warnings) > 0 || cfg.Kubeconfig != kubeconfig || cfg.Interface != "lo" || v.Announce != AnnounceARP || len(v.Addresses) != 2 ||
		len(v.Ports) != 2 || v.Pods != (PodQuery{Namespace: "ingress-nginx", Selector: defaultSelector}) || v.TCPServices.Name != "tcp-services" || v.UDPServices.Name != "udp-services" {
		t.Errorf("the file means %+v", cfg)
	}

	if code, _, stderr := cli(t, append(args, "-vip", "192.0.2.8")...); code != exitFailure || !strings.Contains(stderr, "is there already; -force replaces it\n") {
		t.Errorf("a second time: exit %d, %q", code, stderr)
	}
	if again, _ := os.ReadFile(path); !bytes.Equal(again, text) {
		t.Errorf("the file was replaced by\n%s", again)
	}
	code, stdout, _ = cli(t, append(args, "-vip", "192.0.2.8", "-announce", "none", "-force")...)
	if again, _ := os.ReadFile(path); code != exitOK || !strings.Contains(string(again), `addresses = ["192.0.2.8"]`) || !strings.Contains(stdout, "keepalived") {
		t.Errorf("-force: exit %d, %q\n%s", code, stdout, again)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// A directory gets a file of the usual name, as with cp.
func TestInitIntoADirectory(t *testing.T) {
	dir := t.TempDir()
	for _, output := range []string{dir, dir + "/new/"} {
		path := filepath.Join(output, "config.toml")
		args := []string{"init", "-vip", "192.0.2.7", "-interface", "lo", "-o", output}
		if code, stdout, stderr := cli(t, args...); code != exitOK || !strings.HasPrefix(stdout, "wrote "+path+"\n") || !strings.Contains(stdout, "check -config "+path+"\n") || !strings.Contains(stdout, "lvs-controller run -config "+path+", or start its service\n") {
			t.Errorf("-o %s: exit %d, stdout %q, stderr %q", output, code, stdout, stderr)
		}
		if _, err := LoadConfig(path); err != nil {
			t.Errorf("-o %s: %v", output, err)
		}
		if code, _, stderr := cli(t, args...); code != exitFailure || stderr != "lvs-controller init: "+path+" is there already; -force replaces it\n" {
			t.Errorf("-o %s again: exit %d, stderr %q", output, code, stderr)
		}
	}
}

func TestInitRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	for want, args := range map[string][]string{
		"-vip is missing":                            {},
		`-vip: "10.0.0.300" is not an address`:       {"-vip", "10.0.0.300"},
		"vip[0].addresses[0]: is \"127.0.0.1\"":      {"-vip", "127.0.0.1"},
		"vip[0].addresses[1]: ":                      {"-vip", "10.0.0.1,10.0.0.1"},
		`-announce: unknown value "ARP", want one`:   {"-vip", "10.0.0.1", "-announce", "ARP"},
		`-ingress: unknown value "ingress-ngnix", d`: {"-vip", "10.0.0.1", "-ingress", "ingress-ngnix"},
		"interface: is ":                             {"-vip", "10.0.0.1", "-interface", "a/b"},
	} {
		var out, errs bytes.Buffer
		code := initCommand.call(t.Context(), &initTask{in: strings.NewReader("")}, append(args, "-o", path), &out, &errs)
		if code != exitUsage || !strings.HasPrefix(errs.String(), "lvs-controller init: "+want) || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("%q: exit %d, %q; want %q", args, code, &errs, want)
		}
		if _, err := os.Stat(path); err == nil {
			t.Fatalf("%q: a file is written", args)
		}
	}
}

// At a terminal init asks for what no flag says, and an empty answer is what it proposes.
func TestInitAsks(t *testing.T) {
	code, text, asked := initAsked(t, "192.0.2.7\n\neth7\n\n\n", "-o", "-")
	if code != exitOK || !strings.Contains(text, `addresses = ["192.0.2.7"]`) || !strings.Contains(text, `interface = "eth7"`) ||
		!strings.Contains(text, `kubeconfig = "/etc/lvs-controller/kubeconfig"`) || !strings.Contains(text, `announce = "arp"`) {
		t.Errorf("exit %d: %s\n%s", code, asked, text)
	}
	if n := strings.Count(asked, "]: "); n != 5 || !strings.Contains(text, `ingress = "ingress-nginx"`) {
		t.Errorf("%d questions, want 5:\n%s", n, asked)
	}
	if code, text, asked = initAsked(t, "none\n", "-o", "-", "-vip", "192.0.2.9", "-ingress", "ingress-nginx", "-interface", "eth1", "-kubeconfig", "/k"); code != exitOK ||
		strings.Count(asked, "]: ") != 1 || !strings.Contains(text, `announce = "none"`) {
		t.Errorf("only the last question is open: exit %d: %s\n%s", code, asked, text)
	}
	code, text, asked = initAsked(t, "\n192.0.2.300\n192.0.2.7,192.0.2.7\n192.0.2.7\ntrafik\ntraefik\na/b\neth1\n\nAPR\ndummy\n", "-o", "-")
	for _, want := range []string{"-vip is missing", `-vip: "192.0.2.300" is not an address`, "vip[0].addresses[1]: ", "interface: is ", `-announce: unknown value "APR"`, `-ingress: unknown value "trafik"`} {
		if strings.Count(asked, want) != 1 {
			t.Errorf("wrong answers: not once %q:\n%s", want, asked)
		}
	}
	if code != exitOK || !strings.Contains(text, `addresses = ["192.0.2.7"]`) || !strings.Contains(text, `interface = "eth1"`) || !strings.Contains(text, `announce = "dummy"`) || !strings.Contains(text, `ingress = "traefik"`) {
		t.Errorf("wrong answers, and then right ones: exit %d: %s\n%s", code, asked, text)
	}
	if code, _, asked = initAsked(t, "192.0.2.7\n", "-o", "-", "-announce", "ARP"); code != exitUsage || strings.Contains(asked, "]: ") {
		t.Errorf("a wrong flag: exit %d: %s", code, asked)
	}
	if code, _, asked = initAsked(t, "192.0.2.7\n", "-o", "-"); code != exitFailure || !strings.Contains(asked, "no answer") {
		t.Errorf("the answers end: exit %d: %s", code, asked)
	}
}

// -announce replaces what a file says, and alone makes the prototype's command line serve.
func TestAnnounceFlag(t *testing.T) {
	if c, err := given(t, "-vip", "192.0.2.7"); err != nil || c.VIPs[0].Announce != AnnounceNone {
		t.Errorf("without -announce: %v, %v", c, err)
	}
	for _, method := range announceNames() {
		if c, err := given(t, "-vip", "192.0.2.7", "--announce", method); err != nil || string(c.VIPs[0].Announce) != method {
			t.Errorf("-announce %s: %v, %v", method, c, err)
		}
	}
	file := writeConfig(t, strings.Replace(staticVIP, `ports =`, "announce = \"dummy\"\nports =", 1))
	if c, err := given(t, "-config", file, "-announce", "arp"); err != nil || c.VIPs[0].Announce != AnnounceARP {
		t.Errorf("-announce above a file: %v, %v", c, err)
	}
	for method, want := range map[string]string{"apr": `did you mean "arp"?`, "broadcast": "want one of none, arp"} {
		if _, err := given(t, "-vip", "192.0.2.7", "-announce", method); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("-announce: unknown value %q, %s", method, want)) {
			t.Errorf("a wrong method: %v", err)
		}
	}
	if names := announceNames(); !slices.Contains(names, "arp") || !slices.Contains(names, "none") {
		t.Errorf("methods: %q", names)
	}
}

// For each ingress controller init writes a file that check accepts, with the preset.
func TestInitPresets(t *testing.T) {
	for _, p := range presets {
		args := []string{"init", "-vip", "192.0.2.7", "-interface", "lo", "-ingress", p.name, "-o", "-"}
		if p.portsFrom == "gateways" {
			if code, _, stderr := cli(t, args...); code != exitUsage || !strings.Contains(stderr, "-gateway is missing: the ports of "+p.name) {
				t.Errorf("%s without -gateway: exit %d, %q", p.name, code, stderr)
			}
			args = append(args, "-gateway", "web/edge, web/more")
		} else if code, _, stderr := cli(t, append(args, "-gateway", "a/b")...); code != exitUsage || !strings.Contains(stderr, "-gateway: the ports of "+p.name) {
			t.Errorf("%s with -gateway: exit %d, %q", p.name, code, stderr)
		}
		code, text, stderr := cli(t, args...)
		c, err := ParseConfig("config.toml", []byte(text))
		if code != exitOK || stderr != "" || err != nil || !strings.Contains(text, fmt.Sprintf("\ningress = %q #", p.name)) || strings.Count(text, "\n") > 10 {
			t.Errorf("%s: exit %d, %q, %v:\n%s", p.name, code, stderr, err, text)
			continue
		}
		if strings.Contains(text, "\nport_names = [") != (p.portNames != nil) {
			t.Errorf("%s: the names of its ports:\n%s", p.name, text)
		}
		if v := c.VIPs[0]; v.Pods.Selector == "" || v.Probes == nil || (len(v.Gateways) == 2) != (p.portsFrom == "gateways") {
			t.Errorf("%s: the file means %+v", p.name, v)
		}
	}
	code, text, asked := initAsked(t, "192.0.2.7\ncilium\nweb/edge\neth1\n\n\n", "-o", "-")
	if code != exitOK || strings.Count(asked, "Gateway whose listeners") != 1 || !strings.Contains(text, `gateways = ["web/edge"]`) || !strings.Contains(text, `ingress = "cilium"`) {
		t.Errorf("asked for the controller too: exit %d: %s\n%s", code, asked, text)
	}
	code, text, asked = initAsked(t, "192.0.2.7\n\nweb\nweb/edge\neth1\n\n\n", "-o", "-", "-ingress", "cilium")
	if code != exitOK || strings.Count(asked, "Gateway whose listeners") != 3 || !strings.Contains(text, `gateways = ["web/edge"]`) {
		t.Errorf("asked: exit %d: %s\n%s", code, asked, text)
	}
}

// init replaces a file that has no setting, such as that of a package, and no other.
func TestInitOnlyComments(t *testing.T) {
	for text, replaced := range map[string]bool{
		"":                                    true,
		"# a comment\n\n  # another\r\n":      true,
		"# no end":                            true,
		"# a comment\nlisten = \"\" # off\n":  false,
		"[[vip]]\n":                           false,
		"broken":                              false,
		strings.Repeat("# a comment\n", 6000): false, // above 64 KiB it is not looked at
	} {
		path := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := cli(t, "init", "-vip", "192.0.2.7", "-o", path)
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if (code == exitOK) != replaced || (string(after) != text) != replaced {
			t.Errorf("%.30q: exit %d, %s, replaced %t, want %t", text, code, stderr, string(after) != text, replaced)
		}
	}
}
