// What the controller needs to know about a Kubernetes cluster.
//
// Used by kube*.go, config*.go, desired*.go, snapshot.go, reconcile*.go, http*.go, cmd*.go
// and main*.go. The kube*.go files fill these types from an API server or a file. A
// Cluster does not change after it is published, so readers need no lock and no copy.
// Standard library only; no I/O.

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// PodQuery selects pods: one namespace and one label selector, as `kubectl get
// pods -n NAMESPACE -l SELECTOR` would. With a Service it selects the endpoints of that
// Service, and each of them is a Pod.
type PodQuery struct {
	Namespace string
	Selector  string // canonical label selector, "app.kubernetes.io/name=ingress-nginx"
	// Service names a Service in Namespace. Selector is then that of its EndpointSlices.
	Service string `json:",omitempty"`
	// Annotation names the one annotation whose value Pod.Weight keeps; "" =
	// none.
	Annotation string
	// Ports asks for the pods' ports.
	Ports bool
	// HostPorts takes pods with a hostPort that are not on hostNetwork too.
	HostPorts bool `json:",omitempty"`
}

// serviceLabel is the label of an EndpointSlice with the name of its Service
// (k8s.io/api/discovery/v1, LabelServiceName).
const serviceLabel = "kubernetes.io/service-name"

// ofService makes q select the endpoints of the Service with this name.
func (q PodQuery) ofService(name ServiceName) PodQuery {
	q.Namespace, q.Service, q.Selector = name.Namespace, name.Name, serviceLabel+"="+name.Name
	return q
}

// service is the Service whose endpoints q selects; zero when q selects pods.
func (q PodQuery) service() ServiceName {
	if q.Service == "" {
		return ServiceName{}
	}
	return ServiceName{q.Namespace, q.Service}
}

// NodeQuery selects all nodes.
type NodeQuery struct{}

// Node is a node of the cluster.
type Node struct {
	Name string
	// Excluded says why the node is to get no new connections; "" when it may.
	Excluded string `json:",omitempty"`
	// Addresses are the node's InternalIPs.
	Addresses []netip.Addr
}

// ConfigMapName names one ConfigMap. The zero value names none.
type ConfigMapName struct {
	Namespace string
	Name      string
}

func (n ConfigMapName) String() string { return n.Namespace + "/" + n.Name }

// ServiceName names one Service. The zero value names none.
type ServiceName struct {
	Namespace string
	Name      string
}

func (n ServiceName) String() string { return n.Namespace + "/" + n.Name }

// ClusterQuery is everything the configuration wants to know, and from where.
// It has each key once, in a stable order.
type ClusterQuery struct {
	Kubeconfig  string // path; "" = the pod's own service account
	ClusterFile string // path; when set, this file replaces the API server
	Programs    bool   // the kubeconfig may name a program that gets credentials
	Pods        []PodQuery
	ConfigMaps  []ConfigMapName
	Services    []ServiceName
	Nodes       []NodeQuery // one, or none
	Gateways    []GatewayQuery
	// ListenerSets has one, or none.
	ListenerSets []ListenerSetQuery
	// Guards are shares of what served, in percent, by the query of a stream.
	// When more vanishes at once, a second answer has to confirm it; 0 = the guard is
	// off.
	Guards map[any]uint8
}

