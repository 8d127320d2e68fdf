// The scripts of install/, in each shell that they are written for.

package director

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
)

// eachShell runs f at once for every shell of this machine that the scripts
// are written for.
func eachShell(t *testing.T, f func(t *testing.T, shell []string)) {
	for _, shell := range [][]string{{"sh"}, {"busybox", "sh"}} {
		path, err := exec.LookPath(shell[0])
		if err != nil {
			continue
		}
		t.Run(shell[0], func(t *testing.T) {
			t.Parallel()
			f(t, append([]string{path}, shell[1:]...))
		})
	}
}

// runScript runs a file of install/ and returns its exit code and whole output.
func runScript(t *testing.T, shell []string, env []string, file string, args ...string) (int, string) {
	t.Helper()
	line := append(append(append([]string(nil), shell...), installed(file)), args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%q: %v", line, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestInstallScriptsParse(t *testing.T) {
	of(t, "host")
	eachShell(t, func(t *testing.T, shell []string) {
		for _, file := range []string{"lvs-controller.openrc", "lvs-controller.sysv", "realserver.sh", "make-kubeconfig.sh"} {
			if code, out := runScript(t, append(shell, "-n"), nil, file); code != 0 {
				t.Errorf("-n %s: exit %d\n%s", file, code, out)
			}
		}
	})
}

// The SysV script with a daemon that writes down the signals it gets.
func TestSysVScript(t *testing.T) {
	of(t, "host")
	t.Parallel()
	// Under nohup SIGHUP is ignored, and a shell cannot trap what it has inherited as
	// ignored. What this process asks for its children get as the default.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangup) })
	eachShell(t, func(t *testing.T, shell []string) {
		dir := t.TempDir()
		write := func(name, content string, mode os.FileMode) string {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(content), mode); err != nil {
				t.Fatal(err)
			}
			return path
		}
		config := write("config.toml", "", 0o644)
		daemon := write("daemon", `#!/bin/sh
trap 'echo reload' HUP
trap 'echo term; exit' TERM
case "$*" in
"check -config `+config+`" | "-check -config `+config+` -debug -x")
	[ ! -e "$0.mistake" ] || { echo "`+config+`:1: a mistake" >&2; exit 1; }
	exit 0 ;;
esac
echo "$@"
[ ! -e "$0.broken" ] || exit 1
while :; do sleep 0.1; done
`, 0o755)
		pidfile, log := filepath.Join(dir, "run", "pid"), filepath.Join(dir, "log")
		defaults := write("default", "DAEMON="+daemon+"\nCONFIG="+config+"\nARGS='-debug -x'\nPIDFILE="+pidfile+"\nLOG="+log+"\n", 0o644)
		read := func(path string) string {
			b, _ := os.ReadFile(path)
			return string(b)
		}
		run := func(want int, action, wantOut string) {
			t.Helper()
			code, out := runScript(t, shell, []string{"LVS_CONTROLLER_DEFAULTS=" + defaults}, "lvs-controller.sysv", action)
			if code != want || !strings.Contains(out, wantOut) {
				t.Errorf("%s: exit %d, want %d with %q:\n%s", action, code, want, wantOut, out)
			}
		}
		// begun waits until the daemon has begun so many times: then it takes signals.
		begun := func(times int) {
			t.Helper()
			lab.Within(t, 10*time.Second, func() string {
				if got := read(log); strings.Count(got, "-config "+config+" -debug -x\n") != times {
					return fmt.Sprintf("the daemon has not begun %d times: %s", times, got)
				}
				return ""
			})
		}
		run(2, "", "usage:")
		run(3, "status", "not running")
		run(7, "reload", "not running")
		run(0, "stop", "not running")
		run(0, "start", "started")
		t.Cleanup(func() {
			runScript(t, shell, []string{"LVS_CONTROLLER_DEFAULTS=" + defaults}, "lvs-controller.sysv", "stop")
		})
		run(0, "start", "already running")
		run(0, "status", "is running (pid ")
		begun(1)
		run(0, "reload", "reads its configuration again")
		// The daemon is busy sleeping: with the next signal there would be two.
		lab.Within(t, 10*time.Second, func() string {
			if got := read(log); !strings.Contains(got, "reload\n") {
				return "the daemon has not seen the reload: " + got
			}
			return ""
		})
		run(0, "restart", "started")
		begun(2)
		// With a mistake in its configuration the running controller stays as it is.
		write("daemon.mistake", "", 0o644)
		for _, action := range []string{"reload", "restart", "force-reload"} {
			run(6, action, config+":1: a mistake\nlvs-controller: "+config+" or ARGS has mistakes; nothing is changed\n")
		}
		run(0, "status", "is running (pid ")
		// One that is killed is started again, and a stop ends that too.
		killed, err := strconv.Atoi(strings.TrimSpace(read(pidfile)))
		lab.Must(t, err)
		lab.Must(t, syscall.Kill(killed, syscall.SIGKILL))
		lab.Within(t, 10*time.Second, func() string {
			if got := read(log); !strings.HasSuffix(got, "ended; the next start is in 1 s\n-config "+config+" -debug -x\n") {
				return "the daemon is not started again: " + got
			}
			return ""
		})
		run(0, "status", "is running (pid ")
		// A start takes the last good configuration, and says so.
		run(0, "stop", "goes on forwarding")
		run(0, "start", config+":1: a mistake\nlvs-controller started\nlvs-controller: "+config+" cannot be used; the last good configuration is in force\n")
		begun(4)
		os.Remove(filepath.Join(dir, "daemon.mistake"))
		run(0, "stop", "goes on forwarding")
		run(3, "status", "not running")
		begin := "-config " + config + " -debug -x\n"
		want := begin + "reload\nterm\n" + begin + "lvs-controller ended; the next start is in 1 s\n" + begin + "term\n" + begin + "term\n"
		got := regexp.MustCompile(`(?m)^.*Killed.*\n`).ReplaceAllString(read(log), "") // of a shell that says so
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the daemon saw (-want +got):\n%s", diff)
		}

		// A number left over from a crash is now another program's.
		write("run/pid", "1\n", 0o644)
		run(1, "status", "is dead")
		run(7, "reload", "not running")
		write("daemon.broken", "", 0o644)
		run(1, "start", "did not start")
		time.Sleep(1500 * time.Millisecond) // longer than until a next start
		if got := read(log); !strings.HasSuffix(got, "term\n"+begin) {
			t.Errorf("want one attempt to start:\n%s", got)
		}
		run(3, "status", "not running")
		os.Remove(daemon)
		run(5, "start", "is not installed")
	})
}

