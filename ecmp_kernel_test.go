// Two active directors behind a router, and what clients notice when one of them
// withdraws, is cut off, loses its controller or its bird: nothing, for either
// takes up the other's connections where they are.

package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

func TestKernelECMP(t *testing.T) {
	e := newECMP(t, newRig(t))
	for _, s := range []*speaker{e.one, e.two} {
		for _, n := range e.nodes {
			s.objects.pods = append(s.objects.pods, pod{name: n.Name, node: n.Name, ips: []string{n.IPv4.String(), n.IPv6.String()}})
		}
		s.writeCluster()
		s.write("config.toml", s.configHead()+fmt.Sprintf(ecmpVIP, "ingress-nginx"))
	}
	e.begin()
	e.drills(pairSizes[os.Getenv("LVS_DRILL")])
}

// begin starts everything, and sees on the way that a director whose controller
// does not run yet is told to nobody.
func (e *ecmp) begin() {
	e.Helper()
	e.one.start()
	e.one.speak()
	e.two.speak()
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
		told := len(e.routes.Log())
		s.process.Kill()
		s.ready("NOT READY: the controller does not answer")
		s.start()
		s.ready("ready")
		if moved := e.routes.LogSince(told); strings.Contains(moved, e.vip.Addr().String()) || strings.Contains(moved, e.vip6.Addr().String()) {
			e.Errorf("kill -9 of the controller of %s moves routes:\n%s", s.director.Name, moved)
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
	e.dies("the cable of a director", e.one, func() { e.one.director.CutPort(true) })
	e.one.director.CutPort(false)
	e.routed(e.one, e.two)
	e.goOn("the cable is back")
	e.dies("kill -9 of bird", e.two, e.two.bird.Kill)
	e.two.speak()
	e.routed(e.one, e.two)
	e.goOn("bird is back")
}

// step does something planned to one director after the other, again and again
// until there have been requests enough, over both families. None may fail.
func (e *ecmp) step(what string, size pairSize, do func(s *speaker)) {
	e.Helper()
	e.Logf("step: %s", what)
	loads := []*lab.Load{e.client.StartLoad(e.vip, size.workers, 20*time.Millisecond), e.client.StartLoad(e.vip6, 1, 20*time.Millisecond)}
	rounds := 0
	for ; rounds == 0 || loads[0].Report().Requests+loads[1].Report().Requests < size.requests; rounds++ {
		do(e.one)
		do(e.two)
	}
	all, all6 := loads[0].Stop(), loads[1].Stop()
	both, moved := e.moved()
	e.Logf("%s: %d rounds; IPv4: %s; IPv6: %s; of %d connections that both directors have had %d moved to another real server", what, rounds, all, all6, both, moved)
	if all.Failed() > 0 || all6.Failed() > 0 || all.Requests+all6.Requests < size.requests {
		e.Errorf("%s: IPv4: %s\n%v\nIPv6: %s\n%v", what, all, all.Faults, all6, all6.Faults)
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
