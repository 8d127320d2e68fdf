// filegraph shows which files of a package need each other, and fails when the
// code has grown beyond its limits.
//
//	go run ./test/filegraph [-max 2000] [-functions 80] [-structs 20] [-edges] [DIR]
//
// Two files belong to one component when each can be reached from the other by
// the names that they use. A component is what a reader must understand as a
// whole. `make lint` calls this tool with all limits; it only reads.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	largest := flag.Int("max", 2000, "`lines` of the largest component; 0 is no limit")
	functions := flag.Int("functions", 0, "`lines` of the longest function; 0 is no limit")
	structs := flag.Int("structs", 0, "`fields` of the largest struct outside config*.go; 0 is no limit")
	edges := flag.Bool("edges", false, "print which file uses which names of which other file")
	flag.Parse()
	dir := "."
	if flag.NArg() > 0 {
		dir = flag.Arg(0)
	}
	p, err := load(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "filegraph:", err)
		os.Exit(2)
	}
	g := p.graph()
	if *edges {
		g.printEdges(os.Stdout)
	}
	components := g.components()
	report(os.Stdout, p, g, components)
	var faults []string
	if *largest > 0 {
		faults = append(faults, p.tooLarge(components, *largest)...)
	}
	if *functions > 0 {
		faults = append(faults, p.longFunctions(*functions)...)
	}
	if *structs > 0 {
		faults = append(faults, p.wideStructs(*structs)...)
	}
	for _, f := range faults {
		fmt.Println(f)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
}

// A program is the type-checked package of one directory, without its tests.
type program struct {
	fset  *token.FileSet
	files []*ast.File
	pkg   *types.Package
	info  *types.Info
}

// load asks `go list` for the files of the package in dir and for the export
// data of what it imports, which the go command takes from its build cache.
func load(dir string) (*program, error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,GoFiles,Export,DepOnly", ".")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	type listed struct {
		ImportPath, Dir, Export string
		GoFiles                 []string
		DepOnly                 bool
	}
	exports := make(map[string]string)
	var root *listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("output of go list: %w", err)
		}
		exports[l.ImportPath] = l.Export
		if !l.DepOnly {
			root = &l
		}
	}
	if root == nil {
		return nil, fmt.Errorf("%s: go list names no package", dir)
	}
	p := &program{fset: token.NewFileSet(), info: &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}}
	for _, name := range root.GoFiles {
		f, err := parser.ParseFile(p.fset, filepath.Join(root.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, f)
	}
	open := func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data for %s", path)
		}
		return os.Open(exports[path])
	}
	config := types.Config{Importer: importer.ForCompiler(p.fset, "gc", open)}
	p.pkg, err = config.Check(root.ImportPath, p.fset, p.files, p.info)
	return p, err
}

// file returns the base name of the file that pos lies in.
func (p *program) file(pos token.Pos) string {
	return filepath.Base(p.fset.Position(pos).Filename)
}

// lines returns how many lines the file of that base name has.
func (p *program) lines(name string) int {
	for _, f := range p.files {
		if p.file(f.Package) == name {
			return p.fset.File(f.Package).LineCount()
		}
	}
	return 0
}

// A graph holds for each file which others it uses, and which of their names.
type graph map[string]map[string][]string

func (p *program) graph() graph {
	g := make(graph)
	for _, f := range p.files {
		g[p.file(f.Package)] = make(map[string][]string)
	}
	for id, o := range p.info.Uses {
		if o.Pkg() != p.pkg {
			continue
		}
		user, owner := p.file(id.Pos()), p.file(o.Pos())
		if user != owner && !slices.Contains(g[user][owner], o.Name()) {
			g[user][owner] = append(g[user][owner], o.Name())
		}
	}
	return g
}

func (g graph) printEdges(w io.Writer) {
	for _, user := range slices.Sorted(maps.Keys(g)) {
		for _, owner := range slices.Sorted(maps.Keys(g[user])) {
			fmt.Fprintf(w, "%s -> %s: %s\n", user, owner, strings.Join(slices.Sorted(slices.Values(g[user][owner])), " "))
		}
	}
}