// The functions of the OpenRC service, with an openrc-run that calls one of them: a
// mistake in the configuration or in args refuses a reload, and the stop of a restart, but
// no stop.
func TestOpenRCScript(t *testing.T) {
	of(t, "host")
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		dir := t.TempDir()
		calls := filepath.Join(dir, "calls")
		config := filepath.Join(dir, "config.toml")
		run := filepath.Join(dir, "openrc-run")
		script, err := os.ReadFile(installed("lvs-controller.openrc"))
		lab.Must(t, err)
		lab.Must(t, os.WriteFile(run, []byte(`#!/bin/sh
RC_SVCNAME=lvs-controller RC_CMD=$1
ebegin() { :; }
eend() { return "$1"; }
config=`+config+` args=$ARGS
`+strings.Replace(string(script), "command=/usr/local/sbin/lvs-controller\n", "command="+controller()+"\n", 1)+`
$2
`), 0o755))
		lab.Must(t, os.WriteFile(filepath.Join(dir, "supervise-daemon"), []byte("#!/bin/sh\necho \"$*\" >>"+calls+"\n"), 0o755))
		const good, bad = "[[vip]]\nname = 'edge'\naddresses = ['192.0.2.1']\nports = [80]\nselector = ''\nreal_servers = [{ address = '192.0.2.11' }]\n", "bogus = 1\n"
		for _, test := range []struct {
			config, args, command, function string
			says                            string // with exit code 1; "" with 0
		}{
			{bad, "", "reload", "reload", config + ":1: bogus: unknown key"},
			{bad, "", "restart", "stop_pre", config + ":1: bogus: unknown key"},
			{good, "-debug -log-lvel info", "restart", "stop_pre", "unknown flag -log-lvel, did you mean -log-level?"},
			{good, "-schedname zz", "restart", "stop_pre", `unknown scheduler "zz"`},
			{bad, "-bogus", "stop", "stop_pre", ""},
			{good, "-debug -log-level info", "restart", "stop_pre", ""},
			{good, "", "reload", "reload", ""},
		} {
			lab.Must(t, os.WriteFile(config, []byte(test.config), 0o600))
			cmd := exec.Command(shell[0], append(append([]string(nil), shell[1:]...), run, test.command, test.function)...)
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "ARGS="+test.args)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); (code != 0) != (test.says != "") || !strings.Contains(string(out), test.says) {
				t.Errorf("%s with %q and %q: exit %d, want %q\n%s", test.command, test.config, test.args, code, test.says, out)
			}
		}
		if got, err := os.ReadFile(calls); string(got) != "lvs-controller --signal HUP\n" {
			t.Errorf("supervise-daemon was called with %q, %v: want one reload", got, err)
		}
	})
}

