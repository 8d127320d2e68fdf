// The reader of `ipvsadm -Sn` listings: what it understands, what it refuses and how it
// says so. It is the inverse of our own printer.

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// sameRows compares tables by what the kernel has.
var sameRows = gocmp.Options{compareAddrs, gocmp.Comparer(func(a, b Service) bool {
	return a.VirtualService == b.VirtualService && slices.EqualFunc(a.Servers, b.Servers, func(x, y Row) bool { return x.RealServer == y.RealServer })
})}

// A thousand random tables are printed, in any order of lines, and read again.
func TestListingRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	var want Table
	thresholds := 0
	for range 1000 {
		want = randomTable(random, want)
		text := want.appendListing(nil)
		lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
		random.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		slices.SortStableFunc(lines, func(a, b string) int { return cmp.Compare(a[:min(2, len(a))], b[:min(2, len(b))]) }) // -A before -a
		got, err := readListing(strings.NewReader(strings.Join(lines, "\n")))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if diff := gocmp.Diff(want, got.Table, sameRows); diff != "" {
			t.Fatalf("(-want +got):\n%s\n%s", diff, text)
		}
		if has := bytes.Contains(text, []byte(" -x ")); got.Thresholds != has {
			t.Fatalf("thresholds %v in\n%s", got.Thresholds, text)
		} else if has {
			thresholds++
		}
	}
	if thresholds < 100 {
		t.Errorf("only %d tables have thresholds", thresholds)
	}
}

