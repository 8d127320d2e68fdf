package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What is not a regular file of a reasonable size is refused at once, and the error
// says what it is.
func TestReadRegular(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		syscall.Mkfifo(in("fifo"), 0o600),
		os.WriteFile(in("small"), []byte("0123456789"), 0o600),
		os.WriteFile(in("large"), []byte("0123456789+"), 0o600),
		os.WriteFile(in("sparse"), nil, 0o600),
		os.Truncate(in("sparse"), 1<<40),
		os.Symlink("fifo", in("link")),
		os.Symlink("loop", in("loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	if err := unix.Bind(socket, &unix.SockaddrUnix{Name: in("socket")}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, want string }{
		{in("small"), ""},
		{"/proc/self/oom_score_adj", ""},
		{in("large"), "large is larger than 10 bytes"},
		{in("sparse"), "sparse is larger than 10 bytes"},
		{"/proc/self/status", "status is larger than 10 bytes"}, // which has size 0
		{in("fifo"), "fifo is not a regular file but a FIFO"},
		{in("link"), "link is not a regular file but a FIFO"},
		{in("socket"), "socket is not a regular file but a socket"},
		{dir, "is not a regular file but a directory"},
		{"/dev/zero", "zero is not a regular file but a device"},
		{"/dev/null", "null is not a regular file but a device"},
		{in("loop"), "too many levels of symbolic links"},
		{in("none"), "no such file or directory"},
		{in("small/none"), "not a directory"},
	} {
		began := time.Now()
		text, err := readRegular(tt.path, 10)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s took %s", tt.path, took)
		}
		if tt.want == "" && (err != nil || len(text) == 0) || tt.want != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.want)) {
			t.Errorf("%s: %q, error %v; want error %q", tt.path, text, err, tt.want)
		}
	}
}

// The same fault gives the same text, so that it is logged once.
func TestReplaceFileSaysTheSameAgain(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	full := func(io.Writer) error { return &fs.PathError{Op: "write", Path: "/x/.a.123", Err: unix.ENOSPC} }
	for _, tt := range []struct {
		path  string
		write func(io.Writer) error
		want  string
	}{
		{"none/file", full, "none/file: open: no such file or directory"},
		{"file", full, "file: write: no space left on device"},
		{"taken", func(io.Writer) error { return nil }, "taken: rename: file exists"},
		{"file", func(io.Writer) error { return errors.New("it has no form") }, "file: it has no form"},
	} {
		for range 3 {
			err := replaceFile(filepath.Join(dir, tt.path), 0o600, true, tt.write)
			if want := filepath.Join(dir, tt.want); err == nil || err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files are left, want one (%v)", len(entries), err)
	}
}

func TestRemoveLeftovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	for _, name := range []string{"state.json", ".state.json.123", ".state.json.4", ".state.json.", ".state.json.x1", ".state.json.bak", ".other.123", "state.json.123"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, ".state.json.5"), 0o700),
		os.Symlink("state.json", filepath.Join(dir, ".state.json.6")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var removed int
	err := replaceFile(path, 0o600, false, func(io.Writer) error {
		removed = removeLeftovers(path) // the file that is being written is not among them
		return nil
	})
	if err != nil || removed != 2 {
		t.Errorf("%d files removed, want 2 (%v)", removed, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := []string{".other.123", ".state.json.", ".state.json.5", ".state.json.6", ".state.json.bak", ".state.json.x1", "state.json", "state.json.123"}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if n := removeLeftovers(filepath.Join(dir, "none", "state.json")); n != 0 {
		t.Errorf("%d files removed where there is no directory", n)
	}
}

// The local port of a connection differs in each attempt, and the failure does not.
func TestFailureLogPassesOverLocalPorts(t *testing.T) {
	var f failureLog
	begun := 0
	for port := range 5 {
		err := fmt.Errorf("list pods: read tcp 10.0.0.1:%d->10.0.0.9:6443: read: connection reset by peer", 40000+port)
		if begins, _ := f.note(err); begins {
			begun++
		}
	}
	if begins, _ := f.note(errors.New("list pods: read tcp 10.0.0.1:40009->10.0.0.8:6443: read: connection reset by peer")); !begins || begun != 1 {
		t.Errorf("logged %d times, and then %v; want once, and another failure", begun, begins)
	}
}

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}
