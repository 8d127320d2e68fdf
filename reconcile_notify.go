// What the loop tells the service manager: that it makes progress, and one line about
// the state of this director.
//
// Used by main.go. It decides nothing, and nothing waits for it.

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"
)

// loopReport is the loop's part of what the service manager gets to know. nil is for a
// process without one.
type loopReport struct {
	*notifier
	missing func() string // what the cluster's source does not answer; "": nothing

	of                shards // what was counted last
	services, serving int
}

// every is the longest time between two beats; 0: there need be none.
func (r *loopReport) every() time.Duration {
	if r == nil {
		return 0
	}
	return r.notifier.every()
}

// beat tells the watchdog that the loop makes progress.
func (r *loopReport) beat() {
	if r != nil {
		r.notifier.beat()
	}
}

// passed reports that a pass with cfg has come to table. The director is not ready because
// of unfit, nil when it is.
func (r *loopReport) passed(cfg *Config, table shards, unfit error) {
	if r != nil && r.notifier != nil {
		r.notifier.passed(cfg, r.line(table, unfit))
	}
}

// line is the state of a director with table.
func (r *loopReport) line(table shards, unfit error) string {
	text := "ready"
	if unfit != nil {
		text = "not ready: " + unfit.Error()
	}
	r.count(table)
	text += fmt.Sprintf("; virtual services: %d, real servers in service: %d", r.services, r.serving)
	if missing := r.missing(); missing != "" {
		text += "; " + missing
	}
	return text
}

// count counts the virtual services, and the addresses of real servers that get new
// connections. It counts an unchanged table once.
func (r *loopReport) count(all shards) {
	if same(all, r.of) && r.of != nil {
		return
	}
	r.of, r.services = all, 0
	serving := make(map[netip.Addr]bool)
	for s := range all.all {
		r.services++
		for i := range s.Servers {
			if s.Servers[i].Weight > 0 {
				serving[s.Servers[i].Address] = true
			}
		}
	}
	r.serving = len(serving)
}

// missingStreams says what the cluster's source does not answer; "" when all is answered.
func missingStreams(all []StreamState) string {
	n, text := 0, ""
	for _, s := range all {
		if s.LastError != "" || !s.Synced {
			if n++; n == 1 {
				text = shorten(s.Name+": "+cmp.Or(s.LastError, "no answer yet"), 300)
			}
		}
	}
	if n > 1 {
		return fmt.Sprintf("%d streams of the cluster have no answer, %s", n, text)
	}
	return text
}