// What ipvsadm on Linux 6.1 printed, and the long options of its manual page.
func TestListing(t *testing.T) {
	got, err := readListing(strings.NewReader(`# saved on a director

-A -t 10.0.0.101:80 -s sh -b sh-port
-a -t 10.0.0.101:80 -r [::1]:80 -i -w 1 --tun-type ipip
-a -t 10.0.0.101:80 -r 127.0.0.1:80 -i -w 0 --tun-type gue --tun-port 6080 --tun-remcsum
-a -t 10.0.0.101:80 -r 127.0.0.2:80 -i -w 1 --tun-type gre --tun-csum
-A -t 10.0.0.102:80 -s rr -b flag-1,flag-2
-A -t 10.0.0.103:0 -s rr -p 300 -M 0.0.0.0
-A -u 10.0.0.101:53 -s rr -p 300 -M 255.0.255.0 --pe sip -o -b flag-3
-A -t [2001:db8::1]:80 -s rr -p 10 -M 64
-A -f -2 -6 -s wlc
-a -f -2 -6 -r [2001:db8::2]:0 -g -w 2
--add-service --sctp-service 10.0.0.104:9 --persistent
  --add-server  --sctp-service 10.0.0.104:9 --real-server 10.0.0.5:10 --masquerading --weight 3 --u-threshold 9 --l-threshold 4
`))
	if err != nil {
		t.Fatal(err)
	}
	row := func(a string, more RealServer) Row {
		more.Address = addr(a)
		return Row{RealServer: more}
	}
	want := Table{
		{VirtualService: VirtualService{ServiceKey: MarkKey(1<<32-2, true), Scheduler: "wlc"}, Servers: []Row{row("2001:db8::2", RealServer{Forward: DirectRoute, Weight: 2})}},
		{VirtualService: VirtualService{ServiceKey: service("[2001:db8::1]:80/tcp").ServiceKey, Scheduler: "rr", Flags: FlagPersistent, Persistence: 10, Netmask: 64}},
		{VirtualService: VirtualService{ServiceKey: service("10.0.0.101:53/udp").ServiceKey, Scheduler: "rr", Flags: FlagPersistent | FlagOnePacket | FlagSched3, Persistence: 300, Netmask: oddNetmask, Engine: "sip"}},
		{VirtualService: VirtualService{ServiceKey: service("10.0.0.101:80/tcp").ServiceKey, Scheduler: "sh", Flags: FlagSched2}, Servers: []Row{
			row("127.0.0.1", RealServer{Forward: Tunnel, Tunnel: TunnelSettings{Type: TunnelGUE, Port: 6080, Flags: TunnelRemoteChecksum}}),
			row("127.0.0.2", RealServer{Forward: Tunnel, Weight: 1, Tunnel: TunnelSettings{Type: TunnelGRE, Flags: TunnelChecksum}}),
			row("::1", RealServer{Forward: Tunnel, Weight: 1}),
		}},
		{VirtualService: VirtualService{ServiceKey: service("10.0.0.102:80/tcp").ServiceKey, Scheduler: "rr", Flags: FlagSched1 | FlagSched2}},
		{VirtualService: VirtualService{ServiceKey: ServiceKey{Address: addr("10.0.0.103"), Protocol: TCP}, Scheduler: "rr", Flags: FlagPersistent, Persistence: 300, Netmask: oddNetmask}},
		{VirtualService: VirtualService{ServiceKey: service("10.0.0.104:9/sctp").ServiceKey, Scheduler: "wlc", Flags: FlagPersistent, Persistence: 300}, Servers: []Row{
			row("10.0.0.5", RealServer{Port: 10, Weight: 3, Upper: 9, Lower: 4}),
		}},
	}
	slices.SortFunc(want, compareServices)
	if diff := gocmp.Diff(want, got.Table, sameRows); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What it does not understand is one message with the line's number.
func TestListingMistakes(t *testing.T) {
	const ok = "-A -t 10.0.0.1:80 -s rr\n"
	for _, test := range []struct{ text, want string }{
		{"IP Virtual Server version 1.2.1 (size=4096)\n", "line 1: this is what ipvsadm -L prints; save the table with ipvsadm -Sn"},
		{ok + "-D -t 10.0.0.1:80\n", `line 2: it begins with "-D", want -A or -a, as ipvsadm -Sn prints it`},
		{ok + "-a -t 10.0.0.1:80 -r web1:http -g -w 1\n", `line 2: "web1:http" is not ADDRESS:PORT in numbers; save the table with ipvsadm -Sn, with the n`},
		{ok + "-a -t 10.0.0.1:80 -g -w 1\n", `line 2: "" is not ADDRESS:PORT in numbers; save the table with ipvsadm -Sn, with the n`},
		{"\n" + ok + ok, "line 3: virtual service 10.0.0.1:80/tcp is listed twice"},
		{"-a -t 10.0.0.1:80 -r 10.1.0.1:80 -g -w 1\n" + ok, "line 1: there is no line -A for virtual service 10.0.0.1:80/tcp before"},
		{ok + strings.Repeat("-a -t 10.0.0.1:80 -r 10.1.0.1:80 -g -w 1\n", 2), "line 3: real server 10.1.0.1 of 10.0.0.1:80/tcp is listed twice"},
		{"-A -t 10.0.0.1:80 -s rr -w 1\n", "line 1: -w does not belong to -A"},
		{"-A -t 10.0.0.1:80 -s\n", "line 1: -s has no value"},
		{"-A -t 10.0.0.1:80 -s rr -s rr\n", "line 1: -s is given twice"},
		{"-A -t 10.0.0.1:80 -s rr --wieght\n", `line 1: "--wieght" is no option of a listing`},
		{"-A -t 10.0.0.1:80 -u 10.0.0.1:80\n", "line 1: want one virtual service: -t, -u, --sctp-service or -f"},
		{"-A -s rr\n", "line 1: want one virtual service: -t, -u, --sctp-service or -f"},
		{"-A -f 4294967296 -s rr\n", `line 1: "4294967296" is not a firewall mark`},
		{"-A -t 10.0.0.1:80 -6 -s rr\n", "line 1: -6 is for a firewall mark"},
		{"-A -t [::ffff:10.0.0.1]:80 -s rr\n", `line 1: "[::ffff:10.0.0.1]:80" is not ADDRESS:PORT in numbers; save the table with ipvsadm -Sn, with the n`},
		{"-A -t 10.0.0.1:80 -s rr -p -1\n", `line 1: "-1" is no option of a listing`},
		{"-A -t 10.0.0.1:80 -s rr -p 5 -M 24\n", `line 1: -M "24" is not a netmask`},
		{"-A -t [2001:db8::1]:80 -s rr -p 5 -M 129\n", `line 1: -M "129" is not a prefix length from 0 to 128`},
		{"-A -t 10.0.0.1:80 -s rr -b sh-port\n", `line 1: -b: "sh-port" is no flag of scheduler rr`},
		{"-A -t 10.0.0.1:80 -s sixteencharacter\n", `line 1: "sixteencharacter" has more than 15 characters`},
		{ok + "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -g -i\n", "line 2: want one of -g, -i and -m"},
		{ok + "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -i --tun-type vxlan\n", `line 2: --tun-type "vxlan" is not ipip, gue or gre`},
		{ok + "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -i --tun-csum --tun-nocsum\n", "line 2: want one of --tun-nocsum, --tun-csum and --tun-remcsum"},
		{ok + "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -w 2147483648\n", `line 2: -w "2147483648" is not a number from 0 to 2147483647`},
		{ok + "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -i --tun-port 65536\n", `line 2: --tun-port "65536" is not a number from 0 to 65535`},
		{ok + strings.Repeat("x", 2000), "line 2: it is longer than 1024 characters"},
		{strings.Repeat("#"+strings.Repeat(" ", 1000)+"\n", maxListing/1000), "the listing is larger than 32 MiB"},
	} {
		got, err := readListing(strings.NewReader(test.text))
		if fmt.Sprint(err) != test.want || len(got.Table) > 0 {
			t.Errorf("%.80q: %v, want %s", test.text, err, test.want)
		}
	}
}

// 50,000 real servers are read in little time and memory.
func TestListingOfALargeTable(t *testing.T) {
	skipShort(t)
	var text []byte
	for s := range 1000 {
		k := ServiceKey{Address: addr("10.0.0.1"), Protocol: TCP, Port: uint16(1 + s)}
		text = append(appendServiceLine(text, "-A", &VirtualService{ServiceKey: k, Scheduler: "wlc"}), '\n')
		for r := range 50 {
			text = append(appendServerLine(text, "-a", &k, &RealServer{Address: netip.AddrFrom4([4]byte{10, 1, 0, byte(r)}), Forward: DirectRoute, Weight: 1}), '\n')
		}
	}
	begun := time.Now()
	got, err := readListing(bytes.NewReader(text))
	if err != nil || len(got.Table) != 1000 {
		t.Fatalf("%d services, %v", len(got.Table), err)
	}
	took := time.Since(begun)
	t.Logf("%d bytes in %v", len(text), took)
	if took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// Whatever the text is, it is refused with a short error, or its table is printed and
// read again.
func FuzzListing(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		f.Add(string(randomTable(random, nil).appendListing(nil)))
	}
	f.Add("-A -f -2 -6\n-a -f -2 -6 -r [::1]:0 -i --tun-type gre --tun-csum -x 4\n")
	f.Add("IP Virtual Server\n")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := readListing(strings.NewReader(text))
		if err != nil {
			if len(err.Error()) > 600 {
				t.Errorf("the error has %d bytes: %v", len(err.Error()), err)
			}
			return
		}
		printed := first.Table.appendListing(nil)
		again, err := readListing(bytes.NewReader(printed))
		if err != nil {
			t.Fatalf("%v in our own listing of %q:\n%s", err, text, printed)
		}
		for i := range first.Table { // only persistence has a netmask, in a listing and for us
			if s := &first.Table[i]; s.Flags&FlagPersistent == 0 || s.Netmask == oddNetmask {
				s.Netmask, again.Table[i].Netmask = 0, 0
			}
		}
		if diff := gocmp.Diff(first.Table, again.Table, sameRows); diff != "" {
			t.Errorf("(-first +again):\n%s\n%s", diff, printed)
		}
	})
}

