// Bounds on what an API server or a cluster file may send.
//
// Used by kube*.go. An API server stays far below these bounds. What exceeds them
// is a fault of the source, or an attack, and is refused with a reason before it
// takes memory. Pure: no I/O but the given reader.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

const (
	// maxPage is the largest page of a list, or cluster file, in bytes after
	// decompression. A page of 500 pods is 3 MB.
	maxPage = 512 << 20

	// maxObject is the largest object, with the white space before it. etcd
	// takes 1.5 MB.
	maxObject = 16 << 20

	// maxYAML is the largest cluster file in YAML, which is in memory as a whole
	// while it is read.
	maxYAML = 64 << 20

	// maxObjects is the most objects that one answer, of all its pages, may
	// have: three times what a cluster of Kubernetes is tested with.
	maxObjects = 500_000

	// maxName is the longest name of an object, namespace or node (RFC 1123
	// subdomain, k8s.io/apimachinery/pkg/util/validation), and longer than a UID.
	maxName = 253

	// maxVersion is the longest resource version or continue token.
	maxVersion = 8 << 10

	// maxAddresses is how many addresses of a pod are kept. Kubernetes gives one
	// of each family to the node and to the pod.
	maxAddresses = 16

	// maxEntry is how many bytes of a ConfigMap's value are kept: more than
	// "NAMESPACE/SERVICE:PORT:PROXY:PROXY" can have.
	maxEntry = 512

	// maxBadEntries is how many entries of a ConfigMap are kept whose keys are
	// no ports. They are named in a warning; the others are counted.
	maxBadEntries = shownWarnings

	// maxInterned is how many strings an interner keeps before it starts again.
	// Clusters of Kubernetes are tested with 5,000 nodes.
	maxInterned = 1 << 14
)

// errTooMany is the error of an answer with more than maxObjects.
var errTooMany = fmt.Errorf("%w answer: it has more than %d objects", errMalformed, maxObjects)

// boundedBody is an answer that must not exceed the bounds.
type boundedBody struct {
	r       io.Reader
	most    int64        // bytes of the whole answer; 0 = it does not end
	read    int64        // bytes read so far
	decoded func() int64 // bytes that have become values so far
}

// newBoundedDecoder returns a decoder of r. It fails when r has more than most
// bytes (0 = any number), or more than maxObject that belong to one value.
func newBoundedDecoder(r io.Reader, most int64) *json.Decoder {
	b := &boundedBody{r: r, most: most}
	dec := json.NewDecoder(b)
	b.decoded = dec.InputOffset
	return dec
}

// Read is io.Reader. The decoder asks for more only while it has no whole value.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.read-b.decoded() > maxObject {
		return 0, fmt.Errorf("%w answer: an object, or the white space before it, is larger than %d MiB", errMalformed, maxObject>>20)
	}
	if b.most > 0 && b.read > b.most {
		return 0, fmt.Errorf("%w answer: it is larger than %d MiB", errMalformed, b.most>>20)
	}
	// One byte above a bound is enough to know: a file fills any buffer at once.
	room := maxObject + 1 - (b.read - b.decoded())
	if b.most > 0 {
		room = min(room, b.most+1-b.read)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), room)])
	b.read += int64(n)
	return n, err
}

// check returns an error when o lacks a name, or has one that no API server
// gives out.
func (o *object) check() error {
	m := &o.Metadata
	if m.Name == "" {
		return fmt.Errorf("%w object: no name", errMalformed)
	}
	for _, name := range []struct{ what, is string }{
		{"name", m.Name}, {"namespace", m.Namespace}, {"uid", m.UID}, {"node name", o.Spec.NodeName},
	} {
		if len(name.is) > maxName {
			return fmt.Errorf("%w object: its %s %q has %d bytes, more than %d", errMalformed, name.what, shorten(name.is, quotedText), len(name.is), maxName)
		}
		if strings.ContainsFunc(name.is, unicode.IsControl) {
			return fmt.Errorf("%w object: its %s %q has a control character", errMalformed, name.what, name.is)
		}
	}
	return checkVersion("resourceVersion", m.ResourceVersion)
}

// checkVersion returns an error when a resource version or continue token is
// longer than any API server makes it.
func checkVersion(what, is string) error {
	if len(is) > maxVersion {
		return fmt.Errorf("%w answer: its %s has %d bytes, more than %d", errMalformed, what, len(is), maxVersion)
	}
	return nil
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

// keptConfigMap is what is kept of a ConfigMap with these entries: all whose
// keys are ports, and few others. Values are cut.
func keptConfigMap(data map[string]string) ConfigMap {
	// A map does not shrink: one that loses most of its entries keeps their room.
	cm := ConfigMap{Exists: true}
	if data != nil {
		cm.Data = make(map[string]string)
	}
	keep := func(key, value string) {
		if len(value) > maxEntry {
			value = strings.Clone(value[:maxEntry])
		}
		cm.Data[key] = value
	}
	var bad []string
	for key, value := range data {
		if _, err := ParsePortNumber(key); err != nil {
			bad = append(bad, key)
		} else {
			keep(key, value)
		}
	}
	slices.Sort(bad)
	for i, key := range bad {
		short := shorten(key, quotedText)
		if _, taken := cm.Data[short]; taken || i >= maxBadEntries {
			cm.More++
		} else {
			keep(short, data[key])
		}
	}
	return cm
}
