// Follows a file instead of an API server: the output of `kubectl get
// pods,configmaps -o json` (or yaml), for trials, tests and clusters whose API a
// director may not use.
//
// Used by cmd*.go. One followFile serves all streams. The file is read
// again after any change (write, rename over it, symlink swap), and is accepted as a
// whole or not at all: a file that is missing, cut off or invalid changes nothing.
// Label selectors are applied here, because there is no server to apply them.

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// fileFollower keeps all streams current from one file. It belongs to one
// goroutine.
type fileFollower struct {
	owner   *clusterWatch
	path    string
	streams []*stream
	failing failureLog // of the content
	passed  failureLog // of what the content has beside that
	doubted string     // stamp of the file that is in doubt; "" = none
	due     time.Time  // when it confirms itself, if it is still the same
}

// fileStamp changes whenever a file does. "" is a file that does not exist.
func fileStamp(info os.FileInfo, err error) string {
	if err != nil {
		return ""
	}
	sys := info.Sys().(*syscall.Stat_t)
	return fmt.Sprint(sys.Dev, sys.Ino, sys.Size, sys.Mtim)
}

// followFile keeps streams current from the file at path until ctx ends.
func (w *clusterWatch) followFile(ctx context.Context, path string, streams []*stream) {
	f := &fileFollower{owner: w, path: path, streams: streams}
	recheck := make(chan struct{}, 1)
	timer := time.AfterFunc(math.MaxInt64, func() { ring(recheck) })
	defer timer.Stop()
	take := func(bool) string {
		stamp := f.take()
		if f.doubted != "" {
			timer.Reset(f.due.Sub(w.now()))
		}
		return stamp
	}
	watch := &fileWatch{
		path: path,
		look: func() (string, func(bool) string) {
			stamp := fileStamp(os.Stat(path))
			if f.confirmed(stamp) {
				stamp += " confirmed" // a state that was not acted on
			}
			return stamp, take
		},
		taken:     take(false),
		quiet:     w.pace.fileQuiet,
		poll:      w.pace.filePoll,
		pollBlind: w.pace.filePoll,
		recheck:   recheck,
		unwatchable: func(err error) {
			w.log.Warn("the cluster file cannot be watched and is read at an interval", "file", path, "every", w.pace.filePoll, "err", err)
		},
	}
	watch.run(ctx)
}

// confirmed reports whether the file, of this stamp, is in doubt and has not changed
// for so long that it confirms itself.
func (f *fileFollower) confirmed(stamp string) bool {
	return stamp != "" && stamp == f.doubted && !f.due.IsZero() && !f.owner.now().Before(f.due)
}

// take reads the file and publishes its answer for every stream. It returns the
// stamp of the file that it has read.
func (f *fileFollower) take() string {
	keys := make([]streamKey, len(f.streams))
	for i, s := range f.streams {
		keys[i] = s.key
	}
	is, err := readClusterFile(f.path, keys)
	if err != nil {
		err = fmt.Errorf("cluster file %s: %w", f.path, err)
		f.due = time.Time{} // it has changed
		for _, s := range f.streams {
			s.fails(err)
		}
		if begins, _ := f.failing.noteText(string(is.sum) + report(err)); begins {
			f.owner.log.Error("the cluster file is rejected; the last known state stays in force", "err", report(err))
		}
		return is.stamp
	}
	if _, ends := f.failing.note(nil); ends {
		f.owner.log.Info("the cluster file is valid again", "file", f.path)
	}
	if begins, _ := f.passed.noteText(is.passed); begins {
		f.owner.log.Info("the cluster file has objects that are not used", "file", f.path, "kinds", is.passed)
	}
	if is.stamp == f.doubted && !f.confirmed(is.stamp) {
		// It was moved away and back: its content can confirm nothing.
		for _, s := range f.streams {
			s.guard.doubted = nil
		}
	}
	f.publish(is.answers, is.stamp)
	return is.stamp
}

