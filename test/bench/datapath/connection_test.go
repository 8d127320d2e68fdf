// Whole TCP connections through a director, and through a proxy in its place.

package datapath

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/bench/guest"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/lab"
)

const (
	workers    = 8    // connections at a time
	smallBytes = 1024 // of a small answer
)

// TestBenchPathConnections counts the processor time of all CPUs for requests over a
// connection each: of the client, of the real servers, and of what is between them. Of
// the floor nothing is between them: the client asks the real servers themselves.
func TestBenchPathConnections(t *testing.T) {
	b := guest.New(t)
	l := lab.New(t.Fatalf)
	defer l.Close()
	client, ours, proxy := l.Host("client", 3), l.Host("director", 2), l.Host("proxy", 4)
	proxied := netip.MustParseAddr("10.0.0.101")
	ours.Batch(fmt.Sprintf("address add %s/32 dev eth0", vip))
	proxy.Batch(fmt.Sprintf("address add %s/32 dev eth0", proxied))
	var nodes []netip.Addr
	for i := range 4 {
		node := l.Host(fmt.Sprintf("node%d", i), 10+i)
		node.Run("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
		node.Batch(fmt.Sprintf("address add %s/32 dev lo", vip))
		nodes = append(nodes, node.IPv4)
		defer answer(t, node).Close()
	}
	director(b, ours, nodes)
	haproxy(b, proxy, proxied, nodes)

	ways := []struct {
		name string
		to   []netip.Addr
	}{{"floor", nodes}, {"ours, dr", []netip.Addr{vip}}, {"HAProxy", []netip.Addr{proxied}}}
	for _, size := range []struct {
		name                string
		requests, of, bytes int
	}{
		{"connection requests", guest.LongOr(b, 4_000, 200), 1_000, smallBytes},
		{"connection bytes", 8, 0, guest.LongOr(b, 64<<20, 1<<20)},
	} {
		samples := make([][]float64, len(ways))
		for range guest.LongOr(b, 6, 2) {
			for i, way := range ways {
				b.Quiet()
				busy := b.Busy()
				request(t, client, way.to, size.requests, size.bytes)
				units := float64(size.requests) / 1000
				if size.of == 0 {
					units = float64(size.requests) * float64(size.bytes) / 1e9
				}
				samples[i] = append(samples[i], (b.Busy()-busy).Seconds()/units)
			}
		}
		for i, way := range ways {
			b.Record(results.New(size.name, way.name, nil, "CPU s", samples[i][1:]...)) // the first round learns neighbours
		}
	}
}

// answer serves on the host's port: each connection says how many bytes it wants.
func answer(t *testing.T, h *lab.Host) io.Closer {
	t.Helper()
	var listener net.Listener
	var err error
	h.Do(func() { listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)) })
	lab.Must(t, err)
	data := make([]byte, 64<<10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil {
					return
				}
				left, err := strconv.Atoi(strings.TrimSpace(line))
				for left > 0 && err == nil {
					n := min(left, len(data))
					_, err = conn.Write(data[:n])
					left -= n
				}
			}()
		}
	}()
	return listener
}

// request asks for so many answers of that length, and reads each to its end.
func request(t *testing.T, client *lab.Host, to []netip.Addr, requests, length int) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			client.Do(func() {
				for i := w; i < requests && errs[w] == nil; i += workers {
					errs[w] = ask(netip.AddrPortFrom(to[i%len(to)], port), length)
				}
			})
		}()
	}
	wg.Wait()
	for _, err := range errs {
		lab.Must(t, err)
	}
}

// ask is one request.
func ask(to netip.AddrPort, length int) error {
	conn, err := net.Dial("tcp4", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, length); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, conn)
	if err == nil && n != int64(length) {
		err = fmt.Errorf("%s: %d bytes, want %d", to, n, length)
	}
	return err
}

// director runs the controller in front of the nodes.
func director(b *guest.Benchmark, h *lab.Host, nodes []netip.Addr) {
	b.Helper()
	dir := b.TempDir()
	var servers []string
	for _, a := range nodes {
		servers = append(servers, fmt.Sprintf("{ address = %q }", a))
	}
	config := b.File("config.toml", fmt.Sprintf("interface = \"eth0\"\nlisten = \"\"\nstate_dir = %q\ncache_dir = %q\n[[vip]]\nname = \"edge\"\naddresses = [%q]\nports = [\"%d/tcp\"]\nreal_servers = [%s]\n",
		filepath.Join(dir, "state"), filepath.Join(dir, "cache"), vip, port, strings.Join(servers, ", ")))
	p := h.Start(*args.Binary, "-config", config.Name())
	lab.Within(b.T, 30*time.Second, func() string {
		if table := h.Table(); strings.Count(table, " -g ") != len(nodes) {
			return fmt.Sprintf("the table is not whole:\n%s\n%s", table, p.Log())
		}
		return ""
	})
}

// haproxy runs HAProxy in front of the nodes, with its own defaults.
func haproxy(b *guest.Benchmark, h *lab.Host, address netip.Addr, nodes []netip.Addr) {
	b.Helper()
	var config strings.Builder
	fmt.Fprintf(&config, "global\n\tmaxconn 10000\ndefaults\n\tmode tcp\n\ttimeout connect 10s\n\ttimeout client 60s\n\ttimeout server 60s\nlisten edge\n\tbind %s:%d\n\tbalance roundrobin\n", address, port)
	for i, a := range nodes {
		fmt.Fprintf(&config, "\tserver node%d %s:%d\n", i, a, port)
	}
	file := b.File("haproxy.cfg", config.String())
	p := h.Start("haproxy", "-db", "-f", file.Name())
	lab.Within(b.T, 30*time.Second, func() string {
		if !strings.Contains(h.Run("ss", "-Hltn"), fmt.Sprintf(":%d", port)) {
			return "haproxy does not listen: " + p.Log()
		}
		return ""
	})
}
