// GET /events on the control socket: a stream of events, one JSON object a line.
//
// Used by http.go. A client gets what happens from its request on, or after the event
// that it names, until it leaves. All clients read the same record; one that is too slow
// misses events, which a line says. The loop never waits for a client.

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

const (
	// maxStreams is how many clients follow events at a time.
	maxStreams = 8
	// streamBatch is how many events are sent before a client's connection is flushed.
	streamBatch = 100
	// streamPatience is how long a client may take to receive them.
	streamPatience = time.Minute
)

// streamEvents makes the handler of /events.
func (s *httpServer) streamEvents() http.HandlerFunc {
	places := make(chan struct{}, maxStreams)
	return func(w http.ResponseWriter, r *http.Request) {
		events := s.loop.events
		at := events.newest()
		if text := r.FormValue("after"); text != "" {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				http.Error(w, fmt.Sprintf("after=%q, want the number of an event", shorten(text, quotedText)), http.StatusBadRequest)
				return
			}
			at = n
		}
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			http.Error(w, fmt.Sprintf("%d clients follow the events already", maxStreams), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		sendEvents(w, r, events, at, streamPatience)
	}
}

// sendEvents sends the events after number at until the client leaves, or takes longer
// than patience to receive some.
func sendEvents(w http.ResponseWriter, r *http.Request, events *eventRecord, at uint64, patience time.Duration) {
	control, lines := http.NewResponseController(w), json.NewEncoder(w)
	_ = control.SetReadDeadline(time.Time{}) // a client that waits sends nothing
	for {
		batch, lost, next, more := events.after(at, streamBatch)
		at = next
		_ = control.SetWriteDeadline(time.Now().Add(patience))
		if lost > 0 {
			batch = append([]Event{{Time: time.Now(), Kind: eventLost, Lost: lost}}, batch...)
		}
		for i := range batch {
			if lines.Encode(&batch[i]) != nil {
				return // the client has left
			}
		}
		if control.Flush() != nil {
			return
		}
		if more == nil {
			continue
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}
