// Reads the text of keepalived.conf: lines, files that it includes, definitions, blocks.
//
// Used by cmd_import_checks.go and cmd_import_keepalived.go. It knows no keyword but
// include. What it reads are regular files, bounded in size, number and depth. The rules
// are those of keepalived 2.2.7 (lib/parser.c, keepalived.conf(5)): a comment begins with
// # or !, a definition with $, a line for one configuration id with @; braces count
// everywhere but in double quotes. The value of regex keeps its escapes.

package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Bounds of a configuration with all files that it includes.
const (
	maxConfSize    = 8 << 20 // bytes
	maxConfFiles   = 1000
	maxConfLine    = 4096 // bytes, also after a substitution; keepalived has 1024
	maxConfLines   = 200_000
	maxConfDepth   = 16 // files in files, blocks in blocks, definitions in definitions
	maxConfChanges = 64 // substitutions in one line
)

var tooLargeConf = fmt.Sprintf("the configuration has more than %d MiB or %d lines, with those of definitions and included files", maxConfSize>>20, maxConfLines)

var tooDeepConf = fmt.Sprintf("blocks, definitions or files are inside each other more than %d times", maxConfDepth)

// confStatement is a line: its words, and the block behind them.
type confStatement struct {
	at       *importPlace
	words    []string
	block    []*confStatement
	hasBlock bool
}

// word is word i, "" when there are fewer.
func (s *confStatement) word(i int) string {
	if i < len(s.words) {
		return s.words[i]
	}
	return ""
}

// confDefinition is what $NAME means: one line or several.
type confDefinition struct {
	lines []string
	open  bool // the next line of the file belongs to it
}

// confReader is the state of a reading.
type confReader struct {
	id      string // configuration id of this host
	size    int
	files   int
	lines   int
	defs    map[string]*confDefinition
	open    *confDefinition
	remarks []remark
	// others are the lines for another configuration id, of which the first is first.
	others int
	first  *importPlace
	top    confStatement    // its block is the whole
	stack  []*confStatement // blocks that are open
	last   *confStatement   // the statement that a block may follow
}

// confSource is the file that a line is from.
type confSource struct {
	name, directory string
	depth           int
}

// readConf reads the file at path, or in when path is "-".
func readConf(path, id string, in io.Reader) (*confReader, error) {
	r := &confReader{id: id, defs: make(map[string]*confDefinition)}
	r.stack = []*confStatement{&r.top}
	var text []byte
	var err error
	source := confSource{name: path, directory: filepath.Dir(path)}
	if path == "-" {
		source.name = "standard input"
		text, err = io.ReadAll(io.LimitReader(in, maxConfSize+1))
	} else {
		text, err = readRegular(path, maxConfSize)
	}
	if err == nil {
		err = r.text(string(text), source)
	}
	if err != nil {
		return nil, err
	}
	if n := len(r.stack); n > 1 {
		return nil, r.stack[n-1].at.mistake("the block has no } at its end")
	}
	if r.others > 0 {
		r.remarks = append(r.remarks, remark{at: r.first, text: fmt.Sprintf("%d %s with @ %s for another configuration id than %q; -config-id chooses it",
			r.others, plural(r.others, "line", "lines"), plural(r.others, "is", "are"), shorten(id, quotedText))})
	}
	return r, nil
}

// text reads the lines of a file.
func (r *confReader) text(text string, source confSource) error {
	r.files++
	n := 0
	for line := range strings.Lines(text) {
		n++
		at := &importPlace{source.name, n, r.lines}
		if err := r.line(strings.TrimRight(line, "\r\n"), at, source); err != nil {
			return err
		}
	}
	r.open = nil // a definition ends with its file
	return nil
}

// bound counts a line, and refuses one that is too many or too long.
func (r *confReader) bound(text string, at *importPlace) error {
	r.lines++
	switch r.size += len(text); {
	case r.size > maxConfSize || r.lines > maxConfLines:
		return at.mistake(tooLargeConf)
	case len(text) > maxConfLine:
		return at.mistake(fmt.Sprintf("the line has more than %d bytes", maxConfLine))
	}
	return nil
}

