// The sub-commands status, ready and diff. They change nothing.
//
// Used by main.go. status asks the running controller or, when that does not answer,
// the kernel. ready asks the controller only. diff computes one pass of the reconcile
// loop, and prints the operations where the loop would send them.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"
)

// clusterTimeout is how long diff waits for the cluster's answer.
const clusterTimeout = 15 * time.Second

// runStatus prints the table with reasons and counters.
func runStatus(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newFlags("lvs-controller status", stderr)
	output := fs.String("o", "text", "output `form`: text or json")
	_, cfg, code := configured(fs, args)
	if cfg == nil {
		return code
	}
	if *output != "text" && *output != "json" {
		fmt.Fprintf(stderr, "lvs-controller status: -o %q is not text or json\n", *output)
		return exitUsage
	}
	st, err := fetchStatus(ctx, cfg.Listen)
	if err != nil {
		fmt.Fprintf(stderr, "the controller does not answer (%v); this is the kernel's table, without the reasons\n", err)
		if st, err = kernelStatus(cfg); err != nil {
			return fail(stderr, err)
		}
	}
	if *output == "json" {
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

// readyTimeout is how long ready waits for the controller's answer.
const readyTimeout = 2 * time.Second

// runReady says by its exit code whether this director should get traffic. A program
// such as keepalived asks it once a second. With -listen it reads no configuration: a
// mistake in a file that is being edited does not make the director less ready.
func runReady(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newFlags("lvs-controller ready", stderr)
	listen := fs.String("listen", "", "`address` of the controller's listener (default the configuration's)")
	src, code := newSource(fs, args)
	if src == nil {
		return code
	}
	if *listen == "" {
		cfg, err := src.load()
		if err != nil {
			return fail(stderr, err)
		}
		*listen = cfg.Listen
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	resp, err := askController(ctx, *listen, "/readyz")
	var text []byte
	if err == nil {
		defer resp.Body.Close()
		// The controller answers with a line. Another program there may send more.
		text, err = io.ReadAll(io.LimitReader(resp.Body, 4096))
	}
	switch {
	case err != nil:
		return fail(stderr, "NOT READY: the controller does not answer:", err)
	case resp.StatusCode != http.StatusOK:
		return fail(stderr, "NOT READY:", strings.TrimSpace(string(text)))
	}
	fmt.Fprintln(stdout, "ready")
	return exitOK
}

// askController sends one GET request to the running controller.
func askController(ctx context.Context, listen, path string) (*http.Response, error) {
	if listen == "" {
		return nil, errors.New("listen is off")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dialable(listen)+path, nil)
	if err != nil {
		return nil, err
	}
	// Without a proxy: listen is an address of this host.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return client.Do(req)
}

// fetchStatus asks the running controller.
func fetchStatus(ctx context.Context, listen string) (status, error) {
	var st status
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := askController(ctx, listen, "/status.json")
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return st, fmt.Errorf("status %s", resp.Status)
	}
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

// dialable is the address to connect to for a listen address: this host in place of a
// wildcard.
func dialable(listen string) string {
	ap, err := netip.ParseAddrPort(listen)
	switch {
	case strings.HasPrefix(listen, ":"):
		return "localhost" + listen
	case err == nil && ap.Addr().IsUnspecified() && ap.Addr().Is4():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ap.Port()).String()
	case err == nil && ap.Addr().IsUnspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), ap.Port()).String()
	}
	return listen
}

// kernelStatus is what the kernel knows, without the controller.
func kernelStatus(cfg *Config) (status, error) {
	o := newOwners(cfg)
	st := status{Reason: "the controller does not answer", Services: []serviceStatus{}}
	err := observeKernel(func(k ServiceKey) bool { return o.of(k) != nil }, func(k *KernelService) {
		s := newServiceStatus(k)
		s.VIP = o.of(k.ServiceKey).Name
		st.Services = append(st.Services, s)
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

// runDiff prints what a controller that starts now would change.
func runDiff(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	_, cfg, code := configured(newFlags("lvs-controller diff", stderr), args)
	if cfg == nil {
		return code
	}
	changes, warnings, err := pendingChanges(ctx, cfg)
	printLines(stderr, "warning: %s\n", warnings)
	if err != nil {
		return fail(stderr, err)
	}
	printLines(stdout, "%s\n", changes)
	if len(changes) > 0 {
		return exitChanges
	}
	return exitOK
}

// pendingChanges are the operations that a pass would make, a line each.
func pendingChanges(ctx context.Context, cfg *Config) (changes, warnings []string, err error) {
	cluster, err := askCluster(ctx, cfg.ClusterQuery())
	if err != nil {
		return nil, nil, err
	}
	d, err := dialIPVS()
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	st, _ := (&stateDir{path: cfg.StateDir}).load() // one that cannot be used is empty, as for a controller
	plans := planner{state: st}
	plans.own(cfg)
	table, err := d.Table(plans.owns, nil)
	if err != nil {
		return nil, nil, err
	}
	plans.adopt(table, nil)
	// Which real servers are down is what the running controller found last.
	p := plans.plan(planInputs{cluster: cluster, health: &Health{Down: st.Down}, have: table, now: time.Now()})
	for o := range p.ops.all {
		changes = append(changes, o.String())
	}
	same, err := newMarkTable(slog.New(slog.DiscardHandler)).Check(p.want.Marks)
	if err == nil && !same {
		changes = append(changes, fmt.Sprintf("~ firewall marks  %d ports marked", len(p.want.Marks)))
	}
	return changes, warningTexts(p.want.Warnings), err
}

// askCluster waits until every query has an answer.
func askCluster(ctx context.Context, q ClusterQuery) (*Cluster, error) {
	asked := len(allKeys(&q))
	if asked == 0 {
		return &Cluster{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	wake := make(chan struct{}, 1)
	clusters := newLatest[Cluster](wake)
	queries := newLatest[ClusterQuery](make(chan struct{}, 1))
	queries.Set(&q)
	watch := newClusterWatch(slog.New(slog.DiscardHandler), clusters, Cluster{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = watch.Run(ctx, queries) // ends with ctx and has no other error
	}()
	defer func() { cancel(); <-done }()
	for {
		select {
		case <-wake:
			if c := clusters.Get(); c.answers() == asked {
				return c, nil
			}
		case <-ctx.Done():
			for _, s := range watch.States() {
				if !s.Synced {
					return nil, fmt.Errorf("the cluster did not answer within %s: %s: %s", clusterTimeout, s.Name, s.LastError)
				}
			}
			return nil, fmt.Errorf("the cluster did not answer within %s", clusterTimeout)
		}
	}
}
