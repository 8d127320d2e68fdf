// What was measured, as the sections of docs/benchmarks.md.

package main

import (
	"fmt"
	"slices"
	"strings"

	"lvs-controller/test/bench/results"
	"lvs-controller/test/markdown"
)

// render is everything but the method.
func render(set results.Set, micro []microResult) string {
	var b strings.Builder
	section := func(title, text string, tables ...string) {
		tables = slices.DeleteFunc(tables, func(t string) bool { return t == "" })
		if len(tables) > 0 {
			fmt.Fprintf(&b, "## %s\n\n", title)
			if text = strings.TrimSpace(text); text != "" {
				b.WriteString(text + "\n\n")
			}
			b.WriteString(strings.Join(tables, "\n") + "\n")
		}
	}
	section("Goals", "", goals(set))
	section("Programming a table", programText, programTables(set)...)
	section("A node joins and leaves", joinText, joinTable(set, "join", "joining"), joinTable(set, "quiesce", "leaving: weight 0"), joinTable(set, "remove", "leaving: removed"))
	section("Auditing an unchanged table", auditText, auditTables(set)...)
	section("The data path", pathText, pathTables(set)...)
	section("From PATCH to the kernel", latencyText, latencyTable(set, "latency", "emulated, ms"), latencyTable(set, "native", "native, ms"))
	section("Peers: from an event to the row", peersText, peerTables(set)...)
	section("The process", processText, processTable(set), idleCalls(set))
	section("Micro-benchmarks", microText, microTable(micro))
	if r, ok := set.Find("kernel", "", nil); ok {
		fmt.Fprintf(&b, "Measured on %s.\n", r.Note)
	}
	return b.String()
}

// alternates are the measurements whose ways alternate, round by round.
var alternates = map[string]bool{"program": true, "audit": true, "join": true, "quiesce": true, "remove": true}

// ratio is how many times the value of b that of a is. Of ways that alternate it is the
// median over the rounds: the machine is not as fast in one round as in the next.
func ratio(set results.Set, name string, params results.Params, a, b string) (float64, bool) {
	x, okA := set.Find(name, a, params)
	y, okB := set.Find(name, b, params)
	if !okA || !okB || slices.Min(y.Samples) <= 0 {
		return 0, false
	}
	if !alternates[name] {
		return x.Value / y.Value, true
	}
	var rounds []float64
	for i := range min(len(x.Samples), len(y.Samples)) {
		rounds = append(rounds, x.Samples[i]/y.Samples[i])
	}
	return results.Percentile(rounds, 50), true
}

