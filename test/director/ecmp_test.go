// Two active directors behind a router, and what clients notice when one of them
// withdraws, is cut off, loses its controller or its routing daemon: nothing, for either
// takes up the other's connections where they are.

package director

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"
)

// newKernelECMP has the pods come from a file, and the directors configured.
func newKernelECMP(t *testing.T, kind routingKind) (e *ecmp, config string) {
	t.Helper()
	e = newECMP(t, newRig(t), kind)
	config = fmt.Sprintf(ecmpVIP, "ingress-nginx")
	for _, s := range []*speaker{e.one, e.two} {
		for _, n := range e.nodes {
			s.objects.pods = append(s.objects.pods, pod{name: n.Name, node: n.Name, ips: []string{n.IPv4.String(), n.IPv6.String()}})
		}
		s.writeCluster()
		s.write("config.toml", s.configHead()+config)
	}
	return e, config
}

func TestKernelECMP(t *testing.T) {
	e, config := newKernelECMP(t, birdRouting)
	e.begin()
	e.drills(pairSizes[*args.Size])
	if *args.Size != "long" {
		return
	}

	// A quiesced real server gets nobody who is new to a director, so connections
	// that are open there do not come through a second one.
	e.silence(ecmpCalm)
	e.Log("step: a node leaves, and a director while it does")
	e.open()
	if on, lost := e.leaves(e.one); lost < on/2 {
		t.Errorf("of %d downloads from the node that leaves %d are lost, so [sync] is of no use", on, lost)
	}
	for _, s := range []*speaker{e.one, e.two} {
		s.write("config.toml", s.configHead()+config+"[sync]\ninterface = \"eth0\"\n")
		s.daemons("master sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)",
			"backup sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)")
	}
	e.open()
	if on, lost := e.leaves(e.two); lost > 0 {
		t.Errorf("with [sync], of %d downloads from the node that leaves %d are lost, want 0", on, lost)
	}
}

// The same with FRR, which leaves forwarding as the director had it.
func TestKernelFRR(t *testing.T) {
	e, _ := newKernelECMP(t, frrRouting)
	forwarding := func() string {
		return e.one.director.Run("sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
	}
	before := forwarding()
	e.begin()
	if got := forwarding(); got != before {
		t.Errorf("FRR has changed\n%s to\n%s", before, got)
	}
	e.drills(pairSizes[*args.Size])
	e.boots(e.one)
}

// boots has the controller of s make lvs0 anew, as after a boot, while zebra is busy with
// something else. FRR before 10.3 does not learn of the addresses then.
func (e *ecmp) boots(s *speaker) {
	e.Helper()
	e.Log("step: zebra is busy while the controller makes lvs0")
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		e.Errorf("SIGTERM: %v\n%s", err, s.process.Log())
	}
	e.routed(s.other)
	s.director.Run("ip", "link", "delete", "lvs0")
	s.routing.(*frr).busy(func() {
		s.start()
		lab.Within(e.T, 10*time.Second, func() string {
			shown := s.director.Run("ip", "-o", "address")
			for _, a := range []netip.Addr{e.vip.Addr(), e.vip6.Addr()} {
				if !strings.Contains(shown, a.String()) {
					return shown + s.process.Log()
				}
			}
			return ""
		})
		time.Sleep(200 * time.Millisecond) // zebra's other thread reads the addresses
	})
	e.routed(e.one, e.two)

	// Once FRR knows them, a renewal changes nothing on the router.
	renewed, told := len(s.addresses.Log()), len(e.routes.Log())
	lab.Within(e.T, 70*time.Second, func() string {
		if got := s.addresses.LogSince(renewed); !strings.Contains(got, e.vip.Addr().String()) || !strings.Contains(got, e.vip6.Addr().String()) {
			return "the addresses are not renewed: " + got
		}
		return ""
	})
	time.Sleep(time.Second)
	if got := e.routes.LogSince(told); got != "" {
		e.Errorf("a renewal has changed the router's routes:\n%s", got)
	}
}

