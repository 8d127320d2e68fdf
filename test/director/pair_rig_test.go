// The rig of the tests of a pair: two directors with real keepalived, configured
// as we print it, and downloads through the VIP that must not notice which of the
// two is there. pair_test.go and drill_pair_test.go make the pairs, each
// with a cluster of its own kind; nothing here knows which.

package director

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
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

// What docs/high-availability.md tells the directors of a pair to have in their
// config.toml: beside the VIPs, and in each.
const (
	pairHead      = "[sync]\ninterface = \"eth0\"\n[sysctl]\nsloppy_tcp = 1\n"
	pairScheduler = "scheduler = \"mh\"\nflags = [\"mh-port\", \"mh-fallback\"]\n"
)

// pairStreams are the downloads that are open all the time.
const pairStreams = 200

// twin is one director of a pair.
type twin struct {
	*rig
	peer       *twin
	flags      []string // of `lvs-controller keepalived`, beside the peer
	keepalived *lab.Process
}

// pair is two directors before the same nodes, and a client.
type pair struct {
	*testing.T
	one, two *twin
	client   *lab.Host
	vip      netip.AddrPort
	streams  []*lab.Stream
	also     func() // what else is asked after a director's death; nil: nothing
	faults   []string
}

// Errorf also says at the end of the test, after all its steps, what has failed.
func (p *pair) Errorf(format string, args ...any) {
	p.Helper()
	text := fmt.Sprintf(format, args...)
	if len(p.faults) == 0 {
		p.Cleanup(func() { p.Logf("what has failed:\n%s", strings.Join(p.faults, "\n")) })
	}
	p.faults = append(p.faults, fmt.Sprintf("%.600s", text))
	p.T.Errorf("%s", text)
}

// pairOf makes a pair of two directors whose config.toml is written. Nothing is
// started.
func pairOf(one, two *rig, client *lab.Host, vip netip.AddrPort) *pair {
	p := &pair{T: one.T, one: &twin{rig: one}, two: &twin{rig: two}, client: client, vip: vip}
	p.one.peer, p.two.peer = p.two, p.one
	return p
}

// controllers starts both, and waits until each has the table and its daemons.
func (p *pair) controllers(table ...string) {
	p.Helper()
	for _, m := range []*twin{p.one, p.two} {
		m.start()
	}
	for _, m := range []*twin{p.one, p.two} {
		m.table(table...)
		m.daemons("master sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)",
			"backup sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)")
	}
}

// elect starts keepalived on both, the first director's first: it has the VIP.
func (p *pair) elect(one, two []string) {
	p.Helper()
	p.one.flags, p.two.flags = one, two
	for _, m := range []*twin{p.one, p.two} {
		m.configure()
		m.startKeepalived()
		p.holder(p.one)
	}
}