// goals sets what was measured beside what the project wants.
func goals(set results.Set) string {
	t := markdown.Table{Head: []string{"What", "Goal", "Measured"}, Prose: true}
	compare := func(what, goal, name string, params results.Params, a, b string) {
		if r, ok := ratio(set, name, params, a, b); ok {
			t.Add(what, goal, times(r))
		}
	}
	large := results.Params{"services": 1000, "servers": 50}
	compare("50,000 real servers programmed, until acknowledged, in floors", "≤ 1.12×", "program", large, "ours, kernel told", "floor")
	compare("… the whole pass", "", "program", large, "ours", "floor")
	compare("… from exec to the last row, as fast as `ipvsadm -R`", "≥ 10×", "program", large, "ipvsadm -R, from exec", "ours, from exec")
	crowded := results.Params{"services": 1000, "rows": 200_000}
	compare("A node joins 1000 services of 200,000 rows, until acknowledged, in floors", "≤ 1.3×", "join", crowded, "ours, kernel told", "floor")
	compare("… the whole pass", "", "join", crowded, "ours", "floor")
	compare("… is removed from them after its drain", "≤ 5×", "remove", crowded, "ours, kernel told", "floor")
	compare("… against the cheapest way to ask for connections and to remove", "≤ 1.3×", "remove", crowded, "ours, kernel told", "floor, asked first")
	compare("A node joins 1 service of 200,000 rows, until acknowledged, in floors", "≤ 8×", "join", results.Params{"services": 1, "rows": 200_000}, "ours, kernel told", "floor")
	if small, ok := set.Find("join", "ours", results.Params{"services": 1, "rows": 1_000}); ok {
		if big, ok := set.Find("join", "ours", results.Params{"services": 1, "rows": 200_000}); ok {
			t.Add("A node joins 1 service, 200,000 rows against 1,000", "the same", times(big.Value/small.Value))
		}
	}
	for _, name := range []string{"latency", "native"} {
		ours, okOurs := set.Find(name, "ours", nil)
		bare, okBare := set.Find(name, "bare watch", nil)
		if okOurs && okBare {
			above := results.Percentile(ours.Samples, 99) - results.Percentile(bare.Samples, 99)
			t.Add("PATCH to kernel, p99 above the bare watch's p99"+map[string]string{"latency": ", emulated", "native": ", native"}[name],
				map[string]string{"native": "≤ 5 ms"}[name], signed(above)+" ms")
		}
	}
	if r, ok := set.Find("memory", "ours", results.Params{"services": 4000, "servers": 50}); ok {
		t.Add("RSS with 200,000 rows", "≤ 150 MiB", number(r.Value)+" MiB")
	}
	if r, ok := set.Find("memory", "ours", results.Params{"services": 50, "pods": 5000}); ok {
		t.Add("RSS with 5000 pods and 50 services", "≤ 30 MiB", number(r.Value)+" MiB")
	}
	if r, ok := set.Find("peak memory", "ours", results.Params{"services": 50, "pods": 5000}); ok {
		t.Add("… at most, since the start", "≤ 35 MiB", number(r.Value)+" MiB")
	}
	compare("A dump of 50,000 rows, in floors", "≤ 1.2×", "audit", large, "ours, reading alone", "floor")
	compare("… the whole audit", "", "audit", large, "ours", "floor")
	pathGoals(set, &t)
	peerGoals(set, &t)
	for _, r := range set {
		if r.Name == "idle calls" {
			t.Add(fmt.Sprintf("System calls between two audits, in %d s", r.Params["seconds"]), "none", markdown.Count(int(r.Value)))
		}
	}
	return t.String()
}

// sizes are the tables of services and servers that name was measured at.
func sizes(set results.Set, name string) []results.Params {
	var all []results.Params
	for _, services := range set.Values(name, "services") {
		for _, servers := range set.Values(name, "servers") {
			params := results.Params{"services": services, "servers": servers}
			if _, ok := set.Find(name, "floor", params); ok {
				all = append(all, params)
			}
		}
	}
	return all
}

// rowTable compares ways at one size, each real server being a row.
func rowTable(set results.Set, name string, params results.Params, ways []string) string {
	rows := params["services"] * params["servers"]
	t := markdown.Table{Head: []string{fmt.Sprintf("%s × %d", markdown.Count(params["services"]), params["servers"]), "ms, median", "fastest", "µs a row", "floors"}}
	for _, way := range ways {
		r, ok := set.Find(name, way, params)
		if !ok {
			continue
		}
		floors, _ := ratio(set, name, params, way, "floor")
		t.Add(strings.Replace(way, "kernel told", "acknowledged", 1), number(r.Value), number(slices.Min(r.Samples)), number(1000*r.Value/float64(rows)), times(floors))
	}
	return t.String()
}

func programTables(set results.Set) []string {
	var all []string
	for _, params := range sizes(set, "program") {
		all = append(all, rowTable(set, "program", params, []string{"floor", "ours, kernel told", "ours", "moby/ipvs", "ours, from exec", "keepalived, from exec", "ipvsadm -R, from exec"}))
	}
	return all
}

