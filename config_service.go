// The key service of a [[vip]], and what may be beside it.
//
// Used by config_vip.go. No I/O.

package main

import (
	"regexp"
	"strings"
)

// serviceName is configMapName for a Service, whose name is a DNS label.
func serviceName(dst *ConfigMapName, vip *VIP) func(value) {
	return parsed(dst, `a Service's "NAME" or "NAMESPACE/NAME", or "" for none`, func(s string) (ConfigMapName, error) {
		return objectIn(vip.Pods.Namespace, s, dnsLabels)
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
	for _, beside := range []struct {
		key   string
		there bool
		why   string
	}{
		{"selector", v.has("selector"), "is for pods, and service (line %d) names the real servers"},
		{"namespaces", v.has("namespaces"), "is for pods, and service (line %d) is in one namespace"},
		{"ports_from", vip.PortsFromPods, `is "pods", and the ports are those of service (line %d)`},
		{"host_ports", vip.HostPorts, "is true, and service (line %d) does not say which pods have a hostPort"},
		{"weight_annotation", !v.blank("weight_annotation"), "is for pods, whose annotations service (line %d) does not have"},
	} {
		if beside.there {
			v.child(beside.key).mistake(beside.why+"; want one of the two", line)
		}
	}
}
