// Line numbers of configuration keys.
//
// The TOML decoder hands out values without their place in the file, and a
// mistake without a line is hard to find in a long file. This file reads the
// text a second time, only to note on which line each key stands.
// config_toml.go calls it, after the decoder has accepted the text. It judges
// nothing: text that is not TOML gives fewer lines, never an error and never a
// panic. Standard library only; no I/O.

package main

import (
	"strconv"
	"strings"
)

// maxKeyPath is the length in bytes after which a key path is not made any
// longer. No key of ours is near it; it keeps a file of nothing but brackets
// from taking memory with the square of its size.
const maxKeyPath = 1024

// keyLines maps a key path, "vip[1].drain.timeout", to the line it stands on,
// counted from 1.
type keyLines map[string]int

// line returns the line of path or, when the text has no such key, of the
// nearest enclosing table or list that has one, and 1 as the last resort.
func (l keyLines) line(path string) int {
	for path != "" {
		if n, ok := l[path]; ok {
			return n
		}
		path = parentPath(path)
	}
	return 1
}

// joinPath names the key inside the table at path ("" = the top level). A key
// that TOML could not write without quotes is quoted, so that the result is
// unambiguous and always on one line.
func joinPath(path, key string) string {
	if len(path) > maxKeyPath {
		return path
	}
	if key == "" || strings.IndexFunc(key, func(r rune) bool { return !isBareKeyRune(r) }) >= 0 {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// indexPath names element i of the list at path.
func indexPath(path string, i int) string {
	if len(path) > maxKeyPath {
		return path
	}
	return path + "[" + strconv.Itoa(i) + "]"
}

// parentPath cuts the last key or index off path; "" is the top level.
func parentPath(path string) string {
	cut := 0
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '.', '[':
			cut = i
		case '"': // dots and brackets inside a quoted key do not count
			for i++; i < len(path) && path[i] != '"'; i++ {
				if path[i] == '\\' {
					i++
				}
			}
		}
	}
	return path[:cut]
}

// isBareKeyRune reports whether TOML allows r in a key without quotes.
func isBareKeyRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

// scanKeyLines notes the line of every key, table and list element in text.
func scanKeyLines(text string) keyLines {
	s := keyScanner{text: text, lineNo: 1, lines: keyLines{}, elements: map[string]int{}}
	if strings.HasPrefix(text, "\ufeff") {
		s.pos = len("\ufeff")
	}
	for {
		s.skipBlank()
		switch s.peek() {
		case endOfText:
			return s.lines
		case '[':
			s.header()
		default:
			s.pair(s.table)
		}
		// In valid text only blanks and a comment are left here. In other
		// text this is what guarantees progress.
		s.skipLine()
	}
}

// endOfText is what peek returns behind the last byte.
const endOfText = -1

// keyScanner walks the text once, from front to back.
type keyScanner struct {
	text     string
	pos      int            // offset of the next byte
	lineNo   int            // line of the next byte
	lines    keyLines       // the result
	table    string         // path of the table that the last header opened
	elements map[string]int // path of an [[array of tables]] → elements so far
}

// peek returns the next byte without taking it.
func (s *keyScanner) peek() int {
	if s.pos >= len(s.text) {
		return endOfText
	}
	return int(s.text[s.pos])
}

// skip takes n bytes, or what is left.
func (s *keyScanner) skip(n int) {
	end := min(s.pos+n, len(s.text))
	s.lineNo += strings.Count(s.text[s.pos:end], "\n")
	s.pos = end
}

// skipUntil takes everything before the first byte that is in stop.
func (s *keyScanner) skipUntil(stop string) {
	if n := strings.IndexAny(s.text[s.pos:], stop); n >= 0 {
		s.skip(n)
		return
	}
	s.skip(len(s.text))
}

// skipSpaces takes blanks that do not end a line.
func (s *keyScanner) skipSpaces() {
	for s.peek() == ' ' || s.peek() == '\t' {
		s.skip(1)
	}
}

// skipLine takes the rest of the line, but not its end.
func (s *keyScanner) skipLine() { s.skipUntil("\n") }

// skipBlank takes blanks, line ends and comments.
func (s *keyScanner) skipBlank() {
	for {
		switch s.peek() {
		case ' ', '\t', '\r', '\n':
			s.skip(1)
		case '#':
			s.skipLine()
		default:
			return
		}
	}
}

// note records that the key at path stands on line n. The first place counts:
// a table that is opened again, or implied by a dotted key, keeps its line.
func (s *keyScanner) note(path string, n int) {
	if _, ok := s.lines[path]; !ok {
		s.lines[path] = n
	}
}

// descend notes the key inside path and returns its path, going on into the
// newest element when the key is an array of tables.
func (s *keyScanner) descend(path, key string, line int) string {
	path = joinPath(path, key)
	s.note(path, line)
	if n := s.elements[path]; n > 0 {
		path = indexPath(path, n-1)
	}
	return path
}

