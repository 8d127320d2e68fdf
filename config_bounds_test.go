// What a hostile config.toml may cost: time, memory and log text.

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// filled repeats unit between head and tail up to the largest size of a file.
func filled(head, unit, tail string) string {
	return head + strings.Repeat(unit, (maxConfigSize-len(head)-len(tail))/len(unit)) + tail
}

// counted is filled with units that differ.
func counted(head, unit, tail string) string {
	var b strings.Builder
	b.WriteString(head)
	for i := 0; ; i++ {
		next := fmt.Sprintf(unit, i)
		if b.Len()+len(next)+len(tail) > maxConfigSize {
			break
		}
		b.WriteString(next)
	}
	return b.String() + tail
}

// hostileConfigs are files of 1 MB, and what the first mistake says. Without a
// bound each of the first took seconds and gigabytes, and some did not end.
var hostileConfigs = []struct {
	name, text string
	want       string // after "c.toml:"
}{
	{"dotted keys", filled("", "k.", "k = 1\n"), "1: k.k.k.k.k.k.k.k.k: keys and lists are nested more than 8 levels deep, want fewer"},
	{"dotted keys in a table", filled("\n[a.b]\n", "k.", "k = 1\n"), "3: a.b.k.k.k.k.k.k.k: keys and lists are nested more than 8 levels deep, want fewer"},
	{"table", filled("[", "k.", "k]\n"), "1: k.k.k.k.k.k.k.k.k: keys and lists are nested more than 8 levels deep, want fewer"},
	{"array of tables", filled("[[", "k.", "k]]\n"), "1: k.k.k.k.k.k.k.k.k: keys and lists are nested more than 8 levels deep, want fewer"},
	{"lists", filled("a = ", "[", ""), "1: a[0][0][0][0][0][0][0]: keys and lists are nested more than 8 levels deep, want fewer"},
	{"lists over lines", filled("a = ", "[\n", ""), "8: a[0][0][0][0][0][0][0]: keys and lists are nested more than 8 levels deep, want fewer"},
	{"inline tables", filled("", "a={", ""), "1: a.a.a.a.a.a.a.a.a: keys and lists are nested more than 8 levels deep, want fewer"},
	{"lists and inline tables", filled("a=", "[{a=", ""), "1: a[0].a[0].a[0].a[0].a: keys and lists are nested more than 8 levels deep, want fewer"},
	{"long key", filled("", "k", " = 1\n"), "1: " + strings.Repeat("k", 80) + "…: the key with the tables it is in is longer than 128 bytes, want a shorter one"},
	{"long key in quotes", filled("\"", `\e`, "\" = 1\n"), `1: "` + strings.Repeat(`\x1b`, 19) + `\x1…: the key with the tables it is in is longer than 128 bytes, want a shorter one`},
	{"long table of many keys", counted("["+strings.Repeat("k", maxConfigSize/2)+"]\n", "k%x=1\n", ""), "1: " + strings.Repeat("k", 80) + "…: the key with the tables it is in is longer than 128 bytes, want a shorter one"},
	{"long prefix of many keys", counted("[k]\n", strings.Repeat("long.", 6)+"%x=1\n", ""), "14287: k.long.long.long.long.long: the file has more than 100000 keys and list elements, want fewer"},
	{"keys", counted("", "k%x=1\n", ""), "100001: k186a0: the file has more than 100000 keys and list elements, want fewer"},
	{"keys in a table of ours", counted("[sysctl]\n", "kk%x=1\n", ""), "100001: sysctl.kk1869f: the file has more than 100000 keys and list elements, want fewer"},
	{"list elements", filled("a=[", "1,", "]\n"), "1: a[99999]: the file has more than 100000 keys and list elements, want fewer"},
	{"empty VIPs", filled("vip=[", "{},", "]\n"), "1: vip[99999]: the file has more than 100000 keys and list elements, want fewer"},
	{"VIPs", filled("", "[[vip]]\n#"+strings.Repeat(".", 91)+"\n", ""), "1: vip: has 10381 elements, want at most 10000"},
	{"VIPs with a mistake each", filled("", "[[vip]]\nhealth.x=1\n", ""), ""},
	{"tables", counted("", "[a.b.k%05x]\n", ""), "33334: a.b: the file has more than 100000 keys and list elements, want fewer"},
	{"the same key", filled("", "a=1\n", ""), "100001: a: the file has more than 100000 keys and list elements, want fewer"},
	{"the same key among comments", filled("a=1\na=1\n", "#\n", ""), "2: syntax: Key 'a' has already been defined; want TOML"},
	{"groups of ports", counted(numbered("[[vip]]\nname='a'\naddresses=['10.0.0.1']\nports=[", "%d,", 45000, "]\n")+"groups=[", "[6%04d],", "]\n"), ""},
	{"real servers of the other family", counted(numbered("[[vip]]\nname='a'\nports=[1]\naddresses=[", "'fd::%x',", 30000, "]\n")+"real_servers=[", "{address='10.1.%d.300'},", "]\n"), ""},
	{"sorry servers", filled(numbered("[[vip]]\nname='a'\naddresses=['10.0.0.1']\nports=[1]\nreal_servers=[", "{address='fd::%x'},", 20000, "]\n")+"sorry_server=[", "'fd::1',", "]\n"), ""},
	{"selector", filled("[[vip]]\nname='a'\naddresses=['10.0.0.1']\nports=[1]\nselector='", "a=b,", "a=b'\n"), `5: vip[0].selector: is "a=b,a=b,`},
	{"integer", filled("a=", "1", "\n"), "1: syntax: 11111111"},
	{"word", filled("a=", "x", "\n"), "1: syntax: "},
	{"string that does not end", filled("a=\"", "x", ""), "1: syntax: unexpected EOF; expected '\"'"},
	{"lines that do not end", filled("a='''", "x\n", ""), ""},
	{"carriage returns", filled("", "\r", ""), "1: syntax: TOML files cannot contain control characters: '0x0d'"},
	{"zero bytes", filled("# text\n#", "\x00", ""), "2: syntax: TOML files cannot contain control characters: '0x00'"},
	{"no UTF-8", filled("a='", "\xff", "'\n"), "1: syntax: invalid UTF-8 byte: 0xff"},
	{"UTF-16", filled("\xff\xfe", "a\x00", ""), "1: syntax: the file is UTF-16, want UTF-8 text"},
	{"UTF-16, big end first", filled("\xfe\xff", "\x00a", ""), "1: syntax: the file is UTF-16, want UTF-8 text"},
	{"dotted keys behind the mark of UTF-16", "\xff\xfe" + strings.Repeat("k.", 8000) + "k = 1\n", "1: syntax: the file is UTF-16, want UTF-8 text"},
	{"dotted keys behind two marks", "\ufeff\xfe\xff" + strings.Repeat("k.", 8000) + "k = 1\n", "1: syntax: the file is UTF-16, want UTF-8 text"},
	{"UTF-16 without its mark", filled("", "a\x00", ""), "1: syntax: the file is UTF-16, want UTF-8 text"},
	{"UTF-16 without its mark, not only ASCII", filled("\x00#N\x2d", "\x00a", ""), "1: syntax: the file is UTF-16, want UTF-8 text"},
}

