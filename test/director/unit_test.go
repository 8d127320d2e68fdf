// The unit of a director under Debian's systemd, with the limits as they are shipped.

package director

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// systemdScript makes a machine of its own for systemd, which is its first process: no
// other test has its files, its processes or its control groups. What %[2]s does gives it
// its files and runs systemd, with the arguments %[3]s.
const systemdScript = `set -eu
cd %[1]s
mkdir -p cgroup
mount -t cgroup2 none cgroup
mkdir -p cgroup/unit-test
echo 0 >cgroup/unit-test/cgroup.procs
exec unshare --cgroup --mount --uts --pid --fork --kill-child --mount-proc sh -euc '
umount cgroup
%[2]s' %[3]s
`

// unitFiles are the files of the guest, with folders apart where systemd and a unit of
// install/ write: $0 is the controller, $1 install/, $2 the unit.
const unitFiles = `
mkdir -p etc
cp -a /etc/. etc/
mount --bind etc /etc
mount -t sysfs sysfs /sys
mount -t cgroup2 none /sys/fs/cgroup
for d in /run /var/lib /usr/local/sbin; do
	mkdir -p $d
	mount -t tmpfs -o mode=0755 tmpfs $d
done
install -m 0755 "$0" /usr/local/sbin/lvs-controller
echo lvs-controller:x:990:990::/:/bin/false >>/etc/passwd
echo lvs-controller:x:990: >>/etc/group
mkdir -p /etc/lvs-controller "/etc/systemd/system/$2.service.d"
install -m 0644 "$1/$2.service" /etc/systemd/system/
# What would change the whole machine. The first empties /tmp, which may be that of others.
for u in tmpfiles-setup.service tmpfiles-setup-dev.service tmpfiles-clean.timer sysctl.service modules-load.service remount-fs.service; do
	ln -sf /dev/null /etc/systemd/system/systemd-$u
done
touch ready
exec env container=lab /lib/systemd/systemd --system --unit=basic.target --show-status=no
`

// unitConfig has all that a limit of the unit could forbid: addresses of both
// families on the uplink and on a dummy device, marks, exemptions from tracking, sync
// daemons, a tunnel, kernel settings and each kind of probe.
const unitConfig = `cluster_file = "cluster.json"
interface = "eth0"
listen = "127.0.0.1:9652"
audit_interval = "2s"
[timeouts]
tcp = "14m"
[sync]
interface = "eth0"
[[vip]]
name = "edge"
addresses = ["10.0.0.100", "2001:db8::100"]
announce = "arp"
scheduler = "sh"
ports = ["80/tcp", "443/tcp", "53/udp"]
groups = [["80/tcp", "443/tcp"]]
notrack = true
[vip.health]
tcp = 443
ports = true
datapath = true
[vip.health.http]
port = 80
path = "/"
[[vip]]
name = "routed"
addresses = ["10.9.0.100"]
announce = "dummy"
forward = "tunnel"
ports = [80]
real_servers = [{ address = "10.0.0.11" }]
`

// systemd is the director's service manager.
type systemd struct {
	*rig
	unit string // the service that is under test
	pid  string // of its first process, outside its process namespace
	log  string // what the service has written; "": the journal has it
}

// startMachine runs systemd as the first process of the director, with the files that a
// script makes out of its arguments.
func startMachine(r *rig, unit, files string, arguments ...string) *systemd {
	r.Helper()
	dir := r.dir
	process := r.director.Start("unshare", "--mount", "sh", "-c", fmt.Sprintf(systemdScript, dir, files, strings.Join(arguments, " ")))
	s := &systemd{rig: r, unit: unit}
	r.Cleanup(func() {
		process.Kill()
		lab.Within(r.T, 10*time.Second, func() string {
			clean := fmt.Sprintf("mount -t cgroup2 none %[1]s/cgroup && find %[1]s/cgroup/unit-test -depth -type d -exec rmdir {} +", dir)
			if out, err := r.director.Command("unshare", "--mount", "sh", "-c", clean).CombinedOutput(); err != nil {
				return fmt.Sprintf("the control groups stay: %v\n%s", err, out)
			}
			return ""
		})
	})
	lab.Within(r.T, 2*time.Minute, func() string {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err != nil {
			if process.Ended() {
				r.Fatalf("the director is not set up: %s", process.Log())
			}
			return "the director is not set up: " + process.Log()
		}
		out, _ := r.director.Try("pgrep", "-P", fmt.Sprint(process.PID()))
		s.pid = strings.TrimSpace(out)
		if out, err := s.try("systemctl is-system-running"); !strings.Contains(out, "running") && !strings.Contains(out, "degraded") {
			return fmt.Sprintf("systemd does not run: %v\n%s\n%s", err, out, process.Log())
		}
		return ""
	})
	return s
}

