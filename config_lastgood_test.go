package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The copy is used for the file that it was made of, and only where no other user can
// change it. The file with the mistake says where it is.
func TestLastGood(t *testing.T) {
	dir := t.TempDir()
	const path, text = "/etc/lvs-controller/config.toml", "line 1\nline 2\n"
	if err := saveLastGood(dir, path, []byte(text)); err != nil {
		t.Fatal(err)
	}
	file := lastGoodFile(dir)
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Fatal(info, err)
	}
	if err := saveLastGood(dir, path, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(file); err != nil || !os.SameFile(info, again) {
		t.Errorf("the same content was written again: %v", err)
	}
	broken := fmt.Sprintf("bogus = 1\n cache_dir = %q # a comment\n", dir)
	load := func(path string) string {
		got, at, saved, err := loadLastGood(path, []byte(broken))
		if at != file {
			t.Errorf("the copy is looked for at %s, want %s", at, file)
		}
		if err != nil {
			return err.Error()
		}
		if time.Since(saved).Abs() > time.Minute {
			t.Errorf("saved %s", saved)
		}
		return string(got)
	}
	if got := load(path); got != text {
		t.Errorf("the copy is %q", got)
	}
	if got := load("/etc/other.toml"); got != "it is not of /etc/other.toml" {
		t.Errorf("another file's copy: %q", got)
	}
	for _, shared := range []string{file, dir} {
		before, _ := os.Stat(shared)
		if err := os.Chmod(shared, 0o777); err != nil {
			t.Fatal(err)
		}
		if got := load(path); !strings.Contains(got, "other users may write to "+shared) {
			t.Errorf("a copy that others may write to: %q", got)
		}
		if err := os.Chmod(shared, before.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := load(path); !strings.HasSuffix(got, "no such file or directory") {
		t.Errorf("no copy: %q", got)
	}
	if _, at, _, _ := loadLastGood(path, []byte("cache_dir = 1\n")); at != "/var/lib/lvs-controller/config.last-good.toml" {
		t.Errorf("without cache_dir the copy is looked for at %s", at)
	}
}

// A restart while the file has a mistake goes on with what was in force, says so, and
// takes the file as soon as it is right. Without a copy it ends with the mistakes.
func TestLastGoodRestart(t *testing.T) {
	asController(t)
	dir := t.TempDir()
	netns := newNetns(t)
	head := fmt.Sprintf("listen = \"\"\nmanage_sysctls = false\nstate_dir = %q\ncache_dir = %q\n", dir, dir)
	path := writeConfig(t, head+staticVIP)
	logFile := filepath.Join(dir, "log")
	says := func(text string) func() bool {
		return func() bool { b, _ := os.ReadFile(logFile); return strings.Contains(string(b), text) }
	}
	manager := newServiceManager(t)
	start := func() *exec.Cmd {
		t.Helper()
		return startController(t, netns, logFile, []string{"-config", path}, "NOTIFY_SOCKET="+manager.path)
	}
	stop := func(cmd *exec.Cmd) {
		t.Helper()
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			b, _ := os.ReadFile(logFile)
			t.Fatalf("%v\n%s", err, b)
		}
	}
	save := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copied := func(text string) func() bool {
		return func() bool {
			b, _ := os.ReadFile(lastGoodFile(dir))
			return strings.HasSuffix(string(b), "\n"+text)
		}
	}
	cmd := start()
	until(t, "a copy of the first configuration", copied(head+staticVIP))
	second := head + strings.Replace(staticVIP, "80/tcp", "81/tcp", 1)
	save(second)
	until(t, "a copy of the second configuration", copied(second))
	stop(cmd)

	save(head + "bogus = 1\n" + staticVIP)
	cmd = start()
	mistake := path + ":5: bogus: unknown key"
	manager.wants("READY=1\nSTATUS=", mistake)
	until(t, "a status that names the mistake", func() bool {
		_, body, err := overSocket(socketPath(dir), "GET", "/status.json")
		var s status
		if err == nil && json.Unmarshal([]byte(body), &s) == nil && !strings.HasPrefix(s.Config.Wrong, mistake) {
			t.Errorf("the status does not name the mistake: %+v", s.Config)
		}
		return err == nil && s.Config.Wrong != ""
	})
	until(t, "a start with the copy", says(`level=ERROR msg="the configuration file cannot be used: starting with the last good one" file=`+path))
	until(t, "the mistake", says(mistake))
	until(t, "the start", says("msg=starting "))
	third := head + strings.Replace(staticVIP, "80/tcp", "82/tcp", 1)
	time.Sleep(3 * quietTime) // the file is read again
	if b, _ := os.ReadFile(logFile); strings.Count(string(b), `level=ERROR msg="the configuration file `) != 1 {
		t.Errorf("want one ERROR about the file:\n%s", b)
	}
	if !copied(second)() {
		t.Error("the copy is not that of the configuration in force any more")
	}
	save(third)
	until(t, "the file's own configuration", says(`msg="the configuration file is valid again" file=`+path+` changes="vip edge changed"`))
	until(t, "a copy of the third configuration", copied(third))
	stop(cmd)

	// In this order: each takes more away.
	remove := func(path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		do   func()
		want string
	}{
		{"no file", func() { remove(path) }, "no such file or directory"},
		{"a copy with a key that is refused", func() {
			if err := saveLastGood(dir, path, []byte("older = 1\n"+third)); err != nil {
				t.Fatal(err)
			}
		}, `level=ERROR msg="the last good configuration cannot be used either" copy=` + lastGoodFile(dir)},
		{"no copy", func() { remove(lastGoodFile(dir)) }, path + ":1: bogus: unknown key"},
	} {
		save("bogus = 1\n" + third)
		test.do()
		if err := start().Wait(); err == nil || says("msg=starting ")() || !says(test.want)() {
			b, _ := os.ReadFile(logFile)
			t.Errorf("%s: %v, want %s\n%s", test.name, err, test.want, b)
		}
	}
}

// doctor examines what the controller goes on with.
func TestDoctorReadsTheCopy(t *testing.T) {
	dir := t.TempDir()
	good := fmt.Sprintf("cache_dir = %q\ninterface = \"lo\"\n", dir) + staticVIP
	path := writeConfig(t, good)
	if err := saveLastGood(dir, path, []byte(good)); err != nil {
		t.Fatal(err)
	}
	examined := func(text string) *doctorHost {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		h, closeAll := thisHost(t.Context(), &source{path: path, set: map[string]bool{}}, "")
		closeAll()
		return h
	}
	if h := examined("bogus = 1\n" + good); h.configErr == nil || h.copied != lastGoodFile(dir) || len(h.cfg.VIPs) != 1 || h.uplink != "lo" {
		t.Errorf("with a mistake: %v, copy %q, uplink %q, %d VIPs", h.configErr, h.copied, h.uplink, len(h.cfg.VIPs))
	}
	if h := examined(good); h.configErr != nil || h.copied != "" {
		t.Errorf("a good file: %v, copy %q", h.configErr, h.copied)
	}
	if err := os.Remove(lastGoodFile(dir)); err != nil {
		t.Fatal(err)
	}
	if h := examined("bogus = 1\n" + good); h.configErr == nil || h.copied != "" || len(h.cfg.VIPs) != 0 {
		t.Errorf("without a copy: %v, copy %q, %d VIPs", h.configErr, h.copied, len(h.cfg.VIPs))
	}
}
