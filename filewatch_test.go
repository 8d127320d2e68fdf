package main

import (
	"os"
	"path/filepath"
	"testing"

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
