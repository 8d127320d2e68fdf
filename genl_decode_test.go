package main

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// unhex reads a dump with spaces.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What the kernel sends back for a service: kernel-owned flag bits and
// statistics included.
const serviceDump = `
	ac000180 06000100 02000000 06000200 06000000
	14000300 0a000001 00000000 00000000 00000000
	06000400 00500000
	07000600 72720000
	0c000700 02000000 ffffffff
	08000800 00000000
	08000900 ffffffff
	58000c80
	0c000100 0700000000000000
	0c000200 2a00000000000000
	0c000300 0000000000000000
	0c000400 e803000000000000
	0c000600 0100000000000000
	0c000700 0200000000000000
	0c000900 0300000000000000`

func TestDecodeService(t *testing.T) {
	var (
		got     VirtualService
		traffic Traffic
	)
	err := decodeService(unhex(t, serviceDump), &got, &traffic)
	if err != nil {
		t.Fatal(err)
	}
	want := VirtualService{
		ServiceKey: ServiceKey{Address: netip.MustParseAddr("10.0.0.1"), Protocol: TCP, Port: 80},
		Scheduler:  "rr", // no flags: HASHED is the kernel's own
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("service (-want +got):\n%s", diff)
	}
	wantTraffic := Traffic{Connections: 7, InPackets: 42, InBytes: 1000, ConnsPerSec: 1, InPktsPerSec: 2, InBytesPerS: 3}
	if diff := cmp.Diff(wantTraffic, traffic); diff != "" {
		t.Errorf("traffic (-want +got):\n%s", diff)
	}
}

func TestDecodeMarkService(t *testing.T) {
	var got VirtualService
	err := decodeService(unhex(t, "1c000180 06000100 0a000000 08000500 2a000000 08000900 40000000"), &got, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := VirtualService{ServiceKey: MarkKey(42, true), Netmask: 64}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("service (-want +got):\n%s", diff)
	}
}

// Whatever the encoder writes, the decoder reads back.
func TestServiceAndServerRoundTrip(t *testing.T) {
	for _, v := range []VirtualService{
		{ServiceKey: ServiceKey{Address: netip.MustParseAddr("10.0.0.1"), Protocol: TCP, Port: 80}, Scheduler: "rr"},
		{ServiceKey: ServiceKey{Address: netip.MustParseAddr("2001:db8::1"), Protocol: UDP, Port: 53}, Scheduler: "wlc", Flags: FlagPersistent, Persistence: 60, Netmask: 56},
		{ServiceKey: MarkKey(1<<31, false), Scheduler: "mh", Flags: FlagSched1 | FlagSched2},
		{ServiceKey: ServiceKey{Address: netip.MustParseAddr("2001:db8::1"), Protocol: UDP, Port: 5060}, Scheduler: "rr", Flags: FlagPersistent, Persistence: 300, Engine: "sip"},
		{ServiceKey: ServiceKey{Address: netip.MustParseAddr("192.0.2.1"), Protocol: SCTP, Port: 65535}, Scheduler: "odd-one", Netmask: 1},
	} {
		e := encoder{}
		e.service(v)
		var got VirtualService
		err := decodeService(e.buf, &got, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v, got, compareAddrs); diff != "" {
			t.Errorf("service (-want +got):\n%s", diff)
		}
		for _, r := range []RealServer{
			{Address: v.Address, Forward: DirectRoute, Weight: 65535, Upper: 10, Lower: 5},
			{Address: netip.MustParseAddr("2001:db8::9"), Port: 8080, Forward: Masq},
			{Address: v.Address, Forward: Tunnel, Weight: 1, Tunnel: TunnelSettings{Type: TunnelGUE, Port: 6080, Flags: TunnelRemoteChecksum}},
		} {
			e := encoder{}
			e.server(v.ServiceKey, r, true)
			var got KernelServer
			err := decodeServer(e.buf, &v.ServiceKey, &got.RealServer, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r, got.RealServer, compareAddrs); diff != "" {
				t.Errorf("real server (-want +got):\n%s", diff)
			}
		}
	}
}

