// The sub-commands status and ready. They change nothing.
//
// Used by main.go. status asks the running controller or, when that does not answer,
// the kernel. ready asks the controller only.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"
)

var statusCommand = command{
	name:    "status",
	summary: "show services, real servers, reasons and connections",
	about: `Shows each service and its real servers with weight, connections, rates and
the reason of the weight, from the running controller. When that does not answer, it shows
the kernel's table, without the reasons.`,
	examples: `lvs-controller status
lvs-controller status -o json`,
	values: map[string][]string{"o": {"text", "json"}},
	new:    func() task { return new(statusTask) },
}

// statusTask is one call of `lvs-controller status`.
type statusTask struct {
	source
	output string
}

func (t *statusTask) flags(fs *flag.FlagSet) {
	t.source.flags(fs)
	fs.StringVar(&t.output, "o", "text", "output `form`: text or json")
}

// run prints the table with reasons and counters.
func (t *statusTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	if t.output != "text" && t.output != "json" {
		return statusCommand.misused(stderr, fmt.Sprintf("-o %q is not text or json", t.output))
	}
	cfg, code := t.configured(stderr)
	if cfg == nil {
		return code
	}
	st, err := fetchStatus(ctx, cfg.Listen)
	if err != nil {
		fmt.Fprintf(stderr, "the controller does not answer (%v); this is the kernel's table, without the reasons\n", err)
		if st, err = kernelStatus(cfg); err != nil {
			return fail(stderr, err)
		}
	}
	if t.output == "json" {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(st)
	} else {
		err = printStatus(stdout, st)
	}
	if err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

const (
	readyTimeout  = 2 * time.Second // how long ready waits for the controller's answer
	statusTimeout = 5 * time.Second // and status
	maxStatus     = 1 << 30         // bytes of an answer: more than a full table of the kernel needs
)

var readyCommand = command{
	name:    "ready",
	summary: "ask whether this director should get traffic",
	about: `Asks the running controller whether this director is ready: the same as /readyz,
as an exit code and a line. It is for a check script, such as that of keepalived. With
-listen it reads no configuration, so that a mistake in the file changes nothing.`,
	exits: map[int]string{exitOK: "the director is ready", exitFailure: "it is not, or the controller does not answer"},
	examples: `lvs-controller ready
lvs-controller ready -listen 127.0.0.1:9652`,
	new: func() task { return new(readyTask) },
}

// readyTask is one call of `lvs-controller ready`.
type readyTask struct {
	source
	listen string
}

func (t *readyTask) flags(fs *flag.FlagSet) {
	t.source.flags(fs)
	fs.StringVar(&t.listen, "listen", "", "`address` of the controller's listener (default the configuration's)")
}

// run says by its exit code whether this director should get traffic. A program
// such as keepalived asks it once a second. With -listen it reads no configuration: a
// mistake in a file that is being edited does not make the director less ready.
func (t *readyTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	if t.listen == "" {
		cfg, err := t.load()
		if err != nil {
			return fail(stderr, err)
		}
		t.listen = cfg.Listen
	}
	// The controller answers with a line. Another program there may send more.
	resp, text, err := askController(ctx, t.listen, "/readyz", readyTimeout, 4096)
	switch {
	case err != nil:
		return fail(stderr, "NOT READY: the controller does not answer:", err)
	case resp.StatusCode != http.StatusOK:
		return fail(stderr, "NOT READY:", strings.TrimSpace(string(text)))
	}
	fmt.Fprintln(stdout, "ready")
	return exitOK
}

// askController sends one GET request to the running controller, and reads at most most
// bytes of its answer.
func askController(ctx context.Context, listen, path string, patience time.Duration, most int64) (*http.Response, []byte, error) {
	if listen == "" {
		return nil, nil, errors.New("listen is off")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dialable(listen)+path, nil)
	if err != nil {
		return nil, nil, err
	}
	// Without a proxy: listen is an address of this host.
	// Without redirects: what another host says is not about this one.
	client := &http.Transport{DisableKeepAlives: true}
	resp, err := client.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if to := resp.Header.Get("Location"); to != "" {
		return nil, nil, fmt.Errorf("status %s, a redirect to %q, which is not followed", resp.Status, shorten(to, quotedText))
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, most))
	return resp, text, err
}

// fetchStatus asks the running controller.
func fetchStatus(ctx context.Context, listen string) (st status, err error) {
	resp, text, err := askController(ctx, listen, "/status.json", statusTimeout, maxStatus)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	if err == nil {
		err = json.Unmarshal(text, &st)
	}
	return st, err
}

// dialable is the address to connect to for a listen address: this host in place of a
// wildcard.
func dialable(listen string) string {
	for _, wildcard := range [][2]string{{":", "localhost:"}, {"0.0.0.0:", "127.0.0.1:"}, {"[::]:", "[::1]:"}} {
		if port, found := strings.CutPrefix(listen, wildcard[0]); found {
			return wildcard[1] + port
		}
	}
	return listen
}

// kernelStatus is what the kernel knows, without the controller.
func kernelStatus(cfg *Config) (status, error) {
	o := newOwners(cfg)
	st := status{Reason: "the controller does not answer", Table: readConnectionTable(), Services: []serviceStatus{}}
	err := observeKernel(func(k ServiceKey) bool { return o.of(k) != nil }, func(k *KernelService) {
		st.Services = append(st.Services, newServiceStatus(k, o.of(k.ServiceKey).Name, nil))
	})
	return st, err
}

// printStatus writes st for people.
func printStatus(w io.Writer, st status) error {
	state := "ready"
	if !st.Ready {
		state = "NOT READY: " + st.Reason
	}
	fmt.Fprintln(w, state)
	printLines(w, "CONFLICT: %s\n", st.Conflicts)
	printLines(w, "KEPT: the last working real servers of %s stay in service; by the inputs none would be\n", st.Kept)
	printLines(w, "DOWN: %s\n", st.Down)
	printLines(w, "PROBES: %s\n", st.FailOpen)
	for _, s := range st.Cluster {
		if s.LastError != "" {
			fmt.Fprintf(w, "cluster: %s: %s\n", s.Name, s.LastError)
		}
	}
	printLines(w, "warning: %s\n", st.Warnings)
	if c := st.Table; c.Bits > 0 {
		fmt.Fprintf(w, "connection table: %d buckets", c.Buckets)
		if c.Connections != nil {
			fmt.Fprintf(w, ", %d connections", *c.Connections)
		}
		fmt.Fprintln(w)
	}
	for _, name := range floodDefences {
		if st.Table.Defences[name] {
			fmt.Fprintf(w, "FLOOD: the kernel defends itself with %s, see docs/tuning.md\n", name)
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VIP\tSERVICE\tREAL SERVER\tWEIGHT\tACTIVE\tINACTIVE\tCONNS/S\tTOTAL\tWHY")
	for _, s := range st.Services {
		fmt.Fprintf(t, "%s\t%s\t%s\t\t\t\t%d\t%d\t\n", s.VIP, s.Service, s.Scheduler, s.Traffic.ConnsPerSec, s.Traffic.Connections)
		for _, r := range s.Servers {
			name := RealServer{Address: r.Address, Port: r.Port}.Name()
			fmt.Fprintf(t, "\t\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", name, r.Weight, r.Connections.Active, r.Connections.Inactive, r.Traffic.ConnsPerSec, r.Traffic.Connections, r.Why)
		}
	}
	return t.Flush()
}

// printLines prints each of items in a line with format.
func printLines[T any](w io.Writer, format string, items []T) {
	for _, item := range items {
		fmt.Fprintf(w, format, item)
	}
}
