// The difference between two tables, as a list of kernel operations.
//
// Used by genl*.go, reconcile*.go and cmd*.go. Pure. The reconcile loop sends the list,
// genl_ipvs.go encodes its operations, and the sub-command diff prints it. The order is
// stable: what adds capacity comes before what removes it.

package main

import (
	"cmp"
	"fmt"
	"slices"
)

// opKind says what an operation does. The order of the constants is the order
// of execution: what adds capacity comes before what takes it away.
type opKind uint8

const (
	newService opKind = iota // IPVS_CMD_NEW_SERVICE
	setService               // IPVS_CMD_SET_SERVICE: edited in place, counters and connections stay
	newServer                // IPVS_CMD_NEW_DEST
	setServer                // IPVS_CMD_SET_DEST, also from and to weight 0
	delServer                // IPVS_CMD_DEL_DEST
	delService               // IPVS_CMD_DEL_SERVICE, its real servers with it
)

// op is one change to the kernel's table. What it points to is in a table and is
// never written to: one pass can make thousands of operations.
type op struct {
	Service *Service // whole for newService and setService; for the others key and VIP count
	*edit
}

// edit is what operations of several services have in common, which share it: 250,000
// operations are no rare pass.
type edit struct {
	Kind       opKind
	WasService *VirtualService // for setService: what the kernel had
	Server     *RealServer     // for the *Server kinds
	WasServer  *RealServer     // for setServer and delServer: what the kernel had
	Why        string
}

// because gives o alone another reason.
func (o *op) because(why string) {
	e := *o.edit
	e.Why = why
	o.edit = &e
}

// row is the real server that o changes, or for a service its key alone.
func (o *op) row() rowID {
	if o.Server == nil {
		return rowID{Service: o.Service.ServiceKey}
	}
	return rowOf(o.Service.ServiceKey, *o.Server)
}

// phase is the place of o in a batch: that of its kind, but for quiescing, which comes
// between editing and removing.
func (o *op) phase() int {
	if o.Kind > setServer || o.Kind == setServer && o.Server.Weight == 0 {
		return int(o.Kind) + 1
	}
	return int(o.Kind)
}

var opSubjects = [...]string{
	newService: "add virtual service",
	setService: "edit virtual service",
	newServer:  "add real server ",
	setServer:  "edit real server ",
	delServer:  "remove real server ",
	delService: "remove virtual service",
}

// Subject names the object of o as error messages do: "vip edge
// 10.0.0.1:80/tcp: add real server 10.0.0.5".
func (o op) Subject() string {
	s := o.Service.ServiceKey.String() + ": " + opSubjects[o.Kind] + o.serverName()
	if o.Service.VIP != "" {
		s = "vip " + o.Service.VIP + " " + s
	}
	return s
}

// serverName is the name of the real server that o changes, "" for a service.
func (o *op) serverName() string {
	if o.Server == nil {
		return ""
	}
	return o.Server.Name()
}

// change is the text for what o adds or edits, "" for a removal.
func (o *op) change() string {
	switch o.Kind {
	case newService:
		return "scheduler " + o.Service.Scheduler
	case setService:
		return serviceChange(*o.WasService, o.Service.VirtualService)
	case newServer:
		return fmt.Sprintf("weight %d", o.Server.Weight)
	case setServer:
		return serverChange(*o.WasServer, *o.Server)
	}
	return ""
}

// serviceChange is the text for what an edit changes.
func serviceChange(was, now VirtualService) string {
	var c changes
	c.add(was.Scheduler != now.Scheduler, "scheduler %s → %s", was.Scheduler, now.Scheduler)
	c.add(was.Flags != now.Flags, "flags %s → %s", cmp.Or(flagWords(&was), "none"), cmp.Or(flagWords(&now), "none"))
	c.add(was.Persistence != now.Persistence, "persistence %ds → %ds", was.Persistence, now.Persistence)
	c.add(was.Netmask != now.Netmask, "clients by %s → %s", prefixName(was.Netmask), prefixName(now.Netmask))
	c.add(was.Engine != now.Engine, "persistence engine %q → %q", was.Engine, now.Engine)
	return c.String()
}

// prefixName says which clients persistence treats as one.
func prefixName(bits uint8) string {
	switch bits {
	case 0:
		return "address"
	case oddNetmask:
		return "an odd netmask"
	}
	return fmt.Sprintf("/%d", bits)
}

// serverChange is the text for what an edit changes.
func serverChange(was, now RealServer) string {
	var c changes
	c.add(was.Weight != now.Weight, "weight %d → %d", was.Weight, now.Weight)
	c.add(was.Forward != now.Forward, "forwarding %s → %s", was.Forward, now.Forward)
	c.add(was.Tunnel != now.Tunnel, "tunnel %v → %v", was.Tunnel, now.Tunnel)
	c.add(was.Upper != now.Upper, "upper threshold %d → %d", was.Upper, now.Upper)
	c.add(was.Lower != now.Lower, "lower threshold %d → %d", was.Lower, now.Lower)
	return c.String()
}

// changes collects phrases.
type changes []byte

