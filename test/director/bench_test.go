// The controller as a process: its start, its memory, and what it does while
// nothing happens.

package director

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/bench/guest"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/cluster"
	"lvs-controller/test/floor"
	"lvs-controller/test/lab"
)

// TestBenchStart is from exec to the first table in place.
func TestBenchStart(t *testing.T) {
	of(t, "bench")
	b := guest.New(t)
	table := guest.Table{Services: 2, Servers: 3}
	var took []float64
	for range guest.LongOr(b, 11, 3) {
		b.InFresh(func(h *lab.Host) { took = append(took, guest.MS(b.ProgramBinary(h, table))) })
	}
	b.Record(results.New("start", "ours", table.Params(), "ms", took...))
	info, err := os.Stat(controller())
	lab.Must(t, err)
	b.Record(results.New("size", "ours", nil, "MiB", float64(info.Size())/(1<<20)))
	b.Record(results.Result{Name: "kernel", Note: machine(t)})
}

// machine says what this runs on.
func machine(t *testing.T) string {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	lab.Must(t, err)
	model := "an unknown processor"
	info, err := os.ReadFile("/proc/cpuinfo")
	lab.Must(t, err)
	for line := range strings.Lines(string(info)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
		}
	}
	return fmt.Sprintf("Linux %s, %d CPUs, %s", strings.TrimSpace(string(release)), runtime.NumCPU(), model)
}

// TestBenchMemory is what a large table costs.
func TestBenchMemory(t *testing.T) {
	of(t, "bench")
	b := guest.New(t)
	table := guest.LongOr(b, guest.Table{Services: 4000, Servers: 50}, guest.Table{Services: 200, Servers: 50})
	audit := guest.LongOr(b, 10*time.Second, time.Second)
	b.InFresh(func(h *lab.Host) {
		p := settled(b, h, table, fmt.Sprintf("audit_interval = %q", audit))
		time.Sleep(2*audit + audit/2)
		rss, peak := processMemory(t, p.PID())
		b.Record(results.New("memory", "ours", table.Params(), "MiB", float64(rss)/1024))
		b.Record(results.New("peak memory", "ours", table.Params(), "MiB", float64(peak)/1024))
		b.Check(h, table)
	})
}

// settled starts the controller in h with static real servers and returns it
// when its table is whole.
func settled(b *guest.Benchmark, h *lab.Host, table guest.Table, head string) *lab.Process {
	b.Helper()
	config := b.File("config.toml", table.Config(b.TempDir(), head))
	p := h.Start(controller(), "-config", config.Name())
	f := floor.Dial(b.T, h)
	defer f.Close()
	if guest.Await(f, table, time.Now().Add(2*time.Minute), b.T).IsZero() {
		b.Fatalf("the table is not whole after two minutes\n%s", p.Log())
	}
	return p
}

// TestBenchE2EMemory is a director of thousands of pods on fifty ports, of
// which every node serves all.
func TestBenchE2EMemory(t *testing.T) {
	of(t, "bench-e2e")
	b := guest.New(t)
	p := newPlane(t)
	pods := *args.Pods
	table := guest.Table{Services: 50, Servers: pods}
	b.InFresh(func(h *lab.Host) {
		e := &e2e{rig: &rig{T: t, director: h, dir: b.TempDir()}, plane: p}
		e.relay(t, h)
		e.write("kubeconfig", string(cluster.Kubeconfig(fmt.Sprintf("https://127.0.0.1:%d", p.info.Port), p.info.CA, p.info.AdminToken)))
		head := fmt.Sprintf("kubeconfig = \"kubeconfig\"\ninterface = \"eth0\"\nlisten = \"127.0.0.1:9652\"\nstate_dir = %q\ncache_dir = %q\n",
			filepath.Join(e.dir, "state"), filepath.Join(e.dir, "cache"))
		ports := ""
		for _, k := range table.Keys() {
			ports += fmt.Sprintf("\"%d/tcp\", ", k.Port())
		}
		e.write("config.toml", head+fmt.Sprintf("[[vip]]\nname = \"edge\"\naddresses = [%q]\nnamespace = \"big\"\nports = [%s]\n", guest.Address, ports))
		e.start()
		f := floor.Dial(t, h)
		defer f.Close()
		if guest.Await(f, table, time.Now().Add(4*time.Minute), t).IsZero() {
			b.Fatalf("the table is not whole\n%s", e.process.Log())
		}
		time.Sleep(guest.LongOr(b, 2*time.Minute, 10*time.Second))
		b.Check(h, table)
		rss, peak := processMemory(t, e.process.PID())
		params := results.Params{"services": table.Services, "pods": pods}
		b.Record(results.New("memory", "ours", params, "MiB", float64(rss)/1024))
		b.Record(results.New("peak memory", "ours", params, "MiB", float64(peak)/1024))
	})
}

