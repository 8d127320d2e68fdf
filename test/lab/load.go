package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// RequestLimit is how long one request of a Load may take.
const RequestLimit = 3 * time.Second

func soon() time.Time { return time.Now().Add(RequestLimit) }

func tick() <-chan time.Time { return time.After(200 * time.Millisecond) }

// Load is a steady stream of HTTP requests, each over a connection of its own.
type Load struct {
	stop chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex
	report Report
}

// Report counts what a Load saw.
type Report struct {
	Requests int
	Answers  map[string]int // by what the answer said
	Failures map[string]int // by kind: refused, reset, timeout, wrong, other
	Faults   []Fault        // each failure, in the order of their ends
	Slowest  time.Duration
}

// Fault is one request that failed.
type Fault struct {
	Kind  string
	Began time.Time
	Took  time.Duration
	Text  string // the error, which says whether a connection was made
}

// Failed is the number of requests without a right answer.
func (r Report) Failed() int {
	n := 0
	for _, c := range r.Failures {
		n += c
	}
	return n
}

func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests, %d failed, slowest %s", r.Requests, r.Failed(), r.Slowest.Round(time.Millisecond))
	for _, counts := range []map[string]int{r.Failures, r.Answers} {
		for _, k := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&b, ", %s %d", k, counts[k])
		}
	}
	return b.String()
}

// StartLoad sends requests to addr from as many workers, each pausing between
// two requests, until Stop.
func (h *Host) StartLoad(addr netip.AddrPort, workers int, pause time.Duration) *Load {
	l := &Load{stop: make(chan struct{})}
	l.report.Answers = make(map[string]int)
	l.report.Failures = make(map[string]int)
	for range workers {
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			h.Do(func() { l.work(addr, pause) })
		}()
	}
	return l
}

// work is one worker. It runs inside the client's namespace.
func (l *Load) work(addr netip.AddrPort, pause time.Duration) {
	for {
		select {
		case <-l.stop:
			return
		case <-time.After(pause):
		}
		start := time.Now()
		answer, err := request(addr)
		took := time.Since(start)
		l.mu.Lock()
		l.report.Requests++
		l.report.Slowest = max(l.report.Slowest, took)
		if err != nil {
			l.report.Failures[kind(err)]++
			l.report.Faults = append(l.report.Faults, Fault{kind(err), start, took, err.Error()})
		} else {
			l.report.Answers[answer]++
		}
		l.mu.Unlock()
	}
}

// Reach waits up to ten seconds until there have been so many requests: a machine that
// stands still may have left the load no processor.
func (l *Load) Reach(requests int) {
	for end := time.Now().Add(10 * time.Second); l.Report().Requests < requests && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
}

// Ask sends one such request from the host and returns the answer's one line.
func (h *Host) Ask(addr netip.AddrPort) (answer string, err error) {
	h.Do(func() { answer, err = request(addr) })
	return answer, err
}

// Knock sends one such request and waits no longer than limit for its answer.
func (h *Host) Knock(addr netip.AddrPort, limit time.Duration) (answered bool) {
	h.Do(func() {
		_, err := requestWithin(addr, limit)
		answered = err == nil
	})
	return answered
}

var errWrongAnswer = errors.New("wrong answer")

// request asks once and returns the answer's one line.
func request(addr netip.AddrPort) (string, error) { return requestWithin(addr, RequestLimit) }

// requestWithin waits no longer than limit for the connection, and again for the
// answer.
func requestWithin(addr netip.AddrPort, limit time.Duration) (string, error) {
	conn, err := net.DialTimeout("tcp", addr.String(), limit)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	all, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil {
		return "", err
	}
	head, body, found := strings.Cut(string(all), "\r\n\r\n")
	if !found || !strings.Contains(head, " 200 ") {
		return "", errWrongAnswer
	}
	return strings.TrimSpace(body), nil
}

func kind(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout" // of an exchange, and of a dial
	case errors.Is(err, errWrongAnswer):
		return "wrong"
	}
	return "other: " + err.Error()
}

// Stop ends the stream and waits for the last answers.
func (l *Load) Stop() Report {
	close(l.stop)
	l.done.Wait()
	return l.Report()
}

// Report is what has been seen so far.
func (l *Load) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	r.Answers, r.Failures, r.Faults = maps.Clone(r.Answers), maps.Clone(r.Failures), slices.Clone(r.Faults)
	return r
}

// Stream is one long answer that a client goes on reading.
type Stream struct {
	conn net.Conn
	mu   sync.Mutex
	from string
	n    int
	err  error
}

// OpenStream asks addr for an answer that does not end by itself.
func (h *Host) OpenStream(addr netip.AddrPort) *Stream {
	s := &Stream{}
	h.Do(func() { s.conn, s.err = net.DialTimeout("tcp", addr.String(), RequestLimit) })
	if s.err != nil {
		return s
	}
	if _, s.err = io.WriteString(s.conn, "GET /slow HTTP/1.0\r\n\r\n"); s.err != nil {
		return s
	}
	go func() {
		lines := bufio.NewScanner(s.conn)
		body := false
		for lines.Scan() {
			s.mu.Lock()
			if body {
				s.from = lines.Text()
				s.n++
			}
			body = body || lines.Text() == ""
			s.mu.Unlock()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err = lines.Err(); s.err == nil {
			s.err = io.EOF
		}
	}()
	return s
}

// State tells who answers the stream, how many lines have come, and why it
// ended, if it did.
func (s *Stream) State() (from string, lines int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from, s.n, s.err
}

// From is the client's end, address and port; "" if it was never connected.
func (s *Stream) From() string {
	if s.conn == nil {
		return ""
	}
	return s.conn.LocalAddr().String()
}

// Close ends the stream from the client's side.
func (s *Stream) Close() {
	if s.conn != nil {
		s.conn.Close()
	}
}
