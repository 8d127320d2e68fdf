package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeProcSys is a /proc/sys of plain files, with what it logs.
func fakeProcSys(t *testing.T, files map[string]string) (procSys, *bytes.Buffer) {
	t.Helper()
	root := t.TempDir()
	for key, value := range files {
		path := filepath.Join(root, key)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log := new(bytes.Buffer)
	return procSys{Root: root, log: slog.New(slog.NewTextHandler(log, nil))}, log
}

func TestReleaseAtLeast(t *testing.T) {
	for _, tt := range []struct {
		release string
		want    bool // at least 5.9
	}{
		{"5.9.0", true},
		{"5.9", true},
		{"5.9-rc1", true},
		{"5.10.0-25-amd64", true},
		{"6.1.176", true},
		{"10.0.0", true},
		{"5.8.18-300.fc33", false},
		{"4.18.0-553.el8_10.x86_64", false},
		{"4.19", false},
		{"", false},
		{"five.nine", false},
		{"6", false},
		{"6.x", false},
	} {
		if got := kernelAtLeast(tt.release, [2]int{5, 9}); got != tt.want {
			t.Errorf("kernelAtLeast(%q, 5, 9) = %v, want %v", tt.release, got, tt.want)
		}
	}
}

func TestDirectorSysctls(t *testing.T) {
	wants := func(release string) map[string]string {
		m := make(map[string]string)
		for _, s := range sysctlsFor(useDirector, "eth0.100", release) {
			if s.Why == "" {
				t.Errorf("%s has no reason", s.Key)
			}
			m[s.Key] = s.Want
		}
		return m
	}
	want := map[string]string{
		"net/ipv4/vs/conn_reuse_mode":           "3",
		"net/ipv4/vs/expire_nodest_conn":        "1",
		"net/ipv4/vs/expire_quiescent_template": "1",
		"net/ipv4/conf/all/send_redirects":      "0",
		"net/ipv4/conf/eth0.100/send_redirects": "0",
	}
	if diff := cmp.Diff(want, wants("6.1.0-25-amd64")); diff != "" {
		t.Errorf("kernel 6.1 (-want +got):\n%s", diff)
	}
	want["net/ipv4/vs/conn_reuse_mode"] = "0"
	if diff := cmp.Diff(want, wants("4.18.0-553.el8")); diff != "" {
		t.Errorf("kernel 4.18 (-want +got):\n%s", diff)
	}
}

func TestProcSysApply(t *testing.T) {
	p, log := fakeProcSys(t, map[string]string{
		"kernel/osrelease":                        "6.1.0-25-amd64",
		"net/ipv4/vs/conn_reuse_mode":             "2", // serves as well
		"net/ipv4/vs/expire_nodest_conn":          "0",
		"net/ipv4/conf/all/send_redirects":        "0",
		"net/ipv4/conf/eth0.100/send_redirects":   "1",
		"net/ipv4/conf/eth0.100/accept_redirects": "1", // not in the table
		// expire_quiescent_template is absent: optional.
	})
	release, err := p.KernelRelease()
	if err != nil {
		t.Fatal(err)
	}
	table := sysctlsFor(useDirector, "eth0.100", release)

	var bad []string
	for _, s := range p.Check(table) {
		if s.Err != nil {
			t.Errorf("%s: %v", s.Key, s.Err)
		}
		if !s.OK {
			bad = append(bad, s.Key+"="+s.Have)
		}
	}
	wantBad := []string{"net/ipv4/vs/expire_nodest_conn=0", "net/ipv4/conf/eth0.100/send_redirects=1"}
	if diff := cmp.Diff(wantBad, bad); diff != "" {
		t.Errorf("Check before (-want +got):\n%s", diff)
	}
	if log.Len() > 0 {
		t.Errorf("Check logged: %s", log)
	}

	if err := p.Apply(table); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"net/ipv4/vs/conn_reuse_mode":             "2",
		"net/ipv4/vs/expire_nodest_conn":          "1",
		"net/ipv4/conf/eth0.100/send_redirects":   "0",
		"net/ipv4/conf/eth0.100/accept_redirects": "1",
	} {
		if got, err := p.read(key); err != nil || got != want {
			t.Errorf("%s = %q, %v, want %q", key, got, err, want)
		}
	}
	if _, err := os.Stat(p.path("net/ipv4/vs/expire_quiescent_template")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Apply made a key that the kernel does not have: %v", err)
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("Apply logged %d lines, want 2:\n%s", n, log)
	}
	if !strings.Contains(log.String(), "key=net/ipv4/conf/eth0.100/send_redirects from=1 to=0 why=") {
		t.Errorf("log does not name key, old and new value and reason:\n%s", log)
	}

	log.Reset()
	if err := p.Apply(table); err != nil {
		t.Fatal(err)
	}
	if log.Len() > 0 {
		t.Errorf("Apply of an equal table logged: %s", log)
	}
}

func TestProcSysApplyReportsEveryFailure(t *testing.T) {
	p, _ := fakeProcSys(t, map[string]string{"net/ipv4/conf/eth0/arp_announce": "0"})
	table := append(sysctlsFor(useNode, "eth0", ""), sysctlsFor(useNode, "gone0", "")...)

	err := p.Apply(table)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Apply = %v, want a missing file", err)
	}
	for _, key := range []string{"eth0/arp_ignore", "gone0/arp_ignore", "gone0/arp_announce"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("error does not name %s: %v", key, err)
		}
	}
	if got, _ := p.read("net/ipv4/conf/eth0/arp_announce"); got != "2" {
		t.Errorf("a failure elsewhere kept arp_announce at %q", got)
	}
	for _, s := range p.Check(table) {
		if s.OK != (s.Err == nil) {
			t.Errorf("%s: OK %v with error %v", s.Key, s.OK, s.Err)
		}
	}
}

// A key that has gone since it was read is an error, not a new file.
func TestProcSysWriteCreatesNothing(t *testing.T) {
	p, _ := fakeProcSys(t, map[string]string{"net/ipv4/conf/eth0/arp_ignore": "0"})
	if err := p.write("net/ipv4/conf/eth0/arp_announce", "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write = %v, want a missing file", err)
	}
}

// A key that the kernel refuses to write is named with the value.
func TestProcSysApplyWriteFailure(t *testing.T) {
	p := procSys{Root: "/proc/sys", log: slog.New(slog.DiscardHandler)}
	err := p.Apply([]Sysctl{{Key: "kernel/osrelease", Want: "1"}}) // read-only, even for root
	if err == nil || !strings.Contains(err.Error(), "set kernel setting kernel/osrelease to 1") {
		t.Errorf("Apply = %v, want the key and the value", err)
	}
}

// docs/sysctls.md has a row for each setting, with its value.
func TestSysctlDocs(t *testing.T) {
	page, err := os.ReadFile("docs/sysctls.md")
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, row := range sysctlTable {
		if row.why == "" {
			t.Errorf("%s has no reason", row.key)
		}
		key := "`" + row.key + "`"
		if row.key == last { // a second value of the same key
			key = ""
		}
		last = row.key
		value := strings.ReplaceAll(row.want, "\t", " ")
		if len(row.also) > 0 {
			value += " (" + strings.Join(row.also, ", ") + " stays)"
		}
		if row.before != [2]int{} {
			value += fmt.Sprintf(" before kernel %d.%d", row.before[0], row.before[1])
		}
		cells := strings.Join(strings.Fields("| "+key+" | "+value+" | "), " ")
		if n := strings.Count(string(page), "\n"+cells); n != 1 {
			t.Errorf("docs/sysctls.md has %d rows that begin with %q, want 1", n, cells)
		}
	}
}
