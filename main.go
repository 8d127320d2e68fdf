// The program: `lvs-controller` runs the director, its sub-commands show its state
// or prepare a node.
//
// main only calls run, so tests can run the whole program with arguments and
// buffers. direct creates the tasks of a director and connects them. No other file
// uses this one.

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// memoryProfileRate is how many bytes are allocated between two entries of the profiles heap
// and allocs: the default of Go.
const memoryProfileRate = 512 << 10

func main() {
	// The memory peaks while a long list of pods is decoded. A collector that
	// runs more than twice as often costs next to nothing in a process that mostly waits,
	// and keeps a director small.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(40)
	}
	// Each place that allocates has an entry in the profile of the memory, which grows for as
	// long as the process lives. Only -debug has a use for it.
	runtime.MemProfileRate = 0
	// In huge pages, memory that the collector gave back comes back with its
	// neighbours, 2 MiB at a time. A kernel before 3.15 refuses, and spends that.
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
	// Setting GOMAXPROCS stops the runtime from polling the CPU count, so that an
	// idle process never wakes.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// commands are the sub-commands. The first one is what runs without a command.
func commands() []*command {
	all := []*command{
		&directorCommand,
		&initCommand,
		&importCommand,
		&checkCommand,
		&diffCommand,
		&statusCommand,
		&doctorCommand,
		&readyCommand,
		&drainCommand,
		&keepalivedCommand,
		&realserverCommand,
		&completionCommand,
		&versionCommand,
	}
	return append(all, newHelp(all))
}

// run is the whole program. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	all := commands()
	called, last := all[0], all[len(all)-1]
	switch {
	case len(args) == 0:
	case slices.Contains([]string{"-h", "-help", "--h", "--help"}, args[0]):
		called, args = last, nil
	case strings.HasPrefix(args[0], "-"):
	case args[0] == completeName:
		return complete(stdout, all, args[1:])
	default:
		i := slices.IndexFunc(all, func(c *command) bool { return c.name == args[0] })
		if i < 0 {
			return misused(stderr, "lvs-controller", unknownCommand(args[0], all))
		}
		called, args = all[i], args[1:]
	}
	return called.call(ctx, called.new(), args, stdout, stderr)
}

// unknownCommand says that word is no command. It may be a flag of the director's.
func unknownCommand(word string, all []*command) string {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	new(directorTask).flags(fs)
	if fs.Lookup(word) != nil {
		return "unknown command " + strconv.Quote(word) + ", did you mean the flag -" + word + "?"
	}
	return unknownWord("command", word, namesOf(all))
}

var directorCommand = command{
	name:    "run",
	summary: "run the director; this is what no command means too",
	about: `Runs the director until SIGTERM: it watches the cluster and the configuration
file, and keeps the kernel's IPVS table as they say. The kernel goes on forwarding when
it ends. Without -config, -vip and the flags beside it take the place of the file. On top
of a file the other flags replace its values.`,
	exits: map[int]string{exitOK: "ended by a signal, cleaned up, or nothing is wrong (-check)"},
	examples: `lvs-controller
lvs-controller run -config /etc/lvs-controller/config.toml
lvs-controller -kubeconfig kubeconfig -vip 10.135.22.77 -announce arp
lvs-controller -cleanup`,
	values: map[string][]string{"log-format": {"text", "json", "journal"}, "log-level": {"debug", "info", "warn", "error"}},
	new:    func() task { return new(directorTask) },
}

// directorTask is one call of `lvs-controller run`.
type directorTask struct {
	source
	logging                 logSettings
	check, cleanup, version bool
	keepPrivileges          bool
}

func (t *directorTask) flags(fs *flag.FlagSet) {
	t.source.flags(fs)
	t.logging.flags(fs)
	fs.BoolVar(&t.logging.debug, "debug", false, "log more, the same as -log-level debug, and serve profiles on the control socket")
	fs.BoolVar(&t.check, "check", false, "validate this command line and the configuration file, as the command check does, and exit")
	fs.BoolVar(&t.cleanup, "cleanup", false, "remove from the kernel what the controller put there, and exit")
	fs.BoolVar(&t.version, "version", false, "print the version, and exit")
	fs.BoolVar(&t.keepPrivileges, "keep-privileges", false, "keep all rights of the user who starts it; else the controller keeps CAP_NET_ADMIN and CAP_NET_RAW, and writes to its own directories alone")
}

