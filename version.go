// The version of the program: what the linker sets, and what the compiler notes.
//
// Used by kube*.go, health_http.go, http*.go, cmd*.go and main.go. Pure.

package main

import (
	"cmp"
	"runtime"
	"runtime/debug"
)

// version is set by the linker (Makefile).
var version = "dev"

// buildFacts are what the program was made from, and with.
type buildFacts struct {
	Version  string
	Revision string // of the source; ends in "-modified" with changes that are not committed
	Date     string // of the revision, RFC 3339
	Go       string
	Platform string // operating system and processor
}

// thisBuild is the program's own. What the compiler did not note is "unknown".
func thisBuild() buildFacts {
	b := buildFacts{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	modified := ""
	if info, ok := debug.ReadBuildInfo(); ok {
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
