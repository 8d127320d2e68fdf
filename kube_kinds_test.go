package main

import (
	"reflect"
	"testing"
)

// Every entry of the table is complete, and every field of ClusterQuery and Cluster
// has an entry: a kind that lacks one would be asked for and never followed, saved or
// forgotten.
func TestStreamKindsAreComplete(t *testing.T) {
	optional := map[string]bool{"valid": true, "guard": true, "single": true}
	taken := map[string]string{}
	for _, k := range streamKinds {
		entry := reflect.ValueOf(k).Elem()
		for i := range entry.NumField() {
			if name := entry.Type().Field(i).Name; entry.Field(i).IsZero() && !optional[name] {
				t.Errorf("%s has no %s", k.names().object, name)
			}
		}
		n := k.names()
		names := reflect.ValueOf(*n)
		for i := range names.NumField() {
			field := names.Type().Field(i).Name
			if names.Field(i).IsZero() {
				t.Errorf("%s has no %s", n.object, field)
			}
		}
		// The names of a snapshot file's values, of objects, and of paths are unique.
		for _, name := range []string{"in a snapshot: " + n.stream, "in a snapshot: " + n.item, "object: " + n.object, "path: " + n.api + "/" + n.resource} {
			if other := taken[name]; other != "" {
				t.Errorf("%s and %s have one name, %s", other, n.object, name)
			}
			taken[name] = n.object
		}
		if kindNamed(n.object) != k {
			t.Errorf("%s is not found by its name", n.object)
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
		c := cloneCluster(&Cluster{})
		key.collect().store(c)
		if !key.known(c) {
			t.Errorf("%s is stored and not known", key)
		}
	}
	if len(keys) != fields || len(streamKinds) != fields {
		t.Errorf("ClusterQuery has %d lists of keys, %d of them are followed; there are %d kinds", fields, len(keys), len(streamKinds))
	}
	for c, i := reflect.ValueOf(cloneCluster(&Cluster{})).Elem(), 0; i < c.NumField(); i++ {
		if c.Field(i).IsNil() {
			t.Errorf("no kind has the field %s of Cluster", c.Type().Field(i).Name)
		}
	}
}
