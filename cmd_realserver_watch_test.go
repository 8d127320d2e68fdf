package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// watchedNode is a fake node with a watch that makes a pass when a test says so.
type watchedNode struct {
	fakeNode
	t    *testing.T
	w    *nodeWatch
	file string
	log  *bytes.Buffer
}

func watchNode(t *testing.T, node fakeNode, named ...string) *watchedNode {
	t.Helper()
	n := &watchedNode{fakeNode: node, t: t, log: new(bytes.Buffer), file: "/etc/vips"}
	log := slog.New(slog.NewTextHandler(n.log, nil))
	n.w = &nodeWatch{
		node: realserver{device: "lo", file: n.file, owner: n.file, proc: node.proc, state: nodeState{path: node.state}, stdout: changeLog{log}},
		open: func() (nodeNetwork, error) { return node, nil },
		log:  log, reading: newLatest[vipsReading](make(chan struct{}, 1)),
	}
	for _, a := range named {
		n.w.node.named = append(n.w.node.named, netip.MustParseAddr(a))
	}
	n.w.stats.began(n.file)
	return n
}

// says makes text the content of the file.
func (n *watchedNode) says(text string) {
	vips, err := parseVIPsFile(n.file, text)
	n.w.reading.Set(&vipsReading{vips, err})
}

var watchLine = regexp.MustCompile(`level=(\w+) msg="?([^"\n]+?)"?(?: (?:what|err|file)="?([^"\n]+?)"?)?( listed=\d+)?\n`)

// pass makes a pass, and compares what it changes and what it logs, as "LEVEL begin: what".
func (n *watchedNode) pass(name string, wantErr error, wantCalls []string, wantLog ...string) {
	n.t.Helper()
	n.log.Reset()
	_, err := n.w.pass()
	if !errors.Is(err, wantErr) || wantErr == nil && err != nil {
		n.t.Errorf("%s: error %v, want %v", name, err, wantErr)
	}
	if diff := cmp.Diff(wantCalls, n.takeCalls()); diff != "" {
		n.t.Errorf("%s: changes (-want +got):\n%s", name, diff)
	}
	var lines []string
	for _, m := range watchLine.FindAllStringSubmatch(strings.ReplaceAll(n.log.String(), `\"`, "'"), -1) {
		words := strings.Fields(m[2])
		what, _, _ := strings.Cut(m[3], ": the node must")
		lines = append(lines, fmt.Sprintf("%s %s: %s", m[1], strings.Join(words[:3], " "), what+m[4]))
	}
	if diff := cmp.Diff(wantLog, lines); diff != "" {
		n.t.Errorf("%s: log (-want +got):\n%s\n%s", name, diff, n.log)
	}
}

func (n *watchedNode) metrics() map[string]float64 {
	families, _ := scrape(n.t, func(b *bytes.Buffer) {
		e := &exposition{w: b}
		n.w.stats.write(e)
		e.flush()
	})
	return values(families)
}

// writeNode writes the metrics of a node that has all of them.
func writeNode(b *bytes.Buffer) {
	var stats nodeStats
	stats.began("vips")
	stats.repaired([]lack{{kind: lackAddress}}, time.Unix(1, 0))
	e := &exposition{w: b}
	stats.write(e)
	e.flush()
}

func (n *watchedNode) setARP(device, value string) {
	n.t.Helper()
	if err := n.proc.write(confKey(device, "arp_ignore"), value); err != nil {
		n.t.Fatal(err)
	}
}

const (
	nodeChange  = "INFO this node is: "
	nodeDrift   = "WARN another program has: "
	nodeKept    = "INFO another owner keeps: "
	nodeMisread = "ERROR the file with: "
	eth0Ignore  = "net/ipv4/conf/eth0/arp_ignore"
)

