// The operator's order to drain the whole director, and its confirmation.
//
// Used by reconcile*.go, cmd*.go and main*.go. The order is a file in the cache
// directory, so it survives a reboot. The confirmation is a file in the state
// directory: the reconcile loop writes it when it has carried out the order, and the
// sub-command drain waits for it. So neither needs the HTTP listener. followDrain
// wakes the loop when the order changes. Nothing here touches the kernel.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// drainedFile is the order, in the cache directory. Its time of change is that
	// of the order.
	drainedFile = "drained"

	// confirmationFile has the time of the order that has been carried out, or that
	// there is none, in the state directory.
	confirmationFile = "drain.confirmed"
)

// drainedSince reads an order from dir: zero when there is none.
func drainedSince(dir string) (time.Time, error) {
	info, err := os.Stat(filepath.Join(dir, drainedFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("read the order to drain: %w", err)
	}
	return info.ModTime().Round(0), nil
}

// setDrained writes an order into dir, or removes it. One that is in force keeps
// its time.
func setDrained(dir string, drained bool) error {
	path := filepath.Join(dir, drainedFile)
	if !drained {
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, syncDirectory(dir))
	}
	if err := makeDirectory(dir); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), syncDirectory(dir))
}

// confirmation is the content of the file that confirms the order of since, zero for
// none, once it has been carried out.
func confirmation(since time.Time) string {
	if since.IsZero() {
		return "not drained\n"
	}
	return "drained since " + since.UTC().Format(time.RFC3339Nano) + "\n"
}

// confirm writes into dir that the order of since, zero for none, has been carried out.
func confirm(dir string, since time.Time) error {
	return writeFileAtomic(filepath.Join(dir, confirmationFile), []byte(confirmation(since)), 0o644)
}

// readConfirmation returns what was confirmed in dir last.
func readConfirmation(dir string) (string, error) {
	text, err := readRegular(filepath.Join(dir, confirmationFile), 1<<10)
	return string(text), err
}

// wasDrained reports whether a drain is what was confirmed in dir last.
func wasDrained(dir string) bool {
	text, err := readConfirmation(dir)
	return err == nil && text != confirmation(time.Time{})
}

// removeConfirmation is for a controller that leaves nothing behind.
func removeConfirmation(dir string) error {
	return removeFile(filepath.Join(dir, confirmationFile))
}

// followDrain rings wake when it begins, and whenever the order in dir has changed.
// It returns nil when ctx ends. Where the kernel cannot notify of changes the next
// audit finds them.
func followDrain(ctx context.Context, log *slog.Logger, dir string, wake chan<- struct{}) error {
	order := func() string {
		since, _ := drainedSince(dir) // the loop logs what cannot be read
		return since.String()
	}
	taken := order()
	ring(wake)
	watch := &fileWatch{
		path: filepath.Join(dir, drainedFile),
		look: func() (string, func(bool) string) {
			now := order()
			return now, func(bool) string { ring(wake); return now }
		},
		taken: taken,
		unwatchable: func(err error) {
			log.Warn("the order of `lvs-controller drain` cannot be watched; each audit reads it", "err", err)
		},
	}
	watch.run(ctx)
	return nil
}
