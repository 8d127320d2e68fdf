// [[vip]] → VIP.
//
// Used by cmd*.go. The keys of the tables and their ranges are in the function that reads
// the table (those of [vip.health] in config_health.go), the defaults in defaultVIP. Rules
// about two keys are checked at the end of vip, after all keys are read. No I/O.

package main

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// sticksByItself reports whether v's scheduler alone sends all of a client's
// connections, whatever their port, to one real server.
func (v *VIP) sticksByItself() bool {
	s := findScheduler(v.Scheduler)
	return s.sticks && v.Flags&s.spreads == 0
}

// defaultPersistence is that of an empty [vip.persistence].
func defaultPersistence() Persistence {
	return Persistence{Timeout: 5 * time.Minute, Prefix4: 32, Prefix6: 128}
}

// SetScheduler exchanges v's scheduler and what depends on it: the old one's flags
// are dropped, and a slow start that the new one does not support; the new one's
// default flags are set, and groups for which the old one was enough get the
// default persistence.
func (v *VIP) SetScheduler(name string) {
	if name == v.Scheduler {
		return
	}
	s := findScheduler(name)
	v.Scheduler = name
	v.Flags = v.Flags&FlagOnePacket | s.fallback
	if !s.byWeight {
		v.SlowStart = 0
	}
	if len(v.Groups) > 0 && v.Persistence.Timeout == 0 && !v.sticksByItself() {
		v.Persistence = defaultPersistence()
	}
}

// gueDefaultPort is the UDP port of GUE (gue in the registry of IANA).
const gueDefaultPort = 6080

// defaultVIP is a VIP without name, addresses and ports, with all other defaults.
// The caller decides on the default selector: a VIP with static real servers has
// none.
func defaultVIP() VIP {
	return VIP{
		Scheduler:        "rr",
		Announce:         AnnounceNone,
		Weight:           1,
		WeightAnnotation: "lvs-controller/weight",
		Pods:             PodQuery{Namespace: "ingress-nginx"},
		Forward:          DirectRoute,
		Drain:            Drain{Timeout: defaultDrainTimeout},
		RemovalBrake:     50,
		NeighbourCheck:   true,
		ReservedPorts:    slices.Sorted(maps.Keys(ingressPorts)),
	}
}

// announceNames are the values of announce.
func announceNames() []string {
	var names []string
	for _, m := range announceMethods {
		names = append(names, string(m.name))
	}
	return names
}

// owner is the VIP that has an address.
type owner struct {
	name string // of the VIP
	path string // of the address
}

// placedAddr is a server's address and the path of its key.
type placedAddr struct {
	netip.Addr
	path string
	role string // "real" or "sorry"
}

// maxVIPs is the largest number of [[vip]]: reading so many, and finding their
// mistakes, takes a short time.
const maxVIPs = 10_000

// vips reads every [[vip]], then compares their addresses with each other's real
// servers.
func (r *configReader) vips(v value) []VIP {
	if list, _ := v.list(); len(list) > maxVIPs {
		v.mistake("has %d elements, want at most %d", len(list), maxVIPs)
		return nil
	}
	var vips []VIP
	v.each("[[vip]] in double brackets, one for each VIP", func(v value) { vips = append(vips, r.vip(v)) })
	r.checkShared(vips)
	for _, server := range r.servers {
		if vip, ok := r.addresses[server.Addr]; ok {
			value{r: &r.tomlFile, path: server.path}.mistake("%s is an address of VIP %q (line %d), want the %s server's own address",
				server.Addr, vip.name, r.lines.line(vip.path), server.role)
		}
	}
	return vips
}

