// What all kinds of objects that streams follow have in common, and how one describes
// itself.
//
// Used by snapshot.go, http_kept.go and cmd*.go. Pure: no I/O, no k8s.io packages.

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// streamKind describes one kind.
type streamKind struct {
	stream   string        // name of its streams and its lines in the snapshot file: "pods"
	item     string        // name of one object in the snapshot file: "pod"
	api      string        // in the paths of the API: "api/v1"
	resource string        // in the paths of the API: "pods"
	object   string        // as the API writes it: "Pod". A list is a "PodList"
	rights   string        // the file that has the rights to read it
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

// group is the API group of k; "" is the core group.
func (k *streamKind) group() string {
	if group, grouped := strings.CutPrefix(k.api, "apis/"); grouped {
		group, _, _ = strings.Cut(group, "/")
		return group
	}
	return ""
}

// streamQuery is what is asked of one kind: such as a PodQuery.
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

// String is the name of the stream, in the log and in the metrics. Nodes have no scope.
func (k streamKey) String() string {
	return strings.TrimRight(k.kind().stream+" "+k.scope().String(), " ")
}

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
	class     string // of Gateways; the collection applies it
}

// covers reports whether m is in the namespace and has the name of s.
func (s scope) covers(m *objectMeta) bool {
	return (s.namespace == "" || s.namespace == m.Metadata.Namespace) && (s.name == "" || s.name == m.Metadata.Name)
}

func (s scope) String() string {
	if s.name != "" {
		return s.namespace + "/" + s.name
	}
	text := s.namespace + " " + s.selector
	if s.class != "" {
		text = "class=" + s.class
	}
	return strings.TrimSpace(text)
}

// loss is what an answer lacks of what served before.
type loss struct {
	gone, served int  // what is missing now, of what served before
	whole        bool // the object itself is missing, of which there is one
}

// object is one object of a kind, reduced to the fields that are read.
type object interface {
	meta() *objectMeta
	// check returns an error when the object lacks a name, or has one that no API
	// server gives out.
	check() error
	// whole returns an error when the object, the last of a file, may be cut short.
	whole() error
}

// objectType is what an object says that it is. The items of a list need not.
type objectType struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// is returns an error when an object says that it is of another kind or version.
func (t *objectType) is(kind, apiVersion string) error {
	if (t.Kind == "" || t.Kind == kind) && (t.APIVersion == "" || t.APIVersion == apiVersion) {
		return nil
	}
	return fmt.Errorf("%w object: kind %q, apiVersion %q, want %s, %s", errMalformed,
		shorten(t.Kind, quotedText), shorten(t.APIVersion, quotedText), kind, apiVersion)
}

// objectMeta is what objects of all kinds have.
type objectMeta struct {
	objectType
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		ResourceVersion   string            `json:"resourceVersion"`
		Generation        int64             `json:"generation"` // of the spec
		DeletionTimestamp *string           `json:"deletionTimestamp"`
		Annotations       map[string]string `json:"annotations"`
		Labels            map[string]string `json:"labels"`
	} `json:"metadata"`
}

func (m *objectMeta) meta() *objectMeta { return m }

// whole is object.whole for what has nothing behind its metadata that it must have.
func (m *objectMeta) whole() error { return nil }

// interner keeps one copy of strings that thousands of objects share. A watch of
// months meets new ones again and again, so it forgets all when it is full.
type interner map[string]string

func (n interner) intern(s string) string {
	if kept, ok := n[s]; ok {
		return kept
	}
	if len(n) >= maxInterned {
		clear(n)
	}
	n[s] = s
	return s
}

// check is object.check for what all kinds have.
func (m *objectMeta) check() error {
	o := &m.Metadata
	if o.Name == "" {
		return fmt.Errorf("%w object: no name", errMalformed)
	}
	return cmp.Or(
		checkName("name", o.Name),
		checkName("namespace", o.Namespace),
		checkName("uid", o.UID),
		checkVersion("resourceVersion", o.ResourceVersion),
	)
}

// checkName returns an error when a name is none that an API server gives out.
func checkName(what, name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%w object: its %s %q has %d bytes, more than %d", errMalformed, what, shorten(name, quotedText), len(name), maxName)
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%w object: its %s %q has a control character", errMalformed, what, name)
	}
	return nil
}

// checkVersion returns an error when a resource version or continue token is
// longer than any API server makes it.
func checkVersion(what, is string) error {
	if len(is) > maxVersion {
		return fmt.Errorf("%w answer: its %s has %d bytes, more than %d", errMalformed, what, len(is), maxVersion)
	}
	return nil
}
