// VIPs whose packets the kernel's connection tracking does not see.

package director

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/lab"
)

// trackingStates are those in which a packet can be for connection tracking.
var trackingStates = []string{"new", "established", "related", "invalid", "untracked"}

// watchTracking makes a foreign table which makes connection tracking active, and notes
// the state of each packet that match accepts at hook, by key of type. What it returns
// takes the notes.
func watchTracking(r *rig, hook, match, kind, key string) (take func() map[string]string) {
	r.Helper()
	script := "add table inet watch\nadd chain inet watch c { type filter hook " + hook + " priority 0; }\n"
	for _, state := range trackingStates {
		script += fmt.Sprintf("add set inet watch %s { type %s; flags dynamic; size 1000; }\n", state, kind)
		for _, m := range strings.Split(match, ", ") {
			script += fmt.Sprintf("add rule inet watch c %s ct state %s add @%s { %s }\n", m, state, state, key)
		}
	}
	nft(r, script)
	return func() map[string]string {
		r.Helper()
		seen := make(map[string]string)
		for _, state := range trackingStates {
			_, elements, some := strings.Cut(r.director.Run("nft", "list", "set", "inet", "watch", state), "elements = {")
			if some {
				elements, _, _ = strings.Cut(elements, "}")
				seen[state] = strings.Join(strings.Fields(elements), " ")
			}
			r.director.Run("nft", "flush", "set", "inet", "watch", state)
		}
		return seen
	}
}

// nft runs a script of nft commands on the director, in one transaction.
func nft(r *rig, script string) {
	r.Helper()
	cmd := r.director.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("%v: %s\n%s", err, out, script)
	}
}

// elementsOf are the elements of a set as nft lists it.
var elementsOf = regexp.MustCompile(`elements = \{ ([^}]*) \}`)

// listed is what nft lists, without its layout and with sorted elements.
func listed(text string) string {
	text = strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "elements = { } ", "")
	return elementsOf.ReplaceAllStringFunc(text, func(s string) string {
		return "elements = { " + sorted(elementsOf.FindStringSubmatch(s)[1]) + " }"
	})
}

