package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// The whole way on a real link: Apply puts VIPs on the uplink, Run announces
// them, the neighbour sees the very frames and its tables follow.
func TestAnnounceOnTheWire(t *testing.T) {
	director, client := newNetns(t), newNetns(t)
	vethPair(t, director, "eth0", client, "eth0")
	director.run(t, "ip", "address", "add", "10.0.0.9/24", "dev", "eth0")
	director.run(t, "ip", "address", "add", "2001:db8::9/64", "dev", "eth0", "nodad")
	client.run(t, "ip", "address", "add", "10.0.0.5/24", "dev", "eth0")
	client.run(t, "ip", "address", "add", "2001:db8::5/64", "dev", "eth0", "nodad")
	// What the client believed before: the VIPs are at another director.
	client.run(t, "ip", "neighbor", "add", "10.0.0.77", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
	client.run(t, "ip", "neighbor", "add", "2001:db8::77", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")

	var arp, ipv6 *packet.Conn
	client.do(t, func() {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		if arp, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil); err != nil {
			t.Error(err)
		}
		if ipv6, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_IPV6, nil); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	defer arp.Close()
	defer ipv6.Close()

	log := new(bytes.Buffer)
	a := newAddresses(nil, nil, slog.New(slog.NewTextHandler(log, nil)))
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	four, six := vipOn("eth0", "10.0.0.77"), vipOn("eth0", "2001:db8::77")
	var mac [6]byte
	director.do(t, func() {
		if err := a.Apply(ctx, []VIPAddress{four, six}, "lvs0"); err != nil {
			t.Error(err)
		}
		ifi, err := deviceByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		mac = [6]byte(ifi.HardwareAddr)
	})
	if t.Failed() {
		t.FailNow()
	}
	done := make(chan error)
	go director.do(t, func() { done <- a.Run(ctx) })

	// Two rounds: at once, and a second later.
	for range 2 {
		expectFrame(t, arp, gratuitousARP(mac, four.Address, arpRequest))
		expectFrame(t, arp, gratuitousARP(mac, four.Address, arpReply))
		expectFrame(t, ipv6, unsolicitedNA(mac, six.Address))
	}
	wantNeighbour := net.HardwareAddr(mac[:]).String()
	for _, addr := range []netip.Addr{four.Address, six.Address} {
		if got := client.run(t, "ip", "neighbor", "show", addr.String()); !strings.Contains(got, wantNeighbour) {
			t.Errorf("the client still has %s at %s, want %s", addr, strings.TrimSpace(got), wantNeighbour)
		}
	}
	port := director.listen(t)
	for _, addr := range []netip.Addr{four.Address, six.Address} {
		if err := client.connect(t, addr.String(), port); err != nil {
			t.Errorf("the client does not reach the VIP: %v", err)
		}
	}

	director.do(t, func() {
		if err := a.Apply(ctx, nil, "lvs0"); err != nil {
			t.Error(err)
		}
	})
	if shown := director.run(t, "ip", "address", "show", "dev", "eth0"); strings.Contains(shown, " 10.0.0.77/") || strings.Contains(shown, " 2001:db8::77/") {
		t.Errorf("VIPs are left on the uplink:\n%s", shown)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	if strings.Contains(log.String(), "level=WARN") {
		t.Errorf("warnings:\n%s", log)
	}
}

// expectFrame waits for one frame among whatever else is on the wire.
func expectFrame(t *testing.T, conn *packet.Conn, want []byte) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("no frame %x: %v", want, err)
		}
		if bytes.Equal(buf[:n], want) {
			return
		}
	}
}

func TestAnnounceVIPErrors(t *testing.T) {
	ns := newNetns(t)
	ns.addDevice(t, "eth0") // and leave it down
	ns.do(t, func() {
		for device, want := range map[string]string{
			"gone0": "no such device",
			"lo":    "no Ethernet address",
			"eth0":  "network is down",
		} {
			err := announceVIP(device, netip.MustParseAddr("10.0.0.77"))
			if err == nil || !strings.Contains(err.Error(), "announce 10.0.0.77 on "+device) || !strings.Contains(err.Error(), want) {
				t.Errorf("announceVIP on %s = %v, want %q", device, err, want)
			}
		}
	})
}
