//go:build ipvs

// Tests of the firewall marks on a real kernel, with nft and ipvsadm as the
// referees.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/args"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"lvs-controller/test/lab"
)

// markRig is a director with a table of marks.
type markRig struct {
	*testing.T
	lab      *lab.Lab
	director *lab.Host
	table    *portTable
	log      *bytes.Buffer
}

func newMarkRig(t *testing.T) *markRig {
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	r := &markRig{T: t, lab: l, director: l.Host("director", 2), log: new(bytes.Buffer)}
	r.restart()
	return r
}

// restart forgets what the table's keeper knew.
func (r *markRig) restart() { r.table = newMarkTable(slog.New(slog.NewTextHandler(r.log, nil))) }

// apply applies want, which Check must not find before and must find after
// unless it was there already.
func (r *markRig) apply(want map[MarkedPort]uint32, already bool) {
	r.Helper()
	r.director.Do(func() {
		if change, err := r.table.Pending(want); (change == "") != already || err != nil {
			r.Errorf("pending before Apply: %q, %v, want none: %v", change, err, already)
		}
		if err := r.table.Apply(want); err != nil {
			r.Errorf("Apply: %v", err)
		}
		if change, err := r.table.Pending(want); change != "" || err != nil {
			r.Errorf("Check after Apply: %v, %v", change, err)
		}
	})
}

// logged takes the log so far, which must be one line with these words, or
// nothing without words.
func (r *markRig) logged(words ...string) {
	r.Helper()
	got := r.log.String()
	r.log.Reset()
	if lines := strings.Count(got, "\n"); lines != min(len(words), 1) {
		r.Errorf("%d lines of log for %q:\n%s", lines, words, got)
	}
	for _, w := range words {
		if !strings.Contains(got, w) {
			r.Errorf("the log does not say %q:\n%s", w, got)
		}
	}
}

// nft runs a script of nft commands on the director, in one transaction.
func (r *markRig) nft(script string) {
	r.Helper()
	cmd := r.director.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("%v: %s\n%s", err, out, script)
	}
}

// ours is what `nft list` says of the table, without its layout.
func (r *markRig) ours() string {
	r.Helper()
	return oneSpace(r.director.Run("nft", "list", "table", "inet", "lvs-controller"))
}

// transactions calls f and returns what nf_tables reported meanwhile, in order:
// "newgen" ends each transaction that changed something.
func (r *markRig) transactions(f func()) []string {
	r.Helper()
	names := map[netlink.HeaderType]string{ // the low byte is NFT_MSG_*
		unix.NFT_MSG_NEWTABLE: "newtable", unix.NFT_MSG_NEWCHAIN: "newchain", unix.NFT_MSG_NEWRULE: "newrule",
		unix.NFT_MSG_DELTABLE: "deltable", unix.NFT_MSG_DELCHAIN: "delchain", unix.NFT_MSG_DELRULE: "delrule",
		unix.NFT_MSG_NEWSET: "newset", unix.NFT_MSG_NEWSETELEM: "newelement", unix.NFT_MSG_NEWGEN: "newgen",
		unix.NFT_MSG_DELSET: "delset", unix.NFT_MSG_DELSETELEM: "delelement",
	}
	var listener *netlink.Conn
	var err error
	r.director.Do(func() {
		listener, err = netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	})
	if err != nil {
		r.Fatal(err)
	}
	defer listener.Close()
	f()
	var seen []string
	for {
		listener.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // sent before Apply had its answer
		messages, err := listener.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return seen
		}
		if err != nil {
			r.Fatal(err)
		}
		for _, m := range messages {
			seen = append(seen, names[m.Header.Type&0xff])
		}
	}
}

