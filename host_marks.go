// The nftables table that puts a firewall mark on the packets of a port group
// before IPVS sees them.
//
// Used by cmd_status.go and main.go. host.go calls it for the reconcile loop, and
// Follow wakes the loop when another program changes the table. It changes and deletes
// no nftables table except the controller's own. A packet to any other port keeps its
// mark.

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// markTableName is the name of the controller's table, of family inet.
const markTableName = "lvs-controller"

// errNoNFTables says that the kernel has no nf_tables at all.
var errNoNFTables = errors.New("the kernel has no nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET): modprobe nf_tables")

// markTable keeps the controller's own nftables table as wanted. One goroutine at a
// time may change it; Follow and Lost may run beside it. Its sockets are in the network
// namespace of the thread that calls it.
type markTable struct {
	log   *slog.Logger
	begun chan struct{} // rung when there are marks
	lost  atomic.Bool   // another program has changed the table since the last Apply

	mu    sync.Mutex
	peers []macAddress          // packets from them get no mark
	known bool                  // an Apply has succeeded
	last  map[MarkedPort]uint32 // what it left in the kernel
	from  []macAddress          // the peers then
}

func newMarkTable(log *slog.Logger) *markTable {
	return &markTable{log: log, begun: make(chan struct{}, 1)}
}

// Apply makes want the content of the table, in one transaction: it creates
// the table for the first mark, adds and removes only the elements that differ,
// rebuilds a table whose form is not ours, and deletes the table when want is
// empty. Unchanged state is silent and writes nothing. Where no marks are wanted, the
// table is read once, because an earlier run may have left one.
//
// The table may change at any time without harm to open connections: IPVS finds
// those by their addresses and ports before it looks for a service by mark.
func (m *markTable) Apply(want map[MarkedPort]uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost.Store(false)
	if m.known && len(m.last) == 0 && len(want) == 0 {
		return nil
	}
	conn, have, err := openMarks(want, m.peers)
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	if !have.equals(want) {
		if err := m.change(conn, have, want); err != nil {
			return err
		}
	}
	m.known, m.last, m.from = true, maps.Clone(want), m.peers
	if len(want) > 0 {
		ring(m.begun)
	}
	return nil
}

// Lost reports whether another program has changed the table since the last Apply,
// which repairs it. Only Follow finds out.
func (m *markTable) Lost() bool { return m.lost.Load() }

// Follow rings wake when another program has changed the table, until ctx ends. It
// returns nil. It asks the kernel for events only once there are marks. Events of
// other tables are passed over. Of a program that changes ours again and again, it
// notices one change in lostPause.
func (m *markTable) Follow(ctx context.Context, wake chan<- struct{}) error {
	select {
	case <-ctx.Done():
		return nil
	case <-m.begun:
	}
	changed, err := kernelEventsOf(ctx, unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1), named(markTableName))
	if err != nil {
		m.log.Warn("firewall marks that another program removes are noticed only by the next audit", "err", err)
		<-ctx.Done()
		return nil
	}
	for open := true; open; _, open = <-changed {
		if m.differs() {
			m.lost.Store(true)
			ring(wake)
			sleepContext(ctx, lostPause)
		}
	}
	return nil
}

// differs reports whether the kernel has other marks than the last Apply left. Where
// they cannot be read, the next audit finds out.
func (m *markTable) differs() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	conn, have, err := openMarks(m.last, m.from)
	if err != nil {
		return false
	}
	defer conn.CloseLasting()
	return m.known && !have.equals(m.last)
}

// Read returns the marks that the kernel has, never nil without an error.
func (m *markTable) Read() (map[MarkedPort]uint32, error) {
	conn, have, err := openMarks(nil, m.peers)
	if err != nil {
		return nil, err
	}
	defer conn.CloseLasting()
	marks := make(map[MarkedPort]uint32)
	maps.Copy(marks, have.marks)
	return marks, nil
}

// Check reports whether the kernel has exactly want. It writes nothing.
func (m *markTable) Check(want map[MarkedPort]uint32) (same bool, err error) {
	conn, have, err := openMarks(want, m.peers)
	if err != nil {
		return false, err
	}
	defer conn.CloseLasting()
	return have.equals(want), nil
}

// Remove deletes the table, also when another program has made it.
func (m *markTable) Remove() error {
	m.mu.Lock()
	m.known = false
	m.mu.Unlock()
	return m.Apply(nil)
}

