// Drill of an outage: the API server is away, and a node dies meanwhile. Only
// the probes can tell.

package director

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// deathLimit is how soon a dead node must be out of service, with probes every
// 500 ms that may fail three times.
const deathLimit = 2 * time.Second

// The API server is dead for minutes. A third of the way one node dies: its link
// is down, and nobody sends a RST. Requests that it was given before the probes
// could know are lost; a live real server could not have answered them. So the
// failures that are allowed are timeouts of requests that began before the node was
// out of service, and no other.
func TestDrillAPIAway(t *testing.T) {
	d := newDrill(t, "outage")
	d.configure(eagerProbes + shortFin)
	d.begin(4)
	dead, alive := d.nodes[1], slices.Concat(d.nodes[:1], d.nodes[2:])
	upload := d.uploadTo(alive[0])
	load := d.load(time.Duration(drillWorkers) * d.size.away / time.Duration(d.size.requests))
	d.killAPI()
	killed := time.Now()
	time.Sleep(d.size.away / 3)

	dead.CutLink(true)
	death := time.Now()
	took := map[uint16]time.Duration{}
	lab.Within(t, 15*time.Second, func() string {
		for _, port := range drillPorts {
			if took[port] == 0 && dead.weight(port) == 0 {
				took[port] = time.Since(death)
			}
		}
		if len(took) < len(drillPorts) {
			return "the dead node is in service\n" + d.process.Log()
		}
		return ""
	})
	found := max(took[80], took[9000])
	d.foundFor(dead, "no answer in 250ms")
	if found > deathLimit {
		t.Errorf("the dead node is out of service after %s, want %s at most", found, deathLimit)
	}
	time.Sleep(time.Until(killed.Add(d.size.away)))
	d.serving(alive...)
	load.await(d.size.requests)
	away := time.Since(killed)
	lab.Must(t, d.control.StartAPI(t.Context()))
	dead.CutLink(false)
	d.serving(d.nodes...)
	lab.Must(t, d.finish(upload))

	report, lost := without(load.stop(), func(f lab.Fault) bool {
		return f.Kind == "timeout" && f.Began.After(death.Add(-lab.RequestLimit)) && f.Began.Before(death.Add(found))
	})
	d.tell("API server away", report, fmt.Sprintf("away for %s", away.Round(time.Second)),
		fmt.Sprintf("a node died: weight 0 after %s, %d requests were lost to it and are not counted", found.Round(time.Millisecond), lost))
	if report.Failed() > 0 {
		t.Errorf("%s\nthe node died at %s\n%s", describeFaults(report), death.Format("15:04:05.000"), d.process.Log())
	}
}

// foundFor checks that the first thing the probes said against a node is why.
func (d *drill) foundFor(n *ingressNode, why string) {
	d.Helper()
	first := ""
	lab.Within(d.T, 5*time.Second, func() string {
		for line := range strings.Lines(d.process.Log()) {
			down := strings.Contains(line, `msg="probe: real server down"`) || strings.Contains(line, `msg="probe: ports down"`)
			if down && strings.Contains(line, "server="+n.IPv4.String()+" ") {
				first = line
				return ""
			}
		}
		return "the log does not tell why " + n.Name + " is out of service\n" + d.process.Log()
	})
	if !strings.Contains(first, why) {
		d.Errorf("%s is out of service for another reason, want %q:\n%s", n.Name, why, first)
	}
}
