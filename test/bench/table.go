// Tables in Markdown that read well unrendered too, and the numbers in them.

package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// table is one table; its first column is text, the others are numbers unless
// prose says so.
type table struct {
	head  []string
	rows  [][]string
	prose bool
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// String is the table, "" when it has no row.
func (t *table) String() string {
	if len(t.rows) == 0 {
		return ""
	}
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], 3, utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	line := func(row []string) {
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 || t.prose {
				fmt.Fprintf(&b, "| %s%s ", cell, pad)
			} else {
				fmt.Fprintf(&b, "| %s%s ", pad, cell)
			}
		}
		b.WriteString("|\n")
	}
	line(t.head)
	rule := make([]string, len(t.head))
	for i, w := range widths {
		rule[i] = strings.Repeat("-", w)
		if i > 0 && !t.prose {
			rule[i] = strings.Repeat("-", w-1) + ":"
		}
	}
	line(rule)
	for _, row := range t.rows {
		line(row)
	}
	return b.String()
}

// number has three digits that count.
func number(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return grouped(fmt.Sprintf("%.0f", v))
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// count is a whole number.
func count(n int) string { return grouped(fmt.Sprint(n)) }

// grouped puts commas into a string of digits.
func grouped(digits string) string {
	var groups []string
	for len(digits) > 3 {
		groups = append(groups, digits[len(digits)-3:])
		digits = digits[:len(digits)-3]
	}
	groups = append(groups, digits)
	slices.Reverse(groups)
	return strings.Join(groups, ",")
}

// times is a ratio.
func times(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f×", v)
	}
	return fmt.Sprintf("%.0f×", v)
}
