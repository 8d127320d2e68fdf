// An nftables table of the controller, whose sets have ports of VIPs. There are two
// such tables: host_marks.go and host_notrack.go say what is in them.
//
// Used by reconcile*.go, cmd_diff.go and main.go. The reconcile loop comes here through
// host.go, and Follow wakes it when another program changes the table. It changes and deletes
// no nftables table except the controller's own.

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

// tableKind is what the log and errors say of a table.
type tableKind struct {
	missing   error // the kernel lacks what the table needs
	changed   func(log *slog.Logger, attrs ...any)
	repaired  func(log *slog.Logger, attrs ...any) // in place of changed: another program had changed it
	unwatched func(log *slog.Logger, err error)    // changes are noticed only by the next audit
}

// tableForm is what a table has beside the elements of its sets.
type tableForm struct {
	table  *nftables.Table
	chains []*nftables.Chain
	sets   []portSet
	rules  [][]tableRule // of each chain
}

// tableRule is the expressions of a rule.
type tableRule = []expr.Any

// portSet is a set or a map of one address family, whose keys are ports.
type portSet struct {
	nftables.Set
	family addressFamily
}

// word is what nft calls s.
func (s *portSet) word() string {
	if s.IsMap {
		return "map"
	}
	return "set"
}

// addressFamily is where a packet of one address family has its addresses. Offsets are
// those in the IP header.
type addressFamily struct {
	nfproto byte
	saddr   uint32
	daddr   uint32
	address uint32 // length of an address
}

var (
	family4 = addressFamily{nfproto: unix.NFPROTO_IPV4, saddr: 12, daddr: 16, address: 4}
	family6 = addressFamily{nfproto: unix.NFPROTO_IPV6, saddr: 8, daddr: 24, address: 16}
)

// newTableForm is a form without rules. All tables are of family inet.
func newTableForm(name string, sets ...portSet) tableForm {
	f := tableForm{table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}, sets: sets}
	for i := range f.sets {
		f.sets[i].Table = f.table
		f.sets[i].ID = uint32(i + 1) // how one batch refers to it
	}
	return f
}

// chain adds a chain with rules.
func (f *tableForm) chain(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules []tableRule) {
	policy := nftables.ChainPolicyAccept
	f.chains = append(f.chains, &nftables.Chain{
		Name: name, Table: f.table, Hooknum: hook, Priority: priority, Type: nftables.ChainTypeFilter, Policy: &policy,
	})
	f.rules = append(f.rules, rules)
}

// keyType is the type of a set's keys.
func keyType(address nftables.SetDatatype) nftables.SetDatatype {
	return nftables.MustConcatSetType(address, nftables.TypeInetProto, nftables.TypeInetService)
}

// key loads an address, the protocol and a port of the packet into the registers of a set's key.
// Registers have the numbers that the kernel shows in a dump.
func (f *addressFamily) key(address, port expr.Any) []expr.Any {
	words := f.address / 4
	second := uint32(unix.NFT_REG32_00) + words
	if words == 4 {
		second = unix.NFT_REG_2 // the same place under its older name
	}
	return []expr.Any{into(unix.NFT_REG_1, address), into(second, &expr.Meta{Key: expr.MetaKeyL4PROTO}), into(unix.NFT_REG32_00+words+1, port)}
}

// into makes load, which reads something of a packet, put it into register.
func into(register uint32, load expr.Any) expr.Any {
	switch e := load.(type) {
	case *expr.Payload:
		e.DestRegister = register
	case *expr.Meta:
		e.Register = register
	}
	return load
}

// is ends a rule for packets of which load does not read value.
func is(load expr.Any, value ...byte) []expr.Any {
	return []expr.Any{into(unix.NFT_REG_1, load), &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: value}}
}

// ofFamily ends a rule for packets of another family.
func (f *addressFamily) ofFamily() []expr.Any {
	return is(&expr.Meta{Key: expr.MetaKeyNFPROTO}, f.nfproto)
}

