// The sub-command doctor: is this host fit for the traffic of a director?
//
// Used by main.go. doctorChecks has all checks. A new one is a function from a
// doctorHost to findings, and a line there. Nothing is changed: each finding has the
// commands that mend it. It asks no API server and no controller, and works while both
// are dead.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// doctorChecks are the checks, in the order in which they are printed. docs/doctor.md
// has a section for each.
var doctorChecks = []struct {
	name string
	look func(*doctorHost) []finding
}{
	{"configuration", checkConfiguration},
	{"uplink", checkUplinkDevices},
	{"connection table", checkConnectionTable},
	{"conntrack", checkConntrack},
	{"receive queues", checkReceiveQueues},
	{"send queues", checkSendQueues},
	{"interrupts", checkInterrupts},
	{"LRO", checkLRO},
	{"GRO", checkGRO},
	{"rings", checkRings},
	{"backlog", checkBacklog},
	{"budget", checkBudget},
	{"estimators", checkEstimators},
	{"kernel settings", checkKernelSettings},
}

// A finding is what one check says of one thing.
type finding struct {
	level    level
	fact     string   // one line, with the numbers
	commands []string // what mends it, or a comment that begins with #
}

type level int

const (
	levelOK   level = iota // also what cannot be known and does no harm
	levelWarn              // traffic flows, and costs more than it has to, or is lost under load
	levelFail              // traffic is lost
	levels
)

var findingLevels = [levels]string{"OK", "WARN", "FAIL"}

func allWell(format string, args ...any) []finding {
	return []finding{{fact: fmt.Sprintf(format, args...)}}
}

const (
	// mostFindings are printed of one check, mostCommands of one finding. The rest is
	// counted.
	mostFindings, mostCommands = 12, 8

	// mostFact is the longest fact, in characters.
	mostFact = 200
)

var doctorCommand = command{
	name:    "doctor",
	summary: "examine this host, with the commands that mend what is wrong",
	about: `Examines this host as a director: what costs each packet time or loses it.
Each finding is OK, WARN or FAIL, with the fact and the commands that mend it. It changes
nothing, and asks no API server and no controller. docs/doctor.md explains each check.`,
	exits: map[int]string{exitOK: "nothing fails; warnings do not count", exitFailure: "there is a FAIL"},
	examples: `lvs-controller doctor
lvs-controller doctor -config /etc/lvs-controller/config.toml`,
	new: func() task { return new(doctorTask) },
}

// doctorTask is one call of `lvs-controller doctor`.
type doctorTask struct {
	source
}

// run examines this host.
func (t *doctorTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	src := &t.source
	h := &doctorHost{
		file: cmp.Or(src.path, "command line"), memory: hostMemory(), tracking: trackingActive,
		ethtool: func(string) (deviceFacts, error) { return deviceFacts{}, errNoEthtool },
	}
	if h.cfg, h.configErr = src.load(); h.configErr != nil {
		h.cfg = defaultConfig()
	}
	if h.uplink = h.cfg.Interface; h.uplink == "" {
		h.uplink, h.uplinkErr = defaultDevice(ctx)
	}
	if conn, err := dialEthtool(); err == nil {
		defer conn.Close()
		h.ethtool = conn.Device
	}
	return h.examine(stdout)
}

func defaultDevice(ctx context.Context) (string, error) {
	r, err := openRtnl(ctx)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return r.DefaultDevice()
}

// examine prints what all checks find and returns the exit code. As in check, warnings
// do not change it.
func (h *doctorHost) examine(w io.Writer) int {
	var counts [levels]int
	for _, check := range doctorChecks {
		found := check.look(h)
		for i, f := range found {
			counts[f.level]++
			if i < mostFindings {
				f.print(w, check.name)
			}
		}
		if more := len(found) - mostFindings; more > 0 {
			fmt.Fprintf(w, "      and %d more of %s\n", more, check.name)
		}
	}
	fmt.Fprintf(w, "%d OK, %d WARN, %d FAIL\n", counts[levelOK], counts[levelWarn], counts[levelFail])
	if counts[levelFail] > 0 {
		return exitFailure
	}
	return exitOK
}

func (f finding) print(w io.Writer, check string) {
	fmt.Fprintf(w, "%-4s  %-16s  %s\n", findingLevels[f.level], check, printable(shorten(f.fact, mostFact)))
	for i, c := range f.commands {
		if i == mostCommands {
			fmt.Fprintf(w, "      # and %d more of this kind\n", len(f.commands)-i)
			break
		}
		fmt.Fprintf(w, "      %s\n", printable(c))
	}
}

func checkConfiguration(h *doctorHost) []finding {
	if h.configErr == nil {
		return allWell("%s is valid", h.file)
	}
	if errors.Is(h.configErr, fs.ErrNotExist) {
		return []finding{{levelWarn, "the defaults are used, there is no file " + h.file, []string{"lvs-controller doctor -config FILE"}}}
	}
	first, _, _ := strings.Cut(h.configErr.Error(), "\n")
	return []finding{{levelWarn, "the defaults are used, " + first, []string{"lvs-controller check -config " + h.file}}}
}

func checkUplinkDevices(h *doctorHost) []finding {
	all, _ := h.devices()
	switch {
	case h.uplink == "":
		return []finding{{levelWarn, "not known, so no device is examined: " + h.uplinkErr.Error(), []string{`# in config.toml: interface = "eth0"`}}}
	case len(h.names(netClass, "")) == 0:
		return []finding{{levelWarn, "/sys/class/net cannot be read, so no device is examined", []string{"mount -t sysfs sysfs /sys"}}}
	case all == nil:
		return []finding{{levelFail, "there is no device " + h.uplink, []string{"ip link", `# then in config.toml: interface = "NAME"`}}}
	case len(all) == 1:
		return allWell("%s", h.uplink)
	}
	return allWell("%s, over %s", h.uplink, strings.Join(all[1:], ", "))
}
