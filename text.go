// Bounds for text from outside: what a message, a log line or the status quotes is short,
// whatever its source sends, and a file in the wrong encoding is recognised.
//
// Used by lvs.go, sysctl.go, cluster.go, rtnl*.go, table_listing.go, kube*.go, config*.go,
// genl*.go, health*.go, desired*.go, host*.go, reconcile*.go, http*.go, cmd*.go and main_rights.go.
// It knows nothing of what the text means. Pure; no I/O.

package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// quotedText is how many characters of an input a message quotes.
	quotedText = 80

	// reportedText is how many characters of another program's report, such as
	// an error of the API server, a message keeps.
	reportedText = 1000

	// shownWarnings is how many faults of one kind a warning or the log names.
	// The rest is counted.
	shownWarnings = 20
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

// quotedLen is the length of s in a log line, in bytes.
func quotedLen(s string) int { return len(strconv.Quote(s)) - len(`""`) }

// cutQuoted shortens s to at most n bytes in a log line and shows that it did.
func cutQuoted(s string, n int) string {
	if quotedLen(s) <= n {
		return s
	}
	n -= len("…")
	for i, r := range s {
		if n -= quotedLen(string(r)); n < 0 {
			return s[:i] + "…"
		}
	}
	return s
}

// printable escapes what would break a line or does not print.
func printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if strconv.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			b.WriteString(s[:size])
		} else {
			quoted := strconv.Quote(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// report is err for the log, the status and a terminal: short, on one line, and
// without the characters that a terminal obeys.
func report(err error) string { return printable(shorten(err.Error(), reportedText)) }

// wrap says before err what failed; nil stays nil.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// encodingHead is how many bytes of a file isUTF16 looks at.
const encodingHead = 512

// isUTF16 reports whether text looks like UTF-16, which editors and PowerShell on
// Windows write: it has the byte order mark, or zero bytes as every second one of its
// characters in ASCII. Without the mark, one character in four has to be ASCII.
func isUTF16(text string) bool {
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		return true
	}
	head := text[:min(len(text), encodingHead)]
	var zeros [2]int // at even and at odd places
	for i := range len(head) {
		if head[i] == 0 {
			zeros[i%2]++
		}
	}
	n := zeros[0] + zeros[1]
	return n >= 2 && (zeros[0] == 0 || zeros[1] == 0) && 8*n >= len(head)
}

// quotedList is a list of words as TOML and Go write it, without its brackets.
func quotedList(words []string) string {
	var quoted []string
	for _, w := range words {
		quoted = append(quoted, strconv.Quote(w))
	}
	return strings.Join(quoted, ", ")
}
