package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// floors orders the families of files, from the ground up. A file belongs to
// the family with the longest name that its own begins with. It may use its
// family and those on the floors below, and no other.
var floors = [][]string{
	{"backoff", "failurelog", "file", "filewatch", "latest", "log", "notify", "sort", "text", "version"}, // tools that know nothing of the job
	{"lvs", "sysctl"},                      // nouns of IPVS; kernel settings
	{"cluster", "packet", "rtnl", "table"}, // nouns of the cluster, raw frames, rtnetlink, rows
	{"diff", "kube"},                       // operations; the cluster as a source
	{"config", "genl"},                     // config.toml; IPVS over generic netlink
	{"conflict", "health"},                 // what other hosts and real servers answer
	{"desired", "state"},                   // the plan, pure; what outlives the process
	{"host", "snapshot"},                   // the host beside IPVS; the cluster on disk
	{"reconcile"},                          // the loop, which alone writes to IPVS
	{"http"},                               // what programs see
	{"cmd"},                                // what people see
	{"main"},                               // puts the parts together
}

// reserved imports belong to one family; those of "" to none.
var reserved = map[string]string{
	"k8s.io/":                         "kube",
	"sigs.k8s.io/":                    "kube",
	"github.com/mdlayher/genetlink":   "genl",
	"github.com/BurntSushi/toml":      "config",
	"github.com/jsimonetti/rtnetlink": "rtnl",
	"github.com/fsnotify/fsnotify":    "filewatch",
	"os/exec":                         "",
}

// familyOf returns the family of a file and its floor, -1 for none.
func familyOf(file string) (family string, floor int) {
	floor = -1
	name := strings.TrimSuffix(file, ".go")
	for i, families := range floors {
		for _, f := range families {
			if (name == f || strings.HasPrefix(name, f+"_")) && len(f) > len(family) {
				family, floor = f, i
			}
		}
	}
	return family, floor
}

// A layout is the parsed program and what its files use of each other.
type layout struct {
	files map[string]*ast.File
	uses  map[string]map[string][]string // user, owner, names
}

// importNothing gives the type checker empty packages. It resolves the
// program's own names all the same; what it cannot know it leaves out.
type importNothing struct{}

// atomicSource is what must not be left out: the program publishes its own
// types in atomic pointers.
const atomicSource = `package atomic
type Pointer[T any] struct{ p *T }
func (p *Pointer[T]) Load() *T { return p.p }`

var majorVersion = regexp.MustCompile(`/v\d+$`)

func (importNothing) Import(p string) (*types.Package, error) {
	if p == "sync/atomic" {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "atomic.go", atomicSource, 0)
		if err != nil {
			return nil, err
		}
		return new(types.Config).Check(p, fset, []*ast.File{f}, nil)
	}
	pkg := types.NewPackage(p, path.Base(majorVersion.ReplaceAllString(p, "")))
	pkg.MarkComplete()
	return pkg, nil
}

