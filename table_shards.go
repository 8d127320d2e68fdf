// A table in shards: one for each address, and one for each firewall-mark service.
//
// Used by diff.go, genl_dump.go, desired*.go, state.go, reconcile*.go, http*.go and
// cmd*.go. An event touches few shards of a large table. desired, computeTarget and
// diff skip a shard that is shared, unchanged, with the pass before, so the cost of
// an event does not depend on the size of the rest. Pure.

package main

import (
	"cmp"
	"slices"
	"time"
)

// shard is the services of one address, or one firewall-mark service. Services
// is never empty, in table order, and never written to once it is here.
type shard struct {
	Services Table
	// From are the wanted services that Services was computed from, if all of it
	// has been carried out since; nil otherwise.
	From Table
	// Next is when the shard has to be computed again although no input has
	// changed: the earliest drain deadline. Zero: never.
	Next time.Time
}

// services are those of p, none for nil.
func (p *shard) services() Table {
	if p == nil {
		return nil
	}
	return p.Services
}

// shards is a table in the order of its services.
type shards []shard

// compareShards orders shards by address, then mark.
func compareShards(a, b shard) int {
	return compareShardKeys(&a.Services[0].ServiceKey, &b.Services[0].ServiceKey)
}

// compareShardKeys compares the shards that two services are in.
func compareShardKeys(k, l *ServiceKey) int {
	if k.Address != l.Address {
		return k.Address.Compare(l.Address)
	}
	return cmp.Compare(k.Mark, l.Mark)
}

// shard is what k has in common with the services in its shard.
func (k ServiceKey) shard() ServiceKey { return ServiceKey{Address: k.Address, Mark: k.Mark} }

// split cuts t, which is sorted, into shards.
func split(t Table) shards {
	var ps shards
	for i := 0; i < len(t); {
		end := i + 1
		for end < len(t) && t[end].Address == t[i].Address && t[end].Mark == t[i].Mark {
			end++
		}
		ps = append(ps, shard{Services: t[i:end:end]})
		i = end
	}
	return ps
}

// all passes every service to yield.
func (ps shards) all(yield func(*Service) bool) {
	for i := range ps {
		for j := range ps[i].Services {
			if !yield(&ps[i].Services[j]) {
				return
			}
		}
	}
}

// find returns the service with key k, nil when there is none.
func (ps shards) find(k ServiceKey) *Service {
	if i := ps.index(k); i >= 0 {
		return ps[i].Services.at(k)
	}
	return nil
}

// index is the place of the shard that the service with key k would be in, -1
// when there is none.
func (ps shards) index(k ServiceKey) int {
	i, ok := slices.BinarySearchFunc(ps, &k, func(p shard, k *ServiceKey) int { return compareShardKeys(&p.Services[0].ServiceKey, k) })
	if !ok {
		return -1
	}
	return i
}

// same reports whether two slices are shared, unchanged: what is in a table is
// not written to, so shared slices have the same content.
func same[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
