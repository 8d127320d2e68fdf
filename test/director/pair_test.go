// A pair of directors: real keepalived with the configuration that we print, the
// controller on both, sync daemons, and clients that must not notice which of
// the two is there. The rig is in pair_rig_test.go; drill_pair_test.go does the
// same with a real cluster whose API server is away.

package director

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"
)

// pairSize is how much load the planned changes get. -size says which.
type pairSize struct {
	workers  int
	requests int // at least
}

var pairSizes = map[string]pairSize{
	"":      {workers: 2, requests: 200},
	"short": {workers: 4, requests: 500},
	"long":  {workers: 8, requests: 10000},
}

// newPair is a pair before three nodes that config.toml names, with both
// families. The controllers run, keepalived does not yet.
func newPair(t *testing.T) *pair {
	first := newRig(t)
	second := &rig{T: t, lab: first.lab, director: first.lab.Host("director2", 4), dir: t.TempDir()}
	for n := 11; n <= 13; n++ {
		node := first.lab.Host("node"+strconv.Itoa(n), n)
		node.Serve(80)
		node.Run(controller(), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
	}
	for _, r := range []*rig{first, second} {
		r.write("config.toml", r.configHead()+pairHead+"[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\nports = [80]\n"+pairScheduler+
			"real_servers = [{address = \"10.0.0.11\"}, {address = \"10.0.0.12\"}, {address = \"10.0.0.13\"}, {address = \"2001:db8::11\"}]\n")
	}
	p := pairOf(first, second, first.lab.Host("client", 3), netip.MustParseAddrPort("10.0.0.100:80"))
	p.controllers("-A -t 10.0.0.100:80 -s mh -b mh-fallback,mh-port", "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1",
		"-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 1", "-a -t 10.0.0.100:80 -r 10.0.0.13:80 -g -w 1",
		"-A -t [2001:db8::100]:80 -s mh -b mh-fallback,mh-port", "-a -t [2001:db8::100]:80 -r [2001:db8::11]:80 -g -w 1")
	return p
}

// six asks over IPv6 too, whose address moves with IPv4's.
func (p *pair) six() {
	p.Helper()
	if got := p.client.Curl(3, "http://[2001:db8::100]/"); got["node11"] != 3 {
		p.Errorf("over IPv6: %v", got)
	}
}

func TestKernelPair(t *testing.T) {
	size := pairSizes[*args.Size]
	p := newPair(t)
	one, two := p.one, p.two
	p.elect(nil, nil)
	p.open(pairStreams)
	p.synced(two)

	t.Log("step: planned hand-overs, with new connections all the time")
	load := p.client.StartLoad(p.vip, size.workers, 20*time.Millisecond)
	rounds := 0
	for ; rounds == 0 || load.Report().Requests < size.requests; rounds++ {
		if err := one.process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("SIGTERM: %v", err)
		}
		p.holder(two)
		one.start()
		one.ready("ready")
		one.trusted()
		p.drain(two)
		p.raise(two)
		p.raise(one)
		p.restart((*lab.Process).Kill)
		p.holder(one)
	}
	report := load.Stop()
	t.Logf("controller stopped, director drained, priority raised by a reload on each, both controllers killed and restarted; rounds: %d; %s", rounds, report)
	if report.Failed() > 0 || report.Requests < size.requests {
		t.Errorf("planned hand-overs: %s\n%v", report, report.Faults)
	}
	p.goOn("planned hand-overs")

	t.Log("step: neither controller runs: the addresses stay, and the kernel goes on")
	p.abandoned(func() {
		if got := p.client.Curl(9, "http://10.0.0.100/"); got["node11"]+got["node12"]+got["node13"] != 9 {
			t.Errorf("without any controller: %v", got)
		}
		p.six()
	})

	p.also = p.six
	p.deaths()
}

// Directors of different priorities with keepalived's own nopreempt: who comes
// back takes nothing back, and a director that is not ready has no VIP, even if
// the other is not ready either.
func TestKernelPairNoPreempt(t *testing.T) {
	p := newPair(t)
	one, two := p.one, p.two
	// A machine that stands still for a while must not look like a change of mind.
	flags := []string{"-nopreempt", "-interval", "1s"}
	p.elect(flags, append(slices.Clip(flags), "-priority", "90"))
	p.open(20)
	p.synced(two)
	// said does something and waits until m's keepalived has said what comes of it.
	said := func(m *twin, what string, do func()) {
		t.Helper()
		before := m.keepalived.CountLog(what)
		do()
		lab.Within(t, 20*time.Second, func() string {
			if m.keepalived.CountLog(what) == before {
				return fmt.Sprintf("keepalived has not said %q:\n%s", what, m.log())
			}
			return ""
		})
	}

	t.Log("step: the controller of the director that has the VIP is stopped, and comes back")
	if err := one.process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	p.holder(two)
	p.goOn("the controller is stopped")
	said(one, "Entering BACKUP STATE", one.start)
	p.stays(two)

	t.Log("step: a higher priority takes nothing either")
	said(one, "Reload complete", func() {
		one.configure("-priority", "150")
		lab.Must(t, one.keepalived.Hangup())
	})
	p.stays(two)

	t.Log("step: neither controller runs: nobody has the VIP")
	said(one, "Entering FAULT STATE", one.process.Kill)
	said(two, "Entering FAULT STATE", two.process.Kill)
	lab.Within(t, 20*time.Second, func() string {
		if one.has() || two.has() {
			return fmt.Sprintf("somebody has the VIP:\n%s\n%s", one.log(), two.log())
		}
		return ""
	})
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		if one.has() || two.has() || p.client.Knock(p.vip, 100*time.Millisecond) {
			t.Fatalf("somebody has the VIP:\n%s\n%s", one.log(), two.log())
		}
	}

	t.Log("step: the controllers come back, the one of the lower priority first: it has the VIP, and keeps it")
	two.start()
	p.holder(two)
	p.goOn("the VIP is back")
	said(one, "Entering BACKUP STATE", one.start)
	p.stays(two)

	t.Log("step: a drain hands over, and takes nothing back")
	two.subcommand("drain")
	p.holder(one)
	said(two, "Entering BACKUP STATE", func() { two.subcommand("drain", "-undo") })
	p.stays(one)
	p.goOn("drained")
}

