package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// check opens what the file names, and warns: the file may be for another host.
func TestCheckOpensWhatTheFileNames(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	good := file("kubeconfig", string(kubeconfigFor("https://192.0.2.1:6443", nil, "t")))
	vip := strings.Replace(staticVIP, `selector = ""`, `selector = "app=web"`, 1)
	for _, test := range []struct{ name, text, want string }{ // want is a regular expression behind "FILE:"
		{"nothing", "", ""},
		{"a kubeconfig", fmt.Sprintf("kubeconfig = %q\n", good), ""},
		{"no kubeconfig", "\nkubeconfig = '/nowhere/kubeconfig'\n", "2: kubeconfig: on this host: .*no such file.*"},
		{"a kubeconfig without a context", fmt.Sprintf("kubeconfig = %q\n", file("empty", `{"apiVersion":"v1","kind":"Config"}`)), "1: kubeconfig: on this host: .*kubeconfig.*"},
		{"a kubeconfig that names files", fmt.Sprintf("kubeconfig = %q\n", file("files", `{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"k","cluster":{"server":"https://192.0.2.1","certificate-authority":"gone.crt"}}],"contexts":[{"name":"c","context":{"cluster":"k"}}]}`)),
			"1: kubeconfig: on this host: .*gone.crt.*no such file.*"},
		{"a cluster file", fmt.Sprintf("cluster_file = %q\n", file("list", kubectlYAML)), ""},
		{"no cluster file", "# \ncluster_file = 'gone.json'\n", "2: cluster_file: on this host: .*gone.json: no such file.*"},
		{"a cluster file that cannot be read as one", fmt.Sprintf("cluster_file = %q\n", file("prose", "pods: none\n")), "1: cluster_file: on this host: .*no kind.*"},
		{"a cluster file of UTF-16", fmt.Sprintf("cluster_file = %q\n", file("utf16", "\xff\xfe{\x00")), "1: cluster_file: on this host: it is UTF-16, want UTF-8 text"},
		{"a FIFO", fmt.Sprintf("cluster_file = %q\n", fifo), "1: cluster_file: on this host: .* is not a regular file but a FIFO"},
		{"devices", "interface = 'lo'\n[sync]\ninterface = 'lo'\n", ""},
		{"no devices", "interface = 'gone0'\n[sync]\nsyncid = 1\ninterface = 'gone1'\n", "1: interface: on this host: device gone0: no such device\n.*:4: sync.interface: on this host: device gone1: no such device"},
		{"a dummy device that will be made", "announce_device = 'gone0'\nDUMMY", ""},
		{"a dummy device that is none", "announce_device = 'lo'\nDUMMY", "1: announce_device: on this host: device lo: the device is not ours.*"},
		{"a device that no VIP needs", "announce_device = 'lo'\n", ""},
		{"directories that will be made", fmt.Sprintf("state_dir = \"%s/a/b\"\ncache_dir = %q\n", dir, dir), ""},
		{"directories that cannot be made", fmt.Sprintf("state_dir = \"%[1]s/a\"\ncache_dir = %[1]q\n", good), "1: state_dir: on this host: .*not a directory\n.*:2: cache_dir: on this host: .*kubeconfig is not a directory"},
		{"an address", "listen = '127.0.0.1:80'\n", ""},
		{"another host's address", "listen = '192.0.2.77:9652'\n", "1: listen: on this host: .*cannot assign requested address"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, v := test.text, vip
			if rest, ok := strings.CutSuffix(text, "DUMMY"); ok {
				text, v = rest, strings.Replace(vip, "ports =", "announce = \"dummy\"\nports =", 1)
			}
			path := writeConfig(t, text+v)
			code, stdout, stderr := cli(t, "check", "-config", path)
			if code != exitOK || !strings.Contains(stdout, "valid, 1 VIP") {
				t.Errorf("exit code %d, %s", code, stdout)
			}
			var kept []string // without what this host's kernel lacks
			for line := range strings.Lines(stderr) {
				if !strings.Contains(line, " has no module ") {
					kept = append(kept, strings.TrimPrefix(line, "warning: "+path+":"))
				}
			}
			want := `\A\z`
			if test.want != "" {
				want = `\A` + strings.ReplaceAll(test.want, "\n.*:", `\n`) + `\n\z`
			}
			if got := strings.Join(kept, ""); !regexp.MustCompile(want).MatchString(got) {
				t.Errorf("warnings:\n%swant to match:\n%s", got, want)
			}
		})
	}
}

// A thing that cannot be examined does not keep check from ending.
func TestCheckIsBoundedInTime(t *testing.T) {
	h := hostCheck{file: "c.toml", patience: 10 * time.Millisecond}
	hung := make(chan struct{})
	defer close(hung)
	if h.look("interface", func() error { <-hung; return nil }) || len(h.found) != 1 || h.found[0].Error() != "c.toml:1: interface: on this host: it cannot be examined within 10ms" {
		t.Errorf("%v", h.found)
	}
}

