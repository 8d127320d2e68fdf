// Nodes as a kind that a stream follows: which of them are to get no new connections,
// and their addresses.
//
// Used by kube_kinds.go. One stream asks for all nodes, if a VIP follows them. Pure: no
// I/O, no log, no k8s.io packages.

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// excludedLabel takes a node out of load balancers, with any value
// (k8s.io/api/core/v1, LabelNodeExcludeBalancers).
const excludedLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// nodeKind describes the stream of nodes.
var nodeKind = &streamKind{
	stream: "nodes", item: "node",
	api: "api/v1", resource: "nodes", object: "Node", fields: []string{"spec", "status"},
	rights: "install/rbac.yaml",
	new:    func() object { return new(nodeObject) },
	keys:   func(q *ClusterQuery) []streamKey { return streamKeys(q.Nodes) },
	save: func(c *Cluster, line func(query, item any)) {
		for query, nodes := range c.Nodes {
			line(query, nil)
			for _, n := range nodes {
				line(nil, n)
			}
		}
	},
	load: func(c *Cluster, query *json.Decoder) (func(*json.Decoder) error, error) {
		var q NodeQuery
		err := query.Decode(&q)
		c.Nodes[q] = []*Node{}
		return func(item *json.Decoder) error {
			n := new(Node)
			if err := item.Decode(n); err != nil {
				return err
			}
			if slices.ContainsFunc(n.Addresses, func(a netip.Addr) bool { return !plainAddress(a) }) {
				return errMalformed
			}
			c.Nodes[q] = append(c.Nodes[q], n)
			return nil
		}, err
	},
}

func (q NodeQuery) kind() *streamKind   { return nodeKind }
func (q NodeQuery) scope() scope        { return scope{} }
func (q NodeQuery) collect() collection { return &nodeCollection{NodeQuery: q} }

func (q NodeQuery) copyKnown(to, from *Cluster) bool {
	nodes, known := from.Nodes[q]
	if known {
		to.Nodes[q] = nodes
	}
	return known
}

func (q NodeQuery) copyServed(to, from *Cluster) bool { return q.copyKnown(to, from) }

// nodeCollection is a collection.
type nodeCollection struct {
	NodeQuery
	kept []*Node // when complete: in order, each once
}

func (l *nodeCollection) add(o object) error {
	if len(l.kept) == maxObjects {
		return errTooMany
	}
	l.kept = append(l.kept, o.(*nodeObject).node())
	return nil
}

func (l *nodeCollection) complete() {
	slices.Reverse(l.kept)
	stableBy(l.kept, compareNodes)
	l.kept = slices.Clip(slices.CompactFunc(l.kept, func(a, b *Node) bool { return a.Name == b.Name }))
}

func (l *nodeCollection) apply(o object, deleted bool) {
	now := o.(*nodeObject).node()
	next := make([]*Node, 0, len(l.kept)+1) // the nodes are shared with what has been stored
	for _, n := range l.kept {
		if n.Name != now.Name {
			next = append(next, n)
		} else if !deleted && sameNode(n, now) {
			return // the kubelet reports each few minutes
		}
	}
	if !deleted {
		next = append(next, now)
		sortBy(next, compareNodes)
	}
	l.kept = next
}

func (l *nodeCollection) len() int         { return len(l.kept) }
func (l *nodeCollection) store(c *Cluster) { c.Nodes[l.NodeQuery] = l.kept }

func (l *nodeCollection) storedIn(c *Cluster) bool {
	nodes, known := c.Nodes[l.NodeQuery]
	return known && slices.EqualFunc(nodes, l.kept, sameNode)
}

// missing counts the nodes that are excluded now and were not. A node that is gone
// takes its pods with it, and they are counted. An answer that lacks all nodes is
// another matter: the cluster has some, and excluded ones would get connections again.
func (l *nodeCollection) missing(before *Cluster) (lost loss) {
	for was, is := range merged(before.Nodes[l.NodeQuery], l.kept, func(a, b *Node) int { return compareNodes(a, b) }) {
		if was == nil || (*was).Excluded != "" {
			continue
		}
		lost.served++
		if is != nil && (*is).Excluded != "" {
			lost.gone++
		}
	}
	if len(l.kept) == 0 && len(before.Nodes[l.NodeQuery]) > 0 {
		lost.whole, lost.gone = true, lost.served
	}
	return lost
}

func compareNodes(a, b *Node) int { return strings.Compare(a.Name, b.Name) }

// sameNode reports whether nothing that is kept of a node differs.
func sameNode(a, b *Node) bool {
	return a.Name == b.Name && a.Excluded == b.Excluded && slices.Equal(a.Addresses, b.Addresses)
}

// nodeObject is a Node as the API writes it.
type nodeObject struct {
	objectMeta
	Spec struct {
		Unschedulable bool `json:"unschedulable"`
	} `json:"spec"`
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

// whole implements object. The addresses come after the labels and the spec.
func (o *nodeObject) whole() error {
	if len(o.Status.Addresses) == 0 {
		return fmt.Errorf("%w: no status.addresses; the file may be cut short", errMalformed)
	}
	return nil
}

// node is what is kept of o.
func (o *nodeObject) node() *Node {
	n := &Node{Name: o.Metadata.Name}
	if _, labelled := o.Metadata.Labels[excludedLabel]; labelled {
		n.Excluded = "its node has the label " + excludedLabel
	} else if o.Spec.Unschedulable {
		n.Excluded = "its node is cordoned off"
	}
	for _, each := range o.Status.Addresses {
		a, err := netip.ParseAddr(each.Address)
		if a = a.Unmap(); each.Type == "InternalIP" && err == nil && plainAddress(a) && len(n.Addresses) < maxAddresses && !slices.Contains(n.Addresses, a) {
			n.Addresses = append(n.Addresses, a)
		}
	}
	return n
}
