// EndpointSlices as a kind that a stream follows: the endpoints of one Service, each as a
// pod.
//
// Used by kube_kinds.go and kube_pods.go. A stream asks for the EndpointSlices of one
// Service, and what it keeps has the form of pods: what is decided about pods is decided
// about endpoints without a difference. The fields and their meaning: KEP-752 and
// k8s.io/api/discovery/v1. Pure: no I/O, no log, no k8s.io packages.

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// sliceKind describes the streams of the endpoints of one Service each.
var sliceKind = &streamKind{
	stream: "endpointslices", item: "endpoint",
	api: "apis/discovery.k8s.io/v1", resource: "endpointslices", object: "EndpointSlice", fields: []string{"addressType", "endpoints", "ports"},
	rights: "install/rbac-service.yaml",
	new:    func() object { return new(sliceObject) },
	keys:   func(q *ClusterQuery) []streamKey { return podKeys(q, true) },
	save:   func(c *Cluster, line func(query, item any)) { savePods(c, true, line) },
	load:   func(c *Cluster, query *json.Decoder) (func(*json.Decoder) error, error) { return loadPods(c, query) },
}

// sliceCollection is a collection. Several slices may have one pod: of a pod with two
// families each slice has one address, and while an endpoint moves from one slice to
// another both have it.
type sliceCollection struct {
	query   PodQuery
	strings interner
	slices  map[string][]*Pod // by the name of the slice: its endpoints, in comparePieces order; none is empty
	pieces  int               // of all slices together
	kept    []*Pod            // when complete: the pods, in order, each once
}

func newSliceCollection(q PodQuery) *sliceCollection {
	return &sliceCollection{query: q, strings: interner{}, slices: make(map[string][]*Pod)}
}

func (l *sliceCollection) kind() *streamKind { return sliceKind }

func (l *sliceCollection) add(o object) error {
	if l.asksFor(o) {
		l.set(o.meta().Metadata.Name, o.(*sliceObject).pods(l.strings))
	}
	if l.pieces > maxObjects {
		return errTooMany
	}
	return nil
}

// asksFor reports whether o is of the Service.
func (l *sliceCollection) asksFor(o object) bool {
	m := &o.meta().Metadata
	return m.Namespace == l.query.Namespace && m.Labels[serviceLabel] == l.query.Service
}

// set replaces the endpoints of the slice with this name.
func (l *sliceCollection) set(name string, pods []*Pod) {
	l.pieces += len(pods) - len(l.slices[name])
	if len(pods) == 0 {
		delete(l.slices, name)
	} else {
		l.slices[strings.Clone(name)] = pods
	}
}

func (l *sliceCollection) complete() {
	all := make([]*Pod, 0, l.pieces)
	for _, pods := range l.slices {
		all = append(all, pods...)
	}
	l.kept = slices.Clip(joinAll(all))
}

// apply looks at the pods alone that the event is about.
func (l *sliceCollection) apply(o object, deleted bool) {
	if o.meta().Metadata.Namespace != l.query.Namespace {
		return
	}
	name := o.meta().Metadata.Name
	var now []*Pod
	if !deleted && l.asksFor(o) {
		now = o.(*sliceObject).pods(l.strings)
	}
	before := l.slices[name]
	if len(before) > 0 && len(now) > 0 && slices.Equal(now[0].Ports, before[0].Ports) && slices.Equal(now[0].PortNames, before[0].PortNames) {
		for _, p := range now {
			p.Ports, p.PortNames = before[0].Ports, before[0].PortNames // one copy for all
		}
	}
	changed := changedPods(before, now)
	l.set(name, now)
	if len(changed) > 0 {
		l.refresh(changed)
	}
}

// changedPods are the names of the pods of which a slice says something else now than
// before. The others are those of before in now too: one copy, here and in kept.
func changedPods(before, now []*Pod) map[string]bool {
	changed := make(map[string]bool)
	for was, is := range merged(before, now, comparePieces) {
		switch {
		case was != nil && is != nil && samePod(*was, *is):
			*is = *was
		case was != nil:
			changed[(*was).Name] = true
		}
		if was == nil || is != nil && *is != *was {
			changed[(*is).Name] = true
		}
	}
	return changed
}

