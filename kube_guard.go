// The mass-removal guard: an answer that lacks what served a moment ago needs a
// second answer that confirms it.
//
// Used by kube.go, kube_watch.go and kube_file.go. Wrong labels, an API server
// restored from an old backup, or what kubectl prints while the API is away look
// like a true answer. Only such an answer waits. The guard knows no kind: what
// serves, and what an answer lacks, is for the collections to say.

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
	published *Cluster      // last, of this stream alone
	since     time.Time     // start of a pace.guardWindow, in which removals add up
	served    int           // the most that served at a time since then
	gone      int           // what served and has vanished since then
	doubted   *Cluster      // the answer in doubt, which the next one may confirm; nil = none
}

// clusterOf is what is known when c is.
func clusterOf(c collection) *Cluster {
	known := newCluster()
	c.store(known)
	return known
}

// exceeds reports whether l is more than may vanish at once.
func (g *removalGuard) exceeds(l loss) bool {
	share := int(g.share.Load())
	return share > 0 && (l.whole || l.gone > 1 && 100*l.gone > share*l.served)
}

// confirms reports whether c, a second answer, lacks no more than the one in
// doubt: not much, and not all that was left.
func (g *removalGuard) confirms(c collection) bool {
	if g.doubted == nil {
		return false
	}
	l := c.missing(g.doubted)
	return !g.exceeds(l) && (l.gone == 0 || l.gone < l.served)
}

// missing is what c lacks of what is published, with what else vanished a short time
// ago. lost is set when c itself lacks something.
func (s *stream) missing(c collection) (l loss, lost bool) {
	g := &s.guard
	if now := s.owner.now(); now.Sub(g.since) > s.owner.pace.guardWindow {
		g.since, g.served, g.gone = now, 0, 0
	}
	l = c.missing(g.published)
	lost = l.gone > 0 || l.whole
	g.served = max(g.served, l.served)
	return loss{l.gone + g.gone, g.served, l.whole}, lost
}

// doubts reports whether c puts the file that it is a part of in doubt: too much is
// missing, or nothing is left.
func (s *stream) doubts(c collection) bool {
	l, lost := s.missing(c)
	g := &s.guard
	return g.share.Load() > 0 && (g.exceeds(l) || lost && c.len() == 0) && !g.confirms(c)
}

// checkRemoval is called before c is published. It returns an error when another
// answer has to confirm c first: one that lacks no more. partial is set when another
// part of the same answer is in doubt: then everything that c lacks is. confirm says
// for the log which answer that will be.
func (s *stream) checkRemoval(c collection, partial bool, confirm string) error {
	g := &s.guard
	l, lost := s.missing(c)
	log := func() *slog.Logger { return s.owner.log.With("stream", s.key.String(), "gone", l.gone, "of", l.served) }
	doubtful := g.exceeds(l) || partial && lost && g.share.Load() > 0
	if doubtful && !g.confirms(c) {
		g.doubted = clusterOf(c)
		log().Warn("what served is missing from the answer; a second answer must confirm that before it is removed", "confirm", confirm)
		return fmt.Errorf("%d of %d that served are missing; to be confirmed by %s", l.gone, l.served, confirm)
	}
	switch {
	case g.doubted != nil && lost:
		log().Warn("what served is removed; a second answer confirms it")
	case g.doubted != nil:
		log().Info("what served is not missing any more")
	}
	if doubtful {
		g.served, l.gone = 0, 0
	}
	g.doubted, g.gone, g.published = nil, l.gone, clusterOf(c)
	return nil
}
