// Decodes what an API server or a cluster file sends, and keeps only what is
// needed.
//
// Used by kube*.go. The bytes come from outside and may be anything. Objects
// are decoded one at a time into structs with only the needed fields, so a long
// list or managedFields are never in memory as a whole. Pure: no I/O except the
// given reader, no log, no k8s.io packages. A decoder never returns a part of
// an answer without an error.

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
)

// errMalformed marks an answer that was read to the letter and makes no sense.
// Answers that were cut short are io.ErrUnexpectedEOF or the reader's error.
var errMalformed = errors.New("malformed")

// malformed reports whether err is the fault of the bytes, not of the reading.
func malformed(err error) bool {
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	return errors.As(err, &syntax) || errors.As(err, &mismatch) || errors.Is(err, errMalformed)
}

// object is a Pod or a ConfigMap, reduced to what is kept of either.
type object struct {
	Kind     string `json:"kind"` // absent from the items of a typed list
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		ResourceVersion   string            `json:"resourceVersion"`
		DeletionTimestamp *string           `json:"deletionTimestamp"`
		Annotations       map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		NodeName    string `json:"nodeName"`
		HostNetwork bool   `json:"hostNetwork"`
		Containers  []struct {
			Ports []containerPort `json:"ports"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase      string `json:"phase"`
		HostIP     string `json:"hostIP"`
		HostIPs    []ip   `json:"hostIPs"`
		PodIP      string `json:"podIP"`
		PodIPs     []ip   `json:"podIPs"`
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
	Data map[string]string `json:"data"`
}

// containerPort is a port that a container declares.
type containerPort struct {
	ContainerPort int    `json:"containerPort"`
	HostPort      int    `json:"hostPort"`
	Protocol      string `json:"protocol"` // TCP when absent
}

// ip is an element of a pod's hostIPs and podIPs.
type ip struct {
	IP string `json:"ip"`
}

// pod returns what is kept of o, a Pod.
func (o *object) pod(q PodQuery, names interner) *Pod {
	p := &Pod{
		UID:         o.Metadata.UID,
		Namespace:   names.intern(o.Metadata.Namespace),
		Name:        o.Metadata.Name,
		Node:        names.intern(o.Spec.NodeName),
		HostNetwork: o.Spec.HostNetwork,
		Addresses:   o.addresses(),
		Terminating: o.Metadata.DeletionTimestamp != nil || o.Status.Phase == "Succeeded" || o.Status.Phase == "Failed",
	}
	if q.Annotation != "" {
		p.Weight = keptWeight(o.Metadata.Annotations[q.Annotation], names)
	}
	if q.Ports {
		p.Ports = o.ports()
	}
	for _, c := range o.Status.Conditions {
		if c.Type == "Ready" {
			p.Ready = c.Status == "True"
		}
	}
	return p
}

// ports are the ports at which o, a Pod, says it can be reached on its node.
func (o *object) ports() []Port {
	var ports []Port
	for _, c := range o.Spec.Containers {
		for _, cp := range c.Ports {
			n := cp.HostPort
			if n == 0 && o.Spec.HostNetwork {
				n = cp.ContainerPort
			}
			p := Port{Protocol: TCP}
			switch cp.Protocol {
			case "", "TCP":
			case "UDP":
				p.Protocol = UDP
			case "SCTP":
				p.Protocol = SCTP
			default:
				continue
			}
			if n < 1 || n > 65535 {
				continue
			}
			p.Number = uint16(n)
			ports = append(ports, p)
		}
	}
	slices.SortFunc(ports, Port.Compare)
	// Those that were the same leave their room behind.
	return slices.Clone(slices.Compact(ports))
}

// addresses are the node's, then the pod's own, each once. The plural fields
// hold the singular ones when they are there at all. What is no address is left
// out: better a pod without an address than one at a wrong one.
func (o *object) addresses() []netip.Addr {
	s := &o.Status
	if len(s.HostIPs) == 0 {
		s.HostIPs = []ip{{s.HostIP}}
	}
	if len(s.PodIPs) == 0 {
		s.PodIPs = []ip{{s.PodIP}}
	}
	var addrs []netip.Addr
	for _, list := range [][]ip{s.HostIPs, s.PodIPs} {
		for _, each := range list {
			if len(addrs) == maxAddresses {
				return addrs
			}
			a, err := netip.ParseAddr(each.IP)
			if a.Zone() != "" {
				continue // it names a device of the node, in any number of bytes
			}
			if a = a.Unmap(); err == nil && !a.IsUnspecified() && !slices.Contains(addrs, a) {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

// interner keeps one copy of strings that thousands of pods share. A watch that
// goes on for months meets ever new ones: it forgets them all now and then.
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

// content is everything known for one stream's key.
type content struct {
	pods      []*Pod // in comparePods order, each once
	configMap ConfigMap
}

// equal reports whether nothing that is kept differs.
func (c content) equal(d content) bool {
	same := func(a, b *Pod) bool { return a == b || samePod(a, b) }
	return slices.EqualFunc(c.pods, d.pods, same) && sameConfigMap(c.configMap, d.configMap)
}

func samePod(a, b *Pod) bool {
	return a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name && a.Node == b.Node &&
		a.HostNetwork == b.HostNetwork && a.Ready == b.Ready && a.Terminating == b.Terminating &&
		a.Weight == b.Weight && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Ports, b.Ports)
}

func sameConfigMap(a, b ConfigMap) bool {
	return a.Exists == b.Exists && a.More == b.More && maps.Equal(a.Data, b.Data)
}

// contentBuilder gathers a complete answer for key, object by object.
type contentBuilder struct {
	key   streamKey
	names interner
	content
}

// add takes o into the answer. An object that key does not ask for is passed
// over: some proxies and old servers ignore field selectors. The error means that
// the answer has more objects than it may have.
func (b *contentBuilder) add(o *object) error {
	if !b.key.covers(o) {
		return nil
	}
	if b.key.configMap != (ConfigMapName{}) {
		b.configMap = keptConfigMap(o.Data)
		return nil
	}
	if len(b.pods) == maxObjects {
		return errTooMany
	}
	b.pods = append(b.pods, o.pod(b.key.pods, b.names))
	return nil
}

// done puts the answer in order. Of two pods of one name, which only a file can
// hold, the later one counts.
func (b *contentBuilder) done() content {
	slices.Reverse(b.pods)
	slices.SortStableFunc(b.pods, comparePods)
	b.pods = slices.CompactFunc(b.pods, func(p, q *Pod) bool { return comparePods(p, q) == 0 })
	return content{pods: slices.Clip(b.pods), configMap: b.configMap}
}

// covers reports whether o is in the place that k asks about. Label selectors
// are the source's business.
func (k streamKey) covers(o *object) bool {
	if k.configMap != (ConfigMapName{}) {
		return o.Metadata.Namespace == k.configMap.Namespace && o.Metadata.Name == k.configMap.Name
	}
	return k.pods.Namespace == "" || o.Metadata.Namespace == k.pods.Namespace
}

// with returns c after one watch event, without changing c.
func (c content) with(key streamKey, e *event, names interner) content {
	if !key.covers(&e.object) {
		return c
	}
	gone := e.kind == eventDeleted
	if key.configMap != (ConfigMapName{}) {
		if gone {
			return content{}
		}
		return content{configMap: keptConfigMap(e.object.Data)}
	}
	p := e.object.pod(key.pods, names)
	i, found := slices.BinarySearchFunc(c.pods, p, comparePods)
	if gone && !found || !gone && found && samePod(c.pods[i], p) {
		return c
	}
	after := i
	if found {
		after++
	}
	next := make([]*Pod, 0, len(c.pods)+1) // the pods themselves are shared
	next = append(next, c.pods[:i]...)
	if !gone {
		next = append(next, p)
	}
	return content{pods: append(next, c.pods[after:]...)}
}

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
	object object
	status apiStatus // of an eventError
}

// apiStatus is the API's way to say why not (metav1.Status).
type apiStatus struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// eventDecoder reads the messages of one watch.
type eventDecoder struct {
	dec *json.Decoder
	raw struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"` // what it is depends on Type
	}
}

