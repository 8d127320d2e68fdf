package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	testVIP4 = "10.0.0.100"
	testVIP6 = "2001:db8::100"
)

// segmentHost is a host on one Ethernet segment: 10.0.0.N and 2001:db8::N.
type segmentHost struct {
	netns
	n    int
	port string // of the bridge, in the segment's own namespace
}

func (h segmentHost) addr() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(h.n)}) }
func (h segmentHost) addr6() netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", h.n))
}

// newSegment makes an Ethernet segment with a host for each number.
func newSegment(t *testing.T, numbers ...int) (bridge netns, hosts []segmentHost) {
	t.Helper()
	bridge = newNetns(t)
	bridge.run(t, "ip", "link", "add", "br0", "type", "bridge")
	bridge.run(t, "ip", "link", "set", "br0", "up")
	for _, n := range numbers {
		h := segmentHost{newNetns(t), n, fmt.Sprintf("port%d", n)}
		vethPair(t, h.netns, "eth0", bridge, h.port)
		bridge.run(t, "ip", "link", "set", h.port, "master", "br0")
		h.run(t, "ip", "address", "add", fmt.Sprintf("10.0.0.%d/24", n), "dev", "eth0")
		h.run(t, "ip", "address", "add", fmt.Sprintf("2001:db8::%d/64", n), "dev", "eth0", "nodad")
		hosts = append(hosts, h)
	}
	return bridge, hosts
}

// holdVIP prepares h as a node: the VIPs on lo, and quiet about them.
func (h segmentHost) holdVIP(t *testing.T) {
	t.Helper()
	h.run(t, "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
	h.run(t, "ip", "address", "add", testVIP4+"/32", "dev", "lo")
	h.run(t, "ip", "address", "add", testVIP6+"/128", "dev", "lo")
}

// accept accepts TCP connections to a port of every address of h.
func (h segmentHost) accept(t *testing.T, port int) {
	t.Helper()
	h.do(t, func() {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { l.Close() })
		say(l, "", true)
	})
}

// answer answers HTTP requests at port 10254 with a status.
func (h segmentHost) answer(t *testing.T, status int) {
	t.Helper()
	h.do(t, func() {
		l, err := net.Listen("tcp", ":10254")
		if err != nil {
			t.Error(err)
			return
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })}
		t.Cleanup(func() { s.Close() })
		go s.Serve(l)
	})
}

// inside runs functions on threads in h.
func (h segmentHost) inside(t *testing.T) func(func()) {
	return func(f func()) { go h.do(t, f) }
}

// atFiveHundred are the settings that the promises are made for.
func atFiveHundred(change func(*Probes)) *Probes {
	p := Probes{Interval: 500 * time.Millisecond, Timeout: 250 * time.Millisecond, Rise: 2, Fall: 3, ConnectsPerSecond: 500}
	change(&p)
	return &p
}

// The VIP through each node, of both families, from a director that holds the
// VIP itself and from one that does not.
func TestDataPathFindsTheVIP(t *testing.T) {
	findTheVIP(t, 500*time.Millisecond, func(master, good segmentHost) {})
}

