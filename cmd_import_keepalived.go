// keepalived.conf → services of the import: virtual servers and their groups.
//
// Used by cmd_import.go. The meaning and the default of each keyword are those of
// keepalived 2.2.7 (check_parser.c, check_data.c and keepalived.conf(5)). It reads what
// readConf has read, and does no I/O itself.

package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Defaults of keepalived.
const (
	keepalivedScheduler   = "wlc"
	keepalivedPersistence = 360 // seconds
)

// importKeepalived reads the keepalived.conf at path, or in for "-".
func importKeepalived(path, id string, in io.Reader) (*imported, error) {
	r, err := readConf(path, id, in)
	if err != nil {
		return nil, err
	}
	return r.imported(path), nil
}

// imported is what the statements of the file mean.
func (r *confReader) imported(source string) *imported {
	k := keepalivedReader{groups: make(map[string]*confStatement)}
	k.source, k.remarks, k.keeps = source, r.remarks, make(map[netip.Addr]string)
	if source == "-" {
		k.source = "standard input"
	}
	for _, s := range r.top.block {
		if s.word(0) == "virtual_server_group" {
			k.groups[s.word(1)] = s
		}
	}
	for _, s := range r.top.block {
		k.topLevel(s)
	}
	for _, kind := range k.kinds {
		k.remarks = append(k.remarks, remark{at: kind.first, note: true, text: kind.word + ": keepalived keeps it, config.toml has nothing of it" + kind.more()})
	}
	for name, s := range k.groups {
		if !k.used[name] {
			k.remarks = append(k.remarks, remark{at: s.at, text: "virtual_server_group " + quote(name) + ": no virtual_server has it"})
		}
	}
	return &k.imported
}

// keepalivedReader collects what a keepalived.conf has.
type keepalivedReader struct {
	imported
	groups map[string]*confStatement
	used   map[string]bool // groups
	kinds  []keptKind
	size   int  // of all services, with their real servers, checkers and comments
	full   bool // there is no room for more services
}

// keptKind is a keyword of the top level that is keepalived's alone.
type keptKind struct {
	word  string
	first *importPlace
	n     int
}

// more says how many others there are.
func (k keptKind) more() string {
	if k.n == 1 {
		return ""
	}
	return fmt.Sprintf(" (%d blocks)", k.n)
}

// globalSettings are the keywords of global_defs that concern IPVS, and why they are not
// taken.
var globalSettings = confReasons{
	{"lvs_sync_daemon", "keepalived keeps it; [sync] of config.toml does the same without keepalived, and only one of the two may"},
	{"lvs_timeouts", "keepalived sets them; [timeouts] of config.toml can do it in its place"},
	{"lvs_flush", "lvs-controller flushes nothing"},
	{"lvs_flush_on_stop", "lvs-controller flushes nothing, and the kernel goes on when it ends"},
	{"lvs_notify_fifo", "lvs-controller has metrics, a log and /status.json in its place"},
	{"net_namespace_ipvs", "lvs-controller programs the network namespace that it runs in"},
}

// topLevel takes a statement of the top level.
func (k *keepalivedReader) topLevel(s *confStatement) {
	word := s.word(0)
	switch word {
	case "virtual_server_group":
		return
	case "virtual_server":
		k.virtualServer(s)
		return
	case "vrrp_instance":
		for _, b := range s.block {
			if w := b.word(0); w != "virtual_ipaddress" && w != "virtual_ipaddress_excluded" {
				continue
			}
			for _, a := range b.block {
				if addr, ok := confAddress(a.word(0)); ok && len(k.keeps) < mostServices {
					k.keeps[addr] = s.word(1)
				}
			}
		}
	case "global_defs":
		for _, g := range s.block {
			if why, known := globalSettings.of(g.word(0)); known {
				k.remarks = append(k.remarks, remark{at: g.at, text: g.word(0) + ": " + why})
			}
		}
	case "SSL":
		k.remarks = append(k.remarks, remark{at: s.at, text: "SSL: probes by HTTPS verify no certificate and show none"})
		return
	}
	word = shorten(word, quotedText)
	i := slices.IndexFunc(k.kinds, func(o keptKind) bool { return o.word == word })
	if i < 0 && len(k.kinds) < mostKinds {
		i = len(k.kinds)
		k.kinds = append(k.kinds, keptKind{word: word, first: s.at})
	}
	if i >= 0 {
		k.kinds[i].n++
	}
}

