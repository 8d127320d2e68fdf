// The sub-command diff. It changes nothing.
//
// Used by main.go. It computes one pass of the reconcile loop, and prints the changes
// where the loop would make them. The kernel's table may be a saved listing: then no
// kernel is asked.

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	clusterTimeout = 15 * time.Second // how long diff waits for the cluster's answer
	faultTimeout   = 5 * time.Second  // and, while the cluster cannot be reached, for the end of that
)

var diffCommand = command{
	name:    "diff",
	summary: "show what would change now",
	about: `Shows what a controller that starts now with this configuration would change in
the kernel and on this host, and changes nothing. With -table a saved listing replaces
the kernel's table: no kernel is asked and nothing of this host is looked at, so a change
can be reviewed before it is made.`,
	exits: map[int]string{exitOK: "nothing would change", exitChanges: "there are changes, which stdout shows"},
	examples: `lvs-controller diff
lvs-controller diff -config new.toml -o json
lvs-controller diff -config new.toml -cluster-file pods.json -table saved.txt`,
	values: map[string][]string{"o": {"table", "json", "ipvsadm"}},
	new:    func() task { return new(diffTask) },
}

// diffTask is one call of `lvs-controller diff`.
type diffTask struct {
	source
	output      string
	clusterFile string
	table       string
}

func (t *diffTask) flags(fs *flag.FlagSet) {
	t.source.flags(fs)
	fs.StringVar(&t.output, "o", "table", "output `form`: table, json or ipvsadm")
	fs.StringVar(&t.clusterFile, "cluster-file", "", "captured `file` of the cluster's objects; replaces the configuration's source")
	fs.StringVar(&t.table, "table", "", "saved `listing` of ipvsadm -Sn, or - for standard input, in place of the kernel's table")
}

// run prints what a controller that starts now would change.
func (t *diffTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	form := diffForms[t.output]
	if form == nil {
		return diffCommand.misused(stderr, fmt.Sprintf("-o %q is not table, json or ipvsadm", t.output))
	}
	if t.clusterFile != "" && t.set["kubeconfig"] {
		return diffCommand.misused(stderr, "give either -cluster-file or -kubeconfig")
	}
	cfg, code := t.configured(stderr)
	if cfg == nil {
		return code
	}
	if t.clusterFile != "" {
		cfg.ClusterFile, cfg.Kubeconfig = t.clusterFile, ""
	}
	find := func() (*changeSet, error) { return pendingChanges(ctx, cfg) }
	if t.table != "" {
		find = func() (*changeSet, error) { return offlineChanges(ctx, cfg, t.table) }
	}
	found, err := find()
	if err != nil {
		return fail(stderr, err)
	}
	printLines(stderr, "warning: %s\n", found.warnings)
	printLines(stderr, "not compared: %s\n", found.notCompared)
	if err := form(stdout, stderr, found); err != nil {
		return fail(stderr, err)
	}
	return found.exitCode()
}

// changeSet is what a pass would change.
type changeSet struct {
	ops         phases
	beside      []pendingChange
	warnings    []string
	notCompared []string
	unread      bool // a part of this host could not be read
	// marked are the ports whose packets get a firewall mark after the pass, and markedNow
	// those before, as far as the kernel was asked.
	marked, markedNow map[MarkedPort]uint32
}

// exitCode says whether there are changes. Of a host that was not read whole, it is not
// known that there are none.
func (c *changeSet) exitCode() int {
	switch {
	case c.count() > 0:
		return exitChanges
	case c.unread:
		return exitFailure
	}
	return exitOK
}

// count is how many changes there are.
func (c *changeSet) count() int { return c.ops.len() + len(c.beside) }

// pendingChanges is what a pass would do on this host.
func pendingChanges(ctx context.Context, cfg *Config) (*changeSet, error) {
	d, err := dialIPVS()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	// Without the right to ask the kernel, the cluster's answer is of no use.
	if _, err := d.Info(); err != nil {
		return nil, err
	}
	cluster, err := askCluster(ctx, cfg.ClusterQuery())
	if err != nil {
		return nil, err
	}
	st, _ := (&stateDir{path: cfg.StateDir}).load() // one that cannot be used is empty, as for a controller
	plans := planner{state: st}
	plans.own(cfg)
	table, err := d.Table(plans.owns, nil, nil)
	if err != nil {
		return nil, err
	}
	plans.adopt(table, nil)
	// The pass forgets what it removes.
	before := state{Addresses: st.Addresses, Local: st.Local, Daemons: st.Daemons}
	// Which real servers are down is what the running controller found last.
	p := plans.plan(planInputs{cluster: cluster, health: &Health{Down: st.Down, Unresolved: st.Unresolved}, have: table, now: time.Now()})
	found := changeSet{ops: p.ops, warnings: warningTexts(p.want.Warnings), marked: p.want.Marks}
	// Without nf_tables there are none; what else keeps them unread is said of the marks below.
	found.markedNow, _ = newMarkTable(slog.New(slog.DiscardHandler)).Read()
	if found.beside, err = pendingBeside(ctx, cfg, &before, &p, d); err != nil {
		found.notCompared, found.unread = strings.Split(err.Error(), "\n"), true
	}
	return &found, nil
}

// offlineChanges is what a pass would do on a director whose table is the listing at
// path. No kernel is asked, and nothing of this host is looked at.
func offlineChanges(ctx context.Context, cfg *Config, path string) (*changeSet, error) {
	saved, err := openListing(path)
	if err != nil {
		return nil, err
	}
	cluster, err := askCluster(ctx, cfg.ClusterQuery())
	if err != nil {
		return nil, err
	}
	plans := planner{state: newState()}
	plans.own(cfg)
	found := changeSet{notCompared: []string{
		"kernel settings, timeouts, sync daemons, addresses, marks and connection tracking of the host: a listing does not have them",
	}}
	var ours Table
	foreign := 0
	thresholds := saved.Thresholds
	for _, s := range saved.Table {
		if !plans.owns(s.ServiceKey) {
			foreign++
			continue
		}
		if v := plans.owners.latest(s.ServiceKey); v != nil && !saved.Thresholds && v.Upper > 0 {
			thresholds = true
			for i := range s.Servers {
				s.Servers[i].Upper, s.Servers[i].Lower = v.Upper, v.Lower
			}
		}
		ours = append(ours, s)
	}
	if thresholds && !saved.Thresholds {
		found.notCompared = append(found.notCompared, "upper_threshold and lower_threshold: ipvsadm -Sn does not list them")
	}
	if foreign > 0 {
		found.notCompared = append(found.notCompared, fmt.Sprintf("%d %s of the listing, on an address or mark that the configuration does not have", foreign, plural(foreign, "virtual service", "virtual services")))
	}
	table := split(ours)
	plans.adopt(table, nil)
	p := plans.plan(planInputs{cluster: cluster, health: &Health{}, have: table, now: time.Now()})
	found.ops, found.warnings, found.marked = p.ops, warningTexts(p.want.Warnings), p.want.Marks
	return &found, nil
}

// openListing reads the listing at path, or that of standard input.
func openListing(path string) (listing, error) {
	if path == "-" {
		saved, err := readListing(os.Stdin)
		return saved, wrap("standard input", err)
	}
	f, _, err := openRegular(path, maxListing)
	if err != nil {
		return listing{}, wrap("read the saved table", err)
	}
	defer f.Close()
	saved, err := readListing(f)
	return saved, wrap(path, err)
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
