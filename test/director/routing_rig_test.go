// The routing daemons of the tests of active-active directors, as operators run
// them: bird, and FRR with zebra, bgpd and bfdd. ecmp_rig_test.go puts one on the
// router and on each director, and knows no more of it than what routing says.

package director

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lvs-controller/test/lab"
)

// routing is the routing daemon of one host.
type routing interface {
	begin(conf string)
	silence(conf string, intervals int) // has it take up conf, in which only they have changed
	established() (sessions int, all string)
	kill() // kill -9 of all its processes
	said() string
}

// routingKind is one software for all hosts of a test.
type routingKind struct {
	name       string
	shipped    string // the director's configuration in install
	router     string // the router's: what the shipped one expects of it
	multiplier string // how many BFD intervals of silence mean death, in both
	on         func(t *testing.T, h *lab.Host, dir string) routing
}

// silent is a configuration in which so many BFD intervals of silence mean death.
func (k routingKind) silent(conf string, intervals int) string {
	return strings.Replace(conf, fmt.Sprintf(k.multiplier, ecmpEager), fmt.Sprintf(k.multiplier, intervals), 1)
}

var birdRouting = routingKind{
	name:       "bird",
	shipped:    "bird.conf",
	multiplier: "multiplier %d;",
	router: `log stderr all;
router id 10.0.0.254;
protocol device { }
protocol kernel { merge paths on; ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { merge paths on; ipv6 { import none; export where source = RTS_BGP; }; }
protocol bfd { interface "eth0" { interval 300 ms; multiplier 3; }; }
template bgp director {
	local as 65000;
	bfd;
	hold time 9;
	keepalive time 3;
	connect delay time 1;
	connect retry time 5;
	error wait time 1, 10;
}
protocol bgp one4 from director { neighbor 10.0.0.2 as 65077; ipv4 { import all; export none; }; }
protocol bgp two4 from director { neighbor 10.0.0.4 as 65077; ipv4 { import all; export none; }; }
protocol bgp one6 from director { neighbor 2001:db8::2 as 65077; ipv6 { import all; export none; }; }
protocol bgp two6 from director { neighbor 2001:db8::4 as 65077; ipv6 { import all; export none; }; }
`,
	on: func(t *testing.T, h *lab.Host, dir string) routing { return &bird{T: t, host: h, dir: dir} },
}

type bird struct {
	*testing.T
	host    *lab.Host
	dir     string
	process *lab.Process
}

// file is one of bird's own, named after the host: a router and a director may
// have the folder together.
func (b *bird) file(suffix string) string {
	return filepath.Join(b.dir, b.host.Name+"-bird."+suffix)
}

func (b *bird) write(conf string) {
	b.Helper()
	lab.Must(b.T, os.WriteFile(b.file("conf"), []byte(conf), 0o644))
}

func (b *bird) begin(conf string) {
	b.Helper()
	b.write(conf)
	b.process = b.host.Start("bird", "-f", "-c", b.file("conf"), "-s", b.file("ctl"), "-P", b.file("pid"))
}

func (b *bird) silence(conf string, _ int) {
	b.Helper()
	b.write(conf)
	b.host.Run("birdc", "-s", b.file("ctl"), "configure")
}

func (b *bird) established() (int, string) {
	protocols, err := b.host.Try("birdc", "-s", b.file("ctl"), "show", "protocols")
	if err != nil {
		return 0, err.Error()
	}
	return strings.Count(protocols, "Established"), protocols
}

func (b *bird) kill()        { b.process.Kill() }
func (b *bird) said() string { return b.process.Log() }

var frrRouting = routingKind{
	name:       "FRR",
	shipped:    "frr.conf",
	multiplier: "detect-multiplier %d",
	// Without prefer-global FRR takes the directors' link-local addresses for
	// gateways: as good, but not what the test compares with.
	router: `bfd
 profile director
  detect-multiplier 3
  receive-interval 300
  transmit-interval 300
!
ip prefix-list vips seq 5 permit 10.9.0.0/24 ge 32
ipv6 prefix-list vips seq 5 permit 2001:db8:9::/64 ge 128
ip prefix-list nothing seq 5 deny any
ipv6 prefix-list nothing seq 5 deny any
route-map vips4 permit 10
 match ip address prefix-list vips
route-map vips6 permit 10
 match ipv6 address prefix-list vips
 set ipv6 next-hop prefer-global
!
router bgp 65000
 bgp router-id 10.0.0.254
 bgp graceful-restart-disable
 no bgp default ipv4-unicast
 neighbor directors peer-group
 neighbor directors remote-as 65077
 neighbor directors bfd profile director
 neighbor directors timers 3 9
 neighbor directors timers connect 5
 neighbor 10.0.0.2 peer-group directors
 neighbor 10.0.0.4 peer-group directors
 neighbor 2001:db8::2 peer-group directors
 neighbor 2001:db8::4 peer-group directors
 address-family ipv4 unicast
  neighbor 10.0.0.2 activate
  neighbor 10.0.0.4 activate
  neighbor directors route-map vips4 in
  neighbor directors prefix-list nothing out
 exit-address-family
 address-family ipv6 unicast
  neighbor 2001:db8::2 activate
  neighbor 2001:db8::4 activate
  neighbor directors route-map vips6 in
  neighbor directors prefix-list nothing out
 exit-address-family
`,
	on: func(t *testing.T, h *lab.Host, dir string) routing {
		return &frr{T: t, host: h, dir: filepath.Join(dir, h.Name+"-frr")}
	},
}

// frr has its daemons' configuration read to them by vtysh, as Debian's service
// does.
type frr struct {
	*testing.T
	host    *lab.Host
	dir     string
	daemons []*lab.Process
}