// change brings the kernel from have to want and logs that.
func (m *markTable) change(conn *nftables.Conn, have markState, want map[MarkedPort]uint32) error {
	add, remove := diffMarks(want, have.marks)
	change := "delete the table"
	if have.damage != "" || len(want) == 0 {
		conn.DelTable(ourTable)
	}
	var err error
	if len(want) > 0 {
		change = describeChange(add, remove)
		err = batchMarks(conn, m.peers, have.marks == nil, add, remove)
	}
	if err == nil {
		err = conn.Flush()
	}
	if !have.exists && errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w (%w)", errNoNFTables, err) // a part of it is missing
	}
	if err != nil {
		return markError(change, err)
	}
	m.log.Info("firewall marks changed", "table", "inet "+markTableName, "change", change, "why", m.why(have))
	return nil
}

// why is the reason for a change of have.
func (m *markTable) why(have markState) string {
	switch {
	case m.known && have.equals(m.last), m.known && !slices.Equal(m.from, m.peers), !m.known && have.damage == "":
		return "configured"
	case !m.known:
		return "the table had another form: " + have.damage
	case !have.exists:
		return "repaired, another program changed it: the table was gone"
	}
	return "repaired, another program changed it: " + cmp.Or(have.damage, "the elements were different")
}

func markError(doing string, err error) error {
	return fmt.Errorf("nftables table inet %s: %s: %w", markTableName, doing, err)
}

// markElement is an element of one of the table's maps.
type markElement struct {
	MarkedPort
	Mark uint32
}

// Compare orders by address, mark, then port, so that a group's ports come one after
// the other.
func (e markElement) Compare(f markElement) int {
	return cmp.Or(e.Address.Compare(f.Address), cmp.Compare(e.Mark, f.Mark), e.Port.Compare(f.Port))
}

// diffMarks lists what must be added to have, and what removed from it, to make
// it want. A port whose mark differs is in both lists.
func diffMarks(want, have map[MarkedPort]uint32) (add, remove []markElement) {
	missing := func(from, in map[MarkedPort]uint32) (list []markElement) {
		for port, mark := range from {
			if other, ok := in[port]; !ok || other != mark {
				list = append(list, markElement{port, mark})
			}
		}
		slices.SortFunc(list, markElement.Compare)
		return list
	}
	return missing(want, have), missing(have, want)
}

// describedMarks is how many ports of a group, and how many groups, a log line
// or an error lists.
const describedMarks = 10

// describeChange writes sorted elements for people: "add 80/tcp, 443/tcp of
// 10.0.0.1 with mark 0x1001; remove 53/udp of 10.0.0.1 with mark 0x1002".
func describeChange(add, remove []markElement) string {
	list := func(names []string, separator string) string {
		if more := len(names) - describedMarks; more > 0 {
			names = append(names[:describedMarks:describedMarks], fmt.Sprintf("and %d more", more))
		}
		return strings.Join(names, separator)
	}
	var groups []string
	for i, elements := range [][]markElement{add, remove} {
		verb := [...]string{"add", "remove"}[i]
		for len(elements) > 0 {
			first, ports := elements[0], []string(nil)
			for len(elements) > 0 && elements[0].Address == first.Address && elements[0].Mark == first.Mark {
				ports = append(ports, elements[0].Port.String())
				elements = elements[1:]
			}
			groups = append(groups, fmt.Sprintf("%s %s of %s with mark %#x", verb, list(ports, ", "), first.Address, first.Mark))
		}
	}
	return list(groups, "; ")
}

// markState is what the kernel has under the table's name.
type markState struct {
	exists bool
	damage string                // in what its form differs from ours; "" = it does not
	marks  map[MarkedPort]uint32 // without damage
}

// equals reports whether s is exactly what Apply makes of want.
func (s markState) equals(want map[MarkedPort]uint32) bool {
	if len(want) == 0 {
		return !s.exists
	}
	return s.exists && s.damage == "" && maps.Equal(s.marks, want)
}

const (
	// markTimeout bounds one Apply or Check.
	markTimeout = 10 * time.Second

	// markBuffer is the size of the socket's buffers: a batch is one datagram,
	// 50 bytes for each element, and an error repeats the message it is about.
	markBuffer = 8 << 20

	// markChunk is how many elements go into one message. Their list is one
	// attribute, whose length has 16 bits.
	markChunk = 500
)