// What a VIP needs of the kernel is loaded, built in or on disk.
func TestCheckModules(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	vips := func(keys string) string {
		return "[[vip]]\nname = \"a\"\naddresses = [\"192.0.2.1\"]\nports = [80, 443, \"53/udp\"]\n" + keys
	}
	text := vips("scheduler = 'mh'\nannounce = 'dummy'\ngroups = [[80, 443]]\n") +
		strings.NewReplacer(`"a"`, `"b"`, "192.0.2.1", "192.0.2.2").Replace(vips("one_mark = true\nnotrack = true\nscheduler = 'rr'\n[vip.persistence]\ntimeout = '5m'\nengine = 'sip'\n"))
	cfg, err := ParseConfig("c.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	found := func() (lines []string) {
		h := &hostCheck{file: "c.toml", root: root, patience: time.Minute}
		h.lines, _ = scanKeyLines(text)
		h.modules(cfg)
		for _, e := range h.found {
			lines = append(lines, e.Error())
		}
		return lines
	}
	put("proc/sys/kernel/osrelease", "6.1.0\n")
	if got := found(); got != nil {
		t.Errorf("without a list of modules: %q", got)
	}
	put("lib/modules/6.1.0/modules.builtin", "kernel/net/netfilter/nf_tables.ko\n")
	put("lib/modules/6.1.0/modules.dep", "kernel/net/netfilter/ipvs/ip_vs_rr.ko.xz: kernel/net/netfilter/ipvs/ip_vs.ko.xz\nkernel/net/netfilter/ipvs/ip_vs.ko.xz:\n")
	want := []string{
		"c.toml:5: vip[0].scheduler: on this host: the kernel 6.1.0 has no module ip_vs_mh",
		"c.toml:6: vip[0].announce: on this host: the kernel 6.1.0 has no module dummy",
		"c.toml:17: vip[1].persistence.engine: on this host: the kernel 6.1.0 has no module ip_vs_pe_sip",
		"c.toml:13: vip[1].notrack: on this host: the kernel 6.1.0 has no module nft_ct",
	}
	if diff := cmp.Diff(want, found()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	put("sys/module/ip_vs_mh/refcnt", "0\n")
	put("lib/modules/6.1.0/modules.builtin", "kernel/net/netfilter/nft_ct.ko\nkernel/drivers/net/dummy.ko\nkernel/net/netfilter/ipvs/ip-vs-pe-sip.ko\n")
	want = []string{"c.toml:7: vip[0].groups: on this host: the kernel 6.1.0 has no module nf_tables"}
	if diff := cmp.Diff(want, found()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// check says beforehand what a reload would take out of service.
func TestCheckSaysWhatAReloadTakesAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	running := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		server := func(a string) serverStatus { return serverStatus{Address: addr(a), Weight: 1} }
		_ = json.NewEncoder(w).Encode(status{Services: []serviceStatus{
			{Service: ServiceKey{Address: addr("10.0.0.1"), Port: 80, Protocol: TCP}, VIP: "edge", Servers: []serverStatus{server("10.1.0.1"), server("10.1.0.2"), server("10.1.0.3")}},
			{Service: ServiceKey{Address: addr("10.0.0.1"), Port: 443, Protocol: TCP}, VIP: "edge", Servers: []serverStatus{server("10.1.0.1")}},
		}})
	})}
	go running.Serve(listener)
	defer running.Close()
	head := fmt.Sprintf("listen = %q\ncache_dir = %q\n", listener.Addr(), t.TempDir())
	vip := "[[vip]]\nname = 'edge'\naddresses = ['10.0.0.1']\n"
	for _, tt := range []struct{ text, want string }{
		{head + vip + "ports = [80, 443]\nselector = 'app=x'", ""},
		{head + vip + "ports = [80]\nselector = 'app=x'", "vip edge: ports 10.0.0.1:443/tcp\n"},
		{head + vip + "ports = [80, 443]\nselector = ''\nreal_servers = [{ address = '10.1.0.9' }]", "vip edge: 3 of 3 real servers: 10.1.0.1, 10.1.0.2, 10.1.0.3\n"},
		{head + strings.Replace(vip, "10.0.0.1", "10.0.0.7", 1) + "ports = [80]\nselector = 'app=x'", "vip edge: the VIP; ports 10.0.0.1:443/tcp, 10.0.0.1:80/tcp; 3 of 3"},
		{"listen = '127.0.0.1:1'\n" + vip + "ports = [80]\nselector = 'app=x'", ""},
	} {
		var out, errs strings.Builder
		if code := run(t.Context(), []string{"check", "-config", writeConfig(t, tt.text)}, &out, &errs); code != exitOK {
			t.Errorf("exit code %d: %s", code, errs.String())
		}
		_, said, found := strings.Cut(errs.String(), "would take out of service: ")
		if found != (tt.want != "") || !strings.HasPrefix(said, tt.want) {
			t.Errorf("%s\nsays %q, want %q; all: %s", tt.text, said, tt.want, errs.String())
		}
	}
}
