// The quick start of README.md, command by command as it is printed there.

package director

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// Addresses of the quick start. The lab has others.
const (
	quickVIP = "10.135.22.77"
	quickAPI = "https://10.135.22.10:6443"
)

var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// quickStart is the blocks of commands, in the order of README.md: for the cluster
// administrator, each node, the director and a client.
func quickStart(t *testing.T) (admin, node, director, client string) {
	t.Helper()
	page, err := os.ReadFile(installed("../README.md"))
	lab.Must(t, err)
	_, section, found := strings.Cut(string(page), "\n## Quick start\n")
	section, _, ended := strings.Cut(section, "\n## ")
	blocks := shellBlock.FindAllStringSubmatch(section, -1)
	if !found || !ended || len(blocks) != 4 {
		t.Fatalf("README.md: %d blocks of commands in the quick start, want 4:\n%s", len(blocks), section)
	}
	return blocks[0][1], blocks[1][1], blocks[2][1], blocks[3][1]
}

// quickScript makes a separate host of the shell that runs a block: no other block has
// its files, and what README.md takes for granted (bin) comes first in PATH.
const quickScript = `set -eu
for d in /etc /usr/local/sbin /run/lvs-controller /run/lvs-realserver /var/lib/lvs-controller; do
	mkdir -p $d
	mount -t tmpfs tmpfs $d
done
export LAB=%[1]s HOME=%[1]s/%[2]s PATH=%[1]s/bin:/usr/local/sbin:$PATH WAIT_SECONDS=2
cd $HOME
set -x
%[3]s`

// quickTools stand in for the programs of the machines that the lab has not: a
// compiler, ssh, an administrator's kubectl and systemd.
var quickTools = map[string]string{
	"make": `[ "$*" = build ] && cp "$LAB/built" lvs-controller`,
	"scp": `for to; do :; done
while [ $# -gt 1 ]; do cp "$1" "$LAB/${to%:}/"; shift; done`,
	"kubectl": `case "$*" in
"apply -f -") cat >"$LAB/applied" ;;
*jsonpath={.data.token}) cat "$LAB/token" ;;
*jsonpath={.data.ca\\.crt}) cat "$LAB/ca" ;;
*) echo "kubectl: unexpected: $*" >&2; exit 1 ;;
esac`,
	"systemctl": `case "$*" in
"enable --now lvs-controller") at=$LAB passed="lvs-controller ready" ;;
"enable --now realserver") at=$HOME passed="lvs-controller realserver -check -vips-file /etc/lvs-controller/vips" ;;
*) exit 1 ;;
esac
line=$(sed -n 's/^ExecStart=//p' "/etc/systemd/system/$3.service")
$line >"$at/log" 2>&1 &
echo $! >"$at/pid"
# As Type=notify does, it returns when the service has made its first pass.
for _ in $(seq 50); do ! $passed >/dev/null 2>&1 || exit 0; sleep 0.2; done`,
}

