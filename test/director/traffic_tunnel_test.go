// Real servers behind a router, which are reached through a tunnel.

package director

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each kind of tunnel carries clients' requests of both families to a node
// behind a router, where direct routing cannot reach, and an upload whose
// packets are as large as the network takes. `realserver -remove` leaves
// nothing of the node's end.
func TestKernelTrafficTunnel(t *testing.T) {
	of(t, "kernel")
	t.Parallel()
	r := newRig(t)
	client := r.lab.Host("client", 3)
	router := r.lab.Router("router")
	node := r.lab.Behind(router, "node", 1)
	r.director.Run("ip", "route", "add", "2001:db8::/32", "via", "2001:db8::254")
	node.Serve(80)
	// As on a hardened node: what the tunnel brings must pass all the same.
	node.Run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1")

	realserver := func(args ...string) {
		t.Helper()
		line := []string{controller(), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-state", filepath.Join(r.dir, "rs.json")}
		if out, err := node.Try(append(line, args...)...); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	config := func(tunnel string) {
		t.Helper()
		r.write("config.toml", r.configHead()+fmt.Sprintf(`[[vip]]
name = "far"
addresses = ["10.0.0.100", "2001:db8::100"]
announce = "arp"
ports = [80]
real_servers = [{address = %q}, {address = %q}]
%s`, node.IPv4, node.IPv6, tunnel))
	}
	for i, tt := range []struct {
		name, vip, sent string // sent: the end of a real server's line in ipvsadm -Sn
		node            []string
	}{
		{"dr", "", "-g -w 1", nil},
		{"ipip", "forward = \"tunnel\"\n", "-i -w 1 --tun-type ipip", []string{"-tunnel", "ipip"}},
		{"gue", "forward = \"tunnel\"\n[vip.tunnel]\ntype = \"gue\"\n",
			"-i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum", []string{"-tunnel", "gue"}},
		{"gue with checksum", "forward = \"tunnel\"\n[vip.tunnel]\ntype = \"gue\"\nport = 7000\nchecksum = \"on\"\n",
			"-i -w 1 --tun-type gue --tun-port 7000 --tun-csum", []string{"-tunnel", "gue", "-tunnel-port", "7000"}},
		{"gue with remote checksum", "forward = \"tunnel\"\n[vip.tunnel]\ntype = \"gue\"\nport = 7000\nchecksum = \"remote\"\n",
			"-i -w 1 --tun-type gue --tun-port 7000 --tun-remcsum", []string{"-tunnel", "gue", "-tunnel-port", "7000"}},
		{"gre", "forward = \"tunnel\"\n[vip.tunnel]\ntype = \"gre\"\n",
			"-i -w 1 --tun-type gre --tun-nocsum", []string{"-tunnel", "gre"}},
		{"gre with checksum", "forward = \"tunnel\"\n[vip.tunnel]\ntype = \"gre\"\nchecksum = \"on\"\n",
			"-i -w 1 --tun-type gre --tun-csum", []string{"-tunnel", "gre", "-tunnel-checksum"}},
	} {
		start := time.Now()
		config(tt.vip)
		if i == 0 {
			r.start()
		}
		realserver(tt.node...)
		r.table("-A -t 10.0.0.100:80 -s rr", "-a -t 10.0.0.100:80 -r 10.1.1.2:80 "+tt.sent,
			"-A -t [2001:db8::100]:80 -s rr", "-a -t [2001:db8::100]:80 -r [2001:db8:1::2]:80 "+tt.sent)
		if tt.name == "dr" {
			if got, err := client.Try("curl", "-s", "--max-time", "1", "http://10.0.0.100/"); err == nil {
				t.Fatalf("direct routing reaches the node, so this test proves nothing: %s", got)
			}
			for _, a := range []string{"10.1.1.2", "2001:db8:1::2"} {
				r.logged(1, "real server "+a+" (static) is behind a router")
			}
		} else {
			realserver(append(tt.node, "-check")...)
			for _, url := range []string{"http://10.0.0.100/", "http://[2001:db8::100]/"} {
				if got := client.Curl(3, url); got["node"] != 3 {
					t.Errorf("%s: %s: answers %v, want 3 from node", tt.name, url, got)
				}
				if got := client.Upload(100_000, url); got != "node-100000" {
					t.Errorf("%s: %s: upload answered %q, want node-100000", tt.name, url, got)
				}
			}
		}
		realserver("-remove")
		t.Logf("%s: %s", tt.name, time.Since(start).Round(100*time.Millisecond))
	}
	if left := node.Run("ip", "-brief", "link") + node.Run("ip", "fou", "show"); strings.Contains(left, "lvs-") || strings.Contains(left, "port") {
		t.Errorf("left by -remove:\n%s", left)
	}
}
