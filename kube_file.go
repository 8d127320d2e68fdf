// Follows a file instead of an API server: the output of `kubectl get
// pods,configmaps -o json` (or yaml), for trials, tests and clusters that a
// director may not ask.
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
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
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
	read    fileStamp  // of the file that was last read
	failing failureLog // of the content
}

// fileStamp changes whenever a file does. The zero value is a file that does
// not exist.
type fileStamp struct {
	device, inode uint64
	size          int64
	modified      int64 // nanoseconds
}

// stampOf reads the stamp off info.
func stampOf(info os.FileInfo) fileStamp {
	s := fileStamp{size: info.Size(), modified: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode = sys.Dev, sys.Ino
	}
	return s
}

// followFile keeps streams current from the file at path until ctx ends.
func (w *clusterWatch) followFile(ctx context.Context, path string, streams []*stream) {
	f := &fileFollower{owner: w, path: path, streams: streams}
	f.take(ctx)

	// The directory is watched, because a rename or a symlink swap replaces
	// the file. The poll sees what inotify cannot: a symlink's far end, a
	// directory that is still to come, an exhausted inotify quota.
	var events chan fsnotify.Event
	var overflows chan error
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("no notifications of changes to the cluster file; looking now and then", "file", path, "every", w.pace.filePoll, "err", err)
	} else {
		defer notify.Close()
		events, overflows = notify.Events, notify.Errors
	}

	var seen fileStamp // a change that has been seen once
	var settling bool  // and is to be seen the same once more
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
		case <-overflows:
		case <-look.C:
			if notify != nil {
				// Needed again whenever the directory itself was replaced. If
				// it is not there, the next look tries again.
				_ = notify.Add(filepath.Dir(path))
			}
			now := fileStamp{}
			if info, err := os.Stat(path); err == nil {
				now = stampOf(info)
			}
			switch {
			case now == f.read:
				settling = false
			case !settling || now != seen:
				seen, settling = now, true // it may be half written
			default:
				f.take(ctx)
				settling = false
			}
			look.Reset(w.pace.filePoll)
			if settling {
				look.Reset(w.pace.filePatience)
			}
			continue
		}
		if !settling {
			look.Reset(0)
		}
	}
}

// take reads the file and publishes what it says for every stream.
func (f *fileFollower) take(ctx context.Context) {
	keys := make([]streamKey, len(f.streams))
	for i, s := range f.streams {
		keys[i] = s.key
	}
	var answers []content
	var sum []byte
	var err error
	answers, sum, f.read, err = readClusterFile(f.path, keys)
	if err != nil {
		err = fmt.Errorf("cluster file %s: %w", f.path, err)
		for _, s := range f.streams {
			s.fails(err)
		}
		if begins, _ := f.failing.noteText(string(sum) + report(err)); begins {
			f.owner.log.Error("the cluster file is not taken; what is known stays", "err", report(err))
		}
		return
	}
	doubt := false
	for i, s := range f.streams {
		if s.checkRemoval(answers[i]) != nil {
			doubt = true
			continue
		}
		f.owner.publish(s, answers[i])
		s.listed()
		s.follows()
	}
	if _, ends := f.failing.note(nil); ends {
		f.owner.log.Info("the cluster file is taken again", "file", f.path)
	}
	if doubt {
		f.owner.sleep(ctx, f.owner.pace.confirm)
		if ctx.Err() == nil {
			f.take(ctx)
		}
	}
}

// readClusterFile returns the file's answer for each of keys, and what tells
// this content and this file from others. The sum is that of the whole content
// even when there is an error, so long as it could be read and is not too large.
func readClusterFile(path string, keys []streamKey) (answers []content, sum []byte, stamp fileStamp, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, fileStamp{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, fileStamp{}, err
	}
	if info.Size() > maxPage {
		return nil, nil, stampOf(info), fmt.Errorf("it is larger than %d MiB", maxPage>>20)
	}
	hash := sha256.New()
	in := io.TeeReader(file, hash)
	answers, err = decodeClusterFile(in, keys)
	if err != nil {
		_, _ = io.CopyN(io.Discard, in, maxPage) // a content that cannot be read has err alone to be told by
	}
	return answers, hash.Sum(nil), stampOf(info), err
}