// A component is a set of files that need each other, at its height above the
// files that use no other.
type component struct {
	files []string
	floor int
}

// components finds them by Tarjan's algorithm, which completes a component
// only after all those that it uses; so their floors are known by then.
func (g graph) components() []component {
	var (
		all     []component
		home    = make(map[string]int) // file to its index in all
		seen    = make(map[string]int)
		lowest  = make(map[string]int)
		pending []string
		visit   func(string)
	)
	visit = func(v string) {
		seen[v] = len(seen) + 1
		lowest[v] = seen[v]
		pending = append(pending, v)
		for _, w := range slices.Sorted(maps.Keys(g[v])) {
			if seen[w] == 0 {
				visit(w)
				lowest[v] = min(lowest[v], lowest[w])
			} else if _, done := home[w]; !done {
				lowest[v] = min(lowest[v], seen[w])
			}
		}
		if lowest[v] != seen[v] {
			return
		}
		at := slices.Index(pending, v)
		c := component{files: slices.Sorted(slices.Values(pending[at:]))}
		pending = pending[:at]
		for _, f := range c.files {
			home[f] = len(all)
		}
		for _, f := range c.files {
			for w := range g[f] {
				if home[w] != len(all) {
					c.floor = max(c.floor, all[home[w]].floor+1)
				}
			}
		}
		all = append(all, c)
	}
	for _, f := range slices.Sorted(maps.Keys(g)) {
		if seen[f] == 0 {
			visit(f)
		}
	}
	slices.SortFunc(all, func(a, b component) int {
		return cmp.Or(cmp.Compare(a.floor, b.floor), cmp.Compare(a.files[0], b.files[0]))
	})
	return all
}

func (p *program) size(c component) int {
	n := 0
	for _, f := range c.files {
		n += p.lines(f)
	}
	return n
}

func report(w io.Writer, p *program, g graph, components []component) {
	edges, floors, largest := 0, 0, 0
	for _, owners := range g {
		edges += len(owners)
	}
	for _, c := range components {
		fmt.Fprintf(w, "floor %2d %6d lines  %s\n", c.floor, p.size(c), strings.Join(c.files, " "))
		floors, largest = max(floors, c.floor+1), max(largest, p.size(c))
	}
	fmt.Fprintf(w, "%d files, %d edges, %d components on %d floors; the largest has %d lines\n",
		len(g), edges, len(components), floors, largest)
}

func (p *program) tooLarge(components []component, limit int) (faults []string) {
	for _, c := range components {
		if n := p.size(c); n > limit {
			faults = append(faults, fmt.Sprintf("%s need each other: %d lines, at most %d are allowed", strings.Join(c.files, " "), n, limit))
		}
	}
	return faults
}

// longFunctions measures from the line of func to the one of the last brace.
func (p *program) longFunctions(limit int) (faults []string) {
	for _, f := range p.files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			start, end := p.fset.Position(fn.Pos()), p.fset.Position(fn.End())
			if n := end.Line - start.Line + 1; n > limit {
				faults = append(faults, fmt.Sprintf("%s:%d: func %s has %d lines, at most %d are allowed", p.file(fn.Pos()), start.Line, fn.Name.Name, n, limit))
			}
		}
	}
	return faults
}

// wideStructs leaves out config*.go, whose structs hold what the user may set.
func (p *program) wideStructs(limit int) (faults []string) {
	for _, f := range p.files {
		if strings.HasPrefix(p.file(f.Package), "config") {
			continue
		}
		name := "" // of the type declaration around the struct
		ast.Inspect(f, func(n ast.Node) bool {
			if t, ok := n.(*ast.TypeSpec); ok {
				name = t.Name.Name
			}
			s, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			if n := s.Fields.NumFields(); n > limit {
				faults = append(faults, fmt.Sprintf("%s:%d: struct %s has %d fields, at most %d are allowed",
					p.file(s.Pos()), p.fset.Position(s.Pos()).Line, name, n, limit))
			}
			return true
		})
	}
	return faults
}
