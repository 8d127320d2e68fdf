// A cell that holds the newest value of one input.
//
// Producers (config, cluster) Set it as often as they like; the reconcile loop
// is woken at least once after the last Set and reads only what is newest.
// Never a queue: nothing piles up behind a slow reader.

package main

import "sync/atomic"

// latest is the newest value of one input. The zero value is not usable; call
// newLatest. A reader's wake is shared by all its inputs, so that one receive
// waits for any of them.
type latest[T any] struct {
	value atomic.Pointer[T]
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

// Changed rings after a Set, for the first reader.
func (l *latest[T]) Changed() <-chan struct{} { return l.wakes[0] }
