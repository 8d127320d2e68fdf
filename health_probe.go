// The prober: asks real servers whether they serve, with or without an API server,
// and publishes the results.
//
// Used by http.go and main.go. It runs beside the reconcile loop. A ProbePlan
// comes in and a Health goes out, as newest values. One goroutine drives all
// connections with epoll, so a target costs one file descriptor while it is
// asked, and no goroutine. Only TLS needs a goroutine for an exchange. The
// rules are in health.go, the times in health_schedule.go.
//
// The prober changes nothing in the kernel, and no error ends it. A fault of the
// director itself does not count against a real server.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// publishGap is the least time between two Healths, so that a node with a
	// thousand ports that dies is one piece of news, or a few.
	publishGap = 20 * time.Millisecond
	// maxTLS bounds the goroutines for TLS exchanges. As in the schedule, those
	// whose server was silent last time share half of it.
	maxTLS = 64
	// proberRetry is how long the prober rests when it cannot run at all.
	proberRetry = 5 * time.Second
	// repeatFault is when the same fault of the director's own is told again.
	repeatFault = time.Hour
)

// prober keeps one Health current. Use newProber.
type prober struct {
	log   *slog.Logger
	plans *latest[ProbePlan]
	out   *latest[Health]

	// Seams for tests.
	now   func() time.Time
	spawn func(func()) // runs something beside the prober

	plan     *ProbePlan
	schedule *schedule
	poll     *poller
	path     *dataPath
	flights  map[int]*target // by file descriptor
	ended    chan tlsEnd     // room for each TLS exchange
	running  int             // TLS exchanges
	waiting  []*target       // connected, until a TLS exchange may begin
	beside   sync.WaitGroup  // what spawn runs

	news      bool // a verdict or the plan has changed since the last publish
	published time.Time
	health    *Health
	failing   map[HealthKey]string // as last logged
	open      []FailOpen           // as last logged
	told      map[string]time.Time // faults of the director's own

	mu    sync.Mutex
	stats ProbeStats
}

// newProber returns a prober that follows plans, whose wake channel it alone
// reads, and publishes to out. If out holds a Health already (that of an earlier
// run), whoever is down in it has to rise again.
func newProber(log *slog.Logger, plans *latest[ProbePlan], out *latest[Health]) *prober {
	p := &prober{
		log:      log,
		plans:    plans,
		out:      out,
		now:      time.Now,
		health:   &Health{Down: out.Get().down()},
		schedule: newSchedule(rand.Float64, out.Get().down()),
		ended:    make(chan tlsEnd, maxTLS),
		told:     make(map[string]time.Time),
	}
	p.spawn = func(f func()) { go f() }
	p.stats = newProbeStats()
	return p
}

// Run asks until ctx ends, and then returns nil.
func (p *prober) Run(ctx context.Context) error {
	for {
		err := p.run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		p.log.Error("probes: cannot ask anybody; what is known stays, trying again", "err", err)
		sleepContext(ctx, proberRetry)
	}
}