func TestDecodeTimeoutsAndInfo(t *testing.T) {
	e := encoder{}
	want := Timeouts{TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second}
	e.timeouts(want, 1)
	got, err := decodeTimeouts(e.buf[20:])
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("timeouts = %v, want %v", got, want)
	}
	info, err := decodeInfo(unhex(t, "08000100 01020100 08000200 00100000"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (KernelInfo{Version: "1.2.1", ConnTabSize: 4096}); info != want {
		t.Errorf("info = %v, want %v", info, want)
	}
}

func TestNextReply(t *testing.T) {
	tests := []struct {
		name  string
		bytes string
		want  kernelReply
	}{
		{
			"acknowledgement",
			"24000000 0200 0001 05000000 00000000 00000000 70000000 1c00 0500 05000000 00000000",
			kernelReply{seq: 5, typ: unix.NLMSG_ERROR},
		},
		{
			"refusal with the kernel's words, request capped",
			`3c000000 0200 0003 06000000 00000000 eaffffff 70000000 1c00 0500 06000000 00000000
			 16000100 6261642072656d6f74652061646472657373 0000`,
			kernelReply{seq: 6, typ: unix.NLMSG_ERROR, errno: unix.EINVAL, extack: "bad remote address"},
		},
		{
			"refusal that repeats the request",
			`38000000 0200 0002 06000000 00000000 ffffffff 18000000 1c00 0500 06000000 00000000
			 01010000 aabbccdd 0c000100 6e6f2077617921 00`,
			kernelReply{seq: 6, typ: unix.NLMSG_ERROR, errno: unix.EPERM, extack: "no way!"},
		},
		{
			"end of a dump",
			"14000000 0300 0200 07000000 00000000 00000000",
			kernelReply{seq: 7, typ: unix.NLMSG_DONE},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got kernelReply
			rest, err := got.next(unhex(t, tt.bytes))
			if err != nil {
				t.Fatal(err)
			}
			if len(rest) != 0 {
				t.Errorf("%d bytes left over", len(rest))
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(kernelReply{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("kernelReply (-want +got):\n%s", diff)
			}
		})
	}
}

// The kernel is trusted to be the kernel; a decoder is not: whatever the
// bytes, it returns, and never reads beyond them.
func FuzzNextReply(f *testing.F) {
	f.Add(unhex(f, "24000000 0200 0001 05000000 00000000 00000000 70000000 1c00 0500 05000000 00000000"))
	f.Add(unhex(f, "c0000000 1c00 0200 05000000 00000000 04010000"+serviceDump))
	k := ServiceKey{Address: netip.MustParseAddr("10.0.0.1"), Protocol: TCP, Port: 80}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		for len(b) > 0 {
			var r kernelReply
			rest, err := r.next(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
			var (
				v VirtualService
				c Traffic
				s KernelServer
			)
			_ = decodeService(r.body, &v, &c)
			_ = decodeServer(r.body, &k, &s.RealServer, &s.Connections, &s.Traffic)
			_, _ = decodeTimeouts(r.body)
			_, _ = decodeInfo(r.body)
			_, _ = decodeDaemon(r.body)
		}
	})
}

// A row that decodes can be encoded and decodes to the same row.
func FuzzDecodeServer(f *testing.F) {
	k := ServiceKey{Address: netip.MustParseAddr("10.0.0.1"), Protocol: TCP, Port: 80}
	e := encoder{}
	e.server(k, RealServer{Address: k.Address, Forward: DirectRoute, Weight: 3}, true)
	f.Add(e.buf)
	e = encoder{}
	e.server(k, RealServer{Address: addr("2001:db8::9"), Port: 8080, Forward: Tunnel, Upper: 2, Lower: 1, Tunnel: TunnelSettings{Type: TunnelGUE, Port: 6080, Flags: TunnelChecksum}}, true)
	f.Add(e.buf)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		var s, again KernelServer
		if err := decodeServer(b, &k, &s.RealServer, &s.Connections, &s.Traffic); err != nil {
			return
		}
		e := encoder{}
		e.server(k, s.RealServer, true)
		if err := decodeServer(e.buf, &k, &again.RealServer, nil, nil); err != nil || again.RealServer != s.RealServer {
			t.Fatalf("%v became %v (%v)", s.RealServer, again.RealServer, err)
		}
	})
}

