// How one kind of path is measured, beside the floor, and what is written down of it.

package datapath

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/bench/guest"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/lab"
)

// way is one kind of path, and the line of a table that it gets.
type way struct {
	factor  string // what differs between the lines of the table
	name    string
	flows   int
	bits    int // the connection table has 2^bits buckets
	servers int
	vip     string // more keys of the VIP
	head    string // more of the configuration, before the VIP
	want    string // what each real server's line of `ipvsadm -Sn` has; default: DR
	more    int    // bytes that the forwarding method adds to a packet
	prepare func(r *rig)
	table   func(r *rig)     // makes the table, in place of the controller
	entries func(r *rig) int // counts the connections, in place of IPVS
	check   func(r *rig, packets int)
	memory  bool // measure what a connection takes too
	apart   bool // each round has its own two rigs, as two of a kind differ by a tenth, and longer stretches
}

// meter measures ways, each with a separate rig.
type meter struct {
	*guest.Benchmark
	floor   *rig
	packets int // of one stretch
	rounds  int
	kind    string // the first word of the results' names
	unit    string
	units   float64 // in a µs
}

// In each round the sender alone, the floor and the path have so many stretches in turn:
// other work of the host then disturbs all alike.
const stretches = 2

func newMeter(b *guest.Benchmark) *meter {
	b.Helper()
	// The sender's softirq may be late: then packets wait, and none must be lost.
	lab.Must(b.T, os.WriteFile("/proc/sys/net/core/netdev_max_backlog", []byte("1000000"), 0o644))
	return &meter{Benchmark: b, floor: newRig(b.T, 1), packets: guest.LongOr(b, 25_000, 2_500), rounds: guest.LongOr(b, 5, 1),
		kind: "path", unit: "µs", units: 1}
}

func (m *meter) close() { m.floor.close() }

// forwarded measures plain forwarding of n packets.
func (m *meter) forwarded(n int) float64 {
	return m.floor.stretch(target{directorMAC, firstServer, port}, 0, n, n, 0)
}

// samples are those of one way: each is the µs of a packet in one round.
type samples struct{ fresh, established, floor, sender []float64 }

// measure measures new flows and established ones.
func (m *meter) measure(w way) {
	m.Helper()
	params := results.Params{"flows": w.flows, "bits": w.bits, "servers": w.servers}
	record := func(name, unit string, samples []float64) {
		result := results.New(m.kind+" "+name, w.name, params, unit, samples...)
		result.Note = w.factor
		m.Record(result)
	}
	var s samples
	if w.apart {
		for range m.rounds {
			m.floor.close()
			m.floor = newRig(m.T, 1)
			m.onRig(w, 1, &s)
		}
	} else if memory := m.onRig(w, m.rounds, &s); w.memory {
		record("memory", "bytes", []float64{memory})
	}
	for _, part := range []struct {
		name string
		took []float64 // µs
	}{{"established", s.established}, {"floor", s.floor}, {"sender", s.sender}, {"new", s.fresh}} {
		if part.name == "new" && w.flows < m.packets {
			continue
		}
		for i := range part.took {
			part.took[i] *= m.units
		}
		record(part.name, m.unit, part.took)
	}
}

// onRig measures so many rounds on a rig that it makes. It returns what a connection takes,
// if that is asked for.
func (m *meter) onRig(w way, rounds int, s *samples) (memory float64) {
	m.Helper()
	r := newRig(m.T, w.servers)
	defer r.close()
	if w.prepare != nil {
		w.prepare(r)
	}
	if w.table != nil {
		w.table(r)
	} else {
		r.program(m.Benchmark, w)
	}
	if w.entries == nil {
		w.entries = (*rig).connections
	}
	m.Quiet()
	to := target{directorMAC, vip, port}
	before := unreclaimable(m.T)
	for i := range rounds {
		from, until := i*w.flows/rounds, (i+1)*w.flows/rounds
		s.fresh = append(s.fresh, r.stretch(to, from, until-from, w.flows, w.more))
	}
	r.hasConnections(w)
	if w.memory {
		time.Sleep(2 * time.Second) // the kernel counts pages once a second
		memory = float64(unreclaimable(m.T)-before) / float64(w.flows)
	}

	// The caches are those of the other path when a stretch begins, and a busy director's are
	// its own: the first packets are not counted, and long stretches say more than short ones.
	n, times := m.packets, stretches
	if w.apart {
		n, times = 2*n, 2*times
	}
	next, lead := 0, n/5
	for range rounds {
		var established, floor, sender float64
		for range times {
			m.floor.dropped(lead)
			sender += m.floor.dropped(n) / float64(times)
			m.forwarded(lead)
			floor += m.forwarded(n) / float64(times)
			r.stretch(to, next, lead, w.flows, w.more)
			established += r.stretch(to, (next+lead)%w.flows, n, w.flows, w.more) / float64(times)
			next = (next + lead + n) % w.flows
		}
		s.sender, s.floor, s.established = append(s.sender, sender), append(s.floor, floor), append(s.established, established)
	}
	r.hasConnections(w)
	if w.check != nil {
		w.check(r, w.flows+rounds*times*(lead+n))
	}
	return memory
}

// hasConnections fails unless each flow has one connection.
func (r *rig) hasConnections(w way) {
	r.Helper()
	if n := w.entries(r); n != w.flows {
		r.Fatalf("%s: %d connections, want %d\n%.2000s", w.name, n, w.flows, r.director.Run("ipvsadm", "-Ln"))
	}
}

// program has the controller make the table, with static real servers. It keeps running,
// and does nothing more.
func (r *rig) program(b *guest.Benchmark, w way) {
	r.Helper()
	dir := b.TempDir()
	var servers []string
	for _, a := range guest.AddressesFrom(firstServer, w.servers) {
		servers = append(servers, fmt.Sprintf("{ address = %q }", a))
	}
	config := fmt.Sprintf("interface = \"servers\"\nlisten = \"\"\naudit_interval = \"1h\"\nstate_dir = %q\ncache_dir = %q\n%s\n[timeouts]\nudp = \"10h\"\n",
		filepath.Join(dir, "state"), filepath.Join(dir, "cache"), w.head)
	config += fmt.Sprintf("[[vip]]\nname = \"edge\"\naddresses = [%q]\nneighbour_check = false\nports = [\"%d/udp\", \"%d/udp\"]\nreal_servers = [\n%s,\n]\n%s\n",
		vip, port, port+1, strings.Join(servers, ",\n"), w.vip)
	path := filepath.Join(dir, "config.toml")
	lab.Must(r.T, os.WriteFile(path, []byte(config), 0o644))
	p := r.director.Start(*args.Binary, "-config", path)
	want := w.want
	if want == "" {
		want = " -g "
	}
	lab.Within(r.T, time.Minute, func() string {
		table := r.director.Table()
		if n := strings.Count(table, want); n >= w.servers && n%w.servers == 0 {
			return ""
		}
		return fmt.Sprintf("the table is not whole:\n%.2000s\n%.2000s", table, p.Log())
	})
}

// unreclaimable is how many bytes the kernel has in slabs of things in use: the entries of
// connection tables, and all that belongs to them.
func unreclaimable(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	lab.Must(t, err)
	_, after, _ := strings.Cut(string(text), "SUnreclaim:")
	var kib int
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatalf("/proc/meminfo: SUnreclaim: %v", err)
	}
	return kib << 10
}
