// The router before the directors: which of them it sends a flow to. Used by the
// simulation. It knows nothing of real servers.

package main

import "math/bits"

// routerKind is how a router spreads flows over next hops of equal cost.
type routerKind int

const (
	// resilient moves only the flows that have to move: 1/N of them. Here by the
	// highest of one hash for each director.
	resilient routerKind = iota
	// threshold divides the range of the hash into N parts of equal size, as Linux
	// does (RFC 2992). The borders move when a director comes or goes.
	threshold
	// modulo takes the rest of the hash divided by N.
	modulo
)

var routerNames = [...]string{"resilient hash", "hash-threshold (Linux)", "hash modulo N"}

// pick returns the place in members of the director that gets a flow.
func (r routerKind) pick(flow uint64, members []int) int {
	n := uint64(len(members))
	switch r {
	case threshold:
		hi, _ := bits.Mul64(flow, n)
		return int(hi)
	case modulo:
		return int(flow % n)
	}
	best, place := uint64(0), 0
	for i, m := range members {
		if h := mix(flow ^ mix(uint64(m)+1)); h >= best {
			best, place = h, i
		}
	}
	return place
}

// mix is the last step of splitmix64: each bit of the result depends on all of v.
func mix(v uint64) uint64 {
	v += 0x9e3779b97f4a7c15
	v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
	v = (v ^ v>>27) * 0x94d049bb133111eb
	return v ^ v>>31
}
