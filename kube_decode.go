// Decodes what an API server or a cluster file sends: lists, watch events, and the
// parts of them.
//
// Used by snapshot.go. The bytes come from outside and may be anything. Objects
// are decoded one at a time into structs with only the needed fields, so a long
// list or managedFields are never in memory as a whole. Pure: no I/O except the
// given reader, no log, no k8s.io packages. A decoder never returns a part of
// an answer without an error.

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
)

// The types of watch events (k8s.io/apimachinery/pkg/watch).
const (
	eventAdded    = "ADDED"
	eventModified = "MODIFIED"
	eventDeleted  = "DELETED"
	eventBookmark = "BOOKMARK" // an object with nothing but a resource version
	eventError    = "ERROR"    // a Status instead of an object
)

// event is one message of a watch.
type event struct {
	kind   string
	object object    // nil for an eventError
	status apiStatus // of an eventError
}

// apiStatus is how the API reports an error (metav1.Status).
type apiStatus struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// eventDecoder reads the messages of one watch.
type eventDecoder struct {
	dec *json.Decoder
	of  *streamKind
	raw struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"` // what it is depends on Type
	}
}

// newEventDecoder returns a decoder of the watch in r, whose objects are of one kind.
func newEventDecoder(r io.Reader, of *streamKind) *eventDecoder {
	return &eventDecoder{dec: newBoundedDecoder(r, 0), of: of}
}

// next returns the next message: io.EOF when the watch ended between two of
// them, another error when it broke or makes no sense.
func (d *eventDecoder) next() (*event, error) {
	d.raw.Type, d.raw.Object = "", d.raw.Object[:0] // the buffer is used again
	if err := d.dec.Decode(&d.raw); err != nil {
		return nil, err
	}
	e := &event{kind: d.raw.Type}
	var into any
	switch e.kind {
	case eventAdded, eventModified, eventDeleted, eventBookmark:
		e.object = d.of.new()
		into = e.object
	case eventError:
		into = &e.status
	default:
		return nil, fmt.Errorf("%w watch event of type %q", errMalformed, shorten(e.kind, quotedText))
	}
	if err := json.Unmarshal(d.raw.Object, into); err != nil {
		return nil, fmt.Errorf("watch event of type %s: %w", e.kind, err)
	}
	if e.kind == eventError {
		return e, nil
	}
	version := e.object.meta().Metadata.ResourceVersion
	if version == "" {
		return nil, fmt.Errorf("%w watch event of type %s: no resourceVersion", errMalformed, e.kind)
	}
	err := cmp.Or(e.object.meta().is(d.of.object, d.of.apiVersion()), checkVersion("resourceVersion", version))
	if err == nil && e.kind != eventBookmark {
		err = e.object.check()
	}
	if err != nil {
		return nil, fmt.Errorf("watch event of type %s: %w", e.kind, err)
	}
	return e, nil
}

// listHead is a list without its items.
type listHead struct {
	objectType
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		partialList
	}
	hasItems bool
}

// partialList is how a list says that it is not the whole one.
type partialList struct {
	Continue  string `json:"continue"`           // names the next page; "" = there is none
	Remaining int64  `json:"remainingItemCount"` // after this page, if the server knows
}

// check returns an error when the list is not whole.
func (p *partialList) check() error {
	if p.Continue != "" || p.Remaining > 0 {
		return fmt.Errorf("%w list: it is one page of several", errMalformed)
	}
	return nil
}

// decodePage reads one page of a list and adds its items to answer, which must not
// be used if there is an error.
func decodePage(r io.Reader, answer collection) (listHead, error) {
	of := answer.kind()
	kind := of.object + "List"
	dec := newBoundedDecoder(r, maxPage)
	var head listHead
	err := walkObject(dec, func(name string) error {
		switch name {
		case "kind":
			return dec.Decode(&head.Kind)
		case "apiVersion":
			return dec.Decode(&head.APIVersion)
		case "metadata":
			return dec.Decode(&head.Metadata)
		case "items":
			head.hasItems = true
			return walkArray(dec, func() error {
				o := of.new()
				if err := dec.Decode(o); err != nil {
					return err
				}
				if err := cmp.Or(o.meta().is(of.object, of.apiVersion()), o.check()); err != nil {
					return err
				}
				return answer.add(o)
			})
		}
		return skip(dec)
	})
	if err != nil {
		return listHead{}, fmt.Errorf("%s: %w", kind, err)
	}
	// The "{}" of a proxy must not count as an empty cluster.
	if head.Kind != kind || !head.hasItems || head.Metadata.ResourceVersion == "" {
		return listHead{}, fmt.Errorf("%w answer: kind %q, not a complete %s", errMalformed, shorten(head.Kind, quotedText), kind)
	}
	if head.Metadata.Continue == "" {
		err = head.Metadata.check()
	}
	if err := cmp.Or(err, head.is(kind, of.apiVersion()),
		checkVersion("resourceVersion", head.Metadata.ResourceVersion), checkVersion("continue token", head.Metadata.Continue)); err != nil {
		return listHead{}, err
	}
	// The transport uses a connection again only after the body's end was read.
	switch _, err := dec.Token(); {
	case err == io.EOF:
	case err != nil && !malformed(err):
		return listHead{}, fmt.Errorf("%s: %w", kind, err)
	default:
		return listHead{}, fmt.Errorf("%w answer: something follows the %s", errMalformed, kind)
	}
	return head, nil
}

// walkObject reads one JSON object and calls field, which must read the value,
// for each of its names.
func walkObject(dec *json.Decoder, field func(name string) error) error {
	if err := expect(dec, '{'); err != nil {
		return err
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return cut(err)
		}
		s, ok := name.(string)
		if !ok {
			return fmt.Errorf("%w object: name %s", errMalformed, shorten(fmt.Sprint(name), quotedText))
		}
		if err := field(s); err != nil {
			return cut(err)
		}
	}
	return expect(dec, '}')
}

// walkArray reads one JSON array, or the null that an empty one may be, and
// calls item, which must read the value, for each of its elements.
func walkArray(dec *json.Decoder, item func() error) error {
	start, err := dec.Token()
	if err != nil {
		return cut(err)
	}
	if start == nil {
		return nil
	}
	if start != json.Delim('[') {
		return fmt.Errorf("%w list: %s is no array", errMalformed, shorten(fmt.Sprint(start), quotedText))
	}
	for dec.More() {
		if err := item(); err != nil {
			return cut(err)
		}
	}
	return expect(dec, ']')
}

// expect reads one delimiter.
func expect(dec *json.Decoder, want json.Delim) error {
	got, err := dec.Token()
	if err != nil {
		return cut(err)
	}
	if got != want {
		return fmt.Errorf("%w: %s where %q should be", errMalformed, shorten(fmt.Sprint(got), quotedText), want)
	}
	return nil
}

// skip reads one value and forgets it.
func skip(dec *json.Decoder) error {
	var value json.RawMessage
	return dec.Decode(&value)
}

// cut makes an end inside a value an error that is different from a regular end.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
