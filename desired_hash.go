// A number for the wanted table, by which the two directors of a pair compare theirs.
//
// Used by reconcile*.go and http.go. Pure, as all of desired. The number covers what
// both directors have to agree on, and nothing that one of them finds out by itself.

package main

import (
	"cmp"
	"encoding/binary"
	"net/netip"
)

// tableHashBits is how many bits the number has: a float64, as Prometheus and JSON
// have it, keeps all of them.
const tableHashBits = 48

// tableHash is the number of w's table. Equal tables have equal numbers, whatever the
// order of the VIPs in the configuration.
//
// It covers each virtual service with its settings, each packet that gets a firewall
// mark, and each real server that the configuration and the cluster put into service,
// with its settings and its whole weight. It leaves out what may differ between two
// directors that do the same: results of probes and of the neighbour table, slow
// starts, real servers that drain, connections, and the names of the VIPs.
func tableHash(w *wanted) uint64 { return new(tableHasher).of(w) }

// tableHasher is tableHash for a sequence of answers: only the VIPs that have changed
// are computed again.
type tableHasher struct {
	vips []*vipAnswer
	sums []uint64 // for each of vips
	hash uint64
}

func (h *tableHasher) of(w *wanted) uint64 {
	if len(w.vips) > 0 && same(h.vips, w.vips) {
		return h.hash
	}
	sums, total := make([]uint64, len(w.vips)), mixed(0, 1) // a table without services is not 0
	for i, v := range w.vips {
		if i < len(h.vips) && h.vips[i] == v {
			sums[i] = h.sums[i]
		} else {
			sums[i] = v.hash()
		}
		total += sums[i]
	}
	h.vips, h.sums, h.hash = w.vips, sums, total&(1<<tableHashBits-1)
	return h.hash
}

// hash is a sum over what the VIP wants, so that no order matters.
func (v *vipAnswer) hash() uint64 {
	var sum uint64
	for f := range v.sets {
		set := &v.sets[f]
		var rows []Row // the last ones; most services share theirs
		var ofRows uint64
		for _, services := range set.shards {
			for i := range services {
				s := &services[i]
				if i == 0 || !same(rows, s.Servers) {
					rows, ofRows = s.Servers, hashRows(s.Servers, set.whole)
				}
				sum += mixed(hashService(&s.VirtualService), ofRows)
			}
		}
		for at, mark := range set.marks {
			sum += mixed(mixedAddress(uint64(mark), at.Address), uint64(at.Port.Number)<<8|uint64(at.Port.Protocol))
		}
	}
	return sum
}

func hashService(s *VirtualService) uint64 {
	h := mixedAddress(uint64(s.Mark), s.Address)
	h = mixed(h, uint64(s.Port)<<32|uint64(s.Protocol)<<8|uint64(s.Netmask))
	h = mixed(h, uint64(s.Flags)<<32|uint64(s.Persistence))
	for _, text := range []string{s.Scheduler, s.Engine} {
		for i := range len(text) {
			h = mixed(h, uint64(text[i]))
		}
		h = mixed(h, uint64(len(text)))
	}
	return h
}

// hashRows is a sum over those of rows that are in service, with their weights in
// whole. Both are in Compare order. A real server that whole has with weight 0 is in
// service all the same where no other has the port.
func hashRows(rows, whole []Row) (sum uint64) {
	for i := range rows {
		r := &rows[i]
		weight := r.Weight
		for len(whole) > 0 {
			w := &whole[0]
			if w.Address == r.Address && w.Port == r.Port {
				weight = cmp.Or(w.Weight, weight)
			} else if w.Compare(r.RealServer) > 0 {
				break
			}
			whole = whole[1:]
		}
		if weight == 0 {
			continue
		}
		h := mixedAddress(uint64(weight), r.Address)
		h = mixed(h, uint64(r.Port)<<32|uint64(r.Forward))
		h = mixed(h, uint64(r.Upper)<<32|uint64(r.Lower))
		t := r.Tunnel.effective(r.Forward)
		sum += mixed(h, uint64(t.Type)<<32|uint64(t.Port)<<16|uint64(t.Flags))
	}
	return sum
}

// mixedAddress is h and a in one number.
func mixedAddress(h uint64, a netip.Addr) uint64 {
	b := a.As16()
	return mixed(mixed(h, binary.BigEndian.Uint64(b[:8])), binary.BigEndian.Uint64(b[8:]))
}

// mixed is h and w in one number: each bit of both changes about half of its bits. The
// constants are those of MurmurHash3's finalizer; both directors need the same ones.
func mixed(h, w uint64) uint64 {
	h = (h ^ w) + 0x9e3779b97f4a7c15
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
