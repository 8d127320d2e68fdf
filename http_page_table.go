// The kernel's table as the page shows it: by VIP, and services with the same real
// servers as one block.
//
// Used by http*.go. One reading passes the services one by one, so that a table of a
// million rows is never in memory as a whole. What is kept is bounded. It does no
// I/O.

package main

import (
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// pageVIPs, pageBlocks and pageRows are how many VIPs, blocks and rows the page has
	// at most. What is left out counts in the sums.
	pageVIPs   = 1_000
	pageBlocks = 2_000
	pageRows   = 6_000

	// pageLines is how many drains, and lines of a list of the status, the page has at most.
	pageLines = 1_000
)

// pageVIP is one VIP with its blocks.
type pageVIP struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	Services  int          `json:"services"`
	Load      Load         `json:"load"`
	Blocks    []*pageBlock `json:"blocks"`
	LeftOut   int          `json:"left_out,omitempty"` // services that are in no block
}

// pageBlock is services of one address that have the same real servers, with the same
// weights for the same reasons. Firewall marks have a block each.
type pageBlock struct {
	Address     netip.Addr `json:"address,omitzero"`
	Ports       []string   `json:"ports"` // such as 80/tcp, 9000-9020/tcp; or a mark
	Services    int        `json:"services"`
	Scheduler   string     `json:"scheduler"`
	Persistence uint32     `json:"persistence,omitempty"` // in seconds
	Load        Load       `json:"load"`
	InService   int        `json:"in_service"`
	Servers     int        `json:"servers"`
	Rows        []pageRow  `json:"rows"` // none where the page has no room for them

	ports   []Port
	servers []netip.Addr // of Rows
}

// pageRow is one real server of the services of a block.
type pageRow struct {
	Server string    `json:"server"`
	Node   string    `json:"node,omitempty"`
	Weight uint32    `json:"weight"`
	State  string    `json:"state"`
	Why    string    `json:"why,omitempty"`
	Probes string    `json:"probes,omitempty"` // their states, and the last answers that did not pass
	Until  time.Time `json:"until,omitzero"`   // it drains at most until then
	Load   Load      `json:"load"`
}

// The states of a real server on the page.
const (
	rowServes  = "in service"
	rowDrains  = "draining"
	rowWithout = "weight 0"
)

// pagePlaces are the addresses of VIPs, and where they are on this host.
type pagePlaces map[netip.Addr]addressStatus

// pageTotals are the sums of all VIPs, also of what the page has no room for.
type pageTotals struct {
	Load
	Services int `json:"services"`
	Servers  int `json:"real_servers"` // each address once
	Serving  int `json:"in_service"`   // of them, for one service at least
	Drains   int `json:"drains"`
}

// pageDrain is a real server that drains from some services of a VIP.
type pageDrain struct {
	VIP      string    `json:"vip"`
	Server   string    `json:"server"`
	Node     string    `json:"node,omitempty"`
	Why      string    `json:"why,omitempty"`
	Services int       `json:"services"`
	Active   uint64    `json:"active"`
	Until    time.Time `json:"until"` // the latest

	address netip.Addr
}

// pageTable collects services into VIPs and blocks.
type pageTable struct {
	known  shards
	vips   []*pageVIP
	more   int // VIPs that are left out
	total  pageTotals
	nodes  map[netip.Addr]bool // real servers: true for one that is in service somewhere
	drains map[[2]string]*pageDrain
	soon   []*pageDrain // the first pageLines of them
	places pagePlaces
	rows   int
	byName map[string]*pageVIP
	blocks map[[sha256.Size]byte]*pageBlock
	text   []byte // what makes two services the same, a buffer
}

// newPageTable begins a table with the VIPs of the configuration.
func newPageTable(v *loopState) *pageTable {
	t := &pageTable{known: v.Shards, nodes: make(map[netip.Addr]bool), drains: make(map[[2]string]*pageDrain), places: make(pagePlaces), byName: make(map[string]*pageVIP), blocks: make(map[[sha256.Size]byte]*pageBlock)}
	for i := range v.Config.VIPs {
		if p := t.vip(v.Config.VIPs[i].Name); p != nil {
			p.Addresses = v.Config.VIPs[i].Addresses
		}
	}
	return t
}

// vip returns the VIP of that name, nil where the page has no room for it.
func (t *pageTable) vip(name string) *pageVIP {
	if p := t.byName[name]; p != nil {
		return p
	}
	if len(t.vips) == pageVIPs {
		t.more++
		return nil
	}
	p := &pageVIP{Name: name, Addresses: []netip.Addr{}, Blocks: []*pageBlock{}}
	t.byName[name] = p
	t.vips = append(t.vips, p)
	return p
}

// owned reports whether service k is one of the controller's.
func (t *pageTable) owned(k ServiceKey) bool { return t.known.find(k) != nil }

// add adds a service that the kernel has.
func (t *pageTable) add(k *KernelService) {
	known := t.known.find(k.ServiceKey)
	l := Load{Traffic: k.Traffic}
	for i := range k.Servers {
		l.Connections.add(k.Servers[i].Connections)
	}
	t.total.Load.add(&l)
	t.total.Services++
	rows := newPageRows(k, known)
	t.count(k, known.VIP, rows)
	p := t.byName[known.VIP]
	if p == nil && known.VIP == "" && len(t.vips) < pageVIPs { // of a VIP that the configuration lacks
		p = t.vip("")
	}
	if p == nil {
		return
	}
	p.Services++
	p.Load.add(&l)
	key := t.key(k, known.VIP, rows)
	b := t.blocks[key]
	if b == nil {
		if len(t.blocks) == pageBlocks {
			p.LeftOut++
			return
		}
		b = &pageBlock{Scheduler: k.Scheduler, Persistence: k.Persistence, Servers: len(rows)}
		if k.Mark == 0 {
			b.Address = k.Address
		}
		for i := range rows {
			if rows[i].Weight > 0 {
				b.InService++
			}
		}
		if t.rows+len(rows) <= pageRows {
			b.Rows = make([]pageRow, len(rows))
			for i := range k.Servers {
				b.servers = append(b.servers, k.Servers[i].Address)
			}
			t.rows += len(rows)
		}
		t.blocks[key] = b
		p.Blocks = append(p.Blocks, b)
	}
	b.add(k, &l, rows)
}

