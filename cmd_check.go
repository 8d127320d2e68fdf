// The sub-command check: is a configuration file valid, and has this host what it names?
//
// Used by main.go. It changes nothing, and asks no API server. Only the file itself
// decides the exit code.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
)

// runCheck validates a configuration file.
func runCheck(_ context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newFlags("lvs-controller check", stderr)
	all := fs.Bool("all", false, fmt.Sprintf("print the first %d mistakes, not only the first %d", maxMistakes, mistakesInCheck))
	src, code := newSource(fs, args)
	if src == nil {
		return code
	}
	cfg, err := src.load()
	n := mistakesInCheck
	if *all {
		n = maxMistakes
	}
	if mistakes, ok := errors.AsType[ConfigErrors](err); ok {
		return fail(stderr, mistakes.Text(n))
	}
	if err != nil {
		return fail(stderr, err)
	}
	name, s := cmp.Or(src.path, "command line"), "s"
	if len(cfg.VIPs) == 1 {
		s = ""
	}
	for _, warning := range (ConfigErrors{First: append(cfg.Warnings, hostWarnings(src, cfg)...)}).lines(n) {
		fmt.Fprintln(stderr, "warning:", warning)
	}
	fmt.Fprintf(stdout, "%s: valid, %d VIP%s\n", name, len(cfg.VIPs), s)
	return exitOK
}

// hostWarnings are about what cfg names and this host does not have.
func hostWarnings(src *source, cfg *Config) []ConfigError {
	h := &hostCheck{file: cmp.Or(src.path, "command line"), patience: hostPatience}
	if src.path != "" {
		if text, err := readConfigFile(src.path); err == nil {
			h.lines, _ = scanKeyLines(string(text))
		}
	}
	return h.all(cfg)
}