// The attributes of a tunnel, wherever the kernel sends them, mean the same after they
// have been read and written again.
func FuzzTunnelAttributes(f *testing.F) {
	f.Add(uint8(Tunnel), unhex(f, "0500 0d00 01000000 0600 0e00 17c00000 0600 0f00 01000000")) // of a real server
	f.Add(uint8(0), unhex(f, "0600 0100 17c00000 0500 0200 0a000000 0500 0400 02000000"))      // of a port
	f.Add(uint8(0), unhex(f, "0600 0200 8000 0000 0400 1200 0400 1300"))                       // of a device
	k := ServiceKey{Address: netip.MustParseAddr("10.0.0.1"), Protocol: TCP, Port: 80}
	f.Fuzz(func(t *testing.T, method uint8, b []byte) {
		defer bounded(t, len(b))()
		e := encoder{}
		at := e.nest(cmdAttrDest)
		e.addr(destAttrAddr, k.Address)
		e.u32(destAttrFwdMethod, uint32(method))
		e.buf = append(e.buf, b...)
		if len(b) < 1<<15 { // the length of an attribute has 16 bits
			e.unnest(at)
		}
		var r, again RealServer
		if err := decodeServer(e.buf, &k, &r, nil, nil); err == nil {
			if set := r.Tunnel; set != set.effective(r.Forward) || r.Forward != Tunnel && set != (TunnelSettings{}) {
				t.Errorf("method %d has the settings %+v", r.Forward, set)
			}
			e = encoder{}
			e.server(k, r, true)
			if err := decodeServer(e.buf, &k, &again, nil, nil); err != nil || again != r {
				t.Errorf("%+v became %+v (%v)", r, again, err)
			}
		}
		if p, isGUE, err := decodeGUE(b); err == nil && isGUE {
			a := p.encode()
			a.Uint8(fouAttrType, fouTypeGUE)
			text, err := a.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if q, isGUE, err := decodeGUE(text); q != p || !isGUE || err != nil {
				t.Errorf("%v became %v, GUE %t (%v)", p, q, isGUE, err)
			}
		}
		for kind := range ownDevices {
			var d, again tunnelDevice
			if d.decode(kind, b) != nil {
				continue
			}
			text, err := d.encode(kind)
			if err == nil {
				err = again.decode(kind, text)
			}
			if err != nil || again != d {
				t.Errorf("%s: %+v became %+v (%v)", kind, d, again, err)
			}
		}
	})
}

// A service that decodes can be encoded and decodes to the same service.
func FuzzDecodeService(f *testing.F) {
	f.Add(unhex(f, serviceDump))
	for _, v := range []VirtualService{
		{ServiceKey: MarkKey(1<<31, true), Scheduler: "mh", Flags: FlagSched1 | FlagSched2},
		{ServiceKey: ServiceKey{Address: addr("2001:db8::1"), Protocol: UDP, Port: 5060}, Scheduler: "rr", Flags: FlagPersistent, Persistence: 300, Netmask: 56, Engine: "sip"},
		{ServiceKey: ServiceKey{Address: addr("192.0.2.1"), Protocol: SCTP, Port: 65535}, Scheduler: "odd-one", Netmask: oddNetmask},
	} {
		e := encoder{}
		e.service(v)
		f.Add(e.buf)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		var v, again VirtualService
		if err := decodeService(b, &v, new(Traffic)); err != nil {
			return
		}
		e := encoder{}
		e.service(v)
		if err := decodeService(e.buf, &again, nil); err != nil || again != v {
			t.Fatalf("%+v became %+v (%v)", v, again, err)
		}
	})
}

// Timeouts that decode can be encoded and decode to the same timeouts.
func FuzzDecodeTimeouts(f *testing.F) {
	body := func(timeouts Timeouts) []byte {
		e := encoder{}
		e.timeouts(timeouts, 1)
		return e.buf[unix.NLMSG_HDRLEN+unix.GENL_HDRLEN:]
	}
	f.Add(body(Timeouts{TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second}))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		timeouts, err := decodeTimeouts(b)
		if err != nil {
			return
		}
		if again, err := decodeTimeouts(body(timeouts)); err != nil || again != timeouts {
			t.Fatalf("%+v became %+v (%v)", timeouts, again, err)
		}
	})
}