// newEventDecoder returns a decoder of the watch in r.
func newEventDecoder(r io.Reader) *eventDecoder { return &eventDecoder{dec: newBoundedDecoder(r, 0)} }

// next returns the next message: io.EOF when the watch ended between two of
// them, another error when it broke or makes no sense.
func (d *eventDecoder) next() (*event, error) {
	d.raw.Type, d.raw.Object = "", d.raw.Object[:0] // the buffer is used again
	if err := d.dec.Decode(&d.raw); err != nil {
		return nil, err
	}
	e := &event{kind: d.raw.Type}
	var into any = &e.object
	switch e.kind {
	case eventAdded, eventModified, eventDeleted, eventBookmark:
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
	if e.object.Metadata.ResourceVersion == "" {
		return nil, fmt.Errorf("%w watch event of type %s: no resourceVersion", errMalformed, e.kind)
	}
	err := checkVersion("resourceVersion", e.object.Metadata.ResourceVersion)
	if e.kind != eventBookmark {
		err = e.object.check()
	}
	if err != nil {
		return nil, fmt.Errorf("watch event of type %s: %w", e.kind, err)
	}
	return e, nil
}

// listHead is a list without its items.
type listHead struct {
	Kind     string
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"` // names the next page; "" = there is none
	}
	hasItems bool
}