// publish publishes the answers of the file of this stamp, but for those that another
// one has to confirm: a later write, or the same file when it has not changed for
// pace.fileConfirm.
func (f *fileFollower) publish(answers []collection, stamp string) {
	f.doubted, f.due = "", f.owner.now().Add(f.owner.pace.fileConfirm)
	confirm := "a later write of the file, or " + f.due.Format(time.RFC3339) + " if the file does not change"
	// What kubectl prints when the API is away, or refuses one type, lacks whole
	// types: then all that is missing is in doubt.
	partial := false
	for i, s := range f.streams {
		partial = s.doubts(answers[i]) || partial
	}
	for i, s := range f.streams {
		if err := s.checkRemoval(answers[i], partial, confirm); err != nil {
			f.doubted = stamp
			s.fails(fmt.Errorf("cluster file %s: %w", f.path, err))
			continue
		}
		f.owner.publish(s, answers[i], true)
		s.follows()
	}
}

// clusterFile is what a cluster file says.
type clusterFile struct {
	answers []collection
	passed  string // the objects that were passed over, in words
	sum     []byte // of the whole content; nil when that is too large, or cannot be read
	stamp   string
}

// readClusterFile reads the file's answer for each of keys. The sum and the stamp are
// those of the file even when there is an error.
func readClusterFile(path string, keys []streamKey) (is clusterFile, err error) {
	file, info, err := openRegular(path, maxPage)
	if info != nil {
		is.stamp = fileStamp(info, nil)
	}
	if err != nil {
		return is, err
	}
	defer file.Close()
	hash := sha256.New()
	in := io.TeeReader(file, hash)
	is.answers, is.passed, err = decodeClusterFile(in, keys)
	if err != nil {
		_, _ = io.CopyN(io.Discard, in, maxPage) // a content that cannot be read is identified by err alone
	}
	is.sum = hash.Sum(nil)
	return is, err
}

// decodeClusterFile reads JSON or YAML documents: lists of any mixture, or
// single objects. Objects of kinds that no stream follows are passed over. passed
// names them. What is no object of Kubernetes is an error.
func decodeClusterFile(r io.Reader, keys []streamKey) (answers []collection, passed string, err error) {
	d := &fileDecoder{passed: map[string]int{}}
	for _, key := range keys {
		selector, err := labels.Parse(key.scope().selector)
		if err != nil {
			return nil, "", fmt.Errorf("label selector %q: %w", key.scope().selector, err)
		}
		d.answers = append(d.answers, &fileAnswer{collection: key.collect(), selector: selector, scope: key.scope(), keys: selectorKeys(key.scope().selector)})
	}
	if err := d.documents(r); err != nil {
		return nil, "", err
	}
	if !d.found {
		return nil, "", errors.New("it has no list, Pod or ConfigMap")
	}
	for _, a := range d.answers {
		a.complete()
		if l, pods := a.collection.(*podCollection); pods && len(l.kept) == 0 && l.Selector != "" {
			l.instead = a.others.text(a.keys, l.Namespace)
		}
		answers = append(answers, a.collection)
	}
	return answers, d.passedOver(), nil
}

// fileDecoder gathers the answers to all streams in one pass over a file.
type fileDecoder struct {
	answers []*fileAnswer
	found   bool           // a list that may have any kind, or an object of a kind in streamKinds
	passed  map[string]int // objects of other kinds; at most shownWarnings kinds
	more    int            // objects of the kinds that passed has no room for
	// unfinished is what the last document, a single object, lacks: it may be cut short.
	// JSON that is cut short is an error itself.
	unfinished error
	raw        json.RawMessage
	fields     [maxListDepth + 1][]byte // used again for each element of a depth
}

// fileAnswer is the answer to one stream.
type fileAnswer struct {
	collection
	selector labels.Selector
	scope    scope
	keys     []string    // labels of the selector
	others   labelSample // of the objects that it does not select
}

