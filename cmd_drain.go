// The sub-command drain: takes this director out of service, or back.
//
// Used by main.go. It writes or removes the order that host_drain.go describes,
// and waits until the controller confirms it. It does not touch the kernel.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// drainPatience is how long the command waits for the controller, unless it is
// told otherwise.
const drainPatience = 10 * time.Second

// runDrain has the running controller give up its traffic, or take it again.
func runDrain(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newFlags("lvs-controller drain", stderr)
	undo := fs.Bool("undo", false, "the director may get traffic again")
	patience := fs.Duration("wait", drainPatience, "how `long` to wait until the controller has done it")
	src, code := newSource(fs, args)
	if src == nil {
		return code
	}
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

// aboutDirectory reports whether a mistake leaves it open which directories are meant:
// their keys are misspelt, or in the wrong table.
func aboutDirectory(e ConfigError) bool {
	return slices.ContainsFunc([]string{"state_dir", "cache_dir"}, func(key string) bool {
		return strings.HasSuffix(e.Key, "."+key) || strings.Contains(e.Msg, fmt.Sprintf("did you mean %q?", key))
	})
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
