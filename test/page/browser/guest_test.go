// The director of the tests: a virtual machine that connects to this process.

package browser

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// guestHost is this host, seen from the guest.
const guestHost = "10.0.2.2"

// guest runs test/page/guest.
type guest struct {
	idle chan net.Conn // that the guest has opened
	page string        // where the controller's listener is reached
	http *http.Client
}

// startGuest boots the guest and waits until it can be asked.
func startGuest(t *testing.T) *guest {
	g := &guest{idle: make(chan net.Conn, 64)}
	ctx, cancel := context.WithCancel(t.Context())
	meet := listen(t)
	go func() {
		for {
			conn, err := meet.Accept()
			if err != nil {
				return
			}
			g.idle <- conn
		}
	}()
	pages := listen(t)
	g.page = pages.Addr().String()
	go func() {
		for {
			conn, err := pages.Accept()
			if err != nil {
				return
			}
			go g.join(ctx, conn)
		}
	}()
	g.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return g.take(ctx, 'c') }}}

	_, port, _ := net.SplitHostPort(meet.Addr().String())
	vm := exec.Command("test/vm/run", "-net", "-timeout", "450", "-file", "lvs-controller", "-file", ".cache/bin/page-guest", "--",
		"./page-guest", "-binary", "/work/lvs-controller", "-connect", net.JoinHostPort(guestHost, port))
	vm.Dir = *root
	var out bytes.Buffer
	vm.Stdout, vm.Stderr = &out, &out
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- vm.Wait() }()
	t.Cleanup(func() {
		cancel()
		meet.Close()
		pages.Close()
		vm.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	select {
	case conn := <-g.idle:
		g.idle <- conn
	case err := <-ended:
		t.Fatalf("the guest ended: %v\n%s", err, out.String())
	}
	return g
}

func listen(t *testing.T) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// take is a connection to the guest for use.
func (g *guest) take(ctx context.Context, use byte) (net.Conn, error) {
	select {
	case conn := <-g.idle:
		_, err := conn.Write([]byte{use})
		return conn, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join connects a browser's connection with the controller's listener.
func (g *guest) join(ctx context.Context, browser net.Conn) {
	defer browser.Close()
	conn, err := g.take(ctx, 'p')
	if err != nil {
		return
	}
	defer conn.Close()
	go func() { io.Copy(conn, browser); conn.(*net.TCPConn).CloseWrite() }()
	io.Copy(browser, conn)
}

// scenario is test/page/guest's.
type scenario struct {
	Servers, Ports, VIPs, Streams, Load int
	Plain                               bool
}

// set puts s in place.
func (g *guest) set(t *testing.T, s scenario) {
	t.Helper()
	body, _ := json.Marshal(s)
	resp, err := g.http.Post("http://guest/set", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%+v: %s", s, text)
	}
}

// row is a real server of a service, as ipvsadm and the page have it.
type row struct{ Weight, Active, Inactive, Total string }

// table is what ipvsadm says: services by "10.0.0.100:80/tcp", their real servers by
// address.
type table map[string]map[string]row

// read asks ipvsadm in the guest.
func (g *guest) read(t *testing.T) table {
	t.Helper()
	resp, err := g.http.Get("http://guest/table")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ List, Stats string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	all := make(table)
	each := func(text string, put func(service, server string, columns []string)) {
		service := ""
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			switch {
			case len(f) > 2 && (f[0] == "TCP" || f[0] == "UDP"):
				service = f[1] + "/" + strings.ToLower(f[0])
				if all[service] == nil {
					all[service] = make(map[string]row)
				}
			case len(f) > 2 && f[0] == "->" && service != "":
				server, _, _ := strings.Cut(f[1], ":")
				put(service, server, f[2:])
			}
		}
	}
	each(answer.List, func(service, server string, c []string) { // Forward Weight ActiveConn InActConn
		all[service][server] = row{Weight: c[1], Active: c[2], Inactive: c[3]}
	})
	each(answer.Stats, func(service, server string, c []string) { // Conns InPkts OutPkts InBytes OutBytes
		r := all[service][server]
		r.Total = c[0]
		all[service][server] = r
	})
	return all
}

// shots is the folder for the screenshots.
func shots(t *testing.T) string {
	dir := filepath.Join(*root, ".cache", "page")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (s scenario) String() string {
	return fmt.Sprintf("%d-servers-%d-services", s.Servers, 2+s.Ports+s.VIPs)
}