func auditTables(set results.Set) []string {
	var all []string
	for _, params := range sizes(set, "audit") {
		all = append(all, rowTable(set, "audit", params, []string{"floor", "ours, reading alone", "ours", "ipvsadm -Sn, from exec"}))
	}
	return all
}

func joinTable(set results.Set, name, title string) string {
	t := markdown.Table{Head: []string{title, "services", "rows around", "floor, ms", "acknowledged, ms", "floors", "whole pass, ms", "floors"}}
	asks := name == "remove"
	if asks {
		t.Head = append(t.Head, "floor that asks, ms", "acknowledged, in these")
	}
	for _, services := range set.Values(name, "services") {
		for _, rows := range set.Values(name, "rows") {
			params := results.Params{"services": services, "rows": rows}
			floor, ok := set.Find(name, "floor", params)
			acked, okAcked := set.Find(name, "ours, kernel told", params)
			pass, okPass := set.Find(name, "ours", params)
			if !ok || !okAcked || !okPass {
				continue
			}
			against := func(a, b string) string {
				if r, ok := ratio(set, name, params, a, b); ok {
					return times(r)
				}
				return ""
			}
			line := []string{"", markdown.Count(services), markdown.Count(rows), number(floor.Value), number(acked.Value), against("ours, kernel told", "floor"), number(pass.Value), against("ours", "floor")}
			if asks {
				asked, _ := set.Find(name, "floor, asked first", params)
				line = append(line, number(asked.Value), against("ours, kernel told", "floor, asked first"))
			}
			t.Add(line...)
		}
	}
	return t.String()
}

func latencyTable(set results.Set, name, title string) string {
	t := markdown.Table{Head: []string{title, "median", "p99", "worst", "of"}}
	for _, way := range []string{"bare watch", "ours", "ours after the bare watch", "from the bare watch to our snapshot", "from the snapshot to the call", "the call"} {
		if r, ok := set.Find(name, way, nil); ok {
			t.Add(way, signed(r.Value), signed(results.Percentile(r.Samples, 99)), signed(slices.Max(r.Samples)), markdown.Count(len(r.Samples)))
		}
	}
	return t.String()
}

// signed is number for what may be below zero.
func signed(v float64) string {
	if v < 0 {
		return "-" + number(-v)
	}
	return number(v)
}

func processTable(set results.Set) string {
	t := markdown.Table{Head: []string{"", "measured"}}
	for _, r := range set {
		switch value := number(r.Value) + " " + r.Unit; r.Name {
		case "start":
			t.Add(fmt.Sprintf("exec to the first table, %d × %d", r.Params["services"], r.Params["servers"]), value)
		case "size":
			t.Add("binary", value)
		case "memory", "peak memory":
			what := map[string]string{"memory": "RSS", "peak memory": "peak RSS"}[r.Name]
			if pods, has := r.Params["pods"]; has {
				t.Add(fmt.Sprintf("%s, %s pods and %d services", what, markdown.Count(pods), r.Params["services"]), value)
			} else {
				t.Add(fmt.Sprintf("%s, %s rows", what, markdown.Count(r.Params["services"]*r.Params["servers"])), value)
			}
		case "idle":
			t.Add(fmt.Sprintf("CPU of an idle hour, %s rows audited every 10 s", markdown.Count(r.Params["services"]*r.Params["servers"])), number(r.Value)+" s")
		case "idle calls":
			t.Add(fmt.Sprintf("system calls between two audits, in %d s", r.Params["seconds"]), markdown.Count(int(r.Value)))
		}
	}
	return t.String()
}

// idleCalls names the system calls of an idle controller.
func idleCalls(set results.Set) string {
	t := markdown.Table{Head: []string{"idle for", "system calls"}, Prose: true}
	for _, r := range set {
		if r.Name == "idle calls" && r.Note != "" {
			t.Add(fmt.Sprintf("%d s", r.Params["seconds"]), r.Note)
		}
	}
	return t.String()
}