// documents reads all documents of r. JSON is decoded one object at a time, so that
// a file of thousands of pods needs no more memory than a list from a server. YAML
// has to be in memory as a whole.
func (d *fileDecoder) documents(r io.Reader) error {
	in := bufio.NewReader(r)
	head, _ := in.Peek(encodingHead) // an error comes again
	if isUTF16(string(head)) {
		return errors.New("it is UTF-16, want UTF-8 text")
	}
	if bytes.HasPrefix(head, []byte("\ufeff")) {
		_, _ = in.Discard(len("\ufeff"))
	}
	first, err := firstByte(in)
	if err == io.EOF {
		return errors.New("it is empty")
	}
	if err != nil {
		return err
	}
	if first == '{' {
		dec := newBoundedDecoder(in, maxPage)
		for dec.More() {
			if err := d.document(dec); err != nil {
				return err
			}
		}
		if _, err := dec.Token(); err != io.EOF {
			return fmt.Errorf("%w JSON: something follows the last document", errMalformed)
		}
		return nil
	}

	raw, err := io.ReadAll(io.LimitReader(in, maxYAML+1))
	if err != nil {
		return err
	}
	if len(raw) > maxYAML {
		return fmt.Errorf("%w YAML: it is larger than %d MiB; JSON may have %d MiB", errMalformed, maxYAML>>20, maxPage>>20)
	}
	// YAML cut short is often still YAML, with an address that lacks its last
	// digit. A complete file has the end of its last line; kubectl's lists also end
	// with their kind, which document requires.
	if raw[len(raw)-1] != '\n' {
		return errors.New("its last line has no end: it is cut short, or half written")
	}
	if err := separate(raw); err != nil {
		return err
	}
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for {
		doc, err := docs.Read()
		if err == io.EOF {
			return d.unfinished
		}
		if err != nil {
			return err
		}
		converted, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return err
		}
		if string(converted) == "null" {
			continue // comments, or nothing, between two separators
		}
		if err := d.document(json.NewDecoder(bytes.NewReader(converted))); err != nil {
			return err
		}
	}
}

// separate makes each end of a YAML document ("...") in raw a separator, which the
// reader of documents knows. Of a document with an end inside, the rest would be
// dropped without an error. So would what follows a separator after one of the line
// breaks that are for YAML alone.
func separate(raw []byte) error {
	for _, lineBreak := range []string{"\r", "\u0085", "\u2028", "\u2029"} {
		for _, mark := range []string{"---", "..."} {
			if bytes.Contains(raw, []byte(lineBreak+mark)) {
				return fmt.Errorf("%w YAML: %q follows the line break %q, want a line feed", errMalformed, mark, lineBreak)
			}
		}
	}
	for at := 0; ; {
		next := bytes.Index(raw[at:], []byte("\n..."))
		if next < 0 {
			return nil
		}
		at += next + len("\n...")
		// The last line has an end, so there is a byte more.
		if bytes.IndexByte([]byte(" \t\r\n"), raw[at]) >= 0 {
			copy(raw[at-len("..."):], "---")
		}
	}
}

// firstByte returns the first byte of r that is not white space, and unreads it.
func firstByte(r *bufio.Reader) (byte, error) {
	for n := 0; ; n++ {
		if n > maxObject {
			return 0, fmt.Errorf("%w file: the white space at its beginning is larger than %d MiB", errMalformed, maxObject>>20)
		}
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		if !strings.ContainsRune(" \t\r\n", rune(b)) {
			return b, r.UnreadByte()
		}
	}
}

// maxListDepth is how deep lists may be nested.
const maxListDepth = 8

// element is one object of a file, or a list without the items that were added.
type element struct {
	objectType
	fields  []byte    // in JSON, those that are needed; without the last brace
	isList  bool      // it has items
	other   string    // name of a field that no list has; "" = none
	unnamed []element // items without a kind, which came before that of the list
}

// document reads one document: a list, or a single object.
func (d *fileDecoder) document(dec *json.Decoder) error {
	e, err := d.element(dec, 0)
	if err != nil {
		return err
	}
	err = d.add(&e)
	if e.isList {
		d.unfinished = nil // of an item
	}
	return err
}

