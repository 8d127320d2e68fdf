package main

import (
	"net/netip"
	"strings"
	"testing"
)

func TestHTTPRequest(t *testing.T) {
	for _, test := range []struct {
		probe    HTTPProbe
		to, want string
	}{
		{HTTPProbe{Path: "/healthz"}, "10.0.0.5:10254", "GET /healthz HTTP/1.1\r\nHost: 10.0.0.5:10254\r\n"},
		{HTTPProbe{Path: "/"}, "[2001:db8::5]:80", "GET / HTTP/1.1\r\nHost: [2001:db8::5]:80\r\n"},
		{HTTPProbe{Path: "/a?b=c", Host: "shop.example"}, "10.0.0.5:80", "GET /a?b=c HTTP/1.1\r\nHost: shop.example\r\n"},
	} {
		want := test.want + "User-Agent: lvs-controller/" + version + "\r\nAccept: */*\r\nConnection: close\r\n\r\n"
		if got := string(httpRequest(&test.probe, netip.MustParseAddrPort(test.to))); got != want {
			t.Errorf("request %q, want %q", got, want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	for _, test := range []struct {
		answer string
		want   uint16
		wrong  bool
	}{
		{"", 0, false},
		{"HT", 0, false},
		{"HTTP/1.1 200 O", 0, false},
		{"HTTP/1.1 200 OK\r\n", 200, false},
		{"HTTP/1.0 503 Service Unavailable\r\nX: y\r\n\r\nbody", 503, false},
		{"HTTP/1.1 404\r\n", 404, false},
		{"HTTP/1.1 404 \n", 404, false},
		{"HTTP/1.1 101 Switching Protocols\r\n", 101, false},
		{"HTTP/1.1 100 Continue\r\n", 0, false},
		{"HTTP/1.1 100 Continue\r\n\r\n", 0, false},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", 200, false},
		{"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\nHTTP/1.1 500 No\r\n", 500, false},
		{"HTTP/1.1 103 Early Hints\r\nLink: </a>", 0, false},
		{"HTTP/1.1 100 Continue\r\n\r\nnonsense", 0, true},
		{"HTTP/2 200\r\n", 0, true},
		{"HTTP/1.1 99 Low\r\n", 0, true},
		{"HTTP/1.1 099 Low\r\n", 0, true},
		{"HTTP/1.1 2000 High\r\n", 0, true},
		{"HTTP/1.1 2x0 OK\r\n", 0, true},
		{"HTTP/1.1  200 OK\r\n", 0, true},
		{"HTTP/1.1\r\n", 0, true},
		{"SSH-2.0-OpenSSH_9.2\r\n", 0, true},
		{"\r\nHTTP/1.1 200 OK\r\n", 0, true},
		{"HTTP/1.1 200 " + strings.Repeat("x", maxAnswer), 0, true},
		{"HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", maxAnswer), 0, true},
	} {
		got, err := parseStatus([]byte(test.answer))
		if got != test.want || (err != nil) != test.wrong {
			t.Errorf("%.40q: %d, %v; want %d, error %t", test.answer, got, err, test.want, test.wrong)
		}
	}
}

// Whatever a node answers, and in whatever pieces, the answer is a status, a
// wish for more or an error.
func FuzzParseStatus(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 503\n"))
	f.Add([]byte("HTTP/1.1 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		final, finalErr := uint16(0), error(nil)
		for n := 0; n <= min(len(b), maxAnswer); n++ {
			status, err := parseStatus(b[:n])
			if status != 0 && (status < 100 || status > 999 || err != nil) {
				t.Fatalf("%q: status %d, %v", b[:n], status, err)
			}
			if n == maxAnswer && status == 0 && err == nil {
				t.Fatal("more is wanted than will be read")
			}
			if final != 0 && status != final || finalErr != nil && err == nil {
				t.Fatalf("%q: %d, %v after %d, %v", b[:n], status, err, final, finalErr)
			}
			final, finalErr = status, err
		}
	})
}
