// The scripts of install/ under the tools that run them: openrc-run and supervise-daemon,
// insserv and update-rc.d, logrotate.

package director

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// initTree is where test/init/setup unpacks the tools.
const initTree = "../../.cache/init/tree"

// initMachine makes a machine out of this one's files and those of the tools, and runs a
// script in it: no change leaves it, and it has its own processes and network.
const initMachine = `set -eu
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir work root
cp -a "$2" up
mount -t overlay overlay -o lowerdir=/,upperdir=up,workdir=work root
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount -t tmpfs -o mode=0755 tmpfs root/run
mount -t tmpfs -o mode=0755 tmpfs root/var/log
mount --rbind /dev root/dev
mkdir -p root/etc/lvs-controller root/etc/conf.d root/etc/default root/usr/local/sbin
rm -rf root/var/lib/lvs-controller
install -m 0755 "$3" root/usr/local/sbin/lvs-controller
install -m 0755 "$4/lvs-controller.openrc" "$4/lvs-controller.sysv" root/etc/init.d/
install -m 0644 "$4/lvs-controller.logrotate" root/etc/logrotate.d/lvs-controller
cat >root/etc/lvs-controller/good.toml <<'END'
listen = ""
manage_sysctls = false
[[vip]]
name = "edge"
addresses = ["192.0.2.1"]
ports = [80]
real_servers = [{ address = "192.0.2.11" }]
END
{ echo "bogus = 1"; cat root/etc/lvs-controller/good.toml; } >root/etc/lvs-controller/bad.toml
exec chroot root env -i PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin sh -c "$5"
`

// initSteps begins each script: step runs a command and prints its exit code, config
// chooses the configuration.
const initSteps = `
ip link set lo up
cd /etc/lvs-controller
config() { cp "$1.toml" config.toml; }
step() { echo "step: $*"; code=0; "$@" 2>&1 || code=$?; echo "exit: $code"; }
controller() { pgrep -x -r DRS lvs-controller | head -n 1; }
gone() { [ -z "$(controller)" ]; }
# again waits until the controller is another process than $1.
again() { for i in $(seq 100); do p=$(controller); [ -z "$p" ] || [ "$p" = "$1" ] || return 0; sleep 0.1; done; return 1; }
# logged waits for a line of the log.
logged() { for i in $(seq 100); do ! grep -q "$1" /var/log/lvs-controller.log || return 0; sleep 0.1; done; return 1; }
`