// sorted sorts elements, which commas separate.
func sorted(elements string) string {
	list := strings.Split(elements, ", ")
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// exemptions are what nft lists of the controller's table; "" for no table.
func exemptions(r *rig) string {
	out, err := r.director.Try("nft", "list", "table", "inet", "lvs-controller-notrack")
	if err != nil {
		if !strings.Contains(err.Error(), "No such file or directory") {
			r.Fatalf("nft list: %v\n%s", err, out)
		}
		return ""
	}
	return listed(out)
}

// noTrackTable is the whole table with these elements, and with these rules at the
// output hook.
func noTrackTable(served4, served6, output string) string {
	if output != "" {
		output = " chain output { type filter hook output priority raw; policy accept; " + output + " }"
	}
	return listed("table inet lvs-controller-notrack {" +
		" set served4 { type ipv4_addr . inet_proto . inet_service elements = { " + served4 + " } }" +
		" set served6 { type ipv6_addr . inet_proto . inet_service elements = { " + served6 + " } }" +
		" chain prerouting { type filter hook prerouting priority raw; policy accept;" +
		" ip daddr . meta l4proto . th dport @served4 notrack ip6 daddr . meta l4proto . th dport @served6 notrack }" + output + " }")
}

// becomes waits until the table is want.
func becomes(r *rig, want string) {
	r.Helper()
	lab.Within(r.T, 15*time.Second, func() string { return cmp.Diff(want, exemptions(r)) })
}

// Connection tracking sees no packet to a service of a VIP with notrack = true, and all
// others as before. What another program does to the table is repaired at once, and the
// table goes with the setting.
func TestKernelNoTrack(t *testing.T) {
	of(t, "kernel")
	r := newRig(t)
	client, node := r.lab.Host("client", 3), r.lab.Host("node", 11)
	vip4, vip6 := netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("2001:db8::100")
	node.Run(controller(), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-uplink", "eth0", "-state", filepath.Join(r.dir, "rs.json"))
	node.Serve(80, 443)
	node.ServeUDP(vip4, 53)
	node.ServeUDP(vip6, 53)
	r.director.Serve(8080) // a program of the director, which is no service of the VIP
	configure := func(keys string) {
		t.Helper()
		r.write("config.toml", strings.Replace(r.configHead(), `audit_interval = "2s"`, `audit_interval = "1h"`, 1)+
			"[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\nannounce = \"arp\"\n"+
			"real_servers = [{address = \"10.0.0.11\"}, {address = \"2001:db8::11\"}]\n"+keys)
	}
	take := watchTracking(r, "prerouting", "ip daddr 10.0.0.100, ip6 daddr 2001:db8::100", "inet_proto . inet_service", "meta l4proto . th dport")
	foreign := r.director.Run("nft", "list", "ruleset")
	// seen sends traffic and compares the states of its packets. ICMP has no ports.
	seen := func(want map[string]string) {
		t.Helper()
		take()
		for _, vip := range []netip.Addr{vip4, vip6} {
			host := netip.AddrPortFrom(vip, 80).String()
			host = strings.TrimSuffix(host, ":80")
			if got := client.Curl(2, "http://"+host+"/"); got["node"] != 2 {
				t.Errorf("http://%s/: answers %v, want 2 of the node\n%s", host, got, r.process.Log())
			}
			if got := client.Curl(2, "http://"+host+":8080/"); got["director"] != 2 {
				t.Errorf("http://%s:8080/: answers %v, want 2 of the director", host, got)
			}
			if got := client.AskUDP(2, vip, 53); got["node"] != 2 {
				t.Errorf("UDP to %s: answers %v, want 2 of the node", vip, got)
			}
		}
		client.Run("ping", "-c", "1", "-W", "5", "-s", "5000", "10.0.0.100")
		got := take()
		for state, elements := range got {
			list := slices.DeleteFunc(strings.Split(elements, ", "), func(e string) bool { return strings.Contains(e, "icmp") })
			if got[state] = sorted(strings.Join(list, ", ")); len(list) == 0 {
				delete(got, state)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("packets by their states (-want +got):\n%s", diff)
		}
	}

	// errors has the client answer with an ICMP error, and says what state it is in.
	errors := func() {
		t.Helper()
		lab.Within(t, 10*time.Second, func() string {
			client.Do(func() {
				if conn, err := net.Dial("udp", "10.0.0.100:53"); err == nil {
					conn.Write([]byte("and gone before the answer"))
					conn.Close()
				}
			})
			time.Sleep(200 * time.Millisecond)
			got := take()
			if !strings.Contains(got["invalid"], "icmp") || strings.Contains(got["related"], "icmp") {
				return fmt.Sprintf("an ICMP error about a service's packets: %v, want it invalid", got)
			}
			return ""
		})
	}

	const udpAndTCP = "ports = [\"80/tcp\", \"443/tcp\", \"53/udp\"]\n"
	configure(udpAndTCP)
	client.Run("ping", "-c", "1", "-W", "5", r.director.IPv4.String()) // so that one connection is tracked
	r.start()
	r.ready("ready")
	lab.Within(t, 20*time.Second, func() string {
		if got := client.Curl(1, "http://10.0.0.100/"); got["node"] != 1 {
			return "the VIP is not served\n" + r.process.Log()
		}
		return ""
	})
	r.logged(1, "connection tracking sees each packet to some VIPs")
	t.Log("step: as the kernel comes: no packet that IPVS forwards is ever established")
	seen(map[string]string{"new": "tcp . 80, tcp . 8080, udp . 53", "invalid": "tcp . 80", "established": "tcp . 8080"}) // invalid: the FIN
	errors()
	if got := exemptions(r); got != "" {
		t.Errorf("a table without notrack:\n%s", got)
	}

	t.Log("step: notrack")
	configure(udpAndTCP + "notrack = true\n")
	whole := noTrackTable("10.0.0.100 . tcp . 80, 10.0.0.100 . udp . 53, 10.0.0.100 . tcp . 443",
		"2001:db8::100 . tcp . 80, 2001:db8::100 . udp . 53, 2001:db8::100 . tcp . 443", "")
	becomes(r, whole)
	r.logged(1, `msg="exemptions from connection tracking changed" table="inet lvs-controller-notrack" change="add 53/udp, 80/tcp, 443/tcp of 10.0.0.100; add 53/udp, 80/tcp, 443/tcp of 2001:db8::100" why=configured`)
	exempt := map[string]string{"untracked": "tcp . 80, udp . 53", "new": "tcp . 8080", "established": "tcp . 8080"}
	seen(exempt)
	errors()
	if out := r.director.Run("cat", "/proc/net/nf_conntrack"); strings.Contains(out, "dport=53 ") || strings.Contains(out, "dport=80 ") {
		t.Errorf("tracked all the same:\n%s", out)
	}

	t.Log("step: repaired at once, long before the next audit")
	table := "inet lvs-controller-notrack"
	for _, script := range []string{
		"flush ruleset",
		"delete table " + table,
		"flush chain " + table + " prerouting",
		"insert rule " + table + " prerouting accept",
		"add rule " + table + " prerouting tcp dport 22 notrack",
		"add chain " + table + " output { type filter hook output priority -300; }",
		"add table " + table + " { flags dormant; }",
		"flush set " + table + " served4",
		"add element " + table + " served4 { 10.0.0.9 . tcp . 22 }",
		"delete element " + table + " served6 { 2001:db8::100 . udp . 53 }",
		"add set " + table + " other { type ether_addr; }",
	} {
		nft(r, script)
		start := time.Now()
		for exemptions(r) != whole {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("%s is not repaired (-want +got):\n%s", script, cmp.Diff(whole, exemptions(r)))
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("%s: whole again after %v", script, time.Since(start))
		time.Sleep(1500 * time.Millisecond) // one repair a second
	}
	take = watchTracking(r, "prerouting", "ip daddr 10.0.0.100, ip6 daddr 2001:db8::100", "inet_proto . inet_service", "meta l4proto . th dport")
	seen(exempt)

	t.Log("step: a service that comes and goes, and one mark for all")
	configure("ports = [\"80/tcp\"]\nnotrack = true\n[vip.drain]\ntimeout = \"0s\"\n")
	becomes(r, noTrackTable("10.0.0.100 . tcp . 80", "2001:db8::100 . tcp . 80", ""))
	configure("ports = [\"80/tcp\"]\nnotrack = true\none_mark = true\n[vip.drain]\ntimeout = \"0s\"\n")
	r.logged(1, "firewall marks changed")
	becomes(r, noTrackTable("10.0.0.100 . tcp . 80", "2001:db8::100 . tcp . 80", ""))
	if out, err := r.director.Try(controller(), "diff", "-config", filepath.Join(r.dir, "config.toml")); err != nil {
		t.Errorf("diff finds what is not so: %v\n%s", err, out)
	}

	t.Log("step: the table goes with the setting")
	configure("ports = [\"80/tcp\"]\none_mark = true\n")
	out, err := r.director.Try(controller(), "diff", "-config", filepath.Join(r.dir, "config.toml"))
	if err != nil && !strings.Contains(out, "  ~ connection tracking lvs-controller-notrack  delete the table  configuration\n") {
		t.Errorf("diff: %v\n%s", err, out)
	}
	becomes(r, "")
	configure("ports = [\"80/tcp\"]\n")
	without := func(text string) string { return elementsOf.ReplaceAllString(listed(text), "") }
	lab.Within(t, 15*time.Second, func() string {
		return cmp.Diff(without(foreign), without(r.director.Run("nft", "list", "ruleset")))
	})

	t.Log("step: -cleanup leaves nothing")
	configure("ports = [\"80/tcp\"]\nnotrack = true\n")
	becomes(r, noTrackTable("10.0.0.100 . tcp . 80", "2001:db8::100 . tcp . 80", ""))
	lab.Must(t, r.process.Send(syscall.SIGTERM))
	lab.Within(t, 20*time.Second, func() string {
		if !r.process.Ended() {
			return "it does not end\n" + r.process.Log()
		}
		return ""
	})
	becomes(r, noTrackTable("10.0.0.100 . tcp . 80", "2001:db8::100 . tcp . 80", ""))
	r.director.Run(controller(), "-config", filepath.Join(r.dir, "config.toml"), "-cleanup")
	becomes(r, "")
}

// The outer packets of a tunnel are not tracked either, and a packet of another program
// in a tunnel to the same real server is.
func TestKernelNoTrackTunnel(t *testing.T) {
	of(t, "kernel")
	r := newRig(t)
	client := r.lab.Host("client", 3)
	router := r.lab.Router("router")
	node := r.lab.Behind(router, "node", 1)
	r.director.Run("ip", "route", "add", "2001:db8::/32", "via", "2001:db8::254")
	node.Serve(80)
	take := watchTracking(r, "output", "ip daddr 10.1.1.2, ip6 daddr 2001:db8:1::2", "nf_proto . inet_proto", "meta nfproto . meta l4proto")
	for _, tunnel := range []struct {
		keys     string
		node     []string
		protocol string
	}{
		{"", []string{"-tunnel", "ipip"}, "ipv4 . ipencap, ipv6 . ipv6"},
		{"type = \"gue\"\n", []string{"-tunnel", "gue"}, "ipv4 . udp, ipv6 . udp"},
		{"type = \"gue\"\nport = 7000\nchecksum = \"on\"\n", []string{"-tunnel", "gue", "-tunnel-port", "7000"}, "ipv4 . udp, ipv6 . udp"},
		{"type = \"gue\"\nport = 7000\nchecksum = \"remote\"\n", []string{"-tunnel", "gue", "-tunnel-port", "7000"}, "ipv4 . udp, ipv6 . udp"},
		{"type = \"gre\"\n", []string{"-tunnel", "gre"}, "ipv4 . gre, ipv6 . gre"},
		{"type = \"gre\"\nchecksum = \"on\"\n", []string{"-tunnel", "gre", "-tunnel-checksum"}, "ipv4 . gre, ipv6 . gre"},
	} {
		name := strings.ReplaceAll(tunnel.keys, "\n", " ")
		realserver := []string{controller(), "realserver", "-vip", "10.0.0.100,2001:db8::100", "-state", filepath.Join(r.dir, "rs.json")}
		node.Run(append(realserver, tunnel.node...)...)
		for _, notrack := range []bool{false, true} {
			r.write("config.toml", r.configHead()+fmt.Sprintf("[[vip]]\nname = \"far\"\naddresses = [\"10.0.0.100\", \"2001:db8::100\"]\n"+
				"announce = \"arp\"\nports = [80]\nreal_servers = [{address = %q}, {address = %q}]\nnotrack = %t\nforward = \"tunnel\"\n[vip.tunnel]\n%s",
				node.IPv4, node.IPv6, notrack, tunnel.keys))
			if r.process == nil {
				r.start()
			}
			lab.Within(t, 20*time.Second, func() string {
				table := r.director.Table()
				kind, _, _ := strings.Cut(strings.TrimPrefix(tunnel.node[1], "-"), " ")
				if !strings.Contains(table, "--tun-type "+kind) || notrack != strings.Contains(exemptions(r), "chain output") {
					return "not configured yet:\n" + table + exemptions(r) + r.process.Log()
				}
				return ""
			})
			if notrack {
				all := r.director.Run("nft", "list", "table", "inet", "lvs-controller-notrack")
				t.Log(all)
				nft(r, "delete table inet lvs-controller-notrack\n"+all) // nft can read what it lists
			}
			time.Sleep(time.Second) // the settings of the tunnel may be under way
			take()
			for _, url := range []string{"http://10.0.0.100/", "http://[2001:db8::100]/"} {
				if got := client.Curl(3, url); got["node"] != 3 {
					t.Errorf("%snotrack = %t: %s: answers %v, want 3 from node", name, notrack, url, got)
				}
				if got := client.Upload(100_000, url); got != "node-100000" {
					t.Errorf("%snotrack = %t: %s: upload answered %q, want node-100000", name, notrack, url, got)
				}
			}
			got := take()
			for state := range got {
				// Neighbour discovery and the controller's own questions are not meant.
				list := slices.DeleteFunc(strings.Split(got[state], ", "), func(e string) bool { return !strings.Contains(tunnel.protocol, e) })
				if got[state] = sorted(strings.Join(list, ", ")); len(list) == 0 {
					delete(got, state)
				}
			}
			if notrack && (len(got) != 1 || got["untracked"] != tunnel.protocol) {
				t.Errorf("%swith notrack: packets by their states %v, want all untracked: %s\n%s", name, got, tunnel.protocol, exemptions(r))
			}
			if !notrack && got["new"] != tunnel.protocol {
				t.Errorf("%swithout notrack: packets by their states %v, want new: %s: this test proves nothing", name, got, tunnel.protocol)
			}
		}
		node.Run(append(realserver, "-remove")...)
	}
	if n := r.process.CountLog("repaired"); n > 0 {
		t.Errorf("what nft has listed and read again is not ours: %d repairs\n%s", n, r.process.Log())
	}
}

// Two directors that are real servers too, behind a firewall that drops what connection
// tracking calls invalid: what one hands to the other is answered.
func TestKernelNoTrackPeers(t *testing.T) {
	of(t, "kernel")
	a := newRig(t)
	b := &rig{T: t, lab: a.lab, director: a.lab.Host("second", 3), dir: t.TempDir()}
	client := a.lab.Host("client", 5)
	for _, r := range []*rig{a, b} {
		r.director.Serve(80)
		r.director.Run(controller(), "realserver", "-vip", "10.0.0.100", "-state", filepath.Join(t.TempDir(), "rs.json"))
		nft(r, `add table inet fw
			add chain inet fw in { type filter hook input priority 0; policy drop; }
			add rule inet fw in ct state established,related accept
			add rule inet fw in ct state untracked ip daddr 10.0.0.100 tcp dport 80 accept
			add rule inet fw in iif lo accept
			add chain inet fw out { type filter hook output priority 0; }
			add rule inet fw out ct state invalid drop`)
		r.write("config.toml", r.configHead()+fmt.Sprintf("peer_macs = [%q, %q]\n", mac(a.director), mac(b.director))+
			"[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nports = [80]\none_mark = true\nnotrack = true\nscheduler = \"rr\"\n"+
			"real_servers = [{address = \"10.0.0.2\"}, {address = \"10.0.0.3\"}]\n")
		r.start()
		becomes(r, noTrackTable("10.0.0.100 . tcp . 80", "", "ip saddr . meta l4proto . th sport @served4 notrack ip6 saddr . meta l4proto . th sport @served6 notrack"))
	}
	a.director.Run("ip", "address", "replace", "10.0.0.100/32", "dev", "eth0")
	a.director.Announce(netip.MustParseAddr("10.0.0.100"))
	lab.Within(t, 20*time.Second, func() string {
		if got := client.Curl(4, "http://10.0.0.100/"); got["director"] != 2 || got["second"] != 2 {
			return fmt.Sprintf("answers %v, want two of each", got)
		}
		return ""
	})
}
