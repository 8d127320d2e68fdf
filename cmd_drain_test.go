package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// drainOf runs `drain` with a configuration of its own directories, more beside, as if
// a controller had carried the order out before.
func drainOf(t *testing.T, more string, args ...string) (dir, file string, code int, stdout, stderr string) {
	t.Helper()
	dir = t.TempDir()
	if err := setDrained(dir, true); err != nil {
		t.Fatal(err)
	}
	since, err := drainedSince(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(args) > 0 && args[0] == "-undo" {
		since = time.Time{}
	}
	if err := confirm(dir, since); err != nil {
		t.Fatal(err)
	}
	file = writeConfig(t, fmt.Sprintf("state_dir = %q\ncache_dir = %q\n%s", dir, dir, more))
	code, stdout, stderr = cli(t, append([]string{"drain", "-wait", "10s", "-config", file}, args...)...)
	return dir, file, code, stdout, stderr
}

// An operator is not told that the VIPs are gone while keepalived still has them.
func TestDrainSaysWhoMovesTheVIPs(t *testing.T) {
	const (
		words = "drained: this director is not ready, and announces no VIP"
		later = `; keepalived hands over those with announce = "none" within seconds, if the other director is ready`
	)
	arp := "[[vip]]\nname = \"arp\"\naddresses = [\"192.0.2.1\"]\nannounce = \"arp\"\nports = [80]\n"
	none := "[[vip]]\nname = \"none\"\naddresses = [\"192.0.2.2\"]\nports = [80]\n"
	for more, want := range map[string]string{arp: words, none: words + later, arp + none: words + later} {
		if _, _, code, stdout, stderr := drainOf(t, more); code != exitOK || stdout != want+"\n" || stderr != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", more, code, stdout, stderr)
		}
	}
}

// The controller goes on with the last good file, so a mistake in it keeps no director
// in office; unless the order's own directory is not known.
func TestDrainWithAMistakeInTheFile(t *testing.T) {
	for _, more := range []string{manyMistakes, "interface = 7\nvip = 7\n", ""} {
		for _, args := range [][]string{nil, {"-undo"}} {
			dir, file, code, stdout, stderr := drainOf(t, more, args...)
			want := fmt.Sprintf("there is a mistake in %s, see `lvs-controller check`; the order is written nevertheless, in %s\n", file, dir)
			if code != exitOK || stderr != want || !strings.Contains(stdout, "drained") {
				t.Errorf("%q %s: exit %d, stdout %q, stderr %q", args, more, code, stdout, stderr)
			}
			if since, err := drainedSince(dir); err != nil || since.IsZero() != (args != nil) {
				t.Errorf("%q: drained since %s, %v", args, since, err)
			}
		}
	}
	for what, more := range map[string]string{"no TOML": "[[vip]\n", "a key twice": "state_dir = \"/run\"\n"} {
		for how, args := range map[string][]string{"touch": nil, "rm": {"-undo"}} {
			dir, file, code, stdout, stderr := drainOf(t, more, args...)
			want := fmt.Sprintf("the order to drain is not written; with the default cache_dir `%s /var/lib/lvs-controller/drained` does the same\n", how)
			if code != exitFailure || stdout != "" || !strings.HasPrefix(stderr, file+":3: syntax: ") || !strings.HasSuffix(stderr, "\n"+want) {
				t.Errorf("%s, %q: exit %d, stdout %q, stderr %q", what, args, code, stdout, stderr)
			}
			if since, err := drainedSince(dir); err != nil || since.IsZero() {
				t.Errorf("%s, %q: the order has changed: %s, %v", what, args, since, err)
			}
		}
	}
	file := writeConfig(t, "cache_dir = \"cache\"\ncolor = 7\n"+staticVIP)
	code, stdout, stderr := cli(t, "drain", "-config", file)
	if want := file + ":1: cache_dir: is \"cache\", want an absolute path such as \"/var/lib/lvs-controller\"\nthe order to drain is not written; with the default cache_dir `touch /var/lib/lvs-controller/drained` does the same\n"; code != exitFailure || stdout != "" || stderr != want {
		t.Errorf("a directory that is wrong itself: exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	for _, mistake := range []string{"cach_dir = \"/srv\"\n", "[timeouts]\ncache_dir = \"/srv\"\n"} {
		code, stdout, stderr := cli(t, "drain", "-config", writeConfig(t, mistake+staticVIP))
		if code != exitFailure || stdout != "" || strings.Count(stderr, "cache_dir") != 2 || !strings.Contains(stderr, "the order to drain is not written") {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", mistake, code, stdout, stderr)
		}
	}
	cfg, err := LoadDirectories(writeConfig(t, "color = 7\nstate_dir = \"/run/x/\"\n"))
	if err != nil || cfg.StateDir != "/run/x" || cfg.CacheDir != defaultConfig().CacheDir {
		t.Errorf("only one of the directories: %+v, %v", cfg, err)
	}
}
