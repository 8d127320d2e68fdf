// Tests of Gateways and ListenerSets in a cluster file.

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// envoyGateway is a Gateway as Envoy Gateway reports it, without an address.
const envoyGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  creationTimestamp: "2026-10-01T08:00:00Z"
  generation: 4
  labels:
    lvs: edge
  name: web
  namespace: edge
  resourceVersion: "90210"
  uid: 7c0c1f4e-5f5c-4b5e-8f8a-0d6c1f3c9a11
spec:
  gatewayClassName: envoy
  listeners:
  - allowedRoutes:
      namespaces:
        from: All
    name: http
    port: 80
    protocol: HTTP
  - hostname: "*.example.org"
    name: https
    port: 443
    protocol: HTTPS
    tls:
      certificateRefs:
      - group: ""
        kind: Secret
        name: wildcard
      mode: Terminate
  - name: dns
    port: 53
    protocol: UDP
status:
  attachedListenerSets: 1
  conditions:
  - lastTransitionTime: "2026-10-01T08:00:02Z"
    message: The Gateway has been scheduled by Envoy Gateway
    observedGeneration: 4
    reason: Accepted
    status: "True"
    type: Accepted
  - lastTransitionTime: "2026-10-01T08:00:02Z"
    message: No addresses have been assigned to the Gateway
    observedGeneration: 4
    reason: AddressNotAssigned
    status: "False"
    type: Programmed
  listeners:
  - attachedRoutes: 2
    conditions:
    - lastTransitionTime: "2026-10-01T08:00:02Z"
      message: Sending translated listener configuration to the data plane
      observedGeneration: 4
      reason: Programmed
      status: "True"
      type: Programmed
    - lastTransitionTime: "2026-10-01T08:00:02Z"
      message: Listener has been successfully translated
      observedGeneration: 4
      reason: Accepted
      status: "True"
      type: Accepted
    name: http
    supportedKinds:
    - group: gateway.networking.k8s.io
      kind: HTTPRoute
  - attachedRoutes: 0
    conditions:
    - lastTransitionTime: "2026-10-01T08:00:02Z"
      message: Secret edge/wildcard does not exist.
      observedGeneration: 4
      reason: InvalidCertificateRef
      status: "False"
      type: ResolvedRefs
    - lastTransitionTime: "2026-10-01T08:00:02Z"
      message: Listener is invalid, see other Conditions for details.
      observedGeneration: 4
      reason: Invalid
      status: "False"
      type: Programmed
    - lastTransitionTime: "2026-10-01T08:00:02Z"
      message: Listener has been successfully translated
      observedGeneration: 4
      reason: Accepted
      status: "True"
      type: Accepted
    name: https
    supportedKinds: []
  - attachedRoutes: 1
    conditions:
    - {lastTransitionTime: "2026-10-01T08:00:02Z", message: "", observedGeneration: 4, reason: Programmed, status: "True", type: Programmed}
    - {lastTransitionTime: "2026-10-01T08:00:02Z", message: "", observedGeneration: 4, reason: Accepted, status: "True", type: Accepted}
    name: dns
    supportedKinds: []
`

// tenantSet is a ListenerSet of another namespace.
const tenantSet = `apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: tenant, generation: 1, uid: s, resourceVersion: "7"}
spec:
  parentRef: {group: gateway.networking.k8s.io, kind: Gateway, name: web, namespace: edge}
  listeners:
  - {name: db, port: 5432, protocol: TCP}
status:
  conditions:
  - {type: Accepted, status: "True", reason: Accepted, observedGeneration: 1}
  listeners:
  - attachedRoutes: 1
    conditions:
    - {type: Accepted, status: "True", reason: Accepted, observedGeneration: 1}
    - {type: Programmed, status: "True", reason: Programmed, observedGeneration: 1}
    name: db
`

var gatewayKeysOfFile = []streamKey{{webGateway}, {GatewayQuery{Selector: "lvs=edge"}}, {GatewayQuery{Class: "envoy"}}, {GatewayQuery{Class: "istio"}}, {ListenerSetQuery{}}}

func TestGatewaysInFile(t *testing.T) {
	const both = "80/tcp, https is not programmed (Invalid), 53/udp"
	indented := func(text string) string {
		return "- " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
	}
	const istio = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: web, namespace: edge}\nspec: {selector: {istio: gw}}\n"
	const older = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: Gateway\nmetadata: {name: web, namespace: edge}\nspec: {}\n"
	list := func(items ...string) string {
		return "apiVersion: v1\nitems:\n" + strings.Join(items, "") + "kind: List\nmetadata: {resourceVersion: \"\"}\n"
	}
	for _, test := range []struct {
		name, file string
		want       []string // nil: refused
		unasked    bool     // it is accepted when no VIP asks for Gateways
	}{
		{"a List", list(indented(envoyGateway), indented(tenantSet)), []string{both, both, both, "", "5432/tcp"}, true},
		{"documents", envoyGateway + "---\n" + tenantSet, []string{both, both, both, "", "5432/tcp"}, false},
		{"Istio has a Gateway too", list(indented(envoyGateway), indented(istio)), []string{both, both, both, "", ""}, true},
		{"an older version", list(indented(older)), nil, true},
		{"an older list", list(strings.ReplaceAll(indented(older), "kind: Gateway\n", "kind: GatewayList\n  items: []\n")), nil, true},
		{"cut short", envoyGateway[:strings.Index(envoyGateway, "status:")], nil, false},
		{"no generation", list(strings.Replace(indented(envoyGateway), "generation: 4", "generation: x", 1)), nil, true},
		{"a port that is no number", list(strings.Replace(indented(envoyGateway), "port: 80", "port: http", 1)), nil, true},
		{"a wrong name", list(strings.Replace(indented(envoyGateway), "  name: web\n", "  name: \"a\\n\"\n", 1)), nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			answers, _, err := decodeClusterFile(strings.NewReader(test.file), gatewayKeysOfFile)
			if (err != nil) != (test.want == nil) {
				t.Fatalf("error %v", err)
			}
			var got []string
			for _, a := range answers {
				c := newCluster()
				a.store(c)
				all := slices.Collect(func(yield func(*Gateway) bool) {
					for _, list := range c.Gateways {
						for _, g := range list {
							yield(g)
						}
					}
				})
				got = append(got, openOf(append(all, c.ListenerSets[ListenerSetQuery{}]...)))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
			if _, _, err := decodeClusterFile(strings.NewReader(test.file), fileKeys); (err == nil) != test.unasked {
				t.Errorf("for pods and ConfigMaps alone: %v", err)
			}
		})
	}
}
