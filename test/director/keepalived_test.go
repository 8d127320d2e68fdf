// What `keepalived` prints for a configuration, and what it refuses.

package director

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/lab"
)

// cli runs the controller to its end.
func cli(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return answer(t, exec.Command(controller(), args...))
}

// answer runs a command to its end.
func answer(t *testing.T, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatalf("%q: %v", cmd.Args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// writeConfig writes a configuration and returns its path.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	lab.Must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// staticVIP needs no cluster. Its addresses are for documentation (RFC 5737).
const staticVIP = `[[vip]]
name = "edge"
addresses = ["192.0.2.1"]
ports = ["80/tcp"]
real_servers = [{ address = "192.0.2.11" }]
`

// manyVIPs has VIPs of all kinds: one that the controller announces itself, and
// both families in an order of its own.
const manyVIPs = `interface = "bond0.7"
listen = "[::1]:9652"
[[vip]]
name = "six"
addresses = ["2001:db8::1", "192.0.2.1"]
ports = [80]
[[vip]]
name = "own"
addresses = ["192.0.2.2"]
announce = "arp"
ports = [80]
[[vip]]
name = "edge"
addresses = ["192.0.2.4", "192.0.2.3"]
ports = [80]
`

// keepalivedCases, which real keepalived reads in TestKernelKeepalivedReads, are configurations with the golden files of what comes out.
var keepalivedCases = []struct {
	name, config string
	args         []string
}{
	{"keepalived-one.conf", "interface = \"eth0\"\n" + staticVIP, []string{"-peer", "192.0.2.201"}},
	{"keepalived-both.conf", manyVIPs, []string{"-peer", "192.0.2.201", "-source", "192.0.2.202", "-priority", "254", "-state", "MASTER"}},
	{"keepalived-six.conf", manyVIPs, []string{"-peer", "2001:db8::201", "-interface", "eth1", "-router-id", "7", "-interval", "1s", "-priority", "50", "-nopreempt"}},
}

func TestKeepalivedConf(t *testing.T) {
	of(t, "host")
	for _, test := range keepalivedCases {
		golden := filepath.Join("testdata", test.name)
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		config := writeConfig(t, test.config)
		code, stdout, stderr := cli(t, append([]string{"keepalived", "-config", config}, test.args...)...)
		if code != 0 || stderr != "" {
			t.Errorf("%s: exit %d, stderr %q", test.name, code, stderr)
		}
		if diff := cmp.Diff(string(want), strings.Replace(stdout, config, "CONFIG", 1)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// install/keepalived.conf goes with config.toml.example.
func TestInstalledKeepalivedConf(t *testing.T) {
	of(t, "host")
	want, err := os.ReadFile(installed("keepalived.conf"))
	if err != nil {
		t.Fatal(err)
	}
	example, err := filepath.Abs("../../config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := cli(t, "keepalived", "-config", example, "-peer", "10.135.22.3")
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d, stderr %q", code, stderr)
	}
	// On a director it is at the default's place.
	if diff := cmp.Diff(string(want), strings.Replace(stdout, " -config "+example, "", 1)); diff != "" {
		t.Errorf("install/keepalived.conf is not what is printed for config.toml.example (-file +printed):\n%s", diff)
	}
}

// The command in the file's first lines prints the same file again, whatever flags
// it was printed with.
func TestKeepalivedPrintedAgain(t *testing.T) {
	of(t, "host")
	config := filepath.Join(t.TempDir(), "director's config.toml")
	if err := os.WriteFile(config, []byte(manyVIPs), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(config))
	for _, test := range []struct {
		args []string
		want string // after -peer and -config
	}{
		{nil, ""},
		{[]string{"-priority", "100", "-state", "BACKUP", "-nopreempt=false", "-interval", "0.2s"}, ""}, // the defaults
		{[]string{"-router-id", "52", "-interval", "1500ms", "-source", "192.0.2.202", "-priority", "150"}, " -interval 1.5s -priority 150 -router-id 52 -source 192.0.2.202"},
		{[]string{"-nopreempt", "-interface", "true", "-binary", "/opt/lvs-controller"}, " -binary /opt/lvs-controller -interface true -nopreempt"},
		{[]string{"-state", "MASTER", "-schedname", "mh", "-kubeconfig", "a b"}, " -kubeconfig 'a b' -schedname mh -state MASTER"},
	} {
		args := append([]string{"keepalived", "-peer", "::ffff:192.0.2.201", "-config", filepath.Base(config)}, test.args...)
		code, stdout, stderr := cli(t, args...)
		if code != 0 || stderr != "" {
			t.Errorf("%q: exit %d, stderr %q", test.args, code, stderr)
			continue
		}
		want := "#   lvs-controller keepalived -peer 192.0.2.201 -config '" + strings.ReplaceAll(config, "'", `'\''`) + "'" + test.want
		got := strings.Split(stdout, "\n")[2]
		if got != want {
			t.Errorf("%q: printed by\n%s\nwant\n%s", test.args, got, want)
		}
		words, err := exec.Command("sh", "-c", `printf '%s\n' `+strings.TrimPrefix(got, "#   lvs-controller ")).Output()
		if err != nil {
			t.Fatal(err)
		}
		if _, again, _ := cli(t, strings.Split(strings.TrimSuffix(string(words), "\n"), "\n")...); again != stdout {
			t.Errorf("%q: printed again:\n%s", test.args, cmp.Diff(stdout, again))
		}
	}
}

func TestKeepalivedRefuses(t *testing.T) {
	of(t, "host")
	const peer = "192.0.2.201"
	for _, test := range []struct {
		name, config string
		args         []string
		says         string
	}{
		{"no peer", manyVIPs, nil, `-peer is missing: the other director's address`},
		{"a name", manyVIPs, []string{"-peer", "director2"}, `-peer "director2": want a host's IPv4 or IPv6 address`},
		{"this host", manyVIPs, []string{"-peer", "127.0.0.1"}, `-peer "127.0.0.1": want a host's IPv4 or IPv6 address`},
		{"a VIP as peer", manyVIPs, []string{"-peer", "192.0.2.2"}, `192.0.2.2 is an address of VIP "own", want a director's own`},
		{"both the same", manyVIPs, []string{"-peer", peer, "-source", peer}, `-source 192.0.2.201: want this director's own address, of the family of -peer 192.0.2.201`},
		{"two families", manyVIPs, []string{"-peer", peer, "-source", "2001:db8::5"}, `-source 2001:db8::5: want this director's own address, of the family of -peer 192.0.2.201`},
		{"no VIP for keepalived", "interface = \"eth0\"\n" + strings.Replace(staticVIP, "ports", "announce = \"arp\"\nports", 1), []string{"-peer", peer}, `no VIP has announce = "none": the controller announces all of them`},
		{"no VIP of the peer's family", "interface = \"eth0\"\n" + staticVIP, []string{"-peer", "2001:db8::201"}, `-peer 2001:db8::201: no VIP with announce = "none" has an IPv6 address; name the other director by its IPv4 address`},
		{"no listener to ask", "interface = \"eth0\"\nlisten = \"\"\n" + staticVIP, []string{"-peer", peer}, `listen is off in the configuration: keepalived could not ask whether the director is ready`},
		{"a device that begins a comment", "interface = \"eth0!\"\n" + staticVIP, []string{"-peer", peer}, `interface "eth0!": keepalived.conf can have only letters, digits and . _ : / - there`},
		{"a line of its own", manyVIPs, []string{"-peer", peer, "-interface", "eth0\nstate MASTER"}, `interface "eth0\nstate MASTER": keepalived.conf can have only letters, digits and . _ : / - there`},
		{"arguments", manyVIPs, []string{"-peer", peer, "-binary", "/bin/true; x"}, `-binary "/bin/true; x": keepalived.conf can have only letters, digits and . _ : / - there`},
		{"a line in the first lines", manyVIPs, []string{"-peer", peer, "-kubeconfig", "a\nstate MASTER"}, `-kubeconfig "a\nstate MASTER": the first lines of keepalived.conf cannot contain it`},
		{"a relative path", manyVIPs, []string{"-peer", peer, "-binary", "lvs-controller"}, `-binary "lvs-controller": want an absolute path`},
		{"router 0", manyVIPs, []string{"-peer", peer, "-router-id", "0"}, `-router-id 0: want 1 to 255`},
		{"an owner's priority", manyVIPs, []string{"-peer", peer, "-priority", "255"}, `-priority 255: want 2 to 254`},
		{"too often", manyVIPs, []string{"-peer", peer, "-interval", "5ms"}, `-interval 5ms: want 10ms to 40.95s in steps of 10ms`},
		{"between two steps", manyVIPs, []string{"-peer", peer, "-interval", "25ms"}, `-interval 25ms: want 10ms to 40.95s in steps of 10ms`},
		{"another state", manyVIPs, []string{"-peer", peer, "-state", "backup"}, `-state "backup": want BACKUP or MASTER`},
		{"master that does not preempt", manyVIPs, []string{"-peer", peer, "-state", "MASTER", "-nopreempt"}, `-state MASTER: a director with -nopreempt must start as BACKUP`},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := cli(t, append([]string{"keepalived", "-config", writeConfig(t, test.config)}, test.args...)...)
			wantCode := 1 // the configuration does not allow it
			if strings.HasPrefix(test.says, "-") && !strings.Contains(test.says, "no VIP") {
				wantCode = 2 // the value of a flag is wrong in itself
			}
			if want := "lvs-controller keepalived: " + test.says + "\n"; code != wantCode || stdout != "" || stderr != want {
				t.Errorf("exit %d, stdout %q, stderr:\n%swant\n%s", code, stdout, stderr, want)
			}
		})
	}
}
