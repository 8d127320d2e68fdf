// One log line for each change to the kernel's table, with its cause.
//
// apply.go and -cleanup call logChanges with what has been done. It only
// writes; nothing is decided here.

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
		if l.server != "" {
			attrs = append(attrs, "server", l.server)
		}
		if l.change != "" {
			attrs = append(attrs, "change", l.change)
		}
		log.Info(changeMessage[l.kind], append(attrs, "why", l.reason)...)
	}
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
