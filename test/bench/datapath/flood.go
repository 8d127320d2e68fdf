// What a director before one real server does in a flood of SYNs: the namespaces, the
// clients that ask all the time, and what is read meanwhile.

package datapath

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"
)

const (
	floodPort   = 80
	metricsAddr = "127.0.0.1:9652"

	// Honest clients ask four at a time, each after a pause.
	honestWorkers = 4
	honestPause   = 50 * time.Millisecond
)

// floodRig has a flooder and honest clients at a director, and a web server behind it,
// which answers the clients without the director.
type floodRig struct {
	*testing.T
	lab      *lab.Lab
	client   *lab.Host
	director *lab.Host
	process  *lab.Process
	sender   *sender
	arrived  *counter // packets at the real server
}

func newFloodRig(t *testing.T) *floodRig {
	t.Helper()
	l := lab.New(t.Fatalf)
	r := &floodRig{T: t, lab: l, client: l.Namespace("client"), director: l.Namespace("director")}
	flooder, server := l.Namespace("flooder"), l.Namespace("server")
	for _, h := range []*lab.Host{flooder, r.client, r.director, server} {
		h.Run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	}
	l.Cable(flooder, r.director)
	l.Cable(r.client, r.director)
	l.Cable(r.director, server)
	l.Cable(server, r.client)
	r.client.Batch("address add 10.0.1.2/24 dev director", "address add 10.0.3.2/24 dev server",
		fmt.Sprintf("route add %s/32 via 10.0.1.1", vip))
	r.director.Batch("link set flooder address "+directorMAC.String(), "address add 10.0.1.1/24 dev client",
		"address add 10.0.2.1/24 dev server", "route add 10.128.0.0/9 dev flooder", fmt.Sprintf("address add %s/32 dev lo", vip))
	server.Batch("address add 10.0.2.2/24 dev director", "address add 10.0.3.1/24 dev client",
		"route add 10.0.1.0/24 via 10.0.3.2", fmt.Sprintf("address add %s/32 dev lo", vip),
		// The flood ends in the check of its source addresses: only the director works on it.
		"route add blackhole 10.128.0.0/9")
	server.Run("sysctl", "-qw", "net.ipv4.conf.director.rp_filter=2")
	server.Serve(floodPort)
	var err error
	r.sender, err = newSender(flooder, "director")
	lab.Must(t, err)
	r.sender.syn = true
	r.arrived, err = newCounter(server, "director")
	lab.Must(t, err)
	return r
}

func (r *floodRig) close() {
	r.sender.close()
	r.arrived.file.Close()
	r.lab.Close()
}

// start has the controller make the table, with more at the end of its configuration.
func (r *floodRig) start(more string) {
	r.Helper()
	dir := r.TempDir()
	config := fmt.Sprintf("interface = \"client\"\nlisten = %q\nstate_dir = %q\ncache_dir = %q\n%s\n", metricsAddr,
		filepath.Join(dir, "state"), filepath.Join(dir, "cache"), more)
	config += fmt.Sprintf("[[vip]]\nname = \"edge\"\naddresses = [%q]\nneighbour_check = false\nports = [\"%d/tcp\"]\nreal_servers = [{ address = \"10.0.2.2\" }]\n", vip, floodPort)
	path := filepath.Join(dir, "config.toml")
	lab.Must(r.T, os.WriteFile(path, []byte(config), 0o644))
	r.process = r.director.Start(*args.Binary, "-config", path)
	lab.Within(r.T, 30*time.Second, func() string {
		if table := r.director.Table(); !strings.Contains(table, "-r 10.0.2.2:80 -g") {
			return fmt.Sprintf("the table is not whole:\n%s\n%.2000s", table, r.process.Log())
		}
		if _, err := r.client.Ask(honest()); err != nil {
			return fmt.Sprintf("no answer: %v", err)
		}
		return ""
	})
}

// honest is where clients ask.
func honest() netip.AddrPort { return netip.AddrPortFrom(vip, floodPort) }

// load is what honest clients see while f runs.
func (r *floodRig) load(f func(clients *lab.Load)) lab.Report {
	r.Helper()
	l := r.client.StartLoad(honest(), honestWorkers, honestPause)
	f(l)
	return l.Stop()
}

// calm has the clients ask so long, and often enough.
func (r *floodRig) calm(so time.Duration) lab.Report {
	r.Helper()
	return r.load(func(clients *lab.Load) {
		time.Sleep(so)
		clients.Reach(enough)
	})
}

// enough requests tell what clients see.
const enough = 20

