package main

import (
	"errors"
	"testing"
)

// A package has the controller below /usr, and keepalived finds it there.
func TestInstalledBinary(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/sbin/lvs-controller":       "/usr/sbin/lvs-controller",
		"/usr/local/sbin/lvs-controller": "/usr/local/sbin/lvs-controller",
		"/usr/bin/lvs-controller":        "/usr/bin/lvs-controller",
		"/root/lvs-controller":           defaultBinary,
		"":                               defaultBinary,
	} {
		if got := installedBinary(path, nil); got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
	if got := installedBinary("/usr/sbin/lvs-controller", errors.New("no /proc")); got != defaultBinary {
		t.Errorf("unknown: %s", got)
	}
}
