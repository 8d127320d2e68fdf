// The sync daemons of IPVS: which run, and what a second director knows by them.

package director

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/lab"
)

// syncConfig is a VIP with one static real server, below what stands in more.
func (r *rig) syncConfig(more string) {
	r.Helper()
	r.write("config.toml", r.configHead()+more+"\n[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nports = [80]\nreal_servers = [{address = \"10.0.0.11\"}]\n")
}

// daemons waits for exactly these lines of `ipvsadm -l --daemon`.
func (r *rig) daemons(lines ...string) {
	r.Helper()
	lab.Within(r.T, 10*time.Second, func() string {
		if diff := cmp.Diff(daemonText(lines), r.director.Run("ipvsadm", "-l", "--daemon")); diff != "" {
			return fmt.Sprintf("ipvsadm -l --daemon (-want +got):\n%s\nlog:\n%s", diff, r.process.Log())
		}
		return ""
	})
}

func daemonText(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// The exact sync daemons after each thing that can happen.
func TestKernelSyncDaemons(t *testing.T) {
	r := newRig(t)
	const (
		row     = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1"
		foreign = "backup sync daemon (mcast=eth0, syncid=9, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)"
	)
	both := func(what string) []string {
		return []string{"master sync daemon (mcast=" + what + ")", "backup sync daemon (mcast=" + what + ")"}
	}
	one := both("eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1")
	seven := both("eth0, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, ttl=1")
	all := both("eth0, syncid=7, maxlen=1400, group=239.1.2.3, port=9000, ttl=3")
	six := both("eth0, syncid=7, maxlen=1452, group=ff02::81, port=9000, ttl=3")
	stop := func() {
		t.Helper()
		r.process.Kill()
	}
	// unchanged waits for two audits.
	unchanged := func(lines ...string) {
		t.Helper()
		time.Sleep(4500 * time.Millisecond)
		if diff := cmp.Diff(daemonText(lines), r.director.Run("ipvsadm", "-l", "--daemon")); diff != "" {
			t.Fatalf("touched (-want +got):\n%s\nlog:\n%s", diff, r.process.Log())
		}
	}

	t.Log("step: another program's daemon, no [sync]")
	r.director.Run("ipvsadm", "--start-daemon", "backup", "--mcast-interface", "eth0", "--syncid", "9")
	r.syncConfig("")
	r.start()
	r.table(row)
	unchanged(foreign)

	t.Log("step: [sync]")
	r.syncConfig("[sync]\ninterface = \"eth0\"")
	r.daemons(one...)
	r.logged(1, `msg="sync daemon started" role=master interface=eth0 syncid=1 group=224.0.0.81 why=configuration`)
	r.logged(1, `msg="sync daemon restarted" role=backup interface=eth0 change="syncid 9 → 1" why=configuration`)
	for key, want := range map[string]string{"sync_threshold": "0\t0\n", "sync_refresh_period": "10\n", "sync_retries": "1\n"} {
		if got := r.director.Run("cat", "/proc/sys/net/ipv4/vs/"+key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}

	t.Log("step: another syncid")
	r.syncConfig("[sync]\ninterface = \"eth0\"\nsyncid = 7")
	r.daemons(seven...)
	r.logged(2, `change="syncid 1 → 7" why=configuration`)

	t.Log("step: stopped by hand")
	r.director.Run("ipvsadm", "--stop-daemon", "master")
	r.daemons(seven...)
	r.logged(1, `msg="sync daemon started" role=master interface=eth0 syncid=7 group=224.0.0.81 why="repaired, another program changed it"`)

	t.Log("step: adopted by a new process")
	stop()
	r.start()
	r.table(row)
	unchanged(seven...)
	r.logged(0, "sync daemon")

	t.Log("step: every key")
	r.syncConfig("[sync]\ninterface = \"eth0\"\nsyncid = 7\ngroup = \"239.1.2.3\"\nport = 9000\nttl = 3\nmaxlen = 1400")
	r.daemons(all...)
	t.Log("step: an IPv6 group, the kernel's maxlen again")
	r.syncConfig("[sync]\ninterface = \"eth0\"\nsyncid = 7\ngroup = \"ff02::81\"\nport = 9000\nttl = 3")
	r.daemons(six...)
	unchanged(six...)
	r.logged(4, "sync daemon restarted")

	t.Log("step: a device that is not there yet")
	r.syncConfig("[sync]\ninterface = \"eth9\"")
	r.logged(2, "there is no device eth9; this is tried again")
	unchanged(six...)
	r.director.Run("ipvsadm", "-D", "-t", "10.0.0.100:80")
	r.table(row)
	r.logged(2, "the sync daemon does not run as configured")
	r.director.Run("ip", "link", "add", "eth9", "type", "dummy")
	r.director.Run("ip", "link", "set", "eth9", "up")
	r.director.Run("ip", "address", "add", "10.9.0.1/24", "dev", "eth9")
	nine := both("eth9, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1")
	r.daemons(nine...)
	t.Log("step: and made anew, which ipvsadm does not show")
	lab.Must(t, r.process.Send(syscall.SIGSTOP)) // or an audit may be faster than the next lines
	r.director.Run("ip", "link", "delete", "eth9")
	r.daemons(nine...)
	r.director.Run("ip", "link", "add", "eth9", "type", "dummy")
	r.director.Run("ip", "link", "set", "eth9", "up")
	r.director.Run("ip", "address", "add", "10.9.0.1/24", "dev", "eth9")
	if got := r.director.Run("ip", "maddress", "show", "dev", "eth9"); strings.Contains(got, "224.0.0.81") {
		t.Errorf("the backup daemon is at the new device by itself:\n%s", got)
	}
	lab.Must(t, r.process.Send(syscall.SIGCONT))
	r.logged(2, `why="its device was made again"`)
	r.daemons(nine...)
	lab.Within(t, 5*time.Second, func() string {
		if got := r.director.Run("ip", "maddress", "show", "dev", "eth9"); !strings.Contains(got, "224.0.0.81") {
			return "the backup daemon is not at the new device:\n" + got
		}
		return ""
	})

	t.Log("step: [sync] removed while the process was down")
	stop()
	r.syncConfig("")
	r.start()
	r.daemons()
	r.logged(2, "sync daemon stopped")

	t.Log("step: another program's again, then -cleanup of ours")
	r.director.Run("ipvsadm", "--start-daemon", "backup", "--mcast-interface", "eth0", "--syncid", "9")
	unchanged(foreign)
	r.syncConfig("[sync]\ninterface = \"eth0\"")
	r.daemons(one...)
	stop()
	r.director.Run("ipvsadm", "--stop-daemon", "backup")
	r.director.Run("ipvsadm", "--start-daemon", "backup", "--mcast-interface", "eth0", "--syncid", "9")
	r.director.Run(controller(), "-config", filepath.Join(r.dir, "config.toml"), "-cleanup")
	r.daemons(foreign)
	r.table()
}

// Connections that one director balances are at the other one, and go on there
// when the first is cut off: busy ones, and those of clients that have sent
// nothing yet.
func TestKernelSyncFailover(t *testing.T) {
	const idle, busy = 20, 5
	vip := netip.MustParseAddrPort("10.0.0.100:80")
	one := newRig(t)
	two := &rig{T: t, lab: one.lab, director: one.lab.Host("director2", 4), dir: t.TempDir()}
	client := one.lab.Host("client", 3)
	node := one.lab.Host("node", 11)
	node.Serve(80)
	node.Run(controller(), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(one.dir, "rs.json"))
	for _, r := range []*rig{one, two} {
		r.syncConfig("[sync]\ninterface = \"eth0\"")
		r.start()
		r.table("-A -t 10.0.0.100:80 -s rr", "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1")
		r.daemons("master sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)",
			"backup sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)")
	}
	one.director.Run("ip", "address", "add", "10.0.0.100/32", "dev", "eth0")

	var streams []*lab.Stream
	for range busy {
		s := client.OpenStream(vip)
		defer s.Close()
		streams = append(streams, s)
	}
	var waiting []net.Conn
	for range idle {
		var conn net.Conn
		var err error
		client.Do(func() { conn, err = net.DialTimeout("tcp", vip.String(), 5*time.Second) })
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		waiting = append(waiting, conn)
	}
	lab.Within(t, 15*time.Second, func() string {
		table := two.director.Run("ipvsadm", "-Lnc")
		if n := strings.Count(table, "ESTABLISHED"); n != idle+busy || strings.Count(table, "10.0.0.100:80") != n {
			return fmt.Sprintf("%d connections at the other director, want %d:\n%s\n%s", n, idle+busy, table, one.process.Log())
		}
		return ""
	})
	lines := func(s *lab.Stream) int {
		_, n, err := s.State()
		if err != nil {
			t.Errorf("a stream ended: %v", err)
		}
		return n
	}
	before := make([]int, busy)

	one.director.CutLink(true)
	two.director.Run("ip", "address", "add", "10.0.0.100/32", "dev", "eth0")
	two.director.Run("arping", "-q", "-U", "-c", "1", "-I", "eth0", "10.0.0.100")
	for i, s := range streams {
		before[i] = lines(s)
	}
	for _, conn := range waiting {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		if answer, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(answer), "\nnode\n") {
			t.Errorf("a connection that waited is lost: %q, %v", answer, err)
		}
	}
	lab.Within(t, 15*time.Second, func() string {
		for i, s := range streams {
			if n := lines(s); n < before[i]+10 {
				return fmt.Sprintf("stream %d has %d lines, %d before the failover", i, n, before[i])
			}
		}
		return ""
	})
	if got := client.Curl(5, "http://10.0.0.100/"); got["node"] != 5 {
		t.Errorf("new connections: %v", got)
	}
	for _, r := range []*rig{one, two} {
		if log := r.process.Log(); strings.Contains(log, "level=ERROR") {
			t.Errorf("log of %s:\n%s", r.director.Name, log)
		}
	}
}
