package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSnapshotRoundTrip(t *testing.T) {
	c := testCluster(map[string]string{"9000": "ns/svc:1"}, with(readyPod("a", "10.1.0.1", "2001:db8::1"), func(p *Pod) { p.Ports, p.Weight = []Port{{80, TCP}}, "5" }), readyPod("b"))
	c.Pods[PodQuery{Namespace: "empty"}] = []*Pod{}
	c.Nodes = map[NodeQuery][]*Node{{}: {{Name: "n1", Excluded: "why", Addresses: []netip.Addr{addr("10.1.0.1")}}, {Name: "n2"}}}
	var b bytes.Buffer
	if err := writeSnapshot(&b, c, "here", testTime); err != nil {
		t.Fatal(err)
	}
	got, head, err := readSnapshot(bytes.NewReader(b.Bytes()))
	if err != nil || !head.Saved.Equal(testTime) || head.Source != "here" {
		t.Fatal(head, err)
	}
	if diff := cmp.Diff(c, got, compareAddrs); diff != "" {
		t.Errorf("cluster (-want +got):\n%s", diff)
	}
	// Whatever is missing, doubled or changed: refused.
	whole := b.String()
	for i := range whole {
		if _, _, err := readSnapshot(strings.NewReader(whole[:i])); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", i, len(whole))
		}
	}
	for _, bad := range []string{
		whole + "\n", whole + whole,
		strings.Replace(whole, `"a"`, `"x"`, 1),
		strings.Replace(whole, `:1,`, `:2,`, 1),
	} {
		if _, _, err := readSnapshot(strings.NewReader(bad)); err == nil {
			t.Errorf("accepted:\n%s", bad)
		}
	}
}

