// Command guest is the director of test/page/browser: the controller on a real kernel,
// in a network namespace, with nodes and clients.
//
// The tests start it in a virtual machine. Nothing can connect into that, so the
// program connects to the tests instead and waits until a connection is used: the first
// byte says for the page ('p') or for the program itself ('c', HTTP: /set, /table).
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lvs-controller/test/lab"
)

const (
	listener = "127.0.0.1:9652" // of the controller, in the director's namespace
	waiting  = 12               // connections that wait for use
)

func main() {
	binary := flag.String("binary", "", "the `controller`")
	to := flag.String("connect", "", "`address` of the tests")
	flag.Parse()
	d := newDirector(*binary)
	defer d.lab.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /set", d.set)
	mux.HandleFunc("GET /table", d.table)
	mux.HandleFunc("GET /log", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, d.process.Log()) })
	control := make(chan net.Conn)
	go http.Serve(&given{conns: control}, mux)
	fmt.Println("ready")
	var all sync.WaitGroup
	for range waiting {
		all.Go(func() {
			for d.serve(*to, control) == nil {
			}
		})
	}
	all.Wait() // until the tests have ended
}

func fail(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}

// serve opens one connection to the tests, waits for its use, and hands it on. An error
// means that the tests have ended.
func (d *director) serve(to string, control chan<- net.Conn) error {
	conn, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	var use [1]byte
	if _, err := io.ReadFull(conn, use[:]); err != nil {
		return err
	}
	if use[0] == 'c' {
		control <- conn
		return nil
	}
	go func() {
		defer conn.Close()
		var page net.Conn
		var err error
		d.host.Do(func() { page, err = net.Dial("tcp", listener) })
		if err != nil {
			return
		}
		defer page.Close()
		go func() { io.Copy(page, conn); page.(*net.TCPConn).CloseWrite() }()
		io.Copy(conn, page)
	}()
	return nil
}

// given is a listener of connections that exist.
type given struct {
	net.Listener
	conns <-chan net.Conn
}

func (l *given) Accept() (net.Conn, error) { return <-l.conns, nil }

// director is the controller's host, with three nodes and a client on its segment.
type director struct {
	lab          *lab.Lab
	host, client *lab.Host
	dir, binary  string
	process      *lab.Process
	streams      []*lab.Stream
	load         *lab.Load
}

var vip = netip.MustParseAddr("10.0.0.100")

func newDirector(binary string) *director {
	dir, err := os.MkdirTemp("", "page")
	if err != nil {
		fail("%v", err)
	}
	l := lab.New(fail)
	d := &director{lab: l, host: l.Host("director", 2), client: l.Host("client", 3), dir: dir, binary: binary}
	for i := range 3 {
		n := l.Host(fmt.Sprintf("node%d", i+1), 11+i)
		n.Run(binary, "realserver", "-vip", vip.String(), "-uplink", "eth0", "-state", filepath.Join(dir, n.Name))
		n.Serve(80, 443)
	}
	// The other real servers are addresses without hosts: they get no connections
	// that last, and the director has no reason to ask for them.
	lines := []string{"route add 10.1.0.0/16 dev eth0", "address add " + vip.String() + "/32 dev eth0"}
	for i := range 400 {
		lines = append(lines, fmt.Sprintf("neigh replace %s lladdr 02:00:0a:01:%02x:%02x nud permanent dev eth0", far(i), i/200, i%200))
	}
	d.host.Batch(lines...)
	return d
}

// far is an address without a host.
func far(i int) string { return fmt.Sprintf("10.1.%d.%d", i/200, i%200+1) }

// scenario is what the director has.
type scenario struct {
	Servers int  // 0 to 300
	Ports   int  // of the VIP edge, beside 80 and 443
	VIPs    int  // beside edge, of one port each
	Streams int  // connections to edge that last
	Load    int  // clients of edge that ask again and again
	Plain   bool // no pod has the name of an HTML element
}