// The table by nft's word, from the first mark to the last, between tables of
// other hands that never change.
func TestKernelMarkTable(t *testing.T) {
	r := newMarkRig(t)
	r.apply(nil, true)
	r.logged()
	r.nft(`add table inet lvs-controller2
		add map inet lvs-controller2 marks4 { type ipv4_addr : mark; }
		add element inet lvs-controller2 marks4 { 10.0.0.1 : 0x5 }
		add table ip lvs-controller
		add chain ip lvs-controller input { type filter hook input priority -150; }
		add rule ip lvs-controller input meta mark set 0x9 counter
		add table ip6 lvs-controller
		add chain ip6 lvs-controller marks6
		add table inet aaa
		add chain inet aaa input { type filter hook input priority 0; policy drop; }`)
	foreign := r.director.Run("nft", "list", "ruleset")

	want := make(map[MarkedPort]uint32)
	steps := []struct {
		name         string
		set          map[MarkedPort]uint32 // 0 = removed
		table        string                // "" = none
		transactions string
		log          []string
	}{
		{
			"the first marks", map[MarkedPort]uint32{
				markedPort("10.0.0.1", "80/tcp"): 0x1001, markedPort("10.0.0.1", "443/tcp"): 0x1001,
				markedPort("2001:db8::1", "53/udp"): 0x1002, markedPort("10.0.0.1", "3868/sctp"): 0xffffffff,
			},
			nftTable("10.0.0.1 . sctp . 3868 : 0xffffffff, 10.0.0.1 . tcp . 80 : M1001, 10.0.0.1 . tcp . 443 : M1001", "2001:db8::1 . udp . 53 : M1002"),
			"newtable newset newset newchain newrule newrule newelement newelement newelement newelement newgen",
			[]string{"why=configured", "add 80/tcp, 443/tcp of 10.0.0.1 with mark 0x1001; add 3868/sctp"},
		},
		{
			"a port moves", map[MarkedPort]uint32{markedPort("10.0.0.1", "443/tcp"): 0x1002},
			nftTable("10.0.0.1 . sctp . 3868 : 0xffffffff, 10.0.0.1 . tcp . 80 : M1001, 10.0.0.1 . tcp . 443 : M1002", "2001:db8::1 . udp . 53 : M1002"),
			"delelement newelement newgen",
			[]string{"why=configured", `"add 443/tcp of 10.0.0.1 with mark 0x1002; remove 443/tcp of 10.0.0.1 with mark 0x1001"`},
		},
		{
			"ports go", map[MarkedPort]uint32{markedPort("10.0.0.1", "3868/sctp"): 0, markedPort("2001:db8::1", "53/udp"): 0},
			nftTable("10.0.0.1 . tcp . 80 : M1001, 10.0.0.1 . tcp . 443 : M1002", ""),
			"delelement delelement newgen",
			[]string{"why=configured", `"remove 3868/sctp of 10.0.0.1 with mark 0xffffffff; remove 53/udp of 2001:db8::1 with mark 0x1002"`},
		},
		{
			"the last ports go", map[MarkedPort]uint32{markedPort("10.0.0.1", "80/tcp"): 0, markedPort("10.0.0.1", "443/tcp"): 0},
			"",
			"delrule delrule delset delset delchain deltable newgen",
			[]string{"why=configured", `"delete the table"`},
		},
	}
	for _, step := range steps {
		t.Log(step.name)
		for port, mark := range step.set {
			if want[port] = mark; mark == 0 {
				delete(want, port)
			}
		}
		transactions := r.transactions(func() { r.apply(want, false) })
		if diff := cmp.Diff(step.transactions, strings.Join(transactions, " ")); diff != "" {
			t.Errorf("transactions (-want +got):\n%s", diff)
		}
		r.logged(step.log...)
		if again := r.transactions(func() { r.apply(want, true) }); again != nil {
			t.Errorf("unchanged, and yet written: %q", again)
		}
		r.logged()
		ruleset := r.director.Run("nft", "list", "ruleset")
		if step.table != "" {
			text := strings.NewReplacer("M1001", nftMark(0x1001), "M1002", nftMark(0x1002)).Replace(step.table)
			if diff := cmp.Diff(text, r.ours()); diff != "" {
				t.Errorf("nft list (-want +got):\n%s", diff)
			}
			ruleset = strings.Replace(ruleset, r.director.Run("nft", "list", "table", "inet", "lvs-controller"), "", 1)
		}
		if diff := cmp.Diff(oneSpace(foreign), oneSpace(ruleset)); diff != "" {
			t.Errorf("tables of other hands (-before +after):\n%s", diff)
		}
	}
}

