// The uplink and its sysctls, and the order of `lvs-controller drain` as a file.

package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
)

// What /readyz says of the uplink, at each moment, whether the configuration
// names it or the default route did before it went.
func TestUplink(t *testing.T) {
	for _, configured := range []bool{true, false} {
		ns := newNetns(t)
		h := newLinuxHost(slog.New(slog.DiscardHandler), nil, nil, nil)
		says := func(when, want string) {
			t.Helper()
			cfg := &Config{}
			if configured {
				cfg.Interface = "up0"
			}
			// The kernel takes a moment to notice a carrier.
			lab.Within(t, 10*time.Second, func() string {
				got := "nothing"
				ns.do(t, func() {
					if _, err := h.uplink(t.Context(), cfg); err != nil {
						t.Error(err)
					}
					if err := h.uplinkState(); err != nil {
						got = err.Error()
					}
				})
				if got != want {
					return fmt.Sprintf("configured %t, %s: %q, want %q", configured, when, got, want)
				}
				return ""
			})
		}
		if configured {
			says("before there is a device", "the uplink up0 is gone")
		} else {
			says("before there is a route", "nothing")
		}
		ns.addDevice(t, "up0")
		ns.run(t, "ip", "address", "add", "192.0.2.202/24", "dev", "up0")
		ns.run(t, "ip", "link", "set", "up0", "up")
		ns.run(t, "ip", "route", "add", "default", "via", "192.0.2.254")
		says("up", "nothing")
		ns.run(t, "ip", "link", "set", "up0-end", "down")
		says("without a carrier", "the uplink up0 has no carrier")
		ns.run(t, "ip", "link", "set", "up0-end", "up")
		says("with a carrier again", "nothing")
		ns.run(t, "ip", "link", "set", "up0", "down")
		says("down", "the uplink up0 is down")
		ns.run(t, "ip", "link", "set", "up0", "up")
		says("up again", "nothing")
		ns.run(t, "ip", "link", "delete", "up0")
		says("deleted", "the uplink up0 is gone")
	}
}

// The pair's settings come with [sync]. An operator who sets one of them sets all.
func TestSyncSysctls(t *testing.T) {
	sys, _ := fakeProcSys(t, map[string]string{"kernel/osrelease": "6.1.0"})
	h := &linuxHost{sysctls: sys}
	wanted := func(cfg *Config) map[string]string {
		all, err := h.wantedSysctls("", cfg)
		if err != nil {
			t.Fatal(err)
		}
		some := make(map[string]string)
		for _, s := range all {
			if name, ok := strings.CutPrefix(s.Key, vsSysctls+"sync_"); ok {
				some[name] = s.Want
			}
		}
		return some
	}
	pair := map[string]string{"refresh_period": "10", "retries": "1", "threshold": "0\t0"}
	for _, tt := range []struct {
		cfg  Config
		want map[string]string
	}{
		{Config{}, map[string]string{}},
		{Config{Sync: pairSync()}, pair},
		{Config{Sync: pairSync(), Sysctls: map[string]string{"sync_qlen_max": "9"}}, pair},
		{Config{Sync: pairSync(), Sysctls: map[string]string{"sync_refresh_period": "0"}}, map[string]string{}},
	} {
		if diff := cmp.Diff(tt.want, wanted(&tt.cfg)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.cfg, diff)
		}
	}
}

