// Services with many endpoints, for programs that follow these, as kube-proxy does.
// Called on the host directly, and from a virtual machine through the control endpoint:
// thousands of requests are made many times faster on the host.

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
)

// ServiceRange is the range of addresses that the API server must be started with,
// in --service-cluster-ip-range.
const ServiceRange = "10.96.0.0/16"

// ServicePort is the port of each Service, and of its endpoints.
const ServicePort = 80

// serviceWorkers is how many requests are made at the same time.
const serviceWorkers = 16

// Services are those with the numbers from First to Last-1. All have the same endpoints,
// which are ready.
type Services struct {
	Namespace string   `json:"namespace"`
	First     int      `json:"first"`
	Last      int      `json:"last"`
	Endpoints []string `json:"endpoints"`
}

// ServiceAddress is the address of Service i, below 60,000.
func ServiceAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96, byte(1 + i/250), byte(1 + i%250)})
}

// CreateServices creates Services with an EndpointSlice each.
func (c *Client) CreateServices(ctx context.Context, s Services) error {
	return s.each(ctx, func(ctx context.Context, name string, i int) error {
		ports := []Object{{"name": "web", "protocol": "TCP", "port": ServicePort}}
		service := Object{"metadata": Object{"name": name}, "spec": Object{"clusterIP": ServiceAddress(i).String(), "ports": ports}}
		if err := c.Create(ctx, collection("services", s.Namespace), service, nil); err != nil {
			return err
		}
		slice := s.endpoints()
		slice["metadata"] = Object{"name": name, "labels": Object{"kubernetes.io/service-name": name}}
		slice["addressType"], slice["ports"] = "IPv4", ports
		return c.Create(ctx, endpointSlices(s.Namespace), slice, nil)
	})
}

// SetEndpoints replaces the endpoints of existing Services.
func (c *Client) SetEndpoints(ctx context.Context, s Services) error {
	return s.each(ctx, func(ctx context.Context, name string, _ int) error {
		return c.Patch(ctx, endpointSlices(s.Namespace)+"/"+name, s.endpoints(), nil)
	})
}

// SetService creates a Service without a selector, or replaces its ports.
func (c *Client) SetService(ctx context.Context, ns, name string, ports []Object) error {
	service := Object{"metadata": Object{"name": name}, "spec": Object{"ports": ports}}
	err := c.Patch(ctx, item("services", ns, name), service, nil)
	if IsStatus(err, http.StatusNotFound) {
		err = c.Create(ctx, collection("services", ns), service, nil)
	}
	return err
}

// DeleteService deletes a Service. Nothing deletes its EndpointSlices.
func (c *Client) DeleteService(ctx context.Context, ns, name string) error {
	return c.Delete(ctx, item("services", ns, name), nil)
}

// SetEndpointSlice creates an EndpointSlice of IPv4 addresses for a Service, or replaces its
// ports and endpoints.
func (c *Client) SetEndpointSlice(ctx context.Context, ns, service, name string, ports, endpoints []Object) error {
	slice := Object{"endpoints": endpoints, "ports": ports}
	err := c.Patch(ctx, endpointSlices(ns)+"/"+name, slice, nil)
	if IsStatus(err, http.StatusNotFound) {
		slice["metadata"], slice["addressType"] = Object{"name": name, "labels": Object{"kubernetes.io/service-name": service}}, "IPv4"
		err = c.Create(ctx, endpointSlices(ns), slice, nil)
	}
	return err
}

// DeleteEndpointSlice deletes an EndpointSlice.
func (c *Client) DeleteEndpointSlice(ctx context.Context, ns, name string) error {
	return c.Delete(ctx, endpointSlices(ns)+"/"+name, nil)
}

// endpointSlices is the path of a namespace's EndpointSlices.
func endpointSlices(ns string) string {
	return "/apis/discovery.k8s.io/v1/namespaces/" + ns + "/endpointslices"
}

// endpoints is the part of an EndpointSlice that has the endpoints.
func (s Services) endpoints() Object {
	list := make([]Object, len(s.Endpoints))
	for i, address := range s.Endpoints {
		list[i] = Object{"addresses": []string{address}, "conditions": Object{"ready": true}}
	}
	return Object{"endpoints": list}
}

// each calls f for all numbers, some at the same time, until one call fails.
func (s Services) each(ctx context.Context, f func(ctx context.Context, name string, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for w := range serviceWorkers {
		wg.Go(func() {
			for i := s.First + w; i < s.Last && ctx.Err() == nil; i += serviceWorkers {
				if err := f(ctx, fmt.Sprintf("service-%d", i), i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// serveServices answers a request of Control with one of the Client's methods.
func serveServices(do func(context.Context, Services) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var s Services
		err := json.NewDecoder(r.Body).Decode(&s)
		if err == nil {
			err = do(r.Context(), s)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

// CreateServices is Client.CreateServices.
func (c *Control) CreateServices(ctx context.Context, s Services) error {
	return c.postServices(ctx, "/services/create", s)
}

// SetEndpoints is Client.SetEndpoints.
func (c *Control) SetEndpoints(ctx context.Context, s Services) error {
	return c.postServices(ctx, "/services/endpoints", s)
}

func (c *Control) postServices(ctx context.Context, path string, s Services) error {
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodPost, path, body)
	return err
}
