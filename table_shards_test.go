package main

import (
	"slices"
	"time"
)

// split makes shards of a table.
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

// table puts the shards together again.
func (ps shards) table() Table {
	var t Table
	for i := range ps {
		t = append(t, ps[i].Services...)
	}
	return t
}

// desiredAnew is desired without an earlier answer and without probes.
func desiredAnew(cfg *Config, cluster *Cluster, before memory, now time.Time) wanted {
	return desired(nil, cfg, cluster, nil, before, now)
}

// diffTables is diff for whole tables, as one list.
func diffTables(want, have Table) []op {
	ops := diff(split(want), split(have))
	return slices.Concat(ops[:]...)
}
