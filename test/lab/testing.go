// What tests need around a lab: the end of a test on an error, and the wait for a state.

package lab

import (
	"testing"
	"time"
)

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
			t.Fatalf("after %s: %s", limit, complaint)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
