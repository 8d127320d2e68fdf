// Pods as a kind that a stream follows: what is asked and what is kept.
//
// Used by kube*.go. A stream asks for the pods of one PodQuery. Pure: no I/O, no
// log, no k8s.io packages.

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// podKind describes the streams of pods.
var podKind = &streamKind{
	stream: "pods", item: "pod",
	api: "api/v1", resource: "pods", object: "Pod", fields: []string{"spec", "status"},
	rights: "install/rbac.yaml",
	new:    func() object { return new(podObject) },
	keys:   func(q *ClusterQuery) []streamKey { return podKeys(q, false) },
	save:   func(c *Cluster, line func(query, item any)) { savePods(c, false, line) },
	load:   loadPods,
}

// podKeys are the keys of q that ask for pods, or those that ask for the endpoints of
// Services.
func podKeys(q *ClusterQuery, endpoints bool) (keys []streamKey) {
	for _, p := range q.Pods {
		if (p.Service != "") == endpoints {
			keys = append(keys, streamKey{p})
		}
	}
	return keys
}

// savePods is streamKind.save for pods, or for the endpoints of Services.
func savePods(c *Cluster, endpoints bool, line func(query, item any)) {
	for query, pods := range c.Pods {
		if (query.Service != "") != endpoints {
			continue
		}
		line(query, nil)
		for _, p := range pods {
			line(nil, p)
		}
	}
}

// loadPods is streamKind.load for both.
func loadPods(c *Cluster, query *json.Decoder) (func(*json.Decoder) error, error) {
	var q PodQuery
	err := query.Decode(&q)
	c.Pods[q] = []*Pod{}
	return func(item *json.Decoder) error {
		p := new(Pod)
		if err := item.Decode(p); err != nil {
			return err
		}
		noNames := p.PortNames == nil && q.Service == ""
		if slices.ContainsFunc(p.Addresses, func(a netip.Addr) bool { return !plainAddress(a) }) || !noNames && len(p.PortNames) != len(p.Ports) {
			return errMalformed
		}
		c.Pods[q] = append(c.Pods[q], p)
		return nil
	}, err
}

func (q PodQuery) kind() *streamKind {
	if q.Service != "" {
		return sliceKind
	}
	return podKind
}

func (q PodQuery) scope() scope { return scope{namespace: q.Namespace, selector: q.Selector} }

func (q PodQuery) collect() collection {
	if q.Service != "" {
		return newSliceCollection(q)
	}
	return &podCollection{PodQuery: q, strings: interner{}}
}

func (q PodQuery) copyKnown(to, from *Cluster) bool {
	pods, known := from.Pods[q]
	if known {
		to.Pods[q] = pods
		to.setInstead(q, from.Instead[q])
	}
	return known
}

// copyServed takes the pods of any query that selects the same: an edit of what else
// is asked of them confirms no removal.
func (q PodQuery) copyServed(to, from *Cluster) bool {
	if q.copyKnown(to, from) {
		return true
	}
	for other, pods := range from.Pods {
		if other.Namespace == q.Namespace && other.Selector == q.Selector && other.Service == q.Service {
			to.Pods[q] = pods
			return true
		}
	}
	return false
}

// podCollection is a collection.
type podCollection struct {
	PodQuery
	strings interner
	kept    []*Pod // when complete: in order, each once
	instead string // of a list without pods: Cluster.Instead
}

func (l *podCollection) add(o object) error {
	if !l.scope().covers(o.meta()) {
		return nil
	}
	if len(l.kept) == maxObjects {
		return errTooMany
	}
	l.kept = append(l.kept, o.(*podObject).pod(l.PodQuery, l.strings))
	return nil
}

func (l *podCollection) complete() {
	slices.Reverse(l.kept)
	stableBy(l.kept, comparePods)
	l.kept = slices.Clip(slices.CompactFunc(l.kept, func(a, b *Pod) bool { return comparePods(a, b) == 0 }))
}

func (l *podCollection) apply(o object, deleted bool) {
	if !l.scope().covers(o.meta()) {
		return
	}
	now := o.(*podObject).pod(l.PodQuery, l.strings)
	at, found := slices.BinarySearchFunc(l.kept, now, comparePods)
	if found {
		now.recallWeight(l.kept[at])
	}
	if deleted && !found || !deleted && found && samePod(l.kept[at], now) {
		return
	}
	after := at
	if found {
		after++
	}
	next := make([]*Pod, 0, len(l.kept)+1) // the pods are shared with what has been stored
	next = append(next, l.kept[:at]...)
	if !deleted {
		next = append(next, now)
		l.instead = "" // once there are none again, it is of another time
	}
	l.kept = append(next, l.kept[after:]...)
}