// TestBenchIdleCPU is the price of an hour in which nothing happens, with the
// audits and the look at the cluster file that it has.
func TestBenchIdleCPU(t *testing.T) {
	of(t, "bench")
	b := guest.New(t)
	table := guest.Table{Services: 50, Servers: 50}
	window := guest.LongOr(b, 2*time.Minute, 10*time.Second) // whole audit intervals
	b.InFresh(func(h *lab.Host) {
		r := &rig{T: t, director: h, dir: b.TempDir()}
		for i, node := range table.Nodes() {
			r.objects.pods = append(r.objects.pods, pod{name: fmt.Sprintf("pod-%02d", i), node: fmt.Sprintf("node-%02d", i), ips: []string{node.String()}})
		}
		r.objects.tcp = make(map[string]string)
		for _, k := range table.Keys() {
			r.objects.tcp[fmt.Sprint(k.Port())] = "default/backend:80"
		}
		r.writeCluster()
		r.write("config.toml", fmt.Sprintf("cluster_file = \"cluster.json\"\ninterface = \"eth0\"\nstate_dir = %q\ncache_dir = %q\n[[vip]]\nname = \"edge\"\naddresses = [%q]\ntcp_services = \"tcp-services\"\n",
			filepath.Join(r.dir, "state"), filepath.Join(r.dir, "cache"), guest.Address))
		r.start()
		f := floor.Dial(t, h)
		defer f.Close()
		if guest.Await(f, table, time.Now().Add(time.Minute), t).IsZero() {
			b.Fatalf("the table is not whole\n%s", r.process.Log())
		}
		time.Sleep(3 * time.Second)
		start, before := time.Now(), cpuTime(t, r.process.PID())
		time.Sleep(window)
		used, passed := cpuTime(t, r.process.PID())-before, time.Since(start)
		b.Record(results.New("idle", "ours", table.Params(), "s/h", used.Seconds()/passed.Hours()))
	})
}

// cpuTime is how long the threads of a process have run on a CPU.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	lab.Must(t, err)
	sum := time.Duration(0)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		lab.Must(t, err)
		run, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(run, 10, 64)
		lab.Must(t, err)
		sum += time.Duration(n)
	}
	if sum == 0 {
		t.Fatalf("the kernel keeps no account of process %d", pid)
	}
	return sum
}

// TestBenchIdleCalls counts the system calls that a controller makes between
// two audits, with nothing to follow and nothing to serve. The runtime's own,
// such as for the garbage collection that it forces every two minutes, are
// among them.
func TestBenchIdleCalls(t *testing.T) {
	of(t, "bench")
	b := guest.New(t)
	window := guest.LongOr(b, 150*time.Second, 3*time.Second)
	b.InFresh(func(h *lab.Host) {
		p := settled(b, h, guest.Table{Services: 50, Servers: 50}, `audit_interval = "10m"`)
		time.Sleep(15 * time.Second) // after ten it looks whether a host has the VIP
		trace := filepath.Join(b.TempDir(), "trace")
		strace := exec.Command("strace", "-f", "-ttt", "-o", trace, "-p", strconv.Itoa(p.PID()))
		lab.Must(t, strace.Start())
		defer strace.Wait()
		defer strace.Process.Kill()
		lab.Within(t, time.Minute, func() string {
			if text, err := os.ReadFile(trace); err != nil || len(text) == 0 {
				return "strace is not attached"
			}
			return ""
		})
		// To attach interrupts the calls under way, which are begun anew.
		time.Sleep(2 * time.Second)
		from := time.Now()
		time.Sleep(window)
		to := time.Now()
		lab.Must(t, strace.Process.Signal(syscall.SIGINT))
		strace.Wait()
		calls := tracedCalls(t, trace, from, to)
		total, names := 0, []string{}
		for _, name := range slices.Sorted(maps.Keys(calls)) {
			total += calls[name]
			names = append(names, fmt.Sprintf("%s %d", name, calls[name]))
		}
		r := results.New("idle calls", "ours", results.Params{"seconds": int(window.Seconds())}, "calls", float64(total))
		r.Note = strings.Join(names, ", ")
		b.Record(r)
	})
}

// tracedCalls counts, by name, the system calls in a trace of strace -f -ttt
// that began between from and to.
func tracedCalls(t *testing.T, path string, from, to time.Time) map[string]int {
	t.Helper()
	f, err := os.Open(path)
	lab.Must(t, err)
	defer f.Close()
	calls := make(map[string]int)
	lines := bufio.NewScanner(f)
	traced := false
	for ; lines.Scan(); traced = true {
		fields := strings.SplitN(lines.Text(), " ", 3)
		for len(fields) == 3 && fields[1] == "" { // short thread numbers are padded
			fields = strings.SplitN(fields[0]+" "+strings.TrimLeft(fields[2], " "), " ", 3)
		}
		if len(fields) < 3 {
			t.Fatalf("strace: %q", lines.Text())
		}
		seconds, err := strconv.ParseFloat(fields[1], 64)
		lab.Must(t, err)
		at := time.UnixMicro(int64(seconds * 1e6))
		name, _, called := strings.Cut(fields[2], "(")
		if called && !strings.ContainsAny(name, " <") && !at.Before(from) && at.Before(to) {
			calls[name]++
		}
	}
	lab.Must(t, lines.Err())
	if !traced {
		t.Fatal("strace saw nothing, not even the calls under way")
	}
	return calls
}
