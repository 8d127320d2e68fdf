// The kinds of objects that streams follow, and what all kinds have in common.
//
// Used by snapshot.go and cmd_status.go. A kind is described by one objectKind, in
// its own file (kube_pods.go, kube_configmaps.go), and has one line in streamKinds.
// The rest of the kube*.go files and snapshot.go know no kind by name: they use
// streamKind, streamKey and collection. Pure: no I/O, no k8s.io packages.

package main

import (
	"encoding/json"
	"slices"
)

// streamKinds are all kinds. To add one: a type in cluster.go with its fields in
// ClusterQuery and Cluster, newCluster and answers, a file kube_NAME.go, an element
// here, and its use in config*.go and desired*.go.
var streamKinds = []streamKind{podKind, configMapKind}

// streamKind is an objectKind of any types.
type streamKind interface {
	names() *kindNames
	keys(q *ClusterQuery) []streamKey
	// save writes what c knows of this kind, as lines of named values.
	save(c *Cluster, line func(...savedValue))
	// load reads the key of a saved line. Calls of item read the values after it.
	load(c *Cluster, key *json.Decoder) (item func(*json.Decoder) error, err error)
}

// streamKey is what one stream asks for: a key of one kind, such as a PodQuery.
// Equal keys are ==.
type streamKey interface {
	String() string // begins with the kind's name
	names() *kindNames
	scope() scope
	collect() collection // nothing yet
	known(c *Cluster) bool
	// copyKnown copies what from knows for this key, if it knows anything.
	copyKnown(to, from *Cluster)
	guarded() (q PodQuery, ok bool) // by the mass-removal guard
}

