// The Gateway API's CRDs for the end-to-end tests. A module of its own: the controller
// depends on none of this.
module lvs-controller/test/gateways

go 1.26.0

require sigs.k8s.io/gateway-api v1.6.3