// randomTable draws a table over everything that a configuration can ask for,
// often from the keys of before, so that edits come up too.
func randomTable(r *rand.Rand, before Table) Table {
	services := make(map[ServiceKey]Service)
	for range r.IntN(6) {
		k := randomKey(r)
		if len(before) > 0 && r.IntN(2) == 0 {
			k = before[r.IntN(len(before))].ServiceKey
		}
		var old []Row
		if s := before.at(k); s != nil {
			old = s.Servers
		}
		services[k] = Service{VirtualService: randomService(r, k), Servers: randomServers(r, k, old)}
	}
	var t Table
	for _, s := range services {
		t = append(t, s)
	}
	slices.SortFunc(t, compareServices)
	return t
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomKey(r *rand.Rand) ServiceKey {
	if r.IntN(4) == 0 {
		// ipvsadm prints marks from 1<<31 on as negative numbers.
		return MarkKey(pick(r, uint32(1), 4096, 65536, 1<<31-1), r.IntN(2) == 0)
	}
	return ServiceKey{
		Address:  pick(r, addr("10.0.0.100"), addr("10.0.0.101"), addr("2001:db8::100")),
		Protocol: pick(r, TCP, UDP, SCTP),
		Port:     pick(r, uint16(1), 53, 80, 443, 65535),
	}
}

func randomService(r *rand.Rand, k ServiceKey) VirtualService {
	s := VirtualService{ServiceKey: k, Scheduler: pick(r, "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh")}
	if s.Scheduler == "sh" || s.Scheduler == "mh" {
		s.Flags |= pick(r, 0, FlagSched1, FlagSched2, FlagSched1|FlagSched2)
	}
	switch r.IntN(3) {
	case 0:
		s.Flags |= FlagPersistent
		s.Persistence = pick(r, uint32(1), 300, 86400)
		if k.Address.Is4() {
			s.Netmask = pick(r, uint8(0), 8, 24, 31)
		} else {
			s.Netmask = pick(r, uint8(0), 1, 64, 127)
		}
		if k.Protocol == UDP {
			s.Engine = pick(r, "", "sip")
		}
	case 1:
		if k.Protocol == UDP {
			s.Flags |= FlagOnePacket
		}
	}
	return s
}

func randomServers(r *rand.Rand, k ServiceKey, before []Row) []Row {
	var rows []Row
	for range r.IntN(6) {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(11 + r.IntN(6))})
		if k.Address.Is6() {
			a = addr(fmt.Sprintf("2001:db8::%d", 11+r.IntN(6)))
		}
		s := RealServer{Address: a, Forward: pick(r, DirectRoute, DirectRoute, Tunnel, Masq), Weight: pick(r, uint32(0), 1, 7, 65535)}
		if len(before) > 0 && r.IntN(2) == 0 {
			s.Address = before[r.IntN(len(before))].Address
		}
		if s.Forward == Tunnel {
			s.Tunnel = pick(r,
				TunnelSettings{Type: TunnelIPIP},
				TunnelSettings{Type: TunnelGUE, Port: 6080},
				TunnelSettings{Type: TunnelGUE, Port: 1, Flags: TunnelChecksum},
				TunnelSettings{Type: TunnelGUE, Port: 65535, Flags: TunnelRemoteChecksum},
				TunnelSettings{Type: TunnelGRE},
				TunnelSettings{Type: TunnelGRE, Flags: TunnelChecksum})
		}
		if r.IntN(3) == 0 {
			s.Upper = pick(r, uint32(2), 100, 1<<20)
			s.Lower = pick(r, uint32(0), 1)
		}
		if !slices.ContainsFunc(rows, sameAs(s)) {
			rows = append(rows, Row{RealServer: s})
		}
	}
	slices.SortFunc(rows, compareRows)
	return rows
}
