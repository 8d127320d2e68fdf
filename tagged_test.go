//go:build ipvs || bench || plane

// The tests that need more than this machine: a file with the build tag ipvs needs a
// kernel with IPVS, bench measures on one, plane measures with a real API server. A
// build with a tag runs the tests of the files that carry one, and no others, unless
// -test.run says which. The make targets run it in a virtual machine.

package main

import (
	"embed"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

//go:embed *_test.go
var testFiles embed.FS

var testName = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

func TestMain(m *testing.M) {
	flag.Parse()
	if run := flag.Lookup("test.run"); run.Value.String() == "" {
		names, err := taggedTests()
		if err == nil {
			err = run.Value.Set("^(" + strings.Join(names, "|") + ")$")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "tests with a build tag:", err)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}

// taggedTests are the tests in files with a build tag. Those whose tag this build does
// not have are not in it.
func taggedTests() (names []string, err error) {
	files, err := testFiles.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		text, err := testFiles.ReadFile(f.Name())
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(string(text), "//go:build ") {
			continue
		}
		for _, m := range testName.FindAllStringSubmatch(string(text), -1) {
			if m[1] != "TestMain" {
				names = append(names, m[1])
			}
		}
	}
	return names, nil
}
