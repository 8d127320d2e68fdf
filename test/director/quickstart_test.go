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
for d in /etc /usr/local/sbin /run/lvs-controller /var/lib/lvs-controller; do
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
	"systemctl": `[ "$*" = "enable --now lvs-controller" ]
line=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/lvs-controller.service)
$line >"$LAB/log" 2>&1 &
echo $! >"$LAB/pid"
# As Type=notify does, it returns when the controller has made its first pass.
for _ in $(seq 50); do ! lvs-controller ready >/dev/null 2>&1 || exit 0; sleep 0.2; done`,
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
		if text, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil {
			pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			syscall.Kill(pid, syscall.SIGKILL)
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
		n.Serve(80)
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
}