// vip reads one [[vip]].
func (r *configReader) vip(v value) VIP {
	vip := defaultVIP()
	portsFrom, by := "config", GatewayQuery{}
	grouped := map[string]string{} // port in groups → path
	var service ConfigMapName
	r.applyPreset(v)
	isTable := v.table(
		setting{"name", func(v value) { r.vipName(v, &vip) }},
		setting{"addresses", func(v value) { r.vipAddresses(v, &vip) }},
		setting{"ingress", func(value) {}}, // applyPreset has read it
		setting{"scheduler", oneOf(&vip.Scheduler, schedulerNames(func(scheduler) bool { return true })...)},
		setting{"flags", func(flags value) { readFlags(flags, v, &vip) }},
		setting{"ports", func(v value) { vip.Ports = readPorts(v, map[string]string{}) }},
		setting{"ports_from", oneOf(&portsFrom, "config", "pods", "gateways")},
		setting{"gateways", func(v value) { vip.Gateways = readGateways(v) }},
		setting{"gateway_selector", parsed(&by.Selector, `a label selector of Gateways such as "lvs=edge", or "" for none`, parsePodSelector)},
		setting{"gateway_class", parsed(&by.Class, `the name of a GatewayClass such as "envoy", or "" for none`, matching(classNames))},
		setting{"listener_sets", boolean(&vip.ListenerSets)},
		setting{"exclude_ports", func(v value) { vip.ExcludePorts = readPorts(v, map[string]string{}) }},
		setting{"port_names", func(v value) { vip.PortNames = readPortNames(v) }},
		setting{"follow_nodes", boolean(&vip.FollowNodes)},
		setting{"host_ports", boolean(&vip.HostPorts)},
		setting{"node_networks", func(v value) { vip.NodeNetworks = readNetworks(v) }},
		setting{"reserved_ports", func(v value) { vip.ReservedPorts = readReserved(v) }},
		setting{"groups", func(v value) { vip.Groups = readGroups(v, grouped) }},
		setting{"one_mark", boolean(&vip.OneMark)},
		setting{"notrack", boolean(&vip.NoTrack)},
		setting{"persistence", func(v value) { readPersistence(v, &vip.Persistence) }},
		setting{"announce", oneOf((*string)(&vip.Announce), announceNames()...)},
		setting{"weight", integer(&vip.Weight, 1, math.MaxUint16)},
		setting{"weight_annotation", parsed(&vip.WeightAnnotation, `an annotation's "NAME" or "PREFIX/NAME" such as "lvs-controller/weight", or "" for none`, parseAnnotation)},
		setting{"upper_threshold", integer(&vip.Upper, 0, math.MaxUint32)},
		setting{"lower_threshold", integer(&vip.Lower, 0, math.MaxUint32-1)},
		setting{"removal_brake", integer(&vip.RemovalBrake, 0, 100)},
		setting{"slow_start", wholeSeconds(&vip.SlowStart, 0, time.Hour)},
		setting{"forward", meaningOf(&vip.Forward, []string{"dr", "tunnel"}, DirectRoute, Tunnel)},
		setting{"tunnel", func(v value) { readTunnel(v, &vip.Tunnel) }},
		setting{"namespace", parsed(&vip.Pods.Namespace, "a namespace: "+dnsLabelRule, matching(dnsLabels))},
		setting{"namespaces", func(v value) { vip.Namespaces = readNamespaces(v) }},
		setting{"selector", parsed(&vip.Pods.Selector, `a label selector such as "app.kubernetes.io/name=ingress-nginx,tier in (edge)"`, parsePodSelector)},
		// These take their default namespace from the one above.
		setting{"service", serviceName(&service, &vip)},
		setting{"tcp_services", configMapName(&vip.TCPServices, &vip)},
		setting{"udp_services", configMapName(&vip.UDPServices, &vip)},
		// These compare with the addresses and the weight above, the second also
		// with the first.
		setting{"real_servers", func(v value) { r.realServers(v, &vip) }},
		setting{"sorry_server", func(sorry value) { r.sorryServers(sorry, v, &vip) }},
		setting{"neighbour_check", boolean(&vip.NeighbourCheck)},
		setting{"health", func(health value) { vip.Probes = readProbes(health, !v.blank("ingress")) }},
		setting{"drain", func(v value) { v.table(setting{"timeout", duration(&vip.Drain.Timeout, 0, 24*time.Hour)}) }},
	)
	if !isTable {
		return vip
	}
	if !v.has("name") {
		v.child("name").mistake(`missing, want a name for logs and metrics, such as name = "edge"`)
	}
	if v.blank("addresses") {
		v.child("addresses").mistake(`missing, want a list of at least one address, such as ["10.135.22.77"]`)
	}
	vip.PortsFromPods = portsFrom == "pods"
	checkGateways(v, &vip, by, portsFrom == "gateways")
	selectPods(v, &vip)
	if service != (ConfigMapName{}) {
		vip.Pods = vip.Pods.ofService(ServiceName(service))
		checkService(v, &vip)
	}
	checkPorts(v, &vip, grouped)
	checkSticking(v, &vip)
	checkWeights(v, &vip)
	checkTunnel(v, &vip)
	checkProbes(v, &vip)
	if r.peers {
		checkPeers(v, &vip)
	}
	return vip
}

