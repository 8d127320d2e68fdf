package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// gatewayVIP is testVIP with Gateways in place of a ConfigMap.
func gatewayVIP(edit ...func(*VIP)) VIP {
	v := testVIP(func(v *VIP) {
		v.TCPServices = ConfigMapName{}
		v.Gateways = []GatewayQuery{{Namespace: "edge", Name: "web"}, {Namespace: "edge", Name: "dns"}}
		v.ListenerSets = true
	})
	for _, e := range edit {
		e(&v)
	}
	return v
}

func listener(name string, port Port) Listener { return Listener{Name: name, Port: port} }

func TestDesiredGateways(t *testing.T) {
	open := func(ports ...Port) *Gateway {
		g := &Gateway{UID: "1", Namespace: "edge", Name: "web"}
		for _, p := range ports {
			g.Listeners = append(g.Listeners, listener("l", p))
		}
		return g
	}
	named := func(name string, g *Gateway) *Gateway { g.Name = name; return g }
	set := func(parent string, g *Gateway) *Gateway {
		g.Namespace, g.Name, g.Parent = "tenant", "more", parent
		return g
	}
	closed := func(name, why string, p Port) *Gateway {
		g := open()
		g.Listeners = []Listener{{Name: name, Port: p, Closed: why}}
		return g
	}
	dns := named("dns", open(Port{53, UDP}))
	for _, test := range []struct {
		name     string
		vip      VIP
		gateways [2][]*Gateway
		unknown  string // key that has not been answered: a number, or "sets"
		sets     []*Gateway
		ports    string
		stays    bool // what only the kernel has
		warnings []string
	}{
		{name: "listeners and ports", vip: gatewayVIP(), gateways: [2][]*Gateway{{open(Port{443, TCP}, Port{80, TCP}, Port{443, TCP})}, {dns}}, ports: "53/udp 80/tcp 443/tcp"},
		{name: "one stream has not answered", vip: gatewayVIP(), gateways: [2][]*Gateway{{open(Port{443, TCP})}, nil}, unknown: "1", ports: "80/tcp 443/tcp", stays: true},
		{name: "ListenerSets have not answered", vip: gatewayVIP(), gateways: [2][]*Gateway{{open(Port{443, TCP})}, {dns}}, unknown: "sets", ports: "53/udp 80/tcp 443/tcp", stays: true},
		{name: "ListenerSets that do not count", vip: gatewayVIP(func(v *VIP) { v.ListenerSets = false }), gateways: [2][]*Gateway{{open(Port{443, TCP})}, {dns}}, unknown: "sets",
			sets: []*Gateway{set("edge/web", open(Port{81, TCP}))}, ports: "53/udp 80/tcp 443/tcp"},
		{name: "ListenerSets of these Gateways and of others", vip: gatewayVIP(), gateways: [2][]*Gateway{{open()}, {dns}},
			sets: []*Gateway{set("edge/web", open(Port{81, TCP})), set("edge/other", open(Port{82, TCP})), set("tenant/web", open(Port{83, TCP}))}, ports: "53/udp 80/tcp 81/tcp"},
		{name: "a Gateway is deleted, and its ListenerSet with it", vip: gatewayVIP(), gateways: [2][]*Gateway{{{Namespace: "edge", Name: "web", Leaving: true}}, {dns}},
			sets: []*Gateway{set("edge/web", open(Port{81, TCP}))}, ports: "53/udp 80/tcp"},
		{name: "none of a name", vip: gatewayVIP(), gateways: [2][]*Gateway{{}, {dns}}, ports: "53/udp 80/tcp",
			warnings: []string{"vip edge: Gateway edge/web does not exist: it opens no ports"}},
		{name: "none of a class", vip: gatewayVIP(func(v *VIP) { v.Gateways = []GatewayQuery{{Class: "x"}} }), gateways: [2][]*Gateway{{}}, ports: "80/tcp",
			warnings: []string{`vip edge: no Gateway has the labels or class "x": no ports are opened`}},
		{name: "none of a selector", vip: gatewayVIP(func(v *VIP) { v.Gateways = []GatewayQuery{{Selector: "a=b"}} }), gateways: [2][]*Gateway{{}}, ports: "80/tcp",
			warnings: []string{`vip edge: no Gateway has the labels or class "a=b": no ports are opened`}},
		{name: "left out", vip: gatewayVIP(func(v *VIP) { v.ExcludePorts = []Port{{53, UDP}, {80, TCP}, {444, TCP}} }),
			gateways: [2][]*Gateway{{open(Port{443, TCP}), named("b", closed("x", "is not accepted", Port{444, TCP}))}, {dns}}, ports: "80/tcp 443/tcp"},
		{name: "the ingress controller's own ports are no matter", vip: gatewayVIP(), gateways: [2][]*Gateway{{open(Port{8181, TCP})}, {dns}}, ports: "53/udp 80/tcp 8181/tcp"},
		{name: "closed, and open by another listener", vip: gatewayVIP(),
			gateways: [2][]*Gateway{{open(Port{443, TCP}), named("b", closed("x", "is not accepted", Port{443, TCP})), named("c", closed("y\x1b", "is not programmed (Invalid)", Port{444, TCP}))}, {dns}}, ports: "53/udp 80/tcp 443/tcp",
			warnings: []string{`vip edge: Gateway edge/c: listener "y\x1b" (444/tcp) is not programmed (Invalid): it opens no port`}},
		{name: "another protocol, and too many", vip: gatewayVIP(),
			gateways: [2][]*Gateway{{{Namespace: "edge", Name: "web", Listeners: []Listener{{Name: "q", Port: Port{1, 0}, Other: "example.org/QUIC"}}, More: 3}}, {dns}}, ports: "53/udp 80/tcp",
			warnings: []string{`vip edge: Gateway edge/web has 3 listeners more than the Gateway API allows: they open no ports`,
				`vip edge: Gateway edge/web: listener "q" has protocol "example.org/QUIC", which is none of HTTP, HTTPS, TLS, TCP and UDP: it opens no port`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := testCluster(nil, readyPod("a", "10.1.0.1"))
			c.Gateways, c.ListenerSets = map[GatewayQuery][]*Gateway{}, map[ListenerSetQuery][]*Gateway{}
			for i, q := range test.vip.Gateways {
				if test.unknown != fmt.Sprint(i) {
					c.Gateways[q] = test.gateways[i]
				}
			}
			if test.unknown != "sets" || !test.vip.ListenerSets {
				c.ListenerSets[ListenerSetQuery{}] = test.sets
			}
			cfg := &Config{VIPs: []VIP{test.vip}}
			w := desired(nil, cfg, c, nil, newMemory(), testTime)
			var ports []string
			for _, s := range w.Shards.table() {
				ports = append(ports, Port{s.Port, s.Protocol}.String())
				if len(s.Servers) != 1 {
					t.Errorf("%s has %d real servers", s.ServiceKey, len(s.Servers))
				}
			}
			if got := strings.Join(ports, " "); got != test.ports {
				t.Errorf("ports %s, want %s", got, test.ports)
			}
			if diff := cmp.Diff(test.warnings, warningTexts(w.Warnings)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if _, stays := w.Retained[workKey{"edge", false}]; stays != test.stays {
				t.Errorf("services that only the kernel has stay: %t, want %t", stays, test.stays)
			}
			// What does not depend on what has changed is shared, and another list is noticed.
			if again := desired(&w, cfg, c, nil, w.Memory, testTime); again.vips[0] != w.vips[0] {
				t.Error("the same inputs are computed again")
			}
			last := test.vip.Gateways[len(test.vip.Gateways)-1]
			c.Gateways[last] = []*Gateway{named("late", open(Port{9999, TCP}))}
			if next := desired(&w, cfg, c, nil, w.Memory, testTime); !strings.Contains(next.Shards.table().text(), ":9999/tcp") {
				t.Error("a change of a Gateway changes nothing")
			}
		})
	}
}

// What a tenant writes into Gateways does not decide how much is printed.
func TestDesiredGatewaysAreBounded(t *testing.T) {
	c := testCluster(nil, readyPod("a", "10.1.0.1"))
	v := gatewayVIP(func(v *VIP) { v.Gateways = []GatewayQuery{{Class: "x"}} })
	var all []*Gateway
	for i := range 2000 {
		g := &Gateway{Namespace: "edge", Name: fmt.Sprintf("g%04d", i)}
		for n := range maxListeners {
			name := fmt.Sprint(n) + strings.Repeat("\x00", quotedText-2)
			g.Listeners = append(g.Listeners, Listener{Name: name, Other: strings.Repeat("\x00", quotedText)},
				Listener{Name: name, Port: Port{1, TCP}, Closed: "is not accepted"})
		}
		all = append(all, g)
	}
	c.Gateways = map[GatewayQuery][]*Gateway{v.Gateways[0]: all}
	w := desired(nil, &Config{VIPs: []VIP{v}}, c, nil, newMemory(), testTime)
	if len(w.Warnings) != 2 {
		t.Fatalf("%d warnings, want 2", len(w.Warnings))
	}
	for _, is := range w.Warnings {
		if len(is.Text) > 32<<10 || !strings.HasSuffix(is.Text, fmt.Sprintf("and %d more", 2000*maxListeners-shownWarnings)) {
			t.Errorf("%d bytes: %.300s", len(is.Text), is.Text)
		}
	}
}
