// The mistakes in a configuration file, bounded in memory and in text.
//
// Used by cmd*.go and main*.go. Of a file with more mistakes than maxMistakes only the
// first are kept. Whatever the file contains, a mistake is one line of printable
// characters, and a quotation from the file is cut. No I/O.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	maxMistakes     = 1000 // of one file that are kept; `check -all` prints them
	mistakesInCheck = 100  // that `check` prints without -all
	mistakesInLog   = 20   // that ConfigErrors.Error prints

	// maxMistakesText is the length of ConfigErrors.Error when it is quoted, as
	// the log quotes it. The rest of a log line fits into 8 KB with it.
	maxMistakesText = 7500

	maxReason = 160 // characters of what a library says about a value
)

// ConfigError is one mistake in a configuration file.
type ConfigError struct {
	File string
	Line int    // counted from 1
	Key  string // "vip[0].drain.timeout", or "syntax"
	Msg  string // what is wrong, what is allowed; one line
}

// Error returns "FILE:LINE: key: what is wrong, what is allowed".
func (e ConfigError) Error() string {
	return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Key, e.Msg)
}

// ConfigErrors are the mistakes in a configuration file.
type ConfigErrors struct {
	First []ConfigError // in line order, maxMistakes at most
	More  int           // mistakes behind those, which are not kept
}

// Error returns one line for each of the first mistakes, and how many more
// there are. It is short enough for one log line.
func (e ConfigErrors) Error() string {
	lines := e.lines(mistakesInLog)
	if quotedLen(strings.Join(lines, "\n")) > maxMistakesText {
		for i, line := range lines {
			lines[i] = cutQuoted(line, maxMistakesText/(mistakesInLog+1))
		}
	}
	return strings.Join(lines, "\n")
}

// Text returns one whole line for each of the first n mistakes, and how many
// more there are.
func (e ConfigErrors) Text(n int) string { return strings.Join(e.lines(n), "\n") }

func (e ConfigErrors) lines(n int) []string {
	n = min(n, len(e.First))
	var lines []string
	for _, mistake := range e.First[:n] {
		lines = append(lines, mistake.Error())
	}
	if more := len(e.First) - n + e.More; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return lines
}

// firstMistake is why a file is refused, in one short line: its first mistake, and how many
// more there are.
func firstMistake(err error) string {
	if all, ok := errors.AsType[ConfigErrors](err); ok {
		err = errors.New(strings.Join(all.lines(1), "; "))
	}
	return report(err)
}

// mistakes collects the mistakes of one file.
type mistakes struct {
	first []mistake // the first maxMistakes by line, and some that may be among them
	found int
}

// mistake is one of them. Its text is formatted only when it is kept: a file can
// have a hundred thousand mistakes.
type mistake struct {
	line int
	path string
	text func() string
}

// add notes a mistake.
func (m *mistakes) add(line int, path string, text func() string) {
	m.found++
	if m.first = append(m.first, mistake{line, path, text}); len(m.first) == 2*maxMistakes {
		m.keepFirst()
	}
}

// keepFirst sorts by line and drops what is behind the first maxMistakes.
func (m *mistakes) keepFirst() {
	stableBy(m.first, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	if len(m.first) > maxMistakes {
		m.first = slices.Delete(m.first, maxMistakes, len(m.first))
	}
}

// err returns the mistakes in file as ConfigErrors, or nil when there is none.
func (m *mistakes) err(file string) error {
	if m.found == 0 {
		return nil
	}
	m.keepFirst()
	e := ConfigErrors{More: m.found - len(m.first)}
	for _, mistake := range m.first {
		e.First = append(e.First, ConfigError{file, mistake.line, shorten(mistake.path, quotedText), mistake.text()})
	}
	return e
}