// applyPreset gives the [[vip]] at v the keys of its ingress that it does not have.
func (r *configReader) applyPreset(v value) {
	table, _ := v.raw.(map[string]any)
	at := v.child("ingress")
	if at.raw == nil || at.raw == "" {
		return
	}
	name, isText := at.raw.(string)
	p := findPreset(name)
	if p == nil {
		near := nearest(name, presetNames())
		if isText && near != "" {
			at.mistake("is %s, did you mean %q?", describe(name), near)
		} else {
			at.misfit("one of " + strings.Join(presetNames(), ", "))
		}
		v.noMoreAboutPorts()
		return
	}
	lone := !chosen(table, gatewayKeys...)
	if p.portsFrom == "gateways" && lone && !v.has("ports_from") && !chosen(table, "ports", "tcp_services", "udp_services", "service") {
		at.mistake("is %q, whose ports are those of Gateways; want one of %s, or ports", name, strings.Join(gatewayKeys, ", "))
		v.noMoreAboutPorts()
	}
	fill := func(path string, table map[string]any, k presetKey) {
		if table[k.key] == nil {
			path := joinPath(path, k.key)
			table[k.key] = k.value
			r.lines[path], r.preset[path] = at.line(), name
		}
	}
	for _, k := range p.keys(table, lone) {
		fill(v.path, table, k)
		presetInner(joinPath(v.path, k.key), k, table[k.key], fill)
	}
	v.checkPreset(p, table, lone)
}

// checkPreset looks at what a [[vip]] with the keys of table means with those of p. lone: it
// chooses no Gateways.
func (v value) checkPreset(p *preset, table map[string]any, lone bool) {
	named, whole := namedGateways(table)
	if len(named) > 1 && p.gatewayLabel != "" && !chosen(table, "service") {
		v.child("gateways").warning("has %d Gateways, and the pods of each get the ports of all; want a [[vip]] for each, which may share the addresses", len(named))
	}
	if whole && !v.has("namespace") && !v.has("namespaces") && v.blank("service") && !v.child("ports_from").wrong() {
		v.child("namespace").mistake("missing, want it or namespaces, those of the Gateways: the pods of ingress = %q are there", p.name)
	}
	if p.note != "" && !(lone && chosen(table, "service")) && !v.child("ports_from").wrong() {
		v.child("ingress").warning("%s", p.note)
	}
}

// noMoreAboutPorts says that the [[vip]] at v has no ports because of a mistake that has been
// found: that other keys need some is none.
func (v value) noMoreAboutPorts() {
	for _, key := range []string{"ports_from", "health"} {
		v.r.wrong[joinPath(v.path, key)] = true
	}
}

// checkPeers refuses what would give a port of the VIP at v a service without a mark:
// there the packets of a peer are balanced again.
func checkPeers(v value, vip *VIP) {
	const needs = "peer_macs needs it: packets from a peer would be balanced again on a port without the VIP's mark"
	if !vip.OneMark {
		v.child("one_mark").mistake("is false, want true; " + needs)
	}
	if vip.PortsFromPods {
		v.child("ports_from").mistake(`is "pods", want "config"; ` + needs)
	}
	if vip.HostPorts {
		v.child("host_ports").mistake("is true, want false; " + needs)
	}
	if service := v.child("service"); vip.Pods.Service != "" {
		service.mistake(`is %q, want none; `+needs, vip.Pods.service())
	}
	if vip.Forward != DirectRoute {
		v.child("forward").mistake(`is "tunnel", want "dr"; peer_macs is for direct routing alone`)
	}
	if vip.Probes != nil && vip.Probes.Ports {
		v.child("health").child("ports").mistake("is true, want false; " + needs)
	}
}

