// The SysV script of install/ when its processes end at a bad moment.

package director

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// sysV is the script with a daemon of its own, in a directory of its own.
type sysV struct {
	*testing.T
	shell                        []string
	daemon, defaults, pids, file string // pids: the numbers of all daemons; file: the script's pid file
}

// newSysV makes one with a daemon that runs these lines.
func newSysV(t *testing.T, shell []string, respawnSeconds, daemon string) *sysV {
	t.Helper()
	dir := t.TempDir()
	s := &sysV{t, shell, filepath.Join(dir, "daemon"), filepath.Join(dir, "default"), filepath.Join(dir, "pids"), filepath.Join(dir, "run", "pid")}
	lab.Must(t, errors.Join(os.Mkdir(filepath.Dir(s.file), 0o755),
		os.WriteFile(s.daemon, []byte("#!/bin/sh\n[ \"$1\" != check ] || exit 0\necho $$ >>"+s.pids+"\n"+daemon), 0o755),
		os.WriteFile(s.defaults, fmt.Appendf(nil, "DAEMON=%s\nPIDFILE=%s\nLOG=%s\nRESPAWN_SECONDS=%s\nSTOP_SECONDS=20\n", s.daemon, s.file, filepath.Join(dir, "log"), respawnSeconds), 0o644)))
	t.Cleanup(func() {
		s.run("stop")
		for _, pid := range s.alive() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return s
}

// command is a call of the script.
func (s *sysV) command(action string) *exec.Cmd {
	line := append(append([]string(nil), s.shell...), installed("lvs-controller.sysv"), action)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), "LVS_CONTROLLER_DEFAULTS="+s.defaults)
	return cmd
}

func (s *sysV) run(action string) string {
	s.Helper()
	code, out := runScript(s.T, s.shell, []string{"LVS_CONTROLLER_DEFAULTS=" + s.defaults}, "lvs-controller.sysv", action)
	return fmt.Sprintf("exit %d: %s", code, out)
}

// alive are the daemons that run.
func (s *sysV) alive() (found []int) {
	text, _ := os.ReadFile(s.pids)
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		lab.Must(s.T, err)
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), s.daemon) {
			found = append(found, pid)
		}
	}
	return found
}

// A stop while the daemon ends again and again leaves none behind, whatever the moment.
// This daemon ends as long as its shell is there, so that one without a shell is seen.
func TestSysVStopInCrashLoop(t *testing.T) {
	of(t, "host")
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		s := newSysV(t, shell, "0", `! tr '\0' '\n' <"/proc/$PPID/cmdline" | grep -qx respawn || exit 1
while :; do sleep 0.1; done
`)
		for i := range 12 {
			respawn := s.command("respawn")
			lab.Must(t, respawn.Start())
			ended := make(chan error, 1)
			go func() { ended <- respawn.Wait() }()
			lab.Must(t, os.WriteFile(s.file+".respawn", fmt.Appendln(nil, respawn.Process.Pid), 0o644))
			time.Sleep(50*time.Millisecond + rand.N(20*time.Millisecond))
			out := s.run("stop")
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("stop %d: the shell ends with %v", i, err)
				}
			case <-time.After(5 * time.Second):
				lab.Must(t, respawn.Process.Kill())
				t.Errorf("stop %d: the shell goes on", i)
			}
			time.Sleep(50 * time.Millisecond)
			if left := s.alive(); len(left) > 0 || !strings.Contains(out, "exit 0: lvs-controller stopped") {
				t.Fatalf("stop %d leaves the daemons %d: %s", i, left, out)
			}
		}
	})
}

// A stop gives the daemon one signal, and waits until it has ended.
func TestSysVStopWaits(t *testing.T) {
	of(t, "host")
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		s := newSysV(t, shell, "1", `trap 'echo term; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.3; done; echo end; exit' TERM
while :; do sleep 0.1; done
`)
		for _, without := range []string{"", ".respawn"} {
			if out := s.run("start"); !strings.HasPrefix(out, "exit 0") {
				t.Fatal(out)
			}
			if without != "" { // as after its shell was killed
				text, err := os.ReadFile(s.file + without)
				lab.Must(t, err)
				pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
				lab.Must(t, errors.Join(err, syscall.Kill(pid, syscall.SIGKILL)))
			}
			out := s.run("stop")
			if left := s.alive(); len(left) > 0 || !strings.Contains(out, "goes on forwarding") {
				t.Errorf("without %q: daemons %d: %s", without, left, out)
			}
		}
		log, err := os.ReadFile(filepath.Join(filepath.Dir(s.daemon), "log"))
		if want := strings.Repeat("term\nend\n", 2); err != nil || string(log) != want {
			t.Errorf("the daemon saw %q, %v; want %q", log, err, want)
		}
	})
}

// A start that is killed before it has seen the daemon leaves a shell that starts it again.
func TestSysVStartInterrupted(t *testing.T) {
	of(t, "host")
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		s := newSysV(t, shell, "0", "while :; do sleep 0.1; done\n")
		start := s.command("start")
		lab.Must(t, start.Start())
		runs := func(but int) (pid int) {
			lab.Within(t, 10*time.Second, func() string {
				for _, pid = range s.alive() {
					if pid != but {
						return ""
					}
				}
				return fmt.Sprintf("no daemon but %d", but)
			})
			return pid
		}
		first := runs(0)
		lab.Must(t, start.Process.Kill())
		if err := start.Wait(); err == nil {
			t.Fatal("the start has ended before")
		}
		lab.Must(t, syscall.Kill(first, syscall.SIGKILL))
		runs(first)
		if out := s.run("stop"); !strings.Contains(out, "goes on forwarding") || len(s.alive()) > 0 {
			t.Errorf("daemons %d: %s", s.alive(), out)
		}
	})
}
