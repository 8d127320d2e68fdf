// The sub-command drain: takes this director out of service, or undoes that.
//
// Used by main.go. It writes or removes the order that host_drain.go describes,
// and waits until the controller confirms it. It does not touch the kernel.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// drainPatience is how long the command waits for the controller, without the flag
// -wait.
const drainPatience = 10 * time.Second

// runDrain makes the running controller stop taking traffic, or take it again.
func runDrain(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newFlags("lvs-controller drain", stderr)
	undo := fs.Bool("undo", false, "the director may get traffic again")
	patience := fs.Duration("wait", drainPatience, "how `long` to wait until the controller has done it")
	src, code := newSource(fs, args)
	if src == nil {
		return code
	}
	cfg, err := src.load()
	// With a mistake in the file the controller continues, and its operator may need
	// the drain at that moment.
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
		fmt.Fprintf(stderr, "the order to drain is not written; with the default cache_dir `%s %s` does the same\n", byHand, filepath.Join(defaultConfig().CacheDir, drainedFile))
		return exitFailure
	}
	if err := setDrained(cfg.CacheDir, !*undo); err != nil {
		return fail(stderr, "the order to drain cannot be written:", err)
	}
	if mistaken {
		fmt.Fprintf(stderr, "there is a mistake in %s, see `lvs-controller check`; the order is written nevertheless, in %s\n", src.path, cfg.CacheDir)
	}
	done, started := drainedText(cfg, mistaken), "begins drained"
	if *undo {
		done, started = "not drained any more", "is not drained"
	}
	ctx, cancel := context.WithTimeout(ctx, *patience)
	defer cancel()
	for {
		since, err := drainedSince(cfg.CacheDir)
		if err != nil {
			return fail(stderr, err)
		}
		// A file that is not there yet confirms nothing.
		text, _ := readConfirmation(cfg.StateDir)
		if text == confirmation(since) && since.IsZero() == *undo {
			fmt.Fprintln(stdout, done)
			return exitOK
		}
		if sleepContext(ctx, 50*time.Millisecond); ctx.Err() != nil {
			fmt.Fprintf(stderr, "no controller has confirmed it within %s; one that is started %s\n", *patience, started)
			return exitFailure
		}
	}
}

// aboutDirectory reports whether e makes it unclear which directories are meant: their
// keys are misspelt, or in the wrong table.
func aboutDirectory(e ConfigError) bool {
	return slices.ContainsFunc([]string{"state_dir", "cache_dir"}, func(key string) bool {
		return strings.HasSuffix(e.Key, "."+key) || strings.Contains(e.Msg, fmt.Sprintf("did you mean %q?", key))
	})
}

// drainedText is what the command prints when the controller has carried out a drain.
// Addresses that are left to keepalived are still here then. unknown means that cfg
// does not say which VIPs there are.
func drainedText(cfg *Config, unknown bool) string {
	const text = "drained: this director is not ready, and announces no VIP"
	if unknown || slices.ContainsFunc(cfg.VIPs, func(v VIP) bool { return !v.Announce.method().byController() }) {
		return text + `; keepalived hands over those with announce = "none" within seconds, if the other director is ready`
	}
	return text
}
