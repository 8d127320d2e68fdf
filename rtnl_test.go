package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func TestDefaultRouteDevice(t *testing.T) {
	route := func(family uint8, out, metric uint32, change func(*rtnetlink.RouteMessage)) rtnetlink.RouteMessage {
		m := rtnetlink.RouteMessage{Family: family, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
		m.Attributes.OutIface, m.Attributes.Priority = out, metric
		if change != nil {
			change(&m)
		}
		return m
	}
	multipath := func(m *rtnetlink.RouteMessage) {
		for _, index := range []uint32{7, 8} {
			m.Attributes.Multipath = append(m.Attributes.Multipath,
				rtnetlink.NextHop{Hop: rtnetlink.RTNextHop{IfIndex: index}})
		}
	}
	for _, tt := range []struct {
		name   string
		routes []rtnetlink.RouteMessage
		want   int
	}{
		{"none", nil, 0},
		{"one", []rtnetlink.RouteMessage{route(unix.AF_INET, 2, 0, nil)}, 2},
		{"lowest metric", []rtnetlink.RouteMessage{
			route(unix.AF_INET, 2, 600, nil), route(unix.AF_INET, 3, 100, nil), route(unix.AF_INET, 4, 200, nil)}, 3},
		{"first of equals", []rtnetlink.RouteMessage{
			route(unix.AF_INET, 2, 100, nil), route(unix.AF_INET, 3, 100, nil)}, 2},
		{"several next hops", []rtnetlink.RouteMessage{route(unix.AF_INET, 0, 0, multipath)}, 7},
		{"not these", []rtnetlink.RouteMessage{
			route(unix.AF_INET6, 9, 0, nil),
			route(unix.AF_INET, 9, 0, func(m *rtnetlink.RouteMessage) { m.DstLength = 8 }),
			route(unix.AF_INET, 9, 0, func(m *rtnetlink.RouteMessage) { m.Table = 100 }),
			route(unix.AF_INET, 9, 0, func(m *rtnetlink.RouteMessage) { m.Type = unix.RTN_BLACKHOLE }),
			route(unix.AF_INET, 9, 0, func(m *rtnetlink.RouteMessage) { m.Flags = unix.RTNH_F_DEAD }),
			route(unix.AF_INET, 0, 0, nil), // no device
		}, 0},
	} {
		if got := defaultRouteDevice(tt.routes, unix.AF_INET); got != tt.want {
			t.Errorf("%s: device %d, want %d", tt.name, got, tt.want)
		}
	}
}

// scriptedDumps answers each request for a list with the next of its answers, made of
// parts; the last one again and again.
type scriptedDumps struct {
	answers [][][]byte
	asked   int
	parts   [][]byte
}

func (s *scriptedDumps) Send(m netlink.Message) (netlink.Message, error) {
	s.asked++
	s.parts = append(s.parts, s.answers[0]...)
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	m.Header.Sequence = 7
	return m, nil
}

func (s *scriptedDumps) Close() error                             { return nil }
func (s *scriptedDumps) SetOption(netlink.ConnOption, bool) error { return nil }

func (s *scriptedDumps) receive() ([]byte, error) {
	if len(s.parts) == 0 {
		return nil, os.ErrDeadlineExceeded
	}
	part := s.parts[0]
	s.parts = s.parts[1:]
	return part, nil
}

// netlinkMessage encodes a message of the answer to request 7.
func netlinkMessage(t *testing.T, kind, flags uint16, data []byte) []byte {
	t.Helper()
	b, err := (&netlink.Message{
		Header: netlink.Header{Length: uint32(16 + len(data)), Type: netlink.HeaderType(kind), Flags: netlink.HeaderFlags(flags), Sequence: 7},
		Data:   data,
	}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An answer that the kernel marks as interrupted, in whatever message, counts for nothing.
func TestInterruptedList(t *testing.T) {
	neighbour := func(last byte, flags uint16) []byte {
		body := append(make([]byte, 12), 8, 0, unix.NDA_DST, 0, 192, 0, 2, last)
		body[0], body[4], body[8] = unix.AF_INET, 2, unix.NUD_FAILED
		return netlinkMessage(t, unix.RTM_NEWNEIGH, flags|unix.NLM_F_MULTI, body)
	}
	done := func(flags uint16) []byte {
		return netlinkMessage(t, unix.NLMSG_DONE, flags|unix.NLM_F_MULTI, make([]byte, 4))
	}
	const mark = unix.NLM_F_DUMP_INTR
	good := [][]byte{neighbour(1, 0), slices.Concat(neighbour(2, 0), done(0))}
	for _, tt := range []struct {
		name  string
		torn  [][]byte
		times int
	}{
		{"none", nil, 0},
		{"an entry", [][]byte{neighbour(1, 0), neighbour(9, mark), done(0)}, 1},
		{"an entry of the first part", [][]byte{slices.Concat(neighbour(9, mark), neighbour(1, 0)), done(0)}, 2},
		{"only the last message", [][]byte{neighbour(9, 0), done(mark)}, dumpTries - 1},
		{"always", [][]byte{neighbour(9, 0), done(mark)}, dumpTries},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &scriptedDumps{answers: append(slices.Repeat([][][]byte{tt.torn}, tt.times), good)}
			entries, err := (&rtnl{dumps: s}).neighbourEntries(time.Now())
			if tt.times == dumpTries {
				if len(entries) > 0 || !errors.Is(err, errInterrupted) || !strings.Contains(err.Error(), "list neighbours: ") || s.asked != dumpTries {
					t.Errorf("%d times asked: %v, %v; want an error that says which list", s.asked, entries, err)
				}
				return
			}
			got := slices.SortedFunc(maps.Keys(entries), netip.Addr.Compare)
			want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
			if err != nil || !slices.Equal(got, want) || s.asked != tt.times+1 {
				t.Errorf("%d times asked: %v, %v; want %v", s.asked, got, err, want)
			}
		})
	}
	refused := &scriptedDumps{answers: [][][]byte{{netlinkMessage(t, unix.NLMSG_DONE, unix.NLM_F_MULTI, binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EBUSY)+1))}}}
	if _, err := (&rtnl{dumps: refused}).links(); !errors.Is(err, unix.EBUSY) || refused.asked != 1 {
		t.Errorf("a list that ends with an error: %v, asked %d times", err, refused.asked)
	}
}

