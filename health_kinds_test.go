package main

import (
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Each kind of probe is complete: in the table, in the prober, in the example
// of the configuration and in the documents.
func TestProbeKinds(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	example, page, metrics := read("config.toml.example"), read("docs/probes.md"), read("docs/metrics.md")
	_, example, _ = strings.Cut(example, "# [vip.health]")
	example, _, _ = strings.Cut(example, "[vip.drain]")
	var keys, labels []string
	for i, k := range probeKinds {
		kind := probeKind(i)
		if k.key == "" || k.usage == "" || k.label == "" || k.read == nil || k.set == nil || k.method == nil {
			t.Fatalf("kind %d: an entry is missing: %+v", i, k)
		}
		if _, ok := k.method.(probeMethod); !ok {
			t.Fatalf("%s: %T has not all methods of probeMethod", k.key, k.method)
		}
		if slices.Contains(keys, k.key) || slices.Contains(labels, k.label) {
			t.Errorf("%s: its key or its label %q is that of another kind", k.key, k.label)
		}
		keys, labels = append(keys, k.key), append(labels, k.label)
		if kind.String() != k.label {
			t.Errorf("%s: the metrics and the log do not say %q", k.key, k.label)
		}
		if !regexp.MustCompile(`(?m)^# (` + k.key + ` = |\[vip\.health\.` + k.key + `\]$)`).MatchString(example) {
			t.Errorf("%s: no line for it in config.toml.example", k.key)
		}
		if !strings.Contains(page, "| `"+k.key+"` |") {
			t.Errorf("%s: no row for it in docs/probes.md", k.key)
		}
		if !strings.Contains(metrics, "`"+k.label+"`") {
			t.Errorf("%s: docs/metrics.md does not name its label %q", k.key, k.label)
		}

		// What one key of the file gives is one kind, and has a target.
		usage := strings.Replace(k.usage, "tcp", "tcp = 80", 1)
		usage = strings.Replace(usage, "http", "http = {}", 1)
		v := parseVIP(t, "[vip.health]\n"+usage)
		if got := v.Probes.kinds(); !slices.Equal(got, []probeKind{kind}) {
			t.Errorf("%s: the file gives the kinds %v", usage, got)
		}
		server := netip.MustParseAddr("10.0.0.5")
		plan := &ProbePlan{VIPs: []ProbedVIP{newProbedVIP(v, []Port{{80, TCP}}, []netip.Addr{server}, nil)}}
		s := newSchedule(func() float64 { return 0 }, nil)
		s.replan(plan, time.Unix(1e9, 0))
		if len(s.targets) == 0 {
			t.Errorf("%s: no target for %s", k.key, server)
		}
		for key, target := range s.targets {
			if key.kind != kind || key.server != server || (key.port != 0) != k.perPort || !target.to.IsValid() {
				t.Errorf("%s: target %+v to %s", k.key, key, target.to)
			}
			if why := target.fails(errClosed, false).why; !strings.Contains(why, errClosed.Error()) {
				t.Errorf("%s: a failure is described as %q", k.key, why)
			}
		}
	}
}
