package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An order is noticed at once, also where its directory is still to come, or was
// removed and made again. The directory is not made for it, and other files in there
// wake nobody.
func TestFollowDrain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "cache")
	wake := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- followDrain(ctx, slog.New(slog.DiscardHandler), dir, wake) }()
	rings := func(when string, limit time.Duration, want bool) {
		t.Helper()
		got := false
		select {
		case <-wake:
			got = true
		case <-time.After(limit):
		}
		if got != want {
			t.Errorf("%s: woken: %t, want %t", when, got, want)
		}
	}
	const soon, never = 10 * time.Second, 300 * time.Millisecond
	order := func(drained bool) {
		t.Helper()
		if err := setDrained(dir, drained); err != nil {
			t.Fatal(err)
		}
	}
	rings("at first", soon, true)
	order(true)
	rings("an order in a new directory", soon, true)
	if err := os.WriteFile(filepath.Join(dir, "cluster.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	order(true)
	rings("another file, and the same order", never, false)
	order(false)
	rings("undone", soon, true)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	rings("the directory removed", never, false)
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory has been made again")
	}
	order(true)
	rings("an order in another directory of the name", soon, true)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