// leaves has the last node drain, and then a director. It counts the downloads
// from that node that the director knew, and how many of all are lost.
func (e *ecmp) leaves(s *speaker) (on, lost int) {
	e.Helper()
	last := e.nodes[len(e.nodes)-1]
	ready := func(ready bool, weight string) {
		e.Helper()
		for _, d := range []*speaker{e.one, e.two} {
			d.objects.pods[len(e.nodes)-1].notReady = !ready
			d.writeCluster()
			lab.Within(e.T, 20*time.Second, func() string {
				table := d.director.Table()
				for _, a := range []netip.Addr{last.IPv4, last.IPv6} {
					if !strings.Contains(table, fmt.Sprintf("-r %s -g -w %s\n", netip.AddrPortFrom(a, 80), weight)) {
						return table + d.process.Log()
					}
				}
				return ""
			})
		}
	}
	time.Sleep(3 * time.Second) // longer than a sync daemon keeps anything to itself
	known := s.connections()
	elsewhere := s.other.connections()
	told := 0
	for _, stream := range e.streams {
		server := known[stream.From()]
		if strings.HasPrefix(server, last.IPv4.String()+":") || strings.HasPrefix(server, "["+last.IPv6.String()+"]:") {
			on++
			if elsewhere[stream.From()] != "" {
				told++
			}
		}
	}
	ready(false, "0")
	s.subcommand("drain")
	e.routed(s.other)
	time.Sleep(3 * time.Second) // a client acknowledges five lines a second
	for _, stream := range e.streams {
		if _, _, err := stream.State(); err != nil {
			lost++
		}
	}
	e.Logf("%s drained while %s drains: it knew %d downloads from there, the other director %d of them; %d lost", s.director.Name, last.Name, on, told, lost)
	ready(true, "1")
	s.subcommand("drain", "-undo")
	e.routed(e.one, e.two)
	return on, lost
}

// begin starts everything, and sees on the way that a director whose controller
// does not run yet is told to nobody.
func (e *ecmp) begin() {
	e.Helper()
	e.one.start()
	e.one.speak(ecmpCalm)
	e.two.speak(ecmpCalm)
	e.one.spoken()
	e.two.spoken()
	e.routed(e.one)
	e.two.start()
	e.routed(e.one, e.two)
	var table []string
	for _, vip := range []netip.AddrPort{e.vip, e.vip6} {
		table = append(table, fmt.Sprintf("-A -t %s -s mh -b mh-fallback,mh-port", vip))
		for _, n := range e.nodes {
			server := n.IPv4
			if vip.Addr().Is6() {
				server = n.IPv6
			}
			table = append(table, fmt.Sprintf("-a -t %s -r %s -g -w 1", vip, netip.AddrPortFrom(server, 80)))
		}
	}
	for _, s := range []*speaker{e.one, e.two} {
		s.table(table...)
		s.ready("ready")
	}
	e.open()
}

// drills are the steps, under load where no request may fail.
func (e *ecmp) drills(size pairSize) {
	e.Helper()
	e.step("drain", size, func(s *speaker) {
		s.subcommand("drain")
		e.routed(s.other)
		e.goOn(s.director.Name + " drained")
		s.subcommand("drain", "-undo")
		e.routed(e.one, e.two)
		e.goOn(s.director.Name + " back")
	})
	e.step("the controller's life", size, func(s *speaker) {
		told := len(s.addresses.Log())
		s.process.Kill()
		s.ready("NOT READY: the controller does not answer")
		s.start()
		s.ready("ready")
		if gone := s.addresses.LogSince(told); strings.Contains(gone, "Deleted") {
			e.Errorf("kill -9 and start of the controller of %s take an address away:\n%s", s.director.Name, gone)
		}
		stopped := time.Now()
		if err := s.process.Signal(syscall.SIGTERM); err != nil {
			e.Errorf("SIGTERM: %v\n%s", err, s.process.Log())
		}
		e.Logf("SIGTERM: ended after %s", time.Since(stopped).Round(10*time.Millisecond))
		e.routed(s.other)
		s.start()
		e.routed(e.one, e.two)
		e.goOn("controller of " + s.director.Name + " killed and restarted, stopped and started")
	})
	e.narrow()
	e.dies("the cable of a director", e.one, func() { e.one.director.CutPort(true) })
	e.one.director.CutPort(false)
	e.routed(e.one, e.two)
	e.goOn("the cable is back")
	e.dies("kill -9 of "+e.kind.name, e.two, e.two.routing.kill)
	e.two.speak(ecmpEager)
	e.routed(e.one, e.two)
	e.goOn(e.kind.name + " is back")
}