// withRtnl calls f inside ns with a connection there.
func withRtnl(t *testing.T, ns netns, f func(*rtnl)) {
	t.Helper()
	ns.do(t, func() {
		conn, err := openRtnl(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		f(conn)
	})
}

func TestRtnlAddresses(t *testing.T) {
	ns := newNetns(t)
	ns.addDevice(t, "eth0.100")
	ns.run(t, "ip", "link", "set", "eth0.100", "addrgenmode", "none") // what `ip address show` says stays the same
	ns.run(t, "ip", "link", "set", "eth0.100", "up")
	ns.run(t, "ip", "address", "add", "10.0.0.9/24", "dev", "eth0.100")

	for _, tt := range []struct {
		vip  VIPAddress
		want []string // in `ip address show`
	}{
		{vipOn("lo", "10.0.0.1"), []string{"inet 10.0.0.1/32 scope host noprefixroute lo:lvs"}},
		{vipOn("lo", "2001:db8::1"), []string{"inet6 2001:db8::1/128 scope global nodad deprecated noprefixroute", "preferred_lft 0sec"}},
		{vipOn("eth0.100", "10.0.0.2"), []string{"inet 10.0.0.2/32 scope global noprefixroute eth0.100:lvs"}},
		{vipOn("eth0.100", "2001:db8::2"), []string{"inet6 2001:db8::2/128 scope global nodad deprecated noprefixroute"}},
	} {
		withRtnl(t, ns, func(r *rtnl) {
			has := func() bool {
				have, err := r.List(tt.vip.Device)
				if err != nil {
					t.Error(err)
				}
				return slices.ContainsFunc(have, func(d deviceAddress) bool { return d.Address == tt.vip.Address })
			}
			if has() {
				t.Errorf("%s is there before Add", tt.vip)
			}
			for _, want := range []bool{true, false} {
				if changed, err := r.Add(tt.vip); changed != want || err != nil {
					t.Errorf("Add(%s) = %v, %v, want %v", tt.vip, changed, err, want)
				}
			}
			if !has() {
				t.Errorf("%s is missing after Add", tt.vip)
			}
		})
		shown := ns.run(t, "ip", "address", "show", "dev", tt.vip.Device)
		for _, want := range tt.want {
			if !strings.Contains(shown, want) {
				t.Errorf("%s: no %q in\n%s", tt.vip, want, shown)
			}
		}
		withRtnl(t, ns, func(r *rtnl) { renewed(t, tt.vip, func() error { return r.Renew(tt.vip) }) })
		if after := ns.run(t, "ip", "address", "show", "dev", tt.vip.Device); after != shown {
			t.Errorf("Renew(%s) has changed\n%s to\n%s", tt.vip, shown, after)
		}
		withRtnl(t, ns, func(r *rtnl) {
			for _, want := range []bool{true, false} {
				if changed, err := r.Remove(tt.vip); changed != want || err != nil {
					t.Errorf("Remove(%s) = %v, %v, want %v", tt.vip, changed, err, want)
				}
			}
		})
		if shown := ns.run(t, "ip", "address", "show", "dev", tt.vip.Device); strings.Contains(shown, tt.vip.Address.String()+"/") {
			t.Errorf("%s is still there:\n%s", tt.vip, shown)
		}
	}

	// A host address that an operator added by hand, with another label and
	// scope, goes; it is on its device alone.
	ns.run(t, "ip", "address", "add", "10.0.0.3/32", "dev", "lo")
	withRtnl(t, ns, func(r *rtnl) {
		if have, err := r.List("eth0.100"); err != nil || slices.Contains(have, deviceAddress{Address: vipOn("lo", "10.0.0.3").Address, Label: "lo"}) {
			t.Errorf("lo's address is listed on eth0.100: %v, %v", have, err)
		}
		for _, want := range []bool{true, false} {
			if changed, err := r.Remove(vipOn("lo", "10.0.0.3")); changed != want || err != nil {
				t.Errorf("Remove of a hand-made address = %v, %v, want %v", changed, err, want)
			}
		}
	})

	// An address with its network is not the controller's: Remove leaves it.
	withRtnl(t, ns, func(r *rtnl) {
		if changed, err := r.Remove(vipOn("eth0.100", "10.0.0.9")); changed || err != nil {
			t.Errorf("Remove of 10.0.0.9/24 = %v, %v, want unchanged", changed, err)
		}
		for name, err := range map[string]error{
			"List":   errOf(r.List("gone0")),
			"Add":    errOf(r.Add(vipOn("gone0", "10.0.0.1"))),
			"Remove": errOf(r.Remove(vipOn("gone0", "10.0.0.1"))),
			"Renew":  r.Renew(vipOn("gone0", "10.0.0.1")),
		} {
			if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "gone0") {
				t.Errorf("%s on a missing device: %v", name, err)
			}
		}
	})
}

