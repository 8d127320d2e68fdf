// The log messages of the program and docs/operations.md, which explains each.

package main

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A message is what the log says of one event. "…" is the part that differs.
type message struct{ level, text string }

func (m message) String() string { return "| " + m.level + " | " + m.text + " |" }

// madeAtRunTime are the messages whose text no source line has, by the expression
// that makes it.
var madeAtRunTime = map[string]string{
	"w.Text": "vip …: …", // a warning of the desired table
}

// A messageReader collects the messages of a program.
type messageReader struct {
	t        *testing.T
	set      *token.FileSet
	files    []*ast.File
	messages map[message]string // where
}

// readMessages collects what the files of dir log: the calls of a logger, and those
// that pass a level and a message on.
func readMessages(t *testing.T, dir string) map[message]string {
	t.Helper()
	r := messageReader{t: t, set: token.NewFileSet(), messages: map[message]string{}}
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if !strings.HasSuffix(p, "_test.go") {
			f, err := parser.ParseFile(r.set, p, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			r.files = append(r.files, f)
		}
	}
	for _, f := range r.files {
		for _, d := range f.Decls {
			ast.Inspect(d, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					r.read(d, call)
				}
				return true
			})
		}
	}
	return r.messages
}

var (
	logMethods = map[string]string{"Debug": "DEBUG", "Info": "INFO", "Warn": "WARN", "Error": "ERROR"}
	levelNames = map[string]string{"LevelDebug": "DEBUG", "LevelInfo": "INFO", "LevelWarn": "WARN", "LevelError": "ERROR"}
)

// read adds the messages of a call in d, if it logs.
func (r *messageReader) read(d ast.Decl, call *ast.CallExpr) {
	method, receiver := "", ""
	switch fun := call.Fun.(type) {
	case *ast.SelectorExpr:
		method, receiver = fun.Sel.Name, lastName(fun.X)
	case *ast.Ident:
		method = fun.Name
	}
	isLog := strings.EqualFold(receiver, "log")
	switch {
	case logMethods[method] != "" && isLog && len(call.Args) > 0:
		r.add(d, logMethods[method], call.Args[0])
	case logMethods[method] != "" && len(call.Args) > 0 && receiver != "http":
		r.t.Errorf("%s: is %s a logger? Call it log", r.set.Position(call.Pos()), receiver)
	case method == "Log" && isLog && len(call.Args) > 2:
		r.add(d, strings.Join(r.levels(call.Args[1]), " or "), call.Args[2])
	case len(call.Args) > 1: // a function that logs what it is given
		if levels := r.levels(call.Args[0]); len(levels) > 0 {
			r.add(d, strings.Join(levels, " or "), call.Args[1])
		}
	}
}

// add adds the messages that e can be. No level is one that the callers give, and then
// so is the message.
func (r *messageReader) add(d ast.Decl, level string, e ast.Expr) {
	at := r.set.Position(e.Pos()).String()
	var texts []string
	if s, ok := madeAtRunTime[expressionText(e)]; ok {
		texts = []string{s}
	} else {
		texts = r.texts(d, e)
	}
	if level == "" {
		return
	}
	if len(texts) == 0 {
		r.t.Errorf("%s: this message is made at run time: make it a constant, or add it to madeAtRunTime", at)
	}
	for _, s := range texts {
		r.messages[message{level, s}] = at
	}
}

// levels are the levels that e can be: a constant of slog, or what a method returns.
func (r *messageReader) levels(e ast.Expr) (levels []string) {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		if lastName(e.X) == "slog" && levelNames[e.Sel.Name] != "" {
			return []string{levelNames[e.Sel.Name]}
		}
	case *ast.CallExpr:
		fun, ok := e.Fun.(*ast.SelectorExpr)
		if !ok || len(e.Args) > 0 {
			return nil
		}
		for _, f := range r.files {
			for _, d := range f.Decls {
				if fd, ok := d.(*ast.FuncDecl); ok && fd.Recv != nil && fd.Name.Name == fun.Sel.Name {
					ast.Inspect(fd, func(n ast.Node) bool {
						if sel, ok := n.(*ast.SelectorExpr); ok && lastName(sel.X) == "slog" && levelNames[sel.Sel.Name] != "" {
							levels = append(levels, levelNames[sel.Sel.Name])
						}
						return true
					})
				}
			}
		}
	}
	slices.Sort(levels)
	slices.Reverse(levels) // WARN or ERROR
	return slices.Compact(levels)
}

// texts are the values that e can have. d is the declaration it is in, for its
// variables.
func (r *messageReader) texts(d ast.Decl, e ast.Expr) (all []string) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil {
			return []string{s}
		}
	case *ast.BinaryExpr:
		left, right := r.texts(d, e.X), r.texts(d, e.Y)
		if len(left)+len(right) == 0 {
			return nil
		}
		for _, a := range orUnknown(left) {
			for _, b := range orUnknown(right) {
				all = append(all, a+b)
			}
		}
		return all
	case *ast.IndexExpr: // an element of a table of messages
		return r.named(lastName(e.X), nil)
	case *ast.Ident:
		return r.named(e.Name, d)
	}
	return nil
}

