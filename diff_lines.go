// Operations as lines that `ipvsadm -R` reads.
//
// Used by cmd_diff_forms.go. Pure: no I/O, no clock, no log.

package main

// appendLine appends o as ipvsadm has it, without a newline.
func (o *op) appendLine(b []byte) []byte {
	k := &o.Service.ServiceKey
	switch o.Kind {
	case newService:
		return appendServiceLine(b, "-A", &o.Service.VirtualService)
	case setService:
		return appendServiceLine(b, "-E", &o.Service.VirtualService)
	case newServer:
		return appendServerLine(b, "-a", k, o.Server)
	case setServer:
		return appendServerLine(b, "-e", k, o.Server)
	case delServer:
		return appendServerName(append(b, "-d "...), k, o.Server)
	}
	return appendServiceName(append(b, "-D "...), k)
}