// numbered is head, n units that differ, and tail.
func numbered(head, unit string, n int, tail string) string {
	var b strings.Builder
	b.WriteString(head)
	for i := range n {
		fmt.Fprintf(&b, unit, i+1)
	}
	return b.String() + tail
}

// cpuSpent is the processor time of this process: unlike the clock it does not
// run while the machine does other things.
func cpuSpent(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// skipShort is for a test that gives one goroutine much to do. The race detector, which
// runs with -short, would take minutes for it and find nothing.
func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("too long for -short")
	}
}

// bounded is for a fuzz target: what it returns asserts, at the end of one run, that the
// run took little time and memory for an input of n bytes. The bounds are many times
// what was measured.
func bounded(t *testing.T, n int) (check func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := cpuSpent(t)
	return func() {
		t.Helper()
		took := cpuSpent(t) - start
		runtime.ReadMemStats(&after)
		if most := time.Duration(1+n>>16) * time.Second; took > most {
			t.Errorf("an input of %d bytes took %s, want at most %s", n, took, most)
		}
		if spent, most := after.TotalAlloc-before.TotalAlloc, 16<<20+4096*uint64(n); spent > most {
			t.Errorf("an input of %d bytes took %d bytes of memory, want at most %d", n, spent, most)
		}
	}
}

// A file of 1 MB is refused in a short time, whatever its content, and with little
// text. The bound is many times what was measured.
func TestHostileConfigs(t *testing.T) {
	skipShort(t)
	const moment = 5 * time.Second
	for _, test := range hostileConfigs {
		t.Run(test.name, func(t *testing.T) {
			start := cpuSpent(t)
			c, err := ParseConfig("c.toml", []byte(test.text))
			if took := cpuSpent(t) - start; took > moment {
				t.Errorf("took %s", took)
			}
			mistakes, ok := errors.AsType[ConfigErrors](err)
			if c != nil || !ok || len(mistakes.First) == 0 {
				t.Fatalf("ParseConfig = %v, %v; want mistakes", c, err)
			}
			if got, _ := strings.CutPrefix(err.Error(), "c.toml:"); !strings.HasPrefix(got, test.want) {
				t.Errorf("%.300s\nwant %s", got, test.want)
			}
			checkMistakeBounds(t, mistakes)
		})
	}
}

