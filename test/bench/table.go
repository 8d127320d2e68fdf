// The numbers in the tables.

package main

import (
	"fmt"

	"lvs-controller/test/markdown"
)

// number has three digits that count.
func number(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return markdown.Grouped(fmt.Sprintf("%.0f", v))
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// times is a ratio.
func times(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f×", v)
	}
	return fmt.Sprintf("%.0f×", v)
}
