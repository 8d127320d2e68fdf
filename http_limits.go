// What protects the loop from the listener's clients: limits, one reading of the kernel
// and of the host's addresses for all, and which names the status answers to.
//
// Used by cmd_realserver_metrics.go and main.go. The listener has the process in common with
// the loop, so no number of clients may take its memory or its time.

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
)

// shared is the newest reading of something, for all who ask while it is used. It is safe
// from any goroutine.
type shared[T any] struct {
	mu        sync.Mutex
	value     T
	err       error
	at, until time.Time // when it was read, and how long it is used; zero: there is none
}

// of returns the reading, which must not be changed, when it was made and how long it is
// used. It reads, or waits for the one who does, when there is none or fits, unless nil,
// refuses it. last is how long a reading is used that took so long.
func (s *shared[T]) of(fits func(T) bool, read func() (T, error), last func(took time.Duration) time.Duration) (value T, at, until time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.at.IsZero() || !now.Before(s.until) || fits != nil && !fits(s.value) {
		s.value = value // the room of the last one, before there is another
		if value, err = read(); err == nil {
			s.value = value
		}
		s.err, s.at, s.until = err, now, now.Add(last(time.Since(now)))
		time.AfterFunc(time.Until(s.until), s.forget)
	}
	return s.value, s.at, s.until, s.err
}

// forget gives the memory of a reading back that is not used any more.
func (s *shared[T]) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !time.Now().Before(s.until) {
		var none T
		s.value, s.err, s.at = none, nil, time.Time{}
	}
}

// readings are those that requests share.
type readings struct {
	observe kernelObserver // observeKernel; another one in tests
	kernel  shared[kernelReading]
	devices shared[map[netip.Addr]string]
	page    shared[*pageTable]
}

// kernelObserver is observeKernel.
type kernelObserver func(owned func(ServiceKey) bool, visit func(*KernelService)) error

// kernelReading are the services of known with their counters, for the status and the
// metrics.
type kernelReading struct {
	known    shards
	services []KernelService
}

// ofKernel is the shared reading of the kernel's table for known.
func (r *readings) ofKernel(known shards) ([]KernelService, time.Time, error) {
	got, at, _, err := r.kernel.of(
		func(k kernelReading) bool { return same(k.known, known) },
		func() (kernelReading, error) {
			k := kernelReading{known: known}
			err := r.observe(func(key ServiceKey) bool { return known.find(key) != nil }, func(s *KernelService) {
				one := *s
				one.Servers = slices.Clone(s.Servers)
				k.services = append(k.services, one)
			})
			return k, err
		}, aSecond)
	return got.services, at, err
}

// ofDevices is the shared reading of vipDevices.
func (r *readings) ofDevices() (map[netip.Addr]string, error) {
	devices, _, _, err := r.devices.of(nil, vipDevices, aSecond)
	return devices, err
}

// aSecond is how long most readings are used.
func aSecond(time.Duration) time.Duration { return time.Second }

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

// limited lets maxAnswers requests at a time through to next, and maxWaiting wait. One copy of
// it does for all endpoints.
//
//go:noinline
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