// runInit runs a script on such a machine and returns its output.
func runInit(t *testing.T, script string) string {
	t.Helper()
	of(t, "host")
	requireRoot(t)
	t.Parallel()
	tree, err := filepath.Abs(initTree)
	lab.Must(t, err)
	if _, err := os.Stat(tree); err != nil {
		if os.Getenv("LVS_REQUIRE_ALL") == "1" {
			t.Fatalf("test/init/setup has not run: %v (LVS_REQUIRE_ALL=1)", err)
		}
		t.Skipf("test/init/setup has not run: %v", err)
	}
	cmd := exec.Command("timeout", "--signal=KILL", "60", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "sh", "-c", initMachine,
		"sh", t.TempDir(), tree, controller(), installed("."), initSteps+script)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// initResults compares, for each step, the exit code and what its output has to contain.
func initResults(t *testing.T, out string, want ...[2]string) {
	t.Helper()
	steps := regexp.MustCompile(`(?ms)^step: (.*?)^exit: (\d+)$`).FindAllStringSubmatch(out, -1)
	if len(steps) != len(want) {
		t.Fatalf("%d steps, want %d:\n%s", len(steps), len(want), out)
	}
	for i, m := range steps {
		if m[2] != want[i][0] || !strings.Contains(m[1], want[i][1]) {
			t.Errorf("step %d: exit %s, want %s with %q:\n%s", i, m[2], want[i][0], want[i][1], m[1])
		}
	}
}

const initMistake = "config.toml:1: bogus: unknown key"

// OpenRC: a start with a mistake and without a last good configuration fails, one with it
// works; one with a mistake in args fails in any case, because the controller would too; what ends is started again; reload and restart refuse a mistake.
func TestOpenRCTools(t *testing.T) {
	out := runInit(t, `
for d in daemons exclusive failed hotplugged inactive options scheduled started starting stopping wasinactive coldplugged tmp; do mkdir -p /run/openrc/$d; done
touch /run/openrc/softlevel
echo 'rc_need="!net"' >/etc/conf.d/lvs-controller.openrc
s=lvs-controller.openrc
config bad
step rc-service $s start
step gone
config good
step rc-update add $s default
step rc-service $s start
logged msg=starting
step rc-service $s status
sleep 1 # the first reading of the file, of which there is a copy then
before=$(controller)
kill -KILL "$before"
step again "$before"
step rc-service $s status
sleep 1
step rc-service $s reload
step logged 'the configuration is reloaded'
config bad
step rc-service $s reload
before=$(controller)
step rc-service $s restart
step test "$before" = "$(controller)"
step rc-service $s stop
step gone
for args in "-debug -log-lvel info" "-schedname zz"; do
	echo "args='$args'" >>/etc/conf.d/$s
	step rc-service $s start
	config good
	step rc-service $s start
	step gone
	config bad
done
echo args=-debug >>/etc/conf.d/$s
step rc-service $s start
step logged 'starting with the last good one'
step rc-service $s stop
sed -i '1s/config.toml/other.toml/' /var/lib/lvs-controller/config.last-good.toml
step rc-service $s start
step gone
`)
	const ok = "0"
	initResults(t, out, [2]string{"1", initMistake}, [2]string{ok, ""},
		[2]string{ok, "added to runlevel default"}, [2]string{ok, "Starting"}, [2]string{ok, "started"},
		[2]string{ok, ""}, [2]string{ok, "started"}, [2]string{ok, "Reloading"}, [2]string{ok, ""},
		[2]string{"1", initMistake}, [2]string{"1", initMistake}, [2]string{ok, ""},
		[2]string{ok, "Stopping"}, [2]string{ok, ""},
		[2]string{"1", "no last good"}, [2]string{"1", "unknown flag -log-lvel"}, [2]string{ok, ""}, [2]string{"1", "no last good"}, [2]string{"1", "no last good"}, [2]string{ok, ""},
		[2]string{ok, "the last good configuration is used"}, [2]string{ok, ""}, [2]string{ok, "Stopping"},
		[2]string{"1", "no last good"}, [2]string{ok, ""})
	if strings.Contains(out, "Starting lvs-controller.openrc ...\nbogus") {
		t.Error(out)
	}
}

// SysV: insserv takes the script's header, update-rc.d enables it, and the start of a run level
// starts it; one that is killed is started again; the end of the run level stops it for good.
// logrotate truncates the log, and the controller goes on writing to it.
func TestSysVTools(t *testing.T) {
	out := runInit(t, `
mv /etc/init.d/lvs-controller.sysv /etc/init.d/lvs-controller
find /etc/init.d -type f ! -name lvs-controller -delete # some need services of packages that are not here
rm -f /usr/sbin/openrc* /usr/sbin/rc-update # update-rc.d would ask them
step insserv --dryrun lvs-controller
step update-rc.d lvs-controller defaults
script=$(echo /etc/rc2.d/S*lvs-controller)
config bad
step "$script" start
step gone
config good
step /usr/lib/init/rc 2
step "$script" status
logged msg=starting
sleep 1
before=$(controller)
kill -KILL "$before"
step again "$before"
step "$script" status
sleep 1
config bad
step "$script" restart
step "$script" reload
config good
sleep 1
step "$script" reload
step logged 'the configuration is reloaded'
step logrotate --force /etc/logrotate.d/lvs-controller
step ls /var/log/lvs-controller.log.1
step test "$(stat -c %s /var/log/lvs-controller.log)" -lt "$(stat -c %s /var/log/lvs-controller.log.1)"
kill -USR1 "$(controller)"
step logged SIGUSR1
step sh -c 'tr -d "\0" </var/log/lvs-controller.log | cmp - /var/log/lvs-controller.log'
export PREVLEVEL=2
step /usr/lib/init/rc 0
step gone
step pgrep -f '^sh /etc/rc'
`)
	const ok = "0"
	initResults(t, out, [2]string{ok, ""}, [2]string{ok, ""}, [2]string{"1", initMistake}, [2]string{ok, ""}, [2]string{ok, "lvs-controller started"}, [2]string{ok, "is running"},
		[2]string{ok, ""}, [2]string{ok, "is running"}, [2]string{"6", initMistake}, [2]string{"6", initMistake}, [2]string{ok, "reads its configuration again"}, [2]string{ok, ""},
		[2]string{ok, ""}, [2]string{ok, ""}, [2]string{ok, ""}, [2]string{ok, ""}, [2]string{ok, ""}, [2]string{ok, "goes on forwarding"}, [2]string{ok, ""}, [2]string{"1", ""})
	if strings.Count(out, "lvs-controller started") != 1 {
		t.Errorf("want one start:\n%s", out)
	}
}
