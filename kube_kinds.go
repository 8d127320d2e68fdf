// The kinds of objects that streams follow.
//
// Used by snapshot.go, http_kept.go, cmd*.go and main_rights.go. A kind is described by one
// streamKind, in its own file (kube_pods.go, kube_configmaps.go, kube_nodes.go and so on),
// and has one line in streamKinds. The rest of the kube*.go files and snapshot.go know no
// kind by name. Pure: no I/O, no k8s.io packages.

package main

// streamKinds are all kinds. To add one: a type in cluster.go with its fields in
// ClusterQuery and Cluster, newCluster and answers, a file kube_NAME.go, an element
// here, and its use in config*.go and desired*.go.
var streamKinds = []*streamKind{podKind, sliceKind, configMapKind, serviceKind, nodeKind, gatewayKind, listenerSetKind}

// kindNamed is the kind of an object; nil when no stream follows such objects.
func kindNamed(object string) *streamKind {
	for _, k := range streamKinds {
		if k.object == object {
			return k
		}
	}
	return nil
}

// allKeys are the keys that q asks for.
func allKeys(q *ClusterQuery) []streamKey {
	var keys []streamKey
	for _, k := range streamKinds {
		keys = append(keys, k.keys(q)...)
	}
	return keys
}
