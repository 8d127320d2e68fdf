//go:build ipvs

// The errors of the marks, from a real kernel.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lvs-controller/test/lab"
)

// An error says what was to be done to what.
func TestKernelMarkErrors(t *testing.T) {
	if !runsOn(t, 5, 12) {
		t.Skip("before Linux 5.12 no process can own a table")
	}
	r := newMarkRig(t)
	// The owner keeps the table until the pipe is closed.
	pipe := filepath.Join(t.TempDir(), "pipe")
	lab.Must(t, unix.Mkfifo(pipe, 0o600))
	owner := r.director.Start("sh", "-c", "exec nft -i <"+pipe)
	input, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	lab.Must(t, err)
	defer func() { input.Close(); owner.Wait() }()
	fmt.Fprintln(input, "add table inet lvs-controller { flags owner; }")
	lab.Within(t, 10*time.Second, func() string {
		if out := r.director.Run("nft", "list", "tables"); !strings.Contains(out, "lvs-controller") {
			return "there is no table: " + out
		}
		return ""
	})
	r.director.Do(func() {
		err := r.table.Apply(map[MarkedPort]uint32{markedPort("10.0.0.1", "80/tcp"): 0x1001})
		want := "nftables table inet lvs-controller: add 80/tcp of 10.0.0.1 with mark 0x1001: "
		if !errors.Is(err, unix.EPERM) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("a table that another process owns: %v, want %s...", err, want)
		}
	})
	r.logged()
}
