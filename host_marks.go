// The nftables table that puts a firewall mark on the packets of a port group
// before IPVS sees them.
//
// Used by reconcile_pending.go and cmd_diff.go. host_nft.go keeps the table so. A packet
// to any other port keeps its mark.

package main

import (
	"encoding/binary"
	"errors"
	"log/slog"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// markTableName is the name of the table, of family inet.
const markTableName = "lvs-controller"

// errNoNFTables says that the kernel has no nf_tables at all.
var errNoNFTables = errors.New("the kernel has no nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET): modprobe nf_tables")

// markKind is what is said of the table.
var markKind = &tableKind{
	missing: errNoNFTables,
	changed: func(log *slog.Logger, attrs ...any) { log.Info("firewall marks changed", attrs...) },
	repaired: func(log *slog.Logger, attrs ...any) {
		log.Warn("another program has changed the firewall marks; they are repaired", attrs...)
	},
	unwatched: func(log *slog.Logger, err error) {
		log.Warn("firewall marks that another program removes are noticed only by the next audit", "err", err)
	},
}

// newMarkTable keeps the table. It may change at any time without harm to open
// connections: IPVS finds those by their addresses and ports before it looks for a
// service by mark.
func newMarkTable(log *slog.Logger) *portTable { return newPortTable(log, markKind, markForm(nil)) }

// markForm is the form of the table where packets from peers get no mark. It has two
// maps and, at the input hook, a rule for each peer and one for each map:
//
//	meta iiftype ether ether saddr 52:54:00:12:34:56 accept
//	meta mark set ip daddr . meta l4proto . th dport map @marks4
//	meta mark set ip6 daddr . meta l4proto . th dport map @marks6
//
// IPVS takes packets at the same hook, at priority 98 (ip_vs_ops in
// net/netfilter/ipvs/ip_vs_core.c), so the mark is there in time. Fragments have
// been put together before: IPv4's on the way to the hook (ip_local_deliver),
// IPv6's in prerouting, which IPVS turns on as soon as it has an IPv6 service.
// The director's own packets do not pass the hook: a director is no client of
// its VIPs, since in direct routing the answer would come from its own address.
//
// The two bytes of "th dport" are a port for TCP, UDP and SCTP alike. Those of
// another protocol may look like one, but its number is part of the key and in
// no element; and a packet without them, or not in the map, ends the rule before
// the mark is set.
//
// A packet from a peer has been balanced there, and this host is the real server that
// it is for. Without a mark it belongs to no service, so IPVS lets it pass to the
// programs of this host.
func markForm(peers []macAddress) tableForm {
	f := newTableForm(markTableName, markMap("marks4", nftables.TypeIPAddr, family4), markMap("marks6", nftables.TypeIP6Addr, family6))
	var rules []tableRule
	for _, mac := range peers {
		rules = append(rules, peerRule(mac))
	}
	for i := range f.sets {
		rules = append(rules, f.sets[i].markRule())
	}
	f.chain("input", nftables.ChainHookInput, nftables.ChainPriorityMangle, rules)
	return f
}

func markMap(name string, address nftables.SetDatatype, family addressFamily) portSet {
	return portSet{nftables.Set{
		Name: name, IsMap: true, KeyType: keyType(address), DataType: nftables.TypeMark,
		// The library cannot set the map's byte order for nft, so nft shows 0x1001
		// as 0x01100000 where the low byte comes first.
		Comment: "marks are in this machine's byte order",
	}, family}
}

// markRule looks the packet's address, protocol and port up in the map.
func (s *portSet) markRule() tableRule {
	rule := append(s.family.ofFamily(), s.family.key(fromHeader(s.family.daddr, s.family.address), fromTransport(2, 2))...)
	return append(rule,
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, IsDestRegSet: true, SetName: s.Name},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1})
}

// peerRule ends the chain for packets from mac.
func peerRule(mac macAddress) tableRule {
	const saddr = 6 // its place in an Ethernet header
	return tableRule{
		&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_ETHER)},
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseLLHeader, Offset: saddr, Len: uint32(len(mac))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: mac[:]},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}
