// Command e2e runs tests that need a control plane: a real kube-apiserver and etcd
// on this machine drive the controller on a kernel with IPVS.
//
// `make e2e`, `make drill` and test/bench call it after the binaries have been built.
// It starts the control plane, fills a namespace with pods for the memory tests, and
// runs compiled tests in a virtual machine, which reaches the control plane through
// 10.0.2.2. Arguments behind the flags are options of test/vm/run. It leaves nothing
// running.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"lvs-controller/test/cluster"
)

// options are what the command line says.
type options struct {
	bin, binary    string
	crds           string
	tests, natives []program
	run            string
	pods, timeout  int
	apiFlags       []string
	vm             []string
}

// program is a compiled test and what it has on its command line.
type program struct {
	file string
	args []string
}

// programs is a flag that adds one to them: "FILE ARG...".
func programs(to *[]program) func(string) error {
	return func(text string) error {
		words := strings.Fields(text)
		if len(words) == 0 {
			return errors.New("no file")
		}
		*to = append(*to, program{words[0], words[1:]})
		return nil
	}
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", ".cache/kube/bin", "`folder` of kube-apiserver and etcd")
	flag.Func("test", "compiled `tests with arguments`, again for more", programs(&o.tests))
	flag.Func("native", "the same, to run on this machine before the others", programs(&o.natives))
	flag.StringVar(&o.binary, "binary", "lvs-controller", "the `controller`")
	flag.StringVar(&o.crds, "crds", ".cache/gateway-api", "`folder` of the Gateway API's CRDs; it may be absent")
	flag.StringVar(&o.run, "run", "", "run only tests of this `pattern`")
	flag.IntVar(&o.pods, "pods", 5000, "`number` of pods for the memory tests")
	flag.IntVar(&o.timeout, "timeout", 600, "`seconds` for the tests")
	flag.Func("api-flag", "a further `flag` of kube-apiserver, again for more", func(text string) error {
		o.apiFlags = append(o.apiFlags, text)
		return nil
	})
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
	c, err := cluster.Start(ctx, cluster.Options{BinDir: o.bin, DataDir: dir, APIFlags: o.apiFlags})
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
	for _, t := range o.natives {
		line := append(slices.Concat(t.args, o.common(control)), "-native")
		if err := command(ctx, t.file, line...); err != nil {
			return err
		}
	}
	return o.inGuest(ctx, control)
}

// inGuest runs the tests in a virtual machine, all of them even if one fails.
func (o options) inGuest(ctx context.Context, control string) error {
	u, err := url.Parse(control)
	if err != nil {
		return err
	}
	u.Host = cluster.GuestHost + ":" + u.Port()
	line := []string{"-net", "-timeout", strconv.Itoa(o.timeout), "-file", o.binary, "-file", "install", "-file", "README.md", "-env", "LVS_REQUIRE_ALL=1"}
	words := []string{"-binary", "/work/" + filepath.Base(o.binary), "-install", "install"}
	if _, err := os.Stat(o.crds); err == nil {
		line, words = append(line, "-file", o.crds), append(words, "-crds", filepath.Base(o.crds))
	}
	script := "code=0"
	for _, t := range o.tests {
		line = append(line, "-file", t.file)
		all := slices.Concat([]string{"./" + filepath.Base(t.file)}, t.args, o.common(u.String()), words)
		script += "\n'" + strings.Join(all, "' '") + "' || code=1"
	}
	return command(ctx, "test/vm/run", append(append(line, o.vm...), "--", "sh", "-c", script+"\nexit $code")...)
}

// common are the arguments that all compiled tests have.
func (o options) common(control string) []string {
	line := []string{"-control", control, "-pods", strconv.Itoa(o.pods), "-test.v", "-test.timeout", fmt.Sprintf("%ds", max(o.timeout-20, 1))}
	if o.run != "" {
		line = append(line, "-test.run", o.run)
	}
	return line
}

// command runs a program to its end, or asks it to end with ctx.
func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
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