// run is the controller itself.
func (t *directorTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	if t.version {
		return new(versionTask).run(ctx, stdout, stderr)
	}
	if t.check {
		return (&checkTask{source: t.source}).run(ctx, stdout, stderr)
	}
	if t.logging.debug {
		runtime.MemProfileRate = memoryProfileRate
	}
	log := t.logging.open(stderr)
	defer log.queue.close(logPatience)
	first, err := t.startWith(log.Logger)
	if err != nil {
		log.queue.close(logPatience) // its lines come first
		return fail(stderr, err)
	}
	cfg := first.cfg
	signal.Ignore(syscall.SIGPIPE) // a reader of the log that ends does not end the director
	dir := &stateDir{path: cfg.StateDir}
	lock, err := dir.lock(log.Logger)
	if err != nil {
		log.Error("cannot start", "err", err)
		return exitFailure
	}
	defer lock.Close()
	release, err := lockNamespace(log.Logger)
	if err != nil {
		log.Error("cannot start", "err", err)
		return exitFailure
	}
	defer release()
	for _, path := range []string{dir.file(), filepath.Join(dir.path, confirmationFile), snapshotFile(cfg.CacheDir), lastGoodFile(cfg.CacheDir)} {
		if n := removeLeftovers(path); n > 0 {
			log.Info("temporary files of a controller that was killed are removed", "of", path, "files", n)
		}
	}
	if t.cleanup {
		if err := cleanUp(ctx, log.Logger, cfg, dir); err != nil {
			log.Error("not everything could be removed", "err", err)
			return exitFailure
		}
		return exitOK
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal does not wait for anything
	logWarnings(log.Logger, cfg)
	if !t.keepPrivileges && ctx.Err() == nil {
		first.rights = giveUpRights(log.Logger, cfg)
	}
	if err := direct(ctx, log, &t.source, first, dir, t.logging.debug); err != nil {
		log.Error("ended", "err", err)
		return exitFailure
	}
	return exitOK
}

// firstConfig is what a director starts with.
type firstConfig struct {
	cfg    *Config
	broken error     // why the file on disk is not what cfg comes from; nil: it is
	wrong  digest    // of what was read on disk, if it is broken
	copied *goodFile // what cfg comes from, if the file on disk is broken
	rights *heldRights
}

// startWith is the file's configuration, or the last good one while the file has a
// mistake or cannot be read. A restart would otherwise end a director that served.
func (t *directorTask) startWith(log *slog.Logger) (*firstConfig, error) {
	cfg, broken := t.load()
	if broken == nil {
		return &firstConfig{cfg: cfg}, nil
	}
	if t.cleanup {
		return nil, broken
	}
	good, err := t.lastGood()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, broken
	case err != nil:
		log.Error("the last good configuration cannot be used either", "copy", good.file, "err", err)
		return nil, broken
	}
	log.Error("the configuration file cannot be used: starting with the last good one", "file", t.path, "copy", good.file, "saved", good.saved, "err", broken)
	return &firstConfig{cfg: good.cfg, broken: broken, wrong: t.refused.digest, copied: &goodFile{good.saved, sha256.Sum256(good.text)}}, nil
}

// program is a running director.
type program struct {
	log     *slog.Logger
	configs *latest[Config]
	queries *latest[ClusterQuery]
	recheck chan struct{} // of the configuration file
	notify  *notifier     // nil: there is no service manager
	loop    *reconciler
	server  *httpServer
	tasks   []func(context.Context) error // the other parts
}

// direct runs a director until ctx ends.
func direct(ctx context.Context, log *programLog, src *source, first *firstConfig, dir *stateDir, debug bool) error {
	cfg := first.cfg
	log.Info("starting", "version", version, "config", cfg.Path, "vips", len(cfg.VIPs))
	notify, err := openNotifier()
	if err != nil {
		log.Warn("the service manager gets no notifications", "err", err)
	}
	p := newProgram(log, notify, cfg, openState(dir, log.Logger))
	p.server.debug = debug
	p.publish(cfg)
	// Also without a file to reload: if nothing received SIGHUP, it would end the
	// process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	defer signal.Stop(usr1)
	onHup := func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hup:
				p.loop.AuditNow()
			}
		}
	}
	if cfg.Path != "" {
		onHup = p.watchConfig(src, first, hup).Run
	}
	p.tasks = append(p.tasks, onHup, func(ctx context.Context) error { return log.level.follow(ctx, usr1) })
	err = p.run(ctx)
	log.Info("stopped; the kernel goes on forwarding")
	return err
}

