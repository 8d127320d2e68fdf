package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFilegraph(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":    "module example\ngo 1.24\n",
		"ground.go": "package main\n\ntype noun struct{ a, b, c int }\n",
		"one.go":    "package main\n\nfunc (n noun) one() {\n\tif n.a > 0 {\n\t\ttwo(n)\n\t}\n}\n",
		"two.go":    "package main\n\nfunc two(n noun) { n.one() }\n",
		"main.go":   "package main\n\nfunc main() { two(noun{}) }\n",
		"config.go": "package main\n\ntype config struct{ a, b, c int }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	components := p.graph().components()
	var got []string
	for _, c := range components {
		got = append(got, strings.Join(c.files, "+"))
	}
	if want := []string{"config.go", "ground.go", "one.go+two.go", "main.go"}; !slices.Equal(got, want) {
		t.Errorf("components %q, want %q", got, want)
	}
	if n := p.size(components[2]); n != 10 {
		t.Errorf("one.go and two.go have %d lines, want 10", n)
	}
	for _, test := range []struct {
		what       string
		over, held []string
	}{
		{"one.go two.go", p.tooLarge(components, 9), p.tooLarge(components, 10)},
		{"one.go:3: func one has 5 lines", p.longFunctions(4), p.longFunctions(5)},
		{"ground.go:3: struct noun has 3 fields", p.wideStructs(2), p.wideStructs(3)},
	} {
		if len(test.over) != 1 || !strings.HasPrefix(test.over[0], test.what) || len(test.held) > 0 {
			t.Errorf("over the limit: %q, want one that begins with %q; within it: %q", test.over, test.what, test.held)
		}
	}
}
