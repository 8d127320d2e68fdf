// What docs/scale.md takes from the kernel: the choices of mh, which test/scale makes
// without one, the memory of a connection, and what the sync daemon sends for it.

package director

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
	"lvs-controller/test/scale/maglev"
	"lvs-controller/test/scale/sizes"
)

// scaleRig is a director without a controller, and a client with many addresses.
type scaleRig struct {
	*testing.T
	lab              *lab.Lab
	director, client *lab.Host
	sources          []netip.Addr
	next             int // first client port of the next datagrams
}

func newScaleRig(t *testing.T) *scaleRig {
	of(t, "kernel")
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	r := &scaleRig{T: t, lab: l, director: l.Host("director", 2), client: l.Host("client", 3), next: 20000}
	for n := range 20 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(n), byte(7 * n)})
		r.client.Run("ip", "address", "add", a.String()+"/32", "dev", "eth0")
		r.director.Run("ip", "route", "add", a.String()+"/32", "via", r.client.IPv4.String())
		r.sources = append(r.sources, a)
	}
	r.director.Run("ip", "address", "add", "10.9.0.1/32", "dev", "lo")
	r.director.Run("ip", "address", "add", "2001:db8:9::1/128", "dev", "lo")
	r.client.Run("ip", "route", "add", "10.9.0.1/32", "via", r.director.IPv4.String())
	r.client.Run("ip", "-6", "route", "add", "2001:db8:9::1/128", "via", r.director.IPv6.String())
	return r
}

// load gives the director a table, in the words of ipvsadm.
func (r *scaleRig) load(lines ...string) {
	r.Helper()
	restore := r.director.Command("ipvsadm", "-R")
	restore.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := restore.CombinedOutput(); err != nil {
		r.Fatalf("ipvsadm -R: %v: %s", err, out)
	}
}

// send has n sockets of the client send a datagram each, and returns them open.
func (r *scaleRig) send(to netip.AddrPort, n int) []*net.UDPConn {
	r.Helper()
	var all []*net.UDPConn
	var err error
	defer func() { r.next += n }()
	r.client.Do(func() {
		for i := 0; i < n && err == nil; i++ {
			from := &net.UDPAddr{IP: r.sources[i%len(r.sources)].AsSlice(), Port: r.next + i/len(r.sources)}
			if to.Addr().Is6() {
				from = &net.UDPAddr{IP: r.client.IPv6.AsSlice(), Port: r.next + i}
			}
			var conn *net.UDPConn
			if conn, err = net.DialUDP("udp", from, net.UDPAddrFromAddrPort(to)); err == nil {
				conn.Write([]byte("who?")) // the error of an earlier one is none of this one
				all = append(all, conn)
			}
		}
	})
	lab.Must(r.T, err)
	return all
}

// The scheduler mh as test/scale has it chooses as the kernel's does, for each of 1,000
// clients, with several weights, a real server that drains, and without ports.
func TestKernelScaleMaglev(t *testing.T) {
	r := newScaleRig(t)
	const clients = 1000
	server := func(n, weight int) maglev.Server {
		return maglev.Server{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 0), Weight: weight, LastWeight: weight}
	}
	for i, c := range []struct {
		name, flags string
		servers     []maglev.Server
		six         bool
	}{
		{"equal weights", "-b mh-port,mh-fallback", make([]maglev.Server, 10), false},
		{"ports do not count", "-b mh-fallback", make([]maglev.Server, 10), false},
		{"many weights", "-b mh-port,mh-fallback", []maglev.Server{server(31, 1), server(17, 300), server(12, 40), server(99, 7)}, false},
		{"one drains", "-b mh-port,mh-fallback", make([]maglev.Server, 10), false},
		{"IPv6", "-b mh-port,mh-fallback", make([]maglev.Server, 10), true},
	} {
		vip := netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), uint16(1000+i))
		if c.six {
			vip = netip.AddrPortFrom(netip.MustParseAddr("2001:db8:9::1"), vip.Port())
		}
		lines := []string{fmt.Sprintf("-A -u %s -s mh %s", vip, c.flags)}
		for n := range c.servers {
			s := &c.servers[n]
			if s.Weight == 0 {
				*s = server(11+n*7%10, 1)
			}
			a := s.Addr.Addr()
			if c.six {
				a = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n+11))
			}
			s.Addr = netip.AddrPortFrom(a, vip.Port())
			lines = append(lines, fmt.Sprintf("-a -u %s -r %s -g -w %d", vip, s.Addr, s.Weight))
		}
		if c.name == "one drains" {
			c.servers[3].Weight = 0
			lines = append(lines, fmt.Sprintf("-e -u %s -r %s -g -w 0", vip, c.servers[3].Addr))
		}
		r.load(lines...)
		table := maglev.New(c.servers)
		for _, conn := range r.send(vip, clients) {
			conn.Close()
		}
		chosen := r.chosen(vip, clients)
		wrong := 0
		for from, got := range chosen {
			if c.flags == "-b mh-fallback" {
				from = netip.AddrPortFrom(from.Addr(), 0)
			}
			if want := c.servers[table.Pick(maglev.NewClient(from))].Addr; want != got {
				wrong++
				if wrong <= 3 {
					t.Errorf("%s: %s: the kernel has %s, test/scale %s", c.name, from, got, want)
				}
			}
		}
		t.Logf("%s: %d of %d clients differ", c.name, wrong, len(chosen))
	}
}

