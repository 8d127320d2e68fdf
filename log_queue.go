// A bounded queue before the log's reader, so that no part of the program waits for it.
//
// Used by http_metrics.go, cmd_realserver_watch.go and main.go. A reader that is slow, or
// does not read at all, costs lines, which are counted, and never time. It knows nothing of what the
// lines say.

package main

import (
	"io"
	"sync"
	"time"
)

// queuedLog is how many bytes of the log wait at most. A pass that programs 50,000
// real servers writes some 10 MB.
const queuedLog = 16 << 20

// logQueue is an io.Writer whose writes do not wait. Each write is one line.
type logQueue struct {
	out    io.Writer
	format string        // of the line about dropped lines
	wake   chan struct{} // rung for a line
	ended  chan struct{} // closed when all is written after close

	mu      sync.Mutex
	lines   [][]byte
	size    int    // bytes of lines
	dropped uint64 // lines that have not been reported yet
	lost    uint64 // lines dropped since the start
	closed  bool
}

// newLogQueue returns a queue in front of out, for lines of a format. It writes until
// close.
func newLogQueue(out io.Writer, format string) *logQueue {
	q := &logQueue{out: out, format: format, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go q.run()
	return q
}

// Write is io.Writer. It never fails. A line that has no room is dropped.
func (q *logQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.size+len(line) > queuedLog {
		q.dropped++
		q.lost++
		return len(line), nil
	}
	q.lines = append(q.lines, append([]byte(nil), line...))
	q.size += len(line)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return len(line), nil
}

// take returns the next line, nil when there is none. A gap is said once there is room
// again, in the place where the lines are missing.
func (q *logQueue) take() (line []byte, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.lines) == 0 {
		q.lines = nil // the room of a burst
		if q.dropped > 0 {
			line = gapLine(q.format, q.dropped)
			q.dropped = 0
		}
		return line, q.closed
	}
	line = q.lines[0]
	q.lines[0] = nil
	q.lines = q.lines[1:]
	q.size -= len(line)
	return line, q.closed
}

// run writes lines until the queue is closed and empty.
func (q *logQueue) run() {
	defer close(q.ended)
	for {
		line, closed := q.take()
		switch {
		case line != nil:
			if _, err := q.out.Write(line); err != nil {
				q.mu.Lock()
				q.lost++ // there is no other place to say it
				q.mu.Unlock()
			}
		case closed:
			return
		default:
			<-q.wake
		}
	}
}

// close lets the queue write what it has for at most patience. Later lines are dropped.
func (q *logQueue) close(patience time.Duration) {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	select {
	case <-q.ended:
	case <-time.After(patience):
	}
}

// Lost is how many lines were dropped.
func (q *logQueue) Lost() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}