// What the sub-command prints is what keepalived reads, without a complaint.
func TestKernelKeepalivedReads(t *testing.T) {
	r := newRig(t)
	for _, device := range []string{"eth1", "bond0.7"} {
		r.director.Run("ip", "link", "add", device, "type", "dummy")
	}
	for _, test := range keepalivedCases {
		file := writeConfig(t, test.config)
		args := append([]string{controller(), "keepalived", "-config", file, "-binary", controller()}, test.args...)
		r.write(test.name, r.director.Run(args...))
		out, err := r.director.Command("keepalived", "--log-console", "--config-test", "--use-file", filepath.Join(r.dir, test.name)).CombinedOutput()
		if err != nil || strings.Contains(string(out), "nknown") || strings.Contains(string(out), "arning") {
			t.Errorf("%s: %v\n%s", test.name, err, out)
		}
		t.Logf("%s: keepalived --config-test says %q", test.name, out)
	}
}

// Two directors that are real servers too: what one hands to the other is not balanced
// there again, whichever has the VIP.
func TestKernelDirectorsAreNodes(t *testing.T) {
	a := newRig(t)
	b := &rig{T: t, lab: a.lab, director: a.lab.Host("second", 3), dir: t.TempDir()}
	node, client := a.lab.Host("node", 11), a.lab.Host("client", 5)
	vip := netip.MustParseAddr("10.0.0.100")
	for _, h := range []*lab.Host{a.director, b.director, node} {
		h.Serve(80)
		h.Run(controller(), "realserver", "-vip", vip.String(), "-state", filepath.Join(t.TempDir(), "rs.json"))
	}
	configure := func(peers string) {
		for _, r := range []*rig{a, b} {
			r.write("config.toml", r.configHead()+peers+"[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nports = [80]\none_mark = true\nscheduler = \"rr\"\n"+
				"real_servers = [{address = \"10.0.0.2\"}, {address = \"10.0.0.3\"}, {address = \"10.0.0.11\"}]\n")
		}
	}
	move := func(from, to *rig) {
		from.director.Try("ip", "address", "del", "10.0.0.100/32", "dev", "eth0")
		to.director.Run("ip", "address", "replace", "10.0.0.100/32", "dev", "eth0")
		to.director.Announce(vip)
	}
	balanced := func(r *rig) map[string]bool { // connections, by the client's port
		found := make(map[string]bool)
		for line := range strings.Lines(r.director.Run("ipvsadm", "-Lnc")) {
			if fields := strings.Fields(line); len(fields) == 6 && fields[4] == "10.0.0.100:80" {
				found[fields[3]] = true
			}
		}
		return found
	}
	configure("")
	a.start()
	b.start()
	a.ready("ready")
	b.ready("ready")
	move(b, a)
	client.Curl(30, "http://10.0.0.100/")
	if len(balanced(b)) == 0 {
		t.Fatal("without peer_macs the other director balances nothing: the test proves nothing")
	}

	configure(fmt.Sprintf("peer_macs = [%q, %q]\n", mac(a.director), mac(b.director)))
	for _, r := range []*rig{a, b} {
		r.logged(2, "firewall marks changed")
		if rules := r.director.Run("nft", "list", "table", "inet", "lvs-controller"); strings.Count(rules, "ether saddr") != 2 {
			t.Errorf("rules:\n%s", rules)
		}
	}
	for _, step := range []struct{ backup, master *rig }{{b, a}, {a, b}, {b, a}} {
		before := balanced(step.backup)
		move(step.backup, step.master)
		if got := client.Curl(30, "http://10.0.0.100/"); got["director"] != 10 || got["second"] != 10 || got["node"] != 10 {
			t.Errorf("%s has the VIP: answers %v, want 10 each", step.master.director.Name, got)
		}
		for c := range balanced(step.backup) {
			if !before[c] {
				t.Errorf("%s has the VIP, and the other director balanced again: %s", step.master.director.Name, c)
			}
		}
	}
	for _, r := range []*rig{a, b} {
		r.director.Run("nft", "flush", "chain", "inet", "lvs-controller", "input")
		lab.Within(t, 15*time.Second, func() string {
			if rules := r.director.Run("nft", "list", "table", "inet", "lvs-controller"); strings.Count(rules, "ether saddr") != 2 {
				return "not repaired:\n" + rules
			}
			return ""
		})
	}
}