// recall takes from before, what is known now, what a new list does not have: the last
// weights of pods whose annotations are unusable.
func (l *podCollection) recall(before *Cluster) {
	for was, is := range merged(before.Pods[l.PodQuery], l.kept, comparePodRefs) {
		if was != nil && is != nil && *was != *is {
			(*is).recallWeight(*was)
		}
	}
}

func (l *podCollection) storedIn(c *Cluster) bool {
	pods, known := c.Pods[l.PodQuery]
	return known && slices.EqualFunc(pods, l.kept, samePod) && (len(l.kept) > 0 || c.Instead[l.PodQuery] == l.instead)
}

func (l *podCollection) store(c *Cluster) {
	c.Pods[l.PodQuery] = l.kept
	delete(c.Instead, l.PodQuery)
	if len(l.kept) == 0 {
		c.setInstead(l.PodQuery, l.instead)
	}
}

func (c *Cluster) setInstead(q PodQuery, text string) {
	if text == "" {
		return
	}
	if c.Instead == nil {
		c.Instead = make(map[PodQuery]string)
	}
	c.Instead[q] = text
}

func (l *podCollection) len() int { return len(l.kept) }

func (l *podCollection) missing(before *Cluster) loss {
	return vanished(before.Pods[l.PodQuery], l.kept)
}

// vanished counts the pods that served before, and those of them that are missing
// now. A pod that terminates or is not ready any more is not missing: that is how
// pods leave. Both are in comparePods order.
func vanished(before, now []*Pod) (l loss) {
	for was, is := range merged(before, now, comparePodRefs) {
		if was == nil || !(*was).serves() {
			continue
		}
		l.served++
		if is == nil {
			l.gone++
		}
	}
	return l
}

// samePod reports whether nothing that is kept of a pod differs.
func samePod(a, b *Pod) bool {
	return a == b || a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name && a.Node == b.Node && a.Zone == b.Zone &&
		a.HostNetwork == b.HostNetwork && a.ByPort == b.ByPort && slices.Equal(a.Bound, b.Bound) && a.Ready == b.Ready && a.Terminating == b.Terminating &&
		a.Weight == b.Weight && a.LastWeight == b.LastWeight && a.OtherAddress == b.OtherAddress && a.Named == b.Named && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Ports, b.Ports) && slices.Equal(a.PortNames, b.PortNames)
}

