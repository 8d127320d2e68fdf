package main

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A prepared node accepts what is sent to the VIP, answers from the VIP, and
// keeps quiet when somebody asks who has it.
func TestRealserverOnTheWire(t *testing.T) {
	node, client := newNetns(t), newNetns(t)
	vethPair(t, node, "eth0.100", client, "eth0")
	node.run(t, "ip", "address", "add", "10.0.0.11/24", "dev", "eth0.100")
	node.run(t, "ip", "address", "add", "2001:db8::11/64", "dev", "eth0.100", "nodad")
	node.run(t, "ip", "route", "add", "default", "via", "10.0.0.1")
	client.run(t, "ip", "address", "add", "10.0.0.5/24", "dev", "eth0")
	client.run(t, "ip", "address", "add", "2001:db8::5/64", "dev", "eth0", "nodad")
	before := addressLines(node.run(t, "ip", "address"))

	state := filepath.Join(t.TempDir(), "realserver.json")
	realserver := func(want int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		node.do(t, func() {
			args := append([]string{"-vip", "10.0.0.77,2001:db8::77", "-state", state}, args...)
			if code := runRealserver(args, &out, &errs); code != want {
				t.Errorf("%q: exit %d, want %d\n%s%s", args, code, want, &out, &errs)
			}
		})
		return out.String()
	}
	realserver(1, "-check")
	if out := realserver(0); strings.Count(out, "\n") != 5 {
		t.Errorf("four changes and a hint, want 5 lines:\n%s", out)
	}
	if out := realserver(0); out != "already in place\n" {
		t.Errorf("second run: %q", out)
	}
	realserver(0, "-check")

	// Nobody answers for the VIP, while the node's own address is answered for.
	if !answersFor(t, client, "10.0.0.11") {
		t.Error("nobody answers for the node's own address")
	}
	for _, addr := range []string{"10.0.0.77", "2001:db8::77"} {
		if answersFor(t, client, addr) {
			t.Errorf("the node answers for %s", addr)
		}
	}
	// The director's part, by hand: frames for the VIP to the node's MAC.
	port := node.listen(t)
	mac := strings.TrimSpace(node.run(t, "cat", "/sys/class/net/eth0.100/address"))
	for _, addr := range []string{"10.0.0.77", "2001:db8::77"} {
		client.run(t, "ip", "neighbor", "replace", addr, "lladdr", mac, "dev", "eth0", "nud", "permanent")
		if err := client.connect(t, addr, port); err != nil {
			t.Errorf("the node does not serve the VIP: %v", err)
		}
		client.run(t, "ip", "neighbor", "delete", addr, "dev", "eth0")
	}

	realserver(0, "-remove")
	if after := addressLines(node.run(t, "ip", "address")); after != before {
		t.Errorf("addresses after -remove:\n%s\nbefore:\n%s", after, before)
	}
	for _, name := range []string{"arp_ignore", "arp_announce"} {
		if got := node.run(t, "cat", "/proc/sys/net/ipv4/conf/eth0.100/"+name); got != "0\n" {
			t.Errorf("%s after -remove is %q, want 0", name, got)
		}
	}
}

// answersFor reports whether anybody on the client's link claims addr.
func answersFor(t *testing.T, client netns, addr string) bool {
	t.Helper()
	client.do(t, func() { // a datagram makes the kernel ask who has addr
		conn, err := net.Dial("udp", net.JoinHostPort(addr, "9"))
		if err != nil {
			t.Error(err)
			return
		}
		conn.Write([]byte("who has?"))
		conn.Close()
	})
	time.Sleep(500 * time.Millisecond) // an answer on a veth takes microseconds
	return strings.Contains(client.run(t, "ip", "neighbor", "show", addr), "lladdr")
}

// addressLines is the part of `ip address` that does not change with time.
// The link-local address does: it begins as tentative.
func addressLines(shown string) string {
	var lines []string
	for line := range strings.Lines(shown) {
		if strings.Contains(line, "inet") && !strings.Contains(line, "scope link") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}