// What another program changes is said once and repaired, and counted by its kind. A device
// that comes later is guarded, and is no repair.
func TestWatchRepairs(t *testing.T) {
	n := watchNode(t, newFakeNode(t))
	n.pass("nothing is known yet", nil, nil)
	n.says("10.0.0.1\n2001:db8::1")
	n.pass("the first", nil, []string{"add 10.0.0.1 on lo", "add 2001:db8::1 on lo"},
		nodeChange+eth0Ignore+": 0 -> 1", nodeChange+"net/ipv4/conf/eth0/arp_announce: 1 -> 2", nodeChange+"added 10.0.0.1 on lo", nodeChange+"added 2001:db8::1 on lo")
	n.pass("nothing to do", nil, nil)
	wantValues(t, map[string]float64{"node_prepared": 1, "node_vips_wanted": 2, "node_vips_in_place": 2, "node_vips_file_ok": 1, `node_repairs_total{kind="address"}`: 0}, n.metrics())

	n.devices["lo"] = n.devices["lo"][1:]
	n.setARP("eth0", "0")
	n.pass("two changes", nil, []string{"add 10.0.0.1 on lo"},
		nodeDrift+eth0Ignore+" is 0, want 1", nodeDrift+"10.0.0.1 on lo is missing", nodeChange+eth0Ignore+": 0 -> 1", nodeChange+"added 10.0.0.1 on lo")
	n.pass("after the repair", nil, nil)
	got := n.metrics()
	wantValues(t, map[string]float64{`node_repairs_total{kind="address"}`: 1, `node_repairs_total{kind="setting"}`: 1, `node_repairs_total{kind="tunnel"}`: 0, "node_vips_in_place": 2}, got)
	if got[`node_last_repair_timestamp_seconds{kind="setting"}`] == 0 || got[`node_last_repair_timestamp_seconds{kind="tunnel"}`] != 0 {
		t.Errorf("times of the last repairs: %v", got)
	}

	*n.others = []string{"eth0.100"}
	n.setARP("eth0.100", "0")
	n.pass("a device more", nil, nil, nodeChange+"net/ipv4/conf/eth0.100/arp_ignore: 0 -> 1")
	n.setARP("eth0.100", "0")
	n.pass("its setting is changed", nil, nil, nodeDrift+"net/ipv4/conf/eth0.100/arp_ignore is 0, want 1", nodeChange+"net/ipv4/conf/eth0.100/arp_ignore: 0 -> 1")
}

