package main

import (
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
