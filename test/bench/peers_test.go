package main

import (
	"strings"
	"testing"

	"lvs-controller/test/bench/results"
	"lvs-controller/test/markdown"
)

func TestPeers(t *testing.T) {
	params := results.Params{"services": 1000}
	set := results.Set{
		results.New("peer single", "ours", params, "ms", 20, 10, 30),
		results.New("peer single", "kube-proxy", params, "ms", 800, 600, 500),
		results.New("peer single", "kube-proxy", results.Params{"services": 10}, "ms", 90),
		results.New("peer answered", "ours", params, "ms", 5, 4, 6),
		results.New("peer answered", "kube-proxy", params, "ms", 590, 500, 600),
		results.New("peer start", "keepalived", params, "ms", 1),
	}
	var goals markdown.Table
	goals.Head, goals.Prose = []string{"What", "Goal", "Measured"}, true
	peerGoals(set, &goals)
	if len(goals.Rows) != 2 || !strings.Contains(goals.Rows[0][0], "kube-proxy") || goals.Rows[0][2] != "30×" || goals.Rows[1][2] != "118×" {
		t.Errorf("goals: %v", goals.Rows)
	}
	tables := peerTables(set)
	for _, want := range []string{
		"| kube-proxy  |       10 |       90.0 |    90.0 |    90.0 |   1 |            |                     |            |",
		"| ours        |    1,000 |       20.0 |    10.0 |    30.0 |   3 |      1.00× |                5.00 |      1.00× |",
		"| kube-proxy  |    1,000 |        600 |     500 |     800 |   3 |        30× |                 590 |       118× |",
	} {
		if !strings.Contains(tables[0], want) {
			t.Errorf("no %q in\n%s", want, tables[0])
		}
	}
	// What was not measured has no table, and a program without all columns no row.
	if strings.Join(tables[1:], "") != "" {
		t.Errorf("tables of nothing: %q", tables[1:])
	}
}