// A VIP that leaves the file leaves the node, unless a command line or another file needs
// it. What is wrong with the file changes nothing, also for a process that is new.
func TestWatchFollowsFile(t *testing.T) {
	node := newFakeNode(t)
	node.changes(t, "-vip", "10.0.0.9,10.0.0.8") // by hand
	n := watchNode(t, node)
	n.says("10.0.0.1\n10.0.0.2\n10.0.0.8")
	n.pass("the first", nil, []string{"add 10.0.0.1 on lo", "add 10.0.0.2 on lo"}, nodeChange+"added 10.0.0.1 on lo", nodeChange+"added 10.0.0.2 on lo")
	n.says("10.0.0.2\n10.0.0.3")
	n.pass("two leave and one comes", nil, []string{"add 10.0.0.3 on lo", "remove 10.0.0.1 on lo"}, nodeChange+"added 10.0.0.3 on lo", nodeChange+"removed 10.0.0.1 on lo", nodeKept+"10.0.0.8 on lo stays: a command line (-vip) needs it")
	for text, want := range map[string]string{
		"10.0.0.2\nx": "/etc/vips:2: 'x': want a unicast IPv4 or IPv6 address such as '10.135.22.77'",
		"":            "/etc/vips: no address in it; the line 'none' alone means that the node has no VIP",
	} {
		n.says(text)
		n.pass("a mistake", nil, nil, nodeMisread+want+" listed=2")
		n.pass("the same mistake", nil, nil)
		wantValues(t, map[string]float64{"node_vips_file_ok": 0, "node_vips_wanted": 2, "node_vips_in_place": 2}, n.metrics())
	}
	n = watchNode(t, node)
	n.devices["lo"] = n.devices["lo"][:len(n.devices["lo"])-1] // what comes last is 10.0.0.3
	n.pass("a new process, before it has read", nil, []string{"add 10.0.0.3 on lo"}, nodeChange+"added 10.0.0.3 on lo")
	n.w.reading.Set(&vipsReading{nil, os.ErrNotExist})
	n.pass("without a file", nil, nil, nodeMisread+"file does not exist listed=2")
	n.says("10.0.0.3")
	n.pass("valid again", nil, []string{"remove 10.0.0.2 on lo"}, "INFO the file with: /etc/vips", nodeChange+"removed 10.0.0.2 on lo")

	other := watchNode(t, node)
	other.w.node.file, other.w.node.owner = "/etc/others", "/etc/others"
	other.says("10.0.0.3")
	other.pass("another file has the same", nil, nil)
	n.says("none")
	n.pass("no VIP", nil, nil, nodeKept+"10.0.0.3 on lo stays: /etc/others needs it")
	other.says("none")
	other.pass("no VIP there either", nil, []string{"remove 10.0.0.3 on lo"}, nodeChange+"removed 10.0.0.3 on lo")
	if diff := cmp.Diff([]string{"remove 10.0.0.9 on lo", "remove 10.0.0.8 on lo"}, node.changes(t, "-vip", "10.0.0.9,10.0.0.8", "-remove")); diff != "" {
		t.Errorf("by hand (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(node.state); !errors.Is(err, os.ErrNotExist) || node.arp(t) != "0 1" {
		t.Errorf("after the last VIP: state %v, ARP settings %q", err, node.arp(t))
	}
}

// A file that was never valid lists no VIP, and the log does not speak of any.
func TestWatchFirstFileIsWrong(t *testing.T) {
	n := watchNode(t, newFakeNode(t))
	n.says("x")
	n.pass("a mistake", nil, nil, nodeMisread+"/etc/vips:1: 'x': want a unicast IPv4 or IPv6 address such as '10.135.22.77' listed=0")
}

// The last IPv4 VIP that leaves the file takes the settings with it.
func TestWatchRestoresSettings(t *testing.T) {
	n := watchNode(t, newFakeNode(t))
	n.says("10.0.0.1\n2001:db8::1")
	if _, err := n.w.pass(); err != nil {
		t.Fatal(err)
	}
	n.takeCalls()
	n.says("2001:db8::1")
	n.pass("IPv6 alone", nil, []string{"remove 10.0.0.1 on lo"}, nodeChange+"removed 10.0.0.1 on lo",
		nodeChange+eth0Ignore+": 1 -> 0: as it was before", nodeChange+"net/ipv4/conf/eth0/arp_announce: 2 -> 1: as it was before")
	n.pass("nothing to do", nil, nil)
}

// While the node cannot be repaired, each change is said once, and the rest goes on.
func TestWatchFailure(t *testing.T) {
	n := watchNode(t, newFakeNode(t), "10.0.0.1", "10.0.0.2")
	n.w.node.file, n.w.node.owner = "", ""
	if _, err := n.w.pass(); err != nil {
		t.Fatal(err)
	}
	n.takeCalls()
	n.devices["lo"] = nil
	n.fail = map[VIPAddress]error{vipOn("lo", "10.0.0.2"): unix.EPERM}
	n.pass("the second cannot be added", unix.EPERM, []string{"add 10.0.0.1 on lo"}, nodeDrift+"10.0.0.1 on lo is missing", nodeDrift+"10.0.0.2 on lo is missing", nodeChange+"added 10.0.0.1 on lo")
	wantValues(t, map[string]float64{"node_prepared": 0, "node_vips_wanted": 2, "node_vips_in_place": 1, `node_repairs_total{kind="address"}`: 0}, n.metrics())
	n.pass("again", unix.EPERM, nil)
	n.fail = nil
	n.pass("it can", nil, []string{"add 10.0.0.2 on lo"}, nodeChange+"added 10.0.0.2 on lo")
	wantValues(t, map[string]float64{"node_prepared": 1, "node_vips_in_place": 2, `node_repairs_total{kind="address"}`: 2}, n.metrics())
	n.w.open = func() (nodeNetwork, error) { return nil, unix.ENOBUFS }
	n.pass("no netlink", unix.ENOBUFS, nil)
	wantValues(t, map[string]float64{"node_prepared": 0, "node_vips_wanted": 2, "node_vips_in_place": 2}, n.metrics())
}

// A tunnel's end is watched too.
func TestWatchTunnel(t *testing.T) {
	n := watchNode(t, newFakeNode(t), "10.0.0.1")
	n.w.node.tunnel, n.w.node.port = "gue", 6080
	if _, err := n.w.pass(); err != nil {
		t.Fatal(err)
	}
	n.takeCalls()
	n.ports = nil
	if removed, err := n.RemoveDevice("lvs-ipip"); !removed || err != nil {
		t.Fatal(removed, err)
	}
	n.takeCalls()
	n.pass("the tunnel is gone", nil, []string{"make ipip lvs-ipip checksum false", "add 10.0.0.1 on lvs-ipip", "up lvs-ipip", "open UDP port 6080 for GUE over IPv4"},
		nodeDrift+"ipip device lvs-ipip is missing", nodeDrift+"10.0.0.1 on lvs-ipip is missing", nodeDrift+"UDP port 6080 for GUE over IPv4 is closed",
		nodeChange+"made ipip device lvs-ipip", nodeChange+"net/ipv4/conf/lvs-ipip/rp_filter: 0 -> 2: "+sysctlsFor(useTunnel, "lvs-ipip", "")[0].Why, nodeChange+"added 10.0.0.1 on lvs-ipip", nodeChange+"brought up lvs-ipip", nodeChange+"opened UDP port 6080 for GUE over IPv4")
	wantValues(t, map[string]float64{`node_repairs_total{kind="tunnel"}`: 3, `node_repairs_total{kind="address"}`: 0}, n.metrics())
}

// One run with a file: what it cannot use changes nothing, and what left it is undone.
func TestRealserverFile(t *testing.T) {
	node := newFakeNode(t)
	path := filepath.Join(t.TempDir(), "vips")
	say := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	say("10.0.0.1\n10.0.0.2")
	if diff := cmp.Diff([]string{"add 10.0.0.3 on lo", "add 10.0.0.1 on lo", "add 10.0.0.2 on lo"}, node.changes(t, "-vip", "10.0.0.3", "-vips-file", path)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	say("")
	if code, _, errs := node.run("-vips-file", path); code != exitFailure || !strings.Contains(errs, "no address in it") || node.takeCalls() != nil {
		t.Errorf("an empty file: exit %d\n%s", code, errs)
	}
	say("10.0.0.2")
	if code, out, errs := node.run("-vips-file", path, "-check"); code != exitFailure || out != "10.0.0.1 on lo should be gone: it has left "+path+"\n" {
		t.Errorf("-check: exit %d\n%s%s", code, out, errs)
	}
	if diff := cmp.Diff([]string{"remove 10.0.0.1 on lo"}, node.changes(t, "-vips-file", path)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"remove 10.0.0.2 on lo"}, node.changes(t, "-vips-file", path, "-remove")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for want, args := range map[string][]string{
		"-watch excludes":       {"-watch", "-check"},
		"-listen is for -watch": {"-listen", "127.0.0.1:0"},
	} {
		if code, _, errs := node.run(append([]string{"-vip", "10.0.0.1"}, args...)...); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%q: exit %d\n%s", args, code, errs)
		}
	}
}

// The whole command on a real kernel: what another program changes is repaired with the
// kernel's event, a device that comes later is guarded, the file is followed through the
// symlinks of a Kubernetes volume, and the end leaves the node prepared.
func TestWatchOnTheWire(t *testing.T) {
	node, client := newNetns(t), newNetns(t)
	vethPair(t, node, "eth0", client, "eth0")
	node.run(t, "ip", "address", "add", "10.0.0.11/24", "dev", "eth0")
	node.run(t, "ip", "route", "add", "default", "via", "10.0.0.5")
	client.run(t, "ip", "address", "add", "10.0.0.5/24", "dev", "eth0")
	dir := t.TempDir()
	volume := func(version, text string) { // as the kubelet writes one
		t.Helper()
		data := filepath.Join(dir, version)
		link := filepath.Join(dir, "..data")
		if err := errors.Join(os.Mkdir(data, 0o755), os.WriteFile(filepath.Join(data, "vips"), []byte(text), 0o644),
			os.Symlink(version, link+"_tmp"), os.Rename(link+"_tmp", link)); err != nil {
			t.Fatal(err)
		}
	}
	volume("..1", "10.0.0.77\n")
	if err := os.Symlink("..data/vips", filepath.Join(dir, "vips")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out, errs lockedBuffer
	ended := make(chan int, 1)
	const port = "9653" // of the namespace, where no other program is
	start := func() {
		go node.do(t, func() {
			ended <- run(ctx, []string{"realserver", "-watch", "-vips-file", filepath.Join(dir, "vips"), "-state", filepath.Join(dir, "run", "state.json"), "-listen", "127.0.0.1:" + port}, &out, &errs)
		})
	}
	start()
	shows := func(want ...string) bool {
		shown := addressLines(node.run(t, "ip", "address", "show", "dev", "lo"))
		for _, w := range want {
			if without, no := strings.CutPrefix(w, "!"); strings.Contains(shown, without) == no {
				return false
			}
		}
		return true
	}
	arp := func(device, want string) bool {
		return node.run(t, "cat", "/proc/sys/net/ipv4/conf/"+device+"/arp_ignore") == want+"\n"
	}
	until(t, "the VIP is on lo", func() bool { return shows("10.0.0.77/32") && arp("eth0", "1") })
	if answersFor(t, client, "10.0.0.77") {
		t.Error("the node answers for the VIP")
	}
	node.run(t, "ip", "address", "del", "10.0.0.77/32", "dev", "lo")
	until(t, "the VIP is back", func() bool { return shows("10.0.0.77/32") })
	node.run(t, "sysctl", "-qw", "net.ipv4.conf.eth0.arp_ignore=0")
	node.addDevice(t, "eth1")
	node.run(t, "ip", "address", "add", "10.0.1.11/24", "dev", "eth1")
	node.run(t, "ip", "link", "set", "eth1", "up")
	until(t, "the device that came later is guarded", func() bool { return arp("eth1", "1") && arp("eth0", "1") })
	volume("..2", "10.0.0.78\n")
	until(t, "the other VIP is there", func() bool { return shows("10.0.0.78/32", "!10.0.0.77") })
	volume("..3", "10.0.0\n")
	until(t, "the mistake is said", func() bool { return strings.Contains(errs.String(), `vips:1: \"10.0.0\": want`) })
	page := node.run(t, "curl", "-sf", "http://127.0.0.1:"+port+"/metrics")
	families, _ := scrape(t, func(b *bytes.Buffer) { b.WriteString(page) })
	wantValues(t, map[string]float64{"node_prepared": 1, "node_vips_wanted": 1, "node_vips_in_place": 1, "node_vips_file_ok": 0,
		`node_repairs_total{kind="address"}`: 1, `node_repairs_total{kind="setting"}`: 1}, values(families))
	stop()
	if code := <-ended; code != exitOK || out.String() != "" {
		t.Errorf("exit %d\n%s", code, out.String())
	}
	if !shows("10.0.0.78/32") || !arp("eth0", "1") || !strings.Contains(errs.String(), "the node stays prepared") {
		t.Errorf("the end has changed the node\n%s", errs.String())
	}
	for text, want := range map[string]int{
		`need; it is repaired" what="10.0.0.77 on lo is missing"`:                1,
		`need; it is repaired" what="net/ipv4/conf/eth0/arp_ignore is 0, want 1`: 1,
		`need; it is repaired"`: 2,
	} {
		if n := strings.Count(errs.String(), text); n != want {
			t.Errorf("%d lines with %q, want %d\n%s", n, text, want, errs.String())
		}
	}
}

// Where /proc/sys is read-only, as in a container that is not privileged, the settings go
// over rtnetlink, and back.
func TestRealserverReadOnlySettings(t *testing.T) {
	node := newNetns(t)
	node.addDevice(t, "eth0.100")
	node.run(t, "ip", "link", "set", "eth0.100", "up")
	node.run(t, "ip", "address", "add", "10.0.0.11/24", "dev", "eth0.100")
	node.run(t, "ip", "route", "add", "default", "via", "10.0.0.1")
	state := filepath.Join(t.TempDir(), "state.json")
	node.do(t, func() { // the thread ends with it, and the mounts too
		if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""), unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
			t.Error(err)
			return
		}
		proc := procSys{Root: "/proc/sys"}
		if err := proc.write(confKey("eth0.100", "arp_ignore"), "0"); !errors.Is(err, unix.EROFS) {
			t.Errorf("/proc/sys is not read-only: %v", err)
		}
		for _, step := range []struct{ arg, ignore, announce string }{{"-uplink=", "1", "2"}, {"-remove", "0", "0"}} {
			var out bytes.Buffer
			if code := run(t.Context(), []string{"realserver", "-vip", "10.0.0.77", "-tunnel", "", "-state", state, step.arg}, &out, &out); code != exitOK {
				t.Errorf("%s: exit %d\n%s", step.arg, code, &out)
			}
			for name, want := range map[string]string{"arp_ignore": step.ignore, "arp_announce": step.announce} {
				if got, err := proc.read(confKey("eth0.100", name)); got != want || err != nil {
					t.Errorf("%s: %s is %q, want %s (%v)", step.arg, name, got, want, err)
				}
			}
		}
	})
}

