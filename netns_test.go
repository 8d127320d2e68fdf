// Network namespaces for tests that need a real kernel. They need root.

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// requireRoot skips the test without root. With LVS_REQUIRE_ALL=1, as in
// continuous integration, it fails instead: a skipped test proves nothing.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("LVS_REQUIRE_ALL") == "1" {
		t.Fatal("needs root: network namespaces (LVS_REQUIRE_ALL=1)")
	}
	t.Skip("needs root: network namespaces")
}

// netns is a named network namespace, as `ip netns` makes it.
type netns string

var netnsCount atomic.Uint32

// newNetns makes a fresh network namespace with lo up and removes it when the
// test ends.
func newNetns(t *testing.T) netns {
	t.Helper()
	requireRoot(t)
	ns := netns(fmt.Sprintf("lvs-test-%d-%d", os.Getpid(), netnsCount.Add(1)))
	runCommand(t, "ip", "netns", "add", string(ns))
	t.Cleanup(func() { runCommand(t, "ip", "netns", "delete", string(ns)) })
	ns.run(t, "ip", "link", "set", "lo", "up")
	return ns
}

// run executes a command inside the namespace and returns its output. A
// command that fails ends the test.
func (ns netns) run(t *testing.T, args ...string) string {
	t.Helper()
	return runCommand(t, append([]string{"ip", "netns", "exec", string(ns)}, args...)...)
}

func runCommand(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// do calls f inside the namespace and waits for it. f runs on a thread of its
// own that ends with it: sockets opened by f and files read below
// /proc/sys/net are the namespace's; goroutines started by f are not inside.
// f must not call t.Fatal or its like.
func (ns netns) do(t *testing.T, f func()) {
	t.Helper()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the runtime ends a thread whose goroutine returns
		// locked, and with it the only thread inside the namespace.
		runtime.LockOSThread()
		var fd int
		fd, err = unix.Open("/run/netns/"+string(ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			f()
		}
	}()
	if <-done; err != nil {
		t.Errorf("enter network namespace %s: %v", ns, err)
	}
}

// vethPair joins two namespaces by a link, each end named and up.
func vethPair(t *testing.T, a netns, aName string, b netns, bName string) {
	t.Helper()
	a.run(t, "ip", "link", "add", aName, "type", "veth", "peer", "name", bName, "netns", string(b))
	a.run(t, "ip", "link", "set", aName, "up")
	b.run(t, "ip", "link", "set", bName, "up")
}

// addDevice makes an Ethernet device with its carrier on; its other end is in
// the same namespace. It is left down.
func (ns netns) addDevice(t *testing.T, name string) {
	t.Helper()
	ns.run(t, "ip", "link", "add", name, "type", "veth", "peer", "name", name+"-end")
	ns.run(t, "ip", "link", "set", name+"-end", "up")
}

// listen accepts TCP connections to every address of the namespace and
// returns the port.
func (ns netns) listen(t *testing.T) (port string) {
	t.Helper()
	ns.do(t, func() {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { l.Close() })
		_, port, _ = net.SplitHostPort(l.Addr().String())
	})
	return port
}

// connect opens a TCP connection from inside the namespace.
func (ns netns) connect(t *testing.T, addr, port string) (err error) {
	t.Helper()
	ns.do(t, func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", net.JoinHostPort(addr, port), 2*time.Second); err == nil {
			conn.Close()
		}
	})
	return err
}
