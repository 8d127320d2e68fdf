// The cluster watch: which streams run, the state of each, and the Cluster that
// they fill together.
//
// Used by config_vip.go, http*.go, cmd_status.go and main.go. A clusterWatch
// runs beside the reconcile loop and publishes the newest Cluster. A stream is
// one pod query or one ConfigMap, followed at an API server (kube_watch.go) or
// in a file (kube_file.go). An incomplete answer is never published, and what
// is known stays while a source is away. No error ends the watch. Only the
// kube*.go files import k8s.io packages.

package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
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
		return "", fmt.Errorf("label selector %q: %w", s, err)
	}
	// Keys and values hold no "=", so this is the one operator with two names.
	return strings.ReplaceAll(parsed.String(), "==", "="), nil
}

// pace is every waiting time of the watch, in one place so that a test can be
// quick.
type pace struct {
	firstRetry   time.Duration // ceiling of the first wait after a failure
	retryAway    time.Duration // ceiling while nobody answers
	retryDenied  time.Duration // ceiling while the answer is no: 401, 403
	retryOther   time.Duration // ceiling for answers that make no sense
	retryAfter   time.Duration // longest wait a server may ask for
	healthy      time.Duration // a watch this old was a success: the next retry is quick again
	answer       time.Duration // for one page of a list, and for a watch's headers
	list         time.Duration // for all pages of a list: etcd forgets its version after 5 minutes
	silence      time.Duration // a watch that has said nothing for so long is not trusted
	watchFor     time.Duration // shortest life asked of a watch; the longest is twice that
	overdue      time.Duration // how long past its life a watch is left to close by itself
	filePatience time.Duration // a file must look the same for so long before it is read
	filePoll     time.Duration // look at the file even if nothing was notified
	repeatLog    time.Duration // the same failure is logged again after this
	brakeWindow  time.Duration // removals within so long count as one
	confirm      time.Duration // wait for the answer that confirms a mass removal
}

// defaultPace is what a director runs with. An API server that comes back is
// noticed within retryAway, two seconds on average. API servers send a bookmark
// a minute, so silence is twice that.
var defaultPace = pace{
	firstRetry:   250 * time.Millisecond,
	retryAway:    4 * time.Second,
	retryDenied:  15 * time.Second,
	retryOther:   15 * time.Second,
	retryAfter:   2 * time.Minute,
	healthy:      5 * time.Second,
	answer:       30 * time.Second,
	list:         10 * time.Minute,
	silence:      2 * time.Minute,
	watchFor:     5 * time.Minute,
	overdue:      30 * time.Second,
	filePatience: 200 * time.Millisecond,
	filePoll:     10 * time.Second,
	repeatLog:    time.Minute,
	brakeWindow:  10 * time.Second,
	confirm:      2 * time.Second,
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
	// earlier is what a run before this one knew last. It is not published: until
	// all pods are known anew it tells the brakes who served.
	earlier Cluster
}

// clusterSource is where the streams take their answers from.
type clusterSource struct {
	kubeconfig  string
	clusterFile string
}

// newClusterWatch returns a watch that publishes to out. If out holds a
// snapshot already (the last good one of an earlier run), that is what is known
// until complete answers replace it, query by query.
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
// that a new query still wants, from the same source, go on undisturbed.
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