// run is Run until something fails that everything depends on.
func (p *prober) run(ctx context.Context) (err error) {
	if p.poll, err = newPoller(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	p.plan, p.flights = nil, make(map[int]*target)
	p.path = newDataPath(p)
	p.beside.Add(1)
	go p.relay(ctx)
	defer func() {
		stop()
		p.beside.Wait() // they use the poller
		p.abandon()
		p.path.close()
		p.poll.close()
	}()
	for ctx.Err() == nil {
		now := p.now()
		if plan := p.plans.Get(); plan != nil && plan != p.plan {
			p.replan(ctx, plan, now)
		}
		begin, overdue := p.schedule.due(now)
		for _, t := range overdue {
			p.finish(t, p.overdue(t))
		}
		for _, t := range begin {
			p.begin(t)
		}
		p.path.resume()
		p.startTLS(ctx)
		p.publish(now)
		p.countTargets()
		if err := p.poll.wait(p.patience(), func(fd int, events uint32) { p.ready(fd, events) }); err != nil {
			return err
		}
		p.collectTLS()
	}
	return nil
}

// relay wakes the poller for a new plan and for the end of ctx.
func (p *prober) relay(ctx context.Context) {
	defer p.beside.Done()
	for {
		select {
		case <-p.plans.Changed():
			p.poll.wake()
		case <-ctx.Done():
			p.poll.wake()
			return
		}
	}
}

// replan follows a new plan.
func (p *prober) replan(ctx context.Context, plan *ProbePlan, now time.Time) {
	for _, t := range p.schedule.replan(plan, now) {
		p.drop(t)
	}
	p.plan, p.news = plan, true
	p.path.replan(ctx, plan)
}

// abandon ends all flights without a result.
func (p *prober) abandon() {
	for _, t := range p.schedule.targets {
		if t.inFlight {
			p.finish(t, outcome{result: noResult})
		}
	}
	p.waiting, p.running = nil, 0
	for len(p.ended) > 0 {
		<-p.ended
	}
}

// patience is how long there is nothing to do: negative for ever.
func (p *prober) patience() time.Duration {
	now := p.now()
	next := p.schedule.next(now)
	if due := p.published.Add(publishGap); p.news && (next.IsZero() || due.Before(next)) {
		next = due
	}
	if next.IsZero() {
		return -1
	}
	return max(0, next.Sub(now))
}

// overdue is the outcome of a probe whose time is over.
func (p *prober) overdue(t *target) outcome {
	switch t.flight.step {
	case stepWaitTLS:
		return outcome{result: noResult, why: "too many TLS exchanges at a time"}
	case stepResolve:
		return p.path.unresolved(t)
	case stepAnswer:
		return pathFails(t, true, "no answer in "+t.vip.probes.Timeout.String()+" (is the VIP on its lo?)")
	}
	return t.fails(fmt.Errorf("no answer in %s", t.vip.probes.Timeout), true)
}

// fails is the outcome of a probe that failed with err.
func (t *target) fails(err error, silent bool) outcome {
	o := outcome{result: failed, silent: silent, why: err.Error()}
	switch t.kind {
	case probeHTTP:
		o.why = fmt.Sprintf("GET %s: %v", t.vip.probes.HTTP.url(t.to), err)
	case probeTCP:
		o.why = fmt.Sprintf("connect to %s: %v", t.to, err)
	}
	return o
}

// begin starts one probe.
func (p *prober) begin(t *target) {
	t.flight = &flight{fd: -1}
	if t.kind == probeDataPath {
		p.path.begin(t)
		return
	}
	if err := p.connect(t); err != nil {
		p.refused(t, err)
	}
}

// connect opens a connection without waiting for it. It will be closed with a
// RST: a director that asks ten thousand times a second must not be left with
// as many ports in TIME_WAIT.
func (p *prober) connect(t *target) error {
	fd, err := unix.Socket(familyNumber(t.to.Addr().Is6()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ownFault{err}
	}
	t.flight.fd = fd
	p.flights[fd] = t
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return ownFault{err}
	}
	if err := unix.Connect(fd, socketAddress(t.to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	if err := p.poll.add(fd, unix.EPOLLOUT); err != nil {
		return ownFault{err}
	}
	return nil
}

// ownFault is an error that says nothing about the real server.
type ownFault struct{ error }

func (f ownFault) Unwrap() error { return f.error }

// ownErrnos are what connect returns when the director has no route, no room
// or no permission, be it of its own firewall.
var ownErrnos = []unix.Errno{
	unix.EACCES, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EAGAIN, unix.EINVAL, unix.EMFILE, unix.ENETDOWN,
	unix.ENETUNREACH, unix.ENFILE, unix.ENOBUFS, unix.ENODEV, unix.ENOMEM, unix.EPERM,
}

// refused ends a probe whose connection failed with err.
func (p *prober) refused(t *target, err error) {
	var errno unix.Errno
	if _, own := errors.AsType[ownFault](err); own || errors.As(err, &errno) && slices.Contains(ownErrnos, errno) {
		p.finish(t, outcome{result: noResult, why: err.Error()})
		return
	}
	// No answer to ARP, and none to a repeated SYN: nobody is there.
	silent := errno == unix.EHOSTUNREACH || errno == unix.EHOSTDOWN || errno == unix.ETIMEDOUT
	p.finish(t, t.fails(err, silent))
}

// ready goes on with what waited for fd.
func (p *prober) ready(fd int, events uint32) {
	t := p.flights[fd]
	if t == nil {
		p.path.ready(fd)
		return
	}
	switch t.flight.step {
	case stepConnect:
		p.connected(t)
	case stepSend:
		p.send(t)
	case stepRead:
		p.read(t)
	}
}

// connected goes on with a connection that has been made, or has failed.
func (p *prober) connected(t *target) {
	f := t.flight
	errno, err := unix.GetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		p.refused(t, ownFault{err})
	case errno != 0:
		p.refused(t, unix.Errno(errno))
	case t.kind != probeHTTP:
		p.finish(t, outcome{result: passed})
	case t.vip.probes.HTTP.TLS:
		f.step = stepWaitTLS
		p.waiting = append(p.waiting, t)
		p.poll.remove(f.fd)
	default:
		f.rest = httpRequest(t.vip.probes.HTTP, t.to)
		f.step = stepSend
		p.send(t)
	}
}

// send writes what is left of the request.
func (p *prober) send(t *target) {
	f := t.flight
	n, err := unix.Write(f.fd, f.rest)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return
	case err != nil:
		p.refused(t, err)
		return
	}
	if f.rest = f.rest[n:]; len(f.rest) > 0 {
		return
	}
	f.step = stepRead
	if err := p.poll.change(f.fd, unix.EPOLLIN); err != nil {
		p.refused(t, ownFault{err})
	}
}

// read reads some of the answer.
func (p *prober) read(t *target) {
	f, h := t.flight, t.vip.probes.HTTP
	var chunk [2048]byte
	n, err := unix.Read(f.fd, chunk[:min(len(chunk), maxAnswer-len(f.answer))])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return
	case err != nil:
		p.refused(t, err)
		return
	case n == 0:
		p.finish(t, t.fails(errClosed, false))
		return
	}
	f.answer = append(f.answer, chunk[:n]...)
	status, err := parseStatus(f.answer)
	switch {
	case err != nil:
		p.finish(t, t.fails(err, false))
	case status != 0:
		p.finish(t, h.judge(status, t.to))
	}
}