func (c *changes) add(changed bool, format string, args ...any) {
	if !changed {
		return
	}
	if len(*c) > 0 {
		*c = append(*c, ", "...)
	}
	*c = fmt.Appendf(*c, format, args...)
}

func (c changes) String() string { return string(c) }

// diff lists the operations that change have into want. Where several real
// servers or services change at once, additions come first and removals last, so
// that a service never has fewer real servers in between than in both tables. A
// shard that both tables share costs nothing.
func diff(want, have shards) phases {
	var d differ
	for w, h := range merged(want, have, compareShards) {
		if !same(w.services(), h.services()) {
			d.services(w.services(), h.services())
		}
	}
	return d.phases
}

// phases are operations in the order of execution, cut where one kind of
// operation depends on another that the kernel may have refused. They are apart
// because it takes long to copy tens of thousands of operations.
type phases [numPhases][]op

const (
	// numPhases is one phase for each kind and one for quiescing.
	numPhases = int(delService) + 2

	// firstBreak is the first phase that takes capacity away, and so has to wait
	// for those that add some.
	firstBreak = int(setServer) + 1
)

// all passes every operation to yield.
func (p *phases) all(yield func(*op) bool) {
	for i := range p {
		for j := range p[i] {
			if !yield(&p[i][j]) {
				return
			}
		}
	}
}

// len counts the operations.
func (p *phases) len() int {
	n := 0
	for i := range p {
		n += len(p[i])
	}
	return n
}

// without returns the operations for which not reports false.
func (p *phases) without(not func(*op) bool) phases {
	var some phases
	for i := range p {
		for j := range p[i] {
			if o := &p[i][j]; !not(o) {
				some[i] = append(some[i], *o)
			}
		}
	}
	return some
}

// differ is the state of diff.
type differ struct {
	phases phases
	// Services that share their real servers change the same way: the last
	// answer is kept for the next service.
	want, have []Row
	leaving    []leaving
	changes    []op // on real servers, without the service
	left       int  // services of the shard from the present one on
}

var newServiceEdit = edit{Kind: newService, Why: "new virtual service"}

// services adds the operations that change the services have into want.
func (d *differ) services(want, have Table) {
	d.left = len(want)
	for w, h := range mergedBy(want, have, compareKeys) {
		switch {
		case h == nil:
			// Its real servers follow it at once: the service is without them for
			// as short as possible, and the kernel finds it faster.
			d.add(op{w, &newServiceEdit})
			d.servers(w, nil, true)
		case w == nil:
			d.add(op{h, &edit{Kind: delService, WasService: &h.VirtualService, Why: noService}})
			continue
		default:
			if w.VirtualService != h.VirtualService {
				d.add(op{w, &edit{Kind: setService, WasService: &h.VirtualService, Why: "configuration"}})
			}
			d.servers(w, h.Servers, false)
		}
		d.left--
	}
}

// add appends an operation on a service to its phase.
func (d *differ) add(o op) {
	phase := &d.phases[o.phase()]
	*phase = append(*phase, o)
}

// servers adds the operations that change the real servers have into those of w,
// which is fresh when it is added in the same batch: then they come with it.
func (d *differ) servers(w *Service, have []Row, fresh bool) {
	if same(w.Servers, have) {
		return // the very rows that were applied last
	}
	if !same(w.Servers, d.want) || !same(have, d.have) || !same(w.Leaving, d.leaving) {
		d.want, d.have, d.leaving = w.Servers, have, w.Leaving
		d.compare()
		// Most likely the other services of the shard change the same way.
		var more [numPhases]int
		for i := range d.changes {
			if fresh {
				more[newService] += d.left
			} else {
				more[d.changes[i].phase()] += d.left
			}
		}
		if fresh {
			more[newService] += d.left // the services themselves
		}
		for i, n := range more {
			d.phases[i] = slices.Grow(d.phases[i], n)
		}
	}
	if fresh { // most operations of a large table
		in := &d.phases[newService]
		start := len(*in)
		*in = append(*in, d.changes...)
		for i := range (*in)[start:] {
			(*in)[start+i].Service = w
		}
		return
	}
	for _, o := range d.changes {
		o.Service = w
		in := &d.phases[o.phase()]
		*in = append(*in, o)
	}
}

// compare lists the changes from the real servers d.have to d.want.
func (d *differ) compare() {
	d.changes = d.changes[:0]
	for n, o := range merged(d.want, d.have, compareRows) {
		switch {
		case o == nil:
			d.changes = append(d.changes, op{nil, &edit{Kind: newServer, Server: &n.RealServer, Why: n.Why}})
		case n == nil:
			why := o.Why
			if l := findLeaving(d.leaving, o.RealServer); l != nil {
				why = l.Why
			}
			d.changes = append(d.changes, op{nil, &edit{Kind: delServer, Server: &o.RealServer, WasServer: &o.RealServer, Why: why}})
		case n.RealServer != o.RealServer:
			d.changes = append(d.changes, op{nil, &edit{Kind: setServer, Server: &n.RealServer, WasServer: &o.RealServer, Why: n.Why}})
		}
	}
}
