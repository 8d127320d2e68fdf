// A table of virtual services → services of the import.
//
// Used by cmd_import.go. Pure.

package main

// importTable is the table t of source. lines has the line of each virtual service, nil
// when there are none.
func importTable(source string, t Table, lines map[ServiceKey]int) *imported {
	found := imported{source: source}
	for i := range t {
		s := &t[i]
		at := &importPlace{file: source, line: lines[s.ServiceKey], order: i + 1}
		if at.line > 0 {
			at.order = at.line
		}
		service := importService{at: at, what: s.ServiceKey.String(), VirtualService: s.VirtualService}
		for _, r := range s.Servers {
			server := importServer{at: at, RealServer: r.RealServer}
			if r.Port != 0 && r.Forward != Masq { // of one with NAT that is the reason
				server.refused = "its port is not that of the virtual service; without NAT it is the same"
			}
			service.servers = append(service.servers, server)
		}
		found.services = append(found.services, &service)
	}
	return &found
}
