// The nodes of real servers that drain after their pods are gone.
//
// Used by http*.go. The cluster names the node of a pod as long as it has the pod; its
// connections may last longer. The loop keeps the names of what drains, for people. It
// decides nothing.

package main

import (
	"net/netip"
	"sync"
)

// drainingNodes are the names of the nodes of what drains. It is safe from any goroutine.
type drainingNodes struct {
	mu    sync.Mutex
	names map[netip.Addr]string // "" = not known
	last  *Cluster              // as it was at the last update
}

// update keeps the names for what drains in table now.
func (d *drainingNodes) update(table shards, now *Cluster) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.names
	d.names = nil
	known := []map[netip.Addr]string{nil, nil}
	for _, addresses := range table.draining() {
		for a := range addresses {
			name, kept := before[a]
			for i, c := range []*Cluster{now, d.last} {
				if kept && name != "" {
					break
				}
				if known[i] == nil {
					known[i] = c.nodeNames()
				}
				name, kept = known[i][a], true
			}
			if d.names == nil {
				d.names = make(map[netip.Addr]string)
			}
			d.names[a] = name
		}
	}
	d.last = now
}

// of is the name of the node with address a, "" when it is not known.
func (d *drainingNodes) of(a netip.Addr) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.names[a]
}

// draining are the real servers that drain, by VIP.
func (ps shards) draining() map[string]map[netip.Addr]bool {
	var all map[string]map[netip.Addr]bool
	var last []leaving
	for s := range ps.all {
		if len(s.Leaving) == 0 || same(s.Leaving, last) {
			continue
		}
		last = s.Leaving
		for _, l := range last {
			if l.Gone {
				continue
			}
			if all == nil {
				all = make(map[string]map[netip.Addr]bool)
			}
			if all[s.VIP] == nil {
				all[s.VIP] = make(map[netip.Addr]bool)
			}
			all[s.VIP][l.Address] = true
		}
	}
	return all
}
