// The nftables table that exempts the packets of VIPs with notrack = true from the
// kernel's connection tracking.
//
// Used by cmd_status.go, host.go and reconcile*.go. host_nft.go keeps the table so. A
// packet that is for another address, protocol or port is tracked as before.

package main

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// untrackedTableName is the name of the table, of family inet.
const untrackedTableName = "lvs-controller-notrack"

// untracked is which packets connection tracking does not see.
type untracked struct {
	Ports   []MarkedPort     // packets to them; sorted
	Replies bool             // and what this host answers from them, as a real server
	Tunnels []TunnelSettings // and the outer packets in which IPVS sends them; no type and settings twice
}

// equal reports whether u and o make the same table.
func (u untracked) equal(o untracked) bool {
	return u.Replies == o.Replies && slices.Equal(u.Ports, o.Ports) && slices.Equal(u.Tunnels, o.Tunnels)
}

// untrackedKind is what is said of the table.
var untrackedKind = &tableKind{
	missing: errors.New("the kernel has no nf_tables, or no connection tracking for it (CONFIG_NF_TABLES_INET, CONFIG_NFT_CT): modprobe nft_ct"),
	changed: func(log *slog.Logger, attrs ...any) {
		log.Info("exemptions from connection tracking changed", attrs...)
	},
	unwatched: func(log *slog.Logger, err error) {
		log.Warn("exemptions from connection tracking that another program removes are noticed only by the next audit", "err", err)
	},
}

func newUntrackedTable(log *slog.Logger) *portTable {
	return newPortTable(log, untrackedKind, untrackedForm(untracked{}))
}

// untrack makes want the content of t, which is that table.
func (t *portTable) untrack(want untracked) error {
	t.form = untrackedForm(want)
	return t.Apply(want.elements())
}

// checkUntracked reports whether the kernel has exactly want. It writes nothing.
func (t *portTable) checkUntracked(want untracked) (bool, error) {
	t.form = untrackedForm(want)
	return t.Check(want.elements())
}

// elements is u as the table has it. No element has a mark.
func (u untracked) elements() map[MarkedPort]uint32 {
	all := make(map[MarkedPort]uint32, len(u.Ports))
	for _, p := range u.Ports {
		all[p] = 0
	}
	return all
}

// untrackedForm is the form of the table for u. It has two sets, and for each a rule in
// prerouting at priority raw, before connection tracking (-200):
//
//	ip daddr . meta l4proto . th dport @served4 notrack
//	ip6 daddr . meta l4proto . th dport @served6 notrack
//
// Where connection tracking is active, fragments have been put together before, at
// priority -400, so that each packet has its ports here. Where it is not active, IPv4
// fragments pass without effect.
//
// What IPVS forwards by direct routing needs no rule at the output hook: IPVS marks it
// as untracked before it gets there (ip_vs_send_or_cont in
// net/netfilter/ipvs/ip_vs_xmit.c). It removes the packet's connection, which was never
// confirmed, so that connection tracking has done its work for nothing: one for each
// packet. The director's own packets to its VIPs are rare, and IPVS takes them before
// their connection is confirmed; a look-up for each forwarded packet would cost more.
//
// The outer packets of a tunnel come to the output hook as the director's own, and are
// tracked there: by GUE one connection for each source port, so one for each flow. The
// rules look into the tunnel and exempt what has a packet to one of the ports in it.
//
// A director that is a real server too, and gets packets from a peer, answers them
// from the VIP. Connection tracking would find these answers invalid, because it has
// not seen what they answer:
//
//	ip saddr . meta l4proto . th sport @served4 notrack
func untrackedForm(u untracked) tableForm {
	f := newTableForm(untrackedTableName, servedSet("served4", nftables.TypeIPAddr, family4), servedSet("served6", nftables.TypeIP6Addr, family6))
	var in, out []tableRule
	for i := range f.sets {
		s := &f.sets[i]
		in = append(in, s.notrack(s.family.ofFamily(), fromHeader(s.family.daddr, s.family.address), &expr.Meta{Key: expr.MetaKeyL4PROTO}, fromTransport(2, 2)))
		if u.Replies {
			out = append(out, s.notrack(s.family.ofFamily(), fromHeader(s.family.saddr, s.family.address), &expr.Meta{Key: expr.MetaKeyL4PROTO}, fromTransport(0, 2)))
		}
		for _, t := range u.Tunnels {
			out = append(out, s.tunnelRules(t)...)
		}
	}
	f.chain("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, in)
	if len(out) > 0 {
		f.chain("output", nftables.ChainHookOutput, nftables.ChainPriorityRaw, out)
	}
	return f
}

func servedSet(name string, address nftables.SetDatatype, family addressFamily) portSet {
	return portSet{nftables.Set{Name: name, KeyType: keyType(address)}, family}
}

// notrack is a rule: packets that match, and whose key is in the set, are not tracked.
func (s *portSet) notrack(match []expr.Any, address, protocol, port expr.Any) tableRule {
	rule := append(match, s.family.key(address, protocol, port)...)
	return append(rule, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: s.Name}, &expr.Notrack{})
}

// tunnelRules are the rules for packets of the set's family in the tunnel t. Offsets
// are those behind the outer IP header, and as IPVS builds them: ip_vs_tunnel_xmit,
// ipvs_gue_encap and ipvs_gre_encap. A packet of another program that is no tunnel of
// IPVS could be taken for one only if it had a VIP's address, protocol and port just
// there.
func (s *portSet) tunnelRules(t TunnelSettings) []tableRule {
	protocol, etherType := byte(unix.IPPROTO_IPIP), uint16(unix.ETH_P_IP)
	if s.family.nfproto == unix.NFPROTO_IPV6 {
		protocol, etherType = unix.IPPROTO_IPV6, unix.ETH_P_IPV6
	}
	inner := func(at uint32, match ...expr.Any) tableRule {
		f := &s.family
		return s.notrack(match, fromTransport(at+f.daddr, f.address), fromTransport(at+f.protocol, 1), fromTransport(at+f.header+2, 2))
	}
	outer := func(protocol byte, more ...[]expr.Any) []expr.Any {
		return append(is(&expr.Meta{Key: expr.MetaKeyL4PROTO}, protocol), slices.Concat(more...)...)
	}
	switch t.Type {
	case TunnelGRE:
		flags, size := uint16(0), uint32(4)
		if t.Flags == TunnelChecksum {
			flags, size = 0x8000, 8
		}
		header := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, flags), etherType)
		return []tableRule{inner(size, outer(unix.IPPROTO_GRE, is(fromTransport(0, 4), header...))...)}
	case TunnelGUE:
		const udp = 8
		port := binary.BigEndian.AppendUint16(nil, t.Port)
		gue := func(options byte) tableRule { // in units of four bytes
			return inner(udp+4+4*uint32(options), outer(unix.IPPROTO_UDP, is(fromTransport(2, 2), port...), is(fromTransport(udp, 2), options, protocol))...)
		}
		rules := []tableRule{gue(0)}
		if t.Flags == TunnelRemoteChecksum {
			rules = append(rules, gue(2)) // where the packet's checksum is not complete
		}
		return rules
	}
	return []tableRule{inner(0, outer(protocol)...)}
}