// decodePage reads one page of a list of the given kind ("PodList") and calls
// each for every item in turn; the object is each's to keep. The caller must
// forget the items if an error comes after them.
func decodePage(r io.Reader, kind string, each func(*object) error) (listHead, error) {
	dec := newBoundedDecoder(r, maxPage)
	var head listHead
	err := walkObject(dec, func(name string) error {
		switch name {
		case "kind":
			return dec.Decode(&head.Kind)
		case "metadata":
			return dec.Decode(&head.Metadata)
		case "items":
			head.hasItems = true
			return walkArray(dec, func() error {
				o := new(object)
				if err := dec.Decode(o); err != nil {
					return err
				}
				if err := o.check(); err != nil {
					return err
				}
				return each(o)
			})
		}
		return skip(dec)
	})
	if err != nil {
		return listHead{}, fmt.Errorf("%s: %w", kind, err)
	}
	// A proxy's own "{}" must not pass for an empty cluster.
	if head.Kind != kind || !head.hasItems || head.Metadata.ResourceVersion == "" {
		return listHead{}, fmt.Errorf("%w answer: kind %q, not a complete %s", errMalformed, shorten(head.Kind, quotedText), kind)
	}
	if err := cmp.Or(checkVersion("resourceVersion", head.Metadata.ResourceVersion), checkVersion("continue token", head.Metadata.Continue)); err != nil {
		return listHead{}, err
	}
	// Reading to the end lets the connection be used again.
	if _, err := dec.Token(); err != io.EOF {
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

// cut turns an end that comes inside a value into an error nobody takes for a
// regular end.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// streamKey is what one stream asks for: pods, or one ConfigMap. The other
// field is zero.
type streamKey struct {
	pods      PodQuery
	configMap ConfigMapName
}

// resource is the name the API has for what is asked for.
func (k streamKey) resource() string {
	if k.configMap != (ConfigMapName{}) {
		return "configmaps"
	}
	return "pods"
}

// namespace is where it is asked for; "" = everywhere.
func (k streamKey) namespace() string { return k.pods.Namespace + k.configMap.Namespace }

func (k streamKey) String() string {
	if k.configMap != (ConfigMapName{}) {
		return "configmap " + k.configMap.String()
	}
	return "pods " + k.pods.Namespace + " " + k.pods.Selector
}
