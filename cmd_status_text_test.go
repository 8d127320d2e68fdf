// The status as text, its filters, and the description of its JSON.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"lvs-controller/test/lab"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// textOf is st as a person sees it an hour after testTime.
func textOf(t *testing.T, wide, ports bool, st status) string {
	t.Helper()
	var out bytes.Buffer
	v := newStatusText(wide, ports, &out)
	v.now = func() time.Time { return testTime.Add(time.Hour) }
	if err := v.print(&out, &st); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > v.width {
			t.Errorf("%d characters, want %d: %s", n, v.width, line)
		}
	}
	return out.String()
}

func TestStatusText(t *testing.T) {
	if diff := cmp.Diff(shownText, textOf(t, false, false, shownStatus())); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	wide := textOf(t, true, false, shownStatus())
	for _, want := range []string{"node-a", "http down ", "BYTES/S", "pod a ready, http down: GET"} {
		if !strings.Contains(wide, want) {
			t.Errorf("-o wide has no %q:\n%s", want, wide)
		}
	}
	first, _, _ := strings.Cut(textOf(t, false, false, status{Reason: "no real server is in service", Config: configStatus{Wrong: "/etc/c.toml:3: vip: no"}}), "REAL SERVER")
	if want := "config file on disk is wrong: /etc/c.toml:3: vip: no\nNOT READY: no real server is in service\n  "; first != want {
		t.Errorf("%q, want %q", first, want)
	}
}

// Whatever the names and numbers are, a line fits, and 1,000 ports fit a screen.
func TestStatusTextFits(t *testing.T) {
	long := strings.Repeat("long-name-", 30)
	st := shownStatus()
	st.Reason, st.Ready = strings.Repeat("no reason ", 50)+long, false
	st.Warnings, st.Config.Wrong = []string{long, "\x1b[31mred\x1b[0m\u202e"}, long
	for i := range 100 {
		st.Down = append(st.Down, fmt.Sprintf("edge 10.1.0.%d: %s", i, long))
	}
	most := uint32(1<<32 - 1)
	st.Services = nil
	for port := range uint16(1000) {
		one := shownStatus().Services[0]
		one.Service.Port, one.VIP, one.Scheduler = 2*port+1, "edge", "wlc"
		one.Servers = slices.Clone(one.Servers)
		one.Servers[0] = serverStatus{Address: addr("2001:db8:1111:2222:3333:4444:5555:6666"), Port: 65535, Weight: most, Why: long, Connections: Connections{most, most, most}}
		st.Services = append(st.Services, one)
	}
	st.VIPs[0].Nodes = append(st.VIPs[0].Nodes, nodeStatus{Address: addr("2001:db8:1111:2222:3333:4444:5555:6666"), Node: long, Pods: []string{long}})
	for _, wide := range []bool{false, true} {
		text := textOf(t, wide, false, st)
		if strings.ContainsAny(text, "\x1b\u202e") {
			t.Errorf("a text from outside reaches the terminal: %q", text)
		}
		_, table, _ := strings.Cut(text, "REAL SERVER")
		if n := strings.Count(table, "\n"); n > 12 {
			t.Errorf("1,000 ports take %d lines:\n%s", n, table)
		}
		if !strings.Contains(text, "1000 ports in all") {
			t.Errorf("the ports that are left out are not counted:\n%s", table)
		}
		if n := strings.Count(textOf(t, wide, true, st), "2001:db8:1111:2222:3333:4444:5555:6666"); n != 1000 {
			t.Errorf("-ports lists %d services, want 1000", n)
		}
	}
}

