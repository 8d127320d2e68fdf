package main

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