// virtualServer takes a virtual_server: the services that it makes.
func (k *keepalivedReader) virtualServer(s *confStatement) {
	v := virtualServer{base: importService{at: s.at, what: "virtual_server " + shorten(strings.Join(s.words[1:], " "), quotedText)}}
	v.read(s)
	add := func(at *importPlace, name, what string, key ServiceKey, why string) {
		k.size += 1 + len(v.base.servers) + len(v.base.checks) + v.remarks
		if !k.full && (len(k.services) == mostServices || k.size > mostRows) {
			k.full = true
			k.remarks = append(k.remarks, remark{at: s.at, text: fmt.Sprintf("there are more than %d virtual services, or %d real servers of them; the others are left out", mostServices, mostRows)})
		}
		if k.full {
			return
		}
		service := v.service(key)
		service.at, service.name, service.what = at, name, what
		if at != s.at {
			service.what = what + " of " + v.base.what
		}
		if why != "" {
			service.refuse(why)
		}
		k.services = append(k.services, service)
	}
	switch s.word(1) {
	case "fwmark":
		add(s.at, "", v.base.what, ServiceKey{}, ownMarks)
	case "group":
		g := k.groups[s.word(2)]
		if g == nil {
			add(s.at, "", v.base.what, ServiceKey{}, "there is no such virtual_server_group")
			return
		}
		if k.used == nil {
			k.used = make(map[string]bool)
		}
		k.used[s.word(2)] = true
		for _, entry := range g.block {
			what := shorten(strings.Join(entry.words, " "), quotedText)
			if entry.word(0) == "fwmark" {
				add(entry.at, s.word(2), what, ServiceKey{}, ownMarks)
				continue
			}
			first, n, err := confAddresses(entry.word(0))
			port, why := confPort(entry.word(1))
			if err != nil {
				n, why = 1, err.Error()
			}
			for a := first; n > 0 && !k.full; n-- {
				add(entry.at, s.word(2), what, ServiceKey{Address: a, Protocol: v.protocol, Port: port}, why)
				a = a.Next()
			}
		}
	default:
		a, ok := confAddress(s.word(1))
		port, why := confPort(s.word(2))
		if !ok {
			why = "this is no address, and no group or fwmark"
		}
		add(s.at, "", v.base.what, ServiceKey{Address: a, Protocol: v.protocol, Port: port}, why)
	}
}

// confAddress reads an address; keepalived passes over a prefix length behind it.
func confAddress(text string) (a netip.Addr, ok bool) {
	text, _, _ = strings.Cut(text, "/")
	a, err := netip.ParseAddr(text)
	a = a.Unmap()
	return a, err == nil && a.Zone() == ""
}

// confPort reads the port of a virtual service, or says why it cannot be had.
func confPort(text string) (uint16, string) {
	if strings.Trim(text, "0") == "" {
		return 0, noPort
	}
	port, err := ParsePortNumber(text)
	if err != nil {
		return 0, err.Error()
	}
	return port, ""
}

