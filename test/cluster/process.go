// The child processes of a test cluster: starting, stopping, and the certainty
// that none is left behind. Used by cluster.go only. It never touches a process
// it did not start.

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// logTailSize is how much of a log an error quotes.
const logTailSize = 2000

// process is one running or ended child process.
type process struct {
	name    string
	logPath string
	child   *os.Process
	done    chan struct{} // closed once the child has ended and was reaped
}

// startProcess starts bin with no environment and its output appended to
// logPath. The kernel kills the child when this process ends, however it ends.
//
// That signal is bound to the thread that forked, and a Go thread ends early
// when a goroutine locked to it returns (tests that enter network namespaces do
// that). So the fork happens on a thread that is kept until the child has ended.
func startProcess(name, logPath, bin string, args []string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	defer log.Close()

	cmd := exec.Command(bin, args...)
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = log, log
	// A process group of its own: an interrupt typed at a terminal must not
	// reach etcd and kube-apiserver at the same time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}

	p := &process{name: name, logPath: logPath, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.child = cmd.Process
		started <- err
		if err == nil {
			// How a child ended says nothing here: it was told to, or
			// waitFor quotes its log.
			_ = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// ended reports whether the child is gone. A nil process is.
func (p *process) ended() bool {
	if p == nil {
		return true
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// terminate asks the child to end and waits for it. After the given time it is
// killed, and that is an error.
func (p *process) terminate(patience time.Duration) error {
	if p.ended() {
		return nil
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
	}
	err := fmt.Errorf("%s did not end within %v and was killed", p.name, patience)
	return errors.Join(err, p.kill())
}

// kill ends the child at once and waits until it is reaped.
func (p *process) kill() error {
	if p.ended() {
		return nil
	}
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// signal sends a signal. That the child is gone already is not an error.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.child.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, p.name, err)
	}
	return nil
}

// logTail returns the end of the child's log, for error messages.
func (p *process) logTail() string {
	log, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	if len(log) > logTailSize {
		log = log[len(log)-logTailSize:]
		_, log, _ = bytes.Cut(log, []byte("\n"))
	}
	return string(log)
}
