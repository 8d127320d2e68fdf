// The mass-removal guard: an answer without most of the pods that served a moment
// ago needs a second answer that confirms it.
//
// Used by kube.go, kube_watch.go and kube_file.go. Wrong labels, an API server
// restored from an old backup, or a file that is being written look like a true
// answer. Only such an answer waits, for pace.confirm.

package main

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// removalGuard is the guard of one stream. All but share belongs to the goroutine
// that follows the stream.
type removalGuard struct {
	share     atomic.Uint32 // of ClusterQuery.Guards
	published []*Pod        // last
	since     time.Time     // start of a pace.guardWindow, in which removals add up
	served    int           // the most pods that served at a time since then
	gone      int           // pods that served and have vanished since then
	doubting  bool          // the next answer may confirm
	doubted   []*Pod        // what it has to confirm
}

// guardedPods is what key asks for, if the guard is for its answers.
func guardedPods(key streamKey) (q PodQuery, guarded bool) {
	q, guarded = key.streamQuery.(PodQuery)
	return q, guarded
}

// exceeded reports whether so many are more than may vanish at once.
func (g *removalGuard) exceeded(gone, served int) bool {
	share := int(g.share.Load())
	return share > 0 && gone > 1 && 100*gone > share*served
}

// lacksMore reports whether pods are too few to confirm the answer in doubt: too
// many of its pods are missing again, or all.
func (g *removalGuard) lacksMore(pods []*Pod) bool {
	gone, served := vanished(g.doubted, pods)
	return gone > 0 && (gone == served || g.exceeded(gone, served))
}

// checkRemoval is called before pods are published. It returns an error when
// another answer has to confirm them first: one that lacks no more pods.
func (s *stream) checkRemoval(pods []*Pod) error {
	g := &s.guard
	gone, served := vanished(g.published, pods)
	if now := s.owner.now(); now.Sub(g.since) > s.owner.pace.guardWindow {
		g.since, g.served, g.gone = now, 0, 0
	}
	g.served = max(g.served, served)
	gone += g.gone
	log := func() *slog.Logger { return s.owner.log.With("stream", s.key.String(), "gone", gone, "of", g.served) }
	many := g.exceeded(gone, g.served)
	if many && (!g.doubting || g.lacksMore(pods)) {
		g.doubting, g.doubted = true, pods
		log().Warn("most of the pods that served are missing at once; a second answer must confirm that before they are removed")
		return fmt.Errorf("%d of %d pods that served have vanished within %s", gone, g.served, s.owner.pace.guardWindow)
	}
	switch {
	case many:
		log().Warn("most of the pods that served are removed; a second answer confirms it")
		g.served, gone = 0, 0
	case g.doubting:
		log().Info("most of the pods that served are not missing any more")
	}
	g.doubting, g.doubted, g.gone, g.published = false, nil, gone, pods
	return nil
}

// vanished counts the pods that served before, and those of them that are missing
// now. A pod that terminates or is not ready any more is not missing: that is how
// pods leave. Both are in comparePods order.
func vanished(before, now []*Pod) (gone, served int) {
	for was, is := range merged(before, now, comparePodRefs) {
		if was == nil || !(*was).serves() {
			continue
		}
		served++
		if is == nil {
			gone++
		}
	}
	return gone, served
}

// podsLike are the pods that the first of clusters which knows any has for q, or
// for a query that selects the same pods and asks other things of them: an edit
// of such a thing confirms no removal.
func podsLike(q PodQuery, clusters ...*Cluster) []*Pod {
	for _, c := range clusters {
		if pods, known := c.Pods[q]; known {
			return pods
		}
		for other, pods := range c.Pods {
			if other.Namespace == q.Namespace && other.Selector == q.Selector {
				return pods
			}
		}
	}
	return nil
}
