// The version of the program: what the linker sets, or what the compiler notes.
//
// Used by kube*.go, health_http.go, http*.go, cmd*.go and main.go. Pure.

package main

import (
	"cmp"
	"runtime"
	"runtime/debug"
)

// The Makefile has the linker set these, from git. Without git, or with a bare
// `go build`, revision and revisionDate are empty.
var (
	version      = "dev"
	revision     string // ends in "-modified" with changes that are not committed
	revisionDate string // RFC 3339, in UTC
)

// buildFacts are what the program was made from, and with.
type buildFacts struct {
	Version  string
	Revision string // of the source; ends in "-modified" with changes that are not committed
	Date     string // of the revision, RFC 3339
	Go       string
	Platform string // operating system and processor
}

// thisBuild is the program's own. What neither the linker nor the compiler was given is
// "unknown".
func thisBuild() buildFacts {
	b := buildFacts{Version: version, Revision: revision, Date: revisionDate, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	modified := ""
	if info, ok := debug.ReadBuildInfo(); ok && revision == "" {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Revision = s.Value
			case "vcs.time":
				b.Date = s.Value
			case "vcs.modified":
				if s.Value == "true" {
					modified = "-modified"
				}
			}
		}
	}
	if b.Revision != "" {
		b.Revision += modified
	}
	b.Revision, b.Date = cmp.Or(b.Revision, "unknown"), cmp.Or(b.Date, "unknown")
	return b
}
