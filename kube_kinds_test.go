package main

import (
	"reflect"
	"testing"
)

// Every entry of the table is complete, and every field of ClusterQuery and Cluster
// has an entry: a kind that lacks one would be asked for and never followed, saved or
// forgotten.
func TestStreamKindsAreComplete(t *testing.T) {
	taken := map[string]string{}
	for _, k := range streamKinds {
		entry := reflect.ValueOf(k).Elem()
		for i := range entry.NumField() {
			if entry.Field(i).IsZero() {
				t.Errorf("%s has no %s", k.object, entry.Type().Field(i).Name)
			}
		}
		// The names of a snapshot file's values, of objects, and of paths are unique.
		for _, name := range []string{"in a snapshot: " + k.stream, "in a snapshot: " + k.item, "object: " + k.object, "path: " + k.api + "/" + k.resource} {
			if other := taken[name]; other != "" {
				t.Errorf("%s and %s have one name, %s", other, k.object, name)
			}
			taken[name] = k.object
		}
		if kindNamed(k.object) != k {
			t.Errorf("%s is not found by its name", k.object)
		}
	}

	var q ClusterQuery
	fields := 0
	for query, i := reflect.ValueOf(&q).Elem(), 0; i < query.NumField(); i++ {
		if f := query.Field(i); f.Kind() == reflect.Slice {
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			fields++
		}
	}
	keys := map[streamKey]bool{}
	for _, key := range allKeys(&q) {
		keys[key] = true
		c := newCluster()
		key.collect().store(c)
		copied := newCluster()
		if !key.copyKnown(copied, c) || !key.copyKnown(newCluster(), copied) || copied.answers() != 1 {
			t.Errorf("%s is stored; then %d answers are known", key, copied.answers())
		}
		k := key.kind()
		k.save(c, func(query, item any) {
			if query != nil && item != nil && k.stream > k.item {
				t.Errorf("%s: the line of a snapshot would begin with %q", k.object, k.item)
			}
		})
	}
	if len(keys) != fields || len(streamKinds) != fields {
		t.Errorf("ClusterQuery has %d lists of keys, %d of them are followed; there are %d kinds", fields, len(keys), len(streamKinds))
	}
	for c, i := reflect.ValueOf(newCluster()).Elem(), 0; i < c.NumField(); i++ {
		if c.Field(i).IsNil() && c.Type().Field(i).Name != "Instead" { // which is for messages
			t.Errorf("newCluster makes no %s", c.Type().Field(i).Name)
		}
	}
	if n := reflect.TypeFor[Cluster]().NumField() - 1; n != fields {
		t.Errorf("Cluster has %d maps of objects, ClusterQuery %d lists of keys", n, fields)
	}
}
