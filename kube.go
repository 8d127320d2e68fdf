// The cluster watch: which streams run, the state of each, and the Cluster that they fill
// together.
//
// Used by config_presets.go, reconcile_notify.go, http*.go, cmd*.go and main*.go. A
// clusterWatch runs beside the reconcile loop and publishes the newest Cluster. A stream
// follows one key of one kind (kube_kinds.go), at an API server (kube_watch.go) or in a
// file (kube_file.go). An incomplete answer is never published, and the last known state
// stays in force while a source cannot be read. No error ends the watch. Only the kube*.go
// files import k8s.io packages.

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
)

// canonicalSelector checks a label selector and returns the one spelling that
// all its equals share, so that equal selectors share a stream.
func canonicalSelector(s string) (string, error) {
	parsed, err := labels.Parse(s)
	if err != nil {
		// The library quotes the whole text, of which each byte can become four.
		return "", fmt.Errorf("label selector %q: %s", shorten(s, quotedText), shorten(err.Error(), 2*quotedText))
	}
	// Keys and values have no "=", so this is the one operator with two names.
	return strings.ReplaceAll(parsed.String(), "==", "="), nil
}

// pace has every waiting time of the watch, so that a test can shorten them.
type pace struct {
	firstRetry  time.Duration // longest first wait after a failure
	retryAway   time.Duration // longest wait while the server does not answer
	retryDenied time.Duration // longest wait while the answer is 401 or 403
	retryOther  time.Duration // longest wait after answers that make no sense
	retryAbsent time.Duration // longest wait while the server does not have the API of a kind
	retryAfter  time.Duration // longest wait a server may ask for
	healthy     time.Duration // a watch that lasted so long was a success: the next retry is quick again
	answer      time.Duration // for one page of a list, and for a watch's headers
	list        time.Duration // for all pages of a list: etcd forgets its version after 5 minutes
	sample      time.Duration // shortest time between two questions which pods there are while a selector matches none
	silence     time.Duration // a watch without an event or bookmark for so long is not trusted
	watchFor    time.Duration // shortest time asked of a watch; the longest is twice that
	overdue     time.Duration // how long after that time the server may take to end it
	fileQuiet   time.Duration // a file must be unchanged for so long before it is read
	filePoll    time.Duration // look at the file although no change was notified
	repeatLog   time.Duration // the same failure is logged again after so long
	guardWindow time.Duration // removals within so long count as one
	confirm     time.Duration // wait for a server's answer that confirms a mass removal
	fileConfirm time.Duration // a file that stays the same for so long confirms one
}

// defaultPace is what a director runs with. An API server that comes back is
// noticed within retryAway, two seconds on average. API servers send a bookmark
// each minute; silence is twice that.
var defaultPace = pace{
	firstRetry:  250 * time.Millisecond,
	retryAway:   4 * time.Second,
	retryDenied: 15 * time.Second,
	retryOther:  15 * time.Second,
	retryAbsent: 30 * time.Second,
	retryAfter:  2 * time.Minute,
	healthy:     5 * time.Second,
	answer:      30 * time.Second,
	list:        10 * time.Minute,
	sample:      time.Minute,
	silence:     2 * time.Minute,
	watchFor:    5 * time.Minute,
	overdue:     30 * time.Second,
	fileQuiet:   200 * time.Millisecond,
	filePoll:    10 * time.Second,
	repeatLog:   time.Minute,
	guardWindow: 10 * time.Second,
	confirm:     2 * time.Second,
	fileConfirm: time.Minute,
}

// clusterWatch keeps one Cluster snapshot current.
type clusterWatch struct {
	log *slog.Logger
	out *latest[Cluster]

	// Seams for tests.
	set    func(*Cluster) // out.Set
	pace   pace
	now    func() time.Time
	random func() float64 // [0,1)
	sleep  func(ctx context.Context, d time.Duration)

	running sync.WaitGroup

	mu       sync.Mutex
	source   clusterSource
	api      *apiServer // of the source; unused when that is a file
	wanted   map[streamKey]bool
	streams  map[streamKey]*stream // one per wanted key
	snapshot Cluster               // newest published; immutable
	// earlier is what a run before this one knew last. It is not published. Until
	// all is known again the mass-removal guards take from it what served.
	earlier Cluster
}

