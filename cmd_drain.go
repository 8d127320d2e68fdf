// The sub-command drain: takes this director out of service, or undoes that.
//
// Used by main.go. It writes or removes the order that host_drain.go describes,
// and waits until the controller confirms it. It does not touch the kernel.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// drainPatience is how long the command waits for the controller, without the flag
// -wait.
const drainPatience = 10 * time.Second

var drainCommand = command{
	name:    "drain",
	summary: "move the traffic away from this director, or undo that",
	about: `Makes this director not ready and lets it announce no VIP, so that the other
director of a pair takes over. The order stays in force over restarts and reboots until
drain -undo. The kernel's table stays, and goes on forwarding.`,
	exits: map[int]string{exitOK: "the controller has done it", exitFailure: "no controller has confirmed it; stderr has the reason"},
	examples: `lvs-controller drain
lvs-controller drain -undo
lvs-controller drain -wait 1m`,
	new: func() task { return new(drainTask) },
}

// drainTask is one call of `lvs-controller drain`.
type drainTask struct {
	source
	undo     bool
	patience time.Duration
}

func (t *drainTask) flags(fs *flag.FlagSet) {
	t.source.flags(fs)
	fs.BoolVar(&t.undo, "undo", false, "the director may get traffic again")
	fs.DurationVar(&t.patience, "wait", drainPatience, "`time` to wait until the controller has done it")
}

// run makes the running controller stop taking traffic, or take it again.
func (t *drainTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	if t.patience < 0 {
		return drainCommand.misused(stderr, fmt.Errorf("-wait %s: want no time below 0", t.patience))
	}
	cfg, err := t.load()
	// With a mistake in the file the controller continues, and its operator may need
	// the drain at that moment.
	mistakes, mistaken := errors.AsType[ConfigErrors](err)
	mistaken = mistaken && t.path != "" && mistakes.More == 0 && !slices.ContainsFunc(mistakes.First, aboutDirectory)
	if mistaken {
		cfg, err = LoadDirectories(t.path)
	}
	if errors.Is(err, fs.ErrNotExist) && !t.set["config"] {
		// A controller that has the copy of that file continues too.
		cfg, err = defaultConfig(), nil
		mistaken = true
	}
	if err != nil {
		byHand := "touch"
		if t.undo {
			byHand = "rm"
		}
		fmt.Fprintln(stderr, err)
		fmt.Fprintf(stderr, "the order to drain is not written; with the default cache_dir `%s %s` does the same\n", byHand, filepath.Join(defaultConfig().CacheDir, drainedFile))
		return exitFailure
	}
	if err := setDrained(cfg.CacheDir, !t.undo); err != nil {
		return fail(stderr, "the order to drain cannot be written:", err)
	}
	if mistaken {
		fmt.Fprintf(stderr, "%s cannot be used, see `lvs-controller check`; the order is written nevertheless, in %s\n", t.path, cfg.CacheDir)
	}
	done, started := drainedText(cfg, mistaken), "begins drained"
	if t.undo {
		done, started = "not drained any more", "is not drained"
	}
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	for {
		since, err := drainedSince(cfg.CacheDir)
		if err != nil {
			return fail(stderr, err)
		}
		// A file that is not there yet confirms nothing.
		text, _ := readConfirmation(cfg.StateDir)
		if text == confirmation(since) && since.IsZero() == t.undo {
			fmt.Fprintln(stdout, done)
			return exitOK
		}
		if sleepContext(ctx, 50*time.Millisecond); ctx.Err() != nil {
			fmt.Fprintf(stderr, "no controller has confirmed it within %s; one that is started %s\n", t.patience, started)
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
	text := "drained: this director is not ready, and announces no VIP"
	if slices.ContainsFunc(cfg.VIPs, func(v VIP) bool { return v.Announce.method().onUplink }) {
		text += `; those with announce = "arp" are on no host until another director takes them, or drain -undo`
	}
	if unknown || slices.ContainsFunc(cfg.VIPs, func(v VIP) bool { return !v.Announce.method().byController() }) {
		return text + `; keepalived hands over those with announce = "none" within seconds, if the other director is ready`
	}
	return text
}
