// The hosts on which the commands of the documentation run: two directors with keepalived,
// two behind a router with bird and FRR, a node and a client, each with the addresses that
// the pages use and with files of its own.

package director

import (
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

// documentedStep is one or several lines of a page, and what comes of them.
type documentedStep struct {
	on    string
	lines string   // as the page has them
	with  []string // pairs: what is another word here, such as ADDR
	// before and after are no lines of the page: what the page takes for granted, and what
	// shows that the lines did what it says.
	before, after string
	code          int
	want          string // a regular expression that the output matches
	patient       bool   // the step is run again until it does
	cut           bool   // the host's cable is out meanwhile
}

// documentedSetup gives the shell that runs it files that no other host has, and waits:
// other shells join it.
const documentedSetup = `set -eu
cd %[1]s
mkdir -p etc sbin home /usr/local/sbin /var/lib/lvs-controller
cp -a /etc/. etc/
mount --bind etc /etc
mount --bind sbin /usr/local/sbin
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/bird /run/frr /run/lock /run/lvs-controller /etc/sysctl.d
mount -t tmpfs -o mode=0700 tmpfs /var/lib/lvs-controller
echo bird:x:110: >>/etc/group
echo frr:x:111: >>/etc/group
echo frr:x:111:111::/:/bin/false >>/etc/passwd
touch ready
exec sleep 100000`

// documentedTools stand in for what the guest has not: a package manager, ssh, kubectl and
// systemd. Each does what the real one would for the lines of the pages, and fails for
// any other.
var documentedTools = map[string]string{
	// The guest has what the packages bring, as test/vm/setup has it.
	"apt": `[ "$1" = install ] && [ $# = 2 ]
case $2 in keepalived) command -v keepalived ;; bird2) command -v bird ;; frr) command -v bgpd ;; *) exit 100 ;; esac`,
	"ssh": `case "$*" in
"-N -L 9652:127.0.0.1:9652 root@director") nsenter --net --mount --target "$(cat "$LAB/director.pid")" curl -s http://127.0.0.1:9652/ ;;
"director "*) shift; exec nsenter --net --mount --target "$(cat "$LAB/director.pid")" "$@" ;;
*) echo "ssh: unexpected: $*" >&2; exit 255 ;;
esac`,
	"kubectl": `case "$*" in
"get pods,configmaps -A -o json" | "get pods,configmaps,nodes -A -o json") cat "$LAB/cluster.json" ;;
"apply -f -") cat >"$LAB/applied"; sed -n 's/^kind: //p' "$LAB/applied" ;;
*) echo "kubectl: unexpected: $*" >&2; exit 1 ;;
esac`,
	"systemctl": `state=$LAB/$HOST
start() {
	case $1 in
	lvs-controller | realserver) set -- "$1" $(sed -n 's/^ExecStart=//p' "/etc/systemd/system/$1.service") ;;
	keepalived) set -- "$1" keepalived --dont-fork --log-console --use-file /etc/keepalived/keepalived.conf ;;
	bird) set -- "$1" bird -f -c /etc/bird/bird.conf ;;
	frr)
		# In the order of Debian's service, which waits for each.
		for d in zebra $(sed -n 's/=yes$//p' /etc/frr/daemons); do
			daemon "frr-$d" "$d" -u root -g root
			for _ in $(seq 100); do ! vtysh -c 'show daemons' 2>/dev/null | grep -qw "$d" || break; sleep 0.2; done
		done
		vtysh -b
		return ;;
	*) echo "Failed to start $1.service: Unit $1.service not found." >&2; return 5 ;;
	esac
	daemon "$@"
	# As Type=notify does, it returns when the service has made its first pass.
	for _ in $(seq 100); do
		case $1 in
		lvs-controller) ! curl -sf --unix-socket /run/lvs-controller/control.sock http://controller/healthz >/dev/null || break ;;
		realserver) ! lvs-controller realserver -check -vips-file /etc/lvs-controller/vips >/dev/null 2>&1 || break ;;
		*) break ;;
		esac
		sleep 0.1
	done
}
daemon() {
	name=$1
	shift
	setsid "$@" >>"$state/$name.log" 2>&1 </dev/null &
	echo $! >"$state/$name.unit"
}
stop() {
	for running in "$state/$1.unit" "$state/$1"-*.unit; do
		[ -e "$running" ] || continue
		kill "$(cat "$running")" || :
		while [ -e "/proc/$(cat "$running")" ]; do sleep 0.1; done
		rm "$running"
	done
}
verb=$1
shift
case $verb in
enable) [ "$1" = --now ]; shift; verb=start ;;
disable) [ "$1" = --now ]; shift; verb=stop ;;
esac
for unit; do
	case $verb in
	start) start "$unit" ;;
	stop) stop "$unit" ;;
	restart) stop "$unit"; start "$unit" ;;
	reload)
		case $unit in
		nftables) nft -f /etc/nftables.conf ;;
		*) kill -HUP "$(cat "$state/$unit.unit")" ;;
		esac ;;
	status) echo "$unit.service"; kill -0 "$(cat "$state/$unit.unit")"; echo "active (running)" ;;
	*) exit 1 ;;
	esac
done`,
}

// documentedHosts are the last numbers of their addresses, in 10.135.22.0/24.
var documentedHosts = map[string]int{"router": 1, "director": 2, "peer": 3, "bird": 4, "frr": 5, "node": 31, "client": 200}

// documentedWorld is those hosts.
type documentedWorld struct {
	*rig
	hosts map[string]*lab.Host
}

func newDocumentedWorld(t *testing.T) *documentedWorld {
	of(t, "kernel")
	dir := t.TempDir()
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	w := &documentedWorld{&rig{T: t, lab: l, dir: dir}, make(map[string]*lab.Host)}
	w.objects.pods = []pod{{name: "ingress-a", node: "node", ips: []string{"10.135.22.31"}}}
	w.writeCluster()
	lab.Must(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	for name, text := range documentedTools {
		lab.Must(t, os.WriteFile(filepath.Join(dir, "bin", name), []byte("#!/bin/sh\nset -eu\n"+text+"\n"), 0o755))
	}
	t.Cleanup(w.stopUnits)
	for name, n := range documentedHosts {
		h := l.Host(name, n)
		h.Batch("address flush dev eth0", fmt.Sprintf("address add 10.135.22.%d/24 dev eth0", n), fmt.Sprintf("address add 2001:db8:22::%d/64 dev eth0 nodad", n))
		if name != "router" {
			h.Batch("route add default via 10.135.22.1")
		}
		w.hosts[name] = h
		own := filepath.Join(dir, name)
		lab.Must(t, os.Mkdir(own, 0o755))
		keeper := h.Start("unshare", "--mount", "sh", "-c", fmt.Sprintf(documentedSetup, own))
		lab.Within(t, 20*time.Second, func() string {
			if _, err := os.Stat(filepath.Join(own, "ready")); err != nil {
				return name + " is not set up: " + keeper.Log()
			}
			return ""
		})
		lab.Must(t, os.WriteFile(own+".pid", []byte(strconv.Itoa(keeper.PID())), 0o644))
		if code, out := w.shell(name, documentedFiles); code != 0 {
			t.Fatalf("%s: %s", name, out)
		}
	}
	w.hosts["node"].Serve(80, 443)
	return w
}

// documentedFiles are what the pages take for granted: the binary and the unit are
// installed, config.toml is written, and the files of the project are at hand.
const documentedFiles = `install -m 0755 "$BINARY" /usr/local/sbin/lvs-controller
ln -s "$INSTALL" install
cp "$INSTALL/bird.conf" "$INSTALL/frr.conf" .
mkdir -p /etc/lvs-controller /etc/systemd/system /etc/keepalived /etc/bird /etc/frr /etc/modules-load.d
ln -s /etc/lvs-controller/config.toml config.toml
cp "$LAB/cluster.json" /etc/lvs-controller/
# -debug is for the profiles: docs/status.md asks for it.
sed 's/^ExecStart=.*/& -debug/' "$INSTALL/lvs-controller.service" >/etc/systemd/system/lvs-controller.service
printf 'bgpd=no\nbfdd=no\n' >/etc/frr/daemons
touch /etc/frr/vtysh.conf
echo 'flush ruleset' >/etc/nftables.conf
`

// stopUnits ends what systemctl has started.
func (w *documentedWorld) stopUnits() {
	units, _ := filepath.Glob(filepath.Join(w.dir, "*", "*.unit"))
	for _, unit := range units {
		if text, err := os.ReadFile(unit); err == nil {
			pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			syscall.Kill(-pid, syscall.SIGKILL)
		}
	}
}

// shell runs a script on a host, in the home directory of its root.
func (w *documentedWorld) shell(host, script string) (code int, out string) {
	w.Helper()
	pid, err := os.ReadFile(filepath.Join(w.dir, host+".pid"))
	lab.Must(w.T, err)
	head := fmt.Sprintf("set -eu\nexport LAB=%[1]s HOST=%[2]s HOME=%[1]s/%[2]s/home BINARY=%[3]s INSTALL=%[4]s PATH=%[1]s/bin:/usr/local/sbin:$PATH\ncd $HOME\n",
		w.dir, host, controller(), installed("."))
	cmd := w.hosts[host].Command("nsenter", "--net", "--mount", "--target", string(pid), "sh", "-c", head+script)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		w.Fatalf("%s: %v", host, err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

// run makes a step.
func (w *documentedWorld) run(s documentedStep) {
	w.Helper()
	if code, out := w.shell(s.on, s.before); code != 0 {
		w.Errorf("%s, before %q: exit code %d\n%s", s.on, s.lines, code, out)
	}
	script := strings.NewReplacer(s.with...).Replace(s.lines)
	want := regexp.MustCompile("(?m)" + s.want)
	once := func() string {
		began := time.Now()
		code, out := w.shell(s.on, script)
		if code == s.code && want.MatchString(out) {
			w.Logf("%s, %.1f s: %s\n%s", s.on, time.Since(began).Seconds(), script, out[:min(len(out), 1000)])
			return ""
		}
		return fmt.Sprintf("%s: %s\nexit code %d, want %d and %q:\n%s\n%s", s.on, script, code, s.code, s.want, out, w.logs(s.on))
	}
	if s.cut {
		w.hosts[s.on].CutPort(true)
		defer w.hosts[s.on].CutPort(false)
	}
	limit := time.Duration(0)
	if s.patient {
		limit = 40 * time.Second
	}
	w.eventually(limit, once)
	if s.after != "" {
		w.eventually(20*time.Second, func() string {
			if code, out := w.shell(s.on, s.after); code != 0 {
				return fmt.Sprintf("%s, after %q: exit code %d\n%s\n%s", s.on, s.lines, code, out, w.logs(s.on))
			}
			return ""
		})
	}
}

// eventually is lab.Within, after which the next steps are made all the same.
func (w *documentedWorld) eventually(limit time.Duration, check func() string) {
	w.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		complaint := check()
		if complaint == "" {
			return
		}
		if time.Now().After(deadline) {
			w.Error(complaint)
			return
		}
	}
}

// logs are the last lines of what the units of a host have written.
func (w *documentedWorld) logs(host string) string {
	files, _ := filepath.Glob(filepath.Join(w.dir, host, "*.log"))
	var all strings.Builder
	for _, file := range files {
		text, _ := os.ReadFile(file)
		lines := strings.Split(string(text), "\n")
		fmt.Fprintf(&all, "%s:\n%s\n", filepath.Base(file), strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
	return all.String()
}