// renewed has renew renew v, and expects the event of a new address.
func renewed(t *testing.T, v VIPAddress, renew func() error) {
	t.Helper()
	events, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	if err != nil {
		t.Error(err)
		return
	}
	defer events.Close()
	if err := errors.Join(events.SetReadDeadline(time.Now().Add(10*time.Second)), renew()); err != nil {
		t.Error(err)
	}
	for {
		all, err := events.Receive() // also of the addresses that devices give themselves
		if err != nil {
			t.Errorf("no event after the renewal of %s: %v", v, err)
			return
		}
		for _, m := range all {
			if eventAddress(m.Data) == v.Address {
				if m.Header.Type != unix.RTM_NEWADDR {
					t.Errorf("the event after the renewal of %s has the type %d, want %d", v, m.Header.Type, unix.RTM_NEWADDR)
				}
				return
			}
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

// A VIP on the uplink never becomes the source of the director's own traffic.
func TestRtnlSourceAddress(t *testing.T) {
	ns := newNetns(t)
	ns.addDevice(t, "eth0")
	ns.run(t, "ip", "link", "set", "eth0", "up")
	withRtnl(t, ns, func(r *rtnl) {
		for _, v := range []VIPAddress{vipOn("eth0", "10.0.0.77"), vipOn("eth0", "2001:db8::77"), vipOn("lo", "10.0.0.78"), vipOn("lo", "2001:db8::78")} {
			if _, err := r.Add(v); err != nil {
				t.Error(err)
			}
		}
	})
	// The device's own addresses come later, as with a slow DHCP server.
	ns.run(t, "ip", "address", "add", "10.0.0.9/24", "dev", "eth0")
	ns.run(t, "ip", "address", "add", "2001:db8::9/64", "dev", "eth0", "nodad")
	ns.run(t, "ip", "route", "add", "default", "via", "10.0.0.254", "dev", "eth0")
	ns.run(t, "ip", "route", "add", "default", "via", "2001:db8::fe", "dev", "eth0")
	for to, want := range map[string]string{
		"10.0.0.5":     "src 10.0.0.9",
		"192.0.2.1":    "src 10.0.0.9",
		"2001:db8::5":  "src 2001:db8::9",
		"2001:db9::77": "src 2001:db8::9",
	} {
		if got := ns.run(t, "ip", "route", "get", to); !strings.Contains(got, want+" ") {
			t.Errorf("route to %s: no %q in %s", to, want, got)
		}
	}
}

func TestRtnlDefaultDevice(t *testing.T) {
	ns := newNetns(t)
	for i, name := range []string{"eth0", "eth1"} {
		ns.addDevice(t, name)
		ns.run(t, "ip", "link", "set", name, "up")
		ns.run(t, "ip", "address", "add", "10.0."+string(rune('0'+i))+".9/24", "dev", name)
		ns.run(t, "ip", "address", "add", "2001:db8:"+string(rune('0'+i))+"::9/64", "dev", name, "nodad")
	}
	check := func(want string) {
		t.Helper()
		withRtnl(t, ns, func(r *rtnl) {
			got, err := r.DefaultDevice()
			if got != want || (err != nil) != (want == "") {
				t.Errorf("DefaultDevice = %q, %v, want %q", got, err, want)
			}
		})
	}
	check("")
	ns.run(t, "ip", "route", "add", "default", "via", "10.0.0.1", "table", "100")
	check("")
	ns.run(t, "ip", "route", "add", "default", "via", "2001:db8:1::1")
	check("eth1")
	ns.run(t, "ip", "route", "add", "default", "via", "10.0.0.1", "metric", "50")
	check("eth0")
	ns.run(t, "ip", "route", "add", "default", "via", "10.0.1.1", "metric", "20")
	check("eth1")
	ns.run(t, "ip", "route", "flush", "exact", "default")
	ns.run(t, "ip", "route", "add", "default", "nexthop", "via", "10.0.1.1", "nexthop", "via", "10.0.0.1")
	check("eth1")
}

// The devices on which clients may ask for a VIP, and those that only look like them.
func TestRtnlARPDevices(t *testing.T) {
	ns := newNetns(t)
	for _, name := range []string{"eth0", "eth1", "eth2", "cali1", "ptp1"} {
		ns.addDevice(t, name)
	}
	for _, name := range []string{"br0", "br1", "cni0"} {
		ns.run(t, "ip", "link", "add", name, "type", "bridge")
	}
	ns.run(t, "ip", "link", "add", "mac0", "link", "eth0", "type", "macvlan", "mode", "bridge")
	ns.run(t, "ip", "link", "set", "eth2", "master", "br0")
	ns.run(t, "sh", "-c", "for d in $(ls /sys/class/net); do [ $d = br1 ] || ip link set $d up; done")
	for address, device := range map[string]string{
		"10.0.0.1/24": "eth0", "10.0.1.1/31": "eth1", "10.0.2.1/24": "br0", "10.0.3.1/24": "eth2", "10.0.4.1/24": "br1",
		"10.244.0.1/24": "cni0", "10.244.1.1/32": "ptp1",
	} {
		ns.run(t, "ip", "address", "add", address, "dev", device)
	}
	check := func(want ...string) {
		t.Helper()
		withRtnl(t, ns, func(r *rtnl) {
			got, err := r.ARPDevices()
			if err != nil {
				t.Error(err)
				return
			}
			slices.Sort(got[1:])
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ARPDevices (-want +got):\n%s", diff)
			}
		})
	}
	ns.run(t, "ip", "route", "add", "default", "dev", "eth1")
	check("eth1", "br0", "eth0", "mac0")
	ns.run(t, "ip", "route", "replace", "default", "dev", "ptp1")
	check("ptp1", "br0", "eth0", "eth1", "mac0")
	withRtnl(t, newNetns(t), func(r *rtnl) {
		if got, err := r.ARPDevices(); err == nil {
			t.Errorf("a host with lo alone has %q", got)
		}
	})

	port := new(uint32)
	for _, tt := range []struct {
		name     string
		flags    uint32
		master   *uint32
		info     *rtnetlink.LinkInfo
		inSubnet bool
		want     bool
	}{
		{"eth9", unix.IFF_UP, nil, nil, false, true}, // a network card answers without an address too
		{"eth9", 0, nil, nil, true, false},
		{"eth9", unix.IFF_UP, port, &rtnetlink.LinkInfo{SlaveKind: "bond"}, true, false},
		{"eth9", unix.IFF_UP, port, &rtnetlink.LinkInfo{SlaveKind: "vrf"}, true, true},
		{"bond0", unix.IFF_UP, nil, &rtnetlink.LinkInfo{Kind: "bond"}, false, true},
		{"eth0.100", unix.IFF_UP, nil, &rtnetlink.LinkInfo{Kind: "vlan"}, false, true},
		{"dummy0", unix.IFF_UP | unix.IFF_NOARP, nil, &rtnetlink.LinkInfo{Kind: "dummy"}, true, false},
		{"tun0", unix.IFF_UP | unix.IFF_POINTOPOINT, nil, &rtnetlink.LinkInfo{Kind: "tun"}, true, false},
		{"vxlan7", unix.IFF_UP, nil, &rtnetlink.LinkInfo{Kind: "vxlan"}, false, false},
	} {
		m := &rtnetlink.LinkMessage{Flags: tt.flags, Attributes: &rtnetlink.LinkAttributes{Name: tt.name, Master: tt.master, Info: tt.info}}
		if got := isARPDevice(m, tt.inSubnet); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestAddressMessage(t *testing.T) {
	eth0 := &net.Interface{Index: 2, Name: "eth0", Flags: net.FlagBroadcast}
	lo := &net.Interface{Index: 1, Name: "lo", Flags: net.FlagLoopback}
	long := &net.Interface{Index: 3, Name: "enx001122334455", Flags: net.FlagBroadcast}
	tunnel := &net.Interface{Index: 4, Name: "lvs-ipip"}
	// Attributes in host byte order (little endian here), each 4-aligned:
	// length, type, value.
	for _, tt := range []struct {
		name   string
		device *net.Interface
		addr   string
		want   string
	}{
		{"uplink IPv4", eth0, "10.135.22.77",
			"02 20 00 00 02000000" + // AF_INET, /32, flags, scope global, index
				"0600 0000 0000 0000" +
				"0800 0100 0a87164d" + // IFA_ADDRESS
				"0800 0200 0a87164d" + // IFA_LOCAL
				"0d00 0300 657468303a6c767300 000000" + // IFA_LABEL eth0:lvs
				"0800 0800 00020000"}, // IFA_FLAGS noprefixroute
		{"lo IPv4", lo, "10.135.22.77",
			"02 20 00 fe 01000000" + // scope host
				"0600 0000 0000 0000" +
				"0800 0100 0a87164d" +
				"0800 0200 0a87164d" +
				"0b00 0300 6c6f3a6c767300 00" + // lo:lvs
				"0800 0800 00020000"},
		{"tunnel IPv4", tunnel, "10.135.22.77",
			"02 20 00 fe 04000000" + // scope host
				"0600 0000 0000 0000" +
				"0800 0100 0a87164d" +
				"0800 0200 0a87164d" +
				"1100 0300 6c76732d697069703a6c767300 000000" + // lvs-ipip:lvs
				"0800 0800 00020000"},
		{"no room for a label", long, "10.135.22.77",
			"02 20 00 00 03000000" +
				"0600 0000 0000 0000" +
				"0800 0100 0a87164d" +
				"0800 0200 0a87164d" +
				"0800 0800 00020000"},
		{"uplink IPv6", eth0, "2001:db8::4d",
			"0a 80 00 00 02000000" + // AF_INET6, /128
				"0600 0000 0000 0000" +
				"1400 0100 20010db800000000000000000000004d" +
				"1400 0200 20010db800000000000000000000004d" +
				"0800 0800 02020000" + // noprefixroute, nodad
				"1400 0600 00000000 ffffffff 00000000 00000000"}, // IFA_CACHEINFO deprecated, valid without end
	} {
		b, err := newAddressMessage(VIPAddress{tt.device.Name, netip.MustParseAddr(tt.addr)}, tt.device).MarshalBinary()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(strings.ReplaceAll(tt.want, " ", ""), hex.EncodeToString(b)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestVIPLabel(t *testing.T) {
	for device, want := range map[string]string{
		"eth0":            "eth0:lvs",
		"enp0s31f6.1":     "enp0s31f6.1:lvs", // 15 bytes, the longest
		"enp0s31f6.10":    "",
		"enx001122334455": "",
	} {
		if got := vipLabel(device); got != want {
			t.Errorf("vipLabel(%q) = %q, want %q", device, got, want)
		}
	}
}

// The attributes of a device: length and type in the byte order of a little
// endian host, GRE's flags in the network's.
func TestTunnelDeviceAttributes(t *testing.T) {
	for _, tt := range []struct {
		kind   string
		device tunnelDevice
		want   string
	}{
		{"ipip", tunnelDevice{Metadata: true}, "0400 1300"},
		{"ip6tnl", tunnelDevice{Metadata: true}, "0400 1300"},
		{"gre", tunnelDevice{Metadata: true}, "0400 1200"},
		{"ip6gre", tunnelDevice{Metadata: true, Checksum: true}, "0600 0200 8000 0000 0400 1200"},
	} {
		b, err := tt.device.encode(tt.kind)
		if err != nil {
			t.Errorf("%s: %v", tt.kind, err)
		}
		if diff := cmp.Diff(strings.ReplaceAll(tt.want, " ", ""), hex.EncodeToString(b)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.kind, diff)
		}
		var got tunnelDevice
		if err := got.decode(tt.kind, b); got != tt.device || err != nil {
			t.Errorf("%s: decoded %+v, want %+v (%v)", tt.kind, got, tt.device, err)
		}
	}
}

// The default route is an event, and another route is none.
func TestDeviceEvents(t *testing.T) {
	host := newNetns(t)
	host.run(t, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	host.addDevice(t, "eth0")
	host.run(t, "ip", "address", "add", "10.0.0.11/24", "dev", "eth0")
	host.run(t, "ip", "link", "set", "eth0", "up")
	var events <-chan struct{}
	host.do(t, func() {
		var err error
		if events, err = deviceEvents(t.Context()); err != nil {
			t.Error(err)
		}
	})
	rings := func() bool {
		time.Sleep(200 * time.Millisecond) // an event takes microseconds
		select {
		case <-events:
			return true
		default:
			return false
		}
	}
	for rings() { // of the device's carrier
	}
	host.run(t, "ip", "route", "add", "10.9.0.0/16", "via", "10.0.0.5")
	if rings() {
		t.Error("a route other than the default route is an event")
	}
	for _, change := range []string{"add", "del"} {
		host.run(t, "ip", "route", change, "default", "via", "10.0.0.5")
		until(t, "the default route is an event: "+change, rings)
	}
}
