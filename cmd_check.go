// The sub-command check: is a configuration file valid?
//
// Used by main.go. It reads the file and nothing else, and changes nothing.

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
	for _, warning := range (ConfigErrors{First: cfg.Warnings}).lines(n) {
		fmt.Fprintln(stderr, "warning:", warning)
	}
	fmt.Fprintf(stdout, "%s: valid, %d VIP%s\n", name, len(cfg.VIPs), s)
	return exitOK
}
