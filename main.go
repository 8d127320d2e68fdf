// The command line: `lvs-controller` runs the director, its sub-commands look
// at it or prepare a node.
//
// main only calls run, so that tests drive the whole program with arguments
// and buffers. This file knows every other one; none knows it.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// version is set by the linker (Makefile).
var version = "dev"

// Exit codes, the same for all sub-commands.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitChanges = 2 // `diff`: there are changes
)

const usage = `lvs-controller brings outside traffic to the ready hostNetwork ingress pods of
a Kubernetes cluster through the kernel's IPVS, in direct routing.

  lvs-controller -config FILE            run
  lvs-controller -config FILE -cleanup   remove what it put into the kernel
  lvs-controller check [-all] -config FILE
                                         validate the file; 1 = mistakes
  lvs-controller diff -config FILE       what would change in the kernel now; 2 = changes
  lvs-controller status [-config FILE] [-o json]
                                         services, real servers, reasons, connections
  lvs-controller ready [-config FILE | -listen ADDR:PORT]
                                         does /readyz say ok? 0 = yes, 1 = no
  lvs-controller drain [-undo] [-config FILE]
                                         take this director's traffic away, or back
  lvs-controller keepalived -config FILE -peer ADDR [-source ADDR] [-priority N]
                                         a keepalived.conf that goes with the file
  lvs-controller realserver -vip ADDR[,ADDR] [-dev lo] [-check | -remove]
                                         prepare (or undo) a node
  lvs-controller version

Without a file: lvs-controller -kubeconfig FILE -vip ADDR [-schedname rr]
                               [-nginxserver NAMESPACE] [-timeout TCP-TCPFIN-UDP] [-debug]
`

const defaultConfigPath = "/etc/lvs-controller/config.toml"

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

// newFlags makes a flag set that speaks on stderr and never exits by itself.
func newFlags(name string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage, "\nFlags of ", name, ":\n")
		fs.PrintDefaults()
	}
	return fs
}

// parse reads args. done means that the program is over, with code.
func parse(fs *flag.FlagSet, args []string) (code int, done bool) {
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK, true
	case err != nil:
		return exitUsage, true
	case fs.NArg() > 0:
		fmt.Fprintf(fs.Output(), "lvs-controller: unexpected argument %q\n", fs.Arg(0))
		return exitUsage, true
	}
	return exitOK, false
}

// source is where the configuration comes from: a file, flags alone (the
// command line of the prototype), or a file with flags on top.
type source struct {
	path       string
	kubeconfig string
	vip        string
	scheduler  string
	namespace  string
	timeout    string
	set        map[string]bool // flags that were given
}

// flags adds the flags that describe a configuration.
func (s *source) flags(fs *flag.FlagSet) {
	fs.StringVar(&s.path, "config", "", "configuration `file` (default "+defaultConfigPath+" unless -vip is given)")
	fs.StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig `file`; replaces the configuration's")
	fs.StringVar(&s.vip, "vip", "", "VIP `address`(es), comma-separated; without -config makes a VIP with ports 80 and 443")
	fs.StringVar(&s.scheduler, "schedname", "", "IPVS scheduler `name` of every VIP")
	fs.StringVar(&s.namespace, "nginxserver", "", "`namespace` of the ingress controller")
	fs.StringVar(&s.timeout, "timeout", "", "connection timeouts in seconds, `TCP-TCPFIN-UDP`, as 120-50-50")
}

// parsed notes which flags were given and settles the path.
func (s *source) parsed(fs *flag.FlagSet) {
	s.set = make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { s.set[f.Name] = true })
	if s.path == "" && !s.set["vip"] {
		s.path = defaultConfigPath
	}
}

// load reads the file, if there is one, and lays the flags over it.
func (s *source) load() (*Config, error) {
	if s.path == "" {
		cfg, err := s.flagConfig()
		return cfg, err
	}
	if s.set["vip"] {
		return nil, errors.New("-vip: a configuration file names its own VIPs; give either -config or -vip")
	}
	cfg, err := LoadConfig(s.path)
	if err != nil {
		return nil, err
	}
	return s.overlay(cfg)
}

// parse is load for a reload: text is the file's new content.
func (s *source) parse(path string, text []byte) (*Config, error) {
	cfg, err := ParseConfig(path, text)
	if err != nil {
		return nil, err
	}
	return s.overlay(cfg)
}

// flagConfig is the configuration that the prototype's command line means.
func (s *source) flagConfig() (*Config, error) {
	if s.kubeconfig == "" {
		s.kubeconfig = os.Getenv("KUBECONFIG")
	}
	namespace := s.namespace
	if namespace == "" {
		namespace = "ingress-nginx"
	}
	quoted := make([]string, 0, 1)
	for _, a := range strings.Split(s.vip, ",") {
		quoted = append(quoted, strconv.Quote(strings.TrimSpace(a)))
	}
	text := fmt.Sprintf("[[vip]]\nname = \"vip\"\naddresses = [%s]\nports = [\"80/tcp\", \"443/tcp\"]\nnamespace = %q\ntcp_services = \"tcp-services\"\nudp_services = \"udp-services\"\n",
		strings.Join(quoted, ", "), namespace)
	cfg, err := ParseConfig("command line", []byte(text))
	if err != nil {
		return nil, err
	}
	cfg.Path = ""
	return s.overlay(cfg)
}

