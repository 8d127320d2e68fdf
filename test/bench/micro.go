// The output of `go test -bench`, read and made a table.

package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"lvs-controller/test/bench/results"
	"lvs-controller/test/markdown"
)

// microResult is one native benchmark, over its repetitions.
type microResult struct {
	name               string
	ns, bytes, objects []float64
}

// microLine is a benchmark's line; what it reports of its own stands before the
// bytes.
var microLine = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op\s(?:.*\s)?(\d+) B/op\s+(\d+) allocs/op$`)

// parseMicro reads what go test -bench -benchmem prints.
func parseMicro(text []byte) ([]microResult, error) {
	var all []microResult
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		m := microLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			return nil, fmt.Errorf("no measurement: %q", line)
		}
		if len(all) == 0 || all[len(all)-1].name != m[1] {
			all = append(all, microResult{name: m[1]})
		}
		r := &all[len(all)-1]
		for i, to := range []*[]float64{&r.ns, &r.bytes, &r.objects} {
			v, err := strconv.ParseFloat(m[2+i], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			*to = append(*to, v)
		}
	}
	return all, nil
}

func microTable(all []microResult) string {
	t := markdown.Table{Head: []string{"", "time", "bytes", "allocations"}}
	for _, r := range all {
		ns := results.Percentile(r.ns, 50)
		time := number(ns) + " ns"
		switch {
		case ns >= 1e6:
			time = number(ns/1e6) + " ms"
		case ns >= 1e3:
			time = number(ns/1e3) + " µs"
		}
		t.Add(r.name, time, markdown.Count(int(results.Percentile(r.bytes, 50))), markdown.Count(int(results.Percentile(r.objects, 50))))
	}
	return t.String()
}
