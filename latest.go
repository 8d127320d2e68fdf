// A cell with the newest value of one input.
//
// Used by rtnl.go, kube*.go, conflict*.go, health*.go, host*.go, snapshot.go,
// reconcile*.go, http*.go, cmd*.go and main.go. A producer calls Set as often as it
// likes. A reader is woken at least once after the last Set and gets the newest
// value only. It is not a queue: a slow reader causes no backlog.

package main

import (
	"context"
	"sync/atomic"
	"time"
)

// latest is the newest value of one input. The zero value is not usable; call
// newLatest. A reader's wake is shared by all its inputs, so that one receive
// waits for any of them.
type latest[T any] struct {
	value atomic.Pointer[T]
	first atomic.Int64    // when the first value was set since Waited; 0: none was
	wakes []chan struct{} // one for each reader
}

// newLatest returns an empty cell that rings each of wakes, channels of
// capacity 1.
func newLatest[T any](wakes ...chan struct{}) *latest[T] {
	return &latest[T]{wakes: wakes}
}

// Set replaces the value and wakes the readers. The value must not be changed
// afterwards.
func (l *latest[T]) Set(v *T) {
	l.value.Store(v)
	l.first.CompareAndSwap(0, time.Now().UnixNano())
	for _, wake := range l.wakes {
		ring(wake)
	}
}

// ring wakes the reader of wake, a channel of capacity 1, without waiting for it.
// When a wake-up is pending, the reader will see what is new. nil has no reader.
func ring(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Get returns the newest value, nil before the first Set.
func (l *latest[T]) Get() *T { return l.value.Load() }

// Waited returns when the first value was set since Waited was called last, zero when
// none was. Call it before Get: then what Get returns is from then or newer.
func (l *latest[T]) Waited() time.Time {
	if at := l.first.Swap(0); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Changed rings after a Set, for the first reader.
func (l *latest[T]) Changed() <-chan struct{} { return l.wakes[0] }

// sleepContext waits for d or for the end of ctx.
func sleepContext(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
