// The program: `lvs-controller` runs the director, its sub-commands show its state
// or prepare a node.
//
// main only calls run, so tests can run the whole program with arguments and
// buffers. direct creates the tasks of a director and connects them. No other file
// uses this one.

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func main() {
	// The memory peaks while a long list of pods is decoded. A collector that
	// runs twice as often costs next to nothing in a process that mostly waits,
	// and keeps a director small.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	// In huge pages, memory that the collector gave back comes back with its
	// neighbours, 2 MiB at a time. A kernel before 3.15 refuses, and spends that.
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
	// Said aloud, the number of processors is not looked up again each second:
	// an idle controller should not wake at all.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "run":
			return runDirector(ctx, args[1:], stderr)
		case "check":
			return runCheck(args[1:], stdout, stderr)
		case "diff":
			return runDiff(ctx, args[1:], stdout, stderr)
		case "status":
			return runStatus(ctx, args[1:], stdout, stderr)
		case "ready":
			return runReady(ctx, args[1:], stdout, stderr)
		case "drain":
			return runDrain(ctx, args[1:], stdout, stderr)
		case "keepalived":
			return runKeepalived(ctx, args[1:], stdout, stderr)
		case "realserver":
			return runRealserver(args[1:], stdout, stderr)
		case "version":
			fmt.Fprintln(stdout, "lvs-controller", version)
			return exitOK
		case "help":
			fmt.Fprint(stdout, usage)
			return exitOK
		}
		fmt.Fprintf(stderr, "lvs-controller: unknown command %q\n\n%s", args[0], usage)
		return exitUsage
	}
	return runDirector(ctx, args, stderr)
}

// runDirector is the controller itself.
func runDirector(ctx context.Context, args []string, stderr io.Writer) int {
	var (
		src     source
		debug   bool
		cleanup bool
	)
	fs := newFlags("lvs-controller", stderr)
	src.flags(fs)
	fs.BoolVar(&debug, "debug", false, "log more")
	fs.BoolVar(&cleanup, "cleanup", false, "remove what the controller put into the kernel, and exit")
	if code, done := parse(fs, args); done {
		return code
	}
	src.parsed(fs)
	log := newLogger(stderr, debug)
	cfg, err := src.load()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailure
	}
	dir := &stateDir{path: cfg.StateDir}
	lock, err := dir.lock(log)
	if err != nil {
		log.Error("cannot start", "err", err)
		return exitFailure
	}
	defer lock.Close()
	release, err := lockNamespace(log)
	if err != nil {
		log.Error("cannot start", "err", err)
		return exitFailure
	}
	defer release()
	if cleanup {
		if err := cleanUp(ctx, log, cfg, dir); err != nil {
			log.Error("not everything could be removed", "err", err)
			return exitFailure
		}
		return exitOK
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal does not wait for anything
	logWarnings(log, cfg)
	if err := direct(ctx, log, &src, cfg, dir); err != nil {
		log.Error("ended", "err", err)
		return exitFailure
	}
	return exitOK
}

// direct runs the tasks of a director until ctx ends.
func direct(ctx context.Context, log *slog.Logger, src *source, cfg *Config, dir *stateDir) error {
	log.Info("starting", "version", version, "config", cfg.Path, "vips", len(cfg.VIPs))
	wake := make(chan struct{}, 1)
	listenWake := make(chan struct{}, 1)
	conflictWake := make(chan struct{}, 1)
	configs := newLatest[Config](wake, listenWake, conflictWake)
	saveWake := make(chan struct{}, 1)
	clusters := newLatest[Cluster](wake, saveWake)
	queryWake := make(chan struct{}, 1)
	queries := newLatest[ClusterQuery](queryWake)
	publish := func(c *Config) {
		q := c.ClusterQuery()
		queries.Set(&q)
		configs.Set(c)
	}

	probes := newLatest[ProbePlan](make(chan struct{}, 1))
	healths := newLatest[Health](wake)
	watch := newClusterWatch(log, clusters)
	prep := newLinuxHost(log)
	recheck := make(chan struct{}, 1)
	loop := &reconciler{
		log:      log,
		wake:     wake,
		recheck:  recheck,
		config:   configs,
		cluster:  clusters,
		health:   healths,
		probes:   probes,
		dial:     func() (director, error) { return dialDirector(log) },
		host:     prep,
		dir:      dir,
		cacheDir: cfg.CacheDir,
		now:      time.Now,
	}
	loop.restore()
	if len(loop.state.Down) > 0 {
		healths.Set(&Health{Down: loop.state.Down})
	}
	prober := newProber(log, probes, healths)
	var earlier Cluster
	if c, saved := loadSnapshot(cfg.CacheDir, cfg.ClusterSource(), log); c != nil {
		earlier = *c
		// After a mere restart the kernel's table and the state file know better
		// than a snapshot, which may be older than both.
		if len(loop.state.Owned) == 0 {
			log.Info("starting from the last-good snapshot of the cluster, until it answers", "file", snapshotFile(cfg.CacheDir), "saved", saved)
			clusters.Set(c)
		}
	}
	watch.earlier = earlier
	prep.addresses = newAddresses(loop.state.Addresses, log)
	prep.addresses.remember = loop.rememberAddresses
	prep.dummy = newDummyDevice(loop.state.Local, log)
	conflicts := newConflictWatch(log, configs, conflictWake, func() map[netip.Addr]bool { return loop.view.Load().RealServers() })
	server := &httpServer{log: log, loop: loop, watch: watch, configs: configs, reloaded: listenWake, started: time.Now(), prober: prober, uplink: prep.uplinkState, conflicts: conflicts.book}

	group, ctx := errgroup.WithContext(ctx)
	publish(cfg)
	// Who asks whether this director is ready is answered as long as the loop's end
	// takes: routers get the time to follow.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer stopServing()
		return loop.Run(ctx)
	})
	group.Go(func() error { return watch.Run(ctx, queries) })
	group.Go(func() error {
		return saveSnapshots(ctx, configs, earlier, clusters, saveWake, log)
	})
	group.Go(func() error { return prep.addresses.Run(ctx) })
	group.Go(func() error { return prober.Run(ctx) })
	group.Go(func() error { return conflicts.Run(ctx) })
	group.Go(func() error { return followDrain(ctx, log, cfg.CacheDir, wake) })
	group.Go(func() error { return prep.FollowUplink(ctx, wake) })
	group.Go(func() error { return prep.addresses.Follow(ctx, wake) })
	group.Go(func() error { return server.Run(serving) })
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	if cfg.Path != "" {
		w := &ConfigWatcher{
			Path:    cfg.Path,
			Log:     log,
			Hup:     hup,
			Recheck: recheck,
			Current: cfg,
			Parse:   src.parse,
			Publish: func(c *Config) {
				server.reloads.Add(1)
				server.bad.Store(false)
				publish(c)
			},
			Rejected: func(error) {
				server.rejected.Add(1)
				server.bad.Store(true)
			},
		}
		group.Go(func() error { return w.Run(ctx) })
	}
	err := group.Wait()
	log.Info("stopped; the kernel goes on forwarding")
	return err
}

// dialDirector opens the kernel's IPVS and says which one it is.
func dialDirector(log *slog.Logger) (director, error) {
	c, err := dialIPVS()
	if err != nil {
		return nil, err
	}
	info, err := c.Info()
	if err != nil {
		c.Close()
		return nil, err
	}
	log.Info("connected to the kernel's IPVS", "version", info.Version, "connection_table", info.ConnTabSize)
	return c, nil
}
