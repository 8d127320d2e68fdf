// Command bench measures the controller beside its peers and beside the kernel's
// own time, and writes down what came of it.
//
// `make bench` and `make bench-short` call it after the binaries have been
// built. The measuring is done in virtual machines, without and with a real
// kube-apiserver on the host, by the tests with the build tags bench and plane, which
// look inside the controller, and those of test/director, and by the native
// benchmarks of `go test -bench`. This gathers what they say, prints it as
// tables and, with -doc, replaces a file by them. Nothing is judged by its time.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"lvs-controller/test/bench/results"
)

// run says what to measure and where things are.
type run struct {
	long   bool
	binary string // the controller
	bin    string // folder of the tests, test/e2e and test/peers/moby
	kube   string // folder of kube-apiserver and etcd
	dir    string // folder for what was measured
	part   string // measures only this one of parts; "" = all
}

func main() {
	var (
		r      run
		doc    = flag.String("doc", "", "`file` to write the tables to")
		render = flag.Bool("render", false, "measure nothing, show the last measurements again")
	)
	flag.BoolVar(&r.long, "long", false, "all sizes")
	flag.StringVar(&r.binary, "binary", "lvs-controller", "the `controller`")
	flag.StringVar(&r.bin, "bin", ".cache/bin", "`folder` of the compiled tests, e2e and moby")
	flag.StringVar(&r.kube, "kube", ".cache/kube/bin", "`folder` of kube-apiserver and etcd")
	flag.StringVar(&r.dir, "dir", ".cache/bench", "`folder` for the measurements")
	flag.StringVar(&r.part, "part", "", "measure only this `part` and show the last measurements of the others: native, kernel, path, e2e or peers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, &r, *doc, *render); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, r *run, doc string, renderOnly bool) error {
	if !renderOnly {
		if err := r.measure(ctx); err != nil {
			return err
		}
	}
	var files []string
	whole := true
	for _, name := range []string{"kernel.jsonl", "flows.jsonl", "path.jsonl", "instructions.jsonl", "native.jsonl", "e2e.jsonl", "peers.jsonl"} {
		// With -part the others may not have been measured yet.
		if _, err := os.Stat(r.file(name)); r.part == "" || err == nil {
			files = append(files, r.file(name))
		} else {
			whole = false
		}
	}
	set, err := results.Read(files...)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(r.file("micro.txt"))
	if r.part != "" && errors.Is(err, os.ErrNotExist) {
		whole, err = false, nil
	}
	if err != nil {
		return err
	}
	micro, err := parseMicro(text)
	if err != nil {
		return fmt.Errorf("go test -bench: %w", err)
	}
	tables := render(set, micro)
	fmt.Print("\n" + tables)
	if doc == "" {
		return nil
	}
	if !whole {
		fmt.Printf("bench: %s stays as it is, because other parts are not measured yet\n", doc)
		return nil
	}
	return os.WriteFile(doc, []byte(method+tables), 0o644)
}

func (r *run) file(name string) string { return filepath.Join(r.dir, name) }

// measure runs the parts, one after the other: they would disturb each other.
func (r *run) measure(ctx context.Context) error {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	found := false
	for _, part := range []struct {
		name, about string
		do          func(context.Context) error
	}{
		{"native", "the native benchmarks", r.native},
		{"kernel", "the benchmarks on a real kernel", r.kernel},
		{"path", "the benchmarks of the data path", r.path},
		{"e2e", "the benchmarks with a real API server", r.e2e},
		{"peers", "the benchmarks beside kube-proxy and keepalived", r.peers},
	} {
		if r.part != "" && r.part != part.name {
			continue
		}
		found = true
		fmt.Printf("bench: %s\n", part.about)
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.about, err)
		}
	}
	if !found {
		return fmt.Errorf("-part %q: there is no such part", r.part)
	}
	return nil
}

// size is the tests' -size.
func (r *run) size() string {
	if r.long {
		return "long"
	}
	return "short"
}

// test is the command line of a compiled test; what it measures goes to out.
func (r *run) test(name, out string, more ...string) []string {
	return append([]string{name, "-size", r.size(), "-out", out}, more...)
}

