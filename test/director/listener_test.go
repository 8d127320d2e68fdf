// Clients of the listener: many that want the whole table, and slow ones.

package director

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

const (
	listenerServices = 200
	listenerServers  = 100 // of each service
	listenerClients  = 20

	// A client more is 1 MB at the most; the answer that they read is several.
	listenerMemory = listenerClients << 10 // kB
)

// connect opens a connection to the listener of the director.
func (r *rig) connect(context.Context, string, string) (c net.Conn, err error) {
	r.director.Do(func() { c, err = net.Dial("tcp", "127.0.0.1:9652") })
	return c, err
}

// wholeStatus is an answer to GET /status.json.
type wholeStatus struct {
	code  int
	retry string // Retry-After
	body  []byte
	err   error
}

// askStatus asks for /status.json over a connection that nothing else uses.
func (r *rig) askStatus() (a wholeStatus) {
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: r.connect, DisableKeepAlives: true}}
	var resp *http.Response
	if resp, a.err = client.Get("http://localhost/status.json"); a.err != nil {
		return a
	}
	defer resp.Body.Close()
	a.code, a.retry = resp.StatusCode, resp.Header.Get("Retry-After")
	a.body, a.err = io.ReadAll(resp.Body)
	return a
}

// Of twenty clients that ask for a table of 20,000 real servers at the same time each
// has all of it, or the advice to come again, and the director stays small. Slow clients
// do not keep it from ending.
func TestKernelListenerClients(t *testing.T) {
	r := newRig(t)
	var ports, servers []string
	for i := range listenerServices {
		ports = append(ports, strconv.Itoa(20_000+i))
	}
	for i := range listenerServers {
		servers = append(servers, fmt.Sprintf("{address = \"10.0.0.%d\"}", 110+i))
	}
	r.write("config.toml", r.configHead()+fmt.Sprintf("[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nneighbour_check = false\nports = [%s]\nreal_servers = [%s]\n",
		strings.Join(ports, ", "), strings.Join(servers, ", ")))
	r.start()
	lab.Within(t, time.Minute, func() string {
		if n := strings.Count(r.director.Table(), "-a "); n != listenerServices*listenerServers {
			return fmt.Sprintf("%d rows\n%s", n, r.process.Log())
		}
		return ""
	})
	r.ready("ready")

	t.Log("step: many clients want the whole table")
	lab.Must(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", r.process.PID()), []byte("5"), 0)) // VmHWM begins anew
	_, before := processMemory(t, r.process.PID())
	answers := make(chan wholeStatus, listenerClients)
	for range listenerClients {
		go func() { answers <- r.askStatus() }()
	}
	var all []wholeStatus
	for range listenerClients {
		all = append(all, <-answers)
	}
	_, after := processMemory(t, r.process.PID())
	whole, size := 0, 0
	for _, a := range all {
		switch {
		case a.err != nil:
			t.Errorf("an answer with code %d ends after %d bytes: %v", a.code, len(a.body), a.err)
		case a.code == http.StatusOK && json.Valid(a.body) && bytes.Count(a.body, []byte(`"address":"10.0.0.`)) >= listenerServices*listenerServers:
			whole, size = whole+1, len(a.body)
		case a.code != http.StatusServiceUnavailable || a.retry == "":
			t.Errorf("an answer of %d bytes has code %d and Retry-After %q: %.200s", len(a.body), a.code, a.retry, a.body)
		}
	}
	t.Logf("%d of %d clients have the whole table of %d bytes, the others are to come again; peak memory %d kB, before %d kB", whole, listenerClients, size, after, before)
	if whole == 0 {
		t.Error("no client has the table")
	}
	if after-before > listenerMemory {
		t.Errorf("the clients cost %d kB of memory, at most %d are allowed", after-before, listenerMemory)
	}

	t.Log("step: slow clients hold connections at SIGTERM")
	for _, request := range []string{"", "GET /status.json HTTP/1.1\r\nHost: loc", "GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n"} {
		c, err := r.connect(t.Context(), "", "")
		lab.Must(t, err)
		defer c.Close()
		lab.Must(t, c.(*net.TCPConn).SetReadBuffer(4096)) // it reads nothing of the answer
		_, err = io.WriteString(c, request)
		lab.Must(t, err)
	}
	time.Sleep(2 * time.Second)
	start := time.Now()
	if err := r.process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, r.process.Log())
	}
	took := time.Since(start)
	t.Logf("SIGTERM: ended after %s", took.Round(10*time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("the controller took %s to end, at most 5 s are allowed", took)
	}
	if r.process.CountLog("left behind") > 0 {
		t.Errorf("the listener waits for its clients:\n%s", r.process.Log())
	}
}
