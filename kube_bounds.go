// Bounds on what an API server or a cluster file may send.
//
// Used by kube*.go. An API server stays far below these bounds. What exceeds them
// is a fault of the source, or an attack, and is refused with a reason before it
// takes memory. Pure: no I/O but the given reader.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// maxPage is the largest page of a list, or cluster file, in bytes after
	// decompression. A page of 500 pods is 3 MB.
	maxPage = 512 << 20

	// pageLimit is how many objects one page of a list has at most: 500 pods are 3 MB
	// of JSON.
	pageLimit = 500

	// maxObject is the largest object, with the white space before it. etcd
	// takes 1.5 MB.
	maxObject = 16 << 20

	// maxYAML is the largest cluster file in YAML, which is in memory as a whole
	// while it is read.
	maxYAML = 64 << 20

	// maxObjects is the most objects that one answer, of all its pages, may
	// have: three times what Kubernetes is tested with.
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

	// maxInterned is how many strings an interner keeps before it forgets all.
	// Kubernetes is tested with 5,000 nodes.
	maxInterned = 1 << 14
)

// errMalformed marks an answer that was read completely and makes no sense.
// Answers that were cut short are io.ErrUnexpectedEOF or the reader's error.
var errMalformed = errors.New("malformed")

// malformed reports whether err is a fault of the bytes, not of reading them.
func malformed(err error) bool {
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	return errors.As(err, &syntax) || errors.As(err, &mismatch) || errors.Is(err, errMalformed)
}

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
