package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serviceManager is the socket of a service manager, and what came in at it.
type serviceManager struct {
	*testing.T
	path string
	conn *net.UnixConn
	past []string // datagrams, in their order
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	m := &serviceManager{T: t, path: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m.conn = conn
	return m
}

// next is the next datagram that is no beat, within the time most; "" when there is none.
func (m *serviceManager) next(most time.Duration) string {
	m.Helper()
	end := time.Now().Add(most)
	for {
		if err := m.conn.SetReadDeadline(end); err != nil {
			m.Fatal(err)
		}
		b := make([]byte, 64<<10)
		n, err := m.conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return ""
		}
		if err != nil {
			m.Fatal(err)
		}
		m.past = append(m.past, string(b[:n]))
		if string(b[:n]) != "WATCHDOG=1" {
			return string(b[:n])
		}
	}
}

// wants reads datagrams until one has all of parts.
func (m *serviceManager) wants(parts ...string) string {
	m.Helper()
	for end := time.Now().Add(15 * time.Second); ; {
		got := m.next(time.Until(end))
		if got == "" {
			m.Fatalf("no datagram has %q; those that came:\n%s", parts, strings.Join(m.past, "\n--\n"))
		}
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(got, part) }) {
			return got
		}
	}
}

// notifierTo is a notifier to m.
func notifierTo(t *testing.T, m *serviceManager, watchdog time.Duration) *notifier {
	t.Helper()
	t.Setenv("NOTIFY_SOCKET", m.path)
	t.Setenv("WATCHDOG_USEC", fmt.Sprint(watchdog.Microseconds()))
	n, err := openNotifier()
	if err != nil || n == nil {
		t.Fatal(n, err)
	}
	t.Cleanup(func() { unix.Close(n.fd) })
	if os.Getenv("NOTIFY_SOCKET")+os.Getenv("WATCHDOG_USEC") != "" {
		t.Error("a program that the controller starts could speak for it")
	}
	return n
}

// A reload ends when a pass has used the new configuration, and not before; its result
// stays in the status until the state changes.
func TestNotifyReload(t *testing.T) {
	m := newServiceManager(t)
	n := notifierTo(t, m, 0)
	one, two := new(Config), &Config{Path: "two"}
	same := func(want string) {
		t.Helper()
		most := 10 * time.Second
		if want == "" {
			most = 50 * time.Millisecond
		}
		if got := m.next(most); got != want {
			t.Fatalf("the manager got %q, want %q", got, want)
		}
	}
	n.reload() // before the first pass there is nothing to reload
	n.applies(one)
	n.reloaded("early")
	same("")
	n.passed(one, "not ready")
	same("READY=1\nSTATUS=not ready")
	n.passed(one, "not ready")
	same("")
	n.passed(one, "ready\x1b[31m\nREADY=0")
	same("STATUS=ready [31m READY=0")
	n.passed(one, "ready")
	same("STATUS=ready")

	n.reload()
	m.wants("RELOADING=1\nMONOTONIC_USEC=")
	n.applies(two)
	n.passed(one, "ready")
	n.reloaded("changes: vip edge")
	same("")
	n.passed(two, "ready")
	same("READY=1\nSTATUS=changes: vip edge; ready")
	n.passed(two, "ready")
	same("")

	n.reload()
	m.wants("RELOADING=1")
	n.faulty("line 3: x")
	n.reloaded("rejected")
	same("READY=1\nSTATUS=rejected; ready; line 3: x")
	n.passed(two, "not ready")
	same("STATUS=not ready; line 3: x")
	n.applies(two)
	n.passed(two, strings.Repeat("é", statusMost))
	if got := m.next(time.Second); len(got) > statusMost+20 || !strings.HasSuffix(got, "é…") {
		t.Errorf("a long status is %q", got)
	}
	n.stop("stopping")
	same("STOPPING=1\nSTATUS=stopping")
	n.passed(two, "ready")
	same("")
}

// A manager that does not read costs no time, and gets the state later.
func TestNotifyFull(t *testing.T) {
	m := newServiceManager(t)
	n := notifierTo(t, m, time.Microsecond)
	began := time.Now()
	for range 10_000 {
		n.beat()
	}
	n.passed(nil, "ready")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("10,000 beats took %s", took)
	}
	for range 1000 {
		if m.next(50*time.Millisecond) == "" && len(m.past) > 0 {
			break
		}
	}
	if slices.Contains(m.past, "READY=1\nSTATUS=ready") {
		t.Fatal("the queue was not full: net.unix.max_dgram_qlen may be above 10,000")
	}
	n.passed(nil, "ready")
	m.wants("READY=1\nSTATUS=ready")
}

