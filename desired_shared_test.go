package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// twoOfOne are two VIPs of one address. Each has its ConfigMap and its pods; the first has
// port 80, and the second 443.
func twoOfOne(edit ...func(web, mail *VIP)) *Config {
	web := testVIP(func(v *VIP) { v.Name = "web" })
	mail := testVIP(func(v *VIP) {
		v.Name, v.Ports, v.Scheduler = "mail", []Port{{443, TCP}}, "wlc"
		v.Pods.Selector, v.TCPServices = "app=mail", ConfigMapName{"ingress-nginx", "mail"}
	})
	for _, e := range edit {
		e(&web, &mail)
	}
	return &Config{VIPs: []VIP{web, mail}}
}

// clusterOfTwo is their cluster. nil for the ports of one means that they are not known.
func clusterOfTwo(web, mail map[string]string) *Cluster {
	c := testCluster(nil, readyPod("web", "10.1.0.1"))
	c.Pods[PodQuery{Namespace: "ingress-nginx", Selector: "app=mail"}] = refs(readyPod("mail", "10.1.0.2"))
	for name, ports := range map[string]map[string]string{"tcp-services": web, "mail": mail} {
		if ports != nil {
			c.ConfigMaps[ConfigMapName{"ingress-nginx", name}] = ConfigMap{Exists: true, Data: ports}
		} else {
			delete(c.ConfigMaps, ConfigMapName{"ingress-nginx", name})
		}
	}
	return c
}

func entries(ports ...string) map[string]string {
	all := map[string]string{}
	for _, p := range ports {
		all[p] = "ns/svc:1"
	}
	return all
}

// Who has a port that both VIPs of an address want: the one that has had it, else the
// first in the file.
func TestDesiredSharesAnAddress(t *testing.T) {
	const (
		http  = "10.0.0.1:80/tcp rr: 10.1.0.1=1\n"
		https = "10.0.0.1:443/tcp wlc: 10.1.0.2=1\n"
	)
	type step struct{ web, mail map[string]string }
	none := entries()
	tests := []struct {
		name  string
		steps []step
		table string
		warns string
	}{
		{"each has its own", []step{{entries("90"), entries("91")}}, http + "10.0.0.1:90/tcp rr: 10.1.0.1=1\n10.0.0.1:91/tcp wlc: 10.1.0.2=1\n" + https, ""},
		{"both want one", []step{{entries("90"), entries("90")}}, http + "10.0.0.1:90/tcp rr: 10.1.0.1=1\n" + https,
			"vip mail: port 10.0.0.1:90/tcp belongs to VIP web, which is before it in the file"},
		{"the second has it already", []step{{none, entries("90")}, {entries("90"), entries("90")}}, http + "10.0.0.1:90/tcp wlc: 10.1.0.2=1\n" + https,
			"vip web: port 10.0.0.1:90/tcp belongs to VIP mail, which has it already"},
		{"until it wants it no more", []step{{none, entries("90")}, {entries("90"), entries("90")}, {entries("90"), none}}, http + "10.0.0.1:90/tcp rr: 10.1.0.1=1\n" + https, ""},
		{"and then the first keeps it", []step{{none, entries("90")}, {entries("90"), none}, {entries("90"), entries("90")}}, http + "10.0.0.1:90/tcp rr: 10.1.0.1=1\n" + https,
			"vip mail: port 10.0.0.1:90/tcp belongs to VIP web, which has it already"},
		{"not while nothing is known of the one that has it", []step{{none, entries("90")}, {entries("90"), nil}}, http + https,
			"vip web: port 10.0.0.1:90/tcp belongs to VIP mail, which has it already"},
		{"a port of the other's configuration", []step{{entries("443"), none}}, http + https,
			"vip web: port 10.0.0.1:443/tcp belongs to VIP mail, which has it in the configuration"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// 80 and 443 are reserved for the configuration.
			cfg := twoOfOne(func(web, mail *VIP) { web.ReservedPorts, mail.ReservedPorts = nil, nil })
			var w wanted
			memory := newMemory()
			for i, s := range tt.steps {
				last := &w
				if i == 0 {
					last = nil
				}
				w = desired(last, cfg, clusterOfTwo(s.web, s.mail), nil, memory, testTime)
				memory = w.Memory
				// The answer does not depend on the one before.
				if alone := desired(nil, cfg, clusterOfTwo(s.web, s.mail), nil, memory, testTime); alone.Shards.table().text() != w.Shards.table().text() {
					t.Errorf("step %d: %s\nand without the one before: %s", i, w.Shards.table().text(), alone.Shards.table().text())
				}
			}
			if diff := cmp.Diff(tt.table, w.Shards.table().text()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warns, strings.Join(warningTexts(w.Warnings), "\n")); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if len(w.Shards) != 1 {
				t.Errorf("%d shards of one address", len(w.Shards))
			}
		})
	}
}
