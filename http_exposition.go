// The text format of Prometheus.
//
// Used by http*.go and cmd_realserver_metrics.go. It is written here
// (prometheus.io/docs/instrumenting/exposition_formats), because the client library would
// be a sixth of the binary's size. It knows no metric.

package main

import (
	"cmp"
	"io"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"
)

// metricType is a metric family's type in the text format.
type metricType string

const (
	gauge   metricType = "gauge"
	counter metricType = "counter"
)

// exposition writes metric families. The samples of a family follow its head. The text
// goes out in pieces: the whole page is never in memory.
type exposition struct {
	w    io.Writer
	name string // of the present family
	text []byte // not written yet
}

// pieceSize is the size of the pieces, in bytes.
const pieceSize = 32 << 10

// head begins a family. Its copies, one for each family, would take 80 KB of the binary.
//
//go:noinline
func (e *exposition) head(name string, typ metricType, help string) {
	e.name = name
	e.text = append(append(append(append(e.text, "# HELP "...), name...), ' '), help...)
	e.text = append(append(append(append(e.text, "\n# TYPE "...), name...), ' '), typ...)
	e.text = append(e.text, '\n')
}

// family writes a head and returns add.
func (e *exposition) family(name string, typ metricType, help string) func(value float64, labels ...string) {
	e.head("lvs_"+name, typ, help)
	return e.add
}

// add writes one sample of the present family, with labels as name, value, name, value.
func (e *exposition) add(value float64, labels ...string) {
	e.text = append(e.text, e.name...)
	e.labels(labels)
	e.value(value)
}

// labels writes labels in braces, nothing for none.
func (e *exposition) labels(labels []string) {
	for i := 0; i+1 < len(labels); i += 2 {
		e.text = append(append(append(e.text, "{,"[min(i, 1)]), labels[i]...), `="`...)
		e.text = append(append(e.text, labelEscaper.Replace(labels[i+1])...), '"')
	}
	if len(labels) > 0 {
		e.text = append(e.text, '}')
	}
}

// value ends a sample.
func (e *exposition) value(value float64) {
	e.text = append(e.text, ' ')
	if whole := int64(value); math.Abs(value) < 1<<53 && float64(whole) == value {
		e.text = strconv.AppendInt(e.text, whole, 10)
	} else {
		e.text = strconv.AppendFloat(e.text, value, 'g', -1, 64)
	}
	if e.text = append(e.text, '\n'); len(e.text) > pieceSize {
		e.flush()
	}
}

// flush writes what is not written yet. A client that has gone away is no fault.
func (e *exposition) flush() {
	_, _ = e.w.Write(e.text)
	e.text = e.text[:0]
}

// histogram writes a family of one histogram.
func (e *exposition) histogram(name, help string, h *histogram) {
	e.head("lvs_"+name, "histogram", help)
	e.name += "_bucket"
	var n uint64
	for i := range h.counts {
		n += h.counts[i].Load()
		bound := "+Inf"
		if i < len(histogramBounds) {
			bound = strconv.FormatFloat(histogramBounds[i], 'g', -1, 64)
		}
		e.add(float64(n), "le", bound)
	}
	e.name = "lvs_" + name + "_sum"
	e.add(time.Duration(h.sum.Load()).Seconds())
	e.name = "lvs_" + name + "_count"
	e.add(float64(n))
}

var labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// sortedKeys are the keys of m in the order of compare.
func sortedKeys[K comparable, V any](m map[K]V, compare func(K, K) int) []K {
	return sortedBy(maps.Keys(m), compare)
}

func compareStartKeys(a, b startKey) int {
	return cmp.Or(cmp.Compare(a.VIP, b.VIP), a.Address.Compare(b.Address))
}

// unixSeconds is t as Prometheus has times.
func unixSeconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func flag01(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
