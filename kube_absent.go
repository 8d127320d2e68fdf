// What a stream does when the API server does not have the API of its kind.
//
// Used by kube_watch.go. The Gateway API is no part of Kubernetes: its CRDs
// may be absent, too old, or installed later. The last known state stays in force, and the
// API server is asked again. A kind without which a cluster is complete has no objects
// then.

package main

import (
	"fmt"
	"net/http"
)

// addedAPI is a streamQuery of a kind that is no part of Kubernetes.
type addedAPI interface {
	// install says what to do when the API is missing. optional means that a cluster
	// without it has none of the objects, which is an answer.
	install() (what string, optional bool)
}

// absence is the fault of an API server without the API of key; nil when the answer
// means something else.
func absence(key streamKey, code int, message string) *fault {
	added, is := key.streamQuery.(addedAPI)
	if !is || code != http.StatusNotFound {
		return nil
	}
	what, _ := added.install()
	return &fault{topic: faultTopic{kind: faultAbsent}, relist: true,
		err: fmt.Errorf("the API server has no %s of %s: %s (server: %s)", key.kind().resource, key.kind().apiVersion(), what, message)}
}

// hasNone publishes that there are no objects of an optional kind, if problem is that its
// API is missing. It reports false when the kind is not optional, or when objects of it are
// known that serve: then problem is a failure.
func (f *serverFollower) hasNone(problem *fault) bool {
	added, is := f.key.streamQuery.(addedAPI)
	if !is || problem.topic.kind != faultAbsent {
		return false
	}
	none := f.key.collect()
	none.complete()
	if _, optional := added.install(); !optional || none.missing(f.guard.published).served > 0 {
		return false
	}
	f.guard.doubted, f.guard.published = nil, clusterOf(none)
	f.content = none
	f.owner.publish(f.stream, none, true)
	if f.timeToLog(problem.topic) {
		f.owner.log.Info("the cluster does not have an optional API, and none of its objects", "stream", f.key.String(), "why", report(problem))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current, f.announced, f.state.LastError, f.state.Lasting = false, false, "", false
	return true
}

// hasAPI notes that the API of the stream is there. The log names it when it is missing
// later.
func (s *stream) hasAPI() {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.logged, faultTopic{kind: faultAbsent})
}
