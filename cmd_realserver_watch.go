// realserver -watch: keeps a node prepared. It repairs what another program changes,
// guards devices that come later, and follows the file with the VIPs.
//
// Used by cmd_realserver.go. A pass is one run of the command without -watch. It follows
// each event of the kernel about devices and addresses, and comes at an interval too,
// because a write to /proc/sys is no event. The goroutine of run alone changes the node.
// The end changes nothing: a new version takes over a node that serves.

package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// nodeInterval is the longest time between two passes.
	nodeInterval = 30 * time.Second

	// nodePause is the time between two passes at least. It doubles with each repair and
	// each failure, up to nodeInterval, so that a program that undoes each repair costs
	// little; it is the first again when a pass at the interval finds nothing wrong.
	nodePause = 100 * time.Millisecond

	// vipsQuiet is how long the file with the VIPs must stay the same: a program may write
	// it in several steps, and a VIP that is missing in between would be undone.
	vipsQuiet = 500 * time.Millisecond

	// vipsPoll is how often the file is looked at where changes are not notified.
	vipsPoll = 5 * time.Second
)

// nodeWatch is one run of realserver -watch.
type nodeWatch struct {
	node    realserver // what each pass begins with
	open    func() (nodeNetwork, error)
	log     *slog.Logger
	notify  *notifier // nil: there is no service manager
	reading *latest[vipsReading]
	good    *vipsReading // the last one without a mistake; nil: none yet
	unknown bool         // no file was valid yet, and none of an earlier process
	placed  []string     // what was in place after the last pass, as lack.about
	guards  bool         // each device that may lead to clients; the last pass found devices
	devices []string
	events  <-chan struct{}
	hup     <-chan os.Signal
	said    []lack // changes by another program that are not repaired yet
	stats   nodeStats
	pause   backoff

	failing, misread, deaf failureLog // the pass; the file; the listener
}

// vipsReading is what the file with the VIPs has said.
type vipsReading struct {
	vips []netip.Addr
	err  error
}

// follow is realserver -watch.
func (t *realserverTask) follow(ctx context.Context, stderr io.Writer) int {
	log := t.logging.open(stderr)
	defer log.queue.close(logPatience)
	signal.Ignore(syscall.SIGPIPE) // a reader of the log that ends does not end the watch
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hup, usr1 := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	signal.Notify(usr1, syscall.SIGUSR1)
	defer signal.Stop(usr1)
	notify, err := openNotifier()
	if err != nil {
		log.Warn("the service manager gets no notifications", "err", err)
	}
	release, err := t.lockOwner()
	switch {
	case errors.Is(err, errWatched):
		log.Error("cannot watch this node", "err", err)
		return exitFailure
	case err != nil:
		log.Warn("the lock file of this node cannot be used: a second watch for this owner would not be stopped", "err", err)
	default:
		defer release()
	}
	log.Info("watching this node", "version", version, "vips", t.addresses, "file", t.file, "owner", t.owner)
	w := &nodeWatch{
		node: t.realserver, hup: hup, open: t.open, log: log.Logger, notify: notify,
		reading: newLatest[vipsReading](make(chan struct{}, 1)),
		pause:   backoff{first: nodePause, most: nodeInterval},
	}
	w.node.stdout = changeLog{log.Logger}
	w.stats.began(t.file)
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = log.level.follow(ctx, usr1) })
	if t.file != "" {
		tasks.Go(func() { w.followFile(ctx) })
	}
	w.run(ctx, t.listen)
	tasks.Wait()
	notify.stop("stopping; the node stays prepared")
	log.Info("stopped; the node stays prepared")
	return exitOK
}

// changeLog logs the lines that a pass prints.
type changeLog struct{ log *slog.Logger }

func (l changeLog) Write(line []byte) (int, error) {
	l.log.Info("this node is changed", "what", strings.TrimSpace(string(line)))
	return len(line), nil
}

// followFile reads the file with the VIPs at the start and after each change, until ctx
// ends.
func (w *nodeWatch) followFile(ctx context.Context) {
	path := w.node.file
	take := func(bool) string {
		stamp := fileStamp(os.Stat(path))
		vips, err := readVIPs(path)
		w.reading.Set(&vipsReading{vips, err})
		return stamp
	}
	watch := &fileWatch{
		path:      path,
		look:      func() (string, func(bool) string) { return fileStamp(os.Stat(path)), take },
		taken:     "not read yet",
		quiet:     vipsQuiet,
		poll:      nodeInterval,
		pollBlind: vipsPoll,
		unwatchable: func(err error) {
			w.log.Warn("the file with the VIPs cannot be watched and is read at an interval", "file", path, "every", vipsPoll, "err", err)
		},
	}
	watch.run(ctx)
}

// run makes passes until ctx ends.
func (w *nodeWatch) run(ctx context.Context, listen string) {
	var err error
	w.events, err = deviceEvents(ctx)
	if err != nil {
		w.log.Warn("the kernel's events cannot be received: this node is looked at only at an interval", "every", nodeInterval, "err", err)
	}
	w.loop(ctx, listen)
}