// serve makes the running streams those of q.
func (w *clusterWatch) serve(ctx context.Context, q ClusterQuery) {
	w.mu.Lock()
	defer w.mu.Unlock()

	wanted := map[streamKey]bool{}
	for _, p := range q.Pods {
		wanted[streamKey{pods: p}] = true
	}
	for _, name := range q.ConfigMaps {
		wanted[streamKey{configMap: name}] = true
	}
	source := clusterSource{q.Kubeconfig, q.ClusterFile}

	// A file is read once for all its streams: they start and stop together.
	restart := source != w.source || source.clusterFile != "" && !maps.Equal(wanted, w.wanted)
	for key, s := range w.streams {
		if restart || !wanted[key] {
			s.stop()
			delete(w.streams, key)
		}
	}
	if restart || w.api == nil {
		w.api = &apiServer{kubeconfig: source.kubeconfig, userAgent: "lvs-controller/" + version}
	}
	w.source, w.wanted = source, wanted
	before := w.snapshot
	w.forget()

	var fresh []*stream
	for key := range wanted {
		if w.streams[key] == nil {
			s := &stream{key: key, owner: w, told: map[faultTopic]time.Time{}}
			s.state = StreamState{Name: key.String(), Since: w.now()}
			s.brake.published = podsLike(key.pods, before, w.earlier)
			w.streams[key] = s
			fresh = append(fresh, s)
		}
	}
	for key, s := range w.streams {
		s.brake.share.Store(uint32(q.Brakes[key.pods]))
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
// caller holds mu.
func (w *clusterWatch) forget() {
	next := Cluster{Pods: maps.Clone(w.snapshot.Pods), ConfigMaps: maps.Clone(w.snapshot.ConfigMaps)}
	maps.DeleteFunc(next.Pods, func(q PodQuery, _ []*Pod) bool { return !w.wanted[streamKey{pods: q}] })
	maps.DeleteFunc(next.ConfigMaps, func(n ConfigMapName, _ ConfigMap) bool { return !w.wanted[streamKey{configMap: n}] })
	if len(next.Pods) == len(w.snapshot.Pods) && len(next.ConfigMaps) == len(w.snapshot.ConfigMaps) {
		return
	}
	w.snapshot = next
	w.set(&next)
}

// publish puts c, a complete answer, into the snapshot as what is known of s.
// Nothing is published when it was known already, or when s was dropped while
// its answer was on the way.
func (w *clusterWatch) publish(s *stream, c content) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.streams[s.key] != s {
		return
	}
	isPods := s.key.configMap == ConfigMapName{}
	var known content
	var ok bool
	if isPods {
		known.pods, ok = w.snapshot.Pods[s.key.pods]
	} else {
		known.configMap, ok = w.snapshot.ConfigMaps[s.key.configMap]
	}
	changed := !ok || !known.equal(c)
	s.counted(c, changed)
	if !changed {
		return
	}
	// The maps are small, one entry a stream, and readers hold on to the old.
	next := Cluster{Pods: map[PodQuery][]*Pod{}, ConfigMaps: map[ConfigMapName]ConfigMap{}}
	maps.Copy(next.Pods, w.snapshot.Pods)
	maps.Copy(next.ConfigMaps, w.snapshot.ConfigMaps)
	if isPods {
		if next.Pods[s.key.pods] = c.pods; w.allPodsIn(next) {
			w.earlier = Cluster{}
		}
	} else {
		next.ConfigMaps[s.key.configMap] = c.configMap
	}
	w.snapshot = next
	w.set(&next)
}

// allPodsIn reports whether c knows of all pods that are wanted.
func (w *clusterWatch) allPodsIn(c Cluster) bool {
	for key := range w.wanted {
		if _, known := c.Pods[key.pods]; !known && key.configMap == (ConfigMapName{}) {
			return false
		}
	}
	return true
}

// States says, for people, how each stream fares, in the order of their names.
// It is safe from any goroutine.
func (w *clusterWatch) States() []StreamState {
	w.mu.Lock()
	defer w.mu.Unlock()
	states := make([]StreamState, 0, len(w.streams))
	for _, s := range w.streams {
		s.mu.Lock()
		states = append(states, s.state)
		s.mu.Unlock()
	}
	slices.SortFunc(states, func(a, b StreamState) int { return cmp.Compare(a.Name, b.Name) })
	return states
}

// StreamState is how one stream fares. It is current when Synced is set and
// LastError is empty.
type StreamState struct {
	Name      string    `json:"name"`                // "pods ingress-nginx app=web" or "configmap ingress-nginx/tcp-services"
	Synced    bool      `json:"synced"`              // the present source has given a complete answer, which stands
	Since     time.Time `json:"since"`               // since when the stream has been current, or has not
	LastError string    `json:"lastError,omitempty"` // what is wrong now
	Changed   time.Time `json:"changed,omitzero"`    // when the stream last changed the snapshot
	Objects   int       `json:"objects"`             // in the newest answer
	Events    uint64    `json:"events"`              // objects the watch has told of, without bookmarks
	Lists     uint64    `json:"lists"`               // complete answers taken: the first, and each relist
}

// stream is one key's part of the watch. Only the goroutine that follows it
// changes it; States reads along.
type stream struct {
	key   streamKey
	owner *clusterWatch
	stop  context.CancelFunc
	brake brake

	mu         sync.Mutex
	state      StreamState
	current    bool                     // the state is good and its changes arrive
	introduced bool                     // has been current before
	told       map[faultTopic]time.Time // when a failure of each topic was last logged
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
		log.Info("the cluster is followed again", "away", now.Sub(s.state.Since).Round(time.Millisecond))
	case !s.introduced:
		log.Info("the cluster is followed")
	}
	s.current, s.introduced, s.announced = true, true, false
	s.state.Since, s.state.LastError = now, ""
}

