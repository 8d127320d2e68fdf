// What a packet costs on its way through a director, as tables and beside the goals.

package main

import (
	"fmt"
	"maps"
	"slices"

	"lvs-controller/test/bench/results"
	"lvs-controller/test/markdown"
)

// pathParams are columns of the tables, where a table has several values.
var pathParams = []struct{ name, title string }{{"bits", "buckets"}, {"servers", "real servers"}, {"flows", "flows"}}

// pathTables has a table for each factor, in the order in which they were measured.
func pathTables(set results.Set) []string {
	var all, factors []string
	for _, r := range set {
		if r.Name == "path established" && !slices.Contains(factors, r.Note) {
			factors = append(factors, r.Note)
			all = append(all, pathTable(set, "path", r.Note))
		}
	}
	return append(all, pathTable(set, "instructions", "instructions"), memoryTable(set), connectionTable(set))
}

// memoryTable is what one connection takes.
func memoryTable(set results.Set) string {
	t := markdown.Table{Head: []string{"memory of one connection", "flows", "bytes"}}
	for _, r := range set {
		if r.Name == "path memory" {
			t.Add(r.Way, markdown.Count(r.Params["flows"]), number(r.Value))
		}
	}
	return t.String()
}

// connectionTable is what whole TCP connections take, the floor being those that pass
// nothing.
func connectionTable(set results.Set) string {
	t := markdown.Table{Head: []string{"processor time, s", "1,000 requests of 1 kB", "spread", "above the floor", "1 GB", "spread", "above the floor"}}
	floors := make(map[string]float64)
	for _, way := range []string{"floor", "ours, dr", "HAProxy"} {
		row := []string{way}
		for _, name := range []string{"connection requests", "connection bytes"} {
			r, ok := set.Find(name, way, nil)
			if !ok {
				return ""
			}
			above := ""
			if way == "floor" {
				floors[name] = r.Value
			} else {
				above = signed(r.Value - floors[name])
			}
			row = append(row, number(r.Value), spread(r), above)
		}
		t.Add(row...)
	}
	return t.String()
}

// pathTable has the ways that differ in a factor, kind being the first word of the results'
// names.
func pathTable(set results.Set, kind, factor string) string {
	var ways []results.Result
	values := make(map[string]map[int]bool)
	for _, r := range set {
		if r.Name == kind+" established" && r.Note == factor {
			ways = append(ways, r)
			for name, v := range r.Params {
				if values[name] == nil {
					values[name] = make(map[int]bool)
				}
				values[name][v] = true
			}
		}
	}
	t := markdown.Table{Head: []string{factor}}
	for _, p := range pathParams {
		if len(values[p.name]) > 1 {
			t.Head = append(t.Head, p.title)
		}
	}
	t.Head = append(t.Head, "sender", "floor", "established", "spread", "floors", "without sender", "new", "floors")
	for _, r := range ways {
		floor, ok := besides(set, kind+" floor", r)
		sender, okSender := besides(set, kind+" sender", r)
		if !ok || !okSender {
			continue
		}
		row := []string{r.Way}
		for _, p := range pathParams {
			if len(values[p.name]) < 2 {
				continue
			}
			cell := markdown.Count(r.Params[p.name])
			if p.name == "bits" {
				cell = "2^" + cell
			}
			row = append(row, cell)
		}
		row = append(row, number(sender.Value), number(floor.Value), number(r.Value), spread(r), times(paired(r, floor)),
			times(paired(without(r, sender), without(floor, sender))), "", "")
		if fresh, ok := besides(set, kind+" new", r); ok {
			row[len(row)-2], row[len(row)-1] = number(fresh.Value), times(fresh.Value/floor.Value)
		}
		t.Add(row...)
	}
	return t.String()
}

// spread is the fastest and the slowest of a measurement.
func spread(r results.Result) string {
	return number(slices.Min(r.Samples)) + "–" + number(slices.Max(r.Samples))
}

// paired is the median of the ratios of a to b, round by round.
func paired(a, b results.Result) float64 {
	ratios := make([]float64, min(len(a.Samples), len(b.Samples)))
	for i := range ratios {
		ratios[i] = a.Samples[i] / b.Samples[i]
	}
	return results.Percentile(ratios, 50)
}

// besides is what else was measured of the way that r is of. Several tables have a way of
// the same name, and the factor tells them apart.
func besides(set results.Set, name string, r results.Result) (results.Result, bool) {
	same := func(o results.Result) bool {
		return o.Name == name && o.Way == r.Way && o.Note == r.Note && maps.Equal(o.Params, r.Params)
	}
	if i := slices.IndexFunc(set, same); i >= 0 {
		return set[i], true
	}
	return results.Result{}, false
}

// without is what a took above b, round by round.
func without(a, b results.Result) results.Result {
	above := make([]float64, min(len(a.Samples), len(b.Samples)))
	for i := range above {
		above[i] = a.Samples[i] - b.Samples[i]
	}
	return results.Result{Samples: above}
}

// pathGoals sets the data path beside what the project wants.
func pathGoals(set results.Set, t *markdown.Table) {
	const small, large = 1_000, 600_000
	find := func(name string, flows int) (results.Result, bool) {
		return set.Find(name, "dr", results.Params{"flows": flows, "bits": 20, "servers": 10})
	}
	few, okFew := find("path established", small)
	fewFloor, okFewFloor := find("path floor", small)
	many, okMany := find("path established", large)
	manyFloor, okManyFloor := find("path floor", large)
	if okFew && okFewFloor && okMany && okManyFloor {
		t.Add("A packet of 600,000 established flows, in floors of plain forwarding", "≤ 1.4×", times(paired(many, manyFloor)))
		t.Add("… against one of 1,000 flows, both in floors", "≤ 1.15×", times(paired(many, manyFloor)/paired(few, fewFloor)))
		t.Add("… both in µs", "", times(many.Value/few.Value))
	}
	counted, ok := find("instructions established", large)
	countedFloor, okFloor := find("instructions floor", large)
	if ok && okFloor {
		t.Add("… in instructions, in floors", "≤ 1.4×", times(paired(counted, countedFloor)))
	}
	with, ok := set.Find("path established", "tracked", pathBase)
	for _, way := range []string{"untracked", "notrack"} {
		if r, okWay := set.Find("path established", way, pathBase); ok && okWay {
			less := func(a, b float64) string { return fmt.Sprintf("%.0f %% less", 100*(1-a/b)) }
			t.Add(fmt.Sprintf("A packet that is %s, against one that is tracked", way), "≥ 15 % less", less(r.Value, with.Value))
			sender, okSender := set.Find("path sender", way, pathBase)
			withSender, okWith := set.Find("path sender", "tracked", pathBase)
			if okSender && okWith {
				director := func(path, sender results.Result) float64 {
					return results.Percentile(without(path, sender).Samples, 50)
				}
				t.Add("… without the sender", "≥ 15 % less", less(director(r, sender), director(with, withSender)))
			}
		}
	}
}

// pathBase is what all but one factor are at.
var pathBase = results.Params{"flows": 100_000, "bits": 20, "servers": 10}
