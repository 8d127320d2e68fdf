// Drills of what happens to the director: its controller is killed, its
// configuration is changed again and again, it boots without an API server.

package director

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// kill -9 at random moments, each soon after something has changed, so that
// there is something to be in the midst of. One node drains all the while, with
// an open upload: who leaves since when is not forgotten.
func TestDrillKill(t *testing.T) {
	d := newDrill(t, "kill")
	d.begin(4)
	load := d.load(drillPause)
	leaving, flapping := d.nodes[0], d.nodes[1]
	upload := d.uploadTo(leaving)
	lab.Must(t, d.admin.DeletePod(t.Context(), d.namespace, leaving.pod, nil))
	d.serving(d.nodes[1:]...)
	schedulers := []string{"wlc", "rr"}
	for round := range d.size.kills {
		switch on := round/3%2 == 1; round % 3 {
		case 0:
			lab.Must(t, d.admin.SetPodStatus(t.Context(), d.namespace, flapping.pod, on, flapping.IPv4.String()))
		case 1:
			ports := map[string]string{"9000": "default/db:5432"}
			if !on {
				ports["9001"] = "default/more:1"
			}
			lab.Must(t, d.admin.SetConfigMap(t.Context(), d.namespace, "tcp-services", ports))
		case 2:
			d.configure(fmt.Sprintf("scheduler = %q\n", schedulers[round/3%2]) + calmProbes + shortFin)
		}
		time.Sleep(rand.N(2 * time.Second))
		d.process.Kill()
		time.Sleep(rand.N(500 * time.Millisecond))
		d.start()
	}
	lab.Must(t, d.admin.SetPodStatus(t.Context(), d.namespace, flapping.pod, true, flapping.IPv4.String()))
	d.serving(d.nodes[1:]...)
	if _, there := d.weights(80)[leaving.IPv4]; !there {
		t.Errorf("the node that leaves is removed although an upload is open\n%s", d.process.Log())
	}
	lab.Must(t, d.finish(upload))
	load.await(d.size.requests)
	load.end("kill -9", fmt.Sprintf("%d kills", d.size.kills))
}

// The configuration is reloaded, each time with another scheduler, which the
// kernel exchanges in place. An upload is open all the while.
func TestDrillReload(t *testing.T) {
	schedulers := []string{"wlc", "rr", "lc", "wrr", "sed", "nq", "sh", "mh"}
	d := newDrill(t, "reload")
	d.begin(3)
	load := d.load(drillPause)
	upload := d.uploadTo(d.nodes[0])
	reload := func(scheduler string) {
		d.configure(fmt.Sprintf("scheduler = %q\n", scheduler) + calmProbes + shortFin)
		lab.Within(t, 15*time.Second, func() string {
			if table := d.director.Table(); strings.Count(table, " -s "+scheduler+"\n")+strings.Count(table, " -s "+scheduler+" ") != len(drillPorts) {
				return fmt.Sprintf("want scheduler %s:\n%s\n%s", scheduler, table, d.process.Log())
			}
			return ""
		})
	}
	for i := range d.size.reloads {
		reload(schedulers[i%len(schedulers)])
	}
	reload("rr")
	lab.Must(t, d.finish(upload))
	load.await(d.size.requests)
	pace := strings.TrimSpace(d.director.Run("sysctl", "-n", "net.ipv4.icmp_ratelimit"))
	if pace != kernelPace {
		t.Errorf("net.ipv4.icmp_ratelimit is %s afterwards, want %s", pace, kernelPace)
	}
	load.end("reload", fmt.Sprintf("%d reloads, %d exchanges of a scheduler", d.size.reloads+1, d.process.CountLog("virtual service edited")))
}

// The director reboots while the API server is away: table, addresses, kernel
// settings and /run are lost, /var is not. What counts are the requests that
// begin after its first reconcile.
func TestDrillReboot(t *testing.T) {
	d := newDrill(t, "reboot")
	d.begin(4)
	saved := []string{"default/db:5432"} // what port 9000 is for
	for _, n := range d.nodes {
		saved = append(saved, n.pod)
	}
	d.saved(saved...)
	d.killAPI()
	d.process.Kill()
	d.director.Run("ipvsadm", "-C")
	d.director.Run("ip", "address", "del", edgeVIP+"/32", "dev", "eth0")
	d.director.Run("sysctl", "-qw", "net.ipv4.vs.conn_reuse_mode=1", "net.ipv4.vs.expire_nodest_conn=0", "net.ipv4.vs.expire_quiescent_template=0")
	lab.Must(t, os.RemoveAll(filepath.Join(d.dir, "state")))
	early := d.load(drillPause) // clients that do not wait for the director
	time.Sleep(2 * time.Second)
	booted := time.Now()
	d.start()
	lab.Within(t, 15*time.Second, func() string {
		if !strings.Contains(d.process.Log(), "VIP address added") {
			return "the director does not come up:\n" + d.process.Log()
		}
		return ""
	})
	up := time.Now()
	load := d.load(drillPause)
	before := early.stop()
	for _, f := range before.Faults {
		if f.Began.After(up) {
			t.Errorf("a request that began %s after the first reconcile failed: %s", f.Began.Sub(up), f.Kind)
		}
	}
	d.serving(d.nodes...)
	upload := d.uploadTo(d.nodes[0])
	load.await(d.size.requests)
	lab.Must(t, d.finish(upload))
	d.logged(1, "starting from the last-good snapshot of the cluster")

	lab.Must(t, d.control.StartAPI(t.Context()))
	lab.Must(t, d.nodes[3].leave(t.Context(), d.uploadTo(d.nodes[3])))
	d.serving(d.nodes[:3]...)
	load.end("reboot", fmt.Sprintf("first reconcile %s after the start", up.Sub(booted).Round(10*time.Millisecond)),
		fmt.Sprintf("%d of %d requests failed before it and are not counted", before.Failed(), before.Requests))
}

// kernelPace is the kernel's default of net.ipv4.icmp_ratelimit.
const kernelPace = "1000"

// saved waits until the last-good snapshot of the cluster has all of these.
func (r *rig) saved(all ...string) {
	r.Helper()
	lab.Within(r.T, 30*time.Second, func() string {
		snapshot, err := os.ReadFile(filepath.Join(r.dir, "cache", "cluster.json"))
		for _, one := range all {
			if !strings.Contains(string(snapshot), one) {
				return fmt.Sprintf("%s is not in the snapshot: %v", one, err)
			}
		}
		return ""
	})
}