func TestSnapshotFileLife(t *testing.T) {
	dir := t.TempDir() + "/cache"
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	if c, _ := loadSnapshot(dir, "file here", logger); c != nil || log.Len() > 0 {
		t.Errorf("without a file: %v, log %q", c, &log)
	}
	wake := make(chan struct{}, 1)
	clusters := newLatest[Cluster](wake)
	want := testCluster(nil, readyPod("a", "10.1.0.1"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	configs := newLatest[Config]()
	configs.Set(&Config{ClusterFile: "here", CacheDir: dir, VIPs: []VIP{testVIP()}})
	go func() { done <- saveSnapshots(ctx, configs, Cluster{}, clusters, wake, logger) }()
	clusters.Set(want)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(snapshotFile(dir)); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was saved")
		}
	}
	later := testCluster(nil, readyPod("a", "10.1.0.1"), readyPod("b", "10.1.0.2"))
	clusters.Set(later) // during the pause: saved at the end
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	saved, at := loadSnapshot(dir, "file here", logger)
	if diff := cmp.Diff(later, saved, compareAddrs); diff != "" {
		t.Errorf("cluster (-want +got):\n%s", diff)
	}
	if age := time.Since(at); age < 0 || age > time.Minute {
		t.Errorf("saved at %s", at)
	}
	log.Reset()
	if c, _ := loadSnapshot(dir, "elsewhere", logger); c != nil || !strings.Contains(log.String(), "it is of file here, not of elsewhere") {
		t.Errorf("a snapshot of another cluster gives %v, log %q", c, &log)
	}
	if err := os.WriteFile(snapshotFile(dir), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	if c, _ := loadSnapshot(dir, "file here", logger); c != nil || !strings.Contains(log.String(), "is not used") {
		t.Errorf("a foreign file gives %v, log %q", c, &log)
	}
}

// After a restart the snapshot on disk is not replaced by one that lacks what has
// not been heard of yet, and what is wanted no more is not kept.
func TestSnapshotAfterARestart(t *testing.T) {
	dir := t.TempDir()
	logger := slog.New(slog.DiscardHandler)
	before := testCluster(map[string]string{"9000": "default/db:5432"}, readyPod("a", "10.1.0.1"))
	before.Pods[PodQuery{Namespace: "old", Selector: "app=old"}] = refs(readyPod("z", "10.1.0.9"))
	configs, clusters, wake := newLatest[Config](), newLatest[Cluster](), make(chan struct{})
	configs.Set(&Config{ClusterFile: "here", CacheDir: dir, VIPs: []VIP{testVIP()}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- saveSnapshots(ctx, configs, *before, clusters, wake, logger) }()
	heard := testCluster(map[string]string{"9001": "default/db:5433"})
	clear(heard.Pods)
	clusters.Set(heard)
	wake <- struct{}{}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	want := testCluster(map[string]string{"9001": "default/db:5433"}, readyPod("a", "10.1.0.1"))
	got, _ := loadSnapshot(dir, "file here", logger)
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("cluster (-want +got):\n%s", diff)
	}
}

// At the first start of all the answers come one by one, and what completes the
// snapshot does not wait for the pause between two writes; other news does.
func TestSnapshotIsSoonWhole(t *testing.T) {
	dir := t.TempDir()
	logger := slog.New(slog.DiscardHandler)
	wake := make(chan struct{})
	configs, clusters := newLatest[Config](), newLatest[Cluster]()
	configs.Set(&Config{ClusterFile: "here", CacheDir: dir, VIPs: []VIP{testVIP()}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- saveSnapshots(ctx, configs, Cluster{}, clusters, wake, logger) }()
	pods := testCluster(nil, readyPod("a", "10.1.0.1"))
	clear(pods.ConfigMaps)
	whole := testCluster(map[string]string{"9000": "default/db:5432"}, readyPod("a", "10.1.0.1"))
	later := testCluster(map[string]string{"9001": "default/db:5432"}, readyPod("a", "10.1.0.1"))
	began := time.Now()
	for _, c := range []*Cluster{pods, whole, later} {
		clusters.Set(c)
		wake <- struct{}{}
		wake <- struct{}{} // taken when what came of the first is done
	}
	got, _ := loadSnapshot(dir, "file here", logger)
	if diff := cmp.Diff(whole, got, compareAddrs); diff != "" && time.Since(began) < snapshotPause {
		t.Errorf("cluster (-want +got):\n%s", diff)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	got, _ = loadSnapshot(dir, "file here", logger)
	if diff := cmp.Diff(later, got, compareAddrs); diff != "" {
		t.Errorf("at the end (-want +got):\n%s", diff)
	}
}

// What is read from a snapshot is written again as the same. The checksum is put
// below the bytes, because none are found that fit one.
func FuzzReadSnapshot(f *testing.F) {
	var b bytes.Buffer
	if err := writeSnapshot(&b, testCluster(map[string]string{"1": "2"}, readyPod("a", "10.1.0.1")), "here", testTime); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:bytes.LastIndexByte(b.Bytes()[:b.Len()-1], '\n')])
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		_, _, _ = readSnapshot(bytes.NewReader(b))
		b = append(bytes.Clone(b), '\n')
		b = fmt.Appendf(b, "{\"sha256\":\"%x\"}\n", sha256.Sum256(b))
		c, head, err := readSnapshot(bytes.NewReader(b))
		if err != nil {
			return
		}
		var text bytes.Buffer
		if err := writeSnapshot(&text, c, head.Source, head.Saved); err != nil {
			t.Fatal(err)
		}
		again, headAgain, err := readSnapshot(bytes.NewReader(text.Bytes()))
		if err != nil {
			t.Fatalf("%s: %v", text.Bytes(), err)
		}
		if diff := cmp.Diff(c, again, compareAddrs); diff != "" {
			t.Fatalf("%s (-first +again):\n%s", text.Bytes(), diff)
		}
		if diff := cmp.Diff(head, headAgain); diff != "" {
			t.Fatalf("%s (-first +again):\n%s", text.Bytes(), diff)
		}
	})
}
