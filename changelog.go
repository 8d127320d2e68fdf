// One log line for each change to the kernel's table, with its cause.
//
// apply.go and -cleanup call logChanges with what has been done and groupErrors
// with what was refused. Nothing is decided here.

package main

import (
	"fmt"
	"log/slog"
	"net/netip"
)

// logChanges writes one line per change. The same change to several services
// of a VIP (a node that joins 1000 ports) is one line that names them.
func logChanges(log *slog.Logger, ops []op) {
	type line struct {
		kind           opKind
		vip            string
		address        netip.Addr // of the VIP
		server         string
		change, reason string
	}
	var order []line
	services := make(map[line][]string)
	for _, o := range ops {
		l := line{kind: o.Kind, vip: o.VIP, address: o.Service.Address, reason: o.Why}
		switch o.Kind {
		case newService:
			l.change = "scheduler " + o.Service.Scheduler
		case setService:
			l.change = serviceChange(o.WasService, o.Service)
		case newServer:
			l.server, l.change = o.Server.Name(), fmt.Sprintf("weight %d", o.Server.Weight)
		case setServer:
			l.server, l.change = o.Server.Name(), serverChange(o.WasServer, o.Server)
		case delServer:
			l.server = o.Server.Name()
		}
		if services[l] == nil {
			order = append(order, l)
		}
		name := Port{o.Service.Port, o.Service.Protocol}.String()
		if o.Service.Mark != 0 {
			name = o.Service.ServiceKey.String()
		}
		services[l] = append(services[l], name)
	}
	for _, l := range order {
		attrs := []any{"vip", l.vip, "address", l.address, "ports", portList(services[l])}
		if l.address.IsUnspecified() {
			attrs = []any{"vip", l.vip, "service", portList(services[l])}
		}
		if l.server != "" {
			attrs = append(attrs, "server", l.server)
		}
		if l.change != "" {
			attrs = append(attrs, "change", l.change)
		}
		log.Info(changeMessage[l.kind], append(attrs, "why", l.reason)...)
	}
}

// groupErrors makes one error of operations that were refused alike, so that a
// node without a route is one line and not one for each of a VIP's ports. Real
// servers of a service that was refused fail for its sake only and are left out.
func groupErrors(failed []*opError) []error {
	type group struct {
		kind    opKind
		vip     string
		address netip.Addr
		server  RealServer
		err     string
	}
	refused := make(map[ServiceKey]bool)
	for _, f := range failed {
		if f.Op.Kind == newService {
			refused[f.Op.Service.ServiceKey] = true
		}
	}
	var order []group
	members := make(map[group][]*opError)
	for _, f := range failed {
		if f.Op.Kind == newServer && refused[f.Op.Service.ServiceKey] {
			continue
		}
		g := group{f.Op.Kind, f.Op.VIP, f.Op.Service.Address, f.Op.Server, f.Err.Error()}
		if members[g] == nil {
			order = append(order, g)
		}
		members[g] = append(members[g], f)
	}
	var errs []error
	for _, g := range order {
		switch m := members[g]; len(m) {
		case 1:
			errs = append(errs, m[0])
		default:
			errs = append(errs, fmt.Errorf("%w, and the same for %d more ports", m[0], len(m)-1))
		}
	}
	return errs
}

var changeMessage = [...]string{
	newService: "virtual service added",
	setService: "virtual service edited",
	newServer:  "real server added",
	setServer:  "real server edited",
	delServer:  "real server removed",
	delService: "virtual service removed",
}

// portList names at most eight ports; a log line is for reading.
func portList(ports []string) string {
	const most = 8
	text := ""
	for i, p := range ports {
		if i == most && len(ports) > most+1 {
			return fmt.Sprintf("%s and %d more", text, len(ports)-most)
		}
		if i > 0 {
			text += ","
		}
		text += p
	}
	return text
}

func names(servers []RealServer) []string {
	all := make([]string, len(servers))
	for i, s := range servers {
		all[i] = s.Name()
	}
	return all
}