// A stranger who copies the commands of README.md gets an answer from an ingress pod.
func TestE2EQuickStart(t *testing.T) {
	of(t, "e2e")
	admin, node, director, client := quickStart(t)
	dir := t.TempDir()
	p := newPlane(t)
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	e := &e2e{rig: &rig{T: t, lab: l, director: l.Host("director", 2), dir: dir}, plane: p, namespace: "ingress-nginx", client: l.Host("client", 3)}
	account := string(p.account(t, e.namespace)) // what the API server makes of rbac.yaml
	p.relay(t, e.director)

	for _, name := range []string{"bin", "admin", "director", "node-a", "node-b", "client"} {
		lab.Must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	for name, text := range quickTools {
		lab.Must(t, os.WriteFile(filepath.Join(dir, "bin", name), []byte("#!/bin/sh\nset -eu\n"+text+"\n"), 0o755))
	}
	lab.Must(t, os.Symlink(controller(), filepath.Join(dir, "built")))
	lab.Must(t, os.Symlink(installed("."), filepath.Join(dir, "admin", "install")))
	token := regexp.MustCompile(`token: "?([^"\s]+)`).FindStringSubmatch(account)
	if token == nil {
		t.Fatalf("no token in\n%s", account)
	}
	for name, secret := range map[string][]byte{"token": []byte(token[1]), "ca": p.info.CA} {
		e.write(name, base64.StdEncoding.EncodeToString(secret))
	}
	t.Cleanup(func() {
		nodes, _ := filepath.Glob(filepath.Join(dir, "node-*", "pid"))
		for _, path := range append(nodes, filepath.Join(dir, "pid")) {
			if text, err := os.ReadFile(path); err == nil {
				pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	here := strings.NewReplacer(quickVIP, "10.0.0.100", quickAPI, fmt.Sprintf("https://127.0.0.1:%d", p.info.Port))
	run := func(h *lab.Host, name, block string) (string, error) {
		script := fmt.Sprintf(quickScript, dir, name, here.Replace(block))
		out, err := h.Command("unshare", "--mount", "sh", "-c", script).CombinedOutput()
		return string(out), err
	}
	follow := func(h *lab.Host, name, block string) string {
		t.Helper()
		out, err := run(h, name, block)
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Logf("%s:\n%s", name, out)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, log)
		}
		return out
	}

	follow(e.client, "admin", admin)
	applied, err := os.ReadFile(filepath.Join(dir, "applied"))
	lab.Must(t, err)
	if shipped, err := os.ReadFile(installed("rbac.yaml")); err != nil || string(applied) != string(shipped) {
		t.Errorf("make-kubeconfig.sh applies something else than rbac.yaml: %v\n%s", err, applied)
	}
	for i, name := range []string{"node-a", "node-b"} {
		n := l.Host(name, 11+i)
		n.Serve(80, 10254) // the second is the health check of ingress-nginx, which init has probed
		e.nodes = append(e.nodes, n)
		follow(n, name, node)
		e.createPod(i, true)
	}
	if out := follow(e.director, "director", director); !strings.Contains(out, "\nready\n") || !strings.Contains(out, "10.0.0.11 ") {
		t.Error("status shows no director that serves")
	}

	lab.Within(t, 20*time.Second, func() string {
		out, err := run(e.client, "client", client)
		if err == nil && strings.Contains(out, "node-") {
			t.Logf("client:\n%s", out)
			return ""
		}
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		return fmt.Sprintf("no answer: %v\n%s\n%s", err, out, log)
	})
	if got := e.client.Curl(10, "http://10.0.0.100/"); got["node-a"] != 5 || got["node-b"] != 5 {
		t.Errorf("answers: %v", got)
	}
	e.doctorOfQuickStart(dir)
	e.withoutFile(follow, dir)
}

// withoutFile is the command of README.md that needs no configuration file.
func withoutFile(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(installed("../README.md"))
	lab.Must(t, err)
	line := regexp.MustCompile("`(lvs-controller -kubeconfig kubeconfig -vip [^`]*)`").FindSubmatch(page)
	if line == nil {
		t.Fatal("README.md has no command line that needs no file")
	}
	return string(line[1])
}

// withoutFile runs the command of README.md that needs no configuration file, on a
// director on which nothing is left.
func (e *e2e) withoutFile(follow func(h *lab.Host, name, block string) string, dir string) {
	e.Helper()
	line := withoutFile(e.T)
	e.stopQuickStart(dir)
	e.director.Run("ipvsadm", "-C")
	e.director.Run("ip", "address", "del", "10.0.0.100/32", "dev", "eth0")
	follow(e.director, "director", "install -D -m 0755 lvs-controller /usr/local/sbin/lvs-controller\n"+line+` >"$LAB/log" 2>&1 &
echo $! >"$LAB/pid"`)
	lab.Within(e.T, 20*time.Second, func() string {
		if out, err := e.client.Try("curl", "-s", "-m", "2", "http://10.0.0.100/"); err != nil || !strings.Contains(out, "node-") {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			return fmt.Sprintf("%s: no answer: %v\n%s", line, err, log)
		}
		return ""
	})
}

// stopQuickStart ends the controller, and waits for its end.
func (e *e2e) stopQuickStart(dir string) {
	e.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	lab.Must(e.T, err)
	pid := strings.TrimSpace(string(text))
	n, _ := strconv.Atoi(pid)
	lab.Must(e.T, syscall.Kill(n, syscall.SIGTERM))
	lab.Within(e.T, 10*time.Second, func() string {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			return "the controller does not end"
		}
		return ""
	})
}

// doctorOfQuickStart has doctor examine the director in all roles, with the files of the
// quick start: the rights that make-kubeconfig.sh gives are enough, and one that is
// missing is named.
func (e *e2e) doctorOfQuickStart(dir string) {
	e.Helper()
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	lab.Must(e.T, err)
	examine := func() (int, string) {
		code, text, stderr := answer(e.T, e.director.Command("nsenter", "--net", "--mount", "--target", strings.TrimSpace(string(pid)),
			"/usr/local/sbin/lvs-controller", "doctor", "-role", "director,cluster"))
		if stderr != "" {
			e.Errorf("doctor prints on stderr: %s", stderr)
		}
		return code, text
	}
	// What an ingress controller without further ports may not have. Then doctor warns.
	for _, name := range []string{"tcp-services", "udp-services"} {
		lab.Must(e.T, e.admin.SetConfigMap(e.Context(), e.namespace, name, map[string]string{}))
	}
	keepClock(e.T)
	mended := make(map[string]bool)
	lab.Within(e.T, 60*time.Second, func() string {
		code, text := examine()
		for check, lines := range complaints(text) {
			switch {
			case check == "credentials" && strings.Contains(lines[0], "the token of ") && len(lines) == 3: // this test's ends in an hour
			case check == "budget": // an emulated processor is slow, and its settings are those of the whole machine
			case (check == "receive queues" || check == "GRO") && !mended[check]: // as a virtual device comes
				mended[check] = true
				carryOut(e.T, e.director, lines)
				return check + " is mended"
			default:
				return fmt.Sprintf("doctor says %d:\n%s", code, text)
			}
		}
		if code != 0 || !strings.Contains(text, "OK    permissions ") || !strings.Contains(text, "OK    objects ") {
			return fmt.Sprintf("doctor says %d:\n%s", code, text)
		}
		e.Log(text)
		return ""
	})
	manifest, err := os.ReadFile(installed("rbac.yaml"))
	lab.Must(e.T, err)
	for _, lost := range []struct{ from, to, says string }{
		{"resources: [pods]\n    verbs: [list, watch]", "resources: [pods]\n    verbs: [list]", "watch pods"},
		{"resourceNames: [tcp-services, udp-services]", "resourceNames: [tcp-services]", "udp-services"},
	} {
		text := strings.Replace(string(manifest), lost.from, lost.to, 1)
		if text == string(manifest) {
			e.Fatalf("rbac.yaml has no %q", lost.from)
		}
		lab.Must(e.T, e.admin.Apply(e.Context(), e.namespace, text))
		lab.Within(e.T, 40*time.Second, func() string {
			code, text := examine()
			if found := strings.Join(complaints(text)["permissions"], "\n"); code != 1 || !strings.HasPrefix(found, "FAIL") || !strings.Contains(found, lost.says) {
				return fmt.Sprintf("without %q doctor says %d:\n%s", lost.says, code, text)
			}
			return ""
		})
		lab.Must(e.T, e.admin.Apply(e.Context(), e.namespace, string(manifest)))
	}
}
