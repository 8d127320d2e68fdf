// Directors that are active at the same time: a router shares the clients' flows
// out among all that tell it, by BGP, that they have the VIP. Real routing daemons
// on the router and on the directors, those of routing_rig_test.go; no sync daemon
// anywhere. ecmp_test.go and drill_ecmp_test.go use it.

package director

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

const (
	// ecmpStreams and ecmpStreams6 are the downloads that are open all the time,
	// over IPv4 and over IPv6.
	ecmpStreams  = 200
	ecmpStreams6 = 40

	// ecmpNarrow are the large answers that are asked for over each family.
	ecmpNarrow = 5

	// ecmpSilence is how long a director may be silent before the router takes it
	// for dead: three BFD intervals, see install/bird.conf and frr.conf. An emulated
	// machine that is busy is silent for longer at times, so that as many as ecmpCalm
	// are waited for while nobody dies.
	ecmpSilence = 900 * time.Millisecond
	ecmpEager   = 3
	ecmpCalm    = 20

	// ecmpSlack is how much later that may be seen on an emulated machine that is
	// busy.
	ecmpSlack = 10 * time.Second
)

// ecmp is two directors and three nodes behind a router, and a client far behind
// that.
type ecmp struct {
	*pair  // the client and its downloads; its directors are the speakers below
	kind   routingKind
	router *lab.Host
	core   routing   // the router's
	far    *lab.Host // the router before the client
	nodes  []*lab.Host
	one    *speaker
	two    *speaker
	vip6   netip.AddrPort
	routes *lab.Process // tells of each change of the router's routes, and when
}

// speaker is a director whose routing daemon speaks to the router.
type speaker struct {
	*twin
	other     *speaker
	kind      routingKind
	routing   routing
	addresses *lab.Process // tells of each address that comes or goes
}

