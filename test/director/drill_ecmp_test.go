// Drill of two active directors behind a router while the API server is away: the
// steps of TestKernelECMP, after the pods have come from a real API server and it
// has died.

package director

import (
	"fmt"
	"strings"
	"testing"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"
)

func TestDrillECMP(t *testing.T) {
	of(t, "drill")
	p := newPlane(t)
	dir := t.TempDir() // first, as in newRig
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	const namespace = "ecmp"
	e := newECMP(t, &rig{T: t, lab: l, director: l.Host("director", 2), dir: dir}, birdRouting)
	kubeconfig := string(p.account(t, namespace))
	for _, s := range []*speaker{e.one, e.two} {
		p.relay(t, s.director)
		s.write("kubeconfig", kubeconfig)
		s.write("config.toml", strings.Replace(s.configHead(), "cluster_file = \"cluster.json\"", "kubeconfig = \"kubeconfig\"", 1)+fmt.Sprintf(ecmpVIP, namespace))
	}
	for _, n := range e.nodes {
		lab.Must(t, p.admin.CreatePod(t.Context(), namespace, "ingress-"+n.Name, n.Name, ingressLabels, true, []string{n.IPv4.String(), n.IPv6.String()}))
	}
	e.begin()
	for _, s := range []*speaker{e.one, e.two} {
		s.saved("ingress-node11", "ingress-node12", "ingress-node13")
	}
	p.killAPI(t)
	e.drills(pairSizes[*args.Size])
}
