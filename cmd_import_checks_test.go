// What `import` makes of the checkers of a keepalived.conf.

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkedConf is a virtual server that has one real server with a checker.
const checkedConf = "virtual_server 10.0.0.1 53 {\nprotocol UDP\nlb_kind DR\ndelay_loop 10\n%\n}\n"

// Checkers become these lines of [vip.health], and these comments.
func TestImportCheckers(t *testing.T) {
	const usual = "[vip.health]\ninterval = \"10s\"\ntimeout = \"5s\"\nrise = 1\nfall = 2\n"
	slow := strings.Replace(usual, "fall = 2", "fall = 4", 1)
	server := func(checkers string) string { return "real_server 10.0.0.2 53 {\n" + checkers + "\n}" }
	url := func(lines string) string { return server("HTTP_GET {\nurl {\npath /a\n" + lines + "\n}\n}") }
	request := func(more string) string {
		return usual + "[vip.health.http]\nport = 53\npath = \"/a\"\nstatus = [\"200-299\"]\n" + more
	}
	udp := func(lines string) string { return server("UDP_CHECK {\n" + lines + "\n}") }
	datagram := func(more string) string { return usual + "[vip.health.udp]\nport = 53\n" + more }
	const says = "send = \"keepalived check - keepalived ch\"\n"
	for _, test := range []struct{ lines, want, remarks string }{
		{server("DNS_CHECK"), slow + "[vip.health.dns]\nport = 53\nname = \".\"\ntype = \"SOA\"\n", ""},
		{server("DNS_CHECK {\ntype aaaa\nname _a.example\nconnect_port 5353\nretry 1\nconnect_ip 10.0.0.2\nfwmark 3\n}"),
			usual + "[vip.health.dns]\nport = 5353\nname = \"_a.example\"\ntype = \"AAAA\"\n", "12: fwmark: a probe sets no mark\n"},
		{server("DNS_CHECK {\ntype HINFO\n}"), slow + "[vip.health.dns]\nport = 53\nname = \".\"\ntype = \"SOA\"\n", "7: type: keepalived does not know \"HINFO\" either, and asks for SOA\n"},
		{server("DNS_CHECK { type RRSIG }"), "", "6: DNS_CHECK: no probe asks for the type RRSIG\n"},
		{server("DNS_CHECK { name a..b }"), "", "6: DNS_CHECK: its name \"a..b\" is none that a probe can ask for\n"},
		{server("DNS_CHECK { connect_ip 10.0.0.3 }"), "", "6: DNS_CHECK: it connects to \"10.0.0.3\", and a probe to the real server's own address\n"},
		{server("DNS_CHECK { name a }") + "\nreal_server 10.0.0.3 53 {\nDNS_CHECK { name b }\n}", slow + "[vip.health.dns]\nport = 53\nname = \"a\"\ntype = \"SOA\"\n", "9: DNS_CHECK: a VIP has one dns probe\n"},

		{server("UDP_CHECK"), datagram(says + "answer_required = false\n"), ""},
		{udp("payload 0a0B \"0c d\"\nrequire_reply"), datagram("send = \"hex:0a0b0c0d\"\n"), ""},
		{udp("payload \"68 6f\"\nrequire_reply 68 69 \nconnect_port 99"), strings.Replace(datagram("send = \"ho\"\nanswer = \"hi\"\n"), "port = 53", "port = 99", 1),
			"8: require_reply: an answer that is shorter is a failure; to keepalived it is none\n"},
		{udp("payload 6865783a\nrequire_reply 68xX 69"), datagram("send = \"hex:6865783a\"\nanswer = \"h\"\n"), "8: require_reply: answer has no x for any digit; the bytes before the first are compared\n"},
		{udp("payload 0g\nrequire_reply zz"), datagram(says), "7: payload: these are no hexadecimal digits, and keepalived sends \"keepalived check - keepalived ch\"\n8: require_reply: these are no hexadecimal digits, and keepalived takes any reply\n"},
		{udp("min_reply_length 5\nmax_reply_length 9"), datagram(says + "answer_required = false\n"), "7: min_reply_length: answer says how one begins, and nothing says its length\n8: max_reply_length: answer says how one begins, and nothing says its length\n"},
		{udp("payload " + strings.Repeat("00", maxDatagram+1)), "", "6: UDP_CHECK: its payload has more than 1200 bytes\n"},
		{udp("require_reply " + strings.Repeat("00", maxDatagram+1)), "", "6: UDP_CHECK: its reply has more than 1200 bytes\n7: require_reply: an answer that is shorter is a failure; to keepalived it is none\n"},
		{server("UDP_CHECK") + "\nreal_server 10.0.0.3 53 {\nUDP_CHECK { payload 00 }\n}", datagram(says + "answer_required = false\n"), "9: UDP_CHECK: a VIP has one udp probe\n"},

		{url(""), request(""), ""},
		{url("regex \"^v[0-9$]+ \\\\d\\\\.(?i)x$\""), request("body_match = \"^v[0-9$]+ \\\\d\\\\.(?i)x\\\\n?$\"\n"), ""},
		{url("regex \"say \\\"hi\\\" {2}\""), request("body_match = \"say \\\"hi\\\" {2}\"\n"), ""},
		{url("regex 'up'\nregex_stack 1 2"), request("body_match = \"up\"\n"), ""},
		{url("regex two words"), request(""), "9: regex: it is not one pattern of printable ASCII in double quotes\n"},
		{url("regex \"a\\nb\""), request(""), "9: regex: it is not one pattern of printable ASCII in double quotes\n"},
		{url("regex é"), request(""), "9: regex: its pattern has characters that are not printable ASCII\n"},
		{url("regex \"(?=a)\""), request(""), "9: regex: its pattern has what PCRE2 and RE2 do not read alike\n"},
		{url("regex \"a)\""), request(""), "9: regex: its pattern is none of RE2\n"},
		{url("regex " + strings.Repeat("a", maxPattern+1)), request(""), "9: regex: its pattern has more than 512 characters\n"},
		{url("regex x\nregex_no_match"), request(""), "9: regex: body_match has nothing like its regex_no_match\n"},
		{url("regex x\nregex_options caseless"), request(""), "9: regex: body_match has nothing like its regex_options\n"},
		{url("regex_min_offset 3\nsurprise"), request(""), "10: surprise: this keyword is not known\n"},
		{url("digest 00\nvirtualhost b.example"), strings.Replace(request(""), "status", "host = \"b.example\"\nstatus", 1),
			"9: digest: it is an MD5 sum, and body_sha256 is another one: curl -s -H 'Host: b.example' 'http://10.0.0.2:53/a' | sha256sum prints that\n"},
		{url("status_code 600"), "", "6: HTTP_GET: its status_code \"600\" is not from 100 to 599\n"},
		{url("status_code"), "", "6: HTTP_GET: its status_code is empty\n"},
		{url("virtualhost _"), "", "6: HTTP_GET: its virtualhost \"_\" is no host name\n"},
		{server("HTTP_GET { connect_port 80 }"), "", "6: HTTP_GET: it has no url\n"},
		{server("SSL_GET {\nurl { path /a }\nurl {\npath /b\nstatus_code 204 301-302\n}\nvirtualhost a.example\nnb_get_retry 1\nwarmup 0\nhttp_protocol 1.1\nsni_name x\n}"),
			usual + "[[vip.health.http]]\nport = 53\npath = \"/a\"\nhost = \"a.example\"\nstatus = [\"200-299\"]\ntls = true\n" +
				"[[vip.health.http]]\nport = 53\npath = \"/b\"\nhost = \"a.example\"\nstatus = [204, \"301-302\"]\ntls = true\n", "16: sni_name: with TLS the server name is that of virtualhost\n"},
		{url("") + "\nreal_server 10.0.0.3 53 {\nHTTP_GET {\nurl { path /b }\n}\nHTTP_GET {\nconnect_port 53\nurl { path /a }\n}\n}", request(""),
			"14: HTTP_GET: its url \"/b\" is none of the first real server, and a VIP asks all of them the same\n"},
		{server("HTTP_GET {\nurl { path /a }\nurl { path /b }\n}") + "\nreal_server 10.0.0.3 53 {\nHTTP_GET { url { path /b } }\n}",
			strings.Replace(request(""), "[vip.health.http]", "[[vip.health.http]]", 1) + "[[vip.health.http]]\nport = 53\npath = \"/b\"\nstatus = [\"200-299\"]\n",
			"11: real server 10.0.0.3: it has fewer urls than the first real server, and the VIP's probes ask it for all of them\n"},
		{server("HTTP_GET {\n" + strings.Repeat("url { path /a }\n", 20) + "}"), request(""), ""},
	} {
		text, count := importConf(t, strings.Replace(checkedConf, "%", test.lines, 1))
		checkResult(t, text, count)
		if count.taken != 1 {
			t.Errorf("%q: %+v", test.lines, count)
		}
		_, health, _ := strings.Cut(text, "[vip.health]\n")
		if health != "" {
			health = "[vip.health]\n" + health
		}
		if diff := cmp.Diff(test.want, health); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.lines, diff)
		}
		var remarks strings.Builder
		for line := range strings.Lines(text) {
			if _, comment, is := strings.Cut(line, "/k.conf:"); is && strings.HasPrefix(strings.TrimSpace(line), "#") {
				remarks.WriteString(comment)
			}
		}
		if diff := cmp.Diff(test.remarks, remarks.String()); diff != "" {
			t.Errorf("%q, comments (-want +got):\n%s", test.lines, diff)
		}
	}
	// More urls than a VIP has requests.
	var urls strings.Builder
	for n := range maxURLs + 1 {
		fmt.Fprintf(&urls, "url { path /%d }\n", n)
	}
	text, count := importConf(t, strings.Replace(checkedConf, "%", server("HTTP_GET {\n"+urls.String()+"}"), 1))
	checkResult(t, text, count)
	if n := strings.Count(text, "[[vip.health.http]]\n"); n != maxURLs || !strings.Contains(text, `its url "/16" is one too many, a VIP has 16`) {
		t.Errorf("%d requests in\n%s", n, text)
	}
}