// Services are one line as long as their rows are the same, and their numbers add up.
func TestStatusGroups(t *testing.T) {
	one := func(key string, weight uint32, why string) serviceStatus {
		return serviceStatus{Service: service(key).ServiceKey, VIP: "edge", Scheduler: "rr", Traffic: Traffic{Connections: 5},
			Servers: []serverStatus{{Address: addr("10.1.0.1"), Weight: weight, Why: why, Connections: Connections{1, 2, 3}}}}
	}
	other := one("10.0.0.1:86/tcp", 1, "a")
	other.Scheduler = "wlc"
	all := []serviceStatus{
		one("10.0.0.1:80/tcp", 1, "a"), one("10.0.0.1:81/tcp", 0, "a"), one("10.0.0.1:82/tcp", 1, "a"),
		one("10.0.0.1:83/tcp", 1, "b"), one("10.0.0.2:80/tcp", 1, "a"), other,
	}
	var got []string
	for _, g := range groups(all, false) {
		got = append(got, fmt.Sprint(g.keys[0].Address, portRanges(g.keys), g.traffic.Connections, g.servers[0].Connections))
	}
	want := []string{
		"10.0.0.1 [80/tcp 82/tcp] 10 {2 4 6}", "10.0.0.1 [81/tcp] 5 {1 2 3}", "10.0.0.1 [83/tcp] 5 {1 2 3}",
		"10.0.0.2 [80/tcp] 5 {1 2 3}", "10.0.0.1 [86/tcp] 5 {1 2 3}",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := len(groups(all, true)); n != len(all) {
		t.Errorf("-ports: %d groups", n)
	}
	if all[0].Servers[0].Connections.Active != 1 {
		t.Error("a sum is written into a service")
	}
}

// A service of a firewall mark has no address of its VIP.
func TestStatusFilterMarks(t *testing.T) {
	for filter, want := range map[string]int{"edge": 3, "10.0.0.1": 2, "10.0.0.2": 0, "2001:db8::1": 0, "0.0.0.0": 0} {
		st := shownStatus()
		st.Services = append(st.Services, serviceStatus{Service: MarkKey(5, false), VIP: "edge"}, serviceStatus{Service: MarkKey(6, true), VIP: "edge"})
		st.VIPs[1].Addresses = nil
		st.Services = slices.DeleteFunc(st.Services, func(s serviceStatus) bool { return s.VIP == "six" })
		f := statusFilter{vip: filter}
		f.apply(&st)
		if len(st.Services) != want {
			t.Errorf("%s: %d services, want %d", filter, len(st.Services), want)
		}
	}
}

// The line of a firewall mark has the ports of the packets that get it.
func TestStatusTextMark(t *testing.T) {
	st := shownStatus()
	st.Services = []serviceStatus{{Service: MarkKey(5, false), VIP: "edge", Scheduler: "rr", Ports: []string{"80/tcp", "9000-9020/tcp"}}}
	if text := textOf(t, false, false, st); !strings.Contains(text, "edge mark-5/ipv4 80/tcp,9000-9020/tcp  (rr") {
		t.Errorf("%s", text)
	}
	for range 500 {
		st.Services[0].Ports = append(st.Services[0].Ports, "10000-10001/tcp")
	}
	if text := textOf(t, false, false, st); !strings.Contains(text, "-o json lists each") || strings.Count(text, "\n") > 40 {
		t.Errorf("%s", text)
	}
}

func TestStatusFilter(t *testing.T) {
	for _, test := range []struct {
		filter statusFilter
		want   string
	}{
		{statusFilter{}, "edge 10.0.0.1:80/tcp 3; six [2001:db8::1]:53/udp 0; VIPs 2"},
		{statusFilter{vip: "edge"}, "edge 10.0.0.1:80/tcp 3; VIPs 1"},
		{statusFilter{vip: "10.0.0.1"}, "edge 10.0.0.1:80/tcp 3; VIPs 1"},
		{statusFilter{vip: "none"}, "VIPs 0"},
		{statusFilter{port: "53"}, "six [2001:db8::1]:53/udp 0; VIPs 2"},
		{statusFilter{port: "53/tcp"}, "VIPs 2"},
		{statusFilter{port: "80/tcp"}, "edge 10.0.0.1:80/tcp 3; VIPs 2"},
		{statusFilter{server: "10.1.0.2"}, "edge 10.0.0.1:80/tcp 1; VIPs 2"},
		{statusFilter{server: "node-a"}, "edge 10.0.0.1:80/tcp 1; VIPs 2"},
		{statusFilter{server: "10.1.0.9"}, "VIPs 2"},
		{statusFilter{vip: "2001:DB8::1"}, "six [2001:db8::1]:53/udp 0; VIPs 1"},
	} {
		st := shownStatus()
		test.filter.apply(&st)
		got := ""
		for _, s := range st.Services {
			got += fmt.Sprintf("%s %s %d; ", s.VIP, s.Service, len(s.Servers))
		}
		if got += fmt.Sprintf("VIPs %d", len(st.VIPs)); got != test.want {
			t.Errorf("%+v: %s, want %s", test.filter, got, test.want)
		}
	}
}

// The screen of -w has as many lines as fit, each cleared to its end.
func TestStatusScreen(t *testing.T) {
	v := &statusText{width: 100, colours: true}
	var lines []textLine
	for i := range 100 {
		lines = append(lines, textLine{bad, fmt.Sprint("line ", i)})
	}
	text := v.screen(lines, true, &bytes.Buffer{})
	if n := strings.Count(text, "\n"); n != 23 || !strings.HasPrefix(text, goHome) || !strings.HasSuffix(text, clearBelow) {
		t.Errorf("%d lines: %q", n, text)
	}
	if !strings.Contains(text, "\x1b[31mline 0\x1b[0m"+clearLine+"\n") || !strings.Contains(text, "… 78 lines more; -vip, -server, -port filter"+clearLine+"\n") {
		t.Errorf("%q", text)
	}
	if text := v.screen(lines, false, &bytes.Buffer{}); strings.Contains(text, goHome) || strings.Count(text, "\n") != 101 {
		t.Errorf("without a terminal: %q", text)
	}
}

// docs/status.md has each field of the JSON, and no other.
func TestStatusIsDocumented(t *testing.T) {
	page, err := os.ReadFile("docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("`\"version\": %d`", statusVersion); !strings.Contains(string(page), want) {
		t.Errorf("docs/status.md does not describe %s", want)
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-zA-Z_.\\[\\]]+)` \\|").FindAllSubmatch(page, -1) {
		documented = append(documented, string(m[1]))
	}
	fields := fieldPaths("", reflect.TypeFor[status]())
	slices.Sort(fields)
	slices.Sort(documented)
	if diff := cmp.Diff(fields, documented); diff != "" {
		t.Errorf("(-fields +documented):\n%s", diff)
	}
}

// fieldPaths are the fields of a type as JSON has them, as "services[].servers[].weight".
// A type that writes itself as text has no fields.
func fieldPaths(at string, typ reflect.Type) (paths []string) {
	text := reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
	switch {
	case typ.Implements(text):
	case typ.Kind() == reflect.Slice:
		return fieldPaths(at+"[]", typ.Elem())
	case typ.Kind() == reflect.Struct:
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" || !f.IsExported() {
				continue
			}
			path := strings.TrimPrefix(at+"."+name, ".")
			paths = append(append(paths, path), fieldPaths(path, f.Type)...)
		}
	}
	return paths
}

// watchArguments has the child process of TestStatusWatch run the program.
const watchArguments = "LVS_TEST_WATCH_ARGUMENTS"

// On a terminal -w draws in place and in its size, and leaves it as it was.
func TestStatusWatch(t *testing.T) {
	if args := os.Getenv(watchArguments); args != "" {
		os.Exit(run(context.Background(), strings.Split(args, "\n"), os.Stdout, os.Stderr))
	}
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(shownStatus()) }))
	tty := newTerminal(t, 80, 24)
	cmd := exec.Command(os.Args[0], "-test.run=^TestStatusWatch$")
	cmd.Env = append(os.Environ(), "TERM=xterm", watchArguments+"="+strings.Join([]string{"status", "-w", "-interval", "1h", "-socket", socket}, "\n"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty.slave, tty.slave, tty.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })

	frames := 0
	drawn := func(what string, lines, least, most int) {
		t.Helper()
		frames++
		tty.until(t, what, func() bool { return tty.frames == frames })
		text := tty.text()
		if tty.scrolled || tty.shown || !tty.wraps || !strings.HasPrefix(text, "ready\n") || strings.Count(text, "\n") != lines {
			t.Errorf("%s: scrolled %t, cursor %t, wraps %t:\n%s", what, tty.scrolled, tty.shown, tty.wraps, text)
		}
		n := 0
		for line := range strings.Lines(text) {
			n = max(n, utf8.RuneCountInString(line)-1)
		}
		if n > most || n < least {
			t.Errorf("%s: the longest line has %d characters, want %d to %d:\n%s", what, n, least, most, text)
		}
	}
	drawn("the first drawing", 21, 70, 80)
	if text := tty.text(); !strings.Contains(text, "node-a, pod a") || !strings.Contains(text, "six 2001:db8::1 53/udp") {
		t.Errorf("80 columns:\n%s", text)
	}
	tty.blanked = 0
	before := tty.text()
	_ = cmd.Process.Signal(syscall.SIGWINCH)
	drawn("the same again", 21, 70, 80)
	if tty.blanked > 0 || tty.text() != before {
		t.Errorf("it flickers: %d places were empty for a moment\n%s", tty.blanked, tty.text())
	}
	tty.resize(t, 50, 12)
	drawn("a smaller terminal", 11, 50, 50) // where lines are cut
	if !strings.Contains(tty.text(), " lines more; -vip, -server, -port filter\n") {
		t.Errorf("what does not fit is not counted:\n%s", tty.text())
	}
	tty.resize(t, 120, 30)
	drawn("a larger terminal", 17, 90, 100)

	stopped := func() bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		return strings.Contains(string(stat), ") T ")
	}
	tty.send(t, "\x1a")
	tty.until(t, "ctrl-Z stops it", stopped)
	tty.until(t, "ctrl-Z shows the cursor", func() bool { return tty.shown })
	_ = cmd.Process.Signal(syscall.SIGCONT)
	drawn("after ctrl-Z", 17, 90, 100)
	tty.send(t, "\x03")
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("ctrl-C does not end it")
	}
	tty.until(t, "the cursor", func() bool { return tty.shown })
	if text := tty.text(); !tty.wraps || tty.scrolled || strings.Contains(text, "^C") || tty.x != 0 || tty.y != 17 || strings.Count(text, "\n") != 17 {
		t.Errorf("the end: wraps %t, cursor at %d,%d:\n%s", tty.wraps, tty.x, tty.y, text)
	}
}

// terminal is a terminal of the kernel, with what a person sees on it.
type terminal struct {
	master, slave *os.File

	mu           sync.Mutex
	cells        [][]rune
	x, y         int
	pending      []byte // of an unfinished sequence
	shown, wraps bool   // the cursor; long lines
	scrolled     bool
	blanked      int  // places that were cleared while they had something
	drawn        bool // all lines of a drawing
	frames       int  // drawings
}

func newTerminal(t *testing.T, columns, lines int) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	tty := &terminal{master: master, slave: slave, shown: true, wraps: true}
	tty.resize(t, columns, lines)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			tty.mu.Lock()
			tty.take(b[:n])
			tty.mu.Unlock()
		}
	}()
	t.Cleanup(func() { slave.Close(); master.Close() })
	return tty
}

func (y *terminal) resize(t *testing.T, columns, lines int) {
	t.Helper()
	y.mu.Lock()
	cells := make([][]rune, lines)
	for i := range cells {
		cells[i] = []rune(strings.Repeat(" ", columns))
		if i < len(y.cells) {
			copy(cells[i], y.cells[i])
		}
	}
	y.cells, y.x, y.y = cells, min(y.x, columns-1), min(y.y, lines-1)
	y.mu.Unlock()
	if err := unix.IoctlSetWinsize(int(y.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(lines), Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
}

func (y *terminal) send(t *testing.T, keys string) {
	t.Helper()
	if _, err := y.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// until waits for a drawing to be complete and for what holds.
func (y *terminal) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	lab.Within(t, 20*time.Second, func() string {
		y.mu.Lock()
		defer y.mu.Unlock()
		if !holds() || len(y.pending) > 0 || y.x != 0 {
			return what + ": not seen"
		}
		return ""
	})
}

// text is what is on the screen.
func (y *terminal) text() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var b strings.Builder
	for _, line := range y.cells {
		b.WriteString(strings.TrimRight(string(line), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// clear empties line n from column x on.
func (y *terminal) clear(n, x int) {
	for ; x < len(y.cells[n]); x++ {
		if y.cells[n][x] != ' ' {
			y.blanked++
		}
		y.cells[n][x] = ' '
	}
}

// take does what the program writes.
func (y *terminal) take(b []byte) {
	b = append(y.pending, b...)
	for len(b) > 0 {
		sequence := regexp.MustCompile(`^\x1b\[[?0-9;]*[A-Za-z]`).Find(b)
		switch {
		case b[0] == 0x1b && sequence == nil, !utf8.FullRune(b):
			y.pending = slices.Clone(b)
			return
		case sequence != nil:
			y.control(string(sequence))
			b = b[len(sequence):]
			continue
		}
		r, n := utf8.DecodeRune(b)
		b = b[n:]
		switch r {
		case '\r':
			y.x = 0
		case '\n':
			y.down()
		default:
			if y.x == len(y.cells[y.y]) && y.wraps { // the last column was written before
				y.x = 0
				y.down()
			}
			y.x = min(y.x, len(y.cells[y.y])-1)
			y.cells[y.y][y.x] = r
			y.x++
		}
	}
	y.pending = nil
}

func (y *terminal) down() {
	if y.y++; y.y == len(y.cells) {
		y.scrolled, y.y = true, y.y-1
	}
}

func (y *terminal) control(sequence string) {
	switch sequence {
	case hideCursor, showCursor:
		y.shown = sequence == showCursor
	case cutLines, wrapLines:
		y.wraps = sequence == wrapLines
		y.drawn = y.wraps
	case goHome:
		y.x, y.y = 0, 0
	case clearLine:
		y.clear(y.y, min(y.x, len(y.cells[y.y])-1)) // as xterm: a full line loses its end
	case clearBelow, clearAll:
		if sequence == clearBelow {
			y.clear(y.y, y.x)
		}
		if y.drawn {
			y.frames, y.drawn = y.frames+1, false
		}
		for n := range y.cells {
			if n > y.y || sequence == clearAll {
				y.clear(n, 0)
			}
		}
	}
}