// Pod is one pod that a PodQuery selected. An endpoint of a Service counts as a pod on
// hostNetwork: an EndpointSlice does not say that it is not. One that names no pod has
// its address as Name.
type Pod struct {
	UID         string
	Namespace   string
	Name        string
	Node        string
	Zone        string `json:",omitempty"` // of an endpoint, as its EndpointSlice has it
	HostNetwork bool
	// ByPort means that the pod is not on hostNetwork, the query takes such pods, and
	// Ports of its node lead to it. Then Addresses are the node's alone.
	ByPort bool `json:",omitempty"`
	// Addresses are status.hostIPs (or hostIP) followed by status.podIPs (or
	// podIP), unmapped, without repeats. Empty until the kubelet has reported.
	Addresses []netip.Addr
	// OtherAddress is what the annotation addressAnnotation names and status.hostIPs do
	// not have: its Node may. At most 80 characters. What they do have is the first of
	// Addresses.
	OtherAddress string `json:",omitempty"`
	// Named is how many of Addresses, from the first on, that annotation names.
	Named int `json:",omitempty"`
	// Ready is the pod's Ready condition.
	Ready bool
	// Terminating means a deletion timestamp is set or the pod has finished
	// (phase Succeeded or Failed): it will never be ready again.
	Terminating bool
	// Ports are what the containers declare, if the query asks: hostPort, or on
	// hostNetwork the containerPort. Sorted, without repeats. Those of an endpoint are the
	// ports of its EndpointSlice, and one with two names is there twice.
	Ports []Port
	// PortNames are the names of Ports in the cluster, in the same order; "" = it has
	// none. nil = not known: a snapshot of an earlier version does not have them.
	PortNames []string `json:",omitempty"`
	// Bound are the host ports of such a pod that have a hostIP: the node's other
	// addresses, the VIP among them, do not lead to it by these.
	Bound []Port `json:",omitempty"`
	// Weight is the value of the query's annotation, without white space around
	// it; "" when the pod has none, " " when it is empty. What is no number is cut
	// after 80 characters.
	Weight string
	// LastWeight is the last value of the annotation that was a weight, when Weight is
	// none; "" when none is known.
	LastWeight string `json:",omitempty"`
}

// weight is a value of a weight annotation, 0 to 65535, if it is one.
func weight(text string) (n uint32, ok bool) {
	parsed, err := strconv.ParseUint(text, 10, 16)
	return uint32(parsed), err == nil
}

// recallWeight keeps the last weight of p, which was the same pod as was before, when
// its annotation has become unusable. p has not been published yet.
func (p *Pod) recallWeight(was *Pod) {
	if _, ok := weight(p.Weight); ok || p.Weight == "" || p.UID != was.UID {
		return
	}
	p.LastWeight = was.LastWeight
	if _, ok := weight(was.Weight); ok {
		p.LastWeight = was.Weight
	}
}

// addressAnnotation names the address of its node at which a pod serves; one of each
// family, with a comma between, where there are two.
const addressAnnotation = "lvs-controller/address"

// preferAddresses puts those of addrs that text names first, and says how many they are.
// It returns what else text names.
func preferAddresses(addrs []netip.Addr, text string) (named int, rest string) {
	var others []string
	for each := range strings.SplitSeq(text, ",") {
		each = strings.TrimSpace(each)
		a, err := netip.ParseAddr(each)
		at := slices.Index(addrs, a.Unmap())
		if err != nil || at < 0 {
			others = append(others, each)
		} else if at >= named {
			copy(addrs[named+1:], addrs[named:at])
			addrs[named] = a.Unmap()
			named++
		}
	}
	return named, strings.Clone(strings.Join(others, ", "))
}

// onNode reports whether p takes connections to its node's addresses.
func (p *Pod) onNode() bool { return p.HostNetwork || p.ByPort }

// serves reports whether p can take connections.
func (p *Pod) serves() bool { return p.onNode() && p.Ready && !p.Terminating }

// ConfigMap is one ConfigMap's data. Exists is false when the API server (or
// the file) has answered that there is no such object, which is no failure.
type ConfigMap struct {
	Exists bool
	// Data are the entries whose keys are ports, and a few others, which are for
	// warnings. More counts the rest. Long keys and values are cut.
	Data map[string]string
	More int `json:",omitempty"`
}

// same reports whether two ConfigMaps share their data. It compares no content.
func (c ConfigMap) same(o ConfigMap) bool {
	return c.Exists == o.Exists && reflect.ValueOf(c.Data).Pointer() == reflect.ValueOf(o.Data).Pointer()
}

