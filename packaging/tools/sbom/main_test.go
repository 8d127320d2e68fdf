package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The list of this very test has the standard library and no licence, each identifier once,
// relationships between what is there, and the same bytes again.
func TestList(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for _, name := range []string{"one.json", "two.json"} {
		out := filepath.Join(t.TempDir(), name)
		if err := run([]string{"-version", "v1.2.3", "-revision", "0123", "-date", "2026-11-28T19:00:00Z", "-out", out, self}); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, content) {
			t.Error("the second list has other bytes")
		}
		first = content
	}
	var doc document
	if err := json.Unmarshal(first, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Version != "SPDX-2.3" || doc.Creation.Created != "2026-11-28T19:00:00Z" || !strings.HasPrefix(doc.Namespace, "urn:uuid:") {
		t.Errorf("%+v", doc)
	}
	ids := []string{doc.ID}
	stdlib := false
	for _, p := range doc.Packages {
		if slices.Contains(ids, p.ID) {
			t.Errorf("%s is there twice", p.ID)
		}
		ids = append(ids, p.ID)
		stdlib = stdlib || p.Name == "stdlib" && "go"+p.Version == runtime.Version()
		if p.Declared != noAssertion || p.Concluded != noAssertion {
			t.Errorf("%s has a licence", p.Name)
		}
	}
	if !stdlib {
		t.Error("the standard library is missing")
	}
	for _, r := range doc.Relationships {
		if !slices.Contains(ids, r.From) || !slices.Contains(ids, r.To) {
			t.Errorf("a relationship between what is not there: %+v", r)
		}
	}
	if !slices.Contains(doc.Relationships, relationship{doc.ID, "DESCRIBES", doc.Packages[0].ID}) {
		t.Errorf("the document describes nothing: %+v", doc.Relationships)
	}
}

func TestIdentifier(t *testing.T) {
	if got := spdxID("module", "a.b/c_d+e-v1.2+incompatible"); got != "SPDXRef-module-a.b-c-d-e-v1.2-incompatible" {
		t.Error(got)
	}
}

// A module's place in purl has no plus sign.
func TestLibrary(t *testing.T) {
	c := library("example.org/a", "v2.0.0+incompatible", "h1:x")
	if c.References[0].Locator != "pkg:golang/example.org/a@v2.0.0%2Bincompatible" || c.Comment != "go.sum: h1:x" {
		t.Errorf("%+v", c)
	}
}
