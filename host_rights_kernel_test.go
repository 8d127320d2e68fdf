//go:build ipvs

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// rightsDirectory is set where TestRightsAreGone runs itself as the process that gives up
// its rights.
const rightsDirectory = "LVS_TEST_RIGHTS"

// What is given up is gone for each thread, those that existed before and those that
// begin later, and for the programs that it starts. What is kept works.
func TestRightsAreGone(t *testing.T) {
	if dir := os.Getenv(rightsDirectory); dir != "" {
		giveUpAndTry(dir)
		os.Exit(0)
	}
	requireRoot(t)
	dir := t.TempDir()
	for _, name := range []string{"inside", "outside"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o755), os.WriteFile(filepath.Join(dir, name, "old"), []byte("old"), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "others"), nil, 0o600), os.Chown(filepath.Join(dir, "others"), 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRightsAreGone$")
	cmd.Env = append(os.Environ(), rightsDirectory+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := string(out)
	status := regexp.MustCompile(`(?m)^thread: .*$`)
	threads := status.FindAllString(got, -1)
	if len(threads) < 5 {
		t.Errorf("%d threads, want at least 5:\n%s", len(threads), got)
	}
	slices.Sort(threads)
	want := []string{"thread: CapInh 0000000000000000 CapPrm 0000000000003000 CapEff 0000000000003000 CapBnd 0000000000003000 CapAmb 0000000000000000 NoNewPrivs 1"}
	if diff := cmp.Diff(want, slices.Compact(threads)); diff != "" {
		t.Errorf("the threads (-want +got):\n%s", diff)
	}
	const each = "inside: create <nil>, write <nil>, remove <nil>; outside: create permission denied, write permission denied, remove permission denied, read <nil>; others: permission denied\n"
	if rest := strings.TrimSpace(status.ReplaceAllString(got, "")) + "\n"; rest != strings.Repeat(each, 5)+"program: permission denied\n" {
		t.Errorf("want five times %s, and a program that may not write either, got\n%s", each, rest)
	}
}

// giveUpAndTry prints what each thread may do after the process has given up its rights.
func giveUpAndTry(dir string) {
	say := func(err error) string {
		if errors.Is(err, fs.ErrPermission) {
			return "permission denied"
		}
		return fmt.Sprint(err)
	}
	try := func() {
		results := map[string][]string{}
		for _, where := range []string{"inside", "outside"} {
			file := func(name string) string { return filepath.Join(dir, where, name) }
			f, err := os.OpenFile(file("old"), os.O_WRONLY|os.O_TRUNC, 0)
			if err == nil {
				f.Close()
			}
			created := fmt.Sprintf("new%d", unix.Gettid())
			results[where] = []string{"create " + say(os.WriteFile(file(created), nil, 0o600)), "write " + say(err)}
			if where == "outside" {
				created = "old"
			}
			results[where] = append(results[where], "remove "+say(os.Remove(file(created))))
		}
		_, read := os.ReadFile(filepath.Join(dir, "outside", "old"))
		_, others := os.ReadFile(filepath.Join(dir, "others"))
		fmt.Printf("inside: %s; outside: %s, read %v; others: %s\n", strings.Join(results["inside"], ", "), strings.Join(results["outside"], ", "), read, say(others))
	}
	begin, done := make(chan struct{}), make(chan struct{})
	onThread := func(ready chan<- struct{}) {
		runtime.LockOSThread()
		ready <- struct{}{}
		<-begin
		try()
		done <- struct{}{}
		select {} // the thread stays, for its status
	}
	ready := make(chan struct{})
	for range 4 {
		go onThread(ready)
		<-ready
	}
	if err := errors.Join(dropCapabilities(directorCapabilities), forbidNewPrivileges(), restrictWriting([]string{filepath.Join(dir, "inside"), filepath.Join(dir, "absent")})); err != nil {
		fmt.Println(err)
		return
	}
	go onThread(ready)
	<-ready
	for range 5 {
		begin <- struct{}{}
		<-done
	}
	program := say(nil)
	if out, err := exec.Command("sh", "-c", ": >"+filepath.Join(dir, "outside", "program")).CombinedOutput(); err != nil {
		program = strings.ToLower(string(out[max(0, len(out)-len("permission denied\n")):]))
	}
	fmt.Printf("program: %s", program)
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, path := range tasks {
		text, _ := os.ReadFile(path)
		fields := []string{"thread:"}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") {
				fields = append(fields, strings.Fields(strings.Replace(line, ":", " ", 1))...)
			}
		}
		fmt.Println(strings.Join(fields, " "))
	}
}