// element reads an object of the lists around it, of which there are depth. The
// items of a list, of which nothing more has to be known, are added.
func (d *fileDecoder) element(dec *json.Decoder, depth int) (e element, err error) {
	if depth > maxListDepth {
		return e, fmt.Errorf("%w file: lists are nested deeper than %d", errMalformed, maxListDepth)
	}
	e.fields = append(d.fields[depth][:0], '{')
	err = walkObject(dec, func(name string) error {
		if e.other == "" && !slices.Contains([]string{"apiVersion", "kind", "metadata", "items"}, name) {
			e.other = shorten(name, quotedText)
		}
		switch {
		case name == "apiVersion" && e.APIVersion == "":
			return dec.Decode(&e.APIVersion)
		case name == "kind" && e.Kind == "":
			return dec.Decode(&e.Kind)
		case name == "items" && !e.isList:
			e.isList = true
			return walkArray(dec, func() error { return d.item(dec, depth, &e) })
		case name == "apiVersion" || name == "kind" || name == "items":
			return fmt.Errorf("%w object: it has %q twice", errMalformed, name)
		case !objectField(name):
			return skip(dec)
		}
		if err := dec.Decode(&d.raw); err != nil {
			return err
		}
		if len(e.fields) > 1 {
			e.fields = append(e.fields, ',')
		}
		e.fields = append(append(strconv.AppendQuote(e.fields, name), ':'), d.raw...)
		return nil
	})
	d.fields[depth] = e.fields
	return e, err
}

// item reads one item of list. Without a kind it has that of the list, which may come
// after the items.
func (d *fileDecoder) item(dec *json.Decoder, depth int, list *element) error {
	item, err := d.element(dec, depth+1)
	switch {
	case err != nil:
		return err
	case item.Kind != "" || list.Kind != "" && list.APIVersion != "":
		return d.addItem(list, &item)
	}
	item.fields = bytes.Clone(item.fields)
	list.unnamed = append(list.unnamed, item)
	return nil
}

// addItem adds an item of list, whose kind is known if the item needs it.
func (d *fileDecoder) addItem(list, item *element) error {
	if item.Kind == "" {
		if item.Kind = strings.TrimSuffix(list.Kind, "List"); item.Kind == "" {
			return fmt.Errorf("%w List: an item has no kind", errMalformed)
		}
		item.APIVersion = cmp.Or(item.APIVersion, list.APIVersion)
	}
	return d.add(item)
}

// add adds an element to the answers it belongs to, or passes it over. An element that
// is not understood is an error: the answers would lack what it means.
func (d *fileDecoder) add(e *element) error {
	if e.Kind == "" {
		return fmt.Errorf("%w document: no kind; it may be cut short", errMalformed)
	}
	raw := append(e.fields, '}')
	k := kindNamed(e.Kind)
	if k != nil && (e.isList || e.is(k.object, k.apiVersion()) != nil) {
		k = nil
	}
	if k != nil {
		if d.asks(k) {
			d.found = true
			return d.object(k, raw)
		}
		if o := k.new(); json.Unmarshal(raw, o) == nil {
			d.unfinished = wrap(k.object+" "+o.meta().Metadata.Name, o.whole())
		}
	}
	var m struct {
		Metadata struct {
			Name string
			partialList
		}
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("%s: %w", shorten(e.Kind, quotedText), err)
	}
	if e.isList {
		return wrap(shorten(e.Kind, quotedText), cmp.Or(m.Metadata.check(), d.list(e)))
	}
	if m.Metadata.Name == "" || k == nil && !d.otherKind(e.APIVersion, e.Kind) {
		return e.refused()
	}
	name := printable(shorten(e.Kind, quotedText))
	if _, counted := d.passed[name]; counted || len(d.passed) < shownWarnings {
		d.passed[name]++
	} else {
		d.more++
	}
	return nil
}

// asks reports whether a stream follows objects of kind k.
func (d *fileDecoder) asks(k *streamKind) bool {
	return slices.ContainsFunc(d.answers, func(a *fileAnswer) bool { return a.kind() == k })
}