// confAddresses reads an address, or a range of them: 10.0.0.1-9, 10.0.0.250-10.0.1.9 or
// 10.0.0.8/29. n is how many there are, at most mostServices and one.
func confAddresses(text string) (first netip.Addr, n int, err error) {
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			return first, 0, errors.New(quote(text) + " is no network")
		}
		n = mostServices + 1
		if bits := p.Addr().BitLen() - p.Bits(); bits < 15 {
			n = min(n, 1<<bits)
		}
		return p.Addr(), n, nil
	}
	begin, end, isRange := strings.Cut(text, "-")
	if first, err = netip.ParseAddr(begin); err != nil || !plainAddress(first) {
		return first, 0, errors.New(quote(text) + " is no address")
	}
	if !isRange {
		return first, 1, nil
	}
	last, err := netip.ParseAddr(end)
	if err != nil { // only the end of the address
		bytes := first.As16()
		base, size := 10, 8
		if first.Is6() {
			base, size = 16, 16
		}
		number, err := strconv.ParseUint(end, base, size)
		if err != nil {
			return first, 0, errors.New(quote(text) + " is no range of addresses")
		}
		bytes[15] = byte(number)
		if first.Is6() {
			bytes[14] = byte(number >> 8)
		}
		last = netip.AddrFrom16(bytes)
		if first.Is4() {
			last = last.Unmap()
		}
	}
	if last.BitLen() != first.BitLen() || last.Less(first) {
		return first, 0, errors.New(quote(text) + " is a range that ends before it begins")
	}
	n = 1
	for a := first; a != last && n <= mostServices; a = a.Next() {
		n++
	}
	return first, n, nil
}

// virtualServer is the block of a virtual_server.
type virtualServer struct {
	base     importService
	protocol Protocol
	forward  confForward
	mask     string // persistence_granularity
	host     string // virtualhost
	timing   checkTiming
	weight   uint32 // of real servers without one
	remarks  int    // of base and of its real servers
}

// confForward is a forwarding method as keepalived names it.
type confForward struct {
	method ForwardingMethod
	tunnel TunnelSettings
	wrong  string // why it is not taken
}

// basics reads what the other keywords of the block depend on, wherever it is: a flag may
// be above the scheduler that it belongs to.
func (v *virtualServer) basics(s *confStatement) {
	b := &v.base
	b.Scheduler, v.protocol, v.timing, v.weight = keepalivedScheduler, UDP, keepalivedTiming, 1
	v.forward = confForward{wrong: "it has no lvs_method, and NAT is keepalived's default; config.toml has direct routing and tunnels"}
	protocol := s.word(1) == "fwmark"
	for _, c := range s.block {
		switch word := c.word(0); {
		case word == "lb_algo" || word == "lvs_sched":
			b.Scheduler = shorten(c.word(1), quotedText)
		case word == "protocol":
			protocol = true
			var err error
			if v.protocol, err = parseProtocol(strings.ToLower(c.word(1))); err != nil {
				b.refuse(err.Error())
			}
		case word == "lb_kind" || word == "lvs_method":
			v.forward = readForward(c.words[1:])
		case word == "virtualhost":
			v.host = c.word(1)
		case v.timing.read(b, c):
		}
	}
	if !protocol {
		b.remarks = append(b.remarks, remark{at: s.at, note: true, text: "it has no protocol, and UDP is keepalived's default"})
	}
}

// read reads the block of s.
func (v *virtualServer) read(s *confStatement) {
	b := &v.base
	v.basics(s)
	for _, c := range s.block {
		if !v.setting(c) {
			b.remark(c, unknownWordHere)
		}
	}
	if v.mask != "" && b.Persistence == 0 {
		b.Persistence = keepalivedPersistence
	}
	if b.Persistence > 0 {
		b.Flags |= FlagPersistent
	}
	if v.protocol != UDP && b.Flags&FlagOnePacket != 0 {
		b.Flags &^= FlagOnePacket
		b.remark(s, "ops is for UDP alone, keepalived passes it over too")
	}
	for _, c := range s.block {
		if c.word(0) == "real_server" {
			v.realServer(c)
		}
	}
	v.sorryServer(s)
	v.remarks += len(b.remarks)
}

// serverSettings are the keywords of a virtual_server and a real_server that have no
// counterpart, and why.
var serverSettings = confReasons{
	{"alpha", readyAtOnce},
	{"omega", "no program is started, so none at the end"},
	{"quorum_up", startsNothing},
	{"quorum_down", startsNothing},
	{"notify_up", startsNothing},
	{"notify_down", startsNothing},
	{"smtp_alert", "no mail is sent; docs/alerts.md has rules for alerts"},
	{"ha_suspend", "probes run on both directors at all times"},
	{"warmup", spreadOut},
	{"snmp_name", "there is no SNMP; metrics have the VIP's name"},
	{"log_all_failures", loggedOnce},
}

