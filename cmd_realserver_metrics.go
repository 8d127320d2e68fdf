// The metrics of realserver -watch, and their listener.
//
// Used by cmd_realserver_watch.go. docs/metrics.md lists them. The listener answers
// /metrics alone, and none of its errors ends the watch.

package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// nodeStats is what is counted of a node. It is safe from any goroutine.
type nodeStats struct {
	mu       sync.Mutex
	started  time.Time
	file     bool // there is a file with VIPs
	fileOK   bool
	prepared bool // by the last pass
	wanted   int  // VIPs
	inPlace  int  // of them
	repairs  [len(lackKinds)]uint64
	repairAt [len(lackKinds)]time.Time // of the last one
}

// began notes the start, and the file with VIPs; "" is none.
func (s *nodeStats) began(file string) {
	s.started, s.file = time.Now(), file != ""
}

// read notes whether the file could be used.
func (s *nodeStats) read(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fileOK = err == nil
}

// passed notes what a pass has left; unknown: no file has said yet which VIPs it should. One
// that failed before it knew its VIPs leaves their numbers as they were.
func (s *nodeStats) passed(rs *realserver, unknown bool, err error) {
	inPlace := len(rs.vips)
	if err != nil && inPlace > 0 {
		inPlace = 0
		have, _ := rs.net.List(rs.device) // what cannot be seen is not in place
		for _, a := range rs.vips {
			if addressIn(have, a) != nil {
				inPlace++
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prepared = err == nil && !unknown; err == nil || len(rs.vips) > 0 {
		s.wanted, s.inPlace = len(rs.vips), inPlace
	}
}

// repaired notes what was repaired.
func (s *nodeStats) repaired(lacks []lack, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range lacks {
		s.repairs[l.kind]++
		s.repairAt[l.kind] = now
	}
}

// write writes the families.
func (s *nodeStats) write(e *exposition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.family("node_prepared", gauge, "1 when the last look at this node has left it prepared for all its VIPs; 0 too while no valid file has named them.")(flag01(s.prepared))
	e.family("node_vips_wanted", gauge, "VIPs that this node should have.")(float64(s.wanted))
	e.family("node_vips_in_place", gauge, "VIPs of those that its device has.")(float64(s.inPlace))
	if s.file {
		e.family("node_vips_file_ok", gauge, "0 while the file with the VIPs cannot be used and the last ones stay in force.")(flag01(s.fileOK))
	}
	repairs := e.family("node_repairs_total", counter, "Changes by another program that were repaired.")
	for kind, name := range lackKinds {
		repairs(float64(s.repairs[kind]), "kind", name)
	}
	last := e.family("node_last_repair_timestamp_seconds", gauge, "When the last of them was repaired.")
	for kind, name := range lackKinds {
		if at := s.repairAt[kind]; !at.IsZero() {
			last(unixSeconds(at), "kind", name)
		}
	}
}

// serve answers /metrics at address. It returns nil when it cannot listen there, else what
// ends it.
func (w *nodeWatch) serve(ctx context.Context, address string) (end func() error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if begins, _ := w.deaf.note(err); begins {
		w.log.Error("cannot listen for requests of the node's metrics; trying again", "err", err)
	}
	if err != nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", limited(func(to http.ResponseWriter, _ *http.Request) {
		to.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		e := &exposition{w: to}
		defer e.flush()
		writeBuild(e)
		w.stats.write(e)
		writeProcess(e, w.stats.started)
	}))
	server := &httpServer{log: w.log}
	return server.answerOn(netutil.LimitListener(ln, maxConnections), mux, func() {})
}