// clusterSource is where the streams take their answers from.
type clusterSource struct {
	kubeconfig  string
	clusterFile string
	programs    bool
}

// newClusterWatch returns a watch that publishes to out. If out has a
// snapshot already (the last good one of an earlier run), that is what is known
// until complete answers replace it, key by key.
func newClusterWatch(log *slog.Logger, out *latest[Cluster], earlier Cluster) *clusterWatch {
	return &clusterWatch{
		log:     log,
		out:     out,
		set:     out.Set,
		pace:    defaultPace,
		now:     time.Now,
		random:  rand.Float64,
		sleep:   sleepContext,
		streams: map[streamKey]*stream{},
		earlier: earlier,
	}
}

// Run serves the newest query until ctx ends, and then returns nil once every
// stream has stopped. It is the only reader of queries' wake channel. Streams
// that a new query still wants, from the same source, continue.
func (w *clusterWatch) Run(ctx context.Context, queries *latest[ClusterQuery]) error {
	defer w.running.Wait()
	if seed := w.out.Get(); seed != nil {
		w.snapshot = *seed
	}
	for {
		if q := queries.Get(); q != nil {
			w.serve(ctx, *q)
		}
		select {
		case <-queries.Changed():
		case <-ctx.Done():
			return nil
		}
	}
}

// serve starts and stops streams until they are those of q.
func (w *clusterWatch) serve(ctx context.Context, q ClusterQuery) {
	w.mu.Lock()
	defer w.mu.Unlock()

	wanted := addAll(make(map[streamKey]bool), allKeys(&q))
	source := clusterSource{q.Kubeconfig, q.ClusterFile, q.Programs}

	// A file is read once for all its streams: they start and stop together.
	restart := source != w.source || source.clusterFile != "" && !maps.Equal(wanted, w.wanted)
	for key, s := range w.streams {
		if restart || !wanted[key] {
			s.stop()
			delete(w.streams, key)
		}
	}
	if restart || w.api == nil {
		w.api = &apiServer{kubeconfig: source.kubeconfig, programs: source.programs, userAgent: "lvs-controller/" + version}
	}
	w.api.warnAgain(w.log)
	w.source, w.wanted = source, wanted
	before := w.snapshot
	w.forget()

	var fresh []*stream
	for key := range wanted {
		if w.streams[key] == nil {
			s := &stream{key: key, owner: w, logged: map[faultTopic]time.Time{}}
			s.state = StreamState{Name: key.String(), Since: w.now()}
			s.guard.published = newCluster()
			if !key.copyServed(s.guard.published, &before) {
				key.copyServed(s.guard.published, &w.earlier)
			}
			w.streams[key] = s
			fresh = append(fresh, s)
		}
	}
	for key, s := range w.streams {
		s.guard.share.Store(uint32(q.Guards[key.streamQuery]))
	}
	switch {
	case len(fresh) == 0:
	case source.clusterFile != "":
		w.start(ctx, fresh, func(ctx context.Context) { w.followFile(ctx, source.clusterFile, fresh) })
	default:
		api := w.api
		for _, s := range fresh {
			w.start(ctx, []*stream{s}, func(ctx context.Context) { w.followServer(ctx, api, s) })
		}
	}
}

// start runs follow, which keeps streams current until any of them is stopped.
func (w *clusterWatch) start(ctx context.Context, streams []*stream, follow func(context.Context)) {
	ctx, stop := context.WithCancel(ctx)
	for _, s := range streams {
		s.stop = stop
	}
	w.running.Go(func() {
		defer stop()
		follow(ctx)
	})
}

// forget publishes a snapshot without the keys that are no longer wanted. The
// caller has locked mu.
func (w *clusterWatch) forget() {
	next := w.wantedOf(&w.snapshot)
	if next.answers() == w.snapshot.answers() {
		return
	}
	w.snapshot = *next
	w.set(next)
}

// wantedOf returns a copy of what c knows of the wanted keys.
func (w *clusterWatch) wantedOf(c *Cluster) *Cluster {
	next := newCluster()
	for key := range w.wanted {
		key.copyKnown(next, c)
	}
	return next
}

