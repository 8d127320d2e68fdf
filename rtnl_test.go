package main

import (
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jsimonetti/rtnetlink/v2"
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
				"1400 0600 00000000 ffffffff 00000000 00000000"}, // IFA_CACHEINFO deprecated, valid for ever
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