// podObject is a Pod as the API writes it.
type podObject struct {
	objectMeta
	Spec struct {
		NodeName    string      `json:"nodeName"`
		HostNetwork bool        `json:"hostNetwork"`
		Containers  []container `json:"containers"`
		// Native sidecars are among these (KEP-753).
		InitContainers []container `json:"initContainers"`
	} `json:"spec"`
	Status struct {
		Phase      string `json:"phase"`
		HostIP     string `json:"hostIP"`
		HostIPs    []ip   `json:"hostIPs"`
		PodIP      string `json:"podIP"`
		PodIPs     []ip   `json:"podIPs"`
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

// container is a container of a pod.
type container struct {
	RestartPolicy string          `json:"restartPolicy"` // "Always" makes an init container a sidecar
	Ports         []containerPort `json:"ports"`
}

// containerPort is a port that a container declares.
type containerPort struct {
	Name          string `json:"name"`
	ContainerPort int    `json:"containerPort"`
	HostPort      int    `json:"hostPort"`
	HostIP        string `json:"hostIP"`   // of the node, at which HostPort is open; "" = all
	Protocol      string `json:"protocol"` // TCP when absent
}

// ip is an element of a pod's hostIPs and podIPs.
type ip struct {
	IP string `json:"ip"`
}

func (o *podObject) check() error {
	return cmp.Or(o.objectMeta.check(), checkName("node name", o.Spec.NodeName))
}

// whole implements object. The phase comes after all of the status that is read, but for
// the addresses of the pod.
func (o *podObject) whole() error {
	if o.Status.Phase == "" {
		return fmt.Errorf("%w: no status.phase; the file may be cut short", errMalformed)
	}
	return nil
}

// pod returns what is kept of o, a Pod.
func (o *podObject) pod(q PodQuery, names interner) *Pod {
	p := &Pod{
		UID:         o.Metadata.UID,
		Namespace:   names.intern(o.Metadata.Namespace),
		Name:        o.Metadata.Name,
		Node:        names.intern(o.Spec.NodeName),
		HostNetwork: o.Spec.HostNetwork,
		Terminating: o.Metadata.DeletionTimestamp != nil || o.Status.Phase == "Succeeded" || o.Status.Phase == "Failed",
	}
	if q.Annotation != "" {
		if text, has := o.Metadata.Annotations[q.Annotation]; has {
			p.Weight = cmp.Or(keptWeight(text, names), " ")
		}
	}
	if q.Ports {
		p.Ports, p.PortNames, p.Bound = o.ports(names)
	}
	p.ByPort = q.HostPorts && !p.HostNetwork && len(p.Ports) > 0
	var ofNode int
	p.Addresses, ofNode = o.addresses(p.ByPort)
	if text, has := o.Metadata.Annotations[addressAnnotation]; has {
		p.Named, p.OtherAddress = preferAddresses(p.Addresses[:ofNode], shorten(text, quotedText))
	}
	for _, c := range o.Status.Conditions {
		if c.Type == "Ready" {
			p.Ready = c.Status == "True"
		}
	}
	return p
}

// maxPortName is the length of the longest name of a port (IANA_SVC_NAME, RFC 6335).
const maxPortName = 15

// ports are the ports at which o, a Pod, says it can be reached on its node: at all
// of the node's addresses, with their names, and at one of them. On hostNetwork a hostIP
// means nothing. A port that is declared twice has the first of its names in the order of
// the alphabet.
func (o *podObject) ports(intern interner) (ports []Port, names []string, bound []Port) {
	var all []declaredPort
	sidecars := slices.DeleteFunc(o.Spec.InitContainers, func(c container) bool { return c.RestartPolicy != "Always" })
	for _, c := range append(o.Spec.Containers, sidecars...) {
		for _, cp := range c.Ports {
			n := cp.HostPort
			if n == 0 && o.Spec.HostNetwork {
				n = cp.ContainerPort
			}
			protocol, known := protocolNamed(cp.Protocol)
			if !known || n < 1 || n > 65535 {
				continue
			}
			p := Port{uint16(n), protocol}
			if a, err := netip.ParseAddr(cp.HostIP); cp.HostIP == "" || o.Spec.HostNetwork || err == nil && a.IsUnspecified() {
				all = append(all, declaredPort{p, intern.intern(shorten(cp.Name, maxPortName))})
			} else {
				bound = append(bound, p)
			}
		}
	}
	ports, names = sortedPorts(all, func(a, b declaredPort) bool { return a.Port == b.Port })
	sortBy(bound, Port.Compare)
	return ports, names, slices.Clone(slices.Compact(bound)) // which has no room for more
}

// declaredPort is a port with its name in the cluster.
type declaredPort struct {
	Port
	name string
}

// sortedPorts are the ports of all, in order, and their names: one of those that same takes
// for the same. Neither has room for more.
func sortedPorts(all []declaredPort, same func(a, b declaredPort) bool) (ports []Port, names []string) {
	sortBy(all, func(a, b declaredPort) int { return cmp.Or(a.Compare(b.Port), cmp.Compare(a.name, b.name)) })
	all = slices.CompactFunc(all, same)
	if len(all) == 0 {
		return nil, nil
	}
	ports, names = make([]Port, len(all)), make([]string, len(all))
	for i, p := range all {
		ports[i], names[i] = p.Port, p.name
	}
	return ports, names
}

// protocolNamed is the protocol of a port as the API names it; "" is TCP.
func protocolNamed(text string) (p Protocol, ok bool) {
	switch text {
	case "", "TCP":
		return TCP, true
	case "UDP":
		return UDP, true
	case "SCTP":
		return SCTP, true
	}
	return 0, false
}

// addresses are the node's, of which there are ofNode, then the pod's own if the node's
// are not all that is wanted, each once. The plural fields contain the singular ones if
// they exist. What is no address is left out: a pod without an address is better than a
// pod with a wrong one.
func (o *podObject) addresses(node bool) (addrs []netip.Addr, ofNode int) {
	s := &o.Status
	if len(s.HostIPs) == 0 {
		s.HostIPs = []ip{{s.HostIP}}
	}
	if len(s.PodIPs) == 0 {
		s.PodIPs = []ip{{s.PodIP}}
	}
	if node {
		s.PodIPs = nil
	}
	for i, list := range [][]ip{s.HostIPs, s.PodIPs} {
		if i == 1 {
			ofNode = len(addrs)
		}
		for _, each := range list {
			if len(addrs) == maxAddresses {
				break
			}
			a, err := netip.ParseAddr(each.IP)
			if a.Zone() != "" {
				continue // it names a device of the node, in any number of bytes
			}
			if a = a.Unmap(); err == nil && !a.IsUnspecified() && !slices.Contains(addrs, a) {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs, ofNode
}

// keptWeight is what is kept of an annotation that names a weight. A number has
// five digits at most; of anything else the beginning is kept for the warning.
func keptWeight(text string, names interner) string {
	// The clone leaves the white space around it behind.
	text = strings.Clone(shorten(strings.TrimSpace(text), quotedText))
	if len(text) <= len("65535") && strings.Trim(text, "0123456789") == "" {
		return names.intern(text)
	}
	return text
}
