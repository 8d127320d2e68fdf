// The mass-removal guard: an answer without most of the pods that served a moment
// ago needs a second answer that confirms it.
//
// Used by kube*.go. Wrong labels, an API server restored from an old backup, or
// a file that is being written look like a true answer. Only such an answer
// waits, for a few moments.

package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// brake is what one stream of pods remembers for it. All but share belongs to
// the goroutine that follows the stream.
type brake struct {
	share     atomic.Uint32 // of ClusterQuery.Brakes
	published []*Pod        // last
	since     time.Time     // a time of pace.brakeWindow, in which removals add up
	served    int           // the most pods that served at a time since it began
	gone      int           // pods that served and have vanished since then
	doubting  bool          // the next answer may confirm
	doubted   []*Pod        // what it has to confirm
}

// exceeded reports whether so many are more than may vanish at once.
func (b *brake) exceeded(gone, served int) bool {
	share := int(b.share.Load())
	return share > 0 && gone > 1 && 100*gone > share*served
}

// lacksMore reports whether pods are too few to confirm the answer in doubt: too
// many of that one's are missing again, or all.
func (b *brake) lacksMore(pods []*Pod) bool {
	gone, served := vanished(b.doubted, pods)
	return gone > 0 && (gone == served || b.exceeded(gone, served))
}

// checkRemoval notes that c is about to be published. It returns an error when
// that has to be confirmed by another answer first: one that lacks no more.
func (s *stream) checkRemoval(c content) error {
	b := &s.brake
	gone, served := vanished(b.published, c.pods)
	if now := s.owner.now(); now.Sub(b.since) > s.owner.pace.brakeWindow {
		b.since, b.served, b.gone = now, 0, 0
	}
	b.served = max(b.served, served)
	gone += b.gone
	log := func(level slog.Level, message string) {
		s.owner.log.Log(context.Background(), level, message, "stream", s.key.String(), "gone", gone, "of", b.served)
	}
	many := b.exceeded(gone, b.served)
	if many && (!b.doubting || b.lacksMore(c.pods)) {
		b.doubting, b.doubted = true, c.pods
		log(slog.LevelWarn, "most of the pods that served are gone all at once; asking again before it is believed")
		return fmt.Errorf("%d of %d pods that served have vanished within %s", gone, b.served, s.owner.pace.brakeWindow)
	}
	switch {
	case many:
		log(slog.LevelWarn, "most of the pods that served are gone; the second answer says so too")
		b.served, gone = 0, 0
	case b.doubting:
		log(slog.LevelInfo, "most of the pods that served are not gone after all")
	}
	b.doubting, b.doubted, b.gone, b.published = false, nil, gone, c.pods
	return nil
}

// vanished counts the pods that served before, and those of them that are not
// there at all now: not one that terminates or is not ready any more, which is
// how pods leave. Both are in comparePods order.
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
// of such a thing is no reason to believe anything.
func podsLike(q PodQuery, clusters ...Cluster) []*Pod {
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