// collection is what is known for one key. What add or apply has once stored in a
// Cluster does not change. It belongs to one goroutine.
type collection interface {
	streamKey
	// add takes o into a list. An object that the key does not ask for is passed
	// over: some proxies and old servers ignore field selectors. The error means
	// that the list has more objects than it may have.
	add(o object) error
	complete() // the list: no add follows
	// apply changes a complete list by one watch event.
	apply(o object, deleted bool)
	len() int
	storedIn(c *Cluster) bool // and nothing that is kept differs
	store(c *Cluster)
	pods() []*Pod // for the mass-removal guard; nil when the objects are no pods
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

// kindNames are the names of a kind, and what else does not depend on its types.
type kindNames struct {
	stream   string        // of its streams and its lines in the snapshot file: "pods"
	item     string        // of one object in the snapshot file: "pod"
	api      string        // in the paths of the API: "api/v1"
	resource string        // in the paths of the API: "pods"
	object   string        // as the API writes it: "Pod". A list is a "PodList"
	fields   []string      // of an object, that are read beside its metadata
	new      func() object // to decode into
	single   bool          // a key means one object, which may not exist
	guarded  bool          // the mass-removal guard applies; the keys are PodQuery
}

// list is the API's name of a list of the kind.
func (n *kindNames) list() string { return n.object + "List" }

// kindNamed is the kind of an object; nil when no stream follows such objects.
func kindNamed(object string) streamKind {
	for _, k := range streamKinds {
		if k.names().object == object {
			return k
		}
	}
	return nil
}

// objectKind describes a kind whose streams have keys K. T is what is kept of an
// object, V what a Cluster has for a key.
type objectKind[K comparable, T, V any] struct {
	kindNames
	keep    func(o object, key K, in interner) *T // what is kept of an object of the kind
	valid   func(*T) bool                         // whether keep could have made it; nil = any
	scopeOf func(K) scope                         // what a key asks for
	compare func(a, b *T) int                     // order of what is kept: 0 for one object
	same    func(a, b *T) bool                    // whether nothing that is kept differs
	asked   func(*ClusterQuery) []K               // the field of a query
	field   func(*Cluster) *map[K]V               // the field of a cluster
	pack    func([]*T) V                          // from objects in order, without a copy
	unpack  func(V) []*T                          // the inverse of pack
}

func (k *objectKind[K, T, V]) names() *kindNames { return &k.kindNames }

// key is the streamKey of a query.
func (k *objectKind[K, T, V]) key(query K) streamKey { return kindKey[K, T, V]{k, query} }

func (k *objectKind[K, T, V]) keys(q *ClusterQuery) []streamKey {
	var keys []streamKey
	for _, query := range k.asked(q) {
		keys = append(keys, k.key(query))
	}
	return keys
}

func (k *objectKind[K, T, V]) save(c *Cluster, line func(...savedValue)) {
	for query, value := range *k.field(c) {
		if k.single {
			line(savedValue{k.stream, query}, savedValue{k.item, value})
			continue
		}
		line(savedValue{k.stream, query})
		for _, o := range k.unpack(value) {
			line(savedValue{k.item, o})
		}
	}
}

func (k *objectKind[K, T, V]) load(c *Cluster, key *json.Decoder) (func(*json.Decoder) error, error) {
	var query K
	if err := key.Decode(&query); err != nil {
		return nil, err
	}
	all := []*T{}
	(*k.field(c))[query] = k.pack(all)
	return func(item *json.Decoder) error {
		o := new(T)
		if err := item.Decode(o); err != nil {
			return err
		}
		if k.valid != nil && !k.valid(o) {
			return errMalformed
		}
		all = append(all, o)
		(*k.field(c))[query] = k.pack(all)
		return nil
	}, nil
}

// savedValue is one named value of a line of the snapshot file.
type savedValue struct {
	name  string
	value any
}

// kindKey is a streamKey.
type kindKey[K comparable, T, V any] struct {
	kind  *objectKind[K, T, V]
	query K
}

func (k kindKey[K, T, V]) String() string    { return k.kind.stream + " " + k.scope().String() }
func (k kindKey[K, T, V]) names() *kindNames { return k.kind.names() }
func (k kindKey[K, T, V]) scope() scope      { return k.kind.scopeOf(k.query) }

func (k kindKey[K, T, V]) collect() collection { return k.kind.collect(k.query) }

func (k kindKey[K, T, V]) known(c *Cluster) bool {
	_, known := (*k.kind.field(c))[k.query]
	return known
}

func (k kindKey[K, T, V]) copyKnown(to, from *Cluster) {
	if value, known := (*k.kind.field(from))[k.query]; known {
		(*k.kind.field(to))[k.query] = value
	}
}

func (k kindKey[K, T, V]) guarded() (q PodQuery, ok bool) {
	q, _ = any(k.query).(PodQuery)
	return q, k.kind.guarded
}

// objects is a collection.
type objects[K comparable, T, V any] struct {
	kindKey[K, T, V]
	strings interner
	kept    []*T // when complete: in order, each once
}

// collect returns an empty collection for a query.
func (k *objectKind[K, T, V]) collect(query K) *objects[K, T, V] {
	return &objects[K, T, V]{kindKey: kindKey[K, T, V]{k, query}, strings: interner{}}
}

func (c *objects[K, T, V]) len() int { return len(c.kept) }

func (c *objects[K, T, V]) add(o object) error {
	if !c.scope().covers(o.meta()) {
		return nil
	}
	if len(c.kept) == maxObjects {
		return errTooMany
	}
	c.kept = append(c.kept, c.kind.keep(o, c.query, c.strings))
	return nil
}

// complete puts the list in order. Of two objects of one name, which only a file
// can have, the later one counts.
func (c *objects[K, T, V]) complete() {
	slices.Reverse(c.kept)
	slices.SortStableFunc(c.kept, c.kind.compare)
	c.kept = slices.Clip(slices.CompactFunc(c.kept, func(a, b *T) bool { return c.kind.compare(a, b) == 0 }))
}

func (c *objects[K, T, V]) apply(o object, deleted bool) {
	if !c.scope().covers(o.meta()) {
		return
	}
	now := c.kind.keep(o, c.query, c.strings)
	at, found := slices.BinarySearchFunc(c.kept, now, c.kind.compare)
	if deleted && !found || !deleted && found && c.kind.same(c.kept[at], now) {
		return
	}
	after := at
	if found {
		after++
	}
	next := make([]*T, 0, len(c.kept)+1) // the elements are shared with what has been stored
	next = append(next, c.kept[:at]...)
	if !deleted {
		next = append(next, now)
	}
	c.kept = append(next, c.kept[after:]...)
}

func (c *objects[K, T, V]) storedIn(cluster *Cluster) bool {
	value, known := (*c.kind.field(cluster))[c.query]
	return known && slices.EqualFunc(c.kind.unpack(value), c.kept, func(a, b *T) bool { return a == b || c.kind.same(a, b) })
}

func (c *objects[K, T, V]) store(cluster *Cluster) {
	(*c.kind.field(cluster))[c.query] = c.kind.pack(c.kept)
}

func (c *objects[K, T, V]) pods() []*Pod {
	pods, _ := any(c.kept).([]*Pod)
	return pods
}

// allKeys are the keys that q asks for.
func allKeys(q *ClusterQuery) []streamKey {
	var keys []streamKey
	for _, k := range streamKinds {
		keys = append(keys, k.keys(q)...)
	}
	return keys
}
