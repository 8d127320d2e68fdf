// Watches one file: a write, a rename over it, a symlink swap (the "..data" of a
// Kubernetes volume), removal and re-creation, also of its directories.
//
// Used by kube_file.go, config_watch.go, host_drain.go and cmd_realserver_watch.go. What
// a file contains, and what a change means, is the caller's business. A watch that fails is
// reported and replaced by polling; it never ends before its context.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// fileWatch calls its owner for each change of one file. A string identifies a state
// of the file: two states that are equal need no call.
type fileWatch struct {
	path string

	// look returns the present state of the file, and take, which acts on that
	// state and returns the one that it has acted on: the file may have changed
	// since. asked is set when an operator wants an answer, changed or not. Both
	// are called from run alone.
	look  func() (now string, take func(asked bool) string)
	taken string // acted on last, before run too

	// quiet is how long the state must stay the same before it is acted on: an
	// editor or a script writes in several steps. 0 = no time.
	quiet time.Duration

	poll        time.Duration    // look this often although changes are notified; 0 = never
	pollBlind   time.Duration    // look this often when they are not; 0 = never
	recheck     <-chan struct{}  // look now
	asked       <-chan os.Signal // act now, whether the file has changed or not
	unwatchable func(error)      // changes are not notified from now on
	notifier    fileNotifier     // nil = fsnotify.NewWatcher; tests replace it
}

// fileNotifier makes the kernel's notifications available.
type fileNotifier = func() (*fsnotify.Watcher, error)

// run watches until ctx ends.
func (w *fileWatch) run(ctx context.Context) {
	notify, err := newNotifications(w.notifier, w.path)
	defer notify.stop()
	poll := time.Tick(w.poll)
	quiet := time.NewTimer(0) // the file may have changed before it was watched
	defer quiet.Stop()
	seen := w.taken
	for {
		if err != nil {
			w.unwatchable(err)
			notify.stop()
			poll, err = time.Tick(w.pollBlind), nil
		}
		asked, unchanged := false, false // unchanged for the quiet time
		select {
		case <-ctx.Done():
			return
		case <-w.asked:
			asked = true
		case <-quiet.C:
			unchanged = true
		case <-poll:
		case <-w.recheck:
		case _, open := <-notify.events:
			if !open {
				err = fsnotify.ErrClosed
			}
		case failure := <-notify.errors:
			if !errors.Is(failure, fsnotify.ErrEventOverflow) { // lost events: look, as after any event
				err = failure
			}
		}
		if err == nil {
			err = notify.follow(w.path)
		}
		now, take := w.look()
		changed := now != seen
		seen = now
		switch {
		case now == w.taken && !asked:
		case asked || w.quiet == 0 || unchanged && !changed:
			w.taken = take(asked)
			seen = w.taken
		case changed:
			quiet.Reset(w.quiet)
		}
	}
}

// notifications are the change events of the directories that decide what a file is.
// Without a watcher its channels are nil: never ready.
type notifications struct {
	watcher *fsnotify.Watcher
	events  <-chan fsnotify.Event
	errors  <-chan error
}

// newNotifications starts to watch the file at path, if that is possible here.
func newNotifications(create fileNotifier, path string) (*notifications, error) {
	if create == nil {
		create = fsnotify.NewWatcher
	}
	watcher, err := create()
	if err != nil {
		return &notifications{}, err
	}
	n := &notifications{watcher, watcher.Events, watcher.Errors}
	return n, n.follow(path)
}

// stop ends the notifications. They may be stopped more than once.
func (n *notifications) stop() {
	if n.watcher != nil {
		n.watcher.Close() // its inotify descriptor goes either way; nothing can be done about an error
	}
	*n = notifications{}
}

// follow makes the watched directories those that path leads through now. It
// is called before every look: an event may have been a symlink swap, and there
// is no event when a directory above is replaced, or something is mounted over
// one. It adds directories that are watched already: one may have been replaced
// by another of the same name.
func (n *notifications) follow(path string) error {
	if n.watcher == nil {
		return nil
	}
	dirs, err := watchDirs(path)
	for range 10 { // the path may change while it is being followed; later changes are events again
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if err := n.watcher.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("watch %s: %w", dir, err)
			}
		}
		watched := dirs
		if dirs, err = watchDirs(path); slices.Equal(dirs, watched) {
			break
		}
	}
	for _, dir := range n.watcher.WatchList() {
		if !slices.Contains(dirs, dir) {
			_ = n.watcher.Remove(dir) // fails for one that is gone, which has lost its watch by itself
		}
	}
	return err
}

// watchDirs lists the directories in which a change can change what path is:
// that of each symlink on the way, and that of the file or, when it does not
// exist, of the first thing that is missing.
func watchDirs(path string) ([]string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	const maxLinks = 40 // as the kernel's, MAXSYMLINKS
	var (
		dirs  []string
		dir   = "/"
		rest  = pathNames(absolute)
		links = 0
	)
	for len(rest) > 0 {
		here := filepath.Join(dir, rest[0])
		rest = rest[1:]
		target, err := os.Readlink(here)
		plain := errors.Is(err, syscall.EINVAL) // it is there, and no link
		if (!plain || len(rest) == 0) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
		if plain {
			dir = here
			continue
		}
		if links++; err != nil || links > maxLinks {
			return dirs, nil
		}
		if filepath.IsAbs(target) {
			dir = "/"
		}
		rest = append(pathNames(target), rest...)
	}
	return dirs, nil
}

// pathNames splits a path into its names.
func pathNames(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" || name == "." })
}