// selectPods decides which pods the VIP at v selects when it has no selector. A key
// that names something of the cluster asks for pods; real_servers beside it add
// to them. A VIP of real_servers alone has no pods. A warning says so, because an
// operator may expect the default selector.
func selectPods(v value, vip *VIP) {
	selector := v.child("selector")
	switch {
	case !v.blank("service"): // whose endpoints are the real servers
	case v.has("selector"):
		if v.blank("selector") && v.blank("real_servers") {
			selector.mistake("empty, want a label selector, or real_servers that need no pods")
		}
	case len(vip.Gateways) > 0 && v.blank("real_servers"):
		selector.mistake(`missing, want the label selector of the Gateways' pods, such as "gateway.envoyproxy.io/owning-gateway-name=edge"`)
	case len(vip.Gateways) == 0 && (v.blank("real_servers") || v.has("namespace") || v.has("namespaces") || !v.blank("tcp_services") || !v.blank("udp_services") || vip.PortsFromPods || vip.HostPorts):
		vip.Pods.Selector = defaultSelector
	default:
		selector.warning(`missing beside real_servers (line %d), so that no pod is a real server; want selector = "" to say so, or a label selector`, v.child("real_servers").line())
	}
}

// selectPods gives VIP i the default selector if only for want of a key it selects no
// pods, which a warning says: a flag has given the namespace since.
func (c *Config) selectPods(i int) {
	path := fmt.Sprintf("vip[%d].selector", i)
	said := slices.IndexFunc(c.Warnings, func(w ConfigError) bool { return w.Key == path })
	if said >= 0 && len(c.VIPs[i].Gateways) == 0 {
		c.VIPs[i].Pods.Selector = defaultSelector
		c.Warnings = slices.Delete(c.Warnings, said, said+1)
	}
}

// vipName reads the name of a VIP and checks that no other has it.
func (r *configReader) vipName(v value, vip *VIP) {
	parsed(&vip.Name, "a name: "+vipNameRule, matching(vipNames))(v)
	if other, taken := r.names[vip.Name]; taken && vip.Name != "" {
		v.mistake("%q is also the name of the VIP in line %d, want each name once", vip.Name, r.lines.line(other))
		return
	}
	r.names[vip.Name] = v.path
}

// vipAddresses reads the addresses of a VIP and checks that it has each once. Other VIPs
// may share one, see checkShared.
func (r *configReader) vipAddresses(v value, vip *VIP) {
	v.each(`a list of addresses such as ["10.135.22.77", "2001:db8::77"]`, func(v value) {
		var addr netip.Addr
		parsed(&addr, unicast, parseUnicast)(v)
		if !addr.IsValid() {
			return
		}
		if slices.Contains(vip.Addresses, addr) {
			v.mistake("%s is already an address of this VIP, want each address once", addr)
			return
		}
		if _, taken := r.addresses[addr]; !taken {
			r.addresses[addr] = owner{vip.Name, v.path}
		}
		vip.Addresses = append(vip.Addresses, addr)
	})
}

// readFlags reads the flags of the VIP at table. The scheduler has been read
// before.
func readFlags(v, table value, vip *VIP) {
	var words []string
	for _, f := range serviceFlags {
		words = append(words, f.word)
	}
	seen := map[string]string{}
	v.each(`a list of flags such as ["sh-port"]`, func(v value) {
		var name string
		oneOf(&name, words...)(v)
		i := slices.Index(words, name)
		if i < 0 || !v.isFirst(seen, name, "flag", "flag") {
			return
		}
		vip.Flags |= serviceFlags[i].bit
		if only := serviceFlags[i].scheduler; only != "" && only != vip.Scheduler && !table.child("scheduler").wrong() {
			v.mistake("%s is a flag of scheduler %s alone, and the scheduler is %s; want the one or the other changed", name, only, vip.Scheduler)
		}
	})
}

// readPersistence reads [vip.persistence].
func readPersistence(v value, p *Persistence) {
	*p = defaultPersistence()
	v.table(
		setting{"timeout", wholeSeconds(&p.Timeout, time.Second, 24*time.Hour)},
		setting{"netmask", integer(&p.Prefix4, 1, 32)},
		setting{"prefix", integer(&p.Prefix6, 1, 128)},
		setting{"engine", parsed(&p.Engine, `"sip", or "" for none`, matching(engines))},
	)
}

// readTunnel reads [vip.tunnel].
func readTunnel(v value, t *TunnelSettings) {
	v.table(
		setting{"type", meaningOf(&t.Type, []string{"ipip", "gue", "gre"}, TunnelIPIP, TunnelGUE, TunnelGRE)},
		setting{"port", integer(&t.Port, 1, math.MaxUint16)},
		setting{"checksum", meaningOf(&t.Flags, []string{"none", "on", "remote"}, TunnelNoChecksum, TunnelChecksum, TunnelRemoteChecksum)},
	)
	if t.Type == TunnelGUE && !v.has("port") {
		t.Port = gueDefaultPort
	}
}

