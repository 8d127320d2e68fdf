// Addresses that several [[vip]] share: what they must agree in.
//
// Used by config_vip.go. Each port of an address belongs to one VIP. The configuration
// never gives it to two; what comes from the cluster is decided by desired_shared.go.
// No I/O.

package main

import (
	"fmt"
	"net/netip"
)

// checkShared checks each of vips, all that are in the file, against those before it that
// have one of its addresses.
func (r *configReader) checkShared(vips []VIP) {
	first := make(map[netip.Addr]int) // the first VIP that has it
	ports := make(map[MarkedPort]int) // the VIP that has it
	at := func(i int, key string) value {
		return value{r: &r.tomlFile, path: joinPath(indexPath("vip", i), key)}
	}
	for i := range vips {
		vip := &vips[i]
		announce, taken := -1, -1 // the VIPs that it does not fit beside
		var where netip.Addr
		var same []Port
		for _, a := range vip.Addresses {
			j, shared := first[a]
			if !shared {
				first[a] = i
			} else if vips[j].Announce != vip.Announce && announce < 0 {
				announce, where = j, a
			}
			if taken >= 0 {
				continue
			}
			for _, p := range vip.Ports {
				if j, has := ports[MarkedPort{a, p}]; !has {
					ports[MarkedPort{a, p}] = i
				} else if taken < 0 || taken == j {
					taken, same = j, append(same, p)
				}
			}
		}
		if announce >= 0 {
			other := &vips[announce]
			line := at(announce, "name").line()
			if written := r.lines[at(announce, "announce").path]; written > 0 {
				line = written
			}
			at(i, "announce").mistake("is %q, and VIP %q (line %d) has %q; want the same for all VIPs with address %s",
				vip.Announce, other.Name, line, other.Announce, where)
		}
		if taken >= 0 {
			more := ""
			if len(same) > 1 {
				more = fmt.Sprintf(" and %d more", len(same)-1)
			}
			at(i, "ports").mistake("%s%s: VIP %q (line %d) has the same port of the same address; want it in one of them", same[0], more, vips[taken].Name, at(taken, "ports").line())
		}
	}
}
