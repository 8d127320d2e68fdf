// The events of a director, as programs get them over its control socket and by its
// webhook, on a real kernel.

package director

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"
)

// eventLines are the lines of a stream of events, as far as they have come.
type eventLines struct {
	mu   sync.Mutex
	all  []string
	read int // of all, those that expect has passed over
}

// followEvents follows the events of the controller whose control socket is at path.
func followEvents(t *testing.T, path string) *eventLines {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	var resp *http.Response
	lab.Within(t, 10*time.Second, func() (why string) { // the socket comes after the listener
		var err error
		if resp, err = client.Get("http://controller/events?after=0"); err != nil {
			return err.Error()
		}
		return ""
	})
	t.Cleanup(func() { resp.Body.Close() })
	e := &eventLines{}
	go func() {
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			e.mu.Lock()
			e.all = append(e.all, lines.Text())
			e.mu.Unlock()
		}
	}()
	return e
}

// expect waits for events that have these parts, one after the other, with others between
// them.
func (e *eventLines) expect(t *testing.T, parts ...string) {
	t.Helper()
	for _, part := range parts {
		lab.Within(t, 15*time.Second, func() string {
			e.mu.Lock()
			defer e.mu.Unlock()
			for i := e.read; i < len(e.all); i++ {
				if strings.Contains(e.all[i], part) {
					e.read = i + 1
					return ""
				}
			}
			return fmt.Sprintf("no event with %s after\n%s", part, strings.Join(e.all[e.read:], "\n"))
		})
	}
}

// hook is the operator's server. It refuses the first POST.
type hook struct {
	mu      sync.Mutex
	refused []byte
	events  map[int]string // by number, as they came
	wrong   []string
}

// ServeHTTP implements http.Handler.
func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	var m struct {
		Version int
		Host    string
		Lost    int
		Events  []json.RawMessage
	}
	if err == nil {
		err = json.Unmarshal(body, &m)
	}
	if err != nil || r.Method != "POST" || r.Header.Get("Authorization") != "Bearer s3cret" || m.Version != 1 || m.Host == "" || m.Lost != 0 || len(m.Events) == 0 {
		h.wrong = append(h.wrong, fmt.Sprintf("%s %v %s: %v", r.Method, r.Header, body, err))
	}
	if h.refused == nil {
		h.refused = body
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	for _, text := range m.Events {
		var e struct{ Number int }
		err := json.Unmarshal(text, &e)
		if _, twice := h.events[e.Number]; err != nil || twice {
			h.wrong = append(h.wrong, fmt.Sprintf("%s comes twice, or has no number: %v", text, err))
		}
		h.events[e.Number] = string(text)
	}
}