// line reads one line of a file or of a definition.
func (r *confReader) line(text string, at *importPlace, source confSource) error {
	if err := r.bound(text, at); err != nil {
		return err
	}
	if source.depth > maxConfDepth {
		return at.mistake(tooDeepConf)
	}
	text = withoutComment(text)
	if r.open != nil {
		r.open.add(text)
		if !r.open.open {
			r.open = nil
		}
		return nil
	}
	var rest []string
	for ; ; text = withoutComment(text) {
		var is bool
		if text, is = r.condition(text, at); !is || r.definition(text) {
			return nil
		}
		if strings.HasPrefix(text, "~") {
			r.remarks = append(r.remarks, remark{at: at, text: strconv.Quote(shorten(text, 20)) + ": lines with ~SEQ and ~LST are not read, want them written out"})
			return nil
		}
		changed, more, err := r.substitute(text, source)
		if err != nil {
			return at.mistake(err.Error())
		}
		if rest = append(more, rest...); changed == text {
			break
		}
		if text = changed; r.size > maxConfSize {
			return at.mistake(tooLargeConf)
		}
	}
	if err := r.statement(text, at, source); err != nil {
		return err
	}
	source.depth++
	for _, line := range rest {
		if err := r.line(line, at, source); err != nil {
			return err
		}
	}
	return nil
}

// statement reads a line in which everything has been substituted.
func (r *confReader) statement(text string, at *importPlace, source confSource) error {
	if word, pattern, _ := strings.Cut(strings.ReplaceAll(text, "\t", " "), " "); includeWords.MatchString(word) && pattern != "" {
		return r.include(strings.Trim(strings.TrimSpace(pattern), `"`), at, source)
	}
	return r.tokens(text, at)
}

// withoutComment cuts a comment off, and the white space around the rest. A backslash
// at the end of the line stays.
func withoutComment(text string) string {
	var b strings.Builder
	quoted := false
scan:
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && i+1 < len(text):
			i++
			if quoted || text[i] != '#' && text[i] != '!' {
				b.WriteByte(c)
			}
			b.WriteByte(text[i])
			continue
		case (c == '#' || c == '!') && !quoted:
			break scan
		}
		b.WriteByte(text[i])
	}
	return strings.TrimSpace(b.String())
}

// condition takes @id off the line, and reports whether the line is for this host.
func (r *confReader) condition(text string, at *importPlace) (string, bool) {
	for strings.HasPrefix(text, "@") {
		id, rest := text[1:], ""
		if i := strings.IndexFunc(id, unicode.IsSpace); i >= 0 {
			id, rest = id[:i], strings.TrimSpace(id[i:])
		}
		id, not := strings.CutPrefix(id, "^")
		if (id == r.id) == not {
			if r.others++; r.others == 1 {
				r.first = at
			}
			return "", false
		}
		text = rest
	}
	return text, text != ""
}

var (
	includeWords   = regexp.MustCompile(`^include[rmwba]?$`)
	definitionLine = regexp.MustCompile(`^\$([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.*)$`)
	// A reference has braces, or ends with white space or the line.
	reference = regexp.MustCompile(`\$(?:\{([A-Za-z_][A-Za-z0-9_]*)[^{}]*\}|([A-Za-z_][A-Za-z0-9_]*)(?:\s|$))`)
)

// definition takes a line that defines something, and reports whether it does.
func (r *confReader) definition(text string) bool {
	m := definitionLine.FindStringSubmatch(text)
	if m == nil {
		return false
	}
	d := new(confDefinition)
	if d.add(m[2]); d.open {
		r.open = d
	}
	r.defs[strings.Clone(m[1])] = d
	return true
}

// add takes the next line of d. A backslash at its end says that one more follows.
func (d *confDefinition) add(text string) {
	if text, d.open = strings.CutSuffix(text, `\`); d.open {
		text = strings.TrimSpace(text)
	}
	if text != "" || len(d.lines) == 0 && !d.open {
		d.lines = append(d.lines, text)
	}
}

// substitute replaces all references in text that are defined, also those in what
// replaces them. more are the lines that follow, of definitions with several.
func (r *confReader) substitute(text string, source confSource) (string, []string, error) {
	var more []string
	for at, changes := 0, 0; ; {
		m := reference.FindStringSubmatchIndex(text[at:])
		if m == nil {
			return text, more, nil
		}
		name, behind := m[2:4], m[1]
		if m[2] < 0 {
			name, behind = m[4:6], m[5]
		}
		value, err := r.value(text[at+name[0]:at+name[1]], source)
		switch {
		case err != nil:
			return "", nil, err
		case len(value) == 0: // an unknown one stays as it is
			at += m[0] + 1
			continue
		}
		text = text[:at+m[0]] + value[0] + text[at+behind:]
		more = append(slices.Clone(value[1:]), more...)
		r.size += len(text)
		if changes++; changes > maxConfChanges || len(text) > maxConfLine {
			return "", nil, errors.New("the definitions in this line make it longer and longer")
		}
		at += m[0]
	}
}

// value is what $NAME means, nil for one that is not known.
func (r *confReader) value(name string, source confSource) ([]string, error) {
	if d := r.defs[name]; d != nil {
		return append(d.lines, "")[:max(1, len(d.lines))], nil
	}
	switch name {
	case "_PWD":
		return []string{source.directory}, nil
	case "_INSTANCE":
		return []string{r.id}, nil
	case "_HASH":
		return []string{`\#`}, nil
	case "_BANG":
		return []string{`\!`}, nil
	case "_RANDOM":
		return nil, errors.New("$_RANDOM is another number each time the file is read, want the number")
	}
	return nil, nil
}

