package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func markedPort(address, port string) MarkedPort {
	p, err := ParsePort(port)
	if err != nil {
		panic(err)
	}
	return MarkedPort{Address: netip.MustParseAddr(address), Port: p}
}

// drawGroups gives some distinct groups and a range that has room for them and
// for extra more, often a tight one.
func drawGroups(t *rapid.T, extra int) (MarkRange, []GroupName) {
	name := rapid.Custom(func(t *rapid.T) GroupName {
		return GroupName{rapid.StringMatching("[a-c]{0,2}").Draw(t, "vip"), rapid.StringMatching("[a-c]{0,2}").Draw(t, "group")}
	})
	groups := rapid.SliceOfNDistinct(name, 0, 40, rapid.ID[GroupName]).Draw(t, "groups")
	n := uint32(len(groups) + extra)
	count := rapid.OneOf(rapid.Just(max(n, 1)), rapid.Uint32Range(max(n, 1), 100), rapid.Just(uint32(1<<32-1))).Draw(t, "count")
	first := rapid.Uint32Range(1, 1<<32-1-(count-1)).Draw(t, "first")
	return MarkRange{First: first, Count: count}, groups
}

// The kernel compares whole registers of four bytes.
func TestMarkKey(t *testing.T) {
	tests := []struct {
		address, port string
		want          string // hexadecimal
	}{
		{"10.0.0.1", "80/tcp", "0a000001 06000000 00500000"},
		{"10.0.0.1", "65535/udp", "0a000001 11000000 ffff0000"},
		{"192.0.2.255", "3868/sctp", "c00002ff 84000000 0f1c0000"},
		{"2001:db8::1", "443/tcp", "20010db8 00000000 00000000 00000001 06000000 01bb0000"},
	}
	for _, tt := range tests {
		port := markedPort(tt.address, tt.port)
		key := markKey(port)
		var got string
		for i := 0; i < len(key); i += 4 {
			got += fmt.Sprintf(" %x", key[i:min(i+4, len(key))])
		}
		if got[1:] != tt.want {
			t.Errorf("%s of %s: key%s, want %s", tt.port, tt.address, got, tt.want)
		}
		e, err := setOf4or6(markForm(nil), port.Address).parse(nftables.SetElement{Key: key, Val: []byte{1, 1, 1, 1}})
		if want := (markElement{port, 0x01010101}); e != want || err != nil {
			t.Errorf("read back: %v, %v, want %v", e, err, want)
		}
		e, err = setOf4or6(untrackedForm(untracked{}), port.Address).parse(nftables.SetElement{Key: key})
		if want := (markElement{MarkedPort: port}); e != want || err != nil {
			t.Errorf("read back without a mark: %v, %v, want %v", e, err, want)
		}
	}
}

// setOf4or6 is the set of f for addresses like a.
func setOf4or6(f tableForm, a netip.Addr) *portSet { return &f.sets[familyIndex(a.Is6())] }

// What another program may have put into a map or a set.
func TestParseMarkElementRefuses(t *testing.T) {
	good := markKey(markedPort("10.0.0.1", "80/tcp"))
	change := func(i int) []byte {
		key := slices.Clone(good)
		key[i] = 1
		return key
	}
	for name, e := range map[string]nftables.SetElement{
		"no key":              {Val: make([]byte, 4)}, // nft: "* : 0x1"
		"short key":           {Key: good[:8], Val: make([]byte, 4)},
		"odd address":         {Key: good[1:], Val: make([]byte, 4)},
		"padding of protocol": {Key: change(6), Val: make([]byte, 4)},
		"padding of port":     {Key: change(11), Val: make([]byte, 4)},
		"no mark":             {Key: good},
		"long mark":           {Key: good, Val: make([]byte, 8)},
		"other family":        {Key: markKey(markedPort("2001:db8::1", "80/tcp")), Val: make([]byte, 4)},
	} {
		if got, err := markForm(nil).sets[0].parse(e); err == nil {
			t.Errorf("%s: read as %v", name, got)
		}
		if len(e.Val) == 4 {
			e.Val = nil
		} else {
			e.Val = make([]byte, 4)
		}
		if got, err := untrackedForm(untracked{}).sets[0].parse(e); err == nil {
			t.Errorf("%s: read as %v, which is not tracked", name, got)
		}
	}
}

