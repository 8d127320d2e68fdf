// A drill of how a controller's life can end, but for kill -9, and of how two
// lives overlap.

package director

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
)

// The controller is replaced by a new binary, dies as of a panic, is picked by
// the kernel's OOM killer, and has another one started beside it, again and
// again, each soon after something has changed. One node drains all the while,
// with an open upload, and keeps its deadline.
func TestDrillLife(t *testing.T) {
	d := newDrill(t, "life")
	d.configure("[vip.drain]\ntimeout = \"30m\"\n" + calmProbes + shortFin) // longer than the drill
	d.addNodes(4)
	d.joinAll(d.nodes)
	binary := filepath.Join(d.dir, "lvs-controller")
	start := func() {
		d.process = d.director.Start(binary, "-config", filepath.Join(d.dir, "config.toml"))
	}
	d.install(binary)
	start()
	d.serving(d.nodes...)
	d.logged(1, "VIP address added") // it follows the table
	load := d.load(drillPause)
	leaving, flapping := d.nodes[0], d.nodes[1]
	upload := d.uploadTo(leaving)
	lab.Must(t, d.admin.DeletePod(t.Context(), d.namespace, leaving.pod, nil))
	d.serving(d.nodes[1:]...)
	deadline := d.deadline(leaving)
	if deadline.IsZero() {
		t.Fatalf("the node that leaves has no deadline\n%s", d.process.Log())
	}

	var serve []*ingressNode // once the last change is in place
	endings := []struct {
		name string
		end  func()
	}{
		{"upgrade", func() {
			d.install(binary) // while the old one runs from the same path
			if err := d.process.Signal(syscall.SIGTERM); err != nil || !strings.Contains(d.process.Log(), "the kernel goes on forwarding") {
				t.Errorf("SIGTERM: %v\n%s", err, d.process.Log())
			}
		}},
		{"panic", func() {
			// What the Go runtime does of SIGQUIT is what it does of a panic: all
			// stacks, exit status 2, and nothing of the program's own.
			err := d.process.Signal(syscall.SIGQUIT)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 2 || !strings.Contains(d.process.Log(), "goroutine ") {
				t.Errorf("SIGQUIT: %v\n%s", err, d.process.Log())
			}
		}},
		{"out of memory", func() {
			// The OOM killer, called by hand, takes whom it is told to like best.
			lab.Must(t, os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", d.process.PID()), []byte("1000"), 0))
			lab.Must(t, os.WriteFile("/proc/sysrq-trigger", []byte("f"), 0))
			lab.Within(t, 10*time.Second, func() string {
				if !d.process.Ended() {
					return "the OOM killer has not killed the controller"
				}
				return ""
			})
		}},
		{"a second one beside it", func() {
			d.serving(serve...)
			before := d.kernelState(leaving)
			second := d.director.Start(binary, "-config", filepath.Join(d.dir, "config.toml"))
			lab.Within(t, 10*time.Second, func() string {
				if !second.Ended() {
					return "the second controller runs on:\n" + second.Log()
				}
				return ""
			})
			lines := strings.Split(strings.TrimSpace(second.Log()), "\n")
			if want := fmt.Sprintf("another lvs-controller (pid %d) runs with state directory", d.process.PID()); len(lines) != 1 || !strings.Contains(lines[0], want) {
				t.Errorf("the second controller says %q, want one line with %q", lines, want)
			}
			if diff := cmp.Diff(before, d.kernelState(leaving)); diff != "" {
				t.Errorf("the second controller has changed the kernel (-before +after):\n%s", diff)
			}
			if d.process.Ended() {
				t.Errorf("the first controller has ended:\n%s", d.process.Log())
			}
			d.process.Kill()
		}},
	}
	for round := range d.size.lives {
		for i, ending := range endings {
			on := (round*len(endings)+i)%2 == 1
			lab.Must(t, d.admin.SetPodStatus(t.Context(), d.namespace, flapping.pod, on, flapping.IPv4.String()))
			if serve = d.nodes[2:]; on {
				serve = d.nodes[1:]
			}
			time.Sleep(time.Second)
			ending.end()
			start()
			d.serving(serve...)
			lab.Within(t, 10*time.Second, func() string {
				if now := d.deadline(leaving); !now.Equal(deadline) {
					return fmt.Sprintf("after %s the drain's deadline is %s, was %s\n%s", ending.name, now, deadline, d.process.Log())
				}
				return ""
			})
			if _, there := d.weights(80)[leaving.IPv4]; !there {
				t.Errorf("after %s the node that leaves is gone although an upload is open\n%s", ending.name, d.process.Log())
			}
		}
	}
	lab.Must(t, d.finish(upload))
	load.await(d.size.requests)
	load.end("own life", fmt.Sprintf("%d each of upgrades, panics, ends by the OOM killer, second controllers", d.size.lives))
}

// install puts a fresh copy of the controller where path names it, as a careful
// operator does: beside it first, and then by a rename.
func (d *drill) install(path string) {
	d.Helper()
	b, err := os.ReadFile(controller())
	lab.Must(d.T, err)
	lab.Must(d.T, os.WriteFile(path+".new", b, 0o755))
	lab.Must(d.T, os.Rename(path+".new", path))
}

// kernelState is what a controller writes to the kernel: the table, and the
// uplink's addresses. Left out is n's row on the port that has no upload, which
// goes when its last connection is forgotten.
func (d *drill) kernelState(n *ingressNode) string {
	d.Helper()
	var state strings.Builder
	for line := range strings.Lines(d.director.Table()) {
		if !strings.Contains(line, fmt.Sprintf("-r %s:9000 ", n.IPv4)) {
			state.WriteString(line)
		}
	}
	return state.String() + d.director.Run("ip", "-o", "-4", "address", "show", "dev", "eth0")
}

// deadline is when n's drain from port 80, where uploads are, ends at the latest,
// as the state file has it; zero: it does not drain there.
func (d *drill) deadline(n *ingressNode) time.Time {
	d.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, "state", "state.json"))
	lab.Must(d.T, err)
	var state struct {
		Drains []struct {
			Service, Server string
			Deadline        time.Time
		}
	}
	lab.Must(d.T, json.Unmarshal(b, &state))
	for _, e := range state.Drains {
		if e.Service == d.vip.String()+"/tcp" && e.Server == n.IPv4.String() {
			return e.Deadline
		}
	}
	return time.Time{}
}
