package main

import (
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

type claimFrame struct {
	name   string
	frame  []byte
	is6    bool
	want   *claim // nil: none
	passes bool   // the filter for 10.0.0.100 and 2001:db8::100
}

// claimFrames are frames as they may arrive.
func claimFrames() []claimFrame {
	v4, v6 := addr("10.0.0.100"), addr("2001:db8::100")
	edit := func(b []byte, change func([]byte) []byte) []byte { return change(append([]byte(nil), b...)) }
	set := func(i int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[i] = v; return b }
	}
	is4, is6 := &claim{Address: v4, MAC: otherMAC}, &claim{Address: v6, MAC: otherMAC}
	reply := gratuitousARP(otherMAC, v4, arpReply)
	asks := arpFrame(arpRequest, otherMAC, v4, [6]byte{}, addr("10.0.0.1"))
	na := unsolicitedNA(otherMAC, v6)
	bare := edit(na, func(b []byte) []byte { b[frameBody+5] -= 8; return b[:len(b)-8] })
	return []claimFrame{
		{"gratuitous request", gratuitousARP(otherMAC, v4, arpRequest), false, is4, true},
		{"gratuitous reply", reply, false, is4, true},
		{"padded", append(append([]byte(nil), reply...), make([]byte, 18)...), false, is4, true},
		{"request for another", asks, false, &claim{Address: v4, MAC: otherMAC, Asks: true}, true},
		{"probe", arpProbe(otherMAC, v4), false, nil, false},
		{"another address", gratuitousARP(otherMAC, addr("10.0.0.101"), arpReply), false, &claim{Address: addr("10.0.0.101"), MAC: otherMAC}, false},
		{"no MAC address", gratuitousARP([6]byte{}, v4, arpReply), false, nil, true},
		{"RARP", edit(reply, set(arpOperation+1, 4)), false, nil, true},
		{"another hardware", edit(reply, set(frameBody+1, 6)), false, nil, false},
		{"another protocol", edit(reply, set(frameBody+2, 9)), false, nil, false},
		{"odd lengths", edit(reply, set(frameBody+4, 8)), false, nil, true},
		{"cut short", reply[:arpEnd-1], false, nil, true},
		{"cut in the sender", reply[:arpSender+3], false, nil, false},
		{"not ARP", edit(reply, set(13, 0)), false, nil, true},
		{"nothing", nil, false, nil, false},

		{"advertisement", na, true, is6, true},
		{"without the option", bare, true, is6, true},
		{"the option and not the frame counts", edit(na, set(6, 0x0a)), true, is6, true},
		{"with padding", append(append([]byte(nil), bare...), make([]byte, 8)...), true, is6, true},
		{"solicitation", dadSolicitation(otherMAC, v6), true, nil, false},
		{"another target", unsolicitedNA(otherMAC, addr("2001:db8::101")), true, &claim{Address: addr("2001:db8::101"), MAC: otherMAC}, false},
		{"another network", unsolicitedNA(otherMAC, addr("2001:db9::100")), true, &claim{Address: addr("2001:db9::100"), MAC: otherMAC}, false},
		{"from behind a router", edit(na, set(ip6HopLimit, 254)), true, nil, true},
		{"another code", edit(na, set(ndType+1, 1)), true, nil, true},
		{"UDP", edit(na, set(ip6NextHeader, unix.IPPROTO_UDP)), true, nil, false},
		{"not version 6", edit(na, set(frameBody, 0x40)), true, nil, true},
		{"an option without length", edit(na, set(ndOptions+1, 0)), true, nil, true},
		{"an option that is too long", edit(na, set(ndOptions+1, 2)), true, nil, true},
		{"more promised than there is", edit(na, set(frameBody+5, 40)), true, nil, true},
		{"less promised than a target takes", edit(na, set(frameBody+5, 16)), true, nil, true},
		{"half an option", edit(na, set(frameBody+5, 28)), true, nil, true},
		{"cut in the target", na[:ndOptions-1], true, nil, false},
	}
}

func TestParseClaim(t *testing.T) {
	for _, test := range claimFrames() {
		got, ok := parseClaim(test.frame)
		if ok != (test.want != nil) || ok && got != *test.want {
			t.Errorf("%s: %+v, %t; want %+v", test.name, got, ok, test.want)
		}
	}
}

// The filter lets through claims to its addresses, at any place of the
// list, and all claims when there are too many addresses to compare.
func TestConflictFilter(t *testing.T) {
	lists := map[bool][]netip.Addr{
		false: {addr("10.0.0.7"), addr("10.0.0.100"), addr("10.0.0.200")},
		true:  {addr("2001:db8::7"), addr("2001:db8::100"), addr("2001:db8:1::100")},
	}
	many := map[bool][]netip.Addr{false: make([]netip.Addr, maxFiltered+1), true: make([]netip.Addr, maxFiltered+1)}
	for _, test := range claimFrames() {
		for _, list := range []map[bool][]netip.Addr{lists, many} {
			raw, err := conflictFilter(test.is6, list[test.is6])
			if err != nil {
				t.Fatal(err)
			}
			var program []bpf.Instruction
			for _, r := range raw {
				program = append(program, r.Disassemble())
			}
			vm, err := bpf.NewVM(program)
			if err != nil {
				t.Fatal(err)
			}
			n, err := vm.Run(test.frame)
			if err != nil {
				t.Fatal(err)
			}
			if len(list[test.is6]) <= maxFiltered && n > 0 != test.passes {
				t.Errorf("%s: passes %t, want %t", test.name, n > 0, test.passes)
			}
			if len(list[test.is6]) > maxFiltered && test.want != nil && n == 0 {
				t.Errorf("%s: does not pass the filter for many addresses", test.name)
			}
		}
	}
}

// For any packet: no byte is read that is not there, and a claim
// is one that could be sent again.
func FuzzParseClaim(f *testing.F) {
	for _, c := range claimFrames() {
		f.Add(c.frame)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := parseClaim(b[:len(b):len(b)])
		if !ok {
			return
		}
		frame := unsolicitedNA(c.MAC, c.Address)
		if c.Address.Is4() {
			frame = gratuitousARP(c.MAC, c.Address, arpReply)
		}
		back, ok := parseClaim(frame)
		if c.Asks = false; !ok || back != c {
			t.Errorf("sent again it is %+v, was %+v", back, c)
		}
	})
}
