// Package guest is what benchmarks on the real kernel share: sizes, fresh namespaces,
// the table that every way makes, and the results.
//
// The benchmarks of the top level, which look inside the controller, and those of
// test/director, which run its binary, use it. `make bench` and `make bench-short` run
// them in a virtual machine and print what they measured (test/bench). -size says which
// sizes, -out where the results go. They fail when a table comes out wrong, never
// because of a time.
package guest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/floor"
	"lvs-controller/test/lab"
)

// Benchmark is a test that measures.
type Benchmark struct {
	*testing.T
	long bool
}

// New makes a Benchmark of the size that the command line says.
func New(t *testing.T) *Benchmark {
	t.Helper()
	if *args.Size != "long" && *args.Size != "short" {
		t.Fatalf("-size %q is not long or short", *args.Size)
	}
	return &Benchmark{T: t, long: *args.Size == "long"}
}

// LongOr is the first value in the long form, else the second.
func LongOr[T any](b *Benchmark, long, short T) T {
	if b.long {
		return long
	}
	return short
}

// Record hands over one measurement.
func (b *Benchmark) Record(r results.Result) {
	b.Helper()
	b.Logf("%s %v %s: %.4g %s of %d %s", r.Name, r.Params, r.Way, r.Value, r.Unit, len(r.Samples), r.Note)
	if *args.Out == "" {
		return
	}
	if err := results.Append(*args.Out, r); err != nil {
		b.Fatal(err)
	}
}

// InFresh calls f with a host of its own. A namespace is never used again: its
// kernel remembers each real server that it lost for two minutes, and walks
// that list for each one that is added.
func (b *Benchmark) InFresh(f func(h *lab.Host)) {
	b.Helper()
	b.Quiet()
	l := lab.New(b.Fatalf)
	defer l.Close()
	f(l.Host("director", 2))
}

// Quiet waits until the machine has next to nothing to do: the kernel takes a
// namespace apart long after it was deleted.
func (b *Benchmark) Quiet() {
	runtime.GC()
	for range 40 {
		if b.Idle(150 * time.Millisecond) {
			return
		}
	}
	b.Log("the machine does not become idle")
}

// Busy is how long all CPUs together have worked, in steps of a hundredth of a second.
func (b *Benchmark) Busy() time.Duration {
	b.Helper()
	idle, all := cpuTicks(b.T)
	return time.Duration(all-idle) * time.Second / 100
}

// Idle reports whether the machine has next to nothing to do for that long.
func (b *Benchmark) Idle(window time.Duration) bool {
	idle, all := cpuTicks(b.T)
	time.Sleep(window)
	idleNow, allNow := cpuTicks(b.T)
	return 10*(idleNow-idle) >= 9*(allNow-all)
}

// cpuTicks reads how long all CPUs were idle, and how long there was.
func cpuTicks(t *testing.T) (idle, all int) {
	text, err := os.ReadFile("/proc/stat")
	lab.Must(t, err)
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.Atoi(field)
		lab.Must(t, err)
		if all += n; i == 3 || i == 4 { // idle, iowait
			idle += n
		}
	}
	return idle, all
}

// Port is the first port of a Table; the others follow.
const Port = 20000

var (
	Address = netip.MustParseAddr("10.0.0.100")
	Node    = netip.MustParseAddr("10.1.0.1")
)

// Table is what every way makes: services on the ports of one address,
// each with the same real servers.
type Table struct{ Services, Servers int }

func (t Table) Params() results.Params {
	return results.Params{"services": t.Services, "servers": t.Servers}
}

func (t Table) Rows() int { return t.Services * t.Servers }

// Keys are the services in order.
func (t Table) Keys() []netip.AddrPort { return Services(Address, t.Services) }

// Services are n services of one address.
func Services(address netip.Addr, n int) []netip.AddrPort {
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = netip.AddrPortFrom(address, uint16(Port+i))
	}
	return all
}

// Nodes are the real servers in order.
func (t Table) Nodes() []netip.Addr { return AddressesFrom(Node, t.Servers) }

// AddressesFrom are n addresses from first on.
func AddressesFrom(first netip.Addr, n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		all[i], first = first, first.Next()
	}
	return all
}

// IPVSAdm is the table as `ipvsadm -R` reads it.
func (t Table) IPVSAdm() string {
	var s strings.Builder
	for _, k := range t.Keys() {
		fmt.Fprintf(&s, "-A -t %s -s rr\n", k)
		for _, n := range t.Nodes() {
			fmt.Fprintf(&s, "-a -t %s -r %s:%d -g -w 1\n", k, n, k.Port())
		}
	}
	return s.String()
}

// Keepalived is the table as a configuration of keepalived.
func (t Table) Keepalived() string {
	var s strings.Builder
	for _, k := range t.Keys() {
		fmt.Fprintf(&s, "virtual_server %s %d {\n\tlvs_sched rr\n\tlvs_method DR\n\tprotocol TCP\n", k.Addr(), k.Port())
		for _, n := range t.Nodes() {
			fmt.Fprintf(&s, "\treal_server %s %d {\n\t\tweight 1\n\t}\n", n, k.Port())
		}
		s.WriteString("}\n")
	}
	return s.String()
}

