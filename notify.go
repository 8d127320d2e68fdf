// What the service manager gets to know of the controller, by sd_notify(3).
//
// Used by reconcile_notify.go, cmd_realserver_watch.go and main.go. It sends one datagram for
// each event and never waits: what the manager does not take is sent with the next beat. It
// knows nothing of what the texts say. The protocol is a line of text for each fact, so no
// library is needed.

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// statusMost bounds the status line, in bytes. systemd drops datagrams above 4096.
const statusMost = 1500

// notifier is the way to the service manager. nil is for a process without one. It is
// safe from any goroutine.
type notifier struct {
	fd       int
	to       unix.SockaddrUnix
	watchdog time.Duration // the manager ends a process that was silent for so long; 0: it does not

	mu        sync.Mutex
	beaten    time.Time
	ready     bool
	stopping  bool
	reloading bool
	awaited   any    // a reload is over when a pass has used this; nil: no pass has to
	result    string // of a reload; "": it has none yet
	state     string // of the last pass
	fault     string // of the configuration file
	sent      string // state and fault, as the manager has them
	missed    bool   // since the last beat the manager had no room for something
}

// noticeAgain is when the manager is asked again that had no room.
const noticeAgain = time.Second

// openNotifier returns the way to the service manager that the environment names, and
// nil where it names none. Programs that this one starts get no word of it.
func openNotifier() (*notifier, error) {
	name, watchdog, pid := os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, key := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		os.Unsetenv(key)
	}
	if name == "" {
		return nil, nil
	}
	if name[0] != '/' && name[0] != '@' {
		return nil, fmt.Errorf("NOTIFY_SOCKET: %q is no path of a Unix socket", name)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket for NOTIFY_SOCKET: %w", err)
	}
	n := &notifier{fd: fd, to: unix.SockaddrUnix{Name: name}}
	if us, err := strconv.ParseInt(watchdog, 10, 64); err == nil && us > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n, nil
}

// send sends facts and reports whether the manager has taken them.
func (n *notifier) send(facts ...string) bool {
	for {
		err := unix.Sendto(n.fd, []byte(strings.Join(facts, "\n")), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &n.to)
		if !errors.Is(err, unix.EINTR) {
			n.missed = n.missed || errors.Is(err, unix.EAGAIN)
			return err == nil
		}
	}
}

// every is the longest time between two beats; 0: there need be none.
func (n *notifier) every() time.Duration {
	if n == nil {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !n.missed:
		return n.watchdog / 2
	case n.watchdog > 0:
		return min(n.watchdog/2, noticeAgain)
	}
	return noticeAgain
}

// beat tells the watchdog that the loop makes progress, and sends again what the manager
// had no room for. It may be called often: that goes out only when half of the time
// between two beats is over.
func (n *notifier) beat() {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.missed {
		n.missed = false
		n.update()
	}
	if now := time.Now(); n.watchdog > 0 && now.Sub(n.beaten) >= n.watchdog/4 && n.send("WATCHDOG=1") {
		n.beaten = now
	}
}

// passed tells the manager that a pass has used of, and what has come of it. The first
// pass makes the process ready.
func (n *notifier) passed(of any, state string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = state
	if n.awaited == of {
		n.awaited = nil
	}
	n.update()
}

// faulty says what is wrong with the configuration file, until applies.
func (n *notifier) faulty(fault string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = fault
	n.update()
}

// reload tells the manager that the configuration is about to be read again.
func (n *notifier) reload() {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil || !n.ready || n.stopping {
		return
	}
	n.reloading, n.result = n.send("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000)), ""
}

// applies makes the reload last until a pass has used c, which the file says without a
// fault.
func (n *notifier) applies(c any) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault, n.awaited = "", c
}

// reloaded gives the result of a reload.
func (n *notifier) reloaded(result string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.result = result
	n.update()
}

// update sends what the manager does not have. The result of a reload stays in the status
// until there is another one. The caller has locked mu.
func (n *notifier) update() {
	if n.stopping || n.state == "" {
		return
	}
	now := n.state
	if n.fault != "" {
		now += "; " + n.fault
	}
	switch {
	case !n.ready:
		if n.send("READY=1", statusFact(now)) {
			n.ready, n.sent = true, now
		}
	case n.reloading:
		if n.awaited == nil && n.result != "" && n.send("READY=1", statusFact(n.result+"; "+now)) {
			n.reloading, n.sent = false, now
		}
	case now != n.sent && n.send(statusFact(now)):
		n.sent = now
	}
}

// stop tells the manager that the process is about to end.
func (n *notifier) stop(status string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopping = true
	n.send("STOPPING=1", statusFact(status))
}

// statusFact is the fact that a person reads: one line, and not a long one.
func statusFact(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	if len(text) > statusMost {
		text = strings.ToValidUTF8(text[:statusMost], "") + "…"
	}
	return "STATUS=" + text
}