// checkMistakeBounds checks what every set of mistakes keeps to.
func checkMistakeBounds(t *testing.T, mistakes ConfigErrors) {
	t.Helper()
	if n := len(mistakes.First); n > maxMistakes {
		t.Errorf("%d mistakes are kept, want %d at most", n, maxMistakes)
	}
	if !slices.IsSortedFunc(mistakes.First, func(a, b ConfigError) int { return a.Line - b.Line }) {
		t.Error("the mistakes are not in line order")
	}
	for _, m := range mistakes.First {
		if text := m.Error(); len(text) > 2500 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%d bytes: %.300q", len(text), text)
		}
	}
	var line strings.Builder
	slog.New(slog.NewTextHandler(&line, nil)).Error("the configuration file is rejected; the last good one stays in force", "file", "c.toml", "err", mistakes)
	if line.Len() > 8192 {
		t.Errorf("the log line has %d bytes, want 8192 at most", line.Len())
	}
}

// The drain command reads the directories through the same bounds.
func TestLoadDirectoriesBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(filled("", "k.", "k = 1\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := LoadDirectories(path); err == nil || !strings.Contains(err.Error(), "nested more than 8 levels deep") {
		t.Errorf("LoadDirectories = %v, %v", c, err)
	}
}

// What is just inside the bounds is read.
func TestConfigBoundsAreNotTooNarrow(t *testing.T) {
	deepest := `vip = [{ name = "a", addresses = ["10.0.0.1"], ports = [80], health = { http = { status = [200] } } }]`
	if _, err := ParseConfig("c.toml", []byte(deepest)); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"keys":     "a.b.c.d.e.f.g.h = 1\n",
		"lists":    "a = [[[[[[[1]]]]]]]\n",
		"strings":  "a = \"[[[[[[[[[[\" # [[[[[[[[[[\nb = '''\na.b.c.d.e.f.g.h.i = 1\n[a.b.c.d.e.f.g.h.i]\n'''\n",
		"long key": strings.Repeat("k", maxKeyPath) + " = 1\n",
		"wide":     "a = [[1], [1], [1], [1], [1], [1], [1], [1], [1], [1]]\n",
	} {
		if lines, excess := scanKeyLines(text); excess != nil || len(lines) == 0 {
			t.Errorf("%s: %+v", name, excess)
		}
	}
	var b strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&b, "[[vip]]\nname = \"vip-%d\"\naddresses = [\"10.%d.%d.1\", \"2001:db8::%x\"]\nports = [\"80/tcp\", \"443/tcp\", \"53/udp\"]\n", i, i/256, i%256, i+1)
		b.WriteString("scheduler = \"wrr\"\nannounce = \"arp\"\nweight = 10\nnamespace = \"ingress-nginx\"\nslow_start = \"1m\"\n")
	}
	if c, err := ParseConfig("c.toml", []byte(b.String())); err != nil || len(c.VIPs) != 4000 {
		t.Errorf("4000 VIPs in %d bytes: %v", b.Len(), err)
	}
}

