// ConfigMaps as a kind that a stream follows: what is asked and what is kept.
//
// Used by kube_kinds.go. A stream asks for one ConfigMap, and "there is none" is
// an answer. Pure: no I/O, no log, no k8s.io packages.

package main

import (
	"maps"
	"slices"
	"strings"
)

// configMapKind describes the streams of one ConfigMap each.
var configMapKind = &objectKind[ConfigMapName, ConfigMap, ConfigMap]{
	kindNames: kindNames{
		stream: "configmap", item: "content",
		api: "api/v1", resource: "configmaps", object: "ConfigMap", fields: []string{"data"},
		new:    func() object { return new(configMapObject) },
		single: true,
	},
	keep: func(o object, _ ConfigMapName, _ interner) *ConfigMap {
		return keptConfigMap(o.(*configMapObject).Data)
	},
	scopeOf: func(n ConfigMapName) scope { return scope{namespace: n.Namespace, name: n.Name} },
	compare: func(_, _ *ConfigMap) int { return 0 }, // there is one
	same: func(a, b *ConfigMap) bool {
		return a.Exists == b.Exists && a.More == b.More && maps.Equal(a.Data, b.Data)
	},
	asked: func(q *ClusterQuery) []ConfigMapName { return q.ConfigMaps },
	field: func(c *Cluster) *map[ConfigMapName]ConfigMap { return &c.ConfigMaps },
	pack: func(one []*ConfigMap) ConfigMap {
		if len(one) == 0 {
			return ConfigMap{}
		}
		return *one[0]
	},
	unpack: func(cm ConfigMap) []*ConfigMap {
		if !cm.Exists {
			return nil
		}
		return []*ConfigMap{&cm}
	},
}

// configMapObject is a ConfigMap as the API writes it.
type configMapObject struct {
	objectMeta
	Data map[string]string `json:"data"`
}

// keptConfigMap is what is kept of a ConfigMap with these entries: all whose
// keys are ports, and few others. Values are cut.
func keptConfigMap(data map[string]string) *ConfigMap {
	// A map does not shrink: one that loses most of its entries keeps their room.
	cm := &ConfigMap{Exists: true}
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