// fromHeader is length bytes of the IP header, fromTransport of what follows it.
func fromHeader(offset, length uint32) *expr.Payload {
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func fromTransport(offset, length uint32) *expr.Payload {
	return &expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// portTable keeps one of the controller's nftables tables as wanted. One goroutine at a
// time may change it; Follow and Lost may run beside it. Its sockets are in the network
// namespace of the thread that calls it.
type portTable struct {
	log   *slog.Logger
	kind  *tableKind
	name  string        // of the table
	form  tableForm     // what Apply makes; of the goroutine that calls it
	begun chan struct{} // rung when there are elements
	lost  atomic.Bool   // another program has changed the table since the last Apply

	mu    sync.Mutex
	known bool                  // an Apply has succeeded
	last  map[MarkedPort]uint32 // what it left in the kernel
	from  tableForm             // the form then
}

func newPortTable(log *slog.Logger, kind *tableKind, form tableForm) *portTable {
	return &portTable{log: log, kind: kind, name: form.table.Name, form: form, begun: make(chan struct{}, 1)}
}

// Apply makes want the content of the table, in one transaction: it creates
// the table for the first element, adds and removes only the elements that differ,
// rebuilds a table whose form is not ours, and deletes the table when want is
// empty. Unchanged state is silent and writes nothing. Where nothing is wanted, the
// table is read once, because an earlier run may have left one.
func (t *portTable) Apply(want map[MarkedPort]uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost.Store(false)
	if t.known && len(t.last) == 0 && len(want) == 0 {
		return nil
	}
	conn, have, err := t.open(want, &t.form)
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	if !have.equals(want) {
		if err := t.change(conn, have, want); err != nil {
			return err
		}
	}
	t.known, t.last, t.from = true, maps.Clone(want), t.form
	if len(want) > 0 {
		ring(t.begun)
	}
	return nil
}

// Lost reports whether another program has changed the table since the last Apply,
// which repairs it. Only Follow finds out.
func (t *portTable) Lost() bool { return t.lost.Load() }

// Follow rings wake when another program has changed the table, until ctx ends. It
// returns nil. It asks the kernel for events only once there are elements. Events of
// other tables are passed over. Of a program that changes ours again and again, it
// notices one change in lostPause.
func (t *portTable) Follow(ctx context.Context, wake chan<- struct{}) error {
	select {
	case <-ctx.Done():
		return nil
	case <-t.begun:
	}
	changed, err := kernelEventsOf(ctx, unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1), named(t.name))
	if err != nil {
		t.kind.unwatched(t.log, err)
		<-ctx.Done()
		return nil
	}
	for open := true; open; _, open = <-changed {
		if t.differs() {
			t.lost.Store(true)
			ring(wake)
			sleepContext(ctx, lostPause)
		}
	}
	return nil
}

// differs reports whether the kernel has something else than the last Apply left. Where
// that cannot be read, the next audit finds out.
func (t *portTable) differs() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.known {
		return false
	}
	conn, have, err := t.open(t.last, &t.from)
	if err != nil {
		return false
	}
	defer conn.CloseLasting()
	return !have.equals(t.last)
}

// Read returns what the sets have in the kernel, never nil without an error.
func (t *portTable) Read() (map[MarkedPort]uint32, error) {
	conn, have, err := t.open(nil, &t.form)
	if err != nil {
		return nil, err
	}
	defer conn.CloseLasting()
	marks := make(map[MarkedPort]uint32)
	maps.Copy(marks, have.marks)
	return marks, nil
}

// Pending is the change that Apply would make, in words; "" for none. It writes nothing.
func (t *portTable) Pending(want map[MarkedPort]uint32) (change string, err error) {
	conn, have, err := t.open(want, &t.form)
	if err != nil {
		return "", err
	}
	defer conn.CloseLasting()
	switch {
	case have.equals(want):
		return "", nil
	case len(want) == 0:
		return deleteTable, nil
	}
	add, remove := diffMarks(want, have.marks)
	if change = describeChange(add, remove); have.damage != "" {
		change = "make the table again, it has another form: " + have.damage
	}
	return change, nil
}

// Remove deletes the table, also when another program has made it.
func (t *portTable) Remove() error {
	t.mu.Lock()
	t.known = false
	t.mu.Unlock()
	return t.Apply(nil)
}

// deleteTable is the change to no element.
const deleteTable = "delete the table"