// overlay returns a copy of cfg with the flags laid over it.
func (s *source) overlay(cfg *Config) (*Config, error) {
	c := *cfg
	c.VIPs = append([]VIP(nil), cfg.VIPs...)
	if s.kubeconfig != "" {
		c.Kubeconfig, c.ClusterFile = s.kubeconfig, ""
	}
	if s.set["timeout"] {
		t, err := parseTimeouts(s.timeout)
		if err != nil {
			return nil, err
		}
		c.Timeouts = t
	}
	for i := range c.VIPs {
		v := &c.VIPs[i]
		if s.scheduler != "" {
			if !knownScheduler(s.scheduler) {
				return nil, fmt.Errorf("-schedname: unknown scheduler %q", s.scheduler)
			}
			v.SetScheduler(s.scheduler)
		}
		if s.set["nginxserver"] {
			for _, name := range []*string{&v.TCPServices.Namespace, &v.UDPServices.Namespace} {
				if *name == v.Pods.Namespace {
					*name = s.namespace
				}
			}
			v.Pods.Namespace = s.namespace
		}
	}
	return &c, nil
}

// parseTimeouts reads "120-50-50": TCP, TCP after FIN and UDP, in seconds. 0
// leaves the kernel's value, as ipvsadm --set does.
func parseTimeouts(text string) (Timeouts, error) {
	fail := func() (Timeouts, error) {
		return Timeouts{}, fmt.Errorf("-timeout: %q is not TCP-TCPFIN-UDP in seconds, as 120-50-50", text)
	}
	parts := strings.Split(text, "-")
	if len(parts) != 3 {
		return fail()
	}
	var d [3]time.Duration
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil || n > uint64(maxTimeout/time.Second) {
			return fail()
		}
		d[i] = time.Duration(n) * time.Second
	}
	return Timeouts{TCP: d[0], TCPFin: d[1], UDP: d[2]}, nil
}

// newLogger writes text lines to w, from level info or, with debug, all.
func newLogger(w io.Writer, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
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
	prep := newPreparation(log)
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

// configured parses args into fs, which has the flags of a sub-command, and
// loads the configuration that they name. When cfg is nil the program is over,
// with code.
func configured(fs *flag.FlagSet, args []string) (src *source, cfg *Config, code int) {
	src = new(source)
	src.flags(fs)
	if code, done := parse(fs, args); done {
		return nil, nil, code
	}
	src.parsed(fs)
	cfg, err := src.load()
	if err != nil {
		fmt.Fprintln(fs.Output(), err)
		return nil, nil, exitFailure
	}
	return src, cfg, exitOK
}

// runCheck validates a configuration file.
func runCheck(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("lvs-controller check", stderr)
	all := fs.Bool("all", false, fmt.Sprintf("print the first %d mistakes, not the first %d alone", maxMistakes, mistakesInCheck))
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

// cleanUp removes the services on every address that is or was ours, the sync
// daemons that are ours, the addresses that the controller put on devices, and
// its dummy device. Nothing else is touched.
func cleanUp(ctx context.Context, log *slog.Logger, cfg *Config, dir *stateDir) error {
	st, err := dir.load()
	if err != nil {
		log.Error("clean up without remembered state", "err", err)
	}
	o := newOwners(cfg)
	d, err := dialIPVS()
	if err != nil {
		return err
	}
	defer d.Close()
	table, err := d.Table(func(k ServiceKey) bool {
		_, marked := st.Marks[k.Mark]
		return o.of(k) != nil || st.Owned[k.Address] || marked
	}, nil)
	if err != nil {
		return err
	}
	ops := diff(nil, table)
	var failed []*opError
	for _, phase := range ops {
		for i := range phase {
			phase[i].Why = "clean-up"
			if v := o.of(phase[i].Service.ServiceKey); v != nil {
				phase[i].VIP = v.Name
			}
		}
		refused, err := d.Apply(phase)
		if err != nil {
			return err
		}
		failed = append(failed, refused...)
	}
	errs := groupErrors(failed)
	if len(failed) == 0 {
		logChanges(log, &ops)
	}
	addresses, dummy := newAddresses(st.Addresses, log), newDummyDevice(st.Local, log)
	errs = append(errs, stopDaemons(d, st.Daemons))
	_, err = dummy.Look(ctx)
	errs = append(errs, err, adoptLabelled(ctx, addresses), forgetForeign(ctx, addresses, dummy, cfg.AnnounceDevice),
		addresses.Apply(ctx, nil, ""), dummy.Tidy(ctx, "", nil, nil))
	errs = append(errs, newMarkTable(log).Remove())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if since, err := drainedSince(cfg.CacheDir); err == nil && !since.IsZero() {
		log.Warn("the operator's drain stands: a controller that is started again begins drained", "since", since)
	}
	return errors.Join(removeConfirmation(dir.path), dir.save(newState()))
}
