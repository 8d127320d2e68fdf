// The command line as a person or a script meets it: what goes in as arguments
// and files, what comes out on both streams, and the exit code.

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// cli runs the whole program. A director that starts against the test's
// expectation finds its time over.
func cli(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, over := context.WithCancel(t.Context())
	if len(args) > 0 && (args[0] == "run" || strings.HasPrefix(args[0], "-")) {
		over()
	}
	defer over()
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

// writeConfig writes a configuration and returns its path.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// staticVIP needs no cluster. Its addresses are for documentation (RFC 5737).
const staticVIP = `[[vip]]
name = "edge"
addresses = ["192.0.2.1"]
ports = ["80/tcp"]
selector = ""
real_servers = [{ address = "192.0.2.11" }]
`

// manyMistakes has one in most lines.
const manyMistakes = `listen = "eth0"
audit_interval = "2h"
interfaces = "eth0"

[timeouts]
tcp = "1500ms"

[[vip]]
name = "Edge"
addresses = ["10.0.0.300", "10.0.0.1"]
scheduler = "fastest"
ports = ["80/tcp", "99999", "80"]

[[vip]]
name = "db"
addresses = ["10.0.0.1"]
port = ["5432/tcp"]
ports = [true]
`

func TestCommandLine(t *testing.T) {
	good := writeConfig(t, staticVIP)
	bad := writeConfig(t, manyMistakes)
	absent := filepath.Join(t.TempDir(), "config.toml")
	unsaid := writeConfig(t, strings.Replace(staticVIP, `selector = ""`+"\n", "", 1))
	for _, test := range []struct {
		name   string
		args   []string
		code   int
		stdout string // a regular expression for all of it
		stderr string
	}{
		{"help", []string{"help"}, 0, `lvs-controller makes this host an IPVS director(?s:.*)\n  version +print (?s:.*)`, ``},
		{"-h", []string{"-h"}, 0, `lvs-controller makes this host an IPVS director(?s:.*)`, ``},
		{"--help", []string{"--help"}, 0, `lvs-controller makes this host an IPVS director(?s:.*)`, ``},
		{"-h after a flag", []string{"-debug", "-h"}, 0, `Runs the director(?s:.*)\nFlags:\n  -check (?s:.*)  -cleanup (?s:.*)  -config FILE (?s:.*)`, ``},
		{"-h of a sub-command", []string{"check", "-h"}, 0, `Validates the(?s:.*)\nUsage:\n  lvs-controller check \[flags\]\n\nFlags:\n  -all (?s:.*)\nExit codes:\n  0  the file is valid\n  1  (?s:.*)\nExamples:\n  lvs-controller check\n(?s:.*)`, ``},
		{"--help of a sub-command", []string{"check", "--help"}, 0, `Validates the(?s:.*)`, ``},
		{"help of a sub-command", []string{"help", "check"}, 0, `Validates the(?s:.*)`, ``},
		{"help of nothing", []string{"help", "chekc"}, 2, ``, `lvs-controller help: unknown argument "chekc", did you mean "check"\?\n`},
		{"a value that looks like a flag", []string{"check", "-config", "-h"}, 1, ``, `read the configuration: open -h: .*\n`},
		{"no flag after --", []string{"check", "-config", good, "--", "-h"}, 2, ``, `lvs-controller check: unexpected argument "-h"\n`},
		{"version", []string{"version"}, 0, `lvs-controller dev\nrevision \S+\ndate     \S+\ngo       go1\.\S+\nplatform linux/\w+\n`, ``},
		{"--version", []string{"--version"}, 0, `lvs-controller dev\n(?s:.*)`, ``},
		{"-check", []string{"-check", "-debug", "-config", good}, 0, `\S+: valid, 1 VIP\n`, ``},
		{"-check of a file with mistakes", []string{"run", "-config", bad, "-check"}, 1, ``, `(?s)\S+:1: listen: is "eth0", .*`},
		{"-check without the file", []string{"-check", "-config", absent}, 1, ``, `read the configuration: open .*\n`},
		{"-check of wrong flags", []string{"-check", "-config", good, "-schedname", "zz"}, 2, ``, `-schedname: unknown scheduler "zz", .*\n`},
		{"unknown command", []string{"chekc"}, 2, ``, `lvs-controller: unknown command "chekc", did you mean "check"\?\n`},
		{"a flag for a command", []string{"cleanup"}, 2, ``, `lvs-controller: unknown command "cleanup", did you mean the flag -cleanup\?\n`},
		{"unknown command like no other", []string{"frobnicate"}, 2, ``, `lvs-controller: unknown command "frobnicate", want one of run, init, import, check, .*\n`},
		{"unknown flag", []string{"-verbose"}, 2, ``, "lvs-controller run: unknown flag -verbose; `lvs-controller run -h` lists the flags\n"},
		{"misspelt flag", []string{"check", "--confg", good}, 2, ``, `lvs-controller check: unknown flag -confg, did you mean -config\?\n`},
		{"unknown flag of a sub-command", []string{"diff", "-cleanup"}, 2, ``, "lvs-controller diff: unknown flag -cleanup; `lvs-controller diff -h` lists the flags\n"},
		{"one-letter flags are not bundled", []string{"status", "-oconfig"}, 2, ``, `lvs-controller status: unknown flag -oconfig.*\n`},
		{"a flag cannot add a line", []string{"check", "-a\nb"}, 2, ``, `lvs-controller check: unknown flag -a\\nb; .*\n`},
		{"flag without its value", []string{"check", "-config"}, 2, ``, `lvs-controller check: flag -config needs a value\n`},
		{"not a duration", []string{"drain", "-wait", "soon"}, 2, ``, `lvs-controller drain: invalid value "soon" for flag -wait: want a duration such as .*\n`},
		{"not a number", []string{"keepalived", "-priority", "high"}, 2, ``, `lvs-controller keepalived: invalid value "high" for flag -priority: want a number\n`},
		{"neither true nor false", []string{"-debug=maybe"}, 2, ``, `lvs-controller run: invalid boolean value "maybe" for -debug: want true or false\n`},
		{"too much", []string{"check", "-config", good, "more"}, 2, ``, `lvs-controller check: unexpected argument "more"\n`},
		{"flags after an argument", []string{"run", "now", "-config", good}, 2, ``, `lvs-controller run: unexpected argument "now"\n`},
		{"status in an unknown form", []string{"status", "-o", "xml", "-config", good}, 2, ``, `lvs-controller status: -o "xml" is not text, wide, json\n`},
		{"realserver without an address", []string{"realserver"}, 2, ``, `lvs-controller realserver: -vip: no address given\n`},
		{"completion for no shell", []string{"completion"}, 2, ``, `lvs-controller completion: want bash, zsh or fish\n`},
		{"completion for a shell without one", []string{"completion", "csh"}, 2, ``, `lvs-controller completion: unknown argument "csh", .*\n`},

		{"check, good", []string{"check", "-config", good}, 0, regexp.QuoteMeta(good) + `: valid, 1 VIPs?\n`, ``},
		{"check, no selector", []string{"check", "-config", unsaid}, 0, regexp.QuoteMeta(unsaid) + `: valid, 1 VIP\n`, `warning: ` + regexp.QuoteMeta(unsaid) + `:1: vip\[0\]\.selector: missing beside real_servers \(line 5\), .*want selector = "" .*\n`},
		{"check, the example", []string{"check", "-config", "config.toml.example"}, 0, `config\.toml\.example: valid, 1 VIPs?\n`, `(warning: config\.toml\.example:\d+: \S+: on this host: .*\n)*`},
		{"check, absent", []string{"check", "-config", absent}, 1, ``, `read the configuration: open ` + regexp.QuoteMeta(absent) + `: no such file or directory\n`},
		{"check, a folder", []string{"check", "-config", filepath.Dir(good)}, 1, ``, `read the configuration: ` + regexp.QuoteMeta(filepath.Dir(good)) + ` is not a regular file but a directory\n`},
		{"check, no TOML", []string{"check", "-config", writeConfig(t, "[[vip]\n")}, 1, ``, `/\S*/config\.toml:1: syntax: .*; want TOML: .*\n`},
		{"run, bad", []string{"-config", bad}, 1, ``, `(?:` + regexp.QuoteMeta(bad) + `:\d+: .*\n){9,}`},
		{"run, absent", []string{"run", "-config", absent}, 1, ``, `read the configuration: .*\n`},
		{"diff, bad", []string{"diff", "-config", bad}, 1, ``, `(?:` + regexp.QuoteMeta(bad) + `:\d+: .*\n){9,}`},

		{"flags alone", []string{"check", "-vip", "10.0.0.1,2001:db8::1"}, 0, `.*: valid, 1 VIPs?\n`, ``},
		{"flags alone, not an address", []string{"check", "-vip", "10.0.0.300"}, 2, ``, `-vip: "10\.0\.0\.300", want a unicast .*\n`},
		{"flags alone, an address twice", []string{"check", "-vip", "10.0.0.1,10.0.0.1"}, 2, ``, `-vip: 10\.0\.0\.1 is there twice\n`},
		{"flags alone, no namespace", []string{"check", "-vip", "10.0.0.1", "-nginxserver", "In_gress"}, 2, ``, `-nginxserver: "In_gress", want a namespace: .*\n`},
		{"a quote cannot add a line", []string{"check", "-vip", "10.0.0.1\"]\nports = [\"1/tcp"}, 2, ``, `-vip: "10\.0\.0\.1.*", want a unicast .*\n`},
		{"a file and -vip", []string{"check", "-config", good, "-vip", "10.0.0.1"}, 2, ``, `-vip: a configuration file names its own VIPs; give either -config or -vip\n`},
		{"unknown scheduler", []string{"check", "-config", good, "-schedname", "best"}, 2, ``, `-schedname: unknown scheduler "best", want one of rr, .*\n`},
		{"wrong timeouts", []string{"check", "-config", good, "-timeout", "120-50"}, 2, ``, `-timeout: "120-50" is not TCP-TCPFIN-UDP in seconds, as 120-50-50\n`},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := cli(t, test.args...)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			for _, stream := range []struct{ name, want, got string }{{"stdout", test.stdout, stdout}, {"stderr", test.stderr, stderr}} {
				if !regexp.MustCompile(`\A` + stream.want + `\z`).MatchString(stream.got) {
					t.Errorf("%s:\n%s\nwant to match:\n%s", stream.name, stream.got, stream.want)
				}
			}
		})
	}
}