// A pattern is taken when each of its signs means the same to PCRE2 and RE2.
func TestReadAlike(t *testing.T) {
	for pattern, want := range map[string]bool{
		"": true, "a.*b+?[^x-z]{2,3}|(c)": true, `\d\D\w\W\s\S\.\-\\`: true, "(?:a)(?i)b(?s:c)": true,
		"[]$]": true, "[^]$]x": true, "[[:alpha:]$]": true, `[\]$]`: true, "[a[b]": true, `[\d-]`: true,
		"a$b": false, "[]$": false, "[a]$": false, `[[:alpha:]$`: false, `a\`: false, `\bx`: false, `\v`: false, `\1`: false, `\Qa`: false, `(\d\h)`: false,
		"(?=a)": false, "(?P<n>a)": false, "(?m)a": false, "(?x)a": false, "(?>a)": false, "(?#a)": false, "(*UTF)a": false, "a{,3}": false, "a{ 1}": false, "[": false,
	} {
		if got := readAlike(pattern); got != want {
			t.Errorf("%q: %t", pattern, got)
		}
	}
}

// randomConf draws a keepalived.conf with each keyword of checkers, with good values and
// bad ones.
func randomConf(r *rand.Rand) string {
	var b strings.Builder
	some := func(of int, lines ...string) {
		if r.IntN(of) == 0 {
			b.WriteString(pick(r, lines...) + "\n")
		}
	}
	common := func() {
		some(3, "connect_port 80", "connect_port 8053", "connect_port 0", "connect_port http")
		some(4, "connect_timeout 1", "connect_timeout 90", "connect_timeout x", "delay_loop 3", "retry 0", "retry 200", "retry y", "delay_before_retry 2")
		some(6, "bindto 10.0.0.9", "bind_if eth0", "bind_port 9", "fwmark 1", "warmup 3", "warmup 0", "alpha", "alpha no", "log_all_failures", "connect_ip 10.0.1.9", "surprise")
	}
	for n := range 1 + r.IntN(4) {
		fmt.Fprintf(&b, "virtual_server %s %d {\nprotocol %s\nlb_kind DR\n", pick(r, "10.0.0.1", "10.0.0.2", "2001:db8::1"), 80+n%3, pick(r, "TCP", "UDP", "SCTP"))
		some(2, "quorum 2", "quorum 3", "quorum 99", "quorum 0", "quorum x")
		some(3, "hysteresis 1", "hysteresis 9", "hysteresis x")
		some(2, "sorry_server 10.0.1.99 80", "sorry_server 2001:db8:1::99 80")
		some(4, "weight 2", "weight x", "quorum_down \"/bin/x y\"", "quorum_up /bin/x", "delay_loop 2", "alpha", "virtualhost a.example")
		for i := range 1 + r.IntN(4) {
			fmt.Fprintf(&b, "real_server %s%d 80 {\n", pick(r, "10.0.1.", "10.0.1.", "2001:db8:1::"), i+1)
			some(3, "weight 2", "weight 0", "weight 70000")
			for range r.IntN(4) {
				switch kind := pick(r, "TCP_CHECK", "HTTP_GET", "SSL_GET", "DNS_CHECK", "UDP_CHECK", "PING_CHECK", "MISC_CHECK"); kind {
				case "HTTP_GET", "SSL_GET":
					b.WriteString(kind + " {\n")
					common()
					some(3, "virtualhost b.example", "virtualhost \"\"", "http_protocol 1.0", "http_protocol 1.1", "sni_name x", "enable_sni", "fast_recovery", "nb_get_retry 2")
					for range r.IntN(4) {
						b.WriteString("url {\n")
						some(2, "path /a", "path \"/b c\"", "path \"/x?y=1\"", "path x")
						some(3, "status_code 200", "status_code 200-204 301", "status_code 99", "status_code", "virtualhost c.example", "virtualhost é")
						some(3, `regex "^ok$"`, `regex "a\"b"`, `regex "a\\d+"`, `regex (x`, `regex "("`, `regex "\\x41"`, "regex 'it'", "regex "+strings.Repeat("z", 600))
						some(4, "regex_no_match", "regex_options caseless", "regex_min_offset 3", "regex_max_offset 9", "regex_stack 1 2", "digest 0123", "tls_compliant")
						b.WriteString("}\n")
					}
				case "DNS_CHECK":
					b.WriteString(kind + " {\n")
					common()
					some(2, "type A", "type txt", "type RRSIG", "type x", "type")
					some(2, "name .", "name a.example.", "name ..", "name", "name "+strings.Repeat("a.", 200))
				case "UDP_CHECK":
					b.WriteString(kind + " {\n")
					common()
					some(2, "payload 00 ff", "payload 6869", "payload x", "payload", "payload "+strings.Repeat("ab", 1300), "payload 6865783a7a")
					some(2, "require_reply", "require_reply 68xx", "require_reply q", "require_reply 22 5c 0", "min_reply_length 4", "max_reply_length 4")
				default:
					b.WriteString(kind + " {\n")
					common()
				}
				b.WriteString("}\n")
			}
			b.WriteString("}\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// Two thousand random configurations with checkers: each result is valid, no VIP becomes a
// comment because of its probes, and the same file gives the same text again.
func TestImportOfAnyConf(t *testing.T) {
	skipShort(t)
	random := rand.New(rand.NewPCG(4, 11))
	var kinds [len(probeKinds)]int
	quorums, several, matches := 0, 0, 0
	for range 2000 {
		conf := randomConf(random)
		text, count := importConf(t, conf)
		checkResult(t, text, count)
		if strings.Contains(text, "config.toml refuses it") {
			t.Fatalf("%s\nof\n%s", text, conf)
		}
		if count.vips == 0 {
			continue
		}
		cfg, err := ParseConfig("config.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range cfg.VIPs {
			p := v.Probes
			if p == nil {
				continue
			}
			for _, k := range p.kinds() {
				kinds[k]++
			}
			if p.Quorum.Least > 0 {
				quorums++
			}
			if len(p.HTTP) > 1 {
				several++
			}
			for _, h := range p.HTTP {
				if h.Body.wanted() {
					matches++
				}
			}
		}
	}
	for k, n := range kinds {
		if n < 100 != (probeKind(k) == probeDataPath) {
			t.Errorf("%d VIPs have %s", n, probeKind(k))
		}
	}
	if quorums < 20 || several < 20 || matches < 20 {
		t.Errorf("%d quorums, %d VIPs with several requests, %d patterns", quorums, several, matches)
	}
}

// The checkers of a real server that is not taken probe nothing, and one whose checkers are
// of another kind than those of the others has a comment.
func TestImportCheckersOfEachServer(t *testing.T) {
	refused := strings.Replace(checkedConf, "%", "real_server 10.0.1.1 53 {\n}\nreal_server 10.0.1.2 53 {\n}\nreal_server 10.0.1.3 53 {\nuthreshold 100\nUDP_CHECK {\n}\n}\n", 1)
	text, _ := importConf(t, refused)
	cfg, err := ParseConfig("config.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if v := cfg.VIPs[0]; v.Probes != nil || len(v.RealServers) != 2 || !strings.Contains(text, "10.0.1.3: not taken: ") {
		t.Errorf("probes %+v of\n%s", v.Probes, text)
	}
	mixed := strings.Replace(checkedConf, "%", "real_server 10.0.1.1 80 {\nHTTP_GET {\nurl {\npath /\n}\n}\n}\nreal_server 10.0.1.2 80 {\nTCP_CHECK {\nconnect_port 8080\n}\n}\nreal_server 10.0.1.3 80 {\n}\n", 1)
	text, _ = importConf(t, mixed)
	for _, want := range []string{
		"10.0.1.1: it has no checker of the kind tcp, and the VIP's probes ask it too",
		"10.0.1.2: it has no checker of the kind http, and the VIP's probes ask it too",
		"10.0.1.3: it has none of the checkers that are taken, and the VIP's probes ask it too",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// What is lost of a sorry server is a comment.
func TestImportSorryServerSettings(t *testing.T) {
	text, _ := importConf(t, strings.Replace(checkedConf, "%", "sorry_server 10.0.0.9 8080\nsorry_server_inhibit\nreal_server 10.0.1.1 53 {\n}\n", 1))
	for _, want := range []string{"sorry_server_inhibit: the sorry server is a row", "sorry_server 10.0.0.9 port 8080: keepalived passes its port over"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
