package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// logged are the lines that write logs in a format, from a level on.
func logged(t *testing.T, format string, level slog.Level, write func(log *slog.Logger)) []string {
	t.Helper()
	var b bytes.Buffer
	l := openLog(&b, format, level)
	write(l.Logger)
	l.queue.close(5 * time.Second)
	return slices.Collect(strings.Lines(b.String()))
}

// The journal takes the priority from the beginning of a line, and has its own time.
func TestLogJournal(t *testing.T) {
	got := logged(t, logJournal, slog.LevelDebug, func(log *slog.Logger) {
		log.Debug("a")
		log.Info("two words", "err", errors.New("first\nsecond"), "time", "mine")
		log.Warn("c")
		log.With("vip", "edge").WithGroup("g").Error("d", "level", 1)
		log.Log(t.Context(), slog.LevelError+4, "worse")
	})
	want := []string{
		"<7>msg=a\n",
		"<6>msg=\"two words\" err=\"first\\nsecond\"\n",
		"<4>msg=c\n",
		"<3>msg=d vip=edge g.level=1\n",
		"<3>msg=worse\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// Each line of JSON is an object that has what the text has.
func TestLogJSON(t *testing.T) {
	for _, line := range logged(t, logJSON, slog.LevelWarn, func(log *slog.Logger) {
		log.Info("unseen")
		log.Warn("seen", "err", errors.New("first\nsecond"))
	}) {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(got["time"])); err != nil {
			t.Error(err)
		}
		delete(got, "time")
		if diff := cmp.Diff(map[string]any{"level": "WARN", "msg": "seen", "err": "first\nsecond"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
}

// The line about dropped lines has the format of the others.
func TestLogGap(t *testing.T) {
	for format, want := range map[string]string{
		logText:    `^time=\S+ level=WARN msg="lines of the log were dropped: their reader is too slow" lines=7\n$`,
		logJSON:    `^\{"time":"[^"]+","level":"WARN","msg":"lines of the log were dropped: their reader is too slow","lines":7\}\n$`,
		logJournal: `^<4>msg="lines of the log were dropped: their reader is too slow" lines=7\n$`,
	} {
		if got := gapLine(format, 7); !regexp.MustCompile(want).Match(got) {
			t.Errorf("%s: %q", format, got)
		}
	}
}

// A signal changes to debug and back, whatever the level of the start is, and says so at
// every level.
func TestLogToggle(t *testing.T) {
	for start, other := range map[slog.Level]slog.Level{
		slog.LevelDebug: slog.LevelInfo, slog.LevelInfo: slog.LevelDebug, slog.LevelWarn: slog.LevelDebug, slog.LevelError: slog.LevelDebug,
	} {
		var b bytes.Buffer
		l := openLog(&b, logText, start)
		var levels []slog.Level
		for range 3 {
			l.level.toggle("a test")
			levels = append(levels, l.level.Level())
			l.Debug("details")
		}
		l.level.change(slog.LevelWarn, "the operator")
		l.level.toggle("a test")
		levels = append(levels, l.level.Level())
		l.queue.close(5 * time.Second)
		if diff := cmp.Diff([]slog.Level{other, start, other, slog.LevelDebug}, levels); diff != "" {
			t.Errorf("levels after %s (-want +got):\n%s", start, diff)
		}
		details, changes := strings.Count(b.String(), "msg=details"), strings.Count(b.String(), `msg="the log level is changed" to=`)
		if want := map[bool]int{true: 2, false: 1}[other == slog.LevelDebug]; details != want || changes != 5 {
			t.Errorf("%s: %d lines of debug, want %d; %d of the change, want 5\n%s", start, details, want, changes, &b)
		}
	}
}

func TestLogFlags(t *testing.T) {
	good := writeConfig(t, staticVIP)
	for flag, want := range map[string]string{
		"-log-format=syslog": `invalid value "syslog" for flag -log-format: want text, json or journal`,
		"-log-level=all":     `invalid value "all" for flag -log-level: want debug, info, warn or error`,
	} {
		code, _, stderr := cli(t, flag, "-config", good)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d\n%s", flag, code, stderr)
		}
	}
}

// runAsController is set where a test runs this binary as the program, with these
// arguments, each on a line.
const runAsController = "LVS_TEST_ARGS"

// asController is the whole process of a test that startController has started.
func asController(t *testing.T) {
	if args := os.Getenv(runAsController); args != "" {
		os.Exit(run(t.Context(), strings.Split(args, "\n"), os.Stdout, os.Stderr))
	}
}

// startController starts the program with args in ns, until the end of the test, which
// calls asController first. Its log goes to logFile.
func startController(t *testing.T, ns netns, logFile string, args []string, env ...string) *exec.Cmd {
	t.Helper()
	log, err := os.Create(logFile)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("ip", "netns", "exec", string(ns), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(append(os.Environ(), env...), runAsController+"="+strings.Join(args, "\n"))
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

// A running controller takes SIGUSR1 for another level, and not for its end.
func TestLogSignal(t *testing.T) {
	asController(t)
	dir := t.TempDir()
	path := writeConfig(t, fmt.Sprintf("listen = \"\"\nmanage_sysctls = false\nstate_dir = %q\ncache_dir = %q\n%s", dir, dir, staticVIP))
	logFile := filepath.Join(dir, "log")
	cmd := startController(t, newNetns(t), logFile, []string{"-config", path, "-log-format", "journal", "-log-level", "error"})
	says := func(text string) func() bool {
		return func() bool { b, _ := os.ReadFile(logFile); return strings.Contains(string(b), text) }
	}
	// It receives signals before it opens its socket.
	until(t, "the controller's socket", func() bool { _, err := os.Stat(socketPath(dir)); return err == nil })
	for _, level := range []string{"debug", "error"} {
		if err := cmd.Process.Signal(unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		until(t, "the change to "+level, says(`<6>msg="the log level is changed" to=`+level+" why=SIGUSR1\n"))
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(logFile); strings.Contains(string(b), "msg=starting") {
		t.Errorf("a line of INFO with -log-level error:\n%s", b)
	}
}