func (f *frr) begin(conf string) {
	f.Helper()
	lab.Must(f.T, os.MkdirAll(f.dir, 0o755))
	if f.daemons == nil {
		f.Cleanup(f.tell)
	}
	f.daemons = nil
	start := func(daemon ...string) {
		f.daemons = append(f.daemons, f.host.Start(append(daemon, "-u", "root", "-g", "root", "-P", "0", "--log", "stdout",
			"--vty_socket", f.dir, "-z", filepath.Join(f.dir, "zserv.api"), "-i", filepath.Join(f.dir, daemon[0]+".pid"))...))
	}
	// In the order of Debian's service: who finds no zebra tries again ten seconds
	// later, and has lost BFD's sessions meanwhile. An IPv6 route is replaced in one step,
	// as an IPv4 one always is: by default zebra deletes it and adds it again, and the
	// router has none in between.
	start("zebra", "--v6-rr-semantics")
	f.answers("show daemons", "zebra")
	start("bgpd")
	start("bfdd", "--bfdctl", filepath.Join(f.dir, "bfdd.sock"))
	f.answers("show daemons", "zebra", "bgpd", "bfdd")
	f.answers("show zebra client summary", "bgp", "bfd")
	path := filepath.Join(f.dir, "frr.conf")
	lab.Must(f.T, os.WriteFile(path, []byte(conf), 0o644))
	if out, err := f.vtysh("-f", path); err != nil || strings.Contains(out, "%") {
		f.Fatalf("FRR of %s does not take its configuration: %v\n%s\n%s", f.host.Name, err, out, f.said())
	}
}

// tell says, after a failure, what FRR knows.
func (f *frr) tell() {
	if !f.Failed() {
		return
	}
	for _, what := range []string{"show ip route connected", "show ip route bgp", "show ipv6 route", "show bgp ipv4 unicast", "show bgp ipv6 unicast",
		"show bgp neighbors | include BGP neighbor is|BGP state|Last reset|due to", "show bfd peers brief"} {
		out, err := f.vtysh("-c", what)
		f.Logf("FRR of %s: %s: %v\n%s", f.host.Name, what, err, out)
	}
}

// answers waits until FRR's answer to a command has all words.
func (f *frr) answers(command string, words ...string) {
	f.Helper()
	lab.Within(f.T, 30*time.Second, func() string {
		out, err := f.vtysh("-c", command)
		for _, w := range words {
			if err != nil || !strings.Contains(out, w) {
				return fmt.Sprintf("FRR of %s: %s: %q, %v\n%s", f.host.Name, command, out, err, f.said())
			}
		}
		return ""
	})
}

func (f *frr) vtysh(args ...string) (string, error) {
	return f.host.Try(append([]string{"vtysh", "--vty_socket", f.dir}, args...)...)
}

// silence says what has changed: FRR does not take all of it twice.
func (f *frr) silence(_ string, intervals int) {
	f.Helper()
	if out, err := f.vtysh("-c", "configure terminal", "-c", "bfd", "-c", "profile director", "-c", fmt.Sprintf("detect-multiplier %d", intervals)); err != nil {
		f.Fatalf("FRR of %s: %v\n%s", f.host.Name, err, out)
	}
}

func (f *frr) established() (int, string) {
	neighbors, err := f.vtysh("-c", "show bgp neighbors")
	if err != nil {
		return 0, err.Error()
	}
	return strings.Count(neighbors, "BGP state = Established"), neighbors
}

func (f *frr) kill() {
	for _, d := range f.daemons {
		d.Kill()
	}
}

// busy calls do while zebra's first thread, which reads about devices, has begun something
// else and gets no processor to end it. Its other threads go on.
func (f *frr) busy(do func()) {
	f.Helper()
	const routes = 10000
	var batch strings.Builder
	for n := range routes {
		fmt.Fprintf(&batch, "route add blackhole 10.100.%d.%d/32\n", n>>8, n&255)
	}
	path := filepath.Join(f.dir, "routes")
	lab.Must(f.T, os.WriteFile(path, []byte(batch.String()), 0o644))
	f.host.Run("ip", "-batch", path)
	f.answers("show ip route summary", strconv.Itoa(routes+1)) // with the default route

	var shows []*lab.Process
	for range 4 { // over a second each
		shows = append(shows, f.host.Start("vtysh", "--vty_socket", f.dir, "-c", "show ip route json"))
	}
	time.Sleep(time.Second)

	thread := f.daemons[0].PID()
	var all, one unix.CPUSet
	lab.Must(f.T, unix.SchedGetaffinity(thread, &all))
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	schedule := func(policy uint32, on *unix.CPUSet) {
		lab.Must(f.T, unix.SchedSetAttr(thread, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}, 0))
		lab.Must(f.T, unix.SchedSetaffinity(thread, on))
	}
	defer schedule(unix.SCHED_NORMAL, &all)
	var done atomic.Bool
	defer done.Store(true)
	spins := make(chan error)
	go func() {
		runtime.LockOSThread() // and it ends with the thread
		spins <- errors.Join(unix.SchedSetaffinity(0, &one), unix.Setpriority(unix.PRIO_PROCESS, 0, -20))
		for !done.Load() {
		}
	}()
	lab.Must(f.T, <-spins)
	schedule(unix.SCHED_IDLE, &one)
	do()
	if !slices.ContainsFunc(shows, func(p *lab.Process) bool { return !p.Ended() }) {
		f.Error("zebra has ended what it had begun")
	}
}

func (f *frr) said() string {
	var all strings.Builder
	for _, d := range f.daemons {
		all.WriteString(d.Log())
	}
	return all.String()
}