// configure writes keepalived's configuration, as the controller prints it. Of
// two flags of the same name the last counts.
func (m *twin) configure(more ...string) {
	m.Helper()
	args := []string{controller(), "keepalived", "-config", filepath.Join(m.dir, "config.toml"),
		"-binary", controller(), "-peer", m.peer.director.IPv4.String()}
	m.write("keepalived.conf", m.director.Run(slices.Concat(args, m.flags, more)...))
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
	lab.Within(p.T, 30*time.Second, func() string {
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

// trusted waits until keepalived has noticed that the controller is ready again, if
// it had noticed that it was not.
func (m *twin) trusted() {
	m.Helper()
	lab.Within(m.T, 20*time.Second, func() string {
		if all := m.priorities(); len(all) == 0 || strings.HasSuffix(all[len(all)-1], " to 100") {
			return ""
		}
		return "keepalived has not noticed that the controller is ready again:\n" + m.log()
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
	lab.Within(p.T, 40*time.Second, func() string {
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
	lab.Within(p.T, 30*time.Second, func() string {
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
	p.bring(m)
	p.synced(m.peer)
	start := time.Now()
	happen()
	unanswered := 0
	for {
		if !p.client.Knock(p.vip, 100*time.Millisecond) {
			unanswered++
		} else if took := time.Since(start); m.peer.has() {
			patience := 3*pairInterval + (256-100)*pairInterval/256 // RFC 5798 section 6.1, priority 100
			p.Logf("%s: new connections served by the other director after %s, %d unanswered before; advertisements every %s, VRRP takes over after %s",
				what, took.Round(10*time.Millisecond), unanswered, pairInterval, patience.Round(time.Millisecond))
			if took > patience+pairSlack {
				p.Errorf("%s: new connections served after %s", what, took)
			}
			break
		}
		if time.Since(start) > 30*time.Second {
			p.Fatalf("%s: new connections are not served\n%s\n%s", what, m.log(), m.peer.log())
		}
	}
	p.goOn(what)
	if p.also != nil {
		p.also()
	}
}

// deaths lets whichever director has the VIP die, in three ways. The first has it
// before, the second afterwards, and no director is worse off.
func (p *pair) deaths() {
	p.Helper()
	one, two := p.one, p.two
	p.dies("the director's cable is pulled", one, func() { one.director.CutPort(true) })
	one.ready("NOT READY: the uplink eth0 has no carrier")
	one.director.CutPort(false)
	one.ready("ready")
	p.holder(two)

	p.dies("kill -9 of keepalived", two, two.killKeepalived)
	if !two.has() {
		p.Error("keepalived that was killed has taken its address away")
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

// raise hands the VIP over to m by a higher priority, as operators are told to.
func (p *pair) raise(m *twin) {
	p.Helper()
	for _, more := range [][]string{{"-priority", "150"}, nil} {
		m.configure(more...)
		lab.Must(p.T, m.keepalived.Hangup())
		p.holder(m)
	}
}

// drain hands the VIP over from m by the operator's drain, which is undone then.
// It does not come back.
func (p *pair) drain(m *twin) {
	p.Helper()
	m.subcommand("drain")
	start := time.Now()
	m.ready("NOT READY: drained by the operator since ")
	p.holder(m.peer)
	p.Logf("%s drained: %s has the VIP after %s", m.director.Name, m.peer.director.Name, time.Since(start).Round(100*time.Millisecond))
	m.subcommand("drain", "-undo")
	m.ready("ready")
	m.trusted()
	p.holder(m.peer)
}

// restart has the controllers ended and started again, one after the other. The
// first director has the VIP before.
func (p *pair) restart(end func(*lab.Process)) {
	p.Helper()
	for _, m := range []*twin{p.one, p.two} {
		end(m.process)
		m.start()
		m.ready("ready")
		m.trusted()
	}
}

// abandoned has the controllers of both killed, the second director's last, and
// sees that the VIP stays with it and that clients are served, by what meanwhile
// asks and by the downloads. Then they are started again, the first director's
// first: it has the VIP before and afterwards.
func (p *pair) abandoned(meanwhile func()) {
	p.Helper()
	for _, m := range []*twin{p.one, p.two} {
		m.trusted()
		said := m.keepalived.CountLog("effective priority from 100 to 1")
		m.process.Kill()
		m.ready("NOT READY: the controller does not answer")
		lab.Within(p.T, 20*time.Second, func() string {
			if m.keepalived.CountLog("effective priority from 100 to 1") == said {
				return "keepalived has not noticed:\n" + m.log()
			}
			return ""
		})
	}
	p.holder(p.two)
	meanwhile()
	p.goOn("without any controller")
	for _, m := range []*twin{p.one, p.two} {
		m.start()
		m.ready("ready")
		m.trusted()
	}
	p.holder(p.one)
}

// bring sees to it that m has the VIP, where nothing has moved it on purpose. On a
// machine that is too busy an advertisement is late, or a restart lasts so long that
// keepalived takes it for the end. Clients must not notice; so it is told, and no
// failure.
func (p *pair) bring(m *twin) {
	p.Helper()
	if !m.has() || m.peer.has() {
		p.Logf("the VIP is not where it was: %s, effective priorities %q and %q", m.director.Name, m.priorities(), m.peer.priorities())
		m.trusted()
		p.raise(m)
	}
}

// stays sees that m has the VIP, and m alone, for longer than directors that
// advertise themselves every second need to change.
func (p *pair) stays(m *twin) {
	p.Helper()
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if !m.has() || m.peer.has() {
			p.Fatalf("the VIP does not stay at %s:\n%s\n%s:\n%s", m.director.Name, m.log(), m.peer.director.Name, m.peer.log())
		}
	}
}