// entryPort is the port that an entry of a tcp-services or udp-services ConfigMap opens,
// "PORT": "NAMESPACE/SERVICE:PORT[:…]". Where the traffic goes behind the ingress
// controller does not matter here, so only the form of the value is checked.
func entryPort(key, value string) (uint16, error) {
	n, err := ParsePortNumber(key)
	if err != nil {
		return 0, err
	}
	service, port, _ := strings.Cut(value, ":")
	namespace, name, slash := strings.Cut(service, "/")
	port, _, _ = strings.Cut(port, ":")
	if !slash || namespace == "" || name == "" || strings.Contains(name, "/") || strings.TrimSpace(port) == "" {
		return 0, fmt.Errorf("value %q is not NAMESPACE/SERVICE:PORT", shorten(value, quotedText))
	}
	return n, nil
}

// ClusterService is one Service. Exists is false when the API server (or the file) has answered
// that there is no such object, which is no failure.
type ClusterService struct {
	Exists   bool
	External bool          `json:",omitempty"` // of type ExternalName: it has no endpoints
	Ports    []ServicePort // sorted
}

// same reports whether two ClusterServices share their ports. It compares no content.
func (s ClusterService) same(o ClusterService) bool {
	return s.Exists == o.Exists && s.External == o.External && len(s.Ports) == len(o.Ports) && (len(s.Ports) == 0 || &s.Ports[0] == &o.Ports[0])
}

// ServicePort is one port of a ClusterService.
type ServicePort struct {
	Port Port
	Name string `json:",omitempty"` // "" = it has none
	// Target is the port at the pods: a number, or the name of a container's port; "" = the
	// number of Port.
	Target string `json:",omitempty"`
}

// Compare orders by port, name and target.
func (p ServicePort) Compare(q ServicePort) int {
	return cmp.Or(p.Port.Compare(q.Port), cmp.Compare(p.Name, q.Name), cmp.Compare(p.Target, q.Target))
}

// Cluster is one immutable snapshot. A query whose key is absent from the map
// has never been answered: nothing is known of it, and nothing may be
// concluded from it.
type Cluster struct {
	// Pods are sorted by namespace, name, UID. A pod that has not changed is the
	// same pointer in two snapshots of one watch.
	Pods       map[PodQuery][]*Pod
	ConfigMaps map[ConfigMapName]ConfigMap
	Services   map[ServiceName]ClusterService
	Nodes      map[NodeQuery][]*Node // sorted by name
	// Gateways and ListenerSets are sorted by namespace and name.
	Gateways     map[GatewayQuery][]*Gateway
	ListenerSets map[ListenerSetQuery][]*Gateway
	// Instead says, for a query that selects no pod, which labels the namespace's
	// pods have: the rest of a sentence. It is not part of the snapshot on disk.
	Instead map[PodQuery]string
}

// newCluster returns a snapshot in which nothing is known yet.
func newCluster() *Cluster {
	return &Cluster{
		Pods: map[PodQuery][]*Pod{}, ConfigMaps: map[ConfigMapName]ConfigMap{},
		Services: map[ServiceName]ClusterService{}, Nodes: map[NodeQuery][]*Node{},
		Gateways: map[GatewayQuery][]*Gateway{}, ListenerSets: map[ListenerSetQuery][]*Gateway{},
	}
}

// answers is how many keys c knows.
func (c *Cluster) answers() int {
	return len(c.Pods) + len(c.ConfigMaps) + len(c.Services) + len(c.Nodes) + len(c.Gateways) + len(c.ListenerSets)
}

// nodeNames are the names of the nodes that have an address, as far as c, which may be
// nil, knows them.
func (c *Cluster) nodeNames() map[netip.Addr]string {
	names := make(map[netip.Addr]string)
	if c == nil {
		return names
	}
	for _, pods := range c.Pods {
		for _, p := range pods {
			for _, a := range p.Addresses {
				if p.onNode() && p.Node != "" {
					names[a] = p.Node
				}
			}
		}
	}
	for _, nodes := range c.Nodes {
		for _, n := range nodes {
			for _, a := range n.Addresses {
				names[a] = n.Name
			}
		}
	}
	return names
}

// comparePods gives the snapshot its order. It is 0 for two pods that cannot
// exist at the same time, so UIDs never decide.
func comparePods(a, b *Pod) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// comparePodRefs orders pods as a cluster does.
func comparePodRefs(a, b *Pod) int {
	if a == b {
		return 0
	}
	return comparePods(a, b)
}
