package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// others makes a file that root alone reads by its rights over files: it belongs to
// another user.
func others(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chown(path, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
}

// A reload that needs a right that is gone is refused at its key; what has not changed is
// not asked again, and other faults are as before.
func TestRightsRefuseReload(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	others(t, file("hidden"), "")
	others(t, file("hidden.token"), "token")
	for name, token := range map[string]string{"kubeconfig": `"token":"t"`, "named": fmt.Sprintf(`"tokenFile":%q`, file("hidden.token"))} {
		text := strings.Replace(string(kubeconfigFor("https://192.0.2.9:6443", nil, "t")), `"token":"t"`, token, 1)
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pods := strings.Replace(strings.Replace(staticVIP, "selector = \"\"\n", "", 1), "real_servers", "# real_servers", 1)
	text := func(top string) string {
		return fmt.Sprintf("state_dir = %q\ncache_dir = %q\nlisten = \"\"\n", dir, dir) + top + pods
	}
	parse := func(text string) *Config {
		t.Helper()
		c, err := ParseConfig("c.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const restart = "; it gave up the rights of its start: restart it for this change"
	denied := func(key string, line int, path string) string {
		return fmt.Sprintf("c.toml:%d: %s: the running controller may not use it: %s: permission denied%s", line, key, path, restart)
	}
	kubeconfig := fmt.Sprintf("kubeconfig = %q\n", file("kubeconfig"))
	for _, tt := range []struct{ name, now, next, want string }{
		{"nothing", "", "", ""},
		{"a key that needs no right", kubeconfig, kubeconfig + "audit_interval = \"9s\"\n", ""},
		{"another state_dir", text(""), strings.Replace(text(""), dir, "/run/other", 1), "c.toml:1: state_dir: the running controller may not write to /run/other" + restart},
		{"another cache_dir", text(""), strings.Replace(text(""), "cache_dir = \""+dir, "cache_dir = \"/run/other", 1), "c.toml:2: cache_dir: the running controller may not write to /run/other" + restart},
		{"a program", kubeconfig, kubeconfig + "allow_exec_credentials = true\n", "c.toml:5: allow_exec_credentials: a program that the running controller starts may write to its directories alone" + restart},
		{"no program any more", "allow_exec_credentials = true\n", "", ""},
		{"a kubeconfig of another user", kubeconfig, fmt.Sprintf("kubeconfig = %q\n", file("hidden")), denied("kubeconfig", 4, "kubeconfig: open "+file("hidden"))},
		{"its token file", kubeconfig, fmt.Sprintf("kubeconfig = %q\n", file("named")), denied("kubeconfig", 4, "open "+file("hidden.token"))},
		{"the same as before", fmt.Sprintf("kubeconfig = %q\n", file("named")), fmt.Sprintf("kubeconfig = %q\nmetrics = \"servers\"\n", file("named")), ""},
		{"one that is absent", kubeconfig, fmt.Sprintf("kubeconfig = %q\n", file("absent")), ""},
		{"a cluster file of another user", kubeconfig, fmt.Sprintf("cluster_file = %q\n", file("hidden")), denied("cluster_file", 4, "open "+file("hidden"))},
		{"a token of another user", kubeconfig, kubeconfig + fmt.Sprintf("[events]\nwebhook = \"http://192.0.2.1/\"\ntoken_file = %q\n", file("hidden")), denied("events.token_file", 7, "open "+file("hidden"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			whole := func(s string) string {
				if strings.Contains(s, "[[vip]]") {
					return s
				}
				return text(s)
			}
			next := whole(tt.next)
			now, c := parse(whole(tt.now)), parse(next)
			var err error
			if e := withCapabilities(directorCapabilities, func() { err = (&heldRights{confined: true}).refuse(now, c, []byte(next)) }); e != nil {
				t.Fatal(e)
			}
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if err := (*heldRights)(nil).refuse(now, c, nil); err != nil {
				t.Errorf("with all rights: %v", err)
			}
		})
	}
}

// A low port needs a right too. It is asked for by binding, which is no matter of this
// test's own namespace.
func TestRightsLowPort(t *testing.T) {
	ns := newNetns(t)
	low, high := defaultConfig(), defaultConfig()
	low.Listen, high.Listen = "127.0.0.1:80", "127.0.0.1:9652"
	var got, same error
	ns.do(t, func() {
		if err := withCapabilities(directorCapabilities, func() {
			got, same = new(heldRights).refuse(high, low, nil), new(heldRights).refuse(low, low, nil)
		}); err != nil {
			t.Error(err)
		}
	})
	if want := ":1: listen: the running controller may not use it: listen tcp 127.0.0.1:80: bind: permission denied; "; got == nil || !strings.Contains(got.Error(), want) || same != nil {
		t.Errorf("got %v and %v, want %s", got, same, want)
	}
}

// What an earlier run has left as another user is a reason to keep the right to read it;
// what is not there is none.
func TestRightsForSavedFiles(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	for _, name := range []string{"state.json", "drain.confirmed", "cluster.json", "drained"} {
		c := &Config{StateDir: filepath.Join(dir, name), CacheDir: filepath.Join(dir, name)}
		if err := os.Mkdir(c.StateDir, 0o755); err != nil {
			t.Fatal(err)
		}
		others(t, filepath.Join(c.StateDir, name), "{}")
		var denied []string
		if err := withCapabilities(directorCapabilities, func() {
			for _, n := range savedNeeds(c) {
				if err := n.try(); errors.Is(err, fs.ErrPermission) && n.granted == 1<<unix.CAP_DAC_READ_SEARCH {
					denied = append(denied, filepath.Base(n.value))
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{name}, denied); diff != "" {
			t.Errorf("needs for %s (-want +got):\n%s", name, diff)
		}
	}
}
