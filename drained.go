// The operator's drain of a whole director: it is to get no traffic until further
// notice, and its table goes on following the cluster.
//
// `lvs-controller drain` puts a file into the cache directory, which survives a
// reboot, and `drain -undo` takes it away. The reconcile loop looks for it with
// each turn (reconcile_host.go says what follows), woken by followDrain; which
// order it has carried out stands in the state directory for the command to see.
// So neither needs the HTTP listener, and the order holds over a restart.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// drainedFile is the order, in the cache directory. Its time of change is that
	// of the order.
	drainedFile = "drained"

	// confirmationFile has the time of the order that has been carried out, or that
	// there is none, in the state directory.
	confirmationFile = "drain.confirmed"
)

// drainPatience is how long the command waits for the controller, unless it is
// told otherwise.
const drainPatience = 10 * time.Second

// drainedSince reads an order from dir: zero when there is none.
func drainedSince(dir string) (time.Time, error) {
	info, err := os.Stat(filepath.Join(dir, drainedFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("look for an operator's drain: %w", err)
	}
	return info.ModTime().Round(0), nil
}

// setDrained writes an order into dir, or removes it. One that stands keeps its
// time.
func setDrained(dir string, drained bool) error {
	path := filepath.Join(dir, drainedFile)
	if !drained {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// confirmation is what dir has to say of the order of since, zero for none, once it
// has been carried out.
func confirmation(since time.Time) string {
	if since.IsZero() {
		return "not drained\n"
	}
	return "drained since " + since.UTC().Format(time.RFC3339Nano) + "\n"
}

// confirm says in dir that the order of since, zero for none, has been carried out.
func confirm(dir string, since time.Time) error {
	return writeFileAtomic(filepath.Join(dir, confirmationFile), []byte(confirmation(since)), 0o644)
}

// wasDrained reports whether a drain is what was confirmed in dir last.
func wasDrained(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, confirmationFile))
	return err == nil && string(text) != confirmation(time.Time{})
}

// removeConfirmation is for a controller that leaves nothing behind.
func removeConfirmation(dir string) error {
	if err := os.Remove(filepath.Join(dir, confirmationFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// followDrain rings wake when it begins, and whenever the order in dir has changed,
// until ctx ends; that is its only way to return, with nil. Where the kernel cannot
// tell of changes the loop finds out with its next audit.
func followDrain(ctx context.Context, log *slog.Logger, dir string, wake chan<- struct{}) error {
	path := filepath.Join(dir, drainedFile)
	n := &notifications{}
	defer n.stop()
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		n.watcher, n.events, n.errors = watcher, watcher.Events, watcher.Errors
		err = n.follow(path)
	}
	seen, first := time.Time{}, true
	for err == nil {
		// Other files in there change too. What cannot be read the loop complains of.
		if now, _ := drainedSince(dir); first || !now.Equal(seen) {
			seen, first = now, false
			ring(wake)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.events:
			err = n.follow(path)
		case <-n.errors: // events were lost
		}
	}
	log.Warn("`lvs-controller drain` is noticed with the next audit", "err", err)
	<-ctx.Done()
	return nil
}

// aboutDirectory reports whether a mistake leaves it open which directories are meant:
// their keys are misspelt, or in the wrong table.
func aboutDirectory(e ConfigError) bool {
	return slices.ContainsFunc([]string{"state_dir", "cache_dir"}, func(key string) bool {
		return strings.HasSuffix(e.Key, "."+key) || strings.Contains(e.Msg, fmt.Sprintf("did you mean %q?", key))
	})
}

// runDrain has the running controller give up its traffic, or take it again.
func runDrain(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newFlags("lvs-controller drain", stderr)
	undo := fs.Bool("undo", false, "the director may get traffic again")
	patience := fs.Duration("wait", drainPatience, "how `long` to wait until the controller has done it")
	src := new(source)
	src.flags(fs)
	if code, done := parse(fs, args); done {
		return code
	}
	src.parsed(fs)
	cfg, err := src.load()
	// With a mistake in the file the controller goes on, and its operator may want
	// the director out just now.
	mistakes, mistaken := errors.AsType[ConfigErrors](err)
	mistaken = mistaken && src.path != "" && mistakes.More == 0 && !slices.ContainsFunc(mistakes.First, aboutDirectory)
	if mistaken {
		cfg, err = LoadDirectories(src.path)
	}
	if err != nil {
		byHand := "touch"
		if *undo {
			byHand = "rm"
		}
		fmt.Fprintln(stderr, err)
		fmt.Fprintf(stderr, "no order was given; with the default cache_dir `%s %s` does the same\n", byHand, filepath.Join(defaultConfig().CacheDir, drainedFile))
		return exitFailure
	}
	if err := setDrained(cfg.CacheDir, !*undo); err != nil {
		fmt.Fprintln(stderr, "cannot leave the order for the controller:", err)
		return exitFailure
	}
	if mistaken {
		fmt.Fprintf(stderr, "there is a mistake in %s, see `lvs-controller check`; the order is given all the same, in %s\n", src.path, cfg.CacheDir)
	}
	said, stands := drainedWords(cfg, mistaken), "begins drained"
	if *undo {
		said, stands = "not drained any more", "is not drained"
	}
	ctx, cancel := context.WithTimeout(ctx, *patience)
	defer cancel()
	for {
		since, err := drainedSince(cfg.CacheDir)
		if err != nil {
			fmt.Fprintln(stderr, err)
			return exitFailure
		}
		// A file that is not there yet confirms nothing.
		text, _ := os.ReadFile(filepath.Join(cfg.StateDir, confirmationFile))
		if string(text) == confirmation(since) && since.IsZero() == *undo {
			fmt.Fprintln(stdout, said)
			return exitOK
		}
		if sleepContext(ctx, 50*time.Millisecond); ctx.Err() != nil {
			fmt.Fprintf(stderr, "no controller has confirmed it within %s; one that is started %s\n", *patience, stands)
			return exitFailure
		}
	}
}

// drainedWords is what the operator is told of a drain that has been carried out.
// Addresses that are left to keepalived are still here then. unknown means that cfg
// does not say which VIPs there are.
func drainedWords(cfg *Config, unknown bool) string {
	const words = "drained: this director is not ready, and announces no VIP"
	if unknown || slices.ContainsFunc(cfg.VIPs, func(v VIP) bool { return v.Announce == AnnounceNone }) {
		return words + `; keepalived hands over those with announce = "none" within seconds, if the other director is ready`
	}
	return words
}
