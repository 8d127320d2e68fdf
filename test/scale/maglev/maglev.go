// Package maglev chooses real servers as the kernel's scheduler mh does.
//
// The simulation of test/scale uses it for directors that need no kernel, and a test of
// test/director compares it with a real one. It is written from the behaviour of
// net/netfilter/ipvs/ip_vs_mh.c, with the table size that Debian builds
// (CONFIG_IP_VS_MH_TAB_INDEX=12). The kernel's hash keys are constants, so all directors
// choose alike. It does no I/O.
package maglev

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

const (
	// Size is the number of places in a table: the prime number of index 12.
	Size = 4093

	tabBits = 12 / 2 // IP_VS_MH_TAB_BITS: a weight counts with so many bits

	// generate_hash_secret: both halves of a key are the same.
	keyOffset = 2654435761 // hash1: places of clients, first place of a real server
	keySkip   = 2654446892 // hash2: the step from there
)

// Server is a real server as the scheduler sees it.
type Server struct {
	Addr netip.AddrPort
	// Weight is what new clients see. With 0 they get another real server.
	Weight int
	// LastWeight is the last weight above 0. It decides about the places in the table,
	// so a real server that drains keeps them until it is removed.
	LastWeight int
}

// Table is one virtual service's table.
type Table struct {
	servers []Server
	places  [Size]int16 // index in servers, -1 for none
}

// New makes the table of real servers that the kernel got in this order.
func New(servers []Server) *Table {
	t := &Table{servers: servers}
	for i := range t.places {
		t.places[i] = -1
	}
	if divisor, shift := scale(servers); divisor > 0 {
		t.populate(divisor, shift)
	}
	return t
}

// scale returns the greatest common divisor of the weights, 0 without any, and the shift
// that keeps the largest of them within tabBits.
func scale(servers []Server) (divisor, shift int) {
	largest := 0
	for _, s := range servers {
		if s.LastWeight > 0 {
			divisor = gcd(divisor, s.LastWeight)
			largest = max(largest, s.LastWeight)
		}
	}
	if divisor == 0 {
		return 0, 0
	}
	return divisor, max(0, bits.Len(uint(largest/divisor))-tabBits)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// claim is a real server while the table is filled.
type claim struct {
	index      int16
	next, step uint32
	turns      int // places it takes in a row
}

// populate gives each place to a real server. They take turns, and each takes the next
// free place of a sequence that is its own. The kernel's list begins with the newest.
func (t *Table) populate(divisor, shift int) {
	var claims []claim
	for i := len(t.servers) - 1; i >= 0; i-- {
		s := t.servers[i]
		turns := s.LastWeight / divisor >> shift
		if turns == 0 && s.LastWeight != 0 {
			turns = 1
		}
		if turns < 1 {
			continue
		}
		claims = append(claims, claim{
			index: int16(i),
			next:  hash(s.Addr.Addr(), s.Addr.Port(), keyOffset, 0) % Size,
			step:  hash(s.Addr.Addr(), s.Addr.Port(), keySkip, 0)%(Size-1) + 1,
			turns: turns,
		})
	}
	for left := Size; left > 0; {
		for i := range claims {
			c := &claims[i]
			for n := 0; n < c.turns && left > 0; n++ {
				for t.places[c.next] >= 0 {
					c.next = (c.next + c.step) % Size
				}
				t.places[c.next] = c.index
				left--
			}
		}
	}
}

// Client is where a client is in every table.
type Client struct {
	addr netip.Addr
	port uint16
	home uint32
}

// NewClient is a client with the flag mh-port. Without the flag the port counts as 0.
func NewClient(from netip.AddrPort) Client {
	c := Client{addr: from.Addr(), port: from.Port()}
	c.home = hash(c.addr, c.port, keyOffset, 0) % Size
	return c
}

// Pick returns the real server that a new client gets with the flag mh-fallback, as an
// index in the list of New, or -1 for none.
func (t *Table) Pick(c Client) int {
	i := t.places[c.home]
	if i < 0 || t.servers[i].Weight > 0 {
		return int(i)
	}
	for offset := range uint32(Size) {
		i = t.places[hash(c.addr, c.port, keyOffset, (c.home+offset)%Size)%Size]
		if i < 0 || t.servers[i].Weight > 0 {
			return int(i)
		}
	}
	return -1
}

// hash is ip_vs_mh_hashkey: hsiphash of one sum of address, port and offset. So the
// client 10.0.0.1:5 is where 10.0.0.2:4 is.
func hash(addr netip.Addr, port uint16, key uint64, offset uint32) uint32 {
	var folded uint32
	if addr.Is4() {
		b := addr.As4()
		folded = binary.BigEndian.Uint32(b[:])
	} else {
		b := addr.As16()
		for i := 0; i < len(b); i += 4 {
			folded ^= binary.BigEndian.Uint32(b[i:])
		}
	}
	return hsiphash(offset+uint32(port)+folded, key)
}

// hsiphash is hsiphash_1u32 of a 64-bit kernel: SipHash-1-3 of four bytes, with a key of
// two equal halves, and the lower half of its result.
func hsiphash(v uint32, key uint64) uint32 {
	s := [4]uint64{
		0x736f6d6570736575 ^ key,
		0x646f72616e646f6d ^ key,
		0x6c7967656e657261 ^ key,
		0x7465646279746573 ^ key,
	}
	b := uint64(4)<<56 | uint64(v)
	s[3] ^= b
	round(&s)
	s[0] ^= b
	s[2] ^= 0xff
	for range 3 {
		round(&s)
	}
	return uint32(s[0] ^ s[1] ^ s[2] ^ s[3])
}

// round is one round of SipHash.
func round(s *[4]uint64) {
	s[0] += s[1]
	s[1] = bits.RotateLeft64(s[1], 13) ^ s[0]
	s[0] = bits.RotateLeft64(s[0], 32)
	s[2] += s[3]
	s[3] = bits.RotateLeft64(s[3], 16) ^ s[2]
	s[0] += s[3]
	s[3] = bits.RotateLeft64(s[3], 21) ^ s[0]
	s[2] += s[1]
	s[1] = bits.RotateLeft64(s[1], 17) ^ s[2]
	s[2] = bits.RotateLeft64(s[2], 32)
}