// All mistakes at once, each with its line and what is allowed.
func TestCheckNamesEveryMistake(t *testing.T) {
	file := writeConfig(t, manyMistakes)
	code, stdout, stderr := cli(t, "check", "-config", file)
	if code != 1 || stdout != "" {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
	want := `FILE:1: listen: is "eth0", want "ADDRESS:PORT" such as "127.0.0.1:9652", ":9652" for all addresses, or "" for off
FILE:2: audit_interval: is "2h", want a duration in quotes with its unit such as "10s", from 1s to 1h
FILE:3: interfaces: unknown key, did you mean "interface"?
FILE:6: timeouts.tcp: is "1500ms", want whole seconds as a duration in quotes with its unit such as "10s", from 1s to 596h
FILE:9: vip[0].name: is "Edge", want a name: at most 63 lower-case letters, digits and "-", not starting with "-"
FILE:10: vip[0].addresses[0]: is "10.0.0.300", want a unicast IPv4 or IPv6 address such as "10.135.22.77"
FILE:11: vip[0].scheduler: is "fastest", want one of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos
FILE:12: vip[0].ports[1]: is "99999" (port 99999 is outside 1 to 65535), want a port from 1 to 65535 such as "80/tcp", "53/udp", "5000/sctp" or 80, or a range such as "8000-8010/tcp"
FILE:12: vip[0].ports[2]: 80/tcp is the same port as vip[0].ports[0] (line 12), want each port once
FILE:17: vip[1].port: unknown key, did you mean "ports"?
FILE:18: vip[1].ports[0]: is true, want a port from 1 to 65535 such as "80/tcp", "53/udp", "5000/sctp" or 80, or a range such as "8000-8010/tcp"
`
	if diff := cmp.Diff(want, strings.ReplaceAll(stderr, file, "FILE")); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

// given is the configuration that args mean to every sub-command.
func given(t *testing.T, args ...string) (*Config, error) {
	t.Helper()
	var errs bytes.Buffer
	src := new(sourceTask)
	if code := new(command).call(t.Context(), src, args, &errs, &errs); code != exitOK {
		t.Fatalf("%q: exit %d: %s", args, code, &errs)
	}
	return src.load()
}

// sourceTask only reads the flags of a configuration.
type sourceTask struct{ source }

func (*sourceTask) run(context.Context, io.Writer, io.Writer) int { return exitOK }

// The prototype's command line means the same without any file: 80 and 443,
// and the two ConfigMaps of the ingress controller's namespace.
func TestPrototypeFlags(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	vip := func(namespace string, addresses ...netip.Addr) VIP {
		v := defaultVIP()
		v.Name, v.Addresses, v.Ports = "vip", addresses, []Port{{80, TCP}, {443, TCP}}
		v.Pods = PodQuery{Namespace: namespace, Selector: defaultSelector}
		v.TCPServices = ConfigMapName{namespace, "tcp-services"}
		v.UDPServices = ConfigMapName{namespace, "udp-services"}
		return v
	}
	config := func(v VIP, edit func(*Config)) *Config {
		c := defaultConfig()
		c.VIPs = []VIP{v}
		edit(c)
		return c
	}
	for _, test := range []struct {
		args []string
		want *Config
	}{
		{
			[]string{"--kubeconfig", "kubeconfig", "-vip", "10.135.22.77", "--schedname", "rr"},
			config(vip("ingress-nginx", addr("10.135.22.77")), func(c *Config) { c.Kubeconfig = "kubeconfig" }),
		}, {
			[]string{"-kubeconfig=/root/k", "-vip=10.0.0.1, 2001:db8::1", "-schedname=wlc", "-nginxserver=edge", "-timeout=120-50-51"},
			config(vip("edge", addr("10.0.0.1"), addr("2001:db8::1")), func(c *Config) {
				c.Kubeconfig = "/root/k"
				c.VIPs[0].Scheduler = "wlc"
				c.Timeouts = Timeouts{TCP: 120 * time.Second, TCPFin: 50 * time.Second, UDP: 51 * time.Second}
			}),
		},
	} {
		got, err := given(t, test.args...)
		if err != nil {
			t.Errorf("%q: %v", test.args, err)
			continue
		}
		if diff := cmp.Diff(test.want, got, compareAddrs); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.args, diff)
		}
	}

	if got, err := given(t, "-vip", "10.0.0.1", "-nginxserver", ""); err != nil {
		t.Error(err)
	} else if diff := cmp.Diff(config(vip("ingress-nginx", addr("10.0.0.1")), func(*Config) {}), got, compareAddrs); diff != "" {
		t.Errorf("-nginxserver \"\" (-want +got):\n%s", diff)
	}

	t.Setenv("KUBECONFIG", "/home/me/kubeconfig")
	if got, err := given(t, "-vip", "10.0.0.1"); err != nil || got.Kubeconfig != "/home/me/kubeconfig" {
		t.Errorf("without -kubeconfig: %+v, %v; want $KUBECONFIG", got, err)
	}
}

