// Two hosts that claim one VIP: what the controller says, in the log, in `status` and in
// /metrics, and what it must not take for a conflict.

package director

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// conflictDirector is one of several directors of a rig, each with its files.
func (r *rig) conflictDirector(name string, n int, servers string) *rig {
	r.Helper()
	d := &rig{T: r.T, lab: r.lab, director: r.lab.Host(name, n), dir: r.TempDir()}
	d.conflictConfig("arp", servers)
	return d
}

// conflictConfig is a VIP of both families over static real servers.
func (r *rig) conflictConfig(announce, servers string) {
	r.Helper()
	r.write("config.toml", r.configHead()+"[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\nports = [80]\nannounce = \""+announce+"\"\nreal_servers = ["+servers+"]\n")
}

// mac is the MAC address of a host's eth0.
func mac(h *lab.Host) string { return strings.TrimSpace(h.Run("cat", "/sys/class/net/eth0/address")) }

// conflict waits for the log line of a conflict, which is said once.
func (r *rig) conflict(address, mac, more string) {
	r.Helper()
	want := fmt.Sprintf(`level=ERROR msg="another host claims the VIP" vip=edge address=%s device=eth0 mac=%s%s`, address, mac, more)
	lab.Within(r.T, time.Minute, func() string {
		if n := r.process.CountLog(want); n != 1 {
			return fmt.Sprintf("%d lines of %s's log contain %s, want 1:\n%s", n, r.director.Name, want, r.process.Log())
		}
		return ""
	})
}

// metric waits for a line of /metrics, or its absence.
func (r *rig) metric(line string, there bool) {
	r.Helper()
	lab.Within(r.T, 10*time.Second, func() string {
		text, err := r.director.Try("curl", "-s", "http://127.0.0.1:9652/metrics")
		if err != nil {
			return err.Error()
		}
		if strings.Contains(text, "\n"+line+"\n") == there {
			return ""
		}
		return fmt.Sprintf("%s: /metrics has the line %q: %t, want %t", r.director.Name, line, !there, there)
	})
}

// Two directors with one VIP on one segment, each its own holder: both notice,
// in the log, in `status` and in /metrics; the one that gives way ends it. A node
// that answers ARP for the VIP is named.
func TestKernelSplitBrain(t *testing.T) {
	of(t, "kernel")
	t.TempDir() // first, as in newRig
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	base := &rig{T: t, lab: l}
	const servers = `{address = "10.0.0.11"}, {address = "2001:db8::11"}`
	node := l.Host("node", 11)
	a, b := base.conflictDirector("a", 2, servers), base.conflictDirector("b", 3, servers)
	macA, macB := mac(a.director), mac(b.director)

	t.Log("step: one director")
	a.start()
	a.metric(`lvs_vip_conflicts_total{vip="edge",address="10.0.0.100"} 0`, true)
	a.logged(2, "VIP address added")

	t.Log("step: a node that answers ARP for the VIP")
	node.Run("ip", "address", "add", "10.0.0.100/32", "dev", "lo")
	a.conflict("10.0.0.100", mac(node), ` host=10.0.0.11 why="a real server that answers ARP for the VIP: its arp_ignore is not set`)
	node.Run("sysctl", "-qw", "net.ipv4.conf.eth0.arp_ignore=1")

	t.Log("step: a second director")
	b.start()
	for _, address := range []string{"10.0.0.100", "2001:db8::100"} {
		a.conflict(address, macB, "")
		b.conflict(address, macA, "")
	}
	a.metric(`lvs_vip_conflict{vip="edge",address="2001:db8::100",device="eth0",mac="`+macB+`"} 1`, true)
	a.metric(`lvs_vip_conflicts_total{vip="edge",address="2001:db8::100"} 1`, true)
	// Long lines are wrapped.
	status := strings.Join(strings.Fields(a.director.Run(controller(), "status", "-config", filepath.Join(a.dir, "config.toml"))), " ")
	for _, address := range []string{"10.0.0.100", "2001:db8::100"} {
		if want := " claims " + address + " on eth0 since "; !strings.Contains(status, "CONFLICT: vip edge: "+macB) || !strings.Contains(status, want) {
			t.Errorf("status does not say that %s%s:\n%s", macB, want, status)
		}
	}

	t.Log("step: the node keeps quiet, the second director gives way")
	b.conflictConfig("none", servers)
	const over = `msg="the other host does not claim the VIP any more" vip=edge address=`
	b.logged(2, "VIP address removed")
	b.logged(2, over)
	lab.Within(t, 2*time.Minute, func() string {
		if n := a.process.CountLog(over); n != 3 {
			return fmt.Sprintf("%d conflicts are over at a, want 3:\n%s", n, a.process.Log())
		}
		return ""
	})
	a.metric(`lvs_vip_conflict{vip="edge",address="10.0.0.100",device="eth0",mac="`+macB+`"} 1`, false)
	a.metric(`lvs_vip_conflicts_total{vip="edge",address="10.0.0.100"} 2`, true)
	if n := a.process.CountLog("another host claims the VIP"); n != 3 {
		t.Errorf("%d conflicts at a, want 3:\n%s", n, a.process.Log())
	}
}

// conflictGrace is how far apart the claims of a host are at the least that the
// controller complains about (README).
const conflictGrace = 2 * time.Second

// A pair under keepalived, by hand: the VIP goes there and back, each time with
// both directors having it for a moment. Nobody complains.
func TestKernelHandOverIsNoSplitBrain(t *testing.T) {
	of(t, "kernel")
	t.TempDir() // first, as in newRig
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	base := &rig{T: t, lab: l}
	l.Host("node", 11)
	const servers = `{address = "10.0.0.11"}, {address = "2001:db8::11"}`
	a, b := base.conflictDirector("a", 2, servers), base.conflictDirector("b", 3, servers)
	pair := []*rig{a, b}
	for _, d := range pair {
		d.conflictConfig("none", servers)
		d.start()
		d.metric(`lvs_vip_conflicts_total{vip="edge",address="10.0.0.100"} 0`, true)
	}
	take := func(d *rig) {
		d.director.Run("ip", "address", "add", "10.0.0.100/32", "dev", "eth0")
		d.director.Run("ip", "address", "add", "2001:db8::100/128", "dev", "eth0", "nodad")
		d.director.Announce(netip.MustParseAddr("10.0.0.100"))
		d.director.Announce(netip.MustParseAddr("2001:db8::100"))
	}
	give := func(d *rig) {
		d.director.Run("ip", "address", "del", "10.0.0.100/32", "dev", "eth0")
		d.director.Run("ip", "address", "del", "2001:db8::100/128", "dev", "eth0")
	}
	take(a)
	for range 3 {
		take(b)
		give(a)
		time.Sleep(2 * conflictGrace) // the look of the new holder
		take(a)
		give(b)
		time.Sleep(2 * conflictGrace)
	}
	for _, d := range pair {
		if n := d.process.CountLog("another host claims the VIP"); n != 0 {
			t.Errorf("%s complains:\n%s", d.director.Name, d.process.Log())
		}
		if n := d.process.CountLog("not watched"); n != 0 {
			t.Errorf("%s does not watch:\n%s", d.director.Name, d.process.Log())
		}
	}
}