// Config is the table as a configuration of the controller, which keeps its
// files in dir, with more at its head.
func (t Table) Config(dir, more string) string {
	var ports, servers []string
	for _, k := range t.Keys() {
		ports = append(ports, fmt.Sprintf(`"%d/tcp"`, k.Port()))
	}
	for _, n := range t.Nodes() {
		servers = append(servers, fmt.Sprintf(`{ address = "%s" }`, n))
	}
	return fmt.Sprintf("interface = \"eth0\"\nlisten = \"\"\nstate_dir = \"%[1]s/state\"\ncache_dir = \"%[1]s/cache\"\n%[2]s\n[[vip]]\nname = \"edge\"\naddresses = [\"%[3]s\"]\nports = [%[4]s]\nreal_servers = [\n%[5]s,\n]\n",
		dir, more, Address, strings.Join(ports, ", "), strings.Join(servers, ",\n"))
}

// Messages make the table, services first.
func (t Table) Messages() []floor.Message {
	var all []floor.Message
	for _, k := range t.Keys() {
		all = append(all, floor.Message{Cmd: floor.NewService, Service: k})
	}
	for _, k := range t.Keys() {
		for _, n := range t.Nodes() {
			all = append(all, floor.Message{Cmd: floor.NewDest, Service: k, Server: n, Weight: 1})
		}
	}
	return all
}

// Check fails the test unless the table in h is exactly this large.
func (b *Benchmark) Check(h *lab.Host, t Table) {
	b.Helper()
	f := floor.Dial(b.T, h)
	defer f.Close()
	rows, quiesced := f.Count(b.T, t.Keys())
	if services := f.Services(b.T); services != t.Services || rows != t.Rows() || quiesced != 0 {
		b.Fatalf("%d services with %d real servers, %d of them quiesced; want %d with %d", services, rows, quiesced, t.Services, t.Rows())
	}
}

// StartIn starts a program inside h, with ready set up. Its process id is the
// program's own, unlike that of `ip netns exec`.
func (b *Benchmark) StartIn(h *lab.Host, cmd *exec.Cmd) {
	b.Helper()
	var err error
	h.Do(func() { err = cmd.Start() })
	if err != nil {
		b.Fatalf("start %s: %v", cmd.Path, err)
	}
}

// RunIn is startIn and the wait for the end, which must be a good one. It
// returns how long all that took.
func (b *Benchmark) RunIn(h *lab.Host, cmd *exec.Cmd) time.Duration {
	b.Helper()
	var said strings.Builder
	cmd.Stderr = &said
	start := time.Now()
	b.StartIn(h, cmd)
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%s: %v: %s", cmd.Path, err, said.String())
	}
	return time.Since(start)
}

// MS are milliseconds, as results are given.
func MS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// File writes a file and opens it for reading.
func (b *Benchmark) File(name, text string) *os.File {
	b.Helper()
	path := filepath.Join(b.TempDir(), name)
	lab.Must(b.T, os.WriteFile(path, []byte(text), 0o644))
	f, err := os.Open(path)
	lab.Must(b.T, err)
	b.Cleanup(func() { f.Close() })
	return f
}

// ProgramBinary runs the controller itself, until its table is whole.
func (b *Benchmark) ProgramBinary(h *lab.Host, table Table) time.Duration {
	dir := b.TempDir()
	config := b.File("config.toml", table.Config(dir, ""))
	return b.UntilWhole(h, table, exec.Command(*args.Binary, "-config", config.Name()))
}

// UntilWhole starts a program, returns how long its table took to be whole, and
// ends it.
func (b *Benchmark) UntilWhole(h *lab.Host, table Table, cmd *exec.Cmd) time.Duration {
	b.Helper()
	log := b.File("log", "")
	out, err := os.OpenFile(log.Name(), os.O_WRONLY|os.O_APPEND, 0)
	lab.Must(b.T, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// The first process of a PID namespace takes all others with it when it is
	// killed: keepalived's would else undo the table, one call a real server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	f := floor.Dial(b.T, h)
	defer f.Close()
	start := time.Now()
	b.StartIn(h, cmd)
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	whole := Await(f, table, start.Add(2*time.Minute), b.T)
	if whole.IsZero() {
		text, _ := os.ReadFile(log.Name())
		b.Fatalf("%s: the table is not whole after two minutes\n%s", cmd.Path, text[max(0, len(text)-4000):])
	}
	return whole.Sub(start)
}

// Await polls until the table is whole and returns that time, or none at the
// deadline. As long as the last service is not full it looks at nothing else.
func Await(f *floor.Socket, table Table, deadline time.Time, t *testing.T) time.Time {
	t.Helper()
	keys := table.Keys()
	last := f.Dumps(t, keys[len(keys)-1:])[1]
	for time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
		rows := 0
		f.Rows(t, last, func([]byte) { rows++ })
		if rows < table.Servers {
			continue
		}
		now := time.Now()
		if all, _ := f.Count(t, keys); all == table.Rows() {
			return now
		}
	}
	return time.Time{}
}