// list takes a list as what it says it is, and adds the items that are left.
func (d *fileDecoder) list(e *element) error {
	items, named := strings.CutSuffix(e.Kind, "List")
	of := kindNamed(items)
	switch {
	case !named:
		return e.refused()
	case items == "" && e.is("List", "v1") == nil, of != nil && e.is(e.Kind, of.apiVersion()) == nil:
		d.found = true
		if e.other != "" { // such as an error of kubectl, after a List that lacks something
			return fmt.Errorf("%w %s: it has a field %q", errMalformed, e.Kind, e.other)
		}
	case !d.otherKind(e.APIVersion, items):
		return e.refused()
	}
	for i := range e.unnamed {
		if err := d.addItem(e, &e.unnamed[i]); err != nil {
			return err
		}
	}
	return nil
}

// refused is the error of an element that is not understood.
func (e *element) refused() error {
	return fmt.Errorf("%w file: kind %q, apiVersion %q is not understood or not complete",
		errMalformed, shorten(e.Kind, quotedText), shorten(e.APIVersion, quotedText))
}

// passedOver names the kinds of the objects that were passed over; "" = none.
func (d *fileDecoder) passedOver() string {
	var kinds []string
	for name, n := range d.passed {
		kinds = append(kinds, fmt.Sprintf("%s (%d)", name, n))
	}
	slices.Sort(kinds)
	if d.more > 0 {
		kinds = append(kinds, fmt.Sprintf("and %d more objects", d.more))
	}
	return strings.Join(kinds, ", ")
}

// coreKinds are the kinds of the API version v1 that no stream need follow.
var coreKinds = strings.Fields(`Binding ComponentStatus ConfigMap Endpoints Event LimitRange
	Namespace Node PersistentVolume PersistentVolumeClaim Pod PodTemplate ReplicationController
	ResourceQuota Secret Service ServiceAccount`)

// otherKind reports whether kind is one of Kubernetes that no stream follows. Of
// another group than v1 that is any kind, but for what is said about objects
// (a Table, a Status), and what means to be an object that a stream follows. Groups that
// are not Kubernetes' own may use its names: there is a Service of serving.knative.dev.
func (d *fileDecoder) otherKind(apiVersion, kind string) bool {
	group, version, grouped := strings.Cut(apiVersion, "/")
	for _, k := range streamKinds {
		if k.group() != "" && !d.asks(k) {
			continue // another version of it does not matter
		}
		if kind == k.object && strings.Contains(group, ".") && group != k.group() {
			continue
		}
		if strings.EqualFold(kind, k.object) || strings.EqualFold(kind, k.resource) {
			return false
		}
	}
	if !grouped {
		return apiVersion == "v1" && slices.Contains(coreKinds, kind)
	}
	return group != "" && version != "" && !strings.Contains(version, "/") && group != "meta.k8s.io" && kind != ""
}

// objectField reports whether a field of an object is one that a stream needs.
func objectField(name string) bool {
	return name == "metadata" || slices.ContainsFunc(streamKinds, func(k *streamKind) bool {
		return slices.Contains(k.fields, name)
	})
}

// object adds one object of kind k to the answers it belongs to.
func (d *fileDecoder) object(k *streamKind, raw []byte) error {
	o := k.new()
	m := &o.meta().Metadata
	if err := json.Unmarshal(raw, o); err != nil {
		return fmt.Errorf("%s %s: %w", k.object, shorten(m.Name, quotedText), err)
	}
	if m.Name == "" {
		return fmt.Errorf("%w %s: no name; the file may be cut short", errMalformed, k.object)
	}
	if err := o.check(); err != nil {
		return err
	}
	d.unfinished = wrap(k.object+" "+m.Name, o.whole())
	if m.Namespace == "" {
		m.Namespace = "default" // where kubectl would put it
	}
	for _, a := range d.answers {
		switch {
		case a.kind() != k:
		case a.selector.Matches(labels.Set(m.Labels)):
			if err := a.add(o); err != nil {
				return err
			}
		case a.scope.covers(o.meta()):
			a.others.add(a.keys, m.Labels)
		}
	}
	return nil
}
