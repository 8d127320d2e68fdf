// The nftables table that exempts the packets of VIPs with notrack = true from the
// kernel's connection tracking.
//
// Used by reconcile*.go. host_nft.go keeps the table so. A packet that is for another
// address, protocol or port is tracked as before.

package main

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// untrackedTableName is the name of the table, of family inet.
const untrackedTableName = "lvs-controller-notrack"

// untracked is which packets connection tracking does not see.
type untracked struct {
	Ports   []MarkedPort   // packets to them; sorted
	Replies bool           // and what this host answers from them, as a real server
	Tunnels []tunnelledVIP // and the outer packets in which IPVS sends them, at most maxTunnelled
}

// tunnelledVIP is an address whose packets IPVS sends in a tunnel.
type tunnelledVIP struct {
	Address netip.Addr
	Tunnel  TunnelSettings
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
	repaired: func(log *slog.Logger, attrs ...any) {
		log.Warn("another program has changed the exemptions from connection tracking; they are repaired", attrs...)
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

// pendingUntracked is the change that untrack would make, in words; "" for none. It
// writes nothing.
func (t *portTable) pendingUntracked(want untracked) (string, error) {
	t.form = untrackedForm(want)
	return t.Pending(want.elements())
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
// rules look into the tunnel, and exempt what has a packet to the VIP in it: for 10.0.0.1
//
//	meta l4proto ipencap @th,128,32 0xa000001 notrack
//	meta l4proto gre @th,160,32 0xa000001 notrack
//	udp dport 6080 @th,224,32 0xa000001 notrack
//
// Not in a set, because nft cannot read that again where it lists it. To a VIP's
// address, nothing but IPVS sends what comes out of such a tunnel.
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
		in = append(in, s.notrack(fromHeader(s.family.daddr, s.family.address), fromTransport(2, 2)))
		if u.Replies {
			out = append(out, s.notrack(fromHeader(s.family.saddr, s.family.address), fromTransport(0, 2)))
		}
	}
	for _, t := range u.Tunnels {
		out = append(out, t.rules()...)
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

// notrack is a rule: packets whose address, protocol and port are in the set are not
// tracked.
func (s *portSet) notrack(address, port expr.Any) tableRule {
	rule := append(s.family.ofFamily(), s.family.key(address, port)...)
	return append(rule, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: s.Name}, &expr.Notrack{})
}

// rules exempt the outer packets. Offsets are those behind the outer IP header, and as
// IPVS builds them: ip_vs_tunnel_xmit, ipvs_gue_encap and ipvs_gre_encap.
func (v tunnelledVIP) rules() []tableRule {
	f, protocol := &family4, byte(unix.IPPROTO_IPIP)
	if v.Address.Is6() {
		f, protocol = &family6, unix.IPPROTO_IPV6
	}
	rule := func(protocol byte, header uint32, more ...expr.Any) tableRule {
		r := append(is(&expr.Meta{Key: expr.MetaKeyL4PROTO}, protocol), more...)
		r = append(r, is(fromTransport(header+f.daddr, f.address), v.Address.AsSlice()...)...)
		return append(r, &expr.Notrack{})
	}
	switch t := v.Tunnel; {
	case t.Type == TunnelGRE && t.Flags == TunnelChecksum:
		return []tableRule{rule(unix.IPPROTO_GRE, 8)}
	case t.Type == TunnelGRE:
		return []tableRule{rule(unix.IPPROTO_GRE, 4)}
	case t.Type == TunnelGUE:
		const header, option = 8 + 4, 8 // UDP and GUE; the option is there while a packet's checksum is not complete
		port := func() []expr.Any { return is(fromTransport(2, 2), byte(t.Port>>8), byte(t.Port)) }
		rules := []tableRule{rule(unix.IPPROTO_UDP, header, port()...)}
		if t.Flags == TunnelRemoteChecksum {
			rules = append(rules, rule(unix.IPPROTO_UDP, header+option, port()...))
		}
		return rules
	}
	return []tableRule{rule(protocol, 0)}
}