// set puts a scenario in place. The controller goes on, but for the first time.
func (d *director) set(w http.ResponseWriter, r *http.Request) {
	var s scenario
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if d.load != nil {
		d.load.Stop()
		d.load = nil
	}
	for len(d.streams) > s.Streams {
		d.streams[0].Close()
		d.streams = d.streams[1:]
	}
	if d.process == nil {
		d.write("cluster.json", cluster(s))
	}
	d.write("config.toml", d.config(s))
	if d.process == nil {
		d.process = d.host.Start(d.binary, "-config", filepath.Join(d.dir, "config.toml"))
	} else if err := d.process.Hangup(); err != nil {
		http.Error(w, err.Error()+"\n"+d.process.Log(), http.StatusInternalServerError)
		return
	}
	// The services first, so that there are never all real servers of one scenario in
	// all services of another. Each real server has a row in each service.
	services := s.Ports + 2 + s.VIPs
	err := d.wait("-A ", services)
	if err == nil {
		d.write("cluster.json", cluster(s))
		err = d.wait("-w 1\n", services*s.Servers)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for len(d.streams) < s.Streams {
		d.streams = append(d.streams, d.client.OpenStream(netip.AddrPortFrom(vip, []uint16{80, 443}[len(d.streams)%2])))
	}
	if s.Load > 0 {
		d.load = d.client.StartLoad(netip.AddrPortFrom(vip, 80), s.Load, 300*time.Millisecond)
	}
}

// wait waits until the list of ipvsadm has text n times.
func (d *director) wait(text string, n int) error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		got := strings.Count(d.host.Run("ipvsadm", "-Sn"), text)
		if got == n {
			return nil
		}
		if time.Now().After(end) {
			log := d.process.Log()
			return fmt.Errorf("the table has %q %d times, want %d\n%s", text, got, n, log[max(0, len(log)-4000):])
		}
	}
}

// write replaces a file through a rename.
func (d *director) write(name, text string) {
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		fail("%v", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		fail("%v", err)
	}
}

func (d *director) config(s scenario) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster_file = \"cluster.json\"\ninterface = \"eth0\"\nlisten = %q\naudit_interval = \"2s\"\nstate_dir = %q\ncache_dir = %q\n", listener, filepath.Join(d.dir, "state"), filepath.Join(d.dir, "cache"))
	one := func(name, address, ports string) {
		fmt.Fprintf(&b, "[[vip]]\nname = %q\naddresses = [%q]\nports = [%s]\nscheduler = \"rr\"\nremoval_brake = 0\n", name, address, ports)
	}
	ports := `"80/tcp", "443/tcp"`
	for i := range s.Ports {
		ports += fmt.Sprintf(`, "%d/tcp"`, 9000+i)
	}
	one("edge", vip.String(), ports)
	if s.Plain { // the other scenarios have addresses without hosts
		b.WriteString("[vip.health]\ntcp = 443\n")
	}
	for i := range s.VIPs {
		one(fmt.Sprintf("vip%d", i), fmt.Sprintf("10.0.1.%d", i+1), fmt.Sprintf(`"%d/udp"`, 53+i))
	}
	return b.String()
}

// cluster is a cluster with an ingress pod on each node: three that answer, and others.
// One has the name of an HTML element.
func cluster(s scenario) string {
	var items []any
	for i := range s.Servers {
		address := far(i)
		if i < 3 {
			address = fmt.Sprintf("10.0.0.%d", 11+i)
		}
		name := fmt.Sprintf("ingress-%d", i)
		if i == 1 && !s.Plain {
			name = "<script>document.title='pod'</script>"
		}
		ips := []any{map[string]string{"ip": address}}
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "Pod",
			"metadata": map[string]any{
				"name": name, "namespace": "ingress-nginx", "uid": name,
				"labels": map[string]string{"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"},
			},
			"spec":   map[string]any{"nodeName": fmt.Sprintf("node%d", i+1), "hostNetwork": true, "containers": []any{map[string]any{}}},
			"status": map[string]any{"phase": "Running", "hostIPs": ips, "podIPs": ips, "conditions": []any{map[string]string{"type": "Ready", "status": "True"}}},
		})
	}
	b, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		fail("%v", err)
	}
	return string(b)
}

// table is what ipvsadm says, as JSON: its list with connections, and with counters.
func (d *director) table(w http.ResponseWriter, _ *http.Request) {
	answer := map[string]string{
		"List":  d.host.Run("ipvsadm", "-Ln", "--exact"),
		"Stats": d.host.Run("ipvsadm", "-Ln", "--stats", "--exact"),
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		fmt.Println(err)
	}
}
