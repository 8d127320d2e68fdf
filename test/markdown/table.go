// Package markdown makes tables that read well unrendered too.
//
// Used by test/bench and test/scale, which write parts of docs/ from what they measure.
// It decides nothing about the content.
package markdown

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Table is one table; its first column is text, the others are numbers unless
// Prose says so.
type Table struct {
	Head  []string
	Rows  [][]string
	Prose bool
}

// Add adds a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// String is the table, "" when it has no row.
func (t *Table) String() string {
	if len(t.Rows) == 0 {
		return ""
	}
	widths := make([]int, len(t.Head))
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], 3, utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	line := func(row []string) {
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 || t.Prose {
				fmt.Fprintf(&b, "| %s%s ", cell, pad)
			} else {
				fmt.Fprintf(&b, "| %s%s ", pad, cell)
			}
		}
		b.WriteString("|\n")
	}
	line(t.Head)
	rule := make([]string, len(t.Head))
	for i, w := range widths {
		rule[i] = strings.Repeat("-", w)
		if i > 0 && !t.Prose {
			rule[i] = strings.Repeat("-", w-1) + ":"
		}
	}
	line(rule)
	for _, row := range t.Rows {
		line(row)
	}
	return b.String()
}

// Count is a whole number.
func Count(n int) string { return Grouped(fmt.Sprint(n)) }

// Grouped puts commas into a string of digits.
func Grouped(digits string) string {
	var groups []string
	for len(digits) > 3 {
		groups = append(groups, digits[len(digits)-3:])
		digits = digits[:len(digits)-3]
	}
	groups = append(groups, digits)
	slices.Reverse(groups)
	return strings.Join(groups, ",")
}
