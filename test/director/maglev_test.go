// The scheduler mh: which clients move to another node when one drains or comes.

package director

import (
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Clients that TestKernelMaglevDrain tells apart, by their ports.
const (
	firstMaglevClient = 20000
	maglevClients     = 300
)

// With scheduler mh a drain moves the clients of the real server that leaves,
// and the others' once at the most: the kernel keeps the places of a quiesced
// real server in its lookup table (last_weight, in __ip_vs_update_dest and
// ip_vs_mh_permutate), so that only its removal makes another table. Each address
// of the VIP has a table of its own, all the same: one is asked at each stage,
// since a client's next connection to the same address may be taken for its last.
func TestKernelMaglevDrain(t *testing.T) {
	r := newTrafficRig(t)
	for i := range 2 {
		n := r.addNode(fmt.Sprintf("node%d", 3+i), 13+i)
		r.nodes = append(r.nodes, n)
		r.pods = append(r.pods, trafficPod{node: n})
	}
	addresses := []string{edgeVIP, "10.0.0.101", "10.0.0.102", "10.0.0.103"}
	for _, n := range r.nodes {
		n.Serve(80)
		for _, a := range addresses[1:] {
			n.Run("ip", "address", "add", a+"/32", "dev", "lo")
		}
	}
	r.cluster()
	r.write("config.toml", r.configHead()+"[[vip]]\nname = \"edge\"\naddresses = [\""+strings.Join(addresses, "\", \"")+"\"]\nannounce = \"arp\"\n"+
		"ports = [80]\nscheduler = \"mh\"\nflags = [\"mh-port\", \"mh-fallback\"]\n[vip.drain]\ntimeout = \"1h\"\n[timeouts]\ntcp_fin = \"1s\"\n")
	r.start()
	shows := func(last string) {
		t.Helper()
		var lines []string
		for _, a := range addresses {
			lines = append(lines, fmt.Sprintf("-A -t %s:80 -s mh -b mh-fallback,mh-port", a))
			for node := range 3 {
				lines = append(lines, fmt.Sprintf("-t %s:80 -r 10.0.0.1%d:80 -g -w 1", a, node+1))
			}
			if last != "" {
				lines = append(lines, fmt.Sprintf("-t %s:80 -r 10.0.0.14:80 -g -w %s", a, last))
			}
		}
		r.shows(lines...)
	}
	shows("1")

	before := r.maglev(addresses[0], -1)
	sent := r.changes()
	var held []net.Conn
	busy := -1 // the client that holds them
	for n := range maglevClients {
		if before[n] == "node4" {
			for _, a := range addresses {
				conn, err := r.dialFrom(firstMaglevClient+n, a)
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, conn)
			}
			busy = n
			break
		}
	}
	if busy < 0 {
		t.Fatalf("node4 has no client: %v", before)
	}
	delete(before, busy)
	r.pods[3].notReady = true
	r.cluster()
	shows("0")
	quiesced := r.maglev(addresses[1], busy)
	r.changed(&sent, "server_edited", len(addresses))
	own, moved, refused := compareMaglev(before, quiesced)
	others := len(before) - own
	t.Logf("quiesced: %d clients of node4 move, of the other %d clients %d", own, others, moved)
	if moved > 0 || refused > 0 || slices.Contains(slices.Collect(maps.Values(quiesced)), "node4") {
		t.Errorf("while node4 is quiesced %d clients of others have moved and %d are refused, want 0", moved, refused)
	}

	for _, conn := range held {
		conn.Close()
	}
	shows("")
	removed := r.maglev(addresses[2], busy)
	r.changed(&sent, "server_removed", len(addresses))
	_, moved, refused = compareMaglev(before, removed)
	t.Logf("removed: of the other %d clients %d move", others, moved)
	// Three nodes fill the gaps that the fourth leaves, and clash here and there.
	if moved > others/10 || refused > 0 {
		t.Errorf("after node4 is gone %d clients of others have moved and %d are refused", moved, refused)
	}

	r.pods[3].notReady = false
	r.cluster()
	shows("1")
	back := r.maglev(addresses[3], busy)
	r.changed(&sent, "server_added", len(addresses))
	// The table depends a little on the order of the real servers. node4 was the
	// last to be added, and is again.
	if diff := cmp.Diff(before, back); diff != "" {
		t.Errorf("node4 is back, and clients are not where they were at first (-want +got):\n%s", diff)
	}
	t.Logf("back: %d clients asked; at %d addresses %v changes in all", len(back), len(addresses), sent)
}

// changes are what the controller has sent to the kernel so far, by kind.
func (r *trafficRig) changes() map[string]int {
	r.Helper()
	found := make(map[string]int)
	for line := range strings.Lines(r.director.Run("curl", "-s", "http://127.0.0.1:9652/metrics")) {
		var kind string
		var n int
		if _, err := fmt.Sscanf(line, "lvs_changes_total{kind=%q} %d", &kind, &n); err == nil {
			found[kind] = n
		}
	}
	if len(found) == 0 {
		r.Fatal("/metrics does not tell of changes")
	}
	return found
}

// changed compares what was sent since with n changes of one kind and none of
// the others, and brings since up to date.
func (r *trafficRig) changed(since *map[string]int, kind string, n int) {
	r.Helper()
	now := r.changes()
	(*since)[kind] += n
	if diff := cmp.Diff(*since, now); diff != "" {
		r.Errorf("changes sent to the kernel (-want +got):\n%s\n%s", diff, r.process.Log())
	}
	*since = now
}

// compareMaglev counts the clients that were node4's, those of others that have
// moved, and all that nobody answered.
func compareMaglev(before, now map[int]string) (own, moved, refused int) {
	for n, node := range before {
		switch {
		case now[n] == "":
			refused++
		case node == "node4":
			own++
		case node != now[n]:
			moved++
		}
	}
	return own, moved, refused
}

// maglev has each client but one ask an address of the VIP, and says who answered
// whom.
func (r *trafficRig) maglev(address string, but int) map[int]string {
	r.Helper()
	nodes := make(map[int]string)
	for n := range maglevClients {
		if n == but {
			continue
		}
		conn, err := r.dialFrom(firstMaglevClient+n, address)
		if err == nil {
			io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
			answer, _ := io.ReadAll(conn)
			conn.(*net.TCPConn).SetLinger(0) // its port is free at once
			conn.Close()
			_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
			nodes[n] = strings.TrimSpace(body)
		} else {
			r.Logf("client port %d: %v", firstMaglevClient+n, err)
			nodes[n] = ""
		}
	}
	return nodes
}

// dialFrom connects to an address of the VIP from a port of the client.
func (r *trafficRig) dialFrom(port int, to string) (conn net.Conn, err error) {
	dialer := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: r.client.IPv4.AsSlice(), Port: port},
		Timeout:   10 * time.Second,
		Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			})
			if err != nil {
				return err
			}
			return failed
		},
	}
	r.client.Do(func() { conn, err = dialer.Dial("tcp", net.JoinHostPort(to, "80")) })
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(time.Minute))
}