// Whatever another program does to the table is put right in one transaction and
// one line of log.
func TestKernelMarkRepair(t *testing.T) {
	r := newMarkRig(t)
	want := map[MarkedPort]uint32{markedPort("10.0.0.1", "80/tcp"): 1, markedPort("2001:db8::1", "80/tcp"): 1}
	r.apply(want, false)
	r.logged("why=configured")
	whole := r.ours()
	if same := nftTable("10.0.0.1 . tcp . 80 : "+nftMark(1), "2001:db8::1 . tcp . 80 : "+nftMark(1)); whole != same {
		t.Fatalf("nft list (-want +got):\n%s", cmp.Diff(same, whole))
	}
	const table = "inet lvs-controller"
	text := r.director.Run("nft", "list", "table", "inet", "lvs-controller")
	for name, script := range map[string]string{
		"table deleted":       "delete table " + table,
		"ruleset flushed":     "flush ruleset",
		"table dormant":       "add table " + table + " { flags dormant; }",
		"rules flushed":       "flush chain " + table + " input",
		"rule added":          "add rule " + table + " input counter drop",
		"rule put first":      "insert rule " + table + " input tcp dport 80 accept",
		"unknown rule":        "add rule " + table + " input rt classid 5 socket transparent 1 accept",
		"chain added":         "add chain " + table + " other",
		"hook added":          "add chain " + table + " other { type filter hook forward priority 0; policy drop; }",
		"policy drop":         "add chain " + table + " input { policy drop; }",
		"set added":           "add set " + table + " other { type ether_addr; }",
		"set of odd type":     "add set " + table + " other { typeof vlan id; }",
		"counter added":       "add counter " + table + " other",
		"map flushed":         "flush map " + table + " marks4",
		"element added":       "add element " + table + " marks4 { 10.0.0.9 . udp . 9 : 9 }",
		"element for all":     "add element " + table + " marks4 { * : 9 }",
		"element of ICMP":     "add element " + table + " marks4 { 10.0.0.1 . icmp . 9 : 9 }",
		"element removed":     "delete element " + table + " marks6 { 2001:db8::1 . tcp . 80 }",
		"another mark":        "delete element " + table + " marks4 { 10.0.0.1 . tcp . 80 }\nadd element " + table + " marks4 { 10.0.0.1 . tcp . 80 : 7 }",
		"made anew by hand":   "delete table " + table + "\n" + strings.Replace(text, "mangle", "filter", 1),
		"another kind of map": "delete table " + table + "\n" + strings.ReplaceAll(text, "mark\n", "mark\nflags timeout\n"),
	} {
		if name == "element for all" && !runsOn(t, 5, 13) {
			continue // nft cannot make one
		}
		t.Log(name)
		r.nft(script)
		transactions := r.transactions(func() { r.apply(want, false) })
		if n := strings.Count(strings.Join(transactions, " "), "newgen"); n != 1 {
			t.Errorf("%s: repaired in %d transactions: %q", name, n, transactions)
		}
		r.logged(`why="repaired, another program changed it: `)
		if diff := cmp.Diff(whole, r.ours()); diff != "" {
			t.Errorf("%s: nft list (-want +got):\n%s", name, diff)
		}
	}

	t.Log("nft's own rendering of the table is the same to us, but for the marks' byte order")
	r.nft("delete table " + table + "\n" + strings.ReplaceAll(text, nftMark(1), "0x1"))
	r.apply(want, true)
	r.logged()

	t.Log("a table of an earlier run is adopted, one in another form is rebuilt")
	r.restart()
	r.apply(want, true)
	r.logged()
	r.nft("add chain " + table + " other")
	r.restart()
	r.apply(want, false)
	r.logged(`why="the table had another form: 4 chains, maps and other objects`)
	r.restart()
	r.nft("add chain " + table + " other")
	r.director.Do(func() {
		for range 2 {
			if err := r.table.Remove(); err != nil {
				t.Error(err)
			}
		}
	})
	r.logged("delete the table")
	if got := r.director.Run("nft", "list", "ruleset"); got != "" {
		t.Errorf("left after Remove:\n%s", got)
	}
}

