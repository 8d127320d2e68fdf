// Since when each real server has its weight for its present reason.
//
// Used by http*.go. The loop compares what it publishes with what it published
// before. Only what has changed since the first pass is kept, and only while it is
// so. It decides nothing.

package main

import (
	"net/netip"
	"sync"
	"time"
)

// rowState is a real server with a weight for a reason, whichever ports it is for.
type rowState struct {
	address netip.Addr
	port    uint16
	weight  uint32
	why     string
}

func stateOf(r *Row) rowState { return rowState{r.Address, r.Port, r.Weight, r.Why} }

// rowTimes says since when. It is safe from any goroutine.
type rowTimes struct {
	mu     sync.Mutex
	shards map[ServiceKey]map[rowState]int64 // by address or mark; seconds of Unix time
}

// shardKey names the shard of the service with key k.
func shardKey(k ServiceKey) ServiceKey { return ServiceKey{Address: k.Address, Mark: k.Mark} }

// states are those of p's real servers. Services that share their real servers count once.
func (p *shard) states() map[rowState]bool {
	all := make(map[rowState]bool)
	var last []Row
	for i := range p.Services {
		rows := p.Services[i].Servers
		if i > 0 && same(rows, last) {
			continue
		}
		last = rows
		for j := range rows {
			all[stateOf(&rows[j])] = true
		}
	}
	return all
}

// update notes what is different in now from before, at the time at.
func (t *rowTimes) update(before, now shards, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for old, next := range merged(before, now, compareShards) {
		switch {
		case next == nil:
			delete(t.shards, shardKey(old.Services[0].ServiceKey))
			continue
		case old == nil:
			old = &shard{}
		case same(old.Services, next.Services):
			continue
		}
		key := shardKey(next.Services[0].ServiceKey)
		earlier, was := t.shards[key], old.states()
		times := make(map[rowState]int64)
		for s := range next.states() {
			if since, known := earlier[s]; known {
				times[s] = since
			} else if !was[s] {
				times[s] = at.Unix()
			}
		}
		delete(t.shards, key)
		if len(times) > 0 {
			if t.shards == nil {
				t.shards = make(map[ServiceKey]map[rowState]int64)
			}
			t.shards[key] = times
		}
	}
}

// of is since when r, of the service with key k, is as it is; zero when that has not
// changed since the first pass.
func (t *rowTimes) of(k ServiceKey, r *Row) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if since, known := t.shards[shardKey(k)][stateOf(r)]; known {
		return time.Unix(since, 0).UTC()
	}
	return time.Time{}
}