// refresh makes the changed pods again from what all slices say of them.
func (l *sliceCollection) refresh(changed map[string]bool) {
	var pieces []*Pod
	for _, pods := range l.slices {
		for _, p := range pods {
			if changed[p.Name] {
				pieces = append(pieces, p)
			}
		}
	}
	fresh := joinAll(pieces)
	next := make([]*Pod, 0, len(l.kept)+len(fresh)) // the pods are shared with what has been stored
	for was, is := range merged(l.kept, fresh, comparePodRefs) {
		switch {
		case is == nil && changed[(*was).Name]:
		case is == nil || was != nil && samePod(*was, *is):
			next = append(next, *was)
		default:
			next = append(next, *is)
		}
	}
	l.kept = next
}

func (l *sliceCollection) storedIn(c *Cluster) bool {
	pods, known := c.Pods[l.query]
	return known && slices.EqualFunc(pods, l.kept, samePod)
}

func (l *sliceCollection) store(c *Cluster) { c.Pods[l.query] = l.kept }

// len counts the endpoints of all slices: that is what the bound is about.
func (l *sliceCollection) len() int { return l.pieces }

func (l *sliceCollection) missing(before *Cluster) loss {
	return vanished(before.Pods[l.query], l.kept)
}

// comparePieces orders what slices say of pods. It is 0 where only the state of a pod may
// differ, so that the order in which the slices came decides nothing.
func comparePieces(a, b *Pod) int {
	return cmp.Or(comparePods(a, b), cmp.Compare(a.UID, b.UID), slices.CompareFunc(a.Addresses, b.Addresses, netip.Addr.Compare),
		cmp.Compare(a.Node, b.Node), cmp.Compare(a.Zone, b.Zone), slices.CompareFunc(a.Ports, b.Ports, Port.Compare), slices.Compare(a.PortNames, b.PortNames))
}

// joinAll returns the pods that pieces are of, in order. It sorts pieces.
func joinAll(pieces []*Pod) (pods []*Pod) {
	sortBy(pieces, comparePieces)
	for len(pieces) > 0 {
		n := 1
		for n < len(pieces) && comparePods(pieces[n], pieces[0]) == 0 {
			n++
		}
		pods = append(pods, join(pieces[:n]))
		pieces = pieces[n:]
	}
	return pods
}

// join is the pod that all of pieces are of, which is the piece itself if there is one
// alone. Of two pods with one name, of which one is no more, that is the one that serves,
// else the one that does not terminate. A pod is ready when all pieces say so: one of two
// families is asked for connections when both can take them. The ports are those of the
// first piece: the slices of a Service have the same ones, but for a moment after a change.
func join(pieces []*Pod) *Pod {
	if len(pieces) == 1 {
		return pieces[0]
	}
	rank := func(p *Pod) int {
		switch {
		case p.Terminating:
			return 0
		case p.Ready:
			return 2
		}
		return 1
	}
	best := pieces[0]
	for _, p := range pieces {
		if cmp.Or(cmp.Compare(rank(p), rank(best)), cmp.Compare(p.UID, best.UID)) > 0 {
			best = p
		}
	}
	var whole *Pod
	for _, p := range pieces {
		switch {
		case p.UID != best.UID:
		case whole == nil:
			first := *p
			whole = &first
			whole.Addresses = slices.Clone(p.Addresses)
		default:
			whole.Ready, whole.Terminating = whole.Ready && p.Ready, whole.Terminating || p.Terminating
			whole.HostNetwork = whole.HostNetwork || p.HostNetwork
			whole.Node, whole.Zone = cmp.Or(whole.Node, p.Node), cmp.Or(whole.Zone, p.Zone)
			for _, a := range p.Addresses {
				if !slices.Contains(whole.Addresses, a) && len(whole.Addresses) < maxAddresses {
					whole.Addresses = append(whole.Addresses, a)
				}
			}
		}
	}
	for _, p := range pieces {
		if samePod(p, whole) {
			return p // the others say the same
		}
	}
	return whole
}

// sliceObject is an EndpointSlice as the API writes it.
type sliceObject struct {
	objectMeta
	AddressType string         `json:"addressType"` // IPv4, IPv6 or FQDN
	Endpoints   sliceEndpoints `json:"endpoints"`
	Ports       *[]slicePort   `json:"ports"`
}

