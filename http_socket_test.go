// The control socket: its file, who may use it, and what it answers.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"golang.org/x/sys/unix"
)

// startSocket runs the control socket of s in a new directory that every user may enter.
func startSocket(t *testing.T, s *httpServer) (path string, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "lvs-socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.socket = socketPath(dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.RunSocket(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	lab.Within(t, 5*time.Second, func() string {
		if _, err := os.Lstat(s.socket); err != nil {
			return err.Error()
		}
		return ""
	})
	return s.socket, stop
}

// overSocket sends one request.
func overSocket(path, method, target string) (code int, body string, err error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	req, err := http.NewRequest(method, "http://controller"+target, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := (&http.Transport{DialContext: dial, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// The socket answers what the listener answers, while listen is off, under any name; it
// is its owner's alone, and gone at the end.
func TestControlSocket(t *testing.T) {
	path, stop := startSocket(t, newBenchServer(newBench(t, testVIP())))
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v; want a socket with mode 0600", info.Mode(), err)
	}
	for target, want := range map[string]int{
		"/healthz": 200, "/readyz": 503, "/metrics": 200, "/status.json": 200,
		"/debug/pprof/heap": 404, "/debug/pprof/trace": 404, "/nowhere": 404,
	} {
		if code, body, err := overSocket(path, "GET", target); code != want || err != nil {
			t.Errorf("%s: %d, %v, want %d\n%s", target, code, err, want, body)
		}
	}
	stop()
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A socket that no process answers on is replaced, and nothing else is.
func TestControlSocketTakesTheRightPlace(t *testing.T) {
	path := socketPath(t.TempDir())
	open := func() *socketListener {
		t.Helper()
		ln, err := listenControl(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ln.remove)
		return ln
	}
	dead := open()
	dead.Close() // as kill -9 does: the file stays
	live := open()
	if _, err := listenControl(path); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d of user %d answers on", os.Getpid(), os.Geteuid())) {
		t.Errorf("a live socket: %v", err)
	}
	dead.remove() // has no file any more
	if _, err := peerOf(path); err != nil {
		t.Errorf("the end of an earlier controller removed the socket of the present one: %v", err)
	}
	live.remove()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
	for what, put := range map[string]func(at string) error{
		"a file":      func(at string) error { return os.WriteFile(at, []byte("x"), 0o600) },
		"a link":      func(at string) error { return os.Symlink("/dev/null", at) },
		"a directory": func(at string) error { return os.Mkdir(at, 0o700) },
	} {
		for _, at := range []string{path, path + ".new"} {
			if err := put(at); err != nil {
				t.Fatal(err)
			}
			if ln, err := listenControl(path); err == nil {
				ln.remove()
				t.Errorf("%s at %s was replaced", what, at)
			}
			if _, err := os.Lstat(at); err != nil {
				t.Errorf("%s at %s: %v", what, at, err)
			}
			os.Remove(at)
		}
	}
}

// Only root and the controller's own user may change something, whatever the mode of the
// file is, and never over TCP.
func TestControlSocketPeers(t *testing.T) {
	for _, test := range []struct {
		peer *unix.Ucred
		euid int
		want bool
	}{
		{&unix.Ucred{Uid: 0}, 0, true},
		{&unix.Ucred{Uid: 0}, 1000, true},
		{&unix.Ucred{Uid: 1000}, 1000, true},
		{&unix.Ucred{Uid: 1001}, 1000, false},
		{&unix.Ucred{Uid: 1000}, 0, false},
		{&unix.Ucred{Uid: 1<<32 - 1}, -1, false},
		{nil, 0, false},
	} {
		if got := (peerAddr{test.peer}).mayChange(test.euid); got != test.want {
			t.Errorf("%+v, controller's user %d: %t", test.peer, test.euid, got)
		}
	}

	requireRoot(t)
	server := newBenchServer(newBench(t, testVIP()))
	changed := 0
	server.once.Do(func() {
		change := endpoint{"POST /change", onTCP | onSocket, byOwner(func(http.ResponseWriter, *http.Request) { changed++ })}
		server.made = append(server.endpoints(), change)
	})
	path, _ := startSocket(t, server)
	if code, body, err := overSocket(path, "POST", "/change"); code != 200 || changed != 1 || err != nil {
		t.Errorf("root: %d %q, %v", code, body, err)
	}
	if code, _ := server.ask("POST", "/change"); code != 403 || changed != 1 {
		t.Errorf("over TCP: %d, changed %d times", code, changed)
	}
	asAnother := func(target string) (int, error) {
		// The thread has another user for a moment, and ends with the test's goroutine.
		type answer struct {
			code int
			err  error
		}
		done := make(chan answer)
		go func() {
			runtime.LockOSThread()
			conn, err := dialAs(65534, path)
			if err != nil {
				done <- answer{0, err}
				return
			}
			dial := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
			req, _ := http.NewRequest("POST", "http://controller"+target, nil)
			resp, err := (&http.Transport{DialContext: dial, DisableKeepAlives: true}).RoundTrip(req)
			if err != nil {
				done <- answer{0, err}
				return
			}
			resp.Body.Close()
			done <- answer{resp.StatusCode, nil}
		}()
		a := <-done
		return a.code, a.err
	}
	if _, err := asAnother("/change"); !errors.Is(err, unix.EACCES) {
		t.Errorf("another user opens the socket: %v", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/change", "/log-level?level=debug"} {
		if code, err := asAnother(target); code != 403 || changed != 1 || server.output.level.Level() != slog.LevelInfo || err != nil {
			t.Errorf("another user, with mode 0666, %s: %d, %v, changed %d times, level %s", target, code, err, changed, server.output.level.Level())
		}
	}
}

// dialAs connects with this thread as another user. The goroutine is locked to it.
func dialAs(uid int, path string) (net.Conn, error) {
	const unchanged = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, uintptr(uid), unchanged); errno != 0 {
		return nil, errno
	}
	defer unix.RawSyscall(unix.SYS_SETRESUID, unchanged, 0, unchanged)
	return net.Dial("unix", path)
}

// With -debug the socket has profiles and traces, and the TCP listener has none.
func TestControlSocketDebug(t *testing.T) {
	server := newBenchServer(newBench(t, testVIP()))
	server.debug = true
	path, _ := startSocket(t, server)
	for target, want := range map[string]int{
		"/debug/pprof/heap":                 200,
		"/debug/pprof/goroutine?debug=2":    200,
		"/debug/pprof/profile?seconds=1":    200,
		"/debug/pprof/trace?seconds=1":      200,
		"/debug/pprof/profile?seconds=61":   400,
		"/debug/pprof/trace?seconds=0":      400,
		"/debug/pprof/trace?seconds=-1":     400,
		"/debug/pprof/profile?seconds=1e99": 400,
		"/debug/pprof/nothing":              404,
	} {
		code, body, err := overSocket(path, "GET", target)
		if code != want || err != nil || code == 200 && len(body) == 0 {
			t.Errorf("%s: %d, %d bytes, %v, want %d", target, code, len(body), err, want)
		}
		if code, _ := server.ask("GET", target); code != 404 {
			t.Errorf("%s over TCP: %d", target, code)
		}
	}
	code, profile, err := overSocket(path, "GET", "/debug/pprof/profile?seconds=1")
	if code != 200 || err != nil {
		t.Fatal(code, err)
	}
	// As docs/status.md has it, of this process.
	dir := t.TempDir()
	program, err := os.Executable()
	if err := errors.Join(err, os.Symlink(program, filepath.Join(dir, "lvs-controller")), os.WriteFile(filepath.Join(dir, "cpu"), []byte(profile), 0o600)); err != nil {
		t.Fatal(err)
	}
	read := exec.Command("sh", "-c", "go tool pprof lvs-controller cpu")
	read.Dir, read.Stdin = dir, strings.NewReader("top\nquit\n")
	if out, err := read.CombinedOutput(); err != nil || !strings.Contains(string(out), "Type: cpu") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The level of the log changes over the socket, by those who may.
func TestControlSocketLogLevel(t *testing.T) {
	requireRoot(t)
	server := newBenchServer(newBench(t, testVIP()))
	var lines bytes.Buffer
	server.output = openLog(&lines, logText, slog.LevelInfo)
	path, _ := startSocket(t, server)
	for _, test := range []struct {
		query, body string
		code        int
		level       slog.Level
	}{
		{"?level=debug", "ok\n", 200, slog.LevelDebug},
		{"?level=all", "level: want debug, info, warn or error\n", 400, slog.LevelDebug},
		{"", "level: want debug, info, warn or error\n", 400, slog.LevelDebug},
		{"?level=error", "ok\n", 200, slog.LevelError},
	} {
		code, body, err := overSocket(path, "POST", "/log-level"+test.query)
		if code != test.code || body != test.body || err != nil || server.output.level.Level() != test.level {
			t.Errorf("%q: %d %q %v, level %s", test.query, code, body, err, server.output.level.Level())
		}
	}
	// The command of docs/operations.md.
	text, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^(curl .*/log-level.*)$`).FindSubmatch(text)
	if command == nil {
		t.Fatal("docs/operations.md has no command that changes the level of the log")
	}
	line := strings.Replace(string(command[1]), defaultConfig().StateDir+"/"+filepath.Base(path), path, 1)
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); !strings.HasSuffix(string(out), "ok\n") || err != nil || server.output.level.Level() != slog.LevelWarn {
		t.Errorf("%s: %q %v, level %s", line, out, err, server.output.level.Level())
	}
	if code, _ := server.ask("POST", "/log-level?level=debug"); code != 404 {
		t.Errorf("over TCP: %d, want 404", code)
	}
	server.output.queue.close(5 * time.Second)
	if n := strings.Count(lines.String(), `level=INFO msg="the log level is changed" to=`); n != 3 || !strings.Contains(lines.String(), `to=error why="the control socket"`) {
		t.Errorf("%d lines say so, want 3:\n%s", n, &lines)
	}
}