// elements encodes m for all sets of f.
func (f *tableForm) elements(m markElement) (all []nftables.SetElement) {
	for i := range f.sets {
		all = append(all, f.sets[i].elements([]markElement{m})...)
	}
	return all
}

// An element that is read is written again as the same, in the map of its family.
func FuzzParseMarkElement(f *testing.F) {
	f.Add(markKey(markedPort("10.0.0.1", "80/tcp")), []byte{1, 2, 3, 4})
	f.Add(markKey(markedPort("2001:db8::1", "3868/sctp")), []byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, key, mark []byte) {
		defer bounded(t, len(key)+len(mark))()
		for _, form := range []tableForm{markForm(nil), untrackedForm(untracked{})} {
			for i := range form.sets {
				m, err := form.sets[i].parse(nftables.SetElement{Key: key, Val: mark})
				if err != nil {
					continue
				}
				if all := form.elements(m); len(all) != 1 || !bytes.Equal(all[0].Key, key) || !bytes.Equal(all[0].Val, mark) {
					t.Fatalf("%+v became %+v", m, all)
				}
			}
		}
	})
}

// What the kernel may answer about a table of our name, which any program can make:
// what is read as elements is written again as the same, and nothing else counts.
func FuzzNftElements(f *testing.F) {
	var elements []byte
	for _, p := range []MarkedPort{markedPort("10.0.0.1", "80/tcp"), markedPort("2001:db8::1", "53/udp")} {
		attribute := func(kind uint16, data []byte) []byte {
			b, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: kind, Data: data}})
			if err != nil {
				f.Fatal(err)
			}
			return b
		}
		nested := func(kind uint16, data []byte) []byte { return attribute(kind|unix.NLA_F_NESTED, data) }
		key := nested(unix.NFTA_SET_ELEM_KEY, attribute(unix.NFTA_DATA_VALUE, markKey(p)))
		mark := nested(unix.NFTA_SET_ELEM_DATA, attribute(unix.NFTA_DATA_VALUE, []byte{1, 2, 3, 4}))
		elements = append(elements, nested(unix.NFTA_LIST_ELEM, append(key, mark...))...)
		f.Add(append([]byte{unix.NFPROTO_INET, 0, 0, 0}, nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, elements)...))
	}
	// User data that ends in its head.
	f.Add([]byte("0000(\x00\x03\x80$\x00\x01\x80\x14\x00000000000000000000\f\x00\x06\x8000000000"))
	newest := map[uint16]uint16{
		unix.NFT_MSG_GETTABLE: unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_GETCHAIN: unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_GETRULE: unix.NFT_MSG_NEWRULE,
		unix.NFT_MSG_GETSET: unix.NFT_MSG_NEWSET, unix.NFT_MSG_GETSETELEM: unix.NFT_MSG_NEWSETELEM,
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 4 {
			return // the kernel's header is always there
		}
		defer bounded(t, len(b))()
		var answer []netlink.Message
		conn, err := nftables.New(nftables.AsLasting(), nftables.WithTestDial(func(requests []netlink.Message) ([]netlink.Message, error) {
			for _, r := range requests {
				m := netlink.Message{Header: r.Header, Data: b}
				m.Header.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | netlink.HeaderType(newest[uint16(r.Header.Type)&0xff])
				answer = []netlink.Message{m}
			}
			return answer, nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseLasting()
		for _, form := range []tableForm{markForm(nil), untrackedForm(untracked{Tunnels: []tunnelledVIP{{Address: addr("10.0.0.1")}}})} {
			var all []markElement
			for i := range form.sets {
				var elements []nftables.SetElement
				func() {
					defer func() { _ = recover() }() // read takes it for damage
					elements, _ = conn.GetSetElements(&form.sets[i].Set)
				}()
				for _, e := range elements {
					m, err := form.sets[i].parse(e)
					if err != nil {
						continue
					}
					all = append(all, m)
					if again := form.elements(m); len(again) != 1 || !bytes.Equal(again[0].Key, e.Key) || !bytes.Equal(again[0].Val, e.Val) {
						t.Fatalf("%+v became %+v", e, again)
					}
				}
			}
			if have := form.read(conn, form.table); have.damage == "" || len(have.marks) > 0 {
				t.Fatalf("a table that is not ours is read as %+v, with elements %v", have, all)
			}
		}
	})
}

func TestDiffMarks(t *testing.T) {
	address := rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "2001:db8::1"})
	port := rapid.Custom(func(t *rapid.T) MarkedPort {
		return markedPort(address.Draw(t, "address"), rapid.SampledFrom([]string{"80/tcp", "80/udp", "443/tcp"}).Draw(t, "port"))
	})
	table := rapid.MapOfN(port, rapid.Uint32Range(1, 3), 0, 9)
	rapid.Check(t, func(t *rapid.T) {
		want, have := table.Draw(t, "want"), table.Draw(t, "have")
		add, remove := diffMarks(want, have)
		for _, list := range [][]markElement{add, remove} {
			if !slices.IsSortedFunc(list, markElement.Compare) {
				t.Fatalf("not sorted: %v", list)
			}
		}
		got := maps.Clone(have)
		for _, e := range remove {
			if mark, ok := got[e.MarkedPort]; !ok || mark != e.Mark {
				t.Fatalf("%v is to be removed and not there", e)
			}
			delete(got, e.MarkedPort)
		}
		for _, e := range add {
			if _, ok := got[e.MarkedPort]; ok {
				t.Fatalf("%v is to be added over another", e)
			}
			got[e.MarkedPort] = e.Mark
		}
		if !maps.Equal(got, want) {
			t.Fatalf("%v became %v", have, got)
		}
		if len(add)+len(remove) > 0 && maps.Equal(want, have) {
			t.Fatalf("changes to what is the same: %v, %v", add, remove)
		}
	})
}