// checkPorts checks the keys that say which ports there are.
func checkPorts(v value, vip *VIP, grouped map[string]string) {
	if v.blank("ports") && v.blank("tcp_services") && v.blank("udp_services") && v.blank("service") && !vip.PortsFromPods && len(vip.Gateways) == 0 && !v.child("ports_from").wrong() {
		v.child("ports").mistake(`missing, want ports such as ["80/tcp", "443/tcp"], tcp_services, udp_services, service or ports_from = "pods"`)
	}
	checkPodPorts(v, vip)
	if v.child("ports").wrong() {
		return
	}
	for _, p := range slices.Concat(vip.Groups...) {
		if !vip.mayHave(p, v) {
			value{r: v.r, path: grouped[p.String()]}.mistake("%s is no port of this VIP, want it in ports too", p)
		}
	}
}

// checkNoPods refuses what is for pods in the VIP at v, which has none.
func checkNoPods(v value, vip *VIP) {
	if vip.Namespaces != nil {
		v.child("namespaces").mistake("is for pods, and there are none; want a selector")
	}
	if len(vip.NodeNetworks) > 0 {
		v.child("node_networks").mistake("is for the nodes of pods, and there are none; want a selector")
	}
}

// checkPodPorts checks the keys that are about pods' ports and addresses alone.
func checkPodPorts(v value, vip *VIP) {
	if vip.PortsFromPods && v.has("selector") && v.blank("selector") && !v.blank("real_servers") {
		v.child("ports_from").mistake(`is "pods", and there are none; want a selector`)
	}
	if !vip.PortsFromPods && len(vip.Gateways) == 0 && v.blank("service") && !v.blank("exclude_ports") && !v.child("ports_from").wrong() {
		v.child("exclude_ports").mistake(`is for ports_from = "pods", "gateways" or service alone, want one of them or no exclude_ports`)
	}
	if v.has("selector") && v.blank("selector") {
		checkNoPods(v, vip)
	}
	if all := len(vip.PortNames) == 1 && vip.PortNames[0] == "*"; !all && !vip.PortsFromPods && v.has("port_names") && !v.child("ports_from").wrong() {
		v.child("port_names").mistake(`is for ports_from = "pods" alone, want that or no port_names`)
	}
}

// checkSticking checks the keys that keep a client on its real server, and fills
// in the defaults of flags and persistence.
func checkSticking(v value, vip *VIP) {
	const wantUDP = `want a port such as "53/udp", udp_services or ports_from = "pods"`
	flags, groups, scheduler := v.child("flags"), v.child("groups"), findScheduler(vip.Scheduler)
	if !v.has("flags") {
		vip.Flags = scheduler.fallback
	}
	if vip.Flags&FlagOnePacket != 0 && !vip.mayHaveAny(UDP, v) {
		flags.mistake("ops is for UDP alone, " + wantUDP)
	}
	if vip.Persistence.Engine != "" && !vip.mayHaveAny(UDP, v) {
		v.child("persistence").child("engine").mistake("is %q, which is for UDP alone, "+wantUDP, vip.Persistence.Engine)
	}
	if len(vip.Groups) > 0 && vip.Flags&scheduler.spreads != 0 && !flags.wrong() {
		flags.mistake("%s excludes groups (line %d), whose ports it sends to different real servers; want one of the two", scheduler.word(scheduler.spreads), groups.line())
	}
	if len(vip.Groups) > 0 && !v.has("persistence") && !vip.sticksByItself() {
		vip.Persistence = defaultPersistence()
	}
}

// checkWeights checks thresholds and slow start.
func checkWeights(v value, vip *VIP) {
	lower, upper, slow := v.child("lower_threshold"), v.child("upper_threshold"), v.child("slow_start")
	switch {
	case vip.Lower == 0 || upper.wrong():
	case vip.Upper == 0:
		lower.mistake("is %d without an upper_threshold, want that too", vip.Lower)
	case vip.Lower >= vip.Upper:
		lower.mistake("is %d, want less than upper_threshold, %d (line %d)", vip.Lower, vip.Upper, upper.line())
	}
	if vip.SlowStart == 0 {
		return
	}
	if !findScheduler(vip.Scheduler).byWeight && !v.child("scheduler").wrong() {
		byWeight := schedulerNames(func(s scheduler) bool { return s.byWeight })
		slow.mistake("scheduler %s does not share by weight, want one of %s", vip.Scheduler, strings.Join(byWeight, ", "))
	}
	if vip.Weight < slowSteps && !v.child("weight").wrong() {
		slow.mistake("a weight of %d cannot rise in %d steps, want weight = %d or more", vip.Weight, slowSteps, slowSteps)
	}
}