// newECMP makes the network. Nothing runs on the directors yet, nor are they
// configured.
func newECMP(t *testing.T, first *rig, kind routingKind) *ecmp {
	t.Helper()
	l := first.lab
	e := &ecmp{kind: kind, pair: &pair{T: t, vip: netip.MustParseAddrPort("10.9.0.100:80")}, vip6: netip.MustParseAddrPort("[2001:db8:9::100]:80")}
	e.router = l.Router("router")
	// The client is two routers away: the far one knows nothing of directors.
	e.far = l.Behind(e.router, "far", 1)
	e.client = l.Behind(e.far, "client", 2)
	e.router.Run("ip", "route", "add", "10.1.2.0/24", "via", e.far.IPv4.String())
	e.router.Run("ip", "route", "add", "2001:db8:2::/64", "via", e.far.IPv6.String())
	e.far.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	// Whole connections stay together: the hash takes ports in, too.
	e.router.Run("sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=1", "net.ipv6.fib_multipath_hash_policy=1")
	second := &rig{T: t, lab: l, director: l.Host("director2", 4), dir: t.TempDir()}
	e.one, e.two = &speaker{twin: &twin{rig: first}, kind: kind}, &speaker{twin: &twin{rig: second}, kind: kind}
	e.one.other, e.two.other = e.two, e.one
	for n := 11; n <= 13; n++ {
		node := l.Host("node"+strconv.Itoa(n), n)
		node.Run("ip", "route", "add", "default", "via", e.router.IPv6.String())
		node.Serve(80)
		node.Run(controller(), "realserver", "-vip", "10.9.0.100,2001:db8:9::100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
		e.nodes = append(e.nodes, node)
	}
	for _, s := range []*speaker{e.one, e.two} {
		s.addresses = s.director.Start("ip", "monitor", "address")
		s.routing = kind.on(t, s.director, s.dir)
	}
	e.routes = e.router.Start("ip", "-timestamp", "monitor", "route")
	e.core = kind.on(t, e.router, first.dir)
	e.core.begin(kind.silent(kind.router, ecmpCalm))
	return e
}

// silence changes how many BFD intervals anybody may be silent, everywhere.
func (e *ecmp) silence(intervals int) {
	e.Helper()
	e.core.silence(e.kind.silent(e.kind.router, intervals), intervals)
	for _, s := range []*speaker{e.one, e.two} {
		s.routing.silence(s.shipped(intervals), intervals)
	}
}

// ecmpVIP is the VIP of a director's configuration, over the ingress pods of a
// namespace.
const ecmpVIP = `withdraw_hold = "3s"
[timeouts]
tcp_fin = "10s"
[[vip]]
name = "edge"
addresses = ["10.9.0.100", "2001:db8:9::100"]
announce = "dummy"
ports = [80]
scheduler = "mh"
flags = ["mh-port", "mh-fallback"]
namespace = %q
`

// shipped is the configuration that we ship, but for its addresses.
func (s *speaker) shipped(intervals int) string {
	s.Helper()
	conf, err := os.ReadFile(installed(s.kind.shipped))
	lab.Must(s.T, err)
	return strings.NewReplacer("log syslog informational", "log stdout", "log syslog", "log stderr",
		"10.135.77.0/24", "10.9.0.0/24", "2001:db8:77::/64", "2001:db8:9::/64", "router-id 10.135.22.2", "router-id "+s.director.IPv4.String(),
		"neighbor 10.135.22.1 ", "neighbor 10.0.0.254 ", "neighbor 2001:db8:22::1 ", "neighbor 2001:db8::254 ").Replace(s.kind.silent(string(conf), intervals))
}

// speak starts the director's routing daemon.
func (s *speaker) speak(intervals int) {
	s.Helper()
	s.routing.begin(s.shipped(intervals))
}

// spoken waits until the router hears the director over both families.
func (s *speaker) spoken() {
	s.Helper()
	lab.Within(s.T, 60*time.Second, func() string {
		if n, all := s.routing.established(); n < 2 {
			return fmt.Sprintf("%s does not speak BGP: %s\n%s", s.director.Name, all, s.routing.said())
		}
		return ""
	})
}

// gateways are those of the router's routes to an address, family being "-4" or
// "-6".
func (e *ecmp) gateways(family string, to netip.Addr) []string {
	var found []string
	fields := strings.Fields(e.router.Run("ip", family, "route", "show", to.String()))
	for i, f := range fields {
		if f == "via" {
			found = append(found, fields[i+1])
		}
	}
	slices.Sort(found)
	return found
}

// routed waits until the router has routes to these directors, in the order of
// their addresses, and to no other, over both families.
func (e *ecmp) routed(to ...*speaker) {
	e.Helper()
	var want, want6 []string
	for _, s := range to {
		want, want6 = append(want, s.director.IPv4.String()), append(want6, s.director.IPv6.String())
	}
	lab.Within(e.T, 60*time.Second, func() string {
		got, got6 := e.gateways("-4", e.vip.Addr()), e.gateways("-6", e.vip6.Addr())
		if slices.Equal(got, want) && slices.Equal(got6, want6) {
			return ""
		}
		return fmt.Sprintf("the router's gateways are %v and %v, want %v and %v\n%s\n%s:\n%s\n%s:\n%s",
			got, got6, want, want6, e.core.said(), e.one.director.Name, e.one.said(), e.two.director.Name, e.two.said())
	})
}

// said is what the routing daemon and the controller have logged.
func (s *speaker) said() string {
	all := s.routing.said()
	if s.process != nil {
		all += s.process.Log()
	}
	return all
}

// connections are those of IPVS, client and port against real server.
func (s *speaker) connections() map[string]string {
	s.Helper()
	found := make(map[string]string)
	for line := range strings.Lines(s.director.Run("ipvsadm", "-Lnc")) {
		// TCP 14:59 ESTABLISHED 10.1.1.2:40000 10.9.0.100:80 10.0.0.11:80
		if f := strings.Fields(line); len(f) == 6 && f[0] == "TCP" {
			found[f[3]] = f[5]
		}
	}
	return found
}

// moved counts the connections that both directors have had, and those among
// them that they sent to different real servers.
func (e *ecmp) moved() (both, moved int) {
	e.Helper()
	two := e.two.connections()
	for client, server := range e.one.connections() {
		if at, known := two[client]; known {
			both++
			if at != server {
				moved++
			}
		}
	}
	return both, moved
}

// open begins all downloads anew, so that no director has heard of those of the
// other, and sees that each carries its share.
func (e *ecmp) open() {
	e.Helper()
	for _, s := range e.streams {
		s.Close()
	}
	e.streams = nil
	vip := e.vip
	e.vip = e.vip6
	e.pair.open(ecmpStreams6)
	e.vip = vip
	e.pair.open(ecmpStreams)
	one, two := e.carried(e.one), e.carried(e.two)
	e.Logf("downloads: %d through %s, %d through %s", one, e.one.director.Name, two, e.two.director.Name)
	if min(one, two) < len(e.streams)/4 { // half of 240, with a deviation of 8
		e.Errorf("of %d downloads %d go through one director, %d through the other", len(e.streams), one, two)
	}
}

// carried counts the downloads that s knows. Now and then ipvsadm misses one, while
// others leave the table that it reads.
func (e *ecmp) carried(s *speaker) (n int) {
	e.Helper()
	known := s.connections()
	for _, stream := range e.streams {
		if known[stream.From()] != "" {
			n++
		}
	}
	return n
}
