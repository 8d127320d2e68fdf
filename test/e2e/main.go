// Command e2e runs the end-to-end tests: a real kube-apiserver and etcd on
// this machine drive the controller on a kernel with IPVS.
//
// `make e2e` calls it after the binaries have been built. It starts the control
// plane, fills a namespace with pods for the memory test, and runs the tests of
// e2e_test.go in a virtual machine, which reaches the control plane through
// 10.0.2.2. Arguments behind the flags are options of test/vm/run: `make bench`
// measures that way, and `make drill` runs drill_*_test.go. It leaves nothing
// running.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"lvs-controller/test/cluster"
)

// options are what the command line says.
type options struct {
	bin, test, binary string
	run, native       string
	pods, timeout     int
	vm                []string
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", ".cache/kube/bin", "`folder` of kube-apiserver and etcd")
	flag.StringVar(&o.test, "test", ".cache/bin/lvs.test", "compiled `tests`")
	flag.StringVar(&o.binary, "binary", "lvs-controller", "the `controller`")
	flag.StringVar(&o.run, "run", "^TestE2E", "tests to run, a `pattern`")
	flag.StringVar(&o.native, "native", "", "tests to run before those, on this machine, a `pattern`")
	flag.IntVar(&o.pods, "pods", 5000, "`number` of pods for the memory test")
	flag.IntVar(&o.timeout, "timeout", 600, "`seconds` for the tests")
	flag.Parse()
	o.vm = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := drive(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

func drive(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "lvs-e2e-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := cluster.Start(ctx, cluster.Options{BinDir: o.bin, DataDir: dir})
	if err != nil {
		return err
	}
	defer c.Stop()
	control, err := c.ServeControl(ctx)
	if err != nil {
		return err
	}

	start := time.Now()
	if err := fill(ctx, c.Admin(), o.pods); err != nil {
		return fmt.Errorf("create %d pods: %w", o.pods, err)
	}
	fmt.Printf("%d pods created in %s\n", o.pods, time.Since(start).Round(time.Second))
	if o.native != "" {
		env := append(os.Environ(), "LVS_REQUIRE_ALL=1", "LVS_E2E_CONTROL="+control)
		if err := command(ctx, env, o.test, o.tests(o.native)...); err != nil {
			return err
		}
	}
	return o.inGuest(ctx, control)
}

// inGuest runs the tests in a virtual machine.
func (o options) inGuest(ctx context.Context, control string) error {
	u, err := url.Parse(control)
	if err != nil {
		return err
	}
	u.Host = cluster.GuestHost + ":" + u.Port()
	args := []string{"-net", "-timeout", strconv.Itoa(o.timeout),
		"-file", o.binary, "-file", o.test, "-file", "install/rbac.yaml", "-file", "install/bird.conf",
		"-env", "LVS_REQUIRE_ALL=1", "-env", "LVS_BINARY=/work/lvs-controller",
		"-env", "LVS_E2E_CONTROL=" + u.String(), "-env", fmt.Sprint("LVS_E2E_PODS=", o.pods)}
	args = append(append(args, o.vm...), "--", "./lvs.test")
	return command(ctx, nil, "test/vm/run", append(args, o.tests(o.run)...)...)
}

// tests are the arguments of the compiled tests.
func (o options) tests(pattern string) []string {
	return []string{"-test.run", pattern, "-test.v", "-test.timeout", fmt.Sprintf("%ds", max(o.timeout-20, 1))}
}

// command runs a program to its end, or asks it to end with ctx.
func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stdout, os.Stderr
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
