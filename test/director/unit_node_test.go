// The unit of a node under Debian's systemd, with the limits as they are shipped.

package director

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// nodeShows waits until the node has, or lacks ("!"), what words say: an address on lo, or
// DEVICE/SETTING:VALUE.
func nodeShows(t *testing.T, node *lab.Host, when string, log func() string, words ...string) {
	t.Helper()
	lab.Within(t, 15*time.Second, func() string {
		state := node.Run("sh", "-c", "ip -o address show dev lo; cd /proc/sys/net/ipv4/conf && grep . */arp_ignore */arp_announce")
		for _, word := range words {
			if without, no := strings.CutPrefix(word, "!"); strings.Contains(state, without) == no {
				return fmt.Sprintf("%s: want %q, have\n%s\n%s", when, words, state, log())
			}
		}
		return ""
	})
}

// Under the unit's limits the node is prepared, watched, and left prepared. The test itself needs
// no IPVS.
func TestKernelNodeUnit(t *testing.T) {
	r := newRig(t)
	s := startSystemd(r, "realserver")
	vips := func(text string) {
		t.Helper()
		s.run("cat >/etc/lvs-controller/vips.new <<'END'\n" + text + "\nEND\nmv /etc/lvs-controller/vips.new /etc/lvs-controller/vips")
	}
	shows := func(when string, words ...string) {
		t.Helper()
		nodeShows(t, r.director, when, s.written, words...)
	}
	vips("# the VIPs of the edge\n10.0.0.77\n2001:db8::77")
	s.run("systemctl daemon-reload && systemctl enable --now realserver")
	shows("start", " 10.0.0.77/32 ", " 2001:db8::77/128 ", "eth0/arp_ignore:1\n", "eth0/arp_announce:2\n")
	s.limited("0", nodeCaps)
	if text := s.property("StatusText"); text != "this node is prepared for its VIPs" {
		t.Errorf("systemd's status is %s", text)
	}
	if out := s.run("systemctl is-enabled realserver; ls /etc/systemd/system/multi-user.target.wants"); !strings.HasPrefix(out, "enabled\n") || !strings.Contains(out, "realserver.service") {
		t.Errorf("the next boot does not start it:\n%s", out)
	}

	t.Log("step: it repairs, by the kernel's event and by a reload, and guards a device that comes later")
	s.run("ip address del 10.0.0.77/32 dev lo")
	shows("repaired", " 10.0.0.77/32 ")
	s.run("sysctl -qw net.ipv4.conf.eth0.arp_ignore=0 && systemctl reload realserver")
	shows("reloaded", "eth0/arp_ignore:1\n")
	s.run("ip link add eth1 type veth peer name eth1-end && ip link set eth1-end up && ip address add 10.0.1.2/24 dev eth1 && ip link set eth1 up")
	shows("a device later", "eth1/arp_ignore:1\n", "eth1/arp_announce:2\n")

	t.Log("step: it follows the file, and a mistake changes nothing")
	vips("10.0.0.78\n2001:db8::77")
	shows("another VIP", " 10.0.0.78/32 ", "! 10.0.0.77/32")
	vips("10.0.0")
	lab.Within(t, 10*time.Second, func() string {
		if !strings.Contains(s.written(), "the last VIPs stay in force") {
			return "the mistake is not said:\n" + s.written()
		}
		return ""
	})
	shows("a mistake", " 10.0.0.78/32 ", "eth0/arp_ignore:1\n")

	t.Log("step: killed and restarted, it comes back, and the file's mistake still changes nothing")
	began := s.property("MainPID")
	s.run("kill -KILL " + began)
	lab.Within(t, 20*time.Second, func() string {
		if pid, state := s.property("MainPID"), s.property("ActiveState"); pid == began || state != "active" {
			return fmt.Sprintf("killed, the service is %s, with process %s\n%s", state, pid, s.written())
		}
		return ""
	})
	s.run("ip address del 10.0.0.78/32 dev lo && systemctl restart realserver")
	shows("restarted", " 10.0.0.78/32 ", "eth0/arp_ignore:1\n")
	s.limited("0", nodeCaps)
	vips("10.0.0.77")
	shows("corrected", " 10.0.0.77/32 ", "! 10.0.0.78/32", "! 2001:db8::77/128")

	t.Log("step: stopped, the node stays prepared until it is undone")
	s.run("systemctl stop realserver")
	if state := s.property("ActiveState") + " " + s.property("Result"); state != "inactive success" {
		t.Errorf("after stop the service is %s\n%s", state, s.written())
	}
	shows("stopped", " 10.0.0.77/32 ", "eth0/arp_ignore:1\n", "eth1/arp_ignore:1\n")
	s.run("lvs-controller realserver -remove -vips-file /etc/lvs-controller/vips")
	shows("undone", "! 10.0.0.77/32", "eth0/arp_ignore:0\n", "eth0/arp_announce:0\n", "eth1/arp_ignore:0\n")
	if out := s.run("ls -A /run/lvs-realserver"); strings.Contains(out, ".json") {
		t.Errorf("left in /run: %s", out)
	}
	for line := range strings.Lines(s.written()) {
		if forbidden.MatchString(line) || strings.HasPrefix(line, "<3>") && !strings.Contains(line, "/etc/lvs-controller/vips:1: ") {
			t.Errorf("the service says %s", line)
		}
	}
}
