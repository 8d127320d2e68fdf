// Package lab builds small networks out of network namespaces: clients,
// directors and nodes on one Ethernet segment, on a real kernel.
//
// The real-kernel tests, the end-to-end tests and the demonstration use it. It
// needs root and the programs ip, ipvsadm and curl. It makes namespaces with
// names of its own, removes what it made, and touches nothing else.
package lab

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Fail reports a failure of the lab itself and does not return: t.Fatalf in a
// test.
type Fail func(format string, args ...any)

var count atomic.Uint32

// Lab is one Ethernet segment with its hosts.
type Lab struct {
	fail     Fail
	prefix   string
	segment  *Host // holds the bridge
	mu       sync.Mutex
	hosts    []*Host
	closers  []func()
	lastPort int
}

// New makes an empty segment.
func New(fail Fail) *Lab {
	l := &Lab{fail: fail, prefix: fmt.Sprintf("lab%d-%d-", os.Getpid(), count.Add(1))}
	l.segment = l.Namespace("segment")
	l.segment.Batch("link add br0 type bridge", "link set br0 up")
	return l
}

// Close ends what was started in the lab, in reverse order, and removes its
// namespaces.
func (l *Lab) Close() {
	for _, c := range slices.Backward(l.closers) {
		c()
	}
	for _, h := range slices.Backward(l.hosts) {
		if out, err := exec.Command("ip", "netns", "delete", h.ns).CombinedOutput(); err != nil {
			l.fail("remove namespace %s: %v: %s", h.ns, err, out)
		}
	}
}

// later has Close call f.
func (l *Lab) later(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// Host is a network namespace: to the others on the segment, a machine.
type Host struct {
	Name string
	IPv4 netip.Addr // on eth0, in 10.0.0.0/24; invalid for a host without a cable
	IPv6 netip.Addr // on eth0, in 2001:db8::/64
	lab  *Lab
	ns   string
	port string // the bridge's end of its cable
}

// Namespace makes a host that is connected to nothing but itself.
func (l *Lab) Namespace(name string) *Host {
	h := &Host{Name: name, lab: l, ns: l.prefix + name}
	if out, err := exec.Command("ip", "netns", "add", h.ns).CombinedOutput(); err != nil {
		l.fail("make namespace %s: %v: %s", h.ns, err, out)
	}
	l.hosts = append(l.hosts, h)
	h.Batch("link set lo up")
	return h
}

// Host adds a machine to the segment, with the addresses 10.0.0.N and
// 2001:db8::N on eth0 and a default route through 10.0.0.254, which a Router has.
func (l *Lab) Host(name string, n int) *Host {
	h := l.Namespace(name)
	h.plug(n)
	h.Batch("route add default via 10.0.0.254")
	return h
}

// plug connects h to the segment as number n.
func (h *Host) plug(n int) {
	l := h.lab
	h.IPv4 = netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})
	h.IPv6 = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n))
	l.lastPort++
	h.port = fmt.Sprintf("p%d", l.lastPort)
	h.Batch(
		fmt.Sprintf("link add eth0 type veth peer name %s netns %s", h.port, l.segment.ns),
		"link set eth0 up",
		fmt.Sprintf("address add %s/24 dev eth0", h.IPv4),
		fmt.Sprintf("address add %s/64 dev eth0 nodad", h.IPv6),
	)
	l.segment.Batch("link set "+h.port+" master br0", "link set "+h.port+" up")
}

// Find is the host with this name.
func (l *Lab) Find(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		if h.Name == name {
			return h
		}
	}
	l.fail("there is no host %s", name)
	return nil
}

// Cable connects two hosts directly, without the segment: each gets a device that has
// the other's name.
func (l *Lab) Cable(a, b *Host) {
	a.Batch(fmt.Sprintf("link add %s type veth peer name %s netns %s", b.Name, a.Name, b.ns), "link set "+b.Name+" up")
	b.Batch("link set " + a.Name + " up")
}

// Batch runs ip commands inside the host.
func (h *Host) Batch(lines ...string) {
	cmd := exec.Command("ip", "-n", h.ns, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		h.lab.fail("%s: ip %q: %v: %s", h.Name, lines, err, out)
	}
}

// Command prepares a program to run inside the host.
func (h *Host) Command(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", h.ns}, args...)...)
}

// Run runs a program inside the host and returns its standard output. A
// program that fails is a failure of the lab.
func (h *Host) Run(args ...string) string {
	out, err := h.Try(args...)
	if err != nil {
		h.lab.fail("%v", err)
	}
	return out
}

// Try is Run for a program that may fail.
func (h *Host) Try(args ...string) (string, error) {
	cmd := h.Command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// The first thread of a program never ends. A goroutine of Do that ran there would leave
// it inside the host, and the kernel would keep the namespace until the program ends. So
// the main goroutine has this thread to itself.
func init() { runtime.LockOSThread() }

// Do calls f inside the host and waits for it. Sockets that f opens are the
// host's, also afterwards; goroutines that f starts are not inside.
func (h *Host) Do(f func()) {
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with its goroutine, and no other goroutine
		// is ever run inside the namespace.
		runtime.LockOSThread()
		if err = h.enter(); err == nil {
			f()
		}
	}()
	if <-done; err != nil {
		h.lab.fail("enter %s: %v", h.Name, err)
	}
}

// enter moves the calling thread into the host.
func (h *Host) enter() error {
	fd, err := unix.Open("/run/netns/"+h.ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

// Table is `ipvsadm -Sn` inside the host, its lines sorted within each
// service: the referee for what the kernel's table is.
func (h *Host) Table() string {
	out, err := h.Try("ipvsadm", "-Sn")
	if err != nil {
		h.lab.fail("%v", err)
	}
	return SortTable(out)
}

// SortTable gives the lines of `ipvsadm -Sn` one order: services, and within
// each its real servers.
func SortTable(table string) string {
	var services []string
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "-A"):
			services = append(services, line)
		case line != "" && len(services) > 0:
			services[len(services)-1] += "\n" + line
		}
	}
	for i, s := range services {
		lines := strings.Split(s, "\n")
		slices.Sort(lines[1:])
		services[i] = strings.Join(lines, "\n") + "\n"
	}
	slices.Sort(services)
	return strings.Join(services, "")
}

// CutLink sets the host's own device down, or up again.
func (h *Host) CutLink(cut bool) { h.Batch("link set eth0 " + linkState(cut)) }

// CutPort takes the cable out at the switch, or puts it back: to the host, its
// carrier is gone.
func (h *Host) CutPort(cut bool) { h.lab.segment.Batch("link set " + h.port + " " + linkState(cut)) }

// Port is the switch's end of the host's cable, and the namespace that has it.
func (h *Host) Port() (segment *Host, device string) { return h.lab.segment, h.port }

func linkState(cut bool) string {
	if cut {
		return "down"
	}
	return "up"
}