// analyzer is systemd-analyze, which reads a unit as systemd does.
func analyzer(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("LVS_REQUIRE_ALL") == "1" {
			t.Fatal("needs systemd-analyze, of Debian's package systemd (LVS_REQUIRE_ALL=1)")
		}
		t.Skip("needs systemd-analyze")
	}
	return path
}

// unitCopy is the path of a copy of a unit of install/ with its drop-ins, which names the
// binary under test.
func unitCopy(t *testing.T, unit string, drops ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), unit)
	install := func(from, to string) {
		t.Helper()
		text, err := os.ReadFile(installed(from))
		lab.Must(t, err)
		lab.Must(t, os.MkdirAll(filepath.Dir(to), 0o755))
		lab.Must(t, os.WriteFile(to, bytes.ReplaceAll(text, []byte("/usr/local/sbin/lvs-controller"), []byte(controller())), 0o644))
	}
	install(unit, path)
	for _, drop := range drops {
		install(drop, filepath.Join(path+".d", drop))
	}
	return path
}

// systemd's own measure of how much a service may do: 10 is all. Each unit, and that of a
// director with the drop-in for a user without privileges, has a goal.
func TestUnitSecurity(t *testing.T) {
	of(t, "host")
	t.Parallel()
	analyze := analyzer(t)
	for _, test := range []struct {
		name, unit string
		drop       []string
		most       float64
	}{
		{"root", "lvs-controller.service", nil, 2.4},
		{"unprivileged", "lvs-controller.service", []string{"lvs-controller-unprivileged.conf"}, 2.1},
		{"node", "realserver.service", nil, 2.0},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := exec.Command(analyze, "security", "--no-pager", "--offline=true", unitCopy(t, test.unit, test.drop...)).CombinedOutput()
			m := regexp.MustCompile(`exposure level for ` + regexp.QuoteMeta(test.unit) + `: (\d+\.\d)`).FindSubmatch(out)
			if err != nil || m == nil {
				t.Fatalf("systemd-analyze: %v\n%s", err, out)
			}
			if got, _ := strconv.ParseFloat(string(m[1]), 64); got > test.most {
				t.Errorf("the exposure is %.1f, want %.1f at the most\n%s", got, test.most, out)
			}
		})
	}
}

// systemd knows each directive of the units, and what they call is there. What a unit has
// on its command line the binary knows too.
func TestUnitsVerify(t *testing.T) {
	of(t, "host")
	t.Parallel()
	analyze := analyzer(t)
	units, err := filepath.Glob(installed("*.service"))
	lab.Must(t, err)
	if len(units) != 2 {
		t.Errorf("%d units, want that of a director and that of a node: %q", len(units), units)
	}
	for _, unit := range units {
		name := filepath.Base(unit)
		t.Run(name, func(t *testing.T) {
			path := unitCopy(t, name)
			out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", path).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("systemd-analyze: %v\n%s", err, out)
			}
			text, err := os.ReadFile(path)
			lab.Must(t, err)
			calls := regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindAllSubmatch(text, -1)
			if len(calls) != 1 {
				t.Fatalf("%d commands, want 1", len(calls))
			}
			// An unknown flag is an error before -h is read.
			line := append(strings.Fields(string(calls[0][1])), "-h")
			if out, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil || !strings.Contains(string(out), "Usage:") {
				t.Errorf("%q: %v\n%s", line, err, out)
			}
		})
	}
}