// unmatched notes a keyword without a counterpart in s, and reports whether c is one.
func (s *importService) unmatched(c *confStatement) bool {
	word := c.word(0)
	why, known := serverSettings.of(word)
	if !known {
		return false
	}
	if !changesNothing(c) {
		s.remark(c, why)
	}
	return true
}

// setting takes a keyword of the block, but for the servers, and reports whether it is
// known.
func (v *virtualServer) setting(c *confStatement) bool {
	b := &v.base
	switch word := c.word(0); word {
	case "lb_algo", "lvs_sched", "protocol", "lb_kind", "lvs_method", "virtualhost", "delay_loop", "connect_timeout", "retry",
		"real_server", "sorry_server", "sorry_server_lvs_method":
	case "inhibit_on_failure", "ip_family": // a real server that fails has weight 0 in any case
	case "sorry_server_inhibit":
		b.remark(c, "the sorry server is a row of the kernel's table only while it serves")
	case "hashed": // keepalived passes it over
	case "quorum", "hysteresis":
		b.quorum.read(b, c)
	case "weight":
		n, err := strconv.ParseUint(c.word(1), 10, 16)
		if v.weight = uint32(n); err != nil || n == 0 {
			v.weight = 1
			b.remark(c, quote(c.word(1))+" is no number from 1 to 65535")
		}
	case "delay_before_retry":
		b.remark(c, afterFailure)
	case "ops":
		b.Flags |= FlagOnePacket
	case "flag-1", "flag-2", "flag-3":
		b.Flags |= schedulerBits[word[len(word)-1]-'1']
	case "sh-port", "sh-fallback", "mh-port", "mh-fallback":
		bit := flagOfListing(b.Scheduler, word)
		if b.Flags |= bit; bit == 0 {
			b.remark(c, "it is no flag of scheduler "+b.Scheduler+", keepalived passes it over too")
		}
	case "persistence_engine":
		b.Engine = shorten(c.word(1), quotedText)
	case "persistence_timeout":
		n, err := strconv.ParseUint(c.word(1), 10, 32)
		if b.Persistence = uint32(n); c.word(1) == "" {
			b.Persistence = keepalivedPersistence
		} else if err != nil {
			b.refuse("persistence_timeout " + quote(c.word(1)) + " is no number of seconds")
		}
	case "persistence_granularity":
		v.mask = c.word(1)
	default:
		return b.unmatched(c)
	}
	return true
}

// readForward reads the words behind lvs_method.
func readForward(words []string) (f confForward) {
	if len(words) == 0 {
		words = []string{""}
	}
	switch words[0] {
	case "DR":
		return confForward{method: DirectRoute}
	case "NAT":
		return confForward{wrong: byNAT}
	case "TUN":
	default:
		return confForward{wrong: "its lvs_method " + quote(words[0]) + " is not known"}
	}
	f.method = Tunnel
	for i := 1; i < len(words); i++ {
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		switch words[i] {
		case "type":
			at := slices.Index(tunnelTypes[:], next)
			if at < 0 {
				return confForward{wrong: "its tunnel type " + quote(next) + " is not known"}
			}
			f.tunnel.Type = TunnelType(at)
			i++
		case "port":
			port, err := ParsePortNumber(next)
			if err != nil {
				return confForward{wrong: "its tunnel: " + err.Error()}
			}
			f.tunnel.Port = port
			i++
		case "nocsum", "csum", "remcsum":
			f.tunnel.Flags = map[string]TunnelFlags{"nocsum": TunnelNoChecksum, "csum": TunnelChecksum, "remcsum": TunnelRemoteChecksum}[words[i]]
		default:
			return confForward{wrong: "its tunnel has " + quote(words[i]) + ", which is not known"}
		}
	}
	return f
}

