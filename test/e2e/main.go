// Command e2e runs the end-to-end tests: a real kube-apiserver and etcd on
// this machine drive the controller on a kernel with IPVS.
//
// `make e2e` calls it after the binaries have been built. It starts the control
// plane, fills a namespace with pods for the memory test, and runs the tests of
// e2e_test.go in a virtual machine, which reaches the control plane through
// 10.0.2.2. It leaves nothing running.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"lvs-controller/test/cluster"
)

func main() {
	var (
		bin  = flag.String("bin", ".cache/kube/bin", "`folder` of kube-apiserver and etcd")
		test = flag.String("test", ".cache/bin/lvs.test", "compiled `tests`")
		prog = flag.String("binary", "lvs-controller", "the `controller`")
		run  = flag.String("run", "^TestE2E", "tests to run, a `pattern`")
		pods = flag.Int("pods", 5000, "`number` of pods for the memory test")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := drive(ctx, *bin, *test, *prog, *run, *pods); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

func drive(ctx context.Context, bin, test, prog, run string, pods int) error {
	dir, err := os.MkdirTemp("", "lvs-e2e-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := cluster.Start(ctx, cluster.Options{BinDir: bin, DataDir: dir})
	if err != nil {
		return err
	}
	defer c.Stop()
	control, err := c.ServeControl(ctx)
	if err != nil {
		return err
	}
	u, err := url.Parse(control)
	if err != nil {
		return err
	}
	u.Host = cluster.GuestHost + ":" + u.Port()

	start := time.Now()
	if err := fill(ctx, c.Admin(), pods); err != nil {
		return fmt.Errorf("create %d pods: %w", pods, err)
	}
	fmt.Printf("%d pods created in %s\n", pods, time.Since(start).Round(time.Second))

	cmd := exec.CommandContext(ctx, "test/vm/run", "-net", "-timeout", "600",
		"-file", prog, "-file", test, "-file", "install/rbac.yaml",
		"-env", "LVS_REQUIRE_ALL=1", "-env", "LVS_BINARY=/work/lvs-controller",
		"-env", "LVS_E2E_CONTROL="+u.String(), "-env", fmt.Sprint("LVS_E2E_PODS=", pods),
		"--", "./lvs.test", "-test.run", run, "-test.v", "-test.timeout", "580s")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// fill creates the namespace "big" with n ready ingress pods, each on a node of
// its own.
func fill(ctx context.Context, a *cluster.Client, n int) error {
	if err := a.CreateNamespace(ctx, "big"); err != nil {
		return err
	}
	const workers = 8
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; i < n; i += workers {
				labels := map[string]string{"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"}
				ip := fmt.Sprintf("10.200.%d.%d", i/250, i%250+1)
				if err := a.CreatePod(ctx, "big", fmt.Sprintf("ingress-%d", i), fmt.Sprintf("node-%d", i), labels, true, []string{ip}); err != nil {
					once.Do(func() { first = err; cancel() })
					return
				}
			}
		}()
	}
	wg.Wait()
	return first
}
