// Hot reload of the configuration file, and the file watcher itself.
//
// Used by host_drain.go and main.go. One ConfigWatcher runs beside the
// reconcile loop. It notices a write, a rename over the file, a symlink swap
// (the "..data" of a Kubernetes volume), deletion and re-creation, and SIGHUP.
// It publishes valid configurations only, never changes the one in force, and
// runs until its context ends: a bad file or a broken watch changes nothing.

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settleTime is how long the file's content must stay the same before
	// anything is concluded from it. An editor or a script writes in several
	// steps, and half a file is not only often invalid: it may be valid with
	// half of the VIPs, which would stop serving the other half.
	settleTime = 200 * time.Millisecond

	// pollInterval is how often the file is read when it cannot be watched.
	pollInterval = 2 * time.Second
)

// ConfigWatcher reloads one configuration file. Set all exported fields before
// Run.
type ConfigWatcher struct {
	Path string
	Log  *slog.Logger
	Hup  <-chan os.Signal // reload now; nil = never
	// Recheck rings now and then. The file is read then although nothing was
	// notified: a network file system or a bind mount may change it unseen. The
	// reconcile loop rings while it is awake, so that an idle process does not
	// wake for this.
	Recheck <-chan struct{}
	Current *Config // in force when Run starts
	Parse   func(path string, text []byte) (*Config, error)

	// Publish takes a configuration that differs from the last one, or that
	// ends a time of rejected ones. Rejected takes the reason once for each
	// distinct bad content, an unreadable file included. Both are called from
	// Run alone, one at a time.
	Publish  func(*Config)
	Rejected func(error)

	notifier func() (*fsnotify.Watcher, error) // fsnotify.NewWatcher; tests replace it
	poll     time.Duration                     // pollInterval when zero

	seen      digest // the newest reading
	concluded digest // the reading that Current or the rejection stands for
	rejected  bool   // the concluded reading is a bad one
}

// digest identifies a reading of the file: its content, or why it had none.
type digest [sha256.Size]byte

// Run watches the file until ctx ends. Its error is always nil: a watcher that
// fails must not take the director down.
func (w *ConfigWatcher) Run(ctx context.Context) error {
	notify := w.watch()
	defer notify.stop()
	poll := time.NewTicker(w.pollPeriod())
	defer poll.Stop()
	if notify.events != nil {
		poll.Stop()
	}
	settled := time.NewTimer(0) // the first reading, in case the file changed before it was watched
	defer settled.Stop()
	for {
		var failure error
		select {
		case <-ctx.Done():
			return nil
		case <-w.Hup:
			settled.Stop()
			w.conclude(w.read(), true)
			continue
		case <-settled.C:
			got := w.read()
			switch {
			case got.digest != w.seen:
				if w.unsettled(got) {
					settled.Reset(settleTime)
				}
			case got.digest != w.concluded:
				w.conclude(got, false)
			}
			continue
		case <-poll.C:
		case <-w.Recheck:
		case _, ok := <-notify.events:
			if !ok {
				failure = fsnotify.ErrClosed
				break
			}
			failure = notify.follow(w.Path)
		case err := <-notify.errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) { // lost events: read again, as after any
				failure = err
			}
		}
		if failure != nil {
			w.cannotWatch(failure)
			notify.stop()
			poll.Reset(w.pollPeriod())
		}
		if w.unsettled(w.read()) {
			settled.Reset(settleTime)
		}
	}
}

// pollPeriod is how often to read a file that is not watched.
func (w *ConfigWatcher) pollPeriod() time.Duration {
	if w.poll > 0 {
		return w.poll
	}
	return pollInterval
}

// unsettled notes a reading and reports whether its settle time begins now: it
// is neither what has been concluded from nor what already waits.
func (w *ConfigWatcher) unsettled(got reading) bool {
	before := w.seen
	w.seen = got.digest
	return w.seen != before && w.seen != w.concluded
}

// reading is what the file held at one moment.
type reading struct {
	digest
	text []byte
	err  error // why it could not be read
}

// read reads the file. What is not a regular file is not opened at all: a FIFO
// would block for ever.
func (w *ConfigWatcher) read() reading {
	var text []byte
	info, err := os.Stat(w.Path)
	switch {
	case err != nil:
		err = fmt.Errorf("read the configuration: %w", err)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("read the configuration: %s is not a regular file", w.Path)
	default:
		text, err = readConfigFile(w.Path)
	}
	if err != nil {
		return reading{digest: sha256.Sum256([]byte("\xff" + err.Error())), err: err} // no TOML starts with 0xff
	}
	return reading{digest: sha256.Sum256(text), text: text}
}

// conclude applies or rejects a reading. asked is set when a person wants an
// answer even if nothing has changed.
func (w *ConfigWatcher) conclude(got reading, asked bool) {
	first, again := w.concluded == digest{}, w.concluded == got.digest
	w.seen, w.concluded = got.digest, got.digest
	cfg, err := (*Config)(nil), got.err
	if err == nil {
		cfg, err = w.Parse(w.Path, got.text)
	}
	if err != nil {
		w.Log.Error("configuration rejected, the last good one stays in force", "file", w.Path, "err", err)
		if !again {
			w.Rejected(err)
		}
		w.rejected = true
		return
	}
	changes := configChanges(w.Current, cfg)
	switch {
	case w.rejected:
		w.Log.Info("configuration is good again", "file", w.Path, "changes", changes)
	case changes != noChanges || asked:
		w.Log.Info("configuration reloaded", "file", w.Path, "changes", changes)
	case !first:
		w.Log.Info("configuration file changed, its meaning did not", "file", w.Path)
	}
	if changes != noChanges || asked || w.rejected {
		logWarnings(w.Log, cfg)
	}
	if changes != noChanges || w.rejected {
		w.Publish(cfg)
		w.Current = cfg
	}
	w.rejected = false
}

