//go:build ipvs

package main

import (
	"net/netip"
	"testing"
	"time"
)

// The same beside IPVS, which would give the packets that a node passes on, and
// everything that a director sends to the VIP, to a node that answers.
func TestKernelDataPathBesideIPVS(t *testing.T) {
	findTheVIP(t, 2*time.Second, func(master, good segmentHost) {
		for _, family := range []struct {
			vip string
			of  func(segmentHost) netip.Addr
		}{{testVIP4 + ":80", segmentHost.addr}, {"[" + testVIP6 + "]:80", segmentHost.addr6}} {
			master.run(t, "ipvsadm", "-A", "-t", family.vip, "-s", "rr")
			master.run(t, "ipvsadm", "-a", "-t", family.vip, "-r", netip.AddrPortFrom(family.of(good), 80).String(), "-g")
		}
	})
}
