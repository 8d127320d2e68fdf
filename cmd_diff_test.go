// What `diff` prints, and how it waits for the cluster.

package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// diff waits for an API server that is starting, and not for what no waiting mends.
func TestDiffWaitsForWhatPasses(t *testing.T) {
	pods := podList("7", "", testPod{name: "a"}) // where there is none, the labels of others are asked for too
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	server := func(replies ...reply) string { return string(newFakeAPI(t, replies...).kubeconfig("t")) }
	for _, test := range []struct {
		name        string
		kubeconfig  string
		clusterFile string
		want        string // in the error; "" = an answer
	}{
		{"a server that is starting", server(refuses(503, "starting"), refuses(500, "starting"), says(pods)), "", ""},
		{"no cluster file", "", filepath.Join(dir, "absent"), "no such file"},
		{"a FIFO", "", fifo, "FIFO"},
		{"a file that is no list", "", file("prose", []byte("pods: none\n")), "no kind"},
		{"UTF-16", "", file("utf16", []byte("{\x00\"\x00k\x00i\x00")), "UTF-16"},
		{"no context", `{"apiVersion":"v1","kind":"Config"}`, "", "kubeconfig"},
		{"no rights", server(refuses(403, "no"), refuses(403, "no")), "", "grant it"},
		{"wrong credentials", server(refuses(401, "no"), refuses(401, "no")), "", "credentials"},
		{"another server", server(refuses(404, "no"), refuses(404, "no")), "", "404"},
		{"another authority", string(kubeconfigFor(newFakeAPI(t).URL, nil, "t")), "", "certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := ClusterQuery{Pods: []PodQuery{{Namespace: "web", Selector: "app=edge"}}, ClusterFile: test.clusterFile}
			if test.kubeconfig != "" {
				q.Kubeconfig = file("kubeconfig", []byte(test.kubeconfig))
			}
			begun := time.Now()
			_, err := askCluster(t.Context(), q)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if took := time.Since(begun); test.want != "" && took > faultTimeout {
				t.Errorf("took %s", took)
			}
		})
	}
	for _, err := range []error{&fault{err: io.ErrUnexpectedEOF}, &fault{err: unix.ECONNREFUSED}, &fault{err: errNoAnswer}} {
		if lasting(err) {
			t.Errorf("%v does not pass", err)
		}
	}
}