// loop is run with the kernel's events.
func (w *nodeWatch) loop(ctx context.Context, listen string) {
	var ended func() error
	regular := false
	for ctx.Err() == nil {
		if listen != "" && ended == nil {
			ended = w.serve(ctx, listen)
		}
		drifted, err := w.pass()
		begins, ends := w.failing.note(err)
		if begins {
			w.log.Error("this node cannot be prepared for its VIPs; trying again", "err", err)
		}
		if ends {
			w.log.Info("this node is prepared for its VIPs again")
		}
		w.inform(err)
		sleepContext(ctx, nodePause)
		due := false
		if err != nil || drifted {
			due = w.rest(ctx, w.pause.next()-nodePause) || err != nil
		} else if regular {
			w.pause.reset()
		}
		if regular = false; !due {
			regular = w.wait(ctx)
		}
	}
	if ended != nil {
		_ = ended() // the error that ended the listener: nothing follows it
	}
}

// rest lets d pass before the next repair. It reports whether a pass is due: what needs no
// patience ends it earlier, which is another file, SIGHUP and a device without its settings.
func (w *nodeWatch) rest(ctx context.Context, d time.Duration) (due bool) {
	if d <= 0 {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return true
		case <-timer.C:
			return due
		case <-w.reading.Changed():
			return true
		case <-w.hup:
			return true
		case _, open := <-w.events:
			if !open {
				w.events = nil
				continue
			}
			due = true
			if w.newDevice() {
				return true
			}
			sleepContext(ctx, nodePause)
		}
	}
}

// newDevice reports whether a device may lead to clients that did not at the last pass.
func (w *nodeWatch) newDevice() bool {
	if !w.guards {
		return false
	}
	net, err := w.open()
	if err != nil {
		return false
	}
	defer net.Close()
	devices, err := net.ARPDevices()
	return err == nil && slices.ContainsFunc(devices, func(d string) bool { return !slices.Contains(w.devices, d) })
}

// wait waits for the next pass. It reports whether that one comes at the interval.
func (w *nodeWatch) wait(ctx context.Context) (regular bool) {
	timer := time.NewTimer(nodeInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		return true
	case <-w.reading.Changed():
	case <-w.hup:
	case _, open := <-w.events:
		if !open {
			w.events = nil
		}
	}
	return false
}

// inform tells the service manager what the last pass has come to. It is ready once the
// file has been read, whatever that found: a boot waits no longer.
func (w *nodeWatch) inform(err error) {
	w.notify.beat()
	if w.node.file != "" && w.reading.Get() == nil {
		return
	}
	state := "this node is prepared for its VIPs"
	switch r := w.reading.Get(); {
	case err != nil:
		state = "this node cannot be prepared for its VIPs: " + report(err)
	case w.unknown && r != nil && r.err != nil:
		state = "the VIPs of this node are not known: " + report(r.err)
	}
	w.notify.passed(nil, state)
}

// pass looks at the node and makes what it lacks. It reports whether another program had
// changed what was in place.
func (w *nodeWatch) pass() (drifted bool, err error) {
	rs := w.node
	if rs.net, err = w.open(); err != nil {
		w.stats.passed(&rs, w.unknown, err)
		return false, err
	}
	defer rs.net.Close()
	drifted, err = w.repair(&rs)
	w.stats.passed(&rs, w.unknown, err)
	return drifted, err
}

// repair is a pass with a connection to the kernel.
func (w *nodeWatch) repair(rs *realserver) (drifted bool, err error) {
	release, err := rs.lock()
	if err != nil {
		return false, err
	}
	defer release()
	if err := rs.load(); err != nil {
		return false, err
	}
	w.choose(rs)
	if w.guards = rs.uplink == "" && slices.ContainsFunc(rs.vips, netip.Addr.Is4); w.guards {
		w.devices, _ = rs.net.ARPDevices() // plan has the error
	}
	if err := rs.plan(); err != nil {
		return false, err
	}
	for _, l := range rs.lacks {
		if slices.Contains(w.placed, l.about) && !slices.Contains(w.said, l) {
			w.said = append(w.said, l)
			w.log.Warn("another program has changed what the VIPs of this node need; it is repaired", "what", l.text)
		}
	}
	drifted = len(w.said) > 0
	err = rs.carryOut()
	for _, line := range rs.kept {
		w.log.Info("another owner keeps a VIP that has left the file", "what", line)
	}
	if err != nil {
		return drifted, err
	}
	w.stats.repaired(w.said, time.Now())
	w.said, w.placed = nil, rs.wanted
	return drifted, nil
}

// choose gives a pass its VIPs. While the file cannot be used, the last ones that it listed
// stay, also those that an earlier process has read.
func (w *nodeWatch) choose(rs *realserver) {
	r, refused := w.reading.Get(), false
	if r != nil {
		begins, ends := w.misread.note(r.err)
		refused = begins
		if ends {
			w.log.Info("the file with the VIPs is valid again", "file", rs.file)
		}
		w.stats.read(r.err)
		if r.err == nil {
			w.good = r
		}
	}
	switch {
	case w.good != nil:
		rs.listed = w.good.vips
	default:
		for _, v := range rs.state.Files[rs.owner] {
			rs.listed = including(rs.listed, v.Address)
		}
	}
	if refused {
		w.log.Error("the file with the VIPs is refused; the last VIPs stay in force", "err", report(r.err), "listed", len(rs.listed))
	}
	w.unknown = rs.file != "" && w.good == nil && len(rs.listed) == 0
	rs.vips = including(slices.Clone(rs.named), rs.listed...)
}
