package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// Messages are compared byte for byte, on a little-endian machine, against
// what include/uapi/linux/ip_vs.h says by hand.
func TestEncode(t *testing.T) {
	v4 := VirtualService{
		ServiceKey: ServiceKey{Address: netip.MustParseAddr("10.0.0.1"), Protocol: TCP, Port: 80},
		Scheduler:  "rr",
	}
	v6 := VirtualService{
		ServiceKey:  ServiceKey{Address: netip.MustParseAddr("2001:db8::1"), Protocol: UDP, Port: 53},
		Scheduler:   "wlc",
		Flags:       FlagPersistent | FlagOnePacket,
		Persistence: 300,
		Netmask:     64,
	}
	server := RealServer{Address: netip.MustParseAddr("10.0.0.5"), Forward: DirectRoute, Weight: 7, Upper: 100, Lower: 50}
	server6 := RealServer{Address: netip.MustParseAddr("2001:db8::5"), Port: 5353, Forward: Tunnel, Weight: 1,
		Tunnel: TunnelSettings{Type: TunnelGUE, Port: 6080, Flags: TunnelRemoteChecksum}}

	// Pieces: header (length, type 0x1c, flags, sequence 9, port id 0) and
	// genlmsghdr; then attributes, each length, type, payload, padding.
	key4 := "06000100 0200 0000" + // AF_INET
		"06000200 0600 0000" + // TCP
		"14000300 0a000001 00000000 00000000 00000000" +
		"06000400 0050 0000"
	key6 := "06000100 0a00 0000" +
		"06000200 1100 0000" +
		"14000300 20010db8 00000000 00000000 00000001" +
		"06000400 0035 0000"
	dest4 := "06000b00 0200 0000" +
		"14000100 0a000005 00000000 00000000 00000000" +
		"06000200 0050 0000"
	tests := []struct {
		name string
		add  func(e *encoder)
		want string
	}{
		{
			"new service IPv4",
			func(e *encoder) { e.op(&op{&Service{VirtualService: v4}, new(edit)}, 0, 9) },
			"68000000 1c00 0100 09000000 00000000 01010000" +
				"54000180" + key4 +
				"07000600 72720000" + // "rr"
				"0c000700 00000000 3d000000" + // flags 0, mask of the settable bits
				"08000800 00000000" +
				"08000900 ffffffff",
		},
		{
			"set service IPv6, persistent, acknowledged",
			func(e *encoder) { e.op(&op{&Service{VirtualService: v6}, &edit{Kind: setService}}, 4, 9) },
			"68000000 1c00 0500 09000000 00000000 02010000" +
				"54000180" + key6 +
				"08000600 776c6300" +
				"0c000700 05000000 3d000000" +
				"08000800 2c010000" +
				"08000900 40000000",
		},
		{
			"new firewall-mark service with a persistence engine",
			func(e *encoder) {
				e.op(&op{&Service{VirtualService: VirtualService{ServiceKey: MarkKey(4096, true), Scheduler: "mh", Flags: FlagSched2, Engine: "sip"}}, &edit{Kind: newService}}, 0, 9)
			},
			"54000000 1c00 0100 09000000 00000000 01010000" +
				"40000180" + "06000100 0a000000" + "08000500 00100000" +
				"07000600 6d680000" + "08000b00 73697000" +
				"0c000700 10000000 3d000000" +
				"08000800 00000000" +
				"08000900 80000000",
		},
		{
			"delete service",
			func(e *encoder) { e.op(&op{&Service{VirtualService: v4}, &edit{Kind: delService}}, 0, 9) },
			"44000000 1c00 0100 09000000 00000000 03010000" + "30000180" + key4,
		},
		{
			"new destination",
			func(e *encoder) {
				e.op(&op{&Service{VirtualService: v4}, &edit{Kind: newServer, Server: &server}}, 0, 9)
			},
			"8c000000 1c00 0100 09000000 00000000 05010000" + "30000180" + key4 +
				"48000280" + dest4 +
				"08000300 03000000 08000400 07000000 08000500 64000000 08000600 32000000",
		},
		{
			"set destination IPv6, tunnelled, with another port",
			func(e *encoder) {
				e.op(&op{&Service{VirtualService: v6}, &edit{Kind: setServer, Server: &server6}}, 0, 9)
			},
			"a4000000 1c00 0100 09000000 00000000 06010000" + "30000180" + key6 +
				"60000280" + "06000b00 0a00 0000" +
				"14000100 20010db8 00000000 00000000 00000005" +
				"06000200 14e9 0000" +
				"08000300 02000000 08000400 01000000" +
				"05000d00 01000000 06000e00 17c00000 06000f00 02000000" + // GUE, port 6080, remote checksum
				"08000500 00000000 08000600 00000000",
		},
		{
			"delete destination",
			func(e *encoder) {
				e.op(&op{&Service{VirtualService: v4}, &edit{Kind: delServer, Server: &server}}, 0, 9)
			},
			"6c000000 1c00 0100 09000000 00000000 07010000" + "30000180" + key4 +
				"28000280" + dest4,
		},
		{
			"dump services",
			func(e *encoder) { e.command(cmdGetService, unix.NLM_F_DUMP, 9) },
			"14000000 1c00 0103 09000000 00000000 04010000",
		},
		{
			"dump destinations",
			func(e *encoder) { e.dumpServers(v4.ServiceKey, 9) },
			"44000000 1c00 0103 09000000 00000000 08010000" + "30000180" + key4,
		},
		{
			"timeouts, one left alone",
			func(e *encoder) { e.timeouts(Timeouts{TCP: 120 * time.Second, UDP: 50 * time.Second}, 9) },
			"24000000 1c00 0500 09000000 00000000 0c010000" + "08000400 78000000" + "08000600 32000000",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := encoder{family: 0x1c}
			tt.add(&e)
			want, err := hex.DecodeString(strings.ReplaceAll(tt.want, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(hex.Dump(want), hex.Dump(e.buf)); diff != "" {
				t.Errorf("bytes differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIPv4MaskAndPrefix(t *testing.T) {
	for bits := uint8(1); bits < 32; bits++ {
		mask := ipv4Mask(bits)
		be := [4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}
		if got := prefixBits(be, 2); got != bits {
			t.Errorf("prefixBits(ipv4Mask(%d)) = %d", bits, got)
		}
	}
	for _, tt := range []struct {
		mask [4]byte
		want uint8
	}{
		{[4]byte{255, 255, 255, 255}, 0},
		{[4]byte{0, 0, 0, 0}, oddNetmask},
		{[4]byte{255, 0, 255, 0}, oddNetmask},
	} {
		if got := prefixBits(tt.mask, 2); got != tt.want {
			t.Errorf("prefixBits(%v) = %d, want %d", tt.mask, got, tt.want)
		}
	}
}

// Encoding one more operation into a buffer that has grown costs no memory.
func TestEncodeAllocatesNothing(t *testing.T) {
	e := encoder{family: 0x1c, buf: make([]byte, 0, 4096)}
	service := VirtualService{ServiceKey: ServiceKey{Address: netip.MustParseAddr("2001:db8::1"), Protocol: TCP, Port: 80}, Scheduler: "wlc"}
	server := RealServer{Address: netip.MustParseAddr("10.0.0.5"), Forward: DirectRoute, Weight: 1}
	ops := []op{{&Service{VirtualService: service}, &edit{Kind: newService}}, {&Service{VirtualService: service}, &edit{Kind: newServer, Server: &server}}}
	n := testing.AllocsPerRun(100, func() {
		e.buf = e.buf[:0]
		for i := range ops {
			e.op(&ops[i], 0, 1)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per two operations, want 0", n)
	}
}

// A message that is copied from the last one is the same, byte for byte, as one that is
// made from nothing.
func TestEncodeCopies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pick := func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
		services := make([]Service, 3)
		for i := range services {
			s := &services[i]
			s.Scheduler = "rr"
			if s.ServiceKey = MarkKey(7, rapid.Bool().Draw(t, "mark of IPv6")); rapid.IntRange(0, 4).Draw(t, "mark") > 0 {
				s.ServiceKey = ServiceKey{Address: netip.MustParseAddr(pick("VIP", "10.0.0.1", "10.0.0.2", "2001:db8::1")), Port: uint16(rapid.IntRange(1, 3).Draw(t, "port")),
					Protocol: rapid.SampledFrom([]Protocol{TCP, UDP, SCTP}).Draw(t, "protocol")}
			}
		}
		server := func() *RealServer {
			r := RealServer{Address: netip.MustParseAddr(pick("server", "10.1.0.1", "10.1.0.2", "2001:db8::9")), Port: uint16(rapid.IntRange(0, 1).Draw(t, "other port")),
				Forward: rapid.SampledFrom([]ForwardingMethod{DirectRoute, Tunnel}).Draw(t, "forward"), Weight: uint32(rapid.IntRange(0, 1).Draw(t, "weight")), Upper: uint32(rapid.IntRange(0, 1).Draw(t, "upper"))}
			if r.Forward == Tunnel {
				r.Tunnel.Type = rapid.SampledFrom([]TunnelType{TunnelIPIP, TunnelGUE}).Draw(t, "tunnel")
			}
			return &r
		}
		// The others differ from the first in one setting: a copy must not pass over it.
		first := server()
		servers := []*RealServer{first, server()}
		for _, change := range []func(*RealServer){
			func(r *RealServer) { r.Weight++ }, func(r *RealServer) { r.Upper++ }, func(r *RealServer) { r.Lower++ }, func(r *RealServer) { r.Port++ },
			func(r *RealServer) { r.Forward = Tunnel }, func(r *RealServer) { r.Tunnel.Type = TunnelGRE }, func(r *RealServer) { r.Address = netip.MustParseAddr("10.1.0.3") },
		} {
			other := *first
			change(&other)
			servers = append(servers, &other)
		}
		copying, seq := encoder{family: 0x1b}, uint32(0)
		for range rapid.IntRange(1, 60).Draw(t, "messages") {
			seq++
			kind := rapid.SampledFrom([]opKind{newServer, newServer, newServer, setServer, delServer, newService, delService}).Draw(t, "kind")
			o := op{&services[rapid.IntRange(0, 2).Draw(t, "service")], &edit{Kind: kind}}
			if kind == newServer || kind == setServer || kind == delServer {
				o.Server = rapid.SampledFrom(servers).Draw(t, "row")
			}
			flags := rapid.SampledFrom([]uint16{0, unix.NLM_F_ACK}).Draw(t, "flags")
			if rapid.IntRange(0, 6).Draw(t, "another request") == 0 {
				copying.buf = copying.buf[:0]
				copying.command(cmdGetInfo, 0, 0)
			} else if rapid.IntRange(0, 6).Draw(t, "another batch") == 0 {
				copying.buf = copying.buf[:0]
			}
			before := len(copying.buf)
			copying.op(&o, flags, seq)
			fresh := encoder{family: 0x1b}
			fresh.op(&o, flags, seq)
			if diff := cmp.Diff(hex.Dump(fresh.buf), hex.Dump(copying.buf[before:])); diff != "" {
				t.Fatalf("message %d, %v (-want +got):\n%s", seq, o.Subject(), diff)
			}
		}
	})
}

// A buffer that is used again has messages of the batch before. Those of a new batch are
// the same, byte for byte, as in a new buffer, whatever differs between the two.
func TestEncodeIntoAUsedBuffer(t *testing.T) {
	serviceOf := func(key string) *Service { s := service(key); return &s }
	tcp, other := serviceOf("10.0.0.1:80/tcp"), serviceOf("10.0.0.2:81/tcp")
	server := RealServer{Address: addr("10.1.0.1"), Forward: DirectRoute, Weight: 1}
	ofKind := func(kind opKind, s *Service, change func(*RealServer)) []op {
		var ops []op
		for i := range 4 {
			r := server
			r.Address = netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})
			change(&r)
			ops = append(ops, op{s, &edit{Kind: kind, Server: &r}})
		}
		return ops
	}
	same := func(*RealServer) {}
	batches := map[string][]op{
		"plain":           ofKind(newServer, tcp, same),
		"another service": ofKind(newServer, other, same),
		"UDP":             ofKind(newServer, serviceOf("10.0.0.1:80/udp"), same),
		"IPv6":            ofKind(newServer, serviceOf("[2001:db8::1]:80/tcp"), same),
		"IPv6 servers":    ofKind(newServer, serviceOf("[2001:db8::1]:80/tcp"), func(r *RealServer) { r.Address = addr("2001:db8::2") }),
		"an edit":         ofKind(setServer, tcp, same),
		"a removal":       ofKind(delServer, tcp, same),
		"weight":          ofKind(newServer, tcp, func(r *RealServer) { r.Weight = 2 }),
		"thresholds":      ofKind(newServer, tcp, func(r *RealServer) { r.Upper, r.Lower = 9, 0 }),
		"lower threshold": ofKind(newServer, tcp, func(r *RealServer) { r.Upper, r.Lower = 0, 9 }),
		"another port":    ofKind(newServer, tcp, func(r *RealServer) { r.Port = 8080 }),
		"tunnel":          ofKind(newServer, tcp, func(r *RealServer) { r.Forward = Tunnel }),
		"GUE":             ofKind(newServer, tcp, func(r *RealServer) { r.Forward, r.Tunnel = Tunnel, TunnelSettings{Type: TunnelGUE, Port: 6080} }),
		"two services":    slices.Concat(ofKind(newServer, tcp, same), ofKind(newServer, other, same)),
		"a service first": slices.Concat([]op{{tcp, &edit{Kind: newService}}}, ofKind(newServer, tcp, same)),
		"by mark":         ofKind(newServer, &Service{VirtualService: VirtualService{ServiceKey: MarkKey(7, false)}}, same),
	}
	encode := func(e *encoder, ops []op) string {
		e.buf = e.buf[:0]
		for i := range ops {
			e.op(&ops[i], 0, uint32(i))
		}
		e.acknowledged()
		return hex.Dump(e.buf)
	}
	for before, first := range batches {
		for after, second := range batches {
			for _, between := range []bool{false, true} {
				e := encoder{family: 0x1b}
				encode(&e, first)
				if between { // an answer is asked for
					e.buf = e.buf[:0]
					for range 20 {
						e.command(cmdGetInfo, unix.NLM_F_DUMP, 99)
					}
				}
				if diff := cmp.Diff(encode(&encoder{family: 0x1b}, second), encode(&e, second)); diff != "" {
					t.Errorf("%s after %s (-want +got):\n%s", after, before, diff)
				}
			}
		}
	}
}

// A batch fits into the buffers that the kernel gave, and its refusals too.
func TestBatchLimits(t *testing.T) {
	for _, test := range []struct {
		send, receive int // as the kernel accounts them
		want          batchLimits
	}{
		{2 * socketBuffer, 2 * socketBuffer, batchLimits{batchMessages, batchBytes}},
		{425984, 425984, batchLimits{208, batchBytes}}, // without CAP_NET_ADMIN, by the kernel's defaults
		{65536, 2 * socketBuffer, batchLimits{batchMessages, 32512}},
		{0, 0, batchLimits{1, 1}},
	} {
		if got := limitsFor(test.send, test.receive); got != test.want {
			t.Errorf("buffers of %d and %d: %+v, want %+v", test.send, test.receive, got, test.want)
		}
		if most := limitsFor(test.send, test.receive).bytes + messageMost; test.send > 0 && most > test.send-32 {
			t.Errorf("a batch of %d bytes does not fit into %d", most, test.send)
		}
	}
}

// A list that the kernel marks as interrupted is an error, and the socket stays usable.
func TestInterruptedServices(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	done := func(seq byte, flags uint16) []byte {
		b := netlinkMessage(t, unix.NLMSG_DONE, flags|unix.NLM_F_MULTI, make([]byte, 4))
		b[8] = seq
		return b
	}
	for _, b := range [][]byte{done(1, unix.NLM_F_DUMP_INTR), done(2, 0)} {
		if _, err := unix.Write(ends[1], b); err != nil {
			t.Fatal(err)
		}
	}
	c := &ipvsConn{socket: fdSocket(ends[0]), recv: make([]byte, receiveBytes)}
	_, err = c.Table(func(ServiceKey) bool { return true }, nil, nil)
	if !errors.Is(err, errInterrupted) || !strings.Contains(err.Error(), "virtual services") {
		t.Errorf("Table: %v, want an error that says which list", err)
	}
	if _, err := c.Table(func(ServiceKey) bool { return true }, nil, nil); err != nil {
		t.Errorf("and once more: %v", err)
	}
}

// Answers of many services come apart again, whatever their sizes are. A refusal, rows that
// make no sense, and an end before the end leave a socket that can be used.
func TestServerAnswers(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	sizes := []int{0, 1, 3, 50_000, 2, 0, 90_000, 1}
	const refused = 4
	requests := make(chan uint32, 64)
	var kernel sync.WaitGroup
	defer kernel.Wait()
	defer unix.Shutdown(ends[0], unix.SHUT_RDWR)
	kernel.Go(func() { fakeDump(t, ends[1], sizes, refused, requests) })
	conn := &ipvsConn{socket: fdSocket(ends[0]), recv: make([]byte, receiveBytes)}
	services := make([]VirtualService, len(sizes))
	for i := range services {
		services[i].ServiceKey = ServiceKey{Address: addr("10.0.0.1"), Port: uint16(i), Protocol: TCP}
	}
	count := func(a *serverAnswers) (n int, err error) {
		err = a.each(func(body []byte) error { n += len(body) / 4; return nil })
		return n, err
	}
	for _, list := range [][]VirtualService{services[:refused], services[refused+1:], nil} {
		a := conn.readServers(list)
		for i := range list {
			n, err := count(a)
			if want := sizes[list[i].Port]; err != nil || n != want {
				t.Errorf("service %d: %d rows (%v), want %d", list[i].Port, n, err, want)
			}
		}
		if _, err := count(a); err == nil {
			t.Error("there is an answer that nothing asked for")
		}
		a.close()
	}
	a := conn.readServers(services[refused-1:])
	count(a)
	if _, err := count(a); !errors.Is(err, unix.EBUSY) {
		t.Errorf("refused: %v, want EBUSY", err)
	}
	a.close()
	a = conn.readServers(services[1:])
	odd := errors.New("odd")
	if err := a.each(func([]byte) error { return odd }); err != odd {
		t.Errorf("%v, want the error about a row", err)
	}
	a.close()
	conn.readServers(services).close()
	a = conn.readServers(services[3:4])
	if n, err := count(a); err != nil || n != sizes[3] {
		t.Errorf("at the end: %d rows (%v)", n, err)
	}
	a.close()
	if n := len(requests); n < len(sizes) {
		t.Errorf("%d requests", n)
	}
}

// fakeDump answers each request for the real servers of a service with so many rows of
// four bytes, in messages to system calls of any size, until the socket is closed. The
// port of a service is its place in sizes.
func fakeDump(t *testing.T, fd int, sizes []int, refused int, requests chan<- uint32) {
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, b)
		if err != nil || n == 0 {
			return
		}
		seq := binary.NativeEndian.Uint32(b[8:])
		requests <- seq
		port := 0
		a := nested(b[unix.NLMSG_HDRLEN+unix.GENL_HDRLEN:n], cmdAttrService)
		for a.next() {
			if a.typ == svcAttrPort {
				port = int(a.port())
			}
		}
		message := func(seq uint32, typ uint16, body ...byte) []byte {
			m := netlinkMessage(t, typ, unix.NLM_F_MULTI, body)
			binary.NativeEndian.PutUint32(m[8:], seq)
			return m
		}
		var out [][]byte
		row := message(seq, 30, make([]byte, unix.GENL_HDRLEN+4*64)...) // 64 rows
		one := message(seq, 30, make([]byte, unix.GENL_HDRLEN+4)...)
		out = append(out, message(seq-1000, unix.NLMSG_DONE, 0, 0, 0, 0)) // of an abandoned request
		if port == refused {
			busy := unix.EBUSY
			out = append(out, message(seq, unix.NLMSG_ERROR, binary.NativeEndian.AppendUint32(nil, uint32(-int32(busy)))...))
		} else {
			var all []byte
			for left := sizes[port]; left > 0; {
				next := one
				if left >= 64 {
					next = row
				}
				left -= (len(next) - unix.NLMSG_HDRLEN - unix.GENL_HDRLEN) / 4
				if all = append(all, next...); len(all) > 1<<10 {
					out, all = append(out, all), nil
				}
			}
			out = append(out, all, message(seq, unix.NLMSG_DONE, 0, 0, 0, 0))
		}
		for _, m := range out {
			if len(m) > 0 {
				if _, err := unix.Write(fd, m); err != nil {
					return
				}
			}
		}
	}
}

// The question and the answer of IP_VS_SO_GET_DESTS, as include/uapi/linux/ip_vs.h lays
// them out on a 64-bit machine.
func TestDestEntries(t *testing.T) {
	b := make([]byte, destEntries)
	putGetDests(b, ServiceKey{Address: addr("10.0.0.100"), Port: 80, Protocol: TCP}, 3)
	if got, want := hex.EncodeToString(b), "06000000"+"0a000064"+"00500000"+"00000000"+"03000000"+"00000000"; got != want {
		t.Errorf("question %s, want %s", got, want)
	}
	clear(b)
	putGetDests(b, MarkKey(0x1234, false), 1)
	if got, want := hex.EncodeToString(b), "00000000"+"00000000"+"00000000"+"34120000"+"01000000"+"00000000"; got != want {
		t.Errorf("question about a mark %s, want %s", got, want)
	}
	entry := func(head string) []byte {
		b, err := hex.DecodeString(head)
		if err != nil {
			t.Fatal(err)
		}
		return append(b, make([]byte, destEntryBytes-len(b))...)
	}
	one := entry("0a000005" + "0050" + "0000" + "03000000" + "07000000" + "64000000" + "32000000" + "01000000" + "02000000" + "04000000")
	two := entry("0a000006" + "1f90")
	all := writtenEntries(slices.Concat(one, two, make([]byte, destEntryBytes), one))
	var got []KernelServer
	for ; len(all) > 0; all = all[destEntryBytes:] {
		got = append(got, destEntry(all, 80))
	}
	want := []KernelServer{
		{RealServer: RealServer{Address: addr("10.0.0.5"), Weight: 7}, Connections: Connections{Active: 1, Inactive: 2, Persistent: 4}},
		{RealServer: RealServer{Address: addr("10.0.0.6"), Port: 8080}},
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// What a device says of its features, as a list of those that are set and as a mask with
// values, and of its channels, combined or not.
func TestDeviceFacts(t *testing.T) {
	const listed, masked = true, false
	features := func(kind uint16, unmasked bool, bits map[string]bool) []byte {
		ae := netlink.NewAttributeEncoder()
		ae.Nested(kind, func(set *netlink.AttributeEncoder) error {
			set.Flag(unix.ETHTOOL_A_BITSET_NOMASK, unmasked)
			set.Uint32(unix.ETHTOOL_A_BITSET_SIZE, 64)
			set.Nested(unix.ETHTOOL_A_BITSET_BITS, func(all *netlink.AttributeEncoder) error {
				for name, is := range bits {
					all.Nested(unix.ETHTOOL_A_BITSET_BITS_BIT, func(bit *netlink.AttributeEncoder) error {
						bit.Uint32(unix.ETHTOOL_A_BITSET_BIT_INDEX, 7)
						bit.String(unix.ETHTOOL_A_BITSET_BIT_NAME, name)
						bit.Flag(unix.ETHTOOL_A_BITSET_BIT_VALUE, is)
						return nil
					})
				}
				return nil
			})
			return nil
		})
		b, err := ae.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	numbers := func(pairs ...uint32) []byte {
		ae := netlink.NewAttributeEncoder()
		for i := 0; i < len(pairs); i += 2 {
			ae.Uint32(uint16(pairs[i]), pairs[i+1])
		}
		b, err := ae.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var f deviceFacts
	for _, part := range []struct {
		take func(*netlink.AttributeDecoder)
		data []byte
		want deviceFacts // so far
	}{
		{f.features, features(unix.ETHTOOL_A_FEATURES_ACTIVE, listed, map[string]bool{"rx-lro": false, "rx-gro": false}), deviceFacts{On: map[string]bool{"rx-lro": true, "rx-gro": true}}},
		{f.features, features(unix.ETHTOOL_A_FEATURES_ACTIVE, masked, map[string]bool{"rx-lro": false, "rx-gro": true}), deviceFacts{On: map[string]bool{"rx-gro": true}}},
		{f.rings, numbers(unix.ETHTOOL_A_RINGS_RX_MAX, 4096, unix.ETHTOOL_A_RINGS_TX_MAX, 1, unix.ETHTOOL_A_RINGS_RX, 512), deviceFacts{On: map[string]bool{"rx-gro": true}, RX: 512, RXMax: 4096}},
		{f.channels, numbers(unix.ETHTOOL_A_CHANNELS_RX_MAX, 4, unix.ETHTOOL_A_CHANNELS_RX_COUNT, 2), deviceFacts{On: map[string]bool{"rx-gro": true}, RX: 512, RXMax: 4096, ChannelsMax: 4}},
		{f.channels, numbers(unix.ETHTOOL_A_CHANNELS_RX_MAX, 4, unix.ETHTOOL_A_CHANNELS_RX_COUNT, 0, unix.ETHTOOL_A_CHANNELS_COMBINED_MAX, 16, unix.ETHTOOL_A_CHANNELS_COMBINED_COUNT, 8),
			deviceFacts{On: map[string]bool{"rx-gro": true}, RX: 512, RXMax: 4096, ChannelsMax: 16, Combined: true}},
	} {
		ad, err := netlink.NewAttributeDecoder(part.data)
		if err != nil {
			t.Fatal(err)
		}
		for ad.Next() {
			part.take(ad)
		}
		if diff := cmp.Diff(part.want, f); diff != "" || ad.Err() != nil {
			t.Errorf("(-want +got), %v:\n%s", ad.Err(), diff)
		}
	}
}