// startSystemd runs systemd with a unit of install/, which it does not start.
func startSystemd(r *rig, unit string, drops ...string) *systemd {
	r.Helper()
	s := startMachine(r, unit, unitFiles, controller(), installed("."), unit)
	s.log = filepath.Join(r.dir, "log")
	folder := "/etc/systemd/system/" + unit + ".service.d/"
	// No part of the limits: a file is read more easily than the journal.
	s.run(fmt.Sprintf("printf '[Service]\\nStandardError=append:%s\\n' >%stest.conf", s.log, folder))
	for _, drop := range drops {
		s.run("install -m 0644 " + installed(drop) + " " + folder)
	}
	return s
}

// try runs a script beside systemd.
func (s *systemd) try(script string) (string, error) {
	out, err := s.director.Command("nsenter", "--net", "--mount", "--uts", "--pid", "--root", "--wd", "--target", s.pid, "env", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-euc", script).CombinedOutput()
	return string(out), err
}

func (s *systemd) run(script string) string {
	s.Helper()
	out, err := s.try(script)
	if err != nil {
		s.Fatalf("%s: %v\n%s\n%s", script, err, out, s.written())
	}
	return out
}

// written is the service's log.
func (s *systemd) written() string {
	if s.log == "" {
		out, _ := s.try("journalctl --no-pager --unit " + s.unit)
		return out
	}
	text, _ := os.ReadFile(s.log)
	return string(text)
}

// property is what systemd knows of the service.
func (s *systemd) property(name string) string {
	s.Helper()
	return strings.TrimSpace(s.run("systemctl show --value --property " + name + " " + s.unit))
}

// configure replaces a file of the director in place: its owner and mode stay.
func (s *systemd) configure(text string) {
	s.Helper()
	s.run("cat >/etc/lvs-controller/config.toml <<'END'\n" + text + "END\n")
}

// forbidden is what the kernel says of something that a limit forbids.
var forbidden = regexp.MustCompile(`(?i)operation not permitted|permission denied|read-only file system|function not implemented`)

// Under the unit's limits everything works, as root and as the user of the drop-in.
func TestKernelUnit(t *testing.T) {
	of(t, "kernel")
	for _, tt := range []struct {
		name  string
		drops []string
		uid   string
	}{
		{"root", nil, "0"},
		{"unprivileged", []string{"lvs-controller-unprivileged.conf"}, "990"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			client, node := r.lab.Host("client", 3), r.lab.Host("node", 11)
			vip := netip.MustParseAddrPort("10.0.0.100:80")
			node.Run(controller(), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-uplink", "eth0", "-state", filepath.Join(r.dir, "rs.json"))
			node.Serve(80, 443)
			node.ServeUDP(vip.Addr(), 53)
			nft(r, "add table inet watch\nadd chain inet watch c { type filter hook prerouting priority 0; }\nadd rule inet watch c ct state established counter\n")
			s := startSystemd(r, "lvs-controller", tt.drops...)
			// A watchdog of a minute is long for a test.
			s.run("printf 'WatchdogSec=6\\n' >>/etc/systemd/system/lvs-controller.service.d/test.conf")
			r.objects.pods = []pod{{name: "a", node: "node", ips: []string{"10.0.0.11", "2001:db8::11"}}}
			r.writeCluster()
			s.run("cp " + filepath.Join(r.dir, "cluster.json") + " /etc/lvs-controller/ && touch /etc/lvs-controller/kubeconfig")
			s.configure(unitConfig)
			s.run("chmod 0600 /etc/lvs-controller/config.toml && systemctl daemon-reload")
			for _, drop := range tt.drops {
				s.prepare(drop)
			}
			s.run("systemctl start lvs-controller")
			s.limited(tt.uid, directorCaps)
			s.serves(client, "start")

			t.Log("step: a reload is refused with a mistake, and works without one")
			s.configure(strings.Replace(unitConfig, `"443/tcp", "53/udp"`, `"443/tpc"`, 1))
			if out, err := s.try("systemctl reload lvs-controller"); err == nil {
				t.Errorf("a reload with a mistake succeeds: %s", out)
			}
			if s.property("ActiveState") != "active" {
				t.Errorf("after a refused reload the service is %s", s.property("ActiveState"))
			}
			s.configure(strings.Replace(unitConfig, `"53/udp"]`, `"53/udp", "8080/tcp"]`, 1))
			s.run("systemctl reload lvs-controller")
			lab.Within(t, 15*time.Second, func() string {
				if table := r.director.Table(); !strings.Contains(table, "10.0.0.100:8080") {
					return "the reload brings no port 8080:\n" + table + s.written()
				}
				return ""
			})

			t.Log("step: root talks to the controller; a drain takes the addresses away, and its end brings them back")
			if out := s.run("lvs-controller status"); !strings.Contains(out, "edge") || !strings.Contains(out, "10.0.0.11") {
				t.Errorf("status: %s", out)
			}
			s.run("lvs-controller drain && ! ip address show | grep -w -e 10.0.0.100 -e 10.9.0.100 && lvs-controller drain -undo")
			s.serves(client, "drained and undone")

			t.Log("step: killed, hung, restarted: it comes back, and a connection goes on")
			stream := client.OpenStream(vip)
			defer stream.Close()
			for _, command := range []string{"kill -KILL", "kill -STOP"} {
				began := s.property("MainPID")
				s.run(command + " " + began)
				lab.Within(t, 40*time.Second, func() string {
					if pid, state := s.property("MainPID"), s.property("ActiveState"); pid == began || state != "active" {
						return fmt.Sprintf("after %s %s the service is %s, with process %s\n%s", command, began, state, pid, s.written())
					}
					return ""
				})
			}
			s.run("systemctl restart lvs-controller")
			s.limited(tt.uid, directorCaps)
			s.serves(client, "restarted")
			s.run("mv /etc/lvs-controller/config.toml /etc/lvs-controller/aside && systemctl restart lvs-controller")
			s.serves(client, "restarted without a file")
			s.run("lvs-controller drain 2>&1 && lvs-controller drain -undo 2>&1")
			s.run("mv /etc/lvs-controller/aside /etc/lvs-controller/config.toml && systemctl restart lvs-controller")
			s.serves(client, "restarted")
			_, before, _ := stream.State()
			lab.Within(t, 10*time.Second, func() string {
				if _, lines, err := stream.State(); err != nil || lines <= before {
					return fmt.Sprintf("the open connection has %d lines after %d: %v", lines, before, err)
				}
				return ""
			})

			t.Log("step: the journal knows which lines are warnings")
			s.journal()

			t.Log("step: stopped, the kernel goes on")
			s.run("systemctl stop lvs-controller")
			if state := s.property("ActiveState") + " " + s.property("Result"); state != "inactive success" {
				t.Errorf("after stop the service is %s\n%s", state, s.written())
			}
			if got := client.Curl(2, "http://10.0.0.100/"); got["node"] != 2 {
				t.Errorf("stopped: answers %v", got)
			}
			for _, line := range strings.Split(s.written(), "\n") {
				if forbidden.MatchString(line) || strings.HasPrefix(line, "<3>") && !strings.Contains(line, "config.toml") {
					t.Errorf("the controller says %s", line)
				}
			}
			s.run("lvs-controller -cleanup")
			if table := r.director.Table(); table != "" {
				t.Errorf("after -cleanup:\n%s", table)
			}
		})
	}
}

// journalLine is the command of docs/operations.md.
const journalLine = `journalctl -p warning -u lvs-controller`

// journal has the service write to the journal for a while, and a mistake in its
// configuration: of what it writes, journalctl shows the lines from warnings on.
func (s *systemd) journal() {
	s.Helper()
	const drop = "/etc/systemd/system/lvs-controller.service.d/zjournal.conf"
	s.run("printf '[Service]\\nStandardError=journal\\n' >" + drop + " && systemctl daemon-reload && systemctl start systemd-journald && systemctl restart lvs-controller")
	s.configure("bogus = 1\n" + unitConfig)
	lab.Within(s.T, 20*time.Second, func() string {
		all, err := s.try("journalctl -u lvs-controller")
		if err != nil || !strings.Contains(all, "bogus") || !strings.Contains(all, "msg=starting ") {
			return fmt.Sprintf("the journal: %v\n%s", err, all)
		}
		if out, err := s.try(journalLine); err != nil || !strings.Contains(out, "bogus") || strings.Contains(out, "msg=starting ") {
			return fmt.Sprintf("%s: %v\n%s\nof\n%s", journalLine, err, out, all)
		}
		return ""
	})
	s.configure(unitConfig)
	s.run("rm " + drop + " && systemctl daemon-reload && systemctl restart lvs-controller")
}

// prepare gives the user of the drop-in its files, by the commands in the drop-in's head.
func (s *systemd) prepare(drop string) {
	s.Helper()
	text, err := os.ReadFile(installed(drop))
	lab.Must(s.T, err)
	lines := regexp.MustCompile(`(?m)^#   (ch(?:grp|mod) .*)$`).FindAllStringSubmatch(string(text), -1)
	if len(lines) != 2 {
		s.Fatalf("%s has %d commands for its files, want 2", drop, len(lines))
	}
	for _, line := range lines {
		s.run(line[1])
	}
}

// What the units leave of root's capabilities, include/uapi/linux/capability.h.
const (
	directorCaps = "0000000000003000" // CAP_NET_ADMIN and CAP_NET_RAW
	nodeCaps     = "0000000000001000" // CAP_NET_ADMIN
	noCaps       = "0000000000000000"
)

// limited compares what the running service may do with what the unit says.
func (s *systemd) limited(uid, caps string) {
	s.Helper()
	status := s.run("cat /proc/" + s.property("MainPID") + "/status")
	for name, want := range map[string]string{
		"Uid":        strings.Repeat(uid+"\t", 3) + uid,
		"CapEff":     caps,
		"CapBnd":     caps,
		"NoNewPrivs": "1",
		"Seccomp":    "2", // a filter
	} {
		if !strings.Contains(status, "\n"+name+":\t"+want+"\n") {
			s.Errorf("%s: %s is not %s:\n%s", s.unit, name, want, status)
		}
	}
}

// serves waits until all that unitConfig asks for is there.
func (s *systemd) serves(client *lab.Host, when string) {
	s.Helper()
	lab.Within(s.T, 30*time.Second, func() string {
		var missing []string
		for url, n := range map[string]int{"http://10.0.0.100/": 1, "http://[2001:db8::100]/": 1, "http://10.0.0.100:443/": 1} {
			if got := client.Curl(n, url); got["node"] != n {
				missing = append(missing, fmt.Sprintf("%s answers %v", url, got))
			}
		}
		if got := client.AskUDP(1, netip.MustParseAddr("10.0.0.100"), 53); got["node"] != 1 {
			missing = append(missing, fmt.Sprintf("UDP answers %v", got))
		}
		state := s.run("ip address show; ipvsadm -Sn; ipvsadm -L --timeout; ipvsadm -L --daemon; nft list ruleset; " +
			"sysctl net.ipv4.vs.expire_nodest_conn net.ipv4.vs.sync_retries net.ipv4.conf.all.send_redirects net.ipv4.vs.drop_entry")
		for _, want := range []string{
			"inet 10.0.0.100/32 scope", "inet6 2001:db8::100/128 scope", "inet 10.9.0.100/32 scope",
			"-A -f 4681 -s sh", // the mark of the group
			"-a -t 10.9.0.100:80 -r 10.0.0.11:80 -i -w 1", "840 120", "master sync daemon", "backup sync daemon",
			"lvs-controller-notrack", "expire_nodest_conn = 1", "sync_retries = 1", "all.send_redirects = 0", "drop_entry = 1",
		} {
			if !strings.Contains(state, want) {
				missing = append(missing, "no "+want)
			}
		}
		if text := s.property("StatusText"); !strings.HasPrefix(text, "ready") {
			missing = append(missing, "systemd's status is "+text)
		}
		if len(missing) == 0 {
			return ""
		}
		return fmt.Sprintf("%s: %s\n%s\n%s", when, strings.Join(missing, "; "), state, s.written())
	})
}