// Flags lie on top of a file and stay there over a reload.
func TestFlagsOnTopOfAFile(t *testing.T) {
	text := "cluster_file = \"cluster.json\"\n[timeouts]\ntcp = \"1h\"\n" + staticVIP +
		"[[vip]]\nname = \"pods\"\naddresses = [\"192.0.2.2\"]\nports = [443]\nnamespace = \"one\"\n"
	file := writeConfig(t, text)
	src := source{path: file, kubeconfig: "/k", scheduler: "lc", namespace: "two", timeout: "0-60-0",
		set: map[string]bool{"nginxserver": true, "timeout": true}}
	first, err := src.load()
	if err != nil {
		t.Fatal(err)
	}
	for _, namespace := range []string{"../x", "a b", "Web", strings.Repeat("a", 64)} {
		other := src
		other.namespace = namespace
		if c, err := other.load(); err == nil || !strings.HasPrefix(err.Error(), "-nginxserver: ") {
			t.Errorf("-nginxserver %q: %+v, %v", namespace, c, err)
		}
	}
	again, err := src.parse(file, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again, compareAddrs); diff != "" {
		t.Errorf("a reload means something else (-first +again):\n%s", diff)
	}
	if first.Kubeconfig != "/k" || first.ClusterFile != "" {
		t.Errorf("-kubeconfig: kubeconfig %q, cluster_file %q", first.Kubeconfig, first.ClusterFile)
	}
	if want := (Timeouts{TCPFin: time.Minute}); first.Timeouts != want {
		t.Errorf("-timeout: %+v, want %+v", first.Timeouts, want)
	}
	if a, b := first.VIPs[0].Scheduler, first.VIPs[1].Scheduler; a != "lc" || b != "lc" {
		t.Errorf("-schedname: %s and %s, want lc for each VIP", a, b)
	}
	if first.VIPs[0].Pods.Selector != "" || first.VIPs[1].Pods.Namespace != "two" {
		t.Errorf("-nginxserver: %+v and %+v", first.VIPs[0].Pods, first.VIPs[1].Pods)
	}
	// A namespace from a flag asks for pods, as the key does.
	unsaid := strings.Replace(text, `selector = ""`+"\n", "", 1)
	if c, err := src.parse(file, []byte(unsaid)); err != nil || c.VIPs[0].Pods.Selector != defaultSelector || len(c.Warnings) > 0 {
		t.Errorf("-nginxserver, no selector: %+v, %v", c, err)
	}
	src.set = nil
	if c, err := src.parse(file, []byte(unsaid)); err != nil || c.VIPs[0].Pods.Selector != "" || len(c.Warnings) != 1 {
		t.Errorf("no selector: %+v, %v", c, err)
	}
}

