package main

import (
	"testing"

	"lvs-controller/test/bench/results"
)

// A machine that becomes slower from round to round does not change the ratio of two
// programs that alternate.
func TestRatio(t *testing.T) {
	var set results.Set
	for _, name := range []string{"join", "peer single"} {
		set = append(set, results.New(name, "ours", nil, "ms", 2, 40, 600), results.New(name, "floor", nil, "ms", 1, 10, 300, 4000))
	}
	for name, want := range map[string]float64{"join": 2, "peer single": 4} {
		if got, ok := ratio(set, name, nil, "ours", "floor"); !ok || got != want {
			t.Errorf("%s: %v, %t; want %v", name, got, ok, want)
		}
	}
	if _, ok := ratio(set, "join", nil, "ours", "keepalived"); ok {
		t.Error("a ratio to what was not measured")
	}
}