// chosen waits for n connections to vip in the director's table.
func (r *scaleRig) chosen(vip netip.AddrPort, n int) map[netip.AddrPort]netip.AddrPort {
	r.Helper()
	all := make(map[netip.AddrPort]netip.AddrPort)
	lab.Within(r.T, 30*time.Second, func() string {
		for line := range strings.Lines(r.director.Run("ipvsadm", "-Lnc")) {
			// UDP 04:59 UDP 10.1.0.3:20000 10.9.0.1:1000 10.0.0.11:1000
			if f := strings.Fields(line); len(f) == 6 && f[4] == vip.String() {
				all[netip.MustParseAddrPort(f[3])] = netip.MustParseAddrPort(f[5])
			}
		}
		if len(all) != n {
			return fmt.Sprintf("%d of %d clients have a real server", len(all), n)
		}
		return ""
	})
	return all
}

// The sizes that docs/scale.md multiplies are those of the kernel: bytes of a connection,
// and bytes and messages of the sync daemon.
func TestKernelScaleSizes(t *testing.T) {
	r := newScaleRig(t)
	number := func(path string) float64 {
		t.Helper()
		text, err := os.ReadFile(path)
		lab.Must(t, err)
		n, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
		lab.Must(t, err)
		return n
	}
	r.load("-A -u 10.9.0.1:53 -s rr", "-a -u 10.9.0.1:53 -r 10.0.0.11:53 -g -w 1")
	slab := "/sys/kernel/slab/ip_vs_conn/"
	bytes := 4096 * float64(uint(1)<<uint(number(slab+"order"))) / number(slab+"objs_per_slab")
	t.Logf("SCALE a connection: object of %.0f bytes, %.1f bytes of memory", number(slab+"object_size"), bytes)
	// The object differs a little between kernels.
	if bytes > 1.1*sizes.Connection || bytes < 0.8*sizes.Connection {
		t.Errorf("a connection takes %.1f bytes, docs/scale.md counts with %.1f", bytes, sizes.Connection)
	}

	// The settings of [sync], on a device that does nothing but count.
	for key, value := range map[string]string{"sync_threshold": "0 0", "sync_refresh_period": "10", "sync_retries": "1"} {
		r.director.Run("sysctl", "-q", "-w", "net.ipv4.vs."+key+"="+value)
	}
	r.director.Run("ip", "link", "add", "sync0", "type", "dummy")
	r.director.Run("sysctl", "-q", "-w", "net.ipv6.conf.sync0.disable_ipv6=1")
	r.director.Run("ip", "link", "set", "sync0", "up")
	r.director.Run("ip", "address", "add", "10.8.0.1/24", "dev", "sync0")
	r.director.Run("ip", "neighbour", "add", "10.0.0.11", "lladdr", "02:00:00:00:00:11", "dev", "eth0", "nud", "permanent")
	r.director.Run("ipvsadm", "--start-daemon", "master", "--mcast-interface", "sync0", "--syncid", "1")
	sent := func() float64 {
		t.Helper()
		time.Sleep(4 * time.Second) // IPVS_SYNC_FLUSH_TIME is two
		n, err := strconv.ParseFloat(strings.TrimSpace(r.director.Run("cat", "/sys/class/net/sync0/statistics/tx_bytes")), 64)
		lab.Must(t, err)
		return n
	}
	const flows = 4000
	before := sent()
	conns := r.send(netip.MustParseAddrPort("10.9.0.1:53"), flows)
	each := (sent() - before) / flows
	t.Logf("SCALE a new connection: %.2f bytes on the sync device, headers included; counted with %.2f", each, sizes.SyncEntry)
	if each < 0.98*sizes.SyncEntry || each > 1.02*sizes.SyncEntry {
		t.Errorf("%.2f bytes for a connection, docs/scale.md counts with %.2f", each, sizes.SyncEntry)
	}

	const busy, period, rounds = 400, 500 * time.Millisecond, 64
	before = sent()
	start := time.Now()
	for range rounds {
		next := time.Now().Add(period)
		for _, c := range conns[:busy] {
			c.Write([]byte("again"))
		}
		time.Sleep(time.Until(next))
	}
	seconds := time.Since(start).Seconds()
	rate := (sent() - before) / busy / seconds / sizes.SyncEntry
	t.Logf("SCALE a busy connection: %.3f messages a second over %.0f s; counted with %.3f", rate, seconds, sizes.SyncBusy)
	// Five or six messages in that time, fewer on a busy machine.
	if rate < 0.6*sizes.SyncBusy || rate > 1.2*sizes.SyncBusy {
		t.Errorf("%.3f messages a second, docs/scale.md counts with %.3f", rate, sizes.SyncBusy)
	}
	r.requests(sent)
}

// requests counts what a whole TCP connection costs: opened, one request, closed.
func (r *scaleRig) requests(sent func() float64) {
	r.Helper()
	node := r.lab.Host("node", 12)
	node.Serve(80)
	node.Run(controller(), "realserver", "-vip", "10.9.0.1", "-uplink", "eth0", "-state", filepath.Join(r.TempDir(), "rs.json"))
	r.load("-A -t 10.9.0.1:80 -s rr", "-a -t 10.9.0.1:80 -r 10.0.0.12:80 -g -w 1")
	const requests = 300
	before := sent()
	if got := r.client.Curl(requests, "http://10.9.0.1/"); got["node"] != requests {
		r.Fatalf("answers: %v", got)
	}
	entries := (sent() - before) / requests / sizes.SyncEntry
	r.Logf("SCALE a short TCP connection: %.2f messages; counted with %d", entries, sizes.SyncShort)
	if entries < 0.9*sizes.SyncShort || entries > 1.2*sizes.SyncShort {
		r.Errorf("%.2f messages for a short TCP connection, docs/scale.md counts with %d", entries, sizes.SyncShort)
	}
}
