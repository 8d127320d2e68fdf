package main

import (
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

func TestKeyLines(t *testing.T) {
	tests := []struct {
		name string
		text string
		want keyLines // checked through line, so that fallbacks are tested too
	}{
		{"top level", "a = 1\n\n# b = 2\nb = 3 # c = 4\n", keyLines{"a": 1, "b": 4, "c": 1}},
		{"table", "x = 1\n[timeouts]\n\ntcp = '1s'\n", keyLines{"timeouts": 2, "timeouts.tcp": 4, "timeouts.udp": 2}},
		{"array of tables", "\n[[vip]]\nname = 'a'\n[[vip]] # second\nname = 'b'\n",
			keyLines{"vip": 2, "vip[0]": 2, "vip[0].name": 3, "vip[1]": 4, "vip[1].name": 5, "vip[1].weight": 4, "vip[2]": 2}},
		{"sub-table of the newest element", "[[vip]]\n[vip.drain]\ntimeout = '1s'\n[[vip]]\n[vip.drain]\n\ntimeout = '2s'\n",
			keyLines{"vip[0].drain": 2, "vip[0].drain.timeout": 3, "vip[1].drain": 5, "vip[1].drain.timeout": 7}},
		{"array of tables in one", "[[vip]]\n[[vip.server]]\na = 1\n[[vip.server]]\na = 2\n[[vip]]\n[[vip.server]]\na = 3\n",
			keyLines{"vip[0].server[0].a": 3, "vip[0].server[1].a": 5, "vip[1].server[0].a": 8}},
		{"header with blanks", " [ a . b ]\nc = 1\n[[ d ]]\ne = 1\n", keyLines{"a": 1, "a.b": 1, "a.b.c": 2, "d[0].e": 4}},
		{"dotted keys", "[[vip]]\ndrain.timeout = '1s'\na . b.\"c\" = 1\n",
			keyLines{"vip[0].drain": 2, "vip[0].drain.timeout": 2, "vip[0].a.b.c": 3}},
		{"quoted keys", "\"a.b\" = 1\n'c d' = 2\n\"e\\\"f\" = 3\n\"\\u0067\\x68\\e\" = 4\n\"\" = 5\n[\"x.y\".z]\nk = 6\n",
			keyLines{`"a.b"`: 1, `"c d"`: 2, `"e\"f"`: 3, `"gh\x1b"`: 4, `""`: 5, `"x.y".z.k`: 7, `"x.y".z.other`: 6, `"x.y".other`: 6}},
		{"header after an implied table", "[a.b]\nc = 1\n[a]\nd = 1\n", keyLines{"a": 3, "a.b": 1, "a.d": 4, "a.e": 3}},
		{"list over several lines", "ports = [\n  1, # [one]\n\n  2, 'a]',\n]\nz = 1\n",
			keyLines{"ports": 1, "ports[0]": 2, "ports[1]": 4, "ports[2]": 4, "ports[3]": 1, "z": 6}},
		{"nested lists", "a = [[1,\n2],\n[3]]\nb = 1", keyLines{"a[0]": 1, "a[0][1]": 2, "a[1][0]": 3, "b": 4}},
		{"inline tables in a list", "[[vip]]\nreal_servers = [\n  { address = '1' },\n  { address = '2', weight = 3 },\n  {\n    weight = 4,\n  },\n]\nz = 1\n",
			keyLines{"vip[0].real_servers[1].address": 4, "vip[0].real_servers[1].weight": 4, "vip[0].real_servers[2].address": 5, "vip[0].real_servers[2].weight": 6, "vip[0].z": 9}},
		{"basic string", "a = \"x\\\"\\\\\" # \"\nb = \"[t]\"\nc = 1\n", keyLines{"a": 1, "b": 2, "c": 3}},
		{"literal string", "a = 'x\\' # '\nb = 1\n", keyLines{"a": 1, "b": 2}},
		{"multi-line string", "a = \"\"\"\nb = 1\n\\\"\"\"\n[t]\n\"\"\"\"\"\nc = 1\n", keyLines{"a": 1, "b": 1, "t": 1, "c": 6}},
		{"multi-line literal", "a = '''\nb = 1\n''''\nc = 1\n", keyLines{"a": 1, "b": 1, "c": 4}},
		{"values with dots and colons", "a = 1979-05-27 07:32:00Z\nb = -1.5e3\nc = true\n", keyLines{"a": 1, "b": 2, "c": 3}},
		{"byte order mark and CRLF", "\ufeffa = 1\r\nb = [1,\r\n2]\r\nc = 1\r\n", keyLines{"a": 1, "b[1]": 3, "c": 4}},
		{"not TOML", "[\n= 1\na b = 2\n[t\nc = [1 2\nd = {x 1}\n]]\ne = 'x\nf = 1\n", keyLines{"t": 4, "t.e": 8, "t.f": 9}},
		{"empty", "", keyLines{"a": 1, "vip[3].drain": 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			lines, excess := scanKeyLines(test.text)
			if excess != nil {
				t.Fatalf("refused: %+v", excess)
			}
			got := keyLines{}
			for path := range test.want {
				got[path] = lines.line(path)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

// A file of nothing but brackets must not take memory or time with the square
// of its size: the walk ends where it is too deep.
func TestKeyLinesDeep(t *testing.T) {
	const depth = 100_000
	for _, text := range []string{
		"b = 1\na = " + strings.Repeat("[", depth) + strings.Repeat("]", depth),
		"b = 1\n" + strings.Repeat("k.", depth) + "k = 1\n",
	} {
		lines, excess := scanKeyLines(text)
		if excess == nil || excess.Line != 2 {
			t.Errorf("%.10q…: excess %+v, want one in line 2", text, excess)
		}
		if got := lines.line("b"); got != 1 {
			t.Errorf("line of b = %d, want 1", got)
		}
		if len(lines) > 1+maxKeyLevels {
			t.Errorf("%d paths noted, want at most %d", len(lines), 1+maxKeyLevels)
		}
	}
}

func FuzzKeyLines(f *testing.F) {
	for _, seed := range []string{
		"a = 1\n[b]\nc = 'x'\n[[d]]\ne.f = [1,\n{ g = \"\"\"\n\"\"\" },\n]\n[d.h]\ni = 2\n",
		"\"a.b\".'c' = { d = 1, e = [{ f = 1979-05-27 07:32:00 }] } # x\n",
		"[[a]]\n[a.b]\n[[a.b.c]]\n[[a]]\nb.c = 1\n",
		"\ufeffa = '''\r\n'''''\r\nb = \"\\\"\"\r\n",
		"a = \"\\\n[[[{,=.'",
		"\"\\u0061\\x62\\e\" = {\n# c\nx = 1,\n}\n",
		"\xff\xfea = 1\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		defer bounded(t, len(text))()
		if isUTF16(text) {
			return // the reader refuses it before
		}
		lines, excess := scanKeyLines(text)
		byNumber := strings.Split(text, "\n")
		for path, n := range lines {
			if n < 1 || n > len(byNumber) {
				t.Fatalf("%s is on line %d of %d", path, n, len(byNumber))
			}
		}
		if excess != nil {
			if excess.Line < 1 || excess.Line > len(byNumber) {
				t.Fatalf("refused on line %d of %d", excess.Line, len(byNumber))
			}
			return
		}
		raw := map[string]any{}
		if _, err := toml.Decode(text, &raw); err != nil {
			return
		}
		checkKeyLines(t, lines, byNumber, "", raw)
	})
}

// checkKeyLines verifies that every key below v has its own line and that
// the key can be read there.
func checkKeyLines(t *testing.T, lines keyLines, byNumber []string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, child := range v {
			p := joinPath(path, key)
			n, ok := lines[p]
			if !ok {
				t.Fatalf("%s has no line", p)
			}
			if text := byNumber[n-1]; !strings.Contains(text, key) && !strings.Contains(text, `\`) {
				t.Fatalf("%s is said to be on line %d: %q", p, n, text)
			}
			checkKeyLines(t, lines, byNumber, p, child)
		}
	case []map[string]any:
		for i, child := range v {
			checkKeyLines(t, lines, byNumber, indexPath(path, i), child)
		}
	case []any:
		for i, child := range v {
			checkKeyLines(t, lines, byNumber, indexPath(path, i), child)
		}
	}
}
