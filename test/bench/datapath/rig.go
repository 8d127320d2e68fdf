// Package datapath measures what a packet costs on its way through a director.
//
// `make bench` and `make bench-short` compile its tests and run them in a virtual machine
// (test/bench). Three network namespaces are in a row: client, director, and servers. One
// thread of the client sends UDP packets of distinct flows through a raw socket. All
// devices are veth, so the kernel does everything else in that thread's softirq, on the
// same CPU: the time that the sending takes, divided by the number of packets, is the cost
// of one packet, sender included. The servers' namespace drops the packet as soon as IP
// has it, because its MAC address is another one. The floor is the same sender through a
// director that only forwards, and both are measured in turns. No test fails because of a
// time, but each fails when a packet is lost, or when it arrives in another form than the
// forwarding method makes.
package datapath

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/bench/guest"
	"lvs-controller/test/lab"
)

var (
	directorMAC = net.HardwareAddr{2, 0, 0, 0, 2, 1}
	foreignMAC  = net.HardwareAddr{2, 0, 0, 0, 9, 9} // no device has it: dropped on arrival
	vip         = netip.MustParseAddr("10.0.0.100")
	firstServer = netip.MustParseAddr("10.1.1.1")
)

const port = 5000

// rig is a client, a director and its real servers.
type rig struct {
	*testing.T
	lab      *lab.Lab
	client   *lab.Host
	director *lab.Host
	sender   *sender
	arrived  *counter
}

// newRig makes the three namespaces, with that many real servers.
func newRig(t *testing.T, servers int) *rig {
	t.Helper()
	l := lab.New(t.Fatalf)
	r := &rig{T: t, lab: l, client: l.Namespace("client"), director: l.Namespace("director")}
	last := l.Namespace("servers")
	for _, h := range []*lab.Host{r.client, r.director, last} {
		// Nothing but the benchmark's packets: no router solicitations.
		h.Run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	}
	l.Cable(r.client, r.director)
	l.Cable(r.director, last)
	r.director.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	lines := []string{
		"link set client address " + directorMAC.String(),
		"address add 10.0.0.2/24 dev client",
		"route add 10.128.0.0/9 dev client",
		"address add 10.1.0.1/16 dev servers",
		fmt.Sprintf("address add %s/32 dev lo", vip),
	}
	for _, a := range guest.AddressesFrom(firstServer, servers) {
		lines = append(lines, fmt.Sprintf("neigh add %s lladdr %s dev servers nud permanent", a, foreignMAC))
	}
	r.director.Batch(lines...)
	var err error
	r.sender, err = newSender(r.client, "director")
	lab.Must(t, err)
	r.arrived, err = newCounter(last, "director")
	lab.Must(t, err)
	return r
}

func (r *rig) close() {
	r.sender.close()
	r.arrived.file.Close()
	r.lab.Close()
}

// stretch sends n packets of as many flows, from the given one on, and returns the µs of
// one. Each must arrive, with more bytes than it was sent with.
func (r *rig) stretch(to target, first, n, flows, more int) float64 {
	r.Helper()
	octets, packets, err := r.arrived.read()
	lab.Must(r.T, err)
	start := time.Now()
	lab.Must(r.T, r.sender.send(to, first, n, flows))
	var took time.Duration
	for {
		o, p, err := r.arrived.read()
		lab.Must(r.T, err)
		if took = time.Since(start); p-packets >= n {
			if want := n * (frameBytes + more); p-packets > n || o-octets != want {
				r.Fatalf("%d packets with %d bytes have arrived, want %d with %d", p-packets, o-octets, n, want)
			}
			return perPacket(took, n)
		}
		if took > time.Minute {
			r.Fatalf("%d of %d packets have arrived", p-packets, n)
		}
		time.Sleep(time.Millisecond)
	}
}

// dropped is stretch for packets that the director drops on arrival: the sender alone.
func (r *rig) dropped(n int) float64 {
	r.Helper()
	start := time.Now()
	lab.Must(r.T, r.sender.send(target{foreignMAC, vip, port}, 0, n, n))
	return perPacket(time.Since(start), n)
}

func perPacket(took time.Duration, n int) float64 {
	return float64(took.Nanoseconds()) / 1000 / float64(n)
}

// connections counts the entries of the director's connection table, by what IPVS counts
// for its real servers.
func (r *rig) connections() int {
	r.Helper()
	n := 0
	for line := range strings.Lines(r.director.Run("ipvsadm", "-Ln")) {
		fields := strings.Fields(line)
		if len(fields) != 6 || fields[0] != "->" || fields[1] == "RemoteAddress:Port" {
			continue
		}
		var active, inactive int
		if _, err := fmt.Sscan(fields[4]+" "+fields[5], &active, &inactive); err != nil {
			r.Fatalf("ipvsadm -Ln: %q: %v", line, err)
		}
		n += active + inactive
	}
	return n
}

// nft adds rules to the director.
func (r *rig) nft(rules string) {
	r.Helper()
	cmd := r.director.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("nft: %v: %s\n%s", err, out, rules)
	}
}

// counted is the number of packets that a counter of the director's firewall has.
func (r *rig) counted(name string) int {
	r.Helper()
	text := r.director.Run("nft", "list", "counter", "inet", "firewall", name)
	_, after, _ := strings.Cut(text, "packets ")
	var n int
	if _, err := fmt.Sscan(after, &n); err != nil {
		r.Fatalf("nft list counter: %v: %s", err, text)
	}
	return n
}
