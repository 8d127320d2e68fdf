// What tests need around a lab: the end of a test on an error, and the wait for a state.

package lab

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// awaited has, for each test that Within ended, the first line of the complaint.
var awaited sync.Map

// LastWords has a test that Within ends say at its very end what it waited for: what its
// parts tell of themselves after a failure is long. It is called before they are made.
func LastWords(t testing.TB) {
	t.Cleanup(func() {
		if complaint, ended := awaited.Load(t.Name()); ended {
			t.Log(complaint)
		}
	})
}

// Must ends the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Within waits until check has no complaint, and ends the test with the last one
// when limit has passed.
func Within(t testing.TB, limit time.Duration, check func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		complaint := check()
		if complaint == "" {
			return
		}
		if time.Now().After(deadline) {
			first, _, _ := strings.Cut(complaint, "\n")
			awaited.Store(t.Name(), first)
			t.Fatalf("after %s: %s", limit, complaint)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
