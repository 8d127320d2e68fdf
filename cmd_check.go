// The sub-command check: is a configuration file valid?
//
// Used by main.go. It reads the file and nothing else, and changes nothing.

package main

import (
	"errors"
	"fmt"
	"io"
)

// runCheck validates a configuration file.
func runCheck(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("lvs-controller check", stderr)
	all := fs.Bool("all", false, fmt.Sprintf("print the first %d mistakes, not only the first %d", maxMistakes, mistakesInCheck))
	src := new(source)
	src.flags(fs)
	if code, done := parse(fs, args); done {
		return code
	}
	src.parsed(fs)
	cfg, err := src.load()
	n := mistakesInCheck
	if *all {
		n = maxMistakes
	}
	if mistakes, ok := errors.AsType[ConfigErrors](err); ok {
		fmt.Fprintln(stderr, mistakes.Text(n))
		return exitFailure
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailure
	}
	name, s := src.path, "s"
	if name == "" {
		name = "command line"
	}
	if len(cfg.VIPs) == 1 {
		s = ""
	}
	for _, warning := range (ConfigErrors{First: cfg.Warnings}).lines(n) {
		fmt.Fprintln(stderr, "warning:", warning)
	}
	fmt.Fprintf(stdout, "%s: valid, %d VIP%s\n", name, len(cfg.VIPs), s)
	return exitOK
}
