// Files on disk: they are read without waiting and with a limit, and replaced whole.
//
// Used by kube*.go, config*.go, state.go, host_drain.go, snapshot.go, http*.go, cmd*.go
// and main*.go. It knows nothing of what a file means. It opens regular files alone: a
// FIFO or a device can make a reader wait without end, and opening a device can start
// something.

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readPatience is the longest time that reading one file takes. Some files of /proc
// are regular files and wait all the same. A start reads two files, and SIGTERM waits
// for both.
const readPatience = 2 * time.Second

// openRegular opens the regular file at path for reading. The error says what the
// file is when it is another one, or that it has more than most bytes; info is nil
// when nothing is known of the file.
func openRegular(path string, most int64) (f *os.File, info os.FileInfo, err error) {
	// Before it is opened, because opening a device may do something.
	if info, err = os.Stat(path); err == nil {
		if err = notReadable(path, info, most); err != nil {
			return nil, info, err
		}
	}
	if f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return nil, info, err
	}
	if info, err = f.Stat(); err == nil {
		err = notReadable(path, info, most) // it may have been replaced meanwhile
	}
	if err != nil {
		f.Close()
		return nil, info, err
	}
	_ = f.SetReadDeadline(time.Now().Add(readPatience)) // most files have none, and do not wait
	return f, info, nil
}

// notReadable says why the file at path is not read; nil when it can be.
func notReadable(path string, info os.FileInfo, most int64) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file but %s", path, fileType(info.Mode()))
	}
	if info.Size() > most {
		return tooLarge(path, most)
	}
	return nil
}

func tooLarge(path string, most int64) error {
	if most > 1<<20 {
		return fmt.Errorf("%s is larger than %d MiB", path, most>>20)
	}
	return fmt.Errorf("%s is larger than %d bytes", path, most)
}

// fileType is the type of a file that is no regular one, in words.
func fileType(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "a directory"
	case fs.ModeNamedPipe:
		return "a FIFO"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// readRegular returns the content of the regular file at path, at most most bytes. A
// file that grows while it is read, or one of /proc, may be larger than its size.
func readRegular(path string, most int64) ([]byte, error) {
	f, _, err := openRegular(path, most)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = tooLarge(path, most)
	}
	return b, err
}

// writableByOthers says why another user can change the file or directory at path; ""
// when none but root, this user and those of users can.
func writableByOthers(path string, users ...int) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Sprintf("other users may write to %s (mode %#o)", path, mode)
	}
	if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != 0 && uid != os.Geteuid() && !slices.Contains(users, uid) {
		return fmt.Sprintf("%s belongs to user %d, who may change it", path, uid)
	}
	return ""
}

// writeFileAtomic replaces the content of path, as replaceFile does.
func writeFileAtomic(path string, b []byte, mode os.FileMode) error {
	return replaceFile(path, mode, false, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// replaceFile replaces path by way of a temporary file beside it, so that a
// reader sees the old or the new content and never part of one. With sync, the
// new content survives a power cut. The text of its errors is the same for the same
// fault: it does not contain the random name of the temporary file.
func replaceFile(path string, mode os.FileMode, sync bool, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), temporary(path)+"*")
	if err != nil {
		return errorAt(path, err)
	}
	// removeLeftovers leaves a file alone that a process has locked.
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	err = write(f)
	if mode != 0o600 { // which it has
		err = errors.Join(err, f.Chmod(mode))
	}
	if sync && err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	err = errors.Join(err, f.Close())
	if sync && err == nil {
		err = syncDirectory(filepath.Dir(path))
	}
	return errorAt(path, err)
}

// errorAt is err, from work on a temporary file, said of the file at path.
func errorAt(path string, err error) error {
	var at *fs.PathError
	var link *os.LinkError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &at):
		err = fmt.Errorf("%s: %w", at.Op, at.Err)
	case errors.As(err, &link):
		err = fmt.Errorf("%s: %w", link.Op, link.Err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// syncDirectory makes the names in a directory survive a power cut.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDirectory makes the directory at path, which survives a power cut, and those
// above it.
func makeDirectory(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// removeFile removes the file at path, if there is one.
func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// temporary is how the names of path's temporary files begin.
func temporary(path string) string { return "." + filepath.Base(path) + "." }

// removeLeftovers removes the temporary files of path whose writer was killed, and
// says how many. It leaves files of other names and those of living writers alone.
func removeLeftovers(path string) (removed int) {
	dir := filepath.Dir(path)
	entries, _ := os.ReadDir(dir) // a directory that cannot be read has nothing to remove
	for _, e := range entries {
		random, ours := strings.CutPrefix(e.Name(), temporary(path))
		if !ours || random == "" || strings.Trim(random, "0123456789") != "" || !e.Type().IsRegular() {
			continue
		}
		name := filepath.Join(dir, e.Name())
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		mine := err == nil && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid()
		if mine && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && os.Remove(name) == nil {
			removed++
		}
		f.Close()
	}
	return removed
}
