// Tests of config.toml.example: it has each key, and what it says is true.

package main

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// commentedKey matches a key or table that the example shows commented out.
var commentedKey = regexp.MustCompile(`(?m)^# (\[+[a-z_.]+\]+|[a-z_][a-z_0-9]* += .*)$`)

func readExample(t *testing.T) (text, full string) {
	t.Helper()
	b, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), commentedKey.ReplaceAllString(string(b), "$1")
}

// The example parses as it is and with every commented-out key in force.
func TestConfigExample(t *testing.T) {
	text, full := readExample(t)
	if text == full {
		t.Error("no commented-out key found")
	}
	for _, text := range []string{text, full} {
		if _, err := ParseConfig(exampleFile, []byte(text)); err != nil {
			t.Error(err)
		}
	}
}

// exampleKey is one key of the example with the prose above it.
type exampleKey struct{ path, prose string }

// exampleKeys lists the keys that have a text above them.
func exampleKeys(full string) []exampleKey {
	lines, _ := scanKeyLines(full)
	rows := strings.Split(full, "\n")
	var keys []exampleKey
	for path, n := range lines {
		if strings.HasSuffix(path, "]") || strings.HasPrefix(rows[n-1], "[") || strings.Contains(path, "real_servers[") {
			continue
		}
		var prose []string
		for i := n - 2; i >= 0 && strings.HasPrefix(rows[i], "# "); i-- {
			prose = append(prose, rows[i][2:])
		}
		slices.Reverse(prose)
		keys = append(keys, exampleKey{path, strings.Join(prose, " ")})
	}
	slices.SortFunc(keys, func(a, b exampleKey) int { return strings.Compare(a.path, b.path) })
	return keys
}

// Every key that the parser knows is in the example, with meaning and default.
func TestConfigExampleIsComplete(t *testing.T) {
	_, full := readExample(t)
	lines, _ := scanKeyLines(full)
	// The mistake about a key that no table has names those that the table has.
	const unknown = "unknown_key_that_is_like_no_other"
	wrong := regexp.MustCompile(`(?m)^\[.*\]$`).ReplaceAllString(full, "$0\n"+unknown+" = 1")
	wrong = unknown + " = 1\n" + strings.ReplaceAll(wrong, "{ ", "{ "+unknown+" = 1, ")
	_, err := ParseConfig(exampleFile, []byte(wrong))
	mistakes, _ := errors.AsType[ConfigErrors](err)
	known := 0
	for _, m := range mistakes.First {
		table, ok := strings.CutSuffix(m.Key, unknown)
		_, keys, listed := strings.Cut(m.Msg, "unknown key, want one of ")
		if !ok || !listed {
			continue
		}
		for key := range strings.SplitSeq(keys, ", ") {
			known++
			if _, ok := lines[table+key]; !ok {
				t.Errorf("%s is not in %s", table+key, exampleFile)
			}
		}
	}
	if known < 80 {
		t.Errorf("the parser looked for %d keys alone: %v", known, err)
	}
	for _, key := range exampleKeys(full) {
		if !strings.Contains(key.prose, "Default: ") && !strings.HasSuffix(key.prose, " Required.") {
			t.Errorf("%s: neither Default nor Required in %q", key.path, key.prose)
		}
	}
}