// metrics are the sums of each metric's series, as the controller gives them.
func (r *floodRig) metrics(names ...string) ([]float64, error) {
	var (
		text string
		err  error
	)
	r.director.Do(func() { text, err = scrape() })
	values := make([]float64, len(names))
	for line := range strings.Lines(text) {
		series, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ := strings.Cut(series, "{")
		if i := slices.Index(names, name); i >= 0 {
			v, err := strconv.ParseFloat(number, 64)
			if err != nil {
				return nil, fmt.Errorf("metric %q: %w", line, err)
			}
			values[i] += v
		}
	}
	return values, err
}

// scrape runs inside the director's namespace.
func scrape() (string, error) {
	conn, err := net.DialTimeout("tcp", metricsAddr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// entry says in which state a half-open connection of the flood is, and how many seconds
// it lasts at the most.
func (r *floodRig) entry() (state string, seconds int) {
	r.Helper()
	var (
		file *os.File
		err  error
	)
	r.director.Do(func() { file, err = os.Open("/proc/thread-self/net/ip_vs_conn") })
	lab.Must(r.T, err)
	defer file.Close()
	lines := bufio.NewScanner(file)
	// The first of a table of a million tell enough.
	for n := 0; n < 2_000 && lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) < 9 || !strings.HasPrefix(fields[1], "0A8") {
			continue
		}
		left, err := strconv.Atoi(fields[8])
		lab.Must(r.T, err)
		state, seconds = fields[7], max(seconds, left)
	}
	return state, seconds
}

// values reads numbers by their names from a file such as /proc/meminfo.
func values(path string, names ...string) ([]int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found := make([]int, len(names))
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if i := slices.Index(names, strings.TrimSuffix(fields[0], ":")); i >= 0 {
			if found[i], err = strconv.Atoi(fields[1]); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// memory is a value of /proc/meminfo, in kB.
func memory(t *testing.T, name string) int {
	t.Helper()
	v, err := values("/proc/meminfo", name)
	lab.Must(t, err)
	return v[0]
}

// killed is how many processes the kernel has killed for their memory.
func killed(t *testing.T) int {
	t.Helper()
	v, err := values("/proc/vmstat", "oom_kill")
	lab.Must(t, err)
	return v[0]
}

// slabSize is the memory of one connection, in bytes.
func slabSize(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/sys/kernel/slab/ip_vs_conn/slab_size")
	lab.Must(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	lab.Must(t, err)
	return n
}

// ballastSize names the environment variable that makes this program a ballast.
const ballastSize = "LVS_BALLAST"

// beBallast takes memory, says so, and keeps it until its input ends.
func beBallast(size string) error {
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	if _, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE); err != nil {
		return fmt.Errorf("%d bytes of memory: %w", n, err)
	}
	fmt.Println("ballast")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// ballast takes memory until only so much is free, in MiB, and returns what gives it back.
// A separate process has it, which the OOM killer takes first.
func ballast(t *testing.T, leave int) (release func()) {
	t.Helper()
	size := memory(t, "MemFree")<<10 - leave<<20
	if leave == 0 || size <= 0 {
		return func() {}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", ballastSize, size))
	stdin, err := cmd.StdinPipe()
	lab.Must(t, err)
	stdout, err := cmd.StdoutPipe()
	lab.Must(t, err)
	lab.Must(t, cmd.Start())
	lab.Must(t, os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("1000"), 0o644))
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ballast\n" {
		t.Fatalf("ballast of %d MiB: %q, %v", size>>20, line, err)
	}
	return sync.OnceFunc(func() {
		stdin.Close()
		cmd.Wait() // fails if the OOM killer has ended it
	})
}

// watch reads memory and connections until it is stopped.
type watch struct {
	available, free int // kB, the least that there was
	connections     int // the most
	err             error
	stop            chan struct{}
	done            chan struct{}
}

func (r *floodRig) watch() *watch {
	w := &watch{available: 1 << 40, free: 1 << 40, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for n := 0; w.err == nil; n++ {
			w.look(r, n%10 == 0)
			select {
			case <-w.stop:
				w.look(r, true)
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return w
}

func (w *watch) look(r *floodRig, deep bool) {
	v, err := values("/proc/meminfo", "MemAvailable", "MemFree")
	if err != nil {
		w.err = err
		return
	}
	w.available, w.free = min(w.available, v[0]), min(w.free, v[1])
	if !deep || r.process.Ended() {
		return
	}
	// A director without memory may not answer.
	if m, err := r.metrics("lvs_connections"); err == nil {
		w.connections = max(w.connections, int(m[0]))
	}
}

func (w *watch) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	<-w.done
	lab.Must(t, w.err)
}

// kernelRelease is what uname -r prints.
func kernelRelease(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	lab.Must(t, unix.Uname(&name))
	return unix.ByteSliceToString(name.Release[:])
}
