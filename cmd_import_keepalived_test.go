// What `import` reads of a keepalived.conf.

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writeConf writes a keepalived.conf and returns its path.
func writeConf(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "k.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// importConf is the result for a keepalived.conf of the host "here".
func importConf(t *testing.T, text string) (string, importCount) {
	t.Helper()
	found, err := importKeepalived(writeConf(t, text), "here", nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return found.configuration()
}

// drSamples are the sample files of keepalived that have virtual servers by address, and
// the table that each gives with direct routing in place of NAT. The samples for
// fwmark, IPv6 and groups come after them.
var drSamples = map[string]string{
	"HTTP_GET.port": "-A -t 192.168.200.100:443 -s rr -p 50\n-a -t 192.168.200.100:443 -r 192.168.201.100:443 -g -w 1\n",
	"IPv6":          "-A -t [ae00::1]:80 -s rr -p 50\n-a -t [ae00::1]:80 -r [ae00::10]:80 -g -w 1\n",
	"PING_CHECK":    "-A -u 10.10.10.2:1358 -s rr -p 50\n-a -u 10.10.10.2:1358 -r 192.168.200.6:1358 -g -w 1\n",
	"SMTP_CHECK": "-A -t 192.168.200.100:25 -s rr\n-a -t 192.168.200.100:25 -r 172.16.1.10:25 -g -w 1\n" +
		"-a -t 192.168.200.100:25 -r 172.16.1.11:25 -g -w 1\n-a -t 192.168.200.100:25 -r 172.16.1.12:25 -g -w 1\n",
	"SSL_GET": "-A -t 192.168.200.100:80 -s rr -p 50\n-a -t 192.168.200.100:80 -r 192.168.201.100:80 -g -w 1\n" +
		"-A -t 192.168.200.100:443 -s rr -p 50\n-a -t 192.168.200.100:443 -r 192.168.201.100:443 -g -w 1\n",
	"UDP_CHECK":       "-A -u 10.10.10.2:1358 -s rr -p 50\n-a -u 10.10.10.2:1358 -r 192.168.200.6:1358 -g -w 1\n",
	"inhibit":         "-A -t 10.10.10.2:1358 -s rr -p 50\n-a -t 10.10.10.2:1358 -r 192.168.200.2:1358 -g -w 1\n",
	"misc_check":      "-A -t 10.10.10.2:1358 -s rr -p 50\n-a -t 10.10.10.2:1358 -r 192.168.200.6:1358 -g -w 1\n",
	"misc_check_arg":  "-A -t 10.10.10.2:1358 -s rr -p 50\n-a -t 10.10.10.2:1358 -r 192.168.200.6:1358 -g -w 1\n",
	"quorum":          "-A -t 10.0.1.1:80 -s wrr -p 900\n" + quorumRows(),
	"sample":          "-A -t 10.10.10.2:1358 -s rr -p 50\n-a -t 10.10.10.2:1358 -r 192.168.200.2:1358 -g -w 1\n",
	"status_code":     "-A -t 192.168.200.100:443 -s rr -p 50\n-a -t 192.168.200.100:443 -r 192.168.201.100:443 -g -w 1\n",
	"virtualhost":     "-A -t 192.168.200.100:80 -s rr -p 50\n-a -t 192.168.200.100:80 -r 192.168.201.100:80 -g -w 1\n",
	"fwmark":          "",
	"vrrp":            "",
	"vrrp.localcheck": "",
	"vrrp.lvs_syncd":  "-A -t 192.168.200.19:80 -s rr -p 50\n-a -t 192.168.200.19:80 -r 192.168.201.100:80 -g -w 1\n",
}

func quorumRows() string {
	var b strings.Builder
	for _, n := range strings.Fields("1 2 3 4 5 6 7 8 9 10") {
		b.WriteString("-a -t 10.0.1.1:80 -r 10.0.0." + n + ":80 -g -w 1\n")
	}
	return b.String()
}

// The sample files of Debian's package: as they are, by NAT, nothing is taken; with direct
// routing the same table is served.
func TestImportSamples(t *testing.T) {
	const directory = ".cache/keepalived/samples"
	files, _ := filepath.Glob(directory + "/keepalived.conf.*")
	if len(files) == 0 {
		if os.Getenv("LVS_REQUIRE_ALL") != "" {
			t.Fatal("the samples are missing: test/keepalived/setup fetches them")
		}
		t.Skip("the samples are missing: test/keepalived/setup fetches them")
	}
	for _, path := range files {
		name := strings.TrimPrefix(filepath.Base(path), "keepalived.conf.")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		result, count := importConf(t, string(text))
		checkResult(t, result, count)
		if servers := strings.Contains(string(text), "virtual_server "); count.taken != 0 || (count.services > 0) != servers {
			t.Errorf("%s: %+v", name, count)
		}
		direct := strings.ReplaceAll(string(text), "lb_kind NAT", "lb_kind DR")
		result, count = importConf(t, direct)
		checkResult(t, result, count)
		want, known := drSamples[name]
		if name == "virtual_server_group" {
			if count.taken != 11 || count.services != 13 {
				t.Errorf("%s: %+v", name, count)
			}
			continue
		}
		if !known || count.vips == 0 {
			if count.taken != 0 || want != "" || !known && strings.Contains(string(text), "virtual_server ") {
				t.Errorf("%s: %+v", name, count)
			}
			continue
		}
		if diff := cmp.Diff(want, desiredListing(t, result)); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", name, diff, result)
		}
	}
	if len(files) < 20 {
		t.Errorf("%d samples, want all", len(files))
	}
}

// plainServer is a virtual server that is taken whole.
const plainServer = "virtual_server 10.0.0.1 80 {\nprotocol TCP\nlb_kind DR\n%\nreal_server 10.0.0.2 80 {\n}\n}\n"

// Each line within the block of a virtual server gives these lines of the result.
func TestImportSettings(t *testing.T) {
	for _, test := range []struct {
		line string
		want []string // lines that the result has beside those of plainServer
	}{
		{"", nil},
		{"lb_algo sh", []string{`scheduler = "sh"`, `flags = []`}},
		{"sh-fallback\nlvs_sched sh", []string{`scheduler = "sh"`}},
		{"lvs_sched mh\nmh-port\nmh-fallback", []string{`scheduler = "mh"`, `flags = ["mh-fallback", "mh-port"]`}},
		{"lb_algo rr\nsh-port", []string{"scheduler", "k.conf:5: sh-port: it is no flag of scheduler rr, keepalived passes it over too"}},
		{"ops", []string{"k.conf:1: virtual_server: ops is for UDP alone, keepalived passes it over too"}},
		{"persistence_timeout", []string{"[vip.persistence]", `timeout = "6m"`}},
		{"persistence_timeout 300", []string{"[vip.persistence]", `timeout = "5m"`}},
		{"persistence_granularity 255.255.0.0", []string{"[vip.persistence]", `timeout = "6m"`, "netmask = 16"}},
		{"quorum 1\nhysteresis 0\nsmtp_alert no\nwarmup 0\ninhibit_on_failure", nil},
		{"quorum 0\nhashed\nalpha no\nlog_all_failures off", nil},
		{"quorum 3", []string{"k.conf:4: quorum: without a sorry_server keepalived starts quorum_down and goes on; quorum in [vip.health] with below_quorum = \"withdraw\" gives up the address"}},
		{"quorum x\nhysteresis 2", []string{"k.conf:4: quorum: \"x\" is no number", "k.conf:5: hysteresis: there is no quorum above 1"}},
		{"weight 7\nreal_server 10.0.0.3 80 { weight 2 }\nsorry_server 10.0.0.9", []string{"-", `{ address = "10.0.0.2", weight = 7 },`, `{ address = "10.0.0.3", weight = 2 },`, `sorry_server = "10.0.0.9"`}},
		{"weight 0", []string{"k.conf:4: weight: \"0\" is no number from 1 to 65535"}},
		{"smtp_alert", []string{"k.conf:4: smtp_alert: no mail is sent; docs/alerts.md has rules for alerts"}},
		{"surprise 1", []string{"k.conf:4: surprise: this keyword is not known"}},
		{"sorry_server 10.0.0.9 80", []string{`sorry_server = "10.0.0.9"`}},
		{"sorry_server 10.0.0.2 80", []string{"k.conf:4: sorry_server: it is a real server too"}},
		{"sorry_server 10.0.0.9 80\nsorry_server_lvs_method NAT", []string{"k.conf:4: sorry_server: it uses NAT; config.toml has direct routing and tunnels"}},
		{"lvs_method TUN", []string{`forward = "tunnel"`}},
		{"lvs_method TUN type gre csum", []string{`forward = "tunnel"`, "[vip.tunnel]", `type = "gre"`, `checksum = "on"`}},
		{"lvs_method TUN type gue port 6080 remcsum", []string{`forward = "tunnel"`, "[vip.tunnel]", `type = "gue"`, "port = 6080", `checksum = "remote"`}},
		{"real_server 10.0.0.3 80 { TCP_CHECK }", []string{`{ address = "10.0.0.3" },`, "[vip.health]", "ports = true", `interval = "1m"`, `timeout = "5s"`, "rise = 1", "fall = 2",
			"k.conf:5: real server 10.0.0.2: it has none of the checkers that are taken, and the VIP's probes ask it too"}},
		{"delay_loop 2\nreal_server 10.0.0.3 80 { retry 4\nTCP_CHECK {\nconnect_port 22\nconnect_timeout 30\n} }", []string{`{ address = "10.0.0.3" },`, "[vip.health]", "tcp = 22", `interval = "2s"`, `timeout = "2s"`, "rise = 1", "fall = 5",
			"k.conf:1: delay_loop, connect_timeout or retry is outside of what [vip.health] has: connect_timeout is at most a minute and at most delay_loop", "k.conf:10: real server 10.0.0.2: it has none of the checkers that are taken, and the VIP's probes ask it too"}},
		{"delay_loop 0.5\nvirtualhost a.example\nreal_server 10.0.0.3 80 { HTTP_GET { url { path \"/x?a=\\b\" }\nconnect_timeout 0.25 } }", []string{`{ address = "10.0.0.3" },`, "[vip.health]", `interval = "500ms"`, `timeout = "250ms"`, "rise = 1", "fall = 2",
			"[vip.health.http]", "port = 80", `path = "/x?a=\\b"`, `host = "a.example"`, `status = ["200-299"]`, "k.conf:8: real server 10.0.0.2: it has none of the checkers that are taken, and the VIP's probes ask it too"}},
		{"real_server 10.0.0.3 80 { TCP_CHECK { connect_ip 10.0.0.4 } }", []string{`{ address = "10.0.0.3" },`, "k.conf:4: TCP_CHECK: it connects to \"10.0.0.4\", and a probe to the real server's own address"}},
		{"real_server 10.0.0.3 80 { HTTP_GET { url { path x } } }", []string{`{ address = "10.0.0.3" },`, "k.conf:4: HTTP_GET: its path \"x\" is not one that a probe can ask for"}},
		{"real_server 10.0.0.3 80 { uthreshold 5 }", []string{"-", `{ address = "10.0.0.3" },`, "upper_threshold = 5", "k.conf:5: real server 10.0.0.2: not taken: its forwarding method, tunnel or thresholds differ from those of the others, and a VIP has the same for all"}},
		{"real_server 10.0.0.2 8080 { }", []string{"k.conf:4: real_server 10.0.0.2 port 8080: keepalived passes its port over, and has the virtual service's: without NAT it is the same", "k.conf:5: real server 10.0.0.2: not taken: this is a second entry of the address"}},
		{"real_server 10.0.0.1 80 { }", []string{"k.conf:4: real server 10.0.0.1: not taken: its address is that of a virtual service; config.toml needs the real server's own"}},
		{"real_server 2001:db8::1 80 { }", []string{"k.conf:4: real server 2001:db8::1: not taken: its address is IPv6, and that of the virtual service IPv4"}},
		{"real_server 10.0.0.3 80 { weight 0 }", []string{`{ address = "10.0.0.3", weight = 0 }, # no new connections: the controller takes it out of the kernel's table`}},
		{"real_server 10.0.0.3 80 { weight x }", []string{"k.conf:4: real server 10.0.0.3: not taken: its weight \"x\" is no number from 0 to 65535"}},
	} {
		text, count := importConf(t, strings.Replace(plainServer, "%", test.line, 1))
		checkResult(t, text, count)
		want := map[string]bool{"[[vip]]": true, `name = "vip-10-0-0-1"`: true, `addresses = ["10.0.0.1"]`: true, `scheduler = "wlc"`: true, `ports = ["80/tcp"]`: true, `{ address = "10.0.0.2" },`: true,
			`announce = "none" # no vrrp_instance of the file has it: "arp", "dummy" or a router can bring it here`: true, `selector = "" # no pods: real_servers are all`: true, "real_servers = [": true, "]": true}
		for _, line := range test.want {
			switch {
			case line == "-":
				delete(want, `{ address = "10.0.0.2" },`)
			case strings.HasPrefix(line, "scheduler"):
				delete(want, `scheduler = "wlc"`)
			}
			if line != "-" && line != "scheduler" {
				want[line] = true
			}
		}
		got := map[string]bool{}
		_, body, _ := strings.Cut(text, "\n\n")
		for line := range strings.Lines(body) {
			line = strings.TrimSpace(line)
			if _, comment, is := strings.Cut(line, "/k.conf:"); is && strings.HasPrefix(line, "#") {
				line = "k.conf:" + comment
			}
			got[line] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.line, diff)
		}
	}
}

