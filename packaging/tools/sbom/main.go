// sbom writes the list of what the binaries are made of, as SPDX 2.3 in JSON: the
// controller for each platform, the modules that are compiled into it, and the standard
// library of Go.
//
//	sbom -version V -revision R -date RFC3339 -out FILE BINARY...
//
// Called by packaging/build. It reads what the compiler noted in the binaries and nothing
// else. The same input gives the same bytes. No licence is stated: NOASSERTION.
package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The parts of SPDX 2.3 that are used; sections 6, 7 and 11 of its specification.
type (
	document struct {
		Version       string         `json:"spdxVersion"`
		DataLicense   string         `json:"dataLicense"`
		ID            string         `json:"SPDXID"`
		Name          string         `json:"name"`
		Namespace     string         `json:"documentNamespace"`
		Creation      creation       `json:"creationInfo"`
		Packages      []component    `json:"packages"`
		Relationships []relationship `json:"relationships"`
	}
	creation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	component struct {
		ID         string      `json:"SPDXID"`
		Name       string      `json:"name"`
		Version    string      `json:"versionInfo,omitempty"`
		FileName   string      `json:"packageFileName,omitempty"`
		Download   string      `json:"downloadLocation"`
		Analyzed   bool        `json:"filesAnalyzed"`
		Checksums  []checksum  `json:"checksums,omitempty"`
		Concluded  string      `json:"licenseConcluded"`
		Declared   string      `json:"licenseDeclared"`
		Copyright  string      `json:"copyrightText"`
		References []reference `json:"externalRefs,omitempty"`
		Comment    string      `json:"comment,omitempty"`
		Purpose    string      `json:"primaryPackagePurpose"`
	}
	checksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	reference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	relationship struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

// noAssertion is what SPDX has for what is not known, or not said.
const noAssertion = "NOASSERTION"

// facts are what the document says of the release.
type facts struct{ version, revision, date string }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var f facts
	fs := flag.NewFlagSet("sbom", flag.ContinueOnError)
	fs.StringVar(&f.version, "version", "", "`version` of the controller")
	fs.StringVar(&f.revision, "revision", "", "`commit` of the source")
	fs.StringVar(&f.date, "date", "", "`date` of the commit, RFC 3339")
	out := fs.String("out", "", "`file` to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if _, err := time.Parse("2006-01-02T15:04:05Z", f.date); err != nil {
		return fmt.Errorf("-date: %w", err)
	}
	if *out == "" || fs.NArg() == 0 {
		return fmt.Errorf("-out and at least one binary are needed")
	}
	doc, err := f.document(fs.Args())
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(text, '\n'), 0o644)
}

// document describes the binaries.
func (f facts) document(binaries []string) (*document, error) {
	doc := &document{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "lvs-controller " + f.version,
		Creation: creation{f.date, []string{"Tool: lvs-controller/packaging/tools/sbom"}},
	}
	modules := make(map[string]component) // by id
	sums := sha256.New()
	for _, path := range binaries {
		c, parts, err := f.binary(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		sums.Write([]byte(c.Checksums[0].Value))
		doc.Packages = append(doc.Packages, c)
		doc.Relationships = append(doc.Relationships, relationship{doc.ID, "DESCRIBES", c.ID})
		for _, m := range parts {
			modules[m.ID] = m
			doc.Relationships = append(doc.Relationships, relationship{c.ID, "CONTAINS", m.ID})
		}
	}
	doc.Packages = append(doc.Packages, slices.SortedFunc(maps.Values(modules), func(a, b component) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})...)
	// A name for this very content. Version 8 of RFC 9562 leaves the bits to the maker.
	id := sums.Sum(nil)[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	doc.Namespace = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	return doc, nil
}

// binary describes one binary and what is compiled into it.
func (f facts) binary(path string) (component, []component, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return component{}, nil, err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return component{}, nil, err
	}
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	sum := sha256.Sum256(content)
	c := component{
		ID: spdxID("binary", filepath.Base(path)), Name: "lvs-controller", Version: f.version, FileName: filepath.Base(path),
		Download: noAssertion, Concluded: noAssertion, Declared: noAssertion, Copyright: noAssertion, Purpose: "APPLICATION",
		Checksums: []checksum{{"SHA256", hex.EncodeToString(sum[:])}},
		Comment:   fmt.Sprintf("%s/%s, commit %s, compiled by %s", settings["GOOS"], settings["GOARCH"], f.revision, info.GoVersion),
	}
	parts := []component{library("stdlib", strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		parts = append(parts, library(m.Path, m.Version, m.Sum))
	}
	return c, parts, nil
}

// library describes one module at one version. sum is that of go.sum.
func library(path, version, sum string) component {
	c := component{
		ID: spdxID("module", path+"-"+version), Name: path, Version: version,
		Download: noAssertion, Concluded: noAssertion, Declared: noAssertion, Copyright: noAssertion, Purpose: "LIBRARY",
		References: []reference{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + strings.ReplaceAll(path, "+", "%2B") + "@" + strings.ReplaceAll(version, "+", "%2B")}},
	}
	if sum != "" {
		c.Comment = "go.sum: " + sum
	}
	return c
}

// notInID is what an identifier of SPDX cannot have.
var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// spdxID makes an identifier out of a name.
func spdxID(kind, name string) string {
	return "SPDXRef-" + kind + "-" + notInID.ReplaceAllString(name, "-")
}