// header reads [table] or [[array of tables]].
func (s *keyScanner) header() {
	line := s.lineNo
	s.skip(1)
	isArray := s.peek() == '['
	if isArray {
		s.skip(1)
	}
	keys := s.key()
	if len(keys) == 0 {
		return
	}
	path, last := "", len(keys)-1
	for _, key := range keys[:last] {
		path = s.descend(path, key, line)
	}
	path = joinPath(path, keys[last])
	if isArray {
		s.note(path, line)
		s.elements[path]++
		path = indexPath(path, s.elements[path]-1)
	}
	// Not note: a table's own header is a better place than a key that implied
	// the table earlier.
	s.lines[path] = line
	s.table = path
}

// pair reads KEY = VALUE inside the table at path and reports whether it
// looked like one.
func (s *keyScanner) pair(path string) bool {
	line := s.lineNo
	keys := s.key()
	if len(keys) == 0 || s.peek() != '=' {
		return false
	}
	s.skip(1)
	for _, key := range keys {
		path = s.descend(path, key, line)
	}
	s.skipSpaces()
	s.value(path)
	return true
}

// key reads a dotted key and the blanks behind it. It returns nil when there
// is none.
func (s *keyScanner) key() []string {
	var keys []string
	for {
		s.skipSpaces()
		start := s.pos
		switch s.peek() {
		case '"':
			keys = append(keys, unescapeKey(s.quoted('"')))
		case '\'':
			keys = append(keys, s.quoted('\''))
		default:
			for s.peek() != endOfText && isBareKeyRune(rune(s.peek())) {
				s.skip(1)
			}
			if s.pos == start {
				return nil
			}
			keys = append(keys, s.text[start:s.pos])
		}
		s.skipSpaces()
		if s.peek() != '.' {
			return keys
		}
		s.skip(1)
	}
}

// value reads one value; path is what the value belongs to.
func (s *keyScanner) value(path string) {
	rest := s.text[s.pos:]
	switch {
	case strings.HasPrefix(rest, `"""`), strings.HasPrefix(rest, "'''"):
		s.multiline(rest[:3])
	case strings.HasPrefix(rest, `"`), strings.HasPrefix(rest, "'"):
		s.quoted(rest[0])
	case strings.HasPrefix(rest, "["):
		s.list(path)
	case strings.HasPrefix(rest, "{"):
		s.inlineTable(path)
	default: // a number, a boolean or a date
		s.skipUntil(",]}#\n")
	}
}

// list reads [VALUE, VALUE], over as many lines as it takes.
func (s *keyScanner) list(path string) {
	s.skip(1)
	for i := 0; ; i++ {
		s.skipBlank()
		if c := s.peek(); c == ']' || c == endOfText {
			s.skip(1)
			return
		}
		element := indexPath(path, i)
		s.note(element, s.lineNo)
		s.value(element)
		if !s.comma() {
			return
		}
	}
}

// inlineTable reads { KEY = VALUE, … }.
func (s *keyScanner) inlineTable(path string) {
	s.skip(1)
	for {
		s.skipBlank()
		if s.peek() == '}' {
			s.skip(1)
			return
		}
		if !s.pair(path) || !s.comma() {
			return
		}
	}
}

// comma reads what follows an element: true after a comma, false when the list
// or inline table has ended.
func (s *keyScanner) comma() bool {
	s.skipBlank()
	c := s.peek()
	if c == ',' || c == ']' || c == '}' {
		s.skip(1)
	}
	return c == ','
}

// quoted reads a string on one line, "basic" or 'literal', and returns what is
// between the quotes. A line end also ends it: TOML allows none inside.
func (s *keyScanner) quoted(quote byte) string {
	s.skip(1)
	start := s.pos
	for {
		switch c := s.peek(); {
		case c == int(quote):
			content := s.text[start:s.pos]
			s.skip(1)
			return content
		case c == '\n' || c == endOfText:
			return s.text[start:s.pos]
		case c == '\\' && quote == '"':
			s.skip(2)
		default:
			s.skip(1)
		}
	}
}

// multiline reads a string between three quotes, over as many lines as it
// takes. One or two more quotes at its end belong to the string.
func (s *keyScanner) multiline(quotes string) {
	s.skip(len(quotes))
	for s.peek() != endOfText {
		switch {
		case s.peek() == '\\' && quotes[0] == '"':
			s.skip(2)
		case strings.HasPrefix(s.text[s.pos:], quotes):
			for s.skip(len(quotes)); s.peek() == int(quotes[0]); {
				s.skip(1)
			}
			return
		default:
			s.skip(1)
		}
	}
}

// unescapeKey resolves the escapes of a quoted key. What is no TOML escape
// comes back as it was written.
func unescapeKey(raw string) string {
	var b strings.Builder
	for rest := raw; rest != ""; {
		switch { // TOML has two escapes that Go lacks or reads differently
		case strings.HasPrefix(rest, `\e`):
			rest = `\x1b` + rest[2:]
		case strings.HasPrefix(rest, `\x`):
			rest = `\u00` + rest[2:]
		}
		r, _, tail, err := strconv.UnquoteChar(rest, '"')
		if err != nil {
			return raw
		}
		b.WriteRune(r)
		rest = tail
	}
	return b.String()
}
