//go:build ipvs

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ipvsadm still sends what the golden file says, on the kernel at hand: a few
// cases of different kinds, because a case takes most of a second.
func TestKernelGoldenFresh(t *testing.T) {
	names := []string{"service-new-prefix6", "server-new-gue-remcsum6", "server-del-mark", "timeouts-all", "daemon-new-group6"}
	script := filepath.Join(t.TempDir(), "capture")
	if err := os.WriteFile(script, []byte(captureScript), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{script, "guest"}, names...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("capture: %v: %s", err, stderr.String())
	}
	want := slices.DeleteFunc(parseGolden(goldenFile), func(c goldenCase) bool { return !slices.Contains(names, c.Name) })
	if diff := cmp.Diff(want, parseGolden(string(out))); diff != "" || len(want) != len(names) {
		t.Errorf("testdata/golden/ipvsadm.txt is stale: run test/golden/capture (-file +now):\n%s", diff)
	}
}
