package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is wrong with a kubeconfig is named, with what there is instead, and no password
// of a URL is in the text.
func TestKubeconfigFaults(t *testing.T) {
	const whole = `{"current-context":"c","clusters":[{"name":"k","cluster":{"server":"https://10.0.0.1"}}],"users":[{"name":"u","user":{}}],"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}]}`
	but := func(old, now string) string {
		t.Helper()
		if !strings.Contains(whole, old) {
			t.Fatalf("no %s in the kubeconfig", old)
		}
		return strings.Replace(whole, old, now, 1)
	}
	server := func(text string) string { return but("https://10.0.0.1", text) }
	utf16 := "\xff\xfe"
	for _, r := range "kind: Config\n" {
		utf16 += string(r) + "\x00"
	}
	for _, tt := range []struct{ name, text, want string }{
		{"whole", whole, ""},
		{"empty", " \n", "it is empty"},
		{"UTF-16", utf16, "it is UTF-16"},
		{"another document", `{"apiVersion":"v1","kind":"Secret"}`, "Secret"},
		{"no current-context", but(`"current-context":"c",`, ``), "it has no current-context; its contexts are c"},
		{"none of its contexts", but(`"current-context":"c"`, `"current-context":"prod"`), `its current-context "prod" does not exist; its contexts are c`},
		{"no context at all", `{"clusters":[]}`, "it has no current-context; it has no contexts"},
		{"no such cluster", but(`"cluster":"k"`, `"cluster":"x"`), `its context "c" names cluster "x", which does not exist; its clusters are k`},
		{"no such user", but(`"user":"u"`, `"user":"x"`), `its context "c" names user "x", which does not exist; its users are u`},
		{"no server", server(""), `its cluster "k" has no server`},
		{"a bad port", server("https://admin:hunter2@10.0.0.1:port"), "server is no valid URL"},
		{"a password with a slash", server("https://admin:hun/ter2@10.0.0.1:6443"), "server"},
		{"a password of digits with a slash", server("https://admin:1234/hunter2@10.0.0.1:6443"), "server has an @ behind its host"},
		{"a password with ?", server("https://hunter2?x@10.0.0.1:6443"), "server has an @ behind its host"},
		{"a password with #", but(`"server":`, `"proxy-url":"http://hunter2#x@10.0.0.1","server":`), "proxy-url has an @ behind its host"},
		{"a password that is an anchor of YAML", "users:\n- {name: u, user: {username: u, password: *hunter2}}\n", "yaml: unknown anchor (text) referenced"},
		{"a password that is a number of YAML", "users:\n- {name: u, user: {username: u, password: !!int hunter2}}\n", "(text)"},
		{"a password with %", server("https://admin:hunter2%zz@10.0.0.1"), "server is no valid URL"},
		{"without a scheme", server("admin:hunter2@10.0.0.1:x:y"), "no valid URL"},
		{"control character", server("https://admin:hunter2@10.0.0.1\\u0007"), "server is no valid URL"},
		{"another scheme", server("ftp://admin:hunter2@10.0.0.1"), "server has another scheme than http, https"},
		{"a bad proxy", but(`"server":`, `"proxy-url":"http://admin:hunter2@10.0.0.1:port","server":`), "proxy-url is no valid URL"},
		{"a proxy of another scheme", but(`"server":`, `"proxy-url":"gopher://admin:hunter2@10.0.0.1","server":`), "proxy-url has another scheme than http, https, socks5"},
		{"a program", but(`"user":{}`, `"user":{"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"aws","interactiveMode":"Never"}}`), "(exec); write allow_exec_credentials = true"},
		{"an auth provider", but(`"user":{}`, `"user":{"auth-provider":{"name":"oidc"}}`), "(auth-provider); write allow_exec_credentials = true"},
		{"a FIFO as a certificate", but(`"server":`, `"certificate-authority":"fifo","server":`), "is not a regular file but a FIFO"},
		{"an empty authority", but(`"server":`, `"certificate-authority":"empty","server":`), "empty is empty"},
		{"an empty certificate", but(`"user":{}`, `"user":{"client-certificate":"empty","client-key":"empty"}`), "empty is empty"},
		{"a device as a key", but(`"user":{}`, `"user":{"client-certificate":"/dev/zero","client-key":"/dev/zero"}`), "is not a regular file but a device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := &apiServer{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
			if err := os.WriteFile(a.kubeconfig, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			mkfifo(t, filepath.Join(filepath.Dir(a.kubeconfig), "fifo"))
			if err := os.WriteFile(filepath.Join(filepath.Dir(a.kubeconfig), "empty"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := a.connect(slog.New(slog.DiscardHandler))
			if text := fmt.Sprint(err); (err != nil) != (tt.want != "") || !strings.Contains(text, tt.want) && err != nil || strings.Contains(text, "hun") {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// What makes the way to the API server unsafe is logged with each new connection.
func TestUnsafeWay(t *testing.T) {
	a := &apiServer{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	text := string(kubeconfigFor("http://127.0.0.1:1", nil, "t"))
	text = strings.Replace(text, `"certificate-authority-data":""`, `"insecure-skip-tls-verify":true`, 1)
	if err := os.WriteFile(a.kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(a.kubeconfig, 0o666); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for range 3 {
		if _, err := a.connect(slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"server is http", "insecure-skip-tls-verify", "(mode 0666)"} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("%q is not there once in:\n%s", want, log.String())
		}
	}
	a.warnAgain(slog.New(slog.NewTextHandler(&log, nil)))
	if n := strings.Count(log.String(), "\n"); n != 6 {
		t.Errorf("%d lines after a reload, want 6", n)
	}
}

// Each time that a kubeconfig in use cannot be used any more is logged, and its end.
func TestKubeconfigBreaksAgain(t *testing.T) {
	const whole = `{"current-context":"c","clusters":[{"name":"k","cluster":{"server":"https://10.0.0.1"}}],"contexts":[{"name":"c","context":{"cluster":"k"}}]}`
	var log bytes.Buffer
	a := &apiServer{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	for _, text := range []string{whole, "", "", whole, whole, "", strings.Replace(whole, "0.1", "0.2", 1)} {
		if err := os.WriteFile(a.kubeconfig, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := a.connect(slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"the kubeconfig cannot be used", "the kubeconfig can be used again"} {
		if n := strings.Count(log.String(), want); n != 2 {
			t.Errorf("%q is there %d times, want 2:\n%s", want, n, log.String())
		}
	}
}

// A server that speaks no TLS is a fault that no waiting mends, and no warning.
func TestServerWithoutTLS(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	a := &apiServer{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	text := kubeconfigFor(strings.Replace(plain.URL, "http:", "https:", 1), nil, "t")
	if err := os.WriteFile(a.kubeconfig, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := a.connect(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.get(t.Context(), "list", streamKey{edgePods}, url.Values{})
	f, ok := errors.AsType[*fault](err)
	if !ok || !lasting(f) || f.level() != slog.LevelError {
		t.Errorf("error %v", err)
	}
}

// A token file is read for each request, so a new token is used at once.
func TestTokenFileIsReadForEachRequest(t *testing.T) {
	api := newFakeAPI(t)
	valid := "one"
	api.respond = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+valid {
			refuses(http.StatusUnauthorized, "no")(w, r)
			return
		}
		says(podList("7", ""))(w, r)
	}
	a := &apiServer{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), userAgent: "lvs-controller/" + version}
	token := filepath.Join(filepath.Dir(a.kubeconfig), "token")
	write := func(path, text string) {
		t.Helper()
		if err := writeFileAtomic(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(a.kubeconfig, strings.Replace(string(api.kubeconfig("")), `"token":""`, `"tokenFile":"token"`, 1))
	write(token, "one\n")
	ask := func() error {
		c, err := a.connect(slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		resp, err := c.get(t.Context(), "list", streamKey{edgePods}, url.Values{"limit": {"500"}})
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	valid = "two"
	if err := ask(); err == nil || !strings.Contains(err.Error(), "does not accept the credentials") {
		t.Errorf("the old token: %v", err)
	}
	write(token, "two")
	if err := ask(); err != nil {
		t.Errorf("the new token: %v", err)
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	mkfifo(t, token)
	if err := ask(); err == nil || !strings.Contains(err.Error(), "token is not a regular file but a FIFO") || !lasting(err) {
		t.Errorf("a FIFO: %v, lasting %t", err, lasting(err))
	}
	write(token, " \n")
	if err := ask(); err == nil || !strings.Contains(err.Error(), "token is empty") || !lasting(err) {
		t.Errorf("an empty token: %v", err)
	}
}

// A program that gets credentials runs when the configuration allows it, and one that
// hangs holds nothing up.
func TestProgramForCredentials(t *testing.T) {
	api := newFakeAPI(t)
	api.respond = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer made" {
			refuses(http.StatusUnauthorized, "no")(w, r)
			return
		}
		says(podList("7", ""))(w, r)
	}
	dir := t.TempDir()
	connect := func(name, script string) *connection {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
		a := &apiServer{kubeconfig: filepath.Join(dir, name+".kubeconfig"), programs: true, userAgent: "lvs-controller/" + version}
		exec := fmt.Sprintf(`"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"./%s","interactiveMode":"Never"}`, name)
		if err := os.WriteFile(a.kubeconfig, []byte(strings.Replace(string(api.kubeconfig("")), `"token":""`, exec, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := a.connect(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ask := func(ctx context.Context, c *connection) error {
		resp, err := c.get(ctx, "list", streamKey{edgePods}, url.Values{"limit": {"500"}})
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := ask(t.Context(), connect("good", `echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"made"}}'`)); err != nil {
		t.Error(err)
	}
	hangs := connect("hangs", "exec sleep 4")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := ask(ctx, hangs); err == nil || time.Since(began) > 3*time.Second {
		t.Errorf("a program that hangs: error %v after %s", err, time.Since(began))
	}
	if err := ask(t.Context(), hangs); err == nil || !strings.Contains(err.Error(), "has not ended yet") {
		t.Errorf("while it hangs: %v", err)
	}
	until(t, "the end of the program", func() bool { return hangs.abandoned.Load() == 0 })
}

// A watch that goes silent after its first event is not trusted, and a server that
// makes that happen again is named. So is one that knows no version of any answer.
func TestFaultsThatDoNotPass(t *testing.T) {
	pods := func(respond reply) reply {
		return func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/pods") {
				refuses(http.StatusForbidden, "no")(w, r)
				return
			}
			respond(w, r)
		}
	}
	watches := func(list, watch reply) reply {
		return pods(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("watch") {
				watch(w, r)
			} else {
				list(w, r)
			}
		})
	}
	turn := 0
	a, b := testPod{name: "a", version: 1}, testPod{name: "b", version: 2}
	for _, tt := range []struct {
		name    string
		respond reply
		want    string
	}{
		{"silent after one event", watches(says(podList("10", "", a)), goesOn(tells(eventAdded, b))), "times in a row"},
		{"410 for each list", pods(refuses(http.StatusGone, "too old")), "answers 410"},
		{"410 for each watch", watches(says(podList("10", "", a)), refuses(http.StatusGone, "too old")), "answers 410"},
		{"410 in each watch, which began well", watches(says(podList("10", "", a)), says(tells(eventAdded, b)+tellsError(http.StatusGone))), "answers 410"},
		{"a version that goes back with each list", watches(says(podList("10", "", a)), says(tells(eventAdded, testPod{name: "b", version: 20})+tellsError(http.StatusInternalServerError))), "went backwards"},
		{"410 and 403 in turn", pods(func(w http.ResponseWriter, r *http.Request) {
			if turn++; turn%2 == 0 {
				refuses(http.StatusForbidden, "no")(w, r)
				return
			}
			refuses(http.StatusGone, "too old")(w, r)
		}), "answers 410"},
		{"410 for each second page", pods(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("continue") {
				refuses(http.StatusGone, "too old")(w, r)
				return
			}
			says(podList("10", "more", a))(w, r)
		}), "answers 410"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lists := 0
			f := follow(t, tt.respond, func(_ *latest[Cluster], log string) bool {
				if lists++; lists < 20 { // that is asked often, so some repeat
					return false
				}
				return strings.Contains(log, "cannot follow the cluster") && strings.Contains(log, tt.want)
			}, func(w *clusterWatch) { w.pace.silence, w.pace.healthy = 100*time.Millisecond, 1 })
			if n := strings.Count(f.log.String(), tt.want); n != 1 {
				t.Errorf("logged %d times, want once a minute:\n%s", n, f.log.String())
			}
		})
	}
}

// Of a node only what decides about it is kept, and the kubelet's reports change
// nothing.
func TestNodes(t *testing.T) {
	node := func(name, labels, spec string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":"1","labels":{%s}},"spec":{%s},"status":{"images":[{"names":["x"]}],"addresses":[{"type":"InternalIP","address":"10.1.0.1"},{"type":"Hostname","address":"n"},{"type":"InternalIP","address":"fd00::1"},{"type":"ExternalIP","address":"192.0.2.1"},{"type":"InternalIP","address":"x"}]}}`, name, labels, spec)
	}
	list := `{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[` + strings.Join([]string{
		node("c", "", `"unschedulable":true`), node("a", "", ""), node("b", `"node.kubernetes.io/exclude-from-external-load-balancers":"false"`, ""), node("d", "", `"unschedulable":false`),
	}, ",") + `]}`
	l := NodeQuery{}.collect().(*nodeCollection)
	if _, err := decodePage(strings.NewReader(list), l); err != nil {
		t.Fatal(err)
	}
	l.complete()
	var got []string
	for _, n := range l.kept {
		got = append(got, fmt.Sprint(n.Name, ": ", n.Excluded, n.Addresses))
	}
	want := []string{"a: [10.1.0.1 fd00::1]", "b: its node has the label node.kubernetes.io/exclude-from-external-load-balancers[10.1.0.1 fd00::1]",
		"c: its node is cordoned off[10.1.0.1 fd00::1]", "d: [10.1.0.1 fd00::1]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	known := clusterOf(l)
	event := func(text string, deleted bool) {
		t.Helper()
		o := new(nodeObject)
		if err := json.Unmarshal([]byte(text), o); err != nil {
			t.Fatal(err)
		}
		l.apply(o, deleted)
	}
	before := l.kept
	event(node("a", `"beta":"x"`, `"taints":[]`), false)
	if !same(before, l.kept) || !l.storedIn(known) {
		t.Error("a report of the kubelet is a change")
	}
	event(node("a", "", `"unschedulable":true`), false)
	event(node("d", "", `"unschedulable":true`), false)
	if lost := l.missing(known); lost != (loss{gone: 2, served: 2}) {
		t.Errorf("missing %+v", lost)
	}
	if lost := (&nodeCollection{}).missing(known); lost != (loss{gone: 2, served: 2, whole: true}) {
		t.Errorf("without any node missing %+v", lost)
	}
	event(node("a", "", ""), true)
	event(node("e", "", ""), false)
	if len(l.kept) != 4 || l.kept[0].Name != "b" || l.kept[3].Name != "e" {
		t.Errorf("%d nodes", len(l.kept))
	}
}

// The error for what an account may not read names the object that would grant it:
// what has no namespace is granted by a ClusterRole alone.
func TestForbiddenNamesTheRole(t *testing.T) {
	for _, tt := range []struct {
		query streamQuery
		want  string
	}{
		{edgePods, "in the Role of"},
		{NodeQuery{}, "in the ClusterRole of"},
	} {
		err := error((&connection{}).refusal("list", streamKey{tt.query}, http.StatusForbidden, "no"))
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %q in it", tt.query, err, tt.want)
		}
	}
}