// newProgram puts the parts together. Data flows one way: configuration, cluster and
// probe results to the loop, and from there to the kernel.
func newProgram(output *programLog, notify *notifier, cfg *Config, st *savedState) *program {
	log := output.Logger
	bell := func() chan struct{} { return make(chan struct{}, 1) }
	wake, listenWake, conflictWake, absentWake, saveWake, hookWake := bell(), bell(), bell(), bell(), bell(), bell() // wake is of the loop
	p := &program{log: log, notify: notify, recheck: bell(), queries: newLatest[ClusterQuery](bell())}
	p.configs = newLatest[Config](wake, listenWake, conflictWake, absentWake, hookWake)
	clusters := newLatest[Cluster](wake, saveWake)
	probes, healths := newLatest[ProbePlan](bell()), newLatest[Health](wake)
	if len(st.Down) > 0 {
		healths.Set(&Health{Down: st.Down})
	}
	var earlier Cluster // what the last-good snapshot has
	if c, saved := loadSnapshot(cfg.CacheDir, cfg.ClusterSource(), log); c != nil {
		earlier = *c
		// After a mere restart the kernel's table and the state file know better
		// than a snapshot, which may be older than both.
		if len(st.Owned) == 0 {
			log.Info("starting from the last-good snapshot of the cluster, until it answers", "file", snapshotFile(cfg.CacheDir), "saved", saved)
			clusters.Set(c)
		}
	}
	resolving, unresolved := newLatest[[]resolveSet](), newLatest[Health](wake)
	routing, routes := newLatest[[]resolveSet](bell()), newLatest[Health](wake)
	host := newLinuxHost(log, st.Addresses, st.Local, st.saveAddresses)
	watch := newClusterWatch(log, clusters, earlier)
	prober := newProber(log, probes, healths)
	hostName, _ := os.Hostname() // "" is enough for the receiver to work
	hook := newWebhook(log, p.configs, hookWake, new(eventRecord), hostName)
	p.loop = newReconciler(&loopNeeds{
		log: log, wake: wake, recheck: p.recheck,
		config: p.configs, cluster: clusters, health: healths, probes: probes, unresolved: unresolved, resolving: resolving, routes: routes, routing: routing,
		dial: func() (director, error) { return dialDirector(log, host.sysctls, p.configs.Get(), notify.beat) },
		host: host, state: st, cacheDir: cfg.CacheDir, now: time.Now,
		events: hook.events,
		report: &loopReport{notifier: notify, missing: func() string { return missingStreams(watch.States()) }},
	})
	conflicts := newConflictWatch(log, p.configs, conflictWake, func() map[netip.Addr]bool { return p.loop.published.Load().RealServers() },
		func(own map[netip.Addr]bool) string { return p.loop.published.Load().ServesWithOthers(own) })
	absent := newAbsentWatch(log, p.configs, absentWake)
	p.server = &httpServer{
		log: log, loop: p.loop, watch: watch, configs: p.configs, reloaded: listenWake, started: time.Now(),
		prober: prober, webhook: hook, uplink: host.uplinkState, conflicts: conflicts.record, absent: absent, output: output, table: readConnectionTable, readings: readings{observe: observeKernel},
		socket: socketPath(cfg.StateDir),
	}
	p.server.file.Store(&configStatus{Path: cfg.Path, Loaded: time.Now()})
	p.tasks = []func(context.Context) error{
		prober.Run,
		conflicts.Run,
		hook.Run,
		absent.Run,
		newResolveWatch(log, resolving, unresolved, st.Unresolved).Run,
		newRouteWatch(log, routing, routes).Run,
		host.addresses.Run,
		func(ctx context.Context) error { return watch.Run(ctx, p.queries) },
		func(ctx context.Context) error {
			return saveSnapshots(ctx, p.configs, earlier, clusters, saveWake, log)
		},
		func(ctx context.Context) error { return host.addresses.Follow(ctx, wake) },
		func(ctx context.Context) error { return host.FollowUplink(ctx, wake) },
		func(ctx context.Context) error { return host.marks.Follow(ctx, wake) },
		func(ctx context.Context) error { return host.untracked.Follow(ctx, wake) },
		func(ctx context.Context) error { return followIPVS(ctx, log, p.loop.AuditNow) },
		func(ctx context.Context) error { return followDrain(ctx, log, cfg.CacheDir, wake) },
	}
	return p
}

