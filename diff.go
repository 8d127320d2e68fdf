// The difference between two tables as a list of kernel operations.
//
// Pure: reconcile.go carries the list out, `lvs-controller diff` prints it,
// tests compare it. Its order is stable, and makes before it breaks.

package main

import (
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

// op is one change to the kernel's table.
type op struct {
	Kind       opKind
	VIP        string         // name of the [[vip]], "" when it is configured no more
	Service    VirtualService // whole for newService and setService, else its key
	WasService VirtualService // for setService: what the kernel had
	Server     RealServer     // for the *Server kinds
	WasServer  RealServer     // for setServer and delServer: what the kernel had
	Why        string
}

// quiesces reports whether o stops new connections to its real server.
func (o op) quiesces() bool { return o.Kind == setServer && o.Server.Weight == 0 }

// breaks reports whether o takes capacity away, and so has to wait for what
// adds some.
func (o op) breaks() bool { return o.Kind >= delServer || o.quiesces() }

// Subject names the object of o as error messages do: "vip edge
// 10.0.0.1:80/tcp: add real server 10.0.0.5".
func (o op) Subject() string {
	s := o.Service.ServiceKey.String() + ": "
	if o.VIP != "" {
		s = "vip " + o.VIP + " " + s
	}
	switch o.Kind {
	case newService:
		return s + "add virtual service"
	case setService:
		return s + "edit virtual service"
	case delService:
		return s + "remove virtual service"
	case newServer:
		return s + "add real server " + o.Server.Name()
	case setServer:
		return s + "edit real server " + o.Server.Name()
	default:
		return s + "remove real server " + o.Server.Name()
	}
}

// Name is how people write a real server: its address, and its port where that
// is not the virtual service's.
func (r RealServer) Name() string {
	if r.Port == 0 {
		return r.Address.String()
	}
	return fmt.Sprintf("%s port %d", r.Address, r.Port)
}

// String is one line of `lvs-controller diff`.
func (o op) String() string {
	var sign, change string
	switch o.Kind {
	case newService:
		sign, change = "+", "scheduler "+o.Service.Scheduler
	case setService:
		sign, change = "~", serviceChange(o.WasService, o.Service)
	case delService:
		sign = "-"
	case newServer:
		sign, change = "+", fmt.Sprintf("weight %d", o.Server.Weight)
	case setServer:
		sign, change = "~", serverChange(o.WasServer, o.Server)
	case delServer:
		sign = "-"
	}
	line := fmt.Sprintf("%s %s", sign, o.Service.ServiceKey)
	if o.Kind != newService && o.Kind != setService && o.Kind != delService {
		line += " → " + o.Server.Name()
	}
	if change != "" {
		line += "  " + change
	}
	if o.Why != "" {
		line += "  (" + o.Why + ")"
	}
	return line
}

// serviceChange says in words what an edit changes.
func serviceChange(was, now VirtualService) string {
	var c changes
	c.add(was.Scheduler != now.Scheduler, "scheduler %s → %s", was.Scheduler, now.Scheduler)
	c.add(was.Flags != now.Flags, "flags %#x → %#x", uint32(was.Flags), uint32(now.Flags))
	c.add(was.Persistence != now.Persistence, "persistence %ds → %ds", was.Persistence, now.Persistence)
	c.add(was.Netmask != now.Netmask, "clients by %s → %s", prefixName(was.Netmask), prefixName(now.Netmask))
	c.add(was.Engine != now.Engine, "persistence engine %q → %q", was.Engine, now.Engine)
	return c.String()
}

// prefixName says which clients persistence takes for one.
func prefixName(bits uint8) string {
	switch bits {
	case 0:
		return "address"
	case oddNetmask:
		return "an odd netmask"
	}
	return fmt.Sprintf("/%d", bits)
}

// serverChange says in words what an edit changes.
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

// diff lists what turns have into want, both in table order. Where several
// real servers or services change at once, additions come first and removals
// last, so that a service is never emptier in between than in both tables.
func diff(want, have Table) []op {
	var phases [numPhases][]op
	add := func(o op) { phases[o.phase()] = append(phases[o.phase()], o) }
	for w, h := range merged(want, have, func(a, b Service) int { return a.Compare(b.ServiceKey) }) {
		switch {
		case h == nil:
			add(op{Kind: newService, VIP: w.VIP, Service: w.VirtualService, Why: "new virtual service"})
			diffServers(add, w, nil)
		case w == nil:
			add(op{Kind: delService, VIP: h.VIP, Service: VirtualService{ServiceKey: h.ServiceKey}, WasService: h.VirtualService})
		default:
			if w.VirtualService != h.VirtualService {
				add(op{Kind: setService, VIP: w.VIP, Service: w.VirtualService, WasService: h.VirtualService, Why: "configuration"})
			}
			diffServers(add, w, h.Servers)
		}
	}
	return slices.Concat(phases[:]...)
}

// numPhases is one phase for each kind and one for quiescing.
const numPhases = int(delService) + 2

// phase is the place of o in a batch: that of its kind, but for quiescing,
// which comes between editing and removing.
func (o op) phase() int {
	if o.quiesces() || o.Kind > setServer {
		return int(o.Kind) + 1
	}
	return int(o.Kind)
}

// diffServers adds what turns the real servers have into those of w.
func diffServers(add func(op), w *Service, have []Row) {
	if len(w.Servers) == len(have) && len(have) > 0 && &w.Servers[0] == &have[0] {
		return // the very rows that were applied last
	}
	key := VirtualService{ServiceKey: w.ServiceKey}
	for n, o := range merged(w.Servers, have, func(a, b Row) int { return a.Compare(b.RealServer) }) {
		switch {
		case o == nil:
			add(op{Kind: newServer, VIP: w.VIP, Service: key, Server: n.RealServer, Why: n.Why})
		case n == nil:
			add(op{Kind: delServer, VIP: w.VIP, Service: key, Server: o.RealServer, WasServer: o.RealServer, Why: o.Why})
		case n.RealServer != o.RealServer:
			add(op{Kind: setServer, VIP: w.VIP, Service: key, Server: n.RealServer, WasServer: o.RealServer, Why: n.Why})
		}
	}
}

// merged walks two slices sorted by compare side by side. Each step yields the
// elements that are equal, or one element and nil.
func merged[T any](a, b []T, compare func(a, b T) int) func(yield func(x, y *T) bool) {
	return func(yield func(x, y *T) bool) {
		i, j := 0, 0
		for i < len(a) || j < len(b) {
			order := 0
			switch {
			case i == len(a):
				order = 1
			case j == len(b):
				order = -1
			default:
				order = compare(a[i], b[j])
			}
			var x, y *T
			if order <= 0 {
				x = &a[i]
				i++
			}
			if order >= 0 {
				y = &b[j]
				j++
			}
			if !yield(x, y) {
				return
			}
		}
	}
}