// neededKeys are the keys without which others mean nothing: lines of the same
// table, or of the VIP.
var neededKeys = map[string]string{
	"marks.first":                "count = 1\n",
	"marks.count":                "first = 1\n",
	"events.token_file":          "webhook = 'http://hooks.example'\n",
	"sync.syncid":                "interface = 'eth1'\n",
	"sync.group":                 "interface = 'eth1'\n",
	"sync.port":                  "interface = 'eth1'\n",
	"sync.ttl":                   "interface = 'eth1'\n",
	"sync.maxlen":                "interface = 'eth1'\n",
	"vip[0].lower_threshold":     "upper_threshold = 4294967295\n",
	"vip[0].slow_start":          "scheduler = 'wrr'\nweight = 10\n",
	"vip[0].persistence.timeout": "persistence.netmask = 32\n",
	"vip[0].persistence.netmask": "persistence.prefix = 128\n",
	"vip[0].persistence.prefix":  "persistence.netmask = 32\n",
	"vip[0].persistence.engine":  "persistence.netmask = 32\n",
	"vip[0].tunnel.type":         "forward = 'tunnel'\n",
	"vip[0].tunnel.port":         "forward = 'tunnel'\ntunnel.type = 'gue'\n",
	"vip[0].tunnel.checksum":     "forward = 'tunnel'\ntunnel.type = 'gue'\n",

	"vip[0].health.ports":               "health.tcp = 80\n",
	"vip[0].health.datapath":            "health.tcp = 80\n",
	"vip[0].health.interval":            "health.tcp = 80\n",
	"vip[0].health.timeout":             "health.tcp = 80\nhealth.interval = '1m'\n",
	"vip[0].health.rise":                "health.tcp = 80\n",
	"vip[0].health.fall":                "health.tcp = 80\n",
	"vip[0].health.connects_per_second": "health.tcp = 80\n",
	"vip[0].health.quorum":              "selector = 'a=b'\nhealth.tcp = 80\n",
	"vip[0].health.hysteresis":          "selector = 'a=b'\nhealth.tcp = 80\nhealth.quorum = 1\n",
	"vip[0].health.below_quorum":        "selector = 'a=b'\nhealth.tcp = 80\nhealth.quorum = 1\n",
	"vip[0].health.http.port":           "health.http.path = '/healthz'\n",
	"vip[0].health.http.path":           "health.http.port = 10254\n",
	"vip[0].health.http.host":           "health.http.port = 10254\n",
	"vip[0].health.http.tls":            "health.http.port = 10254\n",
	"vip[0].health.dns.port":            "health.dns.name = '.'\n",
	"vip[0].health.dns.name":            "health.dns.port = 53\n",
	"vip[0].health.dns.type":            "health.dns.port = 53\n",
	"vip[0].health.udp.send":            "health.udp.port = 9\n",
	"vip[0].health.udp.answer":          "health.udp.port = 9\n",
	"vip[0].health.udp.answer_required": "health.udp.port = 9\n",
}

// withKey returns a valid file with one key set, at the path that the example
// gives it, and those it needs; KEY = "" leaves the key itself out.
func withKey(path, literal string) string {
	head, body, tail := "", goodVIP, ""
	if path == "vip[0].ports" {
		body = strings.Replace(goodVIP, "ports = [80]", `tcp_services = "t"`, 1)
	}
	table, key, found := strings.Cut(path, ".")
	if !found {
		table, key = "", path
	}
	lines := neededKeys[path]
	if literal != "" {
		lines += key + " = " + literal + "\n"
	}
	switch table {
	case "":
		head = lines
	case "vip[0]":
		tail = lines // the key may be dotted: drain.timeout
	default:
		head = "[" + table + "]\n" + lines
	}
	return head + "[[vip]]\n" + body + tail
}

// The defaults and ranges that the example gives are those of the parser.
func TestConfigExampleIsTrue(t *testing.T) {
	var (
		defaults = regexp.MustCompile(`Default: ("[^"]*"|\[\]|true|false|0x[0-9]+|[0-9]+)\.$`)
		ranges   = regexp.MustCompile(`Range: (\S+) to (\S+)\. `)
		checked  = 0
	)
	parse := func(text string) *Config {
		t.Helper()
		c, err := ParseConfig(exampleFile, []byte(text))
		if err != nil {
			t.Errorf("%v in:\n%s", err, text)
		}
		return c
	}
	_, full := readExample(t)
	for _, key := range exampleKeys(full) {
		if m := defaults.FindStringSubmatch(key.prose); m != nil {
			checked++
			if diff := cmp.Diff(parse(withKey(key.path, "")), parse(withKey(key.path, m[1])), compareAddrs); diff != "" {
				t.Errorf("%s: the default is not %s (-default +that):\n%s", key.path, m[1], diff)
			}
		}
		if m := ranges.FindStringSubmatch(key.prose); m != nil {
			checked++
			quote := ""
			if _, err := time.ParseDuration(m[2]); err == nil {
				quote = `"`
			}
			parse(withKey(key.path, quote+m[1]+quote))
			parse(withKey(key.path, quote+m[2]+quote))
			below := "-1"
			if n, err := strconv.Atoi(m[1]); err == nil && n < 0 {
				below = strconv.Itoa(n - 1)
			}
			_, err := ParseConfig(exampleFile, []byte(withKey(key.path, below)))
			if want := "from " + m[1] + " to " + m[2]; err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("%s = %s: %v, want ... %s", key.path, below, err, want)
			}
		}
	}
	if checked < 60 {
		t.Errorf("only %d defaults and ranges found in %s", checked, exampleFile)
	}
}
