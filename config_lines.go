// Line numbers of configuration keys, for error messages.
//
// Used by config*.go, cmd*.go and main_rights.go. The TOML decoder returns values without
// their line. This file reads the text a second time and notes the line of each key. It
// reports no mistakes: for text that is not TOML it returns fewer lines, never an error,
// and it never panics. Standard library only; no I/O.

package main

import (
	"fmt"
	"regexp"
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

// bareKeyRunes are what TOML allows in a key without quotes.
const bareKeyRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

// joinPath names the key inside the table at path ("" = the top level). A key
// that TOML could not write without quotes is quoted, so that the result is
// unambiguous and always on one line.
func joinPath(path, key string) string {
	if key == "" || strings.TrimLeft(key, bareKeyRunes) != "" {
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

// scanKeyLines notes the line of every key, table and list element in text. If the
// text exceeds a bound, it stops there and returns the mistake.
func scanKeyLines(text string) (keyLines, *ConfigError) {
	s := keyScanner{rest: strings.TrimPrefix(text, "\ufeff"), line: 1, lines: keyLines{}, elements: map[string]int{}}
	for s.next(); s.kind != endOfText; s.next() {
		switch s.kind {
		case lineEnd:
		case '[':
			s.header()
		default:
			s.pair(s.table)
		}
		// In valid text the line has ended. In other text this makes sure that the
		// loop ends.
		for s.kind != lineEnd && s.kind != endOfText {
			s.next()
		}
	}
	return s.lines, s.excess
}

// tokens matches one token: a string of either kind over lines, a string of either
// kind on one line, which a line end also ends; line ends with the blanks and
// comments around them; a character of syntax; or a run of others, which is a key
// or a piece of a value.
var tokens = regexp.MustCompile(`(?s)^(?:"""(?:\\.?|[^\\])*?(?:"{3,5}|\z)|'''.*?(?:'{3,5}|\z)|"(?:\\.|[^"\\\n])*"?|'[^'\n]*'?|` +
	`(?:#[^\n]*|\n\s*)+|[][{}=,.]|[^][{}=,."'#\s]+)`)

// The kind of a token is its first byte, but for these.
const (
	endOfText = 0
	lineEnd   = '\n' // also of a comment before it
)

// keyScanner walks the text once, from front to back.
type keyScanner struct {
	token    string
	kind     byte           // of token
	line     int            // on which token begins
	rest     string         // what is behind token
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

// next goes to the next token.
func (s *keyScanner) next() {
	s.line += strings.Count(s.token, "\n")
	s.rest = strings.TrimLeft(s.rest, " \t\r")
	s.token = tokens.FindString(s.rest)
	s.rest = s.rest[len(s.token):]
	switch {
	case s.token == "":
		s.kind = endOfText
	case s.token[0] == '#':
		s.kind = lineEnd
	default:
		s.kind = s.token[0]
	}
}

// skipLineEnd goes to the next token if this is a line end.
func (s *keyScanner) skipLineEnd() {
	if s.kind == lineEnd {
		s.next()
	}
}

// refuse ends the walk: the text exceeds a bound at path.
func (s *keyScanner) refuse(path string, line int, format string, args ...any) {
	if s.excess == nil {
		s.excess = &ConfigError{Line: line, Key: path, Msg: fmt.Sprintf(format, args...)}
	}
	s.rest, s.token, s.kind = "", "", endOfText
}

// refuseDepth ends the walk at path, which is nested too deep.
func (s *keyScanner) refuseDepth(path string) {
	s.refuse(path, s.line, "keys and lists are nested more than %d levels deep, want fewer", maxKeyLevels)
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
	line := s.line
	s.next()
	isArray := s.kind == '['
	if isArray {
		s.next()
	}
	keys := s.key(keyPlace{})
	if len(keys) == 0 {
		return
	}
	p := keyPlace{}
	for i, key := range keys {
		if isArray && i == len(keys)-1 {
			s.elements[joinPath(p.path, key)]++
		}
		p = s.descend(p, key, line)
	}
	if isArray {
		s.note(p.path, line)
	}
	if s.excess == nil {
		// Not note: a table's own header is a better place than a key that implied
		// the table earlier.
		s.lines[p.path] = line
		s.table = p
	}
}

// pair reads KEY = VALUE inside p and reports whether it looked like one.
func (s *keyScanner) pair(p keyPlace) bool {
	line := s.line
	keys := s.key(p)
	if len(keys) == 0 || s.kind != '=' {
		return false
	}
	for _, key := range keys {
		p = s.descend(p, key, line)
	}
	s.next()
	s.value(p)
	return true
}

// key reads a dotted key inside p. It returns nil when there is none.
func (s *keyScanner) key(p keyPlace) []string {
	var keys []string
	for {
		switch s.kind {
		case '"', '\'':
			keys = append(keys, unquoteKey(s.token))
		case '[', ']', '{', '}', '=', ',', '.', lineEnd, endOfText:
			return nil
		default:
			keys = append(keys, s.token)
		}
		if p.levels+len(keys) > maxKeyLevels {
			for _, key := range keys {
				p.path = joinPath(p.path, key)
			}
			s.refuseDepth(p.path)
			return nil
		}
		if s.next(); s.kind != '.' {
			return keys
		}
		s.next()
	}
}

// value reads one value; p is what the value belongs to.
func (s *keyScanner) value(p keyPlace) {
	switch s.kind {
	case '[', '{':
		s.inside(p)
	case '"', '\'':
		s.next()
	default: // a number, a boolean or a date
		for strings.IndexByte(",]}\n\x00", s.kind) < 0 {
			s.next()
		}
	}
}

// inside reads [VALUE, VALUE], over as many lines as it takes, or { KEY = VALUE, … }.
func (s *keyScanner) inside(p keyPlace) {
	isList := s.kind == '['
	if isList && p.levels == maxKeyLevels {
		s.refuseDepth(p.path)
		return
	}
	s.next()
	s.skipLineEnd()
	for i := 0; s.kind != ']' && s.kind != '}' && s.kind != endOfText; i++ {
		if isList {
			element := keyPlace{indexPath(p.path, i), p.levels + 1}
			s.note(element.path, s.line)
			s.value(element)
		} else if !s.pair(p) {
			return
		}
		s.skipLineEnd()
		if s.kind == ',' {
			s.next()
			s.skipLineEnd()
		}
	}
	s.next()
}

// goEscapes replaces the escapes of TOML that Go lacks or reads differently.
var goEscapes = strings.NewReplacer(`\\`, `\\`, `\e`, `\u001b`, `\x`, `\u00`)

// unquoteKey returns the key that is meant by token, a string on one line. A key
// with an escape that TOML does not have is returned as it is written.
func unquoteKey(token string) string {
	if key, err := strconv.Unquote(goEscapes.Replace(token)); err == nil && token[0] == '"' {
		return key
	}
	return token[1:max(1, len(token)-1)]
}
