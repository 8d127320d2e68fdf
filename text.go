// Bounds for text from outside: what is quoted in a message, a log line or the
// status is short, whatever its source sends.
//
// Used by every file that quotes input. It knows nothing of what the text
// means. Pure; no I/O.

package main

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// quotedText is how many characters of an input a message quotes.
	quotedText = 80

	// reportedText is how many characters of another program's report, such as
	// an error of the API server, a message keeps.
	reportedText = 1000
)

// shorten returns s when it has at most most characters, else its first ones and
// "…". The result never shares memory with a longer s.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	n := 0
	for i := range s {
		if n++; n > most {
			return strings.ToValidUTF8(s[:i], string(utf8.RuneError)) + "…"
		}
	}
	return s
}

// report is err for the log, the status and a terminal: short, on one line, and
// without the characters that a terminal obeys.
func report(err error) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, shorten(err.Error(), reportedText))
}
