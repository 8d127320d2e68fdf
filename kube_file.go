// Follows a file instead of an API server: the output of `kubectl get
// pods,configmaps -o json` (or yaml), for trials, tests and clusters whose API a
// director may not use.
//
// Used by kube.go. One followFile serves all streams. The file is read again
// after any change (write, rename over it, symlink swap), and is accepted as a
// whole or not at all: a file that is missing, cut off or invalid changes
// nothing. Label selectors are applied here, because there is no server to
// apply them.

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

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
	watch := &fileWatch{
		path: path,
		look: func() (string, func(bool) string) {
			return fileStamp(os.Stat(path)), func(bool) string { return f.take(ctx) }
		},
		taken:     f.take(ctx),
		quiet:     w.pace.fileQuiet,
		poll:      w.pace.filePoll,
		pollBlind: w.pace.filePoll,
		unwatchable: func(err error) {
			w.log.Warn("the cluster file cannot be watched and is read at an interval", "file", path, "every", w.pace.filePoll, "err", err)
		},
	}
	watch.run(ctx)
}

// take reads the file and publishes its answer for every stream. It returns the
// stamp of the file that it has read.
func (f *fileFollower) take(ctx context.Context) string {
	keys := make([]streamKey, len(f.streams))
	for i, s := range f.streams {
		keys[i] = s.key
	}
	answers, sum, stamp, err := readClusterFile(f.path, keys)
	if err != nil {
		err = fmt.Errorf("cluster file %s: %w", f.path, err)
		for _, s := range f.streams {
			s.fails(err)
		}
		if begins, _ := f.failing.noteText(string(sum) + report(err)); begins {
			f.owner.log.Error("the cluster file is rejected; the last known state stays in force", "err", report(err))
		}
		return stamp
	}
	doubt := false
	for i, s := range f.streams {
		if s.checkRemoval(answers[i].pods()) != nil {
			doubt = true
			continue
		}
		f.owner.publish(s, answers[i], true)
		s.follows()
	}
	if _, ends := f.failing.note(nil); ends {
		f.owner.log.Info("the cluster file is valid again", "file", f.path)
	}
	if doubt {
		f.owner.sleep(ctx, f.owner.pace.confirm)
		if ctx.Err() == nil {
			return f.take(ctx)
		}
	}
	return stamp
}

// readClusterFile returns the file's answer for each of keys, and what identifies
// this content and this file. The sum is that of the whole content even when there
// is an error, if it could be read and is not too large.
func readClusterFile(path string, keys []streamKey) (answers []collection, sum []byte, stamp string, err error) {
	file, info, err := openRegular(path, maxPage)
	if info != nil {
		stamp = fileStamp(info, nil)
	}
	if err != nil {
		return nil, nil, stamp, err
	}
	defer file.Close()
	hash := sha256.New()
	in := io.TeeReader(file, hash)
	answers, err = decodeClusterFile(in, keys)
	if err != nil {
		_, _ = io.CopyN(io.Discard, in, maxPage) // a content that cannot be read is identified by err alone
	}
	return answers, hash.Sum(nil), stamp, err
}

// decodeClusterFile reads JSON or YAML documents: lists of any mixture, or
// single objects. Objects of kinds that no stream follows are passed over.
func decodeClusterFile(r io.Reader, keys []streamKey) ([]collection, error) {
	d := &fileDecoder{}
	for _, key := range keys {
		selector, err := labels.Parse(key.scope().selector)
		if err != nil {
			return nil, fmt.Errorf("label selector %q: %w", key.scope().selector, err)
		}
		d.answers = append(d.answers, &fileAnswer{collection: key.collect(), selector: selector, scope: key.scope(), keys: selectorKeys(key.scope().selector)})
	}
	if err := d.documents(r); err != nil {
		return nil, err
	}
	if !d.found {
		return nil, errors.New("it has no list, Pod or ConfigMap")
	}
	var answers []collection
	for _, a := range d.answers {
		a.complete()
		if l, pods := a.collection.(*podCollection); pods && len(l.kept) == 0 && l.Selector != "" {
			l.instead = a.others.text(a.keys, l.Namespace)
		}
		answers = append(answers, a.collection)
	}
	return answers, nil
}

// fileDecoder gathers the answers to all streams in one pass over a file.
type fileDecoder struct {
	answers []*fileAnswer
	found   bool // a list, or an object of a kind in streamKinds
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
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for {
		doc, err := docs.Read()
		if err == io.EOF {
			return nil
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

// document reads one document: a list, or a single object.
func (d *fileDecoder) document(dec *json.Decoder) error {
	var kind string
	var hasItems bool
	var item json.RawMessage      // its buffer is used again for every item
	var unnamed []json.RawMessage // items that have no kind
	single := map[string]json.RawMessage{}
	err := walkObject(dec, func(name string) error {
		switch name {
		case "kind":
			return dec.Decode(&kind)
		case "items":
			hasItems = true
			return walkArray(dec, func() error {
				item = item[:0]
				if err := dec.Decode(&item); err != nil {
					return err
				}
				var own struct {
					Kind string `json:"kind"`
				}
				if err := json.Unmarshal(item, &own); err != nil {
					return err
				}
				if own.Kind == "" {
					unnamed = append(unnamed, bytes.Clone(item))
					return nil
				}
				return d.object(own.Kind, item)
			})
		}
		if !objectField(name) {
			return skip(dec)
		}
		var value json.RawMessage
		err := dec.Decode(&value)
		single[name] = value
		return err
	})
	if err != nil {
		return err
	}

	items, list := strings.CutSuffix(kind, "List")
	switch {
	case kind == "":
		return fmt.Errorf("%w document: no kind; it may be cut short", errMalformed)
	case list && (items == "" || kindNamed(items) != nil):
		if !hasItems {
			return fmt.Errorf("%w %s: no items; it may be cut short", errMalformed, kind)
		}
		d.found = true
		for _, item := range unnamed {
			if items == "" {
				return fmt.Errorf("%w List: an item has no kind", errMalformed)
			}
			if err := d.object(items, item); err != nil {
				return err
			}
		}
		return nil
	}
	raw, err := json.Marshal(single)
	if err != nil {
		return err
	}
	return d.object(kind, raw)
}

// objectField reports whether a field of an object is one that a stream needs.
func objectField(name string) bool {
	return name == "metadata" || slices.ContainsFunc(streamKinds, func(k *streamKind) bool {
		return slices.Contains(k.fields, name)
	})
}

// object adds one object to the answers it belongs to.
func (d *fileDecoder) object(kind string, raw []byte) error {
	k := kindNamed(kind)
	if k == nil {
		return nil
	}
	d.found = true
	o := k.new()
	m := &o.meta().Metadata
	if err := json.Unmarshal(raw, o); err != nil {
		return fmt.Errorf("%s %s: %w", kind, shorten(m.Name, quotedText), err)
	}
	if m.Name == "" {
		return fmt.Errorf("%w %s: no name; the file may be cut short", errMalformed, kind)
	}
	if err := o.check(); err != nil {
		return err
	}
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
