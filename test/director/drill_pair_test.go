// Drill of a pair: two directors that follow one cluster, real keepalived as we
// configure it, and an API server that is away while directors die, hand over
// and lose their controllers. The pair's own part is in pair_rig_test.go.

package director

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// drillPair is a pair before the nodes of a drill. What it has of a drill's own
// is with the first director.
type drillPair struct {
	*drill
	*pair
	second *drill // the same nodes, seen from the second director
}

// newDrillPair makes n nodes that serve, and two directors that know it.
// keepalived does not run yet.
func newDrillPair(t *testing.T, namespace string, n int) *drillPair {
	t.Helper()
	d := newDrill(t, namespace)
	r := &rig{T: t, lab: d.lab, director: d.lab.Host("director2", 4), dir: t.TempDir()}
	p := &drillPair{
		drill:  d,
		pair:   pairOf(d.rig, r, d.client, d.vip),
		second: &drill{e2e: &e2e{rig: r, plane: d.plane, namespace: namespace, client: d.client}, size: d.size, vip: d.vip},
	}
	p.second.dial()
	d.relay(t, r.director)
	kubeconfig, err := os.ReadFile(filepath.Join(d.dir, "kubeconfig"))
	lab.Must(t, err)
	r.write("kubeconfig", string(kubeconfig))
	for _, v := range p.views() {
		v.write("config.toml", v.clusterHead()+pairHead+v.edgeOver("none", pairScheduler+calmProbes+shortFin))
	}
	d.addNodes(n)
	d.joinAll(d.nodes)
	p.controllers(p.rows(d.nodes...)...)
	return p
}

// views are the drill from each director.
func (p *drillPair) views() []*drill { return []*drill{p.drill, p.second} }

// rows are the table of either director with these nodes in service.
func (p *drillPair) rows(nodes ...*ingressNode) []string {
	var rows []string
	for _, port := range drillPorts {
		service := netip.AddrPortFrom(p.drill.vip.Addr(), port)
		rows = append(rows, fmt.Sprintf("-A -t %s -s mh -b mh-fallback,mh-port", service))
		for _, n := range nodes {
			rows = append(rows, fmt.Sprintf("-a -t %s -r %s:%d -g -w 1", service, n.IPv4, port))
		}
	}
	return rows
}

// under makes a change to the pair again and again, under load, until there have
// been as many requests as the drill wants. None may fail.
func (p *drillPair) under(what string, change func()) {
	p.Helper()
	load := p.load(drillPause)
	rounds := 0
	for ; rounds == 0 || load.report().Requests < p.size.requests; rounds++ {
		change()
	}
	load.end("pair, API server away: "+what, fmt.Sprintf("rounds: %d", rounds))
	p.goOn(what)
}

// What TestKernelPair does to a pair that needs no cluster, with a cluster whose
// API server is killed before and comes back afterwards.
func TestDrillPair(t *testing.T) {
	p := newDrillPair(t, "pair", 3)
	one, two := p.one, p.two
	p.elect(nil, nil)
	p.open(pairStreams)
	p.killAPI()
	killed := time.Now()

	p.under("handed over by priority, and back", func() {
		p.raise(two)
		p.raise(one)
	})
	p.under("handed over by a drain, and back", func() {
		p.drain(one)
		p.drain(two)
	})
	p.under("both controllers restarted after kill -9, and after SIGTERM", func() {
		for _, end := range []func(*lab.Process){
			(*lab.Process).Kill,
			func(controller *lab.Process) { lab.Must(t, controller.Signal(syscall.SIGTERM)) },
		} {
			p.restart(end)
			p.bring(one)
			for _, m := range []*twin{one, two} {
				m.logged(3, "cannot follow the cluster; the last known state stays in force") // pods and two ConfigMaps
			}
		}
	})

	load := p.load(drillPause)
	p.abandoned(func() {
		if got := p.client.Curl(20, "http://"+edgeVIP+"/"); got["failed"] > 0 {
			t.Errorf("without any controller: %v", got)
		}
	})
	load.end("pair, API server away: neither controller runs, and both are back")

	p.deaths()
	for _, m := range []*twin{one, two} {
		m.table(p.rows(p.nodes...)...)
	}
	if err := p.admin.Get(t.Context(), "/readyz", nil); err == nil {
		t.Error("the API server was there")
	}

	away := time.Since(killed)
	lab.Must(t, p.control.StartAPI(t.Context()))
	p.addNodes(1)
	fresh := p.nodes[len(p.nodes)-1]
	lab.Must(t, fresh.join(t.Context()))
	joined := time.Now()
	for _, m := range []*twin{one, two} {
		m.table(p.rows(p.nodes...)...)
	}
	t.Logf("the API server was away for %s; both directors have taken up the pod %s %s after it was ready", away.Round(time.Second), fresh.pod, time.Since(joined).Round(10*time.Millisecond))
	lab.Within(t, 10*time.Second, func() string {
		if got := p.client.Curl(20, "http://"+edgeVIP+"/"); got[fresh.Name] == 0 || got["failed"] > 0 {
			return fmt.Sprintf("answers: %v", got)
		}
		return ""
	})
	p.goOn("the API server is back, a node more")
}
