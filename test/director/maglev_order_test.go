// What the order of real servers does to the choices of two directors with
// scheduler mh, and what makes them alike. docs/high-availability.md has the
// figures.

package director

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// Clients that TestKernelMaglevOrder tells apart, by their ports.
const (
	firstOrderClient = 20000
	orderClients     = 1000
)

// orderBound is the largest share of clients that two directors may send to
// different real servers, of which they have the same ones in another order.
const orderBound = 0.1

// orderRig is two directors with the same VIP, and a client that asks the one or
// the other. The real servers need not exist: whom a director has chosen is in
// its table of connections.
type orderRig struct {
	*testing.T
	one, two *orderDirector
	client   *lab.Host
	next     int // first client port of the next question
}

// orderDirector is one of them.
type orderDirector struct{ *rig }

// ask has clients that are new send a datagram each to a port of address at
// director d, and says who is to answer whom. UDP and TCP share all of mh
// (net/netfilter/ipvs/ip_vs_mh.c), and a datagram is sent once.
func (r *orderRig) ask(d *lab.Host, to netip.AddrPort, first int) map[string]string {
	r.Helper()
	r.client.Run("ip", "route", "replace", to.Addr().String(), "via", d.IPv4.String())
	chosen := make(map[string]string)
	lab.Within(r.T, 30*time.Second, func() string {
		r.client.Do(func() {
			for n := range orderClients {
				from := &net.UDPAddr{IP: r.client.IPv4.AsSlice(), Port: first + n}
				conn, err := net.DialUDP("udp4", from, net.UDPAddrFromAddrPort(to))
				if err != nil {
					r.Fatal(err)
				}
				conn.Write([]byte("who?")) // the error of an earlier one is none of this one
				conn.Close()
			}
		})
		for line := range strings.Lines(d.Run("ipvsadm", "-Lnc")) {
			// UDP 04:59 UDP 10.0.0.3:20000 10.9.0.101:30 10.0.0.11:30
			f := strings.Fields(line)
			if len(f) != 6 || f[4] != to.String() {
				continue
			}
			if from := netip.MustParseAddrPort(f[3]); int(from.Port()) >= first && int(from.Port()) < first+orderClients {
				chosen[f[3]] = f[5]
			}
		}
		if len(chosen) != orderClients {
			return fmt.Sprintf("%s has chosen for %d of %d clients", d.Name, len(chosen), orderClients)
		}
		return ""
	})
	return chosen
}

// differ asks both directors for the same new clients, and counts those that they
// send to different real servers.
func (r *orderRig) differ(to netip.AddrPort) int {
	r.Helper()
	first := firstOrderClient + r.next
	r.next += orderClients
	one, two := r.ask(r.one.director, to, first), r.ask(r.two.director, to, first)
	n := 0
	for client, server := range one {
		if two[client] != server {
			n++
		}
	}
	return n
}