// What happens to a director is one event each, in order and with its cause: on the
// stream, and by a webhook that fails at first.
func TestKernelEvents(t *testing.T) {
	r := newRig(t)
	for n, name := range map[int]string{11: "node11", 12: "node12"} {
		node := r.lab.Host(name, n)
		node.Serve(80)
		node.Run(controller(), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
	}
	client := r.lab.Host("client", 3)
	h := &hook{events: make(map[int]string)}
	var listener net.Listener
	var err error
	r.director.Do(func() { listener, err = net.Listen("tcp", "127.0.0.1:9090") })
	lab.Must(t, err)
	server := &http.Server{Handler: h}
	t.Cleanup(func() { server.Close() })
	go server.Serve(listener)
	token := filepath.Join(r.dir, "token")
	lab.Must(t, errors.Join(os.WriteFile(token, []byte("s3cret\n"), 0o600), os.Chown(token, int(*args.User), int(*args.User))))

	config := func(more string) {
		r.edgeConfig("announce = \"arp\"\nneighbour_check = false\n" + more + "[vip.drain]\ntimeout = \"3s\"\n" +
			"[events]\nwebhook = \"http://user:pa55word@127.0.0.1:9090/hook?key=pa55word\"\ntoken_file = \"token\"\n")
	}
	a, b := pod{name: "a", node: "n1", ips: []string{"10.0.0.11"}}, pod{name: "b", node: "n2", ips: []string{"10.0.0.12"}}
	pods := func(all ...pod) { r.objects.pods = all; r.writeCluster() }
	pods(a)
	config("")
	r.start()
	r.ready("ready")
	events := followEvents(t, filepath.Join(r.dir, "state", "control.sock"))
	const row = `"vip":"edge","address":"10.0.0.100","service":"80/tcp","server":`

	t.Log("step: the table is made")
	events.expect(t,
		`"kind":"service_added","vip":"edge","address":"10.0.0.100","service":"80/tcp","change":"scheduler rr"`,
		`"kind":"server_added",`+row+`"10.0.0.11","new_weight":1,"change":"weight 1","reason":"pod a ready"}`,
		`"kind":"vip_announced","vip":"edge","family":"IPv4","address":"10.0.0.100"}`)
	lab.Within(t, 10*time.Second, func() string {
		if client.Knock(netip.MustParseAddrPort("10.0.0.100:80"), time.Second) {
			return ""
		}
		return "the VIP does not answer"
	})
	stream := client.OpenStream(netip.MustParseAddrPort("10.0.0.100:80"))
	defer stream.Close()

	t.Log("step: a pod joins, the other one leaves with a connection")
	pods(a, b)
	events.expect(t, `"kind":"server_added",`+row+`"10.0.0.12","new_weight":1,"change":"weight 1","reason":"pod b ready"}`)
	a.terminating = true
	pods(a, b)
	events.expect(t, `"kind":"server_edited",`+row+`"10.0.0.11","old_weight":1,"new_weight":0,"change":"weight 1 → 0","reason":"pod a terminating`)
	pods(b)
	events.expect(t, `"kind":"server_removed",`+row+`"10.0.0.11","old_weight":0`)

	t.Log("step: the operator drains the director")
	r.subcommand("drain")
	events.expect(t, `"kind":"director_drained"}`, `"kind":"vip_withdrawn","vip":"edge","family":"IPv4","address":"10.0.0.100","reason":"drained by the operator since 20`)
	r.subcommand("drain", "-undo")
	events.expect(t, `"kind":"director_not_drained"}`, `"kind":"vip_announced","vip":"edge","family":"IPv4","address":"10.0.0.100"}`)

	t.Log("step: a reload, and one that is refused")
	config("scheduler = \"wlc\"\n")
	events.expect(t, `"kind":"reloaded"}`, `"kind":"service_edited","vip":"edge","address":"10.0.0.100","service":"80/tcp","change":"scheduler rr → wlc`)
	good := r.read("config.toml")
	r.write("config.toml", "listen = 7\n"+good)
	events.expect(t, `"kind":"reload_refused","reason":"`)
	r.write("config.toml", good)
	events.expect(t, `"kind":"reloaded"}`)

	t.Log("step: the webhook has the same")
	lab.Within(t, 20*time.Second, func() string {
		events.mu.Lock()
		defer events.mu.Unlock()
		h.mu.Lock()
		defer h.mu.Unlock()
		for i, line := range events.all {
			if h.events[i+1] != line {
				return fmt.Sprintf("event %d of the stream is\n%s\nand of the webhook\n%s", i+1, line, h.events[i+1])
			}
		}
		if len(h.events) != len(events.all) {
			return fmt.Sprintf("%d events of the stream, %d of the webhook", len(events.all), len(h.events))
		}
		return ""
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.wrong) > 0 || !strings.Contains(string(h.refused), h.events[1]) {
		t.Errorf("wrong POSTs:\n%s\nthe refused one: %s", strings.Join(h.wrong, "\n"), h.refused)
	}
	r.logged(1, `msg="events cannot be sent to the webhook; this is tried again" err="POST: the answer is 503"`)
	r.logged(1, `msg="events are sent to the webhook again"`)
	metrics := r.director.Run("curl", "-s", "http://127.0.0.1:9652/metrics")
	for _, want := range []string{fmt.Sprintf("\nlvs_events_total %d\n", len(h.events)), "\nlvs_webhook_posts_total{result=\"failed\"} 1\n", "\nlvs_webhook_lost_events_total 0\n", "\nlvs_webhook_failing 0\n"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in the metrics:\n%s", want, metrics)
		}
	}
	shown := r.process.Log() + metrics + r.director.Run("curl", "-s", "http://127.0.0.1:9652/status.json") + r.director.Run("curl", "-s", "http://127.0.0.1:9652/") + strings.Join(events.all, "\n")
	for _, secret := range []string{"pa55word", "s3cret"} {
		if at := strings.Index(shown, secret); at >= 0 {
			t.Errorf("%q is shown: …%s…", secret, shown[max(0, at-200):min(len(shown), at+50)])
		}
	}
}
