package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVIPsFile(t *testing.T) {
	long := strings.Repeat("9", 200)
	for _, tt := range []struct {
		text string
		want []string
		err  string
	}{
		{text: "10.0.0.1\n", want: []string{"10.0.0.1"}},
		{text: "# of the edge\r\n\n  10.0.0.1 # web\r\n2001:DB8::1\n10.0.0.1", want: []string{"10.0.0.1", "2001:db8::1"}},
		{text: "::ffff:10.0.0.1", want: []string{"10.0.0.1"}},
		{text: "none\n"},
		{text: " none # for now\n# 10.0.0.1\n"},
		{text: "", err: `vips: no address in it; the line "none" alone means that the node has no VIP`},
		{text: "\n# nothing\n", err: `vips: no address in it; the line "none" alone means that the node has no VIP`},
		{text: "10.0.0.1\nnone\n", err: `vips:2: "none" beside addresses: want the one or the others`},
		{text: "10.0.0.1\n10.0.0\n", err: `vips:2: "10.0.0": want a unicast IPv4 or IPv6 address such as "10.135.22.77"`},
		{text: "10.0.0.1, 10.0.0.2", err: `vips:1: "10.0.0.1, 10.0.0.2": want a unicast IPv4 or IPv6 address such as "10.135.22.77"`},
		{text: "10.0.0.1/32", err: `vips:1: "10.0.0.1/32": want a unicast IPv4 or IPv6 address such as "10.135.22.77"`},
		{text: "127.0.0.1", err: `vips:1: "127.0.0.1": want a unicast IPv4 or IPv6 address such as "10.135.22.77"`},
		{text: "fe80::1%eth0", err: `vips:1: "fe80::1%eth0": want a unicast IPv4 or IPv6 address such as "10.135.22.77"`},
		{text: "\x00\n" + long, err: `vips:1: "\x00": want a unicast IPv4 or IPv6 address such as "10.135.22.77"`},
		{text: long, err: fmt.Sprintf(`vips:1: %q: want a unicast IPv4 or IPv6 address such as "10.135.22.77"`, shorten(long, quotedText))},
	} {
		vips, err := parseVIPsFile("vips", tt.text)
		var got []string
		for _, a := range vips {
			got = append(got, a.String())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.text, diff)
		}
		if text := fmt.Sprint(err); (err != nil || tt.err != "") && text != tt.err {
			t.Errorf("%q: %s\nwant %s", tt.text, text, tt.err)
		}
	}
}

func TestReadVIPs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vips")
	write := func(size int) {
		t.Helper()
		if err := os.WriteFile(path, []byte("10.0.0.1\n"+strings.Repeat("#", size)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(100)
	if vips, err := readVIPs(path); len(vips) != 1 || err != nil {
		t.Errorf("%v, %v", vips, err)
	}
	write(vipsFileMost)
	for _, wrong := range []string{path, dir, filepath.Join(dir, "absent")} {
		if vips, err := readVIPs(wrong); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v, %v", wrong, vips, err)
		}
	}
}

// What a file gives are addresses that a node can have, each once, and the same again from
// what it means. A mistake is one short line.
func FuzzVIPsFile(f *testing.F) {
	for _, text := range []string{"10.0.0.1\n2001:db8::1 # web\n", "none", "none\n10.0.0.1", "", "#", "::ffff:10.0.0.1\r\n10.0.0.1", "fe80::1%\"\n", "10.0.0.1\x00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > vipsFileMost { // which readVIPs refuses
			return
		}
		check := bounded(t, len(text))
		vips, err := parseVIPsFile("vips", text)
		check()
		if err != nil {
			if line := err.Error(); vips != nil || strings.Contains(line, "\n") || len(line) > 8*quotedText {
				t.Errorf("%d VIPs with the error %q", len(vips), line)
			}
			return
		}
		again := noVIPs
		seen := make(map[netip.Addr]bool)
		for i, a := range vips {
			if notVIP(a) != nil || seen[a] || a.Is4In6() {
				t.Errorf("VIP %d is %s", i, a)
			}
			seen[a] = true
			again = strings.TrimPrefix(again, noVIPs) + a.String() + "\n"
		}
		if got, err := parseVIPsFile("vips", again); !cmp.Equal(got, vips, compareAddrs) || err != nil {
			t.Errorf("%q became %v, then %v (%v)", text, vips, got, err)
		}
	})
}