func TestParseTimeouts(t *testing.T) {
	for text, want := range map[string]Timeouts{
		"120-50-50":   {TCP: 120 * time.Second, TCPFin: 50 * time.Second, UDP: 50 * time.Second},
		"900-120-300": {TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second},
		"0-0-30":      {UDP: 30 * time.Second}, // 0 leaves the kernel's, as ipvsadm --set does
		"2145600-1-1": {TCP: maxTimeout, TCPFin: time.Second, UDP: time.Second},
	} {
		if got, err := parseTimeouts(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "120", "120-50", "120-50-50-50", "120--50", "-120-50-50", "120-50-", "a-b-c",
		"120s-50s-50s", "0x78-50-50", "1_20-50-50", "1.5-1-1", "+1-1-1", " 1-1-1", "120 50 50", "120,50,50", "2145601-1-1", "99999999999999999999-1-1"} {
		if got, err := parseTimeouts(text); err == nil || !strings.Contains(err.Error(), strconv.Quote(text)+" is not TCP-TCPFIN-UDP in seconds") {
			t.Errorf("%q: %+v, %v; want a refusal that shows it", text, got, err)
		}
	}
}

// diff and status look into the kernel: where it has no IPVS they say so, where
// it has they show this VIP, which it does not have.
func TestLooksIntoTheKernel(t *testing.T) {
	state := t.TempDir()
	file := writeConfig(t, "listen = \"\"\nmanage_sysctls = false\nstate_dir = \""+state+"\"\n"+staticVIP)
	const noIPVS = "the kernel has no IPVS (module ip_vs is not loaded and could not be)\n"
	alone := fmt.Sprintf("the controller does not answer (listen is off, and dial unix %s: connect: no such file or directory); this is the kernel's table, without the reasons\n", socketPath(state))
	wants := map[string]struct {
		code           int
		stdout, stderr string
	}{
		"diff":   {1, "", noIPVS},
		"status": {1, "", alone + noIPVS},
	}
	if c, err := dialIPVS(); err == nil {
		defer c.Close()
		if _, err := c.Timeouts(); err != nil {
			// Without CAP_NET_ADMIN the kernel keeps what it has to itself.
			for command := range wants {
				if code, stdout, stderr := cli(t, command, "-config", file); code != 1 || stdout != "" || !strings.Contains(stderr, "operation not permitted") {
					t.Errorf("%s: exit %d, stdout %q, stderr %q", command, code, stdout, stderr)
				}
			}
			return
		}
		diff, status := wants["diff"], wants["status"]
		diff.code, diff.stderr = 3, ""
		diff.stdout = staticVIPDiff
		status.code, status.stderr = 0, alone
		status.stdout = "NOT READY: the controller does not answer\nVIP: "
		wants["diff"], wants["status"] = diff, status
	}
	for command, want := range wants {
		code, stdout, stderr := cli(t, command, "-config", file)
		if command == "status" && strings.HasPrefix(stdout, want.stdout) && strings.Contains(stdout, " 192.0.2.1 is on no device of this host: ") {
			stdout = want.stdout // the rest depends on the kernel
		}
		if code != want.code || stdout != want.stdout || stderr != want.stderr {
			t.Errorf("%s: exit %d, stdout %q, stderr %q; want %+v", command, code, stdout, stderr, want)
		}
	}
	if left, err := os.ReadDir(state); err != nil || len(left) > 0 {
		t.Errorf("looking left %v in the state directory, %v", left, err)
	}
}

// hangupDirectory is set where TestHangupWithoutFile runs itself as a controller.
const hangupDirectory = "LVS_TEST_HANGUP"

// A controller that flags alone configure has no file to reload. SIGHUP changes
// nothing: it must not end the process.
func TestHangupWithoutFile(t *testing.T) {
	if dir := os.Getenv(hangupDirectory); dir != "" {
		text := fmt.Sprintf("listen = \"\"\nmanage_sysctls = false\nstate_dir = %q\ncache_dir = %q\n%s", dir, dir, staticVIP)
		cfg, err := ParseConfig("command line", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Path = ""
		ctx, stop := signal.NotifyContext(t.Context(), unix.SIGTERM)
		defer stop()
		log := openLog(os.Stderr, logText, slog.LevelInfo)
		defer log.queue.close(logPatience)
		if err := direct(ctx, log, new(source), &firstConfig{cfg: cfg}, &stateDir{path: dir}, false); err != nil {
			t.Fatal(err)
		}
		return
	}
	ns := newNetns(t)
	cmd := exec.Command("ip", "netns", "exec", string(ns), os.Args[0], "-test.run=^TestHangupWithoutFile$")
	cmd.Env = append(os.Environ(), hangupDirectory+"="+t.TempDir())
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	sent, stopped := false, false
	for lines := bufio.NewScanner(log); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.Contains(line, "IPVS") && !sent: // the first pass has begun
			sent = true
			for _, s := range []os.Signal{unix.SIGHUP, unix.SIGTERM} {
				if err := cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
				time.Sleep(200 * time.Millisecond) // one at a time
			}
		case strings.Contains(line, `msg="stopped; `):
			stopped = true
		}
	}
	if err := cmd.Wait(); err != nil || !stopped {
		t.Errorf("the controller ended with %v, told that it stopped: %v; want it to end by SIGTERM only", err, stopped)
	}
}

