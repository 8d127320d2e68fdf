package lab

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a program that runs inside a host.
type Process struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{}
	err  error
}

// output collects what a program writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// Start runs a program inside the host until it ends or the lab closes.
func (h *Host) Start(args ...string) *Process {
	return h.StartIn(func() error { return nil }, args...)
}

// StartIn is Start for a program that has what enter does to its own thread, such as other
// mounts and fewer capabilities. The thread ends before the program.
func (h *Host) StartIn(enter func() error, args ...string) *Process {
	p := &Process{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	var err error
	// A child starts in the namespace of the thread that makes it, so that its
	// process id is the program's own and not that of `ip netns exec`.
	h.Do(func() {
		if err = enter(); err == nil {
			err = p.cmd.Start()
		}
	})
	if err != nil {
		h.lab.fail("%s: start %s: %v", h.Name, args[0], err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	h.lab.later(func() { p.Kill() })
	return p
}

// PID is the program's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Wait waits for the program to end by itself, and returns its error.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Kill is kill -9, and waits for the end.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Send sends s and does not wait for what comes of it.
func (p *Process) Send(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Signal sends s and waits up to ten seconds for the program to end. It
// returns the program's error.
func (p *Process) Signal(s os.Signal) error {
	if err := p.Send(s); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(10 * time.Second):
		p.Kill()
		return os.ErrDeadlineExceeded
	}
}

// Hangup sends SIGHUP.
func (p *Process) Hangup() error { return p.Send(syscall.SIGHUP) }

// Log is what the program has written so far.
func (p *Process) Log() string {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.out.buf.String()
}

// LogSince is what the program has written after the first n bytes.
func (p *Process) LogSince(n int) string { return p.Log()[n:] }

// CountLog counts the lines that contain text.
func (p *Process) CountLog(text string) int {
	n := 0
	for _, line := range strings.Split(p.Log(), "\n") {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// Ended reports whether the program has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