// A virtual server that is not taken, and why.
func TestImportRefusals(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"virtual_server 10.0.0.1 80 {\nprotocol TCP\nreal_server 10.0.0.2 80 { }\n}", "1 real server: it has no lvs_method, and NAT is keepalived's default"},
		{"virtual_server 10.0.0.1 80 {\nlb_kind DR\nprotocol TCP\n}", "0 real servers: it has no real server"},
		{"virtual_server 10.0.0.1 {\nlb_kind DR\nprotocol TCP\nreal_server 10.0.0.2 { }\n}", "it has no port, and means all of them"},
		{"virtual_server 10.0.0.1 http {\nlb_kind DR\n}", `port "http" is not a number`},
		{"virtual_server host 80 {\nlb_kind DR\n}", "this is no address"},
		{"virtual_server 127.0.0.1 80 {\nlb_kind DR\n}", "its address is a loopback address"},
		{"virtual_server 10.0.0.1 80 {\nlb_kind DR\nlb_algo best\n}", `its scheduler "best" is not one`},
		{"virtual_server 10.0.0.1 80 {\nlb_kind DR\nlb_algo rr\nflag-3\n}", "its flags have flag-3"},
		{"virtual_server 10.0.0.1 80 {\nlb_kind DR\nprotocol ICMP\n}", `protocol "icmp" is not tcp, udp or sctp`},
		{"virtual_server 10.0.0.1 80 {\nlb_kind DR\npersistence_timeout 100000\n}", "its persistence is longer than 24 hours"},
		{"virtual_server 10.0.0.1 80 {\nlb_kind DR\npersistence_timeout 1h\n}", `persistence_timeout "1h" is no number`},
		{"virtual_server 10.0.0.1 80 {\nlb_kind DR\npersistence_granularity 255.0.255.0\n}", "its netmask is no prefix"},
		{"virtual_server 10.0.0.1 80 {\nlb_kind DR\npersistence_granularity 24\n}", `persistence_granularity "24" is no netmask of IPv4`},
		{"virtual_server fwmark 3 {\nlb_kind DR\nreal_server 10.0.0.2 { }\n}", "it is by firewall mark"},
		{"virtual_server group g {\nlb_kind DR\n}", "there is no such virtual_server_group"},
		{"virtual_server 10.0.0.1 80 {\nlvs_method TUN type vxlan\nreal_server 10.0.0.2 80 { }\n}", `its tunnel type "vxlan" is not known`},
		{"virtual_server 10.0.0.1 80 {\nlvs_method TUN type gue\nreal_server 10.0.0.2 80 { }\n}", "its tunnel is gue without a port"},
		{strings.Repeat("virtual_server 10.0.0.1 80 {\nlb_kind DR\nreal_server 10.0.0.2 80 { }\n}\n", 2), "10.0.0.1:80/udp is a virtual service of "},
	} {
		text, count := importConf(t, test.text)
		checkResult(t, text, count)
		if !strings.Contains(text, test.want) || count.taken == count.services {
			t.Errorf("%q: %+v, want %q in\n%s", test.text, count, test.want, text)
		}
	}
}