// server reads the address and port of s, a real_server or sorry_server. The port is
// compared with the virtual service's later.
func (v *virtualServer) server(s *confStatement, f confForward) importServer {
	server := importServer{at: s.at, RealServer: RealServer{Weight: 1, Forward: f.method, Tunnel: f.tunnel.effective(f.method)}, refused: f.wrong}
	var ok bool
	if server.Address, ok = confAddress(s.word(1)); !ok {
		server.refused = quote(s.word(1)) + " is no address"
	}
	if port := s.word(2); strings.Trim(port, "0") != "" {
		var err error
		if server.Port, err = ParsePortNumber(port); err != nil {
			server.refused = err.Error()
		}
	}
	return server
}

// realServer takes a real_server with its checkers.
func (v *virtualServer) realServer(s *confStatement) {
	f, timing, host := v.forward, v.timing, v.host
	for _, c := range s.block { // what the checkers have from it
		switch word := c.word(0); {
		case word == "lvs_method" || word == "lb_kind":
			f = readForward(c.words[1:])
		case word == "virtualhost":
			host = c.word(1)
		case timing.read(&v.base, c):
		}
	}
	server := v.server(s, f)
	server.Weight = v.weight
	settings := importService{} // what is not taken
	number := func(c *confStatement, most uint64) uint32 {
		n, err := strconv.ParseUint(c.word(1), 10, 32)
		if err != nil || n > most {
			server.refused = "its " + c.word(0) + " " + quote(c.word(1)) + " is no number from 0 to " + strconv.FormatUint(most, 10)
		}
		return uint32(n)
	}
	for _, c := range s.block {
		switch word := c.word(0); word {
		case "lvs_method", "lb_kind", "virtualhost", "delay_loop", "connect_timeout", "retry", "inhibit_on_failure":
		case "delay_before_retry":
			settings.remark(c, afterFailure)
		case "weight":
			server.Weight = number(c, math.MaxUint16)
		case "uthreshold":
			server.Upper = number(c, math.MaxUint32)
		case "lthreshold":
			server.Lower = number(c, math.MaxUint32)
		default:
			check := checkReader{server: server.RealServer, timing: timing, host: host, remarks: &settings}
			if !settings.unmatched(c) && !check.read(c) {
				settings.remark(c, unknownWordHere)
			}
			v.base.checks = append(v.base.checks, check.found...)
		}
	}
	server.remarks = settings.remarks
	v.remarks += len(server.remarks)
	v.base.servers = append(v.base.servers, server)
}

// sorryServer takes the sorry server of s, if it has one. Its weight is always 1.
func (v *virtualServer) sorryServer(s *confStatement) {
	f := v.forward
	for _, c := range s.block {
		if c.word(0) == "sorry_server_lvs_method" {
			f = readForward(c.words[1:])
		}
	}
	for _, c := range s.block {
		if c.word(0) == "sorry_server" {
			v.base.sorry = []importServer{v.server(c, f)} // the last one counts
		}
	}
}

// ownPort notes a port that is not that of the virtual service key: without NAT keepalived
// programs the virtual service's, whatever the file says.
func (r *importServer) ownPort(word string, key ServiceKey) {
	if r.Port != 0 && r.Port != key.Port && r.refused == "" && key.Port != 0 {
		r.remarks = append(slices.Clip(r.remarks), remark{at: r.at, note: true, text: word + " " + r.Name() + ": keepalived passes its port over, and has the virtual service's: without NAT it is the same"})
	}
	r.Port = 0
}

// service is the virtual service with this key.
func (v *virtualServer) service(key ServiceKey) *importService {
	s := v.base
	s.ServiceKey = key
	s.servers, s.sorry, s.remarks = slices.Clone(s.servers), slices.Clone(s.sorry), slices.Clip(s.remarks)
	if v.mask != "" && key.Address.IsValid() {
		var err error
		if s.Netmask, err = netmaskOfListing(v.mask, key.Address.Is6()); err != nil {
			s.refuse("persistence_granularity " + quote(v.mask) + " is no netmask of " + familyName(key.Address.Is6()))
		}
	}
	for i := range s.servers {
		s.servers[i].ownPort("real_server", key)
	}
	for i := range s.sorry {
		s.sorry[i].ownPort("sorry_server", key)
	}
	return &s
}
