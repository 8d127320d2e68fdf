// A single director that announces the VIP itself, and a second one that takes over.

package director

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// singleStreams are the downloads that are open all the time.
const singleStreams = 100

// A single director with the VIP on its uplink: its controller may die or end, a
// cable that is out for a while cuts nothing, and what an operator's drain gives up
// another director takes.
func TestKernelSingle(t *testing.T) {
	r := newRig(t)
	p := &pair{T: t, client: r.lab.Host("client", 3), vip: netip.MustParseAddrPort("10.0.0.100:80")}
	vip := "[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nannounce = \"arp\"\nports = [80]\nscheduler = \"rr\"\nreal_servers = ["
	for n := 11; n <= 13; n++ {
		node := r.lab.Host("node"+strconv.Itoa(n), n)
		node.Serve(80)
		node.Run(controller(), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
		vip += fmt.Sprintf("{address = \"10.0.0.%d\"}, ", n)
	}
	vip += "]\n"
	r.write("config.toml", r.configHead()+vip)
	r.start()
	served := func(what string, since time.Time) {
		t.Helper()
		unanswered := 0
		for ; !p.client.Knock(p.vip, 100*time.Millisecond); unanswered++ {
			if time.Since(since) > 30*time.Second {
				t.Fatalf("%s: new connections are not served\n%s", what, r.process.Log())
			}
		}
		t.Logf("%s: new connections served after %s, %d unanswered before", what, time.Since(since).Round(10*time.Millisecond), unanswered)
	}
	has := func(d *rig) bool {
		return strings.Contains(d.director.Run("ip", "-4", "address", "show", "dev", "eth0"), "10.0.0.100/32")
	}
	served("the controller's first start", time.Now())
	p.open(singleStreams)

	t.Log("step: the controller is killed, started, ended, and started again")
	load := p.client.StartLoad(p.vip, 2, 20*time.Millisecond)
	r.process.Kill()
	r.start()
	r.logged(1, "connected to the kernel's IPVS")
	if err := r.process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	p.goOn("without a controller")
	r.start()
	r.logged(1, "connected to the kernel's IPVS")
	report := load.Stop()
	t.Logf("the controller killed, started, ended and started: %s", report)
	if report.Failed() > 0 || report.Requests == 0 {
		t.Errorf("the controller was away: %v", report.Faults)
	}

	t.Log("step: the cable is out for five seconds")
	r.director.CutPort(true)
	if p.client.Knock(p.vip, 500*time.Millisecond) {
		t.Error("answered without a cable")
	}
	time.Sleep(5 * time.Second)
	r.director.CutPort(false)
	served("the cable is back", time.Now())
	p.goOn("the cable was out for five seconds")

	t.Log("step: a second director takes the VIP that the first one is told to give up")
	second := &rig{T: t, lab: r.lab, director: r.lab.Host("director2", 4), dir: t.TempDir()}
	second.write("config.toml", second.configHead()+vip)
	out, err := second.director.Command(controller(), "drain", "-wait", "0s", "-config", filepath.Join(second.dir, "config.toml")).CombinedOutput()
	if err == nil {
		t.Errorf("a drain is confirmed without a controller: %s", out)
	}
	second.start()
	second.subcommand("drain")
	if has(second) || !has(r) {
		t.Errorf("drained before it starts, the second director has the VIP: %t; the first: %t", has(second), has(r))
	}
	r.subcommand("drain")
	start := time.Now()
	if has(r) {
		t.Error("drained, the first director has the VIP")
	}
	second.subcommand("drain", "-undo")
	served("the second director has the VIP", start)
	if !has(second) || has(r) {
		t.Errorf("the second director has the VIP: %t; the first: %t", has(second), has(r))
	}
	second.process.Kill()
}

// A drain is not confirmed while an address stays that another hand has put on the
// uplink, and is once it has gone.
func TestKernelDrainLeavesAStranger(t *testing.T) {
	r := newRig(t)
	r.director.Run("ip", "address", "add", "2001:db8::100/128", "dev", "eth0", "nodad")
	r.write("config.toml", r.configHead()+"[[vip]]\nname = \"edge\"\naddresses = [\"2001:db8::100\"]\nannounce = \"arp\"\nports = [80]\nreal_servers = [{address = \"2001:db8::11\"}]\n")
	r.start()
	r.ready("ready")
	out, err := r.director.Command(controller(), "drain", "-wait", "3s", "-config", filepath.Join(r.dir, "config.toml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no controller has confirmed it") {
		t.Errorf("drain with the VIP on the uplink: %v: %s", err, out)
	}
	r.logged(1, "2001:db8::100 is on eth0, but this controller did not put it there: remove it by hand")
	r.ready("NOT READY: drained by the operator since ")
	r.director.Run("ip", "address", "del", "2001:db8::100/128", "dev", "eth0")
	r.subcommand("drain")
}

// A node that dies gets no new connections, without any probe, and gets them again when
// it is back; of many that die half stay in service, and of all that die each one.
func TestKernelDeadNeighbours(t *testing.T) {
	r := newRig(t)
	// The kernel asks a neighbour again soon, to make the test short.
	for _, family := range []string{"ipv4", "ipv6"} {
		r.director.Run("sysctl", "-qw", "net."+family+".neigh.eth0.base_reachable_time_ms=2000", "net."+family+".neigh.eth0.delay_first_probe_time=1")
	}
	nodes := make(map[int]*lab.Host)
	vip := "[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\nannounce = \"arp\"\nports = [80]\nscheduler = \"rr\"\nreal_servers = ["
	for n := 11; n <= 14; n++ {
		nodes[n] = r.lab.Host("node"+strconv.Itoa(n), n)
		nodes[n].Serve(80)
		nodes[n].Run(controller(), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
		vip += fmt.Sprintf("{address = \"10.0.0.%d\"}, {address = \"2001:db8::%d\"}, ", n, n)
	}
	vip += "]\n"
	r.write("config.toml", r.configHead()+vip)
	client := r.lab.Host("client", 3)
	r.start()
	r.ready("ready")
	load := client.StartLoad(netip.MustParseAddrPort("10.0.0.100:80"), 2, 20*time.Millisecond)
	load6 := client.StartLoad(netip.MustParseAddrPort("[2001:db8::100]:80"), 2, 20*time.Millisecond)
	down := func(what string, limit time.Duration, want4, want6 int) {
		t.Helper()
		since := time.Now()
		lab.Within(t, limit, func() string {
			out := r.director.Run(controller(), "status", "-config", filepath.Join(r.dir, "config.toml"))
			if got4, got6 := strings.Count(out, ": no answer to ARP"), strings.Count(out, ": no answer to neighbour discovery"); got4 != want4 || got6 != want6 {
				return fmt.Sprintf("%s: %d and %d are down, want %d and %d\n%s%s%s", what, got4, got6, want4, want6, out, r.director.Run("ip", "neighbour"), r.process.Log())
			}
			return ""
		})
		t.Logf("%s: seen after %s", what, time.Since(since).Round(10*time.Millisecond))
	}
	served := func(what string) {
		t.Helper()
		for _, url := range []string{"http://10.0.0.100/", "http://[2001:db8::100]/"} {
			sum := 0
			for _, n := range client.Curl(12, url) {
				sum += n
			}
			if sum != 12 {
				t.Errorf("%s: %d of 12 connections to %s are served\n%s", what, sum, url, r.process.Log())
			}
		}
	}
	time.Sleep(3 * time.Second)
	down("all answer", time.Second, 0, 0)

	t.Log("step: one dies, and comes back")
	nodes[12].CutLink(true)
	down("one is dead", 20*time.Second, 1, 1)
	served("one is dead")
	r.logged(1, `msg="neighbour: real server down" server=10.0.0.12 vip=edge vips=1 why="no answer to ARP"`)
	r.process.Kill()
	r.start()
	r.ready("ready")
	time.Sleep(2 * time.Second)
	down("a new process remembers it", time.Second, 1, 1)
	served("after a restart")
	nodes[12].CutLink(false)
	nodes[12].Run("ip", "address", "replace", nodes[12].IPv6.String()+"/64", "dev", "eth0", "nodad")
	down("it is back", 5*time.Second, 0, 0)
	served("it is back")

	t.Log("step: three die, then the last one")
	for _, n := range []int{11, 12, 13} {
		nodes[n].CutLink(true)
	}
	down("half are out", 20*time.Second, 2, 2)
	nodes[14].CutLink(true)
	down("none is out when all are dead", 20*time.Second, 0, 0)
	for _, node := range nodes {
		node.CutLink(false)
		node.Run("ip", "address", "replace", node.IPv6.String()+"/64", "dev", "eth0", "nodad")
	}
	time.Sleep(5 * time.Second)
	down("all are back", 5*time.Second, 0, 0)
	served("all are back")

	t.Log("step: the operator turns it off")
	nodes[12].CutLink(true)
	down("one is dead again", 20*time.Second, 1, 1)
	r.write("config.toml", r.configHead()+vip+"neighbour_check = false\n")
	down("turned off", 5*time.Second, 0, 0)
	t.Log("load over IPv4:", load.Stop())
	t.Log("load over IPv6:", load6.Stop())
}