// What is no configuration, with the place.
func TestImportMistakes(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"a {\n", ":1: the block has no } at its end"},
		{"a\n}\n", ":2: } ends no block"},
		{"{\n", ":1: { is not behind a keyword"},
		{"a {\n}\n{\n}\n", ":3: { is not behind a keyword"},
		{"\n a \"b\n", ":2: a quotation has no end"},
		{"$A=$A $A\n$A \n", ":2: the definitions in this line make it longer and longer"},
		{"$A= \\\n x \\\n $A \\\n $A \\\n $A \n$A\n", ":6: blocks, definitions or files are inside each other more than 16 times"},
		{"a ${_RANDOM 1 5}\n", ":1: $_RANDOM is another number"},
		{strings.Repeat("a {\n", 30), ":17: blocks, definitions or files are inside each other more than 16 times"},
		{"a\n" + strings.Repeat("b", 5000), ":2: the line has more than 4096 bytes"},
		{"include k.conf\n", ":1: more than 16 files include each other"},
		{strings.Repeat("a\n", maxConfLines+1), ":200001: the configuration has more than 8 MiB or 200000 lines"},
	} {
		path := writeConf(t, test.text)
		_, err := importKeepalived(path, "here", nil)
		if err == nil || !strings.Contains(err.Error(), path+test.want) {
			t.Errorf("%.40q: %v, want %q", test.text, err, test.want)
		}
	}
}

