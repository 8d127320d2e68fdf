// The HTTP listener: /healthz, /readyz, /metrics and /status.json.
//
// Used by cmd*.go and main.go. It reads what the other tasks publish and reads the
// kernel's table through a separate socket. It changes nothing, and none of its
// errors ends the controller.

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
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
	uplink   func() error // why the uplink carries no traffic
	// conflicts is nil where they are not looked for.
	conflicts *conflicts
	lostLines func() uint64 // lines of the log that were dropped; nil: none are
	reading   kernelReading
	table     func() connectionTable

	reloads  atomic.Uint64 // configurations applied after the first
	rejected atomic.Uint64 // configurations refused
	bad      atomic.Bool   // the file on disk is refused at present
}

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
	clients := new(clientList)
	server := &http.Server{
		Handler:           clients.serving(s.handler()),
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
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		done <- server.Serve(ln)
		cancel() // a listener that ended on an error is opened again
	}()
	s.untilListenChanges(ctx, listen, noLimit)
	server.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("the HTTP listener ended and is opened again", "err", err)
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

func (s *httpServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.answer(s.healthy))
	mux.HandleFunc("GET /readyz", s.answer(s.ready))
	mux.HandleFunc("GET /status.json", s.named(limited(s.statusJSON)))
	mux.HandleFunc("GET /metrics", limited(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		s.writeMetrics(w)
	}))
	return mux
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

// status is what /status.json and `status -o json` give.
type status struct {
	Ready     bool         `json:"ready"`
	Reason    string       `json:"reason,omitempty"`      // why not ready
	Since     time.Time    `json:"since,omitzero"`        // of the process
	Drained   time.Time    `json:"drained,omitzero"`      // by the operator, since
	TableHash uint64       `json:"table_hash,omitempty"`  // of the wanted table, the same on both directors of a pair
	Announced []netip.Addr `json:"announced,omitempty"`   // VIP addresses that the controller has put on a device
	Kept      []string     `json:"kept,omitempty"`        // sets whose last working real servers stay in service
	FailOpen  []string     `json:"fail_open,omitempty"`   // sets of real servers that all fail their probes, and so stay in service
	Down      []string     `json:"probed_down,omitempty"` // real servers, or their ports, that fail their probes or answer no ARP, also after they have drained and are removed
	// Conflicts are the other hosts that claim a VIP which this director has.
	Conflicts []Conflict      `json:"conflicts,omitempty"`
	Warnings  []string        `json:"warnings,omitempty"`
	Cluster   []StreamState   `json:"cluster,omitempty"`
	Table     connectionTable `json:"connection_table,omitzero"`
	Services  []serviceStatus `json:"services"`
}

type serviceStatus struct {
	Service   ServiceKey     `json:"service"`
	VIP       string         `json:"vip,omitempty"`
	Scheduler string         `json:"scheduler"`
	Traffic   Traffic        `json:"traffic"`
	Servers   []serverStatus `json:"servers"`
}

type serverStatus struct {
	Address     netip.Addr  `json:"address"`
	Port        uint16      `json:"port,omitempty"` // if it is not the port of the service
	Weight      uint32      `json:"weight"`
	Why         string      `json:"why,omitempty"`
	Connections Connections `json:"connections"`
	Traffic     Traffic     `json:"traffic"`
}

// head is the status without its services, which streamServices writes.
func (s *httpServer) head(v *loopState) status {
	st := status{Since: s.started, Cluster: s.watch.States(), Conflicts: s.conflicts.seen().Active, Table: s.table(), Services: []serviceStatus{}}
	if err := s.ready(); err != nil {
		st.Reason = err.Error()
	}
	st.Ready = st.Reason == ""
	if v == nil {
		return st
	}
	st.Drained, st.Announced, st.TableHash = v.Drained, v.Announced, v.TableHash
	for _, set := range v.Kept {
		st.Kept = append(st.Kept, set.VIP+" "+familyName(set.Is6))
	}
	for _, o := range v.Health.orEmpty().Open {
		st.FailOpen = append(st.FailOpen, o.String())
	}
	st.Down = v.Health.lines()
	st.Warnings = v.Warnings
	return st
}

// observeKernel reads services and their counters through a separate socket.
func observeKernel(owned func(ServiceKey) bool, visit func(*KernelService)) error {
	c, err := dialIPVS()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Observe(owned, visit)
}

// newServiceStatus is the state of a service of vip in the kernel, with the reasons of
// its desired rows.
func newServiceStatus(k *KernelService, vip string, rows []Row) serviceStatus {
	s := serviceStatus{Service: k.ServiceKey, VIP: vip, Scheduler: k.Scheduler, Traffic: k.Traffic, Servers: make([]serverStatus, 0, len(k.Servers))}
	for _, r := range k.Servers {
		one := serverStatus{Address: r.Address, Port: r.Port, Weight: r.Weight, Connections: r.Connections, Traffic: r.Traffic}
		if i := slices.IndexFunc(rows, sameAs(r.RealServer)); i >= 0 {
			one.Why = rows[i].Why
		}
		s.Servers = append(s.Servers, one)
	}
	return s
}

// statusJSON joins the reasons of the loop's snapshot with the kernel's counters. The
// services are written one by one: the whole answer is never in memory.
func (s *httpServer) statusJSON(w http.ResponseWriter, _ *http.Request) {
	v := s.loop.published.Load()
	st := s.head(v)
	var services []KernelService
	if v != nil {
		var err error
		if services, err = s.reading.of(v.Shards); errors.Is(err, errNoIPVS) { // also before the loop has noticed
			st.Ready, st.Reason = false, err.Error()
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := writeStatus(w, &st, services, v); err != nil {
		s.log.Debug("an answer to /status.json could not be sent completely", "err", err)
	}
}

// writeStatus writes st with services, whose desired state is in v.
func writeStatus(w io.Writer, st *status, services []KernelService, v *loopState) error {
	head, err := json.Marshal(st)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	head = bytes.TrimSuffix(head, []byte("]}")) // "services" is the last field, and empty
	if _, err := out.Write(head); err != nil {
		return err
	}
	for i := range services {
		known := v.Shards.find(services[i].ServiceKey)
		one, err := json.Marshal(newServiceStatus(&services[i], known.VIP, known.Servers))
		if err != nil {
			return err
		}
		if i > 0 {
			one = append([]byte(",\n"), one...)
		}
		if _, err := out.Write(one); err != nil {
			return err
		}
	}
	if _, err := out.WriteString("]}\n"); err != nil {
		return err
	}
	return out.Flush()
}
