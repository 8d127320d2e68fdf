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

	"golang.org/x/sys/unix"
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
	placed  []string     // what was in place after the last pass, as lack.about
	said    []lack       // changes by another program that are not repaired yet
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
	log.Info("watching this node", "version", version, "vips", t.addresses, "file", t.file)
	w := &nodeWatch{
		node: t.realserver, open: t.open, log: log.Logger, notify: notify,
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
	w.run(ctx, t.listen, hup)
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
func (w *nodeWatch) run(ctx context.Context, listen string, hup <-chan os.Signal) {
	events, err := kernelEvents(ctx, unix.RTMGRP_LINK|unix.RTMGRP_IPV4_IFADDR|unix.RTMGRP_IPV6_IFADDR)
	if err != nil {
		w.log.Warn("the kernel's events cannot be received: this node is looked at only at an interval", "every", nodeInterval, "err", err)
	}
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
		if err != nil || drifted {
			sleepContext(ctx, w.pause.next())
		} else {
			if regular {
				w.pause.reset()
			}
			sleepContext(ctx, nodePause)
		}
		if err == nil {
			events, regular = w.wait(ctx, events, hup)
		}
	}
	if ended != nil {
		_ = ended() // what it was ended by
	}
}

// wait waits for the next pass. It returns events, or nil when there are no more, and
// whether the pass comes at the interval.
func (w *nodeWatch) wait(ctx context.Context, events <-chan struct{}, hup <-chan os.Signal) (_ <-chan struct{}, regular bool) {
	timer := time.NewTimer(nodeInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		regular = true
	case <-w.reading.Changed():
	case <-hup:
	case _, open := <-events:
		if !open {
			events = nil
		}
	}
	return events, regular
}

// inform tells the service manager what the last pass has come to. It is ready once the
// file has been read, whatever that found: a boot waits no longer.
func (w *nodeWatch) inform(err error) {
	w.notify.beat()
	if w.node.file != "" && w.reading.Get() == nil {
		return
	}
	state := "this node is prepared for its VIPs"
	if err != nil {
		state = "this node cannot be prepared for its VIPs: " + report(err)
	}
	w.notify.passed(nil, state)
}

// pass looks at the node and makes what it lacks. It reports whether another program had
// changed what was in place.
func (w *nodeWatch) pass() (drifted bool, err error) {
	rs := w.node
	if rs.net, err = w.open(); err != nil {
		w.stats.passed(&rs, err)
		return false, err
	}
	defer rs.net.Close()
	drifted, err = w.repair(&rs)
	w.stats.passed(&rs, err)
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
	if err := rs.carryOut(); err != nil {
		return drifted, err
	}
	w.stats.repaired(w.said, time.Now())
	w.said, w.placed = nil, rs.wanted
	return drifted, nil
}

// choose gives a pass its VIPs. While the file cannot be used, the last ones that it listed
// stay, also those that an earlier process has read.
func (w *nodeWatch) choose(rs *realserver) {
	if r := w.reading.Get(); r != nil {
		begins, ends := w.misread.note(r.err)
		if begins {
			w.log.Error("the file with the VIPs is refused; the last VIPs stay in force", "err", report(r.err))
		}
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
		for _, v := range rs.state.Files[rs.file] {
			rs.listed = including(rs.listed, v.Address)
		}
	}
	rs.vips = including(slices.Clone(rs.named), rs.listed...)
}
