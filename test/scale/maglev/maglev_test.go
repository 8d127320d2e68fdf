package maglev

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
)

// servers are n real servers of weight 1.
func servers(n int) []Server {
	all := make([]Server, n)
	for i := range all {
		all[i] = Server{netip.MustParseAddrPort(fmt.Sprintf("10.0.%d.%d:80", i/250, 11+i%250)), 1, 1}
	}
	return all
}

// clients are n clients of different addresses and ports.
func clients(n int) []Client {
	all := make([]Client, n)
	for i := range all {
		all[i] = NewClient(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i / 250), byte(i % 250)}), uint16(20000+7*i%30000)))
	}
	return all
}

// moved counts the clients that two tables send to different real servers, of those
// whose first one is not except.
func moved(a, b *Table, cs []Client, except netip.AddrPort) (n, of int) {
	for _, c := range cs {
		one := a.servers[a.Pick(c)].Addr
		if one == except {
			continue
		}
		of++
		if one != b.servers[b.Pick(c)].Addr {
			n++
		}
	}
	return n, of
}

func TestSharesFollowWeights(t *testing.T) {
	all := servers(3)
	all[1].Weight, all[1].LastWeight = 2, 2
	all[2].Weight, all[2].LastWeight = 4, 4
	var counts [3]int
	table := New(all)
	for _, i := range table.places {
		counts[i]++
	}
	for i, n := range counts {
		want := Size * float64(all[i].Weight) / 7
		if math.Abs(float64(n)-want) > 5 {
			t.Errorf("real server %d has %d places, want %.0f", i, n, want)
		}
	}
}

// The largest weight counts with six bits, so a weight of 1 beside one of 1000 gets
// more than its share.
func TestWeightsAreShifted(t *testing.T) {
	all := servers(2)
	all[1].Weight, all[1].LastWeight = 1000, 1000
	n := 0
	for _, i := range New(all).places {
		if i == 0 {
			n++
		}
	}
	if want := Size / (1000>>4 + 1); n < want-1 || n > want+1 {
		t.Errorf("the light real server has %d places, want %d", n, want)
	}
}

// What docs/high-availability.md tells of a drain: only the clients of the real server
// that drains move, and its removal moves few others.
func TestDrainMovesItsOwnClients(t *testing.T) {
	all, cs := servers(10), clients(2000)
	before := New(all)
	leaves := all[4].Addr

	draining := slices.Clone(all)
	draining[4].Weight = 0
	if n, of := moved(before, New(draining), cs, leaves); n != 0 || of == len(cs) {
		t.Errorf("quiesced: %d of %d others move", n, of)
	}
	for _, c := range cs {
		if i := New(draining).Pick(c); i == 4 || i < 0 {
			t.Fatalf("a client gets %d", i)
		}
	}

	removed := slices.Delete(slices.Clone(all), 4, 5)
	if n, of := moved(before, New(removed), cs, leaves); n == 0 || n > of/10 {
		t.Errorf("removed: %d of %d others move", n, of)
	}
}

func TestOrderMattersALittle(t *testing.T) {
	all, cs := servers(10), clients(1000)
	reversed := slices.Clone(all)
	slices.Reverse(reversed)
	if n, _ := moved(New(all), New(reversed), cs, netip.AddrPort{}); n == 0 || n > 50 {
		t.Errorf("%d of 1000 clients differ in the opposite order, want a few", n)
	}
}

func TestNone(t *testing.T) {
	c := clients(1)[0]
	if i := New(nil).Pick(c); i != -1 {
		t.Errorf("no real server: %d", i)
	}
	all := servers(2)
	for i := range all {
		all[i].Weight = 0
	}
	if i := New(all).Pick(c); i != -1 {
		t.Errorf("all drain: %d", i)
	}
}