// A program that undoes each repair is repaired at growing intervals. Another file, SIGHUP and
// a device that comes are acted on at once all the same.
func TestWatchBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := watchNode(t, newFakeNode(t))
		events, hup := make(chan struct{}, 1), make(chan os.Signal, 1)
		n.w.reading, n.w.events, n.w.hup = newLatest[vipsReading](make(chan struct{}, 1)), events, hup
		n.w.pause = backoff{first: nodePause, most: nodeInterval}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		n.says("10.0.0.1")
		go func() { defer close(ended); n.w.loop(ctx, "") }()
		synctest.Wait()
		// A timer of the loop may fire at the same time as one of the test.
		locked := func(do func()) { n.mu.Lock(); defer n.mu.Unlock(); do() }
		undo := func() { locked(func() { n.devices["lo"] = nil }); ring(events) }
		holds := func() (vips int) { locked(func() { vips = len(n.devices["lo"]) }); return vips }
		repaired := func() (took time.Duration) {
			t.Helper()
			for began := time.Now(); ; took = time.Since(began) {
				synctest.Wait()
				if holds() > 0 {
					return took
				}
				if took > time.Minute {
					t.Fatal("it is not repaired")
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		time.Sleep(time.Second)
		var gaps []time.Duration
		for range 12 {
			undo()
			gaps = append(gaps, repaired().Round(100*time.Millisecond))
		}
		const first = nodePause
		want := []time.Duration{0, first, 2 * first, 4 * first, 8 * first, 16 * first, 32 * first, 64 * first, 128 * first, 256 * first, nodeInterval, nodeInterval}
		if diff := cmp.Diff(want, gaps); diff != "" {
			t.Errorf("times until a repair (-want +got):\n%s", diff)
		}
		for name, ask := range map[string]func(){
			"another file": func() { n.says("10.0.0.1\n10.0.0.2") },
			"SIGHUP":       func() { hup <- unix.SIGHUP },
			"a device that comes": func() {
				*n.others = []string{"eth0.100"}
				n.setARP("eth0.100", "0")
				ring(events)
			},
		} {
			time.Sleep(time.Second) // of the pause, which is 30 s now
			undo()
			time.Sleep(time.Second)
			if synctest.Wait(); holds() > 0 {
				t.Errorf("%s: it is repaired during the pause", name)
			}
			ask()
			if took := repaired(); took > 4*nodePause {
				t.Errorf("%s: acted on after %s", name, took)
			}
		}
		if got, err := n.proc.read(confKey("eth0.100", "arp_ignore")); got != "1" || err != nil {
			t.Errorf("the device that came has arp_ignore %q (%v)", got, err)
		}
		stop()
		<-ended
	})
}

// A node whose file was never valid is not prepared: it does not know its VIPs.
func TestWatchUnknown(t *testing.T) {
	n := watchNode(t, newFakeNode(t))
	for _, text := range []string{"10.0.0", "# no address\n"} {
		n.says(text)
		if _, err := n.w.pass(); err != nil {
			t.Fatal(err)
		}
		wantValues(t, map[string]float64{"node_prepared": 0, "node_vips_file_ok": 0, "node_vips_wanted": 0}, n.metrics())
	}
	n.says("10.0.0.1")
	if _, err := n.w.pass(); err != nil {
		t.Fatal(err)
	}
	wantValues(t, map[string]float64{"node_prepared": 1, "node_vips_file_ok": 1, "node_vips_wanted": 1}, n.metrics())
	n.says("# no address\n")
	if _, err := n.w.pass(); err != nil {
		t.Fatal(err)
	}
	wantValues(t, map[string]float64{"node_prepared": 1, "node_vips_file_ok": 0, "node_vips_wanted": 1, "node_vips_in_place": 1}, n.metrics())
}