// The defences begin between the watermarks of the kernel, and each can be chosen
// otherwise. The kernel's own change of a mode is left alone.
func TestFloodSysctls(t *testing.T) {
	files := map[string]string{
		"kernel/osrelease": "6.1.0", "vm/min_free_kbytes": "40000", "vm/watermark_scale_factor": "0",
		"net/ipv4/vs/amemthresh": "1024", "net/ipv4/vs/drop_entry": "2", "net/ipv4/vs/drop_packet": "0",
	}
	pages := strconv.Itoa(40000 * 1024 / os.Getpagesize() * 9 / 8)
	for _, tt := range []struct {
		own  map[string]string
		want []string
	}{
		{nil, []string{"amemthresh=" + pages, "drop_packet=1"}},
		{map[string]string{"drop_packet": "0", "amemthresh": "5000"}, []string{"amemthresh=5000"}},
		{map[string]string{"drop_entry": "0"}, []string{"amemthresh=" + pages, "drop_packet=1", "drop_entry=0"}},
	} {
		sys, _ := fakeProcSys(t, files)
		h := &linuxHost{sysctls: sys, readBack: make(map[string]string)}
		cfg := &Config{Sysctls: tt.own}
		want, err := h.wantedSysctls("", cfg)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range sys.Check(append(want, h.chosenSysctls(cfg)...)) {
			if !s.OK {
				got = append(got, strings.TrimPrefix(s.Key, vsSysctls)+"="+s.Want)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("[sysctl] %v (-want +got):\n%s", tt.own, diff)
		}
	}
}

func TestFreeThreshold(t *testing.T) {
	page := uint64(os.Getpagesize())
	for _, tt := range []struct {
		name, least, scale string
		memory             uint64
		want               string
	}{
		{"1 GiB as Debian has it", "43776", "10", 950 << 20, fmt.Sprint(43776 * 1024 / page * 9 / 8)},
		{"with more room between the watermarks", "65536", "200", 16 << 30, fmt.Sprint(64<<20/page + 16<<30/page*200/10000/2)},
		{"more than the kernel takes", "4294967295", "3000", math.MaxUint64, "2147483647"},
		{"nonsense", "many", "10", 1 << 30, ""},
	} {
		sys, _ := fakeProcSys(t, map[string]string{"vm/min_free_kbytes": tt.least, "vm/watermark_scale_factor": tt.scale})
		if got, err := sys.freeThreshold(tt.memory); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// An order is noticed at once, also where its directory is still to come, or was
// removed and made again. The directory is not made for it, and other files in there
// ring nothing.
func TestFollowDrain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "cache")
	wake := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- followDrain(ctx, slog.New(slog.DiscardHandler), dir, wake) }()
	rings := func(when string, limit time.Duration, want bool) {
		t.Helper()
		got := false
		select {
		case <-wake:
			got = true
		case <-time.After(limit):
		}
		if got != want {
			t.Errorf("%s: woken: %t, want %t", when, got, want)
		}
	}
	const soon, never = 10 * time.Second, 300 * time.Millisecond
	order := func(drained bool) {
		t.Helper()
		if err := setDrained(dir, drained); err != nil {
			t.Fatal(err)
		}
	}
	rings("at first", soon, true)
	order(true)
	rings("an order in a new directory", soon, true)
	if err := os.WriteFile(filepath.Join(dir, "cluster.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	order(true)
	rings("another file, and the same order", never, false)
	order(false)
	rings("undone", soon, true)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	rings("the directory removed", never, false)
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory has been made again")
	}
	order(true)
	rings("an order in another directory of the name", soon, true)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestParseConnectionTable(t *testing.T) {
	count := func(n uint64) *uint64 { return &n }
	for _, tt := range []struct {
		name, parameter, status string
		want                    connectionTable
	}{
		{"Linux 6.1", "12\n", "", connectionTable{Bits: 12, Buckets: 4096}},
		{"Linux 7.3, which lets it grow", "20\n", "Conns:\t9401\nConn buckets:\t524288 (19 bits, lfactor -5)\nConn buckets empty:\t505633 (96%)\nConn buckets len-1:\t18322 (98%)\n",
			connectionTable{Bits: 20, Buckets: 524288, Connections: count(9401)}},
		{"no connection", "20\n", "Conns:\t0\nConn buckets:\t0 (0 bits, lfactor -5)\n", connectionTable{Bits: 20, Connections: count(0)}},
		{"no module", "", "", connectionTable{}},
		{"nonsense", "-1", "Conns: many\nConn buckets\n:\n" + strings.Repeat("x", 4096), connectionTable{}},
		{"a number that is no number of bits", "64", "", connectionTable{}},
	} {
		if diff := cmp.Diff(tt.want, parseConnectionTable([]byte(tt.parameter), []byte(tt.status))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// The kernel's own mode tells whether it defends itself: 2 is 1 while memory is short.
func TestParseDefences(t *testing.T) {
	files := map[string]string{"drop_entry": "2\n", "drop_packet": "1\n", "secure_tcp": "3\n"}
	got := parseDefences(func(name string) []byte { return []byte(files[name]) })
	want := map[string]bool{"drop_entry": true, "drop_packet": false, "secure_tcp": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := parseDefences(func(string) []byte { return nil }); len(got) != 0 {
		t.Errorf("without the module: %v", got)
	}
}

// The file that is installed gives the size that is the default.
func TestModprobeFile(t *testing.T) {
	text, err := os.ReadFile("install/lvs-controller.modprobe")
	want := fmt.Sprintf("\noptions ip_vs conn_tab_bits=%d\n", defaultConfig().ConnectionTableBits)
	if err != nil || !strings.HasSuffix(string(text), want) {
		t.Errorf("want the last line %q: %v in\n%s", want, err, text)
	}
}

func TestConnectionTableWarns(t *testing.T) {
	for _, tt := range []struct {
		bits, want uint8
		release    string
		memory     uint64
		says       []string
	}{
		{20, 20, "6.1.0-25-amd64", 2 << 30, nil},
		{22, 20, "6.12.1", 64 << 30, nil},
		{0, 20, "6.1.0", 2 << 30, nil}, // the module is not loaded
		// Seen: 2 GiB less what the kernel has for itself, of which Linux 6.12 makes 19.
		{19, 20, "6.12.117+deb13-cloud-amd64", 2<<30 - 90<<20, nil},
		{12, 20, "6.12.117+deb13-cloud-amd64", 2<<30 - 90<<20, []string{"buckets=4096 want=524288", "options ip_vs conn_tab_bits=19"}},
		{19, 22, "6.12.117+deb13-cloud-amd64", 2<<30 - 90<<20, []string{"want=22 largest=19"}},
		{12, 20, "6.1.0", 1 << 30, []string{"buckets=4096 want=1048576", "options ip_vs conn_tab_bits=20"}},
		{12, 22, "6.1.0", 64 << 30, []string{"want=22 largest=20 kernel=6.1.0", "buckets=4096 want=1048576", "options ip_vs conn_tab_bits=20"}},
		{20, 22, "6.1.0", 64 << 30, []string{"want=22 largest=20"}},
		{20, 22, "7.3.4", 64 << 30, []string{"buckets=1048576 want=4194304", "options ip_vs conn_tab_bits=22"}},
	} {
		var text strings.Builder
		connectionTable{Bits: tt.bits}.warn(slog.New(slog.NewTextHandler(&text, nil)), tt.want, tt.release, tt.memory)
		for _, s := range tt.says {
			if !strings.Contains(text.String(), s) {
				t.Errorf("%d bits of %d on %s: no %q in:\n%s", tt.bits, tt.want, tt.release, s, &text)
			}
		}
		if (text.Len() > 0) != (tt.says != nil) {
			t.Errorf("%d bits of %d on %s: log:\n%s", tt.bits, tt.want, tt.release, &text)
		}
	}
}
