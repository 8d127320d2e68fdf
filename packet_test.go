package main

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnnouncementFrames(t *testing.T) {
	mac := [6]byte{0x02, 0x00, 0x5e, 0x10, 0x20, 0x30}
	v4 := netip.MustParseAddr("10.135.22.77")
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"request", gratuitousARP(mac, v4, arpRequest),
			"ffffffffffff 02005e102030 0806" +
				"0001 0800 06 04 0001" +
				"02005e102030 0a87164d" +
				"000000000000 0a87164d"},
		{"reply", gratuitousARP(mac, v4, arpReply),
			"ffffffffffff 02005e102030 0806" +
				"0001 0800 06 04 0002" +
				"02005e102030 0a87164d" +
				"02005e102030 0a87164d"},
		// The words of pseudo-header and body add up to 0x285aa; folded that
		// is 0x85ac, inverted 0x7a53.
		{"neighbour advertisement", unsolicitedNA(mac, netip.MustParseAddr("2001:db8::4d")),
			"333300000001 02005e102030 86dd" +
				"60000000 0020 3a ff" +
				"20010db800000000000000000000004d" +
				"ff020000000000000000000000000001" +
				"88 00 7a53 20000000" +
				"20010db800000000000000000000004d" +
				"02 01 02005e102030"},
	} {
		want := strings.ReplaceAll(tt.want, " ", "")
		if diff := cmp.Diff(want, hex.EncodeToString(tt.got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
