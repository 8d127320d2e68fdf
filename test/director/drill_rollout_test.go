// Drills of what is done on purpose: roll-outs and scaling, with the pod
// lifecycle that ingress-nginx really has, and uploads that are open through
// every drain.

package director

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// Every node's ingress is restarted, one after the other, as a DaemonSet's
// rolling update does: the new pod comes when the old one is gone.
func TestDrillRollingRestart(t *testing.T) {
	d := newDrill(t, "rolling")
	d.rollingRestart("rolling restart", func(int) {})
}

// The same, where the director reads a Service and its EndpointSlices, and no pods.
func TestDrillServiceRollingRestart(t *testing.T) {
	d := newDrillBy(t, "rolling-service", serviceName)
	d.rollingRestart("rolling restart, by its Service", func(int) {})
}

// The same with the ports from a Gateway, which is edited meanwhile.
func TestDrillRollingGateways(t *testing.T) {
	d := newDrill(t, "gwrolling")
	d.installGatewayAPI()
	d.gatewayRights("web")
	d.setGateway("web", nil, "web:HTTP:80", "db:TCP:9000")
	d.program("web", "web", "db")
	d.ports = gatewayPorts(d.namespace + "/web")
	d.configure(calmProbes + shortFin)
	d.rollingRestart("rolling restart, ports from a Gateway", func(i int) {
		listeners := []string{"web:HTTP:80", "db:TCP:9000", "more:TCP:9001"}[:3-i%2]
		d.setGateway("web", nil, listeners...)
		d.program("web", "web", "db", "more")
	})
}

// rollingRestart calls between after each node.
func (d *drill) rollingRestart(name string, between func(i int)) {
	t := d.T
	d.begin(d.size.nodes)
	load := d.load(drillPause)
	for i, n := range d.nodes {
		lab.Must(t, n.leave(t.Context(), d.uploadTo(n)))
		lab.Must(t, n.join(t.Context()))
		d.serving(d.nodes...)
		between(i)
	}
	load.await(d.size.requests)
	load.end(name)
	if d.uploads != len(d.nodes) || len(d.quiesced) != len(d.nodes) {
		t.Errorf("%d nodes: %d uploads completed, %d quiesced in time", len(d.nodes), d.uploads, len(d.quiesced))
	}
}

// From two nodes to many and back to the same two, all the others at once.
func TestDrillScale(t *testing.T) {
	d := newDrill(t, "scale")
	d.begin(2)
	d.addNodes(d.size.nodes - 2)
	more := d.nodes[2:]
	load := d.load(drillPause)
	d.joinAll(more)
	d.serving(d.nodes...)
	load.await(d.size.requests / 2)

	uploads := make(map[*ingressNode]*lab.Upload)
	for _, n := range more {
		uploads[n] = d.uploadTo(n)
	}
	d.each(more, func(n *ingressNode) error { return n.leave(t.Context(), uploads[n]) })
	d.serving(d.nodes[:2]...)
	gone := time.Now()
	lab.Within(t, 30*time.Second, func() string {
		for _, port := range drillPorts {
			if got := d.weights(port); len(got) != 2 {
				return fmt.Sprintf("drained, with no connections left, and still there: %v\n%s", got, d.process.Log())
			}
		}
		return ""
	})
	removed := time.Since(gone)
	load.await(d.size.requests)
	load.end("scale", fmt.Sprintf("2 → %d → 2 nodes", len(d.nodes)), fmt.Sprintf("rows removed %s after the pods", removed.Round(100*time.Millisecond)))
	if d.uploads != len(more) || len(d.quiesced) != len(more) {
		t.Errorf("%d nodes left: %d uploads completed, %d quiesced in time", len(more), d.uploads, len(d.quiesced))
	}
}

// An upload that does not end is left alone until the drain's deadline, and cut
// then, so that the client learns of it.
func TestDrillDeadline(t *testing.T) {
	const timeout = 8 * time.Second
	d := newDrill(t, "deadline")
	d.configure(calmProbes + shortFin + fmt.Sprintf("[vip.drain]\ntimeout = %q\n", timeout))
	d.begin(2)
	load := d.load(drillPause)
	n := d.nodes[0]
	upload := d.uploadTo(n)
	deleted := time.Now()
	lab.Must(t, d.admin.DeletePod(t.Context(), d.namespace, n.pod, nil))
	d.serving(d.nodes[1])
	quiesced := time.Now()
	cut, err := upload.Cut(timeout + 10*time.Second)
	upload.Close()
	// The drain began some time between the two.
	switch {
	case err == nil:
		t.Errorf("the upload goes on %s after the deadline\n%s", time.Since(quiesced)-timeout, d.process.Log())
	case cut.Sub(deleted) < timeout:
		t.Errorf("the upload is cut %s after the pod's DELETE (%v), the drain's timeout is %s\n%s", cut.Sub(deleted), err, timeout, d.process.Log())
	case cut.Sub(quiesced) > timeout+5*time.Second:
		t.Errorf("the upload is cut only %s after weight 0 (%v), the drain's timeout is %s", cut.Sub(quiesced), err, timeout)
	}
	lab.Within(t, 10*time.Second, func() string { // the line follows the kernel's answer
		if !strings.Contains(d.process.Log(), "drain deadline") {
			return "the log does not tell:\n" + d.process.Log()
		}
		return ""
	})
	load.end("drain deadline", fmt.Sprintf("drain timeout %s, upload cut %s after DELETE", timeout, cut.Sub(deleted).Round(time.Millisecond)))
}