// publish puts c, a complete answer, into the snapshot as what is known of s. list
// is set when it came as a list, and not by an event.
// Nothing is published when it was known already, or when s was dropped before
// its answer arrived.
func (w *clusterWatch) publish(s *stream, c collection, list bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.streams[s.key] != s {
		return
	}
	if l, recalls := c.(interface{ recall(before *Cluster) }); recalls && list {
		before := newCluster()
		_ = s.key.copyKnown(before, &w.snapshot) || s.key.copyKnown(before, &w.earlier)
		l.recall(before)
	}
	changed := !c.storedIn(&w.snapshot)
	s.counted(c, changed, list)
	if !changed {
		return
	}
	// The maps are small, one entry for each stream, and readers keep the old ones.
	next := w.wantedOf(&w.snapshot)
	c.store(next)
	if next.answers() == len(w.wanted) {
		w.earlier = Cluster{}
	}
	w.snapshot = *next
	w.set(next)
}

// States returns the state of each stream, in the order of their names. It is safe
// from any goroutine.
func (w *clusterWatch) States() []StreamState {
	w.mu.Lock()
	defer w.mu.Unlock()
	states := make([]StreamState, 0, len(w.streams))
	for _, s := range w.streams {
		s.mu.Lock()
		states = append(states, s.state)
		s.mu.Unlock()
	}
	// slices.SortFunc would add 20 KB to the program for a few streams.
	sort.Slice(states, func(i, j int) bool { return states[i].Name < states[j].Name })
	return states
}

// readableSource reads the cluster file that q names, or the kubeconfig and the files
// that it names. It asks no API server.
func readableSource(q *ClusterQuery) error {
	if q.ClusterFile != "" {
		_, err := readClusterFile(q.ClusterFile, allKeys(q))
		return err
	}
	c, err := (&apiServer{kubeconfig: q.Kubeconfig, programs: q.Programs}).read()
	if err == nil && c.tokenFile != "" {
		_, err = readCredential(c.tokenFile)
	}
	return err
}

// StreamState is the state of one stream, for people. It is current when Synced is
// set and LastError is empty.
type StreamState struct {
	Name      string    `json:"name"`                // "pods ingress-nginx app=web" or "configmap ingress-nginx/tcp-services"
	Synced    bool      `json:"synced"`              // the present source has given a complete answer, which is in force
	Since     time.Time `json:"since"`               // since when the stream has been current, or has not
	LastError string    `json:"lastError,omitempty"` // what is wrong now
	Heard     time.Time `json:"heard,omitzero"`      // when the source last answered: a list, an event or a bookmark, a file that was read
	Changed   time.Time `json:"changed,omitzero"`    // when the stream last changed the snapshot
	Objects   int       `json:"objects"`             // in the newest answer
	Events    uint64    `json:"events"`              // events of the watch, without bookmarks
	Lists     uint64    `json:"lists"`               // complete answers taken: the first, and each relist
	Lasting   bool      `json:"-"`                   // LastError is a fault that no waiting mends
}

// current reports whether what is known of the stream is what its source has.
func (s *StreamState) current() bool { return s.Synced && s.LastError == "" }

// stream follows one key. Only the goroutine that runs it changes it; States reads
// it meanwhile.
type stream struct {
	key   streamKey
	owner *clusterWatch
	stop  context.CancelFunc
	guard removalGuard

	mu         sync.Mutex
	state      StreamState
	current    bool                     // the state is good and its changes arrive
	introduced bool                     // it has been current before
	logged     map[faultTopic]time.Time // when a failure of each topic was last logged
	announced  bool                     // the present failure has been logged, so its end will be
}

// follows notes that the stream is current from now on.
func (s *stream) follows() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current {
		return
	}
	now := s.owner.now()
	log := s.owner.log.With("stream", s.state.Name, "objects", s.state.Objects)
	switch {
	case s.announced:
		log.Info("the stream follows the cluster again", "away", now.Sub(s.state.Since).Round(time.Millisecond))
	case !s.introduced:
		log.Info("the stream follows the cluster")
	}
	s.current, s.introduced, s.announced = true, true, false
	s.state.Since, s.state.LastError, s.state.Lasting = now, "", false
}