// publish makes c the configuration in force.
func (p *program) publish(c *Config) {
	q := c.ClusterQuery()
	p.queries.Set(&q)
	p.configs.Set(c)
}

const (
	// endPatience is the time that all but the loop has to end, and lastPatience what
	// it has after a loop that took longer. A part can wait for a disk or a program.
	endPatience  = 3 * time.Second
	lastPatience = time.Second
)

// run runs all parts until ctx ends, and does not wait long for all but the loop.
func (p *program) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	// The listener answers whether this director is ready for as long as the end of
	// the loop takes: routers get the time to follow.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	loopEnded := make(chan struct{})
	group.Go(func() error {
		defer close(loopEnded)
		defer stopServing()
		return p.loop.Run(ctx)
	})
	group.Go(func() error { return p.server.Run(serving) })
	group.Go(func() error { return p.server.RunSocket(serving) })
	for _, task := range p.tasks {
		group.Go(func() error { return task(ctx) })
	}
	all := make(chan error, 1)
	go func() { all <- group.Wait() }()
	<-ctx.Done()
	p.notify.stop("stopping; the kernel goes on forwarding")
	end := time.Now().Add(endPatience)
	<-loopEnded
	select {
	case err := <-all:
		return err
	case <-time.After(max(time.Until(end), lastPatience)):
		p.log.Warn("a part of the program does not end and is left behind", "after", endPatience)
		return nil
	}
}

// watchConfig is what reloads the file that the program begins with.
func (p *program) watchConfig(src *source, first *firstConfig, hup <-chan os.Signal) *ConfigWatcher {
	var saving failureLog
	w := &ConfigWatcher{
		Path:    first.cfg.Path,
		Log:     p.log,
		Hup:     hup,
		Recheck: p.recheck,
		Current: first.cfg,
		Refused: first.wrong,
		Parse: func(path string, text []byte) (*Config, error) {
			c, err := src.parse(path, text)
			if err == nil {
				err = first.rights.refuse(p.configs.Get(), c, text)
			}
			return c, err
		},
		Publish: func(c *Config) {
			p.server.reloads.Add(1)
			p.server.bad.Store(false)
			p.server.file.Store(&configStatus{Path: c.Path, Loaded: time.Now()})
			p.notify.applies(c)
			p.loop.events.add(Event{Time: time.Now(), Kind: eventReloaded}) // before what comes of it
			p.publish(c)
		},
		Accepted: func(c *Config, text []byte) {
			p.server.good.Store(&goodFile{time.Now(), sha256.Sum256(text)})
			err := saveLastGood(c.CacheDir, c.Path, text)
			if begins, _ := saving.note(err); begins {
				p.log.Error("the copy of the configuration cannot be saved: a start while the file cannot be used would fail", "err", err)
			}
		},
		Rejected: func(err error) {
			p.server.rejected.Add(1)
			p.server.bad.Store(true)
			now := *p.server.file.Load()
			now.Wrong = firstMistake(err)
			p.server.file.Store(&now)
			p.loop.events.add(Event{Time: time.Now(), Kind: eventRefused, Reason: now.Wrong})
			p.notify.faulty("the last good configuration stays in force: " + now.Wrong)
		},
		Audit:     p.loop.AuditNow,
		Reloading: p.notify.reload,
		Reloaded:  p.notify.reloaded,
	}
	if first.broken != nil {
		p.server.file.Store(&configStatus{Path: first.cfg.Path, Loaded: first.copied.At})
		p.server.good.Store(first.copied)
		w.Rejected(first.broken)
	}
	return w
}

// dialDirector opens the kernel's IPVS and says which one it is, and whether its
// connection table is as large as cfg wants. progress is called for each answer.
func dialDirector(log *slog.Logger, sysctls procSys, cfg *Config, progress func()) (director, error) {
	c, err := dialIPVS()
	if err != nil {
		return nil, err
	}
	c.progress = progress
	info, err := c.Info()
	if err != nil {
		c.Close()
		return nil, err
	}
	log.Info("connected to the kernel's IPVS", "version", info.Version, "connection_table", info.ConnTabSize)
	release, _ := sysctls.KernelRelease() // one that cannot be read counts as old
	readConnectionTable().warn(log, cfg.ConnectionTableBits, release, hostMemory())
	logTracking(log, cfg)
	return c, nil
}
