// Command moby programs an IPVS table with github.com/moby/ipvs, the library of
// kube-proxy and kube-router, the way they do: one call, and one answer, for
// each virtual service and each real server.
//
// The benchmark runs it inside a fresh network namespace. It prints how many
// seconds the calls took, without its own start.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/moby/ipvs"
)

func main() {
	var (
		vip      = flag.String("vip", "10.0.0.100", "`address` of the virtual services")
		port     = flag.Int("port", 20000, "first `port`")
		services = flag.Int("services", 100, "`number` of virtual services")
		first    = flag.String("first", "10.1.0.1", "`address` of the first real server; the others follow it")
		servers  = flag.Int("servers", 50, "`number` of real servers of each")
	)
	flag.Parse()
	took, err := program(net.ParseIP(*vip), *port, *services, net.ParseIP(*first), *servers)
	if err != nil {
		fmt.Fprintln(os.Stderr, "moby:", err)
		os.Exit(1)
	}
	fmt.Println(took.Seconds())
}

// program makes the table and returns how long that took.
func program(vip net.IP, port, services int, first net.IP, servers int) (time.Duration, error) {
	handle, err := ipvs.New("")
	if err != nil {
		return 0, fmt.Errorf("open IPVS: %w", err)
	}
	defer handle.Close()
	start := time.Now()
	for i := range services {
		s := &ipvs.Service{
			Address: vip, AddressFamily: syscall.AF_INET, Protocol: syscall.IPPROTO_TCP,
			Port: uint16(port + i), SchedName: "rr", Netmask: 0xffffffff,
		}
		if err := handle.NewService(s); err != nil {
			return 0, fmt.Errorf("service on port %d: %w", s.Port, err)
		}
		for j := range servers {
			d := &ipvs.Destination{
				Address: after(first, j), AddressFamily: syscall.AF_INET, Port: s.Port,
				Weight: 1, ConnectionFlags: ipvs.ConnectionFlagDirectRoute,
			}
			if err := handle.NewDestination(s, d); err != nil {
				return 0, fmt.Errorf("real server %s on port %d: %w", d.Address, s.Port, err)
			}
		}
	}
	return time.Since(start), nil
}

// after is the n-th address after the IPv4 address a.
func after(a net.IP, n int) net.IP {
	b := a.To4()
	v := (uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])) + uint32(n)
	return net.IPv4(byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}
