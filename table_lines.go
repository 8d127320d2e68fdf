// A table, its services and real servers as lines that `ipvsadm -R` reads.
//
// Used by diff_lines.go. Pure: no I/O, no clock, no log.

package main

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"strconv"
)

// appendListing appends t as ipvsadm prints it, with the thresholds that ipvsadm leaves
// out.
func (t Table) appendListing(b []byte) []byte {
	for i := range t {
		s := &t[i]
		b = append(appendServiceLine(b, "-A", &s.VirtualService), '\n')
		for j := range s.Servers {
			b = append(appendServerLine(b, "-a", &s.ServiceKey, &s.Servers[j].RealServer), '\n')
		}
	}
	return b
}

// appendServiceName appends the options that name service k, as "-t 10.0.0.1:80".
func appendServiceName(b []byte, k *ServiceKey) []byte {
	if k.Mark != 0 {
		b = appendOption(b, "-f ", k.Mark)
		if k.Address.Is6() {
			b = append(b, " -6"...)
		}
		return b
	}
	switch k.Protocol {
	case UDP:
		b = append(b, "-u "...)
	case SCTP:
		b = append(b, "--sctp-service "...)
	default:
		b = append(b, "-t "...)
	}
	return netip.AddrPortFrom(k.Address, k.Port).AppendTo(b)
}

// appendServiceLine appends the line of a service that command, -A or -E, needs.
func appendServiceLine(b []byte, command string, s *VirtualService) []byte {
	b = appendServiceName(append(append(b, command...), ' '), &s.ServiceKey)
	b = append(append(b, " -s "...), s.Scheduler...)
	if s.Flags&FlagPersistent != 0 {
		b = appendOption(b, " -p ", s.Persistence)
		switch {
		case s.Netmask == 0:
		case s.Address.Is4():
			var mask [4]byte
			binary.BigEndian.PutUint32(mask[:], ipv4Mask(s.Netmask))
			b = netip.AddrFrom4(mask).AppendTo(append(b, " -M "...))
		default:
			b = appendOption(b, " -M ", uint32(s.Netmask))
		}
	}
	if s.Engine != "" {
		b = append(append(b, " --pe "...), s.Engine...)
	}
	if s.Flags&FlagOnePacket != 0 {
		b = append(b, " -o"...)
	}
	separator := " -b "
	for i, bit := range schedulerBits {
		if s.Flags&bit != 0 {
			word := cmp.Or(findScheduler(s.Scheduler).word(bit), "flag-"+strconv.Itoa(i+1))
			b = append(append(b, separator...), word...)
			separator = ","
		}
	}
	return b
}

// appendServerName appends what names real server r of service k.
func appendServerName(b []byte, k *ServiceKey, r *RealServer) []byte {
	b = append(appendServiceName(b, k), " -r "...)
	return netip.AddrPortFrom(r.Address, cmp.Or(r.Port, k.Port)).AppendTo(b)
}

// appendServerLine appends the line of a real server that command, -a or -e, needs.
func appendServerLine(b []byte, command string, k *ServiceKey, r *RealServer) []byte {
	b = appendServerName(append(append(b, command...), ' '), k, r)
	switch r.Forward {
	case Masq:
		b = append(b, " -m"...)
	case Tunnel:
		b = append(b, " -i"...)
	default:
		b = append(b, " -g"...)
	}
	b = appendOption(b, " -w ", r.Weight)
	if r.Upper != 0 {
		b = appendOption(b, " -x ", r.Upper)
	}
	if r.Lower != 0 {
		b = appendOption(b, " -y ", r.Lower)
	}
	if r.Forward == Tunnel {
		b = r.Tunnel.appendOptions(b)
	}
	return b
}

// appendOption appends an option with a number.
func appendOption(b []byte, option string, n uint32) []byte {
	return strconv.AppendUint(append(b, option...), uint64(n), 10)
}

// appendOptions appends the options of a tunnel.
func (t TunnelSettings) appendOptions(b []byte) []byte {
	switch t.Type {
	case TunnelGUE:
		b = appendOption(b, " --tun-type gue --tun-port ", uint32(t.Port))
	case TunnelGRE:
		b = append(b, " --tun-type gre"...)
	default:
		return append(b, " --tun-type ipip"...)
	}
	switch t.Flags {
	case TunnelChecksum:
		return append(b, " --tun-csum"...)
	case TunnelRemoteChecksum:
		return append(b, " --tun-remcsum"...)
	}
	return append(b, " --tun-nocsum"...)
}