// Far more elements than one message or a socket's usual buffer can hold.
func TestKernelMarkScale(t *testing.T) {
	r := newMarkRig(t)
	marks := func(mark uint32) map[MarkedPort]uint32 {
		all := make(map[MarkedPort]uint32)
		for i := range 2000 {
			for _, address := range []string{"10.0.0.1", "2001:db8::1"} {
				all[markedPort(address, fmt.Sprint(1+i, "/tcp"))] = mark
			}
		}
		return all
	}
	for mark := range uint32(2) {
		start := time.Now()
		r.apply(marks(1+mark), false)
		t.Logf("4000 elements: %s", time.Since(start))
		if got := strings.Count(r.ours(), ": "+nftMark(1+mark)); got != 4000 {
			t.Errorf("nft lists %d elements with mark %d", got, 1+mark)
		}
		r.logged("and 1990 more of 2001:db8::1")
	}
}

// Each packet has the mark it should have after our chain, whatever it had
// before: TCP, UDP and SCTP of both families, whole or in fragments.
func TestKernelMarkPackets(t *testing.T) {
	r := newMarkRig(t)
	client := r.lab.Host("client", 3)
	// IPVS has IPv6 packets put together as soon as it has a service.
	r.director.Run("ipvsadm", "-A", "-f", "99", "-6", "-s", "rr")
	r.nft(`add table inet watch
		add set inet watch small { type inet_proto . inet_service . mark; flags dynamic; size 1000; }
		add set inet watch large { type inet_proto . inet_service . mark; flags dynamic; size 1000; }
		add chain inet watch before { type filter hook prerouting priority -300; }
		add rule inet watch before meta mark set 0x77
		add chain inet watch after { type filter hook input priority 97; }
		add rule inet watch after meta l4proto != ipv6-icmp meta length < 1400 add @small { meta l4proto . th dport . meta mark }
		add rule inet watch after meta length > 4000 add @large { meta l4proto . th dport . meta mark }`)
	want := make(map[MarkedPort]uint32)
	for _, a := range []string{r.director.IPv4.String(), r.director.IPv6.String()} {
		want[markedPort(a, "80/tcp")] = 0x1001
		want[markedPort(a, "80/udp")] = 0x1002
		want[markedPort(a, "80/sctp")] = 0x1003
		want[markedPort(a, "81/udp")] = 0x1004
	}
	r.apply(want, false)

	client.Do(func() {
		for _, a := range []netip.Addr{r.director.IPv4, r.director.IPv6} {
			for _, port := range []uint16{80, 82} {
				to := netip.AddrPortFrom(a, port)
				if conn, err := net.Dial("tcp", to.String()); err == nil {
					conn.Close()
				}
				if err := connectSCTP(to); err != nil {
					t.Errorf("SCTP to %s: %v", to, err)
				}
				sendUDP(t, to, 4)
			}
			sendUDP(t, netip.AddrPortFrom(a, 81), 5000)
			sendUDP(t, netip.AddrPortFrom(a, 82), 5000)
		}
		if err := sendICMP(r.director.IPv4, 80); err != nil {
			t.Errorf("ICMP: %v", err)
		}
	})
	for set, elements := range map[string][]string{
		"small": {"icmp . 80 . 0x00000077",
			"sctp . 80 . 0x00001003", "sctp . 82 . 0x00000077",
			"tcp . 80 . 0x00001001", "tcp . 82 . 0x00000077",
			"udp . 80 . 0x00001002", "udp . 82 . 0x00000077"},
		"large": {"udp . 81 . 0x00001004", "udp . 82 . 0x00000077"},
	} {
		lab.Within(t, 5*time.Second, func() string {
			text := oneSpace(r.director.Run("nft", "list", "set", "inet", "watch", set))
			_, text, _ = strings.Cut(text, "elements = { ")
			text, _, _ = strings.Cut(text, " }")
			got := strings.Split(text, ", ")
			slices.Sort(got)
			return cmp.Diff(elements, got)
		})
	}
}

