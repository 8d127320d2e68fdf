// Firewall marks: which mark a port group has, and the nftables table that
// puts the mark on the group's packets before IPVS sees them.
//
// The desired table takes its marks from allocateMarks, which is pure; the
// reconcile loop has markTable.Apply make the kernel agree, and the commands
// that only look use Check. Nothing here ever changes or deletes an nftables
// table but the controller's own, and a packet to any other port keeps the
// mark it has.

package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// MarkedPort is one port of a VIP address that a firewall mark stands for.
type MarkedPort struct {
	Address netip.Addr // unmapped, without a zone
	Port    Port
}

func (p MarkedPort) String() string { return p.Port.String() + " of " + p.Address.String() }

// GroupName identifies a group of ports in the configuration.
type GroupName struct{ VIP, Group string }

// Compare orders groups by VIP, then name.
func (g GroupName) Compare(h GroupName) int {
	return cmp.Or(cmp.Compare(g.VIP, h.VIP), cmp.Compare(g.Group, h.Group))
}

// home is the mark that g has when no other group wants it: the 64-bit FNV-1a
// hash of the VIP's name, a zero byte and the group's name, modulo the size of
// the range. Two directors, maybe of different versions, must come to the same
// mark for their connection tables to be in step, so this never changes.
func (g GroupName) home(r MarkRange) uint32 {
	h := fnv.New64a()
	h.Write([]byte(g.VIP + "\x00" + g.Group))
	return r.First + uint32(h.Sum64()%uint64(r.Count))
}

// allocateMarks gives each group a mark of its own out of r. The result depends
// on the set of groups alone, not on their order. A group alone at its home has
// it whatever else is configured; of several the first in Compare order has it,
// and the others take the next marks that are nobody's home. r is at least as
// large as the number of groups.
func allocateMarks(r MarkRange, groups []GroupName) map[GroupName]uint32 {
	groups = slices.Compact(slices.SortedFunc(slices.Values(groups), GroupName.Compare))
	marks := make(map[GroupName]uint32, len(groups))
	taken := make(map[uint32]bool, len(groups))
	for _, g := range groups {
		if home := g.home(r); !taken[home] {
			marks[g], taken[home] = home, true
		}
	}
	for _, g := range groups {
		if _, ok := marks[g]; ok {
			continue
		}
		mark := g.home(r)
		for taken[mark] {
			mark = r.First + uint32((uint64(mark-r.First)+1)%uint64(r.Count))
		}
		marks[g], taken[mark] = mark, true
	}
	return marks
}

// markTableName is the name of the controller's table, of family inet.
const markTableName = "lvs-controller"

// errNoNFTables says that the kernel has no nf_tables at all.
var errNoNFTables = errors.New("the kernel has no nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET): modprobe nf_tables")

// markTable keeps the controller's own nftables table right. It is for one
// goroutine at a time, and its sockets are in the network namespace of the
// thread that calls it.
type markTable struct {
	log   *slog.Logger
	known bool                  // an Apply has succeeded
	last  map[MarkedPort]uint32 // what it left in the kernel
}

func newMarkTable(log *slog.Logger) *markTable { return &markTable{log: log} }

// Apply makes want the content of the table, in one transaction: it creates
// the table for the first mark, adds and removes only the elements that differ,
// rebuilds a table whose form is not ours, and deletes the table when want is
// empty. Unchanged state is silent and writes nothing. A host that wants no
// marks is looked at once, for what an earlier run may have left, and then
// never again.
//
// The table may change at any time without harm to open connections: IPVS finds
// those by their addresses and ports before it looks for a service by mark.
func (m *markTable) Apply(want map[MarkedPort]uint32) error {
	if m.known && len(m.last) == 0 && len(want) == 0 {
		return nil
	}
	return m.apply(want)
}

// Remove deletes the table, whoever has made it.
func (m *markTable) Remove() error { return m.apply(nil) }

func (m *markTable) apply(want map[MarkedPort]uint32) error {
	conn, have, err := openMarks(want)
	switch {
	case len(want) == 0 && errors.Is(err, errNoNFTables):
		have = markState{}
	case err != nil:
		return err
	default:
		defer conn.CloseLasting()
	}
	if !have.holds(want) {
		if err := m.change(conn, have, want); err != nil {
			return err
		}
	}
	m.known, m.last = true, maps.Clone(want)
	return nil
}

// Check reports whether the kernel holds exactly want. It writes nothing.
func (m *markTable) Check(want map[MarkedPort]uint32) (same bool, err error) {
	conn, have, err := openMarks(want)
	if len(want) == 0 && errors.Is(err, errNoNFTables) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer conn.CloseLasting()
	return have.holds(want), nil
}

