// A bare watch of pods, that tells when each event came in. Called by tests that
// measure delays or check what the API server really sent. It never connects
// again and never hides an event, bookmarks and errors included.

package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// watchBuffer keeps a slow reader from spoiling the times of reception.
const watchBuffer = 1024

// WatchEvent is one event of a watch.
type WatchEvent struct {
	Received time.Time
	Type     string       // ADDED, MODIFIED, DELETED, BOOKMARK or ERROR
	Pod      Pod          // empty for ERROR
	Status   *StatusError // of ERROR only, for example 410 Gone
	// Err, on the last event, says why the stream ended other than by a
	// regular close: it was cut, or not what it should be. Type is empty.
	Err error
}

// WatchPods watches the pods of a namespace, those a label selector matches if
// that is not empty. With an empty resourceVersion it begins with an ADDED event
// for every pod there is; with one it begins after that version. It returns when
// the watch stands. The channel is closed when the stream ends or the context
// does.
func (c *Client) WatchPods(ctx context.Context, ns, selector, resourceVersion string) (<-chan WatchEvent, error) {
	query := url.Values{
		"watch":               {"true"},
		"allowWatchBookmarks": {"true"},
		"labelSelector":       {selector},
		"resourceVersion":     {resourceVersion},
	}
	resp, err := c.open(ctx, http.MethodGet, collection("pods", ns)+"?"+query.Encode(), "", nil)
	if err != nil {
		return nil, err
	}
	events := make(chan WatchEvent, watchBuffer)
	go func() {
		defer close(events)
		defer resp.Body.Close()
		// One event a line. The longest, a pod with its managed fields, is
		// a few kilobytes, so the scanner's limit of 64 is plenty.
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if !send(ctx, events, decodeEvent(lines.Bytes(), time.Now())) {
				return
			}
		}
		if err := lines.Err(); err != nil && ctx.Err() == nil {
			send(ctx, events, WatchEvent{Received: time.Now(), Err: fmt.Errorf("watch: %w", err)})
		}
	}()
	return events, nil
}

// send passes an event on, and reports whether that happened before the
// context ended.
func send(ctx context.Context, events chan<- WatchEvent, e WatchEvent) bool {
	select {
	case events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// decodeEvent decodes one line of a watch.
func decodeEvent(line []byte, received time.Time) WatchEvent {
	var raw struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	event := WatchEvent{Received: received}
	if err := json.Unmarshal(line, &raw); err != nil {
		event.Err = fmt.Errorf("watch event: %w", err)
		return event
	}
	event.Type = raw.Type
	var object any = &event.Pod
	if raw.Type == "ERROR" {
		event.Status = new(StatusError)
		object = event.Status
	}
	if err := json.Unmarshal(raw.Object, object); err != nil {
		event.Err = fmt.Errorf("object of a watch event: %w", err)
	}
	return event
}