// A firewall-mark service of IPVS keeps each client on one node for all ports
// of its group, whatever happens to the table meanwhile.
func TestKernelMarkSticky(t *testing.T) {
	r := newMarkRig(t)
	const vip4, vip6 = "10.0.0.100", "2001:db8::100"
	var clients []*lab.Host
	for i := range 3 {
		clients = append(clients, r.lab.Host(fmt.Sprint("client", i+1), 21+i))
	}
	r.director.Run("ip", "address", "add", vip4+"/32", "dev", "eth0")
	r.director.Run("ip", "address", "add", vip6+"/128", "dev", "eth0", "nodad")
	both := [][]string{{"-f", "4097"}, {"-f", "4097", "-6"}}
	for _, service := range both {
		r.director.Run(append([]string{"ipvsadm", "-A"}, append(service, "-s", "rr", "-p", "60")...)...)
	}
	r.director.Run("ipvsadm", "-A", "-f", "4098", "-s", "rr")
	for i, name := range []string{"node1", "node2"} {
		n := r.lab.Host(name, 11+i)
		n.Run(*args.Binary, "realserver", "-vip", vip4+","+vip6, "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), name))
		n.Serve(80, 443)
		n.ServeUDP(addr(vip4), 53)
		n.ServeUDP(addr(vip6), 53)
		for j, service := range both {
			node := []string{n.IPv4.String(), "[" + n.IPv6.String() + "]:0"}[j]
			r.director.Run(append([]string{"ipvsadm", "-a"}, append(service, "-r", node, "-g")...)...)
		}
		if name == "node2" {
			r.director.Run("ipvsadm", "-a", "-f", "4098", "-r", n.IPv4.String(), "-g")
		}
	}
	want := make(map[MarkedPort]uint32)
	for _, port := range []string{"80/tcp", "443/tcp", "53/udp"} {
		want[markedPort(vip4, port)], want[markedPort(vip6, port)] = 4097, 4097
	}
	r.apply(want, false)

	for _, vip := range []string{vip4, "[" + vip6 + "]"} {
		nodes := make(map[string]int)
		for _, c := range clients {
			answers := make(map[string]int)
			for range 2 {
				for _, port := range []string{"80", "443"} {
					for node, n := range c.Curl(2, "http://"+vip+":"+port+"/") {
						answers[node] += n
					}
				}
				for _, size := range []int{4, 5000} {
					c.Do(func() { answers[askLarge(netip.MustParseAddrPort(vip+":53"), size)]++ })
				}
			}
			for node, n := range answers {
				if nodes[node]++; n != 12 {
					t.Errorf("%s: answers to %s: %v", vip, c.Name, answers)
				}
			}
		}
		if len(nodes) != 2 {
			t.Errorf("%s: clients of the nodes: %v", vip, nodes)
		}
	}

	t.Log("without the table open connections go on and new ones have no service")
	url := "http://" + vip4 + ":443/"
	stream := clients[0].OpenStream(netip.MustParseAddrPort(vip4 + ":80"))
	defer stream.Close()
	r.director.Do(func() {
		if err := r.table.Remove(); err != nil {
			t.Error(err)
		}
	})
	if got := clients[0].Curl(3, url); got["failed"] != 3 {
		t.Errorf("answers without marks: %v", got)
	}
	_, before, _ := stream.State()
	lab.Within(t, 10*time.Second, func() string {
		if _, n, err := stream.State(); err != nil || n < before+5 {
			return fmt.Sprintf("the open connection: %d lines after %d, %v", n, before, err)
		}
		return ""
	})
	r.apply(want, false)

	t.Log("a port moves between marks under load, again and again")
	load := clients[1].StartLoad(netip.MustParseAddrPort(vip4+":443"), 4, time.Millisecond)
	r.director.Do(func() {
		// An even number of times, and until the clients have asked often enough.
		for i := 0; i < 40 || i%2 == 1 || i < 4000 && load.Report().Requests < 50; i++ {
			want[markedPort(vip4, "443/tcp")] = 4098 - uint32(i%2)
			if err := r.table.Apply(want); err != nil {
				t.Error(err)
			}
		}
	})
	if report := load.Stop(); report.Failed() > 0 || report.Requests < 50 || len(report.Answers) != 2 {
		t.Errorf("%s", report)
	}
	want[markedPort(vip4, "443/tcp")] = 4098
	r.apply(want, false)
	for _, c := range clients {
		if got := c.Curl(3, url); got["node2"] != 3 {
			t.Errorf("answers to %s on the port that moved: %v", c.Name, got)
		}
	}
}

func oneSpace(s string) string { return strings.Join(strings.Fields(s), " ") }

// nftMark is a mark in a map as nft shows it.
func nftMark(mark uint32) string {
	return fmt.Sprintf("0x%08x", binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, mark)))
}