// change brings the kernel from have to want and logs that.
func (t *portTable) change(conn *nftables.Conn, have tableState, want map[MarkedPort]uint32) error {
	add, remove := diffMarks(want, have.marks)
	change := deleteTable
	if have.damage != "" || len(want) == 0 {
		conn.DelTable(t.form.table)
	}
	var err error
	if len(want) > 0 {
		change = describeChange(add, remove)
		err = t.form.batch(conn, have.marks == nil, add, remove)
	}
	if err == nil {
		err = conn.Flush()
	}
	if !have.exists && errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w (%w)", t.kind.missing, err) // a part of it is missing
	}
	if err != nil {
		return t.error(change, err)
	}
	why, foreign := t.why(have)
	say := t.kind.changed
	if foreign {
		say = t.kind.repaired
	}
	say(t.log, "table", "inet "+t.name, "change", change, "why", why)
	return nil
}

// why is the reason for a change of have, and whether another program is it. A table of an
// earlier run has no reason but the configuration.
func (t *portTable) why(have tableState) (why string, foreign bool) {
	switch {
	case t.known && have.equals(t.last), t.known && !reflect.DeepEqual(t.from, t.form), !t.known && have.damage == "":
		return "configured", false
	case !t.known:
		return "the table had another form: " + have.damage, false
	case !have.exists:
		return "repaired, another program changed it: the table was gone", true
	}
	return "repaired, another program changed it: " + cmp.Or(have.damage, "the elements were different"), true
}

func (t *portTable) error(doing string, err error) error {
	return fmt.Errorf("nftables table inet %s: %s: %w", t.name, doing, err)
}

// markElement is an element of a set; in a set that is no map, Mark is 0.
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
		sortBy(list, markElement.Compare)
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
			group := fmt.Sprintf("%s %s of %s", verb, list(ports, ", "), first.Address)
			if first.Mark != 0 {
				group += fmt.Sprintf(" with mark %#x", first.Mark)
			}
			groups = append(groups, group)
		}
	}
	return list(groups, "; ")
}

// tableState is what the kernel has under the table's name.
type tableState struct {
	exists bool
	damage string                // in what its form differs from ours; "" = it does not
	marks  map[MarkedPort]uint32 // without damage
}

// equals reports whether s is exactly what Apply makes of want.
func (s tableState) equals(want map[MarkedPort]uint32) bool {
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

// open connects to nf_tables and reads the table. A kernel without
// nf_tables has no elements, which is an error only if some are wanted.
func (t *portTable) open(want map[MarkedPort]uint32, form *tableForm) (*nftables.Conn, tableState, error) {
	var have tableState
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetOption(netlink.ExtendedAcknowledge, true),
			c.SetDeadline(time.Now().Add(markTimeout)), c.SetWriteBuffer(markBuffer), c.SetReadBuffer(markBuffer))
	}))
	if err != nil {
		conn = new(nftables.Conn) // not connected, and nothing to close
	} else {
		have, err = form.readStable(conn, want)
	}
	// The answers of netlink and nfnetlink where the module is not loaded.
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		if len(want) == 0 {
			return conn, tableState{}, nil
		}
		err = fmt.Errorf("%w (%w)", t.kind.missing, err)
	}
	if err != nil {
		conn.CloseLasting()
		return nil, tableState{}, t.error("read", err)
	}
	return conn, have, nil
}

// readStable reads the table. A dump is no snapshot: a hash table that is
// just growing after many additions, or a transaction between two requests,
// can hide elements from it. So a dump counts when it equals what is wanted
// or the dump before it.
func (f *tableForm) readStable(conn *nftables.Conn, want map[MarkedPort]uint32) (have tableState, err error) {
	for try := range 5 {
		before := have
		have = tableState{}
		table, err := conn.ListTableOfFamily(f.table.Name, f.table.Family)
		if err == nil {
			have = f.read(conn, table)
		} else if !errors.Is(err, unix.ENOENT) {
			return have, err
		}
		if have.equals(want) || try > 0 && reflect.DeepEqual(have, before) {
			break
		}
	}
	return have, nil
}

