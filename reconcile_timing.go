// How long things take: what the loop measures for /metrics.
//
// Used by http*.go. The loop writes, and any goroutine reads. Everything has a limit
// in memory. It decides nothing.

package main

import (
	"sync/atomic"
	"time"
)

// histogramBounds are the upper bounds of a histogram's buckets, in seconds.
var histogramBounds = [...]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// histogram counts durations in buckets. The zero value is empty.
type histogram struct {
	counts [len(histogramBounds) + 1]atomic.Uint64 // the last one: above all bounds
	sum    atomic.Int64                            // nanoseconds
}

// observe counts d; one that is negative, after the clock was set back, as 0.
func (h *histogram) observe(d time.Duration) {
	d = max(d, 0)
	i := 0
	for i < len(histogramBounds) && d.Seconds() > histogramBounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// timing is what the loop measures of itself.
type timing struct {
	passes histogram // of whole passes
	events histogram // from the first input that a pass carries out until the kernel has accepted all
}
