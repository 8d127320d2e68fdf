// The key service of a [[vip]], and what may be beside it.
//
// Used by config_vip.go. No I/O.

package main

import (
	"regexp"
	"strings"
)

// serviceName is configMapName for a Service, whose name is a DNS label.
func serviceName(dst *ServiceName, vip *VIP) func(value) {
	return parsed(dst, `a Service's "NAME" or "NAMESPACE/NAME", or "" for none`, func(s string) (ServiceName, error) {
		name, err := objectIn(vip.Pods.Namespace, s, dnsLabels)
		return ServiceName(name), err
	})
}

// objectIn reads "name" in a namespace, "ns/name", or "" for none.
func objectIn(namespace, s string, names *regexp.Regexp) (ConfigMapName, error) {
	if s == "" {
		return ConfigMapName{}, nil
	}
	name := s
	if before, after, found := strings.Cut(s, "/"); found {
		namespace, name = before, after
	}
	if !dnsLabels.MatchString(namespace) || !names.MatchString(name) {
		return ConfigMapName{}, errMisfit
	}
	return ConfigMapName{Namespace: namespace, Name: name}, nil
}

// checkService refuses keys beside service that are about pods, which are not read then.
func checkService(v value, vip *VIP) {
	line := v.child("service").line()
	if v.has("selector") {
		v.child("selector").mistake("is for pods, and service (line %d) names the real servers; want one of the two", line)
	}
	if vip.PortsFromPods {
		v.child("ports_from").mistake(`is "pods", and the ports are those of service (line %d); want one of the two`, line)
	}
	if vip.HostPorts {
		v.child("host_ports").mistake("is true, and service (line %d) does not say which pods have a hostPort; want one of the two", line)
	}
	if v.has("weight_annotation") && vip.WeightAnnotation != "" {
		v.child("weight_annotation").mistake("is for pods, whose annotations service (line %d) does not have; want one of the two", line)
	}
}