// maxSliceEndpoints is the most endpoints that an EndpointSlice may have, as API servers
// have it (k8s.io/kubernetes/pkg/apis/discovery/validation, maxEndpoints).
const maxSliceEndpoints = 1000

// sliceEndpoints are those of one EndpointSlice.
type sliceEndpoints []sliceEndpoint

// UnmarshalJSON implements json.Unmarshaler. A list without end costs no memory.
func (l *sliceEndpoints) UnmarshalJSON(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	*l = nil
	return walkArray(dec, func() error {
		if len(*l) == maxSliceEndpoints {
			return fmt.Errorf("%w EndpointSlice: it has more than %d endpoints", errMalformed, maxSliceEndpoints)
		}
		*l = append(*l, sliceEndpoint{})
		return dec.Decode(&(*l)[len(*l)-1])
	})
}

// sliceEndpoint is an endpoint of an EndpointSlice. What is nil counts as true, and of
// Terminating as false. Of several addresses the first is the endpoint's.
type sliceEndpoint struct {
	Addresses  []string `json:"addresses"`
	Conditions struct {
		Ready       *bool `json:"ready"` // of a pod that terminates it is false
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
	NodeName  string `json:"nodeName"`
	Zone      string `json:"zone"`
	TargetRef struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
		UID  string `json:"uid"`
	} `json:"targetRef"`
}

// slicePort is a port of all endpoints of an EndpointSlice.
type slicePort struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"` // TCP when absent
	Port     *int   `json:"port"`     // nil: any
}

// whole implements object. Of what is read the ports come last.
func (o *sliceObject) whole() error {
	if o.Ports == nil {
		return fmt.Errorf("%w: no ports; the file may be cut short", errMalformed)
	}
	return nil
}

// maxServicePortName is the length of the longest name of a port of a Service (DNS label,
// RFC 1123).
const maxServicePortName = 63

// ports are the ports of o, sorted, with their names.
func (o *sliceObject) ports(intern interner) (ports []Port, names []string) {
	var all []declaredPort
	if o.Ports == nil {
		return nil, nil
	}
	for _, p := range *o.Ports {
		protocol, known := protocolNamed(p.Protocol)
		if known && p.Port != nil && *p.Port >= 1 && *p.Port <= 65535 {
			all = append(all, declaredPort{Port{uint16(*p.Port), protocol}, intern.intern(shorten(p.Name, maxServicePortName))})
		}
	}
	return sortedPorts(all, func(a, b declaredPort) bool { return a == b })
}

// pods returns what is kept of o, an EndpointSlice: its endpoints, in order.
// What cannot be an address is left out; a name of a pod, a node or a zone that the API would not
// give out counts as none.
func (o *sliceObject) pods(intern interner) []*Pod {
	ports, names := o.ports(intern)
	namespace := intern.intern(o.Metadata.Namespace)
	var pods []*Pod
	for i := range o.Endpoints {
		e := &o.Endpoints[i]
		p := &Pod{
			Namespace:   namespace,
			HostNetwork: o.AddressType != "FQDN",
			Ready:       e.Conditions.Ready == nil || *e.Conditions.Ready,
			Terminating: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
			Ports:       ports,
			PortNames:   names,
		}
		if len(e.Addresses) == 0 {
			continue
		}
		p.Name = e.Addresses[0]
		if p.HostNetwork {
			a, err := netip.ParseAddr(e.Addresses[0])
			if a = a.Unmap(); err != nil || !plainAddress(a) || a.IsUnspecified() {
				continue
			}
			p.Addresses, p.Name = []netip.Addr{a}, a.String()
		}
		if r := &e.TargetRef; r.Kind == "Pod" && r.Name != "" && r.UID != "" && cmp.Or(checkName("pod", r.Name), checkName("uid", r.UID)) == nil {
			p.Name, p.UID = r.Name, r.UID
		}
		if checkName("address", p.Name) != nil || p.Name == "" {
			continue
		}
		if checkName("node name", e.NodeName) == nil {
			p.Node = intern.intern(e.NodeName)
		}
		if checkName("zone", e.Zone) == nil {
			p.Zone = intern.intern(e.Zone)
		}
		pods = append(pods, p)
	}
	sortBy(pods, comparePieces)
	return slices.Clip(pods)
}
