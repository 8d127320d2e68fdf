// [[vip]] ingress = "NAME": the presets of ingress controllers.
//
// Used by cmd_init.go. A preset is a line of the table presets, and docs/ingresses.md has a
// section for it. Before the keys of a [[vip]] are read, each key that it does not have gets
// the value of the preset, as if it were written: all rules then see one text. No I/O.

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// preset is what ingress = "NAME" means: what the public chart of an ingress controller renders
// when its pods are on hostNetwork. testdata/presets has a pod of each, with the source.
type preset struct {
	name string
	// namespace of the pods; "" = that of their Gateway, which gateways names.
	namespace string
	selector  string // of the pods
	// gatewayLabel is a label of the pods whose value is the name of their Gateway; "" =
	// the pods serve all Gateways.
	gatewayLabel string
	// namespaceLabel is one whose value is the namespace of their Gateway; "" = they are in
	// that namespace themselves.
	namespaceLabel string
	// portsFrom is the source of ports: "config" (then ports has them), "pods" or "gateways".
	portsFrom string
	ports     []string
	portNames []string // of portsFrom = "pods": those that clients are meant to reach
	hostPorts bool     // pods with a hostPort count too
	reserved  []int64  // reserved_ports; nil = the default
	// probePort and probePath are those of [vip.health.http]. A port of 0 means ports = true:
	// the controller has no such port on the node's address.
	probePort int64
	probePath string
	drain     string // [vip.drain] timeout; "" = the default
	// lone replaces namespace and selector when the VIP has ports in place of Gateways.
	lone *preset
	// note is what `check` says of each VIP with it; "" = nothing.
	note string
	// tcp and udp are the ConfigMaps that `init` proposes; "" = it has none.
	tcp, udp string
}

// defaultSelector finds the pods of ingress-nginx as its manifests and its
// Helm chart label them, without the default backend. It is in canonical
// order.
const defaultSelector = "app.kubernetes.io/component=controller,app.kubernetes.io/name=ingress-nginx"

// maxSelector is the length in bytes of the longest selector. It becomes part of
// a URL, and a long one takes long to match.
const maxSelector = 4096

// parsePodSelector accepts a label selector, and "" for no pods.
func parsePodSelector(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if len(s) > maxSelector {
		return "", fmt.Errorf("longer than %d bytes", maxSelector)
	}
	canonical, err := canonicalSelector(s)
	if err == nil && canonical == "" { // only blanks: neither "" nor a selector
		err = errMisfit
	}
	return canonical, err
}

// presets are the values of ingress, in the order of docs/ingresses.md. A new one is a line
// here, a section there, and a pod in testdata/presets.
var presets = []preset{
	{name: "ingress-nginx", namespace: "ingress-nginx", selector: defaultSelector,
		portsFrom: "config", ports: []string{"80/tcp", "443/tcp"}, probePort: 10254, probePath: "/healthz",
		tcp: "tcp-services", udp: "udp-services"},
	{name: "traefik", namespace: "traefik", selector: "app.kubernetes.io/name=traefik",
		portsFrom: "pods", portNames: []string{"web", "websecure", "websecure-http3"}, probePort: 8080, probePath: "/ping"},
	{name: "haproxy", namespace: "haproxy-controller", selector: "app.kubernetes.io/name=kubernetes-ingress",
		portsFrom: "pods", portNames: []string{"http", "https", "quic"}, reserved: []int64{80, 443, 1024, 1042, 6060}, probePort: 1042, probePath: "/healthz"},
	{name: "contour", namespace: "projectcontour", selector: "app.kubernetes.io/component=envoy,app.kubernetes.io/name=contour",
		portsFrom: "pods", portNames: []string{"http", "https"}, probePort: 8002, probePath: "/ready"},
	{name: "nginx", namespace: "nginx-ingress", selector: "app.kubernetes.io/name=nginx-ingress",
		portsFrom: "pods", portNames: []string{"http", "https"}, probePort: 8081, probePath: "/nginx-ready"},
	{name: "haproxy-ingress", namespace: "ingress-controller", selector: "app.kubernetes.io/name=haproxy-ingress",
		portsFrom: "pods", portNames: []string{"http", "https", "*-tcp"}, reserved: []int64{80, 443, 1936, 9101, 10253, 10254}, probePort: 10253, probePath: "/healthz"},
	{name: "kong", namespace: "kong", selector: "app.kubernetes.io/component=app,app.kubernetes.io/name=kong",
		portsFrom: "pods", portNames: []string{"proxy", "proxy-tls", "stream*"}, probePort: 8100, probePath: "/status/ready"},
	{name: "envoy-gateway", namespace: "envoy-gateway-system", selector: "app.kubernetes.io/component=proxy,app.kubernetes.io/managed-by=envoy-gateway,app.kubernetes.io/name=envoy",
		gatewayLabel: "gateway.envoyproxy.io/owning-gateway-name", namespaceLabel: "gateway.envoyproxy.io/owning-gateway-namespace", portsFrom: "gateways", probePort: 19003, probePath: "/ready", drain: "6m",
		note: "Envoy Gateway listens on the port + 10000 for ports below 1024, want useListenerPortAsContainerPort: true in its EnvoyProxy (docs/ingresses.md)"},
	{name: "istio", selector: "gateway.networking.k8s.io/gateway-class-name=istio",
		gatewayLabel: "gateway.networking.k8s.io/gateway-name", portsFrom: "gateways", probePort: 15021, probePath: "/healthz/ready",
		lone: &preset{namespace: "istio-ingress", selector: "istio=ingress"}},
	{name: "cilium", namespace: "kube-system", selector: "k8s-app=cilium-envoy", portsFrom: "gateways"},
	{name: "nginx-gateway-fabric", selector: "app.kubernetes.io/instance=ngf,app.kubernetes.io/managed-by=ngf-nginx",
		gatewayLabel: "gateway.networking.k8s.io/gateway-name", portsFrom: "gateways", hostPorts: true},
}