func TestDescribeChange(t *testing.T) {
	ports := func(address string, n int, mark uint32) map[MarkedPort]uint32 {
		m := make(map[MarkedPort]uint32)
		for i := range n {
			m[markedPort(address, fmt.Sprint(1000+i, "/udp"))] = mark
		}
		return m
	}
	many := make(map[MarkedPort]uint32)
	for i := range 12 {
		maps.Copy(many, ports(fmt.Sprintf("10.0.0.%d", i+1), 1, uint32(i+1)))
	}
	for _, tt := range []struct {
		want, have map[MarkedPort]uint32
		text       string
	}{
		{nil, nil, ""},
		{ports("10.0.0.1", 2, 0x1001), nil, "add 1000/udp, 1001/udp of 10.0.0.1 with mark 0x1001"},
		{ports("2001:db8::1", 1, 2), ports("2001:db8::1", 2, 1),
			"add 1000/udp of 2001:db8::1 with mark 0x2; remove 1000/udp, 1001/udp of 2001:db8::1 with mark 0x1"},
		{ports("10.0.0.1", 2000, 1), nil, "add 1000/udp, 1001/udp, 1002/udp, 1003/udp, 1004/udp, 1005/udp, " +
			"1006/udp, 1007/udp, 1008/udp, 1009/udp, and 1990 more of 10.0.0.1 with mark 0x1"},
		{ports("10.0.0.1", 2, 0), ports("2001:db8::1", 1, 0), "add 1000/udp, 1001/udp of 10.0.0.1; remove 1000/udp of 2001:db8::1"},
		{many, nil, "add 1000/udp of 10.0.0.1 with mark 0x1; add 1000/udp of 10.0.0.2 with mark 0x2; " +
			"add 1000/udp of 10.0.0.3 with mark 0x3; add 1000/udp of 10.0.0.4 with mark 0x4; " +
			"add 1000/udp of 10.0.0.5 with mark 0x5; add 1000/udp of 10.0.0.6 with mark 0x6; " +
			"add 1000/udp of 10.0.0.7 with mark 0x7; add 1000/udp of 10.0.0.8 with mark 0x8; " +
			"add 1000/udp of 10.0.0.9 with mark 0x9; add 1000/udp of 10.0.0.10 with mark 0xa; and 2 more"},
	} {
		if got := describeChange(diffMarks(tt.want, tt.have)); got != tt.text {
			t.Errorf("got  %s\nwant %s", got, tt.text)
		}
	}
}

