package main

import (
	"strings"
	"testing"

	"lvs-controller/test/bench/results"
)

// A table has a column only for sizes that differ in it, and goals take the ratios round
// by round.
func TestPathTables(t *testing.T) {
	var set results.Set
	add := func(name, way, factor string, flows int, samples ...float64) {
		r := results.New("path "+name, way, results.Params{"flows": flows, "bits": 20, "servers": 10}, "µs", samples...)
		r.Note = factor
		set = append(set, r)
	}
	add("established", "dr", "flows", 1_000, 15, 15, 15)
	add("sender", "dr", "flows", 1_000, 9, 9, 9)
	add("floor", "dr", "flows", 1_000, 12, 12, 12)
	add("established", "dr", "flows", 600_000, 18, 40, 18)
	add("sender", "dr", "flows", 600_000, 9, 24, 9) // the machine is slow for one round
	add("floor", "dr", "flows", 600_000, 15, 32, 15)
	add("new", "dr", "flows", 600_000, 30, 30, 30)
	add("established", "dr", "forwarding", 600_000, 40) // the same way in another table
	add("sender", "dr", "forwarding", 600_000, 10)
	add("floor", "dr", "forwarding", 600_000, 20)
	add("established", "tracked", "connection tracking", 100_000, 40)
	add("floor", "tracked", "connection tracking", 100_000, 15)
	add("sender", "tracked", "connection tracking", 100_000, 9)
	add("established", "notrack", "connection tracking", 100_000, 30)
	add("floor", "notrack", "connection tracking", 100_000, 15)
	add("sender", "notrack", "connection tracking", 100_000, 9)

	for name, value := range map[string]float64{"established": 9_500, "floor": 8_000, "sender": 5_500, "new": 11_000} {
		r := results.New("instructions "+name, "dr", results.Params{"flows": 600_000, "bits": 20, "servers": 10}, "instructions", value)
		r.Note = "instructions"
		set = append(set, r)
	}

	all := strings.Join(pathTables(set), "\n")
	for _, want := range []string{
		"| flows |   flows | sender | floor | established |    spread | floors | without sender |  new | floors |",
		"| dr    |   1,000 |   9.00 |  12.0 |        15.0 | 15.0–15.0 |  1.25× |          2.00× |      |        |",
		"| dr    | 600,000 |   9.00 |  15.0 |        18.0 | 18.0–40.0 |  1.20× |          1.50× | 30.0 |  2.00× |",
		"| dr         |   10.0 |  20.0 |        40.0 | 40.0–40.0 |  2.00× |          3.00× |     |        |",
		"| connection tracking | sender | floor | established |",
		"| dr           |  5,500 | 8,000 |       9,500 | 9,500–9,500 |  1.19× |          1.60× | 11,000 |  1.38× |",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	goals := goals(set)
	for _, want := range []string{"| ≤ 1.4×      | 1.20×     |", "| ≤ 1.15×     | 0.96×     |", "| … in instructions, in floors                                         | ≤ 1.4×      | 1.19×     |", "| 25 % less |", "| 32 % less |"} {
		if !strings.Contains(goals, want) {
			t.Errorf("no %q in\n%s", want, goals)
		}
	}
}