// The mistakes that are kept are the first in the file, in whatever order they
// are found.
func TestFirstMistakesAreKept(t *testing.T) {
	const n = 5000
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%06d = 1\n", n-i) // found from the last line to the first
	}
	_, err := ParseConfig("c.toml", []byte(b.String()))
	mistakes, _ := errors.AsType[ConfigErrors](err)
	if len(mistakes.First) != maxMistakes || mistakes.More != n+1-maxMistakes { // and no [[vip]]
		t.Fatalf("%d mistakes and %d more", len(mistakes.First), mistakes.More)
	}
	for i, m := range mistakes.First[1:] {
		if m.Line != 1+i || m.Key != fmt.Sprintf("k%06d", n-i) && m.Line > 1 {
			t.Fatalf("mistake %d is %v", i, m)
		}
	}
	checkMistakeBounds(t, mistakes)
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != mistakesInLog+1 || lines[mistakesInLog] != fmt.Sprintf("and %d more", n+1-mistakesInLog) {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
	for _, line := range lines[:mistakesInLog] {
		if !strings.Contains(line, ": unknown key, ") && !strings.Contains(line, ": missing, ") {
			t.Errorf("what is wrong is cut off: %s", line)
		}
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	_, err = ParseConfig("c.toml", []byte(b.String()))
	if kept := int64(heap() - before); kept > 4<<20 {
		t.Errorf("%d bytes are kept of mistakes", kept)
	}
	runtime.KeepAlive(err)
}

// Quotations from the file are cut on whole characters and do not break a line.
func TestMistakesQuoteLittle(t *testing.T) {
	long := strings.Repeat("ä", 1000)
	for text, want := range map[string]string{
		`interface = "` + long + `"`:            `c.toml:1: interface: is "` + strings.Repeat("ä", 80) + `"…, want a device name`,
		`listen = "` + long + `:80"`:            `c.toml:1: listen: is "` + strings.Repeat("ä", 80) + `"… ("` + strings.Repeat("ä", 159) + `…), want`,
		`"a\u0000\u001b[2J\u0085b` + `" = 1`:    `c.toml:1: "a\x00\x1b[2J\u0085b": unknown key`,
		`"` + strings.Repeat("ä", 60) + `" = 1`: `c.toml:1: "` + strings.Repeat("ä", 60) + `": unknown key`,
		`a = ` + strings.Repeat("\u200b", 1000): `c.toml:1: syntax: `,
	} {
		_, err := ParseConfig("c.toml", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.100s: %v\nwant %s", text, err, want)
		}
		if mistakes, ok := errors.AsType[ConfigErrors](err); ok {
			checkMistakeBounds(t, mistakes)
		}
	}
}

// A log line with the longest mistakes stays below 8 KB, and names 20.
func TestLongMistakesFitTheLog(t *testing.T) {
	var e ConfigErrors
	for i := range 50 {
		e.First = append(e.First, ConfigError{"/etc/lvs-controller/config.toml", i + 1, "vip[0].selector", strings.Repeat("\x00\"\\ä", 300)})
	}
	lines := strings.Split(e.Error(), "\n")
	if len(lines) != mistakesInLog+1 || lines[mistakesInLog] != "and 30 more" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
	if n := quotedLen(e.Error()); n > maxMistakesText {
		t.Errorf("%d bytes in a log line, want %d at most", n, maxMistakesText)
	}
	for i, line := range lines[:mistakesInLog] {
		if !strings.HasPrefix(line, fmt.Sprintf("/etc/lvs-controller/config.toml:%d: vip[0].selector: ", i+1)) || !strings.HasSuffix(line, "…") {
			t.Errorf("line %d: %q", i, line)
		}
	}
}

// check shows 100 mistakes, with -all those that are kept; the others show 20.
func TestCheckAll(t *testing.T) {
	path := writeConfig(t, numbered("", "k%d = 1\n", 1500, ""))
	for _, test := range []struct {
		args  []string
		lines int
		last  string
	}{
		{[]string{"check", "-config", path}, mistakesInCheck, "and 1401 more"},
		{[]string{"check", "-all", "-config", path}, maxMistakes, "and 501 more"},
		{[]string{"diff", "-config", path}, mistakesInLog, "and 1481 more"},
		{[]string{"ready", "-config", path}, mistakesInLog, "and 1481 more"},
		{[]string{"keepalived", "-config", path, "-peer", "192.0.2.9"}, mistakesInLog, "and 1481 more"},
		{[]string{"-config", path}, mistakesInLog, "and 1481 more"},
	} {
		code, _, stderr := cli(t, test.args...)
		lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
		if code != exitFailure || len(lines) != test.lines+1 || lines[len(lines)-1] != test.last {
			t.Errorf("%s: code %d, %d lines, the last is %q; want %d and %q", test.args, code, len(lines), lines[len(lines)-1], test.lines+1, test.last)
		}
	}
	// A misspelt cache_dir may be among the mistakes that are not kept.
	if code, _, stderr := cli(t, "drain", "-wait", "1ms", "-config", path); code != exitFailure || !strings.Contains(stderr, "the order to drain is not written") {
		t.Errorf("drain: code %d, %.200s", code, stderr)
	}
}

func TestLoadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if _, err := LoadConfig(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("[[vip]]\n" + goodVIP)
	if cfg, err := LoadConfig(path); err != nil || cfg.Path != path {
		t.Errorf("good file: %v, %v", cfg, err)
	}
	write(strings.Repeat("#", maxConfigSize+1))
	if _, err := LoadConfig(path); err == nil || !strings.HasSuffix(err.Error(), "is larger than 1048576 bytes") {
		t.Errorf("huge file: %v", err)
	}
}