func orUnknown(texts []string) []string {
	if len(texts) == 0 {
		return []string{"…"}
	}
	return texts
}

// named are the strings that a name stands for: those assigned to it in d, or else
// those of the package's constant or table.
func (r *messageReader) named(name string, d ast.Decl) (all []string) {
	from := func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, left := range n.Lhs {
				if lastName(left) == name && i < len(n.Rhs) {
					all = append(all, r.texts(nil, n.Rhs[i])...)
				}
			}
		case *ast.ValueSpec:
			for i, id := range n.Names {
				if id.Name != name || i >= len(n.Values) {
					continue
				}
				if table, ok := n.Values[i].(*ast.CompositeLit); ok {
					for _, e := range table.Elts {
						if pair, ok := e.(*ast.KeyValueExpr); ok {
							e = pair.Value
						}
						all = append(all, r.texts(nil, e)...)
					}
				} else {
					all = append(all, r.texts(nil, n.Values[i])...)
				}
			}
		}
		return true
	}
	if d != nil {
		ast.Inspect(d, from)
	}
	for _, f := range r.files {
		for _, decl := range f.Decls {
			if g, ok := decl.(*ast.GenDecl); ok && len(all) == 0 {
				ast.Inspect(g, from)
			}
		}
	}
	return all
}

// lastName is b of a.b, of b, and of b().
func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.CallExpr:
		return lastName(e.Fun)
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// expressionText is a.b as it is written.
func expressionText(e ast.Expr) string {
	if sel, ok := e.(*ast.SelectorExpr); ok {
		return expressionText(sel.X) + "." + sel.Sel.Name
	}
	return lastName(e)
}

const operationsPage = "docs/operations.md"

// tableRows are the rows of the tables below a heading of a page, without their heads.
func tableRows(page, heading string) (rows [][]string, err error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		return nil, errors.New(page + " has no section " + heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		switch cells, isRow := strings.CutPrefix(strings.TrimSpace(line), "| "); {
		case isRow:
			rows = append(rows, strings.Split(strings.TrimSuffix(cells, " |"), " | "))
		case strings.HasPrefix(line, "|--") && len(rows) > 0: // what was above is the head
			rows = rows[:len(rows)-1]
		}
	}
	if len(rows) == 0 {
		return nil, errors.New(page + ": no table in " + heading)
	}
	return rows, nil
}

// Each message has a row that explains it, and each row has its message.
func TestMessagesAreDocumented(t *testing.T) {
	source := readMessages(t, ".")
	rows, err := tableRows(operationsPage, "Every message")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[message]bool{}
	for _, row := range rows {
		if len(row) != 4 || slices.Contains(row, "") {
			t.Errorf("%s: a row needs a level, a message, a meaning and what to do: %q", operationsPage, row)
			continue
		}
		m := message{row[0], row[1]}
		if documented[m] {
			t.Errorf("%s: two rows for %s", operationsPage, m)
		}
		documented[m] = true
		if source[m] == "" {
			t.Errorf("%s: superfluous row, the program has no such message: %s", operationsPage, m)
		}
	}
	for _, m := range slices.SortedFunc(maps.Keys(source), func(a, b message) int { return strings.Compare(source[a], source[b]) }) {
		if !documented[m] {
			t.Errorf("%s: missing row for the message of %s: %s … | … |", operationsPage, source[m], m)
		}
	}
}

// What changed since the last release leads from a message that is gone to one that the
// program has, or to none.
func TestChangedMessages(t *testing.T) {
	texts := map[string]bool{}
	for m := range readMessages(t, ".") {
		texts[m.text] = true
	}
	rows, err := tableRows(operationsPage, "Messages that changed")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		switch {
		case len(row) != 2:
			t.Errorf("%s: a row needs the old message and the new one: %q", operationsPage, row)
		case texts[row[0]]:
			t.Errorf("%s: the program still has the message %q", operationsPage, row[0])
		case row[1] != "–" && !texts[row[1]]:
			t.Errorf("%s: the program has no message %q", operationsPage, row[1])
		}
	}
}

var quotedMessage = regexp.MustCompile(`msg=(?:"([^"\n]+)"|([\w.]+))`)

// The log lines that the pages quote are those of the program.
func TestQuotedMessages(t *testing.T) {
	var known []*regexp.Regexp
	for m := range readMessages(t, ".") {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(m.text), "…", ".*")
		known = append(known, regexp.MustCompile("^"+pattern+"$"))
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	quotes := 0
	for _, page := range append(pages, "README.md", "CONTRIBUTING.md", "config.toml.example") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			for _, m := range quotedMessage.FindAllStringSubmatch(line, -1) {
				quotes++
				quote := strings.ReplaceAll(m[1]+m[2], `\"`, `"`)
				if !slices.ContainsFunc(known, func(p *regexp.Regexp) bool { return p.MatchString(quote) }) {
					t.Errorf("%s:%d: the program has no message %q", page, i+1, quote)
				}
			}
		}
	}
	if quotes == 0 {
		t.Error("no page quotes a log line")
	}
}