// change brings the kernel from have to want and logs that.
func (m *markTable) change(conn *nftables.Conn, have markState, want map[MarkedPort]uint32) error {
	rebuild := have.damage != "" || !have.exists
	if rebuild {
		have.marks = nil
	}
	add, remove := diffMarks(want, have.marks)
	var doing string
	switch {
	case len(want) == 0:
		doing = "remove it"
	case len(remove) == 0:
		doing = "add " + describeMarks(add)
	case len(add) == 0:
		doing = "remove " + describeMarks(remove)
	default:
		doing = "add " + describeMarks(add) + "; remove " + describeMarks(remove)
	}
	switch {
	case len(want) == 0:
		conn.DelTable(ourTable)
	case rebuild:
		if have.exists {
			conn.DelTable(ourTable)
		}
		if err := buildTable(conn); err != nil {
			return markError(doing, err)
		}
		fallthrough
	default:
		if err := changeElements(conn, add, remove); err != nil {
			return markError(doing, err)
		}
	}
	if err := conn.Flush(); err != nil {
		if !have.exists && errors.Is(err, unix.ENOENT) {
			// The table was new: what is missing is a part of nf_tables.
			err = fmt.Errorf("%w (%w)", errNoNFTables, err)
		}
		return markError(doing, err)
	}

	attrs := []any{"table", "inet " + markTableName}
	if len(add) > 0 {
		attrs = append(attrs, "added", describeMarks(add))
	}
	if len(remove) > 0 {
		attrs = append(attrs, "removed", describeMarks(remove))
	}
	if why := have.why(m); why != "" {
		attrs = append(attrs, "why", why)
	}
	m.log.Info("firewall marks changed", attrs...)
	return nil
}

func markError(doing string, err error) error {
	return fmt.Errorf("nftables table inet %s: %s: %w", markTableName, doing, err)
}

// markElement is an element of one of the table's maps.
type markElement struct {
	MarkedPort
	Mark uint32
}

// Compare orders by address, mark, then port, so that a group's ports stand
// together.
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

// Log lines and errors list at most so many ports of a group, and groups.
const describedMarks = 10

// describeMarks writes sorted elements for people: "80/tcp, 443/tcp of 10.0.0.1
// with mark 0x1001".
func describeMarks(elements []markElement) string {
	list := func(names []string, separator string) string {
		if more := len(names) - describedMarks; more > 0 {
			names = append(names[:describedMarks:describedMarks], fmt.Sprintf("and %d more", more))
		}
		return strings.Join(names, separator)
	}
	var groups []string
	for len(elements) > 0 {
		first := elements[0]
		var ports []string
		for len(elements) > 0 && elements[0].Address == first.Address && elements[0].Mark == first.Mark {
			ports = append(ports, elements[0].Port.String())
			elements = elements[1:]
		}
		groups = append(groups, fmt.Sprintf("%s of %s with mark %#x", list(ports, ", "), first.Address, first.Mark))
	}
	return list(groups, "; ")
}

// markState is what the kernel has under the table's name.
type markState struct {
	exists bool
	damage string                // how its form differs from ours; "" = it does not
	marks  map[MarkedPort]uint32 // without damage
}

// holds reports whether s is exactly what Apply makes of want.
func (s markState) holds(want map[MarkedPort]uint32) bool {
	if len(want) == 0 {
		return !s.exists
	}
	return s.exists && s.damage == "" && maps.Equal(s.marks, want)
}

// why explains a change that is not the configuration's alone; "" if it is.
func (s markState) why(m *markTable) string {
	what := s.damage
	switch {
	case m.known && s.holds(m.last), !m.known && s.damage == "":
		return ""
	case !m.known:
		return "found in another form: " + s.damage
	case !s.exists:
		what = "the table was gone"
	case s.damage == "":
		what = "the maps were changed"
	}
	return "repaired, another hand changed it: " + what
}

// markTimeout bounds one Apply or Check.
const markTimeout = 10 * time.Second

// markBuffer is the size of the socket's buffers: a batch is one datagram,
// about 50 bytes for each element, and an error repeats the message it is about.
const markBuffer = 8 << 20

// openMarks connects to nf_tables and reads the table.
func openMarks(want map[MarkedPort]uint32) (*nftables.Conn, markState, error) {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(
			c.SetOption(netlink.ExtendedAcknowledge, true),
			c.SetDeadline(time.Now().Add(markTimeout)),
			c.SetWriteBuffer(markBuffer),
			c.SetReadBuffer(markBuffer),
		)
	}))
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		err = fmt.Errorf("%w (%w)", errNoNFTables, err)
	}
	if err != nil {
		return nil, markState{}, markError("open netfilter netlink", err)
	}
	have, err := settledMarks(conn, want)
	if err != nil {
		conn.CloseLasting()
		return nil, markState{}, markError("read", err)
	}
	return conn, have, nil
}

