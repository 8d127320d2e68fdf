package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the linker was given is used whole: a build directory of git may be another one.
func TestBuildFactsOfLinker(t *testing.T) {
	v, r, d := version, revision, revisionDate
	t.Cleanup(func() { version, revision, revisionDate = v, r, d })
	version, revision, revisionDate = "v1.2.3", "0123456789ab-modified", "2026-11-28T19:00:00Z"
	got := thisBuild()
	want := buildFacts{Version: "v1.2.3", Revision: "0123456789ab-modified", Date: "2026-11-28T19:00:00Z", Go: got.Go, Platform: got.Platform}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	revision, revisionDate = "", ""
	if got := thisBuild(); got.Revision == "" || got.Date == "" {
		t.Errorf("without the linker: %+v", got)
	}
}