// A second controller with the same state directory would fight the first: it
// does not start, and neither does -cleanup.
func TestSecondInstance(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	file := writeConfig(t, "listen = \"\"\nmanage_sysctls = false\nstate_dir = \""+state+"\"\n"+staticVIP)
	first, err := (&stateDir{path: state}).lock(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	want := `level=ERROR msg="cannot start" err="another lvs-controller (pid ` + strconv.Itoa(os.Getpid()) + `) runs with state directory ` + state + `"`
	for _, args := range [][]string{{"-config", file}, {"run", "-config", file}, {"-config", file, "-cleanup"}} {
		code, stdout, stderr := cli(t, args...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d, stdout %q, stderr:\n%swant one line with:\n%s", args, code, stdout, stderr, want)
		}
	}
	if left, err := os.ReadDir(state); err != nil || len(left) != 1 {
		t.Errorf("the second left %v, %v; want the first's lock alone", left, err)
	}
}

// Nor does one with another state directory, in the same network namespace. Every user
// may take the socket name; a process that is no controller does not prevent a start.
func TestSecondInstanceElsewhere(t *testing.T) {
	file := writeConfig(t, "listen = \"\"\nmanage_sysctls = false\nstate_dir = \""+t.TempDir()+"\"\n"+staticVIP)
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	release, err := lockNamespace(logger)
	if err != nil {
		t.Fatal(err)
	}
	want := `level=ERROR msg="cannot start" err="another lvs-controller (pid ` + strconv.Itoa(os.Getpid()) + `) runs in this network namespace"`
	for _, args := range [][]string{{"-config", file}, {"-config", file, "-cleanup"}} {
		code, stdout, stderr := cli(t, args...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d, stdout %q, stderr:\n%swant one line with:\n%s", args, code, stdout, stderr, want)
		}
	}
	release()
	if release, err = lockNamespace(logger); err != nil || log.Len() > 0 {
		t.Fatalf("the name is not free again: %v, %s", err, &log)
	}
	release()

	requireRoot(t)
	const nobody = 65534
	for what, take := range map[string]func() (io.Closer, error){
		"listens": func() (io.Closer, error) { return net.Listen("unix", namespaceLock) },
		"does not listen": func() (io.Closer, error) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			return os.NewFile(uintptr(fd), namespaceLock), unix.Bind(fd, &unix.SockaddrUnix{Name: namespaceLock})
		},
	} {
		taken := make(chan io.Closer)
		go func() {
			runtime.LockOSThread() // and never unlock: the thread ends with this function
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
				t.Error("become another user:", errno)
			}
			l, err := take()
			if err != nil {
				t.Error(err)
			}
			taken <- l
		}()
		l := <-taken
		if t.Failed() {
			t.FailNow()
		}
		log.Reset()
		if _, err := lockNamespace(logger); err != nil || strings.Count(log.String(), "another program has the socket name of a controller") != 1 {
			t.Errorf("another user who %s keeps the controller away: %v\n%s", what, err, &log)
		}
		l.Close()
	}
}