// settledMarks reads the table. A dump is no snapshot: a hash table that is
// just growing after many additions, or a transaction between two requests,
// can hide elements from it. So it is believed when it shows what is wanted
// anyway, or the same as the dump before.
func settledMarks(conn *nftables.Conn, want map[MarkedPort]uint32) (have markState, err error) {
	for try := range 5 {
		before := have
		if have, err = readMarks(conn); err != nil {
			return markState{}, err
		}
		if have.holds(want) || try > 0 && reflect.DeepEqual(have, before) {
			break
		}
	}
	return have, nil
}

// readMarks reads the table once.
func readMarks(conn *nftables.Conn) (markState, error) {
	table, err := conn.ListTableOfFamily(markTableName, nftables.TableFamilyINet)
	switch {
	case errors.Is(err, unix.ENOENT):
		return markState{}, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		// The answer of nfnetlink when nothing has registered for the message.
		return markState{}, fmt.Errorf("%w (%w)", errNoNFTables, err)
	case err != nil:
		return markState{}, err
	}
	marks, err := readContent(conn, table)
	if err != nil {
		return markState{exists: true, damage: err.Error()}, nil
	}
	return markState{exists: true, marks: marks}, nil
}

// readContent reads the marks out of a table that has exactly our form. Any
// error, also one of the library about something it does not know, means
// another form.
func readContent(conn *nftables.Conn, table *nftables.Table) (map[MarkedPort]uint32, error) {
	// NFTA_TABLE_USE counts chains, maps and other objects. It is big-endian,
	// and the library reads it in the machine's own order.
	use := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, table.Use))
	if table.Flags != 0 || use != uint32(1+len(markFamilies)) {
		return nil, fmt.Errorf("%d chains, maps and other objects, flags %#x", use, table.Flags)
	}
	chain, err := conn.ListChain(ourTable, ourChain.Name)
	if err != nil {
		return nil, fmt.Errorf("chain %s: %w", ourChain.Name, err)
	}
	if !reflect.DeepEqual(chain, ourChain) {
		return nil, fmt.Errorf("chain %s is another", ourChain.Name)
	}
	rules, err := conn.GetRules(ourTable, ourChain)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	if len(rules) != len(markFamilies) {
		return nil, fmt.Errorf("%d rules", len(rules))
	}
	marks := make(map[MarkedPort]uint32)
	for i := range markFamilies {
		f := &markFamilies[i]
		if !reflect.DeepEqual(rules[i].Exprs, f.rule()) {
			return nil, fmt.Errorf("rule %d is another", i+1)
		}
		set, err := conn.GetSetByName(ourTable, f.set.Name)
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", f.set.Name, err)
		}
		set.Table, set.ID = f.set.Table, f.set.ID // what a dump does not tell
		if *set != f.set {
			return nil, fmt.Errorf("map %s is another", f.set.Name)
		}
		elements, err := conn.GetSetElements(&f.set)
		if err != nil {
			return nil, fmt.Errorf("elements of map %s: %w", f.set.Name, err)
		}
		for _, e := range elements {
			port, ok := parseMarkKey(e.Key)
			if !ok || len(e.Val) != 4 {
				return nil, fmt.Errorf("map %s has an element that is not a port", f.set.Name)
			}
			marks[port] = binary.NativeEndian.Uint32(e.Val)
		}
	}
	return marks, nil
}

// The table, as `nft list` shows it:
//
//	table inet lvs-controller {
//		map marks4 {
//			type ipv4_addr . inet_proto . inet_service : mark
//			elements = { 10.0.0.1 . tcp . 80 : 0x00001001 }
//		}
//		map marks6 {
//			type ipv6_addr . inet_proto . inet_service : mark
//		}
//		chain input {
//			type filter hook input priority mangle; policy accept;
//			meta mark set ip daddr . meta l4proto . th dport map @marks4
//			meta mark set ip6 daddr . meta l4proto . th dport map @marks6
//		}
//	}
//
// IPVS takes packets at the same hook, at priority 98 (ip_vs_ops in
// net/netfilter/ipvs/ip_vs_core.c), so the mark is there in time. Fragments have
// been put together before: IPv4's on the way to the hook (ip_local_deliver),
// IPv6's in prerouting, which IPVS sees to as soon as it has an IPv6 service.
// The director's own packets do not pass the hook: a director is no client of
// its VIPs, since in direct routing the answer would come from its own address.
//
// The two bytes of "th dport" are a port for TCP, UDP and SCTP alike. Those of
// another protocol may look like one, but its number is part of the key and in
// no element; and a packet without them, or not in the map, ends the rule before
// the mark is set.
var (
	ourTable = &nftables.Table{Name: markTableName, Family: nftables.TableFamilyINet}

	ourPolicy = nftables.ChainPolicyAccept
	ourChain  = &nftables.Chain{
		Name:     "input",
		Table:    ourTable,
		Hooknum:  nftables.ChainHookInput,
		Priority: nftables.ChainPriorityMangle,
		Type:     nftables.ChainTypeFilter,
		Policy:   &ourPolicy,
	}

	markFamilies = [...]markFamily{
		newMarkFamily(1, "marks4", nftables.TypeIPAddr, unix.NFPROTO_IPV4, 16),
		newMarkFamily(2, "marks6", nftables.TypeIP6Addr, unix.NFPROTO_IPV6, 24),
	}
)

