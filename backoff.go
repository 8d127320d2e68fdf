// How long to wait before the next attempt of something that failed.
//
// Used by kube.go, reconcile*.go, http_webhook.go and cmd_realserver_watch.go. An attempt
// is repeated without end: only the waits are bounded. Pure.

package main

import "time"

// backoff is a wait that doubles with each failure in a row, from first to most.
type backoff struct {
	first, most time.Duration
	failures    int // in a row
}

// next counts one more failure and returns the wait after it.
func (b *backoff) next() time.Duration {
	wait := min(b.first<<min(b.failures, 16), b.most)
	b.failures++
	return wait
}

// reset forgets all failures.
func (b *backoff) reset() { b.failures = 0 }

// jittered is a random part of d ("full jitter"), so that two directors or two
// streams that failed together do not try again together. random is in [0,1).
func jittered(d time.Duration, random float64) time.Duration {
	return time.Duration(random * float64(d))
}