// Definitions, conditions, comments, quotations and blocks are read as keepalived does.
func TestImportLines(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"a b # c\n!d\ne \"f ! # {\" g", "a b;e |f ! # {| g"},
		{"a \\# b \\! c", "a # b ! c"},
		{"a { b { c } d }", "a{b{c}d}"},
		{"a\n{\nb\n\n{ c\n} }", "a{b{c}}"},
		{"$A=1 2\nb $A c${A}d $Ax $B ${C}", "b 1 2 c1 2d $Ax $B ${C}"},
		{"$A=${B}.1\n$B=x\n$A \n$B=y\n$A", "x.1;y.1"},
		{"$A=\nb $A c", "b c"},
		{"$A= \\\n  b { \\\n  c $X \\\n }\n$X=1\n$A\n$X=2\n$A", "b{c 1}b{c 2}"},
		{"$V= \\\n x ${N} { \\\n $N=9 \\\n $R \\\n }\n$R= \\\n y ${N} \\\n z\n$N=1\n$V", "x 1{y 9;z}"},
		{"@here a\n@there b\n@^here c\n@^there d\n@here @there e", "a;d"},
		{"@here $A=1\n@there $A=2\n$I=@there\na $A\n$I b", "a 1"},
		{"a ${_INSTANCE} ${_HASH} ${_BANG}", "a here # !"},
		{"include conf.d/*.conf\ninclude none\ninclude conf.d/3\na", "i1;i2;a"},
	} {
		path := writeConf(t, test.text)
		for name, text := range map[string]string{"1.conf": "i1", "2.conf": "include 3/*.x", "3/y.x": "i2 # end"} {
			part := filepath.Join(filepath.Dir(path), "conf.d", name)
			if err := os.MkdirAll(filepath.Dir(part), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(part, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := readConf(path, "here", nil)
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		if got := statementText(r.top.block); got != test.want {
			t.Errorf("%q: %s, want %s", test.text, got, test.want)
		}
	}
}

var quotedWord = regexp.MustCompile(`[ {}]`)

// statementText writes statements in short.
func statementText(block []*confStatement) string {
	var b strings.Builder
	for i, s := range block {
		if i > 0 && !block[i-1].hasBlock {
			b.WriteString(";")
		}
		for j, w := range s.words {
			if j > 0 {
				b.WriteString(" ")
			}
			if quotedWord.MatchString(w) && !strings.HasPrefix(w, "$") {
				w = "|" + w + "|"
			}
			b.WriteString(w)
		}
		if s.hasBlock {
			b.WriteString("{" + statementText(s.block) + "}")
		}
	}
	return b.String()
}

// FuzzImportKeepalived imports any text.
func FuzzImportKeepalived(f *testing.F) {
	for _, name := range []string{"edge.conf", "conf.d/group.conf"} {
		text, err := os.ReadFile("testdata/import/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("virtual_server 10.0.0.1 80 {\nlb_kind DR\nreal_server 10.0.0.2 80 {\nHTTP_GET {\nurl {\npath \"/\x01\"\n}\n}\n}\n}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") {
			return // no files of this machine
		}
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		go func() { _, _ = out.WriteString(text); out.Close() }()
		found, err := importKeepalived("-", "here", in)
		if err != nil {
			if text := (importError{err}).Error(); len(text) > 5000 || strings.ContainsAny(text, "\n\x1b") {
				t.Errorf("the error is %q", text)
			}
			return
		}
		result, count := found.configuration()
		checkResult(t, result, count)
	})
}