// nftTable is the whole table with these elements, in nft's order.
func nftTable(marks4, marks6 string) string {
	for _, m := range []*string{&marks4, &marks6} {
		if *m != "" {
			*m = "elements = { " + *m + " }"
		}
	}
	const comment = `comment "marks are in this machine's byte order"`
	return oneSpace(`table inet lvs-controller {
		map marks4 { type ipv4_addr . inet_proto . inet_service : mark ` + comment + " " + marks4 + ` }
		map marks6 { type ipv6_addr . inet_proto . inet_service : mark ` + comment + " " + marks6 + ` }
		chain input {
			type filter hook input priority mangle; policy accept;
			meta mark set ip daddr . meta l4proto . th dport map @marks4
			meta mark set ip6 daddr . meta l4proto . th dport map @marks6
		}
	}`)
}

func sendUDP(t *testing.T, to netip.AddrPort, size int) {
	conn, err := net.Dial("udp", to.String())
	if err == nil {
		_, err = conn.Write(make([]byte, size))
		conn.Close()
	}
	if err != nil {
		t.Errorf("%d bytes of UDP to %s: %v", size, to, err)
	}
}

// connectSCTP sends an INIT and does not wait for an answer.
func connectSCTP(to netip.AddrPort) error {
	family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port())})
	if to.Addr().Is4() {
		addr.(*unix.SockaddrInet4).Addr = to.Addr().As4()
	} else {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, addr); err != unix.EINPROGRESS {
		return err
	}
	return nil
}

// sendICMP sends an ICMP packet whose checksum is where others have their
// destination port.
func sendICMP(to netip.Addr, checksum uint16) error {
	conn, err := net.Dial("ip4:icmp", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	packet := binary.BigEndian.AppendUint16([]byte{8, 0}, checksum)
	_, err = conn.Write(append(packet, 0, 0, 0, 0))
	return err
}

// askLarge sends one datagram and returns what the answer says.
func askLarge(to netip.AddrPort, size int) string {
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		return err.Error()
	}
	answer := make([]byte, 100)
	n, err := conn.Read(answer)
	if err != nil && err != io.EOF {
		return err.Error()
	}
	return string(answer[:n])
}
