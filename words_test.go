// The words that the project's texts do not use: testdata/words.txt lists them, with
// what to say instead and where they are forbidden.

package main

import (
	"bytes"
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// forbidden is a word of the list.
type forbidden struct {
	word, advice string
	scope        string
	pattern      *regexp.Regexp
	except       []*regexp.Regexp
}

// wordPattern matches whole words, over the end of a line too.
func wordPattern(expression string) (*regexp.Regexp, error) {
	return regexp.Compile(`(?i)\b(?:` + strings.ReplaceAll(expression, " ", `\s+`) + `)\b`)
}

// readWords reads testdata/words.txt: its words, and the files and sections to leave
// out.
func readWords(t *testing.T) (list []forbidden, skip []string) {
	t.Helper()
	const name = "testdata/words.txt"
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	scope := ""
	for i, line := range strings.Split(string(file), "\n") {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		word, advice, isWord := strings.Cut(strings.TrimSpace(line), " -> ")
		switch {
		case verb == "" || strings.HasPrefix(verb, "#"):
		case verb == "scope":
			scope = rest
			for _, s := range strings.Split(rest, ", ") {
				if !slices.Contains([]string{"docs", "usage", "logs", "comments", "none"}, s) {
					t.Fatalf("%s:%d: there is no scope %q", name, i+1, s)
				}
			}
		case verb == "skip":
			skip = append(skip, rest)
		case verb == "except" && len(list) > 0:
			pattern, err := wordPattern(rest)
			if err != nil {
				t.Fatalf("%s:%d: %v", name, i+1, err)
			}
			list[len(list)-1].except = append(list[len(list)-1].except, pattern)
		case isWord && scope != "":
			pattern, err := wordPattern(word)
			if err != nil {
				t.Fatalf("%s:%d: %v", name, i+1, err)
			}
			list = append(list, forbidden{word, advice, scope, pattern, nil})
		default:
			t.Fatalf("%s:%d: neither a word, an exception, a scope nor a file to skip", name, i+1)
		}
	}
	return list, skip
}

// find returns the places in text where the word is used, as offsets.
func (f *forbidden) find(text string) (places []int) {
	for _, except := range f.except {
		text = except.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat("_", len(s)) })
	}
	for _, m := range f.pattern.FindAllStringIndex(text, -1) {
		places = append(places, m[0])
	}
	return places
}

// A passage is text of one scope, with the file and the line where it begins.
type passage struct {
	scope, file string
	line        int
	text        string
}

var (
	// A quoted log line, a row of the table of messages, a script's output.
	printed = regexp.MustCompile(`\bmsg=|^\| (DEBUG|INFO|WARN|ERROR)|^\s*(echo|die)\s|[|;] (echo|die)\s`)
	// What begins a comment, between two words of a phrase.
	leader = regexp.MustCompile(`(?m)^[ \t]*(#|!|//)+`)
)

// pagePassages are the texts for readers: each line is of the scope docs or logs.
// keepalived.conf is printed by the program, and a test compares the two.
func pagePassages(t *testing.T, file string, skip []string) []passage {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var docs, logs strings.Builder
	section := ""
	for line := range strings.Lines(string(content)) {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			section = file + ", " + strings.TrimSpace(heading)
		}
		if slices.Contains(skip, section) {
			line = "\n"
		}
		if printed.MatchString(line) || file == "install/keepalived.conf" {
			docs.WriteString("\n")
			logs.WriteString(line)
		} else {
			docs.WriteString(line)
			logs.WriteString("\n")
		}
	}
	return []passage{{"docs", file, 1, docs.String()}, {"logs", file, 1, logs.String()}}
}

// sourcePassages are the comments of a Go file, and its strings with a blank.
func sourcePassages(t *testing.T, file string) (all []passage) {
	t.Helper()
	set := token.NewFileSet()
	source, err := parser.ParseFile(set, file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	line := func(p token.Pos) int { return set.Position(p).Line }
	for _, c := range source.Comments {
		all = append(all, passage{"comments", file, line(c.Pos()), c.Text()})
	}
	ast.Inspect(source, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.Contains(lit.Value, " ") {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				all = append(all, passage{"logs", file, line(lit.Pos()), s})
			}
		}
		return true
	})
	return all
}

// usagePassage is what -h prints.
func usagePassage(t *testing.T, command string) passage {
	t.Helper()
	var out, errs bytes.Buffer
	run(t.Context(), strings.Fields(command+" -h"), &out, &errs)
	if out.Len()+errs.Len() == 0 {
		t.Errorf("%s -h prints nothing", command)
	}
	return passage{"usage", cmp.Or(command, "lvs-controller") + " -h", 1, out.String() + errs.String()}
}

// The texts use none of the forbidden words in the scopes where the list forbids them.
func TestWords(t *testing.T) {
	skipShort(t)
	list, skip := readWords(t)
	var all []passage
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "config.toml.example", "install/*", "*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			switch {
			case slices.Contains(skip, file) || strings.HasSuffix(file, "_test.go"):
			case strings.HasSuffix(file, ".go"):
				all = append(all, sourcePassages(t, file)...)
			default:
				all = append(all, pagePassages(t, file, skip)...)
			}
		}
	}
	for _, command := range append([]string{""}, namesOf(commands())...) {
		all = append(all, usagePassage(t, command))
	}
	for _, p := range all {
		text := leader.ReplaceAllStringFunc(p.text, func(s string) string { return strings.Repeat(" ", len(s)) })
		for _, f := range list {
			if !slices.Contains(strings.Split(f.scope, ", "), p.scope) {
				continue
			}
			for _, at := range f.find(text) {
				t.Errorf("%s:%d: %q: say instead: %s", p.file, p.line+strings.Count(text[:at], "\n"), f.pattern.FindString(text[at:]), f.advice)
			}
		}
	}
}

// The list is strict: it finds a word in capitals and a phrase over two lines, and
// leaves alone what it exempts.
func TestWordsAreFound(t *testing.T) {
	list, _ := readWords(t)
	for text, want := range map[string]int{
		"Nobody is served":                      1,
		"an address for\never, and for ever":    2,
		"what another hand\n  changed":          1,
		"removal_brake stops it":                0,
		"a brake stops it":                      1,
		"turns the check off, once a turn":      1,
		"the hold time, withdraw_hold":          0,
		"it holds the VIP":                      1,
		"a part of the table, a view of it":     0,
		"a stand-alone director has a listener": 1,
	} {
		got := 0
		for _, f := range list {
			if f.scope != "none" {
				got += len(f.find(text))
			}
		}
		if got != want {
			t.Errorf("%q: %d words found, want %d", text, got, want)
		}
	}
}
