package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const otherUser = 65534

// lockHelper names what a process of the test binary does; see TestLockHelper.
const lockHelper = "LVS_TEST_LOCK"

// TestLockHelper is no test: another process runs it, to lock a file or a directory.
// It writes one line about the result and ends with its standard input.
func TestLockHelper(t *testing.T) {
	what, path, _ := strings.Cut(os.Getenv(lockHelper), " ")
	if what == "" {
		t.Skip("for other tests")
	}
	hold := func(how int) *os.File {
		if err := syscall.Setuid(otherUser); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err == nil {
			err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	switch what {
	case "hold":
		defer hold(unix.LOCK_EX).Close()
		fmt.Println("\nheld")
	case "share":
		defer hold(unix.LOCK_SH).Close()
		fmt.Println("\nheld")
	case "leave": // to a process that outlives the one that has locked
		child := exec.Command("/bin/cat")
		child.ExtraFiles = []*os.File{hold(unix.LOCK_EX)}
		child.Stdin = os.Stdin
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("\nheld")
		os.Exit(0)
	case "director", "namespace":
		if what == "namespace" { // with the /proc of its PID namespace
			if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
				t.Fatal(err)
			}
		}
		var log bytes.Buffer
		f, err := (&stateDir{path: path}).lock(slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			fmt.Printf("\nrefused: %v\n", err)
			return
		}
		defer f.Close()
		fmt.Println("\nheld")
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// lockElsewhere has another process lock path, until the test ends or it is released.
func lockElsewhere(t *testing.T, what, path string, flags uintptr) (pid int, said string, release func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockHelper$")
	cmd.Env = append(os.Environ(), lockHelper+"="+what+" "+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	t.Cleanup(release)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if said := lines.Text(); said == "held" || strings.HasPrefix(said, "refused") {
			return cmd.Process.Pid, said, release
		}
	}
	t.Fatalf("%s %s: the other process has ended", what, path)
	return 0, "", nil
}

// lockIn takes the lock of a state directory, and returns what was logged.
func lockIn(t *testing.T, dir string) (*os.File, string, error) {
	t.Helper()
	var log bytes.Buffer
	f, err := (&stateDir{path: dir}).lock(slog.New(slog.NewTextHandler(&log, nil)))
	if err == nil {
		t.Cleanup(func() { f.Close() })
	}
	return f, log.String(), err
}

// checkLocked checks that the lock is this process's, and that no second controller
// nor another user gets it.
func checkLocked(t *testing.T, dir string, f *os.File) {
	t.Helper()
	path := filepath.Join(dir, "lock")
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if held, err := f.Stat(); err != nil || !os.SameFile(info, held) {
		t.Errorf("what is locked is not %s (%v)", path, err)
	}
	if info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		t.Errorf("mode %v of user %d", info.Mode(), info.Sys().(*syscall.Stat_t).Uid)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != strconv.Itoa(os.Getpid())+"\n" {
		t.Errorf("it says %q, %v", b, err)
	}
	if _, log, err := lockIn(t, dir); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another lvs-controller (pid %d) ", os.Getpid())) || log != "" {
		t.Errorf("a second controller: %v\n%s", err, log)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the directory: %v, %v", left, err)
	}
}

// oldLock makes a state directory with the lock file of an earlier version.
func oldLock(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "lock")
	// Other users come as far as the file.
	for at := dir; at != "/" && at != os.TempDir(); at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("123456\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

func TestLockIsOfItsUserAlone(t *testing.T) {
	dir := t.TempDir()
	f, log, err := lockIn(t, dir)
	if err != nil || log != "" {
		t.Fatal(err, log)
	}
	checkLocked(t, dir, f)
}

// Who has opened the file of an earlier version can still lock it when its mode
// has changed.
func TestLockOfEarlierVersion(t *testing.T) {
	dir, path := oldLock(t)
	open, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	f, log, err := lockIn(t, dir)
	if err != nil || log != "" {
		t.Fatal(err, log)
	}
	checkLocked(t, dir, f)
	f.Close()
	if err := flock(open); err != nil {
		t.Fatal(err)
	}
	if f, log, err = lockIn(t, dir); err != nil || log != "" {
		t.Fatal(err, log)
	}
	checkLocked(t, dir, f)
}

// A file that has another name too is not overwritten, but while a controller has
// it locked no second one starts.
func TestLockWithSecondName(t *testing.T) {
	dir, path := oldLock(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.Link(other, path)); err != nil {
		t.Fatal(err)
	}
	f, _, err := lockIn(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	checkLocked(t, dir, f)
	if b, err := os.ReadFile(other); err != nil || string(b) != "precious" {
		t.Errorf("the other name's file says %q, %v", b, err)
	}
	if err := os.Link(path, filepath.Join(t.TempDir(), "second")); err != nil {
		t.Fatal(err)
	}
	checkLocked(t, dir, f)
}

func TestLockHeldByOtherUser(t *testing.T) {
	requireRoot(t)
	for _, what := range []string{"hold", "share", "leave"} {
		t.Run(what, func(t *testing.T) {
			dir, path := oldLock(t)
			_, _, release := lockElsewhere(t, what, path, 0)
			f, log, err := lockIn(t, dir)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(log, "level=WARN") != 1 || strings.Count(log, "\n") != 1 || !strings.Contains(log, " of user 65534 has locked it") {
				t.Errorf("log:\n%s", log)
			}
			checkLocked(t, dir, f)
			release()
			checkLocked(t, dir, f)
		})
	}
}

// A controller that runs keeps its lock, whatever can be found out about it.
func TestLockHeldByController(t *testing.T) {
	requireRoot(t)
	for _, tt := range []struct {
		name, content string
		flags         uintptr // of the controller that runs
		mode          os.FileMode
	}{
		{"same namespaces", "", 0, 0o600},
		{"PID not written yet", "\n", 0, 0o600},
		{"the number of another user's process", "other", 0, 0o600},
		{"file of an earlier version", "", 0, 0o644},
		{"PID namespace within this one", "", unix.CLONE_NEWPID | unix.CLONE_NEWNS, 0o600},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, path := oldLock(t)
			what := "director"
			if tt.flags != 0 {
				what = "namespace"
			}
			pid, said, release := lockElsewhere(t, what, dir, tt.flags)
			if said != "held" {
				t.Fatal(said)
			}
			switch tt.content {
			case "":
			case "other":
				other, _, _ := lockElsewhere(t, "hold", t.TempDir(), 0)
				tt.content = strconv.Itoa(other)
				fallthrough
			default:
				if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			if _, log, err := lockIn(t, dir); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another lvs-controller (pid %d) ", pid)) || log != "" {
				t.Errorf("a second controller: %v, want pid %d\n%s", err, pid, log)
			}
			release()
			f, _, err := lockIn(t, dir)
			if err != nil {
				t.Fatal(err)
			}
			checkLocked(t, dir, f)
		})
	}
	t.Run("PID namespace out of sight", func(t *testing.T) {
		dir, path := oldLock(t)
		f, _, err := lockIn(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("refused: another lvs-controller (pid %d) runs with state directory %s", os.Getpid(), dir)
		if _, said, _ := lockElsewhere(t, "namespace", dir, unix.CLONE_NEWPID|unix.CLONE_NEWNS); said != want {
			t.Errorf("%s; want %s", said, want)
		}
		want = strings.Replace(want, strconv.Itoa(os.Getpid()), "unknown", 1)
		for _, word := range []string{"", "-1", "0", "4194305", "12345678901234567890"} {
			if err := os.WriteFile(path, []byte(word), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, said, _ := lockElsewhere(t, "namespace", dir, unix.CLONE_NEWPID|unix.CLONE_NEWNS); said != want {
				t.Errorf("%q: %s; want %s", word, said, want)
			}
		}
		f.Close()
	})
}

// What another user has put in the lock's place is neither followed nor written to.
func TestLockIsNoRegularFile(t *testing.T) {
	requireRoot(t)
	for name, place := range map[string]func(path, target string) error{
		"link":           func(path, target string) error { return os.Symlink(target, path) },
		"link to naught": func(path, target string) error { return os.Symlink(target+".none", path) },
		"FIFO":           func(path, _ string) error { return unix.Mkfifo(path, 0o666) },
		"socket":         func(path, _ string) error { return unix.Mknod(path, unix.S_IFSOCK|0o666, 0) },
		"file of another user": func(path, target string) error {
			return os.Link(target, path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, path := oldLock(t)
			target := filepath.Join(t.TempDir(), "target")
			if err := os.WriteFile(target, []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(target, otherUser, otherUser); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := place(path, target); err != nil {
				t.Fatal(err)
			}
			f, log, err := lockIn(t, dir)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(log, "level=WARN") != 1 || strings.Count(log, "\n") != 1 {
				t.Errorf("log:\n%s", log)
			}
			checkLocked(t, dir, f)
			if b, err := os.ReadFile(target); err != nil || string(b) != "precious" {
				t.Errorf("the other user's file says %q, %v", b, err)
			}
			if _, err := os.Lstat(target + ".none"); err == nil {
				t.Error("a file was made at the end of the link")
			}
		})
	}
	t.Run("directory", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "lock"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, _, err := lockIn(t, dir); err == nil || !strings.Contains(err.Error(), "it is a directory; remove it") {
			t.Errorf("%v", err)
		}
	})
}

// Of controllers that start at once exactly one gets the lock, whatever it finds.
func TestLockRace(t *testing.T) {
	requireRoot(t)
	for _, found := range []string{"nothing", "earlier version", "locked by another user", "released by another user", "link"} {
		t.Run(found, func(t *testing.T) {
			rounds := 20
			if strings.HasSuffix(found, "user") {
				rounds = 4 // each starts a process
			}
			for range rounds {
				dir, path := oldLock(t)
				release := func() {}
				switch found {
				case "nothing", "link":
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
					if found == "link" {
						if err := os.Symlink("/dev/null", path); err != nil {
							t.Fatal(err)
						}
					}
				case "locked by another user", "released by another user":
					_, _, release = lockElsewhere(t, "hold", path, 0)
				}
				if found != "released by another user" {
					defer release()
				} else {
					go release()
				}
				var won atomic.Int32
				var all sync.WaitGroup
				for range 8 {
					all.Go(func() {
						f, err := (&stateDir{path: dir}).lock(slog.New(slog.DiscardHandler))
						if err == nil {
							won.Add(1)
							t.Cleanup(func() { f.Close() })
						} else if !strings.Contains(err.Error(), "another lvs-controller (pid ") {
							t.Error(err)
						}
					})
				}
				all.Wait()
				if n := won.Load(); n != 1 {
					t.Fatalf("%d controllers have the lock", n)
				}
			}
		})
	}
}

// A controller may lock the file between the moment that another user is seen to
// hold it and the moment that it is replaced.
func TestLockIsGivenBack(t *testing.T) {
	dir, path := oldLock(t)
	l := lockFile{path, slog.New(slog.DiscardHandler)}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	controller, err := os.Open(path)
	if err == nil {
		err = flock(controller)
	}
	if err != nil {
		t.Fatal(err)
	}
	if fresh, err := l.replace(f, info); !errors.Is(err, errLockMoved) || fresh != nil {
		t.Errorf("replaced although a controller has it: %v, %v", fresh, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || !l.names(info) {
		t.Errorf("the controller's file is not at its place: %v, %v", left, err)
	}
	controller.Close()
	fresh, err := l.replace(f, info)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if again, err := l.replace(f, info); !errors.Is(err, errLockMoved) {
		t.Errorf("what another controller has put there is replaced: %v, %v", again, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || l.names(info) {
		t.Errorf("the old file is at its place: %v, %v", left, err)
	}
}

// A full or read-only state directory keeps no director from starting.
func TestLockWithoutRoom(t *testing.T) {
	requireRoot(t)
	full := func(t *testing.T, dir string) {
		if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 1<<20), 0o600); err == nil {
			t.Fatal("there is room left")
		}
	}
	for _, tt := range []struct {
		name, options string
		prepare       func(t *testing.T, dir string)
		locked        bool
	}{
		{"no room for the process id", "size=64k", full, true},
		{"no room for a file", "nr_inodes=1", func(*testing.T, string) {}, false},
		{"read-only", "size=64k", func(t *testing.T, dir string) {
			if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, tt.options); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
			tt.prepare(t, dir)
			f, log, err := lockIn(t, dir)
			if err != nil || (f != nil) != tt.locked {
				t.Errorf("%v, %v", f, err)
			}
			if strings.Count(log, "level=WARN") != 1 || strings.Count(log, "\n") != 1 {
				t.Errorf("log:\n%s", log)
			}
			if _, _, err := lockIn(t, dir); (err != nil) != tt.locked {
				t.Errorf("a second controller: %v", err)
			}
		})
	}
}

// A link that replaces the lock between the look at it and the opening is not
// followed: its target is not made.
func TestLockOpensNoLink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "lock")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if f, err := openLock(link); !errors.Is(err, errLockMoved) {
		f.Close()
		t.Errorf("error %v, want %v", err, errLockMoved)
	}
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the target of the link: error %v, want that it does not exist", err)
	}
}

// A lock file with a second name may be another program's. Where it cannot be
// replaced it is the lock all the same, and nothing is written to it.
func TestLockWithSecondNameStays(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "lock"), filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("precious\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(other, path); err != nil {
		t.Fatal(err)
	}
	// The file that would replace it cannot be made.
	if err := os.MkdirAll(filepath.Join(dir, "lock.new", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := (&stateDir{path: dir}).lock(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := os.ReadFile(other); err != nil || string(got) != "precious\n" {
		t.Errorf("the file with the other name has %q, %v", got, err)
	}
	if second, err := (&stateDir{path: dir}).lock(slog.New(slog.DiscardHandler)); err == nil {
		second.Close()
		t.Error("a second controller got the lock")
	}
}