// fails notes that the stream is not current, and why.
func (s *stream) fails(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current {
		s.current, s.state.Since = false, s.owner.now()
	}
	s.state.LastError = report(err)
}

// complains logs f, unless one of its topic was logged a short while ago: an API
// server that is away is one line a minute, however often it is tried.
func (s *stream) complains(f *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.owner.now()
	if last, ok := s.told[f.topic]; ok && now.Sub(last) < s.owner.pace.repeatLog {
		return
	}
	s.told[f.topic] = now
	s.announced = true
	s.owner.log.Log(context.Background(), f.level(), "the cluster is not followed; what is known stays",
		"stream", s.state.Name, "err", report(f))
}

// counted notes a complete answer, and whether it changed the snapshot.
func (s *stream) counted(c content, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Objects = len(c.pods)
	if c.configMap.Exists {
		s.state.Objects = 1
	}
	if changed {
		s.state.Changed = s.owner.now()
	}
}

// listed counts a complete answer.
func (s *stream) listed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Synced = true
	s.state.Lists++
}

// reported counts one object that a watch has told of.
func (s *stream) reported() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Events++
}

// faultKind is what kind of failure it is, which decides how long to wait.
type faultKind int

const (
	faultAway   faultKind = iota // nobody answers, or not to the end
	faultConfig                  // the kubeconfig cannot be used
	faultDenied                  // 401 and 403: the answer is no
	faultOther                   // an answer that makes no sense
	faultStale                   // nothing is wrong, but only a list can tell what is true now
)

// faultTopic tells failures apart for the log. Their texts will not do: many
// hold a port number that changes with every attempt.
type faultTopic struct {
	kind faultKind
	verb string // "list" or "watch", when the server refused it
	code int    // HTTP status, when the server answered
}

// fault is why a stream is not current.
type fault struct {
	topic      faultTopic
	relist     bool          // the watch cannot go on from where it was
	retryAfter time.Duration // as the server wished; 0 = it did not say
	err        error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// level is how loudly to log it. What passes by itself is a warning.
func (f *fault) level() slog.Level {
	if f.topic.kind == faultAway {
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
		// Another kind is news, and often better news: a server that
		// refuses is at least there.
		b.kind, b.failures = problem.topic.kind, min(b.failures, 2)
	}
	b.first, b.most = b.pace.firstRetry, b.pace.retryOther
	switch b.kind {
	case faultAway, faultConfig:
		b.most = b.pace.retryAway
	case faultDenied:
		b.most = b.pace.retryDenied
	}
	return min(problem.retryAfter, b.pace.retryAfter) + jittered(b.backoff.next(), b.random())
}
