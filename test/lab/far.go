package lab

import (
	"fmt"
	"net/netip"
)

// Router adds the machine that the hosts' default route names: 10.0.0.254, and
// 2001:db8::254, to which no host has a route by default.
func (l *Lab) Router(name string) *Host {
	h := l.Namespace(name)
	h.plug(254)
	h.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return h
}

// Behind adds a machine that only router connects to the segment: 10.1.N.2 and
// 2001:db8:N::2 on eth0.
func (l *Lab) Behind(router *Host, name string, n int) *Host {
	h := l.Namespace(name)
	h.IPv4 = netip.AddrFrom4([4]byte{10, 1, byte(n), 2})
	h.IPv6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::2", n))
	port := fmt.Sprintf("far%d", n)
	h.Batch(
		fmt.Sprintf("link add eth0 type veth peer name %s netns %s", port, router.ns),
		"link set eth0 up",
		fmt.Sprintf("address add %s/24 dev eth0", h.IPv4),
		fmt.Sprintf("address add %s/64 dev eth0 nodad", h.IPv6),
		fmt.Sprintf("route add default via 10.1.%d.1", n),
	)
	router.Batch(
		"link set "+port+" up",
		fmt.Sprintf("address add 10.1.%d.1/24 dev %s", n, port),
		fmt.Sprintf("address add 2001:db8:%d::1/64 dev %s nodad", n, port),
	)
	h.Batch(fmt.Sprintf("route add default via 2001:db8:%d::1", n))
	return h
}
