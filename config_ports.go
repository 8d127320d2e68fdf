// The lists of ports and networks of a [[vip]].
//
// Used by config_vip.go. Each function reads one list, and says what is wrong with its
// elements. No I/O.

package main

import (
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxPorts is how many ports all lists of a file have at the most, those of ranges
// counted one by one.
const maxPorts = 100_000

// readPorts reads a list of ports and sorts it. seen are the ports that the list
// may not repeat, with their paths; those of the list are added.
func readPorts(v value, seen map[string]string) []Port {
	const rule = `a port from 1 to 65535 such as "80/tcp", "53/udp", "5000/sctp" or 80, or a range such as "8000-8010/tcp"`
	var ports []Port
	v.each(`a list of ports such as ["80/tcp", "53/udp"]`, func(v value) {
		var all portRange
		parsed(&all, rule, parsePortRange)(v.asText()) // 80 is short for "80/tcp"
		for n := range all.len() {
			if v.r.ports++; v.r.ports > maxPorts {
				if v.r.ports == maxPorts+1 {
					v.mistake("the file has more than %d ports, want fewer", maxPorts)
				}
				return
			}
			port := Port{all.first.Number + uint16(n), all.first.Protocol}
			if !v.isFirst(seen, port.String(), "port", "port") {
				return
			}
			ports = append(ports, port)
		}
	})
	sortBy(ports, Port.Compare)
	return ports
}

// readNetworks reads a list of networks.
func readNetworks(v value) (networks []netip.Prefix) {
	seen := map[string]string{}
	v.each(`a list of networks such as ["10.9.0.0/24"]`, func(v value) {
		var network netip.Prefix
		parsed(&network, `a network such as "10.9.0.0/24" or "2001:db8:9::/64"`, parseNetwork)(v)
		if network.IsValid() && v.isFirst(seen, network.String(), "network", "network") {
			networks = append(networks, network)
		}
	})
	return networks
}

// allNamespaces is the element of namespaces that means all of the cluster.
const allNamespaces = "*"

// maxNamespaces bounds the streams of one VIP.
const maxNamespaces = 64

// readNamespaces reads namespaces, in order. All of the cluster are [""].
func readNamespaces(v value) (names []string) {
	seen := map[string]string{}
	v.each(`a list of namespaces such as ["web", "shop"], or ["*"] for all`, func(v value) {
		var name string
		parsed(&name, `a namespace: `+dnsLabelRule+`, or "*" for all`, func(s string) (string, error) {
			if s == allNamespaces || dnsLabels.MatchString(s) {
				return s, nil
			}
			return "", errMisfit
		})(v)
		if name != "" && v.isFirst(seen, name, "namespace", "namespace") {
			names = append(names, name)
		}
	})
	list, isList := v.list()
	switch {
	case !isList || v.wrong():
		return nil
	case len(list) == 0:
		v.mistake(`empty, want namespaces such as ["web", "shop"], or ["*"] for all`)
		return nil
	case len(list) > maxNamespaces:
		v.mistake(`has %d namespaces, want at most %d, or ["*"] for all`, len(list), maxNamespaces)
		return nil
	case !slices.Contains(names, allNamespaces):
		slices.Sort(names)
		return names
	case len(names) > 1:
		v.mistake(`has "*", which is all namespaces, want no other beside it`)
	}
	return []string{""}
}

// portPatterns are names of ports, in which "*" is any text.
var portPatterns = regexp.MustCompile(`^[-a-z0-9*]{1,15}$`)

// readPortNames reads port_names.
func readPortNames(v value) (names []string) {
	seen := map[string]string{}
	v.each(`a list of names of ports such as ["http", "https"]`, func(v value) {
		var name string
		parsed(&name, `a port's name such as "https" or "web*": at most 15 lower-case letters, digits, "-" and "*"`, matching(portPatterns))(v)
		if name != "" && v.isFirst(seen, name, "name", "name") {
			names = append(names, name)
		}
	})
	if len(names) == 0 && !v.wrong() {
		v.mistake(`is empty, want at least one name such as "https", or "*" for all`)
	}
	return names
}

// gatewayNames are a namespace and the name of an object in it.
var gatewayNames = regexp.MustCompile(strings.TrimSuffix(dnsLabels.String(), "$") + "/" + strings.TrimPrefix(objectNames.String(), "^"))

// maxGateways is how many Gateways a VIP names at most: each is a watch.
const maxGateways = 64

// readGateways reads gateways.
func readGateways(v value) (gateways []GatewayQuery) {
	seen := map[string]string{}
	if list, _ := v.list(); len(list) > maxGateways {
		v.mistake("has %d elements, want at most %d", len(list), maxGateways)
		return nil
	}
	v.each(`a list of Gateways such as ["envoy-gateway-system/edge"]`, func(v value) {
		var text string
		parsed(&text, `a Gateway's "NAMESPACE/NAME"`, matching(gatewayNames))(v)
		if text != "" && v.isFirst(seen, text, "Gateway", "Gateway") {
			namespace, name, _ := strings.Cut(text, "/")
			gateways = append(gateways, GatewayQuery{Namespace: namespace, Name: name})
		}
	})
	return gateways
}

// gatewayKeys are the keys that choose Gateways. A VIP has one of them.
var gatewayKeys = []string{"gateways", "gateway_selector", "gateway_class"}

// checkGateways checks the keys about Gateways of the VIP at v, whose ports come from them
// or do not. by is what selects them when they have no names.
func checkGateways(v value, vip *VIP, by GatewayQuery, from bool) {
	var chosen value
	for _, key := range gatewayKeys {
		at := v.child(key)
		switch {
		case v.blank(key):
		case !from && !v.child("ports_from").wrong():
			at.mistake(`is for ports_from = "gateways" alone, want that or no %s`, key)
		case chosen.path != "":
			at.mistake("is there beside %s (line %d), want one of the two", chosen.path, chosen.line())
		default:
			chosen = at
		}
	}
	switch {
	case !from:
		vip.Gateways, vip.ListenerSets = nil, false
		return
	case chosen.path == "":
		v.child("ports_from").mistake(`is "gateways", want one of %s`, strings.Join(gatewayKeys, ", "))
	case !v.has("listener_sets"):
		vip.ListenerSets = true
	}
	if len(vip.Gateways) == 0 { // or they have a mistake, and count as some
		vip.Gateways = []GatewayQuery{by}
	}
}

// readReserved reads a list of port numbers and sorts it.
func readReserved(v value) []uint16 {
	ports, seen := []uint16{}, map[string]string{}
	v.each(`a list of port numbers such as [80, 443, 8181], or [] for none`, func(v value) {
		var port uint16
		integer(&port, 1, math.MaxUint16)(v)
		if port != 0 && v.isFirst(seen, strconv.Itoa(int(port)), "port", "port") {
			ports = append(ports, port)
		}
	})
	slices.Sort(ports)
	return ports
}

// readGroups reads groups and sorts them, so that their order in the file has no
// effect. The path of each port is added to grouped.
func readGroups(v value, grouped map[string]string) [][]Port {
	var groups [][]Port
	v.each(`a list of lists of ports such as [["80/tcp", "443/tcp"]]`, func(v value) {
		group := readPorts(v, grouped)
		if len(group) < 2 && !v.wrong() {
			v.mistake(`has fewer than two ports, want at least two such as ["80/tcp", "443/tcp"]`)
		}
		groups = append(groups, group)
	})
	sortBy(groups, func(a, b []Port) int { return slices.CompareFunc(a, b, Port.Compare) })
	return groups
}

// mayHave reports whether p is a port of the VIP at v or can become one.
func (v *VIP) mayHave(p Port, at value) bool {
	_, listed := slices.BinarySearchFunc(v.Ports, p, Port.Compare)
	return listed || v.mayGet(p.Protocol, at)
}

// mayGet reports whether the VIP at v can get a port of protocol p from the cluster.
func (v *VIP) mayGet(p Protocol, at value) bool {
	return v.PortsFromPods || len(v.Gateways) > 0 && p != SCTP || !at.blank("service") || !at.blank(p.String()+"_services")
}

// mayHaveAny reports whether the VIP at v has a port of protocol p or can get one.
func (v *VIP) mayHaveAny(p Protocol, at value) bool {
	return v.mayGet(p, at) || at.child("ports").wrong() ||
		slices.ContainsFunc(v.Ports, func(port Port) bool { return port.Protocol == p })
}