// read reads the elements out of table. Any error, also one of the library
// about an object that it does not know, means a form that is not ours. So does a panic:
// the library reads the user data of another program's element without a look at its
// length (userdata.Get).
func (f *tableForm) read(conn *nftables.Conn, table *nftables.Table) (have tableState) {
	defer func() {
		if r := recover(); r != nil {
			have = tableState{exists: true, damage: "it has what no program should make: " + shorten(fmt.Sprint(r), quotedText)}
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
	same(fmt.Sprintf("%d chains, maps and other objects", use), use, uint32(len(f.chains)+len(f.sets)), nil)
	same("flags", table.Flags, uint32(0), nil)
	for _, c := range f.chains {
		chain, err := conn.ListChain(f.table, c.Name)
		same("chain "+c.Name, chain, c, err)
	}
	for i := range f.sets {
		s := &f.sets[i]
		name := s.Name
		set, err := conn.GetSetByName(f.table, name)
		if err == nil {
			set.ID, set.Comment = s.ID, s.Comment // a dump lacks the ID, the library drops the comment
		}
		same(s.word()+" "+name, set, &s.Set, err)
		elements, err := conn.GetSetElements(&s.Set)
		same("elements of "+name, nil, nil, err)
		for _, e := range elements {
			port, err := s.parse(e)
			same("elements of "+name, nil, nil, err)
			marks[port.MarkedPort] = port.Mark
		}
	}
	for i, c := range f.chains {
		rules, err := conn.GetRules(f.table, c)
		var got []tableRule
		for _, r := range rules {
			got = append(got, r.Exprs)
		}
		same("rules of "+c.Name, got, f.rules[i], err)
	}
	if damage != nil {
		return tableState{exists: true, damage: damage.Error()}
	}
	return tableState{exists: true, marks: marks}
}

// markKey is a port as a set's key: address, protocol and port, each filled up
// with zeros to whole registers of four bytes.
func markKey(p MarkedPort) []byte {
	key := append(p.Address.AsSlice(), byte(p.Port.Protocol), 0, 0, 0)
	key = binary.BigEndian.AppendUint16(key, p.Port.Number)
	return append(key, 0, 0)
}

// parse reads an element of s. It refuses what Apply never makes.
func (s *portSet) parse(e nftables.SetElement) (markElement, error) {
	size := 0
	if s.IsMap {
		size = 4
	}
	if n := len(e.Key) - 8; n >= 0 && len(e.Val) == size {
		address, ok := netip.AddrFromSlice(e.Key[:n])
		port := Port{Number: binary.BigEndian.Uint16(e.Key[n+4:]), Protocol: Protocol(e.Key[n])}
		m := markElement{MarkedPort: MarkedPort{address, port}}
		if s.IsMap {
			m.Mark = binary.NativeEndian.Uint32(e.Val)
		}
		if ok && n == int(s.family.address) && bytes.Equal(markKey(m.MarkedPort), e.Key) {
			return m, nil
		}
	}
	return markElement{}, fmt.Errorf("%x is not a port", e.Key)
}

// batch puts into the batch: a table without elements if build is set;
// what is to be removed; and then what is to be added, since a port that moves to
// another mark has one key.
func (f *tableForm) batch(conn *nftables.Conn, build bool, add, remove []markElement) error {
	var errs []error
	if build {
		conn.AddTable(f.table)
		for i := range f.sets {
			errs = append(errs, conn.AddSet(&f.sets[i].Set, nil))
		}
		for i, c := range f.chains {
			conn.AddChain(c)
			for _, exprs := range f.rules[i] {
				conn.AddRule(&nftables.Rule{Table: f.table, Chain: c, Exprs: exprs})
			}
		}
	}
	for i := range f.sets {
		s := &f.sets[i]
		for chunk := range slices.Chunk(s.elements(remove), markChunk) {
			errs = append(errs, conn.SetDeleteElements(&s.Set, chunk))
		}
		for chunk := range slices.Chunk(s.elements(add), markChunk) {
			errs = append(errs, conn.SetAddElements(&s.Set, chunk))
		}
	}
	return errors.Join(errs...)
}

// elements picks those of the set's family and encodes them. A mark is in the
// machine's own byte order.
func (s *portSet) elements(list []markElement) []nftables.SetElement {
	var own []nftables.SetElement
	for _, e := range list {
		if e.Address.BitLen() != int(s.family.address)*8 {
			continue
		}
		element := nftables.SetElement{Key: markKey(e.MarkedPort)}
		if s.IsMap {
			element.Val = binary.NativeEndian.AppendUint32(nil, e.Mark)
		}
		own = append(own, element)
	}
	return own
}
