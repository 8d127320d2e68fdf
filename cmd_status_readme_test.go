package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// README.md shows what status prints, with the numbers of readmeStatus.
func TestStatusOfReadme(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "`lvs-controller status` shows:\n\n```text\n")
	shown, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("README.md shows no status")
	}
	st := readmeStatus()
	var out bytes.Buffer
	v := newStatusText(false, false, &out)
	v.now = func() time.Time { return st.Since.Add(9 * time.Minute) }
	if err := v.print(&out, &st); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(out.String(), shown); diff != "" {
		t.Errorf("README.md (-want +got):\n%s", diff)
	}
}

func readmeStatus() status {
	began := time.Date(2026, 11, 28, 2, 42, 43, 0, time.Local)
	connections := uint64(863)
	server := func(a string, weight uint32, active, inactive uint32, rate uint64, why string) serverStatus {
		return serverStatus{Address: addr(a), Weight: weight, Why: why, Connections: Connections{Active: active, Inactive: inactive}, Traffic: Traffic{ConnsPerSec: rate}, Since: began}
	}
	leaving := func(active, inactive uint32) serverStatus {
		r := server("10.135.22.12", 0, active, inactive, 0, "pod ingress-c2b9d terminating, draining")
		r.Since, r.DrainUntil = began.Add(9*time.Minute-12*time.Second), began.Add(9*time.Minute+288*time.Second)
		return r
	}
	const serves = "pod ingress-7fxkq ready"
	return status{
		Ready: true, Since: began,
		Source: sourceStatus{Name: "kubeconfig /etc/lvs-controller/kubeconfig", Current: true, Since: began},
		Config: configStatus{Path: "/etc/lvs-controller/config.toml", Loaded: began},
		Table:  connectionTable{Bits: 20, Buckets: 1 << 20, Connections: &connections},
		VIPs: []vipStatus{{
			Name: "edge", Announce: AnnounceARP, Addresses: []addressStatus{{Address: addr("10.135.22.77"), Device: "eth0"}},
			Nodes: []nodeStatus{{Address: addr("10.135.22.11"), Node: "node-a"}, {Address: addr("10.135.22.12"), Node: "node-b"}},
		}},
		Services: []serviceStatus{
			{Service: service("10.135.22.77:80/tcp").ServiceKey, VIP: "edge", Scheduler: "rr", Traffic: Traffic{Connections: 30104, ConnsPerSec: 20},
				Servers: []serverStatus{server("10.135.22.11", 1, 100, 300, 20, serves), leaving(1, 8)}},
			{Service: service("10.135.22.77:443/tcp").ServiceKey, VIP: "edge", Scheduler: "rr", Traffic: Traffic{Connections: 60208, ConnsPerSec: 21},
				Servers: []serverStatus{server("10.135.22.11", 1, 112, 330, 21, serves), leaving(2, 10)}},
		},
	}
}

// Colours are for a terminal that has them and a user who wants them.
func TestStatusColours(t *testing.T) {
	tty := newTerminal(t, 100, 10)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, tt := range []struct {
		name, term, noColor string
		out                 *os.File
		want                bool
	}{
		{"a terminal", "xterm", "", tty.slave, true},
		{"NO_COLOR", "xterm", "1", tty.slave, false},
		{"a terminal without them", "dumb", "", tty.slave, false},
		{"a file", "xterm", "", file, false},
	} {
		t.Setenv("TERM", tt.term)
		t.Setenv("NO_COLOR", tt.noColor)
		v := newStatusText(false, false, tt.out)
		var text strings.Builder
		st := status{Reason: "no real server is in service"}
		for _, l := range v.draw(&st) {
			v.write(&text, l, v.width)
		}
		if got := strings.Contains(text.String(), "\x1b["); got != tt.want {
			t.Errorf("%s: colours %t, want %t: %q", tt.name, got, tt.want, text.String())
		}
	}
}