// markFamily is one address family's half of the table: a map and its rule.
type markFamily struct {
	set     nftables.Set
	nfproto byte
	daddr   uint32 // offset of the destination address in the IP header
	address uint32 // length of an address
}

// newMarkFamily describes a half. The map's id is how one batch refers to it.
func newMarkFamily(id uint32, name string, address nftables.SetDatatype, nfproto byte, daddr uint32) markFamily {
	return markFamily{
		set: nftables.Set{
			Table:    ourTable,
			ID:       id,
			Name:     name,
			IsMap:    true,
			KeyType:  nftables.MustConcatSetType(address, nftables.TypeInetProto, nftables.TypeInetService),
			DataType: nftables.TypeMark,
		},
		nfproto: nfproto,
		daddr:   daddr,
		address: address.Bytes,
	}
}

// rule is what nft makes of "meta mark set ip daddr . meta l4proto . th dport
// map @marks4", with registers numbered as the kernel gives them back.
func (f *markFamily) rule() []expr.Any {
	const key = unix.NFT_REG_1
	words := f.address / 4
	protocol := unix.NFT_REG32_00 + words
	if words == 4 {
		protocol = unix.NFT_REG_2 // the same place under its older name
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: key},
		&expr.Cmp{Op: expr.CmpOpEq, Register: key, Data: []byte{f.nfproto}},
		&expr.Payload{DestRegister: key, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.address},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
		&expr.Payload{DestRegister: unix.NFT_REG32_00 + words + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: key, DestRegister: unix.NFT_REG_1, IsDestRegSet: true, SetName: f.set.Name},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1},
	}
}

// markKey is a port as a map's key: address, protocol and port, each filled up
// with zeros to whole registers of four bytes.
func markKey(p MarkedPort) []byte {
	key := append(p.Address.AsSlice(), byte(p.Port.Protocol), 0, 0, 0)
	key = binary.BigEndian.AppendUint16(key, p.Port.Number)
	return append(key, 0, 0)
}

// parseMarkKey is the reverse; ok is false for what markKey never makes.
func parseMarkKey(key []byte) (p MarkedPort, ok bool) {
	const tail = 8
	if len(key) < tail {
		return MarkedPort{}, false
	}
	address, rest := key[:len(key)-tail], key[len(key)-tail:]
	p.Port = Port{Number: binary.BigEndian.Uint16(rest[4:]), Protocol: Protocol(rest[0])}
	p.Address, ok = netip.AddrFromSlice(address)
	return p, ok && bytes.Equal(markKey(p), key)
}

// buildTable adds to the batch a table without elements.
func buildTable(conn *nftables.Conn) error {
	conn.AddTable(ourTable)
	for i := range markFamilies {
		if err := conn.AddSet(&markFamilies[i].set, nil); err != nil {
			return err
		}
	}
	conn.AddChain(ourChain)
	for i := range markFamilies {
		conn.AddRule(&nftables.Rule{Table: ourTable, Chain: ourChain, Exprs: markFamilies[i].rule()})
	}
	return nil
}

// markChunk is how many elements go into one message. Their list is one
// attribute, whose length has 16 bits.
const markChunk = 500

// changeElements adds to the batch what is to be removed, then what is to be
// added: a port that moves to another mark has one key.
func changeElements(conn *nftables.Conn, add, remove []markElement) error {
	for i := range markFamilies {
		f := &markFamilies[i]
		for chunk := range slices.Chunk(f.elements(remove), markChunk) {
			if err := conn.SetDeleteElements(&f.set, chunk); err != nil {
				return err
			}
		}
		for chunk := range slices.Chunk(f.elements(add), markChunk) {
			if err := conn.SetAddElements(&f.set, chunk); err != nil {
				return err
			}
		}
	}
	return nil
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
