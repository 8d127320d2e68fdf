package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWatchDirs(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"a/up":     "../c",
		"a/b/link": "../up/./file/",
		"c/file":   root + "/a/missing/x",
		"loop":     "loop",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string][]string{
		"c":        {""},
		"c/new":    {"c"},
		"none/x/y": {""},
		"a/up/z":   {"a", "c"},
		"a/b/link": {"a/b", "a", "c"},
		"loop":     {""},
	} {
		for i := range want {
			want[i] = filepath.Join(root, want[i])
		}
		got, err := watchDirs(filepath.Join(root, path))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", path, err, diff)
		}
	}
}

// A directory above the file is replaced, which the kernel reports to no watch. The
// next look finds out, and changes in the new directory are notified from then on.
func TestFileWatchFollowsReplacedDirectory(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "a", "b", "file")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, "first")
	write(filepath.Join(root, "new", "b", "file"), "second")

	taken, recheck := make(chan string), make(chan struct{})
	watch := &fileWatch{
		path: file,
		look: func() (string, func(bool) string) {
			text, _ := os.ReadFile(file)
			return string(text), func(bool) string { taken <- string(text); return string(text) }
		},
		recheck:     recheck,
		unwatchable: func(err error) { t.Error(err) },
	}
	go watch.run(t.Context())
	want := func(text string) {
		t.Helper()
		for {
			select {
			case got := <-taken:
				if got == text {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%q is not noticed", text)
			}
		}
	}
	want("first")
	for _, move := range [][2]string{{"a", "old"}, {"new", "a"}} {
		if err := os.Rename(filepath.Join(root, move[0]), filepath.Join(root, move[1])); err != nil {
			t.Fatal(err)
		}
	}
	recheck <- struct{}{}
	want("second")
	write(file, "third") // without a recheck
	want("third")
}

func TestSleepContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	sleepContext(ctx, time.Hour)
	sleepContext(t.Context(), time.Millisecond)
	if d := time.Since(start); d < time.Millisecond || d > time.Minute {
		t.Errorf("slept %v", d)
	}
}
