// The profile of the memory: with -debug there is one, and without it no table of it grows.

package director

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

func TestMemoryProfile(t *testing.T) {
	of(t, "host")
	requireRoot(t)
	for _, flags := range [][]string{nil, {"-debug"}} {
		t.Run(fmt.Sprint(flags), func(t *testing.T) {
			dir := t.TempDir()
			l := lab.New(t.Fatalf)
			t.Cleanup(l.Close)
			r := &rig{T: t, lab: l, director: l.Host("director", 2), dir: dir}
			r.write("config.toml", fmt.Sprintf("listen = \"127.0.0.1:9652\"\nmanage_sysctls = false\nstate_dir = %q\ncache_dir = %q\n", filepath.Join(dir, "state"), filepath.Join(dir, "cache"))+
				"[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nports = [80]\nannounce = \"none\"\nselector = \"\"\nreal_servers = [{ address = \"10.0.0.11\" }]\n")
			process := r.director.Start(append([]string{"env", "GOMAXPROCS=2", controller(), "-config", filepath.Join(dir, "config.toml")}, flags...)...)
			table := func() (bytes int) {
				lab.Within(t, 10*time.Second, func() string {
					metrics, err := r.director.Try("curl", "-sf", "http://127.0.0.1:9652/metrics")
					_, rest, found := strings.Cut(metrics, "\ngo_memstats_buck_hash_sys_bytes ")
					number, _, _ := strings.Cut(rest, "\n")
					if bytes, _ = strconv.Atoi(number); err != nil || !found || bytes == 0 {
						return fmt.Sprintf("no metrics: %v\n%s\n%s", err, metrics, process.Log())
					}
					return ""
				})
				return bytes
			}
			first := table()
			r.director.Run("curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:9652/metrics?[1-1000]")
			// Each processor takes the one sample that it was about to take before main.
			grown := table() - first
			t.Logf("the table of the profile has %d bytes at first, and grows by %d", first, grown)
			if (grown > 3000) != (len(flags) > 0) {
				t.Error("it should grow with -debug alone")
			}
			heap, err := r.director.Try("curl", "-s", "--unix-socket", filepath.Join(dir, "state/control.sock"), "http://controller/debug/pprof/heap?debug=1")
			if got := strings.HasPrefix(heap, "heap profile: ") && strings.Contains(heap, " @ heap/1048576\n"); err != nil || got != (len(flags) > 0) {
				t.Errorf("the profile: %v\n%.300s", err, heap)
			}
		})
	}
}
