// Profiles and traces of the running process, for its developers.
//
// Used by http.go. The paths are on the control socket alone, and only with the flag
// -debug: a profile takes time of the process, and shows what it does. They add 0.30 MB
// to the program; the package net/http/pprof, which does the same, would add 0.53 MB.

package main

import (
	"fmt"
	"io"
	"net/http"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"time"
)

const (
	defaultProfile = 10 * time.Second
	longestProfile = time.Minute
)

// debugEndpoints are the paths that `go tool pprof` and `go tool trace` ask for.
func debugEndpoints() []endpoint {
	return []endpoint{
		{"GET /debug/pprof/{name}", onSocket, limited(serveProfile)},
		{"GET /debug/pprof/profile", onSocket, recording("a CPU profile", pprof.StartCPUProfile, pprof.StopCPUProfile)},
		{"GET /debug/pprof/trace", onSocket, recording("a trace", trace.Start, trace.Stop)},
	}
}

// serveProfile answers with one of the profiles that the process always has: heap,
// goroutine, allocs, block, mutex, threadcreate. With debug=1 or 2 it is text.
func serveProfile(w http.ResponseWriter, r *http.Request) {
	p := pprof.Lookup(r.PathValue("name"))
	if p == nil {
		http.NotFound(w, r)
		return
	}
	form, _ := strconv.Atoi(r.FormValue("debug")) // 0, the form of the tool, for what is no number
	_ = p.WriteTo(w, form)                        // fails when the client has left
}

// recording answers with what start records until stop, for so many seconds as the
// request says.
func recording(what string, start func(io.Writer) error, stop func()) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		length := defaultProfile
		if text := r.FormValue("seconds"); text != "" {
			n, err := strconv.ParseUint(text, 10, 16)
			if length = time.Duration(n) * time.Second; err != nil || length == 0 || length > longestProfile {
				http.Error(w, fmt.Sprintf("seconds=%q, want 1 to %d", shorten(text, quotedText), longestProfile/time.Second), http.StatusBadRequest)
				return
			}
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(length + answerPatience)) // a unix socket has one
		w.Header().Set("Content-Type", "application/octet-stream")
		if err := start(w); err != nil {
			http.Error(w, what+" cannot begin: "+err.Error(), http.StatusConflict)
			return
		}
		defer stop()
		sleepContext(r.Context(), length)
	}
}