// A manager without room is asked again a second later, also by a process that has
// nothing else to say, and then no more.
func TestNotifyAgain(t *testing.T) {
	m := newServiceManager(t)
	n := notifierTo(t, m, 0)
	for i := 0; n.send("X=1"); i++ {
		if i > 100_000 {
			t.Fatal("the queue does not fill")
		}
	}
	n.passed(nil, "ready")
	if got := n.every(); got != noticeAgain {
		t.Errorf("the next beat is after %v, want %v", got, noticeAgain)
	}
	for m.next(50*time.Millisecond) != "" {
	}
	n.beat()
	m.wants("READY=1\nSTATUS=ready")
	if got := n.every(); got != 0 {
		t.Errorf("after that there is a beat after %v", got)
	}
}

func TestNotifyNowhere(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if n, err := openNotifier(); n != nil || err != nil {
		t.Errorf("without a service manager: %v, %v", n, err)
	}
	t.Setenv("NOTIFY_SOCKET", "vsock:2:1234")
	if n, err := openNotifier(); n != nil || err == nil {
		t.Errorf("a socket that is none of Unix: %v, %v", n, err)
	}
	var n *notifier
	n.beat()
	n.passed(nil, "")
	n.reload()
	n.applies(nil)
	n.faulty("")
	n.reloaded("")
	n.stop("")
	t.Setenv("NOTIFY_SOCKET", "@lvs-test-nowhere")
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("WATCHDOG_PID", "1")
	n, err := openNotifier()
	if err != nil || n.every() != 0 {
		t.Fatalf("the watchdog of another process is taken for this one's: %s, %v", n.every(), err)
	}
	unix.Close(n.fd)
}

// The whole program under a service manager: ready though the kernel and the API server
// are away, each reload with its result, beats of an idle loop, and the end.
func TestNotifyProgram(t *testing.T) {
	asController(t)
	m := newServiceManager(t)
	dir := t.TempDir()
	text := fmt.Sprintf("listen = \"\"\nmanage_sysctls = false\naudit_interval = \"1h\"\ncluster_file = \"absent\"\nstate_dir = %q\ncache_dir = %q\n", dir, dir)
	vip := strings.Replace(strings.Replace(staticVIP, "selector = \"\"\n", "", 1), "real_servers", "# real_servers", 1)
	path := writeConfig(t, text+vip)
	logFile := filepath.Join(dir, "log")
	cmd := startController(t, newNetns(t), logFile, []string{"-config", path}, "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=1000000")
	if missing := "absent: no such file or directory"; !strings.Contains(m.wants("READY=1\nSTATUS=not ready: "), missing) {
		m.wants("STATUS=not ready: ", missing)
	}
	// The first reading is none of a reload. What comes of it is saved.
	until(t, "the first reading", func() bool { _, err := os.Stat(lastGoodFile(dir)); return err == nil })
	save := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m.wants("RELOADING=1\nMONOTONIC_USEC=")
	}
	save(text + "interfaces = 1\n" + vip)
	m.wants("READY=1\nSTATUS=the configuration file is rejected; not ready: ", `; the last good configuration stays in force: `+path+`:7: interfaces: unknown key`)
	save(text + strings.Replace(vip, "80/tcp", "81/tcp", 1))
	if got := m.wants("READY=1\nSTATUS=the configuration is reloaded, changes: vip edge changed; not ready: "); strings.Contains(got, "interfaces") {
		t.Errorf("a mistake that is corrected is still in %q", got)
	}
	if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.wants("RELOADING=1")
	m.wants("READY=1\nSTATUS=the configuration is reloaded, changes: none; not ready: ")

	m.past = nil
	m.next(3 * time.Second)
	if n := len(m.past); n < 4 || n > 14 {
		t.Errorf("%d datagrams in 3 s of silence, want a beat each half second:\n%s", n, strings.Join(m.past, "\n--\n"))
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.wants("STOPPING=1\nSTATUS=stopping; the kernel goes on forwarding")
	if err := cmd.Wait(); err != nil {
		b, _ := os.ReadFile(logFile)
		t.Errorf("%v\n%s", err, b)
	}
}
