package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestServices makes Services and changes their endpoints through the control endpoint.
func TestServices(t *testing.T) {
	c := start(t, Options{APIFlags: []string{"--service-cluster-ip-range=" + ServiceRange}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url, err := c.ServeControl(ctx)
	must(t, err)
	control := NewControl(url)
	must(t, c.Admin().CreateNamespace(ctx, "many"))
	s := Services{Namespace: "many", First: 240, Last: 260, Endpoints: []string{"10.1.0.1", "10.1.0.2"}}
	must(t, control.CreateServices(ctx, s))
	must(t, control.SetEndpoints(ctx, Services{Namespace: "many", First: 250, Last: 251, Endpoints: []string{"10.1.0.3"}}))

	for i := s.First; i < s.Last; i++ {
		var service struct {
			Spec struct{ ClusterIP string }
		}
		name := fmt.Sprintf("service-%d", i)
		must(t, c.Admin().Get(ctx, collection("services", "many")+"/"+name, &service))
		if want := ServiceAddress(i).String(); service.Spec.ClusterIP != want {
			t.Errorf("service %d has %s, want %s", i, service.Spec.ClusterIP, want)
		}
		var slice struct {
			Endpoints []struct{ Addresses []string }
		}
		must(t, c.Admin().Get(ctx, endpointSlices("many")+"/"+name, &slice))
		var got []string
		for _, e := range slice.Endpoints {
			got = append(got, e.Addresses...)
		}
		want := s.Endpoints
		if i == 250 {
			want = []string{"10.1.0.3"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("endpoints of service %d: %v, want %v", i, got, want)
		}
	}
	// The first failure ends the whole request and comes back.
	err = control.SetEndpoints(ctx, Services{Namespace: "many", First: s.Last - 1, Last: s.Last + 1, Endpoints: s.Endpoints})
	if err == nil || !strings.Contains(err.Error(), "service-260") {
		t.Errorf("a service that is not there: %v", err)
	}
}