// findTheVIP has two directors ask five nodes. beside sees the director that
// holds the VIP and the node that is good before anything begins.
func findTheVIP(t *testing.T, interval time.Duration, beside func(master, good segmentHost)) {
	_, hosts := newSegment(t, 9, 8, 11, 12, 13, 14)
	master, backup, good, router, deaf, closed := hosts[0], hosts[1], hosts[2], hosts[3], hosts[4], hosts[5]
	master.run(t, "ip", "address", "add", testVIP4+"/32", "dev", "eth0")
	master.run(t, "ip", "address", "add", testVIP6+"/128", "dev", "eth0", "nodad", "preferred_lft", "0")
	good.holdVIP(t)
	good.accept(t, 80)
	// Without the VIP, but with what would pass the packet on, as Kubernetes
	// nodes do: to the master, which would have another node answer.
	router.run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	router.accept(t, 80)
	deaf.run(t, "sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
	deaf.accept(t, 80)
	closed.holdVIP(t)
	beside(master, good)

	v := ProbedVIP{
		Name: "edge", DataPort: 80,
		Probes:    atFiveHundred(func(p *Probes) { p.DataPath, p.Interval, p.Timeout = true, interval, interval/2 }),
		Addresses: []netip.Addr{netip.MustParseAddr(testVIP4), netip.MustParseAddr(testVIP6)},
	}
	absent := segmentHost{n: 15}
	for _, h := range []segmentHost{good, router, deaf, closed, absent} {
		v.Servers = append(v.Servers, ProbedServer{Address: h.addr()}, ProbedServer{Address: h.addr6()})
	}
	plan := &ProbePlan{VIPs: []ProbedVIP{v}}
	silence := fmt.Sprintf("no answer in %s (is the VIP on its lo?)", interval/2)
	want := map[HealthKey]string{
		{"edge", router.addr(), 0}:  "10.0.0.100:80 through the node: the node does not have the VIP on its lo: it would pass the packet on",
		{"edge", router.addr6(), 0}: "[2001:db8::100]:80 through the node: the node does not have the VIP on its lo: it would pass the packet on",
		{"edge", deaf.addr(), 0}:    "10.0.0.100:80 through the node: " + silence,
		{"edge", deaf.addr6(), 0}:   "[2001:db8::100]:80 through the node: " + silence,
		{"edge", closed.addr(), 0}:  "10.0.0.100:80 through the node: connection refused",
		{"edge", closed.addr6(), 0}: "[2001:db8::100]:80 through the node: connection refused",
		{"edge", absent.addr(), 0}:  "10.0.0.100:80 through the node: no answer to ARP",
		{"edge", absent.addr6(), 0}: "[2001:db8::100]:80 through the node: no answer to neighbour discovery",
	}
	probers := make(map[string]*running)
	for name, director := range map[string]segmentHost{"master": master, "backup": backup} {
		probers[name] = startProber(t, plan, director.inside(t))
	}
	for name, r := range probers {
		h := r.await(t, name, func(h *Health) bool { return h != nil && len(h.Down) == len(want) })
		if diff := cmp.Diff(want, h.Down, compareAddrs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		r.decided(t)
		if k := r.Stats().Kinds[probeDataPath]; k.targets() != 10 || k.Targets[down] != 8 || k.Results[passed] == 0 {
			t.Errorf("%s: %+v", name, k)
		}
	}

	// The node gets what it lacked.
	for _, h := range []segmentHost{router, deaf} {
		h.holdVIP(t)
	}
	closed.accept(t, 80)
	for name, r := range probers {
		r.await(t, name+" repaired", func(h *Health) bool { return len(h.Down) == 2 })
	}

	// Nothing is left on the nodes: each probe ends its connection.
	for _, r := range probers {
		r.stop()
	}
	if left := good.connections(t, "03"); len(left) > 0 {
		t.Errorf("SYN_RECV is left:\n%s", strings.Join(left, ""))
	}
}

// connections lists what h has in a TCP state (include/net/tcp_states.h).
func (h segmentHost) connections(t *testing.T, state string) (lines []string) {
	t.Helper()
	for _, table := range []string{"tcp", "tcp6"} {
		for line := range strings.Lines(h.run(t, "cat", "/proc/net/"+table)) {
			if fields := strings.Fields(line); len(fields) > 3 && fields[3] == state {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// A node whose cable is pulled out, which no packet reports: no RST, no change of
// the director's own link.
func TestDeadNodeIsFoundInTime(t *testing.T) {
	bridge, hosts := newSegment(t, 9, 11, 12)
	director, nodes := hosts[0], hosts[1:]
	for _, h := range nodes {
		h.holdVIP(t)
		h.accept(t, 80)
	}
	for name, change := range map[string]func(*Probes){
		"tcp":      func(p *Probes) { p.TCP = 80 },
		"datapath": func(p *Probes) { p.DataPath = true },
		"ports":    func(p *Probes) { p.Ports = true },
	} {
		v := ProbedVIP{Name: "edge", Probes: atFiveHundred(change), Addresses: []netip.Addr{netip.MustParseAddr(testVIP4)}, DataPort: 80}
		for _, h := range nodes {
			v.Servers = append(v.Servers, ProbedServer{h.addr(), []uint16{80}})
		}
		r := startProber(t, &ProbePlan{VIPs: []ProbedVIP{v}}, director.inside(t))
		dead := nodes[1]
		for try := 1; ; try++ {
			r.await(t, "all are well", func(h *Health) bool { return h == nil || len(h.Down) == 0 })
			r.decided(t)
			bridge.run(t, "ip", "link", "set", dead.port, "down")
			cut := time.Now()
			r.await(t, "the dead one is down", func(h *Health) bool { _, down := h.Server("edge", dead.addr()); return down })
			took := time.Since(cut)
			why, _ := r.out.Get().Server("edge", dead.addr())
			t.Logf("%s: down after %s: %s", name, took.Round(time.Millisecond), why)
			bridge.run(t, "ip", "link", "set", dead.port, "up")
			if !strings.HasSuffix(why, "no answer in 250ms") && !strings.HasSuffix(why, "no answer in 250ms (is the VIP on its lo?)") {
				t.Errorf("%s: %s", name, why)
			}
			if took < 2*time.Second {
				break
			}
			if try == 3 { // once may be a busy machine
				t.Errorf("%s: down after %s, want less than 2s", name, took)
				break
			}
		}
		r.await(t, "it is back", func(h *Health) bool { return len(h.Down) == 0 })
		r.stop()
	}
}

// Three things wrong at once, one on each of three nodes: each is found for
// what it is.
func TestEachForTheRightReason(t *testing.T) {
	_, hosts := newSegment(t, 9, 11, 12, 13, 14)
	director, good, sick, walled, bare := hosts[0], hosts[1], hosts[2], hosts[3], hosts[4]
	for _, h := range []segmentHost{good, sick, walled} {
		h.holdVIP(t)
	}
	bare.run(t, "sysctl", "-qw", "net.ipv4.ip_forward=0")
	for _, h := range hosts[1:] {
		h.accept(t, 80)
		h.accept(t, 443)
	}
	for _, h := range []segmentHost{good, walled, bare} {
		h.answer(t, 200)
	}
	sick.answer(t, 500)
	// A firewall that drops: what comes from this port never leaves.
	walled.run(t, "ip", "rule", "add", "ipproto", "tcp", "sport", "443", "blackhole")

	v := ProbedVIP{
		Name: "edge", Addresses: []netip.Addr{netip.MustParseAddr(testVIP4)}, DataPort: 80,
		Probes: atFiveHundred(func(p *Probes) {
			p.HTTP = []HTTPProbe{{Port: 10254, Path: "/healthz", Status: []StatusRange{{200, 399}}}}
			p.Ports, p.DataPath = true, true
		}),
	}
	for _, h := range hosts[1:] {
		v.Servers = append(v.Servers, ProbedServer{h.addr(), []uint16{80, 443}})
	}
	start := time.Now()
	r := startProber(t, &ProbePlan{VIPs: []ProbedVIP{v}}, director.inside(t))
	h := r.await(t, "three are found", func(h *Health) bool { return h != nil && len(h.Down) == 3 })
	t.Logf("after %s", time.Since(start).Round(time.Millisecond))
	want := map[HealthKey]string{
		{"edge", sick.addr(), 0}:     "GET http://10.0.0.12:10254/healthz: 500",
		{"edge", walled.addr(), 443}: "port 443/tcp: no answer in 250ms",
		{"edge", bare.addr(), 0}:     "10.0.0.100:80 through the node: no answer in 250ms (is the VIP on its lo?)",
	}
	if diff := cmp.Diff(want, h.Down, compareAddrs); diff != "" {
		t.Errorf("down (-want +got):\n%s", diff)
	}
	r.stop()
	if left := director.connections(t, "06"); len(left) > 0 {
		t.Errorf("TIME_WAIT is left:\n%s", strings.Join(left, ""))
	}
}

// Over a real segment: the node's kernel reports a closed port by ICMP, and a node that
// is not there is silent.
func TestUDPOverTheSegment(t *testing.T) {
	_, hosts := newSegment(t, 9, 11, 12)
	director, good, closed := hosts[0], hosts[1], hosts[2]
	good.do(t, func() {
		c, err := net.ListenPacket("udp", ":53")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { c.Close() })
		replyUDP(c, func(q []byte) [][]byte { return [][]byte{answerDNS(q, 0, nil)} })
	})
	absent := segmentHost{n: 15}
	for name, test := range map[string]struct {
		change func(*Probes)
		want   map[HealthKey]string
	}{
		"dns": {func(p *Probes) { p.DNS = &DNSProbe{Port: 53, Name: "a.test", Type: "A"} }, map[HealthKey]string{
			{"edge", closed.addr(), 0}:  "DNS question to 10.0.0.12:53 for a.test A: ICMP port unreachable",
			{"edge", closed.addr6(), 0}: "DNS question to [2001:db8::12]:53 for a.test A: ICMP port unreachable",
			{"edge", absent.addr(), 0}:  "DNS question to 10.0.0.15:53 for a.test A: no answer in 250ms",
			{"edge", absent.addr6(), 0}: "DNS question to [2001:db8::15]:53 for a.test A: no answer in 250ms",
		}},
		"udp without an answer": {func(p *Probes) { p.UDP = &UDPProbe{Port: 53} }, map[HealthKey]string{
			{"edge", closed.addr(), 0}:  "datagram to 10.0.0.12:53: ICMP port unreachable",
			{"edge", closed.addr6(), 0}: "datagram to [2001:db8::12]:53: ICMP port unreachable",
		}},
	} {
		v := ProbedVIP{Name: "edge", Probes: atFiveHundred(test.change)}
		for _, h := range []segmentHost{good, closed, absent} {
			v.Servers = append(v.Servers, ProbedServer{Address: h.addr()}, ProbedServer{Address: h.addr6()})
		}
		r := startProber(t, &ProbePlan{VIPs: []ProbedVIP{v}}, director.inside(t))
		r.await(t, name, func(h *Health) bool { return h != nil && len(h.Down) == len(test.want) })
		r.decided(t)
		if diff := cmp.Diff(test.want, r.out.Get().Down, compareAddrs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		r.stop()
	}
}

// What the director itself lacks is logged once, and counts against no real server.
func TestDataPathOwnFaults(t *testing.T) {
	t.Parallel()
	_, hosts := newSegment(t, 9, 11)
	director, node := hosts[0], hosts[1]
	director.run(t, "ip", "address", "add", "192.0.2.9/24", "dev", "eth0")
	director.run(t, "ip", "route", "add", "198.51.100.0/24", "via", "10.0.0.11")
	director.run(t, "ip", "address", "add", "203.0.113.100/24", "dev", "eth0") // nothing but a VIP
	node.holdVIP(t)
	addr := netip.MustParseAddr
	for _, test := range []struct {
		name   string
		server netip.Addr
		spawn  func(func())
		want   string
	}{
		{"router", addr("198.51.100.7"), director.inside(t), "the real server is behind a router: direct routing does not reach it"},
		{"no route", addr("100.64.0.7"), director.inside(t), "route to the real server: network is unreachable"},
		{"local", addr("10.0.0.9"), director.inside(t), "the real server is the director itself"},
		{"VIP alone", addr("203.0.113.7"), director.inside(t), "the director has no address on the way to the real server but the VIP"},
		{"capability", node.addr(), func(f func()) { go director.do(t, func() { dropNetRaw(t); f() }) }, "packet socket: operation not permitted (datapath needs CAP_NET_RAW)"},
	} {
		v := ProbedVIP{
			Name: "edge", Addresses: []netip.Addr{addr(testVIP4), addr("203.0.113.100")}, DataPort: 80,
			Probes:  atFiveHundred(func(p *Probes) { p.DataPath = true; p.Interval, p.Timeout = 250*time.Millisecond, 250*time.Millisecond }),
			Servers: []ProbedServer{{Address: test.server}},
		}
		r := startProber(t, &ProbePlan{VIPs: []ProbedVIP{v}}, test.spawn)
		for range 1000 {
			if r.Stats().Kinds[probeDataPath].Results[noResult] >= 10 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		r.stop()
		if k := r.Stats().Kinds[probeDataPath]; k.Results[noResult] < 10 || k.Results[passed]+k.Results[failed] > 0 || k.Targets[unknown] != 2 {
			t.Errorf("%s: %+v", test.name, k)
		}
		if h := r.out.Get(); h != nil {
			t.Errorf("%s: %+v", test.name, h)
		}
		want := fmt.Sprintf("level=WARN msg=\"probe: the director cannot probe, which does not count against the real server\" vip=edge server=%s probe=datapath err=%q\n", test.server, test.want)
		if text := r.text.String(); strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, want) {
			t.Errorf("%s: log:\n%swant one line:\n%s", test.name, text, want)
		}
	}
}

// dropNetRaw takes CAP_NET_RAW from the calling thread.
func dropNetRaw(t *testing.T) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Error(err)
	}
	data[0].Effective &^= 1 << unix.CAP_NET_RAW
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Error(err)
	}
}

// The broadcast addresses are those of the networks that the host is in.
func TestBroadcasts(t *testing.T) {
	_, hosts := newSegment(t, 9)
	hosts[0].run(t, "ip", "address", "add", "192.0.2.9/25", "brd", "+", "dev", "eth0")
	hosts[0].run(t, "ip", "address", "add", "198.51.100.4/31", "dev", "eth0")
	hosts[0].run(t, "ip", "address", "add", "203.0.113.4/32", "dev", "eth0")
	hosts[0].do(t, func() {
		conn, err := openRtnl(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		found, err := conn.broadcasts()
		for _, a := range addrs("10.0.0.255", "192.0.2.127") {
			if !slices.Contains(found, a) {
				t.Errorf("%v lacks %s, %v", found, a, err)
			}
		}
		for _, a := range addrs("198.51.100.4", "198.51.100.5", "203.0.113.4", "192.0.2.9", "192.0.2.255") {
			if slices.Contains(found, a) {
				t.Errorf("%v has %s", found, a)
			}
		}
	})
}

// An event counts for a neighbour that is being asked again when the table is read, and
// that is not in the table as failed.
func TestResolveWatchCountsEvents(t *testing.T) {
	_, hosts := newSegment(t, 9, 11, 12)
	director := hosts[0]
	director.run(t, "ip", "address", "add", testVIP4+"/32", "dev", "eth0")
	director.run(t, "ip", "neigh", "replace", "10.0.0.11", "dev", "eth0", "nud", "incomplete")
	director.run(t, "ip", "neigh", "replace", "10.0.0.12", "dev", "eth0", "lladdr", "02:00:00:00:00:12", "nud", "reachable")
	sets := []resolveSet{{VIP: "edge", Addresses: []netip.Addr{netip.MustParseAddr(testVIP4)}, Rows: []Row{
		{RealServer: RealServer{Address: hosts[1].addr(), Forward: DirectRoute, Weight: 1}}, {RealServer: RealServer{Address: hosts[2].addr(), Forward: DirectRoute, Weight: 1}},
	}}}
	var device uint32
	director.do(t, func() {
		d, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		device = uint32(d.Index)
	})
	for _, reported := range []bool{false, true} {
		w := newResolveWatch(slog.New(slog.DiscardHandler), newLatest[[]resolveSet](), newLatest[Health](), nil)
		if reported {
			w.events.add(hosts[1].addr(), device)
			w.events.add(hosts[2].addr(), device) // it has answered since
		}
		director.do(t, func() { w.look(t.Context(), sets, time.Now()) })
		var failing []netip.Addr
		for a := range w.resolver.failing {
			failing = append(failing, a)
		}
		want := []netip.Addr{hosts[1].addr()}
		if !reported {
			want = nil
		}
		if diff := cmp.Diff(want, failing, compareAddrs); diff != "" {
			t.Errorf("reported %t (-want +got):\n%s", reported, diff)
		}
	}
}
