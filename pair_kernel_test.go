// A pair of directors: real keepalived with the configuration that we print, the
// controller on both, sync daemons, and clients that must not notice which of
// the two is there.

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// pairInterval is the advertisement interval that the directors of a pair use:
// the default.
const pairInterval = 200 * time.Millisecond

// pairSlack is how much later than VRRP's own bound a take-over may be seen on an
// emulated machine that is busy.
const pairSlack = 5 * time.Second

// pairStreams are the downloads that are open all the time.
const pairStreams = 200

// pairSize is how much load the planned changes get. LVS_DRILL says which.
type pairSize struct {
	workers  int
	requests int // at least
}

var pairSizes = map[string]pairSize{
	"":      {workers: 2, requests: 200},
	"short": {workers: 4, requests: 500},
	"long":  {workers: 8, requests: 10000},
}

// twin is one director of a pair.
type twin struct {
	*rig
	peer       *twin
	keepalived *lab.Process
}

// pair is two directors, three nodes and a client.
type pair struct {
	*testing.T
	one, two *twin
	client   *lab.Host
	vip      netip.AddrPort
	streams  []*lab.Stream
}

func newPair(t *testing.T) *pair {
	first := newRig(t)
	p := &pair{T: t, one: &twin{rig: first}, client: first.lab.Host("client", 3), vip: netip.MustParseAddrPort("10.0.0.100:80")}
	p.two = &twin{rig: &rig{T: t, lab: first.lab, director: first.lab.Host("director2", 4), dir: t.TempDir()}}
	p.one.peer, p.two.peer = p.two, p.one
	for n := 11; n <= 13; n++ {
		node := first.lab.Host("node"+strconv.Itoa(n), n)
		node.Serve(80)
		node.Run(controllerBinary(t), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
	}
	for _, m := range []*twin{p.one, p.two} {
		m.write("config.toml", m.configHead()+"[sync]\ninterface = \"eth0\"\n[sysctl]\nsloppy_tcp = 1\n[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\nports = [80]\nscheduler = \"mh\"\nflags = [\"mh-port\", \"mh-fallback\"]\n"+
			"real_servers = [{address = \"10.0.0.11\"}, {address = \"10.0.0.12\"}, {address = \"10.0.0.13\"}, {address = \"2001:db8::11\"}]\n")
		m.start()
	}
	for _, m := range []*twin{p.one, p.two} {
		m.table("-A -t 10.0.0.100:80 -s mh -b mh-fallback,mh-port", "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1",
			"-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 1", "-a -t 10.0.0.100:80 -r 10.0.0.13:80 -g -w 1",
			"-A -t [2001:db8::100]:80 -s mh -b mh-fallback,mh-port", "-a -t [2001:db8::100]:80 -r [2001:db8::11]:80 -g -w 1")
		m.daemons("master sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)",
			"backup sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)")
		m.configure(100)
		m.startKeepalived()
		p.holder(p.one) // who was there first
	}
	return p
}

// configure writes keepalived's configuration, as the controller prints it.
func (m *twin) configure(priority int) {
	m.Helper()
	m.write("keepalived.conf", m.director.Run(controllerBinary(m.T), "keepalived", "-config", filepath.Join(m.dir, "config.toml"),
		"-binary", controllerBinary(m.T), "-peer", m.peer.director.IPv4.String(), "-priority", strconv.Itoa(priority)))
}

func (m *twin) startKeepalived() {
	m.keepalived = m.director.Start("keepalived", "--vrrp", "--dont-fork", "--log-console", "--log-detail",
		"--use-file", filepath.Join(m.dir, "keepalived.conf"),
		"--pid", filepath.Join(m.dir, "keepalived.pid"), "--vrrp_pid", filepath.Join(m.dir, "vrrp.pid"))
}

// killKeepalived is kill -9 of all its processes. The parent must not see its
// child die, or it would start another one; nor the child its parent, or it
// would take the address away.
func (m *twin) killKeepalived() {
	m.Helper()
	parent := m.keepalived.PID()
	m.keepalived.Send(syscall.SIGSTOP)
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil || len(strings.Fields(string(children))) == 0 {
		m.Fatalf("keepalived has no child: %q, %v", children, err)
	}
	for _, child := range strings.Fields(string(children)) {
		pid, _ := strconv.Atoi(child)
		syscall.Kill(pid, syscall.SIGKILL)
	}
	m.keepalived.Kill()
}

// has reports whether the director has the VIP's addresses, of which one alone
// counts too.
func (m *twin) has() bool {
	addresses := m.director.Run("ip", "address", "show", "dev", "eth0")
	return strings.Contains(addresses, "10.0.0.100/32") || strings.Contains(addresses, "2001:db8::100/128")
}

// holder waits until m has the VIP and the other one has not.
func (p *pair) holder(m *twin) {
	p.Helper()
	within(p.T, 30*time.Second, func() string {
		if m.has() && (m.peer.keepalived == nil || !m.peer.has()) {
			return ""
		}
		return fmt.Sprintf("%s has not got the VIP for itself:\n%s\n%s:\n%s\n%s", m.director.Name, m.log(), m.peer.director.Name, m.peer.log(), m.process.Log())
	})
}

func (m *twin) log() string {
	if m.keepalived == nil {
		return "no keepalived"
	}
	return m.keepalived.Log()
}

// priorities are those that keepalived has gone through, in its own words.
func (m *twin) priorities() []string {
	var all []string
	for line := range strings.Lines(m.log()) {
		if _, to, found := strings.Cut(line, "effective priority from "); found {
			all = append(all, strings.TrimSpace(to))
		}
	}
	return all
}

// ready waits for the answer of `lvs-controller ready`, want being a part of it.
func (m *twin) ready(want string) {
	m.Helper()
	within(m.T, 10*time.Second, func() string {
		out, err := m.director.Command(controllerBinary(m.T), "ready", "-listen", "127.0.0.1:9652").CombinedOutput()
		if ok := err == nil; !strings.Contains(string(out), want) || ok != strings.HasPrefix(want, "ready") {
			return fmt.Sprintf("ready says %q, %v; want %q", out, err, want)
		}
		return ""
	})
}

// open begins n downloads.
func (p *pair) open(n int) {
	p.Helper()
	for range n {
		s := p.client.OpenStream(p.vip)
		p.Cleanup(s.Close)
		p.streams = append(p.streams, s)
	}
	p.goOn("at first")
}

// goOn waits until every download has brought more lines than it had.
func (p *pair) goOn(when string) {
	p.Helper()
	before := make([]int, len(p.streams))
	for i, s := range p.streams {
		_, before[i], _ = s.State()
	}
	lost := 0
	within(p.T, 40*time.Second, func() string {
		slow := 0
		lost = 0
		for i, s := range p.streams {
			if _, n, err := s.State(); err != nil {
				lost++
			} else if n < before[i]+8 {
				slow++
			}
		}
		if slow > 0 {
			return fmt.Sprintf("%s: %d of %d downloads stand still, %d lost", when, slow, len(p.streams), lost)
		}
		return ""
	})
	if lost > 0 {
		p.Errorf("%s: %d of %d open connections lost", when, lost, len(p.streams))
	}
	p.Logf("%s: %d of %d open connections lost", when, lost, len(p.streams))
}

// synced waits until m knows every download.
func (p *pair) synced(m *twin) {
	p.Helper()
	within(p.T, 30*time.Second, func() string {
		table := m.director.Run("ipvsadm", "-Lnc")
		if n := strings.Count(table, "ESTABLISHED"); n < len(p.streams) {
			return fmt.Sprintf("%s knows %d of %d connections", m.director.Name, n, len(p.streams))
		}
		return ""
	})
}

// dies lets something happen to the director m that has the VIP, and sees how
// long new connections are not served and that the open ones go on.
func (p *pair) dies(what string, m *twin, happen func()) {
	p.Helper()
	p.synced(m.peer)
	start := time.Now()
	happen()
	unanswered := 0
	for {
		if !p.client.Knock(p.vip, 100*time.Millisecond) {
			unanswered++
		} else if took := time.Since(start); m.peer.has() {
			v := vrrp{Priority: 100, Interval: pairInterval}
			p.Logf("%s: new connections served by the other director after %s, %d unanswered before; advertisements every %s, VRRP takes over after %s",
				what, took.Round(10*time.Millisecond), unanswered, pairInterval, v.patience().Round(time.Millisecond))
			if took > v.patience()+pairSlack {
				p.Errorf("%s: new connections served after %s", what, took)
			}
			break
		}
		if time.Since(start) > 30*time.Second {
			p.Fatalf("%s: new connections are not served\n%s\n%s", what, m.log(), m.peer.log())
		}
	}
	p.goOn(what)
	p.six()
}

// six asks over IPv6 too, whose address moves with IPv4's.
func (p *pair) six() {
	p.Helper()
	if got := p.client.Curl(3, "http://[2001:db8::100]/"); got["node11"] != 3 {
		p.Errorf("over IPv6: %v", got)
	}
}

func TestKernelPair(t *testing.T) {
	size := pairSizes[os.Getenv("LVS_DRILL")]
	p := newPair(t)
	one, two := p.one, p.two
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
		one.configure(150)
		one.keepalived.Hangup()
		p.holder(one)
		one.configure(100)
		one.keepalived.Hangup()
		for _, m := range []*twin{one, two} {
			m.process.Kill()
			m.start()
			m.ready("ready")
		}
		p.holder(one)
	}
	report := load.Stop()
	t.Logf("controller stopped, priority raised by a reload, both controllers killed and restarted; rounds: %d; %s", rounds, report)
	if report.Failed() > 0 || report.Requests < size.requests {
		t.Errorf("planned hand-overs: %s\n%v", report, report.Faults)
	}
	p.goOn("planned hand-overs")

	t.Log("step: neither controller runs: the addresses stay, and the kernel goes on")
	for _, m := range []*twin{one, two} {
		said := m.keepalived.CountLog("effective priority from 100 to 1")
		m.process.Kill()
		m.ready("NOT READY: the controller does not answer")
		within(t, 20*time.Second, func() string {
			if m.keepalived.CountLog("effective priority from 100 to 1") == said {
				return "keepalived has not noticed:\n" + m.log()
			}
			return ""
		})
	}
	p.holder(two) // whose controller was the last to run
	if got := p.client.Curl(9, "http://10.0.0.100/"); got["node11"]+got["node12"]+got["node13"] != 9 {
		t.Errorf("without any controller: %v", got)
	}
	p.six()
	p.goOn("without any controller")
	for _, m := range []*twin{one, two} {
		m.start()
		m.ready("ready")
		within(t, 20*time.Second, func() string {
			if strings.HasSuffix(strings.Join(m.priorities(), " "), " 100") {
				return ""
			}
			return "keepalived has not noticed that the controller is back:\n" + m.log()
		})
	}
	p.holder(one) // whose controller was the first to be back

	p.dies("the director's cable is pulled", one, func() { one.director.CutPort(true) })
	one.ready("NOT READY: the uplink eth0 has no carrier")
	one.director.CutPort(false)
	one.ready("ready")
	p.holder(two)

	p.dies("kill -9 of keepalived", two, two.killKeepalived)
	if !two.has() {
		t.Error("keepalived that was killed has taken its address away")
	}
	two.startKeepalived()
	p.holder(one)
	p.goOn("keepalived started again")

	p.dies("the director's device is set down", one, func() { one.director.CutLink(true) })
	one.ready("NOT READY: the uplink eth0 is down")
	one.director.CutLink(false)
	one.ready("ready")
	p.holder(two)
}

// What the sub-command prints is what keepalived reads, without a complaint.
func TestKernelKeepalivedReads(t *testing.T) {
	r := newRig(t)
	for _, device := range []string{"eth1", "bond0.7"} {
		r.director.Run("ip", "link", "add", device, "type", "dummy")
	}
	for _, test := range keepalivedCases {
		file := writeConfig(t, test.config)
		args := append([]string{controllerBinary(t), "keepalived", "-config", file, "-binary", controllerBinary(t)}, test.args...)
		r.write(test.name, r.director.Run(args...))
		out, err := r.director.Command("keepalived", "--log-console", "--config-test", "--use-file", filepath.Join(r.dir, test.name)).CombinedOutput()
		if err != nil || strings.Contains(string(out), "nknown") || strings.Contains(string(out), "arning") {
			t.Errorf("%s: %v\n%s", test.name, err, out)
		}
		t.Logf("%s: keepalived --config-test says %q", test.name, out)
	}
}
