// ListenerSets as a kind that a stream follows: what is asked and what is kept.
//
// Used by kube_kinds.go. One stream asks for those of all namespaces, if a VIP takes its
// ports from Gateways: a ListenerSet may be in another namespace than its Gateway. Pure: no
// I/O, no log, no k8s.io packages.

package main

import (
	"encoding/json"
	"slices"
)

// listenerSetKind describes the stream of ListenerSets.
var listenerSetKind = &streamKind{
	stream: "listenersets", item: "listenerset",
	api: "apis/" + gatewayGroup + "/v1", resource: "listenersets", object: "ListenerSet", fields: []string{"spec", "status"},
	rights: "install/rbac-gateways.yaml",
	new:    func() object { return new(gatewayObject) },
	keys:   func(q *ClusterQuery) []streamKey { return streamKeys(q.ListenerSets) },
	save: func(c *Cluster, line func(query, item any)) {
		for query, sets := range c.ListenerSets {
			line(query, nil)
			for _, s := range sets {
				line(nil, s)
			}
		}
	},
	load: func(c *Cluster, query *json.Decoder) (func(*json.Decoder) error, error) {
		var q ListenerSetQuery
		err := query.Decode(&q)
		c.ListenerSets[q] = []*Gateway{}
		return func(item *json.Decoder) error {
			s := new(Gateway)
			err := item.Decode(s)
			c.ListenerSets[q] = append(c.ListenerSets[q], s)
			return err
		}, err
	},
}

func (q ListenerSetQuery) kind() *streamKind { return listenerSetKind }
func (q ListenerSetQuery) scope() scope      { return scope{} }
func (q ListenerSetQuery) collect() collection {
	return &listenerSetCollection{ListenerSetQuery: q}
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

// listenerSetCollection is a collection.
type listenerSetCollection struct {
	ListenerSetQuery
	gatewayList
}

func (c *listenerSetCollection) add(o object) error {
	if set := o.(*gatewayObject).listenerSet(); set.Parent != "" {
		return c.put(set)
	}
	return nil
}

func (c *listenerSetCollection) apply(o object, deleted bool) {
	set := o.(*gatewayObject).listenerSet()
	c.change(set, deleted || set.Parent == "")
}

func (c *listenerSetCollection) recall(before *Cluster) {
	c.recallFrom(before.ListenerSets[c.ListenerSetQuery])
}

func (c *listenerSetCollection) missing(before *Cluster) loss {
	return c.lost(before.ListenerSets[c.ListenerSetQuery])
}

func (c *listenerSetCollection) store(cluster *Cluster) {
	cluster.ListenerSets[c.ListenerSetQuery] = c.kept
}

func (c *listenerSetCollection) storedIn(cluster *Cluster) bool {
	sets, known := cluster.ListenerSets[c.ListenerSetQuery]
	return known && slices.EqualFunc(sets, c.kept, sameGateway)
}

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
