// ConfigMaps as a kind that a stream follows: what is asked and what is kept.
//
// Used by kube_kinds.go. A stream asks for one ConfigMap, and "there is none" is
// an answer. Pure: no I/O, no log, no k8s.io packages.

package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// configMapKind describes the streams of one ConfigMap each.
var configMapKind = &streamKind{
	stream: "configmap", item: "content",
	api: "api/v1", resource: "configmaps", object: "ConfigMap", fields: []string{"data"},
	rights: "install/rbac.yaml",
	new:    func() object { return new(configMapObject) },
	keys:   func(q *ClusterQuery) []streamKey { return streamKeys(q.ConfigMaps) },
	save: func(c *Cluster, line func(query, item any)) {
		for name, content := range c.ConfigMaps {
			line(name, content)
		}
	},
	load: func(c *Cluster, query *json.Decoder) (func(*json.Decoder) error, error) {
		var name ConfigMapName
		err := query.Decode(&name)
		c.ConfigMaps[name] = ConfigMap{}
		return func(item *json.Decoder) error {
			var content ConfigMap
			err := item.Decode(&content)
			c.ConfigMaps[name] = content
			return err
		}, err
	},
}

func (n ConfigMapName) kind() *streamKind   { return configMapKind }
func (n ConfigMapName) scope() scope        { return scope{namespace: n.Namespace, name: n.Name} }
func (n ConfigMapName) collect() collection { return &configMapCollection{ConfigMapName: n} }

func (n ConfigMapName) copyKnown(to, from *Cluster) bool {
	content, known := from.ConfigMaps[n]
	if known {
		to.ConfigMaps[n] = content
	}
	return known
}

func (n ConfigMapName) copyServed(to, from *Cluster) bool { return n.copyKnown(to, from) }

// configMapCollection is a collection.
type configMapCollection struct {
	ConfigMapName
	kept ConfigMap
}

func (c *configMapCollection) add(o object) error {
	c.apply(o, false)
	return nil
}

func (c *configMapCollection) apply(o object, deleted bool) {
	switch {
	case !c.scope().covers(o.meta()):
	case deleted:
		c.kept = ConfigMap{}
	default:
		c.kept = keptConfigMap(o.(*configMapObject).Data)
	}
}

func (c *configMapCollection) len() int {
	if c.kept.Exists {
		return 1
	}
	return 0
}

func (c *configMapCollection) storedIn(cluster *Cluster) bool {
	is, known := cluster.ConfigMaps[c.ConfigMapName]
	return known && is.Exists == c.kept.Exists && is.More == c.kept.More && maps.Equal(is.Data, c.kept.Data)
}

func (c *configMapCollection) complete()              {}
func (c *configMapCollection) store(cluster *Cluster) { cluster.ConfigMaps[c.ConfigMapName] = c.kept }

// missing counts the entries that open ports.
func (c *configMapCollection) missing(before *Cluster) (l loss) {
	was := before.ConfigMaps[c.ConfigMapName]
	for key, value := range was.Data {
		if _, err := entryPort(key, value); err != nil {
			continue
		}
		l.served++
		if _, err := entryPort(key, c.kept.Data[key]); err != nil { // it has no value at all
			l.gone++
		}
	}
	l.whole = was.Exists && !c.kept.Exists
	return l
}

// configMapObject is a ConfigMap as the API writes it.
type configMapObject struct {
	objectMeta
	Data map[string]string `json:"data"`
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
