// Nodes of which one address is behind a router, where direct routing cannot reach.

package director

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// A pod whose status names an address behind a router is in the log and in the status
// with a warning, without any probe. Its annotation names the address of its node that
// serves; the warning is there again when the annotation leads behind the router.
func TestKernelNodeBehindRouter(t *testing.T) {
	r := newRig(t)
	client, router := r.lab.Host("client", 3), r.lab.Router("router")
	for i, name := range []string{"node1", "node2"} {
		n := r.lab.Host(name, 11+i)
		n.Serve(80)
		n.Run(controller(), "realserver", "-vip", edgeVIP, "-uplink", "eth0", "-state", filepath.Join(r.dir, name))
	}
	router.Run("ip", "route", "add", "10.1.1.0/24", "via", "10.0.0.12")
	r.objects.pods = []pod{
		{name: "a", node: "node1", ips: []string{"10.0.0.11"}},
		{name: "d", node: "node2", ips: []string{"10.1.1.2", "10.0.0.12"}},
	}
	r.writeCluster()
	r.edgeConfig("announce = \"arp\"\n")
	r.start()
	const warning = "real server 10.1.1.2 (pod d ready) is behind a router"
	// step waits for the address that serves for node2, n warnings in the log so far, and
	// one in the status where that address is behind the router.
	step := func(address string, n int) {
		t.Helper()
		r.table("-A -t 10.0.0.100:80 -s rr", "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1", "-a -t 10.0.0.100:80 -r "+address+":80 -g -w 1")
		r.logged(n, warning)
		want := address == "10.1.1.2"
		lab.Within(t, 10*time.Second, func() string {
			if out := strings.Join(strings.Fields(r.director.Run(controller(), "status", "-config", filepath.Join(r.dir, "config.toml"))), " "); strings.Contains(out, warning) != want {
				return fmt.Sprintf("%s serves; a warning in the status is wanted: %t\n%s", address, want, out)
			}
			return ""
		})
	}
	annotate := func(address string) {
		t.Helper()
		r.objects.pods[1].address = address
		r.writeCluster()
	}
	step("10.1.1.2", 1)
	annotate("10.0.0.12")
	step("10.0.0.12", 1)
	annotate("10.1.1.2")
	step("10.1.1.2", 2)
	annotate("10.0.0.12")
	step("10.0.0.12", 2)
	if got := client.Curl(4, "http://10.0.0.100/"); got["node1"] != 2 || got["node2"] != 2 {
		t.Errorf("answers %v, want 2 from each node", got)
	}
}
