// The sub-command version, and the flag -version: what this program was made from.
//
// Used by main.go. It changes nothing.

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
)

var versionCommand = command{
	name:    "version",
	summary: "print version, revision, date, Go and platform",
	about: `Prints the version, the revision of the source and its date, the version of Go
that compiled the program, and the platform it is for.`,
	examples: `lvs-controller version
lvs-controller -version`,
	new: func() task { return new(versionTask) },
}

// versionTask is one call of `lvs-controller version`.
type versionTask struct{}

func (*versionTask) flags(*flag.FlagSet) {}

func (*versionTask) run(_ context.Context, stdout, stderr io.Writer) int {
	b := thisBuild()
	if _, err := fmt.Fprintf(stdout, "lvs-controller %s\nrevision %s\ndate     %s\ngo       %s\nplatform %s\n",
		b.Version, b.Revision, b.Date, b.Go, b.Platform); err != nil {
		return fail(stderr, err)
	}
	return exitOK
}