func readLayout(t *testing.T) layout {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	l := layout{map[string]*ast.File{}, map[string]map[string][]string{}}
	fset := token.NewFileSet()
	var all []*ast.File
	for _, p := range paths {
		if strings.HasSuffix(p, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		l.files[p], l.uses[p] = f, map[string][]string{}
		all = append(all, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: importNothing{}, Error: func(error) {}}
	pkg, _ := config.Check("main", fset, all, info) // errors are what the empty packages lack
	for id, o := range info.Uses {
		user := fset.Position(id.Pos()).Filename
		owner := fset.Position(o.Pos()).Filename
		if o.Pkg() == pkg && user != owner && l.files[owner] != nil {
			l.uses[user][owner] = append(l.uses[user][owner], o.Name())
		}
	}
	return l
}

func TestLayoutFloors(t *testing.T) {
	l := readLayout(t)
	for user, owners := range l.uses {
		family, floor := familyOf(user)
		if floor < 0 {
			t.Errorf("%s: its name begins with no family's", user)
		}
		for owner, names := range owners {
			if other, above := familyOf(owner); other != family && above >= floor {
				slices.Sort(names)
				t.Errorf("%s (floor %d) uses %s of %s (floor %d)", user, floor, strings.Join(slices.Compact(names), ", "), owner, above)
			}
		}
	}
}

func TestLayoutImports(t *testing.T) {
	for file, f := range readLayout(t).files {
		family, _ := familyOf(file)
		for _, spec := range f.Imports {
			p := strings.Trim(spec.Path.Value, `"`)
			for prefix, owner := range reserved {
				switch {
				case !strings.HasPrefix(p, prefix) || family == owner:
				case owner == "":
					t.Errorf("%s imports %s, which the program does not use", file, p)
				default:
					t.Errorf("%s imports %s, which only %s*.go may do", file, p, owner)
				}
			}
		}
	}
}

var (
	usedBy   = regexp.MustCompile(`Used by ((?:[a-z0-9_]+\*?\.go(?:, | and )?)+)\.(?: |$)`)
	fileName = regexp.MustCompile(`[a-z0-9_]+\*?\.go`)
)

// TestLayoutHeaders holds each header's "Used by a.go, b*.go and c.go." against
// the code. Files of the same family need not be named, all others must be.
func TestLayoutHeaders(t *testing.T) {
	l := readLayout(t)
	for file, f := range l.files {
		if len(f.Comments) == 0 || f.Comments[0].End() >= f.Package || f.Comments[0] == f.Doc {
			t.Errorf("%s: no header: the comment above `package main`, with an empty line between them", file)
			continue
		}
		family, _ := familyOf(file)
		var users, outside []string
		for user, owners := range l.uses {
			if owners[file] == nil {
				continue
			}
			users = append(users, user)
			if other, _ := familyOf(user); other != family {
				outside = append(outside, user)
			}
		}
		right := usedBySentence(outside)
		if len(outside) == 0 {
			right = usedBySentence(users)
		}
		header := strings.Join(strings.Fields(f.Comments[0].Text()), " ")
		var named []string
		if m := usedBy.FindStringSubmatch(header); m != nil {
			named = fileName.FindAllString(m[1], -1)
		}
		names := func(name, user string) bool {
			if prefix, glob := strings.CutSuffix(name, "*.go"); glob {
				other, _ := familyOf(user)
				return prefix == other
			}
			return name == user
		}
		var faults []string
		for _, name := range named {
			if !slices.ContainsFunc(users, func(user string) bool { return names(name, user) }) {
				faults = append(faults, name+" does not use it")
			}
		}
		for _, user := range outside {
			if !slices.ContainsFunc(named, func(name string) bool { return names(name, user) }) {
				faults = append(faults, user+" uses it and is not named")
			}
		}
		if len(named) == 0 && len(users) > 0 {
			faults = append(faults, "the header does not say who uses it")
		}
		if len(faults) > 0 {
			slices.Sort(faults)
			t.Errorf("%s: %s; true is: %s", file, strings.Join(faults, ", "), right)
		}
	}
}

// usedBySentence names the users from the ground up, and several of one family
// by the family.
func usedBySentence(users []string) string {
	var names []string
	for _, families := range floors {
		for _, family := range families {
			var own []string
			for _, user := range users {
				if f, _ := familyOf(user); f == family {
					own = append(own, user)
				}
			}
			if len(own) > 1 {
				own = []string{family + "*.go"}
			}
			names = append(names, own...)
		}
	}
	if n := len(names); n > 1 {
		names = append(names[:n-2], names[n-2]+" and "+names[n-1])
	}
	return fmt.Sprintf("Used by %s.", strings.Join(names, ", "))
}

// TestLayoutMap holds docs/architecture.md and its drawing against the code: each
// family is there, and each function that the page names.
func TestLayoutMap(t *testing.T) {
	page, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for file, format := range map[string]string{"docs/architecture.md": "`%s`", "docs/architecture.dot": "<b>%s</b>", "docs/architecture.svg": ">%s</text>"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, families := range floors {
			for _, family := range families {
				if !strings.Contains(string(text), fmt.Sprintf(format, family)) {
					t.Errorf("%s lacks the family %s", file, family)
				}
			}
		}
	}
	functions := make(map[string]bool)
	for _, f := range readLayout(t).files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			functions[fn.Name.Name] = true
			if fn.Recv == nil {
				continue
			}
			ast.Inspect(fn.Recv.List[0].Type, func(n ast.Node) bool {
				receiver, ok := n.(*ast.Ident)
				if ok {
					functions[receiver.Name+"."+fn.Name.Name] = true
				}
				return !ok
			})
		}
	}
	names := functionName.FindAllSubmatch(page, -1)
	if len(names) < 40 {
		t.Errorf("docs/architecture.md names %d functions, want the life of an event", len(names))
	}
	for _, m := range names {
		if !functions[string(m[1])] {
			t.Errorf("docs/architecture.md names the function %s, which does not exist", m[1])
		}
	}
}

var functionName = regexp.MustCompile("`([a-zA-Z.]+)\\(\\)`")
