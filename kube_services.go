// Services as a kind that a stream follows: what is asked and what is kept.
//
// Used by kube_kinds.go. A stream asks for one Service, and "there is none" is an answer.
// kube_slices.go is about its endpoints. Pure: no I/O, no log, no k8s.io packages.

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// serviceKind describes the streams of one Service each.
var serviceKind = &streamKind{
	stream: "service", item: "spec",
	api: "api/v1", resource: "services", object: "Service", fields: []string{"spec"},
	rights: "install/rbac-service.yaml",
	new:    func() object { return new(serviceObject) },
	keys:   func(q *ClusterQuery) []streamKey { return streamKeys(q.Services) },
	save: func(c *Cluster, line func(query, item any)) {
		for name, s := range c.Services {
			line(name, s)
		}
	},
	load: func(c *Cluster, query *json.Decoder) (func(*json.Decoder) error, error) {
		var name ServiceName
		err := query.Decode(&name)
		c.Services[name] = ClusterService{}
		return func(item *json.Decoder) error {
			var s ClusterService
			err := item.Decode(&s)
			c.Services[name] = s
			return err
		}, err
	},
}

func (n ServiceName) kind() *streamKind   { return serviceKind }
func (n ServiceName) scope() scope        { return scope{namespace: n.Namespace, name: n.Name} }
func (n ServiceName) collect() collection { return &serviceCollection{name: n} }

func (n ServiceName) copyKnown(to, from *Cluster) bool {
	s, known := from.Services[n]
	if known {
		to.Services[n] = s
	}
	return known
}

func (n ServiceName) copyServed(to, from *Cluster) bool { return n.copyKnown(to, from) }

// serviceCollection is a collection.
type serviceCollection struct {
	name ServiceName
	kept ClusterService
}

func (c *serviceCollection) kind() *streamKind { return serviceKind }

func (c *serviceCollection) add(o object) error {
	c.apply(o, false)
	return nil
}

func (c *serviceCollection) apply(o object, deleted bool) {
	switch {
	case !c.name.scope().covers(o.meta()):
	case deleted:
		c.kept = ClusterService{}
	default:
		c.kept = o.(*serviceObject).service()
	}
}

func (c *serviceCollection) len() int {
	if c.kept.Exists {
		return 1
	}
	return 0
}

func (c *serviceCollection) storedIn(cluster *Cluster) bool {
	is, known := cluster.Services[c.name]
	return known && is.Exists == c.kept.Exists && is.External == c.kept.External && slices.Equal(is.Ports, c.kept.Ports)
}

func (c *serviceCollection) complete()              {}
func (c *serviceCollection) store(cluster *Cluster) { cluster.Services[c.name] = c.kept }

// missing counts the ports: a port with another name or target is still there.
func (c *serviceCollection) missing(before *Cluster) (l loss) {
	was := before.Services[c.name]
	for _, p := range was.Ports {
		l.served++
		if !slices.ContainsFunc(c.kept.Ports, func(is ServicePort) bool { return is.Port == p.Port }) {
			l.gone++
		}
	}
	l.whole = was.Exists && !c.kept.Exists
	return l
}

// serviceObject is a Service as the API writes it.
type serviceObject struct {
	objectMeta
	Spec struct {
		Type  string `json:"type"` // ClusterIP when absent
		Ports []struct {
			Name       string     `json:"name"`
			Protocol   string     `json:"protocol"` // TCP when absent
			Port       int        `json:"port"`
			TargetPort targetPort `json:"targetPort"`
		} `json:"ports"`
	} `json:"spec"`
}

// targetPort is a port at the pods: a number, or the name of a container's port. It is kept
// as text; "" = absent, or 0, which means the same.
type targetPort string

// UnmarshalJSON implements json.Unmarshaler.
func (t *targetPort) UnmarshalJSON(text []byte) error {
	if text[0] == '"' {
		return json.Unmarshal(text, (*string)(t))
	}
	var number int
	err := json.Unmarshal(text, &number)
	if *t = ""; number != 0 {
		*t = targetPort(strconv.Itoa(number))
	}
	return err
}

// whole implements object. A Service without ports has a type: it comes after them.
func (o *serviceObject) whole() error {
	if o.Spec.Type == "" && len(o.Spec.Ports) == 0 {
		return fmt.Errorf("%w: no spec.ports; the file may be cut short", errMalformed)
	}
	return nil
}

// service is what is kept of o. A port that no Service can have is left out.
func (o *serviceObject) service() ClusterService {
	s := ClusterService{Exists: true, External: o.Spec.Type == "ExternalName"}
	for _, p := range o.Spec.Ports {
		protocol, known := protocolNamed(p.Protocol)
		if !known || p.Port < 1 || p.Port > 65535 {
			continue
		}
		s.Ports = append(s.Ports, ServicePort{
			Port:   Port{uint16(p.Port), protocol},
			Name:   strings.Clone(shorten(p.Name, maxServicePortName)),
			Target: strings.Clone(shorten(string(p.TargetPort), maxServicePortName)),
		})
	}
	sortBy(s.Ports, ServicePort.Compare)
	s.Ports = slices.Clip(slices.Compact(s.Ports))
	return s
}
