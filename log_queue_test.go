package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// blockedWriter takes lines once it is opened, and notes them.
type blockedWriter struct {
	open  chan struct{}
	mu    sync.Mutex
	lines []string
}

func (w *blockedWriter) Write(b []byte) (int, error) {
	<-w.open
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, string(b))
	return len(b), nil
}

// A reader that does not read costs lines and no time; the gap is said in its place.
func TestLogQueue(t *testing.T) {
	out := &blockedWriter{open: make(chan struct{})}
	q := newLogQueue(out, logText)
	log := slog.New(slog.NewTextHandler(q, nil))
	began := time.Now()
	long := strings.Repeat("x", 1<<20)
	for i := range 40 {
		log.Info("line", "number", i, "text", long)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("40 lines took %s", took)
	}
	lost := q.Lost()
	if lost < 20 || lost > 30 {
		t.Errorf("%d lines were dropped, want those above %d MiB", lost, queuedLog>>20)
	}
	close(out.open)
	until(t, "the lines that had room and the gap", func() bool {
		out.mu.Lock()
		defer out.mu.Unlock()
		return len(out.lines) == 40-int(lost)+1
	})
	log.Info("after")
	q.close(5 * time.Second)
	log.Info("too late")
	for i, line := range out.lines[:len(out.lines)-2] {
		if !strings.Contains(line, fmt.Sprintf("number=%d ", i)) {
			t.Errorf("line %d is %q", i, line[:60])
		}
	}
	gap, last := out.lines[len(out.lines)-2], out.lines[len(out.lines)-1]
	if !strings.Contains(gap, fmt.Sprintf("level=WARN msg=\"lines of the log were dropped: their reader is too slow\" lines=%d\n", lost)) || !strings.Contains(last, "msg=after") {
		t.Errorf("the end is %q and %q", gap, last)
	}
}

// The end does not wait for a reader that does not read, nor for one that is gone.
func TestLogQueueEnds(t *testing.T) {
	out := &blockedWriter{open: make(chan struct{})}
	defer close(out.open)
	q := newLogQueue(out, logText)
	fmt.Fprintln(q, "line")
	began := time.Now()
	q.close(50 * time.Millisecond)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %s", took)
	}
	gone := newLogQueue(errorWriter{}, logText)
	fmt.Fprintln(gone, "line")
	gone.close(5 * time.Second)
	if gone.Lost() != 1 {
		t.Errorf("%d lines lost, want 1", gone.Lost())
	}
}

type errorWriter struct{}

func (errorWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// wedgedConfig is set where TestEndsThoughItIsHeldUp runs itself as a controller.
const wedgedConfig = "LVS_TEST_WEDGED"

// Nothing that holds a part of the program up keeps it from ending.
func TestEndsThoughItIsHeldUp(t *testing.T) {
	if path := os.Getenv(wedgedConfig); path != "" {
		os.Exit(run(context.Background(), []string{"-debug", "-config", path}, os.Stdout, os.Stderr))
	}
	vip := "[[vip]]\nname = 'edge'\naddresses = ['10.0.0.1']\nports = [80]\n"
	var many strings.Builder
	for i := range 30 {
		fmt.Fprintf(&many, "[[vip]]\nname = 'vip%d'\naddresses = ['10.0.1.%d']\nports = [80]\nreal_servers = [{ address = '10.1.0.1' }]\n", i, i+1)
	}
	for _, tt := range []struct{ name, text string }{
		{"a log that is not read", many.String()},
		{"a FIFO as the cluster file", "cluster_file = 'fifo'\n" + vip},
		{"a FIFO as the kubeconfig", "kubeconfig = 'fifo'\n" + vip},
		{"a device as the cluster file", "cluster_file = '/dev/zero'\n" + vip},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			mkfifo(t, filepath.Join(dir, "fifo"))
			path := filepath.Join(dir, "config.toml")
			text := fmt.Sprintf("listen = ''\nmanage_sysctls = false\nstate_dir = %q\ncache_dir = %q\n", dir, dir) + tt.text
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			if _, err := unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("ip", "netns", "exec", string(newNetns(t)), os.Args[0], "-test.run=^TestEndsThoughItIsHeldUp$")
			cmd.Env, cmd.Stderr = append(os.Environ(), wedgedConfig+"="+path), writer
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			writer.Close()
			defer func() { _ = cmd.Process.Kill() }()
			until(t, "the state of the first pass", func() bool { _, err := os.Stat(filepath.Join(dir, "lock")); return err == nil })
			time.Sleep(time.Second) // so that it is held up
			began := time.Now()
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case err := <-ended:
				if err != nil || time.Since(began) > 5*time.Second {
					t.Errorf("it ended after %s with %v", time.Since(began), err)
				}
			case <-time.After(20 * time.Second):
				t.Error("it does not end")
			}
		})
	}
}