// openMarks connects to nf_tables and reads the table. A kernel without
// nf_tables has no marks, which is an error only if some are wanted.
func openMarks(want map[MarkedPort]uint32, peers []macAddress) (*nftables.Conn, markState, error) {
	var have markState
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetOption(netlink.ExtendedAcknowledge, true),
			c.SetDeadline(time.Now().Add(markTimeout)), c.SetWriteBuffer(markBuffer), c.SetReadBuffer(markBuffer))
	}))
	if err != nil {
		conn = new(nftables.Conn) // not connected, and nothing to close
	} else {
		have, err = stableMarks(conn, want, peers)
	}
	// The answers of netlink and nfnetlink where the module is not loaded.
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		if len(want) == 0 {
			return conn, markState{}, nil
		}
		err = fmt.Errorf("%w (%w)", errNoNFTables, err)
	}
	if err != nil {
		conn.CloseLasting()
		return nil, markState{}, markError("read", err)
	}
	return conn, have, nil
}

// stableMarks reads the table. A dump is no snapshot: a hash table that is
// just growing after many additions, or a transaction between two requests,
// can hide elements from it. So a dump counts when it equals what is wanted
// or the dump before it.
func stableMarks(conn *nftables.Conn, want map[MarkedPort]uint32, peers []macAddress) (have markState, err error) {
	for try := range 5 {
		before := have
		have = markState{}
		table, err := conn.ListTableOfFamily(markTableName, ourTable.Family)
		if err == nil {
			have = readMarks(conn, table, peers)
		} else if !errors.Is(err, unix.ENOENT) {
			return have, err
		}
		if have.equals(want) || try > 0 && reflect.DeepEqual(have, before) {
			break
		}
	}
	return have, nil
}

// readMarks reads the marks out of table. Any error, also one of the library
// about an object that it does not know, means a form that is not ours. So does a panic:
// the library reads the user data of another program's element without a look at its
// length (userdata.Get).
func readMarks(conn *nftables.Conn, table *nftables.Table, peers []macAddress) (have markState) {
	defer func() {
		if r := recover(); r != nil {
			have = markState{exists: true, damage: "it has what no program should make: " + shorten(fmt.Sprint(r), quotedText)}
		}
	}()
	marks := make(map[MarkedPort]uint32)
	var damage error
	same := func(what string, got, want any, err error) {
		if err == nil && !reflect.DeepEqual(got, want) {
			err = errors.New("not ours")
		}
		if err != nil && damage == nil {
			damage = fmt.Errorf("%s: %w", what, err)
		}
	}
	// NFTA_TABLE_USE counts chains, maps and other objects. It is big-endian,
	// and the library reads it in the machine's own order.
	use := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, table.Use))
	same(fmt.Sprintf("%d chains, maps and other objects", use), use, uint32(1+len(markFamilies)), nil)
	same("flags", table.Flags, uint32(0), nil)
	chain, err := conn.ListChain(ourTable, ourChain.Name)
	same("chain input", chain, ourChain, err)
	rules, err := conn.GetRules(ourTable, ourChain)
	var exprs, want [][]expr.Any
	for _, r := range rules {
		exprs = append(exprs, r.Exprs)
	}
	for _, mac := range peers {
		want = append(want, peerRule(mac))
	}
	for i := range markFamilies {
		f := &markFamilies[i]
		want = append(want, f.rule())
		set, err := conn.GetSetByName(ourTable, f.set.Name)
		if err == nil {
			set.ID, set.Comment = f.set.ID, f.set.Comment // a dump lacks the ID, the library drops the comment
		}
		same("map "+f.set.Name, set, &f.set, err)
		elements, err := conn.GetSetElements(&f.set)
		same("elements of "+f.set.Name, nil, nil, err)
		for _, e := range elements {
			port, err := parseMarkElement(e)
			same("elements of "+f.set.Name, nil, nil, err)
			marks[port.MarkedPort] = port.Mark
		}
	}
	same("rules", exprs, want, err)
	if damage != nil {
		return markState{exists: true, damage: damage.Error()}
	}
	return markState{exists: true, marks: marks}
}

// The table has two maps and, at the input hook, a rule for each peer and one for each
// map:
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
var (
	ourTable  = &nftables.Table{Name: markTableName, Family: nftables.TableFamilyINet}
	ourPolicy = nftables.ChainPolicyAccept
	ourChain  = &nftables.Chain{
		Name:     "input",
		Table:    ourTable,
		Hooknum:  nftables.ChainHookInput,
		Priority: nftables.ChainPriorityMangle,
		Type:     nftables.ChainTypeFilter,
		Policy:   &ourPolicy,
	}

	// The maps' ids are how one batch refers to them.
	markFamilies = [...]markFamily{
		{markMap(1, "marks4", nftables.TypeIPAddr), unix.NFPROTO_IPV4, 16, 4},
		{markMap(2, "marks6", nftables.TypeIP6Addr), unix.NFPROTO_IPV6, 24, 16},
	}
)

