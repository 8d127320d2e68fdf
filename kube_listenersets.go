// ListenerSets as a kind that a stream follows: what is asked and what is kept.
//
// Used by kube_kinds.go. One stream asks for those of all namespaces, if a VIP takes its
// ports from Gateways: a ListenerSet may be in another namespace than its Gateway. Pure: no
// I/O, no log, no k8s.io packages.

package main

import "encoding/json"

// listenerSetKind describes the stream of ListenerSets.
var listenerSetKind = &streamKind{
	stream: "listenersets", item: "listenerset",
	api: "apis/" + gatewayGroup + "/v1", resource: "listenersets", object: "ListenerSet", fields: []string{"spec", "status"},
	rights: "install/rbac-gateways.yaml",
	new:    func() object { return new(gatewayObject) },
	keys:   func(q *ClusterQuery) []streamKey { return streamKeys(q.ListenerSets) },
	save: func(c *Cluster, line func(query, item any)) {
		for query, sets := range c.ListenerSets {
			saveGateways(line, query, sets)
		}
	},
	load: func(c *Cluster, query *json.Decoder) (func(*json.Decoder) error, error) {
		var q ListenerSetQuery
		err := query.Decode(&q)
		c.ListenerSets[q] = []*Gateway{}
		return loadGateway(func(s *Gateway) { c.ListenerSets[q] = append(c.ListenerSets[q], s) }), err
	},
}

func (q ListenerSetQuery) kind() *streamKind { return listenerSetKind }
func (q ListenerSetQuery) scope() scope      { return scope{} }
func (q ListenerSetQuery) collect() collection {
	return &gatewayCollection{
		query: streamKey{q},
		in:    func(c *Cluster) (sets []*Gateway, known bool) { sets, known = c.ListenerSets[q]; return },
		put:   func(c *Cluster, sets []*Gateway) { c.ListenerSets[q] = sets },
	}
}

func (q ListenerSetQuery) install() (what string, optional bool) {
	return "install the CRDs of the Gateway API, version 1.5 or later", true
}

func (q ListenerSetQuery) copyKnown(to, from *Cluster) bool {
	sets, known := from.ListenerSets[q]
	if known {
		to.ListenerSets[q] = sets
	}
	return known
}

func (q ListenerSetQuery) copyServed(to, from *Cluster) bool { return q.copyKnown(to, from) }

// listenerSet is what is kept of o, a ListenerSet. Its Parent is "" when that is no
// Gateway.
func (o *gatewayObject) listenerSet() *Gateway {
	set, of := o.gateway(), &o.Spec.ParentRef
	if of.Name == "" || of.Group != nil && *of.Group != gatewayGroup || of.Kind != nil && *of.Kind != gatewayKind.object {
		return set
	}
	namespace := set.Namespace
	if of.Namespace != nil && *of.Namespace != "" {
		namespace = *of.Namespace
	}
	set.Parent = shorten(namespace+"/"+of.Name, 2*maxName)
	return set
}
