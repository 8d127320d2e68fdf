// The brake on mass removals: an answer without most of the pods that served a
// moment ago is not believed at once.
//
// Part of the cluster watch. Labels that somebody broke, an API server restored
// from an old backup or a file in the middle of being made anew look like a true
// answer. Another answer, a moment later, may tell. Nothing is held up but such an
// answer, and that for a moment.

package main

import (
	"fmt"
	"time"
)

// brake is what one stream of pods remembers for it. It belongs to the
// goroutine that follows the stream.
type brake struct {
	published []*Pod    // last
	since     time.Time // a time of pace.brakeWindow, in which removals add up
	served    int       // the most pods that served at a time since it began
	gone      int       // pods that served and have vanished since then
	doubting  bool      // the next answer is the one that confirms
}

// checkRemoval notes that c is about to be published. It returns an error when
// that has to be confirmed by another answer first.
func (s *stream) checkRemoval(c content) error {
	b := &s.brake
	gone, served := vanished(b.published, c.pods)
	if now := s.owner.now(); now.Sub(b.since) > s.owner.pace.brakeWindow {
		b.since, b.served, b.gone = now, 0, 0
	}
	b.served = max(b.served, served)
	gone += b.gone
	many := gone > 1 && s.key.pods.Brake > 0 && 100*gone > int(s.key.pods.Brake)*b.served
	log := s.owner.log.With("stream", s.key.String(), "gone", gone, "of", b.served)
	switch {
	case many && !b.doubting:
		b.doubting = true
		log.Warn("most of the pods that served are gone all at once; asking again before it is believed")
		return fmt.Errorf("%d of %d pods that served have vanished within %s", gone, b.served, s.owner.pace.brakeWindow)
	case many:
		log.Warn("most of the pods that served are gone; the second answer says so too")
		b.served, gone = 0, 0
	case b.doubting:
		log.Info("most of the pods that served are not gone after all")
	}
	b.doubting, b.gone, b.published = false, gone, c.pods
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

// podsLike are the pods that c knows for q, or for a query that selects the same
// pods and asks other things of them: an edit of such a thing, the brake's own
// share among them, is no reason to believe anything.
func podsLike(q PodQuery, c Cluster) []*Pod {
	if pods, known := c.Pods[q]; known {
		return pods
	}
	for other, pods := range c.Pods {
		if other.Namespace == q.Namespace && other.Selector == q.Selector {
			return pods
		}
	}
	return nil
}

// seedBrake begins with what is known of the stream's pods.
func (s *stream) seedBrake(pods []*Pod) { s.brake = brake{published: pods} }
