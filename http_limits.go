// What protects the loop from the listener's clients: limits, one reading of the kernel
// and of the host's addresses for all, and which names the status answers to.
//
// Used by main.go. The listener has the process in common with the loop, so no
// number of clients may take its memory or its time.

package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxConnections is how many connections the listener has at most. One more takes
	// the place of the one that has waited longest for a request; while all of them are
	// being answered, it waits in the kernel's queue.
	maxConnections = 64

	// maxAnswers is how many long answers are made at a time, and answerPatience how
	// long one more waits for its start.
	maxAnswers     = 4
	answerPatience = 5 * time.Second

	// maxWaiting is how many wait for the start of such an answer. More are refused at
	// once: each keeps a connection, and /readyz needs one.
	maxWaiting = 8

	// sharedReading is how long one reading of the kernel's table is used.
	sharedReading = time.Second
)

// kernelReading is the newest reading of the kernel's table, for all who ask within
// sharedReading.
type kernelReading struct {
	observe kernelObserver // observeKernel; another one in tests

	mu       sync.Mutex
	known    shards // that it is about
	services []KernelService
	err      error
	at       time.Time // zero: there is none
}

// of returns the services of known with their counters, and when they were read. It reads
// them, or waits for the one who does. They must not be changed.
func (r *kernelReading) of(known shards) ([]KernelService, time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || !same(r.known, known) || time.Since(r.at) >= sharedReading {
		r.services = nil // the room of the last one, before there is another
		var services []KernelService
		r.err = r.observe(func(k ServiceKey) bool { return known.find(k) != nil }, func(s *KernelService) {
			one := *s
			one.Servers = slices.Clone(s.Servers)
			services = append(services, one)
		})
		if r.err != nil {
			services = nil
		}
		r.known, r.services, r.at = known, services, time.Now()
		time.AfterFunc(sharedReading, r.forget)
	}
	return r.services, r.at, r.err
}

// forget gives the memory of a reading back.
func (r *kernelReading) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) >= sharedReading {
		r.known, r.services, r.at = nil, nil, time.Time{}
	}
}

// deviceReading is the newest reading of this host's addresses, for all who ask within
// sharedReading.
type deviceReading struct {
	mu      sync.Mutex
	devices map[netip.Addr]string
	err     error
	at      time.Time // zero: there is none
}

// of returns vipDevices, which must not be changed.
func (r *deviceReading) of() (map[netip.Addr]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || time.Since(r.at) >= sharedReading {
		r.devices, r.err = vipDevices()
		r.at = time.Now()
		time.AfterFunc(sharedReading, r.forget)
	}
	return r.devices, r.err
}

// forget gives the memory of a reading back.
func (r *deviceReading) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) >= sharedReading {
		r.devices, r.err, r.at = nil, nil, time.Time{}
	}
}

// clientList are the connections of the listener that have no request to be answered,
// those that have waited longest first. Slow clients keep no other out.
type clientList struct {
	mu      sync.Mutex
	open    int // all connections
	waiting []net.Conn
}

// join is http.Server.ConnContext: c is new. When no other may follow, the one that has
// waited longest is closed.
func (l *clientList) join(ctx context.Context, c net.Conn) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
	if l.open >= maxConnections && len(l.waiting) > 0 {
		_ = l.waiting[0].Close() // leave follows
		l.waiting = l.waiting[1:]
	}
	l.waiting = append(l.waiting, c)
	return context.WithValue(ctx, clientKey{}, c)
}

// leave is http.Server.ConnState.
func (l *clientList) leave(c net.Conn, state http.ConnState) {
	if state != http.StateClosed {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	l.remove(c)
}

// remove takes c out of those that wait. The caller has locked mu.
func (l *clientList) remove(c net.Conn) {
	l.waiting = slices.DeleteFunc(l.waiting, func(o net.Conn) bool { return o == c })
}

// serving is next for requests of these connections.
func (l *clientList) serving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(clientKey{}).(net.Conn)
		l.mu.Lock()
		l.remove(c)
		l.mu.Unlock()
		next.ServeHTTP(w, r)
		l.mu.Lock()
		l.waiting = append(l.waiting, c)
		l.mu.Unlock()
	})
}

// limited lets maxAnswers requests at a time through to next, and maxWaiting wait.
func limited(next http.HandlerFunc) http.HandlerFunc {
	places, slots := make(chan struct{}, maxAnswers+maxWaiting), make(chan struct{}, maxAnswers)
	refuse := func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests at a time", http.StatusServiceUnavailable)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			refuse(w)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), answerPatience)
		defer cancel()
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next(w, r)
		case <-ctx.Done():
			refuse(w)
		}
	}
}

// named lets requests through to next whose Host header names this host. A page of
// another site that a browser shows has that site's name there, also when its address
// has become this one.
func (s *httpServer) named(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !ownHost(r.Host, s.configs.Get()) {
			http.Error(w, "this listener does not answer to the name in the Host header; listen_names in config.toml adds names", http.StatusMisdirectedRequest)
			return
		}
		next(w, r)
	}
}

// ownHost reports whether a Host header is an address, localhost, this host's name, or
// one that the configuration has.
func ownHost(header string, cfg *Config) bool {
	host := header
	if h, _, err := net.SplitHostPort(header); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if _, err := netip.ParseAddr(host); err == nil || header == "" {
		return true
	}
	names := append([]string{"localhost"}, cfg.ListenNames...)
	if name, err := os.Hostname(); err == nil {
		short, _, _ := strings.Cut(name, ".")
		names = append(names, name, short)
	}
	return slices.ContainsFunc(names, func(name string) bool { return name != "" && strings.EqualFold(name, host) })
}

// warnReachable logs that other hosts can ask the listener.
func warnReachable(log *slog.Logger, listen string) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil || host == "localhost" {
		return
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() {
		return
	}
	log.Warn("other hosts can reach the listener, and read the table, its counters and its warnings", "listen", listen)
}
