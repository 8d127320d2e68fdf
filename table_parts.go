// A table in shards: one for each address, and one for each firewall-mark service.
//
// Used by diff.go, genl_dump.go, desired*.go, state.go, reconcile*.go and
// http*.go. An event touches few shards of a large table. desired, settle and
// diff skip a shard that is shared, unchanged, with the pass before, so the
// cost of an event does not depend on the size of the rest. Pure.

package main

import (
	"cmp"
	"slices"
	"time"
)

// part is the services of one address, or one firewall-mark service. Services
// is never empty, in table order, and never written to once it stands here.
type part struct {
	Services Table
	// From are the wanted services that settle made Services from, if all of it
	// has been carried out since; nil otherwise.
	From Table
	// Next is when settle has to look at the part again though nothing has
	// happened: the earliest drain deadline. Zero: never.
	Next time.Time
}

// parts is a table in the order of its services.
type parts []part

// comparePart orders parts by address, then mark.
func comparePart(a, b part) int {
	k, l := &a.Services[0].ServiceKey, &b.Services[0].ServiceKey
	if k.Address != l.Address {
		return k.Address.Compare(l.Address)
	}
	return cmp.Compare(k.Mark, l.Mark)
}

// all passes every service to yield.
func (ps parts) all(yield func(*Service) bool) {
	for i := range ps {
		for j := range ps[i].Services {
			if !yield(&ps[i].Services[j]) {
				return
			}
		}
	}
}

// find returns the service with key k, nil when there is none.
func (ps parts) find(k ServiceKey) *Service {
	if i := ps.index(k); i >= 0 {
		return ps[i].Services.at(k)
	}
	return nil
}

// index is the place of the part that the service with key k would be in, -1
// when there is none.
func (ps parts) index(k ServiceKey) int {
	i, ok := slices.BinarySearchFunc(ps, k, func(p part, k ServiceKey) int {
		if first := &p.Services[0]; first.Address != k.Address {
			return first.Address.Compare(k.Address)
		} else {
			return cmp.Compare(first.Mark, k.Mark)
		}
	})
	if !ok {
		return -1
	}
	return i
}

// same reports whether two slices are the same memory, and so have the same
// content: what stands in a table is not written to.
func same[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
