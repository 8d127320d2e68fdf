//go:build plane

// From an API server to the kernel's table, and what thousands of pods cost.
//
// test/bench runs these through test/e2e, beside a real kube-apiserver. All that
// is compared runs in one process of the virtual machine: the client that
// changes a pod, a bare watch, and the controller's own watch and loop, over the
// same network.

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/bench/guest"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/cluster"
	"lvs-controller/test/lab"
)

// benchLabels select the pods of the benchmark's VIP.
var benchLabels = map[string]string{"app": "edge"}

// benchChange is one change of a pod's readiness, with the times of the controller.
type benchChange struct {
	weight           uint32
	published        time.Time // the watch had made its snapshot
	called, returned time.Time // around the call to the kernel
}

// followed is a controller that follows a real API server, and the client that changes
// the pods there.
type followed struct {
	*benchmark
	info  *cluster.Info
	admin *cluster.Client
	name  string // of the results
	host  string // where the API server is
}

// With -native there is no emulation, and a model in place of the kernel, whose share
// is half a millisecond even emulated. Otherwise the kernel is real, on an emulated
// processor.
func TestBenchE2ELatency(t *testing.T) {
	e := followed{benchmark: newBenchmark(t), name: "latency", host: cluster.GuestHost}
	if *args.Native {
		e.name, e.host = "native", "127.0.0.1"
	}
	var err error
	_, e.info, e.admin, err = cluster.Reach(t.Context(), *args.Control, e.host)
	lab.Must(t, err)
	if *args.Native {
		e.latency(newModelDirector(e.benchmark, latencyVIP), guest.LongOr(e.Benchmark, 500, 100))
		return
	}
	e.InFresh(func(h *lab.Host) {
		e.latency(newBenchDirector(e.benchmark, h, latencyVIP), guest.LongOr(e.Benchmark, 300, 40))
	})
}

// latencyVIP has one service; its pods and its ConfigMap are at the API server.
var latencyVIP = benchVIP{name: "edge", address: guest.Address, services: 1}

// latency makes what latencyVIP asks for, lets d follow it, and measures.
func (e followed) latency(d *benchDirector, times int) {
	t := e.T
	ctx, cancel := context.WithCancel(t.Context())
	namespace := "bench-" + e.name
	lab.Must(t, e.admin.CreateNamespace(ctx, namespace))
	for i, node := range guest.AddressesFrom(guest.Node, 3) {
		lab.Must(t, e.admin.CreatePod(ctx, namespace, fmt.Sprintf("pod-%d", i), fmt.Sprintf("node-%d", i), benchLabels, true, []string{node.String()}))
	}
	lab.Must(t, e.admin.SetConfigMap(ctx, namespace, "edge", map[string]string{strconv.Itoa(guest.Port): "default/backend:80"}))
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	lab.Must(t, os.WriteFile(kubeconfig, cluster.Kubeconfig(e.info.URL(e.host), e.info.CA, e.info.AdminToken), 0o600))

	changes := make(chan benchChange, 64)
	var published atomic.Pointer[time.Time]
	stopped := d.follow(ctx, kubeconfig, namespace,
		func(at time.Time) { published.Store(&at) },
		func(weight uint32, called, returned time.Time) {
			changes <- benchChange{weight, *published.Load(), called, returned}
		})
	defer stopped()
	defer cancel()
	select {
	case <-changes: // the table is in place
	case <-time.After(time.Minute):
		t.Fatal("no table after a minute")
	}
	e.change(namespace, changes, times)
}

// change changes a pod so many times and measures each stage.
func (e followed) change(namespace string, changes <-chan benchChange, times int) {
	b := e.benchmark
	watch := e.watchBare(namespace)
	var bare, ours, beyond, publishing, deciding, telling []float64
	for i := range times {
		ready := i%2 == 1
		// At random times, so that nothing periodic in the system falls together with it.
		time.Sleep(time.Duration(20+rand.IntN(40)) * time.Millisecond)
		start := time.Now()
		lab.Must(b.T, e.admin.SetPodStatus(b.Context(), namespace, "pod-1", ready))
		var seen time.Time
		var did benchChange
		deadline := time.After(20 * time.Second)
		for seen.IsZero() || did.returned.IsZero() {
			select {
			case s := <-watch:
				lab.Must(b.T, s.err)
				if s.ready == ready {
					seen = s.received
				}
			case c := <-changes:
				if c.weight > 0 == ready {
					did = c
				}
			case <-deadline:
				b.Fatalf("change %d: no answer after 20 s (bare watch %v, kernel %v)", i, !seen.IsZero(), !did.returned.IsZero())
			}
		}
		bare = append(bare, guest.MS(seen.Sub(start)))
		ours = append(ours, guest.MS(did.returned.Sub(start)))
		beyond = append(beyond, guest.MS(did.returned.Sub(seen)))
		publishing = append(publishing, guest.MS(did.published.Sub(seen)))
		deciding = append(deciding, guest.MS(did.called.Sub(did.published)))
		telling = append(telling, guest.MS(did.returned.Sub(did.called)))
	}
	for way, samples := range map[string][]float64{
		"bare watch": bare, "ours": ours, "ours after the bare watch": beyond,
		"from the bare watch to our snapshot": publishing, "from the snapshot to the call": deciding, "the call": telling,
	} {
		b.Record(results.New(e.name, way, nil, "ms", samples...))
	}
}

// sighting is an event that the bare watch saw.
type sighting struct {
	received time.Time
	ready    bool
	err      error
}

// watchBare watches the pods with only an HTTP client. It takes the time when a line has
// arrived, and looks for the pod's readiness in the line and nothing else.
func (e followed) watchBare(namespace string) <-chan sighting {
	b := e.benchmark
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(e.info.CA) {
		b.Fatal("no certificate in the CA's PEM")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	list, err := e.admin.ListPods(b.Context(), namespace, "")
	lab.Must(b.T, err)
	url := fmt.Sprintf("%s/api/v1/namespaces/%s/pods?watch=true&resourceVersion=%s", e.info.URL(e.host), namespace, list.Metadata.ResourceVersion)
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
	lab.Must(b.T, err)
	request.Header.Set("Authorization", "Bearer "+e.info.AdminToken)
	response, err := client.Do(request)
	lab.Must(b.T, err)
	if response.StatusCode != http.StatusOK {
		b.Fatalf("bare watch: %s", response.Status)
	}
	seen := make(chan sighting, 64)
	go func() {
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		for lines.Scan() {
			now := time.Now()
			seen <- sighting{received: now, ready: bytes.Contains(lines.Bytes(), []byte(`"type":"Ready","status":"True"`))}
		}
		seen <- sighting{err: fmt.Errorf("the bare watch ended: %w", lines.Err())}
	}()
	return seen
}