// include reads the files that pattern names, relative to the file that includes them.
func (r *confReader) include(pattern string, at *importPlace, source confSource) error {
	whole := pattern
	if !filepath.IsAbs(whole) {
		whole = filepath.Join(source.directory, whole)
	}
	why := ""
	names, err := filepath.Glob(whole)
	switch {
	case strings.ContainsAny(pattern, "{}"):
		why = "a pattern with braces is not read, want one include for each file"
	case err != nil:
		why = "this is no pattern of names"
	case len(names) == 0:
		why = "there is no such file"
	case source.depth >= maxConfDepth || r.files+len(names) > maxConfFiles:
		return at.mistake(fmt.Sprintf("more than %d files include each other, or more than %d are included", maxConfDepth, maxConfFiles))
	}
	if why != "" {
		r.remarks = append(r.remarks, remark{at: at, text: "include " + shorten(pattern, quotedText) + ": " + why})
		return nil
	}
	for _, name := range names {
		text, err := readRegular(name, maxConfSize)
		if err != nil { // keepalived goes on without it, too
			r.remarks = append(r.remarks, remark{at: at, text: "include: " + err.Error()})
			continue
		}
		if err := r.text(string(text), confSource{name, filepath.Dir(name), source.depth + 1}); err != nil {
			return err
		}
	}
	return nil
}

// tokens takes a line apart, and puts it into the tree.
func (r *confReader) tokens(text string, at *importPlace) error {
	s := &confStatement{at: at}
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		switch text[0] {
		case '{', '}':
			r.put(s)
			s = &confStatement{at: at}
			if err := r.brace(text[0], at); err != nil {
				return err
			}
			text = text[1:]
		case '"':
			end := quotationEnd(text[1:], s.word(0) == regexWord)
			if end < 0 {
				return at.mistake("a quotation has no end")
			}
			s.words = append(s.words, text[1:end+1])
			text = text[end+2:]
		default:
			end := wordEnd(text)
			s.words = append(s.words, text[:end])
			text = text[end:]
		}
	}
	r.put(s)
	return nil
}

// wordEnd is where the word that text begins with ends. An unknown ${NAME} is a part of
// a word.
func wordEnd(text string) int {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '$' && i+1 < len(text) && text[i+1] == '{':
			end := strings.IndexByte(text[i:], '}')
			if end < 0 {
				return len(text)
			}
			i += end
		case c == '"' || c == '{' || c == '}' || c == ' ' || c == '\t' || c == '\v' || c == '\f' || c == '\r' || c == '\n':
			return i
		}
	}
	return len(text)
}

// put adds s to the block that is open, if it has words.
func (r *confReader) put(s *confStatement) {
	if len(s.words) > 0 {
		block := r.stack[len(r.stack)-1]
		block.block = append(block.block, s)
		r.last = s
	}
}

// brace begins or ends a block.
func (r *confReader) brace(c byte, at *importPlace) error {
	switch {
	case c == '{' && (r.last == nil || r.last.hasBlock):
		return at.mistake("{ is not behind a keyword")
	case c == '{' && len(r.stack) > maxConfDepth:
		return at.mistake(tooDeepConf)
	case c == '{':
		r.last.hasBlock = true
		r.stack = append(r.stack, r.last)
	case len(r.stack) == 1:
		return at.mistake("} ends no block")
	default:
		r.stack = r.stack[:len(r.stack)-1]
	}
	r.last = nil
	return nil
}

// regexWord is the keyword whose value has escapes.
const regexWord = "regex"

// quotationEnd is where a quotation ends that begins before text: at the next double
// quote, or where there are escapes at the next one without a backslash.
func quotationEnd(text string, escapes bool) int {
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return i
		case text[i] == '\\' && escapes:
			i++
		}
	}
	return -1
}