// logWarnings logs what cfg's file may mean otherwise than it seems to.
func logWarnings(log *slog.Logger, cfg *Config) {
	for i, warning := range cfg.Warnings {
		if i == shownWarnings {
			log.Warn("the configuration has more warnings; the command check shows them", "file", cfg.Path, "more", len(cfg.Warnings)-i)
			return
		}
		log.Warn("configuration: "+warning.Msg, "file", warning.File, "line", warning.Line, "key", warning.Key)
	}
}

// shownChanges is how many changes of a reload one log line names.
const shownChanges = 20

// noChanges is what configChanges says of equal configurations.
const noChanges = "none"

// configChanges names what differs between two configurations, VIP by VIP and
// by key for the rest: "vip db added, vip edge changed, listen changed".
func configChanges(before, after *Config) string {
	var changes []string
	old, kept := make(map[string]*VIP, len(before.VIPs)), make(map[string]bool, len(after.VIPs))
	for i := range before.VIPs {
		old[before.VIPs[i].Name] = &before.VIPs[i]
	}
	for i := range after.VIPs {
		v := &after.VIPs[i]
		kept[v.Name] = true
		switch was := old[v.Name]; {
		case was == nil:
			changes = append(changes, "vip "+v.Name+" added")
		case !reflect.DeepEqual(was, v):
			changes = append(changes, "vip "+v.Name+" changed")
		}
	}
	for i := range before.VIPs {
		if name := before.VIPs[i].Name; !kept[name] {
			changes = append(changes, "vip "+name+" removed")
		}
	}
	for _, s := range []struct {
		key           string
		before, after any
	}{
		{"kubeconfig", before.Kubeconfig, after.Kubeconfig},
		{"cluster_file", before.ClusterFile, after.ClusterFile},
		{"interface", before.Interface, after.Interface},
		{"announce_device", before.AnnounceDevice, after.AnnounceDevice},
		{"withdraw_hold", before.WithdrawHold, after.WithdrawHold},
		{"listen", before.Listen, after.Listen},
		{"audit_interval", before.AuditInterval, after.AuditInterval},
		{"manage_sysctls", before.ManageSysctls, after.ManageSysctls},
		{"state_dir", before.StateDir, after.StateDir},
		{"cache_dir", before.CacheDir, after.CacheDir},
		{"timeouts", before.Timeouts, after.Timeouts},
		{"marks", before.Marks, after.Marks},
		{"sync", before.Sync, after.Sync},
		{"sysctl", before.Sysctls, after.Sysctls},
	} {
		if !reflect.DeepEqual(s.before, s.after) {
			change := s.key + " changed"
			if strings.HasSuffix(s.key, "_dir") { // locked and loaded at the start
				change += " for the next start"
			}
			changes = append(changes, change)
		}
	}
	if more := len(changes) - shownChanges; more > 0 {
		changes = append(changes[:shownChanges], fmt.Sprintf("and %d more", more))
	}
	if len(changes) == 0 {
		return noChanges
	}
	return strings.Join(changes, ", ")
}

// notifications are the change events of the directories that decide what a file is,
// for the operator's drain (host_drain.go) too. Without a watcher its channels are nil:
// never ready.
type notifications struct {
	watcher *fsnotify.Watcher
	events  <-chan fsnotify.Event
	errors  <-chan error
}

// watch starts to watch the file, if that is possible here.
func (w *ConfigWatcher) watch() *notifications {
	create := w.notifier
	if create == nil {
		create = fsnotify.NewWatcher
	}
	n := &notifications{}
	watcher, err := create()
	if err == nil {
		n.watcher, n.events, n.errors = watcher, watcher.Events, watcher.Errors
		err = n.follow(w.Path)
	}
	if err != nil {
		w.cannotWatch(err)
		n.stop()
	}
	return n
}

// cannotWatch says that, and what happens instead.
func (w *ConfigWatcher) cannotWatch(err error) {
	w.Log.Warn("configuration file cannot be watched, reading it every "+w.pollPeriod().String()+" instead", "file", w.Path, "err", err,
		"hint", "the usual limits are the sysctls fs.inotify.max_user_instances and fs.inotify.max_user_watches")
}

// stop ends the notifications. They may be stopped more than once.
func (n *notifications) stop() {
	if n.watcher != nil {
		n.watcher.Close() // its inotify descriptor goes either way; nothing can be done about an error
	}
	*n = notifications{}
}

// follow makes the watched directories those that path leads through now. It
// is called after every event, as any may have been a symlink swap, and adds
// directories that are watched already: one may have been replaced by another
// of the same name.
func (n *notifications) follow(path string) error {
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
// the one that holds each symlink on the way, and the one that holds the file
// or, when that does not exist, the first thing that is missing.
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
	watch := func() {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			dir = filepath.Dir(dir)
			continue
		}
		here := filepath.Join(dir, name)
		info, err := os.Lstat(here)
		if err != nil || len(rest) == 0 {
			watch()
		}
		switch {
		case err != nil:
			return dirs, nil
		case info.Mode()&fs.ModeSymlink == 0:
			dir = here
			continue
		}
		watch()
		target, err := os.Readlink(here)
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