func markMap(id uint32, name string, address nftables.SetDatatype) nftables.Set {
	key := nftables.MustConcatSetType(address, nftables.TypeInetProto, nftables.TypeInetService)
	return nftables.Set{
		Table: ourTable, ID: id, Name: name, IsMap: true, KeyType: key, DataType: nftables.TypeMark,
		// The library cannot set the map's byte order for nft, so nft shows 0x1001
		// as 0x01100000 where the low byte comes first.
		Comment: "marks are in this machine's byte order",
	}
}

// markFamily is one address family's half of the table: a map and its rule.
type markFamily struct {
	set     nftables.Set
	nfproto byte
	daddr   uint32 // offset of the destination address in the IP header
	address uint32 // length of an address
}

// rule looks the packet's address, protocol and port up in the map. Registers
// have the numbers that the kernel shows in a dump.
func (f *markFamily) rule() []expr.Any {
	words := f.address / 4
	protocol := unix.NFT_REG32_00 + words
	if words == 4 {
		protocol = unix.NFT_REG_2 // the same place under its older name
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{f.nfproto}},
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.address},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
		&expr.Payload{DestRegister: unix.NFT_REG32_00 + words + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, IsDestRegSet: true, SetName: f.set.Name},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1},
	}
}

// peerRule ends the chain for packets from mac.
func peerRule(mac macAddress) []expr.Any {
	const saddr = 6 // its place in an Ethernet header
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_ETHER)},
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseLLHeader, Offset: saddr, Len: uint32(len(mac))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: mac[:]},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// markKey is a port as a map's key: address, protocol and port, each filled up
// with zeros to whole registers of four bytes.
func markKey(p MarkedPort) []byte {
	key := append(p.Address.AsSlice(), byte(p.Port.Protocol), 0, 0, 0)
	key = binary.BigEndian.AppendUint16(key, p.Port.Number)
	return append(key, 0, 0)
}

// parseMarkElement reads an element of a map. It refuses what Apply never makes.
func parseMarkElement(e nftables.SetElement) (markElement, error) {
	if n := len(e.Key) - 8; n >= 0 && len(e.Val) == 4 {
		address, ok := netip.AddrFromSlice(e.Key[:n])
		port := Port{Number: binary.BigEndian.Uint16(e.Key[n+4:]), Protocol: Protocol(e.Key[n])}
		m := markElement{MarkedPort{address, port}, binary.NativeEndian.Uint32(e.Val)}
		if ok && bytes.Equal(markKey(m.MarkedPort), e.Key) {
			return m, nil
		}
	}
	return markElement{}, fmt.Errorf("%x is not a port", e.Key)
}

// batchMarks puts into the batch: a table without elements if build is set;
// what is to be removed; and then what is to be added, since a port that moves to
// another mark has one key.
func batchMarks(conn *nftables.Conn, peers []macAddress, build bool, add, remove []markElement) error {
	if build {
		conn.AddTable(ourTable)
		conn.AddChain(ourChain)
		for _, mac := range peers {
			conn.AddRule(&nftables.Rule{Table: ourTable, Chain: ourChain, Exprs: peerRule(mac)})
		}
	}
	var errs []error
	for i := range markFamilies {
		f := &markFamilies[i]
		if build {
			errs = append(errs, conn.AddSet(&f.set, nil))
			conn.AddRule(&nftables.Rule{Table: ourTable, Chain: ourChain, Exprs: f.rule()})
		}
		for chunk := range slices.Chunk(f.elements(remove), markChunk) {
			errs = append(errs, conn.SetDeleteElements(&f.set, chunk))
		}
		for chunk := range slices.Chunk(f.elements(add), markChunk) {
			errs = append(errs, conn.SetAddElements(&f.set, chunk))
		}
	}
	return errors.Join(errs...)
}

// elements picks the family's own and encodes them. A mark is in the machine's
// own byte order.
func (f *markFamily) elements(list []markElement) []nftables.SetElement {
	var own []nftables.SetElement
	for _, e := range list {
		if e.Address.BitLen() == int(f.address)*8 {
			own = append(own, nftables.SetElement{Key: markKey(e.MarkedPort), Val: binary.NativeEndian.AppendUint32(nil, e.Mark)})
		}
	}
	return own
}
