// The kinds of objects that streams follow, and what all kinds have in common.
//
// Used by snapshot.go and cmd*.go. A kind is described by one streamKind, in
// its own file (kube_pods.go, kube_configmaps.go), and has one line in streamKinds.
// The rest of the kube*.go files and snapshot.go know no kind by name. Pure: no I/O,
// no k8s.io packages.

package main

import (
	"encoding/json"
	"strings"
)

// streamKinds are all kinds. To add one: a type in cluster.go with its fields in
// ClusterQuery and Cluster, newCluster and answers, a file kube_NAME.go, an element
// here, and its use in config*.go and desired*.go.
var streamKinds = []*streamKind{podKind, configMapKind, nodeKind}

// streamKind describes one kind.
type streamKind struct {
	stream   string        // name of its streams and its lines in the snapshot file: "pods"
	item     string        // name of one object in the snapshot file: "pod"
	api      string        // in the paths of the API: "api/v1"
	resource string        // in the paths of the API: "pods"
	object   string        // as the API writes it: "Pod". A list is a "PodList"
	fields   []string      // of an object, that are read beside its metadata
	new      func() object // to decode into
	keys     func(q *ClusterQuery) []streamKey
	// save writes what c knows of this kind. A line of the file has a query, an
	// object, or both: nil is left out.
	save func(c *Cluster, line func(query, item any))
	// load reads the query of a saved line. Calls of item read the objects after it.
	load func(c *Cluster, query *json.Decoder) (item func(*json.Decoder) error, err error)
}

// apiVersion is how an object of k names its version.
func (k *streamKind) apiVersion() string {
	_, version, _ := strings.Cut(k.api, "/")
	return version
}

// streamQuery is what is asked of one kind: a PodQuery or a ConfigMapName.
type streamQuery interface {
	kind() *streamKind
	scope() scope
	collect() collection // nothing yet
	// copyKnown copies what from knows for this query, if it knows anything.
	copyKnown(to, from *Cluster) (known bool)
	// copyServed copies to the same place in to what the guard takes for what served:
	// what from knows for this query, or for one that selects the same objects and
	// asks other things of them.
	copyServed(to, from *Cluster) (known bool)
}

// streamKey is what one stream asks for. Equal keys are ==.
type streamKey struct{ streamQuery }

func (k streamKey) String() string { return k.kind().stream + " " + k.scope().String() }

// streamKeys are the keys of queries of one kind.
func streamKeys[Q streamQuery](queries []Q) []streamKey {
	keys := make([]streamKey, len(queries))
	for i, q := range queries {
		keys[i].streamQuery = q
	}
	return keys
}

// collection is what is known for one key. What add or apply has once stored in a
// Cluster does not change. It belongs to one goroutine.
type collection interface {
	kind() *streamKind
	// add takes o into a list. An object that the key does not ask for is passed
	// over: some proxies and old servers ignore field selectors. Of two objects of
	// one name, which only a file can have, the later one counts. The error means
	// that the list has more objects than it may have.
	add(o object) error
	complete() // the list: no add follows
	// apply changes a complete list by one watch event.
	apply(o object, deleted bool)
	len() int
	storedIn(c *Cluster) bool // and nothing that is kept differs
	store(c *Cluster)
	// missing is what this lacks of what served in before, for the mass-removal
	// guard. Objects that take nothing away when they are gone do not count.
	missing(before *Cluster) loss
}

// scope says which objects of a kind are meant. An empty name means all.
type scope struct {
	namespace string // "" = all
	name      string
	selector  string // label selector; the source applies it
}

// covers reports whether m is in the namespace and has the name of s.
func (s scope) covers(m *objectMeta) bool {
	return (s.namespace == "" || s.namespace == m.Metadata.Namespace) && (s.name == "" || s.name == m.Metadata.Name)
}

func (s scope) String() string {
	if s.name != "" {
		return s.namespace + "/" + s.name
	}
	return s.namespace + " " + s.selector
}

// kindNamed is the kind of an object; nil when no stream follows such objects.
func kindNamed(object string) *streamKind {
	for _, k := range streamKinds {
		if k.object == object {
			return k
		}
	}
	return nil
}

// allKeys are the keys that q asks for.
func allKeys(q *ClusterQuery) []streamKey {
	var keys []streamKey
	for _, k := range streamKinds {
		keys = append(keys, k.keys(q)...)
	}
	return keys
}
