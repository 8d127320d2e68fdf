// Package director tests the controller from outside: it runs the binary, between
// hosts that are network namespaces, and asks ipvsadm, curl and the logs what came of it.
//
// Each test belongs to one group, by what it needs, and -group says which group runs:
//
//	host      Linux and root                                  make unit
//	kernel    a kernel with IPVS                              make kernel
//	e2e       that and a real API server                      make e2e
//	cluster   a real API server on this machine, and kubectl  the same
//	drill     the same, and -size                             make drill, drill-short
//	bench     a kernel with IPVS, and -size: it measures      make bench, bench-short
//	bench-e2e that and a real API server                      the same
//	bench-peers that, and kube-proxy                          the same
//	tuning    a kernel with IPVS: it measures, too            make tuning
//	soak      a kernel with IPVS                              make soak, soak-short
//	package   that, -size, a Debian and packages for it       make release-test
//
// The other flags are in test/args.
package director

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"lvs-controller/test/args"
)

var groups = []string{"host", "kernel", "e2e", "cluster", "drill", "bench", "bench-e2e", "bench-peers", "tuning", "soak", "package"}

var chosen = flag.String("group", groups[0], "run the tests of this `group`: "+strings.Join(groups, ", "))

// ran is set by the first test of the group.
var ran atomic.Bool

// of skips a test of another group than the one that runs. Every test calls it, itself
// or in what makes its rig.
func of(t *testing.T, group string) {
	t.Helper()
	if !slices.Contains(groups, group) {
		t.Fatalf("%q is not one of %q", group, groups)
	}
	if *chosen == group {
		ran.Store(true)
	} else {
		t.Skipf("belongs to -group %s", group)
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := runGroup(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/director:", err)
		code = 2
	}
	os.Exit(code)
}

// runGroup runs the tests, with a binary of this source where no other is named.
func runGroup(m *testing.M) (code int, err error) {
	if !slices.Contains(groups, *chosen) {
		return 0, fmt.Errorf("-group %q is not one of %q", *chosen, groups)
	}
	if *args.Binary == "" {
		dir, err := os.MkdirTemp("", "lvs-director-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		*args.Binary = filepath.Join(dir, "lvs-controller")
		build := exec.Command("go", "build", "-o", *args.Binary, "../..")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("no -binary, and go build: %w\n%s", err, out)
		}
	}
	// A test may work in another folder.
	for _, path := range []*string{args.Binary, args.Install, args.System, args.Debs} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return 0, err
		}
	}
	code = m.Run()
	if code == 0 && !ran.Load() && flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.list").Value.String() == "" {
		return 0, fmt.Errorf("-group %q: no test ran", *chosen)
	}
	return code, nil
}

// controller is the path of the binary under test.
func controller() string { return *args.Binary }

// installed is the path of a file of install/.
func installed(name string) string { return filepath.Join(*args.Install, name) }

// requireRoot skips a test without root. With LVS_REQUIRE_ALL=1, as in
// continuous integration, it fails instead: a skipped test proves nothing.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("LVS_REQUIRE_ALL") == "1" {
		t.Fatal("needs root: network namespaces (LVS_REQUIRE_ALL=1)")
	}
	t.Skip("needs root: network namespaces")
}
