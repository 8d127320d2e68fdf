package main

import (
	"context"
	"testing"
	"time"
)

func TestSleepContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	sleepContext(ctx, time.Hour)
	sleepContext(t.Context(), time.Millisecond)
	if d := time.Since(start); d < time.Millisecond || d > time.Minute {
		t.Errorf("slept %v", d)
	}
}
