// The sub-command check: is a configuration file valid, and has this host what it names?
//
// Used by main.go. It changes nothing, and asks no API server. Only the file itself
// decides the exit code.

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"
)

var checkCommand = command{
	name:    "check",
	summary: "validate the configuration file",
	about: `Validates the configuration file, and names every mistake with its line, its
value and what is wanted. It warns of what the file names and this host does not have,
and of real servers that the running controller would take out of service with it.
Warnings do not change the exit code. With -explain it prints each [[vip]] as lines that
can be pasted into a file, with the values that come from its ingress.`,
	exits: map[int]string{exitOK: "the file is valid", exitFailure: "it has mistakes, or cannot be read"},
	examples: `lvs-controller check
lvs-controller check -config new.toml && mv new.toml config.toml
lvs-controller check -explain`,
	new: func() task { return new(checkTask) },
}

// checkTask is one call of `lvs-controller check`.
type checkTask struct {
	source
	all, explain bool
}

func (c *checkTask) flags(fs *flag.FlagSet) {
	c.source.flags(fs)
	fs.BoolVar(&c.all, "all", false, fmt.Sprintf("print the first %d mistakes, not only the first %d", maxMistakes, mistakesInCheck))
	fs.BoolVar(&c.explain, "explain", false, "print what each VIP of the file means, as lines of a configuration file")
}

// run validates a configuration file.
func (c *checkTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	cfg, err := c.load()
	n := mistakesInCheck
	if c.all {
		n = maxMistakes
	}
	if mistakes, ok := errors.AsType[ConfigErrors](err); ok {
		return fail(stderr, mistakes.Text(n))
	}
	if err != nil {
		return fail(stderr, err)
	}
	name, s := cmp.Or(c.path, "command line"), "s"
	if len(cfg.VIPs) == 1 {
		s = ""
	}
	for _, warning := range (ConfigErrors{First: append(cfg.Warnings, hostWarnings(&c.source, cfg)...)}).lines(n) {
		fmt.Fprintln(stderr, "warning:", warning)
	}
	for i, t := range takenByReload(ctx, cfg) {
		if i == n {
			break
		}
		fmt.Fprintf(stderr, "warning: the running controller would take out of service: vip %s: %s\n", t.VIP, t.What)
	}
	comment := ""
	if c.explain {
		if c.path == "" {
			return checkCommand.misused(stderr, "-explain is for a configuration file, want -config")
		}
		text, err := explainFile(c.path)
		if err != nil {
			return fail(stderr, err)
		}
		fmt.Fprintln(stdout, text)
		comment = "# "
	}
	fmt.Fprintf(stdout, "%s%s: valid, %d VIP%s\n", comment, name, len(cfg.VIPs), s)
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

// takenByReload is what the running controller, if there is one, would take out of
// service if it had cfg. The cluster is what that controller has saved of it, or the
// cluster file.
func takenByReload(ctx context.Context, cfg *Config) []taken {
	ctx, cancel := context.WithTimeout(ctx, hostPatience)
	defer cancel()
	running, err := fetchStatus(ctx, controllerAt{socket: socketPath(cfg.StateDir), listen: cfg.Listen})
	if err != nil {
		return nil
	}
	before, memory := newServing(), newMemory()
	for _, s := range running.Services {
		for _, r := range s.Servers {
			if r.Weight == 0 {
				continue
			}
			set := workKey{s.VIP, r.Address.Is6()}
			if before.add(s.VIP, s.Service, r.Address, nil); !slices.ContainsFunc(memory.Working[set], func(o RealServer) bool { return o.Address == r.Address }) {
				memory.Working[set] = append(memory.Working[set], RealServer{Address: r.Address, Weight: r.Weight, Forward: DirectRoute})
			}
		}
	}
	w := desired(nil, cfg, savedCluster(cfg), nil, memory, time.Now())
	return before.takenAway(&w, false)
}