func TestMakeKubeconfig(t *testing.T) {
	of(t, "host")
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		dir := t.TempDir()
		// The token appears at the second question for it.
		kubectl := `#!/bin/sh
case "$*" in
"config view --minify --output jsonpath={.clusters[0].cluster.server}") echo https://10.0.0.1:6443 ;;
"apply -f -") cat >"$FAKE/applied" ;;
"--namespace edge get secret lvs-controller --output jsonpath={.data.token}")
	if [ -e "$FAKE/asked" ]; then printf ` + base64.StdEncoding.EncodeToString([]byte("s3cret")) + `; fi
	[ -e "$FAKE/never" ] || : >"$FAKE/asked" ;;
"--namespace edge get secret lvs-controller --output jsonpath={.data.ca\.crt}") printf Q0E= ;;
*) echo "unexpected: $*" >&2; exit 1 ;;
esac
`
		if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(kubectl), 0o755); err != nil {
			t.Fatal(err)
		}
		output := filepath.Join(dir, "kubeconfig")
		run := func(want int, wantOut string, args ...string) {
			t.Helper()
			env := []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "FAKE=" + dir, "WAIT_SECONDS=2"}
			code, out := runScript(t, shell, env, "make-kubeconfig.sh", args...)
			if code != want || !strings.Contains(out, wantOut) {
				t.Errorf("%q: exit %d, want %d with %q:\n%s", args, code, want, wantOut, out)
			}
		}
		run(0, "usage:", "-h")
		run(2, "usage:", "-x")
		run(2, "usage:", "extra")
		run(1, "not a name", "-n", "a/b")
		run(1, "not a name", "-S", "a/b")
		shipped := func(manifest string, names ...string) string {
			t.Helper()
			text, err := os.ReadFile(installed(manifest))
			lab.Must(t, err)
			return strings.NewReplacer(names...).Replace(string(text))
		}
		applied := func(want string, namespaces int) {
			t.Helper()
			got, err := os.ReadFile(filepath.Join(dir, "applied"))
			lab.Must(t, err)
			if diff := cmp.Diff(want, string(got)); diff != "" || strings.Count(want, "namespace: edge") != namespaces {
				t.Errorf("applied (-want +got):\n%s", diff)
			}
		}
		run(0, "wrote "+output, "-n", "edge", "-S", "web", "-o", output, "-f")
		applied(shipped("rbac-service.yaml", "namespace: ingress-nginx", "namespace: edge", "[ingress-nginx-controller]", "[web]"), 5)
		run(0, "wrote "+output, "-n", "edge", "-t", "tcp.x", "-u", "udp-x", "-o", output, "-f")
		pods := shipped("rbac.yaml", "namespace: ingress-nginx", "namespace: edge", "[tcp-services, udp-services]", "[tcp.x, udp-x]")
		applied(pods, 6)
		got, err := os.ReadFile(output)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"      server: https://10.0.0.1:6443\n",
			"      certificate-authority-data: Q0E=\n",
			"      token: s3cret\n",
			"      namespace: edge\n",
		} {
			if !strings.Contains(string(got), line) {
				t.Errorf("no %q in\n%s", line, got)
			}
		}
		run(1, "not a name", "-g", "a/b/c")
		run(0, "wrote ", "-n", "edge", "-t", "tcp.x", "-u", "udp-x", "-g", "gw/web", "-f", "-o", output)
		gateways := shipped("rbac-gateways.yaml", "namespace: edge", "namespace: gw", "[edge]", "[web]", "namespace: ingress-nginx", "namespace: edge")
		applied(pods+"---\n"+gateways, 6+strings.Count(gateways, "namespace: edge"))
		info, err := os.Stat(output)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("mode %v, want 0600", info.Mode())
		}

		run(1, "is there already", "-n", "edge", "-o", output)
		run(0, "API server https://vip:6443", "-n", "edge", "-o", output, "-s", "https://vip:6443", "-f")
		os.Remove(filepath.Join(dir, "asked"))
		if err := os.WriteFile(filepath.Join(dir, "never"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		run(1, "the token did not appear within 2 s", "-n", "edge", "-o", filepath.Join(dir, "other"))
		if left, _ := filepath.Glob(filepath.Join(dir, "*.new.*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}