// tlsEnd is how a TLS exchange has ended.
type tlsEnd struct {
	target *target
	flight *flight // tells a probe that was given up meanwhile
	outcome
}

// startTLS begins as many TLS exchanges as may run at a time. The time that
// they had to wait is not held against the real servers.
func (p *prober) startTLS(ctx context.Context) {
	var left []*target
	for _, t := range p.waiting {
		f := t.flight
		if f == nil || f.step != stepWaitTLS {
			continue // its time was over
		}
		if p.running >= maxTLS || t.wasSilent && p.running >= maxTLS/2 {
			left = append(left, t)
			continue
		}
		deadline := p.now().Add(t.vip.probes.Timeout)
		p.schedule.prolong(t, deadline.Add(publishGap)) // the exchange itself is to say what was wrong
		file := os.NewFile(uintptr(f.fd), t.to.String())
		delete(p.flights, f.fd)
		conn, err := net.FileConn(file)
		file.Close()
		f.fd, f.step = -1, stepTLS
		if err != nil {
			p.refused(t, ownFault{err})
			continue
		}
		p.running++
		p.beside.Add(1)
		go func(h HTTPProbe, to netip.AddrPort, timeout time.Duration) {
			defer p.beside.Done()
			status, err := exchangeTLS(ctx, conn, &h, to, deadline)
			end := tlsEnd{t, f, h.judge(status, to)}
			if err != nil {
				silent := errors.Is(err, os.ErrDeadlineExceeded)
				var errno unix.Errno
				switch {
				case silent:
					err = fmt.Errorf("no answer in %s", timeout)
				case errors.Is(err, io.EOF):
					err = errClosed
				case errors.As(err, &errno): // without the port, which is another each time
					err = errno
				}
				end.outcome = outcome{failed, fmt.Sprintf("GET %s: %v", h.url(to), err), silent}
			}
			p.ended <- end
			p.poll.wake()
		}(*t.vip.probes.HTTP, t.to, t.vip.probes.Timeout)
	}
	p.waiting = left
}

// collectTLS takes the results of TLS exchanges.
func (p *prober) collectTLS() {
	for {
		select {
		case end := <-p.ended:
			p.running--
			if end.target.flight == end.flight {
				p.finish(end.target, end.outcome)
			}
		default:
			return
		}
	}
}

// drop forgets a probe in flight.
func (p *prober) drop(t *target) {
	f := t.flight
	if f == nil {
		return
	}
	t.flight = nil
	if f.fd >= 0 {
		delete(p.flights, f.fd)
		unix.Close(f.fd)
	}
	p.path.forget(f)
}

// finish ends a probe.
func (p *prober) finish(t *target, o outcome) {
	p.drop(t)
	if p.schedule.finish(t, o, p.now()) {
		p.news = true
	}
	p.count(t.kind, o.result)
	if o.result == noResult && o.why != "" {
		p.fault(t, o.why)
	}
}

// fault tells of something that keeps the director from asking: once, as it
// will be the same for every target and every turn.
func (p *prober) fault(t *target, why string) {
	now, key := p.now(), t.kind.String()+" "+why
	if last, told := p.told[key]; told && now.Sub(last) < repeatFault {
		return
	}
	if len(p.told) > 100 {
		clear(p.told)
	}
	p.told[key] = now
	p.log.Warn("probe: the director cannot ask; the real server stays in service", "vip", t.vip.name, "server", t.server, "probe", t.kind, "err", why)
}