// fails notes that the stream is not current, and why.
func (s *stream) fails(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current {
		s.current, s.state.Since = false, s.owner.now()
	}
	s.state.LastError, s.state.Lasting = report(err), lasting(err)
}

// lasting reports whether err stays until a person mends its cause: a file, the
// kubeconfig, rights, a certificate, or what answers in place of the API server.
func lasting(err error) bool {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var plain tls.RecordHeaderError // the server speaks no TLS
	f, ok := errors.AsType[*fault](err)
	return !ok || f.topic.kind != faultAway && f.topic.kind != faultStale || errors.Is(err, errToken) ||
		errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &plain)
}

// reports logs f, unless a failure of its topic was logged a short time ago: an API
// server that is away is one line a minute, however often it is tried.
func (s *stream) reports(f *fault) {
	if !s.timeToLog(f.topic) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced = true
	s.owner.log.Log(context.Background(), f.level(), "cannot follow the cluster; the last known state stays in force",
		"stream", s.state.Name, "err", report(f))
}

// timeToLog reports whether no failure of topic was logged a short time ago, and notes
// that one is logged now. A missing API is logged once.
func (s *stream) timeToLog(topic faultTopic) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.owner.now()
	if last, ok := s.logged[topic]; ok && (topic.kind == faultAbsent || now.Sub(last) < s.owner.pace.repeatLog) {
		return false
	}
	s.logged[topic] = now
	return true
}

// counted notes what is known now, whether it changed the snapshot, and whether it
// came as a list.
func (s *stream) counted(c collection, changed, list bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Objects = c.len()
	if list {
		s.state.Heard = s.owner.now()
		s.state.Synced = true
		s.state.Lists++
	}
	if changed {
		s.state.Changed = s.owner.now()
	}
}

// event notes one event of a watch. Bookmarks are not counted.
func (s *stream) event(bookmark bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Heard = s.owner.now()
	if !bookmark {
		s.state.Events++
	}
}

// faultKind is what kind of failure it is, which decides how long to wait.
type faultKind int

const (
	faultAway   faultKind = iota // no answer, or not to the end
	faultConfig                  // the kubeconfig cannot be used
	faultDenied                  // 401 and 403
	faultOther                   // an answer that makes no sense
	faultStale                   // nothing is wrong, but only a list shows the present state
	faultAbsent                  // the server does not have the API of the kind
)

// faultTopic distinguishes failures for the log. Their texts do not: many have a
// port number that changes with every attempt.
type faultTopic struct {
	kind faultKind
	verb string // "list" or "watch", when the server refused it
	code int    // HTTP status, when the server answered
}

// fault is why a stream is not current.
type fault struct {
	topic      faultTopic
	relist     bool          // the watch cannot continue at its resource version
	retryAfter time.Duration // that the server asked for; 0 = none
	err        error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// level is the log level of f. A failure that passes by itself is a warning.
func (f *fault) level() slog.Level {
	if !lasting(f) {
		return slog.LevelWarn
	}
	return slog.LevelError
}

// streamBackoff decides how long a stream waits after each failure.
type streamBackoff struct {
	backoff
	pace   *pace
	random func() float64
	kind   faultKind // of the last failure
}

// reset forgets all failures.
func (b *streamBackoff) reset() { b.kind, b.failures = faultAway, 0 }

// next returns the wait after problem.
func (b *streamBackoff) next(problem *fault) time.Duration {
	if b.kind != problem.topic.kind {
		// Another kind is often progress: a server that refuses is up.
		b.kind, b.failures = problem.topic.kind, min(b.failures, 2)
	}
	b.first, b.most = b.pace.firstRetry, b.pace.retryOther
	switch b.kind {
	case faultAway, faultConfig:
		b.most = b.pace.retryAway
	case faultDenied:
		b.most = b.pace.retryDenied
	case faultAbsent:
		b.most = b.pace.retryAbsent
	}
	return min(problem.retryAfter, b.pace.retryAfter) + jittered(b.backoff.next(), b.random())
}