// count counts the real servers of k, of which rows are what the page would show.
func (t *pageTable) count(k *KernelService, vip string, rows []pageRow) {
	for i := range rows {
		r, address := &rows[i], k.Servers[i].Address
		t.nodes[address] = t.nodes[address] || r.Weight > 0
		if r.State != rowDrains {
			continue
		}
		key := [2]string{vip, r.Server}
		d := t.drains[key]
		if d == nil {
			d = &pageDrain{VIP: vip, Server: r.Server, Why: r.Why, address: address}
			t.drains[key] = d
		}
		d.Services++
		d.Active += uint64(r.Load.Connections.Active)
		if r.Until.After(d.Until) {
			d.Until = r.Until
		}
	}
}

// add adds a service with rows to b.
func (b *pageBlock) add(k *KernelService, l *Load, rows []pageRow) {
	b.Services++
	b.Load.add(l)
	if k.Mark != 0 {
		b.Ports = append(b.Ports, k.ServiceKey.String())
	} else {
		b.ports = append(b.ports, Port{k.Port, k.Protocol})
	}
	for i := range b.Rows {
		r := &b.Rows[i]
		sum, until := r.Load, r.Until
		*r = rows[i]
		r.Load.add(&sum)
		if until.After(r.Until) {
			r.Until = until
		}
	}
}

// newPageRows are the real servers of k with the reasons of known. Both are in the same
// order.
func newPageRows(k *KernelService, known *Service) []pageRow {
	rows := make([]pageRow, len(k.Servers))
	rest := known.Servers
	for i := range k.Servers {
		s := &k.Servers[i]
		r := &rows[i]
		*r = pageRow{Server: s.Name(), Weight: s.Weight, State: rowServes, Load: Load{s.Connections, s.Traffic}}
		for len(rest) > 0 && rest[0].Compare(s.RealServer) < 0 {
			rest = rest[1:]
		}
		if len(rest) > 0 && rest[0].SameServer(s.RealServer) {
			r.Why = shorten(rest[0].Why, keptText)
		}
		if s.Weight > 0 {
			continue
		}
		r.State = rowWithout
		if l := findLeaving(known.Leaving, s.RealServer); l != nil && !l.Gone {
			r.State, r.Until = rowDrains, l.Deadline
		}
	}
	return rows
}

// key is the same for services that belong into one block.
func (t *pageTable) key(k *KernelService, vip string, rows []pageRow) [sha256.Size]byte {
	b := append(t.text[:0], vip...)
	b = append(b, 0)
	one := ServiceKey{Address: k.Address, Mark: k.Mark}
	b = one.appendTo(b)
	b = append(append(b, ' '), k.Scheduler...)
	for _, n := range []uint32{uint32(k.Flags), k.Persistence, uint32(k.Netmask)} {
		b = strconv.AppendUint(append(b, ' '), uint64(n), 10)
	}
	for i := range rows {
		r := &rows[i]
		for _, text := range []string{r.Server, r.State, r.Why} {
			b = append(append(b, 0), text...)
		}
		b = strconv.AppendUint(append(b, 0), uint64(r.Weight), 10)
	}
	t.text = b
	return sha256.Sum256(b)
}

// finish names the ports of the blocks, and counts.
func (t *pageTable) finish() {
	t.total.Servers, t.total.Drains = len(t.nodes), len(t.drains)
	for _, serves := range t.nodes {
		if serves {
			t.total.Serving++
		}
	}
	for _, d := range t.drains {
		t.soon = append(t.soon, d)
	}
	sortBy(t.soon, func(a, b *pageDrain) int {
		return cmp.Or(a.Until.Compare(b.Until), cmp.Compare(a.VIP, b.VIP), cmp.Compare(a.Server, b.Server))
	})
	t.soon = append([]*pageDrain{}, t.soon[:min(len(t.soon), pageLines)]...) // never null in JSON
	t.nodes, t.drains = nil, nil
	for _, p := range t.vips {
		for _, b := range p.Blocks {
			if b.ports != nil {
				b.Ports = shortPorts(b.ports)
			}
			if b.Rows == nil {
				b.Rows = []pageRow{}
			}
		}
	}
}

// nodeName is the name of the node at address a. nodes are in order.
func nodeName(nodes []nodeStatus, a netip.Addr) string {
	if n, found := slices.BinarySearchFunc(nodes, a, func(n nodeStatus, a netip.Addr) int { return n.Address.Compare(a) }); found {
		return shorten(nodes[n].Node, keptText)
	}
	return ""
}

// explain adds the nodes and the probes to the rows of p. nodes are in order.
func (p *pageVIP) explain(nodes []nodeStatus) {
	for _, b := range p.Blocks {
		for i := range b.Rows {
			r := &b.Rows[i]
			n, found := slices.BinarySearchFunc(nodes, b.servers[i], func(n nodeStatus, a netip.Addr) int { return n.Address.Compare(a) })
			if !found {
				continue
			}
			r.Node = shorten(nodes[n].Node, keptText)
			r.Probes = shorten(strings.Join(nodes[n].probed(r.Why), ", "), keptText)
		}
	}
}
