// The HTTP listener, and what it and the control socket answer.
//
// Used by cmd_realserver_metrics.go and main.go. It reads what the other tasks publish, and
// the kernel's table through a separate socket. It changes nothing, and none of its errors
// ends the controller.

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
)

// listenRetry is the time between two attempts to open the listener, as while another
// program uses the port.
const listenRetry = 5 * time.Second

// noLimit is a time that no process lives.
const noLimit = math.MaxInt64

// httpServer answers requests about a running controller.
type httpServer struct {
	log      *slog.Logger
	loop     *reconciler
	watch    *clusterWatch
	configs  *latest[Config]
	reloaded <-chan struct{} // receives after configs has changed
	started  time.Time
	prober   *prober
	webhook  *webhook
	uplink   func() error // why the uplink carries no traffic
	// conflicts and absent are nil where they are not looked for.
	conflicts *conflicts
	absent    *absentWatch
	output    *programLog // nil: it is not known
	table     func() connectionTable
	readings

	socket string // where the control socket is; "": nowhere
	debug  bool   // the control socket has the paths for debugging

	once sync.Once
	made []endpoint // by once

	totals totals
	configFile
}

// configFile is what has become of the configuration file since the start.
type configFile struct {
	reloads  atomic.Uint64 // configurations applied after the first
	rejected atomic.Uint64 // configurations refused
	file     atomic.Pointer[configStatus]
	bad      atomic.Bool // the file on disk is refused at present
	good     atomic.Pointer[goodFile]
}

// goodFile is the last content of the configuration file that was valid.
type goodFile struct {
	At  time.Time // when it was read
	Sum digest
}

// hash is the beginning of the sum, as a number that a float64 has room for.
func (g *goodFile) hash() uint64 { return binary.BigEndian.Uint64(g.Sum[:8]) >> (64 - tableHashBits) }

// Run listens where the newest configuration says, until ctx ends.
func (s *httpServer) Run(ctx context.Context) error {
	var failing failureLog
	for ctx.Err() == nil {
		listen, patience := s.configs.Get().Listen, time.Duration(noLimit)
		if listen != "" {
			ln, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
			begins, _ := failing.note(err)
			if err == nil {
				warnReachable(s.log, listen)
				s.serve(ctx, netutil.LimitListener(ln, maxConnections), listen)
				continue
			}
			if begins {
				s.log.Error("cannot listen for HTTP requests; the IPVS table does not depend on it", "err", err)
			}
			patience = listenRetry
		}
		s.untilListenChanges(ctx, listen, patience)
	}
	return nil
}

// serve answers requests until the configuration names another address.
func (s *httpServer) serve(ctx context.Context, ln net.Listener, listen string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := s.answerOn(ln, s.handler(onTCP), cancel) // a listener that ended on an error is opened again
	s.untilListenChanges(ctx, listen, noLimit)
	if err := ended(); !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("the HTTP listener ended and is opened again", "err", err)
	}
}

// answerOn answers the requests that come to ln, and calls failed when that ends. The
// function that it returns ends it, and says what ended it.
func (s *httpServer) answerOn(ln net.Listener, handler http.Handler, failed func()) (end func() error) {
	clients := new(clientList)
	server := &http.Server{
		Handler:           clients.serving(handler),
		ConnContext:       clients.join,
		ConnState:         clients.leave,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
	}
	done := make(chan error, 1)
	go func() {
		done <- server.Serve(ln)
		failed()
	}()
	return func() error {
		server.Close()
		return <-done
	}
}

// untilListenChanges waits until the configuration names another address than listen,
// ctx ends, or atMost has passed.
func (s *httpServer) untilListenChanges(ctx context.Context, listen string, atMost time.Duration) {
	end := time.After(atMost)
	for s.configs.Get().Listen == listen {
		select {
		case <-ctx.Done():
			return
		case <-end:
			return
		case <-s.reloaded:
		}
	}
}

// listeners is a set of listeners.
type listeners uint8

const (
	onTCP    listeners = 1 << iota // the address in listen
	onSocket                       // the control socket
)

// endpoint is a path that is answered.
type endpoint struct {
	pattern string
	on      listeners
	handler http.HandlerFunc
}

// endpoints are all paths. A new one is a line here; byOwner guards what changes something.
func (s *httpServer) endpoints() []endpoint {
	metrics := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		s.writeMetrics(w)
	}
	all := []endpoint{
		{"GET /healthz", onTCP | onSocket, s.answer(s.healthy)},
		{"GET /readyz", onTCP | onSocket, s.answer(s.ready)},
		{"GET /{$}", onTCP, s.named(limited(s.pageHTML))},
		{"GET /page.json", onTCP, s.named(limited(s.pageJSON))},
		{"GET /status.json", onTCP, s.named(limited(s.statusJSON))},
		{"GET /status.json", onSocket, limited(s.statusJSON)},
		{"GET /metrics", onTCP, limited(metrics)},
		{"GET /metrics", onSocket, limited(metrics)},
		{"GET /events", onSocket, s.streamEvents()},
		{"POST /log-level", onSocket, byOwner(s.setLogLevel)},
	}
	if s.debug {
		all = append(all, debugEndpoints()...)
	}
	return all
}

// handler answers the paths of one listener. Those of one kind share the limits, so that
// clients at the address in listen do not keep root at the control socket waiting.
func (s *httpServer) handler(on listeners) http.Handler {
	s.once.Do(func() { s.made = s.endpoints() })
	mux := http.NewServeMux()
	for _, r := range s.made {
		if r.on&on != 0 {
			mux.HandleFunc(r.pattern, r.handler)
		}
	}
	return mux
}

// setLogLevel changes the level of the log to the value of level.
func (s *httpServer) setLogLevel(w http.ResponseWriter, r *http.Request) {
	level, err := parseLogLevel(r.URL.Query().Get("level"))
	if err != nil {
		http.Error(w, "level: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.output.level.change(level, "the control socket")
	fmt.Fprintln(w, "ok")
}

// answer makes a handler of a check: 200, or 503 with one line that says why.
func (s *httpServer) answer(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// healthy fails when the loop makes no more passes: it makes at least one each
// audit_interval.
func (s *httpServer) healthy() error {
	last := s.started
	if at := s.loop.passed.Load(); at != nil {
		last = *at
	}
	if age, most := time.Since(last), 3*s.configs.Get().AuditInterval+30*time.Second; age > most {
		return fmt.Errorf("the reconcile loop has made no pass for %s", age.Round(time.Second))
	}
	return nil
}

// ready succeeds when the table has been read, a real server is in service, the
// director is not drained and the uplink is up. It does not depend on the API server:
// the kernel's table does not either.
func (s *httpServer) ready() error {
	if err := s.loop.published.Load().ready(s.loop.now()); err != nil {
		return err
	}
	return s.uplink()
}
