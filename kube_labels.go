// Which labels pods have where a selector matches none: the text that says so.
//
// Used by kube_file.go and kube_watch.go. Each gathers the labels of the namespace's
// pods, a limited number of them. Pure; no I/O.

package main

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

const (
	// sampledPods is how many pods of a namespace are looked at for their labels.
	sampledPods = pageLimit

	// namedLabels is how many labels of a selector, and values of a label, are named.
	namedLabels = 3
)

// usualLabels are those of which one names the program of most pods. They are said when
// no pod has a label of the selector.
var usualLabels = []string{"app.kubernetes.io/name", "app", "k8s-app"}

// labelSample counts the labels of pods that a selector does not match.
type labelSample struct {
	seen   int                       // pods
	values map[string]map[string]int // by label, of those in the selector and usualLabels
}

// add counts a pod with these labels. keys are those of the selector.
func (s *labelSample) add(keys []string, of map[string]string) {
	if s.seen++; s.seen > sampledPods {
		return
	}
	for i, key := range slices.Concat(keys, usualLabels) {
		value, has := of[key]
		if !has || i >= len(keys) && slices.Contains(keys, key) {
			continue
		}
		if s.values == nil {
			s.values = make(map[string]map[string]int)
		}
		if s.values[key] == nil {
			s.values[key] = make(map[string]int)
		}
		s.values[key][shorten(value, quotedText)]++
	}
}

// selectorKeys are the labels that a selector is about, in its order.
func selectorKeys(selector string) (keys []string) {
	parsed, err := labels.Parse(selector)
	if err != nil {
		return nil // the configuration has checked it
	}
	requirements, _ := parsed.Requirements()
	for _, r := range requirements {
		if len(keys) == 0 || keys[len(keys)-1] != r.Key() {
			keys = append(keys, r.Key())
		}
	}
	return keys[:min(len(keys), namedLabels)]
}

// text says what the pods have instead, of a namespace ("" = all), as the rest of a
// sentence.
func (s *labelSample) text(keys []string, namespace string) string {
	where := "the cluster"
	if namespace != "" {
		where = "namespace " + namespace
	}
	if s.seen == 0 {
		return "; " + where + " has none"
	}
	var have []string
	found := false
	for _, key := range keys {
		have = append(have, key+" "+commonest(s.values[key]))
		found = found || len(s.values[key]) > 0
	}
	for _, key := range usualLabels {
		if !found && len(s.values[key]) > 0 {
			have = append(have, key+" "+commonest(s.values[key]))
		}
	}
	return fmt.Sprintf("; the pods of %s have instead (%d looked at): %s", where, min(s.seen, sampledPods), strings.Join(have, "; "))
}

// commonest names the values that most pods have.
func commonest(counts map[string]int) string {
	values := make([]string, 0, len(counts))
	for v := range counts {
		values = append(values, v)
	}
	sort.Slice(values, func(i, j int) bool {
		a, b := values[i], values[j]
		return counts[a] > counts[b] || counts[a] == counts[b] && a < b
	})
	var named []string
	for _, v := range values[:min(len(values), namedLabels)] {
		named = append(named, fmt.Sprintf("= %s (%d)", printable(v), counts[v]))
	}
	switch more := len(values) - len(named); {
	case len(values) == 0:
		return "on none"
	case more > 0:
		named = append(named, fmt.Sprintf("and %d other values", more))
	}
	return strings.Join(named, ", ")
}
