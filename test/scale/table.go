// The numbers in the tables of docs/scale.md. Used by the parts that write them.

package main

import (
	"fmt"
	"math"
	"slices"

	"lvs-controller/test/markdown"
)

// percent is a share.
func percent(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.0001:
		return "<0.01 %"
	case v < 0.01:
		return fmt.Sprintf("%.2f %%", 100*v)
	}
	return fmt.Sprintf("%.1f %%", 100*v)
}

// number has two or three digits that count.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		return markdown.Grouped(fmt.Sprintf("%.0f", v))
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// size is a number of bytes.
func size(v float64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if v < 1024 {
			return fmt.Sprintf("%.3g %s", v, unit)
		}
		v /= 1024
	}
	return fmt.Sprintf("%.3g GiB", v)
}

// rate is a number of bytes a second, as bits.
func rate(v float64) string {
	v *= 8
	for _, unit := range []string{"bit/s", "kbit/s", "Mbit/s"} {
		if v < 1000 {
			return fmt.Sprintf("%.3g %s", v, unit)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.3g Gbit/s", v)
}

// quantile is the value below which a share q of them lies, 0 of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, max(0, int(math.Ceil(q*float64(len(sorted))))-1))]
}