// checkTunnel checks [vip.tunnel] against forward and its own type.
func checkTunnel(v value, vip *VIP) {
	tunnel := v.child("tunnel")
	port, checksum := tunnel.child("port"), tunnel.child("checksum")
	switch {
	case !v.has("tunnel") || tunnel.wrong() || v.child("forward").wrong():
	case vip.Forward != Tunnel:
		tunnel.mistake(`is for forward = "tunnel" alone, want that or no [vip.tunnel]`)
	default:
		if tunnel.has("port") && vip.Tunnel.Type != TunnelGUE {
			port.mistake(`is for type = "gue" alone, want that or no port`)
		}
		if tunnel.has("checksum") && vip.Tunnel.Type == TunnelIPIP {
			checksum.mistake(`is for type = "gue" or "gre", want one of them or no checksum`)
		}
		if vip.Tunnel.Type == TunnelGRE && vip.Tunnel.Flags == TunnelRemoteChecksum {
			checksum.mistake(`is "remote", which is for type = "gue" alone; want one of none, on`)
		}
	}
}

// realServers reads the static real servers of a VIP.
func (r *configReader) realServers(v value, vip *VIP) {
	seen := map[string]string{}
	families := familiesOf(vip)
	v.each(`a list such as [{ address = "10.135.22.20", weight = 1 }]`, func(v value) {
		server := StaticServer{Weight: vip.Weight}
		isTable := v.table(
			setting{"address", parsed(&server.Address, unicast, parseUnicast)},
			setting{"weight", integer(&server.Weight, 0, math.MaxUint16)},
		)
		address := v.child("address")
		if isTable && !v.has("address") {
			address.mistake("missing, want the real server's address")
		}
		if address.fits(server.Address, families) && address.isFirst(seen, server.Address.String(), "address", "real server") {
			r.servers = append(r.servers, placedAddr{server.Address, address.path, "real"})
			vip.RealServers = append(vip.RealServers, server)
		}
	})
}

// sorryServers reads one address, or a list with one of each family, for the
// VIP at table. The real servers have been read before.
func (r *configReader) sorryServers(v, table value, vip *VIP) {
	families, real := familiesOf(vip), map[netip.Addr]bool{}
	for _, server := range vip.RealServers {
		real[server.Address] = true
	}
	read := func(v value) {
		var addr netip.Addr
		parsed(&addr, unicast, parseUnicast)(v)
		switch {
		case !v.fits(addr, families):
		case slices.ContainsFunc(vip.Sorry, func(a netip.Addr) bool { return a.Is4() == addr.Is4() }):
			v.mistake("%s is a second %s address, want one of each family at most", addr, familyName(addr.Is6()))
		case real[addr]:
			v.mistake("%s is one of real_servers (line %d), want a server that is not", addr, table.child("real_servers").line())
		default:
			r.servers = append(r.servers, placedAddr{addr, v.path, "sorry"})
			vip.Sorry = append(vip.Sorry, addr)
		}
	}
	switch v.raw.(type) {
	case string:
		if v.raw != "" {
			read(v)
		}
	default:
		v.each(unicast+", or a list with one of each family", read)
	}
}

// fits reports whether addr, a server's address that was read from v, is valid and
// of one of the VIP's families, if it has any.
func (v value) fits(addr netip.Addr, families map[bool]bool) bool {
	wrong := addr.IsValid() && len(families) > 0 && !families[addr.Is4()]
	if wrong {
		v.mistake("%s is %s, want the family of one of the VIP's addresses", addr, familyName(addr.Is6()))
	}
	return addr.IsValid() && !wrong
}

// configMapName reads "name" in the VIP's namespace, "ns/name", or "" for
// none.
func configMapName(dst *ConfigMapName, vip *VIP) func(value) {
	return parsed(dst, `a ConfigMap's "NAME" or "NAMESPACE/NAME", or "" for none`, func(s string) (ConfigMapName, error) {
		return objectIn(vip.Pods.Namespace, s, objectNames)
	})
}
