// Line numbers of configuration keys, for error messages.
//
// Used by config*.go. The TOML decoder returns values without their line. This
// file reads the text a second time and notes the line of each key. It reports
// no mistakes: for text that is not TOML it returns fewer lines, never an
// error, and it never panics. Standard library only; no I/O.

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// The bounds. Of the keys that the program knows the deepest has 6 levels, and the
// longest path has 40 bytes; 1 MB of [[vip]] with the usual keys has 80,000 keys.
const (
	maxKeyLevels = 8       // keys in keys and lists in lists, together
	maxKeyPath   = 128     // bytes of a path
	maxKeys      = 100_000 // keys, each name of a dotted one, tables and list elements
)

// keyLines maps a key path, "vip[1].drain.timeout", to its line, counted from 1.
type keyLines map[string]int

// line returns the line of path or, when the text has no such key, of the
// nearest enclosing table or list that has one, and 1 if none has.
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

// scanKeyLines notes the line of every key, table and list element in text. If the
// text exceeds a bound, it stops there and returns the mistake.
func scanKeyLines(text string) (keyLines, *ConfigError) {
	s := keyScanner{text: text, lineNo: 1, lines: keyLines{}, elements: map[string]int{}}
	if strings.HasPrefix(text, "\ufeff") {
		s.pos = len("\ufeff")
	}
	for {
		s.skipBlank()
		switch s.peek() {
		case endOfText:
			return s.lines, s.excess
		case '[':
			s.header()
		default:
			s.pair(s.table)
		}
		// In valid text only blanks and a comment are left here. In other text this
		// makes sure that the loop ends.
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
	keys     int            // keys, tables and list elements so far; each name of a dotted key is one
	excess   *ConfigError   // the bound that ended the walk, without File
	table    keyPlace       // what the last header opened
	elements map[string]int // path of an [[array of tables]] → elements so far
}

// keyPlace is a key, a table or a list element.
type keyPlace struct {
	path   string
	levels int
}

// refuse ends the walk: the text exceeds a bound at path.
func (s *keyScanner) refuse(path string, line int, format string, args ...any) {
	if s.excess == nil {
		s.excess = &ConfigError{Line: line, Key: path, Msg: fmt.Sprintf(format, args...)}
	}
	s.pos = len(s.text)
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

// note records that the key at path is on line n. The first place counts: a table
// that is opened again, or implied by a dotted key, keeps its line.
func (s *keyScanner) note(path string, n int) {
	s.keys++
	_, ok := s.lines[path]
	switch {
	case len(path) > maxKeyPath:
		s.refuse(path, n, "the key with the tables it is in is longer than %d bytes, want a shorter one", maxKeyPath)
	case s.keys > maxKeys:
		s.refuse(path, n, "the file has more than %d keys and list elements, want fewer", maxKeys)
	case !ok:
		s.lines[path] = n
	}
}

// descend notes the key inside p and returns its place: that of the newest element
// when the key is an array of tables.
func (s *keyScanner) descend(p keyPlace, key string, line int) keyPlace {
	p = keyPlace{joinPath(p.path, key), p.levels + 1}
	s.note(p.path, line)
	if n := s.elements[p.path]; n > 0 {
		p.path = indexPath(p.path, n-1)
	}
	return p
}

// header reads [table] or [[array of tables]].
func (s *keyScanner) header() {
	line := s.lineNo
	s.skip(1)
	isArray := s.peek() == '['
	if isArray {
		s.skip(1)
	}
	keys := s.key(keyPlace{})
	if len(keys) == 0 {
		return
	}
	p, last := keyPlace{}, len(keys)-1
	for _, key := range keys[:last] {
		p = s.descend(p, key, line)
	}
	p = keyPlace{joinPath(p.path, keys[last]), p.levels + 1}
	if s.note(p.path, line); isArray {
		s.elements[p.path]++
		p.path = indexPath(p.path, s.elements[p.path]-1)
		s.note(p.path, line)
	}
	if s.excess != nil {
		return
	}
	// Not note: a table's own header is a better place than a key that implied
	// the table earlier.
	s.lines[p.path] = line
	s.table = p
}

// pair reads KEY = VALUE inside p and reports whether it looked like one.
func (s *keyScanner) pair(p keyPlace) bool {
	line := s.lineNo
	keys := s.key(p)
	if len(keys) == 0 || s.peek() != '=' {
		return false
	}
	s.skip(1)
	for _, key := range keys {
		if p = s.descend(p, key, line); s.excess != nil {
			return false
		}
	}
	s.skipSpaces()
	s.value(p)
	return true
}

// key reads a dotted key inside p and the blanks behind it. It returns nil when
// there is none.
func (s *keyScanner) key(p keyPlace) []string {
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
		if p.levels+len(keys) > maxKeyLevels {
			for _, key := range keys {
				p.path = joinPath(p.path, key)
			}
			s.refuseDepth(p.path)
			return nil
		}
		s.skipSpaces()
		if s.peek() != '.' {
			return keys
		}
		s.skip(1)
	}
}

// refuseDepth ends the walk at path, which is nested too deep.
func (s *keyScanner) refuseDepth(path string) {
	s.refuse(path, s.lineNo, "keys and lists are nested more than %d levels deep, want fewer", maxKeyLevels)
}

// value reads one value; p is what the value belongs to.
func (s *keyScanner) value(p keyPlace) {
	rest := s.text[s.pos:]
	switch {
	case strings.HasPrefix(rest, `"""`), strings.HasPrefix(rest, "'''"):
		s.multiline(rest[:3])
	case strings.HasPrefix(rest, `"`), strings.HasPrefix(rest, "'"):
		s.quoted(rest[0])
	case strings.HasPrefix(rest, "["):
		s.list(p)
	case strings.HasPrefix(rest, "{"):
		s.inlineTable(p)
	default: // a number, a boolean or a date
		s.skipUntil(",]}#\n")
	}
}

// list reads [VALUE, VALUE], over as many lines as it takes.
func (s *keyScanner) list(p keyPlace) {
	if p.levels == maxKeyLevels {
		s.refuseDepth(p.path)
		return
	}
	s.skip(1)
	for i := 0; ; i++ {
		s.skipBlank()
		if c := s.peek(); c == ']' || c == endOfText {
			s.skip(1)
			return
		}
		element := keyPlace{indexPath(p.path, i), p.levels + 1}
		s.note(element.path, s.lineNo)
		s.value(element)
		if !s.comma() {
			return
		}
	}
}

// inlineTable reads { KEY = VALUE, … }.
func (s *keyScanner) inlineTable(p keyPlace) {
	s.skip(1)
	for {
		s.skipBlank()
		if s.peek() == '}' {
			s.skip(1)
			return
		}
		if !s.pair(p) || !s.comma() {
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

// unescapeKey resolves the escapes of a quoted key. A key with an escape that TOML
// does not have is returned as it is written.
func unescapeKey(raw string) string {
	var b strings.Builder
	for rest := raw; rest != ""; {
		switch { // TOML has two escapes that Go lacks or reads differently
		case strings.HasPrefix(rest, `\e`):
			b.WriteRune('\x1b')
			rest = rest[2:]
			continue
		case strings.HasPrefix(rest, `\x`):
			n, err := strconv.ParseUint(rest[2:min(4, len(rest))], 16, 8)
			if err != nil || len(rest) < 4 {
				return raw
			}
			b.WriteRune(rune(n))
			rest = rest[4:]
			continue
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