// With mh two directors choose alike when they have the same real servers in the
// same order, and nearly so in another order.
func TestKernelMaglevOrder(t *testing.T) {
	of(t, "kernel")
	t.Parallel()
	first := newRig(t)
	r := &orderRig{T: t, one: &orderDirector{first}, client: first.lab.Host("client", 3)}
	r.two = &orderDirector{&rig{T: t, lab: first.lab, director: first.lab.Host("director2", 4), dir: t.TempDir()}}
	for _, d := range []*orderDirector{r.one, r.two} {
		d.director.Run("ip", "address", "add", "10.9.0.101/32", "dev", "lo")
	}

	// What the kernel makes of an order, without any controller.
	for _, n := range []int{3, 10, 50} {
		servers := make([]int, n)
		for i := range servers {
			servers[i] = 11 + i
		}
		reversed, mixed := slices.Clone(servers), slices.Clone(servers)
		slices.Reverse(reversed)
		rand.Shuffle(n, func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		for i, order := range [][]int{servers, reversed, mixed} {
			to := netip.AddrPortFrom(netip.MustParseAddr("10.9.0.101"), uint16(1000*(i+1)+n))
			load := func(d *lab.Host, order []int) {
				table := fmt.Sprintf("-A -u %s -s mh -b mh-port\n", to)
				for _, s := range order {
					table += fmt.Sprintf("-a -u %s -r 10.0.0.%d:%d -g -w 1\n", to, s, to.Port())
				}
				restore := d.Command("ipvsadm", "-R")
				restore.Stdin = strings.NewReader(table)
				if out, err := restore.CombinedOutput(); err != nil {
					t.Fatalf("ipvsadm -R: %v: %s", err, out)
				}
			}
			load(r.one.director, servers)
			load(r.two.director, order)
			differ := r.differ(to)
			t.Logf("%d real servers, %s: %d of %d clients are sent to another one", n, []string{"the same order", "the opposite order", "a random order"}[i], differ, orderClients)
			if i == 0 && differ > 0 || float64(differ) > orderBound*orderClients {
				t.Errorf("%d real servers in the orders %v and %v: %d of %d clients differ", n, servers, order, differ, orderClients)
			}
		}
	}

	// The controller adds what it finds together in the order of the addresses. To
	// the one director the nodes have come in three parts, to the other at once.
	vip := netip.MustParseAddrPort("10.9.0.100:53")
	one, two := r.one, r.two
	for _, d := range []*orderDirector{one, two} {
		d.director.Run("ipvsadm", "-C")
		d.write("config.toml", d.configHead()+"[[vip]]\nname = \"edge\"\naddresses = [\"10.9.0.100\"]\nannounce = \"dummy\"\nports = [\"53/udp\"]\nscheduler = \"mh\"\nflags = [\"mh-port\", \"mh-fallback\"]\n")
	}
	nodes := []int{17, 13, 19, 11, 20, 15, 12, 18, 14, 16}
	for i, n := range []int{4, 7, 10} {
		one.serves(nodes[:n]...)
		if i == 0 {
			one.start()
		}
		one.shows(nodes[:n]...)
	}
	two.serves(nodes...)
	two.start()
	two.shows(nodes...)
	differ := r.differ(vip)
	t.Logf("ten nodes, in three parts and at once: %d of %d clients are sent to another one", differ, orderClients)
	if differ == 0 || float64(differ) > orderBound*orderClients {
		t.Errorf("ten nodes, in three parts and at once: %d of %d clients differ, want a few", differ, orderClients)
	}

	alike := func(when string) {
		t.Helper()
		if differ := r.differ(vip); differ > 0 {
			t.Errorf("%s: %d of %d clients are sent to another one, want 0", when, differ, orderClients)
		}
	}
	one.subcommand("drain")
	if err := one.process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	one.subcommand("-cleanup")
	one.start()
	one.shows(nodes...)
	one.subcommand("drain", "-undo")
	alike("drained, cleaned up and started anew")

	for _, d := range []*orderDirector{one, two} {
		d.serves(nodes[1:]...)
		d.shows(nodes[1:]...)
		d.serves(nodes...)
		d.shows(nodes...)
	}
	alike("a node has left both and come back")
}

// serves has the cluster consist of these nodes, 10.0.0.N each.
func (r *orderDirector) serves(nodes ...int) {
	r.Helper()
	r.objects.pods = nil
	for _, n := range nodes {
		name := fmt.Sprintf("node%d", n)
		r.objects.pods = append(r.objects.pods, pod{name: name, node: name, ips: []string{fmt.Sprintf("10.0.0.%d", n)}})
	}
	r.writeCluster()
}

// shows waits until they are the VIP's real servers.
func (r *orderDirector) shows(nodes ...int) {
	r.Helper()
	want := []string{"-A -u 10.9.0.100:53 -s mh -b mh-fallback,mh-port"}
	for _, n := range nodes {
		want = append(want, fmt.Sprintf("-a -u 10.9.0.100:53 -r 10.0.0.%d:53 -g -w 1", n))
	}
	r.table(want...)
}