// Without a controller the order stays, and the command says that no controller has
// carried it out.
func TestDrainWithoutController(t *testing.T) {
	dir := t.TempDir()
	path := writeConfig(t, fmt.Sprintf("state_dir = %q\ncache_dir = %q\n[[vip]]\nname = \"a\"\naddresses = [\"10.0.0.1\"]\nports = [80]\n", dir, dir)) // one folder for both is allowed
	code, stdout, stderr := cli(t, "drain", "-config", path, "-wait", "50ms")
	if code != exitFailure || stdout != "" || stderr != "no controller has confirmed it within 50ms; one that is started begins drained\n" {
		t.Errorf("drain: %d\n%s%s", code, stdout, stderr)
	}
	if since, err := drainedSince(dir); since.IsZero() || err != nil {
		t.Errorf("the order is not there: %v", err)
	}
	code, stdout, stderr = cli(t, "drain", "-undo", "-config", path, "-wait", "50ms")
	if code != exitFailure || stdout != "" || stderr != "no controller has confirmed it within 50ms; one that is started is not drained\n" {
		t.Errorf("drain -undo: %d\n%s%s", code, stdout, stderr)
	}
	if since, err := drainedSince(dir); !since.IsZero() || err != nil {
		t.Errorf("the order is still there: %v", err)
	}
}

