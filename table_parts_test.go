package main

import (
	"slices"
	"time"
)

// split makes parts of a table.
func split(t Table) parts {
	var ps parts
	for i := 0; i < len(t); {
		end := i + 1
		for end < len(t) && t[end].Address == t[i].Address && t[end].Mark == t[i].Mark {
			end++
		}
		ps = append(ps, part{Services: t[i:end:end]})
		i = end
	}
	return ps
}

// table puts the parts together again.
func (ps parts) table() Table {
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