// decodeClusterFile reads JSON or YAML documents: lists of any mixture, or
// single objects. Kinds other than Pod and ConfigMap are passed over.
func decodeClusterFile(r io.Reader, keys []streamKey) ([]content, error) {
	d := &fileDecoder{}
	for _, key := range keys {
		selector, err := labels.Parse(key.pods.Selector)
		if err != nil {
			return nil, fmt.Errorf("label selector %q: %w", key.pods.Selector, err)
		}
		d.answers = append(d.answers, fileAnswer{contentBuilder{key: key, names: interner{}}, selector})
	}
	if err := d.documents(r); err != nil {
		return nil, err
	}
	if !d.found {
		return nil, errors.New("it holds no list, Pod or ConfigMap")
	}
	var contents []content
	for i := range d.answers {
		contents = append(contents, d.answers[i].done())
	}
	return contents, nil
}

// fileDecoder gathers the answers to all streams in one pass over a file.
type fileDecoder struct {
	answers []fileAnswer
	found   bool // anything of a kind that is wanted
}

// fileAnswer is the answer to one stream.
type fileAnswer struct {
	contentBuilder
	selector labels.Selector
}

// documents reads all documents of r. JSON goes by object by object, so that a
// file of thousands of pods needs no more memory than a list from a server;
// YAML has to be in memory as a whole.
func (d *fileDecoder) documents(r io.Reader) error {
	in := bufio.NewReader(r)
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
	// digit. The end of the last line is what can be asked for; kubectl's
	// lists also end with their kind, which document insists on.
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
	var unnamed []json.RawMessage // items that have no kind of their own
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
				own, err := kindOf(item)
				if err == nil && own == "" {
					unnamed = append(unnamed, bytes.Clone(item))
					return nil
				}
				if err != nil {
					return err
				}
				return d.object(own, item)
			})
		case "metadata", "spec", "status", "data":
			var value json.RawMessage
			err := dec.Decode(&value)
			single[name] = value
			return err
		}
		return skip(dec)
	})
	if err != nil {
		return err
	}

	switch kind {
	case "":
		return fmt.Errorf("%w document: no kind; it may be cut short", errMalformed)
	case "List", "PodList", "ConfigMapList":
		if !hasItems {
			return fmt.Errorf("%w %s: no items; it may be cut short", errMalformed, kind)
		}
		d.found = true
		for _, item := range unnamed {
			if kind == "List" {
				return fmt.Errorf("%w List: an item has no kind", errMalformed)
			}
			if err := d.object(strings.TrimSuffix(kind, "List"), item); err != nil {
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

// kindOf reads an object's kind and nothing else.
func kindOf(raw []byte) (string, error) {
	var o struct {
		Kind string `json:"kind"`
	}
	err := json.Unmarshal(raw, &o)
	return o.Kind, err
}

// object adds one object to the answers it belongs to.
func (d *fileDecoder) object(kind string, raw []byte) error {
	if kind != "Pod" && kind != "ConfigMap" {
		return nil
	}
	d.found = true
	var o object
	var labelled struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	if err := errors.Join(json.Unmarshal(raw, &o), json.Unmarshal(raw, &labelled)); err != nil {
		return fmt.Errorf("%s %s: %w", kind, shorten(o.Metadata.Name, quotedText), err)
	}
	if o.Metadata.Name == "" {
		return fmt.Errorf("%w %s: no name; the file may be cut short", errMalformed, kind)
	}
	if err := o.check(); err != nil {
		return err
	}
	if o.Metadata.Namespace == "" {
		o.Metadata.Namespace = "default" // where kubectl would put it
	}
	for i := range d.answers {
		a := &d.answers[i]
		wants := "Pod"
		if a.key.configMap != (ConfigMapName{}) {
			wants = "ConfigMap"
		}
		if kind == wants && a.selector.Matches(labels.Set(labelled.Metadata.Labels)) {
			if err := a.add(&o); err != nil {
				return err
			}
		}
	}
	return nil
}