// presetNames are the values of ingress.
func presetNames() (names []string) {
	for _, p := range presets {
		names = append(names, p.name)
	}
	return names
}

// findPreset returns the preset with this name, nil when there is none.
func findPreset(name string) *preset {
	if i := slices.IndexFunc(presets, func(p preset) bool { return p.name == name }); i >= 0 {
		return &presets[i]
	}
	return nil
}

// presetKey is a key of [[vip]] and its value, as the decoder makes it.
type presetKey struct {
	key   string
	value any
}

// chosen reports whether table has one of these keys with a value that is not empty.
func chosen(table map[string]any, keys ...string) bool {
	return slices.ContainsFunc(keys, func(key string) bool {
		list, isList := table[key].([]any)
		return table[key] != nil && table[key] != "" && !(isList && len(list) == 0)
	})
}

// keys are the keys of p for the [[vip]] with the keys of table. lone: it chooses no
// Gateways. A key that belongs to another source of ports or real servers than the one that
// is written is not among them.
func (p *preset) keys(table map[string]any, lone bool) (keys []presetKey) {
	add := func(key string, value any) { keys = append(keys, presetKey{key, value}) }
	from, service := p.portsFrom, chosen(table, "service")
	if from == "gateways" && lone {
		from = "config" // ports has them
	}
	if written, isText := table["ports_from"].(string); isText {
		from = written
	}
	switch namespaces := p.podNamespaces(table, lone); {
	case len(namespaces) == 1:
		add("namespace", namespaces[0])
	case len(namespaces) > 1 && !service && !chosen(table, "namespace"):
		add("namespaces", listOf(namespaces))
	}
	if !service {
		add("selector", p.podSelector(table, lone))
	}
	if from == p.portsFrom && !(service && lone) { // the Service has the ports
		if from != "config" {
			add("ports_from", from)
		}
		if p.ports != nil {
			add("ports", listOf(p.ports))
		}
		if p.portNames != nil {
			add("port_names", listOf(p.portNames))
		}
	}
	if p.hostPorts && !service {
		add("host_ports", true)
	}
	if p.reserved != nil {
		add("reserved_ports", listOf(p.reserved))
	}
	add("health", p.probes(table, from))
	if p.drain != "" {
		add("drain", map[string]any{"timeout": p.drain})
	}
	return keys
}

// presetFill gives the table at path a key that it does not have.
type presetFill func(path string, table map[string]any, k presetKey)

// presetInner gives fill the keys that a written table, the value of k's key at path, does not
// have: the probes if it has none and is not empty, the port and path of each HTTP probe, and
// the timeout of a drain.
func presetInner(path string, k presetKey, written any, fill presetFill) {
	table, isTable := written.(map[string]any)
	preset, hasTable := k.value.(map[string]any)
	if !isTable || !hasTable || k.key == "health" && len(table) == 0 {
		return
	}
	if k.key == "health" && probed(table) {
		http, _ := preset["http"].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(http)) {
			fillEach(joinPath(path, "http"), table["http"], presetKey{key, http[key]}, fill)
		}
		return
	}
	for _, key := range slices.Sorted(maps.Keys(preset)) {
		fill(path, table, presetKey{key, preset[key]})
	}
}

