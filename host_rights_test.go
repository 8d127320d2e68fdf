package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What runs with few capabilities meets the file permissions as another user does, and
// afterwards all are there again.
func TestWithCapabilities(t *testing.T) {
	requireRoot(t)
	path := filepath.Join(t.TempDir(), "others")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	var inside error
	before, err := permittedCapabilities()
	if err != nil {
		t.Fatal(err)
	}
	if err := withCapabilities(directorCapabilities, func() { _, inside = os.ReadFile(path) }); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(inside, fs.ErrPermission) {
		t.Errorf("without CAP_DAC_OVERRIDE: %v", inside)
	}
	if _, err := os.ReadFile(path); err != nil {
		t.Error(err)
	}
	if after, err := permittedCapabilities(); err != nil || after != before {
		t.Errorf("capabilities %x, %v; want %x", uint64(after), err, uint64(before))
	}
	all := capabilities(1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_RAW)
	if got := all.String(); got != "CAP_DAC_OVERRIDE, CAP_NET_BIND_SERVICE" {
		t.Error(got)
	}
}
