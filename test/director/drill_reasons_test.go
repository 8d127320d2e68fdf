// Drill of nodes that are alive and not fit: each is found for what it is, by
// the log and by `status`, and clients are spared.

package director

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// promised is how soon an unfit node is quiesced, at interval = "500ms" and
// fall = 3. Where the processors are emulated times are not the controller's
// alone: twice that is an error, and what it was is printed.
const promised = 3 * time.Second

// A node without the VIP on its lo, one with a firewall before one port, and one
// whose ingress answers 500, one after the other.
func TestDrillReasons(t *testing.T) {
	d := newDrill(t, "reasons")
	d.configure(eagerProbes + shortFin)
	d.begin(5)
	bare, walled, sick := d.nodes[2], d.nodes[3], d.nodes[4]
	// As Kubernetes has its nodes: what is not for them they pass on.
	bare.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	load := d.load(drillPause)
	var (
		found  []string
		early  []func(lab.Fault) bool // requests that began before the node was found
		excuse = func(f lab.Fault) bool {
			return slices.ContainsFunc(early, func(began func(lab.Fault) bool) bool { return began(f) })
		}
	)
	for _, c := range []struct {
		name          string
		node          *ingressNode
		spoil, repair func()
		ports         []uint16 // out of service
		why           string
		status        string
	}{
		{
			name:   "no VIP on lo",
			node:   bare,
			spoil:  func() { bare.Run("ip", "address", "del", edgeVIP+"/32", "dev", "lo") },
			repair: func() { bare.Run("ip", "address", "add", edgeVIP+"/32", "dev", "lo") },
			ports:  drillPorts,
			why:    "through the node: the node does not have the VIP on its lo: it would pass the packet on",
			status: "ready, but 10.0.0.100:80 through the node: the node does not have the VIP on its lo: it would pass the packet on",
		},
		{
			name: "firewall before 9000",
			node: walled,
			spoil: func() {
				walled.Run("nft", "add table inet wall; add chain inet wall in { type filter hook input priority 0; }; add rule inet wall in tcp dport 9000 drop")
			},
			repair: func() { walled.Run("nft", "delete table inet wall") },
			ports:  []uint16{9000},
			why:    `ports=9000/tcp why="no answer in 250ms"`,
			status: "ready, but port 9000/tcp: no answer in 250ms",
		},
		{
			name:   "answers 500",
			node:   sick,
			spoil:  func() { lab.Must(t, os.WriteFile(sick.healthFlag(), nil, 0o644)) },
			repair: func() { lab.Must(t, os.Remove(sick.healthFlag())) },
			ports:  drillPorts,
			why:    `why="GET http://10.0.0.15:10254/healthz: 500"`,
			status: "ready, but GET http://10.0.0.15:10254/healthz: 500",
		},
	} {
		spoiled := time.Now()
		c.spoil()
		lab.Within(t, 20*time.Second, func() string {
			for _, port := range c.ports {
				if c.node.weight(port) != 0 {
					return fmt.Sprintf("%s: the node is in service on port %d\n%s", c.name, port, d.process.Log())
				}
			}
			return ""
		})
		quiesced := time.Now()
		took := quiesced.Sub(spoiled)
		early = append(early, func(f lab.Fault) bool {
			return f.Began.After(spoiled.Add(-lab.RequestLimit)) && f.Began.Before(quiesced)
		})
		found = append(found, fmt.Sprintf("%s: weight 0 after %s", c.name, took.Round(10*time.Millisecond)))
		if took > 2*promised {
			t.Errorf("%s: the node is quiesced after %s", c.name, took)
		}
		d.foundFor(c.node, c.why)
		for _, port := range drillPorts {
			out := slices.Contains(c.ports, port)
			lab.Within(t, 10*time.Second, func() string { // the record follows the kernel's answer
				if status := d.status(c.node, port); status == "" || strings.Contains(status, c.status) != out {
					return fmt.Sprintf("%s, port %d: that status says %q should be %t: %s", c.name, port, c.status, out, status)
				}
				return ""
			})
			answers := d.client.Curl(20, "http://"+netip.AddrPortFrom(d.vip.Addr(), port).String()+"/")
			if answers["failed"] > 0 || out == (answers[c.node.Name] > 0) {
				t.Errorf("%s, port %d: the node out of service: %t, answers %v", c.name, port, out, answers)
			}
		}
		c.repair()
		d.serving(d.nodes...)
	}
	load.await(d.size.requests)
	report, lost := without(load.stop(), excuse)
	d.tell("reasons", report, append(found, fmt.Sprintf("%d requests were lost before that and are not counted", lost))...)
	if report.Failed() > 0 {
		t.Errorf("%s\n%s", describeFaults(report), d.process.Log())
	}
}

// status is what `lvs-controller status` says of node n behind one of the VIP's ports: its
// weight and the reason.
func (d *drill) status(n *ingressNode, port uint16) string {
	d.Helper()
	out := d.director.Run(controller(), "status", "-o", "json", "-port", fmt.Sprintf("%d/tcp", port), "-server", n.IPv4.String(), "-config", filepath.Join(d.dir, "config.toml"))
	var st struct {
		Services []struct {
			Servers []struct {
				Weight uint32 `json:"weight"`
				Why    string `json:"why"`
			} `json:"servers"`
		} `json:"services"`
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil || len(st.Services) != 1 || len(st.Services[0].Servers) != 1 {
		return ""
	}
	r := st.Services[0].Servers[0]
	return fmt.Sprintf("weight %d: %s", r.Weight, r.Why)
}