// Whatever the arguments are, the command line ends with one of its exit codes, and
// flags alone make a configuration that the rest of the program may rely on.
func FuzzCommandLine(f *testing.F) {
	for _, line := range []string{
		"check\n-vip\n10.0.0.1, 2001:db8::1\n-schedname\nsh\n-nginxserver\nweb\n-timeout\n120-50-50\n-kubeconfig=a",
		"keepalived\n-vip\n10.0.0.1\n-peer\n10.0.0.9\n-interface\neth0\n-interval\n40.95s\n-state\nMASTER\n-priority\n0xfe\n-binary\n/b'in",
		"realserver\n-vip\n10.0.0.1,fd00::1\n-dev\nlo\n-uplink\neth0\n-tunnel\ngue\n-tunnel-port\n6080\n-check",
		"-cleanup\n-debug=x\n--\n-vip",
		"check\n-vip\n10.0.0.1\"]\nports = [1]\n#",
		"help\n-h", "check\n-h", "chekc", "", "completion\nbash", "__complete\ncheck\n-config\nx\n--s",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		defer bounded(t, len(line))()
		var out, errs bytes.Buffer
		code, args := exitOK, strings.Split(line, "\n")
		known := slices.Contains(namesOf(commands()), args[0])
		switch {
		case args[0] == "realserver":
			// The network is the first that it asks for.
			code = realserverCommand.call(t.Context(), &realserverTask{open: func() (nodeNetwork, error) { return nil, errors.New("no network") }}, args[1:], &out, &errs)
		case slices.Contains([]string{"version", "help", "completion"}, args[0]), !known && args[0] != "" && args[0][0] != '-':
			code = run(t.Context(), args, &out, &errs)
		default:
			if known {
				args = args[1:]
			}
			// A file may be any of this machine's.
			src := new(sourceTask)
			c := &command{new: func() task { return new(sourceTask) }} // its help asks for the flags again
			if code = c.call(t.Context(), src, args, &out, &errs); src.set != nil && src.path == "" {
				code = checkFlagConfig(t, &src.source)
			}
			if src.set != nil && src.path == "" && code == exitOK {
				out.Reset()
				if code := run(t.Context(), append([]string{"keepalived", "-peer", "192.0.2.9", "-interface", "eth0"}, args...), &out, &errs); code == exitOK && !strings.HasPrefix(out.String(), "#") {
					t.Errorf("keepalived.conf begins with %.80q", &out)
				}
			}
		}
		if code != exitOK && code != exitFailure && code != exitUsage {
			t.Errorf("exit code %d", code)
		}
		if most := 8<<10 + 16*len(line); out.Len()+errs.Len() > most {
			t.Errorf("%d bytes of output for %d of arguments, want at most %d", out.Len()+errs.Len(), len(line), most)
		}
	})
}

// checkFlagConfig loads the configuration that flags alone make, and returns the exit
// code that is due.
func checkFlagConfig(t *testing.T, src *source) int {
	c, err := src.load()
	if err != nil {
		if mistakes, ok := errors.AsType[ConfigErrors](err); ok {
			checkMistakeBounds(t, mistakes)
		}
		return exitFailure
	}
	if len(c.VIPs) != 1 || c.Path != "" {
		t.Errorf("%d VIPs, path %q", len(c.VIPs), c.Path)
	}
	for i := range c.VIPs {
		checkVIP(t, &c.VIPs[i])
	}
	return exitOK
}
