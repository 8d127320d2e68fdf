// Programming a whole table into an empty kernel: the controller, what it is
// compared with, and the floor.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/bench/results"
	"lvs-controller/test/lab"
)

// programming is a way to make a table, which returns how long that took in h.
type programming struct {
	name string
	runs int
	do   func(h *lab.Host) time.Duration
}

func TestBenchProgram(t *testing.T) {
	b := newBenchmark(t)
	for _, table := range longOr(b, []benchTable{{100, 50}, {1000, 50}}, []benchTable{{100, 50}}) {
		b.program(table)
	}
}

// program measures every way to make the table, round by round, so that what
// disturbs the machine for a while disturbs them all.
func (b *benchmark) program(table benchTable) {
	var (
		floor []floorBytes
		told  []float64
	)
	ways := []programming{
		{"floor", longOr(b, 7, 3), func(h *lab.Host) time.Duration {
			f := dialFloor(b.T, h)
			defer f.close()
			if floor == nil {
				floor = f.encode(b.T, table.messages())
				b.quiet()
			}
			start := time.Now()
			err := f.send(floor)
			took := time.Since(start)
			must(b.T, err)
			return took
		}},
		{"ours", longOr(b, 7, 3), func(h *lab.Host) time.Duration {
			d := newBenchDirector(b, h, benchVIP{"edge", benchAddress, table.services, table.nodes()})
			defer d.close()
			b.quiet()
			whole, kernel := d.turn()
			told = append(told, ms(kernel))
			return whole
		}},
		{"ours, from exec", longOr(b, 5, 2), func(h *lab.Host) time.Duration { return b.programBinary(h, table) }},
		{"moby/ipvs", longOr(b, 3, 1), func(h *lab.Host) time.Duration { return b.programMoby(h, table) }},
		{"keepalived, from exec", longOr(b, 3, 1), func(h *lab.Host) time.Duration { return b.programKeepalived(h, table) }},
		{"ipvsadm -R, from exec", longOr(b, 3, 1), func(h *lab.Host) time.Duration {
			cmd := exec.Command("ipvsadm", "-R")
			cmd.Stdin = b.file("rules", table.ipvsadm())
			return b.runIn(h, cmd)
		}},
	}
	took := make([][]float64, len(ways))
	for round := range ways[0].runs {
		for i, w := range ways {
			if round >= w.runs {
				continue
			}
			b.inFresh(func(h *lab.Host) {
				took[i] = append(took[i], ms(w.do(h)))
				b.check(h, table)
			})
		}
	}
	b.record(results.New("program", "ours, kernel told", table.params(), "ms", told...))
	for i, w := range ways {
		b.record(results.New("program", w.name, table.params(), "ms", took[i]...))
	}
}

// file writes a file and opens it for reading.
func (b *benchmark) file(name, text string) *os.File {
	b.Helper()
	path := filepath.Join(b.TempDir(), name)
	must(b.T, os.WriteFile(path, []byte(text), 0o644))
	f, err := os.Open(path)
	must(b.T, err)
	b.Cleanup(func() { f.Close() })
	return f
}

// programBinary runs the controller itself, until its table is whole.
func (b *benchmark) programBinary(h *lab.Host, table benchTable) time.Duration {
	dir := b.TempDir()
	config := b.file("config.toml", table.config(dir, ""))
	return b.untilWhole(h, table, exec.Command(controllerBinary(b.T), "-config", config.Name()))
}

// programKeepalived runs keepalived's checker alone, whose real servers have no
// checks and so are put in service at its start.
func (b *benchmark) programKeepalived(h *lab.Host, table benchTable) time.Duration {
	dir := b.TempDir()
	config := b.file("keepalived.conf", table.keepalived())
	return b.untilWhole(h, table, exec.Command("keepalived", "--check", "--dont-fork", "--log-console",
		"--use-file", config.Name(), "--pid", filepath.Join(dir, "pid"), "--checkers_pid", filepath.Join(dir, "checkers")))
}

// untilWhole starts a program, returns how long its table took to be whole, and
// ends it.
func (b *benchmark) untilWhole(h *lab.Host, table benchTable, cmd *exec.Cmd) time.Duration {
	b.Helper()
	log := b.file("log", "")
	out, err := os.OpenFile(log.Name(), os.O_WRONLY|os.O_APPEND, 0)
	must(b.T, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// The first process of a PID namespace takes all others with it when it is
	// killed: keepalived's would else undo the table, one call a real server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	f := dialFloor(b.T, h)
	defer f.close()
	start := time.Now()
	b.startIn(h, cmd)
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	whole := f.await(table, start.Add(2*time.Minute), b.T)
	if whole.IsZero() {
		text, _ := os.ReadFile(log.Name())
		b.Fatalf("%s: the table is not whole after two minutes\n%s", cmd.Path, text[max(0, len(text)-4000):])
	}
	return whole.Sub(start)
}

// await polls until the table is whole and returns that time, or none at the
// deadline. As long as the last service is not full it looks at nothing else.
func (f *floorSocket) await(table benchTable, deadline time.Time, t *testing.T) time.Time {
	t.Helper()
	keys := table.keys()
	last := f.dumps(t, keys[len(keys)-1:])[1]
	for time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
		rows := 0
		f.rows(t, last, func([]byte) { rows++ })
		if rows < table.servers {
			continue
		}
		now := time.Now()
		if all, _ := f.count(t, keys); all == table.rows() {
			return now
		}
	}
	return time.Time{}
}

// programMoby runs test/peers/moby, which times itself.
func (b *benchmark) programMoby(h *lab.Host, table benchTable) time.Duration {
	path := os.Getenv("LVS_BENCH_MOBY")
	if path == "" {
		b.Fatal("LVS_BENCH_MOBY does not name test/peers/moby's binary")
	}
	cmd := exec.Command(path, "-vip", benchAddress.String(), "-port", strconv.Itoa(benchPort), "-services", strconv.Itoa(table.services),
		"-first", benchNode.String(), "-servers", strconv.Itoa(table.servers))
	var said strings.Builder
	cmd.Stdout = &said
	b.runIn(h, cmd)
	seconds, err := strconv.ParseFloat(strings.TrimSpace(said.String()), 64)
	if err != nil {
		b.Fatal(fmt.Errorf("moby's answer: %w", err))
	}
	return time.Duration(seconds * float64(time.Second))
}