// guestFile is where the tests in a virtual machine put what they measure.
const guestFile = "/work/bench.jsonl"

// guest are the options of test/vm/run that all parts in a virtual machine
// need; what they measure goes to the named file.
func (r *run) guest(name string) []string {
	return []string{"-mem", "4096", "-out", guestFile + ":" + r.file(name)}
}

// kernel runs what needs a kernel with IPVS and nothing else.
func (r *run) kernel(ctx context.Context) error {
	timeout := 300
	if r.long {
		timeout = 3600
	}
	line := append(r.guest("kernel.jsonl"), "-timeout", strconv.Itoa(timeout),
		"-file", r.binary, "-file", filepath.Join(r.bin, "bench.test"), "-file", filepath.Join(r.bin, "director.test"), "-file", filepath.Join(r.bin, "moby"),
		"--", "sh", "-c")
	script := "code=0"
	for _, t := range [][]string{
		r.test("./bench.test", guestFile, "-moby", "/work/moby"),
		r.test("./director.test", guestFile, "-group", "bench"),
	} {
		script += fmt.Sprintf("\n%s -binary /work/%s -test.v -test.timeout %ds || code=1", strings.Join(t, " "), filepath.Base(r.binary), timeout-20)
	}
	return command(ctx, os.Stdout, "test/vm/run", append(line, script+"\nexit $code")...)
}

// path runs what changes the kernel's modules: it needs a virtual machine in any case.
func (r *run) path(ctx context.Context) error {
	timeout := 300
	if r.long {
		timeout = 2700
	}
	for _, guest := range []struct{ accel, processors, file, tests, skip string }{
		{"tcg", "2", "flows.jsonl", "^TestBenchPathFlows$", "^$"}, // what ran before would decide where its connections are
		{"tcg", "2", "path.jsonl", "^TestBench", "^TestBenchPathFlows$"},
		{"icount", "1", "instructions.jsonl", "^TestInstructions$", "^$"},
	} {
		line := append([]string{"LVS_VM=always", "LVS_VM_ACCEL=" + guest.accel, "test/vm/run"}, r.guest(guest.file)...)
		line = append(line, "-env", "LVS_VM_ACCEL", "-smp", guest.processors, "-timeout", strconv.Itoa(timeout), "-file", r.binary, "-file", filepath.Join(r.bin, "datapath.test"), "--")
		line = append(line, r.test("./datapath.test", guestFile, "-binary", "/work/"+filepath.Base(r.binary), "-test.run", guest.tests, "-test.skip", guest.skip, "-test.v", "-test.timeout", fmt.Sprintf("%ds", timeout-20))...)
		if err := command(ctx, os.Stdout, "env", line...); err != nil {
			return err
		}
	}
	return nil
}

// e2e runs what needs an API server too, some of it on this machine.
func (r *run) e2e(ctx context.Context) error {
	pods, timeout := 500, 300
	if r.long {
		pods, timeout = 5000, 1200
	}
	out, err := filepath.Abs(r.file("native.jsonl"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, nil, 0o644); err != nil {
		return err
	}
	plane := filepath.Join(r.bin, "plane.test")
	line := []string{"-bin", r.kube, "-binary", r.binary, "-pods", strconv.Itoa(pods), "-timeout", strconv.Itoa(timeout),
		"-native", strings.Join(r.test(plane, out), " "),
		"-test", strings.Join(r.test(plane, guestFile), " "),
		"-test", strings.Join(r.test(filepath.Join(r.bin, "director.test"), guestFile, "-group", "bench-e2e"), " "), "--"}
	return command(ctx, os.Stdout, filepath.Join(r.bin, "e2e"), append(line, r.guest("e2e.jsonl")...)...)
}

// native runs the micro-benchmarks.
func (r *run) native(ctx context.Context) error {
	count, each := "1", "200ms"
	if r.long {
		count, each = "5", "1s"
	}
	var text bytes.Buffer
	err := command(ctx, io.MultiWriter(os.Stdout, &text), "go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-count", count, "-benchtime", each, ".")
	return errors.Join(err, os.WriteFile(r.file("micro.txt"), text.Bytes(), 0o644))
}

// command runs a program to its end, or asks it to end with ctx.
func command(ctx context.Context, stdout io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