// The kernel says which functions it calls for a packet, or how many connections it
// tracks.
func TestTracking(t *testing.T) {
	attribute := func(kind uint16, data string) netlink.Attribute {
		return netlink.Attribute{Type: kind, Data: []byte(data)}
	}
	for _, tt := range []struct {
		want  string
		attrs []netlink.Attribute
	}{
		{"ipv4_conntrack_in", []netlink.Attribute{attribute(1, "\x00\x00\x00\x00"), attribute(hookFunctionName, "ipv4_conntrack_in\x00"), attribute(5, "nf_conntrack\x00")}},
		{"", []netlink.Attribute{attribute(2, "\xff\xff\xff\x38")}},
	} {
		b, err := netlink.MarshalAttributes(tt.attrs)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseHook(append([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, b...)); got != tt.want || err != nil {
			t.Errorf("read %q, %v, want %q", got, err, tt.want)
		}
	}
	for name, want := range map[string]bool{
		"ipv4_conntrack_in": true, "ipv6_conntrack_in": true, "ipv4_conntrack_in.cfi_jt": true,
		"ipv4_conntrack_defrag": false, "nft_do_chain_inet": false, "ipv4_conntrack_local": false, "": false,
	} {
		if got := tracksByHooks([]string{"a", name}); got != want {
			t.Errorf("a hook %q: connection tracking %t, want %t", name, got, want)
		}
	}
	for count, want := range map[string]bool{"": false, "0\n": false, "1\n": true, "10\n": true} {
		if got := tracked([]byte(count)); got != want {
			t.Errorf("%q connections: connection tracking %t, want %t", count, got, want)
		}
	}
	vip := func(name string, notrack bool, addresses ...string) VIP {
		return testVIP(func(v *VIP) {
			v.Name, v.NoTrack, v.Addresses = name, notrack, nil
			for _, a := range addresses {
				v.Addresses = append(v.Addresses, addr(a))
			}
		})
	}
	cfg := &Config{VIPs: []VIP{vip("four", false, "10.0.0.1"), vip("six", false, "2001:db8::1"), vip("both", false, "10.0.0.2", "2001:db8::2"), vip("exempt", true, "10.0.0.3", "2001:db8::3")}}
	for want, families := range map[string][2]bool{"": {}, "four both": {true, false}, "six both": {false, true}, "four six both": {true, true}} {
		if got := strings.Join(trackedVIPs(cfg, func(is6 bool) bool { return families[familyIndex(is6)] }), " "); got != want {
			t.Errorf("tracking of %v: VIPs %q, want %q", families, got, want)
		}
	}
}

// What the kernel says of a hook is of any form.
func FuzzParseHook(f *testing.F) {
	b, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: hookFunctionName, Data: []byte("ipv4_conntrack_in\x00")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, b...))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer bounded(t, len(b))()
		if name, err := parseHook(b); err == nil && len(name) > len(b) {
			t.Fatalf("%q from %q", name, b)
		}
	})
}
