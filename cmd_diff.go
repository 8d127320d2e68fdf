// The sub-command diff. It changes nothing.
//
// Used by main.go. It computes one pass of the reconcile loop, and prints the operations
// where the loop would send them.

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	clusterTimeout = 15 * time.Second // how long diff waits for the cluster's answer
	faultTimeout   = 5 * time.Second  // and, while the cluster cannot be reached, for the end of that
)

var diffCommand = command{
	name:    "diff",
	summary: "show what would change in the kernel now",
	about: `Shows what a controller that starts now with this configuration would change in
the kernel, and changes nothing. It asks the cluster, and the kernel for its table.`,
	exits: map[int]string{exitOK: "nothing would change", exitChanges: "there are changes, which stdout shows"},
	examples: `lvs-controller diff
lvs-controller diff -config new.toml`,
	new: func() task { return new(diffTask) },
}

// diffTask is one call of `lvs-controller diff`.
type diffTask struct {
	source
}

// run prints what a controller that starts now would change.
func (t *diffTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	cfg, code := t.configured(stderr)
	if cfg == nil {
		return code
	}
	p, err := pendingChanges(ctx, cfg)
	if err != nil {
		return fail(stderr, err)
	}
	printLines(stderr, "warning: %s\n", warningTexts(p.want.Warnings))
	silent := slog.New(slog.DiscardHandler)
	table := newMarkTable(silent)
	table.form = markForm(cfg.PeerMACs)
	same, err := table.Check(p.want.Marks)
	if err != nil {
		return fail(stderr, err)
	}
	exempt := wantedUntracked(p.want.Owners, p.Shards, p.want.Marks, cfg)
	exempted, err := newUntrackedTable(silent).checkUntracked(exempt)
	if err != nil {
		fmt.Fprintf(stderr, "warning: %s\n", err) // the controller serves the VIPs all the same
	}
	code = exitOK
	for o := range p.ops.all {
		code = exitChanges
		fmt.Fprintln(stdout, o)
	}
	if !same {
		code = exitChanges
		fmt.Fprintf(stdout, "~ firewall marks  %d ports marked\n", len(p.want.Marks))
	}
	if err == nil && !exempted {
		code = exitChanges
		fmt.Fprintf(stdout, "~ connection tracking  %d ports exempt\n", len(exempt.Ports))
	}
	return code
}

// pendingChanges is what a pass would do.
func pendingChanges(ctx context.Context, cfg *Config) (p plan, err error) {
	d, err := dialIPVS()
	if err != nil {
		return p, err
	}
	defer d.Close()
	// Without the right to ask the kernel, the cluster's answer is of no use.
	if _, err := d.Info(); err != nil {
		return p, err
	}
	cluster, err := askCluster(ctx, cfg.ClusterQuery())
	if err != nil {
		return p, err
	}
	st, _ := (&stateDir{path: cfg.StateDir}).load() // one that cannot be used is empty, as for a controller
	plans := planner{state: st}
	plans.own(cfg)
	table, err := d.Table(plans.owns, nil)
	if err != nil {
		return p, err
	}
	plans.adopt(table, nil)
	// Which real servers are down is what the running controller found last.
	return plans.plan(planInputs{cluster: cluster, health: &Health{Down: st.Down, Unresolved: st.Unresolved}, have: table, now: time.Now()}), nil
}

// askCluster waits until every query has an answer. It does not wait for what no
// waiting mends.
func askCluster(ctx context.Context, q ClusterQuery) (*Cluster, error) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	clusters := newLatest[Cluster](make(chan struct{}, 1))
	clusters.Set(&Cluster{}) // the answer to no query
	queries := newLatest[ClusterQuery](make(chan struct{}, 1))
	queries.Set(&q)
	watch := newClusterWatch(slog.New(slog.DiscardHandler), clusters, Cluster{})
	var watching sync.WaitGroup
	watching.Go(func() { _ = watch.Run(ctx, queries) }) // ends with ctx and has no other error
	defer func() { cancel(); watching.Wait() }()
	look := time.Tick(20 * time.Millisecond)
	for {
		select {
		case <-clusters.Changed():
			if c := clusters.Get(); c.answers() == len(allKeys(&q)) {
				return c, nil
			}
		case <-look:
			for _, s := range watch.States() {
				if s.LastError != "" && (s.Lasting || time.Since(begun) > faultTimeout) {
					return nil, fmt.Errorf("the cluster does not answer: %s: %s", s.Name, s.LastError)
				}
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("the cluster did not answer within %s", clusterTimeout)
		}
	}
}