// narrow makes the client's link narrower than its ends know. The ICMP errors that
// say so are for a real server, and come to one director of which the router knows
// no better; the other's large answers arrive all the same, over both families.
func (e *ecmp) narrow() {
	e.Helper()
	e.Log("step: a narrow link on the way to the client")
	e.far.Run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
	e.far.Run("ip", "link", "set", "far2", "mtu", "1400")
	for _, vip := range []netip.AddrPort{e.vip, e.vip6} {
		whole := 0
		for range ecmpNarrow {
			for _, n := range e.nodes {
				n.Run("ip", "route", "flush", "cache") // what it has learnt of the way to the client
				n.Run("ip", "-6", "route", "flush", "cache")
			}
			if got := e.client.Curl(1, "http://"+vip.String()+"/large"); got["failed"] == 0 {
				whole++
			}
		}
		e.Logf("%s: %d of %d large answers have arrived", vip, whole, ecmpNarrow)
		if whole < ecmpNarrow {
			e.Errorf("%s: %d of %d large answers have arrived", vip, whole, ecmpNarrow)
		}
	}
	e.far.Run("ip", "link", "set", "far2", "mtu", "1500")
}

// step does something planned to one director after the other, again and again
// until there have been requests enough, over both families. None may fail.
func (e *ecmp) step(what string, size pairSize, do func(s *speaker)) {
	e.Helper()
	e.Logf("step: %s", what)
	loads := []*lab.Load{e.client.StartLoad(e.vip, size.workers, 20*time.Millisecond), e.client.StartLoad(e.vip6, 1, 20*time.Millisecond)}
	told, rounds := len(e.routes.Log()), 0
	for ; rounds == 0 || loads[0].Report().Requests+loads[1].Report().Requests < size.requests; rounds++ {
		do(e.one)
		do(e.two)
	}
	all, all6 := loads[0].Stop(), loads[1].Stop()
	both, moved := e.moved()
	e.Logf("%s: %d rounds; IPv4: %s; IPv6: %s; of %d connections that both directors have had %d moved to another real server", what, rounds, all, all6, both, moved)
	if all.Failed() > 0 || all6.Failed() > 0 || all.Requests+all6.Requests < size.requests {
		e.Errorf("%s: IPv4: %s\n%v\nIPv6: %s\n%v\nroutes:\n%s", what, all, all.Faults, all6, all6.Faults, e.routes.LogSince(told))
	}
	if both == 0 || moved > 0 {
		e.Errorf("%s: of %d connections that both directors have had %d moved to another real server, want 0 of many", what, both, moved)
	}
}

// dies lets something happen to a director, and sees how long new connections are
// not served and that the open ones go on.
func (e *ecmp) dies(what string, s *speaker, happen func()) {
	e.Helper()
	e.Logf("step: %s", what)
	e.silence(ecmpCalm)
	e.routed(e.one, e.two)
	e.open()
	e.silence(ecmpEager)
	time.Sleep(3 * time.Second) // each end uses the new limit then
	e.routed(e.one, e.two)
	load := e.client.StartLoad(e.vip, 2, 20*time.Millisecond)
	stop := make(chan struct{})
	type seen struct {
		unanswered int
		last       time.Time // when the last of those gave up
	}
	result := make(chan seen)
	start := time.Now()
	happen()
	go func() {
		var all seen
		for {
			select {
			case <-stop:
				result <- all
				return
			default:
			}
			if !e.client.Knock(e.vip, 200*time.Millisecond) {
				all.unanswered++
				all.last = time.Now()
			}
		}
	}()
	e.routed(s.other)
	gone := time.Since(start)
	time.Sleep(time.Second)
	close(stop)
	knocks := <-result
	gap := max(0, knocks.last.Sub(start))
	e.Logf("%s: routes gone after %s; all new connections served after %s, %d unanswered before; BFD takes %s",
		what, gone.Round(10*time.Millisecond), gap.Round(10*time.Millisecond), knocks.unanswered, ecmpSilence)
	if gap > ecmpSilence+ecmpSlack {
		e.Errorf("%s: new connections served after %s", what, gap)
	}
	e.goOn(what)
	report := load.Stop()
	both, moved := e.moved()
	e.Logf("%s: %s; of %d connections that both directors have had %d moved to another real server", what, report, both, moved)
	if moved > 0 {
		e.Errorf("%s: %d of %d connections moved to another real server", what, moved, both)
	}
}