// The kernel keeps tunnel settings that have no effect, and shows them. A row does
// not differ by those: no configuration can ask for them.
func TestDecodeTunnelWithoutEffect(t *testing.T) {
	k := ServiceKey{Address: addr("10.0.0.1"), Protocol: TCP, Port: 80}
	odd := func(typ TunnelType) TunnelSettings {
		return TunnelSettings{Type: typ, Port: 6080, Flags: TunnelChecksum | TunnelRemoteChecksum}
	}
	for _, tt := range []struct {
		forward   ForwardingMethod
		set, want TunnelSettings
	}{
		{DirectRoute, odd(TunnelGUE), TunnelSettings{}},
		{Masq, odd(TunnelIPIP), TunnelSettings{}},
		{Tunnel, odd(TunnelIPIP), TunnelSettings{}},
		{Tunnel, odd(TunnelGRE), TunnelSettings{Type: TunnelGRE, Flags: TunnelChecksum}},
		{Tunnel, odd(TunnelGUE), odd(TunnelGUE)},
	} {
		e := encoder{}
		at := e.nest(cmdAttrDest)
		e.addr(destAttrAddr, addr("10.1.0.1"))
		e.u32(destAttrFwdMethod, uint32(tt.forward))
		e.u8(destAttrTunType, uint8(tt.set.Type))
		e.port(destAttrTunPort, tt.set.Port)
		e.u16(destAttrTunFlags, uint16(tt.set.Flags))
		e.unnest(at)
		var r RealServer
		if err := decodeServer(e.buf, &k, &r, nil, nil); err != nil || r.Tunnel != tt.want {
			t.Errorf("%v, %+v: %+v, %v; want %+v", tt.forward, tt.set, r.Tunnel, err, tt.want)
		}
	}
}

// The kernel has room for 15 characters of a name.
func TestDecodeLongName(t *testing.T) {
	k := ServiceKey{Address: addr("10.0.0.1"), Protocol: TCP, Port: 80}
	for n, ok := range map[int]bool{15: true, 16: false} {
		name := strings.Repeat("a", n)
		for _, v := range []VirtualService{{ServiceKey: k, Scheduler: name}, {ServiceKey: k, Engine: name}} {
			e := encoder{}
			e.service(v)
			var got VirtualService
			if err := decodeService(e.buf, &got, nil); (err == nil) != ok || ok && got != v {
				t.Errorf("%d characters: %+v, %v", n, got, err)
			}
		}
		d := SyncDaemon{Role: SyncBackup, Interface: name}
		if got, err := decodeDaemon(daemonBody(d)); (err == nil) != ok || ok && got != d {
			t.Errorf("%d characters: %+v, %v", n, got, err)
		}
	}
}

// daemonDump is what Linux 6.1 says of a sync daemon.
const daemonDump = `
	4000 0380 0800 0100 01000000 0900 0200 65746830 00000000 0800 0300 07000000
	0600 0400 78050000 0600 0700 28230000 0500 0800 03000000 0800 0500 ef010203`

func TestDecodeDaemon(t *testing.T) {
	group4 := SyncDaemon{Role: SyncMaster, Interface: "eth0", ID: 7, Group: addr("239.1.2.3"), Port: 9000, TTL: 3, MaxLen: 1400}
	if got, err := decodeDaemon(unhex(t, daemonDump)); err != nil || got != group4 {
		t.Errorf("%+v, %v; want %+v", got, err, group4)
	}
	group6 := SyncDaemon{Role: SyncBackup, Interface: "eth0.100", ID: 255, Group: addr("ff02::1234"), Port: 65535, TTL: 255, MaxLen: 65487}
	for _, d := range []SyncDaemon{group4, group6} {
		if got, err := decodeDaemon(daemonBody(d)); err != nil || got != d {
			t.Errorf("%+v, %v; want %+v", got, err, d)
		}
	}
	for n := range len(unhex(t, daemonDump)) {
		cut := unhex(t, daemonDump)[:n]
		if _, err := decodeDaemon(cut); err == nil {
			t.Errorf("the first %d bytes are taken for a daemon", n)
		}
	}
	if _, err := decodeDaemon(unhex(t, "0c00 0380 0500 0100 01000000")); err == nil {
		t.Error("a role of one byte is accepted")
	}
}

// daemonBody is a message's body that says d: the kernel's own has the same
// attributes as the request.
func daemonBody(d SyncDaemon) []byte {
	e := encoder{}
	e.daemon(cmdNewDaemon, d, 0)
	return e.buf[unix.NLMSG_HDRLEN+unix.GENL_HDRLEN:]
}

// A daemon that decodes can be encoded and decodes to the same daemon.
func FuzzDecodeDaemon(f *testing.F) {
	f.Add(unhex(f, daemonDump))
	f.Add(daemonBody(SyncDaemon{Role: SyncBackup, Interface: "eth1", Group: netip.MustParseAddr("ff02::1234")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		d, err := decodeDaemon(b)
		if err != nil {
			return
		}
		if again, err := decodeDaemon(daemonBody(d)); err != nil || again != d {
			t.Fatalf("%+v became %+v (%v)", d, again, err)
		}
	})
}