// probed reports whether the table health has a probe.
func probed(health map[string]any) bool {
	for _, kind := range probeKinds {
		if health[kind.key] != nil {
			return true
		}
	}
	return false
}

// fillEach fills the table at path, or each of the tables of a list.
func fillEach(path string, raw any, k presetKey, fill presetFill) {
	switch raw := raw.(type) {
	case map[string]any:
		fill(path, raw, k)
	case []map[string]any:
		for i := range raw {
			fill(indexPath(path, i), raw[i], k)
		}
	case []any:
		for i := range raw {
			if table, isTable := raw[i].(map[string]any); isTable {
				fill(indexPath(path, i), table, k)
			}
		}
	}
}

// probes is the table health for the [[vip]] with the keys of table.
func (p *preset) probes(table map[string]any, from string) map[string]any {
	probes := map[string]any{"ports": true}
	if p.probePort != 0 {
		probes = map[string]any{"http": map[string]any{"port": p.probePort, "path": p.probePath}}
	}
	if table["forward"] != "tunnel" && p.mayHaveTCP(table, from) {
		probes["datapath"] = true // a node that lacks the VIP loses clients, and its own probe passes
	}
	return probes
}

// mayHaveTCP reports whether a [[vip]] with the keys of table may get TCP ports from this source.
func (p *preset) mayHaveTCP(table map[string]any, from string) bool {
	ports, isList := table["ports"].([]any)
	return from != "config" || !isList || chosen(table, "tcp_services", "service") || slices.ContainsFunc(ports, func(port any) bool {
		text, isText := port.(string)
		return !isText || !strings.HasSuffix(text, "/udp") && !strings.HasSuffix(text, "/sctp")
	})
}

// listOf is list as the decoder makes it.
func listOf[T any](list []T) (all []any) {
	for _, e := range list {
		all = append(all, e)
	}
	return all
}

// namedGateways are the Gateways that a [[vip]] with the keys of table names. whole is false
// when some are malformed: those are left out, and readGateways finds the mistakes.
func namedGateways(table map[string]any) (names []GatewayQuery, whole bool) {
	list, _ := table["gateways"].([]any)
	for _, raw := range list {
		text, _ := raw.(string)
		if namespace, name, _ := strings.Cut(text, "/"); dnsLabels.MatchString(namespace) && objectNames.MatchString(name) {
			names = append(names, GatewayQuery{Namespace: namespace, Name: name})
		}
	}
	return names, len(names) == len(list)
}

// podNamespaces are the namespaces of p's pods for a [[vip]] with the keys of table, in order,
// none when nothing says them.
func (p *preset) podNamespaces(table map[string]any, lone bool) (namespaces []string) {
	switch {
	case p.namespace != "":
		return []string{p.namespace}
	case lone && p.lone != nil:
		return []string{p.lone.namespace}
	}
	named, _ := namedGateways(table)
	for _, g := range named {
		namespaces = append(namespaces, g.Namespace)
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces)
}

// podSelector selects p's pods for a [[vip]] with the keys of table: those of the Gateways that
// it names alone, if a label of theirs names their Gateway.
func (p *preset) podSelector(table map[string]any, lone bool) string {
	if lone && p.lone != nil {
		return p.lone.selector
	}
	named, _ := namedGateways(table)
	if p.gatewayLabel == "" || len(named) == 0 {
		return p.selector
	}
	var names, namespaces []string
	for _, g := range named {
		names, namespaces = append(names, g.Name), append(namespaces, g.Namespace)
	}
	text := p.selector + "," + p.gatewayLabel + " in (" + strings.Join(names, ",") + ")"
	if p.namespaceLabel != "" {
		text += "," + p.namespaceLabel + " in (" + strings.Join(namespaces, ",") + ")"
	}
	selector, err := parsePodSelector(text)
	if err != nil { // a name that is too long for the value of a label
		return p.selector
	}
	return selector
}

// presetAt is the preset that the value at path comes from, "" when it is written. from has the
// preset of each key that comes from one.
func presetAt(from map[string]string, path string) string {
	for ; path != ""; path = parentPath(path) {
		if name := from[path]; name != "" {
			return name
		}
	}
	return ""
}
